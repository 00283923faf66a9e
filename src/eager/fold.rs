//! A fold in eager mode: after each member its function, one run at a time.

use std::collections::VecDeque;

use super::frame::{FanOut, Step};
use super::run::{Run, nothing_is_lost, nothing_is_revoked};
use crate::canvas::freeze::Def;
use crate::canvas::machine::child_spec::ChildSpec;
use crate::canvas::machine::fold::{Command, Fold, Intake, is_run};
use crate::canvas::machine::{Index, Record, Report, Verdict, group};
use crate::canvas::outcome::{Outcome, TaskFailure, Value};
use crate::persistence::StoreError;
use crate::persistence::commit_builder::{self, CommitBuilder};

#[derive(Debug)]
pub(super) struct FoldFrame {
    machine: Fold,
    fan: FanOut,
    /// What is to run, one after the other: members, and the function over what they gave.
    next: VecDeque<ChildSpec>,
}

impl FoldFrame {
    /// `verdict`: of the barrier of a group that is empty.
    pub(super) fn open(
        run: &Run,
        place: &ChildSpec,
        fan: FanOut,
        verdict: Option<Verdict>,
        draft: &mut CommitBuilder,
    ) -> Result<(Self, Step), StoreError> {
        let Def::Fold {
            header,
            init,
            order,
            ..
        } = &place.node.def
        else {
            unreachable!("only a fold is opened as one")
        };
        let init = Value::Inline(init.clone());
        let intake = Intake::new(*order, header.settled, fan.size(), init);
        let (machine, mut commands) = Fold::recover(intake, super::frame::WINDOW);
        let mut frame = Self {
            machine,
            fan,
            next: VecDeque::new(),
        };
        commands.extend(verdict.into_iter().flat_map(|it| frame.machine.decided(it)));
        let step = frame.perform(run, place, commands, draft)?;
        Ok((frame, step))
    }

    /// Its child `index`, a member or a run, has ended.
    pub(super) fn ended(
        &mut self,
        run: &Run,
        place: &ChildSpec,
        index: Index,
        report: Report,
        draft: &mut CommitBuilder,
    ) -> Result<Step, StoreError> {
        let commands = if is_run(index) {
            self.machine.run_ended(index, report)
        } else {
            let outcome = report.outcome.clone();
            let verdict = self.fan.arrive(run, index, report, draft);
            let mut commands = self.machine.arrived(index, outcome);
            commands.extend(self.machine.stopped(index, false));
            commands.extend(verdict.into_iter().flat_map(|it| self.machine.decided(it)));
            commands
        };
        self.perform(run, place, commands, draft)
    }

    fn perform(
        &mut self,
        run: &Run,
        place: &ChildSpec,
        commands: Vec<Command>,
        draft: &mut CommitBuilder,
    ) -> Result<Step, StoreError> {
        for command in commands {
            match command {
                Command::Members(group::Command::Spawn(index)) => {
                    self.next.push_back(self.fan.member(run, index)?);
                }
                Command::Run(items, _) => self.next.push_back(place.fold_run(items)),
                Command::Keep { folded, acc } => self.keep(place, folded, acc, draft),
                Command::Record(record) => draft.record(place.id(), record),
                Command::Break(member) => {
                    let failure = TaskFailure::chord(place.id(), member);
                    return Ok(end(place, Outcome::Failure(failure), draft));
                }
                Command::Fail(outcome) => return Ok(end(place, outcome, draft)),
                Command::Succeed => {
                    let outcome = Outcome::Success(self.machine.acc());
                    return Ok(end(place, outcome, draft));
                }
                Command::Members(_) | Command::Restart(_) | Command::Abandon(_) => {
                    nothing_is_lost();
                }
                Command::Revoke => nothing_is_revoked(),
            }
        }
        let next = self.next.pop_front();
        Ok(Step::Start(
            next.expect("a fold goes on until it has ended"),
        ))
    }

    fn keep(&mut self, place: &ChildSpec, folded: u64, acc: Value, draft: &mut CommitBuilder) {
        let Def::Fold { body, .. } = &place.node.def else {
            unreachable!("only a fold keeps an accumulator")
        };
        let put = &mut |key, piece| draft.put(key, piece);
        let acc = commit_builder::spill_acc(place.root.node(body.seq), acc, put);
        self.machine.acc_is_kept(acc.clone());
        draft.record(place.id(), Record::Folded { folded, acc });
    }
}

fn end(place: &ChildSpec, outcome: Outcome, draft: &mut CommitBuilder) -> Step {
    let outcome = match outcome {
        Outcome::Success(value) => {
            let put = &mut |key, piece| draft.put(key, piece);
            Outcome::Success(commit_builder::spill(place.id(), value, put))
        }
        outcome => outcome,
    };
    Step::Ended(place.final_report(outcome.into(), false))
}
