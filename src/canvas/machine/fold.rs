//! The fold: takes its members' outcomes into an accumulator as they arrive, in runs of its function.

use std::collections::BTreeMap;

use super::effect::{ChildStart, Effect, Finish, Supervise};
use super::fold_run::{Run, is_run, run_index};
use super::group::{Group, MAX_RESTARTS};
use super::{BODY, ChildProgress, Decision, Index, IndexSet, Record, Report, Verdict};
use crate::canvas::Order;
use crate::canvas::freeze::Def;
use crate::canvas::outcome::{Outcome, Value};

/// One run takes in at most so many outcomes, ...
const MAX_ITEMS: usize = 1_024;
/// ... of about so many bytes, but always one.
const MAX_BYTES: u64 = 64 * 1_024;
/// How many windows members may start ahead of the outcomes that have been taken in.
const LEAD: u64 = 4;

/// Invariant: the accumulator holds the first `folded` outcomes, in the fold's order, each once:
/// both change in one record.
#[derive(Debug)]
pub(crate) struct Fold {
    intake: Intake,
    group: Group,
    window: u64,
    /// How many outcomes the current run takes in.
    run: Option<usize>,
    /// How often the actor of the current run was lost.
    restarts: u32,
    verdict: Option<Verdict>,
    /// The fold is revoked: no child starts any more.
    revoked: bool,
    /// Set when no member of a revoked fold is left.
    is_alone: bool,
    ended: bool,
}

/// The outcomes that have arrived, and how many of them the accumulator holds.
#[derive(Debug)]
pub(crate) struct Intake {
    order: Order,
    /// Failures are taken in like other outcomes.
    settled: bool,
    size: u64,
    /// The members whose outcomes have arrived: a set, because an outcome may arrive twice.
    arrived: IndexSet,
    folded: u64,
    acc: Value,
    /// Outcomes that wait to be taken in, by their position in the fold's order: the member's index,
    /// or the number of its arrival. Bounded by the lead.
    waiting: BTreeMap<u64, Outcome>,
    /// A member has failed: no outcome is taken in any more, and the accumulator is not used.
    broken: bool,
    /// The final failure of the function.
    failed: Option<Outcome>,
    /// The progress of the next run before a restart.
    resumed: Option<ChildProgress>,
    /// The barrier has decided: no member starts any more.
    is_decided: bool,
}

impl Intake {
    /// Returns the empty intake of a fold with so many members.
    pub(crate) fn of(fold: &Def, size: u64) -> Self {
        let Def::Fold {
            header,
            init,
            order,
            ..
        } = fold
        else {
            unreachable!("only a fold takes in outcomes")
        };
        Self::new(
            *order,
            header.policy.is_settled(),
            size,
            Value::Inline(init.clone()),
        )
    }

    /// Returns the empty intake of `size` members.
    pub(crate) fn new(order: Order, settled: bool, size: u64, init: Value) -> Self {
        Self {
            order,
            settled,
            size,
            arrived: IndexSet::new(size),
            folded: 0,
            acc: init,
            waiting: BTreeMap::new(),
            broken: false,
            failed: None,
            resumed: None,
            is_decided: false,
        }
    }

    /// Takes in a record of the fold's stream, after a restart.
    pub(crate) fn replay(&mut self, record: Record) {
        match record {
            Record::Child {
                index: BODY,
                change: ChildProgress::Done(outcome),
            } => self.fail(outcome),
            Record::Child {
                index,
                change: ChildProgress::Done(outcome),
            } => self.take_in(index, outcome),
            Record::Child { index, change } if index == run_index(self.folded) => {
                self.resumed = Some(change);
            }
            Record::Folded { folded, acc } => self.advance(folded, acc),
            Record::Verdict(_) => self.is_decided = true,
            _ => {}
        }
    }

    fn take_in(&mut self, index: Index, outcome: Outcome) {
        let position = match self.order {
            Order::Members => index,
            Order::Arrivals => self.arrived.len,
        };
        if !self.arrived.insert(index) {
            return;
        }
        if outcome.failure().is_some() && !self.settled {
            self.broken = true;
        }
        if self.is_over() {
            self.waiting.clear();
        } else {
            self.waiting.insert(position, outcome);
        }
    }

    fn fail(&mut self, outcome: Outcome) {
        self.failed = Some(outcome);
        self.waiting.clear();
    }

    fn advance(&mut self, folded: u64, acc: Value) {
        self.waiting = self.waiting.split_off(&folded);
        self.folded = folded;
        self.acc = acc;
        self.resumed = None;
    }

    /// Says whether no outcome is taken in any more.
    fn is_over(&self) -> bool {
        self.broken || self.failed.is_some()
    }

    /// Returns how many outcomes the next run takes in.
    fn next_run(&self) -> usize {
        let mut bytes = 0;
        self.ready()
            .take(MAX_ITEMS)
            .take_while(|outcome| {
                let fits = bytes < MAX_BYTES;
                bytes += weight(outcome);
                fits
            })
            .count()
    }

    fn run(&self, count: usize) -> Run {
        Run {
            first: self.folded,
            acc: self.acc.clone(),
            outcomes: self.ready().take(count).cloned().collect(),
            settled: self.settled,
        }
    }

    /// Returns the outcomes that can be taken in now, in order.
    fn ready(&self) -> impl Iterator<Item = &Outcome> {
        let positions = self.waiting.iter().zip(self.folded..);
        positions
            .take_while(|((position, _), next)| *position == next)
            .map(|((_, outcome), _)| outcome)
    }

    /// Returns the index below which members may start, so that no more outcomes wait than the lead.
    fn limit(&self, window: u64) -> Index {
        if self.is_over() {
            return Index::MAX;
        }
        self.folded.saturating_add(LEAD.saturating_mul(window))
    }
}

/// Returns about how many bytes an outcome has.
fn weight(outcome: &Outcome) -> u64 {
    let value = match outcome {
        Outcome::Success(Value::Extended { own, .. }) => own,
        Outcome::Success(value) => value,
        Outcome::Failure(failure) | Outcome::Revoked(failure) => {
            return failure.message.len() as u64;
        }
    };
    match value {
        Value::Inline(payload) => payload.bytes().len() as u64,
        Value::Stored { len, .. } | Value::Args { len, .. } => *len,
        Value::Gathered { size, .. } => *size,
        Value::Extended { .. } => 0,
    }
}

impl Fold {
    /// Returns the fold with these outcomes. The barrier sends its stored verdict again.
    pub(crate) fn recover(intake: Intake, window: u64) -> (Self, Vec<Effect>) {
        let limit = intake.limit(window);
        let taken = match intake.is_decided {
            true => IndexSet::full(intake.size),
            false => intake.arrived.clone(),
        };
        let (group, mut effects) = Group::recover_below(taken, window, limit);
        let mut fold = Self {
            intake,
            group,
            window,
            run: None,
            restarts: 0,
            verdict: None,
            revoked: false,
            is_alone: false,
            ended: false,
        };
        effects.extend(fold.advance_runs());
        (fold, effects)
    }

    /// Handles what the group of the members asks for. If nothing of it runs any more, because the fold is
    /// revoked or the barrier has decided early, the fold ends when its run has.
    fn of_members(&mut self, mut effects: Vec<Effect>) -> Vec<Effect> {
        match effects.pop_if(|effect| matches!(effect, Effect::Finish(_))) {
            Some(Effect::Finish(finish)) => match *finish {
                Finish::AsBarrier(verdict) => self.verdict = Some(verdict),
                _ => self.is_alone = true,
            },
            _ => return effects,
        }
        effects.extend(self.advance_runs());
        effects
    }

    fn is_current(&self, index: Index) -> bool {
        self.run.is_some() && index == run_index(self.intake.folded)
    }

    /// Starts the next run if outcomes wait and no run is under way; ends the fold if nothing is
    /// left.
    fn advance_runs(&mut self) -> Vec<Effect> {
        if self.revoked {
            let is_last = self.is_alone && self.run.is_none();
            let is_last = is_last && !std::mem::replace(&mut self.ended, true);
            let end = is_last.then(|| Effect::finish(Finish::Revoked));
            return end.into_iter().collect();
        }
        let limit = self.intake.limit(self.window);
        let mut effects = self.group.raise(limit);
        if self.run.is_some() || self.ended {
            return effects;
        }
        let count = match self.intake.is_over() {
            true => 0,
            false => self.intake.next_run(),
        };
        if count > 0 {
            self.run = Some(count);
            let resumed = self.intake.resumed.take();
            let run = Box::new(self.intake.run(count));
            effects.push(Effect::Start(ChildStart::Run(run, resumed)));
        } else {
            let end = self.end();
            self.ended = end.is_some();
            effects.extend(end.map(Effect::finish));
        }
        effects
    }

    /// Returns how the fold ends, once all members have ended and all outcomes are taken in.
    fn end(&self) -> Option<Finish> {
        let intake = &self.intake;
        match (self.verdict.as_ref()?, &intake.failed) {
            (Verdict::Broken { failure, .. }, _) => Some(Finish::BrokenHeader(failure.clone())),
            (Verdict::Released, Some(failed)) => Some(Finish::With(failed.clone())),
            (Verdict::Released, None) if intake.folded == intake.size => {
                Some(Finish::WithAccumulator)
            }
            (Verdict::Released, None) => None,
        }
    }
}

impl Supervise for Fold {
    fn resize(&mut self, window: u64) {
        self.window = window;
        self.group.resize(window);
    }

    fn member_arrived(&mut self, index: Index, outcome: Outcome) -> Vec<Effect> {
        if self.ended {
            return Vec::new();
        }
        self.intake.take_in(index, outcome);
        self.advance_runs()
    }

    fn child_exited(&mut self, index: Index, lost: bool) -> Vec<Effect> {
        if !is_run(index) {
            return match self.ended {
                true => Vec::new(),
                false => {
                    let effects = self.group.child_exited(index, lost);
                    self.of_members(effects)
                }
            };
        }
        if !lost || !self.is_current(index) {
            return Vec::new();
        }
        self.restarts += 1;
        match self.restarts <= MAX_RESTARTS {
            true => vec![Effect::Restart(index)],
            false => vec![Effect::Abandon(index)],
        }
    }

    fn revoked(&mut self) -> Vec<Effect> {
        self.revoked = true;
        let effects = self.group.revoked();
        self.of_members(effects)
    }

    fn decided(&mut self, decision: Decision) -> Vec<Effect> {
        if self.verdict.is_some() || self.ended {
            return Vec::new();
        }
        match decision {
            Decision::Early(_) => {
                let effects = self.group.decided(decision);
                self.of_members(effects)
            }
            Decision::Complete(verdict) => {
                self.verdict = Some(verdict);
                self.advance_runs()
            }
        }
    }

    /// Handles the end of a run of the function.
    fn child_ended(&mut self, index: Index, report: Report) -> Vec<Effect> {
        if !self.is_current(index) {
            return Vec::new();
        }
        let count = self.run.take().unwrap_or_default() as u64;
        self.restarts = 0;
        let mut effects = Vec::new();
        match report.outcome {
            Outcome::Success(acc) if !self.intake.is_over() => {
                let folded = self.intake.folded + count;
                self.intake.advance(folded, acc.clone());
                effects.push(Effect::KeepAccumulator { folded, acc });
            }
            // A member has failed meanwhile, so this run does not count.
            Outcome::Success(_) => {}
            outcome => {
                self.intake.fail(outcome.clone());
                effects.push(Effect::record(Record::Child {
                    index: BODY,
                    change: ChildProgress::Done(outcome),
                }));
            }
        }
        effects.extend(self.advance_runs());
        effects
    }

    fn running_child(&self, index: Index) -> Option<ChildStart> {
        if !is_run(index) {
            return Some(ChildStart::Member(index));
        }
        let count = self.run.filter(|_| self.is_current(index))?;
        let run = self.intake.run(count);
        Some(ChildStart::Run(Box::new(run), None))
    }

    fn set_accumulator(&mut self, acc: Value) {
        self.intake.acc = acc;
    }

    fn accumulator(&self) -> Option<Value> {
        Some(self.intake.acc.clone())
    }
}
