//! The log: every batch, in order, with one append and one fdatasync per commit.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::base::Mark;
use super::frame::{self, Stamp};
use super::replay::Replayed;
use super::segment::{ENDING, KEEP, Segment, SegmentHeader};
use crate::persistence::store::fs::dir::Dir;
use crate::persistence::store::fs::files::{make_dir, make_private, sync_dir};
use crate::persistence::store::fs::identity::StoreId;
use crate::persistence::store::fs::watermark::Watermark;
use crate::persistence::store::{Batch, StoreError};

/// Frames that no caller syncs are handed to the kernel when they reach this many bytes.
const BUFFER: usize = 1 << 20;
/// How many writes are handed to the kernel, without an fsync, before the file is checked for a
/// name, in case it was deleted. The check takes about half as long as a small write.
const UNCHECKED: u32 = 64;
/// So many segments, each written by one session, are checkpointed however little is in them.
const OLDER: usize = 8;
const BEGUN: &str = "the log is begun before its first frame";

/// The log, and its end that is written to.
#[derive(Debug)]
pub(crate) struct Log {
    dir: PathBuf,
    /// The tail that is written to; `None` before the first frame of this session.
    tail: Option<Tail>,
    /// The generation of the segment that was begun last, in this session or an earlier one.
    generation: u64,
    /// Earlier segments that are neither frozen nor in the base yet.
    older: Vec<PathBuf>,
    /// Segments without a frame, which are the end of the log until the next segment is begun.
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
    /// The number of writes to the kernel since the file was last seen to have a name.
    unchecked: u32,
    /// The watermark that the replay found, until the log is begun.
    watermark: Option<Watermark>,
}

#[derive(Debug)]
struct Tail {
    /// The directory of the log.
    dir: Arc<Dir>,
    segment: Segment,
    /// Covers frames that are on disk, and no others.
    watermark: Watermark,
    /// The id of the store.
    id: StoreId,
}

/// The result of a rotation.
#[derive(Debug)]
pub(crate) struct Rotated {
    /// The segments of the frames in the frozen memtable.
    pub(crate) segments: Vec<PathBuf>,
    /// The directory of the segments.
    pub(crate) dir: Arc<Dir>,
    /// The mark that the base gets once it holds that memtable.
    pub(crate) mark: Mark,
}

impl Log {
    /// Creates the log from its replay. Writes nothing.
    pub(crate) fn resume(dir: PathBuf, replayed: Replayed) -> Self {
        let Replayed {
            last,
            generation,
            live: older,
            empty,
            spare,
            files,
            bytes,
            watermark,
            ..
        } = replayed;
        Self {
            dir,
            tail: None,
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
            watermark,
        }
    }

    /// Prepares the log for the first frame, if it is not prepared: the frame gets a segment of its
    /// own, so that a torn tail is never overwritten and its frames never follow new ones. Returns
    /// the segment's generation. After a temporary error nothing has changed.
    pub(crate) fn begin(&mut self, id: StoreId) -> Result<u64, StoreError> {
        if self.tail.is_some() {
            return Ok(self.generation);
        }
        make_dir(&self.dir)?;
        make_private(&self.dir)?;
        if let Some(data_dir) = self.dir.parent() {
            sync_dir(data_dir)?;
        }
        let dir = Arc::new(Dir::open(self.dir.clone())?);
        self.prepare_watermark(&dir, id)?;
        let segment = self.next_segment(&dir, KEEP.1, id)?;
        // Only now do these stop being the end of the log.
        let surplus = self.spare.drain(self.spare.len().min(1)..);
        for path in self.empty.drain(..).chain(surplus) {
            dir.remove(name_of(&path))?;
        }
        self.tail = self.watermark.take().map(|watermark| Tail {
            dir,
            segment,
            watermark,
            id,
        });
        Ok(self.generation)
    }

    /// Brings the watermark up to date, or creates it. It exists, and names its store, before any
    /// segment does.
    fn prepare_watermark(&mut self, dir: &Dir, id: StoreId) -> Result<(), StoreError> {
        let mut watermark = match self.watermark.take() {
            Some(watermark) => watermark,
            None => {
                let watermark = Watermark::create(dir, self.last, id)?;
                dir.sync()?;
                watermark
            }
        };
        watermark.identify(id)?;
        if watermark.last() < self.last {
            // A crash came between frame and watermark, or no caller had asked for an fsync.
            watermark.advance(self.last)?;
        }
        self.watermark = Some(watermark);
        Ok(())
    }

    fn next_segment(&mut self, dir: &Dir, keep: u64, id: StoreId) -> Result<Segment, StoreError> {
        let header = SegmentHeader {
            generation: self.generation + 1,
            first: self.last + 1,
            has_watermark: true,
            id: Some(id),
        };
        let segment = begin(dir, header, &mut self.spare, &mut self.files, keep)?;
        self.generation = header.generation;
        Ok(segment)
    }

    fn tail(&self) -> &Tail {
        self.tail.as_ref().expect(BEGUN)
    }

    fn tail_mut(&mut self) -> &mut Tail {
        self.tail.as_mut().expect(BEGUN)
    }

    pub(crate) fn is_begun(&self) -> bool {
        self.tail.is_some()
    }

    /// Returns the generation of the segment that was begun last; 0 if there is none.
    pub(crate) fn generation(&self) -> u64 {
        self.generation
    }

    /// Returns the id of the store.
    pub(crate) fn id(&self) -> StoreId {
        self.tail().id
    }

    /// Returns the number of the last frame that is on disk.
    pub(crate) fn synced(&self) -> u64 {
        self.synced
    }

    /// Returns the bytes of the log that are not in the base.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Returns whether the log should be moved into the base.
    pub(crate) fn is_full(&self, limit: u64) -> bool {
        self.bytes >= limit || self.older.len() >= OLDER
    }

    /// Adds a batch, which is on disk only after [`sync`](Self::sync).
    pub(crate) fn append(&mut self, batch: &Batch) {
        let before = self.buffer.len();
        let stamp = Stamp {
            generation: self.generation,
            seq: self.last + 1,
            synced: self.synced,
        };
        let position = self.tail().segment.end() + before as u64;
        frame::append(&mut self.buffer, position, stamp, batch);
        self.last += 1;
        self.bytes += (self.buffer.len() - before) as u64;
    }

    /// Returns whether the buffer should be handed to the kernel.
    pub(crate) fn is_backed_up(&self) -> bool {
        self.buffer.len() >= BUFFER
    }

    /// Returns whether the buffer is twice as full: it could not be handed over.
    pub(crate) fn is_overflowing(&self) -> bool {
        self.buffer.len() >= 2 * BUFFER
    }

    /// Hands the buffer to the kernel. After a temporary error the whole buffer is still to be
    /// handed over.
    pub(crate) fn write(&mut self) -> Result<(), StoreError> {
        if !self.buffer.is_empty() {
            self.unchecked += 1;
            if self.unchecked >= UNCHECKED {
                self.check_has_a_name()?;
            }
            let segment = &mut self.tail.as_mut().expect(BEGUN).segment;
            segment.write(&self.buffer)?;
            self.buffer.clear();
        }
        Ok(())
    }

    /// Fails if the file has been deleted: frames written to it would be acknowledged and then
    /// lost.
    fn check_has_a_name(&mut self) -> Result<(), StoreError> {
        self.unchecked = 0;
        self.tail().segment.check_has_a_name()
    }

    /// Makes all frames durable.
    pub(crate) fn sync(&mut self) -> Result<(), StoreError> {
        self.write()?;
        if self.synced < self.last {
            // Costs one system call, beside an fsync.
            self.check_has_a_name()?;
            let last = self.last;
            let Tail {
                segment, watermark, ..
            } = self.tail_mut();
            segment.sync()?;
            // Only now: a watermark must never exceed what is on disk.
            watermark.advance(last)?;
            self.synced = last;
        }
        Ok(())
    }

    /// Ends a clean session with a last frame that records that all frames before it are on disk,
    /// so that damage to any of these is distinguished from a tail torn by a crash.
    pub(crate) fn seal(&mut self) -> Result<(), StoreError> {
        if !self.is_begun() {
            return Ok(());
        }
        self.sync()?;
        if !self.tail().segment.is_empty() {
            self.append(&Batch::new());
            self.sync()?;
        }
        self.tail().watermark.sync()
    }

    /// Makes all frames durable and continues in another segment: the base may receive only frames
    /// that no crash can remove from the log. After a temporary error nothing has changed.
    pub(crate) fn rotate(&mut self) -> Result<Rotated, StoreError> {
        self.sync()?;
        let (dir, id) = (self.tail().dir.clone(), self.tail().id);
        // The next segment will most likely get about as long as this one.
        let next = self.next_segment(&dir, self.tail().segment.end(), id)?;
        let full = std::mem::replace(&mut self.tail_mut().segment, next);
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

    /// Returns the files whose frames no checkpoint has taken over, and how many bytes of each
    /// belong to the log.
    pub(crate) fn segments(&self) -> Vec<(PathBuf, u64)> {
        let older = self.older.iter().map(|path| (path.clone(), u64::MAX));
        let segment = &self.tail().segment;
        let last = (segment.path().to_owned(), segment.end());
        older.chain([last]).collect()
    }

    /// Takes back files that a checkpoint has freed.
    pub(crate) fn reuse(&mut self, files: impl IntoIterator<Item = PathBuf>) {
        self.spare.extend(files);
    }

    #[cfg(test)]
    pub(crate) fn spare(&self) -> &[PathBuf] {
        &self.spare
    }

    #[cfg(test)]
    pub(crate) fn watermark(&mut self) -> &mut Watermark {
        &mut self.tail_mut().watermark
    }

    #[cfg(test)]
    pub(crate) fn segment(&mut self) -> &mut Segment {
        &mut self.tail_mut().segment
    }

    #[cfg(test)]
    pub(crate) fn dir(&self) -> &Dir {
        &self.tail().dir
    }
}

/// Begins a segment, in a spare file or a new one.
fn begin(
    dir: &Dir,
    header: SegmentHeader,
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
    // From here on the file is either used or removed.
    match is_new {
        true => *files += 1,
        false => drop(spare.pop()),
    }
    let begun = Segment::begin(file, path.clone(), header, keep).and_then(|segment| {
        if is_new {
            dir.sync()?;
        }
        Ok(segment)
    });
    begun.or_else(|error| {
        // A header without its frames would contradict the records in other files.
        let gone = dir.remove(name_of(&path)).and_then(|()| dir.sync());
        gone.map_err(StoreError::into_final)?;
        Err(error)
    })
}

/// Returns the name of a segment's file.
pub(crate) fn name_of(path: &Path) -> &OsStr {
    path.file_name().expect("a segment's file has a name")
}
