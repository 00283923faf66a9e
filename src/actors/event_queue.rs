//! A supervisor's event queue: its children append events, and one wake-up message makes the
//! supervisor drain them together. A mailbox of actix costs one or two allocations per message; on
//! one thread a list does the same.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::fmt;
use std::iter::successors;
use std::rc::Rc;

use actix::{Actor, AsyncContext, Context, Handler, Recipient};

use crate::canvas::revocation::NodeKey;
use crate::messages::supervisor::{ChildEvent, EventsReady};
use crate::testing::hooks;

/// The number of empty lists that are kept, and the capacity of the largest; a larger list stays
/// with its queue.
const SPARES: usize = 1_024;
const SPARE_CAPACITY: usize = 64;

thread_local! {
    /// Lists for later events: most supervisors receive only a few events, and each would otherwise
    /// allocate a list of its own.
    static SPARE: RefCell<Vec<VecDeque<ChildEvent>>> = const { RefCell::new(Vec::new()) };
}

/// Invariant: while the queue holds events, an [`EventsReady`] is on its way to the supervisor.
#[derive(Clone)]
pub(crate) struct EventQueue(Rc<Inner>);

struct Inner {
    /// Bounded, because the number of children is bounded by the window.
    events: RefCell<VecDeque<ChildEvent>>,
    wake: Recipient<EventsReady>,
    /// The supervisor's own node, and the queue of its supervisor; the engine has none.
    parent: Option<(NodeKey, EventQueue)>,
    is_closed: Cell<bool>,
}

impl EventQueue {
    /// Creates the queue of the actor that `context` belongs to. `parent` is the actor's node and
    /// the queue of its supervisor.
    pub(crate) fn of<A>(context: &Context<A>, parent: Option<(NodeKey, EventQueue)>) -> Self
    where
        A: Actor<Context = Context<A>> + Handler<EventsReady>,
    {
        Self(Rc::new(Inner {
            events: RefCell::default(),
            wake: context.address().recipient(),
            parent,
            is_closed: Cell::new(false),
        }))
    }

    /// Returns the supervisor's node and those of all supervisors above it.
    pub(crate) fn path(&self) -> impl Iterator<Item = NodeKey> + '_ {
        successors(self.0.parent.as_ref(), |(_, queue)| queue.0.parent.as_ref())
            .map(|(node, _)| *node)
    }

    /// Returns whether the supervisor's actor and all actors above it are alive.
    pub(crate) fn is_held(&self) -> bool {
        let mut queues = successors(Some(self), |queue| {
            queue.0.parent.as_ref().map(|(_, queue)| queue)
        });
        queues.all(|queue| queue.0.wake.connected())
    }

    /// Marks that no supervisor needs this actor's events any more.
    pub(crate) fn close(&self) {
        self.0.is_closed.set(true);
        self.0.wake.do_send(EventsReady);
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.0.is_closed.get()
    }

    pub(crate) fn send(&self, event: ChildEvent) {
        let mut events = self.0.events.borrow_mut();
        if events.capacity() == 0 {
            // (The thread may be exiting.)
            let spare = SPARE.try_with(|spare| spare.borrow_mut().pop());
            *events = spare.ok().flatten().unwrap_or_default();
        }
        events.push_back(event);
        if events.len() == 1 {
            drop(events);
            self.0.wake.do_send(EventsReady);
        }
    }

    /// Takes all events since the last call, in order.
    pub(crate) fn drain(&self) -> Drain {
        let events = self.0.events.take();
        Drain {
            events: hooks::events(events),
            queue: self.0.clone(),
        }
    }
}

impl Drop for Inner {
    /// Drops the chain of parents without recursion: subtasks may be nested thousands deep.
    fn drop(&mut self) {
        let mut parent = self.parent.take();
        while let Some((_, queue)) = parent {
            parent = Rc::into_inner(queue.0).and_then(|mut inner| inner.parent.take());
        }
    }
}

/// An iterator over the drained events.
pub(crate) struct Drain {
    events: VecDeque<ChildEvent>,
    queue: Rc<Inner>,
}

impl Iterator for Drain {
    type Item = ChildEvent;

    fn next(&mut self) -> Option<ChildEvent> {
        self.events.pop_front()
    }
}

impl Drop for Drain {
    fn drop(&mut self) {
        self.events.clear();
        let mut list = std::mem::take(&mut self.events);
        if list.capacity() > SPARE_CAPACITY {
            let mut events = self.queue.events.borrow_mut();
            if events.capacity() < list.capacity() {
                list.append(&mut events);
                std::mem::swap(&mut list, &mut events);
            }
        }
        let _ = SPARE.try_with(|spare| {
            let mut spare = spare.borrow_mut();
            if spare.len() < SPARES && list.capacity() <= SPARE_CAPACITY {
                spare.push(list);
            }
        });
    }
}

impl fmt::Debug for EventQueue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EventQueue")
            .field("events", &self.0.events.borrow().len())
            .finish_non_exhaustive()
    }
}
