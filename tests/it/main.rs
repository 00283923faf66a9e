//! The integration tests: one binary, one module per theme.

mod backlog;
mod canvas;
mod celery_json;
mod disk;
mod drain;
mod durability;
mod eager;
mod errors;
mod fold;
mod fuzz;
mod golden;
mod hostile;
mod lazy;
mod macros;
mod panics;
mod parameters;
mod payloads;
mod pending;
mod points;
mod property;
mod quarantine;
mod recovery;
mod results;
mod salvage;
mod tidy;
mod upkeep;
