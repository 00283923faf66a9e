//! Messages to the engine.

use actix::Message;
use tokio::sync::oneshot;

use crate::actors::engine::staged::Staged;
use crate::backend::admission_control::Reservation;
use crate::backend::retention_guard::RetentionGuard;
use crate::canvas::admission::backlog::Lane;
use crate::canvas::admission::control::{ControlChange, ControlTarget};
use crate::canvas::freeze::{Node, TaskDef};
use crate::canvas::id::{Id, Seq};
use crate::canvas::parked::ParkedTask;
use crate::canvas::quarantine::policy::Released;
use crate::canvas::revocation::NodeKey;
use crate::canvas::schedule::{Change, ScheduleEntry, Work};
use crate::canvas::time::Earliest;
use crate::canvas::why;
use crate::error::{Error, Result};

/// A message to the engine.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(crate) enum EngineMessage {
    FindByKey(FindByKey),
    Confirm(Confirm),
    EndPause(EndPause),
    Control(Control),
    Release(Release),
    Forget(Forget),
    ChangeSchedule(Box<ChangeSchedule>),
    /// Lists the entries of all schedules.
    ListSchedules(oneshot::Sender<Vec<ScheduleEntry>>),
    /// Asks what a task waits for.
    Why(Why),
    Revoke(Revoke),
    /// A running task waits for this workflow.
    Wanted(Id),
    Sweep(Sweep),
    KeyIsDurable(KeyIsDurable),
    Stored(Stored),
    /// The decision on a [`Revoke`] is durable.
    RevocationDurable(Revoke),
}

/// Stores and starts a workflow. `durable` receives, once that is durable, the guard of the
/// workflow that the handle is for: this one, or an earlier one with the same idempotency key. It
/// is dropped if the engine halts first.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(crate) struct Submit {
    pub(crate) root_id: Id,
    pub(crate) root: Node,
    /// The encoded header, which is the commit marker.
    pub(crate) header: Vec<u8>,
    /// The first free node number.
    pub(crate) next: Seq,
    pub(crate) idempotency_key: Option<String>,
    /// The task that submits the workflow, if one does.
    pub(crate) by: Option<Id>,
    /// The parts that are in the store already.
    pub(crate) staged: Staged,
    pub(crate) reservation: Reservation,
    /// The guard keeps the workflow from being swept before the caller has its handle.
    pub(crate) durable: oneshot::Sender<RetentionGuard>,
}

/// Looks up the workflow that was submitted with this key; `durable` is dropped if none was.
#[derive(Debug)]
pub(crate) struct FindByKey {
    pub(crate) key: String,
    /// As in [`Submit`].
    pub(crate) durable: oneshot::Sender<RetentionGuard>,
}

/// Waits until everything that has been decided so far is durable.
#[derive(Debug)]
pub(crate) struct Confirm {
    /// Dropped if the engine halts first.
    pub(crate) done: oneshot::Sender<Result<(), Error>>,
}

/// Starts the ready tasks of an app that was started paused.
#[derive(Debug)]
pub(crate) struct EndPause {
    pub(crate) done: oneshot::Sender<()>,
}

/// Changes the settings of a queue or a task.
#[derive(Debug)]
pub(crate) struct Control {
    pub(crate) target: ControlTarget,
    pub(crate) change: ControlChange,
    /// Answered once that is durable. Dropped if the engine halts first.
    pub(crate) done: oneshot::Sender<Result<()>>,
}

/// Releases a task from quarantine.
#[derive(Debug)]
pub(crate) struct Release {
    pub(crate) id: Id,
    pub(crate) released: Released,
    /// The task, if it is not in quarantine but parked, or will be parked when it is admitted.
    pub(crate) parked: Option<ParkedTask>,
    /// Answered once the release is durable. Dropped if the engine halts first.
    pub(crate) done: oneshot::Sender<Result<()>>,
}

/// Changes an entry of the schedules.
#[derive(Debug)]
pub(crate) struct ChangeSchedule {
    pub(crate) name: String,
    pub(crate) change: Change<Work>,
    /// Answered once that is durable, with the workflow that a trigger submitted. Dropped if the
    /// engine halts first.
    pub(crate) done: oneshot::Sender<Result<Option<Id>>>,
}

/// Deletes a workflow's result as soon as it has ended.
#[derive(Debug)]
pub(crate) struct Forget {
    pub(crate) root: Id,
    /// Answered once that is durable. Dropped if the engine halts first.
    pub(crate) done: oneshot::Sender<Result<()>>,
}

/// Asks what a task waits for that the store does not show.
#[derive(Debug)]
pub(crate) struct Why {
    pub(crate) id: Id,
    pub(crate) def: Box<TaskDef>,
    /// Answered with nothing if it waits neither for a slot nor for a trial.
    pub(crate) done: oneshot::Sender<Vec<why::Why>>,
}

/// Revokes a node.
#[derive(Debug)]
pub(crate) struct Revoke {
    pub(crate) root: Id,
    pub(crate) node: NodeKey,
    /// Answered once that is durable: whether every record that may have been on its way is
    /// settled. Dropped if the engine halts first.
    pub(crate) settled: oneshot::Sender<bool>,
}

/// The store shows which workflow this idempotency key stands for, or that it stands for none.
#[derive(Clone, Debug)]
pub(crate) struct KeyIsDurable {
    pub(crate) key: String,
    pub(crate) workflow: Option<Id>,
}

/// The store shows a decision on a workflow that waits or is resumed.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Stored {
    /// The workflow waits for capacity in this lane, with this priority.
    Waits(Lane, Id, u8),
    /// A workflow waits for the first of these moments.
    WaitsUntil(Earliest),
    /// The workflow's waiting record is deleted.
    Moved(Id),
    /// The workflow waits, and was forgotten.
    Forgotten(Id),
    /// The workflows of the last resume step are resumed.
    Resumed,
    /// All workflows that were live before a restart are resumed.
    AllResumed,
}

/// Deletes the workflows whose retention has passed.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Sweep {
    Start,
    /// The store has applied the last sweep's deletions.
    Done,
}

/// Stops starting tasks, lets running ones end until the grace period is over, then stops the
/// engine.
#[derive(Clone, Copy, Debug, Message)]
#[rtype(result = "()")]
pub(crate) struct Shutdown {
    pub(crate) grace: std::time::Duration,
}
