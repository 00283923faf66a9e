//! Budgets: what is left of a limit.

use std::rc::Rc;

use super::circuit::Circuit;
use super::lines::{Lines, Position};
use super::{LimitNumber, LineId, Rule};
use crate::canvas::admission::rate_window::RateWindow;
use crate::canvas::admission::signature_rate;

/// What is left of a limit, for one key if the limit is divided by keys.
#[derive(Debug)]
pub(super) struct Budget<P> {
    pub(super) limit: LimitNumber,
    pub(super) key: Option<Rc<str>>,
    pub(super) used: Used,
    /// The lines that wait for it, by place.
    pub(super) blocked: Vec<(P, Lines)>,
    /// Of a budget that a task is under: when it has something left again for its blocked lines, if
    /// that is known. Of any other, which is a key's: when it is forgotten.
    pub(super) timer_ms: Option<u64>,
    /// The number of sets that it is in.
    pub(super) sets: u32,
    /// The store does not show it as it is.
    pub(super) is_changed: bool,
    /// The store may have a record of it.
    pub(super) is_stored: bool,
}

/// What is used of a limit.
#[derive(Debug)]
pub(super) enum Used {
    Starts(RateWindow),
    Slots { of: u32, held: u32 },
    Circuit(Circuit),
    Nothing,
}

impl Used {
    pub(super) fn none_of(rule: Rule) -> Self {
        match rule {
            Rule::Rate(limit) => Self::Starts(RateWindow::new(limit)),
            Rule::Concurrency(of) => Self::Slots { of, held: 0 },
            Rule::Breaker(breaker) => Self::Circuit(Circuit::new(breaker)),
            Rule::Turns | Rule::RateOfKey => Self::Nothing,
        }
    }

    /// Returns that nothing is used of what the rule allows this key.
    pub(super) fn of_key(rule: Rule, key: &str) -> Self {
        match rule {
            Rule::RateOfKey => match signature_rate::of_key(key) {
                Some(limit) => Self::Starts(RateWindow::new(limit)),
                None => Self::Nothing,
            },
            rule => Self::none_of(rule),
        }
    }

    /// Returns the earliest time at which something is left, from `now_ms` on, if that depends on
    /// the time alone.
    pub(super) fn allowed_at(&self, now_ms: u64) -> Option<u64> {
        match self {
            Self::Starts(window) => window.allowed_at(now_ms),
            Self::Slots { of, held } => (held < of).then_some(now_ms),
            Self::Circuit(circuit) => circuit.allowed_at(now_ms),
            Self::Nothing => Some(now_ms),
        }
    }

    pub(super) fn grant(&mut self, now_ms: u64) {
        match self {
            Self::Starts(window) => window.grant(now_ms),
            Self::Slots { held, .. } => *held += 1,
            Self::Circuit(circuit) => circuit.grant(),
            Self::Nothing => {}
        }
    }
}

impl<P: Copy + PartialEq> Budget<P> {
    pub(super) fn new(limit: LimitNumber, key: Option<Rc<str>>, used: Used) -> Self {
        Self {
            limit,
            key,
            used,
            blocked: Vec::new(),
            timer_ms: None,
            sets: 0,
            is_changed: false,
            is_stored: false,
        }
    }

    /// Returns the lines that wait for it at `place`.
    pub(super) fn blocked_at(&mut self, place: P) -> &mut Lines {
        let index = self.blocked.iter().position(|(at, _)| *at == place);
        let index = index.unwrap_or_else(|| {
            self.blocked.reserve_exact(1);
            self.blocked.push((place, Lines::default()));
            self.blocked.len() - 1
        });
        &mut self.blocked[index].1
    }

    /// Removes a line from those that wait for it.
    pub(super) fn remove_blocked(&mut self, line: LineId, place: P, at: Position) {
        let lines = self.blocked_at(place);
        lines.remove(line, at);
        if lines.is_empty() {
            self.blocked.retain(|(at, _)| *at != place);
        }
    }

    /// Returns the lines that are next at `place` of those that wait for it: the first in order, and
    /// the one that has waited longest for its turn.
    pub(super) fn next_at(&self, place: P) -> [Option<LineId>; 2] {
        let lines = self.blocked.iter().find(|(at, _)| *at == place);
        let Some((_, lines)) = lines else {
            return [None, None];
        };
        let (first, oldest) = (lines.first(), lines.oldest());
        [first, oldest.filter(|_| oldest != first)]
    }
}
