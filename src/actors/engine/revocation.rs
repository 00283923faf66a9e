//! Revocation: what somebody has asked to end, and all that is in it.

use actix::{Context, Handler, Message};
use tokio::sync::oneshot;

use super::EngineActor;
use crate::actors::journal::PostCommit;
use crate::canvas::id::{Id, Seq, WORKFLOW_STREAM};
use crate::canvas::machine::Record;
use crate::canvas::machine::revocation::NodeKey;
use crate::canvas::machine::workflow::ROOT;
use crate::persistence::StoreError;
use crate::persistence::reader::NodeLocation;

/// Revoke the node that stands there.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(crate) struct Revoke {
    pub(crate) root: Id,
    pub(crate) stand: NodeKey,
    /// Told once that is durable: whether all is settled that may have been on its way. It is dropped
    /// if the engine halts first.
    pub(crate) settled: oneshot::Sender<bool>,
}

/// What a [`Revoke`] has decided is durable.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(crate) struct IsRevoked(pub(crate) Revoke);

impl EngineActor {
    fn revoke(&mut self, revoke: Revoke) -> Result<(), StoreError> {
        let Revoke { root, stand, .. } = revoke;
        let is_live = self.workflows.contains_key(&root);
        if !is_live && self.is_on_its_way(root)? {
            self.shell.then(PostCommit::Revoke(revoke));
            return Ok(());
        }
        let waits = !is_live && self.shell.reader().waiting(root)?.is_some();
        if (is_live || waits) && self.shell.mark(root, stand) {
            let (stream, index) = stand;
            let record = Record::Revoked { stream, index };
            self.shell.record(root.workflow_stream(), record);
            self.shell.announce_revocations(root);
            if stand == (WORKFLOW_STREAM, ROOT) {
                // It need not wait for its turn, nor for its time.
                self.want(root);
            }
        }
        self.shell.then(PostCommit::IsRevoked(IsRevoked(revoke)));
        Ok(())
    }

    fn answer_revocation(&mut self, revoke: Revoke) -> Result<(), StoreError> {
        let Revoke {
            root,
            stand,
            settled,
        } = revoke;
        let has_met = self.shell.has_met(root, stand);
        if has_met && let Some(live) = self.workflows.get(&root) {
            for callback in live.machine.open_callbacks() {
                self.revoke_callback(root, callback, &[stand])?;
            }
            self.shell.announce_revocations(root);
        }
        // Who no longer waits loses nothing.
        let _ = settled.send(has_met || !self.workflows.contains_key(&root));
        Ok(())
    }

    /// Marks a callback that was called for by what is within one of these nodes.
    fn revoke_callback(
        &self,
        root: Id,
        callback: Seq,
        marks: &[NodeKey],
    ) -> Result<(), StoreError> {
        let reader = self.shell.reader();
        if let Some(found) = reader.find(root.node(callback))?
            && reader.is_within(root, &found, marks)?
        {
            self.shell.mark(root, (WORKFLOW_STREAM, callback));
        }
        Ok(())
    }

    /// A callback is to run that something has called for; perhaps within what is revoked.
    pub(super) fn look_at_launch(&self, root: Id, callback: Seq) -> Result<(), StoreError> {
        let mut marks = self.shell.marks(root);
        marks.retain(|stand| self.shell.has_met(root, *stand));
        match marks.is_empty() {
            true => Ok(()),
            false => self.revoke_callback(root, callback, &marks),
        }
    }

    /// A callback goes on after a restart: as above. What was revoked is to be known by now.
    pub(super) fn look_at_callback(
        &self,
        root: Id,
        callback: &NodeLocation,
    ) -> Result<(), StoreError> {
        let marks = self.shell.marks(root);
        if !marks.is_empty() && self.shell.reader().is_within(root, callback, &marks)? {
            let stand = (WORKFLOW_STREAM, callback.node.seq);
            self.shell.mark(root, stand);
        }
        Ok(())
    }

    /// Of what is revoked nobody comes in who is suspected.
    pub(super) fn look_at_suspects(&self, root: Id) -> Result<(), StoreError> {
        let marks = self.shell.marks(root);
        if marks.is_empty() {
            return Ok(());
        }
        for suspect in self.shell.suspects_of(root) {
            let found = self.shell.reader().find(suspect)?;
            if found.is_some_and(|found| found.is_of(&marks)) {
                self.shell.clear_absent(suspect);
            }
        }
        Ok(())
    }
}

impl Handler<Revoke> for EngineActor {
    type Result = ();

    fn handle(&mut self, revoke: Revoke, _: &mut Context<Self>) {
        if let Err(error) = self.revoke(revoke) {
            self.shell.halt(error.into());
        }
    }
}

impl Handler<IsRevoked> for EngineActor {
    type Result = ();

    fn handle(&mut self, IsRevoked(revoke): IsRevoked, _: &mut Context<Self>) {
        if let Err(error) = self.answer_revocation(revoke) {
            self.shell.halt(error.into());
        }
    }
}
