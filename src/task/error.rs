//! Why a task failed, and what is to come of it.

use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

use super::{Retry, TaskOptions};
use crate::canvas::Canvas;
use crate::canvas::id::Id;
use crate::canvas::machine::task;
use crate::canvas::outcome::{FailureKind, TaskFailure, shorten};
use crate::canvas::parked::Misfit;

/// Why a task failed. Any [`std::error::Error`] becomes one with `?` or `.into()`.
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

/// What the task wants to come of it.
enum Then {
    /// Another attempt, if its options say so.
    Auto,
    /// Another attempt, if there are retries left.
    Retry(Box<Retry>),
    Fatal,
    /// Its arguments do not decode.
    Unfit(Misfit),
    /// It is no failure: this canvas takes the task's place.
    Replace(Box<Canvas>),
}

/// What comes of an attempt that gave no value.
pub(crate) enum Next {
    Retry(task::Retry),
    Replace(Box<Canvas>),
    /// The function was not called.
    Unfit(Misfit),
}

impl TaskError {
    /// An error with this message. Its [type](Self::with_type) is called `TaskError`.
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

    /// An error that asks for the next attempt after `delay`, if the task has retries left. See
    /// [`TaskContext::retry`](crate::TaskContext::retry) for all that can be asked for.
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
        Self {
            then: Then::Retry(Box::new(Retry::new().countdown(delay))),
            ..Self::new(message)
        }
    }

    /// The same error, not to be tried again however many retries are left.
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

    /// The same error by another name: what [`TaskFailure::error_type`] says.
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

    /// Returns the name of the error's type: that of the error it was made from, without its path,
    /// or what it was [given](Self::with_type).
    #[must_use]
    pub fn error_type(&self) -> &str {
        match &self.error_type {
            Some(name) => name,
            None => self.kind.error_type(),
        }
    }

    /// Arguments or a result of the wrong type: the next attempt would fail alike.
    pub(crate) fn wrong_type(message: String) -> Self {
        Self {
            kind: FailureKind::Type,
            ..Self::new(message).fatal()
        }
    }

    /// Arguments that do not decode: the function was not called.
    pub(super) fn unfit(message: String, misfit: Misfit) -> Self {
        Self {
            then: Then::Unfit(misfit),
            ..Self::wrong_type(message)
        }
    }

    /// What it gives is larger than is taken: the next attempt would fail alike.
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

    pub(crate) fn soft_time_limit() -> Self {
        Self {
            kind: FailureKind::SoftTimeLimit,
            ..Self::new("")
        }
    }

    /// No error: this canvas takes the task's place.
    pub(super) fn replaced_by(canvas: Canvas) -> Self {
        Self {
            then: Then::Replace(Box::new(canvas)),
            ..Self::new("the task is replaced")
        }
    }

    /// The same error, of one item of a map or fold. The task is the whole: an item can say nothing
    /// that is about all of them.
    pub(crate) fn of_item(self, whole: &str) -> Self {
        match &self.then {
            Then::Replace(_) => {
                Self::wrong_type(format!("an item of a {whole} cannot be replaced"))
            }
            Then::Retry(retry) if retry.has_args() => Self::wrong_type(format!(
                "an item of a {whole} cannot change the arguments of the {whole}"
            )),
            _ => self,
        }
    }

    /// What comes of it, for a task with these options.
    pub(crate) fn next(&self, options: &TaskOptions) -> Next {
        Next::Retry(match &self.then {
            Then::Replace(canvas) => return Next::Replace(canvas.clone()),
            Then::Unfit(misfit) => return Next::Unfit(*misfit),
            Then::Fatal => task::Retry::Never,
            Then::Auto => match options.retry_if {
                Some(is_worth_it) if !is_worth_it(self) => task::Retry::Never,
                _ => task::Retry::Auto,
            },
            Then::Retry(retry) => retry.asked(),
        })
    }

    /// The failure that the task ends with if there is no further attempt.
    pub(crate) fn failure(&self, id: Id, name: &str, attempt: u32) -> Box<TaskFailure> {
        let mut failure = TaskFailure::new(self.kind, id, name, attempt, &self.message);
        if let Some(error_type) = &self.error_type {
            failure.error_type = shorten(error_type);
        }
        failure
    }
}

impl<E: std::error::Error> From<E> for TaskError {
    /// The error's message, and those of its sources that it does not repeat.
    fn from(error: E) -> Self {
        let mut message = error.to_string();
        let mut source = error.source();
        while let Some(cause) = source {
            let text = cause.to_string();
            if !message.ends_with(&text) {
                message = format!("{message}: {text}");
            }
            source = cause.source();
        }
        Self::new(message).with_type(name_of::<E>())
    }
}

impl From<Retry> for TaskError {
    fn from(mut retry: Retry) -> Self {
        let mut error = match retry.take_cause() {
            Some(cause) => cause,
            None => Self {
                kind: FailureKind::MaxRetriesExceeded,
                ..Self::new("no retries are left")
            },
        };
        error.then = match retry.take_fault() {
            Some(fault) => return Self::wrong_type(fault),
            None => Then::Retry(Box::new(retry)),
        };
        error
    }
}

/// A type's name without its path and without its parameters.
fn name_of<T>() -> &'static str {
    let name = std::any::type_name::<T>();
    let name = name.split('<').next().unwrap_or(name);
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
    struct Outer<T: std::error::Error>(#[source] T);

    #[test]
    fn an_error_carries_the_messages_of_its_sources_and_the_name_of_its_type() {
        let error: TaskError = Outer("x".parse::<i64>().unwrap_err()).into();
        assert_eq!(error.to_string(), "outer: invalid digit found in string");
        assert_eq!(error.error_type(), "Outer");
    }
}
