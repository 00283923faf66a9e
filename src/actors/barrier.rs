//! The barrier actor: counts the members of a group, which report to it, and tells the supervisor of
//! the group its verdict.

use actix::{Actor, ActorContext, Context, Handler, Recipient};

use super::child::{BARRIER, ExitGuard, is_orphaned};
use super::context::EngineContext;
use super::event_queue::EventQueue;
use crate::canvas::id::Id;
use crate::canvas::machine::barrier::{Barrier, Command};
use crate::canvas::machine::{ChildProgress, Record};
use crate::canvas::revocation::node_key;
use crate::messages::supervisor::{Arrived, ChildEvent, Decided, EventsReady};
use crate::testing::failpoint::{self, Point};
use crate::testing::hooks;

#[derive(Debug)]
pub(crate) struct BarrierActor {
    engine: EngineContext,
    /// The group, chord or fold. The barrier records in its stream.
    group: Id,
    machine: Barrier,
    owner: Recipient<Decided>,
    /// The queue of a fold, which is told of each outcome.
    follower: Option<EventQueue>,
    exit_guard: ExitGuard,
    events: EventQueue,
}

impl BarrierActor {
    /// Starts a barrier and returns its queue, to which the members report. A follower is told of each
    /// outcome.
    pub(crate) fn start(
        engine: EngineContext,
        group: Id,
        machine: Barrier,
        owner: Recipient<Decided>,
        follower: Option<EventQueue>,
        exit_guard: ExitGuard,
    ) -> EventQueue {
        let context = Context::new();
        let events = EventQueue::of(
            &context,
            Some((node_key(group, BARRIER), exit_guard.supervisor().clone())),
        );
        let barrier = Self {
            engine,
            group,
            machine,
            owner,
            follower,
            exit_guard,
            events: events.clone(),
        };
        let _ = context.run(barrier);
        events
    }

    fn notify_follower(&self, record: &Record) {
        if let Some(follower) = &self.follower
            && let Record::Child {
                index,
                change: ChildProgress::Done(outcome),
            } = record
        {
            follower.send(ChildEvent::Arrived(Arrived {
                index: *index,
                outcome: outcome.clone(),
            }));
        }
    }

    fn perform(&mut self, commands: Vec<Command>, context: &mut Context<Self>) {
        if is_orphaned(&self.events) {
            return context.terminate();
        }
        for command in commands {
            match command {
                Command::Record(record) => {
                    self.notify_follower(&record);
                    self.engine.record(self.group, record);
                }
                Command::Launch(due) => {
                    let owner = self.exit_guard.supervisor();
                    self.engine.launch(self.group.root(), due, owner);
                }
                Command::RevokeRest => {
                    if let Err(error) = self.engine.leave_out_rest(self.group) {
                        self.engine.halt(error.into());
                    }
                }
                Command::Notify(decision) => {
                    self.exit_guard.release();
                    failpoint::reach(Point::Verdict);
                    self.owner.do_send(Decided(decision));
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

impl Handler<EventsReady> for BarrierActor {
    type Result = ();

    fn handle(&mut self, _: EventsReady, context: &mut Context<Self>) {
        if self.events.is_closed() {
            self.exit_guard.release();
            return context.stop();
        }
        for event in self.events.drain() {
            hooks::fault("barrier");
            if let ChildEvent::Ended(ended) = event {
                let commands = self.machine.arrive(ended.index, ended.report);
                self.perform(commands, context);
            }
        }
    }
}
