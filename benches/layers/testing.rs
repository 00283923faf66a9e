//! The hooks that the layers call.

#[path = "../../src/testing/failpoint.rs"]
pub(crate) mod failpoint;
#[path = "../../src/testing/negative_control.rs"]
pub(crate) mod negative_control;
