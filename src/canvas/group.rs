//! Groups: members in parallel, values in member order.

use super::{Accepts, Canvas, Signature};

/// The members in parallel, each with the same value from upstream; gives the list of their
/// values in member order, whatever the order they end in. If members fail, all others still
/// run, and the group fails with the failure of the lowest of them; see also
/// [`settled`](Signature::settled). An empty group gives an empty list.
///
/// The iterator is drawn when the canvas is submitted, once, and its members are written to the
/// store as they come: a group may be larger than memory. No member starts before the last has been
/// drawn, however slow the iterator is: until then nothing has been submitted. More than a few are drawn on a thread
/// where blocking is no harm, so that they may come from a file or a channel; if the iterator
/// panics, so does the submission. (What promises no more than 16 members is drawn at once. A clone
/// shares the members; where both are submitted, [`to_json`](Canvas::to_json) looks inside, or a
/// running task starts the canvas, they are collected.)
///
/// ```
/// # use chordal::prelude::*;
/// # #[task] async fn add(x: i64, y: i64) -> i64 { x + y }
/// let doubled: Signature<(), Vec<i64>> = group((0..4).map(|i| add.s(i, i)));
/// let shifted: Signature<i64, Vec<i64>> = group((0..4).map(|i| add.partial(i)));
/// ```
pub fn group<I, M>(
    members: impl IntoIterator<Item = M, IntoIter: Send + 'static>,
) -> Signature<I, Vec<M::Output>>
where
    I: 'static,
    M: Accepts<I> + 'static,
{
    Signature::from_canvas(Canvas::group(members.into_iter().map(Accepts::into_canvas)))
}

/// A group of members with different types; what [`group!`](crate::group!) calls.
///
/// ```
/// # use chordal::prelude::*;
/// # #[task] async fn add(x: i64, y: i64) -> i64 { x + y }
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> chordal::Result<()> {
/// # let app = App::in_memory().tasks(tasks![add]).start().await?;
/// let pair = chordal::group_of((add.s(1, 1), add.s(2, 2)));
/// assert_eq!(app.apply_async(pair).await?.get().await?, (2, 4));
/// # app.shutdown().await }
/// ```
pub fn group_of<I, M: Members<I>>(members: M) -> Signature<I, M::Outputs> {
    Signature::from_canvas(Canvas::group_of_list(members.into_canvases()))
}

/// The members in parallel; gives the tuple of their values. For members of different types, up
/// to twelve.
///
/// ```
/// # use chordal::prelude::*;
/// # #[task] async fn add(x: i64, y: i64) -> i64 { x + y }
/// # #[task] async fn shout(text: String) -> String { text.to_uppercase() }
/// # #[task] async fn join(both: (i64, String)) -> String { format!("{}{}", both.0, both.1) }
/// let text = group!(add.s(2, 2), shout.s("x".into())) | join.partial();
/// ```
#[macro_export]
macro_rules! group {
    ($($member:expr),+ $(,)?) => {
        $crate::group_of(($($member,)+))
    };
}

/// A tuple of signatures that take the same `I` from upstream.
#[diagnostic::on_unimplemented(
    message = "the members of this group do not all take `{I}` from upstream",
    note = "every member of a group gets the same value; `task.si(..)` ignores it"
)]
pub trait Members<I> {
    /// The tuple of what they give.
    type Outputs;

    #[doc(hidden)]
    fn into_canvases(self) -> Vec<Canvas>;
}

macro_rules! tuples {
    ($($member:ident)+) => {
        impl<Upstream, $($member: Accepts<Upstream>),+> Members<Upstream> for ($($member,)+) {
            type Outputs = ($($member::Output,)+);

            fn into_canvases(self) -> Vec<Canvas> {
                #[allow(non_snake_case)]
                let ($($member,)+) = self;
                vec![$($member.into_canvas()),+]
            }
        }
    };
}

tuples!(A);
tuples!(A B);
tuples!(A B C);
tuples!(A B C D);
tuples!(A B C D E);
tuples!(A B C D E F);
tuples!(A B C D E F G);
tuples!(A B C D E F G H);
tuples!(A B C D E F G H J);
tuples!(A B C D E F G H J K);
tuples!(A B C D E F G H J K L);
tuples!(A B C D E F G H J K L M);
