//! What an engine hands over of a damaged store.

use super::api::Batch;
use super::error::StoreError;
use super::finding::Finding;

/// Receives what an engine can still read of a damaged store, oldest first: a later change of a key
/// replaces an earlier one.
pub(crate) trait SalvageSink {
    /// Adds a defect.
    fn find(&mut self, finding: Finding);

    /// Adds a record.
    fn put(&mut self, key: Vec<u8>, value: Vec<u8>) -> Result<(), StoreError>;

    /// Deletes all keys in `from..to` that were added; an empty bound is no bound.
    fn clear(&mut self, from: &[u8], to: &[u8]) -> Result<(), StoreError>;

    /// Applies the changes of one commit that the log still has.
    fn commit(&mut self, batch: Batch) -> Result<(), StoreError>;

    /// Counts commits that the store is known to have held and that cannot be read.
    fn miss_commits(&mut self, count: u64);
}
