//! Limits on payloads: what is too large is refused before it is acknowledged, or fails its task.

use chordal::persistence::{MemoryStore, Store};
use chordal::prelude::*;
use chordal::{Accepts, Error, FailureKind, SubmitError};
use serde_json::json;

/// In bytes, of which a text of this size takes three as its header.
const LIMIT: u64 = 1_000;
const FITS: usize = 997;

#[task(name = "payloads.length")]
async fn length(text: String) -> usize {
    text.len()
}

#[task(name = "payloads.lengths")]
async fn lengths(all: Vec<usize>) -> usize {
    all.len()
}

#[task(name = "payloads.letters")]
async fn letters(size: usize) -> String {
    "x".repeat(size)
}

#[task(name = "payloads.append")]
async fn append(all: String, more: String) -> String {
    all + &more
}

/// Asks for another attempt with a text of this size, and is then done.
#[task(name = "payloads.again", max_retries = 2)]
async fn again(ctx: &TaskContext, text: String, size: usize) -> Result<usize, TaskError> {
    match ctx.attempt() {
        1 => Err(ctx
            .retry()
            .countdown(std::time::Duration::ZERO)
            .args(("x".repeat(size), size))
            .into()),
        _ => Ok(text.len()),
    }
}

#[task(name = "payloads.replaced")]
async fn replaced(ctx: &TaskContext, size: usize) -> Result<usize, TaskError> {
    ctx.replace(length.s("x".repeat(size)))
}

#[task(name = "payloads.calls")]
async fn calls(ctx: &TaskContext, size: usize) -> Result<usize, TaskError> {
    match ctx.call("length", length.s("x".repeat(size))).await {
        Err(Error::Submit(SubmitError::PayloadTooLarge { bytes, .. })) => Ok(bytes as usize),
        value => Ok(value?),
    }
}

fn set_up(builder: chordal::AppBuilder) -> chordal::AppBuilder {
    let tasks = tasks![length, lengths, letters, append, again, replaced, calls];
    builder.tasks(tasks).max_payload(LIMIT)
}

/// One with an engine, and an eager one.
async fn apps() -> [App; 2] {
    let engine = set_up(App::in_memory()).start().await.unwrap();
    [engine, set_up(App::eager()).start().await.unwrap()]
}

fn x(size: usize) -> String {
    "x".repeat(size)
}

#[tokio::test]
async fn arguments_of_just_the_limit_are_taken_and_no_more() {
    for app in apps().await {
        let most = app.apply_async(length.s(x(FITS))).await.unwrap();
        assert_eq!(most.get().await.unwrap(), FITS);
        let more = app.apply_async(length.s(x(FITS + 1))).await.unwrap_err();
        assert_eq!(
            more.to_string(),
            "canvas refused: the arguments of `payloads.length` take 1001 bytes, and the limit is 1000"
        );
    }
}

#[tokio::test]
async fn what_is_too_large_is_refused_wherever_it_stands_and_leaves_nothing() {
    let task = |size| Canvas::task("payloads.length", (x(size),));
    let immutable = || Canvas::immutable("payloads.length", (x(FITS + 1),));
    let drawn = |at: usize| {
        let sizes = (0..3_000).map(move |i| if i == at { FITS + 1 } else { 10 });
        Canvas::group(sizes.map(move |size| Canvas::task("payloads.length", (x(size),))))
    };
    let kwargs = json!({"task": "payloads.length", "args": [], "kwargs": {"text": x(FITS + 1)}});
    let cases = [
        ("chain[1]", task(1) | immutable()),
        ("group[2999]", drawn(2_999)),
        (
            "chord.header[17]",
            drawn(17) | Canvas::task("payloads.lengths", ()),
        ),
        ("link[0]", task(1).link(immutable())),
        ("", Canvas::from_json(&kwargs.to_string()).unwrap()),
        ("", length.map([x(500), x(500)]).into()),
        ("", group([letters.s(1)]).fold(x(FITS + 1), append).into()),
    ];
    let store = MemoryStore::new();
    let app = set_up(App::with_store(store.clone()))
        .start()
        .await
        .unwrap();
    for (place, canvas) in cases {
        match app.apply_async(canvas).await {
            Err(Error::Submit(SubmitError::PayloadTooLarge { path, limit, .. })) => {
                assert_eq!((&*path, limit), (place, LIMIT));
            }
            other => panic!("{place}: {other:?}"),
        }
    }
    assert_eq!((app.pending(), app.pending_bytes()), (0, 0));
    app.shutdown().await.unwrap();
    // But for what the store knows of itself.
    let left = store.scan(b"", b"z").map(|pair| pair.unwrap().0);
    let left: Vec<_> = left.filter(|key| key[0] != b'm').collect();
    assert!(left.is_empty(), "{left:?}");
}

/// How a task ends: with its value, or so.
async fn end<S: Accepts<()>>(app: &App, canvas: S) -> Result<S::Output, (FailureKind, u32, String)>
where
    S::Output: serde::de::DeserializeOwned,
{
    match app.apply_async(canvas).await.unwrap().get().await {
        Ok(value) => Ok(value),
        Err(Error::Failed(failure)) => Err((failure.kind, failure.attempt, failure.message)),
        Err(other) => panic!("{other}"),
    }
}

fn too_large<O>(attempt: u32, what: &str) -> Result<O, (FailureKind, u32, String)> {
    let message = format!("{what} 1001 bytes, and the limit is 1000");
    Err((FailureKind::PayloadTooLarge, attempt, message))
}

#[tokio::test]
async fn a_result_of_just_the_limit_is_one_and_a_larger_one_fails_its_task() {
    for app in apps().await {
        assert_eq!(end(&app, letters.s(FITS)).await, Ok(x(FITS)));
        let failed = too_large(1, "its result takes");
        assert_eq!(end(&app, letters.s(FITS + 1)).await, failed);
        // The list of values: two bytes of header each, and one of its own.
        let list = |size| letters.map([498, size]);
        assert_eq!(end(&app, list(495)).await, Ok(vec![x(498), x(495)]));
        let failed = too_large(1, "its result takes");
        assert_eq!(end(&app, list(496)).await, failed);
        // Items that could only make it larger still are not called.
        let (_, _, message) = end(&app, letters.map([498; 4])).await.unwrap_err();
        assert!(message.ends_with("already after 2 of 4 items"), "{message}");
    }
}

#[tokio::test]
async fn a_list_of_results_and_what_comes_from_upstream_may_be_larger() {
    for app in apps().await {
        let all = end(&app, group((0..5).map(|_| letters.s(FITS)))).await;
        assert_eq!(all.unwrap().len(), 5);
        assert_eq!(
            end(&app, letters.s(FITS) | length.partial()).await,
            Ok(FITS)
        );
    }
}

#[tokio::test]
async fn an_accumulator_that_outgrows_the_limit_fails_its_fold() {
    for app in apps().await {
        let fold = |size| group((0..2).map(|_| letters.s(10))).fold(x(size), append);
        assert_eq!(end(&app, fold(FITS - 20)).await.unwrap().len(), FITS);
        assert_eq!(
            end(&app, fold(FITS - 19)).await,
            too_large(1, "its result takes")
        );
    }
}

#[tokio::test]
async fn a_retry_and_a_replacement_keep_to_the_limit() {
    for app in apps().await {
        // The size takes three bytes beside the text, and the list one.
        assert_eq!(end(&app, again.s(x(1), FITS - 4)).await, Ok(FITS - 4));
        let failed = too_large(1, "the arguments of its retry take");
        assert_eq!(end(&app, again.s(x(1), FITS - 3)).await, failed);
        assert_eq!(end(&app, replaced.s(FITS)).await, Ok(FITS));
        let failed = "its replacement is refused: the arguments of `payloads.length` take";
        assert_eq!(end(&app, replaced.s(FITS + 1)).await, too_large(1, failed));
        assert_eq!(end(&app, calls.s(FITS)).await, Ok(FITS));
        assert_eq!(end(&app, calls.s(FITS + 1)).await, Ok(1_001));
    }
}
