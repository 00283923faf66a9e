//! The slots that the dispatcher grants and gets back.

use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::canvas::admission::queue::SlotKind;

/// A slot of a queue, for one running attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Slot {
    /// The queue's number.
    pub(crate) queue: u32,
    pub(crate) kind: SlotKind,
}

/// A held slot. Dropping the permit returns the slot, on any thread and however its holder ended.
#[derive(Debug)]
pub(crate) struct Permit {
    slot: Slot,
    returns: Option<Arc<Returns>>,
}

/// Returned slots that the engine has not fetched yet.
#[derive(Debug)]
pub(crate) struct Returns {
    slots: Mutex<Vec<Slot>>,
    /// Notified when a slot is returned.
    wake: Arc<Notify>,
}

impl Permit {
    pub(crate) fn new(slot: Slot, returns: Arc<Returns>) -> Self {
        Self {
            slot,
            returns: Some(returns),
        }
    }

    /// Returns the slot without notifying the engine: the caller releases it at the dispatcher
    /// itself.
    pub(crate) fn into_slot(mut self) -> Slot {
        self.returns = None;
        self.slot
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if let Some(returns) = &self.returns {
            returns.slots.lock().push(self.slot);
            returns.wake.notify_one();
        }
    }
}

impl Returns {
    pub(crate) fn new(wake: Arc<Notify>) -> Self {
        Self {
            slots: Mutex::default(),
            wake,
        }
    }

    pub(crate) fn fetch(&self) -> Vec<Slot> {
        std::mem::take(&mut self.slots.lock())
    }
}
