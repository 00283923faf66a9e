//! The chain actor: supervisor of one step at a time.

use actix::{Actor, ActorContext, AsyncContext, Context, Handler};

use super::shell::{self, Shell};
use super::supervision::{Child, Resume, Tether, given_up, respawn_later};
use crate::canvas::freeze::{Def, Node};
use crate::canvas::machine::chain::{Chain, Command};
use crate::canvas::machine::{Index, Record, Report};
use crate::canvas::outcome::Value;
use crate::messages::supervisor::{ChildEnded, ChildStopped, Respawn};
use crate::persistence::StoreError;

#[derive(Debug)]
pub(crate) struct ChainActor {
    shell: Shell,
    child: Child,
    machine: Option<Chain>,
    /// What the step that runs now was given.
    input: Option<Value>,
}

impl ChainActor {
    pub(crate) fn new(shell: Shell, child: Child) -> Self {
        Self {
            shell,
            child,
            machine: None,
            input: None,
        }
    }

    fn steps(&self) -> &[Node] {
        match &self.child.node.def {
            Def::Chain(steps) => steps,
            _ => unreachable!("a chain actor is started for a chain"),
        }
    }

    fn perform(&mut self, commands: Vec<Command>, context: &mut Context<Self>) {
        for command in commands {
            match command {
                Command::Record(record) => self.shell.record(self.child.id(), record),
                Command::Launch(due) => self.shell.launch(self.child.root, due),
                Command::Spawn(index, input) => {
                    self.input = input;
                    if let Err(error) = self.spawn(index, context) {
                        self.shell.halt(error.into());
                    }
                }
                Command::Respawn(index) => {
                    respawn_later(&self.shell, self.child.id(), index, context);
                }
                Command::GiveUp(index) => {
                    let report = given_up(self.child.root, &self.steps()[index as usize]);
                    let ended = self.machine.as_mut().map(|m| m.ended(index, report));
                    self.perform(ended.unwrap_or_default(), context);
                }
                Command::Report(report) => {
                    self.child.pass_on(report);
                    context.stop();
                }
                Command::Fail(index, mut report) => {
                    match self.fail_next(index, &mut report) {
                        Ok(true) => self.child.pass_on(report),
                        Ok(false) => self.child.fail(report),
                        Err(error) => return self.shell.halt(error.into()),
                    }
                    context.stop();
                }
            }
        }
    }

    fn spawn(&mut self, index: Index, context: &Context<Self>) -> Result<(), StoreError> {
        // Of the steps that are still to come only the first can have been started before.
        let resume = match std::mem::replace(&mut self.child.resume, Resume::Fresh) {
            Resume::Fresh => Resume::Fresh,
            Resume::Stored(_) => {
                Resume::Stored(self.shell.reader().last_change(self.child.id(), index)?)
            }
        };
        self.start_child(index, resume, context);
        Ok(())
    }

    /// If step `index` failed because a group did whose list the next step was to get, the group is
    /// a chord's header in all but form, and the next step the body, which fails unstarted. Says
    /// whether that is the last.
    fn fail_next(&self, index: Index, report: &mut Report) -> Result<bool, StoreError> {
        let (root, at) = (self.child.root, index as usize);
        let Some(failure) = report.outcome.failure() else {
            return Ok(false);
        };
        let steps = self.steps();
        let failed = failure.task_id;
        if failed.root() != root || !steps[at].is_followed_from(failed.seq()) {
            return Ok(false);
        }
        let input = shell::errback_input(failure);
        let mut errbacks = Vec::new();
        let reader = self.shell.reader();
        let last = reader.errbacks_of_steps(root, &steps[at + 1..], &mut errbacks)?;
        report.call_for(&errbacks, &input);
        Ok(last)
    }

    fn start_child(&self, index: Index, resume: Resume, context: &Context<Self>) {
        let address = context.address();
        let is_last = index as usize + 1 == self.steps().len();
        let child = Child {
            root: self.child.root,
            node: self.steps()[index as usize].clone(),
            input: self.input.clone(),
            stream: self.child.id(),
            // Whose outcome is the chain's is a member of the chain's group.
            group: self.child.group.filter(|_| is_last),
            since_ms: self.child.since_ms.filter(|_| index == 0),
            resume,
            reports_to: address.clone().recipient(),
            tether: Tether::new(self.child.root, index, address.recipient()),
        };
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
        match self.recorded() {
            Ok(records) => {
                let len = self.steps().len() as Index;
                let input = self.child.input.clone();
                let (machine, commands) = Chain::recover(len, input, shell::nil(), &records);
                self.machine = Some(machine);
                self.perform(commands, context);
            }
            Err(error) => self.shell.halt(error.into()),
        }
    }
}

impl Handler<ChildEnded> for ChainActor {
    type Result = ();

    fn handle(&mut self, ended: ChildEnded, context: &mut Context<Self>) {
        #[cfg(test)]
        super::tests::fault("chain");
        if let Some(machine) = &mut self.machine {
            let commands = machine.ended(ended.index, ended.report);
            self.perform(commands, context);
        }
    }
}

impl Handler<ChildStopped> for ChainActor {
    type Result = ();

    fn handle(&mut self, stopped: ChildStopped, context: &mut Context<Self>) {
        if let Some(machine) = &mut self.machine {
            let commands = machine.stopped(stopped.index, stopped.lost);
            self.perform(commands, context);
        }
    }
}

impl Handler<Respawn> for ChainActor {
    type Result = ();

    fn handle(&mut self, respawn: Respawn, context: &mut Context<Self>) {
        match self
            .shell
            .reader()
            .last_change(self.child.id(), respawn.index)
        {
            Ok(last) => self.start_child(respawn.index, Resume::Stored(last), context),
            Err(error) => self.shell.halt(error.into()),
        }
    }
}
