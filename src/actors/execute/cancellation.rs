//! Cancellation: notifies a running attempt that its task is revoked, and ends the attempt.

use std::collections::HashMap;
use std::fmt;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::Poll;
use std::time::Duration;

use futures_util::task::AtomicWaker;
use parking_lot::Mutex;

use crate::backend::user_runtime::UserRuntime;
use crate::clock::Clock;
use crate::messages::task::TaskKey;
use crate::task::Signal;

/// The cancellation of one attempt, as observed by its own code and by the future that polls it.
#[derive(Debug, Default)]
pub(crate) struct Cancellation {
    requested: Signal,
    /// The time to clean up has passed, too.
    is_over: AtomicBool,
    waker: AtomicWaker,
}

impl Cancellation {
    /// Registers that the task observes its cancellation, and waits for it.
    pub(crate) async fn wait(&self) {
        self.requested.wait().await;
    }

    /// Registers that the task observes its cancellation. Returns whether it was requested.
    pub(crate) fn observe(&self) -> bool {
        self.requested.observe()
    }

    /// Returns whether the attempt was ended.
    pub(crate) fn is_over(&self) -> bool {
        self.is_over.load(Ordering::SeqCst)
    }

    /// Polls the work until it completes; returns `None` if the attempt is ended first.
    pub(crate) async fn run_until_ended<T>(
        &self,
        mut work: Pin<&mut impl Future<Output = T>>,
    ) -> Option<T> {
        poll_fn(|context| {
            if let Poll::Ready(done) = work.as_mut().poll(context) {
                return Poll::Ready(Some(done));
            }
            // Registered before the check, so that no wake is missed between check and wait.
            self.waker.register(context.waker());
            match self.is_over() {
                true => Poll::Ready(None),
                false => Poll::Pending,
            }
        })
        .await
    }

    fn end(&self) {
        self.is_over.store(true, Ordering::SeqCst);
        self.waker.wake();
    }
}

/// An attempt that can be cancelled.
pub(crate) trait Cancellable: fmt::Debug + Send + Sync {
    fn task_key(&self) -> TaskKey;

    /// Returns the attempt's number.
    fn number(&self) -> u32;

    fn cancellation(&self) -> &Cancellation;
}

/// The attempts that can be cancelled: those that did not complete at their first poll.
#[derive(Debug)]
pub(crate) struct Cancellations {
    /// How long an attempt that observes its cancellation may clean up.
    grace: Duration,
    clock: Clock,
    runtime: UserRuntime,
    runs: Mutex<HashMap<TaskKey, RunningAttempt>>,
    /// How many entries of `runs` are requests without a registered attempt. Mostly zero; then no
    /// lookup is needed.
    requests: AtomicUsize,
}

#[derive(Debug)]
enum RunningAttempt {
    Registered(Arc<dyn Cancellable>),
    /// Cancellation of this attempt was requested before it registered.
    Requested(u32),
}

impl Cancellations {
    pub(crate) fn new(grace: Duration, clock: Clock, runtime: UserRuntime) -> Self {
        Self {
            grace,
            clock,
            runtime,
            runs: Mutex::default(),
            requests: AtomicUsize::new(0),
        }
    }

    /// Registers the attempt so that it can be cancelled, and cancels it if that was requested
    /// before.
    pub(crate) fn register(&self, attempt: Arc<dyn Cancellable>) {
        let run = RunningAttempt::Registered(attempt.clone());
        let before = self.runs.lock().insert(attempt.task_key(), run);
        if let Some(RunningAttempt::Requested(number)) = before {
            self.requests.fetch_sub(1, Ordering::SeqCst);
            if number == attempt.number() {
                self.notify(&attempt);
            }
        }
    }

    /// Unregisters the attempt so that it can no longer be cancelled.
    pub(crate) fn unregister(&self, key: TaskKey) {
        if let Some(RunningAttempt::Requested(_)) = self.runs.lock().remove(&key) {
            self.requests.fetch_sub(1, Ordering::SeqCst);
        }
    }

    /// Requests the cancellation of attempt `number` of this task. An attempt that does not observe
    /// its cancellation is ended at once.
    pub(crate) fn cancel(&self, key: TaskKey, number: u32) {
        if let Some(attempt) = self.find_or_request(key, number) {
            self.notify(&attempt);
        }
    }

    /// Ends attempt `number` of a task whose actor is lost: the actor's replacement starts another
    /// attempt. The cancellation is not signalled, because the task is not revoked.
    pub(crate) fn end(&self, key: TaskKey, number: u32) {
        if let Some(attempt) = self.find_or_request(key, number) {
            attempt.cancellation().end();
        }
    }

    /// Returns the attempt, or notes the request until the attempt registers.
    fn find_or_request(&self, key: TaskKey, number: u32) -> Option<Arc<dyn Cancellable>> {
        let mut runs = self.runs.lock();
        match runs.get(&key) {
            Some(RunningAttempt::Registered(attempt)) if attempt.number() == number => {
                Some(attempt.clone())
            }
            _ => {
                if !matches!(
                    runs.insert(key, RunningAttempt::Requested(number)),
                    Some(RunningAttempt::Requested(_))
                ) {
                    self.requests.fetch_add(1, Ordering::SeqCst);
                }
                None
            }
        }
    }

    /// Drops the request to cancel attempt `number`, which is over.
    pub(crate) fn forget(&self, key: TaskKey, number: u32) {
        if self.requests.load(Ordering::SeqCst) == 0 {
            return;
        }
        let mut runs = self.runs.lock();
        if matches!(runs.get(&key), Some(RunningAttempt::Requested(requested)) if *requested == number)
        {
            runs.remove(&key);
            self.requests.fetch_sub(1, Ordering::SeqCst);
        }
    }

    /// Returns whether cancellation of this attempt was requested before it registered.
    pub(crate) fn is_requested(&self, attempt: &dyn Cancellable) -> bool {
        if self.requests.load(Ordering::SeqCst) == 0 {
            return false;
        }
        let runs = self.runs.lock();
        matches!(runs.get(&attempt.task_key()), Some(RunningAttempt::Requested(number)) if *number == attempt.number())
    }

    fn notify(&self, attempt: &Arc<dyn Cancellable>) {
        if !attempt.cancellation().requested.reach() {
            return attempt.cancellation().end();
        }
        let (attempt, clock) = (attempt.clone(), self.clock.clone());
        let until = clock.after(self.grace);
        self.runtime.spawn(async move {
            clock.wait_until(until).await;
            attempt.cancellation().end();
        });
    }
}
