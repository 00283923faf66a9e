//! The machines by exhaustion: all orders of arrival, each event again and late, a crash after
//! every step. A small world stands for the supervisor, the barrier and the children, and carries
//! out commands.

mod fold;
mod life;
mod policies;
mod retry;
mod revocation;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::barrier::{self, Barrier};
use super::chain::Chain;
use super::chord::Chord;
use super::effect::{ChildStart, Effect, Finish, Supervise};
use super::group::{Group, MAX_RESTARTS};
use super::task::{self, AttemptOutcome, Now, Retry, Schedule, Task};
use super::workflow::{self, ROOT, Workflow};
use super::{
    BODY, ChildProgress, Decision, Index, IndexSet, PendingCallback, Record, Report, Verdict,
};
use crate::canvas::admission::queue::Queue;
use crate::canvas::freeze::{Def, Node};
use crate::canvas::group_policy::GroupPolicy;
use crate::canvas::id::{Id, Seq};
use crate::canvas::outcome::{FailureKind, Outcome, TaskFailure, Value};
use crate::canvas::payload::Payload;
use crate::canvas::retry::RetryPolicy;
use crate::canvas::time::{Moment, Scale, Time};

fn value(n: u64) -> Value {
    Value::Inline(Payload::encode(&n).unwrap())
}

fn failure(n: u64) -> Box<TaskFailure> {
    let id = Id::from(uuid::Uuid::nil()).node(n);
    TaskFailure::new(FailureKind::Error, id, "t", 1, &n.to_string())
}

fn report(outcome: Outcome) -> Report {
    outcome.into()
}

fn all_or_settled(settled: bool) -> GroupPolicy {
    match settled {
        true => GroupPolicy::Settled,
        false => GroupPolicy::All,
    }
}

fn permutations(size: u64) -> Vec<Vec<Index>> {
    if size == 0 {
        return vec![Vec::new()];
    }
    let shorter = permutations(size - 1);
    shorter
        .iter()
        .flat_map(|order| {
            (0..size as usize).map(|at| {
                let mut order = order.clone();
                order.insert(at, size - 1);
                order
            })
        })
        .collect()
}

/// One group or chord, and how its members behave.
#[derive(Clone, Debug)]
struct Spec {
    size: u64,
    window: u64,
    settled: bool,
    /// Bit `i`: member `i` fails.
    fails: u64,
    chord: bool,
    /// The order in which members arrive, of those that are alive.
    order: Vec<Index>,
    /// The supervisor is notified of a member's exit before it receives the barrier's verdict.
    exits_first: bool,
}

impl Spec {
    /// All of them, for groups of up to `max` members.
    fn all(max: u64) -> impl Iterator<Item = Self> {
        (0..=max).flat_map(|size| {
            permutations(size).into_iter().flat_map(move |order| {
                (0..1u64 << size).flat_map(move |fails| {
                    let order = order.clone();
                    let windows: BTreeSet<u64> = [1, 2, size.max(1)].into();
                    windows.into_iter().flat_map(move |window| {
                        let order = order.clone();
                        (0..8).map(move |bits| Self {
                            size,
                            window,
                            settled: bits & 1 != 0,
                            chord: bits & 2 != 0,
                            exits_first: bits & 4 != 0,
                            fails,
                            order: order.clone(),
                        })
                    })
                })
            })
        })
    }

    fn outcome(&self, index: Index) -> Outcome {
        if self.fails & (1 << index) != 0 {
            Outcome::Failure(failure(index))
        } else {
            Outcome::Success(value(index))
        }
    }

    fn verdict(&self) -> Verdict {
        match (0..self.size).find(|index| self.fails & (1 << index) != 0) {
            Some(index) if !self.settled => Verdict::Broken {
                index,
                failure: failure(index),
            },
            _ => Verdict::Released,
        }
    }
}

/// One life of a group or chord, over the records of earlier lives.
#[derive(Debug)]
struct World<'a> {
    spec: &'a Spec,
    barrier: Barrier,
    supervisor: Box<dyn Supervise>,
    /// What each event recorded: one batch at least, so never cut.
    batches: Vec<Vec<Record>>,
    alive: BTreeSet<Index>,
    arrived_before: BTreeSet<Index>,
    spawned: BTreeMap<Index, u32>,
    bodies: u32,
    /// How often the supervisor has finished.
    reports: u32,
}

impl<'a> World<'a> {
    fn open(spec: &'a Spec, batches: Vec<Vec<Record>>) -> Self {
        let mut barrier = Barrier::new(spec.size, all_or_settled(spec.settled));
        for record in batches.iter().flatten() {
            barrier.replay(record);
        }
        let arrived: IndexSet = barrier.arrived().clone();
        let arrived_before = (0..spec.size).filter(|i| arrived.contains(*i)).collect();
        let (supervisor, effects) = if spec.chord {
            let (chord, effects) = Chord::recover(arrived, spec.window);
            (Box::new(chord) as Box<dyn Supervise>, effects)
        } else {
            let (group, effects) = Group::recover(arrived, spec.window);
            (Box::new(group) as Box<dyn Supervise>, effects)
        };
        let mut world = Self {
            spec,
            barrier,
            supervisor,
            batches,
            alive: BTreeSet::new(),
            arrived_before,
            spawned: BTreeMap::new(),
            bodies: 0,
            reports: 0,
        };
        world.supervise(effects);
        let commands = world.barrier.start();
        if let Some(verdict) = world.record(commands) {
            world.decided(verdict);
        }
        world
    }

    /// Every member arrives, in the order of the spec; after each, all
    /// earlier events come again, with another outcome.
    fn run(&mut self) {
        while let Some(index) = self.next() {
            self.arrive(index);
            self.repeat();
        }
        if self.bodies > 0 {
            let chord = &mut self.supervisor;
            let end = report(Outcome::Success(value(99)));
            let effects = chord.child_ended(BODY, end.clone());
            let finish = Effect::finish(Finish::AsLastChild(end.clone()));
            assert_eq!(effects, [finish]);
            assert!(
                chord.child_ended(BODY, end).is_empty(),
                "the body ended twice"
            );
            assert!(chord.child_exited(BODY, true).is_empty());
            self.reports += 1;
        }
    }

    fn next(&self) -> Option<Index> {
        self.spec
            .order
            .iter()
            .copied()
            .find(|index| self.alive.contains(index))
    }

    fn arrive(&mut self, index: Index) {
        let commands = self.barrier.arrive(index, report(self.spec.outcome(index)));
        let verdict = self.record(commands);
        self.alive.remove(&index);
        if self.spec.exits_first {
            self.stopped(index, false);
        }
        if let Some(verdict) = verdict {
            self.decided(verdict);
        }
        if !self.spec.exits_first {
            self.stopped(index, false);
        }
    }

    fn repeat(&mut self) {
        for index in 0..self.spec.size + 2 {
            if self.barrier.arrived().contains(index) || index >= self.spec.size {
                for again in [Outcome::Success(value(77)), Outcome::Failure(failure(77))] {
                    let commands = self.barrier.arrive(index, report(again));
                    assert!(commands.is_empty(), "{index} arrived twice: {commands:?}");
                }
                let before = (self.alive.clone(), self.spawned.clone());
                self.stopped(index, false);
                assert_eq!(before, (self.alive.clone(), self.spawned.clone()));
            }
        }
        if self.barrier.arrived().is_full() {
            let (bodies, reports) = (self.bodies, self.reports);
            for verdict in [Verdict::Released, self.spec.verdict()] {
                self.decided(verdict);
            }
            assert_eq!((bodies, reports), (self.bodies, self.reports));
        }
    }

    fn stopped(&mut self, index: Index, lost: bool) {
        let effects = self.supervisor.child_exited(index, lost);
        self.supervise(effects);
    }

    fn decided(&mut self, verdict: Verdict) {
        let effects = self.supervisor.decided(Decision::Complete(verdict));
        self.supervise(effects);
    }

    /// Stores the records of a barrier as one batch; returns the verdict that the supervisor is
    /// notified of.
    fn record(&mut self, commands: Vec<barrier::Command>) -> Option<Verdict> {
        let mut batch = Vec::new();
        let mut decided = None;
        for command in commands {
            match command {
                barrier::Command::Record(record) => batch.push(record),
                barrier::Command::Launch(_) => unreachable!("no callbacks here"),
                barrier::Command::Notify(Decision::Complete(verdict)) => decided = Some(verdict),
                early => panic!("unexpected {early:?}"),
            }
        }
        if !batch.is_empty() {
            self.batches.push(batch);
        }
        decided
    }

    fn supervise(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Start(ChildStart::Member(index)) => {
                    assert!(!self.arrived_before.contains(&index), "{index} had arrived");
                    *self.spawned.entry(index).or_default() += 1;
                    assert_eq!(self.spawned[&index], 1, "{index} twice");
                    self.alive.insert(index);
                }
                Effect::Start(ChildStart::Body) => {
                    assert!(self.barrier.arrived().is_full(), "the body came too early");
                    self.bodies += 1;
                }
                Effect::Finish(finish) => {
                    match *finish {
                        Finish::AsBarrier(verdict) if !self.spec.chord => {
                            assert_eq!(verdict, self.spec.verdict());
                        }
                        Finish::BrokenHeader(why) if self.spec.chord => {
                            assert!(
                                matches!(self.spec.verdict(), Verdict::Broken { failure, .. } if failure == why)
                            );
                        }
                        other => panic!("unexpected {other:?}"),
                    }
                    self.reports += 1;
                }
                other => panic!("unexpected {other:?}"),
            }
            let alive = self.alive.len() as u64;
            assert!(
                alive <= self.spec.window,
                "{alive} alive in {:?}",
                self.spec
            );
        }
    }

    fn check(&self) {
        let spec = self.spec;
        let records: Vec<_> = self.batches.iter().flatten().collect();
        let verdicts: Vec<_> = records
            .iter()
            .filter_map(|record| match record {
                Record::Verdict(verdict) => Some(verdict.clone()),
                _ => None,
            })
            .collect();
        assert_eq!(verdicts, [spec.verdict()], "{spec:?}");
        let mut results = BTreeMap::new();
        for record in &records {
            if let Record::Child {
                index,
                change: ChildProgress::Done(outcome),
            } = record
            {
                assert!(results.insert(*index, outcome.clone()).is_none());
            }
        }
        let expected: BTreeMap<_, _> = (0..spec.size).map(|i| (i, spec.outcome(i))).collect();
        assert_eq!(results, expected);
        let last = self.batches.last().unwrap();
        assert!(matches!(last.last(), Some(Record::Verdict(_))));
        assert!(
            spec.size == 0 || last.len() == 2,
            "the last arrival and the verdict are one batch"
        );
        let missing: BTreeSet<_> = (0..spec.size)
            .filter(|i| !self.arrived_before.contains(i))
            .collect();
        assert_eq!(
            self.spawned.keys().copied().collect::<BTreeSet<_>>(),
            missing
        );
        let body = spec.chord && spec.verdict() == Verdict::Released;
        assert_eq!(self.bodies, u32::from(body));
        assert_eq!(self.reports, 1);
    }
}

#[test]
fn every_order_of_arrival_with_doubles_and_a_crash_after_any_step_ends_in_one_verdict() {
    let mut worlds = 0;
    for spec in Spec::all(4) {
        let mut whole = World::open(&spec, Vec::new());
        whole.run();
        whole.check();
        for kept in 0..=whole.batches.len() {
            let mut again = World::open(&spec, whole.batches[..kept].to_vec());
            again.run();
            again.check();
            worlds += 1;
        }
    }
    assert!(worlds > 50_000, "{worlds}");
}

#[test]
fn five_members_arrive_in_any_order_and_crash_anywhere() {
    // The other settings change from one to the next, so that all are met.
    for (i, order) in (0_usize..).zip(permutations(5)) {
        for fails in 0..32_u64 {
            let bits = i + fails as usize;
            let spec = Spec {
                size: 5,
                window: [1, 2, 5][bits % 3],
                settled: fails.is_multiple_of(3),
                chord: bits.is_multiple_of(2),
                exits_first: i.is_multiple_of(2),
                fails,
                order: order.clone(),
            };
            let mut whole = World::open(&spec, Vec::new());
            whole.run();
            whole.check();
            for kept in 0..=whole.batches.len() {
                let mut again = World::open(&spec, whole.batches[..kept].to_vec());
                again.run();
                again.check();
            }
        }
    }
}

#[test]
fn a_second_crash_in_the_middle_of_recovery_changes_nothing() {
    for spec in Spec::all(3) {
        let mut first = World::open(&spec, Vec::new());
        first.run();
        for kept in 0..=first.batches.len() {
            // In the second life members arrive in the reverse order.
            let mut turned = spec.clone();
            turned.order.reverse();
            let mut second = World::open(&turned, first.batches[..kept].to_vec());
            second.run();
            second.check();
            for kept in kept..=second.batches.len() {
                let mut third = World::open(&spec, second.batches[..kept].to_vec());
                third.run();
                third.check();
            }
        }
    }
}

#[test]
fn a_lost_member_is_started_again_three_times_and_then_abandoned() {
    for (size, window) in [(1, 1), (3, 1), (3, 2), (3, 3)] {
        for lost in 0..size {
            for times in 1..=MAX_RESTARTS + 1 {
                let none = IndexSet::new(size);
                let (mut group, effects) = Group::recover(none.clone(), window);
                let (mut chord, same) = Chord::recover(none, window);
                assert_eq!(effects, same);
                for index in 0..lost {
                    let effects = group.child_exited(index, false);
                    assert_eq!(effects, chord.child_exited(index, false));
                }
                for time in 1..=times {
                    let effects = group.child_exited(lost, true);
                    if time <= MAX_RESTARTS {
                        assert_eq!(effects, [Effect::Restart(lost)]);
                    } else {
                        // The next member takes its room in the window.
                        let next = (lost + window < size).then(|| Effect::member(lost + window));
                        let expected = [Effect::Abandon(lost)].into_iter().chain(next);
                        assert_eq!(effects, expected.collect::<Vec<_>>());
                        assert!(group.child_exited(lost, true).is_empty(), "abandoned twice");
                    }
                    assert_eq!(effects, chord.child_exited(lost, true));
                }
            }
        }
    }
}

#[test]
fn a_lost_body_is_started_again_three_times_and_then_abandoned() {
    let (mut chord, commands) = Chord::recover(IndexSet::new(0), 1);
    assert!(commands.is_empty());
    assert!(
        chord.child_exited(BODY, true).is_empty(),
        "there was no body yet"
    );
    assert_eq!(
        chord.decided(Decision::Complete(Verdict::Released)),
        [Effect::Start(ChildStart::Body)]
    );
    for _ in 0..MAX_RESTARTS {
        assert_eq!(chord.child_exited(BODY, true), [Effect::Restart(BODY)]);
    }
    assert_eq!(chord.child_exited(BODY, true), [Effect::Abandon(BODY)]);
}

/// Runs a recorded chain to its end; returns the reports.
fn run_chain(len: Index, fails: Option<Index>, batches: &mut Vec<Vec<Record>>) -> Vec<Report> {
    let outcome = |index: Index| match fails {
        Some(at) if at == index => Outcome::Failure(failure(index)),
        _ => Outcome::Success(value(index)),
    };
    let records: Vec<_> = batches.iter().flatten().cloned().collect();
    let (mut chain, mut effects) = Chain::recover(len, Some(value(100)), value(0), &records);
    let mut reports = Vec::new();
    loop {
        let mut running = None;
        let mut batch = Vec::new();
        for effect in effects.drain(..) {
            match effect {
                Effect::Record(record) => batch.push(*record),
                Effect::Start(ChildStart::Step(index, input)) => {
                    let upstream = index.checked_sub(1).map_or(100, |before| before);
                    assert_eq!(input, Some(value(upstream)));
                    assert_eq!(index, batches.len() as u64 + u64::from(!batch.is_empty()));
                    running = Some(index);
                }
                Effect::Finish(finish) => match *finish {
                    Finish::AsLastChild(report) => {
                        assert!(batches.len() as u64 + 1 >= len, "it is the last step's");
                        reports.push(report);
                    }
                    Finish::AsStep(index, report) => {
                        assert!(
                            index + 1 < len && fails == Some(index),
                            "it is an earlier step's"
                        );
                        reports.push(report);
                    }
                    other => panic!("unexpected {other:?}"),
                },
                other => panic!("unexpected {other:?}"),
            }
        }
        if !batch.is_empty() {
            batches.push(batch);
        }
        // Reports of steps that do not run change nothing.
        for index in (0..len + 2).filter(|index| Some(*index) != running) {
            for outcome in [outcome(index), Outcome::Failure(failure(77))] {
                assert!(chain.child_ended(index, report(outcome)).is_empty());
            }
            assert!(chain.child_exited(index, true).is_empty());
        }
        let Some(index) = running else { return reports };
        assert!(chain.child_exited(index, false).is_empty());
        for _ in 0..MAX_RESTARTS {
            assert_eq!(chain.child_exited(index, true), [Effect::Restart(index)]);
        }
        effects = chain.child_ended(index, report(outcome(index)));
    }
}

#[test]
fn a_chain_passes_each_value_on_once_over_any_crash() {
    for len in 0..=5 {
        for fails in (0..len).map(Some).chain([None]) {
            let mut batches = Vec::new();
            let expected = match (fails, len) {
                (Some(at), _) => Outcome::Failure(failure(at)),
                (None, 0) => Outcome::Success(value(100)),
                (None, _) => Outcome::Success(value(len - 1)),
            };
            let reports = run_chain(len, fails, &mut batches);
            assert_eq!(reports, [report(expected.clone())]);
            for kept in 0..=batches.len() {
                let mut again = batches[..kept].to_vec();
                let reports = run_chain(len, fails, &mut again);
                assert_eq!(reports, [report(expected.clone())]);
                assert_eq!(again, batches, "finished steps are not recorded again");
            }
        }
    }
}

#[test]
fn a_lost_step_is_abandoned_after_three_restarts() {
    let (mut chain, _) = Chain::recover(2, None, value(0), []);
    for step in 0..2 {
        for _ in 0..MAX_RESTARTS {
            assert_eq!(chain.child_exited(step, true), [Effect::Restart(step)]);
        }
        assert_eq!(chain.child_exited(step, true), [Effect::Abandon(step)]);
        chain.child_ended(step, report(Outcome::Success(value(1))));
    }
}

/// What can happen to a task.
#[derive(Clone, Copy, Debug)]
enum Turn {
    Granted,
    Value,
    Fails,
    /// An earlier attempt reports.
    Stale,
    Due,
    /// A crash that leaves all that was recorded.
    Crash,
    /// A crash that loses the last batch, and all that waited for it.
    LosingCrash,
}

const TURNS: [Turn; 7] = [
    Turn::Granted,
    Turn::Value,
    Turn::Fails,
    Turn::Stale,
    Turn::Due,
    Turn::Crash,
    Turn::LosingCrash,
];

const MAX_RETRIES: u32 = 2;

fn policy() -> RetryPolicy {
    RetryPolicy {
        max_retries: MAX_RETRIES,
        default_delay: None,
        backoff: None,
        backoff_max: Duration::from_secs(60),
        jitter: false,
    }
}

/// A task's life: its records, and the attempts that ran.
#[derive(Debug, Default)]
struct TaskLog {
    records: Vec<ChildProgress>,
    runs: Vec<u32>,
    failed: u32,
    reports: Vec<Outcome>,
}

fn play(turns: &[Turn]) -> TaskLog {
    let mut log = TaskLog::default();
    let (mut task, commands) = Task::open(7, policy(), Schedule::default(), Time::both(0));
    assert_eq!(commands, [task::Command::Request]);
    let mut last = commands;
    for (now, turn) in turns.iter().enumerate() {
        let time = Time::both(now as u64);
        let now = Now { time, random: 0 };
        let attempt = log.runs.last().copied().unwrap_or(0);
        let failing = || AttemptOutcome::Failure {
            counts: false,
            failure: failure(1),
            retry: Retry::Auto,
        };
        let running = matches!(last[..], [.., task::Command::Run { .. }]);
        let commands = match turn {
            Turn::Granted => task.granted(time),
            Turn::Value => task.finished(attempt, AttemptOutcome::Value(value(1)), now),
            Turn::Fails => task.finished(attempt, failing(), now),
            Turn::Stale => {
                for stale in (0..attempt).chain([attempt + 1]) {
                    assert!(task.finished(stale, failing(), now).is_empty());
                    assert!(
                        task.finished(stale, AttemptOutcome::Value(value(7)), now)
                            .is_empty()
                    );
                }
                continue;
            }
            Turn::Due => task.due(time),
            Turn::Crash | Turn::LosingCrash if !log.reports.is_empty() => continue,
            Turn::Crash | Turn::LosingCrash => {
                if let (Turn::LosingCrash, Some(lost)) = (turn, log.records.last()) {
                    match lost {
                        // It was not run: that waits for the record.
                        ChildProgress::Started(_) if running => drop(log.runs.pop()),
                        ChildProgress::Started(_) => continue,
                        _ => log.failed -= 1,
                    }
                    log.records.pop();
                }
                let (recovered, commands) = match log.records.last() {
                    None => Task::open(7, policy(), Schedule::default(), time),
                    Some(last) => Task::recover(7, policy(), Scale::Steady, last.clone(), [], time),
                };
                task = recovered;
                let retries = match log.records.last() {
                    Some(ChildProgress::Waiting { at_ms, .. }) => {
                        let at = Moment::steady(*at_ms);
                        assert_eq!(commands, [task::Command::WakeAt(at)]);
                        log.failed
                    }
                    _ => {
                        assert_eq!(commands, [task::Command::Request]);
                        log.failed
                    }
                };
                assert!(retries <= MAX_RETRIES);
                commands
            }
        };
        for command in &commands {
            match command {
                task::Command::Record(change) => log.records.push(change.clone()),
                task::Command::Run { attempt, args } => {
                    assert_eq!(*args, None);
                    log.runs.push(*attempt);
                }
                task::Command::Report(report) => log.reports.push(report.outcome.clone()),
                task::Command::WakeAt(_) | task::Command::Request => {}
                other => panic!("unexpected {other:?}"),
            }
        }
        if matches!(turn, Turn::Fails) && !commands.is_empty() {
            log.failed += 1;
        }
        if !commands.is_empty() {
            last = commands;
        }
    }
    log
}

#[test]
fn a_tasks_attempts_rise_its_retries_are_counted_and_a_crash_uses_none() {
    let mut ended = 0;
    let mut turns = Vec::new();
    all_turns(&mut turns, 7, &mut |turns| {
        let log = play(turns);
        assert!(
            log.runs.is_sorted_by(|a, b| a < b),
            "{turns:?}: {:?}",
            log.runs
        );
        assert!(log.reports.len() <= 1, "{turns:?}");
        for change in &log.records {
            if let ChildProgress::Started(history) | ChildProgress::Waiting { past: history, .. } =
                change
            {
                assert!(history.retries <= history.attempt, "{turns:?}");
                assert!(history.retries <= MAX_RETRIES);
            }
        }
        let retried: Vec<_> = log
            .records
            .iter()
            .filter_map(|change| match change {
                ChildProgress::Waiting { past, .. } => Some(past.retries),
                _ => None,
            })
            .collect();
        let counted: Vec<_> = (1..=retried.len() as u32).collect();
        assert_eq!(retried, counted, "{turns:?}");
        match log.reports.first() {
            Some(Outcome::Failure(_)) => {
                assert_eq!(log.failed, MAX_RETRIES + 1, "{turns:?}");
            }
            Some(Outcome::Success(_)) => ended += 1,
            Some(Outcome::Revoked(_)) => panic!("nothing expires here"),
            None => assert!(log.failed <= MAX_RETRIES, "{turns:?}"),
        }
    });
    assert!(ended > 1_000);
}

#[test]
fn a_task_fails_for_good_after_its_last_retry_whatever_crashes_between() {
    use Turn::{Crash, Due, Fails, Granted};
    for crashes in 0..1u32 << 8 {
        let story = [Granted, Fails, Due, Granted, Fails, Due, Granted, Fails];
        let mut turns = Vec::new();
        for (i, turn) in story.into_iter().enumerate() {
            turns.push(turn);
            if crashes & (1 << i) != 0 {
                turns.push(Crash);
                // An attempt that was cut short starts again; a delayed one waits again.
                turns.extend(matches!(turn, Granted | Due).then_some(turn));
            }
        }
        let log = play(&turns);
        assert_eq!(log.reports, [Outcome::Failure(failure(1))], "{turns:?}");
        let cut = [0, 3, 6]
            .iter()
            .filter(|i| crashes & (1 << *i) != 0)
            .count();
        assert_eq!(log.runs.len(), 3 + cut);
    }
}

fn all_turns(turns: &mut Vec<Turn>, depth: usize, test: &mut impl FnMut(&[Turn])) {
    if depth == 0 {
        return test(turns);
    }
    for turn in TURNS {
        turns.push(turn);
        all_turns(turns, depth - 1, test);
        turns.pop();
    }
}

/// A workflow in the middle: its machine, the store, and which of its children run.
#[derive(Debug)]
struct Flow {
    machine: Workflow,
    records: Vec<Record>,
    /// The result is recorded.
    result: bool,
    /// Its end is recorded; `forgotten`: as the end of a forgotten workflow.
    ended: bool,
    forgotten: bool,
    running: BTreeSet<Index>,
    /// Over all lives: the ends of the workflow.
    ends: u32,
    /// What happened, to do it again on a copy.
    history: Vec<Happens>,
}

#[derive(Clone, Copy, Debug)]
enum Happens {
    RootEnds,
    /// A member within the root calls for its callback.
    Launches,
    Ends(Seq),
    IsForgotten,
    Crash,
}

/// The root calls for 1 and 2 when it ends, 1 for 3; 4 comes from within the root.
fn called_by(seq: Seq) -> Vec<PendingCallback> {
    let called: &[Seq] = match seq {
        ROOT => &[1, 2],
        1 => &[3],
        _ => &[],
    };
    called.iter().map(|seq| due(*seq)).collect()
}

fn due(seq: Seq) -> PendingCallback {
    PendingCallback {
        node: Node {
            seq,
            def: Def::Chain(Vec::new()),
            callbacks: None,
        },
        input: value(seq),
    }
}

impl Flow {
    fn new(history: &[Happens]) -> Self {
        let mut flow = Self {
            machine: Workflow::default(),
            records: Vec::new(),
            result: false,
            ended: false,
            forgotten: false,
            running: [ROOT].into(),
            ends: 0,
            history: Vec::new(),
        };
        for happens in history {
            flow.happens(*happens);
        }
        flow
    }

    fn is_over(&self) -> bool {
        self.ended
    }

    fn happens(&mut self, happens: Happens) {
        self.history.push(happens);
        let end = |seq| Report {
            outcome: Outcome::Success(value(seq)),
            due: called_by(seq),
        };
        let commands = match happens {
            Happens::RootEnds => {
                self.running.remove(&ROOT);
                self.machine.root_ended(end(ROOT))
            }
            Happens::Launches => {
                // The barrier records it with the member's end, and notifies the engine.
                if !self.known(4) {
                    self.records.push(Record::Due {
                        seq: 4,
                        input: value(4),
                    });
                }
                self.machine.launch(due(4))
            }
            Happens::Ends(seq) => {
                self.running.remove(&seq);
                self.machine.callback_ended(seq, end(seq))
            }
            Happens::IsForgotten => self.machine.forget(),
            Happens::Crash => {
                self.running.clear();
                if self.is_over() {
                    return;
                }
                let (machine, again) = Workflow::recover(self.result, &self.records);
                self.machine = machine;
                self.running.extend(again);
                if !self.result {
                    self.running.insert(ROOT);
                }
                return;
            }
        };
        self.perform(commands);
    }

    fn perform(&mut self, commands: Vec<workflow::Command>) {
        for command in commands {
            match command {
                workflow::Command::Record(record) => self.records.push(record),
                workflow::Command::Launch(due) => {
                    for due in due {
                        assert!(!self.known(due.node.seq), "called for twice");
                        self.records.push(Record::Due {
                            seq: due.node.seq,
                            input: due.input.clone(),
                        });
                        let commands = self.machine.launch(due.clone());
                        self.perform(commands);
                        assert!(self.machine.launch(due).is_empty(), "launched twice");
                    }
                }
                workflow::Command::Result(_) => {
                    assert!(!self.result, "a second result");
                    self.result = true;
                }
                workflow::Command::Spawn(due) => {
                    assert!(self.running.insert(due.node.seq), "it runs already");
                }
                workflow::Command::End { forgotten } => {
                    assert!(self.result && self.running.is_empty(), "{:?}", self.history);
                    self.ended = true;
                    self.forgotten = forgotten;
                    self.ends += 1;
                }
                other => panic!("unexpected {other:?}"),
            }
        }
    }

    fn known(&self, seq: Seq) -> bool {
        self.records
            .iter()
            .any(|r| matches!(r, Record::Due { seq: of, .. } if *of == seq))
    }

    /// Tries all that can happen next, doubles and crashes included.
    fn explore(history: &mut Vec<Happens>, doubles: u32, crashes: u32, over: &mut u32) {
        let flow = Self::new(history);
        if flow.is_over() {
            *over += 1;
            assert_eq!(flow.ends, 1, "{history:?}");
            let done = |seq| {
                let ended = |r: &&Record| matches!(r, Record::Child { index, change: ChildProgress::Done(_) } if *index == seq);
                flow.records.iter().filter(ended).count()
            };
            for seq in 1..=4 {
                assert_eq!(done(seq), usize::from(flow.known(seq)), "{history:?}");
            }
            assert!([1, 2, 3].into_iter().all(|seq| flow.known(seq)));
            let is_forgotten = history.iter().any(|h| matches!(h, Happens::IsForgotten));
            assert_eq!(flow.forgotten, is_forgotten, "{history:?}");
            return;
        }
        assert!(!flow.running.is_empty(), "it will never end: {history:?}");
        let mut next = |happens, doubles, crashes| {
            history.push(happens);
            Self::explore(history, doubles, crashes, over);
            history.pop();
        };
        for seq in 1..=4 {
            if flow.running.contains(&seq) {
                next(Happens::Ends(seq), doubles, crashes);
            } else if doubles > 0 {
                next(Happens::Ends(seq), doubles - 1, crashes);
            }
        }
        if flow.running.contains(&ROOT) {
            next(Happens::RootEnds, doubles, crashes);
            if !flow.known(4) {
                next(Happens::Launches, doubles, crashes);
            }
        } else if doubles > 0 {
            next(Happens::RootEnds, doubles - 1, crashes);
        }
        if doubles > 0 {
            next(Happens::IsForgotten, doubles - 1, crashes);
        }
        if flow.known(4) && doubles > 0 {
            next(Happens::Launches, doubles - 1, crashes);
        }
        if crashes > 0 {
            next(Happens::Crash, doubles, crashes - 1);
        }
    }
}

#[test]
fn a_workflow_ends_once_when_root_and_callbacks_have_in_any_interleaving() {
    let mut over = 0;
    Flow::explore(&mut Vec::new(), 2, 2, &mut over);
    assert!(over > 10_000, "{over}");
}

#[test]
fn a_lost_root_or_callback_is_started_again_three_times_and_then_abandoned() {
    let mut machine = Workflow::default();
    machine.launch(due(4));
    for index in [ROOT, 4] {
        assert!(machine.stopped(index, false).is_empty());
        for _ in 0..MAX_RESTARTS {
            assert_eq!(
                machine.stopped(index, true),
                [workflow::Command::Restart(index)]
            );
        }
        assert_eq!(
            machine.stopped(index, true),
            [workflow::Command::Abandon(index)]
        );
    }
    assert!(machine.stopped(7, true).is_empty(), "there is no child 7");
}

#[test]
fn a_queue_grants_by_priority_then_age_and_never_more_than_its_slots() {
    // Each digit: a release, or a request of priority 0 to 2.
    for (slots, story) in
        (1..=2).flat_map(|slots| (0..4u32.pow(8)).map(move |story| (slots, story)))
    {
        let mut queue = Queue::new(slots);
        let (mut free, mut waiting, mut held) = (slots, Vec::new(), 0);
        for request in 0..8 {
            match story / 4u32.pow(request) % 4 {
                3 if held == 0 => {}
                3 => {
                    // The highest priority; of equals the first that came.
                    let next = waiting
                        .iter()
                        .enumerate()
                        .max_by_key(|(i, (priority, _))| (*priority, usize::MAX - i))
                        .map(|(i, _)| i);
                    let expected = next.map(|i| waiting.remove(i).1);
                    queue.put_back();
                    assert_eq!(queue.next(), expected);
                    if expected.is_none() {
                        free += 1;
                        held -= 1;
                    }
                }
                priority => {
                    let granted = queue.request(priority as u8, request);
                    if free > 0 {
                        assert_eq!(granted, Some(request));
                        free -= 1;
                        held += 1;
                    } else {
                        assert_eq!(granted, None);
                        waiting.push((priority, request));
                    }
                }
            }
            assert!(held <= slots);
        }
    }
}
