//! Canvases out of Celery's JSON, run to their end; and every text that is refused.

use std::time::{Duration, SystemTime};

use chordal::persistence::{MemoryStore, Store};
use chordal::prelude::*;
use chordal::{Error, SubmitError};
use serde_json::{Value, json};

#[task]
async fn add(x: i64, y: i64) -> i64 {
    x + y
}

#[task]
async fn identity(x: Value) -> Value {
    x
}

#[task]
async fn xsum(xs: Vec<i64>) -> i64 {
    xs.iter().sum()
}

#[task]
async fn to_list(#[rest] args: Vec<Value>) -> Vec<Value> {
    args
}

#[task]
async fn echo(x: Value, #[default] a: Value, #[default] b: Value) -> Value {
    json!({"x": x, "a": a, "b": b})
}

#[task]
async fn alert(failure: TaskFailure, #[default] tag: String) -> String {
    format!("{tag}: {}", failure.message)
}

#[task]
async fn fail() -> Result<(), TaskError> {
    Err(TaskError::new("no"))
}

#[task]
async fn digits(x: i128, #[default] y: u128) -> String {
    format!("{x} {y}")
}

#[task]
async fn rows(list: Vec<i128>) -> String {
    format!("{list:?}")
}

async fn app() -> App {
    open(MemoryStore::new()).await
}

async fn open(store: MemoryStore) -> App {
    let tasks = tasks![
        add, identity, xsum, to_list, echo, alert, fail, digits, rows
    ];
    let app = App::with_store(store).tasks(tasks);
    app.start().await.unwrap()
}

/// The value of a canvas, and of the one read from what it is written as.
async fn run(canvas: Canvas) -> Value {
    let app = app().await;
    let again = Canvas::from_json(&canvas.to_json().unwrap()).unwrap();
    let value = app.apply_async(canvas).await.unwrap().get().await.unwrap();
    let same = app.apply_async(again).await.unwrap().get().await.unwrap();
    app.shutdown().await.unwrap();
    assert_eq!(value, same);
    value
}

async fn run_json(signature: Value) -> Value {
    run(Canvas::from_json(&signature.to_string()).unwrap()).await
}

fn sig(task: &str, args: Value) -> Value {
    json!({"task": task, "args": args, "kwargs": {}, "options": {}, "subtask_type": null, "immutable": false})
}

fn si(task: &str, args: Value) -> Value {
    with(sig(task, args), "immutable", json!(true))
}

fn composed(kind: &str, kwargs: Value) -> Value {
    json!({"task": format!("celery.{kind}"), "args": [], "kwargs": kwargs, "options": {}, "subtask_type": kind, "immutable": false})
}

fn chain<const N: usize>(tasks: [Value; N]) -> Value {
    composed("chain", json!({"tasks": tasks.to_vec()}))
}

fn group<const N: usize>(tasks: [Value; N]) -> Value {
    composed("group", json!({"tasks": tasks.to_vec()}))
}

fn chord<const N: usize>(header: [Value; N], body: Value) -> Value {
    composed(
        "chord",
        json!({"header": header.to_vec(), "body": body, "kwargs": {}}),
    )
}

fn with(mut signature: Value, key: &str, value: Value) -> Value {
    signature[key] = value;
    signature
}

fn option(mut signature: Value, name: &str, value: Value) -> Value {
    signature["options"][name] = value;
    signature
}

fn n(n: i64) -> Value {
    sig("identity", json!([n]))
}

#[tokio::test]
async fn tasks() {
    assert_eq!(run_json(sig("add", json!([1, 2]))).await, json!(3));
    assert_eq!(run_json(json!({"task": "to_list"})).await, json!([]));
    let named = with(sig("echo", json!([1])), "kwargs", json!({"b": [2.5, "x"]}));
    assert_eq!(
        run_json(named).await,
        json!({"x": 1, "a": null, "b": [2.5, "x"]})
    );
    let named = with(si("echo", json!([1])), "kwargs", json!({"a": 2}));
    assert_eq!(
        run_json(chain([n(9), named])).await,
        json!({"x": 1, "a": 2, "b": null})
    );
    let nulls = json!({"task": "add", "args": [1, 2], "kwargs": null, "options": null, "immutable": null, "chord_size": null});
    assert_eq!(run_json(nulls).await, json!(3));
    let chain = chain([n(1), si("add", json!([5, 5])), sig("add", json!([1]))]);
    assert_eq!(run_json(chain).await, json!(11));
}

#[tokio::test]
async fn chains_groups_and_chords() {
    let adds = || [sig("add", json!([1])), sig("add", json!([2]))];
    assert_eq!(
        run_json(chain([n(1), chain(adds()), sig("add", json!([4]))])).await,
        json!(8)
    );
    assert_eq!(run_json(chain([])).await, json!(null));
    assert_eq!(run_json(group([n(1), n(2)])).await, json!([1, 2]));
    assert_eq!(
        run_json(chain([n(5), group(adds()), sig("xsum", json!([]))])).await,
        json!(13)
    );
    let body = || sig("xsum", json!([]));
    assert_eq!(run_json(chord([n(1), n(2)], body())).await, json!(3));
    assert_eq!(run_json(chord([], body())).await, json!(0));
    let in_header = composed(
        "chord",
        json!({"header": group([n(1), n(2)]), "body": body()}),
    );
    assert_eq!(run_json(in_header).await, json!(3));
    let one = composed("chord", json!({"header": n(1), "body": body()}));
    assert_eq!(run_json(with(one, "chord_size", json!(1))).await, json!(1));
    assert_eq!(
        run_json(chain([n(5), chord(adds(), body()), sig("add", json!([1]))])).await,
        json!(14)
    );
    // The names alone say what they are, and so do the types.
    let short =
        json!({"task": "celery.chain", "kwargs": {"tasks": [n(1), sig("add", json!([1]))]}});
    assert_eq!(run_json(short).await, json!(2));
    let typed = json!({"subtask_type": "group", "kwargs": {"tasks": [n(1)]}});
    assert_eq!(run_json(typed).await, json!([1]));
}

#[tokio::test]
async fn groups_in_groups_are_one_group_in_the_order_written() {
    let inner = || group([n(2), group([n(3)]), n(4)]);
    assert_eq!(
        run_json(group([n(1), inner(), n(5)])).await,
        json!([1, 2, 3, 4, 5])
    );
    assert_eq!(
        run_json(chord([n(1), inner(), n(5)], sig("identity", json!([])))).await,
        json!([1, 2, 3, 4, 5])
    );
    let of_one = composed(
        "chord",
        json!({"header": group([inner()]), "body": sig("identity", json!([]))}),
    );
    assert_eq!(run_json(of_one).await, json!([2, 3, 4]));
    // At the end of a chain it gives one value, its list.
    assert_eq!(
        run_json(group([
            n(1),
            chain([
                n(2),
                group([sig("add", json!([1])), sig("add", json!([2]))])
            ])
        ]))
        .await,
        json!([1, [3, 4]])
    );
}

#[tokio::test]
async fn a_group_gives_a_list_unless_it_is_the_only_member_of_a_step() {
    let same = || sig("identity", json!([]));
    // As Celery has it: `pub:chain-group/single-member-unrolls-in-chain`.
    assert_eq!(run_json(chain([group([n(1)]), same()])).await, json!(1));
    assert_eq!(run_json(chain([n(1), group([same()])])).await, json!(1));
    assert_eq!(run_json(group([n(1)])).await, json!([1]));
    let two = group([n(1), n(2)]);
    assert_eq!(run_json(chain([two, same()])).await, json!([1, 2]));
    assert_eq!(run_json(group([])).await, json!([]));
    // An empty one in a chain is skipped.
    assert_eq!(
        run_json(chain([n(1), group([]), group([group([])]), same()])).await,
        json!(1)
    );
    assert_eq!(
        run_json(chain([n(1), chain([group([])]), same()])).await,
        json!(1)
    );
    assert_eq!(run_json(chain([group([]), group([])])).await, json!([]));
    assert_eq!(run_json(chain([n(1), group([])])).await, json!(1));
}

/// As a real Celery 5.7 does: a group of one, submitted itself, is the results of its member.
#[tokio::test]
async fn a_group_of_one_that_ends_in_a_group_gives_the_list_of_that() {
    let plus = |n: i64| sig("add", json!([n]));
    let list = || chain([n(3), group([plus(1), plus(2)])]);
    let body = || group([sig("xsum", json!([])), sig("xsum", json!([]))]);
    for (of_one, value) in [
        (group([list()]), json!([4, 5])),
        (group([group([]), group([list()])]), json!([4, 5])),
        (group([chain([list()])]), json!([4, 5])),
        (group([chord([n(1)], body())]), json!([1, 1])),
        (
            group([chain([n(1), chord([plus(1)], body())])]),
            json!([2, 2]),
        ),
        (group([chain([group([n(4), n(5)])])]), json!([4, 5])),
        // One within that is a list itself.
        (
            group([chord(
                [n(1)],
                group([chain([sig("xsum", json!([])), group([plus(1), plus(2)])])]),
            )]),
            json!([[2, 3]]),
        ),
        // Not these: the one result is a task's, or there are two.
        (group([chain([n(1), group([plus(1)])])]), json!([2])),
        (group([list(), n(9)]), json!([[4, 5], 9])),
        // Nor where something is around it.
        (
            chord(
                [n(1)],
                group([chain([sig("xsum", json!([])), group([plus(1), plus(2)])])]),
            ),
            json!([[2, 3]]),
        ),
    ] {
        let canvas = Canvas::from_json(&of_one.to_string()).unwrap();
        let app = app().await;
        let given = app.apply_async(canvas).await.unwrap().get().await.unwrap();
        assert_eq!(given, value, "{of_one}");
        app.shutdown().await.unwrap();
    }
    let same = || sig("identity", json!([]));
    assert_eq!(run_json(chord([list()], same())).await, json!([[4, 5]]));
    let header = composed("chord", json!({"header": group([list()]), "body": same()}));
    assert_eq!(run_json(header).await, json!([[4, 5]]));
    assert_eq!(
        run_json(chain([group([list()]), same()])).await,
        json!([4, 5])
    );
    // Callbacks and options go with it; a link on a group is refused as ever.
    let queued = option(
        option(group([list()]), "queue", json!("q")),
        "link_error",
        json!([n(1)]),
    );
    let canvas = Canvas::from_json(&queued.to_string()).unwrap();
    let written: Value = serde_json::from_str(&canvas.to_json().unwrap()).unwrap();
    let mut expected = option(list(), "link_error", json!([n(1)]));
    let first = &mut expected["kwargs"]["tasks"][0];
    *first = option(first.take(), "queue", json!("q"));
    assert_eq!(written, expected);
    let linked = option(group([list()]), "link", json!([n(1)]));
    let app = app().await;
    let canvas = Canvas::from_json(&linked.to_string()).unwrap();
    let (_, why) = refusal(app.apply_async(canvas).await);
    assert_eq!(why, "cannot add link to group: use a chord");
}

#[tokio::test]
async fn a_chain_that_stands_for_a_header_gives_its_steps() {
    let over = |header: Value| {
        composed(
            "chord",
            json!({"header": header, "body": sig("identity", json!([]))}),
        )
    };
    assert_eq!(
        run_json(over(chain([
            si("add", json!([1, 1])),
            si("add", json!([2, 2]))
        ])))
        .await,
        json!([2, 4])
    );
    let inner = chain([n(4), sig("add", json!([1]))]);
    let mixed = chain([n(1), group([n(2), n(3)]), inner, group([n(6)])]);
    assert_eq!(run_json(over(mixed)).await, json!([1, 2, 3, 5, 6]));
    assert_eq!(run_json(over(chain([]))).await, json!([]));
    // Each gets what is upstream, and what a call brings.
    let plus = |n: i64| sig("add", json!([n]));
    assert_eq!(
        run_json(chain([n(5), over(chain([plus(1), plus(2)]))])).await,
        json!([6, 7])
    );
    // What is set on it is set on its steps.
    let set = option(chain([n(1), n(2), n(3)]), "queue", json!("q"));
    let set = option(set, "link", json!([n(7)]));
    let set = with(option(set, "link_error", json!([n(8)])), "args", json!([]));
    let read = Canvas::from_json(&over(set).to_string()).unwrap();
    let written: Value = serde_json::from_str(&read.to_json().unwrap()).unwrap();
    let errback = |n: Value| option(n, "link_error", json!([self::n(8)]));
    assert_eq!(
        written["kwargs"]["header"],
        json!([
            errback(option(n(1), "queue", json!("q"))),
            errback(n(2)),
            errback(option(n(3), "link", json!([n(7)]))),
        ])
    );
    let called = with(chain([plus(1), n(2)]), "args", json!([10]));
    assert_eq!(run_json(over(called)).await, json!([11, 2]));
    let bad = over(chain([n(1), json!(7)]));
    let (path, why) = refusal(Canvas::from_json(&bad.to_string()));
    assert_eq!(
        (&*path, &*why),
        ("chord.header[1]", "a signature must be an object, but is 7")
    );
}

#[tokio::test]
async fn an_errback_that_a_chord_shares_with_the_chords_in_its_header_runs_once() {
    for levels in 1..5 {
        let mut canvas = sig("fail", json!([]));
        for _ in 0..levels {
            let body = option(
                sig("to_list", json!([])),
                "link_error",
                json!([sig("alert", json!(["E"]))]),
            );
            canvas = chord([canvas, n(1)], body);
        }
        let store = MemoryStore::new();
        let app = App::with_store(store).tasks(tasks![identity, to_list, alert, fail]);
        let app = app.start().await.unwrap();
        let canvas = Canvas::from_json(&canvas.to_string()).unwrap();
        let mut level = vec![app.apply_async(canvas).await.unwrap()];
        level[0].at_rest().await.unwrap();
        let mut ran = 0;
        // Every node: the ids are numbered.
        let root = level.remove(0).id().as_uuid().as_u128();
        for seq in 0.. {
            let id = chordal::Id::from(uuid::Uuid::from_u128(root + seq));
            let Ok(node) = app.async_result::<String>(id).await else {
                break;
            };
            ran += usize::from(node.get().await.is_ok_and(|told| told.starts_with("E: ")));
        }
        assert_eq!(ran, 1, "{levels} levels");
        app.shutdown().await.unwrap();
    }
}

#[tokio::test]
async fn a_group_that_ends_a_body_gives_its_list_to_the_next_step() {
    let twice = || group([sig("xsum", json!([])), sig("xsum", json!([]))]);
    assert_eq!(
        run_json(chain([
            chord([n(1), n(2)], twice()),
            sig("xsum", json!([]))
        ]))
        .await,
        json!(6)
    );
    let body = chain([twice(), twice()]);
    assert_eq!(
        run_json(chain([chord([n(1), n(2)], body), sig("xsum", json!([]))])).await,
        json!(12)
    );
    assert_eq!(
        run_json(chain([group([n(1), n(2)]), twice(), twice(), twice()])).await,
        json!([12, 12])
    );
}

#[tokio::test]
async fn maps_and_chunks() {
    let mapping = |kind: &str, it: Value| json!({"task": format!("celery.{kind}"), "kwargs": {"task": sig("add", json!([99])), "it": it}, "immutable": true});
    let sums = mapping("starmap", json!([[1, 2], [3, 4]]));
    assert_eq!(run_json(chain([n(9), sums])).await, json!([3, 7]));
    let lists = json!({"task": "celery.map", "kwargs": {"task": sig("xsum", json!([])), "it": [[1, 2], []]}});
    assert_eq!(run_json(lists).await, json!([3, 0]));
    let chunks = || {
        let mut chunks = mapping("chunks", json!([[1, 2], [3, 4], [5, 6]]));
        chunks["kwargs"]["n"] = json!(2);
        chunks
    };
    assert_eq!(run_json(chunks()).await, json!([[3, 7], [11]]));
    assert_eq!(
        run_json(group([n(1), chunks()])).await,
        json!([1, [[3, 7], [11]]])
    );
    assert_eq!(
        run_json(chain([chunks(), sig("identity", json!([]))])).await,
        json!([[3, 7], [11]])
    );
}

#[tokio::test]
async fn arguments_stored_on_a_canvas_go_to_its_first_tasks() {
    let plus = |n: i64| sig("add", json!([n]));
    let called = |signature: Value| with(signature, "args", json!([10]));
    assert_eq!(run_json(called(chain([plus(1), plus(2)]))).await, json!(13));
    assert_eq!(
        run_json(called(group([plus(1), plus(2)]))).await,
        json!([11, 12])
    );
    let mut sum = called(chord([sig("echo", json!([]))], sig("identity", json!([]))));
    sum["kwargs"]["kwargs"] = json!({"a": 1});
    assert_eq!(run_json(sum).await, json!([{"x": 10, "a": 1, "b": null}]));
    let immutable = with(
        chord([n(1)], sig("identity", json!([]))),
        "immutable",
        json!(true),
    );
    assert_eq!(run_json(chain([n(5), immutable])).await, json!([1]));
}

#[test]
fn options_are_read_and_written() {
    let options = json!({
        "queue": "q", "priority": 9, "time_limit": 2.5, "soft_time_limit": 1, "countdown": 0.25,
        "expires": 60, "max_retries": 0, "link": n(1), "link_error": [n(2), n(3)], "eta": null,
    });
    let canvas = Canvas::from_json(&with(n(1), "options", options).to_string()).unwrap();
    let built = |at: SystemTime| {
        Canvas::task("identity", (1,))
            .queue("q")
            .eta(at)
            .expires_at(at)
    };
    let written: Value = serde_json::from_str(&canvas.to_json().unwrap()).unwrap();
    assert_eq!(
        written["options"],
        json!({
            "queue": "q", "priority": 9, "time_limit": 2.5, "soft_time_limit": 1, "countdown": 0.25,
            "expires": 60, "max_retries": 0, "link": [n(1)], "link_error": [n(2), n(3)],
        })
    );
    // Times, in every spelling of one and the same.
    let at = SystemTime::UNIX_EPOCH + Duration::from_millis(1_767_323_045_500);
    let written = built(at).to_json().unwrap();
    for spelling in [
        "2026-01-02T03:04:05.5Z",
        "2026-01-02T03:04:05.500000",
        "2026-01-02 03:04:05.5+00:00",
        "2026-01-02T05:34:05.500+02:30",
    ] {
        let read = option(option(n(1), "queue", json!("q")), "eta", json!(spelling));
        let read = option(read, "expires", json!(spelling)).to_string();
        assert_eq!(
            Canvas::from_json(&read).unwrap().to_json().unwrap(),
            written
        );
    }
    // As Python's encoder writes them.
    let tagged = |text: &str| json!({"__type__": "datetime", "__value__": text});
    for spelling in [
        "2026-01-02T03:04:05.500000+00:00",
        "2026-01-02T03:04:05.500000",
    ] {
        let read = option(option(n(1), "queue", json!("q")), "eta", tagged(spelling));
        let read = option(read, "expires", tagged(spelling)).to_string();
        let read = Canvas::from_json(&read).unwrap();
        assert_eq!(read.to_json().unwrap(), written);
    }
    // What is past is past; a countdown wins over an eta.
    let past = option(n(1), "expires", json!(-1)).to_string();
    let past = Canvas::from_json(&past).unwrap().to_json().unwrap();
    let zero = Canvas::task("identity", (1,)).expires(Duration::ZERO);
    assert_eq!(past, zero.to_json().unwrap());
    let both = option(
        option(n(1), "countdown", json!(1)),
        "eta",
        json!("2026-01-01"),
    );
    let both = Canvas::from_json(&both.to_string()).unwrap().to_json();
    let countdown = Canvas::task("identity", (1,)).countdown(Duration::from_secs(1));
    assert_eq!(both.unwrap(), countdown.to_json().unwrap());
}

#[test]
fn what_is_set_on_a_group_within_goes_to_its_members() {
    let inner = group([option(n(2), "priority", json!(1)), n(3)]);
    let inner = option(inner, "queue", json!("q"));
    let inner = option(inner, "priority", json!(7));
    let inner = option(inner, "link", json!([n(8)]));
    let inner = option(inner, "link_error", json!([n(9)]));
    let member = |n: Value| {
        let member = option(option(n, "queue", json!("q")), "priority", json!(7));
        option(
            option(member, "link", json!([self::n(8)])),
            "link_error",
            json!([self::n(9)]),
        )
    };
    let read = |signature: Value| {
        let canvas = Canvas::from_json(&signature.to_string()).unwrap();
        canvas.to_json().unwrap()
    };
    let body = || sig("xsum", json!([]));
    let flat = || [n(1), member(n(2)), member(n(3))];
    assert_eq!(read(group([n(1), inner.clone()])), read(group(flat())));
    assert_eq!(
        read(chord([n(1), inner.clone()], body())),
        read(chord(flat(), body()))
    );
    let header = composed("chord", json!({"header": inner, "body": body()}));
    assert_eq!(
        read(header),
        read(chord([member(n(2)), member(n(3))], body()))
    );
}

fn refusal<T: std::fmt::Debug>(refused: chordal::Result<T>) -> (String, String) {
    match refused {
        Err(Error::Submit(SubmitError::Canvas { path, reason })) => (path, reason),
        other => panic!("not refused: {other:?}"),
    }
}

#[test]
fn what_is_no_signature_is_refused_with_the_place_and_the_reason() {
    let keys = "task, args, kwargs, options, subtask_type, immutable, chord_size";
    let options = "link, link_error, queue, priority, time_limit, soft_time_limit, countdown, eta, expires, max_retries, stamped_headers";
    let bad = || option(n(1), "colour", json!(1));
    let colour = format!("unknown option `colour`; there can be {options}");
    let seconds = "must be a number of seconds above 0, but is";
    let map = |kwargs: Value| json!({"task": "celery.starmap", "kwargs": kwargs});
    let cases: Vec<(Value, &str, String)> = vec![
        // Shapes.
        (
            json!(5),
            "",
            "a signature must be an object, but is 5".into(),
        ),
        (
            json!([n(1)]),
            "",
            "a signature must be an object, but is a list".into(),
        ),
        (json!({}), "", "a signature needs `task`, a name".into()),
        (
            json!({"task": 5}),
            "",
            "`task` must be a text, but is 5".into(),
        ),
        (
            with(n(1), "colour", json!(1)),
            "",
            format!("unknown key `colour` in a signature; there can be {keys}"),
        ),
        (
            with(n(1), "args", json!({"x": 1})),
            "",
            "`args` must be a list, but is an object".into(),
        ),
        (
            with(n(1), "kwargs", json!([1])),
            "",
            "`kwargs` must be an object, but is a list".into(),
        ),
        (
            with(n(1), "options", json!("fast")),
            "",
            "`options` must be an object, but is \"fast\"".into(),
        ),
        (
            with(n(1), "immutable", json!(1)),
            "",
            "`immutable` must be true or false, but is 1".into(),
        ),
        (
            with(n(1), "chord_size", json!("3")),
            "",
            "`chord_size` must be a number, but is \"3\"".into(),
        ),
        (
            with(n(1), "subtask_type", json!(1)),
            "",
            "`subtask_type` must be a text, but is 1".into(),
        ),
        (
            with(n(1), "subtask_type", json!("xmap")),
            "",
            "`subtask_type` is `xmap`: it can be chain, group, chord or null".into(),
        ),
        (
            with(n(1), "subtask_type", json!("chain")),
            "",
            "`task` is `identity`, but `subtask_type` is `chain`".into(),
        ),
        (
            with(group([]), "subtask_type", json!("chain")),
            "",
            "`task` is `celery.group`, but `subtask_type` is `chain`".into(),
        ),
        // Parts.
        (
            composed("chain", json!({})),
            "",
            "`celery.chain` needs `tasks` in its `kwargs`".into(),
        ),
        (
            composed("group", json!({"tasks": n(1)})),
            "",
            "`tasks` must be a list, but is an object".into(),
        ),
        (
            composed("group", json!({"tasks": [], "it": []})),
            "",
            "unknown key `it` in the `kwargs` of `celery.group`; there can be tasks".into(),
        ),
        (
            composed("chord", json!({"header": []})),
            "",
            "`celery.chord` needs `body` in its `kwargs`".into(),
        ),
        (
            composed("chord", json!({"header": [], "body": null})),
            "",
            "`celery.chord` needs `body` in its `kwargs`".into(),
        ),
        (
            composed("chord", json!({"header": 5, "body": n(1)})),
            "",
            "`header` must be a list, but is 5".into(),
        ),
        (
            chain([n(1), json!(7)]),
            "chain[1]",
            "a signature must be an object, but is 7".into(),
        ),
        // Places.
        (chain([n(1), bad()]), "chain[1]", colour.clone()),
        (
            group([n(1), group([n(1), bad()])]),
            "group[1].group[1]",
            colour.clone(),
        ),
        (
            chord([n(1), n(2), chain([n(1), bad()])], n(1)),
            "chord.header[2].chain[1]",
            colour.clone(),
        ),
        (
            composed(
                "chord",
                json!({"header": group([n(1), bad()]), "body": n(1)}),
            ),
            "chord.header[1]",
            colour.clone(),
        ),
        (
            composed(
                "chord",
                json!({"header": option(group([]), "colour", json!(1)), "body": n(1)}),
            ),
            "chord.header",
            colour.clone(),
        ),
        (chord([], bad()), "chord.body", colour.clone()),
        (
            group([option(n(1), "link", json!([n(1), bad()]))]),
            "group[0].link[1]",
            colour.clone(),
        ),
        (option(n(1), "link_error", bad()), "link_error[0]", colour),
        // Maps.
        (
            map(json!({"task": n(1)})),
            "",
            "`celery.starmap` needs `it` in its `kwargs`".into(),
        ),
        (
            map(json!({"task": "add", "it": []})),
            "",
            "in `task`: a signature must be an object, but is \"add\"".into(),
        ),
        (
            map(json!({"task": chain([]), "it": []})),
            "",
            "`celery.starmap` calls one task for each element: `celery.chain` is none".into(),
        ),
        (
            map(json!({"task": n(1), "it": 3})),
            "",
            "`it` must be a list, but is 3".into(),
        ),
        (
            map(json!({"task": n(1), "it": [[1], 2]})),
            "",
            "element 1 of `it` must be a list of arguments".into(),
        ),
        (
            with(map(json!({"task": n(1), "it": []})), "args", json!([1])),
            "",
            "`celery.starmap` takes no `args`".into(),
        ),
        (
            json!({"task": "celery.chunks", "kwargs": {"task": n(1), "it": [], "n": 0}}),
            "",
            "`n` must be a number above 0, but is 0".into(),
        ),
        // Options.
        (
            option(n(1), "queue", json!(1)),
            "",
            "`queue` must be a text, but is 1".into(),
        ),
        (
            option(n(1), "priority", json!(10)),
            "",
            "`priority` must be a number from 0 to 9, but is 10".into(),
        ),
        (
            option(n(1), "priority", json!(-1)),
            "",
            "`priority` must be a number from 0 to 9, but is -1".into(),
        ),
        (
            option(n(1), "time_limit", json!(0)),
            "",
            format!("`time_limit` {seconds} 0"),
        ),
        (
            option(n(1), "soft_time_limit", json!("1s")),
            "",
            format!("`soft_time_limit` {seconds} \"1s\""),
        ),
        (
            option(n(1), "countdown", json!(1e300)),
            "",
            "`countdown` must be a number of seconds, but is 1e+300".into(),
        ),
        (
            option(n(1), "eta", json!(5)),
            "",
            "`eta` must be a time in ISO 8601, but is 5".into(),
        ),
        (
            option(n(1), "eta", json!("tomorrow")),
            "",
            "`eta` must be a time in ISO 8601, but is \"tomorrow\"".into(),
        ),
        (
            option(n(1), "eta", json!({"__type__": "date", "__value__": "2026-01-02"})),
            "",
            "`eta` must be a time in ISO 8601, but is an object".into(),
        ),
        (
            option(n(1), "expires", json!({"__type__": "datetime", "__value__": "soon"})),
            "",
            "`expires` must be a number of seconds or a time in ISO 8601, but is an object".into(),
        ),
        (
            group([n(1), sig("identity", json!([{"a": [{"__type__": "model", "__value__": 1}]}]))]),
            "group[1]",
            "`args[0].a[0]` has Celery's type `model`, which is not known here; there can be datetime, date, time, decimal, uuid, bytes, base64".into(),
        ),
        (
            with(n(1), "kwargs", json!({"x": {"__type__": "date", "__value__": "x"}})),
            "",
            "`kwargs.x.__value__` must be a date in ISO 8601, but is \"x\"".into(),
        ),
        (
            option(n(1), "expires", json!("soon")),
            "",
            "`expires` must be a number of seconds or a time in ISO 8601, but is \"soon\"".into(),
        ),
        (
            option(n(1), "max_retries", json!(-1)),
            "",
            "`max_retries` must be a whole number, 0 or more, but is -1".into(),
        ),
        (
            option(n(1), "link", json!("add")),
            "",
            "`link` must be a list, but is \"add\"".into(),
        ),
    ];
    for (signature, path, reason) in cases {
        let text = signature.to_string();
        assert_eq!(
            refusal(Canvas::from_json(&text)),
            (path.to_owned(), reason),
            "{text}"
        );
    }
    for text in [
        "",
        "{",
        "{'task': 'add'}",
        r#"{"task": "add", "args": [NaN]}"#,
        "{} {}",
    ] {
        let (path, reason) = refusal(Canvas::from_json(text));
        assert!(
            path.is_empty() && reason.starts_with("this is not JSON: "),
            "{reason}"
        );
    }
    let twice = r#"{"task": "add", "task": "add"}"#;
    let (_, reason) = refusal(Canvas::from_json(twice));
    assert!(reason.contains("`task` is given twice"), "{reason}");
}

#[tokio::test]
async fn integers_keep_every_digit_or_are_refused_with_their_place() {
    let app = app().await;
    let run = async |text: &str| {
        let canvas = Canvas::from_json(text)?;
        app.apply_async(canvas).await?.get().await
    };
    let sent = run(
        r#"{"task": "digits", "args": [-1180591620717411303425], "kwargs": {"y": 340282366920938463463374607431768211455}}"#,
    );
    assert_eq!(
        sent.await.unwrap(),
        json!("-1180591620717411303425 340282366920938463463374607431768211455")
    );
    let sent =
        run(r#"{"task": "rows", "args": [[1, 18446744073709551616, -9223372036854775809]]}"#);
    assert_eq!(
        sent.await.unwrap(),
        json!("[1, 18446744073709551616, -9223372036854775809]")
    );
    // No type of these takes it: before, it became a float.
    for (text, place) in [
        (
            r#"{"task": "identity", "args": [1180591620717411303425]}"#,
            "",
        ),
        (
            r#"{"task": "celery.group", "kwargs": {"tasks": [{"task": "add", "args": [1, 18446744073709551616]}]}}"#,
            "group[0]",
        ),
    ] {
        let (path, reason) = refusal(run(text).await);
        assert_eq!(path, place);
        assert!(reason.starts_with("argument of task `"), "{reason}");
    }
    let longer = r#"{"task": "digits", "args": [[0, 340282366920938463463374607431768211456]]}"#;
    let (_, reason) = refusal(run(longer).await);
    assert!(
        reason.starts_with("`args[0][1]` is 340282366920938463463374607431768211456: "),
        "{reason}"
    );
    app.shutdown().await.unwrap();
}

#[tokio::test]
async fn what_does_not_fit_its_task_is_refused_and_nothing_of_it_stored() {
    let store = MemoryStore::new();
    let app = open(store.clone()).await;
    let body = || sig("xsum", json!([]));
    for (signature, path, reason) in [
        (sig("nope", json!([])), "", "task `nope` is not registered"),
        (
            chord(
                [n(1), n(1), chain([n(1), sig("add", json!([1, 2]))])],
                body(),
            ),
            "chord.header[2].chain[1]",
            "task `add` takes 2 arguments (x, y), but gets 3",
        ),
        (
            group([sig("add", json!([1, "x"]))]),
            "group[0]",
            "argument of task `add`: `y` takes i64, but gets a string",
        ),
        (
            with(sig("echo", json!([1])), "kwargs", json!({"z": 1})),
            "",
            "task `echo` has no parameter `z`: it takes (x, [a], [b])",
        ),
        (
            json!({"task": "celery.starmap", "kwargs": {"task": sig("add", json!([])), "it": [[1, 2], [1]]}}),
            "",
            "item 1: task `add` takes 2 arguments (x, y), but gets 1",
        ),
        (
            json!({"task": "celery.map", "kwargs": {"task": sig("xsum", json!([])), "it": [[1], ["x"]]}}),
            "",
            "item 1: argument of task `xsum`: `xs` takes Vec<i64>",
        ),
        (
            option(n(1), "link_error", json!([n(1), sig("alert", json!([1]))])),
            "link_error[0]",
            "task `identity` takes 1 argument (x), but gets 2",
        ),
        (
            option(n(1), "link_error", sig("alert", json!([1]))),
            "link_error[0]",
            "argument of task `alert`: `tag` takes String: ",
        ),
        (
            option(group([n(1)]), "link", json!([n(1)])),
            "",
            "cannot add link to group: use a chord",
        ),
    ] {
        let canvas = Canvas::from_json(&signature.to_string()).unwrap();
        let (at, why) = refusal(app.apply_async(canvas).await);
        assert!(at == path && why.starts_with(reason), "{at}: {why}");
    }
    // All but the store's own record, `m`.
    let rest = store.scan(b"", b"m").chain(store.scan(b"n", b"\xff"));
    assert_eq!(rest.count(), 0);
    app.shutdown().await.unwrap();
}

/// `signature` in `levels` levels of something.
fn nest(levels: usize, before: &str, signature: &str, after: &str) -> String {
    [&*before.repeat(levels), signature, &*after.repeat(levels)].concat()
}

#[tokio::test]
async fn hostile_depth_is_refused_where_it_is_and_never_overflows_the_stack() {
    let leaf = n(1).to_string();
    let wraps = [
        (
            r#"{"task":"celery.group","kwargs":{"tasks":["#,
            "]}}",
            "group[0]",
        ),
        (
            r#"{"task":"celery.chain","kwargs":{"tasks":["#,
            "]}}",
            "chain[0]",
        ),
        (
            r#"{"task":"celery.chord","kwargs":{"body":{"task":"xsum"},"header":["#,
            "]}}",
            "chord.header[0]",
        ),
        (
            r#"{"task":"celery.chord","kwargs":{"header":[],"body":"#,
            "}}",
            "chord.body",
        ),
        (
            r#"{"task":"to_list","args":[1],"options":{"link":["#,
            "]}}",
            "link[0]",
        ),
        (
            r#"{"task":"to_list","args":[1],"options":{"link_error":"#,
            "}}",
            "link_error[0]",
        ),
    ];
    for (before, after, place) in wraps {
        let deepest = Canvas::from_json(&nest(127, before, &leaf, after)).unwrap();
        assert_eq!(
            Canvas::from_json(&deepest.to_json().unwrap())
                .unwrap()
                .to_json()
                .unwrap(),
            deepest.to_json().unwrap()
        );
        for levels in [128, 129, 2_000] {
            let (path, reason) = refusal(Canvas::from_json(&nest(levels, before, &leaf, after)));
            assert_eq!(reason, "canvases nest at most 128 deep");
            assert_eq!(path, [place; 128].join("."));
        }
    }
    // Chunks are two levels more than they seem: however they are read, they end as an error.
    let chunks = r#"{"task":"celery.chunks","kwargs":{"task":{"task":"add"},"it":[[1,2]],"n":1}}"#;
    let app = app().await;
    for (before, after, place) in wraps {
        for levels in 124..=128 {
            let canvas = Canvas::from_json(&nest(levels, before, chunks, after));
            let refused = match canvas {
                Ok(canvas) => app.apply_async(canvas).await.map(drop),
                Err(refused) => Err(refused),
            };
            // Chains in chains are one chain, groups in groups one group.
            let flat = ["chain[0]", "group[0]"].contains(&place);
            if levels > 125 && !flat || refused.is_err() {
                let (_, reason) = refusal(refused);
                assert_eq!(reason, "canvases nest at most 128 deep");
            }
        }
    }
    // Depth in what is no signature.
    for (before, after) in [
        (r#"{"task":"identity","args":["#, "]}"),
        (r#"{"task":"identity","kwargs":{"x":"#, "}}"),
        (r#"{"colour":"#, "}"),
        ("", ""),
    ] {
        let lists = nest(100_000, "[", "1", "]");
        assert!(Canvas::from_json(&[before, &lists, after].concat()).is_err());
    }
    let open = r#"{"task":"celery.group","kwargs":{"tasks":["#.repeat(100_000);
    assert!(Canvas::from_json(&open).is_err());
}

#[test]
fn what_has_no_form_in_celery_is_not_written() {
    let task = || Canvas::task("identity", (1,));
    let each = || Canvas::from(add.each(1));
    let cases = [
        (each(), "group", "each() has no form in Celery"),
        (
            task() | each(),
            "chain[1].group",
            "each() has no form in Celery",
        ),
        (
            task() | each() | task(),
            "chain[1].chord.header",
            "each() has no form in Celery",
        ),
        (
            Canvas::group([task()]).settled(),
            "",
            "settled() has no form in Celery",
        ),
        (
            Canvas::group([task()]).settled() | task(),
            "chord.header",
            "settled() has no form in Celery",
        ),
        (
            Canvas::chord([task()], task()).idempotency_key("k"),
            "",
            "an idempotency key has no form in Celery",
        ),
        (
            Canvas::group([task().idempotency_key("k")]),
            "group[0]",
            "an idempotency key has no form in Celery",
        ),
        (
            Canvas::group([task()]).link(task()),
            "",
            "cannot add link to group: use a chord",
        ),
        (
            task() | Canvas::group([]),
            "chain[1]",
            "an empty group within a chain has no form in Celery, which skips it",
        ),
        (
            task().link(Canvas::task("identity", (f64::NAN,))),
            "link[0]",
            "arguments of `identity`: JSON cannot carry NaN",
        ),
        (
            task()
                .with_kwargs(json!({}))
                .link_error(Canvas::task("identity", 5)),
            "link_error[0]",
            "arguments of `identity`: must be a tuple or a list",
        ),
    ];
    for (canvas, path, reason) in cases {
        let shape = format!("{canvas:?}");
        assert_eq!(
            refusal(canvas.to_json()),
            (path.to_owned(), reason.to_owned()),
            "{shape}"
        );
    }
    let bytes = Canvas::task("identity", (serde_bytes::Bytes::new(&[1, 2]),));
    let (_, reason) = refusal(bytes.to_json());
    assert!(reason.contains("expected what JSON can carry"), "{reason}");
    let numbered = std::collections::HashMap::from([(1, 2)]);
    // As Python's `json.dumps` writes it; and so it is read again.
    let json = Canvas::task("identity", (numbered,)).to_json().unwrap();
    assert!(json.contains(r#"[{"1":2}]"#), "{json}");
    let pairs = std::collections::HashMap::from([((1, 2), 3)]);
    assert!(Canvas::task("identity", (pairs,)).to_json().is_err());
}

#[tokio::test]
async fn canvases_built_here_mean_the_same_when_they_are_read_again() {
    let one = |n: i64| Canvas::task("identity", (n,));
    let total = || Canvas::task("xsum", ());
    let two = Canvas::group([one(1), one(3)]);
    let lists = Canvas::group([two, Canvas::group([]), one(2)]);
    assert_eq!(run(lists.clone()).await, json!([[1, 3], [], 2]));
    assert_eq!(
        run(lists | Canvas::task("identity", ())).await,
        json!([[1, 3], [], 2])
    );
    assert_eq!(run(Canvas::chain([Canvas::group([])])).await, json!([]));
    let queued = Canvas::group([one(1), one(2)])
        .queue("q")
        .link_error(Canvas::task("identity", ()));
    assert_eq!(run(queued | total().priority(3)).await, json!(3));
    assert_eq!(
        run(Canvas::from(add.starmap([(1, 2), (3, 4)])) | total()).await,
        json!(10)
    );
    assert_eq!(
        run(Canvas::from(add.chunks([(1, 2), (3, 4), (5, 6)], 2))).await,
        json!([[3, 7], [11]])
    );
    let header = chordal::group([add.s(1, 2), add.s(3, 4)]);
    let typed = header | xsum.partial() | add.partial(1);
    assert_eq!(run(typed.into()).await, json!(11));
}

/// In a chain, and written as one in a group, Celery takes a group of one for its member.
#[test]
fn a_group_of_one_that_would_lose_its_list_is_not_written() {
    let task = || Canvas::task("identity", (1,));
    let one = || Canvas::group([Canvas::task("identity", (1,))]);
    let cases = [
        (Canvas::chain([one()]), "chain[0]"),
        (Canvas::group([one(), one()]), "group[0]"),
        (Canvas::group([Canvas::group([task(), task()])]), ""),
        (
            Canvas::group([task() | Canvas::group([task(), task()])]),
            "",
        ),
        (
            Canvas::chain([Canvas::task("identity", (1,)), one()]),
            "chain[1]",
        ),
    ];
    for (canvas, place) in cases {
        let why = canvas.to_json().unwrap_err().to_string();
        assert!(
            why.contains(place) && why.contains("a group of one"),
            "{why}"
        );
    }
    assert!(one().to_json().is_ok());
}

/// Groups in errbacks of groups multiply: a few kilobytes would be ten million tasks.
#[tokio::test]
async fn errbacks_that_multiply_are_refused() {
    let ten = |errback: Value| {
        let mut ten = group::<10>(std::array::from_fn(|_| sig("to_list", json!([1]))));
        ten["options"] = json!({ "link_error": errback });
        ten
    };
    let hostile = (0..7).fold(json!([]), |errback, _| json!([ten(errback)]));
    let canvas = Canvas::from_json(&hostile[0].to_string()).unwrap();
    let app = app().await;
    let why = app.apply_async(canvas).await.unwrap_err().to_string();
    assert!(why.contains("copied to every member"), "{why}");
    // Flattened, they are refused as they are read.
    let wide = || group::<2_000>(std::array::from_fn(|_| sig("to_list", json!([1]))));
    let mut inner = wide();
    inner["options"] = json!({ "link_error": [wide()] });
    let why = Canvas::from_json(&group([inner]).to_string()).unwrap_err();
    assert!(why.to_string().contains("copied to every member"), "{why}");
    app.shutdown().await.unwrap();
}

/// The recorded canvases of a real Celery: each is read, and written as what it was read from.
#[test]
fn every_recorded_canvas_is_read_and_written() {
    let cases = include_str!("../celery/cases_public.jsonl");
    for line in cases.lines() {
        let case: Value = serde_json::from_str(line).unwrap();
        let canvas = Canvas::from_json(&case["canvas"].to_string()).unwrap();
        let apply = |part: &str| case["apply"][part].clone();
        let canvas = match apply("args") {
            Value::Null => canvas,
            args => canvas.with_args(args),
        };
        let canvas = canvas.with_kwargs(apply("kwargs"));
        let written = canvas.to_json().unwrap();
        let again = Canvas::from_json(&written).unwrap();
        // (The order of an object's entries says nothing.)
        let parsed = |text: &str| serde_json::from_str::<Value>(text).unwrap();
        let rewritten = parsed(&again.to_json().unwrap());
        assert_eq!(rewritten, parsed(&written), "{}", case["id"]);
    }
}
