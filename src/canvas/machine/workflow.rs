//! The workflow: its root's outcome, and the callbacks that still run.

use std::collections::HashMap;

use super::group::MAX_RESTARTS;
use super::{ChildProgress, Index, PendingCallback, Record, Report};
use crate::canvas::id::Seq;
use crate::canvas::outcome::Outcome;

/// The index of the root among a workflow's children. A callback's index is its sequence number.
pub(crate) const ROOT: Index = 0;

/// Invariant: the workflow has ended when its root has ended and no callback is open.
#[derive(Debug, Default)]
pub(crate) struct Workflow {
    root_ended: bool,
    /// The result is to be deleted when the workflow ends.
    forgotten: bool,
    /// Every recorded callback, and whether it has ended. A second report is ignored.
    callbacks: HashMap<Seq, bool>,
    open: usize,
    restarts: HashMap<Index, u32>,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Command {
    Record(Record),
    /// Record these callbacks and run them.
    Launch(Vec<PendingCallback>),
    /// Store the workflow's result. Callbacks may still run.
    Result(Outcome),
    Spawn(PendingCallback),
    /// Restart the lost actor of this child, once everything it recorded is durable.
    Restart(Index),
    /// Give this child up: its actor has died too often.
    Abandon(Index),
    /// End the workflow; `forgotten`: also delete its result.
    End {
        forgotten: bool,
    },
}

impl Workflow {
    /// Restores the workflow from its stream; also returns the callbacks to run again.
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
        let mut to_restart: Vec<_> = workflow
            .callbacks
            .iter()
            .filter_map(|(seq, ended)| (!ended).then_some(*seq))
            .collect();
        to_restart.sort_unstable();
        workflow.open = to_restart.len();
        (workflow, to_restart)
    }

    /// Returns whether any callback was launched.
    pub(crate) fn has_callbacks(&self) -> bool {
        !self.callbacks.is_empty()
    }

    /// Returns the callbacks that have not ended.
    pub(crate) fn open_callbacks(&self) -> Vec<Seq> {
        let open = self.callbacks.iter().filter(|(_, ended)| !**ended);
        open.map(|(seq, _)| *seq).collect()
    }

    /// Handles the end of the root.
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

    /// Runs a recorded callback.
    pub(crate) fn launch(&mut self, callback: PendingCallback) -> Vec<Command> {
        if self.callbacks.contains_key(&callback.node.seq) {
            return Vec::new();
        }
        self.callbacks.insert(callback.node.seq, false);
        self.open += 1;
        vec![Command::Spawn(callback)]
    }

    /// Handles the end of callback `seq`.
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

    /// Handles the exit of the actor of child `index`. `lost`: the actor exited before it reported.
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

    /// Marks the result as unwanted: it is deleted as soon as the workflow has ended.
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
