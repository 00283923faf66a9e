//! Groups: members in parallel, values in member order.

use super::form::{Canvas, Form, LazyMembers};
use super::group_policy::GroupPolicy;
use super::signature::{Accepts, Signature};

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

impl Canvas {
    /// Creates a group: the members run in parallel, and its value is the list of their values, in
    /// member order. As with [`group()`], the iterator is drawn when the canvas is submitted.
    ///
    /// ```
    /// # use chordal::prelude::*;
    /// # #[task] async fn add(x: i64, y: i64) -> i64 { x + y }
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> chordal::Result<()> {
    /// # let app = App::in_memory().tasks(tasks![add]).start().await?;
    /// let canvas = Canvas::group((0..3).map(|i| Canvas::task("add", (i, i))));
    /// assert_eq!(app.apply_async(canvas).await?.get().await?, serde_json::json!([0, 2, 4]));
    /// # app.shutdown().await }
    /// ```
    pub fn group(members: impl IntoIterator<Item = Self, IntoIter: Send + 'static>) -> Self {
        Self::group_of(LazyMembers::new(members))
    }

    /// Creates a group from a list of members.
    pub(crate) fn group_of_list(members: Vec<Self>) -> Self {
        Self::group_of(members.into())
    }

    fn group_of(members: LazyMembers) -> Self {
        Self::nested(Form::Group {
            members,
            policy: GroupPolicy::All,
        })
    }

    /// Makes the group keep its failures, as [`Signature::settled`] does.
    ///
    /// ```
    /// # use chordal::prelude::*;
    /// # #[task] async fn fail() -> Result<(), TaskError> { Err(TaskError::new("no")) }
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> chordal::Result<()> {
    /// # let app = App::in_memory().tasks(tasks![fail]).start().await?;
    /// let canvas = Canvas::group([Canvas::task("fail", ())]).settled();
    /// let outcomes = app.apply_async(canvas).await?.get().await?;
    /// assert_eq!(outcomes[0]["Err"]["message"], "no");
    /// # app.shutdown().await }
    /// ```
    pub fn settled(self) -> Self {
        self.with_policy(GroupPolicy::Settled)
    }

    /// Makes the group fail with its first failure, as [`Signature::fail_fast`] does.
    ///
    /// ```
    /// # use chordal::prelude::*;
    /// # #[task] async fn fail() -> Result<(), TaskError> { Err(TaskError::new("no")) }
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> chordal::Result<()> {
    /// # let app = App::in_memory().tasks(tasks![fail]).start().await?;
    /// let canvas = Canvas::group((0..3).map(|_| Canvas::task("fail", ()))).fail_fast();
    /// assert!(app.apply_async(canvas).await?.get().await.is_err());
    /// # app.shutdown().await }
    /// ```
    pub fn fail_fast(self) -> Self {
        self.with_policy(GroupPolicy::FailFast)
    }

    /// Makes the group end with its first `k` values, as [`Signature::first`] does.
    ///
    /// ```
    /// # use chordal::prelude::*;
    /// # #[task] async fn add(x: i64, y: i64) -> i64 { x + y }
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> chordal::Result<()> {
    /// # let app = App::in_memory().tasks(tasks![add]).start().await?;
    /// let canvas = Canvas::group((0..3).map(|i| Canvas::task("add", (i, i)))).first(1);
    /// let values = app.apply_async(canvas).await?.get().await?;
    /// assert_eq!(values.as_array().unwrap().len(), 1);
    /// # app.shutdown().await }
    /// ```
    pub fn first(self, k: usize) -> Self {
        self.with_policy(GroupPolicy::First(k as u64))
    }

    /// Makes the group succeed if at least `k` members do, as [`Signature::at_least`] does.
    ///
    /// ```
    /// # use chordal::prelude::*;
    /// # #[task] async fn add(x: i64, y: i64) -> i64 { x + y }
    /// # #[task] async fn fail() -> Result<(), TaskError> { Err(TaskError::new("no")) }
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> chordal::Result<()> {
    /// # let app = App::in_memory().tasks(tasks![add, fail]).start().await?;
    /// let members = [Canvas::task("fail", ()), Canvas::task("add", (1, 1))];
    /// let values = app.apply_async(Canvas::group(members).at_least(1)).await?.get().await?;
    /// assert_eq!(values, serde_json::json!([2]));
    /// # app.shutdown().await }
    /// ```
    pub fn at_least(self, k: usize) -> Self {
        self.with_policy(GroupPolicy::AtLeast(k as u64))
    }

    /// Sets the policy of this group, or of the group that it ends in.
    fn with_policy(mut self, new: GroupPolicy) -> Self {
        let call = new.call().unwrap_or_default();
        let refusal = match &mut self.form {
            Form::Group { policy, .. } | Form::Each { policy, .. } => match new.over(*policy) {
                Ok(new) => {
                    *policy = new;
                    return self;
                }
                Err(why) => why,
            },
            Form::Chain(steps, _) if !steps.is_empty() => {
                let last = steps.pop().expect("not empty");
                steps.push(last.with_policy(new));
                return self;
            }
            Form::Chord { body, .. } => {
                let before = std::mem::replace(&mut **body, Self::refused(String::new()));
                **body = before.with_policy(new);
                return self;
            }
            Form::Refused(_) => return self,
            Form::Task(sig) => format!("{call} needs a group; `{}` is a task", sig.name),
            Form::Fold(_) => format!("{call} goes on the group, before fold()"),
            Form::Chain(..) => format!("{call} needs a group; this is an empty chain"),
        };
        self.form = Form::Refused(refusal);
        self
    }
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
