//! The integration tests: one binary, one module per theme.

mod backlog;
mod canvas;
mod celery_json;
mod durability;
mod eager;
mod errors;
mod fold;
mod lazy;
mod macros;
mod parameters;
mod property;
mod recovery;
mod results;
mod tidy;
mod upkeep;
