//! Circuit breakers: which attempts may begin, how their ends count, and the records of circuits.

use std::cell::RefCell;
use std::collections::HashMap;

use super::EngineContext;
use crate::actors::child::Child;
use crate::actors::commit::journal::Journal;
use crate::actors::dispatch::dispatcher::SlotLimits;
use crate::canvas::admission::start_limits::LimitNumber;
use crate::canvas::admission::start_limits::circuit::{AttemptEpoch, Evidence, StoredCircuit};
use crate::messages::task::TaskKey;
use crate::persistence::records::{breakers, meta};
use crate::task::Entry;

/// The breakers, and the attempts that run under them.
#[derive(Debug)]
pub(super) struct Breakers {
    numbers: HashMap<String, LimitNumber>,
    running: RefCell<HashMap<TaskKey, (LimitNumber, AttemptEpoch)>>,
}

impl Breakers {
    pub(super) fn new(numbers: HashMap<String, LimitNumber>) -> Self {
        Self {
            numbers,
            running: RefCell::default(),
        }
    }

    /// Restores the stored circuits. Returns the keys of those that say nothing any more: their
    /// breakers are not declared, and they are not open.
    pub(super) fn restore(
        &self,
        limits: &mut SlotLimits<Box<Child>>,
        stored: Vec<(String, StoredCircuit)>,
        now_ms: u64,
    ) -> Vec<Vec<u8>> {
        let mut outdated = Vec::new();
        for (name, circuit) in stored {
            match self.numbers.get(&name) {
                Some(number) => limits.restore_circuit(*number, &circuit, now_ms),
                None if circuit.open_until_ms.is_some_and(|until| until > now_ms) => {}
                None => outdated.push(breakers::key(&name)),
            }
        }
        outdated
    }

    fn of(&self, entry: &Entry) -> Option<LimitNumber> {
        self.numbers.get(entry.options.breaker?).copied()
    }
}

impl EngineContext {
    /// Returns whether the breaker of a task, if it has one, lets an attempt begin now.
    pub(crate) fn is_breaker_closed(&self, entry: &Entry) -> bool {
        if entry.options.breaker.is_none() {
            return true;
        }
        let now_ms = self.steady_ms();
        self.0.breakers.of(entry).is_none_or(|breaker| {
            let mut dispatcher = self.0.tasks.dispatcher.borrow_mut();
            dispatcher.limits().may_begin(breaker, now_ms)
        })
    }

    /// Returns whether a task fails if it is ready now.
    pub(crate) fn fails_now(&self, entry: &Entry) -> bool {
        entry.options.breaker.is_some()
            && !entry.waits_for_breaker()
            && !self.is_breaker_closed(entry)
    }

    /// Begins an attempt under the breaker of its task. Must be called before its start is
    /// [recorded](Self::record_start).
    pub(crate) fn begin_under_breaker(&self, entry: &Entry, key: TaskKey) {
        let Some(breaker) = self.0.breakers.of(entry) else {
            return;
        };
        let now_ms = self.steady_ms();
        let mut dispatcher = self.0.tasks.dispatcher.borrow_mut();
        if let Some(epoch) = dispatcher.limits().begin(breaker, now_ms) {
            let mut running = self.0.breakers.running.borrow_mut();
            running.insert(key, (breaker, epoch));
        }
    }

    /// Ends the attempt that a task has begun under a breaker, if it has.
    pub(crate) fn end_under_breaker(&self, key: TaskKey, evidence: Evidence) {
        let attempt = self.0.breakers.running.borrow_mut().remove(&key);
        let Some((breaker, epoch)) = attempt else {
            return;
        };
        let now_ms = self.steady_ms();
        let mut dispatcher = self.0.tasks.dispatcher.borrow_mut();
        dispatcher.limits().end(breaker, epoch, evidence, now_ms);
        drop(dispatcher);
        self.admit_limited();
    }

    /// Stores the circuits that have changed, no later than the ends of the attempts that have
    /// changed them.
    pub(super) fn store_circuits(&self, journal: &mut Journal<Box<Child>>) {
        if self.0.breakers.numbers.is_empty() {
            return;
        }
        let mut dispatcher = self.0.tasks.dispatcher.borrow_mut();
        let changed = dispatcher.limits().seal_circuits();
        drop(dispatcher);
        for (number, circuit) in changed {
            let mut names = self.0.breakers.numbers.iter();
            let Some((name, _)) = names.find(|(_, one)| **one == number) else {
                continue;
            };
            let key = breakers::key(name);
            match circuit {
                Some(circuit) => {
                    if let Some((key, record)) = self.add_addition(meta::BREAKERS) {
                        journal.put(key, record);
                    }
                    journal.put(key, breakers::record(&circuit));
                }
                None => journal.delete(key),
            }
        }
    }
}
