//! What a canvas comes to, by the documents alone: a recursive reference over Celery's JSON.
//!
//! It shares nothing with the engine, and nothing with the tasks that the engine runs. Each rule
//! is Celery's documented one; where Celery 5.7 hangs or gives something else, it is what chordal
//! promises instead, and the comment says so.
//!
//! First [`read`] brings a canvas into one form, so that no outcome depends on its spelling:
//!
//! - Groups directly within groups and headers are flattened, in declaration order.
//! - Chains are flat. A group that anything follows is the header of a chord, whose body is all
//!   that follows. That holds for every way to end in a group: a nested chain that does, a chord
//!   whose body does. So only the last step of a chain ends in a group.
//! - In a chain (Celery's `maybe_unroll_group`) a group of none is skipped and a group of one is
//!   that member. Everywhere else a group of one gives a list of one.
//! - Callbacks lie on tasks alone. A `link` goes to the last step of a chain and to the body of a
//!   chord; on a group it is unsound. A `link_error` goes to every step of a chain, every member of
//!   a group, and the body of a chord. One that is there already is not added again.
//!   One that a chord has and a chord in its header too is the outer one's alone.
//! - Arguments go to the first step of a chain, every member of a group, the header of a chord.
//!   Values with kombu's tags are what they stand for, bytes a list.
//! - A group of one with nothing around it is its member, if that ends in a group.
//!
//! Then the tasks run, from left to right. It speaks of well-typed canvases only.

use std::collections::BTreeMap;
use std::{mem, slice};

use serde_json::{Map, Value, json};

type Kwargs = Map<String, Value>;

#[derive(Clone)]
enum Node {
    Task(Task),
    Chain(Vec<Node>),
    Group(Vec<Node>),
    Chord(Vec<Node>, Box<Node>),
}

#[derive(Clone)]
struct Task {
    name: String,
    args: Vec<Value>,
    kwargs: Kwargs,
    immutable: bool,
    expired: bool,
    links: Vec<Value>,
    errbacks: Vec<Errback>,
}

#[derive(Clone)]
struct Errback {
    canvas: Value,
    /// It was given to a chain in which the task is not the last step. A task that has expired
    /// does not fail, so its own errbacks are silent; the chain around it does fail.
    of_longer_chain: bool,
}

/// How something ended. A group's ends are those of its members.
#[derive(Clone)]
enum End {
    Success(Value),
    Failure(Error),
    Revoked(Error),
    Group(Vec<End>),
}

#[derive(Clone)]
struct Error {
    kind: &'static str,
    /// `None` where the recorded cases do not compare the text.
    message: Option<String>,
}

/// The outcome of a canvas with the keys of a recorded one (`parents` is not modelled). The task
/// named in `errback_log` is always null.
pub(crate) fn outcome(canvas: &Value, apply: Option<&Value>) -> Value {
    let mut node = match read(canvas) {
        Node::Group(mut members) if members.len() == 1 && members[0].ends_in_group() => {
            members.remove(0)
        }
        node => node,
    };
    if let Some(apply) = apply {
        give(&mut node, &list(&apply["args"]), &object(&apply["kwargs"]));
    }
    let mut run = Run::default();
    let end = run.node(node, None);
    let mut outcome = end.report();
    outcome["executions"] = json!(run.executions);
    outcome["errbacks"] = json!(run.errback_log.len());
    outcome["errback_log"] = run.errback_log.into();
    outcome["recorded"] = run.recorded.into();
    outcome
}

// Reading.

fn read(signature: &Value) -> Node {
    let kwargs = &signature["kwargs"];
    let mut args = list(&untagged(&signature["args"]));
    let mut node = match signature["task"].as_str().expect("a task's name") {
        "celery.chain" => {
            let tasks = list(&kwargs["tasks"]);
            let steps = tasks.iter().map(read).map(unrolled).rev();
            one(steps.fold(Vec::new(), |rest, step| before(step, rest)))
        }
        "celery.group" => Node::Group(members(&kwargs["tasks"])),
        "celery.chord" => {
            let header = match &kwargs["header"] {
                Value::Object(group_or_chain) => members(&group_or_chain["kwargs"]["tasks"]),
                header => members(header),
            };
            Node::Chord(header, Box::new(read(&kwargs["body"])))
        }
        name => Node::Task(Task {
            name: name.to_owned(),
            args: mem::take(&mut args),
            kwargs: object(&untagged(kwargs)),
            // A map has all of its arguments. An immutable `on_fail` gets its three all the same (Q15).
            immutable: name.starts_with("celery.")
                || signature["immutable"] == true && name != "on_fail",
            expired: false,
            links: Vec::new(),
            errbacks: Vec::new(),
        }),
    };
    give(&mut node, &args, &Kwargs::new());
    let options = &signature["options"];
    match &options["expires"] {
        Value::Null => {}
        Value::Number(seconds) => {
            let countdown = options["countdown"].as_f64().unwrap_or(0.0);
            expire(&mut node, seconds.as_f64() <= Some(countdown));
        }
        // A datetime of this century's first years, or of its last.
        time => expire(&mut node, text(&untagged(time)) < "2050".to_owned()),
    }
    for callback in list(&options["link"]) {
        link(&mut node, &callback);
    }
    for errback in list(&options["link_error"]) {
        link_error(&mut node, &errback, false);
    }
    if let Node::Chord(header, body) = &mut node {
        let mut own = Vec::new();
        errbacks_before(body, &mut own);
        for member in header {
            if let Node::Chord(_, inner) = member {
                unlink_error(inner, &own);
            }
        }
    }
    node
}

/// What kombu's tagged values stand for, wherever they are.
fn untagged(value: &Value) -> Value {
    let Some(kind) = value["__type__"].as_str() else {
        return match value {
            Value::Array(values) => values.iter().map(untagged).collect(),
            Value::Object(object) => {
                let entries = object
                    .iter()
                    .map(|(key, value)| (key.clone(), untagged(value)));
                Value::Object(entries.collect())
            }
            other => other.clone(),
        };
    };
    let value = &value["__value__"];
    match kind {
        "uuid" => {
            let hex = text(&value["hex"]);
            let parts = [0..8, 8..12, 12..16, 16..20, 20..32].map(|part| &hex[part]);
            json!(parts.join("-"))
        }
        "bytes" => json!(text(value).as_bytes()),
        _ => value.clone(),
    }
}

fn text(value: &Value) -> String {
    value.as_str().expect("a text").to_owned()
}

fn list(value: &Value) -> Vec<Value> {
    value.as_array().cloned().unwrap_or_default()
}

fn object(value: &Value) -> Kwargs {
    value.as_object().cloned().unwrap_or_default()
}

fn members(tasks: &Value) -> Vec<Node> {
    let tasks = list(tasks);
    let members = tasks.iter().map(read).map(|node| match node {
        Node::Group(members) => members,
        node => vec![node],
    });
    members.flatten().collect()
}

fn unrolled(step: Node) -> Node {
    match step {
        Node::Group(mut members) if members.len() == 1 => members.remove(0),
        Node::Group(members) if members.is_empty() => Node::Chain(members),
        step => step,
    }
}

/// The flat chain of `step` and what follows it.
fn before(step: Node, mut rest: Vec<Node>) -> Vec<Node> {
    match step {
        Node::Chain(mut steps) => match steps.pop() {
            Some(last) => {
                steps.extend(before(last, rest));
                steps
            }
            None => rest,
        },
        step if rest.is_empty() => vec![step],
        Node::Group(header) => vec![Node::Chord(header, Box::new(one(rest)))],
        Node::Chord(header, body) if body.ends_in_group() => {
            vec![Node::Chord(header, Box::new(one(before(*body, rest))))]
        }
        step => {
            rest.insert(0, step);
            rest
        }
    }
}

/// A chain of one is that step.
fn one(mut steps: Vec<Node>) -> Node {
    match steps.len() {
        1 => steps.remove(0),
        _ => Node::Chain(steps),
    }
}

impl Node {
    fn ends_in_group(&self) -> bool {
        match self {
            Self::Task(_) => false,
            Self::Chain(steps) => steps.last().is_some_and(Self::ends_in_group),
            Self::Group(_) => true,
            Self::Chord(_, body) => body.ends_in_group(),
        }
    }
}

/// Arguments from a caller or from upstream go in front of those that are there; named ones win.
fn give(node: &mut Node, args: &[Value], kwargs: &Kwargs) {
    match node {
        Node::Task(task) if task.immutable => {}
        Node::Task(task) => {
            task.args.splice(0..0, args.iter().cloned());
            task.kwargs.extend(kwargs.clone());
        }
        Node::Chain(steps) => {
            for first in steps.iter_mut().take(1) {
                give(first, args, kwargs);
            }
        }
        Node::Group(members) | Node::Chord(members, _) => {
            for member in members {
                give(member, args, kwargs);
            }
        }
    }
}

/// Options of a chain are its first task's, of a group each member's, of a chord its body's.
fn expire(node: &mut Node, expired: bool) {
    match node {
        Node::Task(task) => task.expired = expired,
        Node::Chain(steps) => {
            for first in steps.iter_mut().take(1) {
                expire(first, expired);
            }
        }
        Node::Group(members) => {
            for member in members {
                expire(member, expired);
            }
        }
        Node::Chord(_, body) => expire(body, expired),
    }
}

fn link(node: &mut Node, callback: &Value) {
    match node {
        Node::Task(task) if task.links.contains(callback) => {}
        Node::Task(task) => task.links.push(callback.clone()),
        Node::Chain(steps) => {
            for last in steps.iter_mut().rev().take(1) {
                link(last, callback);
            }
        }
        Node::Group(_) => panic!("a link on a group is unsound"),
        Node::Chord(_, body) => link(body, callback),
    }
}

/// The errbacks that run if `node` fails before it has begun.
fn errbacks_before(node: &Node, found: &mut Vec<Value>) {
    match node {
        Node::Task(task) => {
            found.extend(task.errbacks.iter().map(|errback| errback.canvas.clone()))
        }
        Node::Chain(steps) => steps
            .iter()
            .take(1)
            .for_each(|step| errbacks_before(step, found)),
        Node::Group(members) => members
            .iter()
            .for_each(|member| errbacks_before(member, found)),
        Node::Chord(_, body) => errbacks_before(body, found),
    }
}

fn unlink_error(node: &mut Node, canvases: &[Value]) {
    match node {
        Node::Task(task) => task
            .errbacks
            .retain(|errback| !canvases.contains(&errback.canvas)),
        Node::Chain(nodes) | Node::Group(nodes) => {
            for node in nodes {
                unlink_error(node, canvases);
            }
        }
        Node::Chord(_, body) => unlink_error(body, canvases),
    }
}

fn link_error(node: &mut Node, canvas: &Value, of_longer_chain: bool) {
    match node {
        Node::Task(task) => {
            let mut known = task.errbacks.iter_mut();
            match known.find(|errback| errback.canvas == *canvas) {
                Some(errback) => errback.of_longer_chain |= of_longer_chain,
                None => task.errbacks.push(Errback {
                    canvas: canvas.clone(),
                    of_longer_chain,
                }),
            }
        }
        Node::Chain(steps) => {
            let last = steps.len().saturating_sub(1);
            for (at, step) in steps.iter_mut().enumerate() {
                link_error(step, canvas, of_longer_chain || at < last);
            }
        }
        Node::Group(members) => {
            for member in members {
                link_error(member, canvas, false);
            }
        }
        Node::Chord(_, body) => link_error(body, canvas, of_longer_chain),
    }
}

// Running.

#[derive(Default)]
struct Run {
    executions: BTreeMap<String, u64>,
    errback_log: Vec<Value>,
    recorded: Vec<Value>,
}

impl Run {
    /// Runs it to its end. `chord` takes what a member of a header adds to its chord.
    fn node(&mut self, node: Node, chord: Option<&mut Vec<End>>) -> End {
        match node {
            Node::Task(task) => self.task(&task, chord),
            Node::Chain(steps) => self.chain(steps, chord),
            Node::Group(members) => {
                let members = members.into_iter();
                End::Group(members.map(|member| self.node(member, None)).collect())
            }
            Node::Chord(header, mut body) => {
                let mut ends = Vec::new();
                for member in header {
                    let mut added = Vec::new();
                    ends.push(self.node(member, Some(&mut added)));
                    ends.append(&mut added);
                }
                // All members run to their ends; the failed one with the lowest index is named.
                match End::Group(ends).value() {
                    Ok(values) => {
                        give(&mut body, &[values], &Kwargs::new());
                        self.node(*body, chord)
                    }
                    Err(error) => {
                        let error = chord_error(&error);
                        self.fail_body(&body, &error);
                        failed(&body, &error)
                    }
                }
            }
        }
    }

    fn chain(&mut self, mut steps: Vec<Node>, chord: Option<&mut Vec<End>>) -> End {
        let Some(mut last) = steps.pop() else {
            return End::Success(Value::Null);
        };
        let mut value = None;
        for mut step in steps {
            give(&mut step, value.as_slice(), &Kwargs::new());
            match self.node(step, None).value() {
                Ok(next) => value = Some(next),
                // What follows fails with the same error, its errbacks are silent. A final group
                // does, too (Q03), and what follows a step that expired (Q04).
                Err(error) => return failed(&last, &error),
            }
        }
        give(&mut last, value.as_slice(), &Kwargs::new());
        self.node(last, chord)
    }

    /// The header has failed, so the body fails in its place: the errbacks of what would have
    /// come next fire, as if that had failed. In a chain that is the first step (Q09), in a group
    /// every member (Q11), in a chord the body (Q02).
    fn fail_body(&mut self, body: &Node, error: &Error) {
        match body {
            Node::Task(task) => self.errbacks(&task.errbacks, error),
            Node::Chain(steps) => steps
                .iter()
                .take(1)
                .for_each(|step| self.fail_body(step, error)),
            Node::Group(members) => members
                .iter()
                .for_each(|member| self.fail_body(member, error)),
            Node::Chord(_, body) => self.fail_body(body, error),
        }
    }

    fn task(&mut self, task: &Task, chord: Option<&mut Vec<End>>) -> End {
        if task.expired {
            let error = Error::new("TaskRevokedError", "expired");
            let errbacks = task
                .errbacks
                .iter()
                .filter(|errback| errback.of_longer_chain);
            self.errbacks(errbacks, &error);
            return End::Revoked(error);
        }
        let result = match task.name.as_str() {
            "celery.map" => self.map(&task.kwargs, |item| vec![item]),
            "celery.starmap" => self.map(&task.kwargs, |item| list(&item)),
            name => self.call(name, &task.args, &task.kwargs, chord),
        };
        // What becomes of callbacks changes nothing here.
        match result {
            Ok(value) => {
                for callback in &task.links {
                    self.callback(callback, &value);
                }
                End::Success(value)
            }
            Err(error) => {
                self.errbacks(&task.errbacks, &error);
                End::Failure(error)
            }
        }
    }

    fn errbacks<'a>(&mut self, errbacks: impl IntoIterator<Item = &'a Errback>, error: &Error) {
        let failure = json!({"type": error.kind, "message": error.message});
        for errback in errbacks {
            self.callback(&errback.canvas, &failure);
        }
    }

    fn callback(&mut self, canvas: &Value, value: &Value) {
        let mut node = read(canvas);
        give(&mut node, slice::from_ref(value), &Kwargs::new());
        self.node(node, None);
    }

    /// One task: the first element that fails ends it.
    fn map(&mut self, kwargs: &Kwargs, args: impl Fn(Value) -> Vec<Value>) -> Result<Value, Error> {
        let name = kwargs["task"]["task"].as_str().expect("a task's name");
        let items = list(&kwargs["it"]).into_iter();
        items
            .map(|item| self.call(name, &args(item), &Kwargs::new(), None))
            .collect()
    }

    /// A task is replaced by what has its outcome; its own callbacks fire for that. A group that
    /// replaces a task gives a list, so it is the header of a chord.
    fn replace(&mut self, canvas: &Value) -> Result<Value, Error> {
        let list = sig("accumulate", json!([]));
        let steps = before(read(canvas), vec![read(&list)]);
        self.node(one(steps), None).value()
    }

    fn call(
        &mut self,
        name: &str,
        args: &[Value],
        kwargs: &Kwargs,
        chord: Option<&mut Vec<End>>,
    ) -> Result<Value, Error> {
        let arg = |at: usize, name: &str| {
            let arg = args.get(at).or_else(|| kwargs.get(name));
            arg.cloned().unwrap_or_default()
        };
        // Almost all have their first one or two parameters without a name in any canvas.
        let (x, y) = (arg(0, "x"), arg(1, "y"));
        let text = |at, name| display(&arg(at, name));
        let entered = |run: &mut Self, times: u64| {
            *run.executions.entry(name.to_owned()).or_default() += times;
        };
        match name {
            "on_fail" | "on_fail_id" | "on_fail_note" | "accumulate" => {}
            _ => entered(self, 1),
        }
        Ok(match name {
            "add" => add(&x, &y)?,
            "sub" => arithmetic(&x, &y, i64::checked_sub, |x, y| x - y)?,
            "mul" => arithmetic(&x, &y, i64::checked_mul, |x, y| x * y)?,
            "neg" => arithmetic(&json!(0), &x, i64::checked_sub, |_, x| -x)?,
            "div" if y.as_f64() == Some(0.0) => {
                return Err(Error::new("ZeroDivisionError", "division by zero"));
            }
            "div" => arithmetic(&x, &y, floor_div, |x, y| (x / y).floor())?,
            "identity" | "sleepy" | "accumulate" => x,
            "const" => arg(0, "v"),
            "noop" => Value::Null,
            "xsum" => sum(&list(&arg(0, "xs")))?,
            "tsum" => tree_sum(&arg(0, "xs"))?,
            "concat" => json!(text(0, "a") + &text(1, "b")),
            "join_strs" => {
                let texts: Vec<_> = list(&arg(0, "xs")).iter().map(display).collect();
                json!(texts.join(&text(1, "sep")))
            }
            "to_list" => json!(args),
            "range_list" => (0..arg(0, "n").as_i64().unwrap_or(0)).collect(),
            "length" => match arg(0, "xs") {
                Value::Array(list) => json!(list.len()),
                Value::Object(object) => json!(object.len()),
                Value::String(text) => json!(text.chars().count()),
                xs => panic!("not well typed: the length of {xs}"),
            },
            "pick" => {
                let (list, at) = (list(&arg(0, "xs")), arg(1, "i").as_i64().unwrap_or(0));
                let at = if at < 0 { at + list.len() as i64 } else { at };
                let item = usize::try_from(at).ok().and_then(|at| list.get(at));
                let item = item.ok_or(Error::new("IndexError", "list index out of range"))?;
                item.clone()
            }
            "kwargs_echo" => json!({"x": x, "a": kwargs.get("a"), "b": kwargs.get("b")}),
            "kw_sum" => {
                let number = |at, name| arg(at, name).as_i64().unwrap_or(0);
                json!(number(0, "a") + 10 * number(1, "b") + 100 * number(2, "c"))
            }
            "fail" => return Err(Error::new("ValueError", text(0, "msg"))),
            "fail_with" => {
                let message = format!("{}:{}", text(1, "msg"), display(&x));
                return Err(Error::new("ValueError", message));
            }
            "fail_key" | "auto_retry_key" => return Err(Error::new("KeyError", text(0, "msg"))),
            "fail_if_negative" if x.as_f64().is_some_and(|x| x < 0.0) => {
                return Err(Error::new(
                    "ValueError",
                    format!("negative: {}", display(&x)),
                ));
            }
            "fail_if_negative" => x,
            "too_slow" => return Err(Error::without_text("SoftTimeLimitExceeded")),
            "retry_until" => {
                let attempts = arg(0, "n").as_u64().unwrap_or(0) + 1;
                entered(self, attempts.min(11) - 1);
                if attempts > 11 {
                    return Err(Error::without_text("MaxRetriesExceededError"));
                }
                json!(attempts)
            }
            "retry_exhaust" => {
                entered(self, 2);
                return Err(Error::new("ValueError", text(0, "msg")));
            }
            "retry_bare" => {
                entered(self, 2);
                return Err(Error::without_text("MaxRetriesExceededError"));
            }
            "retry_swap" => {
                let times = arg(1, "n").as_u64().unwrap_or(0);
                entered(self, times);
                add(&x, &json!(times))?
            }
            "auto_retry" => {
                let attempts = arg(0, "n").as_u64().unwrap_or(1).max(1);
                entered(self, attempts.min(4) - 1);
                if attempts > 4 {
                    return Err(Error::new("ValueError", "attempt 4"));
                }
                json!(attempts)
            }
            "replace_with_task" => self.replace(&sig("neg", json!([x])))?,
            "replace_with_chain" => {
                let steps = [sig("add", json!([x, 10])), sig("mul", json!([2]))];
                self.replace(&composed("celery.chain", &steps))?
            }
            "replace_with_group" => {
                let members = [1, 2, 3].map(|n| sig("add", json!([x, n])));
                self.replace(&composed("celery.group", &members))?
            }
            "replace_with_chord" => {
                let header = [sig("add", json!([x, 1])), sig("mul", json!([x, 2]))];
                let group = composed("celery.group", &header);
                self.replace(&composed("celery.chain", &[group, sig("xsum", json!([]))]))?
            }
            "replace_with_chain_to_group" => {
                let members = [1, 2].map(|n| sig("add", json!([n])));
                let group = composed("celery.group", &members);
                self.replace(&composed(
                    "celery.chain",
                    &[sig("add", json!([x, 100])), group],
                ))?
            }
            "replace_nested" => match arg(1, "depth").as_i64().unwrap_or(0) {
                ..=0 => x,
                depth => {
                    let next = json!([add(&x, &json!(1))?, depth - 1]);
                    self.replace(&sig("replace_nested", next))?
                }
            },
            "replace_with_fail" => self.replace(&sig("fail", json!([arg(0, "msg")])))?,
            "replace_with_chain_fail" => {
                let steps = [
                    sig("add", json!([x, 1])),
                    sig("fail_with", json!(["inner"])),
                    sig("mul", json!([2])),
                ];
                self.replace(&composed("celery.chain", &steps))?
            }
            "extend_chord" => match chord {
                Some(added) => {
                    added.push(self.node(read(&sig("identity", json!([y]))), None));
                    x
                }
                None => {
                    let message = "Current task is not member of any chord";
                    return Err(Error::new("ValueError", message));
                }
            },
            "record" => {
                let value = arg(0, "value");
                self.recorded.push(json!([arg(1, "tag"), value]));
                value
            }
            "note" => {
                self.recorded.push(json!([arg(0, "tag"), null]));
                Value::Null
            }
            "on_fail" => {
                let entry = json!([arg(1, "tag"), "inline", null, x["type"], x["message"]]);
                self.errback_log.push(entry);
                Value::Null
            }
            "on_fail_id" | "on_fail_note" => {
                self.errback_log
                    .push(json!([arg(1, "tag"), "task", null, null, null]));
                Value::Null
            }
            name => panic!("no task `{name}`"),
        })
    }
}

fn sig(task: &str, args: Value) -> Value {
    json!({"task": task, "args": args, "kwargs": {}, "options": {}, "immutable": false})
}

fn composed(form: &str, tasks: &[Value]) -> Value {
    json!({"task": form, "args": [], "kwargs": {"tasks": tasks}, "options": {}})
}

/// The end of what never ran.
fn failed(node: &Node, error: &Error) -> End {
    match node {
        Node::Task(_) => End::Failure(error.clone()),
        Node::Chain(steps) => match steps.last() {
            Some(last) => failed(last, error),
            None => End::Failure(error.clone()),
        },
        Node::Group(members) => {
            End::Group(members.iter().map(|member| failed(member, error)).collect())
        }
        Node::Chord(_, body) => failed(body, error),
    }
}

impl End {
    /// The value, or the first error in declaration order.
    fn value(self) -> Result<Value, Error> {
        match self {
            Self::Success(value) => Ok(value),
            Self::Failure(error) | Self::Revoked(error) => Err(error),
            Self::Group(ends) => ends.into_iter().map(Self::value).collect(),
        }
    }

    fn report(&self) -> Value {
        let state = match self {
            Self::Revoked(_) => "REVOKED",
            _ => "FAILURE",
        };
        match (self.clone().value(), self) {
            (Ok(value), _) => json!({"state": "SUCCESS", "result": value}),
            (Err(error), Self::Group(ends)) => {
                let children: Vec<_> = ends.iter().map(Self::report).collect();
                json!({"state": state, "error": error.report(), "children": children})
            }
            (Err(error), _) => json!({"state": state, "error": error.report()}),
        }
    }
}

impl Error {
    fn new(kind: &'static str, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: Some(message.into()),
        }
    }

    fn without_text(kind: &'static str) -> Self {
        Self {
            kind,
            message: None,
        }
    }

    fn report(&self) -> Value {
        json!({"type": self.kind, "message": self.message})
    }
}

/// The original error as Python shows it; one whose text is not compared gives another such.
fn chord_error(error: &Error) -> Error {
    let shown = match (&error.message, error.kind) {
        (Some(message), kind) => Some(format!("{kind}({})", quoted(message))),
        (None, "SoftTimeLimitExceeded") => Some("SoftTimeLimitExceeded()".to_owned()),
        (None, _) => None,
    };
    Error {
        kind: "ChordError",
        message: shown.map(|shown| format!("Dependency <id> raised {shown}")),
    }
}

// Python's numbers and texts.

fn arithmetic(
    x: &Value,
    y: &Value,
    ints: fn(i64, i64) -> Option<i64>,
    floats: fn(f64, f64) -> f64,
) -> Result<Value, Error> {
    match (x.as_i64(), y.as_i64(), x.as_f64(), y.as_f64()) {
        (Some(x), Some(y), ..) => Ok(json!(ints(x, y).expect("no overflow"))),
        (.., Some(x), Some(y)) => Ok(json!(floats(x, y))),
        _ => panic!("not well typed: {x} and {y}"),
    }
}

fn add(x: &Value, y: &Value) -> Result<Value, Error> {
    arithmetic(x, y, i64::checked_add, |x, y| x + y)
}

fn floor_div(x: i64, y: i64) -> Option<i64> {
    Some(x.checked_div_euclid(y)? - i64::from(y < 0 && x.rem_euclid(y) != 0))
}

fn sum(list: &[Value]) -> Result<Value, Error> {
    list.iter().try_fold(json!(0), |sum, x| add(&sum, x))
}

fn tree_sum(tree: &Value) -> Result<Value, Error> {
    match tree {
        Value::Array(list) => sum(&list.iter().map(tree_sum).collect::<Result<Vec<_>, _>>()?),
        number => Ok(number.clone()),
    }
}

/// `str(value)`.
fn display(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        value => shown(value),
    }
}

/// `repr(value)`.
fn shown(value: &Value) -> String {
    let all = |texts: Vec<String>| texts.join(", ");
    match value {
        Value::Null => "None".to_owned(),
        Value::Bool(true) => "True".to_owned(),
        Value::Bool(false) => "False".to_owned(),
        Value::Number(number) => number.to_string(),
        Value::String(text) => quoted(text),
        Value::Array(list) => format!("[{}]", all(list.iter().map(shown).collect())),
        Value::Object(object) => {
            let pair =
                |(key, value): (&String, &Value)| format!("{}: {}", quoted(key), shown(value));
            format!("{{{}}}", all(object.iter().map(pair).collect()))
        }
    }
}

fn quoted(text: &str) -> String {
    let escaped = text
        .replace('\\', "\\\\")
        .replace('\n', "\\n")
        .replace('\t', "\\t");
    match (text.contains('\''), text.contains('"')) {
        (true, false) => format!("\"{escaped}\""),
        _ => format!("'{}'", escaped.replace('\'', "\\'")),
    }
}
