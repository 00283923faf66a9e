//! Restarts, crashes and failing stores: what was acknowledged is there, what ended is not done
//! again, and nothing is told before it is durable.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Mutex};
use std::time::{Duration, SystemTime};

use chordal::persistence::{MemoryStore, RedbStore, Store};
use chordal::prelude::*;
use chordal::{AppBuilder, Clock, Error, Id, IdError, State, StoreError, TaskEntry};
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::disk::{Disk, During};

/// Every entry into a task's body: the test's own number, the task's label, the attempt.
static ENTERED: LazyLock<watch::Sender<Vec<(u64, String, u32)>>> =
    LazyLock::new(watch::Sender::default);
/// Gates by test number and name: closed until they are in here.
static OPEN: LazyLock<watch::Sender<HashSet<(u64, String)>>> =
    LazyLock::new(watch::Sender::default);
static TESTS: AtomicU64 = AtomicU64::new(1);
/// Only a broken engine needs that long.
const STUCK: Duration = Duration::from_secs(20);

fn enter(test: u64, label: &str, attempt: u32) {
    ENTERED.send_modify(|log| log.push((test, label.to_owned(), attempt)));
}

/// Gives its label.
#[task(name = "recovery.mark")]
async fn mark(ctx: &TaskContext, test: u64, label: String) -> String {
    enter(test, &label, ctx.attempt());
    label
}

/// As `mark`, but does not end before the gate of its label is open.
#[task(name = "recovery.gated")]
async fn gated(ctx: &TaskContext, test: u64, label: String) -> String {
    enter(test, &label, ctx.attempt());
    let key = (test, label.clone());
    let _ = OPEN.subscribe().wait_for(|open| open.contains(&key)).await;
    label
}

/// Opens the gate that is named.
#[task(name = "recovery.opener")]
async fn opener(test: u64, gate: String) {
    open_gate(test, &gate);
}

/// Fails as often as it is told to, then gives the number of the attempt.
#[task(name = "recovery.flaky", max_retries = 3, retry_backoff = "10s")]
async fn flaky(
    ctx: &TaskContext,
    test: u64,
    label: String,
    failures: u32,
) -> Result<u32, TaskError> {
    enter(test, &label, ctx.attempt());
    if ctx.attempt() <= failures {
        return Err(TaskError::new("not yet"));
    }
    Ok(ctx.attempt())
}

/// Fails, and means it.
#[task(name = "recovery.broken")]
async fn broken(ctx: &TaskContext, test: u64, label: String) -> Result<String, TaskError> {
    enter(test, &label, ctx.attempt());
    Err(TaskError::new(format!("{label} is broken")))
}

/// Gives what it is given.
#[task(name = "recovery.echo")]
async fn echo(ctx: &TaskContext, label: String, test: u64) -> String {
    enter(test, &format!("echo {label}"), ctx.attempt());
    label
}

/// Joins the header's labels.
#[task(name = "recovery.join")]
async fn join(ctx: &TaskContext, labels: Vec<String>, test: u64) -> String {
    enter(test, "join", ctx.attempt());
    labels.join("+")
}

fn open_gate(test: u64, gate: &str) {
    OPEN.send_modify(|open| {
        open.insert((test, gate.to_owned()));
    });
}

fn all_tasks() -> [TaskEntry; 7] {
    tasks![mark, gated, opener, flaky, broken, echo, join]
}

/// One test's own corner of the log.
#[derive(Clone, Copy)]
struct Ledger(u64);

impl Ledger {
    fn new() -> Self {
        Self(TESTS.fetch_add(1, Ordering::Relaxed))
    }

    /// The attempts of this label, in the order in which they began.
    fn attempts(self, label: &str) -> Vec<u32> {
        Self::of(self.0, label, &ENTERED.borrow())
    }

    fn of(test: u64, label: &str, log: &[(u64, String, u32)]) -> Vec<u32> {
        log.iter()
            .filter(|(of, l, _)| *of == test && l == label)
            .map(|(.., attempt)| *attempt)
            .collect()
    }

    async fn entered(self, label: &str, times: usize) {
        let mut log = ENTERED.subscribe();
        let seen = log.wait_for(|log| Self::of(self.0, label, log).len() >= times);
        within(seen).await.unwrap();
    }
}

pub(crate) async fn within<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(STUCK, work).await.expect("it hangs")
}

/// Where a test's data is, so that it can be opened again.
enum Place {
    Memory(MemoryStore),
    Sled(tempfile::TempDir),
    Redb(tempfile::TempDir),
}

impl Place {
    fn all() -> [Self; 3] {
        let [sled, redb] = Self::on_disk();
        [Self::Memory(MemoryStore::new()), sled, redb]
    }

    fn on_disk() -> [Self; 2] {
        [
            Self::Sled(tempfile::tempdir().unwrap()),
            Self::Redb(tempfile::tempdir().unwrap()),
        ]
    }

    fn builder(&self) -> AppBuilder {
        match self {
            Self::Memory(store) => App::with_store(store.clone()),
            Self::Sled(directory) => App::open(directory.path().join("data")),
            Self::Redb(directory) => {
                App::with_store(RedbStore::open(directory.path().join("data")).unwrap())
            }
        }
    }

    async fn open(&self) -> App {
        self.builder().tasks(all_tasks()).start().await.unwrap()
    }
}

#[tokio::test]
async fn the_result_of_a_finished_workflow_is_found_by_id_after_a_restart() {
    for place in Place::all() {
        let ledger = Ledger::new();
        let app = place.open().await;
        let result = app
            .apply_async(mark.s(ledger.0, "done".into()))
            .await
            .unwrap();
        let id = result.id();
        assert_eq!(within(result.get()).await.unwrap(), "done");
        app.shutdown().await.unwrap();
        let app = place.open().await;
        let again = app.async_result::<String>(id).await.unwrap();
        assert_eq!(within(again.get()).await.unwrap(), "done");
        app.shutdown().await.unwrap();
        assert_eq!(ledger.attempts("done"), [1]);
    }
}

#[tokio::test]
async fn a_task_cut_short_runs_again_as_attempt_2_and_its_finished_siblings_do_not() {
    for place in Place::all() {
        let ledger = Ledger::new();
        let app = place.open().await;
        let header = group([
            mark.s(ledger.0, "quick".into()),
            gated.s(ledger.0, "slow".into()),
        ]);
        let result = app
            .apply_async(header | mark.si(ledger.0, "body".into()))
            .await
            .unwrap();
        let id = result.id();
        let quick = &result.children::<String>().await.unwrap()[0];
        within(quick.get()).await.unwrap();
        ledger.entered("slow", 1).await;
        // Handles must not keep the store from closing.
        let cut = (result, app.clone());
        drop(app);
        drop(cut.1);
        let app = place.open().await;
        drop(cut.0);
        let result = app.async_result::<String>(id).await.unwrap();
        ledger.entered("slow", 2).await;
        open_gate(ledger.0, "slow");
        assert_eq!(within(result.get()).await.unwrap(), "body");
        app.shutdown().await.unwrap();
        assert_eq!(ledger.attempts("quick"), [1]);
        assert_eq!(ledger.attempts("slow"), [1, 2]);
        assert_eq!(ledger.attempts("body"), [1]);
    }
}

#[tokio::test]
async fn a_task_that_becomes_ready_while_the_app_stops_runs_in_the_next_life() {
    for place in Place::all() {
        let ledger = Ledger::new();
        let app = place.open().await;
        let first = gated.s(ledger.0, "first".into());
        let result = app
            .apply_async(first | mark.si(ledger.0, "second".into()))
            .await;
        let id = result.unwrap().id();
        ledger.entered("first", 1).await;
        let stopping = tokio::spawn({
            let app = app.clone();
            async move { app.shutdown().await }
        });
        // The stop waits for the task that runs; the one behind it must not start any more.
        open_gate(ledger.0, "first");
        within(stopping).await.unwrap().unwrap();
        let before = ledger.attempts("second").len();
        let app = place.open().await;
        let result = app.async_result::<String>(id).await.unwrap();
        assert_eq!(within(result.get()).await.unwrap(), "second");
        assert_eq!(ledger.attempts("first"), [1]);
        assert!(before <= 1 && ledger.attempts("second") == [1]);
        app.shutdown().await.unwrap();
    }
}

#[tokio::test]
async fn a_callback_is_never_taken_for_a_member_of_the_root_group() {
    let ledger = Ledger::new();
    let place = Place::Memory(MemoryStore::new());
    let app = place.open().await;
    // Node 2 is the callback of member 0, and node 3 its callback: it starts when node 2's end is
    // on record, and only then may member 2 end.
    let callback = mark
        .si(ledger.0, "callback".into())
        .link(opener.si(ledger.0, "two".into()));
    let first: Canvas = mark.s(ledger.0, "zero".into()).into();
    let members = [
        first.link(Canvas::from(callback)),
        mark.s(ledger.0, "one".into()).into(),
        gated.s(ledger.0, "two".into()).into(),
    ];
    let result = app.apply_async(Canvas::group(members)).await.unwrap();
    assert_eq!(
        within(result.get()).await.unwrap(),
        json!(["zero", "one", "two"])
    );
    assert_eq!(result.completed_count().await.unwrap(), 3);
    app.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_callback_cut_short_runs_again_though_a_member_has_its_number() {
    let ledger = Ledger::new();
    let place = Place::Memory(MemoryStore::new());
    let app = place.open().await;
    let first: Canvas = mark.s(ledger.0, "zero".into()).into();
    let callback = Canvas::immutable("recovery.gated", (ledger.0, "callback"));
    let rest = ["one", "two", "three"].map(|label| mark.s(ledger.0, label.into()).into());
    let members = [first.link(callback)].into_iter().chain(rest);
    let result = app.apply_async(Canvas::group(members)).await.unwrap();
    within(result.get()).await.unwrap();
    ledger.entered("callback", 1).await;
    drop((result, app));
    let app = place.open().await;
    ledger.entered("callback", 2).await;
    assert_eq!(ledger.attempts("callback"), [1, 2]);
    open_gate(ledger.0, "callback");
    app.shutdown().await.unwrap();
}

#[tokio::test]
async fn retries_and_their_times_survive_restarts() {
    for place in Place::all() {
        let ledger = Ledger::new();
        let clock = Clock::manual(SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000));
        let open = async || {
            let builder = place.builder().clock(clock.clone()).tasks(all_tasks());
            builder.start().await.unwrap()
        };
        let app = open().await;
        let result = app
            .apply_async(flaky.s(ledger.0, "flaky".into(), 2))
            .await
            .unwrap();
        let id = result.id();
        ledger.entered("flaky", 1).await;
        app.shutdown().await.unwrap();
        let app = open().await;
        let result = app.async_result::<u32>(id).await.unwrap();
        assert_eq!(result.state().await.unwrap(), State::Retry);
        clock.advance(Duration::from_millis(9_999));
        assert_eq!(ledger.attempts("flaky"), [1]);
        clock.advance(Duration::from_millis(1));
        ledger.entered("flaky", 2).await;
        app.shutdown().await.unwrap();
        let app = open().await;
        // The second delay is twice the first: the count of retries came along.
        clock.advance(Duration::from_secs(19));
        assert_eq!(ledger.attempts("flaky"), [1, 2]);
        clock.advance(Duration::from_secs(1));
        let result = app.async_result::<u32>(id).await.unwrap();
        assert_eq!(within(result.get()).await.unwrap(), 3);
        assert_eq!(ledger.attempts("flaky"), [1, 2, 3]);
        app.shutdown().await.unwrap();
    }
}

#[tokio::test]
async fn an_idempotency_key_gives_the_first_submission_also_after_a_restart() {
    for place in Place::all() {
        let ledger = Ledger::new();
        let submit = async |app: &App| {
            let once = mark.s(ledger.0, "once".into()).idempotency_key("key");
            app.apply_async(once).await.unwrap()
        };
        let app = place.open().await;
        let first = submit(&app).await;
        let second = submit(&app).await;
        within(first.get()).await.unwrap();
        app.shutdown().await.unwrap();
        let app = place.open().await;
        let third = submit(&app).await;
        assert_eq!([second.id(), third.id()], [first.id(); 2]);
        assert_eq!(within(third.get()).await.unwrap(), "once");
        assert_eq!(ledger.attempts("once"), [1]);
        app.shutdown().await.unwrap();
    }
}

#[tokio::test]
async fn a_task_of_an_unknown_name_is_parked_and_runs_when_it_is_registered_again() {
    for place in Place::all() {
        let ledger = Ledger::new();
        let app = place.open().await;
        let canvas = group([
            mark.s(ledger.0, "a".into()),
            gated.s(ledger.0, "gate".into()),
        ]) | join.partial(ledger.0);
        let result = app.apply_async(canvas).await.unwrap();
        let id = result.id();
        within(result.children::<String>().await.unwrap()[0].get())
            .await
            .unwrap();
        ledger.entered("gate", 1).await;
        drop((result, app));
        // Twice, because to be parked must itself leave no trace.
        for _ in 0..2 {
            let app = place
                .builder()
                .tasks(tasks![mark, join])
                .start()
                .await
                .unwrap();
            let result = app.async_result::<String>(id).await.unwrap();
            // Behind this one's end, all that follows from recovery has been decided.
            let after = app
                .apply_async(mark.s(ledger.0, "after".into()))
                .await
                .unwrap();
            within(after.get()).await.unwrap();
            let parked: Vec<_> = app
                .parked()
                .await
                .unwrap()
                .into_iter()
                .map(|task| task.name)
                .collect();
            assert_eq!(parked, ["recovery.gated"]);
            assert!(!result.ready().await.unwrap());
            app.shutdown().await.unwrap();
        }
        let app = place.open().await;
        assert!(app.parked().await.unwrap().is_empty());
        open_gate(ledger.0, "gate");
        let result = app.async_result::<String>(id).await.unwrap();
        assert_eq!(within(result.get()).await.unwrap(), "a+gate");
        assert_eq!(ledger.attempts("a"), [1]);
        assert_eq!(ledger.attempts("gate"), [1, 2]);
        app.shutdown().await.unwrap();
    }
}

#[tokio::test]
async fn what_is_past_its_retention_is_swept_unless_a_handle_is_held() {
    for place in Place::all() {
        let ledger = Ledger::new();
        let clock = Clock::manual(SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000));
        let builder = place.builder().clock(clock.clone()).tasks(all_tasks());
        let app = builder
            .retention(Duration::from_secs(60))
            .start()
            .await
            .unwrap();
        let submit = async || app.apply_async(mark.s(ledger.0, "m".into())).await.unwrap();
        let (held, dropped) = (submit().await, submit().await);
        within(held.get()).await.unwrap();
        within(dropped.get()).await.unwrap();
        let id = dropped.id();
        drop(dropped);
        clock.advance(Duration::from_secs(59));
        within(submit().await.get()).await.unwrap();
        assert!(app.async_result::<String>(id).await.is_ok());
        // Each further look is a commit behind the one before it, and a second later.
        let gone = async |id: Id| loop {
            clock.advance(Duration::from_secs(2));
            within(submit().await.get()).await.unwrap();
            match app.async_result::<String>(id).await {
                Err(Error::Id(IdError::Unknown { .. })) => return,
                found => drop(found.unwrap()),
            }
        };
        within(gone(id)).await;
        assert_eq!(within(held.get()).await.unwrap(), "m");
        let id = held.id();
        drop(held);
        within(gone(id)).await;
        app.shutdown().await.unwrap();
    }
}

#[tokio::test]
async fn a_swept_key_is_free_and_ids_rise_though_the_clock_steps_back() {
    for place in Place::all() {
        let ledger = Ledger::new();
        let start = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
        let open = async |clock: &Clock| {
            let builder = place.builder().clock(clock.clone()).tasks(all_tasks());
            let builder = builder.retention(Duration::from_secs(60));
            builder.start().await.unwrap()
        };
        let clock = Clock::manual(start);
        let app = open(&clock).await;
        let submit = async |app: &App| {
            let canvas = mark.s(ledger.0, "m".into()).idempotency_key("k");
            let result = app.apply_async(canvas).await.unwrap();
            within(result.get()).await.unwrap();
            result.id()
        };
        let first = submit(&app).await;
        assert_eq!(submit(&app).await, first);
        let mut last = first;
        for _ in 0..2 {
            last = within(async {
                loop {
                    clock.advance(Duration::from_secs(30));
                    let id = submit(&app).await;
                    if id != last {
                        return id;
                    }
                }
            })
            .await;
        }
        assert_eq!(ledger.attempts("m").len(), 3);
        app.shutdown().await.unwrap();

        let app = open(&Clock::manual(start)).await;
        let canvas = mark.s(ledger.0, "m".into());
        let result = app.apply_async(canvas).await.unwrap();
        assert!(result.id() > last && last > first);
        app.shutdown().await.unwrap();
    }
}

#[tokio::test]
async fn one_sweep_leads_to_the_next_until_all_that_is_due_is_gone() {
    let ledger = Ledger::new();
    let store = MemoryStore::new();
    let clock = Clock::manual(SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000));
    let builder = App::with_store(store.clone()).clock(clock.clone());
    let builder = builder
        .tasks(all_tasks())
        .retention(Duration::from_secs(60));
    let app = builder.start().await.unwrap();
    for _ in 0..1_200 {
        let result = app.apply_async(mark.s(ledger.0, "m".into())).await.unwrap();
        within(result.get()).await.unwrap();
    }
    clock.advance(Duration::from_secs(61));
    // The clock stands still from here on. (A look through a handle would keep its workflow.)
    let gone = async {
        // All but the store's own record, `m`.
        while store
            .scan(b"a", b"m")
            .chain(store.scan(b"n", b"z"))
            .next()
            .is_some()
        {
            tokio::task::yield_now().await;
        }
    };
    within(gone).await;
    app.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_clock_that_ran_ahead_once_does_not_stop_retention() {
    let ledger = Ledger::new();
    let store = MemoryStore::new();
    let start = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
    let open = async |clock: &Clock| {
        let builder = App::with_store(store.clone()).clock(clock.clone());
        let builder = builder.tasks(all_tasks());
        let builder = builder.retention(Duration::from_secs(60));
        builder.start().await.unwrap()
    };
    let submit = async |app: &App| {
        let result = app.apply_async(mark.s(ledger.0, "m".into())).await.unwrap();
        within(result.get()).await.unwrap();
        result.id()
    };
    let ahead = open(&Clock::manual(start + Duration::from_secs(300_000_000))).await;
    submit(&ahead).await;
    ahead.shutdown().await.unwrap();

    let clock = Clock::manual(start);
    let app = open(&clock).await;
    let id = submit(&app).await;
    let gone = async {
        while app.async_result::<String>(id).await.is_ok() {
            clock.advance(Duration::from_secs(30));
            submit(&app).await;
        }
    };
    within(gone).await;
    app.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_start_that_is_cancelled_harms_nobody_and_frees_the_directory() {
    let place = Place::Sled(tempfile::tempdir().unwrap());
    for _ in 0..5 {
        let mut start = std::pin::pin!(place.builder().tasks(all_tasks()).start());
        // (Its thread may have answered already: that the directory is locked.)
        let begun = std::future::poll_fn(|context| {
            std::task::Poll::Ready(start.as_mut().poll(context).is_pending())
        });
        begun.await;
    }
    let opened = async {
        loop {
            match place.builder().tasks(all_tasks()).start().await {
                Ok(app) => return app,
                Err(Error::Store(StoreError::Locked { .. })) => tokio::task::yield_now().await,
                Err(other) => panic!("{other}"),
            }
        }
    };
    within(opened).await.shutdown().await.unwrap();
}

#[tokio::test]
async fn dropping_an_app_with_running_tasks_frees_its_directory_at_once() {
    for place in Place::on_disk() {
        let ledger = Ledger::new();
        for life in 1..=10 {
            let app = place.open().await;
            if life == 1 {
                let all = group((0..50).map(move |i| gated.s(ledger.0, format!("{i}"))));
                let _ = app.apply_async(all).await.unwrap();
            }
            ledger.entered("49", life).await;
            drop(app);
        }
        let attempts: Vec<u32> = (1..=10).collect();
        assert_eq!(ledger.attempts("49"), attempts);
    }
}

#[tokio::test]
async fn a_directory_that_is_open_is_locked() {
    let place = Place::Sled(tempfile::tempdir().unwrap());
    let app = place.open().await;
    let second = place.builder().tasks(all_tasks()).start().await;
    assert!(matches!(
        second,
        Err(Error::Store(StoreError::Locked { .. }))
    ));
    app.shutdown().await.unwrap();
    place.open().await.shutdown().await.unwrap();
}

/// Some of everything; what each is to end with.
fn workload(ledger: Ledger) -> Vec<(Canvas, Result<Value, &'static str>)> {
    let test = ledger.0;
    let label = |label: &str| Canvas::immutable("recovery.mark", (test, label));
    vec![
        (
            Canvas::chord(
                ["a", "b", "c"].map(label),
                Canvas::task("recovery.join", (test,)),
            ),
            Ok(json!("a+b+c")),
        ),
        (
            Canvas::chain([label("x").link(label("callback")), label("y"), label("z")]),
            Ok(json!("z")),
        ),
        (
            Canvas::group([
                label("fine"),
                Canvas::immutable("recovery.broken", (test, "no")),
            ])
            .link_error(label("errback")),
            Err("no is broken"),
        ),
        (
            Canvas::group([label("e"), label("f")]) | echo.each(test).into_canvas(),
            Ok(json!(["e", "f"])),
        ),
    ]
}

const LABELS: [&str; 12] = [
    "a", "b", "c", "join", "x", "callback", "y", "z", "fine", "no", "errback", "echo e",
];

/// One submission as its caller knows it, with how much was synced when it was told.
struct Told {
    id: Id,
    acknowledged: usize,
    ended: Option<usize>,
}

async fn submit_all(app: &App, disk: &Disk, ledger: Ledger) -> (Vec<Told>, Option<Error>) {
    let mut all = Vec::new();
    let mut failed = None;
    for (canvas, expected) in workload(ledger) {
        match app.apply_async(canvas).await {
            Ok(result) => {
                assert!(failed.is_none(), "acknowledged after the fault");
                let acknowledged = disk.synced();
                all.push((result, acknowledged, expected));
            }
            Err(error) => failed = Some(error),
        }
    }
    let mut told = Vec::new();
    for (result, acknowledged, expected) in all {
        let ended = match within(result.get()).await {
            Ok(value) => {
                assert_eq!(Ok(value), expected);
                Some(disk.synced())
            }
            Err(Error::Failed(failure)) => {
                assert_eq!(Err(failure.message.as_str()), expected);
                Some(disk.synced())
            }
            Err(error) => {
                failed = Some(error);
                None
            }
        };
        let id = result.id();
        told.push(Told {
            id,
            acknowledged,
            ended,
        });
    }
    (told, failed)
}

/// Opens what a crash has left of `disk` and checks it against what had been told.
async fn check_crash(disk: &Disk, kept: usize, told: &[Told], ledger: Ledger) {
    let store = disk.crashed_after(kept);
    // Nothing is registered, so nothing can run: this shows what was on the disk.
    let app = App::with_store(store.clone()).start().await.unwrap();
    let mut there = Vec::new();
    let mut finished = HashSet::new();
    for (told, (_, expected)) in told.iter().zip(workload(ledger)) {
        let result = match app.async_result::<Value>(told.id).await {
            Ok(result) => result,
            Err(Error::Id(IdError::Unknown { .. })) => {
                assert!(
                    kept < told.acknowledged,
                    "an acknowledged submission is lost"
                );
                continue;
            }
            Err(error) => panic!("{error}"),
        };
        if told.ended.is_some_and(|at| kept >= at) {
            assert!(
                result.ready().await.unwrap(),
                "an end that was told is lost"
            );
        }
        there.push((told.id, expected));
        for child in result.children::<Value>().await.unwrap() {
            if let Ok(true) = child.successful().await {
                finished.insert(within(child.get()).await.unwrap().to_string());
            }
        }
    }
    app.shutdown().await.unwrap();

    let before: HashMap<_, _> = LABELS.map(|l| (l, ledger.attempts(l).len())).into();
    let app = App::with_store(store)
        .tasks(all_tasks())
        .start()
        .await
        .unwrap();
    for (id, expected) in &there {
        let result = app.async_result::<Value>(*id).await.unwrap();
        match within(result.get()).await {
            Ok(value) => assert_eq!(Ok(value), *expected),
            Err(Error::Failed(failure)) => assert_eq!(Err(failure.message.as_str()), *expected),
            Err(error) => panic!("{error}"),
        }
    }
    app.shutdown().await.unwrap();
    for label in LABELS {
        let ran = ledger.attempts(label).len() - before[label];
        assert!(ran <= 1, "{label} ran {ran} times in one life");
        if finished.contains(&json!(label).to_string()) && label != "join" {
            assert_eq!(ran, 0, "{label} had ended and ran again (kept {kept})");
        }
    }
}

#[tokio::test]
async fn a_crash_at_any_batch_loses_nothing_that_was_told_and_all_goes_on() {
    let ledger = Ledger::new();
    let disk = Disk::default();
    let app = App::with_store(disk.clone())
        .tasks(all_tasks())
        .start()
        .await
        .unwrap();
    let (told, failed) = submit_all(&app, &disk, ledger).await;
    assert!(failed.is_none());
    app.shutdown().await.unwrap();
    let batches = disk.batches();
    assert!(batches > 5);
    for kept in 0..=batches {
        check_crash(&disk, kept, &told, ledger).await;
    }
}

#[tokio::test]
async fn a_store_that_fails_at_any_call_halts_the_engine_and_loses_nothing_that_was_told() {
    for call in 1.. {
        let ledger = Ledger::new();
        let disk = Disk::failing_at(call);
        let app = match App::with_store(disk.clone())
            .tasks(all_tasks())
            .start()
            .await
        {
            Ok(app) => app,
            Err(error) => {
                assert!(
                    matches!(error, Error::Store(StoreError::Io { .. })),
                    "{error}"
                );
                continue;
            }
        };
        let (told, failed) = submit_all(&app, &disk, ledger).await;
        let stopped = app.shutdown().await;
        if let Some(error) = &failed {
            assert!(
                matches!(error, Error::Store(StoreError::Io { .. })),
                "{error}"
            );
            assert!(
                matches!(stopped, Err(Error::Store(StoreError::Io { .. }))),
                "{stopped:?}"
            );
        }
        let (synced, all) = {
            let state = disk.0.lock().unwrap();
            (state.synced, state.batches.len())
        };
        for kept in synced..=all {
            check_crash(&disk, kept, &told, ledger).await;
        }
        if disk.0.lock().unwrap().calls < call {
            assert!(failed.is_none() && stopped.is_ok());
            return;
        }
    }
}

#[tokio::test]
async fn nothing_is_told_between_a_write_and_its_sync() {
    let ledger = Ledger::new();
    let disk = Disk::default();
    let app = App::with_store(disk.clone())
        .tasks(all_tasks())
        .start()
        .await
        .unwrap();
    let canvas = group([
        mark.s(ledger.0, "early".into()),
        gated.s(ledger.0, "gate".into()),
    ]);
    let result = app.apply_async(canvas).await.unwrap();
    let early = result.children::<String>().await.unwrap().remove(0);
    within(early.get()).await.unwrap();
    // From here on each sync first looks at the result, and fails when it is there to be seen.
    let seen = Arc::new(Mutex::new(Vec::new()));
    let asked = {
        let (disk, seen, result) = (disk.clone(), seen.clone(), result.clone());
        move || {
            let written = disk.scan(b"r", b"s").count() > 0;
            let ready = pollster::block_on(result.ready()).unwrap();
            seen.lock().unwrap().push((written, ready));
            if written {
                let mut state = disk.0.lock().unwrap();
                state.fails_at = Some(state.calls + 1);
            }
        }
    };
    disk.0.lock().unwrap().during_sync = Some(During(Arc::new(asked)));
    open_gate(ledger.0, "gate");
    let got = within(result.get()).await;
    assert!(
        matches!(got, Err(Error::Store(StoreError::Io { .. }))),
        "{got:?}"
    );
    assert!(!matches!(result.ready().await, Ok(true)));
    let seen = seen.lock().unwrap().clone();
    assert!(
        seen.contains(&(true, false)) && !seen.contains(&(true, true)),
        "{seen:?}"
    );
    assert!(app.shutdown().await.is_err());
}
