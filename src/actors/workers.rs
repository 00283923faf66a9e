//! The workers: where user code runs, and whatever would block the engine's thread.

use tokio::runtime::Handle;
use tokio::task::JoinHandle;

/// A way to the runtime of user code, and to its blocking pool.
#[derive(Clone, Debug)]
pub(crate) struct Workers {
    runtime: Handle,
    /// There is a pool. In a simulation there is one thread for all, and nothing on it blocks.
    has_pool: bool,
}

impl Workers {
    pub(crate) fn new(runtime: Handle) -> Self {
        Self {
            runtime,
            has_pool: true,
        }
    }

    /// Those of a runtime of one thread, which is the engine's as well.
    #[cfg(feature = "simulation")]
    pub(crate) fn here(runtime: Handle) -> Self {
        Self {
            runtime,
            has_pool: false,
        }
    }

    pub(crate) fn spawn<T: Send + 'static>(
        &self,
        work: impl Future<Output = T> + Send + 'static,
    ) -> JoinHandle<T> {
        self.runtime.spawn(work)
    }

    pub(crate) fn spawn_blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> JoinHandle<T> {
        match self.has_pool {
            true => self.runtime.spawn_blocking(work),
            false => self.runtime.spawn(async {
                #[cfg(feature = "simulation")]
                crate::simulation::free_thread().await;
                work()
            }),
        }
    }
}
