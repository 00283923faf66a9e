//! A copy of a closed store, for reading it with an engine that writes when it opens.
//!
//! The copy is in a directory beside the store, or, where none can be created there, in the
//! system's directory for temporary files. It contains a file that is locked as long as the copy
//! is in use, by which the remains of a killed audit are recognized and removed.

use std::fs::{self, File, TryLockError};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use tracing::{info, warn};

use super::files::{failed, open_new, open_old, remove_marked, with_ending};
use crate::persistence::store::StoreError;

/// The end of a copy's name.
const ENDING: &str = ".verify";
/// The mark in a copy: locked as long as the copy is in use. A directory without it was not created
/// by an audit.
const MARK: &str = ".copy";

/// A copy of a closed store, removed when it is dropped.
#[derive(Debug)]
pub(crate) struct ClosedCopy {
    path: PathBuf,
    _mark: File,
}

impl ClosedCopy {
    /// Makes a copy of the store in `data_dir`, whose files `fill` copies into the directory it is
    /// given.
    pub(crate) fn new(
        data_dir: &Path,
        fill: impl FnOnce(&Path) -> Result<(), StoreError>,
    ) -> Result<Self, StoreError> {
        let copy = Self::begin_somewhere(data_dir, &std::env::temp_dir())?;
        fill(&copy.path)?;
        Ok(copy)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
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

impl Drop for ClosedCopy {
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
pub(crate) fn remove_killed_audit(data_dir: &Path) {
    let copy = with_ending(data_dir, ENDING);
    if !copy.join(MARK).exists() {
        return;
    }
    match remove_left(&copy) {
        Ok(()) => info!(copy = %copy.display(), "removed the remains of a killed audit"),
        Err(error) => warn!(copy = %copy.display(), %error, "a copy of the store is left behind"),
    }
}
