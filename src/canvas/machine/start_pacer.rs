//! The gate before a queue: which workflows begin, and which need not yet, because all that their
//! first tasks could do is to wait in line.

use super::queue::PriorityQueue;

/// Workflows `T` that could begin in one queue, and do so only when its line is short. So the work
/// that is under way stays small, and in the processor's caches, however much there is to do: ten
/// thousand chords of ten were begun at once, and each of their steps then found its memory cold.
///
/// Nobody waits here for ever: some enter as others come to their turn, however long the line is,
/// and the first few always do.
#[derive(Debug)]
pub(crate) struct StartPacer<T> {
    waiting: PriorityQueue<T>,
    window: usize,
    /// How many have entered since the last [tick](Self::tick): what they add to the line does not
    /// show at once.
    entered: usize,
    /// How many tasks have come to their turn since one entered for that.
    grants: usize,
}

impl<T> StartPacer<T> {
    /// What is few, and short, depends on the window.
    pub(crate) fn new(window: usize) -> Self {
        assert!(window > 0, "no line is shorter than none");
        Self {
            waiting: PriorityQueue::default(),
            window,
            entered: 0,
            grants: 0,
        }
    }

    /// One arrives; it is given back if it may enter. `begun` workflows have not ended, in all
    /// queues, and so many tasks are `in_line` before the first of its own.
    pub(crate) fn arrive(
        &mut self,
        priority: u8,
        one: T,
        begun: usize,
        in_line: usize,
    ) -> Option<T> {
        if self.waiting.count(priority) == 0 && self.is_open(begun, in_line) {
            self.entered += 1;
            return Some(one);
        }
        self.waiting.push(priority, one);
        None
    }

    /// The next that may enter now. `in_line` as in [`arrive`](Self::arrive), by priority.
    pub(crate) fn next(&mut self, begun: usize, in_line: impl Fn(u8) -> usize) -> Option<T> {
        let in_line = in_line(self.waiting.next()?);
        if !self.is_open(begun, in_line) {
            // As many turns as a workflow may have tasks, lest the line grow without end.
            let toll = self.window.div_ceil(16);
            self.grants = self.grants.checked_sub(toll)?;
        }
        self.entered += 1;
        self.waiting.pop()
    }

    fn is_open(&self, begun: usize, in_line: usize) -> bool {
        let few = self.window.div_ceil(8);
        let short = self.window.div_ceil(4);
        let at_once = self.window.div_ceil(16);
        begun < few || (in_line < short && self.entered < at_once)
    }

    /// A task has come to its turn.
    pub(crate) fn note_grant(&mut self) {
        // Turns that nobody waits for are not saved up.
        if self.waiting.len() > 0 {
            self.grants += 1;
        }
    }

    /// What has entered shows in the line by now.
    pub(crate) fn begin_round(&mut self) {
        self.entered = 0;
    }

    /// Says whether anybody waits here, or has entered since the last [tick](Self::tick).
    pub(crate) fn is_busy(&self) -> bool {
        self.entered > 0 || self.waiting.len() > 0
    }

    /// Lets one in out of turn.
    pub(crate) fn take(&mut self, is_it: impl Fn(&T) -> bool) -> Option<T> {
        self.waiting.take(is_it)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use super::*;

    /// What is before and behind a gate of a queue with one slot.
    struct World {
        gate: StartPacer<(u8, u32)>,
        /// Workflows that have begun, and whose tasks do not yet stand in line.
        entered: Vec<(u8, u32)>,
        /// Tasks of this priority and workflow.
        line: VecDeque<(u8, u32)>,
        begun: Vec<(u8, u32)>,
        running: usize,
    }

    /// How many tasks each workflow has.
    const TASKS: usize = 4;

    impl World {
        fn new(window: usize) -> Self {
            Self {
                gate: StartPacer::new(window),
                entered: Vec::new(),
                line: VecDeque::new(),
                begun: Vec::new(),
                running: 0,
            }
        }

        fn in_line(&self, priority: u8) -> usize {
            let line = self.line.iter();
            line.filter(|(other, _)| *other >= priority).count()
        }

        fn enter(&mut self, one: (u8, u32)) {
            self.running += 1;
            self.begun.push(one);
            self.entered.push(one);
        }

        fn arrives(&mut self, one: (u8, u32)) {
            let in_line = self.in_line(one.0);
            if let Some(one) = self.gate.arrive(one.0, one, self.running, in_line) {
                self.enter(one);
            }
        }

        /// A commit: what has entered stands in line, and others enter.
        fn commits(&mut self) {
            for one in std::mem::take(&mut self.entered) {
                self.line.extend([one; TASKS]);
            }
            self.gate.begin_round();
            let line = std::mem::take(&mut self.line);
            let in_line = |priority| line.iter().filter(|(other, _)| *other >= priority).count();
            let mut running = self.running;
            while let Some(one) = self.gate.next(running, in_line) {
                running += 1;
                self.enter(one);
            }
            self.line = line;
        }

        fn runs_one(&mut self) {
            if let Some(task) = self.line.pop_front() {
                self.gate.note_grant();
                self.running -= usize::from(!self.line.contains(&task));
            }
        }
    }

    /// Each digit: an arrival of a priority, a commit, a task that runs.
    #[test]
    fn all_enter_the_higher_priority_first_and_of_equals_who_came_first() {
        for (window, story) in [1, 4, 40]
            .into_iter()
            .flat_map(|w| (0..4u32.pow(6)).map(move |s| (w, s)))
        {
            let mut world = World::new(window);
            let (mut rest, mut arrived) = (story, 0);
            for step in (0..6).map(|_| {
                let step = rest % 4;
                rest /= 4;
                step
            }) {
                match step {
                    priority @ 0..2 => {
                        // Three at a time, so that some have to wait.
                        for _ in 0..3 {
                            world.arrives((priority as u8, arrived));
                            arrived += 1;
                        }
                    }
                    2 => world.commits(),
                    _ => world.runs_one(),
                }
            }
            for _ in 0..arrived as usize * (TASKS + 1) {
                world.commits();
                world.runs_one();
            }
            assert_eq!(world.begun.len(), arrived as usize, "{window} {story}");
            for priority in 0..2 {
                let equals = world.begun.iter().filter(|(other, _)| *other == priority);
                assert!(equals.is_sorted(), "{window} {story}");
            }
        }
    }

    #[test]
    fn work_under_way_stays_small_and_a_long_line_lets_in_some() {
        let mut world = World::new(160);
        for number in 0..10_000 {
            world.arrives((0, number));
        }
        let mut most = 0;
        for _ in 0..1_000 {
            world.commits();
            world.runs_one();
            most = most.max(world.running);
        }
        assert!(most < 100, "{most}");
        // A group fills its part of the line again and again: the line never gets short.
        let mut world = World::new(160);
        for number in 0..1_000 {
            world.arrives((0, number));
        }
        world.commits();
        let before = world.begun.len();
        for _ in 0..100 {
            world.line.resize(1_000, (0, 5_000));
            world.gate.note_grant();
            world.commits();
        }
        let entered = world.begun.len() - before;
        assert!((5..30).contains(&entered), "{entered}");
    }

    #[test]
    fn a_higher_priority_waits_only_for_what_goes_before_it() {
        let mut world = World::new(8);
        world.line.extend([(0, 0); 100]);
        world.running = 50;
        world.arrives((0, 1));
        world.arrives((5, 2));
        assert_eq!(world.begun, [(5, 2)]);
        // Out of turn, once.
        assert_eq!(world.gate.take(|(_, number)| *number == 1), Some((0, 1)));
        assert_eq!(world.gate.take(|(_, number)| *number == 1), None);
    }
}
