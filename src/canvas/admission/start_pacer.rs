//! Paces the start of workflows in front of one queue: a workflow does not begin while its first
//! tasks could only wait in the queue.

use super::queue::PriorityQueue;

/// Workflows `T` that could begin in one queue, and begin only while the queue is short. The set of
/// begun workflows therefore stays small enough for the processor's caches, however many workflows
/// are pending: when ten thousand chords of ten began at once, each of their steps missed the
/// cache.
///
/// No workflow waits for ever: some begin as queued tasks receive slots, however long the queue is,
/// and the first few always begin.
#[derive(Debug)]
pub(crate) struct StartPacer<T> {
    waiting: PriorityQueue<T>,
    window: usize,
    /// How many have begun since the last [round](Self::begin_round): the queue's length does not
    /// include their tasks yet.
    entered: usize,
    /// Slots granted to tasks, not yet spent on starting a workflow.
    grants: usize,
}

impl<T> StartPacer<T> {
    /// The limits on begun workflows and on the queue's length are fractions of `window`.
    pub(crate) fn new(window: usize) -> Self {
        assert!(window > 0, "the window must not be empty");
        Self {
            waiting: PriorityQueue::default(),
            window,
            entered: 0,
            grants: 0,
        }
    }

    /// Adds a workflow; returns it if it may begin now. `begun`: workflows that have begun and not
    /// ended, in all queues. `queued`: tasks that would run before its first one.
    pub(crate) fn arrive(
        &mut self,
        priority: u8,
        one: T,
        begun: usize,
        queued: usize,
    ) -> Option<T> {
        if self.waiting.count(priority) == 0 && self.is_open(begun, queued) {
            self.entered += 1;
            return Some(one);
        }
        self.waiting.push(priority, one);
        None
    }

    /// Returns the next workflow that may begin now. `queued` as in [`arrive`](Self::arrive), by
    /// priority.
    pub(crate) fn next(&mut self, begun: usize, queued: impl Fn(u8) -> usize) -> Option<T> {
        let queued = queued(self.waiting.next()?);
        if !self.is_open(begun, queued) {
            // A workflow costs as many grants as it may have tasks, so the queue cannot grow
            // without bound.
            let cost = self.window.div_ceil(16);
            self.grants = self.grants.checked_sub(cost)?;
        }
        self.entered += 1;
        self.waiting.pop()
    }

    fn is_open(&self, begun: usize, queued: usize) -> bool {
        let few = self.window.div_ceil(8);
        let short = self.window.div_ceil(4);
        let at_once = self.window.div_ceil(16);
        begun < few || (queued < short && self.entered < at_once)
    }

    /// Notes that a queued task was granted a slot.
    pub(crate) fn note_grant(&mut self) {
        // Grants are not saved up while no workflow waits.
        if self.waiting.len() > 0 {
            self.grants += 1;
        }
    }

    /// Starts a round: the queue's length now includes the tasks of every begun workflow.
    pub(crate) fn begin_round(&mut self) {
        self.entered = 0;
    }

    /// Returns whether a workflow waits here or has begun since the last
    /// [round](Self::begin_round).
    pub(crate) fn is_busy(&self) -> bool {
        self.entered > 0 || self.waiting.len() > 0
    }

    /// Removes a workflow out of order.
    pub(crate) fn take(&mut self, is_it: impl Fn(&T) -> bool) -> Option<T> {
        self.waiting.take(is_it)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use super::*;

    /// The workflows in front of and behind the pacer of a queue with one slot.
    struct World {
        pacer: StartPacer<(u8, u32)>,
        /// Workflows that have begun and whose tasks are not queued yet.
        entered: Vec<(u8, u32)>,
        /// Queued tasks, as (priority, workflow).
        queue: VecDeque<(u8, u32)>,
        begun: Vec<(u8, u32)>,
        running: usize,
    }

    /// The number of tasks of each workflow.
    const TASKS: usize = 4;

    impl World {
        fn new(window: usize) -> Self {
            Self {
                pacer: StartPacer::new(window),
                entered: Vec::new(),
                queue: VecDeque::new(),
                begun: Vec::new(),
                running: 0,
            }
        }

        fn queued(&self, priority: u8) -> usize {
            let queue = self.queue.iter();
            queue.filter(|(other, _)| *other >= priority).count()
        }

        fn enter(&mut self, one: (u8, u32)) {
            self.running += 1;
            self.begun.push(one);
            self.entered.push(one);
        }

        fn arrives(&mut self, one: (u8, u32)) {
            let queued = self.queued(one.0);
            if let Some(one) = self.pacer.arrive(one.0, one, self.running, queued) {
                self.enter(one);
            }
        }

        /// Commits: the tasks of begun workflows are queued, and further workflows begin.
        fn commits(&mut self) {
            for one in std::mem::take(&mut self.entered) {
                self.queue.extend([one; TASKS]);
            }
            self.pacer.begin_round();
            let queue = std::mem::take(&mut self.queue);
            let queued = |priority| queue.iter().filter(|(other, _)| *other >= priority).count();
            let mut running = self.running;
            while let Some(one) = self.pacer.next(running, queued) {
                running += 1;
                self.enter(one);
            }
            self.queue = queue;
        }

        fn runs_one(&mut self) {
            if let Some(task) = self.queue.pop_front() {
                self.pacer.note_grant();
                self.running -= usize::from(!self.queue.contains(&task));
            }
        }
    }

    /// Each digit is a step: 0 or 1 arrivals of that priority, 2 a commit, 3 a task that runs.
    #[test]
    fn all_workflows_begin_by_priority_and_within_one_in_order_of_arrival() {
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
    fn begun_workflows_stay_few_and_a_long_queue_still_lets_some_begin() {
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
        // A group refills its part of the queue again and again, so the queue never becomes short.
        let mut world = World::new(160);
        for number in 0..1_000 {
            world.arrives((0, number));
        }
        world.commits();
        let before = world.begun.len();
        for _ in 0..100 {
            world.queue.resize(1_000, (0, 5_000));
            world.pacer.note_grant();
            world.commits();
        }
        let entered = world.begun.len() - before;
        assert!((5..30).contains(&entered), "{entered}");
    }

    #[test]
    fn a_workflow_of_higher_priority_waits_only_for_tasks_that_run_before_its_own() {
        let mut world = World::new(8);
        world.queue.extend([(0, 0); 100]);
        world.running = 50;
        world.arrives((0, 1));
        world.arrives((5, 2));
        assert_eq!(world.begun, [(5, 2)]);
        // Each can be taken out of order once.
        assert_eq!(world.pacer.take(|(_, number)| *number == 1), Some((0, 1)));
        assert_eq!(world.pacer.take(|(_, number)| *number == 1), None);
    }
}
