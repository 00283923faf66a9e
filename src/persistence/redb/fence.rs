//! The number of the last commit, kept beside redb: what redb has silently taken back is missed.
//!
//! Two slots are written in turn, so that one is always whole:
//!
//! ```text
//! bytes 0-2    magic
//! byte 3       format version of this file and of redb's tables
//! bytes 4-7    crc32 of all other bytes
//! bytes 8-15   number, little endian
//! ```
//!
//! It is written behind each commit and fsynced only when the store is closed: a kill takes nothing of
//! it, and a power cut at most turns it back, which costs no data.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::PathBuf;

use crate::persistence::StoreError;
use crate::persistence::files::{damaged, failed, open_private};

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
    /// Makes the file; it is on disk before this returns, its name may not be.
    pub(super) fn make(path: PathBuf) -> Result<Self, StoreError> {
        let file = open_private(&path)?;
        let mut fence = Self {
            file,
            path,
            last: 0,
            next: 0,
        };
        for _ in PLACES {
            fence.advance(0)?;
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

    pub(super) fn last(&self) -> u64 {
        self.last
    }

    /// Notes that this commit is on disk.
    pub(super) fn advance(&mut self, number: u64) -> Result<(), StoreError> {
        self.file
            .seek(SeekFrom::Start(PLACES[self.next]))
            .and_then(|_| self.file.write_all(&encode(VERSION, number)))
            .map_err(|e| failed("write", &self.path, e))?;
        self.last = number;
        self.next = 1 - self.next;
        Ok(())
    }

    /// Returns when the last number is on disk.
    pub(super) fn sync(&self) -> Result<(), StoreError> {
        self.file
            .sync_all()
            .map_err(|e| failed("fsync", &self.path, e))
    }
}

/// For a missing file there is no new one: its number is what matters.
fn open_existing(path: &PathBuf) -> Result<File, StoreError> {
    let opened = File::options().read(true).write(true).open(path);
    opened.map_err(|e| match e.kind() {
        std::io::ErrorKind::NotFound => damaged(path, "it is missing"),
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
