//! What actors say to each other, one file per receiver: ids and values, and who is to answer.

pub(crate) mod dispatcher;
pub(crate) mod engine;
pub(crate) mod scheduler;
pub(crate) mod supervisor;
pub(crate) mod task;
