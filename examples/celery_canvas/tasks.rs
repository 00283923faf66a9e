//! The tasks of the vocabulary, and what each workflow has run.
//!
//! Values are JSON; numbers and texts are Python's (see `python.rs`). Each function writes down, under
//! its workflow's id, that it was entered: once per attempt, once per item of a map.

use std::collections::{BTreeMap, HashMap};
use std::sync::LazyLock;
use std::time::Duration;

use chordal::Id;
use chordal::prelude::*;
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::python::{self, Exception};

/// What the tasks of one workflow did.
#[derive(Clone, Debug, Default)]
pub(crate) struct Seen {
    pub(crate) executions: BTreeMap<&'static str, u64>,
    /// `[tag, how, failed task, error's type, message]` of each errback that ran.
    pub(crate) errback_log: Vec<Value>,
    /// `[tag, value]` of each `record` and `note`.
    pub(crate) recorded: Vec<Value>,
}

/// A channel, so that a test can wait for a task to be entered.
static LOG: LazyLock<watch::Sender<HashMap<Id, Seen>>> = LazyLock::new(watch::Sender::default);

/// What the workflow did, which is then forgotten.
pub(crate) fn take(workflow: Id) -> Seen {
    let mut seen = None;
    LOG.send_modify(|log| seen = log.remove(&workflow));
    seen.unwrap_or_default()
}

/// Returns once the workflow has entered that many functions, errbacks aside.
#[allow(dead_code, reason = "for tests")]
pub(crate) async fn entered(workflow: Id, times: u64) {
    let has = |log: &HashMap<Id, Seen>| {
        let seen = log.get(&workflow);
        seen.is_some_and(|seen| seen.executions.values().sum::<u64>() >= times)
    };
    // The channel is never closed.
    let _ = LOG.subscribe().wait_for(has).await;
}

fn seen(ctx: &TaskContext, write: impl FnOnce(&mut Seen)) {
    LOG.send_modify(|log| write(log.entry(ctx.root_id()).or_default()));
}

fn enter(ctx: &TaskContext, task: &'static str) {
    seen(ctx, |seen| *seen.executions.entry(task).or_default() += 1);
}

impl From<Exception> for TaskError {
    fn from(exception: Exception) -> Self {
        Self::new(exception.message).with_type(exception.kind)
    }
}

fn raise(kind: &'static str, message: impl Into<String>) -> Result<Value, TaskError> {
    Err(Exception::new(kind, message).into())
}

#[task]
async fn add(ctx: &TaskContext, x: Value, y: Value) -> Result<Value, TaskError> {
    enter(ctx, "add");
    Ok(python::add(&x, &y)?)
}

#[task]
async fn sub(ctx: &TaskContext, x: Value, y: Value) -> Result<Value, TaskError> {
    enter(ctx, "sub");
    Ok(python::sub(&x, &y)?)
}

#[task]
async fn mul(ctx: &TaskContext, x: Value, y: Value) -> Result<Value, TaskError> {
    enter(ctx, "mul");
    Ok(python::mul(&x, &y)?)
}

#[task]
async fn neg(ctx: &TaskContext, x: Value) -> Result<Value, TaskError> {
    enter(ctx, "neg");
    Ok(python::neg(&x)?)
}

#[task]
async fn div(ctx: &TaskContext, x: Value, y: Value) -> Result<Value, TaskError> {
    enter(ctx, "div");
    Ok(python::floor_div(&x, &y)?)
}

#[task]
async fn identity(ctx: &TaskContext, x: Value) -> Value {
    enter(ctx, "identity");
    x
}

#[task]
async fn noop(ctx: &TaskContext) -> Value {
    enter(ctx, "noop");
    Value::Null
}

#[task(name = "const")]
async fn constant(ctx: &TaskContext, v: Value) -> Value {
    enter(ctx, "const");
    v
}

#[task]
async fn xsum(ctx: &TaskContext, xs: Value) -> Result<Value, TaskError> {
    enter(ctx, "xsum");
    Ok(python::sum(&xs)?)
}

#[task]
async fn tsum(ctx: &TaskContext, xs: Value) -> Result<Value, TaskError> {
    enter(ctx, "tsum");
    Ok(python::tree_sum(&xs)?)
}

#[task]
async fn concat(ctx: &TaskContext, a: Value, b: Value) -> Value {
    enter(ctx, "concat");
    json!(python::str(&a) + &python::str(&b))
}

#[task]
async fn join_strs(ctx: &TaskContext, xs: Value, sep: Value) -> Result<Value, TaskError> {
    enter(ctx, "join_strs");
    let texts: Vec<_> = python::items(&xs)?.iter().map(python::str).collect();
    Ok(json!(texts.join(&python::str(&sep))))
}

#[task]
async fn to_list(ctx: &TaskContext, #[rest] args: Vec<Value>) -> Vec<Value> {
    enter(ctx, "to_list");
    args
}

#[task]
async fn range_list(ctx: &TaskContext, n: i64) -> Vec<i64> {
    enter(ctx, "range_list");
    (0..n).collect()
}

#[task]
async fn length(ctx: &TaskContext, xs: Value) -> Result<Value, TaskError> {
    enter(ctx, "length");
    Ok(json!(python::len(&xs)?))
}

#[task]
async fn pick(ctx: &TaskContext, xs: Value, i: Value) -> Result<Value, TaskError> {
    enter(ctx, "pick");
    Ok(python::item(&xs, &i)?)
}

#[task]
async fn kwargs_echo(
    ctx: &TaskContext,
    x: Value,
    #[default] a: Value,
    #[default] b: Value,
) -> Value {
    enter(ctx, "kwargs_echo");
    json!({"x": x, "a": a, "b": b})
}

#[task]
async fn kw_sum(
    ctx: &TaskContext,
    #[default(0)] a: i64,
    #[default(0)] b: i64,
    #[default(0)] c: i64,
) -> i64 {
    enter(ctx, "kw_sum");
    a + 10 * b + 100 * c
}

#[task]
async fn sleepy(ctx: &TaskContext, x: Value, ms: u64) -> Value {
    enter(ctx, "sleepy");
    tokio::time::sleep(Duration::from_millis(ms)).await;
    x
}

#[task]
async fn fail(ctx: &TaskContext, msg: Value) -> Result<Value, TaskError> {
    enter(ctx, "fail");
    raise("ValueError", python::str(&msg))
}

#[task]
async fn fail_with(ctx: &TaskContext, x: Value, msg: Value) -> Result<Value, TaskError> {
    enter(ctx, "fail_with");
    let message = format!("{}:{}", python::str(&msg), python::str(&x));
    raise("ValueError", message)
}

#[task]
async fn fail_key(ctx: &TaskContext, msg: Value) -> Result<Value, TaskError> {
    enter(ctx, "fail_key");
    raise("KeyError", python::str(&msg))
}

#[task]
async fn fail_if_negative(ctx: &TaskContext, x: Value) -> Result<Value, TaskError> {
    enter(ctx, "fail_if_negative");
    if python::is_negative(&x)? {
        return raise("ValueError", format!("negative: {}", python::str(&x)));
    }
    Ok(x)
}

#[task(soft_time_limit = "1s")]
async fn too_slow(ctx: &TaskContext, x: Value) -> Value {
    enter(ctx, "too_slow");
    tokio::time::sleep(Duration::from_secs(20)).await;
    x
}

#[task(max_retries = 10, default_retry_delay = "150ms")]
async fn retry_until(ctx: &TaskContext, n: i64) -> Result<u32, TaskError> {
    enter(ctx, "retry_until");
    if i64::from(ctx.attempt()) <= n {
        return Err(ctx.retry().into());
    }
    Ok(ctx.attempt())
}

#[task(max_retries = 2, default_retry_delay = "150ms")]
async fn retry_exhaust(ctx: &TaskContext, msg: Value) -> Result<Value, TaskError> {
    enter(ctx, "retry_exhaust");
    let cause = Exception::new("ValueError", python::str(&msg));
    Err(ctx.retry().cause(cause).into())
}

#[task(max_retries = 2, default_retry_delay = "150ms")]
async fn retry_bare(ctx: &TaskContext) -> Result<Value, TaskError> {
    enter(ctx, "retry_bare");
    Err(ctx.retry().into())
}

#[task(max_retries = 20, default_retry_delay = "150ms")]
async fn retry_swap(ctx: &TaskContext, x: Value, n: Value) -> Result<Value, TaskError> {
    enter(ctx, "retry_swap");
    if python::is_positive(&n)? {
        let one = json!(1);
        let args = (python::add(&x, &one)?, python::sub(&n, &one)?);
        return Err(ctx.retry().args(args).into());
    }
    Ok(x)
}

#[task(
    max_retries = 3,
    default_retry_delay = "150ms",
    retry_if = |error: &TaskError| error.error_type() == "ValueError"
)]
async fn auto_retry(ctx: &TaskContext, n: i64) -> Result<u32, TaskError> {
    enter(ctx, "auto_retry");
    let attempt = ctx.attempt();
    if i64::from(attempt) < n {
        return Err(Exception::new("ValueError", format!("attempt {attempt}")).into());
    }
    Ok(attempt)
}

#[task(
    max_retries = 3,
    default_retry_delay = "150ms",
    retry_if = |error: &TaskError| error.error_type() == "ValueError"
)]
async fn auto_retry_key(ctx: &TaskContext, msg: Value) -> Result<Value, TaskError> {
    enter(ctx, "auto_retry_key");
    raise("KeyError", python::str(&msg))
}

#[task]
async fn replace_with_task(ctx: &TaskContext, x: Value) -> Result<Value, TaskError> {
    enter(ctx, "replace_with_task");
    ctx.replace(Canvas::task("neg", (x,)))
}

#[task]
async fn replace_with_chain(ctx: &TaskContext, x: Value) -> Result<Value, TaskError> {
    enter(ctx, "replace_with_chain");
    let steps = [Canvas::task("add", (x, 10)), Canvas::task("mul", (2,))];
    ctx.replace(Canvas::chain(steps))
}

#[task]
async fn replace_with_group(ctx: &TaskContext, x: Value) -> Result<Value, TaskError> {
    enter(ctx, "replace_with_group");
    let members = [1, 2, 3].map(|n| Canvas::task("add", (&x, n)));
    ctx.replace(Canvas::group(members))
}

#[task]
async fn replace_with_chord(ctx: &TaskContext, x: Value) -> Result<Value, TaskError> {
    enter(ctx, "replace_with_chord");
    let header = [Canvas::task("add", (&x, 1)), Canvas::task("mul", (&x, 2))];
    ctx.replace(Canvas::chord(header, Canvas::task("xsum", ())))
}

#[task]
async fn replace_with_chain_to_group(ctx: &TaskContext, x: Value) -> Result<Value, TaskError> {
    enter(ctx, "replace_with_chain_to_group");
    let members = [1, 2].map(|n| Canvas::task("add", (n,)));
    let steps = [Canvas::task("add", (x, 100)), Canvas::group(members)];
    ctx.replace(Canvas::chain(steps))
}

#[task]
async fn replace_nested(ctx: &TaskContext, x: Value, depth: Value) -> Result<Value, TaskError> {
    enter(ctx, "replace_nested");
    if !python::is_positive(&depth)? {
        return Ok(x);
    }
    let one = json!(1);
    let args = (python::add(&x, &one)?, python::sub(&depth, &one)?);
    ctx.replace(Canvas::task("replace_nested", args))
}

#[task]
async fn replace_with_fail(ctx: &TaskContext, msg: Value) -> Result<Value, TaskError> {
    enter(ctx, "replace_with_fail");
    ctx.replace(Canvas::task("fail", (msg,)))
}

#[task]
async fn replace_with_chain_fail(ctx: &TaskContext, x: Value) -> Result<Value, TaskError> {
    enter(ctx, "replace_with_chain_fail");
    ctx.replace(Canvas::chain([
        Canvas::task("add", (x, 1)),
        Canvas::task("fail_with", ("inner",)),
        Canvas::task("mul", (2,)),
    ]))
}

#[task]
async fn extend_chord(ctx: &TaskContext, x: Value, y: Value) -> Result<Value, TaskError> {
    enter(ctx, "extend_chord");
    ctx.add_to_chord(Canvas::task("identity", (y,)))?;
    Ok(x)
}

#[task]
async fn record(ctx: &TaskContext, value: Value, tag: Value) -> Value {
    enter(ctx, "record");
    seen(ctx, |seen| seen.recorded.push(json!([tag, value])));
    value
}

#[task]
async fn note(ctx: &TaskContext, tag: Value) -> Value {
    enter(ctx, "note");
    seen(ctx, |seen| seen.recorded.push(json!([tag, null])));
    Value::Null
}

// Errbacks. Celery calls the first in place, with the error; it sends the other two as tasks.

#[task]
async fn on_fail(ctx: &TaskContext, failure: TaskFailure, #[default] tag: Value) -> Value {
    let entry = json!([
        tag,
        "inline",
        failure.name,
        failure.error_type,
        failure.message
    ]);
    seen(ctx, |seen| seen.errback_log.push(entry));
    Value::Null
}

#[task]
async fn on_fail_id(ctx: &TaskContext, _failure: TaskFailure, #[default] tag: Value) -> Value {
    let entry = json!([tag, "task", null, null, null]);
    seen(ctx, |seen| seen.errback_log.push(entry));
    Value::Null
}

#[task]
async fn on_fail_note(ctx: &TaskContext, #[default] tag: Value) -> Value {
    let entry = json!([tag, "task", null, null, null]);
    seen(ctx, |seen| seen.errback_log.push(entry));
    Value::Null
}

/// All of them, for an app.
pub(crate) fn all() -> impl IntoIterator<Item = chordal::TaskEntry> {
    tasks![
        add,
        sub,
        mul,
        neg,
        div,
        identity,
        noop,
        constant,
        xsum,
        tsum,
        concat,
        join_strs,
        to_list,
        range_list,
        length,
        pick,
        kwargs_echo,
        kw_sum,
        sleepy,
        fail,
        fail_with,
        fail_key,
        fail_if_negative,
        too_slow,
        retry_until,
        retry_exhaust,
        retry_bare,
        retry_swap,
        auto_retry,
        auto_retry_key,
        replace_with_task,
        replace_with_chain,
        replace_with_group,
        replace_with_chord,
        replace_with_chain_to_group,
        replace_nested,
        replace_with_fail,
        replace_with_chain_fail,
        extend_chord,
        record,
        note,
        on_fail,
        on_fail_id,
        on_fail_note,
    ]
}
