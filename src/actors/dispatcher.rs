//! The dispatcher: gives the slots of each queue to ready tasks by priority. It is asked in passing,
//! not by messages: every task would send it two.

use std::collections::HashMap;
use std::sync::Arc;

use super::supervision::Child;
use super::task_slab::TaskKey;
use crate::canvas::id::Id;
use crate::canvas::machine::queue::{Queue, SlotKind};
use crate::canvas::machine::start_pacer::StartPacer;
use crate::messages::dispatcher::{Permit, Returns, Slot};

/// How many tasks of one queue run at once.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Slots {
    pub(crate) asynchronous: usize,
    pub(crate) blocking: usize,
}

/// So many queues are kept, idle ones among them; when there are more, the idle ones are let go.
const KEPT_QUEUES: usize = 64;

#[derive(Debug)]
pub(crate) struct Dispatcher {
    /// By number; `None` where one was let go.
    queues: Vec<Option<Box<QueueState>>>,
    /// Numbers that are free.
    free: Vec<u32>,
    numbers: HashMap<String, u32>,
    /// At so many queues the idle ones are let go.
    most: usize,
    /// The queues whose gates are busy: only these are looked at with each commit.
    gated: Vec<u32>,
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
struct QueueState {
    name: String,
    /// It is among the `gated`.
    is_gated: bool,
    /// So many slots of it are named elsewhere, and neither held nor waited for.
    pins: usize,
    asynchronous: SlotPool,
    blocking: SlotPool,
}

#[derive(Debug)]
struct SlotPool {
    queue: Queue<Ready>,
    gate: StartPacer<Box<Child>>,
}

/// Who waits for a slot.
#[derive(Debug)]
pub(crate) enum Ready {
    /// A task that has no actor yet: it gets one with the slot.
    New(Box<Child>),
    /// A task that has one: it was delayed, or called.
    Known(TaskKey),
}

impl Dispatcher {
    pub(crate) fn new(returns: Arc<Returns>, window: usize, is_paused: bool) -> Self {
        Self {
            queues: Vec::new(),
            free: Vec::new(),
            numbers: HashMap::new(),
            most: KEPT_QUEUES,
            gated: Vec::new(),
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
        let last = self.queues.get(self.last as usize).and_then(Option::as_ref);
        if last.is_none_or(|last| last.name != name) {
            self.last = match self.numbers.get(name) {
                Some(number) => *number,
                None => self.add(name, slots()),
            };
        }
        self.last
    }

    fn add(&mut self, name: &str, slots: Slots) -> u32 {
        if self.numbers.len() >= self.most {
            self.free_idle_queues();
        }
        let queue = Some(Box::new(QueueState {
            name: name.to_owned(),
            is_gated: false,
            pins: 0,
            asynchronous: SlotPool::new(slots.asynchronous, self.window),
            blocking: SlotPool::new(slots.blocking, self.window),
        }));
        let number = self.free.pop().unwrap_or_else(|| {
            self.queues.push(None);
            self.queues.len() as u32 - 1
        });
        self.queues[number as usize] = queue;
        self.numbers.insert(name.to_owned(), number);
        number
    }

    /// Lets go of the idle queues. Rare enough to cost nothing each time that one is added.
    fn free_idle_queues(&mut self) {
        for queue in &mut self.queues {
            if let Some(idle) = queue.take_if(|queue| queue.is_idle()) {
                self.numbers.remove(&idle.name);
            }
        }
        let used = self.queues.iter().rposition(Option::is_some);
        self.queues.truncate(used.map_or(0, |last| last + 1));
        self.queues.shrink_to_fit();
        self.numbers.shrink_to_fit();
        let numbers = 0..self.queues.len() as u32;
        self.free = numbers
            .filter(|number| self.queues[*number as usize].is_none())
            .collect();
        self.most = (2 * self.numbers.len()).max(KEPT_QUEUES);
    }

    /// Keeps the queue of a slot that is named elsewhere, until it is [unpinned](Self::unpin).
    pub(crate) fn pin(&mut self, slot: Slot) {
        self.queue_of(slot).pins += 1;
    }

    pub(crate) fn unpin(&mut self, slot: Slot) {
        self.queue_of(slot).pins -= 1;
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
        counter.gate.note_grant();
        Some((task, self.grant(slot)))
    }

    /// Grants nothing for a while.
    pub(crate) fn hold_back(&mut self) {
        self.holds = true;
    }

    pub(crate) fn is_held_back(&self) -> bool {
        self.holds
    }

    /// What has waited meanwhile gets the slots that are free.
    pub(crate) fn end_hold(&mut self) -> Vec<(Ready, Permit)> {
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
                if self.queues[queue as usize].is_none() {
                    continue;
                }
                let slot = Slot { queue, kind };
                while let Some(task) = self.of(slot).queue.next() {
                    self.of(slot).gate.note_grant();
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
        let queue = self.queue_of(slot);
        if !std::mem::replace(&mut queue.is_gated, true) {
            self.gated.push(slot.queue);
        }
        root
    }

    /// The workflows that begin now.
    #[expect(clippy::vec_box, reason = "they are boxed as they came")]
    pub(crate) fn admit_ready(&mut self) -> Vec<Box<Child>> {
        let mut entering = Vec::new();
        if self.draining {
            return entering;
        }
        let mut begun = self.begun();
        let queues = &mut self.queues;
        self.gated.sort_unstable();
        self.gated.retain(|number| {
            let Some(slotted) = &mut queues[*number as usize] else {
                return false;
            };
            for SlotPool { queue, gate } in [&mut slotted.asynchronous, &mut slotted.blocking] {
                gate.begin_round();
                while let Some(root) = gate.next(begun, |priority| queue.waiting(priority)) {
                    begun += 1;
                    entering.push(root);
                }
            }
            slotted.is_gated =
                slotted.asynchronous.gate.is_busy() || slotted.blocking.gate.is_busy();
            slotted.is_gated
        });
        self.outside -= entering.len();
        entering
    }

    /// Somebody waits for this workflow: it begins now if it has not.
    pub(crate) fn take_workflow(&mut self, root: Id) -> Option<Box<Child>> {
        let mut gates = self
            .queues
            .iter_mut()
            .flatten()
            .flat_map(|queue| [&mut queue.asynchronous.gate, &mut queue.blocking.gate]);
        let found = gates.find_map(|gate| gate.take(|child| child.root == root))?;
        self.outside -= 1;
        Some(found)
    }

    /// Takes those out of all lines that are not to start any more.
    pub(crate) fn remove_waiting(&mut self, mut is_it: impl FnMut(&Ready) -> bool) -> Vec<Ready> {
        let mut out = Vec::new();
        for queue in self.queues.iter_mut().flatten() {
            for counter in [&mut queue.asynchronous, &mut queue.blocking] {
                out.extend(counter.queue.remove_waiting(&mut is_it));
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

    fn of(&mut self, slot: Slot) -> &mut SlotPool {
        let queue = self.queue_of(slot);
        match slot.kind {
            SlotKind::Async => &mut queue.asynchronous,
            SlotKind::Blocking => &mut queue.blocking,
        }
    }

    fn queue_of(&mut self, slot: Slot) -> &mut QueueState {
        let queue = self.queues[slot.queue as usize].as_mut();
        queue.expect("a queue with a slot that is held, waited for or pinned is kept")
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

impl QueueState {
    /// Says whether nobody has, or waits for, anything of it.
    fn is_idle(&self) -> bool {
        let counters = [&self.asynchronous, &self.blocking];
        self.pins == 0 && !self.is_gated && counters.iter().all(|one| one.queue.is_idle())
    }
}

impl SlotPool {
    fn new(slots: usize, window: usize) -> Self {
        Self {
            queue: Queue::new(slots),
            gate: StartPacer::new(window),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::sync::Notify;

    use super::*;

    const SLOTS: Slots = Slots {
        asynchronous: 2,
        blocking: 1,
    };

    fn dispatcher() -> Dispatcher {
        Dispatcher::new(Arc::new(Returns::new(Arc::new(Notify::new()))), 4, false)
    }

    fn slot(dispatcher: &mut Dispatcher, name: &str) -> Slot {
        Slot {
            queue: dispatcher.queue(name, || SLOTS),
            kind: SlotKind::Async,
        }
    }

    #[test]
    fn queues_that_nobody_uses_are_let_go_and_the_others_keep_their_numbers() {
        let mut dispatcher = dispatcher();
        let held = slot(&mut dispatcher, "held");
        let permit = dispatcher.grant_now(held).unwrap();
        let pinned = slot(&mut dispatcher, "pinned");
        dispatcher.pin(pinned);
        for name in 0..10_000 {
            let slot = slot(&mut dispatcher, &format!("queue {name}"));
            let permit = dispatcher.grant_now(slot).unwrap();
            dispatcher.release(permit.into_slot());
        }
        assert!(dispatcher.queues.len() <= KEPT_QUEUES);
        assert!(dispatcher.numbers.len() <= KEPT_QUEUES);
        assert_eq!(slot(&mut dispatcher, "held"), held);
        assert_eq!(slot(&mut dispatcher, "pinned"), pinned);
        // One of two is held.
        assert!(dispatcher.grant_now(held).is_some());
        assert!(dispatcher.grant_now(held).is_none());
        dispatcher.release(permit.into_slot());
        assert!(dispatcher.grant_now(held).is_some());
        dispatcher.unpin(pinned);
    }

    #[test]
    fn what_is_busy_is_kept_however_many_there_are() {
        let mut dispatcher = dispatcher();
        let held: Vec<_> = (0..1_000)
            .map(|name| {
                let slot = slot(&mut dispatcher, &format!("queue {name}"));
                (name, dispatcher.grant_now(slot).unwrap().into_slot())
            })
            .collect();
        for (name, of) in &held {
            assert_eq!(slot(&mut dispatcher, &format!("queue {name}")), *of);
        }
        assert_eq!(dispatcher.held(), 1_000);
        for (_, slot) in held {
            dispatcher.release(slot);
        }
        let _ = (0..2_000).map(|name| slot(&mut dispatcher, &format!("other {name}")));
        dispatcher.free_idle_queues();
        assert_eq!(dispatcher.numbers.len(), 0);
    }
}
