//! Why a workflow or one of its tasks waits.

use std::fmt;
use std::ops::Range;
use std::time::SystemTime;

use serde::Serialize;

use super::id::Id;

/// How many ranges [`Why::Barrier::missing`] holds at most.
pub(crate) const MISSING_RANGES: usize = 100;

/// What a workflow or one of its tasks waits for, from [`App::why`](crate::App::why).
///
/// Its `Display` is one English sentence without a full stop.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub enum Why {
    /// An earlier part must end first: the step before it or, of a callback, its task; of a chain,
    /// the step that the chain is at.
    Step {
        /// The id of that part.
        id: Id,
        /// The name of that task, or `chain`, `group`, `chord` or `fold`.
        name: String,
    },
    /// A group, chord or fold waits for its members, or the body of one does.
    Barrier {
        /// The id of the group, chord or fold.
        id: Id,
        /// How many members have ended, with a value or not.
        arrived: u64,
        /// How many members there are.
        of: u64,
        /// The indices of the members that have not ended, in order; the first 100 ranges.
        missing: Vec<Range<u64>>,
    },
    /// Too many tasks of its queue run: all slots for its kind of task, async or blocking, are
    /// taken.
    Queue {
        /// The name of the queue.
        queue: String,
        /// How many tasks are before it, plus one: by priority, then by arrival. (A task that is
        /// passed over too often goes first nevertheless.)
        position: usize,
        /// How many tasks wait for these slots.
        waiting: usize,
    },
    /// Its time has not come: the end of its countdown, or its eta.
    Time {
        /// The earliest start, by the machine's clock as it is set now.
        at: SystemTime,
    },
    /// An attempt has failed, and the next one is due later.
    Retry {
        /// When the next attempt is due, by the machine's clock as it is set now.
        at: SystemTime,
        /// The number of the next attempt, counted from 1.
        attempt: u32,
    },
    /// The workflow waits in the store until fewer workflows that start in this queue are
    /// [live](crate::AppBuilder::live_workflows).
    Backlog {
        /// The name of the queue.
        queue: String,
    },
    /// A limit on starts allows none now.
    Limit {
        /// What the limit counts, such as ``the task `mail` `` or ``the limit `stripe` ``.
        of: String,
        /// The key whose share is used up, if the limit is divided by keys.
        key: Option<String>,
        /// When the limit next allows a start, by the machine's clock as it is set now; `None` if
        /// that depends on the end of a running attempt.
        at: Option<SystemTime>,
    },
    /// Its [breaker](crate::AppBuilder::breaker) is open.
    Breaker {
        /// The name of the breaker.
        breaker: String,
        /// When a task may probe, by the machine's clock as it is set now; `None` while one does.
        at: Option<SystemTime>,
    },
    /// Its queue is [paused](crate::App::pause_queue).
    PausedQueue {
        /// The name of the queue.
        queue: String,
    },
    /// Its task is [paused](crate::App::pause_task).
    PausedTask {
        /// The name of the task.
        task: String,
    },
    /// The app was [started paused](crate::AppBuilder::paused).
    PausedApp,
    /// No task is registered under its name.
    Unregistered {
        /// The name.
        task: String,
    },
    /// Its arguments, stored by an earlier build, do not fit the parameters of the task now.
    Misfit {
        /// The name of the task.
        task: String,
        /// What does not fit. The text may quote the arguments.
        reason: String,
    },
    /// The task is in [quarantine](crate::App::quarantined).
    Quarantine,
    /// The process has crashed while the task, or another one, was running. The suspects are tried
    /// before it may start.
    Trial,
    /// Another canvas runs [in its place](crate::TaskContext::replace).
    Replacement {
        /// The id of the replacement.
        id: Id,
    },
    /// Its group starts only so many members at once, or the engine is about to start it.
    Turn,
    /// It does not wait: an attempt is running.
    Running,
    /// It does not wait: it has ended, or will never run.
    Ended,
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Step { id, name } => write!(f, "it waits for the end of `{name}` ({id})"),
            Self::Barrier {
                id, arrived, of, ..
            } => write!(f, "{arrived} of the {of} members of {id} have ended"),
            Self::Queue {
                queue,
                position,
                waiting,
            } => write!(
                f,
                "it is number {position} of the {waiting} tasks that wait for a slot of queue `{queue}`"
            ),
            Self::Time { at } => write!(f, "it starts {}", Since(*at)),
            Self::Retry { at, attempt } => {
                write!(f, "attempt {attempt} starts {}", Since(*at))
            }
            Self::Backlog { queue } => write!(
                f,
                "its workflow waits until fewer workflows of queue `{queue}` are live"
            ),
            Self::Limit { of, key, at } => {
                write!(f, "the limit on starts of {of}")?;
                if let Some(key) = key {
                    write!(f, " for the key `{key}`")?;
                }
                match at {
                    Some(at) => write!(f, " allows the next one {}", Since(*at)),
                    None => f.write_str(" allows none until a running attempt has ended"),
                }
            }
            Self::Breaker { breaker, at } => match at {
                Some(at) => write!(
                    f,
                    "the breaker `{breaker}` is open; a task may probe {}",
                    Since(*at)
                ),
                None => write!(f, "the breaker `{breaker}` is open, and a task probes"),
            },
            Self::PausedQueue { queue } => write!(f, "the queue `{queue}` is paused"),
            Self::PausedTask { task } => write!(f, "the task `{task}` is paused"),
            Self::PausedApp => f.write_str("the app was started paused"),
            Self::Unregistered { task } => write!(f, "no task is registered as `{task}`"),
            Self::Misfit { task, reason } => {
                write!(f, "its arguments do not fit the task `{task}`: {reason}")
            }
            Self::Quarantine => f.write_str("it is in quarantine"),
            Self::Trial => f.write_str("tasks that were running at a crash are tried first"),
            Self::Replacement { id } => write!(f, "{id} runs in its place"),
            Self::Turn => f.write_str("it has not had its turn to be started"),
            Self::Running => f.write_str("it is running"),
            Self::Ended => f.write_str("it has ended"),
        }
    }
}

/// A time, shown in seconds since the Unix epoch.
struct Since(SystemTime);

impl fmt::Display for Since {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let since = self.0.duration_since(SystemTime::UNIX_EPOCH);
        let since = since.unwrap_or_default();
        write!(
            f,
            "at {}.{:03} s since 1970",
            since.as_secs(),
            since.subsec_millis()
        )
    }
}
