//! The actors. Each owns one state machine and no other part of the workflow. For each message, an
//! actor decides (the machine), records (the journal), and acts once that is durable.
//!
//! All actors of the engine run on one thread, so the journal has all their decisions in one order,
//! and the durable part is always a prefix of it. Only actions (running user code, answering a
//! caller) wait for the disk; decisions continue at once and share the batch being filled.

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

/// Kills the actor if a test or a simulation asks for that. Each kind of actor calls this at one of
/// its events, because no user action kills an actor.
#[inline]
fn fault(_kind: &'static str) {
    #[cfg(test)]
    tests::fault(_kind);
    #[cfg(feature = "__simulation")]
    crate::simulation::fault(_kind);
}
