//! The task actor: requests a slot, has the function called, and receives its outcome; supervises
//! the subtasks that the function starts.

pub(crate) mod slab;

use std::collections::{BTreeMap, VecDeque};

use actix::{Actor, ActorContext, AsyncContext, Context, Handler};
use tokio::sync::oneshot;

use super::child::{Child, Resume};
use super::commit::journal::PostCommit;
use super::context::EngineContext;
use super::dispatch::dispatcher::Ready;
use super::dispatch::permit::Permit;
use super::event_queue::EventQueue;
use super::execute::call;
use super::execute::call::{CallInput, CallSpec, Limits};
use super::execute::executor::Invocation;
use super::execute::inbox::ended_attempt;
use super::supervision::{abandoned_report, restart_after_commit};
use crate::canvas::Mode;
use crate::canvas::freeze::Node;
use crate::canvas::machine::subtasks;
use crate::canvas::machine::task::{AttemptOutcome, Command, Now, Retry, Schedule, Task};
use crate::canvas::machine::{ChildProgress, Index};
use crate::canvas::options::Options;
use crate::canvas::outcome::{FailureKind, Outcome, Value};
use crate::canvas::parked::{Misfit, NOT_REGISTERED, ParkedTask};
use crate::canvas::quarantine::SuspectStatus;
use crate::canvas::time::{Scale, Time};
use crate::messages::scheduler::{Wake, WakeAt};
use crate::messages::supervisor::{ChildEnded, ChildEvent, ChildExited, EventsReady, RestartChild};
use crate::messages::task::{
    AttemptMessage, Finished, ReacquireSlot, Released, StartSubtask, TaskKey, TaskMessage,
};
use crate::persistence::StoreError;
use crate::persistence::records::definition;
use crate::task::{Entry, TaskOptions};
use crate::testing::hooks;

/// Runs one task at a time. Starting an actor costs more than all other overhead of a task, so an
/// actor whose task has ended waits for the next.
#[derive(Debug)]
pub(crate) struct TaskActor {
    engine: EngineContext,
    job: Option<Job>,
}

/// The task that an actor runs.
#[derive(Debug)]
struct Job {
    engine: EngineContext,
    child: Box<Child>,
    key: TaskKey,
    /// The slot that the task was assigned with.
    permit: Option<Permit>,
    /// `None` while the task is parked because nothing is registered under its name.
    activation: Option<Activation>,
    /// What the previous attempt counts for, if it was running when the process ended.
    suspicion: SuspectStatus,
    /// This build cannot run the task, and `App::parked` lists it.
    is_parked: bool,
    /// The task has sent its final report.
    is_over: bool,
    /// Other parts of the engine hold the actor's address, and may use it after the end of the job.
    is_referenced: bool,
    /// The task that got the slot which this one released.
    next: Option<(Box<Child>, Permit)>,
}

#[derive(Debug)]
struct Activation {
    machine: Task,
    entry: &'static Entry,
    /// The entry's options combined with the signature's own: rare, so boxed.
    options: Option<Box<TaskOptions>>,
    /// Nearly always `None`.
    waiters: Option<Box<SubtaskWaiters>>,
    /// The commits that record its latest attempts, from the second on.
    attempts: VecDeque<u64>,
}

/// The number of a task's latest records that are kept; a reader of a slightly older durable state
/// finds one among them.
const KEPT_RECORDS: usize = 16;

/// The subtasks of a task and the calls that wait for them.
#[derive(Debug)]
struct SubtaskWaiters {
    events: EventQueue,
    /// Kept to restart them if their actors are lost.
    subtasks: BTreeMap<Index, Node>,
    /// Calls that wait for a subtask.
    calls: Vec<(Index, oneshot::Sender<Outcome>)>,
    /// Calls that wait for a slot to resume with.
    returning: VecDeque<oneshot::Sender<Permit>>,
}

impl SubtaskWaiters {
    fn new(subtasks: BTreeMap<Index, Node>, events: EventQueue) -> Box<Self> {
        Box::new(Self {
            events,
            subtasks,
            calls: Vec::new(),
            returning: VecDeque::new(),
        })
    }
}

impl Activation {
    fn options(&self) -> &TaskOptions {
        self.options.as_deref().unwrap_or(&self.entry.options)
    }

    fn waiters(&mut self, child: &Child, context: &Context<TaskActor>) -> &mut SubtaskWaiters {
        self.waiters
            .get_or_insert_with(|| SubtaskWaiters::new(BTreeMap::new(), child.event_queue(context)))
    }
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
        }
        let (key, is_referenced) = (job.key, job.is_referenced);
        match next {
            Some((child, permit)) if !is_referenced => {
                let key = self.engine.reuse_key(key, child.root);
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

impl Job {
    fn new(engine: EngineContext, child: Box<Child>, permit: Option<Permit>, key: TaskKey) -> Self {
        Self {
            engine,
            child,
            key,
            permit,
            activation: None,
            suspicion: SuspectStatus::Free,
            is_parked: false,
            is_over: false,
            is_referenced: false,
            next: None,
        }
    }

    /// Passes an event to the machine and performs its commands.
    fn decide(
        &mut self,
        permit: Option<Permit>,
        context: &mut Context<TaskActor>,
        event: impl FnOnce(&mut Task) -> Vec<Command>,
    ) {
        if let Some(activation) = &mut self.activation {
            let commands = event(&mut activation.machine);
            self.perform(commands, permit, context);
        }
    }

    fn perform(
        &mut self,
        commands: Vec<Command>,
        mut permit: Option<Permit>,
        context: &mut Context<TaskActor>,
    ) {
        for command in commands {
            match command {
                Command::Request => self.request(context),
                Command::Record(change) => self.record(change),
                Command::Run { attempt, args } => {
                    self.run(attempt, args, permit.take());
                }
                Command::WakeAt(at) => {
                    self.is_referenced = true;
                    self.engine.scheduler().do_send(WakeAt {
                        at,
                        recipient: context.address().recipient(),
                    });
                }
                Command::Report(mut report) => {
                    // The value of a fold's function is stored with the progress of the fold.
                    if self.child.run.is_none() {
                        report.outcome = self.engine.spill(self.child.id(), report.outcome);
                    }
                    self.child.forward(&self.engine, report);
                    self.is_over = true;
                }
                Command::Park(failure) => {
                    let what = match failure.kind {
                        FailureKind::Type => "its arguments do not decode",
                        _ => "it cannot be called",
                    };
                    // The same text as in the list while the task waits in the store.
                    let reason = self.engine.handle().registry.misfit(self.child.def());
                    self.park(&reason.unwrap_or(failure.message), what, context);
                }
                Command::Expire => {
                    let attempt = self
                        .activation
                        .as_ref()
                        .map_or(0, |activation| activation.machine.attempt());
                    call::log_expired(&self.child, attempt + 1);
                    let failure = self.child.failure(FailureKind::Revoked, "expired");
                    self.child.report(&self.engine, Outcome::Revoked(failure));
                    self.is_over = true;
                }
                Command::Cancel { attempt } => self.engine.cancel(self.key, attempt),
                Command::Revoke => {
                    self.child.revoke();
                    self.is_over = true;
                }
                Command::Child(command) => {
                    if let Err(error) = self.perform_child(command, context) {
                        self.engine.halt(error.into());
                    }
                }
            }
        }
    }

    fn perform_child(
        &mut self,
        command: subtasks::Command,
        context: &mut Context<TaskActor>,
    ) -> Result<(), StoreError> {
        use subtasks::Command;
        let task = self.child.id();
        let Some(activation) = &mut self.activation else {
            return Ok(());
        };
        match command {
            Command::Start {
                index,
                purpose,
                key,
                plan,
            } => {
                let first = self.engine.number(self.child.root, plan.span)?;
                let child = definition::StoredSubtask::new(task, index, purpose, key, &plan, first);
                let is_in_its_record = child.segments.is_empty();
                for (key, value) in child.segments {
                    self.engine.put(key, value);
                }
                self.engine.record(task, child.record);
                activation
                    .waiters(&self.child, context)
                    .subtasks
                    .insert(index, child.node);
                match self.child(index, Resume::Fresh) {
                    Some(child) if is_in_its_record => child.start(&self.engine),
                    // The child reads its members from the store.
                    Some(child) => self.engine.then(PostCommit::Start(child)),
                    None => {}
                }
            }
            Command::Record(record) => self.engine.record(task, record),
            Command::Launch(callbacks) => {
                let events = &activation.waiters(&self.child, context).events;
                self.engine.launch(self.child.root, callbacks, events);
            }
            Command::Spawn(index) => self.resume_child(index)?,
            Command::Restart(index) => restart_after_commit(&self.engine, task, index, context),
            Command::Abandon(index) => {
                if let Some(node) = activation
                    .waiters(&self.child, context)
                    .subtasks
                    .get(&index)
                {
                    let report = abandoned_report(&self.engine, self.child.root, node);
                    self.decide(None, context, |task| task.child_ended(index, report));
                }
            }
            Command::Answer(index, outcome) => {
                let calls = &mut activation.waiters(&self.child, context).calls;
                for (_, caller) in calls.extract_if(.., |(child, _)| *child == index) {
                    self.engine
                        .then(PostCommit::Answer(caller, outcome.clone()));
                }
            }
        }
        Ok(())
    }

    /// Records the task's progress; large arguments of a retry are stored under keys of their own.
    fn record(&mut self, mut change: ChildProgress) {
        if let ChildProgress::Waiting { past, .. } | ChildProgress::WaitingUntil { past, .. } =
            &mut change
        {
            self.engine.note_delay();
            if let Some(args) = past.args.take() {
                let spilled = self.engine.spill_args(self.child.id(), args);
                past.args = Some(spilled.clone());
                if let Some(activation) = &mut self.activation {
                    activation.machine.args_are_kept(spilled);
                }
            }
        }
        let is_first = match &change {
            ChildProgress::Started(past) => past.is_first(),
            ChildProgress::Waiting { .. }
            | ChildProgress::WaitingUntil { .. }
            | ChildProgress::Done(_) => false,
        };
        self.child.record(&self.engine, change);
        if !is_first && let Err(error) = self.supersede() {
            self.engine.halt(error.into());
        }
    }

    /// Notes that another record of the task was added, and supersedes the oldest one that is kept.
    fn supersede(&mut self) -> Result<(), StoreError> {
        let Some(activation) = &mut self.activation else {
            return Ok(());
        };
        activation.attempts.push_back(self.engine.next_commit());
        if activation.attempts.len() > KEPT_RECORDS
            && let Some(commit) = activation.attempts.pop_front()
        {
            self.engine.supersede(self.child.stream, commit)?;
        }
        Ok(())
    }

    fn request(&mut self, context: &mut Context<TaskActor>) {
        if let Some(permit) = self.permit.take() {
            return self.granted(permit, context);
        }
        let Some(activation) = &self.activation else {
            return;
        };
        let slot = self
            .engine
            .slot(activation.entry, self.child.def().options.as_deref());
        let priority = activation.options().priority;
        match self.suspicion {
            SuspectStatus::Free | SuspectStatus::Watched => {
                self.engine.request(slot, priority, Ready::Known(self.key));
            }
            SuspectStatus::Trial => {
                self.engine
                    .await_trial(self.child.id(), slot, priority, self.key);
            }
            SuspectStatus::Quarantined => {}
            SuspectStatus::Discarded => self.discard(context),
        }
    }

    /// Checks whether the task is revoked, before each other event, so that no decision after the
    /// mark ignores it.
    fn check_revoked(&mut self, context: &mut Context<TaskActor>) {
        let is_referenced = |activation: &Activation| activation.machine.is_revoked();
        if self.activation.as_ref().is_some_and(is_referenced)
            || !self
                .engine
                .observe_revocation(self.child.root, self.child.path())
        {
            return;
        }
        if self.activation.is_some() {
            return self.decide(None, context, Task::revoked);
        }
        // The task was just assigned, or is parked.
        self.child.revoke();
        self.is_over = true;
    }

    /// Parks the task, which cannot run. The log contains `what`, and none of its arguments.
    fn park(&mut self, reason: &str, what: &str, context: &mut Context<TaskActor>) {
        let (id, name) = (self.child.id(), &self.child.def().name);
        tracing::warn!(%id, %name, reason = what, "parked");
        self.is_parked = true;
        let task = ParkedTask::new(id, name, reason);
        self.engine.view().park(task, self.key);
        if self.engine.is_discarded(id) {
            self.discard_parked(reason, context);
        }
    }

    /// Returns whether the function has never been called.
    fn is_untouched(&self) -> bool {
        match &self.child.resume {
            Resume::Fresh | Resume::Stored(None) => true,
            Resume::Stored(Some(last)) => last.awaited().is_some_and(|(past, _)| past.attempt == 0),
        }
    }

    /// Makes a parked task fail.
    fn discard_parked(&mut self, reason: &str, context: &mut Context<TaskActor>) {
        if self.engine.is_discarded(self.child.id()) {
            // (Its record is deleted when the task has ended.)
            self.suspicion = SuspectStatus::Discarded;
        }
        let message = format!("discarded; it was parked: {reason}");
        let kind = match self.engine.entry(&self.child.def().name) {
            Some(_) => FailureKind::Type,
            None => FailureKind::NotRegistered,
        };
        let failure = self.child.failure(kind, &message);
        let attempt = self
            .activation
            .as_ref()
            .map_or(0, |activation| activation.machine.attempt());
        call::log_failed(&self.child, attempt, kind, false);
        if self.activation.is_some() {
            return self.decide(None, context, |task| task.discarded(failure));
        }
        self.child.report(&self.engine, Outcome::Failure(failure));
        self.is_over = true;
    }

    /// Returns whether the workflow is at fault for a misfit, and not a task that has changed since
    /// the submission. Then the task fails, as Celery's does with a `TypeError`. The workflow is at
    /// fault if this process has submitted it, so that this build wrote its arguments; and where an
    /// untyped canvas passes on a value from upstream, or a retry its arguments, which the compiler
    /// has not checked.
    fn is_workflow_at_fault(&self, misfit: Misfit) -> bool {
        if self.engine.is_of_this_session(self.child.root) {
            return true;
        }
        let Some(activation) = &self.activation else {
            return false;
        };
        let def = self.child.def();
        let is_from_retry = activation.machine.has_given_args();
        let is_from_upstream =
            misfit == Misfit::First && def.takes_upstream && self.child.input.is_some();
        let is_passed_on = is_from_retry || is_from_upstream || self.child.run.is_some();
        is_passed_on && def.mode == Mode::OnceUntyped
    }

    /// Runs or fails the task after its release from quarantine, or fails a parked one.
    fn released(&mut self, released: Released, context: &mut Context<TaskActor>) {
        if self.is_parked && released == Released::ToFail {
            let parked = self.engine.view().unpark(self.child.id(), self.key);
            let reason = parked.map_or_else(String::new, |task| task.reason);
            return self.discard_parked(&reason, context);
        }
        if self.suspicion == SuspectStatus::Quarantined {
            self.suspicion = match released {
                Released::ToRun => SuspectStatus::Watched,
                Released::ToFail => SuspectStatus::Discarded,
            };
            self.request(context);
        }
    }

    fn discard(&mut self, context: &mut Context<TaskActor>) {
        let Some(suspect) = self.engine.suspect(self.child.id()) else {
            return;
        };
        let crashes = suspect.crashes;
        if crashes == 0 {
            return self.discard_parked("an earlier build could not run it", context);
        }
        let why = format!("the process ended {crashes} times while it was running");
        let mut failure = self.child.failure(FailureKind::Quarantined, &why);
        failure.attempt = suspect.attempt;
        call::log_failed(&self.child, suspect.attempt, failure.kind, false);
        self.decide(None, context, |task| task.discarded(failure));
    }

    /// Clears the task: it or its attempt has ended without ending the process.
    fn clear(&mut self) {
        if std::mem::replace(&mut self.suspicion, SuspectStatus::Free) != SuspectStatus::Free {
            self.engine.clear_suspect(self.child.id());
        }
    }

    fn granted(&mut self, mut permit: Permit, context: &mut Context<TaskActor>) {
        hooks::fault("task");
        let Some(activation) = &mut self.activation else {
            return;
        };
        // The slot goes to a waiting call whose attempt still runs, if there is one.
        if let Some(waiters) = &mut activation.waiters {
            while let Some(call) = waiters.returning.pop_front() {
                match call.send(permit) {
                    Ok(()) => return,
                    Err(back) => permit = back,
                }
            }
        }
        if self.suspicion == SuspectStatus::Trial {
            self.suspicion = SuspectStatus::Watched;
            self.engine.begin_trial(self.child.id());
        }
        let now = match activation.machine.may_expire() {
            true => self.engine.time(),
            false => Time::default(),
        };
        self.decide(Some(permit), context, |task| task.granted(now));
    }

    fn run(&self, attempt: u32, args: Option<Value>, permit: Option<Permit>) {
        let (Some(activation), Some(permit)) = (&self.activation, permit) else {
            return;
        };
        let child = &self.child;
        self.engine.run(Invocation {
            key: self.key,
            entry: activation.entry,
            permit,
            call: CallSpec {
                ids: child.task_ids(),
                attempt,
                input: CallInput::new(child, args),
                limits: Limits::of(activation.options()),
                is_watched: self.suspicion == SuspectStatus::Watched,
            },
        });
    }

    /// Starts a subtask that is on record.
    fn resume_child(&self, index: Index) -> Result<(), StoreError> {
        let last = self.engine.reader().last_change(self.child.id(), index)?;
        if let Some(child) = self.child(index, Resume::Stored(last)) {
            child.start(&self.engine);
        }
        Ok(())
    }

    /// Returns the subtask `index`.
    fn child(&self, index: Index, resume: Resume) -> Option<Box<Child>> {
        let activation = self.activation.as_ref()?;
        let waiters = activation.waiters.as_ref()?;
        let node = waiters.subtasks.get(&index)?;
        let purpose = activation.machine.purpose(index);
        let spec = self.child.subtask(index, node.clone(), purpose);
        let events = &waiters.events;
        Some(Child::new(spec, resume, events.clone(), events.clone()))
    }

    fn open(
        &mut self,
        entry: &'static Entry,
        context: &mut Context<TaskActor>,
    ) -> Result<(), StoreError> {
        let own = self.child.def().options.as_deref();
        let options = own.map(|own| Box::new(entry.options.with(Some(own))));
        let policy = options.as_deref().unwrap_or(&entry.options).retry_policy();
        let mut subtasks = BTreeMap::new();
        let (machine, commands) = match &self.child.resume {
            Resume::Fresh | Resume::Stored(None) => {
                let seq = self.child.node.seq;
                // Few tasks depend on the time, and reading it takes some.
                let now = own.map_or_else(Time::default, |_| self.engine.time());
                let since_ms = self.child.since_ms.unwrap_or(now.steady_ms);
                Task::open(seq, policy, Schedule::of(own, since_ms), now)
            }
            Resume::Stored(Some(last)) => {
                let (reader, id) = (self.engine.reader(), self.child.id());
                let records: Vec<_> = match self.engine.has_subtasks(self.child.root) {
                    true => reader.records(id).collect::<Result<_, _>>()?,
                    false => Vec::new(),
                };
                let now = self.engine.time();
                let expires_on = own.map_or(Scale::Steady, Options::expires_on);
                let last_change = last.clone();
                let (machine, commands) =
                    Task::recover(id.seq(), policy, expires_on, last_change, &records, now);
                let own = reader.subtasks_in(id, records.into_iter().map(Ok))?;
                subtasks.extend(own.into_iter().map(|(index, _, node)| (index, node)));
                if let ChildProgress::Started(past) = last
                    && commands.contains(&Command::Request)
                {
                    let name = &self.child.def().name;
                    self.suspicion =
                        self.engine
                            .register_recovered(id, name, past.attempt, self.key);
                }
                (machine, commands)
            }
        };
        self.is_referenced |= !subtasks.is_empty();
        let waiters = (!subtasks.is_empty())
            .then(|| SubtaskWaiters::new(subtasks, self.child.event_queue(context)));
        self.activation = Some(Activation {
            machine,
            entry,
            options,
            waiters,
            attempts: VecDeque::new(),
        });
        self.perform(commands, None, context);
        Ok(())
    }

    fn start(&mut self, context: &mut Context<TaskActor>) {
        let def = self.child.def();
        if self.is_untouched() && self.engine.is_discarded(self.child.id()) {
            let reason = self.engine.handle().registry.misfit(def);
            let reason = reason.unwrap_or_else(|| "an earlier build could not run it".to_owned());
            return self.discard_parked(&reason, context);
        }
        let Some(entry) = self.engine.entry(&def.name) else {
            return self.park(NOT_REGISTERED, NOT_REGISTERED, context);
        };
        if let Err(error) = self.open(entry, context) {
            self.engine.halt(error.into());
        }
    }

    fn finished(&mut self, finished: Finished, context: &mut Context<TaskActor>) {
        let Finished {
            attempt,
            outcome,
            permit,
        } = finished;
        let outcome = match outcome {
            AttemptOutcome::Unfit { failure, misfit } if self.is_workflow_at_fault(misfit) => {
                AttemptOutcome::Failure {
                    failure,
                    retry: Retry::Never,
                }
            }
            outcome => outcome,
        };
        match outcome {
            AttemptOutcome::Value(_) | AttemptOutcome::Replaced(_) => {
                let now = Now::default();
                self.decide(None, context, |task| task.finished(attempt, outcome, now));
            }
            AttemptOutcome::Failure { .. } | AttemptOutcome::Unfit { .. } => {
                self.failed(attempt, outcome, context)
            }
        }
        if let Some(permit) = permit {
            self.next = self.engine.release_to_new(permit.into_slot());
        }
        // (After the release of its slot: the next trial may need it.)
        self.clear();
    }

    fn failed(&mut self, attempt: u32, outcome: AttemptOutcome, context: &mut Context<TaskActor>) {
        let now = self.engine.now();
        let Some(activation) = &mut self.activation else {
            return;
        };
        let kind = activation.machine.failure(attempt, &outcome);
        let commands = activation.machine.finished(attempt, outcome, now);
        if let Some(kind) = kind {
            call::log_failed(&self.child, attempt, kind, activation.machine.is_delayed());
        }
        self.perform(commands, None, context);
    }

    fn start_subtask(&mut self, request: StartSubtask, context: &mut Context<TaskActor>) {
        let StartSubtask {
            attempt,
            purpose,
            key,
            plan,
            answer,
        } = request;
        let Some(activation) = &mut self.activation else {
            return;
        };
        if let Some((index, commands)) = activation
            .machine
            .start_subtask(attempt, purpose, &key, plan)
        {
            self.is_referenced = true;
            let calls = &mut activation.waiters(&self.child, context).calls;
            // The attempts of these calls are over.
            calls.retain(|(_, caller)| !caller.is_closed());
            calls.extend(answer.map(|answer| (index, answer)));
            self.perform(commands, None, context);
        }
    }

    /// Ends the task's trial: the tasks that it waits for must be able to run.
    fn end_trial(&self) {
        if self.suspicion == SuspectStatus::Watched {
            self.engine.end_trial(self.child.id());
        }
    }

    fn reacquire_slot(&mut self, slot: oneshot::Sender<Permit>, context: &mut Context<TaskActor>) {
        if let Some(activation) = &mut self.activation {
            self.is_referenced = true;
            let waiters = activation.waiters(&self.child, context);
            waiters.returning.push_back(slot);
            self.request(context);
        }
    }

    fn on_events(&mut self, context: &mut Context<TaskActor>) {
        let waiters = self
            .activation
            .as_ref()
            .and_then(|activation| activation.waiters.as_ref());
        let events = waiters.map(|waiters| waiters.events.drain());
        for event in events.into_iter().flatten() {
            self.decide(None, context, |task| match event {
                ChildEvent::Ended(ChildEnded { index, report, .. }) => {
                    task.child_ended(index, report)
                }
                ChildEvent::Exited(ChildExited { index, lost, .. }) => {
                    task.child_stopped(index, lost)
                }
                ChildEvent::Launch(_) | ChildEvent::Arrived(_) => Vec::new(),
            });
        }
    }
}

impl Drop for Job {
    /// Ends the running attempt if this actor or one above it is lost: otherwise the attempt would
    /// run beside its replacement, and a revocation could not reach it.
    fn drop(&mut self) {
        let running = self
            .activation
            .as_ref()
            .and_then(|activation| activation.machine.running());
        if let Some(attempt) = running {
            self.engine.end_attempt(self.key, attempt);
        }
        if self.is_parked {
            self.engine.view().unpark(self.child.id(), self.key);
        }
        self.engine.remove_task(self.key);
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
            TaskMessage::FromAttempt(key, message) => self.from_attempt(key, message, context),
        }
    }
}

impl TaskActor {
    fn from_attempt(&mut self, key: TaskKey, message: AttemptMessage, context: &mut Context<Self>) {
        let ended = ended_attempt(&message);
        if self.job.as_ref().is_some_and(|job| job.key == key) {
            self.with_job(context, |job, context| match message {
                AttemptMessage::Finished(finished) => job.finished(finished, context),
                AttemptMessage::StartSubtask(request) => job.start_subtask(request, context),
                AttemptMessage::WaitsForTasks => job.end_trial(),
                AttemptMessage::ReacquireSlot(ReacquireSlot(slot)) => {
                    job.reacquire_slot(slot, context)
                }
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
