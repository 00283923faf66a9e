//! The user runtime: runs user code, and all work that would block the engine's thread.

use std::io;
use std::sync::Arc;
use std::time::Instant;

use tokio::runtime::Handle;
use tokio::task::JoinHandle;

use super::pool::{Job, Pool};
use crate::testing::hooks;

/// A handle to the runtime of user code, and to the thread pool.
#[derive(Clone, Debug)]
pub(crate) struct UserRuntime {
    runtime: Handle,
    /// `None` in a simulation, which has a single thread that never blocks.
    pool: Option<Arc<Pool>>,
}

impl UserRuntime {
    pub(crate) fn new(runtime: Handle, pool: Option<Arc<Pool>>) -> Self {
        Self { runtime, pool }
    }

    pub(crate) fn spawn<T: Send + 'static>(
        &self,
        work: impl Future<Output = T> + Send + 'static,
    ) -> JoinHandle<T> {
        self.runtime.spawn(work)
    }

    /// Runs the job on a thread, as soon as there is one. The caller limits the number of such
    /// jobs: a blocking task holds a slot.
    pub(crate) fn run(&self, job: Job) {
        match &self.pool {
            Some(pool) => pool.run(job),
            None => self.run_on_runtime(job),
        }
    }

    /// Runs the job on a thread, or returns it if the system refuses one.
    pub(crate) fn try_run(&self, job: Job) -> Result<(), (Job, io::Error)> {
        match &self.pool {
            Some(pool) => pool.try_run(job),
            None => {
                self.run_on_runtime(job);
                Ok(())
            }
        }
    }

    fn run_on_runtime(&self, job: Job) {
        self.runtime.spawn(async {
            hooks::free_thread().await;
            job();
        });
    }

    /// Makes the threads of the pool end.
    pub(crate) fn close(&self) {
        if let Some(pool) = &self.pool {
            pool.close();
        }
    }

    /// Waits until they have ended, at most until `deadline`.
    pub(crate) fn wait_until(&self, deadline: Instant) {
        if let Some(pool) = &self.pool {
            pool.wait_until(deadline);
        }
    }
}
