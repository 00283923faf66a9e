//! Copies of the files of a store, and what can be told of its log without opening it.

use std::ffi::OsString;
use std::path::Path;

use super::base::Base;
use super::files::{copy_file, list, make_dir, sync_dir};
use super::refuse_links;
use super::replay::{BaseState, inspect};
use crate::persistence::store::StoreError;
use crate::persistence::store::engine::LogReport;
use crate::persistence::store::fs::closed_copy::ClosedCopy;

/// Copies the closed store in `data_dir`.
pub(crate) fn copy_closed(data_dir: &Path) -> Result<ClosedCopy, StoreError> {
    refuse_links(data_dir)?;
    ClosedCopy::new(data_dir, |copy| {
        let (log, copied_log) = (data_dir.join("wal"), copy.join("wal"));
        make_dir(&copied_log)?;
        for name in list(&log)? {
            if log.join(&name).is_file() {
                copy_file(&log.join(&name), &copied_log.join(&name), u64::MAX)?;
            }
        }
        copy_sled(&data_dir.join("sled"), &copy.join("sled"))
    })
}

/// Reads the log of the closed store in `data_dir`, even if sled cannot be opened.
pub(crate) fn inspect_log(data_dir: &Path) -> (LogReport, Result<(), StoreError>) {
    let held = Base::open(data_dir).and_then(|base| base.held());
    let known: BaseState = held.as_ref().ok().copied().unwrap_or_default();
    let mut report = LogReport::default();
    let inspected = inspect(&data_dir.join("wal"), known, &mut report);
    (report, inspected.and(held.map(drop)))
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
