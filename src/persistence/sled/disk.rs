//! What sled only hands to the kernel, made durable.

use std::collections::HashMap;
use std::ffi::OsString;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use tracing::warn;

use super::files::{
    failed, fdatasync, list, make_private, open_private, sync_dir, sync_file, unsynced,
};
use crate::persistence::StoreError;
use crate::persistence::dir::check_has_a_name;

/// Our own descriptors on sled's files, to fsync what sled only hands to the kernel (H1).
#[derive(Debug)]
pub(super) struct Disk {
    db: File,
    db_path: PathBuf,
    blobs: PathBuf,
    /// Blob files seen, and whether they need no more fsync (H5).
    pub(super) seen: HashMap<OsString, bool>,
    /// The directory's time of change when all in it was settled: no need to list it again.
    quiet_since: Option<SystemTime>,
}

impl Disk {
    /// Before sled opens the same file, so that no write error escapes our descriptor.
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

    /// Refuses to go on with a file of sled's that has been deleted.
    pub(super) fn check_has_a_name(&self) -> Result<(), StoreError> {
        check_has_a_name(&self.db, &self.db_path)
    }

    pub(super) fn fsync(&mut self) -> Result<(), StoreError> {
        self.fsync_blobs()?;
        // With the file's length and where its blocks are, but without a commit of the file system's
        // journal when neither has changed.
        fdatasync(&self.db).map_err(|e| unsynced(&self.db_path, e))
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
                make_private(&self.blobs.join(&name))?;
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
