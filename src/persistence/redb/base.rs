//! redb itself: its file opened and verified, its transactions.

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

use crate::persistence::dir::check_has_a_name;
use crate::persistence::files::{damaged, failed, open_private, sync_file};
use crate::persistence::identity::Identity;
use crate::persistence::panic_guard::catch_panics;
use crate::persistence::{Batch, Holder, Op, StoreError};

/// redb's own default of 1 GiB is too much for a library that lives inside somebody else's process.
const CACHE_BYTES: usize = 16 << 20;

/// A smaller file is not worth the trouble.
const LARGE: u64 = 4 << 20;

type Records = ReadOnlyTable<&'static [u8], &'static [u8]>;
/// A walk over redb as it was when the walk was begun.
pub(super) type RangeIter = redb::Range<'static, &'static [u8], &'static [u8]>;

const RECORDS: TableDefinition<&[u8], &[u8]> = TableDefinition::new("records");
const COMMITS: TableDefinition<&str, u64> = TableDefinition::new("commits");
const LAST: &str = "last";
/// Whose store this is, since version 2.
const STORE: TableDefinition<&str, &[u8]> = TableDefinition::new("store");
const IDENTITY: &str = "identity";

const THERE: &str = "redb is there until drop";

/// redb's file.
pub(super) struct Base {
    path: PathBuf,
    /// `None` only while dropping: redb may panic when it is.
    db: Option<Database>,
    /// The file that redb has open, to see whether it still has a name.
    file: File,
}

impl Base {
    /// Makes redb's file; it is on disk before this returns, its name may not be.
    pub(super) fn make<B: StorageBackend>(
        path: PathBuf,
        identity: Identity,
        disk: impl FnOnce(FileBackend) -> B,
    ) -> Result<Self, StoreError> {
        let (backend, file) = backend(&path)?;
        let backend = disk(backend);
        let db = guarded(
            &path,
            "make",
            || Ok(builder().create_with_backend(backend)?),
        )?;
        let base = Self {
            path,
            db: Some(db),
            file,
        };
        base.commit(0, Some(identity))?;
        Ok(base)
    }

    /// Opens redb's file and verifies every page of it. What it finds is on disk before this returns.
    pub(super) fn open<B: StorageBackend>(
        path: PathBuf,
        disk: impl FnOnce(FileBackend) -> B,
    ) -> Result<Self, StoreError> {
        let (mut base, is_repaired) = Self::open_file(path, disk)?;
        if is_repaired {
            // That reads every page that can be reached, too.
            info!(file = %base.path.display(), "it was not closed; redb has gone through it");
        } else {
            base.verify()?;
        }
        Ok(base)
    }

    /// Opens redb's file, of which some pages may be damaged.
    pub(super) fn open_damaged(path: PathBuf) -> Result<Self, StoreError> {
        Self::open_file(path, |file| file).map(|(base, _)| base)
    }

    /// Opens redb's file; returns whether redb has gone through all of it.
    fn open_file<B: StorageBackend>(
        path: PathBuf,
        disk: impl FnOnce(FileBackend) -> B,
    ) -> Result<(Self, bool), StoreError> {
        if fs::metadata(&path).map_or(0, |found| found.len()) == 0 {
            // redb would make a new store of it.
            return Err(damaged(
                &path,
                "the file of a finished store is missing or empty",
            ));
        }
        // After a kill the kernel may hold what the disk does not.
        sync_file(&path)?;
        let (backend, file) = backend(&path)?;
        let backend = disk(backend);
        let is_repaired = Rc::new(Cell::new(false));
        let repaired = is_repaired.clone();
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
        Ok((base, is_repaired.get()))
    }

    fn verify(&mut self) -> Result<(), StoreError> {
        let db = self.db.as_mut().expect(THERE);
        if !guarded(&self.path, "verify", || Ok(db.check_integrity()?))? {
            // If that took a commit back, the fence tells.
            warn!(file = %self.path.display(), "redb has repaired its file");
        }
        Ok(())
    }

    fn db(&self) -> &Database {
        self.db.as_ref().expect(THERE)
    }

    /// Gives space back to the file system where most of a large file is free: while it is open, redb
    /// uses that again, and hardly shrinks.
    pub(super) fn compact(&mut self) -> Result<(), StoreError> {
        let path = &self.path;
        let size = fs::metadata(path).map_err(|e| failed("look at", path, e))?;
        if size.len() < LARGE {
            return Ok(());
        }
        let used = guarded(path, "measure", || {
            let writes = self.db().begin_write()?;
            let stats = writes.stats()?;
            writes.abort()?;
            Ok(stats.allocated_pages() * stats.page_size() as u64)
        })?;
        if used < size.len() / 2 {
            info!(file = %path.display(), bytes = size.len(), used, "most of it is free; giving that back");
            let db = self.db.as_mut().expect(THERE);
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

    /// Walks over the keys between the bounds, as they are now.
    pub(super) fn range(
        &self,
        bounds: (Bound<&[u8]>, Bound<&[u8]>),
    ) -> Result<RangeIter, StoreError> {
        guarded(&self.path, "scan", || {
            Ok(self.records()?.range::<&[u8]>(bounds)?)
        })
    }

    /// Runs one step of a walk.
    pub(super) fn walk<T>(
        &self,
        step: impl FnOnce() -> Result<T, redb::StorageError>,
    ) -> Result<T, StoreError> {
        guarded(&self.path, "scan", || step().map_err(Error::from))
    }

    fn records(&self) -> Result<Records, Error> {
        Ok(self.db().begin_read()?.open_table(RECORDS)?)
    }

    /// Applies a batch: seen by who reads from now on, in memory until the next
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

    /// Refuses to go on with a file that has been deleted.
    pub(super) fn check_has_a_name(&self) -> Result<(), StoreError> {
        check_has_a_name(&self.file, &self.path)
    }

    /// Makes all that was applied durable, under this number; and, if it is to be noted, whose store it is.
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

    /// The store that this belongs to; `None` if no version that gives ids has written to it.
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

    /// The number of the last commit.
    pub(super) fn last_commit(&self) -> Result<u64, StoreError> {
        let last = guarded(&self.path, "read", || {
            let commits = self.db().begin_read()?.open_table(COMMITS)?;
            Ok(commits.get(LAST)?.map(|last| last.value()))
        })?;
        last.ok_or_else(|| damaged(&self.path, "the number of its last commit is missing"))
    }
}

/// After it has panicked on a damaged file, redb panics once more when it closes it.
impl Drop for Base {
    fn drop(&mut self) {
        let db = self.db.take();
        if let Err(error) = catch_panics(&self.path, "redb", "close", || drop(db)) {
            error!(file = %self.path.display(), %error, "it was not closed");
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

/// What redb is given to work on, and the file that it is.
fn backend(path: &Path) -> Result<(FileBackend, File), StoreError> {
    let file = open_private(path)?;
    let same = file.try_clone().map_err(|e| failed("open", path, e))?;
    let backend = guarded(path, "open", || Ok(FileBackend::new(file)?))?;
    Ok((backend, same))
}

/// Runs a call into redb: its panics and errors come back as ours.
fn guarded<T>(
    place: &Path,
    doing: &str,
    work: impl FnOnce() -> Result<T, Error>,
) -> Result<T, StoreError> {
    catch_panics(place, "redb", doing, work)?.map_err(|error| match error {
        Error::Io(e) if e.kind() == ErrorKind::UnexpectedEof => {
            damaged(place, "it ends before what it refers to")
        }
        // redb does not go on after an error.
        Error::Io(e) => StoreError::io_once(format!("{doing} {}", place.display()), e),
        Error::DatabaseAlreadyOpen => StoreError::Locked {
            path: place.to_owned(),
            holder: Holder::Unknown,
        },
        Error::PreviousIo => StoreError::Poisoned(error.to_string()),
        other => damaged(place, other.to_string()),
    })
}
