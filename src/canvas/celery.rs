//! Celery's JSON form of a signature: read and written.
//!
//! `{"task", "args", "kwargs", "options", "subtask_type", "immutable"}`, where a chain, group or
//! chord is a task `celery.*` with its parts in `kwargs` (celery/canvas.py, `Signature`).

mod options;
mod read;
mod write;

use super::Canvas;
use super::freeze::Refusal;
use crate::error::Result;

/// What a signature is, by its task's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Task,
    Chain,
    Group,
    Chord,
    Map,
    Starmap,
    Chunks,
}

const CHAIN: &str = "celery.chain";
const GROUP: &str = "celery.group";
const CHORD: &str = "celery.chord";
const MAP: &str = "celery.map";
const STARMAP: &str = "celery.starmap";
const CHUNKS: &str = "celery.chunks";

impl Kind {
    fn of(task: &str) -> Self {
        match task {
            CHAIN => Self::Chain,
            GROUP => Self::Group,
            CHORD => Self::Chord,
            MAP => Self::Map,
            STARMAP => Self::Starmap,
            CHUNKS => Self::Chunks,
            _ => Self::Task,
        }
    }

    /// The task and the kind that go with a `subtask_type`.
    fn of_subtask(subtask: &str) -> Option<(&'static str, Self)> {
        match subtask {
            "chain" => Some((CHAIN, Self::Chain)),
            "group" => Some((GROUP, Self::Group)),
            "chord" => Some((CHORD, Self::Chord)),
            _ => None,
        }
    }
}

impl Canvas {
    /// Reads a signature as Celery serialises it: a task, `celery.chain`, `celery.group`,
    /// `celery.chord`, `celery.map`, `celery.starmap` or `celery.chunks`, with what is inside.
    ///
    /// As in Celery, a group directly in a group or in a chord's header gives its members to it,
    /// and an empty group is skipped in a chain. Otherwise than there a group always gives a list,
    /// also one of one, and always in the order written.
    ///
    /// ```
    /// # use chordal::prelude::*;
    /// # #[task] async fn add(x: i64, y: i64) -> i64 { x + y }
    /// # #[task] async fn xsum(xs: Vec<i64>, #[default] start: i64) -> i64 { start + xs.iter().sum::<i64>() }
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> chordal::Result<()> {
    /// # let app = App::in_memory().tasks(tasks![add, xsum]).start().await?;
    /// let canvas = Canvas::from_json(
    ///     r#"{"task": "celery.chord", "subtask_type": "chord", "kwargs": {
    ///         "header": [{"task": "add", "args": [1, 1]}, {"task": "add", "args": [2, 2]}],
    ///         "body": {"task": "xsum", "kwargs": {"start": 100}}}}"#,
    /// )?;
    /// assert_eq!(app.apply_async(canvas).await?.get().await?, serde_json::json!(106));
    /// # app.shutdown().await }
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Canvas`](crate::Error::Canvas) with the place and what was expected there, if the
    /// text is no signature, or has keys or options that chordal does not know. Names and
    /// arguments of tasks are checked when the canvas is submitted.
    pub fn from_json(text: &str) -> Result<Self> {
        read::read(text)
            .map_err(Refusal::outermost)
            .map_err(Into::into)
    }

    /// Writes the canvas as Celery's JSON; [`from_json`](Self::from_json) reads it again.
    ///
    /// ```
    /// # use chordal::prelude::*;
    /// let canvas = Canvas::task("add", (2,)).queue("sums");
    /// let json = r#"{"args":[2],"immutable":false,"kwargs":{},"options":{"queue":"sums"},"subtask_type":null,"task":"add"}"#;
    /// assert_eq!(canvas.to_json()?, json);
    /// # chordal::Result::Ok(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Canvas`](crate::Error::Canvas) with the place of what Celery has no form for:
    /// `each()`, `settled()`, an idempotency key, an empty group within a chain, arguments that
    /// JSON cannot carry.
    pub fn to_json(&self) -> Result<String> {
        write::write(self)
            .map(|value| value.to_string())
            .map_err(Refusal::outermost)
            .map_err(Into::into)
    }
}
