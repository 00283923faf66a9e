//! The barrier: collects which members of a group have arrived, as a set and never as a count.

use super::{ChildProgress, Decision, Index, IndexSet, PendingCallback, Record, Report, Verdict};
use crate::canvas::group_policy::GroupPolicy;
use crate::canvas::outcome::Outcome;

/// Invariant: `verdict` is set by the arrival that decides, in the same commands.
#[derive(Debug)]
pub(crate) struct Barrier {
    /// A set, because a member may arrive twice.
    arrived: IndexSet,
    /// How many of these have failed.
    failed: u64,
    /// The failed member with the lowest index so far, which the verdict names.
    broken: Option<Verdict>,
    policy: GroupPolicy,
    verdict: Option<Verdict>,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Command {
    Record(Record),
    /// Record these callbacks and run them.
    Launch(Vec<PendingCallback>),
    /// The verdict came early: revoke the members that have not arrived.
    RevokeRest,
    /// Notify the supervisor of the verdict, perhaps not for the first time.
    Notify(Decision),
}

impl Barrier {
    /// Creates a barrier for `size` members, [no fewer](GroupPolicy::check_size) than the policy
    /// needs.
    pub(crate) fn new(size: u64, policy: GroupPolicy) -> Self {
        Self {
            arrived: IndexSet::new(size),
            failed: 0,
            broken: None,
            policy,
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
        match self.verdict.clone() {
            Some(verdict) => self.tell(verdict),
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

    /// Returns the members that are not to start: those that have arrived, and all once there is a
    /// verdict.
    pub(crate) fn taken(&self) -> IndexSet {
        match self.verdict {
            Some(_) => IndexSet::full(self.arrived.size),
            None => self.arrived.clone(),
        }
    }

    /// Notes an arrival; returns whether it is the first one of `index`.
    fn note(&mut self, index: Index, outcome: &Outcome) -> bool {
        let first = self.arrived.insert(index);
        if let Some(failure) = outcome.failure()
            && first
        {
            self.failed += 1;
            let is_lowest = !matches!(self.broken, Some(Verdict::Broken { index: lowest, .. }) if lowest < index);
            if is_lowest && !self.policy.is_settled() {
                self.broken = Some(Verdict::Broken {
                    index,
                    failure: Box::new(failure.clone()),
                });
            }
        }
        first
    }

    fn decide(&mut self) -> Vec<Command> {
        let Some(verdict) = self.decision() else {
            return Vec::new();
        };
        self.verdict = Some(verdict.clone());
        let mut commands = vec![Command::Record(Record::Verdict(verdict.clone()))];
        commands.extend(self.tell(verdict));
        commands
    }

    /// Returns the verdict as soon as no arrival can change it.
    fn decision(&mut self) -> Option<Verdict> {
        let IndexSet { size, len, .. } = self.arrived;
        let succeeded = len - self.failed;
        let has_failed = match self.policy {
            GroupPolicy::FailFast if self.failed > 0 => true,
            GroupPolicy::First(k) if succeeded >= k => false,
            GroupPolicy::First(k) if size - self.failed < k => true,
            _ if !self.arrived.is_full() => return None,
            GroupPolicy::AtLeast(k) => succeeded < k,
            _ => self.broken.is_some(),
        };
        let broken = self.broken.take().filter(|_| has_failed);
        Some(broken.unwrap_or(Verdict::Released))
    }

    fn tell(&self, verdict: Verdict) -> Vec<Command> {
        match self.arrived.is_full() {
            true => vec![Command::Notify(Decision::Complete(verdict))],
            false => vec![
                Command::RevokeRest,
                Command::Notify(Decision::Early(verdict)),
            ],
        }
    }
}
