//! One attempt: user code, on the app's runtime or its blocking pool, never on an arbiter.

use std::cell::Cell;
use std::sync::Arc;

use actix::Addr;

use super::attempt::Attempt;
use super::call::{Caller, Given, Limits, calls, guarded, in_time, work};
use super::inbox::Inbox;
use super::shared::Shared;
use super::task::TaskActor;
use crate::canvas::machine::place::Spot;
use crate::canvas::machine::task::{End, Retry};
use crate::canvas::outcome::FailureKind;
use crate::canvas::payload::Payload;
use crate::messages::dispatcher::Permit;
use crate::messages::task::Finished;
use crate::task::{Host, TaskContext, TaskEntry, TaskError};

/// All that one attempt needs.
#[derive(Debug)]
pub(crate) struct Order {
    pub(crate) entry: TaskEntry,
    pub(crate) spot: Spot,
    /// The attempt's number.
    pub(crate) attempt: u32,
    pub(crate) shared: Arc<Shared>,
    pub(crate) permit: Permit,
    pub(crate) given: Given,
    pub(crate) limits: Limits,
    pub(crate) reply_to: Addr<TaskActor>,
    pub(crate) inbox: Arc<Inbox>,
}

/// Runs the attempt and tells the task actor how it ended.
pub(crate) async fn run(order: Order) {
    let reply = Reply::new(&order);
    let Order {
        entry,
        spot,
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
        id: spot.id,
        parent_id: spot.parent,
        group_id: spot.group,
        attempt: number,
        item: None,
        blocking: entry.options.blocking,
        folds: false,
        upstream: None,
        host: Host::Engine(attempt.clone()),
    };
    let work = match work(attempt.shared(), context.root_id(), entry, given).await {
        Ok(work) => work,
        Err(message) => {
            let end = reply
                .caller
                .failure(FailureKind::Engine, &message, Retry::Never);
            return reply.send(end, attempt.close());
        }
    };
    let call = calls(entry, context, work);
    let clock = &attempt.shared().clock;
    if entry.options.blocking {
        run_blocking(call, limits, attempt, reply).await;
    } else {
        let done = in_time(guarded(call), limits, &attempt.soft_limit, clock).await;
        reply.send(
            reply.caller.end_in_time(done, attempt.shared()),
            attempt.close(),
        );
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
    let clock = &attempt.shared().clock;
    match in_time(outcome, limits, &attempt.soft_limit, clock).await {
        Ok(Ok((outcome, permit))) => {
            reply.send(reply.caller.end(outcome, attempt.shared()), permit);
        }
        // The pool drops work that it has not begun when the app stops: nobody listens then.
        Ok(Err(_)) => {}
        Err(over) => reply.send(reply.caller.too_late(over, attempt.shared()), None),
    }
}

/// The way back to the task actor, and whose failure it would be.
struct Reply {
    to: Addr<TaskActor>,
    inbox: Arc<Inbox>,
    caller: Caller,
    sent: Cell<bool>,
}

impl Reply {
    fn new(order: &Order) -> Self {
        Self {
            to: order.reply_to.clone(),
            inbox: order.inbox.clone(),
            caller: Caller {
                id: order.spot.id,
                entry: order.entry,
                attempt: order.attempt,
            },
            sent: Cell::new(false),
        }
    }

    fn send(&self, end: End, permit: Option<Permit>) {
        self.sent.set(true);
        let finished = Finished {
            attempt: self.caller.attempt,
            end,
            permit,
        };
        self.inbox.push(self.to.clone(), finished);
    }
}

impl Drop for Reply {
    /// A panic outside the body (a local or a panic payload that panics as it is dropped) is the
    /// task's as well; without this its actor would wait for ever.
    fn drop(&mut self) {
        if !self.sent.get() && std::thread::panicking() {
            self.send(self.caller.panicked_outside(), None);
        }
    }
}
