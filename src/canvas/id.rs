//! Ids: one UUIDv7 per workflow. The id of a node is the workflow's id plus a number.

use std::fmt;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// The number of a node within its workflow. The root is 0.
pub(crate) type Seq = u64;

/// The number of low bits of an id that hold the [`Seq`].
const SEQ_BITS: u32 = 40;
const SEQ_MASK: u128 = (1 << SEQ_BITS) - 1;
/// Bits of the random part above the seq: the 12 of `rand_a` and 22 of `rand_b`.
const COUNTER_BITS: u32 = 34;

/// The largest node number: about 10^12 nodes fit one workflow.
pub(crate) const MAX_SEQ: Seq = SEQ_MASK as Seq;

/// The number under which a workflow's own children are recorded. No node has it.
pub(crate) const WORKFLOW_STREAM: Seq = MAX_SEQ;

/// The number under which the task that submitted a workflow is recorded. No node has this number
/// or a larger one.
pub(crate) const ORIGIN_STREAM: Seq = MAX_SEQ - 1;

/// The id of a workflow, or of a task, chain, group or chord in it: a UUIDv7.
///
/// The low 40 bits number the node within its workflow. So the id of every task, including the
/// chord's body, is fixed when the workflow is submitted; ids of one workflow sort together; and
/// the workflow of a task is found without an index.
///
/// ```
/// let id: chordal::Id = "0190a1b2-c3d4-7e5f-8a6b-7c0000000000".parse().unwrap();
/// assert_eq!(id.to_string(), "0190a1b2-c3d4-7e5f-8a6b-7c0000000000");
/// assert_eq!(id.root(), id);
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Id(Uuid);

impl Id {
    /// Returns the id of the workflow that this node belongs to (Celery's `root_id`).
    #[must_use]
    pub fn root(self) -> Self {
        Self(Uuid::from_u128(self.0.as_u128() & !SEQ_MASK))
    }

    /// Returns this id as a [`Uuid`].
    #[must_use]
    pub fn as_uuid(self) -> Uuid {
        self.0
    }

    /// Reads the text that [`Display`](fmt::Display) writes.
    pub(crate) fn parse(text: &str) -> Result<Self, uuid::Error> {
        text.parse().map(Self)
    }

    /// Returns the node's number within its workflow.
    pub(crate) fn seq(self) -> Seq {
        (self.0.as_u128() & SEQ_MASK) as Seq
    }

    /// Returns whether it has the form of a workflow's own id.
    pub(crate) fn is_of_workflow(self) -> bool {
        self == Self::from_parts(self.submitted_ms(), self.counter())
    }

    /// Returns the id of node `seq` of the same workflow.
    pub(crate) fn node(self, seq: Seq) -> Self {
        assert!(seq <= MAX_SEQ, "a workflow holds at most 2^40 nodes");
        Self(Uuid::from_u128(
            (self.0.as_u128() & !SEQ_MASK) | u128::from(seq),
        ))
    }

    /// Returns the stream of the workflow's own children: its root and its callbacks. It differs
    /// from the root's stream, in which the same indices are members or steps.
    pub(crate) fn workflow_stream(self) -> Self {
        self.node(WORKFLOW_STREAM)
    }

    /// Returns the stream that records the task that submitted the workflow, if a task did.
    pub(crate) fn origin_stream(self) -> Self {
        self.node(ORIGIN_STREAM)
    }

    /// Returns when the workflow was submitted, in milliseconds since the Unix epoch.
    pub(crate) fn submitted_ms(self) -> u64 {
        (self.0.as_u128() >> 80) as u64
    }

    /// Returns the big-endian bytes, which sort as the ids do.
    pub(crate) fn to_bytes(self) -> [u8; 16] {
        *self.0.as_bytes()
    }

    /// Returns the id with these big-endian bytes.
    pub(crate) fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(Uuid::from_bytes(bytes))
    }

    fn counter(self) -> u64 {
        let bits = self.0.as_u128();
        let rand_a = ((bits >> 64) & 0xfff) as u64;
        let rand_b = ((bits >> SEQ_BITS) & ((1 << 22) - 1)) as u64;
        (rand_a << 22) | rand_b
    }

    fn from_parts(ms: u64, counter: u64) -> Self {
        let rand_a = u128::from(counter >> 22) & 0xfff;
        let rand_b = u128::from(counter) & ((1 << 22) - 1);
        let version = 0x7 << 76;
        let variant = 0b10 << 62;
        let time = u128::from(ms & 0xffff_ffff_ffff) << 80;
        Self(Uuid::from_u128(
            time | version | rand_a << 64 | variant | rand_b << SEQ_BITS,
        ))
    }

    /// Returns the workflow id after `last`. It is later than `last` whatever the clock shows, so
    /// ids never repeat, even across restarts and clock steps (RFC 9562, section 6.2, method 1).
    pub(crate) fn next(last: Option<Self>, now_ms: u64, random: u64) -> Self {
        match last {
            Some(last) if last.submitted_ms() >= now_ms => {
                let counter = last.counter() + 1;
                if counter >> COUNTER_BITS == 0 {
                    Self::from_parts(last.submitted_ms(), counter)
                } else {
                    Self::from_parts(last.submitted_ms() + 1, 0)
                }
            }
            // The top bit starts clear, so at least 2^33 ids are left within this millisecond.
            _ => Self::from_parts(now_ms, random >> (64 - COUNTER_BITS + 1)),
        }
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl From<Uuid> for Id {
    fn from(uuid: Uuid) -> Self {
        Self(uuid)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::split_mix;

    #[test]
    fn ids_are_version_7_and_keep_their_parts() {
        let id = Id::next(None, 1_700_000_000_123, u64::MAX);
        assert_eq!(id.as_uuid().get_version_num(), 7);
        assert_eq!(id.as_uuid().get_variant(), uuid::Variant::RFC4122);
        assert_eq!(id.submitted_ms(), 1_700_000_000_123);
        assert_eq!(id.seq(), 0);
        let node = id.node(MAX_SEQ);
        assert_eq!((node.seq(), node.root()), (MAX_SEQ, id));
        assert_eq!(Id::from_bytes(node.to_bytes()), node);
    }

    #[test]
    fn ids_rise_when_the_clock_stands_still_or_steps_back() {
        let mut last = Id::next(None, 1_000, 7);
        for now in [1_000, 1_000, 400, 1_001, 999, 1_001] {
            let next = Id::next(Some(last), now, u64::MAX);
            assert!(next > last, "{next} after {last}");
            assert_eq!(next.as_uuid().get_version_num(), 7);
            last = next;
        }
    }

    #[test]
    fn a_million_ids_rise_over_restarts_with_clocks_that_jump() {
        let (mut last, mut now) = (None, 1_700_000_000_000_u64);
        for n in 0..1_000_000_u64 {
            let noise = split_mix::number(n);
            now = match noise % 1_000 {
                0 => now - noise % 90_000_000,
                1 => now + noise % 90_000_000,
                rest => now + u64::from(rest < 300),
            };
            let next = Id::next(last, now, noise);
            assert!(last < Some(next), "{n}: {next} after {last:?}");
            // After a restart only the stored id is known.
            last = Some(Id::from_bytes(next.to_bytes()));
        }
        println!("1000000 trials with ids");
    }

    #[test]
    fn a_full_counter_borrows_from_the_next_millisecond() {
        let full = Id::from_parts(5, (1 << COUNTER_BITS) - 1);
        let next = Id::next(Some(full), 5, 0);
        assert!(next > full);
        assert_eq!(next.submitted_ms(), 6);
    }
}
