//! An audit of a store that nobody has open: all is done to a copy, because sled writes when it opens.
//!
//! The copy is in a directory beside the store, or, where none can be made there, among the system's
//! temporary files. It holds a file that is locked as long as the audit runs: what an audit that was killed
//! has left is known by that, and removed.

use std::fs::{self, File, TryLockError};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use tracing::{info, warn};

use super::backup::{copy_file, copy_sled};
use super::base::Base;
use super::data_dir::lock_read_only;
use super::files::{failed, list, make_dir, open_new, open_old, remove_marked, with_ending};
use super::replay::{Held, inspect};
use super::{SledStore, Store, refuse_links};
use crate::persistence::{Audit, StoreError, engine_dir};

impl SledStore {
    /// Reads all of a store and says what is wrong with it; changes nothing in its directory. It works on
    /// a copy, `<directory>.verify`, which is removed. Where that cannot be made (a read-only volume, a
    /// directory of somebody else) the copy is in [`temp_dir`](std::env::temp_dir). What an audit that was
    /// killed has left is removed by the next one, and when the store is opened.
    ///
    /// [`App::verify`](crate::App::verify) is the same for an app.
    ///
    /// # Examples
    /// ```
    /// # use chordal::persistence::SledStore;
    /// # let home = tempfile::tempdir().unwrap();
    /// # let path = home.path().join("data");
    /// drop(SledStore::open(&path)?);
    /// assert!(SledStore::verify(&path)?.is_sound());
    /// # Ok::<(), chordal::StoreError>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`StoreError::Locked`] if it is open; [`StoreError::WrongEngine`]; [`StoreError::Io`] and [`StoreError::Full`] if there is none,
    /// if it cannot be read, or not be copied. What is wrong with it is no error.
    pub fn verify(dir: impl AsRef<Path>) -> Result<Audit, StoreError> {
        let dir = dir.as_ref();
        let home = dir.canonicalize().map_err(|e| failed("verify", dir, e))?;
        let _lock = lock_read_only(&home)?;
        engine_dir::check_engine(&home, "sled")?;
        refuse_links(&home)?;
        if !home.join("sled").is_dir() {
            return Err(failed("find a store in", &home, ErrorKind::NotFound.into()));
        }
        let copy = Copy::of(&home, &std::env::temp_dir())?;
        let mut audit = Audit::default();
        if let Err(error) = examine(&copy.path, &mut audit) {
            audit.fail(&error);
            audit.find(home.display().to_string(), "its records were not read");
        }
        let (from, to) = (copy.path.display().to_string(), home.display().to_string());
        for finding in &mut audit.findings {
            finding.place = finding.place.replace(&from, &to);
            finding.what = finding.what.replace(&from, &to);
        }
        Ok(audit)
    }
}

/// Looks at the log; then, if that can be replayed, at the records.
fn examine(home: &Path, audit: &mut Audit) -> Result<(), StoreError> {
    // Even if sled cannot be opened, the log can be looked at.
    let held = Base::open(home).and_then(|base| base.held());
    let known: Held = held.as_ref().ok().copied().unwrap_or_default();
    inspect(&home.join("wal"), known, audit)?;
    held?;
    let store = SledStore::open(home)?;
    let _ = audit.read(&store as &dyn Store);
    Ok(())
}

/// What the name of a copy ends in.
const ENDING: &str = ".verify";
/// In a copy: locked as long as it is in use. A directory without it is none of ours.
const MARK: &str = ".copy";

/// A copy of a store, removed when it is dropped.
struct Copy {
    path: PathBuf,
    _mark: File,
}

impl Copy {
    fn of(home: &Path, temp_dir: &Path) -> Result<Self, StoreError> {
        let copy = Self::begin_somewhere(home, temp_dir)?;
        let (log, copied_log) = (home.join("wal"), copy.path.join("wal"));
        make_dir(&copied_log)?;
        for name in list(&log)? {
            if log.join(&name).is_file() {
                copy_file(&log.join(&name), &copied_log.join(&name), u64::MAX)?;
            }
        }
        copy_sled(&home.join("sled"), &copy.path.join("sled"))?;
        Ok(copy)
    }

    /// Beside the store, where blocks can be shared with it; or, if nothing can be made there, elsewhere.
    fn begin_somewhere(home: &Path, temp_dir: &Path) -> Result<Self, StoreError> {
        let beside = match Self::begin(with_ending(home, ENDING)) {
            Err(error) if is_unwritable(&error) => error,
            begun => return begun,
        };
        let number = crc32fast::hash(home.as_os_str().as_encoded_bytes());
        let elsewhere = temp_dir.join(format!("chordal-{number:08x}{ENDING}"));
        info!(%beside, copy = %elsewhere.display(), "the copy to verify is made elsewhere");
        Self::begin(elsewhere)
    }

    fn begin(path: PathBuf) -> Result<Self, StoreError> {
        let begin = || -> io::Result<File> {
            remove_left(&path)?;
            let mut builder = fs::DirBuilder::new();
            #[cfg(unix)]
            std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
            // Nobody else's: names in a directory for temporary files can be guessed.
            builder.create(&path)?;
            let mark = open_new(&path.join(MARK))?;
            mark.try_lock()?;
            Ok(mark)
        };
        let mark = begin().map_err(|e| failed("copy the store to", &path, e))?;
        Ok(Self { path, _mark: mark })
    }
}

impl Drop for Copy {
    fn drop(&mut self) {
        if let Err(error) = remove_marked(&self.path, MARK) {
            warn!(copy = %self.path.display(), %error, "a copy is left behind");
        }
    }
}

/// Says whether no directory can be made there, whatever its name is elsewhere.
fn is_unwritable(error: &StoreError) -> bool {
    use ErrorKind::{InvalidFilename, PermissionDenied, ReadOnlyFilesystem};
    let kinds = [InvalidFilename, PermissionDenied, ReadOnlyFilesystem];
    matches!(error, StoreError::Io { source, .. } if kinds.contains(&source.kind()))
}

/// Removes what an audit that was killed has left at this path. Something else there, or a copy that is in
/// use, is an error.
fn remove_left(copy: &Path) -> io::Result<()> {
    match open_old(&copy.join(MARK)) {
        Ok(mark) => {
            match mark.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => {
                    let why = "another audit of the store is under way";
                    return Err(io::Error::new(ErrorKind::WouldBlock, why));
                }
                Err(TryLockError::Error(error)) => return Err(error),
            }
            remove_marked(copy, MARK)
        }
        // It came no further than to make the directory; or there is none.
        Err(e) if e.kind() == ErrorKind::NotFound => match fs::remove_dir(copy) {
            Err(e) if e.kind() != ErrorKind::NotFound => Err(e),
            _ => Ok(()),
        },
        Err(error) => Err(error),
    }
}

/// Removes what an audit of this store that was killed has left beside it. An open store is not audited, and
/// this does not keep one shut.
pub(super) fn remove_left_behind(home: &Path) {
    let copy = with_ending(home, ENDING);
    if !copy.join(MARK).exists() {
        return;
    }
    match remove_left(&copy) {
        Ok(()) => info!(copy = %copy.display(), "removed what an audit that was killed has left"),
        Err(error) => warn!(copy = %copy.display(), %error, "a copy of the store is left behind"),
    }
}
