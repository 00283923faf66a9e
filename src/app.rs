//! The app: opens a store, starts the engine over it, submits.

#[cfg(feature = "__simulation")]
pub(crate) mod here;
mod runtime;
mod upkeep;

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

use self::runtime::{MOST_WORKERS, Runtime};

use crate::actors::admission_control::AdmissionControl;
use crate::actors::body;
use crate::actors::client::{self, Client, WhenFull};
use crate::actors::clock::{Clock, Ids};
use crate::actors::dispatcher::Slots;
use crate::actors::engine::EngineActor;
use crate::actors::engine_context::{EngineContext, Limits, RecoveredState, TrialSettings};
use crate::actors::parked;
use crate::actors::scheduler::SchedulerActor;
use crate::actors::shared::{Backend, EngineHandle, Shared};
use crate::actors::store::{Committer, StoreActor, WriteLock};
use crate::actors::sweeper;
use crate::actors::user_runtime::UserRuntime;
use crate::canvas::Accepts;
use crate::canvas::id::Id;
use crate::canvas::machine::pending_limit::Load;
use crate::canvas::parked::ParkedTask;
use crate::canvas::quarantine::{QuarantineHook, QuarantinePolicy, QuarantinedTask};
use crate::canvas::revoke_outcome::RevokeOutcome;
use crate::error::{Error, Result};
use crate::messages::engine::Shutdown;
use crate::messages::task::Released;
#[cfg(feature = "sled")]
use crate::persistence::SledStore;
use crate::persistence::reader::Reader;
use crate::persistence::steady::ClockReading;
use crate::persistence::{Durability, LOCK_TIMEOUT, MemoryStore, Store};
use crate::result::{AsyncResult, Wait};
use crate::task::{PayloadLimit, Registry, TaskEntry, refuse_over_long};

/// How long dropping an app waits for its engine to let go of the store.
const LET_GO: Duration = Duration::from_secs(5);

/// How long blocking tasks that the grace did not suffice for may go on before they are left alone.
const LAST_WORK: Duration = Duration::from_millis(500);

/// A running engine over one store. Clones share it; when the last one is dropped it stops.
///
/// It owns its threads, so it can be used from any program: under tokio, actix or any other
/// executor, or, with [`get_blocking`](AsyncResult::get_blocking), from a plain `main`.
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
    /// Closed when all has been stopped.
    ended: watch::Receiver<()>,
    /// It has been told to stop.
    is_stopping: AtomicBool,
    runtime: SharedRuntime,
}

/// The runtime of user code: the engine's thread stops it when it ends, or the app that is dropped
/// does so before.
type SharedRuntime = Arc<Mutex<Option<Runtime>>>;

impl EngineThread {
    /// Tells the engine to stop, once.
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

    /// Waits until all has been stopped, whoever had it stopped.
    async fn ended(&self) {
        let mut ended = self.ended.clone();
        while ended.changed().await.is_ok() {}
        // (If its thread has panicked it has not stopped the runtime.)
        drop(self.runtime.lock().take());
    }
}

/// Sets up an [`App`]: made by [`App::open`], ended by [`start`](Self::start).
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
    most: Load,
    max_payload: u64,
    clock: Clock,
    lock_timeout: Duration,
}

#[derive(Debug)]
enum Source {
    #[cfg(feature = "sled")]
    Sled(PathBuf),
    Given(Arc<dyn Store>),
    /// A memory of its own; and everything runs in the caller.
    Eager,
}

impl App {
    /// An app over the sled store in this directory, which is made if it is not there.
    ///
    /// The directory must stay where it is while the app runs: once it was renamed, replaced or deleted the
    /// engine halts, with [`StoreError::Moved`](crate::StoreError::Moved), and what is done from then on is
    /// not written to whatever is at its path.
    ///
    /// What tasks are given and give is never logged by chordal. sled logs what it stores at its
    /// level `TRACE`, and only there.
    ///
    /// This is there with the feature `sled`, which is a default. With redb alone it is not: a directory
    /// belongs to one engine, and what a name opens does not depend on which features are on.
    #[cfg(feature = "sled")]
    pub fn open(directory: impl Into<PathBuf>) -> AppBuilder {
        AppBuilder::new(Source::Sled(directory.into()))
    }

    /// An app whose store is memory: for tests, and for work that may be lost.
    pub fn in_memory() -> AppBuilder {
        Self::with_store(MemoryStore::new())
    }

    /// An app over any other [`Store`]. With the feature `redb`,
    /// `App::with_store(RedbStore::open("data")?)` has redb in place of sled.
    pub fn with_store(store: impl Store) -> AppBuilder {
        AppBuilder::new(Source::Given(Arc::new(store)))
    }

    /// An app that runs what is submitted in whoever submits it, for tests (Celery's
    /// `task_always_eager`): [`apply_async`](Self::apply_async) returns when the whole canvas has
    /// ended, its callbacks and errbacks too.
    ///
    /// It starts no thread and needs no particular executor; what its tasks need themselves
    /// (tokio's timers, for example) the caller's must have. The store is memory. The outcome of
    /// every canvas is that of an app with an engine, with these differences:
    ///
    /// - The members of a group run one after the other, in order; the callbacks behind all else.
    /// - Blocking tasks block the caller.
    /// - Delays (`countdown`, `eta`, those before a retry) are not waited for, nor is the clock
    ///   moved; a task that would have expired meanwhile has.
    /// - Nobody interrupts a task at its time limit: that it has passed is seen when the task next
    ///   wakes, or, if it is a blocking one, returns. A [manual clock](Clock::manual) wakes it.
    /// - Queues, priorities, concurrency, window, durability, retention and grace mean nothing:
    ///   results are kept until the app is dropped.
    /// - What the future of `apply_async` has not run when it is dropped fails.
    ///   [`shutdown`](Self::shutdown) waits for nothing, and what has not ended is lost.
    /// - [`get_timeout`](AsyncResult::get_timeout) does not wait.
    /// - What is under way cannot be [revoked](AsyncResult::revoke).
    /// - [`TaskContext::call`](crate::TaskContext::call) runs on the stack of its task: some fifty
    ///   calls within calls fill the 2 MB of a test's thread in an unoptimised build.
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

    /// Submits a signature. When this returns it is as durable as the app asked for; the whole
    /// canvas is stored, or nothing of it.
    ///
    /// If the future is dropped before it returns, the work may have been submitted or not.
    ///
    /// While too much is [pending](AppBuilder::max_pending) it waits, behind those that came before. In a
    /// running task it is what [`TaskContext::apply_async`](crate::TaskContext::apply_async) is, and waits
    /// for nothing.
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
    /// [`Error::Canvas`] if the canvas is refused, [`Error::PayloadTooLarge`] if arguments are
    /// [too large](AppBuilder::max_payload), [`Error::Store`] if the store fails or the disk is full,
    /// [`Error::NoThread`] if the system has no thread to draw a large canvas with,
    /// [`Error::ShutDown`] or [`Error::Halted`] if the engine no longer runs. What is refused leaves
    /// nothing behind, nor does a future that is dropped before the engine has the whole canvas.
    ///
    /// # Panics
    ///
    /// If the iterator of a [`group`](crate::group()) does.
    pub async fn apply_async<S: Accepts<()>>(
        &self,
        signature: S,
    ) -> Result<AsyncResult<S::Output>> {
        let shared = &self.0.shared;
        let attempt = body::current(shared);
        let patience = match attempt {
            Some(_) => WhenFull::Admit,
            None => WhenFull::Wait,
        };
        let by = attempt.as_ref().map(|attempt| attempt.id());
        let pin = client::submit(shared, signature.into_canvas(), patience, by).await?;
        Ok(AsyncResult::of_task(shared.clone(), pin, attempt))
    }

    /// As [`apply_async`](Self::apply_async), but does not wait if too much is
    /// [pending](AppBuilder::max_pending): it is refused, and nothing is drawn or stored.
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
    /// [`Error::Busy`], also if others wait; and as [`apply_async`](Self::apply_async).
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
        let by = attempt.as_ref().map(|attempt| attempt.id());
        let canvas = signature.into_canvas();
        let pin = client::submit(shared, canvas, WhenFull::Reject, by).await?;
        Ok(AsyncResult::of_task(shared.clone(), pin, attempt))
    }

    /// How many tasks are pending, with the chains, groups and chords around them: those of all
    /// workflows that have been submitted and have not ended, or are being submitted. It counts
    /// towards [`max_pending`](AppBuilder::max_pending). An eager app has none.
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
        self.weight().tasks
    }

    /// How many bytes what is [pending](Self::pending) takes in the store: the arguments, mostly; not
    /// the results. It counts towards [`max_pending_bytes`](AppBuilder::max_pending_bytes).
    #[must_use]
    pub fn pending_bytes(&self) -> u64 {
        self.weight().bytes
    }

    fn weight(&self) -> Load {
        match &self.0.shared.backend {
            Backend::Engine(plant) => plant.admission.taken(),
            Backend::Eager(_) => Load::default(),
        }
    }

    /// The handle of a task, chain, group or chord that was submitted before, also before a
    /// restart. The type is the caller's word: a wrong one shows as [`Error::Decode`].
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

    /// Deletes the result of what was submitted, and all else that is kept of it, instead of keeping
    /// it until its retention ends: as [`AsyncResult::forget`], by id.
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
    /// [`Error::UnknownId`] if it was never submitted to this store, its retention has ended, or it
    /// is forgotten already; and as [`AsyncResult::forget`].
    pub async fn forget(&self, id: Id) -> Result<()> {
        client::forget(&self.0.shared, id).await
    }

    /// Revokes what has this id: what was submitted, or any part of it, whether it has been reached
    /// yet or not. As [`AsyncResult::revoke`], by id.
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

    /// Lists the tasks that this build cannot run, each with the reason: nothing is registered under
    /// its name, or its arguments, which an earlier build has stored, are not what it takes now (a
    /// parameter was added without a default, removed or retyped, a field or a variant renamed).
    /// They wait, and use up no attempt; they run when the app is started with a build that can
    /// run them, or fail when [`discard`](Self::discard) says so. One that is met is logged, too.
    ///
    /// Besides the tasks that have been met, those are listed that a workflow starts with which
    /// still waits in the store, so the list is complete right after `start`; for that it reads
    /// every unfinished workflow. A task further on in a workflow is listed once it is its turn.
    ///
    /// Where the workflow is wrong, and not an older build's, its task fails instead of being parked,
    /// with [`FailureKind::Type`](crate::FailureKind::Type), as Celery's does with a `TypeError`: if this
    /// process has submitted the workflow, or if the value came from upstream into a
    /// [`Canvas`](crate::Canvas) put together without types. In an [eager](Self::eager) app nothing
    /// waits, and every such task fails.
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

    /// Returns the tasks that end the process whenever they run: an abort, a crash, a stack that
    /// overflows, all memory taken. They run no more, in state
    /// [`Quarantined`](crate::State::Quarantined), until [`requeue`](Self::requeue) or
    /// [`discard`](Self::discard) says what becomes of them; all else goes on. (Or they fail at once, if
    /// that is the app's [policy](AppBuilder::quarantine).)
    ///
    /// A task that was running when the process ended runs again after the restart, as always; so do
    /// all that ran beside it. After an abort, or two ends that may have come from outside, those that
    /// were running are suspects, and start one after the other, beside all other work. The last of
    /// them starts within ten seconds of the open, whatever their number. If the process ends again,
    /// the ones that had just started are accused, and one of them at a time is tried: it starts first
    /// in the next life, and for a moment (a quarter of a second; at most four, if it has struck a
    /// little later before) nothing else does.
    ///
    /// An abort in that moment proves it: that makes [three](AppBuilder::quarantine_after) ends.
    /// Any other end may have been a `kill -9`. Then the next life goes without the task for four
    /// seconds first: if the process ends meanwhile, the cause is another. It takes three such trials in
    /// a row, and six ends, to prove it, so that a program that is killed again and again keeps all its
    /// tasks. A machine that goes down (on Linux), and a process that is killed while the app
    /// [shuts down](Self::shutdown), speak against no task.
    ///
    /// Not found is a task that ends the process later than a second after it has started, unless few
    /// others are suspected: then it may take four.
    ///
    /// With [`Durability::Buffered`] a crash may take back that a task was started, and with it
    /// the suspicion.
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

    /// Has a [quarantined](Self::quarantined) task run again, with nothing held against it.
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
    /// [`Error::NotQuarantined`] if it is not there; [`Error::Store`], [`Error::ShutDown`] or
    /// [`Error::Halted`] if the engine no longer runs.
    pub async fn requeue(&self, id: Id) -> Result<()> {
        client::release(&self.0.shared, id, Released::ToRun)
            .await
            .map(drop)
    }

    /// Has a [quarantined](Self::quarantined) or [parked](Self::parked) task fail, without a retry:
    /// its errbacks run, a chord that it belongs to fails, and the workflow can end. The failure is
    /// [`FailureKind::Quarantined`](crate::FailureKind::Quarantined), or
    /// [`FailureKind::Type`](crate::FailureKind::Type) where the arguments do not fit, or
    /// [`FailureKind::NotRegistered`](crate::FailureKind::NotRegistered). It returns when that is
    /// durable. A parked task whose turn has not come, such as a member far behind in a large group, fails
    /// when it comes, also after a restart.
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

    /// Runs what is ready, and all that becomes so, in an app that was started
    /// [paused](AppBuilder::paused), where the example is. To call it again, or of an app that was not
    /// paused, does nothing.
    ///
    /// # Errors
    ///
    /// [`Error::Store`], [`Error::ShutDown`] or [`Error::Halted`] if the engine no longer runs.
    pub async fn resume(&self) -> Result<()> {
        client::resume(&self.0.shared).await
    }

    /// How many unfinished workflows are in memory; all others [wait](AppBuilder::live_workflows) in
    /// the store.
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

    /// Stops: starts no task any more, waits for those that run until the
    /// [grace](AppBuilder::grace) is over, and closes the store. What is unfinished goes on when
    /// it is opened again, callbacks that are due and have not started among it; a task cut short
    /// runs again, with the next attempt number. Handles that wait get [`Error::ShutDown`].
    ///
    /// The first call says when it begins; a further one, also after the future of the first was
    /// dropped, waits for the same end. The app stops whether or not the futures are polled.
    ///
    /// # Errors
    ///
    /// The [`Error::Store`] or [`Error::Halted`] that had stopped the engine before.
    pub async fn shutdown(&self) -> Result<()> {
        let already = self.0.shared.ended();
        match &self.0.engine {
            Some(engine) => {
                engine.stop(&self.0.shared, self.0.grace);
                engine.ended().await;
            }
            None => self.0.close_in_place(),
        }
        match already.or_else(|| self.0.shared.ended()) {
            None | Some(Error::ShutDown) => Ok(()),
            Some(why) => Err(why),
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
            most: Load {
                tasks: 10_000_000,
                bytes: 10 << 30,
            },
            max_payload: PayloadLimit::DEFAULT,
            clock: Clock::system(),
            lock_timeout: LOCK_TIMEOUT,
        }
    }

    /// Registers tasks, listed with [`tasks!`](crate::tasks!): all that this store has unfinished work for, and all to be submitted.
    /// What was submitted under a name that is no longer registered, or with arguments that its task
    /// no longer takes, is [parked](App::parked).
    pub fn tasks(mut self, tasks: impl IntoIterator<Item = TaskEntry>) -> Self {
        self.tasks.extend(tasks);
        self
    }

    /// Sets how much a crash may take back. Default: [`Durability::Power`], nothing.
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
    /// kept for as long as they live. Default: one day, as in Celery.
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

    /// Sets how long [`App::shutdown`] waits for the tasks that run, and how long one that is
    /// [revoked](crate::TaskContext::cancelled) may clean up. Default: 25 s.
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

    /// Sets how many unfinished workflows are in memory at once, of those whose first task is of one
    /// queue. Default: 10,000; at least 1.
    ///
    /// What is submitted beyond that is as durable as all else, waits in the store, in state
    /// [`Pending`](crate::State::Pending), and takes no memory. It comes in as others end: of one
    /// queue the highest priority first, of one priority in the order of submission. So a priority
    /// holds among all that wait, and again among all that are in memory, but what is in memory is
    /// not sent back. A workflow that has begun keeps its place to its end, whatever it waits for;
    /// one whose first task has a [`countdown`](crate::Signature::countdown) or
    /// [`eta`](crate::Signature::eta) takes none before that time.
    ///
    /// What a running task waits for comes in at once, over the limit if need be: no task holds a place, or
    /// a slot, for a workflow that waits for it in turn. (What is meant by that stands at
    /// [`AsyncResult::get`].)
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

    /// Sets how many blocking tasks of one queue run at once, each on a thread of its own.
    /// Default: the number of cores; at least 1.
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

    /// Gives one queue slots of its own: `tasks` async and `tasks` blocking ones; at least 1. Its name
    /// has at most 255 bytes ([`Error::NameTooLong`] at the start), as that of every queue.
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
    /// Every task of a canvas counts, and every chain, group and chord; also callbacks that may
    /// never run. A workflow counts whole until it has ended, callbacks included; what is pending is
    /// counted over restarts. A submission that begins below the limit is taken whole, however large
    /// it is, and members of a lazy group count as they are drawn. What waits takes no place in the
    /// store, and comes in in its order; who gives up waiting, by dropping the future, loses nothing
    /// but his turn.
    ///
    /// What a task submits ([`TaskContext::apply_async`](crate::TaskContext::apply_async), or
    /// [`App::apply_async`] in its body), calls, adds or is replaced by never waits, since others may wait for the task; the first counts, the others are
    /// part of their workflow. What is pending takes no memory either way: the limit is for the disk, and
    /// for the callers.
    ///
    /// ```
    /// # use chordal::prelude::*;
    /// let builder = App::in_memory().max_pending(100_000);
    /// ```
    pub fn max_pending(mut self, tasks: u64) -> Self {
        self.most.tasks = tasks.max(1);
        self
    }

    /// Sets how many bytes of the store what is pending may take, as
    /// [`max_pending`](Self::max_pending) does for tasks. Default: 10 GiB; at least 1.
    ///
    /// ```
    /// # use chordal::prelude::*;
    /// let builder = App::in_memory().max_pending_bytes(100 << 20);
    /// ```
    pub fn max_pending_bytes(mut self, bytes: u64) -> Self {
        self.most.bytes = bytes.max(1);
        self
    }

    /// Sets how many bytes the arguments of one task may take, and its result. Default: 1 MiB; at
    /// least 1. From 256 KiB on there is a warning, once for each task: a payload is in memory as a
    /// whole wherever it goes, so what is large is better kept elsewhere, and its place passed on.
    ///
    /// Counted as they are stored, in MessagePack: of a map or starmap all items, and the list of its
    /// values; of a fold the first value, and the accumulator whenever it is stored. Larger arguments are
    /// refused before anything is acknowledged, also where a task calls, adds or submits, and in
    /// members that are drawn late. A task whose result is larger fails, with
    /// [`FailureKind::PayloadTooLarge`](crate::FailureKind::PayloadTooLarge) and no retry; so does
    /// one that asks for a retry with larger arguments, or is replaced by what has such. The list
    /// of a group's values is no task's result and of any size. What was submitted under another
    /// limit goes on.
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

    /// Sets how often the process may end while a task is running, before the task is
    /// [quarantined](App::quarantined). Default: 3, which is the least: one end shows which tasks were
    /// running, one accuses a few of them, one proves it of one. An end that may have come from outside
    /// (`kill -9`, the OOM killer, and a segmentation fault, which looks the same afterwards) counts
    /// half. `u32::MAX` never quarantines any.
    ///
    /// ```
    /// # use chordal::prelude::*;
    /// let builder = App::in_memory().quarantine_after(5);
    /// ```
    pub fn quarantine_after(mut self, crashes: u32) -> Self {
        self.trials.crashes = crashes.max(3);
        self
    }

    /// Sets whether the app notes in its store's directory that the process aborts, so that the next
    /// one knows that a task ended it. Default: `true`, on Unix.
    ///
    /// It needs a handler of the signal SIGABRT, which writes one byte, and then does what the process
    /// would have done without it. A handler that the program has installed before runs first, and
    /// decides alone what becomes of the process; one that is installed later takes the place of ours.
    /// Without the note an abort counts as an end that may have come from
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

    /// Sets what becomes of a task that has ended the process too often. Default:
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

    /// Sets a function that is told of each quarantined task: when the app that finds it out starts,
    /// and at each start while the task is [kept](QuarantinePolicy::Keep). It runs on a thread of its
    /// own, and may block.
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

    /// Starts the app without running a task: none begins before [`App::resume`]. Meanwhile work can be
    /// submitted, looked at, revoked and forgotten, as ever. An [eager](App::eager) app has nothing to
    /// resume, and is never paused.
    ///
    /// For programs whose tasks need what is only set up behind [`start`](Self::start), which otherwise
    /// runs what was unfinished at once.
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

    /// Sets the clock; tests turn one by hand.
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

    /// Sets how long [`start`](Self::start) waits for another process that has the store open, before it
    /// fails with [`StoreError::Locked`](crate::StoreError::Locked), which names that process. Default: 5
    /// seconds, because a process that was killed lets go of its files only when it has come to its end.
    /// A store that this process has open itself is not waited for.
    ///
    /// It is for the store of [`App::open`]; a store that is given is open already
    /// ([`SledStore::open_within`](crate::persistence::SledStore::open_within)).
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

    /// Opens the store, resumes all that was unfinished, and starts to run it.
    ///
    /// Tasks that were unfinished may run before this returns: they find what the program has set up
    /// before it, and nothing else. [`paused`](Self::paused) has them wait.
    ///
    /// # Errors
    ///
    /// [`Error::DuplicateTask`], [`Error::InvalidTask`], [`Error::NameTooLong`]; [`Error::Store`] if the
    /// store is locked by another process, is damaged, was written by a newer version, or cannot be
    /// opened; [`Error::Start`] if the system does not give it the threads that it needs, or a setting is
    /// out of its range.
    pub async fn start(mut self) -> Result<App> {
        let registry = self.registry()?;
        if let Source::Eager = self.store {
            return Ok(App(Arc::new(Running {
                shared: Arc::new(Shared::in_place(registry, self.clock)),
                grace: self.grace,
                engine: None,
            })));
        }
        if self.worker_threads > MOST_WORKERS {
            let asked = self.worker_threads;
            return Err(Error::Start(format!(
                "worker_threads is {asked}, and at most {MOST_WORKERS}"
            )));
        }
        let grace = self.grace;
        let runtime = SharedRuntime::default();
        let engine = self.engine(registry);
        let (ready, started) = oneshot::channel();
        let (ends, ended) = watch::channel(());
        let of_thread = runtime.clone();
        let handle = thread::Builder::new()
            .name("chordal-engine".to_owned())
            .spawn(move || {
                engine.run(&of_thread, ready);
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
            most: self.most,
            clock: self.clock,
            worker_threads: self.worker_threads,
            grace: self.grace,
            lock_timeout: self.lock_timeout,
        }
    }
}

impl Running {
    /// Ends an eager app, which has nothing to wait for.
    fn close_in_place(&self) {
        if let Backend::Eager(_) = self.shared.backend {
            self.shared.close();
            self.shared.end(Error::ShutDown);
        }
    }
}

impl Drop for Running {
    /// Stops without waiting for the tasks that run, and waits a little for the store to close. An app
    /// that is [shutting down](App::shutdown) goes on to do so.
    fn drop(&mut self) {
        let Some(engine) = &self.engine else {
            return self.close_in_place();
        };
        if !engine.stop(&self.shared, Duration::ZERO) {
            return;
        }
        drop(engine.runtime.lock().take());
        let deadline = Instant::now() + LET_GO;
        while !engine.handle.is_finished() && Instant::now() < deadline {
            thread::park_timeout(Duration::from_millis(1));
        }
    }
}

/// What the engine's thread needs to start.
struct Engine {
    store: Source,
    registry: Registry,
    durability: Durability,
    retention: Duration,
    limits: Limits,
    trials: TrialSettings,
    most: Load,
    clock: Clock,
    worker_threads: usize,
    grace: Duration,
    lock_timeout: Duration,
}

/// What runs the actors of one thread. It has timers and no sockets: a thread that waits for these
/// is woken at a higher price.
fn actors_runtime() -> std::io::Result<tokio::runtime::Runtime> {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    builder.enable_time().build()
}

/// Ends the store's thread.
fn stop(writer: Arbiter) {
    writer.stop();
    let _ = writer.join();
}

impl Engine {
    /// The life of the engine's thread: an actix system of its own.
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
                    runtime.stop_within(LAST_WORK);
                }
            }
            // Nobody may wait any more: then there is nobody to tell.
            Err(error) => drop(ready.send(Err(error))),
        }
    }

    /// Starts all threads that must be there, and on them the engine.
    fn start_threads(
        self,
        runtime: &SharedRuntime,
    ) -> Result<(SystemRunner, Arbiter, Arc<Shared>)> {
        let no_thread = |error| Error::Start(format!("the store's thread: {error}"));
        let of_workers = Runtime::start(self.worker_threads)
            .map_err(|error| Error::Start(format!("the threads of its workers: {error}")))?;
        let workers = of_workers.workers();
        *runtime.lock() = Some(of_workers);
        let own = actors_runtime().map_err(no_thread)?;
        let system = System::with_tokio_rt(move || own);
        // The store blocks in fsync, so it has a thread of its own.
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

    /// Starts the actors here, and that of the store where it is to live.
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
        let legacy =
            RecoveredState::take(&*store, &reader, self.durability, self.trials, &reading)?;
        let room = AdmissionControl::new(self.most);
        room.add(legacy.pending);
        let remains = sweeper::garbage(&reader)?;
        let last = reader.last_id()?;
        let durable = Arc::new(AtomicU64::new(legacy.last_commit()));
        let shared = Arc::new(Shared::new(
            reader.up_to(durable.clone()),
            durable,
            self.registry,
            clock.clone(),
            Backend::Engine(EngineHandle::new(
                workers,
                self.worker_threads,
                room,
                self.grace,
            )),
        ));
        let pen = WriteLock::new(store, self.durability);
        let store = start_store(StoreActor::new(pen.clone()));
        if !remains.is_empty() {
            let purge = sweeper::purge_all(shared.clone(), store.clone(), remains);
            shared.engine_handle().runtime.spawn(purge);
        }
        let scheduler = SchedulerActor::new(clock).start();
        let shell = EngineContext::new(
            reader,
            Committer {
                write_lock: pen,
                store: store.clone(),
            },
            scheduler,
            shared.clone(),
            self.limits,
            legacy,
        );
        let engine = EngineActor::new(shell, self.retention).start();
        let ids = Ids::after(last);
        shared
            .engine_handle()
            .set_client(Client { engine, store, ids });
        Ok(shared)
    }
}
