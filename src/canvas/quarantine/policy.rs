//! Quarantined tasks and the policy for them.

use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use crate::canvas::id::Id;

/// A task that has crashed the process too often. It waits until it is requeued or discarded.
/// Listed by [`App::quarantined`](crate::App::quarantined).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct QuarantinedTask {
    /// The id of the task.
    pub id: Id,
    /// The name under which it is registered.
    pub name: String,
    /// How often the process crashed while the task was running.
    pub crashes: u32,
    /// When the last of these crashes was detected.
    pub since: SystemTime,
}

/// The policy for a task that has crashed the process too often. Set with
/// [`AppBuilder::quarantine`](crate::AppBuilder::quarantine).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum QuarantinePolicy {
    /// The task is kept in state [`Quarantined`](crate::State::Quarantined) until
    /// [`App::requeue`](crate::App::requeue) or [`App::discard`](crate::App::discard) is called.
    /// Tasks that depend on it wait.
    #[default]
    Keep,
    /// The task fails, as with [`App::discard`](crate::App::discard): its errbacks run, a chord
    /// that it belongs to fails, and the workflow ends.
    Discard,
}

/// The function that is called with each quarantined task.
#[derive(Clone)]
pub(crate) struct QuarantineHook(Arc<dyn Fn(&QuarantinedTask) + Send + Sync>);

impl QuarantineHook {
    pub(crate) fn new(hook: impl Fn(&QuarantinedTask) + Send + Sync + 'static) -> Self {
        Self(Arc::new(hook))
    }

    pub(crate) fn call(&self, task: &QuarantinedTask) {
        (self.0)(task);
    }
}

impl fmt::Debug for QuarantineHook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("QuarantineHook")
    }
}

/// A task has left quarantine, to run again or to fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Released {
    ToRun,
    ToFail,
}
