//! What can be changed of queues and tasks while an app runs.

use serde::{Deserialize, Serialize};

/// A queue or a task, for [`App::controls`](crate::App::controls).
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum ControlTarget {
    /// The queue with this name.
    Queue(String),
    /// The task that is registered under this name.
    Task(String),
}

/// What was set for a queue or a task with a call of the app.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Control {
    /// The queue or the task.
    pub target: ControlTarget,
    /// No attempt starts.
    pub is_paused: bool,
    /// How many attempts run at once, if that was set.
    pub concurrency: Option<u64>,
}

/// What is set for a queue or a task, as it is stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Settings {
    pub(crate) is_paused: bool,
    pub(crate) concurrency: Option<u64>,
}

/// A change of the settings of a queue or a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ControlChange {
    Pause,
    Resume,
    /// `None`: what the code says.
    Concurrency(Option<u64>),
}

impl Settings {
    pub(crate) fn with(self, change: ControlChange) -> Self {
        match change {
            ControlChange::Pause => Self {
                is_paused: true,
                ..self
            },
            ControlChange::Resume => Self {
                is_paused: false,
                ..self
            },
            ControlChange::Concurrency(concurrency) => Self {
                concurrency,
                ..self
            },
        }
    }

    /// Returns the settings as users see them.
    pub(crate) fn of(self, target: ControlTarget) -> Control {
        Control {
            target,
            is_paused: self.is_paused,
            concurrency: self.concurrency,
        }
    }
}
