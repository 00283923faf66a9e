//! All that reads bytes which somebody else may have written, as `fuzz/` and the replay of its corpus
//! call it: any bytes are read or refused, and what is read means the same when it is written again.
//! Each panics if that is not so.

use crate::canvas::freeze::{Catalogue, SizeExceeded, plan_subtask};
use crate::canvas::parameter::Parameter;
use crate::{Canvas, persistence};

/// Knows every task, and takes all that it is called with.
struct Everything;

impl Catalogue for Everything {
    fn parameters(&self, _: &str) -> Option<&'static [Parameter]> {
        Some(const { &[Parameter::rest::<serde_json::Value>("args")] })
    }

    fn admit(&self, _: &str, _: usize) -> Result<(), SizeExceeded> {
        Ok(())
    }
}

/// Celery's JSON: read, shown, frozen, and what is written of it read again.
pub fn celery_json(bytes: &[u8]) {
    let Ok(text) = str::from_utf8(bytes) else {
        return;
    };
    let Ok(canvas) = Canvas::from_json(text) else {
        return;
    };
    let _ = format!("{canvas:?}");
    if let Ok(written) = canvas.to_json() {
        let again = Canvas::from_json(&written).expect("what was written is read");
        let rewritten = again.to_json().expect("what was read is written");
        assert_eq!(written, rewritten);
    }
    let _ = plan_subtask(canvas, true, &Everything);
}

/// A record of the store: its key's first byte says of which kind, the others are its body. Read as they
/// are, and as if their checksum were right.
pub fn record(bytes: &[u8]) {
    persistence::fuzzing::record(bytes);
}

/// A workflow as it is stored: the body of its head, and the members of a large group.
pub fn definition(bytes: &[u8]) {
    persistence::fuzzing::definition(bytes);
}

/// A segment of sled's log: frames wherever they stand; and the body of a frame as if its checksum
/// were right.
#[cfg(feature = "sled")]
pub fn log(bytes: &[u8]) {
    persistence::sled::fuzz_frames(bytes);
}
