//! Freezing: turns a canvas into a tree of numbered nodes before it is stored.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::binding::bind;
use super::depth::nested;
use super::id::{ORIGIN_STREAM, Seq};
use super::machine::subtasks::SubtaskPlan;
use super::name::Name;
use super::options::{Inherited, MAX_NAME, Options, TimeLimits};
use super::outcome::Value;
use super::parameter::{Parameter, takes_two, usage};
use super::payload::Payload;
use super::{Canvas, Extras, First, FoldSig, Form, Kwargs, Mode, Order, TaskSig};

/// The maximum depth of a canvas. Each level is a level of recursion here and in the codec, on a
/// caller's thread of perhaps 2 MB, which an unoptimised build fills at about 230 levels.
pub(crate) const MAX_DEPTH: usize = 128;

/// Returns the reason for refusing a deeper canvas.
pub(crate) fn too_deep() -> String {
    format!("canvases nest at most {MAX_DEPTH} deep")
}

/// One stored node of a workflow: a task, chain, group or chord.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Node {
    /// Numbered depth first, in order: a node's number is below the numbers of all nodes within it,
    /// and those are below the number of its next sibling.
    pub(crate) seq: Seq,
    #[serde(deserialize_with = "nested")]
    pub(crate) def: Def,
    /// Rare, so boxed.
    #[serde(deserialize_with = "nested")]
    pub(crate) callbacks: Option<Box<Callbacks>>,
}

/// The callbacks of a node, which run after its outcome and do not change it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Callbacks {
    pub(crate) link: Vec<Node>,
    pub(crate) link_error: Vec<Node>,
    /// On a chain: whether its last step has the errbacks itself.
    pub(crate) last_has_them: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Def {
    Task(TaskDef),
    Chain(Vec<Node>),
    Group(FanOutDef),
    Chord {
        header: FanOutDef,
        body: Arc<Node>,
    },
    Fold {
        header: FanOutDef,
        /// The task that is called for each member's value.
        body: Arc<Node>,
        init: Payload,
        order: Order,
    },
}

/// One task as it is called.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct TaskDef {
    pub(crate) name: Name,
    /// The arguments, or the items of a map, encoded one after the other.
    pub(crate) args: Payload,
    pub(crate) count: u32,
    pub(crate) mode: Mode,
    /// Whether the upstream value is the first argument.
    pub(crate) takes_upstream: bool,
    /// Rare, so boxed.
    pub(crate) options: Option<Box<Options>>,
}

/// The members of a group or of a chord's header.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct FanOutDef {
    pub(crate) members: Members,
    pub(crate) settled: bool,
    /// Whether a body follows and needs the list, so that a failure of the group is a chord's
    /// failure.
    pub(crate) followed: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Members {
    /// In the node. Shared with the supervisor of the group.
    Inline(Arc<Vec<Node>>),
    /// In records of their own, beside the node.
    Stored(u64),
    /// One per element of the upstream list, numbered when the list is known. Each member takes
    /// `span` numbers, counted from the template's number.
    Each {
        template: Box<Node>,
        span: u64,
        /// The errbacks that each member has, for the group as a whole, because it may fail before
        /// it has members.
        link_error: Vec<Node>,
    },
}

/// A refused canvas: the reason and the path of the faulty part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CanvasError {
    /// For example `chord.header[2].chain[1]`; empty for the submitted canvas itself.
    pub(crate) path: String,
    pub(crate) reason: Reason,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Reason {
    Wrong(String),
    /// The arguments of this task are too large.
    TooLarge {
        task: String,
        excess: SizeExceeded,
    },
    /// The name of a queue is too long.
    QueueName(SizeExceeded),
}

/// A size above the limit, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SizeExceeded {
    pub(crate) bytes: u64,
    pub(crate) limit: u64,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Wrong(reason) => f.write_str(reason),
            Self::TooLarge { task, excess } => write!(f, "the arguments of `{task}` take {excess}"),
            Self::QueueName(excess) => write!(f, "the name of its queue takes {excess}"),
        }
    }
}

impl fmt::Display for SizeExceeded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { bytes, limit } = self;
        write!(f, "{bytes} bytes, and the limit is {limit}")
    }
}

impl fmt::Display for CanvasError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.path.is_empty() {
            write!(f, "{}: ", self.path)?;
        }
        self.reason.fmt(f)
    }
}

/// The registered tasks and their parameters.
pub(crate) trait Catalogue {
    /// Returns the parameters of task `name`, or `None` if it is not registered.
    fn parameters(&self, name: &str) -> Option<&'static [Parameter]>;

    /// Checks that task `name` may be called with this many bytes.
    fn admit(&self, name: &str, bytes: usize) -> Result<(), SizeExceeded>;

    /// Returns the limits with which task `name` is registered.
    fn limits(&self, _name: &str) -> TimeLimits {
        TimeLimits::default()
    }
}

/// Receives the members of groups as they are frozen, so that they need not all be in memory.
pub(crate) trait MemberSink {
    /// The members of one group received so far.
    type Fan: Default;

    /// Receives the next member of group or chord `seq`.
    fn member(&mut self, seq: Seq, fan: &mut Self::Fan, node: Node) -> Result<(), CanvasError>;

    /// Ends the members of group or chord `seq`.
    fn members(&mut self, seq: Seq, fan: Self::Fan) -> Result<Members, CanvasError>;
}

/// Keeps the members in their node.
struct InPlace;

impl MemberSink for InPlace {
    type Fan = Vec<Node>;

    fn member(&mut self, _: Seq, fan: &mut Vec<Node>, node: Node) -> Result<(), CanvasError> {
        fan.push(node);
        Ok(())
    }

    fn members(&mut self, _: Seq, fan: Vec<Node>) -> Result<Members, CanvasError> {
        Ok(Members::Inline(fan.into()))
    }
}

/// Freezes `canvas`: draws it, checks it and numbers every node; also returns the number of nodes.
/// If the canvas is refused, the members in `sink` are useless.
pub(crate) fn freeze(
    canvas: Canvas,
    catalogue: &dyn Catalogue,
    sink: &mut impl MemberSink,
) -> Result<(Node, Seq), CanvasError> {
    let mut freezer = Freezer {
        catalogue,
        sink,
        next: 0,
        depth: 0,
        within_callbacks: 0,
        callbacks: 0,
    };
    let node = freezer.node(canvas, &Inherited::default(), false);
    Ok((node.map_err(CanvasError::outermost)?, freezer.next))
}

/// The maximum number of nodes in callbacks. An errback of a group is copied to each member, so
/// groups in errbacks of groups multiply, and a few kilobytes of JSON would fill any memory.
pub(crate) const MAX_CALLBACKS: u64 = 1 << 20;

pub(crate) fn too_many_callbacks() -> String {
    format!("its callbacks, copied to every member of their groups, are more than {MAX_CALLBACKS}")
}

/// Freezes a canvas that a running task starts, in one piece; it is numbered later.
/// `is_replacement`: the canvas replaces the task, which then needs the list of a group
/// (celery/app/task.py, `replace`).
pub(crate) fn plan_subtask(
    canvas: Canvas,
    is_replacement: bool,
    catalogue: &dyn Catalogue,
) -> Result<SubtaskPlan, CanvasError> {
    let (mut node, span) = freeze(canvas, catalogue, &mut InPlace)?;
    if is_replacement {
        node.follow();
    }
    Ok(SubtaskPlan {
        node: Box::new(node),
        span,
    })
}

struct Freezer<'a, G> {
    catalogue: &'a dyn Catalogue,
    sink: &'a mut G,
    next: Seq,
    depth: usize,
    /// The number of callbacks around the node that is being frozen.
    within_callbacks: usize,
    /// The number of callback nodes so far.
    callbacks: u64,
}

impl<G: MemberSink> Freezer<'_, G> {
    /// Freezes one node. `has_upstream`: it receives an upstream value. `outer`: the options passed
    /// on by its parent.
    fn node(
        &mut self,
        canvas: Canvas,
        outer: &Inherited,
        has_upstream: bool,
    ) -> Result<Node, CanvasError> {
        let Canvas { form, extras } = canvas;
        let extras = extras.map_or_else(Extras::default, |extras| *extras);
        let (options, effective) = outer.resolve(&extras.options);
        check(&effective, &extras)?;
        if self.depth == MAX_DEPTH {
            return Err(CanvasError::at_top(&too_deep()));
        }
        self.depth += 1;
        let seq = self.number()?;
        let mut link_error = extras.link_error;
        let mut last_has_them = false;
        let def = match form {
            Form::Refused(reason) => return Err(CanvasError::at_top(&reason)),
            Form::Task(sig) => self.task(sig, extras.kwargs, effective, has_upstream)?,
            Form::Chain(mut steps, _) => {
                // (celery/canvas.py, `prepare_steps`: every step gets the chain's errbacks. Here
                // they belong to the chain, but each member of a group at its end needs them.)
                if let Some(last) = steps.pop_if(|last| last.ends_in_group()) {
                    last_has_them = !link_error.is_empty();
                    steps.push(last.with_errbacks(&link_error));
                }
                self.chain(steps, effective, has_upstream)?
            }
            form @ (Form::Group { .. } | Form::Each { .. }) => {
                if !extras.link.is_empty() {
                    return Err(CanvasError::at_top("cannot add link to group: use a chord"));
                }
                let errbacks = std::mem::take(&mut link_error);
                let inherited = outer.to_members(options);
                Def::Group(self.fan("group", seq, form, &inherited, has_upstream, &errbacks)?)
            }
            Form::Chord { header, body } => {
                let mut body = *body;
                if body.ends_in_group() {
                    body = body.with_errbacks(&std::mem::take(&mut link_error));
                }
                self.chord(seq, *header, body, effective, has_upstream)?
            }
            Form::Fold(fold) => self.fold(seq, *fold, effective, has_upstream)?,
        };
        let callbacks = if extras.link.is_empty() && link_error.is_empty() {
            None
        } else {
            Some(Box::new(Callbacks {
                link: self.callbacks("link", extras.link)?,
                link_error: self.callbacks("link_error", link_error)?,
                last_has_them,
            }))
        };
        self.depth -= 1;
        Ok(Node {
            seq,
            def,
            callbacks,
        })
    }

    fn task(
        &self,
        sig: TaskSig,
        kwargs: Kwargs,
        options: Options,
        has_upstream: bool,
    ) -> Result<Def, CanvasError> {
        let parameters = self.parameters(&sig.name)?;
        let takes_upstream = has_upstream && sig.takes_input();
        let bound = bind(&sig, kwargs, takes_upstream, parameters)
            .map_err(|reason| CanvasError::at_top(&reason))?;
        let mode = match sig.mode {
            Mode::Once if sig.is_dynamic() && takes_upstream => Mode::OnceUntyped,
            mode => mode,
        };
        let (args, count) = bound.unwrap_or((sig.args, sig.count));
        self.admit(&sig.name, &args)?;
        self.check_limits(&sig.name, &options)?;
        Ok(Def::Task(TaskDef {
            name: sig.name.into(),
            args,
            count,
            mode,
            takes_upstream,
            options: (options != Options::default()).then(|| Box::new(options)),
        }))
    }

    /// Lets an immutable errback from JSON whose task takes a failure receive the failure, although
    /// Celery never passes it. An errback with a failure of its own keeps that one.
    fn take_failure(&self, errback: &mut Canvas) {
        match errback.first() {
            Some(First::Task(sig, _)) => {
                if sig.is_dynamic()
                    && let Some([first, ..]) = self.catalogue.parameters(&sig.name)
                    && first.is_failure()
                {
                    let own = sig.args.split(sig.count.min(1)).unwrap_or_default();
                    sig.takes_upstream |= own.iter().all(|own| first.check(own).is_err());
                }
            }
            Some(First::Members(members)) => {
                let members = members.list_mut().iter_mut();
                members.for_each(|member| self.take_failure(member));
            }
            None => {}
        }
    }

    /// Freezes a chain. Its options apply to every step without its own; its times apply to the
    /// first step (celery/canvas.py, `_chain.run`, applies all of them there).
    fn chain(
        &mut self,
        steps: Vec<Canvas>,
        options: Options,
        has_upstream: bool,
    ) -> Result<Def, CanvasError> {
        let (timed, others) = Inherited::to_parts(options);
        let mut nodes = Vec::with_capacity(steps.len());
        for (i, step) in steps.into_iter().enumerate() {
            let (inherited, has_upstream) = if i == 0 {
                (&timed, has_upstream)
            } else {
                (&others, true)
            };
            if let Some(before) = nodes.last_mut() {
                Node::follow(before);
            }
            let node = self.node(step, inherited, has_upstream);
            nodes.push(node.map_err(|error| error.within(&format!("chain[{i}]")))?);
        }
        Ok(Def::Chain(nodes))
    }

    /// Freezes a chord. Its options apply to the members and the body without their own; its times
    /// apply to the body (celery/canvas.py, `_chord.run`, applies all of them there).
    fn chord(
        &mut self,
        seq: Seq,
        header: Canvas,
        body: Canvas,
        options: Options,
        has_upstream: bool,
    ) -> Result<Def, CanvasError> {
        let (timed, others) = Inherited::to_parts(options);
        let header = self.header("chord.header", seq, header, &others, has_upstream)?;
        let body = self
            .node(body, &timed, true)
            .map_err(|error| error.within("chord.body"))?;
        Ok(Def::Chord {
            header,
            body: Arc::new(body),
        })
    }

    /// Freezes the header of a chord or fold.
    fn header(
        &mut self,
        path: &str,
        seq: Seq,
        header: Canvas,
        outer: &Inherited,
        has_upstream: bool,
    ) -> Result<FanOutDef, CanvasError> {
        let Canvas { form, extras } = header;
        let extras = extras.map_or_else(Extras::default, |extras| *extras);
        if !extras.link.is_empty() {
            return Err(CanvasError::at_top("cannot add link to group: use a chord").within(path));
        }
        let (options, effective) = outer.resolve(&extras.options);
        check(&effective, &extras).map_err(|error| error.within(path))?;
        let inherited = outer.to_members(options);
        self.fan(
            path,
            seq,
            form,
            &inherited,
            has_upstream,
            &extras.link_error,
        )
    }

    /// Freezes a fold. Its options apply to its members and its function, as a chord's do to its
    /// members and its body.
    fn fold(
        &mut self,
        seq: Seq,
        fold: FoldSig,
        options: Options,
        has_upstream: bool,
    ) -> Result<Def, CanvasError> {
        let FoldSig {
            header,
            task,
            init,
            order,
            dynamic,
        } = fold;
        let (_, others) = Inherited::to_parts(options.clone());
        let header = self.header("fold.header", seq, header, &others, has_upstream)?;
        let parameters = self.parameters(&task)?;
        if !takes_two(parameters) {
            let usage = usage(parameters);
            return Err(CanvasError::at_top(&format!(
                "{} calls `{task}` with the accumulator and one value, but it takes ({usage})",
                order.name()
            )));
        }
        if let Some(first) = parameters.first()
            && dynamic
        {
            first.check(&init).map_err(|reason| {
                CanvasError::at_top(&format!("the first value of {}: {reason}", order.name()))
            })?;
        }
        self.admit(&task, &init)?;
        self.check_limits(&task, &options)?;
        let body = Node {
            seq: self.number()?,
            def: Def::Task(TaskDef {
                name: task.into(),
                args: Payload::from(Vec::new()),
                count: 0,
                mode: match dynamic {
                    true => Mode::OnceUntyped,
                    false => Mode::Once,
                },
                takes_upstream: true,
                options: (options != Options::default()).then(|| Box::new(options)),
            }),
            callbacks: None,
        };
        Ok(Def::Fold {
            header,
            body: Arc::new(body),
            init,
            order,
        })
    }

    fn admit(&self, task: &str, payload: &Payload) -> Result<(), CanvasError> {
        let admitted = self.catalogue.admit(task, payload.bytes().len());
        admitted.map_err(|excess| CanvasError {
            path: String::new(),
            reason: Reason::TooLarge {
                task: task.to_owned(),
                excess,
            },
        })
    }

    /// Refuses contradictory limits; registered limits have been checked already.
    fn check_limits(&self, task: &str, options: &Options) -> Result<(), CanvasError> {
        if options.time_limit.is_none() && options.soft_time_limit.is_none() {
            return Ok(());
        }
        let limits = options.limits_over(self.catalogue.limits(task));
        limits
            .check()
            .map_err(|error| CanvasError::at_top(&format!("task `{task}`: {error}")))
    }

    fn parameters(&self, task: &str) -> Result<&'static [Parameter], CanvasError> {
        self.catalogue.parameters(task).ok_or_else(|| {
            CanvasError::at_top(&format!(
                "task `{task}` is not registered: list it in `.tasks(tasks![..])`"
            ))
        })
    }

    /// Freezes a group. Its options and errbacks go to every member (celery/canvas.py,
    /// `group.link_error`).
    fn fan(
        &mut self,
        path: &str,
        seq: Seq,
        form: Form,
        inherited: &Inherited,
        has_upstream: bool,
        errbacks: &[Canvas],
    ) -> Result<FanOutDef, CanvasError> {
        match form {
            Form::Group { members, settled } => {
                let mut drawn = G::Fan::default();
                for (i, member) in members.into_iter().enumerate() {
                    let member = self.node(member.with_errbacks(errbacks), inherited, has_upstream);
                    let member = member.map_err(|error| error.within(&format!("{path}[{i}]")))?;
                    self.sink.member(seq, &mut drawn, member)?;
                }
                Ok(FanOutDef {
                    members: self.sink.members(seq, drawn)?,
                    settled,
                    followed: false,
                })
            }
            Form::Each { member, settled } => {
                if !has_upstream {
                    return Err(
                        CanvasError::at_top("each() needs a list from upstream").within(path)
                    );
                }
                // A template is numbered from 0; its instances get their numbers at run time. It is
                // instantiated in one piece, so its members stay in the node.
                let mut freezer = Freezer {
                    catalogue: self.catalogue,
                    sink: &mut InPlace,
                    next: 0,
                    depth: self.depth,
                    within_callbacks: self.within_callbacks,
                    callbacks: self.callbacks,
                };
                let template = freezer
                    .node(member.with_errbacks(errbacks), inherited, true)
                    .map_err(|error| error.within(&format!("{path}[each]")))?;
                let span = freezer.next;
                self.callbacks = freezer.callbacks;
                let link_error = self
                    .callbacks("link_error", errbacks.to_vec())
                    .map_err(|error| error.within(path))?;
                Ok(FanOutDef {
                    members: Members::Each {
                        template: Box::new(template),
                        span,
                        link_error,
                    },
                    settled,
                    followed: false,
                })
            }
            _ => unreachable!("only groups become a fan"),
        }
    }

    fn callbacks(&mut self, kind: &str, canvases: Vec<Canvas>) -> Result<Vec<Node>, CanvasError> {
        self.within_callbacks += 1;
        let nodes = canvases
            .into_iter()
            .enumerate()
            .map(|(i, mut canvas)| {
                if kind == "link_error" {
                    self.take_failure(&mut canvas);
                }
                self.node(canvas, &Inherited::default(), true)
                    .map_err(|error| error.within(&format!("{kind}[{i}]")))
            })
            .collect::<Result<_, _>>()?;
        self.within_callbacks -= 1;
        Ok(nodes)
    }

    fn number(&mut self) -> Result<Seq, CanvasError> {
        if self.next >= ORIGIN_STREAM {
            return Err(CanvasError::at_top("a workflow holds at most 2^40 tasks"));
        }
        self.callbacks += u64::from(self.within_callbacks > 0);
        if self.callbacks > MAX_CALLBACKS {
            return Err(CanvasError::at_top(&too_many_callbacks()));
        }
        self.next += 1;
        Ok(self.next - 1)
    }
}

impl Canvas {
    /// Returns whether its value is the list of a group.
    pub(super) fn ends_in_group(&self) -> bool {
        match &self.form {
            Form::Group { .. } | Form::Each { .. } => true,
            Form::Chain(steps, _) => steps.last().is_some_and(Self::ends_in_group),
            Form::Chord { body, .. } => body.ends_in_group(),
            Form::Task(_) | Form::Fold(_) | Form::Refused(_) => false,
        }
    }

    fn with_errbacks(mut self, errbacks: &[Canvas]) -> Self {
        if !errbacks.is_empty() {
            self.extras
                .get_or_insert_default()
                .link_error
                .extend_from_slice(errbacks);
        }
        self
    }
}

impl CanvasError {
    pub(crate) fn at_top(reason: &str) -> Self {
        Self {
            path: String::new(),
            reason: Reason::Wrong(reason.to_owned()),
        }
    }

    pub(crate) fn within(self, path: &str) -> Self {
        Self {
            path: format!(".{path}{}", self.path),
            ..self
        }
    }

    /// Completes the path at the outermost canvas.
    pub(crate) fn outermost(self) -> Self {
        Self {
            path: self.path.trim_start_matches('.').to_owned(),
            ..self
        }
    }
}

/// Returns the sizes if the name is too long.
pub(crate) fn over_long(name: &str) -> Option<SizeExceeded> {
    (name.len() > MAX_NAME).then_some(SizeExceeded {
        bytes: name.len() as u64,
        limit: MAX_NAME as u64,
    })
}

/// Refuses options that no task and no nested canvas can have.
fn check(options: &Options, extras: &Extras) -> Result<(), CanvasError> {
    if options.priority.is_some_and(|priority| priority > 9) {
        return Err(CanvasError::at_top("a priority is 0 to 9"));
    }
    if let Some(excess) = options.queue.as_deref().and_then(over_long) {
        return Err(CanvasError {
            path: String::new(),
            reason: Reason::QueueName(excess),
        });
    }
    let limits = [options.time_limit, options.soft_time_limit];
    if limits.iter().flatten().any(Duration::is_zero) {
        return Err(CanvasError::at_top("a time limit of zero lets nothing run"));
    }
    if extras.idempotency_key.is_some() {
        return Err(CanvasError::at_top(
            "an idempotency key belongs on the canvas that is submitted, not inside it",
        ));
    }
    Ok(())
}

impl Def {
    /// Returns the group or header whose members a barrier counts; a task and a chain have none.
    pub(crate) fn header(&self) -> Option<&FanOutDef> {
        match self {
            Self::Group(header) | Self::Chord { header, .. } | Self::Fold { header, .. } => {
                Some(header)
            }
            Self::Task(_) | Self::Chain(_) => None,
        }
    }
}

impl Node {
    /// Returns the node with all its numbers increased by `by`: an instance of a template.
    pub(crate) fn shifted(&self, by: u64) -> Self {
        let mut node = self.clone();
        node.shift(by);
        node
    }

    fn shift(&mut self, by: u64) {
        self.seq += by;
        match &mut self.def {
            Def::Task(_) => {}
            Def::Chain(steps) => steps.iter_mut().for_each(|step| step.shift(by)),
            Def::Group(fan) => fan.shift(by),
            Def::Chord { header, body } | Def::Fold { header, body, .. } => {
                header.shift(by);
                Arc::make_mut(body).shift(by);
            }
        }
        if let Some(callbacks) = &mut self.callbacks {
            let Callbacks {
                link, link_error, ..
            } = &mut **callbacks;
            link.iter_mut()
                .chain(link_error)
                .for_each(|node| node.shift(by));
        }
    }

    /// Marks the group whose list is its value as followed: it is in effect the header of a chord.
    fn follow(&mut self) {
        match &mut self.def {
            Def::Task(_) | Def::Fold { .. } => {}
            Def::Group(fan) => fan.followed = true,
            Def::Chain(steps) => steps.last_mut().into_iter().for_each(Self::follow),
            Def::Chord { body, .. } => Arc::make_mut(body).follow(),
        }
    }

    /// Returns the group whose list is its value, if there is one.
    pub(crate) fn last_group(&self) -> Option<(Seq, &FanOutDef)> {
        match &self.def {
            Def::Task(_) | Def::Fold { .. } => None,
            Def::Group(fan) => Some((self.seq, fan)),
            Def::Chain(steps) => steps.last()?.last_group(),
            Def::Chord { body, .. } => body.last_group(),
        }
    }

    /// Returns whether it is only the header of the body that follows, or a chord with such a body.
    /// If it fails before it has started, the body is the first to fail.
    pub(crate) fn is_header(&self) -> bool {
        match &self.def {
            Def::Task(_) | Def::Fold { .. } => false,
            Def::Group(fan) => fan.followed,
            Def::Chain(steps) => matches!(&steps[..], [only] if only.is_header()),
            Def::Chord { body, .. } => body.is_header(),
        }
    }

    /// Returns whether the node after it is the body of the header `failed`, a group or chord in
    /// it.
    pub(crate) fn is_followed_from(&self, failed: Seq) -> bool {
        match &self.def {
            Def::Task(_) | Def::Fold { .. } => false,
            Def::Group(fan) => fan.followed && self.seq == failed,
            Def::Chain(steps) => steps
                .last()
                .is_some_and(|last| last.is_followed_from(failed)),
            Def::Chord { body, .. } => {
                (self.seq == failed && body.is_header()) || body.is_followed_from(failed)
            }
        }
    }

    /// Returns whether it is an `each()`, or a chord or fold over one.
    pub(crate) fn takes_a_list(&self) -> bool {
        match &self.def {
            Def::Group(fan) | Def::Chord { header: fan, .. } | Def::Fold { header: fan, .. } => {
                matches!(fan.members, Members::Each { .. })
            }
            Def::Task(_) | Def::Chain(_) => false,
        }
    }

    /// Returns the display name: a task's own, otherwise the kind of node.
    pub(crate) fn name(&self) -> &str {
        match &self.def {
            Def::Task(task) => &task.name,
            Def::Chain(_) => "chain",
            Def::Group(_) => "group",
            Def::Chord { .. } => "chord",
            Def::Fold { .. } => "fold",
        }
    }
}

impl FanOutDef {
    /// Returns the errbacks that run if the group fails before it has members.
    pub(crate) fn own_errbacks(&self) -> &[Node] {
        match &self.members {
            Members::Each { link_error, .. } => link_error,
            Members::Inline(_) | Members::Stored(_) => &[],
        }
    }

    /// Returns the list of the `size` members of group or chord `seq`.
    pub(crate) fn list(&self, seq: Seq, size: u64) -> Value {
        Value::Gathered {
            seq,
            size,
            settled: self.settled,
        }
    }

    fn shift(&mut self, by: u64) {
        match &mut self.members {
            Members::Inline(members) => {
                let members = Arc::make_mut(members).iter_mut();
                members.for_each(|member| member.shift(by));
            }
            // Templates are numbered from 0; stored members never occur in a template.
            Members::Each { link_error, .. } => link_error.iter_mut().for_each(|n| n.shift(by)),
            Members::Stored(_) => {}
        }
    }
}
