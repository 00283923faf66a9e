//! A submitted workflow: its header, and the records of the parts too large for the header.

use serde::{Deserialize, Serialize};

use super::codec;
use super::keys;
use super::member_pages::{INLINE, MemberPage, PageBuilder, paged};
use crate::canvas::Canvas;
use crate::canvas::admission::pending_limit::Load;
use crate::canvas::freeze::{CanvasError, Catalogue, Freezer, Node, SubtaskPlan};
use crate::canvas::id::{Id, Seq};
use crate::canvas::machine::{Index, Purpose, Record};
use crate::persistence::Pair;

/// The record that makes a submission valid: all its other records are written before it, or with
/// it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct WorkflowHeader {
    /// `None`: the root is stored as the one member of the root group.
    pub(crate) root: Option<Node>,
    pub(crate) idempotency_key: Option<String>,
    /// The number of node numbers given out at submission; the members of an `each()` are numbered
    /// later.
    pub(crate) next: Seq,
    /// The bytes that the workflow takes in the store, without its results.
    pub(crate) bytes: u64,
}

impl WorkflowHeader {
    pub(crate) fn load(&self) -> Load {
        Load {
            tasks: self.next,
            bytes: self.bytes,
        }
    }
}

/// A workflow whose records are stored, except for the header.
#[derive(Debug)]
pub(crate) struct Definition {
    pub(crate) header: WorkflowHeader,
    /// The root in the form in which it runs: large groups are by reference.
    pub(crate) root: Node,
}

/// The pages of a submission: an iterator over the records that are written before the header, one
/// page at a time. It draws the canvas as far as the next page. After the last page
/// [`finish`](Self::finish) returns the definition; without its header the next open sweeps the
/// records.
pub(crate) struct DefinitionPages<'a> {
    root_id: Id,
    idempotency_key: Option<String>,
    freezer: Freezer<'a, PageBuilder>,
    /// The size of the records so far, in bytes.
    bytes: usize,
    definition: Option<Definition>,
}

impl<'a> DefinitionPages<'a> {
    pub(crate) fn new(
        root_id: Id,
        canvas: Canvas,
        idempotency_key: Option<String>,
        catalogue: &'a dyn Catalogue,
    ) -> Self {
        Self {
            root_id,
            idempotency_key,
            freezer: Freezer::new(canvas, catalogue),
            bytes: 0,
            definition: None,
        }
    }

    /// Returns the number of nodes so far.
    pub(crate) fn drawn(&self) -> Seq {
        self.freezer.drawn()
    }

    /// Returns the definition, once all pages are drawn.
    pub(crate) fn finish(self) -> Definition {
        self.definition
            .expect("the pages are drawn to their end, and none is an error")
    }

    /// Draws the whole canvas; returns all records but the header.
    pub(crate) fn all(mut self) -> Result<(Vec<Pair>, Definition), CanvasError> {
        let mut records = Vec::new();
        for page in &mut self {
            records.extend(page?);
        }
        Ok((records, self.finish()))
    }

    fn records(&mut self, page: &MemberPage) -> Vec<Pair> {
        let records: Vec<_> = page.records(self.root_id).collect();
        let sizes = records.iter().map(|(key, value)| key.len() + value.len());
        self.bytes += sizes.sum::<usize>();
        records
    }

    /// Completes the definition. Returns the page of a root that is too large for the header.
    fn complete(&mut self) -> Option<Vec<Pair>> {
        let root = self.freezer.root()?;
        let size = codec::length(&root);
        let is_inline = size <= INLINE;
        let page = (!is_inline).then(|| {
            let page = MemberPage::of_one(keys::root_group(self.root_id), 0, &root);
            self.records(&page)
        });
        self.bytes += if is_inline { size } else { 0 };
        self.definition = Some(Definition {
            header: WorkflowHeader {
                root: is_inline.then(|| root.clone()),
                idempotency_key: self.idempotency_key.take(),
                next: self.drawn(),
                bytes: self.bytes as u64,
            },
            root,
        });
        page
    }
}

impl Iterator for DefinitionPages<'_> {
    type Item = Result<Vec<Pair>, CanvasError>;

    fn next(&mut self) -> Option<Self::Item> {
        match self.freezer.next() {
            Some(page) => Some(page.map(|page| self.records(&page))),
            None => self.complete().map(Ok),
        }
    }
}

/// A subtask, ready to be stored.
#[derive(Debug)]
pub(crate) struct StoredSubtask {
    /// The subtask in the form in which it runs: large groups are by reference.
    pub(crate) node: Node,
    pub(crate) record: Record,
    /// Records to be written together with `record`.
    pub(crate) segments: Vec<Pair>,
}

impl StoredSubtask {
    /// Prepares child `index` of a task, whose nodes are numbered from `first` on.
    pub(crate) fn new(
        task: Id,
        index: Index,
        purpose: Purpose,
        key: String,
        plan: &SubtaskPlan,
        first: Seq,
    ) -> Self {
        let (node, mut pages) = paged(plan.node.shifted(first));
        let recorded = (codec::length(&node) <= INLINE).then(|| Box::new(node.clone()));
        if recorded.is_none() {
            // A task has no members, so this key is free.
            pages.push_back(MemberPage::of_one(task, index, &node));
        }
        let root = task.root();
        Self {
            node,
            record: Record::Offspring {
                index,
                purpose,
                key,
                node: recorded,
            },
            segments: pages.iter().flat_map(|page| page.records(root)).collect(),
        }
    }
}
