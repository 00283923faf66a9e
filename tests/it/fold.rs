//! Folds: every result is in the accumulator once, in order, whatever happens in between.

use std::collections::HashSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Mutex};
use std::time::Duration;

use chordal::persistence::{Batch, MemoryStore, Scan, Store};
use chordal::prelude::*;
use chordal::{
    AppBuilder, ContextError, Durability, Error, FailureKind, State, StoreError, SubmitError,
    TaskEntry,
};
use proptest::prelude::*;
use serde_json::json;
use tokio::sync::watch;

/// Gates by name: closed until they are in here.
static OPEN: LazyLock<watch::Sender<HashSet<String>>> = LazyLock::new(Default::default);
/// How often a call was made, by name.
static CALLS: LazyLock<watch::Sender<Vec<String>>> = LazyLock::new(Default::default);

fn open(gate: &str) {
    OPEN.send_modify(|open| {
        open.insert(gate.to_owned());
    });
}

async fn passed(gate: &str) {
    let mut gates = OPEN.subscribe();
    gates.wait_for(|open| open.contains(gate)).await.unwrap();
}

fn note(what: &str) {
    CALLS.send_modify(|calls| calls.push(what.to_owned()));
}

fn calls(what: &str) -> usize {
    CALLS.borrow().iter().filter(|call| *call == what).count()
}

async fn called(what: &str, times: usize) {
    let mut all = CALLS.subscribe();
    let count = |calls: &Vec<String>| calls.iter().filter(|call| *call == what).count();
    all.wait_for(|calls| count(calls) >= times).await.unwrap();
}

/// Names for the gates and notes of one test.
fn unique(name: &str) -> String {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    format!("{name} {}", NEXT.fetch_add(1, Ordering::Relaxed))
}

#[task(name = "fold.number")]
async fn number(n: i64) -> i64 {
    n
}

#[task(name = "fold.even")]
async fn even(n: i64) -> Result<i64, TaskError> {
    if n % 2 == 0 {
        Ok(n)
    } else {
        Err(TaskError::new(format!("{n} is odd")))
    }
}

/// Ends once its gate is open.
#[task(name = "fold.gated")]
async fn gated(n: i64, gate: String) -> i64 {
    note(&format!("{gate} {n}"));
    passed(&gate).await;
    n
}

#[task(name = "fold.letters")]
async fn letters(n: usize) -> String {
    "x".repeat(n)
}

#[task(name = "fold.adds")]
async fn adds(ctx: &TaskContext, n: i64, more: i64) -> Result<i64, TaskError> {
    for i in 0..more {
        ctx.add_to_chord(adds.s(100 * n + i, 0))?;
    }
    Ok(n)
}

/// Keeps order visible.
#[task(name = "fold.push")]
async fn push(mut all: Vec<i64>, item: i64) -> Vec<i64> {
    all.push(item);
    all
}

#[task(name = "fold.sum", blocking)]
fn sum(acc: i64, item: i64) -> i64 {
    acc + item
}

#[task(name = "fold.join")]
async fn join(all: String, item: String) -> String {
    all + &item
}

#[task(name = "fold.outcomes")]
async fn outcomes(mut all: Vec<String>, item: Result<i64, TaskFailure>) -> Vec<String> {
    all.push(match item {
        Ok(n) => n.to_string(),
        Err(failure) => failure.message,
    });
    all
}

#[task(name = "fold.concat")]
async fn concat(mut all: Vec<i64>, item: Vec<i64>) -> Vec<i64> {
    all.extend(item);
    all
}

/// Fails at 7, always.
#[task(name = "fold.picky")]
async fn picky(acc: i64, item: i64) -> Result<i64, TaskError> {
    match item {
        7 => Err(TaskError::new("no sevens")),
        n => Ok(acc + n),
    }
}

#[task(name = "fold.panics")]
async fn panics(_acc: i64, item: i64) -> i64 {
    panic!("at {item}")
}

/// The first attempt of each run fails at its second item.
#[task(name = "fold.flaky", max_retries = 1, retry_backoff = "1ms")]
async fn flaky(ctx: &TaskContext, acc: i64, item: i64) -> Result<i64, TaskError> {
    if ctx.attempt() == 1 && item % 2 == 1 {
        return Err(TaskError::new("not yet"));
    }
    Ok(acc + item)
}

/// Waits at the gate with the item of this number.
#[task(name = "fold.holds")]
async fn holds(state: (Vec<i64>, i64, String), item: i64) -> (Vec<i64>, i64, String) {
    let (mut all, stop, gate) = state;
    if item == stop {
        note(&gate);
        passed(&gate).await;
    }
    all.push(item);
    (all, stop, gate)
}

#[task(name = "fold.calls")]
async fn tries_to_call(ctx: &TaskContext, acc: i64, item: i64) -> Result<i64, TaskError> {
    let added = ctx.add_to_chord(number.s(1)).unwrap_err();
    assert!(
        matches!(added, Error::Context(ContextError::WorkInFold)),
        "{added}"
    );
    Ok(acc + ctx.call("key", number.s(item)).await?)
}

#[task(name = "fold.becomes")]
async fn becomes(ctx: &TaskContext, _acc: i64, item: i64) -> Result<i64, TaskError> {
    ctx.replace(number.s(item))
}

#[task(name = "fold.double")]
async fn double(n: i64) -> i64 {
    2 * n
}

#[task(name = "fold.range")]
async fn range(n: i64) -> Vec<i64> {
    (0..n).collect()
}

#[task(name = "fold.why")]
async fn why(failure: TaskFailure) -> String {
    failure.error_type
}

fn all_tasks() -> [TaskEntry; 23] {
    tasks![
        number,
        even,
        gated,
        letters,
        adds,
        push,
        sum,
        join,
        outcomes,
        concat,
        picky,
        panics,
        flaky,
        holds,
        tries_to_call,
        becomes,
        double,
        range,
        why,
        one,
        total,
        stops_twice,
        weighty
    ]
}

#[task(name = "fold.total")]
async fn total(all: Vec<i64>) -> i64 {
    all.iter().sum()
}

#[task(name = "fold.one")]
async fn one(only: i64) -> i64 {
    only
}

/// What has been taken in, and before which items to wait at which gates.
type Stopping = (Vec<i64>, Vec<(i64, String)>);

#[task(name = "fold.stops_twice")]
async fn stops_twice(state: Stopping, item: i64) -> Stopping {
    let (mut all, stops) = state;
    if let Some((_, gate)) = stops.iter().find(|(at, _)| *at == item) {
        note(gate);
        passed(gate).await;
    }
    all.push(item);
    (all, stops)
}

#[task(name = "fold.weighty")]
async fn weighty(state: (String, i64), item: i64) -> (String, i64) {
    (state.0, state.1 + item)
}

fn builder() -> AppBuilder {
    App::in_memory().tasks(all_tasks())
}

/// The value of a canvas, in an engine and eagerly.
async fn value<O>(canvas: Signature<(), O>) -> O
where
    O: serde::de::DeserializeOwned + PartialEq + std::fmt::Debug,
{
    let app = builder().start().await.unwrap();
    let eager = App::eager().tasks(all_tasks()).start().await.unwrap();
    let value = app.apply_async(canvas.clone()).await.unwrap().get().await;
    let again = eager.apply_async(canvas).await.unwrap().get().await;
    assert_eq!(value.as_ref().ok(), again.as_ref().ok());
    app.shutdown().await.unwrap();
    value.unwrap()
}

/// The failure of a canvas, in an engine and eagerly.
async fn failure<O>(canvas: Signature<(), O>) -> TaskFailure
where
    O: serde::de::DeserializeOwned + std::fmt::Debug,
{
    let app = builder().start().await.unwrap();
    let eager = App::eager().tasks(all_tasks()).start().await.unwrap();
    let mut failures = Vec::new();
    for app in [&app, &eager] {
        match app.apply_async(canvas.clone()).await.unwrap().get().await {
            Err(Error::Failed(failure)) => failures.push(*failure),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(failures[0].error_type, failures[1].error_type);
    app.shutdown().await.unwrap();
    failures.swap_remove(0)
}

fn numbers(n: i64) -> Signature<(), Vec<i64>> {
    group((0..n).map(|n| number.s(n)))
}

#[tokio::test]
async fn a_fold_takes_the_values_in_member_order() {
    for size in [0, 1, 2, 1_000, 5_000] {
        let folded = value(numbers(size).fold(vec![-1], push)).await;
        assert_eq!(folded, (-1..size).collect::<Vec<_>>());
        assert_eq!(
            value(numbers(size).fold(5, sum)).await,
            (0..size).sum::<i64>() + 5
        );
    }
}

#[tokio::test]
async fn an_unordered_fold_takes_each_value_once() {
    let app = builder().start().await.unwrap();
    for size in [0, 1, 3_000] {
        let folded = numbers(size).fold_unordered(vec![], push);
        let mut folded = app.apply_async(folded).await.unwrap().get().await.unwrap();
        folded.sort_unstable();
        assert_eq!(folded, (0..size).collect::<Vec<_>>());
    }
    app.shutdown().await.unwrap();
}

#[tokio::test]
async fn an_unordered_fold_waits_for_no_slow_member() {
    let gate = unique("slow");
    let app = builder().start().await.unwrap();
    let first = gated.s(0, gate.clone());
    let others = (1..4).map(|n| number.s(n));
    let members = std::iter::once(first).chain(others);
    let folded = group(members).fold_unordered((vec![], 3, gate.clone()), holds);
    let folded = app.apply_async(folded).await.unwrap();
    // The function has got to the last number, though the first is not there.
    called(&gate, 1).await;
    open(&gate);
    let (all, ..) = folded.get().await.unwrap();
    let place = |n| all.iter().position(|item| *item == n);
    assert!(place(3) < place(0), "{all:?}");
    app.shutdown().await.unwrap();
}

#[tokio::test]
async fn members_start_only_so_far_ahead_of_an_ordered_fold() {
    let gate = unique("ahead");
    let app = builder().window(2).start().await.unwrap();
    let first = gate.clone();
    let members = (0..100).map(move |n| match n {
        0 => gated.s(0, first.clone()),
        n => number.s(n),
    });
    let folded = app
        .apply_async(group(members).fold(vec![], push))
        .await
        .unwrap();
    called(&format!("{gate} 0"), 1).await;
    let mut seen = folded.completed_count().await.unwrap();
    // The seven others of four windows of two end, and no more start.
    while seen < 7 {
        tokio::task::yield_now().await;
        seen = folded.completed_count().await.unwrap();
    }
    for _ in 0..1_000 {
        tokio::task::yield_now().await;
    }
    assert_eq!(folded.completed_count().await.unwrap(), 7);
    open(&gate);
    assert_eq!(folded.get().await.unwrap(), (0..100).collect::<Vec<_>>());
    app.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_failing_member_breaks_the_fold_as_it_does_a_chord() {
    let canvas = || group((0..20).map(|n| even.s(n)));
    for folded in [canvas().fold(0, sum), canvas().fold_unordered(0, sum)] {
        let failure = failure(folded).await;
        assert_eq!(failure.kind, FailureKind::Chord);
        assert!(
            failure.message.ends_with("raised TaskError('1 is odd')"),
            "{failure}"
        );
        assert_eq!(failure.cause.unwrap().message, "1 is odd");
    }
    let app = builder().start().await.unwrap();
    let folded = canvas().fold(0, sum).on_error(why.partial());
    let folded = app.apply_async(folded).await.unwrap();
    assert!(folded.get().await.is_err());
    // The other members have run.
    assert_eq!(folded.completed_count().await.unwrap(), 10);
    folded.at_rest().await.unwrap();
    let children = folded.children::<String>().await.unwrap();
    assert_eq!(
        children.last().unwrap().state().await.unwrap(),
        State::Failure
    );
    app.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_settled_fold_takes_every_outcome() {
    let canvas = group((0..3).map(|n| even.s(n))).settled();
    assert_eq!(
        value(canvas.fold(vec![], outcomes)).await,
        ["0", "1 is odd", "2"]
    );
}

#[tokio::test]
async fn a_function_that_fails_fails_the_fold_when_all_members_have_ended() {
    let found = failure(numbers(3_000).fold(0, picky)).await;
    assert_eq!(
        (found.name.as_str(), found.message.as_str()),
        ("fold.picky", "no sevens")
    );
    let found = failure(numbers(3).fold(0, panics)).await;
    assert_eq!(
        (found.kind, found.message.as_str()),
        (FailureKind::Panic, "at 0")
    );
    let app = builder().start().await.unwrap();
    let folded = app
        .apply_async(numbers(3_000).fold(0, picky))
        .await
        .unwrap();
    assert!(folded.get().await.is_err());
    assert_eq!(folded.completed_count().await.unwrap(), 3_000);
    app.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_run_that_fails_is_tried_again_from_its_start() {
    assert_eq!(value(numbers(2_000).fold(0, flaky)).await, 1_999_000);
}

#[tokio::test]
async fn values_and_accumulators_of_all_sizes_are_folded() {
    let sizes = [3, 5_000, 0, 70_000, 4_096, 4_097, 200_000, 1];
    let canvas = group(sizes.map(|n| letters.s(n))).fold(String::new(), join);
    assert_eq!(value(canvas).await.len(), sizes.iter().sum::<usize>());
    let sizes = || (0..200_usize).map(|n| n * 37 % 8_000);
    let expected = futures_util::future::join_all(sizes().map(|n| letters.call(n))).await;
    let expected = expected.iter().fold(String::new(), |all, next| all + next);
    let canvas = group(sizes().map(|n| letters.s(n))).fold(String::new(), join);
    assert_eq!(value(canvas).await, expected);
}

#[tokio::test]
async fn folds_stand_wherever_a_task_does() {
    assert_eq!(value(numbers(4).fold(0, sum) | double.partial()).await, 12);
    assert_eq!(value(range.s(5) | double.each().fold(0, sum)).await, 20);
    assert_eq!(value((range.s(5) | double.each()).fold(0, sum)).await, 20);
    let inner = |n| numbers(n).fold(0, sum);
    assert_eq!(
        value(group([inner(3), inner(4)]).fold(vec![], push)).await,
        [3, 6]
    );
    assert_eq!(
        value(group([numbers(2), numbers(3)]).fold(vec![], concat)).await,
        [0, 1, 0, 1, 2]
    );
    let behind_a_chord = numbers(3) | group([push_all(), push_all()]);
    assert_eq!(value(behind_a_chord.fold(vec![], push)).await, [3, 3]);
}

/// A group behind a chord: each member gets the list.
fn push_all() -> Signature<Vec<i64>, i64> {
    total.partial()
}

#[tokio::test]
async fn additions_are_folded_behind_their_member() {
    let canvas = group([adds.s(1, 2), adds.s(2, 0), adds.s(3, 1)]).fold(vec![], push);
    assert_eq!(value(canvas).await, [1, 100, 101, 2, 3, 300]);
}

#[tokio::test]
async fn the_function_starts_no_work_of_its_own() {
    let found = failure(numbers(1).fold(0, tries_to_call)).await;
    assert_eq!(
        found.message,
        "the function of a fold cannot call a canvas or add to a chord"
    );
    let found = failure(numbers(1).fold(0, becomes)).await;
    assert_eq!(found.message, "an item of a fold cannot be replaced");
}

#[tokio::test]
async fn what_cannot_be_folded_is_refused() {
    let app = builder().start().await.unwrap();
    let members = || Canvas::group([Canvas::task("fold.number", (1,))]);
    for (canvas, reason) in [
        (
            range.s(2).fold(0, sum).into_canvas(),
            "fold() needs a group; `fold.range` is a task",
        ),
        (
            Canvas::chain([]).fold_unordered(0, "fold.sum"),
            "fold_unordered() needs a group; this is an empty chain",
        ),
        (
            members().fold(0, "fold.sum").fold(0, "fold.sum"),
            "fold() needs a group; this is a fold",
        ),
        (
            members().fold(0, "fold.sum").settled(),
            "settled() goes on the group, before fold()",
        ),
        (
            members().fold(0, "nobody"),
            "task `nobody` is not registered: list it in `.tasks(tasks![..])`",
        ),
        (
            members().fold(0, "fold.one"),
            "fold() calls `fold.one` with the accumulator and one value, but it takes (only)",
        ),
        (
            members().fold("x", "fold.sum"),
            "the first value of fold(): `acc` takes i64, but gets a string",
        ),
    ] {
        match app.apply_async(canvas).await {
            Err(Error::Submit(SubmitError::Canvas { reason: found, .. })) => {
                assert_eq!(found, reason)
            }
            other => panic!("{other:?}"),
        }
    }
    let error = members().fold(0, "fold.sum").to_json().unwrap_err();
    assert_eq!(
        error.to_string(),
        "canvas refused: fold() has no form in Celery"
    );
    let untyped = app
        .apply_async(members().fold(4, "fold.sum"))
        .await
        .unwrap();
    assert_eq!(untyped.get().await.unwrap(), json!(5));
    app.shutdown().await.unwrap();
}

#[tokio::test]
async fn options_of_the_fold_are_its_functions() {
    let app = builder().queue("narrow", 1).start().await.unwrap();
    let folded = numbers(50)
        .fold(0, sum)
        .queue("narrow")
        .priority(9)
        .max_retries(2);
    assert_eq!(
        app.apply_async(folded).await.unwrap().get().await.unwrap(),
        1_225
    );
    let gone = numbers(3)
        .fold(0, sum)
        .expires_at(std::time::SystemTime::UNIX_EPOCH);
    let gone = app.apply_async(gone).await.unwrap();
    assert!(gone.get().await.is_err());
    assert_eq!(gone.state().await.unwrap(), State::Revoked);
    let late = numbers(3).fold(0, sum).countdown(Duration::from_millis(1));
    assert_eq!(app.apply_async(late).await.unwrap().get().await.unwrap(), 3);
    app.shutdown().await.unwrap();
}

#[tokio::test]
async fn its_function_is_found_and_has_a_state() {
    let gate = unique("state");
    let app = builder().start().await.unwrap();
    let folded = numbers(3).fold((vec![], 1, gate.clone()), holds);
    let folded = app.apply_async(folded).await.unwrap();
    let function = chordal::Id::from(uuid::Uuid::from_u128(folded.id().as_uuid().as_u128() + 4));
    called(&gate, 1).await;
    let function = app
        .async_result::<serde_json::Value>(function)
        .await
        .unwrap();
    assert_eq!(function.state().await.unwrap(), State::Started);
    assert_eq!(folded.state().await.unwrap(), State::Started);
    assert_eq!(folded.children::<i64>().await.unwrap().len(), 3);
    open(&gate);
    folded.get().await.unwrap();
    assert_eq!(function.state().await.unwrap(), State::Success);
    assert_eq!(function.get().await.unwrap(), json!([[0, 1, 2], 1, gate]));
    app.shutdown().await.unwrap();
}

/// The function is cut short in the middle of a run, twice, and each time the store goes on without
/// what had been called and not yet stored.
#[tokio::test]
async fn a_restart_in_the_middle_leaves_each_value_in_once() {
    const SIZE: i64 = 2_500;
    for ordered in [true, false] {
        let store = MemoryStore::new();
        let open_app = || {
            let app = App::with_store(store.clone()).grace(Duration::ZERO);
            app.tasks(all_tasks()).start()
        };
        let gates = [unique("first"), unique("second")];
        let app = open_app().await.unwrap();
        let members = || group((0..SIZE).map(|n| number.s(n)));
        let stops = [(700, gates[0].clone()), (2_100, gates[1].clone())];
        let init = (vec![], stops.to_vec());
        let folded = match ordered {
            true => members().fold(init, stops_twice),
            false => members().fold_unordered(init, stops_twice),
        };
        let id = app.apply_async(folded).await.unwrap().id();
        called(&gates[0], 1).await;
        app.shutdown().await.unwrap();

        open(&gates[0]);
        let app = open_app().await.unwrap();
        called(&gates[1], 1).await;
        app.shutdown().await.unwrap();

        open(&gates[1]);
        let app = open_app().await.unwrap();
        let folded = app.async_result::<Stopping>(id).await.unwrap();
        let (mut all, _) = folded.get().await.unwrap();
        if !ordered {
            all.sort_unstable();
        }
        assert_eq!(all, (0..SIZE).collect::<Vec<_>>());
        assert_eq!(
            calls(&gates[1]),
            2,
            "the run that was cut short is made again"
        );
        app.shutdown().await.unwrap();
    }
}

/// Every commit that it was told, in order.
#[derive(Clone, Debug, Default)]
struct Recorder(Arc<Mutex<Vec<Batch>>>, MemoryStore);

impl Store for Recorder {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        self.1.get(key)
    }

    fn scan(&self, from: &[u8], to: &[u8]) -> Scan<'_> {
        self.1.scan(from, to)
    }

    fn apply(&self, batch: Batch) -> Result<(), StoreError> {
        let mut batches = self.0.lock().unwrap();
        batches.push(batch.clone());
        self.1.apply(batch)
    }

    fn sync(&self, durability: Durability) -> Result<(), StoreError> {
        self.1.sync(durability)
    }
}

/// The accumulator is larger than a record, so that its pieces are written over each other.
#[tokio::test]
async fn a_crash_behind_any_commit_leaves_each_value_in_once() {
    const SIZE: usize = 12;
    let recorder = Recorder::default();
    let app = App::with_store(recorder.clone())
        .window(2)
        .tasks(all_tasks());
    let app = app.start().await.unwrap();
    let long = |n: usize| letters.s(n * 700);
    let expected = "x".repeat((0..SIZE).sum::<usize>() * 700);
    let ordered = group((0..SIZE as i64).map(|n| number.s(n))).fold(vec![], push);
    let ordered = app.apply_async(ordered).await.unwrap();
    ordered.get().await.unwrap();
    let large = group((0..SIZE).map(long)).fold(String::new(), join);
    let large = app.apply_async(large).await.unwrap();
    assert_eq!(large.get().await.unwrap(), expected);
    let bad = group((0..SIZE as i64).map(|n| number.s(n))).fold_unordered(0, picky);
    let bad = app.apply_async(bad).await.unwrap();
    bad.get().await.unwrap_err();
    let (ordered, large, bad) = (ordered.id(), large.id(), bad.id());
    app.shutdown().await.unwrap();

    let batches = recorder.0.lock().unwrap().clone();
    assert!(batches.len() > 20, "{}", batches.len());
    for kept in 0..=batches.len() {
        let store = MemoryStore::new();
        for batch in &batches[..kept] {
            store.apply(batch.clone()).unwrap();
        }
        let app = App::with_store(store).window(2).tasks(all_tasks());
        let app = app.start().await.unwrap();
        if let Ok(ordered) = app.async_result::<Vec<i64>>(ordered).await {
            let all = ordered.get().await.unwrap();
            assert_eq!(all, (0..SIZE as i64).collect::<Vec<_>>(), "behind {kept}");
        }
        if let Ok(large) = app.async_result::<String>(large).await {
            assert!(large.get().await.unwrap() == expected, "behind {kept}");
        }
        if let Ok(bad) = app.async_result::<i64>(bad).await {
            let error = bad.get().await.unwrap_err().to_string();
            assert!(error.ends_with("no sevens"), "behind {kept}: {error}");
        }
        app.shutdown().await.unwrap();
    }
}

#[tokio::test]
async fn records_and_runs_do_not_grow_with_the_members() {
    const SIZE: i64 = 100_000;
    let store = MemoryStore::new();
    let app = App::with_store(store.clone()).tasks(all_tasks());
    let app = app.start().await.unwrap();
    // The accumulator is in pieces from the first run on.
    let init = ("z".repeat(9_000), 0);
    let folded = app
        .apply_async(numbers(SIZE).fold(init, weighty))
        .await
        .unwrap();
    let (_, whole) = folded.get().await.unwrap();
    assert_eq!(whole, SIZE * (SIZE - 1) / 2);
    app.shutdown().await.unwrap();
    let count = |from: &[u8], to: &[u8]| store.scan(from, to).count();
    let pieces = count(b"p", b"q");
    assert!(pieces <= 3, "the accumulator is kept once: {pieces}");
    let all = count(b"\0", b"\xff");
    assert!(all < SIZE as usize / 20, "{all} records");
}

fn is_odd(n: i64) -> bool {
    n % 2 != 0
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn a_fold_is_the_plain_fold(
        members in proptest::collection::vec(0..40_i64, 0..60),
        window in 1..5_u64,
        settles: bool,
        ordered: bool,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let app = builder().window(window).start().await.unwrap();
            let all = || group(members.clone().into_iter().map(|n| even.s(n)));
            let plain: Vec<_> = members.iter().map(|n| match is_odd(*n) {
                true => format!("{n} is odd"),
                false => n.to_string(),
            }).collect();
            if settles {
                let folded = match ordered {
                    true => all().settled().fold(vec![], outcomes),
                    false => all().settled().fold_unordered(vec![], outcomes),
                };
                let mut found = app.apply_async(folded).await.unwrap().get().await.unwrap();
                let mut plain = plain;
                if !ordered {
                    found.sort();
                    plain.sort();
                }
                assert_eq!(found, plain);
            } else {
                let folded = match ordered {
                    true => all().fold(0, sum),
                    false => all().fold_unordered(0, sum),
                };
                match app.apply_async(folded).await.unwrap().get().await {
                    Ok(found) => assert_eq!(found, members.iter().sum::<i64>()),
                    Err(Error::Failed(failure)) => {
                        let lowest = members.iter().find(|n| is_odd(**n)).unwrap();
                        assert_eq!(failure.cause.unwrap().message, format!("{lowest} is odd"));
                    }
                    Err(other) => panic!("{other:?}"),
                }
            }
            app.shutdown().await.unwrap();
        });
    }
}
