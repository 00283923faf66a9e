//! Runs Celery's serialised canvases.
//!
//! ```text
//! cargo run --release --example celery_canvas -- FILE
//! ```
//!
//! Each line of FILE (`-` is standard input) is a JSON object: `id`, `canvas`, which is a signature
//! as Celery serialises it, and perhaps `apply` with the `args` and `kwargs` of the outermost
//! `apply_async`; other keys are not read. Each canvas runs until nothing of it does any more,
//! callbacks included. For each line one is printed, in the same order, with what became of it:
//!
//! | key | |
//! |---|---|
//! | `id` | as given |
//! | `state` | `SUCCESS`, `FAILURE` or `REVOKED`; of a group `SUCCESS` if all members succeeded |
//! | `result` or `error` | the value, or `{type, message}`; of a group the first failed member's |
//! | `children` | of a group that failed: the same of each member |
//! | `executions` | how often each task's function was entered |
//! | `errbacks` | how often an errback ran |
//! | `errback_log` | `[tag, how, failed task, type, message]` of each |
//! | `recorded` | what `record` and `note` wrote down: `[tag, value]` |
//!
//! The tasks are those of `tasks.rs`. A line that is no such object, or whose canvas is refused,
//! fails with a `CanvasError` that says why and where; the others run.

mod python;
mod report;
mod tasks;

use std::io::{self, Read, Write};
use std::process::ExitCode;
use std::{env, fs};

use anyhow::{Context, Result};
use chordal::{App, Canvas};
use futures_util::{StreamExt, stream};
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

/// How many canvases run at a time, and how many tasks of them.
const AT_A_TIME: usize = 256;

#[derive(Deserialize)]
struct Line {
    #[serde(default)]
    id: Value,
    /// Unread, so that what is wrong with it is said by who reads it.
    canvas: Box<RawValue>,
    apply: Option<Apply>,
}

/// What is known of a line that is not as it should be.
#[derive(Default, Deserialize)]
struct Named {
    #[serde(default)]
    id: Value,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Apply {
    args: Vec<Value>,
    kwargs: Map<String, Value>,
}

#[tokio::main]
async fn main() -> ExitCode {
    let Some(file) = env::args().nth(1) else {
        eprintln!("usage: celery_canvas FILE ('-' for standard input)");
        return ExitCode::from(2);
    };
    match run(&file).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(file: &str) -> Result<()> {
    let lines = read(file).with_context(|| format!("cannot read {file}"))?;
    let app = App::in_memory()
        .tasks(tasks::all())
        .concurrency(AT_A_TIME as u64)
        .start()
        .await?;
    let lines = lines.lines().filter(|line| !line.trim().is_empty());
    let mut outcomes = stream::iter(lines)
        .map(|line| outcome(&app, line))
        .buffered(AT_A_TIME);
    while let Some(outcome) = outcomes.next().await {
        writeln!(io::stdout(), "{outcome}")?;
    }
    drop(outcomes);
    Ok(app.shutdown().await?)
}

fn read(file: &str) -> io::Result<String> {
    if file != "-" {
        return fs::read_to_string(file);
    }
    let mut text = String::new();
    io::stdin().read_to_string(&mut text)?;
    Ok(text)
}

/// The line that is printed for `line`.
async fn outcome(app: &App, line: &str) -> Value {
    let (id, outcome) = match serde_json::from_str(line) {
        Ok(Line { id, canvas, apply }) => {
            let outcome = outcome_of(app, &canvas, apply.unwrap_or_default()).await;
            (id, outcome.map_err(|error| error.to_string()))
        }
        Err(error) => (id_of(line), Err(error.to_string())),
    };
    let outcome = outcome.unwrap_or_else(|reason| report::refused(&reason));
    let mut printed = json!({ "id": id });
    if let (Value::Object(printed), Value::Object(outcome)) = (&mut printed, outcome) {
        printed.extend(outcome);
    }
    printed
}

async fn outcome_of(app: &App, canvas: &RawValue, apply: Apply) -> chordal::Result<Value> {
    let mut canvas = Canvas::from_json(canvas.get())?;
    if !apply.args.is_empty() {
        canvas = canvas.with_args(apply.args);
    }
    if !apply.kwargs.is_empty() {
        canvas = canvas.with_kwargs(apply.kwargs);
    }
    report::outcome(app.apply_async(canvas).await?).await
}

fn id_of(line: &str) -> Value {
    serde_json::from_str::<Named>(line).unwrap_or_default().id
}
