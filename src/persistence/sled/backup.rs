//! A copy of a store that is in use, as a crash at one moment would have left it.
//!
//! sled's files are written by checkpoints only, so none is begun while they are copied; what is
//! committed meanwhile is in the log. That only grows at its end, so it is copied up to where it ended
//! at one moment.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, ErrorKind, Read};
use std::path::Path;

use super::files::{
    UNFINISHED, begin_copy, failed, fsync, list, make_dir, remove, rename, sync_dir, with_ending,
};
use super::log::FENCE;
use super::{SledStore, join};
use crate::persistence::StoreError;
use crate::persistence::fence::Fence;

impl SledStore {
    pub(super) fn copy_to(&self, to: &Path) -> Result<(), StoreError> {
        let to = std::path::absolute(to).map_err(|e| failed("resolve", to, e))?;
        if fs::symlink_metadata(&to).is_ok() {
            return Err(failed("back up to", &to, ErrorKind::AlreadyExists.into()));
        }
        let part = with_ending(&to, ".part");
        begin_copy(&part)?;
        let copied = self
            .copy_all(&part)
            .and_then(|()| remove(&part.join(UNFINISHED)))
            .and_then(|()| sync_dir(&part))
            .and_then(|()| rename(&part, &to))
            .and_then(|()| to.parent().map_or(Ok(()), sync_dir));
        if copied.is_err() {
            // What is left of it says itself that it is not whole.
            let _ = fs::remove_dir_all(&part);
        }
        copied
    }

    fn copy_all(&self, part: &Path) -> Result<(), StoreError> {
        let home = &self.shared.home;
        let _still = Still::hold(self)?;
        copy_sled(&home.join("sled"), &part.join("sled"))?;
        let (segments, synced) = {
            let mut writer = self.writer.lock();
            self.shared.healthy()?;
            self.begin(&mut writer)?;
            self.shared.room.make_for(|| writer.log.sync())?;
            (writer.log.segments(), writer.log.synced())
        };
        let log = part.join("wal");
        make_dir(&log)?;
        for (from, length) in segments {
            let name = from.file_name().expect("a segment has a name");
            copy_file(&from, &log.join(name), length)?;
        }
        Fence::make(log.join(FENCE), synced)?;
        sync_dir(&log)
    }
}

/// While it lives no checkpoint runs.
struct Still<'a>(&'a SledStore);

impl<'a> Still<'a> {
    fn hold(store: &'a SledStore) -> Result<Self, StoreError> {
        let mut writer = store.writer.lock();
        while writer.is_still {
            store.stirs.wait(&mut writer);
        }
        writer.is_still = true;
        let running = writer.checkpoint.take();
        drop(writer);
        let still = Self(store);
        // Commits go on while it ends.
        if let Some(running) = running {
            let free = join(running)?;
            store.writer.lock().log.reuse(free);
        }
        store.shared.healthy().map(|()| still)
    }
}

impl Drop for Still<'_> {
    fn drop(&mut self) {
        self.0.writer.lock().is_still = false;
        self.0.stirs.notify_all();
    }
}

/// Copies sled's directory; the mark that makes it one goes last.
pub(super) fn copy_sled(from: &Path, to: &Path) -> Result<(), StoreError> {
    const READY: &str = ".ready";
    make_dir(&to.join("blobs"))?;
    for name in list(&from.join("blobs"))? {
        copy_file(
            &from.join("blobs").join(&name),
            &to.join("blobs").join(&name),
            u64::MAX,
        )?;
    }
    sync_dir(&to.join("blobs"))?;
    let names = list(from)?;
    let is_file = |name: &&OsString| from.join(name).is_file();
    let is_whole =
        |name: &&OsString| *name != READY && !name.to_string_lossy().ends_with(".generating");
    for name in names.iter().filter(is_file).filter(is_whole) {
        copy_file(&from.join(name), &to.join(name), u64::MAX)?;
    }
    sync_dir(to)?;
    if names.iter().any(|name| name == READY) {
        copy_file(&from.join(READY), &to.join(READY), u64::MAX)?;
    }
    sync_dir(to)
}

/// Copies the first bytes of a file; what it copies is on disk when it returns.
pub(super) fn copy_file(from: &Path, to: &Path, length: u64) -> Result<(), StoreError> {
    let copy = || -> io::Result<File> {
        let source = File::open(from)?;
        let mut options = File::options();
        options.write(true).create_new(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let mut copied = options.open(to)?;
        // (Where the file system can, this shares blocks instead of copying them.)
        io::copy(&mut source.take(length), &mut copied)?;
        Ok(copied)
    };
    let doing = || format!("copy {} to {}", from.display(), to.display());
    let copied = copy().map_err(|e| StoreError::io(doing(), e))?;
    fsync(&copied).map_err(|e| StoreError::final_io(doing(), e))
}
