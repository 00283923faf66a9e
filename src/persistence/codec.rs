//! Framed records: what stands in the store says what it is and whether it is whole.
//!
//! ```text
//! byte 0      magic 0xC4
//! byte 1      format version
//! byte 2      kind
//! bytes 3-6   crc32 of the kind and the body, little endian
//! bytes 7-    body: bincode 2, standard configuration
//! ```

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::StoreError;
use crate::canvas::machine::{BODY, Change, Record};
use crate::canvas::outcome::Outcome;

const MAGIC: u8 = 0xC4;
/// The format that this version writes, and the newest it reads.
pub(crate) const VERSION: u8 = 1;
const HEADER: usize = 7;

/// The largest record we write. Sled puts what is larger, whole tree nodes of such records
/// included, into files that it never fsyncs (RELIABILITY.md H5).
pub(crate) const MAX_RECORD: usize = 7_500;
const MAX_BODY: usize = MAX_RECORD - HEADER;

/// What a record is; part of its frame, so that a record under the wrong key is found out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Kind {
    Meta = 1,
    Head = 2,
    Members = 3,
    Segment = 4,
    Piece = 5,
    Result = 6,
    Open = 7,
    Counter = 8,
    Idempotency = 9,
    LastSwept = 10,
}

/// Frames `value`.
pub(crate) fn encode<T: Serialize>(kind: Kind, value: &T) -> Vec<u8> {
    frame(kind, &body(value))
}

/// Frames a body that is encoded already.
pub(crate) fn frame(kind: Kind, body: &[u8]) -> Vec<u8> {
    let mut record = Vec::with_capacity(HEADER + body.len());
    record.extend_from_slice(&[MAGIC, VERSION, kind as u8]);
    record.extend_from_slice(&checksum(kind, body).to_le_bytes());
    record.extend_from_slice(body);
    record
}

/// Opens the frame of the record under `key` and decodes its body.
pub(crate) fn decode<T: DeserializeOwned>(
    kind: Kind,
    key: &[u8],
    record: &[u8],
) -> Result<T, StoreError> {
    let body = unframe(kind, key, record)?;
    decode_body(kind, key, body)
}

/// Opens the frame of the record under `key`.
pub(crate) fn unframe<'a>(
    kind: Kind,
    key: &[u8],
    record: &'a [u8],
) -> Result<&'a [u8], StoreError> {
    let [MAGIC, version, found, a, b, c, d, body @ ..] = record else {
        return Err(corrupt(kind, key, "it is not one of our records"));
    };
    if *version > VERSION {
        return Err(StoreError::Newer {
            found: *version,
            supported: VERSION,
        });
    }
    if *found != kind as u8 || checksum(kind, body).to_le_bytes() != [*a, *b, *c, *d] {
        return Err(corrupt(kind, key, "its checksum is wrong"));
    }
    Ok(body)
}

/// Decodes a whole body.
pub(crate) fn decode_body<T: DeserializeOwned>(
    kind: Kind,
    key: &[u8],
    body: &[u8],
) -> Result<T, StoreError> {
    match bincode::serde::decode_from_slice(body, bincode::config::standard()) {
        Ok((value, read)) if read == body.len() => Ok(value),
        Ok(_) => Err(corrupt(kind, key, "it has bytes to spare")),
        Err(error) => Err(corrupt(kind, key, &error.to_string())),
    }
}

/// The body of a record: `value` alone.
pub(crate) fn body<T: Serialize>(value: &T) -> Vec<u8> {
    bincode::serde::encode_to_vec(value, bincode::config::standard())
        .expect("our own records can be encoded")
}

/// Cuts bytes into the pieces of a value too large for one record.
pub(crate) fn pieces(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    bytes.chunks(MAX_BODY)
}

fn checksum(kind: Kind, body: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&[kind as u8]);
    hasher.update(body);
    hasher.finalize()
}

fn corrupt(kind: Kind, key: &[u8], what: &str) -> StoreError {
    use std::fmt::Write;
    let mut place = format!("{kind:?} record ");
    for byte in key.iter().take(32) {
        let _ = write!(place, "{byte:02x}");
    }
    StoreError::Corrupt {
        path_or_place: place,
        what: what.to_owned(),
    }
}

/// Packs a stream's records of one commit into as few segments as fit [`MAX_RECORD`].
///
/// A segment starts with how many of its children ended well and how many did not, so that
/// progress is counted without decoding them.
pub(crate) fn segments(records: &[Record]) -> Vec<Vec<u8>> {
    let mut segments = Vec::new();
    let mut current = Packing::default();
    for record in records {
        let encoded = body(record);
        if current.len > 0 && current.bytes.len() + encoded.len() > MAX_BODY - Packing::HEAD {
            segments.push(std::mem::take(&mut current).finish());
        }
        current.push(record, &encoded);
    }
    if current.len > 0 {
        segments.push(current.finish());
    }
    segments
}

#[derive(Default)]
struct Packing {
    succeeded: u32,
    failed: u32,
    len: u32,
    bytes: Vec<u8>,
}

impl Packing {
    /// Room for the three counts.
    const HEAD: usize = 15;

    fn push(&mut self, record: &Record, encoded: &[u8]) {
        // (The end of a fold's function is no member's.)
        if let Record::Child {
            index,
            change: Change::Done(outcome),
        } = record
            && *index != BODY
        {
            match outcome {
                Outcome::Success(_) => self.succeeded += 1,
                Outcome::Failure(_) | Outcome::Revoked(_) => self.failed += 1,
            }
        }
        self.len += 1;
        self.bytes.extend_from_slice(encoded);
    }

    fn finish(self) -> Vec<u8> {
        let mut whole = body(&(self.succeeded, self.failed, u64::from(self.len)));
        whole.extend_from_slice(&self.bytes);
        frame(Kind::Segment, &whole)
    }
}

/// The records of a segment.
pub(crate) fn segment_records(key: &[u8], segment: &[u8]) -> Result<Vec<Record>, StoreError> {
    decode::<(u32, u32, Vec<Record>)>(Kind::Segment, key, segment).map(|(_, _, records)| records)
}

/// How many children ended in a segment: well, and not.
pub(crate) fn segment_counts(key: &[u8], segment: &[u8]) -> Result<(u32, u32), StoreError> {
    let body = unframe(Kind::Segment, key, segment)?;
    bincode::serde::decode_from_slice(body, bincode::config::standard())
        .map(|(counts, _)| counts)
        .map_err(|error| corrupt(Kind::Segment, key, &error.to_string()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::canvas::outcome::Value;
    use crate::canvas::payload::Payload;

    fn done(index: u64, bytes: usize) -> Record {
        Record::Child {
            index,
            change: Change::Done(Outcome::Success(Value::Inline(Payload::from(vec![
                7;
                bytes
            ])))),
        }
    }

    #[test]
    fn segments_keep_every_record_in_order_and_stay_small() {
        let records: Vec<_> = (0..2_000)
            .map(|i| done(i, (i % 90) as usize * 40))
            .collect();
        let segments = segments(&records);
        assert!(segments.iter().all(|segment| segment.len() <= MAX_RECORD));
        let again: Vec<_> = segments
            .iter()
            .flat_map(|segment| segment_records(b"k", segment).unwrap())
            .collect();
        assert_eq!(again, records);
        let counted: u32 = segments
            .iter()
            .map(|segment| segment_counts(b"k", segment).unwrap().0)
            .sum();
        assert_eq!(counted, 2_000);
    }

    #[test]
    fn a_newer_format_is_refused_by_its_number() {
        let mut record = encode(Kind::Counter, &7u64);
        record[1] = VERSION + 1;
        let error = decode::<u64>(Kind::Counter, b"k", &record).unwrap_err();
        assert!(matches!(error, StoreError::Newer { found, .. } if found == VERSION + 1));
    }

    #[test]
    fn every_flipped_bit_is_found() {
        let record = encode(Kind::Counter, &123_456_789u64);
        for byte in 0..record.len() {
            for bit in 0..8 {
                let mut damaged = record.clone();
                damaged[byte] ^= 1 << bit;
                assert!(
                    byte == 1 || decode::<u64>(Kind::Counter, b"k", &damaged).is_err(),
                    "byte {byte}, bit {bit}"
                );
            }
        }
    }

    proptest! {
        #[test]
        fn decoding_any_bytes_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = segment_records(b"k", &bytes);
            let _ = segment_records(b"k", &frame(Kind::Segment, &bytes));
            let _ = decode::<crate::canvas::freeze::Node>(Kind::Head, b"k", &frame(Kind::Head, &bytes));
        }
    }
}
