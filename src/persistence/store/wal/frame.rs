//! A frame: one batch in the log.
//!
//! ```text
//! bytes 0-3    magic and format version
//! bytes 4-7    crc32 of the frame's position in its file and of all bytes from 8 to the end of the body
//! bytes 8-15   generation of the segment
//! bytes 16-23  number of the frame
//! bytes 24-31  number of the last frame known to be on disk when this one was written
//! bytes 32-39  length of the body
//! bytes 40-    body: the operations in order; then zeroes up to a multiple of 8
//! ```
//!
//! An operation is the length of its key (u32, with the top bit set for a delete), for a put the
//! length of its value (u32), the key, the value. All numbers are little endian.
//!
//! A frame contains its own position, generation and number, so that the remains of an earlier use
//! of the same file are never taken for a part of the log.

use crate::persistence::store::{Batch, Op};

const MAGIC: [u8; 4] = *b"clf\x01";
const HEADER: usize = 40;
/// Frames start at multiples of this.
pub(crate) const ALIGN: usize = 8;
const DELETE: u32 = 1 << 31;

/// The identification of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stamp {
    pub(crate) generation: u64,
    pub(crate) seq: u64,
    pub(crate) synced: u64,
}

/// A complete frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Frame<'a> {
    pub(crate) stamp: Stamp,
    pub(crate) body: &'a [u8],
    /// The position of the next frame.
    pub(crate) end: usize,
}

/// Appends the frame of `batch`, which will be at `position` of its file.
pub(crate) fn append(out: &mut Vec<u8>, position: u64, stamp: Stamp, batch: &Batch) {
    let start = out.len();
    out.extend_from_slice(&MAGIC);
    out.extend_from_slice(&[0; 4]);
    for number in [stamp.generation, stamp.seq, stamp.synced, 0] {
        out.extend_from_slice(&number.to_le_bytes());
    }
    for op in batch {
        let (Op::Put(key, _) | Op::Delete(key)) = op;
        let length = u32::try_from(key.len())
            .ok()
            .filter(|length| *length < DELETE);
        let length = length.expect("a key has at most a few hundred bytes");
        match op {
            Op::Put(key, value) => {
                let size = u32::try_from(value.len()).expect("a value has at most 8 KB");
                out.extend_from_slice(&length.to_le_bytes());
                out.extend_from_slice(&size.to_le_bytes());
                out.extend_from_slice(key);
                out.extend_from_slice(value);
            }
            Op::Delete(key) => {
                out.extend_from_slice(&(length | DELETE).to_le_bytes());
                out.extend_from_slice(key);
            }
        }
    }
    let length = (out.len() - start - HEADER) as u64;
    out[start + 32..start + 40].copy_from_slice(&length.to_le_bytes());
    let crc = checksum(position, &out[start + 8..]);
    out[start + 4..start + 8].copy_from_slice(&crc.to_le_bytes());
    out.resize(start + (out.len() - start).next_multiple_of(ALIGN), 0);
}

impl<'a> Frame<'a> {
    /// Returns the frame at `position` of this file, if it is complete and of this generation.
    pub(crate) fn at(file: &'a [u8], position: usize, generation: u64) -> Option<Self> {
        let header = file.get(position..position.checked_add(HEADER)?)?;
        let word = |from: usize| Some(u64::from_le_bytes(header[from..from + 8].try_into().ok()?));
        if header[..4] != MAGIC || word(8)? != generation {
            return None;
        }
        let end = (position + HEADER).checked_add(usize::try_from(word(32)?).ok()?)?;
        let body = file.get(position + HEADER..end)?;
        let crc = u32::from_le_bytes(header[4..8].try_into().ok()?);
        if checksum(position as u64, &file[position + 8..end]) != crc {
            return None;
        }
        let stamp = Stamp {
            generation,
            seq: word(16)?,
            synced: word(24)?,
        };
        Some(Self {
            stamp,
            body,
            end: end.next_multiple_of(ALIGN),
        })
    }

    /// Returns the frame's batch; `None` if the body is not the output of [`append`].
    pub(crate) fn batch(&self) -> Option<Batch> {
        decode_batch(self.body)
    }
}

/// Decodes the body of a frame.
pub(crate) fn decode_batch(body: &[u8]) -> Option<Batch> {
    let mut batch = Batch::new();
    let mut rest = body;
    while !rest.is_empty() {
        let length = word(&mut rest)?;
        if length & DELETE == 0 {
            let size = word(&mut rest)?;
            let key = rest.split_off(..length as usize)?;
            batch.put(key, rest.split_off(..size as usize)?);
        } else {
            batch.delete(rest.split_off(..(length & !DELETE) as usize)?);
        }
    }
    Some(batch)
}

fn word(rest: &mut &[u8]) -> Option<u32> {
    let (word, after) = rest.split_first_chunk()?;
    *rest = after;
    Some(u32::from_le_bytes(*word))
}

/// Returns the generation that bytes at `position` claim, whether they are a complete frame or not.
pub(crate) fn claimed_generation(file: &[u8], position: usize) -> Option<u64> {
    let header = file.get(position..position.checked_add(HEADER)?)?;
    let generation = u64::from_le_bytes(header[8..16].try_into().ok()?);
    (header[..4] == MAGIC).then_some(generation)
}

fn checksum(position: u64, bytes: &[u8]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(&position.to_le_bytes());
    crc.update(bytes);
    crc.finalize()
}
