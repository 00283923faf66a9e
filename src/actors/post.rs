//! The post of a supervisor: what its children say is laid down here, and fetched together when the
//! bell has rung. A mailbox of actix costs an allocation or two for each message; on one thread a
//! list does the same.

use std::cell::RefCell;
use std::fmt;
use std::rc::Rc;

use actix::{Actor, AsyncContext, Context, Handler, Recipient};

use crate::messages::supervisor::{Mail, Word};

/// Invariant: while words wait, a [`Mail`] is on its way to the supervisor.
#[derive(Clone)]
pub(crate) struct Post(Rc<Inner>);

struct Inner {
    /// Children are bounded by the window, and so is what they say.
    words: RefCell<Vec<Word>>,
    bell: Recipient<Mail>,
}

impl Post {
    /// The post of the actor whose context this is.
    pub(crate) fn of<A>(context: &Context<A>) -> Self
    where
        A: Actor<Context = Context<A>> + Handler<Mail>,
    {
        Self(Rc::new(Inner {
            words: RefCell::default(),
            bell: context.address().recipient(),
        }))
    }

    pub(crate) fn send(&self, word: Word) {
        let mut words = self.0.words.borrow_mut();
        words.push(word);
        if words.len() == 1 {
            drop(words);
            self.0.bell.do_send(Mail);
        }
    }

    /// All that was said since the last time, in order.
    pub(crate) fn collect(&self) -> Vec<Word> {
        std::mem::take(&mut self.0.words.borrow_mut())
    }
}

impl fmt::Debug for Post {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Post")
            .field("words", &self.0.words.borrow().len())
            .finish_non_exhaustive()
    }
}
