//! Requests to release a quarantined task or to discard a parked one.

use actix::{Context, Handler, Message};
use tokio::sync::oneshot;

use super::EngineActor;
use crate::actors::commit::journal::PostCommit;
use crate::canvas::id::Id;
use crate::canvas::parked::ParkedTask;
use crate::error::{Error, Result};
use crate::messages::task::Released;

/// Releases a task from quarantine.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(crate) struct Release {
    pub(crate) id: Id,
    pub(crate) released: Released,
    /// The task, if it is not in quarantine but parked, or will be parked when it is admitted.
    pub(crate) parked: Option<ParkedTask>,
    /// Answered once the release is durable. Dropped if the engine halts first.
    pub(crate) done: oneshot::Sender<Result<()>>,
}

impl Handler<Release> for EngineActor {
    type Result = ();

    fn handle(&mut self, release: Release, _: &mut Context<Self>) {
        let Release {
            id,
            released,
            parked,
            done,
        } = release;
        if self.engine.release_quarantined(id, released) {
            self.engine.then(PostCommit::Done(done));
        } else if let Some(task) = parked {
            self.engine.discard_parked(&task);
            self.start_early(id.root());
            self.engine.then(PostCommit::Done(done));
        } else {
            // The caller may have stopped waiting.
            let _ = done.send(Err(Error::NotQuarantined { id }));
        }
    }
}
