//! Turns a canvas into a tree of numbered nodes.

use std::sync::Arc;

use super::catalogue::Catalogue;
use super::check::check;
use super::error::{CanvasError, Reason};
use super::node::{Callbacks, Def, FanOutDef, Members, Node, SubtaskPlan, TaskDef};
use crate::canvas::binding::bind;
use crate::canvas::call::First;
use crate::canvas::depth::{MAX_DEPTH, too_deep};
use crate::canvas::form::{Canvas, Extras, FoldSig, Form, Kwargs, Mode, TaskSig};
use crate::canvas::id::{ORIGIN_STREAM, Seq};
use crate::canvas::options::{Inherited, Options};
use crate::canvas::parameter::{Parameter, takes_two, usage};
use crate::canvas::payload::Payload;
use crate::canvas::size::{MAX_CALLBACKS, too_many_callbacks};

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
