//! Persistence, in two layers: [`Store`]s of bytes, and the records of workflows in them.

#[cfg(all(test, feature = "sled"))]
mod fault_tests;
pub(crate) mod records;
pub(crate) mod store;

pub use self::records::audit::{Audit, verify};
pub(crate) use self::records::export::export_to_file;
pub use self::records::export::{export, import};
#[cfg(any(feature = "sled", feature = "redb"))]
pub use self::records::salvage::Salvaged;
#[cfg(any(feature = "sled", feature = "redb"))]
pub(crate) use self::records::salvage::salvage;
#[cfg(any(feature = "sled", feature = "redb"))]
pub(crate) use self::records::verify::verify_directory;
#[cfg(any(feature = "sled", feature = "redb"))]
pub use self::store::Engine;
#[cfg(feature = "redb")]
pub use self::store::RedbStore;
#[cfg(feature = "sled")]
pub use self::store::SledStore;
pub use self::store::conformance;
pub(crate) use self::store::fs::data_dir::{LOCK_TIMEOUT, mark_closing};
pub use self::store::{Batch, Finding, MemoryStore, Op, Pair, Scan, Store};
// Public under the crate's own name, for programs that never name a store.
pub(crate) use self::store::{Durability, StoreError};
