//! What the dispatcher gives, and gets back.

use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::canvas::machine::queue::SlotKind;

/// A place in a queue, for one running attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Slot {
    /// The queue's number.
    pub(crate) queue: u32,
    pub(crate) kind: SlotKind,
}

/// A slot, held. Dropping it gives the slot back, on whatever thread and whatever became of its
/// holder.
#[derive(Debug)]
pub(crate) struct Permit {
    slot: Slot,
    returns: Option<Arc<Returns>>,
}

/// Slots that were given back and that the engine has not fetched yet.
#[derive(Debug)]
pub(crate) struct Returns {
    slots: Mutex<Vec<Slot>>,
    /// Rung when there are some.
    bell: Arc<Notify>,
}

impl Permit {
    pub(crate) fn new(slot: Slot, returns: Arc<Returns>) -> Self {
        Self {
            slot,
            returns: Some(returns),
        }
    }

    /// Gives it back by hand: for who has the dispatcher at hand.
    pub(crate) fn into_slot(mut self) -> Slot {
        self.returns = None;
        self.slot
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if let Some(returns) = &self.returns {
            returns.slots.lock().push(self.slot);
            returns.bell.notify_one();
        }
    }
}

impl Returns {
    pub(crate) fn new(bell: Arc<Notify>) -> Self {
        Self {
            slots: Mutex::default(),
            bell,
        }
    }

    pub(crate) fn fetch(&self) -> Vec<Slot> {
        std::mem::take(&mut self.slots.lock())
    }
}
