//! Retries: how often, how late, with what, and what the task fails with at the end.

use std::time::{Duration, UNIX_EPOCH};

use serde_json::json;

use super::lives::{LONGEST, SECOND, World, becomes, failed, settle};
use super::*;
use crate::recovery::within;

const LARGE: usize = 5_000;
/// As large as is taken, or nearly.
const HUGE: usize = 1_000_000;

#[task(max_retries = 5)]
async fn plain() -> Result<(), TaskError> {
    Err(TaskError::new("plain"))
}

#[task(max_retries = 5, retry_backoff = "2s", retry_backoff_max = "10s")]
async fn backing_off() -> Result<(), TaskError> {
    Err(TaskError::new("backing off"))
}

#[task(max_retries = 3, default_retry_delay = "7s")]
async fn steady() -> Result<(), TaskError> {
    Err(TaskError::new("steady"))
}

#[task(max_retries = 2, default_retry_delay = "7s", retry_backoff = "2s")]
async fn both_delays(ctx: &TaskContext, ask: bool) -> Result<(), TaskError> {
    match ask {
        true => Err(ctx.retry().into()),
        false => Err(TaskError::new("both")),
    }
}

#[task(
    max_retries = 8,
    retry_backoff = "2s",
    retry_backoff_max = "100s",
    retry_jitter = true
)]
async fn jittery() -> Result<(), TaskError> {
    Err(TaskError::new("jittery"))
}

fn is_network(error: &TaskError) -> bool {
    error.error_type() == "Network"
}

/// Fails as it is told; only one way is worth a retry.
#[task(max_retries = 2, retry_if = is_network)]
async fn choosy(ctx: &TaskContext, how: String, key: String) -> Result<(), TaskError> {
    note(&key, ctx.attempt());
    let network = TaskError::new(how.clone()).with_type("Network");
    match &*how {
        "network" => Err(network),
        "fatal" => Err(network.fatal()),
        "asked" => Err(ctx.retry().cause(TaskError::new(how)).into()),
        "slow" => std::future::pending().await,
        "panic" => panic!("{how}"),
        _ => Err(TaskError::new(how)),
    }
}

/// Asks for another attempt in every way; gives its attempt when it is the `last`.
#[task(max_retries = 3)]
async fn asks(ctx: &TaskContext, how: String, last: u32) -> Result<u32, TaskError> {
    if ctx.attempt() == last {
        return Ok(last);
    }
    let retry = ctx.retry();
    let eta = |secs| UNIX_EPOCH + Duration::from_secs(secs);
    Err(match &*how {
        "countdown" => retry.countdown(3 * SECOND),
        "eta" => retry.eta(eta(1_000_000 + 10 * u64::from(ctx.attempt()))),
        "past" => retry.eta(eta(7)),
        "cause" => retry.cause("x".parse::<i64>().unwrap_err()),
        "once" => retry.max_retries(1),
        "often" => retry.max_retries(6),
        _ => retry,
    }
    .into())
}

/// Counts down by changed arguments, with a text that may be large.
#[task(max_retries = 9)]
async fn shrinks(
    ctx: &TaskContext,
    left: u64,
    text: String,
    key: String,
) -> Result<usize, TaskError> {
    note(&key, format!("{left} {}", text.len()));
    match left {
        0 => Ok(text.len()),
        // Without arguments it keeps those that it has.
        2 if ctx.attempt().is_multiple_of(2) => Err(ctx.retry().into()),
        left => Err(ctx.retry().args((left - 1, text, key)).into()),
    }
}

/// Asks with arguments that do not fit.
#[task(max_retries = 3)]
async fn misfits(ctx: &TaskContext, how: String) -> Result<(), TaskError> {
    let retry = ctx.retry();
    Err(match &*how {
        "none" => retry.args(()),
        "many" => retry.args((how, 1)),
        "type" => retry.args((1,)),
        "no list" => retry.args(1),
        other => retry.args((other.to_uppercase(),)).max_retries(1),
    }
    .into())
}

/// Fails at each number as often as it is told to, which is counted over all attempts.
#[task(max_retries = 3)]
async fn trips(ctx: &TaskContext, n: i64, key: String) -> Result<i64, TaskError> {
    note(&key, n);
    match n {
        2 if ctx.attempt() == 1 => Err(TaskError::new("tripped")),
        3 if ctx.attempt() == 2 => Err(ctx.retry().countdown(SECOND).into()),
        13 => Err(ctx.retry().args((1, key)).into()),
        14 => ctx.replace(add.s(1, 1)),
        _ => Ok(n),
    }
}

fn is_worth_nothing(_: &TaskError) -> bool {
    false
}

/// What it asks for in attempt `attempt` of the task: `f`ree or `c`ounted, after so many seconds;
/// `p`olicy's delay and free; an `e`rror; `x` is an error that was final.
fn asked(plan: &str, attempt: u32) -> Result<u32, TaskError> {
    let Some(step) = plan.split(' ').nth(attempt as usize - 1) else {
        return Ok(attempt);
    };
    let wait = |secs: &str| TaskError::retry_after(Duration::from_secs(secs.parse().unwrap()));
    Err(match step.split_at(1) {
        ("f", secs) => wait(secs).without_counting().with_reason("429"),
        ("c", secs) => wait(secs).with_reason("429"),
        ("p", _) => TaskError::new("503").without_counting(),
        ("x", _) => TaskError::new("503").fatal().without_counting(),
        _ => TaskError::new("error"),
    })
}

#[task(
    max_retries = 2,
    retry_backoff = "1s",
    retry_backoff_max = "5s",
    retry_jitter = true
)]
async fn waits(ctx: &TaskContext, plan: String) -> Result<u32, TaskError> {
    asked(&plan, ctx.attempt())
}

#[task(blocking, max_retries = 2, default_retry_delay = "7s", retry_if = is_worth_nothing)]
fn waits_blocking(ctx: &TaskContext, plan: String) -> Result<u32, TaskError> {
    asked(&plan, ctx.attempt())
}

/// It has no retries at all.
#[task(soft_time_limit = "5s")]
async fn waits_once(ctx: &TaskContext, plan: String) -> Result<u32, TaskError> {
    asked(&plan, ctx.attempt())
}

fn world() -> World {
    World::of(tasks![
        waits,
        waits_blocking,
        waits_once,
        plain,
        backing_off,
        steady,
        both_delays,
        jittery,
        choosy,
        asks,
        shrinks,
        misfits,
        trips
    ])
}

/// The delays of a canvas's retries and how it ends, in an app of its own.
async fn delays(world: &World, canvas: impl Into<Canvas>) -> (Vec<u64>, super::lives::End) {
    let app = world.start().await;
    let result = app.apply_async(canvas.into()).await.unwrap();
    let delays = world.delays(&result).await;
    let end = world.end(&result).await;
    within(app.shutdown()).await.unwrap();
    (delays, end)
}

async fn delays_of(canvas: impl Into<Canvas>) -> Vec<u64> {
    delays(&world(), canvas).await.0
}

#[tokio::test]
async fn delays_double_up_to_the_maximum_or_are_all_the_same() {
    assert_eq!(
        delays_of(plain.s()).await,
        [1_000, 2_000, 4_000, 8_000, 16_000]
    );
    let capped = [2_000, 4_000, 8_000, 10_000, 10_000];
    assert_eq!(delays_of(backing_off.s()).await, capped);
    assert_eq!(delays_of(steady.s()).await, [7_000; 3]);
    assert_eq!(delays_of(both_delays.s(false)).await, [2_000, 4_000]);
    assert_eq!(delays_of(both_delays.s(true)).await, [7_000, 7_000]);
}

#[tokio::test]
async fn a_signature_says_how_often_over_what_the_task_says() {
    assert_eq!(delays_of(steady.s().max_retries(1)).await, [7_000]);
    assert_eq!(delays_of(steady.s().max_retries(0)).await, [0; 0]);
    assert_eq!(delays_of(steady.s().max_retries(5)).await, [7_000; 5]);
    let member = chord(group([steady.s().max_retries(1)]), how_many.partial());
    assert_eq!(
        world().run(member.max_retries(9)).await.unwrap_err().0,
        "ChordError"
    );
}

#[tokio::test]
async fn jitter_stays_within_the_formula_and_a_manual_clock_repeats_it() {
    let first = delays_of(jittery.s()).await;
    for (delay, n) in first.iter().zip(0..) {
        assert!(*delay <= (2_000 << n).min(100_000), "{first:?}");
    }
    assert!(
        first.iter().zip(0..).any(|(delay, n)| *delay < 2_000 << n),
        "{first:?}"
    );
    assert_eq!(first, delays_of(jittery.s()).await);
}

#[tokio::test]
async fn only_errors_worth_a_retry_get_one() {
    let world = world();
    for (how, attempts, end) in [
        ("network", 3, failed("Network", "network")),
        ("disk", 1, failed("TaskError", "disk")),
        ("fatal", 1, failed("Network", "fatal")),
        ("asked", 3, failed("TaskError", "asked")),
        ("panic", 1, failed("Panic", "panic")),
        (
            "slow",
            1,
            failed("SoftTimeLimitExceeded", "SoftTimeLimitExceeded()"),
        ),
    ] {
        let key = format!("retries: choosy {how}");
        let mut fails = choosy.s(how.into(), key.clone());
        if how == "slow" {
            fails = fails.soft_time_limit(5 * SECOND);
        }
        let got = world.run(fails).await;
        let attempts: Vec<_> = (1..=attempts).map(|n: u32| n.to_string()).collect();
        assert_eq!(notes(&key), attempts, "{how}");
        match how {
            "slow" => assert_eq!(got.unwrap_err().0, end.unwrap_err().0),
            _ => assert_eq!(got, end),
        }
    }
}

#[tokio::test]
async fn a_task_says_when_and_how_often_it_is_tried_again() {
    let exhausted = || failed("MaxRetriesExceededError", "no retries are left");
    let cases = [
        ("countdown", 3, vec![3_000, 3_000], Ok(json!(3))),
        ("countdown", 9, vec![3_000; 3], exhausted()),
        ("eta", 3, vec![10_000, 10_000], Ok(json!(3))),
        ("past", 4, vec![], Ok(json!(4))),
        ("past", 5, vec![], exhausted()),
        ("", 9, vec![1_000, 2_000, 4_000], exhausted()),
        (
            "cause",
            9,
            vec![1_000, 2_000, 4_000],
            failed("ParseIntError", "invalid digit found in string"),
        ),
        ("once", 9, vec![1_000], exhausted()),
        (
            "often",
            9,
            vec![1_000, 2_000, 4_000, 8_000, 16_000, 32_000],
            exhausted(),
        ),
    ];
    for (how, last, expected, end) in cases {
        let got = delays(&world(), asks.s(how.into(), last)).await;
        assert_eq!(got, (expected, end), "{how} {last}");
    }
}

#[tokio::test]
async fn max_retries_exceeded_is_a_kind_of_failure() {
    let world = world();
    let app = world.start().await;
    let result = app.apply_async(asks.s("past".into(), 9)).await.unwrap();
    let failed = within(failure_of(&result)).await;
    assert_eq!(failed.kind, FailureKind::MaxRetriesExceeded);
    assert_eq!((&*failed.name, failed.attempt), ("asks", 4));
    app.shutdown().await.unwrap();
}

#[tokio::test]
async fn changed_arguments_of_any_size_stay_over_restarts() {
    for size in [10, LARGE, HUGE] {
        let world = world();
        let key = format!("retries: args {size}");
        let mut app = world.start().await;
        let canvas = shrinks.s(3, "x".repeat(size), key.clone());
        let id = app.apply_async(canvas).await.unwrap().id();
        for attempt in 1.. {
            let result = app.async_result::<usize>(id).await.unwrap();
            noted(&key, attempt).await;
            if attempt == 5 {
                assert_eq!(within(result.get()).await.unwrap(), size);
                break;
            }
            becomes(&result, State::Retry).await;
            let eta = result.eta().await.unwrap().expect("it waits");
            app = world.restart(app).await;
            let result = app.async_result::<usize>(id).await.unwrap();
            assert_eq!(result.state().await.unwrap(), State::Retry);
            assert_eq!(result.eta().await.unwrap(), Some(eta));
            // Not a moment before, and not counted from the restart.
            let left = eta.duration_since(world.clock.now()).unwrap();
            world.clock.advance(left - Duration::from_millis(1));
            settle(&app).await;
            assert_eq!(notes(&key).len(), attempt);
            world.clock.advance(Duration::from_millis(1));
        }
        app.shutdown().await.unwrap();
        let expected = ["3", "2", "2", "1", "0"].map(|left| format!("{left} {size}"));
        assert_eq!(notes(&key), expected);
    }
}

#[tokio::test]
async fn large_arguments_are_kept_in_pieces() {
    for size in [LARGE, 7_400, HUGE] {
        let world = world();
        let canvas = shrinks.s(3, "x".repeat(size), "retries: pieces".into());
        assert_eq!(world.run(canvas).await, Ok(json!(size)));
        assert!(world.longest_record() <= LONGEST);
    }
}

#[tokio::test]
async fn what_an_error_says_of_itself_may_be_long_and_is_cut() {
    #[task(max_retries = 1)]
    async fn verbose(size: usize) -> Result<(), TaskError> {
        Err(TaskError::new("x".repeat(size)).with_type("Y".repeat(size)))
    }
    let world = World::of(tasks![verbose]);
    let (kind, message) = world.run(verbose.s(HUGE)).await.unwrap_err();
    assert!(kind.len() < 2_000 && message.len() < 2_000);
    assert!(world.longest_record() <= LONGEST);
}

#[tokio::test]
async fn retries_end_as_they_should_over_any_crash() {
    let world = world();
    let key = "retries: crash";
    world
        .ends_over_any_crash(plain.s(), &failed("TaskError", "plain"))
        .await;
    for size in [10, LARGE, 300_000] {
        let canvas = shrinks.s(3, "x".repeat(size), key.into());
        world
            .ends_over_any_crash(canvas | add.si(1, 1), &Ok(json!(2)))
            .await;
    }
}

#[tokio::test]
async fn arguments_that_do_not_fit_are_a_type_error() {
    let world = world();
    for (how, error_type) in [
        ("none", "TypeError"),
        ("many", "TypeError"),
        ("type", "TypeError"),
        ("no list", "TypeError"),
        ("fit", "MaxRetriesExceededError"),
    ] {
        let end = world.run(misfits.s(how.into())).await;
        assert_eq!(end.unwrap_err().0, error_type, "{how}");
    }
}

#[tokio::test]
async fn a_task_that_waits_for_its_retry_holds_no_slot() {
    let world = world().slots(1);
    let app = world.start().await;
    let waiting = app
        .apply_async(group((0..5).map(|_| plain.s())))
        .await
        .unwrap();
    for member in waiting.children::<()>().await.unwrap() {
        becomes(&member, State::Retry).await;
    }
    let other = app.apply_async(add.s(1, 1)).await.unwrap();
    assert_eq!(within(other.get()).await.unwrap(), 2);
    let app = world.restart(app).await;
    let other = app.apply_async(add.s(1, 1)).await.unwrap();
    assert_eq!(within(other.get()).await.unwrap(), 2);
    app.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_member_that_retries_keeps_the_body_waiting_and_its_place_in_the_list() {
    let world = world();
    let app = world.start().await;
    let header = Canvas::group([
        asks.s("countdown".into(), 3).into(),
        add.s(1, 1).into(),
        asks.s("countdown".into(), 2).into(),
    ]);
    let canvas = header | Canvas::task("xsum", ());
    let result = app.apply_async(canvas).await.unwrap();
    let members = result.children::<Value>().await.unwrap();
    becomes(&members[0], State::Retry).await;
    assert_eq!(within(members[1].get()).await.unwrap(), json!(2));
    let app = world.restart(app).await;
    let result = app.async_result::<Value>(result.id()).await.unwrap();
    assert_eq!(result.state().await.unwrap(), State::Started);
    assert_eq!(world.end(&result).await, Ok(json!(3 + 2 + 2)));
    app.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_map_is_tried_again_as_a_whole_and_no_item_changes_it() {
    let world = world();
    let key = "retries: map";
    let map = |items: [i64; 3]| trips.starmap(items.map(|n| (n, key.to_owned())));
    assert_eq!(world.run(map([1, 2, 3])).await, Ok(json!([1, 2, 3])));
    assert_eq!(notes(key), ["1", "2", "1", "2", "3", "1", "2", "3"]);
    for (bad, what) in [(13, "change the arguments"), (14, "be replaced")] {
        let (kind, message) = world.run(map([1, bad, 3])).await.unwrap_err();
        assert_eq!(kind, "TypeError");
        assert!(message.contains(what), "{message}");
    }
}

#[tokio::test]
async fn a_service_that_asks_to_wait_is_asked_again_after_exactly_that_time() {
    let failed = || failed("TaskError", "429");
    let cases = [
        // The delay is no backoff: it is exact, and longer than the longest one.
        ("c30 c40", vec![30_000, 40_000], Ok(json!(3))),
        ("c30 c30 c30", vec![30_000, 30_000], failed()),
        // Those that count nothing leave the two retries, in any order.
        (
            "f9 f9 f9 f9 c1 c2",
            vec![9_000, 9_000, 9_000, 9_000, 1_000, 2_000],
            Ok(json!(7)),
        ),
        (
            "c1 f9 c2 f8",
            vec![1_000, 9_000, 2_000, 8_000],
            Ok(json!(5)),
        ),
        ("c1 f9 c2 f8 c1", vec![1_000, 9_000, 2_000, 8_000], failed()),
        ("f0 f0", vec![], Ok(json!(3))),
    ];
    let world = world();
    for (plan, expected, end) in cases {
        let got = delays(&world, waits.s(plan.into())).await;
        assert_eq!(got, (expected.clone(), end.clone()), "{plan}");
        // `retry_if` refuses every error, and is not asked.
        let got = delays(&world, waits_blocking.s(plan.into())).await;
        assert_eq!(got, (expected, end), "{plan}, blocking");
    }
}

#[tokio::test]
async fn a_task_without_retries_may_wait_if_that_counts_nothing() {
    let world = world();
    let once = |plan: &str| delays(&world, waits_once.s(plan.into()));
    assert_eq!(once("f60 f60").await, (vec![60_000, 60_000], Ok(json!(3))));
    assert_eq!(once("c60").await, (vec![], failed("TaskError", "429")));
    assert_eq!(
        once("f60 e").await,
        (vec![60_000], failed("TaskError", "error"))
    );
    // An error that asks for no time, final or not, gets the task's delay.
    assert_eq!(once("p x").await, (vec![1_000, 1_000], Ok(json!(3))));
    let constant = delays(&world, waits_blocking.s("p p p c1".into())).await;
    assert_eq!(constant, (vec![7_000, 7_000, 7_000, 1_000], Ok(json!(5))));
}

#[tokio::test]
async fn the_time_that_a_service_asked_for_goes_on_over_restarts() {
    let world = world();
    let mut app = world.start().await;
    let plan = "f60 f60 f60";
    let id = app
        .apply_async(waits_once.s(plan.into()))
        .await
        .unwrap()
        .id();
    for _ in 0..3 {
        let result = app.async_result::<u32>(id).await.unwrap();
        becomes(&result, State::Retry).await;
        world.clock.advance(20 * SECOND);
        app = world.restart(app).await;
        let result = app.async_result::<u32>(id).await.unwrap();
        let eta = result.eta().await.unwrap().expect("it waits");
        assert_eq!(eta.duration_since(world.clock.now()).unwrap(), 40 * SECOND);
        assert_eq!(result.state().await.unwrap(), State::Retry);
        world.clock.advance(40 * SECOND);
        within(async {
            while result.eta().await.unwrap() == Some(eta) {
                tokio::task::yield_now().await;
            }
        })
        .await;
    }
    let result = app.async_result::<u32>(id).await.unwrap();
    assert_eq!(within(result.get()).await.unwrap(), 4);
    assert_eq!(result.eta().await.unwrap(), None);
    within(app.shutdown()).await.unwrap();
}

#[tokio::test]
async fn what_has_ended_or_is_revoked_waits_for_no_time() {
    let world = world();
    let app = world.start().await;
    let waiting = group([waits_once.s("f60".into()), waits_once.s("f60".into())]);
    let waiting = app.apply_async(waiting).await.unwrap();
    for member in waiting.children::<u32>().await.unwrap() {
        becomes(&member, State::Retry).await;
        assert!(member.eta().await.unwrap().is_some());
    }
    let _ = within(waiting.revoke()).await.unwrap();
    within(waiting.get()).await.unwrap_err();
    for member in waiting.children::<u32>().await.unwrap() {
        assert_eq!(member.eta().await.unwrap(), None);
    }
    let once = app.apply_async(waits_once.s("f60".into())).await.unwrap();
    becomes(&once, State::Retry).await;
    world.clock.advance(60 * SECOND);
    assert_eq!(within(once.get()).await.unwrap(), 2);
    assert_eq!(once.eta().await.unwrap(), None);
    within(app.shutdown()).await.unwrap();
}

#[tokio::test]
async fn the_time_that_a_service_asked_for_holds_over_any_crash_and_is_bounded_by_the_expiry() {
    let world = world();
    let app = world.start().await;
    let plan = "f60 f60 f60";
    let expiring = waits_once.s("f60 f60 f60".into()).expires(100 * SECOND);
    let expiring = app.apply_async(expiring).await.unwrap();
    let expected = failed("TaskRevokedError", "expired");
    assert_eq!(world.end(&expiring).await, expected);
    assert_eq!(expiring.state().await.unwrap(), State::Revoked);
    within(app.shutdown()).await.unwrap();
    // (An attempt that a crash cuts short counts as an attempt, and as no retry.)
    world
        .ends_over_any_crash(waits_once.s(plan.into()) | add.si(1, 1), &Ok(json!(2)))
        .await;
    let exhausted = waits.s("c1 c1 c1 c1 c1 c1".into());
    world
        .ends_over_any_crash(exhausted, &failed("TaskError", "429"))
        .await;
}

#[test]
fn an_eager_task_counts_no_retry_either() {
    pollster::block_on(async {
        let app = App::eager().tasks(tasks![waits_once, waits_blocking]);
        let app = app.start().await.unwrap();
        let value = app.apply_async(waits_once.s("f60 f60".into())).await;
        assert_eq!(value.unwrap().get().await.unwrap(), 3);
        let value = app.apply_async(waits_blocking.s("f9 c1 f9 c1".into()));
        assert_eq!(value.await.unwrap().get().await.unwrap(), 5);
        let refused = app.apply_async(waits_once.s("c60".into())).await.unwrap();
        assert_eq!(failure_of(&refused).await.message, "429");
        app.shutdown().await.unwrap();
    });
}
