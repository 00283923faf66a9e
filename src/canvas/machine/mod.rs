//! One small state machine per actor kind: an event goes in, effects or commands come out.
//!
//! The machines are total: every event may come twice, late or never, and none of them can fail,
//! wait, or look at a clock. Each command names a record, a message or a child to start; the actor
//! that owns the machine carries it out. The records of a machine are enough to build it again after
//! a crash (`recover`), together with the commands whose effect may have been lost.

pub(crate) mod barrier;
pub(crate) mod chain;
pub(crate) mod child_spec;
pub(crate) mod chord;
pub(crate) mod effect;
pub(crate) mod fold;
pub(crate) mod fold_run;
pub(crate) mod group;
pub(crate) mod subtasks;
pub(crate) mod task;
#[cfg(test)]
mod tests;
pub(crate) mod workflow;

use serde::{Deserialize, Serialize};

use super::freeze::Node;
use super::id::{Id, Seq};
use super::outcome::{Outcome, TaskFailure, Value};
use super::time::{Moment, Scale};

/// The index of a child among those of its supervisor: a member of a group, a step of a chain.
pub(crate) type Index = u64;

/// The index of a chord's body, or a fold's function, among its supervisor's children.
pub(crate) const BODY: Index = Index::MAX;

/// One record in a supervisor's stream, about its children.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Record {
    /// The progress of child `index`.
    Child { index: Index, change: ChildProgress },
    /// The barrier's decision, stored once and never made again.
    Verdict(Verdict),
    /// The list upstream has `size` elements; member 0 is numbered `first`.
    Expanded { first: Seq, size: u64 },
    /// A callback or errback is to run: node `seq`, with this input.
    Due { seq: Seq, input: Value },
    /// A running task has started a subtask.
    Offspring {
        index: Index,
        purpose: Purpose,
        /// The key that the task has given it.
        key: String,
        /// `None`: the node is stored in a record of its own, as a member of the task.
        node: Option<Box<Node>>,
    },
    /// When a group was reached that is too large for all its members to start at once, or, among the
    /// workflow's own records, when the workflow was submitted; in milliseconds on the steady scale.
    /// Countdowns in it begin there.
    Reached { at_ms: u64 },
    /// The workflow's result is not wanted: it is deleted when the workflow has ended.
    Forgotten,
    /// The accumulator of a fold, and how many outcomes it holds.
    Folded { folded: u64, acc: Value },
    /// Child `index` of supervisor `stream` is revoked with everything below it; among the
    /// workflow's own records.
    Revoked { stream: Seq, index: Index },
    /// The task of this stream has submitted this workflow.
    Submitted { root: Id },
    /// This task has submitted the workflow; in the workflow's stream of that purpose.
    SubmittedBy { task: Id },
}

/// The progress of a child.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum ChildProgress {
    /// The child waits for the end of a delay, `at_ms` (milliseconds on the
    /// [steady scale](Scale::Steady)): its countdown, or the delay before its next attempt.
    Waiting { past: AttemptHistory, at_ms: u64 },
    /// An attempt is starting.
    Started(AttemptHistory),
    /// The child has ended.
    Done(Outcome),
    /// The child waits for a point in time, `at_ms` (milliseconds since the Unix epoch): its eta, or
    /// that of its next attempt.
    WaitingUntil { past: AttemptHistory, at_ms: u64 },
}

impl ChildProgress {
    /// Returns the progress of a child that waits for this moment.
    pub(crate) fn waiting(history: AttemptHistory, until: Moment) -> Self {
        let at_ms = until.ms;
        match until.scale {
            Scale::Steady => Self::Waiting {
                past: history,
                at_ms,
            },
            Scale::Wall => Self::WaitingUntil {
                past: history,
                at_ms,
            },
        }
    }

    /// Returns the moment that the child waits for, if it waits.
    pub(crate) fn awaited(&self) -> Option<(&AttemptHistory, Moment)> {
        match self {
            Self::Waiting {
                past: history,
                at_ms,
            } => Some((history, Moment::steady(*at_ms))),
            Self::WaitingUntil {
                past: history,
                at_ms,
            } => Some((history, Moment::wall(*at_ms))),
            Self::Started(_) | Self::Done(_) => None,
        }
    }
}

/// Says whether a child of a group, chord or fold is a member, which reports to the barrier.
pub(crate) fn is_member(index: Index) -> bool {
    index != BODY && !fold_run::is_run(index)
}

/// The state that a task carries from one attempt to the next.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct AttemptHistory {
    /// The latest attempt, counted from 1; 0 before the first.
    pub(crate) attempt: u32,
    /// How many retries were used up: failed attempts, but not those whose retry is free, nor those
    /// that a crash cut short.
    pub(crate) retries: u32,
    /// No attempt starts from then on, in milliseconds; on which scale, the task's options say.
    pub(crate) expires_ms: Option<u64>,
    /// The list of arguments that a retry gave in place of the first ones.
    pub(crate) args: Option<Value>,
}

impl AttemptHistory {
    /// Returns the history of a task whose first attempt starts, unless the task can expire.
    pub(crate) fn first() -> Self {
        Self {
            attempt: 1,
            ..Self::default()
        }
    }

    pub(crate) fn is_first(&self) -> bool {
        matches!(
            self,
            Self {
                attempt: 1,
                retries: 0,
                expires_ms: None,
                args: None,
            }
        )
    }
}

/// The purpose of a subtask.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Purpose {
    /// The task waits for its value.
    Call,
    /// The subtask is one more member of the task's group or chord.
    Addition,
    /// The subtask replaces the task.
    Replacement,
}

/// The decision of a barrier: when its last member has arrived, or before, if the group's policy says
/// so. Members that have not arrived by then are left out: they are revoked, and have no records of
/// their own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Verdict {
    /// All members have succeeded, or as many as the policy asks for.
    Released,
    /// A member has failed, or too many have; this one has the lowest index of them.
    Broken {
        index: Index,
        failure: Box<TaskFailure>,
    },
}

/// What a barrier tells its supervisor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Decision {
    /// All members have arrived.
    Complete(Verdict),
    /// Members that have not arrived are left out.
    Early(Verdict),
}

/// A callback that is to run because of an outcome.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PendingCallback {
    pub(crate) node: Node,
    pub(crate) input: Value,
}

/// The final report of a child to its supervisor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Report {
    pub(crate) outcome: Outcome,
    /// Callbacks that follow from the outcome. They are recorded in one batch with it.
    pub(crate) due: Vec<PendingCallback>,
}

impl From<Outcome> for Report {
    /// Returns the report of an outcome without callbacks.
    fn from(outcome: Outcome) -> Self {
        Self {
            outcome,
            due: Vec::new(),
        }
    }
}

impl Report {
    /// Returns the report of an outcome of `node`, with the callbacks that follow from it.
    pub(crate) fn of(node: &Node, outcome: Outcome) -> Self {
        let mut report = Self::from(outcome);
        report.add_callbacks(node, false);
        report
    }

    /// Adds the callbacks of `node`, which has the same outcome. `of_last`: the outcome is that of
    /// the last child of `node`, which may have the errbacks itself.
    pub(crate) fn add_callbacks(&mut self, node: &Node, of_last: bool) {
        let Some(callbacks) = &node.callbacks else {
            return;
        };
        let (nodes, input) = match &self.outcome {
            Outcome::Success(value) => (&callbacks.link, value.clone()),
            Outcome::Failure(_) if of_last && callbacks.last_has_them => return,
            Outcome::Failure(why) => (&callbacks.link_error, why.as_input()),
            // (celery/backends/base.py, `mark_as_revoked`.)
            Outcome::Revoked(_) => return,
        };
        self.call_for(nodes, &input);
    }

    /// Returns the report of a failure with these errbacks.
    pub(crate) fn calling_for(errbacks: &[Node], failure: Box<TaskFailure>) -> Self {
        let input = failure.as_input();
        let mut report = Self::from(Outcome::Failure(failure));
        report.call_for(errbacks, &input);
        report
    }

    /// Adds callbacks with this input.
    pub(crate) fn call_for(&mut self, nodes: &[Node], input: &Value) {
        self.due.extend(nodes.iter().map(|node| PendingCallback {
            node: node.clone(),
            input: input.clone(),
        }));
    }
}

/// A set of indices below a known size, one bit each: the members that have arrived.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct IndexSet {
    words: Vec<u64>,
    size: u64,
    len: u64,
}

impl IndexSet {
    pub(crate) fn new(size: u64) -> Self {
        let words = usize::try_from(size.div_ceil(64)).expect("a group fits the address space");
        Self {
            words: vec![0; words],
            size,
            len: 0,
        }
    }

    /// Adds `index` and returns whether it is new. An index out of range is never new.
    pub(crate) fn insert(&mut self, index: Index) -> bool {
        let new = index < self.size && !self.contains(index);
        if new {
            self.words[(index / 64) as usize] |= 1 << (index % 64);
            self.len += 1;
        }
        new
    }

    /// Returns the set of all indices below `size`.
    pub(crate) fn full(size: u64) -> Self {
        let mut all = Self::new(size);
        all.fill();
        all
    }

    /// Adds all indices.
    pub(crate) fn fill(&mut self) {
        self.words.fill(u64::MAX);
        if let (Some(last), 1..) = (self.words.last_mut(), self.size % 64) {
            *last = (1 << (self.size % 64)) - 1;
        }
        self.len = self.size;
    }

    /// Returns how many indices are not in the set.
    pub(crate) fn missing(&self) -> u64 {
        self.size - self.len
    }

    pub(crate) fn remove(&mut self, index: Index) {
        if self.contains(index) {
            self.words[(index / 64) as usize] &= !(1 << (index % 64));
            self.len -= 1;
        }
    }

    pub(crate) fn contains(&self, index: Index) -> bool {
        index < self.size && self.words[(index / 64) as usize] & (1 << (index % 64)) != 0
    }

    pub(crate) fn is_full(&self) -> bool {
        self.len == self.size
    }

    /// Returns the lowest index from `start` on that is in the set, or the number of all indices.
    pub(crate) fn next_present(&self, start: Index) -> Index {
        let mut index = start;
        while index < self.size {
            let present = self.words[(index / 64) as usize] >> (index % 64);
            if present != 0 {
                return (index + u64::from(present.trailing_zeros())).min(self.size);
            }
            index = (index / 64 + 1) * 64;
        }
        self.size
    }

    /// Returns the lowest index from `start` on that is not in the set.
    pub(crate) fn next_missing(&self, start: Index) -> Option<Index> {
        let mut index = start;
        while index < self.size {
            let free = !self.words[(index / 64) as usize] >> (index % 64);
            if free != 0 {
                let found = index + u64::from(free.trailing_zeros());
                return (found < self.size).then_some(found);
            }
            index = (index / 64 + 1) * 64;
        }
        None
    }
}
