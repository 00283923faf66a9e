//! Files and directories that both engines on disk use: what is opened stays opened, what is
//! written is made durable, and errors say what and where.

pub(crate) mod aborts;
pub(crate) mod closed_copy;
pub(crate) mod data_dir;
pub(crate) mod dir;
pub(crate) mod engine_dir;
pub(crate) mod files;
#[expect(
    clippy::disallowed_methods,
    reason = "a store draws its id: nothing is decided by that"
)]
pub(crate) mod identity;
pub(crate) mod panic_guard;
pub(crate) mod threads;
pub(crate) mod watermark;
