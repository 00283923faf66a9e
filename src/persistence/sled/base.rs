//! sled itself: the durable base under the log, written by checkpoints only.

use std::fmt;
use std::ops::Bound;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tracing::error;

use super::disk::Disk;
use super::files::damaged;
use super::memtable::{Entry, MaxKeys};
use super::pool;
use super::prepare::{prepare, sync_created_files};
use super::replay::Held;
use crate::persistence::dir::Dir;
use crate::persistence::identity::Identity;
use crate::persistence::negative_control::{Rule::H13, without};
use crate::persistence::panic_guard::catch_panics;
use crate::persistence::{Holder, Pair, StoreError, engine_dir};

/// What is read again soon lies in the overlay; this is for what comes back from the disk. sled's own
/// default of 1 GiB is too much for a library that lives inside somebody else's process. It counts bytes
/// as they are on disk, which take about twice as many in memory. Measured: 16 MB took 30 MB more, and no
/// less time, for groups of a million, chords, and a backlog that is worked off.
const CACHE_BYTES: u64 = 4 << 20;

/// Twice sled's default. sled puts a tree node larger than a quarter of this into a file in
/// `blobs/`, which it never fsyncs and deletes too early (H5). A node holds up to 20 records
/// (16, one more before it splits, three from a merged neighbour), so the default is safe to
/// 6,500 bytes of key and value and this to 13,000. Existing stores open with their own size
/// only: a change needs a migration.
pub(super) const SEGMENT_BYTES: usize = 1 << 20;

/// How long a thread of sled's pool may hold the log file after its store was dropped.
const STRAGGLERS: Duration = Duration::from_secs(2);

/// The tree beside the users' own that holds the mark.
const MARKS: &str = "log";
pub(super) const MARK: &[u8] = b"checkpoint";
pub(super) const IDENTITY: &[u8] = b"store";

/// How much of the log sled holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Mark {
    /// The last frame of the log that sled holds.
    pub(super) seq: u64,
    /// A segment of the log that was begun before sled was given the last of these: there must be
    /// one of this generation or a later one.
    pub(super) generation: u64,
}

/// sled, and the means to make durable what it holds.
pub(super) struct Base {
    dir: PathBuf,
    /// The same, held open: sled makes and removes files by their paths.
    place: Dir,
    /// `None` only while dropping: sled may hang or panic when it is.
    trees: Option<Trees>,
    /// One fsync at a time: the kernel tells an error once, so a second caller on the same
    /// descriptor would be told that all is well.
    pub(super) disk: Mutex<Disk>,
    /// The last segment of sled's log of which a part is known to be on disk, with all before it (H13).
    pub(super) settled: AtomicI64,
    /// Set when sled gave up inside a write and might still write the half it has.
    torn: AtomicBool,
}

struct Trees {
    db: ::sled::Db,
    marks: ::sled::Tree,
}

impl Mark {
    /// Reads the record of it.
    pub(super) fn of(bytes: &[u8]) -> Option<Self> {
        let ([seq, generation], []) = bytes.as_chunks::<8>() else {
            return None;
        };
        Some(Self {
            seq: u64::from_be_bytes(*seq),
            generation: u64::from_be_bytes(*generation),
        })
    }
}

impl Base {
    /// Opens sled in `<home>/sled`. What it finds is on the disk before it returns.
    pub(super) fn open(home: &Path) -> Result<Self, StoreError> {
        let dir = home.join("sled");
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
        let base = Base {
            trees: Some(Trees { db, marks }),
            disk: Mutex::new(disk),
            settled: AtomicI64::new(-1),
            torn: AtomicBool::new(false),
            place: Dir::open(dir.clone())?,
            dir,
        };
        let flushed = base.flush()?;
        sync_created_files(&base.dir)?;
        base.settled.store(flushed, Ordering::Release);
        if fresh {
            engine_dir::finish(home, &base.dir)?;
        }
        Ok(base)
    }

    pub(super) fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        let value = guarded(&self.dir, "read", || self.trees().db.get(key))?;
        Ok(value.map(|value| value.to_vec()))
    }

    /// Walks over the keys between the bounds, as they are when it gets there or a little before.
    pub(super) fn range(&self, bounds: (Bound<&[u8]>, Bound<&[u8]>)) -> RangeIter<'_> {
        RangeIter {
            dir: &self.dir,
            steps: self.trees().db.range::<&[u8], _>(bounds),
        }
    }

    /// The largest key under each first byte.
    pub(super) fn tops(&self) -> Result<MaxKeys, StoreError> {
        let mut tops = MaxKeys::default();
        let mut end = None;
        loop {
            let to = match &end {
                Some(first) => Bound::Excluded(std::slice::from_ref(first)),
                None => Bound::Unbounded,
            };
            let last = self.range((Bound::Unbounded, to)).next_back();
            let Some((last, _)) = last.transpose()? else {
                return Ok(tops);
            };
            end = last.first().copied();
            if end.is_none() {
                return Ok(tops);
            }
            tops.raise(last);
        }
    }

    /// Hands entries to sled and waits until they are written; durable only after
    /// [`settle`](Self::settle). More at once would hang it: a thread that appends to its file waits, under
    /// its accountant's lock, for a pool thread to have shortened the file, and all of those may be
    /// waiting for that lock, each with a buffer to write (segment.rs:987, iobuf.rs:470).
    ///
    /// One by one, not as a batch of sled's: a crash may leave a part of either, the log has it all, and
    /// while a batch is applied no other thread can read.
    ///
    /// All is settled whenever an entry has taken sled's log into another segment (H13). sled moves pages
    /// and then writes over the segments where they were, in place, once the head of a later segment names a
    /// place in its log behind the move. An open trusts these heads as well: before the segment that the
    /// latest one names it misses nothing. Both are right as long as a head names nothing that is not on
    /// disk, but for the segment in which it ends. When sled was last settled in segment `n`, the heads that
    /// have been written since are of `n + 1`, and of `n + 2` if one entry has filled all between. They name
    /// a place in `n` at most, and what is before `n` is on disk.
    pub(super) fn write<'a>(
        &self,
        entries: impl IntoIterator<Item = Entry<'a>>,
    ) -> Result<(), StoreError> {
        for entry in entries {
            let last = self.put(entry)?;
            if last > self.settled.load(Ordering::Acquire) && !without(H13) {
                self.settle()?;
            }
        }
        self.flush().map(drop)
    }

    /// Hands one entry to sled; returns the segment in which sled's log then ends.
    pub(super) fn put(&self, (key, value): Entry<'_>) -> Result<i64, StoreError> {
        let db = &self.trees().db;
        let put = || {
            match value {
                Some(value) => db.insert(key, value)?,
                // For a key that it does not have, sled writes nothing.
                None => db.remove(key)?,
            };
            end_of_log(db)
        };
        guarded(&self.dir, "write", put).inspect_err(|_| {
            // After an error of its log sled writes nothing more. After any other it takes what it was
            // doing for done, and would write the half that is there.
            let stopped = db.context.global_error().is_err();
            self.torn.fetch_or(!stopped, Ordering::AcqRel);
        })
    }

    /// Returns when all that was applied before survives power loss (H1, H5).
    pub(super) fn settle(&self) -> Result<(), StoreError> {
        let flushed = self.flush()?;
        self.disk.lock().fsync()?;
        self.settled.fetch_max(flushed, Ordering::AcqRel);
        Ok(())
    }

    /// Refuses to go on where sled's directory is no longer at its path, or its file was deleted.
    pub(super) fn check_in_place(&self) -> Result<(), StoreError> {
        self.place.check_in_place()?;
        self.disk.lock().check_has_a_name()
    }

    /// The store that this belongs to; `None` if no version that gives ids has written to it.
    pub(super) fn identity(&self) -> Result<Option<Identity>, StoreError> {
        let found = guarded(&self.dir, "read", || self.trees().marks.get(IDENTITY))?;
        found
            .map(|bytes| {
                let unreadable = || damaged(&self.dir, "the id of its store cannot be read");
                Identity::from_bytes(&bytes).ok_or_else(unreadable)
            })
            .transpose()
    }

    /// What is held of the log, and whose that is.
    pub(super) fn held(&self) -> Result<Held, StoreError> {
        let (mark, identity) = (self.mark()?, self.identity()?);
        Ok(Held { mark, identity })
    }

    /// Durably notes which store this belongs to.
    pub(super) fn set_identity(&self, identity: Identity) -> Result<(), StoreError> {
        guarded(&self.dir, "write", || {
            self.trees().marks.insert(IDENTITY, &identity.to_bytes())
        })?;
        self.settle()
    }

    /// The mark, or `None` if there never was a log beside this base.
    pub(super) fn mark(&self) -> Result<Option<Mark>, StoreError> {
        let Some(bytes) = guarded(&self.dir, "read", || self.trees().marks.get(MARK))? else {
            return Ok(None);
        };
        match Mark::of(&bytes) {
            Some(mark) => Ok(Some(mark)),
            None => Err(damaged(&self.dir, "its mark of the log cannot be read")),
        }
    }

    /// Durably notes how much of the log is held; that much must be settled.
    pub(super) fn set_mark(&self, mark: Mark) -> Result<(), StoreError> {
        let bytes = [mark.seq.to_be_bytes(), mark.generation.to_be_bytes()].concat();
        guarded(&self.dir, "write", || {
            self.trees().marks.insert(MARK, bytes)
        })?;
        self.settle()
    }

    /// Makes it that of a version that gives no ids.
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

    /// Has sled hand to the kernel what it holds; returns the segment of its log in which that ends.
    pub(super) fn flush(&self) -> Result<i64, StoreError> {
        let db = &self.trees().db;
        guarded(&self.dir, "flush", || db.flush())?;
        Ok(segment(db.context.pagecache.log.stable_offset()))
    }
}

impl fmt::Debug for Base {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Base")
            .field("dir", &self.dir)
            .finish_non_exhaustive()
    }
}

impl Drop for Base {
    fn drop(&mut self) {
        let trees = self.trees.take();
        if self.torn.load(Ordering::Acquire) {
            // sled flushes when dropped, and hangs for ever when the failed record still holds its
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

/// Returns the segment in which sled's log ends. sled does not say, but for a place in its log that it is
/// asked for: that is taken, and given back, which costs it 12 bytes.
fn end_of_log(db: &::sled::Db) -> ::sled::Result<i64> {
    let log = &db.context.pagecache.log;
    let place = log.reserve(::sled::LogKind::Free, 0, &(), &::sled::pin())?;
    place.abort().map(|(lsn, _)| segment(lsn))
}

/// Returns the number of the segment that holds this byte of sled's log.
fn segment(lsn: ::sled::Lsn) -> i64 {
    lsn.div_euclid(SEGMENT_BYTES as i64)
}

/// See [`Base::range`]. After an error sled would give the same one for ever: do not go on.
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

/// Opens sled, waiting for the last threads of a store that was just dropped.
fn start(dir: &Path) -> Result<::sled::Db, StoreError> {
    let config = ::sled::Config::new()
        .path(dir)
        .cache_capacity(CACHE_BYTES)
        .segment_size(SEGMENT_BYTES)
        .flush_every_ms(None); // H8: its errors would only be logged
    let begun = Instant::now();
    loop {
        let error = match guarded(dir, "open", || config.open()) {
            Ok(db) => return Ok(db), // H10
            Err(error) => error,
        };
        // sled gives its lock away in words only.
        if !error.to_string().contains("could not acquire lock") {
            return Err(error);
        }
        if begun.elapsed() > STRAGGLERS {
            return Err(StoreError::Locked {
                path: dir.to_owned(),
                holder: Holder::Unknown,
            });
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Runs a call into sled: its panics and errors come back as ours (H10).
fn guarded<T>(
    place: &Path,
    doing: &str,
    work: impl FnOnce() -> ::sled::Result<T>,
) -> Result<T, StoreError> {
    use ::sled::Error::{CollectionNotFound, Corruption, Io, ReportableBug, Unsupported};
    catch_panics(place, "sled", doing, work)?.map_err(|error| match error {
        Io(e) => StoreError::io_once(format!("{doing} {}", place.display()), e),
        Corruption { at, .. } => damaged(place, format!("bad bytes at {at:?}")),
        Unsupported(what) | ReportableBug(what) => damaged(place, what),
        CollectionNotFound(_) => damaged(place, "its tree is missing"),
    })
}
