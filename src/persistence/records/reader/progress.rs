//! The progress of a node that is to be revoked.

use std::ops::Range;

use super::find::{NodeLocation, Step};
use super::{Reader, Resolution};
use crate::canvas::freeze::{Def, FanOutDef, Members, Node};
use crate::canvas::id::{Id, Seq, WORKFLOW_STREAM};
use crate::canvas::machine::workflow::ROOT;
use crate::canvas::machine::{BODY, ChildProgress, Record, is_member};
use crate::canvas::revocation::NodeKey;
use crate::persistence::StoreError;
use crate::persistence::records::{codec, keys};

/// The key of a node, and its progress.
#[derive(Debug)]
pub(crate) struct Progress {
    pub(crate) node_key: NodeKey,
    pub(crate) resolution: Option<Resolution>,
    /// Whether a function of the node was called, or may have been. Always `false` if the node
    /// ended without being revoked.
    pub(crate) has_begun: bool,
}

impl Reader {
    /// Returns the progress of the node with this id, if there is one. The function of a fold
    /// stands for the fold: without its function a fold does nothing.
    pub(crate) fn progress(&self, id: Id) -> Result<Option<Progress>, StoreError> {
        let root = id.root();
        let Some(mut location) = self.find(id)? else {
            return Ok(None);
        };
        if let Some(step) = location.path.last().filter(|step| step.index == BODY)
            && let Some(parent) = self.find(root.node(step.stream))?
            && matches!(parent.node.def, Def::Fold { .. })
        {
            location = parent;
        }
        let Some(step) = location.path.last() else {
            return Ok(None);
        };
        let resolution = self.resolution(root, &location)?;
        let has_begun = match &resolution {
            Some(Resolution::Never) => false,
            Some(Resolution::Ended(outcome)) if !outcome.is_by_revocation() => false,
            Some(Resolution::Ended(_)) | None => self.has_begun(root, &location.node, step)?,
        };
        Ok(Some(Progress {
            node_key: step.node_key(),
            resolution,
            has_begun,
        }))
    }

    fn has_begun(&self, root: Id, node: &Node, step: &Step) -> Result<bool, StoreError> {
        for record in self.records(root.node(step.stream)) {
            if let Record::Child { index, change } = record?
                && index == step.index
                && has_started(&change)
            {
                return Ok(true);
            }
        }
        if let Def::Task(_) = node.def {
            return Ok(false);
        }
        // Numbers are given from the outside in, so all nodes within this one are numbered from its
        // own number on.
        let numbers = node.seq..self.end_of(root, node)?;
        let mut ranges = vec![numbers];
        while let Some(range) = ranges.pop() {
            if self.any_begun(root, range, &mut ranges)? {
                return Ok(true);
            }
        }
        self.has_begun_callback(root, step.node_key())
    }

    /// Returns whether a callback of a node within `within` has begun. The workflow supervises all
    /// callbacks, so their starts are in its stream.
    fn has_begun_callback(&self, root: Id, within: NodeKey) -> Result<bool, StoreError> {
        for record in self.records(root.workflow_stream()) {
            let Record::Child { index, change } = record? else {
                continue;
            };
            if index != ROOT
                && has_started(&change)
                && let Some(callback) = self.find(root.node(index))?
                && callback.owners().any(|step| step.node_key() == within)
            {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Returns whether a record of these nodes shows that one of them has begun. Appends to `more`
    /// the numbers of nodes that became known only when their group was reached.
    fn any_begun(
        &self,
        root: Id,
        nodes: Range<Seq>,
        more: &mut Vec<Range<Seq>>,
    ) -> Result<bool, StoreError> {
        let (from, _) = keys::of_node(b's', root.node(nodes.start));
        let (_, to) = keys::of_node(b's', root.node(nodes.end - 1));
        for pair in self.store.scan(&from, &to) {
            let (key, segment) = pair?;
            if keys::number_of(&key).is_none_or(|commit| commit > self.last_commit()) {
                continue;
            }
            for record in codec::segment_records(&key, &segment)? {
                match record {
                    Record::Child { change, .. } if has_started(&change) => return Ok(true),
                    Record::Expanded { first, size } if size > 0 => {
                        let group = keys::id_of(&key).map(|group| self.find(group));
                        if let Some(group) = group.transpose()?.flatten() {
                            let span = span_of(&group.node);
                            more.push(first..first + size * span);
                        }
                    }
                    _ => {}
                }
            }
        }
        Ok(false)
    }

    /// Returns the number after the last one within a node, among the numbers known at submission.
    fn end_of(&self, root: Id, node: &Node) -> Result<Seq, StoreError> {
        let fan_end = |fan: &FanOutDef| {
            let mut last = fan.own_errbacks().last().cloned();
            match &fan.members {
                Members::Inline(members) => last = members.last().cloned().or(last),
                Members::Stored(0) | Members::Each { .. } => {}
                Members::Stored(size) => {
                    last = Some(self.member(root.node(node.seq), size - 1)?);
                }
            }
            last.map_or(Ok(0), |last| self.end_of(root, &last))
        };
        let mut end = node.seq + 1;
        end = end.max(match &node.def {
            Def::Task(_) => 0,
            Def::Chain(steps) => match steps.last() {
                Some(last) => self.end_of(root, last)?,
                None => 0,
            },
            Def::Group(fan) => fan_end(fan)?,
            Def::Chord { header, body } | Def::Fold { header, body, .. } => {
                fan_end(header)?.max(self.end_of(root, body)?)
            }
        });
        if let Some(callbacks) = &node.callbacks {
            let last = [callbacks.link.last(), callbacks.link_error.last()];
            for last in last.into_iter().flatten() {
                end = end.max(self.end_of(root, last)?);
            }
        }
        Ok(end)
    }

    /// Returns whether a callback belongs to a node within one of these nodes that has not ended
    /// other than by being revoked. (A node's own callbacks are not within it.)
    pub(crate) fn is_within(
        &self,
        root: Id,
        callback: &NodeLocation,
        marks: &[NodeKey],
    ) -> Result<bool, StoreError> {
        for at in 0..callback.owners().count() {
            if marks.contains(&callback.path[at].node_key()) {
                let resolution = self.resolution_at(root, &callback.path[..=at])?;
                if !matches!(resolution, Some(Resolution::Ended(outcome)) if !outcome.is_by_revocation())
                {
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }
}

impl NodeLocation {
    /// Returns the nodes that a callback is within: those above the node that it belongs to.
    fn owners(&self) -> impl Iterator<Item = &Step> {
        let len = self.path.len().saturating_sub(2);
        self.path[..len].iter()
    }

    /// Returns whether it is a member of group `seq`, or within one. A callback is not: it runs whether or
    /// not the node that launched it is revoked.
    pub(crate) fn is_below_member(&self, seq: Seq) -> bool {
        let from_below = self.path.iter().rev();
        let mut steps = from_below.take_while(|step| step.stream != WORKFLOW_STREAM);
        steps.any(|step| step.stream == seq && is_member(step.index))
    }

    /// Returns whether it is one of these nodes, or within one.
    pub(crate) fn is_of(&self, marks: &[NodeKey]) -> bool {
        self.path
            .iter()
            .any(|step| marks.contains(&step.node_key()))
    }
}

fn has_started(change: &ChildProgress) -> bool {
    match change {
        ChildProgress::Started(_) => true,
        ChildProgress::Waiting { past, .. } | ChildProgress::WaitingUntil { past, .. } => {
            past.attempt > 0
        }
        ChildProgress::Done(_) => false,
    }
}

/// Returns how many numbers each member of a group takes if the members are known only when the
/// group is reached.
fn span_of(node: &Node) -> u64 {
    match &node.def {
        Def::Group(fan) | Def::Chord { header: fan, .. } | Def::Fold { header: fan, .. } => {
            match &fan.members {
                Members::Each { span, .. } => *span,
                Members::Inline(_) | Members::Stored(_) => 0,
            }
        }
        Def::Task(_) | Def::Chain(_) => 0,
    }
}
