//! Entry points for all code that reads bytes from outside the process, called by `fuzz/` and the
//! replay of its corpus. Any bytes are either decoded or rejected, and decoded data means the same
//! when it is encoded again. Each function panics if that does not hold.

use crate::Canvas;
use crate::canvas::freeze::plan_subtask;
#[cfg(feature = "sled")]
use crate::persistence::Batch;
use crate::persistence::records::codec::Kind;
use crate::persistence::records::definition::WorkflowHeader;
use crate::persistence::records::{audit, codec, keys, member_pages};
use crate::testing::catalogue::Everything;

/// Fuzzes Celery's JSON: decodes, prints and freezes a canvas, and decodes its encoding again.
pub fn celery_json(bytes: &[u8]) {
    let Ok(text) = str::from_utf8(bytes) else {
        return;
    };
    let Ok(canvas) = Canvas::from_json(text) else {
        return;
    };
    let _ = format!("{canvas:?}");
    if let Ok(written) = canvas.to_json() {
        let again = Canvas::from_json(&written).expect("encoded JSON is decoded");
        let rewritten = again.to_json().expect("a decoded canvas is encoded");
        assert_eq!(written, rewritten);
    }
    let _ = plan_subtask(canvas, true, &Everything);
}

/// The kinds of records, each with a key.
const KINDS: [(&[u8], Kind); 19] = [
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
    (b"m/starts/n", Kind::Starts),
    (b"m/controls/q", Kind::Control),
    (b"m/breakers/stripe", Kind::Circuit),
];

/// Fuzzes a record of the store: the first byte selects the kind of record, the others are its
/// body. They are decoded as they are, and again with a correct checksum.
pub fn record(bytes: &[u8]) {
    let Some((kind, body)) = bytes.split_first() else {
        return;
    };
    let (key, kind) = KINDS[usize::from(*kind) % KINDS.len()];
    let _ = audit::check(key, body);
    let framed = codec::frame(kind, body);
    let whole = audit::check(key, &framed);
    match kind {
        Kind::Members => drop(member_pages::decode_members(key, body.to_vec())),
        Kind::Segment => {
            let summaries = codec::summaries(key, &framed);
            let counts = codec::segment_counts(key, &framed);
            // The summaries decode whatever the complete decoding does.
            assert!(whole.is_err() || summaries.is_ok() && counts.is_ok());
        }
        _ => {}
    }
}

/// Fuzzes a stored workflow: the body of its header, and the members of a large group. A decoded
/// value survives encoding.
pub fn definition(bytes: &[u8]) {
    let key = b"any";
    if let Ok(header) = codec::decode_body::<WorkflowHeader>(Kind::Head, key, bytes) {
        let again = codec::decode_body::<WorkflowHeader>(Kind::Head, key, &codec::body(&header));
        assert_eq!(again.expect("an encoded header is decoded"), header);
    }
    let Ok(nodes) = member_pages::decode_members(key, bytes.to_vec()) else {
        return;
    };
    let mut written = codec::body(&nodes.len());
    let mut last = None;
    for node in &nodes {
        member_pages::encode_member(&mut written, node, last);
        last = Some(node);
    }
    let again = member_pages::decode_members(key, written).expect("encoded members are decoded");
    assert_eq!(again, nodes);
}

/// Fuzzes a segment of the log: frames at any position, and the body of a frame as if its
/// checksum were right.
#[cfg(feature = "sled")]
pub fn log(bytes: &[u8]) {
    use crate::persistence::store::wal::frame::{ALIGN, Frame, claimed_generation, decode_batch};

    for position in (0..bytes.len()).step_by(ALIGN) {
        let generation = claimed_generation(bytes, position);
        let frame = generation.and_then(|generation| Frame::at(bytes, position, generation));
        if let Some(frame) = frame
            && let Some(batch) = frame.batch()
        {
            check_written_again(frame.body, &batch);
        }
    }
    if let Some(batch) = decode_batch(bytes) {
        check_written_again(bytes, &batch);
    }
}

/// Checks that the frame of the batch that was decoded from this body has this body.
#[cfg(feature = "sled")]
fn check_written_again(body: &[u8], batch: &Batch) {
    use crate::persistence::store::wal::frame::{Frame, Stamp, append};

    let stamp = Stamp {
        generation: 1,
        seq: 1,
        synced: 0,
    };
    let mut file = Vec::new();
    append(&mut file, 0, stamp, batch);
    let again = Frame::at(&file, 0, stamp.generation).expect("it was written whole");
    assert_eq!(again.body, body);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(3_000))]

        #[test]
        fn decoding_any_members_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            super::definition(&bytes);
        }
    }
}
