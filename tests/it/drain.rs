//! Shutting down: nothing starts any more, what runs gets its time, and the rest goes on in the next
//! life as if it had not begun.

use std::collections::HashSet;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use chordal::persistence::MemoryStore;
use chordal::prelude::*;
use chordal::{AppBuilder, Error, State};
use tokio::sync::watch;

use crate::recovery::within;

/// What has been entered: the test's own number, the task's, the attempt.
static ENTERED: LazyLock<watch::Sender<Vec<(u64, u64, u32)>>> =
    LazyLock::new(watch::Sender::default);
static OPEN: LazyLock<watch::Sender<HashSet<(u64, u64)>>> = LazyLock::new(watch::Sender::default);
static TESTS: AtomicU64 = AtomicU64::new(1);

/// Ends when it is let; a failure would be its last.
#[task(name = "drain.held", max_retries = 0)]
async fn held(ctx: &TaskContext, test: u64, n: u64) -> u64 {
    ENTERED.send_modify(|entered| entered.push((test, n, ctx.attempt())));
    let mut open = OPEN.subscribe();
    let _ = open.wait_for(|open| open.contains(&(test, n))).await;
    n
}

fn builder(store: &MemoryStore) -> AppBuilder {
    let app = App::with_store(store.clone()).concurrency(2);
    app.tasks(tasks![held])
}

fn attempts(test: u64, n: u64) -> Vec<u32> {
    let entered = ENTERED.borrow();
    let mine = entered
        .iter()
        .filter(|(of, task, _)| (*of, *task) == (test, n));
    mine.map(|(.., attempt)| *attempt).collect()
}

async fn entered(test: u64, n: u64, times: usize) {
    let mut entered = ENTERED.subscribe();
    let enough = entered.wait_for(|all| {
        let mine = all.iter().filter(|(of, task, _)| (*of, *task) == (test, n));
        mine.count() >= times
    });
    within(enough).await.unwrap();
}

fn let_end(test: u64, n: u64) {
    OPEN.send_modify(|open| {
        open.insert((test, n));
    });
}

#[tokio::test]
async fn what_runs_may_end_what_waits_does_not_start_and_what_is_cut_short_has_lost_nothing() {
    let (test, store) = (TESTS.fetch_add(1, Ordering::Relaxed), MemoryStore::new());
    // Long enough for the one, over at once for the other.
    let app = builder(&store)
        .grace(Duration::from_millis(300))
        .start()
        .await
        .unwrap();
    let mut ids = Vec::new();
    for n in 0..4 {
        ids.push(app.apply_async(held.s(test, n)).await.unwrap().id());
    }
    entered(test, 0, 1).await;
    entered(test, 1, 1).await;
    let stopping = tokio::spawn({
        let app = app.clone();
        async move { app.shutdown().await }
    });
    // Nothing is taken in any more as soon as it stops.
    let refused = within(async {
        loop {
            match app.apply_async(held.s(test, 9)).await {
                Err(error) => break error,
                Ok(more) => drop(more),
            }
        }
    });
    assert!(matches!(refused.await, Error::ShutDown));
    let_end(test, 0);
    within(stopping).await.unwrap().unwrap();
    assert_eq!((attempts(test, 2), attempts(test, 3)), (vec![], vec![]));

    let app = builder(&store).start().await.unwrap();
    let done = app.async_result::<u64>(ids[0]).await.unwrap();
    assert_eq!(
        done.state().await.unwrap(),
        State::Success,
        "it had its time"
    );
    for n in [1, 2, 3, 9] {
        let_end(test, n);
    }
    for (n, id) in (1..).zip(&ids[1..]) {
        // Not a retry, of which it has none: it was no failure.
        let result = app.async_result::<u64>(*id).await.unwrap();
        assert_eq!(within(result.get()).await.unwrap(), n);
    }
    assert_eq!(
        (attempts(test, 0), attempts(test, 1)),
        (vec![1], vec![1, 2])
    );
    assert_eq!((attempts(test, 2), attempts(test, 3)), (vec![1], vec![1]));
    assert!(app.quarantined().is_empty());
    app.shutdown().await.unwrap();
}

/// An app with one task that runs, and the time to wait for it.
async fn held_app(test: u64) -> (App, MemoryStore) {
    let store = MemoryStore::new();
    let app = builder(&store).grace(Duration::from_secs(3_600));
    let app = app.start().await.unwrap();
    let _ = app.apply_async(held.s(test, 0)).await.unwrap();
    entered(test, 0, 1).await;
    (app, store)
}

#[tokio::test]
async fn a_second_shutdown_waits_for_the_first() {
    let test = TESTS.fetch_add(1, Ordering::Relaxed);
    let (app, _) = held_app(test).await;
    let mut first = Box::pin(app.shutdown());
    let mut second = Box::pin(app.shutdown());
    assert!(futures_util::poll!(first.as_mut()).is_pending());
    assert!(futures_util::poll!(second.as_mut()).is_pending());
    let_end(test, 0);
    within(second).await.unwrap();
    within(first).await.unwrap();
    // There is nothing to wait for any more.
    within(app.shutdown()).await.unwrap();
}

#[tokio::test]
async fn a_shutdown_that_nobody_waits_for_goes_on_and_the_next_waits_for_it() {
    let test = TESTS.fetch_add(1, Ordering::Relaxed);
    let (app, store) = held_app(test).await;
    assert!(futures_util::poll!(Box::pin(app.shutdown())).is_pending());
    let mut second = Box::pin(app.shutdown());
    assert!(futures_util::poll!(second.as_mut()).is_pending());
    let refused = app.apply_async(held.s(test, 1)).await.unwrap_err();
    assert!(matches!(refused, Error::ShutDown), "{refused}");
    let_end(test, 0);
    within(second).await.unwrap();
    // It had its time: nothing is left to do.
    let app = builder(&store).start().await.unwrap();
    assert_eq!(app.live_workflows(), 0);
    app.shutdown().await.unwrap();
}
