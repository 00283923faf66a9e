//! Pure: what a user composes, what becomes of it, and the machines that decide each step.
//!
//! Nothing here knows actors, stores, clocks or randomness: time and ids come in as arguments.

mod chain;
mod chord;
pub(crate) mod freeze;
mod group;
pub(crate) mod id;
pub(crate) mod machine;
pub(crate) mod options;
pub(crate) mod outcome;
pub(crate) mod payload;
pub(crate) mod retry;
mod signature;
pub(crate) mod state;

use std::borrow::Cow;
use std::fmt;
use std::ops::BitOr;
use std::time::{Duration, SystemTime};

use serde::Serialize;

pub use chain::chain;
pub use chord::chord;
pub use group::{Members, group, group_of};
use options::{Options, When};
use payload::Payload;
pub use signature::{Accepts, Immutable, Signature};

/// A canvas without types: for shapes known only at run time.
///
/// Every [`Signature`] is one inside. Where the compiler checks a signature, a `Canvas` is checked
/// when it is submitted (unknown task, wrong number of arguments, a link on a group: an
/// [`Error::Canvas`](crate::Error::Canvas) with the path to the place, and nothing is stored) and
/// when a task decodes its arguments.
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

/// What is set on a canvas beside its form.
#[derive(Clone, Default)]
pub(crate) struct Extras {
    pub(crate) options: Options,
    pub(crate) link: Vec<Canvas>,
    pub(crate) link_error: Vec<Canvas>,
    pub(crate) idempotency_key: Option<String>,
}

#[derive(Clone)]
pub(crate) enum Form {
    Task(TaskSig),
    Chain(Vec<Canvas>),
    Group {
        members: Vec<Canvas>,
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
    /// What could not be built: refused with this reason when submitted, so that building a
    /// canvas need not be fallible.
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
    /// Takes the value from upstream, if there is one, as its first argument.
    pub(crate) takes_upstream: bool,
}

/// How often one task calls its function.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(crate) enum Mode {
    Once,
    /// Once per item (each a list of arguments), in order; the value is the list of results.
    Map,
}

impl Canvas {
    /// One task by its registered name; `args` is a tuple or list of arguments. In a chain the
    /// value from upstream goes before them.
    pub fn task(name: impl Into<Cow<'static, str>>, args: impl Serialize) -> Self {
        Self::from_sig(name.into(), &args, true)
    }

    /// As [`Canvas::task`], ignoring what comes from upstream.
    pub fn immutable(name: impl Into<Cow<'static, str>>, args: impl Serialize) -> Self {
        Self::from_sig(name.into(), &args, false)
    }

    /// The steps one after the other, each with the value of the one before it.
    pub fn chain(steps: impl IntoIterator<Item = Self>) -> Self {
        steps
            .into_iter()
            .fold(Self::from_form(Form::Chain(Vec::new())), Self::then)
    }

    /// The members in parallel; its value is the list of theirs, in member order.
    pub fn group(members: impl IntoIterator<Item = Self>) -> Self {
        Self::from_form(Form::Group {
            members: members.into_iter().collect(),
            settled: false,
        })
    }

    /// The header's members in parallel, then `body` with the list of their values.
    pub fn chord(header: impl IntoIterator<Item = Self>, body: Self) -> Self {
        Self::group(header).then(body)
    }

    /// Gives the canvas the types that its author knows it to have. They are not checked here: a
    /// wrong one shows as a failure of the task, or as [`Error::Decode`](crate::Error::Decode).
    pub fn typed<I, O>(self) -> Signature<I, O> {
        Signature::from_canvas(self)
    }

    /// Sends its tasks to this queue, as [`Signature::queue`] does.
    pub fn queue(mut self, queue: impl Into<Cow<'static, str>>) -> Self {
        self.extras().options.queue = Some(queue.into());
        self
    }

    /// Sets the priority, as [`Signature::priority`] does.
    pub fn priority(mut self, priority: u8) -> Self {
        self.extras().options.priority = Some(priority);
        self
    }

    /// Sets the number of retries, as [`Signature::max_retries`] does.
    pub fn max_retries(mut self, max_retries: u32) -> Self {
        self.extras().options.max_retries = Some(max_retries);
        self
    }

    /// Sets the hard time limit, as [`Signature::time_limit`] does.
    pub fn time_limit(mut self, limit: Duration) -> Self {
        self.extras().options.time_limit = Some(limit);
        self
    }

    /// Sets the soft time limit, as [`Signature::soft_time_limit`] does.
    pub fn soft_time_limit(mut self, limit: Duration) -> Self {
        self.extras().options.soft_time_limit = Some(limit);
        self
    }

    /// Delays the start, as [`Signature::countdown`] does.
    pub fn countdown(mut self, delay: Duration) -> Self {
        self.extras().options.eta = Some(When::In(delay));
        self
    }

    /// Delays the start, as [`Signature::eta`] does.
    pub fn eta(mut self, time: SystemTime) -> Self {
        self.extras().options.eta = Some(When::at(time));
        self
    }

    /// Limits the wait for the start, as [`Signature::expires`] does.
    pub fn expires(mut self, after: Duration) -> Self {
        self.extras().options.expires = Some(When::In(after));
        self
    }

    /// Limits the wait for the start, as [`Signature::expires_at`] does.
    pub fn expires_at(mut self, time: SystemTime) -> Self {
        self.extras().options.expires = Some(When::at(time));
        self
    }

    /// Adds a callback, as [`Signature::link`] does.
    pub fn link(mut self, callback: Self) -> Self {
        self.extras().link.push(callback);
        self
    }

    /// Adds an errback, as [`Signature::link_error`] does.
    pub fn link_error(mut self, errback: Self) -> Self {
        self.extras().link_error.push(errback);
        self
    }

    /// Makes the group keep its failures, as [`Signature::settled`] does.
    pub fn settled(mut self) -> Self {
        let refusal = match &mut self.form {
            Form::Group { settled, .. } | Form::Each { settled, .. } => {
                *settled = true;
                return self;
            }
            Form::Chain(steps) if !steps.is_empty() => {
                let last = steps.pop().expect("not empty");
                steps.push(last.settled());
                return self;
            }
            Form::Chord { body, .. } => {
                **body = body.clone().settled();
                return self;
            }
            Form::Refused(_) => return self,
            Form::Task(sig) => format!("settled() needs a group; `{}` is a task", sig.name),
            Form::Chain(_) => "settled() needs a group; this is an empty chain".to_owned(),
        };
        self.form = Form::Refused(refusal);
        self
    }

    /// Makes the second submission with `key` return the first one's handle, as
    /// [`Signature::idempotency_key`] does.
    pub fn idempotency_key(mut self, key: impl Into<String>) -> Self {
        self.extras().idempotency_key = Some(key.into());
        self
    }

    /// `self`, then `next` with its value: a chain, or a chord when `self` ends in a group
    /// (celery/canvas.py, `group.__or__`).
    pub(crate) fn then(mut self, next: Self) -> Self {
        let next = match next {
            Self {
                form: Form::Chain(steps),
                extras: None,
            } => return steps.into_iter().fold(self, Self::then),
            next => next,
        };
        match &mut self.form {
            Form::Chain(steps) if self.extras.is_none() => {
                match steps.pop() {
                    Some(last) => steps.extend(last.followed_by(next)),
                    None => steps.push(next),
                }
                self
            }
            _ => {
                let mut steps = self.followed_by(next);
                if steps.len() == 1 {
                    steps.remove(0)
                } else {
                    Self::from_form(Form::Chain(steps))
                }
            }
        }
    }

    /// The last step of a chain and what follows it: one chord, or two steps.
    fn followed_by(self, next: Self) -> Vec<Self> {
        match self.form {
            Form::Group { .. } | Form::Each { .. } => vec![Self::from_form(Form::Chord {
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
            })),
            Err(error) => Self::refused(format!("arguments of `{name}`: {error}")),
        }
    }

    pub(crate) fn from_form(form: Form) -> Self {
        Self { form, extras: None }
    }

    pub(crate) fn refused(reason: String) -> Self {
        Self::from_form(Form::Refused(reason))
    }

    fn extras(&mut self) -> &mut Extras {
        self.extras.get_or_insert_default()
    }
}

/// The encoded arguments without the head of their list, and their number.
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
            Form::Chain(steps) => {
                let mut tuple = f.debug_tuple("chain");
                for step in steps {
                    tuple.field(step);
                }
                tuple.finish()
            }
            Form::Group { members, .. } => {
                write!(f, "group of {}", members.len())?;
                match members.first() {
                    Some(first) => write!(f, " ({first:?}, …)"),
                    None => Ok(()),
                }
            }
            Form::Each { member, .. } => f.debug_tuple("each").field(member).finish(),
            Form::Chord { header, body } => {
                f.debug_tuple("chord").field(header).field(body).finish()
            }
            Form::Refused(reason) => write!(f, "refused: {reason}"),
        }
    }
}
