//! The fold actor: supervisor of its members, and of its function, which runs over what they give.

use actix::{Actor, ActorContext, Context, Handler};

use super::engine_context::EngineContext;
use super::fan_out::{self, FanOut};
use super::supervision::{BARRIER, Child, Resume, abandoned_report, restart_after_commit};
use crate::canvas::freeze::{Def, Node};
use crate::canvas::machine::fold::{Command, Fold, Intake, Run, is_run};
use crate::canvas::machine::{Index, Record};
use crate::canvas::outcome::{Outcome, TaskFailure, Value};
use crate::messages::supervisor::{
    Arrived, ChildEnded, ChildEvent, ChildExited, Decided, EventsReady, RestartChild,
};
use crate::persistence::StoreError;

#[derive(Debug)]
pub(crate) struct FoldActor {
    shell: EngineContext,
    child: Box<Child>,
    /// There from the start on, unless the members cannot be known.
    running: Option<(Fold, FanOut)>,
}

impl FoldActor {
    pub(crate) fn new(shell: EngineContext, child: Box<Child>) -> Self {
        Self {
            shell,
            child,
            running: None,
        }
    }

    fn body(&self) -> &Node {
        match &self.child.node.def {
            Def::Fold { body, .. } => body,
            _ => unreachable!("a fold actor is started for a fold"),
        }
    }

    /// What has come in, as the store has it.
    fn intake(&self, size: u64) -> Result<Intake, StoreError> {
        let Def::Fold {
            header,
            init,
            order,
            ..
        } = &self.child.node.def
        else {
            unreachable!("a fold actor is started for a fold")
        };
        let init = Value::Inline(init.clone());
        let mut intake = Intake::new(*order, header.settled, size, init);
        if let Resume::Stored(_) = self.child.resume {
            for record in self.shell.reader().records(self.child.id()) {
                intake.replay(record?);
            }
        }
        Ok(intake)
    }

    /// Has the machine decide, and carries it out.
    fn decide(
        &mut self,
        context: &mut Context<Self>,
        event: impl FnOnce(&mut Fold) -> Vec<Command>,
    ) {
        if let Some((machine, _)) = &mut self.running {
            let commands = event(machine);
            if let Err(error) = self.perform(commands, context) {
                self.shell.halt(error.into());
            }
        }
    }

    fn perform(
        &mut self,
        commands: Vec<Command>,
        context: &mut Context<Self>,
    ) -> Result<(), StoreError> {
        if self.child.is_orphaned() {
            context.terminate();
            return Ok(());
        }
        for command in commands {
            match command {
                Command::Members(command) => {
                    if let Some((_, fan)) = &mut self.running {
                        fan.perform(&self.shell, command, &self.child, context)?;
                    }
                }
                Command::Run(run, last) => {
                    let resume = last.map_or(Resume::Fresh, |last| Resume::Stored(Some(last)));
                    self.start_run(run, resume);
                }
                Command::Restart(index) => {
                    restart_after_commit(&self.shell, self.child.id(), index, context);
                }
                Command::Abandon(index) => {
                    let report = abandoned_report(&self.shell, self.child.root, self.body());
                    self.decide(context, |fold| fold.run_ended(index, report));
                }
                Command::Keep { folded, acc } => self.keep(folded, acc),
                Command::Record(record) => self.shell.record(self.child.id(), record),
                Command::Break(member) => {
                    let failure = TaskFailure::chord(self.child.id(), member);
                    self.end(Outcome::Failure(failure), context);
                }
                Command::Fail(outcome) => self.end(outcome, context),
                Command::Revoke => {
                    if let Some((_, fan)) = &self.running {
                        fan.close();
                    }
                    self.child.revoke();
                    context.stop();
                }
                Command::Succeed => {
                    if let Some((machine, _)) = &self.running {
                        let outcome = Outcome::Success(machine.acc());
                        self.end(outcome, context);
                    }
                }
            }
        }
        Ok(())
    }

    /// Both in one batch: what is kept is put in the place of what was.
    fn keep(&mut self, folded: u64, acc: Value) {
        let (fold, root) = (self.child.id(), self.child.root);
        let acc = self.shell.spill_acc(root.node(self.body().seq), acc);
        let record = Record::Folded {
            folded,
            acc: acc.clone(),
        };
        self.shell.record(fold, record);
        if let Some((machine, _)) = &mut self.running {
            machine.acc_is_kept(acc);
        }
    }

    fn end(&mut self, outcome: Outcome, context: &mut Context<Self>) {
        self.child.report(&self.shell, outcome);
        context.stop();
    }

    fn start_run(&self, run: Run, resume: Resume) {
        let Some((_, fan)) = &self.running else {
            return;
        };
        let place = self.child.fold_run(run);
        let child = Child::new(
            place,
            resume,
            fan.event_queue().clone(),
            fan.event_queue().clone(),
        );
        child.start(&self.shell);
    }

    /// Finds out whether it is revoked, before it hears of anything else.
    fn check_revoked(&mut self, context: &mut Context<Self>) {
        if self
            .shell
            .observe_revocation(self.child.root, self.child.path())
        {
            self.decide(context, Fold::revoked);
        }
    }

    fn on_event(&mut self, word: ChildEvent, context: &mut Context<Self>) {
        match word {
            ChildEvent::Arrived(Arrived { index, outcome }) => {
                self.decide(context, |fold| fold.arrived(index, outcome));
            }
            ChildEvent::Ended(ChildEnded { index, report, .. }) => {
                super::fault("fold");
                self.decide(context, |fold| fold.run_ended(index, report));
            }
            // Without its barrier the fold cannot go on: its own supervisor starts it anew.
            ChildEvent::Exited(stopped) if stopped.index == BARRIER => {
                if stopped.lost {
                    context.terminate();
                }
            }
            ChildEvent::Exited(ChildExited { index, lost, .. }) => {
                self.decide(context, |fold| fold.stopped(index, lost));
            }
            ChildEvent::Launch(_) => {}
        }
    }

    /// Starts a lost child again, as the store has it.
    fn respawn(&mut self, index: Index) -> Result<(), StoreError> {
        let Some((machine, fan)) = &mut self.running else {
            return Ok(());
        };
        if !is_run(index) {
            return fan.respawn(&self.shell, index);
        }
        if let Some(run) = machine.current() {
            let last = self.shell.reader().last_change(self.child.id(), index)?;
            self.start_run(run, Resume::Stored(last));
        }
        Ok(())
    }
}

impl Actor for FoldActor {
    type Context = Context<Self>;

    fn started(&mut self, context: &mut Self::Context) {
        let Def::Fold { header, .. } = &self.child.node.def else {
            unreachable!("a fold actor is started for a fold")
        };
        let header = header.clone();
        let post = self.child.event_queue(context);
        match fan_out::open(&self.shell, &self.child, header, post, context) {
            Ok((fan, _)) => {
                let intake = match self.intake(fan.size()) {
                    Ok(intake) => intake,
                    Err(error) => return self.shell.halt(error.into()),
                };
                let (machine, commands) = Fold::recover(intake, fan.window(&self.shell));
                self.running = Some((machine, fan));
                self.decide(context, |_| commands);
            }
            Err(Some(report)) => {
                self.child.fail(&self.shell, report);
                context.stop();
            }
            Err(None) => {}
        }
    }
}

impl Handler<EventsReady> for FoldActor {
    type Result = ();

    fn handle(&mut self, _: EventsReady, context: &mut Context<Self>) {
        self.check_revoked(context);
        let Some((machine, fan)) = &mut self.running else {
            return;
        };
        machine.resize(self.shell.window());
        for word in fan.event_queue().drain() {
            self.on_event(word, context);
        }
    }
}

impl Handler<Decided> for FoldActor {
    type Result = ();

    fn handle(&mut self, Decided(verdict): Decided, context: &mut Context<Self>) {
        self.check_revoked(context);
        self.decide(context, |fold| fold.decided(verdict));
    }
}

impl Handler<RestartChild> for FoldActor {
    type Result = ();

    fn handle(&mut self, respawn: RestartChild, _: &mut Context<Self>) {
        if let Err(error) = self.respawn(respawn.index) {
            self.shell.halt(error.into());
        }
    }
}
