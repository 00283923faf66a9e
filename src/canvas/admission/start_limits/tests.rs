//! Tests of the limits: order, keys, turns, and a random world held to what it must never do.

use super::*;
use crate::split_mix;

fn task(name: &str) -> LimitName {
    LimitName::Task(name.to_owned())
}

fn rate(text: &str) -> Rule {
    Rule::Rate(text.parse().unwrap())
}

/// Limits of two tasks and one that they share, and the sets of both tasks and of a third one that
/// has the shared limit alone.
fn limits(rates: [&str; 3]) -> (StartLimits<u8, u32>, [LimitSet; 3]) {
    let mut limits = StartLimits::default();
    let shared = LimitName::Named("shared".to_owned());
    let names = [task("a"), task("b"), shared];
    let [a, b, shared] = [0, 1, 2].map(|n| limits.declare(names[n].clone(), rate(rates[n]), false));
    let sets = [&[a, shared][..], &[b, shared], &[shared]];
    let sets = sets.map(|set| limits.acquire(set.iter().map(|one| (*one, None))).unwrap());
    assert_eq!(limits.acquire([]), None);
    assert_eq!(limits.acquire([(a, None), (shared, None)]), Some(sets[0]));
    (limits, sets)
}

fn wait(limits: &mut StartLimits<u8, u32>, set: LimitSet, place: u8, priority: u8, task: u32) {
    let set = limits.share(set);
    limits.wait(set, place, priority, task, 0);
}

/// Starts all tasks that may start now; they end at once.
fn start(limits: &mut StartLimits<u8, u32>, now_ms: u64) -> Vec<u32> {
    let mut started = Vec::new();
    while let Some(next) = limits.next(now_ms, |_| true) {
        limits.record(next.limits, now_ms);
        limits.count(next.limits, now_ms);
        limits.put_back(next.limits, now_ms);
        limits.release(next.limits);
        started.push(next.task);
    }
    started
}

#[test]
fn tasks_under_a_shared_limit_start_by_priority_and_arrival_whatever_their_sets() {
    let (mut limits, [a, b, shared]) = limits(["1000/s", "1000/s", "1/s"]);
    let tasks = [(a, 0), (b, 0), (shared, 5), (a, 5), (shared, 0)];
    for (task, (set, priority)) in tasks.into_iter().enumerate() {
        wait(&mut limits, set, 0, priority, task as u32);
    }
    let mut now_ms = 10_000;
    let mut order = start(&mut limits, now_ms);
    while let Some(at_ms) = limits.wake_at() {
        assert!(at_ms > now_ms);
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
        wait(&mut limits, set, 0, 9, task as u32);
    }
    assert_eq!(start(&mut limits, 5_000), [0]);
    // The second of `a` waits for a day, and the others only for the shared limit.
    assert_eq!(limits.wake_at(), Some(5_010));
    assert_eq!(start(&mut limits, 5_010), [3]);
    assert_eq!(start(&mut limits, 5_020), [4]);
    assert_eq!(limits.wake_at(), Some(86_405_001));
    assert_eq!(limits.remove_waiting(6_000, |task| *task == 1), [(0, 1)]);
    assert_eq!(start(&mut limits, 86_405_001), [2]);
    assert_eq!(limits.wake_at(), None);
}

#[test]
fn a_batch_has_the_starts_of_its_tasks_and_the_next_one_when_they_were_called() {
    let (mut limits, [a, _, shared]) = limits(["5/s", "5/s", "9/s"]);
    limits.grant(a, 1_000);
    limits.record(a, 1_000);
    let sealed = limits.seal(1_000);
    let names: Vec<_> = sealed.iter().map(|change| change.name.clone()).collect();
    assert_eq!(names, [task("a"), LimitName::Named("shared".into())]);
    let starts = |change: &StartsChange| change.starts.clone().unwrap();
    assert!(sealed.iter().all(|change| starts(change).uncounted == 1));
    // Granted while the batch is on its way to the disk.
    limits.grant(shared, 1_200);
    limits.record(shared, 1_200);
    limits.count(a, 1_300);
    let stored: Vec<_> = limits.seal(1_300).iter().map(starts).collect();
    let of_a = stored.iter().find(|starts| starts.uncounted == 0).unwrap();
    let of_shared = stored.iter().find(|starts| starts.uncounted == 1).unwrap();
    assert_eq!(of_a.counted, [(1_300, 1)]);
    assert_eq!(of_shared.counted, [(1_300, 1)]);
    limits.count(shared, 1_400);
    assert_eq!(limits.seal(1_400).len(), 1);
    assert_eq!(limits.seal(1_400).len(), 0);
    // A grant that is taken back leaves no trace.
    limits.grant(a, 2_000);
    limits.withdraw(a, 2_000);
    assert_eq!(limits.seal(2_000).len(), 0);
}

#[test]
fn a_task_whose_place_has_no_slot_keeps_no_other_from_starting() {
    let (mut limits, [a, _, shared]) = limits(["1/s", "1/s", "1/s"]);
    wait(&mut limits, a, 1, 9, 0);
    wait(&mut limits, a, 2, 0, 1);
    wait(&mut limits, shared, 3, 5, 2);
    let is_free = |place| place == 2;
    assert_eq!(limits.settle(1, 7_000), Some(9));
    let next = limits.next(7_000, is_free).unwrap();
    assert_eq!((next.place, next.task), (2, 1));
    assert!(limits.has_waiting(1) && !limits.has_waiting(2));
    limits.record(a, 7_000);
    limits.count(a, 7_000);
    assert_eq!(limits.settle(1, 8_000), None);
    assert_eq!(limits.wake_at(), Some(8_001));
    // From then on they wait for slots alone.
    assert_eq!(limits.settle(3, 8_001), Some(5));
    assert_eq!(limits.wake_at(), None);
}

#[test]
fn starts_that_no_task_waits_for_are_forgotten_after_a_period() {
    let (mut limits, [_, _, shared]) = limits(["1/s", "1/s", "1000/m"]);
    for n in 0..1_000 {
        limits.grant(shared, 0);
        limits.record(shared, 0);
        limits.count(shared, n * 1_000);
    }
    let stored = limits.seal(999_000);
    let counted = &stored[0].starts.as_ref().unwrap().counted;
    assert!(counted.len() < 130, "{}", counted.len());
}

#[test]
fn at_most_so_many_attempts_run_at_once_and_the_next_starts_as_one_ends() {
    let mut limits = StartLimits::<u8, u32>::default();
    let number = limits.declare(task("a"), Rule::Concurrency(2), false);
    let set = limits.acquire([(number, None)]).unwrap();
    for task in 0..5 {
        wait(&mut limits, set, 0, 0, task);
    }
    let running: Vec<_> = std::iter::from_fn(|| limits.next(1_000, |_| true)).collect();
    assert_eq!(running.len(), 2);
    // Only an event helps.
    assert_eq!(limits.wake_at(), None);
    limits.put_back(set, 1_500);
    let next = limits.next(1_500, |_| true).map(|next| next.task);
    assert_eq!(next, Some(2));
    assert!(limits.next(1_500, |_| true).is_none());
    // A higher number lets more start; a lower one ends none.
    limits.set_concurrency(number, 3, 1_600);
    assert_eq!(limits.next(1_600, |_| true).map(|next| next.task), Some(3));
    limits.set_concurrency(number, 0, 1_700);
    for _ in 0..3 {
        limits.put_back(set, 1_800);
        assert!(limits.next(1_800, |_| true).is_none());
    }
    limits.set_concurrency(number, 1, 1_900);
    assert_eq!(limits.next(1_900, |_| true).map(|next| next.task), Some(4));
}

#[test]
fn the_highest_priority_is_next_though_its_line_was_blocked() {
    let mut limits = StartLimits::<u8, u32>::default();
    let shared = limits.declare(LimitName::Named("x".into()), Rule::Concurrency(1), false);
    let own = ["a", "b", "c"].map(|name| limits.declare(task(name), Rule::Concurrency(9), false));
    let [a, b, c] = own.map(|own| limits.acquire([(own, None), (shared, None)]).unwrap());
    for (task, set) in [(0, a), (1, b), (2, c)] {
        wait(&mut limits, set, 0, 0, task);
    }
    let first = limits.next(1_000, |_| true).unwrap();
    assert!(limits.next(1_000, |_| true).is_none());
    // There is no slot when it ends.
    limits.put_back(first.limits, 1_000);
    assert!(limits.next(1_000, |_| false).is_none());
    wait(&mut limits, c, 0, 9, 3);
    assert_eq!(limits.settle(0, 1_000), Some(9));
    assert_eq!(limits.next(1_000, |_| true).map(|next| next.task), Some(3));
}

#[test]
fn each_key_has_a_budget_of_its_own_that_is_forgotten_when_its_starts_are_over() {
    let mut limits = StartLimits::<u8, u32>::default();
    let own = limits.declare(task("a"), rate("1/s"), true);
    let shared = limits.declare(LimitName::Named("x".into()), rate("1000/s"), false);
    for n in 0..30 {
        let key = ["acme", "blue", "core"][n as usize % 3];
        let set = limits.acquire([(own, Some(key)), (shared, None)]).unwrap();
        limits.wait(set, 0, 0, n, 1_000_000);
    }
    let mut now_ms = 1_000_000;
    let mut starts = Vec::new();
    loop {
        starts.push(start(&mut limits, now_ms).len());
        match limits.wake_at() {
            Some(at_ms) => now_ms = at_ms,
            None => break,
        }
    }
    assert_eq!(starts, [3; 10]);
    assert_eq!(now_ms, 1_000_000 + 9 * 1_001);
    let sealed = limits.seal(now_ms);
    assert_eq!((sealed.len(), limits.budgets.len()), (4, 4));
    let sealed = limits.seal(now_ms + 1_001);
    let forgotten = sealed.iter().filter(|change| change.starts.is_none());
    assert_eq!(forgotten.count(), 3);
    assert_eq!((limits.budgets.len(), limits.keyed.len()), (1, 0));
    assert_eq!((limits.sets.len(), limits.set_numbers.len()), (0, 0));
    assert_eq!((limits.lines.len(), limits.places.len()), (0, 0));
}

#[test]
fn the_stored_starts_of_a_key_hold_it_up_after_a_restart_and_are_forgotten_after_it() {
    let mut limits = StartLimits::<u8, u32>::default();
    let own = limits.declare(task("a"), rate("1/s"), true);
    let stored = StoredStarts {
        period_ms: 1_000,
        counted: vec![(5_000, 1)],
        uncounted: 0,
    };
    assert!(limits.restore(own, Some("acme"), stored.clone(), 5_500));
    // The limit is divided by keys, and these starts are not.
    assert!(!limits.restore(own, None, stored, 5_500));
    for (n, key) in ["acme", "blue"].into_iter().enumerate() {
        let set = limits.acquire([(own, Some(key))]).unwrap();
        limits.wait(set, 0, 0, n as u32, 5_500);
    }
    assert_eq!(start(&mut limits, 5_500), [1]);
    assert_eq!(limits.wake_at(), Some(6_001));
    assert_eq!(start(&mut limits, 6_001), [0]);
    limits.seal(6_001);
    let forgotten = limits.seal(7_002);
    assert!(forgotten.iter().all(|change| change.starts.is_none()));
    assert_eq!(forgotten.len(), 2);
}

#[test]
fn keys_start_in_turn_whatever_one_of_them_has_waiting() {
    let mut limits = StartLimits::<u8, u32>::default();
    let number = limits.declare(LimitName::Queue("mail".into()), Rule::Turns, true);
    let arrive = |limits: &mut StartLimits<u8, u32>, key, tasks: std::ops::Range<u32>| {
        for task in tasks {
            let set = limits.acquire([(number, Some(key))]).unwrap();
            limits.wait(set, 0, 0, task, 1);
        }
    };
    arrive(&mut limits, "large", 0..100);
    let next = |limits: &mut StartLimits<u8, u32>| {
        let next = limits.next(1, |_| true).unwrap();
        limits.release(next.limits);
        next.task
    };
    assert_eq!([(); 3].map(|()| next(&mut limits)), [0, 1, 2]);
    arrive(&mut limits, "small", 200..203);
    arrive(&mut limits, "other", 300..302);
    let order = [(); 9].map(|()| next(&mut limits));
    assert_eq!(order, [3, 200, 300, 4, 201, 301, 5, 202, 6]);
}

#[test]
fn a_line_of_low_priority_is_passed_over_a_bounded_number_of_times() {
    for rule in [rate("1/s"), Rule::Concurrency(1)] {
        let mut limits = StartLimits::<u8, u32>::default();
        let shared = limits.declare(LimitName::Named("x".into()), rule, false);
        let turns = limits.declare(task("a"), Rule::Turns, true);
        let low = limits
            .acquire([(turns, Some("low")), (shared, None)])
            .unwrap();
        limits.wait(low, 0, 0, 7, 1_000);
        let mut now_ms = 1_000;
        let mut before = 0;
        // Lines of the highest priority arrive all the time, some at another place.
        loop {
            for n in 0..3 {
                let key = format!("{now_ms} {n}");
                let high = limits
                    .acquire([(turns, Some(&*key)), (shared, None)])
                    .unwrap();
                limits.wait(high, n % 2, 9, 1, now_ms);
            }
            let next = limits
                .next(now_ms, |_| true)
                .expect("one may start each time");
            limits.record(next.limits, now_ms);
            limits.count(next.limits, now_ms);
            limits.put_back(next.limits, now_ms);
            limits.release(next.limits);
            if next.task == 7 {
                break;
            }
            before += 1;
            assert!(before <= 2 * (PASSES + 1), "{rule:?}");
            now_ms += 1_001;
        }
        assert!(before >= PASSES, "{rule:?}: {before}");
    }
}

/// Budgets of all kinds, places with slots, and tasks that start, end and are removed at random.
struct World {
    limits: StartLimits<u8, u32>,
    numbers: Vec<LimitNumber>,
    /// The free slots of each place.
    slots: [u32; 3],
    now_ms: u64,
    /// Tasks that wait, with their priority, place and limits, in order of arrival.
    waiting: Vec<Waiting>,
    running: Vec<(LimitSet, u8, bool)>,
    arrived: u32,
}

#[derive(Clone, Debug)]
struct Waiting {
    task: u32,
    priority: u8,
    place: u8,
    limits: Vec<(LimitNumber, Option<String>)>,
}

impl World {
    fn new() -> Self {
        let mut limits = StartLimits::default();
        let numbers = vec![
            limits.declare(task("a"), rate("10/s"), true),
            limits.declare(task("a"), Rule::Concurrency(2), true),
            limits.declare(LimitName::Named("x".into()), rate("40/s"), false),
            limits.declare(LimitName::Named("x".into()), Rule::Concurrency(5), false),
            limits.declare(LimitName::Queue("q".into()), Rule::Turns, true),
            limits.declare(LimitName::Signatures, Rule::RateOfKey, true),
        ];
        Self {
            limits,
            numbers,
            slots: [3, 2, 4],
            now_ms: 1_000_000,
            waiting: Vec::new(),
            running: Vec::new(),
            arrived: 0,
        }
    }

    fn arrive(&mut self, random: &mut impl FnMut(u64) -> u64) {
        let which = random(63) + 1;
        let numbers = self.numbers.iter().enumerate();
        let numbers = numbers.filter(|(bit, _)| which & (1 << bit) > 0);
        let key = format!("key {}", random(6));
        // A signature may divide a limit that is not declared as divided.
        let is_divided = random(4) == 0;
        let key_of = |bit| match bit {
            2 | 3 => is_divided.then(|| key.clone()),
            5 => {
                let rate = ["20/s", "30/s"][usize::from(is_divided)].parse().unwrap();
                Some(signature_rate::key("a", rate, &key))
            }
            _ => Some(key.clone()),
        };
        let limits: Vec<_> = numbers
            .map(|(bit, number)| (*number, key_of(bit)))
            .collect();
        let (priority, place) = (random(3) as u8 * 4, random(3) as u8);
        self.arrived += 1;
        let keys = limits.iter();
        let keys = keys.map(|(number, key)| (*number, key.as_deref()));
        let set = self.limits.acquire(keys).unwrap();
        self.limits
            .wait(set, place, priority, self.arrived, self.now_ms);
        self.waiting.push(Waiting {
            task: self.arrived,
            priority,
            place,
            limits,
        });
    }

    /// Returns whether all limits of a task allow a start now.
    fn is_allowed(&mut self, limits: &[(LimitNumber, Option<String>)]) -> bool {
        let keys = limits.iter();
        let keys = keys.map(|(number, key)| (*number, key.as_deref()));
        let set = self.limits.acquire(keys).unwrap();
        let budgets = self.limits.sets[set.0].budgets.clone();
        let is_allowed = |budget: &BudgetId| {
            let used = &self.limits.budgets[*budget].used;
            used.allowed_at(self.now_ms) == Some(self.now_ms)
        };
        let are_allowed = budgets.iter().all(is_allowed);
        self.limits.release(set);
        are_allowed
    }

    /// Starts all tasks that may start; returns how many.
    fn start(&mut self, of: &str) -> usize {
        let mut started = 0;
        loop {
            let slots = self.slots;
            let next = self
                .limits
                .next(self.now_ms, |place| slots[usize::from(place)] > 0);
            let Some(Allowed {
                limits,
                place,
                task,
            }) = next
            else {
                break;
            };
            let index = self.waiting.iter().position(|one| one.task == task);
            let one = self.waiting.remove(index.expect("it waits"));
            assert_eq!(one.place, place, "{of}");
            // No task of the same limits, place and priority was before it.
            let earlier = self.waiting.iter().find(|other| {
                other.task < task
                    && (other.place, other.priority) == (one.place, one.priority)
                    && other.limits == one.limits
            });
            assert!(earlier.is_none(), "{of}: {one:?} before {earlier:?}");
            self.slots[usize::from(place)] -= 1;
            self.running.push((limits, place, false));
            started += 1;
        }
        // Nothing waits that may start.
        for one in self.waiting.clone() {
            let has_slot = self.slots[usize::from(one.place)] > 0;
            assert!(!(has_slot && self.is_allowed(&one.limits)), "{of}: {one:?}");
        }
        started
    }

    fn end(&mut self, index: usize) {
        let (set, place, is_called) = self.running.swap_remove(index);
        if !is_called {
            self.limits.withdraw(set, self.now_ms);
        }
        self.slots[usize::from(place)] += 1;
        self.limits.put_back(set, self.now_ms);
        self.limits.release(set);
    }

    fn call(&mut self, index: usize) {
        let (set, _, is_called) = &mut self.running[index];
        if !std::mem::replace(is_called, true) {
            self.limits.record(*set, self.now_ms);
            self.limits.count(*set, self.now_ms);
        }
    }
}

#[test]
fn in_a_random_world_no_task_waits_that_may_start_and_all_is_freed_at_the_end() {
    for seed in 0..60 {
        let mut state: u64 = seed;
        let mut random = |below: u64| {
            state = state.wrapping_add(split_mix::STEP);
            split_mix::number(state) % below
        };
        let of = format!("seed {seed}");
        let mut world = World::new();
        let mut started = 0;
        for _ in 0..400 {
            match random(8) {
                0..3 => world.arrive(&mut random),
                3 | 4 if !world.running.is_empty() => {
                    world.call(random(world.running.len() as u64) as usize);
                }
                5 if !world.running.is_empty() => {
                    world.end(random(world.running.len() as u64) as usize);
                }
                6 => world.now_ms += random(80),
                7 if random(10) == 0 && !world.waiting.is_empty() => {
                    let index = random(world.waiting.len() as u64) as usize;
                    let one = world.waiting.remove(index);
                    let is_it = |task: &u32| *task == one.task;
                    let removed = world.limits.remove_waiting(world.now_ms, is_it);
                    assert_eq!(removed, [(one.place, one.task)], "{of}");
                }
                7 if random(4) == 0 => drop(world.limits.seal(world.now_ms)),
                _ => {}
            }
            started += world.start(&of);
        }
        assert!(started > 20, "{of}: {started}");
        // All ends, and every wake is in time.
        while !world.waiting.is_empty() || !world.running.is_empty() {
            while !world.running.is_empty() {
                world.call(0);
                world.end(0);
            }
            if world.start(&of) == 0 && world.running.is_empty() && !world.waiting.is_empty() {
                let at_ms = world.limits.wake_at().expect("a wake for what waits");
                assert!(at_ms > world.now_ms, "{of}");
                world.now_ms = at_ms;
            }
        }
        world.limits.seal(world.now_ms + 10_000);
        let limits = &world.limits;
        assert_eq!((limits.lines.len(), limits.places.len()), (0, 0), "{of}");
        assert_eq!((limits.sets.len(), limits.keyed.len()), (0, 0), "{of}");
        assert_eq!((limits.budgets.len(), limits.wakes.len()), (2, 0), "{of}");
        assert_eq!(limits.forgets.len(), 0, "{of}");
    }
}
