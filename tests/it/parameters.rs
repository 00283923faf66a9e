//! Parameters: defaults, the rest, arguments by name, and what is refused.

use std::time::Duration;

use chordal::persistence::MemoryStore;
use chordal::prelude::*;
use chordal::{Error, FailureKind, Parameter, SubmitError, Task};
use serde::Serialize;
use serde_json::{Value, json};

#[task]
async fn sub(x: i64, y: i64) -> i64 {
    x - y
}

#[task]
async fn kw_sum(#[default] a: i64, #[default(0)] b: i64, #[default] c: i64) -> i64 {
    a + 10 * b + 100 * c
}

#[task]
async fn echo(x: Value, #[default] a: Option<String>, #[default("B".into())] b: String) -> Value {
    json!([x, a, b])
}

#[task]
async fn to_list(#[rest] args: Vec<Value>) -> Vec<Value> {
    args
}

/// The context, a required one, one with a default and the rest.
#[task]
async fn all_kinds(
    _ctx: &TaskContext,
    first: String,
    #[default(7)] n: i64,
    #[rest] more: Vec<i64>,
) -> String {
    format!("{first} {n} {more:?}")
}

#[task]
async fn xsum(xs: Vec<i64>) -> i64 {
    xs.iter().sum()
}

#[task]
async fn fail(message: String) -> Result<i64, TaskError> {
    Err(TaskError::new(message))
}

#[task]
async fn alert(failure: TaskFailure, #[default("alert".into())] tag: String) -> String {
    format!("{tag}: {}", failure.message)
}

async fn app() -> App {
    let tasks = tasks![sub, kw_sum, echo, to_list, all_kinds, xsum, fail, alert];
    App::in_memory().tasks(tasks).start().await.unwrap()
}

async fn run(canvas: impl Into<Canvas>) -> Value {
    let app = app().await;
    let value = app.apply_async(canvas.into()).await.unwrap().get().await;
    app.shutdown().await.unwrap();
    value.unwrap()
}

/// Where and why a canvas is refused.
async fn refusal(canvas: Canvas) -> (String, String) {
    let app = app().await;
    let shape = format!("{canvas:?}");
    let refused = app.apply_async(canvas).await;
    app.shutdown().await.unwrap();
    match refused {
        Err(Error::Submit(SubmitError::Canvas { path, reason })) => (path, reason),
        other => panic!("{shape} is not refused: {other:?}"),
    }
}

fn task(name: &'static str, args: impl Serialize) -> Canvas {
    Canvas::task(name, args)
}

#[test]
fn parameters_say_what_they_are() {
    let shown = |parameters: &[Parameter]| format!("{parameters:?}");
    assert_eq!(shown(sub::PARAMS), "[x: i64, y: i64]");
    assert_eq!(
        shown(echo::PARAMS),
        "[x: Value, [a]: Option<String>, [b]: String]"
    );
    assert_eq!(
        shown(all_kinds::PARAMS),
        "[first: String, [n]: i64, more..: i64]"
    );
    let required = |parameter: &Parameter| parameter.is_required();
    assert_eq!(
        all_kinds::PARAMS.iter().map(required).collect::<Vec<_>>(),
        [true, false, false]
    );
}

#[tokio::test]
async fn typed_calls_give_all_arguments() {
    assert_eq!(run(kw_sum.s(1, 2, 3)).await, json!(321));
    let first = "a".to_owned();
    assert_eq!(
        run(all_kinds.s(first.clone(), 1, vec![2, 3])).await,
        "a 1 [2, 3]"
    );
    assert_eq!(run(all_kinds.s(first, 1, vec![])).await, "a 1 []");
    assert_eq!(run(to_list.si(vec![])).await, json!([]));
    assert_eq!(
        run(to_list.s(vec![json!([1]), json!(2)])).await,
        json!([[1], 2])
    );
    assert_eq!(to_list.call(vec![json!(1)]).await, [json!(1)]);
}

#[tokio::test]
async fn the_first_of_the_rest_may_come_from_upstream() {
    let one: Signature<Value, Vec<Value>> = to_list.partial(vec![json!(6)]);
    assert_eq!(run(echo_one() | one).await, json!([["x", null, "B"], 6]));
    let each: Signature<Vec<Value>, Vec<Vec<Value>>> = to_list.each(vec![json!(0)]);
    assert_eq!(
        run(to_list.s(vec![json!(1), json!(2)]) | each).await,
        json!([[1, 0], [2, 0]])
    );
    let more: Signature<String, String> = all_kinds.partial(1, vec![2]);
    assert_eq!(
        run(all_kinds.s("a".into(), 0, vec![]) | more).await,
        "a 0 [] 1 [2]"
    );
}

fn echo_one() -> Signature<(), Value> {
    echo.s(json!("x"), None, "B".into())
}

#[tokio::test]
async fn maps_take_defaults_and_the_rest() {
    let items = [("a".to_owned(), 1, vec![2]), ("b".to_owned(), 3, vec![])];
    assert_eq!(
        run(all_kinds.starmap(items.clone())).await,
        json!(["a 1 [2]", "b 3 []"])
    );
    assert_eq!(
        run(all_kinds.chunks(items, 1)).await,
        json!([["a 1 [2]"], ["b 3 []"]])
    );
    assert_eq!(
        run(to_list.map([vec![json!(1), json!(2)], vec![]])).await,
        json!([[1, 2], []])
    );
}

#[tokio::test]
async fn what_is_left_out_gets_its_default() {
    assert_eq!(run(task("kw_sum", ())).await, json!(0));
    assert_eq!(run(task("kw_sum", (1,))).await, json!(1));
    assert_eq!(run(task("echo", (1,))).await, json!([1, null, "B"]));
    assert_eq!(run(task("echo", (1, "a"))).await, json!([1, "a", "B"]));
    assert_eq!(run(task("all_kinds", ("a",))).await, "a 7 []");
    assert_eq!(run(task("all_kinds", ("a", 1))).await, "a 1 []");
    assert_eq!(run(task("all_kinds", ("a", 1, 2, 3))).await, "a 1 [2, 3]");
    assert_eq!(run(task("to_list", ())).await, json!([]));
    // Also behind a value from upstream.
    let chain = task("kw_sum", (5,)) | task("kw_sum", (1,));
    assert_eq!(run(chain).await, json!(15));
    assert_eq!(
        run(task("kw_sum", (5,)) | task("to_list", (1, 2))).await,
        json!([5, 1, 2])
    );
}

#[tokio::test]
async fn arguments_by_name_find_their_parameters() {
    let named = |args: Value, kwargs: Value| Canvas::task("kw_sum", args).with_kwargs(kwargs);
    assert_eq!(run(named(json!([]), json!({"c": 1}))).await, json!(100));
    assert_eq!(
        run(named(json!([1]), json!({"c": 3, "b": 2}))).await,
        json!(321)
    );
    assert_eq!(
        run(task("sub", ()).with_kwargs(json!({"y": 1, "x": 3}))).await,
        json!(2)
    );
    assert_eq!(
        run(task("all_kinds", ()).with_kwargs(json!({"first": "a"}))).await,
        "a 7 []"
    );
    // The value from upstream is the first by position.
    assert_eq!(
        run(task("sub", (9, 4)) | task("sub", ()).with_kwargs(json!({"y": 1}))).await,
        json!(4)
    );
    // Also a struct; the last one wins.
    #[derive(Serialize)]
    struct Named {
        a: i64,
        b: i64,
    }
    let twice = task("kw_sum", ())
        .with_kwargs(json!({"a": 9, "c": 1}))
        .with_kwargs(Named { a: 1, b: 2 });
    assert_eq!(run(twice).await, json!(121));
    assert_eq!(run(task("sub", (3, 1)).with_kwargs(())).await, json!(2));
}

#[tokio::test]
async fn arguments_of_the_call_go_before_the_stored_ones_of_the_first_tasks() {
    assert_eq!(run(task("sub", (4,)).with_args((31,))).await, json!(27));
    assert_eq!(
        run(task("sub", ()).with_args((2,)).with_args((9,))).await,
        json!(7)
    );
    assert_eq!(
        run(Canvas::immutable("sub", (4, 1))
            .with_args((31,))
            .with_kwargs(json!({"x": 0})))
        .await,
        json!(3)
    );
    assert_eq!(
        run(Canvas::from(sub.starmap([(2, 1)])).with_args((31,))).await,
        json!([1])
    );
    let chain = Canvas::chain([Canvas::chain([]), task("sub", (4,)), task("sub", (1,))]);
    assert_eq!(run(chain.with_args((31,))).await, json!(26));
    let group = || {
        Canvas::group([
            task("sub", (1,)),
            Canvas::immutable("sub", (1, 1)),
            task("sub", (2,)) | task("sub", (1,)),
        ])
    };
    assert_eq!(run(group().with_args((10,))).await, json!([9, 0, 7]));
    assert_eq!(
        run((group() | task("xsum", ())).with_args((10,))).await,
        json!(16)
    );
    let named = Canvas::group([task("kw_sum", ()), task("kw_sum", (1,))]);
    assert_eq!(
        run(named.with_kwargs(json!({"b": 2}))).await,
        json!([20, 21])
    );
}

#[tokio::test]
async fn an_immutable_task_takes_the_keyword_arguments_that_are_its_own() {
    let fixed = |kwargs: Value| Canvas::immutable("kw_sum", ()).with_kwargs(kwargs);
    let all = json!({"a": 1, "b": 2, "c": 3});
    assert_eq!(run(fixed(all.clone())).await, json!(321));
    assert_eq!(
        run(task("sub", (9, 4)) | fixed(json!({"c": 1}))).await,
        json!(100)
    );
    let twice = fixed(all).with_kwargs(json!({"b": 9}));
    assert_eq!(run(task("sub", (9, 4)) | twice).await, json!(391));
    let after_one = Canvas::immutable("kw_sum", (7,)).with_kwargs(json!({"b": 1}));
    let header = Canvas::group([fixed(json!({"a": 5})), after_one]);
    assert_eq!(
        run(task("sub", (9, 4)) | header | task("xsum", ())).await,
        json!(22)
    );
    let typed = Canvas::from(kw_sum.si(1, 2, 3));
    let refused = refusal(typed.with_kwargs(json!({"a": 0}))).await;
    assert!(refused.1.contains("gets `a` twice"), "{refused:?}");
    // Those of a call it ignores: in a group, after `with_args`, or out of JSON.
    let group = Canvas::group([fixed(json!({"a": 5})), task("kw_sum", ())]);
    assert_eq!(
        run(group.with_kwargs(json!({"b": 2}))).await,
        json!([5, 20])
    );
    let called = fixed(json!({"a": 5}))
        .with_args((1,))
        .with_kwargs(json!({"a": 6}));
    assert_eq!(run(called).await, json!(5));
    let read = Canvas::from_json(&fixed(json!({"a": 5})).to_json().unwrap()).unwrap();
    assert_eq!(run(read.with_kwargs(json!({"a": 6}))).await, json!(5));
}

#[tokio::test]
async fn arguments_that_do_not_fit_are_refused_with_the_place_and_the_reason() {
    let kw = |name: &'static str, args: Value, kwargs: Value| {
        Canvas::task(name, args).with_kwargs(kwargs)
    };
    let cases = [
        // Unknown names.
        (
            kw("sub", json!([1]), json!({"z": 1})),
            "",
            "task `sub` has no parameter `z`: it takes (x, y)",
        ),
        (
            kw("all_kinds", json!(["a"]), json!({"more": [1]})),
            "",
            "task `all_kinds` takes `more` by position only: it stands for any number of arguments",
        ),
        // Twice.
        (
            kw("sub", json!([1]), json!({"x": 1})),
            "",
            "task `sub` gets `x` twice: by position and by name",
        ),
        (
            Canvas::chain([task("sub", (1, 1)), kw("sub", json!([]), json!({"x": 1}))]),
            "chain[1]",
            "task `sub` gets `x` twice: by position and by name; the first one comes from upstream",
        ),
        // Missing.
        (
            kw("sub", json!([]), json!({"y": 1})),
            "",
            "task `sub` takes 2 arguments (x, y), but gets no `x`",
        ),
        (
            kw("all_kinds", json!([]), json!({"n": 1})),
            "",
            "task `all_kinds` takes at least 1 argument (first, [n], more..), but gets no `first`",
        ),
        (
            Canvas::group([task("sub", (1, 1)), task("all_kinds", ())]),
            "group[1]",
            "task `all_kinds` takes at least 1 argument (first, [n], more..), but gets 0",
        ),
        // Too many.
        (
            task("kw_sum", (1, 2, 3, 4)),
            "",
            "task `kw_sum` takes 0 to 3 arguments ([a], [b], [c]), but gets 4",
        ),
        (
            kw("sub", json!([1, 2, 3]), json!({"y": 1})),
            "",
            "task `sub` takes 2 arguments (x, y), but gets 3",
        ),
        (
            Canvas::from(sub.partial(2)).with_args((0, 1)),
            "",
            "task `sub` takes 2 arguments (x, y), but gets 3",
        ),
        (
            task("fail", ("x",)) | task("kw_sum", (1, 2, 3)),
            "chain[1]",
            "task `kw_sum` takes 0 to 3 arguments ([a], [b], [c]), but gets 4, the value from upstream included",
        ),
        // Wrong types.
        (
            task("sub", (1, "two")),
            "",
            "argument of task `sub`: `y` takes i64, but gets a string",
        ),
        (
            Canvas::chord([task("sub", (1, 1))], task("sub", ([1],))),
            "chord.body",
            "argument of task `sub`: `y` takes i64, but gets a list",
        ),
        (
            kw("echo", json!([1]), json!({"b": 5})),
            "",
            "argument of task `echo`: `b` takes String: invalid type: integer `5`, expected a string",
        ),
        (
            task("all_kinds", ("a", 1, 2, 3.5)),
            "",
            "argument of task `all_kinds`: `more` takes i64: invalid type: floating point `3.5`, expected i64",
        ),
        (
            task("xsum", (7,)),
            "",
            "argument of task `xsum`: `xs` takes Vec<i64>: invalid type: integer `7`, expected a sequence",
        ),
        (
            task("sub", (4, 1)).link(task("sub", ("x",))),
            "link[0]",
            "argument of task `sub`: `y` takes i64, but gets a string",
        ),
        // What is no list, or no map.
        (
            task("sub", (1,)).with_args(5),
            "",
            "arguments of the call: must be a tuple or a list",
        ),
        (
            task("sub", (1,)).with_kwargs([1]),
            "",
            "keyword arguments: must be a map or a struct",
        ),
    ];
    for (canvas, path, reason) in cases {
        let shape = format!("{canvas:?}");
        let expected = (path.to_owned(), reason.to_owned());
        assert_eq!(refusal(canvas).await, expected, "{shape}");
    }
}

#[tokio::test]
async fn typed_arguments_are_not_tried_again() {
    /// Can be written, and never read.
    #[derive(Serialize)]
    struct Sealed;

    impl<'de> serde::Deserialize<'de> for Sealed {
        fn deserialize<D: serde::Deserializer<'de>>(_: D) -> Result<Self, D::Error> {
            Err(serde::de::Error::custom("sealed"))
        }
    }

    #[task]
    async fn open(_sealed: Sealed) {}

    let app = App::in_memory().tasks(tasks![open]).start().await.unwrap();
    let typed = app.apply_async(open.s(Sealed)).await.unwrap();
    match typed.get().await {
        Err(Error::Failed(failure)) => assert_eq!(failure.kind, FailureKind::Type),
        other => panic!("{other:?}"),
    }
    assert!(app.apply_async(task("open", ((),))).await.is_err());
}

#[tokio::test]
async fn an_errback_that_takes_a_failure_gets_it_even_if_it_is_immutable() {
    let app = app().await;
    for errback in [
        task("alert", ()),
        Canvas::immutable("alert", ()),
        Canvas::immutable("alert", ("alert",)),
        // Also one that is more than a task (the callback itself has the next number).
        Canvas::chain([Canvas::immutable("alert", ())]),
        task("alert", ()).with_kwargs(json!({"tag": "alert"})),
    ] {
        let failing = task("fail", ("no",)).link_error(errback);
        let failing = app.apply_async(failing).await.unwrap();
        let id = failing.id().as_uuid().as_u128() + 1;
        let errback = chordal::Id::from(uuid::Uuid::from_u128(id));
        let errback = app.async_result::<String>(errback).await.unwrap();
        assert_eq!(errback.get().await.unwrap(), "alert: no");
    }
    // One that does not take it stays as it is.
    let typed = task("fail", ("no",)).link_error(Canvas::immutable("sub", (2, 1)));
    let _ = app.apply_async(typed).await.unwrap();
}

/// What was stored before parameters with defaults were added.
mod before {
    #[chordal::task(name = "parameters.grown")]
    pub(super) async fn grown(_x: i64) -> String {
        std::future::pending().await
    }
}

mod after {
    #[chordal::task(name = "parameters.grown")]
    pub(super) async fn grown(x: i64, #[default(5)] y: i64, #[rest] more: Vec<i64>) -> String {
        format!("{x} {y} {more:?}")
    }
}

#[tokio::test]
async fn a_parameter_with_a_default_may_be_added_to_a_task_that_is_stored() {
    let store = MemoryStore::new();
    let open = || App::with_store(store.clone()).grace(Duration::ZERO);
    let app = open().tasks(tasks![before::grown]).start().await.unwrap();
    let id = app.apply_async(before::grown.s(1)).await.unwrap().id();
    app.shutdown().await.unwrap();

    let app = open().tasks(tasks![after::grown]).start().await.unwrap();
    let grown = app.async_result::<String>(id).await.unwrap();
    assert_eq!(grown.get().await.unwrap(), "1 5 []");
    app.shutdown().await.unwrap();
}
