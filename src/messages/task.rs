//! To a task.

use actix::Message;

use tokio::sync::oneshot;

use super::dispatcher::Permit;
use crate::canvas::machine::Purpose;
use crate::canvas::machine::subtasks::SubtaskPlan;
use crate::canvas::machine::task::AttemptOutcome;
use crate::canvas::outcome::Outcome;

/// A slot is free for it.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(crate) struct Granted(pub(crate) Permit);

/// It has left quarantine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Message)]
#[rtype(result = "()")]
pub(crate) enum Released {
    ToRun,
    ToFail,
}

/// It may have lost who is above it, or be revoked: it finds out before each event, and this is one.
#[derive(Clone, Copy, Debug, Message)]
#[rtype(result = "()")]
pub(crate) struct Recheck;

/// An attempt has ended.
#[derive(Debug)]
pub(crate) struct Finished {
    pub(crate) attempt: u32,
    pub(crate) end: AttemptOutcome,
    /// Given back when the message has been heard; a blocking body that overran its limit keeps it.
    pub(crate) permit: Option<Permit>,
}

/// A running attempt wants a child.
#[derive(Debug)]
pub(crate) struct StartSubtask {
    pub(crate) attempt: u32,
    pub(crate) purpose: Purpose,
    pub(crate) key: String,
    pub(crate) graft: SubtaskPlan,
    /// For a call: where the outcome goes, once it is durable. It is dropped if the attempt is
    /// over.
    pub(crate) answer: Option<oneshot::Sender<Outcome>>,
}

/// A running attempt that gave its slot back while it waited wants one again.
#[derive(Debug)]
pub(crate) struct ReacquireSlot(pub(crate) oneshot::Sender<Permit>);
