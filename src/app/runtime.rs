//! The runtime of user code, and its thread pool.

use std::io;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use crate::actors::pool::STACK;
use crate::actors::user_runtime::UserRuntime;
use crate::persistence::threads;

/// tokio counts its threads in 16 bits.
pub(super) const MOST_WORKERS: usize = 32_767;

/// How long its threads get to start before we look whether one was refused, and before it is given up.
const LOOK: Duration = Duration::from_millis(100);
const STUCK: Duration = Duration::from_secs(30);

/// It may be dropped anywhere, also where an `App::start` is cancelled in the middle: tokio's own
/// panics when it is dropped in async code.
#[derive(Debug)]
pub(super) struct Runtime {
    /// `None` only while dropping.
    tokio: Option<tokio::runtime::Runtime>,
    workers: UserRuntime,
}

impl Runtime {
    /// Starts it with this many threads that poll.
    ///
    /// If the system refuses one of them, tokio panics, and its unwinding waits for ever for those that
    /// run. So the threads are asked for beforehand; and it is begun on a thread of its own, which is
    /// left alone if another takes them in between.
    pub(super) fn start(count: usize) -> io::Result<Self> {
        threads::check_available(count + 1)?;
        let (done, begun) = mpsc::channel();
        let begin = move || drop(done.send(Self::begin(count)));
        let thread = thread::Builder::new().name("chordal-start".to_owned());
        thread.spawn(begin)?;
        let deadline = Instant::now() + STUCK;
        loop {
            match begun.recv_timeout(LOOK) {
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
        Ok(Self {
            workers: UserRuntime::new(tokio.handle().clone()),
            tokio: Some(tokio),
        })
    }

    pub(super) fn workers(&self) -> UserRuntime {
        self.workers.clone()
    }

    /// Waits at most this long for what runs; not to be called in async code.
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
