//! The log: every batch, in order, one append and one fdatasync per commit.

use std::path::{Path, PathBuf};

use super::base::Mark;
use super::files::{make_dir, make_private, remove, sync_dir};
use super::frame::{self, Stamp};
use super::replay::Replayed;
use super::segment::{ENDING, Head, KEEP, Segment};
use crate::persistence::fence::Fence;
use crate::persistence::{Batch, StoreError};

/// Frames that nobody syncs are handed to the kernel when this much of them waits.
const BUFFER: usize = 1 << 20;
/// So many segments, each the work of one opening, are checkpointed however little is in them.
const OLDER: usize = 8;
/// Its name, beside the segments.
pub(super) const FENCE: &str = "fence";

const BEGUN: &str = "the log is begun before its first frame";

/// The end of the log that is written to.
#[derive(Debug)]
pub(super) struct Log {
    dir: PathBuf,
    /// What is written to; none before the first frame of this life.
    end: Option<End>,
    /// Of the segment that was begun last, in this life or one before.
    generation: u64,
    /// Segments before this one that sled does not hold yet, and that are not frozen.
    older: Vec<PathBuf>,
    /// Segments without a frame, which are the end of the log until the next is begun.
    empty: Vec<PathBuf>,
    /// Files of segments that are no longer needed.
    spare: Vec<PathBuf>,
    /// The highest number in any file's name.
    files: u64,
    /// Frames that wait for a sync.
    buffer: Vec<u8>,
    /// Number of the last frame.
    last: u64,
    /// Number of the last frame that is known to be on disk.
    synced: u64,
    /// Bytes of frames since the last rotation.
    bytes: u64,
    /// What was found of the fence, until the log is begun.
    fence: Option<Fence>,
}

#[derive(Debug)]
struct End {
    segment: Segment,
    /// Knows of what is on disk, and of nothing else.
    fence: Fence,
}

/// What a rotation leaves behind.
#[derive(Debug)]
pub(super) struct Rotated {
    /// Where the frames stand that the frozen overlay was made of.
    pub(super) segments: Vec<PathBuf>,
    /// What sled holds once it has that overlay.
    pub(super) mark: Mark,
}

impl Log {
    /// What was replayed, to be gone on with. Nothing is written yet.
    pub(super) fn resume(dir: PathBuf, replayed: Replayed) -> Self {
        let Replayed {
            last,
            generation,
            live: older,
            empty,
            spare,
            files,
            bytes,
            fence,
            ..
        } = replayed;
        Self {
            dir,
            end: None,
            generation,
            older,
            empty,
            spare,
            files,
            buffer: Vec::new(),
            last,
            synced: last,
            bytes,
            fence,
        }
    }

    /// Gets ready for the first frame, if it is not: in a segment of its own, so that a torn tail is never
    /// written over and its frames never follow new ones. Gives back the segment's generation.
    pub(super) fn begin(&mut self) -> Result<u64, StoreError> {
        if self.end.is_some() {
            return Ok(self.generation);
        }
        make_dir(&self.dir)?;
        make_private(&self.dir)?;
        if let Some(home) = self.dir.parent() {
            sync_dir(home)?;
        }
        let mut fence = match self.fence.take() {
            Some(fence) => fence,
            None => {
                let fence = Fence::make(self.dir.join(FENCE), self.last)?;
                // It is there before any segment says so.
                sync_dir(&self.dir)?;
                fence
            }
        };
        if fence.last() < self.last {
            // A crash came between the two, or nobody had asked for an fsync.
            fence.advance(self.last)?;
        }
        let segment = self.next_segment(KEEP.1)?;
        self.end = Some(End { segment, fence });
        // Only now are these not the end of the log any more.
        let surplus = self.spare.drain(self.spare.len().min(1)..);
        for path in self.empty.drain(..).chain(surplus) {
            remove(&path)?;
        }
        Ok(self.generation)
    }

    fn next_segment(&mut self, keep: u64) -> Result<Segment, StoreError> {
        let head = Head {
            generation: self.generation + 1,
            first: self.last + 1,
            is_fenced: true,
        };
        let segment = begin(&self.dir, head, &mut self.spare, &mut self.files, keep)?;
        self.generation = head.generation;
        Ok(segment)
    }

    fn end(&self) -> &End {
        self.end.as_ref().expect(BEGUN)
    }

    fn end_mut(&mut self) -> &mut End {
        self.end.as_mut().expect(BEGUN)
    }

    pub(super) fn is_begun(&self) -> bool {
        self.end.is_some()
    }

    /// Number of the last frame that is on disk.
    pub(super) fn synced(&self) -> u64 {
        self.synced
    }

    /// How much is in it that is not in sled.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Says whether it is time to hand what is in it to sled.
    pub(super) fn is_full(&self, limit: u64) -> bool {
        self.bytes >= limit || self.older.len() >= OLDER
    }

    /// Adds a batch, on disk only after [`sync`](Self::sync).
    pub(super) fn append(&mut self, batch: &Batch) {
        let before = self.buffer.len();
        let stamp = Stamp {
            generation: self.generation,
            seq: self.last + 1,
            synced: self.synced,
        };
        let place = self.end().segment.end() + before as u64;
        frame::append(&mut self.buffer, place, stamp, batch);
        self.last += 1;
        self.bytes += (self.buffer.len() - before) as u64;
    }

    /// Says whether so much waits to be handed to the kernel that it should be.
    pub(super) fn is_backed_up(&self) -> bool {
        self.buffer.len() >= BUFFER
    }

    /// The same for the second time: what waited could not be handed over.
    pub(super) fn is_overflowing(&self) -> bool {
        self.buffer.len() >= 2 * BUFFER
    }

    /// Hands everything to the kernel. On a full disk all of it is still to be handed over.
    pub(super) fn write(&mut self) -> Result<(), StoreError> {
        if !self.buffer.is_empty() {
            self.end
                .as_mut()
                .expect(BEGUN)
                .segment
                .write(&self.buffer)?;
            self.buffer.clear();
        }
        Ok(())
    }

    /// Returns when everything is on disk.
    pub(super) fn sync(&mut self) -> Result<(), StoreError> {
        self.write()?;
        if self.synced < self.last {
            let last = self.last;
            let End { segment, fence } = self.end_mut();
            segment.sync()?;
            // Only now: a fence must never know more than the disk.
            fence.advance(last)?;
            self.synced = last;
        }
        Ok(())
    }

    /// Ends a clean life: a last frame says that all before it is on disk, so that damage to any of
    /// these is told from a tail that a crash has torn.
    pub(super) fn seal(&mut self) -> Result<(), StoreError> {
        if !self.is_begun() {
            return Ok(());
        }
        self.sync()?;
        if !self.end().segment.is_empty() {
            self.append(&Batch::new());
            self.sync()?;
        }
        self.end().fence.sync()
    }

    /// Makes all that is in the log durable and goes on in another segment: sled may only be given
    /// what no crash can take from the log any more. On a full disk nothing has changed.
    pub(super) fn rotate(&mut self) -> Result<Rotated, StoreError> {
        self.sync()?;
        // It will most likely get about as long as this one.
        let next = self.next_segment(self.end().segment.end())?;
        let full = std::mem::replace(&mut self.end_mut().segment, next);
        self.bytes = 0;
        let mut segments = std::mem::take(&mut self.older);
        segments.push(full.path().to_owned());
        Ok(Rotated {
            segments,
            mark: Mark {
                seq: self.last,
                generation: self.generation,
            },
        })
    }

    /// The files with the frames that no checkpoint has taken in hand, and how many bytes of each are of
    /// the log.
    pub(super) fn segments(&self) -> Vec<(PathBuf, u64)> {
        let older = self.older.iter().map(|path| (path.clone(), u64::MAX));
        let segment = &self.end().segment;
        let last = (segment.path().to_owned(), segment.end());
        older.chain([last]).collect()
    }

    /// Takes back files that a checkpoint has made free.
    pub(super) fn reuse(&mut self, files: impl IntoIterator<Item = PathBuf>) {
        self.spare.extend(files);
    }

    #[cfg(test)]
    pub(super) fn spare(&self) -> &[PathBuf] {
        &self.spare
    }

    #[cfg(test)]
    pub(super) fn fence(&mut self) -> &mut Fence {
        &mut self.end_mut().fence
    }

    #[cfg(test)]
    pub(super) fn segment(&mut self) -> &mut Segment {
        self.begin().unwrap();
        &mut self.end_mut().segment
    }
}

/// Begins a segment, in a spare file or a new one.
fn begin(
    dir: &Path,
    head: Head,
    spare: &mut Vec<PathBuf>,
    files: &mut u64,
    keep: u64,
) -> Result<Segment, StoreError> {
    let (path, is_new) = match spare.pop() {
        Some(path) => (path, false),
        None => {
            *files += 1;
            (dir.join(format!("{files:08}{ENDING}")), true)
        }
    };
    let begun = Segment::begin(path.clone(), head, keep).and_then(|segment| {
        if is_new {
            sync_dir(dir)?;
        }
        Ok(segment)
    });
    begun.or_else(|error| {
        // A head without its frames would contradict what is now written elsewhere.
        let gone = remove(&path).and_then(|()| sync_dir(dir));
        gone.map_err(StoreError::into_final)?;
        Err(error)
    })
}
