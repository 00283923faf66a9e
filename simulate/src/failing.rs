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

    /// Fails at the call behind the next `calls`; `once`: and at none behind that.
    pub(crate) fn fail_after(&self, calls: usize, once: bool) {
        let mut state = self.0.lock().unwrap();
        state.fails_at = Some(state.calls + calls + 1);
        state.fails_once = once;
    }

    /// The process is gone: nothing of it reaches the disk any more.
    pub(crate) fn cut_off(&self) {
        self.fail_after(0, false);
    }

    /// Says whether it was asked again after it had failed.
    pub(crate) fn is_pressed(&self) -> bool {
        let state = self.0.lock().unwrap();
        state.fails_at.is_some_and(|at| state.calls > at)
    }

    pub(crate) fn has_failed(&self) -> bool {
        let state = self.0.lock().unwrap();
        state.fails_at.is_some_and(|at| state.calls >= at)
    }
}
