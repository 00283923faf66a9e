//! What is known of a task in quarantine, and what becomes of it.

use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use super::id::Id;

/// A task that has ended the process too often: it waits until somebody decides what becomes of it.
/// Listed by [`App::quarantined`](crate::App::quarantined).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct QuarantinedTask {
    /// The task.
    pub id: Id,
    /// The name that it is registered under.
    pub name: String,
    /// How often the process ended while it was running.
    pub crashes: u32,
    /// When the last of these was found out.
    pub since: SystemTime,
}

/// What becomes of a task that has ended the process too often.
/// Set with [`AppBuilder::quarantine`](crate::AppBuilder::quarantine).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum QuarantinePolicy {
    /// It is kept, in state [`Quarantined`](crate::State::Quarantined), until
    /// [`App::requeue`](crate::App::requeue) or [`App::discard`](crate::App::discard) is called. What
    /// depends on it waits.
    #[default]
    Keep,
    /// It fails, as with [`App::discard`](crate::App::discard): its errbacks run, a chord that it
    /// belongs to fails, and the workflow ends.
    Discard,
}

/// The function that is told of each quarantined task.
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
