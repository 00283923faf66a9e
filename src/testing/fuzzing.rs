//! Entry points for all code that reads bytes from outside the process, called by `fuzz/` and the
//! replay of its corpus. Any bytes are either decoded or rejected, and decoded data means the same
//! when it is encoded again. Each function panics if that does not hold.

use crate::canvas::freeze::{Catalogue, SizeExceeded, plan_subtask};
use crate::canvas::parameter::Parameter;
use crate::{Canvas, persistence};

/// A catalogue that knows every task and accepts all arguments.
struct Everything;

impl Catalogue for Everything {
    fn parameters(&self, _: &str) -> Option<&'static [Parameter]> {
        Some(const { &[Parameter::rest::<serde_json::Value>("args")] })
    }

    fn admit(&self, _: &str, _: usize) -> Result<(), SizeExceeded> {
        Ok(())
    }
}

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

/// Fuzzes a record of the store: the first byte selects the kind of record, the others are its
/// body. They are decoded as they are, and again with a correct checksum.
pub fn record(bytes: &[u8]) {
    persistence::fuzzing::record(bytes);
}

/// Fuzzes a stored workflow: the body of its header, and the members of a large group.
pub fn definition(bytes: &[u8]) {
    persistence::fuzzing::definition(bytes);
}

/// Fuzzes a segment of sled's log: frames at any position, and the body of a frame as if its
/// checksum were right.
#[cfg(feature = "sled")]
pub fn log(bytes: &[u8]) {
    persistence::store::sled::fuzz_frames(bytes);
}
