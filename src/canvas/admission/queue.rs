//! The queue: hands out slots to ready tasks by priority, and in order of arrival within one
//! priority.

use std::collections::VecDeque;

/// The kind of slot that a task uses: a blocking body holds a thread, an async one does not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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
#[derive(Debug)]
pub(crate) struct PriorityQueue<T> {
    priorities: [VecDeque<T>; 10],
    len: usize,
}

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
        self.priorities[index(priority)].push_back(one);
        self.len += 1;
    }

    pub(crate) fn pop(&mut self) -> Option<T> {
        let mut queues = self.priorities.iter_mut().rev();
        let next = queues.find_map(VecDeque::pop_front)?;
        self.len -= 1;
        Some(next)
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Returns the priority of the next item.
    pub(crate) fn next(&self) -> Option<u8> {
        let next = self.priorities.iter().rposition(|queue| !queue.is_empty());
        next.map(|priority| priority as u8)
    }

    /// Returns the next item and its priority.
    pub(crate) fn first(&self) -> Option<(u8, &T)> {
        let priority = self.next()?;
        let first = self.priorities[index(priority)].front()?;
        Some((priority, first))
    }

    /// Returns how many items have this priority or a higher one.
    pub(crate) fn count(&self, priority: u8) -> usize {
        let queue = &self.priorities[index(priority)..];
        queue.iter().map(VecDeque::len).sum()
    }

    pub(crate) fn remove_all(&mut self, mut is_it: impl FnMut(&T) -> bool) -> Vec<T> {
        let mut out = Vec::new();
        for queue in &mut self.priorities {
            if queue.iter().any(&mut is_it) {
                let (these, others) = std::mem::take(queue).into_iter().partition(&mut is_it);
                *queue = others;
                out.extend::<VecDeque<T>>(these);
            }
        }
        self.len -= out.len();
        out
    }

    /// Removes one matching item out of order.
    pub(crate) fn take(&mut self, is_it: impl Fn(&T) -> bool) -> Option<T> {
        let taken = self.priorities.iter_mut().find_map(|queue| {
            let index = queue.iter().position(&is_it)?;
            queue.remove(index)
        })?;
        self.len -= 1;
        Some(taken)
    }
}

/// Returns the index of a priority, which is 0 to 9.
fn index(priority: u8) -> usize {
    usize::from(priority).min(9)
}

impl<T> Default for PriorityQueue<T> {
    fn default() -> Self {
        Self {
            priorities: Default::default(),
            len: 0,
        }
    }
}
