//! Reads Celery's JSON one level at a time, so that hostile depth is an error and never deep
//! recursion.

use std::sync::Arc;

use serde_json::value::RawValue;

use super::object::{Object, Read, list, parse, parts_at, text};
use super::options::{self, Settings};
use super::value::payload;
use super::{Kind, errbacks};
use crate::canvas::call::Call;
use crate::canvas::depth::{MAX_DEPTH, too_deep};
use crate::canvas::form::{Canvas, Form, Kwargs, Mode, Origin, TaskSig};
use crate::canvas::freeze::CanvasError;
use crate::canvas::payload::{ListWriter, Payload};
use crate::canvas::size::{MAX_CALLBACKS, too_many_callbacks};
use crate::canvas::task::arguments;

const KEYS: [&str; 7] = [
    "task",
    "args",
    "kwargs",
    "options",
    "subtask_type",
    "immutable",
    "chord_size",
];

pub(super) fn read(text: &str) -> Read<Canvas> {
    // Skips the whole value without recursion: from here on the text is known to be JSON.
    let raw = serde_json::from_str::<&RawValue>(text)
        .map_err(|error| CanvasError::at_top(&format!("this is not JSON: {error}")))?;
    let mut part = signature(raw, 0)?;
    if part.gives == Gives::OnlyMembersList {
        part = unwrapped(part)?;
    }
    let canvas = part.canvas;
    match canvas.form {
        Form::Refused(reason) => Err(CanvasError::at_top(&reason)),
        _ => Ok(canvas),
    }
}

/// A canvas, and the facts that the canvas around it needs.
struct Part {
    canvas: Canvas,
    /// Written as a group: it gives its members to the group around it.
    is_group: bool,
    /// An empty group, or a chain of such groups: a chain around it skips it.
    is_empty: bool,
    gives: Gives,
}

/// The kind of result that a signature has in Celery.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Gives {
    /// A single result.
    Value,
    /// The results of a group.
    List,
    /// The results of a group whose only member gives a list. Submitted itself, a group of one
    /// counts as that member (celery/canvas.py, `group.apply_async`); as a header or a body it does
    /// not.
    OnlyMembersList,
}

impl Gives {
    fn is_list(self) -> bool {
        self != Self::Value
    }
}

impl From<Canvas> for Part {
    fn from(canvas: Canvas) -> Self {
        Self {
            canvas,
            is_group: false,
            is_empty: false,
            gives: Gives::Value,
        }
    }
}

/// One signature, split into its fields.
struct Fields<'a> {
    task: String,
    kind: Kind,
    args: Option<&'a RawValue>,
    kwargs: Object<'a>,
    options: Object<'a>,
    immutable: bool,
}

fn canvas(raw: &RawValue, depth: usize) -> Read<Canvas> {
    Ok(signature(raw, depth)?.canvas)
}

/// Reads a signature. `depth`: the number of signatures around it.
fn signature(raw: &RawValue, depth: usize) -> Read<Part> {
    if depth >= MAX_DEPTH {
        return Err(CanvasError::at_top(&too_deep()));
    }
    let fields = Fields::read(raw)?;
    let settings = options::read(&fields.options, |raw| canvas(raw, depth + 1))?;
    match fields.kind {
        Kind::Task => task(fields).map(|canvas| settings.on(canvas).into()),
        Kind::Map => map(fields, item).map(|canvas| settings.on(canvas).into()),
        Kind::Starmap => map(fields, Payload::clone).map(|canvas| settings.on(canvas).into()),
        Kind::Chunks => chunks(fields).map(|canvas| settings.on(canvas).into()),
        Kind::Chain => chain(fields, settings, depth + 1),
        Kind::Group => group(fields, settings, depth + 1),
        Kind::Chord => chord(fields, settings, depth + 1),
    }
}

impl<'a> Fields<'a> {
    fn read(raw: &'a RawValue) -> Read<Self> {
        let mut object = Object::read(raw, "a signature")?;
        object.only("a signature", &KEYS)?;
        let task = object.take("task").map(|raw| text(raw, "task"));
        let subtask = object.take("subtask_type");
        let subtask = subtask.map(|raw| text(raw, "subtask_type")).transpose()?;
        let (task, kind) = kind(task.transpose()?, subtask.as_deref())?;
        if let Some(size) = object.take("chord_size") {
            // The number of results that a chord waits for is computed here; Celery only caches it.
            parse::<u64>(size, "chord_size", "a number")?;
        }
        Ok(Self {
            task,
            kind,
            args: object.take("args"),
            kwargs: object.take_object("kwargs")?,
            options: object.take_object("options")?,
            immutable: object
                .take("immutable")
                .map_or(Ok(false), |raw| parse(raw, "immutable", "true or false"))?,
        })
    }

    /// Returns the encoded arguments and their number.
    fn args(&self) -> Read<(Payload, u32)> {
        let none = || Ok((Payload::from(Vec::new()), 0));
        self.args.map_or_else(none, |raw| {
            list(raw, "args")?;
            arguments(&payload(raw, "args")?).map_err(|error| CanvasError::at_top(&error))
        })
    }

    /// Returns the required keys of `kwargs`, and refuses all others.
    fn parts<const N: usize>(&mut self, keys: [&str; N]) -> Read<[&'a RawValue; N]> {
        self.kwargs
            .only(&format!("the `kwargs` of `{}`", self.task), &keys)?;
        let mut parts = [RawValue::NULL; N];
        for (part, key) in parts.iter_mut().zip(keys) {
            *part = self.kwargs.take(key).ok_or_else(|| {
                CanvasError::at_top(&format!("`{}` needs `{key}` in its `kwargs`", self.task))
            })?;
        }
        Ok(parts)
    }
}

fn kind(task: Option<String>, subtask: Option<&str>) -> Read<(String, Kind)> {
    let Some(subtask) = subtask else {
        let task = task.ok_or_else(|| CanvasError::at_top("a signature needs `task`, a name"))?;
        let kind = Kind::of(&task);
        return Ok((task, kind));
    };
    let Some((name, kind)) = Kind::of_subtask(subtask) else {
        return Err(CanvasError::at_top(&format!(
            "`subtask_type` is `{subtask}`: it can be chain, group, chord or null"
        )));
    };
    match task {
        Some(task) if task != name => Err(CanvasError::at_top(&format!(
            "`task` is `{task}`, but `subtask_type` is `{subtask}`"
        ))),
        _ => Ok((name.to_owned(), kind)),
    }
}

fn task(fields: Fields<'_>) -> Read<Canvas> {
    let (args, count) = fields.args()?;
    let kwargs = kwargs(&fields.kwargs, "kwargs")?;
    let mut canvas = Canvas::from_form(Form::Task(TaskSig {
        name: fields.task.into(),
        args,
        count,
        mode: Mode::Once,
        takes_upstream: !fields.immutable,
        origin: Origin::Called,
    }));
    if !kwargs.is_empty() {
        canvas.extras().kwargs = kwargs;
    }
    Ok(canvas)
}

fn chain(mut fields: Fields<'_>, settings: Settings, depth: usize) -> Read<Part> {
    let tasks = fields.parts(["tasks"])?[0];
    let mut steps = parts(tasks, "tasks", "chain", depth)?;
    let is_empty = !steps.is_empty() && steps.iter().all(|step| step.is_empty);
    if is_empty {
        steps.truncate(1);
    } else {
        steps.retain(|step| !step.is_empty);
    }
    let steps = steps.into_iter().map(only_member);
    let steps = steps.collect::<Read<Vec<_>>>()?;
    let gives = match steps.last() {
        Some(last) if last.gives.is_list() => Gives::List,
        _ => Gives::Value,
    };
    let canvas = Canvas::chain(steps.into_iter().map(|step| step.canvas));
    Ok(Part {
        canvas: settings.on(fields.called(canvas)?),
        is_group: false,
        is_empty,
        gives,
    })
}

fn group(mut fields: Fields<'_>, settings: Settings, depth: usize) -> Read<Part> {
    let tasks = fields.parts(["tasks"])?[0];
    let parts = parts(tasks, "tasks", "group", depth)?;
    let mut giving = parts
        .iter()
        .filter(|part| !(part.is_group && part.is_empty));
    let gives = match (giving.next(), giving.next()) {
        // A link on a group is refused, and must not go to its member.
        (Some(only), None) if !settings.has_links() && only.gives_one_list() => {
            Gives::OnlyMembersList
        }
        _ => Gives::List,
    };
    let members = members(parts)?;
    let is_empty = members.is_empty();
    let canvas = fields.called(Canvas::group_of_list(members))?;
    Ok(Part {
        canvas: settings.on(canvas),
        is_group: true,
        is_empty,
        gives,
    })
}

fn chord(mut fields: Fields<'_>, settings: Settings, depth: usize) -> Read<Part> {
    let own = fields.kwargs.take_object("kwargs")?;
    let [header, body] = fields.parts(["header", "body"])?;
    let header = Canvas::group_of_list(self::header(header, depth)?);
    if let Form::Refused(reason) = header.form {
        return Err(CanvasError::at_top(&reason).within("chord.header"));
    }
    let body = signature(body, depth).map_err(|error| error.within("chord.body"))?;
    let gives = match body.gives {
        Gives::Value => Gives::Value,
        Gives::List | Gives::OnlyMembersList => Gives::List,
    };
    // Not `then`, which would take a chain apart: the body is one canvas, with its own callbacks.
    let mut canvas = Canvas::nested(Form::Chord {
        header: Box::new(header),
        body: Box::new(body.canvas),
    });
    let own = kwargs(&own, "kwargs")?;
    canvas = fields.called(canvas)?.with_encoded_kwargs(&own);
    if fields.immutable {
        canvas.call(&Arc::new(Call::Immutable));
    }
    let mut canvas = settings.on(canvas);
    errbacks::keep_outermost(&mut canvas);
    Ok(Part {
        gives,
        ..canvas.into()
    })
}

/// Reads the members of a header: a list of them, the members of a group or chain, or a single
/// signature (celery/canvas.py, `_maybe_group`).
fn header(raw: &RawValue, depth: usize) -> Read<Vec<Canvas>> {
    if !raw.get().starts_with('{') {
        return members(parts(raw, "header", "chord.header", depth)?);
    }
    let header = Fields::read(raw).and_then(|fields| match fields.kind {
        Kind::Chain => steps_as_group(fields, depth + 1),
        _ => signature(raw, depth),
    });
    let header = header.map_err(|mut error| {
        // The members of that group or chain are the header's members.
        let path = error.path.as_str();
        let members = path.strip_prefix(".group").or(path.strip_prefix(".chain"));
        if let Some(members) = members.filter(|members| members.starts_with('[')) {
            error.path = members.to_owned();
        }
        error.within("chord.header")
    });
    members(vec![header?])
}

/// Reads a chain as a header: its steps become the members. The chain's settings, which Celery
/// drops, go to the steps to which they would go in a chain.
fn steps_as_group(mut fields: Fields<'_>, depth: usize) -> Read<Part> {
    let settings = options::read(&fields.options, |raw| canvas(raw, depth))?;
    let tasks = fields.parts(["tasks"])?[0];
    let mut steps = parts(tasks, "tasks", "chain", depth)?;
    let [of_first, of_last, of_every] = settings.of_steps();
    if let Some(step) = steps.first_mut() {
        let canvas = step.take();
        step.canvas = of_first.on(fields.called(canvas)?);
    }
    if let Some(step) = steps.last_mut() {
        step.canvas = of_last.on(step.take());
    }
    Ok(Part {
        is_group: true,
        ..of_every.on(Canvas::group_of_list(members(steps)?)).into()
    })
}

impl Part {
    /// Takes the canvas out, so that a changed one can be put in.
    fn take(&mut self) -> Canvas {
        std::mem::replace(&mut self.canvas, Canvas::refused(String::new()))
    }

    /// Returns whether a group with only this part has one member, and the member gives a list.
    fn gives_one_list(&self) -> bool {
        match self.is_group {
            true => self.gives == Gives::OnlyMembersList,
            false => self.gives.is_list(),
        }
    }
}

impl Fields<'_> {
    /// Applies arguments stored on a chain, group or chord, which are those of a call.
    fn called(&self, canvas: Canvas) -> Read<Canvas> {
        let (args, count) = self.args()?;
        Ok(canvas.with_encoded_args(&args, count))
    }
}

/// Replaces a group of one that is a step of a chain by its member (celery/canvas.py,
/// `maybe_unroll_group`).
fn only_member(step: Part) -> Read<Part> {
    match &step.canvas.form {
        Form::Group { members, .. } if step.is_group && members.list().len() == 1 => {
            unwrapped(step)
        }
        _ => Ok(step),
    }
}

/// Returns the only member of a group of one.
fn unwrapped(group: Part) -> Read<Part> {
    let gives = match group.gives {
        Gives::OnlyMembersList => Gives::List,
        _ => Gives::Value,
    };
    let canvas = members(vec![group])?.remove(0);
    Ok(Part {
        gives,
        ..canvas.into()
    })
}

/// Returns the members of a group, including those of the groups directly in it.
fn members(parts: Vec<Part>) -> Read<Vec<Canvas>> {
    let mut members = Vec::with_capacity(parts.len());
    let mut copied = 0;
    for part in parts {
        match part.canvas {
            Canvas {
                form: Form::Group { members: inner, .. },
                extras,
            } if part.is_group => {
                let callbacks = extras.as_ref().map_or(0, |extras| extras.callbacks());
                copied += callbacks * inner.list().len() as u64;
                if copied > MAX_CALLBACKS {
                    return Err(CanvasError::at_top(&too_many_callbacks()));
                }
                let spread = |member: Canvas| match &extras {
                    Some(extras) => member.with_extras(extras),
                    None => member,
                };
                members.extend(inner.into_iter().map(spread));
            }
            canvas => members.push(canvas),
        }
    }
    Ok(members)
}

/// Reads a task that is called for each element of `it`. Celery uses only the name of its inner
/// signature.
fn map(mut fields: Fields<'_>, item: fn(&Payload) -> Payload) -> Read<Canvas> {
    let [task, it] = fields.parts(["task", "it"])?;
    let (name, items) = fields.items(task, it)?;
    if fields.kind == Kind::Starmap {
        lists(&items)?;
    }
    Ok(mapping(name, items.iter().map(item)))
}

/// Reads a group of maps over `n` elements each; its value is the list of lists. The group is in a
/// chain of its own, so that it counts as one task, as in Celery.
fn chunks(mut fields: Fields<'_>) -> Read<Canvas> {
    let [task, it, n] = fields.parts(["task", "it", "n"])?;
    let (name, items) = fields.items(task, it)?;
    let n: usize = parse(n, "n", "a number above 0")?;
    if n == 0 {
        return Err(CanvasError::at_top(
            "`n` must be a number above 0, but is 0",
        ));
    }
    lists(&items)?;
    let chunks = items.chunks(n);
    let chunks = chunks.map(|chunk| mapping(name.clone(), chunk.iter().cloned()));
    Ok(Canvas::chain([Canvas::group_of_list(chunks.collect())]))
}

impl Fields<'_> {
    /// Returns the task's name and the elements of a map.
    fn items(&self, task: &RawValue, it: &RawValue) -> Read<(String, Vec<Payload>)> {
        if self.args()?.1 > 0 {
            return Err(CanvasError::at_top(&format!(
                "`{}` takes no `args`",
                self.task
            )));
        }
        let inner = Fields::read(task).map_err(|CanvasError { reason, .. }| {
            CanvasError::at_top(&format!("in `task`: {reason}"))
        })?;
        if inner.kind != Kind::Task {
            return Err(CanvasError::at_top(&format!(
                "`{}` calls one task for each element: `{}` is none",
                self.task, inner.task
            )));
        }
        list(it, "it")?;
        let items = payload(it, "it")?.elements();
        items
            .map(|items| (inner.task, items))
            .map_err(|error| CanvasError::at_top(&error))
    }
}

fn mapping(name: String, items: impl Iterator<Item = Payload>) -> Canvas {
    let mut all = ListWriter::raw();
    let mut count = 0;
    for item in items {
        all.push(item.bytes());
        count += 1;
    }
    Canvas::from_form(Form::Task(TaskSig {
        name: name.into(),
        args: all.finish(),
        count,
        mode: Mode::Map,
        takes_upstream: false,
        origin: Origin::Called,
    }))
}

/// Returns an element as a list of arguments.
fn item(element: &Payload) -> Payload {
    let mut list = ListWriter::new(1, element.bytes().len());
    list.push(element.bytes());
    list.finish()
}

fn lists(items: &[Payload]) -> Read<()> {
    match items.iter().position(|item| item.elements().is_err()) {
        None => Ok(()),
        Some(i) => Err(CanvasError::at_top(&format!(
            "element {i} of `it` must be a list of arguments"
        ))),
    }
}

fn parts(raw: &RawValue, key: &str, path: &str, depth: usize) -> Read<Vec<Part>> {
    parts_at(raw, key, path, |raw| signature(raw, depth))
}

fn kwargs(object: &Object<'_>, key: &str) -> Read<Kwargs> {
    let entries = object.0.iter();
    entries
        .map(|(name, raw)| Ok((name.clone(), payload(raw, &format!("{key}.{name}"))?)))
        .collect()
}
