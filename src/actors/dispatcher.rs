//! The dispatcher: gives the slots of each queue to ready tasks by priority. It is asked in passing,
//! not by messages: every task would send it two.

use std::collections::HashMap;
use std::sync::Arc;

use super::roll::Ticket;
use super::supervision::Child;
use crate::canvas::machine::queue::{Queue, SlotKind};
use crate::messages::dispatcher::{Permit, Returns, Slot};

/// How many tasks of one queue run at once.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Slots {
    pub(crate) asynchronous: usize,
    pub(crate) blocking: usize,
}

#[derive(Debug)]
pub(crate) struct Dispatcher {
    queues: Vec<Slotted>,
    numbers: HashMap<String, u32>,
    /// Where permits go that are dropped.
    returns: Arc<Returns>,
    /// How many slots are held in all queues.
    held: usize,
    /// How many tasks wait in all queues.
    waiting: usize,
    /// Nothing is granted but past all that wait, until [`go_on`](Dispatcher::go_on).
    holds: bool,
    draining: bool,
}

/// One queue: who waits for a slot of either kind.
#[derive(Debug)]
struct Slotted {
    asynchronous: Queue<Ready>,
    blocking: Queue<Ready>,
}

/// Who waits for a slot.
#[derive(Debug)]
pub(crate) enum Ready {
    /// A task that has no actor yet: it gets one with the slot.
    New(Box<Child>),
    /// A task that has one: it was delayed, or called.
    Known(Ticket),
}

impl Dispatcher {
    pub(crate) fn new(returns: Arc<Returns>) -> Self {
        Self {
            queues: Vec::new(),
            numbers: HashMap::new(),
            returns,
            held: 0,
            waiting: 0,
            holds: false,
            draining: false,
        }
    }

    /// The number of a queue, which has so many slots if this is its first use.
    pub(crate) fn queue(&mut self, name: &str, slots: impl FnOnce() -> Slots) -> u32 {
        if let Some(number) = self.numbers.get(name) {
            return *number;
        }
        let number = self.queues.len() as u32;
        let slots = slots();
        self.queues.push(Slotted {
            asynchronous: Queue::new(slots.asynchronous),
            blocking: Queue::new(slots.blocking),
        });
        self.numbers.insert(name.to_owned(), number);
        number
    }

    /// A task is ready: it gets a slot, or waits for one.
    pub(crate) fn request(
        &mut self,
        slot: Slot,
        priority: u8,
        task: Ready,
    ) -> Option<(Ready, Permit)> {
        self.waiting += 1;
        if self.draining || self.holds {
            self.of(slot).wait(priority, task);
            return None;
        }
        let task = self.of(slot).request(priority, task)?;
        Some((task, self.grant(slot)))
    }

    /// A slot is free again; the task that gets it.
    pub(crate) fn release(&mut self, slot: Slot) -> Option<(Ready, Permit)> {
        self.held -= 1;
        if self.draining || self.holds {
            self.of(slot).put_back();
            return None;
        }
        let task = self.of(slot).release()?;
        Some((task, self.grant(slot)))
    }

    /// Grants nothing for a while.
    pub(crate) fn hold(&mut self) {
        self.holds = true;
    }

    pub(crate) fn holds(&self) -> bool {
        self.holds
    }

    /// What has waited meanwhile gets the slots that are free.
    pub(crate) fn go_on(&mut self) -> Vec<(Ready, Permit)> {
        self.holds = false;
        let mut granted = Vec::new();
        if self.draining {
            return granted;
        }
        for queue in 0..self.queues.len() as u32 {
            for kind in [SlotKind::Async, SlotKind::Blocking] {
                let slot = Slot { queue, kind };
                while let Some(task) = self.of(slot).next() {
                    granted.push((task, self.grant(slot)));
                }
            }
        }
        granted
    }

    /// Says whether there is a free slot of this kind.
    pub(crate) fn has(&self, slot: Slot) -> bool {
        let queue = &self.queues[slot.queue as usize];
        match slot.kind {
            SlotKind::Async => queue.asynchronous.has_slot(),
            SlotKind::Blocking => queue.blocking.has_slot(),
        }
    }

    /// Grants a slot past all that wait.
    pub(crate) fn grant_now(&mut self, slot: Slot) -> Option<Permit> {
        if self.draining || !self.of(slot).take_slot() {
            return None;
        }
        self.held += 1;
        Some(Permit::new(slot, self.returns.clone()))
    }

    /// Grants nothing any more.
    pub(crate) fn drain(&mut self) {
        self.draining = true;
    }

    /// No slot is granted any more.
    pub(crate) fn is_draining(&self) -> bool {
        self.draining
    }

    /// How many slots are held in all queues.
    pub(crate) fn held(&self) -> usize {
        self.held
    }

    fn of(&mut self, slot: Slot) -> &mut Queue<Ready> {
        let queue = &mut self.queues[slot.queue as usize];
        match slot.kind {
            SlotKind::Async => &mut queue.asynchronous,
            SlotKind::Blocking => &mut queue.blocking,
        }
    }

    /// How many tasks wait for a slot in all queues.
    pub(crate) fn waiting(&self) -> usize {
        self.waiting
    }

    fn grant(&mut self, slot: Slot) -> Permit {
        self.waiting -= 1;
        self.held += 1;
        Permit::new(slot, self.returns.clone())
    }
}
