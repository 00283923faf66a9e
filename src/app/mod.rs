//! The app: opens a store, starts the engine over it, and submits canvases.

mod breakers;
mod builder;
mod control;
mod lifecycle;
mod maintenance;
pub(crate) mod node;
mod runtime;
mod schedules;
mod seat;
mod why;

#[cfg(feature = "sled")]
use std::path::PathBuf;
use std::sync::Arc;

pub use self::builder::AppBuilder;
pub(crate) use self::lifecycle::Running;
pub use self::schedules::Schedules;
use self::seat::Source;

use crate::backend::slot_holder::SlotHolder;
use crate::backend::{self, WhenFull, revocation, slot_holder};
use crate::canvas::admission::pending_limit::Load;
use crate::canvas::id::Id;
use crate::canvas::parked::ParkedTask;
use crate::canvas::quarantine::policy::{QuarantinedTask, Released};
use crate::canvas::revoke_outcome::RevokeOutcome;
use crate::canvas::{Accepts, Canvas};
#[cfg(doc)]
use crate::error::{Error, GetError, SubmitError};
use crate::error::{IdError, Result};
use crate::persistence::{MemoryStore, Store};
use crate::result::{AsyncResult, Wait};

/// A running engine over one store. Clones share it; it stops when the last clone is dropped.
///
/// Dropping it blocks no thread and interrupts running tasks: the engine's threads end by
/// themselves, soon afterwards, and an app that is started over the same store waits for them.
/// [`shutdown`](Self::shutdown) lets running tasks end first, and tells when all has stopped.
///
/// It owns its threads, so any program can use it: under tokio, actix or any other executor, or,
/// with [`get_blocking`](AsyncResult::get_blocking), from a plain `main`.
///
/// ```
/// use chordal::prelude::*;
///
/// #[task]
/// async fn add(x: i64, y: i64) -> i64 {
///     x + y
/// }
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> chordal::Result<()> {
/// # let dir = tempfile::tempdir().unwrap();
/// # let path = dir.path().join("data");
/// let app = App::open(path).tasks(tasks![add]).start().await?;
/// let sum = app.apply_async(add.s(2, 2)).await?;
/// assert_eq!(sum.get().await?, 4);
/// app.shutdown().await
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct App(pub(crate) Arc<Running>);

/// Returns what a running attempt submits, with its stamps.
fn stamped(canvas: Canvas, attempt: Option<&dyn SlotHolder>) -> Canvas {
    match attempt {
        Some(attempt) => canvas.stamped(attempt.stamps()),
        None => canvas,
    }
}

impl App {
    /// Configures an app over the sled store in this directory, which is created if it does not
    /// exist.
    ///
    /// The directory must stay in place while the app runs. If it is renamed, replaced or deleted,
    /// the engine halts with [`StoreError::Moved`](crate::StoreError::Moved), and nothing is
    /// written to a new directory at its path.
    ///
    /// chordal never logs the arguments and results of tasks. sled logs stored bytes at its level
    /// `TRACE`, and only there.
    ///
    /// This exists with the feature `sled`, which is a default. With redb alone it does not: a
    /// directory belongs to one engine, and what a name opens does not depend on which features are
    /// on.
    #[cfg(feature = "sled")]
    pub fn open(directory: impl Into<PathBuf>) -> AppBuilder {
        AppBuilder::new(Source::Sled(directory.into()))
    }

    /// Configures an app with a store in memory: for tests, and for work that may be lost.
    pub fn in_memory() -> AppBuilder {
        Self::with_store(MemoryStore::new())
    }

    /// Configures an app over any other [`Store`]. With the feature `redb`,
    /// `App::with_store(RedbStore::open("data")?)` uses redb instead of sled.
    pub fn with_store(store: impl Store) -> AppBuilder {
        AppBuilder::new(Source::Given(Arc::new(store)))
    }

    /// Configures an app that runs each submitted canvas on the caller's thread, for tests
    /// (Celery's `task_always_eager`): [`apply_async`](Self::apply_async) returns when the whole
    /// canvas has ended, including its callbacks and errbacks.
    ///
    /// It starts no thread and needs no particular executor; the caller's executor must provide
    /// what its tasks need (tokio's timers, for example). The store is memory. The outcome of every
    /// canvas is the same as in an app with an engine, with these differences:
    ///
    /// - The members of a group run one after the other, in order; callbacks run after everything
    ///   else.
    /// - Blocking tasks block the caller.
    /// - Delays (`countdown`, `eta`, retry delays) are skipped without moving the clock. A task
    ///   that would have expired during its delay has expired.
    /// - No task is interrupted at its time limit: the limit is noticed when the task next wakes,
    ///   or, if it is a blocking task, returns. A [manual clock](crate::Clock::manual) wakes it.
    /// - Queues, priorities, concurrency, window, durability, retention and grace have no effect:
    ///   results are kept until the app is dropped.
    /// - If the future of `apply_async` is dropped, everything that it has not run fails.
    ///   [`shutdown`](Self::shutdown) waits for nothing, and unfinished work is lost.
    /// - [`get_timeout`](AsyncResult::get_timeout) does not wait.
    /// - Running work cannot be [revoked](AsyncResult::revoke).
    /// - [`TaskContext::call`](crate::TaskContext::call) runs on the stack of its task: about fifty
    ///   nested calls fill the 2 MB of a test's thread in an unoptimised build.
    ///
    /// ```
    /// use chordal::prelude::*;
    ///
    /// #[task]
    /// async fn add(x: i64, y: i64) -> i64 {
    ///     x + y
    /// }
    ///
    /// #[task]
    /// async fn total(all: Vec<i64>) -> i64 {
    ///     all.iter().sum()
    /// }
    ///
    /// # fn main() -> chordal::Result<()> { pollster::block_on(async {
    /// let app = App::eager().tasks(tasks![add, total]).start().await?;
    /// let sum = app.apply_async(chord(group((0..4).map(|i| add.s(i, i))), total.partial())).await?;
    /// assert!(sum.ready().await?);
    /// assert_eq!(sum.get().await?, 12);
    /// # Ok(()) }) }
    /// ```
    pub fn eager() -> AppBuilder {
        AppBuilder::new(Source::Eager)
    }

    /// Submits a signature. When this returns, the submission is as durable as the app is
    /// configured; the whole canvas is stored, or nothing of it.
    ///
    /// If the future is dropped before it returns, the work may or may not have been submitted.
    ///
    /// While too much is [pending](AppBuilder::max_pending), the call waits, in order of arrival.
    /// In a running task it behaves as
    /// [`TaskContext::apply_async`](crate::TaskContext::apply_async), and does not wait.
    ///
    /// ```
    /// # use chordal::prelude::*;
    /// use chordal::{Error, SubmitError};
    ///
    /// # #[task] async fn add(x: i64, y: i64) -> i64 { x + y }
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> chordal::Result<()> {
    /// # let app = App::in_memory().tasks(tasks![add]).start().await?;
    /// let sum = app.apply_async(add.s(2, 2)).await?;
    /// assert_eq!(sum.await?, 4);
    ///
    /// let refused = app.apply_async(Canvas::task("add", (2,))).await;
    /// assert!(matches!(refused, Err(Error::Submit(SubmitError::Canvas { .. }))));
    /// # app.shutdown().await }
    /// ```
    ///
    /// # Errors
    ///
    /// Returns [`SubmitError::Canvas`] if the canvas is refused, [`SubmitError::PayloadTooLarge`]
    /// if arguments are [too large](AppBuilder::max_payload), [`Error::Store`] if the store fails
    /// or the disk is full, [`Error::NoThread`] if the system has no thread to draw a large canvas
    /// with, and [`Error::ShutDown`] or [`Error::Halted`] if the engine no longer runs. A refused
    /// canvas leaves nothing in the store, nor does a future that is dropped before the engine has
    /// the whole canvas.
    ///
    /// # Panics
    ///
    /// If the iterator of a [`group`](crate::group()) panics.
    pub async fn apply_async<S: Accepts<()>>(
        &self,
        signature: S,
    ) -> Result<AsyncResult<S::Output>> {
        let backend = self.0.backend.clone();
        let attempt = slot_holder::current(backend.view());
        let when_full = match attempt {
            Some(_) => WhenFull::Admit,
            None => WhenFull::Wait,
        };
        let submitter = attempt.as_ref().map(|attempt| attempt.id());
        let canvas = stamped(signature.into_canvas(), attempt.as_deref());
        let guard = backend.clone().submit(canvas, when_full, submitter).await?;
        Ok(AsyncResult::of_task(backend, guard, attempt))
    }

    /// Submits as [`apply_async`](Self::apply_async) does, but if too much is
    /// [pending](AppBuilder::max_pending), refuses instead of waiting, and draws and stores
    /// nothing.
    ///
    /// ```
    /// # use chordal::prelude::*;
    /// use chordal::{Error, SubmitError};
    ///
    /// # #[task] async fn forever() { std::future::pending().await }
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> chordal::Result<()> {
    /// let app = App::in_memory().tasks(tasks![forever]).max_pending(1).start().await?;
    /// app.try_apply_async(forever.s()).await?;
    /// let more = app.try_apply_async(forever.s()).await;
    /// assert!(matches!(more, Err(Error::Submit(SubmitError::Busy { tasks: 1, .. }))));
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// [`SubmitError::Busy`], also if other submissions wait; and as
    /// [`apply_async`](Self::apply_async).
    ///
    /// # Panics
    ///
    /// As [`apply_async`](Self::apply_async).
    pub async fn try_apply_async<S: Accepts<()>>(
        &self,
        signature: S,
    ) -> Result<AsyncResult<S::Output>> {
        let backend = self.0.backend.clone();
        let attempt = slot_holder::current(backend.view());
        let submitter = attempt.as_ref().map(|attempt| attempt.id());
        let canvas = stamped(signature.into_canvas(), attempt.as_deref());
        let submitted = backend.clone().submit(canvas, WhenFull::Reject, submitter);
        Ok(AsyncResult::of_task(backend, submitted.await?, attempt))
    }

    /// Returns a new id, which one submission can take with
    /// [`task_id`](crate::Signature::task_id): so that it can be stored elsewhere before the
    /// submission.
    ///
    /// ```
    /// # use chordal::prelude::*;
    /// # #[task] async fn add(x: i64, y: i64) -> i64 { x + y }
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> chordal::Result<()> {
    /// # let app = App::in_memory().tasks(tasks![add]).start().await?;
    /// let id = app.new_id();
    /// // … store it
    /// let sum = app.apply_async(add.s(2, 2).task_id(id)).await?;
    /// assert_eq!(sum.id(), id);
    /// # app.shutdown().await }
    /// ```
    #[must_use]
    pub fn new_id(&self) -> Id {
        self.0.backend.new_id()
    }

    /// Returns how many tasks, chains, groups and chords are pending: those of all workflows that
    /// are submitted and have not ended, or are being submitted. The number is limited by
    /// [`max_pending`](AppBuilder::max_pending). An eager app has none.
    ///
    /// ```
    /// # use chordal::prelude::*;
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> chordal::Result<()> {
    /// let app = App::in_memory().start().await?;
    /// assert_eq!((app.pending(), app.pending_bytes()), (0, 0));
    /// # app.shutdown().await }
    /// ```
    #[must_use]
    pub fn pending(&self) -> u64 {
        self.load().tasks
    }

    /// Returns how many bytes all [pending](Self::pending) work takes in the store: mostly the
    /// arguments, not the results. The number is limited by
    /// [`max_pending_bytes`](AppBuilder::max_pending_bytes).
    #[must_use]
    pub fn pending_bytes(&self) -> u64 {
        self.load().bytes
    }

    fn load(&self) -> Load {
        self.0.backend.view().admission.taken()
    }

    /// Returns the handle of a task, chain, group or chord that was submitted earlier, even before
    /// a restart. The type is not checked here: a wrong type shows as [`GetError::Decode`].
    ///
    /// ```
    /// # use chordal::prelude::*;
    /// # #[task] async fn add(x: i64, y: i64) -> i64 { x + y }
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> chordal::Result<()> {
    /// # let app = App::in_memory().tasks(tasks![add]).start().await?;
    /// let id = app.apply_async(add.s(2, 2)).await?.id();
    /// assert_eq!(app.async_result::<i64>(id).await?.get().await?, 4);
    /// # app.shutdown().await }
    /// ```
    ///
    /// # Errors
    ///
    /// [`IdError::Unknown`] if it was never submitted to this store or its retention has ended.
    pub async fn async_result<O>(&self, id: Id) -> Result<AsyncResult<O>> {
        AsyncResult::find(self.0.backend.clone(), id).await
    }

    /// Submits a canvas again: all of it, with the same arguments and options, as a new workflow with
    /// an id of its own. `id` is that of the submission, which may have ended in any way or be
    /// running. An idempotency key is not taken over; a `countdown` counts anew, and an `eta` stays.
    /// The types are those of the submission; `O` is not checked here, as with
    /// [`async_result`](Self::async_result).
    ///
    /// ```
    /// # use chordal::prelude::*;
    /// # use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
    /// # static CALLS: AtomicU32 = AtomicU32::new(0);
    /// #[task]
    /// async fn fetch(url: String) -> Result<u64, TaskError> {
    /// #   if CALLS.fetch_add(1, Relaxed) == 0 { return Err(TaskError::new("503").fatal()); }
    ///     Ok(url.len() as u64)
    /// }
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> chordal::Result<()> {
    /// # let app = App::in_memory().tasks(tasks![fetch]).start().await?;
    /// let page = app.apply_async(fetch.s("https://a.example".into())).await?;
    /// if page.get().await.is_err() {
    ///     let again = app.resubmit::<u64>(page.id()).await?;
    ///     assert_eq!(again.get().await?, 17);
    /// }
    /// # app.shutdown().await }
    /// ```
    ///
    /// # Errors
    ///
    /// [`IdError::Unknown`] if it was never submitted to this store or its retention has ended,
    /// [`IdError::NotARoot`] for a part of a workflow, and as [`apply_async`](Self::apply_async).
    pub async fn resubmit<O>(&self, id: Id) -> Result<AsyncResult<O>> {
        if id != id.root() {
            return Err(IdError::NotARoot { id }.into());
        }
        let backend = self.0.backend.clone();
        // The handle keeps the records until they are copied.
        let _earlier = AsyncResult::<O>::find(backend.clone(), id).await?;
        let attempt = slot_holder::current(backend.view());
        let when_full = match attempt {
            Some(_) => WhenFull::Admit,
            None => WhenFull::Wait,
        };
        let submitter = attempt.as_ref().map(|attempt| attempt.id());
        let guard = backend.clone().resubmit(id, when_full, submitter).await?;
        Ok(AsyncResult::of_task(backend, guard, attempt))
    }

    /// Deletes the result and all other records of a submitted canvas as soon as it has ended,
    /// instead of keeping them until its retention ends: as [`AsyncResult::forget`], by id.
    ///
    /// ```
    /// # use chordal::prelude::*;
    /// # #[task] async fn add(x: i64, y: i64) -> i64 { x + y }
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> chordal::Result<()> {
    /// # let app = App::in_memory().tasks(tasks![add]).start().await?;
    /// let id = app.apply_async(add.s(2, 2)).await?.id();
    /// app.forget(id).await?; // as soon as it has ended
    /// # app.shutdown().await }
    /// ```
    ///
    /// # Errors
    ///
    /// [`IdError::Unknown`] if the id was never submitted to this store, its retention has ended,
    /// or it is already forgotten; and as [`AsyncResult::forget`].
    pub async fn forget(&self, id: Id) -> Result<()> {
        backend::forget(&*self.0.backend, id).await
    }

    /// Revokes a submitted canvas or any part of it, whether it has been reached yet or not. As
    /// [`AsyncResult::revoke`], by id.
    ///
    /// ```
    /// # use chordal::prelude::*;
    /// # use chordal::RevokeOutcome;
    /// # use std::time::Duration;
    /// # #[task] async fn remind(user: u64) {}
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> chordal::Result<()> {
    /// # let app = App::in_memory().tasks(tasks![remind]).start().await?;
    /// let later = remind.s(7).countdown(Duration::from_secs(86_400));
    /// let id = app.apply_async(later).await?.id();
    /// assert_eq!(app.revoke(id).await?, RevokeOutcome::BeforeStart);
    /// assert_eq!(app.revoke(id).await?, RevokeOutcome::AlreadyDone); // it has ended, as revoked
    /// # app.shutdown().await }
    /// ```
    ///
    /// # Errors
    ///
    /// As [`AsyncResult::revoke`].
    pub async fn revoke(&self, id: Id) -> Result<RevokeOutcome> {
        revocation::revoke(&*self.0.backend, id).await
    }

    /// Lists the tasks that this build cannot run, each with the reason: no task is registered
    /// under its name, or its arguments, stored by an earlier build, do not fit its parameters now
    /// (a parameter was added without a default, removed or retyped, a field or a variant renamed).
    /// They wait without using up an attempt. They run when the app is started with a build that
    /// can run them, or fail when they are [discarded](Self::discard). A task is also logged when
    /// it is parked.
    ///
    /// The list also includes the first tasks of workflows that still wait in the store, so it is
    /// complete right after `start`; for that it reads every unfinished workflow, on a thread of
    /// the app. A later task of a workflow is listed once it is reached.
    ///
    /// If the workflow itself is wrong, and not an older build, the task fails instead of being
    /// parked, with [`FailureKind::Type`](crate::FailureKind::Type), as Celery's does with a
    /// `TypeError`. This is the case if this process submitted the workflow, or if the value came
    /// from upstream in an untyped [`Canvas`](crate::Canvas). In an [eager](Self::eager) app
    /// nothing waits, and every such task fails.
    ///
    /// ```
    /// # use chordal::prelude::*;
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> chordal::Result<()> {
    /// let app = App::in_memory().start().await?;
    /// for task in app.parked().await? {
    ///     eprintln!("{} ({}) cannot run: {}", task.name, task.id, task.reason);
    /// }
    /// # app.shutdown().await }
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Store`] if a workflow cannot be read; [`Error::ShutDown`] or [`Error::Halted`] if
    /// the engine no longer runs.
    pub async fn parked(&self) -> Result<Vec<ParkedTask>> {
        self.0.backend.clone().parked().await
    }

    /// Lists the tasks that crash the process whenever they run: by an abort, a crash, a stack
    /// overflow, or by using all memory. They no longer run, in state
    /// [`Quarantined`](crate::State::Quarantined), until they are [requeued](Self::requeue) or
    /// [discarded](Self::discard); all other work continues. (Or they fail at once, if that is the
    /// app's [policy](AppBuilder::quarantine).)
    ///
    /// A task that was running when the process crashed runs again after the restart, like all
    /// tasks that ran beside it. After an abort, or after two crashes that may have come from
    /// outside, the tasks that were running are suspects, and start one after the other, beside all
    /// other work. The last of them starts within ten seconds of the open, however many there are.
    /// If the process crashes again, the ones that had just started are accused, and one of them at
    /// a time is tried: it starts first in the next session, and for a moment nothing else starts
    /// (a quarter of a second; at most four seconds if earlier crashes came a little later).
    ///
    /// An abort in that moment proves the task guilty: that makes
    /// [three](AppBuilder::quarantine_after) crashes. Any other crash may have been a `kill -9`.
    /// Then the next session first runs without the task for four seconds: if the process crashes
    /// meanwhile, the cause is another. A proof takes three such trials in a row, and six crashes,
    /// so that a program that is killed again and again keeps all its tasks. A machine that goes
    /// down (on Linux), and a process that is killed while the app [shuts down](Self::shutdown),
    /// count against no task.
    ///
    /// A task that crashes the process later than a second after its start is not found, unless few
    /// other tasks are suspects: then the time may be up to four seconds.
    ///
    /// With [`Durability::Buffered`](crate::Durability::Buffered) a crash may undo the record of a
    /// task's start, and with it the suspicion.
    ///
    /// ```
    /// # use chordal::prelude::*;
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> chordal::Result<()> {
    /// let app = App::in_memory().start().await?;
    /// for task in app.quarantined() {
    ///     eprintln!("{} ({}) has ended the process {} times", task.name, task.id, task.crashes);
    ///     app.discard(task.id).await?; // or `requeue`, once its cause is found
    /// }
    /// # app.shutdown().await }
    /// ```
    #[must_use]
    pub fn quarantined(&self) -> Vec<QuarantinedTask> {
        self.0.backend.view().quarantined()
    }

    /// Runs a [quarantined](Self::quarantined) task again, with a clean record.
    ///
    /// ```
    /// # use chordal::prelude::*;
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> chordal::Result<()> {
    /// let app = App::in_memory().start().await?;
    /// for task in app.quarantined() {
    ///     app.requeue(task.id).await?;
    /// }
    /// # app.shutdown().await }
    /// ```
    ///
    /// # Errors
    ///
    /// [`IdError::NotQuarantined`] if the task is not in quarantine; [`Error::Store`],
    /// [`Error::ShutDown`] or [`Error::Halted`] if the engine no longer runs.
    pub async fn requeue(&self, id: Id) -> Result<()> {
        let backend = self.0.backend.clone();
        backend.release(id, Released::ToRun).await.map(drop)
    }

    /// Fails a [quarantined](Self::quarantined) or [parked](Self::parked) task, without a retry:
    /// its errbacks run, a chord that it belongs to fails, and the workflow can end. The failure is
    /// [`FailureKind::Quarantined`](crate::FailureKind::Quarantined), or
    /// [`FailureKind::Type`](crate::FailureKind::Type) if the arguments do not fit, or
    /// [`FailureKind::NotRegistered`](crate::FailureKind::NotRegistered). It returns when the
    /// failure is durable. A parked task that has not been reached, such as a late member of a
    /// large group, fails when it is reached, even after a restart.
    ///
    /// ```
    /// # use chordal::prelude::*;
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> chordal::Result<()> {
    /// let app = App::in_memory().start().await?;
    /// for task in app.quarantined() {
    ///     app.discard(task.id).await?;
    /// }
    /// # app.shutdown().await }
    /// ```
    ///
    /// # Errors
    ///
    /// As [`requeue`](Self::requeue); [`IdError::NotQuarantined`] if it is neither in quarantine
    /// nor parked.
    pub async fn discard(&self, id: Id) -> Result<()> {
        let backend = &self.0.backend;
        if backend.clone().release(id, Released::ToFail).await? {
            let task = AsyncResult::<()>::find(backend.clone(), id).await?;
            drop(task.wait(Wait::Open).await?);
        }
        Ok(())
    }

    /// Starts to run tasks in an app that was started [paused](AppBuilder::paused), which has an
    /// example. A second call, or a call on an app that was not paused, does nothing.
    ///
    /// # Errors
    ///
    /// [`Error::Store`], [`Error::ShutDown`] or [`Error::Halted`] if the engine no longer runs.
    pub async fn resume(&self) -> Result<()> {
        self.0.backend.resume().await
    }

    /// Returns how many unfinished workflows are in memory; all others
    /// [wait](AppBuilder::live_workflows) in the store.
    ///
    /// ```
    /// # use chordal::prelude::*;
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> chordal::Result<()> {
    /// let app = App::in_memory().start().await?;
    /// assert_eq!(app.live_workflows(), 0);
    /// # app.shutdown().await }
    /// ```
    #[must_use]
    pub fn live_workflows(&self) -> u64 {
        self.0.backend.view().live() as u64
    }
}
