//! Revocation: what is marked, and who is to hear of it.

use super::Shell;
use crate::actors::dispatcher::Ready;
use crate::actors::roll::Ticket;
use crate::canvas::id::Id;
use crate::canvas::machine::revocation::Stand;
use crate::messages::task::Look;

impl Shell {
    /// Says whether anything at all is revoked: mostly not.
    pub(crate) fn has_revoked(&self) -> bool {
        !self.0.revocations.borrow().is_empty()
    }

    /// Says whether what stands here, and has not ended, is revoked; see
    /// [`Revocations::meets`](crate::canvas::machine::revocation::Revocations::meets).
    pub(crate) fn is_revoked(&self, root: Id, path: impl IntoIterator<Item = Stand>) -> bool {
        self.has_revoked() && self.0.revocations.borrow_mut().meets(root, path)
    }

    /// Marks a node as revoked; says whether that is new.
    pub(crate) fn mark(&self, root: Id, stand: Stand) -> bool {
        self.0.revocations.borrow_mut().mark(root, stand)
    }

    /// The marked nodes of a workflow.
    pub(crate) fn marks(&self, root: Id) -> Vec<Stand> {
        self.0.revocations.borrow().of(root)
    }

    /// Says whether something of a marked node was met that had not ended.
    pub(crate) fn has_met(&self, root: Id, stand: Stand) -> bool {
        self.0.revocations.borrow().has_met(root, stand)
    }

    /// Has all that waits or runs in a workflow find out whether it is revoked.
    pub(crate) fn tell_of_marks(&self, root: Id) {
        let is_revoked = |ready: &Ready| match ready {
            Ready::New(child) => child.root == root && self.is_revoked(root, child.path()),
            Ready::Known(_) => false,
        };
        let waiting = self.0.dispatcher.borrow_mut().take_out(is_revoked);
        for ready in waiting {
            if let Ready::New(mut child) = ready {
                child.revoke();
            }
        }
        for task in self.0.roll.borrow().of_workflow(root) {
            task.do_send(Look);
        }
    }

    /// Tells a running attempt that it is to end.
    pub(crate) fn cancel(&self, ticket: Ticket, attempt: u32) {
        let cancellations = &self.shared().plant().cancellations;
        cancellations.cancel(ticket, attempt);
    }

    /// Ends an attempt whose task has lost its actor.
    pub(crate) fn end_attempt(&self, ticket: Ticket, attempt: u32) {
        if !self.is_closed() {
            self.shared().plant().cancellations.end(ticket, attempt);
        }
    }

    /// An attempt has ended, and its task has heard so, or is gone.
    pub(crate) fn attempt_has_ended(&self, ticket: Ticket, attempt: u32) {
        self.shared().plant().cancellations.forget(ticket, attempt);
    }
}
