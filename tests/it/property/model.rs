//! Random canvases, and a short recursive reference of what becomes of them.
//!
//! Whoever includes this has the tasks `property.source` and `property.relay`, the second as `relay`
//! where this module is; and for [dynamic](node) canvases `property.calling`, `property.replaced`,
//! `property.adding` and `property.fold` as well.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use chordal::prelude::*;
use proptest::prelude::*;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::relay;

/// Why a task failed that was late.
const EXPIRED: &str = "expired";

/// What a task gives: it depends on all of its input.
pub(crate) fn give(input: Option<&Value>, key: u64, fails: bool) -> Result<Value, String> {
    if fails {
        return Err(format!("boom {key}"));
    }
    Ok(json!(digest(&json!([input.map(plain), key]))))
}

fn digest(value: &Value) -> u64 {
    let text = value.to_string();
    let hash = text.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    hash % 1_000_000
}

/// What a fold's function makes of one value: in member order it depends on the order, else not.
pub(crate) fn fold_in(acc: &Acc, item: &Value) -> Result<Acc, String> {
    if acc.fails {
        return Err(format!("boom {}", acc.key));
    }
    let item = plain(item);
    let sum = match acc.ordered {
        true => digest(&json!([acc.sum, item])),
        false => (acc.sum + digest(&item)) % 1_000_000,
    };
    let count = acc.count + 1;
    Ok(Acc { sum, count, ..*acc })
}

/// A fold's accumulator; the function knows by it which fold it is.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Acc {
    pub(crate) key: u64,
    fails: bool,
    ordered: bool,
    sum: u64,
    count: u64,
}

/// The value with every failure in it reduced to what first went wrong.
pub(crate) fn plain(value: &Value) -> Value {
    match value {
        Value::Object(map) => match map.get("message") {
            Some(message) => json!(origin(message.as_str().unwrap())),
            None => map.iter().map(|(k, v)| (k.clone(), plain(v))).collect(),
        },
        Value::Array(list) => list.iter().map(plain).collect(),
        other => other.clone(),
    }
}

/// A chord's message quotes that of the member it blames. (A task that is to fail by its time limit
/// has as many milliseconds as its key says.)
pub(crate) fn origin(message: &str) -> String {
    if message.contains(EXPIRED) {
        return EXPIRED.to_owned();
    }
    let after = ["boom ", "time limit of "].map(|what| message.rsplit_once(what));
    match after.into_iter().flatten().next() {
        Some((_, key)) => {
            let digits: String = key.chars().take_while(char::is_ascii_digit).collect();
            format!("boom {digits}")
        }
        None => "no list".to_owned(),
    }
}

#[derive(Clone)]
pub(crate) struct Node {
    pub(crate) form: Form,
    link: Vec<Node>,
    link_error: Vec<Node>,
}

#[derive(Clone, Debug)]
pub(crate) enum Form {
    Task {
        key: u64,
        fails: bool,
        takes: bool,
    },
    /// A task whose time comes when it has expired.
    Late {
        key: u64,
    },
    Chain(Vec<Node>),
    Group(Vec<Node>, bool),
    Chord(Vec<Node>, bool, Box<Node>),
    Each {
        key: u64,
        fails: bool,
    },
    Fold {
        header: Vec<Node>,
        settled: bool,
        ordered: bool,
        key: u64,
        fails: bool,
    },
    /// A task that calls this and depends on its value.
    Calling {
        key: u64,
        callee: Box<Node>,
    },
    /// A task that this replaces.
    Replaced {
        key: u64,
        by: Box<Node>,
    },
    /// A member that adds these to its group.
    Adding {
        key: u64,
        added: Vec<Node>,
    },
}

/// So that a failing case can be read.
impl fmt::Debug for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.form {
            Form::Task { fails: true, .. } => write!(f, "fail"),
            Form::Task { takes: true, .. } => write!(f, "task"),
            Form::Task { .. } => write!(f, "immutable"),
            Form::Late { .. } => write!(f, "late"),
            Form::Chain(steps) => write!(f, "chain{steps:?}"),
            Form::Group(members, settled) => write!(f, "group{members:?} settled:{settled}"),
            Form::Chord(header, settled, body) => {
                write!(f, "chord({header:?} settled:{settled} | {body:?})")
            }
            Form::Each { fails, .. } => write!(f, "each(fails:{fails})"),
            Form::Fold {
                header,
                settled,
                ordered,
                fails,
                ..
            } => write!(
                f,
                "fold({header:?} settled:{settled} ordered:{ordered} fails:{fails})"
            ),
            Form::Calling { callee, .. } => write!(f, "calling({callee:?})"),
            Form::Replaced { by, .. } => write!(f, "replaced({by:?})"),
            Form::Adding { added, .. } => write!(f, "adding{added:?}"),
        }?;
        if !self.link.is_empty() {
            write!(f, ".link{:?}", self.link)?;
        }
        if !self.link_error.is_empty() {
            write!(f, ".link_error{:?}", self.link_error)?;
        }
        Ok(())
    }
}

/// Of `dynamic` canvases some tasks start more as they run, and some groups are folded.
pub(crate) fn node(dynamic: bool) -> impl Strategy<Value = Node> {
    let task =
        (prop::bool::weighted(0.15), prop::bool::weighted(0.7)).prop_map(|(fails, takes)| {
            Form::Task {
                key: 0,
                fails,
                takes,
            }
        });
    let each = prop::bool::weighted(0.1).prop_map(|fails| Form::Each { key: 0, fails });
    let late = Just(Form::Late { key: 0 });
    let leaf = prop_oneof![18 => task, 2 => each, 1 => late].prop_map(bare);
    leaf.prop_recursive(4, 32, 4, move |inner| {
        let some = prop::collection::vec(inner.clone(), 0..5);
        let callbacks = || prop::collection::vec(inner.clone(), 0..2);
        let settled = prop::bool::weighted(0.3);
        let fails = prop::bool::weighted(0.1);
        let fold = (some.clone(), settled, any::<bool>(), fails);
        let own = u32::from(dynamic);
        let form = prop_oneof![
            2 => inner.clone().prop_map(|node| node.form),
            3 => some.clone().prop_map(Form::Chain),
            3 => (some.clone(), settled).prop_map(|(m, settled)| Form::Group(m, settled)),
            3 => (some.clone(), settled, inner.clone())
                .prop_map(|(h, settled, body)| Form::Chord(h, settled, Box::new(body))),
            own => fold.prop_map(|(header, settled, ordered, fails)| Form::Fold {
                header,
                settled,
                ordered,
                key: 0,
                fails,
            }),
            own => inner.clone().prop_map(|node| Form::Calling {
                key: 0,
                callee: Box::new(node),
            }),
            own => inner.clone().prop_map(|node| match node {
                node if node.ends_in_group() || node.vanishes() => node.form,
                node => Form::Replaced {
                    key: 0,
                    by: Box::new(node),
                },
            }),
            own => (some, settled, 1..3_usize).prop_map(|(mut members, settled, count)| {
                let task = |fails| bare(Form::Task { key: 0, fails, takes: false });
                let added = (0..count).map(|_| task(false)).collect();
                members.push(bare(Form::Adding { key: 0, added }));
                Form::Group(members, settled)
            }),
        ];
        let callbacks = prop_oneof![
            3 => Just((Vec::new(), Vec::new())),
            1 => (callbacks(), callbacks()),
        ];
        (form, callbacks).prop_map(|(form, (link, link_error))| {
            let mut node = bare(form);
            if !node.is_list() {
                node.link = link;
            }
            node.link_error = link_error;
            node
        })
    })
}

fn bare(form: Form) -> Node {
    // A chord whose body is nothing is a group.
    let form = match form {
        Form::Chord(header, settled, body) if body.vanishes() => Form::Group(header, settled),
        form => form,
    };
    Node {
        form,
        link: Vec::new(),
        link_error: Vec::new(),
    }
}

impl Acc {
    fn new(key: u64, fails: bool, ordered: bool) -> Self {
        let (sum, count) = (0, 0);
        Self {
            key,
            fails,
            ordered,
            sum,
            count,
        }
    }
}

impl Node {
    /// Takes no `link`.
    fn is_list(&self) -> bool {
        matches!(self.form, Form::Group(..) | Form::Each { .. })
    }

    /// An empty chain among the steps of a chain leaves no trace.
    fn vanishes(&self) -> bool {
        self.link.is_empty()
            && self.link_error.is_empty()
            && matches!(&self.form, Form::Chain(steps) if steps.iter().all(Self::vanishes))
    }

    /// Gives each task a key of its own, behind `next`.
    pub(crate) fn number(&mut self, next: &mut u64) {
        if let Some(key) = self.key_mut() {
            *next += 1;
            *key = *next;
        }
        match &mut self.form {
            Form::Task { .. } | Form::Late { .. } | Form::Each { .. } => {}
            Form::Calling { callee: node, .. } | Form::Replaced { by: node, .. } => {
                node.number(next);
            }
            Form::Fold { header: nodes, .. } | Form::Adding { added: nodes, .. } => {
                nodes.iter_mut().for_each(|node| node.number(next));
            }
            Form::Chain(nodes) | Form::Group(nodes, _) => {
                nodes.iter_mut().for_each(|node| node.number(next));
            }
            Form::Chord(header, _, body) => {
                header.iter_mut().for_each(|node| node.number(next));
                body.number(next);
            }
        }
        self.link
            .iter_mut()
            .chain(&mut self.link_error)
            .for_each(|node| node.number(next));
    }

    fn key_mut(&mut self) -> Option<&mut u64> {
        match &mut self.form {
            Form::Task { key, .. }
            | Form::Late { key }
            | Form::Each { key, .. }
            | Form::Fold { key, .. }
            | Form::Calling { key, .. }
            | Form::Replaced { key, .. }
            | Form::Adding { key, .. } => Some(key),
            Form::Chain(_) | Form::Group(..) | Form::Chord(..) => None,
        }
    }

    /// Visits it and all within it.
    pub(crate) fn walk(&self, visit: &mut dyn FnMut(&Self)) {
        visit(self);
        let (nodes, last): (&[Self], Option<&Self>) = match &self.form {
            Form::Task { .. } | Form::Late { .. } | Form::Each { .. } => (&[], None),
            Form::Chain(nodes) | Form::Group(nodes, _) => (nodes, None),
            Form::Chord(header, _, body) => (header, Some(body)),
            Form::Fold { header, .. } => (header, None),
            Form::Calling { callee: node, .. } | Form::Replaced { by: node, .. } => {
                (&[], Some(node))
            }
            Form::Adding { added, .. } => (added, None),
        };
        let all = nodes.iter().chain(last);
        let callbacks = self.link.iter().chain(&self.link_error);
        all.chain(callbacks).for_each(|node| node.walk(visit));
    }

    /// The canvas; `dress` gives each task, by its key, the options that it is to have. `fed`: there
    /// is a value upstream.
    pub(crate) fn canvas(&self, fed: bool, dress: &dyn Fn(u64, Canvas) -> Canvas) -> Canvas {
        let all = |nodes: &[Self]| -> Vec<_> {
            let canvas = |node: &Self| node.canvas(fed, dress);
            nodes.iter().map(canvas).collect()
        };
        let group = |nodes: &[Self], settled: bool| {
            let group = Canvas::group(all(nodes));
            if settled { group.settled() } else { group }
        };
        let canvas = match &self.form {
            Form::Task { key, fails, takes } if fed && *takes => {
                dress(*key, Canvas::task("property.relay", (key, fails)))
            }
            Form::Task { key, fails, .. } => {
                dress(*key, Canvas::immutable("property.source", (key, fails)))
            }
            Form::Late { key } => {
                let task = Canvas::immutable("property.source", (key, false));
                dress(*key, task.expires(Duration::ZERO))
            }
            Form::Calling { key, .. } => dress(*key, Canvas::immutable("property.calling", (key,))),
            Form::Replaced { key, .. } => {
                dress(*key, Canvas::immutable("property.replaced", (key,)))
            }
            Form::Adding { key, .. } => dress(*key, Canvas::immutable("property.adding", (key,))),
            Form::Fold {
                header,
                settled,
                ordered,
                key,
                fails,
            } => {
                let acc = Acc::new(*key, *fails, *ordered);
                let header = group(header, *settled);
                match ordered {
                    true => header.fold(acc, "property.fold"),
                    false => header.fold_unordered(acc, "property.fold"),
                }
            }
            Form::Chain(steps) => {
                let mut fed = fed;
                Canvas::chain(steps.iter().map(|step| {
                    let canvas = step.canvas(fed, dress);
                    fed |= !step.vanishes();
                    canvas
                }))
            }
            Form::Group(members, settled) => group(members, *settled),
            Form::Chord(header, settled, body) => {
                group(header, *settled) | body.canvas(true, dress)
            }
            Form::Each { key, fails } if fed => relay.each(*key, *fails).into_canvas(),
            Form::Each { .. } => Canvas::group([]),
        };
        let linked = self
            .link
            .iter()
            .fold(canvas, |canvas, node| canvas.link(node.canvas(true, dress)));
        self.link_error.iter().fold(linked, |canvas, node| {
            canvas.link_error(node.canvas(true, dress))
        })
    }

    /// The steps of a chain that are there at all.
    fn steps(nodes: &[Self]) -> Vec<&Self> {
        nodes.iter().filter(|step| !step.vanishes()).collect()
    }

    fn ends_in_group(&self) -> bool {
        match &self.form {
            Form::Group(..) | Form::Each { .. } => true,
            Form::Chain(steps) => Self::steps(steps).last().is_some_and(|s| s.ends_in_group()),
            Form::Chord(_, _, body) => body.ends_in_group(),
            _ => false,
        }
    }

    /// Is only a header, if anything follows it.
    fn is_group(&self) -> bool {
        match &self.form {
            Form::Group(..) | Form::Each { .. } => true,
            Form::Chain(steps) => matches!(&Self::steps(steps)[..], [only] if only.is_group()),
            Form::Chord(_, _, body) => body.is_group(),
            _ => false,
        }
    }

    /// The reference: the value or what first went wrong, and in `ran` how often each task did.
    /// `followed`: something takes its value.
    pub(crate) fn run(
        &self,
        input: Option<Value>,
        above: &[Self],
        followed: bool,
        ran: &mut BTreeMap<u64, u32>,
    ) -> Outcome {
        let mut errbacks = [&self.link_error, above].concat();
        let list = |ran: &mut _, members: &[Self], settled: bool, errbacks: &[Self]| -> Outcome {
            let all = members
                .iter()
                .flat_map(|m| m.run_member(input.clone(), errbacks, ran));
            gather(all.collect(), settled)
        };
        let outcome = match &self.form {
            Form::Task { key, fails, takes } => {
                *ran.entry(*key).or_default() += 1;
                give(input.as_ref().filter(|_| *takes), *key, *fails).map_err(Failed::task)
            }
            Form::Late { .. } => Err(Failed {
                is_late: true,
                ..Failed::task(EXPIRED.to_owned())
            }),
            Form::Calling { key, callee } => {
                *ran.entry(*key).or_default() += 1;
                let called = callee.run(None, &[], false, ran);
                let called = called.map_err(|failed| Failed::task(failed.why));
                called.and_then(|value| give(Some(&value), *key, false).map_err(Failed::task))
            }
            Form::Replaced { key, by } => {
                *ran.entry(*key).or_default() += 1;
                by.run(None, &[], followed, ran)
            }
            Form::Adding { key, .. } => {
                *ran.entry(*key).or_default() += 1;
                give(None, *key, false).map_err(Failed::task)
            }
            Form::Fold {
                header,
                settled,
                ordered,
                key,
                fails,
            } => list(ran, header, *settled, &[])
                .map_err(|failed| Failed::task(failed.why))
                .and_then(|items| {
                    let mut acc = Acc::new(*key, *fails, *ordered);
                    for item in items.as_array().into_iter().flatten() {
                        acc = fold_in(&acc, item).map_err(Failed::task)?;
                    }
                    Ok(json!(acc))
                }),
            Form::Chain(steps) => {
                let outcome =
                    self.run_chain(&Self::steps(steps), input.clone(), &errbacks, followed, ran);
                match outcome {
                    Ok(value) => Ok(value),
                    // The last step had the errbacks itself.
                    Err((true, why)) if self.ends_in_group() => {
                        errbacks.clear();
                        Err(why)
                    }
                    Err((_, why)) => Err(why),
                }
            }
            Form::Group(members, settled) => return list(ran, members, *settled, &errbacks),
            Form::Chord(header, settled, body) => {
                let theirs = if body.ends_in_group() {
                    std::mem::take(&mut errbacks)
                } else {
                    Vec::new()
                };
                match list(ran, header, *settled, &[]) {
                    Ok(list) => body.run(Some(list), &theirs, followed, ran),
                    Err(failed) if followed && body.is_group() => Err(failed),
                    Err(Failed { why, .. }) => {
                        body.fails(&why, &theirs, followed, ran);
                        Err(Failed::task(why))
                    }
                }
            }
            Form::Each { key, fails } => {
                let elements = match input {
                    None => Vec::new(),
                    Some(Value::Array(elements)) => elements,
                    Some(_) => {
                        let why = "no list".to_owned();
                        call(&errbacks, &why, ran);
                        return Err(Failed {
                            by_group: true,
                            ..Failed::task(why)
                        });
                    }
                };
                let member = bare(Form::Task {
                    key: *key,
                    fails: *fails,
                    takes: true,
                });
                let all = elements
                    .into_iter()
                    .map(|e| member.run(Some(e), &errbacks, false, ran));
                return gather(all.collect(), false);
            }
        };
        match &outcome {
            Ok(value) => self.link.iter().for_each(|callback| {
                let _ = callback.run(Some(value.clone()), &[], false, ran);
            }),
            Err(Failed { is_late: true, .. }) => {}
            Err(Failed { why, .. }) => call(&errbacks, why, ran),
        }
        outcome
    }

    /// As a member: it may bring others with it, whose failure is its own.
    fn run_member(
        &self,
        input: Option<Value>,
        errbacks: &[Self],
        ran: &mut BTreeMap<u64, u32>,
    ) -> Vec<Outcome> {
        let own = self.run(input, errbacks, false, ran);
        let Form::Adding { added, .. } = &self.form else {
            return vec![own];
        };
        let added = added.iter().map(|node| node.run(None, &[], false, ran));
        std::iter::once(own).chain(added).collect()
    }

    /// The steps one by one; a failure says whether it is that of the last.
    fn run_chain(
        &self,
        steps: &[&Self],
        input: Option<Value>,
        errbacks: &[Self],
        followed: bool,
        ran: &mut BTreeMap<u64, u32>,
    ) -> Result<Value, (bool, Failed)> {
        let mut input = input;
        for (i, step) in steps.iter().enumerate() {
            let is_last = i + 1 == steps.len();
            let theirs = if is_last && step.ends_in_group() {
                errbacks
            } else {
                &[]
            };
            match step.run(input, theirs, followed || !is_last, ran) {
                Ok(value) => input = Some(value),
                Err(failed) if is_last => return Err((true, failed)),
                Err(failed) => {
                    // The group was the header of the steps behind it.
                    let rest = &steps[i + 1..];
                    let Failed { why, by_group, .. } = failed.clone();
                    if by_group && followed && rest.iter().all(|step| step.is_group()) {
                        return Err((true, failed));
                    }
                    let given = by_group && fail_first(rest, &why, errbacks, followed, ran);
                    return Err((given, Failed::task(why)));
                }
            }
        }
        Ok(input.unwrap_or_default())
    }

    /// It fails before it could start, because the header before it did.
    fn fails(&self, why: &str, above: &[Self], followed: bool, ran: &mut BTreeMap<u64, u32>) {
        let errbacks = [&self.link_error, above].concat();
        match &self.form {
            // A header, whose body fails.
            Form::Group(..) | Form::Each { .. } if followed => {}
            Form::Each { .. } => call(&errbacks, why, ran),
            Form::Group(members, _) => {
                members
                    .iter()
                    .for_each(|m| m.fails(why, &errbacks, false, ran));
            }
            Form::Chord(_, _, body) if body.ends_in_group() => {
                body.fails(why, &errbacks, followed, ran);
            }
            Form::Chord(_, _, body) => {
                call(&errbacks, why, ran);
                body.fails(why, &[], followed, ran);
            }
            Form::Chain(steps) => {
                if !fail_first(&Self::steps(steps), why, &errbacks, followed, ran) {
                    call(&errbacks, why, ran);
                }
            }
            _ => call(&errbacks, why, ran),
        }
    }
}

/// Of steps that never started, the first fails; a header is passed over. Says whether that is the
/// last and took the chain's errbacks.
fn fail_first(
    steps: &[&Node],
    why: &str,
    errbacks: &[Node],
    followed: bool,
    ran: &mut BTreeMap<u64, u32>,
) -> bool {
    let headers = steps.len().saturating_sub(1);
    let at = steps[..headers].iter().take_while(|s| s.is_group()).count();
    let Some(step) = steps.get(at) else {
        return false;
    };
    let is_last = at == headers;
    let given = is_last && step.ends_in_group();
    let theirs = if given { errbacks } else { &[] };
    step.fails(why, theirs, followed || !is_last, ran);
    given
}

fn call(errbacks: &[Node], why: &str, ran: &mut BTreeMap<u64, u32>) {
    for errback in errbacks {
        let _ = errback.run(Some(json!({ "message": why })), &[], false, ran);
    }
}

/// What first went wrong.
#[derive(Clone, Debug)]
pub(crate) struct Failed {
    pub(crate) why: String,
    /// A group said so whose list would have been the value.
    by_group: bool,
    /// It never ran, which is no reason for its errbacks to do so.
    is_late: bool,
}

impl Failed {
    fn task(why: String) -> Self {
        Self {
            why,
            by_group: false,
            is_late: false,
        }
    }
}

pub(crate) type Outcome = Result<Value, Failed>;

fn gather(outcomes: Vec<Outcome>, settled: bool) -> Outcome {
    if !settled {
        let list: Outcome = outcomes.into_iter().collect();
        return list.map_err(|failed| Failed {
            by_group: true,
            ..Failed::task(failed.why)
        });
    }
    Ok(outcomes
        .into_iter()
        .map(|outcome| match outcome {
            Ok(value) => json!({ "Ok": value }),
            Err(failed) => json!({ "Err": { "message": failed.why } }),
        })
        .collect())
}
