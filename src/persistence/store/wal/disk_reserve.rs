//! The disk reserve: space that is kept for accepted work (H6).
//!
//! `<data_dir>/ballast` holds 16 MiB of unused space. When the disk is full the file is removed:
//! running work continues in that space, and new work is refused until there is space for the file
//! again. Its first line says what it is, so that a file of another program with this name is
//! recognized.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use tracing::{info, warn};

use crate::persistence::store::StoreError;
use crate::persistence::store::fs::dir::Dir;
use crate::persistence::store::fs::files::{damaged, failed, refuse_link};

const NAME: &str = "ballast";
pub(crate) const BALLAST: u64 = 16 << 20;
/// The first line of the ballast. Earlier versions left zeroes there.
const FIRST_LINE: &[u8] = b"chordal keeps this space free for a full disk\n";
/// The space that must be free beside the ballast after it was released: the space of the ballast
/// itself is no reason to accept work.
const MARGIN: u64 = BALLAST;

#[derive(Debug)]
pub(crate) struct DiskReserve {
    /// The directory of the ballast.
    data_dir: Arc<Dir>,
    /// Whether new work is refused.
    tight: AtomicBool,
    /// The space needed beside the ballast before new work is accepted again; locked to change the
    /// file.
    wanted: Mutex<u64>,
}

impl DiskReserve {
    /// Creates the reserve of a store that is being opened, with or without a ballast. Fails on a
    /// file of that name that is no ballast, before it could be overwritten.
    pub(crate) fn of(data_dir: Arc<Dir>) -> Result<Self, StoreError> {
        let reserve = Self {
            data_dir,
            tight: AtomicBool::new(true),
            wanted: Mutex::new(0),
        };
        refuse_link(&reserve.path())?;
        reserve.found()?;
        Ok(reserve)
    }

    fn path(&self) -> PathBuf {
        self.data_dir.path().join(NAME)
    }

    /// Opens the ballast, if there is one.
    fn found(&self) -> Result<Option<File>, StoreError> {
        match self.data_dir.open_file(OsStr::new(NAME)) {
            Ok(mut file) => self.check_ours(&mut file).map(|()| Some(file)),
            Err(StoreError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    fn check_ours(&self, file: &mut File) -> Result<(), StoreError> {
        match is_ballast(file).map_err(|e| failed("read", &self.path(), e))? {
            true => Ok(()),
            false => {
                let what = "it was not written by this library and is left untouched";
                Err(damaged(&self.path(), what))
            }
        }
    }

    /// Returns an error if new work must be refused; after a refusal, tries to restore the ballast
    /// first.
    pub(crate) fn check(&self) -> Result<(), StoreError> {
        if !self.tight.load(Ordering::Acquire) {
            return Ok(());
        }
        let mut wanted = self.wanted.lock();
        self.allocate(*wanted)?;
        *wanted = 0;
        if self.tight.swap(false, Ordering::AcqRel) {
            info!(ballast = %self.path().display(), "there is room on the disk");
        }
        Ok(())
    }

    /// Fails unless this many bytes are free beside the ballast.
    pub(crate) fn check_has(&self, bytes: u64) -> Result<(), StoreError> {
        let mut wanted = self.wanted.lock();
        let enough = self.allocate(bytes);
        match &enough {
            Ok(()) => *wanted = (*wanted).min(MARGIN),
            // A shortage of descriptors or memory says nothing about the disk.
            Err(StoreError::Exhausted { .. }) => {}
            Err(error) => {
                *wanted = bytes;
                self.refuse_new_work(error);
            }
        }
        enough
    }

    /// Runs `work`, and once more with the ballast's space if the disk is full.
    pub(crate) fn make_for<T>(
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

    /// Removes the ballast; returns whether it held any space.
    fn give_back(&self) -> Result<bool, StoreError> {
        let mut wanted = self.wanted.lock();
        *wanted = (*wanted).max(MARGIN);
        let Some(ballast) = self.found()? else {
            return Ok(false);
        };
        let given = ballast.metadata().is_ok_and(|found| found.len() > 0);
        drop(ballast);
        self.data_dir.remove(OsStr::new(NAME))?;
        if given {
            // Some file systems release the space only when the removal is on disk.
            self.data_dir.sync().map_err(StoreError::into_final)?;
        }
        Ok(given)
    }

    /// Restores the ballast if the disk has space for it and for `more` bytes.
    fn allocate(&self, more: u64) -> Result<(), StoreError> {
        let mut file = self.data_dir.create_or_open(OsStr::new(NAME))?;
        self.check_ours(&mut file)?;
        let before = file.metadata().map_or(0, |found| found.len());
        if before >= BALLAST && more == 0 && has_first_line(&file).unwrap_or(false) {
            return Ok(());
        }
        let enough = reserve(&file, BALLAST + more).and_then(|()| {
            file.seek(SeekFrom::Start(0))?;
            file.write_all(FIRST_LINE)
        });
        // A partial ballast is useless.
        let kept = if enough.is_ok() || before >= BALLAST {
            file.set_len(BALLAST)
        } else {
            file.set_len(0)
        };
        enough
            .and(kept)
            .map_err(|e| failed("keep room free in", &self.path(), e))
    }
}

/// Returns whether the file is a ballast: it is empty, begins with the first line, or, from an
/// earlier version, holds only zeroes.
fn is_ballast(mut file: &File) -> io::Result<bool> {
    if !file.metadata()?.is_file() {
        return Ok(false);
    }
    if has_first_line(file)? {
        return Ok(true);
    }
    file.seek(SeekFrom::Start(0))?;
    let mut piece = vec![0; super::segment::ZEROES.len()];
    loop {
        match file.read(&mut piece)? {
            0 => return Ok(true),
            length if piece[..length].iter().all(|byte| *byte == 0) => {}
            _ => return Ok(false),
        }
    }
}

fn has_first_line(mut file: &File) -> io::Result<bool> {
    let mut first = Vec::new();
    file.seek(SeekFrom::Start(0))?;
    file.take(FIRST_LINE.len() as u64).read_to_end(&mut first)?;
    Ok(first == FIRST_LINE)
}

/// Makes the file system allocate this many bytes.
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
