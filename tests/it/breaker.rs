//! Circuit breakers: tasks that do not start while a service fails.

use std::time::{Duration, SystemTime};

use chordal::persistence::{MemoryStore, Store};
use chordal::prelude::*;
use chordal::{
    AppBuilder, AsyncResult, Breaker, BreakerState, Clock, Error, FailureKind, OnOpen, Parameter,
    StartError, State, Task, TaskOptions,
};

use crate::calls::{call, calls, reached};
use crate::disk::Disk;
use crate::recovery::within;

const MOMENT: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
const OPEN_FOR: Duration = Duration::from_secs(60);

/// Does what it is told, once it is opened if it waits.
async fn answer(key: &str, told: &str) -> Result<String, TaskError> {
    call(key);
    if told.starts_with("waits") {
        reached(&format!("{key} open"), 1).await;
    }
    match told {
        "fails" | "waits and fails" => Err(TaskError::new("no answer")),
        "declines" => Err(TaskError::new("no").with_type("Declined")),
        "panics" => panic!("no answer"),
        "asks to wait" => Err(TaskError::retry_after(OPEN_FOR).without_counting()),
        "hangs" => std::future::pending().await,
        _ => Ok(told.to_owned()),
    }
}

#[task(
    name = "breaker.ask",
    queue = "breaker one",
    breaker = "service",
    breaker_if = |error| error.error_type() != "Declined"
)]
async fn ask(key: String, told: String) -> Result<String, TaskError> {
    answer(&key, &told).await
}

/// Shares the breaker, in another queue.
#[task(name = "breaker.other", breaker = "service", time_limit = "1s")]
async fn other(key: String, told: String) -> Result<String, TaskError> {
    answer(&key, &told).await
}

#[task(
    name = "breaker.hasty",
    breaker = "service",
    on_open = "fail",
    max_retries = 3
)]
async fn hasty(key: String, told: String) -> Result<String, TaskError> {
    answer(&key, &told).await
}

#[task(
    name = "breaker.limited",
    breaker = "service",
    rate_limit = "1/m",
    on_open = "wait"
)]
async fn limited(key: String, told: String) -> Result<String, TaskError> {
    answer(&key, &told).await
}

/// Is under no breaker, and needs the slot of `ask`.
#[task(name = "breaker.free", queue = "breaker one")]
async fn free(key: String) {
    call(&key);
}

fn clock() -> Clock {
    Clock::manual(SystemTime::UNIX_EPOCH + 1_000_000 * SECOND)
}

/// Opens at the second failure within 10 s.
fn breaker() -> Breaker {
    Breaker::failures(2).within(10 * SECOND).open_for(OPEN_FOR)
}

fn builder(store: impl Store, clock: &Clock) -> AppBuilder {
    App::with_store(store)
        .clock(clock.clone())
        .queue("breaker one", 1)
        .breaker("service", breaker())
        .grace(Duration::ZERO)
        .tasks(tasks![ask, other, hasty, limited, free])
}

async fn start(clock: &Clock) -> App {
    builder(MemoryStore::new(), clock).start().await.unwrap()
}

async fn submit(app: &App, key: &str, told: &str) -> AsyncResult<String> {
    let task = ask.s(key.into(), told.into());
    app.apply_async(task).await.unwrap()
}

/// Runs a task to its end.
async fn run(app: &App, key: &str, told: &str) -> Option<FailureKind> {
    match within(submit(app, key, told).await.get()).await {
        Ok(_) => None,
        Err(Error::Failed(failure)) => Some(failure.kind),
        Err(error) => panic!("{error}"),
    }
}

/// Fails until the breaker is open.
async fn open(app: &App, key: &str) {
    for _ in 0..2 {
        assert_eq!(run(app, key, "fails").await, Some(FailureKind::Error));
    }
    assert_eq!(status(app), (BreakerState::Open, 0));
}

fn status(app: &App) -> (BreakerState, u32) {
    let all = app.breakers().unwrap();
    assert_eq!((all.len(), &*all[0].name), (1, "service"));
    assert_eq!(
        all[0].open_until.is_some(),
        all[0].state == BreakerState::Open
    );
    (all[0].state, all[0].failures)
}

/// Waits until all that can start has started: a task that needs the slot of `ask` ends.
async fn settled(app: &App) {
    for _ in 0..3 {
        let done = app
            .apply_async(free.s("breaker free".into()))
            .await
            .unwrap();
        within(done.get()).await.unwrap();
    }
}

#[tokio::test]
async fn it_opens_at_the_failures_of_one_window_and_tasks_wait_without_a_slot() {
    let clock = clock();
    let app = start(&clock).await;
    assert_eq!(status(&app), (BreakerState::Closed, 0));
    run(&app, "window", "fails").await;
    assert_eq!(status(&app), (BreakerState::Closed, 1));
    clock.advance(10 * SECOND);
    assert_eq!(status(&app), (BreakerState::Closed, 0));
    run(&app, "window", "fails").await;
    // A success in between changes nothing.
    assert_eq!(run(&app, "window", "works").await, None);
    clock.advance(10 * SECOND - MOMENT);
    assert_eq!(status(&app), (BreakerState::Closed, 1));
    run(&app, "window", "fails").await;
    assert_eq!(status(&app), (BreakerState::Open, 0));
    let until = app.breakers().unwrap()[0].open_until;
    assert_eq!(until, Some(clock.now() + OPEN_FOR));
    let waiting = submit(&app, "window later", "works").await;
    let shared = app.apply_async(other.s("window other".into(), "works".into()));
    let shared = shared.await.unwrap();
    for _ in 0..2 {
        settled(&app).await; // in the one slot of the queue
        assert_eq!(calls("window later") + calls("window other"), 0);
        assert_eq!(waiting.state().await.unwrap(), State::Pending);
        clock.advance(OPEN_FOR / 2 - MOMENT);
    }
    clock.advance(2 * MOMENT);
    assert_eq!(within(waiting.get()).await.unwrap(), "works");
    assert_eq!(within(shared.get()).await.unwrap(), "works");
    assert_eq!(status(&app), (BreakerState::Closed, 0));
    app.shutdown().await.unwrap();
}

#[tokio::test]
async fn one_task_probes_and_its_success_lets_all_go_on() {
    let clock = clock();
    let app = start(&clock).await;
    open(&app, "probe").await;
    let probe = app.apply_async(other.s("probe first".into(), "waits".into()));
    let probe = probe.await.unwrap();
    settled(&app).await;
    let rest = group((0..3).map(|_| ask.s("probe rest".into(), "works".into())));
    let rest = app.apply_async(rest).await.unwrap();
    clock.advance(OPEN_FOR);
    within(reached("probe first", 1)).await;
    settled(&app).await;
    assert_eq!(
        (calls("probe rest"), status(&app).0),
        (0, BreakerState::HalfOpen)
    );
    call("probe first open");
    within(probe.get()).await.unwrap();
    assert_eq!(within(rest.get()).await.unwrap().len(), 3);
    assert_eq!(status(&app), (BreakerState::Closed, 0));
    app.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_probe_that_fails_opens_the_breaker_again_for_as_long() {
    let clock = clock();
    let app = start(&clock).await;
    open(&app, "again").await;
    let probe = submit(&app, "again probe", "fails").await;
    settled(&app).await;
    let waiting = submit(&app, "again waiting", "works").await;
    clock.advance(OPEN_FOR + SECOND);
    within(probe.get()).await.unwrap_err();
    settled(&app).await;
    assert_eq!(
        (calls("again waiting"), status(&app).0),
        (0, BreakerState::Open)
    );
    clock.advance(OPEN_FOR - MOMENT);
    settled(&app).await;
    assert_eq!(calls("again waiting"), 0);
    clock.advance(MOMENT);
    within(waiting.get()).await.unwrap();
    app.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_probe_that_is_revoked_leaves_the_probe_to_another_and_counts_nothing() {
    let clock = clock();
    let app = start(&clock).await;
    let running = submit(&app, "revoked running", "waits").await;
    within(reached("revoked running", 1)).await;
    running.revoke().await.unwrap();
    within(running.get()).await.unwrap_err();
    settled(&app).await;
    assert_eq!(status(&app), (BreakerState::Closed, 0));
    open(&app, "revoked").await;
    let probe = submit(&app, "revoked probe", "waits").await;
    settled(&app).await;
    let waiting = submit(&app, "revoked waiting", "works").await;
    clock.advance(OPEN_FOR);
    within(reached("revoked probe", 1)).await;
    assert_eq!(calls("revoked waiting"), 0);
    probe.revoke().await.unwrap();
    within(waiting.get()).await.unwrap();
    assert_eq!(status(&app), (BreakerState::Closed, 0));
    app.shutdown().await.unwrap();
}

#[tokio::test]
async fn the_predicate_panics_and_time_limits_decide_what_counts() {
    let clock = clock();
    let app = start(&clock).await;
    for told in ["declines", "declines"] {
        assert_eq!(run(&app, "counts", told).await, Some(FailureKind::Error));
    }
    let asking = submit(&app, "counts asking", "asks to wait").await;
    within(reached("counts asking", 1)).await;
    settled(&app).await;
    assert_eq!(status(&app), (BreakerState::Closed, 0));
    assert_eq!(
        run(&app, "counts", "panics").await,
        Some(FailureKind::Panic)
    );
    assert_eq!(status(&app), (BreakerState::Closed, 1));
    let hanging = app.apply_async(other.s("counts hanging".into(), "hangs".into()));
    let hanging = hanging.await.unwrap();
    within(reached("counts hanging", 1)).await;
    clock.advance(2 * SECOND);
    let Err(Error::Failed(failure)) = within(hanging.get()).await else {
        panic!("it ended otherwise");
    };
    assert_eq!(failure.kind, FailureKind::TimeLimit);
    assert_eq!(status(&app), (BreakerState::Open, 0));
    // An error that does not count is an answer.
    let probe = submit(&app, "counts probe", "declines").await;
    clock.advance(OPEN_FOR - SECOND);
    settled(&app).await;
    assert_eq!(calls("counts probe"), 0);
    clock.advance(SECOND);
    within(probe.get()).await.unwrap_err();
    assert_eq!(status(&app), (BreakerState::Closed, 0));
    drop(asking);
    app.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_task_that_fails_on_open_fails_at_once_without_a_call_or_a_retry() {
    let clock = clock();
    let app = start(&clock).await;
    let submit = async |key: &str, told: &str| {
        let task = hasty.s(key.into(), told.into());
        app.apply_async(task).await.unwrap()
    };
    let refused = async |key: &str| {
        let Err(Error::Failed(failure)) = within(submit(key, "works").await.get()).await else {
            panic!("it ended otherwise");
        };
        assert_eq!(failure.kind, FailureKind::BreakerOpen);
        assert_eq!(failure.message, "the breaker `service` is open");
        assert_eq!(calls(key), 0);
    };
    within(submit("hasty", "works").await.get()).await.unwrap();
    open(&app, "hasty opens").await;
    refused("hasty refused").await;
    clock.advance(OPEN_FOR);
    assert_eq!(status(&app).0, BreakerState::HalfOpen);
    let probe = submit("hasty probe", "waits").await;
    within(reached("hasty probe", 1)).await;
    refused("hasty beside").await;
    call("hasty probe open");
    within(probe.get()).await.unwrap();
    within(submit("hasty after", "works").await.get())
        .await
        .unwrap();
    app.shutdown().await.unwrap();
}

#[tokio::test]
async fn its_state_survives_a_stop_and_a_crash() {
    for crashes in [false, true] {
        let key = |what: &str| format!("restart {crashes} {what}");
        let clock = clock();
        let mut disk = Disk::default();
        let mut app = builder(disk.clone(), &clock).start().await.unwrap();
        let mut restart = async |app: App| {
            match crashes {
                true => {
                    disk = disk.crashed();
                    drop(app);
                }
                false => app.shutdown().await.unwrap(),
            }
            builder(disk.clone(), &clock).start().await.unwrap()
        };
        run(&app, &key("one"), "fails").await;
        app = restart(app).await;
        assert_eq!(status(&app), (BreakerState::Closed, 1));
        run(&app, &key("two"), "fails").await;
        assert_eq!(status(&app), (BreakerState::Open, 0));
        let probe = app.apply_async(other.s(key("probe"), "waits".into()));
        let probe = probe.await.unwrap().id();
        clock.advance(OPEN_FOR / 2);
        // While it is open.
        app = restart(app).await;
        settled(&app).await;
        assert_eq!(
            (status(&app).0, calls(&key("probe"))),
            (BreakerState::Open, 0)
        );
        clock.advance(OPEN_FOR / 2);
        within(reached(&key("probe"), 1)).await;
        // While it is half-open: the task whose probe was lost probes again.
        app = restart(app).await;
        within(reached(&key("probe"), 2)).await;
        let waiting = submit(&app, &key("waiting"), "works").await.id();
        settled(&app).await;
        assert_eq!(
            (status(&app).0, calls(&key("waiting"))),
            (BreakerState::HalfOpen, 0)
        );
        call(&key("probe open"));
        for id in [probe, waiting] {
            let result = app.async_result::<String>(id).await.unwrap();
            within(result.get()).await.unwrap();
        }
        assert_eq!(status(&app), (BreakerState::Closed, 0));
        app.shutdown().await.unwrap();
    }
}

#[tokio::test]
async fn no_crash_keeps_the_end_of_an_attempt_and_loses_that_it_counted() {
    let clock = clock();
    let disk = Disk::default();
    let app = builder(disk.clone(), &clock).start().await.unwrap();
    let id = {
        let one = submit(&app, "batches", "fails").await;
        within(one.get()).await.unwrap_err();
        one.id()
    };
    app.shutdown().await.unwrap();
    let mut ended = 0;
    for batches in 1..=disk.batches() {
        let app = builder(disk.crashed_after(batches), &clock).paused();
        let app = app.start().await.unwrap();
        let Ok(result) = app.async_result::<String>(id).await else {
            continue;
        };
        if result.state().await.unwrap() == State::Failure {
            ended += 1;
            assert_eq!(status(&app), (BreakerState::Closed, 1), "after {batches}");
        }
    }
    assert!(ended > 0);
}

#[tokio::test]
async fn a_task_under_a_rate_uses_none_of_it_while_the_breaker_is_open() {
    let clock = clock();
    let app = start(&clock).await;
    open(&app, "rated").await;
    for _ in 0..2 {
        let task = limited.s("rated limited".into(), "works".into());
        let _ = app.apply_async(task).await.unwrap();
    }
    clock.advance(OPEN_FOR - MOMENT);
    settled(&app).await;
    assert_eq!(calls("rated limited"), 0);
    clock.advance(MOMENT);
    within(reached("rated limited", 1)).await;
    settled(&app).await;
    assert_eq!(status(&app), (BreakerState::Closed, 0));
    assert_eq!(calls("rated limited"), 1, "the second waits for the rate");
    clock.advance(OPEN_FOR + MOMENT);
    within(reached("rated limited", 2)).await;
    app.shutdown().await.unwrap();
}

#[tokio::test]
async fn an_eager_app_has_no_breakers() {
    let app = App::eager()
        .breaker("service", breaker())
        .tasks(tasks![ask])
        .start()
        .await
        .unwrap();
    for n in 1..=4 {
        assert_eq!(
            run(&app, "eager ask", "fails").await,
            Some(FailureKind::Error)
        );
        assert_eq!(calls("eager ask"), n);
    }
    assert!(app.breakers().unwrap().is_empty());
}

/// A task with these options.
struct Options<const WHICH: u8>;

impl<const WHICH: u8> Task for Options<WHICH> {
    type Args = ();
    type Output = ();
    const NAME: &'static str = "breaker.options";
    const PARAMS: &'static [Parameter] = &[];
    const OPTIONS: TaskOptions = match WHICH {
        0 => TaskOptions::new().breaker("nowhere"),
        1 => TaskOptions::new().on_open(OnOpen::Fail),
        _ => TaskOptions::new().breaker_if(|_| true),
    };

    async fn run(_: TaskContext, (): ()) -> Result<(), TaskError> {
        Ok(())
    }
}

#[tokio::test]
async fn wrong_breakers_are_refused_with_what_and_where() {
    let refused = async |builder: AppBuilder| match builder.start().await.unwrap_err() {
        Error::Start(error) => error,
        error => panic!("{error}"),
    };
    let error = refused(App::in_memory().breaker("mail", Breaker::failures(0))).await;
    assert!(matches!(&error, StartError::InvalidBreaker { name, .. } if name == "mail"));
    assert_eq!(
        error.to_string(),
        "the breaker `mail`: it opens at 0 failures, and must at 1 to 500"
    );
    let error = refused(App::in_memory().tasks(tasks![Options::<0>])).await;
    assert_eq!(
        error,
        StartError::UnknownBreaker {
            task: "breaker.options",
            breaker: "nowhere"
        }
    );
    for (app, option) in [
        (App::in_memory().tasks(tasks![Options::<1>]), "on_open"),
        (App::in_memory().tasks(tasks![Options::<2>]), "breaker_if"),
    ] {
        assert_eq!(
            refused(app).await.to_string(),
            format!(
                "task `breaker.options` cannot be registered: `{option}` is about its `breaker`, which is not set"
            )
        );
    }
}
