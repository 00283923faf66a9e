//! Writes a canvas as Celery's JSON.

use std::fmt;

use serde::de::{Deserialize, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value, json};

use super::{CHAIN, CHORD, GROUP, STARMAP, options};
use crate::canvas::form::{Canvas, Extras, Form, Mode, TaskSig};
use crate::canvas::freeze::CanvasError;
use crate::canvas::group_policy::GroupPolicy;
use crate::canvas::payload::Payload;

type Written = Result<Value, CanvasError>;

/// Writes a canvas that no other contains. A group of one counts as its member there, if the member
/// gives the list of a group.
pub(super) fn write_outermost(canvas: &Canvas) -> Written {
    if let Form::Group { members, .. } = &canvas.form
        && let [only] = members.list()
        && only.ends_in_group()
    {
        return Err(CanvasError::at_top(
            "a group of one whose member gives a list has no form in Celery, which takes it for \
             its member",
        ));
    }
    write(canvas)
}

pub(super) fn write(canvas: &Canvas) -> Written {
    let none = Extras::default();
    let extras = canvas.extras.as_deref().unwrap_or(&none);
    check_identity(extras)?;
    let options = options::write(extras, write)?;
    match &canvas.form {
        Form::Task(sig) => task(sig, extras, options),
        Form::Chain(steps, _) => {
            let tasks = steps
                .iter()
                .enumerate()
                .map(|(i, step)| step_of(steps, step).map_err(|error| at("chain", i, error)))
                .collect::<Result<Vec<_>, _>>()?;
            Ok(composed(CHAIN, "chain", json!({ "tasks": tasks }), options))
        }
        Form::Group { members, policy } => {
            check_group(*policy, extras)?;
            let tasks = members_of(members.list(), "group")?;
            Ok(composed(GROUP, "group", json!({ "tasks": tasks }), options))
        }
        Form::Each { .. } => {
            Err(CanvasError::at_top("each() has no form in Celery").within("group"))
        }
        Form::Chord { header, body } => {
            let header = header_of(header)?;
            let body = write(body).map_err(|error| error.within("chord.body"))?;
            let kwargs = json!({ "header": header, "body": body, "kwargs": {} });
            Ok(composed(CHORD, "chord", kwargs, options))
        }
        Form::Fold(fold) => {
            let name = fold.order.name();
            Err(CanvasError::at_top(&format!(
                "{name} has no form in Celery"
            )))
        }
        Form::Refused(reason) => Err(CanvasError::at_top(reason)),
    }
}

fn signature(task: &str, args: Value, kwargs: Value, options: Value) -> Map<String, Value> {
    let Value::Object(signature) = json!({
        "task": task,
        "args": args,
        "kwargs": kwargs,
        "options": options,
        "subtask_type": null,
        "immutable": false,
    }) else {
        unreachable!("an object was written")
    };
    signature
}

fn composed(task: &str, subtask: &str, kwargs: Value, options: Value) -> Value {
    let mut signature = signature(task, json!([]), kwargs, options);
    signature["subtask_type"] = subtask.into();
    signature.into()
}

fn task(sig: &TaskSig, extras: &Extras, options: Value) -> Written {
    let values = sig.args.split(sig.count).and_then(|values| {
        let values = values.iter().map(json_of);
        values.collect::<Result<Vec<_>, _>>()
    });
    let values = values
        .map_err(|error| CanvasError::at_top(&format!("arguments of `{}`: {error}", sig.name)))?;
    if sig.mode == Mode::Map {
        let inner = signature(&sig.name, json!([]), json!({}), json!({}));
        let kwargs = json!({ "task": inner, "it": values });
        let mut map = signature(STARMAP, json!([]), kwargs, options);
        map["immutable"] = true.into();
        return Ok(map.into());
    }
    let mut kwargs = Map::new();
    for (name, value) in &extras.kwargs {
        let value = json_of(value).map_err(|error| {
            CanvasError::at_top(&format!("argument `{name}` of `{}`: {error}", sig.name))
        })?;
        kwargs.insert(name.clone(), value);
    }
    let mut task = signature(&sig.name, values.into(), kwargs.into(), options);
    task["immutable"] = (!sig.takes_upstream).into();
    Ok(task.into())
}

/// Writes a step of a chain. Celery skips an empty group in a chain, unless it is the only step,
/// and takes a group of one member for its member: these cannot be written.
fn step_of(steps: &[Canvas], step: &Canvas) -> Written {
    let refused = match &step.form {
        _ if is_skipped(step) && steps.len() > 1 => {
            "an empty group within a chain has no form in Celery, which skips it"
        }
        Form::Group { members, .. } if members.list().len() == 1 => {
            "a group of one within a chain has no form in Celery, which takes it for its member"
        }
        _ => return write(step),
    };
    Err(CanvasError::at_top(refused))
}

/// Returns whether a chain around it skips it: an empty group, or a chain of such groups.
fn is_skipped(step: &Canvas) -> bool {
    match &step.form {
        Form::Group { members, .. } => members.list().is_empty(),
        Form::Chain(steps, _) => !steps.is_empty() && steps.iter().all(is_skipped),
        _ => false,
    }
}

/// Writes the members of a group. A group directly in a group would give its members to it, so it
/// is written in a chain of one.
fn members_of(members: &[Canvas], path: &str) -> Result<Vec<Value>, CanvasError> {
    let members = members.iter().enumerate().map(|(i, member)| {
        let alone = std::slice::from_ref(member);
        let written = step_of(alone, member).map_err(|error| at(path, i, error))?;
        Ok(match member.form {
            Form::Group { .. } => {
                composed(CHAIN, "chain", json!({ "tasks": [written] }), json!({}))
            }
            _ => written,
        })
    });
    members.collect()
}

/// Writes a header: a list of members, or a group if it has settings.
fn header_of(header: &Canvas) -> Written {
    let none = Extras::default();
    let extras = header.extras.as_deref().unwrap_or(&none);
    let here = |error: CanvasError| error.within("chord.header");
    let Form::Group { members, policy } = &header.form else {
        return Err(here(CanvasError::at_top("each() has no form in Celery")));
    };
    check_group(*policy, extras).map_err(here)?;
    let members = members_of(members.list(), "chord.header")?;
    let options = options::write(extras, write).map_err(here)?;
    Ok(if options == json!({}) {
        members.into()
    } else {
        composed(GROUP, "group", json!({ "tasks": members }), options)
    })
}

fn check_group(policy: GroupPolicy, extras: &Extras) -> Result<(), CanvasError> {
    if let Some(call) = policy.call() {
        return Err(CanvasError::at_top(&format!(
            "{call} has no form in Celery"
        )));
    }
    if !extras.link.is_empty() {
        return Err(CanvasError::at_top("cannot add link to group: use a chord"));
    }
    check_identity(extras)?;
    Ok(())
}

/// Refuses what belongs to one submission, and not to a signature.
fn check_identity(extras: &Extras) -> Result<(), CanvasError> {
    let of_submission = match extras {
        Extras {
            idempotency_key: Some(_),
            ..
        } => "an idempotency key has no form in Celery",
        Extras {
            task_id: Some(_), ..
        } => "a task id belongs to one submission, not to a signature in JSON",
        _ => return Ok(()),
    };
    Err(CanvasError::at_top(of_submission))
}

fn at(path: &str, i: usize, error: CanvasError) -> CanvasError {
    error.within(&format!("{path}[{i}]"))
}

/// Converts the value to JSON, if JSON can represent it.
fn json_of(payload: &Payload) -> Result<Value, String> {
    payload.decode::<Exact>().map(|exact| exact.0)
}

/// A JSON value that represents the decoded value exactly: serde_json would read NaN as null.
struct Exact(Value);

impl<'de> Deserialize<'de> for Exact {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Any;

        impl<'de> Visitor<'de> for Any {
            type Value = Exact;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("what JSON can carry")
            }

            fn visit_unit<E>(self) -> Result<Exact, E> {
                Ok(Exact(Value::Null))
            }

            fn visit_none<E>(self) -> Result<Exact, E> {
                Ok(Exact(Value::Null))
            }

            fn visit_some<D: Deserializer<'de>>(self, some: D) -> Result<Exact, D::Error> {
                Exact::deserialize(some)
            }

            fn visit_bool<E>(self, value: bool) -> Result<Exact, E> {
                Ok(Exact(value.into()))
            }

            fn visit_i64<E>(self, value: i64) -> Result<Exact, E> {
                Ok(Exact(value.into()))
            }

            fn visit_u64<E>(self, value: u64) -> Result<Exact, E> {
                Ok(Exact(value.into()))
            }

            fn visit_i128<E: Error>(self, value: i128) -> Result<Exact, E> {
                Err(E::custom(format!(
                    "{value} is not written: it takes more than 64 bits"
                )))
            }

            fn visit_u128<E: Error>(self, value: u128) -> Result<Exact, E> {
                Err(E::custom(format!(
                    "{value} is not written: it takes more than 64 bits"
                )))
            }

            fn visit_f64<E: Error>(self, value: f64) -> Result<Exact, E> {
                let number = Number::from_f64(value)
                    .ok_or_else(|| E::custom(format!("JSON cannot carry {value}")))?;
                Ok(Exact(Value::Number(number)))
            }

            fn visit_str<E>(self, value: &str) -> Result<Exact, E> {
                Ok(Exact(value.into()))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Exact, A::Error> {
                let mut values = Vec::new();
                while let Some(Exact(value)) = seq.next_element()? {
                    values.push(value);
                }
                Ok(Exact(values.into()))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Exact, A::Error> {
                let mut values = Map::new();
                while let Some((name, Exact(value))) = map.next_entry()? {
                    values.insert(name, value);
                }
                Ok(Exact(values.into()))
            }
        }

        deserializer.deserialize_any(Any)
    }
}
