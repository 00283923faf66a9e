//! What the machine of a supervisor asks for, and the host that carries it out.
//!
//! Chain, group, chord and fold decide; they are [`Supervise`]. The supervisor's actor and eager mode carry
//! out what they decide; each is a [`Host`]. [`carry_out`] stands between them.

use std::fmt;

use super::fold_run::Run;
use super::{BODY, ChildProgress, Decision, Index, PendingCallback, Record, Report, Verdict};
use crate::canvas::outcome::{Outcome, TaskFailure, Value};

/// What a supervisor's machine asks for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Effect {
    /// Record this in the supervisor's stream.
    Record(Box<Record>),
    /// Record that these callbacks are to run, and run them.
    LaunchCallbacks(Vec<PendingCallback>),
    /// Start this child.
    Start(ChildStart),
    /// Start the lost actor of this child again, once all that the child has recorded is durable.
    Restart(Index),
    /// The actor of this child dies each time: end the child with that as its failure.
    Abandon(Index),
    /// Record that the accumulator of the fold holds so many outcomes, and the accumulator, in one batch.
    KeepAccumulator { folded: u64, acc: Value },
    /// End the supervisor.
    Finish(Box<Finish>),
}

/// A child that is to start.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum ChildStart {
    /// A member of the group, or of the header.
    Member(Index),
    /// A step of the chain, with the value from upstream, if there is one.
    Step(Index, Option<Value>),
    /// The chord's body, with the list of the header.
    Body,
    /// The fold's function, and how far this run had got before a restart.
    Run(Box<Run>, Option<ChildProgress>),
}

/// How a supervisor ends.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Finish {
    /// As its last child.
    AsLastChild(Report),
    /// As this step of the chain, which failed and is not the last: the others never run.
    AsStep(Index, Report),
    /// As the barrier of the group has decided.
    AsBarrier(Verdict),
    /// With this failure of a member of the header: the body never runs, a fold drops its
    /// accumulator.
    BrokenHeader(Box<TaskFailure>),
    /// With this outcome of its own.
    With(Outcome),
    /// With the accumulator, as it is kept by then.
    WithAccumulator,
    /// As revoked: nothing below it runs any more.
    Revoked,
}

impl Effect {
    pub(super) fn record(record: Record) -> Self {
        Self::Record(Box::new(record))
    }

    pub(super) fn member(index: Index) -> Self {
        Self::Start(ChildStart::Member(index))
    }

    pub(super) fn finish(finish: Finish) -> Self {
        Self::Finish(Box::new(finish))
    }
}

/// The machine of a supervisor. Every event returns what is to be done because of it.
pub(crate) trait Supervise: fmt::Debug + Send {
    /// A child has ended that is not a member of a group or header: members report to the barrier.
    fn child_ended(&mut self, index: Index, report: Report) -> Vec<Effect>;

    /// The actor of a child is gone; `lost`: before the child had reported.
    fn child_exited(&mut self, index: Index, lost: bool) -> Vec<Effect>;

    /// The barrier has decided. If it has done so early, the members that have not arrived are revoked:
    /// none of them starts, and the supervisor goes on when those that run have ended.
    fn decided(&mut self, _decision: Decision) -> Vec<Effect> {
        Vec::new()
    }

    /// A member has ended, and its outcome is recorded. Only a fold receives it.
    fn member_arrived(&mut self, _index: Index, _outcome: Outcome) -> Vec<Effect> {
        Vec::new()
    }

    /// The supervisor is revoked, or a node above it.
    fn revoked(&mut self) -> Vec<Effect> {
        Vec::new()
    }

    /// Sets how many members may be materialised from now on.
    fn resize(&mut self, _window: u64) {}

    /// Returns child `index` as it was started, to start it again.
    fn running_child(&self, index: Index) -> Option<ChildStart>;

    /// Replaces the accumulator by a reference to its record: a large one is not held in memory.
    fn set_accumulator(&mut self, _acc: Value) {}

    /// Returns the accumulator of a fold.
    fn accumulator(&self) -> Option<Value> {
        None
    }
}

/// Carries out what the machine of one supervisor asks for.
pub(crate) trait Host {
    type Error;

    fn record(&mut self, record: Record);

    fn launch_callbacks(&mut self, callbacks: Vec<PendingCallback>);

    fn start(&mut self, child: ChildStart) -> Result<(), Self::Error>;

    fn restart(&mut self, index: Index);

    /// Returns the report of the abandoned child, unless the barrier gets it.
    fn abandon(&mut self, index: Index) -> Result<Option<Report>, Self::Error>;

    /// Records the accumulator; returns it as it is kept.
    fn keep_accumulator(&mut self, folded: u64, acc: Value) -> Value;

    /// Ends the supervisor. Nothing follows.
    fn finish(&mut self, finish: Finish) -> Result<(), Self::Error>;
}

/// Carries out what the machine has asked for, and what it asks for because of that.
pub(crate) fn carry_out<H: Host>(
    machine: &mut (impl Supervise + ?Sized),
    effects: Vec<Effect>,
    host: &mut H,
) -> Result<(), H::Error> {
    for effect in effects {
        match effect {
            Effect::Record(record) => host.record(*record),
            Effect::LaunchCallbacks(callbacks) => host.launch_callbacks(callbacks),
            Effect::Start(child) => host.start(child)?,
            Effect::Restart(index) => host.restart(index),
            Effect::Abandon(index) => {
                if let Some(report) = host.abandon(index)? {
                    let effects = machine.child_ended(index, report);
                    carry_out(machine, effects, host)?;
                }
            }
            Effect::KeepAccumulator { folded, acc } => {
                let acc = host.keep_accumulator(folded, acc);
                machine.set_accumulator(acc);
            }
            Effect::Finish(finish) => {
                let finish = match (*finish, machine.accumulator()) {
                    (Finish::WithAccumulator, Some(acc)) => Finish::With(Outcome::Success(acc)),
                    (finish, _) => finish,
                };
                return host.finish(finish);
            }
        }
    }
    Ok(())
}

impl ChildStart {
    /// Returns the child's index among the children of its supervisor.
    pub(crate) fn index(&self) -> Index {
        match self {
            Self::Member(index) | Self::Step(index, _) => *index,
            Self::Body => BODY,
            Self::Run(run, _) => run.index(),
        }
    }
}
