//! The task: its attempts, from a free slot to the last outcome.

use super::Change;
use crate::canvas::outcome::{Outcome, TaskFailure, Value};
use crate::canvas::retry::RetryPolicy;

/// Invariant: at most one attempt runs that this machine will listen to; `attempt` is its number
/// and fences all earlier ones.
#[derive(Debug)]
pub(crate) struct Task {
    policy: RetryPolicy,
    attempt: u32,
    /// Failed attempts so far. An attempt that a crash cut short is not one of them.
    retries: u32,
    phase: Phase,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Waits for a slot.
    Ready,
    Running,
    /// Waits for the time of its next attempt.
    Delayed,
    Ended,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Command {
    /// Ask the dispatcher for a slot.
    Request,
    Record(Change),
    /// Call the function, once that is on record.
    Run {
        attempt: u32,
    },
    /// Ask to be woken then.
    WakeAt {
        at_ms: u64,
    },
    Report(Outcome),
}

/// How one attempt ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum End {
    Value(Value),
    Failure {
        failure: Box<TaskFailure>,
        /// Trying again may help, and after how long if the task said so.
        retry: Retry,
    },
}

/// Whether a failed attempt is worth another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Retry {
    /// After the policy's delay.
    Backoff,
    /// After this many milliseconds.
    AfterMs(u64),
    Never,
}

impl Task {
    /// A task that has not run yet.
    pub(crate) fn open(policy: RetryPolicy) -> (Self, Vec<Command>) {
        Self::recover(policy, None)
    }

    /// The task as its last record left it: an attempt that was running is run again, with the
    /// next number.
    pub(crate) fn recover(policy: RetryPolicy, last: Option<&Change>) -> (Self, Vec<Command>) {
        let mut task = Self {
            policy,
            attempt: 0,
            retries: 0,
            phase: Phase::Ready,
        };
        let command = match last {
            None | Some(Change::Done(_)) => Command::Request,
            Some(Change::Started { attempt, retries }) => {
                (task.attempt, task.retries) = (*attempt, *retries);
                Command::Request
            }
            Some(Change::Retrying {
                attempt,
                retries,
                at_ms,
            }) => {
                (task.attempt, task.retries) = (*attempt, *retries);
                task.phase = Phase::Delayed;
                Command::WakeAt { at_ms: *at_ms }
            }
        };
        (task, vec![command])
    }

    /// A slot is free for it.
    pub(crate) fn granted(&mut self) -> Vec<Command> {
        if self.phase != Phase::Ready {
            return Vec::new();
        }
        self.attempt += 1;
        self.phase = Phase::Running;
        vec![
            Command::Record(Change::Started {
                attempt: self.attempt,
                retries: self.retries,
            }),
            Command::Run {
                attempt: self.attempt,
            },
        ]
    }

    /// Attempt `attempt` has ended, at `now_ms`.
    pub(crate) fn finished(&mut self, attempt: u32, end: End, now_ms: u64) -> Vec<Command> {
        if self.phase != Phase::Running || attempt != self.attempt {
            return Vec::new();
        }
        let (failure, retry) = match end {
            End::Value(value) => {
                self.phase = Phase::Ended;
                return vec![Command::Report(Outcome::Success(value))];
            }
            End::Failure { failure, retry } => (failure, retry),
        };
        let backoff = self.policy.delay_after(self.retries);
        let delay_ms = match retry {
            Retry::Never => None,
            Retry::Backoff => backoff.map(|delay| delay.as_millis() as u64),
            Retry::AfterMs(delay) => backoff.map(|_| delay),
        };
        match delay_ms {
            Some(delay) => {
                self.retries += 1;
                self.phase = Phase::Delayed;
                let at_ms = now_ms.saturating_add(delay);
                vec![
                    Command::Record(Change::Retrying {
                        attempt,
                        retries: self.retries,
                        at_ms,
                    }),
                    Command::WakeAt { at_ms },
                ]
            }
            None => {
                self.phase = Phase::Ended;
                vec![Command::Report(Outcome::Failure(failure))]
            }
        }
    }

    /// The time of the next attempt has come.
    pub(crate) fn due(&mut self) -> Vec<Command> {
        if self.phase != Phase::Delayed {
            return Vec::new();
        }
        self.phase = Phase::Ready;
        vec![Command::Request]
    }
}
