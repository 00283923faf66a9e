//! The dispatcher: gives the slots of each queue to ready tasks by priority. It is asked in passing,
//! not by messages: every task would send it two.

use std::collections::HashMap;
use std::sync::Arc;

use super::roll::Ticket;
use super::supervision::Child;
use crate::canvas::id::Id;
use crate::canvas::machine::gate::Gate;
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
    /// The queue that was asked for last.
    last: u32,
    /// Where permits go that are dropped.
    returns: Arc<Returns>,
    /// How many slots are held in all queues.
    held: usize,
    /// How many tasks wait in all queues.
    waiting: usize,
    /// Nothing is granted but past all that wait, until [`go_on`](Dispatcher::go_on).
    holds: bool,
    /// Nothing at all is granted until [`resume`](Dispatcher::resume).
    is_paused: bool,
    /// How many workflows have not ended, and how many of them wait at the gates.
    live: usize,
    outside: usize,
    /// Who waits at a gate if so many wait before a queue.
    window: usize,
    draining: bool,
}

/// One queue: who waits for a slot of either kind.
#[derive(Debug)]
struct Slotted {
    name: String,
    asynchronous: Counter,
    blocking: Counter,
}

#[derive(Debug)]
struct Counter {
    queue: Queue<Ready>,
    gate: Gate<Box<Child>>,
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
    pub(crate) fn new(returns: Arc<Returns>, window: usize, is_paused: bool) -> Self {
        Self {
            queues: Vec::new(),
            numbers: HashMap::new(),
            last: 0,
            returns,
            held: 0,
            waiting: 0,
            holds: false,
            is_paused,
            live: 0,
            outside: 0,
            window,
            draining: false,
        }
    }

    /// The number of a queue, which has so many slots if this is its first use.
    pub(crate) fn queue(&mut self, name: &str, slots: impl FnOnce() -> Slots) -> u32 {
        // Mostly the same as for the task before.
        let last = self.queues.get(self.last as usize);
        if last.is_none_or(|last| last.name != name) {
            self.last = match self.numbers.get(name) {
                Some(number) => *number,
                None => self.add(name, slots()),
            };
        }
        self.last
    }

    fn add(&mut self, name: &str, slots: Slots) -> u32 {
        let number = self.queues.len() as u32;
        self.queues.push(Slotted {
            name: name.to_owned(),
            asynchronous: Counter::new(slots.asynchronous, self.window),
            blocking: Counter::new(slots.blocking, self.window),
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
        if self.grants_nothing() {
            self.of(slot).queue.wait(priority, task);
            return None;
        }
        let task = self.of(slot).queue.request(priority, task)?;
        Some((task, self.grant(slot)))
    }

    /// A slot is free again; the task that gets it.
    pub(crate) fn release(&mut self, slot: Slot) -> Option<(Ready, Permit)> {
        self.held -= 1;
        if self.grants_nothing() {
            self.of(slot).queue.put_back();
            return None;
        }
        let counter = self.of(slot);
        let task = counter.queue.release()?;
        counter.gate.turn();
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
        self.grant_all()
    }

    pub(crate) fn is_paused(&self) -> bool {
        self.is_paused
    }

    /// As [`go_on`](Self::go_on), after a pause.
    pub(crate) fn resume(&mut self) -> Vec<(Ready, Permit)> {
        self.is_paused = false;
        self.grant_all()
    }

    fn grants_nothing(&self) -> bool {
        self.draining || self.holds || self.is_paused
    }

    fn grant_all(&mut self) -> Vec<(Ready, Permit)> {
        let mut granted = Vec::new();
        if self.grants_nothing() {
            return granted;
        }
        for queue in 0..self.queues.len() as u32 {
            for kind in [SlotKind::Async, SlotKind::Blocking] {
                let slot = Slot { queue, kind };
                while let Some(task) = self.of(slot).queue.next() {
                    self.of(slot).gate.turn();
                    granted.push((task, self.grant(slot)));
                }
            }
        }
        granted
    }

    /// Grants a slot past all that wait.
    pub(crate) fn grant_now(&mut self, slot: Slot) -> Option<Permit> {
        if self.draining || self.is_paused || !self.of(slot).queue.take_slot() {
            return None;
        }
        self.held += 1;
        Some(Permit::new(slot, self.returns.clone()))
    }

    /// A workflow may begin, whose first tasks will stand in this line; it is given back if it is
    /// to begin at once.
    pub(crate) fn arrive(
        &mut self,
        slot: Slot,
        priority: u8,
        root: Box<Child>,
    ) -> Option<Box<Child>> {
        let begun = self.begun();
        let counter = self.of(slot);
        let in_line = counter.queue.waiting(priority);
        let root = counter.gate.arrive(priority, root, begun, in_line);
        self.outside += usize::from(root.is_none());
        root
    }

    /// The workflows that begin now.
    #[expect(clippy::vec_box, reason = "they are boxed as they came")]
    pub(crate) fn let_in(&mut self) -> Vec<Box<Child>> {
        let mut entering = Vec::new();
        if self.draining {
            return entering;
        }
        let mut begun = self.begun();
        for Slotted {
            asynchronous,
            blocking,
            ..
        } in &mut self.queues
        {
            for Counter { queue, gate } in [asynchronous, blocking] {
                gate.tick();
                while let Some(root) = gate.next(begun, |priority| queue.waiting(priority)) {
                    begun += 1;
                    entering.push(root);
                }
            }
        }
        self.outside -= entering.len();
        entering
    }

    /// Somebody waits for this workflow: it begins now if it has not.
    pub(crate) fn fetch(&mut self, root: Id) -> Option<Box<Child>> {
        let mut gates = self
            .queues
            .iter_mut()
            .flat_map(|queue| [&mut queue.asynchronous.gate, &mut queue.blocking.gate]);
        let found = gates.find_map(|gate| gate.take(|child| child.root == root))?;
        self.outside -= 1;
        Some(found)
    }

    /// Takes those out of all lines that are not to start any more.
    pub(crate) fn take_out(&mut self, mut is_it: impl FnMut(&Ready) -> bool) -> Vec<Ready> {
        let mut out = Vec::new();
        for queue in &mut self.queues {
            for counter in [&mut queue.asynchronous, &mut queue.blocking] {
                out.extend(counter.queue.take_out(&mut is_it));
            }
        }
        self.waiting -= out.len();
        out
    }

    /// So many workflows have not ended.
    pub(crate) fn count_live(&mut self, live: usize) {
        self.live = live;
    }

    fn begun(&self) -> usize {
        self.live.saturating_sub(self.outside)
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

    fn of(&mut self, slot: Slot) -> &mut Counter {
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

impl Counter {
    fn new(slots: usize, window: usize) -> Self {
        Self {
            queue: Queue::new(slots),
            gate: Gate::new(window),
        }
    }
}
