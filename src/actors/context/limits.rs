//! Limits on starts: the limits of each task, the admission of the tasks that wait for them, and the
//! records of starts.

use std::cell::RefCell;
use std::collections::{BTreeSet, HashMap};

use super::EngineContext;
use crate::actors::child::Child;
use crate::actors::commit::journal::Journal;
use crate::actors::dispatch::dispatcher::{Ready, SlotLimits};
use crate::actors::dispatch::permit::{Slot, Start};
use crate::canvas::admission::rate_window::StoredStarts;
use crate::canvas::admission::start_limits::{LimitName, LimitSet};
use crate::canvas::time::Moment;
use crate::messages::scheduler::WakeAt;
use crate::persistence::records::starts;
use crate::task::{Entry, Registry};

/// The limits of each task, and the alarms for the tasks that wait for them.
#[derive(Debug, Default)]
pub(super) struct TaskLimits {
    of: HashMap<&'static str, LimitSet>,
    /// When the engine is woken for a start, on the steady scale.
    alarms: RefCell<BTreeSet<u64>>,
}

impl TaskLimits {
    /// Returns the limits of all registered tasks, with the starts that are stored of them, and the
    /// names of stored limits that no task is under any more.
    pub(super) fn new(
        registry: &Registry,
        mut stored: HashMap<LimitName, StoredStarts>,
        now_ms: u64,
    ) -> (Self, SlotLimits<Box<Child>>, Vec<LimitName>) {
        let mut limits = SlotLimits::default();
        for (name, limit) in registry.limits() {
            let starts = stored.remove(&name);
            limits.add(name, limit, starts, now_ms);
        }
        let mut of = HashMap::new();
        for entry in registry.entries() {
            if let Some(set) = limits.set_of(entry.limits()) {
                of.insert(entry.name, set);
            }
        }
        let outdated = stored
            .into_iter()
            .filter(|(_, starts)| starts.are_over(now_ms));
        let outdated = outdated.map(|(name, _)| name).collect();
        let alarms = RefCell::default();
        (Self { of, alarms }, limits, outdated)
    }
}

impl EngineContext {
    /// Returns the limits that a task is under.
    pub(super) fn limits_of(&self, entry: &Entry) -> Option<LimitSet> {
        match entry.is_limited() {
            true => self.0.tasks.limits.of.get(entry.name).copied(),
            false => None,
        }
    }

    /// Requests a start for a task: its limits must allow one, and it needs a slot.
    pub(crate) fn request_start(
        &self,
        entry: &Entry,
        slot: Slot,
        priority: u8,
        task: Ready<Box<Child>>,
    ) {
        self.request_within(self.limits_of(entry), slot, priority, task);
    }

    /// As [`request_start`](Self::request_start), within these limits.
    pub(super) fn request_within(
        &self,
        limits: Option<LimitSet>,
        slot: Slot,
        priority: u8,
        task: Ready<Box<Child>>,
    ) {
        let Some(limits) = limits else {
            return self.request(slot, priority, task);
        };
        let mut dispatcher = self.0.tasks.dispatcher.borrow_mut();
        dispatcher.request_within(limits, slot, priority, task);
        drop(dispatcher);
        self.admit_limited();
    }

    /// Admits the waiting tasks to which their limits grant a start now, and sets the alarm for the
    /// next one.
    pub(super) fn admit_limited(&self) {
        let now_ms = self.steady_ms();
        let mut dispatcher = self.0.tasks.dispatcher.borrow_mut();
        let granted = dispatcher.admit_limited(now_ms);
        let wake_at = dispatcher.limits().wake_at(now_ms);
        drop(dispatcher);
        for granted in granted {
            self.grant(Some(granted));
        }
        if let Some(at) = wake_at
            && self.0.tasks.limits.alarms.borrow_mut().insert(at)
        {
            self.scheduler().do_send(WakeAt {
                at: Moment::steady(at),
                recipient: self.engine_wake().clone(),
            });
        }
    }

    /// Admits waiting tasks if an alarm is due. Must be called whenever the engine is woken.
    pub(crate) fn check_limits(&self) {
        let now_ms = self.steady_ms();
        let mut alarms = self.0.tasks.limits.alarms.borrow_mut();
        let later = alarms.split_off(&(now_ms + 1));
        let due = std::mem::replace(&mut *alarms, later);
        drop(alarms);
        if !due.is_empty() {
            self.admit_limited();
        }
    }

    /// Notes that the start of a task is recorded in the batch that is being filled.
    pub(crate) fn record_start(&self, limits: LimitSet) {
        self.0.tasks.dispatcher.borrow_mut().limits().record(limits);
        self.admit_limited();
    }

    /// Stores the starts beside the records of the tasks that start in this batch.
    pub(super) fn store_starts(&self, journal: &mut Journal<Box<Child>>) {
        let mut dispatcher = self.0.tasks.dispatcher.borrow_mut();
        for (name, stored) in dispatcher.limits().seal() {
            let (key, record) = starts::record(name, &stored);
            journal.put(key, record);
        }
    }

    /// Counts the starts of tasks whose functions have been called.
    pub(super) fn count_starts(&self, called: Vec<LimitSet>) {
        if called.is_empty() {
            return;
        }
        let now_ms = self.steady_ms();
        let mut dispatcher = self.0.tasks.dispatcher.borrow_mut();
        for limits in called {
            dispatcher.limits().count(limits, now_ms);
        }
        drop(dispatcher);
        self.admit_limited();
    }

    /// Takes back a start that did not come to a call. One that is on record counts all the same.
    pub(super) fn return_start(&self, start: Option<Start>) {
        match start {
            None => {}
            Some(Start {
                limits,
                is_recorded: true,
            }) => self.count_starts(vec![limits]),
            Some(Start { limits, .. }) => {
                let mut dispatcher = self.0.tasks.dispatcher.borrow_mut();
                dispatcher.limits().withdraw(limits);
                drop(dispatcher);
                self.admit_limited();
            }
        }
    }
}
