//! Parked tasks.

use serde::{Deserialize, Serialize};

use super::id::Id;

/// A task that this build cannot run: no task is registered under its name, or its arguments,
/// stored by an earlier build, do not fit its parameters now. Listed by
/// [`App::parked`](crate::App::parked).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ParkedTask {
    /// The id of the task.
    pub id: Id,
    /// The name under which it was submitted.
    pub name: String,
    /// Why it cannot run. The text may quote the arguments; the log does not.
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

/// Which arguments of a task do not decode.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Misfit {
    /// At most the first one, which may be the upstream value.
    First,
    /// Others, or too few or too many: at least one of them was stored with the task.
    Stored,
}

/// The reason for parking a task that is not registered.
pub(crate) const NOT_REGISTERED: &str = "no task is registered under this name";
