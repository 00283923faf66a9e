//! The slot of a running attempt, which a wait gives back.

use std::cell::RefCell;
use std::fmt;
use std::sync::Arc;

use futures_util::future::BoxFuture;

use super::durable_view::DurableView;
use crate::canvas::id::Id;
use crate::canvas::stamps::Stamps;

/// A running attempt, as a wait within it needs it.
pub(crate) trait SlotHolder: fmt::Debug + Send + Sync {
    /// Returns the task's id.
    fn id(&self) -> Id;

    /// Returns the stamps of the task.
    fn stamps(&self) -> &Stamps;

    /// Returns whether the body blocks a thread.
    fn is_blocking(&self) -> bool;

    fn view(&self) -> &Arc<DurableView>;

    /// Gives the slot back, awaits `wait`, and then waits for a slot again. Must be called within
    /// the body or within a future that the body polls.
    fn without_slot<'a>(self: Arc<Self>, wait: BoxFuture<'a, ()>) -> BoxFuture<'a, ()>;
}

thread_local! {
    /// The attempt whose body is being polled on this thread.
    static CURRENT: RefCell<Option<Arc<dyn SlotHolder>>> = const { RefCell::new(None) };
}

/// Returns the attempt whose body calls this, if the attempt belongs to the app with this view.
pub(crate) fn current(view: &Arc<DurableView>) -> Option<Arc<dyn SlotHolder>> {
    let current = CURRENT.with_borrow(Option::clone);
    current.filter(|attempt| Arc::ptr_eq(attempt.view(), view))
}

/// Sets the attempt whose body is polled on this thread; returns the one before.
pub(crate) fn replace_current(attempt: Option<Arc<dyn SlotHolder>>) -> Option<Arc<dyn SlotHolder>> {
    CURRENT.replace(attempt)
}
