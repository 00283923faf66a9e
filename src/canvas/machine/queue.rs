//! The queue: slots for ready tasks, by priority, first come first served within one.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

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
    free: usize,
    ready: BinaryHeap<Ready<T>>,
    /// Numbers the arrivals, so that equals stay in order.
    arrivals: u64,
}

#[derive(Debug)]
struct Ready<T> {
    order: (u8, Reverse<u64>),
    task: T,
}

impl<T> Queue<T> {
    pub(crate) fn new(slots: usize) -> Self {
        Self {
            free: slots,
            ready: BinaryHeap::new(),
            arrivals: 0,
        }
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
        self.arrivals += 1;
        self.ready.push(Ready {
            order: (priority, Reverse(self.arrivals)),
            task,
        });
    }

    /// Takes a slot past all that wait, if one is free.
    pub(crate) fn take_slot(&mut self) -> bool {
        let free = self.free > 0;
        self.free -= usize::from(free);
        free
    }

    pub(crate) fn has_slot(&self) -> bool {
        self.free > 0
    }

    /// A slot is free again, and nobody is to take it now.
    pub(crate) fn put_back(&mut self) {
        self.free += 1;
    }

    /// The next task that waits, if a slot is free for it.
    pub(crate) fn next(&mut self) -> Option<T> {
        let next = (self.free > 0).then(|| self.ready.pop()).flatten()?;
        self.free -= 1;
        Some(next.task)
    }

    /// A slot is free again; returns the task that takes it.
    pub(crate) fn release(&mut self) -> Option<T> {
        let next = self.ready.pop();
        if next.is_none() {
            self.free += 1;
        }
        next.map(|ready| ready.task)
    }
}

impl<T> PartialEq for Ready<T> {
    fn eq(&self, other: &Self) -> bool {
        self.order == other.order
    }
}

impl<T> Eq for Ready<T> {}

impl<T> PartialOrd for Ready<T> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl<T> Ord for Ready<T> {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.order.cmp(&other.order)
    }
}
