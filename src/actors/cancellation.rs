//! Cancelling: how a running attempt is told that its task is revoked, and ended.

use std::collections::HashMap;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::Poll;
use std::time::Duration;

use futures_util::task::AtomicWaker;
use parking_lot::Mutex;

use super::attempt::{Attempt, Signal};
use super::shared::Shared;
use super::task_slab::TaskKey;

/// That an attempt is to end, as its own code sees it, and whoever polls that.
#[derive(Debug, Default)]
pub(crate) struct Cancellation {
    told: Signal,
    /// Its time to clean up is over, too.
    is_over: AtomicBool,
    waker: AtomicWaker,
}

impl Cancellation {
    /// From now on the task listens; returns when it is told.
    pub(crate) async fn wait(&self) {
        self.told.wait().await;
    }

    /// From now on the task listens. Says whether it has been told.
    pub(crate) fn observe(&self) -> bool {
        self.told.observe()
    }

    /// The attempt has been ended.
    pub(crate) fn is_over(&self) -> bool {
        self.is_over.load(Ordering::SeqCst)
    }

    /// Waits for the work until the attempt is ended.
    pub(crate) async fn keep<T>(&self, mut work: Pin<&mut impl Future<Output = T>>) -> Option<T> {
        poll_fn(|context| {
            if let Poll::Ready(done) = work.as_mut().poll(context) {
                return Poll::Ready(Some(done));
            }
            // Registered before the look, so that nothing is missed between look and wait.
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

/// The attempts that can be told: those that were not done when they were first polled.
#[derive(Debug)]
pub(crate) struct Cancellations {
    /// How long who listens may clean up.
    grace: Duration,
    runs: Mutex<HashMap<TaskKey, RunningAttempt>>,
    /// How many of them are only to be told: mostly none, and then nobody need look.
    due: AtomicUsize,
}

#[derive(Debug)]
enum RunningAttempt {
    Begun(Arc<Attempt>),
    /// This attempt is to be told as soon as it can be.
    Told(u32),
}

impl Cancellations {
    pub(crate) fn new(grace: Duration) -> Self {
        Self {
            grace,
            runs: Mutex::default(),
            due: AtomicUsize::new(0),
        }
    }

    /// From now on this attempt can be told.
    pub(crate) fn register(&self, attempt: &Arc<Attempt>) {
        let run = RunningAttempt::Begun(attempt.clone());
        let before = self.runs.lock().insert(attempt.ticket(), run);
        if let Some(RunningAttempt::Told(number)) = before {
            self.due.fetch_sub(1, Ordering::SeqCst);
            if number == attempt.number() {
                self.notify(attempt);
            }
        }
    }

    /// The attempt is over.
    pub(crate) fn unregister(&self, ticket: TaskKey) {
        if let Some(RunningAttempt::Told(_)) = self.runs.lock().remove(&ticket) {
            self.due.fetch_sub(1, Ordering::SeqCst);
        }
    }

    /// Tells attempt `number` of the task with this ticket that it is to end. Who does not listen is
    /// ended at once.
    pub(crate) fn cancel(&self, ticket: TaskKey, number: u32) {
        if let Some(attempt) = self.begun(ticket, number) {
            self.notify(&attempt);
        }
    }

    /// Ends attempt `number` of a task whose actor is lost: nothing hears it any more, and another attempt
    /// takes its place. The task is not revoked, so it is not told so.
    pub(crate) fn end(&self, ticket: TaskKey, number: u32) {
        if let Some(attempt) = self.begun(ticket, number) {
            attempt.cancellation.end();
        }
    }

    /// Returns the attempt, or notes that it is to be told as soon as it can be.
    fn begun(&self, ticket: TaskKey, number: u32) -> Option<Arc<Attempt>> {
        let mut runs = self.runs.lock();
        match runs.get(&ticket) {
            Some(RunningAttempt::Begun(attempt)) if attempt.number() == number => {
                Some(attempt.clone())
            }
            _ => {
                if !matches!(
                    runs.insert(ticket, RunningAttempt::Told(number)),
                    Some(RunningAttempt::Told(_))
                ) {
                    self.due.fetch_add(1, Ordering::SeqCst);
                }
                None
            }
        }
    }

    /// Lets go of what attempt `number` was to be told: it is over, and nothing asks for its end any more.
    pub(crate) fn forget(&self, ticket: TaskKey, number: u32) {
        if self.due.load(Ordering::SeqCst) == 0 {
            return;
        }
        let mut runs = self.runs.lock();
        if matches!(runs.get(&ticket), Some(RunningAttempt::Told(told)) if *told == number) {
            runs.remove(&ticket);
            self.due.fetch_sub(1, Ordering::SeqCst);
        }
    }

    /// Says whether this attempt is to be told, and could not be yet.
    pub(crate) fn is_due(&self, attempt: &Attempt) -> bool {
        if self.due.load(Ordering::SeqCst) == 0 {
            return false;
        }
        let runs = self.runs.lock();
        matches!(runs.get(&attempt.ticket()), Some(RunningAttempt::Told(number)) if *number == attempt.number())
    }

    fn notify(&self, attempt: &Arc<Attempt>) {
        if !attempt.cancellation.told.reach() {
            return attempt.cancellation.end();
        }
        let attempt = attempt.clone();
        let until = attempt.shared().clock.after(self.grace);
        let runtime = attempt.shared().engine_handle().runtime.clone();
        runtime.spawn(async move {
            let shared: &Shared = attempt.shared();
            shared.clock.wait_until(until).await;
            attempt.cancellation.end();
        });
    }
}
