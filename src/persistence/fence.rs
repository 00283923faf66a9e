//! The number of the last commit, kept beside an engine's own files: what it has silently taken back, or
//! what somebody has taken from these, is missed.
//!
//! Two slots are written in turn, so that one is always whole:
//!
//! ```text
//! bytes 0-2    magic
//! byte 3       format version of this file and, with redb, of its tables
//! bytes 4-7    crc32 of all other bytes
//! bytes 8-15   number, little endian
//! ```
//!
//! It is written behind each commit that was fsynced, and itself fsynced only when the store is closed: a
//! kill takes nothing of it, and a power cut at most turns it back, which costs no data. It never knows
//! of a commit that the disk does not have.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use super::StoreError;
use super::files::{damaged, failed, fsync, open_private};

const MAGIC: [u8; 3] = *b"cfn";
const VERSION: u8 = 1;
const SLOT: usize = 16;
/// The slots are in sectors of their own.
const PLACES: [u64; 2] = [0, 4096];

#[derive(Debug)]
pub(super) struct Fence {
    file: File,
    path: PathBuf,
    last: u64,
    /// The slot that does not hold the last number.
    next: usize,
}

impl Fence {
    /// Makes the file, or makes it anew; it is on disk before this returns, its name may not be.
    pub(super) fn make(path: PathBuf, last: u64) -> Result<Self, StoreError> {
        let file = open_private(&path)?;
        let mut fence = Self {
            file,
            path,
            last,
            next: 0,
        };
        for _ in PLACES {
            fence.advance(last)?;
        }
        fence.sync()?;
        Ok(fence)
    }

    /// Reads the file of a finished store.
    pub(super) fn read(path: PathBuf) -> Result<Self, StoreError> {
        let mut file = open_existing(&path)?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)
            .map_err(|e| failed("read", &path, e))?;
        let mut found = None;
        for (slot, place) in PLACES.into_iter().enumerate() {
            let Some((version, number)) = decode(&bytes, place as usize) else {
                continue;
            };
            if version > VERSION {
                return Err(StoreError::Newer {
                    path_or_place: path.display().to_string(),
                    found: version,
                    supported: VERSION,
                });
            }
            if found.is_none_or(|(last, _)| number > last) {
                found = Some((number, slot));
            }
        }
        let Some((last, slot)) = found else {
            return Err(damaged(&path, "neither of its numbers can be read"));
        };
        Ok(Self {
            file,
            path,
            last,
            next: 1 - slot,
        })
    }

    /// Reads the number in a file that is not written to.
    pub(super) fn peek(path: &Path) -> Result<u64, StoreError> {
        let bytes = std::fs::read(path).map_err(|e| failed("read", path, e))?;
        let numbers = PLACES
            .into_iter()
            .filter_map(|place| decode(&bytes, place as usize));
        let last = numbers.map(|(_, number)| number).max();
        last.ok_or_else(|| damaged(path, "neither of its numbers can be read"))
    }

    pub(super) fn last(&self) -> u64 {
        self.last
    }

    /// Notes that this commit is on disk.
    pub(super) fn advance(&mut self, number: u64) -> Result<(), StoreError> {
        write_at(&mut self.file, PLACES[self.next], &encode(VERSION, number))
            .map_err(|e| failed("write", &self.path, e))?;
        self.last = number;
        self.next = 1 - self.next;
        Ok(())
    }

    /// Returns when the last number is on disk.
    pub(super) fn sync(&self) -> Result<(), StoreError> {
        fsync(&self.file).map_err(|e| failed("fsync", &self.path, e))
    }

    /// Has all writes go to another file, for tests of what follows an error; gives back the one before.
    #[cfg(test)]
    pub(super) fn divert(&mut self, file: File) -> File {
        std::mem::replace(&mut self.file, file)
    }
}

/// One call to the system: it comes with each commit.
#[cfg(unix)]
fn write_at(file: &mut File, place: u64, bytes: &[u8]) -> io::Result<()> {
    std::os::unix::fs::FileExt::write_all_at(file, bytes, place)
}

#[cfg(not(unix))]
fn write_at(file: &mut File, place: u64, bytes: &[u8]) -> io::Result<()> {
    io::Seek::seek(file, io::SeekFrom::Start(place))?;
    io::Write::write_all(file, bytes)
}

/// For a missing file there is no new one: its number is what matters.
fn open_existing(path: &PathBuf) -> Result<File, StoreError> {
    let opened = File::options().read(true).write(true).open(path);
    opened.map_err(|e| match e.kind() {
        io::ErrorKind::NotFound => damaged(path, "it is missing"),
        _ => failed("open", path, e),
    })
}

pub(super) fn encode(version: u8, number: u64) -> [u8; SLOT] {
    let mut slot = [0; SLOT];
    slot[..3].copy_from_slice(&MAGIC);
    slot[3] = version;
    slot[8..].copy_from_slice(&number.to_le_bytes());
    let crc = crc32fast::hash(&slot);
    slot[4..8].copy_from_slice(&crc.to_le_bytes());
    slot
}

fn decode(bytes: &[u8], place: usize) -> Option<(u8, u64)> {
    let slot = bytes.get(place..place + SLOT)?;
    let number = u64::from_le_bytes(slot[8..].try_into().ok()?);
    (slot == encode(slot[3], number)).then_some((slot[3], number))
}
