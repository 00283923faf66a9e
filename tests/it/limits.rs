//! Time limits of a body that blocks its thread, and settings at the end of their range.

use std::collections::HashMap;
use std::sync::{LazyLock, Mutex};
use std::time::{Duration, SystemTime};

use chordal::prelude::*;
use chordal::{AppBuilder, Clock, Error, FailureKind, StartError};

use crate::recovery::within;

/// The clocks of these tests.
static CLOCKS: LazyLock<Mutex<HashMap<String, Clock>>> = LazyLock::new(Mutex::default);

fn clock(test: &str) -> Clock {
    let start = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
    let mut clocks = CLOCKS.lock().unwrap();
    let clock = clocks.entry(test.to_owned());
    clock.or_insert_with(|| Clock::manual(start)).clone()
}

/// Takes so many seconds, in which it does not let go of its thread.
fn block(test: &str, seconds: u64) {
    clock(test).advance(Duration::from_secs(seconds));
}

#[task(name = "limits.at_once", time_limit = "10s")]
async fn at_once(test: String, seconds: u64) -> u64 {
    block(&test, seconds);
    seconds
}

#[task(name = "limits.later", time_limit = "10s")]
async fn later(test: String, seconds: u64) -> u64 {
    tokio::task::yield_now().await;
    block(&test, seconds);
    seconds
}

#[task(name = "limits.soft", soft_time_limit = "10s", time_limit = "20s")]
async fn soft(test: String, seconds: u64) -> u64 {
    block(&test, seconds);
    seconds
}

#[task(name = "limits.listens", soft_time_limit = "10s", time_limit = "20s")]
async fn listens(ctx: &TaskContext, test: String, seconds: u64) -> u64 {
    let _ = ctx.is_over_soft_time_limit();
    block(&test, seconds);
    seconds
}

#[task(name = "limits.on_a_thread", blocking)]
fn on_a_thread() -> u64 {
    1
}

async fn check(app: &App, test: &str) {
    let test = test.to_owned();
    let end = async |signature: Signature<(), u64>| {
        let result = app.apply_async(signature).await.unwrap();
        match within(result.get()).await {
            Ok(value) => Ok(value),
            Err(Error::Failed(failure)) => Err(failure.kind),
            Err(other) => panic!("{other:?}"),
        }
    };
    use FailureKind::{SoftTimeLimit, TimeLimit};
    assert_eq!(end(at_once.s(test.clone(), 9)).await, Ok(9));
    assert_eq!(end(at_once.s(test.clone(), 11)).await, Err(TimeLimit));
    assert_eq!(end(later.s(test.clone(), 9)).await, Ok(9));
    assert_eq!(end(later.s(test.clone(), 11)).await, Err(TimeLimit));
    assert_eq!(end(soft.s(test.clone(), 9)).await, Ok(9));
    assert_eq!(end(soft.s(test.clone(), 11)).await, Err(SoftTimeLimit));
    assert_eq!(end(soft.s(test.clone(), 21)).await, Err(TimeLimit));
    assert_eq!(end(listens.s(test.clone(), 11)).await, Ok(11));
    assert_eq!(end(listens.s(test, 21)).await, Err(TimeLimit));
}

fn set_up(app: AppBuilder, test: &str) -> AppBuilder {
    let tasks = tasks![at_once, later, soft, listens, on_a_thread];
    app.tasks(tasks).clock(clock(test))
}

#[tokio::test]
async fn an_async_body_that_blocks_beyond_its_limit_fails_however_it_ends() {
    let app = set_up(App::in_memory(), "engine").start().await.unwrap();
    check(&app, "engine").await;
    app.shutdown().await.unwrap();
}

#[tokio::test]
async fn an_eager_body_that_blocks_beyond_its_limit_fails_however_it_ends() {
    let app = set_up(App::eager(), "eager").start().await.unwrap();
    check(&app, "eager").await;
}

#[tokio::test]
async fn the_largest_settings_are_taken() {
    let app = set_up(App::in_memory(), "largest")
        .concurrency(u64::MAX)
        .blocking_concurrency(u64::MAX)
        .queue("mail", u64::MAX)
        .queue("post", u64::MAX)
        .live_workflows(u64::MAX)
        .window(u64::MAX)
        .max_pending(u64::MAX)
        .max_pending_bytes(u64::MAX)
        .max_payload(u64::MAX)
        .quarantine_after(u32::MAX)
        .retention(Duration::MAX)
        .grace(Duration::MAX)
        .start()
        .await
        .unwrap();
    let all = group((0..3).map(|_| on_a_thread.s()));
    let all = app.apply_async(all).await.unwrap();
    assert_eq!(within(all.get()).await.unwrap(), [1, 1, 1]);
    within(app.shutdown()).await.unwrap();
}

#[tokio::test]
async fn more_threads_than_can_be_counted_are_refused_by_name() {
    for threads in [32_768, u64::MAX] {
        let app = App::in_memory().worker_threads(threads).start();
        let error = app.await.unwrap_err();
        assert!(
            matches!(error, Error::Start(StartError::InvalidSetting { value, .. }) if value == threads),
            "{error}"
        );
        assert!(error.to_string().contains("worker_threads"), "{error}");
    }
}

#[tokio::test]
async fn a_setting_out_of_its_range_is_refused_by_name() {
    type Set = fn(AppBuilder) -> AppBuilder;
    let set: [(&str, u64, Set); 11] = [
        ("window", 0, |app| app.window(0)),
        ("live_workflows", 0, |app| app.live_workflows(0)),
        ("concurrency", 0, |app| app.concurrency(0)),
        ("blocking_concurrency", 0, |app| app.blocking_concurrency(0)),
        ("queue(\"mail\")", 0, |app| app.queue("mail", 0)),
        ("worker_threads", 0, |app| app.worker_threads(0)),
        ("worker_threads", 32_768, |app| app.worker_threads(32_768)),
        ("max_pending", 0, |app| app.max_pending(0)),
        ("max_pending_bytes", 0, |app| app.max_pending_bytes(0)),
        ("max_payload", 0, |app| app.max_payload(0)),
        ("quarantine_after", 2, |app| app.quarantine_after(2)),
    ];
    for (name, wrong, set) in set {
        for app in [App::in_memory(), App::eager()] {
            let error = set(app).start().await.unwrap_err();
            let Error::Start(StartError::InvalidSetting {
                setting,
                value,
                allowed,
            }) = &error
            else {
                panic!("{name}: {error}");
            };
            assert_eq!((&**setting, *value), (name, wrong));
            let text = format!("the setting `{name}` is {wrong}, and must be {allowed}");
            assert_eq!(error.to_string(), text);
        }
    }
}
