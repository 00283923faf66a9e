//! To the engine: callbacks to run, the end of it all. What starts a workflow is `Submit`, beside
//! the actor, because it carries a record.

use actix::Message;

use crate::canvas::id::Id;
use crate::canvas::machine::Due;

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
    pub(crate) due: Due,
}

/// Start no task any more, let those that run end until the grace is over, then stop.
#[derive(Clone, Copy, Debug, Message)]
#[rtype(result = "()")]
pub(crate) struct Shutdown {
    pub(crate) grace: std::time::Duration,
}
