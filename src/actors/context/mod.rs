//! The context that all actors of the engine share: it adds their decisions to the journal, commits
//! the journal to the store, and performs the actions that wait for the commit.

mod attempts;
mod quarantine;
mod revocation;

use std::cell::{Cell, OnceCell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

use actix::{Addr, Recipient};
use tokio::sync::oneshot;

use self::attempts::Superseded;
use self::quarantine::{QuarantinedTasks, TrialCandidate};
pub(crate) use self::quarantine::{RecoveredState, TrialSettings};
use super::child::Child;
use super::commit::committer::Committer;
use super::commit::journal::{CommitNotice, Journal, PostCommit};
use super::dispatch::dispatcher::{Dispatcher, Ready, Slots};
use super::dispatch::permit::{Permit, Slot};
use super::engine::sweeper;
use super::event_queue::EventQueue;
use super::execute::executor::Invocation;
use super::execute::inbox::ended_attempt;
use super::scheduler;
use super::scheduler::SchedulerActor;
use super::task::slab::TaskSlab;
use crate::backend::retention_guard::RetentionGuard;
use crate::backend::view::Shared;
use crate::canvas::admission::pending_limit::Load;
use crate::canvas::admission::queue::SlotKind;
use crate::canvas::id::{Id, Seq};
use crate::canvas::machine::task::Now;
use crate::canvas::machine::{PendingCallback, Record};
use crate::canvas::options::Options;
use crate::canvas::outcome::{Outcome, Value};
use crate::canvas::quarantine::Quarantine;
use crate::canvas::quarantine::policy::{QuarantineHook, QuarantinePolicy};
use crate::canvas::revocation::Revocations;
use crate::canvas::time::Time;
use crate::error::Error;
use crate::messages::engine::EngineMessage;
use crate::messages::scheduler::Wake;
use crate::messages::supervisor::{ChildEvent, Launch};
use crate::messages::task::AttemptMessage;
use crate::messages::task::{TaskKey, TaskMessage};
use crate::persistence::records::codec;
use crate::persistence::records::codec::Kind;
use crate::persistence::records::meta;
use crate::persistence::records::meta::Session;
use crate::persistence::records::reader::Reader;
use crate::persistence::records::{commit_builder, keys};
use crate::persistence::store::fs::aborts::AbortNote;
use crate::persistence::{Batch, StoreError};
use crate::task::Entry;
use crate::testing::failpoint;
use crate::testing::failpoint::Point;

/// A batch is committed when it holds this many changes, even if more keep coming.
const BATCH_LIMIT: u64 = 4_096;

/// The pacers' limit, however large the window is: a workflow is delayed if this many tasks wait
/// before it in its queue. This keeps the running workflows in the processor's caches.
const PACER_LIMIT: usize = 1_024;

/// When more than this many windows of tasks wait for a slot, each group uses a window of at most
/// [`CROWDED`].
const CROWD: u64 = 16;
const CROWDED: u64 = 8;

/// A reading of the clocks is recorded beside delays, but at most this often, in milliseconds. A
/// delay may be longer by as much if the machine goes down and its clock is behind when it comes
/// up.
const CLOCK_RECORD_MIN_MS: u64 = 1_000;
/// A reading is also recorded when the engine is woken and the last one is this old, in
/// milliseconds.
const CLOCK_RECORD_MAX_MS: u64 = 60_000;

/// Gives an actor access to the journal and to the other actors.
#[derive(Clone, Debug)]
pub(crate) struct EngineContext(Rc<Inner>);

#[derive(Debug)]
struct Inner {
    journal: RefCell<Journal<Box<Child>>>,
    /// A batch is being filled or committed.
    busy: Cell<bool>,
    /// The number of the last sealed batch; it rises over all openings of the store.
    commit: Cell<u64>,
    /// The node numbers of each live workflow.
    numbers: RefCell<HashMap<Id, Numbers>>,
    /// By workflow: the commit that holds the records of its own children, as long as that is only
    /// one.
    starts: RefCell<HashMap<Id, Option<u64>>>,
    superseded: RefCell<Superseded>,
    revocations: RefCell<Revocations>,
    /// Set when a commit has failed or the engine has stopped: nothing is written any more.
    halted: Cell<bool>,
    reader: Reader,
    committer: Committer,
    scheduler: Addr<SchedulerActor>,
    engine: OnceCell<EngineAddresses>,
    dispatcher: RefCell<Dispatcher<Box<Child>>>,
    actors: ActorFactory,
    tasks: RefCell<TaskSlab<ReadyTask, Recipient<TaskMessage>>>,
    /// The tasks that were running when the previous process ended.
    quarantine: RefCell<Quarantine<TrialCandidate>>,
    quarantined_tasks: RefCell<QuarantinedTasks>,
    /// The time at which the engine is woken for the trials, on the scale of `Clock::elapsed_ms`.
    trial_alarm: Cell<Option<u64>>,
    /// This process's session with the store.
    session: Session,
    _abort_note: Option<AbortNote>,
    /// The latest workflow of earlier sessions.
    last_root: Option<Id>,
    /// The pending load, and the load that the store shows.
    pending: Cell<(Load, Load)>,
    /// The time of the last recorded clock reading.
    recorded: Cell<Time>,
    /// The registered task of the last lookup.
    entry: Cell<Option<&'static Entry>>,
    limits: Limits,
    shared: Arc<Shared>,
}

/// A task that an actor is to take, with its slot if it has one.
type ReadyTask = (Box<Child>, Option<Permit>);

/// Starts the actors of children. The composition root hands it in, because these actors use the
/// context.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ActorFactory {
    /// Starts an idle task actor.
    pub(crate) start_task: fn(&EngineContext) -> Recipient<TaskMessage>,
    /// Starts the supervisor of a chain, group, chord or fold.
    pub(crate) start_supervisor: fn(&EngineContext, Box<Child>),
}

/// The addresses of the engine's actor.
#[derive(Debug)]
struct EngineAddresses {
    messages: Recipient<EngineMessage>,
    wake: Recipient<Wake>,
    events: EventQueue,
}

/// The node numbers of a workflow.
#[derive(Clone, Copy, Debug)]
struct Numbers {
    /// The first free number.
    next: Seq,
    /// Numbers were assigned after the submission, to subtasks or to the members of an `each()`.
    has_more: bool,
}

/// The limits on concurrent work.
#[derive(Clone, Debug)]
pub(crate) struct Limits {
    /// The number of members of one group that are materialised at once.
    pub(crate) window: u64,
    /// The number of live workflows that start in one queue.
    pub(crate) live: usize,
    pub(crate) slots: Slots,
    /// Queues with slots of their own.
    pub(crate) queues: HashMap<String, Slots>,
    /// No task runs before [`EngineContext::resume`].
    pub(crate) is_paused: bool,
    /// The policy for quarantined tasks, and the hook that is called for them.
    pub(crate) quarantine: QuarantinePolicy,
    pub(crate) on_quarantine: Option<QuarantineHook>,
}

impl EngineContext {
    pub(crate) fn new(
        reader: Reader,
        committer: Committer,
        scheduler: Addr<SchedulerActor>,
        shared: Arc<Shared>,
        limits: Limits,
        recovered: RecoveredState,
        actors: ActorFactory,
    ) -> Self {
        let returns = shared.engine_handle().inbox.returns().clone();
        let pacer_limit =
            usize::try_from(limits.window).map_or(PACER_LIMIT, |window| window.min(PACER_LIMIT));
        let engine = Self(Rc::new(Inner {
            journal: RefCell::default(),
            busy: Cell::new(false),
            commit: Cell::new(recovered.last_commit),
            numbers: RefCell::default(),
            starts: RefCell::default(),
            superseded: RefCell::default(),
            revocations: RefCell::default(),
            halted: Cell::new(false),
            reader,
            committer,
            scheduler,
            engine: OnceCell::new(),
            dispatcher: RefCell::new(Dispatcher::new(returns, pacer_limit, limits.is_paused)),
            actors,
            tasks: RefCell::default(),
            quarantine: RefCell::new(recovered.quarantine),
            quarantined_tasks: RefCell::default(),
            trial_alarm: Cell::new(None),
            session: recovered.session,
            _abort_note: recovered.abort_note,
            last_root: recovered.last_root,
            pending: Cell::new((recovered.pending, recovered.pending)),
            recorded: Cell::new(shared.clock.time()),
            entry: Cell::new(None),
            limits,
            shared,
        }));
        engine.open_quarantine(recovered.notes);
        if !engine.is_paused() {
            engine.begin_trials();
        }
        actix::spawn(engine.clone().deliver());
        engine
    }

    pub(crate) fn set_engine(
        &self,
        messages: Recipient<EngineMessage>,
        wake: Recipient<Wake>,
        events: EventQueue,
    ) {
        let first = self.0.engine.set(EngineAddresses {
            messages,
            wake,
            events,
        });
        first.expect("there is one engine");
        self.advance_trials();
    }

    fn engine(&self) -> &EngineAddresses {
        let engine = self.0.engine.get();
        engine.expect("set before anything runs")
    }

    /// Returns the address at which timers wake the engine.
    pub(crate) fn engine_wake(&self) -> &Recipient<Wake> {
        &self.engine().wake
    }

    /// Delivers the messages of attempts and returned slots for ever.
    async fn deliver(self) {
        let shared = self.shared().clone();
        let inbox = &shared.engine_handle().inbox;
        loop {
            let (slots, messages) = inbox.next().await;
            for slot in slots {
                self.release(slot);
            }
            for (task, message) in messages {
                self.forward(task, message);
            }
        }
    }

    pub(crate) fn reader(&self) -> &Reader {
        &self.0.reader
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.0.shared
    }

    pub(crate) fn scheduler(&self) -> &Addr<SchedulerActor> {
        &self.0.scheduler
    }

    /// Returns the number of members of one group that may be materialised. It is small while many
    /// groups have members waiting, so that memory does not grow with the number of groups times
    /// the window.
    pub(crate) fn window(&self) -> u64 {
        let window = self.0.limits.window;
        let crowd = window.saturating_mul(CROWD);
        match self.0.dispatcher.borrow().waiting() as u64 > crowd {
            true => window.min(CROWDED),
            false => window,
        }
    }

    pub(crate) fn live_workflows(&self) -> usize {
        self.0.limits.live
    }

    /// Returns the wall-clock time in milliseconds since the Unix epoch.
    pub(crate) fn now_ms(&self) -> u64 {
        self.0.shared.clock.now_ms()
    }

    /// Returns the time on the scale of delays, in milliseconds.
    pub(crate) fn steady_ms(&self) -> u64 {
        self.0.shared.clock.steady_ms()
    }

    pub(crate) fn time(&self) -> Time {
        self.0.shared.clock.time()
    }

    pub(crate) fn now(&self) -> Now {
        Now {
            time: self.time(),
            random: self.0.shared.clock.random(),
        }
    }

    /// Assigns this task to an actor: at once, or, if the task is ready to run, when it has a slot.
    pub(crate) fn submit_task(&self, child: Box<Child>) {
        match self.entry(&child.def().name) {
            Some(entry) if child.is_ready() => {
                let own = child.def().options.as_deref();
                let slot = self.slot(entry, own);
                let priority = entry.priority(own);
                self.request(slot, priority, Ready::New(child));
            }
            _ => self.place_task(child, None),
        }
    }

    /// Assigns this task, which has a slot, to an actor.
    pub(crate) fn assign(&self, task: Option<(Box<Child>, Permit)>) {
        if let Some((child, permit)) = task {
            self.place_task(child, Some(permit));
        }
    }

    fn place_task(&self, child: Box<Child>, permit: Option<Permit>) {
        let mut tasks = self.0.tasks.borrow_mut();
        let key = tasks.reserve(child.root, (child, permit));
        let idle = tasks.idle();
        let task = idle.unwrap_or_else(|| (self.0.actors.start_task)(self));
        task.do_send(TaskMessage::Assign(key));
        tasks.set_actor(key, task);
    }

    /// Takes the task that was reserved under this key.
    pub(crate) fn take(&self, key: TaskKey) -> Option<ReadyTask> {
        self.0.tasks.borrow_mut().take(key)
    }

    /// Returns a new key for an actor whose task has ended and that takes one of workflow `root` at
    /// once.
    pub(crate) fn reuse_key(&self, key: TaskKey, root: Id) -> TaskKey {
        self.0.tasks.borrow_mut().reuse(key, root)
    }

    /// Parks the actor of a task that has ended. Returns false if the actor is to stop instead.
    pub(crate) fn park_idle(&self, key: TaskKey) -> bool {
        self.0.tasks.borrow_mut().park_idle(key)
    }

    /// Removes a task whose actor is gone.
    pub(crate) fn remove_task(&self, key: TaskKey) {
        let task = self.0.tasks.borrow_mut().remove(key);
        drop(task);
    }

    /// Notifies all tasks that an actor was lost: the tasks below it end, with all below these. A
    /// task that waits for a slot finds out when the slot is granted.
    pub(crate) fn end_orphans(&self) {
        for task in self.0.tasks.borrow().all() {
            task.do_send(TaskMessage::Recheck);
        }
    }

    /// Forwards an attempt's message to the task's actor, or drops it if the actor is gone.
    pub(crate) fn forward(&self, key: TaskKey, message: AttemptMessage) {
        match self.0.tasks.borrow().get(key) {
            Some(task) => task.do_send(TaskMessage::FromAttempt(key, message)),
            None => {
                if let Some(attempt) = ended_attempt(&message) {
                    self.forget_cancellation(key, attempt);
                }
            }
        }
    }

    /// Returns the task that is registered under this name.
    pub(crate) fn entry(&self, name: &str) -> Option<&'static Entry> {
        // Mostly the same task as at the last lookup.
        match self.0.entry.get() {
            Some(last) if last.name == name => Some(last),
            _ => {
                let entry = self.shared().registry.get(name);
                self.0.entry.set(entry);
                entry
            }
        }
    }

    /// Returns the slot that a task needs.
    pub(crate) fn slot(&self, entry: &Entry, own: Option<&Options>) -> Slot {
        let own = own.and_then(|own| own.queue.as_deref());
        let name = own.unwrap_or(entry.options.queue);
        let limits = &self.0.limits;
        let slots = || *limits.queues.get(name).unwrap_or(&limits.slots);
        Slot {
            queue: self.0.dispatcher.borrow_mut().queue(name, slots),
            kind: match entry.options.blocking {
                true => SlotKind::Blocking,
                false => SlotKind::Async,
            },
        }
    }

    /// Requests a slot for a task.
    pub(crate) fn request(&self, slot: Slot, priority: u8, task: Ready<Box<Child>>) {
        let granted = self.0.dispatcher.borrow_mut().request(slot, priority, task);
        self.grant(granted);
    }

    /// Releases a slot, and starts the task that gets it.
    pub(crate) fn release(&self, slot: Slot) {
        let granted = self.0.dispatcher.borrow_mut().release(slot);
        self.grant(granted);
    }

    /// Releases a slot. Returns the task that gets it, if that has no actor yet: the actor that
    /// releases the slot has most likely just finished its own task, and taking the next one saves
    /// a message.
    pub(crate) fn release_to_new(&self, slot: Slot) -> Option<(Box<Child>, Permit)> {
        let granted = self.0.dispatcher.borrow_mut().release(slot);
        match granted {
            Some((Ready::New(child), permit)) => Some((child, permit)),
            granted => {
                self.grant(granted);
                None
            }
        }
    }

    /// Starts a workflow whose first tasks need this slot, now or when its queue is short.
    pub(crate) fn start_workflow(&self, (slot, priority): (Slot, u8), root: Box<Child>) {
        let mut dispatcher = self.0.dispatcher.borrow_mut();
        let root = dispatcher.start_or_delay(slot, priority, root);
        drop(dispatcher);
        if let Some(root) = root {
            root.start(self);
        }
    }

    /// Starts this workflow if its pacer delays it.
    pub(crate) fn start_delayed_workflow(&self, root: Id) {
        let root = self
            .0
            .dispatcher
            .borrow_mut()
            .take_workflow(|child| child.root == root);
        if let Some(root) = root {
            root.start(self);
        }
    }

    /// Notes the number of unfinished workflows.
    pub(crate) fn count_live(&self, workflows: usize) {
        self.shared().count_live(workflows);
        self.0.dispatcher.borrow_mut().count_live(workflows);
    }

    fn grant(&self, granted: Option<(Ready<Box<Child>>, Permit)>) {
        match granted {
            Some((Ready::New(child), permit)) => self.assign(Some((child, permit))),
            Some((Ready::Known(key), permit)) => {
                // (If the task is gone, the permit is returned as it is dropped.)
                if let Some(task) = self.0.tasks.borrow().get(key) {
                    task.do_send(TaskMessage::Granted(permit));
                }
            }
            None => {}
        }
    }

    /// Starts the waiting tasks of an app that was started paused.
    pub(crate) fn resume(&self) {
        if !self.is_paused() {
            return;
        }
        self.begin_trials();
        let granted = self.0.dispatcher.borrow_mut().resume();
        for granted in granted {
            self.grant(Some(granted));
        }
        self.advance_trials();
    }

    fn is_paused(&self) -> bool {
        self.0.dispatcher.borrow().is_paused()
    }

    /// Returns whether a workflow was submitted in this session, and so to this build.
    pub(crate) fn is_of_this_session(&self, root: Id) -> bool {
        Some(root) > self.0.last_root
    }

    /// Stops granting slots, and records that the app shuts down.
    pub(crate) fn drain(&self) {
        self.0.dispatcher.borrow_mut().drain();
        let (key, record) = meta::stopping();
        self.put(key, record);
    }

    /// Returns whether the app is shutting down.
    pub(crate) fn is_draining(&self) -> bool {
        self.0.dispatcher.borrow().is_draining()
    }

    /// Returns the number of slots held in all queues.
    pub(crate) fn held(&self) -> usize {
        self.0.dispatcher.borrow().held()
    }

    /// Returns whether everything decided so far has been committed and acted on.
    pub(crate) fn is_quiet(&self) -> bool {
        !self.0.busy.get()
    }

    /// Adds a record to the stream of supervisor `stream`.
    pub(crate) fn record(&self, stream: Id, record: Record) {
        if stream == stream.workflow_stream() {
            let commit = self.next_commit();
            let mut starts = self.0.starts.borrow_mut();
            let only = starts.entry(stream.root()).or_insert(Some(commit));
            only.take_if(|only| *only != commit);
        }
        self.add(|journal| journal.record(stream, record));
    }

    pub(crate) fn put(&self, key: Vec<u8>, value: Vec<u8>) {
        self.add(|journal| journal.put(key, value));
    }

    pub(crate) fn delete(&self, key: Vec<u8>) {
        self.add(|journal| journal.delete(key));
    }

    /// Notifies the waiters of workflow `root` once this batch is durable.
    pub(crate) fn touch(&self, root: Id) {
        self.add(|journal| journal.touch(root));
    }

    /// Calls a task's function once all that was recorded before it is durable.
    pub(crate) fn run(&self, invocation: Invocation) {
        self.add(|journal| journal.run(invocation));
    }

    /// Notifies the caller once its submission is durable.
    pub(crate) fn acknowledge(
        &self,
        caller: oneshot::Sender<RetentionGuard>,
        guard: RetentionGuard,
    ) {
        self.add(|journal| journal.acknowledge(caller, guard));
    }

    /// Performs this action once all that was recorded before it is durable.
    pub(crate) fn then(&self, action: PostCommit<Box<Child>>) {
        self.add(|journal| journal.then(action));
    }

    /// Notifies the engine once all that was recorded before is durable.
    pub(crate) fn notify(&self, message: EngineMessage) {
        self.then(PostCommit::Notify(message));
    }

    /// Starts the supervisor of a chain, group, chord or fold.
    pub(crate) fn start_supervisor(&self, child: Box<Child>) {
        (self.0.actors.start_supervisor)(self, child);
    }

    /// Records that these callbacks are to run, and sends them to the engine, unless the supervisor
    /// is revoked. `caller` is the queue of the supervisor whose children launch them.
    pub(crate) fn launch(&self, root: Id, callbacks: Vec<PendingCallback>, caller: &EventQueue) {
        if self.observe_revocation(root, caller.path()) {
            return;
        }
        for callback in callbacks {
            self.record_callback(root, &callback);
            failpoint::reach(Point::Launched);
            if let Some(engine) = self.0.engine.get() {
                engine
                    .events
                    .send(ChildEvent::Launch(Box::new(Launch { root, callback })));
            }
        }
    }

    pub(crate) fn record_callback(&self, root: Id, callback: &PendingCallback) {
        self.record(
            root.workflow_stream(),
            commit_builder::callback_record(callback),
        );
    }

    /// Returns the outcome as it is recorded: a value too large for its record is stored under keys
    /// of its own.
    pub(crate) fn spill(&self, node: Id, outcome: Outcome) -> Outcome {
        match outcome {
            Outcome::Success(value) => {
                let put = &mut |key, part| self.put(key, part);
                Outcome::Success(commit_builder::spill(node, value, put))
            }
            outcome => outcome,
        }
    }

    /// As [`spill`](Self::spill), for the accumulator of a fold.
    pub(crate) fn spill_acc(&self, body: Id, acc: Value) -> Value {
        commit_builder::spill_acc(body, acc, &mut |key, part| self.put(key, part))
    }

    /// As [`spill`](Self::spill), for the arguments of a retry.
    pub(crate) fn spill_args(&self, node: Id, args: Value) -> Value {
        commit_builder::spill_args(node, args, &mut |key, part| self.put(key, part))
    }

    /// Assigns `count` node numbers of workflow `root`; returns the first.
    pub(crate) fn number(&self, root: Id, count: u64) -> Result<Seq, StoreError> {
        let mut numbers = self.0.numbers.borrow_mut();
        let numbers = numbers.get_mut(&root).ok_or_else(|| StoreError::Corrupt {
            path_or_place: format!("workflow {root}"),
            what: "a task starts a subtask in a workflow that has ended".to_owned(),
        })?;
        let first = numbers.next;
        let next = first + count;
        *numbers = Numbers {
            next,
            has_more: true,
        };
        self.put(keys::counter(root), codec::encode(Kind::Counter, &next));
        Ok(first)
    }

    /// Removes the state of a workflow that has ended. Without callbacks, the record that its root
    /// was started is not needed any more, and mostly the store still has it only in its log.
    pub(crate) fn finish_workflow(&self, root: Id, has_callbacks: bool) {
        self.0.numbers.borrow_mut().remove(&root);
        self.0.superseded.borrow_mut().remove(&root);
        // (A revocation reads that record.)
        let is_asked = self.has_revoked() && self.0.revocations.borrow_mut().forget(root);
        // Tasks that were not recovered are still suspects: they were revoked, or their workflow
        // failed before.
        self.suspects_of(root)
            .into_iter()
            .for_each(|id| self.clear_absent(id));
        let start = self.0.starts.borrow_mut().remove(&root).flatten();
        if let Some(commit) = start
            && !has_callbacks
            && !is_asked
        {
            self.delete(keys::segment(root.workflow_stream(), commit, 0));
        }
    }

    /// Starts the numbering of a workflow after the nodes of its submission, and after those that
    /// the store counts.
    pub(crate) fn start_numbers(&self, root: Id, submitted: Seq, counted: Option<Seq>) {
        let numbers = Numbers {
            next: counted.unwrap_or(submitted),
            has_more: counted.is_some(),
        };
        self.0.numbers.borrow_mut().insert(root, numbers);
    }

    /// Returns whether tasks of this workflow may have started subtasks.
    pub(crate) fn has_subtasks(&self, root: Id) -> bool {
        let numbers = self.0.numbers.borrow();
        numbers.get(&root).is_some_and(|numbers| numbers.has_more)
    }

    /// Adds to the pending load. The caller adds the workflow's record to the same batch.
    pub(crate) fn add_pending(&self, load: Load) {
        let (mut pending, stored) = self.0.pending.get();
        pending.add(load);
        self.0.pending.set((pending, stored));
    }

    /// Subtracts from the pending load, like [`add_pending`](Self::add_pending).
    pub(crate) fn remove_pending(&self, load: Load) {
        let (mut pending, stored) = self.0.pending.get();
        pending.remove(load);
        self.0.pending.set((pending, stored));
        self.shared().engine_handle().admission.remove(load);
    }

    /// Records the pending load once for each batch, however many workflows it starts and ends.
    fn count_pending(&self, journal: &mut Journal<Box<Child>>) {
        let (pending, stored) = self.0.pending.get();
        if pending != stored {
            self.0.pending.set((pending, pending));
            let record = codec::encode(Kind::Pending, &pending);
            journal.put(keys::PENDING.to_vec(), record);
        }
    }

    /// Records that this session ends cleanly: tasks that still run are not blamed for its end.
    pub(crate) fn end_session(&self) {
        let (key, record) = self.0.session.clone().ended();
        self.put(key, record);
        self.record_clock();
    }

    /// Records a clock reading beside a delay that is being recorded: its start must be known after
    /// the machine has been off.
    pub(crate) fn note_delay(&self) {
        let passed_ms = self.steady_ms().abs_diff(self.0.recorded.get().steady_ms);
        if passed_ms >= CLOCK_RECORD_MIN_MS {
            self.record_clock();
        }
    }

    /// Records a clock reading if the wall clock was set or the last reading is old.
    pub(crate) fn note_clock(&self) {
        let (now, recorded) = (self.time(), self.0.recorded.get());
        let is_set = now.ahead_ms().abs_diff(recorded.ahead_ms()) > scheduler::DRIFT_MS;
        if is_set || now.steady_ms.abs_diff(recorded.steady_ms) >= CLOCK_RECORD_MAX_MS {
            self.record_clock();
        }
    }

    fn record_clock(&self) {
        self.0.recorded.set(self.time());
        let (key, record) = self.shared().clock.reading().record();
        self.put(key, record);
    }

    /// Stops the engine: every waiter gets the reason, and nothing is written any more, whatever
    /// the actors that are being dropped still record.
    pub(crate) fn close(&self, why: Error) {
        if !self.0.halted.replace(true) {
            self.0.shared.end(why);
            actix::System::current().stop();
        }
    }

    /// Returns whether the engine has stopped: an actor that stops now is not lost.
    pub(crate) fn is_closed(&self) -> bool {
        self.0.halted.get()
    }

    /// Halts the engine, because the store or the engine can no longer be trusted. The host process
    /// lives on; opening the store again recovers.
    pub(crate) fn halt(&self, why: Error) {
        if !self.is_closed() {
            tracing::error!(%why, "the engine halts");
        }
        self.close(why);
    }

    fn add(&self, add: impl FnOnce(&mut Journal<Box<Child>>)) {
        if self.0.halted.get() {
            return;
        }
        add(&mut self.0.journal.borrow_mut());
        if !self.0.busy.replace(true) {
            let engine = self.clone();
            actix::spawn(async move { engine.commit_all().await });
        }
    }

    /// Returns the number that the batch being filled will have.
    pub(crate) fn next_commit(&self) -> u64 {
        self.0.commit.get() + 1
    }

    /// Commits until the journal is empty: at most one batch is being written while the next is
    /// filled.
    async fn commit_all(self) {
        loop {
            self.coalesce().await;
            let sealed = {
                let mut journal = self.0.journal.borrow_mut();
                if journal.is_empty() {
                    self.0.busy.set(false);
                    return;
                }
                self.count_pending(&mut journal);
                self.0.commit.set(self.next_commit());
                journal.take(self.0.commit.get())
            };
            failpoint::reach(Point::Decided);
            if sealed.batch.is_empty() {
                sealed.notice.publish(&self.0.shared);
            } else if let Err(error) = self.commit(sealed.batch, sealed.notice).await {
                self.halt(error);
                return;
            }
            if self.0.halted.get() {
                return;
            }
            for action in sealed.actions {
                self.perform(action);
                failpoint::reach(Point::Acted);
            }
            // (If a pacer delays a workflow, tasks wait before it or it has just admitted others,
            // so there will be another commit.)
            let starting = self.0.dispatcher.borrow_mut().admit_ready();
            for root in starting {
                root.start(&self);
            }
        }
    }

    /// Yields to the actors until none of them adds anything more, so that what follows from one
    /// event (a step's end, the next step's start) shares a batch. Only the number of commits
    /// depends on it.
    async fn coalesce(&self) {
        let start = self.0.journal.borrow().added;
        let mut last = start;
        let mut quiet = 0;
        while quiet < 3 {
            tokio::task::yield_now().await;
            let added = self.0.journal.borrow().added;
            if added - start > BATCH_LIMIT {
                return;
            }
            quiet = if added == last { quiet + 1 } else { 0 };
            last = added;
        }
    }

    async fn commit(&self, batch: Batch, notice: CommitNotice) -> Result<(), Error> {
        let shared = self.0.shared.clone();
        let on_committed = move |done: &Result<(), StoreError>| match done {
            Ok(()) => notice.publish(&shared),
            // Set before the callers see that their senders are dropped, because they read the
            // reason then.
            Err(error) => shared.end(error.clone().into()),
        };
        let done = self.0.committer.commit(batch, on_committed).await;
        done.ok_or_else(|| Error::Halted("the store was lost".to_owned()))?
            .map_err(Error::from)
    }

    fn perform(&self, action: PostCommit<Box<Child>>) {
        match action {
            // The attempt may have stopped waiting.
            PostCommit::Answer(caller, outcome) => drop(caller.send(outcome)),
            PostCommit::Start(child) => child.start_now(self),
            PostCommit::Restart(supervisor, message) => supervisor.do_send(message),
            PostCommit::Notify(message) => self.engine().messages.do_send(message),
            PostCommit::Done(caller) => drop(caller.send(Ok(()))),
            PostCommit::Purge(root) => {
                let store = self.0.committer.store.clone();
                let shared = self.shared().clone();
                self.0
                    .shared
                    .engine_handle()
                    .runtime
                    .spawn(sweeper::purge(shared, store, root));
            }
        }
    }
}
