//! The workflow: its root's outcome, and the callbacks that still run.

use std::collections::HashMap;

use super::group::MAX_RESTARTS;
use super::{ChildProgress, Index, PendingCallback, Record, Report};
use crate::canvas::id::Seq;
use crate::canvas::outcome::Outcome;

/// The index of the root among a workflow's children; callbacks have their own number as index.
pub(crate) const ROOT: Index = 0;

/// Invariant: the workflow has ended when its root has and no callback is open.
#[derive(Debug, Default)]
pub(crate) struct Workflow {
    root_ended: bool,
    /// Nobody wants its result.
    forgotten: bool,
    /// Every callback that is known, and whether it has ended: a second word is not heard.
    callbacks: HashMap<Seq, bool>,
    open: usize,
    restarts: HashMap<Index, u32>,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Command {
    Record(Record),
    /// Record these and run them.
    Launch(Vec<PendingCallback>),
    /// Store the workflow's result; callbacks may still run.
    Result(Outcome),
    Spawn(PendingCallback),
    /// Start this child's lost actor again, once all it recorded is durable.
    Restart(Index),
    /// Its actor dies each time.
    Abandon(Index),
    /// Nothing of it is left to do; `forgotten`: nor to keep.
    End {
        forgotten: bool,
    },
}

impl Workflow {
    /// The workflow as its stream left it, and the callbacks that are to be run again.
    pub(crate) fn recover<'a>(
        root_ended: bool,
        records: impl IntoIterator<Item = &'a Record>,
    ) -> (Self, Vec<Seq>) {
        let mut workflow = Self {
            root_ended,
            ..Self::default()
        };
        for record in records {
            match record {
                Record::Due { seq, .. } => {
                    workflow.callbacks.insert(*seq, false);
                }
                Record::Child {
                    index,
                    change: ChildProgress::Done(_),
                } if *index != ROOT => {
                    workflow.callbacks.insert(*index, true);
                }
                Record::Forgotten => workflow.forgotten = true,
                _ => {}
            }
        }
        let mut again: Vec<_> = workflow
            .callbacks
            .iter()
            .filter_map(|(seq, ended)| (!ended).then_some(*seq))
            .collect();
        again.sort_unstable();
        workflow.open = again.len();
        (workflow, again)
    }

    /// Says whether it has any callback that was called for.
    pub(crate) fn has_callbacks(&self) -> bool {
        !self.callbacks.is_empty()
    }

    /// The callbacks that have not ended.
    pub(crate) fn open_callbacks(&self) -> Vec<Seq> {
        let open = self.callbacks.iter().filter(|(_, ended)| !**ended);
        open.map(|(seq, _)| *seq).collect()
    }

    /// The root has ended.
    pub(crate) fn root_ended(&mut self, report: Report) -> Vec<Command> {
        if std::mem::replace(&mut self.root_ended, true) {
            return Vec::new();
        }
        let mut commands = vec![Command::Result(report.outcome)];
        if report.due.is_empty() {
            commands.extend(self.end());
        } else {
            commands.push(Command::Launch(report.due));
        }
        commands
    }

    /// A callback is on record and is to run.
    pub(crate) fn launch(&mut self, due: PendingCallback) -> Vec<Command> {
        if self.callbacks.contains_key(&due.node.seq) {
            return Vec::new();
        }
        self.callbacks.insert(due.node.seq, false);
        self.open += 1;
        vec![Command::Spawn(due)]
    }

    /// Callback `seq` has ended.
    pub(crate) fn callback_ended(&mut self, seq: Seq, report: Report) -> Vec<Command> {
        match self.callbacks.get_mut(&seq) {
            Some(ended @ false) => *ended = true,
            _ => return Vec::new(),
        }
        self.open -= 1;
        let mut commands = vec![Command::Record(Record::Child {
            index: seq,
            change: ChildProgress::Done(report.outcome),
        })];
        if report.due.is_empty() {
            commands.extend(self.end());
        } else {
            commands.push(Command::Launch(report.due));
        }
        commands
    }

    /// The actor of child `index` is gone; `lost`: before it had reported.
    pub(crate) fn stopped(&mut self, index: Index, lost: bool) -> Vec<Command> {
        let ended = match index {
            ROOT => self.root_ended,
            seq => self.callbacks.get(&seq) != Some(&false),
        };
        if !lost || ended {
            return Vec::new();
        }
        let restarts = self.restarts.entry(index).or_default();
        *restarts += 1;
        if *restarts <= MAX_RESTARTS {
            vec![Command::Restart(index)]
        } else {
            vec![Command::Abandon(index)]
        }
    }

    /// Nobody wants its result: it is deleted as soon as the workflow has ended.
    pub(crate) fn forget(&mut self) -> Vec<Command> {
        if std::mem::replace(&mut self.forgotten, true) {
            return Vec::new();
        }
        vec![Command::Record(Record::Forgotten)]
    }

    fn end(&self) -> Option<Command> {
        (self.root_ended && self.open == 0).then_some(Command::End {
            forgotten: self.forgotten,
        })
    }
}
