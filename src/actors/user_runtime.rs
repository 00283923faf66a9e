//! The workers: where user code runs, and whatever would block the engine's thread.

use std::io;
use std::sync::Arc;
use std::time::Instant;

use tokio::runtime::Handle;
use tokio::task::JoinHandle;

use super::pool::{Job, Pool};

/// A way to the runtime of user code, and to the thread pool.
#[derive(Clone, Debug)]
pub(crate) struct UserRuntime {
    runtime: Handle,
    /// In a simulation there is none: there is one thread for all, and nothing on it blocks.
    pool: Option<Arc<Pool>>,
}

impl UserRuntime {
    pub(crate) fn new(runtime: Handle) -> Self {
        let pool = Some(Pool::new(runtime.clone()));
        Self { runtime, pool }
    }

    /// Those of a runtime of one thread, which is the engine's as well.
    #[cfg(feature = "__simulation")]
    pub(crate) fn on_this_thread(runtime: Handle) -> Self {
        Self {
            runtime,
            pool: None,
        }
    }

    pub(crate) fn spawn<T: Send + 'static>(
        &self,
        work: impl Future<Output = T> + Send + 'static,
    ) -> JoinHandle<T> {
        self.runtime.spawn(work)
    }

    /// Runs the job on a thread, as soon as there is one. The caller sees to it that there are not too many:
    /// a blocking task holds a slot.
    pub(crate) fn run(&self, job: Job) {
        match &self.pool {
            Some(pool) => pool.run(job),
            None => self.run_here(job),
        }
    }

    /// Runs the job on a thread, or gives it back if the system has none.
    pub(crate) fn try_run(&self, job: Job) -> Result<(), (Job, io::Error)> {
        match &self.pool {
            Some(pool) => pool.try_run(job),
            None => {
                self.run_here(job);
                Ok(())
            }
        }
    }

    fn run_here(&self, job: Job) {
        self.runtime.spawn(async {
            #[cfg(feature = "__simulation")]
            crate::simulation::free_thread().await;
            job();
        });
    }

    /// Tells the threads of the pool to end.
    pub(crate) fn close(&self) {
        if let Some(pool) = &self.pool {
            pool.close();
        }
    }

    /// Waits until they have ended, up to this time.
    pub(crate) fn wait_until(&self, deadline: Instant) {
        if let Some(pool) = &self.pool {
            pool.wait_until(deadline);
        }
    }
}
