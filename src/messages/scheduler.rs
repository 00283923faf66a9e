//! Messages to the scheduler, and from it.

use actix::{Message, Recipient};

use crate::canvas::time::{Earliest, Moment};

/// Wakes `recipient` at this moment.
#[derive(Clone, Debug, Message)]
#[rtype(result = "()")]
pub(crate) struct WakeAt {
    pub(crate) at: Moment,
    pub(crate) recipient: Recipient<Wake>,
}

/// Wakes `recipient` at the first of these moments, in place of its earlier alarm; and each time
/// the clock is seen to have been set.
#[derive(Clone, Debug, Message)]
#[rtype(result = "()")]
pub(crate) struct SetAlarm {
    pub(crate) at: Earliest,
    pub(crate) recipient: Recipient<Wake>,
}

/// The requested time has come.
#[derive(Clone, Copy, Debug, Message)]
#[rtype(result = "()")]
pub(crate) struct Wake;
