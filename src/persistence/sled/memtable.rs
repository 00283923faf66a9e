//! What is in the log and not yet in sled, in memory.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry::{Occupied, Vacant};
use std::fmt;
use std::iter::successors;
use std::ops::Bound;
use std::sync::Arc;

use crate::persistence::{Batch, Op};

/// What an entry is taken to cost beside its bytes.
const ENTRY: usize = 100;

/// The bounds of what is left of a walk.
pub(super) type Bounds<'a> = (Bound<&'a [u8]>, Bound<&'a [u8]>);
/// A key, and its value unless it was deleted.
pub(super) type Entry<'a> = (&'a [u8], Option<&'a [u8]>);

/// Which end of a range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    Front,
    Back,
}

/// The last word on each key that it knows.
#[derive(Default)]
pub(super) struct Memtable {
    entries: BTreeMap<Vec<u8>, Last>,
    /// About how many bytes of memory the entries take.
    weight: usize,
    /// The part of it that is not of deleted keys.
    live: usize,
}

/// The last word on a key.
struct Last {
    /// None if it was deleted.
    value: Option<Vec<u8>>,
    /// Nothing below knows the key: to delete it is to forget it.
    is_new: bool,
}

impl Last {
    fn weight(&self, key: usize) -> usize {
        key + ENTRY + self.value.as_ref().map_or(0, Vec::len)
    }

    fn live(&self, key: usize) -> usize {
        match self.value {
            Some(_) => self.weight(key),
            None => 0,
        }
    }
}

impl Memtable {
    /// Over what knows no key above these.
    fn apply(&mut self, batch: Batch, below: &MaxKeys) {
        for op in batch {
            match op {
                Op::Put(key, value) => self.put(key, value, below),
                Op::Delete(key) => self.delete(key, below),
            }
        }
    }

    fn put(&mut self, key: Vec<u8>, value: Vec<u8>, below: &MaxKeys) {
        let len = key.len();
        let value = Some(value);
        let (before, now) = match self.entries.entry(key) {
            Occupied(mut entry) => {
                let last = entry.get_mut();
                let before = (last.weight(len), last.live(len));
                last.value = value;
                (before, last.weight(len))
            }
            Vacant(entry) => {
                let is_new = below.are_below(entry.key());
                let last = entry.insert(Last { value, is_new });
                ((0, 0), last.weight(len))
            }
        };
        self.weight = self.weight + now - before.0;
        self.live = self.live + now - before.1;
    }

    fn delete(&mut self, key: Vec<u8>, below: &MaxKeys) {
        let len = key.len();
        match self.entries.entry(key) {
            Occupied(mut entry) => {
                let last = entry.get_mut();
                self.weight -= last.weight(len);
                self.live -= last.live(len);
                if last.is_new {
                    entry.remove();
                } else {
                    last.value = None;
                    self.weight += last.weight(len);
                }
            }
            Vacant(entry) if below.are_below(entry.key()) => {}
            Vacant(entry) => {
                let last = Last {
                    value: None,
                    is_new: false,
                };
                self.weight += last.weight(len);
                entry.insert(last);
            }
        }
    }

    /// All that is not deleted, as a batch.
    pub(super) fn survivors(&self) -> Batch {
        let mut batch = Batch::new();
        for (key, last) in &self.entries {
            if let Some(value) = &last.value {
                batch.put(key.clone(), value.clone());
            }
        }
        batch
    }

    fn keep_only_deletes(&mut self) {
        self.entries.retain(|_, last| last.value.is_none());
        self.weight -= self.live;
        self.live = 0;
    }

    /// The value of a key, `None` in it for a deleted one, or nothing if it knows nothing.
    pub(super) fn get(&self, key: &[u8]) -> Option<Option<&[u8]>> {
        self.entries.get(key).map(|last| last.value.as_deref())
    }

    /// The entries in order from a bound on.
    pub(super) fn from(&self, from: Bound<&[u8]>) -> impl Iterator<Item = Entry<'_>> {
        self.entries
            .range::<[u8], _>((from, Bound::Unbounded))
            .map(as_entry)
    }

    /// The last key below this one, or the last of all.
    fn last_before(&self, to: &[u8]) -> Option<&[u8]> {
        let to = match to {
            [] => Bound::Unbounded,
            to => Bound::Excluded(to),
        };
        let mut keys = self.entries.range::<[u8], _>((Bound::Unbounded, to));
        keys.next_back().map(|(key, _)| key.as_slice())
    }

    fn end(&self, end: End, bounds: Bounds<'_>) -> Option<Entry<'_>> {
        let mut range = self.entries.range::<[u8], _>(bounds);
        let entry = match end {
            End::Front => range.next(),
            End::Back => range.next_back(),
        };
        entry.map(as_entry)
    }

    pub(super) fn weight(&self) -> usize {
        self.weight
    }

    pub(super) fn live(&self) -> usize {
        self.live
    }
}

fn as_entry<'a>((key, last): (&'a Vec<u8>, &'a Last)) -> Entry<'a> {
    (key, last.value.as_deref())
}

/// Prints counts only.
impl fmt::Debug for Memtable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Memtable")
            .field("entries", &self.entries.len())
            .field("weight", &self.weight)
            .finish()
    }
}

/// The largest key under each first byte of what lies below. Ids rise, so most new keys are above.
#[derive(Default)]
pub(super) struct MaxKeys(BTreeMap<u8, Vec<u8>>);

impl MaxKeys {
    pub(super) fn raise(&mut self, key: Vec<u8>) {
        if let Some(first) = key.first()
            && self.are_below(&key)
        {
            self.0.insert(*first, key);
        }
    }

    /// Says whether what lies below cannot know this key.
    pub(super) fn are_below(&self, key: &[u8]) -> bool {
        match key.first() {
            Some(first) => self.0.get(first).is_none_or(|top| top.as_slice() < key),
            None => false,
        }
    }

    /// The same of all keys in these bounds.
    pub(super) fn are_below_all(&self, bounds: Bounds<'_>) -> bool {
        use Bound::{Excluded, Included};
        let (Included(from) | Excluded(from), Excluded(to)) = bounds else {
            return false;
        };
        let ends_with_tag = match (from.first(), to) {
            (Some(first), [end]) => first.checked_add(1) == Some(*end),
            (first, to) => first == to.first(),
        };
        ends_with_tag && self.are_below(from)
    }
}

/// Prints how many there are.
impl fmt::Debug for MaxKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("MaxKeys").field(&self.0.len()).finish()
    }
}

/// The overlays over sled, the newer one first.
#[derive(Debug, Default)]
pub(super) struct Memtables {
    active: Memtable,
    /// On its way into sled.
    frozen: Option<Arc<Memtable>>,
    /// Of that and of sled.
    tops: MaxKeys,
    /// Rises when the frozen one goes: what was read of sled before that may be older than what
    /// went with it.
    pub(super) epoch: u64,
}

impl Memtables {
    /// Nothing yet, over sled, in which these keys are the largest.
    pub(super) fn over(tops: MaxKeys) -> Self {
        Self {
            tops,
            ..Self::default()
        }
    }

    pub(super) fn active(&self) -> &Memtable {
        &self.active
    }

    pub(super) fn apply(&mut self, batch: Batch) {
        self.active.apply(batch, &self.tops);
    }

    /// Starts a new overlay over the present one. `survivors` move up to it, if there are any:
    /// then they are all of the present one but its deletes.
    pub(super) fn freeze(&mut self, survivors: Batch) -> Arc<Memtable> {
        assert!(self.frozen.is_none(), "one overlay is frozen at a time");
        let mut frozen = std::mem::take(&mut self.active);
        if !survivors.is_empty() {
            frozen.keep_only_deletes();
        }
        let tags = successors(frozen.last_before(&[]), |last| {
            frozen.last_before(last.get(..1)?)
        });
        tags.for_each(|last| self.tops.raise(last.to_vec()));
        self.active.apply(survivors, &self.tops);
        let frozen = Arc::new(frozen);
        self.frozen = Some(frozen.clone());
        frozen
    }

    /// Lets go of the frozen one, all of which sled holds now.
    #[must_use = "it may be large: drop it without the lock"]
    pub(super) fn drop_frozen(&mut self) -> Option<Arc<Memtable>> {
        self.epoch += 1;
        self.frozen.take()
    }

    /// The value of a key, as [`Memtable::get`]; nothing if sled has to be asked.
    pub(super) fn get(&self, key: &[u8]) -> Option<Option<&[u8]>> {
        let below = || self.frozen.as_ref()?.get(key);
        let nowhere = || self.tops.are_below(key).then_some(None);
        self.active.get(key).or_else(below).or_else(nowhere)
    }

    /// Says whether sled can have anything in these bounds.
    pub(super) fn reach_sled(&self, bounds: Bounds<'_>) -> bool {
        !self.tops.are_below_all(bounds)
    }

    /// The entry at one end of a range.
    pub(super) fn end(&self, end: End, bounds: Bounds<'_>) -> Option<Entry<'_>> {
        let below = self.frozen.as_ref().and_then(|o| o.end(end, bounds));
        match (self.active.end(end, bounds), below) {
            (Some(active), Some(below)) if end.is_nearer(below.0, active.0) => Some(below),
            (active, below) => active.or(below),
        }
    }
}

impl End {
    /// Says whether a walk from this end meets `one` before `other`.
    pub(super) fn is_nearer(self, one: &[u8], other: &[u8]) -> bool {
        match self {
            End::Front => one < other,
            End::Back => one > other,
        }
    }
}
