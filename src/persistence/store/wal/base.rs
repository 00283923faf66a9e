//! What the log is in front of: the base, an ordered map of bytes that is durable by its own means.

use std::fmt;
use std::ops::Bound;
use std::path::Path;

use super::memtable::{Bounds, Entry, MaxKeys};
use super::segment::SegmentHeader;
use crate::persistence::store::fs::identity::{Identity, wrong_store};
use crate::persistence::store::{Pair, StoreError};
use crate::testing::negative_control::Rule::H4;
use crate::testing::negative_control::without;

/// An ordered map of bytes under a log. Only checkpoints write to it, one at a time; reads go on
/// meanwhile.
///
/// A crash may leave a part of what was written and not settled: the log has all of it.
pub(crate) trait Base: fmt::Debug + Send + Sync + 'static {
    /// The iterator of [`range`](Self::range). After an error it is not advanced.
    type Range<'a>: DoubleEndedIterator<Item = Result<Pair, StoreError>>
    where
        Self: 'a;

    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError>;

    /// Returns an iterator over the keys between the bounds; each pair is as new as the step that
    /// reaches it, or a little older.
    fn range(&self, bounds: Bounds<'_>) -> Self::Range<'_>;

    /// Writes entries, in order: a value, or none to delete the key. They are durable only after
    /// [`settle`](Self::settle).
    fn write<'a>(&self, entries: impl IntoIterator<Item = Entry<'a>>) -> Result<(), StoreError>;

    /// Makes all entries written before survive power loss.
    fn settle(&self) -> Result<(), StoreError>;

    /// Returns how much of the log the base holds; `None` if there never was a log beside it.
    fn mark(&self) -> Result<Option<Mark>, StoreError>;

    /// Durably records how much of the log the base holds; that part must be settled.
    fn set_mark(&self, mark: Mark) -> Result<(), StoreError>;

    /// Returns the identity of the store that the base belongs to; `None` if only versions without
    /// ids have written to it.
    fn identity(&self) -> Result<Option<Identity>, StoreError>;

    /// Durably records the identity of the store.
    fn set_identity(&self, identity: Identity) -> Result<(), StoreError>;

    /// Fails if a write would not reach the store: its files were moved or deleted.
    fn check_in_place(&self) -> Result<(), StoreError>;

    /// Copies the base into the directory of a backup, durably. Nothing is written to the base
    /// meanwhile.
    fn copy_into(&self, part: &Path) -> Result<(), StoreError>;

    /// Returns the largest key under each first byte.
    fn max_keys(&self) -> Result<MaxKeys, StoreError> {
        let mut max_keys = MaxKeys::default();
        let mut end = None;
        loop {
            let to = match &end {
                Some(first) => Bound::Excluded(std::slice::from_ref(first)),
                None => Bound::Unbounded,
            };
            let last = self.range((Bound::Unbounded, to)).next_back();
            let Some((last, _)) = last.transpose()? else {
                return Ok(max_keys);
            };
            end = last.first().copied();
            if end.is_none() {
                return Ok(max_keys);
            }
            max_keys.raise(last);
        }
    }

    /// Returns the mark of the log and the identity.
    fn held(&self) -> Result<BaseState, StoreError> {
        let (mark, identity) = (self.mark()?, self.identity()?);
        Ok(BaseState { mark, identity })
    }
}

/// How much of the log the base holds: the mark that a checkpoint writes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Mark {
    /// The last frame of the log that the base holds.
    pub(crate) seq: u64,
    /// The generation of a segment that was started before the base received the last of these
    /// frames: the log must have a segment of this generation or a later one.
    pub(crate) generation: u64,
}

impl Mark {
    /// Decodes the record of a mark.
    pub(crate) fn of(bytes: &[u8]) -> Option<Self> {
        let ([seq, generation], []) = bytes.as_chunks::<8>() else {
            return None;
        };
        Some(Self {
            seq: u64::from_be_bytes(*seq),
            generation: u64::from_be_bytes(*generation),
        })
    }

    /// Encodes the record of the mark.
    pub(crate) fn to_bytes(self) -> Vec<u8> {
        [self.seq.to_be_bytes(), self.generation.to_be_bytes()].concat()
    }
}

/// What the base holds of a store.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct BaseState {
    /// How much of the log the base holds; `None` if there never was one.
    pub(crate) mark: Option<Mark>,
    /// The store that the base belongs to; `None` if only versions without ids have written to it.
    pub(crate) identity: Option<Identity>,
}

impl BaseState {
    /// Returns whether the base has no mark of a log.
    pub(crate) fn is_new(&self) -> bool {
        self.mark.is_none() && self.identity.is_none()
    }

    /// Fails on a segment of another store.
    pub(crate) fn check(&self, path: &Path, header: SegmentHeader) -> Result<(), StoreError> {
        match self.identity {
            _ if without(H4) => Ok(()),
            Some(identity) => identity.check(path, header.generation, header.id),
            // The base gets the id before the log does.
            None if header.id.is_some() => Err(wrong_store(path, header.id, None)),
            None => Ok(()),
        }
    }
}
