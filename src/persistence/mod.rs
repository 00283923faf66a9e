//! Persistence, in two layers: [`Store`]s of bytes, and the records of workflows in them.

#[cfg(all(test, feature = "sled"))]
mod fault_tests;
#[cfg(feature = "__fuzzing")]
pub(crate) mod fuzzing;
pub(crate) mod records;
pub(crate) mod store;

pub use self::records::audit::{Audit, Finding};
pub(crate) use self::records::export::export_to_file;
pub use self::records::export::{export, import};
#[cfg(any(feature = "sled", feature = "redb"))]
pub use self::records::salvage::Salvaged;
#[cfg(any(feature = "sled", feature = "redb"))]
pub(crate) use self::records::salvage::salvage;
#[cfg(feature = "redb")]
pub use self::store::RedbStore;
#[cfg(feature = "sled")]
pub use self::store::SledStore;
pub use self::store::conformance;
pub(crate) use self::store::fs::data_dir::LOCK_TIMEOUT;
pub use self::store::{Batch, Durability, Holder, MemoryStore, Op, Pair, Scan, Store, StoreError};
