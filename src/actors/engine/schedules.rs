//! Schedules: submits the work of the entries whose ticks are due.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::sync::oneshot;

use super::EngineActor;
use crate::actors::commit::journal::PostCommit;
use crate::actors::scheduler::DRIFT_MS;
use crate::canvas::id::{Id, WORKFLOW_STREAM};
use crate::canvas::machine::workflow::ROOT;
use crate::canvas::schedule::entry::Entry;
use crate::canvas::schedule::{Change, InvalidSchedule, Schedule, ScheduleEntry, Work};
use crate::canvas::time::{Earliest, Moment, Scale, Time};
use crate::error::{Error, SubmitError};
use crate::messages::engine::{ChangeSchedule, EngineMessage, Revoke};
use crate::persistence::StoreError;
use crate::persistence::records::codec::{self, Kind};
use crate::persistence::records::definition::WorkflowHeader;
use crate::persistence::records::schedules::StoredEntry;
use crate::persistence::records::{keys, meta, schedules};

/// The entries that are declared in code.
#[derive(Debug, Default)]
pub(crate) struct Declarations {
    /// When the app was started: the ticks of new entries come after it.
    pub(crate) at: Time,
    pub(crate) entries: Vec<Declared>,
}

/// An entry that is declared in code.
#[derive(Debug)]
pub(crate) struct Declared {
    pub(crate) name: String,
    pub(crate) schedule: Schedule,
    pub(crate) work: Work,
}

/// All entries, ordered by the moments at which they are due.
#[derive(Debug, Default)]
pub(super) struct Timetable {
    entries: BTreeMap<String, Scheduled>,
    /// The names of entries by the moments of their next decisions, on each scale.
    steady: BTreeSet<(u64, String)>,
    wall: BTreeSet<(u64, String)>,
    /// The entries of workflows that have not ended, of those that an entry submitted last.
    running: HashMap<Id, String>,
    /// By how much the wall clock was ahead of the steady scale when the order was made.
    ahead_ms: i64,
}

#[derive(Debug)]
struct Scheduled {
    entry: Entry,
    work: Work,
    /// The workflow that was submitted last.
    last: Option<Id>,
    is_declared: bool,
    /// Its position in the order.
    next: Option<Moment>,
}

impl Timetable {
    /// Takes an entry out.
    fn take(&mut self, name: &str) -> Option<Scheduled> {
        let scheduled = self.entries.remove(name)?;
        if let Some(next) = scheduled.next {
            self.at(next.scale).remove(&(next.ms, name.to_owned()));
        }
        Some(scheduled)
    }

    fn insert(&mut self, name: String, mut scheduled: Scheduled, now: Time) {
        let is_running = self.is_running(&scheduled);
        scheduled.next = scheduled.entry.wake_at(now, is_running);
        if let Some(next) = scheduled.next {
            self.at(next.scale).insert((next.ms, name.clone()));
        }
        self.entries.insert(name, scheduled);
    }

    fn at(&mut self, scale: Scale) -> &mut BTreeSet<(u64, String)> {
        match scale {
            Scale::Steady => &mut self.steady,
            Scale::Wall => &mut self.wall,
        }
    }

    /// Orders the entries anew whose moments depend on both scales, if the clock has been set.
    fn note_clock(&mut self, now: Time) {
        if self.ahead_ms.abs_diff(now.ahead_ms()) <= DRIFT_MS {
            return;
        }
        self.ahead_ms = now.ahead_ms();
        let entries = self.entries.iter();
        let moved = entries.filter(|(_, scheduled)| scheduled.entry.follows_both_scales());
        let moved: Vec<_> = moved.map(|(name, _)| name.clone()).collect();
        for name in moved {
            if let Some(scheduled) = self.take(&name) {
                self.insert(name, scheduled, now);
            }
        }
    }

    fn is_running(&self, scheduled: &Scheduled) -> bool {
        let last = scheduled.last;
        last.is_some_and(|last| self.running.contains_key(&last))
    }

    fn set_running(&mut self, name: &str, scheduled: &mut Scheduled, root: Id) {
        if let Some(before) = scheduled.last.replace(root) {
            self.running.remove(&before);
        }
        self.running.insert(root, name.to_owned());
    }

    /// Returns an entry that is due.
    fn first_due(&self, now: Time) -> Option<String> {
        let due = |set: &BTreeSet<(u64, String)>, now_ms| {
            let (at_ms, name) = set.first()?;
            (*at_ms <= now_ms).then(|| name.clone())
        };
        due(&self.steady, now.steady_ms).or_else(|| due(&self.wall, now.wall_ms))
    }

    /// Returns the first moment on each scale at which an entry is due.
    pub(super) fn first(&self) -> Earliest {
        Earliest {
            steady_ms: self.steady.first().map(|(at_ms, _)| *at_ms),
            wall_ms: self.wall.first().map(|(at_ms, _)| *at_ms),
        }
    }
}

impl EngineActor {
    /// Restores the stored entries and takes over those that are declared in code.
    pub(super) fn recover_schedules(&mut self) -> Result<(), StoreError> {
        let Declarations { at: now, entries } = std::mem::take(&mut self.declarations);
        let reader = self.engine.reader().clone();
        let mut declared: BTreeMap<_, _> = entries
            .into_iter()
            .map(|declared| (declared.name.clone(), declared))
            .collect();
        for (name, stored) in reader.schedules()? {
            let own = declared.remove(&name);
            if own.is_none() && stored.is_declared {
                self.engine.delete(schedules::key(&name));
                continue;
            }
            if let Some(last) = stored.last
                && self.is_unfinished(last)?
            {
                self.timetable.running.insert(last, name.clone());
            }
            let schedule = Schedule(stored.definition.clone());
            let before = Entry::restore(&name, schedule, stored.progress);
            let redefined = own.and_then(|own| {
                let entry = before.clone().redefine(&name, own.schedule, now);
                entry.ok().map(|entry| (entry, own.work, true))
            });
            let (entry, work, is_declared) =
                redefined.unwrap_or_else(|| (before, stored.work.clone(), stored.is_declared));
            if let Some(error) = entry.error() {
                tracing::error!(schedule = name, %error, "an entry has no ticks");
            }
            let scheduled = Scheduled {
                entry,
                work,
                last: stored.last,
                is_declared,
                next: None,
            };
            if scheduled.stored() != stored {
                self.store_entry(&name, &scheduled);
            }
            self.timetable.insert(name, scheduled, now);
        }
        for (name, own) in declared {
            match Entry::new(&name, own.schedule, now) {
                Ok(entry) => self.add_entry(name, entry, own.work, true, now),
                Err(error) => tracing::error!(schedule = name, %error, "an entry is refused"),
            }
        }
        self.run_schedules();
        Ok(())
    }

    fn is_unfinished(&self, root: Id) -> Result<bool, StoreError> {
        let reader = self.engine.reader();
        let is_live = reader.store().get(&keys::header(root))?.is_some();
        Ok(is_live || reader.waiting(root)?.is_some())
    }

    fn add_entry(&mut self, name: String, entry: Entry, work: Work, is_declared: bool, now: Time) {
        let scheduled = Scheduled {
            entry,
            work,
            last: None,
            is_declared,
            next: None,
        };
        self.store_entry(&name, &scheduled);
        self.timetable.insert(name, scheduled, now);
    }

    /// Stores an entry in the batch that is being filled.
    fn store_entry(&self, name: &str, scheduled: &Scheduled) {
        self.engine.use_addition(meta::SCHEDULES);
        let (key, record) = schedules::record(name, &scheduled.stored());
        self.engine.put(key, record);
    }

    /// Submits the work of all entries that are due, and sets the alarm for the next.
    pub(super) fn run_schedules(&mut self) {
        let now = self.engine.time();
        self.timetable.note_clock(now);
        while !self.engine.is_draining()
            && let Some(name) = self.timetable.first_due(now)
        {
            if let Err(error) = self.run_entry(&name, now) {
                return self.engine.halt(error.into());
            }
        }
        self.set_alarm();
    }

    /// Submits the work of all ticks of an entry that are due. The ticks and the submissions are in
    /// one batch.
    fn run_entry(&mut self, name: &str, now: Time) -> Result<(), StoreError> {
        let Some(mut scheduled) = self.timetable.take(name) else {
            return Ok(());
        };
        let before = scheduled.entry.progress();
        let is_running = self.timetable.is_running(&scheduled);
        for submission in scheduled.entry.decide(now, is_running) {
            if let Some(last) = scheduled.last.filter(|_| submission.cancels_previous) {
                self.revoke_previous(last)?;
            }
            self.submit_work(name, &mut scheduled)?;
        }
        if scheduled.entry.progress() != before {
            self.store_entry(name, &scheduled);
        }
        self.timetable.insert(name.to_owned(), scheduled, now);
        Ok(())
    }

    /// Submits the work of an entry once. The caller stores the entry in the same batch.
    fn submit_work(&mut self, name: &str, scheduled: &mut Scheduled) -> Result<Id, StoreError> {
        let view = self.engine.view().clone();
        let root_id = self.engine.handle().addresses().ids.next(&view.clock);
        let Work { root, next, bytes } = scheduled.work.clone();
        let header = WorkflowHeader {
            root: Some(root.clone()),
            idempotency_key: None,
            next,
            bytes,
        };
        let mut reservation = view.admission.acquire_over_limit();
        reservation.set(header.load());
        let load = reservation.hand_over();
        let header = codec::encode(Kind::Head, &header);
        self.timetable.set_running(name, scheduled, root_id);
        if !self.begin(root_id, root, header, next, load)? {
            self.set_alarm();
        }
        Ok(root_id)
    }

    /// Revokes the work of the tick before. If the store does not show yet where it waits, that is
    /// done as soon as it does.
    fn revoke_previous(&mut self, root: Id) -> Result<(), StoreError> {
        let (settled, _) = oneshot::channel();
        let node = (WORKFLOW_STREAM, ROOT);
        let revoke = Revoke {
            root,
            node,
            settled,
        };
        if self.workflows.contains_key(&root) || self.is_unfinished(root)? {
            return self.revoke(revoke);
        }
        self.engine.notify(EngineMessage::Revoke(revoke));
        Ok(())
    }

    /// Notes that a workflow has ended: a tick may have waited for that.
    pub(super) fn note_scheduled_end(&mut self, root: Id) -> Result<(), StoreError> {
        match self.timetable.running.remove(&root) {
            Some(name) if !self.engine.is_draining() => {
                self.run_entry(&name, self.engine.time())?;
                self.set_alarm();
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// Changes an entry at run time, and answers once that is durable.
    pub(super) fn change_schedule(&mut self, request: ChangeSchedule) -> Result<(), StoreError> {
        let ChangeSchedule { name, change, done } = request;
        if self.engine.is_draining() {
            return Ok(());
        }
        let now = self.engine.time();
        let mut submitted = None;
        match (self.timetable.take(&name), change) {
            (None, Change::Add(schedule, work)) => match Entry::new(&name, schedule, now) {
                Ok(entry) => self.add_entry(name, entry, work, false, now),
                Err(error) => {
                    refuse(done, invalid(name, &error));
                    return Ok(());
                }
            },
            (Some(before), Change::Add(schedule, work)) => {
                let entry = before.entry.clone().redefine(&name, schedule, now);
                let (scheduled, error) = match entry {
                    Ok(entry) => {
                        let scheduled = Scheduled {
                            entry,
                            work,
                            is_declared: false,
                            ..before
                        };
                        (scheduled, None)
                    }
                    Err(error) => (before, Some(error)),
                };
                if error.is_none() {
                    self.store_entry(&name, &scheduled);
                }
                self.timetable.insert(name.clone(), scheduled, now);
                if let Some(error) = error {
                    refuse(done, invalid(name, &error));
                    return Ok(());
                }
            }
            (None, _) => {
                refuse(done, SubmitError::UnknownSchedule { name });
                return Ok(());
            }
            (Some(removed), Change::Remove) => {
                self.engine.delete(schedules::key(&name));
                if let Some(last) = removed.last {
                    self.timetable.running.remove(&last);
                }
            }
            (Some(mut scheduled), change) => {
                match change {
                    Change::Pause => scheduled.entry.pause(),
                    Change::Resume => scheduled.entry.resume(now),
                    Change::Trigger => {
                        submitted = Some(self.submit_work(&name, &mut scheduled)?);
                    }
                    Change::Add(..) | Change::Remove => unreachable!("handled above"),
                }
                self.store_entry(&name, &scheduled);
                self.timetable.insert(name, scheduled, now);
            }
        }
        self.engine.then(PostCommit::Changed(done, submitted));
        self.run_schedules();
        Ok(())
    }

    /// Lists all entries by name.
    pub(super) fn list_schedules(&self) -> Vec<ScheduleEntry> {
        let now = self.engine.time();
        let list = self.timetable.entries.iter().map(|(name, scheduled)| {
            let entry = &scheduled.entry;
            ScheduleEntry {
                name: name.clone(),
                schedule: entry.schedule().clone(),
                is_paused: entry.is_paused(),
                is_declared: scheduled.is_declared,
                last: entry.last().map(|last| shown(last, now)),
                last_id: scheduled.last,
                next: entry.wake_at(now, false).map(|next| shown(next, now)),
            }
        });
        list.collect()
    }
}

impl Scheduled {
    fn stored(&self) -> StoredEntry {
        StoredEntry {
            definition: self.entry.schedule().0.clone(),
            work: self.work.clone(),
            progress: self.entry.progress(),
            last: self.last,
            is_declared: self.is_declared,
        }
    }
}

fn invalid(name: String, error: &InvalidSchedule) -> SubmitError {
    let reason = error.to_string();
    SubmitError::InvalidSchedule { name, reason }
}

/// Refuses a change. The caller may have stopped waiting.
fn refuse(done: oneshot::Sender<Result<Option<Id>, Error>>, error: SubmitError) {
    let _ = done.send(Err(error.into()));
}

/// Returns the time that the clock shows at this moment, unless it is set.
fn shown(moment: Moment, now: Time) -> SystemTime {
    let ms = match moment.scale {
        Scale::Wall => moment.ms,
        Scale::Steady => moment.ms.saturating_add_signed(now.ahead_ms()),
    };
    UNIX_EPOCH + Duration::from_millis(ms)
}
