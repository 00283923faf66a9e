//! Messages to a task.

use actix::Message;

use tokio::sync::oneshot;

use crate::actors::dispatch::permit::Permit;
use crate::canvas::machine::Purpose;
use crate::canvas::machine::subtasks::SubtaskPlan;
use crate::canvas::machine::task::AttemptOutcome;
use crate::canvas::outcome::Outcome;

/// Gives the task a slot.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(crate) struct Granted(pub(crate) Permit);

/// The task has left quarantine, to run again or to fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Message)]
#[rtype(result = "()")]
pub(crate) enum Released {
    ToRun,
    ToFail,
}

/// An actor above the task may be lost, or the task revoked. The task checks both before each
/// event, so this message needs no content.
#[derive(Clone, Copy, Debug, Message)]
#[rtype(result = "()")]
pub(crate) struct Recheck;

/// An attempt has ended.
#[derive(Debug)]
pub(crate) struct Finished {
    pub(crate) attempt: u32,
    pub(crate) outcome: AttemptOutcome,
    /// Released when the actor has handled the message. `None`: a blocking body that exceeded its
    /// limit keeps the slot.
    pub(crate) permit: Option<Permit>,
}

/// A running attempt starts a subtask.
#[derive(Debug)]
pub(crate) struct StartSubtask {
    pub(crate) attempt: u32,
    pub(crate) purpose: Purpose,
    pub(crate) key: String,
    pub(crate) plan: SubtaskPlan,
    /// For a call: receives the outcome once that is durable. Dropped if the attempt is over.
    pub(crate) answer: Option<oneshot::Sender<Outcome>>,
}

/// A running attempt that gave its slot back while it waited needs one again.
#[derive(Debug)]
pub(crate) struct ReacquireSlot(pub(crate) oneshot::Sender<Permit>);
