//! One batch in the log.
//!
//! ```text
//! bytes 0-3    magic and format version
//! bytes 4-7    crc32 of the frame's place in its file and of all bytes from 8 to the end of the body
//! bytes 8-15   generation of the segment
//! bytes 16-23  number of the frame
//! bytes 24-31  number of the last frame that was known to be on disk when this one was made
//! bytes 32-39  length of the body
//! bytes 40-    body: the ops in order; then zeroes up to a multiple of 8
//! ```
//!
//! An op is the length of its key (u32, with the top bit set for a delete), for a put the length of
//! its value (u32), the key, the value. All numbers are little endian.
//!
//! A frame says where it belongs (place, generation, number), so that what an earlier use of the same
//! file has left behind is never taken for a part of the log.

use crate::persistence::{Batch, Op};

const MAGIC: [u8; 4] = *b"clf\x01";
const HEADER: usize = 40;
/// Frames start at multiples of this.
pub(super) const ALIGN: usize = 8;
const DELETE: u32 = 1 << 31;

/// What a frame says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    pub(super) generation: u64,
    pub(super) seq: u64,
    pub(super) synced: u64,
}

/// A frame that was found whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Frame<'a> {
    pub(super) stamp: Stamp,
    body: &'a [u8],
    /// Where the next frame starts.
    pub(super) end: usize,
}

/// Appends the frame of `batch`, which will stand at `place` of its file.
pub(super) fn append(out: &mut Vec<u8>, place: u64, stamp: Stamp, batch: &Batch) {
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
    let crc = checksum(place, &out[start + 8..]);
    out[start + 4..start + 8].copy_from_slice(&crc.to_le_bytes());
    out.resize(start + (out.len() - start).next_multiple_of(ALIGN), 0);
}

impl<'a> Frame<'a> {
    /// The frame that stands at `place` of this file, if it is whole and of this generation.
    pub(super) fn at(file: &'a [u8], place: usize, generation: u64) -> Option<Self> {
        let header = file.get(place..place.checked_add(HEADER)?)?;
        let word = |from: usize| Some(u64::from_le_bytes(header[from..from + 8].try_into().ok()?));
        if header[..4] != MAGIC || word(8)? != generation {
            return None;
        }
        let end = (place + HEADER).checked_add(usize::try_from(word(32)?).ok()?)?;
        let body = file.get(place + HEADER..end)?;
        let crc = u32::from_le_bytes(header[4..8].try_into().ok()?);
        if checksum(place as u64, &file[place + 8..end]) != crc {
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

    /// The batch in it; `None` if the body is not what [`append`] writes.
    pub(super) fn batch(&self) -> Option<Batch> {
        let mut batch = Batch::new();
        let mut rest = self.body;
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
}

/// Reads any bytes as frames, and as the body of one. See [`crate::fuzzing`].
#[cfg(feature = "__fuzzing")]
pub(crate) fn fuzz(bytes: &[u8]) {
    let again = |frame: &Frame<'_>, batch: &Batch| {
        let mut file = Vec::new();
        append(&mut file, 0, frame.stamp, batch);
        let again = Frame::at(&file, 0, frame.stamp.generation).expect("it was written whole");
        assert_eq!(again.body, frame.body);
    };
    for place in (0..bytes.len()).step_by(ALIGN) {
        let generation = claimed_generation(bytes, place);
        let frame = generation.and_then(|generation| Frame::at(bytes, place, generation));
        if let Some(frame) = frame
            && let Some(batch) = frame.batch()
        {
            again(&frame, &batch);
        }
    }
    let frame = Frame {
        stamp: Stamp {
            generation: 1,
            seq: 1,
            synced: 0,
        },
        body: bytes,
        end: bytes.len(),
    };
    if let Some(batch) = frame.batch() {
        again(&frame, &batch);
    }
}

fn word(rest: &mut &[u8]) -> Option<u32> {
    let (word, after) = rest.split_first_chunk()?;
    *rest = after;
    Some(u32::from_le_bytes(*word))
}

/// The generation that bytes at `place` claim to be a frame of, whole or not.
pub(super) fn claimed_generation(file: &[u8], place: usize) -> Option<u64> {
    let header = file.get(place..place.checked_add(HEADER)?)?;
    let generation = u64::from_le_bytes(header[8..16].try_into().ok()?);
    (header[..4] == MAGIC).then_some(generation)
}

fn checksum(place: u64, bytes: &[u8]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(&place.to_le_bytes());
    crc.update(bytes);
    crc.finalize()
}
