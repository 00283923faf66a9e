//! The chord actor: supervisor of its header's members, then of its body.

use actix::{Actor, ActorContext, Context, Handler};

use super::engine_context::EngineContext;
use super::fan_out::{self, FanOut};
use super::supervision::{BARRIER, Child, Resume, abandoned_report, restart_after_commit};
use crate::canvas::freeze::{Def, Node};
use crate::canvas::machine::chord::{Chord, Command};
use crate::canvas::machine::{BODY, Report, group};
use crate::canvas::outcome::{Outcome, TaskFailure};
use crate::failpoint::{self, Point};
use crate::messages::supervisor::{
    ChildEnded, ChildEvent, ChildExited, Decided, EventsReady, RestartChild,
};

#[derive(Debug)]
pub(crate) struct ChordActor {
    shell: EngineContext,
    child: Box<Child>,
    /// There from the start on, unless the members cannot be known.
    running: Option<(Chord, FanOut)>,
}

impl ChordActor {
    pub(crate) fn new(shell: EngineContext, child: Box<Child>) -> Self {
        Self {
            shell,
            child,
            running: None,
        }
    }

    fn body(&self) -> &Node {
        match &self.child.node.def {
            Def::Chord { body, .. } => body,
            _ => unreachable!("a chord actor is started for a chord"),
        }
    }

    fn perform(&mut self, commands: Vec<Command>, context: &mut Context<Self>) {
        if self.child.is_orphaned() {
            return context.terminate();
        }
        for command in commands {
            match command {
                Command::Header(group::Command::Revoke) => {
                    if let Some((_, fan)) = &self.running {
                        fan.close();
                    }
                    self.child.revoke();
                    context.stop();
                    return;
                }
                Command::Header(command) => {
                    let Some((_, fan)) = &mut self.running else {
                        return;
                    };
                    let done = fan.perform(&self.shell, command, &self.child, context);
                    if let Err(error) = done {
                        self.shell.halt(error.into());
                    }
                }
                Command::SpawnBody => {
                    let resume = match &mut self.running {
                        Some((_, fan)) => fan.body_resume(),
                        None => return,
                    };
                    self.start_body(resume);
                }
                Command::Restart => {
                    restart_after_commit(&self.shell, self.child.id(), BODY, context);
                }
                Command::Abandon => {
                    let report = abandoned_report(&self.shell, self.child.root, self.body());
                    self.child.forward(&self.shell, report);
                    context.stop();
                }
                Command::Break(member) => {
                    let failure = TaskFailure::chord(self.child.id(), member);
                    self.fail(Outcome::Failure(failure).into(), context);
                }
                Command::Report(report) => {
                    self.child.forward(&self.shell, report);
                    context.stop();
                }
            }
        }
    }

    /// The header has failed: the body fails with it, unstarted.
    fn fail(&mut self, mut report: Report, context: &mut Context<Self>) {
        let reader = self.shell.reader();
        if let Err(error) = reader.fail_body(&self.child, &mut report) {
            return self.shell.halt(error.into());
        }
        self.child.fail(&self.shell, report);
        context.stop();
    }

    fn start_body(&self, resume: Resume) {
        let Some((_, fan)) = &self.running else {
            return;
        };
        let place = self.child.body(fan.roster().list());
        let child = Child::new(
            place,
            resume,
            fan.event_queue().clone(),
            fan.event_queue().clone(),
        );
        child.start(&self.shell);
        failpoint::reach(Point::Body);
    }
}

impl Actor for ChordActor {
    type Context = Context<Self>;

    fn started(&mut self, context: &mut Self::Context) {
        let Def::Chord { header, .. } = &self.child.node.def else {
            unreachable!("a chord actor is started for a chord")
        };
        let header = header.clone();
        let post = self.child.event_queue(context);
        match fan_out::open(&self.shell, &self.child, header, post, context) {
            Ok((fan, arrived)) => {
                let (machine, commands) = Chord::recover(arrived, fan.window(&self.shell));
                self.running = Some((machine, fan));
                self.perform(commands, context);
            }
            Err(Some(report)) => self.fail(report, context),
            Err(None) => {}
        }
    }
}

impl ChordActor {
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
        if stopped.index == BARRIER {
            if stopped.lost {
                // Without its barrier the chord cannot go on: its own supervisor starts it anew.
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

impl ChordActor {
    fn body_ended(&mut self, ended: ChildEnded, context: &mut Context<Self>) {
        super::fault("chord");
        if let Some((machine, _)) = &mut self.running {
            let commands = machine.body_ended(ended.report);
            self.perform(commands, context);
            failpoint::reach(Point::BodyEnded);
        }
    }
}

impl Handler<EventsReady> for ChordActor {
    type Result = ();

    fn handle(&mut self, _: EventsReady, context: &mut Context<Self>) {
        self.check_revoked(context);
        let Some((machine, fan)) = &mut self.running else {
            return;
        };
        machine.resize(self.shell.window());
        for word in fan.event_queue().drain() {
            match word {
                ChildEvent::Ended(ended) => self.body_ended(ended, context),
                ChildEvent::Exited(stopped) => self.stopped(stopped, context),
                ChildEvent::Launch(_) | ChildEvent::Arrived(_) => {}
            }
        }
    }
}

impl Handler<Decided> for ChordActor {
    type Result = ();

    fn handle(&mut self, Decided(verdict): Decided, context: &mut Context<Self>) {
        self.check_revoked(context);
        if let Some((machine, _)) = &mut self.running {
            let commands = machine.decided(verdict);
            self.perform(commands, context);
        }
    }
}

impl Handler<RestartChild> for ChordActor {
    type Result = ();

    fn handle(&mut self, respawn: RestartChild, _: &mut Context<Self>) {
        let index = respawn.index;
        let done = if index == BODY {
            self.shell
                .reader()
                .last_change(self.child.id(), BODY)
                .map(|last| self.start_body(Resume::Stored(last)))
        } else if let Some((_, fan)) = &mut self.running {
            fan.respawn(&self.shell, index)
        } else {
            Ok(())
        };
        if let Err(error) = done {
            self.shell.halt(error.into());
        }
    }
}
