//! Backup: a copy of a store in use, equal to what a crash at one moment would have left.
//!
//! Only checkpoints write sled's files, so no checkpoint starts while they are copied; commits made
//! meanwhile are in the log. The log only grows at its end, so it is copied up to its end at one
//! moment.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, ErrorKind, Read};
use std::path::Path;

use super::files::{
    UNFINISHED, begin_copy, failed, fsync, list, make_dir, open_new, remove, remove_marked, rename,
    sync_dir, with_ending,
};
use super::log::name_of;
use super::{SledStore, join};
use crate::persistence::StoreError;
use crate::persistence::store::fs::dir::Dir;
use crate::persistence::store::fs::watermark::Watermark;

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
            // The part that stays carries the mark of an unfinished copy.
            let _ = remove_marked(&part, UNFINISHED);
        }
        copied
    }

    fn copy_all(&self, part: &Path) -> Result<(), StoreError> {
        let data_dir = self.shared.data_dir.path();
        let _guard = CopyGuard::acquire(self)?;
        // sled must know of the log that is copied later.
        self.begin(&mut self.writer.lock())?;
        copy_sled(&data_dir.join("sled"), &part.join("sled"))?;
        let (segments, synced, id) = {
            let mut writer = self.writer.lock();
            self.shared.healthy()?;
            self.shared.reserve.make_for(|| writer.log.sync())?;
            let log = &writer.log;
            (log.segments(), log.synced(), log.id())
        };
        let log = part.join("wal");
        make_dir(&log)?;
        for (from, length) in segments {
            copy_file(&from, &log.join(name_of(&from)), length)?;
        }
        Watermark::create(&Dir::open(log.clone())?, synced, id)?;
        sync_dir(&log)?;
        // The files were copied by their paths.
        self.shared.base.check_in_place()?;
        self.shared.data_dir.check_in_place()
    }
}

/// Guard: no checkpoint runs while it lives.
struct CopyGuard<'a>(&'a SledStore);

impl<'a> CopyGuard<'a> {
    fn acquire(store: &'a SledStore) -> Result<Self, StoreError> {
        let mut writer = store.writer.lock();
        while writer.is_copying {
            store.copy_ended.wait(&mut writer);
        }
        writer.is_copying = true;
        let running = writer.checkpoint.take();
        drop(writer);
        let guard = Self(store);
        // Commits continue while the running checkpoint ends.
        if let Some(running) = running {
            let ended = join(running)?;
            store.finish_checkpoint(&mut store.writer.lock(), ended)?;
        }
        // The copy would lack the entries that the postponed checkpoint has not moved into sled.
        let mut writer = store.writer.lock();
        if let Some(postponed) = writer.postponed.take() {
            store.finish_checkpoint(&mut writer, postponed.run())?;
        }
        drop(writer);
        store.shared.healthy().map(|()| guard)
    }
}

impl Drop for CopyGuard<'_> {
    fn drop(&mut self) {
        self.0.writer.lock().is_copying = false;
        self.0.copy_ended.notify_all();
    }
}

/// Copies sled's directory; the file that marks it as complete goes last.
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

/// Copies the first `length` bytes of a file; the copy is on disk when this returns.
pub(super) fn copy_file(from: &Path, to: &Path, length: u64) -> Result<(), StoreError> {
    let copy = || -> io::Result<File> {
        let source = File::open(from)?;
        let mut copied = open_new(to)?;
        // (This shares blocks instead of copying them, where the file system supports that.)
        io::copy(&mut source.take(length), &mut copied)?;
        Ok(copied)
    };
    let doing = || format!("copy {} to {}", from.display(), to.display());
    let copied = copy().map_err(|e| StoreError::io(doing(), e))?;
    fsync(&copied).map_err(|e| StoreError::final_io(doing(), e))
}
