//! The canvas: the workflows that a user composes, their frozen form, and the machines that decide
//! each step.
//!
//! Pure: nothing here depends on actors, stores, clocks or randomness. Times and ids are arguments.

pub(crate) mod admission;
pub(crate) mod binding;
mod celery_json;
mod chain;
mod chord;
mod depth;
pub(crate) mod first_tasks;
mod fold;
pub(crate) mod freeze;
mod group;
pub(crate) mod id;
mod lazy_members;
pub(crate) mod machine;
pub(crate) mod name;
pub(crate) mod options;
pub(crate) mod outcome;
pub(crate) mod parameter;
pub(crate) mod parked;
pub(crate) mod payload;
pub(crate) mod quarantine;
pub(crate) mod retry;
pub(crate) mod revocation;
pub(crate) mod revoke_outcome;
mod signature;
pub(crate) mod state;
pub(crate) mod time;

use std::borrow::Cow;
use std::fmt;
use std::ops::BitOr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde::Serialize;

pub use chain::chain;
pub use chord::{Header, chord};
pub(crate) use fold::{FoldSig, Order};
use freeze::MAX_DEPTH;
pub use group::{Members, group, group_of};
use lazy_members::LazyMembers;
use options::{Options, When};
use payload::Payload;
pub use signature::{Accepts, Immutable, Signature};

/// An untyped canvas, for shapes known only at run time.
///
/// Every [`Signature`] wraps one. The compiler checks a signature; a `Canvas` is checked when it is
/// submitted. An unknown task, a wrong number or type of arguments, or a link on a group returns an
/// [`Error::Canvas`](crate::Error::Canvas) with the path to the faulty part, and nothing stays
/// stored. A value from upstream is checked when a task decodes it.
///
/// ```
/// # use chordal::prelude::*;
/// # #[task] async fn add(x: i64, y: i64) -> i64 { x + y }
/// # #[task] async fn xsum(xs: Vec<i64>) -> i64 { xs.iter().sum() }
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> chordal::Result<()> {
/// let app = App::in_memory().tasks(tasks![add, xsum]).start().await?;
/// let header = (0..3).map(|i| Canvas::task("add", (i, i)));
/// let sum = app.apply_async(Canvas::chord(header, Canvas::task("xsum", ()))).await?;
/// assert_eq!(sum.get().await?, serde_json::json!(6));
/// # app.shutdown().await }
/// ```
#[derive(Clone)]
#[must_use = "a canvas does nothing until it is submitted"]
pub struct Canvas {
    pub(crate) form: Form,
    /// Rare, so boxed: a group of a million tasks holds a million of these.
    pub(crate) extras: Option<Box<Extras>>,
}

/// The settings of a canvas besides its form.
#[derive(Clone, Default)]
pub(crate) struct Extras {
    pub(crate) options: Options,
    /// Arguments of a task, by parameter name.
    pub(crate) kwargs: Kwargs,
    pub(crate) link: Vec<Canvas>,
    pub(crate) link_error: Vec<Canvas>,
    pub(crate) idempotency_key: Option<String>,
    /// The depth of the deepest callback.
    depth: usize,
}

/// Arguments by name.
pub(crate) type Kwargs = Vec<(String, Payload)>;

#[derive(Clone)]
pub(crate) enum Form {
    Task(TaskSig),
    /// The steps, and the depth of the deepest of them.
    Chain(Vec<Canvas>, usize),
    Group {
        members: LazyMembers,
        settled: bool,
    },
    /// A group with one member per element of the list upstream.
    Each {
        member: Box<Canvas>,
        settled: bool,
    },
    Chord {
        header: Box<Canvas>,
        body: Box<Canvas>,
    },
    /// A group whose values a task folds one after the other.
    Fold(Box<FoldSig>),
    /// A canvas that could not be built. It is refused with this reason when it is submitted, so
    /// that building a canvas is infallible.
    Refused(String),
}

/// One task with its arguments.
#[derive(Clone)]
pub(crate) struct TaskSig {
    pub(crate) name: Cow<'static, str>,
    /// The arguments (or, for a map, the items), encoded one after the other.
    pub(crate) args: Payload,
    pub(crate) count: u32,
    pub(crate) mode: Mode,
    /// Whether the task takes the upstream value, if there is one, as its first argument.
    pub(crate) takes_upstream: bool,
    pub(crate) origin: Origin,
}

/// The source of a task's signature.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// A typed call: the compiler has checked the arguments.
    Typed,
    /// A [`Canvas`]: the types of the arguments are checked before anything is stored.
    Built,
    /// As `Built`, and its own arguments are complete, as they are in Celery's JSON: later
    /// arguments belong to a call, and an immutable task ignores them (celery/canvas.py,
    /// `Signature._merge`).
    Called,
}

/// The part of a canvas that receives an upstream value or a call.
enum First<'a> {
    Task(&'a mut TaskSig, &'a mut Option<Box<Extras>>),
    Members(&'a mut LazyMembers),
}

/// A call's changes to the first tasks of a canvas.
enum Call {
    /// This many arguments, placed before the existing ones.
    Args(Payload, u32),
    Kwargs(Kwargs),
    /// The tasks ignore the upstream value from now on.
    Immutable,
}

impl Call {
    fn apply(&self, sig: &mut TaskSig, extras: &mut Option<Box<Extras>>) {
        match self {
            Self::Immutable => sig.takes_upstream = false,
            _ if !sig.takes_input() => sig.origin = Origin::Called,
            Self::Args(args, count) => {
                sig.args = Payload::from([args.bytes(), sig.args.bytes()].concat());
                sig.count += count;
                sig.mark_dynamic();
            }
            Self::Kwargs(kwargs) => {
                sig.mark_dynamic();
                extras.get_or_insert_default().add_kwargs(kwargs);
            }
        }
    }
}

impl TaskSig {
    /// Returns whether the task takes arguments from upstream or from the call; a map takes its
    /// items only.
    fn takes_input(&self) -> bool {
        self.takes_upstream && self.mode == Mode::Once
    }

    /// Returns whether the types of its arguments still have to be checked.
    pub(crate) fn is_dynamic(&self) -> bool {
        self.origin != Origin::Typed
    }

    /// Returns whether keyword arguments given to the task itself are its own, even if it is
    /// immutable: Celery's `si(…)` takes them.
    fn takes_own_kwargs(&self) -> bool {
        self.mode == Mode::Once && (self.takes_upstream || self.origin != Origin::Called)
    }

    /// Marks the arguments' types as unchecked, because some came from a canvas.
    fn mark_dynamic(&mut self) {
        if self.origin == Origin::Typed {
            self.origin = Origin::Built;
        }
    }
}

/// How often one task calls its function.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(crate) enum Mode {
    Once,
    /// Once per item (each a list of arguments), in order; the value is the list of results.
    Map,
    /// As [`Once`](Self::Once), with an upstream value that the compiler has not checked: if it
    /// does not fit, the canvas is at fault, and another build of the task would not help.
    OnceUntyped,
}

impl Extras {
    /// Adds arguments by name; they replace earlier ones.
    fn add_kwargs(&mut self, kwargs: &Kwargs) {
        self.kwargs
            .retain(|(name, _)| !kwargs.iter().any(|(new, _)| new == name));
        self.kwargs.extend_from_slice(kwargs);
    }

    /// Returns the number of canvases in its callbacks, nested ones included.
    pub(crate) fn callbacks(&self) -> u64 {
        self.link
            .iter()
            .chain(&self.link_error)
            .map(Canvas::count)
            .sum()
    }
}

impl Canvas {
    /// Returns the number of canvases in it, including itself and its callbacks.
    fn count(&self) -> u64 {
        let all = |canvases: &[Self]| canvases.iter().map(Self::count).sum::<u64>();
        let inside = match &self.form {
            Form::Task(_) | Form::Refused(_) => 0,
            Form::Chain(steps, _) => all(steps),
            Form::Group { members, .. } => all(members.list()),
            Form::Each { member, .. } => member.count(),
            Form::Chord { header, body } => header.count() + body.count(),
            Form::Fold(fold) => fold.header.count() + 1,
        };
        1 + inside + self.extras.as_ref().map_or(0, |extras| extras.callbacks())
    }

    /// Creates a task by its registered name; `args` is a tuple or list of arguments. In a chain
    /// the upstream value goes before them.
    ///
    /// ```
    /// # use chordal::prelude::*;
    /// # #[task] async fn add(x: i64, y: i64) -> i64 { x + y }
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> chordal::Result<()> {
    /// # let app = App::in_memory().tasks(tasks![add]).start().await?;
    /// let canvas = Canvas::task("add", (2, 2)) | Canvas::task("add", (4,));
    /// assert_eq!(app.apply_async(canvas).await?.get().await?, serde_json::json!(8));
    /// # app.shutdown().await }
    /// ```
    pub fn task(name: impl Into<Cow<'static, str>>, args: impl Serialize) -> Self {
        Self::from_sig(name.into(), &args, true)
    }

    /// Creates a task as [`Canvas::task`] does; the task ignores the upstream value.
    ///
    /// ```
    /// # use chordal::prelude::*;
    /// # #[task] async fn add(x: i64, y: i64) -> i64 { x + y }
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> chordal::Result<()> {
    /// # let app = App::in_memory().tasks(tasks![add]).start().await?;
    /// let canvas = Canvas::task("add", (2, 2)) | Canvas::immutable("add", (1, 1));
    /// assert_eq!(app.apply_async(canvas).await?.get().await?, serde_json::json!(2));
    /// # app.shutdown().await }
    /// ```
    pub fn immutable(name: impl Into<Cow<'static, str>>, args: impl Serialize) -> Self {
        Self::from_sig(name.into(), &args, false)
    }

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

    /// Creates a group: the members run in parallel, and its value is the list of their values, in
    /// member order. As with [`group`], the iterator is drawn when the canvas is submitted.
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
            settled: false,
        })
    }

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

    /// Gives the canvas types, which are not checked here: a wrong type shows as a failure of the
    /// task, or as [`Error::Decode`](crate::Error::Decode).
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

    /// Puts `args`, a tuple or list, before the arguments of its first tasks (Celery's arguments at
    /// the call, `sig.apply_async(args)`): of a chain's first step, of every member of a group, of
    /// every member of a chord's header. Immutable tasks and maps ignore them.
    ///
    /// ```
    /// # use chordal::prelude::*;
    /// # #[task] async fn sub(x: i64, y: i64) -> i64 { x - y }
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> chordal::Result<()> {
    /// # let app = App::in_memory().tasks(tasks![sub]).start().await?;
    /// let canvas = Canvas::task("sub", (4,)).with_args((31,));
    /// assert_eq!(app.apply_async(canvas).await?.get().await?, serde_json::json!(27));
    /// # app.shutdown().await }
    /// ```
    pub fn with_args(self, args: impl Serialize) -> Self {
        let (args, count) = match Payload::encode(&args).and_then(|args| arguments(&args)) {
            Ok(args) => args,
            Err(error) => return Self::refused(format!("arguments of the call: {error}")),
        };
        self.with_encoded_args(&args, count)
    }

    fn with_encoded_args(mut self, args: &Payload, count: u32) -> Self {
        if count > 0 {
            self.call(&Arc::new(Call::Args(args.clone(), count)));
        }
        self
    }

    /// Adds arguments by parameter name, from a map or a struct. They replace earlier ones.
    ///
    /// Given to a task, they are that task's own, whether it is immutable or not: Celery's
    /// `task.s(…, plus=1)` and `task.si(…, plus=1)`. Given to a chain, group or chord, they go to
    /// the same tasks as [`with_args`](Self::with_args), as Celery's `apply_async(kwargs=…)` does,
    /// and immutable tasks and maps ignore them. An immutable task also ignores them after
    /// `with_args`, or if it was read [from JSON](Self::from_json), because its own arguments are
    /// complete then.
    ///
    /// ```
    /// # use chordal::prelude::*;
    /// # #[task] async fn scale(x: i64, #[default(2)] by: i64, #[default] plus: i64) -> i64 { x * by + plus }
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> chordal::Result<()> {
    /// # let app = App::in_memory().tasks(tasks![scale]).start().await?;
    /// let canvas = Canvas::task("scale", (10,)).with_kwargs(serde_json::json!({"plus": 1}));
    /// assert_eq!(app.apply_async(canvas).await?.get().await?, serde_json::json!(21));
    ///
    /// let fixed = Canvas::immutable("scale", ()).with_kwargs(serde_json::json!({"x": 1, "by": 3}));
    /// let canvas = Canvas::task("scale", (10,)) | fixed;
    /// assert_eq!(app.apply_async(canvas).await?.get().await?, serde_json::json!(3));
    /// # app.shutdown().await }
    /// ```
    pub fn with_kwargs(self, kwargs: impl Serialize) -> Self {
        match Payload::encode(&kwargs).and_then(|kwargs| kwargs.entries()) {
            Ok(kwargs) => self.with_encoded_kwargs(&kwargs),
            Err(error) => Self::refused(format!("keyword arguments: {error}")),
        }
    }

    fn with_encoded_kwargs(mut self, kwargs: &Kwargs) -> Self {
        match &mut self.form {
            _ if kwargs.is_empty() => {}
            Form::Task(sig) if sig.takes_own_kwargs() => {
                sig.mark_dynamic();
                self.extras().add_kwargs(kwargs);
            }
            _ => self.call(&Arc::new(Call::Kwargs(kwargs.clone()))),
        }
        self
    }

    /// Sets the queue of its tasks, as [`Signature::queue`] does.
    ///
    /// ```
    /// # use chordal::prelude::*;
    /// let canvas = Canvas::task("add", (2, 2)).queue("sums");
    /// assert!(canvas.to_json().unwrap().contains(r#""queue":"sums""#));
    /// ```
    pub fn queue(mut self, queue: impl Into<Cow<'static, str>>) -> Self {
        self.extras().options.queue = Some(queue.into());
        self
    }

    /// Sets the priority, as [`Signature::priority`] does.
    ///
    /// ```
    /// # use chordal::prelude::*;
    /// let canvas = Canvas::task("add", (2, 2)).priority(9);
    /// assert!(canvas.to_json().unwrap().contains(r#""priority":9"#));
    /// ```
    pub fn priority(mut self, priority: u8) -> Self {
        self.extras().options.priority = Some(priority);
        self
    }

    /// Sets the number of retries, as [`Signature::max_retries`] does.
    ///
    /// ```
    /// # use chordal::prelude::*;
    /// let canvas = Canvas::task("add", (2, 2)).max_retries(3);
    /// assert!(canvas.to_json().unwrap().contains(r#""max_retries":3"#));
    /// ```
    pub fn max_retries(mut self, max_retries: u32) -> Self {
        self.extras().options.max_retries = Some(max_retries);
        self
    }

    /// Sets the hard time limit, as [`Signature::time_limit`] does.
    ///
    /// ```
    /// # use chordal::prelude::*;
    /// # use std::time::Duration;
    /// let canvas = Canvas::task("add", (2, 2)).time_limit(Duration::from_secs(45));
    /// assert!(canvas.to_json().unwrap().contains(r#""time_limit":45"#));
    /// ```
    pub fn time_limit(mut self, limit: Duration) -> Self {
        self.extras().options.time_limit = Some(limit);
        self
    }

    /// Sets the soft time limit, as [`Signature::soft_time_limit`] does.
    ///
    /// ```
    /// # use chordal::prelude::*;
    /// # use std::time::Duration;
    /// let canvas = Canvas::task("add", (2, 2)).soft_time_limit(Duration::from_secs(30));
    /// assert!(canvas.to_json().unwrap().contains(r#""soft_time_limit":30"#));
    /// ```
    pub fn soft_time_limit(mut self, limit: Duration) -> Self {
        self.extras().options.soft_time_limit = Some(limit);
        self
    }

    /// Delays the start, as [`Signature::countdown`] does.
    ///
    /// ```
    /// # use chordal::prelude::*;
    /// # use std::time::Duration;
    /// let canvas = Canvas::task("add", (2, 2)).countdown(Duration::from_secs(60));
    /// assert!(canvas.to_json().unwrap().contains(r#""countdown":60"#));
    /// ```
    pub fn countdown(mut self, delay: Duration) -> Self {
        self.extras().options.eta = Some(When::In(delay));
        self
    }

    /// Delays the start, as [`Signature::eta`] does.
    ///
    /// ```
    /// # use chordal::prelude::*;
    /// # use std::time::SystemTime;
    /// let canvas = Canvas::task("add", (2, 2)).eta(SystemTime::UNIX_EPOCH);
    /// assert!(canvas.to_json().unwrap().contains(r#""eta":"1970-01-01T00:00:00Z""#));
    /// ```
    pub fn eta(mut self, time: SystemTime) -> Self {
        self.extras().options.eta = Some(When::at(time));
        self
    }

    /// Limits the wait for the start, as [`Signature::expires`] does.
    ///
    /// ```
    /// # use chordal::prelude::*;
    /// # use std::time::Duration;
    /// let canvas = Canvas::task("add", (2, 2)).expires(Duration::from_secs(60));
    /// assert!(canvas.to_json().unwrap().contains(r#""expires":60"#));
    /// ```
    pub fn expires(mut self, after: Duration) -> Self {
        self.extras().options.expires = Some(When::In(after));
        self
    }

    /// Limits the wait for the start, as [`Signature::expires_at`] does.
    ///
    /// ```
    /// # use chordal::prelude::*;
    /// # use std::time::SystemTime;
    /// let canvas = Canvas::task("add", (2, 2)).expires_at(SystemTime::UNIX_EPOCH);
    /// assert!(canvas.to_json().unwrap().contains(r#""expires":"1970-01-01T00:00:00Z""#));
    /// ```
    pub fn expires_at(mut self, time: SystemTime) -> Self {
        self.extras().options.expires = Some(When::at(time));
        self
    }

    /// Adds a callback, as [`Signature::link`] does.
    ///
    /// ```
    /// # use chordal::prelude::*;
    /// # #[task] async fn add(x: i64, y: i64) -> i64 { x + y }
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> chordal::Result<()> {
    /// # let app = App::in_memory().tasks(tasks![add]).start().await?;
    /// let canvas = Canvas::task("add", (2, 2)).link(Canvas::task("add", (1,)));
    /// let sum = app.apply_async(canvas).await?;
    /// sum.get().await?;
    /// assert_eq!(sum.children::<i64>().await?[0].get().await?, 5);
    /// # app.shutdown().await }
    /// ```
    pub fn link(mut self, callback: Self) -> Self {
        let extras = self.extras();
        extras.depth = extras.depth.max(callback.depth());
        extras.link.push(callback);
        self.bounded()
    }

    /// Adds an errback, as [`Signature::link_error`] does.
    ///
    /// ```
    /// # use chordal::prelude::*;
    /// # #[task] async fn fail() -> Result<(), TaskError> { Err(TaskError::new("no")) }
    /// # #[task] async fn why(failure: TaskFailure) -> String { failure.message }
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> chordal::Result<()> {
    /// # let app = App::in_memory().tasks(tasks![fail, why]).start().await?;
    /// let canvas = Canvas::task("fail", ()).link_error(Canvas::task("why", ()));
    /// let failed = app.apply_async(canvas).await?;
    /// assert!(failed.get().await.is_err());
    /// assert_eq!(failed.children::<String>().await?[0].get().await?, "no");
    /// # app.shutdown().await }
    /// ```
    pub fn link_error(mut self, errback: Self) -> Self {
        let extras = self.extras();
        extras.depth = extras.depth.max(errback.depth());
        extras.link_error.push(errback);
        self.bounded()
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
    pub fn settled(mut self) -> Self {
        let refusal = match &mut self.form {
            Form::Group { settled, .. } | Form::Each { settled, .. } => {
                *settled = true;
                return self;
            }
            Form::Chain(steps, _) if !steps.is_empty() => {
                let last = steps.pop().expect("not empty");
                steps.push(last.settled());
                return self;
            }
            Form::Chord { body, .. } => {
                let unsettled = std::mem::replace(&mut **body, Self::refused(String::new()));
                **body = unsettled.settled();
                return self;
            }
            Form::Refused(_) => return self,
            Form::Task(sig) => format!("settled() needs a group; `{}` is a task", sig.name),
            Form::Fold(_) => "settled() goes on the group, before fold()".to_owned(),
            Form::Chain(..) => "settled() needs a group; this is an empty chain".to_owned(),
        };
        self.form = Form::Refused(refusal);
        self
    }

    /// Makes the second submission with `key` return the first one's handle, as
    /// [`Signature::idempotency_key`] does.
    ///
    /// ```
    /// # use chordal::prelude::*;
    /// # #[task] async fn add(x: i64, y: i64) -> i64 { x + y }
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> chordal::Result<()> {
    /// # let app = App::in_memory().tasks(tasks![add]).start().await?;
    /// let sum = || Canvas::task("add", (2, 2)).idempotency_key("sum");
    /// assert_eq!(app.apply_async(sum()).await?.id(), app.apply_async(sum()).await?.id());
    /// # app.shutdown().await }
    /// ```
    pub fn idempotency_key(mut self, key: impl Into<String>) -> Self {
        self.extras().idempotency_key = Some(key.into());
        self
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

    fn from_sig(name: Cow<'static, str>, args: &impl Serialize, takes_upstream: bool) -> Self {
        match Payload::encode(args).and_then(|args| arguments(&args)) {
            Ok((args, count)) => Self::from_form(Form::Task(TaskSig {
                name,
                args,
                count,
                mode: Mode::Once,
                takes_upstream,
                origin: Origin::Built,
            })),
            Err(error) => Self::refused(format!("arguments of `{name}`: {error}")),
        }
    }

    pub(crate) fn from_form(form: Form) -> Self {
        Self { form, extras: None }
    }

    /// Creates a canvas that contains others, unless it is too deep.
    pub(crate) fn nested(form: Form) -> Self {
        Self::from_form(form).bounded()
    }

    /// Refuses a canvas that is deeper than freezing allows, because dropping a canvas is recursive
    /// as well.
    fn bounded(self) -> Self {
        if self.depth() > MAX_DEPTH {
            return Self::refused(freeze::too_deep());
        }
        self
    }

    /// Returns the number of known levels, callbacks included. A single task has one.
    fn depth(&self) -> usize {
        let form = match &self.form {
            Form::Task(_) | Form::Refused(_) => 1,
            Form::Chain(_, depth) => 1 + depth,
            Form::Group { members, .. } => 1 + members.depth(),
            Form::Each { member, .. } => 1 + member.depth(),
            // The header is a part of the chord, not a level of its own.
            Form::Chord { header, body } => header.depth().max(1 + body.depth()),
            Form::Fold(fold) => fold.header.depth().max(2),
        };
        let callbacks = self.extras.as_ref().map_or(0, |extras| 1 + extras.depth);
        form.max(callbacks)
    }

    /// Returns the part that receives the upstream value.
    fn first(&mut self) -> Option<First<'_>> {
        match &mut self.form {
            Form::Task(sig) => Some(First::Task(sig, &mut self.extras)),
            Form::Refused(_) => None,
            Form::Chain(steps, _) => {
                let first = steps.iter_mut().find(|step| !step.is_empty_chain());
                first.and_then(Self::first)
            }
            Form::Group { members, .. } => Some(First::Members(members)),
            Form::Each { member, .. } => member.first(),
            Form::Chord { header, .. } => header.first(),
            Form::Fold(fold) => fold.header.first(),
        }
    }

    /// Applies a call to the first tasks.
    fn call(&mut self, call: &Arc<Call>) {
        match self.first() {
            Some(First::Task(sig, extras)) => call.apply(sig, extras),
            Some(First::Members(members)) => {
                let call = Arc::clone(call);
                members.change(move |member| member.call(&call));
            }
            None => {}
        }
    }

    /// Returns whether it contains at most `most` canvases, callbacks included. A group whose
    /// promised size fits is drawn; any other group is not.
    pub(crate) fn has_at_most(&self, most: usize) -> bool {
        self.fits(MAX_DEPTH, &mut { most })
    }

    fn fits(&self, depth: usize, left: &mut usize) -> bool {
        // A canvas that is too deep is refused later.
        let Some(depth) = depth.checked_sub(1) else {
            return true;
        };
        if *left == 0 {
            return false;
        }
        *left -= 1;
        let mut all = |canvases: &[Self]| canvases.iter().all(|canvas| canvas.fits(depth, left));
        let callbacks = self
            .extras
            .as_ref()
            .is_none_or(|extras| all(&extras.link) && all(&extras.link_error));
        callbacks
            && match &self.form {
                Form::Task(_) | Form::Refused(_) => true,
                Form::Chain(steps, _) => all(steps),
                Form::Group { members, .. } => {
                    members.at_most().is_some_and(|most| most <= *left)
                        && members.list().iter().all(|member| member.fits(depth, left))
                }
                Form::Each { member, .. } => member.fits(depth, left),
                Form::Chord { header, body } => header.fits(depth, left) && body.fits(depth, left),
                Form::Fold(fold) => fold.header.fits(depth, left),
            }
    }

    /// Returns whether it has more levels than `depth`. Draws all of its groups.
    fn is_deeper_than(&self, depth: usize) -> bool {
        let Some(depth) = depth.checked_sub(1) else {
            return true;
        };
        let deeper = |canvas: &Self| canvas.is_deeper_than(depth);
        let form = match &self.form {
            Form::Task(_) | Form::Refused(_) => false,
            Form::Chain(steps, _) => steps.iter().any(deeper),
            Form::Group { members, .. } => members.list().iter().any(deeper),
            Form::Each { member, .. } => deeper(member),
            // The header is a part of the chord, not a level of its own.
            Form::Chord { header, body } => header.is_deeper_than(depth + 1) || deeper(body),
            Form::Fold(fold) => fold.header.is_deeper_than(depth + 1) || depth == 0,
        };
        form || self
            .extras
            .as_ref()
            .is_some_and(|extras| extras.link.iter().chain(&extras.link_error).any(deeper))
    }

    fn is_empty_chain(&self) -> bool {
        matches!(&self.form, Form::Chain(steps, _) if steps.is_empty())
    }

    pub(crate) fn refused(reason: String) -> Self {
        Self::from_form(Form::Refused(reason))
    }

    /// Adds the settings of the surrounding group; the group's options take precedence.
    fn with_extras(mut self, outer: &Extras) -> Self {
        let extras = self.extras();
        extras.options = extras.options.merged_under(&outer.options);
        extras.link.extend_from_slice(&outer.link);
        extras.link_error.extend_from_slice(&outer.link_error);
        extras.depth = extras.depth.max(outer.depth);
        self.bounded()
    }

    fn extras(&mut self) -> &mut Extras {
        self.extras.get_or_insert_default()
    }
}

/// Returns the encoded arguments without their list header, and their number.
pub(crate) fn arguments(args: &Payload) -> Result<(Payload, u32), String> {
    let mut rest = args.bytes();
    // A unit is "no arguments"; MessagePack writes it as nil, not as an empty list.
    if rest == [rmp::Marker::Null.to_u8()] {
        return Ok((Payload::from(Vec::new()), 0));
    }
    let count = rmp::decode::read_array_len(&mut rest)
        .map_err(|_| "must be a tuple or a list".to_owned())?;
    Ok((Payload::from(rest.to_vec()), count))
}

impl BitOr for Canvas {
    type Output = Self;

    fn bitor(self, next: Self) -> Self {
        self.then(next)
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

/// Shows the shape and the task names, never the arguments.
impl fmt::Debug for Canvas {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.form {
            Form::Task(sig) => f.write_str(&sig.name),
            Form::Chain(steps, _) => {
                let mut tuple = f.debug_tuple("chain");
                for step in steps {
                    tuple.field(step);
                }
                tuple.finish()
            }
            Form::Group { members, .. } => match members.drawn() {
                Some([]) => f.write_str("group of 0"),
                Some(list) => write!(f, "group of {} ({:?}, …)", list.len(), list[0]),
                None => f.write_str("group that is still to be drawn"),
            },
            Form::Each { member, .. } => f.debug_tuple("each").field(member).finish(),
            Form::Chord { header, body } => {
                f.debug_tuple("chord").field(header).field(body).finish()
            }
            Form::Fold(fold) => {
                let mut tuple = f.debug_tuple("fold");
                tuple.field(&fold.header).field(&fold.task).finish()
            }
            Form::Refused(reason) => write!(f, "refused: {reason}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_canvas_is_as_small_as_its_task() {
        assert_eq!(size_of::<Form>(), size_of::<TaskSig>());
        assert_eq!(
            size_of::<Canvas>(),
            size_of::<TaskSig>() + size_of::<usize>()
        );
        assert!(size_of::<TaskSig>() <= 64);
    }

    #[test]
    fn every_level_is_counted_once() {
        let leaf = || Canvas::task("t", ());
        let group = || Canvas::group([leaf(), leaf() | leaf()]);
        for (canvas, depth) in [
            (leaf(), 1),
            (Canvas::chain([]), 1),
            (leaf() | leaf() | leaf(), 2),
            (group(), 3),
            (group() | leaf(), 3),
            (group() | group(), 4),
            (group() | group() | leaf(), 5),
            (leaf() | group(), 4),
            (leaf() | group() | leaf(), 4),
            (leaf().link(group()), 4),
            (leaf().link(group()).link_error(leaf()), 4),
            (Canvas::group([leaf()]).link_error(group() | group()), 5),
            ((leaf() | leaf()).queue("q") | leaf(), 3),
            (Canvas::refused("no".into()), 1),
        ] {
            assert_eq!(canvas.depth(), depth, "{canvas:?}");
        }
    }
}
