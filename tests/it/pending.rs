//! Backpressure: how much may be pending, who waits for room, and what becomes of those who give up.

use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use chordal::persistence::MemoryStore;
use chordal::prelude::*;
use chordal::{AppBuilder, Error, SubmitError};
use futures_util::FutureExt;
use tokio::sync::watch;

use crate::disk::Disk;
use crate::recovery::within;

/// Tests whose tasks up to this number may end.
static OPEN: LazyLock<watch::Sender<Vec<(u64, u64)>>> = LazyLock::new(watch::Sender::default);
static TESTS: AtomicU64 = AtomicU64::new(1);

/// Ends when its test has let it.
#[task(name = "pending.held")]
async fn held(test: u64, n: u64) -> u64 {
    let mut open = OPEN.subscribe();
    let mine = |open: &Vec<(u64, u64)>| open.iter().any(|(of, up_to)| *of == test && n <= *up_to);
    let _ = open.wait_for(mine).await;
    n
}

#[task(name = "pending.sized")]
async fn sized(test: u64, text: String) -> u64 {
    held.call(test, text.len() as u64).await
}

/// Submits more and does not wait for it.
#[task(name = "pending.more")]
async fn more(ctx: &TaskContext, test: u64, n: u64) -> Result<u64, TaskError> {
    for i in 0..n {
        drop(ctx.apply_async(held.s(test, i)).await?);
    }
    Ok(n)
}

fn test() -> u64 {
    TESTS.fetch_add(1, Ordering::Relaxed)
}

fn let_end(test: u64, up_to: u64) {
    OPEN.send_modify(|open| open.push((test, up_to)));
}

fn builder(store: &MemoryStore) -> AppBuilder {
    App::with_store(store.clone()).tasks(tasks![held, sized, more])
}

/// Runs everything that can: a look at whoever waits is of use only then.
async fn turn() {
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn who_submits_more_than_may_be_pending_waits_and_comes_in_in_his_turn() {
    let (test, store) = (test(), MemoryStore::new());
    let app = builder(&store).max_pending(3).start().await.unwrap();
    for n in 0..3 {
        drop(app.apply_async(held.s(test, n)).await.unwrap());
    }
    let order = Arc::new(Mutex::new(Vec::new()));
    let mut waiting = Vec::new();
    for n in 3..9 {
        let (app, order) = (app.clone(), order.clone());
        let mut submit = Box::pin(async move {
            let result = app.apply_async(held.s(test, n)).await.unwrap();
            order.lock().unwrap().push(n);
            result
        });
        // It takes its place in line.
        assert!(submit.as_mut().now_or_never().is_none(), "{n}");
        waiting.push(tokio::spawn(submit));
    }
    turn().await;
    assert!(order.lock().unwrap().is_empty());
    assert!(matches!(
        app.try_apply_async(held.s(test, 0)).await,
        Err(Error::Submit(SubmitError::Busy { tasks: 3, .. }))
    ));
    // One ends, one comes in.
    for n in 0..9 {
        let_end(test, n);
        if n < 6 {
            let submitted = within(&mut waiting[n as usize]).await.unwrap();
            assert_eq!(*order.lock().unwrap(), (3..=n + 3).collect::<Vec<_>>());
            drop(submitted);
        }
    }
    let last = within(app.apply_async(held.s(test, 0))).await.unwrap();
    within(last.get()).await.unwrap();
    app.shutdown().await.unwrap();
}

#[tokio::test]
async fn who_gives_up_waiting_leaves_his_turn_to_the_next() {
    let (test, store) = (test(), MemoryStore::new());
    let app = builder(&store).max_pending(1).start().await.unwrap();
    drop(app.apply_async(held.s(test, 0)).await.unwrap());
    let mut first = Box::pin(app.apply_async(held.s(test, 1)));
    let mut second = Box::pin(app.apply_async(held.s(test, 1)));
    let mut third = Box::pin(app.apply_async(held.s(test, 1)));
    for waiting in [&mut first, &mut second, &mut third] {
        assert!(waiting.now_or_never().is_none());
    }
    drop(second);
    let_end(test, 1);
    // The first has come in, and is never looked at again: what it holds goes with it.
    while app.pending() > 1 || matches!(first.as_mut().now_or_never(), Some(Err(_))) {
        turn().await;
    }
    drop(first);
    let result = within(third).await.unwrap();
    assert_eq!(within(result.get()).await.unwrap(), 1);
    drop(result);
    within(async {
        while app.pending() > 0 {
            turn().await;
        }
    })
    .await;
    assert_eq!(app.pending_bytes(), 0);
    app.shutdown().await.unwrap();
}

#[tokio::test]
async fn bytes_count_too_and_what_is_too_large_is_taken_if_it_begins_with_room() {
    let (test, store) = (test(), MemoryStore::new());
    let app = builder(&store)
        .max_pending_bytes(10_000)
        .start()
        .await
        .unwrap();
    let large = "x".repeat(50_000);
    let result = app.apply_async(sized.s(test, large)).await.unwrap();
    assert!(
        (50_000..60_000).contains(&app.pending_bytes()),
        "{}",
        app.pending_bytes()
    );
    assert!(matches!(
        app.try_apply_async(held.s(test, 0)).await,
        Err(Error::Submit(SubmitError::Busy {
            tasks: 1,
            bytes: 50_000..
        }))
    ));
    let_end(test, 50_000);
    within(result.get()).await.unwrap();
    let group = group((0..5_000).map(move |n| held.s(test, n)));
    let all = within(app.try_apply_async(group)).await.unwrap();
    within(all.get()).await.unwrap();
    app.shutdown().await.unwrap();
}

#[tokio::test]
async fn members_of_a_lazy_group_count_as_they_are_drawn() {
    let (test, store) = (test(), MemoryStore::new());
    let app = builder(&store).max_pending(5_000).start().await.unwrap();
    let (drawn, pause) = (watch::Sender::new(0_u64), watch::Sender::new(false));
    let (mut seen, go_on) = (drawn.subscribe(), pause.subscribe());
    let members = (0..20_000_u64).map(move |n| {
        drawn.send_replace(n);
        if n == 15_000 {
            let mut go_on = go_on.clone();
            pollster::block_on(go_on.wait_for(|go_on| *go_on)).unwrap();
        }
        sized.s(test, "x".repeat(100))
    });
    let submitting = tokio::spawn({
        let app = app.clone();
        async move { app.apply_async(group(members)).await }
    });
    within(seen.wait_for(|n| *n == 15_000)).await.unwrap();
    within(async {
        while app.pending() < 5_000 {
            turn().await;
        }
    })
    .await;
    let busy = app.try_apply_async(held.s(test, 0)).await;
    assert!(
        matches!(busy, Err(Error::Submit(SubmitError::Busy { .. }))),
        "{busy:?}"
    );
    pause.send_modify(|go_on| *go_on = true);
    let all = within(submitting).await.unwrap().unwrap();
    assert_eq!(app.pending(), 20_001);
    let_end(test, 20_000);
    assert_eq!(within(all.get()).await.unwrap().len(), 20_000);
    app.shutdown().await.unwrap();
}

#[tokio::test]
async fn what_is_refused_or_given_up_while_it_is_drawn_takes_no_room() {
    let (test, store) = (test(), MemoryStore::new());
    let app = builder(&store).max_pending(100_000).start().await.unwrap();
    let members = (0..20_000_u64).map(move |n| match n {
        19_999 => Canvas::task("no.such.task", ()),
        n => held.s(test, n).into(),
    });
    let refused = within(app.apply_async(Canvas::group(members))).await;
    assert!(
        matches!(refused, Err(Error::Submit(SubmitError::Canvas { .. }))),
        "{refused:?}"
    );
    assert_eq!((app.pending(), app.pending_bytes()), (0, 0));
    let known = held.s(test, 7).idempotency_key("once");
    drop(app.apply_async(known).await.unwrap());
    let again = held.s(test, 7).idempotency_key("once");
    drop(app.apply_async(again).await.unwrap());
    assert_eq!(app.pending(), 1);
    let_end(test, 7);
    app.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_task_that_submits_does_not_wait_for_room() {
    let (test, store) = (test(), MemoryStore::new());
    let app = builder(&store).max_pending(1).start().await.unwrap();
    let result = app.apply_async(more.s(test, 10)).await.unwrap();
    assert_eq!(within(result.get()).await.unwrap(), 10);
    assert!(app.pending() >= 10);
    let_end(test, 10);
    drop(within(app.apply_async(held.s(test, 0))).await.unwrap());
    app.shutdown().await.unwrap();
}

#[tokio::test]
async fn what_is_pending_is_counted_over_stops_and_crashes() {
    let test = test();
    let mut disk = Disk::default();
    let open = |disk: &Disk| {
        let builder = App::with_store(disk.clone()).tasks(tasks![held, sized, more]);
        // Few are live: the others wait in the store.
        builder.max_pending(50).live_workflows(4).start()
    };
    let app = open(&disk).await.unwrap();
    let group = group((0..30).map(move |n| held.s(test, 100 + n)));
    drop(app.apply_async(group).await.unwrap());
    for _ in 0..19 {
        drop(app.apply_async(held.s(test, 100)).await.unwrap());
    }
    let full = (app.pending(), app.pending_bytes());
    assert_eq!(full.0, 50);
    disk = disk.crashed();
    drop(app);
    for _ in 0..2 {
        let app = open(&disk).await.unwrap();
        assert_eq!((app.pending(), app.pending_bytes()), full);
        let busy = app.try_apply_async(held.s(test, 0)).await;
        assert!(
            matches!(
                busy,
                Err(Error::Submit(SubmitError::Busy { tasks: 50, .. }))
            ),
            "{busy:?}"
        );
        app.shutdown().await.unwrap();
    }
    let app = open(&disk).await.unwrap();
    let_end(test, 200);
    within(async {
        while app.pending() > 0 {
            turn().await;
        }
    })
    .await;
    assert_eq!(app.pending_bytes(), 0);
    disk = disk.crashed();
    drop(app);
    let app = open(&disk).await.unwrap();
    assert!(app.pending() <= 50);
    app.shutdown().await.unwrap();
}

#[tokio::test]
async fn who_waits_when_the_app_stops_is_told() {
    let (test, store) = (test(), MemoryStore::new());
    let app = builder(&store).max_pending(1).start().await.unwrap();
    drop(app.apply_async(held.s(test, 0)).await.unwrap());
    let mut waiting = Box::pin(app.apply_async(held.s(test, 0)));
    assert!(waiting.as_mut().now_or_never().is_none());
    let_end(test, 0);
    let stopped = futures_util::future::join(app.shutdown(), waiting);
    let (stopped, waited) = within(stopped).await;
    stopped.unwrap();
    assert!(
        !matches!(
            waited,
            Err(Error::Submit(SubmitError::Busy { .. }) | Error::Halted(_))
        ),
        "{waited:?}"
    );
}
