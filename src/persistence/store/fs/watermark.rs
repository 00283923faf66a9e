//! The watermark: the number of the last commit, kept beside an engine's own files. It reveals
//! commits that the engine has silently dropped, or that were removed from its files.
//!
//! Two slots are written alternately, so that one is always complete:
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
//! (A version that does not know ids reads the first 16 bytes, and rejects the slot by its
//! version.)
//!
//! It is written after each fsynced commit, and itself fsynced only when the store is closed: a
//! kill loses nothing of it, and a power cut at most sets it back, which costs no data. It never
//! exceeds the commits on disk.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use super::dir::Dir;
#[cfg(feature = "redb")]
use super::dir::check_has_a_name;
use super::files::{damaged, failed, fsync, open_old, unsynced};
use super::identity::StoreId;
use crate::persistence::store::StoreError;

const MAGIC: [u8; 3] = *b"cfn";
pub(crate) const VERSION: u8 = 2;
/// From this version on a slot contains an id.
const WITH_ID: u8 = 2;
/// The name of the file.
pub(crate) const NAME: &str = "fence";
const COMMON_LEN: usize = 16;
const SLOT: usize = 36;
/// The slots are in separate sectors.
const OFFSETS: [u64; 2] = [0, 4096];

#[derive(Debug)]
pub(crate) struct Watermark {
    file: File,
    path: PathBuf,
    last: u64,
    /// The id of the store; `None` as long as an earlier version has written the file.
    id: Option<StoreId>,
    /// The slot that does not hold the last number.
    next: usize,
}

impl Watermark {
    /// Creates the file, or overwrites it; it is on disk before this returns, its name may not be.
    pub(crate) fn create(dir: &Dir, last: u64, id: StoreId) -> Result<Self, StoreError> {
        let mut watermark = Self {
            file: dir.create_or_open(NAME.as_ref())?,
            path: dir.path().join(NAME),
            last,
            id: None,
            next: 0,
        };
        watermark.identify(id)?;
        Ok(watermark)
    }

    /// Makes later writes carry this store id.
    pub(crate) fn set_id(&mut self, id: StoreId) {
        self.id = Some(id);
    }

    /// Makes both slots carry this store id, on disk before this returns.
    pub(crate) fn identify(&mut self, id: StoreId) -> Result<(), StoreError> {
        if self.id == Some(id) {
            return Ok(());
        }
        let before = self.id;
        self.set_id(id);
        let written = OFFSETS
            .iter()
            .try_for_each(|_| self.advance(self.last))
            .and_then(|()| self.sync());
        if written.is_err() {
            self.id = before;
        }
        written
    }

    /// Reads the file of a finished store.
    pub(crate) fn read(path: PathBuf) -> Result<Self, StoreError> {
        let mut file = open_existing(&path)?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)
            .map_err(|e| failed("read", &path, e))?;
        let mut found = None;
        for (slot, offset) in OFFSETS.into_iter().enumerate() {
            let Some(read) = decode(&bytes, offset as usize) else {
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
            // Of two slots with the same number the one with an id is the later one.
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

    /// Reads the number in a file without opening it for writing.
    pub(crate) fn peek(path: &Path) -> Result<u64, StoreError> {
        let bytes = std::fs::read(path).map_err(|e| failed("read", path, e))?;
        let numbers = OFFSETS
            .into_iter()
            .filter_map(|offset| decode(&bytes, offset as usize));
        let last = numbers.map(|slot| slot.number).max();
        last.ok_or_else(|| damaged(path, "neither of its numbers can be read"))
    }

    pub(crate) fn last(&self) -> u64 {
        self.last
    }

    pub(crate) fn id(&self) -> Option<StoreId> {
        self.id
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Fails if the file has been deleted.
    #[cfg(feature = "redb")]
    pub(crate) fn check_has_a_name(&self) -> Result<(), StoreError> {
        check_has_a_name(&self.file, &self.path)
    }

    /// Records that this commit is on disk.
    pub(crate) fn advance(&mut self, number: u64) -> Result<(), StoreError> {
        let (slot, length) = slot(number, self.id);
        write_at(&mut self.file, OFFSETS[self.next], &slot[..length])
            .map_err(|e| failed("write", &self.path, e))?;
        self.last = number;
        self.next = 1 - self.next;
        Ok(())
    }

    /// Makes the last number durable.
    pub(crate) fn sync(&self) -> Result<(), StoreError> {
        fsync(&self.file).map_err(|e| unsynced(&self.path, e))
    }

    /// Redirects all writes to another file, for tests of error handling; returns the file before.
    #[cfg(test)]
    pub(crate) fn redirect(&mut self, file: File) -> File {
        std::mem::replace(&mut self.file, file)
    }
}

/// Writes with one system call, because it runs at each commit.
#[cfg(unix)]
fn write_at(file: &mut File, offset: u64, bytes: &[u8]) -> io::Result<()> {
    std::os::unix::fs::FileExt::write_all_at(file, bytes, offset)
}

#[cfg(not(unix))]
fn write_at(file: &mut File, offset: u64, bytes: &[u8]) -> io::Result<()> {
    io::Seek::seek(file, io::SeekFrom::Start(offset))?;
    io::Write::write_all(file, bytes)
}

/// Opens the file. A missing file is an error, not a new one: its number matters.
fn open_existing(path: &Path) -> Result<File, StoreError> {
    open_old(path).map_err(|e| match e.kind() {
        io::ErrorKind::NotFound => damaged(path, "it is missing"),
        _ => failed("open", path, e),
    })
}

/// Encodes a slot; returns it and its length: without an id it is as an earlier version writes it.
fn slot(number: u64, id: Option<StoreId>) -> ([u8; SLOT], usize) {
    let mut slot = [0; SLOT];
    let Some(id) = id else {
        slot[..COMMON_LEN].copy_from_slice(&encode(WITH_ID - 1, number));
        return (slot, COMMON_LEN);
    };
    slot[..COMMON_LEN].copy_from_slice(&encode(VERSION, number));
    slot[COMMON_LEN..32].copy_from_slice(&id.to_bytes());
    let crc = crc32fast::hash(&slot[..32]);
    slot[32..].copy_from_slice(&crc.to_le_bytes());
    (slot, SLOT)
}

/// Encodes the part of a slot that is the same in every version.
pub(crate) fn encode(version: u8, number: u64) -> [u8; COMMON_LEN] {
    let mut slot = [0; COMMON_LEN];
    slot[..3].copy_from_slice(&MAGIC);
    slot[3] = version;
    slot[8..].copy_from_slice(&number.to_le_bytes());
    let crc = crc32fast::hash(&slot);
    slot[4..8].copy_from_slice(&crc.to_le_bytes());
    slot
}

/// A decoded slot.
struct Slot {
    version: u8,
    number: u64,
    id: Option<StoreId>,
}

fn decode(bytes: &[u8], offset: usize) -> Option<Slot> {
    let header = bytes.get(offset..offset + COMMON_LEN)?;
    let number = u64::from_le_bytes(header[8..].try_into().ok()?);
    let version = header[3];
    if header != encode(version, number) {
        return None;
    }
    let id = match version {
        WITH_ID => {
            let bytes = bytes.get(offset..offset + SLOT)?;
            let id = StoreId::from_bytes(bytes[COMMON_LEN..32].try_into().ok()?);
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
