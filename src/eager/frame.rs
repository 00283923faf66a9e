//! Frames: one for each node that is under way. They stand in a list, so that neither nesting nor a
//! task that is replaced again and again uses up the caller's stack.

use std::sync::Arc;

use super::fold::FoldFrame;
use super::run::{Run, nothing_is_lost, nothing_is_revoked};
use super::task::{Call, TaskFrame};
use crate::canvas::freeze::{Def, FanOutDef, Members};
use crate::canvas::machine::barrier::{self, Barrier};
use crate::canvas::machine::chain::{self, Chain};
use crate::canvas::machine::child_spec::ChildSpec;
use crate::canvas::machine::chord::{self, Chord};
use crate::canvas::machine::group::{self, Group};
use crate::canvas::machine::task::AttemptOutcome;
use crate::canvas::machine::{BODY, Index, Record, Report, Verdict};
use crate::canvas::outcome::{FailureKind, Outcome, TaskFailure, Value};
use crate::error::Result;
use crate::persistence::StoreError;
use crate::persistence::commit_builder::CommitBuilder;
use crate::persistence::member_table::MemberTable;
use crate::persistence::reader::ElementsError;

/// How many members of a group are under way: they run one after the other.
pub(super) const WINDOW: u64 = 1;

/// What a frame does next.
#[derive(Debug)]
pub(crate) enum Step {
    /// A child of it is to run.
    Start(ChildSpec),
    /// Its function is to be called.
    Call(Call),
    /// It has ended.
    Ended(Report),
}

/// Runs what stands at this place, to its last word.
pub(crate) async fn run_to_end(run: &Arc<Run>, place: ChildSpec) -> Result<Report> {
    let mut stack = Stack::default();
    let mut next = Next::Step(Step::Start(place));
    // Calls nest in here, so that all that needs much of the caller's stack is done in `go_on`.
    loop {
        match stack.go_on(run, next)? {
            Halt::Call(call) => {
                run.check_open()?;
                next = call.carry_out().await;
                run.check_open()?;
            }
            Halt::End(report) => return Ok(*report),
        }
    }
}

/// What a stack goes on with.
#[derive(Debug)]
pub(crate) enum Next {
    Step(Step),
    /// The attempt of the task on top has ended.
    Called(u32, AttemptOutcome),
}

/// Where a stack cannot go on by itself.
enum Halt {
    Call(Call),
    End(Box<Report>),
}

/// What runs now, and below it, frame by frame, what waits for it.
#[derive(Default)]
struct Stack(Vec<Frame>);

impl Stack {
    fn go_on(&mut self, run: &Arc<Run>, next: Next) -> Result<Halt, StoreError> {
        let mut draft = CommitBuilder::default();
        let mut step = match (next, self.0.last_mut()) {
            (Next::Step(step), _) => step,
            (Next::Called(attempt, end), Some(Frame::Task(task))) => {
                task.called(attempt, end, &mut draft)
            }
            _ => unreachable!("only a task has its function called"),
        };
        loop {
            // What a step decides is written before the next one reads it.
            run.commit(std::mem::take(&mut draft))?;
            step = match step {
                Step::Call(call) => return Ok(Halt::Call(call)),
                Step::Start(place) => {
                    let (frame, step) = Frame::open(run, place, &mut draft)?;
                    self.0.push(frame);
                    step
                }
                Step::Ended(report) => {
                    let ended = self.0.pop().map(|frame| frame.spec().index);
                    match (ended, self.0.last_mut()) {
                        (Some(index), Some(waits)) => {
                            waits.ended(run, index, report, &mut draft)?
                        }
                        _ => return Ok(Halt::End(Box::new(report))),
                    }
                }
            };
        }
    }
}

/// One node under way: its place and its machine.
#[derive(Debug)]
enum Frame {
    Task(TaskFrame),
    Chain(ChildSpec, Chain),
    Group(ChildSpec, Group, FanOut),
    Chord(ChildSpec, Chord, FanOut),
    Fold(ChildSpec, Box<FoldFrame>),
    /// Its members cannot be known, so that it ends where it began.
    Stillborn(ChildSpec),
}

impl Frame {
    fn open(
        run: &Arc<Run>,
        place: ChildSpec,
        draft: &mut CommitBuilder,
    ) -> Result<(Self, Step), StoreError> {
        let fan = match &place.node.def {
            Def::Task(_) => {
                let (task, step) = TaskFrame::open(run.clone(), place, draft);
                return Ok((Self::Task(task), step));
            }
            Def::Chain(steps) => {
                let (len, input) = (steps.len() as Index, place.input.clone());
                let (machine, commands) = Chain::recover(len, input, Value::nil(), []);
                let step = of_chain(run, &place, commands, draft)?;
                return Ok((Self::Chain(place, machine), step));
            }
            Def::Group(fan) | Def::Chord { header: fan, .. } | Def::Fold { header: fan, .. } => {
                fan.clone()
            }
        };
        let errbacks = fan.own_errbacks().to_vec();
        let mut fan = match FanOut::open(run, &place, fan, draft) {
            Ok(fan) => fan,
            Err(ElementsError::Store(error)) => return Err(error),
            Err(ElementsError::NotAList(what)) => {
                let failure = place.failure(FailureKind::Type, &what);
                let mut report = Report::calling_for(&errbacks, failure);
                if let Def::Chord { .. } = &place.node.def {
                    run.reader().fail_body(&place, &mut report)?;
                }
                let step = Step::Ended(place.final_report(report, false));
                return Ok((Self::Stillborn(place), step));
            }
        };
        let arrived = fan.barrier.arrived().clone();
        let commands = fan.barrier.start();
        let verdict = fan.perform(run, commands, draft);
        if let Def::Fold { .. } = &place.node.def {
            let (frame, step) = FoldFrame::open(run, &place, fan, verdict, draft)?;
            return Ok((Self::Fold(place, Box::new(frame)), step));
        }
        if let Def::Group(_) = &place.node.def {
            let (mut machine, mut commands) = Group::recover(arrived, WINDOW);
            commands.extend(verdict.into_iter().flat_map(|it| machine.decided(it)));
            let step = of_group(run, &place, &mut fan, commands)?;
            Ok((Self::Group(place, machine, fan), step))
        } else {
            let (mut machine, mut commands) = Chord::recover(arrived, WINDOW);
            commands.extend(verdict.into_iter().flat_map(|it| machine.decided(it)));
            let step = of_chord(run, &place, &mut fan, commands)?;
            Ok((Self::Chord(place, machine, fan), step))
        }
    }

    fn spec(&self) -> &ChildSpec {
        match self {
            Self::Task(task) => task.spec(),
            Self::Chain(place, _)
            | Self::Group(place, ..)
            | Self::Chord(place, ..)
            | Self::Fold(place, _)
            | Self::Stillborn(place) => place,
        }
    }

    /// Its child `index` has ended.
    fn ended(
        &mut self,
        run: &Run,
        index: Index,
        report: Report,
        draft: &mut CommitBuilder,
    ) -> Result<Step, StoreError> {
        match self {
            Self::Task(task) => Ok(task.child_ended(index, report, draft)),
            Self::Chain(place, machine) => {
                let commands = machine.ended(index, report);
                of_chain(run, place, commands, draft)
            }
            Self::Group(place, machine, fan) => {
                let commands = match fan.arrive(run, index, report, draft) {
                    Some(verdict) => machine.decided(verdict),
                    None => machine.stopped(index, false),
                };
                of_group(run, place, fan, commands)
            }
            Self::Chord(place, machine, fan) => {
                let commands = match index {
                    BODY => machine.body_ended(report),
                    member => match fan.arrive(run, member, report, draft) {
                        Some(verdict) => machine.decided(verdict),
                        None => machine.stopped(member, false),
                    },
                };
                of_chord(run, place, fan, commands)
            }
            Self::Fold(place, fold) => fold.ended(run, place, index, report, draft),
            Self::Stillborn(_) => unreachable!("it has no children"),
        }
    }
}

/// Nothing waits here, so that what a machine decides always leads to a next step, and to one only.
fn only(step: Option<Step>) -> Step {
    step.expect("a frame goes on until it has ended")
}

fn of_chain(
    run: &Run,
    place: &ChildSpec,
    commands: Vec<chain::Command>,
    draft: &mut CommitBuilder,
) -> Result<Step, StoreError> {
    use chain::Command;
    let mut next = None;
    for command in commands {
        match command {
            Command::Record(record) => draft.record(place.id(), record),
            Command::Launch(due) => run.launch(due, draft),
            Command::Spawn(index, input) => next = Some(Step::Start(place.step(index, input))),
            Command::Report(report) => next = Some(Step::Ended(place.final_report(report, true))),
            Command::Fail(index, mut report) => {
                let of_last = run.reader().fail_next(place, index, &mut report)?;
                next = Some(Step::Ended(place.final_report(report, of_last)));
            }
            Command::Restart(_) | Command::Abandon(_) => nothing_is_lost(),
        }
    }
    Ok(only(next))
}

fn of_group(
    run: &Run,
    place: &ChildSpec,
    fan: &mut FanOut,
    commands: Vec<group::Command>,
) -> Result<Step, StoreError> {
    use group::Command;
    let mut next = None;
    for command in commands {
        match command {
            Command::Spawn(index) => {
                next = Some(Step::Start(fan.roster.member(run.reader(), index)?))
            }
            Command::Report(verdict) => {
                let outcome = group::outcome(
                    place.id(),
                    fan.roster.is_followed(),
                    verdict,
                    fan.roster.list(),
                );
                next = Some(Step::Ended(place.final_report(outcome.into(), false)));
            }
            Command::Revoke => nothing_is_revoked(),
            Command::Restart(_) | Command::Abandon(_) => nothing_is_lost(),
        }
    }
    Ok(only(next))
}

fn of_chord(
    run: &Run,
    place: &ChildSpec,
    fan: &mut FanOut,
    commands: Vec<chord::Command>,
) -> Result<Step, StoreError> {
    use chord::Command;
    let mut next = None;
    for command in commands {
        match command {
            Command::Header(command) => {
                next = Some(of_group(run, place, fan, vec![command])?);
            }
            Command::SpawnBody => next = Some(Step::Start(place.body(fan.roster.list()))),
            Command::Break(member) => {
                let failure = TaskFailure::chord(place.id(), member);
                let mut report = Report::from(Outcome::Failure(failure));
                run.reader().fail_body(place, &mut report)?;
                next = Some(Step::Ended(place.final_report(report, false)));
            }
            Command::Report(report) => next = Some(Step::Ended(place.final_report(report, true))),
            Command::Restart | Command::Abandon => nothing_is_lost(),
        }
    }
    Ok(only(next))
}

/// The members of one group or header, and the barrier that counts them.
#[derive(Debug)]
pub(super) struct FanOut {
    roster: MemberTable,
    barrier: Barrier,
}

impl FanOut {
    fn open(
        run: &Run,
        place: &ChildSpec,
        fan: FanOutDef,
        draft: &mut CommitBuilder,
    ) -> Result<Self, ElementsError> {
        let group = place.id();
        let reader = run.reader();
        let elements = reader.elements(place.root, &fan, place.input.as_ref())?;
        let (first, size) = match (&fan.members, &elements) {
            (Members::Each { span, .. }, Some(elements)) => {
                let size = elements.len() as u64;
                let first = run.number(size * span, draft);
                draft.record(group, Record::Expanded { first, size });
                (first, size)
            }
            _ => reader.expansion(group, &fan)?.unwrap_or_default(),
        };
        let barrier = Barrier::new(size, fan.settled);
        let roster = MemberTable::new(group, fan, (first, size), elements, place.input.clone());
        Ok(Self { roster, barrier })
    }

    pub(super) fn size(&self) -> u64 {
        self.roster.size()
    }

    /// Where member `index` stands.
    pub(super) fn member(&mut self, run: &Run, index: Index) -> Result<ChildSpec, StoreError> {
        self.roster.member(run.reader(), index)
    }

    pub(super) fn arrive(
        &mut self,
        run: &Run,
        index: Index,
        report: Report,
        draft: &mut CommitBuilder,
    ) -> Option<Verdict> {
        let commands = self.barrier.arrive(index, report);
        self.perform(run, commands, draft)
    }

    /// Returns the barrier's verdict, if it has one.
    fn perform(
        &self,
        run: &Run,
        commands: Vec<barrier::Command>,
        draft: &mut CommitBuilder,
    ) -> Option<Verdict> {
        use barrier::Command;
        let mut verdict = None;
        for command in commands {
            match command {
                Command::Record(record) => draft.record(self.roster.group(), record),
                Command::Launch(due) => run.launch(due, draft),
                Command::Tell(decided) => verdict = Some(decided),
            }
        }
        verdict
    }
}
