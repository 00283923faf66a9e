//! Revocation: what is marked, and who is to hear of it.

use super::EngineContext;
use crate::actors::dispatcher::Ready;
use crate::actors::task_slab::TaskKey;
use crate::canvas::id::Id;
use crate::canvas::machine::revocation::NodeKey;
use crate::messages::task::Recheck;

impl EngineContext {
    /// Says whether anything at all is revoked: mostly not.
    pub(crate) fn has_revoked(&self) -> bool {
        !self.0.revocations.borrow().is_empty()
    }

    /// Says whether what stands here, and has not ended, is revoked; see
    /// [`Revocations::meets`](crate::canvas::machine::revocation::Revocations::meets).
    pub(crate) fn observe_revocation(
        &self,
        root: Id,
        path: impl IntoIterator<Item = NodeKey>,
    ) -> bool {
        self.has_revoked() && self.0.revocations.borrow_mut().observe(root, path)
    }

    /// Marks a node as revoked; says whether that is new.
    pub(crate) fn mark(&self, root: Id, stand: NodeKey) -> bool {
        self.0.revocations.borrow_mut().mark(root, stand)
    }

    /// The marked nodes of a workflow.
    pub(crate) fn marks(&self, root: Id) -> Vec<NodeKey> {
        self.0.revocations.borrow().of(root)
    }

    /// Says whether something of a marked node was met that had not ended.
    pub(crate) fn has_met(&self, root: Id, stand: NodeKey) -> bool {
        self.0.revocations.borrow().has_met(root, stand)
    }

    /// Has all that waits or runs in a workflow find out whether it is revoked.
    pub(crate) fn announce_revocations(&self, root: Id) {
        let is_revoked = |ready: &Ready| match ready {
            Ready::New(child) => child.root == root && self.observe_revocation(root, child.path()),
            Ready::Known(_) => false,
        };
        let waiting = self.0.dispatcher.borrow_mut().remove_waiting(is_revoked);
        for ready in waiting {
            if let Ready::New(mut child) = ready {
                child.revoke();
            }
        }
        for task in self.0.tasks.borrow().of_workflow(root) {
            task.do_send(Recheck);
        }
    }

    /// Tells a running attempt that it is to end.
    pub(crate) fn cancel(&self, ticket: TaskKey, attempt: u32) {
        let cancellations = &self.shared().engine_handle().cancellations;
        cancellations.cancel(ticket, attempt);
    }

    /// Ends an attempt whose task has lost its actor.
    pub(crate) fn end_attempt(&self, ticket: TaskKey, attempt: u32) {
        if !self.is_closed() {
            self.shared()
                .engine_handle()
                .cancellations
                .end(ticket, attempt);
        }
    }

    /// An attempt has ended, and its task has heard so, or is gone.
    pub(crate) fn forget_cancellation(&self, ticket: TaskKey, attempt: u32) {
        self.shared()
            .engine_handle()
            .cancellations
            .forget(ticket, attempt);
    }
}
