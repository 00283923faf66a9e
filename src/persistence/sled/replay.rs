//! Reads the log back when a store is opened.
//!
//! Segments follow each other by generation; one ends where the next begins, and all of it was on disk
//! before the next was begun. In the last one a frame that is not whole ends the log: nobody was
//! told of what was not synced. But if a later frame says that it was synced, it is damaged; and if the
//! fence does, it is missing.

use std::fs;
use std::path::{Path, PathBuf};

use tracing::info;

use super::base::Mark;
use super::files::{damaged, failed, list, refuse_link, sync_dir, sync_file};
use super::frame::{ALIGN, Frame, claimed_generation};
use super::memtable::{MaxKeys, Memtables};
use super::segment::{ENDING, FRAMES, Head};
use crate::persistence::identity::{Identity, wrong_store};
use crate::persistence::negative_control::{Rule::H4, without};
use crate::persistence::watermark::{self, Watermark};
use crate::persistence::{Audit, StoreError};

/// What a log was found to hold.
#[derive(Debug, Default)]
pub(super) struct Replayed {
    /// What sled does not hold.
    pub(super) layers: Memtables,
    /// Where that stands.
    pub(super) live: Vec<PathBuf>,
    /// Segments that sled does not hold, but without a frame.
    pub(super) empty: Vec<PathBuf>,
    /// Files of segments that sled holds.
    pub(super) spare: Vec<PathBuf>,
    /// The highest number in a file's name.
    pub(super) files: u64,
    /// The highest generation of a segment; 0 if there is none.
    pub(super) generation: u64,
    /// Number of the last frame, here or in sled.
    pub(super) last: u64,
    /// Bytes of the frames that were replayed.
    pub(super) bytes: u64,
    /// What notes the last frame that is on disk; `None` if it is to be made.
    pub(super) fence: Option<Watermark>,
}

/// Refuses a log that a later version has written, before anybody writes.
pub(super) fn check_versions(dir: &Path) -> Result<(), StoreError> {
    for name in list(dir)? {
        if name.to_str().and_then(number).is_some() {
            Head::of(&dir.join(name))?;
        }
    }
    match Watermark::read(dir.join(watermark::NAME)) {
        Err(newer @ StoreError::UnsupportedVersion { .. }) => Err(newer),
        // Whether it has to be there the mark tells.
        _ => Ok(()),
    }
}

/// Refuses symbolic links in the place of the log's files.
pub(super) fn refuse_links(dir: &Path) -> Result<(), StoreError> {
    let is_ours = |name: &str| name == watermark::NAME || number(name).is_some();
    for name in list(dir)? {
        if name.to_str().is_some_and(is_ours) {
            refuse_link(&dir.join(name))?;
        }
    }
    Ok(())
}

/// What sled holds of a store.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Held {
    /// How much of the log; `None` if there never was one.
    pub(super) mark: Option<Mark>,
    /// Whose it is; `None` if no version that gives ids has written to it.
    pub(super) identity: Option<Identity>,
}

impl Held {
    /// Says whether sled knows of no log at all.
    fn is_new(&self) -> bool {
        self.mark.is_none() && self.identity.is_none()
    }

    /// Refuses a segment of another store.
    fn check(&self, path: &Path, head: Head) -> Result<(), StoreError> {
        match self.identity {
            _ if without(H4) => Ok(()),
            Some(identity) => identity.check(path, head.generation, head.id),
            // sled is told before the log.
            None if head.id.is_some() => Err(wrong_store(path, head.id, None)),
            None => Ok(()),
        }
    }
}

/// Reads the fence, which a store of before there was one need not have.
fn fence(dir: &Path, is_fenced: bool) -> Result<Option<Watermark>, StoreError> {
    match Watermark::read(dir.join(watermark::NAME)) {
        // One that the first segment after it has not come to may be half made.
        Err(StoreError::Corrupt { .. }) if !is_fenced || without(H4) => Ok(None),
        fence => fence.map(Some),
    }
}

/// Reads the log in `dir`, of which sled holds what `mark` says.
///
/// What it finds is on the disk, not only in the kernel's cache, before it returns.
pub(super) fn replay(dir: &Path, base: Held, sled: MaxKeys) -> Result<Replayed, StoreError> {
    let held = base.mark.unwrap_or_default();
    let mut found = Replayed {
        layers: Memtables::over(sled),
        last: held.seq,
        ..Replayed::default()
    };
    let segments = survey(dir, base, &mut found)?;
    if found.generation < held.generation && !without(H4) {
        return Err(damaged(dir, "the end of the log is missing"));
    }
    for (at, segment) in segments.iter().enumerate() {
        let next = segments.get(at + 1).map(|next| next.head.first);
        let path = &segment.path;
        if segment.head.generation < held.generation {
            found.spare.push(path.clone());
            continue;
        }
        if segment.head.first > found.last + 1 && !without(H4) {
            return Err(StoreError::RolledBack {
                path: dir.to_owned(),
                expected: segment.head.first - 1,
                found: found.last,
            });
        }
        sync_file(path)?;
        let before = found.bytes;
        read(segment, next, &mut found)?;
        if found.bytes > before {
            found.live.push(path.clone());
        } else {
            found.empty.push(path.clone());
        }
    }
    if base.mark.is_none() && found.last > 0 && !without(H4) {
        // sled notes that there is a log before the first frame is written.
        return Err(StoreError::RolledBack {
            path: dir.to_owned(),
            expected: found.last,
            found: 0,
        });
    }
    segments
        .iter()
        .try_for_each(|Found { path, head }| base.check(path, *head))?;
    let is_fenced = segments.iter().any(|segment| segment.head.is_fenced);
    let fence = fence(dir, is_fenced)?;
    if let Some(fence) = &fence
        && !without(H4)
    {
        check_fence(fence, base, &segments)?;
    }
    let expected = fence.as_ref().map_or(0, Watermark::last);
    if found.last < expected && !without(H4) {
        return Err(StoreError::RolledBack {
            path: dir.to_owned(),
            expected,
            found: found.last,
        });
    }
    // If no segment is known to have come after it, its name may not be on disk.
    found.fence = fence.filter(|_| is_fenced);
    if dir.exists() {
        sync_dir(dir)?;
    }
    Ok(found)
}

/// Refuses the fence of another store. It names its store before any segment does.
fn check_fence(fence: &Watermark, base: Held, segments: &[Found]) -> Result<(), StoreError> {
    let expected = base.identity.map(|identity| identity.id);
    let is_named = segments.iter().any(|segment| segment.head.id.is_some());
    match fence.id() {
        None if !is_named => Ok(()),
        found if found == expected => Ok(()),
        found => Err(wrong_store(fence.path(), found, expected)),
    }
}

#[derive(Debug)]
struct Found {
    path: PathBuf,
    head: Head,
}

/// Finds the segments, in order of generation. None is of another store, unless sled is new: then what there
/// is of a log is missing in sled.
fn survey(dir: &Path, base: Held, found: &mut Replayed) -> Result<Vec<Found>, StoreError> {
    let held = base.mark.unwrap_or_default();
    let mut segments = Vec::new();
    for name in list(dir)? {
        let Some(number) = name.to_str().and_then(number) else {
            continue;
        };
        let path = dir.join(name);
        found.files = found.files.max(number);
        match Head::of(&path)? {
            Some(head) => {
                if !base.is_new() {
                    base.check(&path, head)?;
                }
                found.generation = found.generation.max(head.generation);
                segments.push(Found { path, head });
            }
            // A crash has torn the head as the file was made or put to another use. Then sled
            // holds all that is in it.
            None if !has_frames_since(&bytes_of(&path)?, held.generation) => found.spare.push(path),
            None => return Err(damaged(&path, "the head of a segment cannot be read")),
        }
    }
    segments.sort_by_key(|segment| segment.head.generation);
    let in_order = |pair: &[Found]| {
        pair[0].head.generation < pair[1].head.generation
            && pair[0].head.first <= pair[1].head.first
    };
    if !segments.windows(2).all(in_order) {
        return Err(damaged(dir, "its segments contradict each other"));
    }
    Ok(segments)
}

fn bytes_of(path: &Path) -> Result<Vec<u8>, StoreError> {
    fs::read(path).map_err(|e| failed("read", path, e))
}

/// The number in a segment's name, if it is one.
pub(super) fn number(name: &str) -> Option<u64> {
    name.strip_suffix(ENDING)?.parse().ok()
}

/// Says whether there is a frame of this generation or a later one.
fn has_frames_since(file: &[u8], first: u64) -> bool {
    let mut places = (FRAMES as usize..file.len()).step_by(ALIGN);
    places.any(|place| {
        claimed_generation(file, place).is_some_and(|generation| {
            generation >= first && Frame::at(file, place, generation).is_some()
        })
    })
}

/// Replays the frames of one segment, up to the one before `next`.
fn read(segment: &Found, next: Option<u64>, found: &mut Replayed) -> Result<(), StoreError> {
    let Found { path, head } = segment;
    let file = bytes_of(path)?;
    let mut place = FRAMES as usize;
    let mut seq = head.first;
    while next.is_none_or(|next| seq < next) {
        let frame = Frame::at(&file, place, head.generation).filter(|frame| frame.stamp.seq == seq);
        let Some(frame) = frame else {
            if next.is_some() {
                return Err(damaged(path, format!("frame {seq} cannot be read")));
            }
            return tail(segment, &file, place, seq);
        };
        let batch = frame
            .batch()
            .ok_or_else(|| damaged(path, format!("frame {seq} is not a batch")))?;
        // What sled holds already it may hold in a later state.
        if seq > found.last {
            found.layers.apply(batch);
            found.bytes += (frame.end - place) as u64;
            found.last = seq;
        }
        place = frame.end;
        seq += 1;
    }
    Ok(())
}

/// Counts the segments and frames that sled does not hold, and finds what is wrong with them, without an
/// end at the first fault.
pub(super) fn inspect(dir: &Path, base: Held, audit: &mut Audit) -> Result<(), StoreError> {
    let held = base.mark.unwrap_or_default();
    let mut found = Replayed {
        last: held.seq,
        ..Replayed::default()
    };
    let segments = survey(dir, base, &mut found)?;
    for (at, segment) in segments.iter().enumerate() {
        if segment.head.generation < held.generation {
            continue;
        }
        let next = segments.get(at + 1).map(|next| next.head.first);
        audit.segments += 1;
        let before = found.last;
        let whole = read(segment, next, &mut found);
        audit.frames += found.last - before;
        if let Err(error) = whole {
            audit.fail(&error);
            // The next one is looked at as if this had been whole.
            found.last = next.map_or(found.last, |next| found.last.max(next - 1));
        }
    }
    Ok(())
}

/// Looks at what follows the last whole frame: frame `seq`, which is not, may be one that never was
/// synced, but not one that was.
fn tail(segment: &Found, file: &[u8], from: usize, seq: u64) -> Result<(), StoreError> {
    let places = (from..file.len()).step_by(ALIGN);
    let later = places
        .filter_map(|place| Frame::at(file, place, segment.head.generation))
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
            info!(segment = %segment.path.display(), seq, "the log ends in what a crash has torn");
            Ok(())
        }
        None => Ok(()),
    }
}
