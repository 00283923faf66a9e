//! Messages to a task.

use std::sync::Arc;

use actix::Message;

use tokio::sync::oneshot;

use crate::actors::dispatch::permit::Permit;
use crate::backend::updates::UpdateCell;
use crate::canvas::freeze::SubtaskPlan;
use crate::canvas::machine::Purpose;
use crate::canvas::machine::task::AttemptOutcome;
use crate::canvas::outcome::Outcome;
use crate::canvas::quarantine::policy::Released;

/// Identifies one task's actor; a later task in the same entry has another key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct TaskKey {
    pub(crate) index: u32,
    /// The number of earlier tasks in this entry.
    pub(crate) generation: u32,
}

/// A message to a task's actor.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(crate) enum TaskMessage {
    /// Assigns the task with this key to an idle actor.
    Assign(TaskKey),
    /// Gives the task a slot.
    Granted(Permit),
    Released(Released),
    /// An actor above the task may be lost, or the task revoked. The task checks both before each
    /// event, so this message needs no content.
    Recheck,
    /// From an attempt of the task with this key. The actor may run another task by now.
    FromAttempt(TaskKey, AttemptMessage),
}

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

/// A message from an attempt to its task's actor.
#[derive(Debug)]
pub(crate) enum AttemptMessage {
    Finished(Finished),
    StartSubtask(StartSubtask),
    /// The attempt waits for other tasks, without its slot.
    WaitsForTasks,
    ReacquireSlot(ReacquireSlot),
    /// The attempt with this number has reported its first update, in this cell.
    Updates(u32, Arc<UpdateCell>),
}
