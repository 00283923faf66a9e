//! A checkpoint: moves a frozen memtable into the base while commits continue.

use std::ops::Bound;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::Shared;
use super::base::{Base, Mark};
use super::log::{Rotated, name_of};
use super::memtable::Memtable;
use crate::persistence::store::StoreError;
use crate::persistence::store::fs::dir::Dir;
use crate::testing::failpoint::{self, Point};

/// The most entries and bytes handed to the base between two checks whether the store is closing.
const MAX_OPS: usize = 500;
const MAX_BYTES: usize = 64 << 10;

/// One checkpoint. It may stop after any step: entries that it has not marked are replayed from the
/// log, over the part of them that the base has.
#[derive(Debug)]
pub(crate) struct Checkpoint<B: Base> {
    shared: Arc<Shared<B>>,
    memtable: Arc<Memtable>,
    segments: Vec<PathBuf>,
    /// The directory of these segments.
    log: Arc<Dir>,
    mark: Mark,
    next: Step,
}

/// The end of a checkpoint.
#[derive(Debug)]
pub(crate) enum Ended<B: Base> {
    /// The checkpoint completed, with a file to reuse; or, without a file, the store closes or has
    /// stopped.
    Free(Option<PathBuf>),
    /// A step needs a file descriptor or memory that the system does not have now: the checkpoint
    /// can be resumed.
    Postponed(Box<Checkpoint<B>>, StoreError),
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Step {
    /// Hand the next entries to the base.
    Write(Bound<Vec<u8>>),
    /// Make the entries durable.
    Settle,
    /// Durably mark that they are in the base.
    Mark,
    /// Drop the frozen memtable.
    Release,
    /// Remove the segments except for one.
    Remove,
    Done,
}

impl<B: Base> Checkpoint<B> {
    pub(crate) fn new(shared: Arc<Shared<B>>, memtable: Arc<Memtable>, rotated: Rotated) -> Self {
        Self {
            shared,
            memtable,
            segments: rotated.segments,
            log: rotated.dir,
            mark: rotated.mark,
            next: Step::Write(Bound::Unbounded),
        }
    }

    /// Runs to the end, or until the store closes or stops, or the system lacks a resource.
    pub(crate) fn run(mut self) -> Ended<B> {
        while self.next != Step::Done {
            let is_closing = self.shared.closing.load(Ordering::Acquire);
            if is_closing || self.shared.healthy().is_err() {
                return Ended::Free(None);
            }
            match self.step() {
                Ok(()) => {}
                Err(error @ StoreError::Exhausted { .. }) => {
                    return Ended::Postponed(Box::new(self), error);
                }
                Err(error) => {
                    self.shared.poison(error);
                    return Ended::Free(None);
                }
            }
        }
        Ended::Free(self.segments.pop())
    }

    /// Returns whether no step is left.
    #[cfg(test)]
    pub(crate) fn is_done(&self) -> bool {
        self.next == Step::Done
    }

    /// Runs the next step. After a temporary error the step can be repeated.
    pub(crate) fn step(&mut self) -> Result<(), StoreError> {
        let next = self.next.clone();
        self.next = match next {
            Step::Write(from) => {
                self.check_in_place()?;
                self.write(from)?
            }
            Step::Settle => {
                self.check_in_place()?;
                self.shared.layers.base.settle()?;
                failpoint::reach(Point::Settled);
                Step::Mark
            }
            Step::Mark => {
                self.check_in_place()?;
                self.shared.layers.base.set_mark(self.mark)?;
                failpoint::reach(Point::Marked);
                Step::Release
            }
            Step::Release => {
                let memtable = self.shared.layers.memtables.write().drop_frozen();
                drop(memtable);
                Step::Remove
            }
            Step::Remove => {
                self.log.check_in_place()?;
                // One file is enough to reuse: at most one memtable is frozen.
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

    /// Fails before the base could create a file in a directory that is not the store's.
    fn check_in_place(&self) -> Result<(), StoreError> {
        self.shared.layers.base.check_in_place()
    }

    fn write(&self, from: Bound<Vec<u8>>) -> Result<Step, StoreError> {
        let (mut bytes, mut last) = (0, None);
        let entries = self.memtable.from(from.as_ref().map(Vec::as_slice));
        let some = entries.take(MAX_OPS).take_while(|(key, value)| {
            let fits = bytes < MAX_BYTES;
            if fits {
                bytes += key.len() + value.map_or(0, <[u8]>::len);
                last = Some(key.to_vec());
            }
            fits
        });
        self.shared.layers.base.write(some)?;
        let Some(last) = last else {
            return Ok(Step::Settle);
        };
        failpoint::reach(Point::Written);
        Ok(Step::Write(Bound::Excluded(last)))
    }
}
