//! An audit of a store that is not open. It works on a copy, because sled writes when it opens.
//!
//! The copy is in a directory beside the store, or, where none can be created there, in the
//! system's directory for temporary files. It contains a file that is locked as long as the audit
//! runs, by which the remains of a killed audit are recognized and removed.

use std::fs::{self, File, TryLockError};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use tracing::{info, warn};

use super::backup::{copy_file, copy_sled};
use super::base::Base;
use super::data_dir::lock_read_only;
use super::files::{failed, list, make_dir, open_new, open_old, remove_marked, with_ending};
use super::replay::{BaseState, inspect};
use super::{SledStore, Store, refuse_links};
use crate::persistence::store::fs::engine_dir;
use crate::persistence::{Audit, StoreError};

impl SledStore {
    /// Reads all of a store and returns its defects; changes nothing in its directory. It works on
    /// a copy, `<directory>.verify`, which is removed. Where that cannot be created (a read-only
    /// volume, a directory of another user) the copy is in [`temp_dir`](std::env::temp_dir). The
    /// remains of a killed audit are removed by the next one, and when the store is opened.
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
    /// if it cannot be read, or not be copied. A defect of the store is no error.
    pub fn verify(dir: impl AsRef<Path>) -> Result<Audit, StoreError> {
        let dir = dir.as_ref();
        let data_dir = dir.canonicalize().map_err(|e| failed("verify", dir, e))?;
        let _lock = lock_read_only(&data_dir)?;
        engine_dir::check_engine(&data_dir, "sled")?;
        refuse_links(&data_dir)?;
        if !data_dir.join("sled").is_dir() {
            return Err(failed(
                "find a store in",
                &data_dir,
                ErrorKind::NotFound.into(),
            ));
        }
        let copy = Copy::of(&data_dir, &std::env::temp_dir())?;
        let mut audit = Audit::default();
        if let Err(error) = examine(&copy.path, &mut audit) {
            audit.fail(&error);
            audit.find(data_dir.display().to_string(), "its records were not read");
        }
        let (from, to) = (
            copy.path.display().to_string(),
            data_dir.display().to_string(),
        );
        for finding in &mut audit.findings {
            finding.place = finding.place.replace(&from, &to);
            finding.what = finding.what.replace(&from, &to);
        }
        Ok(audit)
    }
}

/// Audits the log; then, if the log can be replayed, the records.
fn examine(data_dir: &Path, audit: &mut Audit) -> Result<(), StoreError> {
    // The log can be audited even if sled cannot be opened.
    let held = Base::open(data_dir).and_then(|base| base.held());
    let known: BaseState = held.as_ref().ok().copied().unwrap_or_default();
    inspect(&data_dir.join("wal"), known, audit)?;
    held?;
    let store = SledStore::open(data_dir)?;
    let _ = audit.read(&store as &dyn Store);
    Ok(())
}

/// The end of a copy's name.
const ENDING: &str = ".verify";
/// The mark in a copy: locked as long as the copy is in use. A directory without it was not created
/// by an audit.
const MARK: &str = ".copy";

/// A copy of a store, removed when it is dropped.
struct Copy {
    path: PathBuf,
    _mark: File,
}

impl Copy {
    fn of(data_dir: &Path, temp_dir: &Path) -> Result<Self, StoreError> {
        let copy = Self::begin_somewhere(data_dir, temp_dir)?;
        let (log, copied_log) = (data_dir.join("wal"), copy.path.join("wal"));
        make_dir(&copied_log)?;
        for name in list(&log)? {
            if log.join(&name).is_file() {
                copy_file(&log.join(&name), &copied_log.join(&name), u64::MAX)?;
            }
        }
        copy_sled(&data_dir.join("sled"), &copy.path.join("sled"))?;
        Ok(copy)
    }

    /// Begins the copy beside the store, where blocks can be shared with it; or, if that is not
    /// possible, among the temporary files.
    fn begin_somewhere(data_dir: &Path, temp_dir: &Path) -> Result<Self, StoreError> {
        let beside = match Self::begin(with_ending(data_dir, ENDING)) {
            Err(error) if is_unwritable(&error) => error,
            begun => return begun,
        };
        let number = crc32fast::hash(data_dir.as_os_str().as_encoded_bytes());
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
            // Only for the owner: names in a directory for temporary files can be guessed.
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

/// Returns whether no directory of any name can be created there.
fn is_unwritable(error: &StoreError) -> bool {
    use ErrorKind::{InvalidFilename, PermissionDenied, ReadOnlyFilesystem};
    let kinds = [InvalidFilename, PermissionDenied, ReadOnlyFilesystem];
    matches!(error, StoreError::Io { source, .. } if kinds.contains(&source.kind()))
}

/// Removes the remains of a killed audit at this path. Fails on anything else there, and on a copy
/// in use.
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
        // The audit was killed after it created the directory; or there is none.
        Err(e) if e.kind() == ErrorKind::NotFound => match fs::remove_dir(copy) {
            Err(e) if e.kind() != ErrorKind::NotFound => Err(e),
            _ => Ok(()),
        },
        Err(error) => Err(error),
    }
}

/// Removes the remains of a killed audit of this store. An open store is not audited, and a failure
/// does not keep a store from opening.
pub(super) fn remove_killed_audit(data_dir: &Path) {
    let copy = with_ending(data_dir, ENDING);
    if !copy.join(MARK).exists() {
        return;
    }
    match remove_left(&copy) {
        Ok(()) => info!(copy = %copy.display(), "removed the remains of a killed audit"),
        Err(error) => warn!(copy = %copy.display(), %error, "a copy of the store is left behind"),
    }
}
