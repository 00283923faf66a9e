//! What handles and task contexts have of the engine, or of eager mode: the durable view that they read, and
//! the runtime on which they read it.

pub(crate) mod pool;
pub(crate) mod retention_guard;
pub(crate) mod user_runtime;
pub(crate) mod view;
