//! One attempt: user code, on the app's runtime or its blocking pool, never on an arbiter.

use std::any::Any;
use std::cell::Cell;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use actix::Addr;
use futures_util::FutureExt;

use super::clock::Clock;
use super::inbox::Inbox;
use super::shared::Shared;
use super::task::TaskActor;
use crate::canvas::Mode;
use crate::canvas::id::Id;
use crate::canvas::machine::task::{End, Retry};
use crate::canvas::outcome::{FailureKind, TaskFailure, Value};
use crate::canvas::payload::{ListWriter, Parts, Payload};
use crate::messages::dispatcher::Permit;
use crate::messages::task::Finished;
use crate::persistence::StoreError;
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
    /// Asked for the store and the time only when they are needed: an attempt that runs on must
    /// not keep the store open.
    pub(crate) shared: Arc<Shared>,
    pub(crate) permit: Permit,
    pub(crate) reply_to: Addr<TaskActor>,
    pub(crate) inbox: Arc<Inbox>,
}

/// Runs the attempt and tells the task actor how it ended.
pub(crate) async fn run(order: Order) {
    let reply = Reply::new(&order);
    let work = match work(&order).await {
        Ok(work) => work,
        Err(message) => {
            let end = reply.failure(FailureKind::Engine, &message, Retry::Never);
            return reply.send(end, Some(order.permit));
        }
    };
    let Order {
        entry,
        shared,
        permit,
        time_limit,
        ..
    } = order;
    let call = calls(entry, order.context, work);
    if entry.options.blocking {
        run_blocking(call, time_limit, &shared.clock, permit, reply).await;
    } else {
        let end = match in_time(guarded(call), time_limit, &shared.clock).await {
            Some(outcome) => reply.end(outcome),
            None => reply.too_late(time_limit),
        };
        reply.send(end, Some(permit));
    }
}

/// A blocking body cannot be stopped: past its limit the task is told so, and the slot stays with
/// the thread until that is done.
async fn run_blocking(
    call: impl Future<Output = Result<Payload, TaskError>> + Send + 'static,
    time_limit: Option<Duration>,
    clock: &Clock,
    permit: Permit,
    reply: Reply,
) {
    let (done, outcome) = tokio::sync::oneshot::channel();
    tokio::task::spawn_blocking(move || {
        let outcome = pollster::block_on(guarded(call));
        // If nobody waits any more the permit is dropped here, with the outcome.
        let _ = done.send((outcome, permit));
    });
    match in_time(outcome, time_limit, clock).await {
        Some(Ok((outcome, permit))) => reply.send(reply.end(outcome), Some(permit)),
        // The pool drops work that it has not begun when the app stops: nobody listens then.
        Some(Err(_)) => {}
        None => reply.send(reply.too_late(time_limit), None),
    }
}

async fn in_time<T>(
    work: impl Future<Output = T>,
    limit: Option<Duration>,
    clock: &Clock,
) -> Option<T> {
    let Some(limit) = limit else {
        return Some(work.await);
    };
    let until = clock.after(limit);
    tokio::select! {
        biased;
        done = work => Some(done),
        () = clock.wait_until(until) => None,
    }
}

type Outcome = Result<Result<Payload, TaskError>, Box<dyn Any + Send>>;

async fn guarded(call: impl Future<Output = Result<Payload, TaskError>>) -> Outcome {
    AssertUnwindSafe(call).catch_unwind().await
}

/// Calls the function once, or once per item.
async fn calls(entry: TaskEntry, context: TaskContext, work: Work) -> Result<Payload, TaskError> {
    match work {
        Work::Once(args) => entry.call(context, args).await,
        Work::Map(items, count) => {
            let mut values = ListWriter::new(count as usize, items.bytes().len());
            for item in items.split(count).map_err(TaskError::new)? {
                let value = entry.call(context.clone(), item.into()).await?;
                values.push(value.bytes());
            }
            Ok(values.finish())
        }
    }
}

/// What a function is called with: once with its arguments, or with each of so many items.
enum Work {
    Once(Parts),
    Map(Payload, u32),
}

/// Puts the arguments together: what comes from upstream, then the others.
async fn work(order: &Order) -> Result<Work, String> {
    if order.mode == Mode::Map {
        return Ok(Work::Map(order.args.clone(), order.count));
    }
    let count = order.count as usize + usize::from(order.input.is_some());
    let mut list = ListWriter::new(count, order.args.bytes().len());
    match &order.input {
        None => {}
        Some(Value::Inline(payload)) => list.push(payload.bytes()),
        Some(kept) => {
            list = load(&order.shared, order.context.root_id(), kept.clone(), list).await?;
        }
    }
    list.push(order.args.bytes());
    Ok(Work::Once(list.finish_parts()))
}

/// Appends a kept value, off this thread: it may be large.
async fn load(
    shared: &Shared,
    root: Id,
    value: Value,
    mut list: ListWriter,
) -> Result<ListWriter, String> {
    let reader = shared.reader().map_err(|error| error.to_string())?;
    let loaded = tokio::task::spawn_blocking(move || {
        reader.write(root, &value, &mut list)?;
        Ok::<_, StoreError>(list)
    })
    .await;
    let error = match loaded {
        Ok(Ok(list)) => return Ok(list),
        Ok(Err(error)) => error.to_string(),
        Err(error) => error.to_string(),
    };
    Err(format!("its input could not be read: {error}"))
}

/// The way back to the task actor, and whose failure it would be.
struct Reply {
    to: Addr<TaskActor>,
    inbox: Arc<Inbox>,
    id: Id,
    name: &'static str,
    attempt: u32,
    sent: Cell<bool>,
}

impl Reply {
    fn new(order: &Order) -> Self {
        Self {
            to: order.reply_to.clone(),
            inbox: order.inbox.clone(),
            id: order.context.id,
            name: order.entry.name,
            attempt: order.context.attempt,
            sent: Cell::new(false),
        }
    }

    fn send(&self, end: End, permit: Option<Permit>) {
        self.sent.set(true);
        let finished = Finished {
            attempt: self.attempt,
            end,
            permit,
        };
        self.inbox.push(self.to.clone(), finished);
    }

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
        let message = format!("time limit of {:?} exceeded", limit.unwrap_or_default());
        self.failure(FailureKind::TimeLimit, &message, Retry::Never)
    }

    fn failure(&self, kind: FailureKind, message: &str, retry: Retry) -> End {
        End::Failure {
            failure: TaskFailure::new(kind, self.id, self.name, self.attempt, message),
            retry,
        }
    }
}

impl Drop for Reply {
    /// A panic outside the body (a local or a panic payload that panics as it is dropped) is the
    /// task's as well; without this its actor would wait for ever.
    fn drop(&mut self) {
        if !self.sent.get() && std::thread::panicking() {
            let message = "a panic while something of the task was dropped";
            self.send(
                self.failure(FailureKind::Panic, message, Retry::Backoff),
                None,
            );
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
