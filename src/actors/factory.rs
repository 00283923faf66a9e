//! Starts the actors of children: the one place that knows all of them.

use actix::{Actor, Recipient};

use super::child::Child;
use super::context::{ActorFactory, EngineContext};
use super::supervisor::{ChainActor, ChordActor, FoldActor, GroupActor};
use super::task::TaskActor;
use crate::canvas::freeze::Def;
use crate::messages::task::TaskMessage;

/// The actors of this engine.
pub(crate) const ACTORS: ActorFactory = ActorFactory {
    start_task,
    start_supervisor,
};

fn start_task(engine: &EngineContext) -> Recipient<TaskMessage> {
    TaskActor::new(engine.clone()).start().recipient()
}

fn start_supervisor(engine: &EngineContext, child: Box<Child>) {
    let engine = engine.clone();
    match child.node.def {
        Def::Task(_) => unreachable!("a task has no supervisor of its own"),
        Def::Chain(_) => drop(ChainActor::new(engine, child).start()),
        Def::Group(_) => drop(GroupActor::new(engine, child).start()),
        Def::Chord { .. } => drop(ChordActor::new(engine, child).start()),
        Def::Fold { .. } => drop(FoldActor::new(engine, child).start()),
    }
}
