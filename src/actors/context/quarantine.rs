//! Quarantine: the tasks that were running when the previous process ended, and may have ended it.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::time::{Duration, UNIX_EPOCH};

use super::EngineContext;
use super::limits::Purpose;
use crate::actors::dispatch::dispatcher::Ready;
use crate::actors::dispatch::permit::Slot;
use crate::backend::pool;
use crate::canvas::admission::control::{ControlTarget, Settings};
use crate::canvas::admission::pending_limit::Load;
use crate::canvas::admission::start_limits::LimitSet;
use crate::canvas::admission::start_limits::circuit::StoredCircuit;
use crate::canvas::id::Id;
use crate::canvas::machine::child_spec::ChildSpec;
use crate::canvas::parked::ParkedTask;
use crate::canvas::quarantine::policy::{QuarantinePolicy, QuarantinedTask, Released};
use crate::canvas::quarantine::{Quarantine, Suspect, SuspectStatus, SuspectUpdate};
use crate::canvas::task_update::TaskUpdate;
use crate::canvas::time::Moment;
use crate::messages::scheduler::WakeAt;
use crate::messages::task::{TaskKey, TaskMessage};
use crate::persistence::records::codec::{self, Kind};
use crate::persistence::records::keys;
use crate::persistence::records::meta::{self, Additions, Session};
use crate::persistence::records::reader::Reader;
use crate::persistence::records::starts::StoredLimit;
use crate::persistence::records::steady::ClockReading;
use crate::persistence::store::fs::aborts::{self, AbortNote};
use crate::persistence::{Durability, Store, StoreError};
use crate::task::Entry;

/// The state that earlier sessions left to this one.
#[derive(Debug)]
pub(crate) struct RecoveredState {
    /// An upper bound of their commit numbers.
    pub(super) last_commit: u64,
    pub(super) additions: Additions,
    /// This session, whose end is still to be recorded.
    pub(super) session: Session,
    pub(super) quarantine: Quarantine<TrialCandidate>,
    /// Changes to the suspects' records, to be written before any task starts.
    pub(super) notes: Vec<SuspectUpdate>,
    /// The starts under each limit.
    pub(super) starts: Vec<StoredLimit>,
    /// The circuits of breakers.
    pub(super) circuits: Vec<(String, StoredCircuit)>,
    /// What was set for queues and tasks.
    pub(super) controls: Vec<(ControlTarget, Settings)>,
    /// The updates of tasks that were running.
    pub(super) updates: Vec<(Id, TaskUpdate)>,
    /// The pending load.
    pub(crate) pending: Load,
    /// The latest workflow that an earlier session stored.
    pub(super) last_root: Option<Id>,
    /// The note that is written if the process aborts.
    pub(super) abort_note: Option<AbortNote>,
}

/// How tasks that end the process are detected.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TrialSettings {
    /// The number of crashes after which a task is quarantined.
    pub(crate) crashes: u32,
    /// Aborts of the process are noted.
    pub(crate) note_aborts: bool,
}

/// A suspect that waits for its trial.
#[derive(Debug)]
pub(crate) struct TrialCandidate {
    slot: Slot,
    limits: Option<LimitSet>,
    priority: u8,
    key: TaskKey,
}

impl RecoveredState {
    /// Opens the store for a new session. `additions`: those of the format that the app needs.
    pub(crate) fn take(
        store: &dyn Store,
        reader: &Reader,
        durability: Durability,
        trials: TrialSettings,
        clock: &ClockReading,
        additions: &[&str],
    ) -> Result<Self, StoreError> {
        let directory = store.directory();
        let has_aborted = directory.is_some_and(aborts::is_noted);
        let (used, session, last_end) =
            meta::open(store, durability, has_aborted, clock, additions)?;
        let directory = directory.filter(|_| trials.note_aborts);
        let mut suspects = Vec::new();
        let mut notes = Vec::new();
        for (id, suspect) in reader.suspects()? {
            match store.get(&keys::header(id.root()))? {
                Some(_) => suspects.push((id, suspect)),
                // The suspect has ended with its workflow.
                None => notes.push((id, None)),
            }
        }
        let wall_ms = clock.wall_ms;
        let (quarantine, more) = Quarantine::open(suspects, last_end, trials.crashes, wall_ms);
        notes.extend(more);
        Ok(Self {
            last_commit: used.last_commit(),
            additions: used,
            session,
            quarantine,
            notes,
            starts: reader.starts()?,
            circuits: reader.circuits()?,
            controls: reader.controls()?,
            updates: reader.updates()?,
            pending: reader.pending()?,
            abort_note: directory.and_then(AbortNote::make),
            last_root: reader.last_id()?,
        })
    }

    pub(crate) fn last_commit(&self) -> u64 {
        self.last_commit
    }
}

/// Converts a suspect to the form that users see.
fn to_public((id, suspect): (Id, &Suspect)) -> QuarantinedTask {
    QuarantinedTask {
        id,
        name: suspect.name.clone(),
        crashes: suspect.crashes,
        since: UNIX_EPOCH + Duration::from_millis(suspect.since_ms),
    }
}

/// The tasks that were running when the previous process ended, and their trials.
#[derive(Debug)]
pub(super) struct Trials {
    machine: RefCell<Quarantine<TrialCandidate>>,
    /// The recovered tasks that are in quarantine.
    quarantined: RefCell<HashMap<Id, TaskKey>>,
    /// The time at which the engine is woken for the trials, on the scale of `Clock::elapsed_ms`.
    alarm: Cell<Option<u64>>,
}

impl Trials {
    pub(super) fn new(machine: Quarantine<TrialCandidate>) -> Self {
        Self {
            machine: RefCell::new(machine),
            quarantined: RefCell::default(),
            alarm: Cell::new(None),
        }
    }
}

impl EngineContext {
    /// Opens the quarantine. Must be called before any task is started.
    pub(super) fn open_quarantine(&self, notes: Vec<SuspectUpdate>) {
        notes
            .into_iter()
            .for_each(|note| self.record_suspect(Some(note)));
        let quarantined: Vec<QuarantinedTask> = {
            let quarantine = self.0.trials.machine.borrow();
            if quarantine.is_holding() {
                self.0.tasks.dispatcher.borrow_mut().hold_back();
            }
            quarantine.quarantined().map(to_public).collect()
        };
        for task in &quarantined {
            self.apply_policy(task);
        }
        if let Some(hook) = self.0.limits.on_quarantine.clone()
            && !quarantined.is_empty()
        {
            // The hook may block or panic.
            let call_hook = move || quarantined.iter().for_each(|task| hook.call(task));
            let (job, _) = pool::job(call_hook);
            self.handle().runtime.run(job);
        }
    }

    /// Keeps a quarantined task or makes it fail, as the app's policy says.
    fn apply_policy(&self, task: &QuarantinedTask) {
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
                self.view().quarantine(task.clone());
            }
            QuarantinePolicy::Discard => {
                tracing::error!(%id, name, crashes, "discarded: the process ends when it runs");
                let note = self.0.trials.machine.borrow_mut().discard(*id);
                self.record_suspect(note);
            }
        }
    }

    fn record_suspect(&self, note: Option<SuspectUpdate>) {
        match note {
            Some((id, Some(suspect))) => {
                let record = codec::encode(Kind::Suspect, &suspect);
                self.put(keys::suspect(id), record);
            }
            Some((id, None)) => self.delete(keys::suspect(id)),
            None => {}
        }
    }

    /// Returns whether this workflow must be admitted at once, because one of its tasks may have to
    /// be tried.
    pub(crate) fn may_need_trial(&self, root: Id) -> bool {
        self.0.trials.machine.borrow().awaits(root)
    }

    /// Registers a recovered task whose attempt `attempt` was running when the process ended.
    /// Returns its status.
    pub(crate) fn register_recovered(
        &self,
        id: Id,
        name: &str,
        attempt: u32,
        key: TaskKey,
    ) -> SuspectStatus {
        let now_ms = self.now_ms();
        let (status, note) = self
            .0
            .trials
            .machine
            .borrow_mut()
            .arrived(id, name, attempt, now_ms);
        self.record_suspect(note);
        if status == SuspectStatus::Quarantined {
            self.0.trials.quarantined.borrow_mut().insert(id, key);
        }
        status
    }

    /// Queues the task for its trial.
    pub(crate) fn await_trial(
        &self,
        child: &ChildSpec,
        entry: &Entry,
        slot: Slot,
        priority: u8,
        key: TaskKey,
    ) {
        let candidate = TrialCandidate {
            slot,
            limits: self.acquire_limits(entry, child, Purpose::Start),
            priority,
            key,
        };
        self.0.tasks.dispatcher.borrow_mut().pin(slot);
        let lost = self
            .0
            .trials
            .machine
            .borrow_mut()
            .wait(child.id(), candidate);
        self.unpin_candidate(lost);
        self.advance_trials();
    }

    /// Notes that all tasks that were running have been recovered.
    pub(crate) fn finish_recovery(&self) {
        self.0.trials.machine.borrow_mut().gathered();
        self.advance_trials();
    }

    /// Starts the clock of the trials: tasks may start from now on.
    pub(super) fn begin_trials(&self) {
        let now = self.clock().elapsed_ms();
        self.0.trials.machine.borrow_mut().begin(now);
    }

    /// Ends the trials whose time has passed, and starts the suspects that are next.
    /// Returns whether a suspect waits for its trial.
    pub(super) fn is_on_hold(&self, id: Id) -> bool {
        self.0.trials.machine.borrow().is_waiting(id)
    }

    pub(super) fn advance_trials(&self) {
        if self.is_draining() || self.0.tasks.dispatcher.borrow().is_paused() {
            return;
        }
        let now = self.clock().elapsed_ms();
        let outlived = self.0.trials.machine.borrow_mut().end_overdue(now);
        outlived
            .into_iter()
            .for_each(|note| self.record_suspect(Some(note)));
        self.end_hold();
        loop {
            let next = self.0.trials.machine.borrow_mut().next(now);
            let Some(candidate) = next else { break };
            self.start_trial(candidate);
        }
        self.wake_for_trials(now);
    }

    /// Unpins the slot of a suspect that does not come to its trial.
    fn unpin_candidate(&self, candidate: Option<TrialCandidate>) {
        if let Some(TrialCandidate { slot, limits, .. }) = candidate {
            self.0.tasks.dispatcher.borrow_mut().unpin(slot);
            self.release_limits(limits);
        }
    }

    fn start_trial(&self, candidate: TrialCandidate) {
        let TrialCandidate {
            slot,
            limits,
            priority,
            key,
        } = candidate;
        self.0.tasks.dispatcher.borrow_mut().unpin(slot);
        let permit = match self.0.trials.machine.borrow().is_holding() {
            // Nothing else starts meanwhile, so the trial waits for no limit.
            true => {
                let now_ms = self.steady_ms();
                let mut dispatcher = self.0.tasks.dispatcher.borrow_mut();
                dispatcher.grant_now(slot, limits, now_ms)
            }
            false => None,
        };
        match permit {
            Some(permit) => self.grant(Some((Ready::Known(key), permit))),
            // Other tasks may start, too; or the task's actor was lost, and its previous attempt
            // still holds the slot.
            None => self.request_within(limits, slot, priority, Ready::Known(key)),
        }
    }

    /// Starts the tasks that waited while a suspect was tried alone, if that trial is over.
    fn end_hold(&self) {
        let mut dispatcher = self.0.tasks.dispatcher.borrow_mut();
        if !dispatcher.is_held_back() || self.0.trials.machine.borrow().is_holding() {
            return;
        }
        let granted = dispatcher.end_hold();
        drop(dispatcher);
        for granted in granted {
            self.grant(Some(granted));
        }
        self.admit_limited();
    }

    fn wake_for_trials(&self, now: u64) {
        let Some(at) = self.0.trials.machine.borrow().wake_at() else {
            return;
        };
        let alarm = &self.0.trials.alarm;
        if alarm.get().is_none_or(|set| at < set || set <= now) {
            alarm.set(Some(at));
            let left = at.saturating_sub(self.clock().elapsed_ms());
            self.scheduler().do_send(WakeAt {
                at: Moment::steady(self.steady_ms().saturating_add(left)),
                recipient: self.engine_wake().clone(),
            });
        }
    }

    /// Continues the trials if their alarm is due. Must be called whenever the engine is woken.
    pub(crate) fn check_trials(&self) {
        if self.0.trials.alarm.take().is_some() {
            self.advance_trials();
        }
    }

    /// Starts the trial of a task whose attempt is about to be recorded.
    pub(crate) fn begin_trial(&self, id: Id) {
        let now = self.clock().elapsed_ms();
        let note = self.0.trials.machine.borrow_mut().started(id, now);
        self.record_suspect(note);
        self.wake_for_trials(now);
    }

    /// Ends the trial of a task that waits for another task.
    pub(crate) fn end_trial(&self, id: Id) {
        let note = self.0.trials.machine.borrow_mut().outlived(id);
        if note.is_some() {
            self.record_suspect(note);
            self.advance_trials();
        }
    }

    /// Clears a suspect whose attempt has ended without ending the process.
    pub(crate) fn clear_suspect(&self, id: Id) {
        let (note, waited) = self.0.trials.machine.borrow_mut().cleared(id);
        self.record_suspect(note);
        self.unpin_candidate(waited);
        // A task that was revoked may have been in quarantine until now.
        if self.0.trials.quarantined.borrow_mut().remove(&id).is_some() {
            self.view().release(id);
        }
        self.advance_trials();
    }

    /// Returns the tasks of this workflow that are suspected or quarantined.
    pub(crate) fn suspects_of(&self, root: Id) -> Vec<Id> {
        self.0.trials.machine.borrow().suspects_of(root)
    }

    /// As [`clear_suspect`](Self::clear_suspect), for a task that is not recovered any more.
    pub(crate) fn clear_absent(&self, id: Id) {
        self.view().release(id);
        self.clear_suspect(id);
    }

    /// Returns the record of a discarded task.
    pub(crate) fn suspect(&self, id: Id) -> Option<Suspect> {
        self.0.trials.machine.borrow().suspect(id).cloned()
    }

    /// Releases a task from quarantine, to run again or to fail. Returns whether it was there.
    pub(crate) fn release_quarantined(&self, id: Id, released: Released) -> bool {
        let note = {
            let mut quarantine = self.0.trials.machine.borrow_mut();
            match released {
                Released::ToRun => quarantine.requeue(id),
                Released::ToFail => quarantine.discard(id),
            }
        };
        let was_quarantined = note.is_some();
        self.record_suspect(note);
        if was_quarantined {
            self.view().release(id);
        }
        // A task that is not recovered yet finds its release on record.
        let key = self.0.trials.quarantined.borrow_mut().remove(&id);
        self.notify_released(key.or_else(|| self.view().parked_key(id)), released);
        was_quarantined
    }

    /// Makes a parked task fail, or a task that would be parked, as soon as it is admitted.
    pub(crate) fn discard_parked(&self, task: &ParkedTask) {
        if let Some(key) = self.view().parked_key(task.id) {
            return self.notify_released(Some(key), Released::ToFail);
        }
        let mut quarantine = self.0.trials.machine.borrow_mut();
        let note = quarantine.discard_unmet(task.id, &task.name, self.now_ms());
        drop(quarantine);
        self.record_suspect(Some(note));
    }

    /// Returns whether a task fails as soon as it is recovered.
    pub(crate) fn is_discarded(&self, id: Id) -> bool {
        self.0.trials.machine.borrow().is_discarded(id)
    }

    fn notify_released(&self, key: Option<TaskKey>, released: Released) {
        let tasks = self.0.tasks.slab.borrow();
        if let Some(task) = key.and_then(|key| tasks.get(key)) {
            task.do_send(TaskMessage::Released(released));
        }
    }
}
