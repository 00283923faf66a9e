//! The journal: what the actors have decided and not yet committed.

use actix::Recipient;
use tokio::sync::oneshot;

use super::engine::Forget;
use super::runner::Order;
use super::shared::Pin;
use super::supervision::Child;
use crate::canvas::id::Id;
use crate::canvas::machine::Record;
use crate::canvas::outcome::Outcome;
use crate::error::Result;
use crate::messages::engine::{KeyIsDurable, Stored, Sweep};
use crate::messages::supervisor::Respawn;
use crate::persistence::Batch;
use crate::persistence::draft::Draft;

/// What waits for the disk, beside the functions that are to be called.
#[derive(Debug)]
pub(crate) enum Act {
    /// Tell a caller that its submission is durable.
    Acknowledge(oneshot::Sender<Pin>, Pin),
    /// Tell the engine that the store knows what an idempotency key stands for.
    KeyIsDurable(KeyIsDurable),
    /// Tell a task what became of a canvas that it called.
    Answer(oneshot::Sender<Outcome>, Outcome),
    /// Start a child that reads its input from the store.
    Start(Box<Child>),
    /// Start a lost child again.
    Respawn(Recipient<Respawn>, Respawn),
    /// Tell the engine that the store shows where a workflow waits, or that it does no more.
    Stored(Stored),
    /// Have the engine look for what it may sweep.
    Sweep(Sweep),
    /// Ask the engine again to forget a workflow.
    Forget(Forget),
    /// Tell a caller that what it asked for is done.
    Done(oneshot::Sender<Result<()>>),
    /// Delete what is left of a workflow whose head is gone.
    Purge(Id),
}

/// One batch in the making, and what follows it.
#[derive(Debug, Default)]
pub(crate) struct Journal {
    draft: Draft,
    orders: Vec<Order>,
    acts: Vec<Act>,
    /// Rises with everything that is added: whoever fills the batch sees when it is quiet.
    pub(crate) added: u64,
}

/// A batch taken out of the journal.
#[derive(Debug)]
pub(crate) struct Taken {
    pub(crate) batch: Batch,
    pub(crate) orders: Vec<Order>,
    pub(crate) acts: Vec<Act>,
    pub(crate) touched: Vec<Id>,
}

impl Journal {
    pub(crate) fn record(&mut self, stream: Id, record: Record) {
        self.added += 1;
        self.draft.record(stream, record);
    }

    pub(crate) fn put(&mut self, key: Vec<u8>, value: Vec<u8>) {
        self.added += 1;
        self.draft.put(key, value);
    }

    pub(crate) fn delete(&mut self, key: Vec<u8>) {
        self.added += 1;
        self.draft.delete(key);
    }

    pub(crate) fn touch(&mut self, root: Id) {
        self.draft.touch(root);
    }

    pub(crate) fn then(&mut self, act: Act) {
        self.added += 1;
        self.acts.push(act);
    }

    pub(crate) fn run(&mut self, order: Order) {
        self.added += 1;
        self.orders.push(order);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.draft.is_empty() && self.orders.is_empty() && self.acts.is_empty()
    }

    /// Takes all there is, as commit number `commit`.
    pub(crate) fn take(&mut self, commit: u64) -> Taken {
        let (batch, touched) = self.draft.take(commit);
        Taken {
            batch,
            orders: std::mem::take(&mut self.orders),
            acts: std::mem::take(&mut self.acts),
            touched,
        }
    }
}
