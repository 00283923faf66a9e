//! Memtables: the entries that are in the log and not yet in the base.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry::{Occupied, Vacant};
use std::fmt;
use std::iter::successors;
use std::ops::Bound;
use std::sync::Arc;

use crate::persistence::store::{Batch, Op};

/// The assumed memory overhead of an entry, in bytes.
const ENTRY: usize = 100;

/// The bounds of the rest of a scan.
pub(crate) type Bounds<'a> = (Bound<&'a [u8]>, Bound<&'a [u8]>);
/// A key, and its value unless it was deleted.
pub(crate) type Entry<'a> = (&'a [u8], Option<&'a [u8]>);

/// An end of a range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    Front,
    Back,
}

/// The latest values of some keys.
#[derive(Default)]
pub(crate) struct Memtable {
    entries: BTreeMap<Vec<u8>, Latest>,
    /// The approximate memory that the entries take, in bytes.
    size: usize,
    /// The part of this that is not taken by deleted keys.
    live_size: usize,
}

/// The latest value of a key.
struct Latest {
    /// `None` if the key was deleted.
    value: Option<Vec<u8>>,
    /// Whether no layer below has the key: deleting it needs no tombstone.
    is_new: bool,
}

impl Latest {
    fn size(&self, key: usize) -> usize {
        key + ENTRY + self.value.as_ref().map_or(0, Vec::len)
    }

    fn live_size(&self, key: usize) -> usize {
        match self.value {
            Some(_) => self.size(key),
            None => 0,
        }
    }
}

impl Memtable {
    /// Applies a batch over layers that have no key above `below`.
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
                let before = (last.size(len), last.live_size(len));
                last.value = value;
                (before, last.size(len))
            }
            Vacant(entry) => {
                let is_new = below.are_below(entry.key());
                let last = entry.insert(Latest { value, is_new });
                ((0, 0), last.size(len))
            }
        };
        self.size = self.size + now - before.0;
        self.live_size = self.live_size + now - before.1;
    }

    fn delete(&mut self, key: Vec<u8>, below: &MaxKeys) {
        let len = key.len();
        match self.entries.entry(key) {
            Occupied(mut entry) => {
                let last = entry.get_mut();
                self.size -= last.size(len);
                self.live_size -= last.live_size(len);
                if last.is_new {
                    entry.remove();
                } else {
                    last.value = None;
                    self.size += last.size(len);
                }
            }
            Vacant(entry) if below.are_below(entry.key()) => {}
            Vacant(entry) => {
                let last = Latest {
                    value: None,
                    is_new: false,
                };
                self.size += last.size(len);
                entry.insert(last);
            }
        }
    }

    /// Returns all entries that are not deleted, as a batch.
    pub(crate) fn survivors(&self) -> Batch {
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
        self.size -= self.live_size;
        self.live_size = 0;
    }

    /// Returns the value of a key: `Some(None)` for a deleted key, `None` if the memtable has no
    /// entry.
    pub(crate) fn get(&self, key: &[u8]) -> Option<Option<&[u8]>> {
        self.entries.get(key).map(|last| last.value.as_deref())
    }

    /// Returns the entries in order, from a bound on.
    pub(crate) fn from(&self, from: Bound<&[u8]>) -> impl Iterator<Item = Entry<'_>> {
        self.entries
            .range::<[u8], _>((from, Bound::Unbounded))
            .map(as_entry)
    }

    /// Returns the last key below `to`, or the last of all if `to` is empty.
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

    pub(crate) fn size(&self) -> usize {
        self.size
    }

    pub(crate) fn live_size(&self) -> usize {
        self.live_size
    }
}

fn as_entry<'a>((key, last): (&'a Vec<u8>, &'a Latest)) -> Entry<'a> {
    (key, last.value.as_deref())
}

/// Prints counts only.
impl fmt::Debug for Memtable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Memtable")
            .field("entries", &self.entries.len())
            .field("size", &self.size)
            .finish()
    }
}

/// The largest key under each first byte in the layers below. Ids rise, so most new keys are above.
#[derive(Default)]
pub(crate) struct MaxKeys(BTreeMap<u8, Vec<u8>>);

impl MaxKeys {
    pub(crate) fn raise(&mut self, key: Vec<u8>) {
        if let Some(first) = key.first()
            && self.are_below(&key)
        {
            self.0.insert(*first, key);
        }
    }

    /// Returns whether the layers below cannot have this key.
    pub(crate) fn are_below(&self, key: &[u8]) -> bool {
        match key.first() {
            Some(first) => self.0.get(first).is_none_or(|top| top.as_slice() < key),
            None => false,
        }
    }

    /// Returns whether the layers below cannot have any key in these bounds.
    pub(crate) fn are_below_all(&self, bounds: Bounds<'_>) -> bool {
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

/// Prints the number of keys.
impl fmt::Debug for MaxKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("MaxKeys").field(&self.0.len()).finish()
    }
}

/// The memtables over the base, the newer one first.
#[derive(Debug, Default)]
pub(crate) struct Memtables {
    active: Memtable,
    /// The memtable that a checkpoint is moving into the base.
    frozen: Option<Arc<Memtable>>,
    /// The largest keys of the frozen memtable and of the base.
    max_keys: MaxKeys,
    /// Increased when the frozen memtable is dropped: pairs read from the base before that may be
    /// older than its entries.
    pub(crate) epoch: u64,
}

impl Memtables {
    /// Creates empty memtables over the base, whose largest keys are given.
    pub(crate) fn over(max_keys: MaxKeys) -> Self {
        Self {
            max_keys,
            ..Self::default()
        }
    }

    pub(crate) fn active(&self) -> &Memtable {
        &self.active
    }

    pub(crate) fn apply(&mut self, batch: Batch) {
        self.active.apply(batch, &self.max_keys);
    }

    /// Freezes the active memtable and starts a new one. If there are `survivors`, they move to the
    /// new memtable; they must be all entries of the frozen one except its deletes.
    pub(crate) fn freeze(&mut self, survivors: Batch) -> Arc<Memtable> {
        assert!(self.frozen.is_none(), "one memtable is frozen at a time");
        let mut frozen = std::mem::take(&mut self.active);
        if !survivors.is_empty() {
            frozen.keep_only_deletes();
        }
        let tags = successors(frozen.last_before(&[]), |last| {
            frozen.last_before(last.get(..1)?)
        });
        tags.for_each(|last| self.max_keys.raise(last.to_vec()));
        self.active.apply(survivors, &self.max_keys);
        let frozen = Arc::new(frozen);
        self.frozen = Some(frozen.clone());
        frozen
    }

    /// Drops the frozen memtable, all of which the base holds now.
    #[must_use = "it may be large: drop it without the lock"]
    pub(crate) fn drop_frozen(&mut self) -> Option<Arc<Memtable>> {
        self.epoch += 1;
        self.frozen.take()
    }

    /// Returns the value of a key as [`Memtable::get`] does; `None` if the base must be read.
    pub(crate) fn get(&self, key: &[u8]) -> Option<Option<&[u8]>> {
        let below = || self.frozen.as_ref()?.get(key);
        let nowhere = || self.max_keys.are_below(key).then_some(None);
        self.active.get(key).or_else(below).or_else(nowhere)
    }

    /// Returns whether the base can have a key in these bounds.
    pub(crate) fn reach_base(&self, bounds: Bounds<'_>) -> bool {
        !self.max_keys.are_below_all(bounds)
    }

    /// Returns the entry at one end of a range.
    pub(crate) fn end(&self, end: End, bounds: Bounds<'_>) -> Option<Entry<'_>> {
        let below = self.frozen.as_ref().and_then(|o| o.end(end, bounds));
        match (self.active.end(end, bounds), below) {
            (Some(active), Some(below)) if end.is_nearer(below.0, active.0) => Some(below),
            (active, below) => active.or(below),
        }
    }
}

impl End {
    /// Returns whether a scan from this end reaches `one` before `other`.
    pub(crate) fn is_nearer(self, one: &[u8], other: &[u8]) -> bool {
        match self {
            End::Front => one < other,
            End::Back => one > other,
        }
    }
}
