//! One attempt as the task's own code reaches it: its slot, its soft limit, its children.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::Mutex;
use tokio::sync::{Notify, oneshot};

use super::cancellation::Cancellation;
use super::inbox::AttemptMessage;
use super::shared::Shared;
use super::task_slab::TaskKey;
use crate::canvas::id::Id;
use crate::canvas::machine::Purpose;
use crate::canvas::machine::subtasks::SubtaskPlan;
use crate::canvas::outcome::Outcome;
use crate::error::{Error, Result};
use crate::messages::dispatcher::Permit;
use crate::messages::task::{ReacquireSlot, StartSubtask};

/// An attempt that runs, or has run.
#[derive(Debug)]
pub(crate) struct Attempt {
    /// Asked for the store and the time only when they are needed: an attempt that runs on must
    /// not keep the store open.
    shared: Arc<Shared>,
    /// Of its task.
    id: Id,
    ticket: TaskKey,
    number: u32,
    kind: AttemptKind,
    slot: Mutex<Slot>,
    pub(crate) soft_limit: SoftLimit,
    pub(crate) cancellation: Cancellation,
    additions: AtomicU64,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct AttemptKind {
    /// Its body holds a thread.
    pub(crate) is_blocking: bool,
    /// It may have ended the process: its task is told when it waits for others.
    pub(crate) is_watched: bool,
}

/// Invariant: the slot is not held while a part of the body waits for other tasks, however many do:
/// these may need it.
#[derive(Debug)]
enum Slot {
    Held(Permit),
    /// Given back while so many parts of the body wait; none: it is on its way back.
    Lent(usize),
    /// The attempt is over: what comes now goes back.
    Closed,
}

impl Attempt {
    pub(crate) fn new(
        shared: Arc<Shared>,
        id: Id,
        (ticket, number): (TaskKey, u32),
        kind: AttemptKind,
        permit: Permit,
    ) -> Self {
        Self {
            shared,
            id,
            ticket,
            number,
            kind,
            slot: Mutex::new(Slot::Held(permit)),
            soft_limit: SoftLimit::default(),
            cancellation: Cancellation::default(),
            additions: AtomicU64::new(0),
        }
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    pub(crate) fn id(&self) -> Id {
        self.id
    }

    pub(crate) fn is_blocking(&self) -> bool {
        self.kind.is_blocking
    }

    pub(crate) fn ticket(&self) -> TaskKey {
        self.ticket
    }

    pub(crate) fn number(&self) -> u32 {
        self.number
    }

    /// From now on the task listens for its cancellation. Says whether it is to end.
    pub(crate) fn observe_cancellation(&self) -> bool {
        self.cancellation.observe() || self.shared.engine_handle().cancellations.is_due(self)
    }

    /// Says something to its task's actor.
    pub(crate) fn send(&self, note: AttemptMessage) {
        self.shared.engine_handle().inbox.push(self.ticket, note);
    }

    /// Has the task start this canvas, or join the one that it started under `key` before, and
    /// waits for its outcome, without a slot.
    pub(crate) async fn call(self: &Arc<Self>, key: &str, graft: SubtaskPlan) -> Result<Outcome> {
        let (answer, outcome) = oneshot::channel();
        self.send(AttemptMessage::StartSubtask(StartSubtask {
            attempt: self.number,
            purpose: Purpose::Call,
            key: key.to_owned(),
            graft,
            answer: Some(answer),
        }));
        match self.without_slot(outcome).await {
            Ok(outcome) => Ok(outcome),
            Err(_) => self.detached_error().await,
        }
    }

    /// Waits for this without a slot, and then for a slot to go on with. To be called in the body, or in
    /// what the body has started.
    pub(crate) async fn without_slot<T>(self: &Arc<Self>, wait: impl Future<Output = T>) -> T {
        let waiting = Waiting::new(self);
        if self.kind.is_watched {
            self.send(AttemptMessage::WaitsForTasks);
        }
        let done = wait.await;
        if let Some(last) = waiting.unless_others_wait()
            && self.shared.ended().is_none()
            && let Ok(permit) = self.ask_for_slot().await
        {
            last.take_back(permit);
        }
        done
    }

    /// Asks for a slot; nothing comes if the attempt is over.
    fn ask_for_slot(&self) -> oneshot::Receiver<Permit> {
        let (slot, permit) = oneshot::channel();
        self.send(AttemptMessage::ReacquireSlot(ReacquireSlot(slot)));
        permit
    }

    /// Takes this slot, unless something waits by now, or the attempt is over.
    fn take(&self, permit: Permit) {
        let mut slot = self.slot.lock();
        if let Slot::Lent(0) = *slot {
            *slot = Slot::Held(permit);
        }
    }

    /// Has the task start one more member of its group.
    pub(crate) fn add(&self, graft: SubtaskPlan) {
        // Its number in the attempt: the next attempt adds the same again, and joins it.
        let number = self.additions.fetch_add(1, Ordering::Relaxed);
        self.send(AttemptMessage::StartSubtask(StartSubtask {
            attempt: self.number,
            purpose: Purpose::Addition,
            key: number.to_string(),
            graft,
            answer: None,
        }));
    }

    /// Ends the attempt; returns its slot, if it holds it.
    pub(crate) fn close(&self) -> Option<Permit> {
        match std::mem::replace(&mut *self.slot.lock(), Slot::Closed) {
            Slot::Held(permit) => Some(permit),
            Slot::Lent(_) | Slot::Closed => None,
        }
    }

    /// Nobody answers. If the app has ended, neither do we: the code of a task must not take the
    /// end of the process for a failure.
    async fn detached_error<T>(&self) -> Result<T> {
        match self.shared.ended() {
            Some(_) => std::future::pending().await,
            None => Err(Error::NotInTask),
        }
    }
}

/// A part of the body that waits, for what it needs or for the slot: for as long as this lives.
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

    /// Of those that wait at once the last brings the slot back.
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

    /// Takes the slot back, unless something else waits by now.
    fn take_back(self, permit: Permit) {
        self.leave();
        self.0.take(permit);
        std::mem::forget(self);
    }

    /// Says whether nothing waits any more.
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
    /// It has been given up: by a timeout of the task's own, for example. The body goes on, and the slot
    /// comes behind.
    fn drop(&mut self) {
        if self.leave() && self.0.shared.ended().is_none() {
            let attempt = self.0.clone();
            let permit = attempt.ask_for_slot();
            let runtime = attempt.shared.engine_handle().runtime.clone();
            runtime.spawn(async move {
                if let Ok(permit) = permit.await {
                    attempt.take(permit);
                }
            });
        }
    }
}

/// Something that a task may listen for.
#[derive(Debug, Default)]
pub(crate) struct Signal {
    /// The task wants to be told, and not to be ended.
    has_listener: AtomicBool,
    reached: AtomicBool,
    bell: Notify,
}

impl Signal {
    /// It is there; says whether the task listens.
    pub(crate) fn reach(&self) -> bool {
        self.reached.store(true, Ordering::SeqCst);
        self.bell.notify_waiters();
        self.has_listener.load(Ordering::SeqCst)
    }

    /// From now on the task listens. Says whether it is there.
    pub(crate) fn observe(&self) -> bool {
        self.has_listener.store(true, Ordering::SeqCst);
        self.reached.load(Ordering::SeqCst)
    }

    pub(crate) async fn wait(&self) {
        loop {
            let rung = self.bell.notified();
            tokio::pin!(rung);
            // Registered before the look, so that nothing is missed between look and wait.
            rung.as_mut().enable();
            if self.observe() {
                return;
            }
            rung.await;
        }
    }
}

/// The soft time limit as the task sees it.
#[derive(Debug)]
pub(crate) struct SoftLimit {
    /// When it is, on the scale of `Clock::elapsed_ms`.
    at_ms: AtomicU64,
    signal: Signal,
}

impl Default for SoftLimit {
    /// None, until it is [set](SoftLimit::set).
    fn default() -> Self {
        Self {
            at_ms: AtomicU64::new(u64::MAX),
            signal: Signal::default(),
        }
    }
}

impl SoftLimit {
    pub(crate) fn set(&self, at_ms: u64) {
        self.at_ms.store(at_ms, Ordering::SeqCst);
    }

    /// From now on the task listens. Says whether it is reached by now: a task that looks need not
    /// wait for whoever rings.
    pub(crate) fn is_over(&self, now_ms: u64) -> bool {
        self.signal.observe() || self.at_ms.load(Ordering::SeqCst) <= now_ms
    }

    /// It has been reached; says whether the task listens.
    pub(crate) fn reach(&self) -> bool {
        self.signal.reach()
    }

    pub(crate) async fn wait(&self) {
        self.signal.wait().await;
    }
}
