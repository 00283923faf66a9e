//! Admission: decides which workflows are live, and admits the waiting ones.

use std::borrow::Cow;
use std::collections::HashSet;

use super::{EngineActor, Submitted};
use crate::actors::dispatch::permit::Slot;
use crate::canvas::admission::backlog::{Backlog, Lane};
use crate::canvas::first_tasks;
use crate::canvas::freeze::{Node, TaskDef};
use crate::canvas::id::Id;
use crate::canvas::machine::Record;
use crate::canvas::options::Options;
use crate::canvas::time::{Earliest, Scale, Time};
use crate::messages::engine::{EngineMessage, Stored};
use crate::persistence::StoreError;
use crate::persistence::records::backlog::{WaitReason, Waiting};
use crate::persistence::records::keys;

/// A workflow whose first task starts later than this, in milliseconds, waits in the store.
const HORIZON_MS: u64 = 2_000;
/// The most workflows being admitted at once: they share the thread, and a batch, with all other
/// work.
const AT_ONCE: usize = 256;

/// When and where a workflow starts.
struct StartRequirements {
    lane: String,
    priority: u8,
    /// The slot that its first task needs, if that task is registered.
    slot: Option<Slot>,
    /// The earliest time at which one of its first tasks may start, if all of them wait for a time.
    at: Option<Earliest>,
    /// One of the first tasks has a delay or a deadline that counts from the submission.
    counts: bool,
}

/// Where a live workflow starts.
#[derive(Clone, Copy, Debug)]
pub(super) struct Admission {
    /// The lane whose capacity it uses.
    pub(super) lane: Lane,
    /// The slot that its first task needs, and the task's priority in the queue.
    pub(super) first_slot: Option<(Slot, u8)>,
    /// A delay or deadline in it counts from its submission.
    pub(super) counts: bool,
}

/// Which workflows are live, which wait, and what the store does not show yet of that.
#[derive(Debug)]
pub(super) struct AdmissionState {
    /// Decides which workflows are live and which wait.
    pub(super) backlog: Backlog,
    /// Workflows have ended since the last admission, so lanes may have capacity.
    pub(super) has_capacity: bool,
    /// Workflows whose waiting records are deleted, while the store still shows them.
    pub(super) moving: HashSet<Id>,
    /// Waiting workflows that were forgotten, while the store does not show that yet.
    pub(super) forgotten: HashSet<Id>,
    /// The earliest time for which a workflow waits in the store.
    pub(super) next_start: Earliest,
}

impl AdmissionState {
    /// Creates the state for lanes of which each admits this many workflows.
    pub(super) fn new(live_workflows: usize) -> Self {
        Self {
            backlog: Backlog::new(live_workflows),
            has_capacity: false,
            moving: HashSet::new(),
            forgotten: HashSet::new(),
            next_start: Earliest::default(),
        }
    }
}

impl EngineActor {
    /// Admits a new workflow and returns where it starts, or stores it as waiting.
    pub(super) fn admit(
        &mut self,
        root: Id,
        node: &Node,
        header: &[u8],
    ) -> Result<Option<Admission>, StoreError> {
        let now = self.engine.time();
        let requirements = self.requirements(root, node, now.steady_ms)?;
        if let Some(at) = requirements.at
            && !at.has_come(now.after(HORIZON_MS))
        {
            self.enqueue(
                root,
                Waiting::new(now.steady_ms, WaitReason::Until(at), header),
            );
            self.engine.note_delay();
            self.when_stored(Stored::WaitsUntil(at));
            return Ok(None);
        }
        let lane = self.admission.backlog.lane(&requirements.lane);
        if self.admission.backlog.submitted(lane) {
            let admission = requirements.admission(lane);
            self.record_submission(root, admission, now.steady_ms);
            return Ok(Some(admission));
        }
        let priority = requirements.priority;
        let waiting = Waiting::new(now.steady_ms, requirements.into_wait_reason(), header);
        self.enqueue(root, waiting);
        self.when_stored(Stored::Waits(lane, root, priority));
        Ok(None)
    }

    /// Makes a workflow live whether its lane has capacity or not; returns where it starts.
    pub(super) fn admit_live(&mut self, root: Id, node: &Node) -> Result<Admission, StoreError> {
        let requirements = self.requirements(root, node, 0)?;
        let lane = self.admission.backlog.lane(&requirements.lane);
        self.admission.backlog.admit_live(lane);
        Ok(requirements.admission(lane))
    }

    /// Finds the waiting workflows after a restart.
    pub(super) fn recover_backlog(&mut self) -> Result<(), StoreError> {
        let reader = self.engine.reader().clone();
        for name in reader.lanes()? {
            let lane = self.admission.backlog.lane(&name);
            self.admission.backlog.note_stored(lane);
        }
        for scale in [Scale::Steady, Scale::Wall] {
            if let Some((first, _)) = reader.timed(scale).next().transpose()? {
                self.admission.next_start.add(first);
            }
        }
        Ok(())
    }

    /// Admits waiting workflows whose lane has capacity or whose time has come.
    pub(super) fn admit_waiting(&mut self) {
        if let Err(error) = self.try_admit_waiting() {
            self.engine.halt(error.into());
        }
        self.set_alarm();
    }

    /// Returns whether waiting workflows may be admitted now. When that changes, the engine tries
    /// again.
    pub(super) fn can_admit(&self) -> bool {
        // The scan skips workflows in `moving`, so these must be few. Workflows that were live
        // before a restart go first.
        let busy = self.admission.moving.len() > AT_ONCE / 2 || self.unresumed.is_some();
        !busy && !self.engine.is_draining()
    }

    fn try_admit_waiting(&mut self) -> Result<(), StoreError> {
        if !self.can_admit() {
            return Ok(());
        }
        self.admit_due()?;
        let reader = self.engine.reader().clone();
        for (lane, capacity) in self.admission.backlog.free_capacity() {
            let name = self.admission.backlog.name(lane).to_owned();
            let from = self.admission.backlog.cursor(lane).cloned();
            let mut positions = reader.queued(&name, from);
            let mut capacity = capacity.min(AT_ONCE.saturating_sub(self.admission.moving.len()));
            while capacity > 0 {
                if self.admission.backlog.is_turn_of_oldest(lane) {
                    capacity -= usize::from(self.admit_oldest(lane)?);
                    continue;
                }
                let Some((position, root)) = positions.next().transpose()? else {
                    self.admission.backlog.mark_drained(lane);
                    break;
                };
                self.admission.backlog.set_cursor(lane, position);
                if !self.admission.moving.contains(&root) {
                    self.admission.backlog.count_pass(lane, false);
                    self.admit_next(root, lane)?;
                    capacity -= 1;
                }
            }
        }
        Ok(())
    }

    /// Admits the workflow that has waited longest in a lane, if there is one.
    fn admit_oldest(&mut self, lane: Lane) -> Result<bool, StoreError> {
        let (reader, backlog) = (self.engine.reader().clone(), &self.admission.backlog);
        let mut oldest: Option<(Id, u8, Vec<u8>)> = None;
        for priority in 0..=9 {
            // All that wait are behind the cursor, and those of lower priorities not only there.
            let from = backlog.cursor(lane).max(backlog.aged(lane, priority));
            let mut queued = reader.queued_at(backlog.name(lane), priority, from.cloned());
            let is_moving = |root: &Id| self.admission.moving.contains(root);
            let first = queued.find(|one| !matches!(one, Ok((_, root)) if is_moving(root)));
            if let Some((position, root)) = first.transpose()?
                && oldest.as_ref().is_none_or(|(other, ..)| root < *other)
            {
                oldest = Some((root, priority, position));
            }
        }
        self.admission.backlog.count_pass(lane, true);
        let Some((root, priority, position)) = oldest else {
            return Ok(false);
        };
        self.admission.backlog.set_aged(lane, priority, position);
        self.admit_next(root, lane)?;
        Ok(true)
    }

    /// Admits the next workflow of a lane, unless the registry assigns it to another lane by now.
    fn admit_next(&mut self, root: Id, lane: Lane) -> Result<(), StoreError> {
        let (waiting, submitted) = self.waiting(root)?;
        let requirements = self.requirements(root, &submitted.node, waiting.since_ms)?;
        let own = self.admission.backlog.lane(&requirements.lane);
        if own == lane || self.admission.backlog.has_capacity(own) {
            self.admission.backlog.admit_live(own);
            return self.make_live(submitted, waiting, requirements.admission(own));
        }
        self.admission.backlog.requeue(own);
        self.requeue(root, waiting, requirements, own);
        Ok(())
    }

    fn admit_due(&mut self) -> Result<(), StoreError> {
        let now = self.engine.time();
        if !self.admission.next_start.has_come(now) {
            return Ok(());
        }
        self.admission.next_start = Earliest::default();
        self.admit_due_on(Scale::Steady, now)?;
        self.admit_due_on(Scale::Wall, now)
    }

    /// Admits the workflows that wait for a time on this scale that has come.
    fn admit_due_on(&mut self, scale: Scale, now: Time) -> Result<(), StoreError> {
        let reader = self.engine.reader().clone();
        for entry in reader.timed(scale) {
            let (at, root) = entry?;
            if self.admission.moving.contains(&root) {
                continue;
            }
            if !now.has_reached(at) || self.admission.moving.len() >= AT_ONCE {
                self.admission.next_start.add(at);
                break;
            }
            let (waiting, submitted) = self.waiting(root)?;
            let requirements = self.requirements(root, &submitted.node, waiting.since_ms)?;
            let lane = self.admission.backlog.lane(&requirements.lane);
            if self.admission.backlog.submitted(lane) {
                self.make_live(submitted, waiting, requirements.admission(lane))?;
            } else {
                self.requeue(root, waiting, requirements, lane);
            }
        }
        Ok(())
    }

    fn waiting(&self, root: Id) -> Result<(Waiting, Submitted), StoreError> {
        let reader = self.engine.reader();
        let waiting = reader.waiting(root)?;
        let waiting = waiting.ok_or_else(|| StoreError::Corrupt {
            path_or_place: format!("workflow {root}"),
            what: "its waiting record is missing".to_owned(),
        })?;
        let submitted = self.submitted(root, waiting.header(root)?)?;
        Ok((waiting, submitted))
    }

    /// Makes a waiting workflow live.
    fn make_live(
        &mut self,
        submitted: Submitted,
        waiting: Waiting,
        admission: Admission,
    ) -> Result<(), StoreError> {
        let root = submitted.root;
        self.dequeue(root, &waiting);
        let since_ms = waiting.since_ms;
        let header = waiting.into_head_record();
        let key = keys::header(root);
        if let Some(unresumed) = &mut self.unresumed {
            unresumed.note_admitted(root, &key);
        }
        self.engine.put(key, header.clone());
        self.record_submission(root, admission, since_ms);
        let mut history = self.engine.reader().histories().of(root)?;
        if self.admission.forgotten.contains(&root) {
            history.records.push(Record::Forgotten);
        }
        self.resume(submitted, header, history, admission, since_ms)
    }

    /// Records the submission time of a workflow with delays or deadlines: its queue may be long,
    /// and the process may end before its first task has recorded anything.
    fn record_submission(&self, root: Id, admission: Admission, since_ms: u64) {
        if admission.counts {
            let at_ms = since_ms;
            self.engine
                .record(root.workflow_stream(), Record::Reached { at_ms });
        }
    }

    fn requeue(&mut self, root: Id, waiting: Waiting, requirements: StartRequirements, lane: Lane) {
        self.dequeue(root, &waiting);
        let priority = requirements.priority;
        self.enqueue(root, waiting.with_reason(requirements.into_wait_reason()));
        self.when_stored(Stored::Waits(lane, root, priority));
    }

    fn enqueue(&self, root: Id, waiting: Waiting) {
        for (key, value) in waiting.records(root) {
            self.engine.put(key, value);
        }
    }

    /// Deletes the waiting records of a workflow. Until that is stored, scans would still find it,
    /// so it is listed in `moving`.
    fn dequeue(&mut self, root: Id, waiting: &Waiting) {
        for key in waiting.keys(root) {
            self.engine.delete(key);
        }
        self.admission.moving.insert(root);
        self.when_stored(Stored::Moved(root));
    }

    fn when_stored(&self, stored: Stored) {
        self.engine.notify(EngineMessage::Stored(stored));
    }

    fn requirements(
        &self,
        root: Id,
        node: &Node,
        since_ms: u64,
    ) -> Result<StartRequirements, StoreError> {
        let mut first = None;
        let (mut waits, mut counts) = (true, false);
        let mut at = Earliest::default();
        let elsewhere = first_tasks::visit(node, &mut |_, task| {
            first.get_or_insert_with(|| self.lane_of(task));
            let own = task.options.as_deref();
            counts |= own.is_some_and(Options::counts);
            match own.and_then(|options| options.eta) {
                Some(eta) => at.add(eta.from(since_ms)),
                None => waits = false,
            }
        });
        let waits = waits && first.is_some() && elsewhere.is_none();
        let (lane, priority, slot) = match (first, elsewhere) {
            (Some(first), _) => first,
            // For a group too large for the header, one member stands for all.
            (None, Some(seq)) => {
                let (_, members) = self.engine.reader().stored_members(root.node(seq), 0)?;
                match members.first() {
                    Some(member) => {
                        return self
                            .requirements(root, member, since_ms)
                            .map(StartRequirements::now);
                    }
                    None => Default::default(),
                }
            }
            // There is nothing to start but callbacks or a chord's body.
            (None, None) => Default::default(),
        };
        Ok(StartRequirements {
            lane: lane.into_owned(),
            priority,
            slot,
            at: waits.then_some(at),
            counts,
        })
    }

    /// Returns the lane of a workflow that starts with this task (the task's queue), the task's
    /// priority, and its slot. Tasks that are not registered get lanes of their own, and so do tasks
    /// under limits, by key: those that wait for a limit use no other workflow's capacity.
    fn lane_of<'a>(&self, task: &'a TaskDef) -> (Cow<'a, str>, u8, Option<Slot>) {
        let Some(entry) = self.engine.entry(&task.name) else {
            return (format!("\0{}", task.name).into(), 0, None);
        };
        let own = task.options.as_deref();
        let queue = own.and_then(|own| own.queue.as_deref());
        let slot = self.engine.slot(entry, own);
        let queue = queue.unwrap_or(entry.options.queue);
        let lane = match self.engine.lane_under_limits(entry, task) {
            Some(lane) => format!("{queue}{lane}").into(),
            None => queue.into(),
        };
        (lane, entry.priority(own), Some(slot))
    }
}

impl StartRequirements {
    fn admission(&self, lane: Lane) -> Admission {
        let first_slot = self.slot.map(|slot| (slot, self.priority));
        let counts = self.counts;
        Admission {
            lane,
            first_slot,
            counts,
        }
    }

    fn now(self) -> Self {
        Self { at: None, ..self }
    }

    fn into_wait_reason(self) -> WaitReason {
        WaitReason::Queue {
            lane: self.lane,
            priority: self.priority,
        }
    }
}

impl EngineActor {
    /// Handles that the store shows a decision on a workflow that waits or is resumed.
    pub(super) fn on_stored(&mut self, stored: Stored) -> Result<(), StoreError> {
        match stored {
            Stored::Waits(lane, root, priority) => {
                self.admission.backlog.arrived(lane);
                let position = keys::queued(self.admission.backlog.name(lane), priority, root);
                // Its position is before those that were admitted already.
                if self
                    .admission
                    .backlog
                    .cursor(lane)
                    .is_some_and(|last| position < *last)
                {
                    self.admission.backlog.set_cursor(lane, position.clone());
                }
                let aged = self.admission.backlog.aged(lane, priority);
                if aged.is_some_and(|last| position < *last) {
                    self.admission.backlog.set_aged(lane, priority, position);
                }
            }
            Stored::WaitsUntil(at) => at
                .moments()
                .for_each(|moment| self.admission.next_start.add(moment)),
            Stored::Moved(root) => drop(self.admission.moving.remove(&root)),
            Stored::Forgotten(root) => {
                self.admission.forgotten.remove(&root);
                return Ok(());
            }
            Stored::Resumed => self.resume_some()?,
            Stored::AllResumed => {
                self.engine.finish_recovery();
                return Ok(());
            }
        }
        self.admit_waiting();
        Ok(())
    }

    /// Starts a workflow at once, wherever it waits and ahead of all others: the task that waits
    /// for it may hold what these wait for.
    pub(super) fn start_early(&mut self, root: Id) -> Result<(), StoreError> {
        if self.workflows.contains_key(&root) {
            self.engine.start_delayed_workflow(root);
            return Ok(());
        }
        if self.admission.moving.contains(&root) {
            // It may have been requeued in another lane: the request is repeated once the store
            // shows where it waits.
            self.engine.notify(EngineMessage::Wanted(root));
            return Ok(());
        }
        if self.engine.reader().waiting(root)?.is_some() {
            let (waiting, submitted) = self.waiting(root)?;
            let admission = self.admit_live(root, &submitted.node)?;
            let admission = Admission {
                first_slot: None,
                ..admission
            };
            self.make_live(submitted, waiting, admission)?;
        }
        Ok(())
    }
}
