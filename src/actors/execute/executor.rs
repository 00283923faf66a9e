//! The executor: runs user code on the app's runtime or its thread pool, never on an arbiter.
//!
//! A body that completes at its first poll costs no task of the runtime: workers, one per thread,
//! take invocations from one queue and poll each once. A body that does not complete then continues
//! as a task of its own.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};

use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::attempt::{Attempt, AttemptKind};
use super::body::Body;
use super::call::{
    AttemptRef, CallArguments, CallInput, CallSpec, Limits, build_call, resolve_input,
};
use crate::actors::dispatch::permit::Permit;
use crate::actors::handle::EngineHandle;
use crate::backend::user_runtime::UserRuntime;
use crate::canvas::machine::task::{AttemptOutcome, Retry};
use crate::canvas::outcome::FailureKind;
use crate::messages::task::{AttemptMessage, Finished, TaskKey};
use crate::task::{Entry, TaskContext};
use crate::testing::failpoint::{self, Point};

/// After this many invocations a worker yields, so that the runtime can poll its timers and
/// sockets.
const YIELD_AFTER: u32 = 32;

/// Everything that one attempt needs in this process.
#[derive(Debug)]
pub(crate) struct Invocation {
    /// The key of its task.
    pub(crate) key: TaskKey,
    pub(crate) entry: &'static Entry,
    pub(crate) permit: Permit,
    pub(crate) call: CallSpec,
}

/// The invocations that wait for a worker.
#[derive(Debug)]
pub(crate) struct Executor {
    runtime: UserRuntime,
    pending: Mutex<Pending>,
    /// The maximum number of workers: one per thread that polls.
    max_workers: usize,
}

/// Invariant: while invocations wait, at least one worker will take them.
#[derive(Debug, Default)]
struct Pending {
    /// Each with the engine that its attempt belongs to.
    waiting: VecDeque<(Arc<EngineHandle>, Invocation)>,
    workers: usize,
}

impl Executor {
    pub(crate) fn new(runtime: UserRuntime, max_workers: usize) -> Self {
        Self {
            runtime,
            pending: Mutex::default(),
            max_workers,
        }
    }

    /// Queues invocations and starts workers for them.
    pub(crate) fn submit(
        self: &Arc<Self>,
        engine: &Arc<EngineHandle>,
        invocations: Vec<Invocation>,
    ) {
        let mut pending = self.pending.lock();
        let invocations = invocations.into_iter();
        pending
            .waiting
            .extend(invocations.map(|invocation| (engine.clone(), invocation)));
        let wanted = self.max_workers.min(pending.waiting.len());
        let more = wanted.saturating_sub(pending.workers);
        pending.workers += more;
        drop(pending);
        for _ in 0..more {
            self.runtime.spawn(worker_loop(self.clone()));
        }
    }

    /// Returns the next invocation. Without one, the calling worker must end, and is no longer
    /// counted.
    fn next(&self) -> Option<(Arc<EngineHandle>, Invocation)> {
        let mut pending = self.pending.lock();
        let next = pending.waiting.pop_front();
        if next.is_none() {
            pending.workers -= 1;
        }
        next
    }
}

async fn worker_loop(executor: Arc<Executor>) {
    let mut done = 0;
    while let Some(invocation) = executor.next() {
        let mut invocation = Some(invocation);
        poll_fn(|context| {
            if let Some((engine, invocation)) = invocation.take() {
                // A panic is the task's own, and is reported by its guard.
                let _ = catch_unwind(AssertUnwindSafe(|| begin(engine, invocation, context)));
            }
            Poll::Ready(())
        })
        .await;
        done += 1;
        if done % YIELD_AFTER == 0 {
            tokio::task::yield_now().await;
        }
    }
}

/// Starts an attempt. Its guard reports the outcome to the task's actor.
fn begin(engine: Arc<EngineHandle>, invocation: Invocation, context: &mut Context<'_>) {
    let Invocation {
        key,
        entry,
        permit,
        call,
    } = invocation;
    let CallSpec {
        ids,
        attempt: number,
        input,
        limits,
        stamps,
        is_watched,
    } = call;
    let id = ids.id;
    // Allocated here and not by the task actor: memory that one thread allocates and another frees
    // costs both.
    let is_blocking = entry.options.blocking;
    let of_task = (key, number);
    let kind = AttemptKind {
        is_blocking,
        is_watched,
        is_limited: permit.has_start(),
    };
    let attempt = Attempt::new(engine, id, of_task, stamps, kind, permit);
    let attempt = Arc::new(attempt);
    let guard = CompletionGuard {
        attempt_ref: AttemptRef {
            id,
            entry,
            attempt: number,
        },
        attempt: attempt.clone(),
        is_registered: false,
        sent: false,
    };
    let task_context = TaskContext {
        id,
        parent_id: ids.parent,
        group_id: ids.group,
        attempt: number,
        item: None,
        blocking: is_blocking,
        folds: false,
        upstream: None,
        host: Some(attempt),
    };
    match input.at_hand() {
        Ok(arguments) => start(guard, task_context, limits, arguments, context),
        Err(input) => {
            tokio::spawn(read_first(guard, task_context, limits, input));
        }
    }
}

/// Starts an attempt whose arguments must be read from the store.
async fn read_first(
    mut guard: CompletionGuard,
    task_context: TaskContext,
    limits: Limits,
    input: CallInput,
) {
    let (root, entry) = (task_context.root_id(), guard.attempt_ref.entry);
    match resolve_input(guard.attempt.view(), root, entry, input).await {
        Ok(arguments) => {
            let mut all = Some((guard, task_context, arguments));
            poll_fn(|context| {
                if let Some((guard, task_context, arguments)) = all.take() {
                    start(guard, task_context, limits, arguments, context);
                }
                Poll::Ready(())
            })
            .await;
        }
        Err(message) => {
            let outcome = guard
                .attempt_ref
                .failure(FailureKind::Engine, &message, Retry::Never);
            guard.send(outcome);
        }
    }
}

fn start(
    mut guard: CompletionGuard,
    task_context: TaskContext,
    limits: Limits,
    arguments: CallArguments,
    context: &mut Context<'_>,
) {
    failpoint::reach(Point::Called);
    let entry = guard.attempt_ref.entry;
    // The task was revoked before the attempt started.
    let cancellations = &guard.attempt.engine().cancellations;
    if cancellations.is_requested(&*guard.attempt) {
        return guard.send(guard.attempt_ref.cancelled());
    }
    let span = guard.attempt_ref.span();
    let call = build_call(entry, task_context, arguments);
    let mut body = Body::new(call, guard.attempt.clone(), span);
    if entry.options.blocking {
        tokio::spawn(run_blocking(body, limits, guard));
        return;
    }
    let deadlines = limits.begin(&guard.attempt.soft_limit, &guard.attempt.view().clock);
    let polled = Pin::new(&mut body).poll(context);
    // After the function was called, and not before: a limit must not take a late call for an
    // earlier one.
    guard.attempt.count_start();
    match polled {
        Poll::Ready(outcome) => {
            let attempt = &guard.attempt;
            let done = deadlines.in_time(outcome, &attempt.soft_limit, &attempt.view().clock);
            let outcome = guard
                .attempt_ref
                .end_in_time(done, &attempt.engine().registry);
            guard.send(outcome);
        }
        Poll::Pending => {
            guard.register_for_cancellation();
            tokio::spawn(async move {
                let attempt = guard.attempt.clone();
                let done = {
                    let clock = &attempt.view().clock;
                    let done = pin!(deadlines.enforce(body, &attempt.soft_limit, clock));
                    attempt.cancellation.run_until_ended(done).await
                };
                guard.send(match done {
                    Some(done) => guard
                        .attempt_ref
                        .end_in_time(done, &attempt.engine().registry),
                    None => guard.attempt_ref.cancelled(),
                });
            });
        }
    }
}

/// Runs a blocking body on the pool. It cannot be stopped: when it exceeds its limit or is
/// cancelled, the task is notified at once, and the thread keeps the slot until the body returns.
async fn run_blocking(body: Body, limits: Limits, mut guard: CompletionGuard) {
    let (report_start, started) = oneshot::channel();
    let (done, mut outcome) = oneshot::channel();
    guard.register_for_cancellation();
    let on_thread = guard.attempt.clone();
    let runtime = &guard.attempt.engine().runtime;
    runtime.run(Box::new(move || {
        if on_thread.cancellation.is_over() {
            // Ended before it had a thread: the slot is returned, and no receiver waits.
            return drop(on_thread.close());
        }
        if limits.are_set() {
            let clock = &on_thread.view().clock;
            let _ = report_start.send(limits.begin(&on_thread.soft_limit, clock));
        }
        on_thread.count_start();
        let outcome = pollster::block_on(body);
        // If no receiver waits any more, the permit is dropped here, with the outcome.
        let _ = done.send((outcome, on_thread.close()));
    }));
    let attempt = guard.attempt.clone();
    let in_time = pin!(async {
        // The wait for a thread counts for no limit. An attempt that was ended meanwhile never
        // starts.
        let deadlines = match limits.are_set() {
            true => started.await.ok(),
            false => None,
        };
        match deadlines {
            Some(deadlines) => {
                let clock = &attempt.view().clock;
                deadlines
                    .enforce(&mut outcome, &attempt.soft_limit, clock)
                    .await
            }
            None => Ok(outcome.await),
        }
    });
    let Some(done) = attempt.cancellation.run_until_ended(in_time).await else {
        return guard.send_with(guard.attempt_ref.cancelled(), None);
    };
    match done {
        Ok(Ok((outcome, permit))) => {
            let outcome = guard.attempt_ref.end(outcome, &attempt.engine().registry);
            guard.send_with(outcome, permit);
        }
        // It was ended just as it got a thread, and did not start.
        Ok(Err(_)) if attempt.cancellation.is_over() => {
            guard.send_with(guard.attempt_ref.cancelled(), None);
        }
        // The pool drops work that it has not started when the app stops; no receiver waits then.
        Ok(Err(_)) => {}
        Err(exceeded) => guard.send_with(
            guard
                .attempt_ref
                .too_late(exceeded, &attempt.engine().registry),
            None,
        ),
    }
}

/// Reports the end of an attempt to the task's actor, whatever happens to the attempt.
struct CompletionGuard {
    attempt_ref: AttemptRef,
    attempt: Arc<Attempt>,
    /// The attempt is registered for cancellation.
    is_registered: bool,
    sent: bool,
}

impl CompletionGuard {
    /// Registers the attempt, which did not complete at once, so that it can be cancelled.
    fn register_for_cancellation(&mut self) {
        self.is_registered = true;
        let cancellations = &self.attempt.engine().cancellations;
        cancellations.register(self.attempt.clone());
    }

    fn unregister(&mut self) {
        if std::mem::take(&mut self.is_registered) {
            let cancellations = &self.attempt.engine().cancellations;
            cancellations.unregister(self.attempt.task_key());
        }
    }

    /// Reports the outcome and returns the slot.
    fn send(&mut self, outcome: AttemptOutcome) {
        let permit = self.attempt.close();
        self.send_with(outcome, permit);
    }

    fn send_with(&mut self, outcome: AttemptOutcome, permit: Option<Permit>) {
        failpoint::reach(Point::Returned);
        self.sent = true;
        self.unregister();
        self.attempt.send(AttemptMessage::Finished(Finished {
            attempt: self.attempt_ref.attempt,
            outcome,
            permit,
        }));
    }
}

impl Drop for CompletionGuard {
    /// Reports a panic outside the body (a local or a panic payload that panics as it is dropped)
    /// as the task's own; otherwise the task's actor would wait for ever.
    fn drop(&mut self) {
        if !self.sent && std::thread::panicking() {
            self.send_with(self.attempt_ref.panicked_outside(), None);
        }
        // (The runtime drops the guard when the app stops.)
        self.unregister();
    }
}
