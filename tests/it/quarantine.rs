//! Quarantine: a task that ends the process each time it runs is found out, and nobody else is.
//!
//! The process ends when the disk is taken away from it: what it goes on to write is not there in the
//! next life. Nothing says whether that came from inside, so it takes [`ENOUGH`] such ends.

use std::collections::{BTreeMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, SystemTime};

use chordal::prelude::*;
use chordal::{Clock, Error, FailureKind, Id, IdError, QuarantinePolicy, State, TaskEntry};
use tokio::sync::watch;

use crate::disk::Disk;
use crate::recovery::within;

/// How often each task of each test has been entered.
static ENTERED: LazyLock<watch::Sender<BTreeMap<(u64, u64), usize>>> =
    LazyLock::new(watch::Sender::default);
/// What lets all of a test's tasks end.
static OPEN: LazyLock<watch::Sender<HashSet<u64>>> = LazyLock::new(watch::Sender::default);
static TESTS: AtomicU64 = AtomicU64::new(1);

async fn enter(test: u64, n: u64) {
    ENTERED.send_modify(|entered| *entered.entry((test, n)).or_default() += 1);
}

/// Does not end before its test says so: the test waits until it is entered, and ends the process.
async fn hold(test: u64, n: u64) {
    enter(test, n).await;
    let _ = OPEN.subscribe().wait_for(|open| open.contains(&test)).await;
}

#[task(name = "quarantine.poison")]
async fn poison(test: u64, n: u64) -> u64 {
    hold(test, n).await;
    n
}

#[task(name = "quarantine.work")]
async fn work(test: u64, n: u64) -> u64 {
    enter(test, n).await;
    n
}

#[task(name = "quarantine.total")]
async fn total(all: Vec<u64>) -> u64 {
    all.into_iter().sum()
}

/// Notes that it has run as an errback.
#[task(name = "quarantine.undo")]
async fn undo(failure: TaskFailure, test: u64, n: u64) -> String {
    enter(test, n).await;
    failure.name
}

/// Waits for another.
#[task(name = "quarantine.caller")]
async fn caller(ctx: &TaskContext, test: u64, n: u64, callee: u64) -> Result<u64, TaskError> {
    enter(test, n).await;
    Ok(ctx.call("callee", poison.s(test, callee)).await?)
}

/// Waits for another once its test lets it go on.
#[task(name = "quarantine.late")]
async fn late(ctx: &TaskContext, test: u64, n: u64, calls: bool) -> Result<u64, TaskError> {
    hold(test, n).await;
    let other = work.s(test, n + 1);
    match calls {
        true => Ok(ctx.call("other", other).await?),
        false => Ok(ctx.apply_async(other).await?.get().await?),
    }
}

/// So many ends prove it of a task, with `quarantine_after(3)`: two that make it a suspect, one when it
/// is on trial with others, and three as the prime suspect.
const ENOUGH: usize = 6;
/// At the last but one the process has to live without the prime suspect first, for so long.
const CONTROL: Duration = Duration::from_secs(4);

/// One test's own numbers, disk and clock.
struct Stage {
    test: u64,
    disk: Disk,
    clock: Clock,
    policy: QuarantinePolicy,
    /// What the hook was told in all lives: ids and crashes.
    told: Arc<watch::Sender<Vec<(Id, u32)>>>,
}

impl Stage {
    fn new() -> Self {
        Self {
            test: TESTS.fetch_add(1, Ordering::Relaxed),
            disk: Disk::default(),
            clock: Clock::manual(SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000)),
            policy: QuarantinePolicy::Keep,
            told: Arc::default(),
        }
    }

    async fn open(&self) -> App {
        self.open_with(tasks![poison, work, total, undo, caller, late])
            .await
    }

    async fn open_with(&self, tasks: impl IntoIterator<Item = TaskEntry>) -> App {
        let told = self.told.clone();
        let app = App::with_store(self.disk.clone())
            .clock(self.clock.clone())
            .quarantine_after(3)
            .quarantine(self.policy)
            .on_quarantine(move |task| told.send_modify(|told| told.push((task.id, task.crashes))))
            .grace(Duration::ZERO)
            .tasks(tasks);
        app.start().await.unwrap()
    }

    /// The process ends, and the next one opens what is left.
    async fn crash(&mut self, app: App) -> App {
        self.disk = self.disk.crashed();
        // (What it still writes goes to the disk of before.)
        let _ = app.shutdown().await;
        self.open().await
    }

    fn times(&self, n: u64) -> usize {
        let entered = ENTERED.borrow();
        entered.get(&(self.test, n)).copied().unwrap_or(0)
    }

    fn times_in_all(&self) -> usize {
        self.sum(&ENTERED.borrow())
    }

    fn sum(&self, entered: &BTreeMap<(u64, u64), usize>) -> usize {
        let mine = entered.iter().filter(|((test, _), _)| *test == self.test);
        mine.map(|(_, times)| times).sum()
    }

    /// Waits until all tasks of the test together have been entered so often.
    async fn entered_in_all(&self, times: usize) {
        let mut entered = ENTERED.subscribe();
        let enough = entered.wait_for(|entered| self.sum(entered) >= times);
        within(enough).await.unwrap();
    }

    async fn entered(&self, n: u64, times: usize) {
        let mut entered = ENTERED.subscribe();
        let key = (self.test, n);
        let enough = entered.wait_for(|entered| entered.get(&key).is_some_and(|t| *t >= times));
        within(enough).await.unwrap();
    }

    /// Lets the process end as often as is enough to prove it of this task, which is entered each time,
    /// and has been entered so often before.
    async fn prove(&mut self, mut app: App, n: u64, before: usize) -> App {
        for crash in 1..=ENOUGH {
            if crash == ENOUGH - 1 {
                self.clock.advance(CONTROL);
            }
            self.entered(n, before + crash).await;
            assert!(app.quarantined().is_empty(), "after {crash} crashes");
            app = self.crash(app).await;
        }
        app
    }

    fn let_all_end(&self) {
        OPEN.send_modify(|open| {
            open.insert(self.test);
        });
    }
}

const POISON: u64 = 1_000;

#[tokio::test]
async fn a_task_that_ends_the_process_again_and_again_is_quarantined_and_the_others_are_done() {
    let mut stage = Stage::new();
    let test = stage.test;
    let mut app = stage.open().await;
    let members = (0..31).map(move |n| work.s(test, n));
    let header = group(members.chain([poison.s(test, POISON)]));
    let sum = header | total.partial();
    let sum = app
        .apply_async(sum.on_error(undo.partial(test, 77)))
        .await
        .unwrap();
    let id = sum.id();
    drop(sum);
    app = stage.prove(app, POISON, 0).await;
    // It is on the list at once, and in each life to come.
    for _ in 0..2 {
        let [task] = &app.quarantined()[..] else {
            panic!("{:?}", app.quarantined());
        };
        assert_eq!((task.name.as_str(), task.crashes), ("quarantine.poison", 6));
        assert_eq!(task.since, stage.clock.now());
        let handle = app.async_result::<u64>(task.id).await.unwrap();
        assert_eq!(handle.state().await.unwrap(), State::Quarantined);
        // The others come to their ends.
        let sum = app.async_result::<u64>(id).await.unwrap();
        within(async {
            while sum.completed_count().await.unwrap() < 31 {
                tokio::task::yield_now().await;
            }
        })
        .await;
        app = stage.crash(app).await;
    }
    assert_eq!(stage.times(POISON), ENOUGH);
    let task = app.quarantined().remove(0);
    app.discard(task.id).await.unwrap();
    assert!(app.quarantined().is_empty());
    let sum = app.async_result::<u64>(id).await.unwrap();
    let Err(Error::Failed(failure)) = within(sum.get()).await else {
        panic!("it cannot succeed");
    };
    let cause = failure.cause.unwrap();
    assert_eq!(failure.kind, FailureKind::Chord);
    assert_eq!((cause.kind, cause.attempt), (FailureKind::Quarantined, 6));
    assert_eq!(cause.error_type, "WorkerLostError");
    assert!(cause.message.contains("6 times"), "{}", cause.message);
    stage.entered(77, 1).await;
    app.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_requeued_task_runs_again_and_has_all_its_crashes_before_it() {
    let mut stage = Stage::new();
    let mut app = stage.open().await;
    let result = app.apply_async(poison.s(stage.test, POISON)).await.unwrap();
    let id = result.id();
    drop(result);
    for round in 0..2 {
        assert!(matches!(
            app.requeue(id).await,
            Err(Error::Id(IdError::NotQuarantined { id: of })) if of == id
        ));
        app = stage.prove(app, POISON, round * ENOUGH).await;
        assert_eq!(app.quarantined()[0].id, id);
        app.requeue(id).await.unwrap();
        assert!(app.quarantined().is_empty());
    }
    stage.let_all_end();
    let result = app.async_result::<u64>(id).await.unwrap();
    assert_eq!(within(result.get()).await.unwrap(), POISON);
    assert_eq!(stage.times(POISON), 2 * ENOUGH + 1);
    app.shutdown().await.unwrap();
}

#[tokio::test]
async fn what_is_decided_of_a_quarantined_task_survives_a_crash() {
    for discard in [false, true] {
        let mut stage = Stage::new();
        let mut app = stage.open().await;
        let result = app.apply_async(poison.s(stage.test, POISON)).await.unwrap();
        let id = result.id();
        drop(result);
        app = stage.prove(app, POISON, 0).await;
        match discard {
            true => app.discard(id).await.unwrap(),
            false => app.requeue(id).await.unwrap(),
        }
        app = stage.crash(app).await;
        stage.let_all_end();
        let result = app.async_result::<u64>(id).await.unwrap();
        match within(result.get()).await {
            Ok(_) => assert!(!discard),
            Err(Error::Failed(failure)) => {
                assert!(discard);
                assert_eq!(failure.kind, FailureKind::Quarantined);
            }
            Err(other) => panic!("{other}"),
        }
        app.shutdown().await.unwrap();
    }
}

#[tokio::test]
async fn after_one_crash_all_that_was_running_runs_again_at_once() {
    let mut stage = Stage::new();
    let test = stage.test;
    let app = stage.open().await;
    let all = group((0..100).map(move |n| poison.s(test, n)));
    drop(app.apply_async(all).await.unwrap());
    for n in 0..100 {
        stage.entered(n, 1).await;
    }
    let app = stage.crash(app).await;
    // None of them ends, so none of them waits for another.
    for n in 0..100 {
        stage.entered(n, 2).await;
    }
    drop(app);
}

#[tokio::test]
async fn among_more_workflows_than_begin_at_once_the_one_is_found() {
    let mut stage = Stage::new();
    let test = stage.test;
    // The others have a gate of their own.
    let others = Stage::new();
    let mut app = stage.open().await;
    let single = app.apply_async(poison.s(test, POISON)).await.unwrap();
    let id = single.id();
    drop(single);
    for n in 0..600 {
        drop(app.apply_async(poison.s(others.test, n)).await.unwrap());
    }
    for crash in 1..=2 {
        stage.entered(POISON, crash).await;
        for n in 0..600 {
            others.entered(n, crash).await;
        }
        app = stage.crash(app).await;
    }
    // Each of the others ends in its trial; this one is the eldest, and so the last.
    others.let_all_end();
    for crash in 3..=ENOUGH {
        if crash == ENOUGH - 1 {
            stage.clock.advance(CONTROL);
        }
        stage.entered(POISON, crash).await;
        assert!(app.quarantined().is_empty());
        app = stage.crash(app).await;
    }
    let [task] = &app.quarantined()[..] else {
        panic!("{:?}", app.quarantined());
    };
    assert_eq!(task.id, id);
    app.shutdown().await.unwrap();
}

#[tokio::test]
async fn kills_from_outside_quarantine_nobody_who_outlives_his_trial() {
    let mut stage = Stage::new();
    let test = stage.test;
    let mut app = stage.open().await;
    let all = group((0..8).map(move |n| poison.s(test, n)));
    let all = app.apply_async(all).await.unwrap();
    let id = all.id();
    drop(all);
    for life in 1..=4 {
        // From the third life on one starts after the other, and each runs for longer than its trial.
        for started in 1..=8 {
            let mut entered = ENTERED.subscribe();
            let count = entered.wait_for(|entered| {
                let mine = entered
                    .iter()
                    .filter(|((of, _), t)| *of == test && **t >= life);
                mine.count() >= started
            });
            within(count).await.unwrap();
            stage.clock.advance(Duration::from_secs(1_000));
        }
        app = stage.crash(app).await;
        assert!(app.quarantined().is_empty());
    }
    stage.let_all_end();
    let all = app.async_result::<Vec<u64>>(id).await.unwrap();
    let all = async {
        let get = all.get();
        tokio::pin!(get);
        loop {
            tokio::select! {
                all = &mut get => break all,
                () = tokio::task::yield_now() => stage.clock.advance(Duration::from_secs(1)),
            }
        }
    };
    assert_eq!(within(all).await.unwrap(), (0..8).collect::<Vec<_>>());
    app.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_stop_clears_those_that_were_running() {
    let mut stage = Stage::new();
    let app = stage.open().await;
    let result = app.apply_async(poison.s(stage.test, POISON)).await.unwrap();
    drop(result);
    stage.entered(POISON, 1).await;
    let mut app = stage.crash(app).await;
    stage.entered(POISON, 2).await;
    app.shutdown().await.unwrap();
    app = stage.open().await;
    stage.entered(POISON, 3).await;
    app = stage.crash(app).await;
    // All but one of those that are enough come now.
    for crash in 2..=ENOUGH {
        if crash == ENOUGH - 1 {
            stage.clock.advance(CONTROL);
        }
        stage.entered(POISON, 2 + crash).await;
        assert!(app.quarantined().is_empty(), "{crash}");
        app = stage.crash(app).await;
    }
    assert_eq!(app.quarantined().len(), 1);
    drop(app);
}

#[tokio::test]
async fn who_only_called_a_task_that_ends_the_process_is_not_quarantined() {
    let mut stage = Stage::new();
    let mut app = stage.open().await;
    let called = app
        .apply_async(caller.s(stage.test, 1, POISON))
        .await
        .unwrap();
    let id = called.id();
    drop(called);
    app = stage.prove(app, POISON, 0).await;
    assert_eq!(stage.times(POISON), ENOUGH);
    let [task] = &app.quarantined()[..] else {
        panic!("{:?}", app.quarantined());
    };
    assert_eq!(task.name, "quarantine.poison");
    app.discard(task.id).await.unwrap();
    let called = app.async_result::<u64>(id).await.unwrap();
    let failed = within(called.get()).await;
    assert!(matches!(failed, Err(Error::Failed(_))), "{failed:?}");
    app.shutdown().await.unwrap();
}

/// No time passes.
#[tokio::test]
async fn what_a_task_waits_for_that_is_tried_alone_can_run() {
    for calls in [true, false] {
        let mut stage = Stage::new();
        let mut app = stage.open().await;
        let waits = late.s(stage.test, POISON, calls);
        let id = app.apply_async(waits).await.unwrap().id();
        for life in 1..=3 {
            stage.entered(POISON, life).await;
            app = stage.crash(app).await;
        }
        stage.entered(POISON, 4).await;
        stage.let_all_end();
        let waits = app.async_result::<u64>(id).await.unwrap();
        assert_eq!(within(waits.get()).await.unwrap(), POISON + 1);
        app.shutdown().await.unwrap();
    }
}

#[tokio::test]
async fn a_quarantined_task_that_is_not_registered_any_more_is_discarded_in_one_call() {
    let mut stage = Stage::new();
    let mut app = stage.open().await;
    let result = app.apply_async(poison.s(stage.test, POISON)).await.unwrap();
    let id = result.id();
    drop(result);
    app = stage.prove(app, POISON, 0).await;
    stage.disk = stage.disk.crashed();
    drop(app);
    let app = stage.open_with(tasks![work]).await;
    assert_eq!(app.quarantined()[0].id, id);
    within(async {
        while app.parked().await.unwrap().is_empty() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    app.discard(id).await.unwrap();
    let result = app.async_result::<u64>(id).await.unwrap();
    let failed = within(result.get()).await;
    assert!(matches!(failed, Err(Error::Failed(_))), "{failed:?}");
    assert!(app.parked().await.unwrap().is_empty() && app.quarantined().is_empty());
    app.shutdown().await.unwrap();
}

#[tokio::test]
async fn while_suspects_wait_for_their_trials_all_other_work_runs() {
    const SUSPECTS: usize = 300;
    for kills in [2, 3, 6] {
        let mut stage = Stage::new();
        let test = stage.test;
        let mut app = stage.open().await;
        let all = group((0..SUSPECTS as u64).map(move |n| poison.s(test, n)));
        drop(app.apply_async(all).await.unwrap());
        for life in 1..=2 {
            stage.entered_in_all(life * SUSPECTS).await;
            app = stage.crash(app).await;
        }
        let mut before = 2 * SUSPECTS;
        for kill in 2..=kills {
            // One of them is on trial; from the third kill on it is alone for a moment before others
            // are. No more time than that passes.
            stage.entered_in_all(before + 1).await;
            stage.clock.advance(Duration::from_secs(1));
            stage.entered_in_all(before + 2).await;
            if kill < kills {
                stage.disk = stage.disk.crashed();
                let _ = app.shutdown().await;
                before = stage.times_in_all();
                app = stage.open().await;
            }
        }
        let other_queue = work.s(test, POISON).queue("another");
        for new in [work.s(test, POISON), other_queue] {
            let new = app.apply_async(new).await.unwrap();
            assert_eq!(within(new.get()).await.unwrap(), POISON);
        }
        let started = stage.times_in_all() - before - 2;
        assert!(started < SUSPECTS, "{kills} kills: nobody has waited");
        // They do not wait for one another's ends.
        within(async {
            while stage.times_in_all() - before - 2 < SUSPECTS {
                stage.clock.advance(Duration::from_millis(100));
                tokio::task::yield_now().await;
            }
        })
        .await;
        assert!(app.quarantined().is_empty());
    }
}

#[tokio::test]
async fn a_task_that_ends_the_process_is_discarded_if_that_is_the_policy() {
    let mut stage = Stage::new();
    stage.policy = QuarantinePolicy::Discard;
    let test = stage.test;
    let mut app = stage.open().await;
    let members = (0..31).map(move |n| work.s(test, n));
    let sum = group(members.chain([poison.s(test, POISON)])) | total.partial();
    let id = app.apply_async(sum).await.unwrap().id();
    app = stage.prove(app, POISON, 0).await;
    assert!(app.quarantined().is_empty());
    let sum = app.async_result::<u64>(id).await.unwrap();
    let Err(Error::Failed(failure)) = within(sum.get()).await else {
        panic!("it cannot succeed");
    };
    assert_eq!(failure.cause.unwrap().kind, FailureKind::Quarantined);
    let mut told = stage.told.subscribe();
    let told = within(told.wait_for(|told| !told.is_empty()))
        .await
        .unwrap()
        .clone();
    assert_eq!(told.len(), 1);
    assert_eq!(told[0].1, 6);
    app.shutdown().await.unwrap();
    // It has failed: nobody is told again.
    let app = stage.open().await;
    app.shutdown().await.unwrap();
    assert_eq!(stage.told.borrow().len(), 1);
}

#[tokio::test]
async fn the_hook_is_told_of_a_task_that_is_kept_at_each_start() {
    let mut stage = Stage::new();
    let mut app = stage.open().await;
    let id = app
        .apply_async(poison.s(stage.test, POISON))
        .await
        .unwrap()
        .id();
    app = stage.prove(app, POISON, 0).await;
    for starts in 1..=3 {
        let mut told = stage.told.subscribe();
        within(told.wait_for(|told| told.len() == starts))
            .await
            .unwrap();
        app.shutdown().await.unwrap();
        app = stage.open().await;
    }
    assert!(stage.told.borrow().iter().all(|told| *told == (id, 6)));
    app.shutdown().await.unwrap();
}
