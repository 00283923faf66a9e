//! One task with its arguments.

use std::borrow::Cow;

use serde::Serialize;

use super::form::{Canvas, Form, Mode, Origin, TaskSig};
use super::payload::Payload;

impl Canvas {
    /// Creates a task by its registered name; `args` is a tuple or list of arguments. In a chain
    /// the upstream value goes before them.
    ///
    /// ```
    /// # use chordal::prelude::*;
    /// # #[task] async fn add(x: i64, y: i64) -> i64 { x + y }
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> chordal::Result<()> {
    /// # let app = App::in_memory().tasks(tasks![add]).start().await?;
    /// let canvas = Canvas::task("add", (2, 2)) | Canvas::task("add", (4,));
    /// assert_eq!(app.apply_async(canvas).await?.get().await?, serde_json::json!(8));
    /// # app.shutdown().await }
    /// ```
    pub fn task(name: impl Into<Cow<'static, str>>, args: impl Serialize) -> Self {
        Self::from_sig(name.into(), &args, true)
    }

    /// Creates a task as [`Canvas::task`] does; the task ignores the upstream value.
    ///
    /// ```
    /// # use chordal::prelude::*;
    /// # #[task] async fn add(x: i64, y: i64) -> i64 { x + y }
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> chordal::Result<()> {
    /// # let app = App::in_memory().tasks(tasks![add]).start().await?;
    /// let canvas = Canvas::task("add", (2, 2)) | Canvas::immutable("add", (1, 1));
    /// assert_eq!(app.apply_async(canvas).await?.get().await?, serde_json::json!(2));
    /// # app.shutdown().await }
    /// ```
    pub fn immutable(name: impl Into<Cow<'static, str>>, args: impl Serialize) -> Self {
        Self::from_sig(name.into(), &args, false)
    }

    fn from_sig(name: Cow<'static, str>, args: &impl Serialize, takes_upstream: bool) -> Self {
        match Payload::encode(args).and_then(|args| arguments(&args)) {
            Ok((args, count)) => Self::from_form(Form::Task(TaskSig {
                name,
                args,
                count,
                mode: Mode::Once,
                takes_upstream,
                origin: Origin::Built,
            })),
            Err(error) => Self::refused(format!("arguments of `{name}`: {error}")),
        }
    }
}

/// Returns the encoded arguments without their list header, and their number.
pub(crate) fn arguments(args: &Payload) -> Result<(Payload, u32), String> {
    let mut rest = args.bytes();
    // A unit is "no arguments"; MessagePack writes it as nil, not as an empty list.
    if rest == [rmp::Marker::Null.to_u8()] {
        return Ok((Payload::from(Vec::new()), 0));
    }
    let count = rmp::decode::read_array_len(&mut rest)
        .map_err(|_| "must be a tuple or a list".to_owned())?;
    Ok((Payload::from(rest.to_vec()), count))
}
