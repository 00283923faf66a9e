//! The limit on pending work, and the submissions that wait until there is room.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

/// The size of one or more workflows: the number of tasks, chains, groups and chords, and the bytes
/// in the store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Load {
    pub(crate) tasks: u64,
    pub(crate) bytes: u64,
}

impl Load {
    /// The load charged to a submission before its real load is known.
    pub(crate) const ONE: Self = Self { tasks: 1, bytes: 0 };

    pub(crate) fn add(&mut self, other: Self) {
        self.tasks = self.tasks.saturating_add(other.tasks);
        self.bytes = self.bytes.saturating_add(other.bytes);
    }

    pub(crate) fn remove(&mut self, other: Self) {
        self.tasks = self.tasks.saturating_sub(other.tasks);
        self.bytes = self.bytes.saturating_sub(other.bytes);
    }
}

/// Limits the load that is pending at once. A submission below the limit is admitted whole, however
/// large it is, so no submission is too large.
///
/// Invariant: no submission waits while there is room.
#[derive(Debug)]
pub(crate) struct PendingLimit {
    limit: Load,
    used: Load,
    /// The numbers of the waiting submissions, in order of arrival.
    waiting: VecDeque<u64>,
    next: u64,
}

impl PendingLimit {
    pub(crate) fn new(limit: Load) -> Self {
        assert!(
            limit.tasks > 0 && limit.bytes > 0,
            "the limit would admit no submission"
        );
        Self {
            limit,
            used: Load::default(),
            waiting: VecDeque::new(),
            next: 0,
        }
    }

    pub(crate) fn used(&self) -> Load {
        self.used
    }

    fn has_room(&self) -> bool {
        self.used.tasks < self.limit.tasks && self.used.bytes < self.limit.bytes
    }

    /// Charges [`Load::ONE`] if there is room and no submission waits; returns whether it did.
    pub(crate) fn try_acquire(&mut self) -> bool {
        let acquired = self.waiting.is_empty() && self.has_room();
        if acquired {
            self.used.add(Load::ONE);
        }
        acquired
    }

    /// Charges [`Load::ONE`], or returns the number under which the submission waits.
    pub(crate) fn acquire(&mut self) -> Option<u64> {
        if self.try_acquire() {
            return None;
        }
        self.next += 1;
        self.waiting.push_back(self.next);
        Some(self.next)
    }

    /// Charges more load to an admitted submission, over the limit if necessary.
    pub(crate) fn add(&mut self, more: Load) {
        self.used.add(more);
    }

    /// Releases load; returns the waiting submissions that are admitted now, each charged
    /// [`Load::ONE`].
    pub(crate) fn remove(&mut self, less: Load) -> Vec<u64> {
        self.used.remove(less);
        let mut entering = Vec::new();
        while self.has_room()
            && let Some(number) = self.waiting.pop_front()
        {
            self.used.add(Load::ONE);
            entering.push(number);
        }
        entering
    }

    /// Removes a waiting submission; returns `false` if it was admitted already and holds its load.
    pub(crate) fn leave(&mut self, number: u64) -> bool {
        let position = self.waiting.iter().position(|other| *other == number);
        position
            .and_then(|position| self.waiting.remove(position))
            .is_some()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Debug)]
    enum Step {
        Enter,
        /// An admitted submission adds load.
        Add(usize, Load),
        /// An admitted submission ends.
        Go(usize),
        /// A waiting submission gives up.
        Leave(usize),
    }

    fn step() -> impl Strategy<Value = Step> {
        let load = (0..8u64, 0..80u64).prop_map(|(tasks, bytes)| Load { tasks, bytes });
        prop_oneof![
            3 => Just(Step::Enter),
            2 => (any::<usize>(), load).prop_map(|(index, more)| Step::Add(index, more)),
            2 => any::<usize>().prop_map(Step::Go),
            1 => any::<usize>().prop_map(Step::Leave),
        ]
    }

    proptest! {
        #[test]
        fn submissions_are_admitted_in_order_and_only_below_the_limit(
            steps in proptest::collection::vec(step(), 0..200),
            tasks in 1..20u64,
            bytes in 1..200u64,
        ) {
            let max = Load { tasks, bytes };
            let mut pending = PendingLimit::new(max);
            let (mut inside, mut waiting, mut last_number) = (Vec::new(), Vec::new(), 0u64);
            for step in steps {
                let mut entering = Vec::new();
                let before = pending.used();
                match step {
                    Step::Enter => {
                        let may = waiting.is_empty() && before.tasks < tasks && before.bytes < bytes;
                        match pending.acquire() {
                            None => {
                                prop_assert!(may);
                                inside.push(Load::ONE);
                            }
                            Some(number) => {
                                prop_assert!(!may && number > last_number);
                                last_number = number;
                                waiting.push(number);
                            }
                        }
                    }
                    Step::Add(index, more) if !inside.is_empty() => {
                        let index = index % inside.len();
                        inside[index].add(more);
                        pending.add(more);
                    }
                    Step::Go(index) if !inside.is_empty() => {
                        let gone = inside.swap_remove(index % inside.len());
                        entering = pending.remove(gone);
                    }
                    Step::Leave(index) if !waiting.is_empty() => {
                        let number = waiting.remove(index % waiting.len());
                        prop_assert!(pending.leave(number));
                        prop_assert!(!pending.leave(number));
                    }
                    _ => {}
                }
                prop_assert_eq!(&entering[..], &waiting[..entering.len()], "out of order");
                waiting.drain(..entering.len());
                inside.extend(entering.iter().map(|_| Load::ONE));
                let mut sum = Load::default();
                inside.iter().for_each(|load| sum.add(*load));
                prop_assert_eq!(pending.used(), sum);
                let full = sum.tasks >= tasks || sum.bytes >= bytes;
                prop_assert!(waiting.is_empty() || full, "a submission waits although there is room");
            }
        }
    }
}
