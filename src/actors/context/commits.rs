//! Commits: collects the decisions of the actors, writes them batch by batch, and performs the
//! actions that wait for that.

use std::cell::{Cell, RefCell};

use tokio::sync::oneshot;

use super::EngineContext;
use crate::actors::child::Child;
use crate::actors::commit::committer::Committer;
use crate::actors::commit::journal::{CommitNotice, Journal, PostCommit};
use crate::actors::engine::sweeper;
use crate::actors::execute::executor::Invocation;
use crate::backend::retention_guard::RetentionGuard;
use crate::canvas::id::Id;
use crate::error::Error;
use crate::messages::engine::EngineMessage;
use crate::persistence::{Batch, StoreError};
use crate::testing::failpoint::{self, Point};

/// A batch is committed when it holds this many changes, even if more keep coming.
const BATCH_LIMIT: u64 = 4_096;

/// The batch being filled, and how far the commits have come.
#[derive(Debug)]
pub(super) struct Commits {
    journal: RefCell<Journal<Box<Child>>>,
    /// A batch is being filled or committed.
    busy: Cell<bool>,
    /// The number of the last sealed batch; it rises over all openings of the store.
    last: Cell<u64>,
    /// Set when a commit has failed or the engine has stopped: nothing is written any more.
    halted: Cell<bool>,
    committer: Committer,
}

impl Commits {
    pub(super) fn new(committer: Committer, last: u64) -> Self {
        Self {
            journal: RefCell::default(),
            busy: Cell::new(false),
            last: Cell::new(last),
            halted: Cell::new(false),
            committer,
        }
    }
}

impl EngineContext {
    /// Returns whether everything decided so far has been committed and acted on.
    pub(crate) fn is_quiet(&self) -> bool {
        !self.0.commits.busy.get()
    }

    pub(crate) fn put(&self, key: Vec<u8>, value: Vec<u8>) {
        self.add(|journal| journal.put(key, value));
    }

    pub(crate) fn delete(&self, key: Vec<u8>) {
        self.add(|journal| journal.delete(key));
    }

    /// Notifies the waiters of workflow `root` once this batch is durable.
    pub(crate) fn touch(&self, root: Id) {
        self.add(|journal| journal.touch(root));
    }

    /// Calls a task's function once all that was recorded before it is durable.
    pub(crate) fn run(&self, invocation: Invocation) {
        self.add(|journal| journal.run(invocation));
    }

    /// Notifies the caller once its submission is durable.
    pub(crate) fn acknowledge(
        &self,
        caller: oneshot::Sender<RetentionGuard>,
        guard: RetentionGuard,
    ) {
        self.add(|journal| journal.acknowledge(caller, guard));
    }

    /// Performs this action once all that was recorded before it is durable.
    pub(crate) fn then(&self, action: PostCommit<Box<Child>>) {
        self.add(|journal| journal.then(action));
    }

    /// Notifies the engine once all that was recorded before is durable.
    pub(crate) fn notify(&self, message: EngineMessage) {
        self.then(PostCommit::Notify(message));
    }

    /// Stops the engine: every waiter gets the reason, and nothing is written any more, whatever
    /// the actors that are being dropped still record.
    pub(crate) fn close(&self, why: Error) {
        if !self.0.commits.halted.replace(true) {
            self.view().end(why);
            actix::System::current().stop();
        }
    }

    /// Returns whether the engine has stopped: an actor that stops now is not lost.
    pub(crate) fn is_closed(&self) -> bool {
        self.0.commits.halted.get()
    }

    /// Halts the engine, because the store or the engine can no longer be trusted. The host process
    /// lives on; opening the store again recovers.
    pub(crate) fn halt(&self, why: Error) {
        if !self.is_closed() {
            tracing::error!(%why, "the engine halts");
        }
        self.close(why);
    }

    pub(super) fn add(&self, add: impl FnOnce(&mut Journal<Box<Child>>)) {
        if self.0.commits.halted.get() {
            return;
        }
        add(&mut self.0.commits.journal.borrow_mut());
        if !self.0.commits.busy.replace(true) {
            let engine = self.clone();
            actix::spawn(async move { engine.commit_all().await });
        }
    }

    /// Returns the number that the batch being filled will have.
    pub(crate) fn next_commit(&self) -> u64 {
        self.0.commits.last.get() + 1
    }

    /// Commits until the journal is empty: at most one batch is being written while the next is
    /// filled.
    pub(super) async fn commit_all(self) {
        loop {
            self.coalesce().await;
            let sealed = {
                let mut journal = self.0.commits.journal.borrow_mut();
                if journal.is_empty() {
                    drop(journal);
                    // What waits for a limit records nothing, and leaves the queue short.
                    let dispatcher = &self.0.tasks.dispatcher;
                    let is_short = dispatcher.borrow().has_delayed_beside_limits();
                    if is_short && self.start_paced_workflows() {
                        continue;
                    }
                    self.0.commits.busy.set(false);
                    return;
                }
                self.count_pending(&mut journal);
                self.note_additions(&mut journal);
                self.store_starts(&mut journal);
                self.store_circuits(&mut journal);
                self.store_updates(&mut journal);
                self.0.commits.last.set(self.next_commit());
                journal.take(self.0.commits.last.get())
            };
            failpoint::reach(Point::Decided);
            if sealed.batch.is_empty() {
                sealed.notice.publish(self.handle(), &self.0.executor);
            } else if let Err(error) = self.commit(sealed.batch, sealed.notice).await {
                self.halt(error);
                return;
            }
            if self.0.commits.halted.get() {
                return;
            }
            for action in sealed.actions {
                self.perform(action);
                failpoint::reach(Point::Acted);
            }
            self.start_paced_workflows();
        }
    }

    /// Starts the paced workflows that may start now. Returns whether there were some; then further
    /// ones may start when the actors have handled these. If a pacer still delays a workflow after
    /// that, tasks wait before it: the end of a running one is committed, or returns its slot
    /// unused.
    fn start_paced_workflows(&self) -> bool {
        let starting = self.0.tasks.dispatcher.borrow_mut().admit_ready();
        let are_some = !starting.is_empty();
        for root in starting {
            root.start(self);
        }
        are_some
    }

    /// Has the paced workflows that may start now started, though nothing may be committed.
    pub(super) fn pace(&self) {
        self.add(|_| ());
    }

    /// Yields to the actors until none of them adds anything more, so that what follows from one
    /// event (a step's end, the next step's start) shares a batch. Only the number of commits
    /// depends on it.
    pub(super) async fn coalesce(&self) {
        let start = self.0.commits.journal.borrow().added;
        let mut last = start;
        let mut quiet = 0;
        while quiet < 3 {
            tokio::task::yield_now().await;
            let added = self.0.commits.journal.borrow().added;
            if added - start > BATCH_LIMIT {
                return;
            }
            quiet = if added == last { quiet + 1 } else { 0 };
            last = added;
        }
    }

    pub(super) async fn commit(&self, batch: Batch, notice: CommitNotice) -> Result<(), Error> {
        let (handle, executor) = (self.handle().clone(), self.0.executor.clone());
        let on_committed = move |done: &Result<(), StoreError>| match done {
            Ok(()) => notice.publish(&handle, &executor),
            // Set before the callers see that their senders are dropped, because they read the
            // reason then.
            Err(error) => handle.view.end(error.clone().into()),
        };
        let done = self.0.commits.committer.commit(batch, on_committed).await;
        done.ok_or_else(|| Error::Halted("the store was lost".to_owned()))?
            .map_err(Error::from)
    }

    pub(super) fn perform(&self, action: PostCommit<Box<Child>>) {
        match action {
            // The attempt may have stopped waiting.
            PostCommit::Answer(caller, outcome) => drop(caller.send(outcome)),
            PostCommit::Start(child) => child.start_now(self),
            PostCommit::Restart(supervisor, message) => supervisor.do_send(message),
            PostCommit::Notify(message) => self.engine().messages.do_send(message),
            PostCommit::Done(caller) => drop(caller.send(Ok(()))),
            PostCommit::Changed(caller, submitted) => drop(caller.send(Ok(submitted))),
            PostCommit::Purge(root) => {
                let store = self.0.commits.committer.store.clone();
                let purge = sweeper::purge(self.view().clone(), store, root);
                self.handle().runtime.spawn(purge);
            }
        }
    }
}
