//! Quarantine: which tasks may have ended the process, how each of them is tried, and which run no
//! more. (DESIGN.md says why it is done this way.)

mod evidence;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};

pub(crate) use self::evidence::{Evidence, LastEnd, Stage, Standing, Suspect};
use crate::canvas::id::Id;

/// So long after the open the last suspect has started, whatever their number. This and all other
/// times are in milliseconds.
const BOUND_MS: u64 = 10_000;
const _: () = assert!(GATHER_MS + SPREAD_MS < BOUND_MS && CONTROL_MS < SPREAD_MS);
/// How long the trials wait for the tasks that were running to come in from the store.
const GATHER_MS: u64 = 1_000;
/// Within how long the suspects start, one after the other, with the prime suspect's time alone.
const SPREAD_MS: u64 = 8_000;
/// How long the process has to live without a suspect before that is tried in company.
const CONTROL_MS: u64 = 4_000;
/// The shortest that one suspect is tried alone. Nothing else starts meanwhile.
const ALONE_MS: u64 = 250;
/// The longest, for one that has struck just after its trials before: two steps, four times each.
const MAX_LATE: u32 = 2;
/// How long a suspect is on trial after its start, at least and at most.
const TRIAL_MS: (u64, u64) = (1_000, 4_000);

/// What becomes of a suspect's record: put, or deleted.
pub(crate) type Note = (Id, Option<Suspect>);

/// What a task that was running is to do now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SuspectStatus {
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
/// Only suspects wait. They start one after the other, beside all other work, and those that are on
/// trial when the process ends are accused. One of these, the prime suspect, starts first in the next
/// life and for a moment alone. Unless the end is known to come from inside, the life after that goes
/// without the prime suspect for some seconds first: a process that ends meanwhile has another cause.
///
/// Invariant: a task is quarantined only if the process ended while it was the prime suspect on trial.
#[derive(Debug)]
pub(crate) struct Quarantine<T> {
    last_end: LastEnd,
    /// So many crashes from inside are enough, or twice as many others.
    limit: u32,
    /// Those of one workflow follow each other.
    suspects: BTreeMap<Id, Suspect>,
    /// The workflows of those that may have to be tried.
    roots: HashSet<Id>,
    /// The one that is tried alone, or without the others before it.
    prime: Option<Id>,
    phase: Phase,
    /// Nothing starts but the prime suspect, until this time.
    hold_until: Option<u64>,
    /// No suspect starts before this time.
    quiet_until: u64,
    waiting: HashMap<Id, T>,
    /// The order in which they start, and when at the latest; some may have ended before.
    line: VecDeque<(u64, Id)>,
    trials: HashMap<Id, Trial>,
    /// The same by their ends.
    ends: BTreeSet<(u64, Id)>,
    /// How long a trial is, if not that of the prime suspect.
    trial_ms: u64,
    /// How many have started.
    turns: u32,
}

/// The trial of one whose turn has come.
#[derive(Clone, Copy, Debug)]
struct Trial {
    until_ms: u64,
    /// It has got its slot, too.
    has_started: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// What was running comes in, until then.
    Gathering { until_ms: u64 },
    /// All of it has come in.
    Gathered,
    /// The line is made. Who comes in starts at once.
    Trying,
}

impl<T> Quarantine<T> {
    /// Looks at what is on record when the store is opened; returns what is to be put there instead.
    /// `now_ms` is on the wall clock, all times below on that of the trials.
    pub(crate) fn open(
        records: impl IntoIterator<Item = (Id, Suspect)>,
        last_end: LastEnd,
        limit: u32,
        now_ms: u64,
    ) -> (Self, Vec<Note>) {
        assert!(
            limit > 2,
            "one crash makes a suspect, one accuses it, one proves it"
        );
        let mut notes = BTreeMap::new();
        let mut suspects = BTreeMap::new();
        let mut is_explained = false;
        for (id, before) in records {
            let after = before.clone().assess(last_end, limit, now_ms);
            if after.as_ref() != Some(&before) {
                notes.insert(id, after.clone());
            }
            let Some(after) = after else { continue };
            is_explained |=
                after.standing == Standing::Quarantined && before.standing != Standing::Quarantined;
            suspects.insert(id, after);
        }
        if is_explained {
            // The ends that spoke for the others were that one's.
            for (id, suspect) in &mut suspects {
                if suspect.forget_misses() {
                    notes.insert(*id, Some(suspect.clone()));
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
            line: VecDeque::new(),
            trials: HashMap::new(),
            ends: BTreeSet::new(),
            trial_ms: TRIAL_MS.0,
            turns: 0,
        };
        (quarantine, notes.into_iter().collect())
    }

    /// The clock of the trials starts. In an app that was started paused what was running may have come
    /// in by now.
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

    /// Says whether nothing is to start but the prime suspect.
    pub(crate) fn is_holding(&self) -> bool {
        self.hold_until.is_some()
    }

    /// Says whether a task of this workflow may have to be tried: it is to come in at once.
    pub(crate) fn awaits(&self, root: Id) -> bool {
        matches!(self.phase, Phase::Gathering { .. }) && self.roots.contains(&root)
    }

    /// A task has come in whose attempt `attempt` was running when the process ended.
    pub(crate) fn arrived(
        &mut self,
        id: Id,
        name: &str,
        attempt: u32,
        now_ms: u64,
    ) -> (SuspectStatus, Option<Note>) {
        let known = self.suspects.get(&id);
        match known.map(|suspect| suspect.standing) {
            Some(Standing::Quarantined) => return (SuspectStatus::Quarantined, None),
            Some(Standing::Discarded) => return (SuspectStatus::Discarded, None),
            _ => {}
        }
        let mut note = None;
        // Otherwise it did not run in the life before, or that is noted.
        if known.is_none_or(|suspect| suspect.attempt < attempt) {
            let suspect = match known {
                Some(suspect) => suspect.clone().ran(attempt, self.last_end, now_ms),
                None => Suspect::new(name, attempt, self.last_end, now_ms),
            };
            if known.is_some() || suspect.is_some() {
                note = Some((id, suspect.clone()));
            }
            match suspect {
                Some(suspect) => drop(self.suspects.insert(id, suspect)),
                None => drop(self.suspects.remove(&id)),
            }
        }
        let arrival = match self.suspects.get(&id) {
            None => SuspectStatus::Free,
            Some(suspect) if suspect.is_to_be_tried(self.limit) => SuspectStatus::Trial,
            Some(_) => SuspectStatus::Watched,
        };
        (arrival, note)
    }

    /// It is to be tried: with this it is started. Returns what it has waited with before, if its actor was
    /// lost meanwhile.
    pub(crate) fn wait(&mut self, id: Id, task: T) -> Option<T> {
        // (If its actor was lost, it may have started.)
        self.end_trial(id);
        if self.phase == Phase::Trying {
            self.line.push_front((0, id));
        }
        self.waiting.insert(id, task)
    }

    /// All that was running has come in.
    pub(crate) fn gathered(&mut self) {
        if let Phase::Gathering { .. } = self.phase {
            self.phase = Phase::Gathered;
            // It has not come in: it was revoked, or is parked.
            let is_here = |id| self.waiting.contains_key(&id) || self.trials.contains_key(&id);
            if !self.prime.is_some_and(is_here) {
                self.hold_until = None;
            }
        }
    }

    /// Ends what has taken long enough; returns the notes of those that have outlived their trials,
    /// which go before all that is started because of it.
    pub(crate) fn end_overdue(&mut self, now_ms: u64) -> Vec<Note> {
        if self.hold_until.is_some_and(|until| until <= now_ms) {
            self.hold_until = None;
        }
        if matches!(self.phase, Phase::Gathering { until_ms } if until_ms <= now_ms) {
            self.phase = Phase::Gathered;
        }
        let mut notes = Vec::new();
        while let Some((until_ms, id)) = self.ends.first().copied()
            && until_ms <= now_ms
        {
            notes.extend(self.trial_is_over(id, now_ms));
        }
        notes
    }

    /// The one to be started now, if one is.
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
            self.make_line(now_ms);
            self.phase = Phase::Trying;
        }
        if self.phase != Phase::Trying || now_ms < self.quiet_until {
            return None;
        }
        self.line_up();
        let (due_ms, id) = *self.line.front()?;
        // (If all that were started have ended, none can be taken for another.)
        if due_ms > now_ms && !self.trials.is_empty() {
            return None;
        }
        self.line.pop_front();
        self.try_until(id, now_ms.saturating_add(self.trial_ms), false);
        self.waiting.remove(&id)
    }

    /// When to [look](Self::look) again, if at all.
    pub(crate) fn wake_at(&self) -> Option<u64> {
        let gathering = match self.phase {
            Phase::Gathering { until_ms } if !self.waiting.is_empty() => Some(until_ms),
            _ => None,
        };
        let next = self
            .line
            .front()
            .map(|(due_ms, _)| (*due_ms).max(self.quiet_until));
        let over = self.ends.first().map(|(until_ms, _)| *until_ms);
        [self.hold_until, gathering, next, over]
            .into_iter()
            .flatten()
            .min()
    }

    /// It is being started; the note goes into one batch with the record of that.
    pub(crate) fn started(&mut self, id: Id, now_ms: u64) -> Option<Note> {
        let is_prime = self.prime == Some(id);
        let (stage, trial_ms) = match (is_prime, self.is_holding()) {
            (true, true) => (Stage::Alone, self.alone_ms(id)),
            (true, false) if self.quiet_until > 0 => (Stage::Apart, self.apart_ms(id)),
            _ => (Stage::Among { turn: self.turns }, self.trial_ms),
        };
        self.turns += 1;
        self.try_until(id, now_ms.saturating_add(trial_ms), true);
        let suspect = self.suspects.get_mut(&id)?;
        suspect.attempt += 1;
        suspect.stage(stage);
        Some((id, Some(suspect.clone())))
    }

    /// It waits for another task, which must be able to run: its trial is over.
    pub(crate) fn outlived(&mut self, id: Id) -> Option<Note> {
        self.end_trial(id)?;
        self.release(id);
        self.note_stage(id, Stage::Outlived)
    }

    /// It has ended, and the process has not. Returns what it has waited with, too: it may have been
    /// revoked before it was its turn.
    pub(crate) fn cleared(&mut self, id: Id) -> (Option<Note>, Option<T>) {
        self.end_trial(id);
        self.release(id);
        let note = self.suspects.remove(&id).map(|_| (id, None));
        (note, self.waiting.remove(&id))
    }

    /// It is to run as if nothing had been. `None`: it is not in quarantine.
    pub(crate) fn requeue(&mut self, id: Id) -> Option<Note> {
        let suspect = self.quarantined_mut(id)?;
        // (Not deleted: what has been counted would be counted again after the next crash.)
        suspect.standing = Standing::Tried(Evidence::default());
        suspect.crashes = 0;
        Some((id, Some(suspect.clone())))
    }

    /// It is to fail. `None`: it is not in quarantine.
    pub(crate) fn discard(&mut self, id: Id) -> Option<Note> {
        let suspect = self.quarantined_mut(id)?;
        suspect.standing = Standing::Discarded;
        Some((id, Some(suspect.clone())))
    }

    /// A task that is not in quarantine, and has not come in, is to fail as soon as it does.
    pub(crate) fn discard_unmet(&mut self, id: Id, name: &str, now_ms: u64) -> Note {
        let suspect = Suspect::discarded(name, now_ms);
        self.suspects.insert(id, suspect.clone());
        (id, Some(suspect))
    }

    /// Says whether it is to fail.
    pub(crate) fn is_discarded(&self, id: Id) -> bool {
        let suspect = self.suspects.get(&id);
        suspect.is_some_and(|suspect| suspect.standing == Standing::Discarded)
    }

    fn quarantined_mut(&mut self, id: Id) -> Option<&mut Suspect> {
        let suspect = self.suspects.get_mut(&id)?;
        (suspect.standing == Standing::Quarantined).then_some(suspect)
    }

    /// The suspects of a workflow.
    pub(crate) fn suspects_of(&self, root: Id) -> Vec<Id> {
        let suspects = self.suspects.range(root..=root.workflow_stream());
        suspects.map(|(id, _)| *id).collect()
    }

    pub(crate) fn suspect(&self, id: Id) -> Option<&Suspect> {
        self.suspects.get(&id)
    }

    /// Returns those that are in quarantine.
    pub(crate) fn quarantined(&self) -> impl Iterator<Item = (Id, &Suspect)> {
        let all = self.suspects.iter().map(|(id, suspect)| (*id, suspect));
        all.filter(|(_, suspect)| suspect.standing == Standing::Quarantined)
    }

    /// Its time on trial is up, and it goes on.
    fn trial_is_over(&mut self, id: Id, now_ms: u64) -> Option<Note> {
        let trial = self.end_trial(id)?;
        self.release(id);
        if !trial.has_started {
            return None;
        }
        let evidence = self.suspects.get(&id).and_then(Suspect::evidence);
        let may_be_late =
            |evidence: &Evidence| evidence.stage == Stage::Alone && evidence.late < MAX_LATE;
        if !evidence.is_some_and(may_be_late) {
            return self.note_stage(id, Stage::Outlived);
        }
        // It is on trial for a while longer, beside others.
        self.try_until(id, now_ms.saturating_add(TRIAL_MS.1), true);
        self.note_stage(id, Stage::Late)
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

    fn note_stage(&mut self, id: Id, stage: Stage) -> Option<Note> {
        let suspect = self.suspects.get_mut(&id)?;
        suspect.stage(stage);
        Some((id, Some(suspect.clone())))
    }

    /// Others may start now, if it was this one that they waited for.
    fn release(&mut self, id: Id) {
        if self.prime == Some(id) {
            self.hold_until = None;
        }
    }

    fn stage_of(&self, id: Id) -> Option<Stage> {
        let evidence = self.suspects.get(&id)?.evidence()?;
        Some(evidence.stage)
    }

    /// Gives each of those that wait its turn. The accused have three quarters of the time; of the
    /// others what a task has started, which has the higher number, is before the task.
    fn make_line(&mut self, now_ms: u64) {
        let prime = self.prime.filter(|id| self.waiting.contains_key(id));
        if prime.is_none() && self.quiet_until > now_ms {
            // All others have come in: they need not wait for it.
            self.quiet_until = 0;
        }
        let mut from_ms = now_ms.max(self.quiet_until);
        let until_ms = match self.quiet_until {
            0 => now_ms + SPREAD_MS - self.prime.map_or(0, |id| self.alone_ms(id)),
            quiet_until => quiet_until + SPREAD_MS - CONTROL_MS,
        };
        if let Some(prime) = prime {
            self.line.push_back((from_ms, prime));
            from_ms += self.apart_ms(prime);
        }
        let rest = self.waiting.keys().copied().filter(|id| Some(*id) != prime);
        let (accused, others): (Vec<Id>, Vec<Id>) =
            rest.partition(|id| matches!(self.stage_of(*id), Some(Stage::Accused { .. })));
        let left_ms = until_ms.saturating_sub(from_ms);
        let share_ms = match (accused.is_empty(), others.is_empty()) {
            (true, _) => 0,
            (false, true) => left_ms,
            (false, false) => left_ms / 4 * 3,
        };
        self.spread(accused, from_ms, share_ms);
        self.spread(others, from_ms + share_ms, left_ms - share_ms);
    }

    /// Gives these their turns at equal distances, the one first that most speaks against.
    fn spread(&mut self, mut ids: Vec<Id>, from_ms: u64, time_ms: u64) {
        ids.sort_by_key(|id| Reverse((rank(&self.suspects[id]), *id)));
        let count = ids.len() as u64;
        for (place, id) in (0..).zip(ids) {
            self.line.push_back((from_ms + place * time_ms / count, id));
        }
        if let Some(distance_ms) = time_ms.checked_div(count) {
            self.trial_ms = self.trial_ms.max(distance_ms).min(TRIAL_MS.1);
        }
    }

    /// Takes those out of the front of the line that have ended before it was their turn.
    fn line_up(&mut self) {
        while let Some((_, id)) = self.line.front()
            && !self.waiting.contains_key(id)
        {
            self.line.pop_front();
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

/// The accused or doubted one that most speaks against.
fn prime_of(suspects: &BTreeMap<Id, Suspect>) -> Option<Id> {
    let may_be = suspects.iter().filter(|(_, suspect)| {
        let stage = suspect.evidence().map(|evidence| evidence.stage);
        matches!(stage, Some(Stage::Accused { .. } | Stage::Doubted))
    });
    let prime = may_be.max_by_key(|(id, suspect)| (rank(suspect), **id));
    prime.map(|(id, _)| *id)
}

/// Who is suspected more has a higher one.
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
