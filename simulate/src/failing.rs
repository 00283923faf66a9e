//! What a simulation asks of its disk, beside all else.

use chordal::persistence::Batch;

use crate::disk::Disk;

impl Disk {
    /// All that was written.
    pub(crate) fn all(&self) -> Vec<Batch> {
        self.0.lock().unwrap().batches.clone()
    }

    /// How often it was asked to write or to sync.
    pub(crate) fn calls(&self) -> usize {
        self.0.lock().unwrap().calls
    }

    /// Fails at the call behind the next `calls`.
    pub(crate) fn fail_after(&self, calls: usize) {
        let mut state = self.0.lock().unwrap();
        state.fails_at = Some(state.calls + calls + 1);
    }

    pub(crate) fn has_failed(&self) -> bool {
        let state = self.0.lock().unwrap();
        state.fails_at.is_some_and(|at| state.calls >= at)
    }
}
