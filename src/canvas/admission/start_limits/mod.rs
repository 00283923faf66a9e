//! The limits on what starts, and the tasks that wait for them without a slot.

mod budget;
pub(crate) mod circuit;
mod lines;
#[cfg(test)]
mod tests;

use std::collections::{BTreeSet, HashMap};
use std::hash::Hash;
use std::rc::Rc;

use slab::Slab;

use self::budget::{Budget, Used};
use self::circuit::{AttemptEpoch, Circuit, Evidence, StoredCircuit};
use self::lines::{Line, LineState, Place, Position};
use super::queue::{PASSES, PriorityQueue};
use super::rate_window::{RateWindow, StoredStarts};
use super::signature_rate;
use crate::canvas::breaker::Breaker;
use crate::canvas::rate_limit::RateLimit;

type BudgetId = usize;
type LineId = usize;

/// The budgets that an attempt needs to start. The number of a set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct LimitSet(usize);

/// The number of a declared limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct LimitNumber(usize);

/// What a limit counts.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum LimitName {
    /// The attempts of the task with this name.
    Task(String),
    /// The attempts of all tasks that name this limit.
    Named(String),
    /// The attempts of all tasks of this queue.
    Queue(String),
    /// The attempts of tasks whose signatures have rates of their own: the key names the task and
    /// the rate.
    Signatures,
}

/// What a limit allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rule {
    /// So many starts in a period.
    Rate(RateLimit),
    /// So many attempts that run at once.
    Concurrency(u32),
    /// Attempts start while the circuit of this breaker is closed.
    Breaker(Breaker),
    /// Any number of attempts; those of different keys start in turn.
    Turns,
    /// For each key the rate that it [names](super::signature_rate).
    RateOfKey,
}

/// All limits, and the tasks `T` that wait for them, each at a place `P`, which is where it needs a
/// slot.
///
/// A limit may be divided by keys; each key then has a *budget* of its own. A task waits in the
/// *line* of its set of budgets and its place. A start is granted only together with a slot: a start
/// that waited for one would keep those from starting that need another.
///
/// Of the lines with a slot and budgets that have something left, the one whose first task has the
/// highest priority is next; among equals the one whose first task arrived first or, if keys start in
/// turn, the one that has waited longest for its turn. A line that was passed over
/// [`PASSES`] times goes first. A task never waits for a limit that it is not under.
///
/// A line is *ready* at its place or *blocked* at one budget that had nothing left. Invariant: while
/// a budget has something left, of its blocked lines at each place none would be next: the first and
/// the oldest are ready. So a budget that is used up costs its lines nothing, however many they are.
#[derive(Debug)]
pub(crate) struct StartLimits<P, T> {
    declared: Vec<Declared>,
    budgets: Slab<Budget<P>>,
    /// The budgets of keys.
    keyed: HashMap<(LimitNumber, Rc<str>), BudgetId>,
    sets: Slab<Set>,
    set_numbers: HashMap<Rc<[BudgetId]>, LimitSet>,
    lines: Slab<Line<P, T>>,
    line_numbers: HashMap<(LimitSet, P), LineId>,
    /// The places at which tasks wait.
    places: HashMap<P, Place>,
    /// When budgets with blocked lines have something left again.
    wakes: BTreeSet<(u64, BudgetId)>,
    /// When the budgets of keys that no task is under are forgotten.
    forgets: BTreeSet<(u64, BudgetId)>,
    /// The budgets that the store does not show as they are.
    changed: Vec<BudgetId>,
    /// The breakers whose circuits the store does not show as they are.
    changed_circuits: Vec<LimitNumber>,
    /// The number of arrivals and turns so far.
    clock: u64,
}

#[derive(Debug)]
struct Declared {
    name: LimitName,
    rule: Rule,
    /// The budget of a limit that is not divided by keys.
    budget: Option<BudgetId>,
}

#[derive(Debug)]
struct Set {
    budgets: Rc<[BudgetId]>,
    /// The keys of one of its limits start in turn.
    takes_turns: bool,
    /// The number of waiting tasks, permits and other holders that refer to it.
    uses: usize,
}

/// A task that its limits allow to start.
#[derive(Debug)]
pub(crate) struct Allowed<P, T> {
    pub(crate) limits: LimitSet,
    pub(crate) place: P,
    pub(crate) task: T,
}

/// What keeps a task that waits for its limits from starting.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum LimitedBy {
    /// This limit, the last of its limits to allow a start again; `at_ms`: when, if the time alone
    /// decides.
    Limit {
        name: LimitName,
        key: Option<String>,
        at_ms: Option<u64>,
    },
    /// This breaker, which is open or probed; `at_ms` as above.
    Breaker { name: LimitName, at_ms: Option<u64> },
    /// A slot: its limits allow a start. So many tasks in the same line are before it, and wait.
    Slot { before: usize, waiting: usize },
}

/// What the store is to have of a limit, for one key if it is divided by keys.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct StartsChange {
    pub(crate) name: LimitName,
    pub(crate) key: Option<Rc<str>>,
    /// `None`: no record any more.
    pub(crate) starts: Option<StoredStarts>,
}

impl<P, T> Default for StartLimits<P, T> {
    fn default() -> Self {
        Self {
            declared: Vec::new(),
            budgets: Slab::new(),
            keyed: HashMap::new(),
            sets: Slab::new(),
            set_numbers: HashMap::new(),
            lines: Slab::new(),
            line_numbers: HashMap::new(),
            places: HashMap::new(),
            wakes: BTreeSet::new(),
            forgets: BTreeSet::new(),
            changed: Vec::new(),
            changed_circuits: Vec::new(),
            clock: 0,
        }
    }
}

impl<P: Copy + Eq + Hash, T> StartLimits<P, T> {
    /// Declares a limit. Each key of a limit that is divided by keys has all that the rule allows.
    pub(crate) fn declare(&mut self, name: LimitName, rule: Rule, by_keys: bool) -> LimitNumber {
        let number = LimitNumber(self.declared.len());
        let budget = Budget::new(number, None, Used::none_of(rule));
        let budget = (!by_keys).then(|| self.budgets.insert(budget));
        self.declared.push(Declared { name, rule, budget });
        number
    }

    /// Returns whether any limit is in use.
    pub(crate) fn are_used(&self) -> bool {
        !self.budgets.is_empty()
    }

    /// Restores the starts that are stored of a declared rate limit. Returns false if it has no
    /// budget like theirs.
    pub(crate) fn restore(
        &mut self,
        number: LimitNumber,
        key: Option<&str>,
        stored: StoredStarts,
        now_ms: u64,
    ) -> bool {
        let Declared { rule, budget, .. } = &self.declared[number.0];
        let limit = match (*rule, key) {
            (Rule::Rate(limit), _) => limit,
            (Rule::RateOfKey, Some(key)) if let Some(limit) = signature_rate::of_key(key) => limit,
            _ => return false,
        };
        let budget = match (key, *budget) {
            (Some(key), _) => self.budget_of_key(number, key),
            (None, Some(budget)) => budget,
            (None, None) => return false,
        };
        let window = RateWindow::restore(limit, stored, now_ms);
        self.budgets[budget].used = Used::Starts(window);
        self.budgets[budget].is_stored = true;
        self.plan_to_forget(budget);
        true
    }

    /// Restores the circuit of a declared breaker.
    pub(crate) fn restore_circuit(
        &mut self,
        number: LimitNumber,
        stored: &StoredCircuit,
        now_ms: u64,
    ) {
        if let Rule::Breaker(breaker) = self.declared[number.0].rule
            && let Some(circuit) = self.circuit_of(number)
        {
            *circuit = Circuit::restore(breaker, stored, now_ms);
        }
    }

    fn circuit_of(&mut self, number: LimitNumber) -> Option<&mut Circuit> {
        match &mut self.budgets[self.declared[number.0].budget?].used {
            Used::Circuit(circuit) => Some(circuit),
            Used::Starts(_) | Used::Slots { .. } | Used::Nothing => None,
        }
    }

    /// Returns whether an attempt under this breaker may begin now.
    pub(crate) fn may_begin(&self, number: LimitNumber, now_ms: u64) -> bool {
        let budget = self.declared[number.0].budget;
        match budget.map(|budget| &self.budgets[budget].used) {
            Some(Used::Circuit(circuit)) => circuit.may_begin(now_ms),
            _ => true,
        }
    }

    /// Begins an attempt under this breaker. See [`Circuit::begin`].
    pub(crate) fn begin(&mut self, number: LimitNumber, now_ms: u64) -> Option<AttemptEpoch> {
        self.circuit_of(number)?.begin(now_ms)
    }

    /// Ends an attempt under this breaker.
    pub(crate) fn end(
        &mut self,
        number: LimitNumber,
        attempt: AttemptEpoch,
        evidence: Evidence,
        now_ms: u64,
    ) {
        let Some(circuit) = self.circuit_of(number) else {
            return;
        };
        if circuit.end(attempt, evidence, now_ms) && !self.changed_circuits.contains(&number) {
            self.changed_circuits.push(number);
        }
        if let Some(budget) = self.declared[number.0].budget {
            self.reopen(budget, now_ms);
        }
    }

    /// Seals the batch: returns what is to be stored of the circuits that have changed.
    pub(crate) fn seal_circuits(&mut self) -> Vec<(LimitNumber, Option<StoredCircuit>)> {
        let changed = std::mem::take(&mut self.changed_circuits).into_iter();
        let stored = changed.map(|number| {
            let stored = self.circuit_of(number).and_then(|one| one.to_stored());
            (number, stored)
        });
        stored.collect()
    }

    /// Changes how many attempts a declared limit lets run at once.
    pub(crate) fn set_concurrency(&mut self, number: LimitNumber, of: u32, now_ms: u64) {
        let budget = self.declared[number.0].budget;
        if let Some(budget) = budget
            && let Used::Slots { of: slots, .. } = &mut self.budgets[budget].used
        {
            *slots = of;
            self.reopen(budget, now_ms);
        }
    }

    /// Returns whether a set includes this limit, which is not divided by keys.
    pub(crate) fn is_in(&self, number: LimitNumber, set: LimitSet) -> bool {
        let budget = self.declared[number.0].budget;
        budget.is_some_and(|budget| self.sets[set.0].budgets.contains(&budget))
    }

    /// Returns whether one of these limits lets no attempt run at all.
    pub(crate) fn is_closed(&self, set: LimitSet) -> bool {
        let mut budgets = self.sets[set.0].budgets.iter();
        budgets.any(|budget| matches!(self.budgets[*budget].used, Used::Slots { of: 0, .. }))
    }

    /// Returns the set of these limits, each with a key if the task is under its key's budget; `None`
    /// if there are none. The caller must [release](Self::release) it, or hand it to a task that does.
    pub(crate) fn acquire<'a>(
        &mut self,
        limits: impl IntoIterator<Item = (LimitNumber, Option<&'a str>)>,
    ) -> Option<LimitSet> {
        let mut takes_turns = false;
        let mut budgets: Vec<BudgetId> = Vec::new();
        for (number, key) in limits {
            let declared = &self.declared[number.0];
            takes_turns |= declared.rule == Rule::Turns;
            budgets.push(match (key, declared.budget) {
                (None, Some(budget)) => budget,
                (key, _) => self.budget_of_key(number, key.unwrap_or_default()),
            });
        }
        if budgets.is_empty() {
            return None;
        }
        if let Some(number) = self.set_numbers.get(&*budgets) {
            self.sets[number.0].uses += 1;
            return Some(*number);
        }
        for budget in &budgets {
            let budget_id = *budget;
            let budget = &mut self.budgets[budget_id];
            budget.sets += 1;
            if budget.sets == 1
                && let Some(at_ms) = budget.timer_ms.take()
            {
                self.forgets.remove(&(at_ms, budget_id));
            }
        }
        let budgets: Rc<[BudgetId]> = budgets.into();
        let number = LimitSet(self.sets.insert(Set {
            budgets: budgets.clone(),
            takes_turns,
            uses: 1,
        }));
        self.set_numbers.insert(budgets, number);
        Some(number)
    }

    /// Returns another reference to a set.
    pub(crate) fn share(&mut self, set: LimitSet) -> LimitSet {
        self.sets[set.0].uses += 1;
        set
    }

    /// Releases a reference to a set.
    pub(crate) fn release(&mut self, set: LimitSet) {
        self.release_times(set, 1);
    }

    fn release_times(&mut self, set: LimitSet, times: usize) {
        let state = &mut self.sets[set.0];
        state.uses -= times;
        if state.uses > 0 {
            return;
        }
        let Set { budgets, .. } = self.sets.remove(set.0);
        self.set_numbers.remove(&budgets);
        for budget in budgets.iter() {
            if self.budgets[*budget].blocked.is_empty() {
                self.set_wake(*budget, None);
            }
            self.budgets[*budget].sets -= 1;
            self.plan_to_forget(*budget);
        }
    }

    fn budget_of_key(&mut self, number: LimitNumber, key: &str) -> BudgetId {
        let key: Rc<str> = key.into();
        let (budgets, rule) = (&mut self.budgets, self.declared[number.0].rule);
        let budget = self.keyed.entry((number, key.clone()));
        let new = || {
            let used = Used::of_key(rule, &key);
            budgets.insert(Budget::new(number, Some(key), used))
        };
        *budget.or_insert_with(new)
    }

    /// Plans to forget the budget of a key that no task is under.
    fn plan_to_forget(&mut self, number: BudgetId) {
        let budget = &mut self.budgets[number];
        if budget.sets > 0 || budget.key.is_none() || budget.timer_ms.is_some() {
            return;
        }
        let at_ms = match &budget.used {
            Used::Starts(window) => window.empty_at(),
            Used::Slots { .. } | Used::Circuit(_) | Used::Nothing => 0,
        };
        budget.timer_ms = Some(at_ms);
        self.forgets.insert((at_ms, number));
    }

    /// Makes a task wait until its limits allow a start and there is a slot at `place`. It takes
    /// over the caller's reference to the set.
    pub(crate) fn wait(&mut self, set: LimitSet, place: P, priority: u8, task: T, now_ms: u64) {
        self.clock += 1;
        let arrival = self.clock;
        let Some(number) = self.line_numbers.get(&(set, place)).copied() else {
            return self.form_line(set, place, priority, (arrival, task));
        };
        self.move_line(number, |line| line.waiting.push(priority, (arrival, task)));
        if let LineState::Blocked(budget) = self.lines[number].state
            && self.lines[number].position.priority == priority
            && self.budgets[budget].used.allowed_at(now_ms) == Some(now_ms)
        {
            // It may be before the line that is ready for what this budget has left.
            self.open(budget, place);
        }
    }

    fn form_line(&mut self, set: LimitSet, place: P, priority: u8, task: (u64, T)) {
        let (turn, mut waiting) = (task.0, PriorityQueue::default());
        waiting.push(priority, task);
        let at = self.places.entry(place).or_default();
        at.lines += 1;
        let position = Position {
            priority,
            rank: turn,
            turn,
        };
        let number = self.lines.insert(Line {
            set,
            place,
            waiting,
            position,
            passed: 0,
            ready_since: at.grants,
            state: LineState::Ready,
        });
        at.ready.insert(number, position);
        self.line_numbers.insert((set, place), number);
    }

    /// Changes the tasks of a line, and moves it to where it then stands. A line without tasks is
    /// removed.
    fn move_line<R>(&mut self, number: LineId, change: impl FnOnce(&mut Line<P, T>) -> R) -> R {
        let line = &mut self.lines[number];
        let (place, state, before) = (line.place, line.state, line.position);
        let result = change(line);
        let takes_turns = self.sets[line.set.0].takes_turns;
        let first = line.waiting.first();
        let after = first.map(|(priority, (arrival, _))| Position {
            priority,
            rank: match takes_turns {
                true => line.position.turn,
                false => *arrival,
            },
            turn: line.position.turn,
        });
        if let Some(after) = after {
            line.position = after;
        }
        let set = line.set;
        if after != Some(before) {
            match state {
                LineState::Ready => {
                    let ready = &mut self.place(place).ready;
                    ready.remove(number, before);
                    if let Some(after) = after {
                        ready.insert(number, after);
                    }
                }
                LineState::Blocked(budget) => {
                    let budget = &mut self.budgets[budget];
                    budget.remove_blocked(number, place, before);
                    if let Some(after) = after {
                        budget.blocked_at(place).insert(number, after);
                    }
                }
            }
        }
        if after.is_none() {
            self.lines.remove(number);
            self.line_numbers.remove(&(set, place));
            let at = self.place(place);
            at.lines -= 1;
            if at.lines == 0 {
                self.places.remove(&place);
            }
        }
        result
    }

    fn place(&mut self, place: P) -> &mut Place {
        let place = self.places.get_mut(&place);
        place.expect("a place is kept while a line is there")
    }

    /// Returns what keeps the task that matches, which waits at `place`, from starting.
    pub(crate) fn find_waiting(
        &self,
        place: P,
        now_ms: u64,
        mut is_it: impl FnMut(&T) -> bool,
    ) -> Option<LimitedBy> {
        let lines = self.lines.iter().map(|(_, line)| line);
        let mut lines = lines.filter(|line| line.place == place);
        let (line, before) = lines.find_map(|line| {
            let before = line.waiting.position(|(_, task)| is_it(task))?;
            Some((line, before))
        })?;
        // `None`: it ends with an attempt, which may be later than any time.
        let budgets = self.sets[line.set.0].budgets.iter();
        let budgets = budgets.map(|budget| &self.budgets[*budget]);
        let closed = budgets.filter_map(|budget| {
            let at_ms = budget.used.allowed_at(now_ms);
            at_ms
                .is_none_or(|at_ms| at_ms > now_ms)
                .then_some((at_ms, budget))
        });
        let last = closed.max_by_key(|(at_ms, _)| at_ms.unwrap_or(u64::MAX));
        Some(match last {
            Some((at_ms, budget)) => {
                let Declared { name, rule, .. } = &self.declared[budget.limit.0];
                let name = name.clone();
                match rule {
                    Rule::Breaker(_) => LimitedBy::Breaker { name, at_ms },
                    Rule::Rate(_) | Rule::Concurrency(_) | Rule::Turns | Rule::RateOfKey => {
                        let key = budget.key.as_deref().map(str::to_owned);
                        LimitedBy::Limit { name, key, at_ms }
                    }
                }
            }
            None => LimitedBy::Slot {
                before,
                waiting: line.waiting.len(),
            },
        })
    }

    /// Returns whether any task waits.
    pub(crate) fn have_waiting(&self) -> bool {
        !self.places.is_empty()
    }

    /// Returns whether a task waits at `place`.
    pub(crate) fn has_waiting(&self, place: P) -> bool {
        self.places.contains_key(&place)
    }

    /// Blocks the lines at `place` that may not start now and would be next. Returns the priority of
    /// the task that then is next, if there is one.
    pub(crate) fn settle(&mut self, place: P, now_ms: u64) -> Option<u8> {
        let line = self.settle_all(now_ms, |at| at == place)?;
        Some(self.lines[line].position.priority)
    }

    /// Grants a start to the next task that its limits allow to start now and that waits at a place
    /// with a free slot. The set of its limits must be [released](Self::release).
    pub(crate) fn next(
        &mut self,
        now_ms: u64,
        has_slot: impl Fn(P) -> bool,
    ) -> Option<Allowed<P, T>> {
        let number = self.settle_all(now_ms, has_slot)?;
        let (limits, place) = (self.lines[number].set, self.lines[number].place);
        self.clock += 1;
        let turn = self.clock;
        let grants = {
            let at = self.place(place);
            at.grants += 1;
            at.grants
        };
        let task = self.move_line(number, |line| {
            line.passed = 0;
            line.ready_since = grants;
            line.position.turn = turn;
            line.waiting.pop()
        });
        self.grant(limits, now_ms);
        self.open_next(limits, place, now_ms);
        let (_, task) = task?;
        Some(Allowed {
            limits,
            place,
            task,
        })
    }

    /// Returns the line that is next, after all before it that may not start now are blocked.
    fn settle_all(&mut self, now_ms: u64, has_slot: impl Fn(P) -> bool) -> Option<LineId> {
        self.open_due(now_ms);
        loop {
            let number = self.first_ready(&has_slot)?;
            let set = &self.sets[self.lines[number].set.0];
            let blocking = set.budgets.iter().find_map(|budget| {
                let at_ms = self.budgets[*budget].used.allowed_at(now_ms);
                (at_ms != Some(now_ms)).then_some((*budget, at_ms))
            });
            match blocking {
                None => return Some(number),
                Some((budget, at_ms)) => self.block(number, budget, at_ms, now_ms),
            }
        }
    }

    /// Returns the first of the ready lines whose place has a slot.
    fn first_ready(&self, has_slot: &impl Fn(P) -> bool) -> Option<LineId> {
        let places = self.places.iter().filter(|(place, _)| has_slot(**place));
        let firsts = places.filter_map(|(_, place)| {
            let oldest = place.ready.oldest()?;
            let line = &self.lines[oldest];
            let passed = u64::from(line.passed) + (place.grants - line.ready_since);
            let is_due = passed >= u64::from(PASSES);
            let number = if is_due { oldest } else { place.ready.first()? };
            let Position { priority, rank, .. } = self.lines[number].position;
            Some(((is_due, priority, u64::MAX - rank), number))
        });
        firsts.max().map(|(_, number)| number)
    }

    /// Blocks a ready line at a budget that has nothing left until `at_ms`, or until an event.
    fn block(&mut self, number: LineId, blocking: BudgetId, at_ms: Option<u64>, now_ms: u64) {
        let line = &mut self.lines[number];
        let (set, place, position) = (line.set, line.place, line.position);
        let grants = self.places.get(&place).map_or(0, |place| place.grants);
        // If nothing started at its place meanwhile, the budget went to another place.
        let passed = u64::from(line.passed) + (grants - line.ready_since).max(1);
        line.passed = u32::try_from(passed).unwrap_or(u32::MAX);
        line.state = LineState::Blocked(blocking);
        self.place(place).ready.remove(number, position);
        let budget = &mut self.budgets[blocking];
        budget.blocked_at(place).insert(number, position);
        self.set_wake(blocking, at_ms);
        self.open_next(set, place, now_ms);
    }

    /// Makes the blocked lines ready that are next at each budget of this set that has something
    /// left: a line of this set at `place` is no longer ready.
    fn open_next(&mut self, set: LimitSet, place: P, now_ms: u64) {
        for budget in self.sets[set.0].budgets.clone().iter() {
            let state = &self.budgets[*budget];
            if !state.blocked.is_empty() && state.used.allowed_at(now_ms) == Some(now_ms) {
                self.open(*budget, place);
            }
        }
    }

    /// Makes the lines ready that are next of those that are blocked at a budget.
    fn open(&mut self, budget: BudgetId, place: P) {
        for number in self.budgets[budget].next_at(place).into_iter().flatten() {
            let position = self.lines[number].position;
            self.budgets[budget].remove_blocked(number, place, position);
            let at = self.place(place);
            let grants = at.grants;
            at.ready.insert(number, position);
            let line = &mut self.lines[number];
            line.state = LineState::Ready;
            line.ready_since = grants;
        }
    }

    /// Notes that a budget may have something left.
    fn reopen(&mut self, number: BudgetId, now_ms: u64) {
        if self.budgets[number].blocked.is_empty() {
            return self.set_wake(number, None);
        }
        let at_ms = self.budgets[number].used.allowed_at(now_ms);
        self.set_wake(number, at_ms.filter(|at_ms| *at_ms > now_ms));
        if at_ms == Some(now_ms) {
            let blocked = self.budgets[number].blocked.iter();
            let places: Vec<P> = blocked.map(|(place, _)| *place).collect();
            places
                .into_iter()
                .for_each(|place| self.open(number, place));
        }
    }

    fn set_wake(&mut self, number: BudgetId, at_ms: Option<u64>) {
        let budget = &mut self.budgets[number];
        if budget.sets == 0 || budget.timer_ms == at_ms {
            return;
        }
        if let Some(before_ms) = std::mem::replace(&mut budget.timer_ms, at_ms) {
            self.wakes.remove(&(before_ms, number));
        }
        if let Some(at_ms) = at_ms {
            self.wakes.insert((at_ms, number));
        }
    }

    /// Opens the budgets whose time has come.
    fn open_due(&mut self, now_ms: u64) {
        while let Some((at_ms, number)) = self.wakes.first().copied()
            && at_ms <= now_ms
        {
            self.reopen(number, now_ms);
        }
    }

    /// Returns the earliest time from which on the limits of a waiting task may allow a start that
    /// they do not allow now.
    pub(crate) fn wake_at(&self) -> Option<u64> {
        self.wakes.first().map(|(at_ms, _)| *at_ms)
    }

    /// Grants a start ahead of all waiting tasks, whatever the limits allow.
    pub(crate) fn grant(&mut self, set: LimitSet, now_ms: u64) {
        for budget in self.sets[set.0].budgets.clone().iter() {
            self.budgets[*budget].used.grant(now_ms);
        }
    }

    /// Takes back a grant that does not become a start.
    pub(crate) fn withdraw(&mut self, set: LimitSet, now_ms: u64) {
        self.each_window(set, now_ms, |window| window.withdraw());
        self.settle_grants(set, now_ms);
    }

    /// Notes that a start is recorded in the batch that is being filled.
    pub(crate) fn record(&mut self, set: LimitSet, now_ms: u64) {
        self.each_window(set, now_ms, RateWindow::record);
        self.settle_grants(set, now_ms);
        self.mark_changed(set);
    }

    /// Notes that a grant has become an attempt under breakers, or will not become one.
    fn settle_grants(&mut self, set: LimitSet, now_ms: u64) {
        for budget in self.sets[set.0].budgets.clone().iter() {
            if let Used::Circuit(circuit) = &mut self.budgets[*budget].used {
                circuit.settle_grant();
                self.reopen(*budget, now_ms);
            }
        }
    }

    /// Counts a recorded start: the function is called.
    pub(crate) fn count(&mut self, set: LimitSet, now_ms: u64) {
        self.each_window(set, now_ms, |window| window.count(now_ms));
        self.mark_changed(set);
    }

    /// Notes that an attempt has given up its slot, and so no longer runs or waits for another task.
    pub(crate) fn put_back(&mut self, set: LimitSet, now_ms: u64) {
        for budget in self.sets[set.0].budgets.clone().iter() {
            if let Used::Slots { held, .. } = &mut self.budgets[*budget].used {
                *held -= 1;
                self.reopen(*budget, now_ms);
            }
        }
    }

    fn each_window(&mut self, set: LimitSet, now_ms: u64, change: impl Fn(&mut RateWindow)) {
        for budget in self.sets[set.0].budgets.clone().iter() {
            if let Used::Starts(window) = &mut self.budgets[*budget].used {
                change(window);
                self.reopen(*budget, now_ms);
            }
        }
    }

    fn mark_changed(&mut self, set: LimitSet) {
        for number in self.sets[set.0].budgets.iter() {
            let budget = &mut self.budgets[*number];
            if matches!(budget.used, Used::Starts(_)) && !budget.is_changed {
                budget.is_changed = true;
                self.changed.push(*number);
            }
        }
    }

    /// Seals the batch: returns what is to be stored of each limit that has changed.
    pub(crate) fn seal(&mut self, now_ms: u64) -> Vec<StartsChange> {
        let mut changes = Vec::new();
        for number in std::mem::take(&mut self.changed) {
            let budget = &mut self.budgets[number];
            budget.is_changed = false;
            if let Used::Starts(window) = &budget.used {
                budget.is_stored = true;
                let starts = Some(window.to_stored());
                changes.push(change(&self.declared, budget, starts));
            }
        }
        self.forget_due(now_ms, &mut changes);
        changes
    }

    /// Forgets the budgets of keys that no task is under and whose starts are over.
    fn forget_due(&mut self, now_ms: u64, changes: &mut Vec<StartsChange>) {
        while let Some((at_ms, number)) = self.forgets.first().copied()
            && at_ms <= now_ms
        {
            self.forgets.pop_first();
            let budget = self.budgets.remove(number);
            if budget.is_stored {
                changes.push(change(&self.declared, &budget, None));
            }
            if let Some(key) = budget.key {
                self.keyed.remove(&(budget.limit, key));
            }
        }
    }

    /// Removes the waiting tasks that match; returns each with its place.
    pub(crate) fn remove_waiting(
        &mut self,
        now_ms: u64,
        mut is_it: impl FnMut(&T) -> bool,
    ) -> Vec<(P, T)> {
        let mut removed = Vec::new();
        let numbers: Vec<LineId> = self.lines.iter().map(|(number, _)| number).collect();
        for number in numbers {
            let (set, place) = (self.lines[number].set, self.lines[number].place);
            let tasks = self.move_line(number, |line| {
                line.waiting.remove_all(|(_, task)| is_it(task))
            });
            if tasks.is_empty() {
                continue;
            }
            self.open_next(set, place, now_ms);
            self.release_times(set, tasks.len());
            removed.extend(tasks.into_iter().map(|(_, task)| (place, task)));
        }
        removed
    }
}

fn change<P>(
    declared: &[Declared],
    budget: &Budget<P>,
    starts: Option<StoredStarts>,
) -> StartsChange {
    StartsChange {
        name: declared[budget.limit.0].name.clone(),
        key: budget.key.clone(),
        starts,
    }
}
