//! sled's directory before sled opens it (H2, H3, H4).

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, BufReader, Write};
use std::path::Path;

use tracing::info;

use super::files::{
    damaged, failed, list, make_dir, make_private, open_private, sync_dir, sync_file,
};
use super::without::{
    Rule::{H2, H3, H4},
    without,
};
use crate::persistence::StoreError;

/// Brings `<home>/sled` into a state that sled can open; true if it is to be made anew.
pub(super) fn prepare(dir: &Path) -> Result<bool, StoreError> {
    make_dir(dir)?;
    let names = list(dir)?;
    let has = |name: &str| names.iter().any(|found| found == name);
    if has(".ready") {
        let db = dir.join("db");
        if fs::metadata(&db).map_or(0, |found| found.len()) == 0 && !without(H4) {
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
    if without(H3) {
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
    open_private(&path)?
        .write_all(text.as_bytes())
        .map_err(|e| failed("write", &path, e))?;
    sync_file(&path)?;
    sync_dir(dir)
}

/// H2: sled would take a torn snapshot for the newest one, and fail.
fn remove_torn_snapshots(dir: &Path, names: &[OsString]) -> Result<(), StoreError> {
    if without(H2) {
        return Ok(());
    }
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

/// Fsyncs every file in sled's directory, and the directories. sled makes them for all to
/// read: here they become their owner's.
pub(super) fn settle(dir: &Path) -> Result<(), StoreError> {
    let blobs = dir.join("blobs");
    for folder in [blobs.as_path(), dir] {
        for name in list(folder)? {
            let path = folder.join(name);
            if path.is_file() {
                make_private(&path)?;
                sync_file(&path)?;
            }
        }
        if folder.exists() {
            make_private(folder)?;
            sync_dir(folder)?;
        }
    }
    Ok(())
}
