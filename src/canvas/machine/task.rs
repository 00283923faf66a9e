//! The task: its attempts, from a free slot to the last outcome, and what it starts itself.

use super::subtasks::{self, SubtaskPlan, Subtasks};
use super::{AttemptHistory, ChildProgress, Index, Purpose, Record, Report};
use crate::canvas::id::Seq;
use crate::canvas::options::{Options, When};
use crate::canvas::outcome::{FailureKind, Outcome, TaskFailure, Value};
use crate::canvas::parked::Misfit;
use crate::canvas::retry::RetryPolicy;
use crate::canvas::time::{Moment, Scale, Time};

/// Invariant: at most one attempt runs that this machine will listen to; `past.attempt` is its
/// number and fences all earlier ones.
#[derive(Debug)]
pub(crate) struct Task {
    /// Its number in the workflow.
    seq: Seq,
    policy: RetryPolicy,
    past: AttemptHistory,
    /// On which its deadline is.
    expires_on: Scale,
    phase: Phase,
    offspring: Subtasks,
    /// Nothing of it starts any more, and what it says is not heard.
    revoked: bool,
}

#[derive(Debug)]
enum Phase {
    /// Waits for a slot.
    Ready,
    Running,
    /// Waits for the time of its next attempt.
    Delayed,
    /// This build cannot call it; another may.
    Parked,
    /// Another canvas has its place.
    Replaced,
    /// It has ended itself; what it called, or added to its chord, has not.
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
    /// Call the function, once that is on record; with these arguments, if a retry gave any.
    Run {
        attempt: u32,
        args: Option<Value>,
    },
    /// Ask to be woken then.
    WakeAt(Moment),
    /// It waits for another build, or until it is discarded: then it ends with this.
    Park(Box<TaskFailure>),
    Report(Report),
    /// Report that it expired.
    Expire,
    /// Tell this attempt that it is to end.
    Cancel {
        attempt: u32,
    },
    /// Report that it was revoked.
    Revoke,
    /// What its own children ask for.
    Child(subtasks::Command),
}

/// When a task may start.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Schedule {
    pub(crate) eta: Option<Moment>,
    pub(crate) expires: Option<Moment>,
}

impl Schedule {
    /// As these options of a signature say, of a task that could have started at `since_ms` on the steady
    /// scale.
    pub(crate) fn of(options: Option<&Options>, since_ms: u64) -> Self {
        let at = |when: When| when.from(since_ms);
        options.map_or_else(Self::default, |options| Self {
            eta: options.eta.map(at),
            expires: options.expires.map(at),
        })
    }
}

/// How one attempt ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum AttemptOutcome {
    Value(Value),
    Failure {
        /// What it ends with if there is no further attempt.
        failure: Box<TaskFailure>,
        retry: Retry,
    },
    /// It becomes this canvas.
    Replaced(SubtaskPlan),
    /// Its arguments do not decode, so the function was not called.
    Unfit {
        /// What it ends with if it is not parked.
        failure: Box<TaskFailure>,
        misfit: Misfit,
    },
}

/// Whether a failed attempt is followed by another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Retry {
    /// If there are retries left.
    Auto,
    /// As the task has asked.
    Asked {
        when: Option<When>,
        /// The list of arguments of the next attempt.
        args: Option<Value>,
        /// In place of the policy's.
        max_retries: Option<u32>,
    },
    Never,
}

/// What is to be known of the moment in which an attempt fails.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Now {
    pub(crate) time: Time,
    pub(crate) random: u64,
}

impl Task {
    /// A task that has not run yet.
    pub(crate) fn open(
        seq: Seq,
        policy: RetryPolicy,
        schedule: Schedule,
        now: Time,
    ) -> (Self, Vec<Command>) {
        let mut task = Self {
            seq,
            policy,
            past: AttemptHistory::default(),
            expires_on: schedule.expires.map_or(Scale::Steady, |at| at.scale),
            phase: Phase::Ready,
            offspring: Subtasks::default(),
            revoked: false,
        };
        if schedule.eta.is_none() && schedule.expires.is_none() {
            return (task, vec![Command::Request]);
        }
        // Both become moments, once.
        let until = schedule.eta.unwrap_or(Moment::steady(now.steady_ms));
        task.past.expires_ms = schedule.expires.map(|expires| expires.ms);
        let waiting = ChildProgress::waiting(task.past.clone(), until);
        let mut commands = vec![Command::Record(waiting)];
        commands.extend(task.wait_until(until, now));
        (task, commands)
    }

    /// The task as its last record and its own stream left it: an attempt that was running is run
    /// again, with the next number. `expires_on`: on which scale its deadline is, if it has one.
    pub(crate) fn recover<'a>(
        seq: Seq,
        policy: RetryPolicy,
        expires_on: Scale,
        last: ChildProgress,
        records: impl IntoIterator<Item = &'a Record>,
        now: Time,
    ) -> (Self, Vec<Command>) {
        let (offspring, children) = Subtasks::recover(records);
        let mut task = Self {
            seq,
            policy,
            past: AttemptHistory::default(),
            expires_on,
            phase: Phase::Ready,
            offspring,
            revoked: false,
        };
        let mut commands: Vec<_> = children.into_iter().map(Command::Child).collect();
        if let Some((past, until)) = last.awaited() {
            task.past = past.clone();
            commands.extend(task.wait_until(until, now));
            return (task, commands);
        }
        // (Its supervisor knows if it has ended, and does not start it.)
        if let ChildProgress::Started(past) = last {
            task.past = past;
        }
        if task.offspring.has_replacement() {
            task.phase = Phase::Replaced;
        } else {
            commands.push(Command::Request);
        }
        (task, commands)
    }

    /// Says whether it matters when a slot is free for it.
    pub(crate) fn may_expire(&self) -> bool {
        self.past.expires_ms.is_some()
    }

    /// A slot is free for it.
    pub(crate) fn granted(&mut self, now: Time) -> Vec<Command> {
        if !matches!(self.phase, Phase::Ready) {
            return Vec::new();
        }
        if self.has_expired(now) {
            return self.expire();
        }
        self.past.attempt += 1;
        self.phase = Phase::Running;
        vec![
            Command::Record(ChildProgress::Started(self.past.clone())),
            Command::Run {
                attempt: self.past.attempt,
                args: self.past.args.clone(),
            },
        ]
    }

    /// It is not to run any more, and ends with this.
    pub(crate) fn discarded(&mut self, failure: Box<TaskFailure>) -> Vec<Command> {
        match self.phase {
            Phase::Ready | Phase::Parked => self.end(Outcome::Failure(failure).into()),
            _ => Vec::new(),
        }
    }

    /// It is revoked, or what it is a part of. What waits ends now; what runs, when its function has,
    /// whatever that gives; and where others have its place, or keep its last word back, these are
    /// revoked as well.
    pub(crate) fn revoked(&mut self) -> Vec<Command> {
        if std::mem::replace(&mut self.revoked, true) {
            return Vec::new();
        }
        match self.phase {
            Phase::Ready | Phase::Delayed | Phase::Parked => self.report_end(FinalReport::Revoke),
            Phase::Running => vec![Command::Cancel {
                attempt: self.past.attempt,
            }],
            Phase::Replaced | Phase::Ending(_) | Phase::Ended => Vec::new(),
        }
    }

    /// Returns how this attempt has failed, if it has, and its end is heard.
    pub(crate) fn failure(&self, attempt: u32, end: &AttemptOutcome) -> Option<FailureKind> {
        match end {
            AttemptOutcome::Failure { failure, .. }
                if self.is_running(attempt) && !self.revoked =>
            {
                Some(failure.kind)
            }
            _ => None,
        }
    }

    /// Says whether it waits for the time of its next attempt.
    pub(crate) fn is_delayed(&self) -> bool {
        matches!(self.phase, Phase::Delayed)
    }

    /// The number of the attempt that runs, or ran last; 0 before the first.
    pub(crate) fn attempt(&self) -> u32 {
        self.past.attempt
    }

    pub(crate) fn is_revoked(&self) -> bool {
        self.revoked
    }

    /// Attempt `attempt` has ended.
    pub(crate) fn finished(&mut self, attempt: u32, end: AttemptOutcome, now: Now) -> Vec<Command> {
        if !self.is_running(attempt) {
            return Vec::new();
        }
        if self.revoked {
            return self.report_end(FinalReport::Revoke);
        }
        let (failure, retry) = match end {
            AttemptOutcome::Value(value) => return self.end(Outcome::Success(value).into()),
            AttemptOutcome::Replaced(graft) => {
                self.phase = Phase::Replaced;
                let (_, commands) = self.offspring.name(Purpose::Replacement, "", graft);
                return commands.into_iter().map(Command::Child).collect();
            }
            AttemptOutcome::Unfit { failure, .. } => return self.park(failure, now),
            AttemptOutcome::Failure { failure, retry } => (failure, retry),
        };
        let retries = self.past.retries;
        let (max_retries, when, args) = match retry {
            Retry::Never => return self.end(Outcome::Failure(failure).into()),
            Retry::Auto => {
                let delay = self.policy.delay(retries, now.random);
                (self.policy.max_retries, When::In(delay), None)
            }
            Retry::Asked {
                when,
                args,
                max_retries,
            } => {
                let when =
                    when.unwrap_or_else(|| When::In(self.policy.delay_asked(retries, now.random)));
                let max_retries = max_retries.unwrap_or(self.policy.max_retries);
                (max_retries, when, args)
            }
        };
        if retries >= max_retries {
            return self.end(Outcome::Failure(failure).into());
        }
        self.past.retries += 1;
        if args.is_some() {
            self.past.args = args;
        }
        let until = when.from(now.time.steady_ms);
        // Always by way of the scheduler: a task that retries at once must not starve the others.
        self.phase = Phase::Delayed;
        vec![
            Command::Record(ChildProgress::waiting(self.past.clone(), until)),
            Command::WakeAt(until),
        ]
    }

    /// The attempt is as if it had not been: on record it waits for its time, which has come.
    fn park(&mut self, failure: Box<TaskFailure>, now: Now) -> Vec<Command> {
        self.past.attempt -= 1;
        self.phase = Phase::Parked;
        vec![
            Command::Record(ChildProgress::waiting(
                self.past.clone(),
                Moment::steady(now.time.steady_ms),
            )),
            Command::Park(failure),
        ]
    }

    /// Says whether a retry gave the arguments.
    pub(crate) fn has_given_args(&self) -> bool {
        self.past.args.is_some()
    }

    /// Where the arguments that a retry gave are kept: what is large is recorded once.
    pub(crate) fn args_are_kept(&mut self, args: Value) {
        self.past.args = Some(args);
    }

    /// The time of its next attempt has come.
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

    /// Attempt `attempt` wants a child; returns the child's index, unless the attempt is over.
    pub(crate) fn wants(
        &mut self,
        attempt: u32,
        purpose: Purpose,
        key: &str,
        graft: SubtaskPlan,
    ) -> Option<(Index, Vec<Command>)> {
        if !self.is_running(attempt) || self.revoked {
            return None;
        }
        let (index, commands) = self.offspring.name(purpose, key, graft);
        Some((index, commands.into_iter().map(Command::Child).collect()))
    }

    /// Its child `index` has ended.
    pub(crate) fn child_ended(&mut self, index: Index, report: Report) -> Vec<Command> {
        if self.offspring.purpose(index) == Some(Purpose::Replacement) {
            return match self.phase {
                Phase::Replaced => self.end(report),
                _ => Vec::new(),
            };
        }
        let commands = self.offspring.ended(index, report);
        let mut commands: Vec<_> = commands.into_iter().map(Command::Child).collect();
        if !self.offspring.is_open()
            && matches!(self.phase, Phase::Ending(_))
            && let Phase::Ending(word) = std::mem::replace(&mut self.phase, Phase::Ended)
        {
            commands.extend(self.report_end(word));
        }
        commands
    }

    /// The actor of its child `index` is gone; `lost`: before it had reported.
    pub(crate) fn child_stopped(&mut self, index: Index, lost: bool) -> Vec<Command> {
        let over = matches!(self.phase, Phase::Ended);
        let lost = lost && !over;
        let commands = self.offspring.stopped(index, lost);
        commands.into_iter().map(Command::Child).collect()
    }

    /// What its child `index` is for.
    pub(crate) fn purpose(&self, index: Index) -> Option<Purpose> {
        self.offspring.purpose(index)
    }

    /// Says whether this attempt runs, and its end is heard.
    pub(crate) fn is_running(&self, attempt: u32) -> bool {
        self.running() == Some(attempt)
    }

    /// Returns the number of the attempt that runs.
    pub(crate) fn running(&self) -> Option<u32> {
        matches!(self.phase, Phase::Running).then_some(self.past.attempt)
    }

    /// It has ended, and with it all, once what it has started has ended: so every callback of
    /// that runs, and nothing of a workflow outlives it.
    fn end(&mut self, report: Report) -> Vec<Command> {
        self.report_end(FinalReport::Report(Box::new(report)))
    }

    fn report_end(&mut self, word: FinalReport) -> Vec<Command> {
        if self.offspring.is_open() {
            self.phase = Phase::Ending(word);
            return Vec::new();
        }
        self.phase = Phase::Ended;
        if self.revoked {
            return vec![Command::Revoke];
        }
        vec![match word {
            FinalReport::Expire => Command::Expire,
            FinalReport::Revoke => Command::Revoke,
            FinalReport::Report(report) => Command::Report(self.with_additions(*report)),
        }]
    }

    /// Its own report, with what it has added to its chord.
    fn with_additions(&self, report: Report) -> Report {
        let Outcome::Success(value) = report.outcome else {
            return report;
        };
        let mut additions = self.offspring.additions().peekable();
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
        let expires = self.past.expires_ms.map(|ms| Moment { scale, ms });
        expires.is_some_and(|expires| now.has_reached(expires))
    }

    fn expire(&mut self) -> Vec<Command> {
        self.report_end(FinalReport::Expire)
    }
}
