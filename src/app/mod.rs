//! The app: opens a store, starts the engine over it, and submits canvases.

#[cfg(feature = "__simulation")]
pub(crate) mod here;
mod maintenance;
mod runtime;

use std::collections::HashMap;
#[cfg(feature = "sled")]
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use actix::{Actor, Addr, Arbiter, System, SystemRunner};
use parking_lot::Mutex;
use tokio::sync::{oneshot, watch};

use self::runtime::{MAX_WORKERS, Runtime};

use crate::actors::clock::{Clock, Ids};
use crate::actors::commit::committer::{Committer, StoreActor, WriteLock};
use crate::actors::context::shared::{Backend, EngineHandle, Shared};
use crate::actors::context::{EngineContext, Limits, RecoveredState, TrialSettings};
use crate::actors::dispatch::dispatcher::Slots;
use crate::actors::engine::EngineActor;
use crate::actors::engine::admission_control::AdmissionControl;
use crate::actors::engine::client;
use crate::actors::engine::client::{Client, WhenFull};
use crate::actors::engine::parked;
use crate::actors::engine::sweeper;
use crate::actors::execute::body;
use crate::actors::execute::user_runtime::UserRuntime;
use crate::actors::scheduler::SchedulerActor;
use crate::canvas::Accepts;
use crate::canvas::admission::pending_limit::Load;
use crate::canvas::id::Id;
use crate::canvas::parked::ParkedTask;
use crate::canvas::quarantine::policy::{QuarantineHook, QuarantinePolicy, QuarantinedTask};
use crate::canvas::revoke_outcome::RevokeOutcome;
use crate::error::{Error, Result};
use crate::messages::engine::Shutdown;
use crate::messages::task::Released;
#[cfg(feature = "sled")]
use crate::persistence::SledStore;
use crate::persistence::records::reader::Reader;
use crate::persistence::records::steady::ClockReading;
use crate::persistence::{Durability, LOCK_TIMEOUT, MemoryStore, Store};
use crate::result::{AsyncResult, Wait};
use crate::task::{PayloadLimit, Registry, TaskEntry, refuse_over_long};

/// How long dropping an app waits for its engine to close the store.
const DROP_TIMEOUT: Duration = Duration::from_secs(5);

/// How long blocking tasks that outlast the grace period may continue before they are abandoned.
const BLOCKING_GRACE: Duration = Duration::from_millis(500);

/// A running engine over one store. Clones share it; it stops when the last clone is dropped.
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
pub struct App(Arc<Running>);

#[derive(Debug)]
struct Running {
    shared: Arc<Shared>,
    grace: Duration,
    /// `None` in an eager app.
    engine: Option<EngineThread>,
}

/// The engine's thread, which stops all others when it ends.
#[derive(Debug)]
struct EngineThread {
    handle: thread::JoinHandle<()>,
    /// Closed when everything has stopped.
    ended: watch::Receiver<()>,
    /// Whether the engine has been told to stop.
    is_stopping: AtomicBool,
    runtime: SharedRuntime,
}

/// The runtime of user code. The engine's thread stops it at its end, or the dropped app stops it
/// earlier.
type SharedRuntime = Arc<Mutex<Option<Runtime>>>;

impl EngineThread {
    /// Tells the engine to stop; returns whether this is the first time.
    fn stop(&self, shared: &Shared, grace: Duration) -> bool {
        let is_first = !self.is_stopping.swap(true, Ordering::SeqCst);
        if is_first {
            shared
                .engine_handle()
                .client()
                .engine
                .do_send(Shutdown { grace });
        }
        is_first
    }

    /// Waits until everything has stopped, whichever caller asked for it.
    async fn ended(&self) {
        let mut ended = self.ended.clone();
        while ended.changed().await.is_ok() {}
        // (If the engine's thread panicked, it has not stopped the runtime.)
        drop(self.runtime.lock().take());
    }
}

/// Configures an [`App`]; created by [`App::open`], completed by [`start`](Self::start).
#[derive(Debug)]
#[must_use = "an app does nothing until it is started"]
pub struct AppBuilder {
    store: Source,
    tasks: Vec<TaskEntry>,
    durability: Durability,
    retention: Duration,
    grace: Duration,
    window: u64,
    live: usize,
    slots: Slots,
    queues: HashMap<String, Slots>,
    worker_threads: usize,
    is_paused: bool,
    trials: TrialSettings,
    quarantine: QuarantinePolicy,
    on_quarantine: Option<QuarantineHook>,
    pending_limit: Load,
    max_payload: u64,
    clock: Clock,
    lock_timeout: Duration,
}

#[derive(Debug)]
enum Source {
    #[cfg(feature = "sled")]
    Sled(PathBuf),
    Given(Arc<dyn Store>),
    /// An own memory store, and all tasks run on the caller's thread.
    Eager,
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
    /// This exists with the feature `sled`, which is a default. With redb alone it does not: a directory
    /// belongs to one engine, and what a name opens does not depend on which features are on.
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
    ///   or, if it is a blocking task, returns. A [manual clock](Clock::manual) wakes it.
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
    /// # #[task] async fn add(x: i64, y: i64) -> i64 { x + y }
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> chordal::Result<()> {
    /// # let app = App::in_memory().tasks(tasks![add]).start().await?;
    /// let sum = app.apply_async(add.s(2, 2)).await?;
    /// assert_eq!(sum.get().await?, 4);
    ///
    /// let refused = app.apply_async(Canvas::task("add", (2,))).await;
    /// assert!(matches!(refused, Err(chordal::Error::Canvas { .. })));
    /// # app.shutdown().await }
    /// ```
    ///
    /// # Errors
    ///
    /// Returns [`Error::Canvas`] if the canvas is refused, [`Error::PayloadTooLarge`] if arguments
    /// are [too large](AppBuilder::max_payload), [`Error::Store`] if the store fails or the disk is
    /// full, [`Error::NoThread`] if the system has no thread to draw a large canvas with, and
    /// [`Error::ShutDown`] or [`Error::Halted`] if the engine no longer runs. A refused canvas
    /// leaves nothing in the store, nor does a future that is dropped before the engine has the
    /// whole canvas.
    ///
    /// # Panics
    ///
    /// If the iterator of a [`group`](crate::group()) panics.
    pub async fn apply_async<S: Accepts<()>>(
        &self,
        signature: S,
    ) -> Result<AsyncResult<S::Output>> {
        let shared = &self.0.shared;
        let attempt = body::current(shared);
        let when_full = match attempt {
            Some(_) => WhenFull::Admit,
            None => WhenFull::Wait,
        };
        let submitter = attempt.as_ref().map(|attempt| attempt.id());
        let guard = client::submit(shared, signature.into_canvas(), when_full, submitter).await?;
        Ok(AsyncResult::of_task(shared.clone(), guard, attempt))
    }

    /// Submits as [`apply_async`](Self::apply_async) does, but if too much is
    /// [pending](AppBuilder::max_pending), refuses instead of waiting, and draws and stores
    /// nothing.
    ///
    /// ```
    /// # use chordal::prelude::*;
    /// # #[task] async fn forever() { std::future::pending().await }
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> chordal::Result<()> {
    /// let app = App::in_memory().tasks(tasks![forever]).max_pending(1).start().await?;
    /// app.try_apply_async(forever.s()).await?;
    /// let more = app.try_apply_async(forever.s()).await;
    /// assert!(matches!(more, Err(chordal::Error::Busy { tasks: 1, .. })));
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Busy`], also if other submissions wait; and as [`apply_async`](Self::apply_async).
    ///
    /// # Panics
    ///
    /// As [`apply_async`](Self::apply_async).
    pub async fn try_apply_async<S: Accepts<()>>(
        &self,
        signature: S,
    ) -> Result<AsyncResult<S::Output>> {
        let shared = &self.0.shared;
        let attempt = body::current(shared);
        let submitter = attempt.as_ref().map(|attempt| attempt.id());
        let canvas = signature.into_canvas();
        let guard = client::submit(shared, canvas, WhenFull::Reject, submitter).await?;
        Ok(AsyncResult::of_task(shared.clone(), guard, attempt))
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
        match &self.0.shared.backend {
            Backend::Engine(engine) => engine.admission.taken(),
            Backend::Eager(_) => Load::default(),
        }
    }

    /// Returns the handle of a task, chain, group or chord that was submitted earlier, even before
    /// a restart. The type is not checked here: a wrong type shows as [`Error::Decode`].
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
    /// [`Error::UnknownId`] if it was never submitted to this store or its retention has ended.
    pub async fn async_result<O>(&self, id: Id) -> Result<AsyncResult<O>> {
        AsyncResult::find(self.0.shared.clone(), id).await
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
    /// [`Error::UnknownId`] if the id was never submitted to this store, its retention has ended,
    /// or it is already forgotten; and as [`AsyncResult::forget`].
    pub async fn forget(&self, id: Id) -> Result<()> {
        client::forget(&self.0.shared, id).await
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
        client::revoke(&self.0.shared, id).await
    }

    /// Lists the tasks that this build cannot run, each with the reason: no task is registered
    /// under its name, or its arguments, stored by an earlier build, do not fit its parameters now
    /// (a parameter was added without a default, removed or retyped, a field or a variant renamed).
    /// They wait without using up an attempt. They run when the app is started with a build that
    /// can run them, or fail when they are [discarded](Self::discard). A task is also logged when
    /// it is parked.
    ///
    /// The list also includes the first tasks of workflows that still wait in the store, so it is
    /// complete right after `start`; for that it reads every unfinished workflow. A later task of a
    /// workflow is listed once it is reached.
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
    /// for task in app.parked() {
    ///     eprintln!("{} ({}) cannot run: {}", task.name, task.id, task.reason);
    /// }
    /// # app.shutdown().await }
    /// ```
    #[must_use]
    pub fn parked(&self) -> Vec<ParkedTask> {
        parked::parked(&self.0.shared)
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
    /// With [`Durability::Buffered`] a crash may undo the record of a task's start, and with it the
    /// suspicion.
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
        self.0.shared.quarantined()
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
    /// [`Error::NotQuarantined`] if the task is not in quarantine; [`Error::Store`],
    /// [`Error::ShutDown`] or [`Error::Halted`] if the engine no longer runs.
    pub async fn requeue(&self, id: Id) -> Result<()> {
        client::release(&self.0.shared, id, Released::ToRun)
            .await
            .map(drop)
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
    /// As [`requeue`](Self::requeue); [`Error::NotQuarantined`] if it is neither in quarantine nor
    /// parked.
    pub async fn discard(&self, id: Id) -> Result<()> {
        let shared = &self.0.shared;
        if client::release(shared, id, Released::ToFail).await? {
            let task = AsyncResult::<()>::find(shared.clone(), id).await?;
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
        client::resume(&self.0.shared).await
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
    pub fn live_workflows(&self) -> usize {
        self.0.shared.live()
    }

    /// Stops the app: starts no more tasks, waits for the running ones until the [grace
    /// period](AppBuilder::grace) is over, and closes the store. Unfinished work resumes when the
    /// store is opened again, including due callbacks that have not started; an interrupted task
    /// runs again, with the next attempt number. Waiting handles get [`Error::ShutDown`].
    ///
    /// The first call begins the shutdown. A further call, even after the future of the first was
    /// dropped, waits for the same end. The app stops whether or not the futures are polled.
    ///
    /// # Errors
    ///
    /// The [`Error::Store`] or [`Error::Halted`] that stopped the engine earlier.
    pub async fn shutdown(&self) -> Result<()> {
        let earlier = self.0.shared.ended();
        match &self.0.engine {
            Some(engine) => {
                engine.stop(&self.0.shared, self.0.grace);
                engine.ended().await;
            }
            None => self.0.close_in_place(),
        }
        match earlier.or_else(|| self.0.shared.ended()) {
            None | Some(Error::ShutDown) => Ok(()),
            Some(error) => Err(error),
        }
    }
}

impl AppBuilder {
    fn new(store: Source) -> Self {
        let cores = thread::available_parallelism().map_or(2, usize::from);
        Self {
            store,
            tasks: Vec::new(),
            durability: Durability::default(),
            retention: Duration::from_secs(24 * 60 * 60),
            grace: Duration::from_secs(25),
            window: 2_048,
            live: 10_000,
            slots: Slots {
                asynchronous: 1_024,
                blocking: cores,
            },
            queues: HashMap::new(),
            worker_threads: cores,
            is_paused: false,
            trials: TrialSettings {
                crashes: 3,
                note_aborts: true,
            },
            quarantine: QuarantinePolicy::default(),
            on_quarantine: None,
            pending_limit: Load {
                tasks: 10_000_000,
                bytes: 10 << 30,
            },
            max_payload: PayloadLimit::DEFAULT,
            clock: Clock::system(),
            lock_timeout: LOCK_TIMEOUT,
        }
    }

    /// Registers tasks, listed with [`tasks!`](crate::tasks!): every task that this store has
    /// unfinished work for, and every task to be submitted. Work under a name that is no longer
    /// registered, or with arguments that its task no longer takes, is [parked](App::parked).
    pub fn tasks(mut self, tasks: impl IntoIterator<Item = TaskEntry>) -> Self {
        self.tasks.extend(tasks);
        self
    }

    /// Sets how much a crash may undo. Default: [`Durability::Power`], nothing.
    ///
    /// ```
    /// # use chordal::prelude::*;
    /// # use std::time::Duration;
    /// let builder = App::in_memory().durability(chordal::Durability::Process);
    /// ```
    pub fn durability(mut self, durability: Durability) -> Self {
        self.durability = durability;
        self
    }

    /// Sets how long the results of a finished workflow are kept; a workflow with live handles is
    /// kept at least as long as they exist. Default: one day, as in Celery.
    ///
    /// ```
    /// # use chordal::prelude::*;
    /// # use std::time::Duration;
    /// let builder = App::in_memory().retention(Duration::from_secs(3_600));
    /// ```
    pub fn retention(mut self, retention: Duration) -> Self {
        self.retention = retention;
        self
    }

    /// Sets how long [`App::shutdown`] waits for running tasks, and how long a
    /// [revoked](crate::TaskContext::cancelled) task may clean up. Default: 25 s.
    ///
    /// ```
    /// # use chordal::prelude::*;
    /// # use std::time::Duration;
    /// let builder = App::in_memory().grace(Duration::from_secs(5));
    /// ```
    pub fn grace(mut self, grace: Duration) -> Self {
        self.grace = grace;
        self
    }

    /// Sets how many members of one group are in memory at once. Default: 2,048; at least 1.
    ///
    /// ```
    /// # use chordal::prelude::*;
    /// # use std::time::Duration;
    /// let builder = App::in_memory().window(100);
    /// ```
    pub fn window(mut self, members: u64) -> Self {
        self.window = members.max(1);
        self
    }

    /// Sets how many unfinished workflows whose first task goes to the same queue may be in memory
    /// at once. Default: 10,000; at least 1.
    ///
    /// Workflows beyond that are as durable as all others, wait in the store, in state
    /// [`Pending`](crate::State::Pending), and take no memory. They are loaded as others end:
    /// within one queue the highest priority first, within one priority in the order of submission.
    /// So priorities apply among all that wait, and again among all that are in memory, but a
    /// workflow in memory is not sent back. A workflow that has begun stays in memory to its end,
    /// whatever it waits for; one whose first task has a [`countdown`](crate::Signature::countdown)
    /// or [`eta`](crate::Signature::eta) is not loaded before that time.
    ///
    /// A workflow that a running task waits for is loaded at once, over the limit if necessary: no
    /// task holds capacity or a slot for a workflow that in turn waits for the task.
    /// ([`AsyncResult::get`] defines which waits count.)
    ///
    /// ```
    /// # use chordal::prelude::*;
    /// # use std::time::Duration;
    /// let builder = App::in_memory().live_workflows(1_000);
    /// ```
    pub fn live_workflows(mut self, workflows: usize) -> Self {
        self.live = workflows.max(1);
        self
    }

    /// Sets how many async tasks of one queue run at once. Default: 1,024; at least 1.
    ///
    /// ```
    /// # use chordal::prelude::*;
    /// # use std::time::Duration;
    /// let builder = App::in_memory().concurrency(8);
    /// ```
    pub fn concurrency(mut self, tasks: usize) -> Self {
        self.slots.asynchronous = tasks.max(1);
        self
    }

    /// Sets how many blocking tasks of one queue run at once, each on its own thread. Default: the
    /// number of cores; at least 1.
    ///
    /// ```
    /// # use chordal::prelude::*;
    /// # use std::time::Duration;
    /// let builder = App::in_memory().blocking_concurrency(2);
    /// ```
    pub fn blocking_concurrency(mut self, tasks: usize) -> Self {
        self.slots.blocking = tasks.max(1);
        self
    }

    /// Gives one queue its own slots: `tasks` async and `tasks` blocking ones; at least 1. Its name
    /// has at most 255 bytes, as every queue's name has ([`Error::NameTooLong`] at the start).
    ///
    /// ```
    /// # use chordal::prelude::*;
    /// # use std::time::Duration;
    /// let builder = App::in_memory().queue("mail", 4);
    /// ```
    pub fn queue(mut self, name: impl Into<String>, tasks: usize) -> Self {
        let slots = Slots {
            asynchronous: tasks.max(1),
            blocking: tasks.max(1),
        };
        self.queues.insert(name.into(), slots);
        self
    }

    /// Sets how many threads async tasks share. Default: the number of cores; at least 1, and at most
    /// 32,767.
    ///
    /// ```
    /// # use chordal::prelude::*;
    /// # use std::time::Duration;
    /// let builder = App::in_memory().worker_threads(2);
    /// ```
    pub fn worker_threads(mut self, threads: usize) -> Self {
        self.worker_threads = threads.max(1);
        self
    }

    /// Sets how many tasks may be [pending](App::pending) before submitting more has to wait
    /// ([`App::apply_async`]) or is refused ([`App::try_apply_async`]). Default: 10,000,000; at least 1.
    ///
    /// Every task, chain, group and chord of a canvas counts, including callbacks that may never
    /// run. A workflow counts in full until it and its callbacks have ended, and pending work stays
    /// counted over restarts. A submission that begins below the limit is admitted in full, however
    /// large it is, and members of a lazy group count as they are drawn. A waiting submission takes
    /// no space in the store, and waiting submissions are admitted in order. Dropping the future of
    /// a waiting submission only gives up its position.
    ///
    /// A canvas that a task submits ([`TaskContext::apply_async`](crate::TaskContext::apply_async),
    /// or [`App::apply_async`] in its body), calls, adds or is replaced by never waits, because
    /// others may wait for the task. A submitted canvas counts; the others are part of their
    /// workflow. Pending work takes no memory in any case: the limit protects the disk and the
    /// callers.
    ///
    /// ```
    /// # use chordal::prelude::*;
    /// let builder = App::in_memory().max_pending(100_000);
    /// ```
    pub fn max_pending(mut self, tasks: u64) -> Self {
        self.pending_limit.tasks = tasks.max(1);
        self
    }

    /// Sets how many bytes pending work may take in the store, as
    /// [`max_pending`](Self::max_pending) does for tasks. Default: 10 GiB; at least 1.
    ///
    /// ```
    /// # use chordal::prelude::*;
    /// let builder = App::in_memory().max_pending_bytes(100 << 20);
    /// ```
    pub fn max_pending_bytes(mut self, bytes: u64) -> Self {
        self.pending_limit.bytes = bytes.max(1);
        self
    }

    /// Sets how many bytes the arguments of one task, and its result, may take. Default: 1 MiB; at
    /// least 1. From 256 KiB on there is a warning, once for each task: a payload is always in
    /// memory as a whole, so keep large data elsewhere and pass on its location.
    ///
    /// Sizes are counted as stored, in MessagePack: for a map or starmap all items, and the list of
    /// its values; for a fold the first value, and the accumulator whenever it is stored. Larger
    /// arguments are refused before anything is acknowledged, also when a task calls, adds or
    /// submits, and in lazily drawn members. A task with a larger result fails, with
    /// [`FailureKind::PayloadTooLarge`](crate::FailureKind::PayloadTooLarge) and no retry; so does
    /// one that asks for a retry with larger arguments, or for a replacement with such arguments.
    /// The list of a group's values is no task's result and may have any size. Work submitted under
    /// another limit continues.
    ///
    /// ```
    /// # use chordal::prelude::*;
    /// # use chordal::Error;
    /// # #[task] async fn length(text: String) -> usize { text.len() }
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> chordal::Result<()> {
    /// let app = App::in_memory().tasks(tasks![length]).max_payload(1_000).start().await?;
    /// let refused = app.apply_async(length.s("x".repeat(1_000))).await;
    /// assert!(matches!(refused, Err(Error::PayloadTooLarge { bytes: 1_003, limit: 1_000, .. })));
    /// # app.shutdown().await }
    /// ```
    pub fn max_payload(mut self, bytes: u64) -> Self {
        self.max_payload = bytes.max(1);
        self
    }

    /// Sets how often the process may crash while a task is running, before the task is
    /// [quarantined](App::quarantined). Default: 3, which is the minimum: the first crash shows
    /// which tasks were running, the second accuses a few of them, the third proves it of one. A
    /// crash that may have come from outside (`kill -9`, the OOM killer, and a segmentation fault,
    /// which looks the same afterwards) counts half. `u32::MAX` never quarantines a task.
    ///
    /// ```
    /// # use chordal::prelude::*;
    /// let builder = App::in_memory().quarantine_after(5);
    /// ```
    pub fn quarantine_after(mut self, crashes: u32) -> Self {
        self.trials.crashes = crashes.max(3);
        self
    }

    /// Sets whether the app records in its store's directory that the process aborts, so that the
    /// next process knows that a task caused it. Default: `true`, on Unix.
    ///
    /// This needs a handler of the signal SIGABRT, which writes one byte and then does what the
    /// process would have done without it. A handler that the program installed earlier runs first,
    /// and alone decides how the process ends; one that is installed later replaces ours. Without
    /// the record an abort counts as a crash that may have come from
    /// [outside](Self::quarantine_after).
    ///
    /// ```
    /// # use chordal::prelude::*;
    /// // A program with a crash reporter of its own that wants no other handler.
    /// let builder = App::open("data").note_aborts(false);
    /// ```
    pub fn note_aborts(mut self, note: bool) -> Self {
        self.trials.note_aborts = note;
        self
    }

    /// Sets the policy for a task that has crashed the process too often. Default:
    /// [`QuarantinePolicy::Keep`], so that the cause can be found before the task runs again.
    ///
    /// ```
    /// # use chordal::prelude::*;
    /// use chordal::QuarantinePolicy;
    ///
    /// // A group of 5,000 does not wait for a human: its bad member fails.
    /// let builder = App::in_memory().quarantine(QuarantinePolicy::Discard);
    /// ```
    pub fn quarantine(mut self, policy: QuarantinePolicy) -> Self {
        self.quarantine = policy;
        self
    }

    /// Sets a function that is called with each quarantined task: when the app that detects it
    /// starts, and at each start while the task is [kept](QuarantinePolicy::Keep). It runs on its
    /// own thread and may block.
    ///
    /// ```
    /// # use chordal::prelude::*;
    /// let builder = App::in_memory().on_quarantine(|task| {
    ///     eprintln!("{} {} has ended the process {} times", task.name, task.id, task.crashes);
    /// });
    /// ```
    pub fn on_quarantine(
        mut self,
        hook: impl Fn(&QuarantinedTask) + Send + Sync + 'static,
    ) -> Self {
        self.on_quarantine = Some(QuarantineHook::new(hook));
        self
    }

    /// Starts the app without running a task: none begins before [`App::resume`]. Meanwhile work
    /// can be submitted, inspected, revoked and forgotten as usual. An [eager](App::eager) app has
    /// nothing to resume, and is never paused.
    ///
    /// For programs whose tasks need state that is only set up after [`start`](Self::start), which
    /// otherwise runs unfinished tasks at once.
    ///
    /// ```
    /// # use chordal::prelude::*;
    /// # use std::sync::OnceLock;
    /// static APP: OnceLock<App> = OnceLock::new();
    ///
    /// #[task]
    /// async fn pending() -> u64 {
    ///     APP.get().expect("set before the first task").pending()
    /// }
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> chordal::Result<()> {
    /// let app = App::in_memory().tasks(tasks![pending]).paused().start().await?;
    /// let _ = APP.set(app.clone());
    /// app.resume().await?;
    /// assert_eq!(app.apply_async(pending.s()).await?.get().await?, 1);
    /// # app.shutdown().await }
    /// ```
    pub fn paused(mut self) -> Self {
        self.is_paused = true;
        self
    }

    /// Sets the clock; tests use one that they advance by hand.
    ///
    /// ```
    /// # use chordal::prelude::*;
    /// # use std::time::SystemTime;
    /// let clock = chordal::Clock::manual(SystemTime::UNIX_EPOCH);
    /// let builder = App::in_memory().clock(clock.clone());
    /// ```
    pub fn clock(mut self, clock: Clock) -> Self {
        self.clock = clock;
        self
    }

    /// Sets how long [`start`](Self::start) waits for another process that has the store open,
    /// before it fails with [`StoreError::Locked`](crate::StoreError::Locked), which names that
    /// process. Default: 5 seconds, because a killed process keeps its files locked until it has
    /// fully exited. If this process itself has the store open, `start` fails without waiting.
    ///
    /// The setting applies to the store of [`App::open`]; a store passed to [`App::with_store`] is
    /// already open ([`SledStore::open_within`](crate::persistence::SledStore::open_within)).
    ///
    /// ```
    /// # use chordal::prelude::*;
    /// # use std::time::Duration;
    /// let builder = App::open("data").lock_timeout(Duration::from_secs(30));
    /// ```
    pub fn lock_timeout(mut self, timeout: Duration) -> Self {
        self.lock_timeout = timeout;
        self
    }

    /// Opens the store, resumes all unfinished work, and starts to run it.
    ///
    /// Unfinished tasks may run before this returns, so everything that they need must be set up
    /// before the call. [`paused`](Self::paused) makes them wait.
    ///
    /// # Errors
    ///
    /// [`Error::DuplicateTask`], [`Error::InvalidTask`], [`Error::NameTooLong`]; [`Error::Store`]
    /// if the store is locked by another process, is damaged, was written by a newer version, or
    /// cannot be opened; [`Error::Start`] if the system does not provide the threads that the
    /// engine needs, or a setting is out of its range.
    pub async fn start(mut self) -> Result<App> {
        let registry = self.registry()?;
        if let Source::Eager = self.store {
            return Ok(App(Arc::new(Running {
                shared: Arc::new(Shared::in_place(registry, self.clock)),
                grace: self.grace,
                engine: None,
            })));
        }
        if self.worker_threads > MAX_WORKERS {
            let asked = self.worker_threads;
            return Err(Error::Start(format!(
                "worker_threads is {asked}, and at most {MAX_WORKERS}"
            )));
        }
        let grace = self.grace;
        let runtime = SharedRuntime::default();
        let engine = self.engine(registry);
        let (ready, started) = oneshot::channel();
        let (ends, ended) = watch::channel(());
        let thread_runtime = runtime.clone();
        let handle = thread::Builder::new()
            .name("chordal-engine".to_owned())
            .spawn(move || {
                engine.run(&thread_runtime, ready);
                drop(ends);
            })
            .map_err(|error| Error::Start(format!("its thread: {error}")))?;
        let started = started
            .await
            .unwrap_or_else(|_| Err(Error::Start("its thread panicked".to_owned())));
        Ok(App(Arc::new(Running {
            shared: started?,
            grace,
            engine: Some(EngineThread {
                handle,
                ended,
                is_stopping: AtomicBool::new(false),
                runtime,
            }),
        })))
    }

    fn registry(&mut self) -> Result<Registry> {
        let tasks = std::mem::take(&mut self.tasks);
        for queue in self.queues.keys() {
            refuse_over_long("queue", queue, "")?;
        }
        Registry::new(tasks, PayloadLimit::new(self.max_payload))
    }

    fn engine(self, registry: Registry) -> Engine {
        Engine {
            store: self.store,
            registry,
            durability: self.durability,
            retention: self.retention,
            limits: Limits {
                window: self.window,
                live: self.live,
                slots: self.slots,
                queues: self.queues,
                is_paused: self.is_paused,
                quarantine: self.quarantine,
                on_quarantine: self.on_quarantine,
            },
            trials: self.trials,
            pending_limit: self.pending_limit,
            clock: self.clock,
            worker_threads: self.worker_threads,
            grace: self.grace,
            lock_timeout: self.lock_timeout,
        }
    }
}

impl Running {
    /// Closes an eager app, which has nothing to wait for.
    fn close_in_place(&self) {
        if let Backend::Eager(_) = self.shared.backend {
            self.shared.close();
            self.shared.end(Error::ShutDown);
        }
    }
}

impl Drop for Running {
    /// Stops without waiting for running tasks, and waits a little for the store to close. An app
    /// that is [shutting down](App::shutdown) continues to do so.
    fn drop(&mut self) {
        let Some(engine) = &self.engine else {
            return self.close_in_place();
        };
        if !engine.stop(&self.shared, Duration::ZERO) {
            return;
        }
        drop(engine.runtime.lock().take());
        let deadline = Instant::now() + DROP_TIMEOUT;
        while !engine.handle.is_finished() && Instant::now() < deadline {
            thread::park_timeout(Duration::from_millis(1));
        }
    }
}

/// The settings that the engine's thread needs to start.
struct Engine {
    store: Source,
    registry: Registry,
    durability: Durability,
    retention: Duration,
    limits: Limits,
    trials: TrialSettings,
    pending_limit: Load,
    clock: Clock,
    worker_threads: usize,
    grace: Duration,
    lock_timeout: Duration,
}

/// Builds the runtime for the actors of one thread. It has timers but no I/O driver, because waking
/// a thread that waits for I/O costs more.
fn actors_runtime() -> std::io::Result<tokio::runtime::Runtime> {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    builder.enable_time().build()
}

/// Stops the store's thread.
fn stop(writer: Arbiter) {
    writer.stop();
    let _ = writer.join();
}

impl Engine {
    /// Runs the engine's thread: an actix system of its own.
    fn run(self, runtime: &SharedRuntime, ready: oneshot::Sender<Result<Arc<Shared>>>) {
        match self.start_threads(runtime) {
            Ok((system, writer, shared)) => {
                if ready.send(Ok(shared.clone())).is_ok()
                    && let Err(error) = system.run()
                {
                    shared.end(Error::Halted(error.to_string()));
                }
                stop(writer);
                shared.close();
                shared.end(Error::ShutDown);
                let runtime = runtime.lock().take();
                if let Some(runtime) = runtime {
                    runtime.stop_within(BLOCKING_GRACE);
                }
            }
            // An error means that the caller no longer waits.
            Err(error) => drop(ready.send(Err(error))),
        }
    }

    /// Starts all required threads, and on them the engine.
    fn start_threads(
        self,
        runtime: &SharedRuntime,
    ) -> Result<(SystemRunner, Arbiter, Arc<Shared>)> {
        let no_thread = |error| Error::Start(format!("the store's thread: {error}"));
        let user_runtime = Runtime::start(self.worker_threads)
            .map_err(|error| Error::Start(format!("the threads of its workers: {error}")))?;
        let workers = user_runtime.workers();
        *runtime.lock() = Some(user_runtime);
        let actors = actors_runtime().map_err(no_thread)?;
        let system = System::with_tokio_rt(move || actors);
        // The store blocks in fsync, so it has its own thread.
        let writer = Arbiter::try_with_tokio_rt(actors_runtime).map_err(no_thread)?;
        let at = writer.handle();
        let start_store = move |actor| StoreActor::start_in_arbiter(&at, |_| actor);
        match system.block_on(self.start(workers, start_store)) {
            Ok(shared) => Ok((system, writer, shared)),
            Err(error) => {
                stop(writer);
                Err(error)
            }
        }
    }

    /// Starts the actors on this thread, and the store's actor through `start_store`.
    async fn start(
        self,
        workers: UserRuntime,
        start_store: impl FnOnce(StoreActor) -> Addr<StoreActor>,
    ) -> Result<Arc<Shared>> {
        let store: Arc<dyn Store> = match self.store {
            #[cfg(feature = "sled")]
            Source::Sled(directory) => {
                Arc::new(SledStore::open_within(directory, self.lock_timeout)?)
            }
            Source::Given(store) => store,
            Source::Eager => unreachable!("an eager app has no engine"),
        };
        let reader = Reader::new(store.clone());
        let clock = self.clock.going_on(ClockReading::last(&*store)?.as_ref());
        let reading = clock.reading();
        let recovered =
            RecoveredState::take(&*store, &reader, self.durability, self.trials, &reading)?;
        let admission = AdmissionControl::new(self.pending_limit);
        admission.add(recovered.pending);
        let garbage = sweeper::garbage(&reader)?;
        let last = reader.last_id()?;
        let durable = Arc::new(AtomicU64::new(recovered.last_commit()));
        let shared = Arc::new(Shared::new(
            reader.up_to(durable.clone()),
            durable,
            self.registry,
            clock.clone(),
            Backend::Engine(EngineHandle::new(
                workers,
                self.worker_threads,
                admission,
                self.grace,
            )),
        ));
        let write_lock = WriteLock::new(store, self.durability);
        let store = start_store(StoreActor::new(write_lock.clone()));
        if !garbage.is_empty() {
            let purge = sweeper::purge_all(shared.clone(), store.clone(), garbage);
            shared.engine_handle().runtime.spawn(purge);
        }
        let scheduler = SchedulerActor::new(clock).start();
        let context = EngineContext::new(
            reader,
            Committer {
                write_lock,
                store: store.clone(),
            },
            scheduler,
            shared.clone(),
            self.limits,
            recovered,
        );
        let engine = EngineActor::new(context, self.retention).start();
        let ids = Ids::after(last);
        shared
            .engine_handle()
            .set_client(Client { engine, store, ids });
        Ok(shared)
    }
}
