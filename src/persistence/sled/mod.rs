//! A store on disk: a log of our own in front of sled 0.34.7, which is made to keep its word.
//!
//! A commit is one frame appended to the log and one `fdatasync`. What is in the log and not yet in
//! sled is in memory, in an overlay that reads look into first. When that is full it is frozen: a
//! thread moves it into sled while a new one fills, and the log's file is used again.
//!
//! sled alone never calls fsync on Linux, is left unopenable by a kill at the wrong moment,
//! and panics on some damaged files. The rules of RELIABILITY.md close these gaps, but for what it
//! says is still open; each is named in these files where it is kept.
//!
//! Segments, fence and sled carry the id of the store: files of two stores are not taken for one. What is
//! done to files of ours while the store is open is done in the directories that were opened; sled goes by
//! paths, so it is given nothing once its directory is no longer at its path.
//!
//! ```text
//! <dir>/LOCK           ours: held while open, names the holder
//! <dir>/aborted        the engine's: whether the process has aborted
//! <dir>/ballast        ours: space that is kept free
//! <dir>/wal/           ours: segments of the log, and a spare one
//!   fence              ours: the number of the last frame that is on disk
//! <dir>/sled/          ours: mode 0700
//!   .creating .ready   ours: one of the two says whether the first open has come to its end
//!   db conf snap.*     sled's
//!   blobs/             sled's, for what is too large for its log; stays empty at records <= 8 KB
//! ```

mod backup;
mod base;
mod checkpoint;
mod disk;
mod frame;
#[cfg(feature = "fuzzing")]
pub(crate) use self::frame::fuzz as fuzz_frames;
mod disk_reserve;
mod log;
mod memtable;
mod pages;
mod pool;
mod prepare;
mod replay;
mod salvage;
mod scan;
mod segment;
#[cfg(test)]
mod tests;
mod verify;

use std::fmt;
use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use parking_lot::{Condvar, Mutex, MutexGuard, RwLock};
use tracing::{error, info, warn};

use self::base::{Base, Mark};
use self::checkpoint::{Checkpoint, Ended};
use self::disk_reserve::DiskReserve;
use self::log::Log;
use self::memtable::Memtables;
pub(super) use self::salvage::salvage;
use self::scan::SledScan;
use super::dir::Dir;
use super::identity::Identity;
use super::{Batch, Durability, Scan, Store, StoreError, data_dir, engine_dir, files};

/// An overlay is frozen when it takes this much memory, or so much of the log. Two of them may be
/// there at a time; what is put and deleted within one never reaches sled.
const LIMIT: usize = 8 << 20;

/// What is found in the log when the store is opened is frozen when half a limit has come to it, or at
/// so many limits: whoever goes on with what was live reads sled, and gets on more slowly beside a
/// checkpoint (measured: 100,000 workflows took 1.05 s, and 0.7 s without it).
const FOUND: usize = 2;

/// While no checkpoint can begin, because sled's files are copied or the system is short of descriptors
/// or memory, an overlay may take so many times as much.
const STILL: usize = 8;

/// How much room a checkpoint must find, in shares of what it moves (measured: its file grows by up to
/// twice that): an error of sled's is for good, so it should not meet a full disk.
const SLED_TAKES: u64 = 3;

/// Keeps an ordered map of bytes in a directory, with sled 0.34.7 inside.
///
/// One process at a time may open a directory. Dropping the store syncs and unlocks it.
///
/// # Examples
/// ```
/// # use chordal::persistence::{Batch, Durability, SledStore, Store};
/// # let home = tempfile::tempdir().unwrap();
/// let store = SledStore::open(home.path())?;
/// let mut batch = Batch::new();
/// batch.put("k", "v");
/// store.apply(batch)?;
/// store.sync(Durability::Power)?; // now it survives power loss
/// drop(store);
/// assert_eq!(SledStore::open(home.path())?.get(b"k")?.as_deref(), Some(&b"v"[..]));
/// # Ok::<(), chordal::persistence::StoreError>(())
/// ```
pub struct SledStore {
    shared: Arc<Shared>,
    /// Locked by whoever writes: batches are in the log in the order in which they are seen.
    writer: Mutex<Writer>,
    /// Told when sled's files are no longer being copied.
    stirs: Condvar,
    /// Of an overlay, in bytes.
    limit: usize,
    /// Last, so that it is let go after sled's own lock.
    _lock: File,
}

#[derive(Debug)]
struct Writer {
    log: Log,
    /// When to freeze the overlay, in bytes of its memory or of the log.
    freeze_at: usize,
    /// Moves the frozen overlay into sled.
    checkpoint: Option<JoinHandle<Ended>>,
    /// A checkpoint that the system was short of something for: it goes on before the next begins.
    put_off: Option<Box<Checkpoint>>,
    /// What the system was short of when a checkpoint was to begin, until one does.
    shortage: Option<StoreError>,
    /// sled's files are being copied: no checkpoint may begin.
    is_still: bool,
}

/// What a checkpoint's thread and a scan need of the store.
#[derive(Debug)]
struct Shared {
    home: Arc<Dir>,
    base: Base,
    room: DiskReserve,
    layers: RwLock<Memtables>,
    /// Why nothing more is accepted; the first reason stays.
    poison: OnceLock<String>,
    /// The store is being dropped: a checkpoint ends where it is.
    closing: AtomicBool,
}

impl Shared {
    fn healthy(&self) -> Result<(), StoreError> {
        match self.poison.get() {
            Some(why) => Err(StoreError::Poisoned(why.clone())),
            None => Ok(()),
        }
    }

    fn poison(&self, error: StoreError) -> StoreError {
        if self.poison.set(error.to_string()).is_ok() {
            error!(store = %self.home.path().display(), %error, "store stopped");
        }
        error
    }
}

impl SledStore {
    /// Opens the store in `dir`, making the directory if need be. If another process has it open, waits 5
    /// seconds for that to end.
    ///
    /// What it finds is on the disk, not only in the kernel's cache, before it returns. Nothing is written
    /// to the directory but by sled, which may put its snapshot in order, and to `LOCK`, until something is
    /// applied.
    ///
    /// Symbolic links in the directory are not followed; the directory itself may be behind one. While the
    /// store is open the directory must stay where it is: once it was renamed, replaced or deleted, nothing
    /// more is acknowledged, with [`StoreError::Moved`], at the latest when the log goes on in its next file.
    ///
    /// # Errors
    ///
    /// [`StoreError::Locked`] if another process, or this one, has it open; [`StoreError::WrongEngine`] if
    /// it is another engine's; [`StoreError::Corrupt`], [`StoreError::RolledBack`],
    /// [`StoreError::WrongStore`] or [`StoreError::UnsupportedVersion`] for what must not be served;
    /// [`StoreError::Full`], [`StoreError::Exhausted`] and [`StoreError::Io`].
    pub fn open(dir: impl AsRef<Path>) -> Result<Self, StoreError> {
        Self::open_within(dir, data_dir::LOCK_TIMEOUT)
    }

    /// As [`open`](Self::open), waiting this long for another process to let go of the store.
    ///
    /// # Errors
    ///
    /// As [`open`](Self::open).
    pub fn open_within(dir: impl AsRef<Path>, lock_timeout: Duration) -> Result<Self, StoreError> {
        Self::open_with(dir.as_ref(), LIMIT, lock_timeout)
    }

    #[cfg(test)]
    pub(super) fn with_limit(dir: &Path, limit: usize) -> Result<Self, StoreError> {
        Self::open_with(dir, limit, data_dir::LOCK_TIMEOUT)
    }

    fn open_with(dir: &Path, limit: usize, lock_timeout: Duration) -> Result<Self, StoreError> {
        let home = data_dir::create_data_dir(dir)?;
        let lock = data_dir::lock(&home, lock_timeout)?;
        engine_dir::check_engine(&home, "sled")?;
        refuse_links(&home)?;
        verify::remove_left_behind(&home);
        let home = Arc::new(Dir::open(home)?);
        let room = DiskReserve::of(home.clone())?;
        let (base, log, layers) = room.make_for(|| open(home.path()))?;
        let found = layers.active().weight().max(log.bytes() as usize);
        let freeze_at = (found + limit / 2).clamp(limit, FOUND * limit);
        Ok(Self {
            shared: Arc::new(Shared {
                home,
                base,
                room,
                layers: RwLock::new(layers),
                poison: OnceLock::new(),
                closing: AtomicBool::new(false),
            }),
            writer: Mutex::new(Writer {
                log,
                freeze_at,
                checkpoint: None,
                put_off: None,
                shortage: None,
                is_still: false,
            }),
            stirs: Condvar::new(),
            limit,
            _lock: lock,
        })
    }

    /// Shows the directory this store was opened in, as an absolute path.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.shared.home.path()
    }

    /// Gets ready for the first write: until then nothing of ours is changed, so that whoever does not like
    /// what it finds has not touched it.
    fn begin(&self, writer: &mut Writer) -> Result<(), StoreError> {
        if writer.log.is_begun() {
            return Ok(());
        }
        let Shared { room, base, .. } = &*self.shared;
        base.check_in_place()?;
        let id = self.identity(writer)?.id;
        let generation = room.make_for(|| writer.log.begin(id))?;
        if base.mark()?.is_none() {
            let mark = Mark { seq: 0, generation };
            base.set_mark(mark)
                .map_err(|error| self.shared.poison(error))?;
        }
        if let Err(error) = room.check() {
            warn!(%error, "new work is refused until there is room on the disk");
        }
        Ok(())
    }

    /// The store's identity, which is drawn when it is first written to. sled has it before any file that
    /// carries it is made.
    fn identity(&self, writer: &Writer) -> Result<Identity, StoreError> {
        let base = &self.shared.base;
        if let Some(known) = base.identity()? {
            return Ok(known);
        }
        let drawn = Identity::draw(writer.log.generation() + 1);
        base.set_identity(drawn)
            .map_err(|error| self.shared.poison(error))?;
        Ok(drawn)
    }

    /// Moves the overlay on, unless there is no room for that: then it goes on to grow, by no more
    /// than what room there is for the log. While a copy is made of sled's files, or while the system is
    /// short of what a checkpoint needs, it may grow as well, within bounds.
    fn checkpoint_when_full(&self, writer: &mut MutexGuard<'_, Writer>) -> Result<(), StoreError> {
        let weight = || self.shared.layers.read().active().weight();
        while writer.is_still && weight() >= STILL * self.limit {
            self.stirs.wait(writer);
        }
        self.shared.healthy()?;
        if writer.is_still || !self.is_due(writer) {
            return Ok(());
        }
        match self.begin_checkpoint(writer, SLED_TAKES * weight() as u64) {
            Ok(()) => {
                if writer.shortage.take().is_some() {
                    info!(store = %self.path().display(), "checkpoints go on");
                }
                Ok(())
            }
            Err(error @ StoreError::Exhausted { .. }) => {
                if writer.shortage.is_none() {
                    warn!(store = %self.path().display(), %error, "a checkpoint is put off");
                }
                writer.shortage = Some(error);
                Ok(())
            }
            Err(error) if error.is_full() => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Begins a checkpoint if there is so much room on the disk. After an error that is temporary nothing is
    /// lost, and it may be tried again.
    fn begin_checkpoint(&self, writer: &mut Writer, room: u64) -> Result<(), StoreError> {
        match self.shared.room.check_has(room) {
            Err(error) if error.is_temporary() => return Err(error),
            // What else is wrong with the ballast says nothing of the room.
            Ok(()) | Err(_) => {}
        }
        let checkpoint = self.freeze(writer, self.limit / 2)?;
        self.start(writer, checkpoint)
    }

    /// Has a thread run the checkpoint; where there can be none, runs it here.
    fn start(&self, writer: &mut Writer, checkpoint: Checkpoint) -> Result<(), StoreError> {
        let handed = Arc::new(Mutex::new(Some(checkpoint)));
        let taken = handed.clone();
        let run = move || {
            let checkpoint = taken.lock().take();
            checkpoint.map_or(Ended::Free(None), Checkpoint::run)
        };
        match spawn(run) {
            Ok(thread) => {
                writer.checkpoint = Some(thread);
                Ok(())
            }
            Err(error) => {
                warn!(store = %self.path().display(), %error, "no thread for a checkpoint: commits wait for it");
                let checkpoint = handed.lock().take();
                checkpoint.map_or(Ok(()), |checkpoint| {
                    self.take_back(writer, checkpoint.run())
                })
            }
        }
    }

    /// Takes from a checkpoint that has ended what it leaves.
    fn take_back(&self, writer: &mut Writer, ended: Ended) -> Result<(), StoreError> {
        self.shared.healthy()?;
        match ended {
            Ended::Free(free) => {
                writer.log.reuse(free);
                Ok(())
            }
            Ended::PutOff(checkpoint, error) => {
                writer.put_off = Some(checkpoint);
                Err(error)
            }
        }
    }

    /// Refuses to make more durable than memory should hold, while no checkpoint can begin for want of
    /// descriptors or memory: what was applied waits.
    fn check_shortage(&self, writer: &mut MutexGuard<'_, Writer>) -> Result<(), StoreError> {
        let is_bounded = || {
            let weight = self.shared.layers.read().active().weight();
            weight < STILL * self.limit
        };
        if writer.shortage.is_none() || is_bounded() {
            return Ok(());
        }
        self.checkpoint_when_full(writer)
            .map_err(|error| self.shared.poison(error))?;
        match &writer.shortage {
            Some(error) if !is_bounded() => Err(error.clone()),
            _ => Ok(()),
        }
    }

    /// A checkpoint is to begin.
    fn is_due(&self, writer: &Writer) -> bool {
        let freeze_at = writer.freeze_at;
        writer.log.is_full(freeze_at as u64)
            || self.shared.layers.read().active().weight() >= freeze_at
            || self.is_spent(writer)
    }

    /// Freezes the overlay and goes on in a new segment; waits for the frozen one before it. After an error
    /// that is temporary nothing has changed.
    ///
    /// When not more than `keep` bytes are live they are copied into the new segment: what has
    /// been dying young will go on to, and copying is cheaper than sled.
    fn freeze(&self, writer: &mut Writer, keep: usize) -> Result<Checkpoint, StoreError> {
        self.begin(writer)?;
        if let Some(checkpoint) = writer.checkpoint.take() {
            let ended = join(checkpoint)?;
            self.take_back(writer, ended)?;
        }
        if let Some(checkpoint) = writer.put_off.take() {
            self.take_back(writer, checkpoint.run())?;
        }
        let room = &self.shared.room;
        let rotated = room.make_for(|| writer.log.rotate())?;
        writer.freeze_at = self.limit;
        let mut survivors = Batch::new();
        let layers = self.shared.layers.read();
        if layers.active().live() <= keep {
            survivors = layers.active().survivors();
        }
        drop(layers);
        if !survivors.is_empty() {
            writer.log.append(&survivors);
            // The checkpoint frees the segments where they stood until now.
            let synced = room.make_for(|| writer.log.sync());
            synced.map_err(StoreError::into_final)?;
        }
        let frozen = self.shared.layers.write().freeze(survivors);
        Ok(Checkpoint::new(self.shared.clone(), frozen, rotated))
    }

    /// Hands what waits to the kernel, as long as there is room.
    fn write_when_backed_up(&self, log: &mut Log) -> Result<(), StoreError> {
        if !log.is_backed_up() {
            return Ok(());
        }
        match self.shared.room.make_for(|| log.write()) {
            // Whoever asks for a sync will be told.
            Err(error) if error.is_temporary() => Ok(()),
            done => done,
        }
    }

    /// Most of the log is of what has been deleted since: it gives its space back for next to
    /// nothing, unless the one before it is still being moved.
    fn is_spent(&self, writer: &Writer) -> bool {
        let least = (self.limit / 8) as u64;
        let is_busy = writer
            .checkpoint
            .as_ref()
            .is_some_and(|one| !one.is_finished());
        let bytes = writer.log.bytes();
        bytes >= least && !is_busy && {
            let live = self.shared.layers.read().active().live();
            live as u64 <= bytes / 2
        }
    }
}

/// What stands in `home`: sled, the log to go on with, and what is only in there.
fn open(home: &Path) -> Result<(Base, Log, Memtables), StoreError> {
    let dir = home.join("wal");
    // Before sled, which writes when it is opened.
    replay::check_versions(&dir)?;
    let base = Base::open(home)?;
    let mut replayed = replay::replay(&dir, base.held()?, base.tops()?)?;
    let layers = std::mem::take(&mut replayed.layers);
    Ok((base, Log::resume(dir, replayed), layers))
}

/// What a checkpoint's thread gives back.
fn join(checkpoint: JoinHandle<Ended>) -> Result<Ended, StoreError> {
    checkpoint.join().map_err(|_| StoreError::Corrupt {
        path_or_place: "a checkpoint".to_owned(),
        what: "its thread panicked".to_owned(),
    })
}

/// Starts a checkpoint's thread.
fn spawn<T: Send + 'static>(run: impl FnOnce() -> T + Send + 'static) -> io::Result<JoinHandle<T>> {
    #[cfg(test)]
    if tests::NO_THREADS.get() {
        return Err(io::ErrorKind::WouldBlock.into());
    }
    let name = "chordal-checkpoint".to_owned();
    thread::Builder::new().name(name).spawn(run)
}

/// Refuses symbolic links in the place of what the store writes to.
fn refuse_links(home: &Path) -> Result<(), StoreError> {
    for name in ["wal", "sled", "sled/blobs"] {
        files::refuse_link(&home.join(name))?;
    }
    for name in ["sled", "sled/blobs"] {
        files::refuse_links_in(&home.join(name))?;
    }
    replay::refuse_links(&home.join("wal"))
}

impl Store for SledStore {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        if let Some(value) = self.shared.layers.read().get(key) {
            return Ok(value.map(<[u8]>::to_vec));
        }
        self.shared.base.get(key)
    }

    fn scan(&self, from: &[u8], to: &[u8]) -> Scan<'_> {
        if from >= to {
            return Box::new(std::iter::empty());
        }
        Box::new(SledScan::new(&self.shared, from, to))
    }

    fn apply(&self, batch: Batch) -> Result<(), StoreError> {
        let mut writer = self.writer.lock();
        self.shared.healthy()?;
        if batch.is_empty() {
            return Ok(());
        }
        self.begin(&mut writer).map_err(|error| match error {
            // Nothing has been written that the next attempt would not write over.
            error @ StoreError::Exhausted { .. } => error,
            error => self.shared.poison(error),
        })?;
        self.checkpoint_when_full(&mut writer)
            .and_then(|()| {
                writer.log.append(&batch);
                self.write_when_backed_up(&mut writer.log)
            })
            .map_err(|error| self.shared.poison(error))?;
        self.shared.layers.write().apply(batch);
        Ok(())
    }

    fn sync(&self, durability: Durability) -> Result<(), StoreError> {
        let mut writer = self.writer.lock();
        self.shared.healthy()?;
        self.check_shortage(&mut writer)?;
        let log = &mut writer.log;
        let synced = match durability {
            Durability::Buffered if !log.is_overflowing() => Ok(()),
            Durability::Buffered | Durability::Process => self.shared.room.make_for(|| log.write()),
            Durability::Power => self.shared.room.make_for(|| log.sync()),
        };
        match synced {
            Err(error) if !error.is_temporary() => Err(self.shared.poison(error)),
            synced => synced,
        }
    }

    /// Not if a checkpoint is to begin: it may have to wait for the one before it, or for a copy.
    fn is_prompt(&self) -> bool {
        let writer = self.writer.try_lock();
        writer.is_some_and(|writer| !self.is_due(&writer))
    }

    fn directory(&self) -> Option<&Path> {
        Some(self.shared.home.path())
    }

    fn room(&self) -> Result<(), StoreError> {
        self.shared.room.check()
    }

    fn backup(&self, to: &Path) -> Result<(), StoreError> {
        self.copy_to(to)
    }
}

/// Prints no contents, unlike sled.
impl fmt::Debug for SledStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SledStore")
            .field("path", &self.shared.home.path())
            .field("poisoned", &self.shared.poison.get())
            .finish_non_exhaustive()
    }
}

/// Writes what is left to the log, not to sled: that way it closes as fast as it commits, and each
/// open takes the same way, whatever ended the life before.
impl Drop for SledStore {
    fn drop(&mut self) {
        let writer = self.writer.get_mut();
        if self.shared.poison.get().is_none()
            && let Err(error) = self.shared.room.make_for(|| writer.log.seal())
        {
            error!(store = %self.shared.home.path().display(), %error, "last sync failed");
        }
        self.shared.closing.store(true, Ordering::Release);
        // It holds sled: only when it has ended is the directory free.
        if let Some(checkpoint) = writer.checkpoint.take()
            && join(checkpoint).is_err()
        {
            error!(store = %self.shared.home.path().display(), "a checkpoint panicked");
        }
    }
}
