//! What is on record of a suspect, and what an end of the process adds to it.

use serde::{Deserialize, Serialize};

/// What a crash weighs, in halves: whether it came from inside cannot be told, or it is known.
const MAYBE: u32 = 1;
const FAULT: u32 = 2;
/// How many trials as the prime suspect must have ended the process, if nothing says that the ends
/// came from inside.
const HITS: u32 = 3;

/// How the process before this one ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LastEnd {
    /// It stopped, and said so; or there was none.
    Clean,
    /// The machine went down with it, or it was killed while it was stopping: no task's fault.
    Outside,
    /// It was gone: killed from outside, or ended by a task.
    Unknown,
    /// It has aborted: a task did that.
    Inside,
}

impl LastEnd {
    /// What it weighs against a task that was running.
    fn weight(self) -> u32 {
        match self {
            Self::Clean | Self::Outside => 0,
            Self::Unknown => MAYBE,
            Self::Inside => FAULT,
        }
    }
}

/// What is on record of a task that was running when the process ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Suspect {
    pub(crate) name: String,
    /// The latest attempt whose end is in `crashes`, or is known not to belong there; of one that is
    /// on trial, or was in this life, that attempt.
    pub(crate) attempt: u32,
    /// How many of its attempts ended with the process.
    pub(crate) crashes: u32,
    /// When the last of these was found out, in milliseconds since the Unix epoch.
    pub(crate) since_ms: u64,
    pub(crate) standing: Standing,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Standing {
    /// This and the next three are in stores of format 1 only.
    Suspected,
    /// The attempt behind the one noted is running, and nothing else is.
    Alone,
    /// The attempt behind the one noted has just been started, beside others on trial.
    Beside,
    /// The process ended when it had just been started beside others.
    Accused,
    Quarantined,
    /// It is to fail as soon as it is met.
    Discarded,
    Tried(Evidence),
}

/// What speaks for and against a suspect.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Evidence {
    /// What the crashes weigh that may have been its own, in halves.
    pub(crate) weight: u32,
    /// How many of these, one after the other, found it on trial as the prime suspect.
    pub(crate) hits: u32,
    /// How often the process ended before it was started, or when it had outlived its trial.
    pub(crate) misses: u32,
    /// How often the process ended shortly after it had outlived its trial alone.
    pub(crate) late: u32,
    pub(crate) stage: Stage,
}

/// How far its trial is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Stage {
    /// It has not started; or it is not to be tried.
    #[default]
    Waiting,
    /// It has not started. The process has ended when it was on trial, as the one that started in
    /// this place.
    Accused { turn: u32 },
    /// It has not started. The process has ended when it was tried alone: it may live without it.
    Doubted,
    /// It is on trial beside others, as the one that started in this place.
    Among { turn: u32 },
    /// It is on trial, and nothing else is running.
    Alone,
    /// It has outlived its trial alone, a moment ago.
    Late,
    /// It is on trial beside others, after the process had lived without it for a while.
    Apart,
    /// It has outlived its trial, and goes on.
    Outlived,
}

impl Suspect {
    /// One that was running at its first crash, if that is one.
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

    /// One that is to fail, whatever it has done.
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

    /// What has spoken for it has been another's doing. Says whether there was any.
    pub(super) fn forget_misses(&mut self) -> bool {
        match &mut self.standing {
            Standing::Tried(evidence) => std::mem::take(&mut evidence.misses) > 0,
            _ => false,
        }
    }

    /// Says whether it has crashed so often that two crashes more are enough.
    pub(super) fn is_to_be_tried(&self, limit: u32) -> bool {
        let weight = self.evidence().map_or(0, |evidence| evidence.weight);
        weight >= needed(limit).saturating_sub(2 * FAULT)
    }

    /// Attempt `attempt` was running, and no more than that is on record.
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

    /// What is known of it now that the process has ended in which it may have been running. Of one
    /// that was not tried that is looked for as it comes in.
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

    /// One that an earlier version has written, in today's words.
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
    /// The process has ended, and that was no task's doing: the trial is to be held again.
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

    /// Says whether the ends of the process are enough though the last is not known to come from
    /// inside. Each that must have had another cause makes it more likely that others had it, too;
    /// and the longer the trials, the more likely they are to meet such an end.
    fn is_enough(&self, limit: u32, stage: Stage) -> bool {
        let hits = HITS + self.misses + 2 * self.late;
        matches!(stage, Stage::Alone | Stage::Apart)
            && self.hits >= hits
            && self.weight >= needed(limit)
    }
}

/// What so many crashes from inside weigh.
fn needed(limit: u32) -> u32 {
    limit.saturating_mul(FAULT)
}
