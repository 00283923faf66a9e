//! The shell around every machine: what is decided goes into the journal, the journal goes to the
//! store, and what waits for the disk is done when the store has answered.

mod attempts;
mod quarantine;
mod revocation;

use std::cell::{Cell, OnceCell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

use actix::{Actor, Addr};
use tokio::sync::oneshot;

use self::attempts::Superseded;
use self::quarantine::{QuarantinedTasks, TrialCandidate};
pub(crate) use self::quarantine::{RecoveredState, TrialSettings};
use super::dispatcher::{Dispatcher, Ready, Slots};
use super::engine::EngineActor;
use super::event_queue::EventQueue;
use super::executor::Invocation;
use super::inbox::AttemptMessage;
use super::journal::{CommitNotice, Journal, PostCommit};
use super::retention_guard::RetentionGuard;
use super::scheduler::{self, SchedulerActor};
use super::shared::Shared;
use super::store::Committer;
use super::supervision::Child;
use super::sweeper;
use super::task::{Assign, FromAttempt, TaskActor};
use super::task_slab::{TaskKey, TaskSlab};
use crate::canvas::id::{Id, Seq};
use crate::canvas::machine::pending_limit::Load;
use crate::canvas::machine::quarantine::Quarantine;
use crate::canvas::machine::queue::SlotKind;
use crate::canvas::machine::revocation::Revocations;
use crate::canvas::machine::task::Now;
use crate::canvas::machine::{PendingCallback, Record};
use crate::canvas::options::Options;
use crate::canvas::outcome::{Outcome, Value};
use crate::canvas::quarantine::{QuarantineHook, QuarantinePolicy};
use crate::canvas::time::Time;
use crate::error::Error;
use crate::failpoint::{self, Point};
use crate::messages::dispatcher::{Permit, Slot};
use crate::messages::engine::Launch;
use crate::messages::supervisor::ChildEvent;
use crate::messages::task::{Granted, Recheck};
use crate::persistence::aborts::AbortNote;
use crate::persistence::codec::{self, Kind};
use crate::persistence::meta::{self, Session};
use crate::persistence::reader::Reader;
use crate::persistence::{Batch, StoreError, commit_builder, keys};
use crate::task::Entry;

/// A batch is sent off when this much is in it, however much more is on its way.
const FULL: u64 = 4_096;

/// Who waits at a gate if so many wait before a queue, however large the window is: it keeps what is
/// under way in the processor's caches.
const GATE: usize = 1_024;

/// When more than so many windows of tasks wait for a slot, each group makes do with a window of
/// [`CROWDED`].
const CROWD: u64 = 16;
const CROWDED: u64 = 8;

/// What the clocks show is recorded beside delays, but not more often than this, in milliseconds: by so much
/// a delay may be longer if the machine goes down and its clock comes up behind.
const NOTED_EACH_MS: u64 = 1_000;
/// And in any case when something else wakes the engine after so long.
const NOTED_AT_LEAST_MS: u64 = 60_000;

/// What every actor of the engine has: the way to the journal, and to the other actors.
#[derive(Clone, Debug)]
pub(crate) struct EngineContext(Rc<Inner>);

#[derive(Debug)]
struct Inner {
    journal: RefCell<Journal>,
    /// A batch is being filled or is on its way.
    busy: Cell<bool>,
    /// The number of the last batch taken, rising over all openings of the store.
    commit: Cell<u64>,
    /// By live workflow.
    numbers: RefCell<HashMap<Id, Numbers>>,
    /// The commit with what is recorded of each workflow's own children, while it is only one.
    starts: RefCell<HashMap<Id, Option<u64>>>,
    superseded: RefCell<Superseded>,
    revocations: RefCell<Revocations>,
    /// Set once a commit has failed or the engine has stopped: nothing is written any more.
    halted: Cell<bool>,
    reader: Reader,
    committer: Committer,
    scheduler: Addr<SchedulerActor>,
    engine: OnceCell<(Addr<EngineActor>, EventQueue)>,
    dispatcher: RefCell<Dispatcher>,
    tasks: RefCell<TaskSlab>,
    /// What was running when the process before this one ended.
    quarantine: RefCell<Quarantine<TrialCandidate>>,
    quarantined_tasks: RefCell<QuarantinedTasks>,
    /// When the engine is to be woken for the trials, on the scale of `Clock::elapsed_ms`.
    trial_alarm: Cell<Option<u64>>,
    /// Ours over this store.
    life: Session,
    _abort_note: Option<AbortNote>,
    /// The latest workflow of the lives before.
    last_root: Option<Id>,
    /// How much is pending, and how much the store says.
    pending: Cell<(Load, Load)>,
    /// When it was last recorded what the clocks show.
    noted: Cell<Time>,
    /// The registered task that was asked for last.
    entry: Cell<Option<&'static Entry>>,
    limits: Limits,
    shared: Arc<Shared>,
}

/// The node numbers of a workflow.
#[derive(Clone, Copy, Debug)]
struct Numbers {
    /// The first that is free.
    next: Seq,
    /// Some were handed out after the submission: to what its tasks have started, or an `each()`.
    has_more: bool,
}

/// How much runs and lives at once.
#[derive(Clone, Debug)]
pub(crate) struct Limits {
    /// Members of one group that are materialised.
    pub(crate) window: u64,
    /// Workflows that start in one queue.
    pub(crate) live: usize,
    pub(crate) slots: Slots,
    /// Queues with slots of their own.
    pub(crate) queues: HashMap<String, Slots>,
    /// Nothing runs before [`EngineContext::resume`].
    pub(crate) is_paused: bool,
    /// What becomes of a task in quarantine, and who is told.
    pub(crate) quarantine: QuarantinePolicy,
    pub(crate) on_quarantine: Option<QuarantineHook>,
}

impl EngineContext {
    pub(crate) fn new(
        reader: Reader,
        desk: Committer,
        scheduler: Addr<SchedulerActor>,
        shared: Arc<Shared>,
        limits: Limits,
        legacy: RecoveredState,
    ) -> Self {
        let returns = shared.engine_handle().inbox.returns().clone();
        let gate = usize::try_from(limits.window).map_or(GATE, |window| window.min(GATE));
        let shell = Self(Rc::new(Inner {
            journal: RefCell::default(),
            busy: Cell::new(false),
            commit: Cell::new(legacy.last_commit),
            numbers: RefCell::default(),
            starts: RefCell::default(),
            superseded: RefCell::default(),
            revocations: RefCell::default(),
            halted: Cell::new(false),
            reader,
            committer: desk,
            scheduler,
            engine: OnceCell::new(),
            dispatcher: RefCell::new(Dispatcher::new(returns, gate, limits.is_paused)),
            tasks: RefCell::default(),
            quarantine: RefCell::new(legacy.quarantine),
            quarantined_tasks: RefCell::default(),
            trial_alarm: Cell::new(None),
            life: legacy.session,
            _abort_note: legacy.abort_note,
            last_root: legacy.last_root,
            pending: Cell::new((legacy.pending, legacy.pending)),
            noted: Cell::new(shared.clock.time()),
            entry: Cell::new(None),
            limits,
            shared,
        }));
        shell.open_quarantine(legacy.notes);
        if !shell.is_paused() {
            shell.begin_trials();
        }
        let deliver = shell.clone();
        actix::spawn(async move {
            let shared = deliver.shared().clone();
            shared.engine_handle().inbox.deliver(deliver).await;
        });
        shell
    }

    pub(crate) fn set_engine(&self, engine: Addr<EngineActor>, post: EventQueue) {
        let first = self.0.engine.set((engine, post));
        first.expect("there is one engine");
        self.try_next();
    }

    pub(crate) fn engine(&self) -> &Addr<EngineActor> {
        let engine = self.0.engine.get();
        &engine.expect("set before anything runs").0
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

    /// How many members of one group may be materialised: few while many groups have theirs, so
    /// that memory does not grow with the number of groups times the window.
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

    /// What the wall clock shows, in milliseconds since the Unix epoch.
    pub(crate) fn now_ms(&self) -> u64 {
        self.0.shared.clock.now_ms()
    }

    /// The time on the scale on which delays are kept.
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

    /// Has an actor take this task; one that is ready at once, when it has a slot.
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

    /// Has an actor take this task, which has got a slot.
    pub(crate) fn assign(&self, task: Option<(Box<Child>, Permit)>) {
        if let Some((child, permit)) = task {
            self.place_task(child, Some(permit));
        }
    }

    fn place_task(&self, child: Box<Child>, permit: Option<Permit>) {
        let mut roll = self.0.tasks.borrow_mut();
        let ticket = roll.reserve(child, permit);
        let idle = roll.idle();
        let task = idle.unwrap_or_else(|| TaskActor::new(self.clone()).start());
        task.do_send(Assign(ticket));
        roll.set_actor(ticket, task);
    }

    /// The task that is meant for the holder of this ticket.
    pub(crate) fn take(&self, ticket: TaskKey) -> Option<(Box<Child>, Option<Permit>)> {
        self.0.tasks.borrow_mut().take(ticket)
    }

    /// The task has ended, and its actor takes one of workflow `root` at once: the ticket of that one.
    pub(crate) fn reuse_key(&self, ticket: TaskKey, root: Id) -> TaskKey {
        self.0.tasks.borrow_mut().reuse(ticket, root)
    }

    /// The task has ended; its actor waits for another, unless the answer is no.
    pub(crate) fn park_idle(&self, ticket: TaskKey) -> bool {
        self.0.tasks.borrow_mut().park_idle(ticket)
    }

    /// The actor of a task is gone.
    pub(crate) fn remove_task(&self, ticket: TaskKey) {
        let task = self.0.tasks.borrow_mut().remove(ticket);
        drop(task);
    }

    /// An actor was lost: the tasks below it end, those above these with them. What waits for its slot does
    /// so when it is granted.
    pub(crate) fn end_orphans(&self) {
        for task in self.0.tasks.borrow().all() {
            task.do_send(Recheck);
        }
    }

    /// Passes a note on to a task's actor; what one that is gone was told is dropped.
    pub(crate) fn pass(&self, ticket: TaskKey, note: AttemptMessage) {
        match self.0.tasks.borrow().get(ticket) {
            Some(task) => task.do_send(FromAttempt(ticket, note)),
            None => {
                if let Some(attempt) = note.ended() {
                    self.forget_cancellation(ticket, attempt);
                }
            }
        }
    }

    /// What is registered under this name.
    pub(crate) fn entry(&self, name: &str) -> Option<&'static Entry> {
        // Mostly the same as for the task before.
        match self.0.entry.get() {
            Some(last) if last.name == name => Some(last),
            _ => {
                let entry = self.shared().registry.get(name);
                self.0.entry.set(entry);
                entry
            }
        }
    }

    /// The slot that a task takes.
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

    /// Asks for a slot.
    pub(crate) fn request(&self, slot: Slot, priority: u8, task: Ready) {
        let granted = self.0.dispatcher.borrow_mut().request(slot, priority, task);
        self.grant(granted);
    }

    /// A slot is free again.
    pub(crate) fn release(&self, slot: Slot) {
        let granted = self.0.dispatcher.borrow_mut().release(slot);
        self.grant(granted);
    }

    /// A slot is free again: the task that gets it, if it has no actor yet. (The one that gives it
    /// back has most likely just lost its own task: that saves a message.)
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

    /// Starts a workflow whose first tasks will stand in this line, now or when the line is short.
    pub(crate) fn begin(&self, (slot, priority): (Slot, u8), root: Box<Child>) {
        let mut dispatcher = self.0.dispatcher.borrow_mut();
        let root = dispatcher.arrive(slot, priority, root);
        drop(dispatcher);
        if let Some(root) = root {
            root.start(self);
        }
    }

    /// Starts this workflow if it waits for its line to be short.
    pub(crate) fn begin_at_once(&self, root: Id) {
        let root = self.0.dispatcher.borrow_mut().take_workflow(root);
        if let Some(root) = root {
            root.start(self);
        }
    }

    /// So many workflows have not ended.
    pub(crate) fn count_live(&self, workflows: usize) {
        self.shared().count_live(workflows);
        self.0.dispatcher.borrow_mut().count_live(workflows);
    }

    fn grant(&self, granted: Option<(Ready, Permit)>) {
        match granted {
            Some((Ready::New(child), permit)) => self.assign(Some((child, permit))),
            Some((Ready::Known(ticket), permit)) => {
                // (The permit of a task that is gone comes back as it is dropped.)
                if let Some(task) = self.0.tasks.borrow().get(ticket) {
                    task.do_send(Granted(permit));
                }
            }
            None => {}
        }
    }

    /// Starts what waits, in an app that was started paused.
    pub(crate) fn resume(&self) {
        if !self.is_paused() {
            return;
        }
        self.begin_trials();
        let granted = self.0.dispatcher.borrow_mut().resume();
        for granted in granted {
            self.grant(Some(granted));
        }
        self.try_next();
    }

    fn is_paused(&self) -> bool {
        self.0.dispatcher.borrow().is_paused()
    }

    /// Says whether a workflow was submitted to this build, and not to one before.
    pub(crate) fn is_of_this_session(&self, root: Id) -> bool {
        Some(root) > self.0.last_root
    }

    /// Grants no slot any more, and records that the app shuts down.
    pub(crate) fn drain(&self) {
        self.0.dispatcher.borrow_mut().drain();
        let (key, record) = meta::stopping();
        self.put(key, record);
    }

    /// The app is shutting down.
    pub(crate) fn is_draining(&self) -> bool {
        self.0.dispatcher.borrow().is_draining()
    }

    /// How many slots are held in all queues.
    pub(crate) fn held(&self) -> usize {
        self.0.dispatcher.borrow().held()
    }

    /// Says whether everything decided so far has been committed and acted on.
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

    /// Who waits for the end of workflow `root` looks again after this batch.
    pub(crate) fn touch(&self, root: Id) {
        self.add(|journal| journal.touch(root));
    }

    /// Has a task's function called once all that was recorded before it is durable.
    pub(crate) fn run(&self, order: Invocation) {
        self.add(|journal| journal.run(order));
    }

    /// Tells the caller that its submission is durable, once it is.
    pub(crate) fn acknowledge(&self, caller: oneshot::Sender<RetentionGuard>, pin: RetentionGuard) {
        self.add(|journal| journal.acknowledge(caller, pin));
    }

    /// Does this once all that was recorded before it is durable.
    pub(crate) fn then(&self, act: PostCommit) {
        self.add(|journal| journal.then(act));
    }

    /// Records that these callbacks are to run, and has the engine run them; but not of what is
    /// revoked. `caller`: the post of the supervisor whose children call for them.
    pub(crate) fn launch(&self, root: Id, due: Vec<PendingCallback>, caller: &EventQueue) {
        if self.observe_revocation(root, caller.path()) {
            return;
        }
        for due in due {
            self.record_due(root, &due);
            failpoint::reach(Point::Launched);
            if let Some((_, post)) = self.0.engine.get() {
                post.send(ChildEvent::Launch(Box::new(Launch { root, due })));
            }
        }
    }

    pub(crate) fn record_due(&self, root: Id, due: &PendingCallback) {
        self.record(root.workflow_stream(), commit_builder::callback_record(due));
    }

    /// The outcome as it is recorded: a value too large for its record is put beside it.
    pub(crate) fn spill(&self, node: Id, outcome: Outcome) -> Outcome {
        match outcome {
            Outcome::Success(value) => {
                let put = &mut |key, piece| self.put(key, piece);
                Outcome::Success(commit_builder::spill(node, value, put))
            }
            outcome => outcome,
        }
    }

    /// The accumulator of a fold's function as it is recorded.
    pub(crate) fn spill_acc(&self, body: Id, acc: Value) -> Value {
        commit_builder::spill_acc(body, acc, &mut |key, piece| self.put(key, piece))
    }

    /// The arguments that a retry gave as they are recorded.
    pub(crate) fn spill_args(&self, node: Id, args: Value) -> Value {
        commit_builder::spill_args(node, args, &mut |key, piece| self.put(key, piece))
    }

    /// Hands out `count` node numbers of workflow `root`.
    pub(crate) fn number(&self, root: Id, count: u64) -> Result<Seq, StoreError> {
        let mut numbers = self.0.numbers.borrow_mut();
        let numbers = numbers.get_mut(&root).ok_or_else(|| StoreError::Corrupt {
            path_or_place: format!("workflow {root}"),
            what: "it has ended, and a task of it starts another".to_owned(),
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

    /// The workflow has ended. Of one without callbacks nobody asks any more when its root was
    /// started, and mostly the store has not taken that out of its log yet.
    pub(crate) fn finish_workflow(&self, root: Id, has_callbacks: bool) {
        self.0.numbers.borrow_mut().remove(&root);
        self.0.superseded.borrow_mut().remove(&root);
        // (Whoever revokes asks so.)
        let is_asked = self.has_revoked() && self.0.revocations.borrow_mut().forget(root);
        // What has not come in again is suspected still: it was revoked, or its workflow failed first.
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

    /// Starts the numbering of a workflow behind the nodes that it was submitted with, and behind those
    /// that the store counts.
    pub(crate) fn start_numbers(&self, root: Id, submitted: Seq, counted: Option<Seq>) {
        let numbers = Numbers {
            next: counted.unwrap_or(submitted),
            has_more: counted.is_some(),
        };
        self.0.numbers.borrow_mut().insert(root, numbers);
    }

    /// Says whether tasks of this workflow may have started something.
    pub(crate) fn has_subtasks(&self, root: Id) -> bool {
        let numbers = self.0.numbers.borrow();
        numbers.get(&root).is_some_and(|numbers| numbers.has_more)
    }

    /// So much more is pending. To be called beside the record that says so.
    pub(crate) fn add_pending(&self, weight: Load) {
        let (mut pending, stored) = self.0.pending.get();
        pending.add(weight);
        self.0.pending.set((pending, stored));
    }

    /// So much has ended. As above.
    pub(crate) fn remove_pending(&self, weight: Load) {
        let (mut pending, stored) = self.0.pending.get();
        pending.remove(weight);
        self.0.pending.set((pending, stored));
        self.shared().engine_handle().admission.remove(weight);
    }

    /// Once for each batch, however many workflows it starts and ends.
    fn count_pending(&self, journal: &mut Journal) {
        let (pending, stored) = self.0.pending.get();
        if pending != stored {
            self.0.pending.set((pending, pending));
            let record = codec::encode(Kind::Pending, &pending);
            journal.put(keys::PENDING.to_vec(), record);
        }
    }

    /// Records that this life ends as it should: what still runs is not to blame for it.
    pub(crate) fn end_session(&self) {
        let (key, record) = self.0.life.clone().ended();
        self.put(key, record);
        self.record_clock();
    }

    /// A delay is being recorded: from when on it counts must be known after the machine has been off.
    pub(crate) fn note_delay(&self) {
        let passed_ms = self.steady_ms().abs_diff(self.0.noted.get().steady_ms);
        if passed_ms >= NOTED_EACH_MS {
            self.record_clock();
        }
    }

    /// Records what the clocks show if the wall clock was set, or if that is long ago.
    pub(crate) fn note_clock(&self) {
        let (now, noted) = (self.time(), self.0.noted.get());
        let is_set = now.ahead_ms().abs_diff(noted.ahead_ms()) > scheduler::DRIFT_MS;
        if is_set || now.steady_ms.abs_diff(noted.steady_ms) >= NOTED_AT_LEAST_MS {
            self.record_clock();
        }
    }

    fn record_clock(&self) {
        self.0.noted.set(self.time());
        let (key, record) = self.shared().clock.reading().record();
        self.put(key, record);
    }

    /// Ends it all: every waiter is told why, and nothing is written any more, whatever the actors
    /// that are being dropped still say.
    pub(crate) fn close(&self, why: Error) {
        if !self.0.halted.replace(true) {
            self.0.shared.end(why);
            actix::System::current().stop();
        }
    }

    /// Nothing more will happen: an actor that goes now is no loss.
    pub(crate) fn is_closed(&self) -> bool {
        self.0.halted.get()
    }

    /// The store can no longer be trusted, or we cannot. The host process lives on; opening the
    /// store again recovers.
    pub(crate) fn halt(&self, why: Error) {
        if !self.is_closed() {
            tracing::error!(%why, "the engine halts");
        }
        self.close(why);
    }

    fn add(&self, add: impl FnOnce(&mut Journal)) {
        if self.0.halted.get() {
            return;
        }
        add(&mut self.0.journal.borrow_mut());
        if !self.0.busy.replace(true) {
            let shell = self.clone();
            actix::spawn(async move { shell.commit_all().await });
        }
    }

    /// The number that the batch being filled will have.
    pub(crate) fn next_commit(&self) -> u64 {
        self.0.commit.get() + 1
    }

    /// Commits until there is nothing left to commit: at most one batch is on its way, the next
    /// is filled meanwhile.
    async fn commit_all(self) {
        loop {
            self.coalesce().await;
            let taken = {
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
            if taken.batch.is_empty() {
                taken.news.publish(&self.0.shared);
            } else if let Err(error) = self.commit(taken.batch, taken.news).await {
                self.halt(error);
                return;
            }
            if self.0.halted.get() {
                return;
            }
            for act in taken.acts {
                self.act(act);
                failpoint::reach(Point::Acted);
            }
            // (A gate that keeps somebody has a line before it, or has let others in: there will be
            // another commit.)
            let entering = self.0.dispatcher.borrow_mut().admit_ready();
            for root in entering {
                root.start(&self);
            }
        }
    }

    /// Lets the actors talk until none of them adds anything more, so that what follows from one
    /// event (a step's end, the next step's start) shares a batch. Nothing depends on it but the
    /// number of commits.
    async fn coalesce(&self) {
        let start = self.0.journal.borrow().added;
        let mut last = start;
        let mut quiet = 0;
        while quiet < 3 {
            tokio::task::yield_now().await;
            let added = self.0.journal.borrow().added;
            if added - start > FULL {
                return;
            }
            quiet = if added == last { quiet + 1 } else { 0 };
            last = added;
        }
    }

    async fn commit(&self, batch: Batch, news: CommitNotice) -> Result<(), Error> {
        let shared = self.0.shared.clone();
        let follow = move |done: &Result<(), StoreError>| match done {
            Ok(()) => news.publish(&shared),
            // Before its callers see that they get no answer: they ask why.
            Err(error) => shared.end(error.clone().into()),
        };
        let done = self.0.committer.commit(batch, follow).await;
        done.ok_or_else(|| Error::Halted("the store was lost".to_owned()))?
            .map_err(Error::from)
    }

    fn act(&self, act: PostCommit) {
        match act {
            // Who no longer waits for its call loses nothing.
            PostCommit::Answer(caller, outcome) => drop(caller.send(outcome)),
            PostCommit::KeyIsDurable(message) => self.engine().do_send(message),
            PostCommit::Start(child) => child.start_now(self),
            PostCommit::Restart(supervisor, message) => supervisor.do_send(message),
            PostCommit::Stored(message) => self.engine().do_send(message),
            PostCommit::Wanted(message) => self.engine().do_send(message),
            PostCommit::Sweep(message) => self.engine().do_send(message),
            PostCommit::Forget(message) => self.engine().do_send(message),
            PostCommit::Revoke(message) => self.engine().do_send(message),
            PostCommit::IsRevoked(message) => self.engine().do_send(message),
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
