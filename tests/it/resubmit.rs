//! Canvases that are submitted again.

use std::time::{Duration, SystemTime};

use chordal::persistence::{MemoryStore, Store};
use chordal::prelude::*;
use chordal::{Clock, Error, IdError};

use crate::calls::{call, calls, reached};
use crate::recovery::within;

const SECOND: Duration = Duration::from_secs(1);

#[task(name = "resubmit.double")]
async fn double(n: u64) -> u64 {
    2 * n
}

#[task(name = "resubmit.sum")]
async fn sum(all: Vec<u64>) -> u64 {
    all.iter().sum()
}

/// Fails once.
#[task(name = "resubmit.flaky")]
async fn flaky(test: String, n: u64) -> Result<u64, TaskError> {
    call(&test);
    match calls(&test) {
        1 => Err(TaskError::new("503").fatal()),
        _ => Ok(n),
    }
}

#[task(name = "resubmit.waits")]
async fn waits(test: String) -> u64 {
    call(&test);
    reached(&format!("{test} open"), 1).await;
    7
}

#[task(name = "resubmit.tenant")]
async fn tenant(ctx: &TaskContext) -> String {
    ctx.stamps().get("tenant").cloned().unwrap_or_default()
}

/// Calls a group whose members are stored beside those of the workflow.
#[task(name = "resubmit.calls")]
async fn many(ctx: &TaskContext, n: u64) -> Result<u64, TaskError> {
    let members = group((0..3_000).map(move |i| double.s(i + n)));
    Ok(ctx.call("many", members | sum.partial()).await?)
}

async fn start(store: impl Store, clock: &Clock) -> App {
    let app = App::with_store(store).clock(clock.clone());
    let app = app.grace(Duration::ZERO);
    app.tasks(tasks![double, sum, flaky, waits, tenant, many])
        .start()
        .await
        .unwrap()
}

fn clock() -> Clock {
    Clock::manual(SystemTime::UNIX_EPOCH + 1_000_000 * SECOND)
}

fn large(n: u64) -> Signature<(), u64> {
    chord(
        group((0..3_000).map(move |i| double.s(i + n))),
        sum.partial(),
    )
}

/// Canvases of all sizes, with their values.
fn canvases() -> Vec<(Signature<(), u64>, u64)> {
    let of_many = |n: u64| (0..3_000).map(|i| 2 * (i + n)).sum::<u64>();
    vec![
        (double.s(4), 8),
        (double.s(4) | double.partial(), 16),
        (large(1), of_many(1)),
        (large(0) | double.partial(), 2 * of_many(0)),
        // A root that is too large for the header.
        (
            (0..300).fold(double.s(0), |chain, _| chain | double.partial()),
            0,
        ),
        (many.s(5), of_many(5)),
        (
            group([many.s(1), many.s(2)]) | sum.partial(),
            of_many(1) + of_many(2),
        ),
    ]
}

#[tokio::test]
async fn a_canvas_runs_again_as_it_was_submitted_also_after_a_restart() {
    let (store, clock) = (MemoryStore::new(), clock());
    let mut app = start(store.clone(), &clock).await;
    let mut submitted = Vec::new();
    for (canvas, value) in canvases() {
        let result = app.apply_async(canvas.idempotency_key(format!("{}", submitted.len())));
        let result = result.await.unwrap();
        assert_eq!(within(result.get()).await.unwrap(), value);
        submitted.push((result.id(), value));
    }
    for _ in 0..2 {
        for (id, value) in submitted.clone() {
            let again = app.resubmit::<u64>(id).await.unwrap();
            assert_ne!(again.id(), id);
            assert_eq!(within(again.get()).await.unwrap(), value);
            let first = app.async_result::<u64>(id).await.unwrap();
            assert_eq!(within(first.get()).await.unwrap(), value);
            // And what ran again runs once more.
            submitted.push((again.id(), value));
            submitted.remove(0);
        }
        within(app.shutdown()).await.unwrap();
        app = start(store.clone(), &clock).await;
    }
    // A key stays with the first one.
    let keyed = app.apply_async(double.s(100).idempotency_key("0")).await;
    assert_eq!(within(keyed.unwrap().get()).await.unwrap(), 8);
    within(app.shutdown()).await.unwrap();
}

#[tokio::test]
async fn what_failed_runs_whole_and_what_runs_may_run_twice() {
    let clock = clock();
    let app = start(MemoryStore::new(), &clock).await;
    let members = group([flaky.s("resubmit flaky".into(), 3), double.s(4)]);
    let chord = app.apply_async(members | sum.partial()).await.unwrap();
    within(chord.get()).await.unwrap_err();
    let again = app.resubmit::<u64>(chord.id()).await.unwrap();
    assert_eq!(within(again.get()).await.unwrap(), 11);
    assert_eq!(calls("resubmit flaky"), 2);

    let running = app.apply_async(waits.s("resubmit waits".into())).await;
    let running = running.unwrap();
    within(reached("resubmit waits", 1)).await;
    let second = app.resubmit::<u64>(running.id()).await.unwrap();
    within(reached("resubmit waits", 2)).await;
    call("resubmit waits open");
    assert_eq!(within(running.get()).await.unwrap(), 7);
    assert_eq!(within(second.get()).await.unwrap(), 7);

    let stamped = app.apply_async(tenant.s().stamp("tenant", "acme")).await;
    let again = app.resubmit::<String>(stamped.unwrap().id()).await.unwrap();
    assert_eq!(within(again.get()).await.unwrap(), "acme");

    // A delay counts from the second submission.
    let delayed = app.apply_async(double.s(1).countdown(60 * SECOND)).await;
    let delayed = delayed.unwrap();
    clock.advance(60 * SECOND);
    assert_eq!(within(delayed.get()).await.unwrap(), 2);
    let again = app.resubmit::<u64>(delayed.id()).await.unwrap();
    let due = within(async {
        loop {
            if let Some(due) = again.eta().await.unwrap() {
                break due;
            }
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert_eq!(due, clock.now() + 60 * SECOND);
    within(app.shutdown()).await.unwrap();
}

#[tokio::test]
async fn a_part_and_what_is_not_kept_cannot_be_submitted_again() {
    let app = start(MemoryStore::new(), &clock()).await;
    let pair = app.apply_async(group([double.s(1), double.s(2)])).await;
    let pair = pair.unwrap();
    within(pair.get()).await.unwrap();
    let member = pair.children::<u64>().await.unwrap()[0].id();
    let refused = app.resubmit::<u64>(member).await;
    assert!(
        matches!(refused, Err(Error::Id(IdError::NotARoot { id })) if id == member),
        "{refused:?}"
    );
    let id = pair.id();
    pair.forget().await.unwrap();
    for unknown in [id, app.new_id()] {
        let refused = app.resubmit::<Vec<u64>>(unknown).await;
        assert!(
            matches!(refused, Err(Error::Id(IdError::Unknown { id })) if id == unknown),
            "{refused:?}"
        );
    }
    within(app.shutdown()).await.unwrap();
}

#[test]
fn an_eager_app_submits_again() {
    let work = async {
        let app = App::eager().tasks(tasks![double, sum, many]);
        let app = app.start().await.unwrap();
        for (canvas, value) in canvases() {
            let result = app.apply_async(canvas).await.unwrap();
            assert_eq!(result.get().await.unwrap(), value);
            let again = app.resubmit::<u64>(result.id()).await.unwrap();
            assert_ne!(again.id(), result.id());
            assert_eq!(again.get().await.unwrap(), value);
        }
        app.shutdown().await.unwrap();
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    runtime.unwrap().block_on(work);
}
