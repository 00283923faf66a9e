//! The fold: takes its members' outcomes into an accumulator, run by run, as they come.

use std::collections::BTreeMap;

use super::group::{self, Group, MAX_RESTARTS};
use super::{BODY, ChildProgress, Index, IndexSet, Record, Report, Verdict};
use crate::canvas::Order;
use crate::canvas::outcome::{Outcome, TaskFailure, Value};
use crate::canvas::payload::Payload;

/// One run takes in at most so many outcomes, ...
const MAX_ITEMS: usize = 1_024;
/// ... of about so many bytes, but always one.
const MAX_BYTES: u64 = 64 * 1_024;
/// Members start at most so many windows ahead of what has been taken in.
const LEAD: u64 = 4;

/// Invariant: the accumulator holds the first `folded` outcomes, in the fold's order, each once:
/// both change in one record.
#[derive(Debug)]
pub(crate) struct Fold {
    intake: Intake,
    group: Group,
    window: u64,
    /// How many outcomes the run takes in that is under way.
    run: Option<usize>,
    /// How often the actor of this run was lost.
    restarts: u32,
    verdict: Option<Verdict>,
    /// Nothing starts any more.
    revoked: bool,
    /// Since then no member is left.
    is_alone: bool,
    ended: bool,
}

/// What has come in, and how much of it is in the accumulator.
#[derive(Debug)]
pub(crate) struct Intake {
    order: Order,
    /// Failures are outcomes as others are.
    settled: bool,
    size: u64,
    /// A set, because an outcome may be told twice.
    heard: IndexSet,
    folded: u64,
    acc: Value,
    /// What is to be taken in, by its place in the fold's order: a member's index, or the number of
    /// its arrival. Bounded by the lead.
    waiting: BTreeMap<u64, Outcome>,
    /// A member has failed: nothing more is taken in, and the accumulator is given up.
    broken: bool,
    /// How the function failed, for good.
    failed: Option<Outcome>,
    /// How far the run that comes next had got before a restart.
    resumed: Option<ChildProgress>,
}

/// So many outcomes that the function is to take in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Run {
    /// How many are in the accumulator before it.
    pub(crate) first: u64,
    pub(crate) acc: Value,
    pub(crate) outcomes: Vec<Outcome>,
    pub(crate) settled: bool,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Command {
    /// What the group of the members asks for; never its report.
    Members(group::Command),
    /// Call the function; how far it had got before a restart.
    Run(Run, Option<ChildProgress>),
    /// Start the run's lost actor again, once all it recorded is durable.
    Restart(Index),
    /// Its actor dies each time.
    Abandon(Index),
    /// Record that the accumulator holds so many, and the accumulator, in one batch.
    Keep {
        folded: u64,
        acc: Value,
    },
    Record(Record),
    /// A member failed, and so the fold.
    Break(Box<TaskFailure>),
    /// The function failed, and so the fold.
    Fail(Outcome),
    /// The fold has ended with its [accumulator](Fold::acc).
    Succeed,
    /// The fold is revoked, and nothing of it runs any more.
    Revoke,
}

/// The run that follows after `folded` outcomes, among its fold's children: each has a number of its
/// own, so that a late word of one is not taken for the next one's.
pub(crate) fn run_index(folded: u64) -> Index {
    LAST_RUN - folded
}

/// Says whether this child of a fold is a run of its function.
pub(crate) fn is_run(index: Index) -> bool {
    (LAST_RUN - MAX_MEMBERS..=LAST_RUN).contains(&index)
}

/// Below the body and the barrier.
const LAST_RUN: Index = BODY - 2;
/// There are no more numbers than that in a workflow.
const MAX_MEMBERS: u64 = 1 << 40;

impl Run {
    /// The accumulator and the values, if nothing has to be read for them.
    pub(crate) fn at_hand(&self) -> Option<(Payload, Vec<Payload>)> {
        let here = |value: &Value| match value {
            Value::Inline(payload) => Some(payload.clone()),
            _ => None,
        };
        let values = self.outcomes.iter().map(|outcome| match outcome {
            Outcome::Success(value) if !self.settled => here(value),
            _ => None,
        });
        Some((here(&self.acc)?, values.collect::<Option<_>>()?))
    }
}

impl Intake {
    /// Nothing yet, of `size` members.
    pub(crate) fn new(order: Order, settled: bool, size: u64, init: Value) -> Self {
        Self {
            order,
            settled,
            size,
            heard: IndexSet::new(size),
            folded: 0,
            acc: init,
            waiting: BTreeMap::new(),
            broken: false,
            failed: None,
            resumed: None,
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
            _ => {}
        }
    }

    fn take_in(&mut self, index: Index, outcome: Outcome) {
        let place = match self.order {
            Order::Members => index,
            Order::Arrivals => self.heard.len,
        };
        if !self.heard.insert(index) {
            return;
        }
        if outcome.failure().is_some() && !self.settled {
            self.broken = true;
        }
        if self.is_over() {
            self.waiting.clear();
        } else {
            self.waiting.insert(place, outcome);
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

    /// Nothing more is taken in.
    fn is_over(&self) -> bool {
        self.broken || self.failed.is_some()
    }

    /// How many outcomes the next run takes in.
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

    /// What can be taken in, in order.
    fn ready(&self) -> impl Iterator<Item = &Outcome> {
        let places = self.waiting.iter().zip(self.folded..);
        places
            .take_while(|((place, _), next)| *place == next)
            .map(|((_, outcome), _)| outcome)
    }

    /// Members start below this index: of what has been started, no more than the lead waits.
    fn limit(&self, window: u64) -> Index {
        if self.is_over() {
            return Index::MAX;
        }
        self.folded.saturating_add(LEAD.saturating_mul(window))
    }
}

/// About how many bytes it has.
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
    /// The fold with what has come in. The barrier tells its stored verdict again.
    pub(crate) fn recover(intake: Intake, window: u64) -> (Self, Vec<Command>) {
        let limit = intake.limit(window);
        let (group, commands) = Group::recover_below(intake.heard.clone(), window, limit);
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
        let mut commands = members(commands);
        commands.extend(fold.advance_runs());
        (fold, commands)
    }

    /// How many members may be materialised from now on.
    pub(crate) fn resize(&mut self, window: u64) {
        self.window = window;
        self.group.resize(window);
    }

    /// Member `index` has ended, and that is on record.
    pub(crate) fn arrived(&mut self, index: Index, outcome: Outcome) -> Vec<Command> {
        if self.ended {
            return Vec::new();
        }
        self.intake.take_in(index, outcome);
        self.advance_runs()
    }

    /// A child's actor is gone; `lost`: before it had reported.
    pub(crate) fn stopped(&mut self, index: Index, lost: bool) -> Vec<Command> {
        if !is_run(index) {
            return match self.ended {
                true => Vec::new(),
                false => {
                    let commands = self.group.stopped(index, lost);
                    self.of_members(commands)
                }
            };
        }
        if !lost || !self.is_current(index) {
            return Vec::new();
        }
        self.restarts += 1;
        if self.restarts <= MAX_RESTARTS {
            return vec![Command::Restart(index)];
        }
        vec![Command::Abandon(index)]
    }

    /// The fold is revoked, or what it is a part of.
    pub(crate) fn revoked(&mut self) -> Vec<Command> {
        self.revoked = true;
        let commands = self.group.revoked();
        self.of_members(commands)
    }

    fn of_members(&mut self, commands: Vec<group::Command>) -> Vec<Command> {
        if commands == [group::Command::Revoke] {
            self.is_alone = true;
            return self.advance_runs();
        }
        members(commands)
    }

    /// The run that is under way, to be started again.
    pub(crate) fn current(&self) -> Option<Run> {
        self.run.map(|count| self.intake.run(count))
    }

    /// The barrier has decided.
    pub(crate) fn decided(&mut self, verdict: Verdict) -> Vec<Command> {
        if self.verdict.is_some() {
            return Vec::new();
        }
        self.verdict = Some(verdict);
        self.advance_runs()
    }

    /// Run `index` has ended.
    pub(crate) fn run_ended(&mut self, index: Index, report: Report) -> Vec<Command> {
        if !self.is_current(index) {
            return Vec::new();
        }
        let count = self.run.take().unwrap_or_default() as u64;
        self.restarts = 0;
        let mut commands = Vec::new();
        match report.outcome {
            Outcome::Success(acc) if !self.intake.is_over() => {
                let folded = self.intake.folded + count;
                self.intake.advance(folded, acc.clone());
                commands.push(Command::Keep { folded, acc });
            }
            // What a member's failure has overtaken counts for nothing.
            Outcome::Success(_) => {}
            outcome => {
                self.intake.fail(outcome.clone());
                commands.push(Command::Record(Record::Child {
                    index: BODY,
                    change: ChildProgress::Done(outcome),
                }));
            }
        }
        commands.extend(self.advance_runs());
        commands
    }

    pub(crate) fn acc(&self) -> Value {
        self.intake.acc.clone()
    }

    /// Where the accumulator is kept: what is large is not held.
    pub(crate) fn acc_is_kept(&mut self, acc: Value) {
        self.intake.acc = acc;
    }

    fn is_current(&self, index: Index) -> bool {
        self.run.is_some() && index == run_index(self.intake.folded)
    }

    /// The next run, if there is something for it and none is under way; the end, if nothing is
    /// left.
    fn advance_runs(&mut self) -> Vec<Command> {
        if self.revoked {
            let is_last = self.is_alone && self.run.is_none();
            let is_last = is_last && !std::mem::replace(&mut self.ended, true);
            return is_last.then_some(Command::Revoke).into_iter().collect();
        }
        let limit = self.intake.limit(self.window);
        let mut commands = members(self.group.raise(limit));
        if self.run.is_some() || self.ended {
            return commands;
        }
        let count = match self.intake.is_over() {
            true => 0,
            false => self.intake.next_run(),
        };
        if count > 0 {
            self.run = Some(count);
            let resumed = self.intake.resumed.take();
            commands.push(Command::Run(self.intake.run(count), resumed));
        } else {
            let end = self.end();
            self.ended = end.is_some();
            commands.extend(end);
        }
        commands
    }

    /// What the fold ends with, once all members have ended.
    fn end(&self) -> Option<Command> {
        let intake = &self.intake;
        match (self.verdict.as_ref()?, &intake.failed) {
            (Verdict::Broken { failure, .. }, _) => Some(Command::Break(failure.clone())),
            (Verdict::Released, Some(failed)) => Some(Command::Fail(failed.clone())),
            (Verdict::Released, None) if intake.folded == intake.size => Some(Command::Succeed),
            (Verdict::Released, None) => None,
        }
    }
}

fn members(commands: Vec<group::Command>) -> Vec<Command> {
    commands.into_iter().map(Command::Members).collect()
}
