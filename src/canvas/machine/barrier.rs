//! The barrier: collects which members of a group have arrived, as a set and never as a count.

use super::{ChildProgress, Index, IndexSet, PendingCallback, Record, Report, Verdict};
use crate::canvas::outcome::Outcome;

/// Invariant: `verdict` is set by the arrival that completes `arrived`, in the same commands.
#[derive(Debug)]
pub(crate) struct Barrier {
    /// A set, because a member may arrive twice.
    arrived: IndexSet,
    /// The failed member with the lowest index so far, which the verdict names.
    broken: Option<Verdict>,
    /// Whether failures count as values. The verdict is then always `Released`.
    settled: bool,
    verdict: Option<Verdict>,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Command {
    Record(Record),
    /// Record these callbacks and run them.
    Launch(Vec<PendingCallback>),
    /// Notify the supervisor of the verdict, perhaps not for the first time.
    Notify(Verdict),
}

impl Barrier {
    /// Creates a barrier for `size` members.
    pub(crate) fn new(size: u64, settled: bool) -> Self {
        Self {
            arrived: IndexSet::new(size),
            broken: None,
            settled,
            verdict: None,
        }
    }

    /// Applies a record of the barrier's stream after a restart.
    pub(crate) fn replay(&mut self, record: &Record) {
        match record {
            Record::Child {
                index,
                change: ChildProgress::Done(outcome),
            } => {
                self.note(*index, outcome);
            }
            Record::Verdict(verdict) => self.verdict = Some(verdict.clone()),
            _ => {}
        }
    }

    /// Applies the record that member `index` succeeded, as [`replay`](Self::replay) does.
    pub(crate) fn restore_arrival(&mut self, index: Index) {
        self.arrived.insert(index);
    }

    /// Starts the barrier, or resumes it after the replay. The supervisor is notified of a recorded
    /// verdict again; a barrier for no members releases at once.
    pub(crate) fn start(&mut self) -> Vec<Command> {
        match &self.verdict {
            Some(verdict) => vec![Command::Notify(verdict.clone())],
            None => self.decide(),
        }
    }

    /// Handles the end of member `index`.
    pub(crate) fn arrive(&mut self, index: Index, report: Report) -> Vec<Command> {
        if self.verdict.is_some() || !self.note(index, &report.outcome) {
            return Vec::new();
        }
        let mut commands = vec![Command::Record(Record::Child {
            index,
            change: ChildProgress::Done(report.outcome),
        })];
        if !report.due.is_empty() {
            commands.push(Command::Launch(report.due));
        }
        commands.extend(self.decide());
        commands
    }

    /// Returns the members that have arrived.
    pub(crate) fn arrived(&self) -> &IndexSet {
        &self.arrived
    }

    /// Notes an arrival; returns whether it is the first one of `index`.
    fn note(&mut self, index: Index, outcome: &Outcome) -> bool {
        let first = self.arrived.insert(index);
        if let Some(failure) = outcome.failure()
            && first
            && !self.settled
            && !matches!(self.broken, Some(Verdict::Broken { index: lowest, .. }) if lowest < index)
        {
            self.broken = Some(Verdict::Broken {
                index,
                failure: Box::new(failure.clone()),
            });
        }
        first
    }

    fn decide(&mut self) -> Vec<Command> {
        if !self.arrived.is_full() {
            return Vec::new();
        }
        let verdict = self.broken.take().unwrap_or(Verdict::Released);
        self.verdict = Some(verdict.clone());
        vec![
            Command::Record(Record::Verdict(verdict.clone())),
            Command::Notify(verdict),
        ]
    }
}
