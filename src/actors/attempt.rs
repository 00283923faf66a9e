//! One attempt as the task's own code reaches it: its slot, its soft limit, its children.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::Mutex;
use tokio::sync::{Notify, oneshot};

use super::cancel::Cancellation;
use super::inbox::Note;
use super::roll::Ticket;
use super::shared::Shared;
use crate::canvas::machine::Purpose;
use crate::canvas::machine::offspring::Graft;
use crate::canvas::outcome::Outcome;
use crate::error::{Error, Result};
use crate::messages::dispatcher::Permit;
use crate::messages::task::{Wants, WantsSlot};

/// An attempt that runs, or has run.
#[derive(Debug)]
pub(crate) struct Attempt {
    /// Asked for the store and the time only when they are needed: an attempt that runs on must
    /// not keep the store open.
    shared: Arc<Shared>,
    /// Of its task.
    ticket: Ticket,
    number: u32,
    slot: Mutex<Slot>,
    pub(crate) soft_limit: SoftLimit,
    pub(crate) cancellation: Cancellation,
    additions: AtomicU64,
}

/// Invariant: the slot is not held while a call waits, however many do: what they wait for may
/// need it.
#[derive(Debug)]
enum Slot {
    Held(Permit),
    /// Given back while so many calls wait.
    Lent(usize),
    /// The attempt is over: what comes now goes back.
    Closed,
}

impl Attempt {
    pub(crate) fn new(shared: Arc<Shared>, ticket: Ticket, number: u32, permit: Permit) -> Self {
        Self {
            shared,
            ticket,
            number,
            slot: Mutex::new(Slot::Held(permit)),
            soft_limit: SoftLimit::default(),
            cancellation: Cancellation::default(),
            additions: AtomicU64::new(0),
        }
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    pub(crate) fn ticket(&self) -> Ticket {
        self.ticket
    }

    pub(crate) fn number(&self) -> u32 {
        self.number
    }

    /// From now on the task listens for its cancellation. Says whether it is to end.
    pub(crate) fn is_cancelled(&self) -> bool {
        self.cancellation.look() || self.shared.plant().cancellations.is_due(self)
    }

    /// Says something to its task's actor.
    pub(crate) fn say(&self, note: Note) {
        self.shared.plant().inbox.push(self.ticket, note);
    }

    /// Has the task start this canvas, or join the one that it started under `key` before, and
    /// waits for its outcome, without a slot.
    pub(crate) async fn call(&self, key: &str, graft: Graft) -> Result<Outcome> {
        let (answer, outcome) = oneshot::channel();
        self.say(Note::Wants(Wants {
            attempt: self.number,
            purpose: Purpose::Call,
            key: key.to_owned(),
            graft,
            answer: Some(answer),
        }));
        let waiting = Waiting::new(self);
        let Ok(outcome) = outcome.await else {
            return self.is_over().await;
        };
        if let Some(last) = waiting.unless_others_wait() {
            let (slot, permit) = oneshot::channel();
            self.say(Note::WantsSlot(WantsSlot(slot)));
            match permit.await {
                Ok(permit) => last.take_back(permit),
                Err(_) => return self.is_over().await,
            }
        }
        Ok(outcome)
    }

    /// Has the task start one more member of its group.
    pub(crate) fn add(&self, graft: Graft) {
        // Its number in the attempt: the next attempt adds the same again, and joins it.
        let number = self.additions.fetch_add(1, Ordering::Relaxed);
        self.say(Note::Wants(Wants {
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
    async fn is_over<T>(&self) -> Result<T> {
        match self.shared.ended() {
            Some(_) => std::future::pending().await,
            None => Err(Error::NotInTask),
        }
    }
}

/// A call that waits, for its outcome or for the slot: for as long as this lives.
struct Waiting<'a>(&'a Attempt);

impl<'a> Waiting<'a> {
    fn new(attempt: &'a Attempt) -> Self {
        let mut slot = attempt.slot.lock();
        match &mut *slot {
            Slot::Held(_) => *slot = Slot::Lent(1),
            Slot::Lent(calls) => *calls += 1,
            Slot::Closed => {}
        }
        drop(slot);
        Self(attempt)
    }

    /// Of the calls that wait at once the last brings the slot back.
    fn unless_others_wait(self) -> Option<Self> {
        if let Slot::Lent(calls @ 2..) = &mut *self.0.slot.lock() {
            *calls -= 1;
            std::mem::forget(self);
            return None;
        }
        Some(self)
    }

    /// Takes the slot back, unless another call waits by now.
    fn take_back(self, permit: Permit) {
        let mut slot = self.0.slot.lock();
        if let Slot::Lent(1) = *slot {
            *slot = Slot::Held(permit);
        }
        drop(slot);
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if let Slot::Lent(calls) = &mut *self.0.slot.lock() {
            *calls -= 1;
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
    pub(crate) fn look(&self) -> bool {
        self.has_listener.store(true, Ordering::SeqCst);
        self.reached.load(Ordering::SeqCst)
    }

    pub(crate) async fn wait(&self) {
        loop {
            let rung = self.bell.notified();
            tokio::pin!(rung);
            // Registered before the look, so that nothing is missed between look and wait.
            rung.as_mut().enable();
            if self.look() {
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
        self.signal.look() || self.at_ms.load(Ordering::SeqCst) <= now_ms
    }

    /// It has been reached; says whether the task listens.
    pub(crate) fn reach(&self) -> bool {
        self.signal.reach()
    }

    pub(crate) async fn wait(&self) {
        self.signal.wait().await;
    }
}
