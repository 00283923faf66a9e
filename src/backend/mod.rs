//! The backend of an app, the engine or eager mode, as handles and task contexts use it.

pub(crate) mod admission_control;
pub(crate) mod durable_view;
pub(crate) mod pool;
pub(crate) mod retention_guard;
pub(crate) mod revocation;
pub(crate) mod slot_holder;
pub(crate) mod updates;
pub(crate) mod user_runtime;
mod values;
mod watch;
pub(crate) mod why;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;

use self::durable_view::DurableView;
use self::retention_guard::RetentionGuard;
pub(crate) use self::watch::Watch;
use crate::canvas::Canvas;
use crate::canvas::admission::control::{ControlChange, ControlTarget};
use crate::canvas::breaker::Breaker;
use crate::canvas::id::Id;
use crate::canvas::parked::ParkedTask;
use crate::canvas::quarantine::policy::Released;
use crate::canvas::revocation::NodeKey;
use crate::canvas::schedule::{Change, ScheduleEntry};
use crate::canvas::why::Why;
use crate::clock::{IdRefusal, Ids};
use crate::error::{Error, IdError, Result, SubmitError};
use crate::persistence::{Store, StoreError};

/// Runs what is submitted: the engine, on its threads, or eager mode, on the submitting thread.
pub(crate) trait Backend: fmt::Debug + Send + Sync {
    fn view(&self) -> &Arc<DurableView>;

    /// Submits a canvas; `by` is the running task that submits it, if one does. The returned guard
    /// names the workflow and keeps it from being swept.
    fn submit(
        self: Arc<Self>,
        canvas: Canvas,
        when_full: WhenFull,
        by: Option<Id>,
    ) -> BoxFuture<'static, Result<RetentionGuard>>;

    /// Submits again what a stored workflow was submitted with, as [`submit`](Self::submit) does.
    fn resubmit(
        self: Arc<Self>,
        root: Id,
        when_full: WhenFull,
        by: Option<Id>,
    ) -> BoxFuture<'static, Result<RetentionGuard>>;

    /// Returns the circuit breakers, by name.
    fn breakers(&self) -> Vec<(String, Breaker)>;

    /// Returns an id that a submission may choose.
    fn new_id(&self) -> Id;

    /// Loads a workflow at once, wherever it waits: a running task waits for it.
    fn load_early(&self, root: Id);

    /// Marks a node as revoked. Returns, once the mark is durable, whether every record that may
    /// have been on its way is settled.
    fn mark_revoked(&self, id: Id, node: NodeKey) -> BoxFuture<'_, Result<bool>>;

    /// As [`forget`], for the id of a workflow.
    fn forget(&self, id: Id) -> BoxFuture<'_, Result<()>>;

    /// Waits until everything that is visible in the store is durable.
    fn confirm(&self) -> BoxFuture<'_, Result<()>>;

    /// Releases a task from quarantine, or makes a parked one fail. Returns whether the task is
    /// parked in memory: then it is about to end.
    fn release(self: Arc<Self>, id: Id, released: Released) -> BoxFuture<'static, Result<bool>>;

    /// Starts the waiting tasks of an app that was started paused.
    fn resume(&self) -> BoxFuture<'_, Result<()>>;

    /// Changes the settings of a queue or a task. Returns when that is durable.
    fn control(&self, target: ControlTarget, change: ControlChange) -> BoxFuture<'_, Result<()>>;

    /// Returns all tasks that this build cannot run.
    fn parked(self: Arc<Self>) -> BoxFuture<'static, Result<Vec<ParkedTask>>>;

    /// Changes an entry of the schedules. Returns, once that is durable, the workflow that a trigger
    /// submitted.
    fn change_schedule(
        self: Arc<Self>,
        name: String,
        change: Change<Canvas>,
    ) -> BoxFuture<'static, Result<Option<Id>>>;

    /// Lists the entries of the schedules.
    fn schedules(&self) -> BoxFuture<'_, Result<Vec<ScheduleEntry>>>;

    /// Returns what a node waits for.
    fn why(self: Arc<Self>, id: Id) -> BoxFuture<'static, Result<Vec<Why>>>;

    /// Calls a function with the store while nothing is written to it.
    fn inspect(&self, inspect: Inspect) -> BoxFuture<'_, Result<u64>>;

    /// Asks the engine to stop: it starts no more tasks, and lets running ones end until `grace` is
    /// over. Eager mode ends at once.
    fn stop(&self, grace: Duration);
}

/// A function that is called with a store, such as an export, which returns the number of records.
pub(crate) type Inspect = Box<dyn FnOnce(&dyn Store) -> Result<u64, StoreError> + Send>;

/// Marks a workflow so that its result is deleted as soon as it has ended.
pub(crate) async fn forget(backend: &dyn Backend, id: Id) -> Result<()> {
    if id != id.root() {
        return Err(Error::Id(IdError::NotARoot { id }));
    }
    backend.forget(id).await
}

/// What a submission does when the limit of pending work is reached.
#[derive(Clone, Copy, Debug)]
pub(crate) enum WhenFull {
    /// The submission waits.
    Wait,
    /// The submission fails.
    Reject,
    /// The submission is admitted above the limit: a submitting task holds a slot that other tasks
    /// wait for.
    Admit,
}

/// The longest idempotency key, in bytes.
const MAX_KEY: usize = 1_024;

/// Takes the id that the caller chose out of the canvas.
pub(crate) fn take_task_id(canvas: &mut Canvas) -> Option<Id> {
    let extras = canvas.extras.as_mut();
    extras.and_then(|extras| extras.task_id.take())
}

/// Takes an id that a caller chose for a submission, which must release it at its end.
pub(crate) fn choose_id(ids: &Ids, view: &DurableView, id: Id) -> Result<()> {
    let duplicate = || SubmitError::DuplicateId { id };
    ids.take(id, &view.clock).map_err(|refusal| match refusal {
        IdRefusal::Taken => duplicate(),
        IdRefusal::Unassigned => SubmitError::Canvas {
            path: String::new(),
            reason: format!("the task id {id} is none that `App::new_id` has given"),
        },
    })?;
    let is_used = view.reader().and_then(|reader| Ok(reader.is_used(id)?));
    if !matches!(is_used, Ok(false)) {
        ids.release(id);
    }
    match is_used? {
        true => Err(duplicate().into()),
        false => Ok(()),
    }
}

/// Takes the idempotency key out of the canvas.
pub(crate) fn take_idempotency_key(canvas: &mut Canvas) -> Result<Option<String>> {
    let extras = canvas.extras.as_mut();
    let key = extras.and_then(|extras| extras.idempotency_key.take());
    if let Some(key) = &key
        && (key.is_empty() || key.len() > MAX_KEY)
    {
        return Err(Error::Submit(SubmitError::Canvas {
            path: String::new(),
            reason: format!("an idempotency key has 1 to {MAX_KEY} bytes"),
        }));
    }
    Ok(key)
}
