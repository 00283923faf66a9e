//! What is known of a parked task.

use serde::{Deserialize, Serialize};

use super::id::Id;

/// A task that this build cannot run: nothing is registered under its name, or its arguments, which
/// an earlier build has stored, are not what it takes now. Listed by
/// [`App::parked`](crate::App::parked).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ParkedTask {
    /// The task.
    pub id: Id,
    /// The name that it was submitted under.
    pub name: String,
    /// Why it cannot run. The text may quote the arguments; what is logged does not.
    pub reason: String,
}

impl ParkedTask {
    pub(crate) fn new(id: Id, name: &str, reason: &str) -> Self {
        Self {
            id,
            name: name.to_owned(),
            reason: reason.to_owned(),
        }
    }
}

/// Which of a task's arguments do not decode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Misfit {
    /// The first one at most: it may be the value from upstream.
    First,
    /// Others, or there are too few or too many: so at least one that was stored with the task.
    Stored,
}

/// Why a task is parked that is not registered.
pub(crate) const NOT_REGISTERED: &str = "no task is registered under this name";
