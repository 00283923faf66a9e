//! Grants slots to the tasks that are ready to run.

pub(crate) mod dispatcher;
pub(crate) mod permit;
