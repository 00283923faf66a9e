//! The task slab: the task actors that have a task, by key. Other parts of the engine refer to a
//! task by its key: an actix address is expensive to copy, and a key crosses threads for free.

use actix::Addr;

use super::TaskActor;
use crate::actors::dispatch::permit::Permit;
use crate::actors::supervision::Child;
use crate::canvas::id::Id;

/// Identifies one task's actor; a later task in the same entry has another key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct TaskKey {
    index: u32,
    /// The number of earlier tasks in this entry.
    generation: u32,
}

#[derive(Debug, Default)]
pub(crate) struct TaskSlab {
    entries: Vec<SlabEntry>,
    free: Vec<u32>,
    /// Idle actors, whose task has ended.
    idle: Vec<Addr<TaskActor>>,
}

/// The number of idle actors that are kept: about a kilobyte each.
const IDLE: usize = 1_024;

#[derive(Debug, Default)]
struct SlabEntry {
    generation: u32,
    /// The task's workflow.
    root: Option<Id>,
    task: Option<Addr<TaskActor>>,
    /// The task for the actor to take, with its slot if it has one: an actix message cannot carry
    /// values that belong to one thread.
    child: Option<(Box<Child>, Option<Permit>)>,
}

impl TaskSlab {
    /// Reserves an entry for a task; returns its key.
    pub(crate) fn reserve(&mut self, child: Box<Child>, permit: Option<Permit>) -> TaskKey {
        let index = self.free.pop().unwrap_or_else(|| {
            self.entries.push(SlabEntry::default());
            (self.entries.len() - 1) as u32
        });
        let entry = &mut self.entries[index as usize];
        entry.root = Some(child.root);
        entry.child = Some((child, permit));
        TaskKey {
            index,
            generation: entry.generation,
        }
    }

    /// Takes the task that was reserved under this key.
    pub(crate) fn take(&mut self, key: TaskKey) -> Option<(Box<Child>, Option<Permit>)> {
        self.entries[key.index as usize].child.take()
    }

    /// Sets the actor of an entry. Actix stops an actor without addresses: the slab keeps it alive
    /// until it is removed, also while its task is parked, while no slot is granted any more, and
    /// when its body was dropped.
    pub(crate) fn set_actor(&mut self, key: TaskKey, task: Addr<TaskActor>) {
        self.entries[key.index as usize].task = Some(task);
    }

    pub(crate) fn get(&self, key: TaskKey) -> Option<&Addr<TaskActor>> {
        let entry = self.entries.get(key.index as usize)?;
        entry
            .task
            .as_ref()
            .filter(|_| entry.generation == key.generation)
    }

    /// Returns all actors that have a task.
    pub(crate) fn all(&self) -> impl Iterator<Item = &Addr<TaskActor>> {
        self.entries.iter().filter_map(|entry| entry.task.as_ref())
    }

    /// Returns the actors that have a task of this workflow.
    pub(crate) fn of_workflow(&self, root: Id) -> impl Iterator<Item = &Addr<TaskActor>> {
        let entries = self
            .entries
            .iter()
            .filter(move |entry| entry.root == Some(root));
        entries.filter_map(|entry| entry.task.as_ref())
    }

    /// Takes an idle actor.
    pub(crate) fn idle(&mut self) -> Option<Addr<TaskActor>> {
        self.idle.pop()
    }

    /// Reuses the entry of a task that has ended for a task of workflow `root`. Returns a new key,
    /// so that late messages for the earlier task do not reach this one.
    pub(crate) fn reuse(&mut self, key: TaskKey, root: Id) -> TaskKey {
        let entry = &mut self.entries[key.index as usize];
        entry.root = Some(root);
        entry.generation = entry.generation.wrapping_add(1);
        TaskKey {
            generation: entry.generation,
            ..key
        }
    }

    /// Parks the actor of a task that has ended. Returns false if enough actors are idle already.
    pub(crate) fn park_idle(&mut self, key: TaskKey) -> bool {
        let Some(task) = self.remove(key) else {
            return false;
        };
        let is_kept = self.idle.len() < IDLE;
        if is_kept {
            self.idle.push(task);
        }
        is_kept
    }

    /// Removes a task; returns its actor.
    pub(crate) fn remove(&mut self, key: TaskKey) -> Option<Addr<TaskActor>> {
        let entry = &mut self.entries[key.index as usize];
        if entry.generation != key.generation {
            return None;
        }
        entry.generation = entry.generation.wrapping_add(1);
        self.free.push(key.index);
        entry.task.take()
    }
}
