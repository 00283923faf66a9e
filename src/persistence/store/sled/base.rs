//! sled itself: the durable base under the log, written only by checkpoints.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tracing::error;

use super::copy::copy_sled;
use super::disk::Disk;
use super::pool;
use super::prepare::{prepare, sync_created_files};
use crate::persistence::store::fs::dir::Dir;
use crate::persistence::store::fs::engine_dir;
use crate::persistence::store::fs::files::damaged;
use crate::persistence::store::fs::identity::Identity;
use crate::persistence::store::fs::panic_guard::catch_panics;
use crate::persistence::store::wal::base::{Base, Mark};
use crate::persistence::store::wal::memtable::{Bounds, Entry};
use crate::persistence::store::{Holder, Pair, StoreError};
use crate::testing::negative_control::Rule::H13;
use crate::testing::negative_control::without;

/// The cache serves reads from disk; recently written keys are in the memtables. sled's own default
/// of 1 GiB is too much for a library inside another program. The size counts bytes as they are on
/// disk, which take about twice as many in memory. Measured: 16 MB took 30 MB more, and no less
/// time, for groups of a million, for chords and for working off a backlog.
const CACHE_BYTES: u64 = 4 << 20;

/// The segment size, twice sled's default. sled puts a tree node larger than a quarter of this into
/// a file in `blobs/`, which it never fsyncs and deletes too early (H5). A node holds up to 20
/// records (16, one more before it splits, three from a merged neighbour), so the default is safe
/// up to 6,500 bytes of key and value and this size up to 13,000. An existing store opens only with
/// the size it was created with: a change needs a migration.
pub(super) const SEGMENT_BYTES: usize = 1 << 20;

/// How long a thread of sled's pool may hold the log file after its store was dropped.
const STRAGGLERS: Duration = Duration::from_secs(2);

/// The tree of chordal's own marks, beside the tree of the store's records.
const MARKS: &str = "log";
pub(super) const MARK: &[u8] = b"checkpoint";
pub(super) const IDENTITY: &[u8] = b"store";

/// sled, with the file handles that make its data durable.
pub(super) struct SledBase {
    dir: PathBuf,
    /// The directory, held open: sled creates and removes files by their paths.
    handle: Dir,
    /// `None` only while dropping: sled may hang or panic when it is dropped.
    trees: Option<Trees>,
    /// Locked for each fsync: the kernel reports an error once, so a second caller on the same
    /// descriptor would see success.
    pub(super) disk: Mutex<Disk>,
    /// The last segment of sled's log of which a part is known to be on disk, with all segments
    /// before it (H13).
    pub(super) settled: AtomicI64,
    /// Set when sled failed inside a write and might still write half of it.
    torn: AtomicBool,
}

struct Trees {
    db: ::sled::Db,
    marks: ::sled::Tree,
}

impl SledBase {
    /// Opens sled in `<data_dir>/sled`. What it reads is on disk before this returns.
    pub(super) fn open(data_dir: &Path) -> Result<Self, StoreError> {
        let dir = data_dir.join("sled");
        let fresh = prepare(&dir)?;
        let disk = Disk::open(&dir)?;
        let db = pool::begin_with(
            || start(&dir),
            |db| {
                let flush = || pollster::block_on(db.flush_async());
                guarded(&dir, "flush", flush).map(drop)
            },
        )?;
        let marks = guarded(&dir, "open a tree", || db.open_tree(MARKS))?;
        let base = Self {
            trees: Some(Trees { db, marks }),
            disk: Mutex::new(disk),
            settled: AtomicI64::new(-1),
            torn: AtomicBool::new(false),
            handle: Dir::open(dir.clone())?,
            dir,
        };
        let flushed = base.flush()?;
        sync_created_files(&base.dir)?;
        base.settled.store(flushed, Ordering::Release);
        if fresh {
            engine_dir::finish(data_dir, &base.dir)?;
        }
        Ok(base)
    }

    /// Hands one entry to sled; returns the segment in which sled's log then ends.
    pub(super) fn put(&self, (key, value): Entry<'_>) -> Result<i64, StoreError> {
        let db = &self.trees().db;
        let put = || {
            match value {
                Some(value) => db.insert(key, value)?,
                // For a missing key sled writes nothing.
                None => db.remove(key)?,
            };
            end_of_log(db)
        };
        guarded(&self.dir, "write", put).inspect_err(|_| {
            // After an error of its log sled writes nothing more. After any other error it treats
            // the write as done, and would write the half that exists.
            let stopped = db.context.global_error().is_err();
            self.torn.fetch_or(!stopped, Ordering::AcqRel);
        })
    }

    /// Removes the identity, as in a store of a version without ids.
    #[cfg(test)]
    pub(super) fn forget_identity(&self) {
        self.trees().marks.remove(IDENTITY).unwrap();
        self.settle().unwrap();
    }

    #[cfg(test)]
    pub(super) fn size_on_disk(&self) -> u64 {
        self.trees().db.size_on_disk().unwrap()
    }

    fn trees(&self) -> &Trees {
        self.trees.as_ref().expect("sled is there until drop")
    }

    /// Makes sled hand its data to the kernel; returns the segment of its log in which the data
    /// ends.
    pub(super) fn flush(&self) -> Result<i64, StoreError> {
        let db = &self.trees().db;
        guarded(&self.dir, "flush", || db.flush())?;
        Ok(segment(db.context.pagecache.log.stable_offset()))
    }
}

impl Base for SledBase {
    type Range<'a> = RangeIter<'a>;

    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        let value = guarded(&self.dir, "read", || self.trees().db.get(key))?;
        Ok(value.map(|value| value.to_vec()))
    }

    /// Returns an iterator over the keys between the bounds; each pair is as new as the step that
    /// reaches it, or a little older.
    fn range(&self, bounds: Bounds<'_>) -> RangeIter<'_> {
        RangeIter {
            dir: &self.dir,
            steps: self.trees().db.range::<&[u8], _>(bounds),
        }
    }

    /// Hands entries to sled and waits until they are written; they are durable only after
    /// [`settle`](Self::settle). More entries at once would hang sled: a thread that appends to its
    /// file waits, under its accountant's lock, for a pool thread to shorten the file, while all
    /// pool threads may be waiting for that lock, each with a buffer to write (segment.rs:987,
    /// iobuf.rs:470).
    ///
    /// Entries are written one by one, not as a batch of sled's: a crash may leave a part of
    /// either, the log has all of them, and while sled applies a batch no other thread can read.
    ///
    /// The base is settled whenever an entry has taken sled's log into another segment (H13). sled
    /// moves pages and then overwrites the segments where they were, in place, once the header of a
    /// later segment names a position in its log behind the move. An open trusts these headers as
    /// well: it does not miss anything before the segment that the latest header names. Both are
    /// right as long as a header names nothing that is not on disk, except in the segment in which
    /// it ends. When sled was last settled in segment `n`, the headers written since are those of
    /// `n + 1`, and of `n + 2` if one entry has filled everything between. They name a position in
    /// `n` at most, and all segments before `n` are on disk.
    fn write<'a>(&self, entries: impl IntoIterator<Item = Entry<'a>>) -> Result<(), StoreError> {
        for entry in entries {
            let last = self.put(entry)?;
            if last > self.settled.load(Ordering::Acquire) && !without(H13) {
                self.settle()?;
            }
        }
        self.flush().map(drop)
    }

    /// Makes all entries written before survive power loss (H1, H5).
    fn settle(&self) -> Result<(), StoreError> {
        let flushed = self.flush()?;
        self.disk.lock().fsync()?;
        self.settled.fetch_max(flushed, Ordering::AcqRel);
        Ok(())
    }

    /// Returns the mark, or `None` if there never was a log beside this base.
    fn mark(&self) -> Result<Option<Mark>, StoreError> {
        let Some(bytes) = guarded(&self.dir, "read", || self.trees().marks.get(MARK))? else {
            return Ok(None);
        };
        match Mark::of(&bytes) {
            Some(mark) => Ok(Some(mark)),
            None => Err(damaged(&self.dir, "its mark of the log cannot be read")),
        }
    }

    /// Durably records how much of the log sled holds; that part must be settled.
    fn set_mark(&self, mark: Mark) -> Result<(), StoreError> {
        guarded(&self.dir, "write", || {
            self.trees().marks.insert(MARK, mark.to_bytes())
        })?;
        self.settle()
    }

    /// Returns the identity of the store that sled belongs to; `None` if only versions without ids
    /// have written to it.
    fn identity(&self) -> Result<Option<Identity>, StoreError> {
        let found = guarded(&self.dir, "read", || self.trees().marks.get(IDENTITY))?;
        found
            .map(|bytes| {
                let unreadable = || damaged(&self.dir, "the id of its store cannot be read");
                Identity::from_bytes(&bytes).ok_or_else(unreadable)
            })
            .transpose()
    }

    /// Durably records the identity of the store.
    fn set_identity(&self, identity: Identity) -> Result<(), StoreError> {
        guarded(&self.dir, "write", || {
            self.trees().marks.insert(IDENTITY, &identity.to_bytes())
        })?;
        self.settle()
    }

    /// Fails if sled's directory is no longer at its path, or its file was deleted.
    fn check_in_place(&self) -> Result<(), StoreError> {
        self.handle.check_in_place()?;
        self.disk.lock().check_has_a_name()
    }

    fn copy_into(&self, part: &Path) -> Result<(), StoreError> {
        copy_sled(&self.dir, &part.join("sled"))
    }
}

impl fmt::Debug for SledBase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SledBase")
            .field("dir", &self.dir)
            .finish_non_exhaustive()
    }
}

impl Drop for SledBase {
    fn drop(&mut self) {
        let trees = self.trees.take();
        if self.torn.load(Ordering::Acquire) {
            // sled flushes when it is dropped, and hangs forever while the failed record holds its
            // buffer. Leaking it keeps its file locked until the process ends.
            std::mem::forget(trees);
            return;
        }
        // sled's drop unwraps an fsync of its own.
        if catch_unwind(AssertUnwindSafe(|| drop(trees))).is_err() {
            error!(dir = %self.dir.display(), "sled panicked while closing");
        }
    }
}

/// Returns the segment in which sled's log ends. sled tells only the position of a reservation: one
/// is made and aborted, which costs 12 bytes of log.
fn end_of_log(db: &::sled::Db) -> ::sled::Result<i64> {
    let log = &db.context.pagecache.log;
    let reservation = log.reserve(::sled::LogKind::Free, 0, &(), &::sled::pin())?;
    reservation.abort().map(|(lsn, _)| segment(lsn))
}

/// Returns the number of the segment that holds this byte of sled's log.
fn segment(lsn: ::sled::Lsn) -> i64 {
    lsn.div_euclid(SEGMENT_BYTES as i64)
}

/// The iterator of [`SledBase::range`]. After an error it must not be advanced: sled would return
/// the same error forever.
pub(super) struct RangeIter<'a> {
    dir: &'a Path,
    steps: ::sled::Iter,
}

type Step = Option<::sled::Result<(::sled::IVec, ::sled::IVec)>>;

impl RangeIter<'_> {
    fn step(&mut self, step: fn(&mut ::sled::Iter) -> Step) -> Option<Result<Pair, StoreError>> {
        let pair = guarded(self.dir, "scan", || step(&mut self.steps).transpose()).transpose()?;
        Some(pair.map(|(key, value)| (key.to_vec(), value.to_vec())))
    }
}

impl Iterator for RangeIter<'_> {
    type Item = Result<Pair, StoreError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.step(Iterator::next)
    }
}

impl DoubleEndedIterator for RangeIter<'_> {
    fn next_back(&mut self) -> Option<Self::Item> {
        self.step(DoubleEndedIterator::next_back)
    }
}

/// Opens sled; waits for the last threads of a store that was just dropped.
fn start(dir: &Path) -> Result<::sled::Db, StoreError> {
    let config = ::sled::Config::new()
        .path(dir)
        .cache_capacity(CACHE_BYTES)
        .segment_size(SEGMENT_BYTES)
        .flush_every_ms(None); // H8: its errors would only be logged
    let started = Instant::now();
    loop {
        let error = match guarded(dir, "open", || config.open()) {
            Ok(db) => return Ok(db), // H10
            Err(error) => error,
        };
        // sled reports a held lock only in the error's text.
        if !error.to_string().contains("could not acquire lock") {
            return Err(error);
        }
        if started.elapsed() > STRAGGLERS {
            return Err(StoreError::Locked {
                path: dir.to_owned(),
                holder: Holder::Unknown,
            });
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Runs a call into sled and converts its panics and errors (H10).
fn guarded<T>(
    path: &Path,
    doing: &str,
    work: impl FnOnce() -> ::sled::Result<T>,
) -> Result<T, StoreError> {
    use ::sled::Error::{CollectionNotFound, Corruption, Io, ReportableBug, Unsupported};
    catch_panics(path, "sled", doing, work)?.map_err(|error| match error {
        Io(e) => StoreError::io_once(format!("{doing} {}", path.display()), e),
        Corruption { at, .. } => damaged(path, format!("bad bytes at {at:?}")),
        Unsupported(what) | ReportableBug(what) => damaged(path, what),
        CollectionNotFound(_) => damaged(path, "its tree is missing"),
    })
}
