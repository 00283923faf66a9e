//! Times: countdown, eta, expires, soft and hard limits.

use std::time::{Duration, SystemTime};

use chordal::{Task, TaskOptions};
use serde_json::json;

use super::lives::{End, SECOND, World, becomes, failed, settle};
use super::*;
use crate::recovery::within;

fn task(name: &'static str, args: impl serde::Serialize) -> Canvas {
    Canvas::immutable(name, args)
}

fn marked(n: i64, key: &str) -> Canvas {
    task("mark", (n, key))
}

/// Fails once a second, for ever.
#[task(max_retries = 1_000, default_retry_delay = "10s")]
async fn stubborn(key: String) -> Result<i64, TaskError> {
    note(&key, "tried");
    Err(TaskError::new("no"))
}

/// Never ends itself; what it does about its soft limit is up to `how`.
#[task(max_retries = 1, retry_backoff = "10s")]
async fn slow(ctx: &TaskContext, how: String, key: String) -> Result<i64, TaskError> {
    note(&key, ctx.attempt());
    match &*how {
        "cleans up" => {
            ctx.soft_time_limit().await;
            Ok(7)
        }
        "goes on" => {
            ctx.soft_time_limit().await;
            note(&key, "told");
            std::future::pending().await
        }
        "second time" if ctx.attempt() == 2 => Ok(2),
        _ => std::future::pending().await,
    }
}

/// Never ends by itself, on a thread of its own: it looks from time to time, or waits at its gate.
#[task(blocking)]
fn grinds(ctx: &TaskContext, listens: bool, key: String) -> i64 {
    assert!(!(listens && ctx.is_over_soft_time_limit()));
    note(&key, "started");
    if !listens {
        pollster::block_on(passed(&key));
        return 1;
    }
    while !ctx.is_over_soft_time_limit() {
        std::thread::yield_now();
    }
    7
}

#[task]
async fn echo(value: Value) -> Value {
    value
}

fn world() -> World {
    World::of(tasks![stubborn, slow, grinds, echo])
}

/// Restarts the app, and goes on with the handle.
async fn again(world: &World, app: App, result: AsyncResult<Value>) -> (App, AsyncResult<Value>) {
    let app = world.restart(app).await;
    let result = app.async_result(result.id()).await.unwrap();
    (app, result)
}

/// Turns the clock; then this is noted under `key`, and no more.
async fn notes_after(world: &World, app: &App, by: Duration, key: &str, expected: &[&str]) {
    world.clock.advance(by);
    within(noted(key, expected.len())).await;
    settle(app).await;
    assert_eq!(notes(key), expected);
}

/// Waits until it is on record that these nodes wait for this time, or a later one.
async fn wait_for(app: &App, root: Id, nodes: &[u128], time: SystemTime) {
    for seq in nodes {
        let waits = async {
            loop {
                if let Ok(result) = app.async_result::<Value>(node(root, *seq)).await {
                    let due = result.eta().await.unwrap();
                    if due.is_some_and(|due| due >= time) || result.ready().await.unwrap() {
                        return;
                    }
                }
                tokio::task::yield_now().await;
            }
        };
        within(waits).await;
    }
}

const MOMENT: Duration = Duration::from_millis(1);

#[tokio::test]
async fn a_countdown_and_an_eta_start_the_task_then_and_not_before_also_over_restarts() {
    let world = world();
    let eta = world.clock.now() + 10 * SECOND;
    let canvases = [
        (
            "schedule: countdown",
            marked(1, "schedule: countdown").countdown(10 * SECOND),
        ),
        ("schedule: eta", marked(1, "schedule: eta").eta(eta)),
    ];
    for (key, canvas) in canvases {
        let world = self::world();
        let app = world.start().await;
        let result = app.apply_async(canvas).await.unwrap();
        assert_eq!(result.state().await.unwrap(), State::Pending);
        wait_for(&app, result.id(), &[0], eta).await;
        assert_eq!(result.eta().await.unwrap(), Some(eta));
        notes_after(&world, &app, 4 * SECOND, key, &[]).await;
        let (app, result) = again(&world, app, result).await;
        assert_eq!(result.state().await.unwrap(), State::Pending);
        assert_eq!(result.eta().await.unwrap(), Some(eta));
        notes_after(&world, &app, 6 * SECOND - MOMENT, key, &[]).await;
        notes_after(&world, &app, MOMENT, key, &["1"]).await;
        assert_eq!(within(result.get()).await.unwrap(), json!(1));
        assert_eq!(result.eta().await.unwrap(), None);
        app.shutdown().await.unwrap();
    }
}

#[tokio::test]
async fn what_was_due_while_no_app_ran_starts_with_the_next() {
    let world = world();
    let app = world.start().await;
    let canvas = task("add", (1, 1)).countdown(10 * SECOND);
    let result = app.apply_async(canvas).await.unwrap();
    wait_for(&app, result.id(), &[0], world.clock.now()).await;
    app.shutdown().await.unwrap();
    world.clock.advance(60 * SECOND);
    let app = world.start().await;
    let result = app.async_result::<Value>(result.id()).await.unwrap();
    assert_eq!(within(result.get()).await.unwrap(), json!(2));
    app.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_task_that_waits_for_its_time_holds_no_slot() {
    let world = world().slots(1);
    let app = world.start().await;
    let later = group((0..5).map(|n| add.s(n, 0))).countdown(10 * SECOND);
    let later = app.apply_async(later).await.unwrap();
    wait_for(&app, later.id(), &[1, 2, 3, 4, 5], world.clock.now()).await;
    assert!(!later.ready().await.unwrap());
    world.clock.advance(10 * SECOND);
    assert_eq!(within(later.get()).await.unwrap(), [0, 1, 2, 3, 4]);
    app.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_countdown_counts_from_when_the_task_is_reached() {
    let world = world();
    // Each canvas notes 1 at once, and 2 ten seconds after the gate.
    let gate = |n: usize| format!("schedule: gate {n}");
    let late = |key: &str| marked(2, key).countdown(10 * SECOND);
    type Case = (fn(Canvas, Canvas) -> Canvas, u128);
    let canvases: [Case; 4] = [
        (|first, late| first | late, 2),
        (|first, late| Canvas::chord([first], late), 2),
        (
            |first, late| first | Canvas::group([late]) | task("nothing", ()),
            3,
        ),
        (|first, late| first.link(late), 1),
    ];
    for (n, (canvas, reached)) in canvases.into_iter().enumerate() {
        let (gate, key) = (gate(n), format!("schedule: reached {n}"));
        let app = world.start().await;
        let first = task("held", (1, &*gate));
        let result = app.apply_async(canvas(first, late(&key))).await.unwrap();
        noted(&gate, 1).await;
        world.clock.advance(30 * SECOND);
        open(&gate);
        wait_for(&app, result.id(), &[reached], world.clock.now()).await;
        notes_after(&world, &app, 10 * SECOND - MOMENT, &key, &[]).await;
        let (app, result) = again(&world, app, result).await;
        settle(&app).await;
        assert!(notes(&key).is_empty(), "{n}");
        notes_after(&world, &app, MOMENT, &key, &["2"]).await;
        within(result.at_rest()).await.unwrap();
        app.shutdown().await.unwrap();
    }
}

#[tokio::test]
async fn members_count_down_each_for_itself_and_the_body_waits_for_the_last() {
    let world = world();
    let key = "schedule: skew";
    let app = world.start().await;
    let header = (1..4u32).map(|n| marked(n.into(), key).countdown(n * 10 * SECOND));
    let canvas = Canvas::chord(header, Canvas::task("echo", ()));
    let result = app.apply_async(canvas).await.unwrap();
    wait_for(&app, result.id(), &[1, 2, 3], world.clock.now()).await;
    notes_after(&world, &app, 10 * SECOND, key, &["1"]).await;
    let first = result.children::<i64>().await.unwrap().remove(0);
    within(first.get()).await.unwrap();
    let (app, result) = again(&world, app, result).await;
    notes_after(&world, &app, 10 * SECOND, key, &["1", "2"]).await;
    notes_after(&world, &app, 10 * SECOND, key, &["1", "2", "3"]).await;
    assert_eq!(within(result.get()).await.unwrap(), json!([1, 2, 3]));
    app.shutdown().await.unwrap();
}

#[tokio::test]
async fn an_option_of_a_canvas_goes_to_a_chains_first_step_every_member_and_a_body() {
    let in_time = |canvas: Canvas| canvas.countdown(10 * SECOND);
    let pair = |key: &str| [marked(1, key), marked(2, key)];
    let key = |n| format!("schedule: on {n}");
    // Which nodes count down, and what has run before they do.
    let cases: [(Canvas, &[u128], &[&str]); 4] = [
        (in_time(marked(1, &key(0)) | marked(2, &key(0))), &[1], &[]),
        (in_time(Canvas::group(pair(&key(1)))), &[1, 2], &[]),
        (
            in_time(Canvas::chord([marked(1, &key(2))], marked(2, &key(2)))),
            &[2],
            &["1"],
        ),
        // What is set outside wins.
        (
            in_time(Canvas::group([marked(1, &key(3)).countdown(SECOND)])),
            &[1],
            &[],
        ),
    ];
    for (n, (canvas, nodes, before)) in cases.into_iter().enumerate() {
        let world = world();
        let app = world.start().await;
        let result = app.apply_async(canvas).await.unwrap();
        wait_for(&app, result.id(), nodes, world.clock.now()).await;
        notes_after(&world, &app, 10 * SECOND - MOMENT, &key(n), before).await;
        world.clock.advance(MOMENT);
        within(result.get()).await.unwrap();
        app.shutdown().await.unwrap();
    }
}

#[tokio::test]
async fn a_task_that_expires_before_its_time_comes_is_revoked_and_its_errbacks_are_silent() {
    let key = "schedule: expired";
    for (n, canvas) in [
        // The deadline is before the countdown's end, and at the very moment.
        marked(1, key).countdown(10 * SECOND).expires(5 * SECOND),
        marked(1, key).countdown(10 * SECOND).expires(10 * SECOND),
        marked(1, key).expires(Duration::ZERO),
        marked(1, key).expires_at(std::time::UNIX_EPOCH),
    ]
    .into_iter()
    .enumerate()
    {
        let world = world();
        let app = world.start().await;
        let canvas = canvas.link_error(marked(9, key)).link(marked(8, key));
        let result = app.apply_async(canvas).await.unwrap();
        wait_for(&app, result.id(), &[0], world.clock.now()).await;
        let (app, result) = again(&world, app, result).await;
        world.clock.advance(10 * SECOND);
        let failure = within(failure_of(&result)).await;
        assert_eq!(failure.kind, FailureKind::Revoked, "{n}");
        assert_eq!(
            (&*failure.error_type, &*failure.message),
            ("TaskRevokedError", "expired")
        );
        assert_eq!(result.state().await.unwrap(), State::Revoked);
        assert!(result.ready().await.unwrap() && !result.failed().await.unwrap());
        within(result.at_rest()).await.unwrap();
        for callback in result.children::<Value>().await.unwrap() {
            assert_eq!(callback.state().await.unwrap(), State::Revoked);
        }
        app.shutdown().await.unwrap();
        assert!(notes(key).is_empty());
    }
}

#[tokio::test]
async fn a_task_that_starts_in_time_does_not_expire() {
    let world = world();
    let app = world.start().await;
    let gate = "schedule: in time";
    let canvas = task("held", (1, gate))
        .countdown(4 * SECOND)
        .expires(5 * SECOND);
    let result = app.apply_async(canvas).await.unwrap();
    wait_for(&app, result.id(), &[0], world.clock.now()).await;
    world.clock.advance(4 * SECOND);
    noted(gate, 1).await;
    world.clock.advance(60 * SECOND);
    open(gate);
    assert_eq!(within(result.get()).await.unwrap(), json!(1));
    app.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_restart_does_not_move_the_deadline() {
    let world = world();
    let app = world.start().await;
    let key = "schedule: deadline";
    let canvas = task("stubborn", (key,)).expires(25 * SECOND);
    let result = app.apply_async(canvas).await.unwrap();
    // Tried at 0, 10 and 20 s; at 30 s it is too late.
    let (mut app, mut result) = (app, result);
    for tried in 1..=3 {
        within(noted(key, tried)).await;
        let next = world.clock.now() + 10 * SECOND;
        wait_for(&app, result.id(), &[0], next).await;
        (app, result) = again(&world, app, result).await;
        assert_eq!(result.state().await.unwrap(), State::Retry);
        if tried < 3 {
            world.clock.advance(10 * SECOND);
        }
    }
    world.clock.advance(10 * SECOND);
    assert_eq!(within(failure_of(&result)).await.kind, FailureKind::Revoked);
    assert_eq!(notes(key).len(), 3);
    app.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_task_cut_short_behind_its_deadline_is_revoked_by_the_next_life() {
    let world = world();
    let app = world.start().await;
    let gate = "schedule: cut short";
    let canvas = task("held", (1, gate)).expires(5 * SECOND);
    let result = app.apply_async(canvas).await.unwrap();
    noted(gate, 1).await;
    world.clock.advance(5 * SECOND);
    let (app, result) = again(&world, app, result).await;
    assert_eq!(within(failure_of(&result)).await.kind, FailureKind::Revoked);
    app.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_queued_task_expires_when_its_turn_comes_too_late() {
    let world = world().slots(1);
    let app = world.start().await;
    let gate = "schedule: full";
    let blocker = app.apply_async(held.s(1, gate.into())).await.unwrap();
    noted(gate, 1).await;
    let queued = app
        .apply_async(add.s(1, 1).expires(5 * SECOND))
        .await
        .unwrap();
    let patient = app
        .apply_async(add.s(2, 2).expires(60 * SECOND))
        .await
        .unwrap();
    wait_for(&app, queued.id(), &[0], world.clock.now()).await;
    wait_for(&app, patient.id(), &[0], world.clock.now()).await;
    world.clock.advance(5 * SECOND);
    open(gate);
    within(blocker.get()).await.unwrap();
    assert_eq!(within(failure_of(&queued)).await.kind, FailureKind::Revoked);
    assert_eq!(within(patient.get()).await.unwrap(), 4);
    app.shutdown().await.unwrap();
}

#[tokio::test]
async fn what_needed_the_value_of_an_expired_task_fails() {
    let world = world();
    let expired = || task("add", (1, 1)).expires(Duration::ZERO);
    let revoked = || failed("TaskRevokedError", "expired");
    let sum = || task("add", (1, 1));
    let cases: [(Canvas, End); 5] = [
        (expired() | sum() | sum(), revoked()),
        (sum() | expired() | sum(), revoked()),
        (sum() | sum() | expired(), revoked()),
        (Canvas::group([sum(), expired()]), revoked()),
        (Canvas::chord([sum()], expired()), revoked()),
    ];
    for (canvas, end) in cases {
        let shape = format!("{canvas:?}");
        assert_eq!(world.run(canvas.clone()).await, end, "{shape}");
        world.ends_over_any_crash(canvas, &end).await;
    }
    let header = Canvas::chord([sum(), expired()], task("nothing", ()));
    let (kind, message) = world.run(header).await.unwrap_err();
    assert_eq!(kind, "ChordError");
    assert!(
        message.ends_with("raised TaskRevokedError('expired')"),
        "{message}"
    );
    let settled = Canvas::group([sum(), expired()]).settled();
    let all = world.run(settled | Canvas::task("echo", ())).await.unwrap();
    assert_eq!(all[0], json!({"Ok": 2}));
    assert_eq!(all[1]["Err"]["error_type"], json!("TaskRevokedError"));
}

#[tokio::test]
async fn states_and_errbacks_around_an_expired_step() {
    let world = world();
    let app = world.start().await;
    let key = "schedule: around";
    let sum = |errback| task("add", (1, 1)).link_error(marked(errback, key));
    let expired = sum(2).expires(Duration::ZERO);
    let result = app.apply_async(sum(1) | expired | sum(3)).await.unwrap();
    within(result.at_rest()).await.unwrap();
    assert_eq!(result.state().await.unwrap(), State::Failure);
    let mut states = Vec::new();
    for step in result.children::<Value>().await.unwrap() {
        states.push(step.state().await.unwrap());
    }
    assert_eq!(states, [State::Success, State::Revoked, State::Failure]);
    // Neither the step that expired nor the one that never ran.
    assert!(notes(key).is_empty());

    let key = "schedule: header errback";
    let header = [
        task("add", (1, 1)),
        task("add", (1, 1))
            .expires(Duration::ZERO)
            .link_error(marked(1, key)),
    ];
    let body = task("nothing", ()).link_error(marked(2, key));
    let result = app.apply_async(Canvas::chord(header, body)).await.unwrap();
    within(result.at_rest()).await.unwrap();
    assert_eq!(notes(key), ["2"]);
    let members = result.children::<Value>().await.unwrap();
    assert_eq!(members[1].state().await.unwrap(), State::Revoked);
    app.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_deadline_on_a_group_is_each_members_and_on_a_chord_the_bodys() {
    let world = world();
    let app = world.start().await;
    let gate = "schedule: group deadline";
    let group = Canvas::group([
        task("held", (1, gate)),
        task("add", (1, 1)).countdown(9 * SECOND),
    ]);
    let result = app.apply_async(group.expires(5 * SECOND)).await.unwrap();
    wait_for(&app, result.id(), &[2], world.clock.now()).await;
    noted(gate, 1).await;
    world.clock.advance(9 * SECOND);
    open(gate);
    let members = result.children::<Value>().await.unwrap();
    assert_eq!(within(members[0].get()).await.unwrap(), json!(1));
    assert_eq!(
        within(failure_of(&members[1])).await.kind,
        FailureKind::Revoked
    );

    // The body's time begins when the header has ended.
    let gate = "schedule: chord deadline";
    let chord = Canvas::chord([task("held", (1, gate))], task("add", (1, 1)));
    let result = app.apply_async(chord.expires(5 * SECOND)).await.unwrap();
    noted(gate, 1).await;
    world.clock.advance(9 * SECOND);
    open(gate);
    assert_eq!(within(result.get()).await.unwrap(), json!(2));
    app.shutdown().await.unwrap();
}

#[tokio::test]
async fn more_members_than_are_alive_at_once_count_from_when_the_group_was_reached() {
    let world = world().window(3);
    let app = world.start().await;
    let gate = "schedule: window";
    let members =
        |n: i64| Canvas::group((0..n).map(|n| task("add", (n, 0)))).countdown(10 * SECOND);
    let tails = Canvas::group(
        (0..20).map(|n| task("add", (n, 0)).countdown(10 * SECOND) | task("add", (1, 1))),
    );
    let nested = Canvas::group((0..8).map(move |_| members(2)));
    let late = Canvas::group((0..9).map(move |_| task("held", (1, gate)).expires(5 * SECOND)));
    let mut results = Vec::new();
    for (canvas, first) in [(members(20), 1), (tails, 2), (nested, 2), (late, 0)] {
        let id = app.apply_async(canvas).await.unwrap().id();
        if first > 0 {
            wait_for(&app, id, &[first], world.clock.now()).await;
        }
        results.push(id);
    }
    noted(gate, 3).await;
    world.clock.advance(4 * SECOND);
    let app = world.restart(app).await;
    noted(gate, 6).await;
    world.clock.advance(6 * SECOND);
    open(gate);
    for (id, expected) in results.into_iter().zip([true, true, true, false]) {
        let result = app.async_result::<Value>(id).await.unwrap();
        assert_eq!(within(result.get()).await.is_ok(), expected);
        if !expected {
            // Of those that had to wait too long none has run.
            assert_eq!(result.completed_count().await.unwrap(), 3);
            assert_eq!(notes(gate).len(), 6);
        }
    }
    app.shutdown().await.unwrap();
}

#[tokio::test]
async fn at_its_soft_limit_a_task_that_listens_is_told_and_one_that_does_not_ends() {
    for (how, end) in [
        ("cleans up", Ok(json!(7))),
        (
            "goes on",
            failed("TimeLimitExceeded", "time limit of 30s exceeded"),
        ),
        ("hangs", failed("SoftTimeLimitExceeded", "")),
        ("second time", Ok(json!(2))),
    ] {
        let world = world();
        let app = world.start().await;
        let key = format!("schedule: soft {how}");
        let canvas = task("slow", (how, &*key))
            .soft_time_limit(20 * SECOND)
            .time_limit(30 * SECOND);
        let result = app.apply_async(canvas).await.unwrap();
        noted(&key, 1).await;
        world.clock.advance(20 * SECOND - MOMENT);
        settle(&app).await;
        assert_eq!(result.state().await.unwrap(), State::Started);
        world.clock.advance(MOMENT);
        let mut app = app;
        let mut result = result;
        match how {
            // (The clock stands meanwhile: its time to clean up is not over.)
            "cleans up" => becomes(&result, State::Success).await,
            "goes on" => assert_eq!(noted(&key, 2).await, ["1", "told"]),
            "hangs" | "second time" => {
                // As any error it is worth a retry, whose time is kept.
                becomes(&result, State::Retry).await;
                (app, result) = again(&world, app, result).await;
                world.clock.advance(10 * SECOND);
                assert_eq!(noted(&key, 2).await, ["1", "2"]);
            }
            other => unreachable!("{other}"),
        }
        assert_eq!(world.end(&result).await, end, "{how}");
        app.shutdown().await.unwrap();
    }
}

#[task(soft_time_limit = "20s", time_limit = "30s")]
async fn limited() {}

struct Impossible;

impl Task for Impossible {
    type Args = ();
    type Output = ();
    const NAME: &'static str = "impossible";
    const PARAMS: &'static [chordal::Parameter] = &[];
    const OPTIONS: TaskOptions = TaskOptions::new()
        .soft_time_limit(Duration::from_secs(2))
        .time_limit(SECOND);

    async fn run(_: TaskContext, (): ()) -> Result<(), TaskError> {
        Ok(())
    }
}

#[tokio::test]
async fn a_soft_limit_above_the_hard_one_is_refused() {
    let app = App::in_memory()
        .tasks(tasks![limited])
        .start()
        .await
        .unwrap();
    let both = |soft, hard| limited.s().soft_time_limit(soft).time_limit(hard);
    app.apply_async(both(SECOND, SECOND))
        .await
        .unwrap()
        .get()
        .await
        .unwrap();
    let above = |soft: &str, hard: &str| {
        let why = "task `limited`: the soft time limit,";
        format!("{why} {soft}, is above the time limit, {hard}")
    };
    let of_chain = Canvas::from_json(
        r#"{"task": "celery.chain", "kwargs": {"tasks": [{"task": "limited"}, {"task": "limited",
            "immutable": true, "options": {"soft_time_limit": 2.5, "time_limit": 2}}]}}"#,
    );
    for (canvas, place, reason) in [
        (both(SECOND * 2, SECOND).into(), "", above("2s", "1s")),
        // One of them is the registered one.
        (
            limited.s().soft_time_limit(SECOND * 31).into(),
            "",
            above("31s", "30s"),
        ),
        (
            limited.s().time_limit(SECOND * 5).into(),
            "",
            above("20s", "5s"),
        ),
        (
            Canvas::group([limited.s().into()]).time_limit(SECOND),
            "group[0]",
            above("20s", "1s"),
        ),
        (of_chain.unwrap(), "chain[1]", above("2.5s", "2s")),
    ] {
        let canvas: Canvas = canvas;
        match app.apply_async(canvas).await {
            Err(Error::Submit(SubmitError::Canvas { path, reason: why })) => {
                assert_eq!((&*path, why), (place, reason))
            }
            other => panic!("not refused: {other:?}"),
        }
    }
    app.shutdown().await.unwrap();

    for builder in [App::in_memory(), App::eager()] {
        let error = builder
            .tasks(tasks![limited, Impossible])
            .start()
            .await
            .unwrap_err();
        assert_eq!(
            error.to_string(),
            "task `impossible` cannot be registered: the soft time limit, 2s, is above the time limit, 1s"
        );
    }
}

#[tokio::test]
async fn a_blocking_task_looks_whether_its_soft_limit_is_over() {
    for (listens, expected) in [(true, Some(7)), (false, None)] {
        let world = world();
        let app = world.start().await;
        let key = format!("schedule: grinds {listens}");
        let canvas = grinds.s(listens, key.clone()).soft_time_limit(5 * SECOND);
        let result = app.apply_async(canvas).await.unwrap();
        noted(&key, 1).await;
        world.clock.advance(5 * SECOND);
        match expected {
            Some(n) => assert_eq!(within(result.get()).await.unwrap(), n),
            None => {
                let failed = within(failure_of(&result)).await;
                assert_eq!(failed.kind, FailureKind::SoftTimeLimit);
                open(&key);
            }
        }
        app.shutdown().await.unwrap();
    }
}
