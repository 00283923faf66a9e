//! Groups: members in parallel, values in member order.

use super::{Accepts, Canvas, Signature};

/// Runs the members in parallel, each with the same upstream value, and gives the list of their
/// values in member order, whatever the order in which they end. If members fail, all others still
/// run, and the group fails with the failure of the lowest failed index; see also
/// [`settled`](Signature::settled). An empty group gives an empty list.
///
/// The iterator is drawn once, when the canvas is submitted, and the members are written to the
/// store as they are drawn, so a group may be larger than memory. No member starts before the last
/// one is drawn, however slow the iterator is: until then nothing has been submitted. More than a
/// few members are drawn on a thread that may block, so they may come from a file or a channel. If
/// the iterator panics, the submission panics too. (An iterator that promises at most 16 members is
/// drawn at once. A clone shares the members. If both are submitted, [`to_json`](Canvas::to_json)
/// inspects one, or a running task starts the canvas, the members are collected.)
///
/// Because it is drawn later, the iterator must not borrow. To keep the source list, collect the
/// members first. For members with different output types, use [`group!`](crate::group!).
///
/// ```
/// # use chordal::prelude::*;
/// # #[task] async fn add(x: i64, y: i64) -> i64 { x + y }
/// let doubled: Signature<(), Vec<i64>> = group((0..4).map(|i| add.s(i, i)));
/// let shifted: Signature<i64, Vec<i64>> = group((0..4).map(|i| add.partial(i)));
/// let kept = vec![1, 2, 3];
/// let squares = group(kept.iter().map(|i| add.s(*i, *i)).collect::<Vec<_>>());
/// ```
pub fn group<I, M>(
    // The compiler shows the next line to the author of an iterator that borrows.
    members: impl IntoIterator<Item = M, IntoIter: Send + 'static>, // drawn later: `.collect::<Vec<_>>()` what borrows
) -> Signature<I, Vec<M::Output>>
where
    I: 'static,
    M: Accepts<I> + 'static,
{
    Signature::from_canvas(Canvas::group(members.into_iter().map(Accepts::into_canvas)))
}

/// Creates a group of members with different types; [`group!`](crate::group!) calls it.
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
pub fn group_of<I, M, O>(members: M) -> Signature<I, O>
where
    M: Members<I, Outputs = O>, // not `M::Outputs`, of which the compiler would complain a second time
{
    Signature::from_canvas(Canvas::group_of_list(members.into_canvases()))
}

/// Runs the members in parallel and gives the tuple of their values, for up to twelve members with
/// different types.
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
    label = "the members are `{Self}`",
    note = "every member of a group gets the same value; `task.si(..)` ignores it"
)]
pub trait Members<I> {
    /// The tuple of the members' values.
    type Outputs;

    #[doc(hidden)]
    fn into_canvases(self) -> Vec<Canvas>;
}

macro_rules! tuples {
    ($($member:ident)+) => {
        // Makes the compiler name the group and its upstream value once, instead of each member's
        // trait.
        #[diagnostic::do_not_recommend]
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
