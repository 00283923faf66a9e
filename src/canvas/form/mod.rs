//! The data of a canvas: its form, its settings, and the signature of a task.

mod lazy_members;

use std::borrow::Cow;
use std::fmt;

use serde::{Deserialize, Serialize};

pub(crate) use lazy_members::{Draw, LazyMembers};

use super::group_policy::GroupPolicy;
use super::id::Id;
use super::options::Options;
use super::payload::Payload;
#[cfg(doc)]
use crate::error::SubmitError;

/// An untyped canvas, for shapes known only at run time.
///
/// Every [`Signature`](crate::Signature) wraps one. The compiler checks a signature; a `Canvas` is
/// checked when it is submitted. An unknown task, a wrong number or type of arguments, or a link on
/// a group returns a [`SubmitError::Canvas`] with the path to the faulty part, and nothing stays
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
    pub(crate) task_id: Option<Id>,
    /// The depth of the deepest callback.
    pub(crate) depth: usize,
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
        policy: GroupPolicy,
    },
    /// A group with one member per element of the list upstream.
    Each {
        member: Box<Canvas>,
        policy: GroupPolicy,
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

impl TaskSig {
    /// Returns whether the task takes arguments from upstream or from the call; a map takes its
    /// items only.
    pub(crate) fn takes_input(&self) -> bool {
        self.takes_upstream && self.mode == Mode::Once
    }

    /// Returns whether the types of its arguments still have to be checked.
    pub(crate) fn is_dynamic(&self) -> bool {
        self.origin != Origin::Typed
    }

    /// Returns whether keyword arguments given to the task itself are its own, even if it is
    /// immutable: Celery's `si(…)` takes them.
    pub(crate) fn takes_own_kwargs(&self) -> bool {
        self.mode == Mode::Once && (self.takes_upstream || self.origin != Origin::Called)
    }

    /// Marks the arguments' types as unchecked, because some came from a canvas.
    pub(crate) fn mark_dynamic(&mut self) {
        if self.origin == Origin::Typed {
            self.origin = Origin::Built;
        }
    }
}

/// How often one task calls its function.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Mode {
    Once,
    /// Once per item (each a list of arguments), in order; the value is the list of results.
    Map,
    /// As [`Once`](Self::Once), with an upstream value that the compiler has not checked: if it
    /// does not fit, the canvas is at fault, and another build of the task would not help.
    OnceUntyped,
}

/// A group, and the task that folds the values of its members.
#[derive(Clone)]
pub(crate) struct FoldSig {
    pub(crate) header: Canvas,
    pub(crate) task: Cow<'static, str>,
    pub(crate) init: Payload,
    pub(crate) order: Order,
    /// Whether the compiler has not checked the types.
    pub(crate) dynamic: bool,
}

/// The order in which a fold takes the values of the members.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Order {
    /// In member order.
    Members,
    /// In the order in which the members end.
    Arrivals,
}

impl Order {
    /// Returns the name of the method that a user calls.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Members => "fold()",
            Self::Arrivals => "fold_unordered()",
        }
    }
}

impl Extras {
    /// Adds arguments by name; they replace earlier ones.
    pub(crate) fn add_kwargs(&mut self, kwargs: &Kwargs) {
        self.kwargs
            .retain(|(name, _)| !kwargs.iter().any(|(new, _)| new == name));
        self.kwargs.extend_from_slice(kwargs);
    }
}

impl Canvas {
    pub(crate) fn from_form(form: Form) -> Self {
        Self { form, extras: None }
    }

    pub(crate) fn refused(reason: String) -> Self {
        Self::from_form(Form::Refused(reason))
    }

    pub(crate) fn extras(&mut self) -> &mut Extras {
        self.extras.get_or_insert_default()
    }

    pub(crate) fn is_empty_chain(&self) -> bool {
        matches!(&self.form, Form::Chain(steps, _) if steps.is_empty())
    }

    /// Returns whether its value is the list of a group.
    pub(crate) fn ends_in_group(&self) -> bool {
        match &self.form {
            Form::Group { .. } | Form::Each { .. } => true,
            Form::Chain(steps, _) => steps.last().is_some_and(Self::ends_in_group),
            Form::Chord { body, .. } => body.ends_in_group(),
            Form::Task(_) | Form::Fold(_) | Form::Refused(_) => false,
        }
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
}
