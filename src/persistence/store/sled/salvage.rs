//! Reads the remains of a damaged store: sled's pages, then the frames of the log.

use std::path::Path;

use super::base::{IDENTITY, MARK};
use super::pages::{Leaf, Pages};
use crate::persistence::store::salvage::SalvageSink;
use crate::persistence::store::wal::base::Mark;
use crate::persistence::store::wal::replay::check_versions;
use crate::persistence::store::wal::salvage::salvage_log;
use crate::persistence::store::{Finding, StoreError, finding};

/// Passes the readable records of the closed store in `data_dir` to `sink`; changes nothing in
/// the store.
pub(crate) fn salvage(data_dir: &Path, sink: &mut dyn SalvageSink) -> Result<(), StoreError> {
    let log = data_dir.join("wal");
    check_versions(&log)?;
    let mark = read_pages(&data_dir.join("sled"), sink)?;
    salvage_log(&log, mark, sink)
}

/// Copies sled's records; returns how much of the log sled holds, if its mark can be read.
fn read_pages(sled: &Path, sink: &mut dyn SalvageSink) -> Result<Option<Mark>, StoreError> {
    let mut mark = None;
    let mut spans = Vec::new();
    let mut is_empty = false;
    let mut pages = match Pages::of(sled) {
        Ok(pages) => pages,
        Err(error) => {
            sink.find(Finding::new(
                sled.join("db").display().to_string(),
                error.to_string(),
            ));
            return Ok(None);
        }
    };
    pages.leaves(|leaf| {
        // The mark is in a tree of its own.
        if let Some(found) = leaf.records.get(MARK) {
            mark = Mark::of(found).or(mark);
            return Ok(());
        }
        if leaf.records.contains_key(IDENTITY) {
            return Ok(());
        }
        let Leaf { from, to, records } = leaf;
        if records.is_empty() && from.is_empty() && to.is_empty() {
            // The leaf is a whole tree. It is not the tree of the mark, which has a record.
            is_empty = true;
            return Ok(());
        }
        sink.clear(&from, &to)?;
        for (key, value) in records {
            sink.put(key, value)?;
        }
        spans.push((from, to));
        Ok(())
    })?;
    for finding in pages.findings {
        sink.find(finding);
    }
    if is_empty && spans.is_empty() {
        spans.push((Vec::new(), Vec::new()));
    }
    for (from, to) in gaps(spans) {
        let to = if to.is_empty() {
            "the end".to_owned()
        } else {
            finding::shown(&to)
        };
        let what = format!(
            "the records from {} up to {to} are missing",
            finding::shown(&from)
        );
        sink.find(Finding::new(sled.display().to_string(), what));
    }
    if mark.is_none() {
        sink.find(Finding::new(
            sled.display().to_string(),
            "its mark of the log cannot be read",
        ));
    }
    Ok(mark)
}

/// Returns the spans between keys that none of these spans covers; an empty end is no bound.
fn gaps(mut spans: Vec<(Vec<u8>, Vec<u8>)>) -> Vec<(Vec<u8>, Vec<u8>)> {
    spans.sort_unstable();
    let mut gaps = Vec::new();
    let mut covered = Some(Vec::new());
    for (from, to) in spans {
        let Some(end) = &covered else { break };
        if from > *end {
            gaps.push((end.clone(), from));
        }
        covered = match to.is_empty() {
            true => None,
            false => covered.max(Some(to)),
        };
    }
    gaps.extend(covered.map(|end| (end, Vec::new())));
    gaps
}
