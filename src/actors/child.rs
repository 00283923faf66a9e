//! Children: what each of them gets from its supervisor, and how the supervisor learns its end.

use std::cell::Cell;
use std::ops::Deref;

use actix::{Actor, Context, Handler};

use super::event_queue::EventQueue;
use crate::canvas::id::Id;
use crate::canvas::machine::child_spec::ChildSpec;
use crate::canvas::machine::{ChildProgress, Index, Report};
use crate::canvas::outcome::{Outcome, TaskFailure};
use crate::canvas::revocation::{NodeKey, node_key};
use crate::messages::supervisor::{ChildEnded, ChildEvent, ChildExited, EventsReady};

thread_local! {
    /// Set once an actor of this thread was lost: before that no actor lacks its supervisor.
    static LOST: Cell<bool> = const { Cell::new(false) };
}

/// Says whether an actor has lost its supervisor, whose queue this is, or one further up. The lost
/// supervisor is started again from the store with new children, so the orphan stops, and sends
/// and records nothing.
pub(crate) fn is_orphaned(above: &EventQueue) -> bool {
    LOST.get() && !above.is_held()
}

/// The index under which a group's barrier is watched.
pub(crate) const BARRIER: Index = Index::MAX - 1;

/// A child that is to start; later, its actor's connection to its supervisor.
#[derive(Debug)]
pub(crate) struct Child {
    spec: ChildSpec,
    pub(crate) resume: Resume,
    reports_to: EventQueue,
    exit_guard: ExitGuard,
}

impl Deref for Child {
    type Target = ChildSpec;

    fn deref(&self) -> &ChildSpec {
        &self.spec
    }
}

/// How much the store may have of a child.
#[derive(Clone, Debug)]
pub(crate) enum Resume {
    /// Nothing: it has never been started.
    Fresh,
    /// The child may have been started before: its progress in its supervisor's stream. The child
    /// may have a stream of its own.
    Stored(Option<ChildProgress>),
}

/// Tells a supervisor that a child's actor is gone. It is dropped with the actor; actix itself does
/// not report an actor that panics.
#[derive(Debug)]
pub(crate) struct ExitGuard {
    root: Id,
    index: Index,
    supervisor: EventQueue,
    reported: bool,
}

impl ExitGuard {
    pub(crate) fn new(root: Id, index: Index, supervisor: EventQueue) -> Self {
        Self {
            root,
            index,
            supervisor,
            reported: false,
        }
    }

    pub(crate) fn supervisor(&self) -> &EventQueue {
        &self.supervisor
    }

    /// Notes that the child has reported, so that the end of its actor is no loss.
    pub(crate) fn release(&mut self) {
        self.reported = true;
    }
}

impl Drop for ExitGuard {
    fn drop(&mut self) {
        if !self.reported {
            LOST.set(true);
        }
        self.supervisor.send(ChildEvent::Exited(ChildExited {
            root: self.root,
            index: self.index,
            lost: !self.reported,
        }));
    }
}

impl Child {
    /// Returns a child that reports to `reports_to`; `supervisor` is told when its actor is gone.
    pub(crate) fn new(
        spec: ChildSpec,
        resume: Resume,
        reports_to: EventQueue,
        supervisor: EventQueue,
    ) -> Box<Self> {
        // It is large and moved often.
        Box::new(Self {
            exit_guard: ExitGuard::new(spec.root, spec.index, supervisor),
            spec,
            resume,
            reports_to,
        })
    }

    /// Says whether the task can start at once: it has not been started before, and has no eta or
    /// expiry.
    pub(crate) fn is_ready(&self) -> bool {
        matches!(self.resume, Resume::Fresh | Resume::Stored(None))
            && !matches!(&self.def().options, Some(own) if own.eta.is_some() || own.expires.is_some())
    }

    /// Returns the key of this node and of each node above it.
    pub(crate) fn path(&self) -> impl Iterator<Item = NodeKey> + '_ {
        let own = node_key(self.stream, self.index);
        std::iter::once(own).chain(self.exit_guard.supervisor.path())
    }

    /// Returns an event queue for its actor, for children of its own.
    pub(crate) fn event_queue<A>(&self, context: &Context<A>) -> EventQueue
    where
        A: Actor<Context = Context<A>> + Handler<EventsReady>,
    {
        let own = node_key(self.stream, self.index);
        EventQueue::of(context, Some((own, self.exit_guard.supervisor.clone())))
    }

    /// As [`is_orphaned`].
    pub(crate) fn is_orphaned(&self) -> bool {
        is_orphaned(&self.reports_to)
    }

    /// Reports that the node is revoked.
    pub(crate) fn revoke(&mut self) {
        let failure = TaskFailure::revoked(self.id(), self.node.name());
        self.send_report(Outcome::Revoked(failure).into());
    }

    pub(super) fn send_report(&mut self, report: Report) {
        self.exit_guard.release();
        self.reports_to.send(ChildEvent::Ended(ChildEnded {
            root: self.root,
            index: self.index,
            report,
        }));
    }
}
