//! redb itself: its file, opened and verified, and its transactions.

use std::cell::Cell;
use std::fmt;
use std::fs::{self, File};
use std::io::ErrorKind;
use std::ops::Bound;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use redb::backends::FileBackend;
use redb::{
    Builder, Database, Durability, Error, ReadOnlyTable, ReadableDatabase, StorageBackend,
    TableDefinition, TableError,
};
use tracing::{error, info, warn};

use crate::persistence::store::fs::dir::check_has_a_name;
use crate::persistence::store::fs::files::{damaged, failed, open_private, sync_file};
use crate::persistence::store::fs::identity::Identity;
use crate::persistence::store::fs::panic_guard::catch_panics;
use crate::persistence::store::{Batch, Holder, Op, StoreError};

/// redb's own default of 1 GiB is too much for a library inside another program.
const CACHE_BYTES: usize = 16 << 20;

/// Smaller files are not compacted.
const COMPACT_MIN_BYTES: u64 = 4 << 20;

type Records = ReadOnlyTable<&'static [u8], &'static [u8]>;
/// An iterator over redb's state at the moment when the iterator was created.
pub(super) type RangeIter = redb::Range<'static, &'static [u8], &'static [u8]>;

const RECORDS: TableDefinition<&[u8], &[u8]> = TableDefinition::new("records");
const COMMITS: TableDefinition<&str, u64> = TableDefinition::new("commits");
const LAST: &str = "last";
/// The identity of the store, since version 2.
const STORE: TableDefinition<&str, &[u8]> = TableDefinition::new("store");
const IDENTITY: &str = "identity";

const IS_OPEN: &str = "redb is open until drop";

/// redb's file.
pub(super) struct Base {
    path: PathBuf,
    /// `None` only while dropping: redb may panic when it is dropped.
    db: Option<Database>,
    /// The open file of redb, to check whether it still has a name.
    file: File,
}

impl Base {
    /// Creates redb's file; it is on disk before this returns, its name may not be.
    pub(super) fn create<B: StorageBackend>(
        path: PathBuf,
        identity: Identity,
        disk: impl FnOnce(FileBackend) -> B,
    ) -> Result<Self, StoreError> {
        let (backend, file) = backend(&path)?;
        let backend = disk(backend);
        let db = guarded(&path, "create", || {
            Ok(builder().create_with_backend(backend)?)
        })?;
        let base = Self {
            path,
            db: Some(db),
            file,
        };
        base.commit(0, Some(identity))?;
        Ok(base)
    }

    /// Opens redb's file and verifies every page. What it reads is on disk before this returns.
    pub(super) fn open<B: StorageBackend>(
        path: PathBuf,
        disk: impl FnOnce(FileBackend) -> B,
    ) -> Result<Self, StoreError> {
        let (mut base, was_repaired) = Self::open_file(path, disk)?;
        if was_repaired {
            // A repair reads every reachable page, too.
            info!(file = %base.path.display(), "redb was not closed cleanly and has repaired its file");
        } else {
            base.verify()?;
        }
        Ok(base)
    }

    /// Opens redb's file without verifying its pages, some of which may be damaged.
    pub(super) fn open_damaged(path: PathBuf) -> Result<Self, StoreError> {
        Self::open_file(path, |file| file).map(|(base, _)| base)
    }

    /// Opens redb's file; returns whether redb has repaired, and so read, all of it.
    fn open_file<B: StorageBackend>(
        path: PathBuf,
        disk: impl FnOnce(FileBackend) -> B,
    ) -> Result<(Self, bool), StoreError> {
        if fs::metadata(&path).map_or(0, |found| found.len()) == 0 {
            // redb would create a new store in the file.
            return Err(damaged(
                &path,
                "the file of a finished store is missing or empty",
            ));
        }
        // After a kill the kernel may hold data that is not on disk.
        sync_file(&path)?;
        let (backend, file) = backend(&path)?;
        let backend = disk(backend);
        let was_repaired = Rc::new(Cell::new(false));
        let repaired = was_repaired.clone();
        let db = guarded(&path, "open", || {
            let mut builder = builder();
            builder.set_repair_callback(move |_| repaired.set(true));
            Ok(builder.create_with_backend(backend)?)
        })?;
        let base = Self {
            path,
            db: Some(db),
            file,
        };
        Ok((base, was_repaired.get()))
    }

    fn verify(&mut self) -> Result<(), StoreError> {
        let db = self.db.as_mut().expect(IS_OPEN);
        if !guarded(&self.path, "verify", || Ok(db.check_integrity()?))? {
            // If the repair dropped a commit, the watermark shows it.
            warn!(file = %self.path.display(), "redb has repaired its file");
        }
        Ok(())
    }

    fn db(&self) -> &Database {
        self.db.as_ref().expect(IS_OPEN)
    }

    /// Returns space to the file system if most of a large file is free: while the file is open,
    /// redb reuses free space, and hardly shrinks.
    pub(super) fn compact(&mut self) -> Result<(), StoreError> {
        let path = &self.path;
        let size = fs::metadata(path).map_err(|e| failed("look at", path, e))?;
        if size.len() < COMPACT_MIN_BYTES {
            return Ok(());
        }
        let used = guarded(path, "measure", || {
            let writes = self.db().begin_write()?;
            let stats = writes.stats()?;
            writes.abort()?;
            Ok(stats.allocated_pages() * stats.page_size() as u64)
        })?;
        if used < size.len() / 2 {
            info!(file = %path.display(), bytes = size.len(), used, "most of the file is free; compacting it");
            let db = self.db.as_mut().expect(IS_OPEN);
            guarded(path, "compact", || Ok(db.compact()?))?;
        }
        Ok(())
    }

    pub(super) fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        guarded(&self.path, "read", || {
            Ok(self
                .records()?
                .get(key)?
                .map(|value| value.value().to_vec()))
        })
    }

    /// Returns an iterator over the keys between the bounds, in redb's current state.
    pub(super) fn range(
        &self,
        bounds: (Bound<&[u8]>, Bound<&[u8]>),
    ) -> Result<RangeIter, StoreError> {
        guarded(&self.path, "scan", || {
            Ok(self.records()?.range::<&[u8]>(bounds)?)
        })
    }

    /// Runs one step of an iterator.
    pub(super) fn step_iter<T>(
        &self,
        step: impl FnOnce() -> Result<T, redb::StorageError>,
    ) -> Result<T, StoreError> {
        guarded(&self.path, "scan", || step().map_err(Error::from))
    }

    fn records(&self) -> Result<Records, Error> {
        Ok(self.db().begin_read()?.open_table(RECORDS)?)
    }

    /// Applies a batch: visible to later reads, and in memory only until the next
    /// [`commit`](Self::commit).
    pub(super) fn apply(&self, batch: &Batch) -> Result<(), StoreError> {
        guarded(&self.path, "write", || {
            let mut writes = self.db().begin_write()?;
            writes.set_durability(Durability::None)?;
            let mut records = writes.open_table(RECORDS)?;
            for op in batch {
                match op {
                    Op::Put(key, value) => records.insert(&key[..], &value[..])?,
                    Op::Delete(key) => records.remove(&key[..])?,
                };
            }
            drop(records);
            Ok(writes.commit()?)
        })
    }

    /// Fails if the file has been deleted.
    pub(super) fn check_has_a_name(&self) -> Result<(), StoreError> {
        check_has_a_name(&self.file, &self.path)
    }

    /// Makes all applied batches durable under this number, and records the store's identity if one
    /// is given.
    pub(super) fn commit(&self, number: u64, identity: Option<Identity>) -> Result<(), StoreError> {
        guarded(&self.path, "commit to", || {
            let writes = self.db().begin_write()?;
            writes.open_table(RECORDS)?;
            if let Some(identity) = identity {
                let identity = identity.to_bytes();
                writes.open_table(STORE)?.insert(IDENTITY, &identity[..])?;
            }
            writes.open_table(COMMITS)?.insert(LAST, number)?;
            Ok(writes.commit()?)
        })
    }

    /// Returns the identity of the store that the file belongs to; `None` if only versions without
    /// ids have written to it.
    pub(super) fn identity(&self) -> Result<Option<Identity>, StoreError> {
        let found = guarded(&self.path, "read", || {
            match self.db().begin_read()?.open_table(STORE) {
                Ok(store) => Ok(store.get(IDENTITY)?.map(|found| found.value().to_vec())),
                Err(TableError::TableDoesNotExist(_)) => Ok(None),
                Err(error) => Err(error.into()),
            }
        })?;
        let unreadable = || damaged(&self.path, "the id of its store cannot be read");
        found
            .map(|bytes| Identity::from_bytes(&bytes).ok_or_else(unreadable))
            .transpose()
    }

    /// Returns the number of the last commit.
    pub(super) fn last_commit(&self) -> Result<u64, StoreError> {
        let last = guarded(&self.path, "read", || {
            let commits = self.db().begin_read()?.open_table(COMMITS)?;
            Ok(commits.get(LAST)?.map(|last| last.value()))
        })?;
        last.ok_or_else(|| damaged(&self.path, "the number of its last commit is missing"))
    }
}

/// Catches the panic with which redb closes a file after it has panicked on damage.
impl Drop for Base {
    fn drop(&mut self) {
        let db = self.db.take();
        if let Err(error) = catch_panics(&self.path, "redb", "close", || drop(db)) {
            error!(file = %self.path.display(), %error, "redb was not closed");
        }
    }
}

impl fmt::Debug for Base {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Base")
            .field("path", &self.path)
            .finish_non_exhaustive()
    }
}

fn builder() -> Builder {
    let mut builder = Database::builder();
    builder.set_cache_size(CACHE_BYTES);
    builder
}

/// Returns redb's backend, and another handle to its file.
fn backend(path: &Path) -> Result<(FileBackend, File), StoreError> {
    let file = open_private(path)?;
    let same = file.try_clone().map_err(|e| failed("open", path, e))?;
    let backend = guarded(path, "open", || Ok(FileBackend::new(file)?))?;
    Ok((backend, same))
}

/// Runs a call into redb and converts its panics and errors.
fn guarded<T>(
    path: &Path,
    doing: &str,
    work: impl FnOnce() -> Result<T, Error>,
) -> Result<T, StoreError> {
    catch_panics(path, "redb", doing, work)?.map_err(|error| match error {
        Error::Io(e) if e.kind() == ErrorKind::UnexpectedEof => {
            damaged(path, "it ends before what it refers to")
        }
        // redb's own error of a file without its head.
        Error::Io(e) if e.kind() == ErrorKind::InvalidData => damaged(path, e.to_string()),
        // redb does not continue after an error.
        Error::Io(e) => StoreError::io_once(format!("{doing} {}", path.display()), e),
        Error::DatabaseAlreadyOpen => StoreError::Locked {
            path: path.to_owned(),
            holder: Holder::Unknown,
        },
        Error::PreviousIo => StoreError::Poisoned(error.to_string()),
        other => damaged(path, other.to_string()),
    })
}
