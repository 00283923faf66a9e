//! The text forms that a caller reads and writes: a canvas as Celery's JSON, and an id.

use std::str::FromStr;

use crate::canvas::id::Id;
use crate::canvas::outcome::shorten;
use crate::canvas::{Canvas, celery_json};
#[cfg(doc)]
use crate::error::SubmitError;
use crate::error::{Error, IdError, Result};

impl Canvas {
    /// Reads a signature as Celery serialises it: a task, `celery.chain`, `celery.group`,
    /// `celery.chord`, `celery.map`, `celery.starmap` or `celery.chunks`, with nested signatures.
    ///
    /// As in Celery, a group directly in a group or in a chord's header gives its members to it, a
    /// chain as a header gives its steps, an empty group is skipped in a chain, and a group of one
    /// that is a step of a chain counts as its member; so does a submitted group of one whose
    /// member gives the list of a group. Options of a chain apply to its first step, those of a
    /// chord to its body, those of a group to all its members, and override theirs. Unlike in
    /// Celery, a group always gives a list, even a group of one, and always in the order written.
    /// An errback that a chord and a chord in its header both have, as Celery writes
    /// `chord.link_error(…)`, runs once.
    ///
    /// Arguments may have the types that kombu tags (`{"__type__": "datetime", "__value__": …}`). A
    /// datetime, date, time of day or decimal is given to the task as its text, a UUID as text with
    /// hyphens, bytes as a list of numbers; Rust's types for these can be read from those forms.
    /// Integers of up to 128 bits keep every digit: an integer of more than 64 bits fits only
    /// `i128` or `u128`.
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
    /// [`SubmitError::Canvas`] with the path and the expected value, if the text is
    /// no signature, or has keys, options, tagged types or numbers that chordal does not know.
    /// Names and arguments of tasks are checked when the canvas is submitted.
    pub fn from_json(text: &str) -> Result<Self> {
        Ok(celery_json::from_json(text)?)
    }

    /// Writes the canvas as Celery's JSON; [`from_json`](Self::from_json) reads it again. Options
    /// are written on the tasks to which they apply, because Celery passes those of a chain or
    /// chord on differently than [`Signature::queue`](crate::Signature::queue).
    ///
    /// ```
    /// # use chordal::prelude::*;
    /// let json = Canvas::task("add", (2,)).queue("sums").to_json()?;
    /// let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    /// assert_eq!(json["args"], serde_json::json!([2]));
    /// assert_eq!(json["options"], serde_json::json!({"queue": "sums"}));
    /// # Ok::<(), chordal::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`SubmitError::Canvas`] with the path of a part that has no form in Celery:
    /// `each()`, `settled()`, `fold()`, an idempotency key, an empty group within a chain, a group
    /// of one that Celery would take for its member, arguments that JSON cannot represent, integers
    /// of more than 64 bits.
    pub fn to_json(&self) -> Result<String> {
        Ok(celery_json::to_json(self)?)
    }
}

impl FromStr for Id {
    type Err = Error;

    /// Parses the format that [`Display`](std::fmt::Display) writes.
    ///
    /// ```
    /// let error = "order 7".parse::<chordal::Id>().unwrap_err();
    /// assert!(matches!(error, chordal::Error::Id(chordal::IdError::Invalid { .. })));
    /// assert!(error.to_string().starts_with("`order 7` is not an id: "));
    /// ```
    fn from_str(text: &str) -> Result<Self, Error> {
        Self::parse(text).map_err(|error| {
            Error::Id(IdError::Invalid {
                text: shorten(text),
                reason: error.to_string(),
            })
        })
    }
}
