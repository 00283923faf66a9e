//! The limit on the size of a task's arguments and result.

use std::collections::HashSet;

use parking_lot::Mutex;

use crate::canvas::freeze::SizeExceeded;

/// The size from which a payload causes a warning, because it is in memory, log and store as a
/// whole.
const LARGE: usize = 256 << 10;

/// Checks the sizes of payloads.
#[derive(Debug)]
pub(crate) struct PayloadLimit {
    /// The largest allowed size in bytes.
    max: u64,
    /// The parts that have caused a warning: one per task, because a group may have a million
    /// members of one task.
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

    /// Refuses too many bytes, or warns of many. `part`: the part of task `task` that has them.
    pub(crate) fn check(
        &self,
        task: &str,
        part: &'static str,
        bytes: usize,
    ) -> Result<(), SizeExceeded> {
        if bytes as u64 > self.max {
            return Err(SizeExceeded {
                bytes: bytes as u64,
                limit: self.max,
            });
        }
        if bytes >= LARGE && self.warned.lock().insert((task.to_owned(), part)) {
            tracing::warn!(
                task,
                what = part,
                bytes,
                limit = self.max,
                "a large payload: better pass where it is kept"
            );
        }
        Ok(())
    }
}
