//! Options of a task as registered, and of a signature as called.

use std::borrow::Cow;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

/// The queue of a task that names none (Celery's `task_default_queue`).
pub const DEFAULT_QUEUE: &str = "default";

/// Options that a task is registered with: what `#[task(…)]` was given.
///
/// ```
/// use chordal::TaskOptions;
/// use std::time::Duration;
///
/// const OPTIONS: TaskOptions = TaskOptions::new().queue("payments").max_retries(3);
/// assert_eq!(OPTIONS.retry_backoff, Duration::from_secs(1));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct TaskOptions {
    /// The queue whose slots the task takes. Default: `"default"`.
    pub queue: &'static str,
    /// 0 to 9; of the tasks that wait in one queue, the highest goes first. Default: 0.
    pub priority: u8,
    /// The body blocks its thread (CPU work, blocking I/O): it runs on the blocking pool.
    pub blocking: bool,
    /// How often a failed attempt is tried again. Default: 0.
    pub max_retries: u32,
    /// Delay before the first retry; it doubles with each further one. Default: 1 s.
    pub retry_backoff: Duration,
    /// The longest delay between two attempts. Default: 10 min, as in Celery.
    pub retry_backoff_max: Duration,
    /// Hard limit on one attempt, from the moment its body starts. Default: none.
    pub time_limit: Option<Duration>,
}

impl TaskOptions {
    /// The defaults.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            queue: DEFAULT_QUEUE,
            priority: 0,
            blocking: false,
            max_retries: 0,
            retry_backoff: Duration::from_secs(1),
            retry_backoff_max: Duration::from_secs(600),
            time_limit: None,
        }
    }

    /// Sets the queue.
    #[must_use]
    pub const fn queue(mut self, queue: &'static str) -> Self {
        self.queue = queue;
        self
    }

    /// Sets the priority, 0 to 9.
    #[must_use]
    pub const fn priority(mut self, priority: u8) -> Self {
        self.priority = priority;
        self
    }

    /// Runs the body on the blocking pool.
    #[must_use]
    pub const fn blocking(mut self) -> Self {
        self.blocking = true;
        self
    }

    /// Sets how often a failed attempt is tried again.
    #[must_use]
    pub const fn max_retries(mut self, max_retries: u32) -> Self {
        self.max_retries = max_retries;
        self
    }

    /// Sets the delay before the first retry.
    #[must_use]
    pub const fn retry_backoff(mut self, delay: Duration) -> Self {
        self.retry_backoff = delay;
        self
    }

    /// Sets the longest delay between two attempts.
    #[must_use]
    pub const fn retry_backoff_max(mut self, delay: Duration) -> Self {
        self.retry_backoff_max = delay;
        self
    }

    /// Sets the hard limit on one attempt.
    #[must_use]
    pub const fn time_limit(mut self, limit: Duration) -> Self {
        self.time_limit = Some(limit);
        self
    }
}

impl Default for TaskOptions {
    fn default() -> Self {
        Self::new()
    }
}

/// A point in time as a signature says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum When {
    /// This long after the submission.
    In(Duration),
    /// Milliseconds since the Unix epoch.
    At(u64),
}

impl When {
    /// A time before 1970 is 1970: both are past.
    pub(crate) fn at(time: SystemTime) -> Self {
        let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
        Self::At(since.as_millis() as u64)
    }
}

/// Options of one signature; what is `None` is as registered.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Options {
    pub(crate) queue: Option<Cow<'static, str>>,
    pub(crate) priority: Option<u8>,
    pub(crate) max_retries: Option<u32>,
    pub(crate) time_limit: Option<Duration>,
    pub(crate) soft_time_limit: Option<Duration>,
    pub(crate) eta: Option<When>,
    pub(crate) expires: Option<When>,
}

impl Options {
    /// Celery's merge: what is set on the outside (the call, the enclosing group) wins
    /// (celery/canvas.py, `Signature._merge`).
    pub(crate) fn merged_under(&self, outer: &Self) -> Self {
        Self {
            queue: outer.queue.clone().or_else(|| self.queue.clone()),
            priority: outer.priority.or(self.priority),
            max_retries: outer.max_retries.or(self.max_retries),
            time_limit: outer.time_limit.or(self.time_limit),
            soft_time_limit: outer.soft_time_limit.or(self.soft_time_limit),
            eta: outer.eta.or(self.eta),
            expires: outer.expires.or(self.expires),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_outer_options_win_and_the_others_stay() {
        let inner = Options {
            queue: Some("inner".into()),
            priority: Some(1),
            ..Options::default()
        };
        let outer = Options {
            priority: Some(9),
            max_retries: Some(2),
            ..Options::default()
        };
        let merged = inner.merged_under(&outer);
        assert_eq!(merged.queue.as_deref(), Some("inner"));
        assert_eq!((merged.priority, merged.max_retries), (Some(9), Some(2)));
    }
}
