//! Dice: all randomness of a run comes from its seed.

use std::cell::Cell;

use crate::split_mix;

#[derive(Debug)]
pub(crate) struct Dice(Cell<u64>);

impl Dice {
    pub(crate) fn new(seed: u64) -> Self {
        Self(Cell::new(seed))
    }

    pub(crate) fn next(&self) -> u64 {
        self.0.set(self.0.get().wrapping_add(split_mix::STEP));
        split_mix::number(self.0.get())
    }

    /// Returns one of `0..count`.
    pub(crate) fn roll(&self, count: usize) -> usize {
        (self.next() % count as u64) as usize
    }

    /// Returns true `percent` times of a hundred.
    pub(crate) fn percent(&self, percent: usize) -> bool {
        self.roll(100) < percent
    }

    pub(crate) fn pick<T: Copy>(&self, of: &[T]) -> T {
        of[self.roll(of.len())]
    }
}
