//! The runtime of user code, and its thread pool.

use std::io;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use crate::backend::pool::{Pool, STACK};
use crate::backend::user_runtime::UserRuntime;
use crate::persistence::store::fs::threads;

/// tokio counts its threads in 16 bits.
pub(super) const MAX_WORKERS: u64 = 32_767;

/// How often the start is checked for a refused thread, and after which time it is given up.
const CHECK_INTERVAL: Duration = Duration::from_millis(100);
const START_TIMEOUT: Duration = Duration::from_secs(30);

/// A tokio runtime that may be dropped anywhere, even when an `App::start` is cancelled: tokio's
/// own panics when it is dropped in async code.
#[derive(Debug)]
pub(super) struct Runtime {
    /// `None` only while dropping.
    tokio: Option<tokio::runtime::Runtime>,
    workers: UserRuntime,
}

impl Runtime {
    /// Starts the runtime with this many worker threads.
    ///
    /// If the system refuses one of the threads, tokio panics, and its unwinding waits for ever for
    /// the running ones. So the threads are requested beforehand, and the runtime is built on its
    /// own thread, which is abandoned if another process takes the threads in between.
    pub(super) fn start(count: usize) -> io::Result<Self> {
        threads::check_available(count + 1)?;
        let (done, begun) = mpsc::channel();
        let begin = move || drop(done.send(Self::begin(count)));
        let thread = thread::Builder::new().name("chordal-start".to_owned());
        thread.spawn(begin)?;
        let deadline = Instant::now() + START_TIMEOUT;
        loop {
            match begun.recv_timeout(CHECK_INTERVAL) {
                Ok(runtime) => return runtime,
                Err(RecvTimeoutError::Timeout) if Instant::now() < deadline => {
                    threads::check_available(1)?;
                }
                Err(_) => return Err(io::Error::other("the runtime got no thread")),
            }
        }
    }

    fn begin(count: usize) -> io::Result<Self> {
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        builder.worker_threads(count).thread_name("chordal-worker");
        let tokio = builder.thread_stack_size(STACK).enable_all().build()?;
        let pool = Pool::new(tokio.handle().clone());
        Ok(Self {
            workers: UserRuntime::new(tokio.handle().clone(), Some(pool)),
            tokio: Some(tokio),
        })
    }

    pub(super) fn workers(&self) -> UserRuntime {
        self.workers.clone()
    }

    /// Stops, and waits at most this long for running user code; not to be called in async code.
    pub(super) fn stop_within(mut self, limit: Duration) {
        let deadline = Instant::now() + limit;
        self.workers.close();
        if let Some(tokio) = self.tokio.take() {
            tokio.shutdown_timeout(limit);
        }
        self.workers.wait_until(deadline);
    }
}

impl Drop for Runtime {
    fn drop(&mut self) {
        self.workers.close();
        if let Some(tokio) = self.tokio.take() {
            tokio.shutdown_background();
        }
    }
}
