//! The queue: slots for ready tasks, by priority, first come first served within one.

use std::collections::VecDeque;

/// Which kind of slot a task takes: blocking bodies hold a thread, async ones do not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SlotKind {
    Async,
    Blocking,
}

/// Ready tasks `T` and free slots of one kind.
///
/// Invariant: tasks wait only while no slot is free, or none is to be given.
#[derive(Debug)]
pub(crate) struct Queue<T> {
    slots: usize,
    free: usize,
    ready: PriorityQueue<T>,
}

/// Who waits, by priority.
#[derive(Debug)]
pub(crate) struct PriorityQueue<T> {
    priorities: [VecDeque<T>; 10],
    len: usize,
}

impl<T> Queue<T> {
    pub(crate) fn new(slots: usize) -> Self {
        Self {
            slots,
            free: slots,
            ready: PriorityQueue::default(),
        }
    }

    /// Says whether no slot is held and no task waits for one.
    pub(crate) fn is_idle(&self) -> bool {
        self.free == self.slots && self.ready.len() == 0
    }

    /// `task` is ready; it is given back if a slot is free for it now.
    pub(crate) fn request(&mut self, priority: u8, task: T) -> Option<T> {
        if self.free > 0 {
            self.free -= 1;
            return Some(task);
        }
        self.wait(priority, task);
        None
    }

    /// `task` is ready, and waits whether or not a slot is free.
    pub(crate) fn wait(&mut self, priority: u8, task: T) {
        self.ready.push(priority, task);
    }

    /// Takes a slot past all that wait, if one is free.
    pub(crate) fn take_slot(&mut self) -> bool {
        let free = self.free > 0;
        self.free -= usize::from(free);
        free
    }

    /// A slot is free again, and nobody is to take it now.
    pub(crate) fn put_back(&mut self) {
        self.free += 1;
    }

    /// The next task that waits, if a slot is free for it.
    pub(crate) fn next(&mut self) -> Option<T> {
        let next = (self.free > 0).then(|| self.ready.pop()).flatten()?;
        self.free -= 1;
        Some(next)
    }

    /// A slot is free again; returns the task that takes it.
    pub(crate) fn release(&mut self) -> Option<T> {
        let next = self.ready.pop();
        if next.is_none() {
            self.free += 1;
        }
        next
    }

    /// Takes those out who are not to wait any more.
    pub(crate) fn remove_waiting(&mut self, is_it: impl FnMut(&T) -> bool) -> Vec<T> {
        self.ready.remove_all(is_it)
    }

    /// How many wait that are of this priority or a higher one.
    pub(crate) fn waiting(&self, priority: u8) -> usize {
        self.ready.count(priority)
    }
}

impl<T> PriorityQueue<T> {
    pub(crate) fn push(&mut self, priority: u8, one: T) {
        self.priorities[place(priority)].push_back(one);
        self.len += 1;
    }

    pub(crate) fn pop(&mut self) -> Option<T> {
        let mut lines = self.priorities.iter_mut().rev();
        let next = lines.find_map(VecDeque::pop_front)?;
        self.len -= 1;
        Some(next)
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// The priority of who is next.
    pub(crate) fn next(&self) -> Option<u8> {
        let next = self.priorities.iter().rposition(|line| !line.is_empty());
        next.map(|priority| priority as u8)
    }

    /// How many are of this priority or a higher one.
    pub(crate) fn count(&self, priority: u8) -> usize {
        let line = &self.priorities[place(priority)..];
        line.iter().map(VecDeque::len).sum()
    }

    fn remove_all(&mut self, mut is_it: impl FnMut(&T) -> bool) -> Vec<T> {
        let mut out = Vec::new();
        for line in &mut self.priorities {
            if line.iter().any(&mut is_it) {
                let (these, others) = std::mem::take(line).into_iter().partition(&mut is_it);
                *line = others;
                out.extend::<VecDeque<T>>(these);
            }
        }
        self.len -= out.len();
        out
    }

    /// Takes one out of turn.
    pub(crate) fn take(&mut self, is_it: impl Fn(&T) -> bool) -> Option<T> {
        let found = self.priorities.iter_mut().find_map(|line| {
            let place = line.iter().position(&is_it)?;
            line.remove(place)
        })?;
        self.len -= 1;
        Some(found)
    }
}

/// Where those of a priority stand: it is 0 to 9.
fn place(priority: u8) -> usize {
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
