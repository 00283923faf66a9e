//! Admission: which workflows are live, and how those that wait come in.

use std::borrow::Cow;

use actix::{Context, Handler};

use super::{EngineActor, Submitted};
use crate::actors::journal::PostCommit;
use crate::canvas::first_tasks;
use crate::canvas::freeze::{Node, TaskDef};
use crate::canvas::id::Id;
use crate::canvas::machine::Record;
use crate::canvas::machine::backlog::Lane;
use crate::canvas::options::Options;
use crate::canvas::time::{Earliest, Scale, Time};
use crate::messages::dispatcher::Slot;
use crate::messages::engine::{Stored, Wanted};
use crate::persistence::backlog::{WaitReason, Waiting};
use crate::persistence::{StoreError, keys};

/// A workflow whose first task has longer to wait than this, in milliseconds, does so in the store.
const HORIZON_MS: u64 = 2_000;
/// The most that are on their way in at once: they share the thread, and a batch, with all else.
const AT_ONCE: usize = 256;

/// When and where a workflow begins.
struct StartRequirements {
    lane: String,
    priority: u8,
    /// The slot that its first task takes, if that task is known.
    slot: Option<Slot>,
    /// When the first of its first tasks may start, if all of them wait for a time.
    at: Option<Earliest>,
    /// A first task has a delay, or a deadline, that counts from the submission.
    counts: bool,
}

/// Where a workflow begins that is live.
#[derive(Clone, Copy, Debug)]
pub(super) struct Admission {
    /// In which it has a place.
    pub(super) lane: Lane,
    /// The line in which its first task will stand.
    pub(super) line: Option<(Slot, u8)>,
    /// Something in it counts from its submission.
    pub(super) counts: bool,
}

impl EngineActor {
    /// Lets a new workflow start, or puts it to wait; says where it starts.
    pub(super) fn admit(
        &mut self,
        root: Id,
        node: &Node,
        head: &[u8],
    ) -> Result<Option<Admission>, StoreError> {
        let now = self.shell.time();
        let opening = self.opening(root, node, now.steady_ms)?;
        if let Some(at) = opening.at
            && !at.has_come(now.after(HORIZON_MS))
        {
            self.enqueue(
                root,
                Waiting::new(now.steady_ms, WaitReason::Until(at), head),
            );
            self.shell.note_delay();
            self.tell(Stored::WaitsUntil(at));
            return Ok(None);
        }
        let lane = self.backlog.lane(&opening.lane);
        if self.backlog.submitted(lane) {
            let entrance = opening.entrance(lane);
            self.record_submission(root, entrance, now.steady_ms);
            return Ok(Some(entrance));
        }
        let priority = opening.priority;
        let waiting = Waiting::new(now.steady_ms, opening.into_turn(), head);
        self.enqueue(root, waiting);
        self.tell(Stored::Waits(lane, root, priority));
        Ok(None)
    }

    /// A workflow is live, whether there is a place for it or not; says where it starts.
    pub(super) fn admit_live(&mut self, root: Id, node: &Node) -> Result<Admission, StoreError> {
        let opening = self.opening(root, node, 0)?;
        let lane = self.backlog.lane(&opening.lane);
        self.backlog.admit_live(lane);
        Ok(opening.entrance(lane))
    }

    /// Finds out, after a restart, who waits.
    pub(super) fn recover_backlog(&mut self) -> Result<(), StoreError> {
        let reader = self.shell.reader().clone();
        for name in reader.lanes()? {
            let lane = self.backlog.lane(&name);
            self.backlog.note_stored(lane);
        }
        for scale in [Scale::Steady, Scale::Wall] {
            if let Some((first, _)) = reader.timed(scale).next().transpose()? {
                self.due.add(first);
            }
        }
        Ok(())
    }

    /// Brings in what waits where there is room, and what waits for a time that has come.
    pub(super) fn admit_waiting(&mut self) {
        if let Err(error) = self.try_look() {
            self.shell.halt(error.into());
        }
        self.set_alarm();
    }

    /// Says whether anybody who waits may come in now; when that changes, the engine looks.
    pub(super) fn lets_in(&self) -> bool {
        // What is on its way is passed over, so it must not be much. What was live goes first.
        let busy = self.moving.len() > AT_ONCE / 2 || self.unresumed.is_some();
        !busy && !self.shell.is_draining()
    }

    fn try_look(&mut self) -> Result<(), StoreError> {
        if !self.lets_in() {
            return Ok(());
        }
        self.look_at_the_clock()?;
        let reader = self.shell.reader().clone();
        for (lane, room) in self.backlog.free_capacity() {
            let name = self.backlog.name(lane).to_owned();
            let from = self.backlog.last_taken(lane).cloned();
            let mut turns = reader.queued(&name, from);
            let mut room = room.min(AT_ONCE.saturating_sub(self.moving.len()));
            while room > 0 {
                let Some((turn, root)) = turns.next().transpose()? else {
                    self.backlog.mark_drained(lane);
                    break;
                };
                self.backlog.take_from(lane, turn);
                if !self.moving.contains(&root) {
                    self.take_turn(root, lane)?;
                    room -= 1;
                }
            }
        }
        Ok(())
    }

    /// The next of a lane comes in, unless it is of another one by now, as the registry is.
    fn take_turn(&mut self, root: Id, lane: Lane) -> Result<(), StoreError> {
        let (waiting, submitted) = self.waiting(root)?;
        let opening = self.opening(root, &submitted.node, waiting.since_ms)?;
        let own = self.backlog.lane(&opening.lane);
        if own == lane || self.backlog.has_capacity(own) {
            self.backlog.admit_live(own);
            return self.bring_in(submitted, waiting, opening.entrance(own));
        }
        self.backlog.requeue(own);
        self.requeue(root, waiting, opening, own);
        Ok(())
    }

    fn look_at_the_clock(&mut self) -> Result<(), StoreError> {
        let now = self.shell.time();
        if !self.due.has_come(now) {
            return Ok(());
        }
        self.due = Earliest::default();
        self.bring_in_due(Scale::Steady, now)?;
        self.bring_in_due(Scale::Wall, now)
    }

    /// Brings in what waits for a moment on this scale that has come.
    fn bring_in_due(&mut self, scale: Scale, now: Time) -> Result<(), StoreError> {
        let reader = self.shell.reader().clone();
        for due in reader.timed(scale) {
            let (at, root) = due?;
            if self.moving.contains(&root) {
                continue;
            }
            if !now.has_reached(at) || self.moving.len() >= AT_ONCE {
                self.due.add(at);
                break;
            }
            let (waiting, submitted) = self.waiting(root)?;
            let opening = self.opening(root, &submitted.node, waiting.since_ms)?;
            let lane = self.backlog.lane(&opening.lane);
            if self.backlog.submitted(lane) {
                self.bring_in(submitted, waiting, opening.entrance(lane))?;
            } else {
                self.requeue(root, waiting, opening, lane);
            }
        }
        Ok(())
    }

    fn waiting(&self, root: Id) -> Result<(Waiting, Submitted), StoreError> {
        let reader = self.shell.reader();
        let found = reader.waiting(root)?;
        let waiting = found.ok_or_else(|| StoreError::Corrupt {
            path_or_place: format!("workflow {root}"),
            what: "it is to wait, and is not there".to_owned(),
        })?;
        let submitted = self.submitted(root, waiting.header(root)?)?;
        Ok((waiting, submitted))
    }

    /// A workflow that waited becomes live.
    fn bring_in(
        &mut self,
        submitted: Submitted,
        waiting: Waiting,
        entrance: Admission,
    ) -> Result<(), StoreError> {
        let root = submitted.root;
        self.dequeue(root, &waiting);
        let since_ms = waiting.since_ms;
        let head = waiting.into_head_record();
        self.shell.put(keys::header(root), head.clone());
        self.record_submission(root, entrance, since_ms);
        if let Some(unresumed) = &mut self.unresumed {
            unresumed.came_in.insert(root);
        }
        let mut history = self.shell.reader().histories().of(root)?;
        if self.forgotten.contains(&root) {
            history.records.push(Record::Forgotten);
        }
        self.resume(submitted, head, history, entrance, since_ms)
    }

    /// Its line may be long, and the process may end before its first task has begun to count.
    fn record_submission(&self, root: Id, entrance: Admission, since_ms: u64) {
        if entrance.counts {
            let at_ms = since_ms;
            self.shell
                .record(root.workflow_stream(), Record::Reached { at_ms });
        }
    }

    fn requeue(&mut self, root: Id, waiting: Waiting, opening: StartRequirements, lane: Lane) {
        self.dequeue(root, &waiting);
        let priority = opening.priority;
        self.enqueue(root, waiting.with_reason(opening.into_turn()));
        self.tell(Stored::Waits(lane, root, priority));
    }

    fn enqueue(&self, root: Id, waiting: Waiting) {
        for (key, value) in waiting.records(root) {
            self.shell.put(key, value);
        }
    }

    /// Until the store has heard of it, it would be found waiting.
    fn dequeue(&mut self, root: Id, waiting: &Waiting) {
        for key in waiting.keys(root) {
            self.shell.delete(key);
        }
        self.moving.insert(root);
        self.tell(Stored::Moved(root));
    }

    fn tell(&self, stored: Stored) {
        self.shell.then(PostCommit::Stored(stored));
    }

    fn opening(
        &self,
        root: Id,
        node: &Node,
        since_ms: u64,
    ) -> Result<StartRequirements, StoreError> {
        let mut first = None;
        let (mut waits, mut counts) = (true, false);
        let mut at = Earliest::default();
        let elsewhere = first_tasks::visit(node, &mut |_, task| {
            first.get_or_insert_with(|| self.begins_with(task));
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
            // Of a group too large to stand in the head, one member tells of all.
            (None, Some(seq)) => {
                let (_, members) = self.shell.reader().stored_members(root.node(seq), 0)?;
                match members.first() {
                    Some(member) => {
                        return self
                            .opening(root, member, since_ms)
                            .map(StartRequirements::now);
                    }
                    None => Default::default(),
                }
            }
            // Nothing but callbacks, or a body.
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

    /// The lane of what starts with this task, its queue; its priority, and the slot that it takes.
    /// What nobody can run has lanes of its own, so that it takes nobody's place.
    fn begins_with<'a>(&self, task: &'a TaskDef) -> (Cow<'a, str>, u8, Option<Slot>) {
        let Some(entry) = self.shell.entry(&task.name) else {
            return (format!("\0{}", task.name).into(), 0, None);
        };
        let own = task.options.as_deref();
        let queue = own.and_then(|own| own.queue.as_deref());
        let slot = self.shell.slot(entry, own);
        let queue = queue.unwrap_or(entry.options.queue);
        (queue.into(), entry.priority(own), Some(slot))
    }
}

impl StartRequirements {
    fn entrance(&self, lane: Lane) -> Admission {
        let line = self.slot.map(|slot| (slot, self.priority));
        let counts = self.counts;
        Admission { lane, line, counts }
    }

    fn now(self) -> Self {
        Self { at: None, ..self }
    }

    fn into_turn(self) -> WaitReason {
        WaitReason::Queue {
            lane: self.lane,
            priority: self.priority,
        }
    }
}

impl Handler<Stored> for EngineActor {
    type Result = ();

    fn handle(&mut self, stored: Stored, _: &mut Context<Self>) {
        match stored {
            Stored::Waits(lane, root, priority) => {
                self.backlog.arrived(lane);
                let turn = keys::queued(self.backlog.name(lane), priority, root);
                // Before those that are in already.
                if self
                    .backlog
                    .last_taken(lane)
                    .is_some_and(|last| turn < *last)
                {
                    self.backlog.take_from(lane, turn);
                }
            }
            Stored::WaitsUntil(at) => at.moments().for_each(|moment| self.due.add(moment)),
            Stored::Moved(root) => drop(self.moving.remove(&root)),
            Stored::Forgotten(root) => {
                self.forgotten.remove(&root);
                return;
            }
            Stored::Resumed => {
                if let Err(error) = self.resume_some() {
                    self.shell.halt(error.into());
                }
            }
            Stored::AllResumed => return self.shell.gathered(),
        }
        self.admit_waiting();
    }
}

impl Handler<Wanted> for EngineActor {
    type Result = ();

    /// It comes in at once, past all that wait: the task that waits for it may hold what these
    /// wait for.
    fn handle(&mut self, Wanted(root): Wanted, _: &mut Context<Self>) {
        self.want(root);
    }
}

impl EngineActor {
    /// Has a workflow begin, wherever it waits.
    pub(super) fn want(&mut self, root: Id) {
        if self.workflows.contains_key(&root) {
            return self.shell.begin_at_once(root);
        }
        if self.moving.contains(&root) {
            // It may have been put elsewhere to wait on: it is asked for again when the store shows where.
            return self.shell.then(PostCommit::Wanted(Wanted(root)));
        }
        let done = match self.shell.reader().waiting(root) {
            Ok(None) => Ok(()),
            Ok(Some(_)) => self.waiting(root).and_then(|(waiting, submitted)| {
                let entrance = self.admit_live(root, &submitted.node)?;
                let entrance = Admission {
                    line: None,
                    ..entrance
                };
                self.bring_in(submitted, waiting, entrance)
            }),
            Err(error) => Err(error),
        };
        if let Err(error) = done {
            self.shell.halt(error.into());
        }
    }
}
