//! Reads all that is left of a damaged store: sled's pages, then the frames of the log.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use super::base::{IDENTITY, MARK, Mark};
use super::files::{failed, list};
use super::frame::{ALIGN, Frame, claimed_generation};
use super::pages::{Leaf, Pages};
use super::replay::{check_versions, number};
use super::segment::{FRAMES, Head};
use crate::persistence::salvage::Salvage;
use crate::persistence::watermark::{self, Watermark};
use crate::persistence::{StoreError, keys};

/// Gives to `salvage` what can be read of the closed store in `home`, of which nothing is changed.
pub(in crate::persistence) fn salvage(
    home: &Path,
    salvage: &mut Salvage<'_>,
) -> Result<(), StoreError> {
    let log = home.join("wal");
    check_versions(&log)?;
    let mark = read_pages(&home.join("sled"), salvage)?;
    read_log(&log, mark, salvage)
}

/// Copies sled's records; returns how much of the log it holds, if it still tells.
fn read_pages(sled: &Path, salvage: &mut Salvage<'_>) -> Result<Option<Mark>, StoreError> {
    let mut mark = None;
    let mut spans = Vec::new();
    let mut is_empty = false;
    let mut pages = match Pages::of(sled) {
        Ok(pages) => pages,
        Err(error) => {
            salvage.find(sled.join("db").display().to_string(), error.to_string());
            return Ok(None);
        }
    };
    pages.leaves(|leaf| {
        // It stands in a tree of its own.
        if let Some(found) = leaf.records.get(MARK) {
            mark = Mark::of(found).or(mark);
            return Ok(());
        }
        if leaf.records.contains_key(IDENTITY) {
            return Ok(());
        }
        let Leaf { from, to, records } = leaf;
        if records.is_empty() && from.is_empty() && to.is_empty() {
            // A whole tree. That of the mark has a record.
            is_empty = true;
            return Ok(());
        }
        salvage.clear(&from, &to)?;
        for (key, value) in records {
            salvage.put(key, value)?;
        }
        spans.push((from, to));
        Ok(())
    })?;
    for finding in pages.findings {
        salvage.find(finding.place, finding.what);
    }
    if is_empty && spans.is_empty() {
        spans.push((Vec::new(), Vec::new()));
    }
    for (from, to) in gaps(spans) {
        let to = if to.is_empty() {
            "the end".to_owned()
        } else {
            keys::shown(&to)
        };
        let what = format!(
            "the records from {} up to {to} are missing",
            keys::shown(&from)
        );
        salvage.find(sled.display().to_string(), what);
    }
    if mark.is_none() {
        salvage.find(
            sled.display().to_string(),
            "its mark of the log cannot be read",
        );
    }
    Ok(mark)
}

/// The spans between keys that none of these covers; an empty end is none.
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

/// Where a frame that is whole stands.
#[derive(Clone, Copy, Debug)]
struct Place {
    file: usize,
    start: usize,
    generation: u64,
    synced: u64,
}

/// The whole frames of a log, and what it says of those that are not.
#[derive(Debug, Default)]
struct Frames {
    files: Vec<PathBuf>,
    /// By their numbers.
    places: BTreeMap<u64, Place>,
    /// All frames up to this one were on disk.
    synced: u64,
    /// The latest generation of a segment.
    generation: u64,
}

impl Frames {
    fn read(dir: &Path, salvage: &mut Salvage<'_>) -> Result<Self, StoreError> {
        let mut frames = Self::default();
        for name in list(dir)? {
            if name.to_str().and_then(number).is_some() {
                frames.files.push(dir.join(name));
            }
        }
        for file in 0..frames.files.len() {
            if let Err(error) = frames.read_file(file) {
                let place = frames.files[file].display().to_string();
                salvage.find(place, error.to_string());
            }
        }
        if let Ok(last) = Watermark::peek(&dir.join(watermark::NAME)) {
            frames.synced = frames.synced.max(last);
        }
        Ok(frames)
    }

    fn read_file(&mut self, file: usize) -> Result<(), StoreError> {
        let path = &self.files[file];
        let head = Head::of(path)?;
        let bytes = fs::read(path).map_err(|e| failed("read", path, e))?;
        if let Some(head) = head {
            // All before its first frame was on disk when it was begun.
            self.synced = self.synced.max(head.first.saturating_sub(1));
            self.generation = self.generation.max(head.generation);
        }
        let mut start = FRAMES as usize;
        while start < bytes.len() {
            let found = claimed_generation(&bytes, start)
                .and_then(|generation| Frame::at(&bytes, start, generation));
            let Some(frame) = found else {
                start += ALIGN;
                continue;
            };
            let place = Place {
                file,
                start,
                generation: frame.stamp.generation,
                synced: frame.stamp.synced,
            };
            start = frame.end;
            self.generation = self.generation.max(place.generation);
            let known = self.places.entry(frame.stamp.seq).or_insert(place);
            // A number is given a second time when what a crash has torn had it before.
            if known.generation < place.generation {
                *known = place;
            }
        }
        Ok(())
    }

    /// Returns the first frame that is to be applied: the one behind what sled holds, or one before it from
    /// which on none is missing.
    fn first(&self, mark: Option<Mark>) -> u64 {
        let last = self.places.keys().next_back().copied().unwrap_or(0);
        let mut first = mark.map_or(last.max(1), |mark| mark.seq + 1);
        while first > 1 && self.places.contains_key(&(first - 1)) {
            first -= 1;
        }
        first
    }

    fn synced(&self) -> u64 {
        let stamps = self.places.values().map(|place| place.synced);
        stamps.max().unwrap_or(0).max(self.synced)
    }
}

/// Applies the frames of the log that are left, in their order.
fn read_log(dir: &Path, mark: Option<Mark>, salvage: &mut Salvage<'_>) -> Result<(), StoreError> {
    let frames = Frames::read(dir, salvage)?;
    let synced = frames.synced();
    if mark.is_some_and(|mark| frames.generation < mark.generation) {
        salvage.find(dir.display().to_string(), "the end of the log is missing");
    }
    let mut next = frames.first(mark);
    let mut open: Option<(usize, Vec<u8>)> = None;
    for (&seq, place) in frames.places.range(next..) {
        if seq > next {
            if next > synced {
                // What follows was never acknowledged.
                return Ok(());
            }
            miss(dir, next, seq - 1, salvage);
        }
        if open.as_ref().is_none_or(|(file, _)| *file != place.file) {
            let path = &frames.files[place.file];
            let bytes = fs::read(path).map_err(|e| failed("read", path, e))?;
            open = Some((place.file, bytes));
        }
        let bytes = open.as_ref().map_or(&[][..], |(_, bytes)| bytes);
        let frame = Frame::at(bytes, place.start, place.generation);
        match frame.and_then(|frame| frame.batch()) {
            Some(batch) => {
                salvage.apply(batch)?;
                salvage.report.commits += 1;
            }
            None => miss(dir, seq, seq, salvage),
        }
        next = seq + 1;
    }
    if next <= synced {
        miss(dir, next, synced, salvage);
    }
    Ok(())
}

fn miss(dir: &Path, first: u64, last: u64, salvage: &mut Salvage<'_>) {
    let what = match first == last {
        true => format!("commit {first} is missing"),
        false => format!("the commits {first} to {last} are missing"),
    };
    salvage.find(dir.display().to_string(), what);
    salvage.report.missing_commits += last - first + 1;
}
