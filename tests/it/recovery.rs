//! Restarts, crashes and failing stores: what was acknowledged is there, what ended is not done
//! again, and nothing is told before it is durable.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Mutex};
use std::time::{Duration, SystemTime};

use chordal::persistence::{Batch, MemoryStore, Scan, Store};
use chordal::prelude::*;
use chordal::{
    AppBuilder, Clock, Durability, Error, FailureKind, Id, State, StoreError, TaskEntry,
};
use serde_json::{Value, json};
use tokio::sync::watch;

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

fn all_tasks() -> [TaskEntry; 5] {
    tasks![mark, gated, opener, flaky, join]
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

async fn within<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(STUCK, work).await.expect("it hangs")
}

/// Where a test's data is, so that it can be opened again.
enum Place {
    Memory(MemoryStore),
    Sled(tempfile::TempDir),
}

impl Place {
    fn both() -> [Self; 2] {
        [
            Self::Memory(MemoryStore::new()),
            Self::Sled(tempfile::tempdir().unwrap()),
        ]
    }

    fn builder(&self) -> AppBuilder {
        match self {
            Self::Memory(store) => App::with_store(store.clone()),
            Self::Sled(directory) => App::open(directory.path().join("data")),
        }
    }

    async fn open(&self) -> App {
        self.builder().tasks(all_tasks()).start().await.unwrap()
    }
}

#[tokio::test]
async fn the_result_of_a_finished_workflow_is_found_by_id_after_a_restart() {
    for place in Place::both() {
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
    for place in Place::both() {
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
    for place in Place::both() {
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
