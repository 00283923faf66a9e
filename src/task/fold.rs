//! Folds of groups: `fold` and `fold_unordered`.

use serde::Serialize;

use super::Task;
use crate::canvas::{Immutable, Order, Signature};
#[cfg(doc)]
use crate::error::ContextError;

impl<I, O> Signature<I, Vec<O>> {
    /// Folds the values of this group one after the other in member order, as [`Iterator::fold`]
    /// does: `task` is called with the accumulator, which starts as `init`, and a value, and
    /// returns the next accumulator. Members start at most some thousand ahead of the fold, so that
    /// neither memory nor the amount read grows with their number. Refused at submission if there
    /// is no group.
    ///
    /// ```
    /// # use chordal::prelude::*;
    /// # #[task] async fn square(n: i64) -> i64 { n * n }
    /// #[task]
    /// async fn add(total: i64, item: i64) -> i64 {
    ///     total + item
    /// }
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> chordal::Result<()> {
    /// # let app = App::in_memory().tasks(tasks![square, add]).start().await?;
    /// let sum = app.apply_async(group((1..=3).map(|n| square.s(n))).fold(100, add)).await?;
    /// assert_eq!(sum.get().await?, 114);
    /// # app.shutdown().await }
    /// ```
    ///
    /// One attempt of `task` folds the available values: up to 1,024, or about 64 KB. At its end
    /// the accumulator is stored together with the number of values that it contains. So each value
    /// is in it exactly once, whatever crashes; the calls themselves may repeat, as with any task.
    /// Retries and time limits apply to one attempt, and each run has all its retries. Queue,
    /// priority and `blocking` apply as for any task. Options set on the fold apply to `task`, and
    /// to members without their own; `countdown`, `eta` and `expires` apply to the first run of
    /// `task`. The accumulator is stored once per run and encoded once per call: keep it small.
    /// `task` cannot be replaced, call or add to a chord
    /// ([`ContextError::WorkInFold`]).
    ///
    /// If a member fails, no further value is folded, the other members still run, and the fold
    /// fails as a chord does, with a `ChordError` that names the lowest failed member; the
    /// accumulator is discarded. A [settled](Self::settled) group gives `task` every outcome. If
    /// `task` itself fails for good, the fold fails with its failure, once all members have ended.
    /// An empty group gives `init`.
    pub fn fold<A, T>(self, init: A, task: T) -> Signature<I, A>
    where
        A: Serialize,
        T: Task<Args = (A, O), Output = A>,
    {
        let _ = task;
        let canvas = self.into_canvas();
        Signature::from_canvas(canvas.folded(&init, T::NAME.into(), Order::Members, false))
    }

    /// Folds as [`fold`](Self::fold) does, in the order in which the members end, so that no value
    /// waits for a slow member before it. After a crash the order of the recorded values stays the
    /// same.
    ///
    /// ```
    /// # use chordal::prelude::*;
    /// # #[task] async fn measure(word: String) -> usize { word.len() }
    /// #[task]
    /// async fn longest(most: usize, length: usize) -> usize {
    ///     most.max(length)
    /// }
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> chordal::Result<()> {
    /// # let app = App::in_memory().tasks(tasks![measure, longest]).start().await?;
    /// let words = ["axe", "hammer", "saw"].map(|word| measure.s(word.into()));
    /// let most = app.apply_async(group(words).fold_unordered(0, longest)).await?;
    /// assert_eq!(most.get().await?, 6);
    /// # app.shutdown().await }
    /// ```
    pub fn fold_unordered<A, T>(self, init: A, task: T) -> Signature<I, A>
    where
        A: Serialize,
        T: Task<Args = (A, O), Output = A>,
    {
        let _ = task;
        let canvas = self.into_canvas();
        Signature::from_canvas(canvas.folded(&init, T::NAME.into(), Order::Arrivals, false))
    }
}

impl<O> Immutable<Vec<O>> {
    /// As [`Signature::fold`].
    ///
    /// ```
    /// # use chordal::prelude::*;
    /// # #[task] async fn double(n: i64) -> i64 { 2 * n }
    /// # #[task] async fn add(total: i64, part: Vec<i64>) -> i64 { total + part.iter().sum::<i64>() }
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> chordal::Result<()> {
    /// # let app = App::in_memory().tasks(tasks![double, add]).start().await?;
    /// let chunks = double.chunks((1..=5).map(|n| (n,)), 2);
    /// assert_eq!(app.apply_async(chunks.fold(0, add)).await?.get().await?, 30);
    /// # app.shutdown().await }
    /// ```
    pub fn fold<A, T>(self, init: A, task: T) -> Immutable<A>
    where
        A: Serialize,
        T: Task<Args = (A, O), Output = A>,
    {
        let _ = task;
        let canvas = self.into_canvas();
        Immutable::from_canvas(canvas.folded(&init, T::NAME.into(), Order::Members, false))
    }

    /// As [`Signature::fold_unordered`].
    ///
    /// ```
    /// # use chordal::prelude::*;
    /// # #[task] async fn double(n: i64) -> i64 { 2 * n }
    /// # #[task] async fn add(total: i64, part: Vec<i64>) -> i64 { total + part.iter().sum::<i64>() }
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> chordal::Result<()> {
    /// # let app = App::in_memory().tasks(tasks![double, add]).start().await?;
    /// let chunks = double.chunks((1..=5).map(|n| (n,)), 2);
    /// assert_eq!(app.apply_async(chunks.fold_unordered(0, add)).await?.get().await?, 30);
    /// # app.shutdown().await }
    /// ```
    pub fn fold_unordered<A, T>(self, init: A, task: T) -> Immutable<A>
    where
        A: Serialize,
        T: Task<Args = (A, O), Output = A>,
    {
        let _ = task;
        let canvas = self.into_canvas();
        Immutable::from_canvas(canvas.folded(&init, T::NAME.into(), Order::Arrivals, false))
    }
}
