//! Options of a task as registered.

use std::time::Duration;

use super::TaskError;
use crate::canvas::options::{Options, TimeLimits};
use crate::canvas::retry::RetryPolicy;

/// The queue of a task that names none (Celery's `task_default_queue`).
pub const DEFAULT_QUEUE: &str = "default";

/// Options that a task is registered with: what `#[task(…)]` was given.
///
/// ```
/// use chordal::TaskOptions;
/// use std::time::Duration;
///
/// const OPTIONS: TaskOptions = TaskOptions::new().queue("payments").max_retries(3);
/// assert_eq!(OPTIONS.retry_backoff_max, Duration::from_secs(600));
/// ```
#[derive(Clone, Copy, Debug)]
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
    /// Delay before the first retry; it doubles with each further one. Default: `default_retry_delay`
    /// if that is given, otherwise 1 s.
    pub retry_backoff: Option<Duration>,
    /// The longest delay that doubling leads to. Default: 10 min, as in Celery.
    pub retry_backoff_max: Duration,
    /// Draws each delay that `retry_backoff` gives from between nothing and itself, so that tasks
    /// that failed together do not come back together ("full jitter"). Default: no.
    pub retry_jitter: bool,
    /// The same delay before every retry, where neither `retry_backoff` nor the task itself
    /// ([`Retry::countdown`](crate::Retry::countdown)) says otherwise. Default: none.
    pub default_retry_delay: Option<Duration>,
    /// Which errors are worth another attempt, in the place of Celery's `autoretry_for`. It is not
    /// asked about what the task itself has decided: [`TaskContext::retry`](crate::TaskContext::retry),
    /// [`TaskError::fatal`](crate::TaskError::fatal), nor about time limits: after a soft one the
    /// task is tried again, after a hard one it is not. Default: all, panics too.
    pub retry_if: Option<fn(&TaskError) -> bool>,
    /// Soft limit on one attempt: the task may [listen](crate::TaskContext::soft_time_limit) for
    /// it, and ends with `SoftTimeLimitExceeded` if it does not. One above the hard limit is refused
    /// when the app starts. Default: none.
    pub soft_time_limit: Option<Duration>,
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
            retry_backoff: None,
            retry_backoff_max: Duration::from_secs(600),
            retry_jitter: false,
            default_retry_delay: None,
            retry_if: None,
            soft_time_limit: None,
            time_limit: None,
        }
    }

    /// Sets the queue.
    ///
    /// ```
    /// # use chordal::TaskOptions;
    /// # use std::time::Duration;
    /// let options = TaskOptions::new().queue("mail");
    /// assert_eq!(options.queue, "mail");
    /// ```
    #[must_use]
    pub const fn queue(mut self, queue: &'static str) -> Self {
        self.queue = queue;
        self
    }

    /// Sets the priority, 0 to 9.
    ///
    /// ```
    /// # use chordal::TaskOptions;
    /// # use std::time::Duration;
    /// let options = TaskOptions::new().priority(9);
    /// assert_eq!(options.priority, 9);
    /// ```
    #[must_use]
    pub const fn priority(mut self, priority: u8) -> Self {
        self.priority = priority;
        self
    }

    /// Runs the body on the blocking pool.
    ///
    /// ```
    /// # use chordal::TaskOptions;
    /// # use std::time::Duration;
    /// let options = TaskOptions::new().blocking();
    /// assert!(options.blocking);
    /// ```
    #[must_use]
    pub const fn blocking(mut self) -> Self {
        self.blocking = true;
        self
    }

    /// Sets how often a failed attempt is tried again.
    ///
    /// ```
    /// # use chordal::TaskOptions;
    /// # use std::time::Duration;
    /// let options = TaskOptions::new().max_retries(3);
    /// assert_eq!(options.max_retries, 3);
    /// ```
    #[must_use]
    pub const fn max_retries(mut self, max_retries: u32) -> Self {
        self.max_retries = max_retries;
        self
    }

    /// Sets the delay before the first retry.
    ///
    /// ```
    /// # use chordal::TaskOptions;
    /// # use std::time::Duration;
    /// let options = TaskOptions::new().retry_backoff(Duration::from_secs(5));
    /// assert_eq!(options.retry_backoff, Some(Duration::from_secs(5)));
    /// ```
    #[must_use]
    pub const fn retry_backoff(mut self, delay: Duration) -> Self {
        self.retry_backoff = Some(delay);
        self
    }

    /// Sets the longest delay between two attempts.
    ///
    /// ```
    /// # use chordal::TaskOptions;
    /// # use std::time::Duration;
    /// let options = TaskOptions::new().retry_backoff_max(Duration::from_secs(120));
    /// assert_eq!(options.retry_backoff_max.as_secs(), 120);
    /// ```
    #[must_use]
    pub const fn retry_backoff_max(mut self, delay: Duration) -> Self {
        self.retry_backoff_max = delay;
        self
    }

    /// Draws the delays at random.
    ///
    /// ```
    /// # use chordal::TaskOptions;
    /// # use std::time::Duration;
    /// let options = TaskOptions::new().retry_jitter(true);
    /// assert!(options.retry_jitter);
    /// ```
    #[must_use]
    pub const fn retry_jitter(mut self, jitter: bool) -> Self {
        self.retry_jitter = jitter;
        self
    }

    /// Sets the delay before every retry.
    ///
    /// ```
    /// # use chordal::TaskOptions;
    /// # use std::time::Duration;
    /// let options = TaskOptions::new().default_retry_delay(Duration::from_secs(180));
    /// assert!(options.default_retry_delay.is_some());
    /// ```
    #[must_use]
    pub const fn default_retry_delay(mut self, delay: Duration) -> Self {
        self.default_retry_delay = Some(delay);
        self
    }

    /// Sets which errors are worth another attempt.
    ///
    /// ```
    /// # use chordal::TaskOptions;
    /// # use std::time::Duration;
    /// let options = TaskOptions::new().retry_if(|error| error.error_type() == "TimedOut");
    /// assert!(options.retry_if.is_some());
    /// ```
    #[must_use]
    pub const fn retry_if(mut self, predicate: fn(&TaskError) -> bool) -> Self {
        self.retry_if = Some(predicate);
        self
    }

    /// Sets the soft limit on one attempt.
    ///
    /// ```
    /// # use chordal::TaskOptions;
    /// # use std::time::Duration;
    /// let options = TaskOptions::new().soft_time_limit(Duration::from_secs(30));
    /// assert!(options.soft_time_limit.is_some());
    /// ```
    #[must_use]
    pub const fn soft_time_limit(mut self, limit: Duration) -> Self {
        self.soft_time_limit = Some(limit);
        self
    }

    /// Sets the hard limit on one attempt.
    ///
    /// ```
    /// # use chordal::TaskOptions;
    /// # use std::time::Duration;
    /// let options = TaskOptions::new().time_limit(Duration::from_secs(45));
    /// assert!(options.time_limit.is_some());
    /// ```
    #[must_use]
    pub const fn time_limit(mut self, limit: Duration) -> Self {
        self.time_limit = Some(limit);
        self
    }
}

impl TaskOptions {
    /// The options as registered, with those of the signature over them.
    pub(crate) fn with(self, own: Option<&Options>) -> Self {
        let Some(own) = own else { return self };
        Self {
            priority: own.priority.unwrap_or(self.priority),
            max_retries: own.max_retries.unwrap_or(self.max_retries),
            time_limit: own.time_limit.or(self.time_limit),
            soft_time_limit: own.soft_time_limit.or(self.soft_time_limit),
            ..self
        }
    }

    pub(crate) fn limits(&self) -> TimeLimits {
        TimeLimits {
            soft: self.soft_time_limit,
            hard: self.time_limit,
        }
    }

    pub(crate) fn retry_policy(&self) -> RetryPolicy {
        RetryPolicy {
            max_retries: self.max_retries,
            default_delay: self.default_retry_delay,
            backoff: self.retry_backoff,
            backoff_max: self.retry_backoff_max,
            jitter: self.retry_jitter,
        }
    }
}

impl Default for TaskOptions {
    fn default() -> Self {
        Self::new()
    }
}
