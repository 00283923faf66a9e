//! The group actor: supervisor of its members.

use actix::{Actor, ActorContext, AsyncContext, Context, Handler};

use super::fan::{FanOut, reads_its_input};
use super::journal::Act;
use super::shell::Shell;
use super::supervision::{BARRIER, Child};
use crate::canvas::freeze::{Def, Fan};
use crate::canvas::machine::Index;
use crate::canvas::machine::group::{self, Command, Group};
use crate::canvas::outcome::{FailureKind, Outcome};
use crate::messages::supervisor::{ChildStopped, Decided, Open, Respawn};
use crate::persistence::StoreError;
use crate::persistence::reader::ElementsError;

#[derive(Debug)]
pub(crate) struct GroupActor {
    shell: Shell,
    child: Child,
    /// There from the start on, unless the members cannot be known.
    running: Option<(Group, FanOut)>,
}

impl GroupActor {
    pub(crate) fn new(shell: Shell, child: Child) -> Self {
        Self {
            shell,
            child,
            running: None,
        }
    }

    fn fan(&self) -> &Fan {
        let Def::Group(fan) = &self.child.node.def else {
            unreachable!("a group actor is started for a group")
        };
        fan
    }

    fn open(&mut self, context: &mut Context<Self>) {
        let address = context.address();
        let opened = FanOut::open(
            &self.shell,
            &self.child,
            self.fan().clone(),
            address.clone().recipient(),
            address.recipient(),
        );
        match opened {
            Ok((fan, arrived)) => {
                let (machine, commands) = Group::recover(arrived, self.shell.window());
                self.running = Some((machine, fan));
                self.perform(commands, context);
            }
            Err(ElementsError::Store(error)) => self.shell.halt(error.into()),
            Err(ElementsError::NotAList(what)) => {
                let failure = self.child.failure(FailureKind::Type, &what);
                self.child.report(&self.shell, Outcome::Failure(failure));
                context.stop();
            }
        }
    }

    fn perform(&mut self, commands: Vec<Command>, context: &mut Context<Self>) {
        let Some((_, fan)) = &mut self.running else {
            return;
        };
        for command in commands {
            let done = match command {
                Command::Report(verdict) => {
                    let outcome = group::outcome(verdict, fan.list());
                    self.child.report(&self.shell, outcome);
                    context.stop();
                    return;
                }
                command => members(&self.shell, fan, command, &self.child, context),
            };
            if let Err(error) = done {
                self.shell.halt(error.into());
            }
        }
    }
}

/// What a group's machine asks of its members; a chord's header asks the same.
pub(crate) fn members<A>(
    shell: &Shell,
    fan: &mut FanOut,
    command: Command,
    child: &Child,
    context: &mut Context<A>,
) -> Result<(), StoreError>
where
    A: Actor<Context = Context<A>> + Handler<Respawn>,
{
    match command {
        Command::Spawn(index) => fan.spawn(shell, index),
        Command::Respawn(index) => {
            respawn_later(shell, child, index, context);
            Ok(())
        }
        Command::GiveUp(index) => fan.give_up(shell, index),
        Command::Report(_) => Ok(()),
    }
}

/// Has this actor told to start child `index` again, once all that the child had recorded is
/// durable and can be read.
pub(crate) fn respawn_later<A>(shell: &Shell, child: &Child, index: Index, context: &mut Context<A>)
where
    A: Actor<Context = Context<A>> + Handler<Respawn>,
{
    if shell.is_closed() {
        return;
    }
    tracing::error!(supervisor = %child.id(), index, "a child's actor was lost and is started again");
    let root = child.root;
    shell.then(Act::Respawn(
        context.address().recipient(),
        Respawn { root, index },
    ));
}

impl Actor for GroupActor {
    type Context = Context<Self>;

    fn started(&mut self, context: &mut Self::Context) {
        if reads_its_input(self.fan(), self.child.input.as_ref()) {
            self.shell.then(Act::Open(context.address().recipient()));
        } else {
            self.open(context);
        }
    }
}

impl Handler<Open> for GroupActor {
    type Result = ();

    fn handle(&mut self, _: Open, context: &mut Context<Self>) {
        self.open(context);
    }
}

impl Handler<ChildStopped> for GroupActor {
    type Result = ();

    fn handle(&mut self, stopped: ChildStopped, context: &mut Context<Self>) {
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

impl Handler<Decided> for GroupActor {
    type Result = ();

    fn handle(&mut self, Decided(verdict): Decided, context: &mut Context<Self>) {
        if let Some((machine, _)) = &mut self.running {
            let commands = machine.decided(verdict);
            self.perform(commands, context);
        }
    }
}

impl Handler<Respawn> for GroupActor {
    type Result = ();

    fn handle(&mut self, respawn: Respawn, _: &mut Context<Self>) {
        if let Some((_, fan)) = &mut self.running
            && let Err(error) = fan.respawn(&self.shell, respawn.index)
        {
            self.shell.halt(error.into());
        }
    }
}
