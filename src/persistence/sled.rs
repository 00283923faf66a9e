//! A store on disk: sled 0.34.7, made to keep its word.
//!
//! sled alone never calls fsync on Linux, is left unopenable by a kill at the wrong moment,
//! and panics on some damaged files. The rules of RELIABILITY.md close these gaps, but for what it
//! says is still open; each is named here where it is kept.
//!
//! ```text
//! <dir>/LOCK           ours: held while open, names the holder
//! <dir>/sled/          ours: mode 0700
//!   .creating          there from before sled's first file until the first open is on disk,
//!   .ready             then renamed to this: exactly one of the two marks the directory as ours
//!   db conf snap.*     sled's
//!   blobs/             sled's, for what is too large for its log; stays empty at records <= 8 KB
//! ```

use std::collections::HashMap;
use std::ffi::OsString;
use std::fmt;
use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, BufReader, ErrorKind, Read, Seek, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

use parking_lot::Mutex;
use tracing::{error, info, warn};

use super::{Batch, Durability, Op, Pair, Scan, Store, StoreError};

/// Holds the pages of about 100,000 waiting tasks. sled's own default of 1 GiB is too much
/// for a library that lives inside somebody else's process.
const CACHE_BYTES: u64 = 64 << 20;

/// Twice sled's default. sled puts a tree node larger than a quarter of this into a file in
/// `blobs/`, which it never fsyncs and deletes too early (H5). A node holds up to 20 records
/// (16, one more before it splits, three from a merged neighbour), so the default is safe to
/// 6,500 bytes of key and value and this to 13,000. Existing stores open with their own size
/// only: a change needs a migration.
const SEGMENT_BYTES: usize = 1 << 20;

/// How long a thread of sled's pool may hold the log file after its store was dropped.
const STRAGGLERS: Duration = Duration::from_secs(2);

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
    home: PathBuf,
    /// `None` only while dropping.
    engine: Option<::sled::Db>,
    /// One sync at a time: the kernel tells an fsync error once, so a second caller on the
    /// same descriptor would be told that all is well.
    disk: Mutex<Disk>,
    /// Why nothing more is accepted; the first reason stays.
    poison: OnceLock<String>,
    /// Set when sled gave up inside a batch and might still write the half it has.
    torn: AtomicBool,
    /// Last, so that it is let go after sled's own lock.
    _lock: File,
}

impl SledStore {
    /// Opens the store in `dir`, making the directory if need be.
    ///
    /// What it finds is on the disk, not only in the kernel's cache, before it returns.
    pub fn open(dir: impl AsRef<Path>) -> Result<Self, StoreError> {
        let home = make_home(dir.as_ref())?;
        let lock = lock(&home)?;
        let dir = home.join("sled");
        let fresh = prepare(&dir)?;
        let disk = Disk::open(&dir)?;
        let store = SledStore {
            engine: Some(start(&dir)?),
            disk: Mutex::new(disk),
            home,
            poison: OnceLock::new(),
            torn: AtomicBool::new(false),
            _lock: lock,
        };
        store
            .settle_open(&dir, fresh)
            .map_err(|error| store.poison(error))?;
        Ok(store)
    }

    /// Shows the directory this store was opened in, as an absolute path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.home
    }

    fn settle_open(&self, dir: &Path, fresh: bool) -> Result<(), StoreError> {
        self.guarded("flush", |db| db.flush())?;
        settle(dir)?;
        if fresh {
            rename(&dir.join(".creating"), &dir.join(".ready"))?;
            sync_dir(dir)?;
            sync_dir(&self.home)?;
        }
        Ok(())
    }

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

    fn guarded<T>(
        &self,
        doing: &str,
        work: impl FnOnce(&::sled::Db) -> ::sled::Result<T>,
    ) -> Result<T, StoreError> {
        let db = self.engine.as_ref().expect("sled is there until drop");
        guarded(&self.home, doing, || work(db))
    }
}

impl Store for SledStore {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        let value = self.guarded("read", |db| db.get(key))?;
        Ok(value.map(|value| value.to_vec()))
    }

    fn scan(&self, from: &[u8], to: &[u8]) -> Scan<'_> {
        let db = self.engine.as_ref().expect("sled is there until drop");
        let steps = (from < to).then(|| db.range(from..to));
        Box::new(SledScan {
            home: &self.home,
            steps,
        })
    }

    fn apply(&self, batch: Batch) -> Result<(), StoreError> {
        self.healthy()?;
        if batch.is_empty() {
            return Ok(());
        }
        let mut writes = ::sled::Batch::default();
        for op in batch {
            match op {
                Op::Put(key, value) => writes.insert(key, value),
                Op::Delete(key) => writes.remove(key),
            }
        }
        self.guarded("write", |db| db.apply_batch(writes))
            .map_err(|error| {
                // After an error of its log sled writes nothing more. After any other it takes
                // the batch for closed, and a flush would write the half that is there.
                let stopped = self
                    .engine
                    .as_ref()
                    .is_some_and(|db| db.context.global_error().is_err());
                self.torn.fetch_or(!stopped, Ordering::AcqRel);
                self.poison(error)
            })
    }

    fn sync(&self, durability: Durability) -> Result<(), StoreError> {
        self.healthy()?;
        if durability == Durability::Buffered {
            return Ok(());
        }
        let mut disk = self.disk.lock();
        self.healthy()?; // the sync we waited for may have failed
        self.guarded("flush", |db| db.flush())
            .and_then(|_| match durability {
                Durability::Power => disk.fsync(),
                Durability::Process | Durability::Buffered => Ok(()),
            })
            .map_err(|error| self.poison(error))
    }
}

/// Prints no contents, unlike sled.
impl fmt::Debug for SledStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SledStore")
            .field("path", &self.home)
            .field("poisoned", &self.poison.get())
            .finish_non_exhaustive()
    }
}

impl Drop for SledStore {
    fn drop(&mut self) {
        if self.poison.get().is_none()
            && let Err(error) = self.sync(Durability::Power)
        {
            error!(store = %self.home.display(), error = error.in_full(), "last sync failed");
        }
        let engine = self.engine.take();
        if self.torn.load(Ordering::Acquire) {
            // sled flushes when dropped: that would make half a batch durable, or hang for ever
            // when the failed record still holds its buffer. Leaking it keeps its file locked
            // until the process ends: unavailable, but not wrong.
            std::mem::forget(engine);
            return;
        }
        // sled's drop unwraps an fsync of its own.
        if catch_unwind(AssertUnwindSafe(|| drop(engine))).is_err() {
            error!(store = %self.home.display(), "sled panicked while closing");
        }
    }
}

type Step = Option<::sled::Result<(::sled::IVec, ::sled::IVec)>>;

/// Ends after the first error, since sled would give the same one for ever.
struct SledScan<'a> {
    home: &'a Path,
    steps: Option<::sled::Iter>,
}

impl SledScan<'_> {
    fn step(&mut self, step: fn(&mut ::sled::Iter) -> Step) -> Option<Result<Pair, StoreError>> {
        let steps = self.steps.as_mut()?;
        let pair = guarded(self.home, "scan", || step(steps).transpose()).transpose();
        if !matches!(pair, Some(Ok(_))) {
            self.steps = None;
        }
        pair.map(|pair| pair.map(|(key, value)| (key.to_vec(), value.to_vec())))
    }
}

impl Iterator for SledScan<'_> {
    type Item = Result<Pair, StoreError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.step(Iterator::next)
    }
}

impl DoubleEndedIterator for SledScan<'_> {
    fn next_back(&mut self) -> Option<Self::Item> {
        self.step(DoubleEndedIterator::next_back)
    }
}

/// Our own descriptors on sled's files, to fsync what sled only hands to the kernel (H1).
struct Disk {
    db: File,
    db_path: PathBuf,
    blobs: PathBuf,
    /// Blob files seen, and whether they need no more fsync (H5).
    seen: HashMap<OsString, bool>,
    /// The directory's time of change when all in it was settled: no need to list it again.
    quiet_since: Option<SystemTime>,
}

impl Disk {
    /// Before sled opens the same file, so that no write error escapes our descriptor.
    fn open(dir: &Path) -> Result<Self, StoreError> {
        let db_path = dir.join("db");
        let db = open_private(&db_path)?;
        Ok(Disk {
            db,
            db_path,
            blobs: dir.join("blobs"),
            seen: HashMap::new(),
            quiet_since: None,
        })
    }

    fn fsync(&mut self) -> Result<(), StoreError> {
        self.fsync_blobs()?;
        self.db
            .sync_all()
            .map_err(|e| failed("fsync", &self.db_path, e))
    }

    /// One stat if all is as it should be; a listing if sled has put files into `blobs/`.
    fn fsync_blobs(&mut self) -> Result<(), StoreError> {
        let changed = fs::metadata(&self.blobs)
            .and_then(|found| found.modified())
            .map_err(|e| failed("look at", &self.blobs, e))?;
        if self.quiet_since == Some(changed) {
            return Ok(());
        }
        let names = list(&self.blobs)?;
        if self.seen.is_empty() && !names.is_empty() {
            warn!(dir = %self.blobs.display(), "records are too large for sled's log: slower, and less safe");
        }
        self.seen.retain(|name, _| names.contains(name));
        let mut fresh = false;
        for name in names {
            // A file that we see for the first time may still be in the making, for a commit
            // after this one. So it is synced now and once more, when the next flush has
            // waited for its writer.
            let settled = self.seen.get(&name).copied();
            if settled != Some(true) {
                sync_file(&self.blobs.join(&name))?;
                fresh |= settled.is_none();
                self.seen.insert(name, settled.is_some());
            }
        }
        if fresh {
            sync_dir(&self.blobs)?;
        }
        // A time is as coarse as the kernel's tick, so a young one may stand for two changes.
        let old = changed
            .elapsed()
            .is_ok_and(|age| age > Duration::from_secs(1));
        let settled = self.seen.values().all(|settled| *settled);
        self.quiet_since = (old && settled).then_some(changed);
        Ok(())
    }
}

/// Makes the user's directory and everything above it, durably.
fn make_home(dir: &Path) -> Result<PathBuf, StoreError> {
    match fs::metadata(dir) {
        Ok(found) if !found.is_dir() => {
            return Err(failed(
                "open a store in",
                dir,
                io::Error::new(ErrorKind::NotADirectory, "it is a file"),
            ));
        }
        Ok(_) | Err(_) => {} // what is wrong, making it will tell
    }
    let missing = dir
        .ancestors()
        .take_while(|part| !part.as_os_str().is_empty() && !part.exists())
        .count();
    make_dir(dir)?;
    // Absolute, so that a later change of the working directory does not move sled's files.
    let home = dir.canonicalize().map_err(|e| failed("resolve", dir, e))?;
    for parent in home.ancestors().skip(1).take(missing) {
        sync_dir(parent)?;
    }
    Ok(home)
}

/// Takes `<home>/LOCK` or tells who has it (H7).
fn lock(home: &Path) -> Result<File, StoreError> {
    let path = home.join("LOCK");
    let mut file = open_private(&path)?;
    let mut holder = Vec::new();
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            // Where locks are mandatory this read fails: then the holder has no name.
            let _ = file.take(64).read_to_end(&mut holder);
            return Err(StoreError::Locked {
                path: home.to_owned(),
                pid: pid_in(&holder),
            });
        }
        Err(TryLockError::Error(e)) => return Err(failed("lock", &path, e)),
    }
    (&mut file)
        .take(64)
        .read_to_end(&mut holder)
        .map_err(|e| failed("read", &path, e))?;
    if !holder
        .iter()
        .all(|byte| byte.is_ascii_digit() || matches!(byte, b'\n' | b'\0'))
    {
        return Err(damaged(
            &path,
            "it was not written by this library and is left untouched",
        ));
    }
    // The pid is for messages only: a full disk must not keep the store shut.
    let pid = format!("{}\n", std::process::id());
    let _ = file
        .rewind()
        .and_then(|()| file.write_all(pid.as_bytes()))
        .and_then(|()| file.set_len(pid.len() as u64));
    Ok(file)
}

fn pid_in(text: &[u8]) -> Option<u32> {
    std::str::from_utf8(text).ok()?.lines().next()?.parse().ok()
}

/// Brings `<home>/sled` into a state that sled can open; true if it is to be made anew.
fn prepare(dir: &Path) -> Result<bool, StoreError> {
    make_dir(dir)?;
    let names = list(dir)?;
    let has = |name: &str| names.iter().any(|found| found == name);
    if has(".ready") {
        let db = dir.join("db");
        if fs::metadata(&db).map_or(0, |found| found.len()) == 0 {
            // sled would take this for a new store (H4).
            return Err(damaged(
                &db,
                "the log of a finished store is missing or empty",
            ));
        }
        read_through(&db)?;
        remove_torn_snapshots(dir, &names)?;
        // After a kill the kernel may hold what the disk does not. sled builds snapshots on
        // what it reads and fsyncs those, so the log must be on disk before.
        settle(dir)?;
        return Ok(false);
    }
    if !has(".creating") {
        if !names.is_empty() {
            return Err(damaged(
                dir,
                "it holds files but no mark of this library, and is left untouched",
            ));
        }
        return mark_creating(dir).map(|()| true);
    }
    // H3: nothing was ever acknowledged from here, and half-made files may not open.
    info!(dir = %dir.display(), "the first open was cut short; starting anew");
    for name in &names {
        let path = dir.join(name);
        let ours = ["db", "conf"].iter().any(|own| name == own) || is_snapshot(name);
        if ours {
            fs::remove_file(&path).map_err(|e| failed("remove", &path, e))?;
        } else if name == "blobs" {
            fs::remove_dir_all(&path).map_err(|e| failed("remove", &path, e))?;
        }
    }
    mark_creating(dir).map(|()| true)
}

/// Reads a file from end to end, to fail here rather than in sled: that takes a read error at
/// open for the end of its log and overwrites what comes after.
fn read_through(path: &Path) -> Result<(), StoreError> {
    File::open(path)
        .and_then(|file| {
            io::copy(
                &mut BufReader::with_capacity(256 << 10, file),
                &mut io::sink(),
            )
        })
        .map_err(|e| failed("read", path, e))?;
    Ok(())
}

/// Says, durably, that whatever sled is about to leave in `dir` is ours to wipe.
fn mark_creating(dir: &Path) -> Result<(), StoreError> {
    let path = dir.join(".creating");
    let text = "a chordal store is being made here; its directory may be wiped\n";
    fs::write(&path, text).map_err(|e| failed("write", &path, e))?;
    sync_file(&path)?;
    sync_dir(dir)
}

/// H2: sled would take a torn snapshot for the newest one, and fail.
fn remove_torn_snapshots(dir: &Path, names: &[OsString]) -> Result<(), StoreError> {
    for name in names.iter().filter(|name| is_snapshot(name)) {
        if name.to_string_lossy().ends_with(".generating") {
            let path = dir.join(name);
            fs::remove_file(&path).map_err(|e| failed("remove", &path, e))?;
        }
    }
    Ok(())
}

fn is_snapshot(name: &OsString) -> bool {
    name.to_string_lossy().starts_with("snap.")
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
        if !error.in_full().contains("could not acquire lock") {
            return Err(error);
        }
        if begun.elapsed() > STRAGGLERS {
            return Err(StoreError::Locked {
                path: dir.to_owned(),
                pid: None,
            });
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Fsyncs every file in sled's directory, and the directories.
fn settle(dir: &Path) -> Result<(), StoreError> {
    let blobs = dir.join("blobs");
    for folder in [blobs.as_path(), dir] {
        for name in list(folder)? {
            let path = folder.join(name);
            if path.is_file() {
                sync_file(&path)?;
            }
        }
        if folder.exists() {
            sync_dir(folder)?;
        }
    }
    Ok(())
}

/// Runs a call into sled: its panics and errors come back as ours (H10).
fn guarded<T>(
    place: &Path,
    doing: &str,
    work: impl FnOnce() -> ::sled::Result<T>,
) -> Result<T, StoreError> {
    use ::sled::Error::{CollectionNotFound, Corruption, Io, ReportableBug, Unsupported};
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(Ok(done)) => Ok(done),
        Ok(Err(Io(e))) => Err(failed(doing, place, e)),
        Ok(Err(Corruption { at, .. })) => Err(damaged(place, &format!("bad bytes at {at:?}"))),
        Ok(Err(Unsupported(what) | ReportableBug(what))) => Err(damaged(place, &what)),
        Ok(Err(CollectionNotFound(_))) => Err(damaged(place, "its tree is missing")),
        Err(panic) => {
            // sled's longer panic messages print whole nodes, which hold users' data.
            let text = match (panic.downcast_ref::<&str>(), panic.downcast_ref::<String>()) {
                (Some(text), _) => (*text).to_owned(),
                (None, Some(text)) => text.chars().take(80).collect(),
                (None, None) => "no message".to_owned(),
            };
            Err(damaged(place, &format!("sled panicked at {doing}: {text}")))
        }
    }
}

fn make_dir(dir: &Path) -> Result<(), StoreError> {
    let mut builder = DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder
        .create(dir)
        .map_err(|e| failed("make the directory", dir, e))
}

/// The names in a directory; none if there is no such directory.
fn list(dir: &Path) -> Result<Vec<OsString>, StoreError> {
    let names = || -> io::Result<Vec<OsString>> {
        fs::read_dir(dir)?
            .map(|entry| Ok(entry?.file_name()))
            .collect()
    };
    match names() {
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(Vec::new()),
        names => names.map_err(|e| failed("list", dir, e)),
    }
}

fn rename(from: &Path, to: &Path) -> Result<(), StoreError> {
    fs::rename(from, to).map_err(|e| failed("rename", from, e))
}

/// Opens a file as it is, or makes it for its owner only.
fn open_private(path: &Path) -> Result<File, StoreError> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path).map_err(|e| failed("open", path, e))
}

/// Fsyncs one file; one that sled has removed meanwhile needs none.
fn sync_file(path: &Path) -> Result<(), StoreError> {
    // For writing, because Windows refuses to flush a file opened for reading.
    match OpenOptions::new().read(true).write(true).open(path) {
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(()),
        opened => opened
            .and_then(|file| file.sync_all())
            .map_err(|e| failed("fsync", path, e)),
    }
}

/// Makes the names in a directory durable, where the system has such a thing.
fn sync_dir(dir: &Path) -> Result<(), StoreError> {
    if cfg!(unix) {
        File::open(dir)
            .and_then(|dir| dir.sync_all())
            .map_err(|e| failed("fsync", dir, e))?;
    }
    Ok(())
}

fn failed(doing: &str, path: &Path, source: io::Error) -> StoreError {
    StoreError::io(format!("{doing} {}", path.display()), source)
}

fn damaged(place: &Path, what: &str) -> StoreError {
    StoreError::Corrupt {
        path_or_place: place.display().to_string(),
        what: what.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::persistence::conformance::conformance;
    use tempfile::{TempDir, tempdir};

    fn batch(pairs: &[(&str, &[u8])]) -> Batch {
        let mut batch = Batch::new();
        pairs
            .iter()
            .for_each(|(key, value)| batch.put(*key, *value));
        batch
    }

    /// A closed store that holds `kept`.
    fn filled() -> TempDir {
        let home = tempdir().unwrap();
        let store = SledStore::open(home.path()).unwrap();
        store.apply(batch(&[("kept", b"yes")])).unwrap();
        store.sync(Durability::Power).unwrap();
        home
    }

    #[track_caller]
    fn holds_kept(home: &Path) {
        let store = SledStore::open(home).unwrap();
        assert_eq!(store.get(b"kept").unwrap().as_deref(), Some(&b"yes"[..]));
    }

    /// xorshift, so that a failure repeats.
    fn noise(seed: u64) -> impl Iterator<Item = u64> {
        std::iter::successors(Some(seed * 2 + 1), |x| {
            let x = x ^ (x << 13);
            let x = x ^ (x >> 7);
            Some(x ^ (x << 17))
        })
    }

    #[test]
    fn sled_keeps_the_contract() {
        let homes = Mutex::new(Vec::new());
        let open = || {
            let home = tempdir().unwrap();
            let store = SledStore::open(home.path()).unwrap();
            homes.lock().push(home);
            store
        };
        conformance(open, |store| {
            let home = store.path().to_owned();
            drop(store);
            SledStore::open(home).unwrap()
        });
    }

    #[test]
    fn a_second_open_is_told_who_holds_the_lock() {
        let home = tempdir().unwrap();
        let store = SledStore::open(home.path()).unwrap();
        match SledStore::open(home.path()) {
            Err(StoreError::Locked { path, pid }) => {
                assert_eq!(path, home.path().canonicalize().unwrap());
                assert_eq!(pid, Some(std::process::id()));
            }
            other => panic!("{other:?}"),
        }
        store.apply(batch(&[("k", b"v")])).unwrap();
        store.sync(Durability::Power).unwrap();
    }

    #[test]
    fn a_dropped_store_reopens_at_once() {
        let home = tempdir().unwrap();
        for round in 0..30_u8 {
            let store = SledStore::open(home.path()).unwrap();
            let before = store.get(b"round").unwrap();
            assert_eq!(before, round.checked_sub(1).map(|last| vec![last]));
            store.apply(batch(&[("round", &[round])])).unwrap();
        }
    }

    #[test]
    fn a_first_open_cut_short_starts_anew() {
        let home = tempdir().unwrap();
        let dir = home.path().join("sled");
        fs::create_dir_all(dir.join("blobs")).unwrap();
        for (name, bytes) in [
            (".creating", &b""[..]),
            ("conf", b"segm"),
            ("db", &[7; 999]),
        ] {
            fs::write(dir.join(name), bytes).unwrap();
        }
        fs::write(dir.join("snap.0000000000000000"), b"torn").unwrap();
        let store = SledStore::open(home.path()).unwrap();
        store.apply(batch(&[("kept", b"yes")])).unwrap();
        drop(store);
        assert!(dir.join(".ready").exists() && !dir.join(".creating").exists());
        holds_kept(home.path());
    }

    #[test]
    fn an_empty_directory_left_by_a_kill_starts_anew() {
        let home = tempdir().unwrap();
        fs::create_dir(home.path().join("sled")).unwrap();
        SledStore::open(home.path()).unwrap();
    }

    #[test]
    fn a_directory_without_our_mark_is_left_untouched() {
        let home = filled();
        let dir = home.path().join("sled");
        fs::remove_file(dir.join(".ready")).unwrap();
        let before = fs::read(dir.join("db")).unwrap();
        let error = SledStore::open(home.path()).unwrap_err();
        assert!(matches!(&error, StoreError::Corrupt { what, .. } if what.contains("untouched")));
        assert_eq!(fs::read(dir.join("db")).unwrap(), before);
    }

    #[test]
    fn a_torn_snapshot_is_removed() {
        let home = filled();
        let torn = home.path().join("sled/snap.FFFFFFFFFFFFFFFF.generating");
        fs::write(&torn, b"half a snap").unwrap();
        holds_kept(home.path());
        assert!(!torn.exists());
    }

    #[test]
    fn a_log_that_vanished_is_not_taken_for_a_new_store() {
        for remove in [true, false] {
            let home = filled();
            let db = home.path().join("sled/db");
            if remove {
                fs::remove_file(&db).unwrap()
            } else {
                fs::write(&db, b"").unwrap()
            }
            let error = SledStore::open(home.path()).unwrap_err();
            assert!(matches!(error, StoreError::Corrupt { .. }), "{error:?}");
        }
    }

    #[test]
    fn other_files_in_the_directory_survive() {
        let home = tempdir().unwrap();
        for name in ["db", "conf", "snap.1.generating", "notes.txt"] {
            fs::write(home.path().join(name), b"mine").unwrap();
        }
        fs::create_dir(home.path().join("blobs")).unwrap();
        drop(SledStore::open(home.path()).unwrap());
        drop(SledStore::open(home.path()).unwrap());
        for name in ["db", "conf", "snap.1.generating", "notes.txt"] {
            assert_eq!(fs::read(home.path().join(name)).unwrap(), b"mine");
        }
    }

    #[test]
    fn a_lock_file_of_somebody_else_is_left_untouched() {
        let home = tempdir().unwrap();
        let path = home.path().join("LOCK");
        fs::write(&path, b"my front door").unwrap();
        assert!(matches!(
            SledStore::open(home.path()),
            Err(StoreError::Corrupt { .. })
        ));
        assert_eq!(fs::read(&path).unwrap(), b"my front door");
    }

    #[test]
    fn a_file_is_refused_as_a_directory() {
        let home = tempdir().unwrap();
        let file = home.path().join("file");
        fs::write(&file, b"mine").unwrap();
        let error = SledStore::open(&file).unwrap_err();
        assert!(
            error.in_full().ends_with("file: it is a file"),
            "{}",
            error.in_full()
        );
        assert!(SledStore::open(file.join("below")).is_err());
        assert_eq!(fs::read(&file).unwrap(), b"mine");
    }

    #[cfg(unix)]
    #[test]
    fn only_the_owner_may_look() {
        use std::os::unix::fs::PermissionsExt;
        let home = tempdir().unwrap();
        let deep = home.path().join("a/b");
        drop(SledStore::open(&deep).unwrap());
        for (name, mode) in [
            ("", 0o700),
            ("LOCK", 0o600),
            ("sled", 0o700),
            ("sled/db", 0o600),
        ] {
            let found = fs::metadata(deep.join(name)).unwrap().permissions().mode() & 0o777;
            assert_eq!(found, mode, "{name}");
        }
    }

    #[test]
    fn a_damaged_log_never_panics_out_of_open() {
        let home = filled();
        let store = SledStore::open(home.path()).unwrap();
        for n in 0..60 {
            store
                .apply(batch(&[(&format!("k{n:02}"), &[n; 300])]))
                .unwrap();
            store.sync(Durability::Process).unwrap();
        }
        drop(store);
        let db = home.path().join("sled/db");
        let sound = fs::read(&db).unwrap();
        for seed in 0..12 {
            let mut bytes = sound.clone();
            match seed {
                0 => bytes[..4096].fill(0),
                1 => bytes.truncate(100),
                _ => {
                    // With and without the header of sled's first segment, in shrinking spans.
                    let from = [0, 20, 900][seed % 3];
                    let span = &mut bytes[from..][..4096 >> seed];
                    for (byte, noise) in span.iter_mut().zip(noise(seed as u64)) {
                        *byte = (noise >> 24) as u8;
                    }
                }
            }
            fs::write(&db, bytes).unwrap();
            match SledStore::open(home.path()) {
                Ok(store) => {
                    let found: Result<Vec<Pair>, _> = store.scan(b"\0", b"\xFF").collect();
                    assert!(
                        matches!(found, Ok(_) | Err(StoreError::Corrupt { .. })),
                        "{found:?}"
                    );
                }
                Err(error) => assert!(matches!(error, StoreError::Corrupt { .. }), "{error:?}"),
            }
        }
    }

    #[test]
    fn records_up_to_8_kb_never_go_to_blob_files() {
        let home = tempdir().unwrap();
        let store = SledStore::open(home.path()).unwrap();
        let mut noise = noise(1);
        let mut live = Vec::new();
        for _ in 0..400 {
            let mut batch = Batch::new();
            for _ in 0..8 {
                let key = noise.next().unwrap();
                batch.put(format!("some-prefix-{key:016x}"), vec![key as u8; 8000]);
                live.push(key);
                if live.len() > 120 {
                    // Deletes in between make sled merge nodes: the largest nodes there are.
                    let gone = live.swap_remove(noise.next().unwrap() as usize % live.len());
                    batch.delete(format!("some-prefix-{gone:016x}"));
                }
            }
            store.apply(batch).unwrap();
            store.sync(Durability::Process).unwrap();
            assert!(list(&home.path().join("sled/blobs")).unwrap().is_empty());
        }
    }

    #[test]
    fn a_blob_file_is_synced_twice_and_then_left_alone() {
        let home = tempdir().unwrap();
        let store = SledStore::open(home.path()).unwrap();
        store.apply(batch(&[("large", &[7; 300_000])])).unwrap();
        let settled = || -> Vec<bool> {
            store.sync(Durability::Power).unwrap();
            store.disk.lock().seen.values().copied().collect()
        };
        assert_eq!(
            (settled(), settled(), settled()),
            (vec![false], vec![true], vec![true])
        );
    }

    #[test]
    fn after_an_error_nothing_is_accepted_and_no_half_batch_is_kept() {
        let home = filled();
        let store = SledStore::open(home.path()).unwrap();
        // Makes sled fail in mid-batch: the large value has no directory to go to.
        fs::remove_dir(home.path().join("sled/blobs")).unwrap();
        let mut batch = Batch::new();
        (0..50).for_each(|n| batch.put(format!("half-{n}"), "x"));
        (0..50).for_each(|n| batch.put(format!("large-{n}"), vec![7; 300_000]));
        assert!(matches!(store.apply(batch), Err(StoreError::Io { .. })));
        for durability in [Durability::Power, Durability::Process, Durability::Buffered] {
            assert!(matches!(
                store.sync(durability),
                Err(StoreError::Poisoned(_))
            ));
        }
        let next = store.apply(self::batch(&[("k", b"v")]));
        assert!(matches!(next, Err(StoreError::Poisoned(why)) if why.contains("cannot write")));
        assert!(store.get(b"kept").unwrap().is_some(), "reads go on");
        drop(store);

        // sled's lock stays with the process, so look at a copy.
        let copy = tempdir().unwrap();
        fs::create_dir(copy.path().join("sled")).unwrap();
        for name in list(&home.path().join("sled")).unwrap() {
            let name = Path::new("sled").join(name);
            fs::copy(home.path().join(&name), copy.path().join(&name)).unwrap();
        }
        let store = SledStore::open(copy.path()).unwrap();
        let found: Vec<Pair> = store.scan(b"\0", b"\xFF").map(Result::unwrap).collect();
        assert_eq!(found, [(b"kept".to_vec(), b"yes".to_vec())]);
    }

    #[test]
    fn debug_of_a_sled_store_never_shows_contents() {
        let home = tempdir().unwrap();
        let store = SledStore::open(home.path()).unwrap();
        store.apply(batch(&[("canary", b"canary")])).unwrap();
        assert!(!format!("{store:?}").contains("canary"));
    }
}
