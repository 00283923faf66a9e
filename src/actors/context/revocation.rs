//! Revocation: the marked nodes, and the tasks that are notified of them.

use super::EngineContext;
use crate::actors::child::Child;
use crate::actors::dispatch::dispatcher::Ready;
use crate::canvas::id::Id;
use crate::canvas::revocation::NodeKey;
use crate::messages::task::{TaskKey, TaskMessage};
use crate::persistence::StoreError;
use crate::persistence::records::reader::NodeLocation;

impl EngineContext {
    /// Returns whether any node is revoked; mostly none is.
    pub(crate) fn has_revoked(&self) -> bool {
        !self.0.revocations.borrow().is_empty()
    }

    /// Returns whether the unfinished node at `path` is revoked, and notes that it was met; see
    /// [`Revocations::observe`](crate::canvas::revocation::Revocations::observe).
    pub(crate) fn observe_revocation(
        &self,
        root: Id,
        path: impl IntoIterator<Item = NodeKey>,
    ) -> bool {
        self.has_revoked() && self.0.revocations.borrow_mut().observe(root, path)
    }

    /// Marks a node as revoked. Returns whether it was not marked before.
    pub(crate) fn mark(&self, root: Id, node: NodeKey) -> bool {
        self.0.revocations.borrow_mut().mark(root, node)
    }

    /// Returns the marked nodes of a workflow.
    pub(crate) fn marks(&self, root: Id) -> Vec<NodeKey> {
        self.0.revocations.borrow().of(root)
    }

    /// Returns whether an unfinished part of a marked node was met.
    pub(crate) fn has_met(&self, root: Id, node: NodeKey) -> bool {
        self.0.revocations.borrow().has_met(root, node)
    }

    /// Makes all waiting and running tasks of a workflow check whether they are revoked.
    pub(crate) fn announce_revocations(&self, root: Id) {
        let slab = &self.0.tasks.slab;
        let is_revoked = |ready: &Ready<Box<Child>>| match ready {
            Ready::New(child) => child.root == root && self.observe_revocation(root, child.path()),
            // Tasks that were revoked earlier have ended since: in a paused queue nothing else would
            // take them out.
            Ready::Known(key) | Ready::Waited(key) => slab.borrow().id(*key).is_none(),
        };
        let waiting = self
            .0
            .tasks
            .dispatcher
            .borrow_mut()
            .remove_waiting(self.steady_ms(), is_revoked);
        for ready in waiting {
            if let Ready::New(mut child) = ready {
                child.revoke();
            }
        }
        for task in self.0.tasks.slab.borrow().of_workflow(root) {
            task.do_send(TaskMessage::Recheck);
        }
    }

    /// Revokes the members of this group that have not ended: its barrier has decided without them.
    pub(crate) fn leave_out_rest(&self, group: Id) -> Result<(), StoreError> {
        let root = group.root();
        self.0
            .revocations
            .borrow_mut()
            .leave_out_rest(root, group.seq());
        self.announce_revocations(root);
        self.clear_suspects(root, |suspect| suspect.is_below_member(group.seq()))
    }

    /// Forgets that members of this group were left out: none of them runs any more.
    pub(crate) fn forget_left_out(&self, group: Id) {
        if self.has_revoked() {
            let mut revocations = self.0.revocations.borrow_mut();
            revocations.forget_left_out(group.root(), group.seq());
        }
    }

    /// Clears the suspects below revoked nodes: they are not admitted any more.
    pub(crate) fn clear_revoked_suspects(&self, root: Id) -> Result<(), StoreError> {
        let marks = self.marks(root);
        match marks.is_empty() {
            true => Ok(()),
            false => self.clear_suspects(root, |suspect| suspect.is_of(&marks)),
        }
    }

    fn clear_suspects(
        &self,
        root: Id,
        is_revoked: impl Fn(&NodeLocation) -> bool,
    ) -> Result<(), StoreError> {
        for suspect in self.suspects_of(root) {
            let location = self.reader().find(suspect)?;
            if location.is_some_and(|location| is_revoked(&location)) {
                self.clear_absent(suspect);
            }
        }
        Ok(())
    }

    /// Requests the cancellation of a running attempt.
    pub(crate) fn cancel(&self, key: TaskKey, attempt: u32) {
        let cancellations = &self.handle().cancellations;
        cancellations.cancel(key, attempt);
    }

    /// Ends an attempt whose task has lost its actor.
    pub(crate) fn end_attempt(&self, key: TaskKey, attempt: u32) {
        if !self.is_closed() {
            self.handle().cancellations.end(key, attempt);
        }
    }

    /// Drops a request to cancel an attempt that has ended; its task has received the end, or is
    /// gone.
    pub(crate) fn forget_cancellation(&self, key: TaskKey, attempt: u32) {
        self.handle().cancellations.forget(key, attempt);
    }
}
