//! The task that an actor runs: passes events to its machine, and performs the machine's commands.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use actix::{AsyncContext, Context};

use super::TaskActor;
use super::subtask_waiters::SubtaskWaiters;
use crate::actors::child::{Child, Resume};
use crate::actors::context::EngineContext;
use crate::actors::dispatch::dispatcher::Ready;
use crate::actors::dispatch::permit::Permit;
use crate::actors::execute::call::{self, CallInput, CallSpec, Limits};
use crate::actors::execute::executor::Invocation;
use crate::backend::updates::UpdateCell;
use crate::canvas::admission::start_limits::circuit::Evidence;
use crate::canvas::machine::ChildProgress;
use crate::canvas::machine::task::{AttemptOutcome, Command, Now, Retry, Schedule, Task};
use crate::canvas::options::Options;
use crate::canvas::outcome::{FailureKind, Outcome, Value};
use crate::canvas::parked::NOT_REGISTERED;
use crate::canvas::quarantine::SuspectStatus;
use crate::canvas::time::{Scale, Time};
use crate::messages::scheduler::WakeAt;
use crate::messages::task::{Finished, TaskKey};
use crate::persistence::StoreError;
use crate::task::{Entry, TaskOptions};
use crate::testing::hooks;

/// The number of a task's latest records that are kept; a reader of a slightly older durable state
/// finds one among them.
const KEPT_RECORDS: usize = 16;

/// The task that an actor runs.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) engine: EngineContext,
    pub(super) child: Box<Child>,
    pub(super) key: TaskKey,
    /// The slot that the task was assigned with.
    pub(super) permit: Option<Permit>,
    /// `None` while the task is parked because nothing is registered under its name.
    pub(super) activation: Option<Activation>,
    /// What the previous attempt counts for, if it was running when the process ended.
    pub(super) suspicion: SuspectStatus,
    /// This build cannot run the task, and `App::parked` lists it.
    pub(super) is_parked: bool,
    /// The task has sent its final report.
    pub(super) is_over: bool,
    /// Other parts of the engine hold the actor's address, and may use it after the end of the job.
    pub(super) is_referenced: bool,
    /// The task that got the slot which this one released.
    pub(super) next: Option<(Box<Child>, Permit)>,
}

#[derive(Debug)]
pub(super) struct Activation {
    pub(super) machine: Task,
    pub(super) entry: &'static Entry,
    /// The entry's options combined with the signature's own: rare, so boxed.
    pub(super) options: Option<Box<TaskOptions>>,
    /// Nearly always `None`.
    pub(super) waiters: Option<Box<SubtaskWaiters>>,
    /// The commits that record its latest attempts, from the second on.
    pub(super) attempts: VecDeque<u64>,
}

impl Activation {
    pub(super) fn options(&self) -> &TaskOptions {
        self.options.as_deref().unwrap_or(&self.entry.options)
    }

    pub(super) fn waiters(
        &mut self,
        child: &Child,
        context: &Context<TaskActor>,
    ) -> &mut SubtaskWaiters {
        self.waiters
            .get_or_insert_with(|| SubtaskWaiters::new(BTreeMap::new(), child.event_queue(context)))
    }
}

impl Job {
    pub(super) fn new(
        engine: EngineContext,
        child: Box<Child>,
        permit: Option<Permit>,
        key: TaskKey,
    ) -> Self {
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
    pub(super) fn decide(
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

    pub(super) fn perform(
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

    /// Records the task's progress; large arguments of a retry are stored under keys of their own.
    pub(super) fn record(&mut self, mut change: ChildProgress) {
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
    pub(super) fn supersede(&mut self) -> Result<(), StoreError> {
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

    pub(super) fn request(&mut self, context: &mut Context<TaskActor>) {
        if let Some(permit) = self.permit.take() {
            return self.granted(permit, context);
        }
        let Some(activation) = &self.activation else {
            return;
        };
        let is_free = matches!(self.suspicion, SuspectStatus::Free | SuspectStatus::Watched);
        if is_free && self.engine.fails_now(activation.entry) {
            return self.fail_open(activation.entry, context);
        }
        let slot = self
            .engine
            .slot(activation.entry, self.child.def().options.as_deref());
        let priority = activation.options().priority;
        match self.suspicion {
            SuspectStatus::Free | SuspectStatus::Watched => {
                let task = Ready::Known(self.key);
                self.engine
                    .request_slot(activation.entry, slot, priority, task, &self.child);
            }
            SuspectStatus::Trial => {
                self.engine
                    .await_trial(&self.child, activation.entry, slot, priority, self.key);
            }
            SuspectStatus::Quarantined => {}
            SuspectStatus::Discarded => self.discard(context),
        }
    }

    pub(super) fn granted(&mut self, mut permit: Permit, context: &mut Context<TaskActor>) {
        hooks::fault("task");
        let Some(activation) = &mut self.activation else {
            return;
        };
        // An attempt of a limited task has asked for it.
        let own = self.child.def().options.as_deref();
        let is_for_attempt =
            !permit.is_for_start() && self.engine.is_limited(activation.entry, own);
        // The slot goes to a waiting call whose attempt still runs, if there is one.
        if !permit.has_start()
            && let Some(waiters) = &mut activation.waiters
        {
            while let Some(call) = waiters.returning.pop_front() {
                match call.send(permit) {
                    Ok(()) => return,
                    Err(back) => permit = back,
                }
            }
        }
        if is_for_attempt {
            return;
        }
        if !self.engine.may_start(activation.entry, &permit) {
            self.engine.release(permit.into_returned());
            return self.request(context);
        }
        // (A trial waits for no limit, so that it starts even so.)
        if self.suspicion != SuspectStatus::Trial
            && !self.engine.is_breaker_closed(activation.entry)
        {
            let entry = activation.entry;
            self.engine.release(permit.into_returned());
            return match entry.waits_for_breaker() {
                true => self.request(context),
                false => self.fail_open(entry, context),
            };
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

    /// Ends the task, because its breaker is open.
    fn fail_open(&mut self, entry: &Entry, context: &mut Context<TaskActor>) {
        let breaker = entry.options.breaker.unwrap_or_default();
        let why = format!("the breaker `{breaker}` is open");
        let failure = self.child.failure(FailureKind::BreakerOpen, &why);
        call::log_failed(&self.child, failure.attempt, failure.kind, false);
        self.decide(None, context, |task| task.discarded(failure));
    }

    pub(super) fn run(&self, attempt: u32, args: Option<Value>, permit: Option<Permit>) {
        let (Some(activation), Some(mut permit)) = (&self.activation, permit) else {
            return;
        };
        if activation.entry.options.breaker.is_some() {
            self.engine.begin_under_breaker(activation.entry, self.key);
        }
        if let Some(limits) = permit.record_start() {
            self.engine.record_start(limits);
        }
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
                stamps: child.def().stamps().clone(),
                is_watched: self.suspicion == SuspectStatus::Watched,
            },
        });
    }

    pub(super) fn open(
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

    pub(super) fn start(&mut self, context: &mut Context<TaskActor>) {
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

    pub(super) fn finished(&mut self, finished: Finished, context: &mut Context<TaskActor>) {
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
                    counts: false,
                }
            }
            outcome => outcome,
        };
        self.note_evidence(attempt, &outcome);
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
            self.next = self.engine.release_to_new(permit.into_returned());
        }
        // (After the release of its slot: the next trial may need it.)
        self.clear();
    }

    /// Notes what the end of an attempt says to the task's breaker.
    fn note_evidence(&self, attempt: u32, outcome: &AttemptOutcome) {
        let Some(activation) = &self.activation else {
            return;
        };
        if activation.entry.options.breaker.is_none() || !activation.machine.is_running(attempt) {
            return;
        }
        let evidence = match activation.machine.is_revoked() {
            true => Evidence::Nothing,
            false => evidence(outcome),
        };
        self.engine.end_under_breaker(self.key, evidence);
    }

    /// Shows what an attempt reports, if it still runs.
    pub(super) fn show_updates(&self, attempt: u32, cell: Arc<UpdateCell>) {
        if let Some(activation) = &self.activation
            && activation.machine.is_running(attempt)
        {
            self.engine.show_updates(self.child.id(), cell);
        }
    }

    pub(super) fn failed(
        &mut self,
        attempt: u32,
        outcome: AttemptOutcome,
        context: &mut Context<TaskActor>,
    ) {
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
}

/// Returns what the end of an attempt that was not revoked says about a service.
fn evidence(outcome: &AttemptOutcome) -> Evidence {
    match outcome {
        AttemptOutcome::Value(_) | AttemptOutcome::Replaced(_) => Evidence::Success,
        AttemptOutcome::Failure { counts: true, .. } => Evidence::Failure,
        AttemptOutcome::Failure { failure, .. } => match failure.kind {
            FailureKind::Error
            | FailureKind::Panic
            | FailureKind::TimeLimit
            | FailureKind::SoftTimeLimit
            | FailureKind::MaxRetriesExceeded => Evidence::Success,
            _ => Evidence::Nothing,
        },
        AttemptOutcome::Unfit { .. } => Evidence::Nothing,
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
            // (An engine that has stopped starts nothing.)
            if !self.engine.is_closed() {
                self.engine.end_under_breaker(self.key, Evidence::Nothing);
            }
        }
        if self.is_parked {
            self.engine.view().unpark(self.child.id(), self.key);
        }
        self.engine.remove_task(self.key);
    }
}
