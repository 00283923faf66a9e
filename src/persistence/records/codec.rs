//! Framed records: a record's frame tells its kind and whether it is complete.
//!
//! ```text
//! byte 0      magic 0xC4
//! byte 1      format version
//! byte 2      kind
//! bytes 3-6   crc32 of the kind and the body, little endian
//! bytes 7-    body: bincode 2, standard configuration
//! ```

use std::ops::{Range, RangeInclusive};

use bincode::Encode;
use bincode::config::{Configuration, Limit, LittleEndian, Varint};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::canvas::machine::{AttemptHistory, BODY, ChildProgress, Index, Record};
use crate::canvas::outcome::Outcome;
use crate::persistence::StoreError;
use crate::persistence::store::finding;

const MAGIC: u8 = 0xC4;
/// The format version that this build writes, and the newest that it reads.
pub(crate) const VERSION: u8 = 1;
const HEADER: usize = 7;

/// The largest record that is written. Sled moves larger records, and whole tree nodes that hold
/// them, into files that it never fsyncs (RELIABILITY.md H5).
pub(crate) const MAX_RECORD: usize = 7_500;
const MAX_BODY: usize = MAX_RECORD - HEADER;
/// The most starts that one line may hold: a damaged line must not make its reader fill the memory.
const MAX_STARTED: u64 = 1 << 20;

/// The kind of a record; part of its frame, so that a record under the wrong key is detected.
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
    /// A record without a body: its key is the information.
    Mark = 11,
    Life = 12,
    Suspect = 13,
    Pending = 14,
    Clock = 15,
    /// In the place of [`Meta`](Self::Meta), in a store that uses additions to the format.
    Features = 16,
    Starts = 17,
    Control = 18,
    Update = 19,
    Schedule = 20,
    Circuit = 21,
}

/// The numbers of kinds that later versions may add. A build that does not know one refuses it by
/// its number.
const LATER_KINDS: RangeInclusive<u8> = 22..=63;

/// Encodes and frames `value`.
pub(crate) fn encode<T: Serialize>(kind: Kind, value: &T) -> Vec<u8> {
    let mut record = new_record(SMALL_BODY);
    write(&mut record, value);
    seal(kind, record)
}

/// Frames an encoded body.
pub(crate) fn frame(kind: Kind, body: &[u8]) -> Vec<u8> {
    let mut record = new_record(body.len());
    record.extend_from_slice(body);
    seal(kind, record)
}

/// Most bodies are no longer than this: their records take one allocation.
const SMALL_BODY: usize = 96;

/// Returns a record with space for its frame and for a body of about `body` bytes.
fn new_record(body: usize) -> Vec<u8> {
    let mut record = Vec::with_capacity(HEADER + body);
    record.extend_from_slice(&[0; HEADER]);
    record
}

/// Fills in the frame of a record whose body has been written.
fn seal(kind: Kind, mut record: Vec<u8>) -> Vec<u8> {
    let (header, body) = record.split_at_mut(HEADER);
    let checksum = checksum(kind as u8, body);
    header[..3].copy_from_slice(&[MAGIC, VERSION, kind as u8]);
    header[3..].copy_from_slice(&checksum.to_le_bytes());
    record
}

/// Appends the encoded body of `value`.
pub(crate) fn write<T: Serialize>(bytes: &mut Vec<u8>, value: &T) {
    bincode::serde::encode_into_std_write(value, bytes, bincode::config::standard())
        .expect("a Vec accepts all of our own records");
}

/// Checks the frame of the record under `key` and decodes its body.
pub(crate) fn decode<T: DeserializeOwned>(
    kind: Kind,
    key: &[u8],
    record: &[u8],
) -> Result<T, StoreError> {
    let body = unframe(kind, key, record)?;
    decode_body(kind, key, body)
}

/// Returns whether the record says that it is of this kind.
pub(crate) fn is_of(kind: Kind, record: &[u8]) -> bool {
    record.get(2) == Some(&(kind as u8))
}

/// Checks the frame of the record under `key` and returns its body.
pub(crate) fn unframe<'a>(
    kind: Kind,
    key: &[u8],
    record: &'a [u8],
) -> Result<&'a [u8], StoreError> {
    let [MAGIC, version, found, a, b, c, d, body @ ..] = record else {
        return Err(corrupt(kind, key, "it is not one of our records"));
    };
    if *version > VERSION {
        return Err(StoreError::UnsupportedVersion {
            path_or_place: place(kind, key),
            found: *version,
            supported: VERSION,
        });
    }
    let is_sound = checksum(*found, body).to_le_bytes() == [*a, *b, *c, *d];
    match is_sound {
        true if *found == kind as u8 => Ok(body),
        true if LATER_KINDS.contains(found) => Err(StoreError::UnsupportedFeature {
            path_or_place: place(kind, key),
            feature: format!("records of kind {found}"),
        }),
        _ => Err(corrupt(kind, key, "its checksum is wrong")),
    }
}

/// Decodes a complete body.
pub(crate) fn decode_body<'a, T: Deserialize<'a>>(
    kind: Kind,
    key: &[u8],
    body: &'a [u8],
) -> Result<T, StoreError> {
    let decoded = if body.len() <= MAX_RECORD {
        bincode::serde::borrow_decode_from_slice(body, SMALL)
    } else if body.len() <= JOINED {
        bincode::serde::borrow_decode_from_slice(body, MEDIUM)
    } else {
        bincode::serde::borrow_decode_from_slice(body, LARGE)
    };
    match decoded {
        Ok((value, read)) if read == body.len() => Ok(value),
        Ok(_) => Err(corrupt(kind, key, "it has bytes to spare")),
        Err(error) => Err(corrupt(kind, key, &error.to_string())),
    }
}

/// How single records are decoded. The limit guards against false lengths in them: the decoder
/// allocates that much before it checks that the bytes are there.
const SMALL: Configuration<LittleEndian, Varint, Limit<{ 1 << 20 }>> =
    bincode::config::standard().with_limit::<{ 1 << 20 }>();
/// Bodies joined from parts are decoded with a larger limit, up to this many bytes and beyond.
const JOINED: usize = 1 << 21;
const MEDIUM: Configuration<LittleEndian, Varint, Limit<{ 1 << 28 }>> =
    bincode::config::standard().with_limit::<{ 1 << 28 }>();
const LARGE: Configuration<LittleEndian, Varint, Limit<{ 1 << 32 }>> =
    bincode::config::standard().with_limit::<{ 1 << 32 }>();

/// Encodes `value` as the body of a record.
pub(crate) fn body<T: Serialize>(value: &T) -> Vec<u8> {
    bincode::serde::encode_to_vec(value, bincode::config::standard())
        .expect("our own records can be encoded")
}

/// Returns the length of the body of `value` without encoding it.
pub(crate) fn length<T: Serialize>(value: &T) -> usize {
    let mut encoder = bincode::enc::EncoderImpl::new(
        bincode::enc::write::SizeWriter::default(),
        bincode::config::standard(),
    );
    bincode::serde::Compat(value)
        .encode(&mut encoder)
        .expect("our own records can be encoded");
    encoder.into_writer().bytes_written
}

/// Splits bytes into the pieces of a value too large for one record.
pub(crate) fn pieces(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    bytes.chunks(MAX_BODY)
}

fn checksum(kind: u8, body: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&[kind]);
    hasher.update(body);
    hasher.finalize()
}

pub(crate) fn corrupt(kind: Kind, key: &[u8], what: &str) -> StoreError {
    StoreError::Corrupt {
        path_or_place: place(kind, key),
        what: what.to_owned(),
    }
}

fn place(kind: Kind, key: &[u8]) -> String {
    format!("{kind:?} record {}", finding::shown(key))
}

/// Packs a stream's records of one commit into as few segments as fit [`MAX_RECORD`], in order.
///
/// A segment starts with the number of children that succeeded in it and the number that did not,
/// so that progress is counted without decoding the records.
#[derive(Debug, Default)]
pub(crate) struct Packing {
    full: Vec<Vec<u8>>,
    succeeded: u32,
    failed: u32,
    len: u32,
    bytes: Vec<u8>,
    /// Consecutive children that started for the first time: one line for all.
    started: Range<Index>,
}

/// A line of a segment: a record, or the first starts of consecutive children.
#[derive(Serialize, Deserialize)]
enum Line<R> {
    Record(R),
    Started(Range<Index>),
}

impl Packing {
    /// Space for the three counts.
    const HEAD: usize = 15;

    pub(crate) fn push(&mut self, record: &Record) {
        let Record::Child { index, change } = record else {
            return self.append(&Line::Record(record));
        };
        match change {
            // (The body of a chord has the largest index.)
            ChildProgress::Started(past) if past.is_first() && *index != BODY => {
                return self.push_start(*index);
            }
            _ if self.started.contains(index) => self.push_started(),
            _ => {}
        }
        self.append(&Line::Record(record));
        match change {
            // The end of a fold's function is not the end of a member.
            ChildProgress::Done(_) if *index == BODY => {}
            ChildProgress::Done(Outcome::Success(_)) => self.succeeded += 1,
            ChildProgress::Done(Outcome::Failure(_) | Outcome::Revoked(_)) => self.failed += 1,
            ChildProgress::Started(_)
            | ChildProgress::Waiting { .. }
            | ChildProgress::WaitingUntil { .. } => {}
        }
    }

    fn push_start(&mut self, index: Index) {
        let len = self.started.end - self.started.start;
        if len == 0 || len == MAX_STARTED || self.started.end != index {
            self.push_started();
            self.started.start = index;
        }
        self.started.end = index + 1;
    }

    fn push_started(&mut self) {
        let started = std::mem::take(&mut self.started);
        if !started.is_empty() {
            self.append(&Line::<&Record>::Started(started));
        }
    }

    fn append(&mut self, line: &Line<&Record>) {
        if self.bytes.capacity() == 0 {
            self.bytes.reserve(SMALL_BODY);
        }
        let before = self.bytes.len();
        write(&mut self.bytes, line);
        if self.len > 0 && self.bytes.len() > MAX_BODY - Self::HEAD {
            let last = self.bytes.split_off(before);
            self.finish_segment();
            // (`split_off` leaves the capacity with `bytes`, for the next segment.)
            self.bytes.extend_from_slice(&last);
        }
        self.len += 1;
    }

    /// Completes a segment.
    fn finish_segment(&mut self) {
        let counts = (self.succeeded, self.failed, u64::from(self.len));
        let mut segment = new_record(Self::HEAD + self.bytes.len());
        write(&mut segment, &counts);
        segment.append(&mut self.bytes);
        self.full.push(seal(Kind::Segment, segment));
        (self.succeeded, self.failed, self.len) = (0, 0, 0);
    }

    /// Returns the segments, in order.
    pub(crate) fn finish(mut self) -> Vec<Vec<u8>> {
        self.push_started();
        if self.len > 0 {
            self.finish_segment();
        }
        self.full
    }
}

/// Returns the records of a segment.
pub(crate) fn segment_records(key: &[u8], segment: &[u8]) -> Result<Vec<Record>, StoreError> {
    type Body = (u32, u32, Vec<Line<Record>>);
    let (_, _, lines) = decode::<Body>(Kind::Segment, key, segment)?;
    let mut records = Vec::with_capacity(lines.len());
    for line in lines {
        match line {
            Line::Record(record) => records.push(record),
            Line::Started(range) => {
                records.extend(bounded(key, range)?.map(|index| Record::Child {
                    index,
                    change: ChildProgress::Started(AttemptHistory::first()),
                }));
            }
        }
    }
    Ok(records)
}

/// The part of one or several records that a resuming supervisor needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum RecordSummary {
    /// Child `index` succeeded; its value was not decoded.
    Done(Index),
    /// These children started for the first time.
    Started(Range<Index>),
    Record(Record),
}

/// Returns the records of a segment without the values of the children that succeeded: those are
/// most of its bytes, and most of the time that reading takes.
pub(crate) fn summaries(key: &[u8], segment: &[u8]) -> Result<Vec<RecordSummary>, StoreError> {
    let summaries = lines(key, segment)?.map(|line| {
        Ok(match line? {
            LineContent::Value(index, _)
            | LineContent::Record(Record::Child {
                index,
                change: ChildProgress::Done(Outcome::Success(_)),
            }) => RecordSummary::Done(index),
            LineContent::Started(range) => RecordSummary::Started(range),
            LineContent::Record(record) => RecordSummary::Record(record),
        })
    });
    summaries.collect()
}

/// The content of one line of a segment.
#[derive(Debug)]
pub(crate) enum LineContent<'a> {
    /// Child `index` succeeded with this value.
    Value(Index, &'a [u8]),
    /// These children started for the first time.
    Started(Range<Index>),
    Record(Record),
}

/// The lines of a segment, decoded one by one. After an error the iterator ends.
#[derive(Debug)]
pub(crate) struct Lines<'a> {
    key: &'a [u8],
    rest: &'a [u8],
    /// The number of lines left.
    left: u64,
}

pub(crate) fn lines<'a>(key: &'a [u8], segment: &'a [u8]) -> Result<Lines<'a>, StoreError> {
    let body = unframe(Kind::Segment, key, segment)?;
    let cut_short = || corrupt(Kind::Segment, key, "it is cut short");
    let ((_, _, left), rest) = prefix::<(u32, u32, u64)>(body).ok_or_else(cut_short)?;
    Ok(Lines { key, rest, left })
}

impl<'a> Lines<'a> {
    fn read(&mut self) -> Result<LineContent<'a>, StoreError> {
        if self.left == 0 {
            return Err(corrupt(Kind::Segment, self.key, "it has bytes to spare"));
        }
        self.left -= 1;
        if let Some((index, value, after)) = inline_value(self.rest) {
            self.rest = after;
            return Ok(LineContent::Value(index, value));
        }
        let cut_short = || corrupt(Kind::Segment, self.key, "it is cut short");
        let (line, after) = prefix(self.rest).ok_or_else(cut_short)?;
        self.rest = after;
        Ok(match line {
            Line::Record(record) => LineContent::Record(record),
            Line::Started(range) => LineContent::Started(bounded(self.key, range)?),
        })
    }
}

impl<'a> Iterator for Lines<'a> {
    type Item = Result<LineContent<'a>, StoreError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.left == 0 && self.rest.is_empty() {
            return None;
        }
        let line = self.read();
        if line.is_err() {
            (self.left, self.rest) = (0, &[]);
        }
        Some(line)
    }
}

fn bounded(key: &[u8], started: Range<Index>) -> Result<Range<Index>, StoreError> {
    if started.end.saturating_sub(started.start) > MAX_STARTED {
        return Err(corrupt(Kind::Segment, key, "too many starts in a line"));
    }
    Ok(started)
}

/// Reads a line that records that a child succeeded with an inline value, without decoding the rest
/// of the record: most lines do. Returns the child's index, the value and the bytes behind the
/// line, or `None` for any other line. A test pins the numbers of the variants.
fn inline_value(line: &[u8]) -> Option<(Index, &[u8], &[u8])> {
    const RECORD_OF_CHILD: (u32, u32) = (0, 0);
    const DONE_WITH_INLINE_VALUE: (u32, u32, u32) = (2, 0, 0);
    let (RECORD_OF_CHILD, rest) = prefix(line)? else {
        return None;
    };
    let (index, rest) = prefix(rest)?;
    let (DONE_WITH_INLINE_VALUE, rest) = prefix(rest)? else {
        return None;
    };
    let (len, rest) = prefix::<u64>(rest)?;
    let (value, after) = rest.split_at_checked(usize::try_from(len).ok()?)?;
    Some((index, value, after))
}

/// Decodes a value at the start of these bytes; returns it and the bytes behind it.
fn prefix<T: DeserializeOwned>(bytes: &[u8]) -> Option<(T, &[u8])> {
    let decoded = bincode::serde::decode_from_slice(bytes, SMALL);
    decoded.ok().map(|(value, read)| (value, &bytes[read..]))
}

/// Returns how many children succeeded in a segment, and how many did not.
pub(crate) fn segment_counts(key: &[u8], segment: &[u8]) -> Result<(u32, u32), StoreError> {
    let body = unframe(Kind::Segment, key, segment)?;
    bincode::serde::decode_from_slice(body, SMALL)
        .map(|(counts, _)| counts)
        .map_err(|error| corrupt(Kind::Segment, key, &error.to_string()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use uuid::Uuid;

    use super::*;
    use crate::canvas::group_policy::GroupPolicy;
    use crate::canvas::id::Id;
    use crate::canvas::machine::{AttemptHistory, Verdict};
    use crate::canvas::options::Options;
    use crate::canvas::outcome::{FailureKind, TaskFailure, Value};
    use crate::canvas::payload::Payload;

    /// Stores from before policies have a `bool` there, which told whether the group is settled.
    #[test]
    fn a_group_without_a_new_policy_is_encoded_as_before() {
        for (settled, policy) in [(false, GroupPolicy::All), (true, GroupPolicy::Settled)] {
            assert_eq!(body(&policy), body(&settled));
            assert_eq!(body(&policy.list_of()), body(&settled));
            assert!(!policy.is_addition());
        }
        let added = [
            GroupPolicy::FailFast,
            GroupPolicy::First(1),
            GroupPolicy::AtLeast(1),
        ];
        for policy in added {
            assert!(policy.is_addition());
            let as_before = decode_body::<bool>(Kind::Head, b"w", &body(&policy));
            assert!(
                as_before.is_err(),
                "{policy:?} is taken for a setting of before"
            );
        }
    }

    #[test]
    fn options_without_an_extension_are_stored_as_an_optional_struct() {
        #[derive(Serialize)]
        struct Before(Option<Box<Options>>);
        #[derive(Debug, PartialEq, Serialize, serde::Deserialize)]
        struct Now(#[serde(with = "crate::canvas::stored_options")] Option<Box<Options>>);
        let plain = Options {
            queue: Some("mail".into()),
            priority: Some(9),
            ..Options::default()
        };
        for options in [None, Some(plain.clone())] {
            let options = options.map(Box::new);
            let before = encode(Kind::Head, &Before(options.clone()));
            let now = encode(Kind::Head, &Now(options.clone()));
            assert_eq!(before, now);
            assert_eq!(decode::<Now>(Kind::Head, b"", &now).unwrap(), Now(options));
        }
        let mut extended = Box::new(plain);
        extended.rate_limit = Some("10/m".parse().unwrap());
        extended.limit_key = Some("acme".into());
        extended.stamps.set("tenant".into(), "acme".into());
        let now = Now(Some(extended));
        let record = encode(Kind::Head, &now);
        assert_eq!(decode::<Now>(Kind::Head, b"", &record).unwrap(), now);
    }

    fn done(index: u64, bytes: usize) -> Record {
        Record::Child {
            index,
            change: ChildProgress::Done(Outcome::Success(Value::Inline(Payload::from(vec![
                7;
                bytes
            ])))),
        }
    }

    fn segments(records: &[Record]) -> Vec<Vec<u8>> {
        let mut packing = Packing::default();
        records.iter().for_each(|record| packing.push(record));
        packing.finish()
    }

    fn started(index: u64) -> Record {
        Record::Child {
            index,
            change: ChildProgress::Started(AttemptHistory::first()),
        }
    }

    #[test]
    fn first_starts_in_a_row_are_one_line() {
        let records: Vec<_> = (5..1_000).map(started).collect();
        let segments = segments(&records);
        assert_eq!(segments.len(), 1);
        assert!(segments[0].len() < 30, "{} bytes", segments[0].len());
        assert_eq!(segment_records(b"k", &segments[0]).unwrap(), records);
    }

    #[test]
    fn the_records_of_a_child_stay_in_order_among_starts() {
        let records = [
            started(0),
            started(1),
            done(7, 1),
            done(1, 1),
            started(2),
            started(9),
            started(Index::MAX),
        ];
        let segments = segments(&records);
        let again = segment_records(b"k", &segments[0]).unwrap();
        assert_eq!(again.len(), records.len());
        let of = |all: &[Record], child| {
            let is_of =
                |record: &&Record| matches!(record, Record::Child { index, .. } if *index == child);
            all.iter().filter(is_of).cloned().collect::<Vec<_>>()
        };
        for child in [0, 1, 2, 7, 9, Index::MAX] {
            assert_eq!(of(&again, child), of(&records, child), "child {child}");
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
    fn summaries_skip_the_values_of_successful_children_and_nothing_else() {
        let failure = TaskFailure::new(FailureKind::Engine, Id::from(Uuid::nil()), "t", 1, "m");
        let child = |index, change| Record::Child { index, change };
        let ended = |outcome| child(300, ChildProgress::Done(outcome));
        let other = [
            child(0, ChildProgress::Started(AttemptHistory::default())),
            child(
                u64::MAX,
                ChildProgress::Waiting {
                    past: AttemptHistory::default(),
                    at_ms: 7,
                },
            ),
            child(
                7,
                ChildProgress::WaitingUntil {
                    past: AttemptHistory::default(),
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
            Record::Revoked {
                stream: 2,
                index: 0,
            },
            Record::Submitted {
                root: Id::from(Uuid::nil()),
            },
            Record::SubmittedBy {
                task: Id::from(Uuid::max()),
            },
        ];
        let stored = ended(Outcome::Success(Value::Stored { seq: 3, len: 9 }));
        let succeeded = [done(7, 90), stored];
        let starts = [started(4), started(5)];
        let all: Vec<_> = succeeded
            .iter()
            .chain(&other)
            .chain(&starts)
            .cloned()
            .collect();
        let [segment] = &segments(&all)[..] else {
            panic!("they fit into one segment")
        };
        let expected = [7, 300].map(RecordSummary::Done);
        let expected = expected.into_iter().chain(other.map(RecordSummary::Record));
        let expected = expected.chain([RecordSummary::Started(4..6)]);
        assert!(summaries(b"k", segment).unwrap().into_iter().eq(expected));
    }

    #[test]
    fn a_newer_format_is_refused_by_its_number() {
        let mut record = encode(Kind::Counter, &7u64);
        record[1] = VERSION + 1;
        let error = decode::<u64>(Kind::Counter, b"k", &record).unwrap_err();
        assert!(
            matches!(error, StoreError::UnsupportedVersion { found, .. } if found == VERSION + 1)
        );
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

    #[test]
    fn a_false_length_is_refused_before_that_much_is_allocated() {
        for bytes in [100, MAX_RECORD, MAX_RECORD + 1, JOINED] {
            let mut claims_a_gigabyte = body(&(1_u64 << 30));
            claims_a_gigabyte.resize(bytes, 0);
            let error =
                decode_body::<serde_bytes::ByteBuf>(Kind::Members, b"k", &claims_a_gigabyte);
            let why = error.unwrap_err().to_string();
            assert!(why.contains("LimitExceeded"), "{bytes}: {why}");
        }
    }

    proptest! {
        #[test]
        fn decoding_any_bytes_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = segment_records(b"k", &bytes);
            let _ = segment_records(b"k", &frame(Kind::Segment, &bytes));
            let _ = summaries(b"k", &frame(Kind::Segment, &bytes));
            let _ = decode::<crate::canvas::freeze::Node>(Kind::Head, b"k", &frame(Kind::Head, &bytes));
        }
    }

    #[test]
    fn a_record_of_a_later_kind_is_refused_by_its_number_and_not_taken_for_a_damaged_one() {
        let mut record = encode(Kind::Counter, &7u64);
        let mut refused = |kind: u8| {
            record[2] = kind;
            let crc = checksum(kind, &record[HEADER..]);
            record[3..HEADER].copy_from_slice(&crc.to_le_bytes());
            decode::<u64>(Kind::Counter, b"c", &record).unwrap_err()
        };
        for kind in [*LATER_KINDS.start(), 40, 63] {
            let error = refused(kind);
            let StoreError::UnsupportedFeature { feature, .. } = &error else {
                panic!("{error:?}")
            };
            assert_eq!(*feature, format!("records of kind {kind}"));
        }
        for kind in [0, Kind::Clock as u8, 64, 255] {
            let error = refused(kind);
            assert!(matches!(error, StoreError::Corrupt { .. }), "{error:?}");
        }
    }
}
