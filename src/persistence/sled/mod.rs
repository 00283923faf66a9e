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
mod log;
mod overlay;
mod pages;
mod pool;
mod prepare;
mod replay;
mod room;
mod salvage;
mod scan;
mod segment;
#[cfg(test)]
mod tests;
mod verify;

use std::fmt;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::{self, JoinHandle};

use parking_lot::{Condvar, Mutex, MutexGuard, RwLock};
use tracing::{error, warn};

use self::base::{Base, Mark};
use self::checkpoint::Checkpoint;
use self::log::Log;
use self::overlay::Layers;
use self::room::Room;
pub(super) use self::salvage::salvage;
use self::scan::SledScan;
use super::{Batch, Durability, Scan, Store, StoreError, files, folder, home};

/// An overlay is frozen when it takes this much memory, or so much of the log. Two of them may be
/// there at a time; what is put and deleted within one never reaches sled.
const LIMIT: usize = 8 << 20;

/// What is found in the log when the store is opened is frozen when half a limit has come to it, or at
/// so many limits: whoever goes on with what was live reads sled, and gets on more slowly beside a
/// checkpoint (measured: 100,000 workflows took 1.05 s, and 0.7 s without it).
const FOUND: usize = 2;

/// While sled's files are copied an overlay may take so many times as much.
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
    /// Moves the frozen overlay into sled; gives back a file that is free.
    checkpoint: Option<JoinHandle<Option<PathBuf>>>,
    /// sled's files are being copied: no checkpoint may begin.
    is_still: bool,
}

/// What a checkpoint's thread and a scan need of the store.
#[derive(Debug)]
struct Shared {
    home: PathBuf,
    base: Base,
    room: Room,
    layers: RwLock<Layers>,
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
        if self.poison.set(error.in_full()).is_ok() {
            error!(store = %self.home.display(), error = error.in_full(), "store stopped");
        }
        error
    }
}

impl SledStore {
    /// Opens the store in `dir`, making the directory if need be.
    ///
    /// What it finds is on the disk, not only in the kernel's cache, before it returns. Nothing is written
    /// to the directory but by sled, which may put its snapshot in order, and to `LOCK`, until something is
    /// applied.
    pub fn open(dir: impl AsRef<Path>) -> Result<Self, StoreError> {
        Self::with_limit(dir.as_ref(), LIMIT)
    }

    pub(super) fn with_limit(dir: &Path, limit: usize) -> Result<Self, StoreError> {
        let home = home::make_home(dir)?;
        let lock = home::lock(&home)?;
        folder::holds_no_other(&home, "sled")?;
        let room = Room::of(&home);
        let (base, log, layers) = room.make_for(|| open(&home))?;
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
        &self.shared.home
    }

    /// Gets ready for the first write: until then nothing of ours is changed, so that whoever does not like
    /// what it finds has not touched it.
    fn begin(&self, writer: &mut Writer) -> Result<(), StoreError> {
        if writer.log.is_begun() {
            return Ok(());
        }
        let Shared { room, base, .. } = &*self.shared;
        room.make_for(|| {
            let generation = writer.log.begin()?;
            match base.mark()? {
                Some(_) => Ok(()),
                None => base.set_mark(Mark { seq: 0, generation }),
            }
        })?;
        if let Err(error) = room.check() {
            warn!(%error, "new work is refused until there is room on the disk");
        }
        Ok(())
    }

    /// Moves the overlay on, unless there is no room for that: then it goes on to grow, by no more
    /// than what room there is for the log. While a copy is made of sled's files it may grow as well,
    /// within bounds.
    fn checkpoint_when_full(&self, writer: &mut MutexGuard<'_, Writer>) -> Result<(), StoreError> {
        let weight = || self.shared.layers.read().active().weight();
        while writer.is_still && weight() >= STILL * self.limit {
            self.stirs.wait(writer);
        }
        self.shared.healthy()?;
        if writer.is_still || !self.is_due(writer) {
            return Ok(());
        }
        if !self.shared.room.has(SLED_TAKES * weight() as u64) {
            return Ok(());
        }
        match self.freeze(writer, self.limit / 2) {
            Ok(checkpoint) => {
                match start(checkpoint) {
                    Ok(thread) => writer.checkpoint = Some(thread),
                    // The system has no thread: the commit does it, and takes that much longer.
                    Err(checkpoint) => {
                        let free = checkpoint.run();
                        self.shared.healthy()?;
                        writer.log.reuse(free);
                    }
                }
                Ok(())
            }
            Err(error) if error.is_full() => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// A checkpoint is to begin.
    fn is_due(&self, writer: &Writer) -> bool {
        let freeze_at = writer.freeze_at;
        writer.log.is_full(freeze_at as u64)
            || self.shared.layers.read().active().weight() >= freeze_at
            || self.is_spent(writer)
    }

    /// Freezes the overlay and goes on in a new segment; waits for the frozen one before it. On a full
    /// disk nothing has changed.
    ///
    /// When not more than `keep` bytes are live they are copied into the new segment: what has
    /// been dying young will go on to, and copying is cheaper than sled.
    fn freeze(&self, writer: &mut Writer, keep: usize) -> Result<Checkpoint, StoreError> {
        self.begin(writer)?;
        if let Some(checkpoint) = writer.checkpoint.take() {
            let free = join(checkpoint);
            self.shared.healthy()?;
            writer.log.reuse(free?);
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
            Err(error) if error.is_full() => Ok(()),
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
fn open(home: &Path) -> Result<(Base, Log, Layers), StoreError> {
    let dir = home.join("wal");
    // Before sled, which writes when it is opened.
    replay::is_known(&dir)?;
    let base = Base::open(home)?;
    let mut replayed = replay::replay(&dir, base.mark()?, base.tops()?)?;
    let layers = std::mem::take(&mut replayed.layers);
    Ok((base, Log::resume(dir, replayed), layers))
}

/// What a checkpoint's thread gives back.
fn join(checkpoint: JoinHandle<Option<PathBuf>>) -> Result<Option<PathBuf>, StoreError> {
    checkpoint.join().map_err(|_| StoreError::Corrupt {
        path_or_place: "a checkpoint".to_owned(),
        what: "its thread panicked".to_owned(),
    })
}

/// Runs it on a thread of its own; gives it back if the system has none.
fn start(checkpoint: Checkpoint) -> Result<JoinHandle<Option<PathBuf>>, Box<Checkpoint>> {
    let checkpoint = Arc::new(Mutex::new(Some(Box::new(checkpoint))));
    let of_thread = checkpoint.clone();
    let run = move || {
        let checkpoint = of_thread.lock().take();
        checkpoint.and_then(|checkpoint| checkpoint.run())
    };
    let thread = thread::Builder::new().name("chordal-checkpoint".to_owned());
    thread.spawn(run).map_err(|error| {
        warn!(%error, "a checkpoint has no thread of its own");
        let checkpoint = checkpoint.lock().take();
        checkpoint.expect("only its thread takes it")
    })
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
        self.begin(&mut writer)
            .and_then(|()| self.checkpoint_when_full(&mut writer))
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
        let log = &mut writer.log;
        let synced = match durability {
            Durability::Buffered if !log.is_overflowing() => Ok(()),
            Durability::Buffered | Durability::Process => self.shared.room.make_for(|| log.write()),
            Durability::Power => self.shared.room.make_for(|| log.sync()),
        };
        match synced {
            Err(error) if !error.is_full() => Err(self.shared.poison(error)),
            synced => synced,
        }
    }

    /// Not if a checkpoint is to begin: it may have to wait for the one before it, or for a copy.
    fn is_prompt(&self) -> bool {
        let writer = self.writer.try_lock();
        writer.is_some_and(|writer| !self.is_due(&writer))
    }

    fn directory(&self) -> Option<&Path> {
        Some(&self.shared.home)
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
            .field("path", &self.shared.home)
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
            error!(store = %self.shared.home.display(), error = error.in_full(), "last sync failed");
        }
        self.shared.closing.store(true, Ordering::Release);
        // It holds sled: only when it has ended is the directory free.
        if let Some(checkpoint) = writer.checkpoint.take()
            && join(checkpoint).is_err()
        {
            error!(store = %self.shared.home.display(), "a checkpoint panicked");
        }
    }
}
