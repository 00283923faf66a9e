//! Copies of a store: of one in use, record by record, and of the files of a closed one.

use std::ops::Bound;
use std::path::Path;

use super::{RedbStore, create, refuse_links};
use crate::persistence::store::fs::closed_copy::ClosedCopy;
use crate::persistence::store::fs::engine_dir;
use crate::persistence::store::fs::files::{copy_file, list, make_dir, sync_file};
use crate::persistence::store::fs::watermark::Watermark;
use crate::persistence::store::{Batch, StoreError};

/// The approximate number of bytes written per transaction, and per commit: redb frees the pages
/// that transactions have replaced only at a commit.
const BATCH: usize = 256 << 10;
const COMMIT: usize = 16 << 20;

impl RedbStore {
    /// Copies all records into a new store in `<part>/redb`, which has an id of its own. They are
    /// read in one transaction of redb, so the copy equals the store after some batch while others
    /// are applied.
    pub(super) fn copy_all(&self, part: &Path) -> Result<(), StoreError> {
        self.healthy()?;
        let dir = part.join("redb");
        engine_dir::claim(&dir, |_| false)?;
        let (mut watermark, copy, _) = create(&dir, |file| file)?;
        let mut records = self.base.range((Bound::Unbounded, Bound::Unbounded))?;
        let commit = |watermark: &mut Watermark| {
            let number = watermark.last() + 1;
            copy.commit(number, None)?;
            watermark.advance(number)
        };
        let (mut batch, mut uncommitted) = (Batch::new(), 0);
        while let Some((key, value)) = self.base.step_iter(|| {
            let next = records.next().transpose()?;
            Ok(next.map(|(key, value)| (key.value().to_vec(), value.value().to_vec())))
        })? {
            batch.put(key, value);
            if batch.bytes() >= BATCH {
                uncommitted += batch.bytes();
                copy.apply(&std::mem::take(&mut batch))?;
                if uncommitted >= COMMIT {
                    commit(&mut watermark)?;
                    uncommitted = 0;
                }
            }
        }
        copy.apply(&batch)?;
        commit(&mut watermark)?;
        watermark.sync()?;
        drop(copy);
        sync_file(&dir.join("db"))?;
        // redb returns what it has read before a failed write, which the disk may not hold.
        self.healthy()?;
        engine_dir::finish(part, &dir)
    }
}

/// Copies the closed store in `data_dir`.
pub(crate) fn copy_closed(data_dir: &Path) -> Result<ClosedCopy, StoreError> {
    refuse_links(data_dir)?;
    ClosedCopy::new(data_dir, |copy| {
        let (from, to) = (data_dir.join("redb"), copy.join("redb"));
        make_dir(&to)?;
        for name in list(&from)? {
            if from.join(&name).is_file() {
                copy_file(&from.join(&name), &to.join(&name), u64::MAX)?;
            }
        }
        Ok(())
    })
}
