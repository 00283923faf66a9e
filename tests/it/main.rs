//! The integration tests: one binary, one module per theme.

mod canvas;
mod macros;
mod property;
mod recovery;
mod tidy;
