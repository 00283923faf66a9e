//! Decisions that read the store while what was decided before is still on its way there.

use std::sync::{Arc, Condvar, LazyLock, Mutex};
use std::time::{Duration, SystemTime};

use chordal::persistence::{Batch, MemoryStore, Op, Scan, Store};
use chordal::prelude::*;
use chordal::{AppBuilder, Clock, Durability, Error, Id, IdError, StoreError};
use futures_util::poll;
use tokio::sync::watch;

use crate::recovery::within;

const SECOND: Duration = Duration::from_secs(1);

/// A store that applies nothing while it is held. Reads go on.
#[derive(Clone, Debug, Default)]
struct HeldStore(Arc<Gate>, MemoryStore);

#[derive(Debug, Default)]
struct Gate {
    state: Mutex<GateState>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct GateState {
    is_held: bool,
    /// The batch that waits.
    waiting: Option<Batch>,
}

impl Store for HeldStore {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        self.1.get(key)
    }

    fn scan(&self, from: &[u8], to: &[u8]) -> Scan<'_> {
        self.1.scan(from, to)
    }

    fn apply(&self, batch: Batch) -> Result<(), StoreError> {
        let mut state = self.0.state.lock().unwrap();
        state.waiting = Some(batch.clone());
        while state.is_held {
            state = self.0.changed.wait(state).unwrap();
        }
        state.waiting = None;
        drop(state);
        self.1.apply(batch)
    }

    fn sync(&self, durability: Durability) -> Result<(), StoreError> {
        self.1.sync(durability)
    }

    /// The engine's own thread never waits here.
    fn is_prompt(&self) -> bool {
        false
    }
}

impl HeldStore {
    fn hold(&self) {
        self.0.state.lock().unwrap().is_held = true;
    }

    fn release(&self) {
        self.0.state.lock().unwrap().is_held = false;
        self.0.changed.notify_all();
    }

    /// Returns once a batch waits that changes a key of this tag.
    async fn holds_back(&self, tag: u8) {
        within(async {
            while !self.has_waiting(tag) {
                tokio::task::yield_now().await;
            }
        })
        .await;
    }

    /// Says whether a batch waits that changes a key of this tag.
    fn has_waiting(&self, tag: u8) -> bool {
        let is_of = |op: &Op| match op {
            Op::Put(key, _) | Op::Delete(key) => key[0] == tag,
        };
        let state = self.0.state.lock().unwrap();
        state.waiting.iter().flatten().any(is_of)
    }

    fn count(&self, tag: u8) -> usize {
        self.1.scan(&[tag], &[tag + 1]).count()
    }

    /// Returns once nothing is stored under these tags.
    async fn has_none_of(&self, tags: &[u8]) {
        within(async {
            while tags.iter().any(|tag| self.count(*tag) > 0) {
                tokio::task::yield_now().await;
            }
        })
        .await;
    }
}

/// Which of the tests have let their tasks go on.
static OPEN: LazyLock<watch::Sender<Vec<&str>>> = LazyLock::new(watch::Sender::default);
/// Which of the tasks that wait for another have begun to.
static WAITING: LazyLock<watch::Sender<Vec<String>>> = LazyLock::new(watch::Sender::default);

fn open(test: &'static str) {
    OPEN.send_modify(|open| open.push(test));
}

#[task(name = "in_flight.held")]
async fn held(test: String) {
    let mut open = OPEN.subscribe();
    let _ = open
        .wait_for(|open| open.iter().any(|own| *own == test))
        .await;
}

#[task(name = "in_flight.quick")]
async fn quick(n: u64) -> u64 {
    n
}

/// Submits a task that starts a second later, and waits for it when the test says so.
#[task(name = "in_flight.patient")]
async fn patient(ctx: &TaskContext, test: String) -> Result<u64, TaskError> {
    let later = ctx.apply_async(quick.s(7).countdown(3 * SECOND)).await?;
    WAITING.send_modify(|waiting| waiting.push(format!("{test} {}", later.id())));
    let mut open = OPEN.subscribe();
    let _ = open
        .wait_for(|open| open.iter().any(|own| *own == test))
        .await;
    let mut get = std::pin::pin!(later.get());
    let first = poll!(get.as_mut());
    WAITING.send_modify(|waiting| waiting.push(format!("{test} waits")));
    match first {
        std::task::Poll::Ready(value) => Ok(value?),
        std::task::Poll::Pending => Ok(get.await?),
    }
}

fn set_up(store: &HeldStore, clock: &Clock) -> AppBuilder {
    App::with_store(store.clone())
        .clock(clock.clone())
        .live_workflows(1)
        .tasks(tasks![held, quick, patient])
}

fn clock() -> Clock {
    Clock::manual(SystemTime::UNIX_EPOCH + 1_000_000 * SECOND)
}

/// Returns once the engine has dealt with what it was told before: this question it answers without the store.
async fn has_heard(app: &App, id: Id) {
    // (Twice more, for what its other actors tell it.)
    for _ in 0..3 {
        let asked = within(app.requeue(id)).await;
        assert!(
            matches!(asked, Err(Error::Id(IdError::NotQuarantined { .. }))),
            "{asked:?}"
        );
    }
}

/// The request was recorded, and the workflow that came in meanwhile was read without it: so it was kept, and
/// its idempotency key with it.
#[tokio::test]
async fn a_waiting_workflow_that_comes_in_as_it_is_forgotten_is_forgotten() {
    let store = HeldStore::default();
    let app = set_up(&store, &clock()).start().await.unwrap();
    let first = app.apply_async(held.s("forget".into())).await.unwrap();
    let canvas = || quick.s(1).idempotency_key("key");
    let id = app.apply_async(canvas()).await.unwrap().id();
    assert_eq!(store.count(b'b'), 1);

    store.hold();
    let forget = tokio::spawn({
        let app = app.clone();
        async move { app.forget(id).await }
    });
    store.holds_back(b's').await;
    open("forget");
    within(async {
        while app.pending() > 1 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    has_heard(&app, id).await;
    store.release();
    within(forget).await.unwrap().unwrap();
    within(first.get()).await.unwrap();

    store.has_none_of(b"bw").await;
    let found = app.async_result::<u64>(id).await;
    assert!(
        matches!(found, Err(Error::Id(IdError::Unknown { .. }))),
        "{found:?}"
    );
    let again = app.apply_async(canvas()).await.unwrap();
    assert_ne!(again.id(), id);
    app.shutdown().await.unwrap();
}

/// The task's wish was dropped while the workflow that it waited for was being put into its queue: it stayed
/// there, behind the task.
#[tokio::test]
async fn a_workflow_that_a_task_waits_for_comes_in_though_it_is_being_moved() {
    let (store, clock) = (HeldStore::default(), clock());
    let app = set_up(&store, &clock).start().await.unwrap();
    let waiting = app.apply_async(patient.s("wanted".into())).await.unwrap();
    let mut seen = WAITING.subscribe();
    let ours = |all: &Vec<String>| all.iter().any(|one| one.starts_with("wanted "));
    let told = within(seen.wait_for(ours)).await.unwrap().clone();
    let later = told.iter().find_map(|one| one.strip_prefix("wanted "));
    let later: Id = later.unwrap().parse().unwrap();

    store.hold();
    clock.advance(4 * SECOND);
    store.holds_back(b'q').await;
    open("wanted");
    let waits = |all: &Vec<String>| all.iter().any(|one| one == "wanted waits");
    drop(within(seen.wait_for(waits)).await.unwrap());
    has_heard(&app, later).await;
    store.release();
    assert_eq!(within(waiting.get()).await.unwrap(), 7);
    app.shutdown().await.unwrap();
}

/// The sweep looked before what it was for had come to the store, and nothing asked for another one.
#[tokio::test]
async fn what_has_ended_is_swept_though_it_comes_to_the_store_late() {
    let (store, clock) = (HeldStore::default(), clock());
    let builder = set_up(&store, &clock).retention(Duration::ZERO);
    let app = builder.start().await.unwrap();
    let result = app.apply_async(held.s("late".into())).await.unwrap();
    let id = result.id();
    drop(result);
    store.hold();
    open("late");
    store.holds_back(b'e').await;
    clock.advance(SECOND);
    has_heard(&app, id).await;
    store.release();
    store.has_none_of(b"er").await;
    app.shutdown().await.unwrap();
}

/// A workflow that has ended, and whose deletion waits for the store.
async fn being_swept(store: &HeldStore, clock: &Clock) -> (App, Id) {
    let app = set_up(store, clock)
        .retention(SECOND)
        .start()
        .await
        .unwrap();
    let result = app.apply_async(quick.s(1)).await.unwrap();
    within(result.get()).await.unwrap();
    within(result.at_rest()).await.unwrap();
    let id = result.id();
    drop(result);
    store.hold();
    clock.advance(2 * SECOND);
    store.holds_back(b'r').await;
    (app, id)
}

/// A handle was given of what was on its way out: its `get` failed, and its `at_rest` waited for ever.
#[tokio::test]
async fn a_lookup_of_a_result_that_is_being_swept_gives_no_handle() {
    let (store, clock) = (HeldStore::default(), clock());
    let (app, id) = being_swept(&store, &clock).await;
    let mut find = std::pin::pin!(app.async_result::<u64>(id));
    // (What it is told must be durable.)
    assert!(poll!(find.as_mut()).is_pending());
    store.release();
    let found = within(find).await;
    assert!(
        matches!(found, Err(Error::Id(IdError::Unknown { .. }))),
        "{found:?}"
    );
    app.shutdown().await.unwrap();
}

/// It was confirmed, and put a record of the workflow back.
#[tokio::test]
async fn what_is_being_swept_cannot_be_forgotten() {
    let (store, clock) = (HeldStore::default(), clock());
    let (app, id) = being_swept(&store, &clock).await;
    let mut forget = std::pin::pin!(app.forget(id));
    assert!(poll!(forget.as_mut()).is_pending());
    has_heard(&app, id).await;
    store.release();
    let forgotten = within(forget).await;
    assert!(
        matches!(forgotten, Err(Error::Id(IdError::Unknown { .. }))),
        "{forgotten:?}"
    );
    store.has_none_of(b"er").await;
    app.shutdown().await.unwrap();
}

/// A handle keeps its workflow; should that fail, no caller waits for ever.
#[tokio::test]
async fn a_waiter_whose_workflow_is_gone_is_told_so() {
    let store = HeldStore::default();
    let app = set_up(&store, &clock()).start().await.unwrap();
    let canvas = group([quick.s(1), quick.s(2)]);
    let result = app.apply_async(canvas).await.unwrap();
    within(result.get()).await.unwrap();
    within(result.at_rest()).await.unwrap();
    let children = result.children::<u64>().await.unwrap();
    let mut batch = Batch::new();
    for pair in store.1.scan(b"a", b"z") {
        batch.delete(pair.unwrap().0);
    }
    store.1.apply(batch).unwrap();
    let is_unknown =
        |error: Option<Error>| matches!(error, Some(Error::Id(IdError::Unknown { .. })));
    assert!(is_unknown(within(result.get()).await.err()));
    assert!(is_unknown(within(result.at_rest()).await.err()));
    assert!(is_unknown(within(children[0].get()).await.err()));
    assert!(is_unknown(within(children[1].at_rest()).await.err()));
    let mut completions = result.completions();
    let next = within(completions.next()).await.unwrap();
    assert!(is_unknown(next.err()));
    drop(app);
}
