//! The fold by exhaustion: all orders, its runs ending early, late and in between, each event again,
//! a crash after every step.

use super::*;
use crate::canvas::Order;
use crate::canvas::machine::AttemptHistory;
use crate::canvas::machine::fold::{Fold, Intake};
use crate::canvas::machine::fold_run::{Run, is_run, run_index};

#[derive(Clone, Debug)]
struct Spec {
    order: Order,
    size: u64,
    window: u64,
    settled: bool,
    /// Bit `i`: member `i` fails.
    fails: u64,
    /// The function fails at this member.
    trips_at: Option<Index>,
    arrivals: Vec<Index>,
    pace: Pace,
}

/// When a run ends.
#[derive(Clone, Copy, Debug)]
enum Pace {
    Early,
    Late,
    Alternating,
}

impl Spec {
    fn all(max: u64) -> impl Iterator<Item = Self> {
        (0..=max).flat_map(|size| {
            permutations(size).into_iter().flat_map(move |arrivals| {
                (0..1u64 << size).flat_map(move |fails| {
                    let arrivals = arrivals.clone();
                    let windows: BTreeSet<u64> = [1, 2, size.max(1)].into();
                    windows.into_iter().flat_map(move |window| {
                        let arrivals = arrivals.clone();
                        (0..12).map(move |bits| Self {
                            order: [Order::Members, Order::Arrivals][bits % 2],
                            settled: bits / 2 % 2 == 1,
                            pace: [Pace::Early, Pace::Late, Pace::Alternating][bits / 4],
                            size,
                            window,
                            fails,
                            // (It trips in a third of them.)
                            trips_at: Some(fails).filter(|at| (*at + window).is_multiple_of(3)),
                            arrivals: arrivals.clone(),
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

    fn lowest_failed(&self) -> Option<Index> {
        (0..self.size).find(|index| !self.settled && self.fails & (1 << index) != 0)
    }

    fn trips(&self) -> Option<Index> {
        self.trips_at.filter(|at| *at < self.size)
    }
}

/// One life of a fold, over what earlier lives left on record.
struct World<'a> {
    spec: &'a Spec,
    barrier: Barrier,
    fold: Fold,
    batches: Vec<Vec<Record>>,
    alive: BTreeSet<Index>,
    run: Option<Run>,
    folded: u64,
    steps: usize,
    end: Option<Finish>,
}

fn list(items: &[u64]) -> Value {
    Value::Inline(Payload::encode(items).unwrap())
}

fn items(acc: &Value) -> Vec<u64> {
    match acc {
        Value::Inline(payload) => payload.decode().unwrap(),
        other => panic!("{other:?}"),
    }
}

/// Which member it is of: all values and failures say so.
fn member_of(outcome: &Outcome) -> u64 {
    match outcome {
        Outcome::Success(Value::Inline(payload)) => payload.decode().unwrap(),
        Outcome::Failure(failure) => failure.message.parse().unwrap(),
        other => panic!("{other:?}"),
    }
}

/// The run that is under way.
fn current(fold: &Fold) -> Option<Run> {
    let run = (0..=64).find_map(|folded| fold.running_child(run_index(folded)))?;
    match run {
        ChildStart::Run(run, _) => Some(*run),
        other => panic!("{other:?}"),
    }
}

impl<'a> World<'a> {
    fn open(spec: &'a Spec, batches: Vec<Vec<Record>>) -> Self {
        let mut barrier = Barrier::new(spec.size, all_or_settled(spec.settled));
        let mut intake = Intake::new(spec.order, spec.settled, spec.size, list(&[]));
        let mut folded = 0;
        for record in batches.iter().flatten() {
            barrier.replay(record);
            intake.replay(record.clone());
            if let Record::Folded { folded: now, .. } = record {
                folded = *now;
            }
        }
        let (fold, commands) = Fold::recover(intake, spec.window);
        let mut world = Self {
            spec,
            barrier,
            fold,
            batches,
            alive: BTreeSet::new(),
            run: None,
            folded,
            steps: 0,
            end: None,
        };
        world.perform(commands);
        let commands = world.barrier.start();
        world.notify(commands);
        world
    }

    fn run_to_the_end(mut self) -> Self {
        while self.end.is_none() {
            self.steps += 1;
            let arrives = self.spec.arrivals.iter().find(|i| self.alive.contains(i));
            let arrives = arrives.copied();
            let run_first = match self.spec.pace {
                Pace::Early => true,
                Pace::Late => false,
                Pace::Alternating => self.steps.is_multiple_of(2),
            };
            match (arrives, self.run.is_some()) {
                (_, true) if run_first => self.end_run(),
                (Some(index), _) => self.arrive(index),
                (None, true) => self.end_run(),
                (None, false) => panic!("stuck: {:?} {:?}", self.spec, self.fold),
            }
        }
        self.repeat();
        self
    }

    fn arrive(&mut self, index: Index) {
        self.alive.remove(&index);
        let commands = self.barrier.arrive(index, report(self.spec.outcome(index)));
        self.notify(commands);
        let again = self.fold.member_arrived(index, Outcome::Success(value(77)));
        assert_eq!(again, [], "{index} arrived twice");
        let commands = self.fold.child_exited(index, false);
        self.perform(commands);
        assert_eq!(self.fold.child_exited(index, true), []);
    }

    /// Carries out the commands of the barrier: each outcome goes to the fold, then the verdict.
    fn notify(&mut self, commands: Vec<barrier::Command>) {
        let mut batch = Vec::new();
        let mut arrived = Vec::new();
        for command in commands {
            match command {
                barrier::Command::Record(record) => {
                    batch.push(record.clone());
                    if let Record::Child {
                        index,
                        change: ChildProgress::Done(outcome),
                    } = record
                    {
                        arrived.push((index, outcome));
                    }
                }
                barrier::Command::Launch(_) => unreachable!("no callbacks here"),
                barrier::Command::RevokeRest => unreachable!("all members are waited for"),
                barrier::Command::Notify(decision) => {
                    self.batches.push(std::mem::take(&mut batch));
                    for (index, outcome) in arrived.drain(..) {
                        let commands = self.fold.member_arrived(index, outcome);
                        self.perform(commands);
                    }
                    let commands = self.fold.decided(decision.clone());
                    self.perform(commands);
                    assert_eq!(self.fold.decided(decision), []);
                }
            }
        }
        self.batches.push(batch);
        for (index, outcome) in arrived {
            let commands = self.fold.member_arrived(index, outcome);
            self.perform(commands);
        }
    }

    /// The function has been called with all of its run.
    fn end_run(&mut self) {
        let run = self.run.take().unwrap();
        let mut acc = items(&run.acc);
        let mut end = None;
        for outcome in &run.outcomes {
            let member = member_of(outcome);
            if self.spec.trips() == Some(member) {
                end = Some(Outcome::Failure(failure(1_000)));
                break;
            }
            acc.push(member);
        }
        let end = report(end.unwrap_or(Outcome::Success(list(&acc))));
        let index = run_index(run.first);
        assert!(is_run(index));
        let commands = self.fold.child_ended(index, end.clone());
        self.perform(commands);
        // A late report of this run is not taken for that of the next one.
        assert_eq!(self.fold.child_ended(index, end), []);
        assert_eq!(self.fold.child_exited(index, false), []);
    }

    fn perform(&mut self, effects: Vec<Effect>) {
        let mut batch = Vec::new();
        for effect in effects {
            assert!(self.end.is_none(), "nothing follows the end: {effect:?}");
            match effect {
                Effect::Start(ChildStart::Member(index)) => {
                    assert!(!self.barrier.arrived().contains(index));
                    assert!(self.alive.insert(index), "{index} twice");
                }
                Effect::Start(ChildStart::Run(run, _)) => {
                    assert!(self.run.is_none(), "two runs at once");
                    assert!(!run.outcomes.is_empty());
                    assert_eq!(run.first, self.folded);
                    assert_eq!(items(&run.acc).len() as u64, run.first);
                    assert_eq!(current(&self.fold).as_ref(), Some(&*run));
                    self.run = Some(*run);
                }
                Effect::KeepAccumulator { folded, acc } => {
                    self.folded = folded;
                    self.fold.set_accumulator(acc.clone());
                    batch.push(Record::Folded { folded, acc });
                }
                Effect::Record(record) => batch.push(*record),
                Effect::Finish(finish) => self.end = Some(*finish),
                other => panic!("unexpected {other:?}"),
            }
        }
        if !batch.is_empty() {
            self.batches.push(batch);
        }
        assert!(self.alive.len() as u64 <= self.spec.window);
    }

    fn repeat(&mut self) {
        for index in 0..self.spec.size + 2 {
            assert_eq!(
                self.fold
                    .member_arrived(index, Outcome::Failure(failure(77))),
                []
            );
            assert_eq!(self.fold.child_exited(index, true), []);
        }
        let released = Decision::Complete(Verdict::Released);
        assert_eq!(self.fold.decided(released), []);
        let end = report(Outcome::Success(list(&[])));
        let late = self.fold.child_ended(run_index(self.folded), end);
        assert_eq!(late, []);
    }

    fn check(&self) {
        let spec = self.spec;
        assert!(self.barrier.arrived().is_full(), "it ended too early");
        let mut arrived = Vec::new();
        for record in self.batches.iter().flatten() {
            if let Record::Child {
                index,
                change: ChildProgress::Done(outcome),
            } = record
                && *index != BODY
            {
                arrived.push(*index);
                assert_eq!(member_of(outcome), *index);
            }
        }
        assert_eq!(arrived.len() as u64, spec.size);
        let expected = match spec.order {
            Order::Members => (0..spec.size).collect(),
            Order::Arrivals => arrived,
        };
        match (self.end.as_ref().unwrap(), spec.lowest_failed()) {
            (Finish::BrokenHeader(why), Some(lowest)) => assert_eq!(**why, *failure(lowest)),
            (Finish::With(Outcome::Failure(why)), None) => {
                assert!(spec.trips().is_some() && why.message == "1000");
            }
            (Finish::WithAccumulator, None) => {
                assert_eq!(spec.trips(), None, "{spec:?}");
                assert_eq!(
                    items(&self.fold.accumulator().unwrap()),
                    expected,
                    "{spec:?}"
                );
            }
            (end, _) => panic!("{end:?} in {spec:?}"),
        }
    }
}

#[test]
fn each_outcome_is_in_the_accumulator_once_whatever_the_order_and_the_crashes() {
    let mut worlds = 0;
    // All of the small ones, and every seventh of the others: that meets every setting.
    let large = |spec: &Spec| spec.size == 4;
    let small = Spec::all(3);
    for spec in small.chain(Spec::all(4).filter(large).step_by(7)) {
        let whole = World::open(&spec, Vec::new()).run_to_the_end();
        whole.check();
        for kept in 0..whole.batches.len() {
            let again = World::open(&spec, whole.batches[..kept].to_vec());
            again.run_to_the_end().check();
            worlds += 1;
        }
    }
    assert!(worlds > 20_000, "{worlds}");
}

#[test]
fn a_second_crash_changes_nothing() {
    for spec in Spec::all(3) {
        let first = World::open(&spec, Vec::new()).run_to_the_end();
        for kept in 0..first.batches.len() {
            // The second life goes the other way round.
            let mut turned = spec.clone();
            turned.arrivals.reverse();
            let second = World::open(&turned, first.batches[..kept].to_vec());
            let second = second.run_to_the_end();
            second.check();
            for kept in kept..second.batches.len() {
                let third = World::open(&spec, second.batches[..kept].to_vec());
                third.run_to_the_end().check();
            }
        }
    }
}

#[test]
fn members_start_and_outcomes_wait_within_the_lead_of_the_accumulator() {
    for order in [Order::Members, Order::Arrivals] {
        let spec = Spec {
            order,
            size: 60,
            window: 3,
            settled: false,
            fails: 0,
            trips_at: None,
            // The first is late, whenever it may be.
            arrivals: (1..60).chain([0]).collect(),
            pace: Pace::Late,
        };
        let mut world = World::open(&spec, Vec::new());
        let mut furthest = 0;
        while let Some(index) = spec
            .arrivals
            .iter()
            .copied()
            .find(|i| world.alive.contains(i))
        {
            furthest = furthest.max(index);
            assert!(index < 12, "{index} had not to start");
            world.arrive(index);
        }
        assert_eq!(furthest, 11, "as far as the lead allows");
        world.run_to_the_end().check();
    }
}

#[test]
fn a_lost_run_is_started_again_three_times_and_then_given_up() {
    let mut intake = Intake::new(Order::Members, false, 1, list(&[]));
    let done = ChildProgress::Done(Outcome::Success(value(0)));
    intake.replay(Record::Child {
        index: 0,
        change: done,
    });
    let (mut fold, effects) = Fold::recover(intake, 1);
    assert!(matches!(
        &effects[..],
        [Effect::Start(ChildStart::Run(run, None))] if run.outcomes.len() == 1
    ));
    let index = run_index(0);
    for _ in 0..MAX_RESTARTS {
        assert_eq!(fold.child_exited(index, true), [Effect::Restart(index)]);
    }
    assert_eq!(fold.child_exited(index, true), [Effect::Abandon(index)]);
    let failed = Outcome::Failure(failure(5));
    let effects = fold.child_ended(index, report(failed.clone()));
    assert!(matches!(&effects[..], [Effect::Record(_)]), "{effects:?}");
    let finish = Effect::finish(Finish::With(failed));
    let released = Decision::Complete(Verdict::Released);
    assert_eq!(fold.decided(released), [finish]);
}

#[test]
fn a_run_resumes_where_its_attempts_had_got() {
    let started = |attempt| {
        let history = AttemptHistory {
            attempt,
            ..AttemptHistory::default()
        };
        ChildProgress::Started(history)
    };
    let records = |run: Index| {
        let mut records: Vec<_> = (0..2)
            .map(|index| Record::Child {
                index,
                change: ChildProgress::Done(Outcome::Success(value(index))),
            })
            .collect();
        let folded = Record::Folded {
            folded: 1,
            acc: list(&[0]),
        };
        let change = started(3);
        records.extend([folded, Record::Child { index: run, change }]);
        records
    };
    for (of, expected) in [(1, Some(started(3))), (0, None)] {
        let mut intake = Intake::new(Order::Members, false, 2, list(&[]));
        records(run_index(of))
            .into_iter()
            .for_each(|it| intake.replay(it));
        let (_, effects) = Fold::recover(intake, 2);
        assert!(
            matches!(
                &effects[..],
                [Effect::Start(ChildStart::Run(run, last))] if run.first == 1 && *last == expected
            ),
            "{effects:?}"
        );
    }
}

#[test]
fn a_run_is_bounded_in_items_and_in_bytes() {
    for (size, bytes, expected) in [(3_000, 8, 1_024), (100, 4_000, 17), (5, 1 << 20, 1)] {
        let mut intake = Intake::new(Order::Arrivals, false, size, list(&[]));
        for index in 0..size {
            let value = Value::Inline(Payload::from(vec![0; bytes]));
            let change = ChildProgress::Done(Outcome::Success(value));
            intake.replay(Record::Child { index, change });
        }
        let (fold, _) = Fold::recover(intake, 1_024);
        assert_eq!(current(&fold).unwrap().outcomes.len(), expected);
    }
}
