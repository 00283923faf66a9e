//! A chain, group, chord or fold in eager mode: its machine, whose decisions are carried out at once.

use std::collections::VecDeque;

use super::run::{Run, nothing_is_lost, nothing_is_revoked};
use super::step::Step;
use crate::canvas::freeze::{Def, FanOutDef, Members};
use crate::canvas::machine::barrier::{self, Barrier};
use crate::canvas::machine::chain::Chain;
use crate::canvas::machine::child_spec::ChildSpec;
use crate::canvas::machine::chord::Chord;
use crate::canvas::machine::effect::{ChildStart, Effect, Finish, Host, Supervise, carry_out};
use crate::canvas::machine::fold::{Fold, Intake};
use crate::canvas::machine::group::Group;
use crate::canvas::machine::{Decision, Index, PendingCallback, Record, Report, is_member};
use crate::canvas::outcome::{Outcome, Value};
use crate::persistence::StoreError;
use crate::persistence::records::children;
use crate::persistence::records::commit_builder::{self, CommitBuilder};
use crate::persistence::records::member_table::MemberTable;
use crate::persistence::records::reader::ElementsError;

/// How many members of a group run at once: one after the other.
const WINDOW: u64 = 1;

#[derive(Debug)]
pub(super) struct SupervisorFrame {
    spec: ChildSpec,
    machine: Box<dyn Supervise>,
    /// A chain has none.
    fan_out: Option<FanOut>,
    /// The children that are to run, one after the other.
    next: VecDeque<ChildSpec>,
}

impl SupervisorFrame {
    pub(super) fn open(
        run: &Run,
        spec: ChildSpec,
        mut fan_out: Option<FanOut>,
        commit: &mut CommitBuilder,
    ) -> Result<(Self, Step), StoreError> {
        let (machine, mut effects) = recover(&spec, fan_out.as_ref());
        let decision = fan_out.as_mut().and_then(|it| it.start(run, commit));
        let mut frame = Self {
            spec,
            machine,
            fan_out,
            next: VecDeque::new(),
        };
        effects.extend(frame.decided(decision));
        let step = frame.carry_out(run, effects, commit)?;
        Ok((frame, step))
    }

    pub(super) fn spec(&self) -> &ChildSpec {
        &self.spec
    }

    /// Handles the end of child `index`, a member or another.
    pub(super) fn child_ended(
        &mut self,
        run: &Run,
        index: Index,
        report: Report,
        commit: &mut CommitBuilder,
    ) -> Result<Step, StoreError> {
        let effects = match &mut self.fan_out {
            Some(fan_out) if is_member(index) => {
                let outcome = report.outcome.clone();
                let decision = fan_out.arrive(run, index, report, commit);
                let mut effects = self.machine.member_arrived(index, outcome);
                // The machine must know an early verdict before it starts the next member.
                effects.extend(self.decided(decision));
                effects.extend(self.machine.child_exited(index, false));
                effects
            }
            _ => self.machine.child_ended(index, report),
        };
        self.carry_out(run, effects, commit)
    }

    fn decided(&mut self, decision: Option<Decision>) -> Vec<Effect> {
        decision.map_or_else(Vec::new, |decision| self.machine.decided(decision))
    }

    /// Nothing waits in eager mode, so that a machine always has a next child, or has ended.
    fn carry_out(
        &mut self,
        run: &Run,
        effects: Vec<Effect>,
        commit: &mut CommitBuilder,
    ) -> Result<Step, StoreError> {
        let mut host = EagerHost {
            run,
            spec: &self.spec,
            members: self.fan_out.as_mut().map(|fan_out| &mut fan_out.members),
            next: &mut self.next,
            end: None,
            commit,
        };
        carry_out(&mut *self.machine, effects, &mut host)?;
        Ok(match host.end {
            Some(report) => Step::Ended(report),
            None => Step::Start(
                self.next
                    .pop_front()
                    .expect("a frame goes on until its end"),
            ),
        })
    }
}

fn recover(spec: &ChildSpec, fan_out: Option<&FanOut>) -> (Box<dyn Supervise>, Vec<Effect>) {
    fn boxed<M: Supervise + 'static>(
        (machine, effects): (M, Vec<Effect>),
    ) -> (Box<dyn Supervise>, Vec<Effect>) {
        (Box::new(machine), effects)
    }
    let def = &spec.node.def;
    match (def, fan_out) {
        (Def::Group(_), Some(it)) => boxed(Group::recover(it.barrier.arrived().clone(), WINDOW)),
        (Def::Chord { .. }, Some(it)) => {
            boxed(Chord::recover(it.barrier.arrived().clone(), WINDOW))
        }
        (Def::Fold { .. }, Some(it)) => {
            boxed(Fold::recover(Intake::of(def, it.members.size()), WINDOW))
        }
        _ => {
            let (len, input) = (spec.steps().len() as Index, spec.input.clone());
            boxed(Chain::recover(len, input, Value::nil(), []))
        }
    }
}

/// Carries out what the machine of one frame asks for.
struct EagerHost<'a> {
    run: &'a Run,
    spec: &'a ChildSpec,
    members: Option<&'a mut MemberTable>,
    next: &'a mut VecDeque<ChildSpec>,
    end: Option<Report>,
    commit: &'a mut CommitBuilder,
}

impl Host for EagerHost<'_> {
    type Error = StoreError;

    fn record(&mut self, record: Record) {
        self.commit.record(self.spec.id(), record);
    }

    fn launch_callbacks(&mut self, callbacks: Vec<PendingCallback>) {
        self.run.launch(callbacks, self.commit);
    }

    fn start(&mut self, child: ChildStart) -> Result<(), StoreError> {
        let members = self.members.as_deref_mut();
        let child = children::child(self.spec, members, self.run.reader(), child)?;
        self.next.push_back(child);
        Ok(())
    }

    fn restart(&mut self, _: Index) {
        nothing_is_lost();
    }

    fn abandon(&mut self, _: Index) -> Result<Option<Report>, StoreError> {
        nothing_is_lost();
        Ok(None)
    }

    fn keep_accumulator(&mut self, folded: u64, acc: Value) -> Value {
        let Def::Fold { body, .. } = &self.spec.node.def else {
            unreachable!("only a fold keeps an accumulator")
        };
        let body = self.spec.root.node(body.seq);
        let acc = commit_builder::spill_acc(body, acc, &mut |key, piece| {
            self.commit.put(key, piece);
        });
        self.record(Record::Folded {
            folded,
            acc: acc.clone(),
        });
        acc
    }

    fn finish(&mut self, finish: Finish) -> Result<(), StoreError> {
        let (spec, members) = (self.spec, self.members.as_deref());
        match children::final_report(spec, members, self.run.reader(), finish)? {
            Some((mut report, of_last)) => {
                if let (Outcome::Success(value), false) = (&mut report.outcome, of_last) {
                    let put = &mut |key, piece| self.commit.put(key, piece);
                    *value = commit_builder::spill(spec.id(), value.clone(), put);
                }
                self.end = Some(spec.final_report(report, of_last));
            }
            None => nothing_is_revoked(),
        }
        Ok(())
    }
}

/// The members of one group or header, and the barrier that counts them.
#[derive(Debug)]
pub(super) struct FanOut {
    members: MemberTable,
    barrier: Barrier,
}

impl FanOut {
    pub(super) fn open(
        run: &Run,
        spec: &ChildSpec,
        fan: FanOutDef,
        commit: &mut CommitBuilder,
    ) -> Result<Self, ElementsError> {
        let group = spec.id();
        let reader = run.reader();
        let elements = reader.elements(spec.root, &fan, spec.input.as_ref())?;
        let (first, size) = match (&fan.members, &elements) {
            (Members::Each { span, .. }, Some(elements)) => {
                let size = elements.len() as u64;
                let first = run.number(size * span, commit);
                commit.record(group, Record::Expanded { first, size });
                (first, size)
            }
            _ => reader.expansion(group, &fan)?.unwrap_or_default(),
        };
        let checked = fan.policy.check_size(size);
        checked.map_err(ElementsError::Unusable)?;
        let barrier = Barrier::new(size, fan.policy);
        let members = MemberTable::new(group, fan, (first, size), elements, spec.input.clone());
        Ok(Self { members, barrier })
    }

    /// Returns the decision of the barrier of a group that is empty.
    fn start(&mut self, run: &Run, commit: &mut CommitBuilder) -> Option<Decision> {
        let commands = self.barrier.start();
        self.perform(run, commands, commit)
    }

    fn arrive(
        &mut self,
        run: &Run,
        index: Index,
        report: Report,
        commit: &mut CommitBuilder,
    ) -> Option<Decision> {
        let commands = self.barrier.arrive(index, report);
        self.perform(run, commands, commit)
    }

    /// Returns the barrier's decision, if it has made one.
    fn perform(
        &self,
        run: &Run,
        commands: Vec<barrier::Command>,
        commit: &mut CommitBuilder,
    ) -> Option<Decision> {
        use barrier::Command;
        let mut decision = None;
        for command in commands {
            match command {
                Command::Record(record) => commit.record(self.members.group(), record),
                Command::Launch(due) => run.launch(due, commit),
                // One member runs at a time, and it has just ended.
                Command::RevokeRest => {}
                Command::Notify(decided) => decision = Some(decided),
            }
        }
        decision
    }
}
