//! Admission control: limits how much may be pending; submissions above the limit wait here.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::oneshot;

use crate::canvas::admission::pending_limit::{self, Load};

#[derive(Debug)]
pub(crate) struct AdmissionControl(Mutex<State>);

#[derive(Debug)]
struct State {
    machine: pending_limit::PendingLimit,
    /// The submissions that wait to be admitted, by number; `None` once admission is closed.
    waiting: Option<HashMap<u64, oneshot::Sender<()>>>,
}

/// The share of the limit that a submission holds until the engine has accepted it. Dropping it
/// gives the share back.
#[derive(Debug)]
pub(crate) struct Reservation {
    admission: Arc<AdmissionControl>,
    load: Load,
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

    /// Waits until the limit admits one more submission; returns `None` if admission closes first.
    pub(crate) async fn acquire(self: &Arc<Self>) -> Option<Reservation> {
        let (number, admitted) = {
            let mut state = self.0.lock();
            let State { machine, waiting } = &mut *state;
            let waiting = waiting.as_mut()?;
            match machine.acquire() {
                None => return Some(self.reservation()),
                Some(number) => {
                    let (admit, admitted) = oneshot::channel();
                    waiting.insert(number, admit);
                    (number, admitted)
                }
            }
        };
        let mut waiting = Waiting {
            admission: self,
            number: Some(number),
        };
        admitted.await.ok()?;
        waiting.number = None;
        Some(self.reservation())
    }

    /// Admits a submission if the limit allows it and no other submission waits.
    pub(crate) fn try_acquire(self: &Arc<Self>) -> Option<Reservation> {
        let entered = self.0.lock().machine.try_acquire();
        entered.then(|| self.reservation())
    }

    /// Admits a submission even if that exceeds the limit.
    pub(crate) fn acquire_over_limit(self: &Arc<Self>) -> Reservation {
        self.add(Load::ONE);
        self.reservation()
    }

    fn reservation(self: &Arc<Self>) -> Reservation {
        Reservation {
            admission: self.clone(),
            load: Load::ONE,
        }
    }

    /// Adds `more` to the pending load.
    pub(crate) fn add(&self, more: Load) {
        self.0.lock().machine.add(more);
    }

    /// Subtracts `less` from the pending load and admits the submissions that now fit.
    pub(crate) fn remove(&self, less: Load) {
        let mut state = self.0.lock();
        let State { machine, waiting } = &mut *state;
        for number in machine.remove(less) {
            let admit = waiting.as_mut().and_then(|waiting| waiting.remove(&number));
            // A waiter that was dropped meanwhile gives its share back itself.
            let _ = admit.map(|admit| admit.send(()));
        }
    }

    /// Stops admitting and wakes all waiting submissions, which then fail.
    pub(crate) fn close(&self) {
        self.0.lock().waiting = None;
    }
}

/// A waiting submission; dropping it before it is admitted removes it from the queue.
struct Waiting<'a> {
    admission: &'a AdmissionControl,
    number: Option<u64>,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let Some(number) = self.number else { return };
        let mut state = self.admission.0.lock();
        let waited = state.machine.leave(number);
        if let Some(waiting) = &mut state.waiting {
            waiting.remove(&number);
        }
        drop(state);
        if !waited {
            self.admission.remove(Load::ONE);
        }
    }
}

impl Reservation {
    /// Changes the reserved load to `load`.
    pub(crate) fn set(&mut self, load: Load) {
        let before = std::mem::replace(&mut self.load, load);
        self.admission.add(load);
        self.admission.remove(before);
    }

    /// Hands the load over to the engine, which [removes](AdmissionControl::remove) it when the
    /// workflow has ended.
    pub(crate) fn hand_over(mut self) -> Load {
        std::mem::take(&mut self.load)
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.admission.remove(self.load);
    }
}
