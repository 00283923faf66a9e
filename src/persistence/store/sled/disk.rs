//! Makes durable what sled only hands to the kernel.

use std::collections::HashMap;
use std::ffi::OsString;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use tracing::warn;

use super::files::{
    failed, fdatasync, list, make_private, open_private, sync_dir, sync_file, unsynced,
};
use crate::persistence::store::StoreError;
use crate::persistence::store::fs::dir::check_has_a_name;

/// File handles of our own on sled's files, to fsync what sled only hands to the kernel (H1).
#[derive(Debug)]
pub(super) struct Disk {
    db: File,
    db_path: PathBuf,
    blobs: PathBuf,
    /// The blob files seen, each with whether it needs no more fsync (H5).
    pub(super) seen: HashMap<OsString, bool>,
    /// The directory's modification time when all of its files were synced: while it is unchanged,
    /// the directory is not listed.
    quiet_since: Option<SystemTime>,
}

impl Disk {
    /// Opens the files. Called before sled opens them, so that no write error escapes these
    /// descriptors.
    pub(super) fn open(dir: &Path) -> Result<Self, StoreError> {
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

    /// Fails if sled's file has been deleted.
    pub(super) fn check_has_a_name(&self) -> Result<(), StoreError> {
        check_has_a_name(&self.db, &self.db_path)
    }

    pub(super) fn fsync(&mut self) -> Result<(), StoreError> {
        self.fsync_blobs()?;
        // Covers the file's length and block map, without a commit of the file system's journal
        // when neither has changed.
        fdatasync(&self.db).map_err(|e| unsynced(&self.db_path, e))
    }

    /// Fsyncs new blob files: one `stat` if there are none, a listing if sled has put files into
    /// `blobs/`.
    fn fsync_blobs(&mut self) -> Result<(), StoreError> {
        let changed = fs::metadata(&self.blobs)
            .and_then(|found| found.modified())
            .map_err(|e| failed("look at", &self.blobs, e))?;
        if self.quiet_since == Some(changed) {
            return Ok(());
        }
        let names = list(&self.blobs)?;
        if self.seen.is_empty() && !names.is_empty() {
            warn!(dir = %self.blobs.display(), "records are too large for sled's log: commits are slower and less safe");
        }
        self.seen.retain(|name, _| names.contains(name));
        let mut fresh = false;
        for name in names {
            // sled may still be writing a file that is seen for the first time, for a commit after
            // this one. So the file is synced now and again after the next flush, which waits for
            // its writer.
            let settled = self.seen.get(&name).copied();
            if settled != Some(true) {
                make_private(&self.blobs.join(&name))?;
                sync_file(&self.blobs.join(&name))?;
                fresh |= settled.is_none();
                self.seen.insert(name, settled.is_some());
            }
        }
        if fresh {
            sync_dir(&self.blobs)?;
        }
        // Times are as coarse as the kernel's tick, so a recent one may cover two changes.
        let old = changed
            .elapsed()
            .is_ok_and(|age| age > Duration::from_secs(1));
        let settled = self.seen.values().all(|settled| *settled);
        self.quiet_since = (old && settled).then_some(changed);
        Ok(())
    }
}
