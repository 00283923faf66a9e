//! The states of a task, with Celery's names.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The state of a task, chain, group or chord (celery/states.py).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
#[non_exhaustive]
pub enum State {
    /// Submitted. No attempt has started, perhaps because the task waits for its [start
    /// time](crate::Signature::countdown).
    Pending,
    /// An attempt has started (for a chain, group or chord: one of its tasks has).
    Started,
    /// An attempt has failed, or was cut short and cannot run again yet, and the next one waits for
    /// its time.
    Retry,
    /// The process has [crashed too often](crate::App::quarantined) while the task was running. The
    /// task waits until it is requeued or discarded.
    Quarantined,
    /// Ended with a value.
    Success,
    /// Ended with a [`TaskFailure`](crate::TaskFailure).
    Failure,
    /// [Revoked](crate::AsyncResult::revoke), or it will never run because it
    /// [expired](crate::Signature::expires) before it could start, is a callback whose task failed,
    /// or is an errback whose task did not fail.
    Revoked,
}

impl State {
    /// Returns whether the state is final: success, failure or revoked.
    ///
    /// ```
    /// use chordal::State;
    /// assert!(State::Revoked.is_ready());
    /// assert!(!State::Retry.is_ready());
    /// ```
    #[must_use]
    pub fn is_ready(self) -> bool {
        matches!(self, Self::Success | Self::Failure | Self::Revoked)
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Pending => "PENDING",
            Self::Started => "STARTED",
            Self::Retry => "RETRY",
            Self::Quarantined => "QUARANTINED",
            Self::Success => "SUCCESS",
            Self::Failure => "FAILURE",
            Self::Revoked => "REVOKED",
        })
    }
}
