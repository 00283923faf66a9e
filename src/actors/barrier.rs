//! The barrier actor: its group's members report to it, it reports to the group.

use actix::{Actor, ActorContext, Context, Handler, Recipient};

use super::shell::Shell;
use super::supervision::Tether;
use crate::canvas::id::Id;
use crate::canvas::machine::barrier::{Barrier, Command};
use crate::canvas::machine::{Change, Record};
use crate::messages::supervisor::{Arrived, ChildEnded, Decided, Follow};

#[derive(Debug)]
pub(crate) struct BarrierActor {
    shell: Shell,
    /// The group or chord, in whose stream it records.
    group: Id,
    machine: Barrier,
    owner: Recipient<Decided>,
    /// A fold takes in each outcome.
    follower: Option<Recipient<Arrived>>,
    tether: Tether,
}

impl BarrierActor {
    pub(crate) fn new(
        shell: Shell,
        group: Id,
        machine: Barrier,
        owner: Recipient<Decided>,
        tether: Tether,
    ) -> Self {
        Self {
            shell,
            group,
            machine,
            owner,
            follower: None,
            tether,
        }
    }

    fn tell_follower(&self, record: &Record) {
        if let Some(follower) = &self.follower
            && let Record::Child {
                index,
                change: Change::Done(outcome),
            } = record
        {
            follower.do_send(Arrived {
                index: *index,
                outcome: outcome.clone(),
            });
        }
    }

    fn perform(&mut self, commands: Vec<Command>, context: &mut Context<Self>) {
        for command in commands {
            match command {
                Command::Record(record) => {
                    self.tell_follower(&record);
                    self.shell.record(self.group, record);
                }
                Command::Launch(due) => self.shell.launch(self.group.root(), due),
                Command::Tell(verdict) => {
                    self.tether.release();
                    self.owner.do_send(Decided(verdict));
                    context.stop();
                }
            }
        }
    }
}

impl Actor for BarrierActor {
    type Context = Context<Self>;

    fn started(&mut self, context: &mut Self::Context) {
        let commands = self.machine.start();
        self.perform(commands, context);
    }
}

impl Handler<ChildEnded> for BarrierActor {
    type Result = ();

    fn handle(&mut self, ended: ChildEnded, context: &mut Context<Self>) {
        #[cfg(test)]
        super::tests::fault("barrier");
        let commands = self.machine.arrive(ended.index, ended.report);
        self.perform(commands, context);
    }
}

impl Handler<Follow> for BarrierActor {
    type Result = ();

    fn handle(&mut self, Follow(follower): Follow, _: &mut Context<Self>) {
        self.follower = Some(follower);
    }
}
