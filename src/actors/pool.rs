//! The thread pool: blocking tasks, and all else that would block the engine or the caller.
//!
//! It differs from tokio's in what happens when the system refuses a thread. tokio then panics, or
//! leaves the work in a queue that nobody may ever look at. Here the work is given back, or it waits,
//! and the pool asks the system again until it has a thread.

use std::collections::VecDeque;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use tokio::runtime::Handle;
use tokio::sync::oneshot;

/// The stack of a thread that runs tasks, in bytes: as large as that of a program's first thread
/// mostly is. A value that nests deep is read on it, by code that is perhaps not optimised.
pub(crate) const STACK: usize = 8 << 20;

/// How long a thread without work stays.
const KEEP_ALIVE: Duration = Duration::from_secs(10);

/// How long the pool waits before it asks again for a thread that was refused.
const ASK_AGAIN: Duration = Duration::from_millis(100);

/// How much may be under way that holds no slot; what comes then waits. (A blocking task holds a slot,
/// and slots are counted: however many such run, they leave threads for the rest.)
const MOST: usize = 512;

/// A piece of work.
pub(crate) type Job = Box<dyn FnOnce() + Send>;

/// A job, and whether it is one of those that hold no slot.
struct Work {
    job: Job,
    is_loose: bool,
}

/// Returns the work as a job, and where what it returns, or its panic, comes out. Nothing comes out of
/// a job that is dropped.
pub(crate) fn job<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> (Job, oneshot::Receiver<thread::Result<T>>) {
    let (done, outcome) = oneshot::channel();
    let job = move || drop(done.send(catch_unwind(AssertUnwindSafe(work))));
    (Box::new(job), outcome)
}

/// Starts a thread that runs this.
type Start = fn(Job) -> io::Result<()>;

#[derive(Debug)]
pub(crate) struct Pool {
    state: Mutex<State>,
    /// Rung when there is work, or the pool closes.
    bell: Condvar,
    /// Rung when the last thread has ended.
    is_empty: Condvar,
    /// What the jobs find as tokio's current runtime.
    runtime: Handle,
    start: Start,
    /// How many loose jobs may be under way.
    most: usize,
}

#[derive(Debug, Default)]
struct State {
    queue: Queue,
    /// How many threads wait for work, and how many there are.
    idle: usize,
    threads: usize,
    /// How many loose jobs are under way.
    loose: usize,
    /// The pool asks from time to time for the threads that were refused.
    is_asking: bool,
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
    /// Says whether there is a thread for each job in the queue.
    fn suffices(&self) -> bool {
        self.queue.0.len() <= self.idle
    }
}

impl Pool {
    pub(crate) fn new(runtime: Handle) -> Arc<Self> {
        Self::with_start(runtime, MOST, |run| {
            let thread = thread::Builder::new().name("chordal-pool".to_owned());
            thread.stack_size(STACK).spawn(run).map(drop)
        })
    }

    fn with_start(runtime: Handle, most: usize, start: Start) -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::default(),
            bell: Condvar::new(),
            is_empty: Condvar::new(),
            runtime,
            start,
            most,
        })
    }

    /// Runs the job as soon as there is a thread for it. The caller sees to it that there are not too
    /// many.
    pub(crate) fn run(self: &Arc<Self>, job: Job) {
        let mut state = self.state.lock();
        if state.is_closed {
            return;
        }
        state.queue.0.push_back(Work {
            job,
            is_loose: false,
        });
        if state.suffices() {
            self.bell.notify_one();
            return;
        }
        state.threads += 1;
        drop(state);
        if let Err(error) = self.start_thread(None) {
            self.ask_again(&error);
        }
    }

    /// Runs the job on a thread, or gives it back if the system has none.
    pub(crate) fn try_run(self: &Arc<Self>, job: Job) -> Result<(), (Job, io::Error)> {
        let mut state = self.state.lock();
        if state.is_closed {
            return Ok(());
        }
        let work = Work {
            job,
            is_loose: true,
        };
        state.loose += 1;
        if state.queue.0.len() < state.idle || state.loose > self.most {
            state.queue.0.push_back(work);
            self.bell.notify_one();
            return Ok(());
        }
        state.threads += 1;
        drop(state);
        // The thread takes it from there, unless there is no thread.
        let first = Arc::new(Mutex::new(Some(work)));
        match self.start_thread(Some(first.clone())) {
            Ok(()) => Ok(()),
            Err(error) => match first.lock().take() {
                Some(work) => {
                    self.state.lock().loose -= 1;
                    Err((work.job, error))
                }
                None => Ok(()),
            },
        }
    }

    /// Takes no more work, drops what waits, and tells the threads to end.
    pub(crate) fn close(&self) {
        let mut state = self.state.lock();
        state.is_closed = true;
        let dropped = std::mem::take(&mut state.queue);
        self.bell.notify_all();
        drop(state);
        drop(dropped);
    }

    /// Waits until the threads have ended, up to this time. A job that does not end keeps its thread.
    pub(crate) fn wait_until(&self, deadline: Instant) {
        let mut state = self.state.lock();
        while state.threads > 0 {
            if self.is_empty.wait_until(&mut state, deadline).timed_out() {
                return;
            }
        }
    }

    /// Starts a thread, which is counted already.
    fn start_thread(self: &Arc<Self>, first: Option<Arc<Mutex<Option<Work>>>>) -> io::Result<()> {
        let pool = self.clone();
        let run = move || pool.serve(first.and_then(|first| first.lock().take()));
        let started = (self.start)(Box::new(run));
        if started.is_err() {
            self.state.lock().threads -= 1;
        }
        started
    }

    /// The life of a thread.
    fn serve(&self, first: Option<Work>) {
        let _entered = self.runtime.enter();
        let mut next = first.or_else(|| self.next());
        while let Some(Work { job, is_loose }) = next {
            if let Err(panic) = catch_unwind(AssertUnwindSafe(job)) {
                // It may panic when it is dropped, as what brought it here did.
                std::mem::forget(panic);
            }
            if is_loose {
                self.state.lock().loose -= 1;
            }
            next = self.next();
        }
    }

    /// Returns the next job; without one the thread is to end, and is no longer counted.
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
            is_late = self.bell.wait_until(&mut state, deadline).timed_out();
            state.idle -= 1;
        }
        state.threads -= 1;
        if state.threads == 0 {
            self.is_empty.notify_all();
        }
        None
    }

    /// Asks for threads from time to time until there are enough.
    fn ask_again(self: &Arc<Self>, error: &io::Error) {
        let mut state = self.state.lock();
        if std::mem::replace(&mut state.is_asking, true) {
            return;
        }
        drop(state);
        tracing::warn!(%error, "the system has no thread for blocking tasks: they wait for one");
        let pool = self.clone();
        self.runtime.spawn(async move {
            while pool.lacks_threads() {
                tokio::time::sleep(ASK_AGAIN).await;
            }
        });
    }

    /// Says whether there are too few threads, and asks for those that are missing.
    fn lacks_threads(self: &Arc<Self>) -> bool {
        let mut state = self.state.lock();
        if state.is_closed || state.suffices() {
            state.is_asking = false;
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

    /// The system refuses all threads while this is set. One test at a time uses it.
    static REFUSES: AtomicBool = AtomicBool::new(false);
    static REFUSED: AtomicUsize = AtomicUsize::new(0);
    static TURN: Mutex<()> = Mutex::new(());

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
    fn work_that_gets_no_thread_waits_and_runs_once_when_there_is_one() {
        let _turn = TURN.lock();
        let runtime = runtime();
        let pool = Pool::with_start(runtime.handle().clone(), MOST, start);
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
    fn work_that_need_not_wait_is_given_back() {
        let _turn = TURN.lock();
        let runtime = runtime();
        let pool = Pool::with_start(runtime.handle().clone(), MOST, start);
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
    fn tasks_that_fill_the_pool_leave_threads_for_what_holds_no_slot() {
        let _turn = TURN.lock();
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
    fn a_panic_is_the_works_own_and_the_thread_goes_on() {
        let _turn = TURN.lock();
        let runtime = runtime();
        let pool = Pool::with_start(runtime.handle().clone(), MOST, start);
        let (panics, outcome) = job(|| panic!("as it was asked to"));
        pool.run(panics);
        let outcome: thread::Result<()> = outcome.blocking_recv().unwrap();
        assert!(outcome.is_err());
        let (fine, outcome) = job(|| 1);
        pool.run(fine);
        assert_eq!(outcome.blocking_recv().unwrap().unwrap(), 1);
    }

    #[test]
    fn a_closed_pool_drops_what_waits_and_ends_its_threads() {
        let _turn = TURN.lock();
        let runtime = runtime();
        let pool = Pool::with_start(runtime.handle().clone(), MOST, start);
        let (go, waits) = mpsc::channel::<()>();
        let (begun, begins) = mpsc::channel();
        let (first, done) = job(move || {
            begun.send(()).unwrap();
            waits.recv().unwrap();
        });
        pool.run(first);
        begins.recv().unwrap();
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
