//! To an actor that has children: engine, group, chord, chain; and from barriers to their owners.

use actix::{Message, Recipient};

use crate::canvas::id::Id;
use crate::canvas::machine::{Index, Report, Verdict};
use crate::canvas::outcome::Outcome;

/// A child has ended. A group's and a header's go to their barrier, all others to the supervisor.
#[derive(Clone, Debug, Message)]
#[rtype(result = "()")]
pub(crate) struct ChildEnded {
    pub(crate) root: Id,
    pub(crate) index: Index,
    pub(crate) report: Report,
}

/// A child's actor is gone.
#[derive(Clone, Debug, Message)]
#[rtype(result = "()")]
pub(crate) struct ChildStopped {
    pub(crate) root: Id,
    pub(crate) index: Index,
    /// It had not reported: it panicked.
    pub(crate) lost: bool,
}

/// What a lost child had recorded is durable: start it again.
#[derive(Clone, Debug, Message)]
#[rtype(result = "()")]
pub(crate) struct Respawn {
    pub(crate) root: Id,
    pub(crate) index: Index,
}

/// A member of a fold has ended, and its outcome is recorded.
#[derive(Clone, Debug, Message)]
#[rtype(result = "()")]
pub(crate) struct Arrived {
    pub(crate) index: Index,
    pub(crate) outcome: Outcome,
}

/// To a barrier: whoever is to be told of each outcome.
#[derive(Clone, Debug, Message)]
#[rtype(result = "()")]
pub(crate) struct Follow(pub(crate) Recipient<Arrived>);

/// The barrier has decided.
#[derive(Clone, Debug, Message)]
#[rtype(result = "()")]
pub(crate) struct Decided(pub(crate) Verdict);
