//! How large the arguments and the result of a task may be.

use std::collections::HashSet;

use parking_lot::Mutex;

use crate::canvas::freeze::SizeExceeded;

/// From this size on a payload is warned of: it goes through memory, log and store as a whole.
const LARGE: usize = 256 << 10;

/// What payloads are measured with.
#[derive(Debug)]
pub(crate) struct PayloadLimit {
    /// The largest that is taken.
    max: u64,
    /// What has been warned of: once for each task, since a group may have a million of one.
    warned: Mutex<HashSet<(String, &'static str)>>,
}

impl Default for PayloadLimit {
    fn default() -> Self {
        Self::new(Self::DEFAULT)
    }
}

impl PayloadLimit {
    pub(crate) const DEFAULT: u64 = 1 << 20;

    pub(crate) fn new(max: u64) -> Self {
        Self {
            max,
            warned: Mutex::default(),
        }
    }

    /// Refuses so many bytes, or warns of them. `what` of task `task` they are.
    pub(crate) fn check(
        &self,
        task: &str,
        what: &'static str,
        bytes: usize,
    ) -> Result<(), SizeExceeded> {
        if bytes as u64 > self.max {
            return Err(SizeExceeded {
                bytes: bytes as u64,
                limit: self.max,
            });
        }
        if bytes >= LARGE && self.warned.lock().insert((task.to_owned(), what)) {
            tracing::warn!(
                task,
                what,
                bytes,
                limit = self.max,
                "a large payload: better pass where it is kept"
            );
        }
        Ok(())
    }
}
