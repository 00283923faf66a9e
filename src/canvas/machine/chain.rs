//! The chain: one step after the other, each with the value of the one before it.

use super::effect::{ChildStart, Effect, Finish, Supervise};
use super::group::MAX_RESTARTS;
use super::{ChildProgress, Index, Record, Report};
use crate::canvas::outcome::{Outcome, Value};

/// Invariant: the outcome of the last step is that of the chain; the chain's stream has only the
/// outcomes of the steps before it.
#[derive(Debug)]
pub(crate) struct Chain {
    len: Index,
    /// The current step; `len` when the chain has ended.
    at: Index,
    /// The input of the current step.
    input: Option<Value>,
    restarts: u32,
}

impl Chain {
    /// Returns a chain of `len` steps as its stream has it. An empty chain returns its input, or `nil`.
    pub(crate) fn recover<'a>(
        len: Index,
        input: Option<Value>,
        nil: Value,
        records: impl IntoIterator<Item = &'a Record>,
    ) -> (Self, Vec<Effect>) {
        let mut at = 0;
        let mut input = input;
        for record in records {
            match record {
                Record::Child {
                    index,
                    change: ChildProgress::Done(outcome),
                } if *index == at => match outcome {
                    Outcome::Success(value) => {
                        at += 1;
                        input = Some(value.clone());
                    }
                    Outcome::Failure(failure) | Outcome::Revoked(failure) => {
                        let chain = Self {
                            len,
                            at: len,
                            input: None,
                            restarts: 0,
                        };
                        let outcome = Outcome::Failure(failure.clone());
                        let finish = Finish::AsStep(at, outcome.into());
                        return (chain, vec![Effect::finish(finish)]);
                    }
                },
                _ => {}
            }
        }
        let effect = if at < len {
            Effect::Start(ChildStart::Step(at, input.clone()))
        } else {
            let outcome = Outcome::Success(input.clone().unwrap_or(nil));
            Effect::finish(Finish::AsLastChild(outcome.into()))
        };
        let chain = Self {
            len,
            at,
            input,
            restarts: 0,
        };
        (chain, vec![effect])
    }
}

impl Supervise for Chain {
    fn child_ended(&mut self, index: Index, report: Report) -> Vec<Effect> {
        if index != self.at || self.at >= self.len {
            return Vec::new();
        }
        let is_last = index + 1 == self.len;
        let value = match &report.outcome {
            Outcome::Success(value) if !is_last => value.clone(),
            // The step is revoked, so the chain fails.
            Outcome::Revoked(failure) if !is_last => {
                self.at = self.len;
                let outcome = Outcome::Failure(failure.clone());
                return vec![
                    Effect::record(Record::Child {
                        index,
                        change: ChildProgress::Done(report.outcome),
                    }),
                    Effect::finish(Finish::AsStep(index, outcome.into())),
                ];
            }
            _ => {
                self.at = self.len;
                return vec![Effect::finish(match is_last {
                    true => Finish::AsLastChild(report),
                    false => Finish::AsStep(index, report),
                })];
            }
        };
        self.at += 1;
        self.restarts = 0;
        self.input = Some(value.clone());
        let mut effects = vec![Effect::record(Record::Child {
            index,
            change: ChildProgress::Done(report.outcome),
        })];
        if !report.due.is_empty() {
            effects.push(Effect::LaunchCallbacks(report.due));
        }
        effects.push(Effect::Start(ChildStart::Step(self.at, Some(value))));
        effects
    }

    fn child_exited(&mut self, index: Index, lost: bool) -> Vec<Effect> {
        if !lost || index != self.at || self.at >= self.len {
            return Vec::new();
        }
        self.restarts += 1;
        match self.restarts <= MAX_RESTARTS {
            true => vec![Effect::Restart(index)],
            false => vec![Effect::Abandon(index)],
        }
    }

    fn running_child(&self, index: Index) -> Option<ChildStart> {
        (index == self.at).then(|| ChildStart::Step(index, self.input.clone()))
    }
}
