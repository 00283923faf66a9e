//! Messages to an actor that has children (engine, group, chord, chain, task), and from barriers to
//! their owners.

use actix::Message;

use crate::canvas::id::Id;
use crate::canvas::machine::{Decision, Index, PendingCallback, Report};
use crate::canvas::outcome::Outcome;

/// The event queue holds [`ChildEvent`]s. They come in crowds, so that one message serves for many.
#[derive(Clone, Copy, Debug, Message)]
#[rtype(result = "()")]
pub(crate) struct EventsReady;

/// An event of a child.
#[derive(Clone, Debug)]
pub(crate) enum ChildEvent {
    Ended(ChildEnded),
    Exited(ChildExited),
    /// To the engine only. (Boxed: the other variants are small, and frequent.)
    Launch(Box<Launch>),
    /// To a fold only.
    Arrived(Arrived),
}

/// A recorded callback to run. Sent through the event queue, so that the end of its launcher cannot
/// overtake it.
#[derive(Clone, Debug)]
pub(crate) struct Launch {
    pub(crate) root: Id,
    pub(crate) callback: PendingCallback,
}

/// A child has ended. Children of a group or a header send it to their barrier, all others to their
/// supervisor.
#[derive(Clone, Debug)]
pub(crate) struct ChildEnded {
    pub(crate) root: Id,
    pub(crate) index: Index,
    pub(crate) report: Report,
}

/// A child's actor has stopped.
#[derive(Clone, Debug)]
pub(crate) struct ChildExited {
    pub(crate) root: Id,
    pub(crate) index: Index,
    /// The actor stopped without a report: it panicked.
    pub(crate) lost: bool,
}

/// Restarts a lost child: everything that it had recorded is durable.
#[derive(Clone, Debug, Message)]
#[rtype(result = "()")]
pub(crate) struct RestartChild {
    pub(crate) root: Id,
    pub(crate) index: Index,
}

/// A member of a fold has ended, and its outcome is recorded. Sent by the barrier.
#[derive(Clone, Debug)]
pub(crate) struct Arrived {
    pub(crate) index: Index,
    pub(crate) outcome: Outcome,
}

/// The barrier has decided.
#[derive(Clone, Debug, Message)]
#[rtype(result = "()")]
pub(crate) struct Decided(pub(crate) Decision);
