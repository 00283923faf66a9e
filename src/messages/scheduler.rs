//! To the scheduler, and from it.

use actix::{Message, Recipient};

/// Wake `who` at `at_ms`, milliseconds since the Unix epoch.
#[derive(Clone, Debug, Message)]
#[rtype(result = "()")]
pub(crate) struct WakeAt {
    pub(crate) at_ms: u64,
    pub(crate) who: Recipient<Wake>,
}

/// Wake `who` at `at_ms`, and not when the alarm before was to go off.
#[derive(Clone, Debug, Message)]
#[rtype(result = "()")]
pub(crate) struct SetAlarm {
    pub(crate) at_ms: u64,
    pub(crate) who: Recipient<Wake>,
}

/// The time has come.
#[derive(Clone, Copy, Debug, Message)]
#[rtype(result = "()")]
pub(crate) struct Wake;
