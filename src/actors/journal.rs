//! The journal: what the actors have decided and not yet committed.

use std::sync::Arc;

use actix::Recipient;
use tokio::sync::oneshot;

use super::engine::{Forget, IsRevoked, Revoke};
use super::executor::{self, Invocation};
use super::retention_guard::RetentionGuard;
use super::shared::Shared;
use super::supervision::Child;
use crate::canvas::id::Id;
use crate::canvas::machine::Record;
use crate::canvas::outcome::Outcome;
use crate::error::Result;
use crate::failpoint::{self, Point};
use crate::messages::engine::{KeyIsDurable, Stored, Sweep, Wanted};
use crate::messages::supervisor::RestartChild;
use crate::persistence::Batch;
use crate::persistence::commit_builder::CommitBuilder;

/// What waits for the disk and is the engine's to do.
#[derive(Debug)]
pub(crate) enum PostCommit {
    /// Tell the engine that the store knows what an idempotency key stands for.
    KeyIsDurable(KeyIsDurable),
    /// Tell a task what became of a canvas that it called.
    Answer(oneshot::Sender<Outcome>, Outcome),
    /// Start a child that reads its input from the store.
    Start(Box<Child>),
    /// Start a lost child again.
    Restart(Recipient<RestartChild>, RestartChild),
    /// Tell the engine that the store shows where a workflow waits, or that it does no more.
    Stored(Stored),
    /// Ask the engine again to have a workflow begin.
    Wanted(Wanted),
    /// Have the engine look for what it may sweep.
    Sweep(Sweep),
    /// Ask the engine again to forget a workflow.
    Forget(Forget),
    /// Ask the engine again to revoke something.
    Revoke(Revoke),
    /// Tell the engine that it is on record.
    IsRevoked(IsRevoked),
    /// Tell a caller that what it asked for is done.
    Done(oneshot::Sender<Result<()>>),
    /// Delete what is left of a workflow whose head is gone.
    Purge(Id),
}

/// One batch in the making, and what follows it.
#[derive(Debug, Default)]
pub(crate) struct Journal {
    draft: CommitBuilder,
    orders: Vec<Invocation>,
    acknowledged: Vec<(oneshot::Sender<RetentionGuard>, RetentionGuard)>,
    acts: Vec<PostCommit>,
    /// Rises with everything that is added: whoever fills the batch sees when it is quiet.
    pub(crate) added: u64,
}

/// A batch taken out of the journal.
#[derive(Debug)]
pub(crate) struct SealedCommit {
    pub(crate) batch: Batch,
    pub(crate) news: CommitNotice,
    pub(crate) acts: Vec<PostCommit>,
}

/// What other threads wait for.
#[derive(Debug)]
pub(crate) struct CommitNotice {
    commit: u64,
    /// Workflows whose watchers are to look.
    touched: Vec<Id>,
    /// Functions that are to be called.
    orders: Vec<Invocation>,
    /// Callers whose submissions are durable.
    acknowledged: Vec<(oneshot::Sender<RetentionGuard>, RetentionGuard)>,
}

impl CommitNotice {
    /// The commit is durable.
    pub(crate) fn publish(self, shared: &Arc<Shared>) {
        shared.publish_commit(self.commit, &self.touched);
        failpoint::reach(Point::Shown);
        if !self.orders.is_empty() {
            executor::submit(shared, self.orders);
        }
        for (caller, pin) in self.acknowledged {
            // Who no longer waits for its submission loses nothing.
            drop(caller.send(pin));
            failpoint::reach(Point::Acknowledged);
        }
    }
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

    pub(crate) fn then(&mut self, act: PostCommit) {
        self.added += 1;
        self.acts.push(act);
    }

    pub(crate) fn run(&mut self, order: Invocation) {
        self.added += 1;
        self.orders.push(order);
    }

    pub(crate) fn acknowledge(
        &mut self,
        caller: oneshot::Sender<RetentionGuard>,
        pin: RetentionGuard,
    ) {
        self.added += 1;
        self.acknowledged.push((caller, pin));
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.draft.is_empty()
            && self.orders.is_empty()
            && self.acknowledged.is_empty()
            && self.acts.is_empty()
    }

    /// Takes all there is, as commit number `commit`.
    pub(crate) fn take(&mut self, commit: u64) -> SealedCommit {
        let (batch, touched) = self.draft.take(commit);
        SealedCommit {
            batch,
            news: CommitNotice {
                commit,
                touched,
                // The next batch will most likely be as large.
                orders: {
                    let next = Vec::with_capacity(self.orders.len());
                    std::mem::replace(&mut self.orders, next)
                },
                acknowledged: std::mem::take(&mut self.acknowledged),
            },
            acts: std::mem::take(&mut self.acts),
        }
    }
}
