//! What has to be known of a node that is to be revoked.

use std::ops::Range;

use super::find::{NodeLocation, Step};
use super::{Reader, Resolution};
use crate::canvas::freeze::{Def, FanOutDef, Members, Node};
use crate::canvas::id::{Id, Seq};
use crate::canvas::machine::revocation::NodeKey;
use crate::canvas::machine::workflow::ROOT;
use crate::canvas::machine::{BODY, ChildProgress, Record};
use crate::persistence::codec;
use crate::persistence::{StoreError, keys};

/// Where a node stands, and how far it has got.
#[derive(Debug)]
pub(crate) struct Progress {
    pub(crate) stand: NodeKey,
    pub(crate) fate: Option<Resolution>,
    /// A function of it was called, or may have been. Not looked for if it has ended of itself.
    pub(crate) has_begun: bool,
}

impl Reader {
    /// How far a node has got, if there is one with this id. What is the function of a fold is the
    /// fold: without it the fold is nothing.
    pub(crate) fn progress(&self, id: Id) -> Result<Option<Progress>, StoreError> {
        let root = id.root();
        let Some(mut found) = self.find(id)? else {
            return Ok(None);
        };
        if let Some(step) = found.path.last().filter(|step| step.index == BODY)
            && let Some(above) = self.find(root.node(step.stream))?
            && matches!(above.node.def, Def::Fold { .. })
        {
            found = above;
        }
        let Some(step) = found.path.last() else {
            return Ok(None);
        };
        let fate = self.resolution(root, &found)?;
        let has_begun = match &fate {
            Some(Resolution::Never) => false,
            Some(Resolution::Ended(outcome)) if !outcome.is_by_revocation() => false,
            Some(Resolution::Ended(_)) | None => self.has_begun(root, &found.node, step)?,
        };
        Ok(Some(Progress {
            stand: step.node_key(),
            fate,
            has_begun,
        }))
    }

    fn has_begun(&self, root: Id, node: &Node, step: &Step) -> Result<bool, StoreError> {
        for record in self.records(root.node(step.stream)) {
            if let Record::Child { index, change } = record?
                && index == step.index
                && is_begun(&change)
            {
                return Ok(true);
            }
        }
        if let Def::Task(_) = node.def {
            return Ok(false);
        }
        // Numbers go from the outside in, so all that is in it is numbered from its own on.
        let own = node.seq..self.end_of(root, node)?;
        let mut within = vec![own];
        while let Some(range) = within.pop() {
            if self.search_begun(root, range, &mut within)? {
                return Ok(true);
            }
        }
        self.has_begun_callback(root, step.node_key())
    }

    /// Says whether a callback has begun that was called for by what is within a node. The workflow is the
    /// supervisor of them all: their beginnings are in its stream.
    fn has_begun_callback(&self, root: Id, within: NodeKey) -> Result<bool, StoreError> {
        for record in self.records(root.workflow_stream()) {
            let Record::Child { index, change } = record? else {
                continue;
            };
            if index != ROOT
                && is_begun(&change)
                && let Some(callback) = self.find(root.node(index))?
                && callback.owners().any(|step| step.node_key() == within)
            {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Looks at what these nodes have recorded. `more`: is given the numbers of what became known
    /// only when they were reached.
    fn search_begun(
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
                    Record::Child { change, .. } if is_begun(&change) => return Ok(true),
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

    /// The number behind the last one within a node, of those that are known with it.
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

    /// Says whether a callback was called for by what is within one of these nodes, and that has not
    /// ended but by being revoked. (A node's own callbacks are not within it.)
    pub(crate) fn is_within(
        &self,
        root: Id,
        callback: &NodeLocation,
        marks: &[NodeKey],
    ) -> Result<bool, StoreError> {
        for at in 0..callback.owners().count() {
            if marks.contains(&callback.path[at].node_key()) {
                let fate = self.fate_at(root, &callback.path[..=at])?;
                if !matches!(fate, Some(Resolution::Ended(outcome)) if !outcome.is_by_revocation())
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
        let above = self.path.len().saturating_sub(2);
        self.path[..above].iter()
    }

    /// Says whether it is one of these nodes, or within one.
    pub(crate) fn is_of(&self, marks: &[NodeKey]) -> bool {
        self.path
            .iter()
            .any(|step| marks.contains(&step.node_key()))
    }
}

fn is_begun(change: &ChildProgress) -> bool {
    match change {
        ChildProgress::Started(_) => true,
        ChildProgress::Waiting { past, .. } | ChildProgress::WaitingUntil { past, .. } => {
            past.attempt > 0
        }
        ChildProgress::Done(_) => false,
    }
}

/// How many numbers each member takes of a group whose members are known when it is reached.
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
