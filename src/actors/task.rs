//! The task actor: asks for a slot, has the function called, listens for its end; supervisor of
//! what the function starts.

use std::collections::{BTreeMap, VecDeque};

use actix::{Actor, ActorContext, AsyncContext, Context, Handler, Message};
use tokio::sync::oneshot;

use super::call::{self, CallInput, Limits};
use super::dispatcher::Ready;
use super::engine_context::EngineContext;
use super::event_queue::EventQueue;
use super::executor::Invocation;
use super::inbox::AttemptMessage;
use super::journal::PostCommit;
use super::supervision::{Child, Resume, abandoned_report, restart_after_commit};
use super::task_slab::TaskKey;
use crate::canvas::Mode;
use crate::canvas::freeze::Node;
use crate::canvas::machine::quarantine::SuspectStatus;
use crate::canvas::machine::subtasks;
use crate::canvas::machine::task::{AttemptOutcome, Command, Now, Retry, Schedule, Task};
use crate::canvas::machine::{ChildProgress, Index};
use crate::canvas::options::Options;
use crate::canvas::outcome::{FailureKind, Outcome, Value};
use crate::canvas::parked::{Misfit, NOT_REGISTERED, ParkedTask};
use crate::canvas::time::{Scale, Time};
use crate::messages::dispatcher::Permit;
use crate::messages::scheduler::{Wake, WakeAt};
use crate::messages::supervisor::{ChildEnded, ChildEvent, ChildExited, EventsReady, RestartChild};
use crate::messages::task::{Finished, Granted, ReacquireSlot, Recheck, Released, StartSubtask};
use crate::persistence::{StoreError, definition};
use crate::task::{Entry, TaskOptions};

/// Has one task at a time: starting an actor costs more than all else that a task does not do, so
/// one whose task has ended waits for the next.
#[derive(Debug)]
pub(crate) struct TaskActor {
    shell: EngineContext,
    job: Option<Job>,
}

/// The task that it has.
#[derive(Debug)]
struct Job {
    shell: EngineContext,
    child: Box<Child>,
    ticket: TaskKey,
    /// The slot that it came with.
    permit: Option<Permit>,
    /// `None` while the task is parked: nothing is registered under its name.
    activation: Option<Activation>,
    /// What its attempt before counts for, if that was running when the process ended.
    arrival: SuspectStatus,
    /// This build cannot run it, and `App::parked` lists it.
    is_parked: bool,
    /// It has said its last word.
    is_over: bool,
    /// Others know the actor's address, and may use it after the end of the job.
    is_referenced: bool,
    /// Who has got the slot that this one gave back.
    next: Option<(Box<Child>, Permit)>,
}

/// Take the task that is meant for this ticket; to an actor that has none.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(crate) struct Assign(pub(crate) TaskKey);

/// What an attempt of the task with this ticket says. The actor may have another one by now.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(crate) struct FromAttempt(pub(crate) TaskKey, pub(crate) AttemptMessage);

#[derive(Debug)]
struct Activation {
    machine: Task,
    entry: &'static Entry,
    /// The entry's with the signature's own: rare, so boxed.
    options: Option<Box<TaskOptions>>,
    /// Nearly always none.
    waiters: Option<Box<SubtaskWaiters>>,
    /// The commits in which its latest attempts are recorded, from the second on.
    attempts: VecDeque<u64>,
}

/// So many of a task's latest records are kept; those who read what was durable a moment ago find
/// one among them.
const KEPT_RECORDS: usize = 16;

/// What a task has to do with the children that it starts.
#[derive(Debug)]
struct SubtaskWaiters {
    post: EventQueue,
    /// To start them again if they are lost.
    subtasks: BTreeMap<Index, Node>,
    /// Calls that wait for a child.
    calls: Vec<(Index, oneshot::Sender<Outcome>)>,
    /// Calls that want a slot to go on with.
    returning: VecDeque<oneshot::Sender<Permit>>,
}

impl SubtaskWaiters {
    fn new(offspring: BTreeMap<Index, Node>, post: EventQueue) -> Box<Self> {
        Box::new(Self {
            post,
            subtasks: offspring,
            calls: Vec::new(),
            returning: VecDeque::new(),
        })
    }
}

impl Activation {
    fn options(&self) -> &TaskOptions {
        self.options.as_deref().unwrap_or(&self.entry.options)
    }

    fn family(&mut self, child: &Child, context: &Context<TaskActor>) -> &mut SubtaskWaiters {
        self.waiters
            .get_or_insert_with(|| SubtaskWaiters::new(BTreeMap::new(), child.event_queue(context)))
    }
}

impl TaskActor {
    pub(crate) fn new(shell: EngineContext) -> Self {
        Self { shell, job: None }
    }

    /// Does something to the job; whoever has none hears of the one before.
    fn with_job(
        &mut self,
        context: &mut Context<Self>,
        event: impl FnOnce(&mut Job, &mut Context<Self>),
    ) {
        let Some(job) = &mut self.job else { return };
        let is_orphaned = job.child.is_orphaned();
        if !is_orphaned && self.shell.has_revoked() {
            job.check_revoked(context);
        }
        if !(is_orphaned || job.is_over) {
            event(job, context);
        }
        let next = job.next.take();
        if !(is_orphaned || job.is_over) {
            return self.shell.assign(next);
        }
        // (What is held against an orphan is now held against who has its place.)
        if job.is_over {
            job.clear();
        }
        let (ticket, is_known) = (job.ticket, job.is_referenced);
        match next {
            Some((child, permit)) if !is_known => {
                let ticket = self.shell.reuse_key(ticket, child.root);
                self.take(child, Some(permit), ticket, context);
            }
            next => {
                self.shell.assign(next);
                if is_known || !self.shell.park_idle(ticket) {
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
        ticket: TaskKey,
        context: &mut Context<Self>,
    ) {
        self.job = Some(Job::new(self.shell.clone(), child, permit, ticket));
        self.with_job(context, Job::start);
    }
}

impl Job {
    fn new(
        shell: EngineContext,
        child: Box<Child>,
        permit: Option<Permit>,
        ticket: TaskKey,
    ) -> Self {
        Self {
            shell,
            child,
            ticket,
            permit,
            activation: None,
            arrival: SuspectStatus::Free,
            is_parked: false,
            is_over: false,
            is_referenced: false,
            next: None,
        }
    }

    /// Has the machine decide, and carries it out.
    fn decide(
        &mut self,
        permit: Option<Permit>,
        context: &mut Context<TaskActor>,
        event: impl FnOnce(&mut Task) -> Vec<Command>,
    ) {
        if let Some(work) = &mut self.activation {
            let commands = event(&mut work.machine);
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
                    self.shell.scheduler().do_send(WakeAt {
                        at,
                        who: context.address().recipient(),
                    });
                }
                Command::Report(mut report) => {
                    // What a fold's function gives is kept with how far the fold has got.
                    if self.child.run.is_none() {
                        report.outcome = self.shell.spill(self.child.id(), report.outcome);
                    }
                    self.child.forward(&self.shell, report);
                    self.is_over = true;
                }
                Command::Park(failure) => {
                    let what = match failure.kind {
                        FailureKind::Type => "its arguments do not decode",
                        _ => "it cannot be called",
                    };
                    // In the words in which it is listed while it waits in the store.
                    let reason = self.shell.shared().registry.misfit(self.child.def());
                    self.park(&reason.unwrap_or(failure.message), what, context);
                }
                Command::Expire => {
                    let attempt = self
                        .activation
                        .as_ref()
                        .map_or(0, |work| work.machine.attempt());
                    call::log_expired(&self.child, attempt + 1);
                    let failure = self.child.failure(FailureKind::Revoked, "expired");
                    self.child.report(&self.shell, Outcome::Revoked(failure));
                    self.is_over = true;
                }
                Command::Cancel { attempt } => self.shell.cancel(self.ticket, attempt),
                Command::Revoke => {
                    self.child.revoke();
                    self.is_over = true;
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
        command: subtasks::Command,
        context: &mut Context<TaskActor>,
    ) -> Result<(), StoreError> {
        use subtasks::Command;
        let task = self.child.id();
        let Some(work) = &mut self.activation else {
            return Ok(());
        };
        match command {
            Command::Start {
                index,
                purpose,
                key,
                graft,
            } => {
                let first = self.shell.number(self.child.root, graft.span)?;
                let child =
                    definition::StoredSubtask::new(task, index, purpose, key, &graft, first);
                let is_in_its_record = child.segments.is_empty();
                for (key, value) in child.segments {
                    self.shell.put(key, value);
                }
                self.shell.record(task, child.record);
                work.family(&self.child, context)
                    .subtasks
                    .insert(index, child.node);
                match self.child(index, Resume::Fresh) {
                    Some(child) if is_in_its_record => child.start(&self.shell),
                    // It reads its members from the store.
                    Some(child) => self.shell.then(PostCommit::Start(child)),
                    None => {}
                }
            }
            Command::Record(record) => self.shell.record(task, record),
            Command::Launch(due) => {
                let post = &work.family(&self.child, context).post;
                self.shell.launch(self.child.root, due, post);
            }
            Command::Spawn(index) => self.resume_child(index)?,
            Command::Restart(index) => restart_after_commit(&self.shell, task, index, context),
            Command::Abandon(index) => {
                if let Some(node) = work.family(&self.child, context).subtasks.get(&index) {
                    let report = abandoned_report(&self.shell, self.child.root, node);
                    self.decide(None, context, |task| task.child_ended(index, report));
                }
            }
            Command::Answer(index, outcome) => {
                let calls = &mut work.family(&self.child, context).calls;
                for (_, caller) in calls.extract_if(.., |(of, _)| *of == index) {
                    self.shell.then(PostCommit::Answer(caller, outcome.clone()));
                }
            }
        }
        Ok(())
    }

    /// Records how far it has got; large arguments of a retry are put beside.
    fn record(&mut self, mut change: ChildProgress) {
        if let ChildProgress::Waiting { past, .. } | ChildProgress::WaitingUntil { past, .. } =
            &mut change
        {
            self.shell.note_delay();
            if let Some(args) = past.args.take() {
                let kept = self.shell.spill_args(self.child.id(), args);
                past.args = Some(kept.clone());
                if let Some(work) = &mut self.activation {
                    work.machine.args_are_kept(kept);
                }
            }
        }
        let is_first = match &change {
            ChildProgress::Started(past) => past.is_first(),
            ChildProgress::Waiting { .. }
            | ChildProgress::WaitingUntil { .. }
            | ChildProgress::Done(_) => false,
        };
        self.child.record(&self.shell, change);
        if !is_first && let Err(error) = self.supersede() {
            self.shell.halt(error.into());
        }
    }

    /// Notes that something has been recorded of it, and lets go of what was long before.
    fn supersede(&mut self) -> Result<(), StoreError> {
        let Some(work) = &mut self.activation else {
            return Ok(());
        };
        work.attempts.push_back(self.shell.next_commit());
        if work.attempts.len() > KEPT_RECORDS
            && let Some(commit) = work.attempts.pop_front()
        {
            self.shell.supersede(self.child.stream, commit)?;
        }
        Ok(())
    }

    fn request(&mut self, context: &mut Context<TaskActor>) {
        if let Some(permit) = self.permit.take() {
            return self.granted(permit, context);
        }
        let Some(work) = &self.activation else { return };
        let slot = self
            .shell
            .slot(work.entry, self.child.def().options.as_deref());
        let priority = work.options().priority;
        match self.arrival {
            SuspectStatus::Free | SuspectStatus::Watched => {
                self.shell
                    .request(slot, priority, Ready::Known(self.ticket));
            }
            SuspectStatus::Trial => {
                self.shell
                    .await_trial(self.child.id(), slot, priority, self.ticket);
            }
            SuspectStatus::Quarantined => {}
            SuspectStatus::Discarded => self.discard(context),
        }
    }

    /// Finds out whether it is revoked, before it hears of anything else: so what is decided after the
    /// mark is decided by who knows of it.
    fn check_revoked(&mut self, context: &mut Context<TaskActor>) {
        let is_known = |work: &Activation| work.machine.is_revoked();
        if self.activation.as_ref().is_some_and(is_known)
            || !self
                .shell
                .observe_revocation(self.child.root, self.child.path())
        {
            return;
        }
        if self.activation.is_some() {
            return self.decide(None, context, Task::revoked);
        }
        // It has just come in, or is parked.
        self.child.revoke();
        self.is_over = true;
    }

    /// It cannot run. The log says `what`, and nothing of its arguments.
    fn park(&mut self, reason: &str, what: &str, context: &mut Context<TaskActor>) {
        let (id, name) = (self.child.id(), &self.child.def().name);
        tracing::warn!(%id, %name, reason = what, "parked");
        self.is_parked = true;
        let task = ParkedTask::new(id, name, reason);
        self.shell.shared().park(task, self.ticket);
        if self.shell.is_discarded(id) {
            self.discard_parked(reason, context);
        }
    }

    /// Says whether nothing of it has ever been called.
    fn is_untouched(&self) -> bool {
        match &self.child.resume {
            Resume::Fresh | Resume::Stored(None) => true,
            Resume::Stored(Some(last)) => last.awaited().is_some_and(|(past, _)| past.attempt == 0),
        }
    }

    /// It is parked, and is to fail.
    fn discard_parked(&mut self, reason: &str, context: &mut Context<TaskActor>) {
        if self.shell.is_discarded(self.child.id()) {
            // (Its record goes when it has ended.)
            self.arrival = SuspectStatus::Discarded;
        }
        let message = format!("discarded; it was parked: {reason}");
        let kind = match self.shell.entry(&self.child.def().name) {
            Some(_) => FailureKind::Type,
            None => FailureKind::NotRegistered,
        };
        let failure = self.child.failure(kind, &message);
        let attempt = self
            .activation
            .as_ref()
            .map_or(0, |work| work.machine.attempt());
        call::log_failed(&self.child, attempt, kind, false);
        if self.activation.is_some() {
            return self.decide(None, context, |task| task.discarded(failure));
        }
        self.child.report(&self.shell, Outcome::Failure(failure));
        self.is_over = true;
    }

    /// Says whether the fault lies with the workflow, and not with a task that has changed since it was
    /// submitted: then the task fails, as Celery's does with a `TypeError`. So it is in a workflow that this
    /// process has submitted, whose arguments this build wrote; and where a canvas without types passes on
    /// a value from upstream, or a retry its arguments, which the compiler has not checked.
    fn is_workflow_at_fault(&self, misfit: Misfit) -> bool {
        if self.shell.is_of_this_session(self.child.root) {
            return true;
        }
        let Some(work) = &self.activation else {
            return false;
        };
        let def = self.child.def();
        let is_from_retry = work.machine.has_given_args();
        let is_from_upstream =
            misfit == Misfit::First && def.takes_upstream && self.child.input.is_some();
        let is_passed_on = is_from_retry || is_from_upstream || self.child.run.is_some();
        is_passed_on && def.mode == Mode::OnceUntyped
    }

    /// It has left quarantine, or is discarded.
    fn released(&mut self, released: Released, context: &mut Context<TaskActor>) {
        if self.is_parked && released == Released::ToFail {
            let parked = self.shell.shared().unpark(self.child.id(), self.ticket);
            let reason = parked.map_or_else(String::new, |task| task.reason);
            return self.discard_parked(&reason, context);
        }
        if self.arrival == SuspectStatus::Quarantined {
            self.arrival = match released {
                Released::ToRun => SuspectStatus::Watched,
                Released::ToFail => SuspectStatus::Discarded,
            };
            self.request(context);
        }
    }

    fn discard(&mut self, context: &mut Context<TaskActor>) {
        let Some(suspect) = self.shell.suspect(self.child.id()) else {
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

    /// It has come to its end, or to that of an attempt: it did not end the process.
    fn clear(&mut self) {
        if std::mem::replace(&mut self.arrival, SuspectStatus::Free) != SuspectStatus::Free {
            self.shell.cleared(self.child.id());
        }
    }

    fn granted(&mut self, mut permit: Permit, context: &mut Context<TaskActor>) {
        super::fault("task");
        let Some(work) = &mut self.activation else {
            return;
        };
        // A call goes on with it, if one that still runs is waiting.
        if let Some(family) = &mut work.waiters {
            while let Some(call) = family.returning.pop_front() {
                match call.send(permit) {
                    Ok(()) => return,
                    Err(back) => permit = back,
                }
            }
        }
        if self.arrival == SuspectStatus::Trial {
            self.arrival = SuspectStatus::Watched;
            self.shell.trial_starts(self.child.id());
        }
        let now = match work.machine.may_expire() {
            true => self.shell.time(),
            false => Time::default(),
        };
        self.decide(Some(permit), context, |task| task.granted(now));
    }

    fn run(&self, attempt: u32, args: Option<Value>, permit: Option<Permit>) {
        let (Some(work), Some(permit)) = (&self.activation, permit) else {
            return;
        };
        let child = &self.child;
        self.shell.run(Invocation {
            ticket: self.ticket,
            entry: work.entry,
            spot: child.task_ids(),
            attempt,
            permit,
            given: CallInput::new(child, args),
            limits: Limits::of(work.options()),
            is_watched: self.arrival == SuspectStatus::Watched,
        });
    }

    /// Starts a child that is on record.
    fn resume_child(&self, index: Index) -> Result<(), StoreError> {
        let last = self.shell.reader().last_change(self.child.id(), index)?;
        if let Some(child) = self.child(index, Resume::Stored(last)) {
            child.start(&self.shell);
        }
        Ok(())
    }

    /// Its own child `index`.
    fn child(&self, index: Index, resume: Resume) -> Option<Box<Child>> {
        let work = self.activation.as_ref()?;
        let family = work.waiters.as_ref()?;
        let node = family.subtasks.get(&index)?;
        let purpose = work.machine.purpose(index);
        let place = self.child.subtask(index, node.clone(), purpose);
        let post = &family.post;
        Some(Child::new(place, resume, post.clone(), post.clone()))
    }

    fn open(
        &mut self,
        entry: &'static Entry,
        context: &mut Context<TaskActor>,
    ) -> Result<(), StoreError> {
        let own = self.child.def().options.as_deref();
        let options = own.map(|own| Box::new(entry.options.with(Some(own))));
        let policy = options.as_deref().unwrap_or(&entry.options).retry_policy();
        let mut offspring = BTreeMap::new();
        let (machine, commands) = match &self.child.resume {
            Resume::Fresh | Resume::Stored(None) => {
                let seq = self.child.node.seq;
                // Few have any to do with the time, and asking for it takes some.
                let now = own.map_or_else(Time::default, |_| self.shell.time());
                let since_ms = self.child.since_ms.unwrap_or(now.steady_ms);
                Task::open(seq, policy, Schedule::of(own, since_ms), now)
            }
            Resume::Stored(Some(last)) => {
                let (reader, id) = (self.shell.reader(), self.child.id());
                let records: Vec<_> = match self.shell.has_subtasks(self.child.root) {
                    true => reader.records(id).collect::<Result<_, _>>()?,
                    false => Vec::new(),
                };
                let now = self.shell.time();
                let expires_on = own.map_or(Scale::Steady, Options::expires_on);
                let last_change = last.clone();
                let (machine, commands) =
                    Task::recover(id.seq(), policy, expires_on, last_change, &records, now);
                let own = reader.subtasks_in(id, records.into_iter().map(Ok))?;
                offspring.extend(own.into_iter().map(|(index, _, node)| (index, node)));
                if let ChildProgress::Started(past) = last
                    && commands.contains(&Command::Request)
                {
                    let name = &self.child.def().name;
                    self.arrival = self.shell.arrived(id, name, past.attempt, self.ticket);
                }
                (machine, commands)
            }
        };
        self.is_referenced |= !offspring.is_empty();
        let family = (!offspring.is_empty())
            .then(|| SubtaskWaiters::new(offspring, self.child.event_queue(context)));
        self.activation = Some(Activation {
            machine,
            entry,
            options,
            waiters: family,
            attempts: VecDeque::new(),
        });
        self.perform(commands, None, context);
        Ok(())
    }

    fn start(&mut self, context: &mut Context<TaskActor>) {
        let def = self.child.def();
        if self.is_untouched() && self.shell.is_discarded(self.child.id()) {
            let reason = self.shell.shared().registry.misfit(def);
            let reason = reason.unwrap_or_else(|| "an earlier build could not run it".to_owned());
            return self.discard_parked(&reason, context);
        }
        let Some(entry) = self.shell.entry(&def.name) else {
            return self.park(NOT_REGISTERED, NOT_REGISTERED, context);
        };
        if let Err(error) = self.open(entry, context) {
            self.shell.halt(error.into());
        }
    }

    fn finished(&mut self, finished: Finished, context: &mut Context<TaskActor>) {
        let Finished {
            attempt,
            end,
            permit,
        } = finished;
        let end = match end {
            AttemptOutcome::Unfit { failure, misfit } if self.is_workflow_at_fault(misfit) => {
                AttemptOutcome::Failure {
                    failure,
                    retry: Retry::Never,
                }
            }
            end => end,
        };
        match end {
            AttemptOutcome::Value(_) | AttemptOutcome::Replaced(_) => {
                let now = Now::default();
                self.decide(None, context, |task| task.finished(attempt, end, now));
            }
            AttemptOutcome::Failure { .. } | AttemptOutcome::Unfit { .. } => {
                self.failed(attempt, end, context)
            }
        }
        if let Some(permit) = permit {
            self.next = self.shell.release_to_new(permit.into_slot());
        }
        // (Behind its slot: who is tried next may need it.)
        self.clear();
    }

    fn failed(&mut self, attempt: u32, end: AttemptOutcome, context: &mut Context<TaskActor>) {
        let now = self.shell.now();
        let Some(work) = &mut self.activation else {
            return;
        };
        let kind = work.machine.failure(attempt, &end);
        let commands = work.machine.finished(attempt, end, now);
        if let Some(kind) = kind {
            call::log_failed(&self.child, attempt, kind, work.machine.is_delayed());
        }
        self.perform(commands, None, context);
    }

    fn start_subtask(&mut self, wants: StartSubtask, context: &mut Context<TaskActor>) {
        let StartSubtask {
            attempt,
            purpose,
            key,
            graft,
            answer,
        } = wants;
        let Some(work) = &mut self.activation else {
            return;
        };
        if let Some((index, commands)) = work.machine.wants(attempt, purpose, &key, graft) {
            self.is_referenced = true;
            let calls = &mut work.family(&self.child, context).calls;
            // Nobody hears these any more.
            calls.retain(|(_, caller)| !caller.is_closed());
            calls.extend(answer.map(|answer| (index, answer)));
            self.perform(commands, None, context);
        }
    }

    /// What it waits for must be able to run.
    fn end_trial(&self) {
        if self.arrival == SuspectStatus::Watched {
            self.shell.outlived(self.child.id());
        }
    }

    fn reacquire_slot(&mut self, slot: oneshot::Sender<Permit>, context: &mut Context<TaskActor>) {
        if let Some(work) = &mut self.activation {
            self.is_referenced = true;
            let family = work.family(&self.child, context);
            family.returning.push_back(slot);
            self.request(context);
        }
    }

    fn on_events(&mut self, context: &mut Context<TaskActor>) {
        let family = self
            .activation
            .as_ref()
            .and_then(|work| work.waiters.as_ref());
        let words = family.map(|family| family.post.drain());
        for word in words.into_iter().flatten() {
            self.decide(None, context, |task| match word {
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
    /// If the actor is lost, or hangs on one that is, its attempt is ended: it would run beside the one that takes
    /// its place, and after a revocation that cannot reach it.
    fn drop(&mut self) {
        let running = self
            .activation
            .as_ref()
            .and_then(|work| work.machine.running());
        if let Some(attempt) = running {
            self.shell.end_attempt(self.ticket, attempt);
        }
        if self.is_parked {
            self.shell.shared().unpark(self.child.id(), self.ticket);
        }
        self.shell.remove_task(self.ticket);
    }
}

impl Actor for TaskActor {
    type Context = Context<Self>;
}

impl Handler<Assign> for TaskActor {
    type Result = ();

    fn handle(&mut self, Assign(ticket): Assign, context: &mut Context<Self>) {
        if let Some((child, permit)) = self.shell.take(ticket) {
            self.take(child, permit, ticket, context);
        }
    }
}

impl Handler<Granted> for TaskActor {
    type Result = ();

    fn handle(&mut self, Granted(permit): Granted, context: &mut Context<Self>) {
        self.with_job(context, |job, context| job.granted(permit, context));
    }
}

impl Handler<Released> for TaskActor {
    type Result = ();

    fn handle(&mut self, released: Released, context: &mut Context<Self>) {
        self.with_job(context, |job, context| job.released(released, context));
    }
}

impl Handler<Recheck> for TaskActor {
    type Result = ();

    fn handle(&mut self, _: Recheck, context: &mut Context<Self>) {
        self.with_job(context, |_, _| ());
    }
}

impl Handler<FromAttempt> for TaskActor {
    type Result = ();

    fn handle(&mut self, FromAttempt(ticket, note): FromAttempt, context: &mut Context<Self>) {
        let ended = note.ended();
        if self.job.as_ref().is_some_and(|job| job.ticket == ticket) {
            self.with_job(context, |job, context| match note {
                AttemptMessage::Finished(finished) => job.finished(finished, context),
                AttemptMessage::StartSubtask(wants) => job.start_subtask(wants, context),
                AttemptMessage::WaitsForTasks => job.end_trial(),
                AttemptMessage::ReacquireSlot(ReacquireSlot(slot)) => {
                    job.reacquire_slot(slot, context)
                }
            });
        }
        if let Some(attempt) = ended {
            self.shell.forget_cancellation(ticket, attempt);
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

    fn handle(&mut self, respawn: RestartChild, context: &mut Context<Self>) {
        self.with_job(context, |job, _| {
            if let Err(error) = job.resume_child(respawn.index) {
                job.shell.halt(error.into());
            }
        });
    }
}

impl Handler<Wake> for TaskActor {
    type Result = ();

    fn handle(&mut self, _: Wake, context: &mut Context<Self>) {
        self.with_job(context, |job, context| {
            let now = job.shell.time();
            job.decide(None, context, |task| task.due(now));
        });
    }
}
