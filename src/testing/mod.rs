//! Hooks for this repository's tests and tools. Each does nothing in a build without its private feature, so that
//! the files that call them need no `cfg`.

pub(crate) mod failpoint;
#[cfg(feature = "__fuzzing")]
pub mod fuzzing;
pub(crate) mod negative_control;
#[cfg(feature = "__simulation")]
pub mod simulation;
