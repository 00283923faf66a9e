//! The definition of a stored workflow, read so that another workflow can have it.

use super::Reader;
use crate::canvas::id::{Id, Seq};
use crate::persistence::records::definition::{Definition, WorkflowHeader};
use crate::persistence::records::keys;
use crate::persistence::{Pair, StoreError};

/// How far the records of a definition have been read: the key of the last one.
pub(crate) type LastRead = Option<Vec<u8>>;

impl Reader {
    /// Returns what workflow `root` was submitted with, without its idempotency key.
    pub(crate) fn definition(&self, root: Id) -> Result<Option<Definition>, StoreError> {
        let Some(header) = self.header(root)? else {
            return Ok(None);
        };
        let node = self.root_of(root, header.clone())?;
        let header = WorkflowHeader {
            idempotency_key: None,
            ..header
        };
        let definition = Definition { header, root: node };
        Ok(Some(definition))
    }

    /// Returns the records of that definition which are not in its header, some `bytes` at a time,
    /// under the keys of workflow `to`; none after the last. `next` is the number of its nodes.
    pub(crate) fn copy_parts(
        &self,
        root: Id,
        to: Id,
        next: Seq,
        last: &mut LastRead,
        bytes: usize,
    ) -> Result<Vec<Pair>, StoreError> {
        let (mut copied, mut size) = (Vec::new(), 0);
        // Behind the numbers of its nodes are those of what its tasks have started.
        let (first, _) = keys::of_node(b'd', root);
        let (end, _) = keys::of_node(b'd', root.node(next));
        for (from, end) in [(first, end), keys::of_node(b'd', keys::root_group(root))] {
            let from = last
                .as_ref()
                .filter(|last| **last > from)
                .map_or(from, |last| {
                    let mut after = last.clone();
                    after.push(0);
                    after
                });
            if from >= end {
                continue;
            }
            for pair in self.store.scan(&from, &end) {
                let (key, value) = pair?;
                let Some(node) = keys::id_of(&key) else {
                    continue;
                };
                size += key.len() + value.len();
                copied.push((keys::moved(&key, to.node(node.seq())), value));
                *last = Some(key);
                if size >= bytes {
                    return Ok(copied);
                }
            }
        }
        Ok(copied)
    }
}
