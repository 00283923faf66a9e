//! The messages between actors, one file per receiver. They carry ids, values and reply channels.

pub(crate) mod engine;
pub(crate) mod scheduler;
pub(crate) mod supervisor;
pub(crate) mod task;
