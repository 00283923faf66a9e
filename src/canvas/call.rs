//! The arguments of a call, which go to the first tasks of a canvas.

use std::sync::Arc;

use serde::Serialize;

use super::form::{Canvas, Extras, Form, Kwargs, LazyMembers, Origin, TaskSig};
use super::payload::Payload;
use super::task::arguments;

/// The part of a canvas that receives an upstream value or a call.
pub(crate) enum First<'a> {
    Task(&'a mut TaskSig, &'a mut Option<Box<Extras>>),
    Members(&'a mut LazyMembers),
}

/// A call's changes to the first tasks of a canvas.
pub(crate) enum Call {
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

impl Canvas {
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

    pub(crate) fn with_encoded_args(mut self, args: &Payload, count: u32) -> Self {
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

    pub(crate) fn with_encoded_kwargs(mut self, kwargs: &Kwargs) -> Self {
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

    /// Returns the part that receives the upstream value.
    pub(crate) fn first_part(&mut self) -> Option<First<'_>> {
        match &mut self.form {
            Form::Task(sig) => Some(First::Task(sig, &mut self.extras)),
            Form::Refused(_) => None,
            Form::Chain(steps, _) => {
                let first = steps.iter_mut().find(|step| !step.is_empty_chain());
                first.and_then(Self::first_part)
            }
            Form::Group { members, .. } => Some(First::Members(members)),
            Form::Each { member, .. } => member.first_part(),
            Form::Chord { header, .. } => header.first_part(),
            Form::Fold(fold) => fold.header.first_part(),
        }
    }

    /// Applies a call to the first tasks.
    pub(crate) fn call(&mut self, call: &Arc<Call>) {
        match self.first_part() {
            Some(First::Task(sig, extras)) => call.apply(sig, extras),
            Some(First::Members(members)) => {
                let call = Arc::clone(call);
                members.change(move |member| member.call(&call));
            }
            None => {}
        }
    }
}
