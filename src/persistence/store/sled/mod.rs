//! A store on disk: a log of our own in front of sled 0.34.7, which makes sled durable.
//!
//! A commit is one append to the log and one `fdatasync`; checkpoints move the entries of the log
//! into sled. The log is the same for every base: see `wal/`. This folder is about sled.
//!
//! sled alone never calls fsync on Linux, does not open after a kill at the wrong moment, and
//! panics on some damaged files. The rules of RELIABILITY.md close these gaps, except for those it
//! lists as open; each file names the rules that it keeps.
//!
//! Segments, watermark and sled carry the id of the store, so that files of two stores are not
//! mixed up. Our own files are accessed through the directories that were opened; sled uses paths,
//! so it receives nothing once its directory is no longer at its path.
//!
//! ```text
//! <dir>/LOCK           ours: held while open, names the holder
//! <dir>/aborted        the engine's: whether the process has aborted
//! <dir>/ballast        ours: space that is kept free
//! <dir>/wal/           ours: segments of the log, and a spare one
//!   fence              ours: the number of the last frame that is on disk
//! <dir>/sled/          ours: mode 0700
//!   .creating .ready   ours: one of the two; `.ready` once the first open has completed
//!   db conf snap.*     sled's
//!   blobs/             sled's, for records too large for its log; stays empty at records <= 8 KB
//! ```

mod base;
mod copy;
mod disk;
mod pages;
mod pool;
mod prepare;
mod salvage;
#[cfg(test)]
mod tests;

use std::fmt;
use std::fs::File;
use std::path::Path;
use std::time::Duration;

use self::base::SledBase;
pub(crate) use self::copy::copy_closed;
pub(crate) use self::salvage::salvage;
use super::finding::LogReport;
use super::fs::{closed_copy, data_dir, engine_dir, files};
use super::wal::base::{Base, BaseState};
use super::wal::replay::inspect;
use super::wal::replay::refuse_links as refuse_links_in_log;
use super::wal::{LIMIT, WalStore};
use super::{Batch, Durability, Scan, Store, StoreError};

/// Keeps an ordered map of bytes in a directory, with sled 0.34.7 inside.
///
/// One process at a time may open a directory. Dropping the store syncs and unlocks it.
///
/// # Examples
/// ```
/// # use chordal::Durability;
/// # use chordal::persistence::{Batch, SledStore, Store};
/// # let home = tempfile::tempdir().unwrap();
/// let store = SledStore::open(home.path())?;
/// let mut batch = Batch::new();
/// batch.put("k", "v");
/// store.apply(batch)?;
/// store.sync(Durability::Power)?; // now it survives power loss
/// drop(store);
/// assert_eq!(SledStore::open(home.path())?.get(b"k")?.as_deref(), Some(&b"v"[..]));
/// # Ok::<(), chordal::StoreError>(())
/// ```
pub struct SledStore {
    wal: WalStore<SledBase>,
    /// The last field, so that it is released after sled's own lock.
    _lock: File,
}

impl SledStore {
    /// Opens the store in `dir`, creating the directory if needed. If another process has it open,
    /// waits up to 5 seconds.
    ///
    /// Before this returns, the store's data is on disk, not only in the kernel's cache. Until the
    /// first batch is applied, the directory is written to only by sled, which may complete its
    /// snapshot, and in `LOCK`.
    ///
    /// Symbolic links in the directory are not followed; the directory itself may be behind one.
    /// While the store is open the directory must not be moved: once it is renamed, replaced or
    /// deleted, nothing more is acknowledged, with [`StoreError::Moved`], at the latest when the
    /// log continues in its next file.
    ///
    /// # Errors
    ///
    /// [`StoreError::Locked`] if another process, or this one, has it open;
    /// [`StoreError::WrongEngine`] if it is another engine's; [`StoreError::Corrupt`],
    /// [`StoreError::RolledBack`], [`StoreError::WrongStore`] or [`StoreError::UnsupportedVersion`]
    /// for what must not be served; [`StoreError::Full`], [`StoreError::Exhausted`] and
    /// [`StoreError::Io`].
    pub fn open(dir: impl AsRef<Path>) -> Result<Self, StoreError> {
        Self::open_within(dir, data_dir::LOCK_TIMEOUT)
    }

    /// As [`open`](Self::open), waiting up to `lock_timeout` for another process to release the
    /// store.
    ///
    /// # Errors
    ///
    /// As [`open`](Self::open).
    pub fn open_within(dir: impl AsRef<Path>, lock_timeout: Duration) -> Result<Self, StoreError> {
        Self::open_with(dir.as_ref(), LIMIT, lock_timeout)
    }

    #[cfg(test)]
    pub(in crate::persistence) fn with_limit(dir: &Path, limit: usize) -> Result<Self, StoreError> {
        Self::open_with(dir, limit, data_dir::LOCK_TIMEOUT)
    }

    fn open_with(dir: &Path, limit: usize, lock_timeout: Duration) -> Result<Self, StoreError> {
        let data_dir = data_dir::create_data_dir(dir)?;
        let lock = data_dir::lock(&data_dir, lock_timeout)?;
        engine_dir::check_engine(&data_dir, "sled")?;
        refuse_links(&data_dir)?;
        closed_copy::remove_killed_audit(&data_dir);
        Ok(Self {
            wal: WalStore::open(data_dir, limit, SledBase::open)?,
            _lock: lock,
        })
    }

    /// Returns the directory this store was opened in, as an absolute path.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.wal.path()
    }
}

/// Reads the log of the closed store in `data_dir`, even if sled cannot be opened.
pub(crate) fn inspect_log(data_dir: &Path) -> (LogReport, Result<(), StoreError>) {
    let held = SledBase::open(data_dir).and_then(|base| base.held());
    let known: BaseState = held.as_ref().ok().copied().unwrap_or_default();
    let mut report = LogReport::default();
    let inspected = inspect(&data_dir.join("wal"), known, &mut report);
    (report, inspected.and(held.map(drop)))
}

/// Fails on symbolic links in place of the directories and files that the store writes to.
fn refuse_links(data_dir: &Path) -> Result<(), StoreError> {
    for name in ["wal", "sled", "sled/blobs"] {
        files::refuse_link(&data_dir.join(name))?;
    }
    for name in ["sled", "sled/blobs"] {
        files::refuse_links_in(&data_dir.join(name))?;
    }
    refuse_links_in_log(&data_dir.join("wal"))
}

impl Store for SledStore {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        self.wal.get(key)
    }

    fn scan(&self, from: &[u8], to: &[u8]) -> Scan<'_> {
        self.wal.scan(from, to)
    }

    fn apply(&self, batch: Batch) -> Result<(), StoreError> {
        self.wal.apply(batch)
    }

    fn sync(&self, durability: Durability) -> Result<(), StoreError> {
        self.wal.sync(durability)
    }

    fn is_prompt(&self) -> bool {
        self.wal.is_prompt()
    }

    fn room(&self) -> Result<(), StoreError> {
        self.wal.room()
    }

    fn directory(&self) -> Option<&Path> {
        self.wal.directory()
    }

    fn backup(&self, to: &Path) -> Result<(), StoreError> {
        self.wal.backup(to)
    }
}

/// Prints no contents, unlike sled.
impl fmt::Debug for SledStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SledStore")
            .field("path", &self.path())
            .field("poisoned", &self.wal.shared.poison.get())
            .finish_non_exhaustive()
    }
}
