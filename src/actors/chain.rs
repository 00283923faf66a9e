//! The chain actor: supervisor of one step at a time.

use actix::{Actor, ActorContext, Context, Handler};

use super::engine_context::EngineContext;
use super::event_queue::EventQueue;
use super::supervision::{Child, Resume, abandoned_report, restart_after_commit};
use crate::canvas::machine::chain::{Chain, Command};
use crate::canvas::machine::{Index, Record};
use crate::canvas::outcome::Value;
use crate::messages::supervisor::{ChildEnded, ChildEvent, ChildExited, EventsReady, RestartChild};
use crate::persistence::StoreError;

#[derive(Debug)]
pub(crate) struct ChainActor {
    shell: EngineContext,
    child: Box<Child>,
    machine: Option<Chain>,
    /// There from the start on.
    post: Option<EventQueue>,
    /// What the step that runs now was given.
    input: Option<Value>,
}

impl ChainActor {
    pub(crate) fn new(shell: EngineContext, child: Box<Child>) -> Self {
        Self {
            shell,
            child,
            machine: None,
            post: None,
            input: None,
        }
    }

    fn perform(&mut self, commands: Vec<Command>, context: &mut Context<Self>) {
        if self.child.is_orphaned() {
            return context.terminate();
        }
        for command in commands {
            match command {
                Command::Record(record) => self.shell.record(self.child.id(), record),
                Command::Launch(due) => {
                    if let Some(post) = &self.post {
                        self.shell.launch(self.child.root, due, post);
                    }
                }
                Command::Spawn(index, input) => {
                    self.input = input;
                    if let Err(error) = self.spawn(index) {
                        self.shell.halt(error.into());
                    }
                }
                Command::Restart(index) => {
                    restart_after_commit(&self.shell, self.child.id(), index, context);
                }
                Command::Abandon(index) => {
                    let report = abandoned_report(
                        &self.shell,
                        self.child.root,
                        &self.child.steps()[index as usize],
                    );
                    let ended = self.machine.as_mut().map(|m| m.ended(index, report));
                    self.perform(ended.unwrap_or_default(), context);
                }
                Command::Report(report) => {
                    self.child.forward(&self.shell, report);
                    context.stop();
                }
                Command::Fail(index, mut report) => {
                    let reader = self.shell.reader();
                    match reader.fail_next(&self.child, index, &mut report) {
                        Ok(true) => self.child.forward(&self.shell, report),
                        Ok(false) => self.child.fail(&self.shell, report),
                        Err(error) => return self.shell.halt(error.into()),
                    }
                    context.stop();
                }
            }
        }
    }

    fn spawn(&mut self, index: Index) -> Result<(), StoreError> {
        // Of the steps that are still to come only the first can have been started before.
        let resume = match std::mem::replace(&mut self.child.resume, Resume::Fresh) {
            Resume::Fresh => Resume::Fresh,
            Resume::Stored(_) => {
                Resume::Stored(self.shell.reader().last_change(self.child.id(), index)?)
            }
        };
        self.start_child(index, resume);
        Ok(())
    }

    fn start_child(&self, index: Index, resume: Resume) {
        let Some(post) = &self.post else { return };
        let place = self.child.step(index, self.input.clone());
        let child = Child::new(place, resume, post.clone(), post.clone());
        child.start(&self.shell);
    }

    fn recorded(&self) -> Result<Vec<Record>, StoreError> {
        match self.child.resume {
            Resume::Fresh => Ok(Vec::new()),
            Resume::Stored(_) => self.shell.reader().records(self.child.id()).collect(),
        }
    }
}

impl Actor for ChainActor {
    type Context = Context<Self>;

    fn started(&mut self, context: &mut Self::Context) {
        self.post = Some(self.child.event_queue(context));
        match self.recorded() {
            Ok(records) => {
                let len = self.child.steps().len() as Index;
                let input = self.child.input.clone();
                let (machine, commands) = Chain::recover(len, input, Value::nil(), &records);
                self.machine = Some(machine);
                self.perform(commands, context);
            }
            Err(error) => self.shell.halt(error.into()),
        }
    }
}

impl Handler<EventsReady> for ChainActor {
    type Result = ();

    fn handle(&mut self, _: EventsReady, context: &mut Context<Self>) {
        let words = self.post.as_ref().map(EventQueue::drain);
        for word in words.into_iter().flatten() {
            let Some(machine) = &mut self.machine else {
                return;
            };
            let commands = match word {
                ChildEvent::Ended(ChildEnded { index, report, .. }) => {
                    super::fault("chain");
                    machine.ended(index, report)
                }
                ChildEvent::Exited(ChildExited { index, lost, .. }) => machine.stopped(index, lost),
                ChildEvent::Launch(_) | ChildEvent::Arrived(_) => continue,
            };
            self.perform(commands, context);
        }
    }
}

impl Handler<RestartChild> for ChainActor {
    type Result = ();

    fn handle(&mut self, respawn: RestartChild, _: &mut Context<Self>) {
        match self
            .shell
            .reader()
            .last_change(self.child.id(), respawn.index)
        {
            Ok(last) => self.start_child(respawn.index, Resume::Stored(last)),
            Err(error) => self.shell.halt(error.into()),
        }
    }
}
