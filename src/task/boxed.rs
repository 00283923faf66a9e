//! A task's error inside a `Box<dyn Error>`.

use std::error::Error;
use std::fmt;
use std::sync::{Mutex, PoisonError};

use super::TaskError;

/// The boxed error. [`TaskError`] itself does not implement [`Error`], so that `?` can convert
/// every `Error` into one.
#[derive(Debug)]
struct Boxed(Inner);

/// The source of the boxed error, where [`take`] finds it whatever the type of the box.
#[derive(Debug)]
struct Inner {
    message: String,
    error: Mutex<Option<TaskError>>,
}

impl Boxed {
    fn new(error: TaskError) -> Self {
        Self(Inner {
            message: error.to_string(),
            error: Mutex::new(Some(error)),
        })
    }
}

impl Error for Boxed {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&self.0)
    }
}

impl Error for Inner {}

impl fmt::Display for Boxed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for Inner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

/// Takes the task's error out of the box, or out of one of its sources.
pub(super) fn take<E: Error + ?Sized>(error: &E) -> Option<TaskError> {
    let mut source = error.source();
    while let Some(cause) = source {
        if let Some(inner) = cause.downcast_ref::<Inner>() {
            return inner
                .error
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .take();
        }
        source = cause.source();
    }
    None
}

impl From<TaskError> for Box<dyn Error + Send + Sync> {
    /// Boxes the error. A task that returns the box fails as with the error itself.
    fn from(error: TaskError) -> Self {
        Self::from(Boxed::new(error))
    }
}

impl From<TaskError> for Box<dyn Error> {
    /// Boxes the error. A task that returns the box fails as with the error itself.
    fn from(error: TaskError) -> Self {
        Self::from(Boxed::new(error))
    }
}
