//! Space on the disk that is kept for work that has been accepted (H6).
//!
//! `<home>/ballast` holds 16 MiB that nobody uses. When the disk is full it is given back: what has
//! begun goes on with that, and new work is refused until there is room for it again.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use tracing::{info, warn};

use super::files::{failed, open_private, remove, sync_dir};
use crate::persistence::StoreError;

pub(super) const BALLAST: u64 = 16 << 20;
/// So much must be free beside the ballast once it was given back: what that has freed is no room.
const MARGIN: u64 = BALLAST;

#[derive(Debug)]
pub(super) struct Room {
    path: PathBuf,
    /// New work is refused.
    tight: AtomicBool,
    /// How much is wanted beside the ballast before that ends; whoever holds it changes the file.
    wanted: Mutex<u64>,
}

impl Room {
    /// The room of a store that is being opened: its ballast is there or not.
    pub(super) fn of(home: &Path) -> Self {
        Self {
            path: home.join("ballast"),
            tight: AtomicBool::new(true),
            wanted: Mutex::new(0),
        }
    }

    /// Says whether new work may come in; looks again if it could not.
    pub(super) fn check(&self) -> Result<(), StoreError> {
        if !self.tight.load(Ordering::Acquire) {
            return Ok(());
        }
        let mut wanted = self.wanted.lock();
        self.allocate(*wanted)?;
        *wanted = 0;
        if self.tight.swap(false, Ordering::AcqRel) {
            info!(ballast = %self.path.display(), "there is room on the disk");
        }
        Ok(())
    }

    /// Says whether there are so many bytes beside the ballast.
    pub(super) fn has(&self, bytes: u64) -> bool {
        let mut wanted = self.wanted.lock();
        let enough = self.allocate(bytes);
        *wanted = match enough {
            Ok(()) => (*wanted).min(MARGIN),
            Err(_) => bytes,
        };
        if let Err(error) = &enough {
            self.refuse_new_work(error);
        }
        enough.is_ok()
    }

    /// Has the work done, once more with the ballast's space if the disk is full.
    pub(super) fn make_for<T>(
        &self,
        mut work: impl FnMut() -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        match work() {
            Err(error) if error.is_full() => {
                self.refuse_new_work(&error);
                if self.give_back()? {
                    work()
                } else {
                    Err(error)
                }
            }
            done => done,
        }
    }

    fn refuse_new_work(&self, why: &StoreError) {
        if !self.tight.swap(true, Ordering::AcqRel) {
            warn!(error = %why, "new work is refused until there is room on the disk");
        }
    }

    /// Says whether there was anything to give.
    fn give_back(&self) -> Result<bool, StoreError> {
        let mut wanted = self.wanted.lock();
        *wanted = (*wanted).max(MARGIN);
        let given = self.path.metadata().is_ok_and(|found| found.len() > 0);
        remove(&self.path)?;
        if given && let Some(home) = self.path.parent() {
            // Some file systems have the space again only when this is on disk.
            sync_dir(home).map_err(StoreError::into_final)?;
        }
        Ok(given)
    }

    /// Makes the ballast what it should be, if there is room for it and so many bytes more.
    fn allocate(&self, more: u64) -> Result<(), StoreError> {
        let file = open_private(&self.path)?;
        let before = file.metadata().map_or(0, |found| found.len());
        if before >= BALLAST && more == 0 {
            return Ok(());
        }
        let enough = reserve(&file, BALLAST + more);
        // A part of a ballast is of no use.
        let kept = if enough.is_ok() || before >= BALLAST {
            file.set_len(BALLAST)
        } else {
            file.set_len(0)
        };
        enough
            .and(kept)
            .map_err(|e| failed("keep room free in", &self.path, e))
    }
}

/// Has the file system set so many bytes aside.
fn reserve(file: &File, bytes: u64) -> io::Result<()> {
    #[cfg(target_os = "linux")]
    match rustix::fs::fallocate(file, rustix::fs::FallocateFlags::empty(), 0, bytes) {
        Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) => {}
        done => return Ok(done?),
    }
    let mut at = file.metadata()?.len();
    let mut file = file;
    io::Seek::seek(&mut file, io::SeekFrom::Start(at))?;
    while at < bytes {
        let piece = (bytes - at).min(super::segment::ZEROES.len() as u64);
        io::Write::write_all(&mut file, &super::segment::ZEROES[..piece as usize])?;
        at += piece;
    }
    Ok(())
}
