//! The barrier actor: its group's members report to it, it reports to the group.

use actix::{Actor, ActorContext, Context, Handler, Recipient};

use super::post::Post;
use super::shell::Shell;
use super::supervision::{BARRIER, Tether, is_orphaned};
use crate::canvas::id::Id;
use crate::canvas::machine::barrier::{Barrier, Command};
use crate::canvas::machine::revocation::stand;
use crate::canvas::machine::{Change, Record};
use crate::failpoint::{self, Point};
use crate::messages::supervisor::{Arrived, Decided, Mail, Word};

#[derive(Debug)]
pub(crate) struct BarrierActor {
    shell: Shell,
    /// The group or chord, in whose stream it records.
    group: Id,
    machine: Barrier,
    owner: Recipient<Decided>,
    /// A fold takes in each outcome.
    follower: Option<Post>,
    tether: Tether,
    post: Post,
}

impl BarrierActor {
    /// Starts it; members report to the post. A follower is told of each outcome.
    pub(crate) fn start(
        shell: Shell,
        group: Id,
        machine: Barrier,
        owner: Recipient<Decided>,
        follower: Option<Post>,
        tether: Tether,
    ) -> Post {
        let context = Context::new();
        let post = Post::of(
            &context,
            Some((stand(group, BARRIER), tether.supervisor().clone())),
        );
        let barrier = Self {
            shell,
            group,
            machine,
            owner,
            follower,
            tether,
            post: post.clone(),
        };
        let _ = context.run(barrier);
        post
    }

    fn tell_follower(&self, record: &Record) {
        if let Some(follower) = &self.follower
            && let Record::Child {
                index,
                change: Change::Done(outcome),
            } = record
        {
            follower.send(Word::Arrived(Arrived {
                index: *index,
                outcome: outcome.clone(),
            }));
        }
    }

    fn perform(&mut self, commands: Vec<Command>, context: &mut Context<Self>) {
        if is_orphaned(&self.post) {
            return context.terminate();
        }
        for command in commands {
            match command {
                Command::Record(record) => {
                    self.tell_follower(&record);
                    self.shell.record(self.group, record);
                }
                Command::Launch(due) => {
                    let owner = self.tether.supervisor();
                    self.shell.launch(self.group.root(), due, owner);
                }
                Command::Tell(verdict) => {
                    self.tether.release();
                    failpoint::reach(Point::Verdict);
                    self.owner.do_send(Decided(verdict));
                    failpoint::reach(Point::Told);
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

impl Handler<Mail> for BarrierActor {
    type Result = ();

    fn handle(&mut self, _: Mail, context: &mut Context<Self>) {
        if self.post.is_closed() {
            self.tether.release();
            return context.stop();
        }
        for word in self.post.collect() {
            super::fault("barrier");
            if let Word::Ended(ended) = word {
                let commands = self.machine.arrive(ended.index, ended.report);
                self.perform(commands, context);
            }
        }
    }
}
