//! The base and the memtables over it, as reads see them. This knows nothing of the log.

use parking_lot::RwLock;

use super::base::Base;
use super::memtable::Memtables;
use crate::persistence::store::StoreError;

/// A base, and the entries that it does not hold yet.
#[derive(Debug)]
pub(crate) struct Layers<B> {
    pub(crate) base: B,
    pub(crate) memtables: RwLock<Memtables>,
}

impl<B: Base> Layers<B> {
    pub(crate) fn new(base: B, memtables: Memtables) -> Self {
        Self {
            base,
            memtables: RwLock::new(memtables),
        }
    }

    pub(crate) fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        if let Some(value) = self.memtables.read().get(key) {
            return Ok(value.map(<[u8]>::to_vec));
        }
        self.base.get(key)
    }
}
