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

/// All limits on starts, and the tasks `T` that wait for them, each at a place `P`, which is where it
/// needs a slot.
///
/// A start is granted only together with a slot: a start that waited for one would keep those from
/// starting that need another. Tasks under the same limits start by priority, and within one
/// priority in order of arrival, except that no task waits for the place of another. A task never
/// waits for a limit that it is not under.
#[derive(Debug)]
pub(crate) struct StartLimits<P, T> {
    limits: Vec<Limit>,
    numbers: HashMap<LimitName, usize>,
    /// The limits of each set.
    sets: Vec<Vec<usize>>,
    /// The lines that are not empty.
    lines: Vec<Line<P, T>>,
    /// The number of tasks that have arrived: their order over all lines.
    arrived: u64,
}

#[derive(Debug)]
struct Limit {
    name: LimitName,
    window: RateWindow,
    /// The store does not show the window as it is.
    is_changed: bool,
}

/// The tasks of one set that wait at one place.
#[derive(Debug)]
struct Line<P, T> {
    set: LimitSet,
    place: P,
    waiting: PriorityQueue<(u64, T)>,
}

/// A task that its limits allow to start.
#[derive(Debug)]
pub(crate) struct Allowed<P, T> {
    pub(crate) limits: LimitSet,
    pub(crate) place: P,
    pub(crate) task: T,
}

impl<P, T> Default for StartLimits<P, T> {
    fn default() -> Self {
        Self {
            limits: Vec::new(),
            numbers: HashMap::new(),
            sets: Vec::new(),
            lines: Vec::new(),
            arrived: 0,
        }
    }
}

impl<P: Copy + PartialEq, T> StartLimits<P, T> {
    /// Adds a limit with its stored starts.
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
        let number = self.sets.iter().position(|set| *set == limits);
        let number = number.unwrap_or_else(|| {
            self.sets.push(limits);
            self.sets.len() - 1
        });
        // More sets than numbers would be more than 65,535 limited tasks in one program.
        let number = u16::try_from(number + 1).ok().and_then(NonZeroU16::new);
        Some(LimitSet(number.expect("a program has few limited tasks")))
    }

    /// Makes a task wait until its limits allow a start and there is a slot at `place`.
    pub(crate) fn wait(&mut self, set: LimitSet, place: P, priority: u8, task: T) {
        self.arrived += 1;
        let mut lines = self.lines.iter_mut();
        let line = match lines.position(|line| (line.set, line.place) == (set, place)) {
            Some(index) => &mut self.lines[index],
            None => {
                let waiting = PriorityQueue::default();
                self.lines.push(Line {
                    set,
                    place,
                    waiting,
                });
                self.lines.last_mut().expect("it was just added")
            }
        };
        line.waiting.push(priority, (self.arrived, task));
    }

    /// Returns the priority of the next task that its limits allow to start now and that waits at
    /// `place`.
    pub(crate) fn next_at(&self, place: P, now_ms: u64) -> Option<u8> {
        self.find(now_ms, |at| at == place)
            .map(|((priority, _), _)| priority)
    }

    /// Grants a start to the next task that its limits allow to start now and that waits at a place
    /// with a free slot.
    pub(crate) fn next(
        &mut self,
        now_ms: u64,
        has_slot: impl Fn(P) -> bool,
    ) -> Option<Allowed<P, T>> {
        let (_, index) = self.find(now_ms, has_slot)?;
        let line = &mut self.lines[index];
        let (limits, place) = (line.set, line.place);
        let (_, task) = line.waiting.pop()?;
        if line.waiting.len() == 0 {
            self.lines.swap_remove(index);
        }
        self.grant(limits, now_ms);
        Some(Allowed {
            limits,
            place,
            task,
        })
    }

    /// Returns the order and the line of the next task that may start.
    fn find(&self, now_ms: u64, has_slot: impl Fn(P) -> bool) -> Option<((u8, u64), usize)> {
        let lines = self.lines.iter().enumerate();
        let allowed = lines.filter(|(_, line)| {
            has_slot(line.place) && self.allowed_at(line.set, now_ms) == Some(now_ms)
        });
        let order = allowed.filter_map(|(index, line)| {
            let (priority, (arrived, _)) = line.waiting.first()?;
            Some(((priority, u64::MAX - arrived), index))
        });
        order.max()
    }

    /// Returns whether a task waits at `place`.
    pub(crate) fn has_waiting(&self, place: P) -> bool {
        self.lines.iter().any(|line| line.place == place)
    }

    /// Grants a start ahead of all waiting tasks, whatever the limits allow.
    pub(crate) fn grant(&mut self, set: LimitSet, now_ms: u64) {
        self.each(set, |limit| limit.window.grant(now_ms));
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
            limit.window.count(now_ms);
            limit.is_changed = true;
        });
    }

    /// Seals the batch: returns the starts to store, for each limit that has changed.
    pub(crate) fn seal(&mut self) -> impl Iterator<Item = (&LimitName, StoredStarts)> {
        let changed = self.limits.iter_mut().filter(|limit| limit.is_changed);
        changed.map(|limit| {
            limit.is_changed = false;
            (&limit.name, limit.window.to_stored())
        })
    }

    /// Returns the earliest time from which on the limits of a waiting task allow a start that they
    /// do not allow now.
    pub(crate) fn wake_at(&self, now_ms: u64) -> Option<u64> {
        let lines = self.lines.iter();
        let times = lines.filter_map(|line| self.allowed_at(line.set, now_ms));
        times.filter(|at_ms| *at_ms > now_ms).min()
    }

    /// Removes the waiting tasks that match; returns each with its place.
    pub(crate) fn remove_waiting(&mut self, mut is_it: impl FnMut(&T) -> bool) -> Vec<(P, T)> {
        let mut removed = Vec::new();
        for line in &mut self.lines {
            let tasks = line.waiting.remove_all(|(_, task)| is_it(task));
            removed.extend(tasks.into_iter().map(|(_, task)| (line.place, task)));
        }
        self.lines.retain(|line| line.waiting.len() > 0);
        removed
    }

    /// Returns the earliest time at which all limits of this set allow a start, if that depends on
    /// the time alone.
    fn allowed_at(&self, set: LimitSet, now_ms: u64) -> Option<u64> {
        let mut at = now_ms;
        for limit in &self.sets[index(set)] {
            at = at.max(self.limits[*limit].window.allowed_at(now_ms)?);
        }
        Some(at)
    }

    fn each(&mut self, set: LimitSet, mut change: impl FnMut(&mut Limit)) {
        for limit in &self.sets[index(set)] {
            change(&mut self.limits[*limit]);
        }
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
    fn limits(rates: [&str; 3]) -> (StartLimits<u8, u32>, [LimitSet; 3]) {
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
    fn start(limits: &mut StartLimits<u8, u32>, now_ms: u64) -> Vec<u32> {
        let mut started = Vec::new();
        while let Some(Allowed {
            limits: set, task, ..
        }) = limits.next(now_ms, |_| true)
        {
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
            limits.wait(set, 0, priority, task as u32);
        }
        let mut now_ms = 10_000;
        let mut order = start(&mut limits, now_ms);
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
            limits.wait(set, 0, 9, task as u32);
        }
        assert_eq!(start(&mut limits, 5_000), [0]);
        // The second of `a` waits for a day, and the others only for the shared limit.
        assert_eq!(limits.wake_at(5_000), Some(5_010));
        assert_eq!(start(&mut limits, 5_010), [3]);
        assert_eq!(start(&mut limits, 5_020), [4]);
        assert_eq!(limits.wake_at(5_020), Some(86_405_001));
        assert_eq!(limits.remove_waiting(|task| *task == 1), [(0, 1)]);
        assert_eq!(start(&mut limits, 86_405_001), [2]);
        assert_eq!(limits.wake_at(86_405_001), None);
    }

    #[test]
    fn a_batch_has_the_starts_of_its_tasks_and_the_next_one_when_they_were_called() {
        let (mut limits, [a, _, shared]) = limits(["5/s", "5/s", "9/s"]);
        limits.grant(a, 1_000);
        limits.record(a);
        let sealed = limits.seal();
        let sealed: Vec<_> = sealed
            .map(|(name, starts)| (name.clone(), starts))
            .collect();
        let names: Vec<_> = sealed.iter().map(|(name, _)| name.clone()).collect();
        assert_eq!(names, [task("a"), LimitName::Named("shared".into())]);
        assert!(sealed.iter().all(|(_, starts)| starts.uncounted == 1));
        // Granted while the batch is on its way to the disk.
        limits.grant(shared, 1_200);
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
        limits.grant(a, 2_000);
        limits.withdraw(a);
        assert_eq!(limits.seal().count(), 0);
    }

    #[test]
    fn a_task_whose_place_has_no_slot_keeps_no_other_from_starting() {
        let (mut limits, [a, _, shared]) = limits(["1/s", "1/s", "1/s"]);
        limits.wait(a, 1, 9, 0);
        limits.wait(a, 2, 0, 1);
        limits.wait(shared, 3, 5, 2);
        let is_free = |place| place == 2;
        assert_eq!(limits.next_at(1, 7_000), Some(9));
        let next = limits.next(7_000, is_free).unwrap();
        assert_eq!((next.place, next.task), (2, 1));
        assert!(limits.has_waiting(1) && !limits.has_waiting(2));
        limits.record(a);
        limits.count(a, 7_000);
        assert_eq!(limits.next_at(1, 8_000), None);
        assert_eq!(limits.wake_at(8_000), Some(8_001));
        // From then on they wait for slots alone.
        assert_eq!(limits.wake_at(8_001), None);
        assert_eq!(limits.next_at(3, 8_001), Some(5));
    }

    #[test]
    fn starts_that_no_task_waits_for_are_forgotten_after_a_period() {
        let (mut limits, [_, _, shared]) = limits(["1/s", "1/s", "1000/m"]);
        for n in 0..1_000 {
            limits.grant(shared, 0);
            limits.record(shared);
            limits.count(shared, n * 1_000);
        }
        let stored: Vec<_> = limits.seal().map(|(_, starts)| starts).collect();
        assert!(stored[0].counted.len() < 130, "{}", stored[0].counted.len());
    }
}
