//! The stamps of a node: those that all tasks in it have.

use super::Reader;
use crate::canvas::freeze::{Def, FanOutDef, Members, Node};
use crate::canvas::id::Id;
use crate::canvas::stamps::Stamps;
use crate::persistence::StoreError;

impl Reader {
    /// Returns the stamps that all tasks of a node of workflow `root` have.
    pub(crate) fn stamps(&self, root: Id, node: &Node) -> Result<Stamps, StoreError> {
        let mut shared = None;
        self.share_stamps(root, node, &mut shared)?;
        Ok(shared.unwrap_or_default())
    }

    fn share_stamps(
        &self,
        root: Id,
        node: &Node,
        shared: &mut Option<Stamps>,
    ) -> Result<(), StoreError> {
        if shared.as_ref().is_some_and(Stamps::is_empty) {
            return Ok(());
        }
        match &node.def {
            Def::Task(task) => {
                let own = task.stamps();
                *shared = Some(match shared {
                    Some(shared) => shared.shared_with(own),
                    None => own.clone(),
                });
                Ok(())
            }
            Def::Chain(steps) => self.share_all(root, steps, shared),
            Def::Group(header) => self.share_of_members(root.node(node.seq), header, shared),
            Def::Chord { header, body } | Def::Fold { header, body, .. } => {
                self.share_of_members(root.node(node.seq), header, shared)?;
                self.share_stamps(root, body, shared)
            }
        }
    }

    fn share_all(
        &self,
        root: Id,
        nodes: &[Node],
        shared: &mut Option<Stamps>,
    ) -> Result<(), StoreError> {
        let mut nodes = nodes.iter();
        nodes.try_for_each(|node| self.share_stamps(root, node, shared))
    }

    fn share_of_members(
        &self,
        group: Id,
        header: &FanOutDef,
        shared: &mut Option<Stamps>,
    ) -> Result<(), StoreError> {
        let root = group.root();
        match &header.members {
            Members::Inline(members) => self.share_all(root, members, shared),
            Members::Each { template, .. } => self.share_stamps(root, template, shared),
            Members::Stored(count) => {
                let mut index = 0;
                while index < *count && !shared.as_ref().is_some_and(Stamps::is_empty) {
                    let (first, members) = self.stored_members(group, index)?;
                    index = first + members.len() as u64;
                    self.share_all(root, &members, shared)?;
                }
                Ok(())
            }
        }
    }
}
