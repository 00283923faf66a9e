//! Random canvases of the vocabulary, nested up to four deep, with up to two tasks that fail and
//! callbacks at every level. One seed gives one canvas.
//!
//! They are well typed: what flows from task to task is tracked, so that each gets what it can
//! take, and fails only if it was chosen to.

use serde_json::{Value, json};

use crate::build::{
    chain, chord, chord_over, group, immutable, kind, linked, map, on_err, raw_chain, s, si,
    starmap, with_callback, with_kwargs, with_option,
};
use crate::split_mix;

/// A canvas, and what its outermost `apply_async` is given.
pub(crate) struct Generated {
    pub(crate) canvas: Value,
    pub(crate) apply: Option<Value>,
}

/// What flows from one task to the next.
#[derive(Clone, Copy, PartialEq)]
enum Type {
    Number,
    /// A list of numbers.
    Numbers,
    /// A list of numbers and such lists.
    Tree,
    Text,
    Any,
}

/// A canvas, and the type of its value.
struct Made {
    canvas: Value,
    gives: Type,
    /// Its value is the list of a group, which takes no `link`.
    is_group: bool,
    /// Of a group itself: what each of its members gives.
    members: Vec<Type>,
}

pub(crate) fn generate(seed: u64) -> Generated {
    let mut rng = Rng(seed);
    loop {
        let mut generator = Generator {
            tasks: 3 + rng.below(28) as i64,
            failures: [0, 1, 1, 2][rng.below(4)],
            waits: usize::from(rng.chance(4)),
            raw: rng.chance(60),
            next_tag: 0,
            rng: rng.fork(),
        };
        let wanted = generator.tasks;
        let depth = 1 + rng.below(4);
        let given = rng.chance(10).then(|| json!({"args": [rng.number()]}));
        let canvas = generator
            .composed(depth, given.as_ref().map(|_| Type::Number))
            .canvas;
        let made = wanted - generator.tasks;
        if (3..=30).contains(&made) {
            let is_alone = rng.chance(5);
            return Generated {
                canvas: if is_alone {
                    group(vec![canvas])
                } else {
                    canvas
                },
                apply: given,
            };
        }
    }
}

struct Generator {
    rng: Rng,
    /// How many tasks, failing tasks and tasks that wait may still be made.
    tasks: i64,
    failures: usize,
    waits: usize,
    /// Chains are written as dicts, with chains, groups and chords in them as they are.
    raw: bool,
    next_tag: u32,
}

impl Generator {
    /// Something that takes `input` from upstream, or nothing.
    fn any(&mut self, depth: usize, input: Option<Type>) -> Made {
        if depth == 0 || self.tasks < 3 || self.rng.chance(25) {
            return self.task(input);
        }
        self.composed(depth, input)
    }

    fn composed(&mut self, depth: usize, input: Option<Type>) -> Made {
        let made = match self.rng.below(10) {
            0..4 => self.chain(depth - 1, input),
            4..6 => self.group(depth - 1, input),
            _ => self.chord(depth - 1, input),
        };
        self.with_callbacks(made, 15)
    }

    fn chain(&mut self, depth: usize, input: Option<Type>) -> Made {
        let mut input = input;
        let mut steps = Vec::new();
        let mut last = None;
        for _ in 0..2 + self.rng.below(4) {
            if self.rng.chance(2) {
                steps.push(group(Vec::new()));
            }
            let step = self.any(depth, input);
            input = Some(step.gives);
            // A group of one is that task.
            let is_wrapped = self.rng.chance(2) && !kind(&step.canvas).starts_with("celery.");
            steps.push(match step.canvas.clone() {
                task if is_wrapped => group(vec![task]),
                step => step,
            });
            last = Some(step);
        }
        let last = last.expect("two steps at least");
        let canvas = if self.raw && self.rng.chance(70) {
            raw_chain(steps)
        } else {
            chain(steps)
        };
        Made {
            canvas,
            members: Vec::new(),
            ..last
        }
    }

    fn group(&mut self, depth: usize, input: Option<Type>) -> Made {
        let members = 2 + self.rng.below(3);
        let (members, gives) = self.members(members, depth, input);
        Made {
            canvas: group(members),
            gives: list_of(&gives),
            is_group: true,
            members: gives,
        }
    }

    fn chord(&mut self, depth: usize, input: Option<Type>) -> Made {
        let members = if self.rng.chance(2) {
            0
        } else {
            1 + self.rng.below(4)
        };
        let (mut header, mut gives) = self.members(members, depth, input);
        if self.rng.chance(3) {
            header.push(si(
                "extend_chord",
                json!([self.rng.number(), self.rng.number()]),
            ));
            gives.push(Type::Number);
            self.tasks -= 2;
        }
        let body = self.any(depth, Some(list_of(&gives)));
        // One signature as a header: a chain stands for its steps.
        let header = match self.rng.below(25) {
            0 => raw_chain(header),
            1 => group(header),
            _ => header.into(),
        };
        Made {
            canvas: chord_over(header, body.canvas),
            members: Vec::new(),
            ..body
        }
    }

    fn members(&mut self, n: usize, depth: usize, input: Option<Type>) -> (Vec<Value>, Vec<Type>) {
        let mut gives = Vec::new();
        let members = (0..n).map(|_| {
            let member = self.any(depth, input);
            match kind(&member.canvas) {
                "celery.group" => gives.extend(member.members),
                _ => gives.push(member.gives),
            }
            member.canvas
        });
        (members.collect(), gives)
    }

    fn task(&mut self, input: Option<Type>) -> Made {
        self.tasks -= 1;
        let (canvas, gives) = if self.failures > 0 && self.rng.chance(15) {
            self.failures -= 1;
            (self.failing(input), Type::Number)
        } else if self.waits > 0 && self.rng.chance(10) {
            self.waits -= 1;
            self.waiting()
        } else {
            match input {
                Some(_) if self.rng.chance(10) => {
                    let (canvas, gives) = self.source();
                    (immutable(canvas), gives)
                }
                Some(input) => self.step(input),
                None => self.source(),
            }
        };
        let made = Made {
            canvas,
            gives,
            is_group: false,
            members: Vec::new(),
        };
        self.with_callbacks(made, 15)
    }

    /// A task with all its arguments.
    fn source(&mut self) -> (Value, Type) {
        use Type::{Any, Number, Numbers, Text};
        let (a, b) = (self.rng.number(), self.rng.number());
        let n = self.rng.below(5);
        match self.rng.below(38) {
            34 => (s("const", json!([self.tagged()])), Text),
            35 => (
                s("identity", json!([tagged("bytes", json!("é!"))])),
                Numbers,
            ),
            // (In a message it would be taken for an id.)
            37 => (
                s(
                    "length",
                    json!([tagged("uuid", json!({"hex": "0".repeat(32)}))]),
                ),
                Number,
            ),
            36 => (
                with_kwargs(s("kwargs_echo", json!([a])), json!({"a": self.tagged()})),
                Any,
            ),
            0..3 => (s("add", json!([a, b])), Number),
            3..5 => (s("sub", json!([a, b])), Number),
            5 => (s("mul", json!([a, n])), Number),
            6 => (s("neg", json!([a])), Number),
            7..9 => (s("const", json!([a])), Number),
            9 => (s("const", json!([[a, b]])), Numbers),
            10 => (s("const", json!(["it's"])), Text),
            11 => (s("identity", json!([a])), Number),
            12 => (s("noop", json!([])), Any),
            13 => (s("xsum", json!([[a, b, n]])), Number),
            14 => (s("tsum", json!([[a, [b, [n]]]])), Number),
            15 => (s("to_list", json!([a, b])), Numbers),
            16 => (s("range_list", json!([n])), Numbers),
            17 => (s("length", json!([[a, b]])), Number),
            18 => (s("length", json!(["héllo"])), Number),
            19 => (s("pick", json!([[a, b], -1])), Number),
            20 => (s("join_strs", json!([[a, "b", null, 1.5], "-"])), Text),
            21 => (s("concat", json!([[a, "x"], b])), Text),
            22 => (
                with_kwargs(s("kwargs_echo", json!([a])), json!({"b": b})),
                Any,
            ),
            23 => (
                with_kwargs(s("kw_sum", json!([])), json!({"a": a, "c": n})),
                Number,
            ),
            24 => (with_kwargs(s("add", json!([a])), json!({"y": b})), Number),
            25 => (s("sleepy", json!([a, n])), Number),
            26 => (s("div", json!([a, 3])), Number),
            27 => (map("neg", json!([a, b, n])), Numbers),
            28 => (starmap("sub", json!([[a, b], [b, n]])), Numbers),
            29 => (s("record", json!([a, self.tag("R")])), Number),
            _ => self.replaced(Some(a)),
        }
    }

    /// A value that Python tags, which comes as a text.
    fn tagged(&mut self) -> Value {
        let (kind, value) = [
            ("datetime", json!("2026-11-30T15:06:10.177237+00:00")),
            ("date", json!("2026-11-30")),
            ("time", json!("15:06:10")),
            ("decimal", json!("12.50")),
        ][self.rng.below(4)]
        .clone();
        tagged(kind, value)
    }

    /// A task that takes its first argument from upstream.
    fn step(&mut self, input: Type) -> (Value, Type) {
        use Type::{Any, Number, Numbers, Text, Tree};
        let a = self.rng.number();
        let n = self.rng.below(3);
        match (input, self.rng.below(20)) {
            (_, 0) => (s("identity", json!([])), input),
            (_, 1) => (s("sleepy", json!([n])), input),
            (_, 2) => (s("record", json!([self.tag("R")])), input),
            (_, 3) => (
                with_kwargs(s("kwargs_echo", json!([])), json!({"a": a})),
                Any,
            ),
            (_, 4) => (s("concat", json!(["|"])), Text),
            (Number, 5) => (s("to_list", json!([a])), Numbers),
            (Numbers | Tree, 5 | 6) => (s("to_list", json!([a])), Tree),
            (_, 5) => (s("to_list", json!([a])), Any),
            (Number, 6..8) => (s("add", json!([a])), Number),
            (Number, 8) => (s("sub", json!([a])), Number),
            (Number, 9) => (s("mul", json!([n])), Number),
            (Number, 10) => (s("neg", json!([])), Number),
            (Number, 11) => (s("div", json!([-3])), Number),
            (Number, 12) => (with_kwargs(s("kw_sum", json!([])), json!({"b": n})), Number),
            (Number, 13) => (with_kwargs(s("mul", json!([])), json!({"y": n})), Number),
            (Number, _) => self.replaced(None),
            (Numbers, 7..12) => (s("xsum", json!([])), Number),
            (Numbers, 12) => (s("join_strs", json!([", "])), Text),
            (Numbers | Tree, 13..16) => (s("length", json!([])), Number),
            (Numbers | Tree, _) => (s("tsum", json!([])), Number),
            (Text, 6..) => (s("length", json!([])), Number),
            (Any, 6..) => (si("const", json!([a])), Number),
        }
    }

    /// A task that is replaced, of a number.
    fn replaced(&mut self, x: Option<i64>) -> (Value, Type) {
        let (task, gives) = [
            ("replace_with_task", Type::Number),
            ("replace_with_chain", Type::Number),
            ("replace_with_group", Type::Numbers),
            ("replace_with_chord", Type::Number),
            ("replace_with_chain_to_group", Type::Numbers),
            ("replace_nested", Type::Number),
        ][self.rng.below(6)];
        let mut args: Vec<_> = x.into_iter().collect();
        if task == "replace_nested" {
            args.push(self.rng.below(4) as i64);
        }
        (s(task, json!(args)), gives)
    }

    /// A task that takes its time. It needs nothing from upstream.
    fn waiting(&mut self) -> (Value, Type) {
        let n = self.rng.below(3);
        let (task, args) = [
            ("retry_until", json!([n])),
            ("retry_swap", json!([5, n])),
            ("auto_retry", json!([n + 1])),
        ][self.rng.below(3)]
        .clone();
        let task = match self.rng.below(5) {
            0 => with_option(si("const", json!([n])), "countdown", json!(0.1)),
            1 => with_option(si(task, args), "expires", json!(3_600)),
            2 => {
                let (past, future) = ("2001-02-03T04:05:06", "2099-02-03T04:05:06+00:00");
                let task = with_option(si(task, args), "eta", tagged("datetime", json!(past)));
                with_option(task, "expires", tagged("datetime", json!(future)))
            }
            _ => si(task, args),
        };
        (task, Type::Number)
    }

    fn failing(&mut self, input: Option<Type>) -> Value {
        let a = self.rng.number();
        let tag = self.tag("e");
        if self.waits > 0 && self.rng.chance(20) {
            self.waits -= 1;
            let slow = [
                si("retry_exhaust", json!([tag])),
                si("retry_bare", json!([])),
                si("auto_retry", json!([9])),
                si("too_slow", json!([a])),
            ];
            return slow[self.rng.below(4)].clone();
        }
        let choice = self.rng.below(12);
        match (input, choice) {
            (None, 0..3) => s("fail", json!([tag])),
            (None, 3..6) => s("fail_with", json!([a, tag])),
            (Some(_), 0..2) => s("fail", json!([])),
            (Some(_), 2..6) => s("fail_with", json!([tag])),
            (Some(Type::Number), 6) => s("div", json!([0])),
            (Some(Type::Number), 7) => s("replace_with_chain_fail", json!([])),
            (_, 6) => si("fail_if_negative", json!([-3])),
            (_, 7) => si("replace_with_fail", json!([tag])),
            (_, 8) => map("fail_if_negative", json!([1, -2, -3, 4])),
            (_, 9) => starmap("div", json!([[7, 2], [a, 0], [1, 1]])),
            (_, 10) => {
                let past = tagged("datetime", json!("2001-02-03T04:05:06.000007+01:00"));
                let expires = if a % 2 == 0 { json!(-1) } else { past };
                with_option(si("const", json!([a])), "expires", expires)
            }
            _ if self.rng.chance(50) => si("fail_key", json!([tag])),
            _ => si("auto_retry_key", json!([tag])),
        }
    }

    fn with_callbacks(&mut self, made: Made, chance: u64) -> Made {
        let mut canvas = made.canvas;
        if !made.is_group && self.rng.chance(chance) {
            let callback = self.link();
            canvas = self.attach(canvas, "link", linked, callback);
        }
        while self.rng.chance(chance) {
            let errback = self.errback();
            canvas = self.attach(canvas, "link_error", on_err, errback);
        }
        Made { canvas, ..made }
    }

    /// As Python's helpers attach it, or in the options of the dict itself.
    fn attach(
        &mut self,
        canvas: Value,
        option: &str,
        helper: fn(Value, Value) -> Value,
        callback: Value,
    ) -> Value {
        if kind(&canvas) == "celery.chord" && self.raw && self.rng.chance(50) {
            return with_callback(canvas, option, callback);
        }
        helper(canvas, callback)
    }

    fn link(&mut self) -> Value {
        let record = s("record", json!([self.tag("L")]));
        match self.rng.below(10) {
            0 => chain(vec![s("to_list", json!([1])), record]),
            1 => group(vec![record, s("record", json!([self.tag("L")]))]),
            2 => chord(
                vec![s("to_list", json!([])), s("identity", json!([]))],
                record,
            ),
            3 => si("note", json!([self.tag("N")])),
            4 => on_err(s("fail_with", json!(["callback"])), self.errback()),
            5 => linked(record, s("record", json!([self.tag("L")]))),
            6 => with_kwargs(s("record", json!([])), json!({"tag": self.tag("L")})),
            _ => record,
        }
    }

    fn errback(&mut self) -> Value {
        let tag = json!([self.tag("E")]);
        let named = json!({"tag": tag[0]});
        match self.rng.below(14) {
            0 => with_kwargs(s("on_fail_id", json!([])), named),
            1 => with_kwargs(si("on_fail_note", json!([])), named),
            2 => with_kwargs(s("on_fail", json!([])), named),
            3 => si("on_fail", tag),
            4 => chain(vec![s("on_fail", tag), si("note", json!([self.tag("N")]))]),
            5 => group(vec![
                with_kwargs(s("on_fail_id", json!([])), named),
                with_kwargs(si("on_fail_note", json!([])), json!({"tag": self.tag("E")})),
            ]),
            6 => si("note", json!([self.tag("N")])),
            _ => s("on_fail", tag),
        }
    }

    fn tag(&mut self, prefix: &str) -> String {
        self.next_tag += 1;
        format!("{prefix}{}", self.next_tag)
    }
}

fn tagged(kind: &str, value: Value) -> Value {
    json!({"__type__": kind, "__value__": value})
}

fn list_of(members: &[Type]) -> Type {
    let numbers = |member: &Type| *member == Type::Number;
    let trees = |member: &Type| matches!(member, Type::Number | Type::Numbers | Type::Tree);
    if members.iter().all(numbers) {
        Type::Numbers
    } else if members.iter().all(trees) {
        Type::Tree
    } else {
        Type::Any
    }
}

/// Random numbers that the seed determines: the same canvases everywhere, for ever.
struct Rng(u64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(split_mix::STEP);
        split_mix::number(self.0)
    }

    fn fork(&mut self) -> Self {
        Self(self.next())
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    fn chance(&mut self, percent: u64) -> bool {
        self.next() % 100 < percent
    }

    fn number(&mut self) -> i64 {
        self.below(40) as i64 - 9
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::model;

    const SEEDS: u64 = 4_000;
    const VOCABULARY: &str = "add sub mul neg identity noop const xsum tsum concat join_strs \
        to_list range_list length pick kwargs_echo kw_sum sleepy fail fail_with fail_key \
        fail_if_negative div too_slow retry_until retry_exhaust retry_bare retry_swap auto_retry \
        auto_retry_key replace_with_task replace_with_chain replace_with_group \
        replace_with_chord replace_with_chain_to_group replace_nested replace_with_fail \
        replace_with_chain_fail extend_chord record note on_fail on_fail_id on_fail_note \
        celery.map celery.starmap celery.chain celery.group celery.chord";

    #[test]
    fn canvases_are_well_typed_and_more_than_half_of_them_fail() {
        let mut failed = 0;
        for seed in 0..SEEDS {
            let Generated { canvas, apply } = generate(seed);
            let outcome = model::outcome(&canvas, apply.as_ref());
            failed += u64::from(outcome["state"] != "SUCCESS");
        }
        let percent = failed * 100 / SEEDS;
        assert!((40..70).contains(&percent), "{percent} %");
    }

    #[test]
    fn canvases_have_every_task_and_form_of_the_vocabulary() {
        let mut found = BTreeSet::new();
        for seed in 0..SEEDS {
            names(&generate(seed).canvas, &mut found);
        }
        let wanted = VOCABULARY.split_whitespace();
        let missing: Vec<_> = wanted.filter(|name| !found.contains(*name)).collect();
        assert!(missing.is_empty(), "{missing:?}");
    }

    fn names(canvas: &Value, found: &mut BTreeSet<String>) {
        match canvas {
            Value::Array(values) => values.iter().for_each(|value| names(value, found)),
            Value::Object(fields) => {
                found.extend(
                    fields
                        .get("task")
                        .and_then(Value::as_str)
                        .map(str::to_owned),
                );
                fields.values().for_each(|value| names(value, found));
            }
            _ => {}
        }
    }
}
