//! Canvases as Python's helpers make them, in Celery's JSON.

use serde_json::{Map, Value, json};

/// `task.s(*args)`.
pub(crate) fn s(task: &str, args: Value) -> Value {
    signature(task, args, json!({}), Value::Null)
}

/// `task.si(*args)`.
pub(crate) fn si(task: &str, args: Value) -> Value {
    immutable(s(task, args))
}

pub(crate) fn immutable(mut signature: Value) -> Value {
    signature["immutable"] = json!(true);
    signature
}

pub(crate) fn with_kwargs(mut signature: Value, kwargs: Value) -> Value {
    signature["kwargs"] = kwargs;
    signature
}

pub(crate) fn with_option(mut signature: Value, name: &str, value: Value) -> Value {
    signature["options"][name] = value;
    signature
}

/// A chain dict, its steps as they are.
pub(crate) fn raw_chain(steps: Vec<Value>) -> Value {
    signature(
        "celery.chain",
        json!([]),
        json!({ "tasks": steps }),
        json!("chain"),
    )
}

/// `a | b | c`: inner chains are spliced; what follows a group or a chord goes into its body, but
/// for chords that follow chords.
pub(crate) fn chain(steps: Vec<Value>) -> Value {
    let flat = steps.into_iter().flat_map(spliced);
    let mut done: Vec<Value> = Vec::new();
    for step in flat {
        match done.pop() {
            Some(last) if kind(&last) == "celery.group" => {
                done.push(chord(tasks(&last).to_vec(), step));
            }
            Some(mut last) if takes_more(&last) && kind(&step) != "celery.chord" => {
                let body = last["kwargs"]["body"].take();
                last["kwargs"]["body"] = chain(vec![body, step]);
                done.push(last);
            }
            last => done.extend(last.into_iter().chain([step])),
        }
    }
    if done.len() == 1 {
        done.remove(0)
    } else {
        raw_chain(done)
    }
}

/// A chord with callbacks of its own stays as it is: they are not those of what follows.
fn takes_more(step: &Value) -> bool {
    kind(step) == "celery.chord" && step["options"] == json!({})
}

/// What a step of a chain is in the end: the steps of a chain, with its callbacks; the one member
/// of a group of one; nothing for an empty group.
fn spliced(mut step: Value) -> Vec<Value> {
    match (kind(&step), tasks(&step).len()) {
        ("celery.chain", _) => {}
        ("celery.group", 0) => return Vec::new(),
        ("celery.group", 1) => return vec![tasks(&step)[0].clone()],
        _ => return vec![step],
    }
    let options = step["options"].take();
    let steps = tasks(&step).iter().cloned();
    let mut steps: Vec<_> = steps.flat_map(spliced).collect();
    for callback in options["link"].as_array().into_iter().flatten() {
        let last = steps.pop().map(|last| linked(last, callback.clone()));
        steps.extend(last);
    }
    for errback in options["link_error"].as_array().into_iter().flatten() {
        let all = steps.into_iter().map(|step| on_err(step, errback.clone()));
        steps = all.collect();
    }
    steps
}

pub(crate) fn group(members: Vec<Value>) -> Value {
    signature(
        "celery.group",
        json!([]),
        json!({ "tasks": members }),
        json!("group"),
    )
}

pub(crate) fn chord(header: Vec<Value>, body: Value) -> Value {
    chord_over(header.into(), body)
}

/// A chord whose header is written as it is: a list, or one signature.
pub(crate) fn chord_over(header: Value, body: Value) -> Value {
    let kwargs = json!({"header": header, "body": body, "kwargs": {}});
    signature("celery.chord", json!([]), kwargs, json!("chord"))
}

pub(crate) fn map(task: &str, items: Value) -> Value {
    let kwargs = json!({"task": s(task, json!([])), "it": items});
    immutable(signature("celery.map", json!([]), kwargs, Value::Null))
}

pub(crate) fn starmap(task: &str, items: Value) -> Value {
    let mut map = map(task, items);
    map["task"] = json!("celery.starmap");
    map
}

/// `signature.link(callback)`.
pub(crate) fn linked(signature: Value, callback: Value) -> Value {
    match kind(&signature) {
        "celery.chord" => in_body(signature, |body| linked(body, callback)),
        _ => with_callback(signature, "link", callback),
    }
}

/// `signature.link_error(errback)`: a chord's goes to the chords in its header, too.
pub(crate) fn on_err(mut signature: Value, errback: Value) -> Value {
    match kind(&signature) {
        "celery.chord" => {
            for member in signature["kwargs"]["header"]
                .as_array_mut()
                .into_iter()
                .flatten()
            {
                if kind(member) == "celery.chord" {
                    *member = on_err(member.take(), errback.clone());
                }
            }
            in_body(signature, |body| on_err(body, errback))
        }
        "celery.group" => {
            let members = tasks(&signature).iter();
            let members = members.map(|member| on_err(member.clone(), errback.clone()));
            signature["kwargs"]["tasks"] = members.collect();
            signature
        }
        _ => with_callback(signature, "link_error", errback),
    }
}

/// The same in the options of the signature itself, whatever it is.
pub(crate) fn with_callback(mut signature: Value, option: &str, callback: Value) -> Value {
    match &mut signature["options"][option] {
        Value::Array(callbacks) => callbacks.push(callback),
        none => *none = json!([callback]),
    }
    signature
}

pub(crate) fn kind(signature: &Value) -> &str {
    signature["task"].as_str().unwrap_or_default()
}

/// The steps of a chain, the members of a group.
pub(crate) fn tasks(signature: &Value) -> &[Value] {
    let tasks = signature["kwargs"]["tasks"].as_array();
    tasks.map(Vec::as_slice).unwrap_or_default()
}

/// The same canvas as the helpers would have built it: no chain within a chain, no group that a
/// chain goes on from, no callbacks in the options of a chord.
pub(crate) fn respelt(canvas: &Value) -> Value {
    let all = |tasks: &Value| -> Vec<_> {
        let tasks = tasks.as_array().into_iter().flatten();
        tasks.map(respelt).collect()
    };
    let kwargs = &canvas["kwargs"];
    let bare = match kind(canvas) {
        "celery.chain" => chain(all(&kwargs["tasks"])),
        "celery.group" => return group(all(&kwargs["tasks"])),
        "celery.chord" => {
            let header = match &kwargs["header"] {
                header @ Value::Array(_) => header,
                group_or_chain => &group_or_chain["kwargs"]["tasks"],
            };
            chord(all(header), respelt(&kwargs["body"]))
        }
        _ => return canvas.clone(),
    };
    let callbacks = |option: &str| canvas["options"][option].as_array().cloned();
    let links = callbacks("link").into_iter().flatten();
    let errbacks = callbacks("link_error").into_iter().flatten();
    errbacks.fold(links.fold(bare, linked), on_err)
}

fn in_body(mut chord: Value, change: impl FnOnce(Value) -> Value) -> Value {
    let body = chord["kwargs"]["body"].take();
    chord["kwargs"]["body"] = change(body);
    chord
}

fn signature(task: &str, args: Value, kwargs: Value, subtask_type: Value) -> Value {
    let fields = [
        ("task", json!(task)),
        ("args", args),
        ("kwargs", kwargs),
        ("options", json!({})),
        ("subtask_type", subtask_type),
        ("immutable", json!(false)),
    ];
    let fields = fields.map(|(name, value)| (name.to_owned(), value));
    Map::from_iter(fields).into()
}
