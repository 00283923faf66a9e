//! Options: priority, queue, retries, limits.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use serde_json::json;

use super::callbacks::retry_until_the_end;
use super::*;

#[tokio::test]
async fn of_the_tasks_that_wait_the_highest_priority_goes_first_and_equals_in_order() {
    let app = builder().concurrency(1).start().await.unwrap();
    let (gate, key) = ("options: priority", "options: order");
    let first = app.apply_async(held.s(0, gate.into())).await.unwrap();
    noted(gate, 1).await;
    let mut all = Vec::new();
    for (n, priority) in [(1, 0), (2, 9), (3, 5), (4, 9), (5, 0), (6, 5)] {
        let canvas = mark.s(n, key.into()).priority(priority);
        all.push(app.apply_async(canvas).await.unwrap());
    }
    open(gate);
    first.get().await.unwrap();
    for one in all {
        one.get().await.unwrap();
    }
    assert_eq!(notes(key), ["2", "4", "3", "6", "1", "5"]);
}

#[tokio::test]
async fn a_groups_priority_is_that_of_its_members() {
    let app = builder().concurrency(1).start().await.unwrap();
    let (gate, key) = ("options: group", "options: group order");
    let first = app.apply_async(held.s(0, gate.into())).await.unwrap();
    noted(gate, 1).await;
    let low = app
        .apply_async(group((0..3).map(|n| mark.s(n, key.into()))))
        .await
        .unwrap();
    let members = group((10..13).map(|n| mark.s(n, key.into()).priority(1)));
    let high = app.apply_async(members.priority(9)).await.unwrap();
    open(gate);
    first.get().await.unwrap();
    high.get().await.unwrap();
    low.get().await.unwrap();
    assert_eq!(notes(key), ["10", "11", "12", "0", "1", "2"]);
}

static RUNNING: AtomicUsize = AtomicUsize::new(0);
static MOST: AtomicUsize = AtomicUsize::new(0);

#[task]
async fn counted(n: i64) -> i64 {
    MOST.fetch_max(RUNNING.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
    for _ in 0..10 {
        tokio::task::yield_now().await;
    }
    RUNNING.fetch_sub(1, Ordering::SeqCst);
    n
}

#[tokio::test]
async fn no_more_tasks_of_a_queue_run_at_once_than_it_has_slots() {
    let app = builder()
        .tasks(tasks![counted])
        .queue("narrow", 3)
        .start()
        .await
        .unwrap();
    let members = group((0..200).map(|n| counted.s(n))).queue("narrow");
    app.apply_async(members).await.unwrap().get().await.unwrap();
    assert!(MOST.load(Ordering::SeqCst) <= 3);
}

#[tokio::test]
async fn a_queue_has_slots_of_its_own() {
    let app = builder()
        .concurrency(1)
        .queue("side", 1)
        .start()
        .await
        .unwrap();
    let gate = "options: queue";
    let blocker = app.apply_async(held.s(0, gate.into())).await.unwrap();
    noted(gate, 1).await;
    let side = app.apply_async(add.s(1, 1).queue("side")).await.unwrap();
    assert_eq!(side.get().await.unwrap(), 2);
    // A queue that nobody set up has the app's number of slots.
    let other = app.apply_async(add.s(2, 2).queue("other")).await.unwrap();
    assert_eq!(other.get().await.unwrap(), 4);
    assert!(!blocker.ready().await.unwrap());
    open(gate);
    blocker.get().await.unwrap();
}

#[tokio::test]
async fn a_task_is_tried_again_as_often_as_it_says_with_delays_that_double() {
    let clock = Clock::manual(SystemTime::UNIX_EPOCH);
    let app = builder().clock(clock.clone()).start().await.unwrap();
    let result = app
        .apply_async(fail.s("no".into()).max_retries(3))
        .await
        .unwrap();
    let failed = retry_until_the_end(&result, &clock).await;
    assert_eq!(failed.attempt, 4);
    // 1 s, 2 s and 4 s; the clock goes in steps of one second.
    let passed = clock.now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    assert!(passed >= Duration::from_secs(7), "{passed:?}");
}

#[tokio::test]
async fn a_task_that_succeeds_in_the_end_has_succeeded() {
    #[task(max_retries = 2, retry_backoff = "1s")]
    async fn third_time(ctx: &TaskContext) -> Result<u32, TaskError> {
        match ctx.attempt() {
            3 => Ok(3),
            n => Err(TaskError::retry(
                format!("attempt {n}"),
                Duration::from_secs(1),
            )),
        }
    }
    let clock = Clock::manual(SystemTime::UNIX_EPOCH);
    let app = builder()
        .tasks(tasks![third_time])
        .clock(clock.clone())
        .start()
        .await
        .unwrap();
    let result = app.apply_async(third_time.s()).await.unwrap();
    while !result.ready().await.unwrap() {
        if result.state().await.unwrap() == State::Retry {
            clock.advance(Duration::from_secs(1));
        }
        tokio::task::yield_now().await;
    }
    assert_eq!(result.get().await.unwrap(), 3);
}

#[tokio::test]
async fn a_fatal_error_is_not_tried_again() {
    #[task(max_retries = 5)]
    async fn hopeless() -> Result<(), TaskError> {
        Err(TaskError::new("hopeless").fatal())
    }
    let app = builder().tasks(tasks![hopeless]).start().await.unwrap();
    let result = app.apply_async(hopeless.s()).await.unwrap();
    assert_eq!(failure_of(&result).await.attempt, 1);
}

#[tokio::test]
async fn an_async_task_is_dropped_at_its_time_limit() {
    struct Noted;
    impl Drop for Noted {
        fn drop(&mut self) {
            note("options: dropped", "yes");
        }
    }
    #[task(time_limit = "30s")]
    async fn endless() {
        let _noted = Noted;
        note("options: endless", "started");
        std::future::pending().await
    }
    let clock = Clock::manual(SystemTime::UNIX_EPOCH);
    let app = builder()
        .tasks(tasks![endless])
        .clock(clock.clone())
        .start()
        .await
        .unwrap();
    let result = app.apply_async(endless.s()).await.unwrap();
    noted("options: endless", 1).await;
    clock.advance(Duration::from_secs(30));
    let failed = failure_of(&result).await;
    assert_eq!(failed.kind, FailureKind::TimeLimit);
    assert_eq!(failed.message, "time limit of 30s exceeded");
    assert_eq!(noted("options: dropped", 1).await, ["yes"]);
    app.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_blocking_task_is_given_up_at_its_time_limit_and_keeps_its_slot_until_it_returns() {
    #[task(blocking)]
    fn blocks(n: i64, gate: String) -> i64 {
        pollster::block_on(held.call(n, gate))
    }
    let clock = Clock::manual(SystemTime::UNIX_EPOCH);
    let builder = builder().tasks(tasks![blocks]).clock(clock.clone());
    let app = builder.blocking_concurrency(1).start().await.unwrap();
    let gates = ["options: blocks", "options: blocks next"];
    let limited = blocks
        .s(1, gates[0].into())
        .time_limit(Duration::from_secs(5));
    let result = app.apply_async(limited).await.unwrap();
    noted(gates[0], 1).await;
    let next = app.apply_async(blocks.s(2, gates[1].into())).await.unwrap();
    clock.advance(Duration::from_secs(5));
    let failed = failure_of(&result).await;
    assert_eq!(failed.kind, FailureKind::TimeLimit);
    assert_eq!(failed.message, "time limit of 5s exceeded");
    assert_eq!(next.state().await.unwrap(), State::Pending);
    open(gates[0]);
    noted(gates[1], 1).await;
    open(gates[1]);
    assert_eq!(next.get().await.unwrap(), 2);
    assert_eq!(failure_of(&result).await.kind, FailureKind::TimeLimit);
    app.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_task_that_is_done_in_time_is_not_bothered_by_its_limit() {
    let clock = Clock::manual(SystemTime::UNIX_EPOCH);
    let app = builder().clock(clock.clone()).start().await.unwrap();
    let canvas = add.s(1, 1).time_limit(Duration::from_secs(1));
    let result = app.apply_async(canvas).await.unwrap();
    assert_eq!(result.get().await.unwrap(), 2);
    clock.advance(Duration::from_secs(60));
    assert_eq!(result.get().await.unwrap(), 2);
}

#[tokio::test]
async fn a_member_that_is_too_slow_fails_and_the_group_goes_on() {
    let clock = Clock::manual(SystemTime::UNIX_EPOCH);
    let app = builder().clock(clock.clone()).start().await.unwrap();
    let gate = "options: never opened";
    let members = group([add.s(1, 1), held.s(2, gate.into()), add.s(3, 3)]).settled();
    let canvas = members.time_limit(Duration::from_secs(5)) | outcomes.partial();
    let result = app.apply_async(canvas).await.unwrap();
    noted(gate, 1).await;
    clock.advance(Duration::from_secs(5));
    assert_eq!(
        result.get().await.unwrap(),
        ["2", "held: time limit of 5s exceeded", "6"]
    );
}

/// The options of each task: `{"1": {"queue": "q"}}` where the task's first argument is 1.
fn options_by_task(canvas: &Canvas) -> Value {
    fn collect(signature: &Value, all: &mut serde_json::Map<String, Value>) {
        let kwargs = &signature["kwargs"];
        let parts = ["tasks", "header"].map(|key| kwargs[key].as_array());
        let parts: Vec<_> = parts.into_iter().flatten().flatten().collect();
        for part in parts.iter().copied().chain(kwargs.get("body")) {
            collect(part, all);
        }
        if kwargs.as_object().is_some_and(serde_json::Map::is_empty) {
            let number = signature["args"][0].to_string();
            all.insert(number, signature["options"].clone());
        } else {
            assert_eq!(signature["options"], json!({}), "{signature}");
        }
    }
    let written: Value = serde_json::from_str(&canvas.to_json().unwrap()).unwrap();
    let mut all = serde_json::Map::new();
    collect(&written, &mut all);
    all.into()
}

fn numbered(n: i64) -> Canvas {
    Canvas::task("mark", (n,))
}

#[test]
fn options_of_a_chain_hold_for_every_step_without_its_own_and_its_times_for_the_start() {
    let members = Canvas::group([numbered(2), numbered(3).queue("own").priority(1)]);
    let chain = numbered(1) | members.priority(5) | numbered(4).max_retries(1);
    let chain = (chain | (numbered(5) | numbered(6)).queue("inner"))
        .queue("q")
        .priority(9)
        .max_retries(3)
        .time_limit(Duration::from_secs(20))
        .soft_time_limit(Duration::from_secs(10))
        .countdown(Duration::from_secs(60))
        .expires(Duration::from_secs(90));
    let limits = |mut options: Value| {
        options["time_limit"] = json!(20);
        options["soft_time_limit"] = json!(10);
        options
    };
    let start = json!({
        "queue": "q", "priority": 9, "max_retries": 3, "countdown": 60, "expires": 90,
    });
    let expected = json!({
        "1": limits(start),
        // A group's own options win over those of its members, the chain's do not.
        "2": limits(json!({"queue": "q", "priority": 5, "max_retries": 3})),
        "3": limits(json!({"queue": "own", "priority": 5, "max_retries": 3})),
        "4": limits(json!({"queue": "q", "priority": 9, "max_retries": 1})),
        "5": limits(json!({"queue": "inner", "priority": 9, "max_retries": 3})),
        "6": limits(json!({"queue": "inner", "priority": 9, "max_retries": 3})),
    });
    assert_eq!(options_by_task(&chain), expected);
}

#[test]
fn options_of_a_chord_hold_for_its_members_and_its_body_and_its_times_for_the_body() {
    let members = Canvas::group([numbered(1), numbered(2) | numbered(3).queue("own")]);
    let chord = (members | numbered(4).priority(1))
        .queue("q")
        .priority(9)
        .countdown(Duration::from_secs(60));
    let expected = json!({
        "1": {"queue": "q", "priority": 9},
        "2": {"queue": "q", "priority": 9},
        "3": {"queue": "own", "priority": 9},
        "4": {"queue": "q", "priority": 1, "countdown": 60},
    });
    assert_eq!(options_by_task(&chord), expected);
    // A group around a chain: what is set on it is set on the chain, and so on its steps.
    let group = Canvas::group([(numbered(1) | numbered(2)).queue("own"), numbered(3)]);
    let expected = json!({"1": {"queue": "q"}, "2": {"queue": "q"}, "3": {"queue": "q"}});
    assert_eq!(options_by_task(&group.queue("q")), expected);
}

#[test]
fn options_in_celerys_json_go_where_celery_passes_them() {
    let task = |n: i64| json!({"task": "mark", "args": [n], "options": {"queue": "own"}});
    let options = json!({"queue": "q", "priority": 9, "max_retries": 3, "expires": 60});
    let own = json!({"queue": "own"});
    let read = |signature: Value| {
        let canvas = Canvas::from_json(&signature.to_string()).unwrap();
        options_by_task(&canvas)
    };
    let chain = |options: &Value| {
        json!({
            "task": "celery.chain", "options": options, "kwargs": {"tasks": [task(1), task(2)]},
        })
    };
    assert_eq!(read(chain(&options)), json!({"1": options, "2": own}));
    let chord = json!({
        "task": "celery.chord", "options": options,
        "kwargs": {"header": [task(3)], "body": chain(&json!({}))},
    });
    assert_eq!(read(chord), json!({"3": own, "1": options, "2": own}));
    let group = json!({
        "task": "celery.group", "options": options,
        "kwargs": {"tasks": [chain(&json!({"priority": 1})), task(3)]},
    });
    assert_eq!(read(group), json!({"1": options, "2": own, "3": options}));
}

#[tokio::test]
async fn the_last_step_of_a_chain_is_tried_again_as_often_as_the_chain_says() {
    #[task(default_retry_delay = "0s")]
    async fn stubborn(_n: i64) -> Result<i64, TaskError> {
        Err(TaskError::new("no"))
    }
    for builder in [App::in_memory(), App::eager()] {
        let app = builder.tasks(tasks![add, stubborn]).start().await.unwrap();
        let chain = add.s(1, 1) | group([stubborn.partial()]);
        let result = app.apply_async(chain.max_retries(2)).await.unwrap();
        assert_eq!(failure_of(&result).await.attempt, 3);
        let own = add.s(1, 1) | stubborn.partial().max_retries(1);
        let result = app.apply_async(own.max_retries(2)).await.unwrap();
        assert_eq!(failure_of(&result).await.attempt, 2);
        app.shutdown().await.unwrap();
    }
}
