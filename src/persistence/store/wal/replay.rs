//! Reads the log back when a store is opened.
//!
//! Segments follow each other by generation; one ends where the next begins, and all of it was on
//! disk before the next was begun. In the last segment an incomplete frame ends the log:
//! unsynced frames were not acknowledged. But if a later frame records that the incomplete one was
//! synced, it is damaged; and if the watermark does, it is missing.

use std::fs;
use std::path::{Path, PathBuf};

use tracing::info;

use super::base::BaseState;
use super::frame::{ALIGN, Frame, claimed_generation};
use super::memtable::{MaxKeys, Memtables};
use super::segment::{ENDING, FRAMES, SegmentHeader};
use crate::persistence::store::finding::LogReport;
use crate::persistence::store::fs::files::{
    damaged, failed, list, refuse_link, sync_dir, sync_file,
};
use crate::persistence::store::fs::identity::wrong_store;
use crate::persistence::store::fs::watermark::{self, Watermark};
use crate::persistence::store::{Finding, StoreError};
use crate::testing::negative_control::Rule::H4;
use crate::testing::negative_control::without;

/// The content of a replayed log.
#[derive(Debug, Default)]
pub(crate) struct Replayed {
    /// The entries that the base does not hold.
    pub(crate) memtables: Memtables,
    /// The segments of these entries.
    pub(crate) live: Vec<PathBuf>,
    /// Segments without a frame that the base does not hold.
    pub(crate) empty: Vec<PathBuf>,
    /// Files of segments that the base holds.
    pub(crate) spare: Vec<PathBuf>,
    /// The highest number in a file's name.
    pub(crate) files: u64,
    /// The highest generation of a segment; 0 if there is none.
    pub(crate) generation: u64,
    /// The number of the last frame, in the log or in the base.
    pub(crate) last: u64,
    /// Bytes of the frames that were replayed.
    pub(crate) bytes: u64,
    /// The watermark; `None` if it is to be created.
    pub(crate) watermark: Option<Watermark>,
}

/// Fails if a later version has written the log, before anything is written.
pub(crate) fn check_versions(dir: &Path) -> Result<(), StoreError> {
    for name in list(dir)? {
        if name.to_str().and_then(number).is_some() {
            SegmentHeader::of(&dir.join(name))?;
        }
    }
    match Watermark::read(dir.join(watermark::NAME)) {
        Err(newer @ StoreError::UnsupportedVersion { .. }) => Err(newer),
        // The mark in the base tells whether the watermark must exist.
        _ => Ok(()),
    }
}

/// Fails on symbolic links in place of the log's files.
pub(crate) fn refuse_links(dir: &Path) -> Result<(), StoreError> {
    let is_ours = |name: &str| name == watermark::NAME || number(name).is_some();
    for name in list(dir)? {
        if name.to_str().is_some_and(is_ours) {
            refuse_link(&dir.join(name))?;
        }
    }
    Ok(())
}

/// Reads the watermark, which a store from before there was one may lack.
fn read_watermark(dir: &Path, has_watermark: bool) -> Result<Option<Watermark>, StoreError> {
    match Watermark::read(dir.join(watermark::NAME)) {
        // Without a segment written after it, the watermark may be half made.
        Err(StoreError::Corrupt { .. }) if !has_watermark || without(H4) => Ok(None),
        watermark => watermark.map(Some),
    }
}

/// Reads the log in `dir`, of which the base holds the part that its mark names.
///
/// The log is on disk, not only in the kernel's cache, before this returns.
pub(crate) fn replay(
    dir: &Path,
    base: BaseState,
    base_keys: MaxKeys,
) -> Result<Replayed, StoreError> {
    let held = base.mark.unwrap_or_default();
    let mut replayed = Replayed {
        memtables: Memtables::over(base_keys),
        last: held.seq,
        ..Replayed::default()
    };
    let segments = find_segments(dir, base, &mut replayed)?;
    if replayed.generation < held.generation && !without(H4) {
        return Err(damaged(dir, "the end of the log is missing"));
    }
    for (at, segment) in segments.iter().enumerate() {
        let next = segments.get(at + 1).map(|next| next.header.first);
        let path = &segment.path;
        if segment.header.generation < held.generation {
            replayed.spare.push(path.clone());
            continue;
        }
        if segment.header.first > replayed.last + 1 && !without(H4) {
            return Err(StoreError::RolledBack {
                path: dir.to_owned(),
                expected: segment.header.first - 1,
                found: replayed.last,
            });
        }
        sync_file(path)?;
        let before = replayed.bytes;
        read(segment, next, &mut replayed)?;
        if replayed.bytes > before {
            replayed.live.push(path.clone());
        } else {
            replayed.empty.push(path.clone());
        }
    }
    if base.mark.is_none() && replayed.last > 0 && !without(H4) {
        // The base records that there is a log before the first frame is written.
        return Err(StoreError::RolledBack {
            path: dir.to_owned(),
            expected: replayed.last,
            found: 0,
        });
    }
    segments
        .iter()
        .try_for_each(|FoundSegment { path, header }| base.check(path, *header))?;
    let has_watermark = segments.iter().any(|segment| segment.header.has_watermark);
    let watermark = read_watermark(dir, has_watermark)?;
    if let Some(watermark) = &watermark
        && !without(H4)
    {
        check_watermark(watermark, base, &segments)?;
    }
    let expected = watermark.as_ref().map_or(0, Watermark::last);
    if replayed.last < expected && !without(H4) {
        return Err(StoreError::RolledBack {
            path: dir.to_owned(),
            expected,
            found: replayed.last,
        });
    }
    // Without a segment written after it, the name of the watermark may not be on disk.
    replayed.watermark = watermark.filter(|_| has_watermark);
    if dir.exists() {
        sync_dir(dir)?;
    }
    Ok(replayed)
}

/// Fails on the watermark of another store. A watermark names its store before any segment does.
fn check_watermark(
    watermark: &Watermark,
    base: BaseState,
    segments: &[FoundSegment],
) -> Result<(), StoreError> {
    let expected = base.identity.map(|identity| identity.id);
    let is_named = segments.iter().any(|segment| segment.header.id.is_some());
    match watermark.id() {
        None if !is_named => Ok(()),
        found if found == expected => Ok(()),
        found => Err(wrong_store(watermark.path(), found, expected)),
    }
}

#[derive(Debug)]
struct FoundSegment {
    path: PathBuf,
    header: SegmentHeader,
}

/// Finds the segments, in order of generation. Fails on a segment of another store, unless the base
/// is new: then the base lacks what the log says.
fn find_segments(
    dir: &Path,
    base: BaseState,
    replayed: &mut Replayed,
) -> Result<Vec<FoundSegment>, StoreError> {
    let held = base.mark.unwrap_or_default();
    let mut segments = Vec::new();
    for name in list(dir)? {
        let Some(number) = name.to_str().and_then(number) else {
            continue;
        };
        let path = dir.join(name);
        replayed.files = replayed.files.max(number);
        match SegmentHeader::of(&path)? {
            Some(header) => {
                if !base.is_new() {
                    base.check(&path, header)?;
                }
                replayed.generation = replayed.generation.max(header.generation);
                segments.push(FoundSegment { path, header });
            }
            // A crash has torn the header while the file was created or reused. Then the base holds
            // all frames of the file.
            None if !has_frames_since(&bytes_of(&path)?, held.generation) => {
                replayed.spare.push(path)
            }
            None => return Err(damaged(&path, "the head of a segment cannot be read")),
        }
    }
    segments.sort_by_key(|segment| segment.header.generation);
    let in_order = |pair: &[FoundSegment]| {
        pair[0].header.generation < pair[1].header.generation
            && pair[0].header.first <= pair[1].header.first
    };
    if !segments.windows(2).all(in_order) {
        return Err(damaged(dir, "its segments contradict each other"));
    }
    Ok(segments)
}

fn bytes_of(path: &Path) -> Result<Vec<u8>, StoreError> {
    fs::read(path).map_err(|e| failed("read", path, e))
}

/// Returns the number in a segment's name; `None` for other names.
pub(crate) fn number(name: &str) -> Option<u64> {
    name.strip_suffix(ENDING)?.parse().ok()
}

/// Returns whether there is a frame of this generation or a later one.
fn has_frames_since(file: &[u8], first: u64) -> bool {
    let mut positions = (FRAMES as usize..file.len()).step_by(ALIGN);
    positions.any(|position| {
        claimed_generation(file, position).is_some_and(|generation| {
            generation >= first && Frame::at(file, position, generation).is_some()
        })
    })
}

/// Replays the frames of one segment, up to the one before `next`.
fn read(
    segment: &FoundSegment,
    next: Option<u64>,
    replayed: &mut Replayed,
) -> Result<(), StoreError> {
    let FoundSegment { path, header } = segment;
    let file = bytes_of(path)?;
    let mut position = FRAMES as usize;
    let mut seq = header.first;
    while next.is_none_or(|next| seq < next) {
        let frame =
            Frame::at(&file, position, header.generation).filter(|frame| frame.stamp.seq == seq);
        let Some(frame) = frame else {
            if next.is_some() {
                return Err(damaged(path, format!("frame {seq} cannot be read")));
            }
            return check_tail(segment, &file, position, seq);
        };
        let batch = frame
            .batch()
            .ok_or_else(|| damaged(path, format!("frame {seq} is not a batch")))?;
        // The base may hold a later state of the frames that it already has.
        if seq > replayed.last {
            replayed.memtables.apply(batch);
            replayed.bytes += (frame.end - position) as u64;
            replayed.last = seq;
        }
        position = frame.end;
        seq += 1;
    }
    Ok(())
}

/// Counts the segments and frames that the base does not hold, and adds their defects to the
/// report, without stopping at the first one.
pub(crate) fn inspect(
    dir: &Path,
    base: BaseState,
    report: &mut LogReport,
) -> Result<(), StoreError> {
    let held = base.mark.unwrap_or_default();
    let mut replayed = Replayed {
        last: held.seq,
        ..Replayed::default()
    };
    let segments = find_segments(dir, base, &mut replayed)?;
    for (at, segment) in segments.iter().enumerate() {
        if segment.header.generation < held.generation {
            continue;
        }
        let next = segments.get(at + 1).map(|next| next.header.first);
        report.segments += 1;
        let before = replayed.last;
        let whole = read(segment, next, &mut replayed);
        report.frames += replayed.last - before;
        if let Err(error) = whole {
            report.findings.push(Finding::from(&error));
            // The next segment is read as if this one had been complete.
            replayed.last = next.map_or(replayed.last, |next| replayed.last.max(next - 1));
        }
    }
    Ok(())
}

/// Checks the bytes behind the last complete frame: the incomplete frame `seq` may be one that was
/// never synced, but not one that was.
fn check_tail(
    segment: &FoundSegment,
    file: &[u8],
    from: usize,
    seq: u64,
) -> Result<(), StoreError> {
    let positions = (from..file.len()).step_by(ALIGN);
    let later = positions
        .filter_map(|position| Frame::at(file, position, segment.header.generation))
        .max_by_key(|frame| frame.stamp.synced);
    match later {
        Some(later) if later.stamp.synced >= seq => Err(damaged(
            &segment.path,
            format!(
                "frame {seq} cannot be read, but frame {} says that it was on disk",
                later.stamp.seq
            ),
        )),
        Some(_) => {
            info!(segment = %segment.path.display(), seq, "the log ends in a tail torn by a crash");
            Ok(())
        }
        None => Ok(()),
    }
}
