//! The engine's threads: how they start and how they stop.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use actix::{Actor, Arbiter, System, SystemRunner};
use tokio::sync::{oneshot, watch};

use super::App;
use super::node::{Node, NodeSettings};
use super::seat::{STOPPING, Seat, is_running};
use crate::actors::commit::committer::StoreActor;
use crate::actors::handle::EngineHandle;
use crate::backend::Backend;
use crate::error::{Error, Result, StartError};
use crate::persistence;

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
    pub(super) node: Arc<Node>,
}

impl EngineThread {
    /// Tells the engine to stop; returns whether this is the first time.
    fn stop(&self, backend: &dyn Backend, grace: Duration) -> bool {
        let is_first = !self.is_stopping.swap(true, Ordering::SeqCst);
        if is_first {
            match &self.directory {
                Some(directory) => persistence::mark_closing(directory),
                None => {
                    let mut stopping = STOPPING.lock();
                    stopping.retain(is_running);
                    stopping.push(self.ended.clone());
                }
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
        self.node.stop();
    }
}

impl App {
    /// Stops the app: starts no more tasks, waits for the running ones until the [grace
    /// period](crate::AppBuilder::grace) is over, and closes the store. Unfinished work resumes
    /// when the store is opened again, including due callbacks that have not started; an
    /// interrupted task runs again, with the next attempt number. Waiting handles get
    /// [`Error::ShutDown`].
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
            engine.node.stop();
        }
    }
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

/// What the engine's thread starts.
type Started = (Arc<Node>, Arc<EngineHandle>);

/// Runs the engine's thread: an actix system of its own.
pub(super) fn run(settings: NodeSettings, seat: Seat, ready: oneshot::Sender<Result<Started>>) {
    match start_threads(settings, seat) {
        Ok((system, writer, node, engine)) => {
            if ready.send(Ok((node.clone(), engine.clone()))).is_ok()
                && let Err(error) = system.run()
            {
                engine.view.end(Error::Halted(error.to_string()));
            }
            stop(writer);
            engine.view.close();
            engine.view.end(Error::ShutDown);
            // The app has this one engine, and ends with it.
            node.stop_within(BLOCKING_GRACE);
        }
        // An error means that the caller no longer waits.
        Err(error) => drop(ready.send(Err(error))),
    }
}

/// Starts all required threads, and on them the engine.
fn start_threads(
    settings: NodeSettings,
    seat: Seat,
) -> Result<(SystemRunner, Arbiter, Arc<Node>, Arc<EngineHandle>)> {
    let no_thread =
        |error| Error::Start(StartError::Thread(format!("the store's thread: {error}")));
    let node = Node::start(settings).map_err(|error| {
        Error::Start(StartError::Thread(format!(
            "the threads of its workers: {error}"
        )))
    })?;
    let node = Arc::new(node);
    let actors = actors_runtime().map_err(no_thread)?;
    let system = System::with_tokio_rt(move || actors);
    // The store blocks in fsync, so it has its own thread.
    let writer = Arbiter::try_with_tokio_rt(actors_runtime).map_err(no_thread)?;
    let at = writer.handle();
    let start_store = move |actor| StoreActor::start_in_arbiter(&at, |_| actor);
    match system.block_on(seat.start(&node, start_store)) {
        Ok(engine) => Ok((system, writer, node, engine)),
        Err(error) => {
            stop(writer);
            Err(error)
        }
    }
}
