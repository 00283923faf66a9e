//! Every form of canvas, run to its end. The tasks are here, the tests in the modules.

use std::collections::HashSet;
use std::sync::LazyLock;

use chordal::prelude::*;
use chordal::{
    AppBuilder, Clock, ContextError, Error, FailureKind, GetError, Id, IdError, State, SubmitError,
};
use futures_util::{StreamExt, TryStreamExt};
use serde_json::Value;
use tokio::sync::watch;

mod callbacks;
mod chains;
mod chords;
mod clock_steps;
mod dynamic;
mod each;
mod failures;
mod groups;
mod handles;
mod lives;
mod maps;
mod offspring;
mod options;
mod partial_results;
mod policies;
mod progress;
mod retries;
mod revoke;
mod schedule;
mod settled;
mod submission;
mod values;

/// What tasks did, and which gates are open: each test has keys of its own.
static NOTES: LazyLock<watch::Sender<Vec<(String, String)>>> = LazyLock::new(Default::default);
static GATES: LazyLock<watch::Sender<HashSet<String>>> = LazyLock::new(Default::default);

fn note(key: &str, what: impl ToString) {
    NOTES.send_modify(|notes| notes.push((key.to_owned(), what.to_string())));
}

fn under<'a>(notes: &'a [(String, String)], key: &'a str) -> impl Iterator<Item = &'a String> {
    let own = notes.iter().filter(move |(of, _)| of == key);
    own.map(|(_, what)| what)
}

/// What was noted under `key` so far.
fn notes(key: &str) -> Vec<String> {
    under(&NOTES.borrow(), key).cloned().collect()
}

/// Waits for `count` notes under `key`.
async fn noted(key: &str, count: usize) -> Vec<String> {
    let mut all = NOTES.subscribe();
    let enough = all.wait_for(|notes| under(notes, key).count() >= count);
    drop(enough.await.unwrap());
    notes(key)
}

/// Lets through the tasks that wait at `gate`.
fn open(gate: &str) {
    GATES.send_modify(|open| {
        open.insert(gate.to_owned());
    });
}

async fn passed(gate: &str) {
    let mut gates = GATES.subscribe();
    gates.wait_for(|open| open.contains(gate)).await.unwrap();
}

#[task]
async fn add(x: i64, y: i64) -> i64 {
    x + y
}

#[task]
async fn xsum(xs: Vec<i64>) -> i64 {
    xs.iter().sum()
}

#[task]
async fn range(n: i64) -> Vec<i64> {
    (0..n).collect()
}

#[task]
async fn shout(text: String) -> String {
    text.to_uppercase()
}

#[task]
async fn letters(text: String, count: usize) -> String {
    text.repeat(count)
}

#[task]
async fn length(text: String) -> usize {
    text.len()
}

#[task]
async fn lengths(texts: Vec<String>) -> Vec<usize> {
    texts.iter().map(String::len).collect()
}

#[task]
async fn nothing() {}

/// Adds after nothing.
#[task]
async fn after(_unit: (), n: i64) -> i64 {
    n
}

#[task]
async fn how_many(units: Vec<()>) -> usize {
    units.len()
}

#[task]
async fn fail(message: String) -> Result<i64, TaskError> {
    Err(TaskError::new(message))
}

#[task]
async fn even(n: i64) -> Result<i64, TaskError> {
    if n % 2 == 0 {
        Ok(n)
    } else {
        Err(TaskError::new(format!("{n} is odd")))
    }
}

/// Notes that it ran, and passes the number on.
#[task]
async fn mark(n: i64, key: String) -> i64 {
    note(&key, n);
    n
}

/// The errback.
#[task]
async fn alert(failure: TaskFailure, key: String) {
    note(&key, format!("{}: {}", failure.name, failure.message));
}

/// Notes that it has started, and waits at the gate.
#[task]
async fn held(n: i64, gate: String) -> i64 {
    note(&gate, n);
    passed(&gate).await;
    n
}

#[task]
async fn outcomes(all: Vec<Result<i64, TaskFailure>>) -> Vec<String> {
    all.into_iter()
        .map(|one| match one {
            Ok(n) => n.to_string(),
            Err(failure) => format!("{}: {}", failure.name, failure.message),
        })
        .collect()
}

fn all_tasks() -> [chordal::TaskEntry; 16] {
    tasks![
        add, xsum, range, shout, letters, length, lengths, nothing, after, how_many, fail, even,
        mark, alert, held, outcomes
    ]
}

fn builder() -> AppBuilder {
    App::in_memory().tasks(all_tasks())
}

async fn app() -> App {
    builder().start().await.unwrap()
}

/// The value of a canvas, run by an app of its own.
async fn value<O: serde::de::DeserializeOwned>(canvas: Signature<(), O>) -> O {
    let app = app().await;
    let value = app.apply_async(canvas).await.unwrap().get().await.unwrap();
    app.shutdown().await.unwrap();
    value
}

/// The failure of a canvas, run by an app of its own.
async fn failure<O: serde::de::DeserializeOwned + std::fmt::Debug>(
    canvas: Signature<(), O>,
) -> TaskFailure {
    let app = app().await;
    let result = app.apply_async(canvas).await.unwrap();
    let failure = failure_of(&result).await;
    app.shutdown().await.unwrap();
    failure
}

async fn failure_of<O: serde::de::DeserializeOwned + std::fmt::Debug>(
    result: &AsyncResult<O>,
) -> TaskFailure {
    match result.get().await {
        Err(Error::Failed(failure)) => *failure,
        other => panic!("not a failure: {other:?}"),
    }
}

/// The id of node `seq` of a workflow: parents come before their children, these in order.
fn node(root: Id, seq: u128) -> Id {
    Id::from(uuid::Uuid::from_u128(root.as_uuid().as_u128() + seq))
}

/// Waits until node `seq` has ended, for a callback that no handle leads to.
async fn ended(app: &App, root: Id, seq: u128) {
    let callback = app.async_result::<Value>(node(root, seq)).await.unwrap();
    let _ = callback.get().await;
}
