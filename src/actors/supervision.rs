//! Supervision: how a child starts and reports through the engine's context, and what a supervisor
//! does about a lost child.

use actix::{Actor, AsyncContext, Context, Handler};

use super::child::Child;
use super::commit::journal::PostCommit;
use super::context::EngineContext;
use crate::canvas::freeze::{Def, Node};
use crate::canvas::id::Id;
use crate::canvas::machine::{ChildProgress, Index, Record, Report};
use crate::canvas::outcome::{FailureKind, Outcome, TaskFailure, Value};
use crate::messages::supervisor::RestartChild;

impl Child {
    /// Records its progress in its supervisor's stream.
    pub(crate) fn record(&self, engine: &EngineContext, change: ChildProgress) {
        let index = self.index;
        engine.record(self.stream, Record::Child { index, change });
    }

    /// Reports an outcome of its own, with the callbacks that follow from it.
    pub(crate) fn report(&mut self, engine: &EngineContext, outcome: Outcome) {
        self.notify(engine, engine.spill(self.id(), outcome).into(), false);
    }

    /// Reports the outcome of its last child as its own.
    pub(crate) fn forward(&mut self, engine: &EngineContext, report: Report) {
        self.notify(engine, report, true);
    }

    /// Reports the failure of a child that is not its last as its own.
    pub(crate) fn fail(&mut self, engine: &EngineContext, report: Report) {
        self.notify(engine, report, false);
    }

    fn notify(&mut self, engine: &EngineContext, report: Report, of_last: bool) {
        // A report that was under way when the node was revoked does not count.
        if engine.observe_revocation(self.root, self.path()) {
            return self.revoke();
        }
        let report = self.final_report(report, of_last);
        self.send_report(report);
    }

    /// Starts the actor of the child; a child that takes a list apart starts when the list is
    /// durable and can be read.
    pub(crate) fn start(self: Box<Self>, engine: &EngineContext) {
        match &self.input {
            None | Some(Value::Inline(_)) => self.start_now(engine),
            Some(_) if self.node.takes_a_list() => engine.then(PostCommit::Start(self)),
            Some(_) => self.start_now(engine),
        }
    }

    /// As [`start`](Self::start), without waiting for the store.
    pub(crate) fn start_now(mut self: Box<Self>, engine: &EngineContext) {
        if engine.observe_revocation(self.root, self.path()) {
            return self.revoke();
        }
        match self.node.def {
            Def::Task(_) => engine.submit_task(self),
            Def::Chain(_) | Def::Group(_) | Def::Chord { .. } | Def::Fold { .. } => {
                engine.start_supervisor(self);
            }
        }
    }
}

/// Tells this actor to start child `index` again when all records of the child are durable and can
/// be read.
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

/// Returns the report of a child whose actor dies each time that it is started.
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
