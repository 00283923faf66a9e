//! Moves a frozen overlay into sled, beside the work that goes on.

use std::ops::Bound;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::Shared;
use super::base::Mark;
use super::files::remove;
use super::log::Rotated;
use super::overlay::Overlay;
use crate::failpoint::{self, Point};
use crate::persistence::StoreError;

/// So much is handed to sled between two looks whether the store is to close.
const MAX_OPS: usize = 500;
const MAX_BYTES: usize = 64 << 10;

/// One checkpoint. It may end after any step: what it has not marked is replayed from the log, over
/// whatever part of it sled has.
pub(super) struct Checkpoint {
    shared: Arc<Shared>,
    overlay: Arc<Overlay>,
    segments: Vec<PathBuf>,
    mark: Mark,
    next: Step,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Step {
    /// Hand the next entries to sled.
    Write(Bound<Vec<u8>>),
    /// Make them durable.
    Settle,
    /// Note, durably, that they are.
    Mark,
    /// Let go of the overlay and of the segments.
    Release,
    Done,
}

impl Checkpoint {
    pub(super) fn new(shared: Arc<Shared>, overlay: Arc<Overlay>, rotated: Rotated) -> Self {
        Self {
            shared,
            overlay,
            segments: rotated.segments,
            mark: rotated.mark,
            next: Step::Write(Bound::Unbounded),
        }
    }

    /// Runs to its end, or until the store closes or stops; gives back a file that is free.
    pub(super) fn run(mut self) -> Option<PathBuf> {
        while self.next != Step::Done {
            let is_closing = self.shared.closing.load(Ordering::Acquire);
            if is_closing || self.shared.healthy().is_err() {
                return None;
            }
            if let Err(error) = self.step() {
                self.shared.poison(error);
                return None;
            }
        }
        self.segments.pop()
    }

    /// Says whether there is nothing left to do.
    #[cfg(test)]
    pub(super) fn is_done(&self) -> bool {
        self.next == Step::Done
    }

    pub(super) fn step(&mut self) -> Result<(), StoreError> {
        self.next = match std::mem::replace(&mut self.next, Step::Done) {
            Step::Write(from) => self.write(from)?,
            Step::Settle => {
                self.shared.base.settle()?;
                failpoint::reach(Point::Settled);
                Step::Mark
            }
            Step::Mark => {
                self.shared.base.set_mark(self.mark)?;
                failpoint::reach(Point::Marked);
                Step::Release
            }
            Step::Release => {
                let overlay = self.shared.layers.write().thaw();
                drop(overlay);
                // One file is enough to go on with: there are never two frozen overlays.
                for segment in self.segments.drain(1..) {
                    remove(&segment)?;
                }
                failpoint::reach(Point::Forgotten);
                Step::Done
            }
            Step::Done => Step::Done,
        };
        Ok(())
    }

    fn write(&self, from: Bound<Vec<u8>>) -> Result<Step, StoreError> {
        let (mut bytes, mut last) = (0, None);
        let entries = self.overlay.from(from.as_ref().map(Vec::as_slice));
        let some = entries.take(MAX_OPS).take_while(|(key, value)| {
            let fits = bytes < MAX_BYTES;
            if fits {
                bytes += key.len() + value.map_or(0, <[u8]>::len);
                last = Some(key.to_vec());
            }
            fits
        });
        self.shared.base.write(some)?;
        let Some(last) = last else {
            return Ok(Step::Settle);
        };
        failpoint::reach(Point::Written);
        Ok(Step::Write(Bound::Excluded(last)))
    }
}
