//! Prepares sled's directory before sled opens it (H2, H3, H4).

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, BufReader};
use std::path::Path;

use super::files::{damaged, failed, list, make_dir, make_private, sync_dir, sync_file};
use crate::persistence::store::StoreError;
use crate::persistence::store::fs::engine_dir;
use crate::testing::negative_control::Rule::{H2, H3, H4};
use crate::testing::negative_control::without;

/// Brings `<data_dir>/sled` into a state that sled can open; returns whether sled is to be created
/// anew.
pub(super) fn prepare(dir: &Path) -> Result<bool, StoreError> {
    let is_own = |name: &OsStr| {
        let own = ["db", "conf", "blobs"];
        own.iter().any(|own| name == *own) || is_snapshot(name)
    };
    if without(H3) && !engine_dir::is_finished(dir) {
        return make_dir(dir).map(|()| false);
    }
    if engine_dir::claim(dir, is_own)? {
        return Ok(true);
    }
    let db = dir.join("db");
    if fs::metadata(&db).map_or(0, |found| found.len()) == 0 && !without(H4) {
        // sled would treat the file as a new store (H4).
        return Err(damaged(
            &db,
            "the log of a finished store is missing or empty",
        ));
    }
    if db.exists() || !without(H4) {
        read_through(&db)?;
    }
    remove_torn_snapshots(dir)?;
    // After a kill the kernel may hold data that is not on disk. sled builds snapshots from the
    // data it reads and fsyncs those, so the log must be on disk before.
    sync_created_files(dir)?;
    Ok(false)
}

/// Reads a file from end to end, to fail here rather than in sled: sled treats a read error at open
/// as the end of its log and overwrites the rest.
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

/// Removes torn snapshots (H2): sled would treat one as the newest snapshot, and fail.
fn remove_torn_snapshots(dir: &Path) -> Result<(), StoreError> {
    if without(H2) {
        return Ok(());
    }
    for name in list(dir)? {
        if is_snapshot(&name) && name.to_string_lossy().ends_with(".generating") {
            let path = dir.join(name);
            fs::remove_file(&path).map_err(|e| failed("remove", &path, e))?;
        }
    }
    Ok(())
}

fn is_snapshot(name: &OsStr) -> bool {
    name.to_string_lossy().starts_with("snap.")
}

/// Fsyncs every file in sled's directory, and the directories. sled creates them readable for all
/// users: here they become readable for their owner only.
pub(super) fn sync_created_files(dir: &Path) -> Result<(), StoreError> {
    let blobs = dir.join("blobs");
    for directory in [blobs.as_path(), dir] {
        for name in list(directory)? {
            let path = directory.join(name);
            if path.is_file() {
                make_private(&path)?;
                sync_file(&path)?;
            }
        }
        if directory.exists() {
            make_private(directory)?;
            sync_dir(directory)?;
        }
    }
    Ok(())
}
