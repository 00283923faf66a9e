//! A log in front of a durable base: a commit is one frame appended to the log and one `fdatasync`.
//!
//! Entries that are in the log and not yet in the base are in a memtable, which reads consult
//! first. A full memtable is frozen: a thread moves it into the base while a new one fills, and the
//! log's file is reused.
//!
//! [`WalStore`] is generic over its [`Base`], so that the calls between them are compiled for each
//! base. What reads see, [`Layers`] and the scan of them, knows nothing of the log.
//!
//! Segments, watermark and base carry the id of the store, so that files of two stores are not
//! mixed up. The files are accessed through the directories that were opened.
//!
//! ```text
//! <dir>/ballast        space that is kept free
//! <dir>/wal/           segments of the log, and a spare one
//!   fence              the number of the last frame that is on disk
//! ```

pub(crate) mod backup;
pub(crate) mod base;
pub(crate) mod checkpoint;
pub(crate) mod disk_reserve;
pub(crate) mod frame;
pub(crate) mod layers;
pub(crate) mod log;
pub(crate) mod memtable;
pub(crate) mod replay;
pub(crate) mod salvage;
pub(crate) mod scan;
pub(crate) mod segment;
#[cfg(test)]
pub(crate) mod tests;

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::{self, JoinHandle};

use parking_lot::{Condvar, Mutex, MutexGuard};
use tracing::{error, info, warn};

use self::base::{Base, Mark};
use self::checkpoint::{Checkpoint, Ended};
use self::disk_reserve::DiskReserve;
use self::layers::Layers;
use self::log::Log;
use self::memtable::Memtables;
use self::scan::LayeredScan;
use super::fs::dir::Dir;
use super::fs::identity::Identity;
use super::{Batch, Durability, Scan, Store, StoreError};

/// The name of the log's directory in the data directory.
const NAME: &str = "wal";

/// The size at which a memtable is frozen, in bytes of memory or of the log. Two memtables may
/// exist at a time; an entry that is put and deleted within one never reaches the base.
pub(crate) const LIMIT: usize = 8 << 20;

/// A memtable found in the log at open is frozen when half a limit has been added to it, or at this
/// many limits: the recovery of live workflows reads the base, and is slower beside a checkpoint
/// (measured: 100,000 workflows took 1.05 s, and 0.7 s without it).
const RECOVERED_LIMITS: usize = 2;

/// How many limits a memtable may reach while no checkpoint can start, because the base is
/// being copied or the system is short of descriptors or memory.
pub(crate) const POSTPONED_LIMITS: usize = 8;

/// The free space that a checkpoint requires, as a multiple of the bytes it moves (measured: sled's
/// file grows by up to twice that). An error of the base is final, so it should not meet a full
/// disk.
const CHECKPOINT_SPACE: u64 = 3;

/// A store of a log and a base.
pub(crate) struct WalStore<B: Base> {
    pub(crate) shared: Arc<Shared<B>>,
    /// Locked by writers: the log has the batches in the order in which reads see them.
    pub(crate) writer: Mutex<Writer<B>>,
    /// Notified when the copying of the base ends.
    copy_ended: Condvar,
    /// The limit of a memtable, in bytes.
    limit: usize,
}

#[derive(Debug)]
pub(crate) struct Writer<B: Base> {
    pub(crate) log: Log,
    /// The size at which the memtable is frozen, in bytes of its memory or of the log.
    pub(crate) freeze_at: usize,
    /// The thread that moves the frozen memtable into the base.
    pub(crate) checkpoint: Option<JoinHandle<Ended<B>>>,
    /// A checkpoint that stopped for lack of a resource: it is resumed before the next one starts.
    pub(crate) postponed: Option<Box<Checkpoint<B>>>,
    /// The shortage that kept a checkpoint from starting, until one starts.
    pub(crate) shortage: Option<StoreError>,
    /// Whether the base is being copied: no checkpoint may start.
    pub(crate) is_copying: bool,
}

/// The part of the store that checkpoints and scans share.
#[derive(Debug)]
pub(crate) struct Shared<B> {
    pub(crate) data_dir: Arc<Dir>,
    pub(crate) layers: Layers<B>,
    pub(crate) reserve: DiskReserve,
    /// Why nothing more is accepted; the first reason stays.
    pub(crate) poison: OnceLock<String>,
    /// Whether the store is being dropped: a checkpoint then stops where it is.
    pub(crate) closing: AtomicBool,
}

impl<B> Shared<B> {
    pub(crate) fn healthy(&self) -> Result<(), StoreError> {
        match self.poison.get() {
            Some(why) => Err(StoreError::Poisoned(why.clone())),
            None => Ok(()),
        }
    }

    pub(crate) fn poison(&self, error: StoreError) -> StoreError {
        if self.poison.set(error.to_string()).is_ok() {
            error!(store = %self.data_dir.path().display(), %error, "store stopped");
        }
        error
    }
}

impl<B: Base> WalStore<B> {
    /// Opens the log and the base in `data_dir`, which the caller has locked. `limit`: the size at
    /// which a memtable is frozen.
    pub(crate) fn open(
        data_dir: PathBuf,
        limit: usize,
        mut open_base: impl FnMut(&Path) -> Result<B, StoreError>,
    ) -> Result<Self, StoreError> {
        let data_dir = Arc::new(Dir::open(data_dir)?);
        let reserve = DiskReserve::of(data_dir.clone())?;
        let (base, log, memtables) = reserve.make_for(|| open(data_dir.path(), &mut open_base))?;
        let found = memtables.active().size().max(log.bytes() as usize);
        let freeze_at = (found + limit / 2).clamp(limit, RECOVERED_LIMITS * limit);
        Ok(Self {
            shared: Arc::new(Shared {
                data_dir,
                layers: Layers::new(base, memtables),
                reserve,
                poison: OnceLock::new(),
                closing: AtomicBool::new(false),
            }),
            writer: Mutex::new(Writer {
                log,
                freeze_at,
                checkpoint: None,
                postponed: None,
                shortage: None,
                is_copying: false,
            }),
            copy_ended: Condvar::new(),
            limit,
        })
    }

    pub(crate) fn path(&self) -> &Path {
        self.shared.data_dir.path()
    }

    /// Prepares the first write. Until then our own files are unchanged, so that a caller that
    /// rejects the store has not modified it.
    pub(crate) fn begin(&self, writer: &mut Writer<B>) -> Result<(), StoreError> {
        if writer.log.is_begun() {
            return Ok(());
        }
        let Shared {
            reserve, layers, ..
        } = &*self.shared;
        let base = &layers.base;
        base.check_in_place()?;
        let id = self.identity(writer)?.id;
        let generation = reserve.make_for(|| writer.log.begin(id))?;
        if base.mark()?.is_none() {
            let mark = Mark { seq: 0, generation };
            base.set_mark(mark)
                .map_err(|error| self.shared.poison(error))?;
        }
        if let Err(error) = reserve.check() {
            warn!(%error, "new work is refused until there is room on the disk");
        }
        Ok(())
    }

    /// Returns the store's identity, which is drawn before the first write. The base has it before
    /// any file that carries it is created.
    fn identity(&self, writer: &Writer<B>) -> Result<Identity, StoreError> {
        let base = &self.shared.layers.base;
        if let Some(known) = base.identity()? {
            return Ok(known);
        }
        let drawn = Identity::draw(writer.log.generation() + 1);
        base.set_identity(drawn)
            .map_err(|error| self.shared.poison(error))?;
        Ok(drawn)
    }

    /// Starts a checkpoint if the memtable is full. Without space for the checkpoint the memtable
    /// keeps growing, by no more than the space for the log. While the base is being copied,
    /// or while the system is short of a resource that a checkpoint needs, it may also grow, up to
    /// a bound.
    fn checkpoint_when_full(
        &self,
        writer: &mut MutexGuard<'_, Writer<B>>,
    ) -> Result<(), StoreError> {
        let size = || self.shared.layers.memtables.read().active().size();
        while writer.is_copying && size() >= POSTPONED_LIMITS * self.limit {
            self.copy_ended.wait(writer);
        }
        self.shared.healthy()?;
        if writer.is_copying || !self.is_due(writer) {
            return Ok(());
        }
        match self.begin_checkpoint(writer, CHECKPOINT_SPACE * size() as u64) {
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

    /// Starts a checkpoint if the disk has this much free space. After a temporary error nothing is
    /// lost, and the start may be repeated.
    fn begin_checkpoint(&self, writer: &mut Writer<B>, space: u64) -> Result<(), StoreError> {
        match self.shared.reserve.check_has(space) {
            Err(error) if error.is_temporary() => return Err(error),
            // Any other problem with the ballast says nothing about the free space.
            Ok(()) | Err(_) => {}
        }
        let checkpoint = self.freeze(writer, self.limit / 2)?;
        self.start(writer, checkpoint)
    }

    /// Runs the checkpoint on a thread, or on this one if no thread can be started.
    fn start(&self, writer: &mut Writer<B>, checkpoint: Checkpoint<B>) -> Result<(), StoreError> {
        let slot = Arc::new(Mutex::new(Some(checkpoint)));
        let thread_slot = slot.clone();
        let run = move || {
            let checkpoint = thread_slot.lock().take();
            checkpoint.map_or(Ended::Free(None), Checkpoint::run)
        };
        match spawn(run) {
            Ok(thread) => {
                writer.checkpoint = Some(thread);
                Ok(())
            }
            Err(error) => {
                warn!(store = %self.path().display(), %error, "no thread for a checkpoint: commits wait until it ends");
                let checkpoint = slot.lock().take();
                checkpoint.map_or(Ok(()), |checkpoint| {
                    self.finish_checkpoint(writer, checkpoint.run())
                })
            }
        }
    }

    /// Takes over the files, or the postponed rest, of a checkpoint that has ended.
    pub(crate) fn finish_checkpoint(
        &self,
        writer: &mut Writer<B>,
        ended: Ended<B>,
    ) -> Result<(), StoreError> {
        self.shared.healthy()?;
        match ended {
            Ended::Free(free) => {
                writer.log.reuse(free);
                Ok(())
            }
            Ended::Postponed(checkpoint, error) => {
                writer.postponed = Some(checkpoint);
                Err(error)
            }
        }
    }

    /// Fails if no checkpoint can start for lack of descriptors or memory and the memtable has
    /// reached its bound: applied batches then wait for a later `sync`.
    fn check_shortage(&self, writer: &mut MutexGuard<'_, Writer<B>>) -> Result<(), StoreError> {
        let is_bounded = || {
            let size = self.shared.layers.memtables.read().active().size();
            size < POSTPONED_LIMITS * self.limit
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

    /// Returns whether a checkpoint should start.
    fn is_due(&self, writer: &Writer<B>) -> bool {
        let freeze_at = writer.freeze_at;
        writer.log.is_full(freeze_at as u64)
            || self.shared.layers.memtables.read().active().size() >= freeze_at
            || self.is_mostly_garbage(writer)
    }

    /// Freezes the memtable and continues in a new segment; waits for the checkpoint before it.
    /// After a temporary error nothing has changed.
    ///
    /// If at most `keep` bytes are live, they are copied into the new segment: entries of such
    /// short-lived data will mostly be deleted too, and copying is cheaper than the base.
    pub(crate) fn freeze(
        &self,
        writer: &mut Writer<B>,
        keep: usize,
    ) -> Result<Checkpoint<B>, StoreError> {
        self.begin(writer)?;
        if let Some(checkpoint) = writer.checkpoint.take() {
            let ended = join(checkpoint)?;
            self.finish_checkpoint(writer, ended)?;
        }
        if let Some(checkpoint) = writer.postponed.take() {
            self.finish_checkpoint(writer, checkpoint.run())?;
        }
        let reserve = &self.shared.reserve;
        let rotated = reserve.make_for(|| writer.log.rotate())?;
        writer.freeze_at = self.limit;
        let mut survivors = Batch::new();
        let memtables = self.shared.layers.memtables.read();
        if memtables.active().live_size() <= keep {
            survivors = memtables.active().survivors();
        }
        drop(memtables);
        if !survivors.is_empty() {
            writer.log.append(&survivors);
            // The checkpoint frees the segments that held them until now.
            let synced = reserve.make_for(|| writer.log.sync());
            synced.map_err(StoreError::into_final)?;
        }
        let frozen = self.shared.layers.memtables.write().freeze(survivors);
        Ok(Checkpoint::new(self.shared.clone(), frozen, rotated))
    }

    /// Hands a large buffer to the kernel, if there is space.
    fn write_when_backed_up(&self, log: &mut Log) -> Result<(), StoreError> {
        if !log.is_backed_up() {
            return Ok(());
        }
        match self.shared.reserve.make_for(|| log.write()) {
            // The next call of `sync` returns the error.
            Err(error) if error.is_temporary() => Ok(()),
            done => done,
        }
    }

    /// Returns whether most of the log belongs to entries that were deleted since: a checkpoint
    /// then frees its space at little cost, unless the previous checkpoint is still running.
    fn is_mostly_garbage(&self, writer: &Writer<B>) -> bool {
        let min_bytes = (self.limit / 8) as u64;
        let is_busy = writer
            .checkpoint
            .as_ref()
            .is_some_and(|one| !one.is_finished());
        let bytes = writer.log.bytes();
        bytes >= min_bytes && !is_busy && {
            let live = self.shared.layers.memtables.read().active().live_size();
            live as u64 <= bytes / 2
        }
    }
}

/// Opens the base, the log to continue, and the entries that are only in the log.
fn open<B: Base>(
    data_dir: &Path,
    open_base: impl FnOnce(&Path) -> Result<B, StoreError>,
) -> Result<(B, Log, Memtables), StoreError> {
    let dir = data_dir.join(NAME);
    // Before the base is opened, because it may write when it opens.
    replay::check_versions(&dir)?;
    let base = open_base(data_dir)?;
    let mut replayed = replay::replay(&dir, base.held()?, base.max_keys()?)?;
    let memtables = std::mem::take(&mut replayed.memtables);
    Ok((base, Log::resume(dir, replayed), memtables))
}

/// Returns how a checkpoint's thread ended.
pub(crate) fn join<T>(checkpoint: JoinHandle<T>) -> Result<T, StoreError> {
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

impl<B: Base> Store for WalStore<B> {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        self.shared.layers.get(key)
    }

    fn scan(&self, from: &[u8], to: &[u8]) -> Scan<'_> {
        if from >= to {
            return Box::new(std::iter::empty());
        }
        Box::new(LayeredScan::new(&self.shared.layers, from, to))
    }

    fn apply(&self, batch: Batch) -> Result<(), StoreError> {
        let mut writer = self.writer.lock();
        self.shared.healthy()?;
        if batch.is_empty() {
            return Ok(());
        }
        self.begin(&mut writer).map_err(|error| match error {
            // The next attempt overwrites all that was written.
            error @ StoreError::Exhausted { .. } => error,
            error => self.shared.poison(error),
        })?;
        self.checkpoint_when_full(&mut writer)
            .and_then(|()| {
                writer.log.append(&batch);
                self.write_when_backed_up(&mut writer.log)
            })
            .map_err(|error| self.shared.poison(error))?;
        self.shared.layers.memtables.write().apply(batch);
        Ok(())
    }

    fn sync(&self, durability: Durability) -> Result<(), StoreError> {
        let mut writer = self.writer.lock();
        self.shared.healthy()?;
        self.check_shortage(&mut writer)?;
        let log = &mut writer.log;
        let synced = match durability {
            Durability::Buffered if !log.is_overflowing() => Ok(()),
            Durability::Buffered | Durability::Process => {
                self.shared.reserve.make_for(|| log.write())
            }
            Durability::Power => self.shared.reserve.make_for(|| log.sync()),
        };
        match synced {
            Err(error) if !error.is_temporary() => Err(self.shared.poison(error)),
            synced => synced,
        }
    }

    /// Returns `false` if a checkpoint should start: it may have to wait for the previous one, or
    /// for a copy.
    fn is_prompt(&self) -> bool {
        let writer = self.writer.try_lock();
        writer.is_some_and(|writer| !self.is_due(&writer))
    }

    fn directory(&self) -> Option<&Path> {
        Some(self.path())
    }

    fn room(&self) -> Result<(), StoreError> {
        self.shared.reserve.check()
    }

    fn backup(&self, to: &Path) -> Result<(), StoreError> {
        self.copy_to(to)
    }
}

/// Prints no contents.
impl<B: Base> fmt::Debug for WalStore<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WalStore")
            .field("path", &self.path())
            .field("poisoned", &self.shared.poison.get())
            .finish_non_exhaustive()
    }
}

/// Writes the remaining batches to the log, not to the base: closing is as fast as a commit, and
/// every open reads the log, whichever way the last session ended.
impl<B: Base> Drop for WalStore<B> {
    fn drop(&mut self) {
        let writer = self.writer.get_mut();
        if self.shared.poison.get().is_none()
            && let Err(error) = self.shared.reserve.make_for(|| writer.log.seal())
        {
            error!(store = %self.shared.data_dir.path().display(), %error, "last sync failed");
        }
        self.shared.closing.store(true, Ordering::Release);
        // The checkpoint holds the base: the directory is free only when it has ended.
        if let Some(checkpoint) = writer.checkpoint.take()
            && join(checkpoint).is_err()
        {
            error!(store = %self.shared.data_dir.path().display(), "a checkpoint panicked");
        }
    }
}
