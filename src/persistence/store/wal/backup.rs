//! Backup: a copy of a store in use, equal to what a crash at one moment would have left.
//!
//! Only checkpoints write the base's files, so no checkpoint starts while they are copied; commits
//! made meanwhile are in the log. The log only grows at its end, so it is copied up to its end at
//! one moment.

use std::path::Path;

use super::base::Base;
use super::log::name_of;
use super::{WalStore, join};
use crate::persistence::store::StoreError;
use crate::persistence::store::fs::dir::Dir;
use crate::persistence::store::fs::files::{copy_file, list, make_copy, make_dir, sync_dir};
use crate::persistence::store::fs::watermark::Watermark;

impl<B: Base> WalStore<B> {
    pub(crate) fn copy_to(&self, to: &Path) -> Result<(), StoreError> {
        make_copy(to, |part| self.copy_all(part))
    }

    fn copy_all(&self, part: &Path) -> Result<(), StoreError> {
        let _guard = CopyGuard::acquire(self)?;
        // The base must know of the log that is copied later.
        self.begin(&mut self.writer.lock())?;
        self.shared.layers.base.copy_into(part)?;
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
        self.shared.layers.base.check_in_place()?;
        self.shared.data_dir.check_in_place()
    }
}

/// Guard: no checkpoint runs while it lives.
struct CopyGuard<'a, B: Base>(&'a WalStore<B>);

impl<'a, B: Base> CopyGuard<'a, B> {
    fn acquire(store: &'a WalStore<B>) -> Result<Self, StoreError> {
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
        // The copy would lack the entries that the postponed checkpoint has not moved into the
        // base.
        let mut writer = store.writer.lock();
        if let Some(postponed) = writer.postponed.take() {
            store.finish_checkpoint(&mut writer, postponed.run())?;
        }
        drop(writer);
        store.shared.healthy().map(|()| guard)
    }
}

impl<B: Base> Drop for CopyGuard<'_, B> {
    fn drop(&mut self) {
        self.0.writer.lock().is_copying = false;
        self.0.copy_ended.notify_all();
    }
}

/// Copies the log of a closed store.
pub(crate) fn copy_log(from: &Path, to: &Path) -> Result<(), StoreError> {
    make_dir(to)?;
    for name in list(from)? {
        if from.join(&name).is_file() {
            copy_file(&from.join(&name), &to.join(&name), u64::MAX)?;
        }
    }
    Ok(())
}
