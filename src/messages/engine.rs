//! To the engine: callbacks to run, the end of it all. What starts a workflow is `Submit`, beside
//! the actor, because it carries a record.

use actix::Message;

use crate::canvas::id::Id;
use crate::canvas::machine::PendingCallback;
use crate::canvas::machine::backlog::Lane;
use crate::canvas::time::Earliest;

/// The store knows which workflow this idempotency key stands for, or that it stands for none.
#[derive(Clone, Debug, Message)]
#[rtype(result = "()")]
pub(crate) struct KeyIsDurable {
    pub(crate) key: String,
    pub(crate) workflow: Option<Id>,
}

/// A callback that is on record and is to run. It comes by post: the end of what called for it must
/// not overtake it.
#[derive(Clone, Debug)]
pub(crate) struct Launch {
    pub(crate) root: Id,
    pub(crate) due: PendingCallback,
}

/// The store shows what has become of a workflow that waits, or goes on.
#[derive(Clone, Copy, Debug, Message)]
#[rtype(result = "()")]
pub(crate) enum Stored {
    /// It waits for a place in this lane, with this priority.
    Waits(Lane, Id, u8),
    /// It waits for the first of these moments.
    WaitsUntil(Earliest),
    /// It is no longer where it waited.
    Moved(Id),
    /// It waits, and was forgotten.
    Forgotten(Id),
    /// Those that were gone on with last, after a restart, are on their way again.
    Resumed,
    /// And they were the last.
    AllResumed,
}

/// A running task waits for this workflow.
#[derive(Clone, Copy, Debug, Message)]
#[rtype(result = "()")]
pub(crate) struct Wanted(pub(crate) Id);

/// Take away what is kept for nobody.
#[derive(Clone, Copy, Debug, Message)]
#[rtype(result = "()")]
pub(crate) enum Sweep {
    Start,
    /// The store has heard of what the last look has found.
    Done,
}

/// Start no task any more, let those that run end until the grace is over, then stop.
#[derive(Clone, Copy, Debug, Message)]
#[rtype(result = "()")]
pub(crate) struct Shutdown {
    pub(crate) grace: std::time::Duration,
}
