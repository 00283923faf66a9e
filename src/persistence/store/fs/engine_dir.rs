//! An engine's directory in the data directory: finished, or to be created anew (H3).
//!
//! ```text
//! .creating          exists from before the engine's first file until the first open is on disk,
//! .ready             then renamed to this: one of the two marks the directory as ours
//! ```

use std::ffi::OsStr;
use std::fs;
use std::io::Write;
use std::path::Path;

use tracing::info;

use super::files::{damaged, failed, list, make_dir, open_private, rename, sync_dir, sync_file};
use crate::persistence::store::StoreError;

const CREATING: &str = ".creating";
const READY: &str = ".ready";

/// The names of the engines; each has a directory of that name.
const ENGINES: [&str; 2] = ["sled", "redb"];

/// Fails if another engine keeps a store in the data directory: to this engine the store would look
/// new.
pub(crate) fn check_engine(data_dir: &Path, engine: &'static str) -> Result<(), StoreError> {
    let other = ENGINES
        .into_iter()
        .find(|other| *other != engine && data_dir.join(other).join(READY).exists());
    match other {
        Some(found) => Err(StoreError::WrongEngine {
            path: data_dir.to_owned(),
            found,
            asked: engine,
        }),
        None => Ok(()),
    }
}

/// Returns whether the first open of the store in this directory has completed.
pub(crate) fn is_finished(dir: &Path) -> bool {
    dir.join(READY).exists()
}

/// Creates the directory if needed; returns whether the store in it is to be created anew.
///
/// The files of an interrupted first open are removed where `is_own` knows them: none of their
/// content was acknowledged, and half-made files may not open.
pub(crate) fn claim(dir: &Path, is_own: impl Fn(&OsStr) -> bool) -> Result<bool, StoreError> {
    make_dir(dir)?;
    let names = list(dir)?;
    let has = |name: &str| names.iter().any(|found| found == name);
    if has(READY) {
        return Ok(false);
    }
    if has(CREATING) {
        info!(dir = %dir.display(), "the first open was interrupted; starting anew");
        for name in names.iter().filter(|name| is_own(name)) {
            let path = dir.join(name);
            let removed = if path.is_dir() {
                fs::remove_dir_all(&path)
            } else {
                fs::remove_file(&path)
            };
            removed.map_err(|e| failed("remove", &path, e))?;
        }
    } else if !names.is_empty() {
        return Err(damaged(
            dir,
            "it holds files but no mark of this library, and is left untouched",
        ));
    }
    mark_creating(dir)?;
    Ok(true)
}

/// Durably marks that the files an engine is about to leave in `dir` may be wiped.
fn mark_creating(dir: &Path) -> Result<(), StoreError> {
    let path = dir.join(CREATING);
    let text = "a chordal store is being made here; its directory may be wiped\n";
    open_private(&path)?
        .write_all(text.as_bytes())
        .map_err(|e| failed("write", &path, e))?;
    sync_file(&path)?;
    sync_dir(dir)
}

/// Durably marks that the store in `<data_dir>/…/dir` is complete; all of its files must be on
/// disk.
pub(crate) fn finish(data_dir: &Path, dir: &Path) -> Result<(), StoreError> {
    rename(&dir.join(CREATING), &dir.join(READY))?;
    sync_dir(dir)?;
    sync_dir(data_dir)
}
