//! Runs user code on the application's threads, and carries its messages to the engine.

pub(crate) mod attempt;
pub(crate) mod body;
pub(crate) mod call;
pub(crate) mod cancellation;
pub(crate) mod executor;
pub(crate) mod inbox;
