//! The engine against what was recorded, what is promised and what the model says, with the tasks
//! of `examples/celery_canvas`.
//!
//! | variable | default | |
//! |---|---|---|
//! | `CHORDAL_CELERY_CANVASES` | 10000 | random canvases; a thirtieth as many with a restart |
//! | `CHORDAL_CELERY_SEED` | 0 | the first one's seed: with `CHORDAL_CELERY_CANVASES=1` that one again |

use std::collections::BTreeMap;
use std::env;
use std::time::Duration;

use chordal::persistence::MemoryStore;
use chordal::prelude::*;
use futures_util::{StreamExt, stream};
use serde_json::{Value, json};

use crate::cases::{self, Case};
use crate::compare::agree;
use crate::generator::{Generated, generate};
use crate::{model, quirks, report, tasks};

/// How many canvases run at a time.
const AT_A_TIME: usize = 128;
/// How many that went wrong are shown.
const SHOWN: usize = 5;
/// Only a broken engine needs that long.
const STUCK: Duration = Duration::from_secs(60);

#[test]
fn every_recorded_case_ends_as_it_did_in_celery() {
    assert_all(cases::recorded());
}

#[test]
fn where_celery_is_wrong_canvases_end_as_promised() {
    assert_all(quirks::promised());
}

#[test]
fn random_canvases_end_as_the_model_says() {
    assert_all(seeds(1).map(random));
}

#[test]
fn random_canvases_end_as_the_model_says_after_a_restart_in_the_middle() {
    block_on(async {
        let checks = stream::iter(seeds(30).map(random)).map(restarted);
        assert_none(checks.buffer_unordered(8)).await;
    });
}

pub(crate) fn seeds(share: u64) -> impl Iterator<Item = u64> {
    let number = |name, default: u64| match env::var(name) {
        Ok(number) => number.parse().unwrap(),
        Err(_) => default,
    };
    let canvases = number("CHORDAL_CELERY_CANVASES", 10_000).div_ceil(share);
    let first = number("CHORDAL_CELERY_SEED", 0);
    first..first + canvases
}

pub(crate) fn random(seed: u64) -> Case {
    let Generated { canvas, apply } = generate(seed);
    Case {
        id: format!("seed {seed}"),
        expect: model::outcome(&canvas, apply.as_ref()),
        canvas,
        apply,
    }
}

/// All of them in one app, many at a time.
fn assert_all(cases: impl IntoIterator<Item = Case>) {
    block_on(async {
        let app = open(MemoryStore::new()).await;
        let checks = stream::iter(cases).map(|case| check(&app, case));
        assert_none(checks.buffer_unordered(AT_A_TIME)).await;
        app.shutdown().await.unwrap();
    });
}

/// `None` if the case ends as it is to.
async fn check(app: &App, case: Case) -> Option<String> {
    let outcome = async {
        let result = app.apply_async(canvas(&case)?).await?;
        report::outcome(result).await
    };
    let outcome = in_time(outcome).await;
    difference(&case, &outcome, agree)
}

/// The same with a restart once some of its tasks were entered. Tasks may then run again; all else
/// is as it would have been.
async fn restarted(case: Case) -> Option<String> {
    let total: u64 = executions(&case.expect).values().sum();
    let outcome = async {
        let store = MemoryStore::new();
        let app = open(store.clone()).await;
        let id = app.apply_async(canvas(&case)?).await?.id();
        if total > 0 {
            let seed = case.canvas.to_string().len() as u64;
            tasks::entered(id, 1 + seed % total).await;
        }
        app.shutdown().await?;
        let app = open(store).await;
        let outcome = report::outcome(app.async_result(id).await?).await;
        app.shutdown().await?;
        outcome
    };
    let outcome = in_time(outcome).await;
    difference(&case, &outcome, |expected, actual| {
        let (expected_runs, runs) = (executions(expected), executions(actual));
        let is_more = |(task, times): (&String, &u64)| runs.get(task).is_some_and(|n| n >= times);
        if expected_runs.len() != runs.len() || !expected_runs.iter().all(is_more) {
            return Err(format!(
                "executions: expected at least {expected_runs:?}, got {runs:?}"
            ));
        }
        let without = |outcome: &Value| {
            let mut outcome = outcome.clone();
            outcome["executions"] = json!({});
            outcome
        };
        agree(&without(expected), &without(actual))
    })
}

fn executions(outcome: &Value) -> BTreeMap<String, u64> {
    serde_json::from_value(outcome["executions"].clone()).unwrap_or_default()
}

pub(crate) fn canvas(case: &Case) -> chordal::Result<Canvas> {
    let mut canvas = Canvas::from_json(&case.canvas.to_string())?;
    let apply = case.apply.as_ref();
    if let Some(args) = apply.and_then(|apply| apply.get("args")) {
        canvas = canvas.with_args(args);
    }
    if let Some(kwargs) = apply.and_then(|apply| apply.get("kwargs")) {
        canvas = canvas.with_kwargs(kwargs);
    }
    Ok(canvas)
}

pub(crate) async fn in_time(outcome: impl Future<Output = chordal::Result<Value>>) -> Value {
    match tokio::time::timeout(STUCK, outcome).await {
        Ok(Ok(outcome)) => outcome,
        Ok(Err(error)) => json!({"state": "no outcome", "error": {"message": error.to_string()}}),
        Err(_) => json!({"state": "no rest"}),
    }
}

pub(crate) fn difference(
    case: &Case,
    outcome: &Value,
    agree: impl FnOnce(&Value, &Value) -> Result<(), String>,
) -> Option<String> {
    let why = agree(&case.expect, outcome).err()?;
    let Case {
        id,
        canvas,
        apply,
        expect,
    } = case;
    let apply = json!(apply);
    Some(format!(
        "{id}: {why}\n  canvas   {canvas}\n  apply    {apply}\n  expected {expect}\n  actual   {outcome}"
    ))
}

async fn assert_none(differences: impl stream::Stream<Item = Option<String>>) {
    let all: Vec<_> = differences.collect().await;
    let wrong: Vec<_> = all.iter().flatten().take(SHOWN).cloned().collect();
    let count = all.iter().flatten().count();
    assert!(
        count == 0,
        "{count} of {}, the first of them:\n{}",
        all.len(),
        wrong.join("\n")
    );
}

async fn open(store: MemoryStore) -> App {
    let app = App::with_store(store).tasks(tasks::all());
    app.concurrency(AT_A_TIME as u64).start().await.unwrap()
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Runtime::new().unwrap().block_on(future)
}
