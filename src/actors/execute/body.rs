//! The body of an attempt: code that it polls can look up the attempt, and logs in the attempt's
//! span.

use std::cell::RefCell;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tracing::Span;

use super::attempt::Attempt;
use super::call::{Guarded, Outcome};
use crate::backend::view::Shared;

thread_local! {
    /// The attempt whose body is being polled on this thread.
    static CURRENT: RefCell<Option<Arc<Attempt>>> = const { RefCell::new(None) };
}

/// Returns the attempt whose body calls this, if the attempt belongs to this app.
pub(crate) fn current(shared: &Arc<Shared>) -> Option<Arc<Attempt>> {
    let current = CURRENT.with_borrow(Option::clone);
    current.filter(|attempt| Arc::ptr_eq(attempt.shared(), shared))
}

/// The call of an attempt's function.
pub(crate) struct Body {
    call: Guarded,
    /// `None` while the body is polled: then the attempt is in `CURRENT`.
    attempt: Option<Arc<Attempt>>,
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
        let outer = CURRENT.replace(attempt.take());
        let outcome = Pin::new(call).poll(context);
        *attempt = CURRENT.replace(outer);
        outcome
    }
}
