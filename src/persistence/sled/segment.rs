//! A file of the log: a head, then frames, then zeroes or what an earlier use has left.
//!
//! ```text
//! bytes 0-7    magic
//! bytes 8-15   format version
//! bytes 16-23  generation: rises with each use of a file as a segment
//! bytes 24-31  number of the first frame
//! bytes 32-35  crc32 of the bytes before
//! bytes 36-51  id of the store, from version 3 on
//! bytes 52-55  crc32 of the bytes before, from version 3 on
//! bytes 4096-  frames
//! ```
//!
//! (A version that knows nothing of ids reads the first 36 bytes, and refuses them by their version.)
//!
//! It is written ahead with zeroes: an fdatasync of bytes within a file's length needs no commit of
//! the file system's journal (measured: 0.11 instead of 0.15 ms).

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use super::files::{failed, fdatasync, fsync};
use crate::persistence::StoreError;
use crate::persistence::dir::check_has_a_name;
use crate::persistence::identity::StoreId;

/// What the names of segments end in, behind a number.
pub(super) const ENDING: &str = ".segment";
const MAGIC: [u8; 8] = *b"chordlog";
/// The format that this version writes, and the newest it reads. It is raised with each change of what
/// is stored, be it of a record: it is looked at before sled is opened, which writes when it is.
pub(super) const VERSION: u64 = 3;
/// From this one on there is a fence beside the segment.
const FENCED: u64 = 2;
/// From this one on the segment names its store.
const IDENTIFIED: u64 = 3;
/// The head has a disk block to itself: no write of a frame touches it.
pub(super) const FRAMES: u64 = 4096;
/// A file that has grown larger than this, for one very large batch, is not kept at that; and none
/// is made shorter than this.
pub(super) const KEEP: (u64, u64) = (1 << 20, 16 << 20);
/// By how much a file grows: by as much as it has, within these.
const GROWTH: (u64, u64) = (64 << 10, 1 << 20);

pub(super) static ZEROES: [u8; 64 << 10] = [0; 64 << 10];

/// What a segment says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) generation: u64,
    /// Number of its first frame. All frames before were on disk when it was begun.
    pub(super) first: u64,
    /// There is a fence since before it was begun.
    pub(super) is_fenced: bool,
    /// The store that it belongs to; none if an earlier version has written it.
    pub(super) id: Option<StoreId>,
}

impl Head {
    /// What every version has.
    const COMMON: usize = 36;
    const LENGTH: usize = 56;

    fn to_bytes(self) -> [u8; Self::LENGTH] {
        let mut bytes = [0; Self::LENGTH];
        bytes[..8].copy_from_slice(&MAGIC);
        let version = match (self.id, self.is_fenced) {
            (Some(_), _) => VERSION,
            (None, true) => FENCED,
            (None, false) => 1,
        };
        for (at, number) in [(8, version), (16, self.generation), (24, self.first)] {
            bytes[at..at + 8].copy_from_slice(&number.to_le_bytes());
        }
        seal(&mut bytes, 32);
        if let Some(id) = self.id {
            bytes[Self::COMMON..52].copy_from_slice(&id.to_bytes());
            seal(&mut bytes, 52);
        }
        bytes
    }

    /// Reads the head of a file; `None` if there is none that is whole.
    pub(super) fn of(path: &Path) -> Result<Option<Self>, StoreError> {
        let mut bytes = Vec::with_capacity(Self::LENGTH);
        File::open(path)
            .and_then(|file| file.take(Self::LENGTH as u64).read_to_end(&mut bytes))
            .map_err(|e| failed("read", path, e))?;
        if bytes.len() < Self::COMMON || bytes[..8] != MAGIC || !is_sealed(&bytes, 32) {
            return Ok(None);
        }
        let word = |at: usize| u64::from_le_bytes(std::array::from_fn(|i| bytes[at + i]));
        let version = word(8);
        if !(1..=VERSION).contains(&version) {
            return Err(StoreError::UnsupportedVersion {
                path_or_place: path.display().to_string(),
                found: u8::try_from(version).unwrap_or(u8::MAX),
                supported: VERSION as u8,
            });
        }
        let id = match version >= IDENTIFIED {
            true if !is_sealed(&bytes, 52) => return Ok(None),
            true => {
                let id = std::array::from_fn(|i| bytes[Self::COMMON + i]);
                Some(StoreId::from_bytes(id))
            }
            false => None,
        };
        Ok(Some(Self {
            generation: word(16),
            first: word(24),
            is_fenced: version >= FENCED,
            id,
        }))
    }
}

/// Puts the checksum of all bytes before this place there.
fn seal(bytes: &mut [u8], at: usize) {
    let crc = crc32fast::hash(&bytes[..at]);
    bytes[at..at + 4].copy_from_slice(&crc.to_le_bytes());
}

fn is_sealed(bytes: &[u8], at: usize) -> bool {
    let crc = bytes.get(at..at + 4);
    crc.is_some_and(|crc| crc == crc32fast::hash(&bytes[..at]).to_le_bytes())
}

/// The segment that is written to.
#[derive(Debug)]
pub(super) struct Segment {
    path: PathBuf,
    file: File,
    /// Where the next frame goes; the file's own position.
    end: u64,
    /// The file's length: zeroes, or what was there before, from `end` on.
    length: u64,
}

impl Segment {
    /// Makes a file a segment without frames; durable but for its name when it returns. Of what the
    /// file has grown to `keep` bytes are kept, about.
    pub(super) fn begin(
        mut file: File,
        path: PathBuf,
        head: Head,
        keep: u64,
    ) -> Result<Self, StoreError> {
        let begin = |file: &mut File| -> io::Result<u64> {
            let found = file.metadata()?.len();
            let length = found.clamp(FRAMES, keep.clamp(KEEP.0, KEEP.1));
            if length != found {
                file.set_len(length)?;
            }
            file.write_all(&head.to_bytes())?;
            fsync(file)?;
            file.seek(SeekFrom::Start(FRAMES))?;
            Ok(length)
        };
        let length = begin(&mut file).map_err(|e| failed("begin", &path, e))?;
        Ok(Self {
            path,
            file,
            end: FRAMES,
            length,
        })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn is_empty(&self) -> bool {
        self.end == FRAMES
    }

    pub(super) fn end(&self) -> u64 {
        self.end
    }

    /// Refuses to go on with a file that has been deleted.
    pub(super) fn check_has_a_name(&self) -> Result<(), StoreError> {
        check_has_a_name(&self.file, &self.path)
    }

    /// Hands frames to the kernel.
    pub(super) fn write(&mut self, frames: &[u8]) -> Result<(), StoreError> {
        self.try_write(frames)
            .map_err(|e| failed("write", &self.path, e))?;
        if self.end <= self.length {
            return Ok(());
        }
        match self.grow().map_err(|e| failed("lengthen", &self.path, e)) {
            // It is only for speed: the next frames will say so.
            Err(error) if error.is_full() => Ok(()),
            grown => grown,
        }
    }

    /// Makes what was written durable.
    pub(super) fn sync(&self) -> Result<(), StoreError> {
        // Never again: the kernel tells of a lost page once.
        let doing = || format!("fsync {}", self.path.display());
        fdatasync(&self.file).map_err(|e| StoreError::final_io(doing(), e))
    }

    fn try_write(&mut self, frames: &[u8]) -> io::Result<()> {
        if let Err(error) = self.file.write_all(frames) {
            // A part of them may be there. They are not in the log, and what is tried next takes
            // their place.
            self.file.seek(SeekFrom::Start(self.end))?;
            return Err(error);
        }
        self.end += frames.len() as u64;
        Ok(())
    }

    /// Writes zeroes ahead; the sync that covers the frames before them covers the new length.
    fn grow(&mut self) -> io::Result<()> {
        self.length = self.end;
        let missing = self.end.clamp(GROWTH.0, GROWTH.1);
        let grown = self.write_zeroes(missing);
        self.file.seek(SeekFrom::Start(self.end))?;
        grown?;
        self.length += missing;
        Ok(())
    }

    fn write_zeroes(&mut self, mut missing: u64) -> io::Result<()> {
        while missing > 0 {
            let piece = missing.min(ZEROES.len() as u64);
            self.file.write_all(&ZEROES[..piece as usize])?;
            missing -= piece;
        }
        Ok(())
    }

    /// Has all writes go to another file, for tests of what follows an error; gives back the one before.
    #[cfg(test)]
    pub(super) fn divert(&mut self, file: File) -> File {
        std::mem::replace(&mut self.file, file)
    }
}
