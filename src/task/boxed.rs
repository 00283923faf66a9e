//! A value inside a `Box<dyn Error>`, under an error's message.

use std::error::Error;
use std::fmt;
use std::sync::{Mutex, PoisonError};

/// The boxed error, which carries the value.
#[derive(Debug)]
pub(super) struct Boxed<T>(Inner<T>);

/// The source of the boxed error, where [`take`] finds it whatever the type of the box.
#[derive(Debug)]
struct Inner<T> {
    message: String,
    value: Mutex<Option<T>>,
}

impl<T> Boxed<T> {
    pub(super) fn new(message: String, value: T) -> Self {
        Self(Inner {
            message,
            value: Mutex::new(Some(value)),
        })
    }
}

impl<T: fmt::Debug + 'static> Error for Boxed<T> {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&self.0)
    }
}

impl<T: fmt::Debug> Error for Inner<T> {}

impl<T> fmt::Display for Boxed<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl<T> fmt::Display for Inner<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

/// Takes the value out of the box, or out of one of its sources.
pub(super) fn take<T: fmt::Debug + 'static, E: Error + ?Sized>(error: &E) -> Option<T> {
    let mut source = error.source();
    while let Some(cause) = source {
        if let Some(inner) = cause.downcast_ref::<Inner<T>>() {
            return inner
                .value
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .take();
        }
        source = cause.source();
    }
    None
}
