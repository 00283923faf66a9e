//! `Results<T>`: a list that is read as the body goes.

use std::sync::LazyLock;
use std::time::Duration;

use chordal::persistence::{Batch, MemoryStore, Scan, Store};
use chordal::prelude::*;
use chordal::{AppBuilder, Durability, Error, FailureKind, GetError, StoreError, TaskEntry};
use serde_json::json;
use tokio::sync::watch;

#[task(name = "results.double")]
async fn double(n: i64) -> i64 {
    2 * n
}

#[task(name = "results.even")]
async fn even(n: i64) -> Result<i64, TaskError> {
    if n % 2 == 0 {
        Ok(n)
    } else {
        Err(TaskError::new(format!("{n} is odd")))
    }
}

#[task(name = "results.text")]
async fn text(n: usize) -> String {
    let length = if n.is_multiple_of(3) { 9_000 } else { n % 90 };
    n.to_string() + &"x".repeat(length)
}

/// The list as it was read.
#[task(name = "results.listed")]
async fn listed(all: Results<i64>) -> Result<Vec<i64>, TaskError> {
    Ok(all.collect::<Result<_, _>>()?)
}

#[task(name = "results.texts", blocking)]
fn texts(all: Results<String>) -> Result<Vec<String>, TaskError> {
    Ok(all.collect::<Result<_, _>>()?)
}

#[task(name = "results.scaled")]
async fn scaled(all: Results<i64>, by: i64) -> i64 {
    by * all.map(Result::unwrap).sum::<i64>()
}

/// How many are to come, before and after the first is read.
#[task(name = "results.lengths")]
async fn lengths(mut all: Results<i64>) -> (usize, usize) {
    let before = all.len();
    let _ = all.next();
    (before, all.len())
}

#[task(name = "results.settled")]
async fn settled(all: Results<Result<i64, TaskFailure>>) -> Result<Vec<String>, TaskError> {
    let mut lines = Vec::new();
    for one in all {
        lines.push(match one? {
            Ok(n) => n.to_string(),
            Err(failure) => failure.message,
        });
    }
    Ok(lines)
}

/// Leaves the first attempt in the middle.
#[task(name = "results.second", max_retries = 1, retry_backoff = "1ms")]
async fn second(ctx: &TaskContext, mut all: Results<i64>) -> Result<Vec<i64>, TaskError> {
    if ctx.attempt() == 1 {
        let first = all.next().transpose()?;
        return Err(TaskError::new(format!("after {first:?}")));
    }
    Ok(all.collect::<Result<_, _>>()?)
}

/// Hands what it has not read to the attempt that follows.
#[task(name = "results.hands_on", max_retries = 1)]
async fn hands_on(ctx: &TaskContext, mut all: Results<i64>) -> Result<Vec<i64>, TaskError> {
    if ctx.attempt() == 1 {
        let _ = all.next();
        let now = Duration::ZERO;
        return Err(ctx.retry().countdown(now).args((all,)).into());
    }
    Ok(all.collect::<Result<_, _>>()?)
}

/// Counts the elements that are no numbers.
#[task(name = "results.misfits")]
async fn misfits(all: Results<i64>) -> usize {
    all.filter(|one| matches!(one, Err(Error::Get(GetError::Decode { .. }))))
        .count()
}

#[task(name = "results.range")]
async fn range(n: i64) -> Vec<i64> {
    (0..n).collect()
}

#[task(name = "results.long")]
async fn long(sizes: Vec<usize>) -> Vec<String> {
    sizes.into_iter().map(|n| "y".repeat(n)).collect()
}

#[task(name = "results.adds")]
async fn adds(ctx: &TaskContext, n: i64, more: i64) -> Result<i64, TaskError> {
    for i in 0..more {
        ctx.add_to_chord(adds.s(100 * n + i, 0))?;
    }
    Ok(n)
}

fn all_tasks() -> [TaskEntry; 14] {
    tasks![
        double, even, text, listed, texts, scaled, lengths, settled, second, hands_on, misfits,
        range, long, adds
    ]
}

/// The value of a canvas, in an engine and eagerly.
async fn value<O>(canvas: Signature<(), O>) -> O
where
    O: serde::de::DeserializeOwned + PartialEq + std::fmt::Debug,
{
    // Bodies hand on whole lists.
    let set_up = |builder: AppBuilder| builder.tasks(all_tasks()).max_payload(16 << 20);
    let app = set_up(App::in_memory()).start().await.unwrap();
    let eager = set_up(App::eager()).start().await.unwrap();
    let value = app.apply_async(canvas.clone()).await.unwrap().get().await;
    let again = eager.apply_async(canvas).await.unwrap().get().await;
    assert_eq!(value.as_ref().ok(), again.as_ref().ok());
    app.shutdown().await.unwrap();
    value.unwrap()
}

#[tokio::test]
async fn a_body_reads_the_results_in_member_order() {
    for size in [0, 1, 2, 1_023, 1_024, 1_025, 3_000] {
        let canvas = group((0..size).map(|n| double.s(n))) | listed.partial();
        assert_eq!(
            value(canvas).await,
            (0..size).map(|n| 2 * n).collect::<Vec<_>>()
        );
    }
}

#[tokio::test]
async fn a_blocking_body_reads_values_of_all_sizes() {
    let expected: Vec<_> = (0..1_500).map(|n| text.call(n)).collect();
    let expected = futures_util::future::join_all(expected).await;
    let canvas = chord(group((0..1_500).map(|n| text.s(n))), texts.partial());
    assert_eq!(value(canvas).await, expected);
}

#[tokio::test]
async fn a_settled_header_gives_every_outcome() {
    let canvas = group((0..3).map(|n| even.s(n))).settled() | settled.partial();
    assert_eq!(value(canvas).await, ["0", "1 is odd", "2"]);
}

#[tokio::test]
async fn its_length_is_what_is_left() {
    let canvas = group((0..2_000).map(|n| double.s(n))) | lengths.partial();
    assert_eq!(value(canvas).await, (2_000, 1_999));
    assert_eq!(
        value(range.s(2_000) | lengths.partial()).await,
        (2_000, 1_999)
    );
    assert_eq!(value(lengths.s(vec![1, 2])).await, (2, 1));
    assert_eq!(value(lengths.s(vec![])).await, (0, 0));
}

#[tokio::test]
async fn a_list_that_a_task_returned_is_read_in_pieces() {
    for n in [0, 3, 50_000] {
        assert_eq!(
            value(range.s(n) | listed.partial()).await,
            (0..n).collect::<Vec<_>>()
        );
    }
    // Elements larger than a piece, than a read, and than several.
    let sizes = vec![0, 70_000, 7_000, 1, 400_000, 65_000, 66_000, 3];
    let canvas = long.s(sizes.clone()) | texts.partial();
    let read: Vec<_> = value(canvas).await.iter().map(String::len).collect();
    assert_eq!(read, sizes);
}

#[tokio::test]
async fn every_method_of_the_task_takes_a_vec() {
    assert_eq!(value(scaled.s(vec![1, 2], 10)).await, 30);
    assert_eq!(value(double.s(1) | scaled.si(vec![1, 2], 10)).await, 30);
    let two = || vec![(vec![1, 2], 10), (vec![3], 1)];
    assert_eq!(value(double.s(0) | scaled.map(two())).await, [30, 3]);
    assert_eq!(value(double.s(0) | scaled.starmap(two())).await, [30, 3]);
    assert_eq!(
        value(double.s(0) | scaled.chunks(two(), 1)).await,
        [[30], [3]]
    );
    assert_eq!(value(double.s(0) | listed.map([vec![4]])).await, [[4]]);
    let rows = group([range.s(2), range.s(3_000)]) | scaled.each(1);
    assert_eq!(value(rows).await, [1, 2_999 * 1_500]);
    assert_eq!(scaled.call(vec![1, 2].into(), 10).await, 30);
}

#[tokio::test]
async fn another_attempt_reads_from_the_start() {
    let canvas = group((0..1_500).map(|n| double.s(n))) | second.partial();
    assert_eq!(value(canvas).await.len(), 1_500);
}

#[tokio::test]
async fn what_is_left_can_be_handed_on() {
    let canvas = group((0..1_500).map(|n| double.s(n))) | hands_on.partial();
    let expected: Vec<_> = (1..1_500).map(|n| 2 * n).collect();
    assert_eq!(value(canvas).await, expected);
}

#[tokio::test]
async fn additions_stand_behind_their_member() {
    let canvas = group([adds.s(1, 2), adds.s(2, 0), adds.s(3, 1)]) | listed.partial();
    assert_eq!(value(canvas).await, [1, 100, 101, 2, 3, 300]);
    let canvas = group([adds.s(1, 2), adds.s(2, 0)]) | lengths.partial();
    assert_eq!(value(canvas).await, (4, 3));
}

#[tokio::test]
async fn it_runs_as_a_body_in_json() {
    let app = App::in_memory().tasks(all_tasks()).start().await.unwrap();
    let canvas = Canvas::from_json(
        r#"{"task": "celery.chord", "subtask_type": "chord", "kwargs": {
            "header": [{"task": "results.double", "args": [1]}, {"task": "results.double", "args": [2]}],
            "body": {"task": "results.scaled", "kwargs": {"by": 10}}}}"#,
    );
    let sum = app.apply_async(canvas.unwrap()).await.unwrap();
    assert_eq!(sum.get().await.unwrap(), json!(60));
    let direct = Canvas::task("results.scaled", (json!([1, 2]), 2));
    let sum = app.apply_async(direct).await.unwrap();
    assert_eq!(sum.get().await.unwrap(), json!(6));
    let wrong = app
        .apply_async(Canvas::task("results.listed", ("x",)))
        .await;
    let why = wrong.unwrap_err().to_string();
    assert!(
        why.contains("`all` takes Results<i64>: invalid type: string"),
        "{why}"
    );
    app.shutdown().await.unwrap();
}

#[tokio::test]
async fn what_does_not_fit_is_an_error_of_its_own() {
    let app = App::in_memory().tasks(all_tasks()).start().await.unwrap();
    let mixed = (0..1_100).map(|n| match n % 2 {
        0 => Canvas::task("results.text", (1,)),
        _ => Canvas::task("results.double", (n,)),
    });
    let canvas = Canvas::chord(mixed, Canvas::task("results.misfits", ()));
    let count = app.apply_async(canvas).await.unwrap();
    assert_eq!(count.get().await.unwrap(), json!(550));
    // What is no list at all is the task's failure.
    let canvas = Canvas::task("results.text", (9_000,)) | Canvas::task("results.misfits", ());
    let result = app.apply_async(canvas).await.unwrap();
    match result.get().await {
        Err(Error::Failed(failure)) => assert_eq!(failure.kind, FailureKind::Type, "{failure}"),
        other => panic!("{other:?}"),
    }
    app.shutdown().await.unwrap();
}

/// A store whose segments cannot be read one by one.
#[derive(Debug)]
struct Faulty(MemoryStore);

impl Store for Faulty {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        if key.first() == Some(&b's') {
            return Err(StoreError::Poisoned("for a test".to_owned()));
        }
        self.0.get(key)
    }

    fn scan(&self, from: &[u8], to: &[u8]) -> Scan<'_> {
        self.0.scan(from, to)
    }

    fn apply(&self, batch: Batch) -> Result<(), StoreError> {
        self.0.apply(batch)
    }

    fn sync(&self, durability: Durability) -> Result<(), StoreError> {
        self.0.sync(durability)
    }
}

/// How many it could read, and how many it could not.
#[task(name = "results.read")]
async fn readable(all: Results<i64>) -> (usize, usize) {
    let (good, bad): (Vec<_>, Vec<_>) = all.partition(Result::is_ok);
    let is_of_the_store = |one: &Result<i64, Error>| matches!(one, Err(Error::Store(_)));
    assert!(bad.iter().all(is_of_the_store));
    (good.len(), bad.len())
}

#[tokio::test]
async fn a_store_that_fails_in_the_middle_is_never_the_end_of_the_list() {
    let app = App::with_store(Faulty(MemoryStore::new()))
        .tasks(all_tasks())
        .tasks(tasks![readable]);
    let app = app.start().await.unwrap();
    let canvas = group((0..3_000).map(|n| double.s(n))) | readable.partial();
    let counts = app.apply_async(canvas).await.unwrap();
    assert_eq!(counts.get().await.unwrap(), (1_024, 1_976));
    app.shutdown().await.unwrap();
}

/// The body's first attempt is cut short when it has read some.
static CUT: LazyLock<watch::Sender<u32>> = LazyLock::new(Default::default);

#[task(name = "results.cut_short")]
async fn cut_short(ctx: &TaskContext, mut all: Results<i64>) -> Result<Vec<i64>, TaskError> {
    if ctx.attempt() == 1 {
        let _ = all.by_ref().take(1_500).count();
        CUT.send_modify(|cuts| *cuts += 1);
        return std::future::pending().await;
    }
    Ok(all.collect::<Result<_, _>>()?)
}

#[tokio::test]
async fn a_body_reads_from_the_start_after_a_restart() {
    let store = MemoryStore::new();
    let builder = || {
        let app = App::with_store(store.clone()).tasks(tasks![double, cut_short]);
        app.grace(Duration::ZERO).start()
    };
    let app = builder().await.unwrap();
    let canvas = group((0..2_000).map(|n| double.s(n))) | cut_short.partial();
    let id = app.apply_async(canvas).await.unwrap().id();
    CUT.subscribe().wait_for(|cuts| *cuts == 1).await.unwrap();
    app.shutdown().await.unwrap();

    let app = builder().await.unwrap();
    let all = app.async_result::<Vec<i64>>(id).await.unwrap();
    let expected: Vec<_> = (0..2_000).map(|n| 2 * n).collect();
    assert_eq!(all.get().await.unwrap(), expected);
    app.shutdown().await.unwrap();
}
