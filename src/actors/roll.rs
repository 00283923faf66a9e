//! The roll: the task actors that live, by ticket. What is to reach a task from elsewhere names its
//! ticket: an address of actix is dear to copy, and a ticket may cross threads for nothing.

use actix::Addr;

use super::task::TaskActor;

/// Stands for one task actor, and for no later one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ticket {
    place: u32,
    /// How many had this place before.
    generation: u32,
}

#[derive(Debug, Default)]
pub(crate) struct Roll {
    places: Vec<Place>,
    free: Vec<u32>,
}

#[derive(Debug, Default)]
struct Place {
    generation: u32,
    task: Option<Addr<TaskActor>>,
}

impl Roll {
    /// A ticket for an actor that is about to be started.
    pub(crate) fn reserve(&mut self) -> Ticket {
        let place = self.free.pop().unwrap_or_else(|| {
            self.places.push(Place::default());
            (self.places.len() - 1) as u32
        });
        Ticket {
            place,
            generation: self.places[place as usize].generation,
        }
    }

    /// Actix ends an actor that nobody can reach: on the roll it lives until it is struck off, also
    /// while it is parked, while no slot is granted any more, and when its body was dropped.
    pub(crate) fn enter(&mut self, ticket: Ticket, task: Addr<TaskActor>) {
        self.places[ticket.place as usize].task = Some(task);
    }

    pub(crate) fn get(&self, ticket: Ticket) -> Option<&Addr<TaskActor>> {
        let place = self.places.get(ticket.place as usize)?;
        place
            .task
            .as_ref()
            .filter(|_| place.generation == ticket.generation)
    }

    /// Its actor is gone.
    pub(crate) fn strike(&mut self, ticket: Ticket) -> Option<Addr<TaskActor>> {
        let place = &mut self.places[ticket.place as usize];
        if place.generation != ticket.generation {
            return None;
        }
        place.generation = place.generation.wrapping_add(1);
        self.free.push(ticket.place);
        place.task.take()
    }
}
