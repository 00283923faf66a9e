//! Chords: a group, and a body that runs once after all members have ended.

use super::form::Canvas;
use super::signature::{Accepts, Signature};

/// Creates `header | body`: the body gets the header's values, in member order, once all of them
/// are available. If a member fails, the others still run, then the chord fails with that member's
/// failure, and the body never runs. With [`settled`](Signature::settled) on the header the body
/// always runs. An empty header runs the body with an empty list.
///
/// The header is a group, or the members themselves, as [`group`](crate::group()) takes them.
///
/// ```
/// # use chordal::prelude::*;
/// # #[task] async fn add(x: i64, y: i64) -> i64 { x + y }
/// # #[task] async fn xsum(xs: Vec<i64>) -> i64 { xs.iter().sum() }
/// let ninety = chord(group((0..10).map(|i| add.s(i, i))), xsum.partial());
/// let six = chord([add.s(1, 1), add.s(2, 2)], xsum.partial());
/// ```
pub fn chord<I, H, V, B, O>(header: H, body: B) -> Signature<I, O>
where
    H: Header<I, Values = V>,
    B: Accepts<V, Output = O>, // not `B::Output`, of which the compiler would complain a second time
{
    Signature::from_canvas(header.into_group().then(body.into_canvas()))
}

impl Canvas {
    /// Creates a chord: the header's members run in parallel, then `body` runs with the list of
    /// their values.
    ///
    /// ```
    /// # use chordal::prelude::*;
    /// # #[task] async fn add(x: i64, y: i64) -> i64 { x + y }
    /// # #[task] async fn xsum(xs: Vec<i64>) -> i64 { xs.iter().sum() }
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> chordal::Result<()> {
    /// # let app = App::in_memory().tasks(tasks![add, xsum]).start().await?;
    /// let header = (0..3).map(|i| Canvas::task("add", (i, i)));
    /// let canvas = Canvas::chord(header, Canvas::task("xsum", ()));
    /// assert_eq!(app.apply_async(canvas).await?.get().await?, serde_json::json!(6));
    /// # app.shutdown().await }
    /// ```
    pub fn chord(
        header: impl IntoIterator<Item = Self, IntoIter: Send + 'static>,
        body: Self,
    ) -> Self {
        Self::group(header).then(body)
    }
}

/// The header of a chord: a group, or members that take the same upstream value `I`.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not the header of a chord",
    label = "this is neither a group nor a list of signatures that take `{I}`",
    note = "write `chord(group(members), body)`, `chord([a, b], body)`, or for members of different types `chord(group!(a, b), body)`"
)]
pub trait Header<I> {
    /// The value that the body gets.
    type Values;

    #[doc(hidden)]
    fn into_group(self) -> Canvas;
}

impl<I, H> Header<I> for Signature<I, H> {
    type Values = H;

    fn into_group(self) -> Canvas {
        self.into_canvas()
    }
}

#[diagnostic::do_not_recommend]
impl<I, M, L> Header<I> for L
where
    I: 'static,
    L: IntoIterator<Item = M, IntoIter: Send + 'static>,
    M: Accepts<I> + 'static,
{
    type Values = Vec<M::Output>;

    fn into_group(self) -> Canvas {
        Canvas::group(self.into_iter().map(Accepts::into_canvas))
    }
}
