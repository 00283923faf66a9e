//! A task in eager mode: its attempts, one call after the other, and what its function starts.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::Poll;

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared as Joint};
use parking_lot::Mutex;
use tracing::{Instrument, Span};

use super::run::{Run, nothing_is_lost, nothing_is_revoked};
use super::step::Step;
use crate::actors::execute::call::{
    self, AttemptRef, CallArguments, CallInput, Limits, build_call, in_time, resolve_input,
};
use crate::backend::Backend;
use crate::backend::durable_view::DurableView;
use crate::backend::slot_holder::SlotHolder;
use crate::backend::updates::UpdateCell;
use crate::canvas::freeze::{Catalogue, Node, SizeExceeded, SubtaskPlan};
use crate::canvas::machine::child_spec::ChildSpec;
use crate::canvas::machine::subtasks;
use crate::canvas::machine::task::{AttemptOutcome, Command, Now, Retry, Schedule, Task};
use crate::canvas::machine::{ChildProgress, Index, Purpose, Record, Report};
use crate::canvas::outcome::{FailureKind, Outcome, Value};
use crate::canvas::stamps::Stamps;
use crate::canvas::task_update::TaskUpdate;
use crate::canvas::time::Time;
use crate::error::{ContextError, Error, Result};
use crate::persistence::records::commit_builder::{self, CommitBuilder};
use crate::persistence::records::definition;
use crate::task::{AppData, Entry, SoftLimit, TaskContext, TaskHost, TaskOptions};

#[derive(Debug)]
pub(crate) struct TaskFrame {
    task: Arc<Running>,
    /// The outcome of the attempt whose additions to the chord are running.
    ended: Option<(u32, AttemptOutcome)>,
}

/// A running task. Its own code reaches it, too.
#[derive(Debug)]
struct Running {
    run: Arc<Run>,
    spec: ChildSpec,
    entry: &'static Entry,
    options: TaskOptions,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    machine: Task,
    /// The subtasks that its function has started.
    offspring: BTreeMap<Index, Node>,
    /// Additions to its chord: they run when the function has ended.
    additions: VecDeque<Index>,
    /// The subtasks that it has called, running or ended: a second call with the same key joins the
    /// first.
    calls: HashMap<Index, Joint<Called>>,
    /// How many milliseconds its delays would have taken so far. Eager mode does not wait for them.
    skipped_ms: u64,
}

type Called = Pin<Box<dyn Future<Output = Result<Outcome>> + Send>>;

impl TaskFrame {
    pub(crate) fn open(run: Arc<Run>, spec: ChildSpec, commit: &mut CommitBuilder) -> (Self, Step) {
        let def = spec.def();
        let own = def.options.as_deref();
        let registered = run.store.registry.get(&def.name);
        let entry = registered.expect("what is not registered is refused at submission");
        let options = entry.options.with(own);
        let now = run.store.view.clock.time();
        let schedule = Schedule::of(own, now.steady_ms);
        let (machine, commands) = Task::open(spec.node.seq, options.retry_policy(), schedule, now);
        let task = Arc::new(Running {
            run,
            spec,
            entry,
            options,
            state: Mutex::new(State {
                machine,
                offspring: BTreeMap::new(),
                additions: VecDeque::new(),
                calls: HashMap::new(),
                skipped_ms: 0,
            }),
        });
        let mut state = task.state.lock();
        let step = task.perform(&mut state, commands, commit);
        drop(state);
        let step = step.expect("a task starts or expires");
        (Self { task, ended: None }, step)
    }

    pub(crate) fn spec(&self) -> &ChildSpec {
        &self.task.spec
    }

    /// Handles the end of attempt `attempt`.
    pub(crate) fn called(
        &mut self,
        attempt: u32,
        end: AttemptOutcome,
        commit: &mut CommitBuilder,
    ) -> Step {
        self.ended = Some((attempt, end));
        self.go_on(commit)
    }

    /// Handles the end of child `index`, an addition or a replacement.
    pub(crate) fn child_ended(
        &mut self,
        index: Index,
        report: Report,
        commit: &mut CommitBuilder,
    ) -> Step {
        let mut state = self.task.state.lock();
        let commands = state.machine.child_ended(index, report);
        let step = self.task.perform(&mut state, commands, commit);
        drop(state);
        step.unwrap_or_else(|| self.go_on(commit))
    }

    /// Runs the additions of the attempt first, and then handles its outcome.
    fn go_on(&mut self, commit: &mut CommitBuilder) -> Step {
        let task = &self.task;
        let mut state = task.state.lock();
        if let Some(index) = state.additions.pop_front() {
            return Step::Start(task.child(&state, index));
        }
        let (attempt, end) = self.ended.take().expect("its attempt has ended");
        // This build has submitted the workflow, so the workflow is wrong.
        let end = match end {
            AttemptOutcome::Unfit { failure, .. } => AttemptOutcome::Failure {
                counts: false,
                failure,
                retry: Retry::Never,
            },
            end => end,
        };
        let now = Now {
            time: task.time(&state),
            random: task.run.store.view.clock.random(),
        };
        let kind = state.machine.failure(attempt, &end);
        let commands = state.machine.finished(attempt, end, now);
        if let Some(kind) = kind {
            call::log_failed(&task.spec, attempt, kind, state.machine.is_delayed());
        }
        let step = task.perform(&mut state, commands, commit);
        step.expect("all that it waited for has ended")
    }
}

impl Drop for TaskFrame {
    /// Breaks the reference cycle between the task and calls that are not awaited any more, and
    /// forgets what the task has reported.
    fn drop(&mut self) {
        self.task.run.store.view.updates.remove(self.task.spec.id());
        let calls = std::mem::take(&mut self.task.state.lock().calls);
        drop(calls);
    }
}

impl Running {
    /// Returns the time as it would be if the delays of the task had been waited for.
    fn time(&self, state: &State) -> Time {
        self.run.store.view.clock.time().after(state.skipped_ms)
    }

    /// Performs the commands and returns the next step, if they lead to one.
    fn perform(
        self: &Arc<Self>,
        state: &mut State,
        commands: Vec<Command>,
        commit: &mut CommitBuilder,
    ) -> Option<Step> {
        let mut next = None;
        let mut commands = VecDeque::from(commands);
        while let Some(command) = commands.pop_front() {
            match command {
                Command::Request => {
                    let now = self.time(state);
                    commands.extend(state.machine.granted(now));
                }
                Command::Record(change) => {
                    let index = self.spec.index;
                    let change = self.keep_args(state, change, commit);
                    commit.record(self.spec.stream, Record::Child { index, change });
                }
                Command::Run { attempt, args } => {
                    let call = Call {
                        task: self.clone(),
                        attempt,
                        args,
                    };
                    next = Some(Step::Call(Box::pin(call.carry_out())));
                }
                Command::WakeAt(at) => {
                    let left_ms = self.time(state).left_ms(at);
                    state.skipped_ms = state.skipped_ms.saturating_add(left_ms);
                    let now = self.time(state);
                    commands.extend(state.machine.due(now));
                }
                Command::Report(mut report) => {
                    if self.spec.run.is_none()
                        && let Outcome::Success(value) = report.outcome
                    {
                        report.outcome = Outcome::Success(self.spill(value, commit));
                    }
                    next = Some(Step::Ended(self.spec.final_report(report, true)));
                }
                Command::Expire => {
                    call::log_expired(&self.spec, state.machine.attempt() + 1);
                    let failure = self.spec.failure(FailureKind::Revoked, "expired");
                    let report = Outcome::Revoked(failure).into();
                    next = Some(Step::Ended(self.spec.final_report(report, false)));
                }
                Command::Park(_) => unreachable!("nothing is parked in an eager app"),
                Command::Cancel { .. } | Command::Revoke => nothing_is_revoked(),
                Command::Child(command) => {
                    next = self.perform_child(state, command, commit).or(next);
                }
            }
        }
        next
    }

    fn perform_child(
        &self,
        state: &mut State,
        command: subtasks::Command,
        commit: &mut CommitBuilder,
    ) -> Option<Step> {
        use subtasks::Command;
        let task = self.spec.id();
        match command {
            Command::Start {
                index,
                purpose,
                key,
                plan,
            } => {
                let first = self.run.number(plan.span, commit);
                let child = definition::StoredSubtask::new(task, index, purpose, key, &plan, first);
                for (key, value) in child.segments {
                    commit.put(key, value);
                }
                commit.record(task, child.record);
                state.offspring.insert(index, child.node);
                match purpose {
                    Purpose::Replacement => return Some(Step::Start(self.child(state, index))),
                    Purpose::Addition => state.additions.push_back(index),
                    // The caller's future runs it.
                    Purpose::Call => {}
                }
            }
            Command::Record(record) => commit.record(task, record),
            Command::Launch(due) => self.run.launch(due, commit),
            // The call returns the outcome itself.
            Command::Answer(..) => {}
            Command::Spawn(_) | Command::Restart(_) | Command::Abandon(_) => nothing_is_lost(),
        }
        None
    }

    /// Returns the subtask that it has started as number `index`.
    fn child(&self, state: &State, index: Index) -> ChildSpec {
        let node = state.offspring[&index].clone();
        self.spec.subtask(index, node, state.machine.purpose(index))
    }

    fn spill(&self, value: Value, commit: &mut CommitBuilder) -> Value {
        commit_builder::spill(self.spec.id(), value, &mut |key, piece| {
            commit.put(key, piece);
        })
    }

    /// Stores large arguments of a retry in records of their own.
    fn keep_args(
        &self,
        state: &mut State,
        mut change: ChildProgress,
        commit: &mut CommitBuilder,
    ) -> ChildProgress {
        if let ChildProgress::Waiting { past, .. } | ChildProgress::WaitingUntil { past, .. } =
            &mut change
            && let Some(args) = past.args.take()
        {
            let kept = commit_builder::spill_args(self.spec.id(), args, &mut |key, piece| {
                commit.put(key, piece);
            });
            past.args = Some(kept.clone());
            state.machine.args_are_kept(kept);
        }
        change
    }

    /// Runs the calls that the attempt has dropped: a task ends after its subtasks.
    async fn end_calls(&self) {
        loop {
            let open = |calls: &HashMap<Index, Joint<Called>>| {
                let mut calls = calls.values();
                calls.find(|call| call.peek().is_none()).cloned()
            };
            let Some(call) = open(&self.state.lock().calls) else {
                return;
            };
            // An error of the store ends the whole run.
            let _ = call.await;
        }
    }

    /// Runs a called subtask and tells the machine of the task its end.
    async fn run_called(self: Arc<Self>, index: Index, spec: ChildSpec) -> Result<Outcome> {
        let report = self.run.run_to_end(spec).await?;
        let outcome = report.outcome.clone();
        let mut commit = CommitBuilder::default();
        let mut state = self.state.lock();
        let commands = state.machine.child_ended(index, report);
        self.perform(&mut state, commands, &mut commit);
        drop(state);
        self.run.commit(commit)?;
        Ok(outcome)
    }
}

/// A call of a task's function.
#[derive(Debug)]
struct Call {
    task: Arc<Running>,
    attempt: u32,
    args: Option<Value>,
}

impl Call {
    /// Calls the function; returns the number of the attempt and its outcome.
    async fn carry_out(self) -> (u32, AttemptOutcome) {
        let number = self.attempt;
        let caller = AttemptRef {
            id: self.task.spec.id(),
            entry: self.task.entry,
            attempt: number,
        };
        let task = self.task.clone();
        let call = Box::pin(self.call(caller));
        let end = AssertUnwindSafe(call).catch_unwind().await;
        task.end_calls().await;
        let end = end.unwrap_or_else(|panic| {
            // Dropping it may panic, as the call did.
            std::mem::forget(panic);
            caller.panicked_outside()
        });
        (number, end)
    }

    async fn call(self, caller: AttemptRef) -> AttemptOutcome {
        let Self { task, args, .. } = self;
        let (store, spec) = (&task.run.store, &task.spec);
        let given = CallInput::new(spec, args);
        let work = match resolve_input(&store.view, spec.root, task.entry, given).await {
            Ok(work) => work,
            Err(message) => return caller.failure(FailureKind::Engine, &message, Retry::Never),
        };
        let limits = Limits::of(&task.options);
        let attempt = Arc::new(Attempt {
            task: task.clone(),
            number: caller.attempt,
            soft_limit: SoftLimit::default(),
            additions: AtomicU64::new(0),
        });
        let context = TaskContext {
            id: caller.id,
            parent_id: spec.parent(),
            group_id: spec.group,
            attempt: caller.attempt,
            item: None,
            blocking: task.entry.options.blocking,
            folds: false,
            upstream: None,
            host: Some(attempt.clone()),
        };
        let body = body(task.entry, context, work, caller.span());
        let done = in_time(body, limits, &attempt.soft_limit, &store.view.clock).await;
        caller.end_in_time(done, &store.registry)
    }
}

/// Returns the future of the called function. It is on the heap, because calls nest and each level
/// would take some kilobytes of the caller's stack.
fn body(
    entry: &'static Entry,
    context: TaskContext,
    work: CallArguments,
    span: Span,
) -> Pin<Box<dyn Future<Output = call::Outcome> + Send>> {
    let body = async move {
        let done = build_call(entry, context, work).await;
        if entry.options.blocking {
            look_again().await;
        }
        done
    };
    Box::pin(body.instrument(span))
}

/// Yields once, so that the time limits are checked again: a blocking body cannot be interrupted,
/// but a body that has overrun its limit has failed.
async fn look_again() {
    let mut looked = false;
    std::future::poll_fn(|context| {
        if std::mem::replace(&mut looked, true) {
            return Poll::Ready(());
        }
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

/// A running or ended attempt, as the task's own code reaches it.
#[derive(Debug)]
pub(crate) struct Attempt {
    task: Arc<Running>,
    number: u32,
    pub(crate) soft_limit: SoftLimit,
    additions: AtomicU64,
}

impl TaskHost for Attempt {
    fn backend(&self) -> Arc<dyn Backend> {
        self.task.run.store.clone()
    }

    fn view(&self) -> &Arc<DurableView> {
        &self.task.run.store.view
    }

    fn stamps(&self) -> &Stamps {
        self.task.spec.def().stamps()
    }

    fn catalogue(&self) -> &dyn Catalogue {
        &self.task.run.store.registry
    }

    fn data(&self) -> &AppData {
        self.task.run.store.registry.data()
    }

    fn check_size(&self, name: &str, of: &'static str, bytes: usize) -> Result<(), SizeExceeded> {
        self.task.run.store.registry.check(name, of, bytes)
    }

    /// There are no slots.
    fn slot_holder(self: Arc<Self>) -> Option<Arc<dyn SlotHolder>> {
        None
    }

    fn call<'a>(
        self: Arc<Self>,
        key: &'a str,
        plan: SubtaskPlan,
    ) -> BoxFuture<'a, Result<Outcome>> {
        Box::pin(async move { self.called(key, plan)?.await })
    }

    fn add(&self, plan: SubtaskPlan) {
        Attempt::add(self, plan);
    }

    /// (There is no record of it: nothing is resumed.)
    fn update(&self, update: TaskUpdate) {
        let state = self.task.state.lock();
        if state.machine.is_running(self.number) {
            let cell = Arc::new(UpdateCell::default());
            let view = &self.task.run.store.view;
            view.update(self.task.spec.id(), &cell, update);
            view.show_updates(self.task.spec.id(), cell);
        }
    }

    fn soft_limit(&self) -> &SoftLimit {
        &self.soft_limit
    }

    /// Nothing is revoked.
    fn observe_cancellation(&self) -> bool {
        false
    }

    fn cancelled(&self) -> BoxFuture<'_, ()> {
        Box::pin(std::future::pending())
    }
}

impl Attempt {
    /// Returns the future that the call waits for. A function of its own, because calls nest.
    fn called(&self, key: &str, plan: SubtaskPlan) -> Result<Joint<Called>> {
        let task = &self.task;
        let mut state = task.state.lock();
        let wants = state
            .machine
            .start_subtask(self.number, Purpose::Call, key, plan);
        let (index, commands) = wants.ok_or(Error::Context(ContextError::NotInTask))?;
        let mut commit = CommitBuilder::default();
        task.perform(&mut state, commands, &mut commit);
        task.run.commit(commit)?;
        // Ended calls are kept as long as the task is.
        if let Some(called) = state.calls.get(&index) {
            return Ok(called.clone());
        }
        let spec = task.child(&state, index);
        let called: Called = Box::pin(task.clone().run_called(index, spec));
        let called = called.shared();
        state.calls.insert(index, called.clone());
        Ok(called)
    }

    /// Adds one more member to the task's group.
    pub(crate) fn add(&self, plan: SubtaskPlan) {
        // Its number in the attempt: the next attempt adds the same again, and joins it.
        let number = self.additions.fetch_add(1, Ordering::Relaxed).to_string();
        let task = &self.task;
        let mut state = task.state.lock();
        let wants = state
            .machine
            .start_subtask(self.number, Purpose::Addition, &number, plan);
        if let Some((_, commands)) = wants {
            let mut commit = CommitBuilder::default();
            task.perform(&mut state, commands, &mut commit);
            if let Err(error) = task.run.commit(commit) {
                task.run.store.view.end(error.into());
            }
        }
    }
}
