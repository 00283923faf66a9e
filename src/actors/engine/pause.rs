//! The end of a pause.

use actix::{Context, Handler, Message};
use tokio::sync::oneshot;

use super::EngineActor;

/// Starts the ready tasks of an app that was started paused.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(crate) struct EndPause {
    pub(crate) done: oneshot::Sender<()>,
}

impl Handler<EndPause> for EngineActor {
    type Result = ();

    fn handle(&mut self, EndPause { done }: EndPause, _: &mut Context<Self>) {
        self.engine.resume();
        // The caller may have stopped waiting.
        let _ = done.send(());
    }
}
