//! A store on disk: redb 4, whose file is verified at each open and fenced against older copies.
//!
//! redb keeps what it acknowledges by itself. Three gaps are closed here: a kill during its very
//! first open leaves a file that does not open (H3); damage to a page is seen only by who asks for it;
//! and damage to its newest commit, or an older copy of its file, opens as if that commit had never
//! been (H4).
//!
//! ```text
//! <dir>/LOCK           ours: held while open, names the holder
//! <dir>/redb/          ours: mode 0700
//!   .creating .ready   ours: one of the two says whether the first open has come to its end
//!   db                 redb's
//!   fence              ours: the number of the last commit
//! ```
//!
//! Both files carry the id of the store, so that those of two stores are not taken for one.

mod base;
mod salvage;
mod scan;
#[cfg(test)]
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

use self::base::Base;
pub(super) use self::salvage::salvage;
use self::scan::RedbScan;
use super::dir::Dir;
use super::identity::{Identity, wrong_store};
use super::watermark::{self, Watermark};
use super::{Batch, Durability, Scan, Store, StoreError, data_dir, engine_dir, files};

/// Keeps an ordered map of bytes in a directory, with redb 4 inside. Needs the feature `redb`.
///
/// One process at a time may open a directory. Dropping the store syncs and unlocks it.
///
/// [`Durability::Process`] is as strong as [`Durability::Power`] and costs the same: what redb has not
/// fsynced it keeps in its own memory, and a kill takes that away. [`Durability::Buffered`] leaves it
/// there.
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
    home: PathBuf,
    base: Base,
    /// Locked by whoever writes: commits are numbered in the order in which they are made.
    writer: Mutex<Writer>,
    /// Counts what was applied, so that a scan knows when what it sees has become old.
    epoch: AtomicU64,
    /// Why nothing more is accepted; the first reason stays.
    poison: OnceLock<String>,
    /// Last, so that it is let go after redb's own lock.
    _lock: File,
}

#[derive(Debug)]
struct Writer {
    fence: Watermark,
    /// Drawn with the first commit, if an earlier version has made the store.
    identity: Option<Identity>,
    /// Something was applied and is not on disk.
    is_dirty: bool,
}

impl RedbStore {
    /// Opens the store in `dir`, making the directory if need be. If another process has it open, waits 5
    /// seconds for that to end.
    ///
    /// What it finds is on the disk, not only in the kernel's cache, before it returns, and every page
    /// of it has been read and agrees with its checksum. A large file that is mostly free shrinks now;
    /// while the store is open, what is free is used again.
    ///
    /// Symbolic links in the directory are not followed; the directory itself may be behind one. Once its
    /// files are deleted nothing more is acknowledged, with [`StoreError::Moved`].
    ///
    /// # Errors
    ///
    /// [`StoreError::Locked`] if another process, or this one, has it open;
    /// [`StoreError::WrongEngine`] if it is a [`SledStore`](super::SledStore)'s;
    /// [`StoreError::Corrupt`], [`StoreError::RolledBack`], [`StoreError::WrongStore`] or
    /// [`StoreError::UnsupportedVersion`] for what must not be served; [`StoreError::Full`],
    /// [`StoreError::Exhausted`] and [`StoreError::Io`].
    pub fn open(dir: impl AsRef<Path>) -> Result<Self, StoreError> {
        Self::open_within(dir, data_dir::LOCK_TIMEOUT)
    }

    /// As [`open`](Self::open), waiting this long for another process to let go of the store.
    ///
    /// # Errors
    ///
    /// As [`open`](Self::open).
    pub fn open_within(dir: impl AsRef<Path>, lock_timeout: Duration) -> Result<Self, StoreError> {
        Self::open_on(dir.as_ref(), lock_timeout, |file| file)
    }

    /// Opens it over what `disk` makes of redb's file.
    fn open_on<B: StorageBackend>(
        dir: &Path,
        lock_timeout: Duration,
        disk: impl FnOnce(FileBackend) -> B,
    ) -> Result<Self, StoreError> {
        let home = data_dir::create_data_dir(dir)?;
        let lock = data_dir::lock(&home, lock_timeout)?;
        engine_dir::check_engine(&home, "redb")?;
        let dir = home.join("redb");
        files::refuse_link(&dir)?;
        files::refuse_links_in(&dir)?;
        let is_fresh = engine_dir::claim(&dir, |name| name == "db" || name == "fence")?;
        let db = dir.join("db");
        let (fence, base, identity) = if is_fresh {
            let identity = Identity::draw(0);
            let fence = Watermark::make(&Dir::open(dir.clone())?, 0, identity.id)?;
            let base = Base::make(db, identity, disk)?;
            engine_dir::finish(&home, &dir)?;
            (fence, base, Some(identity))
        } else {
            // The fence first: redb writes to whatever it opens.
            let mut fence = Watermark::read(dir.join(watermark::NAME))?;
            let mut base = Base::open(db, disk)?;
            let identity = base.identity()?;
            match identity {
                Some(identity) => identity.check(fence.path(), fence.last(), fence.id())?,
                None if fence.id().is_some() => {
                    return Err(wrong_store(fence.path(), fence.id(), None));
                }
                None => {}
            }
            let (expected, found) = (fence.last(), base.last_commit()?);
            if found < expected {
                return Err(StoreError::RolledBack {
                    path: dir,
                    expected,
                    found,
                });
            }
            // A crash came between the two.
            if found > expected {
                if let Some(identity) = identity {
                    fence.set_id(identity.id);
                }
                fence.advance(found)?;
            }
            base.compact()?;
            (fence, base, identity)
        };
        Ok(Self {
            home,
            base,
            writer: Mutex::new(Writer {
                fence,
                identity,
                is_dirty: false,
            }),
            epoch: AtomicU64::new(0),
            poison: OnceLock::new(),
            _lock: lock,
        })
    }

    /// Shows the directory this store was opened in, as an absolute path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.home
    }

    fn healthy(&self) -> Result<(), StoreError> {
        match self.poison.get() {
            Some(why) => Err(StoreError::Poisoned(why.clone())),
            None => Ok(()),
        }
    }

    fn poison(&self, error: StoreError) -> StoreError {
        if self.poison.set(error.to_string()).is_ok() {
            error!(store = %self.home.display(), %error, "store stopped");
        }
        error
    }

    /// Makes all that was applied durable, as one numbered commit.
    fn commit(&self, writer: &mut Writer) -> Result<(), StoreError> {
        if writer.is_dirty {
            self.base.check_has_a_name()?;
            writer.fence.check_has_a_name()?;
            let number = writer.fence.last() + 1;
            let drawn = writer.identity.is_none().then(|| Identity::draw(number));
            self.base.commit(number, drawn)?;
            if let Some(drawn) = drawn {
                writer.identity = Some(drawn);
                writer.fence.set_id(drawn.id);
            }
            // Only now: a fence must never know more than the disk.
            writer.fence.advance(number)?;
            writer.is_dirty = false;
        }
        Ok(())
    }
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
        Some(&self.home)
    }

    fn sync(&self, durability: Durability) -> Result<(), StoreError> {
        let mut writer = self.writer.lock();
        self.healthy()?;
        match durability {
            Durability::Buffered => Ok(()),
            // What redb would do without an fsync leaves nothing in the kernel either.
            Durability::Process | Durability::Power => self.commit(&mut writer),
        }
        .map_err(|error| self.poison(error))
    }
}

/// Prints no contents.
impl fmt::Debug for RedbStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedbStore")
            .field("path", &self.home)
            .field("poisoned", &self.poison.get())
            .finish_non_exhaustive()
    }
}

/// Commits what is left under a number of its own: what redb commits when it closes has none.
impl Drop for RedbStore {
    fn drop(&mut self) {
        if self.poison.get().is_some() {
            return;
        }
        let mut writer = self.writer.lock();
        let closed = self.commit(&mut writer).and_then(|()| writer.fence.sync());
        if let Err(error) = closed {
            error!(store = %self.home.display(), %error, "last sync failed");
        }
    }
}
