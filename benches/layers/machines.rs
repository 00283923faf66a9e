//! The machines: events in, commands out.

use std::hint::black_box;
use std::time::Duration;

use criterion::{BatchSize, Criterion, Throughput};

use crate::canvas::group_policy::GroupPolicy;
use crate::canvas::id::Id;
use crate::canvas::machine::barrier::{self, Barrier};
use crate::canvas::machine::effect::{Effect, Finish, Supervise};
use crate::canvas::machine::group::Group;
use crate::canvas::machine::task::{self, AttemptOutcome, Now, Retry, Schedule, Task};
use crate::canvas::machine::{Decision, IndexSet, Report, Verdict};
use crate::canvas::outcome::{FailureKind, Outcome, TaskFailure};
use crate::canvas::retry::RetryPolicy;
use crate::canvas::time::Time;
use crate::{done, value};

const MEMBERS: u64 = 10_000;
/// How many members are in memory at once, unless the application says otherwise.
const WINDOW: u64 = 1_024;

pub(crate) fn barrier(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("barrier of 10,000");
    group.throughput(Throughput::Elements(MEMBERS));
    group.bench_function("arrivals", |bencher| {
        let reports = || {
            (0..MEMBERS)
                .map(|i| Report::from(Outcome::Success(value(i))))
                .collect()
        };
        bencher.iter_batched(reports, arrivals, BatchSize::LargeInput);
    });
    let records: Vec<_> = (0..MEMBERS).map(done).collect();
    group.bench_function("replay", |bencher| {
        bencher.iter(|| {
            let mut barrier = Barrier::new(MEMBERS, GroupPolicy::All);
            records.iter().for_each(|record| barrier.replay(record));
            assert_eq!(tells(&barrier.start()), 1);
        });
    });
    group.finish();
}

fn arrivals(reports: Vec<Report>) {
    let mut barrier = Barrier::new(MEMBERS, GroupPolicy::All);
    let mut commands = barrier.start();
    for (index, report) in (0..).zip(reports) {
        commands = black_box(barrier.arrive(index, report));
    }
    assert_eq!(tells(&commands), 1, "the last arrival decides");
}

fn tells(commands: &[barrier::Command]) -> usize {
    let released = Decision::Complete(Verdict::Released);
    let is_release =
        |command: &&_| matches!(command, barrier::Command::Notify(told) if *told == released);
    commands.iter().filter(is_release).count()
}

pub(crate) fn group(criterion: &mut Criterion) {
    let mut bench = criterion.benchmark_group("group of 10,000");
    bench.throughput(Throughput::Elements(MEMBERS));
    bench.bench_function("window", |bencher| {
        bencher.iter(|| {
            let (mut group, first) = Group::recover(IndexSet::new(MEMBERS), WINDOW);
            let mut spawned = first.len() as u64;
            for index in 0..MEMBERS {
                spawned += black_box(group.child_exited(index, false)).len() as u64;
            }
            assert_eq!(spawned, MEMBERS);
            let last = group.decided(Decision::Complete(Verdict::Released));
            let finish = Finish::AsBarrier(Verdict::Released);
            assert_eq!(last, [Effect::Finish(Box::new(finish))]);
        });
    });
    bench.finish();
}

pub(crate) fn task(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("task");
    group.bench_function("succeeds", |bencher| {
        bencher.iter(|| {
            let (mut task, _) = open();
            black_box(task.granted(Time::default()));
            assert!(has_reported(&task.finished(
                1,
                AttemptOutcome::Value(value(7)),
                Now::default()
            )));
        });
    });
    let a_second_later = Time::default().after(1_000);
    group.bench_function("succeeds after a retry", |bencher| {
        bencher.iter(|| {
            let (mut task, _) = open();
            black_box(task.granted(Time::default()));
            black_box(task.finished(1, failure(), Now::default()));
            black_box(task.due(a_second_later));
            black_box(task.granted(a_second_later));
            assert!(has_reported(&task.finished(
                2,
                AttemptOutcome::Value(value(7)),
                Now::default()
            )));
        });
    });
    group.finish();
}

fn open() -> (Task, Vec<task::Command>) {
    let policy = RetryPolicy {
        max_retries: 3,
        default_delay: None,
        backoff: None,
        backoff_max: Duration::from_secs(600),
        jitter: false,
    };
    Task::open(7, policy, Schedule::default(), Time::default())
}

fn failure() -> AttemptOutcome {
    let id = Id::next(None, 0, 0);
    AttemptOutcome::Failure {
        counts: false,
        failure: TaskFailure::new(FailureKind::Error, id, "noop", 1, "try later"),
        retry: Retry::Auto,
    }
}

fn has_reported(commands: &[task::Command]) -> bool {
    let word = |report: &Report| matches!(report.outcome, Outcome::Success(_));
    matches!(commands, [task::Command::Report(report)] if word(report))
}
