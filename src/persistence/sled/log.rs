//! The log: every batch, in order, one append and one fdatasync per commit.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::base::Mark;
use super::files::{make_dir, make_private, sync_dir};
use super::frame::{self, Stamp};
use super::replay::Replayed;
use super::segment::{ENDING, Head, KEEP, Segment};
use crate::persistence::dir::Dir;
use crate::persistence::identity::StoreId;
use crate::persistence::watermark::Watermark;
use crate::persistence::{Batch, StoreError};

/// Frames that nobody syncs are handed to the kernel when this much of them waits.
const BUFFER: usize = 1 << 20;
/// How often something is handed to the kernel, without an fsync, before the file is looked at: whether it
/// was deleted. That takes about half as long as a small write.
const UNCHECKED: u32 = 64;
/// So many segments, each the work of one opening, are checkpointed however little is in them.
const OLDER: usize = 8;
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
    /// How often something was handed to the kernel since the file was last seen to have a name.
    unchecked: u32,
    /// What was found of the fence, until the log is begun.
    fence: Option<Watermark>,
}

#[derive(Debug)]
struct End {
    /// The log's own.
    dir: Arc<Dir>,
    segment: Segment,
    /// Knows of what is on disk, and of nothing else.
    fence: Watermark,
    /// The store that it belongs to.
    id: StoreId,
}

/// What a rotation leaves behind.
#[derive(Debug)]
pub(super) struct Rotated {
    /// Where the frames stand that the frozen overlay was made of.
    pub(super) segments: Vec<PathBuf>,
    /// The directory that they are in.
    pub(super) dir: Arc<Dir>,
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
            unchecked: 0,
            fence,
        }
    }

    /// Gets ready for the first frame, if it is not: in a segment of its own, so that a torn tail is never
    /// written over and its frames never follow new ones. Gives back the segment's generation. After an
    /// error that is temporary nothing has changed.
    pub(super) fn begin(&mut self, id: StoreId) -> Result<u64, StoreError> {
        if self.end.is_some() {
            return Ok(self.generation);
        }
        make_dir(&self.dir)?;
        make_private(&self.dir)?;
        if let Some(home) = self.dir.parent() {
            sync_dir(home)?;
        }
        let dir = Arc::new(Dir::open(self.dir.clone())?);
        self.prepare_fence(&dir, id)?;
        let segment = self.next_segment(&dir, KEEP.1, id)?;
        // Only now are these not the end of the log any more.
        let surplus = self.spare.drain(self.spare.len().min(1)..);
        for path in self.empty.drain(..).chain(surplus) {
            dir.remove(name_of(&path))?;
        }
        self.end = self.fence.take().map(|fence| End {
            dir,
            segment,
            fence,
            id,
        });
        Ok(self.generation)
    }

    /// Brings the fence up to date, or makes it. It is there, and says which store's it is, before any
    /// segment does.
    fn prepare_fence(&mut self, dir: &Dir, id: StoreId) -> Result<(), StoreError> {
        let mut fence = match self.fence.take() {
            Some(fence) => fence,
            None => {
                let fence = Watermark::make(dir, self.last, id)?;
                dir.sync()?;
                fence
            }
        };
        fence.identify(id)?;
        if fence.last() < self.last {
            // A crash came between the two, or nobody had asked for an fsync.
            fence.advance(self.last)?;
        }
        self.fence = Some(fence);
        Ok(())
    }

    fn next_segment(&mut self, dir: &Dir, keep: u64, id: StoreId) -> Result<Segment, StoreError> {
        let head = Head {
            generation: self.generation + 1,
            first: self.last + 1,
            is_fenced: true,
            id: Some(id),
        };
        let segment = begin(dir, head, &mut self.spare, &mut self.files, keep)?;
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

    /// Of the segment that was begun last; 0 if there is none.
    pub(super) fn generation(&self) -> u64 {
        self.generation
    }

    /// The store that it belongs to.
    pub(super) fn id(&self) -> StoreId {
        self.end().id
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

    /// Hands everything to the kernel. After an error that is temporary all of it is still to be handed
    /// over.
    pub(super) fn write(&mut self) -> Result<(), StoreError> {
        if !self.buffer.is_empty() {
            self.unchecked += 1;
            if self.unchecked >= UNCHECKED {
                self.check_has_a_name()?;
            }
            let segment = &mut self.end.as_mut().expect(BEGUN).segment;
            segment.write(&self.buffer)?;
            self.buffer.clear();
        }
        Ok(())
    }

    /// Refuses to go on in a file that has been deleted: what is written to it would be acknowledged, and
    /// gone.
    fn check_has_a_name(&mut self) -> Result<(), StoreError> {
        self.unchecked = 0;
        self.end().segment.check_has_a_name()
    }

    /// Returns when everything is on disk.
    pub(super) fn sync(&mut self) -> Result<(), StoreError> {
        self.write()?;
        if self.synced < self.last {
            // One call to the system, beside an fsync.
            self.check_has_a_name()?;
            let last = self.last;
            let End { segment, fence, .. } = self.end_mut();
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
    /// what no crash can take from the log any more. After an error that is temporary nothing has changed.
    pub(super) fn rotate(&mut self) -> Result<Rotated, StoreError> {
        self.sync()?;
        let (dir, id) = (self.end().dir.clone(), self.end().id);
        // It will most likely get about as long as this one.
        let next = self.next_segment(&dir, self.end().segment.end(), id)?;
        let full = std::mem::replace(&mut self.end_mut().segment, next);
        self.bytes = 0;
        let mut segments = std::mem::take(&mut self.older);
        segments.push(full.path().to_owned());
        Ok(Rotated {
            segments,
            dir,
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
    pub(super) fn fence(&mut self) -> &mut Watermark {
        &mut self.end_mut().fence
    }

    #[cfg(test)]
    pub(super) fn segment(&mut self) -> &mut Segment {
        &mut self.end_mut().segment
    }

    #[cfg(test)]
    pub(super) fn dir(&self) -> &Dir {
        &self.end().dir
    }
}

/// Begins a segment, in a spare file or a new one.
fn begin(
    dir: &Dir,
    head: Head,
    spare: &mut Vec<PathBuf>,
    files: &mut u64,
    keep: u64,
) -> Result<Segment, StoreError> {
    dir.check_in_place()?;
    let (file, path, is_new) = match spare.last() {
        Some(path) => (dir.open_file(name_of(path))?, path.clone(), false),
        None => {
            let name = format!("{:08}{ENDING}", *files + 1);
            let file = dir.create(name.as_ref())?;
            (file, dir.path().join(name), true)
        }
    };
    // From here on the file is used, or removed.
    match is_new {
        true => *files += 1,
        false => drop(spare.pop()),
    }
    let begun = Segment::begin(file, path.clone(), head, keep).and_then(|segment| {
        if is_new {
            dir.sync()?;
        }
        Ok(segment)
    });
    begun.or_else(|error| {
        // A head without its frames would contradict what is now written elsewhere.
        let gone = dir.remove(name_of(&path)).and_then(|()| dir.sync());
        gone.map_err(StoreError::into_final)?;
        Err(error)
    })
}

/// The name of a segment's file.
pub(super) fn name_of(path: &Path) -> &OsStr {
    path.file_name().expect("a segment's file has a name")
}
