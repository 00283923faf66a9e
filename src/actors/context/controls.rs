//! What was set for queues and tasks while an app ran: pauses and concurrency.

use std::cell::RefCell;
use std::collections::HashMap;

use super::EngineContext;
use crate::actors::dispatch::dispatcher::{QueueSlots, Slots};
use crate::actors::dispatch::permit::Permit;
use crate::canvas::admission::control::{ControlChange, ControlTarget, Settings};
use crate::canvas::admission::start_limits::{LimitName, LimitNumber, Rule};
use crate::persistence::records::{controls, meta};
use crate::task::Entry;

/// The settings of queues and tasks.
#[derive(Debug)]
pub(super) struct Controls {
    /// The slots of the queues as the code says.
    declared: QueueSlots,
    settings: RefCell<HashMap<ControlTarget, Settings>>,
    /// The limits of the tasks that have settings, or have had some.
    tasks: RefCell<HashMap<&'static str, ControlledTask>>,
}

/// The limits of a task that follow its settings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ControlledTask {
    /// On attempts that start: none while the task is paused.
    pub(super) pause: LimitNumber,
    /// On attempts that run.
    pub(super) concurrency: LimitNumber,
}

impl Controls {
    pub(super) fn new(declared: QueueSlots, stored: Vec<(ControlTarget, Settings)>) -> Self {
        Self {
            declared,
            settings: RefCell::new(stored.into_iter().collect()),
            tasks: RefCell::default(),
        }
    }
}

impl EngineContext {
    /// Applies the stored settings of tasks. (Those of a queue are read when it is used first.)
    pub(super) fn open_controls(&self) {
        let settings = self.0.controls.settings.borrow().clone();
        for (target, settings) in settings {
            if let ControlTarget::Task(name) = target {
                self.apply_to_task(&name, settings);
            }
        }
    }

    /// Returns the slots of a queue.
    pub(super) fn slots_of(&self, queue: &str) -> Slots {
        let slots = self.0.controls.declared.of(queue);
        let settings = self.0.controls.settings.borrow();
        let Some(settings) = settings.get(&ControlTarget::Queue(queue.to_owned())) else {
            return slots;
        };
        Slots {
            are_paused: settings.is_paused,
            ..settings.concurrency.map_or(slots, Slots::of_either_kind)
        }
    }

    /// Returns the limits of a task that follow its settings.
    pub(super) fn controls_of(&self, entry: &Entry) -> Option<ControlledTask> {
        self.0.controls.tasks.borrow().get(entry.name).copied()
    }

    /// Returns whether an attempt may start with this permit. It may not if its queue or its task
    /// was paused since the slot was granted, nor if it waited for the slot before there were
    /// settings of the task: then it is not under the limits that follow them.
    pub(crate) fn may_start(&self, entry: &Entry, permit: &Permit) -> bool {
        if self.0.controls.settings.borrow().is_empty() {
            return true;
        }
        let mut dispatcher = self.0.tasks.dispatcher.borrow_mut();
        if dispatcher.is_paused_at(permit.slot()) {
            return false;
        }
        let limits = dispatcher.limits();
        self.controls_of(entry).is_none_or(|controlled| {
            let is_open = |set| limits.is_in(controlled.pause, set) && !limits.is_closed(set);
            permit.limits().is_some_and(is_open)
        })
    }

    /// Changes the settings of a queue or a task: at once, and in the batch that is being filled.
    pub(crate) fn control(&self, target: ControlTarget, change: ControlChange) {
        let settings = {
            let mut all = self.0.controls.settings.borrow_mut();
            let settings = all.get(&target).copied().unwrap_or_default().with(change);
            match settings == Settings::default() {
                true => drop(all.remove(&target)),
                false => drop(all.insert(target.clone(), settings)),
            }
            settings
        };
        let key = controls::key(&target);
        if settings == Settings::default() {
            self.delete(key);
        } else {
            self.use_addition(meta::CONTROLS);
            self.put(key, controls::record(settings));
        }
        match target {
            ControlTarget::Queue(name) => self.apply_to_queue(&name),
            ControlTarget::Task(name) => self.apply_to_task(&name, settings),
        }
    }

    fn apply_to_queue(&self, name: &str) {
        let slots = self.slots_of(name);
        let mut dispatcher = self.0.tasks.dispatcher.borrow_mut();
        let Some(queue) = dispatcher.number_of(name) else {
            return;
        };
        let granted = dispatcher.set_slots(queue, slots);
        drop(dispatcher);
        for granted in granted {
            self.grant(Some(granted));
        }
        self.admit_limited();
    }

    fn apply_to_task(&self, name: &str, settings: Settings) {
        let Some(entry) = self.handle().registry.get(name) else {
            return;
        };
        let now_ms = self.steady_ms();
        let mut dispatcher = self.0.tasks.dispatcher.borrow_mut();
        let limits = dispatcher.limits();
        let mut tasks = self.0.controls.tasks.borrow_mut();
        let controlled = *tasks.entry(entry.name).or_insert_with(|| {
            let mut declare = || {
                let name = LimitName::Task(entry.name.to_owned());
                limits.declare(name, Rule::Concurrency(u32::MAX), false)
            };
            ControlledTask {
                pause: declare(),
                concurrency: declare(),
            }
        });
        drop(tasks);
        let started = if settings.is_paused { 0 } else { u32::MAX };
        let running = settings.concurrency.unwrap_or(u64::MAX);
        let running = u32::try_from(running).unwrap_or(u32::MAX);
        limits.set_concurrency(controlled.pause, started, now_ms);
        limits.set_concurrency(controlled.concurrency, running, now_ms);
        drop(dispatcher);
        self.admit_limited();
    }
}
