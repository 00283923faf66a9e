//! The actors. Each owns one state machine and no other part of the workflow. For each message, an
//! actor decides (the machine), records (the journal), and acts once that is durable.
//!
//! All actors of the engine run on one thread, so the journal has all their decisions in one order,
//! and the durable part is always a prefix of it. Only actions (running user code, answering a
//! caller) wait for the disk; decisions continue at once and share the batch being filled.

mod barrier;
pub(crate) mod child;
pub(crate) mod commit;
pub(crate) mod context;
pub(crate) mod dispatch;
pub(crate) mod engine;
mod event_queue;
pub(crate) mod execute;
pub(crate) mod factory;
mod fan_out;
pub(crate) mod handle;
pub(crate) mod scheduler;
mod supervision;
mod supervisor;
pub(crate) mod task;
#[cfg(test)]
mod tests;
