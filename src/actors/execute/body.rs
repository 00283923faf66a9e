//! The body of an attempt: code that it polls can look up the attempt, and logs in the attempt's
//! span.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tracing::Span;

use super::attempt::Attempt;
use super::call::{Guarded, Outcome};
use crate::backend::slot_holder::{SlotHolder, replace_current};

/// The call of an attempt's function.
pub(crate) struct Body {
    call: Guarded,
    /// `None` while the body is polled: then it is the current attempt of the thread.
    attempt: Option<Arc<dyn SlotHolder>>,
    span: Span,
}

impl Body {
    pub(crate) fn new(call: Guarded, attempt: Arc<Attempt>, span: Span) -> Self {
        Self {
            call,
            attempt: Some(attempt),
            span,
        }
    }
}

impl Future for Body {
    type Output = Outcome;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Outcome> {
        let Self {
            call,
            attempt,
            span,
        } = self.get_mut();
        let _entered = span.enter();
        let outer = replace_current(attempt.take());
        let outcome = Pin::new(call).poll(context);
        *attempt = replace_current(outer);
        outcome
    }
}
