//! Moves a frozen overlay into sled, beside the work that goes on.

use std::ops::Bound;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::Shared;
use super::base::Mark;
use super::log::{Rotated, name_of};
use super::memtable::Memtable;
use crate::failpoint::{self, Point};
use crate::persistence::StoreError;
use crate::persistence::dir::Dir;

/// So much is handed to sled between two looks whether the store is to close.
const MAX_OPS: usize = 500;
const MAX_BYTES: usize = 64 << 10;

/// One checkpoint. It may end after any step: what it has not marked is replayed from the log, over
/// whatever part of it sled has.
#[derive(Debug)]
pub(super) struct Checkpoint {
    shared: Arc<Shared>,
    overlay: Arc<Memtable>,
    segments: Vec<PathBuf>,
    /// The directory that these are in.
    log: Arc<Dir>,
    mark: Mark,
    next: Step,
}

/// How a checkpoint ended.
#[derive(Debug)]
pub(super) enum Ended {
    /// At its end, with a file that is free; or, without one, because the store closes or has stopped.
    Free(Option<PathBuf>),
    /// Before a step for which the system has no descriptor or memory now: it can be gone on with.
    PutOff(Box<Checkpoint>, StoreError),
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Step {
    /// Hand the next entries to sled.
    Write(Bound<Vec<u8>>),
    /// Make them durable.
    Settle,
    /// Note, durably, that they are.
    Mark,
    /// Let go of the overlay.
    Release,
    /// Remove the segments, but for one.
    Remove,
    Done,
}

impl Checkpoint {
    pub(super) fn new(shared: Arc<Shared>, overlay: Arc<Memtable>, rotated: Rotated) -> Self {
        Self {
            shared,
            overlay,
            segments: rotated.segments,
            log: rotated.dir,
            mark: rotated.mark,
            next: Step::Write(Bound::Unbounded),
        }
    }

    /// Runs to its end, or until the store closes or stops, or the system is short of what it needs.
    pub(super) fn run(mut self) -> Ended {
        while self.next != Step::Done {
            let is_closing = self.shared.closing.load(Ordering::Acquire);
            if is_closing || self.shared.healthy().is_err() {
                return Ended::Free(None);
            }
            match self.step() {
                Ok(()) => {}
                Err(error @ StoreError::Exhausted { .. }) => {
                    return Ended::PutOff(Box::new(self), error);
                }
                Err(error) => {
                    self.shared.poison(error);
                    return Ended::Free(None);
                }
            }
        }
        Ended::Free(self.segments.pop())
    }

    /// Says whether there is nothing left to do.
    #[cfg(test)]
    pub(super) fn is_done(&self) -> bool {
        self.next == Step::Done
    }

    /// Does the next step. After an error that is temporary it is still the next.
    pub(super) fn step(&mut self) -> Result<(), StoreError> {
        let next = self.next.clone();
        self.next = match next {
            Step::Write(from) => {
                self.check_in_place()?;
                self.write(from)?
            }
            Step::Settle => {
                self.check_in_place()?;
                self.shared.base.settle()?;
                failpoint::reach(Point::Settled);
                Step::Mark
            }
            Step::Mark => {
                self.check_in_place()?;
                self.shared.base.set_mark(self.mark)?;
                failpoint::reach(Point::Marked);
                Step::Release
            }
            Step::Release => {
                let overlay = self.shared.layers.write().drop_frozen();
                drop(overlay);
                Step::Remove
            }
            Step::Remove => {
                self.log.check_in_place()?;
                // One file is enough to go on with: there are never two frozen overlays.
                while self.segments.len() > 1 {
                    self.log.remove(name_of(&self.segments[1]))?;
                    self.segments.remove(1);
                }
                failpoint::reach(Point::Forgotten);
                Step::Done
            }
            Step::Done => Step::Done,
        };
        Ok(())
    }

    /// Stops before sled could make a file in a directory that is not the store's.
    fn check_in_place(&self) -> Result<(), StoreError> {
        self.shared.base.check_in_place()
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
