//! The room for what is pending: who submits more than there may be waits here.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::oneshot;

use crate::canvas::machine::pending_limit::{self, Load};

#[derive(Debug)]
pub(crate) struct AdmissionControl(Mutex<State>);

#[derive(Debug)]
struct State {
    machine: pending_limit::PendingLimit,
    /// Who is told that he has entered, by number; `None` when nobody is any more.
    waiting: Option<HashMap<u64, oneshot::Sender<()>>>,
}

/// What a submission takes up until the engine has it. Dropped, it takes up nothing.
#[derive(Debug)]
pub(crate) struct Reservation {
    room: Arc<AdmissionControl>,
    weight: Load,
}

impl AdmissionControl {
    pub(crate) fn new(limit: Load) -> Arc<Self> {
        Arc::new(Self(Mutex::new(State {
            machine: pending_limit::PendingLimit::new(limit),
            waiting: Some(HashMap::new()),
        })))
    }

    pub(crate) fn taken(&self) -> Load {
        self.0.lock().machine.used()
    }

    /// Enters when there is room; never, if it is closed before.
    pub(crate) async fn acquire(self: &Arc<Self>) -> Option<Reservation> {
        let (number, told) = {
            let mut state = self.0.lock();
            let State { machine, waiting } = &mut *state;
            let waiting = waiting.as_mut()?;
            match machine.acquire() {
                None => return Some(self.reservation()),
                Some(number) => {
                    let (tell, told) = oneshot::channel();
                    waiting.insert(number, tell);
                    (number, told)
                }
            }
        };
        let mut waiting = Waiting {
            room: self,
            number: Some(number),
        };
        told.await.ok()?;
        waiting.number = None;
        Some(self.reservation())
    }

    /// Enters if there is room and nobody waits for it.
    pub(crate) fn try_acquire(self: &Arc<Self>) -> Option<Reservation> {
        let entered = self.0.lock().machine.try_acquire();
        entered.then(|| self.reservation())
    }

    /// Enters, whether there is room or not.
    pub(crate) fn acquire_over_limit(self: &Arc<Self>) -> Reservation {
        self.add(Load::ONE);
        self.reservation()
    }

    fn reservation(self: &Arc<Self>) -> Reservation {
        Reservation {
            room: self.clone(),
            weight: Load::ONE,
        }
    }

    /// So much more is pending.
    pub(crate) fn add(&self, more: Load) {
        self.0.lock().machine.add(more);
    }

    /// So much less is pending.
    pub(crate) fn remove(&self, less: Load) {
        let mut state = self.0.lock();
        let State { machine, waiting } = &mut *state;
        for number in machine.remove(less) {
            let tell = waiting.as_mut().and_then(|waiting| waiting.remove(&number));
            // Who no longer listens gives his room back himself.
            let _ = tell.map(|tell| tell.send(()));
        }
    }

    /// Nobody enters any more; who waits is told.
    pub(crate) fn close(&self) {
        self.0.lock().waiting = None;
    }
}

/// One who waits in line, for as long as he does.
struct Waiting<'a> {
    room: &'a AdmissionControl,
    number: Option<u64>,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let Some(number) = self.number else { return };
        let mut state = self.room.0.lock();
        let waited = state.machine.leave(number);
        if let Some(waiting) = &mut state.waiting {
            waiting.remove(&number);
        }
        drop(state);
        if !waited {
            self.room.remove(Load::ONE);
        }
    }
}

impl Reservation {
    /// It takes up so much by now.
    pub(crate) fn set(&mut self, weight: Load) {
        let before = std::mem::replace(&mut self.weight, weight);
        self.room.add(weight);
        self.room.remove(before);
    }

    /// The engine has it: what it takes up is to be [removed](AdmissionControl::remove) when it has ended.
    pub(crate) fn keep(mut self) -> Load {
        std::mem::take(&mut self.weight)
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.room.remove(self.weight);
    }
}
