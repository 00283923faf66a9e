//! The signals that a running task may observe: its cancellation, and its soft time limit.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use tokio::sync::Notify;

/// An event that a task may observe.
#[derive(Debug, Default)]
pub(crate) struct Signal {
    /// The task observes the event, and so is not ended by it.
    has_listener: AtomicBool,
    reached: AtomicBool,
    raised: Notify,
}

impl Signal {
    /// Raises the signal. Returns whether the task observes it.
    pub(crate) fn reach(&self) -> bool {
        self.reached.store(true, Ordering::SeqCst);
        self.raised.notify_waiters();
        self.has_listener.load(Ordering::SeqCst)
    }

    /// Registers that the task observes the signal. Returns whether it was raised.
    pub(crate) fn observe(&self) -> bool {
        self.has_listener.store(true, Ordering::SeqCst);
        self.reached.load(Ordering::SeqCst)
    }

    pub(crate) async fn wait(&self) {
        loop {
            let notified = self.raised.notified();
            tokio::pin!(notified);
            // Registered before the check, so that no signal is missed between check and wait.
            notified.as_mut().enable();
            if self.observe() {
                return;
            }
            notified.await;
        }
    }
}

/// The soft time limit, as the task observes it.
#[derive(Debug)]
pub(crate) struct SoftLimit {
    /// The time of the limit, on the scale of `Clock::elapsed_ms`.
    at_ms: AtomicU64,
    signal: Signal,
}

impl Default for SoftLimit {
    /// Creates a limit that is never reached until it is [set](SoftLimit::set).
    fn default() -> Self {
        Self {
            at_ms: AtomicU64::new(u64::MAX),
            signal: Signal::default(),
        }
    }
}

impl SoftLimit {
    pub(crate) fn set(&self, at_ms: u64) {
        self.at_ms.store(at_ms, Ordering::SeqCst);
    }

    /// Registers that the task observes the limit. Returns whether it has passed: a task that
    /// checks need not wait for the signal.
    pub(crate) fn is_over(&self, now_ms: u64) -> bool {
        self.signal.observe() || self.at_ms.load(Ordering::SeqCst) <= now_ms
    }

    /// Raises the signal. Returns whether the task observes it.
    pub(crate) fn reach(&self) -> bool {
        self.signal.reach()
    }

    pub(crate) async fn wait(&self) {
        self.signal.wait().await;
    }
}
