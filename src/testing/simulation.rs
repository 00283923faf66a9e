//! The engine on one thread, for a simulation of it: thread, time and chance are all controlled by
//! the driver.
//!
//! The engine itself runs here. A simulation decides when the store writes (its actor runs in a
//! `LocalSet` of its own, and each inline write is asked for), when a blocking task gets its
//! thread, which actors die, and which events arrive twice; the order of everything else follows
//! from that.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::pin::Pin;
use std::rc::Rc;

use crate::messages::supervisor::ChildEvent;
use crate::messages::task::{AttemptMessage, Finished, TaskKey};

/// Decides the events that the engine of this thread does not control.
pub trait Chance {
    /// Decides whether an actor of this kind dies at its current event.
    fn dies(&self, kind: &'static str) -> bool;

    /// Decides whether an event is delivered once more; the second time may be late.
    fn repeats(&self) -> bool;

    /// Decides whether a small batch is written inline, and not when the store is polled.
    fn writes_at_once(&self) -> bool;

    /// Waits until there is a thread for a blocking job.
    fn free_thread(&self) -> Pin<Box<dyn Future<Output = ()> + Send>>;
}

struct State {
    chance: Rc<dyn Chance>,
    /// Repeated messages that are delivered with a later batch.
    late: Vec<(TaskKey, AttemptMessage)>,
}

thread_local! {
    static STATE: RefCell<Option<State>> = const { RefCell::new(None) };
}

/// Sets the source of chance of this thread.
pub fn set_chance(chance: Rc<dyn Chance>) {
    let late = Vec::new();
    STATE.with(|state| *state.borrow_mut() = Some(State { chance, late }));
}

fn chance() -> Option<Rc<dyn Chance>> {
    STATE.with(|state| state.borrow().as_ref().map(|state| state.chance.clone()))
}

pub(super) fn fault(kind: &'static str) {
    if chance().is_some_and(|chance| chance.dies(kind)) {
        panic!("this {kind} actor dies because the simulation asked for it");
    }
}

pub(super) fn writes_at_once() -> bool {
    chance().is_none_or(|chance| chance.writes_at_once())
}

pub(super) async fn free_thread() {
    let thread = chance().map(|chance| chance.free_thread());
    if let Some(thread) = thread {
        thread.await;
    }
}

/// Returns the events of children with some of them repeated.
pub(super) fn events(mut events: VecDeque<ChildEvent>) -> VecDeque<ChildEvent> {
    if let Some(chance) = chance() {
        let is_repeatable =
            |event: &&ChildEvent| matches!(event, ChildEvent::Ended(_) | ChildEvent::Arrived(_));
        let again = events
            .iter()
            .filter(is_repeatable)
            .filter(|_| chance.repeats());
        let again: Vec<_> = again.cloned().collect();
        events.extend(again);
    }
    events
}

/// Returns the messages of attempts, with some earlier ones repeated.
pub(super) fn messages(
    mut messages: Vec<(TaskKey, AttemptMessage)>,
) -> Vec<(TaskKey, AttemptMessage)> {
    let Some(chance) = chance() else {
        return messages;
    };
    let mut late = Vec::new();
    for (key, message) in &messages {
        if let AttemptMessage::Finished(Finished {
            attempt, outcome, ..
        }) = message
            && chance.repeats()
        {
            let again = Finished {
                attempt: *attempt,
                outcome: outcome.clone(),
                permit: None,
            };
            late.push((*key, AttemptMessage::Finished(again)));
        }
    }
    STATE.with(|state| {
        if let Some(state) = &mut *state.borrow_mut() {
            messages.append(&mut state.late);
            state.late = late;
        }
    });
    messages
}
