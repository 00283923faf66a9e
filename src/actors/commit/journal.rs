//! The journal: the decisions of the actors that are not committed yet.

use std::sync::Arc;

use actix::Recipient;
use tokio::sync::oneshot;

use crate::actors::execute::executor::{Executor, Invocation};
use crate::actors::handle::EngineHandle;
use crate::backend::retention_guard::RetentionGuard;
use crate::canvas::id::Id;
use crate::canvas::machine::Record;
use crate::canvas::outcome::Outcome;
use crate::error::Result;
use crate::messages::engine::EngineMessage;
use crate::messages::supervisor::RestartChild;
use crate::persistence::Batch;
use crate::persistence::records::commit_builder::CommitBuilder;
use crate::testing::failpoint::{self, Point};

/// An action that the engine performs after a commit. A child that is to start has type `C`.
#[derive(Debug)]
pub(crate) enum PostCommit<C> {
    /// Notify the engine, or repeat a request to it.
    Notify(EngineMessage),
    /// Send a caller the outcome of the canvas that it called.
    Answer(oneshot::Sender<Outcome>, Outcome),
    /// Start a child that reads its input from the store.
    Start(C),
    /// Restart a lost child.
    Restart(Recipient<RestartChild>, RestartChild),
    /// Notify a caller that its request is done.
    Done(oneshot::Sender<Result<()>>),
    /// Notify a caller that an entry of the schedules is changed, and of the workflow that this
    /// submitted.
    Changed(oneshot::Sender<Result<Option<Id>>>, Option<Id>),
    /// Delete the remaining records of a workflow whose header is deleted.
    Purge(Id),
}

/// The batch being filled, and the actions that follow its commit.
#[derive(Debug)]
pub(crate) struct Journal<C> {
    builder: CommitBuilder,
    invocations: Vec<Invocation>,
    acknowledged: Vec<(oneshot::Sender<RetentionGuard>, RetentionGuard)>,
    actions: Vec<PostCommit<C>>,
    /// Rises with every addition, which shows the engine when no more come.
    pub(crate) added: u64,
}

/// A batch that was taken out of the journal.
#[derive(Debug)]
pub(crate) struct SealedCommit<C> {
    pub(crate) batch: Batch,
    pub(crate) notice: CommitNotice,
    pub(crate) actions: Vec<PostCommit<C>>,
}

/// The part of a commit that other threads wait for.
#[derive(Debug)]
pub(crate) struct CommitNotice {
    commit: u64,
    /// Workflows whose watchers are notified.
    touched: Vec<Id>,
    /// Functions to call.
    invocations: Vec<Invocation>,
    /// Callers whose submissions are durable.
    acknowledged: Vec<(oneshot::Sender<RetentionGuard>, RetentionGuard)>,
}

impl CommitNotice {
    /// Publishes the commit, which is durable: wakes watchers, calls functions, and answers
    /// callers.
    pub(crate) fn publish(self, engine: &Arc<EngineHandle>, executor: &Arc<Executor>) {
        engine.view.publish_commit(self.commit, &self.touched);
        failpoint::reach(Point::Shown);
        if !self.invocations.is_empty() {
            executor.submit(engine, self.invocations);
        }
        for (caller, guard) in self.acknowledged {
            // The caller may have stopped waiting.
            drop(caller.send(guard));
            failpoint::reach(Point::Acknowledged);
        }
    }
}

impl<C> Default for Journal<C> {
    fn default() -> Self {
        Self {
            builder: CommitBuilder::default(),
            invocations: Vec::new(),
            acknowledged: Vec::new(),
            actions: Vec::new(),
            added: 0,
        }
    }
}

impl<C> Journal<C> {
    pub(crate) fn record(&mut self, stream: Id, record: Record) {
        self.added += 1;
        self.builder.record(stream, record);
    }

    pub(crate) fn put(&mut self, key: Vec<u8>, value: Vec<u8>) {
        self.added += 1;
        self.builder.put(key, value);
    }

    pub(crate) fn delete(&mut self, key: Vec<u8>) {
        self.added += 1;
        self.builder.delete(key);
    }

    pub(crate) fn touch(&mut self, root: Id) {
        self.builder.touch(root);
    }

    pub(crate) fn then(&mut self, action: PostCommit<C>) {
        self.added += 1;
        self.actions.push(action);
    }

    pub(crate) fn run(&mut self, invocation: Invocation) {
        self.added += 1;
        self.invocations.push(invocation);
    }

    pub(crate) fn acknowledge(
        &mut self,
        caller: oneshot::Sender<RetentionGuard>,
        guard: RetentionGuard,
    ) {
        self.added += 1;
        self.acknowledged.push((caller, guard));
    }

    /// Returns whether the batch changes the store.
    pub(crate) fn is_written(&self) -> bool {
        !self.builder.is_empty()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.builder.is_empty()
            && self.invocations.is_empty()
            && self.acknowledged.is_empty()
            && self.actions.is_empty()
    }

    /// Takes everything as commit number `commit`.
    pub(crate) fn take(&mut self, commit: u64) -> SealedCommit<C> {
        let (batch, touched) = self.builder.take(commit);
        SealedCommit {
            batch,
            notice: CommitNotice {
                commit,
                touched,
                // The next batch will most likely be as large.
                invocations: {
                    let next = Vec::with_capacity(self.invocations.len());
                    std::mem::replace(&mut self.invocations, next)
                },
                acknowledged: std::mem::take(&mut self.acknowledged),
            },
            actions: std::mem::take(&mut self.actions),
        }
    }
}
