//! The store's own record: its format, and how often it was opened.

use serde::{Deserialize, Serialize};

use super::codec::{self, Kind};
use super::{Batch, Durability, Store, StoreError, keys, transfer};

/// One opening of a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Opening {
    /// From 1.
    number: u64,
}

/// Each opening numbers its commits in a range of its own: 2^40 of them, in 2^24 openings.
const COMMIT_BITS: u32 = 40;

impl Opening {
    /// Above the numbers of all commits of all openings before; ours come after it.
    pub(crate) fn last_commit(self) -> u64 {
        self.number << COMMIT_BITS
    }
}

/// Notes that the store is being opened. A store that was written by a newer version is refused
/// before anything is written.
pub(crate) fn open(store: &dyn Store, durability: Durability) -> Result<Opening, StoreError> {
    transfer::is_whole(store)?;
    let last: Option<Opening> = store
        .get(keys::META)?
        .map(|record| codec::decode(Kind::Meta, keys::META, &record))
        .transpose()?;
    let opening = Opening {
        number: last.map_or(1, |last| last.number + 1),
    };
    let mut batch = Batch::default();
    batch.put(keys::META.to_vec(), codec::encode(Kind::Meta, &opening));
    store.apply(batch)?;
    store.sync(durability)?;
    Ok(opening)
}
