//! The options of a registered task.

use std::time::Duration;

use super::TaskError;
use crate::canvas::breaker::OnOpen;
use crate::canvas::options::{Options, TimeLimits};
use crate::canvas::rate_limit::RateLimit;
use crate::canvas::retry::RetryPolicy;

/// The queue of a task without one of its own (Celery's `task_default_queue`).
pub const DEFAULT_QUEUE: &str = "default";

/// The options with which a task is registered, set by `#[task(…)]`.
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
    /// The queue whose slots the task uses. Default: `"default"`.
    pub queue: &'static str,
    /// 0 to 9; among the tasks that wait in one queue, the highest starts first. Default: 0.
    pub priority: u8,
    /// Whether the body blocks its thread (CPU work, blocking I/O) and so runs on the blocking
    /// pool.
    pub blocking: bool,
    /// How often a failed attempt is retried. Default: 0.
    pub max_retries: u32,
    /// The delay before the first retry; it doubles with each further one. Default:
    /// `default_retry_delay` if that is set, otherwise 1 s.
    pub retry_backoff: Option<Duration>,
    /// The maximum of the doubling delay. Default: 10 min, as in Celery.
    pub retry_backoff_max: Duration,
    /// Draws each delay of `retry_backoff` at random between zero and its full length, so that
    /// tasks that failed together are not retried together ("full jitter"). Default: no.
    pub retry_jitter: bool,
    /// A constant delay before every retry, unless `retry_backoff` or the task itself
    /// ([`Retry::countdown`](crate::Retry::countdown)) sets another. Default: none.
    pub default_retry_delay: Option<Duration>,
    /// Decides which errors are retried, instead of Celery's `autoretry_for`. It is not called for
    /// the task's own decisions ([`TaskContext::retry`](crate::TaskContext::retry),
    /// [`TaskError::fatal`](crate::TaskError::fatal)), nor for time limits: after a soft limit the
    /// task is retried, after a hard limit it is not. Default: all errors, including panics.
    pub retry_if: Option<fn(&TaskError) -> bool>,
    /// The soft limit on one attempt: the task may [listen](crate::TaskContext::soft_time_limit)
    /// for it, and ends with `SoftTimeLimitExceeded` if it does not. A soft limit above the hard
    /// limit is refused when the app starts. Default: none.
    pub soft_time_limit: Option<Duration>,
    /// The hard limit on one attempt, from the start of its body. Default: none.
    pub time_limit: Option<Duration>,
    /// How many attempts of the task may start in a period, in the whole app. Default: no limit.
    pub rate_limit: Option<RateLimit>,
    /// The name of a limit that the task shares with others, set with
    /// [`AppBuilder::limit`](crate::AppBuilder::limit). Default: none.
    pub limit: Option<&'static str>,
    /// The parameter that divides `rate_limit`: tasks with equal arguments for it share the rate.
    /// Default: none, all do.
    pub limit_by: Option<&'static str>,
    /// How many attempts of the task run at once, in the whole app. Default: as many as its queue
    /// has slots.
    pub concurrency: Option<u32>,
    /// The parameter that divides `concurrency`, as `limit_by` does the rate. Default: none.
    pub concurrency_by: Option<&'static str>,
    /// The name of the circuit breaker that the task is under, set with
    /// [`AppBuilder::breaker`](crate::AppBuilder::breaker). Default: none.
    pub breaker: Option<&'static str>,
    /// What the task does while its breaker is open. Default: it waits.
    pub on_open: OnOpen,
    /// Decides which errors count for the breaker, also of panics and time limits, whose
    /// [types](crate::TaskError::error_type) are `Panic`, `SoftTimeLimitExceeded` and
    /// `TimeLimitExceeded`. It is not called for a retry
    /// [without counting](crate::TaskError::without_counting), for a result that cannot be stored,
    /// or for a revocation, none of which counts. Default: all errors, panics and time limits.
    pub breaker_if: Option<fn(&TaskError) -> bool>,
}

impl TaskOptions {
    /// Returns the defaults.
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
            rate_limit: None,
            limit: None,
            limit_by: None,
            concurrency: None,
            concurrency_by: None,
            breaker: None,
            on_open: OnOpen::Wait,
            breaker_if: None,
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

    /// Sets how often a failed attempt is retried.
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

    /// Sets the maximum delay between two attempts.
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

    /// Sets which errors are retried.
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

    /// Sets how many attempts may start in a period.
    ///
    /// ```
    /// # use chordal::{RateLimit, TaskOptions};
    /// let options = TaskOptions::new().rate_limit(RateLimit::per_minute(10));
    /// assert_eq!(options.rate_limit, Some("10/m".parse().unwrap()));
    /// ```
    #[must_use]
    pub const fn rate_limit(mut self, limit: RateLimit) -> Self {
        self.rate_limit = Some(limit);
        self
    }

    /// Sets the name of a limit that the task shares with others.
    ///
    /// ```
    /// # use chordal::TaskOptions;
    /// let options = TaskOptions::new().limit("stripe");
    /// assert_eq!(options.limit, Some("stripe"));
    /// ```
    #[must_use]
    pub const fn limit(mut self, name: &'static str) -> Self {
        self.limit = Some(name);
        self
    }

    /// Sets the parameter that divides the rate limit: each value of it has the whole rate. At the
    /// start of the app it must be one of the task's parameters, and a rate must be set.
    ///
    /// ```
    /// # use chordal::{RateLimit, TaskOptions};
    /// let options = TaskOptions::new()
    ///     .rate_limit(RateLimit::per_second(5))
    ///     .limit_by("tenant");
    /// assert_eq!(options.limit_by, Some("tenant"));
    /// ```
    #[must_use]
    pub const fn limit_by(mut self, parameter: &'static str) -> Self {
        self.limit_by = Some(parameter);
        self
    }

    /// Sets how many attempts run at once.
    ///
    /// ```
    /// # use chordal::TaskOptions;
    /// let options = TaskOptions::new().concurrency(4);
    /// assert_eq!(options.concurrency, Some(4));
    /// ```
    #[must_use]
    pub const fn concurrency(mut self, attempts: u32) -> Self {
        self.concurrency = Some(attempts);
        self
    }

    /// Sets the parameter that divides the concurrency: each value of it may have as many attempts.
    /// At the start of the app it must be one of the task's parameters, and a concurrency must be
    /// set.
    ///
    /// ```
    /// # use chordal::TaskOptions;
    /// let options = TaskOptions::new().concurrency(1).concurrency_by("tenant");
    /// assert_eq!(options.concurrency_by, Some("tenant"));
    /// ```
    #[must_use]
    pub const fn concurrency_by(mut self, parameter: &'static str) -> Self {
        self.concurrency_by = Some(parameter);
        self
    }

    /// Sets the name of the circuit breaker that the task is under.
    ///
    /// ```
    /// # use chordal::TaskOptions;
    /// let options = TaskOptions::new().breaker("stripe");
    /// assert_eq!(options.breaker, Some("stripe"));
    /// ```
    #[must_use]
    pub const fn breaker(mut self, name: &'static str) -> Self {
        self.breaker = Some(name);
        self
    }

    /// Sets what the task does while its breaker is open. At the start of the app a breaker must be
    /// set.
    ///
    /// ```
    /// # use chordal::{OnOpen, TaskOptions};
    /// let options = TaskOptions::new().breaker("stripe").on_open(OnOpen::Fail);
    /// assert_eq!(options.on_open, OnOpen::Fail);
    /// ```
    #[must_use]
    pub const fn on_open(mut self, on_open: OnOpen) -> Self {
        self.on_open = on_open;
        self
    }

    /// Sets which errors count for the breaker. At the start of the app a breaker must be set.
    ///
    /// ```
    /// # use chordal::TaskOptions;
    /// let options = TaskOptions::new()
    ///     .breaker("stripe")
    ///     .breaker_if(|error| error.error_type() != "CardDeclined");
    /// assert!(options.breaker_if.is_some());
    /// ```
    #[must_use]
    pub const fn breaker_if(mut self, predicate: fn(&TaskError) -> bool) -> Self {
        self.breaker_if = Some(predicate);
        self
    }
}

impl TaskOptions {
    /// Returns the registered options, overridden by those of the signature.
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
