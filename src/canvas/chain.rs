//! Chains: steps one after the other, each with the value of the step before it.

use std::ops::BitOr;

use super::form::{Canvas, Form};
use super::signature::{Accepts, Signature};

/// Runs the steps one after the other, each with the value of the step before it. Steps of
/// different types are joined with `|`. A chain without steps passes its value on.
///
/// ```
/// # use chordal::prelude::*;
/// # #[task] async fn add(x: i64, y: i64) -> i64 { x + y }
/// let sum = add.s(2, 2) | chain([4, 8, 16].map(|n| add.partial(n)));
/// ```
pub fn chain<T, S>(steps: impl IntoIterator<Item = S>) -> Signature<T, T>
where
    S: Accepts<T, Output = T>,
{
    Signature::from_canvas(Canvas::chain(steps.into_iter().map(Accepts::into_canvas)))
}

impl Canvas {
    /// Creates a chain: the steps run one after the other, each with the value of the step before
    /// it.
    ///
    /// ```
    /// # use chordal::prelude::*;
    /// # #[task] async fn add(x: i64, y: i64) -> i64 { x + y }
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> chordal::Result<()> {
    /// # let app = App::in_memory().tasks(tasks![add]).start().await?;
    /// let steps = [1, 2, 3].map(|n| Canvas::task("add", (n,)));
    /// let canvas = Canvas::chain(steps).with_args((0,));
    /// assert_eq!(app.apply_async(canvas).await?.get().await?, serde_json::json!(6));
    /// # app.shutdown().await }
    /// ```
    pub fn chain(steps: impl IntoIterator<Item = Self>) -> Self {
        steps
            .into_iter()
            .fold(Self::from_form(Form::Chain(Vec::new(), 0)), Self::then)
    }

    /// Appends `next`, which takes the value of `self`: a chain, or a chord when `self` ends in a
    /// group (celery/canvas.py, `group.__or__`).
    pub(crate) fn then(mut self, next: Self) -> Self {
        let next = match next {
            Self {
                form: Form::Chain(steps, _),
                extras: None,
            } => return steps.into_iter().fold(self, Self::then),
            next => next,
        };
        match &mut self.form {
            Form::Chain(steps, depth) if self.extras.is_none() => {
                match steps.pop() {
                    Some(last) => steps.extend(last.followed_by(next)),
                    None => steps.push(next),
                }
                let new = steps.iter().rev().take(2).map(Self::depth).max();
                *depth = new.unwrap_or(0).max(*depth);
                self.bounded()
            }
            _ => {
                let mut steps = self.followed_by(next);
                if steps.len() == 1 {
                    steps.remove(0)
                } else {
                    let depth = steps.iter().map(Self::depth).max().unwrap_or(0);
                    Self::nested(Form::Chain(steps, depth))
                }
            }
        }
    }

    /// Joins the last step of a chain with the next one: one chord, or two steps.
    fn followed_by(self, next: Self) -> Vec<Self> {
        match self.form {
            Form::Group { .. } | Form::Each { .. } => vec![Self::nested(Form::Chord {
                header: Box::new(self),
                body: Box::new(next),
            })],
            _ => vec![self, next],
        }
    }
}

impl BitOr for Canvas {
    type Output = Self;

    fn bitor(self, next: Self) -> Self {
        self.then(next)
    }
}
