//! The task slab: the task actors that have a task, by key. Other parts of the engine refer to a
//! task by its key: an actix address is expensive to copy, and a key crosses threads for free.

use crate::canvas::id::Id;
use crate::messages::task::TaskKey;

/// Tasks of type `T`, and the addresses `A` of their actors.
#[derive(Debug)]
pub(crate) struct TaskSlab<T, A> {
    entries: Vec<SlabEntry<T, A>>,
    free: Vec<u32>,
    /// Idle actors, whose task has ended.
    idle: Vec<A>,
}

/// The number of idle actors that are kept: about a kilobyte each.
const IDLE: usize = 1_024;

#[derive(Debug)]
struct SlabEntry<T, A> {
    generation: u32,
    /// The task's id.
    id: Option<Id>,
    actor: Option<A>,
    /// The task for the actor to take: an actix message cannot carry values that belong to one
    /// thread.
    task: Option<T>,
}

impl<T, A> Default for TaskSlab<T, A> {
    fn default() -> Self {
        Self {
            entries: Vec::new(),
            free: Vec::new(),
            idle: Vec::new(),
        }
    }
}

impl<T, A> Default for SlabEntry<T, A> {
    fn default() -> Self {
        Self {
            generation: 0,
            id: None,
            actor: None,
            task: None,
        }
    }
}

impl<T, A> TaskSlab<T, A> {
    /// Reserves an entry for the task with this id; returns its key.
    pub(crate) fn reserve(&mut self, id: Id, task: T) -> TaskKey {
        let index = self.free.pop().unwrap_or_else(|| {
            self.entries.push(SlabEntry::default());
            (self.entries.len() - 1) as u32
        });
        let entry = &mut self.entries[index as usize];
        entry.id = Some(id);
        entry.task = Some(task);
        TaskKey {
            index,
            generation: entry.generation,
        }
    }

    /// Takes the task that was reserved under this key.
    pub(crate) fn take(&mut self, key: TaskKey) -> Option<T> {
        self.entries[key.index as usize].task.take()
    }

    /// Sets the actor of an entry. Actix stops an actor without addresses: the slab keeps it alive
    /// until it is removed, also while its task is parked, while no slot is granted any more, and
    /// when its body was dropped.
    pub(crate) fn set_actor(&mut self, key: TaskKey, actor: A) {
        self.entries[key.index as usize].actor = Some(actor);
    }

    pub(crate) fn get(&self, key: TaskKey) -> Option<&A> {
        let entry = self.entries.get(key.index as usize)?;
        entry
            .actor
            .as_ref()
            .filter(|_| entry.generation == key.generation)
    }

    /// Returns the id of the task that has this key.
    pub(crate) fn id(&self, key: TaskKey) -> Option<Id> {
        let entry = self.entries.get(key.index as usize)?;
        entry.id.filter(|_| entry.generation == key.generation)
    }

    /// Returns all actors that have a task.
    pub(crate) fn all(&self) -> impl Iterator<Item = &A> {
        self.entries.iter().filter_map(|entry| entry.actor.as_ref())
    }

    /// Returns the actors that have a task of this workflow.
    pub(crate) fn of_workflow(&self, root: Id) -> impl Iterator<Item = &A> {
        let entries = self
            .entries
            .iter()
            .filter(move |entry| entry.id.is_some_and(|id| id.root() == root));
        entries.filter_map(|entry| entry.actor.as_ref())
    }

    /// Takes an idle actor.
    pub(crate) fn idle(&mut self) -> Option<A> {
        self.idle.pop()
    }

    /// Reuses the entry of a task that has ended for the task with this id. Returns a new key,
    /// so that late messages for the earlier task do not reach this one.
    pub(crate) fn reuse(&mut self, key: TaskKey, id: Id) -> TaskKey {
        let entry = &mut self.entries[key.index as usize];
        entry.id = Some(id);
        entry.generation = entry.generation.wrapping_add(1);
        TaskKey {
            generation: entry.generation,
            ..key
        }
    }

    /// Parks the actor of a task that has ended. Returns false if enough actors are idle already.
    pub(crate) fn park_idle(&mut self, key: TaskKey) -> bool {
        let Some(actor) = self.remove(key) else {
            return false;
        };
        let is_kept = self.idle.len() < IDLE;
        if is_kept {
            self.idle.push(actor);
        }
        is_kept
    }

    /// Removes a task; returns its actor.
    pub(crate) fn remove(&mut self, key: TaskKey) -> Option<A> {
        let entry = &mut self.entries[key.index as usize];
        if entry.generation != key.generation {
            return None;
        }
        entry.generation = entry.generation.wrapping_add(1);
        self.free.push(key.index);
        entry.actor.take()
    }
}
