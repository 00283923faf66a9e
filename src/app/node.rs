//! The node: what an app has whatever engine runs in it, and however that ends.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use super::runtime::Runtime;
use crate::actors::dispatch::dispatcher::QueueSlots;
use crate::actors::execute::executor::Executor;
use crate::backend::user_runtime::UserRuntime;
use crate::task::Registry;

/// The threads of user code, the executor, the registered tasks and the slots.
#[derive(Debug)]
pub(crate) struct Node {
    pub(super) registry: Arc<Registry>,
    pub(super) slots: QueueSlots,
    pub(super) executor: Arc<Executor>,
    pub(super) workers: UserRuntime,
    /// `None` once it is stopped, and in a simulation.
    runtime: Mutex<Option<Runtime>>,
}

/// The settings of a node.
#[derive(Debug)]
pub(crate) struct NodeSettings {
    pub(super) registry: Registry,
    pub(super) slots: QueueSlots,
    pub(super) worker_threads: usize,
}

impl Node {
    /// Starts the threads of user code.
    pub(super) fn start(settings: NodeSettings) -> io::Result<Self> {
        let runtime = Runtime::start(settings.worker_threads)?;
        let node = Self::on(runtime.workers(), settings);
        *node.runtime.lock() = Some(runtime);
        Ok(node)
    }

    /// Creates a node over threads that are not its own.
    pub(crate) fn on(workers: UserRuntime, settings: NodeSettings) -> Self {
        let executor = Executor::new(workers.clone(), settings.worker_threads);
        Self {
            registry: Arc::new(settings.registry),
            slots: settings.slots,
            executor: Arc::new(executor),
            workers,
            runtime: Mutex::new(None),
        }
    }

    /// Stops the threads of user code without waiting for them.
    pub(super) fn stop(&self) {
        drop(self.runtime.lock().take());
    }

    /// Stops the threads of user code, and waits at most this long for what runs in them; not to be
    /// called in async code.
    pub(super) fn stop_within(&self, limit: Duration) {
        let runtime = self.runtime.lock().take();
        if let Some(runtime) = runtime {
            runtime.stop_within(limit);
        }
    }
}
