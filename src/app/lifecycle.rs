//! The engine's threads: how they start and how they stop.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use actix::{Actor, Addr, Arbiter, System, SystemRunner};
use parking_lot::Mutex;
use tokio::sync::{oneshot, watch};

use super::App;
use super::runtime::Runtime;
use crate::actors::commit::committer::{Committer, StoreActor, WriteLock};
use crate::actors::context::{EngineContext, Limits, RecoveredState, TrialSettings};
use crate::actors::engine::EngineActor;
use crate::actors::engine::sweeper;
use crate::actors::execute::executor::Executor;
use crate::actors::factory;
use crate::actors::handle::{Addresses, EngineHandle};
use crate::actors::scheduler::SchedulerActor;
use crate::backend::Backend;
use crate::backend::admission_control::AdmissionControl;
use crate::backend::durable_view::DurableView;
use crate::backend::user_runtime::UserRuntime;
use crate::canvas::admission::pending_limit::Load;
use crate::clock::{Clock, Ids};
use crate::error::{Error, Result, StartError};
use crate::persistence;
#[cfg(feature = "sled")]
use crate::persistence::SledStore;
use crate::persistence::records::reader::Reader;
use crate::persistence::records::steady::ClockReading;
use crate::persistence::{Durability, Store};
use crate::task::Registry;

/// How long an app over a store without a directory waits for the engines of dropped apps.
const STOP_TIMEOUT: Duration = Duration::from_secs(5);

/// How long blocking tasks that outlast the grace period may continue before they are abandoned.
const BLOCKING_GRACE: Duration = Duration::from_millis(500);

#[derive(Debug)]
pub(crate) struct Running {
    pub(crate) backend: Arc<dyn Backend>,
    pub(crate) grace: Duration,
    /// `None` in an eager app, and in a simulation, whose engine has no thread.
    pub(crate) engine: Option<EngineThread>,
    /// False in a simulation, in which a dropped system is a crash.
    pub(crate) stops_when_dropped: bool,
}

/// The engine's thread, which stops all others when it ends.
#[derive(Debug)]
pub(crate) struct EngineThread {
    /// The store's directory, if it has one.
    pub(super) directory: Option<PathBuf>,
    /// Closed when everything has stopped.
    pub(super) ended: watch::Receiver<()>,
    /// Whether the engine has been told to stop.
    pub(super) is_stopping: AtomicBool,
    pub(super) runtime: SharedRuntime,
}

/// The runtime of user code. The engine's thread stops it at its end, or the dropped app stops it
/// earlier.
pub(super) type SharedRuntime = Arc<Mutex<Option<Runtime>>>;

impl EngineThread {
    /// Tells the engine to stop; returns whether this is the first time.
    fn stop(&self, backend: &dyn Backend, grace: Duration) -> bool {
        let is_first = !self.is_stopping.swap(true, Ordering::SeqCst);
        if is_first {
            if let Some(directory) = &self.directory {
                persistence::mark_closing(directory);
            }
            backend.stop(grace);
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

#[derive(Debug)]
pub(super) enum Source {
    #[cfg(feature = "sled")]
    Sled(PathBuf),
    Given(Arc<dyn Store>),
    /// An own memory store, and all tasks run on the caller's thread.
    Eager,
}

impl App {
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
        let backend = &*self.0.backend;
        let earlier = backend.view().ended();
        match &self.0.engine {
            Some(engine) => {
                engine.stop(backend, self.0.grace);
                engine.ended().await;
            }
            None => backend.stop(self.0.grace),
        }
        match earlier.or_else(|| backend.view().ended()) {
            None | Some(Error::ShutDown) => Ok(()),
            Some(error) => Err(error),
        }
    }
}

impl Drop for Running {
    /// Asks the engine to stop without waiting for running tasks. It does not wait, because the
    /// thread may belong to an executor: the engine's threads end by themselves. An app that is
    /// [shutting down](App::shutdown) continues to do so.
    fn drop(&mut self) {
        if !self.stops_when_dropped {
            return;
        }
        let Some(engine) = &self.engine else {
            return self.backend.stop(Duration::ZERO);
        };
        if engine.stop(&*self.backend, Duration::ZERO) {
            if engine.directory.is_none() {
                let mut stopping = STOPPING.lock();
                stopping.retain(is_running);
                stopping.push(engine.ended.clone());
            }
            drop(engine.runtime.lock().take());
        }
    }
}

/// The engines of dropped apps over stores that have no directory, and so no lock.
static STOPPING: Mutex<Vec<watch::Receiver<()>>> = Mutex::new(Vec::new());

fn is_running(ended: &watch::Receiver<()>) -> bool {
    ended.has_changed().is_ok()
}

/// Waits until these engines have ended: the store may be theirs.
async fn wait_for_stopping() {
    let stopping = STOPPING.lock().clone();
    let all = async {
        for mut ended in stopping {
            while ended.changed().await.is_ok() {}
        }
    };
    // (A store that never returns must not keep all others shut.)
    let _ = tokio::time::timeout(STOP_TIMEOUT, all).await;
}

/// The settings that the engine's thread needs to start.
pub(crate) struct Engine {
    pub(super) store: Source,
    pub(super) registry: Registry,
    pub(super) durability: Durability,
    pub(super) retention: Duration,
    pub(super) limits: Limits,
    pub(super) trials: TrialSettings,
    pub(super) pending_limit: Load,
    pub(super) clock: Clock,
    pub(super) worker_threads: usize,
    pub(super) grace: Duration,
    pub(super) lock_timeout: Duration,
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
    pub(super) fn run(
        self,
        runtime: &SharedRuntime,
        ready: oneshot::Sender<Result<Arc<EngineHandle>>>,
    ) {
        match self.start_threads(runtime) {
            Ok((system, writer, engine)) => {
                if ready.send(Ok(engine.clone())).is_ok()
                    && let Err(error) = system.run()
                {
                    engine.view.end(Error::Halted(error.to_string()));
                }
                stop(writer);
                engine.view.close();
                engine.view.end(Error::ShutDown);
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
    ) -> Result<(SystemRunner, Arbiter, Arc<EngineHandle>)> {
        let no_thread =
            |error| Error::Start(StartError::Thread(format!("the store's thread: {error}")));
        let user_runtime = Runtime::start(self.worker_threads).map_err(|error| {
            Error::Start(StartError::Thread(format!(
                "the threads of its workers: {error}"
            )))
        })?;
        let workers = user_runtime.workers();
        *runtime.lock() = Some(user_runtime);
        let actors = actors_runtime().map_err(no_thread)?;
        let system = System::with_tokio_rt(move || actors);
        // The store blocks in fsync, so it has its own thread.
        let writer = Arbiter::try_with_tokio_rt(actors_runtime).map_err(no_thread)?;
        let at = writer.handle();
        let start_store = move |actor| StoreActor::start_in_arbiter(&at, |_| actor);
        match system.block_on(self.start(workers, start_store)) {
            Ok(engine) => Ok((system, writer, engine)),
            Err(error) => {
                stop(writer);
                Err(error)
            }
        }
    }

    /// Starts the actors on this thread, and the store's actor through `start_store`.
    pub(crate) async fn start(
        self,
        workers: UserRuntime,
        start_store: impl FnOnce(StoreActor) -> Addr<StoreActor>,
    ) -> Result<Arc<EngineHandle>> {
        let store: Arc<dyn Store> = match self.store {
            #[cfg(feature = "sled")]
            Source::Sled(directory) => {
                Arc::new(SledStore::open_within(directory, self.lock_timeout)?)
            }
            Source::Given(store) => {
                if store.directory().is_none() {
                    wait_for_stopping().await;
                }
                store
            }
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
        let view = Arc::new(DurableView::new(
            reader.up_to(durable.clone()),
            durable,
            clock.clone(),
            admission,
            Some(workers.clone()),
        ));
        let handle = EngineHandle::new(view.clone(), self.registry, workers, self.grace);
        let handle = Arc::new(handle);
        let write_lock = WriteLock::new(store, self.durability);
        let store = start_store(StoreActor::new(write_lock.clone()));
        if !garbage.is_empty() {
            let purge = sweeper::purge_all(view, store.clone(), garbage);
            handle.runtime.spawn(purge);
        }
        let scheduler = SchedulerActor::new(clock).start();
        let context = EngineContext::new(
            reader,
            Committer {
                write_lock,
                store: store.clone(),
            },
            scheduler,
            Arc::new(Executor::new(handle.clone(), self.worker_threads)),
            self.limits,
            recovered,
            factory::ACTORS,
        );
        let engine = EngineActor::new(context, self.retention).start();
        let ids = Ids::after(last);
        handle.set_addresses(Addresses {
            submissions: engine.clone().recipient(),
            engine: engine.clone().recipient(),
            shutdown: engine.recipient(),
            store,
            ids,
        });
        Ok(handle)
    }
}
