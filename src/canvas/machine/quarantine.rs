//! Quarantine: which tasks may have ended the process, which of them are tried alone, and which run
//! no more.

use std::collections::{BTreeMap, HashMap, HashSet};

use serde::{Deserialize, Serialize};

use crate::canvas::id::Id;

/// In how many milliseconds all are to have been tried, whatever their number.
const ALL_TRIALS_MS: u64 = 60_000;
/// The least and the most that each is tried for, at first.
const TRIAL_MS: (u64, u64) = (100, 5_000);
/// How often a trial is made four times as long, at most: one that ends the process late is found too.
const MAX_GROWTH: u32 = 4;
/// No trial is longer: nothing else starts meanwhile.
const LONGEST_MS: u64 = 300_000;

/// How the process before this one ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LastEnd {
    /// It stopped, and said so; or there was none.
    Clean,
    /// The machine went down with it: no task's fault.
    Outage,
    /// It was gone: killed from outside, or by a task.
    Crash,
}

/// What is on record of a task that was running when the process ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Suspect {
    pub(crate) name: String,
    /// The latest attempt whose end is in `crashes`, or is known not to belong there.
    pub(crate) attempt: u32,
    /// How many of its attempts ended with the process.
    pub(crate) crashes: u32,
    /// When the last of these was found out, in milliseconds since the Unix epoch.
    pub(crate) since_ms: u64,
    pub(crate) standing: Standing,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Standing {
    Suspected,
    /// The attempt behind the one noted is running, and nothing else is.
    Alone,
    /// The attempt behind the one noted has just been started, beside others on trial.
    Beside,
    /// The process ended when it had just been started beside others: it is tried first.
    Accused,
    Quarantined,
    /// It is to fail as soon as it is met.
    Discarded,
}

/// What becomes of a suspect's record: put, or deleted.
pub(crate) type Note = (Id, Option<Suspect>);

/// What a task that was running is to do now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Arrival {
    /// Nothing is held against it.
    Free,
    /// It runs as usual; its end is to be told.
    Watched,
    /// It waits until it is tried.
    Trial,
    Quarantined,
    /// It fails.
    Discarded,
}

/// The suspects, and the trials: `T` is what waits for one.
///
/// Invariant: a task is quarantined only if the process ended while it ran alone. So as long as only
/// tasks end the process, nobody is but who did.
#[derive(Debug)]
pub(crate) struct Quarantine<T> {
    last_end: LastEnd,
    /// So many crashes are enough.
    limit: u32,
    suspects: HashMap<Id, Suspect>,
    /// The workflows of those that may have to be tried.
    roots: HashSet<Id>,
    phase: Phase,
    /// Who waits for a trial: the last goes first. The accused are behind the others, and what a task
    /// has started, which has the higher number, is behind the task.
    waiting: BTreeMap<(bool, Id), T>,
    trial: Option<Trial>,
    /// Have outlived their trial, and still run.
    beside: HashSet<Id>,
    /// How long a first trial is.
    share_ms: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// What was running comes in; nothing starts.
    Gathering,
    /// Nothing starts but who is tried.
    Trying,
    /// Everything starts.
    Over,
}

#[derive(Debug)]
struct Trial {
    id: Id,
    until_ms: u64,
}

impl<T> Quarantine<T> {
    /// Looks at what is on record when the store is opened; returns what is to be put there instead.
    pub(crate) fn open(
        records: impl IntoIterator<Item = (Id, Suspect)>,
        last_end: LastEnd,
        limit: u32,
        now_ms: u64,
    ) -> (Self, Vec<Note>) {
        assert!(limit > 1, "the first crash says of nobody that it was he");
        let mut notes = Vec::new();
        let mut suspects = HashMap::new();
        for (id, before) in records {
            let after = judged(before.clone(), last_end, limit, now_ms);
            if after.as_ref() != Some(&before) {
                notes.push((id, after.clone()));
            }
            suspects.extend(after.map(|after| (id, after)));
        }
        let quarantine = Self {
            last_end,
            limit,
            phase: Phase::Over,
            roots: suspects.keys().map(|id: &Id| id.root()).collect(),
            suspects,
            waiting: BTreeMap::new(),
            trial: None,
            beside: HashSet::new(),
            share_ms: 0,
        };
        let phase = match quarantine.may_have_to_try() {
            true => Phase::Gathering,
            false => Phase::Over,
        };
        (
            Self {
                phase,
                ..quarantine
            },
            notes,
        )
    }

    /// Says whether, for all that is on record, one may come in that is to be tried. Mostly none
    /// may: after the first crash in a row nobody has to wait.
    fn may_have_to_try(&self) -> bool {
        let more = u32::from(self.last_end == LastEnd::Crash);
        let mut crashes = self.suspects.values().filter_map(|suspect| {
            use Standing::{Accused, Suspected};
            matches!(suspect.standing, Suspected | Accused).then_some(suspect.crashes)
        });
        more >= self.limit - 1 || crashes.any(|crashes| crashes + more >= self.limit - 1)
    }

    /// Nothing is to start but who is [next](Self::next).
    pub(crate) fn holds(&self) -> bool {
        self.phase != Phase::Over
    }

    /// Says whether a task of this workflow may have to be tried: it is to come in at once.
    pub(crate) fn awaits(&self, root: Id) -> bool {
        self.phase == Phase::Gathering && self.roots.contains(&root)
    }

    /// A task has come in whose attempt `attempt` was running when the process ended.
    pub(crate) fn arrived(
        &mut self,
        id: Id,
        name: &str,
        attempt: u32,
        now_ms: u64,
    ) -> (Arrival, Option<Note>) {
        let known = self.suspects.get(&id);
        match known.map(|suspect| suspect.standing) {
            Some(Standing::Quarantined) => return (Arrival::Quarantined, None),
            Some(Standing::Discarded) => return (Arrival::Discarded, None),
            _ => {}
        }
        let mut note = None;
        // Otherwise it did not run in the life before.
        if known.is_none_or(|suspect| suspect.attempt < attempt) {
            let crashes = known.map_or(0, |suspect| suspect.crashes);
            let crashes = match self.last_end {
                LastEnd::Clean => 0,
                LastEnd::Outage => crashes,
                LastEnd::Crash => crashes + 1,
            };
            let suspect = (crashes > 0).then(|| Suspect {
                name: name.to_owned(),
                attempt,
                crashes,
                since_ms: now_ms,
                standing: Standing::Suspected,
            });
            if known.is_some() || suspect.is_some() {
                note = Some((id, suspect.clone()));
            }
            match suspect {
                Some(suspect) => drop(self.suspects.insert(id, suspect)),
                None => drop(self.suspects.remove(&id)),
            }
        }
        let arrival = match self.suspects.get(&id) {
            None => Arrival::Free,
            Some(suspect) if self.holds() && suspect.crashes >= self.limit - 1 => Arrival::Trial,
            Some(_) => Arrival::Watched,
        };
        (arrival, note)
    }

    /// It is to be tried: with this it is started.
    pub(crate) fn wait(&mut self, id: Id, task: T) {
        let suspect = self.suspects.get(&id);
        let accused = suspect.is_some_and(|suspect| suspect.standing == Standing::Accused);
        // Its actor was lost.
        self.trial.take_if(|trial| trial.id == id);
        self.waiting.insert((accused, id), task);
    }

    /// All that was running has come in.
    pub(crate) fn gathered(&mut self) {
        if self.phase == Phase::Gathering {
            self.phase = Phase::Trying;
            let share = ALL_TRIALS_MS / (self.waiting.len() as u64).max(1);
            self.share_ms = share.clamp(TRIAL_MS.0, TRIAL_MS.1);
        }
    }

    /// Who is to be started now, of those that `can`, and until when he is on trial. When nobody is
    /// left, nothing is [held](Self::holds) any more, and those who cannot are the [rest](Self::rest).
    pub(crate) fn next(&mut self, now_ms: u64, can: impl Fn(&T) -> bool) -> Option<(T, u64)> {
        if self.phase != Phase::Trying || self.trial.is_some() {
            return None;
        }
        let key = self.waiting.iter().rev().find(|(_, task)| can(task));
        let Some(key) = key.map(|(key, _)| *key) else {
            self.phase = Phase::Over;
            return None;
        };
        let (_, id) = key;
        let crashes = self.suspects.get(&id).map_or(0, |suspect| suspect.crashes);
        let more = crashes.saturating_sub(self.limit - 1).min(MAX_GROWTH);
        let trial_ms = (self.share_ms << (2 * more)).min(LONGEST_MS);
        let until_ms = now_ms.saturating_add(trial_ms);
        self.trial = Some(Trial { id, until_ms });
        let task = self.waiting.remove(&key)?;
        Some((task, until_ms))
    }

    /// Those that could not be tried.
    pub(crate) fn rest(&mut self) -> Vec<T> {
        std::mem::take(&mut self.waiting).into_values().collect()
    }

    /// It is being started; the note goes into one batch with the record of that.
    pub(crate) fn started(&mut self, id: Id) -> Option<Note> {
        self.trial.as_ref().filter(|trial| trial.id == id)?;
        let suspect = self.suspects.get_mut(&id)?;
        suspect.standing = match self.beside.is_empty() {
            true => Standing::Alone,
            false => Standing::Beside,
        };
        Some((id, Some(suspect.clone())))
    }

    /// Who is on trial, and until when.
    pub(crate) fn trial(&self) -> Option<(Id, u64)> {
        let trial = self.trial.as_ref()?;
        Some((trial.id, trial.until_ms))
    }

    /// It goes on, and others beside it; the note goes before all that these do.
    pub(crate) fn outlived(&mut self, id: Id) -> Option<Note> {
        self.trial.take_if(|trial| trial.id == id)?;
        self.beside.insert(id);
        let suspect = self.suspects.get_mut(&id)?;
        suspect.standing = Standing::Suspected;
        Some((id, Some(suspect.clone())))
    }

    /// It has ended, and the process has not.
    pub(crate) fn cleared(&mut self, id: Id) -> Option<Note> {
        self.trial.take_if(|trial| trial.id == id);
        self.beside.remove(&id);
        // It may have been revoked before it was its turn.
        for accused in [false, true] {
            self.waiting.remove(&(accused, id));
        }
        self.suspects.remove(&id).map(|_| (id, None))
    }

    /// It is to run as if nothing had been. `None`: it is not in quarantine.
    pub(crate) fn requeue(&mut self, id: Id) -> Option<Note> {
        let suspect = self.quarantined_mut(id)?;
        // (Not deleted: what has been counted would be counted again after the next crash.)
        suspect.standing = Standing::Suspected;
        suspect.crashes = 0;
        Some((id, Some(suspect.clone())))
    }

    /// It is to fail. `None`: it is not in quarantine.
    pub(crate) fn discard(&mut self, id: Id) -> Option<Note> {
        let suspect = self.quarantined_mut(id)?;
        suspect.standing = Standing::Discarded;
        Some((id, Some(suspect.clone())))
    }

    fn quarantined_mut(&mut self, id: Id) -> Option<&mut Suspect> {
        let suspect = self.suspects.get_mut(&id)?;
        (suspect.standing == Standing::Quarantined).then_some(suspect)
    }

    /// The suspects of a workflow.
    pub(crate) fn suspects_of(&self, root: Id) -> Vec<Id> {
        let suspects = self.suspects.keys().copied();
        suspects.filter(|id| id.root() == root).collect()
    }

    pub(crate) fn suspect(&self, id: Id) -> Option<&Suspect> {
        self.suspects.get(&id)
    }

    /// Who is in quarantine.
    pub(crate) fn quarantined(&self) -> impl Iterator<Item = (Id, &Suspect)> {
        let all = self.suspects.iter().map(|(id, suspect)| (*id, suspect));
        all.filter(|(_, suspect)| suspect.standing == Standing::Quarantined)
    }
}

/// What is known of a suspect now that the process which it may have been running in has ended. Of one
/// that was on trial the record of its start stands beside, in the same batch; of the others it is
/// looked for as they come in.
fn judged(before: Suspect, last_end: LastEnd, limit: u32, now_ms: u64) -> Option<Suspect> {
    let alone = match before.standing {
        Standing::Alone => true,
        Standing::Beside => false,
        _ => return Some(before),
    };
    let attempt = before.attempt + 1;
    match last_end {
        LastEnd::Clean => None,
        LastEnd::Outage => Some(Suspect {
            attempt,
            standing: Standing::Suspected,
            ..before
        }),
        LastEnd::Crash => {
            let crashes = before.crashes + 1;
            Some(Suspect {
                attempt,
                crashes,
                since_ms: now_ms,
                standing: match alone && crashes >= limit {
                    true => Standing::Quarantined,
                    false => Standing::Accused,
                },
                ..before
            })
        }
    }
}

#[cfg(test)]
mod tests;
