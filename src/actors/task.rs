//! The task actor: asks for a slot, has the function called, listens for its end.

use actix::{Actor, ActorContext, Addr, AsyncContext, Context, Handler};

use super::runner::Order;
use super::shell::Shell;
use super::supervision::{Child, Resume};
use crate::canvas::freeze::{Def, TaskDef};
use crate::canvas::machine::queue::SlotKind;
use crate::canvas::machine::task::{Command, Task};
use crate::canvas::options::{Options, TaskOptions};
use crate::canvas::retry::RetryPolicy;
use crate::messages::dispatcher::{Permit, Request};
use crate::messages::scheduler::{Wake, WakeAt};
use crate::messages::task::{Finished, Granted};
use crate::task::{TaskContext, TaskEntry};

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

    fn def(&self) -> &TaskDef {
        match &self.child.node.def {
            Def::Task(def) => def,
            _ => unreachable!("a task actor is started for a task"),
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
                Command::Record(change) => self.child.record(&self.shell, change),
                Command::Run { attempt } => self.run(attempt, permit.take(), context),
                Command::WakeAt { at_ms } => self.shell.scheduler().do_send(WakeAt {
                    at_ms,
                    who: context.address().recipient(),
                }),
                Command::Report(outcome) => {
                    self.child.report(&self.shell, outcome);
                    context.stop();
                }
            }
        }
    }

    fn request(&self, context: &Context<Self>) {
        let Some(work) = &self.work else { return };
        let queue = self.def().options.as_ref().and_then(|o| o.queue.as_deref());
        let queue = queue.unwrap_or(work.options.queue);
        self.shell.dispatcher(queue).do_send(Request {
            priority: work.options.priority,
            kind: kind(&work.options),
            task: context.address().recipient(),
        });
    }

    fn run(&self, attempt: u32, permit: Option<Permit>, context: &Context<Self>) {
        let (Some(work), Some(permit)) = (&self.work, permit) else {
            return;
        };
        let def = self.def();
        let child = &self.child;
        self.shell.run(Order {
            entry: work.entry,
            context: TaskContext {
                id: child.id(),
                parent_id: child.parent(),
                group_id: child.group,
                attempt,
            },
            args: def.args.clone(),
            count: def.count,
            mode: def.mode,
            input: child.input.clone().filter(|_| def.takes_upstream),
            time_limit: work.options.time_limit,
            shared: self.shell.shared().clone(),
            permit,
            reply_to: context.address(),
            inbox: self.shell.inbox().clone(),
        });
    }
}

impl Actor for TaskActor {
    type Context = Context<Self>;

    fn started(&mut self, context: &mut Self::Context) {
        self.itself = Some(context.address());
        let def = self.def();
        let Some(entry) = self.shell.shared().registry.get(&def.name).copied() else {
            tracing::warn!(id = %self.child.id(), name = %def.name, "parked: the task is not registered");
            self.shell.shared().park(self.child.id(), &def.name);
            return;
        };
        let options = effective(entry.options, def.options.as_deref());
        let policy = RetryPolicy {
            max_retries: options.max_retries,
            backoff: options.retry_backoff,
            backoff_max: options.retry_backoff_max,
        };
        let (machine, commands) = match &self.child.resume {
            Resume::Fresh => Task::open(policy),
            Resume::Stored(last) => Task::recover(policy, last.as_ref()),
        };
        self.work = Some(Work {
            machine,
            entry,
            options,
        });
        self.perform(commands, None, context);
    }
}

impl Handler<Granted> for TaskActor {
    type Result = ();

    fn handle(&mut self, Granted(permit): Granted, context: &mut Context<Self>) {
        #[cfg(test)]
        super::tests::fault("task");
        if let Some(work) = &mut self.work {
            let commands = work.machine.granted();
            self.perform(commands, Some(permit), context);
        }
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
        if let Some(work) = &mut self.work {
            let commands = work.machine.finished(attempt, end, self.shell.now_ms());
            self.perform(commands, None, context);
        }
        drop(permit);
    }
}

impl Handler<Wake> for TaskActor {
    type Result = ();

    fn handle(&mut self, _: Wake, context: &mut Context<Self>) {
        if let Some(work) = &mut self.work {
            let commands = work.machine.due();
            self.perform(commands, None, context);
        }
    }
}

/// The options as registered, with those of the signature over them.
fn effective(registered: TaskOptions, own: Option<&Options>) -> TaskOptions {
    let Some(own) = own else { return registered };
    TaskOptions {
        priority: own.priority.unwrap_or(registered.priority),
        max_retries: own.max_retries.unwrap_or(registered.max_retries),
        time_limit: own.time_limit.or(registered.time_limit),
        ..registered
    }
}

fn kind(options: &TaskOptions) -> SlotKind {
    if options.blocking {
        SlotKind::Blocking
    } else {
        SlotKind::Async
    }
}
