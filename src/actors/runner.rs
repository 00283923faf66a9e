//! One attempt: user code, on the app's runtime or its blocking pool, never on an arbiter.

use std::any::Any;
use std::panic::AssertUnwindSafe;
use std::time::Duration;

use actix::Addr;
use futures_util::FutureExt;

use super::clock::Clock;
use super::task::TaskActor;
use crate::canvas::Mode;
use crate::canvas::machine::task::{End, Retry};
use crate::canvas::outcome::{FailureKind, TaskFailure, Value};
use crate::canvas::payload::{ListWriter, Payload};
use crate::messages::dispatcher::Permit;
use crate::messages::task::Finished;
use crate::persistence::reader::Reader;
use crate::task::{TaskContext, TaskEntry, TaskError};

/// All that one attempt needs.
#[derive(Debug)]
pub(crate) struct Order {
    pub(crate) entry: TaskEntry,
    pub(crate) context: TaskContext,
    pub(crate) args: Payload,
    pub(crate) count: u32,
    pub(crate) mode: Mode,
    pub(crate) input: Option<Value>,
    pub(crate) time_limit: Option<Duration>,
    pub(crate) reader: Reader,
    pub(crate) clock: Clock,
    pub(crate) permit: Permit,
    pub(crate) reply_to: Addr<TaskActor>,
}

/// Runs the attempt and tells the task actor how it ended.
pub(crate) async fn run(order: Order) {
    let Order {
        entry,
        context,
        args,
        count,
        mode,
        input,
        time_limit,
        reader,
        clock,
        permit,
        reply_to,
    } = order;
    let attempt = context.attempt;
    let blame = Blame {
        context: context.clone(),
        name: entry.name,
    };
    let input = match input {
        None => None,
        Some(Value::Inline(payload)) => Some(payload),
        Some(kept) => match load(reader, context.root_id(), kept).await {
            Ok(payload) => Some(payload),
            Err(message) => {
                let end = blame.failure(FailureKind::Engine, &message, Retry::Never);
                return finish(&reply_to, attempt, end, Some(permit));
            }
        },
    };
    let deadline = time_limit.map(|limit| clock.now_ms() + limit.as_millis() as u64);
    let call = calls(entry, context, args, count, mode, input);
    if entry.options.blocking {
        run_blocking(call, deadline, &clock, permit, attempt, reply_to, blame).await;
    } else {
        let end = match in_time(guarded(call), deadline, &clock).await {
            Some(outcome) => blame.end(outcome),
            None => blame.too_late(time_limit),
        };
        finish(&reply_to, attempt, end, Some(permit));
    }
}

/// A blocking body cannot be stopped: past its limit the task is told so, and the slot stays with
/// the thread until that is done.
async fn run_blocking(
    call: impl Future<Output = Result<Payload, TaskError>> + Send + 'static,
    deadline: Option<u64>,
    clock: &Clock,
    permit: Permit,
    attempt: u32,
    reply_to: Addr<TaskActor>,
    blame: Blame,
) {
    let (done, outcome) = tokio::sync::oneshot::channel();
    tokio::task::spawn_blocking(move || {
        let outcome = pollster::block_on(guarded(call));
        // If nobody waits any more the permit is dropped here, with the outcome.
        let _ = done.send((outcome, permit));
    });
    match in_time(outcome, deadline, clock).await {
        Some(Ok((outcome, permit))) => {
            finish(&reply_to, attempt, blame.end(outcome), Some(permit));
        }
        // The pool drops work that it has not begun when the app stops: nobody listens then.
        Some(Err(_)) => {}
        None => finish(&reply_to, attempt, blame.too_late(None), None),
    }
}

fn finish(task: &Addr<TaskActor>, attempt: u32, end: End, permit: Option<Permit>) {
    // At most one per slot is under way.
    task.do_send(Finished {
        attempt,
        end,
        permit,
    });
}

async fn in_time<T>(
    work: impl Future<Output = T>,
    deadline: Option<u64>,
    clock: &Clock,
) -> Option<T> {
    let Some(deadline) = deadline else {
        return Some(work.await);
    };
    tokio::select! {
        biased;
        done = work => Some(done),
        () = clock.sleep_until(deadline) => None,
    }
}

type Outcome = Result<Result<Payload, TaskError>, Box<dyn Any + Send>>;

async fn guarded(call: impl Future<Output = Result<Payload, TaskError>>) -> Outcome {
    AssertUnwindSafe(call).catch_unwind().await
}

/// Calls the function once, or once per item.
async fn calls(
    entry: TaskEntry,
    context: TaskContext,
    args: Payload,
    count: u32,
    mode: Mode,
    input: Option<Payload>,
) -> Result<Payload, TaskError> {
    match mode {
        Mode::Once => {
            let upstream = input.as_ref().map_or(&[][..], Payload::bytes);
            let mut list = ListWriter::new(
                count as usize + usize::from(input.is_some()),
                upstream.len() + args.bytes().len(),
            );
            list.push(upstream);
            list.push(args.bytes());
            entry.call(context, list.finish()).await
        }
        Mode::Map => {
            let mut values = ListWriter::new(count as usize, args.bytes().len());
            for item in args.split(count).map_err(TaskError::new)? {
                let value = entry.call(context.clone(), item).await?;
                values.push(value.bytes());
            }
            Ok(values.finish())
        }
    }
}

/// Reads a kept value off this thread: it may be large.
async fn load(
    reader: Reader,
    root: crate::canvas::id::Id,
    value: Value,
) -> Result<Payload, String> {
    let loaded = tokio::task::spawn_blocking(move || reader.load(root, &value)).await;
    match loaded {
        Ok(Ok(payload)) => Ok(payload),
        Ok(Err(error)) => Err(format!("its input could not be read: {error}")),
        Err(error) => Err(format!("its input could not be read: {error}")),
    }
}

/// Who is to blame for a failure.
struct Blame {
    context: TaskContext,
    name: &'static str,
}

impl Blame {
    fn end(&self, outcome: Outcome) -> End {
        match outcome {
            Ok(Ok(payload)) => End::Value(Value::Inline(payload)),
            Ok(Err(error)) => {
                let kind = if error.is_type_error {
                    FailureKind::Type
                } else {
                    FailureKind::Error
                };
                self.failure(kind, &error.to_string(), error.retry)
            }
            Err(panic) => self.failure(FailureKind::Panic, &panic_text(&*panic), Retry::Backoff),
        }
    }

    fn too_late(&self, limit: Option<Duration>) -> End {
        let message = match limit {
            Some(limit) => format!("time limit of {limit:?} exceeded"),
            None => "time limit exceeded; its thread cannot be stopped".to_owned(),
        };
        self.failure(FailureKind::TimeLimit, &message, Retry::Never)
    }

    fn failure(&self, kind: FailureKind, message: &str, retry: Retry) -> End {
        End::Failure {
            failure: TaskFailure::new(
                kind,
                self.context.id,
                self.name,
                self.context.attempt,
                message,
            ),
            retry,
        }
    }
}

fn panic_text(panic: &(dyn Any + Send)) -> String {
    if let Some(text) = panic.downcast_ref::<&str>() {
        (*text).to_owned()
    } else if let Some(text) = panic.downcast_ref::<String>() {
        text.clone()
    } else {
        "a panic without a text".to_owned()
    }
}
