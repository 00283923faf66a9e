//! The contract of a store: [`Store`], and the batches that it applies.

use std::fmt;
use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::error::StoreError;

/// What a crash may undo.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Durability {
    /// Survives power loss: the engine calls fsync before it acknowledges.
    #[default]
    Power,
    /// Survives `kill -9`: data is handed to the kernel, without fsync.
    Process,
    /// Survives a clean stop ([`App::shutdown`](crate::App::shutdown)); otherwise up to 500 ms may
    /// be lost.
    Buffered,
}

/// One change of one key.
#[derive(Clone, PartialEq, Eq)]
pub enum Op {
    /// Sets a key to a value.
    Put(Vec<u8>, Vec<u8>),
    /// Removes a key; no error if it is not there.
    Delete(Vec<u8>),
}

/// Prints sizes only: keys and values may hold what users want kept out of logs.
impl fmt::Debug for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Op::Put(key, value) => write!(f, "Put({} B, {} B)", key.len(), value.len()),
            Op::Delete(key) => write!(f, "Delete({} B)", key.len()),
        }
    }
}

/// Puts and deletes applied together or not at all, in order.
///
/// # Examples
/// ```
/// # use chordal::persistence::Batch;
/// let mut batch = Batch::new();
/// batch.put("a", "one");
/// batch.delete("b");
/// assert_eq!((batch.len(), batch.bytes()), (2, 5));
/// assert_eq!(format!("{batch:?}"), "Batch { ops: 2, bytes: 5 }");
/// ```
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Batch {
    ops: Vec<Op>,
    /// A running sum, because the committer reads it after every operation.
    bytes: usize,
}

impl Batch {
    /// Makes an empty batch.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Makes an empty batch with capacity for as many operations as this one has.
    pub(crate) fn another(&self) -> Self {
        Self {
            ops: Vec::with_capacity(self.ops.len()),
            bytes: 0,
        }
    }

    /// Adds a put; a later op on the same key wins.
    pub fn put(&mut self, key: impl Into<Vec<u8>>, value: impl Into<Vec<u8>>) {
        let (key, value) = (key.into(), value.into());
        self.bytes += key.len() + value.len();
        self.ops.push(Op::Put(key, value));
    }

    /// Adds a delete; a later op on the same key wins.
    pub fn delete(&mut self, key: impl Into<Vec<u8>>) {
        let key = key.into();
        self.bytes += key.len();
        self.ops.push(Op::Delete(key));
    }

    /// Adds all ops of `other` after the ones already here.
    pub fn append(&mut self, mut other: Batch) {
        self.bytes += other.bytes;
        self.ops.append(&mut other.ops);
    }

    /// Counts the ops.
    #[must_use]
    pub fn len(&self) -> usize {
        self.ops.len()
    }

    /// Tells whether there is nothing to apply.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ops.is_empty()
    }

    /// Sums the sizes of all keys and values.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Shows the ops in order.
    #[must_use]
    pub fn ops(&self) -> &[Op] {
        &self.ops
    }
}

/// Prints counts and sizes, never the bytes.
impl fmt::Debug for Batch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Batch")
            .field("ops", &self.ops.len())
            .field("bytes", &self.bytes)
            .finish()
    }
}

impl IntoIterator for Batch {
    type Item = Op;
    type IntoIter = std::vec::IntoIter<Op>;

    fn into_iter(self) -> Self::IntoIter {
        self.ops.into_iter()
    }
}

impl<'a> IntoIterator for &'a Batch {
    type Item = &'a Op;
    type IntoIter = std::slice::Iter<'a, Op>;

    fn into_iter(self) -> Self::IntoIter {
        self.ops.iter()
    }
}

/// A key and its value.
pub type Pair = (Vec<u8>, Vec<u8>);

/// The iterator of [`Store::scan`]; an error is its last item.
pub type Scan<'a> = Box<dyn DoubleEndedIterator<Item = Result<Pair, StoreError>> + 'a>;

/// An ordered map of bytes that survives crashes.
///
/// Keys are never empty and at most a few hundred bytes; a value is at most 8 KB, because
/// some engines keep larger ones in a less safe place (see [`sled`]).
///
/// Every implementation must pass
/// [`conformance::conformance`](crate::persistence::conformance::conformance).
pub trait Store: Send + Sync + fmt::Debug + 'static {
    /// Reads one value.
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError>;

    /// Walks the keys in `[from, to)`, ascending; `rev()` walks them down.
    ///
    /// A scan is not a snapshot: each pair is as new as the moment at which the scan reaches it, or
    /// newer than the pair before it. Keys that are not written meanwhile come exactly once. The
    /// caller may apply batches while it holds a scan.
    fn scan(&self, from: &[u8], to: &[u8]) -> Scan<'_>;

    /// Applies a batch: atomic, visible to reads at once, durable only after [`sync`](Store::sync).
    fn apply(&self, batch: Batch) -> Result<(), StoreError>;

    /// Waits until every batch applied before survives what `durability` names.
    ///
    /// [`StoreError::Full`] means that it does not yet, for lack of space, and
    /// [`StoreError::Exhausted`] for lack of file descriptors or memory: the batches stay applied,
    /// and `sync` may be called again. After any other error of `sync`, and after every error of
    /// `apply`, the engine halts, and every later call of either fails with
    /// [`StoreError::Poisoned`]: an fsync is never retried, because the kernel reports a lost page
    /// once and then forgets it. A store without space for a batch therefore accepts it in `apply`
    /// and fails in `sync`. Reads continue, but may return data that the disk does not hold; only a
    /// reopened store shows what is durable.
    fn sync(&self, durability: Durability) -> Result<(), StoreError>;

    /// Returns whether a few records can be applied without waiting for anything but the disk. If
    /// not, the engine applies them on a thread that may block.
    fn is_prompt(&self) -> bool {
        true
    }

    /// Returns [`StoreError::Full`] if the free space must be kept for work that has been accepted,
    /// so that new work is refused. Cheap as long as there is space; asks the system again after a
    /// refusal.
    fn room(&self) -> Result<(), StoreError> {
        Ok(())
    }

    /// Returns the directory that only this store uses while it is open, if there is one. The
    /// engine notes there that the process aborts.
    fn directory(&self) -> Option<&Path> {
        None
    }

    /// Copies the store, as it is after some commit, to a directory that does not exist yet, while
    /// the store stays in use. An unfinished copy is never opened as a store.
    fn backup(&self, to: &Path) -> Result<(), StoreError> {
        let why = io::Error::new(io::ErrorKind::Unsupported, "this store does not support it");
        Err(StoreError::io(format!("back up to {}", to.display()), why))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_keeps_order_and_sums_sizes() {
        let mut first = Batch::new();
        first.put("k", "12");
        let mut second = Batch::new();
        second.delete("k");
        second.put("kk", Vec::new());
        first.append(second);
        assert_eq!(
            (first.len(), first.bytes(), first.is_empty()),
            (3, 6, false)
        );
        let ops: Vec<Op> = first.clone().into_iter().collect();
        assert_eq!(ops, first.ops());
        assert_eq!(ops[1], Op::Delete(b"k".to_vec()));
    }

    #[test]
    fn debug_of_a_batch_never_shows_bytes() {
        let mut batch = Batch::new();
        batch.put("canary-key", "canary-value");
        batch.delete("canary-key");
        let text = format!("{batch:?} {:?}", batch.ops());
        assert!(!text.contains("canary") && !text.contains("99"), "{text}");
    }
}
