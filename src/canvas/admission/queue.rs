//! The queue: hands out slots to ready tasks by priority, and in order of arrival within one
//! priority. A task that is passed over too often goes first.

use std::collections::VecDeque;

/// The kind of slot that a task uses: a blocking body holds a thread, an async one does not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum SlotKind {
    Async,
    Blocking,
}

/// Ready tasks `T` and the slots of one kind.
///
/// Invariant: a task waits only while no slot is free, or while slots are withheld.
#[derive(Debug)]
pub(crate) struct Queue<T> {
    slots: usize,
    /// May exceed the number of slots after that was reduced, until slots are returned.
    held: usize,
    ready: PriorityQueue<T>,
}

/// Waiting items, by priority.
///
/// The longest-waiting item is passed over at most [`PASSES`] times before it goes first, whatever
/// its priority. So an item before which `n` others wait longer leaves after at most
/// `(n + 1) * (PASSES + 1)` items.
#[derive(Debug)]
pub(crate) struct PriorityQueue<T> {
    /// The priorities that have been used, highest first, with their items by arrival.
    levels: Vec<Level<T>>,
    len: usize,
    /// The number of items that have arrived: their order over all priorities.
    arrived: u64,
    /// How often the longest-waiting item has been passed over.
    passed: u32,
}

#[derive(Debug)]
struct Level<T> {
    priority: u8,
    items: VecDeque<(u64, T)>,
}

/// How often the longest-waiting task is passed over by tasks of higher priority.
pub(crate) const PASSES: u32 = 31;

impl<T> Queue<T> {
    pub(crate) fn new(slots: usize) -> Self {
        Self {
            slots,
            held: 0,
            ready: PriorityQueue::default(),
        }
    }

    /// Changes the number of slots. A slot that is held and no longer there is not granted again
    /// when it is returned; for slots that are added the caller asks for the [next](Self::next)
    /// tasks.
    pub(crate) fn set_slots(&mut self, slots: usize) {
        self.slots = slots;
    }

    pub(crate) fn has_free_slot(&self) -> bool {
        self.held < self.slots
    }

    /// Returns whether no slot is held and no task waits for one.
    pub(crate) fn is_idle(&self) -> bool {
        self.held == 0 && self.ready.len() == 0
    }

    /// Requests a slot for `task`; returns the task if it gets a free slot now.
    pub(crate) fn request(&mut self, priority: u8, task: T) -> Option<T> {
        if self.take_slot() {
            return Some(task);
        }
        self.wait(priority, task);
        None
    }

    /// Makes `task` wait, even if a slot is free.
    pub(crate) fn wait(&mut self, priority: u8, task: T) {
        self.ready.push(priority, task);
    }

    /// Takes a free slot, if there is one, ahead of all waiting tasks.
    pub(crate) fn take_slot(&mut self) -> bool {
        let is_free = self.has_free_slot();
        self.held += usize::from(is_free);
        is_free
    }

    /// Returns a slot without giving it to a waiting task.
    pub(crate) fn put_back(&mut self) {
        self.held -= 1;
    }

    /// Gives a free slot to the next waiting task.
    pub(crate) fn next(&mut self) -> Option<T> {
        let next = self.has_free_slot().then(|| self.ready.pop()).flatten()?;
        self.held += 1;
        Some(next)
    }

    /// Returns how many waiting tasks are before the one that matches, and how many wait.
    pub(crate) fn position(&self, is_it: impl FnMut(&T) -> bool) -> Option<(usize, usize)> {
        Some((self.ready.position(is_it)?, self.ready.len()))
    }

    /// Returns the priority of the next waiting task.
    pub(crate) fn next_priority(&self) -> Option<u8> {
        self.ready.next()
    }

    /// Removes the waiting tasks that match.
    pub(crate) fn remove_waiting(&mut self, is_it: impl FnMut(&T) -> bool) -> Vec<T> {
        self.ready.remove_all(is_it)
    }

    /// Returns how many tasks of this priority or a higher one wait.
    pub(crate) fn waiting(&self, priority: u8) -> usize {
        self.ready.count(priority)
    }
}

impl<T> PriorityQueue<T> {
    pub(crate) fn push(&mut self, priority: u8, one: T) {
        let levels = &mut self.levels;
        let index = levels.partition_point(|level| level.priority > priority);
        if levels
            .get(index)
            .is_none_or(|level| level.priority != priority)
        {
            // Most queues have one priority.
            levels.reserve_exact(1);
            let items = VecDeque::new();
            levels.insert(index, Level { priority, items });
        }
        self.arrived += 1;
        levels[index].items.push_back((self.arrived, one));
        self.len += 1;
    }

    /// Removes the next item.
    pub(crate) fn pop(&mut self) -> Option<T> {
        let next = self.next_level()?;
        match self.oldest_level() == Some(next) {
            true => self.passed = 0,
            false => self.passed += 1,
        }
        let (_, one) = self.levels[next].items.pop_front()?;
        self.len -= 1;
        Some(one)
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Returns the priority of the next item.
    pub(crate) fn next(&self) -> Option<u8> {
        self.next_level().map(|index| self.levels[index].priority)
    }

    /// Returns the next item and its priority.
    pub(crate) fn first(&self) -> Option<(u8, &T)> {
        let level = &self.levels[self.next_level()?];
        let (_, first) = level.items.front()?;
        Some((level.priority, first))
    }

    /// Returns how many items have this priority or a higher one.
    pub(crate) fn count(&self, priority: u8) -> usize {
        let levels = self.levels.iter();
        let from = levels.take_while(|level| level.priority >= priority);
        from.map(|level| level.items.len()).sum()
    }

    /// Returns how many items are before the one that matches, by priority and arrival.
    pub(crate) fn position(&self, is_it: impl FnMut(&T) -> bool) -> Option<usize> {
        let items = self.levels.iter().flat_map(|level| &level.items);
        items.map(|(_, one)| one).position(is_it)
    }

    pub(crate) fn remove_all(&mut self, mut is_it: impl FnMut(&T) -> bool) -> Vec<T> {
        let mut out = Vec::new();
        for Level { items, .. } in &mut self.levels {
            if items.iter().any(|(_, one)| is_it(one)) {
                let all = std::mem::take(items).into_iter();
                let (these, others): (VecDeque<_>, _) = all.partition(|(_, one)| is_it(one));
                *items = others;
                out.extend(these.into_iter().map(|(_, one)| one));
            }
        }
        self.len -= out.len();
        out
    }

    /// Removes one matching item out of order.
    pub(crate) fn take(&mut self, is_it: impl Fn(&T) -> bool) -> Option<T> {
        let (_, taken) = self.levels.iter_mut().find_map(|Level { items, .. }| {
            let index = items.iter().position(|(_, one)| is_it(one))?;
            items.remove(index)
        })?;
        self.len -= 1;
        Some(taken)
    }

    /// Returns the level of the next item.
    fn next_level(&self) -> Option<usize> {
        match self.passed >= PASSES {
            true => self.oldest_level(),
            false => self.levels.iter().position(|level| !level.items.is_empty()),
        }
    }

    /// Returns the level of the item that has waited longest.
    fn oldest_level(&self) -> Option<usize> {
        let fronts = self.levels.iter().enumerate();
        let arrived = fronts.filter_map(|(index, level)| {
            let (arrived, _) = level.items.front()?;
            Some((*arrived, index))
        });
        arrived.min().map(|(_, index)| index)
    }
}

impl<T> Default for PriorityQueue<T> {
    fn default() -> Self {
        Self {
            levels: Vec::new(),
            len: 0,
            arrived: 0,
            passed: 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_highest_priority_goes_first_and_equals_in_order_of_arrival() {
        let mut queue = PriorityQueue::default();
        for (n, priority) in [0, 5, 9, 5, 0, 9].into_iter().enumerate() {
            queue.push(priority, n);
        }
        assert_eq!((queue.count(9), queue.count(5), queue.count(1)), (2, 4, 4));
        assert_eq!(queue.first(), Some((9, &2)));
        assert_eq!(queue.take(|n| *n == 3), Some(3));
        assert_eq!(queue.remove_all(|n| *n == 5), [5]);
        let order: Vec<_> = std::iter::from_fn(|| queue.pop()).collect();
        assert_eq!(order, [2, 1, 0, 4]);
        assert_eq!((queue.len(), queue.next()), (0, None));
    }

    /// The promise of a bounded wait: items of the highest priority arrive all the time.
    #[test]
    fn an_item_waits_for_a_bounded_number_of_others_whatever_their_priority() {
        let mut queue = PriorityQueue::default();
        let older = 20;
        for n in 0..=older {
            queue.push(n as u8 % 3, n);
        }
        let mut left = 0;
        loop {
            queue.push(9, u32::MAX);
            queue.push(9, u32::MAX);
            let first = queue.first().map(|(_, one)| *one);
            let one = queue.pop();
            assert_eq!(one, first);
            left += 1;
            if one == Some(older) {
                break;
            }
            assert!(left <= (older + 1) * (PASSES + 1), "{left}");
        }
        // And the others are hardly held up.
        assert!(left > 9 * PASSES, "{left}");
    }
}
