//! The log: every batch, in order, one append and one fdatasync per commit.

use std::path::{Path, PathBuf};

use super::base::Mark;
use super::files::{remove, sync_dir};
use super::frame::{self, Stamp};
use super::replay::Replayed;
use super::segment::{ENDING, Head, KEEP, Segment};
use crate::persistence::{Batch, StoreError};

/// Frames that nobody syncs are handed to the kernel when this much of them waits.
const BUFFER: usize = 1 << 20;
/// So many segments, each the work of one opening, are checkpointed however little is in them.
const OLDER: usize = 8;

/// The end of the log that is written to.
#[derive(Debug)]
pub(super) struct Log {
    dir: PathBuf,
    segment: Segment,
    generation: u64,
    /// Segments before this one that sled does not hold yet, and that are not frozen.
    older: Vec<PathBuf>,
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
    /// Goes on behind what was replayed, in a segment of its own, so that a torn tail is never
    /// written over and its frames never follow new ones.
    pub(super) fn resume(dir: PathBuf, replayed: Replayed) -> Result<Self, StoreError> {
        let Replayed {
            last,
            generation,
            live: older,
            empty,
            mut spare,
            mut files,
            bytes,
            ..
        } = replayed;
        let generation = generation + 1;
        let segment = begin(&dir, generation, last, &mut spare, &mut files, KEEP.1)?;
        // Only now are these not the end of the log any more.
        let surplus = spare.drain(spare.len().min(1)..);
        for path in empty.into_iter().chain(surplus) {
            remove(&path)?;
        }
        Ok(Self {
            dir,
            segment,
            generation,
            older,
            spare,
            files,
            buffer: Vec::new(),
            last,
            synced: last,
            bytes,
        })
    }

    pub(super) fn generation(&self) -> u64 {
        self.generation
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
        let place = self.segment.end() + before as u64;
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
            self.segment.write(&self.buffer)?;
            self.buffer.clear();
        }
        Ok(())
    }

    /// Returns when everything is on disk.
    pub(super) fn sync(&mut self) -> Result<(), StoreError> {
        self.write()?;
        if self.synced < self.last {
            self.segment.sync()?;
            self.synced = self.last;
        }
        Ok(())
    }

    /// Ends a clean life: a last frame says that all before it is on disk, so that damage to any of
    /// these is told from a tail that a crash has torn.
    pub(super) fn seal(&mut self) -> Result<(), StoreError> {
        self.sync()?;
        if !self.segment.is_empty() {
            self.append(&Batch::new());
            self.sync()?;
        }
        Ok(())
    }

    /// Makes all that is in the log durable and goes on in another segment: sled may only be given
    /// what no crash can take from the log any more. On a full disk nothing has changed.
    pub(super) fn rotate(&mut self) -> Result<Rotated, StoreError> {
        self.sync()?;
        let generation = self.generation + 1;
        let next = begin(
            &self.dir,
            generation,
            self.last,
            &mut self.spare,
            &mut self.files,
            // It will most likely get about as long as this one.
            self.segment.end(),
        )?;
        let full = std::mem::replace(&mut self.segment, next);
        self.generation = generation;
        self.bytes = 0;
        let mut segments = std::mem::take(&mut self.older);
        segments.push(full.path().to_owned());
        Ok(Rotated {
            segments,
            mark: Mark {
                seq: self.last,
                generation,
            },
        })
    }

    /// The files with the frames that no checkpoint has taken in hand, and how many bytes of each are of
    /// the log.
    pub(super) fn segments(&self) -> Vec<(PathBuf, u64)> {
        let older = self.older.iter().map(|path| (path.clone(), u64::MAX));
        let last = (self.segment.path().to_owned(), self.segment.end());
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
    pub(super) fn segment(&mut self) -> &mut Segment {
        &mut self.segment
    }
}

/// Begins a segment behind frame `last`, in a spare file or a new one.
fn begin(
    dir: &Path,
    generation: u64,
    last: u64,
    spare: &mut Vec<PathBuf>,
    files: &mut u64,
    keep: u64,
) -> Result<Segment, StoreError> {
    let head = Head {
        generation,
        first: last + 1,
    };
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
