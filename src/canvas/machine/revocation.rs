//! Revocation: which nodes of the workflows in memory are revoked, and what whoever asked for it is
//! told.

use std::collections::HashMap;

use super::fold::is_run;
use super::{BODY, Index};
use crate::canvas::id::{Id, Seq};
use crate::canvas::outcome::Outcome;
use crate::canvas::revoke_outcome::RevokeOutcome;

/// Where a node stands among the children of its supervisor: the supervisor's number, and which of
/// its children it is.
pub(crate) type NodeKey = (Seq, Index);

/// The stand of child `index`: the runs of a fold's function are all of one node.
pub(crate) fn node_key(stream: Id, index: Index) -> NodeKey {
    let index = if is_run(index) { BODY } else { index };
    (stream.seq(), index)
}

/// The nodes that are revoked, by workflow: what they stand for starts no more, and how it ends is
/// no longer its own to say.
///
/// Invariant: a mark stays until its workflow has ended.
#[derive(Debug, Default)]
pub(crate) struct Revocations(HashMap<Id, HashMap<NodeKey, Mark>>);

#[derive(Debug, Default)]
struct Mark {
    /// Something of it was met that had not ended: then neither had the node, and it ends revoked.
    is_met: bool,
}

impl Revocations {
    /// Mostly so: then nobody need look any further.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The node at this place of workflow `root` is revoked; says whether that is new.
    pub(crate) fn mark(&mut self, root: Id, stand: NodeKey) -> bool {
        let marks = self.0.entry(root).or_default();
        let new = !marks.contains_key(&stand);
        marks.entry(stand).or_default();
        new
    }

    /// Says whether what stands here is revoked: itself, or one above it. `path`: its own stand and
    /// those above it. It has not ended.
    pub(crate) fn observe(&mut self, root: Id, path: impl IntoIterator<Item = NodeKey>) -> bool {
        let Some(marks) = self.0.get_mut(&root) else {
            return false;
        };
        let mut is_revoked = false;
        for stand in path {
            if let Some(mark) = marks.get_mut(&stand) {
                mark.is_met = true;
                is_revoked = true;
            }
        }
        is_revoked
    }

    /// Says whether something of the node at this place has been met since it was marked.
    pub(crate) fn has_met(&self, root: Id, stand: NodeKey) -> bool {
        let mark = self.0.get(&root).and_then(|marks| marks.get(&stand));
        mark.is_some_and(|mark| mark.is_met)
    }

    /// The marks of a workflow.
    pub(crate) fn of(&self, root: Id) -> Vec<NodeKey> {
        let marks = self.0.get(&root).into_iter().flatten();
        marks.map(|(stand, _)| *stand).collect()
    }

    /// The workflow has ended; says whether anything of it was revoked.
    pub(crate) fn forget(&mut self, root: Id) -> bool {
        self.0.remove(&root).is_some()
    }
}

/// What is to be told of a node that had not ended when it was marked, once that is on record.
/// `outcome`: how it has ended since; `has_begun`: a function of it was called, or may have been;
/// `is_settled`: something of it was met after the mark, or nothing is on its way any more. `None`: its
/// end may be on its way to its supervisor, so look again.
pub(crate) fn answer(
    outcome: Option<&Outcome>,
    has_begun: bool,
    is_settled: bool,
) -> Option<RevokeOutcome> {
    match outcome {
        Some(outcome) if !outcome.is_by_revocation() => Some(RevokeOutcome::AlreadyDone),
        _ if !has_begun => Some(RevokeOutcome::BeforeStart),
        _ => is_settled.then_some(RevokeOutcome::Cancelling),
    }
}
