//! The key table: one tree, a tag first, then the id, so that what belongs together lies together.
//!
//! | tag | rest of the key | value |
//! |---|---|---|
//! | `m` | name | meta: how often the store was opened; the latest id that was swept |
//! | `w` | root id | [`Head`](super::definition::Head): the workflow as submitted; its commit marker |
//! | `d` | group id, first index, part | members of a group too large to stand in the head |
//! | `s` | supervisor id, commit, part | a segment of its stream: what its children did in one commit |
//! | `p` | node id, part | a piece of a value too large for one record; from part 2^31 on, of a retry's arguments |
//! | `r` | root id | the workflow's result |
//! | `o` | root id | its root has ended, callbacks still run |
//! | `c` | root id | how many node numbers are taken |
//! | `i` | idempotency key | root id |
//!
//! A workflow's own children, its root and its callbacks, are recorded under the largest number.
//! Ids sort by the time of submission, so finished workflows are swept from the front.

use crate::canvas::id::{Id, Seq};

/// The tags of what a workflow consists of beside its head, its result and its idempotency key.
pub(crate) const PARTS: [u8; 4] = [b'd', b's', b'p', b'c'];

pub(crate) const META: &[u8] = b"m/store";
pub(crate) const LAST_SWEPT: &[u8] = b"m/last-swept";

/// One past the largest key of `tag`, and the smallest: a range for `Store::scan`.
pub(crate) fn all(tag: u8) -> (Vec<u8>, Vec<u8>) {
    (vec![tag], vec![tag + 1])
}

pub(crate) fn head(root: Id) -> Vec<u8> {
    with_id(b'w', root, &[])
}

pub(crate) fn members(group: Id, first: u64, part: u32) -> Vec<u8> {
    let mut key = with_id(b'd', group, &first.to_be_bytes());
    key.extend_from_slice(&part.to_be_bytes());
    key
}

pub(crate) fn segment(stream: Id, commit: u64, part: u32) -> Vec<u8> {
    let mut key = with_id(b's', stream, &commit.to_be_bytes());
    key.extend_from_slice(&part.to_be_bytes());
    key
}

/// The first part of what a retry gave a task as arguments: beside its result, because whichever is
/// written later must not touch the other before it is on record.
pub(crate) const ARGS: u32 = 1 << 31;

pub(crate) fn piece(node: Id, part: u32) -> Vec<u8> {
    with_id(b'p', node, &part.to_be_bytes())
}

pub(crate) fn result(root: Id) -> Vec<u8> {
    with_id(b'r', root, &[])
}

pub(crate) fn open(root: Id) -> Vec<u8> {
    with_id(b'o', root, &[])
}

pub(crate) fn counter(root: Id) -> Vec<u8> {
    with_id(b'c', root, &[])
}

pub(crate) fn idempotency(key: &str) -> Vec<u8> {
    let mut bytes = vec![b'i'];
    bytes.extend_from_slice(key.as_bytes());
    bytes
}

/// All keys of `tag` that belong to node `id`.
pub(crate) fn of_node(tag: u8, id: Id) -> (Vec<u8>, Vec<u8>) {
    let mut to = with_id(tag, id, &[]);
    // Nothing of this table follows an id with 0xFF nine times over.
    to.extend_from_slice(&[0xff; 13]);
    (with_id(tag, id, &[]), to)
}

/// All keys of `tag` that belong to any node of workflow `root`.
pub(crate) fn of_workflow(tag: u8, root: Id) -> (Vec<u8>, Vec<u8>) {
    let (_, to) = of_node(tag, root.node(crate::canvas::id::MAX_SEQ));
    (with_id(tag, root, &[]), to)
}

/// The id in a key, whatever its tag.
pub(crate) fn id_of(key: &[u8]) -> Option<Id> {
    Some(Id::from_bytes(key.get(1..17)?.try_into().ok()?))
}

/// The number behind the id in a key: a segment's commit, or the first index of stored members.
pub(crate) fn number_of(key: &[u8]) -> Option<u64> {
    Some(u64::from_be_bytes(key.get(17..25)?.try_into().ok()?))
}

/// The pseudo-group under which a root too large for its head is stored.
pub(crate) fn root_group(root: Id) -> Id {
    root.node(ROOT_GROUP)
}

const ROOT_GROUP: Seq = crate::canvas::id::MAX_SEQ;

fn with_id(tag: u8, id: Id, rest: &[u8]) -> Vec<u8> {
    let mut key = Vec::with_capacity(17 + rest.len());
    key.push(tag);
    key.extend_from_slice(&id.to_bytes());
    key.extend_from_slice(rest);
    key
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_of_a_workflow_lie_together_and_in_order() {
        let root = Id::next(None, 1_000, 5);
        let after = Id::next(Some(root), 1_000, 5);
        let (from, to) = of_workflow(b's', root);
        let mut keys = vec![
            segment(root, 0, 0),
            segment(root, u64::MAX, 9),
            segment(root.node(7), 3, 0),
            segment(root.node(7), 3, 1),
            segment(root.node(MAX), 1, 0),
        ];
        let sorted = keys.clone();
        keys.sort();
        assert_eq!(keys, sorted);
        assert!(keys.iter().all(|key| *key >= from && *key < to));
        assert!(segment(after, 0, 0) >= to);
        let (from, to) = of_node(b's', root.node(7));
        let inside: Vec<_> = keys
            .iter()
            .filter(|key| **key >= from && **key < to)
            .collect();
        assert_eq!(inside.len(), 2);
        assert_eq!(id_of(&keys[2]), Some(root.node(7)));
        assert_eq!(number_of(&keys[2]), Some(3));
    }

    const MAX: Seq = crate::canvas::id::MAX_SEQ;
}
