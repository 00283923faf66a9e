//! The task actor: asks for a slot, has the function called, listens for its end; supervisor of
//! what the function starts.

use std::collections::{BTreeMap, VecDeque};

use actix::{Actor, ActorContext, Addr, AsyncContext, Context, Handler};
use tokio::sync::oneshot;

use super::call::{Given, Limits};
use super::journal::Act;
use super::runner::Order;
use super::shell::Shell;
use super::supervision::{Child, Resume, given_up, respawn_later};
use crate::canvas::freeze::Node;
use crate::canvas::machine::offspring;
use crate::canvas::machine::queue::SlotKind;
use crate::canvas::machine::task::{Command, Schedule, Task};
use crate::canvas::machine::{Change, Index};
use crate::canvas::outcome::{FailureKind, Outcome, Value};
use crate::canvas::retry::RetryPolicy;
use crate::messages::dispatcher::{Permit, Request};
use crate::messages::scheduler::{Wake, WakeAt};
use crate::messages::supervisor::{ChildEnded, ChildStopped, Respawn};
use crate::messages::task::{Finished, Granted, Wants, WantsSlot};
use crate::persistence::{StoreError, definition};
use crate::task::{TaskEntry, TaskOptions};

#[derive(Debug)]
pub(crate) struct TaskActor {
    shell: Shell,
    child: Child,
    /// `None` while the task is parked: nothing is registered under its name.
    work: Option<Work>,
    /// Actix ends an actor that nobody can reach. This one lives until it has reported, also while
    /// it is parked, while no slot is granted any more, and when its body was dropped.
    itself: Option<Addr<Self>>,
}

#[derive(Debug)]
struct Work {
    machine: Task,
    entry: TaskEntry,
    options: TaskOptions,
    /// Its own children, to start them again if they are lost; nearly always none.
    offspring: BTreeMap<Index, Node>,
    /// Calls that wait for a child.
    calls: Vec<(Index, oneshot::Sender<Outcome>)>,
    /// Calls that want a slot to go on with.
    returning: VecDeque<oneshot::Sender<Permit>>,
}

impl TaskActor {
    pub(crate) fn new(shell: Shell, child: Child) -> Self {
        Self {
            shell,
            child,
            work: None,
            itself: None,
        }
    }

    /// Has the machine decide, and carries it out.
    fn decide(
        &mut self,
        permit: Option<Permit>,
        context: &mut Context<Self>,
        event: impl FnOnce(&mut Task) -> Vec<Command>,
    ) {
        if let Some(work) = &mut self.work {
            let commands = event(&mut work.machine);
            self.perform(commands, permit, context);
        }
    }

    fn perform(
        &mut self,
        commands: Vec<Command>,
        mut permit: Option<Permit>,
        context: &mut Context<Self>,
    ) {
        for command in commands {
            match command {
                Command::Request => self.request(context),
                Command::Record(change) => self.record(change),
                Command::Run { attempt, args } => {
                    self.run(attempt, args, permit.take(), context);
                }
                Command::WakeAt { at_ms } => self.shell.scheduler().do_send(WakeAt {
                    at_ms,
                    who: context.address().recipient(),
                }),
                Command::Report(mut report) => {
                    // What a fold's function gives is kept with how far the fold has got.
                    if self.child.run.is_none() {
                        report.outcome = self.shell.keep(self.child.id(), report.outcome);
                    }
                    self.child.pass_on(report);
                    context.stop();
                }
                Command::Expire => {
                    let failure = self.child.failure(FailureKind::Revoked, "expired");
                    self.child.report(&self.shell, Outcome::Revoked(failure));
                    context.stop();
                }
                Command::Child(command) => {
                    if let Err(error) = self.perform_child(command, context) {
                        self.shell.halt(error.into());
                    }
                }
            }
        }
    }

    fn perform_child(
        &mut self,
        command: offspring::Command,
        context: &mut Context<Self>,
    ) -> Result<(), StoreError> {
        use offspring::Command;
        let task = self.child.id();
        let Some(work) = &mut self.work else {
            return Ok(());
        };
        match command {
            Command::Adopt {
                index,
                purpose,
                key,
                graft,
            } => {
                let first = self.shell.number(self.child.root, graft.span)?;
                let child = definition::Offspring::new(task, index, purpose, key, &graft, first);
                let is_in_its_record = child.segments.is_empty();
                for (key, value) in child.segments {
                    self.shell.put(key, value);
                }
                self.shell.record(task, child.record);
                work.offspring.insert(index, child.node);
                match self.child(index, Resume::Fresh, context) {
                    Some(child) if is_in_its_record => child.start(&self.shell),
                    // It reads its members from the store.
                    Some(child) => self.shell.then(Act::Start(Box::new(child))),
                    None => {}
                }
            }
            Command::Record(record) => self.shell.record(task, record),
            Command::Launch(due) => self.shell.launch(self.child.root, due),
            Command::Spawn(index) => self.resume_child(index, context)?,
            Command::Respawn(index) => respawn_later(&self.shell, task, index, context),
            Command::GiveUp(index) => {
                if let Some(node) = work.offspring.get(&index) {
                    let report = given_up(self.child.root, node);
                    self.decide(None, context, |task| task.child_ended(index, report));
                }
            }
            Command::Answer(index, outcome) => {
                for (_, caller) in work.calls.extract_if(.., |(of, _)| *of == index) {
                    self.shell.then(Act::Answer(caller, outcome.clone()));
                }
            }
        }
        Ok(())
    }

    /// Records how far it has got; large arguments of a retry are put beside.
    fn record(&mut self, mut change: Change) {
        if let Change::Waiting { past, .. } = &mut change
            && let Some(args) = past.args.take()
        {
            let kept = self.shell.keep_args(self.child.id(), args);
            past.args = Some(kept.clone());
            if let Some(work) = &mut self.work {
                work.machine.args_are_kept(kept);
            }
        }
        self.child.record(&self.shell, change);
    }

    fn request(&self, context: &Context<Self>) {
        let Some(work) = &self.work else { return };
        let queue = self
            .child
            .def()
            .options
            .as_ref()
            .and_then(|o| o.queue.as_deref());
        let queue = queue.unwrap_or(work.options.queue);
        self.shell.dispatcher(queue).do_send(Request {
            priority: work.options.priority,
            kind: kind(&work.options),
            task: context.address().recipient(),
        });
    }

    fn run(
        &self,
        attempt: u32,
        args: Option<Value>,
        permit: Option<Permit>,
        context: &Context<Self>,
    ) {
        let (Some(work), Some(permit)) = (&self.work, permit) else {
            return;
        };
        let child = &self.child;
        self.shell.run(Order {
            entry: work.entry,
            spot: child.spot(),
            attempt,
            shared: self.shell.shared().clone(),
            permit,
            given: Given::new(child, args),
            limits: Limits::of(&work.options),
            reply_to: context.address(),
            inbox: self.shell.inbox().clone(),
        });
    }

    /// Starts a child that is on record.
    fn resume_child(&self, index: Index, context: &Context<Self>) -> Result<(), StoreError> {
        let last = self.shell.reader().last_change(self.child.id(), index)?;
        if let Some(child) = self.child(index, Resume::Stored(last), context) {
            child.start(&self.shell);
        }
        Ok(())
    }

    /// Its own child `index`.
    fn child(&self, index: Index, resume: Resume, context: &Context<Self>) -> Option<Child> {
        let work = self.work.as_ref()?;
        let node = work.offspring.get(&index)?;
        let address = context.address();
        let purpose = work.machine.purpose(index);
        let place = self.child.offspring(index, node.clone(), purpose);
        let (supervisor, stopped) = (address.clone().recipient(), address.recipient());
        Some(Child::new(place, resume, supervisor, stopped))
    }

    /// The machine as the store has it.
    fn recover(
        &self,
        policy: RetryPolicy,
        last: Change,
    ) -> Result<(Task, Vec<Command>), StoreError> {
        let task = self.child.id();
        let records: Vec<_> = self
            .shell
            .reader()
            .records(task)
            .collect::<Result<_, _>>()?;
        let now_ms = self.shell.now_ms();
        Ok(Task::recover(task.seq(), policy, last, &records, now_ms))
    }

    /// What the task started itself, as the store has it.
    fn offspring(&self) -> Result<BTreeMap<Index, Node>, StoreError> {
        if !matches!(self.child.resume, Resume::Stored(Some(_))) {
            return Ok(BTreeMap::new());
        }
        let offspring = self.shell.reader().offspring(self.child.id())?;
        Ok(offspring
            .into_iter()
            .map(|(index, _, node)| (index, node))
            .collect())
    }

    fn open(&mut self, entry: TaskEntry, context: &mut Context<Self>) -> Result<(), StoreError> {
        let own = self.child.def().options.as_deref();
        let options = entry.options.with(own);
        let policy = options.retry_policy();
        let since_ms = self.child.since_ms.unwrap_or_else(|| self.shell.now_ms());
        let schedule = Schedule::of(own, since_ms);
        let (machine, commands) = match &self.child.resume {
            Resume::Fresh | Resume::Stored(None) => {
                let seq = self.child.node.seq;
                Task::open(seq, policy, schedule, self.shell.now_ms())
            }
            Resume::Stored(Some(last)) => self.recover(policy, last.clone())?,
        };
        self.work = Some(Work {
            machine,
            entry,
            options,
            offspring: self.offspring()?,
            calls: Vec::new(),
            returning: VecDeque::new(),
        });
        self.perform(commands, None, context);
        Ok(())
    }
}

impl Actor for TaskActor {
    type Context = Context<Self>;

    fn started(&mut self, context: &mut Self::Context) {
        self.itself = Some(context.address());
        let def = self.child.def();
        let Some(entry) = self.shell.shared().registry.get(&def.name).copied() else {
            tracing::warn!(id = %self.child.id(), name = %def.name, "parked: the task is not registered");
            self.shell.shared().park(self.child.id(), &def.name);
            return;
        };
        if let Err(error) = self.open(entry, context) {
            self.shell.halt(error.into());
        }
    }
}

impl Handler<Granted> for TaskActor {
    type Result = ();

    fn handle(&mut self, Granted(mut permit): Granted, context: &mut Context<Self>) {
        #[cfg(test)]
        super::tests::fault("task");
        let Some(work) = &mut self.work else { return };
        // A call goes on with it, if one that still runs is waiting.
        while let Some(call) = work.returning.pop_front() {
            match call.send(permit) {
                Ok(()) => return,
                Err(back) => permit = back,
            }
        }
        let now_ms = self.shell.now_ms();
        self.decide(Some(permit), context, |task| task.granted(now_ms));
    }
}

impl Handler<Finished> for TaskActor {
    type Result = ();

    fn handle(&mut self, finished: Finished, context: &mut Context<Self>) {
        let Finished {
            attempt,
            end,
            permit,
        } = finished;
        let now = self.shell.now();
        self.decide(None, context, |task| task.finished(attempt, end, now));
        drop(permit);
    }
}

impl Handler<Wants> for TaskActor {
    type Result = ();

    fn handle(&mut self, wants: Wants, context: &mut Context<Self>) {
        let Wants {
            attempt,
            purpose,
            key,
            graft,
            answer,
        } = wants;
        let Some(work) = &mut self.work else { return };
        if let Some((index, commands)) = work.machine.wants(attempt, purpose, &key, graft) {
            // Nobody hears these any more.
            work.calls.retain(|(_, caller)| !caller.is_closed());
            work.calls.extend(answer.map(|answer| (index, answer)));
            self.perform(commands, None, context);
        }
    }
}

impl Handler<WantsSlot> for TaskActor {
    type Result = ();

    fn handle(&mut self, WantsSlot(slot): WantsSlot, context: &mut Context<Self>) {
        if let Some(work) = &mut self.work {
            work.returning.push_back(slot);
            self.request(context);
        }
    }
}

impl Handler<ChildEnded> for TaskActor {
    type Result = ();

    fn handle(&mut self, ended: ChildEnded, context: &mut Context<Self>) {
        let ChildEnded { index, report, .. } = ended;
        self.decide(None, context, |task| task.child_ended(index, report));
    }
}

impl Handler<ChildStopped> for TaskActor {
    type Result = ();

    fn handle(&mut self, stopped: ChildStopped, context: &mut Context<Self>) {
        let ChildStopped { index, lost, .. } = stopped;
        self.decide(None, context, |task| task.child_stopped(index, lost));
    }
}

impl Handler<Respawn> for TaskActor {
    type Result = ();

    fn handle(&mut self, respawn: Respawn, context: &mut Context<Self>) {
        if let Err(error) = self.resume_child(respawn.index, context) {
            self.shell.halt(error.into());
        }
    }
}

impl Handler<Wake> for TaskActor {
    type Result = ();

    fn handle(&mut self, _: Wake, context: &mut Context<Self>) {
        let now_ms = self.shell.now_ms();
        self.decide(None, context, |task| task.due(now_ms));
    }
}

fn kind(options: &TaskOptions) -> SlotKind {
    if options.blocking {
        SlotKind::Blocking
    } else {
        SlotKind::Async
    }
}
