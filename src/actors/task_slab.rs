//! The roll: the task actors that have a task, by ticket. What is to reach a task from elsewhere names its
//! ticket: an address of actix is dear to copy, and a ticket may cross threads for nothing.

use actix::Addr;

use super::supervision::Child;
use super::task::TaskActor;
use crate::canvas::id::Id;
use crate::messages::dispatcher::Permit;

/// Stands for one task's actor, and for none of a later task.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct TaskKey {
    index: u32,
    /// How many had this place before.
    generation: u32,
}

#[derive(Debug, Default)]
pub(crate) struct TaskSlab {
    entries: Vec<SlabEntry>,
    free: Vec<u32>,
    /// Actors whose task has ended.
    idle: Vec<Addr<TaskActor>>,
}

/// So many idle actors are kept: about a kilobyte each.
const IDLE: usize = 1_024;

#[derive(Debug, Default)]
struct SlabEntry {
    generation: u32,
    /// The workflow of its task.
    root: Option<Id>,
    task: Option<Addr<TaskActor>>,
    /// What the actor is to take, with its slot if it has one: no message of actix can carry what
    /// is for one thread only.
    child: Option<(Box<Child>, Option<Permit>)>,
}

impl TaskSlab {
    /// A ticket for an actor that is to take this child.
    pub(crate) fn reserve(&mut self, child: Box<Child>, permit: Option<Permit>) -> TaskKey {
        let place = self.free.pop().unwrap_or_else(|| {
            self.entries.push(SlabEntry::default());
            (self.entries.len() - 1) as u32
        });
        let found = &mut self.entries[place as usize];
        found.root = Some(child.root);
        found.child = Some((child, permit));
        TaskKey {
            index: place,
            generation: found.generation,
        }
    }

    /// What the holder of the ticket is to do.
    pub(crate) fn take(&mut self, ticket: TaskKey) -> Option<(Box<Child>, Option<Permit>)> {
        self.entries[ticket.index as usize].child.take()
    }

    /// Actix ends an actor that nobody can reach: on the roll it lives until it is struck off, also
    /// while it is parked, while no slot is granted any more, and when its body was dropped.
    pub(crate) fn set_actor(&mut self, ticket: TaskKey, task: Addr<TaskActor>) {
        self.entries[ticket.index as usize].task = Some(task);
    }

    pub(crate) fn get(&self, ticket: TaskKey) -> Option<&Addr<TaskActor>> {
        let place = self.entries.get(ticket.index as usize)?;
        place
            .task
            .as_ref()
            .filter(|_| place.generation == ticket.generation)
    }

    /// All that have a task.
    pub(crate) fn all(&self) -> impl Iterator<Item = &Addr<TaskActor>> {
        self.entries.iter().filter_map(|place| place.task.as_ref())
    }

    /// The actors that have a task of this workflow.
    pub(crate) fn of_workflow(&self, root: Id) -> impl Iterator<Item = &Addr<TaskActor>> {
        let places = self
            .entries
            .iter()
            .filter(move |place| place.root == Some(root));
        places.filter_map(|place| place.task.as_ref())
    }

    /// An actor that has no task.
    pub(crate) fn idle(&mut self) -> Option<Addr<TaskActor>> {
        self.idle.pop()
    }

    /// Its task has ended, and it has one of workflow `root` by now: another ticket, so that what comes late for the
    /// one before does not reach it.
    pub(crate) fn reuse(&mut self, ticket: TaskKey, root: Id) -> TaskKey {
        let place = &mut self.entries[ticket.index as usize];
        place.root = Some(root);
        place.generation = place.generation.wrapping_add(1);
        TaskKey {
            generation: place.generation,
            ..ticket
        }
    }

    /// Its task has ended, and it waits for the next; or not, if there are enough.
    pub(crate) fn park_idle(&mut self, ticket: TaskKey) -> bool {
        let Some(task) = self.remove(ticket) else {
            return false;
        };
        let room = self.idle.len() < IDLE;
        if room {
            self.idle.push(task);
        }
        room
    }

    /// Its actor is gone.
    pub(crate) fn remove(&mut self, ticket: TaskKey) -> Option<Addr<TaskActor>> {
        let place = &mut self.entries[ticket.index as usize];
        if place.generation != ticket.generation {
            return None;
        }
        place.generation = place.generation.wrapping_add(1);
        self.free.push(ticket.index);
        place.task.take()
    }
}
