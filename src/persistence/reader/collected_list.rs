//! What the members of a group gave, in member order, though it is stored in the order of commits.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use super::{Reader, missing};
use crate::canvas::id::Id;
use crate::canvas::machine::{ChildProgress, Index, Purpose, Record};
use crate::canvas::outcome::{Outcome, Value};
use crate::canvas::payload::Payload;
use crate::persistence::codec::{self, LineContent};
use crate::persistence::{StoreError, keys};

/// So many members are read at a time: they started in order, so their outcomes lie close together,
/// and each segment is read about once.
const BATCH: usize = 1_024;

/// The outcomes of a group's members, one after the other; behind each, those of what it added. It
/// holds four bytes per member, and a batch of outcomes.
#[derive(Clone)]
pub(crate) struct CollectedList {
    group: Id,
    places: Arc<Places>,
    /// How many outcomes have not been taken.
    left: u64,
    /// The first member that has not been read.
    next: usize,
    ready: VecDeque<Outcome>,
}

/// Where the outcome of each member stands.
struct Places {
    /// The segments of the stream: commit and part.
    segments: Vec<(u64, u32)>,
    /// Which of them, for each member.
    of: Vec<u32>,
}

/// Of a member that has not ended.
const NOWHERE: u32 = u32::MAX;

impl CollectedList {
    /// The list of `group`, which had `size` members at first, all of which have ended.
    pub(crate) fn open(reader: &Reader, group: Id, size: u64) -> Result<Self, StoreError> {
        let size = size as usize;
        let mut places = Places {
            segments: Vec::new(),
            of: vec![NOWHERE; size],
        };
        // Most groups are small: then this look is the only one.
        let mut first: Vec<Option<Outcome>> = vec![None; size.min(BATCH)];
        let mut left = size as u64;
        for segment in reader.segments_after(group, None) {
            let (key, value) = segment?;
            let number = places.segments.len() as u32;
            places.segments.push(place_of(group, &key)?);
            let value = Payload::from(value);
            for line in codec::lines(&key, value.bytes())? {
                let Some(end) = End::of(line?) else { continue };
                let index = end.index as usize;
                if places.of.get(index) != Some(&NOWHERE) {
                    continue;
                }
                places.of[index] = number;
                if let Ending::Outcome(outcome @ Outcome::Success(Value::Extended { .. })) =
                    &end.with
                {
                    let mut all = Vec::new();
                    reader.spread(group.root(), outcome.clone(), &mut all)?;
                    left += all.len() as u64 - 1;
                }
                if let Some(slot) = first.get_mut(index) {
                    *slot = Some(end.into_outcome(&value));
                }
            }
        }
        if let Some(index) = places.of.iter().position(|place| *place == NOWHERE) {
            return Err(missing(group, &format!("outcome of member {index}")));
        }
        let mut gathered = Self {
            group,
            places: Arc::new(places),
            left,
            next: first.len(),
            ready: VecDeque::new(),
        };
        gathered.make_ready(reader, first)?;
        Ok(gathered)
    }

    /// How many outcomes are left.
    pub(crate) fn len(&self) -> u64 {
        self.left
    }

    pub(crate) fn group(&self) -> Id {
        self.group
    }

    /// After an error nothing can be said of what follows.
    pub(crate) fn next(&mut self, reader: &Reader) -> Option<Result<Outcome, StoreError>> {
        if self.ready.is_empty()
            && self.next < self.places.of.len()
            && let Err(error) = self.read_on(reader)
        {
            return Some(Err(error));
        }
        let outcome = self.ready.pop_front()?;
        self.left -= 1;
        Some(Ok(outcome))
    }

    fn read_on(&mut self, reader: &Reader) -> Result<(), StoreError> {
        let from = self.next;
        let to = (from + BATCH).min(self.places.of.len());
        let mut segments = self.places.of[from..to].to_vec();
        segments.sort_unstable();
        segments.dedup();
        let mut batch = vec![None; to - from];
        for segment in segments {
            let (commit, part) = self.places.segments[segment as usize];
            let key = keys::segment(self.group, commit, part);
            let value = reader.store.get(&key)?;
            let value = value.ok_or_else(|| missing(self.group, "segment of its stream"))?;
            let value = Payload::from(value);
            for line in codec::lines(&key, value.bytes())? {
                let Some(end) = End::of(line?) else { continue };
                let slot = (end.index as usize).checked_sub(from);
                if let Some(slot @ None) = slot.and_then(|at| batch.get_mut(at)) {
                    *slot = Some(end.into_outcome(&value));
                }
            }
        }
        self.next = to;
        self.make_ready(reader, batch)
    }

    fn make_ready(
        &mut self,
        reader: &Reader,
        batch: Vec<Option<Outcome>>,
    ) -> Result<(), StoreError> {
        let mut all = Vec::new();
        for outcome in batch {
            let outcome = outcome.ok_or_else(|| missing(self.group, "outcome of a member"))?;
            match outcome {
                Outcome::Success(Value::Extended { .. }) => {
                    reader.spread(self.group.root(), outcome, &mut all)?;
                    self.ready.extend(all.drain(..));
                }
                outcome => self.ready.push_back(outcome),
            }
        }
        Ok(())
    }
}

fn place_of(group: Id, key: &[u8]) -> Result<(u64, u32), StoreError> {
    keys::commit_and_part_of(key).ok_or_else(|| missing(group, "place in the key of a segment"))
}

/// How a child has ended, by a line of a segment.
struct End<'a> {
    index: Index,
    with: Ending<'a>,
}

enum Ending<'a> {
    /// Part of the segment.
    Value(&'a [u8]),
    Outcome(Outcome),
}

impl<'a> End<'a> {
    fn of(line: LineContent<'a>) -> Option<Self> {
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

    /// The outcome, which shares the bytes of the segment.
    fn into_outcome(self, segment: &Payload) -> Outcome {
        match self.with {
            Ending::Value(value) => Outcome::Success(Value::Inline(segment.part(value))),
            Ending::Outcome(outcome) => outcome,
        }
    }
}

impl Reader {
    /// A member's outcome, and those of what it added to its chord, itself or by what took its
    /// place or was added.
    pub(crate) fn spread(
        &self,
        root: Id,
        outcome: Outcome,
        out: &mut Vec<Outcome>,
    ) -> Result<(), StoreError> {
        // Not recursive: what is added may add, and what takes a place may add, thousands deep.
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

    /// How the additions of a task ended, in order.
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
    use crate::persistence::commit_builder::CommitBuilder;
    use crate::persistence::{MemoryStore, Store};

    /// `commits`: the members that ended in each.
    fn stored(commits: &[Vec<u64>]) -> (Reader, Id) {
        let store = MemoryStore::new();
        let group = Id::next(None, 1, 1).node(7);
        for (commit, members) in (1..).zip(commits) {
            let mut draft = CommitBuilder::default();
            for index in members {
                let value = Value::Inline(Payload::encode(index).unwrap());
                let change = ChildProgress::Done(Outcome::Success(value));
                draft.record(
                    group,
                    Record::Child {
                        index: *index,
                        change,
                    },
                );
            }
            store.apply(draft.take(commit).0).unwrap();
        }
        (Reader::new(Arc::new(store)), group)
    }

    fn values(reader: &Reader, group: Id, size: u64) -> Vec<u64> {
        let mut list = CollectedList::open(reader, group, size).unwrap();
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
        // A prime step goes round all members, near to each other in no commit.
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
    fn the_first_word_of_a_member_counts() {
        let (reader, group) = stored(&[vec![1], vec![0, 1]]);
        assert_eq!(values(&reader, group, 2), [0, 1]);
    }

    #[test]
    fn a_member_without_an_outcome_is_an_error() {
        let (reader, group) = stored(&[vec![0, 2]]);
        let error = CollectedList::open(&reader, group, 3)
            .err()
            .unwrap()
            .to_string();
        assert!(error.ends_with("no outcome of member 1"), "{error}");
    }

    #[test]
    fn a_member_takes_four_bytes() {
        let (reader, group) = stored(&[(0..4_000).collect()]);
        let list = CollectedList::open(&reader, group, 4_000).unwrap();
        assert_eq!(size_of_val(&list.places.of[..]), 16_000);
        assert!(list.places.segments.len() < 40);
        assert_eq!(list.ready.len(), BATCH);
    }
}
