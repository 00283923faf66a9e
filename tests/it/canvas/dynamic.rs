//! `Canvas`: shapes known only at run time, and every refusal.

use std::time::Duration;

use serde_json::json;

use super::*;

fn task(name: &'static str, args: impl serde::Serialize) -> Canvas {
    Canvas::task(name, args)
}

async fn run(canvas: Canvas) -> Value {
    let app = app().await;
    let value = app.apply_async(canvas).await.unwrap().get().await.unwrap();
    app.shutdown().await.unwrap();
    value
}

fn adds(n: i64) -> impl Iterator<Item = Canvas> {
    (0..n).map(|i| task("add", (i, i)))
}

#[tokio::test]
async fn a_task_by_its_name() {
    assert_eq!(run(task("add", (1, 2))).await, json!(3));
    assert_eq!(run(task("add", [1, 2])).await, json!(3));
    assert_eq!(run(task("add", vec![1, 2])).await, json!(3));
    assert_eq!(run(task("nothing", ())).await, json!(null));
    assert_eq!(
        run(task(String::from("shout").leak(), ("x",))).await,
        json!("X")
    );
}

#[tokio::test]
async fn chains_groups_and_chords_at_run_time() {
    let steps = [task("add", (1, 1)), task("add", (10,)), task("add", (100,))];
    assert_eq!(run(Canvas::chain(steps.clone())).await, json!(112));
    assert_eq!(
        run(steps.into_iter().reduce(|a, b| a | b).unwrap()).await,
        json!(112)
    );
    assert_eq!(run(Canvas::group(adds(3))).await, json!([0, 2, 4]));
    assert_eq!(
        run(Canvas::chord(adds(3), task("xsum", ()))).await,
        json!(6)
    );
    assert_eq!(
        run(Canvas::group(adds(3)) | task("xsum", ())).await,
        json!(6)
    );
    let twice = Canvas::group(adds(3)) | Canvas::group([task("xsum", ()), task("xsum", ())]);
    assert_eq!(run(twice.clone()).await, json!([6, 6]));
    assert_eq!(run(twice | task("xsum", ())).await, json!(12));
    let inner = Canvas::chord([task("add", (1,)), task("add", (2,))], task("xsum", ()));
    let nested = Canvas::chain([task("add", (1, 1)), Canvas::group([inner.clone(), inner])]);
    assert_eq!(run(nested | task("xsum", ())).await, json!(14));
}

#[tokio::test]
async fn immutable_steps_at_run_time() {
    let canvas = Canvas::chain([
        task("add", (1, 1)),
        Canvas::immutable("add", (5, 5)),
        task("add", (1,)),
    ]);
    assert_eq!(run(canvas).await, json!(11));
}

#[tokio::test]
async fn empty_forms_at_run_time() {
    assert_eq!(run(Canvas::chain([])).await, json!(null));
    assert_eq!(run(Canvas::group([])).await, json!([]));
    assert_eq!(run(Canvas::chord([], task("xsum", ()))).await, json!(0));
    assert_eq!(run(task("add", (1, 1)) | Canvas::chain([])).await, json!(2));
    assert_eq!(run(Canvas::chain([]) | task("add", (1, 1))).await, json!(2));
}

#[tokio::test]
async fn settled_groups_at_run_time() {
    let members = || [task("even", (2,)), task("even", (1,))];
    let all = run(Canvas::group(members()).settled()).await;
    assert_eq!(all[0], json!({"Ok": 2}));
    assert_eq!(all[1]["Err"]["message"], json!("1 is odd"));
    let body = Canvas::group(members()).settled() | task("outcomes", ());
    assert_eq!(run(body).await, json!(["2", "even: 1 is odd"]));
}

#[tokio::test]
async fn callbacks_at_run_time() {
    let (app, key) = (app().await, "dynamic: callbacks");
    let good = task("add", (1, 1)).link(task("mark", (key,)));
    let good = app.apply_async(good).await.unwrap();
    ended(&app, good.id(), 1).await;
    let bad = task("even", (1,)).link_error(task("alert", (key,)));
    let bad = app.apply_async(bad).await.unwrap();
    ended(&app, bad.id(), 1).await;
    assert_eq!(notes(key), ["2", "even: 1 is odd"]);
}

#[tokio::test]
async fn typed_and_untyped_mix() {
    let app = app().await;
    let typed: Signature<(), i64> = task("add", (1, 1)).typed();
    let result = app.apply_async(typed | add.partial(1)).await.unwrap();
    assert_eq!(result.get().await.unwrap(), 3);
    let untyped = app
        .apply_async(add.s(1, 1) | task("add", (1,)))
        .await
        .unwrap();
    assert_eq!(untyped.get().await.unwrap(), json!(3));
    let from: Canvas = (add.s(1, 1) | add.partial(5)).into();
    assert_eq!(
        app.apply_async(from).await.unwrap().get().await.unwrap(),
        json!(7)
    );
    let members = group([Canvas::from(add.si(1, 2)), task("shout", ("x",))]);
    let members = app.apply_async(members).await.unwrap();
    assert_eq!(members.get().await.unwrap(), [json!(3), json!("X")]);
}

#[tokio::test]
async fn a_value_of_the_wrong_type_from_upstream_fails_the_task_and_names_its_parameters() {
    let app = app().await;
    let result = app
        .apply_async(task("shout", ("x",)) | task("add", (1,)))
        .await
        .unwrap();
    let failed = failure_of(&result).await;
    assert_eq!((failed.kind, &*failed.name), (FailureKind::Type, "add"));
    assert!(
        failed.message.starts_with("arguments do not fit (x, y): "),
        "{failed}"
    );
}

#[tokio::test]
async fn a_canvas_that_cannot_run_is_refused_with_the_place_and_the_reason() {
    let good = || task("add", (1, 1));
    let unknown = || task("nope", ());
    let each = || Canvas::from(add.each(1));
    let keyed = || good().idempotency_key("k");
    let urgent = || good().priority(10);
    let linked = || Canvas::group([good()]).link(task("mark", ("k",)));
    let deep = |n: usize| (0..n).fold(good(), |inner, _| Canvas::group([inner]));
    let two = "task `add` takes 2 arguments (x, y), but gets";
    let cases: Vec<(Canvas, &str, String)> = vec![
        // Unknown tasks, wherever they are.
        (
            unknown(),
            "",
            "task `nope` is not registered: list it in `.tasks(tasks![..])`".into(),
        ),
        (
            good() | unknown(),
            "chain[1]",
            "task `nope` is not registered: list it in `.tasks(tasks![..])`".into(),
        ),
        (
            Canvas::group([good(), good(), unknown()]),
            "group[2]",
            "task `nope` is not registered: list it in `.tasks(tasks![..])`".into(),
        ),
        (
            Canvas::chord([good(), good(), good() | unknown()], task("xsum", ())),
            "chord.header[2].chain[1]",
            "task `nope` is not registered: list it in `.tasks(tasks![..])`".into(),
        ),
        (
            Canvas::chord([good()], task("xsum", ()) | unknown()),
            "chain[1]",
            "task `nope` is not registered: list it in `.tasks(tasks![..])`".into(),
        ),
        (
            Canvas::chord([good()], unknown()),
            "chord.body",
            "task `nope` is not registered: list it in `.tasks(tasks![..])`".into(),
        ),
        (
            good().link(task("add", (1,)).link_error(unknown())),
            "link[0].link_error[0]",
            "task `nope` is not registered: list it in `.tasks(tasks![..])`".into(),
        ),
        (
            good().link(task("add", (1,))).link(unknown()),
            "link[1]",
            "task `nope` is not registered: list it in `.tasks(tasks![..])`".into(),
        ),
        (
            Canvas::group([good()]).link_error(unknown()),
            "group[0].link_error[0]",
            "task `nope` is not registered: list it in `.tasks(tasks![..])`".into(),
        ),
        // Wrong numbers of arguments.
        (task("add", (1,)), "", format!("{two} 1")),
        (task("add", (1, 2, 3)), "", format!("{two} 3")),
        (task("add", ()), "", format!("{two} 0")),
        (
            good() | good(),
            "chain[1]",
            format!("{two} 3, the value from upstream included"),
        ),
        (
            good() | task("add", ()),
            "chain[1]",
            format!("{two} 1, the value from upstream included"),
        ),
        (
            good() | Canvas::immutable("add", (1,)),
            "chain[1]",
            format!("{two} 1"),
        ),
        (
            task("nothing", (1,)),
            "",
            "task `nothing` takes 0 arguments (), but gets 1".into(),
        ),
        (
            Canvas::chord([good()], task("xsum", (1,))),
            "chord.body",
            "task `xsum` takes 1 argument (xs), but gets 2, the value from upstream included"
                .into(),
        ),
        (
            task("add", 5),
            "",
            "arguments of `add`: must be a tuple or a list".into(),
        ),
        (
            task("add", "ab"),
            "",
            "arguments of `add`: must be a tuple or a list".into(),
        ),
        (
            task("add", json!({"x": 1, "y": 2})),
            "",
            "arguments of `add`: must be a tuple or a list".into(),
        ),
        // Links on groups.
        (linked(), "", "cannot add link to group: use a chord".into()),
        (
            good() | linked(),
            "chain[1]",
            "cannot add link to group: use a chord".into(),
        ),
        (
            Canvas::group([linked()]),
            "group[0]",
            "cannot add link to group: use a chord".into(),
        ),
        (
            linked() | task("xsum", ()),
            "chord.header",
            "cannot add link to group: use a chord".into(),
        ),
        // each() without a list.
        (each(), "group", "each() needs a list from upstream".into()),
        (
            each() | task("xsum", ()),
            "chord.header",
            "each() needs a list from upstream".into(),
        ),
        (
            Canvas::group([good(), each()]),
            "group[1].group",
            "each() needs a list from upstream".into(),
        ),
        // Idempotency keys inside.
        (
            keyed() | task("add", (1,)),
            "chain[0]",
            "an idempotency key belongs on the canvas that is submitted, not inside it".into(),
        ),
        (
            Canvas::group([good(), keyed()]),
            "group[1]",
            "an idempotency key belongs on the canvas that is submitted, not inside it".into(),
        ),
        (
            good().link(keyed()),
            "link[0]",
            "an idempotency key belongs on the canvas that is submitted, not inside it".into(),
        ),
        (
            Canvas::group([good()]).idempotency_key("k") | task("xsum", ()),
            "chord.header",
            "an idempotency key belongs on the canvas that is submitted, not inside it".into(),
        ),
        // Options.
        (urgent(), "", "a priority is 0 to 9".into()),
        (good() | urgent(), "chain[1]", "a priority is 0 to 9".into()),
        (
            Canvas::group([good()]).priority(10),
            "",
            "a priority is 0 to 9".into(),
        ),
        (
            Canvas::group([good()]).priority(10) | task("xsum", ()),
            "chord.header",
            "a priority is 0 to 9".into(),
        ),
        (
            good().time_limit(Duration::ZERO),
            "",
            "a time limit of zero lets nothing run".into(),
        ),
        // Settling what is no group.
        (
            good().settled(),
            "",
            "settled() needs a group; `add` is a task".into(),
        ),
        (
            good() | task("add", (1,)).settled(),
            "chain[1]",
            "settled() needs a group; `add` is a task".into(),
        ),
        (
            (good() | task("add", (1,))).settled(),
            "chain[1]",
            "settled() needs a group; `add` is a task".into(),
        ),
        (
            Canvas::chord([good()], task("xsum", ())).settled(),
            "chord.body",
            "settled() needs a group; `xsum` is a task".into(),
        ),
        (
            Canvas::chain([]).settled(),
            "",
            "settled() needs a group; this is an empty chain".into(),
        ),
        (
            add.chunks([(1, 2)], 0).into(),
            "",
            "chunks of `add` must have at least one item".into(),
        ),
        // Depth.
        (deep(128), "", "canvases nest at most 128 deep".into()),
    ];
    let app = app().await;
    for (canvas, path, reason) in cases {
        let shape: String = format!("{canvas:?}").chars().take(200).collect();
        match app.apply_async(canvas).await {
            Err(Error::Submit(SubmitError::Canvas {
                path: at,
                reason: why,
            })) => {
                assert_eq!((at.as_str(), &why), (path, &reason), "{shape}");
            }
            other => panic!("not refused: {shape}: {other:?}"),
        }
    }
    // The deepest there may be; the refused left nothing behind that stops it.
    let deepest = app.apply_async(deep(127)).await.unwrap();
    let mut inner = &deepest.get().await.unwrap();
    while inner.is_array() {
        inner = &inner[0];
    }
    assert_eq!(inner, &json!(2));
}

#[tokio::test]
async fn a_refusal_tells_where() {
    let app = app().await;
    let header = [task("add", (1, 1)), task("nope", ())];
    let refused = app
        .apply_async(Canvas::chord(header, task("xsum", ())))
        .await
        .unwrap_err();
    assert_eq!(
        refused.to_string(),
        "canvas refused at chord.header[1]: task `nope` is not registered: list it in `.tasks(tasks![..])`"
    );
    let refused = app.apply_async(task("nope", ())).await.unwrap_err();
    assert_eq!(
        refused.to_string(),
        "canvas refused: task `nope` is not registered: list it in `.tasks(tasks![..])`"
    );
}

#[tokio::test]
async fn the_deepest_canvas_of_every_form_fits_the_stack_of_a_thread() {
    const DEEPEST: usize = 127;
    let leaf = || Canvas::immutable("add", (1, 1));
    let wrap = |wrap: &dyn Fn(Canvas) -> Canvas| (0..DEEPEST).fold(leaf(), |inner, _| wrap(inner));
    let deepest = [
        wrap(&|inner| Canvas::group([inner])),
        wrap(&|inner| Canvas::chord([inner], task("xsum", ()))),
        wrap(&|inner| Canvas::chord([leaf()], inner)),
        wrap(&|inner| leaf().link(inner)),
        wrap(&|inner| Canvas::immutable("fail", ("no",)).link_error(inner)),
    ];
    let app = app().await;
    for canvas in deepest {
        let result = app.apply_async(canvas).await.unwrap();
        result.state().await.unwrap();
        result.children::<Value>().await.unwrap();
        let _ = result.get().await;
        let below = app
            .async_result::<Value>(node(result.id(), 1))
            .await
            .unwrap();
        let _ = below.get().await;
    }
}

#[tokio::test]
async fn a_canvas_of_any_depth_is_built_refused_and_dropped() {
    const LEVELS: usize = 100_000;
    let leaf = || Canvas::immutable("add", (1, 1));
    let wrap = |wrap: &dyn Fn(Canvas) -> Canvas| (0..LEVELS).fold(leaf(), |inner, _| wrap(inner));
    let group = || Canvas::group([leaf()]);
    let kinds = [
        wrap(&|inner| Canvas::group([inner])),
        wrap(&|inner| Canvas::group([leaf(), inner]).settled()),
        wrap(&|inner| Canvas::chain([leaf(), inner]).priority(1)),
        wrap(&|inner| Canvas::chain([inner]).priority(1)),
        wrap(&|inner| inner.priority(1) | leaf()),
        wrap(&|inner| Canvas::chord([inner], task("xsum", ()))),
        wrap(&|inner| Canvas::chord([leaf()], inner)),
        wrap(&|inner| group() | inner),
        wrap(&|inner| Canvas::group([inner]) | group()),
        wrap(&|inner| leaf().link(inner)),
        wrap(&|inner| leaf().link_error(inner)),
        wrap(&|inner| group().link_error(inner)),
        wrap(&|inner| (leaf() | leaf()).link(inner)),
        wrap(&|inner| Canvas::group([leaf().link(inner)])),
    ];
    let app = app().await;
    for canvas in kinds {
        let shape: String = format!("{canvas:?}").chars().take(200).collect();
        let copy = canvas.clone();
        assert!(copy.with_args((1,)).to_json().is_err());
        match app.apply_async(canvas).await {
            Err(Error::Submit(SubmitError::Canvas { reason, .. })) => {
                assert_eq!(reason, "canvases nest at most 128 deep", "{shape}");
            }
            other => panic!("not refused: {shape}: {other:?}"),
        }
    }
}
