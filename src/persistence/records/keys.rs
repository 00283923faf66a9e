//! The table of keys. All records are in one tree; a key starts with a tag, then mostly an id, so
//! that related records are adjacent.
//!
//! | tag | rest of the key | value |
//! |---|---|---|
//! | `m` | name | meta: how often the store was opened, and how the last app over it ended; how much is pending; the latest id that was swept; what the clocks showed; the last starts under each limit; the entries of schedules; the mark of an unfinished import |
//! | `b` | root id | [`Waiting`](super::backlog::Waiting): a workflow that waits for lane capacity or for its time |
//! | `w` | root id | [`WorkflowHeader`](super::definition::WorkflowHeader) of a live workflow, as submitted; its commit marker |
//! | `e` | end in ms on the steady scale, root id | the header of a workflow that has ended, including its callbacks |
//! | `q` | lane, 9 − priority, root id | the queue position of a waiting workflow |
//! | `t` | ms, root id | a workflow waits for that point in time |
//! | `u` | ms, root id | a workflow waits for a delay that ends then, on the [steady scale](super::steady) |
//! | `d` | group id, first index, part | members of a group too large for the header |
//! | `s` | supervisor id, commit, part | a segment of the supervisor's stream: what its children did in one commit |
//! | `p` | node id, part | a piece of a value too large for one record; from part 2^31 on, of a retry's arguments |
//! | `r` | root id | the workflow's result |
//! | `c` | root id | how many node numbers are taken |
//! | `i` | idempotency key | root id |
//! | `k` | task id | [`Suspect`](crate::canvas::quarantine::Suspect): a task that was running when a process ended |
//! | `g` | task id | the latest [update](super::updates) of a running task |
//! | `x` | root id | a garbage marker: the workflow has no header, or none yet, and its records are to be deleted |
//!
//! [`LATER`] are the tags that later versions may add.
//!
//! A header moves from `b` through `w` to `e`, in the batches that record these changes. So live
//! workflows are found without reading waiting or ended ones, and ended ones are swept from the
//! front. The workflow's own children, its root and its callbacks, are recorded under the largest
//! node number.

use crate::canvas::id::{Id, Seq};
use crate::canvas::time::{Moment, Scale};

/// The tags of a workflow's records except for its header, its result and its idempotency key.
pub(crate) const PARTS: [u8; 4] = [b'd', b's', b'p', b'c'];

/// Tags for records that later versions may add: the clock of commits, an index of failed
/// workflows, what a workflow's submission carries beside its header, and the last errors of
/// retries. Records that exist stay as they are, so a build that knows such a tag reads every older
/// store.
pub(crate) const LATER: [u8; 4] = [b'a', b'f', b'h', b'l'];

pub(crate) const META: &[u8] = b"m/store";
pub(crate) const LIFE: &[u8] = b"m/life";
pub(crate) const STOPPING: &[u8] = b"m/stopping";
pub(crate) const CLOCK: &[u8] = b"m/clock";
pub(crate) const PENDING: &[u8] = b"m/pending";
pub(crate) const LAST_SWEPT: &[u8] = b"m/last-swept";
pub(crate) const IMPORTING: &[u8] = b"m/importing";
/// Before the kind and the name of a [limit](super::starts).
pub(crate) const STARTS: &[u8] = b"m/starts/";

/// Before the kind and the name of a queue or task that is [controlled](super::controls).
pub(crate) const CONTROLS: &[u8] = b"m/controls/";
/// Before the name of an [entry](super::schedules).
pub(crate) const SCHEDULES: &[u8] = b"m/schedules/";

/// Before the name of a [breaker](super::breakers).
pub(crate) const BREAKERS: &[u8] = b"m/breakers/";

/// Returns the range of all records of [breakers](super::breakers).
pub(crate) fn all_breakers() -> (Vec<u8>, Vec<u8>) {
    all_behind(BREAKERS)
}

/// Returns the range of all records of [entries](super::schedules).
pub(crate) fn all_schedules() -> (Vec<u8>, Vec<u8>) {
    all_behind(SCHEDULES)
}

/// Returns the range of all records of [starts](super::starts).
pub(crate) fn all_starts() -> (Vec<u8>, Vec<u8>) {
    all_behind(STARTS)
}

/// Returns the range of all records of [controls](super::controls).
pub(crate) fn all_controls() -> (Vec<u8>, Vec<u8>) {
    all_behind(CONTROLS)
}

/// Returns the range of all keys that begin with `prefix`, which ends in a slash.
fn all_behind(prefix: &[u8]) -> (Vec<u8>, Vec<u8>) {
    let mut end = prefix.to_vec();
    *end.last_mut().expect("it is not empty") += 1;
    (prefix.to_vec(), end)
}

/// Returns the smallest key of `tag` and the end of its keys, as a range for `Store::scan`.
pub(crate) fn all(tag: u8) -> (Vec<u8>, Vec<u8>) {
    (vec![tag], vec![tag + 1])
}

pub(crate) fn header(root: Id) -> Vec<u8> {
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

/// The first part of a retry's arguments. They are stored beside the task's result: the later of
/// the two must not overwrite the earlier before it is on record.
pub(crate) const ARGS: u32 = 1 << 31;

pub(crate) fn piece(node: Id, part: u32) -> Vec<u8> {
    with_id(b'p', node, &part.to_be_bytes())
}

pub(crate) fn result(root: Id) -> Vec<u8> {
    with_id(b'r', root, &[])
}

/// Returns the key of a waiting workflow's header.
pub(crate) fn waiting(root: Id) -> Vec<u8> {
    with_id(b'b', root, &[])
}

/// Returns the key of the header of a workflow that ended at `at_ms`.
pub(crate) fn ended(at_ms: u64, root: Id) -> Vec<u8> {
    timed(b'e', at_ms, root)
}

/// Returns the moment and the workflow in a key of [`ended`] or [`due`].
pub(crate) fn timed_of(key: &[u8]) -> Option<(u64, Id)> {
    let at_ms = u64::from_be_bytes(key.get(1..9)?.try_into().ok()?);
    Some((at_ms, Id::from_bytes(key.get(9..25)?.try_into().ok()?)))
}

/// Returns the key that makes a workflow wait for this moment.
pub(crate) fn due(moment: Moment, root: Id) -> Vec<u8> {
    timed(due_tag(moment.scale), moment.ms, root)
}

/// Returns the tag of the workflows that wait for a moment on this scale.
pub(crate) fn due_tag(scale: Scale) -> u8 {
    match scale {
        Scale::Wall => b't',
        Scale::Steady => b'u',
    }
}

/// Returns the key of a workflow's queue position in its lane.
pub(crate) fn queued(lane: &str, priority: u8, root: Id) -> Vec<u8> {
    let mut key = lane_prefix(lane);
    key.push(9u8.saturating_sub(priority));
    key.extend_from_slice(&root.to_bytes());
    key
}

/// Returns the range of all [queue positions](queued) of a lane.
pub(crate) fn queued_in(lane: &str) -> (Vec<u8>, Vec<u8>) {
    let from = lane_prefix(lane);
    let mut to = from.clone();
    to.push(0xff);
    (from, to)
}

/// Returns the range of the [queue positions](queued) of one priority in a lane.
pub(crate) fn queued_at(lane: &str, priority: u8) -> (Vec<u8>, Vec<u8>) {
    let mut from = lane_prefix(lane);
    let mut to = from.clone();
    from.push(9u8.saturating_sub(priority));
    to.push(10u8.saturating_sub(priority));
    (from, to)
}

/// Returns the lane and the workflow in a key of [`queued`].
pub(crate) fn queued_of(key: &[u8]) -> Option<(&str, Id)> {
    let len = u32::from_be_bytes(key.get(1..5)?.try_into().ok()?) as usize;
    let lane = std::str::from_utf8(key.get(5..5 + len)?).ok()?;
    let root = key.get(5 + len + 1..)?.try_into().ok()?;
    Some((lane, Id::from_bytes(root)))
}

pub(crate) fn suspect(task: Id) -> Vec<u8> {
    with_id(b'k', task, &[])
}

pub(crate) fn update(task: Id) -> Vec<u8> {
    with_id(b'g', task, &[])
}

pub(crate) fn garbage_marker(root: Id) -> Vec<u8> {
    with_id(b'x', root, &[])
}

pub(crate) fn counter(root: Id) -> Vec<u8> {
    with_id(b'c', root, &[])
}

pub(crate) fn idempotency(key: &str) -> Vec<u8> {
    let mut bytes = vec![b'i'];
    bytes.extend_from_slice(key.as_bytes());
    bytes
}

/// Returns the range of all keys of `tag` that belong to node `id`.
pub(crate) fn of_node(tag: u8, id: Id) -> (Vec<u8>, Vec<u8>) {
    let mut to = with_id(tag, id, &[]);
    // No key of this table continues an id with thirteen bytes 0xFF.
    to.extend_from_slice(&[0xff; 13]);
    (with_id(tag, id, &[]), to)
}

/// Returns the range of all keys of `tag` that belong to any node of workflow `root`.
pub(crate) fn of_workflow(tag: u8, root: Id) -> (Vec<u8>, Vec<u8>) {
    let (_, to) = of_node(tag, root.node(crate::canvas::id::MAX_SEQ));
    (with_id(tag, root, &[]), to)
}

/// Returns the id in a key that has one behind its tag.
pub(crate) fn id_of(key: &[u8]) -> Option<Id> {
    Some(Id::from_bytes(key.get(1..17)?.try_into().ok()?))
}

/// Returns a key that has an id behind its tag, with this id instead.
pub(crate) fn moved(key: &[u8], id: Id) -> Vec<u8> {
    let mut moved = key.to_vec();
    moved[1..17].copy_from_slice(&id.to_bytes());
    moved
}

/// Returns the number behind the id in a key: a segment's commit, or the first index of stored
/// members.
pub(crate) fn number_of(key: &[u8]) -> Option<u64> {
    Some(u64::from_be_bytes(key.get(17..25)?.try_into().ok()?))
}

/// Returns the commit and the part in the key of a segment.
pub(crate) fn commit_and_part_of(key: &[u8]) -> Option<(u64, u32)> {
    let part = u32::from_be_bytes(key.get(25..29)?.try_into().ok()?);
    Some((number_of(key)?, part))
}

/// Returns the pseudo-group under which a root too large for its header is stored.
pub(crate) fn root_group(root: Id) -> Id {
    root.node(ROOT_GROUP)
}

const ROOT_GROUP: Seq = crate::canvas::id::MAX_SEQ;

fn timed(tag: u8, at_ms: u64, root: Id) -> Vec<u8> {
    let mut key = Vec::with_capacity(25);
    key.push(tag);
    key.extend_from_slice(&at_ms.to_be_bytes());
    key.extend_from_slice(&root.to_bytes());
    key
}

/// Starts a key of a lane. The length goes first, so that no lane's range contains keys of another
/// lane.
fn lane_prefix(lane: &str) -> Vec<u8> {
    let mut key = Vec::with_capacity(22 + lane.len());
    key.push(b'q');
    key.extend_from_slice(&(lane.len() as u32).to_be_bytes());
    key.extend_from_slice(lane.as_bytes());
    key
}

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
    fn keys_of_a_workflow_are_adjacent_and_in_order() {
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

    #[test]
    fn queue_positions_sort_by_priority_then_submission_and_lanes_do_not_mix() {
        let first = Id::next(None, 1_000, 5);
        let second = Id::next(Some(first), 1_000, 5);
        let urgent = queued("mail", 9, second);
        assert!(urgent < queued("mail", 0, first));
        assert!(queued("mail", 0, first) < queued("mail", 0, second));
        assert_eq!(queued_of(&urgent), Some(("mail", second)));
        let (from, to) = queued_in("mail");
        assert!(from < urgent && queued("mail", 0, second) < to);
        for other in ["mai", "mail2", "", "nail"] {
            let key = queued(other, 5, first);
            assert!(key < from || key >= to, "{other}");
        }
        assert_eq!(timed_of(&ended(7, first)), Some((7, first)));
        assert!(due(Moment::wall(255), second) < due(Moment::wall(256), first));
    }

    const MAX: Seq = crate::canvas::id::MAX_SEQ;
}
