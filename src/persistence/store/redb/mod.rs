//! A store on disk: redb 4, whose file is verified at each open and guarded against older copies by
//! a watermark.
//!
//! redb keeps what it acknowledges. This module closes three gaps: a kill during the very first
//! open leaves a file that does not open (H3); damage to a page shows only when that page is read;
//! and after damage to its newest commit, or with an older copy of its file, redb opens as if that
//! commit had never been made (H4).
//!
//! ```text
//! <dir>/LOCK           ours: held while open, names the holder
//! <dir>/redb/          ours: mode 0700
//!   .creating .ready   ours: one of the two; `.ready` once the first open has completed
//!   db                 redb's
//!   fence              ours: the watermark, the number of the last commit
//! ```
//!
//! Both files carry the id of the store, so that files of two stores are not mixed up.

mod backup;
mod base;
mod salvage;
mod scan;
#[cfg(all(test, feature = "sled"))] // they compare it with sled
mod tests;

use std::fmt;
use std::fs::File;
use std::ops::Bound;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use ::redb::StorageBackend;
use ::redb::backends::FileBackend;
use parking_lot::Mutex;
use tracing::error;

pub(crate) use self::backup::copy_closed;
use self::base::Base;
pub(crate) use self::salvage::salvage;
use self::scan::RedbScan;
use super::fs::dir::Dir;
use super::fs::identity::{Identity, wrong_store};
use super::fs::watermark::{self, Watermark};
use super::fs::{closed_copy, data_dir, engine_dir, files};
use crate::persistence::store::{Batch, Durability, Scan, Store, StoreError};

/// Keeps an ordered map of bytes in a directory, with redb 4 inside. Needs the feature `redb`.
///
/// One process at a time may open a directory. Dropping the store syncs and unlocks it.
///
/// [`Durability::Process`] is as strong as [`Durability::Power`] and costs the same: redb keeps
/// what it has not fsynced in its own memory, which a kill takes away. With
/// [`Durability::Buffered`] it stays there.
///
/// # Examples
/// ```
/// use chordal::persistence::RedbStore;
/// use chordal::prelude::*;
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> chordal::Result<()> {
/// # let home = tempfile::tempdir().unwrap();
/// # let path = home.path().join("data");
/// let app = App::with_store(RedbStore::open(path)?).start().await?;
/// app.shutdown().await
/// # }
/// ```
pub struct RedbStore {
    data_dir: PathBuf,
    base: Base,
    /// Locked by writers: commits are numbered in the order in which they are made.
    writer: Mutex<Writer>,
    /// Counts the applied batches, so that a scan detects that its view is old.
    epoch: AtomicU64,
    /// Why nothing more is accepted; the first reason stays.
    poison: OnceLock<String>,
    /// The last field, so that it is released after redb's own lock.
    _lock: File,
}

#[derive(Debug)]
struct Writer {
    watermark: Watermark,
    /// Drawn with the first commit, if an earlier version has made the store.
    identity: Option<Identity>,
    /// Whether batches were applied that are not on disk.
    is_dirty: bool,
}

impl RedbStore {
    /// Opens the store in `dir`, creating the directory if needed. If another process has it open,
    /// waits up to 5 seconds.
    ///
    /// Before this returns, the store's data is on disk, not only in the kernel's cache, and every
    /// page has been read and agrees with its checksum. A large file that is mostly free shrinks
    /// now; while the store is open, free space is reused.
    ///
    /// Symbolic links in the directory are not followed; the directory itself may be behind one.
    /// Once its files are deleted nothing more is acknowledged, with [`StoreError::Moved`].
    ///
    /// # Errors
    ///
    /// [`StoreError::Locked`] if another process, or this one, has it open;
    /// [`StoreError::WrongEngine`] if it is a [`SledStore`](crate::persistence::SledStore)'s;
    /// [`StoreError::Corrupt`], [`StoreError::RolledBack`], [`StoreError::WrongStore`] or
    /// [`StoreError::UnsupportedVersion`] for what must not be served; [`StoreError::Full`],
    /// [`StoreError::Exhausted`] and [`StoreError::Io`].
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
        Self::open_on(dir.as_ref(), lock_timeout, |file| file)
    }

    /// Opens the store over the backend that `disk` makes of redb's file.
    fn open_on<B: StorageBackend>(
        dir: &Path,
        lock_timeout: Duration,
        disk: impl FnOnce(FileBackend) -> B,
    ) -> Result<Self, StoreError> {
        let data_dir = data_dir::create_data_dir(dir)?;
        let lock = data_dir::lock(&data_dir, lock_timeout)?;
        engine_dir::check_engine(&data_dir, "redb")?;
        refuse_links(&data_dir)?;
        closed_copy::remove_killed_audit(&data_dir);
        let dir = data_dir.join("redb");
        let is_new = engine_dir::claim(&dir, |name| name == "db" || name == "fence")?;
        let (watermark, base, identity) = if is_new {
            let (watermark, base, identity) = create(&dir, disk)?;
            engine_dir::finish(&data_dir, &dir)?;
            (watermark, base, Some(identity))
        } else {
            // The watermark first: redb writes to any file that it opens.
            let mut watermark = Watermark::read(dir.join(watermark::NAME))?;
            let mut base = Base::open(dir.join("db"), disk)?;
            let identity = base.identity()?;
            match identity {
                Some(identity) => {
                    identity.check(watermark.path(), watermark.last(), watermark.id())?
                }
                None if watermark.id().is_some() => {
                    return Err(wrong_store(watermark.path(), watermark.id(), None));
                }
                None => {}
            }
            let (expected, found) = (watermark.last(), base.last_commit()?);
            if found < expected {
                return Err(StoreError::RolledBack {
                    path: dir,
                    expected,
                    found,
                });
            }
            // A crash came between the commit and its watermark.
            if found > expected {
                if let Some(identity) = identity {
                    watermark.set_id(identity.id);
                }
                watermark.advance(found)?;
            }
            base.compact()?;
            (watermark, base, identity)
        };
        Ok(Self {
            data_dir,
            base,
            writer: Mutex::new(Writer {
                watermark,
                identity,
                is_dirty: false,
            }),
            epoch: AtomicU64::new(0),
            poison: OnceLock::new(),
            _lock: lock,
        })
    }

    /// Returns the directory this store was opened in, as an absolute path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.data_dir
    }

    fn healthy(&self) -> Result<(), StoreError> {
        match self.poison.get() {
            Some(why) => Err(StoreError::Poisoned(why.clone())),
            None => Ok(()),
        }
    }

    fn poison(&self, error: StoreError) -> StoreError {
        if self.poison.set(error.to_string()).is_ok() {
            error!(store = %self.data_dir.display(), %error, "store stopped");
        }
        error
    }

    /// Makes all applied batches durable, as one numbered commit.
    fn commit(&self, writer: &mut Writer) -> Result<(), StoreError> {
        if writer.is_dirty {
            self.base.check_has_a_name()?;
            writer.watermark.check_has_a_name()?;
            let number = writer.watermark.last() + 1;
            let identity = writer.identity.is_none().then(|| Identity::draw(number));
            self.base.commit(number, identity)?;
            if let Some(identity) = identity {
                writer.identity = Some(identity);
                writer.watermark.set_id(identity.id);
            }
            // Only now: a watermark must never exceed what is on disk.
            writer.watermark.advance(number)?;
            writer.is_dirty = false;
        }
        Ok(())
    }
}

/// Creates the files of a new store in `dir`.
fn create<B: StorageBackend>(
    dir: &Path,
    disk: impl FnOnce(FileBackend) -> B,
) -> Result<(Watermark, Base, Identity), StoreError> {
    let identity = Identity::draw(0);
    let watermark = Watermark::create(&Dir::open(dir.to_owned())?, 0, identity.id)?;
    let base = Base::create(dir.join("db"), identity, disk)?;
    Ok((watermark, base, identity))
}

/// Fails on symbolic links in place of the directory and files that the store writes to.
fn refuse_links(data_dir: &Path) -> Result<(), StoreError> {
    let dir = data_dir.join("redb");
    files::refuse_link(&dir)?;
    files::refuse_links_in(&dir)
}

impl Store for RedbStore {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        self.base.get(key)
    }

    fn scan(&self, from: &[u8], to: &[u8]) -> Scan<'_> {
        let bounds = (Bound::Included(from.to_vec()), Bound::Excluded(to.to_vec()));
        Box::new(RedbScan::new(&self.base, &self.epoch, bounds))
    }

    fn apply(&self, batch: Batch) -> Result<(), StoreError> {
        let mut writer = self.writer.lock();
        self.healthy()?;
        if batch.is_empty() {
            return Ok(());
        }
        writer.is_dirty = true;
        self.base
            .apply(&batch)
            .map_err(|error| self.poison(error))?;
        self.epoch.fetch_add(1, Ordering::Release);
        Ok(())
    }

    fn directory(&self) -> Option<&Path> {
        Some(&self.data_dir)
    }

    fn backup(&self, to: &Path) -> Result<(), StoreError> {
        files::make_copy(to, |part| self.copy_all(part))
    }

    fn sync(&self, durability: Durability) -> Result<(), StoreError> {
        let mut writer = self.writer.lock();
        self.healthy()?;
        match durability {
            Durability::Buffered => Ok(()),
            // A commit of redb without fsync hands nothing to the kernel either.
            Durability::Process | Durability::Power => self.commit(&mut writer),
        }
        .map_err(|error| self.poison(error))
    }
}

/// Prints no contents.
impl fmt::Debug for RedbStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedbStore")
            .field("path", &self.data_dir)
            .field("poisoned", &self.poison.get())
            .finish_non_exhaustive()
    }
}

/// Commits the remaining batches under a number: a commit that redb makes while closing has none.
impl Drop for RedbStore {
    fn drop(&mut self) {
        if self.poison.get().is_some() {
            return;
        }
        let mut writer = self.writer.lock();
        let closed = self
            .commit(&mut writer)
            .and_then(|()| writer.watermark.sync());
        if let Err(error) = closed {
            error!(store = %self.data_dir.display(), %error, "last sync failed");
        }
    }
}
