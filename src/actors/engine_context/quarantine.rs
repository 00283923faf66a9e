//! Quarantine: what was running when the process before this one ended, and may have ended it.

use std::collections::HashMap;
use std::time::{Duration, UNIX_EPOCH};

use super::EngineContext;
use crate::actors::dispatcher::Ready;
use crate::actors::pool;
use crate::actors::task_slab::TaskKey;
use crate::canvas::id::Id;
use crate::canvas::machine::pending_limit::Load;
use crate::canvas::machine::quarantine::{Note, Quarantine, Suspect, SuspectStatus};
use crate::canvas::parked::ParkedTask;
use crate::canvas::quarantine::{QuarantinePolicy, QuarantinedTask};
use crate::canvas::time::Moment;
use crate::messages::dispatcher::Slot;
use crate::messages::scheduler::WakeAt;
use crate::messages::task::Released;
use crate::persistence::aborts::{self, AbortNote};
use crate::persistence::codec::{self, Kind};
use crate::persistence::meta::{self, Session};
use crate::persistence::reader::Reader;
use crate::persistence::steady::ClockReading;
use crate::persistence::{Durability, Store, StoreError, keys};

/// What the lives before leave to this one.
#[derive(Debug)]
pub(crate) struct RecoveredState {
    /// The number that no commit of theirs has reached.
    pub(super) last_commit: u64,
    /// Our own, which is to be ended.
    pub(super) session: Session,
    pub(super) quarantine: Quarantine<TrialCandidate>,
    /// To be written before anything starts.
    pub(super) notes: Vec<Note>,
    /// How much is pending.
    pub(crate) pending: Load,
    /// The latest workflow of theirs.
    pub(super) last_root: Option<Id>,
    /// Where it is noted if the process aborts.
    pub(super) abort_note: Option<AbortNote>,
}

/// How tasks are found out that end the process.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TrialSettings {
    /// So many crashes are enough.
    pub(crate) crashes: u32,
    /// An abort is noted.
    pub(crate) note_aborts: bool,
}

/// Who waits to be tried.
#[derive(Debug)]
pub(crate) struct TrialCandidate {
    slot: Slot,
    priority: u8,
    ticket: TaskKey,
}

impl RecoveredState {
    /// Opens the store for a new life.
    pub(crate) fn take(
        store: &dyn Store,
        reader: &Reader,
        durability: Durability,
        trials: TrialSettings,
        clock: &ClockReading,
    ) -> Result<Self, StoreError> {
        let directory = store.directory();
        let has_aborted = directory.is_some_and(aborts::is_noted);
        let (opening, life, last_end) = meta::open(store, durability, has_aborted, clock)?;
        let directory = directory.filter(|_| trials.note_aborts);
        let mut suspects = Vec::new();
        let mut notes = Vec::new();
        for (id, suspect) in reader.suspects()? {
            match store.get(&keys::header(id.root()))? {
                Some(_) => suspects.push((id, suspect)),
                // It has ended with its workflow.
                None => notes.push((id, None)),
            }
        }
        let wall_ms = clock.wall_ms;
        let (court, more) = Quarantine::open(suspects, last_end, trials.crashes, wall_ms);
        notes.extend(more);
        Ok(Self {
            last_commit: opening.last_commit(),
            session: life,
            quarantine: court,
            notes,
            pending: reader.pending()?,
            abort_note: directory.and_then(AbortNote::make),
            last_root: reader.last_id()?,
        })
    }

    pub(crate) fn last_commit(&self) -> u64 {
        self.last_commit
    }
}

/// What is known of a quarantined task, as its users see it.
fn shown((id, suspect): (Id, &Suspect)) -> QuarantinedTask {
    QuarantinedTask {
        id,
        name: suspect.name.clone(),
        crashes: suspect.crashes,
        since: UNIX_EPOCH + Duration::from_millis(suspect.since_ms),
    }
}

impl EngineContext {
    /// To be called before anything is started.
    pub(super) fn open_quarantine(&self, notes: Vec<Note>) {
        notes.into_iter().for_each(|note| self.note(Some(note)));
        let quarantined: Vec<QuarantinedTask> = {
            let court = self.0.quarantine.borrow();
            if court.is_holding() {
                self.0.dispatcher.borrow_mut().hold_back();
            }
            court.quarantined().map(shown).collect()
        };
        for task in &quarantined {
            self.dispose_of(task);
        }
        if let Some(hook) = self.0.limits.on_quarantine.clone()
            && !quarantined.is_empty()
        {
            // It may block, and may panic.
            let tell = move || quarantined.iter().for_each(|task| hook.call(task));
            let (job, _) = pool::job(tell);
            self.shared().engine_handle().runtime.run(job);
        }
    }

    /// Keeps a task that is in quarantine, or has it fail, as the app has been told.
    fn dispose_of(&self, task: &QuarantinedTask) {
        let QuarantinedTask {
            id, name, crashes, ..
        } = task;
        match self.0.limits.quarantine {
            QuarantinePolicy::Keep => {
                tracing::error!(
                    %id,
                    name,
                    crashes,
                    "quarantined: the process ends when it runs; \
                     app.requeue({id}) runs it again, app.discard({id}) has it fail"
                );
                self.shared().quarantine(task.clone());
            }
            QuarantinePolicy::Discard => {
                tracing::error!(%id, name, crashes, "discarded: the process ends when it runs");
                let note = self.0.quarantine.borrow_mut().discard(*id);
                self.note(note);
            }
        }
    }

    fn note(&self, note: Option<Note>) {
        match note {
            Some((id, Some(suspect))) => {
                let record = codec::encode(Kind::Suspect, &suspect);
                self.put(keys::suspect(id), record);
            }
            Some((id, None)) => self.delete(keys::suspect(id)),
            None => {}
        }
    }

    /// Says whether this workflow is to come in at once: a task of it may have to be tried.
    pub(crate) fn awaits(&self, root: Id) -> bool {
        self.0.quarantine.borrow().awaits(root)
    }

    /// A task has come in whose attempt `attempt` was running when the process ended.
    pub(crate) fn arrived(
        &self,
        id: Id,
        name: &str,
        attempt: u32,
        ticket: TaskKey,
    ) -> SuspectStatus {
        let now_ms = self.now_ms();
        let (arrival, note) = self
            .0
            .quarantine
            .borrow_mut()
            .arrived(id, name, attempt, now_ms);
        self.note(note);
        if arrival == SuspectStatus::Quarantined {
            self.0.quarantined_tasks.borrow_mut().insert(id, ticket);
        }
        arrival
    }

    /// It is started when it is its turn to be tried.
    pub(crate) fn await_trial(&self, id: Id, slot: Slot, priority: u8, ticket: TaskKey) {
        let accused = TrialCandidate {
            slot,
            priority,
            ticket,
        };
        self.0.dispatcher.borrow_mut().pin(slot);
        let lost = self.0.quarantine.borrow_mut().wait(id, accused);
        self.waits_no_longer(lost);
        self.try_next();
    }

    /// All that was running has come in.
    pub(crate) fn gathered(&self) {
        self.0.quarantine.borrow_mut().gathered();
        self.try_next();
    }

    /// The clock of the trials starts: tasks may start from now on.
    pub(super) fn begin_trials(&self) {
        let now = self.shared().clock.elapsed_ms();
        self.0.quarantine.borrow_mut().begin(now);
    }

    /// Ends the trials that have taken long enough, and starts the suspects whose turn it is.
    pub(super) fn try_next(&self) {
        if self.is_draining() || self.0.dispatcher.borrow().is_paused() {
            return;
        }
        let now = self.shared().clock.elapsed_ms();
        let outlived = self.0.quarantine.borrow_mut().end_overdue(now);
        outlived.into_iter().for_each(|note| self.note(Some(note)));
        self.end_hold();
        loop {
            let next = self.0.quarantine.borrow_mut().next(now);
            let Some(accused) = next else { break };
            self.start_trial(accused);
        }
        self.wake_for_trials(now);
    }

    /// It does not come to its trial: its slot is not named here any more.
    fn waits_no_longer(&self, accused: Option<TrialCandidate>) {
        if let Some(TrialCandidate { slot, .. }) = accused {
            self.0.dispatcher.borrow_mut().unpin(slot);
        }
    }

    fn start_trial(&self, accused: TrialCandidate) {
        let TrialCandidate {
            slot,
            priority,
            ticket,
        } = accused;
        self.0.dispatcher.borrow_mut().unpin(slot);
        let permit = match self.0.quarantine.borrow().is_holding() {
            true => self.0.dispatcher.borrow_mut().grant_now(slot),
            false => None,
        };
        match permit {
            Some(permit) => self.grant(Some((Ready::Known(ticket), permit))),
            // Others may start, too; or its actor was lost, and the attempt before still has the slot.
            None => self.request(slot, priority, Ready::Known(ticket)),
        }
    }

    /// Starts what has waited while a suspect was tried alone, if that is over.
    fn end_hold(&self) {
        let mut dispatcher = self.0.dispatcher.borrow_mut();
        if !dispatcher.is_held_back() || self.0.quarantine.borrow().is_holding() {
            return;
        }
        let granted = dispatcher.end_hold();
        drop(dispatcher);
        for granted in granted {
            self.grant(Some(granted));
        }
    }

    fn wake_for_trials(&self, now: u64) {
        let Some(at) = self.0.quarantine.borrow().wake_at() else {
            return;
        };
        let alarm = &self.0.trial_alarm;
        if alarm.get().is_none_or(|set| at < set || set <= now) {
            alarm.set(Some(at));
            let left = at.saturating_sub(self.shared().clock.elapsed_ms());
            self.scheduler().do_send(WakeAt {
                at: Moment::steady(self.steady_ms().saturating_add(left)),
                who: self.engine().clone().recipient(),
            });
        }
    }

    /// To be called whenever the engine is woken.
    pub(crate) fn look_at_trials(&self) {
        if self.0.trial_alarm.take().is_some() {
            self.try_next();
        }
    }

    /// The attempt that is about to be recorded is that of a task on trial.
    pub(crate) fn trial_starts(&self, id: Id) {
        let now = self.shared().clock.elapsed_ms();
        let note = self.0.quarantine.borrow_mut().started(id, now);
        self.note(note);
        self.wake_for_trials(now);
    }

    /// It waits for another task: its trial is over.
    pub(crate) fn outlived(&self, id: Id) {
        let note = self.0.quarantine.borrow_mut().outlived(id);
        if note.is_some() {
            self.note(note);
            self.try_next();
        }
    }

    /// It has ended, and the process has not.
    pub(crate) fn cleared(&self, id: Id) {
        let (note, waited) = self.0.quarantine.borrow_mut().cleared(id);
        self.note(note);
        self.waits_no_longer(waited);
        // It may be revoked, and was locked up until then.
        if self.0.quarantined_tasks.borrow_mut().remove(&id).is_some() {
            self.shared().release(id);
        }
        self.try_next();
    }

    /// What was running in this workflow, and is to be tried or locked up, or may have to be.
    pub(crate) fn suspects_of(&self, root: Id) -> Vec<Id> {
        self.0.quarantine.borrow().suspects_of(root)
    }

    /// As [`cleared`](Self::cleared), of one that does not come in any more.
    pub(crate) fn clear_absent(&self, id: Id) {
        self.shared().release(id);
        self.cleared(id);
    }

    /// What was known of it when it was discarded.
    pub(crate) fn suspect(&self, id: Id) -> Option<Suspect> {
        self.0.quarantine.borrow().suspect(id).cloned()
    }

    /// Lets a task out of quarantine: to run again, or to fail. Says whether it was there.
    pub(crate) fn release_quarantined(&self, id: Id, released: Released) -> bool {
        let note = {
            let mut court = self.0.quarantine.borrow_mut();
            match released {
                Released::ToRun => court.requeue(id),
                Released::ToFail => court.discard(id),
            }
        };
        let found = note.is_some();
        self.note(note);
        if found {
            self.shared().release(id);
        }
        // A task that has not come in yet finds it on record.
        let ticket = self.0.quarantined_tasks.borrow_mut().remove(&id);
        self.tell_released(ticket.or_else(|| self.shared().parked_ticket(id)), released);
        found
    }

    /// Has a parked task fail; or one that would be parked, as soon as it comes in.
    pub(crate) fn discard_parked(&self, task: &ParkedTask) {
        if let Some(ticket) = self.shared().parked_ticket(task.id) {
            return self.tell_released(Some(ticket), Released::ToFail);
        }
        let mut court = self.0.quarantine.borrow_mut();
        let note = court.discard_unmet(task.id, &task.name, self.now_ms());
        drop(court);
        self.note(Some(note));
    }

    /// Says whether a task is to fail when it comes in.
    pub(crate) fn is_discarded(&self, id: Id) -> bool {
        self.0.quarantine.borrow().is_discarded(id)
    }

    fn tell_released(&self, ticket: Option<TaskKey>, released: Released) {
        if let Some(task) = ticket.and_then(|ticket| self.0.tasks.borrow().get(ticket).cloned()) {
            task.do_send(released);
        }
    }
}

/// Where the tasks in quarantine are that have come in.
pub(super) type QuarantinedTasks = HashMap<Id, TaskKey>;
