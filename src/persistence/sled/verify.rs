//! An audit of a store that nobody has open: all is done to a copy, because sled writes when it opens.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use super::backup::{copy_file, copy_sled};
use super::base::{Base, Mark};
use super::files::{failed, list, make_dir, with_ending};
use super::home::hold;
use super::replay::inspect;
use super::{SledStore, Store};
use crate::persistence::{Audit, StoreError, folder};

impl SledStore {
    /// Reads all of a store and says what is wrong with it; changes nothing in its directory. It works on
    /// a copy beside that, which is removed.
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
    /// [`StoreError::Locked`] if it is open; [`StoreError::OtherEngine`]; [`StoreError::Io`] and [`StoreError::Full`] if there is none,
    /// if it cannot be read, or not be copied. What is wrong with it is no error.
    pub fn verify(dir: impl AsRef<Path>) -> Result<Audit, StoreError> {
        let dir = dir.as_ref();
        let home = dir.canonicalize().map_err(|e| failed("verify", dir, e))?;
        let _lock = hold(&home)?;
        folder::holds_no_other(&home, "sled")?;
        if !home.join("sled").is_dir() {
            return Err(failed("find a store in", &home, ErrorKind::NotFound.into()));
        }
        let copy = Copy::of(&home)?;
        let mut audit = Audit::default();
        if let Err(error) = examine(&copy.0, &mut audit) {
            audit.fail(&error);
            audit.find(home.display().to_string(), "its records were not read");
        }
        let (from, to) = (copy.0.display().to_string(), home.display().to_string());
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
    let mark = Base::open(home).and_then(|base| base.mark());
    let known = mark.as_ref().ok().copied().flatten();
    inspect(
        &home.join("wal"),
        known.unwrap_or_else(Mark::default),
        audit,
    )?;
    mark?;
    let store = SledStore::open(home)?;
    let _ = audit.read(&store as &dyn Store);
    Ok(())
}

/// A copy of a store, removed when it is dropped.
struct Copy(PathBuf);

impl Copy {
    fn of(home: &Path) -> Result<Self, StoreError> {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let ending = format!(".verify-{}-{number}", std::process::id());
        let copy = Self(with_ending(home, &ending));
        let (log, copied_log) = (home.join("wal"), copy.0.join("wal"));
        make_dir(&copied_log)?;
        for name in list(&log)? {
            if log.join(&name).is_file() {
                copy_file(&log.join(&name), &copied_log.join(&name), u64::MAX)?;
            }
        }
        copy_sled(&home.join("sled"), &copy.0.join("sled"))?;
        Ok(copy)
    }
}

impl Drop for Copy {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.0) {
            tracing::warn!(copy = %self.0.display(), %error, "a copy is left behind");
        }
    }
}
