//! Folds: a group whose values go into an accumulator one after the other.

use std::borrow::Cow;

use serde::Serialize;

use super::form::{Canvas, FoldSig, Form, Order};
use super::outcome::ListOf;
use super::payload::Payload;

impl Canvas {
    /// Folds the values of the group, as [`Signature::fold`](crate::Signature::fold) does: `task`
    /// is called with the accumulator, which starts as `init`, and one value.
    ///
    /// ```
    /// # use chordal::prelude::*;
    /// # #[task] async fn add(x: i64, y: i64) -> i64 { x + y }
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> chordal::Result<()> {
    /// # let app = App::in_memory().tasks(tasks![add]).start().await?;
    /// let members = (0..4).map(|i| Canvas::task("add", (i, i)));
    /// let sum = app.apply_async(Canvas::group(members).fold(100, "add")).await?;
    /// assert_eq!(sum.get().await?, serde_json::json!(112));
    /// # app.shutdown().await }
    /// ```
    pub fn fold(self, init: impl Serialize, task: impl Into<Cow<'static, str>>) -> Self {
        self.folded(&init, task.into(), Order::Members, true)
    }

    /// Folds as [`fold`](Self::fold) does, in the order in which the members end.
    ///
    /// ```
    /// # use chordal::prelude::*;
    /// # #[task] async fn add(x: i64, y: i64) -> i64 { x + y }
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> chordal::Result<()> {
    /// # let app = App::in_memory().tasks(tasks![add]).start().await?;
    /// let members = (0..4).map(|i| Canvas::task("add", (i, i)));
    /// let sum = app.apply_async(Canvas::group(members).fold_unordered(100, "add")).await?;
    /// assert_eq!(sum.get().await?, serde_json::json!(112));
    /// # app.shutdown().await }
    /// ```
    pub fn fold_unordered(self, init: impl Serialize, task: impl Into<Cow<'static, str>>) -> Self {
        self.folded(&init, task.into(), Order::Arrivals, true)
    }

    pub(crate) fn folded(
        self,
        init: &impl Serialize,
        task: Cow<'static, str>,
        order: Order,
        dynamic: bool,
    ) -> Self {
        match Payload::encode(init) {
            Ok(init) => self.fold_last(task, init, order, dynamic),
            Err(error) => Self::refused(format!("the first value of {}: {error}", order.name())),
        }
    }

    /// Folds this canvas if it is a group, or the group that it ends in.
    fn fold_last(
        mut self,
        task: Cow<'static, str>,
        init: Payload,
        order: Order,
        dynamic: bool,
    ) -> Self {
        let reason = match &mut self.form {
            Form::Group { policy, .. } | Form::Each { policy, .. } => {
                if policy.list_of() == ListOf::Successes {
                    return Self::refused(format!(
                        "{} takes in every value as it comes, and {} chooses among them at the end",
                        order.name(),
                        policy.call().unwrap_or_default()
                    ));
                }
                return Self::nested(Form::Fold(Box::new(FoldSig {
                    header: self,
                    task,
                    init,
                    order,
                    dynamic,
                })));
            }
            Form::Chain(steps, depth) if !steps.is_empty() => {
                let last = steps.pop().expect("not empty");
                let last = last.fold_last(task, init, order, dynamic);
                *depth = last.depth().max(*depth);
                steps.push(last);
                return self.bounded();
            }
            Form::Chord { body, .. } => {
                let last = std::mem::replace(&mut **body, Self::chain([]));
                **body = last.fold_last(task, init, order, dynamic);
                return self.bounded();
            }
            Form::Refused(_) => return self,
            Form::Task(sig) => format!("`{}` is a task", sig.name),
            Form::Chain(..) => "this is an empty chain".to_owned(),
            Form::Fold(_) => "this is a fold".to_owned(),
        };
        Self::refused(format!("{} needs a group; {reason}", order.name()))
    }
}
