//! Lines of waiting tasks, and their order.

use std::cmp::Reverse;
use std::collections::BTreeSet;

use super::{BudgetId, LimitSet, LineId};
use crate::canvas::admission::queue::PriorityQueue;

/// The tasks of one set that wait at one place.
#[derive(Debug)]
pub(super) struct Line<P, T> {
    pub(super) set: LimitSet,
    pub(super) place: P,
    /// Each task with its arrival.
    pub(super) waiting: PriorityQueue<(u64, T)>,
    pub(super) position: Position,
    /// How often other lines went first since this one had its turn, but for what its place counts.
    pub(super) passed: u32,
    /// The grants at its place when it became ready.
    pub(super) ready_since: u64,
    pub(super) state: LineState,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LineState {
    /// No budget is known to keep it from starting.
    Ready,
    /// This budget had nothing left.
    Blocked(BudgetId),
}

/// Where a line stands among others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Position {
    /// Of its first task.
    pub(super) priority: u8,
    /// Among lines of equal priority, the lowest goes first: the arrival of the first task, or the
    /// line's turn.
    pub(super) rank: u64,
    /// When the line was formed or had its last turn.
    pub(super) turn: u64,
}

/// Lines in their order.
#[derive(Debug, Default)]
pub(super) struct Lines {
    by_rank: BTreeSet<(Reverse<u8>, u64, LineId)>,
    by_turn: BTreeSet<(u64, LineId)>,
}

/// The lines at one place.
#[derive(Debug, Default)]
pub(super) struct Place {
    pub(super) ready: Lines,
    /// All lines, ready or not.
    pub(super) lines: usize,
    /// The number of grants so far.
    pub(super) grants: u64,
}

impl Lines {
    pub(super) fn insert(&mut self, line: LineId, at: Position) {
        self.by_rank.insert((Reverse(at.priority), at.rank, line));
        self.by_turn.insert((at.turn, line));
    }

    pub(super) fn remove(&mut self, line: LineId, at: Position) {
        self.by_rank.remove(&(Reverse(at.priority), at.rank, line));
        self.by_turn.remove(&(at.turn, line));
    }

    /// Returns the first line in order of priority and rank.
    pub(super) fn first(&self) -> Option<LineId> {
        self.by_rank.first().map(|(_, _, line)| *line)
    }

    /// Returns the line that has waited longest for its turn.
    pub(super) fn oldest(&self) -> Option<LineId> {
        self.by_turn.first().map(|(_, line)| *line)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.by_turn.is_empty()
    }
}
