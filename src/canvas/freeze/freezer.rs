//! The freezer: turns a canvas into a tree of numbered nodes, and gives the members of large groups
//! out in pages as it draws them.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;
use std::vec;

use super::catalogue::{Catalogue, FormatAddition};
use super::check::check;
use super::error::{CanvasError, Reason};
use super::node::{Callbacks, Def, FanOutDef, Members, Node, SubtaskPlan, TaskDef};
use crate::canvas::binding::bind;
use crate::canvas::call::First;
use crate::canvas::depth::{MAX_DEPTH, too_deep};
use crate::canvas::form::{Canvas, Draw, Extras, FoldSig, Form, Kwargs, Mode, Order, TaskSig};
use crate::canvas::group_policy::GroupPolicy;
use crate::canvas::id::{ORIGIN_STREAM, Seq};
use crate::canvas::name::Name;
use crate::canvas::options::{Inherited, Options};
use crate::canvas::parameter::{Parameter, takes_two, usage};
use crate::canvas::payload::Payload;
use crate::canvas::size::{MAX_CALLBACKS, too_many_callbacks};
use crate::canvas::stored_options;

/// Collects the members of one group: in the node, or in pages, so that they need not all be in
/// memory.
pub(crate) trait MemberBuffer: Default {
    /// Some members of a group.
    type Page;

    /// Adds the next member of group or chord `group`. A page that is full goes to `pages`.
    fn push(&mut self, group: Seq, member: Node, pages: &mut VecDeque<Self::Page>);

    /// Ends the members of group or chord `group`. The last page goes to `pages`.
    fn finish(self, group: Seq, pages: &mut VecDeque<Self::Page>) -> Members;
}

/// Keeps the members in their node.
impl MemberBuffer for Vec<Node> {
    type Page = Infallible;

    fn push(&mut self, _: Seq, member: Node, _: &mut VecDeque<Infallible>) {
        self.push(member);
    }

    fn finish(self, _: Seq, _: &mut VecDeque<Infallible>) -> Members {
        Members::Inline(self.into())
    }
}

/// Freezes a canvas that a running task starts, in one piece; it is numbered later.
/// `is_replacement`: the canvas replaces the task, which then needs the list of a group
/// (celery/app/task.py, `replace`).
pub(crate) fn plan_subtask(
    canvas: Canvas,
    is_replacement: bool,
    catalogue: &dyn Catalogue,
) -> Result<SubtaskPlan, CanvasError> {
    let mut freezer = Freezer::<Vec<Node>>::new(canvas, catalogue);
    let mut node = freezer.in_one_piece().map_err(CanvasError::outermost)?;
    if is_replacement {
        node.follow();
    }
    Ok(SubtaskPlan {
        node: Box::new(node),
        span: freezer.drawn(),
    })
}

/// Draws a canvas, checks it and numbers every node. It is an iterator over the pages of its
/// groups: each `next` draws only as far as the next page. After the last page
/// [`root`](Self::root) returns the root. After an error there is none, and the pages before it are
/// useless.
pub(crate) struct Freezer<'a, B: MemberBuffer> {
    numbers: Numbering<'a>,
    /// The canvas, until it is begun.
    canvas: Option<Canvas>,
    /// What it gets from the nodes around it: those of an `each()`, if it is a template.
    outer: Outer,
    /// The nodes that are begun and not complete, from the root down.
    open: Vec<OpenNode<B>>,
    pages: VecDeque<B::Page>,
    root: Option<Node>,
}

/// What a canvas gets from the nodes around it.
#[derive(Default)]
struct Outer {
    inherited: Inherited,
    has_upstream: bool,
    in_callbacks: bool,
    /// The number of nodes around it.
    depth: usize,
}

/// Gives out the numbers of nodes; knows the registered tasks.
struct Numbering<'a> {
    catalogue: &'a dyn Catalogue,
    next: Seq,
    /// The number of callback nodes so far.
    callbacks: u64,
}

/// A node that has its number and is not complete.
struct OpenNode<B> {
    seq: Seq,
    /// Whether it is a callback or within one.
    in_callbacks: bool,
    part: Part<B>,
    /// The callbacks that are frozen after its definition.
    link: Vec<Canvas>,
    link_error: Vec<Canvas>,
    last_has_them: bool,
}

/// The part of a node that is being frozen.
enum Part<B> {
    Steps {
        left: vec::IntoIter<Canvas>,
        nodes: Vec<Node>,
        /// What the first step inherits, and what the others do.
        first: Inherited,
        others: Inherited,
        has_upstream: bool,
    },
    Members(FanOut<B>, AfterMembers),
    Body {
        header: FanOutDef,
        body: Option<Canvas>,
        inherited: Inherited,
        node: Option<Node>,
    },
    Links(Def, CallbackList),
    Errbacks {
        def: Def,
        link: Vec<Node>,
        list: CallbackList,
    },
}

/// The members of a group or of a header.
struct FanOut<B> {
    /// The name of the group in the path of an error.
    path: &'static str,
    policy: GroupPolicy,
    source: Source<B>,
}

enum Source<B> {
    Group {
        members: Draw,
        /// The number of members in the buffer and in pages.
        count: u64,
        buffer: B,
        inherited: Box<Inherited>,
        has_upstream: bool,
        errbacks: Vec<Canvas>,
    },
    Each {
        template: Node,
        span: u64,
        errbacks: CallbackList,
    },
}

/// What follows the members in a definition.
enum AfterMembers {
    /// Nothing: it is a group.
    End,
    /// The chord's body, and what it inherits.
    Body(Canvas, Inherited),
    /// The fold's function.
    Function(FoldFunction),
}

struct FoldFunction {
    task: Name,
    init: Payload,
    order: Order,
    dynamic: bool,
    options: Options,
}

/// A list of callbacks: those that are left, and those that are frozen.
struct CallbackList {
    left: vec::IntoIter<Canvas>,
    nodes: Vec<Node>,
}

/// The next canvas within an open node.
struct Child<'a> {
    canvas: Canvas,
    kind: ChildKind<'a>,
}

enum ChildKind<'a> {
    /// A step, member or body: it inherits this, and may have an upstream value.
    Part(&'a Inherited, bool),
    Link,
    Errback,
}

/// A canvas that is begun.
#[allow(
    clippy::large_enum_variant,
    reason = "a box would be an allocation for each chain or group in a group"
)]
enum Begun<B> {
    /// It has no parts.
    Node(Node),
    Open(OpenNode<B>),
}

impl<'a, B: MemberBuffer> Freezer<'a, B> {
    pub(crate) fn new(canvas: Canvas, catalogue: &'a dyn Catalogue) -> Self {
        let numbers = Numbering {
            catalogue,
            next: 0,
            callbacks: 0,
        };
        Self::within(canvas, numbers, Outer::default())
    }

    fn within(canvas: Canvas, numbers: Numbering<'a>, outer: Outer) -> Self {
        Self {
            numbers,
            canvas: Some(canvas),
            outer,
            open: Vec::new(),
            pages: VecDeque::new(),
            root: None,
        }
    }

    /// Returns the number of nodes so far.
    pub(crate) fn drawn(&self) -> Seq {
        self.numbers.next
    }

    /// Returns the root after the last page, once.
    pub(crate) fn root(&mut self) -> Option<Node> {
        self.root.take()
    }

    /// Draws as far as the next page. The path of an error begins at the canvas.
    fn next_page(&mut self) -> Result<Option<B::Page>, CanvasError> {
        while self.pages.is_empty() && (self.canvas.is_some() || !self.open.is_empty()) {
            if let Err(error) = self.step() {
                let open = std::mem::take(&mut self.open);
                let path = open.iter().rev();
                return Err(path.fold(error, |error, node| error.within(&node.path())));
            }
        }
        Ok(self.pages.pop_front())
    }

    /// Begins the next canvas within the innermost open node, or completes a part of that node.
    fn step(&mut self) -> Result<(), CanvasError> {
        let depth = self.outer.depth + self.open.len();
        let begun = match self.open.last_mut() {
            None => {
                let Some(canvas) = self.canvas.take() else {
                    return Ok(());
                };
                let Outer {
                    inherited,
                    has_upstream,
                    in_callbacks,
                    ..
                } = &self.outer;
                self.numbers
                    .begin(canvas, inherited, *has_upstream, *in_callbacks, depth)?
            }
            Some(node) => {
                let in_callbacks = node.in_callbacks;
                match node.next_child() {
                    Some(child) => self.numbers.begin_child(child, in_callbacks, depth)?,
                    None => {
                        let node = self.open.pop().expect("it is the last one");
                        node.proceed(&mut self.numbers, &mut self.pages)?
                    }
                }
            }
        };
        match begun {
            Begun::Open(node) => self.open.push(node),
            Begun::Node(node) => match self.open.last_mut() {
                Some(parent) => parent.take_in(node, &mut self.pages),
                None => self.root = Some(node),
            },
        }
        Ok(())
    }
}

impl Freezer<'_, Vec<Node>> {
    /// Freezes the whole canvas.
    fn in_one_piece(&mut self) -> Result<Node, CanvasError> {
        if let Some(page) = self.next_page()? {
            match page {}
        }
        Ok(self.root().expect("without an error there is a root"))
    }
}

impl<B: MemberBuffer> Iterator for Freezer<'_, B> {
    type Item = Result<B::Page, CanvasError>;

    fn next(&mut self) -> Option<Self::Item> {
        let page = self.next_page().map_err(CanvasError::outermost);
        page.transpose()
    }
}

impl<B: MemberBuffer> OpenNode<B> {
    /// Returns the next canvas of the part that is being frozen.
    fn next_child(&mut self) -> Option<Child<'_>> {
        let (canvas, kind) = match &mut self.part {
            Part::Steps {
                left,
                nodes,
                first,
                others,
                has_upstream,
            } => match nodes.is_empty() {
                true => (left.next()?, ChildKind::Part(first, *has_upstream)),
                false => (left.next()?, ChildKind::Part(others, true)),
            },
            Part::Members(fan, _) => match &mut fan.source {
                Source::Group {
                    members,
                    inherited,
                    has_upstream,
                    errbacks,
                    ..
                } => (
                    members.next()?.with_errbacks(errbacks),
                    ChildKind::Part(inherited, *has_upstream),
                ),
                Source::Each { errbacks, .. } => (errbacks.left.next()?, ChildKind::Errback),
            },
            Part::Body {
                body, inherited, ..
            } => (body.take()?, ChildKind::Part(inherited, true)),
            Part::Links(_, list) => (list.left.next()?, ChildKind::Link),
            Part::Errbacks { list, .. } => (list.left.next()?, ChildKind::Errback),
        };
        Some(Child { canvas, kind })
    }

    /// Returns the path of the canvas that is being frozen in this node.
    fn path(&self) -> String {
        match &self.part {
            Part::Steps { nodes, .. } => format!("chain[{}]", nodes.len()),
            Part::Members(FanOut { path, source, .. }, _) => match source {
                Source::Group { count, .. } => format!("{path}[{count}]"),
                Source::Each { errbacks, .. } => {
                    format!("{path}.link_error[{}]", errbacks.nodes.len())
                }
            },
            Part::Body { .. } => "chord.body".to_owned(),
            Part::Links(_, list) => format!("link[{}]", list.nodes.len()),
            Part::Errbacks { list, .. } => format!("link_error[{}]", list.nodes.len()),
        }
    }

    /// Takes in the node that its last child has become.
    fn take_in(&mut self, node: Node, pages: &mut VecDeque<B::Page>) {
        match &mut self.part {
            Part::Steps { nodes, .. } => {
                if let Some(before) = nodes.last_mut() {
                    Node::follow(before);
                }
                nodes.push(node);
            }
            Part::Members(fan, _) => match &mut fan.source {
                Source::Group { buffer, count, .. } => {
                    buffer.push(self.seq, node, pages);
                    *count += 1;
                }
                Source::Each { errbacks, .. } => errbacks.nodes.push(node),
            },
            Part::Body { node: body, .. } => *body = Some(node),
            Part::Links(_, list) | Part::Errbacks { list, .. } => list.nodes.push(node),
        }
    }

    /// Goes on to the next part, when there is no other child in this one.
    fn proceed(
        self,
        numbers: &mut Numbering<'_>,
        pages: &mut VecDeque<B::Page>,
    ) -> Result<Begun<B>, CanvasError> {
        let def = match self.part {
            Part::Steps { nodes, .. } => Def::Chain(nodes),
            Part::Members(fan, after) => {
                if let Source::Group { count, .. } = &fan.source {
                    let checked = fan.policy.check_size(*count);
                    checked.map_err(|reason| {
                        let error = CanvasError::at_top(&reason);
                        match after {
                            AfterMembers::End => error,
                            AfterMembers::Body(..) | AfterMembers::Function(_) => {
                                error.within(fan.path)
                            }
                        }
                    })?;
                }
                let header = fan.finish(self.seq, pages);
                match after {
                    AfterMembers::End => Def::Group(header),
                    AfterMembers::Body(body, inherited) => {
                        return Ok(Begun::Open(Self {
                            part: Part::Body {
                                header,
                                body: Some(body),
                                inherited,
                                node: None,
                            },
                            ..self
                        }));
                    }
                    AfterMembers::Function(function) => {
                        numbers.fold(header, function, self.in_callbacks)?
                    }
                }
            }
            Part::Body { header, node, .. } => Def::Chord {
                header,
                body: Arc::new(node.expect("the body is frozen")),
            },
            Part::Links(def, list) => {
                return Ok(Begun::Open(Self {
                    part: Part::Errbacks {
                        def,
                        link: list.nodes,
                        list: self.link_error.into(),
                    },
                    link_error: Vec::new(),
                    ..self
                }));
            }
            Part::Errbacks { def, link, list } => {
                let callbacks = Callbacks {
                    link,
                    link_error: list.nodes,
                    last_has_them: self.last_has_them,
                };
                return Ok(Begun::Node(Node {
                    seq: self.seq,
                    def,
                    callbacks: Some(Box::new(callbacks)),
                }));
            }
        };
        if self.link.is_empty() && self.link_error.is_empty() {
            return Ok(Begun::Node(Node {
                seq: self.seq,
                def,
                callbacks: None,
            }));
        }
        Ok(Begun::Open(Self {
            part: Part::Links(def, self.link.into()),
            link: Vec::new(),
            ..self
        }))
    }
}

impl<B: MemberBuffer> FanOut<B> {
    fn finish(self, group: Seq, pages: &mut VecDeque<B::Page>) -> FanOutDef {
        let members = match self.source {
            Source::Group { buffer, .. } => buffer.finish(group, pages),
            Source::Each {
                template,
                span,
                errbacks,
            } => Members::Each {
                template: Box::new(template),
                span,
                link_error: errbacks.nodes,
            },
        };
        FanOutDef {
            members,
            policy: self.policy,
            followed: false,
        }
    }
}

impl From<Vec<Canvas>> for CallbackList {
    fn from(canvases: Vec<Canvas>) -> Self {
        Self {
            nodes: Vec::with_capacity(canvases.len()),
            left: canvases.into_iter(),
        }
    }
}

impl Numbering<'_> {
    fn begin_child<B: MemberBuffer>(
        &mut self,
        child: Child<'_>,
        in_callbacks: bool,
        depth: usize,
    ) -> Result<Begun<B>, CanvasError> {
        let mut canvas = child.canvas;
        match child.kind {
            ChildKind::Part(inherited, has_upstream) => {
                return self.begin(canvas, inherited, has_upstream, in_callbacks, depth);
            }
            ChildKind::Errback => self.take_failure(&mut canvas),
            ChildKind::Link => {}
        }
        self.begin(canvas, &Inherited::default(), true, true, depth)
    }

    /// Numbers one canvas. `outer`: the options passed on by its parent. `has_upstream`: it
    /// receives an upstream value. `depth`: the number of nodes around it.
    fn begin<B: MemberBuffer>(
        &mut self,
        canvas: Canvas,
        outer: &Inherited,
        has_upstream: bool,
        in_callbacks: bool,
        depth: usize,
    ) -> Result<Begun<B>, CanvasError> {
        let Canvas { form, extras } = canvas;
        let mut extras = extras.map_or_else(Extras::default, |extras| *extras);
        let (options, effective) = outer.resolve(&extras.options);
        check(&effective, &extras)?;
        extras.stamp_callbacks(&effective.stamps);
        if depth == MAX_DEPTH {
            return Err(CanvasError::at_top(&too_deep()));
        }
        let seq = self.number(in_callbacks)?;
        let mut link_error = extras.link_error;
        let mut last_has_them = false;
        let mut fan_out = |path, form, inherited, errbacks| {
            let outer = Outer {
                inherited,
                has_upstream,
                in_callbacks,
                depth: depth + 1,
            };
            self.fan_out(path, form, outer, errbacks)
        };
        let part = match form {
            Form::Refused(reason) => return Err(CanvasError::at_top(&reason)),
            Form::Task(sig) => {
                let def = self.task(sig, extras.kwargs, effective, has_upstream)?;
                if extras.link.is_empty() && link_error.is_empty() {
                    return Ok(Begun::Node(Node {
                        seq,
                        def,
                        callbacks: None,
                    }));
                }
                let link = extras.link.into();
                return Ok(Begun::Open(OpenNode {
                    seq,
                    in_callbacks,
                    part: Part::Links(def, link),
                    link: Vec::new(),
                    link_error,
                    last_has_them,
                }));
            }
            Form::Chain(mut steps, _) => {
                // (celery/canvas.py, `prepare_steps`: every step gets the chain's errbacks. Here
                // they belong to the chain, but each member of a group at its end needs them.)
                if let Some(last) = steps.pop_if(|last| last.ends_in_group()) {
                    last_has_them = !link_error.is_empty();
                    steps.push(last.with_errbacks(&link_error));
                }
                // Its options apply to every step without its own; its times apply to the first
                // step (celery/canvas.py, `_chain.run`, applies all of them there).
                let (first, others) = Inherited::to_parts(effective);
                Part::Steps {
                    nodes: Vec::with_capacity(steps.len()),
                    left: steps.into_iter(),
                    first,
                    others,
                    has_upstream,
                }
            }
            form @ (Form::Group { .. } | Form::Each { .. }) => {
                if !extras.link.is_empty() {
                    return Err(CanvasError::at_top("cannot add link to group: use a chord"));
                }
                let errbacks = std::mem::take(&mut link_error);
                let fan = fan_out("group", form, outer.to_members(options), errbacks)?;
                Part::Members(fan, AfterMembers::End)
            }
            Form::Chord { header, body } => {
                let mut body = *body;
                if body.ends_in_group() {
                    body = body.with_errbacks(&std::mem::take(&mut link_error));
                }
                // Its options apply to the members and the body without their own; its times apply
                // to the body (celery/canvas.py, `_chord.run`, applies all of them there).
                let (timed, others) = Inherited::to_parts(effective);
                let fan = header_of("chord.header", *header, &others, fan_out)?;
                Part::Members(fan, AfterMembers::Body(body, timed))
            }
            Form::Fold(fold) => {
                let FoldSig {
                    header,
                    task,
                    init,
                    order,
                    dynamic,
                } = *fold;
                // Its options apply to its members and its function, as a chord's do to its members
                // and its body.
                let (_, others) = Inherited::to_parts(effective.clone());
                let fan = header_of("fold.header", header, &others, fan_out)?;
                let function = FoldFunction {
                    task: task.into(),
                    init,
                    order,
                    dynamic,
                    options: effective,
                };
                Part::Members(fan, AfterMembers::Function(function))
            }
        };
        Ok(Begun::Open(OpenNode {
            seq,
            in_callbacks,
            part,
            link: extras.link,
            link_error,
            last_has_them,
        }))
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
            options: self.stored(options),
        }))
    }

    /// Lets an immutable errback from JSON whose task takes a failure receive the failure, although
    /// Celery never passes it. An errback with a failure of its own keeps that one.
    fn take_failure(&self, errback: &mut Canvas) {
        match errback.first_part() {
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

    /// Begins the members of a group. Its options and errbacks go to every member
    /// (celery/canvas.py, `group.link_error`).
    fn fan_out<B: MemberBuffer>(
        &mut self,
        path: &'static str,
        form: Form,
        outer: Outer,
        errbacks: Vec<Canvas>,
    ) -> Result<FanOut<B>, CanvasError> {
        let (policy, source) = match form {
            Form::Group { members, policy } => (
                policy,
                Source::Group {
                    members: members.into_iter(),
                    count: 0,
                    buffer: B::default(),
                    inherited: Box::new(outer.inherited),
                    has_upstream: outer.has_upstream,
                    errbacks,
                },
            ),
            Form::Each { member, policy } => {
                if !outer.has_upstream {
                    return Err(
                        CanvasError::at_top("each() needs a list from upstream").within(path)
                    );
                }
                let (template, span) = self
                    .template(member.with_errbacks(&errbacks), outer)
                    .map_err(|error| error.within(&format!("{path}[each]")))?;
                let errbacks = errbacks.into();
                (
                    policy,
                    Source::Each {
                        template,
                        span,
                        errbacks,
                    },
                )
            }
            _ => unreachable!("only groups have members"),
        };
        if policy.is_addition() {
            self.catalogue.note_addition(FormatAddition::GroupPolicies);
        }
        Ok(FanOut {
            path,
            policy,
            source,
        })
    }

    /// Freezes the template of an `each()`; also returns the number of its nodes. It is numbered
    /// from 0; its instances get their numbers at run time. It is instantiated in one piece, so its
    /// members stay in the node.
    fn template(&mut self, member: Canvas, outer: Outer) -> Result<(Node, Seq), CanvasError> {
        let numbers = Numbering {
            catalogue: self.catalogue,
            next: 0,
            callbacks: self.callbacks,
        };
        let mut freezer = Freezer::<Vec<Node>>::within(member, numbers, outer);
        let template = freezer.in_one_piece()?;
        self.callbacks = freezer.numbers.callbacks;
        Ok((template, freezer.drawn()))
    }

    /// Freezes the function of a fold with this header.
    fn fold(
        &mut self,
        header: FanOutDef,
        function: FoldFunction,
        in_callbacks: bool,
    ) -> Result<Def, CanvasError> {
        let FoldFunction {
            task,
            init,
            order,
            dynamic,
            options,
        } = function;
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
            seq: self.number(in_callbacks)?,
            def: Def::Task(TaskDef {
                name: task,
                args: Payload::from(Vec::new()),
                count: 0,
                mode: match dynamic {
                    true => Mode::OnceUntyped,
                    false => Mode::Once,
                },
                takes_upstream: true,
                options: self.stored(options),
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

    /// Returns the options as they are stored.
    fn stored(&self, options: Options) -> Option<Box<Options>> {
        if stored_options::are_extended(&options) {
            self.catalogue
                .note_addition(FormatAddition::SignatureOptions);
        }
        (options != Options::default()).then(|| Box::new(options))
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

    fn number(&mut self, in_callbacks: bool) -> Result<Seq, CanvasError> {
        if self.next >= ORIGIN_STREAM {
            return Err(CanvasError::at_top("a workflow holds at most 2^40 tasks"));
        }
        self.callbacks += u64::from(in_callbacks);
        if self.callbacks > MAX_CALLBACKS {
            return Err(CanvasError::at_top(&too_many_callbacks()));
        }
        self.next += 1;
        Ok(self.next - 1)
    }
}

/// Begins the members of the header of a chord or fold.
fn header_of<B>(
    path: &'static str,
    header: Canvas,
    outer: &Inherited,
    fan_out: impl FnOnce(&'static str, Form, Inherited, Vec<Canvas>) -> Result<FanOut<B>, CanvasError>,
) -> Result<FanOut<B>, CanvasError> {
    let Canvas { form, extras } = header;
    let extras = extras.map_or_else(Extras::default, |extras| *extras);
    if !extras.link.is_empty() {
        return Err(CanvasError::at_top("cannot add link to group: use a chord").within(path));
    }
    let (options, effective) = outer.resolve(&extras.options);
    check(&effective, &extras).map_err(|error| error.within(path))?;
    fan_out(path, form, outer.to_members(options), extras.link_error)
}
