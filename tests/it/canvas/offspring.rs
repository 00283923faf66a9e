//! What a running task starts: `replace`, `call`, `apply_async`, `add_to_chord`.

use futures_util::FutureExt;
use serde_json::json;

use super::lives::{End, LONGEST, SECOND, World, becomes, failed, settle};
use super::*;
use crate::recovery::within;

fn task(name: &'static str, args: impl serde::Serialize) -> Canvas {
    Canvas::immutable(name, args)
}

/// What tasks start here, by name.
fn canvas(what: &str, key: &str) -> Canvas {
    let sums = |n| Canvas::group((0..n).map(|i: i64| task("add", (i, i))));
    match what {
        "task" => task("add", (1, 2)),
        "chain" => task("add", (1, 1)) | Canvas::task("add", (1,)),
        "group" => sums(3),
        "empty group" => Canvas::group([]),
        "chord" => sums(3) | Canvas::task("xsum", ()),
        "chain to group" => task("add", (1, 1)) | Canvas::group([Canvas::task("add", (1,))]),
        "large" => task("length", ("x".repeat(20_000),)),
        "thousands" => sums(3_000) | Canvas::task("xsum", ()),
        "megabyte" => task("letters", ("ab", 500_000)),
        "linked" => task("add", (1, 2)).link(Canvas::task("mark", (key,))),
        "failing" => task("fail", ("no",)),
        "failing group" => Canvas::group([task("add", (1, 1)), task("fail", ("no",))]),
        "refused" => task("add", (1, 1)) | task("nope", ()),
        "held" => task("held", (7, key)) | Canvas::task("add", (1,)),
        "two" => Canvas::group([task("held", (7, key)), task("even", (2,))]),
        other => match other.rsplit_once(' ') {
            Some((start, "0")) => canvas(start, key),
            Some((start, n)) => {
                let n: u32 = n.parse().unwrap();
                task("turn", (format!("{start} {}", n - 1), key))
            }
            None => panic!("no canvas {other}"),
        },
    }
}

/// Notes its attempt and becomes what it is told.
#[task]
async fn turn(ctx: &TaskContext, what: String, key: String) -> Result<Value, TaskError> {
    note(&format!("{key}: turn"), ctx.attempt());
    ctx.replace(canvas(&what, &key))
}

/// Notes its attempt and calls what it is told; gives that value.
#[task(max_retries = 1)]
async fn calls(ctx: &TaskContext, what: String, key: String) -> Result<Value, TaskError> {
    note(&format!("{key}: calls"), ctx.attempt());
    match ctx.call("it", canvas(&what, &key)).await {
        Ok(value) => Ok(value),
        Err(error) => Err(TaskError::from(error).fatal()),
    }
}

/// Calls, fails once, calls again.
#[task(max_retries = 1)]
async fn calls_again(ctx: &TaskContext, what: String, key: String) -> Result<Value, TaskError> {
    let value = ctx.call("it", canvas(&what, &key)).await?;
    match ctx.attempt() {
        1 => Err(TaskError::new("once more")),
        _ => Ok(value),
    }
}

#[task]
async fn depth(ctx: &TaskContext, left: u64) -> Result<u64, TaskError> {
    Ok(match left {
        0 => 0,
        left => 1 + ctx.call("below", depth.s(left - 1)).await?,
    })
}

/// Two calls at once, of which the second takes longer.
#[task]
async fn both(ctx: &TaskContext, second_first: bool) -> Result<i64, TaskError> {
    let one = ctx.call("one", add.s(1, 1));
    let two = ctx.call("two", add.s(1, 1) | add.partial(1) | add.partial(1));
    let (one, two) = if second_first {
        let (two, one) = tokio::join!(two, one);
        (one, two)
    } else {
        tokio::join!(one, two)
    };
    Ok(one? + two?)
}

/// Calls once more while a call still waits.
#[task]
async fn crossing(ctx: &TaskContext) -> Result<i64, TaskError> {
    let steps = async {
        let mut sum = 0;
        for key in ["a", "b", "c"] {
            sum += ctx.call(key, add.s(sum, 1)).await?;
        }
        Ok::<_, TaskError>(sum)
    };
    let long = async { Ok(ctx.call("long", add.s(1, 1) | add.partial(1)).await?) };
    let (steps, long) = tokio::try_join!(steps, long)?;
    Ok(steps + long)
}

#[task]
async fn doubled(ctx: &TaskContext, n: i64) -> Result<i64, TaskError> {
    Ok(ctx.call("double", add.s(n, n)).await?)
}

/// Its own limit goes on while it calls.
#[task(time_limit = "5s")]
async fn impatient(ctx: &TaskContext, gate: String) -> Result<i64, TaskError> {
    Ok(ctx.call("long", held.s(1, gate)).await?)
}

#[task]
async fn echo(value: Value) -> Value {
    value
}

/// Adds these to its chord, and gives its own.
#[task]
async fn adds(ctx: &TaskContext, own: i64, more: Vec<i64>) -> Result<i64, TaskError> {
    for n in more {
        ctx.add_to_chord(even.s(n))?;
    }
    Ok(own)
}

/// Adds the one below it, which does the same.
#[task]
async fn down(ctx: &TaskContext, n: i64) -> Result<i64, TaskError> {
    if n > 0 {
        ctx.add_to_chord(down.s(n - 1))?;
    }
    Ok(n)
}

/// Adds nine, and is replaced by one that adds two more.
#[task]
async fn adds_and_turns(ctx: &TaskContext, own: i64) -> Result<i64, TaskError> {
    ctx.add_to_chord(add.s(8, 1))?;
    ctx.replace(adds.s(own, vec![2, 4]))
}

/// Adds one that waits at the gate; notes its attempts.
#[task]
async fn adds_held(ctx: &TaskContext, key: String) -> Result<i64, TaskError> {
    note(&format!("{key}: adds"), ctx.attempt());
    ctx.add_to_chord(held.s(2, key))?;
    Ok(1)
}

/// Submits a workflow of its own, and retries once.
#[task(max_retries = 1)]
async fn submits(ctx: &TaskContext, key: String, once: bool) -> Result<i64, TaskError> {
    let other = mark.s(1, key.clone());
    let other = if once {
        other.idempotency_key(format!("{key} of {}", ctx.id()))
    } else {
        other
    };
    let other = ctx.apply_async(other).await?;
    match ctx.attempt() {
        1 => Err(TaskError::new("again")),
        _ => Ok(other.get().await?),
    }
}

fn world() -> World {
    World::of(tasks![
        turn,
        calls,
        calls_again,
        depth,
        both,
        crossing,
        doubled,
        impatient,
        echo,
        adds,
        down,
        adds_and_turns,
        adds_held,
        submits
    ])
}

const SHAPES: [&str; 7] = [
    "task",
    "chain",
    "group",
    "empty group",
    "chord",
    "chain to group",
    "task 20",
];

fn value_of(what: &str) -> Value {
    match what {
        "group" => json!([0, 2, 4]),
        "empty group" => json!([]),
        "chord" => json!(6),
        "chain to group" => json!([3]),
        _ => json!(3),
    }
}

#[tokio::test]
async fn a_replacement_gives_its_value_wherever_the_replaced_task_stands() {
    let world = world().slots(1);
    let key = "offspring: replace";
    for what in SHAPES {
        let it = || task("turn", (what, key));
        let sum = || task("add", (1, 1));
        let value = value_of(what);
        let places = [
            (it(), value.clone()),
            (sum() | it() | Canvas::task("echo", ()), value.clone()),
            (sum() | it(), value.clone()),
            (Canvas::group([it(), sum()]), json!([value, 2])),
            (
                Canvas::chord([it(), sum()], Canvas::task("echo", ())),
                json!([value, 2]),
            ),
            (
                Canvas::group([sum() | it()]) | Canvas::task("echo", ()),
                json!([value]),
            ),
            (Canvas::chord([sum()], it()), value),
        ];
        for (canvas, expected) in places {
            let shape = format!("{what}: {canvas:?}");
            assert_eq!(world.run(canvas).await, Ok(expected), "{shape}");
        }
    }
}

#[tokio::test]
async fn a_replacement_calls_the_links_and_errbacks_of_the_replaced_task_once() {
    let world = world();
    for (what, key) in [
        ("task 3", "offspring: link"),
        ("chain", "offspring: link 2"),
    ] {
        let app = world.start().await;
        let it = task("turn", (what, key)).link(Canvas::task("mark", (key,)));
        let it = it.link_error(Canvas::task("alert", (key,)));
        let result = app.apply_async(it).await.unwrap();
        within(result.at_rest()).await.unwrap();
        assert_eq!(notes(key), ["3"], "{what}");
        app.shutdown().await.unwrap();
    }
    for (what, key, text) in [
        ("failing 3", "offspring: errback", "fail: no"),
        (
            "refused",
            "offspring: errback 2",
            "turn: its replacement is refused: ",
        ),
    ] {
        let app = world.start().await;
        let it = task("turn", (what, key)).link(Canvas::task("mark", (key,)));
        let it = it.link_error(Canvas::task("alert", (key,)));
        let result = app.apply_async(it).await.unwrap();
        within(result.at_rest()).await.unwrap();
        let all = notes(key);
        assert!(all.len() == 1 && all[0].starts_with(text), "{all:?}");
        app.shutdown().await.unwrap();
    }
}

#[tokio::test]
async fn a_failing_replacement_is_the_failure_of_the_replaced_task() {
    let world = world();
    let it = |what| task("turn", (what, "offspring: fails"));
    assert_eq!(world.run(it("failing")).await, failed("TaskError", "no"));
    assert_eq!(world.run(it("failing 5")).await, failed("TaskError", "no"));
    let (kind, message) = world.run(it("failing group")).await.unwrap_err();
    assert_eq!(kind, "ChordError");
    assert!(message.ends_with("raised TaskError('no')"), "{message}");
    let (kind, message) = world
        .run(it("failing") | task("add", (1, 1)))
        .await
        .unwrap_err();
    assert_eq!((&*kind, &*message), ("TaskError", "no"));
    let (kind, _) = world
        .run(Canvas::chord([it("failing")], task("nothing", ())))
        .await
        .unwrap_err();
    assert_eq!(kind, "ChordError");
    let (kind, message) = world.run(it("refused")).await.unwrap_err();
    assert_eq!(kind, "TypeError");
    assert!(message.contains("chain[1]: task `nope`"), "{message}");
}

#[tokio::test]
async fn a_large_replacement_runs_also_over_a_restart() {
    for (what, value) in [
        ("large", json!(20_000)),
        ("thousands", json!(2_999 * 3_000)),
    ] {
        let it = || task("turn", (what, "offspring: large"));
        assert_eq!(world().run(it()).await, Ok(value.clone()), "{what}");
    }
    let world = world();
    for key in ["turn", "calls"] {
        for what in ["large", "thousands", "megabyte"] {
            assert!(
                world
                    .run(task(key, (what, "offspring: large")))
                    .await
                    .is_ok()
            );
        }
    }
    assert!(world.longest_record() <= LONGEST);
    let large = task("turn", ("large", "offspring: large"));
    world.ends_over_any_crash(large, &Ok(json!(20_000))).await;
}

#[tokio::test]
async fn a_task_may_be_replaced_a_thousand_times() {
    let it = task("turn", ("task 1000", "offspring: thousand"));
    assert_eq!(world().run(it).await, Ok(json!(3)));
}

#[tokio::test]
async fn a_replaced_task_is_not_called_again_when_the_app_restarts() {
    let world = world();
    let key = "offspring: replace restart";
    let app = world.start().await;
    let result = app
        .apply_async(task("turn", ("held 2", key)))
        .await
        .unwrap();
    noted(key, 1).await;
    assert_eq!(result.state().await.unwrap(), State::Started);
    let app = world.restart(app).await;
    noted(key, 2).await;
    open(key);
    let result = app.async_result::<Value>(result.id()).await.unwrap();
    assert_eq!(within(result.get()).await.unwrap(), json!(8));
    assert_eq!(notes(&format!("{key}: turn")), ["1"; 3]);
    app.shutdown().await.unwrap();
}

#[tokio::test]
async fn what_a_task_starts_ends_as_it_should_over_any_crash() {
    let world = world().slots(2);
    let key = "offspring: crash";
    let canvases: [(Canvas, End); 7] = [
        (
            task("turn", ("chord 2", key)) | Canvas::task("echo", ()),
            Ok(json!(6)),
        ),
        (
            task("turn", ("failing 1", key)).link_error(task("nothing", ())),
            failed("TaskError", "no"),
        ),
        (task("calls", ("chord", key)), Ok(json!(6))),
        (task("calls_again", ("chain", key)), Ok(json!(3))),
        (both.s(false).into(), Ok(json!(6))),
        (
            Canvas::chord(
                [task("adds", (1, [2, 4])), task("adds", (5, [6]))],
                Canvas::task("echo", ()),
            ),
            Ok(json!([1, 2, 4, 5, 6])),
        ),
        (
            Canvas::group([adds_and_turns.s(1).into(), down.s(2).into()]),
            Ok(json!([1, 2, 4, 9, 2, 1, 0])),
        ),
    ];
    for (canvas, end) in canvases {
        world.ends_over_any_crash(canvas, &end).await;
    }
}

#[tokio::test]
async fn a_call_gives_the_value_of_any_canvas() {
    let world = world().slots(1);
    let key = "offspring: call";
    for what in SHAPES {
        let end = world.run(task("calls", (what, key))).await;
        assert_eq!(end, Ok(value_of(what)), "{what}");
    }
    let end = world.run(task("calls", ("megabyte", key))).await;
    assert_eq!(end, Ok(json!("ab".repeat(500_000))));
    let end = world.run(task("calls", ("thousands", key))).await;
    assert_eq!(end, Ok(json!(2_999 * 3_000)));
}

#[tokio::test]
async fn a_call_that_fails_or_is_refused_is_an_error_of_the_caller() {
    let world = world();
    let it = |what| task("calls", (what, "offspring: call fails"));
    let (_, message) = world.run(it("failing")).await.unwrap_err();
    assert!(message.contains("no"), "{message}");
    let (_, message) = world.run(it("refused")).await.unwrap_err();
    assert!(message.contains("refused at chain[1]"), "{message}");
}

#[tokio::test]
async fn a_called_canvas_calls_its_links() {
    let world = world();
    let key = "offspring: call links";
    let app = world.start().await;
    let result = app
        .apply_async(task("calls", ("linked", key)))
        .await
        .unwrap();
    within(result.at_rest()).await.unwrap();
    assert_eq!(notes(key), ["3"]);
    app.shutdown().await.unwrap();
}

#[tokio::test]
async fn the_key_of_a_call_may_not_be_long() {
    #[task]
    async fn calls_as(ctx: &TaskContext, size: usize) -> Result<i64, TaskError> {
        Ok(ctx.call(&"k".repeat(size), add.s(1, 1)).await?)
    }
    let world = World::of(tasks![calls_as]);
    assert_eq!(world.run(calls_as.s(1_024)).await, Ok(json!(2)));
    let (_, message) = world.run(calls_as.s(1_025)).await.unwrap_err();
    assert!(
        message.ends_with("the key of a call has at most 1024 bytes"),
        "{message}"
    );
}

#[tokio::test]
async fn tasks_call_tasks_fifty_deep_with_one_slot() {
    assert_eq!(world().slots(1).run(depth.s(50)).await, Ok(json!(50)));
}

#[tokio::test]
async fn calls_at_once_need_no_more_than_one_slot_however_they_end() {
    let world = world().slots(1);
    assert_eq!(world.run(both.s(false)).await, Ok(json!(6)));
    assert_eq!(world.run(both.s(true)).await, Ok(json!(6)));
    assert_eq!(world.run(crossing.s()).await, Ok(json!(7 + 3)));
    let many = group((0..20).map(|_| both.s(true)));
    assert_eq!(world.run(many).await, Ok(json!(vec![6; 20])));
}

#[tokio::test]
async fn each_item_of_a_map_has_calls_of_its_own() {
    assert_eq!(
        world().run(doubled.map([1, 2, 3])).await,
        Ok(json!([2, 4, 6]))
    );
}

#[tokio::test]
async fn a_caller_holds_no_slot_while_it_waits_and_one_when_it_goes_on() {
    let world = world().slots(1);
    let app = world.start().await;
    let key = "offspring: slot";
    let caller = app.apply_async(task("calls", ("held", key))).await.unwrap();
    noted(key, 1).await;
    // The one slot is the child's.
    let other = app.apply_async(add.s(1, 1)).await.unwrap();
    assert_eq!(other.state().await.unwrap(), State::Pending);
    open(key);
    assert_eq!(within(caller.get()).await.unwrap(), json!(8));
    assert_eq!(within(other.get()).await.unwrap(), 2);
    app.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_call_is_joined_after_a_restart_and_its_child_goes_on_where_it_was() {
    let world = world();
    let key = "offspring: call restart";
    let app = world.start().await;
    let result = app.apply_async(task("calls", ("two", key))).await.unwrap();
    noted(key, 1).await;
    settle(&app).await;
    let app = world.restart(app).await;
    noted(key, 2).await;
    open(key);
    let result = app.async_result::<Value>(result.id()).await.unwrap();
    assert_eq!(within(result.get()).await.unwrap(), json!([7, 2]));
    // The child was started once; that it was cut short it sees in its attempt, and only there.
    assert_eq!(notes(key), ["7", "7"]);
    assert_eq!(notes(&format!("{key}: calls")), ["1", "2"]);
    app.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_retry_joins_the_call_of_the_attempt_before() {
    let world = world();
    let key = "offspring: call retry";
    let app = world.start().await;
    let it = task("calls_again", ("linked", key));
    let result = app.apply_async(it).await.unwrap();
    becomes(&result, State::Retry).await;
    let app = world.restart(app).await;
    let result = app.async_result::<Value>(result.id()).await.unwrap();
    assert_eq!(world.end(&result).await, Ok(json!(3)));
    within(result.at_rest()).await.unwrap();
    assert_eq!(notes(key), ["3"]);
    app.shutdown().await.unwrap();
}

#[tokio::test]
async fn the_time_limit_of_a_task_goes_on_while_it_calls_and_its_end_waits_for_the_canvas() {
    let world = world().slots(2);
    let app = world.start().await;
    let gate = "offspring: impatient";
    let result = app.apply_async(impatient.s(gate.into())).await.unwrap();
    noted(gate, 1).await;
    world.clock.advance(5 * SECOND);
    settle(&app).await;
    assert!(!result.ready().await.unwrap());
    open(gate);
    assert_eq!(failure_of(&result).await.kind, FailureKind::TimeLimit);
    // The slots are free again.
    let next = app
        .apply_async(group((0..3).map(|n| add.s(n, n))))
        .await
        .unwrap();
    assert_eq!(within(next.get()).await.unwrap(), [0, 2, 4]);
    app.shutdown().await.unwrap();
}

/// Starts a canvas and does not wait for it.
#[task]
async fn leaves(ctx: &TaskContext, what: String, key: String) -> i64 {
    let left = fail.s(what).on_error(alert.partial(key));
    assert!(ctx.call("it", left).now_or_never().is_none());
    7
}

#[task(blocking)]
fn blocked(ctx: &TaskContext) -> String {
    let call = ctx.call("it", add.s(1, 1)).now_or_never();
    call.expect("it is refused at once")
        .unwrap_err()
        .to_string()
}

/// Sinks so deep, and ends there with a callback that waits at the gate.
#[task]
async fn sinks(ctx: &TaskContext, left: u32, gate: String) -> Result<i64, TaskError> {
    match left {
        0 => ctx.replace(add.s(1, 1).link(held.partial(gate))),
        left => ctx.replace(sinks.s(left - 1, gate)),
    }
}

#[tokio::test]
async fn a_task_ends_after_what_it_called_whose_errbacks_run() {
    let world = World::of(tasks![leaves]);
    let app = world.start().await;
    let key = "offspring: left";
    let result = app
        .apply_async(leaves.s("no".into(), key.into()))
        .await
        .unwrap();
    assert_eq!(within(result.get()).await.unwrap(), 7);
    within(result.at_rest()).await.unwrap();
    assert_eq!(notes(key), ["fail: no"]);
    app.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_blocking_task_may_not_call() {
    let why = World::of(tasks![blocked]).run(blocked.s()).await.unwrap();
    assert!(
        why.as_str()
            .unwrap()
            .contains("a blocking task cannot call"),
        "{why}"
    );
}

#[tokio::test]
async fn a_callback_thousands_of_replacements_deep_is_found_after_a_restart() {
    let world = World::of(tasks![sinks]);
    let gate = "offspring: deep";
    let app = world.start().await;
    let id = app
        .apply_async(sinks.s(3_000, gate.into()))
        .await
        .unwrap()
        .id();
    noted(gate, 1).await;
    let app = world.restart(app).await;
    noted(gate, 2).await;
    open(gate);
    let result = app.async_result::<i64>(id).await.unwrap();
    within(result.at_rest()).await.unwrap();
    assert_eq!(result.get().await.unwrap(), 2);
    app.shutdown().await.unwrap();
}

#[tokio::test]
async fn outside_a_task_nothing_can_be_started() {
    let ctx = TaskContext::detached();
    let call = ctx.call("k", add.s(1, 1)).await;
    assert!(matches!(call, Err(Error::Context(ContextError::NotInTask))));
    let submitted = ctx.apply_async(add.s(1, 1)).await;
    assert!(matches!(
        submitted,
        Err(Error::Context(ContextError::NotInTask))
    ));
    let added = ctx.add_to_chord(add.s(1, 1));
    assert!(matches!(
        added,
        Err(Error::Context(ContextError::NotInTask))
    ));
}

#[tokio::test]
async fn a_task_submits_once_per_attempt_and_with_a_key_once() {
    let world = world();
    for (once, key, times) in [
        (false, "offspring: submit", 2),
        (true, "offspring: submit once", 1),
    ] {
        assert_eq!(world.run(submits.s(key.into(), once)).await, Ok(json!(1)));
        assert_eq!(notes(key).len(), times, "{key}");
    }
}

#[tokio::test]
async fn additions_stand_behind_their_task_in_order() {
    let world = world().slots(1);
    let echoed = |members: Vec<Canvas>| Canvas::chord(members, Canvas::task("echo", ()));
    let sum = || task("add", (1, 1));
    let with = |own: i64, more: &[i64]| task("adds", (own, more));
    let cases = [
        (echoed(vec![with(1, &[4, 2]), sum()]), json!([1, 4, 2, 2])),
        (
            Canvas::group([sum(), with(1, &[4, 2])]),
            json!([2, 1, 4, 2]),
        ),
        // The last step of a chain is a member, a step before it is not.
        (echoed(vec![sum() | with(1, &[4]), sum()]), json!([1, 4, 2])),
        (
            echoed(vec![task("down", (3,)), sum()]),
            json!([3, 2, 1, 0, 2]),
        ),
        (
            echoed(vec![task("adds_and_turns", (1,)), sum()]),
            json!([1, 2, 4, 9, 2]),
        ),
        // A list is one value, its additions are more of them.
        (
            Canvas::group([Canvas::group([with(1, &[2])]) | Canvas::task("echo", ())]),
            json!([[1, 2]]),
        ),
        (
            echoed(vec![with(1, &[2])]) | Canvas::task("echo", ()),
            json!([1, 2]),
        ),
    ];
    for (canvas, expected) in cases {
        let shape = format!("{canvas:?}");
        assert_eq!(world.run(canvas).await, Ok(expected), "{shape}");
    }
}

#[tokio::test]
async fn an_addition_that_fails_fails_its_member() {
    let world = world();
    let members = || [task("adds", (1, [2, 3])), task("add", (1, 1))];
    let end = world.run(Canvas::group(members())).await;
    assert_eq!(end, failed("TaskError", "3 is odd"));
    let (kind, message) = world
        .run(Canvas::chord(members(), Canvas::task("echo", ())))
        .await
        .unwrap_err();
    assert_eq!(kind, "ChordError");
    assert!(
        message.ends_with("raised TaskError('3 is odd')"),
        "{message}"
    );
}

#[tokio::test]
async fn a_task_that_is_no_member_cannot_add() {
    let world = world();
    for canvas in [
        task("adds", (1, [2])),
        task("add", (1, 1)) | task("adds", (1, [2])),
        Canvas::group([task("adds", (1, [2])) | task("add", (1, 1))]),
        Canvas::chord([task("add", (1, 1))], task("adds", (1, [2]))),
    ] {
        let (_, message) = world.run(canvas).await.unwrap_err();
        assert!(message.contains("is a member of no group"), "{message}");
    }
}

#[tokio::test]
async fn an_addition_goes_on_after_a_restart_and_is_not_added_twice() {
    let world = world();
    let key = "offspring: add restart";
    let app = world.start().await;
    let members = [adds_held.s(key.into()), add.s(1, 1)];
    let result = app
        .apply_async(group(members) | xsum.partial())
        .await
        .unwrap();
    noted(key, 1).await;
    let app = world.restart(app).await;
    noted(key, 2).await;
    open(key);
    let result = app.async_result::<Value>(result.id()).await.unwrap();
    assert_eq!(within(result.get()).await.unwrap(), json!(1 + 2 + 2));
    app.shutdown().await.unwrap();
}

#[tokio::test]
async fn what_a_task_started_is_found_by_its_id() {
    /// Notes its id.
    #[task]
    async fn named(ctx: &TaskContext, n: i64, key: String) -> i64 {
        note(&key, ctx.id());
        n
    }
    #[task]
    async fn starter(ctx: &TaskContext, key: String) -> Result<i64, TaskError> {
        ctx.call("one", named.s(1, key.clone()) | named.partial(key.clone()))
            .await?;
        ctx.add_to_chord(named.s(2, key.clone()))?;
        ctx.replace(group([named.s(3, key.clone()), named.s(4, key)]) | xsum.partial())
    }
    let world = World::of(tasks![named, starter]);
    let app = world.start().await;
    let key = "offspring: ids";
    let canvas = group([starter.s(key.into()), add.s(1, 1)]);
    let result = app.apply_async(canvas).await.unwrap();
    assert_eq!(within(result.get()).await.unwrap(), [7, 2, 2]);
    within(result.at_rest()).await.unwrap();
    let app = world.restart(app).await;
    let mut values = Vec::new();
    for id in noted(key, 5).await {
        let found = app.async_result::<i64>(id.parse().unwrap()).await.unwrap();
        assert_eq!(found.state().await.unwrap(), State::Success);
        assert!(found.children::<Value>().await.unwrap().is_empty());
        values.push(within(found.get()).await.unwrap());
    }
    values.sort_unstable();
    assert_eq!(values, [1, 1, 2, 3, 4]);
    app.shutdown().await.unwrap();
}

#[tokio::test]
async fn the_members_of_a_task_that_became_a_group_are_those_of_the_group() {
    let world = world();
    let app = world.start().await;
    let it = task("turn", ("group", "offspring: members"));
    let result = app.apply_async(it).await.unwrap();
    assert_eq!(within(result.get()).await.unwrap(), json!([0, 2, 4]));
    let members = result.members::<i64>().await.unwrap().expect("a group");
    assert_eq!(within(members[2].get()).await.unwrap(), 4);
    app.shutdown().await.unwrap();
}
