//! The number of the last commit, kept beside an engine's own files: what it has silently taken back, or
//! what somebody has taken from these, is missed.
//!
//! Two slots are written in turn, so that one is always whole:
//!
//! ```text
//! bytes 0-2    magic
//! byte 3       format version of this file and, with redb, of its tables
//! bytes 4-7    crc32 of bytes 0 to 15 without these
//! bytes 8-15   number, little endian
//! bytes 16-31  id of the store, from version 2 on
//! bytes 32-35  crc32 of the bytes before, from version 2 on
//! ```
//!
//! (A version that knows nothing of ids reads the first 16 bytes, and refuses them by their version.)
//!
//! It is written behind each commit that was fsynced, and itself fsynced only when the store is closed: a
//! kill takes nothing of it, and a power cut at most turns it back, which costs no data. It never knows
//! of a commit that the disk does not have.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use super::StoreError;
use super::dir::Dir;
#[cfg(feature = "redb")]
use super::dir::check_has_a_name;
use super::files::{damaged, failed, fsync, open_old, unsynced};
use super::identity::StoreId;

const MAGIC: [u8; 3] = *b"cfn";
pub(super) const VERSION: u8 = 2;
/// From this one on there is an id.
const IDENTIFIED: u8 = 2;
/// The name of the file.
pub(super) const NAME: &str = "fence";
const HEAD: usize = 16;
const SLOT: usize = 36;
/// The slots are in sectors of their own.
const PLACES: [u64; 2] = [0, 4096];

#[derive(Debug)]
pub(super) struct Watermark {
    file: File,
    path: PathBuf,
    last: u64,
    /// The store that it belongs to; none as long as an earlier version has written it.
    id: Option<StoreId>,
    /// The slot that does not hold the last number.
    next: usize,
}

impl Watermark {
    /// Makes the file, or makes it anew; it is on disk before this returns, its name may not be.
    pub(super) fn make(dir: &Dir, last: u64, id: StoreId) -> Result<Self, StoreError> {
        let mut fence = Self {
            file: dir.create_or_open(NAME.as_ref())?,
            path: dir.path().join(NAME),
            last,
            id: None,
            next: 0,
        };
        fence.identify(id)?;
        Ok(fence)
    }

    /// Has what is written from now on say which store it belongs to.
    pub(super) fn set_id(&mut self, id: StoreId) {
        self.id = Some(id);
    }

    /// Has both slots say which store it belongs to; that is on disk before this returns.
    pub(super) fn identify(&mut self, id: StoreId) -> Result<(), StoreError> {
        if self.id == Some(id) {
            return Ok(());
        }
        let before = self.id;
        self.set_id(id);
        let written = PLACES
            .iter()
            .try_for_each(|_| self.advance(self.last))
            .and_then(|()| self.sync());
        if written.is_err() {
            self.id = before;
        }
        written
    }

    /// Reads the file of a finished store.
    pub(super) fn read(path: PathBuf) -> Result<Self, StoreError> {
        let mut file = open_existing(&path)?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)
            .map_err(|e| failed("read", &path, e))?;
        let mut found = None;
        for (slot, place) in PLACES.into_iter().enumerate() {
            let Some(read) = decode(&bytes, place as usize) else {
                continue;
            };
            if read.version > VERSION {
                return Err(StoreError::UnsupportedVersion {
                    path_or_place: path.display().to_string(),
                    found: read.version,
                    supported: VERSION,
                });
            }
            let read = (read.number, read.id, slot);
            // Of two with one number the one with an id has come later.
            let key = |(number, id, _): (u64, Option<StoreId>, usize)| (number, id.is_some());
            if found.is_none_or(|found| key(read) > key(found)) {
                found = Some(read);
            }
        }
        let Some((last, id, slot)) = found else {
            return Err(damaged(&path, "neither of its numbers can be read"));
        };
        Ok(Self {
            file,
            path,
            last,
            id,
            next: 1 - slot,
        })
    }

    /// Reads the number in a file that is not written to.
    pub(super) fn peek(path: &Path) -> Result<u64, StoreError> {
        let bytes = std::fs::read(path).map_err(|e| failed("read", path, e))?;
        let numbers = PLACES
            .into_iter()
            .filter_map(|place| decode(&bytes, place as usize));
        let last = numbers.map(|slot| slot.number).max();
        last.ok_or_else(|| damaged(path, "neither of its numbers can be read"))
    }

    pub(super) fn last(&self) -> u64 {
        self.last
    }

    pub(super) fn id(&self) -> Option<StoreId> {
        self.id
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Refuses to go on with a file that has been deleted.
    #[cfg(feature = "redb")]
    pub(super) fn check_has_a_name(&self) -> Result<(), StoreError> {
        check_has_a_name(&self.file, &self.path)
    }

    /// Notes that this commit is on disk.
    pub(super) fn advance(&mut self, number: u64) -> Result<(), StoreError> {
        let (slot, length) = slot(number, self.id);
        write_at(&mut self.file, PLACES[self.next], &slot[..length])
            .map_err(|e| failed("write", &self.path, e))?;
        self.last = number;
        self.next = 1 - self.next;
        Ok(())
    }

    /// Returns when the last number is on disk.
    pub(super) fn sync(&self) -> Result<(), StoreError> {
        fsync(&self.file).map_err(|e| unsynced(&self.path, e))
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
fn open_existing(path: &Path) -> Result<File, StoreError> {
    open_old(path).map_err(|e| match e.kind() {
        io::ErrorKind::NotFound => damaged(path, "it is missing"),
        _ => failed("open", path, e),
    })
}

/// A slot as it is written, and how much of it is: without an id it is as an earlier version writes it.
fn slot(number: u64, id: Option<StoreId>) -> ([u8; SLOT], usize) {
    let mut slot = [0; SLOT];
    let Some(id) = id else {
        slot[..HEAD].copy_from_slice(&encode(IDENTIFIED - 1, number));
        return (slot, HEAD);
    };
    slot[..HEAD].copy_from_slice(&encode(VERSION, number));
    slot[HEAD..32].copy_from_slice(&id.to_bytes());
    let crc = crc32fast::hash(&slot[..32]);
    slot[32..].copy_from_slice(&crc.to_le_bytes());
    (slot, SLOT)
}

/// The part of a slot that is the same in every version.
pub(super) fn encode(version: u8, number: u64) -> [u8; HEAD] {
    let mut slot = [0; HEAD];
    slot[..3].copy_from_slice(&MAGIC);
    slot[3] = version;
    slot[8..].copy_from_slice(&number.to_le_bytes());
    let crc = crc32fast::hash(&slot);
    slot[4..8].copy_from_slice(&crc.to_le_bytes());
    slot
}

/// A slot as it was read.
struct Slot {
    version: u8,
    number: u64,
    id: Option<StoreId>,
}

fn decode(bytes: &[u8], place: usize) -> Option<Slot> {
    let head = bytes.get(place..place + HEAD)?;
    let number = u64::from_le_bytes(head[8..].try_into().ok()?);
    let version = head[3];
    if head != encode(version, number) {
        return None;
    }
    let id = match version {
        IDENTIFIED => {
            let bytes = bytes.get(place..place + SLOT)?;
            let id = StoreId::from_bytes(bytes[HEAD..32].try_into().ok()?);
            if bytes != slot(number, Some(id)).0 {
                return None;
            }
            Some(id)
        }
        _ => None,
    };
    Some(Slot {
        version,
        number,
        id,
    })
}
