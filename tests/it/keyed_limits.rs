//! Limits that are divided by keys, limits on how many attempts run at once, and queues that serve
//! keys in turn.

use std::time::{Duration, SystemTime};

use chordal::persistence::MemoryStore;
use chordal::prelude::*;
use chordal::{AppBuilder, Clock, RateLimit, StartError, Task, TaskOptions};

use crate::calls::{CALLS, call, calls, reached};
use crate::disk::Disk;
use crate::recovery::within;

const MOMENT: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);

#[task(name = "keyed.send", rate_limit = "1/s", limit_by = "tenant")]
async fn send(test: String, tenant: String) {
    call(&format!("{test} {tenant}"));
}

/// Takes its key from the step before it.
#[task(name = "keyed.follow", rate_limit = "1/s", limit_by = "tenant")]
async fn follow(tenant: String, test: String) {
    call(&format!("{test} {tenant}"));
}

#[task(name = "keyed.name")]
async fn name(tenant: String) -> String {
    tenant
}

/// Runs until it is opened.
#[task(name = "keyed.two", concurrency = 2)]
async fn two(test: String, number: u32) {
    call(&test);
    reached(&format!("{test} open {number}"), 1).await;
}

#[task(name = "keyed.one_each", concurrency = 1, concurrency_by = "tenant")]
async fn one_each(test: String, tenant: String, number: u32) {
    call(&format!("{test} {tenant}"));
    reached(&format!("{test} open {number}"), 1).await;
}

#[task(name = "keyed.shared", limit = "keyed database")]
async fn shared(test: String, number: u32) {
    call(&test);
    reached(&format!("{test} open {number}"), 1).await;
}

#[task(name = "keyed.also_shared", limit = "keyed database")]
async fn also_shared(test: String, number: u32) {
    call(&test);
    reached(&format!("{test} open {number}"), 1).await;
}

/// Calls a task of the same kind while it waits, which needs the place.
#[task(name = "keyed.nested", concurrency = 1)]
async fn nested(ctx: &TaskContext, depth: u32) -> Result<u32, TaskError> {
    match depth {
        0 => Ok(0),
        _ => Ok(1 + ctx.call("below", nested.s(depth - 1)).await?),
    }
}

#[task(name = "keyed.fair", queue = "keyed fair")]
async fn fair(test: String, tenant: String) {
    call(&format!("{test} {tenant}"));
    CALLS.send_modify(|calls| calls.push(format!("{test} any")));
}

#[task(name = "keyed.unfair", queue = "keyed fair")]
async fn unfair(test: String) {
    call(&format!("{test} none"));
}

fn builder(store: impl chordal::persistence::Store, clock: &Clock) -> AppBuilder {
    App::with_store(store)
        .clock(clock.clone())
        .limit_concurrency("keyed database", 2)
        .queue("keyed fair", 1)
        .fair_by("keyed fair", "tenant")
        .grace(Duration::ZERO)
        .tasks(tasks![
            send,
            follow,
            name,
            two,
            one_each,
            shared,
            also_shared,
            nested,
            fair,
            unfair
        ])
}

fn clock() -> Clock {
    Clock::manual(SystemTime::UNIX_EPOCH + 1_000_000 * SECOND)
}

async fn start(clock: &Clock) -> App {
    let builder = builder(MemoryStore::new(), clock);
    builder.start().await.unwrap()
}

/// Waits until all that the app was told is done, as far as it can be.
async fn settled(app: &App) {
    for _ in 0..3 {
        let done = app.apply_async(name.s("done".into())).await.unwrap();
        within(done.get()).await.unwrap();
    }
}

#[tokio::test]
async fn each_key_has_the_whole_rate_and_holds_up_no_other() {
    let clock = clock();
    let app = start(&clock).await;
    let test = || "rates".to_owned();
    let members = (0..20).map(move |_| send.s(test(), "large".into()));
    let _ = app.apply_async(group(members)).await.unwrap();
    let _ = app
        .apply_async(send.s(test(), "small".into()))
        .await
        .unwrap();
    let chain = name.s("other".into()) | follow.partial(test());
    let _ = app.apply_async(chain).await.unwrap();
    let _ = app
        .apply_async(follow.s("other".into(), test()))
        .await
        .unwrap();
    for tenant in ["large", "small", "other"] {
        within(reached(&format!("rates {tenant}"), 1)).await;
    }
    settled(&app).await;
    clock.advance(SECOND);
    settled(&app).await;
    let all = |of: [usize; 3]| {
        let tenants = ["large", "small", "other"].map(|tenant| calls(&format!("rates {tenant}")));
        assert_eq!(tenants, of);
    };
    all([1, 1, 1]);
    clock.advance(MOMENT);
    within(reached("rates large", 2)).await;
    within(reached("rates other", 2)).await;
    settled(&app).await;
    all([2, 1, 2]);
    app.shutdown().await.unwrap();
}

#[tokio::test]
async fn the_rate_of_a_key_holds_over_a_crash_and_its_record_is_deleted_when_it_is_over() {
    let clock = clock();
    let mut disk = Disk::default();
    let app = builder(disk.clone(), &clock).start().await.unwrap();
    for tenant in ["acme", "acme", "blue"] {
        let one = send.s("crash".into(), tenant.into());
        let _ = app.apply_async(one).await.unwrap();
    }
    within(reached("crash acme", 1)).await;
    within(reached("crash blue", 1)).await;
    settled(&app).await;
    let starts = |disk: &Disk| {
        use chordal::persistence::Store;
        let starts = disk.scan(b"m/starts/", b"m/starts0");
        let keys = starts.map(|pair| String::from_utf8_lossy(&pair.unwrap().0).into_owned());
        keys.collect::<Vec<_>>()
    };
    assert_eq!(starts(&disk).len(), 2, "{:?}", starts(&disk));
    assert!(starts(&disk).iter().all(|key| key.contains("keyed.send")));
    clock.advance(SECOND / 2);
    disk = disk.crashed();
    drop(app);
    let app = builder(disk.clone(), &clock).start().await.unwrap();
    clock.advance(SECOND / 2);
    settled(&app).await;
    // The last start may have been called until the crash.
    assert_eq!(calls("crash acme"), 1);
    clock.advance(SECOND / 2 + MOMENT);
    within(reached("crash acme", 2)).await;
    settled(&app).await;
    clock.advance(3 * SECOND);
    settled(&app).await;
    settled(&app).await;
    assert_eq!(starts(&disk), Vec::<String>::new());
    app.shutdown().await.unwrap();
}

#[tokio::test]
async fn at_most_so_many_attempts_run_at_once() {
    let clock = clock();
    let app = start(&clock).await;
    let members = (0..6).map(|number| two.s("two".into(), number));
    let all = app.apply_async(group(members)).await.unwrap();
    for running in 0..6 {
        within(reached("two", (running + 2).min(6) as usize)).await;
        settled(&app).await;
        assert_eq!(calls("two"), (running + 2).min(6) as usize);
        call(&format!("two open {running}"));
    }
    within(all.get()).await.unwrap();
    app.shutdown().await.unwrap();
}

#[tokio::test]
async fn concurrency_is_limited_by_key_and_by_a_shared_name() {
    let clock = clock();
    let app = start(&clock).await;
    let tenants = [("a", 0), ("a", 1), ("b", 2)];
    for (tenant, number) in tenants {
        let one = one_each.s("each".into(), tenant.into(), number);
        let _ = app.apply_async(one).await.unwrap();
    }
    within(reached("each a", 1)).await;
    within(reached("each b", 1)).await;
    settled(&app).await;
    assert_eq!(calls("each a"), 1);
    call("each open 0");
    within(reached("each a", 2)).await;

    for number in 0..2 {
        let first = shared.s("shared".into(), 2 * number);
        let _ = app.apply_async(first).await.unwrap();
        let second = also_shared.s("shared".into(), 2 * number + 1);
        let _ = app.apply_async(second).await.unwrap();
    }
    within(reached("shared", 2)).await;
    settled(&app).await;
    assert_eq!(calls("shared"), 2);
    call("shared open 1");
    within(reached("shared", 3)).await;
    (0..4).for_each(|number| call(&format!("shared open {number}")));
    within(reached("shared", 4)).await;
    app.shutdown().await.unwrap();
}

#[tokio::test]
async fn an_attempt_that_waits_for_another_task_leaves_its_place_to_it() {
    let app = start(&clock()).await;
    let depth = app.apply_async(nested.s(5)).await.unwrap();
    assert_eq!(within(depth.get()).await.unwrap(), 5);
    app.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_queue_serves_keys_in_turn() {
    let app = builder(MemoryStore::new(), &clock());
    let app = app.paused().start().await.unwrap();
    let of = |tenant: &str| fair.s("fair".into(), tenant.into());
    for _ in 0..30 {
        let _ = app.apply_async(of("large")).await.unwrap();
    }
    let small: Vec<_> = (0..3).map(|_| of("small")).collect();
    let _ = app.apply_async(group(small)).await.unwrap();
    let _ = app.apply_async(unfair.s("fair".into())).await.unwrap();
    app.resume().await.unwrap();
    within(reached("fair any", 33)).await;
    within(reached("fair none", 1)).await;
    let order = CALLS.borrow().clone();
    let all_of = |key: &str| {
        let positions = order.iter().enumerate().filter(|(_, of)| *of == key);
        let positions: Vec<_> = positions.map(|(at, _)| at).collect();
        positions
    };
    let (large, small, none) = (
        all_of("fair large"),
        all_of("fair small"),
        all_of("fair none"),
    );
    // After the third of the small tenant no more than four of the large one have started.
    let before = large.iter().filter(|at| **at < small[2]).count();
    assert!(before <= 4, "{order:?}");
    let before = large.iter().filter(|at| **at < none[0]).count();
    assert!(before <= 3, "{order:?}");
    app.shutdown().await.unwrap();
}

/// One task with the options of the test.
#[derive(Clone, Copy, Debug)]
struct WithOptions<const TEST: usize>;

impl<const TEST: usize> Task for WithOptions<TEST> {
    type Args = (String,);
    type Output = ();
    const NAME: &'static str = "keyed.options";
    const PARAMS: &'static [chordal::Parameter] = &[chordal::Parameter::required::<String>("to")];
    const OPTIONS: TaskOptions = match TEST {
        0 => TaskOptions::new().limit_by("to"),
        1 => TaskOptions::new()
            .rate_limit(RateLimit::per_second(1))
            .limit_by("tenant"),
        2 => TaskOptions::new().concurrency(0),
        _ => TaskOptions::new().concurrency_by("to"),
    };

    async fn run(_: TaskContext, _: Self::Args) -> Result<(), TaskError> {
        Ok(())
    }
}

#[tokio::test]
async fn a_limit_without_a_key_or_a_number_is_an_error_of_the_start() {
    let errors = [
        App::in_memory().tasks(tasks![WithOptions::<0>]),
        App::in_memory().tasks(tasks![WithOptions::<1>]),
        App::in_memory().tasks(tasks![WithOptions::<2>]),
        App::in_memory().tasks(tasks![WithOptions::<3>]),
        App::in_memory().limit_concurrency("database", 0),
        App::in_memory().fair_by("x".repeat(256), "tenant"),
    ];
    let mut messages = Vec::new();
    for builder in errors {
        match builder.start().await {
            Err(chordal::Error::Start(error)) => messages.push(match error {
                StartError::InvalidTask { name: task, reason } => format!("{task}: {reason}"),
                other => other.to_string(),
            }),
            other => panic!("{other:?}"),
        }
    }
    let expected = [
        "keyed.options: `limit_by` divides its `rate_limit`, which is not set",
        "keyed.options: `limit_by` names the parameter `tenant`, which it does not have; its \
         parameters are `to`",
        "keyed.options: a concurrency limit lets at least 1 attempt run",
        "keyed.options: `concurrency_by` divides its `concurrency`, which is not set",
        "the limit `database`: a concurrency limit lets at least 1 attempt run",
        "the name of a queue takes 256 bytes, and the limit is 255",
    ];
    assert_eq!(messages, expected);
}
