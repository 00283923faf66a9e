//! The group actor: supervisor of its members.

use actix::{Actor, ActorContext, Context, Handler};

use super::engine_context::EngineContext;
use super::fan_out::{self, FanOut};
use super::supervision::{BARRIER, Child};
use crate::canvas::freeze::Def;
use crate::canvas::machine::group::{self, Command, Group};
use crate::messages::supervisor::{ChildEvent, ChildExited, Decided, EventsReady, RestartChild};

#[derive(Debug)]
pub(crate) struct GroupActor {
    shell: EngineContext,
    child: Box<Child>,
    /// There from the start on, unless the members cannot be known.
    running: Option<(Group, FanOut)>,
}

impl GroupActor {
    pub(crate) fn new(shell: EngineContext, child: Box<Child>) -> Self {
        Self {
            shell,
            child,
            running: None,
        }
    }

    fn perform(&mut self, commands: Vec<Command>, context: &mut Context<Self>) {
        if self.child.is_orphaned() {
            return context.terminate();
        }
        let Some((_, fan)) = &mut self.running else {
            return;
        };
        for command in commands {
            let done = match command {
                Command::Report(verdict) => {
                    let roster = fan.roster();
                    let followed = roster.is_followed();
                    let outcome = group::outcome(self.child.id(), followed, verdict, roster.list());
                    self.child.report(&self.shell, outcome);
                    context.stop();
                    return;
                }
                Command::Revoke => {
                    fan.close();
                    self.child.revoke();
                    context.stop();
                    return;
                }
                command => fan.perform(&self.shell, command, &self.child, context),
            };
            if let Err(error) = done {
                self.shell.halt(error.into());
            }
        }
    }
}

impl Actor for GroupActor {
    type Context = Context<Self>;

    fn started(&mut self, context: &mut Self::Context) {
        let Def::Group(fan) = &self.child.node.def else {
            unreachable!("a group actor is started for a group")
        };
        let fan = fan.clone();
        let post = self.child.event_queue(context);
        match fan_out::open(&self.shell, &self.child, fan, post, context) {
            Ok((fan, arrived)) => {
                let (machine, commands) = Group::recover(arrived, fan.window(&self.shell));
                self.running = Some((machine, fan));
                self.perform(commands, context);
            }
            Err(Some(report)) => {
                self.child.fail(&self.shell, report);
                context.stop();
            }
            Err(None) => {}
        }
    }
}

impl GroupActor {
    /// Finds out whether it is revoked, before it hears of anything else.
    fn check_revoked(&mut self, context: &mut Context<Self>) {
        if self
            .shell
            .observe_revocation(self.child.root, self.child.path())
            && let Some((machine, _)) = &mut self.running
        {
            let commands = machine.revoked();
            self.perform(commands, context);
        }
    }

    fn stopped(&mut self, stopped: ChildExited, context: &mut Context<Self>) {
        super::fault("group");
        if stopped.index == BARRIER {
            if stopped.lost {
                // Without its barrier the group cannot go on: its own supervisor starts it anew.
                context.terminate();
            }
            return;
        }
        if let Some((machine, _)) = &mut self.running {
            let commands = machine.stopped(stopped.index, stopped.lost);
            self.perform(commands, context);
        }
    }
}

impl Handler<EventsReady> for GroupActor {
    type Result = ();

    fn handle(&mut self, _: EventsReady, context: &mut Context<Self>) {
        self.check_revoked(context);
        let Some((machine, fan)) = &mut self.running else {
            return;
        };
        machine.resize(self.shell.window());
        for word in fan.event_queue().drain() {
            match word {
                ChildEvent::Exited(stopped) => self.stopped(stopped, context),
                // Members report to the barrier.
                ChildEvent::Ended(_) | ChildEvent::Launch(_) | ChildEvent::Arrived(_) => {}
            }
        }
    }
}

impl Handler<Decided> for GroupActor {
    type Result = ();

    fn handle(&mut self, Decided(verdict): Decided, context: &mut Context<Self>) {
        self.check_revoked(context);
        if let Some((machine, _)) = &mut self.running {
            let commands = machine.decided(verdict);
            self.perform(commands, context);
        }
    }
}

impl Handler<RestartChild> for GroupActor {
    type Result = ();

    fn handle(&mut self, respawn: RestartChild, _: &mut Context<Self>) {
        if let Some((_, fan)) = &mut self.running
            && let Err(error) = fan.respawn(&self.shell, respawn.index)
        {
            self.shell.halt(error.into());
        }
    }
}
