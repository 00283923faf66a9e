//! The actors: each owns one machine and nothing else of the workflow. With a message it does
//! three things: decide (the machine), record (the journal), act once that is durable.
//!
//! All actors of the engine live on one thread, so what they decide goes into the journal in one
//! order, and what is durable is always a prefix of it. Only acts (running user code, answering a
//! caller) wait for the disk; decisions flow on at once and share the batch that is being filled.

pub(crate) mod admission_control;
pub(crate) mod attempt;
mod barrier;
pub(crate) mod body;
pub(crate) mod call;
pub(crate) mod cancellation;
pub(crate) mod client;
#[expect(
    clippy::disallowed_methods,
    reason = "the clock is where time and chance come in"
)]
pub(crate) mod clock;
pub(crate) mod dispatcher;
pub(crate) mod engine;
pub(crate) mod engine_context;
mod event_queue;
pub(crate) mod executor;
mod fan_out;
pub(crate) mod inbox;
mod journal;
pub(crate) mod parked;
pub(crate) mod pool;
pub(crate) mod retention_guard;
pub(crate) mod scheduler;
pub(crate) mod shared;
mod staging;
pub(crate) mod store;
mod supervision;
mod supervisor;
pub(crate) mod sweeper;
mod task;
pub(crate) mod task_slab;
#[cfg(test)]
mod tests;
pub(crate) mod user_runtime;

/// Each kind of actor calls this at one of its events, so that a test or a simulation can have it
/// die there: nothing that a user can do kills one.
#[inline]
fn fault(_kind: &'static str) {
    #[cfg(test)]
    tests::fault(_kind);
    #[cfg(feature = "__simulation")]
    crate::simulation::fault(_kind);
}
