//! To the dispatcher of a queue.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use actix::{Message, Recipient};

use super::task::Granted;
use crate::canvas::machine::queue::SlotKind;

/// A task is ready and wants a slot.
#[derive(Clone, Debug, Message)]
#[rtype(result = "()")]
pub(crate) struct Request {
    pub(crate) priority: u8,
    pub(crate) kind: SlotKind,
    pub(crate) task: Recipient<Granted>,
}

/// A slot is free again.
#[derive(Clone, Copy, Debug, Message)]
#[rtype(result = "()")]
pub(crate) struct Release(pub(crate) SlotKind);

/// Grant nothing any more: the app is shutting down.
#[derive(Clone, Copy, Debug, Message)]
#[rtype(result = "()")]
pub(crate) struct Drain;

/// A slot, held. Dropping it gives the slot back, whatever became of its holder.
#[derive(Debug)]
pub(crate) struct Permit {
    kind: SlotKind,
    dispatcher: Recipient<Release>,
    /// How many are held in all queues: shutting down waits for none.
    held: Arc<AtomicUsize>,
}

impl Permit {
    pub(crate) fn new(
        kind: SlotKind,
        dispatcher: Recipient<Release>,
        held: Arc<AtomicUsize>,
    ) -> Self {
        held.fetch_add(1, Ordering::Relaxed);
        Self {
            kind,
            dispatcher,
            held,
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.held.fetch_sub(1, Ordering::Release);
        // At most one per slot is under way, so the mailbox stays small.
        self.dispatcher.do_send(Release(self.kind));
    }
}
