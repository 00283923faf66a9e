//! Chains of steps with one type; steps of different types are joined with `|`.

use super::{Accepts, Canvas, Signature};

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
