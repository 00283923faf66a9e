//! An engine's own folder in the user's directory: finished, or to be made anew (H3).
//!
//! ```text
//! .creating          there from before the engine's first file until all of the first open is on disk,
//! .ready             then renamed to this: exactly one of the two marks the folder as ours
//! ```

use std::ffi::OsStr;
use std::fs;
use std::io::Write;
use std::path::Path;

use tracing::info;

use super::StoreError;
use super::files::{damaged, failed, list, make_dir, open_private, rename, sync_dir, sync_file};

const CREATING: &str = ".creating";
const READY: &str = ".ready";

/// Every engine has its folder here, of its own name.
const ENGINES: [&str; 2] = ["sled", "redb"];

/// Refuses a directory in which another engine keeps a store: to this one it would look new.
pub(super) fn check_engine(home: &Path, engine: &'static str) -> Result<(), StoreError> {
    let other = ENGINES
        .into_iter()
        .find(|other| *other != engine && home.join(other).join(READY).exists());
    match other {
        Some(found) => Err(StoreError::WrongEngine {
            path: home.to_owned(),
            found,
            asked: engine,
        }),
        None => Ok(()),
    }
}

/// Says whether the first open of the store in this folder has come to its end.
pub(super) fn is_finished(dir: &Path) -> bool {
    dir.join(READY).exists()
}

/// Makes the folder if need be; true if the store in it is to be made anew.
///
/// What a first open that was cut short has left, and `is_own` knows, is removed: nothing was ever
/// acknowledged from there, and half-made files may not open.
pub(super) fn claim(dir: &Path, is_own: impl Fn(&OsStr) -> bool) -> Result<bool, StoreError> {
    make_dir(dir)?;
    let names = list(dir)?;
    let has = |name: &str| names.iter().any(|found| found == name);
    if has(READY) {
        return Ok(false);
    }
    if has(CREATING) {
        info!(dir = %dir.display(), "the first open was cut short; starting anew");
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

/// Says, durably, that whatever an engine is about to leave in `dir` is ours to wipe.
fn mark_creating(dir: &Path) -> Result<(), StoreError> {
    let path = dir.join(CREATING);
    let text = "a chordal store is being made here; its directory may be wiped\n";
    open_private(&path)?
        .write_all(text.as_bytes())
        .map_err(|e| failed("write", &path, e))?;
    sync_file(&path)?;
    sync_dir(dir)
}

/// Says, durably, that the store in `<home>/…/dir` is made; all of its files must be on disk.
pub(super) fn finish(home: &Path, dir: &Path) -> Result<(), StoreError> {
    rename(&dir.join(CREATING), &dir.join(READY))?;
    sync_dir(dir)?;
    sync_dir(home)
}
