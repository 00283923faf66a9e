//! Folds of groups: `fold` and `fold_unordered`.

use serde::Serialize;

use super::Task;
use crate::canvas::{Immutable, Order, Signature};

impl<I, O> Signature<I, Vec<O>> {
    /// Takes in what the members of this group give, one after the other in member order, as
    /// [`Iterator::fold`] does: `task` is called with the accumulator, at first `init`, and a value,
    /// and gives the next accumulator. Members start only some thousand ahead of what has been
    /// taken in, so that neither memory nor what is read grows with their number. Refused when
    /// submitted if there is no group.
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
    /// `task` runs over what is there: up to 1,024 values, or some 64 KB of them, are one attempt, at
    /// whose end the accumulator is stored together with how many values it holds. So each value is
    /// in it exactly once, whatever crashes; the calls themselves may repeat, as those of any task.
    /// Retries and time limits are those of one attempt, and each run has all its retries; queue,
    /// priority and `blocking` hold as for any task; options set on the fold are those of `task`, and of
    /// the members that have none of their own; `countdown`, `eta` and `expires` are for the first run
    /// of `task`. The accumulator is stored once a run
    /// and encoded once a call: keep it small. `task` cannot be replaced, call or add to a chord
    /// ([`Error::WorkInFold`](crate::Error::WorkInFold)).
    ///
    /// If a member fails, nothing more is taken in, the other members still run, and the fold fails
    /// as a chord does, with a `ChordError` that names the lowest member that failed; what is in
    /// the accumulator by then is given up. A [settled](Self::settled) group gives `task` every
    /// outcome. If `task` itself fails for good, the fold has its failure, once all members have
    /// ended. An empty group gives `init`.
    pub fn fold<A, T>(self, init: A, task: T) -> Signature<I, A>
    where
        A: Serialize,
        T: Task<Args = (A, O), Output = A>,
    {
        let _ = task;
        let canvas = self.into_canvas();
        Signature::from_canvas(canvas.folded(&init, T::NAME.into(), Order::Members, false))
    }

    /// As [`fold`](Self::fold), in the order in which the members end: none waits for a slow one
    /// before it. After a crash the order is the same for what had been recorded.
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
