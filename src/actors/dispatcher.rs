//! The dispatcher: one per queue, gives slots to ready tasks by priority.

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use actix::{Actor, AsyncContext, Context, Handler, Recipient};

use crate::canvas::machine::queue::{Queue, SlotKind};
use crate::messages::dispatcher::{Drain, Permit, Release, Request};
use crate::messages::task::Granted;

/// How many tasks of one queue run at once.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Slots {
    pub(crate) asynchronous: usize,
    pub(crate) blocking: usize,
}

#[derive(Debug)]
pub(crate) struct DispatcherActor {
    asynchronous: Queue<Recipient<Granted>>,
    blocking: Queue<Recipient<Granted>>,
    held: Arc<AtomicUsize>,
    draining: bool,
}

impl DispatcherActor {
    pub(crate) fn new(slots: Slots, held: Arc<AtomicUsize>) -> Self {
        Self {
            asynchronous: Queue::new(slots.asynchronous),
            blocking: Queue::new(slots.blocking),
            held,
            draining: false,
        }
    }

    fn queue(&mut self, kind: SlotKind) -> &mut Queue<Recipient<Granted>> {
        match kind {
            SlotKind::Async => &mut self.asynchronous,
            SlotKind::Blocking => &mut self.blocking,
        }
    }

    fn grant(&self, kind: SlotKind, task: &Recipient<Granted>, context: &Context<Self>) {
        let permit = Permit::new(kind, context.address().recipient(), self.held.clone());
        // A task that is gone drops the permit with the message, which frees the slot.
        task.do_send(Granted(permit));
    }
}

impl Actor for DispatcherActor {
    type Context = Context<Self>;
}

impl Handler<Request> for DispatcherActor {
    type Result = ();

    fn handle(&mut self, request: Request, context: &mut Context<Self>) {
        let Request {
            priority,
            kind,
            task,
        } = request;
        if !self.draining
            && let Some(task) = self.queue(kind).request(priority, task)
        {
            self.grant(kind, &task, context);
        }
    }
}

impl Handler<Release> for DispatcherActor {
    type Result = ();

    fn handle(&mut self, Release(kind): Release, context: &mut Context<Self>) {
        if !self.draining
            && let Some(task) = self.queue(kind).release()
        {
            self.grant(kind, &task, context);
        }
    }
}

impl Handler<Drain> for DispatcherActor {
    type Result = ();

    fn handle(&mut self, _: Drain, _: &mut Context<Self>) {
        self.draining = true;
    }
}
