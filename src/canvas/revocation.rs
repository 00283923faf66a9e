//! Revocation: the revoked nodes of the workflows in memory, and the outcome that the caller of
//! `revoke` receives.

use std::collections::{HashMap, HashSet};

use super::id::{Id, Seq};
use super::machine::fold_run::is_run;
use super::machine::{BODY, Index, is_member};
use super::outcome::Outcome;
use super::revoke_outcome::RevokeOutcome;

/// Identifies a node: the number of its supervisor and its index among the supervisor's children.
pub(crate) type NodeKey = (Seq, Index);

/// Returns the key of child `index`. All runs of a fold's function belong to one node.
pub(crate) fn node_key(stream: Id, index: Index) -> NodeKey {
    let index = if is_run(index) { BODY } else { index };
    (stream.seq(), index)
}

/// The revoked nodes, by workflow. No task of a revoked node starts any more, and the node ends as
/// revoked whatever it returns.
///
/// Invariant: a mark stays until its workflow has ended.
#[derive(Debug, Default)]
pub(crate) struct Revocations {
    marks: HashMap<Id, HashMap<NodeKey, Mark>>,
    /// The groups whose barriers have decided early, by workflow, until the last of their members
    /// has ended: all members that have not ended are revoked.
    decided_early: HashMap<Id, HashSet<Seq>>,
}

#[derive(Debug, Default)]
struct Mark {
    /// A part of the node that had not ended was found after the mark was set: so the node had not
    /// ended either, and it ends as revoked.
    is_met: bool,
}

impl Revocations {
    /// Returns whether no node is revoked, which is the common case and saves the look-up.
    pub(crate) fn is_empty(&self) -> bool {
        self.marks.is_empty() && self.decided_early.is_empty()
    }

    /// Marks a node of workflow `root` as revoked; returns whether the mark is new.
    pub(crate) fn mark(&mut self, root: Id, node_key: NodeKey) -> bool {
        let marks = self.marks.entry(root).or_default();
        let new = !marks.contains_key(&node_key);
        marks.entry(node_key).or_default();
        new
    }

    /// Returns whether an unended node or one of its ancestors is revoked, and notes on their marks
    /// that an unended node was found. `path`: the keys of the node and its ancestors.
    pub(crate) fn observe(&mut self, root: Id, path: impl IntoIterator<Item = NodeKey>) -> bool {
        let decided_early = self.decided_early.get(&root);
        let mut marks = self.marks.get_mut(&root);
        if marks.is_none() && decided_early.is_none() {
            return false;
        }
        let mut is_revoked = false;
        for node_key @ (stream, index) in path {
            if let Some(mark) = marks.as_mut().and_then(|marks| marks.get_mut(&node_key)) {
                mark.is_met = true;
                is_revoked = true;
            }
            let is_left_out = decided_early.is_some_and(|groups| groups.contains(&stream));
            is_revoked |= is_left_out && is_member(index);
        }
        is_revoked
    }

    /// Returns whether an unended part of this node was found since it was marked.
    pub(crate) fn has_met(&self, root: Id, node_key: NodeKey) -> bool {
        let mark = self.marks.get(&root).and_then(|marks| marks.get(&node_key));
        mark.is_some_and(|mark| mark.is_met)
    }

    /// Returns the marks of a workflow.
    pub(crate) fn of(&self, root: Id) -> Vec<NodeKey> {
        let marks = self.marks.get(&root).into_iter().flatten();
        marks.map(|(node_key, _)| *node_key).collect()
    }

    /// Removes the marks of an ended workflow; returns whether it had any.
    pub(crate) fn forget(&mut self, root: Id) -> bool {
        let decided_early = self.decided_early.remove(&root);
        self.marks.remove(&root).is_some() || decided_early.is_some()
    }

    /// Revokes the members of group `group` that have not ended.
    pub(crate) fn leave_out_rest(&mut self, root: Id, group: Seq) {
        self.decided_early.entry(root).or_default().insert(group);
    }

    /// Forgets the members of a group: none of them runs any more.
    pub(crate) fn forget_left_out(&mut self, root: Id, group: Seq) {
        if let Some(groups) = self.decided_early.get_mut(&root) {
            groups.remove(&group);
            if groups.is_empty() {
                self.decided_early.remove(&root);
            }
        }
    }
}

/// Returns the answer to `revoke` for a node that had not ended when it was marked; the mark is
/// durable. `outcome`: how the node has ended since. `has_begun`: a function below it was called,
/// or may have been. `is_settled`: something below it was found after the mark, or no report of it
/// is under way any more. `None`: its end may be on its way to its supervisor, so ask again.
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
