//! The room: how much may be pending at once, and who waits to submit more.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

/// How much a workflow is, or many of them are: the tasks of the canvas, and each chain, group and
/// chord around them; and the bytes that it takes in the store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Load {
    pub(crate) tasks: u64,
    pub(crate) bytes: u64,
}

impl Load {
    /// Of who enters, before it is known how much he brings.
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

/// Who enters is taken whole, however much he brings: nothing is too large to be submitted.
///
/// Invariant: nobody waits while there is room.
#[derive(Debug)]
pub(crate) struct PendingLimit {
    limit: Load,
    taken: Load,
    /// Who waits, by number, the first to come in front.
    line: VecDeque<u64>,
    next: u64,
}

impl PendingLimit {
    pub(crate) fn new(limit: Load) -> Self {
        assert!(
            limit.tasks > 0 && limit.bytes > 0,
            "nobody could ever enter"
        );
        Self {
            limit,
            taken: Load::default(),
            line: VecDeque::new(),
            next: 0,
        }
    }

    pub(crate) fn taken(&self) -> Load {
        self.taken
    }

    fn has_room(&self) -> bool {
        self.taken.tasks < self.limit.tasks && self.taken.bytes < self.limit.bytes
    }

    /// Says whether he has entered, with [`Load::ONE`]. Nobody overtakes those who wait.
    pub(crate) fn try_acquire(&mut self) -> bool {
        let enters = self.line.is_empty() && self.has_room();
        if enters {
            self.taken.add(Load::ONE);
        }
        enters
    }

    /// Enters, or waits: under this number.
    pub(crate) fn acquire(&mut self) -> Option<u64> {
        if self.try_acquire() {
            return None;
        }
        self.next += 1;
        self.line.push_back(self.next);
        Some(self.next)
    }

    /// Who is in brings this much more; nobody asks whether there is room.
    pub(crate) fn add(&mut self, more: Load) {
        self.taken.add(more);
    }

    /// So much has gone; returns who enters for it, each with [`Load::ONE`].
    pub(crate) fn remove(&mut self, less: Load) -> Vec<u64> {
        self.taken.remove(less);
        let mut entering = Vec::new();
        while self.has_room()
            && let Some(number) = self.line.pop_front()
        {
            self.taken.add(Load::ONE);
            entering.push(number);
        }
        entering
    }

    /// He waits no longer. Says whether he did: else he has entered, and takes up room.
    pub(crate) fn leave(&mut self, number: u64) -> bool {
        let place = self.line.iter().position(|other| *other == number);
        place.and_then(|place| self.line.remove(place)).is_some()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Debug)]
    enum Step {
        Enter,
        /// One of those who are in brings more.
        Add(usize, Load),
        /// One of those who are in goes.
        Go(usize),
        /// One of those who wait gives up.
        Leave(usize),
    }

    fn step() -> impl Strategy<Value = Step> {
        let weight = (0..8u64, 0..80u64).prop_map(|(tasks, bytes)| Load { tasks, bytes });
        prop_oneof![
            3 => Just(Step::Enter),
            2 => (any::<usize>(), weight).prop_map(|(who, more)| Step::Add(who, more)),
            2 => any::<usize>().prop_map(Step::Go),
            1 => any::<usize>().prop_map(Step::Leave),
        ]
    }

    proptest! {
        #[test]
        fn they_enter_in_their_order_and_only_while_there_is_room(
            steps in proptest::collection::vec(step(), 0..200),
            tasks in 1..20u64,
            bytes in 1..200u64,
        ) {
            let limit = Load { tasks, bytes };
            let mut room = PendingLimit::new(limit);
            let (mut inside, mut line, mut came) = (Vec::new(), Vec::new(), 0u64);
            for step in steps {
                let mut entering = Vec::new();
                let before = room.taken();
                match step {
                    Step::Enter => {
                        let may = line.is_empty() && before.tasks < tasks && before.bytes < bytes;
                        match room.acquire() {
                            None => {
                                prop_assert!(may);
                                inside.push(Load::ONE);
                            }
                            Some(number) => {
                                prop_assert!(!may && number > came);
                                came = number;
                                line.push(number);
                            }
                        }
                    }
                    Step::Add(who, more) if !inside.is_empty() => {
                        let who = who % inside.len();
                        inside[who].add(more);
                        room.add(more);
                    }
                    Step::Go(who) if !inside.is_empty() => {
                        let gone = inside.swap_remove(who % inside.len());
                        entering = room.remove(gone);
                    }
                    Step::Leave(who) if !line.is_empty() => {
                        let number = line.remove(who % line.len());
                        prop_assert!(room.leave(number));
                        prop_assert!(!room.leave(number));
                    }
                    _ => {}
                }
                prop_assert_eq!(&entering[..], &line[..entering.len()], "out of order");
                line.drain(..entering.len());
                inside.extend(entering.iter().map(|_| Load::ONE));
                let mut sum = Load::default();
                inside.iter().for_each(|weight| sum.add(*weight));
                prop_assert_eq!(room.taken(), sum);
                let full = sum.tasks >= tasks || sum.bytes >= bytes;
                prop_assert!(line.is_empty() || full, "somebody waits for nothing");
            }
        }
    }
}
