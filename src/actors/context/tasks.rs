//! Tasks: gives each a slot and an actor, and forwards the messages of its attempts.

use std::cell::{Cell, RefCell};
use std::sync::Arc;

use actix::Recipient;

use super::limits::{Purpose, TaskLimits};
use super::{EngineContext, Limits};
use crate::actors::child::Child;
use crate::actors::dispatch::dispatcher::{Dispatcher, Ready, SlotLimits};
use crate::actors::dispatch::permit::{Permit, Returned, Returns, Slot};
use crate::actors::execute::inbox::ended_attempt;
use crate::actors::task::slab::TaskSlab;
use crate::canvas::admission::queue::SlotKind;
use crate::canvas::id::Id;
use crate::canvas::options::Options;
use crate::messages::task::{AttemptMessage, TaskKey, TaskMessage};
use crate::persistence::records::meta;
use crate::task::Entry;

/// The pacers' limit, however large the window is: a workflow is delayed if this many tasks wait
/// before it in its queue. This keeps the running workflows in the processor's caches.
const PACER_LIMIT: usize = 1_024;

/// When more than this many windows of tasks wait for a slot, each group uses a window of at most
/// [`CROWDED`].
const CROWD: u64 = 16;
const CROWDED: u64 = 8;

/// The tasks in memory, and the slots that they wait for.
#[derive(Debug)]
pub(super) struct Tasks {
    pub(super) dispatcher: RefCell<Dispatcher<Box<Child>>>,
    pub(super) limits: TaskLimits,
    pub(super) slab: RefCell<TaskSlab<ReadyTask, Recipient<TaskMessage>>>,
    /// The registered task of the last lookup.
    last_entry: Cell<Option<&'static Entry>>,
}

/// A task that an actor is to take, with its slot if it has one.
type ReadyTask = (Box<Child>, Option<Permit>);

impl Tasks {
    pub(super) fn new(
        returns: Arc<Returns>,
        limits: &Limits,
        task_limits: TaskLimits,
        start_limits: SlotLimits<Box<Child>>,
    ) -> Self {
        let pacer_limit =
            usize::try_from(limits.window).map_or(PACER_LIMIT, |window| window.min(PACER_LIMIT));
        let dispatcher = Dispatcher::new(returns, pacer_limit, limits.is_paused, start_limits);
        Self {
            limits: task_limits,
            dispatcher: RefCell::new(dispatcher),
            slab: RefCell::default(),
            last_entry: Cell::new(None),
        }
    }
}

impl EngineContext {
    /// Returns the number of members of one group that may be materialised. It is small while many
    /// groups have members waiting, so that memory does not grow with the number of groups times
    /// the window.
    pub(crate) fn window(&self) -> u64 {
        let window = self.0.limits.window;
        let crowd = window.saturating_mul(CROWD);
        match self.0.tasks.dispatcher.borrow().waiting() as u64 > crowd {
            true => window.min(CROWDED),
            false => window,
        }
    }

    pub(crate) fn live_workflows(&self) -> usize {
        self.0.limits.live
    }

    /// Assigns this task to an actor: at once, or, if the task is ready to run, when it has a slot.
    pub(crate) fn submit_task(&self, child: Box<Child>) {
        match self.entry(&child.def().name) {
            // (Its actor lets it fail.)
            Some(entry) if child.is_ready() && !self.fails_now(entry) => {
                let own = child.def().options.as_deref();
                let slot = self.slot(entry, own);
                let priority = entry.priority(own);
                let limits = self.acquire_limits(entry, &child, Purpose::Start);
                self.request_within(limits, slot, priority, Ready::New(child));
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

    pub(super) fn place_task(&self, child: Box<Child>, permit: Option<Permit>) {
        let mut tasks = self.0.tasks.slab.borrow_mut();
        let key = tasks.reserve(child.id(), (child, permit));
        let idle = tasks.idle();
        let task = idle.unwrap_or_else(|| (self.0.actors.start_task)(self));
        task.do_send(TaskMessage::Assign(key));
        tasks.set_actor(key, task);
    }

    /// Takes the task that was reserved under this key.
    pub(crate) fn take(&self, key: TaskKey) -> Option<ReadyTask> {
        self.0.tasks.slab.borrow_mut().take(key)
    }

    /// Returns a new key for an actor whose task has ended and that takes the one with this id at
    /// once.
    pub(crate) fn reuse_key(&self, key: TaskKey, id: Id) -> TaskKey {
        self.0.tasks.slab.borrow_mut().reuse(key, id)
    }

    /// Parks the actor of a task that has ended. Returns false if the actor is to stop instead.
    pub(crate) fn park_idle(&self, key: TaskKey) -> bool {
        self.0.tasks.slab.borrow_mut().park_idle(key)
    }

    /// Removes a task whose actor is gone.
    pub(crate) fn remove_task(&self, key: TaskKey) {
        let task = self.0.tasks.slab.borrow_mut().remove(key);
        drop(task);
    }

    /// Notifies all tasks that an actor was lost: the tasks below it end, with all below these. A
    /// task that waits for a slot finds out when the slot is granted.
    pub(crate) fn end_orphans(&self) {
        for task in self.0.tasks.slab.borrow().all() {
            task.do_send(TaskMessage::Recheck);
        }
    }

    /// Forwards an attempt's message to the task's actor, or drops it if the actor is gone.
    pub(crate) fn forward(&self, key: TaskKey, message: AttemptMessage) {
        match self.0.tasks.slab.borrow().get(key) {
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
        match self.0.tasks.last_entry.get() {
            Some(last) if last.name == name => Some(last),
            _ => {
                let entry = self.handle().registry.get(name);
                self.0.tasks.last_entry.set(entry);
                entry
            }
        }
    }

    /// Returns the slot that a task needs.
    pub(crate) fn slot(&self, entry: &Entry, own: Option<&Options>) -> Slot {
        let own = own.and_then(|own| own.queue.as_deref());
        let name = own.unwrap_or(entry.options.queue);
        let slots = || self.slots_of(name);
        Slot {
            queue: self.0.tasks.dispatcher.borrow_mut().queue(name, slots),
            kind: match entry.options.blocking {
                true => SlotKind::Blocking,
                false => SlotKind::Async,
            },
        }
    }

    /// Requests a slot for a task.
    pub(crate) fn request(&self, slot: Slot, priority: u8, task: Ready<Box<Child>>) {
        let granted = self
            .0
            .tasks
            .dispatcher
            .borrow_mut()
            .request(slot, priority, task);
        self.grant(granted);
    }

    /// Releases a slot, and starts the task that gets it.
    pub(crate) fn release(&self, returned: Returned) {
        let granted = self.release_slot(returned);
        self.grant(granted);
    }

    fn release_slot(&self, returned: Returned) -> Option<(Ready<Box<Child>>, Permit)> {
        self.return_start(&returned);
        let mut dispatcher = self.0.tasks.dispatcher.borrow_mut();
        let granted = dispatcher.release(returned, || self.steady_ms());
        let concerns_limits =
            returned.limits.is_some() || dispatcher.limits().has_waiting(returned.slot);
        // (The tasks that a workflow was delayed for may be gone, or wait for a limit by now.)
        let is_unused = granted.is_none() && dispatcher.has_delayed_beside_limits();
        drop(dispatcher);
        if is_unused {
            self.pace();
        }
        if concerns_limits {
            self.admit_limited();
        }
        granted
    }

    /// Releases a slot. Returns the task that gets it, if that has no actor yet: the actor that
    /// releases the slot has most likely just finished its own task, and taking the next one saves
    /// a message.
    pub(crate) fn release_to_new(&self, returned: Returned) -> Option<(Box<Child>, Permit)> {
        let granted = self.release_slot(returned);
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
        let mut dispatcher = self.0.tasks.dispatcher.borrow_mut();
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
            .tasks
            .dispatcher
            .borrow_mut()
            .take_workflow(|child| child.root == root);
        if let Some(root) = root {
            root.start(self);
        }
    }

    /// Notes the number of unfinished workflows.
    pub(crate) fn count_live(&self, workflows: usize) {
        self.view().count_live(workflows);
        self.0.tasks.dispatcher.borrow_mut().count_live(workflows);
    }

    pub(super) fn grant(&self, granted: Option<(Ready<Box<Child>>, Permit)>) {
        match granted {
            Some((Ready::New(child), permit)) => self.assign(Some((child, permit))),
            Some((Ready::Known(key) | Ready::Waited(key), permit)) => {
                // (If the task is gone, the permit is returned as it is dropped.)
                if let Some(task) = self.0.tasks.slab.borrow().get(key) {
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
        let granted = self.0.tasks.dispatcher.borrow_mut().resume();
        for granted in granted {
            self.grant(Some(granted));
        }
        self.admit_limited();
        self.advance_trials();
    }

    pub(super) fn is_paused(&self) -> bool {
        self.0.tasks.dispatcher.borrow().is_paused()
    }

    /// Stops granting slots, and records that the app shuts down.
    pub(crate) fn drain(&self) {
        self.0.tasks.dispatcher.borrow_mut().drain();
        let (key, record) = meta::stopping();
        self.put(key, record);
    }

    /// Returns whether the app is shutting down.
    pub(crate) fn is_draining(&self) -> bool {
        self.0.tasks.dispatcher.borrow().is_draining()
    }

    /// Returns the number of slots held in all queues.
    pub(crate) fn held(&self) -> usize {
        self.0.tasks.dispatcher.borrow().held()
    }
}
