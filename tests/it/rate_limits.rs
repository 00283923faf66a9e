//! Limits on how many tasks start in a period.

use std::time::{Duration, SystemTime};

use chordal::persistence::MemoryStore;
use chordal::prelude::*;
use chordal::{
    AppBuilder, Clock, Error, FailureKind, Parameter, RateLimit, StartError, State, Task,
    TaskOptions,
};

use crate::calls::{CALLS, call, calls, reached};
use crate::disk::Disk;
use crate::recovery::within;

#[path = "../../macros/src/rate.rs"]
mod rate;

const MOMENT: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);

/// Waits for so many calls, and checks that there are no more.
async fn called(app: &App, key: &str, count: usize) {
    within(reached(key, count)).await;
    // The functions are called before the engine has counted their starts. It has done so when a
    // later task has ended.
    for _ in 0..2 {
        let later = app.apply_async(free.s("later".into())).await.unwrap();
        within(later.get()).await.unwrap();
    }
    assert_eq!(calls(key), count, "{key}");
}

#[task(name = "rates.per_minute", rate_limit = "10/m", queue = "one")]
async fn per_minute(key: String) -> String {
    call(&key);
    key
}

#[task(name = "rates.at_once", rate_limit = "3/m", burst = 3)]
async fn at_once(key: String) {
    call(&key);
}

#[task(name = "rates.free", queue = "one")]
async fn free(key: String) {
    call(&key);
}

/// Starts one after the other, as soon as there is a slot.
#[task(name = "rates.quick", rate_limit = "100/s", queue = "one")]
async fn quick(key: String) {
    call(&key);
}

/// Gives up a call, so that it asks for its slot twice, and then fails.
#[task(
    name = "rates.impatient",
    rate_limit = "1/h",
    queue = "one",
    max_retries = 1,
    default_retry_delay = "0s"
)]
async fn impatient(ctx: &TaskContext, key: String) -> Result<(), TaskError> {
    call(&key);
    if ctx.attempt() == 1 {
        let called = ctx.call("inner", elsewhere.s(key.clone()));
        let give_up = format!("give up {key}");
        tokio::select! {
            _ = called => {}
            () = reached(&give_up, 1) => {}
        }
        return Err(TaskError::new("not yet"));
    }
    Ok(())
}

#[task(name = "rates.elsewhere", queue = "two")]
async fn elsewhere(key: String) {
    call(&format!("{key} elsewhere"));
}

/// Holds its slot until it is opened.
#[task(name = "rates.hold", queue = "one")]
async fn hold(key: String) {
    call(&key);
    reached(&format!("open {key}"), 1).await;
}

#[task(name = "rates.charge", limit = "stripe")]
async fn charge(key: String) {
    call(&key);
}

#[task(name = "rates.refund", limit = "stripe", rate_limit = "1/h")]
async fn refund(key: String) {
    call(&key);
}

#[task(
    name = "rates.failing",
    rate_limit = "1/m",
    max_retries = 2,
    default_retry_delay = "0s"
)]
async fn failing(ctx: &TaskContext, key: String) -> Result<u32, TaskError> {
    call(&key);
    match ctx.attempt() {
        3 => Ok(3),
        _ => Err(TaskError::new("not yet")),
    }
}

#[task(name = "rates.waiting", rate_limit = "1/h")]
async fn waiting(ctx: &TaskContext, key: String) -> Result<String, TaskError> {
    call(&key);
    ctx.call("inner", free.s(key.clone())).await?;
    call(&key);
    Ok(key)
}

fn clock() -> Clock {
    Clock::manual(SystemTime::UNIX_EPOCH + 1_000_000 * SECOND)
}

fn builder(store: impl chordal::persistence::Store, clock: &Clock) -> AppBuilder {
    App::with_store(store)
        .clock(clock.clone())
        .limit("stripe", RateLimit::per_minute(2).burst(2))
        .queue("one", 1)
        .grace(Duration::ZERO)
        .tasks(tasks![
            per_minute, at_once, free, quick, impatient, elsewhere, hold, charge, refund, failing,
            waiting
        ])
}

async fn start(clock: &Clock) -> App {
    builder(MemoryStore::new(), clock).start().await.unwrap()
}

#[tokio::test]
async fn starts_are_spread_over_the_period_and_every_period_has_at_most_as_many_as_allowed() {
    let clock = clock();
    let app = start(&clock).await;
    let key = || "spread".to_owned();
    let members = group((0..25).map(move |_| per_minute.s("spread".to_owned())));
    let all = app.apply_async(members).await.unwrap();
    let mut passed = Duration::ZERO;
    for start in 1..=25 {
        called(&app, &key(), start).await;
        // Every eleventh waits until the period of the first is over to its last millisecond.
        let next = match start % 10 {
            0 => 6 * SECOND + MOMENT,
            _ => 6 * SECOND,
        };
        clock.advance(next - MOMENT);
        passed += next;
        called(&app, &key(), start).await;
        clock.advance(MOMENT);
    }
    assert_eq!(passed, 150 * SECOND + 2 * MOMENT);
    assert_eq!(within(all.get()).await.unwrap().len(), 25);
    app.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_task_that_waits_for_its_limit_holds_no_slot_and_does_not_block_others() {
    let clock = clock();
    let store = MemoryStore::new();
    let app = builder(store, &clock)
        .live_workflows(4)
        .start()
        .await
        .unwrap();
    let mut limited = Vec::new();
    for _ in 0..50 {
        let one = per_minute.s("holds no slot".into());
        limited.push(app.apply_async(one).await.unwrap());
    }
    called(&app, "holds no slot", 1).await;
    // The queue has one slot, and the lane of these tasks is full.
    for _ in 0..3 {
        let other = app.apply_async(free.s("is free".into())).await.unwrap();
        within(other.get()).await.unwrap();
    }
    // Those beyond the lane's capacity wait in the store.
    assert!(app.live_workflows() <= 4, "{}", app.live_workflows());
    clock.advance(6 * SECOND);
    called(&app, "holds no slot", 2).await;
    let last = limited.pop().unwrap();
    assert_eq!(last.state().await.unwrap(), State::Pending);
    app.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_shared_limit_counts_the_starts_of_all_its_tasks_beside_their_own_limits() {
    let clock = clock();
    let app = start(&clock).await;
    for key in ["refund 1", "refund 2"] {
        let _ = app.apply_async(refund.s(key.into())).await.unwrap();
    }
    for _ in 0..3 {
        let _ = app.apply_async(charge.s("charge".into())).await.unwrap();
    }
    // Two starts in a minute, whatever the task; the second refund waits for its own limit, and
    // those behind it do not wait for it.
    called(&app, "refund 1", 1).await;
    called(&app, "charge", 1).await;
    clock.advance(MINUTE);
    called(&app, "charge", 1).await;
    clock.advance(MOMENT);
    called(&app, "charge", 3).await;
    clock.advance(MINUTE + MOMENT);
    called(&app, "refund 2", 0).await;
    clock.advance(58 * MINUTE);
    called(&app, "refund 2", 1).await;
    app.shutdown().await.unwrap();
}

#[tokio::test]
async fn each_attempt_is_a_start_and_a_wait_within_an_attempt_is_none() {
    let clock = clock();
    let app = start(&clock).await;
    let retried = app.apply_async(failing.s("retried".into())).await.unwrap();
    for attempt in 1..=2 {
        called(&app, "retried", attempt).await;
        clock.advance(MINUTE);
        called(&app, "retried", attempt).await;
        clock.advance(MOMENT);
    }
    assert_eq!(within(retried.get()).await.unwrap(), 3);
    let inner = app.apply_async(waiting.s("inner".into())).await.unwrap();
    assert_eq!(within(inner.get()).await.unwrap(), "inner");
    assert_eq!(calls("inner"), 3);
    app.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_task_that_is_revoked_or_expires_while_it_waits_uses_no_start() {
    let clock = clock();
    let app = start(&clock).await;
    let key = "uses no start";
    let first = app.apply_async(at_once.s(key.into())).await.unwrap();
    within(first.get()).await.unwrap();
    let expires = group((0..2).map(move |_| at_once.s(key.into())));
    let both = app.apply_async(expires).await.unwrap();
    within(both.get()).await.unwrap();
    called(&app, key, 3).await;
    let expired = at_once.s(key.into()).expires(10 * SECOND);
    let expired = app.apply_async(expired).await.unwrap();
    let revoked = app.apply_async(at_once.s(key.into())).await.unwrap();
    let last = app.apply_async(at_once.s(key.into())).await.unwrap();
    revoked.revoke().await.unwrap();
    clock.advance(MINUTE + MOMENT);
    within(last.get()).await.unwrap();
    for gone in [expired, revoked] {
        match within(gone.get()).await {
            Err(Error::Failed(failure)) => assert_eq!(failure.kind, FailureKind::Revoked),
            other => panic!("{other:?}"),
        }
    }
    // Of the three starts that this minute allows, one is used.
    for _ in 0..2 {
        let more = app.apply_async(at_once.s(key.into())).await.unwrap();
        within(more.get()).await.unwrap();
    }
    let _ = app.apply_async(at_once.s(key.into())).await.unwrap();
    called(&app, key, 6).await;
    app.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_start_of_a_task_that_is_revoked_while_it_waits_for_a_slot_goes_to_the_next() {
    let clock = clock();
    let app = start(&clock).await;
    let held = app.apply_async(hold.s("held".into())).await.unwrap();
    within(reached("held", 1)).await;
    // The first has a start and no slot, the second has neither.
    let first = app.apply_async(quick.s("first".into())).await.unwrap();
    let second = app.apply_async(quick.s("second".into())).await.unwrap();
    first.revoke().await.unwrap();
    clock.advance(SECOND);
    call("open held");
    within(held.get()).await.unwrap();
    within(second.get()).await.unwrap();
    assert_eq!((calls("first"), calls("second")), (0, 1));
    app.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_task_that_waits_for_a_slot_keeps_no_task_of_another_queue_from_starting() {
    let clock = clock();
    let app = start(&clock).await;
    let held = app.apply_async(hold.s("narrow".into())).await.unwrap();
    within(reached("narrow", 1)).await;
    let stuck = app.apply_async(quick.s("stuck".into())).await.unwrap();
    for _ in 0..3 {
        let other = quick.s("other queue".into()).queue("two");
        let other = app.apply_async(other).await.unwrap();
        within(other.get()).await.unwrap();
        clock.advance(SECOND);
    }
    assert_eq!(calls("stuck"), 0);
    call("open narrow");
    within(held.get()).await.unwrap();
    within(stuck.get()).await.unwrap();
    app.shutdown().await.unwrap();
}

#[tokio::test]
async fn limited_and_other_tasks_of_one_priority_take_turns_for_a_slot() {
    let clock = clock();
    let app = start(&clock).await;
    let held = app.apply_async(hold.s("turns".into())).await.unwrap();
    within(reached("turns", 1)).await;
    let others = group((0..40).map(|_| free.s("free turn".into())));
    let others = app.apply_async(others).await.unwrap();
    let limited = app
        .apply_async(quick.s("limited turn".into()))
        .await
        .unwrap();
    call("open turns");
    within(held.get()).await.unwrap();
    within(limited.get()).await.unwrap();
    within(others.get()).await.unwrap();
    let order: Vec<_> = CALLS
        .borrow()
        .iter()
        .filter(|of| of.ends_with(" turn"))
        .cloned()
        .collect();
    let position = order.iter().position(|of| of == "limited turn").unwrap();
    assert!(position < 3, "{position}");
    app.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_slot_that_an_earlier_attempt_asked_for_is_no_start_of_the_next() {
    let clock = clock();
    let app = start(&clock).await;
    let task = app
        .apply_async(impatient.s("impatient".into()))
        .await
        .unwrap();
    within(reached("impatient elsewhere", 1)).await;
    call("give up impatient");
    called(&app, "impatient", 1).await;
    clock.advance(60 * MINUTE);
    called(&app, "impatient", 1).await;
    clock.advance(MOMENT);
    within(task.get()).await.unwrap();
    called(&app, "impatient", 2).await;
    app.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_limit_holds_over_a_stop_and_over_a_crash() {
    for crashes in [false, true] {
        let key = match crashes {
            true => "over a crash",
            false => "over a stop",
        };
        let clock = clock();
        let mut disk = Disk::default();
        let mut app = builder(disk.clone(), &clock).start().await.unwrap();
        let all = group((0..7).map(move |_| at_once.s(key.into())));
        let all = app.apply_async(all).await.unwrap().id();
        called(&app, key, 3).await;
        for round in 1..=2 {
            // In the middle of the period the app starts anew.
            clock.advance(MINUTE / 2);
            match crashes {
                true => {
                    disk = disk.crashed();
                    drop(app);
                }
                false => app.shutdown().await.unwrap(),
            }
            app = builder(disk.clone(), &clock).start().await.unwrap();
            called(&app, key, 3 * round).await;
            clock.advance(MINUTE / 2);
            called(&app, key, 3 * round).await;
            // What the last process may have called just before its end counts from the start of
            // the next.
            if crashes {
                clock.advance(MINUTE / 2);
            }
            clock.advance(MOMENT);
            called(&app, key, (3 * (round + 1)).min(7)).await;
        }
        let result = app.async_result::<Vec<()>>(all).await.unwrap();
        assert_eq!(within(result.get()).await.unwrap().len(), 7);
        app.shutdown().await.unwrap();
    }
}

#[tokio::test]
async fn a_limit_is_not_moved_by_the_wall_clock() {
    let clock = clock();
    let app = start(&clock).await;
    let key = "wall clock";
    for _ in 0..4 {
        let _ = app.apply_async(at_once.s(key.into())).await.unwrap();
    }
    called(&app, key, 3).await;
    for time in [clock.now() + 9_000 * MINUTE, clock.now() - 9_000 * MINUTE] {
        clock.set(time);
        called(&app, key, 3).await;
    }
    clock.advance(MINUTE + MOMENT);
    called(&app, key, 4).await;
    app.shutdown().await.unwrap();
}

/// A task with these options.
struct Options<const WHICH: u8>;

impl<const WHICH: u8> Task for Options<WHICH> {
    type Args = ();
    type Output = ();
    const NAME: &'static str = "rates.options";
    const PARAMS: &'static [Parameter] = &[];
    const OPTIONS: TaskOptions = match WHICH {
        0 => TaskOptions::new().rate_limit(RateLimit::per_second(0)),
        1 => TaskOptions::new().rate_limit(RateLimit::new(1, Duration::ZERO)),
        2 => TaskOptions::new().rate_limit(RateLimit::per_second(5).burst(6)),
        _ => TaskOptions::new().limit("nowhere"),
    };

    async fn run(_: TaskContext, (): ()) -> Result<(), TaskError> {
        Ok(())
    }
}

#[tokio::test]
async fn a_limit_that_allows_nothing_or_is_not_set_is_an_error_of_the_start() {
    let started = |builder: AppBuilder| async { builder.start().await.map(drop).unwrap_err() };
    let app = App::in_memory;
    for error in [
        started(app().tasks(tasks![Options::<0>])).await,
        started(app().tasks(tasks![Options::<1>])).await,
        started(app().tasks(tasks![Options::<2>])).await,
    ] {
        assert!(
            matches!(error, Error::Start(StartError::InvalidTask { .. })),
            "{error:?}"
        );
    }
    let error = started(app().tasks(tasks![Options::<3>])).await;
    assert_eq!(
        error.to_string(),
        "task `rates.options` shares the limit `nowhere`, which the app does not have: \
         set it with `.limit(\"nowhere\", …)` or `.limit_concurrency(\"nowhere\", …)`"
    );
    let error = started(app().limit("mail", "10 a minute")).await;
    assert!(
        matches!(&error, Error::Start(StartError::InvalidLimit { name, .. }) if name == "mail"),
        "{error:?}"
    );
    assert_eq!(
        error.to_string(),
        "the limit `mail`: `10 a minute` is not a rate: write starts and a period, such as \
         \"10/s\", \"10/m\" or \"100/15s\""
    );
    let error = started(app().limit("mail", RateLimit::per_second(0))).await;
    assert!(
        matches!(error, Error::Start(StartError::InvalidLimit { .. })),
        "{error:?}"
    );
    let error = started(app().limit("m".repeat(256), "1/s")).await;
    assert!(
        matches!(error, Error::Start(StartError::NameTooLong { .. })),
        "{error:?}"
    );
}

/// The macro's reader is in another crate, which the library cannot share with it.
#[test]
fn the_macro_and_the_library_read_the_same_rates() {
    for text in [
        "1/ms",
        "10/s",
        "10/m",
        "2/h",
        "4294967295/d",
        "100/15s",
        "1/366d",
        "",
        "/",
        "10",
        "10/",
        "/m",
        "10/x",
        "10/M",
        "-1/s",
        "+1/s",
        "0.5/s",
        " 1/s",
        "1/ s",
        "0/s",
        "1/0s",
        "1/367d",
        "4294967296/s",
        "1/4294967296s",
        "1//s",
        "1/1s30s",
    ] {
        let in_macro = rate::parse(text).ok();
        let in_macro =
            in_macro.map(|rate| RateLimit::new(rate.starts, Duration::from_millis(rate.period_ms)));
        assert_eq!(in_macro, text.parse().ok(), "{text}");
    }
}
