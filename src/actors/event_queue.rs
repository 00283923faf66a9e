//! The post of a supervisor: what its children say is laid down here, and fetched together when the
//! bell has rung. A mailbox of actix costs an allocation or two for each message; on one thread a
//! list does the same.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::fmt;
use std::iter::successors;
use std::rc::Rc;

use actix::{Actor, AsyncContext, Context, Handler, Recipient};

use crate::canvas::machine::revocation::NodeKey;
use crate::messages::supervisor::{ChildEvent, EventsReady};

/// How many empty lists are kept, and the longest of them; one that is longer stays with its post.
const SPARES: usize = 1_024;
const SPARE_WORDS: usize = 64;

thread_local! {
    /// Lists for the next words: most supervisors live for a few, and would grow one of their own.
    static SPARE: RefCell<Vec<VecDeque<ChildEvent>>> = const { RefCell::new(Vec::new()) };
}

/// Invariant: while words wait, a [`EventsReady`] is on its way to the supervisor.
#[derive(Clone)]
pub(crate) struct EventQueue(Rc<Inner>);

struct Inner {
    /// Children are bounded by the window, and so is what they say.
    events: RefCell<VecDeque<ChildEvent>>,
    wake: Recipient<EventsReady>,
    /// Where the supervisor stands itself, and the post of its own; the engine's has none.
    parent: Option<(NodeKey, EventQueue)>,
    is_closed: Cell<bool>,
}

impl EventQueue {
    /// The post of the actor whose context this is: a supervisor that stands there, below another.
    pub(crate) fn of<A>(context: &Context<A>, above: Option<(NodeKey, EventQueue)>) -> Self
    where
        A: Actor<Context = Context<A>> + Handler<EventsReady>,
    {
        Self(Rc::new(Inner {
            events: RefCell::default(),
            wake: context.address().recipient(),
            parent: above,
            is_closed: Cell::new(false),
        }))
    }

    /// Where the supervisor stands, and each above it.
    pub(crate) fn path(&self) -> impl Iterator<Item = NodeKey> + '_ {
        successors(self.0.parent.as_ref(), |(_, post)| post.0.parent.as_ref())
            .map(|(stand, _)| *stand)
    }

    /// Says whether its actor is there, and all that this one hangs on.
    pub(crate) fn is_held(&self) -> bool {
        let mut posts = successors(Some(self), |post| {
            post.0.parent.as_ref().map(|(_, post)| post)
        });
        posts.all(|post| post.0.wake.connected())
    }

    /// Nobody waits any more for what its actor has to say.
    pub(crate) fn close(&self) {
        self.0.is_closed.set(true);
        self.0.wake.do_send(EventsReady);
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.0.is_closed.get()
    }

    pub(crate) fn send(&self, word: ChildEvent) {
        let mut words = self.0.events.borrow_mut();
        if words.capacity() == 0 {
            // (The thread may be at its end.)
            let spare = SPARE.try_with(|spare| spare.borrow_mut().pop());
            *words = spare.ok().flatten().unwrap_or_default();
        }
        words.push_back(word);
        if words.len() == 1 {
            drop(words);
            self.0.wake.do_send(EventsReady);
        }
    }

    /// All that was said since the last time, in order.
    pub(crate) fn drain(&self) -> Drain {
        let words = self.0.events.take();
        #[cfg(feature = "__simulation")]
        let words = crate::simulation::words(words);
        Drain {
            words,
            post: self.0.clone(),
        }
    }
}

impl Drop for Inner {
    /// Not recursive: what tasks start themselves may be thousands deep.
    fn drop(&mut self) {
        let mut above = self.parent.take();
        while let Some((_, post)) = above {
            above = Rc::into_inner(post.0).and_then(|mut inner| inner.parent.take());
        }
    }
}

/// What was said.
pub(crate) struct Drain {
    words: VecDeque<ChildEvent>,
    post: Rc<Inner>,
}

impl Iterator for Drain {
    type Item = ChildEvent;

    fn next(&mut self) -> Option<ChildEvent> {
        self.words.pop_front()
    }
}

impl Drop for Drain {
    fn drop(&mut self) {
        self.words.clear();
        let mut list = std::mem::take(&mut self.words);
        if list.capacity() > SPARE_WORDS {
            let mut words = self.post.events.borrow_mut();
            if words.capacity() < list.capacity() {
                list.append(&mut words);
                std::mem::swap(&mut list, &mut words);
            }
        }
        let _ = SPARE.try_with(|spare| {
            let mut spare = spare.borrow_mut();
            if spare.len() < SPARES && list.capacity() <= SPARE_WORDS {
                spare.push(list);
            }
        });
    }
}

impl fmt::Debug for EventQueue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EventQueue")
            .field("words", &self.0.events.borrow().len())
            .finish_non_exhaustive()
    }
}
