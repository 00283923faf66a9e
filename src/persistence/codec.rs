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
use crate::canvas::machine::{Change, Index, Record};
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
    Waiting = 7,
    Counter = 8,
    Idempotency = 9,
    LastSwept = 10,
    /// The key says it all.
    Mark = 11,
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
/// progress is counted without decoding them; and each record with its length, so that it can be
/// passed over.
pub(crate) fn segments(records: &[Record]) -> Vec<Vec<u8>> {
    let mut segments = Vec::new();
    let mut current = Packing::default();
    for record in records {
        let encoded = body(&Bytes(&body(record)));
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
        if let Record::Child {
            change: Change::Done(outcome),
            ..
        } = record
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
    let each = encoded_records(key, segment)?;
    each.map(|record| decode_body(Kind::Segment, key, record?))
        .collect()
}

/// What a supervisor that goes on has to know of a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Glance {
    /// Child `index` has ended well; its value has not been looked at.
    Done(Index),
    Record(Record),
}

/// The records of a segment, without the values of the children that ended well: they are most of
/// it, and most of the time that it takes to read.
pub(crate) fn glances(key: &[u8], segment: &[u8]) -> Result<Vec<Glance>, StoreError> {
    let each = encoded_records(key, segment)?;
    each.map(|record| {
        let record = record?;
        match done_well(record) {
            Some(index) => Ok(Glance::Done(index)),
            None => decode_body(Kind::Segment, key, record).map(Glance::Record),
        }
    })
    .collect()
}

/// The index, if the record says that a child ended well. A test holds the numbers of the variants.
fn done_well(record: &[u8]) -> Option<Index> {
    const CHILD: u32 = 0;
    const DONE: u32 = 2;
    const SUCCESS: u32 = 0;
    let (CHILD, rest) = prefix(record)? else {
        return None;
    };
    let (index, rest): (Index, _) = prefix(rest)?;
    let (DONE, rest) = prefix(rest)? else {
        return None;
    };
    let (SUCCESS, _) = prefix::<u32>(rest)? else {
        return None;
    };
    Some(index)
}

/// The records of a segment, one after the other, as they are stored.
fn encoded_records<'a>(
    key: &'a [u8],
    segment: &'a [u8],
) -> Result<impl Iterator<Item = Result<&'a [u8], StoreError>>, StoreError> {
    let short = |_: ()| corrupt(Kind::Segment, key, "it is cut short");
    let body = unframe(Kind::Segment, key, segment)?;
    let ((_, _, len), mut rest) = prefix::<(u32, u32, u64)>(body).ok_or(()).map_err(short)?;
    let mut left = len;
    Ok(std::iter::from_fn(move || {
        if left == 0 {
            let more = !std::mem::take(&mut rest).is_empty();
            return more.then(|| Err(corrupt(Kind::Segment, key, "it has bytes to spare")));
        }
        left -= 1;
        let record = prefix::<u64>(rest).and_then(|(len, behind)| {
            let len = usize::try_from(len).ok()?;
            behind.split_at_checked(len)
        });
        let Some((record, behind)) = record else {
            (left, rest) = (0, &[]);
            return Some(Err(short(())));
        };
        rest = behind;
        Some(Ok(record))
    }))
}

/// A value at the front of these bytes, and what is behind it.
fn prefix<T: DeserializeOwned>(bytes: &[u8]) -> Option<(T, &[u8])> {
    let decoded = bincode::serde::decode_from_slice(bytes, bincode::config::standard());
    decoded.ok().map(|(value, read)| (value, &bytes[read..]))
}

/// Bytes as bytes, not as a list of numbers.
struct Bytes<'a>(&'a [u8]);

impl Serialize for Bytes<'_> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(self.0)
    }
}

/// How many children ended in a segment: well, and not.
pub(crate) fn segment_counts(key: &[u8], segment: &[u8]) -> Result<(u32, u32), StoreError> {
    let body = unframe(Kind::Segment, key, segment)?;
    let counts = prefix(body).map(|(counts, _)| counts);
    counts.ok_or_else(|| corrupt(Kind::Segment, key, "it is cut short"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use uuid::Uuid;

    use super::*;
    use crate::canvas::id::Id;
    use crate::canvas::machine::{Past, Verdict};
    use crate::canvas::outcome::{FailureKind, TaskFailure, Value};
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
    fn a_glance_passes_over_the_values_of_what_ended_well_and_over_nothing_else() {
        let failure = TaskFailure::new(FailureKind::Engine, Id::from(Uuid::nil()), "t", 1, "m");
        let child = |index, change| Record::Child { index, change };
        let ended = |outcome| child(300, Change::Done(outcome));
        let other = [
            child(0, Change::Started(Past::default())),
            child(
                u64::MAX,
                Change::Waiting {
                    past: Past::default(),
                    at_ms: 7,
                },
            ),
            ended(Outcome::Failure(failure.clone())),
            ended(Outcome::Revoked(failure.clone())),
            Record::Verdict(Verdict::Released),
            Record::Expanded { first: 2, size: 0 },
            Record::Due {
                seq: 2,
                input: Value::Stored { seq: 2, len: 0 },
            },
            Record::Reached { at_ms: 2 },
            Record::Forgotten,
        ];
        let stored = ended(Outcome::Success(Value::Stored { seq: 3, len: 9 }));
        let well = [done(7, 90), stored];
        let all: Vec<_> = well.iter().chain(&other).cloned().collect();
        let [segment] = &segments(&all)[..] else {
            panic!("they fit into one")
        };
        let expected = [7, 300].map(Glance::Done);
        let expected = expected.into_iter().chain(other.map(Glance::Record));
        assert!(glances(b"k", segment).unwrap().into_iter().eq(expected));
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
            let _ = glances(b"k", &frame(Kind::Segment, &bytes));
            let _ = decode::<crate::canvas::freeze::Node>(Kind::Head, b"k", &frame(Kind::Head, &bytes));
        }
    }
}
