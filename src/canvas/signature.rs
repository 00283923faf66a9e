//! Signatures: the typed canvases that a user composes.

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;
use std::ops::BitOr;
use std::time::{Duration, SystemTime};

use super::form::Canvas;
use super::id::Id;
use super::outcome::TaskFailure;
use super::rate_limit::RateLimit;
#[cfg(doc)]
use crate::error::GetError;

/// A task, chain, group or chord to run: it takes an `I` from upstream and gives an `O`.
///
/// `add.s(2, 2)` is a complete `Signature<(), i64>`; `add.partial(4)` is a `Signature<i64, i64>`
/// without its first argument. Only a complete one can be submitted. Signatures are plain data that
/// can be cloned, composed and sent anywhere; nothing runs before
/// [`App::apply_async`](crate::App::apply_async).
///
/// ```
/// # use chordal::prelude::*;
/// # #[task] async fn add(x: i64, y: i64) -> i64 { x + y }
/// let sixteen: Signature<(), i64> = add.s(2, 2) | add.partial(4) | add.partial(8);
/// ```
#[must_use = "a signature does nothing until it is submitted"]
pub struct Signature<I, O> {
    canvas: Canvas,
    types: PhantomData<fn(I) -> O>,
}

/// A signature that ignores the upstream value (Celery's `.si()`), so it can follow any step.
///
/// ```
/// # use chordal::prelude::*;
/// # #[task] async fn add(x: i64, y: i64) -> i64 { x + y }
/// # #[task] async fn shout(text: String) -> String { text.to_uppercase() }
/// let five: Signature<(), i64> = shout.s("ignored".into()) | add.si(2, 3);
/// ```
#[must_use = "a signature does nothing until it is submitted"]
pub struct Immutable<O> {
    canvas: Canvas,
    types: PhantomData<fn() -> O>,
}

/// A canvas that can follow a step with the value `I`: a [`Signature<I, _>`](Signature), any
/// [`Immutable`], or a dynamic [`Canvas`].
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot take `{I}` from upstream",
    label = "this does not take `{I}`",
    note = "`task.partial(..)` takes its first argument from upstream, `task.si(..)` ignores what comes from there",
    note = "a list from upstream goes to one task per element with `task.each(..)`",
    note = "nothing is upstream, `()`, where a canvas is submitted: it needs all its arguments, `task.s(..)`"
)]
pub trait Accepts<I>: sealed::Sealed {
    /// The type of its value.
    type Output;

    #[doc(hidden)]
    fn into_canvas(self) -> Canvas;
}

mod sealed {
    pub trait Sealed {}
    impl<I, O> Sealed for super::Signature<I, O> {}
    impl<O> Sealed for super::Immutable<O> {}
    impl Sealed for super::Canvas {}
}

impl<I, O> Accepts<I> for Signature<I, O> {
    type Output = O;

    fn into_canvas(self) -> Canvas {
        self.canvas
    }
}

impl<I, O> Accepts<I> for Immutable<O> {
    type Output = O;

    fn into_canvas(self) -> Canvas {
        self.canvas
    }
}

impl<I> Accepts<I> for Canvas {
    type Output = serde_json::Value;

    fn into_canvas(self) -> Canvas {
        self
    }
}

impl Canvas {
    /// Gives the canvas types, which are not checked here: a wrong type shows as a failure of the
    /// task, or as [`GetError::Decode`].
    ///
    /// ```
    /// # use chordal::prelude::*;
    /// # #[task] async fn add(x: i64, y: i64) -> i64 { x + y }
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> chordal::Result<()> {
    /// # let app = App::in_memory().tasks(tasks![add]).start().await?;
    /// let sum = Canvas::task("add", (2, 2)).typed::<(), i64>() | add.partial(4);
    /// assert_eq!(app.apply_async(sum).await?.get().await?, 8);
    /// # app.shutdown().await }
    /// ```
    pub fn typed<I, O>(self) -> Signature<I, O> {
        Signature::from_canvas(self)
    }
}

impl<I, O> From<Signature<I, O>> for Canvas {
    fn from(signature: Signature<I, O>) -> Self {
        signature.into_canvas()
    }
}

impl<O> From<Immutable<O>> for Canvas {
    fn from(signature: Immutable<O>) -> Self {
        signature.into_canvas()
    }
}

impl<I, O> Signature<I, O> {
    pub(crate) fn from_canvas(canvas: Canvas) -> Self {
        Self {
            canvas,
            types: PhantomData,
        }
    }

    /// Returns the dynamic canvas inside.
    pub fn into_canvas(self) -> Canvas {
        self.canvas
    }
}

impl<O> Immutable<O> {
    pub(crate) fn from_canvas(canvas: Canvas) -> Self {
        Self {
            canvas,
            types: PhantomData,
        }
    }

    /// Returns the dynamic canvas inside.
    pub fn into_canvas(self) -> Canvas {
        self.canvas
    }
}

impl<I, M, R: Accepts<M>> BitOr<R> for Signature<I, M> {
    type Output = Signature<I, R::Output>;

    /// Creates a chain: `self`, then `next` with its value. After a group it is a chord: `next`
    /// runs once all members have given their values.
    ///
    /// A method binds tighter than `|`: `a | b.on_error(e)` is `a | (b.on_error(e))`, whose errback
    /// belongs to `b` alone. To give the chain an errback, use parentheses: `(a | b).on_error(e)`.
    /// The same is true of options, links and idempotency keys.
    ///
    /// ```
    /// # use chordal::prelude::*;
    /// # #[task] async fn parse(text: String) -> Result<i64, TaskError> { Ok(text.parse()?) }
    /// # #[task] async fn double(n: i64) -> i64 { 2 * n }
    /// # use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
    /// # static ALERTS: AtomicU32 = AtomicU32::new(0);
    /// # #[task] async fn alert(_failure: TaskFailure) { ALERTS.fetch_add(1, Relaxed); }
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> chordal::Result<()> {
    /// # let app = App::in_memory().tasks(tasks![parse, double, alert]).start().await?;
    /// let silent = parse.s("x".into()) | double.partial().on_error(alert.partial());
    /// let silent = app.apply_async(silent).await?;
    /// silent.at_rest().await?;
    /// assert_eq!(ALERTS.load(Relaxed), 0); // `parse` has failed, and `double` never ran
    /// let watched = (parse.s("x".into()) | double.partial()).on_error(alert.partial());
    /// let watched = app.apply_async(watched).await?;
    /// watched.at_rest().await?;
    /// assert_eq!(ALERTS.load(Relaxed), 1);
    /// # app.shutdown().await }
    /// ```
    fn bitor(self, next: R) -> Self::Output {
        Signature::from_canvas(self.canvas.then(next.into_canvas()))
    }
}

impl<M, R: Accepts<M>> BitOr<R> for Immutable<M> {
    type Output = Immutable<R::Output>;

    /// Creates a chain that ignores the upstream value.
    fn bitor(self, next: R) -> Self::Output {
        Immutable::from_canvas(self.canvas.then(next.into_canvas()))
    }
}

/// The builder methods that [`Signature`] and [`Immutable`] share.
macro_rules! builders {
    ($type:ident<$($param:ident),+>, $output:ident) => {
        impl<$($param),+> $type<$($param),+> {
            /// Sets the queue of the task. A queue need not be declared: an undeclared one has the
            /// [default](crate::AppBuilder::concurrency) number of slots. Its name has at most 255
            /// bytes. An idle queue uses no memory.
            ///
            /// Set on a chain, a chord or a fold, the option applies to every task in it that has
            /// no queue of its own, as if it were set there. The same is true of
            /// [`priority`](Self::priority), [`max_retries`](Self::max_retries),
            /// [`time_limit`](Self::time_limit) and [`soft_time_limit`](Self::soft_time_limit). The
            /// times [`countdown`](Self::countdown), [`eta`](Self::eta) and
            /// [`expires`](Self::expires) concern the start: on a chain they apply to its first
            /// step; on a chord they apply to its body, as in Celery, so set them on the group if
            /// the members are to wait. On a group every option applies to all members and
            /// overrides theirs (celery/canvas.py, `Signature._merge`). Callbacks have options of
            /// their own.
            ///
            /// (In Celery a chain passes all options to its first step, a chord to its body. So
            /// does [`Canvas::from_json`].)
            ///
            /// ```
            /// # use chordal::prelude::*;
            /// # #[task] async fn add(x: i64, y: i64) -> i64 { x + y }
            /// let slow = add.s(2, 2).queue("reports").priority(1);
            /// let both = (add.s(2, 2) | add.partial(4)).queue("reports");
            /// ```
            pub fn queue(self, queue: impl Into<Cow<'static, str>>) -> Self {
                Self::from_canvas(self.canvas.queue(queue))
            }

            /// Sets the priority, 0 to 9. Among the tasks that wait in one queue, the one with the
            /// highest priority starts first.
            ///
            /// ```
            /// # use chordal::prelude::*;
            /// # #[task] async fn add(x: i64, y: i64) -> i64 { x + y }
            /// # #[tokio::main(flavor = "current_thread")] async fn main() -> chordal::Result<()> {
            /// # let app = App::in_memory().tasks(tasks![add]).start().await?;
            /// let urgent = add.s(2, 2).priority(9);
            /// assert_eq!(app.apply_async(urgent).await?.get().await?, 4);
            /// # app.shutdown().await }
            /// ```
            pub fn priority(self, priority: u8) -> Self {
                Self::from_canvas(self.canvas.priority(priority))
            }

            /// Sets how often a failed attempt is retried.
            ///
            /// ```
            /// # use chordal::prelude::*;
            /// # #[task(retry_backoff = "1ms")]
            /// # async fn third(ctx: &TaskContext) -> Result<u32, TaskError> {
            /// #     if ctx.attempt() < 3 { Err(TaskError::new("too early")) } else { Ok(ctx.attempt()) }
            /// # }
            /// # #[tokio::main(flavor = "current_thread")] async fn main() -> chordal::Result<()> {
            /// # let app = App::in_memory().tasks(tasks![third]).start().await?;
            /// let patient = third.s().max_retries(2);
            /// assert_eq!(app.apply_async(patient).await?.get().await?, 3);
            /// # app.shutdown().await }
            /// ```
            pub fn max_retries(self, max_retries: u32) -> Self {
                Self::from_canvas(self.canvas.max_retries(max_retries))
            }

            /// Sets the hard limit on one attempt, counted from the start of its body. An async
            /// body is dropped at the limit. A blocking body cannot be stopped: its result is
            /// refused, and its slot is free again when it returns.
            ///
            /// ```
            /// # use chordal::prelude::*;
            /// # use std::time::Duration;
            /// # #[task] async fn endless() { std::future::pending().await }
            /// # #[tokio::main(flavor = "current_thread")] async fn main() -> chordal::Result<()> {
            /// # let app = App::in_memory().tasks(tasks![endless]).start().await?;
            /// let limited = endless.s().time_limit(Duration::from_millis(5));
            /// let failure = app.apply_async(limited).await?.get().await.unwrap_err();
            /// assert!(failure.to_string().ends_with("time limit of 5ms exceeded"));
            /// # app.shutdown().await }
            /// ```
            pub fn time_limit(self, limit: Duration) -> Self {
                Self::from_canvas(self.canvas.time_limit(limit))
            }

            /// Sets the soft limit on one attempt. A task that
            /// [listens](crate::TaskContext::soft_time_limit) for it is notified at the limit and
            /// may clean up; any other task is ended with `SoftTimeLimitExceeded`. A soft limit
            /// above the hard one, set here or registered, is refused when the signature is
            /// submitted.
            ///
            /// ```
            /// # use chordal::prelude::*;
            /// # use std::time::Duration;
            /// # #[task] async fn endless() { std::future::pending().await }
            /// # #[tokio::main(flavor = "current_thread")] async fn main() -> chordal::Result<()> {
            /// # let app = App::in_memory().tasks(tasks![endless]).start().await?;
            /// let limited = endless.s().soft_time_limit(Duration::from_millis(5));
            /// match app.apply_async(limited).await?.get().await {
            ///     Err(chordal::Error::Failed(failure)) => assert_eq!(failure.error_type, "SoftTimeLimitExceeded"),
            ///     other => panic!("{other:?}"),
            /// }
            /// # app.shutdown().await }
            /// ```
            pub fn soft_time_limit(self, limit: Duration) -> Self {
                Self::from_canvas(self.canvas.soft_time_limit(limit))
            }

            /// Delays the start by at least this long after the task could have started: after the
            /// submission, or, in a chain, after the step before it. The members of a group count
            /// from the time at which the group was reached, however many they are. The task waits
            /// in the store and holds no slot. The delay keeps its length if the machine's clock is
            /// set meanwhile, and across restarts; see [`Clock`](crate::Clock).
            ///
            /// ```
            /// # use chordal::prelude::*;
            /// # use std::time::{Duration, SystemTime};
            /// # #[task] async fn remind(user: u64) {}
            /// let later = remind.s(7).countdown(Duration::from_secs(3_600));
            /// ```
            pub fn countdown(self, delay: Duration) -> Self {
                Self::from_canvas(self.canvas.countdown(delay))
            }

            /// Delays the start until the machine's clock shows this time. If the clock is set
            /// meanwhile, the engine notices it within about a second.
            ///
            /// ```
            /// # use chordal::prelude::*;
            /// # use std::time::{Duration, SystemTime};
            /// # #[task] async fn remind(user: u64) {}
            /// # #[tokio::main(flavor = "current_thread")] async fn main() -> chordal::Result<()> {
            /// let clock = chordal::Clock::manual(SystemTime::now());
            /// let app = App::in_memory().clock(clock.clone()).tasks(tasks![remind]).start().await?;
            /// let hour = Duration::from_secs(3_600);
            /// let later = app.apply_async(remind.s(7).eta(clock.now() + hour)).await?;
            /// assert!(!later.ready().await?);
            /// clock.advance(hour);
            /// later.get().await?;
            /// # app.shutdown().await }
            /// ```
            pub fn eta(self, time: SystemTime) -> Self {
                Self::from_canvas(self.canvas.eta(time))
            }

            /// Revokes the task if it has not started this long after it could have: its state
            /// becomes REVOKED, its errbacks do not run, and everything that needed its value fails
            /// with `TaskRevokedError`. Retries are under the same limit.
            ///
            /// ```
            /// # use chordal::prelude::*;
            /// # use std::time::{Duration, SystemTime};
            /// # #[task] async fn quote(stock: String) -> f64 { 1.0 }
            /// let fresh = quote.s("ACME".into()).expires(Duration::from_secs(60));
            /// ```
            pub fn expires(self, after: Duration) -> Self {
                Self::from_canvas(self.canvas.expires(after))
            }

            /// Revokes the task if it has not started when the machine's clock shows this time; see
            /// [`expires`](Self::expires).
            ///
            /// ```
            /// # use chordal::prelude::*;
            /// # use std::time::SystemTime;
            /// # #[task] async fn quote(stock: String) -> f64 { 1.0 }
            /// # #[tokio::main(flavor = "current_thread")] async fn main() -> chordal::Result<()> {
            /// # let app = App::in_memory().tasks(tasks![quote]).start().await?;
            /// let late = quote.s("ACME".into()).expires_at(SystemTime::UNIX_EPOCH);
            /// let late = app.apply_async(late).await?;
            /// assert!(late.get().await.is_err());
            /// assert_eq!(late.state().await?, chordal::State::Revoked);
            /// # app.shutdown().await }
            /// ```
            pub fn expires_at(self, time: SystemTime) -> Self {
                Self::from_canvas(self.canvas.expires_at(time))
            }

            /// Limits the rate at which the task starts, besides the limits with which it is
            /// registered: a [`RateLimit`](crate::RateLimit) or a text such as `"10/m"`. All calls
            /// of one task with the same rate share it, and those with a
            /// [`limit_key`](Self::limit_key) share it by key. It holds in every period, for the
            /// whole app and over restarts. On a chain, a chord or a fold it is for each task in it
            /// that has none of its own. A rate that is invalid is refused when the signature is
            /// submitted.
            ///
            /// ```
            /// # use chordal::prelude::*;
            /// # #[task] async fn fetch(url: String) -> usize { url.len() }
            /// # #[tokio::main(flavor = "current_thread")] async fn main() -> chordal::Result<()> {
            /// # let app = App::in_memory().tasks(tasks![fetch]).start().await?;
            /// let urls = ["https://a.example", "https://b.example"];
            /// let polite = group(urls.map(|url| fetch.s(url.into()))).rate_limit("100/s");
            /// assert_eq!(app.apply_async(polite).await?.get().await?, [17, 17]);
            /// # app.shutdown().await }
            /// ```
            pub fn rate_limit<L>(self, limit: L) -> Self
            where
                L: TryInto<RateLimit, Error: fmt::Display>,
            {
                Self::from_canvas(self.canvas.rate_limit(limit))
            }

            /// Sets the key of the task for its limits: for its own
            /// [`rate_limit`](Self::rate_limit) and for the rate and the concurrency with which it is
            /// registered, so that each key has all that they allow; and for the turn of its
            /// [queue](crate::AppBuilder::fair_by). It takes the place of the argument that
            /// `limit_by`, `concurrency_by` or `fair_by` names. The limits that tasks share by name
            /// are not divided by it.
            ///
            /// ```
            /// # use chordal::prelude::*;
            /// #[task(rate_limit = "5/s")]
            /// async fn notify(text: String) {}
            ///
            /// # #[tokio::main(flavor = "current_thread")] async fn main() -> chordal::Result<()> {
            /// # let app = App::in_memory().tasks(tasks![notify]).start().await?;
            /// // Each tenant has five starts a second.
            /// let first = app.apply_async(notify.s("hello".into()).limit_key("acme")).await?;
            /// let other = app.apply_async(notify.s("hello".into()).limit_key("umbrella")).await?;
            /// first.get().await?;
            /// other.get().await?;
            /// # app.shutdown().await }
            /// ```
            pub fn limit_key(self, key: impl Into<Cow<'static, str>>) -> Self {
                Self::from_canvas(self.canvas.limit_key(key))
            }

            /// Sets a stamp: a name with a value that all work in the canvas carries, its callbacks
            /// and what its tasks start included (Celery's `stamp`). Tasks read their stamps with
            /// [`TaskContext::stamps`](crate::TaskContext::stamps), and handles with
            /// [`AsyncResult::stamps`](crate::AsyncResult::stamps). If a stamp is set inside too,
            /// the value inside stays. The stamps of a task have at most 1,024 bytes together.
            ///
            /// ```
            /// # use chordal::prelude::*;
            /// #[task]
            /// async fn tenant(ctx: &TaskContext) -> Option<String> {
            ///     ctx.stamps().get("tenant").cloned()
            /// }
            ///
            /// # #[tokio::main(flavor = "current_thread")] async fn main() -> chordal::Result<()> {
            /// # let app = App::in_memory().tasks(tasks![tenant]).start().await?;
            /// let stamped = app.apply_async(tenant.s().stamp("tenant", "acme")).await?;
            /// assert_eq!(stamped.get().await?.as_deref(), Some("acme"));
            /// assert_eq!(stamped.stamps().await?["tenant"], "acme");
            /// # app.shutdown().await }
            /// ```
            pub fn stamp(self, name: impl Into<String>, value: impl Into<String>) -> Self {
                Self::from_canvas(self.canvas.stamp(name, value))
            }

            /// Runs `callback` with the value, once, after success. The callback's outcome does not
            /// change this task's. On a group it is refused at submission: use a chord.
            ///
            /// ```
            /// # use chordal::prelude::*;
            /// # #[task] async fn add(x: i64, y: i64) -> i64 { x + y }
            /// # #[task] async fn log(sum: i64) { println!("{sum}") }
            /// let logged = add.s(2, 2).link(log.partial());
            /// ```
            pub fn link(self, callback: impl Accepts<$output>) -> Self {
                Self::from_canvas(self.canvas.link(callback.into_canvas()))
            }

            /// Runs `errback` with the [`TaskFailure`], once, after the final failure. On a group
            /// every member gets it, so it runs once per failed member. On a chain the failed step
            /// runs it; on a chord the body runs it, even if the header fails (celery/canvas.py). A
            /// task that [expires](Self::expires) does not run it.
            ///
            /// A method binds tighter than `|`: for the errback of a whole chain, write the chain
            /// in parentheses.
            ///
            /// ```
            /// # use chordal::prelude::*;
            /// # #[task] async fn add(x: i64, y: i64) -> i64 { x + y }
            /// # #[task] async fn alert(failure: TaskFailure) { eprintln!("{failure}") }
            /// let watched = add.s(2, 2).link_error(alert.partial());
            /// let the_chain = (add.s(2, 2) | add.partial(4)).link_error(alert.partial());
            /// let its_last_step = add.s(2, 2) | add.partial(4).link_error(alert.partial());
            /// ```
            pub fn link_error(self, errback: impl Accepts<TaskFailure>) -> Self {
                Self::from_canvas(self.canvas.link_error(errback.into_canvas()))
            }

            /// Same as [`link_error`](Self::link_error), under Celery's other name.
            ///
            /// ```
            /// # use chordal::prelude::*;
            /// # #[task] async fn parse(text: String) -> Result<i64, TaskError> { Ok(text.parse()?) }
            /// # #[task] async fn why(failure: TaskFailure) -> String { failure.error_type }
            /// # #[tokio::main(flavor = "current_thread")] async fn main() -> chordal::Result<()> {
            /// # let app = App::in_memory().tasks(tasks![parse, why]).start().await?;
            /// let watched = app.apply_async(parse.s("x".into()).on_error(why.partial())).await?;
            /// watched.at_rest().await?;
            /// let errback = &watched.children::<String>().await?[0];
            /// assert_eq!(errback.get().await?, "ParseIntError");
            /// # app.shutdown().await }
            /// ```
            pub fn on_error(self, errback: impl Accepts<TaskFailure>) -> Self {
                self.link_error(errback)
            }

            /// Makes the second submission with `key` return the first one's handle, even after a
            /// restart, until the first one's retention ends. All keys of one store share one
            /// namespace.
            ///
            /// The second canvas is not compared with the first: the key alone decides, so derive
            /// it from the arguments. If the first one failed, the handle gives its failure; to run
            /// it again, choose a new key.
            ///
            /// ```
            /// # use chordal::prelude::*;
            /// # #[task] async fn charge(order: u64) -> u64 { order }
            /// # #[tokio::main(flavor = "current_thread")] async fn main() -> chordal::Result<()> {
            /// # let app = App::in_memory().tasks(tasks![charge]).start().await?;
            /// let first = app.apply_async(charge.s(7).idempotency_key("order 7")).await?;
            /// let second = app.apply_async(charge.s(7).idempotency_key("order 7")).await?;
            /// assert_eq!(first.id(), second.id());
            /// # app.shutdown().await }
            /// ```
            pub fn idempotency_key(self, key: impl Into<String>) -> Self {
                Self::from_canvas(self.canvas.idempotency_key(key))
            }

            /// Makes a group fail with the first failure of a member, and revokes the members that have
            /// not ended by then: those that have not started never do, and running ones are cancelled
            /// as by [`revoke`](crate::AsyncResult::revoke). The group fails when these have stopped.
            /// The body of a chord never runs then. Without it all members run to their end, and the
            /// failure is that of the lowest failed index. Refused at submission if there is no group.
            ///
            /// ```
            /// # use chordal::prelude::*;
            /// use chordal::{Error, State};
            ///
            /// # #[task] async fn copy(part: u64) -> Result<u64, TaskError> { if part == 1 { Err(TaskError::new("full")) } else { std::future::pending().await } }
            /// # #[tokio::main(flavor = "current_thread")] async fn main() -> chordal::Result<()> {
            /// # let app = App::in_memory().tasks(tasks![copy]).start().await?;
            /// let parts = app.apply_async(group((0..3).map(|part| copy.s(part))).fail_fast()).await?;
            /// assert!(matches!(parts.get().await, Err(Error::Failed(failure)) if failure.message == "full"));
            /// assert_eq!(parts.children::<u64>().await?[2].state().await?, State::Revoked);
            /// # app.shutdown().await }
            /// ```
            pub fn fail_fast(self) -> Self {
                Self::from_canvas(self.canvas.fail_fast())
            }

            /// Sets the id of the submission (Celery's `task_id`): one that
            /// [`App::new_id`](crate::App::new_id) has given for this store, in this process or an
            /// earlier one. A second submission with it is refused with
            /// [`SubmitError::DuplicateId`](crate::SubmitError::DuplicateId) as long as the store
            /// has the first. (To get the first one's handle instead, use an
            /// [idempotency key](Self::idempotency_key).) It belongs on what is submitted, not on
            /// a part of it.
            ///
            /// ```
            /// # use chordal::prelude::*;
            /// # use chordal::{Error, SubmitError};
            /// # #[task] async fn pay(cents: u64) -> u64 { cents }
            /// # #[tokio::main(flavor = "current_thread")] async fn main() -> chordal::Result<()> {
            /// # let app = App::in_memory().tasks(tasks![pay]).start().await?;
            /// let id = app.new_id();
            /// app.apply_async(pay.s(250).task_id(id)).await?;
            /// let again = app.apply_async(pay.s(250).task_id(id)).await;
            /// assert!(matches!(again, Err(Error::Submit(SubmitError::DuplicateId { .. }))));
            /// # app.shutdown().await }
            /// ```
            pub fn task_id(self, id: Id) -> Self {
                Self::from_canvas(self.canvas.task_id(id))
            }
        }

        impl<$($param),+> Clone for $type<$($param),+> {
            fn clone(&self) -> Self {
                Self::from_canvas(self.canvas.clone())
            }
        }

        /// Shows the shape and the task names, never the arguments.
        impl<$($param),+> fmt::Debug for $type<$($param),+> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.canvas.fmt(f)
            }
        }
    };
}

builders!(Signature<I, O>, O);
builders!(Immutable<O>, O);

impl<I, O> Signature<I, Vec<O>> {
    /// Makes a group give every outcome, failures included, instead of failing with the first
    /// failure, so that a body always runs. Refused at submission if there is no group.
    ///
    /// ```
    /// # use chordal::prelude::*;
    /// # #[task] async fn ping(host: String) -> Result<u64, TaskError> { Ok(host.len() as u64) }
    /// # #[task] async fn report(all: Vec<Result<u64, TaskFailure>>) -> usize { all.iter().filter(|one| one.is_ok()).count() }
    /// let healthy = group(["a", "b"].map(|host| ping.s(host.into()))).settled() | report.partial();
    /// ```
    pub fn settled(self) -> Signature<I, Vec<Result<O, TaskFailure>>> {
        Signature::from_canvas(self.canvas.settled())
    }

    /// Makes a group end with its first `k` values, which are the values that its body gets, and revokes
    /// the members that have not ended by then. The list is shorter than the group; its values are in
    /// member order. Which members are in it is recorded with the last of them, so a restart does not
    /// change it. The group fails as soon as fewer than `k` members can succeed, with the failure of
    /// the lowest failed index. The group, or its body, goes on when the members that were running
    /// have stopped; they are cancelled as by [`revoke`](crate::AsyncResult::revoke).
    ///
    /// Refused at submission if `k` is 0 or larger than the group, or if there is no group. With
    /// [`each`](Signature::each), whose list is known later, the group fails with kind
    /// [`Type`](crate::FailureKind::Type) if the list is shorter than `k`.
    ///
    /// ```
    /// # use chordal::prelude::*;
    /// # #[task] async fn ask(mirror: String) -> String { if mirror == "b" { mirror } else { std::future::pending().await } }
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> chordal::Result<()> {
    /// # let app = App::in_memory().tasks(tasks![ask]).start().await?;
    /// let fastest = group(["a", "b", "c"].map(|mirror| ask.s(mirror.into()))).first(1);
    /// assert_eq!(app.apply_async(fastest).await?.get().await?, ["b"]);
    /// # app.shutdown().await }
    /// ```
    pub fn first(self, k: usize) -> Self {
        Self::from_canvas(self.canvas.first(k))
    }

    /// Makes a group succeed if at least `k` of its members do: it waits for all of them, and gives the
    /// values of those that succeeded, in member order. The list may be shorter than the group. If
    /// fewer succeed, the group fails with the failure of the lowest failed index.
    ///
    /// Refused at submission, and with [`each`](Signature::each) a failure, as [`first`](Self::first)
    /// says.
    ///
    /// ```
    /// # use chordal::prelude::*;
    /// # #[task] async fn parse(text: String) -> Result<i64, TaskError> { Ok(text.parse()?) }
    /// # #[task] async fn xsum(xs: Vec<i64>) -> i64 { xs.iter().sum() }
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> chordal::Result<()> {
    /// # let app = App::in_memory().tasks(tasks![parse, xsum]).start().await?;
    /// let numbers = group(["1", "x", "3"].map(|text| parse.s(text.into())));
    /// let sum = numbers.at_least(2) | xsum.partial();
    /// assert_eq!(app.apply_async(sum).await?.get().await?, 4);
    /// # app.shutdown().await }
    /// ```
    pub fn at_least(self, k: usize) -> Self {
        Self::from_canvas(self.canvas.at_least(k))
    }
}

impl<O> Immutable<Vec<O>> {
    /// As [`Signature::settled`].
    ///
    /// ```
    /// # use chordal::prelude::*;
    /// # #[task] async fn parse(text: String) -> Result<i64, TaskError> { Ok(text.parse()?) }
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> chordal::Result<()> {
    /// # let app = App::in_memory().tasks(tasks![parse]).start().await?;
    /// let chunks = parse.chunks(["1", "x"].map(|text| (text.into(),)), 1).settled();
    /// let chunks = app.apply_async(chunks).await?.get().await?;
    /// assert_eq!(chunks[0], Ok(vec![1]));
    /// assert!(chunks[1].is_err());
    /// # app.shutdown().await }
    /// ```
    pub fn settled(self) -> Immutable<Vec<Result<O, TaskFailure>>> {
        Immutable::from_canvas(self.canvas.settled())
    }

    /// As [`Signature::first`].
    ///
    /// ```
    /// # use chordal::prelude::*;
    /// # #[task] async fn double(x: i64) -> i64 { 2 * x }
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> chordal::Result<()> {
    /// # let app = App::in_memory().tasks(tasks![double]).start().await?;
    /// let some = double.chunks([(1,), (2,), (3,)], 1).first(2);
    /// assert_eq!(app.apply_async(some).await?.get().await?.len(), 2);
    /// # app.shutdown().await }
    /// ```
    pub fn first(self, k: usize) -> Self {
        Self::from_canvas(self.canvas.first(k))
    }

    /// As [`Signature::at_least`].
    ///
    /// ```
    /// # use chordal::prelude::*;
    /// # #[task] async fn parse(text: String) -> Result<i64, TaskError> { Ok(text.parse()?) }
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> chordal::Result<()> {
    /// # let app = App::in_memory().tasks(tasks![parse]).start().await?;
    /// let chunks = parse.chunks(["1", "x"].map(|text| (text.into(),)), 1).at_least(1);
    /// assert_eq!(app.apply_async(chunks).await?.get().await?, [vec![1]]);
    /// # app.shutdown().await }
    /// ```
    pub fn at_least(self, k: usize) -> Self {
        Self::from_canvas(self.canvas.at_least(k))
    }
}
