//! Reads all records that redb still returns from a damaged file.

use std::fs;
use std::ops::Bound;
use std::path::Path;
use std::sync::atomic::AtomicU64;

use super::base::Base;
use super::scan::RedbScan;
use crate::persistence::store::fs::files::{failed, make_dir, with_ending};
use crate::persistence::store::fs::watermark::Watermark;
use crate::persistence::store::salvage::SalvageSink;
use crate::persistence::store::{Finding, StoreError};

/// Passes the readable records of the closed store in `data_dir` to `sink`. redb writes to files
/// that it opens, so it opens a copy beside `to`.
pub(crate) fn salvage(
    data_dir: &Path,
    to: &Path,
    sink: &mut dyn SalvageSink,
) -> Result<(), StoreError> {
    let from = data_dir.join("redb");
    let copy = with_ending(to, ".redb");
    make_dir(&copy)?;
    let db = copy.join("db");
    fs::copy(from.join("db"), &db).map_err(|e| failed("copy", &from.join("db"), e))?;
    let base = Base::open_damaged(db)?;
    match (Watermark::peek(&from.join("fence")), base.last_commit()) {
        (Ok(expected), Ok(found)) if found < expected => {
            let what = format!("the commits {} to {expected} are missing", found + 1);
            sink.find(Finding::new(from.display().to_string(), what));
            sink.miss_commits(expected - found);
        }
        (Err(error), _) | (_, Err(error)) => sink.find(Finding::from(&error)),
        _ => {}
    }
    // From the front up to the first unreadable record, then from the back.
    let epoch = AtomicU64::new(0);
    let all = || RedbScan::new(&base, &epoch, (Bound::Unbounded, Bound::Unbounded));
    let mut last = Vec::new();
    for pair in all() {
        match pair {
            Ok((key, value)) => {
                last.clone_from(&key);
                sink.put(key, value)?;
            }
            Err(error) => {
                sink.find(Finding::from(&error));
                let rest = all().rev().map_while(Result::ok);
                for (key, value) in rest.take_while(|(key, _)| *key > last) {
                    sink.put(key, value)?;
                }
            }
        }
    }
    Ok(())
}
