//! A task's request for another attempt.

use std::fmt;
use std::time::{Duration, SystemTime};

use serde::Serialize;

use super::TaskError;
use crate::canvas::machine::task;
use crate::canvas::options::When;
use crate::canvas::outcome::Value;
use crate::canvas::payload::Payload;

/// A request of a task for another attempt, from [`TaskContext::retry`](crate::TaskContext::retry):
/// return it as the task's error.
///
/// If no retries are left the task fails with the [cause](Self::cause), and without one as
/// [`MaxRetriesExceeded`](crate::FailureKind::MaxRetriesExceeded) (celery/app/task.py, `retry`).
///
/// ```
/// # use chordal::prelude::*;
/// # use std::time::Duration;
/// #[task(max_retries = 5)]
/// async fn poll(ctx: &TaskContext, job: u64) -> Result<u64, TaskError> {
///     match look(job) {
///         Some(result) => Ok(result),
///         None => Err(ctx.retry().countdown(Duration::from_secs(30)).into()),
///     }
/// }
/// # fn look(job: u64) -> Option<u64> { Some(job) }
/// ```
#[must_use = "it is the task's error: return it"]
pub struct Retry {
    when: Option<When>,
    max_retries: Option<u32>,
    is_free: bool,
    args: Option<Payload>,
    /// Why the arguments cannot be stored.
    fault: Option<String>,
    cause: Option<TaskError>,
}

impl Retry {
    pub(super) fn new() -> Self {
        Self {
            when: None,
            max_retries: None,
            is_free: false,
            args: None,
            fault: None,
            cause: None,
        }
    }

    /// Sets the delay. Default: the task's `default_retry_delay`, or its backoff.
    ///
    /// ```
    /// # use chordal::prelude::*;
    /// # use std::time::{Duration, SystemTime};
    /// #[task(max_retries = 1)]
    /// async fn never(ctx: &TaskContext) -> Result<(), TaskError> {
    ///     Err(ctx.retry().countdown(Duration::from_millis(5)).into())
    /// }
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> chordal::Result<()> {
    /// # let app = App::in_memory().tasks(tasks![never]).start().await?;
    /// assert!(app.apply_async(never.s()).await?.get().await.is_err()); // after the second attempt
    /// # app.shutdown().await }
    /// ```
    pub fn countdown(mut self, delay: Duration) -> Self {
        self.when = Some(When::In(delay));
        self
    }

    /// Sets when the next attempt is due, on the machine's clock.
    ///
    /// ```
    /// # use chordal::prelude::*;
    /// # use std::time::{Duration, SystemTime};
    /// #[task(max_retries = 1)]
    /// async fn never(ctx: &TaskContext) -> Result<(), TaskError> {
    ///     Err(ctx.retry().eta(SystemTime::UNIX_EPOCH).into())
    /// }
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> chordal::Result<()> {
    /// # let app = App::in_memory().tasks(tasks![never]).start().await?;
    /// assert!(app.apply_async(never.s()).await?.get().await.is_err());
    /// # app.shutdown().await }
    /// ```
    pub fn eta(mut self, time: SystemTime) -> Self {
        self.when = Some(When::at(time));
        self
    }

    /// Sets the error with which the task fails if no retries are left.
    ///
    /// ```
    /// # use chordal::prelude::*;
    /// # use std::time::{Duration, SystemTime};
    /// #[task(max_retries = 1)]
    /// async fn never(ctx: &TaskContext) -> Result<(), TaskError> {
    ///     Err(ctx.retry().countdown(Duration::ZERO).cause(TaskError::new("late")).into())
    /// }
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> chordal::Result<()> {
    /// # let app = App::in_memory().tasks(tasks![never]).start().await?;
    /// match app.apply_async(never.s()).await?.get().await {
    ///     Err(chordal::Error::Failed(failure)) => assert_eq!((failure.attempt, &*failure.message), (2, "late")),
    ///     other => panic!("{other:?}"),
    /// }
    /// # app.shutdown().await }
    /// ```
    pub fn cause(mut self, error: impl Into<TaskError>) -> Self {
        self.cause = Some(error.into());
        self
    }

    /// Sets how many retries the task has, instead of its `max_retries`.
    ///
    /// ```
    /// # use chordal::prelude::*;
    /// # use std::time::{Duration, SystemTime};
    /// #[task(max_retries = 1)]
    /// async fn never(ctx: &TaskContext) -> Result<(), TaskError> {
    ///     Err(ctx.retry().max_retries(4).countdown(Duration::ZERO).into())
    /// }
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> chordal::Result<()> {
    /// # let app = App::in_memory().tasks(tasks![never]).start().await?;
    /// match app.apply_async(never.s()).await?.get().await {
    ///     Err(chordal::Error::Failed(failure)) => assert_eq!(failure.attempt, 5),
    ///     other => panic!("{other:?}"),
    /// }
    /// # app.shutdown().await }
    /// ```
    pub fn max_retries(mut self, max_retries: u32) -> Self {
        self.max_retries = Some(max_retries);
        self
    }

    /// Lets the retry use up none of the task's retries, and take place even if none are left; see
    /// [`TaskError::without_counting`].
    ///
    /// ```
    /// # use chordal::prelude::*;
    /// # use std::time::{Duration, SystemTime};
    /// #[task]
    /// async fn third(ctx: &TaskContext) -> Result<u32, TaskError> {
    ///     match ctx.attempt() {
    ///         3 => Ok(3),
    ///         _ => Err(ctx.retry().eta(SystemTime::UNIX_EPOCH).without_counting().into()),
    ///     }
    /// }
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> chordal::Result<()> {
    /// # let app = App::in_memory().tasks(tasks![third]).start().await?;
    /// assert_eq!(app.apply_async(third.s()).await?.get().await?, 3); // it has no retries
    /// # app.shutdown().await }
    /// ```
    pub fn without_counting(mut self) -> Self {
        self.is_free = true;
        self
    }

    /// Sets the arguments of the next attempts: a tuple of all of them.
    ///
    /// ```
    /// # use chordal::prelude::*;
    /// #[task(max_retries = 10)]
    /// async fn drain(ctx: &TaskContext, done: u64, left: u64) -> Result<u64, TaskError> {
    ///     match left {
    ///         0 => Ok(done),
    ///         left => Err(ctx.retry().args((done + 1, left - 1)).into()),
    ///     }
    /// }
    /// ```
    pub fn args(mut self, args: impl Serialize) -> Self {
        match Payload::encode(&args).and_then(as_list) {
            Ok(args) => self.args = Some(args),
            Err(error) => self.fault = Some(format!("the arguments of its retry: {error}")),
        }
        self
    }
}

impl From<Retry> for TaskError {
    fn from(retry: Retry) -> Self {
        if let Some(fault) = retry.fault {
            return Self::wrong_type(fault);
        }
        let cause = retry.cause.unwrap_or_else(Self::no_retries_left);
        cause.asking_for(task::Retry::Asked {
            when: retry.when,
            args: retry.args.map(Value::Inline),
            max_retries: retry.max_retries,
            is_free: retry.is_free,
        })
    }
}

/// Returns the arguments as a list: a tuple is a list already; a unit becomes an empty one.
fn as_list(args: Payload) -> Result<Payload, String> {
    let (rest, count) = crate::canvas::arguments(&args)?;
    Ok(if count == 0 && rest.bytes().is_empty() {
        Payload::from(vec![0x90])
    } else {
        args
    })
}

impl fmt::Debug for Retry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Retry")
            .field("when", &self.when)
            .field("max_retries", &self.max_retries)
            .finish_non_exhaustive()
    }
}
