//! The thread pool: runs blocking tasks, and all other work that would block the engine or the
//! caller.
//!
//! It differs from tokio's pool when the system refuses a thread. tokio's then panics, or leaves
//! the job in a queue that no thread may ever serve. This pool returns the job to its caller or
//! lets it wait, and asks the system again until it has a thread.

use std::collections::VecDeque;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use tokio::runtime::Handle;
use tokio::sync::oneshot;

/// The stack of a thread that runs tasks, in bytes: as large as a program's main thread mostly has.
/// Deeply nested values are deserialized on it, perhaps by unoptimised code.
pub(crate) const STACK: usize = 8 << 20;

/// How long an idle thread is kept.
const KEEP_ALIVE: Duration = Duration::from_secs(10);

/// How long the pool waits before it asks again for a thread that the system refused.
const RETRY_INTERVAL: Duration = Duration::from_millis(100);

/// The most jobs without a slot that run at once; further ones wait. (Blocking tasks are limited by
/// their slots: however many run, they leave threads for other jobs.)
const MAX_WITHOUT_SLOT: usize = 512;

/// A function to run on a thread of the pool.
pub(crate) type Job = Box<dyn FnOnce() + Send>;

/// A job, and whether it holds no slot.
struct Work {
    job: Job,
    is_without_slot: bool,
}

/// Returns the work as a job, and a receiver of its result or its panic. The receiver fails if the
/// job is dropped.
pub(crate) fn job<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> (Job, oneshot::Receiver<thread::Result<T>>) {
    let (done, outcome) = oneshot::channel();
    let job = move || drop(done.send(catch_unwind(AssertUnwindSafe(work))));
    (Box::new(job), outcome)
}

/// Starts a thread that runs a job.
type Start = fn(Job) -> io::Result<()>;

#[derive(Debug)]
pub(crate) struct Pool {
    state: Mutex<State>,
    /// Notified when there is work, or the pool closes.
    work_ready: Condvar,
    /// Notified when the last thread has ended.
    empty: Condvar,
    /// The jobs' current tokio runtime.
    runtime: Handle,
    start: Start,
    /// The maximum number of jobs without a slot that run at once.
    max_without_slot: usize,
}

#[derive(Debug, Default)]
struct State {
    queue: Queue,
    /// The number of idle threads, and of all threads.
    idle: usize,
    threads: usize,
    /// The number of running jobs without a slot.
    without_slot: usize,
    /// A task asks repeatedly for the threads that the system refused.
    is_retrying: bool,
    is_closed: bool,
}

#[derive(Default)]
struct Queue(VecDeque<Work>);

impl std::fmt::Debug for Queue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} jobs", self.0.len())
    }
}

impl State {
    /// Returns whether there is an idle thread for each job in the queue.
    fn has_enough_threads(&self) -> bool {
        self.queue.0.len() <= self.idle
    }
}

impl Pool {
    pub(crate) fn new(runtime: Handle) -> Arc<Self> {
        Self::with_start(runtime, MAX_WITHOUT_SLOT, |run| {
            let thread = thread::Builder::new().name("chordal-pool".to_owned());
            thread.stack_size(STACK).spawn(run).map(drop)
        })
    }

    fn with_start(runtime: Handle, max_without_slot: usize, start: Start) -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::default(),
            work_ready: Condvar::new(),
            empty: Condvar::new(),
            runtime,
            start,
            max_without_slot,
        })
    }

    /// Runs the job as soon as there is a thread for it. The caller limits the number of such jobs.
    pub(crate) fn run(self: &Arc<Self>, job: Job) {
        let mut state = self.state.lock();
        if state.is_closed {
            return;
        }
        state.queue.0.push_back(Work {
            job,
            is_without_slot: false,
        });
        if state.has_enough_threads() {
            self.work_ready.notify_one();
            return;
        }
        state.threads += 1;
        drop(state);
        if let Err(error) = self.start_thread(None) {
            self.retry_later(&error);
        }
    }

    /// Runs the job on a thread, or returns it if the system refuses one.
    pub(crate) fn try_run(self: &Arc<Self>, job: Job) -> Result<(), (Job, io::Error)> {
        let mut state = self.state.lock();
        if state.is_closed {
            return Ok(());
        }
        let work = Work {
            job,
            is_without_slot: true,
        };
        state.without_slot += 1;
        if state.queue.0.len() < state.idle || state.without_slot > self.max_without_slot {
            state.queue.0.push_back(work);
            self.work_ready.notify_one();
            return Ok(());
        }
        state.threads += 1;
        drop(state);
        // The thread takes the job from this cell; if no thread starts, the job is taken back.
        let first = Arc::new(Mutex::new(Some(work)));
        match self.start_thread(Some(first.clone())) {
            Ok(()) => Ok(()),
            Err(error) => match first.lock().take() {
                Some(work) => {
                    self.state.lock().without_slot -= 1;
                    Err((work.job, error))
                }
                None => Ok(()),
            },
        }
    }

    /// Stops accepting jobs, drops the waiting ones, and makes the threads end.
    pub(crate) fn close(&self) {
        let mut state = self.state.lock();
        state.is_closed = true;
        let dropped = std::mem::take(&mut state.queue);
        self.work_ready.notify_all();
        drop(state);
        drop(dropped);
    }

    /// Waits until all threads have ended, at most until `deadline`. A job that does not return
    /// keeps its thread.
    pub(crate) fn wait_until(&self, deadline: Instant) {
        let mut state = self.state.lock();
        while state.threads > 0 {
            if self.empty.wait_until(&mut state, deadline).timed_out() {
                return;
            }
        }
    }

    /// Starts a thread. The caller has counted it already.
    fn start_thread(self: &Arc<Self>, first: Option<Arc<Mutex<Option<Work>>>>) -> io::Result<()> {
        let pool = self.clone();
        let run = move || pool.serve(first.and_then(|first| first.lock().take()));
        let started = (self.start)(Box::new(run));
        if started.is_err() {
            self.state.lock().threads -= 1;
        }
        started
    }

    /// Runs jobs until the thread is to end.
    fn serve(&self, first: Option<Work>) {
        let _entered = self.runtime.enter();
        let mut next = first.or_else(|| self.next());
        while let Some(Work {
            job,
            is_without_slot,
        }) = next
        {
            if let Err(panic) = catch_unwind(AssertUnwindSafe(job)) {
                // Dropping the payload may panic, too.
                std::mem::forget(panic);
            }
            if is_without_slot {
                self.state.lock().without_slot -= 1;
            }
            next = self.next();
        }
    }

    /// Returns the next job. Without one, the thread must end, and is no longer counted.
    fn next(&self) -> Option<Work> {
        let mut state = self.state.lock();
        let deadline = Instant::now() + KEEP_ALIVE;
        let mut is_late = false;
        loop {
            if let Some(work) = state.queue.0.pop_front() {
                return Some(work);
            }
            if is_late || state.is_closed {
                break;
            }
            state.idle += 1;
            is_late = self.work_ready.wait_until(&mut state, deadline).timed_out();
            state.idle -= 1;
        }
        state.threads -= 1;
        if state.threads == 0 {
            self.empty.notify_all();
        }
        None
    }

    /// Asks repeatedly for threads until there are enough.
    fn retry_later(self: &Arc<Self>, error: &io::Error) {
        let mut state = self.state.lock();
        if std::mem::replace(&mut state.is_retrying, true) {
            return;
        }
        drop(state);
        tracing::warn!(%error, "the system has no thread for blocking tasks: they wait for one");
        let pool = self.clone();
        self.runtime.spawn(async move {
            while pool.request_missing_threads() {
                tokio::time::sleep(RETRY_INTERVAL).await;
            }
        });
    }

    /// Asks for the missing threads. Returns whether any were missing.
    fn request_missing_threads(self: &Arc<Self>) -> bool {
        let mut state = self.state.lock();
        if state.is_closed || state.has_enough_threads() {
            state.is_retrying = false;
            return false;
        }
        let missing = state.queue.0.len() - state.idle;
        drop(state);
        for _ in 0..missing {
            self.state.lock().threads += 1;
            if self.start_thread(None).is_err() {
                break;
            }
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
    use std::sync::mpsc;

    use super::*;

    /// The test's system refuses all threads while this is set. Only one test at a time uses it.
    static REFUSES: AtomicBool = AtomicBool::new(false);
    static REFUSED: AtomicUsize = AtomicUsize::new(0);
    static SERIAL: Mutex<()> = Mutex::new(());

    fn start(run: Job) -> io::Result<()> {
        if REFUSES.load(Ordering::SeqCst) {
            REFUSED.fetch_add(1, Ordering::SeqCst);
            return Err(io::ErrorKind::WouldBlock.into());
        }
        thread::Builder::new().spawn(run).map(drop)
    }

    fn runtime() -> tokio::runtime::Runtime {
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        builder.worker_threads(1).enable_time().build().unwrap()
    }

    #[test]
    fn jobs_that_get_no_thread_wait_and_run_once_when_there_is_one() {
        let _serial = SERIAL.lock();
        let runtime = runtime();
        let pool = Pool::with_start(runtime.handle().clone(), MAX_WITHOUT_SLOT, start);
        REFUSES.store(true, Ordering::SeqCst);
        let (ran, runs) = mpsc::channel();
        for n in 0..3 {
            let ran = ran.clone();
            pool.run(Box::new(move || ran.send(n).unwrap()));
        }
        drop(ran);
        let before = REFUSED.load(Ordering::SeqCst);
        while REFUSED.load(Ordering::SeqCst) < before + 2 {
            thread::yield_now();
        }
        assert!(runs.try_recv().is_err(), "nothing can have run");
        REFUSES.store(false, Ordering::SeqCst);
        let mut ran: Vec<_> = runs.iter().collect();
        ran.sort_unstable();
        assert_eq!(ran, [0, 1, 2]);
    }

    #[test]
    fn a_job_that_must_not_wait_is_returned_if_the_system_refuses_a_thread() {
        let _serial = SERIAL.lock();
        let runtime = runtime();
        let pool = Pool::with_start(runtime.handle().clone(), MAX_WITHOUT_SLOT, start);
        REFUSES.store(true, Ordering::SeqCst);
        let (one, outcome) = job(|| 7);
        let (back, error) = pool.try_run(one).expect_err("there is no thread");
        REFUSES.store(false, Ordering::SeqCst);
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
        back();
        assert_eq!(outcome.blocking_recv().unwrap().unwrap(), 7);
        let (two, outcome) = job(|| 8);
        assert!(pool.try_run(two).is_ok());
        assert_eq!(outcome.blocking_recv().unwrap().unwrap(), 8);
    }

    #[test]
    fn tasks_that_fill_the_pool_leave_threads_for_jobs_without_a_slot() {
        let _serial = SERIAL.lock();
        let runtime = runtime();
        let pool = Pool::with_start(runtime.handle().clone(), 2, start);
        let (go, waits) = mpsc::channel::<()>();
        let waits = Arc::new(Mutex::new(waits));
        for _ in 0..4 {
            let waits = waits.clone();
            pool.run(Box::new(move || {
                let _ = waits.lock().recv();
            }));
        }
        for n in 0..8 {
            let (read, outcome) = job(move || n);
            assert!(pool.try_run(read).is_ok());
            assert_eq!(outcome.blocking_recv().unwrap().unwrap(), n);
        }
        drop(go);
    }

    #[test]
    fn a_panicking_job_reports_its_panic_and_its_thread_survives() {
        let _serial = SERIAL.lock();
        let runtime = runtime();
        let pool = Pool::with_start(runtime.handle().clone(), MAX_WITHOUT_SLOT, start);
        let (panics, outcome) = job(|| panic!("as it was asked to"));
        pool.run(panics);
        let outcome: thread::Result<()> = outcome.blocking_recv().unwrap();
        assert!(outcome.is_err());
        let (fine, outcome) = job(|| 1);
        pool.run(fine);
        assert_eq!(outcome.blocking_recv().unwrap().unwrap(), 1);
    }

    #[test]
    fn a_closed_pool_drops_waiting_jobs_and_ends_its_threads() {
        let _serial = SERIAL.lock();
        let runtime = runtime();
        let pool = Pool::with_start(runtime.handle().clone(), MAX_WITHOUT_SLOT, start);
        let (go, waits) = mpsc::channel::<()>();
        let (started, starts) = mpsc::channel();
        let (first, done) = job(move || {
            started.send(()).unwrap();
            waits.recv().unwrap();
        });
        pool.run(first);
        starts.recv().unwrap();
        REFUSES.store(true, Ordering::SeqCst);
        let (second, dropped) = job(|| ());
        pool.run(second);
        REFUSES.store(false, Ordering::SeqCst);
        pool.close();
        assert!(dropped.blocking_recv().is_err(), "it must not run");
        go.send(()).unwrap();
        done.blocking_recv().unwrap().unwrap();
        pool.wait_until(Instant::now() + Duration::from_secs(60));
        assert_eq!(pool.state.lock().threads, 0);
    }
}
