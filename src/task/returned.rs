//! The types that a task's function may return.

use std::error::Error;

use super::TaskError;
use crate::canvas::Canvas;

/// The `Result` that a task's function returns, under any alias.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is no `Result<T, E>` of the standard library",
    label = "called `Result`, but another type",
    note = "a task returns a value, or a `Result<T, E>`: give this type another name here, `use {Self} as Outcome`"
)]
pub trait TaskResult {
    /// The type of the task's value.
    type Value;
    /// The type of the task's error.
    type Error;

    /// Returns the value as a standard `Result`.
    ///
    /// # Errors
    ///
    /// The task's own error.
    fn into_result(self) -> Result<Self::Value, Self::Error>;
}

impl<T, E> TaskResult for Result<T, E> {
    type Value = T;
    type Error = E;

    fn into_result(self) -> Self {
        self
    }
}

/// The return type of a task that can be [replaced](crate::TaskContext::replace) by a canvas with
/// the value `O`: a `Result<O, TaskError>`, or one with a `Box<dyn Error>`.
#[diagnostic::on_unimplemented(
    message = "a task that returns `{Self}` cannot be replaced by a canvas that gives `{O}`",
    label = "`{Self}` is expected here, and the canvas gives `{O}`",
    note = "a task is replaced by a canvas that gives what the task gives, and returns a `Result<{O}, TaskError>`"
)]
pub trait Replaced<O>: sealed::Sealed {
    #[doc(hidden)]
    fn by(canvas: Canvas) -> Self;
}

mod sealed {
    pub trait Sealed {}
    impl<O, E> Sealed for Result<O, E> {}
}

impl<O> Replaced<O> for Result<O, TaskError> {
    fn by(canvas: Canvas) -> Self {
        Err(TaskError::replaced_by(canvas))
    }
}

impl<O> Replaced<O> for Result<O, Box<dyn Error + Send + Sync>> {
    fn by(canvas: Canvas) -> Self {
        Err(TaskError::replaced_by(canvas).into())
    }
}

impl<O> Replaced<O> for Result<O, Box<dyn Error>> {
    fn by(canvas: Canvas) -> Self {
        Err(TaskError::replaced_by(canvas).into())
    }
}
