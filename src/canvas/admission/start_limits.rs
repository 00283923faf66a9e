//! The limits on starts, and the tasks that wait for them without a slot.

use std::collections::HashMap;
use std::num::NonZeroU16;

use super::queue::PriorityQueue;
use super::rate_window::{RateWindow, StoredStarts};
use crate::canvas::rate_limit::RateLimit;

/// The limits that a task is under. The number of a set, from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct LimitSet(NonZeroU16);

/// What a limit counts.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum LimitName {
    /// The starts of the task with this name.
    Task(String),
    /// The starts of all tasks that name this limit.
    Named(String),
}

/// All limits on starts, and the tasks `T` that wait for them.
///
/// Tasks under the same limits start by priority, and within one priority in order of arrival. A
/// task never waits for a limit that it is not under.
#[derive(Debug)]
pub(crate) struct StartLimits<T> {
    limits: Vec<Limit>,
    numbers: HashMap<LimitName, usize>,
    sets: Vec<SetState<T>>,
    /// The number of tasks that have arrived: their order over all sets.
    arrived: u64,
    waiting: usize,
}

#[derive(Debug)]
struct Limit {
    name: LimitName,
    window: RateWindow,
    /// The store does not show the window as it is.
    is_changed: bool,
}

#[derive(Debug)]
struct SetState<T> {
    limits: Vec<usize>,
    waiting: PriorityQueue<(u64, T)>,
}

impl<T> Default for StartLimits<T> {
    fn default() -> Self {
        Self {
            limits: Vec::new(),
            numbers: HashMap::new(),
            sets: Vec::new(),
            arrived: 0,
            waiting: 0,
        }
    }
}

impl<T> StartLimits<T> {
    /// Adds a limit, with what is stored of it.
    pub(crate) fn add(
        &mut self,
        name: LimitName,
        limit: RateLimit,
        stored: Option<StoredStarts>,
        now_ms: u64,
    ) {
        let window = match stored {
            Some(stored) => RateWindow::restore(limit, stored, now_ms),
            None => RateWindow::new(limit),
        };
        self.numbers.insert(name.clone(), self.limits.len());
        self.limits.push(Limit {
            name,
            window,
            is_changed: false,
        });
    }

    /// Returns the set of these limits, which have been added; `None` if there are none.
    pub(crate) fn set_of(
        &mut self,
        names: impl IntoIterator<Item = LimitName>,
    ) -> Option<LimitSet> {
        let names = names.into_iter();
        let limits: Vec<_> = names.map(|name| self.numbers[&name]).collect();
        if limits.is_empty() {
            return None;
        }
        let number = self.sets.iter().position(|set| set.limits == limits);
        let number = number.unwrap_or_else(|| {
            self.sets.push(SetState {
                limits,
                waiting: PriorityQueue::default(),
            });
            self.sets.len() - 1
        });
        // More sets than numbers would be more than 65,535 limited tasks in one program.
        let number = u16::try_from(number + 1).ok().and_then(NonZeroU16::new);
        Some(LimitSet(number.expect("a program has few limited tasks")))
    }

    /// Makes a task wait until its limits allow a start.
    pub(crate) fn wait(&mut self, set: LimitSet, priority: u8, task: T) {
        self.arrived += 1;
        self.waiting += 1;
        let arrived = self.arrived;
        self.set_mut(set).waiting.push(priority, (arrived, task));
    }

    /// Grants a start to the next task that its limits allow; returns its set, its priority and the
    /// task.
    pub(crate) fn next(&mut self, now_ms: u64) -> Option<(LimitSet, u8, T)> {
        if self.waiting == 0 {
            return None;
        }
        let numbers = 0..self.sets.len();
        let allowed = numbers.filter_map(|number| {
            let (priority, (arrived, _)) = self.sets[number].waiting.first()?;
            let order = (priority, u64::MAX - arrived);
            (self.allowed_at(number, now_ms) == Some(now_ms)).then_some((order, number))
        });
        let (_, number) = allowed.max()?;
        let set = LimitSet(NonZeroU16::new(number as u16 + 1)?);
        let priority = self.sets[number].waiting.next()?;
        let (_, task) = self.sets[number].waiting.pop()?;
        self.waiting -= 1;
        self.grant(set, now_ms);
        Some((set, priority, task))
    }

    /// Grants a start ahead of all waiting tasks, if the limits allow one now.
    pub(crate) fn try_grant(&mut self, set: LimitSet, now_ms: u64) -> bool {
        let is_allowed = self.allowed_at(index(set), now_ms) == Some(now_ms);
        if is_allowed {
            self.grant(set, now_ms);
        }
        is_allowed
    }

    fn grant(&mut self, set: LimitSet, now_ms: u64) {
        self.each(set, |limit| {
            limit.window.grant(now_ms);
        });
    }

    /// Takes back a grant that does not become a start.
    pub(crate) fn withdraw(&mut self, set: LimitSet) {
        self.each(set, |limit| limit.window.withdraw());
    }

    /// Notes that a start is recorded in the batch that is being filled.
    pub(crate) fn record(&mut self, set: LimitSet) {
        self.each(set, |limit| {
            limit.window.record();
            limit.is_changed = true;
        });
    }

    /// Counts a recorded start: the function is called.
    pub(crate) fn count(&mut self, set: LimitSet, now_ms: u64) {
        self.each(set, |limit| {
            limit.window.count(1, now_ms);
            limit.is_changed = true;
        });
    }

    /// Seals the batch: returns what is to be stored of the limits that have changed.
    pub(crate) fn seal(&mut self) -> impl Iterator<Item = (&LimitName, StoredStarts)> {
        let changed = self.limits.iter_mut().filter(|limit| limit.is_changed);
        changed.map(|limit| {
            limit.is_changed = false;
            (&limit.name, limit.window.to_stored())
        })
    }

    /// Returns the earliest time at which a waiting task may start; `None` if none waits for a
    /// time.
    pub(crate) fn wake_at(&self, now_ms: u64) -> Option<u64> {
        if self.waiting == 0 {
            return None;
        }
        let waiting = (0..self.sets.len()).filter(|set| self.sets[*set].waiting.len() > 0);
        waiting.filter_map(|set| self.allowed_at(set, now_ms)).min()
    }

    /// Removes the waiting tasks that match.
    pub(crate) fn remove_waiting(&mut self, mut is_it: impl FnMut(&T) -> bool) -> Vec<T> {
        let sets = self.sets.iter_mut();
        let removed: Vec<_> = sets
            .flat_map(|set| set.waiting.remove_all(|(_, task)| is_it(task)))
            .map(|(_, task)| task)
            .collect();
        self.waiting -= removed.len();
        removed
    }

    /// Returns the earliest time at which all limits of this set allow a start, if that depends on
    /// the time alone.
    fn allowed_at(&self, set: usize, now_ms: u64) -> Option<u64> {
        let limits = self.sets[set].limits.iter();
        let mut at = now_ms;
        for limit in limits {
            at = at.max(self.limits[*limit].window.allowed_at(now_ms)?);
        }
        Some(at)
    }

    fn each(&mut self, set: LimitSet, mut change: impl FnMut(&mut Limit)) {
        for limit in &self.sets[index(set)].limits {
            change(&mut self.limits[*limit]);
        }
    }

    fn set_mut(&mut self, set: LimitSet) -> &mut SetState<T> {
        &mut self.sets[index(set)]
    }
}

fn index(set: LimitSet) -> usize {
    usize::from(set.0.get()) - 1
}

#[cfg(test)]
mod tests {
    use super::*;

    fn task(name: &str) -> LimitName {
        LimitName::Task(name.to_owned())
    }

    /// Limits of two tasks and one that they share, and the sets of both tasks and of a third one
    /// that has the shared limit alone.
    fn limits(rates: [&str; 3]) -> (StartLimits<u32>, [LimitSet; 3]) {
        let mut limits = StartLimits::default();
        let shared = LimitName::Named("shared".to_owned());
        let names = [task("a"), task("b"), shared.clone()];
        for (name, rate) in names.into_iter().zip(rates) {
            limits.add(name, rate.parse().unwrap(), None, 0);
        }
        let both = |name| [task(name), shared.clone()];
        let sets = [
            limits.set_of(both("a")).unwrap(),
            limits.set_of(both("b")).unwrap(),
            limits.set_of([shared.clone()]).unwrap(),
        ];
        assert_eq!(limits.set_of([]), None);
        assert_eq!(limits.set_of(both("a")), Some(sets[0]));
        (limits, sets)
    }

    /// Starts all tasks that may start now.
    fn start(limits: &mut StartLimits<u32>, now_ms: u64) -> Vec<u32> {
        let mut started = Vec::new();
        while let Some((set, _, task)) = limits.next(now_ms) {
            limits.record(set);
            limits.count(set, now_ms);
            started.push(task);
        }
        started
    }

    #[test]
    fn tasks_under_a_shared_limit_start_by_priority_and_arrival_whatever_their_sets() {
        let (mut limits, [a, b, shared]) = limits(["1000/s", "1000/s", "1/s"]);
        for (task, (set, priority)) in [(a, 0), (b, 0), (shared, 5), (a, 5), (shared, 0)]
            .into_iter()
            .enumerate()
        {
            limits.wait(set, priority, task as u32);
        }
        let mut order = Vec::new();
        let mut now_ms = 10_000;
        while let Some(at_ms) = limits.wake_at(now_ms) {
            now_ms = at_ms;
            let started = start(&mut limits, now_ms);
            assert_eq!(started.len(), 1, "at {now_ms}");
            order.extend(started);
        }
        assert_eq!(order, [2, 3, 0, 1, 4]);
        assert_eq!(now_ms, 10_000 + 4 * 1_001);
    }

    #[test]
    fn a_task_waits_for_no_limit_that_it_is_not_under() {
        let (mut limits, [a, b, shared]) = limits(["1/d", "100/s", "100/s"]);
        for (task, set) in [a, a, a, b, shared].into_iter().enumerate() {
            limits.wait(set, 9, task as u32);
        }
        assert_eq!(start(&mut limits, 5_000), [0]);
        // The second of `a` waits for a day, and the others only for the shared limit.
        assert_eq!(limits.wake_at(5_000), Some(5_010));
        assert_eq!(start(&mut limits, 5_010), [3]);
        assert_eq!(start(&mut limits, 5_020), [4]);
        assert_eq!(limits.wake_at(5_020), Some(86_405_001));
        assert_eq!(limits.remove_waiting(|task| *task == 1), [1]);
        assert_eq!(start(&mut limits, 86_405_001), [2]);
        assert_eq!(limits.wake_at(86_405_001), None);
    }

    #[test]
    fn a_batch_has_the_starts_of_its_tasks_and_the_next_one_when_they_were_called() {
        let (mut limits, [a, _, shared]) = limits(["5/s", "5/s", "9/s"]);
        assert!(limits.try_grant(a, 1_000));
        limits.record(a);
        let sealed = limits.seal();
        let sealed: Vec<_> = sealed
            .map(|(name, starts)| (name.clone(), starts))
            .collect();
        let names: Vec<_> = sealed.iter().map(|(name, _)| name.clone()).collect();
        assert_eq!(names, [task("a"), LimitName::Named("shared".into())]);
        assert!(sealed.iter().all(|(_, starts)| starts.uncounted == 1));
        // Granted while the batch is on its way to the disk.
        assert!(limits.try_grant(shared, 1_200));
        limits.record(shared);
        limits.count(a, 1_300);
        let stored: Vec<_> = limits.seal().map(|(_, starts)| starts).collect();
        assert_eq!(stored[0].counted, [(1_300, 1)]);
        let shared_starts = (&stored[1].counted[..], stored[1].uncounted);
        assert_eq!(shared_starts, (&[(1_300, 1)][..], 1));
        limits.count(shared, 1_400);
        assert_eq!(limits.seal().count(), 1);
        assert_eq!(limits.seal().count(), 0);
        // A grant that is taken back leaves no trace.
        assert!(limits.try_grant(a, 2_000));
        limits.withdraw(a);
        assert_eq!(limits.seal().count(), 0);
        assert!(limits.try_grant(a, 2_000));
    }
}
