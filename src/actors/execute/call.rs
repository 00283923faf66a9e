//! One call of a task's function: its arguments, its limits, and how its result becomes an outcome.

use std::any::Any;
use std::future::poll_fn;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::CatchUnwind;
use serde::{Deserialize, Serialize};
use tracing::Span;

use crate::backend::durable_view::DurableView;
use crate::canvas::Mode;
use crate::canvas::freeze::{self, Reason, SizeExceeded};
use crate::canvas::id::Id;
use crate::canvas::machine::child_spec::{ChildSpec, TaskIds};
use crate::canvas::machine::fold_run::Run;
use crate::canvas::machine::task::{AttemptOutcome, Retry};
use crate::canvas::outcome::{FailureKind, TaskFailure, Value};
use crate::canvas::payload::{ListWriter, Parts, Payload};
use crate::canvas::stamps::Stamps;
use crate::clock::Clock;
use crate::error::Error;
use crate::persistence::records::reader::Elements;
use crate::task::{Call, Entry, Next, Registry, SoftLimit, TaskContext, TaskError, TaskOptions};

/// What an attempt calls its task's function with. It can be encoded, so that the function need not
/// run where the engine does.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct CallSpec {
    pub(crate) ids: TaskIds,
    /// The attempt's number.
    pub(crate) attempt: u32,
    pub(crate) input: CallInput,
    pub(crate) limits: Limits,
    pub(crate) stamps: Stamps,
    /// The task is suspected of ending the process, so its actor is notified when the attempt waits
    /// for other tasks.
    pub(crate) is_watched: bool,
}

/// The input of a call.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum CallInput {
    First {
        args: Payload,
        count: u32,
        mode: Mode,
        input: Option<Value>,
    },
    /// The complete argument list that the previous attempt's retry gave.
    Again(Value),
    /// The outcomes that a fold's function takes in.
    Fold(Arc<Run>),
}

impl CallInput {
    /// Builds the input of a call. `args` is the list that a retry gave in place of the original
    /// arguments.
    pub(crate) fn new(spec: &ChildSpec, args: Option<Value>) -> Self {
        let (def, input) = (spec.def(), spec.input.as_ref());
        match (args, &spec.run) {
            (_, Some(run)) => Self::Fold(run.clone()),
            (Some(list), None) => Self::Again(list),
            (None, None) => Self::First {
                args: def.args.clone(),
                count: def.count,
                mode: def.mode,
                input: input.filter(|_| def.takes_upstream).cloned(),
            },
        }
    }
}

/// The time limits of one attempt.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Limits {
    pub(crate) soft: Option<Duration>,
    pub(crate) hard: Option<Duration>,
}

impl Limits {
    pub(crate) fn of(options: &TaskOptions) -> Self {
        Self {
            soft: options.soft_time_limit,
            hard: options.time_limit,
        }
    }
}

/// The limit that an attempt exceeded.
pub(crate) enum LimitExceeded {
    Soft,
    Hard(Duration),
}

/// The times at which a running attempt reaches its limits, on the scale of
/// [`Clock::elapsed_ms`](Clock::elapsed_ms).
#[derive(Clone, Copy, Debug)]
pub(crate) struct Deadlines {
    soft: Option<u64>,
    hard: Option<(Duration, u64)>,
}

impl Limits {
    pub(crate) fn are_set(self) -> bool {
        self.soft.is_some() || self.hard.is_some()
    }

    /// Starts the limits now.
    pub(crate) fn begin(self, soft_limit: &SoftLimit, clock: &Clock) -> Deadlines {
        let soft = self.soft.map(|limit| clock.after(limit));
        if let Some(soft) = soft {
            soft_limit.set(soft);
        }
        Deadlines {
            soft,
            hard: self.hard.map(|limit| (limit, clock.after(limit))),
        }
    }
}

impl Deadlines {
    /// Polls the work until a limit is reached. The limits are checked before each poll and after
    /// the work has completed, because a poll may have blocked its thread. The caller must have
    /// polled the work once before, so that work that completes at once is in time, however late
    /// this check is.
    pub(crate) async fn enforce<T>(
        self,
        mut work: impl Future<Output = T> + Unpin,
        soft_limit: &SoftLimit,
        clock: &Clock,
    ) -> Result<T, LimitExceeded> {
        if let Some(soft) = self.soft() {
            tokio::select! {
                biased;
                () = clock.wait_until(soft) => {}
                done = &mut work => return self.in_time(done, soft_limit, clock),
            }
            if !soft_limit.reach() {
                return Err(LimitExceeded::Soft);
            }
        }
        let Some((limit, until)) = self.hard else {
            return Ok(work.await);
        };
        tokio::select! {
            biased;
            () = clock.wait_until(until) => Err(LimitExceeded::Hard(limit)),
            done = &mut work => self.in_time(done, soft_limit, clock),
        }
    }

    /// Returns `done`, or the limit that had passed when the work completed.
    pub(crate) fn in_time<T>(
        self,
        done: T,
        soft_limit: &SoftLimit,
        clock: &Clock,
    ) -> Result<T, LimitExceeded> {
        if self.soft.is_none() && self.hard.is_none() {
            return Ok(done);
        }
        // (`>` and not `>=`: the times are whole milliseconds, and the first may have begun partly
        // elapsed.)
        let now = clock.elapsed_ms();
        match (self.hard, self.soft()) {
            (Some((limit, until)), _) if now > until => Err(LimitExceeded::Hard(limit)),
            (_, Some(soft)) if now > soft && !soft_limit.reach() => Err(LimitExceeded::Soft),
            _ => Ok(done),
        }
    }

    /// Returns the soft limit if it is earlier than the hard one.
    fn soft(self) -> Option<u64> {
        let hard = self.hard.map_or(u64::MAX, |(_, until)| until);
        self.soft.filter(|soft| *soft < hard)
    }
}

/// Polls the work once without checking the limits, and then applies them.
pub(crate) async fn in_time<T>(
    mut work: impl Future<Output = T> + Unpin,
    limits: Limits,
    soft_limit: &SoftLimit,
    clock: &Clock,
) -> Result<T, LimitExceeded> {
    let deadlines = limits.begin(soft_limit, clock);
    let at_once = poll_fn(|context| Poll::Ready(Pin::new(&mut work).poll(context)));
    match at_once.await {
        Poll::Ready(done) => deadlines.in_time(done, soft_limit, clock),
        Poll::Pending => deadlines.enforce(work, soft_limit, clock).await,
    }
}

pub(crate) type Outcome = Result<Result<Payload, TaskError>, Box<dyn Any + Send>>;

/// A call that returns panics as its outcome.
pub(crate) type Guarded = CatchUnwind<AssertUnwindSafe<Call>>;

/// Builds the call of the function: once, or once per item.
pub(crate) fn build_call(
    entry: &'static Entry,
    mut context: TaskContext,
    arguments: CallArguments,
) -> Guarded {
    let call = match arguments {
        CallArguments::Once(args, upstream) => {
            context.upstream = upstream.map(Arc::new);
            entry.call(context, args)
        }
        CallArguments::Map(items, count) => Box::pin(map(entry, context, items, count)),
        CallArguments::Fold(acc, items) => {
            context.folds = true;
            Box::pin(fold(entry, context, acc, items))
        }
    };
    AssertUnwindSafe(call).catch_unwind()
}

async fn map(
    entry: &'static Entry,
    context: TaskContext,
    items: Payload,
    count: u32,
) -> Result<Payload, TaskError> {
    let host = context.host().map_err(TaskError::from)?.clone();
    let mut values = ListWriter::new(count as usize, items.bytes().len());
    for (i, item) in (0..).zip(items.split(count).map_err(TaskError::new)?) {
        let mut context = context.clone();
        context.item = Some(i);
        let value = entry.call(context, item.into()).await;
        values.push(value.map_err(|error| error.of_item("map"))?.bytes());
        // After the last item the result as a whole is too large, and the message says only that.
        if let Err(size) = host.check_size(entry.name, "result", values.bytes()) {
            let mut message = format!("its result takes {size}");
            if i + 1 < count {
                message = format!("{message}: already after {} of {count} items", i + 1);
            }
            return Err(TaskError::too_large(message));
        }
    }
    Ok(values.finish())
}

async fn fold(
    entry: &'static Entry,
    context: TaskContext,
    mut acc: Payload,
    items: Vec<Payload>,
) -> Result<Payload, TaskError> {
    for item in items {
        let mut args = ListWriter::new(2, acc.bytes().len() + item.bytes().len());
        args.push(acc.bytes());
        args.push(item.bytes());
        let next = entry.call(context.clone(), args.finish_parts()).await;
        acc = next.map_err(|error| error.of_item("fold"))?;
    }
    Ok(acc)
}

/// The arguments of a call, resolved: for one call, or for one per item.
pub(crate) enum CallArguments {
    /// The arguments, and the upstream list if the function streams it.
    Once(Parts, Option<Elements>),
    Map(Payload, u32),
    /// The accumulator and the items, which are passed to the function one after the other.
    Fold(Payload, Vec<Payload>),
}

impl CallInput {
    /// Resolves the arguments if no read from the store is needed; otherwise returns the input
    /// unchanged.
    pub(crate) fn at_hand(self) -> Result<CallArguments, Self> {
        let list = match self {
            Self::First {
                args,
                count,
                mode: Mode::Map,
                ..
            } => return Ok(CallArguments::Map(args, count)),
            Self::First {
                args,
                count,
                input: None,
                ..
            } => {
                let mut list = ListWriter::new(count as usize, args.bytes().len());
                list.push(args.bytes());
                list
            }
            Self::First {
                args,
                count,
                input: Some(Value::Inline(input)),
                ..
            } => {
                let bytes = input.bytes().len() + args.bytes().len();
                let mut list = ListWriter::new(count as usize + 1, bytes);
                list.push(input.bytes());
                list.push(args.bytes());
                list
            }
            Self::Fold(run) => {
                let at_hand = run.at_hand();
                let arguments = at_hand.map(|(acc, items)| CallArguments::Fold(acc, items));
                return arguments.ok_or(Self::Fold(run));
            }
            stored => return Err(stored),
        };
        Ok(CallArguments::Once(list.finish_parts(), None))
    }
}

/// Resolves the arguments: the input from upstream first, then the task's own.
pub(crate) async fn resolve_input(
    view: &DurableView,
    root: Id,
    entry: &Entry,
    input: CallInput,
) -> Result<CallArguments, String> {
    let mut upstream = None;
    let list = match input.at_hand() {
        Ok(arguments) => return Ok(arguments),
        Err(CallInput::First {
            args, count, input, ..
        }) => {
            let all = count as usize + usize::from(input.is_some());
            let mut list = ListWriter::new(all, args.bytes().len());
            if let Some(input) = input {
                if entry.streams() {
                    upstream = view.elements(root, &input).await.map_err(unreadable)?;
                }
                match upstream {
                    // An empty list takes its position in the arguments.
                    Some(_) => list.begin(0),
                    None => list = load(view, root, input, list).await?,
                }
            }
            list.push(args.bytes());
            list
        }
        Err(CallInput::Fold(run)) => {
            let (acc, items) = view.fold_items(root, run).await.map_err(unreadable)?;
            return Ok(CallArguments::Fold(acc, items));
        }
        Err(CallInput::Again(all)) => load(view, root, all, ListWriter::raw()).await?,
    };
    Ok(CallArguments::Once(list.finish_parts(), upstream))
}

async fn load(
    view: &DurableView,
    root: Id,
    value: Value,
    list: ListWriter,
) -> Result<ListWriter, String> {
    let loaded = view.append(root, value, list).await;
    loaded.map_err(unreadable)
}

fn unreadable(error: Error) -> String {
    format!("its input could not be read: {error}")
}

/// Identifies an attempt, for its log entries and failures.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AttemptRef {
    pub(crate) id: Id,
    pub(crate) entry: &'static Entry,
    pub(crate) attempt: u32,
}

impl AttemptRef {
    /// Returns the tracing span of the attempt.
    pub(crate) fn span(&self) -> Span {
        let Self { id, attempt, .. } = self;
        tracing::info_span!("attempt", %id, name = self.entry.name, attempt)
    }

    /// Converts the function's result, or the limit that it exceeded, into the attempt's outcome.
    pub(crate) fn end_in_time(
        &self,
        done: Result<Outcome, LimitExceeded>,
        registry: &Registry,
    ) -> AttemptOutcome {
        match done {
            Ok(outcome) => self.end(outcome, registry),
            Err(exceeded) => self.too_late(exceeded, registry),
        }
    }

    pub(crate) fn end(&self, outcome: Outcome, registry: &Registry) -> AttemptOutcome {
        let error = match outcome {
            Ok(Ok(payload)) => return self.value(payload, registry),
            Ok(Err(error)) => error,
            Err(panic) => TaskError::panic(panic_text(&*panic)),
        };
        self.failed(&error, registry)
    }

    fn value(&self, payload: Payload, registry: &Registry) -> AttemptOutcome {
        match self.check(registry, "result", &payload) {
            Ok(()) => AttemptOutcome::Value(Value::Inline(payload)),
            Err(size) => self.too_large(&format!("its result takes {size}")),
        }
    }

    /// Returns the outcome of an attempt that returned an error.
    fn failed(&self, error: &TaskError, registry: &Registry) -> AttemptOutcome {
        match error.next(self.entry.options.retry_if) {
            Next::Replace(canvas) => match freeze::plan_subtask(*canvas, true, registry) {
                Ok(plan) => AttemptOutcome::Replaced(plan),
                Err(error) => {
                    let message = format!("its replacement is refused: {error}");
                    match error.reason {
                        Reason::TooLarge { .. } => self.too_large(&message),
                        Reason::Wrong(_) | Reason::QueueName(_) => {
                            self.failure(FailureKind::Type, &message, Retry::Never)
                        }
                    }
                }
            },
            Next::Unfit(misfit) => AttemptOutcome::Unfit {
                failure: error.failure(self.id, self.entry.name, self.attempt),
                misfit,
            },
            Next::Retry(retry) => {
                if let Retry::Asked { args, .. } = &retry
                    && let Some(Value::Inline(args)) = args
                    && let Err(size) = self.check(registry, "arguments", args)
                {
                    return self.too_large(&format!("the arguments of its retry take {size}"));
                }
                AttemptOutcome::Failure {
                    failure: error.failure(self.id, self.entry.name, self.attempt),
                    retry,
                    counts: self.counts(error),
                }
            }
        }
    }

    fn check(
        &self,
        registry: &Registry,
        what: &'static str,
        payload: &Payload,
    ) -> Result<(), SizeExceeded> {
        let bytes = payload.bytes().len();
        registry.check(self.entry.name, what, bytes)
    }

    /// Returns a failure that is never retried: another attempt would end the same way.
    fn too_large(&self, message: &str) -> AttemptOutcome {
        self.failure(FailureKind::PayloadTooLarge, message, Retry::Never)
    }

    pub(crate) fn too_late(&self, exceeded: LimitExceeded, registry: &Registry) -> AttemptOutcome {
        match exceeded {
            // Like any other error, this one may be retried.
            LimitExceeded::Soft => self.failed(&TaskError::soft_time_limit(), registry),
            LimitExceeded::Hard(limit) => {
                let message = format!("time limit of {limit:?} exceeded");
                self.broken(&TaskError::hard_time_limit(message), Retry::Never)
            }
        }
    }

    /// Returns whether an error counts for the task's breaker.
    fn counts(&self, error: &TaskError) -> bool {
        let options = &self.entry.options;
        options.breaker.is_some() && error.counts(options.breaker_if)
    }

    /// Returns the outcome of an attempt that did not return its error.
    fn broken(&self, error: &TaskError, retry: Retry) -> AttemptOutcome {
        AttemptOutcome::Failure {
            failure: error.failure(self.id, self.entry.name, self.attempt),
            retry,
            counts: self.counts(error),
        }
    }

    pub(crate) fn failure(&self, kind: FailureKind, message: &str, retry: Retry) -> AttemptOutcome {
        AttemptOutcome::Failure {
            failure: TaskFailure::new(kind, self.id, self.entry.name, self.attempt, message),
            retry,
            counts: false,
        }
    }

    /// Returns the outcome of an attempt that was cancelled. Its details do not matter: the task is
    /// revoked.
    pub(crate) fn cancelled(&self) -> AttemptOutcome {
        AttemptOutcome::Failure {
            failure: TaskFailure::revoked(self.id, self.entry.name),
            retry: Retry::Never,
            counts: false,
        }
    }

    /// Returns the outcome of an attempt that panicked outside its body, as a local or a panic
    /// payload was dropped. Such a panic counts as the task's own.
    pub(crate) fn panicked_outside(&self) -> AttemptOutcome {
        let message = "a panic while something of the task was dropped";
        self.broken(&TaskError::panic(message.to_owned()), Retry::Auto)
    }
}

/// Logs a failed attempt by its kind, never with its message, which is the user's.
pub(crate) fn log_failed(spec: &ChildSpec, attempt: u32, kind: FailureKind, is_retried: bool) {
    let (id, name) = (spec.id(), spec.node.name());
    let errback = spec.is_errback();
    if is_retried {
        tracing::warn!(%id, name, attempt, ?kind, errback, "an attempt failed: the task is retried");
    } else if errback {
        tracing::error!(%id, name, attempt, ?kind, errback, "an errback failed: only this log entry reports it");
    } else {
        tracing::error!(%id, name, attempt, ?kind, errback, "a task failed");
    }
}

/// Logs a task that expired before attempt number `attempt` could start.
pub(crate) fn log_expired(spec: &ChildSpec, attempt: u32) {
    let (id, name) = (spec.id(), spec.node.name());
    let kind = FailureKind::Revoked;
    tracing::warn!(%id, name, attempt, ?kind, "a task expired before it could start");
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

#[cfg(test)]
mod tests {
    use serde::de::DeserializeOwned;

    use super::*;
    use crate::canvas::freeze::SubtaskPlan;
    use crate::canvas::options::When;
    use crate::canvas::parked::Misfit;
    use crate::prelude::*;

    #[task]
    async fn double(n: i64) -> i64 {
        2 * n
    }

    /// Returns the text of a value after its way through bytes.
    fn sent<T: Serialize + DeserializeOwned + std::fmt::Debug>(value: &T) -> String {
        let bytes = rmp_serde::to_vec_named(value).unwrap();
        let back: T = rmp_serde::from_slice(&bytes).unwrap();
        format!("{back:?}")
    }

    fn value(n: i64) -> Value {
        Value::Inline(Payload::encode(&n).unwrap())
    }

    fn plan() -> SubtaskPlan {
        let registry = Registry::new(
            tasks![double],
            Default::default(),
            Default::default(),
            Default::default(),
        )
        .unwrap();
        let canvas = (group([double.s(1), double.s(2)])).into_canvas();
        freeze::plan_subtask(canvas, false, &registry).unwrap()
    }

    #[test]
    fn what_goes_to_a_call_and_comes_from_it_can_be_sent() {
        let id = Id::next(None, 1, 2);
        let inputs = [
            CallInput::First {
                args: Payload::encode(&7).unwrap(),
                count: 1,
                mode: Mode::Once,
                input: Some(value(1)),
            },
            CallInput::Again(value(2)),
            CallInput::Fold(Arc::new(Run {
                first: 3,
                acc: value(4),
                outcomes: vec![crate::canvas::outcome::Outcome::Success(value(5))],
                settled: true,
            })),
        ];
        for input in inputs {
            let spec = CallSpec {
                ids: TaskIds {
                    id,
                    parent: Some(id),
                    group: None,
                },
                attempt: 6,
                input,
                limits: Limits {
                    soft: Some(Duration::from_millis(1)),
                    hard: None,
                },
                stamps: {
                    let mut stamps = Stamps::default();
                    stamps.set("tenant".into(), "acme".into());
                    stamps
                },
                is_watched: true,
            };
            assert_eq!(sent(&spec), format!("{spec:?}"));
        }
        let failure = || TaskFailure::new(FailureKind::Error, id, "double", 1, "no");
        let asked = Retry::Asked {
            when: Some(When::In(Duration::from_secs(1))),
            args: Some(value(7)),
            max_retries: Some(8),
            is_free: true,
        };
        let outcomes = [
            AttemptOutcome::Value(value(9)),
            AttemptOutcome::Failure {
                failure: failure(),
                retry: asked,
                counts: true,
            },
            AttemptOutcome::Replaced(plan()),
            AttemptOutcome::Unfit {
                failure: failure(),
                misfit: Misfit::Stored,
            },
        ];
        for outcome in outcomes {
            assert_eq!(sent(&outcome), format!("{outcome:?}"));
        }
        assert_eq!(sent(&plan()), format!("{:?}", plan()));
    }
}
