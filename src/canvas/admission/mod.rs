//! The limits on what is in memory and on what runs, as pure state machines.

pub(crate) mod backlog;
pub(crate) mod control;
pub(crate) mod pending_limit;
pub(crate) mod queue;
pub(crate) mod rate_window;
pub(crate) mod signature_rate;
pub(crate) mod start_limits;
pub(crate) mod start_pacer;
