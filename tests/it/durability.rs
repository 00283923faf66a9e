//! Nobody is told of what is not durable yet.

use std::sync::Arc;
use std::time::{Duration, Instant};

use chordal::persistence::{Batch, MemoryStore, Scan, Store};
use chordal::prelude::*;
use chordal::{Durability, State, StoreError};
use parking_lot::{Condvar, Mutex};
use tokio::sync::Semaphore;

/// A store in memory whose syncs wait while its gate is shut: what was applied can be read, and is
/// not durable.
#[derive(Clone, Debug, Default)]
struct Gated {
    inner: MemoryStore,
    gate: Arc<(Mutex<Gate>, Condvar)>,
}

#[derive(Debug, Default)]
struct Gate {
    shut: bool,
    /// Someone waits at it.
    waiting: bool,
}

impl Gated {
    fn shut(&self) {
        self.gate.0.lock().shut = true;
    }

    fn open(&self) {
        self.gate.0.lock().shut = false;
        self.gate.1.notify_all();
    }

    fn until_somebody_waits(&self) {
        let mut gate = self.gate.0.lock();
        while !gate.waiting {
            self.gate.1.wait(&mut gate);
        }
    }
}

impl Store for Gated {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        self.inner.get(key)
    }

    fn scan(&self, from: &[u8], to: &[u8]) -> Scan<'_> {
        self.inner.scan(from, to)
    }

    fn apply(&self, batch: Batch) -> Result<(), StoreError> {
        self.inner.apply(batch)
    }

    fn sync(&self, _: Durability) -> Result<(), StoreError> {
        let mut gate = self.gate.0.lock();
        gate.waiting = gate.shut;
        self.gate.1.notify_all();
        while gate.shut {
            self.gate.1.wait(&mut gate);
        }
        Ok(())
    }
}

static RELEASED: Semaphore = Semaphore::const_new(0);

#[task]
async fn held(n: u64) -> u64 {
    RELEASED.acquire().await.expect("never closed").forget();
    n
}

#[test]
fn what_is_applied_but_not_durable_is_told_to_nobody() {
    pollster::block_on(async {
        let store = Gated::default();
        let app = App::with_store(store.clone())
            .tasks(tasks![held])
            .start()
            .await
            .unwrap();
        let result = app.apply_async(group([held.s(7)])).await.unwrap();
        let member = &result.children::<u64>().await.unwrap()[0];

        store.shut();
        RELEASED.add_permits(1);
        store.until_somebody_waits();
        // The member's end, the verdict and the result have been applied, all of them.
        assert_eq!(result.state().await.unwrap(), State::Started);
        assert_eq!(member.state().await.unwrap(), State::Started);
        assert!(!result.ready().await.unwrap());
        assert_eq!(result.completed_count().await.unwrap(), 0);
        let mut completions = result.completions();
        let next = std::pin::pin!(completions.next());
        assert!(futures_util::poll!(next).is_pending());
        let again = app.async_result::<Vec<u64>>(result.id()).await.unwrap();
        assert!(!again.ready().await.unwrap());

        store.open();
        assert_eq!(result.get().await.unwrap(), [7]);
        assert_eq!(member.get().await.unwrap(), 7);
        assert_eq!(result.completed_count().await.unwrap(), 1);
        app.shutdown().await.unwrap();
    });
}

static BEGUN: Semaphore = Semaphore::const_new(0);
static LET_GO: Semaphore = Semaphore::const_new(0);

#[task]
async fn linked(n: u64) -> u64 {
    BEGUN.add_permits(1);
    LET_GO.acquire().await.expect("never closed").forget();
    n
}

#[task]
async fn pass(n: u64) -> u64 {
    n
}

/// The last callback's end takes the workflow from among the live ones, and that it has gone can be seen
/// before it is durable: a body that had been told to be at rest ran again after a crash.
#[test]
fn that_all_is_at_rest_is_told_when_that_is_durable() {
    pollster::block_on(async {
        let store = Gated::default();
        let app = App::with_store(store.clone())
            .tasks(tasks![linked, pass])
            .start()
            .await
            .unwrap();
        let canvas = pass.s(7).link(linked.partial());
        let result = app.apply_async(canvas).await.unwrap();
        assert_eq!(result.get().await.unwrap(), 7);
        BEGUN.acquire().await.unwrap().forget();

        store.shut();
        LET_GO.add_permits(1);
        store.until_somebody_waits();
        let mut at_rest = std::pin::pin!(result.at_rest());
        assert!(futures_util::poll!(at_rest.as_mut()).is_pending());
        store.open();
        at_rest.await.unwrap();
        app.shutdown().await.unwrap();
    });
}

/// The engine of a dropped app cannot end while its store waits: the drop does not wait for it, and
/// the next app over the store does.
#[tokio::test]
async fn dropping_the_last_app_blocks_no_thread_and_the_store_can_be_opened_again() {
    let store = Gated::default();
    let start = || {
        let app = App::with_store(store.clone()).tasks(tasks![pass]);
        app.start()
    };
    let app = start().await.unwrap();
    let id = app.apply_async(pass.s(7)).await.unwrap().id();
    let result = app.async_result::<u64>(id).await.unwrap();
    assert_eq!((&result).await.unwrap(), 7);
    store.shut();
    {
        let mut unheard = std::pin::pin!(app.apply_async(pass.s(8)));
        assert!(futures_util::poll!(unheard.as_mut()).is_pending());
        store.until_somebody_waits();
    }
    let dropped = Instant::now();
    drop(app);
    assert!(dropped.elapsed() < Duration::from_secs(1), "it has waited");
    let mut next = std::pin::pin!(start());
    assert!(futures_util::poll!(next.as_mut()).is_pending());
    store.open();
    let app = next.await.unwrap();
    assert_eq!(app.async_result::<u64>(id).await.unwrap().await.unwrap(), 7);
    app.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_store_on_disk_can_be_opened_at_once_after_its_app_was_dropped() {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("data");
    let mut ids = Vec::new();
    for n in 0..5 {
        let app = App::open(&path).tasks(tasks![pass]).start().await.unwrap();
        for (n, id) in (0..).zip(&ids) {
            assert_eq!(
                app.async_result::<u64>(*id).await.unwrap().await.unwrap(),
                n
            );
        }
        let result = app.apply_async(pass.s(n)).await.unwrap();
        assert_eq!((&result).await.unwrap(), n);
        ids.push(result.id());
        // `result` outlives the app, and keeps nothing open.
        drop(app);
    }
    assert!(App::verify(&path).await.unwrap().is_sound());
}
