//! A store in memory, for tests and caches.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Bound;
use std::sync::Arc;

use parking_lot::RwLock;

use crate::persistence::store::{Batch, Durability, Op, Pair, Scan, Store, StoreError};

type Pairs = RwLock<BTreeMap<Vec<u8>, Vec<u8>>>;
type Bounds<'a> = (Bound<&'a [u8]>, Bound<&'a [u8]>);

/// Keeps everything in memory; a clone is another handle to the same data.
///
/// Dropping a handle and going on with its clone is how a test "reopens" it.
///
/// # Examples
/// ```
/// # use chordal::persistence::{Batch, MemoryStore, Store};
/// let store = MemoryStore::new();
/// let reopened = store.clone();
/// let mut batch = Batch::new();
/// batch.put("k", "v");
/// store.apply(batch)?;
/// drop(store);
/// assert_eq!(reopened.get(b"k")?.as_deref(), Some(&b"v"[..]));
/// # Ok::<(), chordal::StoreError>(())
/// ```
#[derive(Clone, Default)]
pub struct MemoryStore {
    pairs: Arc<Pairs>,
}

impl MemoryStore {
    /// Makes an empty store.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }
}

/// Prints the count, never the bytes.
impl fmt::Debug for MemoryStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryStore")
            .field("pairs", &self.pairs.read().len())
            .finish()
    }
}

impl Store for MemoryStore {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(self.pairs.read().get(key).cloned())
    }

    fn scan(&self, from: &[u8], to: &[u8]) -> Scan<'_> {
        if from >= to {
            return Box::new(std::iter::empty());
        }
        Box::new(MemoryScan {
            pairs: &self.pairs,
            from: Bound::Included(from.to_vec()),
            to: to.to_vec(),
        })
    }

    fn apply(&self, batch: Batch) -> Result<(), StoreError> {
        let mut pairs = self.pairs.write();
        for op in batch {
            match op {
                Op::Put(key, value) => pairs.insert(key, value),
                Op::Delete(key) => pairs.remove(&key),
            };
        }
        Ok(())
    }

    fn sync(&self, _: Durability) -> Result<(), StoreError> {
        Ok(())
    }
}

/// Takes the lock for one step at a time, so that the caller may write between two steps. Such
/// writes are visible to later steps, as in [`SledStore`](crate::persistence::SledStore).
struct MemoryScan<'a> {
    pairs: &'a Pairs,
    from: Bound<Vec<u8>>,
    /// Exclusive.
    to: Vec<u8>,
}

impl MemoryScan<'_> {
    fn bounds(&self) -> Option<Bounds<'_>> {
        // `BTreeMap::range` panics on (Excluded(k), Excluded(k)): the two ends have met.
        if matches!(&self.from, Bound::Excluded(last) if *last >= self.to) {
            return None;
        }
        Some((
            self.from.as_ref().map(Vec::as_slice),
            Bound::Excluded(&self.to),
        ))
    }
}

impl Iterator for MemoryScan<'_> {
    type Item = Result<Pair, StoreError>;

    fn next(&mut self) -> Option<Self::Item> {
        let bounds = self.bounds()?;
        let (key, value) = self
            .pairs
            .read()
            .range::<[u8], _>(bounds)
            .next()
            .map(owned)?;
        self.from = Bound::Excluded(key.clone());
        Some(Ok((key, value)))
    }
}

impl DoubleEndedIterator for MemoryScan<'_> {
    fn next_back(&mut self) -> Option<Self::Item> {
        let bounds = self.bounds()?;
        let (key, value) = self
            .pairs
            .read()
            .range::<[u8], _>(bounds)
            .next_back()
            .map(owned)?;
        self.to.clone_from(&key);
        Some(Ok((key, value)))
    }
}

fn owned((key, value): (&Vec<u8>, &Vec<u8>)) -> Pair {
    (key.clone(), value.clone())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::persistence::store::conformance::conformance;

    #[test]
    fn the_memory_store_keeps_the_contract() {
        conformance(MemoryStore::new, |store| store.clone());
    }

    #[test]
    fn debug_of_a_memory_store_never_shows_bytes() {
        let store = MemoryStore::new();
        let mut batch = Batch::new();
        batch.put("canary", "canary");
        store.apply(batch).unwrap();
        assert_eq!(format!("{store:?}"), "MemoryStore { pairs: 1 }");
    }
}
