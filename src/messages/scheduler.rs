//! To the scheduler, and from it.

use actix::{Message, Recipient};

use crate::canvas::time::{Earliest, Moment};

/// Wake `who` at this moment.
#[derive(Clone, Debug, Message)]
#[rtype(result = "()")]
pub(crate) struct WakeAt {
    pub(crate) at: Moment,
    pub(crate) who: Recipient<Wake>,
}

/// Wake `who` at the first of these moments, and not when the alarm before was to go off; and each time
/// that the clock was seen to have been set.
#[derive(Clone, Debug, Message)]
#[rtype(result = "()")]
pub(crate) struct SetAlarm {
    pub(crate) at: Earliest,
    pub(crate) who: Recipient<Wake>,
}

/// The time has come.
#[derive(Clone, Copy, Debug, Message)]
#[rtype(result = "()")]
pub(crate) struct Wake;
