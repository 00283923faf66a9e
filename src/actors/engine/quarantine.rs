//! Requests to release a quarantined task or to discard a parked one.

use super::EngineActor;
use crate::actors::commit::journal::PostCommit;
use crate::error::{Error, IdError};
use crate::messages::engine::Release;
use crate::persistence::StoreError;

impl EngineActor {
    pub(super) fn release(&mut self, release: Release) -> Result<(), StoreError> {
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
            self.start_early(id.root())?;
            self.engine.then(PostCommit::Done(done));
        } else {
            // The caller may have stopped waiting.
            let _ = done.send(Err(Error::Id(IdError::NotQuarantined { id })));
        }
        Ok(())
    }
}
