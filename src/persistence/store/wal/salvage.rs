//! Reads the remains of a damaged log: every complete frame, whatever is wrong around it.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use super::base::Mark;
use super::frame::{ALIGN, Frame, claimed_generation};
use super::replay::number;
use super::segment::{FRAMES, SegmentHeader};
use crate::persistence::store::fs::files::{failed, list};
use crate::persistence::store::fs::watermark::{self, Watermark};
use crate::persistence::store::salvage::SalvageSink;
use crate::persistence::store::{Finding, StoreError};

/// The location of a complete frame.
#[derive(Clone, Copy, Debug)]
struct FrameLocation {
    file: usize,
    start: usize,
    generation: u64,
    synced: u64,
}

/// The complete frames of a log, and the evidence of incomplete ones.
#[derive(Debug, Default)]
struct Frames {
    files: Vec<PathBuf>,
    /// By the frames' numbers.
    locations: BTreeMap<u64, FrameLocation>,
    /// All frames up to this one were on disk.
    synced: u64,
    /// The latest generation of a segment.
    generation: u64,
}

impl Frames {
    fn read(dir: &Path, sink: &mut dyn SalvageSink) -> Result<Self, StoreError> {
        let mut frames = Self::default();
        for name in list(dir)? {
            if name.to_str().and_then(number).is_some() {
                frames.files.push(dir.join(name));
            }
        }
        for file in 0..frames.files.len() {
            if let Err(error) = frames.read_file(file) {
                let location = frames.files[file].display().to_string();
                sink.find(Finding::new(location, error.to_string()));
            }
        }
        if let Ok(last) = Watermark::peek(&dir.join(watermark::NAME)) {
            frames.synced = frames.synced.max(last);
        }
        Ok(frames)
    }

    fn read_file(&mut self, file: usize) -> Result<(), StoreError> {
        let path = &self.files[file];
        let header = SegmentHeader::of(path)?;
        let bytes = fs::read(path).map_err(|e| failed("read", path, e))?;
        if let Some(header) = header {
            // All frames before its first one were on disk when the segment was begun.
            self.synced = self.synced.max(header.first.saturating_sub(1));
            self.generation = self.generation.max(header.generation);
        }
        let mut start = FRAMES as usize;
        while start < bytes.len() {
            let found = claimed_generation(&bytes, start)
                .and_then(|generation| Frame::at(&bytes, start, generation));
            let Some(frame) = found else {
                start += ALIGN;
                continue;
            };
            let location = FrameLocation {
                file,
                start,
                generation: frame.stamp.generation,
                synced: frame.stamp.synced,
            };
            start = frame.end;
            self.generation = self.generation.max(location.generation);
            let known = self.locations.entry(frame.stamp.seq).or_insert(location);
            // A number is given a second time if a torn frame had it before.
            if known.generation < location.generation {
                *known = location;
            }
        }
        Ok(())
    }

    /// Returns the first frame to apply: the one behind the frames that the base holds, or an
    /// earlier one if none is missing from there on.
    fn first(&self, mark: Option<Mark>) -> u64 {
        let last = self.locations.keys().next_back().copied().unwrap_or(0);
        let mut first = mark.map_or(last.max(1), |mark| mark.seq + 1);
        while first > 1 && self.locations.contains_key(&(first - 1)) {
            first -= 1;
        }
        first
    }

    fn synced(&self) -> u64 {
        let stamps = self.locations.values().map(|location| location.synced);
        stamps.max().unwrap_or(0).max(self.synced)
    }
}

/// Passes the remaining frames of the log in `dir` to `sink`, in order. `mark`: how much of the log
/// the base holds, if its mark can be read.
pub(crate) fn salvage_log(
    dir: &Path,
    mark: Option<Mark>,
    sink: &mut dyn SalvageSink,
) -> Result<(), StoreError> {
    let frames = Frames::read(dir, sink)?;
    let synced = frames.synced();
    if mark.is_some_and(|mark| frames.generation < mark.generation) {
        sink.find(Finding::new(
            dir.display().to_string(),
            "the end of the log is missing",
        ));
    }
    let mut next = frames.first(mark);
    let mut open: Option<(usize, Vec<u8>)> = None;
    for (&seq, location) in frames.locations.range(next..) {
        if seq > next {
            if next > synced {
                // The frames that follow were never acknowledged.
                return Ok(());
            }
            report_missing(dir, next, seq - 1, sink);
        }
        if open.as_ref().is_none_or(|(file, _)| *file != location.file) {
            let path = &frames.files[location.file];
            let bytes = fs::read(path).map_err(|e| failed("read", path, e))?;
            open = Some((location.file, bytes));
        }
        let bytes = open.as_ref().map_or(&[][..], |(_, bytes)| bytes);
        let frame = Frame::at(bytes, location.start, location.generation);
        match frame.and_then(|frame| frame.batch()) {
            Some(batch) => sink.commit(batch)?,
            None => report_missing(dir, seq, seq, sink),
        }
        next = seq + 1;
    }
    if next <= synced {
        report_missing(dir, next, synced, sink);
    }
    Ok(())
}

fn report_missing(dir: &Path, first: u64, last: u64, sink: &mut dyn SalvageSink) {
    let what = match first == last {
        true => format!("commit {first} is missing"),
        false => format!("the commits {first} to {last} are missing"),
    };
    sink.find(Finding::new(dir.display().to_string(), what));
    sink.miss_commits(last - first + 1);
}
