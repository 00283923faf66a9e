//! Revocation: marks a node and everything below it as revoked.

use super::EngineActor;
use crate::canvas::id::{Id, Seq, WORKFLOW_STREAM};
use crate::canvas::machine::Record;
use crate::canvas::machine::workflow::ROOT;
use crate::canvas::revocation::NodeKey;
use crate::messages::engine::{EngineMessage, Revoke};
use crate::persistence::StoreError;
use crate::persistence::records::reader::NodeLocation;

impl EngineActor {
    pub(super) fn revoke(&mut self, revoke: Revoke) -> Result<(), StoreError> {
        let Revoke { root, node, .. } = revoke;
        let is_live = self.workflows.contains_key(&root);
        if !is_live && self.is_in_transition(root)? {
            self.engine.notify(EngineMessage::Revoke(revoke));
            return Ok(());
        }
        let waits = !is_live && self.engine.reader().waiting(root)?.is_some();
        if (is_live || waits) && self.engine.mark(root, node) {
            let (stream, index) = node;
            let record = Record::Revoked { stream, index };
            self.engine.record(root.workflow_stream(), record);
            self.engine.announce_revocations(root);
            if node == (WORKFLOW_STREAM, ROOT) {
                // A revoked workflow waits neither for capacity nor for its time.
                self.start_early(root)?;
            }
        }
        self.engine.notify(EngineMessage::RevocationDurable(revoke));
        Ok(())
    }

    /// Answers the caller: the revocation is durable.
    pub(super) fn answer_revocation(&mut self, revoke: Revoke) -> Result<(), StoreError> {
        let Revoke {
            root,
            node,
            settled,
        } = revoke;
        let has_met = self.engine.has_met(root, node);
        if has_met && let Some(live) = self.workflows.get(&root) {
            for callback in live.machine.open_callbacks() {
                self.revoke_callback(root, callback, &[node])?;
            }
            self.engine.announce_revocations(root);
        }
        // The caller may have stopped waiting.
        let _ = settled.send(has_met || !self.workflows.contains_key(&root));
        Ok(())
    }

    /// Marks a callback as revoked if a node within one of these launched it.
    fn revoke_callback(
        &self,
        root: Id,
        callback: Seq,
        marks: &[NodeKey],
    ) -> Result<(), StoreError> {
        let reader = self.engine.reader();
        if let Some(location) = reader.find(root.node(callback))?
            && reader.is_within(root, &location, marks)?
        {
            self.engine.mark(root, (WORKFLOW_STREAM, callback));
        }
        Ok(())
    }

    /// Marks a newly launched callback as revoked if it belongs to a revoked node.
    pub(super) fn check_launch(&self, root: Id, callback: Seq) -> Result<(), StoreError> {
        let mut marks = self.engine.marks(root);
        marks.retain(|node| self.engine.has_met(root, *node));
        match marks.is_empty() {
            true => Ok(()),
            false => self.revoke_callback(root, callback, &marks),
        }
    }

    /// As [`check_launch`](Self::check_launch), for a callback that is recovered after a restart.
    /// The revocations must be known by now.
    pub(super) fn check_recovered_callback(
        &self,
        root: Id,
        callback: &NodeLocation,
    ) -> Result<(), StoreError> {
        let marks = self.engine.marks(root);
        if !marks.is_empty() && self.engine.reader().is_within(root, callback, &marks)? {
            let node = (WORKFLOW_STREAM, callback.node.seq);
            self.engine.mark(root, node);
        }
        Ok(())
    }
}
