//! Limits on what starts: the limits of each task, the admission of the tasks that wait for them, and
//! the records of starts.

use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::{BTreeSet, HashMap};

use super::EngineContext;
use crate::actors::child::Child;
use crate::actors::commit::journal::Journal;
use crate::actors::dispatch::dispatcher::{Ready, SlotLimits};
use crate::actors::dispatch::permit::{Returned, Slot, Start};
use crate::canvas::admission::signature_rate;
use crate::canvas::admission::start_limits::{LimitName, LimitNumber, LimitSet, Rule};
use crate::canvas::freeze::TaskDef;
use crate::canvas::limit_key;
use crate::canvas::machine::child_spec::ChildSpec;
use crate::canvas::options::Options;
use crate::canvas::outcome::Value;
use crate::canvas::rate_limit::RateLimit;
use crate::canvas::time::Moment;
use crate::messages::scheduler::WakeAt;
use crate::persistence::records::starts::{self, StoredLimit};
use crate::task::{DeclaredLimit, Entry, Registry};

/// The limits of each task, and the alarms for the tasks that wait for them.
#[derive(Debug, Default)]
pub(super) struct TaskLimits {
    of: HashMap<&'static str, LimitsOfTask>,
    /// The queues that serve keys in turn.
    fair: HashMap<String, LimitOfTask>,
    /// The breakers, by name.
    breakers: HashMap<String, LimitNumber>,
    /// The limit on the tasks whose signatures have rates of their own.
    signatures: Option<LimitNumber>,
    /// When the engine is woken for a start, on the steady scale.
    alarms: RefCell<BTreeSet<u64>>,
}

/// The limits of one task.
#[derive(Debug)]
struct LimitsOfTask {
    all: Vec<LimitOfTask>,
    /// The sets of these limits, if none is divided by keys.
    fixed: Option<FixedSets>,
}

#[derive(Clone, Copy, Debug)]
struct FixedSets {
    start: Option<LimitSet>,
    goes_on: Option<LimitSet>,
}

impl FixedSets {
    fn of(self, purpose: Purpose) -> Option<LimitSet> {
        match purpose {
            Purpose::Start => self.start,
            Purpose::GoesOn => self.goes_on,
        }
    }
}

/// One limit of a task.
#[derive(Clone, Debug)]
struct LimitOfTask {
    number: LimitNumber,
    /// The parameter whose argument is the key.
    by: Option<Cow<'static, str>>,
    /// It is the task's alone, so that a key that the signature gives divides it.
    is_own: bool,
    /// It restricts starts alone: an attempt that has waited goes on without it.
    is_for_starts: bool,
}

/// What an attempt needs its limits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    Start,
    GoesOn,
}

impl TaskLimits {
    /// Returns the limits of all registered tasks, with the starts that are stored of them, and the
    /// stored limits that are over and that no task is under any more.
    pub(super) fn new(
        registry: &Registry,
        stored: Vec<StoredLimit>,
        now_ms: u64,
    ) -> (Self, SlotLimits<Box<Child>>, Vec<Vec<u8>>) {
        let mut limits = SlotLimits::default();
        let mut declared: HashMap<LimitName, Vec<LimitOfTask>> = HashMap::new();
        let mut fair = HashMap::new();
        let signatures = DeclaredLimit {
            name: LimitName::Signatures,
            rule: Rule::RateOfKey,
            by: None,
        };
        for DeclaredLimit { name, rule, by } in registry.limits().chain([signatures]) {
            let is_of_keys = by.is_some() || rule == Rule::RateOfKey;
            let number = limits.declare(name.clone(), rule, is_of_keys);
            let limit = LimitOfTask {
                number,
                by,
                is_own: matches!(name, LimitName::Task(_)),
                is_for_starts: matches!(rule, Rule::Rate(_) | Rule::RateOfKey),
            };
            match name {
                LimitName::Queue(queue) => drop(fair.insert(queue, limit)),
                name => declared.entry(name).or_default().push(limit),
            }
        }
        let mut breakers = HashMap::new();
        for (name, breaker) in registry.breakers() {
            let of = LimitName::Named(name.to_owned());
            let number = limits.declare(of, Rule::Breaker(breaker), false);
            breakers.insert(name.to_owned(), number);
        }
        let mut of = HashMap::new();
        for entry in registry.entries() {
            let all = entry.limit_names();
            let all = all.filter_map(|name| declared.get(&name));
            let breaker = entry.options.breaker.filter(|_| entry.waits_for_breaker());
            let breaker = breaker.and_then(|name| breakers.get(name));
            let breaker = breaker.map(|number| LimitOfTask {
                number: *number,
                by: None,
                is_own: false,
                is_for_starts: true,
            });
            let all: Vec<_> = all.flatten().cloned().chain(breaker).collect();
            if !all.is_empty() {
                of.insert(entry.name, LimitsOfTask::new(all, &mut limits));
            }
        }
        let mut outdated = Vec::new();
        for StoredLimit { name, key, starts } in stored {
            let is_over = starts.are_over(now_ms);
            let rate = declared.get(&name);
            let rate = rate.and_then(|all| all.iter().find(|limit| limit.is_for_starts));
            let is_restored = rate.is_some_and(|rate| {
                !(is_over && key.is_some())
                    && limits.restore(rate.number, key.as_deref(), starts, now_ms)
            });
            if is_over && !is_restored {
                outdated.push(starts::key(&name, key.as_deref()));
            }
        }
        let of_signatures = declared
            .get(&LimitName::Signatures)
            .and_then(|all| all.first());
        let limits_of_tasks = Self {
            of,
            fair,
            breakers,
            signatures: of_signatures.map(|limit| limit.number),
            alarms: RefCell::default(),
        };
        (limits_of_tasks, limits, outdated)
    }
}

impl TaskLimits {
    /// Returns the number of each breaker.
    pub(super) fn breakers(&self) -> &HashMap<String, LimitNumber> {
        &self.breakers
    }
}

impl LimitsOfTask {
    fn new(all: Vec<LimitOfTask>, limits: &mut SlotLimits<Box<Child>>) -> Self {
        let mut set_for = |purpose| {
            let these = all.iter().filter(|limit| limit.is_for(purpose));
            limits.acquire(these.map(|limit| (limit.number, None)))
        };
        let has_keys = all.iter().any(|limit| limit.by.is_some());
        let fixed = (!has_keys).then(|| FixedSets {
            start: set_for(Purpose::Start),
            goes_on: set_for(Purpose::GoesOn),
        });
        Self { all, fixed }
    }
}

impl LimitOfTask {
    fn is_for(&self, purpose: Purpose) -> bool {
        purpose == Purpose::Start || !self.is_for_starts
    }

    /// Returns the key of a task for this limit, if the limit is divided by keys.
    fn key_of(&self, entry: &Entry, task: &TaskDef, input: Option<&Value>) -> Option<String> {
        match self.by.as_deref() {
            Some(by) => Some(limit_key::of(task, input, entry.parameters, by)),
            None if self.is_own => limit_key::given(task),
            None => None,
        }
    }
}

/// Returns the key of the starts under a rate that the signature of a task sets.
fn rate_key(entry: &Entry, task: &TaskDef, rate: RateLimit) -> String {
    let key = limit_key::given(task).unwrap_or_default();
    signature_rate::key(entry.name, rate, &key)
}

impl EngineContext {
    /// Returns whether a task with these options is under a limit.
    pub(crate) fn is_limited(&self, entry: &Entry, own: Option<&Options>) -> bool {
        entry.is_limited()
            || own.is_some_and(|own| own.rate_limit.is_some())
            || self.turns_of(entry, own).is_some()
            || self.controls_of(entry).is_some()
    }

    /// Returns how the queue of a task serves keys in turn, if it does.
    fn turns_of(&self, entry: &Entry, own: Option<&Options>) -> Option<&LimitOfTask> {
        let queue = own.and_then(|own| own.queue.as_deref());
        let fair = &self.0.tasks.limits.fair;
        fair.get(queue.unwrap_or(entry.options.queue))
    }

    /// Returns what the name of a lane has besides that of the queue, if the workflow's first task is
    /// this one and under limits: the task's name, unless only its queue has limits, and the keys.
    pub(crate) fn lane_under_limits(&self, entry: &Entry, task: &TaskDef) -> Option<String> {
        let options = task.options.as_deref();
        let turns = self.turns_of(entry, options);
        let rate = options.and_then(|own| own.rate_limit);
        let is_limited = entry.is_limited() || rate.is_some() || self.controls_of(entry).is_some();
        if turns.is_none() && !is_limited {
            return None;
        }
        let own = self.0.tasks.limits.of.get(entry.name);
        let own = own.map(|of| &of.all[..]).unwrap_or_default();
        let mut lane = match is_limited {
            true => format!("\0{}", entry.name),
            false => "\0".to_owned(),
        };
        let keys = own.iter().chain(turns);
        let keys = keys.filter_map(|limit| limit.key_of(entry, task, None));
        for key in keys.chain(rate.map(|rate| rate_key(entry, task, rate))) {
            lane.push('\0');
            lane.push_str(&key);
        }
        Some(lane)
    }

    /// Returns the limits that a task is under; they must be released.
    pub(super) fn acquire_limits(
        &self,
        entry: &Entry,
        child: &ChildSpec,
        purpose: Purpose,
    ) -> Option<LimitSet> {
        let (task, input) = (child.def(), child.input.as_ref());
        let options = task.options.as_deref();
        if !self.is_limited(entry, options) {
            return None;
        }
        let turns = self.turns_of(entry, options);
        let controlled = self.controls_of(entry);
        let rate = options.and_then(|own| own.rate_limit);
        let limits_of_tasks = &self.0.tasks.limits;
        let of_task = limits_of_tasks.of.get(entry.name);
        let mut dispatcher = self.0.tasks.dispatcher.borrow_mut();
        let limits = dispatcher.limits();
        let is_key_given = options.is_some_and(|own| own.limit_key.is_some());
        if turns.is_none()
            && controlled.is_none()
            && rate.is_none()
            && !is_key_given
            && let Some(sets) = of_task.and_then(|of| of.fixed)
        {
            return sets.of(purpose).map(|set| limits.share(set));
        }
        let own = of_task.map(|of| &of.all[..]).unwrap_or_default();
        let all = own.iter().filter(|limit| limit.is_for(purpose));
        let keyed = all
            .chain(turns)
            .map(|limit| (limit.number, limit.key_of(entry, task, input)));
        let is_start = purpose == Purpose::Start;
        let of_signature = rate.filter(|_| is_start).and_then(|rate| {
            let number = limits_of_tasks.signatures?;
            Some((number, Some(rate_key(entry, task, rate))))
        });
        let keyed: Vec<_> = keyed.chain(of_signature).collect();
        let pause = controlled.filter(|_| is_start);
        let controls = [
            pause.map(|of| of.pause),
            controlled.map(|of| of.concurrency),
        ];
        let controls = controls.into_iter().flatten().map(|number| (number, None));
        let keyed = keyed.iter();
        let keyed = keyed.map(|(number, key)| (*number, key.as_deref()));
        limits.acquire(keyed.chain(controls))
    }

    /// Releases limits that no task takes over.
    pub(super) fn release_limits(&self, limits: Option<LimitSet>) {
        if let Some(limits) = limits {
            let mut dispatcher = self.0.tasks.dispatcher.borrow_mut();
            dispatcher.limits().release(limits);
        }
    }

    /// Requests a slot for a task: its limits must allow a start, or, if an attempt has waited for
    /// another task, that it goes on.
    pub(crate) fn request_slot(
        &self,
        entry: &Entry,
        slot: Slot,
        priority: u8,
        task: Ready<Box<Child>>,
        child: &ChildSpec,
    ) {
        let purpose = match task.is_start() {
            true => Purpose::Start,
            false => Purpose::GoesOn,
        };
        let limits = self.acquire_limits(entry, child, purpose);
        self.request_within(limits, slot, priority, task);
    }

    /// Requests a slot within these limits, which the task takes over.
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
        let now_ms = self.steady_ms();
        let mut dispatcher = self.0.tasks.dispatcher.borrow_mut();
        dispatcher.request_within(limits, slot, priority, task, now_ms);
        drop(dispatcher);
        self.admit_limited();
    }

    /// Admits the waiting tasks to which their limits grant a start now, and sets the alarm for the
    /// next one.
    pub(super) fn admit_limited(&self) {
        let now_ms = self.steady_ms();
        let mut dispatcher = self.0.tasks.dispatcher.borrow_mut();
        let granted = dispatcher.admit_limited(now_ms);
        let wake_at = dispatcher.limits().wake_at();
        drop(dispatcher);
        for granted in granted {
            self.grant(Some(granted));
        }
        if let Some(at) = wake_at.filter(|at| *at > now_ms)
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
        let now_ms = self.steady_ms();
        let mut dispatcher = self.0.tasks.dispatcher.borrow_mut();
        dispatcher.limits().record(limits, now_ms);
        drop(dispatcher);
        self.admit_limited();
    }

    /// Stores the starts beside the records of the tasks that start in this batch.
    pub(super) fn store_starts(&self, journal: &mut Journal<Box<Child>>) {
        let mut dispatcher = self.0.tasks.dispatcher.borrow_mut();
        if !dispatcher.limits().are_used() {
            return;
        }
        for change in dispatcher.limits().seal(self.steady_ms()) {
            let key = starts::key(&change.name, change.key.as_deref());
            match change.starts {
                Some(stored) => journal.put(key, starts::record(&stored)),
                None => journal.delete(key),
            }
        }
    }

    /// Counts the starts of tasks whose functions have been called.
    pub(super) fn count_starts(&self) {
        let called = self.handle().inbox.returns().fetch_called();
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

    /// Takes back a start that did not come to a call, before its limits are released. One that is on
    /// record counts all the same.
    pub(super) fn return_start(&self, returned: &Returned) {
        let Some(limits) = returned.limits else {
            return;
        };
        // (The permit's own start may have been counted on another thread just now.)
        self.count_starts();
        let now_ms = self.steady_ms();
        let mut dispatcher = self.0.tasks.dispatcher.borrow_mut();
        match returned.start {
            None => {}
            Some(Start::Granted) => dispatcher.limits().withdraw(limits, now_ms),
            Some(Start::Recorded) => dispatcher.limits().count(limits, now_ms),
        }
    }
}
