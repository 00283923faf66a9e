//! The supervisor actor of a chain, group, chord or fold: starts its children, and carries out what its
//! machine decides through the journal.

use actix::{Actor, ActorContext, Context, Handler};

use super::child::{BARRIER, Child, Resume};
use super::context::EngineContext;
use super::event_queue::EventQueue;
use super::fan_out::{self, FanOut};
use super::supervision::{abandoned_report, restart_after_commit};
use crate::canvas::freeze::{Def, Node};
use crate::canvas::machine::chain::Chain;
use crate::canvas::machine::chord::Chord;
use crate::canvas::machine::effect::{ChildStart, Effect, Finish, Host, Supervise, carry_out};
use crate::canvas::machine::fold::{Fold, Intake};
use crate::canvas::machine::group::Group;
use crate::canvas::machine::{BODY, Index, IndexSet, PendingCallback, Record, Report, is_member};
use crate::canvas::outcome::Value;
use crate::messages::supervisor::{
    Arrived, ChildEnded, ChildEvent, ChildExited, Decided, EventsReady, RestartChild,
};
use crate::persistence::StoreError;
use crate::persistence::records::children;
use crate::testing::failpoint::{self, Point};
use crate::testing::hooks;

pub(crate) type ChainActor = Supervisor<Chain>;
pub(crate) type GroupActor = Supervisor<Group>;
pub(crate) type ChordActor = Supervisor<Chord>;
pub(crate) type FoldActor = Supervisor<Fold>;

#[derive(Debug)]
pub(crate) struct Supervisor<M> {
    engine: EngineContext,
    child: Box<Child>,
    /// Missing before the actor has started, and if its members cannot be known.
    running: Option<Running<M>>,
}

#[derive(Debug)]
struct Running<M> {
    machine: M,
    queue: EventQueue,
    /// A chain has none.
    fan_out: Option<FanOut>,
}

/// A machine that the supervisor actor can recover from the store.
pub(crate) trait Machine: Supervise + Sized + Unpin + 'static {
    /// The name of its actor in simulations.
    const KIND: &'static str;

    /// Returns the machine as the store has it.
    fn recover(
        engine: &EngineContext,
        child: &Child,
        members: Members,
    ) -> Result<(Self, Vec<Effect>), StoreError>;
}

/// The members of a group or header when its supervisor starts.
#[derive(Debug)]
pub(crate) struct Members {
    /// Those that are not to start.
    taken: IndexSet,
    size: u64,
    window: u64,
}

impl Machine for Chain {
    const KIND: &'static str = "chain";

    fn recover(
        engine: &EngineContext,
        child: &Child,
        _: Members,
    ) -> Result<(Self, Vec<Effect>), StoreError> {
        let records: Vec<Record> = match child.resume {
            Resume::Fresh => Vec::new(),
            Resume::Stored(_) => engine
                .reader()
                .records(child.id())
                .collect::<Result<_, _>>()?,
        };
        let (len, input) = (child.steps().len() as Index, child.input.clone());
        Ok(Self::recover(len, input, Value::nil(), &records))
    }
}

impl Machine for Group {
    const KIND: &'static str = "group";

    fn recover(
        _: &EngineContext,
        _: &Child,
        members: Members,
    ) -> Result<(Self, Vec<Effect>), StoreError> {
        Ok(Self::recover(members.taken, members.window))
    }
}

impl Machine for Chord {
    const KIND: &'static str = "chord";

    fn recover(
        _: &EngineContext,
        _: &Child,
        members: Members,
    ) -> Result<(Self, Vec<Effect>), StoreError> {
        Ok(Self::recover(members.taken, members.window))
    }
}

impl Machine for Fold {
    const KIND: &'static str = "fold";

    fn recover(
        engine: &EngineContext,
        child: &Child,
        members: Members,
    ) -> Result<(Self, Vec<Effect>), StoreError> {
        let mut intake = Intake::of(&child.node.def, members.size);
        if let Resume::Stored(_) = child.resume {
            for record in engine.reader().records(child.id()) {
                intake.replay(record?);
            }
        }
        Ok(Self::recover(intake, members.window))
    }
}

impl<M: Machine> Supervisor<M> {
    pub(crate) fn new(engine: EngineContext, child: Box<Child>) -> Self {
        Self {
            engine,
            child,
            running: None,
        }
    }

    /// Starts its barrier, if it has members, and recovers its machine.
    fn open(&mut self, context: &mut Context<Self>) -> Result<(), StoreError> {
        let queue = self.child.event_queue(context);
        let mut members = Members {
            taken: IndexSet::new(0),
            size: 0,
            window: self.engine.window(),
        };
        let mut fan_out = None;
        if let Some(header) = self.child.node.def.header().cloned() {
            match fan_out::open(&self.engine, &self.child, header, queue.clone(), context) {
                Ok((opened, taken)) => {
                    members.taken = taken;
                    members.size = opened.members().size();
                    members.window = opened.window(&self.engine);
                    fan_out = Some(opened);
                }
                Err(Some(report)) => {
                    let report = children::with_body(&self.child, self.engine.reader(), report)?;
                    self.child.fail(&self.engine, report);
                    context.stop();
                    return Ok(());
                }
                Err(None) => return Ok(()),
            }
        }
        let (machine, effects) = <M as Machine>::recover(&self.engine, &self.child, members)?;
        self.running = Some(Running {
            machine,
            queue,
            fan_out,
        });
        self.decide(context, |_| effects);
        Ok(())
    }

    /// Has the machine decide, and carries out what it asks for.
    fn decide(&mut self, context: &mut Context<Self>, event: impl FnOnce(&mut M) -> Vec<Effect>) {
        let Some(running) = &mut self.running else {
            return;
        };
        let effects = event(&mut running.machine);
        if self.child.is_orphaned() {
            return context.terminate();
        }
        let (machine, mut host) = running.host(&self.engine, &mut self.child, context);
        if let Err(error) = carry_out(machine, effects, &mut host) {
            self.engine.halt(error.into());
        }
    }

    /// Tells the machine if the supervisor is revoked, before it receives anything else. (A chain starts
    /// one step at a time, and each finds out by itself.)
    fn check_revoked(&mut self, context: &mut Context<Self>) {
        if self.running.as_ref().is_some_and(|it| it.fan_out.is_some())
            && self
                .engine
                .observe_revocation(self.child.root, self.child.path())
        {
            self.decide(context, M::revoked);
        }
    }

    fn on_event(&mut self, event: ChildEvent, context: &mut Context<Self>) {
        match event {
            ChildEvent::Ended(ChildEnded { index, report, .. }) => {
                hooks::fault(M::KIND);
                self.decide(context, |machine| machine.child_ended(index, report));
                if index == BODY {
                    failpoint::reach(Point::BodyEnded);
                }
            }
            ChildEvent::Exited(exited) if exited.index == BARRIER => {
                if exited.lost {
                    // Without its barrier it cannot go on: its own supervisor starts it again.
                    context.terminate();
                }
            }
            ChildEvent::Exited(ChildExited { index, lost, .. }) => {
                if self.running.as_ref().is_some_and(|it| it.has_member(index)) {
                    hooks::fault(M::KIND);
                }
                self.decide(context, |machine| machine.child_exited(index, lost));
            }
            ChildEvent::Arrived(Arrived { index, outcome }) => {
                self.decide(context, |machine| machine.member_arrived(index, outcome));
            }
            ChildEvent::Launch(_) => {}
        }
    }

    /// Starts a lost child again, as the store has it.
    fn restart(&mut self, index: Index, context: &mut Context<Self>) -> Result<(), StoreError> {
        let Some(running) = &mut self.running else {
            return Ok(());
        };
        let Some(start) = running.machine.running_child(index) else {
            return Ok(());
        };
        let last = self.engine.reader().last_change(self.child.id(), index)?;
        let (_, mut host) = running.host(&self.engine, &mut self.child, context);
        host.start_as(start, Resume::Stored(last))
    }
}

impl<M> Running<M> {
    /// Says whether this child reports to the barrier.
    fn has_member(&self, index: Index) -> bool {
        self.fan_out.is_some() && is_member(index)
    }
}

impl<M: Machine> Running<M> {
    /// Returns the machine, and the host that carries out what it asks for.
    fn host<'a>(
        &'a mut self,
        engine: &'a EngineContext,
        child: &'a mut Box<Child>,
        context: &'a mut Context<Supervisor<M>>,
    ) -> (&'a mut M, ActorHost<'a, M>) {
        let host = ActorHost {
            engine,
            child,
            queue: &self.queue,
            fan_out: self.fan_out.as_mut(),
            context,
        };
        (&mut self.machine, host)
    }
}

/// Carries out what the machine of one actor asks for.
struct ActorHost<'a, M: Machine> {
    engine: &'a EngineContext,
    child: &'a mut Box<Child>,
    queue: &'a EventQueue,
    fan_out: Option<&'a mut FanOut>,
    context: &'a mut Context<Supervisor<M>>,
}

impl<M: Machine> ActorHost<'_, M> {
    /// Returns how far this child had got before the supervisor's actor was started.
    fn resume(&mut self, child: &ChildStart) -> Result<Resume, StoreError> {
        Ok(match (child, &mut self.fan_out) {
            // Of the steps that are still to come only the first can have been started before.
            (ChildStart::Step(index, _), _) => {
                match std::mem::replace(&mut self.child.resume, Resume::Fresh) {
                    Resume::Fresh => Resume::Fresh,
                    Resume::Stored(_) => {
                        let reader = self.engine.reader();
                        Resume::Stored(reader.last_change(self.child.id(), *index)?)
                    }
                }
            }
            (ChildStart::Run(_, Some(last)), _) => Resume::Stored(Some(last.clone())),
            (ChildStart::Member(_) | ChildStart::Body, Some(fan_out)) => {
                fan_out.resume(child.index())
            }
            _ => Resume::Fresh,
        })
    }

    fn start_as(&mut self, child: ChildStart, resume: Resume) -> Result<(), StoreError> {
        let (is_member, is_body) = match child {
            ChildStart::Member(_) => (true, false),
            ChildStart::Body => (false, true),
            ChildStart::Step(..) | ChildStart::Run(..) => (false, false),
        };
        let mut fan_out = self.fan_out.as_deref_mut();
        let members = fan_out.as_mut().map(|fan_out| fan_out.members_mut());
        let mut spec = children::child(self.child, members, self.engine.reader(), child)?;
        let mut reports_to = self.queue;
        if let Some(fan_out) = fan_out.filter(|_| is_member) {
            spec.since_ms = Some(fan_out.since_ms());
            reports_to = fan_out.barrier();
        }
        Child::new(spec, resume, reports_to.clone(), self.queue.clone()).start(self.engine);
        if is_body {
            failpoint::reach(Point::Body);
        }
        Ok(())
    }

    /// Returns the node of a child that is no member.
    fn node(&self, index: Index) -> &Node {
        match &self.child.node.def {
            Def::Chain(steps) => &steps[index as usize],
            Def::Chord { body, .. } | Def::Fold { body, .. } => body,
            Def::Task(_) | Def::Group(_) => unreachable!("all children of a group are members"),
        }
    }
}

impl<M: Machine> Host for ActorHost<'_, M> {
    type Error = StoreError;

    fn record(&mut self, record: Record) {
        self.engine.record(self.child.id(), record);
    }

    fn launch_callbacks(&mut self, callbacks: Vec<PendingCallback>) {
        self.engine.launch(self.child.root, callbacks, self.queue);
    }

    fn start(&mut self, child: ChildStart) -> Result<(), StoreError> {
        let resume = self.resume(&child)?;
        self.start_as(child, resume)
    }

    fn restart(&mut self, index: Index) {
        restart_after_commit(self.engine, self.child.id(), index, self.context);
    }

    fn abandon(&mut self, index: Index) -> Result<Option<Report>, StoreError> {
        if is_member(index)
            && let Some(fan_out) = &mut self.fan_out
        {
            fan_out.abandon(self.engine, index)?;
            return Ok(None);
        }
        let node = self.node(index);
        Ok(Some(abandoned_report(self.engine, self.child.root, node)))
    }

    /// In one batch, so that both change together.
    fn keep_accumulator(&mut self, folded: u64, acc: Value) -> Value {
        let body = self.child.root.node(self.node(BODY).seq);
        let acc = self.engine.spill_acc(body, acc);
        self.record(Record::Folded {
            folded,
            acc: acc.clone(),
        });
        acc
    }

    fn finish(&mut self, finish: Finish) -> Result<(), StoreError> {
        let members = self.fan_out.as_deref().map(FanOut::members);
        match children::final_report(self.child, members, self.engine.reader(), finish)? {
            Some((report, true)) => self.child.forward(self.engine, report),
            Some((report, false)) => {
                let outcome = self.engine.spill(self.child.id(), report.outcome);
                let report = Report { outcome, ..report };
                self.child.fail(self.engine, report);
            }
            None => {
                if let Some(fan_out) = &self.fan_out {
                    fan_out.close();
                }
                self.child.revoke();
            }
        }
        // None of its members runs any more.
        self.engine.forget_left_out(self.child.id());
        self.context.stop();
        Ok(())
    }
}

impl<M: Machine> Actor for Supervisor<M> {
    type Context = Context<Self>;

    fn started(&mut self, context: &mut Self::Context) {
        if let Err(error) = self.open(context) {
            self.engine.halt(error.into());
        }
    }
}

impl<M: Machine> Handler<EventsReady> for Supervisor<M> {
    type Result = ();

    fn handle(&mut self, _: EventsReady, context: &mut Context<Self>) {
        self.check_revoked(context);
        let Some(running) = &mut self.running else {
            return;
        };
        running.machine.resize(self.engine.window());
        for event in running.queue.drain() {
            self.on_event(event, context);
        }
    }
}

impl<M: Machine> Handler<Decided> for Supervisor<M> {
    type Result = ();

    fn handle(&mut self, Decided(decision): Decided, context: &mut Context<Self>) {
        self.check_revoked(context);
        self.decide(context, |machine| machine.decided(decision));
    }
}

impl<M: Machine> Handler<RestartChild> for Supervisor<M> {
    type Result = ();

    fn handle(&mut self, restart: RestartChild, context: &mut Context<Self>) {
        if let Err(error) = self.restart(restart.index, context) {
            self.engine.halt(error.into());
        }
    }
}
