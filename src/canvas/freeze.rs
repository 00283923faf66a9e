//! Freezing: a canvas becomes a tree of nodes, every one with its number, before it is stored.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

use super::binding::bind;
use super::id::{MAX_SEQ, Seq};
use super::options::Options;
use super::parameter::Parameter;
use super::payload::Payload;
use super::{Canvas, Extras, Form, Kwargs, Mode, TaskSig};

/// How deep canvases may nest: each level is a level of recursion here and in the codec, on a
/// caller's thread of perhaps 2 MB, which an unoptimised build fills at about 230.
pub(crate) const MAX_DEPTH: usize = 128;

/// Why a deeper one is refused.
pub(crate) fn too_deep() -> String {
    format!("canvases nest at most {MAX_DEPTH} deep")
}

/// One node of a workflow as it is stored: a task, chain, group or chord.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Node {
    /// Numbered from the parent down, in order: a node's number is below all within it, and its
    /// own are all below its next sibling's.
    pub(crate) seq: Seq,
    pub(crate) def: Def,
    /// Rare, so boxed.
    pub(crate) callbacks: Option<Box<Callbacks>>,
}

/// What follows a node's own outcome and changes nothing about it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Callbacks {
    pub(crate) link: Vec<Node>,
    pub(crate) link_error: Vec<Node>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Def {
    Task(TaskDef),
    Chain(Vec<Node>),
    Group(Fan),
    Chord { header: Fan, body: Box<Node> },
}

/// One task as it will be called.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct TaskDef {
    pub(crate) name: Cow<'static, str>,
    /// Arguments, or items of a map, encoded one after the other.
    pub(crate) args: Payload,
    pub(crate) count: u32,
    pub(crate) mode: Mode,
    /// The value from upstream is the first argument.
    pub(crate) takes_upstream: bool,
    /// Rare, so boxed.
    pub(crate) options: Option<Box<Options>>,
}

/// The members of a group or of a chord's header.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Fan {
    pub(crate) members: Members,
    pub(crate) settled: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Members {
    Inline(Vec<Node>),
    /// In segments of their own, beside the node.
    Stored(u64),
    /// One per element of the list upstream, numbered when that is known; each has `span`
    /// numbers, counted from the template's own.
    Each {
        template: Box<Node>,
        span: u64,
    },
}

/// Why a canvas was refused, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    /// For example `chord.header[2].chain[1]`; empty for the canvas itself.
    pub(crate) path: String,
    pub(crate) reason: String,
}

/// What is registered: a task's name to its parameters.
pub(crate) trait Catalogue {
    /// The parameters of task `name`, or `None` if it is not registered.
    fn parameters(&self, name: &str) -> Option<&'static [Parameter]>;
}

/// Freezes `canvas`: checks it whole and numbers every node. Nothing is stored before it has
/// succeeded.
pub(crate) fn freeze(canvas: Canvas, catalogue: &dyn Catalogue) -> Result<Node, Refusal> {
    Freezer {
        catalogue,
        next: 0,
        depth: 0,
    }
    .node(canvas, &Options::default(), false)
    .map_err(Refusal::outermost)
}

struct Freezer<'a> {
    catalogue: &'a dyn Catalogue,
    next: Seq,
    depth: usize,
}

impl Freezer<'_> {
    /// `fed`: a value comes from upstream. `outer`: options that the canvas around it passes on.
    fn node(&mut self, canvas: Canvas, outer: &Options, fed: bool) -> Result<Node, Refusal> {
        let Canvas { form, extras } = canvas;
        let extras = extras.map_or_else(Extras::default, |extras| *extras);
        let options = extras.options.merged_under(outer);
        check(&options, &extras)?;
        if self.depth == MAX_DEPTH {
            return Err(Refusal::here(&too_deep()));
        }
        self.depth += 1;
        let seq = self.number()?;
        let mut link_error = extras.link_error;
        let def = match form {
            Form::Refused(reason) => return Err(Refusal::here(&reason)),
            Form::Task(sig) => self.task(sig, extras.kwargs, options, fed)?,
            Form::Chain(steps, _) => self.chain(steps, &options, fed)?,
            form @ (Form::Group { .. } | Form::Each { .. }) => {
                if !extras.link.is_empty() {
                    return Err(Refusal::here("cannot add link to group: use a chord"));
                }
                let errbacks = std::mem::take(&mut link_error);
                Def::Group(self.fan("group", form, &options, fed, &errbacks)?)
            }
            Form::Chord { header, body } => self.chord(*header, *body, &options, fed)?,
        };
        let callbacks = if extras.link.is_empty() && link_error.is_empty() {
            None
        } else {
            Some(Box::new(Callbacks {
                link: self.callbacks("link", extras.link)?,
                link_error: self.callbacks("link_error", link_error)?,
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
        fed: bool,
    ) -> Result<Def, Refusal> {
        let Some(parameters) = self.catalogue.parameters(&sig.name) else {
            return Err(Refusal::here(&format!(
                "task `{}` is not registered: list it in `.tasks(tasks![..])`",
                sig.name
            )));
        };
        let takes_upstream = fed && sig.takes_input();
        let (args, count) = bind(&sig, kwargs, takes_upstream, parameters)
            .map_err(|reason| Refusal::here(&reason))?;
        Ok(Def::Task(TaskDef {
            name: sig.name,
            args,
            count,
            mode: sig.mode,
            takes_upstream,
            options: (options != Options::default()).then(|| Box::new(options)),
        }))
    }

    /// An errback that was read as immutable and whose task takes a failure gets it all the same:
    /// Celery never calls it. One that brings a failure of its own keeps that.
    fn take_failure(&self, errback: &mut Canvas) {
        errback.for_each_first(&mut |sig, _| {
            if sig.dynamic
                && let Some([first, ..]) = self.catalogue.parameters(&sig.name)
                && first.is_failure()
            {
                let own = sig.args.split(sig.count.min(1)).unwrap_or_default();
                sig.takes_upstream |= own.iter().all(|own| first.check(own).is_err());
            }
        });
    }

    /// A chain's options go to its first step (celery/canvas.py, `_chain.run`).
    fn chain(&mut self, steps: Vec<Canvas>, options: &Options, fed: bool) -> Result<Def, Refusal> {
        let none = Options::default();
        steps
            .into_iter()
            .enumerate()
            .map(|(i, step)| {
                let (options, fed) = if i == 0 {
                    (options, fed)
                } else {
                    (&none, true)
                };
                self.node(step, options, fed)
                    .map_err(|refusal| refusal.within(&format!("chain[{i}]")))
            })
            .collect::<Result<_, _>>()
            .map(Def::Chain)
    }

    /// A chord's options go to its body (celery/canvas.py, `_chord.run`).
    fn chord(
        &mut self,
        header: Canvas,
        body: Canvas,
        options: &Options,
        fed: bool,
    ) -> Result<Def, Refusal> {
        let Canvas { form, extras } = header;
        let extras = extras.map_or_else(Extras::default, |extras| *extras);
        if !extras.link.is_empty() {
            return Err(
                Refusal::here("cannot add link to group: use a chord").within("chord.header")
            );
        }
        check(&extras.options, &extras).map_err(|refusal| refusal.within("chord.header"))?;
        let header = self.fan(
            "chord.header",
            form,
            &extras.options,
            fed,
            &extras.link_error,
        )?;
        let body = self
            .node(body, options, true)
            .map_err(|refusal| refusal.within("chord.body"))?;
        Ok(Def::Chord {
            header,
            body: Box::new(body),
        })
    }

    /// A group's options and errbacks go to every member (celery/canvas.py, `group.link_error`).
    fn fan(
        &mut self,
        place: &str,
        form: Form,
        options: &Options,
        fed: bool,
        errbacks: &[Canvas],
    ) -> Result<Fan, Refusal> {
        match form {
            Form::Group {
                members, settled, ..
            } => {
                let members = members
                    .into_iter()
                    .enumerate()
                    .map(|(i, member)| {
                        self.node(member.with_errbacks(errbacks), options, fed)
                            .map_err(|refusal| refusal.within(&format!("{place}[{i}]")))
                    })
                    .collect::<Result<_, _>>()?;
                Ok(Fan {
                    members: Members::Inline(members),
                    settled,
                })
            }
            Form::Each { member, settled } => {
                if !fed {
                    return Err(Refusal::here("each() needs a list from upstream").within(place));
                }
                // The template's numbers are its own; its instances get theirs at run time.
                let next = std::mem::replace(&mut self.next, 0);
                let template = self
                    .node(member.with_errbacks(errbacks), options, true)
                    .map_err(|refusal| refusal.within(&format!("{place}[each]")))?;
                let span = std::mem::replace(&mut self.next, next);
                Ok(Fan {
                    members: Members::Each {
                        template: Box::new(template),
                        span,
                    },
                    settled,
                })
            }
            _ => unreachable!("only groups become a fan"),
        }
    }

    fn callbacks(&mut self, what: &str, canvases: Vec<Canvas>) -> Result<Vec<Node>, Refusal> {
        canvases
            .into_iter()
            .enumerate()
            .map(|(i, mut canvas)| {
                if what == "link_error" {
                    self.take_failure(&mut canvas);
                }
                self.node(canvas, &Options::default(), true)
                    .map_err(|refusal| refusal.within(&format!("{what}[{i}]")))
            })
            .collect()
    }

    fn number(&mut self) -> Result<Seq, Refusal> {
        if self.next >= MAX_SEQ {
            return Err(Refusal::here("a workflow holds at most 2^40 tasks"));
        }
        self.next += 1;
        Ok(self.next - 1)
    }
}

impl Canvas {
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

impl Refusal {
    pub(crate) fn here(reason: &str) -> Self {
        Self {
            path: String::new(),
            reason: reason.to_owned(),
        }
    }

    pub(crate) fn within(self, place: &str) -> Self {
        Self {
            path: format!(".{place}{}", self.path),
            ..self
        }
    }

    /// Ends the path: nothing is around it.
    pub(crate) fn outermost(self) -> Self {
        Self {
            path: self.path.trim_start_matches('.').to_owned(),
            ..self
        }
    }
}

/// Refuses what no canvas within another, and no task, can have.
fn check(options: &Options, extras: &Extras) -> Result<(), Refusal> {
    if options.priority.is_some_and(|priority| priority > 9) {
        return Err(Refusal::here("a priority is 0 to 9"));
    }
    if options.time_limit.is_some_and(|limit| limit.is_zero()) {
        return Err(Refusal::here("a time limit of zero lets nothing run"));
    }
    if extras.idempotency_key.is_some() {
        return Err(Refusal::here(
            "an idempotency key belongs on the canvas that is submitted, not inside it",
        ));
    }
    Ok(())
}

impl Node {
    /// The same node with all its numbers moved up by `by`: an instance of a template.
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
            Def::Chord { header, body } => {
                header.shift(by);
                body.shift(by);
            }
        }
        if let Some(callbacks) = &mut self.callbacks {
            let Callbacks { link, link_error } = &mut **callbacks;
            link.iter_mut()
                .chain(link_error)
                .for_each(|node| node.shift(by));
        }
    }

    /// Says whether it is an `each()`, or a chord over one.
    pub(crate) fn takes_a_list(&self) -> bool {
        match &self.def {
            Def::Group(fan) | Def::Chord { header: fan, .. } => {
                matches!(fan.members, Members::Each { .. })
            }
            Def::Task(_) | Def::Chain(_) => false,
        }
    }

    /// Says whether there is an `each()` anywhere within: nodes that are numbered at run time.
    pub(crate) fn has_each(&self) -> bool {
        let within = match &self.def {
            Def::Task(_) => false,
            Def::Chain(steps) => steps.iter().any(Self::has_each),
            Def::Group(fan) => fan.has_each(),
            Def::Chord { header, body } => header.has_each() || body.has_each(),
        };
        within
            || self.callbacks.as_ref().is_some_and(|callbacks| {
                let Callbacks { link, link_error } = &**callbacks;
                link.iter().chain(link_error).any(Self::has_each)
            })
    }

    /// The name to show: a task's own, otherwise what it is.
    pub(crate) fn name(&self) -> &str {
        match &self.def {
            Def::Task(task) => &task.name,
            Def::Chain(_) => "chain",
            Def::Group(_) => "group",
            Def::Chord { .. } => "chord",
        }
    }
}

impl Fan {
    fn has_each(&self) -> bool {
        match &self.members {
            Members::Inline(members) => members.iter().any(Node::has_each),
            Members::Each { .. } => true,
            // They are not at hand, so the answer is the safe one.
            Members::Stored(_) => true,
        }
    }

    fn shift(&mut self, by: u64) {
        match &mut self.members {
            Members::Inline(members) => members.iter_mut().for_each(|member| member.shift(by)),
            // Templates are numbered from 0 in themselves; stored members are never in a template.
            Members::Each { .. } | Members::Stored(_) => {}
        }
    }
}
