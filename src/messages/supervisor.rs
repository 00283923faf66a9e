//! To an actor that has children: engine, group, chord, chain, task; and from barriers to their
//! owners.

use actix::Message;

use super::engine::Launch;
use crate::canvas::id::Id;
use crate::canvas::machine::{Index, Report, Verdict};
use crate::canvas::outcome::Outcome;

/// There is mail from children: [`ChildEvent`]s to collect. They come in crowds, so that one message
/// serves for many.
#[derive(Clone, Copy, Debug, Message)]
#[rtype(result = "()")]
pub(crate) struct EventsReady;

/// What a child says.
#[derive(Clone, Debug)]
pub(crate) enum ChildEvent {
    Ended(ChildEnded),
    Exited(ChildExited),
    /// To the engine only. (Boxed: the others are small, and many.)
    Launch(Box<Launch>),
    /// To a fold only.
    Arrived(Arrived),
}

/// A child has ended. A group's and a header's go to their barrier, all others to the supervisor.
#[derive(Clone, Debug)]
pub(crate) struct ChildEnded {
    pub(crate) root: Id,
    pub(crate) index: Index,
    pub(crate) report: Report,
}

/// A child's actor is gone.
#[derive(Clone, Debug)]
pub(crate) struct ChildExited {
    pub(crate) root: Id,
    pub(crate) index: Index,
    /// It had not reported: it panicked.
    pub(crate) lost: bool,
}

/// What a lost child had recorded is durable: start it again.
#[derive(Clone, Debug, Message)]
#[rtype(result = "()")]
pub(crate) struct RestartChild {
    pub(crate) root: Id,
    pub(crate) index: Index,
}

/// A member of a fold has ended, and its outcome is recorded: from the barrier.
#[derive(Clone, Debug)]
pub(crate) struct Arrived {
    pub(crate) index: Index,
    pub(crate) outcome: Outcome,
}

/// The barrier has decided.
#[derive(Clone, Debug, Message)]
#[rtype(result = "()")]
pub(crate) struct Decided(pub(crate) Verdict);
