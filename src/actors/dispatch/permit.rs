//! The slots that the dispatcher grants and gets back.

use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::canvas::admission::queue::SlotKind;
use crate::canvas::admission::start_limits::LimitSet;

/// A slot of a queue, for one running attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Slot {
    /// The queue's number.
    pub(crate) queue: u32,
    pub(crate) kind: SlotKind,
}

/// A held slot, with what the limits of its task have granted. Dropping the permit returns all, on
/// any thread and however its holder ended.
#[derive(Debug)]
pub(crate) struct Permit {
    slot: Slot,
    limits: Option<LimitSet>,
    /// It was granted for an attempt that starts, and not for one that has waited and goes on.
    is_for_start: bool,
    /// The start that the limits have granted, until the function is called. An attempt that goes on
    /// after a wait has none.
    start: Option<Start>,
    returns: Option<Arc<Returns>>,
}

/// A start that limits have granted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Start {
    /// It may be taken back.
    Granted,
    /// The start is on record, or will be with the next batch.
    Recorded,
}

/// What a permit returns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Returned {
    pub(crate) slot: Slot,
    pub(crate) limits: Option<LimitSet>,
    /// A start that did not come to a call of the function.
    pub(crate) start: Option<Start>,
}

/// Returned slots that the engine has not fetched yet.
#[derive(Debug)]
pub(crate) struct Returns {
    slots: Mutex<Vec<Returned>>,
    /// The limits of the tasks whose functions have been called.
    called: Mutex<Vec<LimitSet>>,
    /// Notified when a slot is returned, or a function under limits is called.
    wake: Arc<Notify>,
}

impl Permit {
    /// Returns a permit for a slot, under these limits. `is_for_start`: for an attempt that starts.
    pub(crate) fn new(
        slot: Slot,
        limits: Option<LimitSet>,
        is_for_start: bool,
        returns: Arc<Returns>,
    ) -> Self {
        Self {
            slot,
            limits,
            is_for_start,
            start: (is_for_start && limits.is_some()).then_some(Start::Granted),
            returns: Some(returns),
        }
    }

    /// Notes that the start is being recorded. Returns the limits that have granted it.
    pub(crate) fn record_start(&mut self) -> Option<LimitSet> {
        *self.start.as_mut()? = Start::Recorded;
        self.limits
    }

    /// Notes that the function is called now: the start counts from now on.
    pub(crate) fn count_start(&mut self) {
        if let (Some(_), Some(limits), Some(returns)) =
            (self.start.take(), self.limits, &self.returns)
        {
            returns.called.lock().push(limits);
            returns.wake.notify_one();
        }
    }

    pub(crate) fn slot(&self) -> Slot {
        self.slot
    }

    /// Returns the limits that it is under.
    pub(crate) fn limits(&self) -> Option<LimitSet> {
        self.limits
    }

    /// Returns whether it was granted for an attempt that starts.
    pub(crate) fn is_for_start(&self) -> bool {
        self.is_for_start
    }

    /// Returns whether it includes a start that limits have granted.
    pub(crate) fn has_start(&self) -> bool {
        self.start.is_some()
    }

    /// Returns the slot without notifying the engine: the caller releases it at the dispatcher
    /// itself.
    pub(crate) fn into_returned(mut self) -> Returned {
        self.returns = None;
        self.returned()
    }

    fn returned(&self) -> Returned {
        Returned {
            slot: self.slot,
            limits: self.limits,
            start: self.start,
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if let Some(returns) = &self.returns {
            returns.slots.lock().push(self.returned());
            returns.wake.notify_one();
        }
    }
}

impl Returns {
    pub(crate) fn new(wake: Arc<Notify>) -> Self {
        Self {
            slots: Mutex::default(),
            called: Mutex::default(),
            wake,
        }
    }

    pub(crate) fn fetch(&self) -> Vec<Returned> {
        std::mem::take(&mut self.slots.lock())
    }

    /// Returns the limits of each task whose function has been called since the last time.
    pub(crate) fn fetch_called(&self) -> Vec<LimitSet> {
        std::mem::take(&mut self.called.lock())
    }
}
