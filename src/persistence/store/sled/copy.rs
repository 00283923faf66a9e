//! Copies of the files of a store.

use std::ffi::OsString;
use std::path::Path;

use super::files::{copy_file, list, make_dir, sync_dir};
use super::refuse_links;
use crate::persistence::store::StoreError;
use crate::persistence::store::fs::closed_copy::ClosedCopy;
use crate::persistence::store::wal::backup::copy_log;

/// Copies the closed store in `data_dir`.
pub(crate) fn copy_closed(data_dir: &Path) -> Result<ClosedCopy, StoreError> {
    refuse_links(data_dir)?;
    ClosedCopy::new(data_dir, |copy| {
        copy_log(&data_dir.join("wal"), &copy.join("wal"))?;
        copy_sled(&data_dir.join("sled"), &copy.join("sled"))
    })
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
