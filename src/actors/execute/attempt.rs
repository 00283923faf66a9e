//! One attempt as seen by the task's own code: its slot, its soft limit, its children.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::cancellation::{Cancellable, Cancellation};
use crate::actors::dispatch::permit::Permit;
use crate::actors::handle::EngineHandle;
use crate::backend::Backend;
use crate::backend::durable_view::DurableView;
use crate::backend::slot_holder::SlotHolder;
use crate::backend::updates::UpdateCell;
use crate::canvas::freeze::{Catalogue, SizeExceeded, SubtaskPlan};
use crate::canvas::id::Id;
use crate::canvas::machine::Purpose;
use crate::canvas::outcome::Outcome;
use crate::canvas::stamps::Stamps;
use crate::canvas::task_update::TaskUpdate;
use crate::error::{ContextError, Error, Result};
use crate::messages::task::{AttemptMessage, ReacquireSlot, StartSubtask, TaskKey};
use crate::task::{AppData, SoftLimit, TaskHost};

/// An attempt that is running or has run.
#[derive(Debug)]
pub(crate) struct Attempt {
    /// The attempt goes through this for the store and the time only when it needs them: a
    /// long-running attempt must not keep the store open.
    engine: Arc<EngineHandle>,
    /// The task's id.
    id: Id,
    task_key: TaskKey,
    number: u32,
    stamps: Stamps,
    kind: AttemptKind,
    slot: Mutex<Slot>,
    pub(crate) soft_limit: SoftLimit,
    pub(crate) cancellation: Cancellation,
    additions: AtomicU64,
    /// What the task reports of itself; set with the first update.
    updates: OnceLock<Arc<UpdateCell>>,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct AttemptKind {
    /// The body blocks a thread.
    pub(crate) is_blocking: bool,
    /// The task is suspected of ending the process, so its actor is notified when the attempt waits
    /// for other tasks.
    pub(crate) is_watched: bool,
    /// Limits have granted its start.
    pub(crate) is_limited: bool,
}

/// Invariant: the slot is not held while any part of the body waits for other tasks, because those
/// tasks may need it.
#[derive(Debug)]
enum Slot {
    Held(Permit),
    /// Given back while this many parts of the body wait. Zero: the slot is on its way back.
    Lent(usize),
    /// The attempt is over; a permit that arrives now is returned.
    Closed,
}

impl Attempt {
    pub(crate) fn new(
        engine: Arc<EngineHandle>,
        id: Id,
        (task_key, number): (TaskKey, u32),
        stamps: Stamps,
        kind: AttemptKind,
        permit: Permit,
    ) -> Self {
        Self {
            engine,
            id,
            task_key,
            number,
            stamps,
            kind,
            slot: Mutex::new(Slot::Held(permit)),
            soft_limit: SoftLimit::default(),
            cancellation: Cancellation::default(),
            additions: AtomicU64::new(0),
            updates: OnceLock::new(),
        }
    }

    pub(crate) fn engine(&self) -> &Arc<EngineHandle> {
        &self.engine
    }

    pub(crate) fn view(&self) -> &Arc<DurableView> {
        &self.engine.view
    }

    pub(crate) fn task_key(&self) -> TaskKey {
        self.task_key
    }

    /// Registers that the task observes its cancellation. Returns whether the attempt was
    /// cancelled.
    pub(crate) fn observe_cancellation(&self) -> bool {
        self.cancellation.observe() || self.engine.cancellations.is_requested(self)
    }

    /// Counts the start under its limits: the function is called now.
    pub(crate) fn count_start(&self) {
        if self.kind.is_limited
            && let Slot::Held(permit) = &mut *self.slot.lock()
        {
            permit.count_start();
        }
    }

    /// Sends a message to the task's actor.
    pub(crate) fn send(&self, message: AttemptMessage) {
        self.engine.inbox.push(self.task_key, message);
    }

    /// Starts this canvas as a child of the task, or joins the child that was started under `key`
    /// before, and waits for its outcome without holding a slot.
    pub(crate) async fn call(self: &Arc<Self>, key: &str, plan: SubtaskPlan) -> Result<Outcome> {
        let (answer, outcome) = oneshot::channel();
        self.send(AttemptMessage::StartSubtask(StartSubtask {
            attempt: self.number,
            purpose: Purpose::Call,
            key: key.to_owned(),
            plan,
            answer: Some(answer),
        }));
        match self.without_slot(outcome).await {
            Ok(outcome) => Ok(outcome),
            Err(_) => self.detached_error().await,
        }
    }

    /// Gives the slot back, awaits `wait`, and then waits for a slot again. Must be called within
    /// the body or within a future that the body polls.
    pub(crate) async fn without_slot<T>(self: &Arc<Self>, wait: impl Future<Output = T>) -> T {
        let waiting = Waiting::new(self);
        if self.kind.is_watched {
            self.send(AttemptMessage::WaitsForTasks);
        }
        let done = wait.await;
        if let Some(last) = waiting.unless_others_wait()
            && self.engine.view.ended().is_none()
            && let Ok(permit) = self.ask_for_slot().await
        {
            last.take_back(permit);
        }
        done
    }

    /// Asks for a slot. The receiver fails if the attempt is over.
    fn ask_for_slot(&self) -> oneshot::Receiver<Permit> {
        let (slot, permit) = oneshot::channel();
        self.send(AttemptMessage::ReacquireSlot(ReacquireSlot(slot)));
        permit
    }

    /// Keeps the permit, unless a part of the body waits by now or the attempt is over.
    fn take(&self, permit: Permit) {
        let mut slot = self.slot.lock();
        if let Slot::Lent(0) = *slot {
            *slot = Slot::Held(permit);
        }
    }

    /// Starts one more member of the task's group.
    pub(crate) fn add(&self, plan: SubtaskPlan) {
        // The key is the addition's number within the attempt: the next attempt makes the same
        // additions in the same order, and joins these children.
        let number = self.additions.fetch_add(1, Ordering::Relaxed);
        self.send(AttemptMessage::StartSubtask(StartSubtask {
            attempt: self.number,
            purpose: Purpose::Addition,
            key: number.to_string(),
            plan,
            answer: None,
        }));
    }

    /// Ends the attempt. Returns its slot if the attempt holds it.
    pub(crate) fn close(&self) -> Option<Permit> {
        match std::mem::replace(&mut *self.slot.lock(), Slot::Closed) {
            Slot::Held(permit) => Some(permit),
            Slot::Lent(_) | Slot::Closed => None,
        }
    }

    /// Returns the error for a request that the task's actor dropped. Never completes if the app
    /// has ended: the task's code must not take the end of the process for a failure.
    async fn detached_error<T>(&self) -> Result<T> {
        match self.engine.view.ended() {
            Some(_) => std::future::pending().await,
            None => Err(Error::Context(ContextError::NotInTask)),
        }
    }
}

impl Cancellable for Attempt {
    fn task_key(&self) -> TaskKey {
        self.task_key
    }

    fn number(&self) -> u32 {
        self.number
    }

    fn cancellation(&self) -> &Cancellation {
        &self.cancellation
    }
}

impl SlotHolder for Attempt {
    fn id(&self) -> Id {
        self.id
    }

    fn stamps(&self) -> &Stamps {
        &self.stamps
    }

    fn is_blocking(&self) -> bool {
        self.kind.is_blocking
    }

    fn view(&self) -> &Arc<DurableView> {
        &self.engine.view
    }

    fn without_slot<'a>(self: Arc<Self>, wait: BoxFuture<'a, ()>) -> BoxFuture<'a, ()> {
        Box::pin(async move { Attempt::without_slot(&self, wait).await })
    }
}

impl TaskHost for Attempt {
    fn backend(&self) -> Arc<dyn Backend> {
        self.engine.clone()
    }

    fn view(&self) -> &Arc<DurableView> {
        &self.engine.view
    }

    fn stamps(&self) -> &Stamps {
        &self.stamps
    }

    fn catalogue(&self) -> &dyn Catalogue {
        &*self.engine.registry
    }

    fn data(&self) -> &AppData {
        self.engine.registry.data()
    }

    fn check_size(&self, name: &str, of: &'static str, bytes: usize) -> Result<(), SizeExceeded> {
        self.engine.registry.check(name, of, bytes)
    }

    fn slot_holder(self: Arc<Self>) -> Option<Arc<dyn SlotHolder>> {
        Some(self)
    }

    fn call<'a>(
        self: Arc<Self>,
        key: &'a str,
        plan: SubtaskPlan,
    ) -> BoxFuture<'a, Result<Outcome>> {
        Box::pin(async move { Attempt::call(&self, key, plan).await })
    }

    fn add(&self, plan: SubtaskPlan) {
        Attempt::add(self, plan);
    }

    fn update(&self, update: TaskUpdate) {
        let mut is_first = false;
        let cell = self.updates.get_or_init(|| {
            is_first = true;
            Arc::default()
        });
        self.engine.view.update(self.id, cell, update);
        if is_first {
            self.send(AttemptMessage::Updates(self.number, cell.clone()));
        }
    }

    fn soft_limit(&self) -> &SoftLimit {
        &self.soft_limit
    }

    fn observe_cancellation(&self) -> bool {
        Attempt::observe_cancellation(self)
    }

    fn cancelled(&self) -> BoxFuture<'_, ()> {
        Box::pin(async {
            if !Attempt::observe_cancellation(self) {
                self.cancellation.wait().await;
            }
        })
    }
}

/// A part of the body that waits, for another task or for a slot, as long as this value lives.
struct Waiting<'a>(&'a Arc<Attempt>);

impl<'a> Waiting<'a> {
    fn new(attempt: &'a Arc<Attempt>) -> Self {
        let mut slot = attempt.slot.lock();
        match &mut *slot {
            Slot::Held(_) => *slot = Slot::Lent(1),
            Slot::Lent(waiting) => *waiting += 1,
            Slot::Closed => {}
        }
        drop(slot);
        Self(attempt)
    }

    /// Returns `self` if no other part of the body waits: the last one asks for the slot again.
    fn unless_others_wait(self) -> Option<Self> {
        let mut slot = self.0.slot.lock();
        let is_last = match &mut *slot {
            Slot::Lent(1) => true,
            Slot::Lent(waiting) => {
                *waiting -= 1;
                false
            }
            Slot::Held(_) | Slot::Closed => false,
        };
        drop(slot);
        if !is_last {
            std::mem::forget(self);
            return None;
        }
        Some(self)
    }

    /// Takes the slot back, unless another part of the body waits by now.
    fn take_back(self, permit: Permit) {
        self.leave();
        self.0.take(permit);
        std::mem::forget(self);
    }

    /// Counts this part as no longer waiting. Returns whether it was the last one.
    fn leave(&self) -> bool {
        match &mut *self.0.slot.lock() {
            Slot::Lent(waiting) => {
                *waiting -= 1;
                *waiting == 0
            }
            Slot::Held(_) | Slot::Closed => false,
        }
    }
}

impl Drop for Waiting<'_> {
    /// Handles a wait that the body gave up, for example by a timeout of its own: the body runs on
    /// at once, and the slot is reacquired in the background.
    fn drop(&mut self) {
        if self.leave() && self.0.engine.view.ended().is_none() {
            let attempt = self.0.clone();
            let permit = attempt.ask_for_slot();
            let runtime = attempt.engine.runtime.clone();
            runtime.spawn(async move {
                if let Ok(permit) = permit.await {
                    attempt.take(permit);
                }
            });
        }
    }
}
