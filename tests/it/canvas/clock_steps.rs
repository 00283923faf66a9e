//! The machine's clock is set, forward or back: a delay lasts as long as it says, and a point in time is when
//! the clock shows it; in memory, in the store, and over restarts.

use std::time::{Duration, SystemTime};

use serde_json::json;

use super::lives::{SECOND, World, settle};
use super::*;
use crate::recovery::within;
use chordal::persistence::MemoryStore;

const MOMENT: Duration = Duration::from_millis(1);
const HOUR: Duration = Duration::from_secs(3_600);
const YEAR: Duration = Duration::from_secs(365 * 24 * 3_600);
const DAYS: Duration = Duration::from_secs(10 * 24 * 3_600);

fn marked(key: &str) -> Canvas {
    Canvas::immutable("mark", (1, key))
}

/// Fails once, and asks for another attempt in so many seconds, or then.
#[task(max_retries = 3)]
async fn again(
    ctx: &TaskContext,
    delay: Option<u64>,
    eta: Option<u64>,
    key: String,
) -> Result<u32, TaskError> {
    note(&key, ctx.attempt());
    let retry = match (ctx.attempt(), delay, eta) {
        (1, Some(seconds), _) => ctx.retry().countdown(Duration::from_secs(seconds)),
        (1, _, Some(seconds)) => {
            let time = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
            ctx.retry().eta(time)
        }
        (attempt, ..) => return Ok(attempt),
    };
    Err(retry.into())
}

fn world() -> World {
    World::of(tasks![again])
}

/// Waits until it is on record what this node waits for; what the clock shows then.
async fn waits(app: &App, root: Id, seq: u128) -> SystemTime {
    let recorded = async {
        loop {
            if let Ok(result) = app.async_result::<Value>(node(root, seq)).await
                && let Some(due) = result.eta().await.unwrap()
            {
                return due;
            }
            tokio::task::yield_now().await;
        }
    };
    within(recorded).await
}

/// The settings of the clock that are tried: a year ahead, and ten days back.
fn steps(now: SystemTime) -> [SystemTime; 2] {
    [now + YEAR, now - DAYS]
}

#[tokio::test]
async fn a_delay_lasts_as_long_as_it_says_however_the_clock_is_set() {
    // What waits, as what node, and what has been noted before it does.
    type Case = (
        &'static str,
        fn(&str) -> Canvas,
        u128,
        &'static [&'static str],
    );
    let cases: [Case; 5] = [
        ("stored", |key| marked(key).countdown(10 * SECOND), 0, &[]),
        (
            "step",
            |key| marked(key) | marked(key).countdown(10 * SECOND),
            2,
            &["1"],
        ),
        (
            "members",
            |key| {
                Canvas::group([
                    marked(key).countdown(10 * SECOND),
                    marked(key).countdown(HOUR),
                ])
            },
            1,
            &[],
        ),
        (
            "expires",
            |key| marked(key).countdown(10 * SECOND).expires(11 * SECOND),
            0,
            &[],
        ),
        (
            "retry",
            |key| Canvas::immutable("again", (10, (), key)),
            0,
            &["1"],
        ),
    ];
    for (name, canvas, waiting, before) in cases {
        for step in 0..2 {
            for restarts in [false, true] {
                let world = world();
                let key = format!("clock: {name} {step} {restarts}");
                let mut app = world.start().await;
                let result = app.apply_async(canvas(&key)).await.unwrap();
                waits(&app, result.id(), waiting).await;
                world.clock.advance(4 * SECOND);
                world.clock.set(steps(world.clock.now())[step]);
                // It is shown as the clock goes now.
                let due = waits(&app, result.id(), waiting).await;
                assert_eq!(due, world.clock.now() + 6 * SECOND, "{key}");
                settle(&app).await;
                if restarts {
                    app = world.restart(app).await;
                }
                world.clock.advance(6 * SECOND - MOMENT);
                settle(&app).await;
                assert_eq!(notes(&key), before, "{key}");
                world.clock.advance(MOMENT);
                within(noted(&key, before.len() + 1)).await;
                app.shutdown().await.unwrap();
            }
        }
    }
}

#[tokio::test]
async fn a_point_in_time_is_when_the_clock_shows_it() {
    type Case = (fn(&str, SystemTime) -> Canvas, u128, usize);
    let cases: [(&str, Case); 4] = [
        ("stored", (|key, eta| marked(key).eta(eta), 0, 0)),
        (
            "step",
            (|key, eta| marked(key) | marked(key).eta(eta), 2, 1),
        ),
        (
            "beside",
            (
                |key, eta| Canvas::group([marked(key).countdown(HOUR), marked(key).eta(eta)]),
                2,
                0,
            ),
        ),
        (
            "retry",
            (
                |key, eta| {
                    let eta = eta.duration_since(SystemTime::UNIX_EPOCH).unwrap();
                    Canvas::immutable("again", ((), eta.as_secs(), key))
                },
                0,
                1,
            ),
        ),
    ];
    for (name, (canvas, waiting, before)) in cases {
        for restarts in [false, true] {
            let world = world();
            let eta = world.clock.now() + 2 * HOUR;
            let key = format!("clock: then {name} {restarts}");
            let mut app = world.start().await;
            let result = app.apply_async(canvas(&key, eta)).await.unwrap();
            let due = waits(&app, result.id(), waiting).await;
            assert_eq!(due, eta, "{key}");
            within(noted(&key, before)).await;

            // Set back, it is further away.
            world.clock.set(world.clock.now() - HOUR);
            if restarts {
                app = world.restart(app).await;
            }
            if name != "beside" {
                world.clock.advance(2 * HOUR + 30 * MOMENT);
            }
            settle(&app).await;
            assert_eq!(waits(&app, result.id(), waiting).await, eta, "{key}");
            assert_eq!(notes(&key).len(), before, "{key}");

            // Set forward, it has come, though no time has passed.
            world.clock.set(eta - MOMENT);
            settle(&app).await;
            assert_eq!(notes(&key).len(), before, "{key}");
            world.clock.set(eta);
            within(noted(&key, before + 1)).await;
            app.shutdown().await.unwrap();
        }
    }
}

#[tokio::test]
async fn what_expires_at_a_point_in_time_does_so_when_the_clock_shows_it() {
    for restarts in [false, true] {
        let world = world();
        let key = format!("clock: expires at {restarts}");
        let deadline = world.clock.now() + HOUR;
        let mut app = world.start().await;
        let canvas = marked(&key).countdown(10 * SECOND).expires_at(deadline);
        let id = app.apply_async(canvas).await.unwrap().id();
        waits(&app, id, 0).await;
        world.clock.set(deadline);
        if restarts {
            app = world.restart(app).await;
        }
        world.clock.advance(10 * SECOND);
        let result = app.async_result::<Value>(id).await.unwrap();
        let failure = within(failure_of(&result)).await;
        assert_eq!(failure.kind, FailureKind::Revoked);
        assert!(notes(&key).is_empty());
        app.shutdown().await.unwrap();
    }
}

#[tokio::test]
async fn a_result_is_kept_as_long_as_it_should_however_the_clock_is_set() {
    for step in 0..2 {
        for restarts in [false, true] {
            let world = world();
            let store = MemoryStore::new();
            let start = || world.over(store.clone()).retention(HOUR).start();
            let mut app = start().await.unwrap();
            let result = app.apply_async(add.s(1, 1)).await.unwrap();
            let id = result.id();
            within(result.at_rest()).await.unwrap();
            drop(result);
            world.clock.set(steps(world.clock.now())[step]);
            if restarts {
                within(app.shutdown()).await.unwrap();
                app = start().await.unwrap();
            }
            world.clock.advance(HOUR - SECOND);
            settle(&app).await;
            assert_eq!(
                app.async_result::<i64>(id)
                    .await
                    .unwrap()
                    .get()
                    .await
                    .unwrap(),
                2
            );
            world.clock.advance(SECOND);
            within(async {
                while app.async_result::<i64>(id).await.is_ok() {
                    tokio::task::yield_now().await;
                    world.clock.advance(SECOND);
                }
            })
            .await;
            app.shutdown().await.unwrap();
        }
    }
}

#[tokio::test]
async fn a_time_limit_and_a_timeout_are_delays() {
    let world = world();
    let app = world.start().await;
    let gate = "clock: limit";
    let canvas = Canvas::immutable("held", (1, gate)).time_limit(10 * SECOND);
    let result = app.apply_async(canvas).await.unwrap();
    noted(gate, 1).await;
    let mut waiting = std::pin::pin!(result.get_timeout(5 * SECOND));
    assert!(futures_util::poll!(waiting.as_mut()).is_pending());
    world.clock.set(world.clock.now() + YEAR);
    settle(&app).await;
    assert!(futures_util::poll!(waiting.as_mut()).is_pending());
    world.clock.set(world.clock.now() - YEAR - DAYS);
    world.clock.advance(5 * SECOND);
    let timeout = within(waiting).await;
    assert!(
        matches!(timeout, Err(Error::Get(GetError::Timeout { .. }))),
        "{timeout:?}"
    );
    world.clock.advance(5 * SECOND);
    let failure = within(failure_of(&result)).await;
    assert_eq!(failure.kind, FailureKind::TimeLimit);
    app.shutdown().await.unwrap();
}

/// A machine without a battery for its clock: each start of it begins at the same time of day.
#[tokio::test]
async fn a_delay_that_began_while_the_clock_was_wrong_does_not_wait_for_that_time() {
    let world = world();
    let store = MemoryStore::new();
    let now = world.clock.now();
    world.clock.set(now + YEAR);
    let app = world.over(store.clone()).start().await.unwrap();
    let key = "clock: wrong";
    let canvas = marked(key).countdown(HOUR);
    let id = app.apply_async(canvas).await.unwrap().id();
    waits(&app, id, 0).await;
    app.shutdown().await.unwrap();

    world.clock.set(now);
    let app = world.over(store).start().await.unwrap();
    world.clock.advance(HOUR - MOMENT);
    settle(&app).await;
    assert!(notes(key).is_empty());
    world.clock.advance(MOMENT);
    let result = app.async_result::<Value>(id).await.unwrap();
    assert_eq!(within(result.get()).await.unwrap(), json!(1));
    app.shutdown().await.unwrap();
}
