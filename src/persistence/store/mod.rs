//! Stores: ordered maps of bytes with atomic batches and an explicit `sync`.
//!
//! This layer knows keys, bytes and disks; it knows nothing of workflows, tasks or actors.
//! Every store keeps the contract of [`Store`], and [`conformance`] checks it.

mod api;
pub mod conformance;
#[cfg(any(feature = "sled", feature = "redb"))]
pub(crate) mod engine;
mod error;
pub(crate) mod finding;
pub(crate) mod fs;
pub(crate) mod memory;
#[cfg(feature = "redb")]
pub(crate) mod redb;
#[cfg(any(feature = "sled", feature = "redb"))]
pub(crate) mod salvage;
#[cfg(feature = "sled")]
pub(crate) mod sled;
#[cfg(feature = "sled")]
pub(crate) mod wal;

pub use self::api::{Batch, Durability, Op, Pair, Scan, Store};
#[cfg(any(feature = "sled", feature = "redb"))]
pub use self::engine::Engine;
pub use self::error::{Holder, StoreError};
pub use self::finding::Finding;
pub use self::memory::MemoryStore;
// `self::`, because the crates sled and redb have the same names as our modules.
#[cfg(feature = "redb")]
pub use self::redb::RedbStore;
#[cfg(feature = "sled")]
pub use self::sled::SledStore;
