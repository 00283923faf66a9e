//! The task: its attempts, from the request for a slot to the final outcome, and its subtasks.

use serde::{Deserialize, Serialize};

use super::subtasks::{self, Subtasks};
use super::{AttemptHistory, ChildProgress, Index, Purpose, Record, Report};
use crate::canvas::freeze::SubtaskPlan;
use crate::canvas::id::Seq;
use crate::canvas::options::{Options, When};
use crate::canvas::outcome::{FailureKind, Outcome, TaskFailure, Value};
use crate::canvas::parked::Misfit;
use crate::canvas::retry::RetryPolicy;
use crate::canvas::time::{Moment, Scale, Time};

/// Invariant: at most one attempt runs whose messages this machine accepts. `history.attempt` is
/// its number, and messages of earlier attempts are ignored.
#[derive(Debug)]
pub(crate) struct Task {
    /// The task's number in the workflow.
    seq: Seq,
    policy: RetryPolicy,
    history: AttemptHistory,
    /// The clock scale of the task's deadline.
    expires_on: Scale,
    phase: Phase,
    subtasks: Subtasks,
    /// Nothing of the task starts any more, and its outcome is ignored.
    revoked: bool,
}

#[derive(Debug)]
enum Phase {
    /// Waits for a slot.
    Ready,
    Running,
    /// Waits for the time of its next attempt.
    Delayed,
    /// Waits for another build, because this one cannot call the function.
    Parked,
    /// Another canvas runs in its place.
    Replaced,
    /// The task itself has ended; its calls or additions to its chord have not.
    Ending(FinalReport),
    Ended,
}

#[derive(Debug)]
enum FinalReport {
    Report(Box<Report>),
    Expire,
    Revoke,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Command {
    /// Ask the dispatcher for a slot.
    Request,
    Record(ChildProgress),
    /// Call the function once the start is on record, with these arguments if a retry gave any.
    Run {
        attempt: u32,
        args: Option<Value>,
    },
    /// Ask to be woken at this time.
    WakeAt(Moment),
    /// Wait for another build, or until the task is discarded. It then ends with this failure.
    Park(Box<TaskFailure>),
    Report(Report),
    /// Report that the task expired.
    Expire,
    /// Cancel this attempt.
    Cancel {
        attempt: u32,
    },
    /// Report that the task was revoked.
    Revoke,
    /// A command of its subtasks.
    Child(subtasks::Command),
}

/// The earliest start and the deadline of a task.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Schedule {
    pub(crate) eta: Option<Moment>,
    pub(crate) expires: Option<Moment>,
}

impl Schedule {
    /// Returns the schedule that a signature's options give to a task that could have started at
    /// `since_ms` on the steady scale.
    pub(crate) fn of(options: Option<&Options>, since_ms: u64) -> Self {
        let at = |when: When| when.from(since_ms);
        options.map_or_else(Self::default, |options| Self {
            eta: options.eta.map(at),
            expires: options.expires.map(at),
        })
    }
}

/// The outcome of one attempt.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum AttemptOutcome {
    Value(Value),
    Failure {
        /// The task's failure if there is no further attempt.
        failure: Box<TaskFailure>,
        retry: Retry,
        /// It counts for the task's breaker.
        counts: bool,
    },
    /// The task is replaced by this canvas.
    Replaced(SubtaskPlan),
    /// The arguments do not decode, so the function was not called.
    Unfit {
        /// The task's failure if it is not parked.
        failure: Box<TaskFailure>,
        misfit: Misfit,
    },
}

/// Whether another attempt follows a failed one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Retry {
    /// If retries are left.
    Auto,
    /// As the task asked.
    Asked {
        when: Option<When>,
        /// The arguments of the next attempt, as a list.
        args: Option<Value>,
        /// Replaces the policy's limit.
        max_retries: Option<u32>,
        /// It does not use up a retry, and needs none to be left.
        is_free: bool,
    },
    Never,
}

/// The time and the random number that the end of an attempt needs.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Now {
    pub(crate) time: Time,
    pub(crate) random: u64,
}

impl Task {
    /// Creates a task that has not run yet.
    pub(crate) fn open(
        seq: Seq,
        policy: RetryPolicy,
        schedule: Schedule,
        now: Time,
    ) -> (Self, Vec<Command>) {
        let mut task = Self {
            seq,
            policy,
            history: AttemptHistory::default(),
            expires_on: schedule.expires.map_or(Scale::Steady, |at| at.scale),
            phase: Phase::Ready,
            subtasks: Subtasks::default(),
            revoked: false,
        };
        if schedule.eta.is_none() && schedule.expires.is_none() {
            return (task, vec![Command::Request]);
        }
        // Both become moments here, once, so that a restart does not move them.
        let until = schedule.eta.unwrap_or(Moment::steady(now.steady_ms));
        task.history.expires_ms = schedule.expires.map(|expires| expires.ms);
        let waiting = ChildProgress::waiting(task.history.clone(), until);
        let mut commands = vec![Command::Record(waiting)];
        commands.extend(task.wait_until(until, now));
        (task, commands)
    }

    /// Restores the task from its last record and its own stream. An attempt that was running runs
    /// again, with the next number. `expires_on`: the clock scale of its deadline, if it has one.
    pub(crate) fn recover<'a>(
        seq: Seq,
        policy: RetryPolicy,
        expires_on: Scale,
        last: ChildProgress,
        records: impl IntoIterator<Item = &'a Record>,
        now: Time,
    ) -> (Self, Vec<Command>) {
        let (subtasks, children) = Subtasks::recover(records);
        let mut task = Self {
            seq,
            policy,
            history: AttemptHistory::default(),
            expires_on,
            phase: Phase::Ready,
            subtasks,
            revoked: false,
        };
        let mut commands: Vec<_> = children.into_iter().map(Command::Child).collect();
        if let Some((history, until)) = last.awaited() {
            task.history = history.clone();
            commands.extend(task.wait_until(until, now));
            return (task, commands);
        }
        // (If it has ended, its supervisor knows and does not start it.)
        if let ChildProgress::Started(history) = last {
            task.history = history;
        }
        if task.subtasks.has_replacement() {
            task.phase = Phase::Replaced;
        } else {
            commands.push(Command::Request);
        }
        (task, commands)
    }

    /// Returns whether the task has a deadline, so that the time at which it gets a slot matters.
    pub(crate) fn may_expire(&self) -> bool {
        self.history.expires_ms.is_some()
    }

    /// Handles the grant of a slot.
    pub(crate) fn granted(&mut self, now: Time) -> Vec<Command> {
        if !matches!(self.phase, Phase::Ready) {
            return Vec::new();
        }
        if self.has_expired(now) {
            return self.expire();
        }
        self.history.attempt += 1;
        self.phase = Phase::Running;
        vec![
            Command::Record(ChildProgress::Started(self.history.clone())),
            Command::Run {
                attempt: self.history.attempt,
                args: self.history.args.clone(),
            },
        ]
    }

    /// Ends a waiting or parked task with this failure.
    pub(crate) fn discarded(&mut self, failure: Box<TaskFailure>) -> Vec<Command> {
        match self.phase {
            Phase::Ready | Phase::Parked => self.end(Outcome::Failure(failure).into()),
            _ => Vec::new(),
        }
    }

    /// Revokes the task, because it or an ancestor was revoked. A waiting task ends now; a running
    /// one ends when its function returns, whatever it returns. If subtasks run in its place or
    /// delay its report, they are revoked as well.
    pub(crate) fn revoked(&mut self) -> Vec<Command> {
        if std::mem::replace(&mut self.revoked, true) {
            return Vec::new();
        }
        match self.phase {
            Phase::Ready | Phase::Delayed | Phase::Parked => self.report_end(FinalReport::Revoke),
            Phase::Running => vec![Command::Cancel {
                attempt: self.history.attempt,
            }],
            Phase::Replaced | Phase::Ending(_) | Phase::Ended => Vec::new(),
        }
    }

    /// Returns the kind of failure of this attempt, if it failed and its outcome counts.
    pub(crate) fn failure(&self, attempt: u32, outcome: &AttemptOutcome) -> Option<FailureKind> {
        match outcome {
            AttemptOutcome::Failure { failure, .. }
                if self.is_running(attempt) && !self.revoked =>
            {
                Some(failure.kind)
            }
            _ => None,
        }
    }

    /// Returns whether the task waits for the time of its next attempt.
    pub(crate) fn is_delayed(&self) -> bool {
        matches!(self.phase, Phase::Delayed)
    }

    /// Returns the number of the running or last attempt; 0 before the first.
    pub(crate) fn attempt(&self) -> u32 {
        self.history.attempt
    }

    pub(crate) fn is_revoked(&self) -> bool {
        self.revoked
    }

    /// Handles the end of attempt `attempt`.
    pub(crate) fn finished(
        &mut self,
        attempt: u32,
        outcome: AttemptOutcome,
        now: Now,
    ) -> Vec<Command> {
        if !self.is_running(attempt) {
            return Vec::new();
        }
        if self.revoked {
            return self.report_end(FinalReport::Revoke);
        }
        let (failure, retry) = match outcome {
            AttemptOutcome::Value(value) => return self.end(Outcome::Success(value).into()),
            AttemptOutcome::Replaced(plan) => {
                self.phase = Phase::Replaced;
                let (_, commands) = self.subtasks.name(Purpose::Replacement, "", plan);
                return commands.into_iter().map(Command::Child).collect();
            }
            AttemptOutcome::Unfit { failure, .. } => return self.park(failure, now),
            AttemptOutcome::Failure { failure, retry, .. } => (failure, retry),
        };
        let retries = self.history.retries;
        let (max_retries, when, args, is_free) = match retry {
            Retry::Never => return self.end(Outcome::Failure(failure).into()),
            Retry::Auto => {
                let delay = self.policy.delay(retries, now.random);
                (self.policy.max_retries, When::In(delay), None, false)
            }
            Retry::Asked {
                when,
                args,
                max_retries,
                is_free,
            } => {
                let when =
                    when.unwrap_or_else(|| When::In(self.policy.delay_asked(retries, now.random)));
                let max_retries = max_retries.unwrap_or(self.policy.max_retries);
                (max_retries, when, args, is_free)
            }
        };
        if !is_free {
            if retries >= max_retries {
                return self.end(Outcome::Failure(failure).into());
            }
            self.history.retries += 1;
        }
        if args.is_some() {
            self.history.args = args;
        }
        let until = when.from(now.time.steady_ms);
        // Every retry goes through the scheduler, because a task that retries at once must not
        // starve the others.
        self.phase = Phase::Delayed;
        vec![
            Command::Record(ChildProgress::waiting(self.history.clone(), until)),
            Command::WakeAt(until),
        ]
    }

    /// Parks the task and takes the attempt back: on record, the task waits for a time that has
    /// come.
    fn park(&mut self, failure: Box<TaskFailure>, now: Now) -> Vec<Command> {
        self.history.attempt -= 1;
        self.phase = Phase::Parked;
        vec![
            Command::Record(ChildProgress::waiting(
                self.history.clone(),
                Moment::steady(now.time.steady_ms),
            )),
            Command::Park(failure),
        ]
    }

    /// Returns whether a retry gave the arguments.
    pub(crate) fn has_given_args(&self) -> bool {
        self.history.args.is_some()
    }

    /// Replaces the arguments that a retry gave by a reference to where they are stored, so that
    /// large arguments are recorded once.
    pub(crate) fn args_are_kept(&mut self, args: Value) {
        self.history.args = Some(args);
    }

    /// Handles the time of the next attempt.
    pub(crate) fn due(&mut self, now: Time) -> Vec<Command> {
        if !matches!(self.phase, Phase::Delayed) {
            return Vec::new();
        }
        if self.has_expired(now) {
            return self.expire();
        }
        self.phase = Phase::Ready;
        vec![Command::Request]
    }

    /// Starts a subtask for attempt `attempt`; returns its index, or `None` if the attempt is over.
    pub(crate) fn start_subtask(
        &mut self,
        attempt: u32,
        purpose: Purpose,
        key: &str,
        plan: SubtaskPlan,
    ) -> Option<(Index, Vec<Command>)> {
        if !self.is_running(attempt) || self.revoked {
            return None;
        }
        let (index, commands) = self.subtasks.name(purpose, key, plan);
        Some((index, commands.into_iter().map(Command::Child).collect()))
    }

    /// Handles the end of its child `index`.
    pub(crate) fn child_ended(&mut self, index: Index, report: Report) -> Vec<Command> {
        if self.subtasks.purpose(index) == Some(Purpose::Replacement) {
            return match self.phase {
                Phase::Replaced => self.end(report),
                _ => Vec::new(),
            };
        }
        let commands = self.subtasks.ended(index, report);
        let mut commands: Vec<_> = commands.into_iter().map(Command::Child).collect();
        if !self.subtasks.is_open()
            && matches!(self.phase, Phase::Ending(_))
            && let Phase::Ending(report) = std::mem::replace(&mut self.phase, Phase::Ended)
        {
            commands.extend(self.report_end(report));
        }
        commands
    }

    /// Handles the exit of the actor of its child `index`. `lost`: the actor exited before it
    /// reported.
    pub(crate) fn child_stopped(&mut self, index: Index, lost: bool) -> Vec<Command> {
        let has_ended = matches!(self.phase, Phase::Ended);
        let lost = lost && !has_ended;
        let commands = self.subtasks.stopped(index, lost);
        commands.into_iter().map(Command::Child).collect()
    }

    /// Returns the purpose of its child `index`.
    pub(crate) fn purpose(&self, index: Index) -> Option<Purpose> {
        self.subtasks.purpose(index)
    }

    /// Returns whether this attempt runs, so that its outcome counts.
    pub(crate) fn is_running(&self, attempt: u32) -> bool {
        self.running() == Some(attempt)
    }

    /// Returns the number of the running attempt.
    pub(crate) fn running(&self) -> Option<u32> {
        matches!(self.phase, Phase::Running).then_some(self.history.attempt)
    }

    /// Ends the task. The report waits until all subtasks have ended, so every callback of theirs
    /// runs and no part of a workflow outlives it.
    fn end(&mut self, report: Report) -> Vec<Command> {
        self.report_end(FinalReport::Report(Box::new(report)))
    }

    fn report_end(&mut self, report: FinalReport) -> Vec<Command> {
        if self.subtasks.is_open() {
            self.phase = Phase::Ending(report);
            return Vec::new();
        }
        self.phase = Phase::Ended;
        if self.revoked {
            return vec![Command::Revoke];
        }
        vec![match report {
            FinalReport::Expire => Command::Expire,
            FinalReport::Revoke => Command::Revoke,
            FinalReport::Report(report) => Command::Report(self.with_additions(*report)),
        }]
    }

    /// Returns the task's own report with its additions to its chord.
    fn with_additions(&self, report: Report) -> Report {
        let Outcome::Success(value) = report.outcome else {
            return report;
        };
        let mut additions = self.subtasks.additions().peekable();
        let outcome = if additions.peek().is_none() {
            Outcome::Success(value)
        } else if let Some(failure) = additions.find_map(Outcome::failure) {
            Outcome::Failure(Box::new(failure.clone()))
        } else {
            let (own, mut seqs) = match value {
                Value::Extended { own, seqs } => (own, seqs),
                value => (Box::new(value), Vec::new()),
            };
            seqs.push(self.seq);
            Outcome::Success(Value::Extended { own, seqs })
        };
        Report { outcome, ..report }
    }

    fn wait_until(&mut self, until: Moment, now: Time) -> Vec<Command> {
        self.phase = Phase::Delayed;
        match now.has_reached(until) {
            true => self.due(now),
            false => vec![Command::WakeAt(until)],
        }
    }

    fn has_expired(&self, now: Time) -> bool {
        let scale = self.expires_on;
        let expires = self.history.expires_ms.map(|ms| Moment { scale, ms });
        expires.is_some_and(|expires| now.has_reached(expires))
    }

    fn expire(&mut self) -> Vec<Command> {
        self.report_end(FinalReport::Expire)
    }
}
