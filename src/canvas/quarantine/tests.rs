use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;

/// A task: how long it runs, or when it crashes the process instead.
#[derive(Clone, Copy, Debug)]
struct Task {
    lasts_ms: u64,
    kills_after_ms: Option<u64>,
}

/// The possible records of a crash that a task has caused.
const BY_TASK: [LastEnd; 2] = [LastEnd::Inside, LastEnd::Unknown];

/// A store, the tasks that run over it, and the crashes.
struct World {
    tasks: Vec<Task>,
    /// How many tasks run at once.
    slots: usize,
    limit: u32,
    /// How a crash by a task is recorded.
    by_task: LastEnd,
    now_ms: u64,
    /// The latest attempt of each task that has not ended.
    attempts: BTreeMap<usize, u32>,
    ended: BTreeSet<usize>,
    records: BTreeMap<Id, Suspect>,
    last_end: LastEnd,
    /// In how many crashes each task was running.
    crashes: BTreeMap<usize, u32>,
    quarantined: BTreeSet<usize>,
    /// How long the last of the tasks that were running had to wait in a session, and how long a
    /// new task had to wait.
    waited_ms: u64,
    held_ms: u64,
}

fn id(task: usize) -> Id {
    Id::next(None, 1_000, 5).node(task as u64 + 1)
}

impl World {
    fn new(tasks: Vec<Task>, slots: usize, limit: u32) -> Self {
        Self {
            tasks,
            slots,
            limit,
            by_task: LastEnd::Inside,
            now_ms: 1_000,
            attempts: BTreeMap::new(),
            ended: BTreeSet::new(),
            records: BTreeMap::new(),
            last_end: LastEnd::Clean,
            crashes: BTreeMap::new(),
            quarantined: BTreeSet::new(),
            waited_ms: 0,
            held_ms: 0,
        }
    }

    fn write(&mut self, update: Option<SuspectUpdate>) {
        match update {
            Some((id, Some(suspect))) => drop(self.records.insert(id, suspect)),
            Some((id, None)) => drop(self.records.remove(&id)),
            None => {}
        }
    }

    /// Runs one session of the process: until no task is left, or until a crash, at the latest
    /// after `limit_ms`. Returns whether all tasks ended.
    fn run_session(&mut self, limit_ms: u64) -> bool {
        let opened_ms = self.now_ms;
        let deadline = opened_ms.saturating_add(limit_ms);
        let records = self.records.clone();
        let (mut quarantine, updates) =
            Quarantine::open(records, self.last_end, self.limit, opened_ms);
        for update in updates {
            self.write(Some(update));
        }
        quarantine.begin(opened_ms);
        let mut ready: BTreeSet<usize> = (0..self.tasks.len()).collect();
        ready.retain(|task| !self.ended.contains(task));
        let mut to_try = BTreeSet::new();
        for (task, attempt) in self.attempts.clone() {
            let (status, update) = quarantine.arrived(id(task), "task", attempt, opened_ms);
            self.write(update);
            match status {
                SuspectStatus::Free | SuspectStatus::Watched => {}
                SuspectStatus::Trial => {
                    ready.remove(&task);
                    to_try.insert(task);
                    quarantine.wait(id(task), task);
                }
                SuspectStatus::Quarantined | SuspectStatus::Discarded => {
                    ready.remove(&task);
                    self.quarantined.insert(task);
                }
            }
        }
        quarantine.gathered();
        let mut running: BTreeMap<usize, u64> = BTreeMap::new();
        loop {
            for update in quarantine.end_overdue(self.now_ms) {
                self.write(Some(update));
            }
            while let Some(task) = quarantine.next(self.now_ms) {
                // (Suspects have slots of their own.)
                self.write(quarantine.started(id(task), self.now_ms));
                *self.attempts.entry(task).or_default() += 1;
                running.insert(task, self.now_ms);
                to_try.remove(&task);
                let waited_ms = self.now_ms - opened_ms;
                self.waited_ms = self.waited_ms.max(waited_ms);
            }
            if quarantine.is_holding() {
                assert!(running.len() <= 1, "it is not alone");
            } else {
                while running.len() < self.slots
                    && let Some(task) = ready.pop_first()
                {
                    *self.attempts.entry(task).or_default() += 1;
                    running.insert(task, self.now_ms);
                }
            }
            let next = running.iter().map(|(task, since)| {
                let Task {
                    lasts_ms,
                    kills_after_ms,
                } = self.tasks[*task];
                let at = since + kills_after_ms.unwrap_or(lasts_ms);
                (at, kills_after_ms.is_none(), *task)
            });
            let next = next.min();
            let Some(now) = next
                .map(|next| next.0)
                .into_iter()
                .chain(quarantine.wake_at())
                .min()
            else {
                assert!(to_try.is_empty(), "{to_try:?} are forgotten");
                self.last_end = LastEnd::Clean;
                return true;
            };
            if quarantine.is_holding() {
                self.held_ms = self.held_ms.max(now.min(deadline) - opened_ms);
            }
            if now > deadline {
                self.now_ms = deadline;
                self.waited_ms = match to_try.is_empty() {
                    true => self.waited_ms,
                    false => self.waited_ms.max(limit_ms),
                };
                self.crash(&running, LastEnd::Unknown);
                return false;
            }
            self.now_ms = now;
            match next {
                Some((at, true, task)) if at == now => {
                    running.remove(&task);
                    self.attempts.remove(&task);
                    self.ended.insert(task);
                    self.write(quarantine.cleared(id(task)).0);
                }
                Some((at, false, _)) if at == now => {
                    self.crash(&running, self.by_task);
                    return false;
                }
                _ => {}
            }
        }
    }

    fn crash(&mut self, running: &BTreeMap<usize, u64>, last_end: LastEnd) {
        self.last_end = last_end;
        for task in running.keys() {
            *self.crashes.entry(*task).or_default() += 1;
        }
    }

    fn killers(&self) -> BTreeSet<usize> {
        let all = self.tasks.iter().enumerate();
        all.filter(|(_, task)| task.kills_after_ms.is_some())
            .map(|(number, _)| number)
            .collect()
    }

    /// Runs sessions until all tasks have ended; returns the number of crashes.
    fn run_sessions(&mut self, most: u32) -> u32 {
        for crashes in 0..=most {
            if self.run_session(u64::MAX / 2) {
                return crashes;
            }
        }
        panic!(
            "it never ends: {:?} {:?} {:?}",
            self.tasks, self.records, self.crashes
        );
    }
}

fn innocents(lasts_ms: impl Strategy<Value = u64>) -> impl Strategy<Value = Vec<Task>> {
    let innocent = lasts_ms.prop_map(|lasts_ms| Task {
        lasts_ms,
        kills_after_ms: None,
    });
    proptest::collection::vec(innocent, 0..40)
}

fn killers(after_ms: impl Strategy<Value = u64>) -> impl Strategy<Value = Vec<Task>> {
    let killer = after_ms.prop_map(|after| Task {
        lasts_ms: 0,
        kills_after_ms: Some(after),
    });
    proptest::collection::vec(killer, 0..5)
}

fn mixed(one: Vec<Task>, other: Vec<Task>) -> impl Strategy<Value = Vec<Task>> {
    Just([one, other].concat()).prop_shuffle()
}

/// Tasks that run for longer than any test.
fn long_ones(count: usize) -> Vec<Task> {
    let task = Task {
        lasts_ms: 10_000_000,
        kills_after_ms: None,
    };
    vec![task; count]
}

proptest! {
    /// Holds whatever other tasks run, and whatever is known of the crashes.
    #[test]
    fn every_task_that_crashes_the_process_is_quarantined_and_no_other(
        tasks in (innocents(1..1_000_000u64), killers(0..900u64))
            .prop_flat_map(|(one, other)| mixed(one, other)),
        slots in 1..50usize,
        limit in 3..6u32,
        by_task in proptest::sample::select(&BY_TASK[..]),
    ) {
        let mut world = World::new(tasks, slots, limit);
        world.by_task = by_task;
        let killers = world.killers();
        world.run_sessions(killers.len() as u32 * (2 * limit + 30) + 1);
        prop_assert_eq!(&world.quarantined, &killers);
        prop_assert_eq!(world.ended.len(), world.tasks.len() - killers.len());
        prop_assert!(world.waited_ms <= BOUND_MS, "{}", world.waited_ms);
    }

    /// The task crashes at once, beside others that run long.
    #[test]
    fn it_takes_exactly_as_many_crashes_as_allowed(
        innocents in innocents(1..1_000_000u64),
        after_ms in 0..90u64,
        limit in 3..6u32,
        by_task in proptest::sample::select(&BY_TASK[..]),
    ) {
        let killer = Task { lasts_ms: 0, kills_after_ms: Some(after_ms) };
        let mut world = World::new([innocents, vec![killer]].concat(), 50, limit);
        world.by_task = by_task;
        let crashes = world.run_sessions(100);
        prop_assert_eq!(&world.quarantined, &world.killers());
        let enough = match by_task {
            LastEnd::Inside => limit,
            _ => 2 * limit,
        };
        prop_assert_eq!(crashes, enough);
    }

    /// Holds for any number of kills at any times.
    #[test]
    fn kills_from_outside_quarantine_no_task(
        tasks in 1..60usize,
        kills in proptest::collection::vec(0..60_000u64, 40),
        slow in 1..60u64,
    ) {
        let mut world = World::new(long_ones(tasks), 300, 3);
        for after_ms in kills {
            prop_assert!(!world.run_session(after_ms / slow));
        }
        world.run_sessions(0);
        prop_assert_eq!(world.quarantined, BTreeSet::new());
        prop_assert!(world.waited_ms <= BOUND_MS);
        prop_assert!(world.held_ms <= ALONE_MS << (2 * MAX_LATE));
    }
}

#[test]
fn a_process_that_is_killed_every_half_minute_never_keeps_new_work_waiting() {
    let mut world = World::new(long_ones(300), 300, 3);
    for _ in 0..20 {
        assert!(!world.run_session(30_000));
    }
    assert_eq!(world.held_ms, 0);
    assert!(world.waited_ms <= BOUND_MS);
    assert!(world.waited_ms > SPREAD_MS / 2, "no task has waited");
}

fn tried(crashes: u32, evidence: Evidence) -> Vec<(Id, Suspect)> {
    vec![(id(1), suspect(crashes, Standing::Tried(evidence)))]
}

fn suspect(crashes: u32, standing: Standing) -> Suspect {
    Suspect {
        name: "task".to_owned(),
        attempt: 4,
        crashes,
        since_ms: 7,
        standing,
    }
}

fn on(stage: Stage, weight: u32) -> Evidence {
    Evidence {
        weight,
        stage,
        ..Evidence::default()
    }
}

fn opened<T>(records: Vec<(Id, Suspect)>, last_end: LastEnd) -> Quarantine<T> {
    let (mut quarantine, _) = Quarantine::open(records, last_end, 3, 9);
    quarantine.begin(0);
    quarantine
}

#[test]
fn after_a_first_kill_nothing_has_to_wait() {
    let mut quarantine = opened::<()>(Vec::new(), LastEnd::Unknown);
    assert!(!quarantine.is_holding());
    let (status, update) = quarantine.arrived(id(1), "task", 1, 9);
    let suspect = update.unwrap().1.unwrap();
    assert_eq!(
        (status, suspect.crashes, suspect.attempt),
        (SuspectStatus::Watched, 1, 1)
    );
    // A second time: the task has not run since.
    assert_eq!(
        quarantine.arrived(id(1), "task", 1, 9),
        (SuspectStatus::Watched, None)
    );
    assert_eq!(quarantine.cleared(id(1)), (Some((id(1), None)), None));
    assert_eq!(quarantine.cleared(id(1)), (None, None));
}

#[test]
fn the_waiting_start_is_given_back_if_the_suspect_ends_or_is_loaded_again() {
    let mut quarantine = opened(Vec::new(), LastEnd::Inside);
    quarantine.arrived(id(1), "task", 1, 9);
    assert_eq!(quarantine.wait(id(1), "lost"), None);
    assert_eq!(quarantine.wait(id(1), "revoked"), Some("lost"));
    let (update, waited) = quarantine.cleared(id(1));
    assert_eq!((update, waited), (Some((id(1), None)), Some("revoked")));
    quarantine.gathered();
    assert_eq!(quarantine.next(0), None);
}

#[test]
fn a_pause_of_the_app_does_not_count_as_a_trial() {
    for stage in [Stage::Accused { turn: 0 }, Stage::Doubted] {
        let records = tried(3, on(stage, 3));
        let (mut quarantine, _) = Quarantine::open(records, LastEnd::Clean, 3, 9);
        // The task was running, and is loaded while the app is paused.
        quarantine.wait(id(1), ());
        quarantine.gathered();
        quarantine.begin(3_600_000);
        assert!(quarantine.end_overdue(3_600_000).is_empty());
        let is_alone = stage != Stage::Doubted;
        assert_eq!(quarantine.is_holding(), is_alone);
        assert_eq!(quarantine.next(3_600_000).is_some(), is_alone);
    }
}

#[test]
fn after_a_first_abort_the_suspects_start_in_sequence_and_other_tasks_at_once() {
    let mut quarantine = opened(Vec::new(), LastEnd::Inside);
    for task in 0..300 {
        let (status, _) = quarantine.arrived(id(task), "task", 1, 9);
        assert_eq!(status, SuspectStatus::Trial);
        quarantine.wait(id(task), task);
    }
    quarantine.gathered();
    assert!(!quarantine.is_holding());
    assert_eq!(quarantine.next(0), Some(299), "the last one first");
    assert_eq!(quarantine.next(0), None);
    let mut started = 1;
    while let Some(now_ms) = quarantine.wake_at() {
        quarantine.end_overdue(now_ms);
        while quarantine.next(now_ms).is_some() {
            started += 1;
            assert!(now_ms <= SPREAD_MS, "{started} at {now_ms}");
        }
    }
    assert_eq!(started, 300);
}

#[test]
fn a_crash_from_outside_and_a_clean_shutdown_count_against_no_task() {
    for stage in [Stage::Alone, Stage::Apart, Stage::Among { turn: 1 }] {
        let open = |last_end| {
            let records = tried(2, on(stage, 2));
            Quarantine::<()>::open(records, last_end, 3, 9)
        };
        assert_eq!(open(LastEnd::Clean).1, [(id(1), None)]);
        let (mut quarantine, updates) = open(LastEnd::Outside);
        let updated = updates[0].1.clone().unwrap();
        assert_eq!((updated.attempt, updated.crashes), (4, 2));
        let evidence = *updated.evidence().unwrap();
        assert_eq!((evidence.weight, evidence.misses), (2, 0));
        assert_eq!(
            quarantine.arrived(id(1), "task", 4, 9),
            (SuspectStatus::Trial, None)
        );
    }
    // The task was not on trial.
    let ran = |last_end| {
        let mut quarantine = opened::<()>(tried(1, on(Stage::Waiting, 1)), last_end);
        let (_, update) = quarantine.arrived(id(1), "task", 5, 9);
        update
            .unwrap()
            .1
            .map(|suspect| (suspect.attempt, suspect.crashes))
    };
    assert_eq!(ran(LastEnd::Clean), None);
    assert_eq!(ran(LastEnd::Outside), Some((5, 1)));
    assert_eq!(ran(LastEnd::Unknown), Some((5, 2)));
    assert_eq!(ran(LastEnd::Inside), Some((5, 2)));
}

#[test]
fn only_the_prime_suspect_is_tried_alone_and_only_for_a_moment() {
    let accused = |turn, weight| suspect(2, Standing::Tried(on(Stage::Among { turn }, weight)));
    let records = vec![(id(1), accused(7, 2)), (id(2), accused(3, 2))];
    let mut quarantine = opened(records, LastEnd::Inside);
    assert!(quarantine.is_holding());
    for (n, attempt) in [(2, 4), (1, 4)] {
        assert_eq!(
            quarantine.arrived(id(n), "task", attempt, 9).0,
            SuspectStatus::Trial
        );
        quarantine.wait(id(n), n);
    }
    assert_eq!(quarantine.next(5), Some(1), "the one that started last");
    assert_eq!(quarantine.next(5), None);
    let update = quarantine.started(id(1), 5).unwrap().1.unwrap();
    assert_eq!(update.attempt, 5);
    assert_eq!(update.evidence().unwrap().stage, Stage::Alone);
    quarantine.gathered();
    assert_eq!(quarantine.next(5), None);
    let until = quarantine.wake_at().unwrap();
    assert_eq!(until, 5 + ALONE_MS);
    let updates = quarantine.end_overdue(until);
    let update = updates[0].1.clone().unwrap();
    assert_eq!(update.evidence().unwrap().stage, Stage::Late);
    assert!(!quarantine.is_holding());
}

#[test]
fn a_prime_suspect_that_is_not_loaded_does_not_block_others_for_long() {
    let records = tried(2, on(Stage::Among { turn: 1 }, 2));
    let mut quarantine = opened::<()>(records.clone(), LastEnd::Inside);
    assert!(quarantine.is_holding());
    quarantine.end_overdue(GATHER_MS - 1);
    assert!(quarantine.is_holding());
    quarantine.end_overdue(GATHER_MS);
    assert!(!quarantine.is_holding());
    let mut quarantine = opened::<()>(records, LastEnd::Inside);
    quarantine.gathered();
    assert!(!quarantine.is_holding());
}

#[test]
fn only_a_crash_from_inside_proves_the_suspect_that_runs_alone() {
    let standing = |stage, last_end| {
        let before = suspect(2, Standing::Tried(on(stage, 4)));
        before.assess(last_end, 3, 9).unwrap().standing
    };
    let quarantined = Standing::Quarantined;
    assert_eq!(standing(Stage::Alone, LastEnd::Inside), quarantined);
    for stage in [
        Stage::Apart,
        Stage::Among { turn: 0 },
        Stage::Late,
        Stage::Outlived,
        Stage::Waiting,
    ] {
        assert_ne!(standing(stage, LastEnd::Inside), quarantined, "{stage:?}");
    }
    assert_ne!(standing(Stage::Alone, LastEnd::Unknown), quarantined);
    // The third trial as the prime suspect that ends with a crash.
    let third = Evidence {
        hits: 2,
        ..on(Stage::Alone, 5)
    };
    let standing = |evidence| {
        let (_, updates) = Quarantine::<()>::open(tried(5, evidence), LastEnd::Unknown, 3, 9);
        updates[0].1.clone().unwrap().standing
    };
    assert_eq!(standing(third), quarantined);
    assert_ne!(standing(Evidence { misses: 1, ..third }), quarantined);
}

#[test]
fn the_prime_suspect_waits_until_the_process_has_run_without_it() {
    let records = vec![
        (id(1), suspect(3, Standing::Tried(on(Stage::Alone, 3)))),
        (id(2), suspect(2, Standing::Tried(on(Stage::Waiting, 2)))),
    ];
    let mut quarantine = opened(records, LastEnd::Unknown);
    assert!(!quarantine.is_holding(), "all else starts");
    for n in [1, 2] {
        assert_eq!(
            quarantine.arrived(id(n), "task", 4, 9).0,
            SuspectStatus::Trial
        );
        quarantine.wait(id(n), n);
    }
    quarantine.gathered();
    assert_eq!(quarantine.next(CONTROL_MS - 1), None);
    assert_eq!(quarantine.next(CONTROL_MS), Some(1));
    let update = quarantine.started(id(1), CONTROL_MS).unwrap().1.unwrap();
    assert_eq!(update.evidence().unwrap().stage, Stage::Apart);
    assert_eq!(quarantine.next(CONTROL_MS), None);
    // A crash before that has another cause.
    let before = suspect(4, Standing::Tried(on(Stage::Doubted, 4)));
    let after = before.assess(LastEnd::Unknown, 3, 9).unwrap();
    let evidence = after.evidence().unwrap();
    assert_eq!((evidence.stage, evidence.misses), (Stage::Waiting, 1));
}

#[test]
fn a_released_task_counts_from_zero_and_a_discarded_one_fails_in_every_session() {
    let quarantined = || vec![(id(1), suspect(3, Standing::Quarantined))];
    let mut quarantine = opened::<()>(quarantined(), LastEnd::Unknown);
    assert_eq!(
        quarantine.arrived(id(1), "task", 5, 9),
        (SuspectStatus::Quarantined, None)
    );
    assert!(!quarantine.is_holding(), "no suspect is left");
    assert_eq!(quarantine.quarantined().count(), 1);
    let update = quarantine.requeue(id(1)).unwrap();
    assert_eq!(quarantine.requeue(id(1)), None);
    assert_eq!(quarantine.discard(id(1)), None);
    let released = update.1.unwrap();
    let mut quarantine = opened::<()>(vec![(id(1), released)], LastEnd::Unknown);
    assert_eq!(
        quarantine.arrived(id(1), "task", 4, 9),
        (SuspectStatus::Watched, None)
    );

    let update = opened::<()>(quarantined(), LastEnd::Unknown).discard(id(1));
    let mut quarantine = opened::<()>(vec![(id(1), update.unwrap().1.unwrap())], LastEnd::Unknown);
    assert_eq!(
        quarantine.arrived(id(1), "task", 4, 9),
        (SuspectStatus::Discarded, None)
    );
}

#[test]
fn suspects_in_a_store_of_format_1_are_converted() {
    for (standing, attempt, status) in [
        (Standing::Suspected, 4, SuspectStatus::Trial),
        (Standing::Accused, 4, SuspectStatus::Trial),
        (Standing::Alone, 5, SuspectStatus::Trial),
        (Standing::Beside, 5, SuspectStatus::Trial),
        (Standing::Quarantined, 4, SuspectStatus::Quarantined),
        (Standing::Discarded, 4, SuspectStatus::Discarded),
    ] {
        let mut quarantine = opened::<()>(vec![(id(1), suspect(2, standing))], LastEnd::Unknown);
        assert_eq!(
            quarantine.arrived(id(1), "task", attempt, 9),
            (status, None)
        );
        let crashes = quarantine.suspect(id(1)).unwrap().crashes;
        assert_eq!(crashes, attempt - 2, "{standing:?}");
    }
}
