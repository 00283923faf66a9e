//! The chain: one step after the other, each with the value of the one before it.

use super::group::MAX_RESTARTS;
use super::{ChildProgress, Index, PendingCallback, Record, Report};
use crate::canvas::outcome::{Outcome, Value};

/// Invariant: the outcome of the last step is the chain's own; only the ones before it are in the
/// chain's stream.
#[derive(Debug)]
pub(crate) struct Chain {
    len: Index,
    /// The step that runs now; `len` when the chain has ended.
    at: Index,
    restarts: u32,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Command {
    Record(Record),
    /// Record these and run them.
    Launch(Vec<PendingCallback>),
    /// Start this step with the value from upstream, if there is one.
    Spawn(Index, Option<Value>),
    /// Start this step's lost actor again, once all it recorded is durable.
    Restart(Index),
    /// Its actor dies each time.
    Abandon(Index),
    /// The outcome of the last step is the chain's.
    Report(Report),
    /// This earlier step failed, so that the others never run.
    Fail(Index, Report),
}

impl Chain {
    /// A chain of `len` steps as its stream left it; one of none passes its input on, or `nil`.
    pub(crate) fn recover<'a>(
        len: Index,
        input: Option<Value>,
        nil: Value,
        records: impl IntoIterator<Item = &'a Record>,
    ) -> (Self, Vec<Command>) {
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
                            restarts: 0,
                        };
                        let outcome = Outcome::Failure(failure.clone());
                        return (chain, vec![Command::Fail(at, outcome.into())]);
                    }
                },
                _ => {}
            }
        }
        let chain = Self {
            len,
            at,
            restarts: 0,
        };
        let command = if at < len {
            Command::Spawn(at, input)
        } else {
            Command::Report(Outcome::Success(input.unwrap_or(nil)).into())
        };
        (chain, vec![command])
    }

    /// Step `index` has ended.
    pub(crate) fn ended(&mut self, index: Index, report: Report) -> Vec<Command> {
        if index != self.at || self.at >= self.len {
            return Vec::new();
        }
        let is_last = index + 1 == self.len;
        let value = match &report.outcome {
            Outcome::Success(value) if !is_last => value.clone(),
            // The step is revoked; what was to follow it fails.
            Outcome::Revoked(failure) if !is_last => {
                self.at = self.len;
                let outcome = Outcome::Failure(failure.clone());
                return vec![
                    Command::Record(Record::Child {
                        index,
                        change: ChildProgress::Done(report.outcome),
                    }),
                    Command::Fail(index, outcome.into()),
                ];
            }
            _ => {
                self.at = self.len;
                return vec![if is_last {
                    Command::Report(report)
                } else {
                    Command::Fail(index, report)
                }];
            }
        };
        self.at += 1;
        self.restarts = 0;
        let mut commands = vec![Command::Record(Record::Child {
            index,
            change: ChildProgress::Done(report.outcome),
        })];
        if !report.due.is_empty() {
            commands.push(Command::Launch(report.due));
        }
        commands.push(Command::Spawn(self.at, Some(value)));
        commands
    }

    /// The actor of step `index` is gone; `lost`: before it had reported.
    pub(crate) fn stopped(&mut self, index: Index, lost: bool) -> Vec<Command> {
        if !lost || index != self.at || self.at >= self.len {
            return Vec::new();
        }
        self.restarts += 1;
        if self.restarts <= MAX_RESTARTS {
            vec![Command::Restart(index)]
        } else {
            vec![Command::Abandon(index)]
        }
    }
}
