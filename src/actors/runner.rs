//! One attempt: user code, on the app's runtime or its blocking pool, never on an arbiter.

use std::any::Any;
use std::cell::Cell;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use actix::Addr;
use futures_util::FutureExt;

use super::attempt::Attempt;
use super::inbox::Inbox;
use super::shared::Shared;
use super::task::TaskActor;
use crate::canvas::id::Id;
use crate::canvas::machine::task::{End, Retry};
use crate::canvas::outcome::{FailureKind, TaskFailure, Value};
use crate::canvas::payload::{ListWriter, Parts, Payload};
use crate::canvas::{Mode, freeze};
use crate::messages::dispatcher::Permit;
use crate::messages::task::Finished;
use crate::persistence::StoreError;
use crate::task::{Host, Next, TaskContext, TaskEntry, TaskError};

/// All that one attempt needs.
#[derive(Debug)]
pub(crate) struct Order {
    pub(crate) entry: TaskEntry,
    pub(crate) place: Place,
    /// The attempt's number.
    pub(crate) attempt: u32,
    pub(crate) shared: Arc<Shared>,
    pub(crate) permit: Permit,
    pub(crate) given: Given,
    pub(crate) limits: Limits,
    pub(crate) reply_to: Addr<TaskActor>,
    pub(crate) inbox: Arc<Inbox>,
}

/// Where in its workflow a task is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    pub(crate) id: Id,
    pub(crate) parent: Option<Id>,
    pub(crate) group: Option<Id>,
}

/// What the function is called with.
#[derive(Debug)]
pub(crate) enum Given {
    First {
        args: Payload,
        count: u32,
        mode: Mode,
        input: Option<Value>,
    },
    /// The whole list, from the retry before.
    Again(Value),
}

/// The time limits of one attempt.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub(crate) soft: Option<Duration>,
    pub(crate) hard: Option<Duration>,
}

/// Runs the attempt and tells the task actor how it ended.
pub(crate) async fn run(order: Order) {
    let reply = Reply::new(&order);
    let Order {
        entry,
        place,
        attempt: number,
        shared,
        permit,
        given,
        limits,
        reply_to,
        ..
    } = order;
    // Made here, not by the task actor: what one thread allocates and another frees costs both.
    let attempt = Arc::new(Attempt::new(shared, reply_to, number, permit));
    let context = TaskContext {
        id: place.id,
        parent_id: place.parent,
        group_id: place.group,
        attempt: number,
        item: None,
        host: Host::Engine(attempt.clone()),
    };
    let work = match work(attempt.shared(), context.root_id(), given).await {
        Ok(work) => work,
        Err(message) => {
            let end = reply.failure(FailureKind::Engine, &message, Retry::Never);
            return reply.send(end, attempt.close());
        }
    };
    let call = calls(entry, context, work);
    if entry.options.blocking {
        run_blocking(call, limits, attempt, reply).await;
    } else {
        let done = in_time(guarded(call), limits, &attempt).await;
        reply.send(reply.end_in_time(done, attempt.shared()), attempt.close());
    }
}

/// A blocking body cannot be stopped: past its limit the task is told so, and the slot stays with
/// the thread until that is done.
async fn run_blocking(
    call: impl Future<Output = Result<Payload, TaskError>> + Send + 'static,
    limits: Limits,
    attempt: Arc<Attempt>,
    reply: Reply,
) {
    let (done, outcome) = tokio::sync::oneshot::channel();
    let on_thread = attempt.clone();
    tokio::task::spawn_blocking(move || {
        let outcome = pollster::block_on(guarded(call));
        // If nobody waits any more the permit is dropped here, with the outcome.
        let _ = done.send((outcome, on_thread.close()));
    });
    match in_time(outcome, limits, &attempt).await {
        Ok(Ok((outcome, permit))) => {
            reply.send(reply.end(outcome, attempt.shared()), permit);
        }
        // The pool drops work that it has not begun when the app stops: nobody listens then.
        Ok(Err(_)) => {}
        Err(over) => reply.send(reply.too_late(over, attempt.shared()), None),
    }
}

/// The limit that an attempt ran over.
enum Over {
    Soft,
    Hard(Duration),
}

async fn in_time<T>(
    work: impl Future<Output = T>,
    Limits { soft, hard }: Limits,
    attempt: &Attempt,
) -> Result<T, Over> {
    let clock = &attempt.shared().clock;
    let soft = soft.map(|limit| clock.after(limit));
    let until = hard.map(|limit| clock.after(limit));
    tokio::pin!(work);
    if let Some(soft) = soft
        && until.is_none_or(|until| soft < until)
    {
        tokio::select! {
            biased;
            done = &mut work => return Ok(done),
            () = clock.wait_until(soft) => {}
        }
        if !attempt.soft_limit.reach() {
            return Err(Over::Soft);
        }
    }
    let (Some(limit), Some(until)) = (hard, until) else {
        return Ok(work.await);
    };
    tokio::select! {
        biased;
        done = &mut work => Ok(done),
        () = clock.wait_until(until) => Err(Over::Hard(limit)),
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
            for (i, item) in (0..).zip(items.split(count).map_err(TaskError::new)?) {
                let mut context = context.clone();
                context.item = Some(i);
                let value = entry.call(context, item.into()).await;
                values.push(value.map_err(TaskError::of_item)?.bytes());
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
async fn work(shared: &Shared, root: Id, given: Given) -> Result<Work, String> {
    let list = match given {
        Given::First {
            args,
            count,
            mode: Mode::Map,
            ..
        } => return Ok(Work::Map(args, count)),
        Given::First {
            args, count, input, ..
        } => {
            let all = count as usize + usize::from(input.is_some());
            let mut list = ListWriter::new(all, args.bytes().len());
            if let Some(input) = input {
                list = load(shared, root, input, list).await?;
            }
            list.push(args.bytes());
            list
        }
        Given::Again(all) => load(shared, root, all, ListWriter::raw()).await?,
    };
    Ok(Work::Once(list.finish_parts()))
}

/// Appends a value; one that is kept, off this thread: it may be large.
async fn load(
    shared: &Shared,
    root: Id,
    value: Value,
    mut list: ListWriter,
) -> Result<ListWriter, String> {
    if let Value::Inline(payload) = value {
        list.push(payload.bytes());
        return Ok(list);
    }
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
    entry: TaskEntry,
    attempt: u32,
    sent: Cell<bool>,
}

impl Reply {
    fn new(order: &Order) -> Self {
        Self {
            to: order.reply_to.clone(),
            inbox: order.inbox.clone(),
            id: order.place.id,
            entry: order.entry,
            attempt: order.attempt,
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

    fn end_in_time(&self, done: Result<Outcome, Over>, shared: &Shared) -> End {
        match done {
            Ok(outcome) => self.end(outcome, shared),
            Err(over) => self.too_late(over, shared),
        }
    }

    fn end(&self, outcome: Outcome, shared: &Shared) -> End {
        let error = match outcome {
            Ok(Ok(payload)) => return End::Value(Value::Inline(payload)),
            Ok(Err(error)) => error,
            Err(panic) => TaskError::panic(panic_text(&*panic)),
        };
        self.failed(&error, shared)
    }

    /// What comes of an attempt that gave no value.
    fn failed(&self, error: &TaskError, shared: &Shared) -> End {
        match error.next(&self.entry.options) {
            Next::Replace(canvas) => match freeze::graft(*canvas, true, &shared.registry) {
                Ok(graft) => End::Replaced(graft),
                Err(refusal) => {
                    let message = format!("its replacement is refused: {refusal}");
                    self.failure(FailureKind::Type, &message, Retry::Never)
                }
            },
            Next::Retry(retry) => End::Failure {
                failure: error.failure(self.id, self.entry.name, self.attempt),
                retry,
            },
        }
    }

    fn too_late(&self, over: Over, shared: &Shared) -> End {
        match over {
            // As any error, it may be worth another attempt.
            Over::Soft => self.failed(&TaskError::soft_time_limit(), shared),
            Over::Hard(limit) => {
                let message = format!("time limit of {limit:?} exceeded");
                self.failure(FailureKind::TimeLimit, &message, Retry::Never)
            }
        }
    }

    fn failure(&self, kind: FailureKind, message: &str, retry: Retry) -> End {
        End::Failure {
            failure: TaskFailure::new(kind, self.id, self.entry.name, self.attempt, message),
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
            self.send(self.failure(FailureKind::Panic, message, Retry::Auto), None);
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
