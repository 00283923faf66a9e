//! Hooks for this repository's tests and tools. Each does nothing in a build without its private
//! feature, so that the files that call them need no `cfg`.

#[cfg(any(test, feature = "__fuzzing"))]
pub(crate) mod catalogue;
pub(crate) mod failpoint;
#[cfg(test)]
pub(crate) mod faults;
#[cfg(feature = "__fuzzing")]
pub mod fuzzing;
pub(crate) mod hooks;
pub(crate) mod negative_control;
#[cfg(feature = "__simulation")]
pub(crate) mod simulation;
