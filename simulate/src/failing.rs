//! The parts of the disk that only a simulation needs.

use chordal::persistence::Batch;

use crate::disk::Disk;

impl Disk {
    /// Returns all batches that were written.
    pub(crate) fn all(&self) -> Vec<Batch> {
        self.0.lock().unwrap().batches.clone()
    }

    /// Returns the number of calls to write or to sync.
    pub(crate) fn calls(&self) -> usize {
        self.0.lock().unwrap().calls
    }

    /// Fails at the call after the next `calls`; `once`: and at no later one.
    pub(crate) fn fail_after(&self, calls: usize, once: bool) {
        let mut state = self.0.lock().unwrap();
        state.fails_at = Some(state.calls + calls + 1);
        state.fails_once = once;
    }

    /// Ends the process's access: no later write reaches the disk.
    pub(crate) fn cut_off(&self) {
        self.fail_after(0, false);
    }

    /// Returns whether it was called again after it had failed.
    pub(crate) fn was_called_after_failure(&self) -> bool {
        let state = self.0.lock().unwrap();
        state.fails_at.is_some_and(|at| state.calls > at)
    }

    pub(crate) fn has_failed(&self) -> bool {
        let state = self.0.lock().unwrap();
        state.fails_at.is_some_and(|at| state.calls >= at)
    }
}
