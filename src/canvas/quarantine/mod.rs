//! Quarantine: decides which tasks may have crashed the process, how each of them is tried, and
//! which ones no longer run. (DESIGN.md gives the reasons.)

mod evidence;
pub(crate) mod policy;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};

pub(crate) use self::evidence::{Evidence, LastEnd, Stage, Standing, Suspect};
use super::id::Id;

/// By this time after the open, the last suspect has started, however many there are. This and all
/// other times are in milliseconds.
const BOUND_MS: u64 = 10_000;
const _: () = assert!(GATHER_MS + SPREAD_MS < BOUND_MS && CONTROL_MS < SPREAD_MS);
/// How long the trials wait until the tasks that were running are loaded from the store.
const GATHER_MS: u64 = 1_000;
/// The time within which the suspects start one after the other, including the prime suspect's time
/// alone.
const SPREAD_MS: u64 = 8_000;
/// How long the process must run without a suspect before the suspect is tried beside other tasks.
const CONTROL_MS: u64 = 4_000;
/// The shortest time for which a suspect is tried alone. Nothing else starts meanwhile.
const ALONE_MS: u64 = 250;
/// The longest time alone, for a suspect whose process crashed shortly after its earlier trials:
/// two steps, each four times as long as the one before.
const MAX_LATE: u32 = 2;
/// The shortest and the longest trial after a suspect's start.
const TRIAL_MS: (u64, u64) = (1_000, 4_000);

/// A change of a suspect's record: `Some` is put, `None` is deleted.
pub(crate) type SuspectUpdate = (Id, Option<Suspect>);

/// What to do with a task that was running when the process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SuspectStatus {
    /// The task is no suspect.
    Free,
    /// The task runs as usual; its end must be reported.
    Watched,
    /// The task waits for its trial.
    Trial,
    Quarantined,
    /// The task fails.
    Discarded,
}

/// The suspects and their trials. `T` is the waiting start of a task.
///
/// Only suspects wait. They start one after the other, beside all other work, and the ones on trial
/// when the process ends are accused. One of the accused, the prime suspect, starts first in the
/// next session and runs alone for a moment. Unless the crash is known to come from inside, the
/// session after that first runs without the prime suspect for some seconds: if the process ends
/// meanwhile, the crash has another cause.
///
/// Invariant: a task is quarantined only if the process ended while it was the prime suspect on
/// trial.
#[derive(Debug)]
pub(crate) struct Quarantine<T> {
    last_end: LastEnd,
    /// This many crashes from inside are enough, or twice as many of unknown cause.
    limit: u32,
    /// Ordered by id, so the suspects of one workflow are adjacent.
    suspects: BTreeMap<Id, Suspect>,
    /// The workflows of the tasks that may need a trial.
    roots: HashSet<Id>,
    /// The suspect that is tried alone, or without the suspects before it.
    prime: Option<Id>,
    phase: Phase,
    /// Until this time only the prime suspect starts.
    hold_until: Option<u64>,
    /// No suspect starts before this time.
    quiet_until: u64,
    waiting: HashMap<Id, T>,
    /// The trials in order, each with its latest start. Some of the tasks may have ended before.
    schedule: VecDeque<(u64, Id)>,
    trials: HashMap<Id, Trial>,
    /// The trials, ordered by their ends.
    ends: BTreeSet<(u64, Id)>,
    /// The length of a trial, except the prime suspect's.
    trial_ms: u64,
    /// How many suspects have started.
    started_count: u32,
}

/// The trial of one suspect.
#[derive(Clone, Copy, Debug)]
struct Trial {
    until_ms: u64,
    /// The task has got its slot as well.
    has_started: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// The tasks that were running are being loaded, until this time at the latest.
    Gathering { until_ms: u64 },
    /// All of them are loaded.
    Gathered,
    /// The schedule is made. A suspect that is loaded now starts at once.
    Trying,
}

impl<T> Quarantine<T> {
    /// Assesses the records of suspects when the store is opened; also returns the records to
    /// change. `now_ms` is on the wall clock; all times of the other methods are on the clock of
    /// the trials.
    pub(crate) fn open(
        records: impl IntoIterator<Item = (Id, Suspect)>,
        last_end: LastEnd,
        limit: u32,
        now_ms: u64,
    ) -> (Self, Vec<SuspectUpdate>) {
        assert!(
            limit > 2,
            "one crash makes a suspect, one accuses it, one proves it"
        );
        let mut updates = BTreeMap::new();
        let mut suspects = BTreeMap::new();
        let mut is_explained = false;
        for (id, before) in records {
            let after = before.clone().assess(last_end, limit, now_ms);
            if after.as_ref() != Some(&before) {
                updates.insert(id, after.clone());
            }
            let Some(after) = after else { continue };
            is_explained |=
                after.standing == Standing::Quarantined && before.standing != Standing::Quarantined;
            suspects.insert(id, after);
        }
        if is_explained {
            // The crashes that spoke for the other suspects were caused by the new quarantined one.
            for (id, suspect) in &mut suspects {
                if suspect.forget_misses() {
                    updates.insert(*id, Some(suspect.clone()));
                }
            }
        }
        let prime = prime_of(&suspects);
        let is_alone = prime.is_some_and(|id| {
            let stage = suspects[&id].evidence().map(|evidence| evidence.stage);
            matches!(stage, Some(Stage::Accused { .. }))
        });
        let quarantine = Self {
            last_end,
            limit,
            roots: suspects.keys().map(|id: &Id| id.root()).collect(),
            suspects,
            prime,
            phase: Phase::Gathering { until_ms: u64::MAX },
            hold_until: is_alone.then_some(u64::MAX),
            quiet_until: 0,
            waiting: HashMap::new(),
            schedule: VecDeque::new(),
            trials: HashMap::new(),
            ends: BTreeSet::new(),
            trial_ms: TRIAL_MS.0,
            started_count: 0,
        };
        (quarantine, updates.into_iter().collect())
    }

    /// Starts the clock of the trials. In an app that was started paused, the tasks that were
    /// running may be loaded by now.
    pub(crate) fn begin(&mut self, now_ms: u64) {
        let mut until_ms = now_ms.saturating_add(GATHER_MS);
        let stage = self.prime.and_then(|id| self.stage_of(id));
        if let Some(hold_until) = &mut self.hold_until {
            *hold_until = until_ms;
        } else if stage == Some(Stage::Doubted) {
            until_ms = now_ms.saturating_add(CONTROL_MS);
            self.quiet_until = until_ms;
        }
        if let Phase::Gathering { .. } = self.phase {
            self.phase = Phase::Gathering { until_ms };
        }
    }

    /// Returns whether only the prime suspect may start.
    pub(crate) fn is_holding(&self) -> bool {
        self.hold_until.is_some()
    }

    /// Returns whether a task of this workflow may need a trial, so that the workflow must be
    /// loaded at once.
    pub(crate) fn awaits(&self, root: Id) -> bool {
        matches!(self.phase, Phase::Gathering { .. }) && self.roots.contains(&root)
    }

    /// Handles the load of a task whose attempt `attempt` was running when the process ended.
    pub(crate) fn arrived(
        &mut self,
        id: Id,
        name: &str,
        attempt: u32,
        now_ms: u64,
    ) -> (SuspectStatus, Option<SuspectUpdate>) {
        let known = self.suspects.get(&id);
        match known.map(|suspect| suspect.standing) {
            Some(Standing::Quarantined) => return (SuspectStatus::Quarantined, None),
            Some(Standing::Discarded) => return (SuspectStatus::Discarded, None),
            _ => {}
        }
        let mut update = None;
        // Otherwise the task did not run in the session before, or this is on record already.
        if known.is_none_or(|suspect| suspect.attempt < attempt) {
            let suspect = match known {
                Some(suspect) => suspect.clone().ran(attempt, self.last_end, now_ms),
                None => Suspect::new(name, attempt, self.last_end, now_ms),
            };
            if known.is_some() || suspect.is_some() {
                update = Some((id, suspect.clone()));
            }
            match suspect {
                Some(suspect) => drop(self.suspects.insert(id, suspect)),
                None => drop(self.suspects.remove(&id)),
            }
        }
        let status = match self.suspects.get(&id) {
            None => SuspectStatus::Free,
            Some(suspect) if suspect.is_to_be_tried(self.limit) => SuspectStatus::Trial,
            Some(_) => SuspectStatus::Watched,
        };
        (status, update)
    }

    /// Makes a suspect wait for its trial; `task` starts it then. Returns the earlier `task` if the
    /// actor was lost meanwhile.
    pub(crate) fn wait(&mut self, id: Id, task: T) -> Option<T> {
        // (If its actor was lost, the task may have started.)
        self.end_trial(id);
        if self.phase == Phase::Trying {
            self.schedule.push_front((0, id));
        }
        self.waiting.insert(id, task)
    }

    /// Returns whether this task waits for its trial.
    pub(crate) fn is_waiting(&self, id: Id) -> bool {
        self.waiting.contains_key(&id)
    }

    /// Notes that all tasks that were running are loaded.
    pub(crate) fn gathered(&mut self) {
        if let Phase::Gathering { .. } = self.phase {
            self.phase = Phase::Gathered;
            // If the prime suspect is not loaded, it was revoked or is parked.
            let is_loaded = |id| self.waiting.contains_key(&id) || self.trials.contains_key(&id);
            if !self.prime.is_some_and(is_loaded) {
                self.hold_until = None;
            }
        }
    }

    /// Ends the phases and trials whose time is up; returns the updates of the suspects that
    /// outlived their trials. They must be recorded before anything that starts because of them.
    pub(crate) fn end_overdue(&mut self, now_ms: u64) -> Vec<SuspectUpdate> {
        if self.hold_until.is_some_and(|until| until <= now_ms) {
            self.hold_until = None;
        }
        if matches!(self.phase, Phase::Gathering { until_ms } if until_ms <= now_ms) {
            self.phase = Phase::Gathered;
        }
        let mut updates = Vec::new();
        while let Some((until_ms, id)) = self.ends.first().copied()
            && until_ms <= now_ms
        {
            updates.extend(self.finish_trial(id, now_ms));
        }
        updates
    }

    /// Returns the next task to start now, if there is one.
    pub(crate) fn next(&mut self, now_ms: u64) -> Option<T> {
        if self.is_holding() {
            let id = self.prime?;
            let task = self.waiting.remove(&id)?;
            let until_ms = now_ms.saturating_add(self.alone_ms(id));
            self.hold_until = Some(until_ms);
            self.try_until(id, until_ms, false);
            return Some(task);
        }
        if self.phase == Phase::Gathered {
            self.schedule_trials(now_ms);
            self.phase = Phase::Trying;
        }
        if self.phase != Phase::Trying || now_ms < self.quiet_until {
            return None;
        }
        self.skip_ended();
        let (start_ms, id) = *self.schedule.front()?;
        // (If all started suspects have ended, a crash cannot be attributed to the wrong one.)
        if start_ms > now_ms && !self.trials.is_empty() {
            return None;
        }
        self.schedule.pop_front();
        self.try_until(id, now_ms.saturating_add(self.trial_ms), false);
        self.waiting.remove(&id)
    }

    /// Returns when to call [`end_overdue`](Self::end_overdue) and [`next`](Self::next) again, if
    /// at all.
    pub(crate) fn wake_at(&self) -> Option<u64> {
        let gathering = match self.phase {
            Phase::Gathering { until_ms } if !self.waiting.is_empty() => Some(until_ms),
            _ => None,
        };
        let next = self
            .schedule
            .front()
            .map(|(start_ms, _)| (*start_ms).max(self.quiet_until));
        let trial_end = self.ends.first().map(|(until_ms, _)| *until_ms);
        [self.hold_until, gathering, next, trial_end]
            .into_iter()
            .flatten()
            .min()
    }

    /// Notes the start of a suspect; the update goes into the same batch as the start's record.
    pub(crate) fn started(&mut self, id: Id, now_ms: u64) -> Option<SuspectUpdate> {
        let is_prime = self.prime == Some(id);
        let (stage, trial_ms) = match (is_prime, self.is_holding()) {
            (true, true) => (Stage::Alone, self.alone_ms(id)),
            (true, false) if self.quiet_until > 0 => (Stage::Apart, self.apart_ms(id)),
            _ => (
                Stage::Among {
                    turn: self.started_count,
                },
                self.trial_ms,
            ),
        };
        self.started_count += 1;
        self.try_until(id, now_ms.saturating_add(trial_ms), true);
        let suspect = self.suspects.get_mut(&id)?;
        suspect.attempt += 1;
        suspect.stage(stage);
        Some((id, Some(suspect.clone())))
    }

    /// Ends the trial of a task that waits for another task, because that task must be able to run.
    pub(crate) fn outlived(&mut self, id: Id) -> Option<SuspectUpdate> {
        self.end_trial(id)?;
        self.release(id);
        self.set_stage(id, Stage::Outlived)
    }

    /// Removes a suspect that has ended while the process goes on. Also returns the waiting start,
    /// because the task may have been revoked before its trial.
    pub(crate) fn cleared(&mut self, id: Id) -> (Option<SuspectUpdate>, Option<T>) {
        self.end_trial(id);
        self.release(id);
        let update = self.suspects.remove(&id).map(|_| (id, None));
        (update, self.waiting.remove(&id))
    }

    /// Releases a task from quarantine as if it had never crashed. `None`: the task is not in
    /// quarantine.
    pub(crate) fn requeue(&mut self, id: Id) -> Option<SuspectUpdate> {
        let suspect = self.quarantined_mut(id)?;
        // (The record is not deleted: its crashes would be counted again after the next one.)
        suspect.standing = Standing::Tried(Evidence::default());
        suspect.crashes = 0;
        Some((id, Some(suspect.clone())))
    }

    /// Discards a quarantined task, so that it fails. `None`: the task is not in quarantine.
    pub(crate) fn discard(&mut self, id: Id) -> Option<SuspectUpdate> {
        let suspect = self.quarantined_mut(id)?;
        suspect.standing = Standing::Discarded;
        Some((id, Some(suspect.clone())))
    }

    /// Discards a task that is neither in quarantine nor loaded: it fails as soon as it is loaded.
    pub(crate) fn discard_unmet(&mut self, id: Id, name: &str, now_ms: u64) -> SuspectUpdate {
        let suspect = Suspect::discarded(name, now_ms);
        self.suspects.insert(id, suspect.clone());
        (id, Some(suspect))
    }

    /// Returns whether the task is to fail.
    pub(crate) fn is_discarded(&self, id: Id) -> bool {
        let suspect = self.suspects.get(&id);
        suspect.is_some_and(|suspect| suspect.standing == Standing::Discarded)
    }

    fn quarantined_mut(&mut self, id: Id) -> Option<&mut Suspect> {
        let suspect = self.suspects.get_mut(&id)?;
        (suspect.standing == Standing::Quarantined).then_some(suspect)
    }

    /// Returns the suspects of a workflow.
    pub(crate) fn suspects_of(&self, root: Id) -> Vec<Id> {
        let suspects = self.suspects.range(root..=root.workflow_stream());
        suspects.map(|(id, _)| *id).collect()
    }

    pub(crate) fn suspect(&self, id: Id) -> Option<&Suspect> {
        self.suspects.get(&id)
    }

    /// Returns the tasks in quarantine.
    pub(crate) fn quarantined(&self) -> impl Iterator<Item = (Id, &Suspect)> {
        let all = self.suspects.iter().map(|(id, suspect)| (*id, suspect));
        all.filter(|(_, suspect)| suspect.standing == Standing::Quarantined)
    }

    /// Ends the trial of a task that still runs when its time is up.
    fn finish_trial(&mut self, id: Id, now_ms: u64) -> Option<SuspectUpdate> {
        let trial = self.end_trial(id)?;
        self.release(id);
        if !trial.has_started {
            return None;
        }
        let evidence = self.suspects.get(&id).and_then(Suspect::evidence);
        let may_be_late =
            |evidence: &Evidence| evidence.stage == Stage::Alone && evidence.late < MAX_LATE;
        if !evidence.is_some_and(may_be_late) {
            return self.set_stage(id, Stage::Outlived);
        }
        // The task stays on trial for a while longer, beside others.
        self.try_until(id, now_ms.saturating_add(TRIAL_MS.1), true);
        self.set_stage(id, Stage::Late)
    }

    fn try_until(&mut self, id: Id, until_ms: u64, has_started: bool) {
        self.end_trial(id);
        let trial = Trial {
            until_ms,
            has_started,
        };
        self.trials.insert(id, trial);
        self.ends.insert((until_ms, id));
    }

    fn end_trial(&mut self, id: Id) -> Option<Trial> {
        let trial = self.trials.remove(&id)?;
        self.ends.remove(&(trial.until_ms, id));
        Some(trial)
    }

    fn set_stage(&mut self, id: Id, stage: Stage) -> Option<SuspectUpdate> {
        let suspect = self.suspects.get_mut(&id)?;
        suspect.stage(stage);
        Some((id, Some(suspect.clone())))
    }

    /// Lets other tasks start if they waited for this one.
    fn release(&mut self, id: Id) {
        if self.prime == Some(id) {
            self.hold_until = None;
        }
    }

    fn stage_of(&self, id: Id) -> Option<Stage> {
        let evidence = self.suspects.get(&id)?.evidence()?;
        Some(evidence.stage)
    }

    /// Schedules the waiting suspects. The accused get three quarters of the time. Among the others
    /// a subtask, which has the higher number, starts before the task that started it.
    fn schedule_trials(&mut self, now_ms: u64) {
        let prime = self.prime.filter(|id| self.waiting.contains_key(id));
        if prime.is_none() && self.quiet_until > now_ms {
            // All other suspects are loaded and need not wait for the prime suspect.
            self.quiet_until = 0;
        }
        let mut from_ms = now_ms.max(self.quiet_until);
        let until_ms = match self.quiet_until {
            0 => now_ms + SPREAD_MS - self.prime.map_or(0, |id| self.alone_ms(id)),
            quiet_until => quiet_until + SPREAD_MS - CONTROL_MS,
        };
        if let Some(prime) = prime {
            self.schedule.push_back((from_ms, prime));
            from_ms += self.apart_ms(prime);
        }
        let others = self.waiting.keys().copied().filter(|id| Some(*id) != prime);
        let (accused, others): (Vec<Id>, Vec<Id>) =
            others.partition(|id| matches!(self.stage_of(*id), Some(Stage::Accused { .. })));
        let left_ms = until_ms.saturating_sub(from_ms);
        let share_ms = match (accused.is_empty(), others.is_empty()) {
            (true, _) => 0,
            (false, true) => left_ms,
            (false, false) => left_ms / 4 * 3,
        };
        self.schedule_evenly(accused, from_ms, share_ms);
        self.schedule_evenly(others, from_ms + share_ms, left_ms - share_ms);
    }

    /// Schedules these suspects at equal distances, the strongest suspicion first.
    fn schedule_evenly(&mut self, mut ids: Vec<Id>, from_ms: u64, time_ms: u64) {
        ids.sort_by_key(|id| Reverse((rank(&self.suspects[id]), *id)));
        let count = ids.len() as u64;
        for (position, id) in (0..).zip(ids) {
            self.schedule
                .push_back((from_ms + position * time_ms / count, id));
        }
        if let Some(distance_ms) = time_ms.checked_div(count) {
            self.trial_ms = self.trial_ms.max(distance_ms).min(TRIAL_MS.1);
        }
    }

    /// Removes tasks that ended before their trial from the front of the schedule.
    fn skip_ended(&mut self) {
        while let Some((_, id)) = self.schedule.front()
            && !self.waiting.contains_key(id)
        {
            self.schedule.pop_front();
        }
    }

    fn alone_ms(&self, id: Id) -> u64 {
        let evidence = self.suspects.get(&id).and_then(Suspect::evidence);
        let late = evidence.map_or(0, |evidence| evidence.late.min(MAX_LATE));
        ALONE_MS << (2 * late)
    }

    fn apart_ms(&self, id: Id) -> u64 {
        self.alone_ms(id).min(TRIAL_MS.0)
    }
}

/// Returns the accused or doubted task with the strongest evidence against it.
fn prime_of(suspects: &BTreeMap<Id, Suspect>) -> Option<Id> {
    let may_be = suspects.iter().filter(|(_, suspect)| {
        let stage = suspect.evidence().map(|evidence| evidence.stage);
        matches!(stage, Some(Stage::Accused { .. } | Stage::Doubted))
    });
    let prime = may_be.max_by_key(|(id, suspect)| (rank(suspect), **id));
    prime.map(|(id, _)| *id)
}

/// Returns the strength of the suspicion: the higher, the stronger.
fn rank(suspect: &Suspect) -> (u32, Reverse<u32>, u32, u32) {
    let evidence = suspect.evidence().copied().unwrap_or_default();
    let turn = match evidence.stage {
        Stage::Accused { turn } => turn,
        _ => 0,
    };
    (evidence.hits, Reverse(evidence.late), evidence.weight, turn)
}

#[cfg(test)]
mod tests;
