//! One workflow that runs in its caller's thread.

use std::collections::VecDeque;
use std::sync::Arc;

use futures_util::future::BoxFuture;
use parking_lot::Mutex;

use super::store::EagerStore;
use crate::canvas::freeze::Node;
use crate::canvas::id::{Id, Seq};
use crate::canvas::machine::child_spec::ChildSpec;
use crate::canvas::machine::workflow::{Command, Workflow};
use crate::canvas::machine::{PendingCallback, Record, Report};
use crate::canvas::outcome::{FailureKind, Outcome, TaskFailure};
use crate::error::Result;
use crate::persistence::StoreError;
use crate::persistence::records::codec::{self, Kind};
use crate::persistence::records::commit_builder::{self, CommitBuilder};
use crate::persistence::records::definition::WorkflowHeader;
use crate::persistence::records::keys;
use crate::persistence::records::reader::{Ended, Reader};

/// Runs a node to its end and returns its report.
pub(super) type RunToEnd = fn(Arc<Run>, ChildSpec) -> BoxFuture<'static, Result<Report>>;

#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) store: Arc<EagerStore>,
    pub(crate) root: Id,
    /// The name of the root, for a failure of the workflow itself.
    name: String,
    head: WorkflowHeader,
    /// Runs a child to its end: a called subtask has frames of its own, which use the run.
    run_to_end: RunToEnd,
    /// Locked, because a called subtask may run in another thread than its task.
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    machine: Workflow,
    /// Callbacks that are to run, in the order in which they became due.
    due: VecDeque<PendingCallback>,
    /// The first node number that is free.
    next: Seq,
    /// When the root ended, in milliseconds on the steady scale.
    ended_ms: u64,
}

impl Run {
    pub(super) fn new(
        store: Arc<EagerStore>,
        root: Id,
        node: &Node,
        head: WorkflowHeader,
        run_to_end: RunToEnd,
    ) -> Self {
        Self {
            store,
            root,
            name: node.name().to_owned(),
            state: Mutex::new(State {
                machine: Workflow::default(),
                due: VecDeque::new(),
                next: head.next,
                ended_ms: 0,
            }),
            head,
            run_to_end,
        }
    }

    /// Runs a node to its end and returns its report.
    pub(super) fn run_to_end(
        self: &Arc<Self>,
        spec: ChildSpec,
    ) -> BoxFuture<'static, Result<Report>> {
        (self.run_to_end)(self.clone(), spec)
    }

    pub(crate) fn reader(&self) -> &Reader {
        self.store.reader()
    }

    /// Fails after the end of the app: nothing is started any more, and no end is recorded.
    pub(crate) fn check_open(&self) -> Result<()> {
        self.store.view.check_open()
    }

    pub(crate) fn commit(&self, commit: CommitBuilder) -> Result<(), StoreError> {
        self.store.commit(commit)
    }

    /// Returns the first of `count` new node numbers.
    pub(crate) fn number(&self, count: u64, commit: &mut CommitBuilder) -> Seq {
        let mut state = self.state.lock();
        let first = state.next;
        state.next += count;
        let next = codec::encode(Kind::Counter, &state.next);
        commit.put(keys::counter(self.root), next);
        first
    }

    /// Records that these callbacks are to run. They run when the root has ended.
    pub(crate) fn launch(&self, due: Vec<PendingCallback>, commit: &mut CommitBuilder) {
        let mut state = self.state.lock();
        self.perform(&mut state, vec![Command::Launch(due)], commit);
    }

    pub(crate) fn next_callback(&self) -> Option<PendingCallback> {
        self.state.lock().due.pop_front()
    }

    pub(crate) fn root_ended(&self, report: Report, commit: &mut CommitBuilder) {
        let mut state = self.state.lock();
        let commands = state.machine.root_ended(report);
        self.perform(&mut state, commands, commit);
    }

    pub(crate) fn callback_ended(&self, seq: Seq, report: Report, commit: &mut CommitBuilder) {
        let mut state = self.state.lock();
        let commands = state.machine.callback_ended(seq, report);
        self.perform(&mut state, commands, commit);
    }

    fn perform(&self, state: &mut State, commands: Vec<Command>, commit: &mut CommitBuilder) {
        for command in commands {
            match command {
                Command::Record(record) => commit.record(self.root.workflow_stream(), record),
                Command::Launch(all) => {
                    for due in all {
                        commit.record(
                            self.root.workflow_stream(),
                            commit_builder::callback_record(&due),
                        );
                        let commands = state.machine.launch(due);
                        self.perform(state, commands, commit);
                    }
                }
                Command::Result(outcome) => state.ended_ms = self.put_result(outcome, commit),
                Command::Spawn(due) => state.due.push_back(due),
                Command::End { .. } => self.put_to_rest(state.ended_ms, commit),
                Command::Restart(_) | Command::Abandon(_) => nothing_is_lost(),
            }
        }
    }

    /// Stores the result and returns when that was, in milliseconds on the steady scale.
    fn put_result(&self, outcome: Outcome, commit: &mut CommitBuilder) -> u64 {
        let at_ms = self.store.view.clock.steady_ms();
        let ended = Ended {
            outcome,
            at_ms,
            // An eager app has no commit to wait for.
            commit: 0,
        };
        let result = codec::encode(Kind::Result, &ended);
        commit.put(keys::result(self.root), result);
        commit.touch(self.root);
        at_ms
    }

    fn put_to_rest(&self, ended_ms: u64, commit: &mut CommitBuilder) {
        commit.delete(keys::header(self.root));
        if self.is_forgotten() {
            self.store.forgotten(self.root, &self.head, commit);
        } else {
            let head = codec::encode(Kind::Head, &self.head);
            commit.put(keys::ended(ended_ms, self.root), head);
        }
        commit.touch(self.root);
    }

    /// Says whether the workflow was forgotten by its id while it ran.
    fn is_forgotten(&self) -> bool {
        let mut records = self.reader().records(self.root.workflow_stream());
        records.any(|record| matches!(record, Ok(Record::Forgotten)))
    }

    /// Ends a workflow that is not run to its end: its waiters are told, and its idempotency key is
    /// free.
    pub(crate) fn abandon(&self) {
        let mut commit = CommitBuilder::default();
        let mut ended_ms = self.state.lock().ended_ms;
        if let Ok(None) = self.reader().ended(self.root) {
            let what = "its caller stopped running it before its end";
            let failure = TaskFailure::new(FailureKind::Engine, self.root, &self.name, 1, what);
            ended_ms = self.put_result(Outcome::Failure(failure), &mut commit);
            if let Some(key) = &self.head.idempotency_key {
                commit.delete(keys::idempotency(key));
            }
        }
        self.put_to_rest(ended_ms, &mut commit);
        if let Err(error) = self.commit(commit) {
            tracing::error!(root = %self.root, %error, "a workflow that was cut short has no end");
        }
    }
}

/// Machines ask for the restart of an actor only after an actor was lost.
pub(crate) fn nothing_is_lost() {
    unreachable!("there are no actors to lose")
}

/// Machines end as revoked only after a revocation.
pub(crate) fn nothing_is_revoked() {
    unreachable!("what runs in its caller ends with that")
}
