//! To the engine: workflows to start, callbacks to run, the end of it all.

use actix::Message;
use tokio::sync::oneshot;

use crate::canvas::freeze::Node;
use crate::canvas::id::{Id, Seq};
use crate::canvas::machine::Due;

/// A workflow to store and start. `durable` is told, once it is so, which workflow the handle is
/// for: this one, or an earlier one with the same idempotency key. It is dropped if the engine
/// halts first.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(crate) struct Submit {
    pub(crate) root_id: Id,
    pub(crate) root: Node,
    /// The encoded head: its commit marker.
    pub(crate) head: Vec<u8>,
    /// The first node number that is free.
    pub(crate) next: Seq,
    pub(crate) idempotency_key: Option<String>,
    pub(crate) durable: oneshot::Sender<Id>,
}

/// The submission with this key is durable: the store knows it.
#[derive(Clone, Debug, Message)]
#[rtype(result = "()")]
pub(crate) struct KeyIsDurable(pub(crate) String);

/// A callback that is on record and is to run.
#[derive(Clone, Debug, Message)]
#[rtype(result = "()")]
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
