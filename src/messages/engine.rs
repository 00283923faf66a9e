//! Messages to the engine. `Submit`, which starts a workflow, is defined beside the actor, because
//! it carries a record.

use actix::Message;

use crate::canvas::admission::backlog::Lane;
use crate::canvas::id::Id;
use crate::canvas::machine::PendingCallback;
use crate::canvas::time::Earliest;

/// The store shows which workflow this idempotency key stands for, or that it stands for none.
#[derive(Clone, Debug, Message)]
#[rtype(result = "()")]
pub(crate) struct KeyIsDurable {
    pub(crate) key: String,
    pub(crate) workflow: Option<Id>,
}

/// A recorded callback to run. Sent through the event queue, so that the end of its launcher cannot
/// overtake it.
#[derive(Clone, Debug)]
pub(crate) struct Launch {
    pub(crate) root: Id,
    pub(crate) callback: PendingCallback,
}

/// The store shows a decision on a workflow that waits or is resumed.
#[derive(Clone, Copy, Debug, Message)]
#[rtype(result = "()")]
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

/// A running task waits for this workflow.
#[derive(Clone, Copy, Debug, Message)]
#[rtype(result = "()")]
pub(crate) struct Wanted(pub(crate) Id);

/// Deletes the workflows whose retention has passed.
#[derive(Clone, Copy, Debug, Message)]
#[rtype(result = "()")]
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
