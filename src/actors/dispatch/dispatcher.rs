//! The dispatcher: grants the slots of each queue to ready tasks by priority, within the limits on
//! starts. It is called directly and not by messages, because every task would send it two.

use std::collections::HashMap;
use std::sync::Arc;

use super::permit::{Permit, Returned, Returns, Slot};
use crate::canvas::admission::queue::{PASSES, Queue, SlotKind};
use crate::canvas::admission::start_limits::{Allowed, LimitSet, LimitedBy, StartLimits};
use crate::canvas::admission::start_pacer::StartPacer;
use crate::messages::task::TaskKey;

/// The number of tasks of one queue that may run at once.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Slots {
    pub(crate) asynchronous: usize,
    pub(crate) blocking: usize,
    /// None of them is granted.
    pub(crate) are_paused: bool,
}

impl Slots {
    /// Returns this many slots for async tasks and as many for blocking ones.
    pub(crate) fn of_either_kind(tasks: u64) -> Self {
        Self::new(tasks, tasks)
    }

    /// Returns so many slots. More than this machine can count limit nothing.
    pub(crate) fn new(asynchronous: u64, blocking: u64) -> Self {
        let count = |tasks| usize::try_from(tasks).unwrap_or(usize::MAX);
        Self {
            asynchronous: count(asynchronous),
            blocking: count(blocking),
            are_paused: false,
        }
    }
}

/// The slots of each queue.
#[derive(Clone, Debug)]
pub(crate) struct QueueSlots {
    /// Of a queue without slots of its own.
    pub(crate) default: Slots,
    pub(crate) own: HashMap<String, Slots>,
}

impl QueueSlots {
    /// Returns the slots of the queue with this name.
    pub(crate) fn of(&self, name: &str) -> Slots {
        *self.own.get(name).unwrap_or(&self.default)
    }
}

/// At this many queues the idle ones are freed.
const KEPT_QUEUES: usize = 64;

/// The limits on what starts, and the tasks that wait for them and for slots.
pub(crate) type SlotLimits<C> = StartLimits<Slot, Ready<C>>;

/// Grants slots to tasks, and starts workflows, of type `C`.
#[derive(Debug)]
pub(crate) struct Dispatcher<C> {
    /// The queues by number; `None` where one was freed.
    queues: Vec<Option<Box<QueueState<C>>>>,
    /// The numbers of freed queues.
    free: Vec<u32>,
    numbers: HashMap<String, u32>,
    /// The number of queues at which the idle ones are freed.
    max_queues: usize,
    /// The queues whose pacers are busy: only these are visited after each commit.
    paced: Vec<u32>,
    /// The queue of the last lookup.
    last: u32,
    /// The limits on starts. The tasks that wait for them have no slot, and are in no queue.
    limits: SlotLimits<C>,
    /// The list that dropped permits return their slots to.
    returns: Arc<Returns>,
    /// The number of slots held in all queues.
    held: usize,
    /// The number of tasks that wait, for a slot or for a limit.
    waiting: usize,
    /// No slot is granted except by [`grant_now`](Dispatcher::grant_now), until
    /// [`end_hold`](Dispatcher::end_hold).
    is_held: bool,
    /// No slot is granted at all until [`resume`](Dispatcher::resume).
    is_paused: bool,
    /// The number of unfinished workflows, and how many of them the pacers delay.
    live: usize,
    delayed: usize,
    /// A pacer delays a workflow if this many tasks wait before it in the queue.
    window: usize,
    draining: bool,
}

/// One queue: its slots of either kind and the tasks that wait for them.
#[derive(Debug)]
struct QueueState<C> {
    name: String,
    /// The queue is listed in `paced`.
    is_paced: bool,
    /// No slot is granted.
    is_paused: bool,
    /// The number of references to its slots from outside that are neither held nor waited for.
    pins: usize,
    asynchronous: SlotPool<C>,
    blocking: SlotPool<C>,
}

#[derive(Debug)]
struct SlotPool<C> {
    queue: Queue<Ready<C>>,
    /// The last slot that both could have had went to a task under a limit, as did so many before
    /// it, or to one of the queue.
    was_limited: bool,
    in_a_row: u32,
    pacer: StartPacer<C>,
}

/// A task that waits for a slot.
#[derive(Debug)]
pub(crate) enum Ready<C> {
    /// A task without an actor: it gets one with the slot.
    New(C),
    /// A task with an actor: it was delayed.
    Known(TaskKey),
    /// A running attempt that has waited for another task and goes on.
    Waited(TaskKey),
}

/// Where a task waits.
#[derive(Debug)]
pub(crate) enum Place {
    /// For a slot, after so many others.
    Queue {
        before: usize,
        waiting: usize,
    },
    Limited(LimitedBy),
}

impl<C> Ready<C> {
    /// Returns whether an attempt starts with the slot.
    pub(crate) fn is_start(&self) -> bool {
        !matches!(self, Self::Waited(_))
    }
}

impl<C> Dispatcher<C> {
    pub(crate) fn new(
        returns: Arc<Returns>,
        window: usize,
        is_paused: bool,
        limits: SlotLimits<C>,
    ) -> Self {
        Self {
            limits,
            queues: Vec::new(),
            free: Vec::new(),
            numbers: HashMap::new(),
            max_queues: KEPT_QUEUES,
            paced: Vec::new(),
            last: 0,
            returns,
            held: 0,
            waiting: 0,
            is_held: false,
            is_paused,
            live: 0,
            delayed: 0,
            window,
            draining: false,
        }
    }

    /// Returns the number of a queue, which is created with `slots` at its first use.
    pub(crate) fn queue(&mut self, name: &str, slots: impl FnOnce() -> Slots) -> u32 {
        // Mostly the same queue as at the last lookup.
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
        if self.numbers.len() >= self.max_queues {
            self.free_idle_queues();
        }
        let queue = Some(Box::new(QueueState {
            name: name.to_owned(),
            is_paced: false,
            is_paused: slots.are_paused,
            pins: 0,
            asynchronous: SlotPool::new(self.window),
            blocking: SlotPool::new(self.window),
        }));
        let number = self.free.pop().unwrap_or_else(|| {
            self.queues.push(None);
            self.queues.len() as u32 - 1
        });
        self.queues[number as usize] = queue;
        self.numbers.insert(name.to_owned(), number);
        // (Nothing waits in a new queue.)
        self.set_slots(number, slots);
        number
    }

    /// Frees the idle queues. The next time is at twice as many queues, so that adding one costs
    /// constant time on average.
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
        self.max_queues = (2 * self.numbers.len()).max(KEPT_QUEUES);
    }

    /// Keeps the queue of a slot that is referenced elsewhere, until it is [unpinned](Self::unpin).
    pub(crate) fn pin(&mut self, slot: Slot) {
        self.queue_of(slot).pins += 1;
    }

    pub(crate) fn unpin(&mut self, slot: Slot) {
        self.queue_of(slot).pins -= 1;
    }

    /// Requests a slot for a ready task. Returns the task with a permit if a slot is free;
    /// otherwise the task waits.
    pub(crate) fn request(
        &mut self,
        slot: Slot,
        priority: u8,
        task: Ready<C>,
    ) -> Option<(Ready<C>, Permit)> {
        self.waiting += 1;
        if self.grants_nothing() || self.is_paused_at(slot) {
            self.of(slot).queue.wait(priority, task);
            return None;
        }
        let task = self.of(slot).queue.request(priority, task)?;
        Some(self.grant(slot, None, task))
    }

    /// Makes a ready task wait until its limits allow a start and a slot is free. The task takes
    /// over the caller's reference to them.
    pub(crate) fn request_within(
        &mut self,
        limits: LimitSet,
        slot: Slot,
        priority: u8,
        task: Ready<C>,
        now_ms: u64,
    ) {
        self.waiting += 1;
        // Its queue may be idle meanwhile.
        self.pin(slot);
        self.limits.wait(limits, slot, priority, task, now_ms);
    }

    /// Grants the free slots to the tasks that their limits allow to start now.
    pub(crate) fn admit_limited(&mut self, now_ms: u64) -> Vec<(Ready<C>, Permit)> {
        let mut granted = Vec::new();
        if self.grants_nothing() {
            return granted;
        }
        // (A slot is free only if no task waits for it in its queue.)
        while let Some(next) = {
            let queues = &self.queues;
            let has_slot = |slot| {
                let is_paused = is_paused_at(queues, slot);
                !is_paused && pool_of(queues, slot).is_some_and(|pool| pool.queue.has_free_slot())
            };
            self.limits.next(now_ms, has_slot)
        } {
            granted.push(self.grant_limited(next));
        }
        granted
    }

    fn grant_limited(&mut self, next: Allowed<Slot, Ready<C>>) -> (Ready<C>, Permit) {
        let Allowed {
            limits,
            place: slot,
            task,
        } = next;
        let has_slot = self.of(slot).queue.take_slot();
        debug_assert!(has_slot, "a start is granted with a slot");
        self.unpin(slot);
        self.grant(slot, Some(limits), task)
    }

    /// Returns the limits on what starts.
    pub(crate) fn limits(&mut self) -> &mut SlotLimits<C> {
        &mut self.limits
    }

    /// Releases a slot. Returns the task that gets it next, with its permit. `now_ms` is called if
    /// tasks under limits wait for the slot.
    pub(crate) fn release(
        &mut self,
        returned: Returned,
        now_ms: impl Fn() -> u64,
    ) -> Option<(Ready<C>, Permit)> {
        let slot = returned.slot;
        self.held -= 1;
        self.of(slot).queue.put_back();
        if let Some(limits) = returned.limits {
            self.limits.put_back(limits, now_ms());
            self.limits.release(limits);
        }
        // (The queue may have fewer slots by now.)
        let has_slot = self.of(slot).queue.has_free_slot();
        if !has_slot || self.grants_nothing() || self.is_paused_at(slot) {
            return None;
        }
        if self.limits.has_waiting(slot) {
            let now_ms = now_ms();
            if self.give_turn(slot, now_ms) {
                let next = self.limits.next(now_ms, |at| at == slot)?;
                return Some(self.grant_limited(next));
            }
        }
        let pool = self.of(slot);
        let task = pool.queue.next()?;
        pool.pacer.note_grant();
        Some(self.grant(slot, None, task))
    }

    /// Decides whether a free slot goes to a task under a limit or to one of the queue: by priority,
    /// and of equals in turn. Neither kind is passed over more than [`PASSES`] times in a row.
    fn give_turn(&mut self, slot: Slot, now_ms: u64) -> bool {
        let limited = self.limits.settle(slot, now_ms);
        let pool = self.of(slot);
        let (limited, other) = match (limited, pool.queue.next_priority()) {
            (Some(limited), Some(other)) => (limited, other),
            (limited, _) => return limited.is_some(),
        };
        let is_limited = match pool.in_a_row >= PASSES || limited == other {
            true => !pool.was_limited,
            false => limited > other,
        };
        match is_limited == pool.was_limited {
            true => pool.in_a_row += 1,
            false => pool.in_a_row = 1,
        }
        pool.was_limited = is_limited;
        is_limited
    }

    /// Stops granting slots until [`end_hold`](Self::end_hold).
    pub(crate) fn hold_back(&mut self) {
        self.is_held = true;
    }

    pub(crate) fn is_held_back(&self) -> bool {
        self.is_held
    }

    /// Ends the hold and grants the free slots to waiting tasks.
    pub(crate) fn end_hold(&mut self) -> Vec<(Ready<C>, Permit)> {
        self.is_held = false;
        self.grant_all()
    }

    pub(crate) fn is_paused(&self) -> bool {
        self.is_paused
    }

    /// Ends the pause and grants the free slots to waiting tasks.
    pub(crate) fn resume(&mut self) -> Vec<(Ready<C>, Permit)> {
        self.is_paused = false;
        self.grant_all()
    }

    /// Changes the number of slots of a queue. Returns the waiting tasks that get added slots.
    /// Slots that are held and no longer there are not granted again when they are returned.
    pub(crate) fn set_slots(&mut self, queue: u32, slots: Slots) -> Vec<(Ready<C>, Permit)> {
        let mut granted = Vec::new();
        if let Some(state) = &mut self.queues[queue as usize] {
            state.is_paused = slots.are_paused;
        }
        let kinds = [
            (SlotKind::Async, slots.asynchronous),
            (SlotKind::Blocking, slots.blocking),
        ];
        for (kind, count) in kinds {
            let slot = Slot { queue, kind };
            self.of(slot).queue.set_slots(count);
            self.grant_waiting(slot, &mut granted);
        }
        granted
    }

    /// Returns whether no attempt may start in the queue of a slot.
    pub(crate) fn is_paused_at(&self, slot: Slot) -> bool {
        is_paused_at(&self.queues, slot)
    }

    fn grants_nothing(&self) -> bool {
        self.draining || self.is_held || self.is_paused
    }

    /// Returns the number of a queue if it has been used.
    pub(crate) fn number_of(&self, queue: &str) -> Option<u32> {
        self.numbers.get(queue).copied()
    }

    fn grant_all(&mut self) -> Vec<(Ready<C>, Permit)> {
        let mut granted = Vec::new();
        for queue in 0..self.queues.len() as u32 {
            for kind in [SlotKind::Async, SlotKind::Blocking] {
                if self.queues[queue as usize].is_none() {
                    continue;
                }
                self.grant_waiting(Slot { queue, kind }, &mut granted);
            }
        }
        granted
    }

    /// Grants the free slots to waiting tasks.
    fn grant_waiting(&mut self, slot: Slot, granted: &mut Vec<(Ready<C>, Permit)>) {
        if self.grants_nothing() || self.is_paused_at(slot) {
            return;
        }
        while let Some(task) = self.of(slot).queue.next() {
            self.of(slot).pacer.note_grant();
            granted.push(self.grant(slot, None, task));
        }
    }

    /// Grants a free slot ahead of all waiting tasks, and a start whatever the limits allow. The
    /// permit takes over the caller's reference to them.
    pub(crate) fn grant_now(
        &mut self,
        slot: Slot,
        limits: Option<LimitSet>,
        now_ms: u64,
    ) -> Option<Permit> {
        let is_closed = limits.is_some_and(|set| self.limits.is_closed(set));
        if self.draining || self.is_paused || self.is_paused_at(slot) || is_closed {
            return None;
        }
        if !self.of(slot).queue.take_slot() {
            return None;
        }
        if let Some(limits) = limits {
            self.limits.grant(limits, now_ms);
        }
        self.held += 1;
        Some(Permit::new(slot, limits, true, self.returns.clone()))
    }

    /// Admits a workflow whose first tasks wait in this queue. Returns it if it may start at once;
    /// otherwise the pacer keeps it.
    pub(crate) fn start_or_delay(&mut self, slot: Slot, priority: u8, root: C) -> Option<C> {
        let started = self.started();
        let pool = self.of(slot);
        let queued = pool.queue.waiting(priority);
        let root = pool.pacer.arrive(priority, root, started, queued);
        self.delayed += usize::from(root.is_none());
        let queue = self.queue_of(slot);
        if !std::mem::replace(&mut queue.is_paced, true) {
            self.paced.push(slot.queue);
        }
        root
    }

    /// Returns the paced workflows that may start now.
    pub(crate) fn admit_ready(&mut self) -> Vec<C> {
        let mut starting = Vec::new();
        if self.draining {
            return starting;
        }
        let mut started = self.started();
        let queues = &mut self.queues;
        self.paced.sort_unstable();
        self.paced.retain(|number| {
            let Some(state) = &mut queues[*number as usize] else {
                return false;
            };
            for SlotPool { queue, pacer, .. } in [&mut state.asynchronous, &mut state.blocking] {
                pacer.begin_round();
                while let Some(root) = pacer.next(started, |priority| queue.waiting(priority)) {
                    started += 1;
                    starting.push(root);
                }
            }
            state.is_paced = state.asynchronous.pacer.is_busy() || state.blocking.pacer.is_busy();
            state.is_paced
        });
        self.delayed -= starting.len();
        starting
    }

    /// Takes a workflow that matches out of its pacer, so that it starts at once: a caller waits
    /// for it.
    pub(crate) fn take_workflow(&mut self, matches: impl Fn(&C) -> bool) -> Option<C> {
        let mut pacers = self
            .queues
            .iter_mut()
            .flatten()
            .flat_map(|queue| [&mut queue.asynchronous.pacer, &mut queue.blocking.pacer]);
        let root = pacers.find_map(|pacer| pacer.take(&matches))?;
        self.delayed -= 1;
        Some(root)
    }

    /// Removes and returns the waiting tasks that match, from all queues.
    pub(crate) fn remove_waiting(
        &mut self,
        now_ms: u64,
        mut matches: impl FnMut(&Ready<C>) -> bool,
    ) -> Vec<Ready<C>> {
        let mut out = Vec::new();
        for queue in self.queues.iter_mut().flatten() {
            for pool in [&mut queue.asynchronous, &mut queue.blocking] {
                out.extend(pool.queue.remove_waiting(&mut matches));
            }
        }
        for (slot, task) in self.limits.remove_waiting(now_ms, matches) {
            self.unpin(slot);
            out.push(task);
        }
        self.waiting -= out.len();
        out
    }

    /// Returns where the task that matches waits for this slot, if it waits.
    pub(crate) fn find_waiting(
        &self,
        slot: Slot,
        now_ms: u64,
        mut is_it: impl FnMut(&Ready<C>) -> bool,
    ) -> Option<Place> {
        let queue = pool_of(&self.queues, slot).map(|pool| &pool.queue);
        if let Some((before, waiting)) = queue.and_then(|queue| queue.position(&mut is_it)) {
            return Some(Place::Queue { before, waiting });
        }
        let limited = self.limits.find_waiting(slot, now_ms, is_it);
        limited.map(Place::Limited)
    }

    /// Notes the number of unfinished workflows.
    pub(crate) fn count_live(&mut self, live: usize) {
        self.live = live;
    }

    /// Returns whether a pacer delays a workflow while tasks wait for limits.
    pub(crate) fn has_delayed_beside_limits(&self) -> bool {
        self.delayed > 0 && self.limits.have_waiting()
    }

    fn started(&self) -> usize {
        self.live.saturating_sub(self.delayed)
    }

    /// Stops granting slots for good.
    pub(crate) fn drain(&mut self) {
        self.draining = true;
    }

    /// Returns whether the dispatcher has stopped granting slots for good.
    pub(crate) fn is_draining(&self) -> bool {
        self.draining
    }

    /// Returns the number of slots held in all queues.
    pub(crate) fn held(&self) -> usize {
        self.held
    }

    fn of(&mut self, slot: Slot) -> &mut SlotPool<C> {
        let queue = self.queue_of(slot);
        match slot.kind {
            SlotKind::Async => &mut queue.asynchronous,
            SlotKind::Blocking => &mut queue.blocking,
        }
    }

    fn queue_of(&mut self, slot: Slot) -> &mut QueueState<C> {
        let queue = self.queues[slot.queue as usize].as_mut();
        queue.expect("a queue with a slot that is held, waited for or pinned is kept")
    }

    /// Returns the number of tasks that wait, for a slot or for a limit.
    pub(crate) fn waiting(&self) -> usize {
        self.waiting
    }

    fn grant(
        &mut self,
        slot: Slot,
        limits: Option<LimitSet>,
        task: Ready<C>,
    ) -> (Ready<C>, Permit) {
        self.waiting -= 1;
        self.held += 1;
        let permit = Permit::new(slot, limits, task.is_start(), self.returns.clone());
        (task, permit)
    }
}

fn is_paused_at<C>(queues: &[Option<Box<QueueState<C>>>], slot: Slot) -> bool {
    let queue = queues[slot.queue as usize].as_ref();
    queue.is_some_and(|queue| queue.is_paused)
}

fn pool_of<C>(queues: &[Option<Box<QueueState<C>>>], slot: Slot) -> Option<&SlotPool<C>> {
    let queue = queues[slot.queue as usize].as_ref()?;
    Some(match slot.kind {
        SlotKind::Async => &queue.asynchronous,
        SlotKind::Blocking => &queue.blocking,
    })
}

impl<C> QueueState<C> {
    /// Returns whether no slot of the queue is held, waited for or referenced.
    fn is_idle(&self) -> bool {
        let pools = [&self.asynchronous, &self.blocking];
        self.pins == 0 && !self.is_paced && pools.iter().all(|one| one.queue.is_idle())
    }
}

impl<C> SlotPool<C> {
    fn new(window: usize) -> Self {
        Self {
            queue: Queue::new(0),
            was_limited: false,
            in_a_row: 0,
            pacer: StartPacer::new(window),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::sync::Notify;

    use super::*;
    use crate::canvas::admission::start_limits::{LimitName, Rule};

    const SLOTS: Slots = Slots {
        asynchronous: 2,
        blocking: 1,
        are_paused: false,
    };

    fn dispatcher() -> Dispatcher<()> {
        let returns = Arc::new(Returns::new(Arc::new(Notify::new())));
        Dispatcher::new(returns, 4, false, SlotLimits::default())
    }

    fn slot(dispatcher: &mut Dispatcher<()>, name: &str) -> Slot {
        Slot {
            queue: dispatcher.queue(name, || SLOTS),
            kind: SlotKind::Async,
        }
    }

    #[test]
    fn idle_queues_are_freed_and_the_others_keep_their_numbers() {
        let mut dispatcher = dispatcher();
        let held = slot(&mut dispatcher, "held");
        let permit = dispatcher.grant_now(held, None, 0).unwrap();
        let pinned = slot(&mut dispatcher, "pinned");
        dispatcher.pin(pinned);
        for name in 0..10_000 {
            let slot = slot(&mut dispatcher, &format!("queue {name}"));
            let permit = dispatcher.grant_now(slot, None, 0).unwrap();
            dispatcher.release(permit.into_returned(), || 0);
        }
        assert!(dispatcher.queues.len() <= KEPT_QUEUES);
        assert!(dispatcher.numbers.len() <= KEPT_QUEUES);
        assert_eq!(slot(&mut dispatcher, "held"), held);
        assert_eq!(slot(&mut dispatcher, "pinned"), pinned);
        // One of the two slots is held.
        assert!(dispatcher.grant_now(held, None, 0).is_some());
        assert!(dispatcher.grant_now(held, None, 0).is_none());
        dispatcher.release(permit.into_returned(), || 0);
        assert!(dispatcher.grant_now(held, None, 0).is_some());
        dispatcher.unpin(pinned);
    }

    #[test]
    fn busy_queues_are_kept_however_many_there_are() {
        let mut dispatcher = dispatcher();
        let held: Vec<_> = (0..1_000)
            .map(|name| {
                let slot = slot(&mut dispatcher, &format!("queue {name}"));
                (
                    name,
                    dispatcher.grant_now(slot, None, 0).unwrap().into_returned(),
                )
            })
            .collect();
        for (name, of) in &held {
            assert_eq!(slot(&mut dispatcher, &format!("queue {name}")), of.slot);
        }
        assert_eq!(dispatcher.held(), 1_000);
        for (_, of) in held {
            dispatcher.release(of, || 0);
        }
        let _ = (0..2_000).map(|name| slot(&mut dispatcher, &format!("other {name}")));
        dispatcher.free_idle_queues();
        assert_eq!(dispatcher.numbers.len(), 0);
    }

    #[test]
    fn slots_are_added_and_removed_while_tasks_hold_and_wait_for_them() {
        let mut dispatcher = dispatcher();
        let slot = slot(&mut dispatcher, "mail");
        let slots = |asynchronous| Slots {
            asynchronous,
            blocking: 1,
            are_paused: false,
        };
        drop(dispatcher.set_slots(slot.queue, slots(1)));
        let held = dispatcher.request(slot, 0, Ready::New(()));
        let first = held.expect("the slot is free").1;
        for _ in 0..3 {
            assert!(dispatcher.request(slot, 0, Ready::New(())).is_none());
        }
        // Two slots more are two tasks more.
        let granted = dispatcher.set_slots(slot.queue, slots(3));
        assert_eq!(
            (granted.len(), dispatcher.held(), dispatcher.waiting()),
            (2, 3, 1)
        );
        // Of three slots that are held one is left: the two that are returned first are gone.
        assert!(dispatcher.set_slots(slot.queue, slots(1)).is_empty());
        let mut permits = granted.into_iter().map(|(_, permit)| permit);
        for _ in 0..2 {
            let permit = permits.next().unwrap();
            assert!(dispatcher.release(permit.into_returned(), || 0).is_none());
        }
        assert_eq!((dispatcher.held(), dispatcher.waiting()), (1, 1));
        let (_, last) = dispatcher
            .release(first.into_returned(), || 0)
            .expect("its slot is left");
        assert!(dispatcher.release(last.into_returned(), || 0).is_none());
        assert_eq!((dispatcher.held(), dispatcher.waiting()), (0, 0));
    }

    #[test]
    fn a_task_under_a_limit_gets_no_slot_that_was_removed() {
        let mut dispatcher = dispatcher();
        let slot = slot(&mut dispatcher, "mail");
        let name = LimitName::Task("send".to_owned());
        let limit = dispatcher
            .limits()
            .declare(name, Rule::Concurrency(9), false);
        let mut granted = Vec::new();
        for _ in 0..3 {
            let limits = dispatcher.limits().acquire([(limit, None)]).unwrap();
            dispatcher.request_within(limits, slot, 0, Ready::New(()), 0);
            granted.extend(dispatcher.admit_limited(0));
        }
        assert_eq!((dispatcher.held(), dispatcher.waiting()), (2, 1));
        let slots = Slots {
            asynchronous: 1,
            ..SLOTS
        };
        assert!(dispatcher.set_slots(slot.queue, slots).is_empty());
        let mut permits = granted
            .into_iter()
            .map(|(_, permit)| permit.into_returned());
        assert!(dispatcher.release(permits.next().unwrap(), || 0).is_none());
        assert_eq!((dispatcher.held(), dispatcher.waiting()), (1, 1));
        let last = dispatcher.release(permits.next().unwrap(), || 0);
        assert!(last.is_some());
        assert_eq!((dispatcher.held(), dispatcher.waiting()), (1, 0));
    }
}
