//! The task actor: requests a slot, has the function called, and receives its outcome; supervises
//! the subtasks that the function starts.

mod job;
mod parking;
pub(crate) mod slab;
mod subtask_waiters;
mod subtasks;

use actix::{Actor, ActorContext, Context, Handler};

use self::job::Job;
use super::child::Child;
use super::context::EngineContext;
use super::dispatch::permit::Permit;
use super::execute::inbox::ended_attempt;
use crate::messages::scheduler::Wake;
use crate::messages::supervisor::{EventsReady, RestartChild};
use crate::messages::task::{AttemptMessage, ReacquireSlot, TaskKey, TaskMessage};

/// Runs one task at a time. Starting an actor costs more than all other overhead of a task, so an
/// actor whose task has ended waits for the next.
#[derive(Debug)]
pub(crate) struct TaskActor {
    engine: EngineContext,
    job: Option<Job>,
}

impl TaskActor {
    pub(crate) fn new(engine: EngineContext) -> Self {
        Self { engine, job: None }
    }

    /// Passes an event to the job. An actor without a job ignores it: the event is for the previous
    /// one.
    fn with_job(
        &mut self,
        context: &mut Context<Self>,
        event: impl FnOnce(&mut Job, &mut Context<Self>),
    ) {
        let Some(job) = &mut self.job else { return };
        let is_orphaned = job.child.is_orphaned();
        if !is_orphaned && self.engine.has_revoked() {
            job.check_revoked(context);
        }
        if !(is_orphaned || job.is_over) {
            event(job, context);
        }
        let next = job.next.take();
        if !(is_orphaned || job.is_over) {
            return self.engine.assign(next);
        }
        // (A suspicion against an orphan now applies to the task that has replaced it.)
        if job.is_over {
            job.clear();
            self.engine.end_updates(job.child.id());
        }
        let (key, is_referenced) = (job.key, job.is_referenced);
        match next {
            Some((child, permit)) if !is_referenced => {
                let key = self.engine.reuse_key(key, child.id());
                self.take(child, Some(permit), key, context);
            }
            next => {
                self.engine.assign(next);
                if is_referenced || !self.engine.park_idle(key) {
                    context.stop();
                }
                self.job = None;
            }
        }
    }

    fn take(
        &mut self,
        child: Box<Child>,
        permit: Option<Permit>,
        key: TaskKey,
        context: &mut Context<Self>,
    ) {
        self.job = Some(Job::new(self.engine.clone(), child, permit, key));
        self.with_job(context, Job::start);
    }
}

impl Actor for TaskActor {
    type Context = Context<Self>;
}

impl Handler<TaskMessage> for TaskActor {
    type Result = ();

    fn handle(&mut self, message: TaskMessage, context: &mut Context<Self>) {
        match message {
            TaskMessage::Assign(key) => {
                if let Some((child, permit)) = self.engine.take(key) {
                    self.take(child, permit, key, context);
                }
            }
            TaskMessage::Granted(permit) => {
                self.with_job(context, |job, context| job.granted(permit, context));
            }
            TaskMessage::Released(released) => {
                self.with_job(context, |job, context| job.released(released, context));
            }
            TaskMessage::Recheck => self.with_job(context, |_, _| ()),
            TaskMessage::FromAttempt(key, message) => {
                self.on_attempt_message(key, message, context)
            }
        }
    }
}

impl TaskActor {
    fn on_attempt_message(
        &mut self,
        key: TaskKey,
        message: AttemptMessage,
        context: &mut Context<Self>,
    ) {
        let ended = ended_attempt(&message);
        if self.job.as_ref().is_some_and(|job| job.key == key) {
            self.with_job(context, |job, context| match message {
                AttemptMessage::Finished(finished) => job.finished(finished, context),
                AttemptMessage::StartSubtask(request) => job.start_subtask(request, context),
                AttemptMessage::WaitsForTasks => job.end_trial(),
                AttemptMessage::ReacquireSlot(ReacquireSlot(slot)) => {
                    job.reacquire_slot(slot, context)
                }
                AttemptMessage::Updates(attempt, cell) => job.show_updates(attempt, cell),
            });
        }
        if let Some(attempt) = ended {
            self.engine.forget_cancellation(key, attempt);
        }
    }
}

impl Handler<EventsReady> for TaskActor {
    type Result = ();

    fn handle(&mut self, _: EventsReady, context: &mut Context<Self>) {
        self.with_job(context, Job::on_events);
    }
}

impl Handler<RestartChild> for TaskActor {
    type Result = ();

    fn handle(&mut self, restart: RestartChild, context: &mut Context<Self>) {
        self.with_job(context, |job, _| {
            if let Err(error) = job.resume_child(restart.index) {
                job.engine.halt(error.into());
            }
        });
    }
}

impl Handler<Wake> for TaskActor {
    type Result = ();

    fn handle(&mut self, _: Wake, context: &mut Context<Self>) {
        self.with_job(context, |job, context| {
            let now = job.engine.time();
            job.decide(None, context, |task| task.due(now));
        });
    }
}
