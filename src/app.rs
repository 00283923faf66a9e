//! The app: opens a store, starts the engine over it, submits.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::thread;
use std::time::Duration;

use actix::{Actor, Addr};
use parking_lot::Mutex;
use tokio::sync::oneshot;

use crate::actors::clock::{Clock, Ids};
use crate::actors::dispatcher::Slots;
use crate::actors::engine::{EngineActor, Submit};
use crate::actors::scheduler::SchedulerActor;
use crate::actors::shared::Shared;
use crate::actors::shell::{Limits, Shell};
use crate::actors::store::{Commit, StoreActor};
use crate::actors::sweeper;
use crate::canvas::id::Id;
use crate::canvas::{Accepts, freeze};
use crate::error::{Error, Result};
use crate::messages::engine::Shutdown;
use crate::persistence::codec::{self, Kind};
use crate::persistence::definition::Definition;
use crate::persistence::reader::Reader;
use crate::persistence::{Batch, Durability, MemoryStore, SledStore, Store, meta};
use crate::result::AsyncResult;
use crate::task::{Registry, TaskEntry};

/// A submission is staged in batches of about this many bytes.
const STAGE: usize = 256 * 1_024;
/// The longest idempotency key, in bytes.
const MAX_KEY: usize = 1_024;
/// How long dropping an app waits for its engine to let go of the store.
const LET_GO: Duration = Duration::from_secs(5);

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
    engine: Addr<EngineActor>,
    store: Addr<StoreActor>,
    ids: Ids,
    grace: Duration,
    /// Both are taken when the app stops.
    threads: Mutex<Option<Threads>>,
}

#[derive(Debug)]
struct Threads {
    engine: thread::JoinHandle<()>,
    runtime: Workers,
}

/// The runtime of user code. It may be dropped anywhere, also where an `App::start` is cancelled
/// in the middle: tokio's own panics when it is dropped in async code.
#[derive(Debug)]
struct Workers(Option<tokio::runtime::Runtime>);

impl Workers {
    fn handle(&self) -> tokio::runtime::Handle {
        let runtime = self.0.as_ref().expect("it is there until it is dropped");
        runtime.handle().clone()
    }

    /// Waits at most this long for what runs; not to be called in async code.
    fn stop_within(mut self, limit: Duration) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_timeout(limit);
        }
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
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
    slots: Slots,
    queues: HashMap<String, Slots>,
    worker_threads: usize,
    clock: Clock,
}

#[derive(Debug)]
enum Source {
    Sled(PathBuf),
    Given(Arc<dyn Store>),
}

impl App {
    /// An app over the sled store in this directory, which is made if it is not there.
    pub fn open(directory: impl Into<PathBuf>) -> AppBuilder {
        AppBuilder::new(Source::Sled(directory.into()))
    }

    /// An app whose store is memory: for tests, and for work that may be lost.
    pub fn in_memory() -> AppBuilder {
        Self::with_store(MemoryStore::new())
    }

    /// An app over any other [`Store`].
    pub fn with_store(store: impl Store) -> AppBuilder {
        AppBuilder::new(Source::Given(Arc::new(store)))
    }

    /// Submits a signature. When this returns it is as durable as the app asked for; the whole
    /// canvas is stored, or nothing of it.
    ///
    /// If the future is dropped before it returns, the work may have been submitted or not.
    ///
    /// # Errors
    ///
    /// [`Error::Canvas`] if the canvas is refused, [`Error::Store`] if the store fails,
    /// [`Error::ShutDown`] or [`Error::Halted`] if the engine no longer runs.
    pub async fn apply_async<S: Accepts<()>>(
        &self,
        signature: S,
    ) -> Result<AsyncResult<S::Output>> {
        let mut canvas = signature.into_canvas();
        let key = canvas
            .extras
            .as_mut()
            .and_then(|extras| extras.idempotency_key.take());
        if let Some(key) = &key
            && (key.is_empty() || key.len() > MAX_KEY)
        {
            return Err(Error::Canvas {
                path: String::new(),
                reason: format!("an idempotency key has 1 to {MAX_KEY} bytes"),
            });
        }
        if let Some(why) = self.0.shared.ended() {
            return Err(why);
        }
        let root = freeze::freeze(canvas, &self.0.shared.registry)?;
        let root_id = self.0.ids.next(&self.0.shared.clock);
        let definition = Definition::new(root_id, root, key);
        let key = definition.head.idempotency_key.clone();
        // The head is the commit marker: it goes last.
        self.stage(definition.segments).await?;
        let (durable, pin) = oneshot::channel();
        let submit = Submit {
            root_id,
            root: definition.root,
            next: definition.head.next,
            head: codec::encode(Kind::Head, &definition.head),
            idempotency_key: key,
            durable,
        };
        // Waits for room in the mailbox: whoever submits faster than the engine takes in is slowed.
        self.0.engine.send(submit).await.map_err(|_| self.gone())?;
        let pin = pin.await.map_err(|_| self.gone())?;
        Ok(AsyncResult::root(self.0.shared.clone(), pin))
    }

    /// The handle of a task, chain, group or chord that was submitted before, also before a
    /// restart. The type is the caller's word: a wrong one shows as [`Error::Decode`].
    ///
    /// # Errors
    ///
    /// [`Error::UnknownId`] if it was never submitted to this store or its retention has ended.
    pub async fn async_result<O>(&self, id: Id) -> Result<AsyncResult<O>> {
        AsyncResult::find(self.0.shared.clone(), id).await
    }

    /// Tasks of unfinished workflows whose names are not registered: they wait, and run when the
    /// app is started with them. Their ids and names.
    #[must_use]
    pub fn parked(&self) -> Vec<(Id, String)> {
        self.0.shared.parked()
    }

    /// Stops: starts no task any more, waits for those that run until the
    /// [grace](AppBuilder::grace) is over, and closes the store. What is unfinished goes on when
    /// it is opened again, callbacks that are due and have not started among it; a task cut short
    /// runs again, with the next attempt number. Handles that wait get [`Error::ShutDown`]. A second call returns at once.
    ///
    /// # Errors
    ///
    /// The [`Error::Store`] or [`Error::Halted`] that had stopped the engine before.
    pub async fn shutdown(&self) -> Result<()> {
        let already = self.0.shared.ended();
        let running = self.0.clone();
        let (done, waiting) = oneshot::channel();
        let Some(threads) = self.0.threads.lock().take() else {
            return Ok(());
        };
        // A thread of its own: joining blocks, and the caller's executor is unknown.
        let spawned = thread::Builder::new()
            .name("chordal-shutdown".to_owned())
            .spawn(move || {
                let grace = running.grace;
                running.engine.do_send(Shutdown { grace });
                let _ = threads.engine.join();
                threads.runtime.stop_within(Duration::from_millis(500));
                let _ = done.send(());
            });
        if spawned.is_ok() {
            // The sender cannot be dropped unless that thread panics, and then all is stopped.
            let _ = waiting.await;
        }
        match already.or_else(|| self.0.shared.ended()) {
            None | Some(Error::ShutDown) => Ok(()),
            Some(why) => Err(why),
        }
    }

    async fn stage(&self, segments: Vec<(Vec<u8>, Vec<u8>)>) -> Result<()> {
        let mut batch = Batch::default();
        let mut segments = segments.into_iter().peekable();
        while let Some((key, value)) = segments.next() {
            batch.put(key, value);
            if batch.bytes() >= STAGE || segments.peek().is_none() {
                let commit = Commit(std::mem::take(&mut batch));
                let answer = self.0.store.send(commit).await.map_err(|_| self.gone())?;
                if let Err(error) = answer.await.map_err(|_| self.gone())? {
                    // Nothing that is written after it can be trusted.
                    self.0.shared.end(error.clone().into());
                    return Err(error.into());
                }
            }
        }
        Ok(())
    }

    /// Why the engine does not answer.
    fn gone(&self) -> Error {
        self.0.shared.ended().unwrap_or(Error::ShutDown)
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
            window: 1_024,
            slots: Slots {
                asynchronous: 512,
                blocking: cores,
            },
            queues: HashMap::new(),
            worker_threads: cores,
            clock: Clock::system(),
        }
    }

    /// Registers tasks, listed with [`tasks!`](crate::tasks!): all that this store has unfinished work for, and all to be submitted.
    /// What was submitted under a name that is no longer registered is [parked](App::parked).
    pub fn tasks(mut self, tasks: impl IntoIterator<Item = TaskEntry>) -> Self {
        self.tasks.extend(tasks);
        self
    }

    /// Sets how much a crash may take back. Default: [`Durability::Power`], nothing.
    pub fn durability(mut self, durability: Durability) -> Self {
        self.durability = durability;
        self
    }

    /// Sets how long the results of a finished workflow are kept; a workflow with live handles is
    /// kept for as long as they live. Default: one day, as in Celery.
    pub fn retention(mut self, retention: Duration) -> Self {
        self.retention = retention;
        self
    }

    /// Sets how long [`App::shutdown`] waits for the tasks that run. Default: 25 s.
    pub fn grace(mut self, grace: Duration) -> Self {
        self.grace = grace;
        self
    }

    /// Sets how many members of one group are in memory at once. Default: 1,024; at least 1.
    pub fn window(mut self, members: u64) -> Self {
        self.window = members.max(1);
        self
    }

    /// Sets how many async tasks of one queue run at once. Default: 512; at least 1.
    pub fn concurrency(mut self, tasks: usize) -> Self {
        self.slots.asynchronous = tasks.max(1);
        self
    }

    /// Sets how many blocking tasks of one queue run at once, each on a thread of its own.
    /// Default: the number of cores; at least 1.
    pub fn blocking_concurrency(mut self, tasks: usize) -> Self {
        self.slots.blocking = tasks.max(1);
        self
    }

    /// Gives one queue slots of its own: `tasks` async and `tasks` blocking ones; at least 1.
    pub fn queue(mut self, name: impl Into<String>, tasks: usize) -> Self {
        let slots = Slots {
            asynchronous: tasks.max(1),
            blocking: tasks.max(1),
        };
        self.queues.insert(name.into(), slots);
        self
    }

    /// Sets how many threads async tasks share. Default: the number of cores; at least 1.
    pub fn worker_threads(mut self, threads: usize) -> Self {
        self.worker_threads = threads.max(1);
        self
    }

    /// Sets the clock; tests turn one by hand.
    pub fn clock(mut self, clock: Clock) -> Self {
        self.clock = clock;
        self
    }

    /// Opens the store, resumes all that was unfinished, and starts to run it.
    ///
    /// # Errors
    ///
    /// [`Error::DuplicateTask`]; [`Error::Store`] if the store is locked by another process, is
    /// damaged, was written by a newer version, or cannot be opened; [`Error::Start`].
    pub async fn start(self) -> Result<App> {
        let registry = Registry::new(self.tasks)?;
        // A slot of the blocking pool for every blocking task, and some for reading large values.
        let blocking: usize = registry
            .queues()
            .collect::<std::collections::HashSet<_>>()
            .len()
            .max(1)
            * self.slots.blocking
            + self
                .queues
                .values()
                .map(|slots| slots.blocking)
                .sum::<usize>();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(self.worker_threads)
            .max_blocking_threads((blocking + 8).max(512))
            .thread_name("chordal-worker")
            .enable_all()
            .build()
            .map(|runtime| Workers(Some(runtime)))
            .map_err(|error| Error::Start(format!("its runtime: {error}")))?;
        let engine = Engine {
            store: self.store,
            registry,
            durability: self.durability,
            retention: self.retention,
            limits: Limits {
                window: self.window,
                slots: self.slots,
                queues: self.queues,
            },
            clock: self.clock,
            runtime: runtime.handle(),
        };
        let (ready, started) = oneshot::channel();
        let thread = thread::Builder::new()
            .name("chordal-engine".to_owned())
            .spawn(move || engine.run(ready))
            .map_err(|error| Error::Start(format!("its thread: {error}")))?;
        let started = started
            .await
            .unwrap_or_else(|_| Err(Error::Start("its thread panicked".to_owned())));
        let Started {
            shared,
            engine,
            store,
            ids,
        } = started?;
        Ok(App(Arc::new(Running {
            shared,
            engine,
            store,
            ids,
            grace: self.grace,
            threads: Mutex::new(Some(Threads {
                engine: thread,
                runtime,
            })),
        })))
    }
}

impl Drop for Running {
    /// Stops without waiting for the tasks that run, and waits a little for the store to close.
    fn drop(&mut self) {
        let Some(threads) = self.threads.get_mut().take() else {
            return;
        };
        let grace = Duration::ZERO;
        self.engine.do_send(Shutdown { grace });
        drop(threads.runtime);
        let deadline = std::time::Instant::now() + LET_GO;
        while !threads.engine.is_finished() && std::time::Instant::now() < deadline {
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
    clock: Clock,
    runtime: tokio::runtime::Handle,
}

/// What the app needs of the started engine.
struct Started {
    shared: Arc<Shared>,
    engine: Addr<EngineActor>,
    store: Addr<StoreActor>,
    ids: Ids,
}

impl Engine {
    /// The life of the engine's thread: an actix system of its own.
    fn run(self, ready: oneshot::Sender<Result<Started>>) {
        let system = actix::System::new();
        // The store blocks in fsync, so it has a thread of its own.
        let writer = actix::Arbiter::new();
        let started = system.block_on(self.start(&writer));
        match started {
            Ok(started) => {
                let shared = started.shared.clone();
                if ready.send(Ok(started)).is_ok()
                    && let Err(error) = system.run()
                {
                    shared.end(Error::Halted(error.to_string()));
                }
                writer.stop();
                let _ = writer.join();
                shared.close();
                shared.end(Error::ShutDown);
            }
            Err(error) => {
                writer.stop();
                let _ = writer.join();
                // Nobody waits any more: there is nobody to tell.
                let _ = ready.send(Err(error));
            }
        }
    }

    async fn start(self, writer: &actix::Arbiter) -> Result<Started> {
        let store: Arc<dyn Store> = match self.store {
            Source::Sled(directory) => Arc::new(SledStore::open(directory)?),
            Source::Given(store) => store,
        };
        let opening = meta::open(&*store, self.durability)?;
        let reader = Reader::new(store.clone());
        let orphans = sweeper::orphans(&reader)?;
        let last = reader.last_id()?;
        let durable = Arc::new(AtomicU64::new(opening.last_commit()));
        let shared = Arc::new(Shared::new(
            reader.up_to(durable.clone()),
            durable,
            self.registry,
            self.clock.clone(),
            self.runtime,
        ));
        let durability = self.durability;
        let writing = store.clone();
        let store = StoreActor::start_in_arbiter(&writer.handle(), move |_| {
            StoreActor::new(writing, durability)
        });
        for orphan in orphans {
            let purge = sweeper::purge(shared.clone(), store.clone(), orphan);
            shared.runtime.spawn(purge);
        }
        let scheduler = SchedulerActor::new(self.clock).start();
        let shell = Shell::new(
            reader,
            store.clone(),
            scheduler,
            shared.clone(),
            self.limits,
            opening.last_commit(),
        );
        let engine = EngineActor::new(shell, self.retention).start();
        Ok(Started {
            shared,
            engine,
            store,
            ids: Ids::after(last),
        })
    }
}
