//! Children: what each of them gets from its supervisor, and how the supervisor learns its end.

use std::cell::Cell;
use std::ops::Deref;

use actix::{Actor, AsyncContext, Context, Handler};

use super::engine_context::EngineContext;
use super::event_queue::EventQueue;
use super::journal::PostCommit;
use super::supervisor::{ChainActor, ChordActor, FoldActor, GroupActor};
use crate::canvas::freeze::{Def, Node};
use crate::canvas::id::Id;
use crate::canvas::machine::child_spec::ChildSpec;
use crate::canvas::machine::revocation::{NodeKey, node_key};
use crate::canvas::machine::{ChildProgress, Index, Record, Report};
use crate::canvas::outcome::{FailureKind, Outcome, TaskFailure, Value};
use crate::messages::supervisor::{ChildEnded, ChildEvent, ChildExited, EventsReady, RestartChild};

thread_local! {
    /// An actor of this thread was lost. Only from then on is there anybody without a supervisor.
    static LOST: Cell<bool> = const { Cell::new(false) };
}

/// Says whether an actor that this post is above of has lost its supervisor, or one further up. It is in
/// nobody's place then, since what was lost is started again from the store: it ends, and says and
/// records nothing.
pub(crate) fn is_orphaned(above: &EventQueue) -> bool {
    LOST.get() && !above.is_held()
}

/// The index under which a group's barrier is watched.
pub(crate) const BARRIER: Index = Index::MAX - 1;

/// A child to be started, and then its actor's tie to its supervisor.
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

/// What the store may know of a child.
#[derive(Clone, Debug)]
pub(crate) enum Resume {
    /// Nothing: it has never been started.
    Fresh,
    /// It may have been started before: how far it got, as its supervisor's stream says, and
    /// there may be a stream of its own.
    Stored(Option<ChildProgress>),
}

/// Ties a child to its supervisor. It goes when the child's actor goes, and says so: actix tells
/// nobody of an actor that panics.
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

    /// The child has said its last word: its end is no loss.
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
    /// `supervisor` is told when its actor is gone.
    pub(crate) fn new(
        place: ChildSpec,
        resume: Resume,
        reports_to: EventQueue,
        supervisor: EventQueue,
    ) -> Box<Self> {
        // It is large, and goes through many hands.
        Box::new(Self {
            exit_guard: ExitGuard::new(place.root, place.index, supervisor),
            spec: place,
            resume,
            reports_to,
        })
    }

    /// Says whether it is a task that can start at once: it has not been started before, and waits
    /// for no time.
    pub(crate) fn is_ready(&self) -> bool {
        matches!(self.resume, Resume::Fresh | Resume::Stored(None))
            && !matches!(&self.def().options, Some(own) if own.eta.is_some() || own.expires.is_some())
    }

    /// Where it stands, and each above it.
    pub(crate) fn path(&self) -> impl Iterator<Item = NodeKey> + '_ {
        let own = node_key(self.stream, self.index);
        std::iter::once(own).chain(self.exit_guard.supervisor.path())
    }

    /// The post of its actor, for children of its own.
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

    /// Records how far it has got, in its supervisor's stream.
    pub(crate) fn record(&self, engine: &EngineContext, change: ChildProgress) {
        let index = self.index;
        engine.record(self.stream, Record::Child { index, change });
    }

    /// Its outcome and the callbacks it calls for go to the supervisor.
    pub(crate) fn report(&mut self, engine: &EngineContext, outcome: Outcome) {
        self.notify(engine, engine.spill(self.id(), outcome).into(), false);
    }

    /// The outcome of its last child is its own.
    pub(crate) fn forward(&mut self, engine: &EngineContext, report: Report) {
        self.notify(engine, report, true);
    }

    /// The failure of a child that is not the last is its own.
    pub(crate) fn fail(&mut self, engine: &EngineContext, report: Report) {
        self.notify(engine, report, false);
    }

    /// It is revoked, or what it is a part of.
    pub(crate) fn revoke(&mut self) {
        let failure = TaskFailure::revoked(self.id(), self.node.name());
        self.send_report(Outcome::Revoked(failure).into());
    }

    fn notify(&mut self, engine: &EngineContext, report: Report, of_last: bool) {
        // Of what was on its way here when it was revoked nothing counts.
        if engine.observe_revocation(self.root, self.path()) {
            return self.revoke();
        }
        let report = self.final_report(report, of_last);
        self.send_report(report);
    }

    fn send_report(&mut self, report: Report) {
        self.exit_guard.release();
        self.reports_to.send(ChildEvent::Ended(ChildEnded {
            root: self.root,
            index: self.index,
            report,
        }));
    }

    /// Starts the actor that the child needs; one that takes a list apart, once that is durable
    /// and can be read.
    pub(crate) fn start(self: Box<Self>, engine: &EngineContext) {
        match &self.input {
            None | Some(Value::Inline(_)) => self.start_now(engine),
            Some(_) if self.node.takes_a_list() => engine.then(PostCommit::Start(self)),
            Some(_) => self.start_now(engine),
        }
    }

    /// As [`start`](Self::start), when nothing is to be waited for.
    pub(crate) fn start_now(mut self: Box<Self>, engine: &EngineContext) {
        if engine.observe_revocation(self.root, self.path()) {
            return self.revoke();
        }
        match self.node.def {
            Def::Task(_) => engine.submit_task(self),
            Def::Chain(_) => drop(ChainActor::new(engine.clone(), self).start()),
            Def::Group(_) => drop(GroupActor::new(engine.clone(), self).start()),
            Def::Chord { .. } => drop(ChordActor::new(engine.clone(), self).start()),
            Def::Fold { .. } => drop(FoldActor::new(engine.clone(), self).start()),
        }
    }
}

/// Has this actor told to start child `index` again, once all that the child had recorded is
/// durable and can be read.
pub(crate) fn restart_after_commit<A>(
    engine: &EngineContext,
    supervisor: Id,
    index: Index,
    context: &mut Context<A>,
) where
    A: Actor<Context = Context<A>> + Handler<RestartChild>,
{
    if engine.is_closed() {
        return;
    }
    tracing::error!(%supervisor, index, "a child's actor was lost and is started again");
    engine.end_orphans();
    let root = supervisor.root();
    engine.then(PostCommit::Restart(
        context.address().recipient(),
        RestartChild { root, index },
    ));
}

/// The last word on a child whose actor dies each time it is started.
pub(crate) fn abandoned_report(engine: &EngineContext, root: Id, node: &Node) -> Report {
    engine.end_orphans();
    let failure = TaskFailure::new(
        FailureKind::Engine,
        root.node(node.seq),
        node.name(),
        1,
        "its actor died each time it was started; this is a fault in chordal",
    );
    Report::of(node, Outcome::Failure(failure))
}
