//! See [`crate::testing::fuzzing`].

use super::records::codec;
use super::records::codec::Kind;
use super::records::{audit, definition, keys};

/// The kinds of records, each with a key.
const KINDS: [(&[u8], Kind); 16] = [
    (keys::META, Kind::Meta),
    (keys::LIFE, Kind::Life),
    (keys::PENDING, Kind::Pending),
    (keys::LAST_SWEPT, Kind::LastSwept),
    (keys::IMPORTING, Kind::Mark),
    (b"b", Kind::Waiting),
    (b"w", Kind::Head),
    (b"d", Kind::Members),
    (b"s", Kind::Segment),
    (b"p", Kind::Piece),
    (b"r", Kind::Result),
    (b"c", Kind::Counter),
    (b"i", Kind::Idempotency),
    (b"k", Kind::Suspect),
    (b"x", Kind::Mark),
    (keys::CLOCK, Kind::Clock),
];

pub(crate) fn definition(bytes: &[u8]) {
    definition::fuzz(bytes);
}

pub(crate) fn record(bytes: &[u8]) {
    let Some((kind, body)) = bytes.split_first() else {
        return;
    };
    let (key, kind) = KINDS[usize::from(*kind) % KINDS.len()];
    let _ = audit::check(key, body);
    let framed = codec::frame(kind, body);
    let whole = audit::check(key, &framed);
    match kind {
        Kind::Members => drop(definition::decode_members(key, body.to_vec())),
        Kind::Segment => {
            let summaries = codec::summaries(key, &framed);
            let counts = codec::segment_counts(key, &framed);
            // The summaries decode whatever the complete decoding does.
            assert!(whole.is_err() || summaries.is_ok() && counts.is_ok());
        }
        _ => {}
    }
}
