//! Quarantine, and what is parked: somebody has decided what becomes of a task in it.

use actix::{Context, Handler, Message};
use tokio::sync::oneshot;

use super::EngineActor;
use crate::actors::journal::PostCommit;
use crate::canvas::id::Id;
use crate::canvas::parked::ParkedTask;
use crate::error::{Error, Result};
use crate::messages::task::Released;

/// Let a task out of quarantine.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(crate) struct Release {
    pub(crate) id: Id,
    pub(crate) released: Released,
    /// It is not in quarantine, but parked, or will be when it comes in.
    pub(crate) parked: Option<ParkedTask>,
    /// Told once that is durable. It is dropped if the engine halts first.
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
        if self.shell.release_quarantined(id, released) {
            self.shell.then(PostCommit::Done(done));
        } else if let Some(task) = parked {
            self.shell.discard_parked(&task);
            self.want(id.root());
            self.shell.then(PostCommit::Done(done));
        } else {
            // Who no longer waits need not know.
            let _ = done.send(Err(Error::NotQuarantined { id }));
        }
    }
}
