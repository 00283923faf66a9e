//! The host of a running task: what carries out its requests.

use std::fmt;
use std::sync::Arc;

use futures_util::future::BoxFuture;

use super::data::AppData;
use super::signal::SoftLimit;
use crate::backend::Backend;
use crate::backend::durable_view::DurableView;
use crate::backend::slot_holder::SlotHolder;
use crate::canvas::freeze::{Catalogue, SizeExceeded, SubtaskPlan};
use crate::canvas::outcome::Outcome;
use crate::canvas::stamps::Stamps;
use crate::canvas::task_update::TaskUpdate;
use crate::error::Result;

/// Carries out the requests of one attempt.
pub(crate) trait TaskHost: fmt::Debug + Send + Sync {
    fn backend(&self) -> Arc<dyn Backend>;

    fn view(&self) -> &Arc<DurableView>;

    /// Returns the stamps of the task.
    fn stamps(&self) -> &Stamps;

    /// Returns the registered tasks.
    fn catalogue(&self) -> &dyn Catalogue;

    /// Returns the app's data.
    fn data(&self) -> &AppData;

    /// Returns an error if a payload of task `name` is too large; `of` says what it is.
    fn check_size(&self, name: &str, of: &'static str, bytes: usize) -> Result<(), SizeExceeded>;

    /// Returns the attempt, if it holds a slot.
    fn slot_holder(self: Arc<Self>) -> Option<Arc<dyn SlotHolder>>;

    /// Runs this canvas as a part of the task, or joins the call with the same `key`, and waits for
    /// its outcome without holding a slot.
    fn call<'a>(self: Arc<Self>, key: &'a str, plan: SubtaskPlan)
    -> BoxFuture<'a, Result<Outcome>>;

    /// Adds one more member to the task's group.
    fn add(&self, plan: SubtaskPlan);

    /// Reports an update of the task. Ignored if the attempt is over.
    fn update(&self, update: TaskUpdate);

    fn soft_limit(&self) -> &SoftLimit;

    /// Registers that the task observes its cancellation. Returns whether the attempt was
    /// cancelled.
    fn observe_cancellation(&self) -> bool;

    /// Registers that the task observes its cancellation, and waits for it.
    fn cancelled(&self) -> BoxFuture<'_, ()>;
}
