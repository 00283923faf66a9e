//! What is in the log and not yet in sled, in memory.

use std::collections::BTreeMap;
use std::fmt;
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
pub(super) struct Overlay {
    entries: BTreeMap<Vec<u8>, Option<Vec<u8>>>,
    /// About how many bytes of memory the entries take.
    weight: usize,
    /// The part of it that is not of deleted keys.
    live: usize,
}

impl Overlay {
    pub(super) fn apply(&mut self, batch: Batch) {
        for op in batch {
            match op {
                Op::Put(key, value) => self.insert(key, Some(value)),
                Op::Delete(key) => self.insert(key, None),
            }
        }
    }

    fn insert(&mut self, key: Vec<u8>, value: Option<Vec<u8>>) {
        let bare = key.len() + ENTRY;
        let live = |value: &Option<Vec<u8>>| value.as_ref().map_or(0, |value| bare + value.len());
        let dead = |value: &Option<Vec<u8>>| if value.is_none() { bare } else { 0 };
        self.live += live(&value);
        self.weight += live(&value) + dead(&value);
        if let Some(old) = self.entries.insert(key, value) {
            self.live -= live(&old);
            self.weight -= live(&old) + dead(&old);
        }
    }

    /// All that is not deleted, as a batch.
    pub(super) fn survivors(&self) -> Batch {
        let mut batch = Batch::new();
        for (key, value) in &self.entries {
            if let Some(value) = value {
                batch.put(key.clone(), value.clone());
            }
        }
        batch
    }

    fn keep_only_deletes(&mut self) {
        self.entries.retain(|_, value| value.is_none());
        self.weight -= self.live;
        self.live = 0;
    }

    /// The value of a key, `None` in it for a deleted one, or nothing if it knows nothing.
    pub(super) fn get(&self, key: &[u8]) -> Option<Option<&[u8]>> {
        self.entries.get(key).map(Option::as_deref)
    }

    /// The entries in order from a bound on.
    pub(super) fn from(&self, from: Bound<&[u8]>) -> impl Iterator<Item = Entry<'_>> {
        self.entries
            .range::<[u8], _>((from, Bound::Unbounded))
            .map(|(key, value)| (key.as_slice(), value.as_deref()))
    }

    fn end(&self, end: End, bounds: Bounds<'_>) -> Option<Entry<'_>> {
        let mut range = self.entries.range::<[u8], _>(bounds);
        let entry = match end {
            End::Front => range.next(),
            End::Back => range.next_back(),
        };
        entry.map(|(key, value)| (key.as_slice(), value.as_deref()))
    }

    pub(super) fn weight(&self) -> usize {
        self.weight
    }

    pub(super) fn live(&self) -> usize {
        self.live
    }
}

/// Prints counts only.
impl fmt::Debug for Overlay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Overlay")
            .field("entries", &self.entries.len())
            .field("weight", &self.weight)
            .finish()
    }
}

/// The overlays over sled, the newer one first.
#[derive(Debug, Default)]
pub(super) struct Layers {
    active: Overlay,
    /// On its way into sled.
    frozen: Option<Arc<Overlay>>,
    /// Rises when the frozen one goes: what was read of sled before that may be older than what
    /// went with it.
    pub(super) epoch: u64,
}

impl Layers {
    pub(super) fn new(active: Overlay) -> Self {
        Self {
            active,
            ..Self::default()
        }
    }

    pub(super) fn active(&self) -> &Overlay {
        &self.active
    }

    pub(super) fn apply(&mut self, batch: Batch) {
        self.active.apply(batch);
    }

    /// Starts a new overlay over the present one. `survivors` move up to it, if there are any:
    /// then they are all of the present one but its deletes.
    pub(super) fn freeze(&mut self, survivors: Batch) -> Arc<Overlay> {
        assert!(self.frozen.is_none(), "one overlay is frozen at a time");
        let mut frozen = std::mem::take(&mut self.active);
        if !survivors.is_empty() {
            frozen.keep_only_deletes();
            self.active.apply(survivors);
        }
        let frozen = Arc::new(frozen);
        self.frozen = Some(frozen.clone());
        frozen
    }

    /// Lets go of the frozen one, all of which sled holds now.
    #[must_use = "it may be large: drop it without the lock"]
    pub(super) fn thaw(&mut self) -> Option<Arc<Overlay>> {
        self.epoch += 1;
        self.frozen.take()
    }

    pub(super) fn get(&self, key: &[u8]) -> Option<Option<&[u8]>> {
        let below = || self.frozen.as_ref()?.get(key);
        self.active.get(key).or_else(below)
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
