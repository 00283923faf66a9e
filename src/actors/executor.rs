//! Attempts: user code, on the app's runtime or its thread pool, never on an arbiter.
//!
//! A body that is done when it is first polled costs no task of the runtime: drivers, one per worker
//! thread, take orders from one queue and poll each once. What is not done then goes on as a task of
//! its own.

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
use super::call::{AttemptRef, CallArguments, CallInput, Limits, build_call, resolve_input};
use super::inbox::AttemptMessage;
use super::shared::Shared;
use super::task_slab::TaskKey;
use crate::canvas::machine::child_spec::TaskIds;
use crate::canvas::machine::task::{AttemptOutcome, Retry};
use crate::canvas::outcome::FailureKind;
use crate::failpoint::{self, Point};
use crate::messages::dispatcher::Permit;
use crate::messages::task::Finished;
use crate::task::{Entry, Host, TaskContext};

/// After so many orders a driver lets the runtime look after timers and sockets.
const STRETCH: u32 = 32;

/// All that one attempt needs.
#[derive(Debug)]
pub(crate) struct Invocation {
    /// Of the task that it is an attempt of.
    pub(crate) ticket: TaskKey,
    pub(crate) entry: &'static Entry,
    pub(crate) spot: TaskIds,
    /// The attempt's number.
    pub(crate) attempt: u32,
    pub(crate) permit: Permit,
    pub(crate) given: CallInput,
    pub(crate) limits: Limits,
    /// It may have ended the process: its task is told when it waits for others.
    pub(crate) is_watched: bool,
}

/// The orders that wait for a driver.
#[derive(Debug)]
pub(crate) struct Executor {
    orders: Mutex<Pending>,
    /// How many drivers there may be: one per thread that could poll.
    most: usize,
}

/// Invariant: while orders wait there is a driver that will come for them.
#[derive(Debug, Default)]
struct Pending {
    waiting: VecDeque<Invocation>,
    drivers: usize,
}

impl Executor {
    pub(crate) fn new(most: usize) -> Self {
        Self {
            orders: Mutex::default(),
            most,
        }
    }

    /// The next order; without one its driver is to end.
    fn next(&self) -> Option<Invocation> {
        let mut orders = self.orders.lock();
        let next = orders.waiting.pop_front();
        if next.is_none() {
            orders.drivers -= 1;
        }
        next
    }
}

/// Has these orders carried out.
pub(crate) fn submit(shared: &Arc<Shared>, new: Vec<Invocation>) {
    let plant = shared.engine_handle();
    let mut orders = plant.runner.orders.lock();
    orders.waiting.extend(new);
    let wanted = plant.runner.most.min(orders.waiting.len());
    let more = wanted.saturating_sub(orders.drivers);
    orders.drivers += more;
    drop(orders);
    for _ in 0..more {
        plant.runtime.spawn(worker_loop(shared.clone()));
    }
}

async fn worker_loop(shared: Arc<Shared>) {
    let mut done = 0;
    while let Some(order) = shared.engine_handle().runner.next() {
        let mut order = Some(order);
        poll_fn(|context| {
            if let Some(order) = order.take() {
                // What panics is the task's own, and its reply says so.
                let _ = catch_unwind(AssertUnwindSafe(|| begin(&shared, order, context)));
            }
            Poll::Ready(())
        })
        .await;
        done += 1;
        if done % STRETCH == 0 {
            tokio::task::yield_now().await;
        }
    }
}

/// Begins an attempt; its reply tells the task's actor how it ended.
fn begin(shared: &Arc<Shared>, order: Invocation, context: &mut Context<'_>) {
    let Invocation {
        ticket,
        entry,
        spot,
        attempt: number,
        permit,
        given,
        limits,
        is_watched,
    } = order;
    let id = spot.id;
    // Made here, not by the task actor: what one thread allocates and another frees costs both.
    let is_blocking = entry.options.blocking;
    let of_task = (ticket, number);
    let kind = AttemptKind {
        is_blocking,
        is_watched,
    };
    let attempt = Attempt::new(shared.clone(), id, of_task, kind, permit);
    let attempt = Arc::new(attempt);
    let reply = CompletionGuard {
        caller: AttemptRef {
            id,
            entry,
            attempt: number,
        },
        attempt: attempt.clone(),
        can_be_told: false,
        sent: false,
    };
    let task_context = TaskContext {
        id,
        parent_id: spot.parent,
        group_id: spot.group,
        attempt: number,
        item: None,
        blocking: is_blocking,
        folds: false,
        upstream: None,
        host: Host::Engine(attempt),
    };
    match given.at_hand() {
        Ok(work) => start(reply, task_context, limits, work, context),
        Err(given) => {
            tokio::spawn(read_first(reply, task_context, limits, given));
        }
    }
}

/// Begins an attempt whose arguments are in the store.
async fn read_first(
    mut reply: CompletionGuard,
    task_context: TaskContext,
    limits: Limits,
    given: CallInput,
) {
    let (root, entry) = (task_context.root_id(), reply.caller.entry);
    match resolve_input(reply.attempt.shared(), root, entry, given).await {
        Ok(work) => {
            let mut all = Some((reply, task_context, work));
            poll_fn(|context| {
                if let Some((reply, task_context, work)) = all.take() {
                    start(reply, task_context, limits, work, context);
                }
                Poll::Ready(())
            })
            .await;
        }
        Err(message) => {
            let end = reply
                .caller
                .failure(FailureKind::Engine, &message, Retry::Never);
            reply.send(end);
        }
    }
}

fn start(
    mut reply: CompletionGuard,
    task_context: TaskContext,
    limits: Limits,
    work: CallArguments,
    context: &mut Context<'_>,
) {
    failpoint::reach(Point::Called);
    let entry = reply.caller.entry;
    // Revoked before it was its turn.
    if reply
        .attempt
        .shared()
        .engine_handle()
        .cancellations
        .is_due(&reply.attempt)
    {
        return reply.send(reply.caller.cancelled());
    }
    let span = reply.caller.span();
    let call = build_call(entry, task_context, work);
    let mut body = Body::new(call, reply.attempt.clone(), span);
    if entry.options.blocking {
        tokio::spawn(run_blocking(body, limits, reply));
        return;
    }
    let deadlines = limits.begin(&reply.attempt.soft_limit, &reply.attempt.shared().clock);
    match Pin::new(&mut body).poll(context) {
        Poll::Ready(outcome) => {
            let shared = reply.attempt.shared();
            let done = deadlines.in_time(outcome, &reply.attempt.soft_limit, &shared.clock);
            reply.send(reply.caller.end_in_time(done, shared));
        }
        Poll::Pending => {
            reply.register_for_cancellation();
            tokio::spawn(async move {
                let attempt = reply.attempt.clone();
                let done = {
                    let clock = &attempt.shared().clock;
                    let done = pin!(deadlines.keep(body, &attempt.soft_limit, clock));
                    attempt.cancellation.keep(done).await
                };
                reply.send(match done {
                    Some(done) => reply.caller.end_in_time(done, attempt.shared()),
                    None => reply.caller.cancelled(),
                });
            });
        }
    }
}

/// A blocking body cannot be stopped: past its limit, or when it is cancelled, the task is told so,
/// and the slot stays with the thread until that is done.
async fn run_blocking(body: Body, limits: Limits, mut reply: CompletionGuard) {
    let (begins, begun) = oneshot::channel();
    let (done, mut outcome) = oneshot::channel();
    reply.register_for_cancellation();
    let on_thread = reply.attempt.clone();
    let workers = &reply.attempt.shared().engine_handle().runtime;
    workers.run(Box::new(move || {
        if on_thread.cancellation.is_over() {
            // Before it had a thread: the slot goes back, and nobody waits.
            return drop(on_thread.close());
        }
        if limits.are_set() {
            let clock = &on_thread.shared().clock;
            let _ = begins.send(limits.begin(&on_thread.soft_limit, clock));
        }
        let outcome = pollster::block_on(body);
        // If nobody waits any more the permit is dropped here, with the outcome.
        let _ = done.send((outcome, on_thread.close()));
    }));
    let attempt = reply.attempt.clone();
    let in_time = pin!(async {
        // It may wait for a thread, and that counts for no limit: what has failed never begins.
        let deadlines = match limits.are_set() {
            true => begun.await.ok(),
            false => None,
        };
        match deadlines {
            Some(deadlines) => {
                let clock = &attempt.shared().clock;
                deadlines
                    .keep(&mut outcome, &attempt.soft_limit, clock)
                    .await
            }
            None => Ok(outcome.await),
        }
    });
    let Some(done) = attempt.cancellation.keep(in_time).await else {
        return reply.send_with(reply.caller.cancelled(), None);
    };
    match done {
        Ok(Ok((outcome, permit))) => {
            let end = reply.caller.end(outcome, attempt.shared());
            reply.send_with(end, permit);
        }
        // It was ended just as its thread came, and did not begin.
        Ok(Err(_)) if attempt.cancellation.is_over() => {
            reply.send_with(reply.caller.cancelled(), None);
        }
        // The pool drops work that it has not begun when the app stops: nobody listens then.
        Ok(Err(_)) => {}
        Err(over) => reply.send_with(reply.caller.too_late(over, attempt.shared()), None),
    }
}

/// The way back to the task actor, and whose failure it would be.
struct CompletionGuard {
    caller: AttemptRef,
    attempt: Arc<Attempt>,
    /// It can be told that it is to end.
    can_be_told: bool,
    sent: bool,
}

impl CompletionGuard {
    /// It was not done at once.
    fn register_for_cancellation(&mut self) {
        self.can_be_told = true;
        let cancellations = &self.attempt.shared().engine_handle().cancellations;
        cancellations.register(&self.attempt);
    }

    fn leave(&mut self) {
        if std::mem::take(&mut self.can_be_told) {
            let cancellations = &self.attempt.shared().engine_handle().cancellations;
            cancellations.unregister(self.attempt.ticket());
        }
    }

    /// The attempt has ended, and gives its slot back.
    fn send(&mut self, end: AttemptOutcome) {
        let permit = self.attempt.close();
        self.send_with(end, permit);
    }

    fn send_with(&mut self, end: AttemptOutcome, permit: Option<Permit>) {
        failpoint::reach(Point::Returned);
        self.sent = true;
        self.leave();
        self.attempt.send(AttemptMessage::Finished(Finished {
            attempt: self.caller.attempt,
            end,
            permit,
        }));
    }
}

impl Drop for CompletionGuard {
    /// A panic outside the body (a local or a panic payload that panics as it is dropped) is the
    /// task's as well; without this its actor would wait for ever.
    fn drop(&mut self) {
        if !self.sent && std::thread::panicking() {
            self.send_with(self.caller.panicked_outside(), None);
        }
        // (The runtime drops it when the app stops.)
        self.leave();
    }
}
