//! The hooks that the layers call, and what their tests use.

#[cfg(test)]
#[path = "../../src/testing/catalogue.rs"]
pub(crate) mod catalogue;
#[path = "../../src/testing/failpoint.rs"]
pub(crate) mod failpoint;
#[path = "../../src/testing/negative_control.rs"]
pub(crate) mod negative_control;
