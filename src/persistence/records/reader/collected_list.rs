//! The outcomes of a group's members in member order, although they are stored in the order of
//! commits.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use super::{Reader, missing};
use crate::canvas::id::Id;
use crate::canvas::machine::{ChildProgress, Index, Purpose, Record};
use crate::canvas::outcome::{ListOf, Outcome, Value};
use crate::canvas::payload::Payload;
use crate::persistence::StoreError;
use crate::persistence::records::codec::{self, LineContent};
use crate::persistence::records::keys;

/// The number of members read at a time: they started in order, so their outcomes are close
/// together, and each segment is read about once.
const BATCH: usize = 1_024;

/// The outcomes of a group's members, one after the other; each member's additions follow it. The
/// list holds four bytes per member, and one batch of outcomes.
#[derive(Clone)]
pub(crate) struct CollectedList {
    group: Id,
    of: ListOf,
    locations: Arc<Locations>,
    /// The number of outcomes that have not been taken.
    left: u64,
    /// The first member that has not been read.
    next: usize,
    ready: VecDeque<Outcome>,
}

/// The location of each member's outcome.
struct Locations {
    /// The segments of the stream: commit and part.
    segments: Vec<(u64, u32)>,
    /// The position in `segments`, for each member.
    of_member: Vec<u32>,
}

/// The position of a member that is not in the list.
const NOWHERE: u32 = u32::MAX;

impl CollectedList {
    /// Opens the list of `group`, which had `size` members at first. All of them have ended, unless it is a
    /// list [of successes](ListOf::Successes).
    pub(crate) fn open(
        reader: &Reader,
        group: Id,
        size: u64,
        of: ListOf,
    ) -> Result<Self, StoreError> {
        let size = size as usize;
        let mut locations = Locations {
            segments: Vec::new(),
            of_member: vec![NOWHERE; size],
        };
        // Most groups are small: for them, this pass is the only one.
        let mut first: Vec<Option<Outcome>> = vec![None; size.min(BATCH)];
        let mut left = 0;
        for segment in reader.segments_after(group, None) {
            let (key, value) = segment?;
            let position = locations.segments.len() as u32;
            locations.segments.push(location_of(group, &key)?);
            let value = Payload::from(value);
            for line in codec::lines(&key, value.bytes())? {
                let Some(end) = End::in_list(line?, of) else {
                    continue;
                };
                let index = end.index as usize;
                if locations.of_member.get(index) != Some(&NOWHERE) {
                    continue;
                }
                locations.of_member[index] = position;
                left += 1;
                if let Ending::Outcome(outcome @ Outcome::Success(Value::Extended { .. })) =
                    &end.with
                {
                    let mut all = Vec::new();
                    reader.flatten(group.root(), outcome.clone(), &mut all)?;
                    left += all.len() as u64 - 1;
                }
                if let Some(slot) = first.get_mut(index) {
                    *slot = Some(end.into_outcome(&value));
                }
            }
        }
        let mut of_member = locations.of_member.iter();
        if of != ListOf::Successes
            && let Some(index) = of_member.position(|position| *position == NOWHERE)
        {
            return Err(missing(group, &format!("outcome of member {index}")));
        }
        let mut list = Self {
            group,
            of,
            locations: Arc::new(locations),
            left,
            next: first.len(),
            ready: VecDeque::new(),
        };
        list.queue_outcomes(reader, first)?;
        Ok(list)
    }

    /// Returns the number of outcomes left.
    pub(crate) fn len(&self) -> u64 {
        self.left
    }

    pub(crate) fn group(&self) -> Id {
        self.group
    }

    /// Returns the next outcome. After an error the further results are meaningless.
    pub(crate) fn next(&mut self, reader: &Reader) -> Option<Result<Outcome, StoreError>> {
        // (A batch of members that have all failed is no part of a list of successes.)
        while self.ready.is_empty() && self.next < self.locations.of_member.len() {
            if let Err(error) = self.read_batch(reader) {
                return Some(Err(error));
            }
        }
        let outcome = self.ready.pop_front()?;
        self.left -= 1;
        Some(Ok(outcome))
    }

    fn read_batch(&mut self, reader: &Reader) -> Result<(), StoreError> {
        let from = self.next;
        let to = (from + BATCH).min(self.locations.of_member.len());
        let mut segments = self.locations.of_member[from..to].to_vec();
        segments.sort_unstable();
        segments.dedup();
        segments.retain(|segment| *segment != NOWHERE);
        let mut batch = vec![None; to - from];
        for segment in segments {
            let (commit, part) = self.locations.segments[segment as usize];
            let key = keys::segment(self.group, commit, part);
            let value = reader.store.get(&key)?;
            let value = value.ok_or_else(|| missing(self.group, "segment of its stream"))?;
            let value = Payload::from(value);
            for line in codec::lines(&key, value.bytes())? {
                let Some(end) = End::in_list(line?, self.of) else {
                    continue;
                };
                let slot = (end.index as usize).checked_sub(from);
                if let Some(slot @ None) = slot.and_then(|at| batch.get_mut(at)) {
                    *slot = Some(end.into_outcome(&value));
                }
            }
        }
        self.next = to;
        self.queue_outcomes(reader, batch)
    }

    fn queue_outcomes(
        &mut self,
        reader: &Reader,
        batch: Vec<Option<Outcome>>,
    ) -> Result<(), StoreError> {
        let mut all = Vec::new();
        for outcome in batch {
            match outcome {
                None if self.of == ListOf::Successes => {}
                None => return Err(missing(self.group, "outcome of a member")),
                Some(outcome @ Outcome::Success(Value::Extended { .. })) => {
                    reader.flatten(self.group.root(), outcome, &mut all)?;
                    self.ready.extend(all.drain(..));
                }
                Some(outcome) => self.ready.push_back(outcome),
            }
        }
        Ok(())
    }
}

fn location_of(group: Id, key: &[u8]) -> Result<(u64, u32), StoreError> {
    keys::commit_and_part_of(key).ok_or_else(|| missing(group, "position in the key of a segment"))
}

/// The end of a child, as a line of a segment records it.
pub(super) struct End<'a> {
    pub(super) index: Index,
    with: Ending<'a>,
}

enum Ending<'a> {
    /// A part of the segment.
    Value(&'a [u8]),
    Outcome(Outcome),
}

impl<'a> End<'a> {
    pub(super) fn of(line: LineContent<'a>) -> Option<Self> {
        let (index, with) = match line {
            LineContent::Value(index, value) => (index, Ending::Value(value)),
            LineContent::Record(Record::Child {
                index,
                change: ChildProgress::Done(outcome),
            }) => (index, Ending::Outcome(outcome)),
            _ => return None,
        };
        Some(Self { index, with })
    }

    /// Returns the end of a member that is in such a list.
    fn in_list(line: LineContent<'a>, of: ListOf) -> Option<Self> {
        let end = Self::of(line)?;
        let has_failed = matches!(
            end.with,
            Ending::Outcome(Outcome::Failure(_) | Outcome::Revoked(_))
        );
        (of != ListOf::Successes || !has_failed).then_some(end)
    }

    /// Converts to an outcome that shares the bytes of the segment.
    pub(super) fn into_outcome(self, segment: &Payload) -> Outcome {
        match self.with {
            Ending::Value(value) => Outcome::Success(Value::Inline(segment.part(value))),
            Ending::Outcome(outcome) => outcome,
        }
    }
}

impl Reader {
    /// Flattens a member's outcome: appends it, then the outcomes of what it added to its chord,
    /// also through replacements and additions of its own.
    pub(crate) fn flatten(
        &self,
        root: Id,
        outcome: Outcome,
        out: &mut Vec<Outcome>,
    ) -> Result<(), StoreError> {
        // Not recursive: additions may add, and replacements may add, thousands deep.
        let mut left = vec![outcome];
        while let Some(outcome) = left.pop() {
            match outcome {
                Outcome::Success(Value::Extended { own, seqs }) => {
                    for seq in seqs.into_iter().rev() {
                        left.extend(self.additions(root.node(seq))?.into_iter().rev());
                    }
                    left.push(Outcome::Success(*own));
                }
                outcome => out.push(outcome),
            }
        }
        Ok(())
    }

    /// Returns the outcomes of a task's additions, in order.
    fn additions(&self, task: Id) -> Result<Vec<Outcome>, StoreError> {
        let mut additions = BTreeMap::new();
        for record in self.records(task) {
            match record? {
                Record::Offspring {
                    index,
                    purpose: Purpose::Addition,
                    ..
                } => drop(additions.entry(index).or_insert(None)),
                Record::Child {
                    index,
                    change: ChildProgress::Done(outcome),
                } => {
                    if let Some(ended) = additions.get_mut(&index) {
                        ended.get_or_insert(outcome);
                    }
                }
                _ => {}
            }
        }
        Ok(additions.into_values().flatten().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::persistence::records::commit_builder::CommitBuilder;
    use crate::persistence::{MemoryStore, Store};

    /// Stores a group; `commits` lists the members that ended in each commit.
    fn stored(commits: &[Vec<u64>]) -> (Reader, Id) {
        let store = MemoryStore::new();
        let group = Id::next(None, 1, 1).node(7);
        for (commit, members) in (1..).zip(commits) {
            let mut builder = CommitBuilder::default();
            for index in members {
                let value = Value::Inline(Payload::encode(index).unwrap());
                let change = ChildProgress::Done(Outcome::Success(value));
                builder.record(
                    group,
                    Record::Child {
                        index: *index,
                        change,
                    },
                );
            }
            store.apply(builder.take(commit).0).unwrap();
        }
        (Reader::new(Arc::new(store)), group)
    }

    fn values(reader: &Reader, group: Id, size: u64) -> Vec<u64> {
        let mut list = CollectedList::open(reader, group, size, ListOf::Values).unwrap();
        assert_eq!(list.len(), size);
        let mut values = Vec::new();
        while let Some(outcome) = list.next(reader) {
            match outcome.unwrap() {
                Outcome::Success(Value::Inline(payload)) => values.push(payload.decode().unwrap()),
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(list.len(), 0);
        values
    }

    #[test]
    fn outcomes_come_in_member_order_whatever_the_order_of_commits() {
        const SIZE: u64 = 5_000;
        // A prime step visits all members, and no commit holds adjacent ones.
        let scattered: Vec<u64> = (0..SIZE).map(|i| i * 1_237 % SIZE).collect();
        let late: Vec<u64> = (1..SIZE).chain([0]).collect();
        let reversed: Vec<u64> = (0..SIZE).rev().collect();
        for order in [scattered, late, reversed] {
            for together in [1, 7, 700, 5_000] {
                let commits: Vec<_> = order.chunks(together).map(<[_]>::to_vec).collect();
                let (reader, group) = stored(&commits);
                let expected: Vec<u64> = (0..SIZE).collect();
                assert_eq!(values(&reader, group, SIZE), expected);
            }
        }
    }

    #[test]
    fn the_first_outcome_of_a_member_counts() {
        let (reader, group) = stored(&[vec![1], vec![0, 1]]);
        assert_eq!(values(&reader, group, 2), [0, 1]);
    }

    #[test]
    fn a_member_without_an_outcome_is_an_error() {
        let (reader, group) = stored(&[vec![0, 2]]);
        let error = CollectedList::open(&reader, group, 3, ListOf::Outcomes)
            .err()
            .unwrap()
            .to_string();
        assert!(error.ends_with("no outcome of member 1"), "{error}");
    }

    #[test]
    fn the_list_holds_four_bytes_per_member() {
        let (reader, group) = stored(&[(0..4_000).collect()]);
        let list = CollectedList::open(&reader, group, 4_000, ListOf::Values).unwrap();
        assert_eq!(size_of_val(&list.locations.of_member[..]), 16_000);
        assert!(list.locations.segments.len() < 40);
        assert_eq!(list.ready.len(), BATCH);
    }
}
