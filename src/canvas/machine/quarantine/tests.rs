use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;

/// One task: how long it runs, and when it ends the process instead, if it is one of those.
#[derive(Clone, Copy, Debug)]
struct Task {
    lasts_ms: u64,
    kills_after_ms: Option<u64>,
}

/// How the process ends when a task ends it.
const BY_TASK: [LastEnd; 2] = [LastEnd::Inside, LastEnd::Unknown];

/// A store, what runs over it, and what becomes of both when the process ends.
struct World {
    tasks: Vec<Task>,
    /// How many run at once.
    slots: usize,
    limit: u32,
    /// What can be told of an end that a task has caused.
    by_task: LastEnd,
    now_ms: u64,
    /// The latest attempt of each that has not ended.
    attempts: BTreeMap<usize, u32>,
    ended: BTreeSet<usize>,
    records: BTreeMap<Id, Suspect>,
    last_end: LastEnd,
    /// In how many crashes each has been running.
    crashes: BTreeMap<usize, u32>,
    quarantined: BTreeSet<usize>,
    /// How long the last of those that were running has had to wait in a life, and how long a
    /// task that is new.
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

    fn write(&mut self, note: Option<SuspectUpdate>) {
        match note {
            Some((id, Some(suspect))) => drop(self.records.insert(id, suspect)),
            Some((id, None)) => drop(self.records.remove(&id)),
            None => {}
        }
    }

    /// One life of the process: until nothing is left to run, or it ends before, at the latest
    /// after `limit_ms`. Says whether it came to the end of its work.
    fn live(&mut self, limit_ms: u64) -> bool {
        let opened_ms = self.now_ms;
        let deadline = opened_ms.saturating_add(limit_ms);
        let records = self.records.clone();
        let (mut court, notes) = Quarantine::open(records, self.last_end, self.limit, opened_ms);
        for note in notes {
            self.write(Some(note));
        }
        court.begin(opened_ms);
        let mut ready: BTreeSet<usize> = (0..self.tasks.len()).collect();
        ready.retain(|task| !self.ended.contains(task));
        let mut to_try = BTreeSet::new();
        for (task, attempt) in self.attempts.clone() {
            let (arrival, note) = court.arrived(id(task), "task", attempt, opened_ms);
            self.write(note);
            match arrival {
                SuspectStatus::Free | SuspectStatus::Watched => {}
                SuspectStatus::Trial => {
                    ready.remove(&task);
                    to_try.insert(task);
                    court.wait(id(task), task);
                }
                SuspectStatus::Quarantined | SuspectStatus::Discarded => {
                    ready.remove(&task);
                    self.quarantined.insert(task);
                }
            }
        }
        court.gathered();
        let mut running: BTreeMap<usize, u64> = BTreeMap::new();
        loop {
            for note in court.end_overdue(self.now_ms) {
                self.write(Some(note));
            }
            while let Some(task) = court.next(self.now_ms) {
                // (Those beside it have slots of their own.)
                self.write(court.started(id(task), self.now_ms));
                *self.attempts.entry(task).or_default() += 1;
                running.insert(task, self.now_ms);
                to_try.remove(&task);
                let waited_ms = self.now_ms - opened_ms;
                self.waited_ms = self.waited_ms.max(waited_ms);
            }
            if court.is_holding() {
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
                .chain(court.wake_at())
                .min()
            else {
                assert!(to_try.is_empty(), "{to_try:?} are forgotten");
                self.last_end = LastEnd::Clean;
                return true;
            };
            if court.is_holding() {
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
                    self.write(court.cleared(id(task)).0);
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

    /// Lives on until all is done; says how many crashes that took.
    fn live_on(&mut self, most: u32) -> u32 {
        for crashes in 0..=most {
            if self.live(u64::MAX / 2) {
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

/// They run for longer than any test lasts.
fn long_ones(count: usize) -> Vec<Task> {
    let task = Task {
        lasts_ms: 10_000_000,
        kills_after_ms: None,
    };
    vec![task; count]
}

proptest! {
    /// Whatever runs beside them, and whatever is known of the ends.
    #[test]
    fn who_ends_the_process_is_quarantined_and_nobody_else(
        tasks in (innocents(1..1_000_000u64), killers(0..900u64))
            .prop_flat_map(|(one, other)| mixed(one, other)),
        slots in 1..50usize,
        limit in 3..6u32,
        by_task in proptest::sample::select(&BY_TASK[..]),
    ) {
        let mut world = World::new(tasks, slots, limit);
        world.by_task = by_task;
        let killers = world.killers();
        world.live_on(killers.len() as u32 * (2 * limit + 30) + 1);
        prop_assert_eq!(&world.quarantined, &killers);
        prop_assert_eq!(world.ended.len(), world.tasks.len() - killers.len());
        prop_assert!(world.waited_ms <= BOUND_MS, "{}", world.waited_ms);
    }

    /// Those that strike at once, beside others that last.
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
        let crashes = world.live_on(100);
        prop_assert_eq!(&world.quarantined, &world.killers());
        let enough = match by_task {
            LastEnd::Inside => limit,
            _ => 2 * limit,
        };
        prop_assert_eq!(crashes, enough);
    }

    /// However often, and at whatever times.
    #[test]
    fn kills_from_outside_quarantine_nobody(
        tasks in 1..60usize,
        kills in proptest::collection::vec(0..60_000u64, 40),
        slow in 1..60u64,
    ) {
        let mut world = World::new(long_ones(tasks), 300, 3);
        for after_ms in kills {
            prop_assert!(!world.live(after_ms / slow));
        }
        world.live_on(0);
        prop_assert_eq!(world.quarantined, BTreeSet::new());
        prop_assert!(world.waited_ms <= BOUND_MS);
        prop_assert!(world.held_ms <= ALONE_MS << (2 * MAX_LATE));
    }
}

#[test]
fn a_process_that_is_killed_every_half_minute_never_keeps_new_work_waiting() {
    let mut world = World::new(long_ones(300), 300, 3);
    for _ in 0..20 {
        assert!(!world.live(30_000));
    }
    assert_eq!(world.held_ms, 0);
    assert!(world.waited_ms <= BOUND_MS);
    assert!(world.waited_ms > SPREAD_MS / 2, "nobody has waited");
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
    let (mut court, _) = Quarantine::open(records, last_end, 3, 9);
    court.begin(0);
    court
}

#[test]
fn after_a_first_kill_nothing_has_to_wait() {
    let mut court = opened::<()>(Vec::new(), LastEnd::Unknown);
    assert!(!court.is_holding());
    let (arrival, note) = court.arrived(id(1), "task", 1, 9);
    let suspect = note.unwrap().1.unwrap();
    assert_eq!(
        (arrival, suspect.crashes, suspect.attempt),
        (SuspectStatus::Watched, 1, 1)
    );
    // A second time: it has not run since.
    assert_eq!(
        court.arrived(id(1), "task", 1, 9),
        (SuspectStatus::Watched, None)
    );
    assert_eq!(court.cleared(id(1)), (Some((id(1), None)), None));
    assert_eq!(court.cleared(id(1)), (None, None));
}

#[test]
fn what_a_suspect_waits_with_is_given_back_if_it_ends_or_comes_in_once_more() {
    let mut court = opened(Vec::new(), LastEnd::Inside);
    court.arrived(id(1), "task", 1, 9);
    assert_eq!(court.wait(id(1), "lost"), None);
    assert_eq!(court.wait(id(1), "revoked"), Some("lost"));
    let (note, waited) = court.cleared(id(1));
    assert_eq!((note, waited), (Some((id(1), None)), Some("revoked")));
    court.gathered();
    assert_eq!(court.next(0), None);
}

#[test]
fn the_time_for_which_an_app_is_paused_is_none_in_which_a_suspect_is_tried() {
    for stage in [Stage::Accused { turn: 0 }, Stage::Doubted] {
        let records = tried(3, on(stage, 3));
        let (mut court, _) = Quarantine::open(records, LastEnd::Clean, 3, 9);
        // It was running, and comes in while the app is paused.
        court.wait(id(1), ());
        court.gathered();
        court.begin(3_600_000);
        assert!(court.end_overdue(3_600_000).is_empty());
        let is_alone = stage != Stage::Doubted;
        assert_eq!(court.is_holding(), is_alone);
        assert_eq!(court.next(3_600_000).is_some(), is_alone);
    }
}

#[test]
fn after_a_first_abort_the_suspects_start_one_after_the_other_and_all_else_at_once() {
    let mut court = opened(Vec::new(), LastEnd::Inside);
    for task in 0..300 {
        let (arrival, _) = court.arrived(id(task), "task", 1, 9);
        assert_eq!(arrival, SuspectStatus::Trial);
        court.wait(id(task), task);
    }
    court.gathered();
    assert!(!court.is_holding());
    assert_eq!(court.next(0), Some(299), "the last one first");
    assert_eq!(court.next(0), None);
    let mut started = 1;
    while let Some(now_ms) = court.wake_at() {
        court.end_overdue(now_ms);
        while court.next(now_ms).is_some() {
            started += 1;
            assert!(now_ms <= SPREAD_MS, "{started} at {now_ms}");
        }
    }
    assert_eq!(started, 300);
}

#[test]
fn an_end_from_outside_and_a_clean_stop_are_no_fault() {
    for stage in [Stage::Alone, Stage::Apart, Stage::Among { turn: 1 }] {
        let open = |last_end| {
            let records = tried(2, on(stage, 2));
            Quarantine::<()>::open(records, last_end, 3, 9)
        };
        assert_eq!(open(LastEnd::Clean).1, [(id(1), None)]);
        let (mut court, notes) = open(LastEnd::Outside);
        let noted = notes[0].1.clone().unwrap();
        assert_eq!((noted.attempt, noted.crashes), (4, 2));
        let evidence = *noted.evidence().unwrap();
        assert_eq!((evidence.weight, evidence.misses), (2, 0));
        assert_eq!(
            court.arrived(id(1), "task", 4, 9),
            (SuspectStatus::Trial, None)
        );
    }
    // It was not tried.
    let ran = |last_end| {
        let mut court = opened::<()>(tried(1, on(Stage::Waiting, 1)), last_end);
        let (_, note) = court.arrived(id(1), "task", 5, 9);
        note.unwrap()
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
    let mut court = opened(records, LastEnd::Inside);
    assert!(court.is_holding());
    for (n, attempt) in [(2, 4), (1, 4)] {
        assert_eq!(
            court.arrived(id(n), "task", attempt, 9).0,
            SuspectStatus::Trial
        );
        court.wait(id(n), n);
    }
    assert_eq!(court.next(5), Some(1), "the one that started last");
    assert_eq!(court.next(5), None);
    let note = court.started(id(1), 5).unwrap().1.unwrap();
    assert_eq!(note.attempt, 5);
    assert_eq!(note.evidence().unwrap().stage, Stage::Alone);
    court.gathered();
    assert_eq!(court.next(5), None);
    let until = court.wake_at().unwrap();
    assert_eq!(until, 5 + ALONE_MS);
    let notes = court.end_overdue(until);
    let note = notes[0].1.clone().unwrap();
    assert_eq!(note.evidence().unwrap().stage, Stage::Late);
    assert!(!court.is_holding());
}

#[test]
fn a_prime_suspect_that_does_not_come_in_holds_nobody_for_long() {
    let records = tried(2, on(Stage::Among { turn: 1 }, 2));
    let mut court = opened::<()>(records.clone(), LastEnd::Inside);
    assert!(court.is_holding());
    court.end_overdue(GATHER_MS - 1);
    assert!(court.is_holding());
    court.end_overdue(GATHER_MS);
    assert!(!court.is_holding());
    let mut court = opened::<()>(records, LastEnd::Inside);
    court.gathered();
    assert!(!court.is_holding());
}

#[test]
fn an_end_from_inside_proves_the_one_that_is_alone_and_any_other_end_does_not() {
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
    // The third trial as the prime suspect that ended the process.
    let third = Evidence {
        hits: 2,
        ..on(Stage::Alone, 5)
    };
    let standing = |evidence| {
        let (_, notes) = Quarantine::<()>::open(tried(5, evidence), LastEnd::Unknown, 3, 9);
        notes[0].1.clone().unwrap().standing
    };
    assert_eq!(standing(third), quarantined);
    assert_ne!(standing(Evidence { misses: 1, ..third }), quarantined);
}

#[test]
fn the_prime_suspect_is_kept_back_until_the_process_has_lived_without_it() {
    let records = vec![
        (id(1), suspect(3, Standing::Tried(on(Stage::Alone, 3)))),
        (id(2), suspect(2, Standing::Tried(on(Stage::Waiting, 2)))),
    ];
    let mut court = opened(records, LastEnd::Unknown);
    assert!(!court.is_holding(), "all else starts");
    for n in [1, 2] {
        assert_eq!(court.arrived(id(n), "task", 4, 9).0, SuspectStatus::Trial);
        court.wait(id(n), n);
    }
    court.gathered();
    assert_eq!(court.next(CONTROL_MS - 1), None);
    assert_eq!(court.next(CONTROL_MS), Some(1));
    let note = court.started(id(1), CONTROL_MS).unwrap().1.unwrap();
    assert_eq!(note.evidence().unwrap().stage, Stage::Apart);
    assert_eq!(court.next(CONTROL_MS), None);
    // The process ends before that: there is another cause.
    let before = suspect(4, Standing::Tried(on(Stage::Doubted, 4)));
    let after = before.assess(LastEnd::Unknown, 3, 9).unwrap();
    let evidence = after.evidence().unwrap();
    assert_eq!((evidence.stage, evidence.misses), (Stage::Waiting, 1));
}

#[test]
fn who_is_released_counts_from_zero_and_who_is_discarded_fails_in_any_life() {
    let quarantined = || vec![(id(1), suspect(3, Standing::Quarantined))];
    let mut court = opened::<()>(quarantined(), LastEnd::Unknown);
    assert_eq!(
        court.arrived(id(1), "task", 5, 9),
        (SuspectStatus::Quarantined, None)
    );
    assert!(!court.is_holding(), "nobody is left to be tried");
    assert_eq!(court.quarantined().count(), 1);
    let note = court.requeue(id(1)).unwrap();
    assert_eq!(court.requeue(id(1)), None);
    assert_eq!(court.discard(id(1)), None);
    let released = note.1.unwrap();
    let mut court = opened::<()>(vec![(id(1), released)], LastEnd::Unknown);
    assert_eq!(
        court.arrived(id(1), "task", 4, 9),
        (SuspectStatus::Watched, None)
    );

    let note = opened::<()>(quarantined(), LastEnd::Unknown).discard(id(1));
    let mut court = opened::<()>(vec![(id(1), note.unwrap().1.unwrap())], LastEnd::Unknown);
    assert_eq!(
        court.arrived(id(1), "task", 4, 9),
        (SuspectStatus::Discarded, None)
    );
}

#[test]
fn what_a_store_of_format_1_says_of_suspects_is_understood() {
    for (standing, attempt, arrival) in [
        (Standing::Suspected, 4, SuspectStatus::Trial),
        (Standing::Accused, 4, SuspectStatus::Trial),
        (Standing::Alone, 5, SuspectStatus::Trial),
        (Standing::Beside, 5, SuspectStatus::Trial),
        (Standing::Quarantined, 4, SuspectStatus::Quarantined),
        (Standing::Discarded, 4, SuspectStatus::Discarded),
    ] {
        let mut court = opened::<()>(vec![(id(1), suspect(2, standing))], LastEnd::Unknown);
        assert_eq!(court.arrived(id(1), "task", attempt, 9), (arrival, None));
        let crashes = court.suspect(id(1)).unwrap().crashes;
        assert_eq!(crashes, attempt - 2, "{standing:?}");
    }
}
