//! The error of a task, and whether another attempt follows.

use std::borrow::Cow;
use std::error::Error;
use std::fmt;
use std::ops::Deref;
use std::time::Duration;

use super::boxed::{self, Boxed};
use crate::canvas::Canvas;
use crate::canvas::id::Id;
use crate::canvas::machine::task;
use crate::canvas::options::When;
use crate::canvas::outcome::{FailureKind, TaskFailure, shorten};
use crate::canvas::parked::Misfit;

/// The error of a task. `?` and `.into()` convert any [`std::error::Error`] into one;
/// [`new`](Self::new) converts a text, and [`from_boxed`](Self::from_boxed) converts an
/// `anyhow::Error`, an `eyre::Report` or a boxed error. A task may also return those directly: `->
/// anyhow::Result<T>`.
///
/// ```
/// # use chordal::TaskError;
/// fn parse(text: &str) -> Result<i64, TaskError> {
///     let number: i64 = text.trim().parse()?;
///     if number < 0 {
///         return Err(TaskError::new(format!("{number} is negative")).fatal());
///     }
///     Ok(number)
/// }
/// let error = parse("x").unwrap_err();
/// assert_eq!(error.to_string(), "invalid digit found in string");
/// assert_eq!(error.error_type(), "ParseIntError");
/// ```
pub struct TaskError {
    message: String,
    error_type: Option<Cow<'static, str>>,
    kind: FailureKind,
    then: Then,
}

/// The action that the task requests after the error.
enum Then {
    /// Another attempt, if its options say so.
    Auto,
    /// Another attempt, if there are retries left.
    Retry(Box<task::Retry>),
    Fatal,
    /// Its arguments do not decode.
    Unfit(Misfit),
    /// No failure: this canvas replaces the task.
    Replace(Box<Canvas>),
}

/// The action after an attempt without a value.
pub(crate) enum Next {
    Retry(task::Retry),
    Replace(Box<Canvas>),
    /// The function was not called.
    Unfit(Misfit),
}

impl TaskError {
    /// Creates an error with this message. The name of its [type](Self::with_type) is `TaskError`.
    ///
    /// ```
    /// # use chordal::TaskError;
    /// assert_eq!(TaskError::new("no such user").to_string(), "no such user");
    /// ```
    #[must_use]
    pub fn new(message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            error_type: None,
            kind: FailureKind::Error,
            then: Then::Auto,
        }
    }

    /// Converts a boxed error: `Box<dyn Error>`, `anyhow::Error`, `eyre::Report`, an `Arc` of an
    /// error. The message is the error's, followed by those of its sources; the name of its
    /// [type](Self::error_type) is `Error`, because a box hides the type inside. A `TaskError` that
    /// was converted into a `Box<dyn Error>` is restored with all its requests.
    ///
    /// ```
    /// # use chordal::prelude::*;
    /// fn price(text: &str) -> anyhow::Result<u64> {
    ///     anyhow::Context::context(text.parse(), "no price")
    /// }
    ///
    /// #[task]
    /// async fn total(texts: Vec<String>) -> Result<u64, TaskError> {
    ///     let mut cents = 0;
    ///     for text in texts {
    ///         cents += price(&text).map_err(TaskError::from_boxed)?;
    ///     }
    ///     Ok(cents)
    /// }
    /// # #[tokio::main(flavor = "current_thread")] async fn main() {
    /// let error = total.call(vec!["x".into()]).await.unwrap_err();
    /// assert_eq!(error.to_string(), "no price: invalid digit found in string");
    /// # }
    /// ```
    #[must_use]
    pub fn from_boxed<E: Deref<Target: Error>>(error: E) -> Self {
        let message = with_sources(&*error);
        match boxed::take(&*error) {
            Some(own) => Self { message, ..own },
            None => Self::new(message).with_type(name_of::<E::Target>()),
        }
    }

    /// Creates an error that requests the next attempt after `delay`, if the task has retries left.
    /// See [`TaskContext::retry`](crate::TaskContext::retry) for all options.
    ///
    /// ```
    /// # use chordal::prelude::*;
    /// # use std::time::Duration;
    /// #[task(max_retries = 5)]
    /// async fn ask(server: String) -> Result<String, TaskError> {
    ///     Err(TaskError::retry(format!("{server} is busy"), Duration::from_secs(30)))
    /// }
    /// ```
    #[must_use]
    pub fn retry(message: impl Into<String>, delay: Duration) -> Self {
        Self::new(message).asking_for(task::Retry::Asked {
            when: Some(When::In(delay)),
            args: None,
            max_retries: None,
            is_free: false,
        })
    }

    /// Creates an error that requests the next attempt after `delay`, as a service asks for that
    /// answers 429 or 503 with a `Retry-After`. The message is "the service asks to wait", unless
    /// [`with_reason`](Self::with_reason) gives another.
    ///
    /// The delay is exact: neither the task's backoff nor its jitter changes it, and
    /// [`retry_if`](crate::TaskOptions::retry_if) is not asked. It is stored when the attempt ends,
    /// so it goes on over a restart, and the task holds no slot meanwhile. The next attempt has its
    /// whole time limits. It uses up one of the task's retries, and without any left the task fails
    /// with this error, unless [`without_counting`](Self::without_counting) is called. (For a point
    /// in time there is [`Retry::eta`](crate::Retry::eta).)
    ///
    /// ```
    /// # use chordal::prelude::*;
    /// # use std::time::Duration;
    /// # struct Response { status: u16, retry_after: Option<Duration> }
    /// # async fn post(amount: u64) -> Response {
    /// #     Response { status: 429, retry_after: Some(Duration::from_secs(30)) }
    /// # }
    /// #[task(max_retries = 5)]
    /// async fn charge(amount: u64) -> Result<(), TaskError> {
    ///     let response = post(amount).await;
    ///     match (response.status, response.retry_after) {
    ///         (200, _) => Ok(()),
    ///         (429, Some(wait)) => Err(TaskError::retry_after(wait)
    ///             .with_reason("too many charges")
    ///             .without_counting()),
    ///         (status, _) => Err(TaskError::new(format!("status {status}"))),
    ///     }
    /// }
    /// # #[tokio::main(flavor = "current_thread")] async fn main() {
    /// let error = charge.call(7).await.unwrap_err();
    /// assert_eq!(error.to_string(), "too many charges");
    /// # }
    /// ```
    #[must_use]
    pub fn retry_after(delay: Duration) -> Self {
        Self::retry("the service asks to wait", delay)
    }

    /// Lets the retry that the error requests use up none of the task's `max_retries`, and take
    /// place even if none are left: being asked to wait is no failure. On an error that requests
    /// nothing, or that was [`fatal`](Self::fatal), this is such a request, with the delay that
    /// [`TaskContext::retry`](crate::TaskContext::retry) has by default.
    ///
    /// Nothing bounds such retries but the task's [`expires`](crate::Signature::expires): give it
    /// one, if the service may ask for ever. The backoff of later failures does not grow by them,
    /// while [`TaskContext::attempt`](crate::TaskContext::attempt) counts them.
    ///
    /// ```
    /// # use chordal::prelude::*;
    /// # use std::time::Duration;
    /// #[task] // without retries
    /// async fn third(ctx: &TaskContext) -> Result<u32, TaskError> {
    ///     match ctx.attempt() {
    ///         3 => Ok(3),
    ///         _ => Err(TaskError::retry_after(Duration::ZERO).without_counting()),
    ///     }
    /// }
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> chordal::Result<()> {
    /// # let app = App::in_memory().tasks(tasks![third]).start().await?;
    /// assert_eq!(app.apply_async(third.s()).await?.get().await?, 3);
    /// # app.shutdown().await }
    /// ```
    #[must_use]
    pub fn without_counting(mut self) -> Self {
        match &mut self.then {
            Then::Retry(retry) => {
                if let task::Retry::Asked { is_free, .. } = &mut **retry {
                    *is_free = true;
                }
            }
            // Neither is an error that could be retried.
            Then::Replace(_) | Then::Unfit(_) => {}
            Then::Auto | Then::Fatal => {
                self.then = Then::Retry(Box::new(task::Retry::Asked {
                    when: None,
                    args: None,
                    max_retries: None,
                    is_free: true,
                }));
            }
        }
        self
    }

    /// Replaces the message, and keeps what the error requests.
    ///
    /// ```
    /// # use chordal::TaskError;
    /// # use std::time::Duration;
    /// let error = TaskError::retry_after(Duration::from_secs(9)).with_reason("429 from stripe");
    /// assert_eq!(error.to_string(), "429 from stripe");
    /// ```
    #[must_use]
    pub fn with_reason(mut self, reason: impl Into<String>) -> Self {
        self.message = reason.into();
        self
    }

    /// Makes the error final: the task is not retried however many retries are left.
    ///
    /// ```
    /// # use chordal::prelude::*;
    /// #[task(max_retries = 5)]
    /// async fn parse(text: String) -> Result<i64, TaskError> {
    ///     text.parse().map_err(|error| TaskError::from(error).fatal()) // will never parse
    /// }
    /// ```
    #[must_use]
    pub fn fatal(mut self) -> Self {
        self.then = Then::Fatal;
        self
    }

    /// Sets the name of the error's type, which [`TaskFailure::error_type`] returns.
    ///
    /// ```
    /// # use chordal::TaskError;
    /// let error = TaskError::new("no such user").with_type("NotFound");
    /// assert_eq!(error.error_type(), "NotFound");
    /// ```
    #[must_use]
    pub fn with_type(mut self, name: impl Into<Cow<'static, str>>) -> Self {
        self.error_type = Some(name.into());
        self
    }

    /// Returns the name of the error's type: that of the original error, without its path, or the
    /// [given](Self::with_type) name.
    #[must_use]
    pub fn error_type(&self) -> &str {
        match &self.error_type {
            Some(name) => name,
            None => self.kind.error_type(),
        }
    }

    /// Creates an error for arguments or a result of the wrong type. A retry would fail too.
    pub(crate) fn wrong_type(message: String) -> Self {
        Self {
            kind: FailureKind::Type,
            ..Self::new(message).fatal()
        }
    }

    /// Creates an error for arguments that do not decode; the function was not called.
    pub(super) fn unfit(message: String, misfit: Misfit) -> Self {
        Self {
            then: Then::Unfit(misfit),
            ..Self::wrong_type(message)
        }
    }

    /// Creates an error for a payload above the limit. A retry would fail too.
    pub(crate) fn too_large(message: String) -> Self {
        Self {
            kind: FailureKind::PayloadTooLarge,
            ..Self::new(message).fatal()
        }
    }

    pub(crate) fn panic(message: String) -> Self {
        Self {
            kind: FailureKind::Panic,
            ..Self::new(message)
        }
    }

    pub(crate) fn hard_time_limit(message: String) -> Self {
        Self {
            kind: FailureKind::TimeLimit,
            ..Self::new(message)
        }
    }

    pub(crate) fn soft_time_limit() -> Self {
        Self {
            kind: FailureKind::SoftTimeLimit,
            ..Self::new("")
        }
    }

    /// Creates the error of a task that asked for a retry without a cause.
    pub(super) fn no_retries_left() -> Self {
        Self {
            kind: FailureKind::MaxRetriesExceeded,
            ..Self::new("no retries are left")
        }
    }

    /// Makes the error a request for this retry.
    pub(super) fn asking_for(mut self, retry: task::Retry) -> Self {
        self.then = Then::Retry(Box::new(retry));
        self
    }

    /// Wraps a replacement as an error; the canvas replaces the task.
    pub(super) fn replaced_by(canvas: Canvas) -> Self {
        Self {
            then: Then::Replace(Box::new(canvas)),
            ..Self::new("the task is replaced")
        }
    }

    /// Converts the error of one item of a map or fold into the error of the task. An item cannot
    /// request anything that concerns all items.
    pub(crate) fn of_item(self, container: &str) -> Self {
        match &self.then {
            Then::Replace(_) => {
                Self::wrong_type(format!("an item of a {container} cannot be replaced"))
            }
            Then::Retry(retry) => match **retry {
                task::Retry::Asked { args: Some(_), .. } => Self::wrong_type(format!(
                    "an item of a {container} cannot change the arguments of the {container}"
                )),
                _ => self,
            },
            _ => self,
        }
    }

    /// Returns the action that follows, for a task with this
    /// [`retry_if`](super::TaskOptions::retry_if).
    pub(crate) fn next(&self, retry_if: Option<fn(&Self) -> bool>) -> Next {
        Next::Retry(match &self.then {
            Then::Replace(canvas) => return Next::Replace(canvas.clone()),
            Then::Unfit(misfit) => return Next::Unfit(*misfit),
            Then::Fatal => task::Retry::Never,
            Then::Auto => match retry_if {
                Some(is_worth_it) if !is_worth_it(self) => task::Retry::Never,
                _ => task::Retry::Auto,
            },
            Then::Retry(retry) => (**retry).clone(),
        })
    }

    /// Returns whether it counts for the breaker of a task with this
    /// [`breaker_if`](super::TaskOptions::breaker_if). An error that is chordal's own, or that asks
    /// to wait [without counting](Self::without_counting), never does.
    pub(crate) fn counts(&self, breaker_if: Option<fn(&Self) -> bool>) -> bool {
        let is_own = matches!(self.kind, FailureKind::Type | FailureKind::PayloadTooLarge);
        let is_free = match &self.then {
            Then::Retry(retry) => matches!(**retry, task::Retry::Asked { is_free: true, .. }),
            Then::Replace(_) | Then::Unfit(_) => true,
            Then::Auto | Then::Fatal => false,
        };
        !is_own && !is_free && breaker_if.is_none_or(|counts| counts(self))
    }

    /// Returns the task's failure if no further attempt follows.
    pub(crate) fn failure(&self, id: Id, name: &str, attempt: u32) -> Box<TaskFailure> {
        let mut failure = TaskFailure::new(self.kind, id, name, attempt, &self.message);
        if let Some(error_type) = &self.error_type {
            failure.error_type = shorten(error_type);
        }
        failure
    }
}

/// An error that `?` converts into a [`TaskError`]: any [`std::error::Error`].
#[diagnostic::on_unimplemented(
    message = "`{Self}` does not turn into a `TaskError`",
    label = "no `std::error::Error`: write `.map_err(TaskError::new)?` for a text, `.map_err(TaskError::from_boxed)?` for `anyhow::Error`, `eyre::Report` or a boxed error",
    note = "an error of a task is a `TaskError`, a text, a boxed error, or a type that implements `std::error::Error`"
)]
pub trait IntoTaskError {
    /// Converts it into a task's error.
    fn into_task_error(self) -> TaskError;
}

// The compiler would only ask for a `std::error::Error`, which `String` can never be.
#[diagnostic::do_not_recommend]
impl<E: Error> IntoTaskError for E {
    fn into_task_error(self) -> TaskError {
        TaskError::new(with_sources(&self)).with_type(name_of::<E>())
    }
}

impl<E: IntoTaskError> From<E> for TaskError {
    /// Joins the error's message and those of its sources that it does not repeat.
    fn from(error: E) -> Self {
        error.into_task_error()
    }
}

/// Joins the error's message and those of its sources that it does not repeat.
fn with_sources<E: Error + ?Sized>(error: &E) -> String {
    let mut message = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let text = cause.to_string();
        if !message.ends_with(&text) {
            message = format!("{message}: {text}");
        }
        source = cause.source();
    }
    message
}

impl From<TaskError> for Box<dyn Error + Send + Sync> {
    /// Boxes the error. A task that returns the box fails as with the error itself.
    fn from(error: TaskError) -> Self {
        Self::from(Boxed::new(error.to_string(), error))
    }
}

impl From<TaskError> for Box<dyn Error> {
    /// Boxes the error. A task that returns the box fails as with the error itself.
    fn from(error: TaskError) -> Self {
        Self::from(Boxed::new(error.to_string(), error))
    }
}

/// Returns a type's name without its path and its parameters: `Error` for `dyn std::error::Error +
/// Send`.
fn name_of<T: ?Sized>() -> &'static str {
    let name = std::any::type_name::<T>();
    let name = name.split(['<', '+']).next().unwrap_or(name).trim_end();
    name.rsplit("::").next().unwrap_or(name)
}

impl fmt::Display for TaskError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl fmt::Debug for TaskError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TaskError")
            .field("error_type", &self.error_type())
            .field("message", &self.message)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("outer")]
    struct Outer<T: Error>(#[source] T);

    #[test]
    fn an_error_carries_the_messages_of_its_sources_and_the_name_of_its_type() {
        let error: TaskError = Outer("x".parse::<i64>().unwrap_err()).into();
        assert_eq!(error.to_string(), "outer: invalid digit found in string");
        assert_eq!(error.error_type(), "Outer");
    }
    #[test]
    fn an_error_in_a_box_keeps_its_messages_and_is_called_error() {
        let outer = || Outer("x".parse::<i64>().unwrap_err());
        let boxes = [
            TaskError::from_boxed(Box::<dyn Error>::from(outer())),
            TaskError::from_boxed(Box::<dyn Error + Send + Sync>::from(outer())),
            TaskError::from_boxed(Box::new(outer()) as Box<dyn Error + Send>),
            TaskError::from_boxed(anyhow::Error::from(outer())),
        ];
        for error in boxes {
            assert_eq!(error.to_string(), "outer: invalid digit found in string");
            assert_eq!(error.error_type(), "Error");
        }
        let shared = TaskError::from_boxed(std::sync::Arc::new(outer()));
        assert_eq!(shared.error_type(), "Outer");
    }

    #[test]
    fn a_task_error_comes_out_of_a_box_with_what_it_asks_for() {
        let asks = || TaskError::retry("busy", Duration::from_secs(9)).with_type("Busy");
        let boxes = [
            TaskError::from_boxed(Box::<dyn Error>::from(asks())),
            TaskError::from_boxed(Box::<dyn Error + Send + Sync>::from(asks())),
        ];
        for error in boxes {
            assert_eq!(
                (error.to_string(), error.error_type()),
                ("busy".into(), "Busy")
            );
            assert!(matches!(error.then, Then::Retry(_)));
        }
        let boxed = Box::<dyn Error + Send + Sync>::from(TaskError::new("no").fatal());
        let error = TaskError::from_boxed(anyhow::Error::from_boxed(boxed).context("step 2"));
        assert_eq!(error.to_string(), "step 2: no");
        assert!(matches!(error.then, Then::Fatal));
    }
}
