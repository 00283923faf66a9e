use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;

/// One task: how long it runs, and when it ends the process instead, if it is one of those.
#[derive(Clone, Copy, Debug)]
struct Task {
    lasts_ms: u64,
    kills_after_ms: Option<u64>,
}

/// A store, what runs over it, and what becomes of both when the process ends.
struct World {
    tasks: Vec<Task>,
    /// How many run at once.
    slots: usize,
    limit: u32,
    now_ms: u64,
    /// The latest attempt of each that has not ended.
    attempts: BTreeMap<usize, u32>,
    ended: BTreeSet<usize>,
    records: BTreeMap<Id, Suspect>,
    last_end: LastEnd,
    /// In how many crashes each has been running.
    crashes: BTreeMap<usize, u32>,
    quarantined: BTreeSet<usize>,
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
            now_ms: 1_000,
            attempts: BTreeMap::new(),
            ended: BTreeSet::new(),
            records: BTreeMap::new(),
            last_end: LastEnd::Clean,
            crashes: BTreeMap::new(),
            quarantined: BTreeSet::new(),
        }
    }

    fn write(&mut self, note: Option<Note>) {
        match note {
            Some((id, Some(suspect))) => drop(self.records.insert(id, suspect)),
            Some((id, None)) => drop(self.records.remove(&id)),
            None => {}
        }
    }

    /// One life of the process: until nothing is left to run, or it ends before, at the latest
    /// after `limit_ms`. Says whether it came to the end of its work.
    fn live(&mut self, limit_ms: u64) -> bool {
        let deadline = self.now_ms + limit_ms;
        let records = std::mem::take(&mut self.records);
        let (mut court, notes) =
            Quarantine::open(records.clone(), self.last_end, self.limit, self.now_ms);
        self.records = records;
        for note in notes {
            self.write(Some(note));
        }
        let mut ready: BTreeSet<usize> = (0..self.tasks.len()).collect();
        ready.retain(|task| !self.ended.contains(task));
        for (task, attempt) in self.attempts.clone() {
            let (arrival, note) = court.arrived(id(task), "task", attempt, self.now_ms);
            self.write(note);
            match arrival {
                Arrival::Free | Arrival::Watched => {}
                Arrival::Trial => {
                    ready.remove(&task);
                    court.wait(id(task), task);
                }
                Arrival::Quarantined | Arrival::Discarded => {
                    ready.remove(&task);
                    self.quarantined.insert(task);
                }
            }
        }
        court.gathered();
        let mut running: BTreeMap<usize, u64> = BTreeMap::new();
        loop {
            let free = running.len() < self.slots;
            if let Some((task, _)) = court.next(self.now_ms, |_| free) {
                self.write(court.started(id(task)));
                *self.attempts.entry(task).or_default() += 1;
                running.insert(task, self.now_ms);
            }
            if !court.holds() {
                ready.extend(court.rest());
                while running.len() < self.slots
                    && let Some(task) = ready.pop_first()
                {
                    *self.attempts.entry(task).or_default() += 1;
                    running.insert(task, self.now_ms);
                }
            }
            let ends = |task: usize, since: u64, tasks: &[Task]| {
                let Task {
                    lasts_ms,
                    kills_after_ms,
                } = tasks[task];
                since + kills_after_ms.unwrap_or(lasts_ms)
            };
            let next = running.iter().map(|(task, since)| {
                let at = ends(*task, *since, &self.tasks);
                (at, self.tasks[*task].kills_after_ms.is_none(), *task)
            });
            let next = next.min();
            let over = court.trial().map(|(_, until_ms)| until_ms);
            let Some(now) = next.map(|next| next.0).into_iter().chain(over).min() else {
                self.last_end = LastEnd::Clean;
                return true;
            };
            if now > deadline {
                self.now_ms = deadline;
                self.crash(&running);
                return false;
            }
            self.now_ms = now;
            match next {
                Some((at, true, task)) if at == now => {
                    running.remove(&task);
                    self.attempts.remove(&task);
                    self.ended.insert(task);
                    self.write(court.cleared(id(task)));
                }
                Some((at, false, _)) if at == now => {
                    self.crash(&running);
                    return false;
                }
                _ => {
                    let (due, _) = court.trial().expect("nothing else is due");
                    self.write(court.outlived(due));
                }
            }
        }
    }

    fn crash(&mut self, running: &BTreeMap<usize, u64>) {
        self.last_end = LastEnd::Crash;
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
        panic!("it never ends: {:?} {:?}", self.tasks, self.records);
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

proptest! {
    /// Whatever runs beside them, and however late they strike.
    #[test]
    fn who_ends_the_process_is_quarantined_and_nobody_else(
        tasks in (innocents(1..1_000_000u64), killers(0..60_000u64))
            .prop_flat_map(|(one, other)| mixed(one, other)),
        slots in 1..50usize,
        limit in 2..6u32,
    ) {
        let mut world = World::new(tasks, slots, limit);
        let killers = world.killers();
        world.live_on(killers.len() as u32 * (limit + 12) + 1);
        prop_assert_eq!(&world.quarantined, &killers);
        prop_assert_eq!(world.ended.len(), world.tasks.len() - killers.len());
    }

    /// Those that strike within their trial, beside others that end within theirs.
    #[test]
    fn it_takes_exactly_as_many_crashes_as_allowed(
        tasks in (innocents(1..100u64), killers(0..100u64))
            .prop_flat_map(|(one, other)| mixed(one, other)),
        slots in 1..50usize,
        limit in 2..6u32,
    ) {
        let mut world = World::new(tasks, slots, limit);
        let killers = world.killers();
        world.live_on(killers.len() as u32 * limit);
        prop_assert_eq!(&world.quarantined, &killers);
        for killer in killers {
            prop_assert_eq!(world.crashes[&killer], limit);
        }
    }

    /// One that outlives its trial is on nobody's list, however often somebody kills the process.
    #[test]
    fn kills_from_outside_quarantine_nobody_who_has_outlived_his_trial(
        lasts_ms in proptest::collection::vec(1_000_000..2_000_000u64, 1..40),
        kills in 1..4u32,
    ) {
        let tasks = lasts_ms.iter().map(|lasts_ms| Task { lasts_ms: *lasts_ms, kills_after_ms: None });
        let mut world = World::new(tasks.collect(), 50, 3);
        for _ in 0..kills {
            // Longer than all trials of all of them, made longer as often as there are kills.
            prop_assert!(!world.live(700_000));
        }
        world.live_on(0);
        prop_assert_eq!(world.quarantined, BTreeSet::new());
    }
}

fn one(standing: Standing, crashes: u32) -> Vec<(Id, Suspect)> {
    let name = "task".to_owned();
    vec![(
        id(1),
        Suspect {
            name,
            attempt: 4,
            crashes,
            since_ms: 7,
            standing,
        },
    )]
}

#[test]
fn after_the_first_crash_nothing_has_to_wait() {
    let (mut court, notes) = Quarantine::<()>::open([], LastEnd::Crash, 3, 9);
    assert!(notes.is_empty() && !court.holds());
    let (arrival, note) = court.arrived(id(1), "task", 1, 9);
    let suspect = note.unwrap().1.unwrap();
    assert_eq!(
        (arrival, suspect.crashes, suspect.attempt),
        (Arrival::Watched, 1, 1)
    );
    // A second time: it has not run since.
    assert_eq!(court.arrived(id(1), "task", 1, 9), (Arrival::Watched, None));
    assert_eq!(court.cleared(id(1)), Some((id(1), None)));
    assert_eq!(court.cleared(id(1)), None);
}

#[test]
fn an_outage_and_a_clean_stop_are_no_fault() {
    for standing in [Standing::Alone, Standing::Beside] {
        let (court, notes) = Quarantine::<()>::open(one(standing, 2), LastEnd::Clean, 3, 9);
        assert_eq!(notes, [(id(1), None)]);
        assert!(!court.holds());
        let (mut court, notes) = Quarantine::<()>::open(one(standing, 2), LastEnd::Outage, 3, 9);
        let noted = notes[0].1.clone().unwrap();
        assert_eq!(
            (noted.attempt, noted.crashes, noted.standing),
            (5, 2, Standing::Suspected)
        );
        assert_eq!(court.arrived(id(1), "task", 5, 9), (Arrival::Trial, None));
    }
    // It ran beside others.
    let ran = |last_end| {
        let records = one(Standing::Suspected, 1);
        let (mut court, _) = Quarantine::<()>::open(records, last_end, 3, 9);
        let (_, note) = court.arrived(id(1), "task", 5, 9);
        note.unwrap()
            .1
            .map(|suspect| (suspect.attempt, suspect.crashes))
    };
    assert_eq!(ran(LastEnd::Clean), None);
    assert_eq!(ran(LastEnd::Outage), Some((5, 1)));
    assert_eq!(ran(LastEnd::Crash), Some((5, 2)));
}

#[test]
fn only_who_was_alone_is_quarantined_and_who_was_not_is_tried_first() {
    let alone = one(Standing::Alone, 2);
    let (mut court, _) = Quarantine::<()>::open(alone, LastEnd::Crash, 3, 9);
    assert_eq!(
        court.arrived(id(1), "task", 5, 9),
        (Arrival::Quarantined, None)
    );
    assert!(!court.holds(), "nobody is left to be tried");

    let beside = one(Standing::Beside, 2);
    let (mut court, notes) = Quarantine::open(beside, LastEnd::Crash, 3, 9);
    assert_eq!(notes[0].1.as_ref().unwrap().crashes, 3);
    assert_eq!(court.arrived(id(1), "task", 5, 9), (Arrival::Trial, None));
    court.suspects.insert(
        id(2),
        Suspect {
            standing: Standing::Suspected,
            ..court.suspects[&id(1)].clone()
        },
    );
    court.wait(id(2), 2);
    court.wait(id(1), 1);
    court.gathered();
    assert_eq!(court.next(0, |_| true).unwrap().0, 1);
    assert_eq!(court.next(0, |_| true), None, "one at a time");
}

#[test]
fn who_is_released_counts_from_zero_and_who_is_discarded_fails_in_any_life() {
    let open = |records| Quarantine::<()>::open(records, LastEnd::Crash, 3, 9).0;
    let mut court = open(one(Standing::Quarantined, 3));
    assert_eq!(court.quarantined().count(), 1);
    let note = court.requeue(id(1)).unwrap();
    assert_eq!(court.requeue(id(1)), None);
    assert_eq!(court.discard(id(1)), None);
    let suspect = note.1.unwrap();
    let mut court = open(vec![(id(1), suspect)]);
    assert_eq!(court.arrived(id(1), "task", 4, 9), (Arrival::Watched, None));

    let note = open(one(Standing::Quarantined, 3)).discard(id(1)).unwrap();
    let mut court = open(vec![(id(1), note.1.unwrap())]);
    assert_eq!(
        court.arrived(id(1), "task", 4, 9),
        (Arrival::Discarded, None)
    );
}

#[test]
fn who_cannot_be_tried_runs_with_the_others() {
    let (mut court, _) = Quarantine::open(one(Standing::Suspected, 2), LastEnd::Crash, 3, 9);
    court.wait(id(1), 1);
    court.gathered();
    assert_eq!(court.next(0, |_| false), None);
    assert!(!court.holds());
    assert_eq!(court.rest(), [1]);
}
