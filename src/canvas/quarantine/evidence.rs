//! The record of a suspect, and how a crash changes it.

use serde::{Deserialize, Serialize};

/// The weight of a crash, in halves: the origin is unknown, or the crash is known to come from
/// inside.
const MAYBE: u32 = 1;
const FAULT: u32 = 2;
/// How many trials as the prime suspect must have ended with a crash if no crash is known to come
/// from inside.
const HITS: u32 = 3;

/// How the previous process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LastEnd {
    /// It shut down properly, or there was no previous process.
    Clean,
    /// The machine went down with it, or it was killed while it was stopping: no task is at fault.
    Outside,
    /// It disappeared: it was killed from outside or crashed by a task.
    Unknown,
    /// It aborted: a task is at fault.
    Inside,
}

impl LastEnd {
    /// Returns the weight of this end against a task that was running.
    fn weight(self) -> u32 {
        match self {
            Self::Clean | Self::Outside => 0,
            Self::Unknown => MAYBE,
            Self::Inside => FAULT,
        }
    }
}

/// The stored record of a task that was running when the process ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Suspect {
    pub(crate) name: String,
    /// The latest attempt that is counted in `crashes` or known not to count. For a task that is on
    /// trial, or was in this session, the attempt on trial.
    pub(crate) attempt: u32,
    /// How many of its attempts ended in a crash.
    pub(crate) crashes: u32,
    /// When the last of these crashes was detected, in milliseconds since the Unix epoch.
    pub(crate) since_ms: u64,
    pub(crate) standing: Standing,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Standing {
    /// This and the next three occur in stores of format 1 only.
    Suspected,
    /// The attempt after the recorded one is running, and nothing else is.
    Alone,
    /// The attempt after the recorded one has just started, beside others on trial.
    Beside,
    /// The process ended when the task had just started beside others.
    Accused,
    Quarantined,
    /// The task fails as soon as it is loaded.
    Discarded,
    Tried(Evidence),
}

/// The evidence for and against a suspect.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Evidence {
    /// The total weight of the crashes that the task may have caused, in halves.
    pub(crate) weight: u32,
    /// How many of these crashes, in a row, happened while the task was on trial as the prime
    /// suspect.
    pub(crate) hits: u32,
    /// How often the process crashed before the task started or after the task had outlived its
    /// trial.
    pub(crate) misses: u32,
    /// How often the process crashed shortly after the task had outlived its trial alone.
    pub(crate) late: u32,
    pub(crate) stage: Stage,
}

/// The stage of a suspect's trial.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Stage {
    /// The task has not started, or needs no trial.
    #[default]
    Waiting,
    /// The task has not started. The process crashed while it was on trial as the suspect with this
    /// start number.
    Accused { turn: u32 },
    /// The task has not started. The process crashed while it was tried alone, and now runs without
    /// it for a while.
    Doubted,
    /// The task is on trial beside others, as the suspect with this start number.
    Among { turn: u32 },
    /// The task is on trial, and nothing else is running.
    Alone,
    /// The task has just outlived its trial alone.
    Late,
    /// The task is on trial beside others, after the process had run without it for a while.
    Apart,
    /// The task has outlived its trial and still runs.
    Outlived,
}

impl Suspect {
    /// Returns the suspect for a task that was running at its first crash, or `None` if that end
    /// was no crash.
    pub(super) fn new(name: &str, attempt: u32, last_end: LastEnd, now_ms: u64) -> Option<Self> {
        let first = Self {
            name: name.to_owned(),
            attempt: 0,
            crashes: 0,
            since_ms: now_ms,
            standing: Standing::Tried(Evidence::default()),
        };
        let suspect = first.ran(attempt, last_end, now_ms)?;
        (suspect.crashes > 0).then_some(suspect)
    }

    /// Returns the record of a discarded task.
    pub(super) fn discarded(name: &str, now_ms: u64) -> Self {
        Self {
            name: name.to_owned(),
            attempt: 0,
            crashes: 0,
            since_ms: now_ms,
            standing: Standing::Discarded,
        }
    }

    pub(super) fn evidence(&self) -> Option<&Evidence> {
        match &self.standing {
            Standing::Tried(evidence) => Some(evidence),
            _ => None,
        }
    }

    pub(super) fn stage(&mut self, stage: Stage) {
        if let Standing::Tried(evidence) = &mut self.standing {
            evidence.stage = stage;
        }
    }

    /// Clears the misses, because another task caused them; returns whether there were any.
    pub(super) fn forget_misses(&mut self) -> bool {
        match &mut self.standing {
            Standing::Tried(evidence) => std::mem::take(&mut evidence.misses) > 0,
            _ => false,
        }
    }

    /// Returns whether the task has crashed so often that two more crashes are enough.
    pub(super) fn is_to_be_tried(&self, limit: u32) -> bool {
        let weight = self.evidence().map_or(0, |evidence| evidence.weight);
        weight >= needed(limit).saturating_sub(2 * FAULT)
    }

    /// Adds the end of attempt `attempt`, which was running and is not on trial.
    pub(super) fn ran(mut self, attempt: u32, last_end: LastEnd, now_ms: u64) -> Option<Self> {
        self.attempt = attempt;
        if last_end == LastEnd::Clean {
            return None;
        }
        self.crashed(last_end, now_ms);
        if let Standing::Tried(evidence) = &mut self.standing {
            evidence.weight += last_end.weight();
        }
        Some(self)
    }

    fn crashed(&mut self, last_end: LastEnd, now_ms: u64) {
        if last_end.weight() > 0 {
            self.crashes += 1;
            self.since_ms = now_ms;
        }
    }

    /// Assesses the suspect after the end of a process in which it may have been running. A suspect
    /// that was not on trial is assessed when it is loaded.
    pub(super) fn assess(self, last_end: LastEnd, limit: u32, now_ms: u64) -> Option<Self> {
        let mut suspect = self.of_this_format();
        let is_to_be_tried = suspect.is_to_be_tried(limit);
        let Standing::Tried(mut evidence) = suspect.standing else {
            return Some(suspect);
        };
        let stage = evidence.stage;
        let was_running = !matches!(
            stage,
            Stage::Waiting | Stage::Accused { .. } | Stage::Doubted
        );
        if was_running {
            if last_end == LastEnd::Clean {
                return None;
            }
            suspect.crashed(last_end, now_ms);
        }
        match last_end.weight() {
            0 => evidence.interrupted(),
            _ if !was_running && !is_to_be_tried => {}
            weight => evidence.crashed(last_end, weight),
        }
        let is_enough = match last_end {
            LastEnd::Inside => stage == Stage::Alone && evidence.weight >= needed(limit),
            _ => was_running && last_end.weight() > 0 && evidence.is_enough(limit, stage),
        };
        suspect.standing = match is_enough {
            true => Standing::Quarantined,
            false => Standing::Tried(evidence),
        };
        Some(suspect)
    }

    /// Converts the record of an earlier format.
    fn of_this_format(mut self) -> Self {
        let stage = match self.standing {
            Standing::Suspected => Stage::Waiting,
            Standing::Accused => Stage::Accused { turn: 0 },
            Standing::Alone | Standing::Beside => {
                self.attempt += 1;
                Stage::Among { turn: 0 }
            }
            Standing::Quarantined | Standing::Discarded | Standing::Tried(_) => return self,
        };
        self.standing = Standing::Tried(Evidence {
            weight: self.crashes,
            stage,
            ..Evidence::default()
        });
        self
    }
}

impl Evidence {
    /// Resets the stage after an end that no task caused, so that the trial is repeated.
    fn interrupted(&mut self) {
        self.stage = match self.stage {
            Stage::Alone => Stage::Accused { turn: 0 },
            Stage::Apart => Stage::Doubted,
            stage @ (Stage::Accused { .. } | Stage::Doubted) => stage,
            _ => Stage::Waiting,
        };
    }

    fn crashed(&mut self, last_end: LastEnd, weight: u32) {
        match self.stage {
            Stage::Waiting | Stage::Accused { .. } | Stage::Doubted | Stage::Outlived => {
                self.misses += u32::from(last_end == LastEnd::Unknown);
                self.hits = 0;
                self.stage = Stage::Waiting;
                return;
            }
            Stage::Among { turn } => self.stage = Stage::Accused { turn },
            Stage::Late => {
                self.late += 1;
                self.hits = 0;
                self.stage = Stage::Accused { turn: 0 };
            }
            Stage::Alone => {
                self.hits += 1;
                self.stage = match last_end {
                    LastEnd::Inside => Stage::Accused { turn: 0 },
                    _ => Stage::Doubted,
                };
            }
            Stage::Apart => {
                self.hits += 1;
                self.stage = Stage::Accused { turn: 0 };
            }
        }
        self.weight += weight;
    }

    /// Returns whether the crashes are enough although the last one is not known to come from
    /// inside. Each crash that must have had another cause makes it more likely that others had one
    /// too, and the longer the trials, the more likely they coincide with such a crash.
    fn is_enough(&self, limit: u32, stage: Stage) -> bool {
        let hits = HITS + self.misses + 2 * self.late;
        matches!(stage, Stage::Alone | Stage::Apart)
            && self.hits >= hits
            && self.weight >= needed(limit)
    }
}

/// Returns the weight of this many crashes from inside.
fn needed(limit: u32) -> u32 {
    limit.saturating_mul(FAULT)
}
