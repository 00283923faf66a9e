//! The engine: supervises all workflows; stores them, ends them, and sweeps them.

mod admission;
pub(crate) mod client;
pub(crate) mod parked;
mod quarantine;
mod retention;
mod revocation;
pub(crate) mod staged;
mod staging;
pub(crate) mod sweeper;

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use actix::{Actor, AsyncContext, Context, Handler, ResponseFuture};

use self::admission::Admission;
use super::child::{Child, Resume};
use super::commit::journal::PostCommit;
use super::context::EngineContext;
use super::event_queue::EventQueue;
use super::supervision::{abandoned_report, restart_after_commit};
use crate::canvas::admission::backlog::{Backlog, Lane};
use crate::canvas::admission::pending_limit::Load;
use crate::canvas::freeze::Node;
use crate::canvas::id::{Id, Seq};
use crate::canvas::machine::child_spec::ChildSpec;
use crate::canvas::machine::workflow::{Command, ROOT, Workflow};
use crate::canvas::machine::{Index, Record};
use crate::canvas::time::{Earliest, Moment};
use crate::error::Error;
use crate::messages::engine::{
    Confirm, EndPause, EngineMessage, FindByKey, KeyIsDurable, Shutdown, Stored, Submit, Sweep,
};
use crate::messages::scheduler::{SetAlarm, Wake};
use crate::messages::supervisor::{
    ChildEnded, ChildEvent, ChildExited, EventsReady, Launch, RestartChild,
};
use crate::persistence::StoreError;
use crate::persistence::records::codec;
use crate::persistence::records::codec::Kind;
use crate::persistence::records::definition::WorkflowHeader;
use crate::persistence::records::keys;
use crate::persistence::records::reader::{Ended, History};
use crate::testing::failpoint;
use crate::testing::failpoint::Point;
use crate::testing::hooks;

/// The number of workflows that are resumed in one step after a restart.
const RESUMED_AT_ONCE: usize = 256;
/// The longest that a shutdown waits for the last commits.
const LAST_COMMITS: Duration = Duration::from_secs(10);

#[derive(Debug)]
pub(crate) struct EngineActor {
    engine: EngineContext,
    /// Set when the actor has started.
    events: Option<EventQueue>,
    workflows: HashMap<Id, Live>,
    /// Idempotency keys whose current workflow the store does not show yet. `None`: that workflow
    /// has been swept.
    keys: HashMap<String, Option<Id>>,
    /// The workflows that were live before a restart and are not resumed yet.
    unresumed: Option<Unresumed>,
    /// Decides which workflows are live and which wait.
    backlog: Backlog,
    /// Workflows have ended since the last admission, so lanes may have capacity.
    has_capacity: bool,
    /// Workflows whose waiting records are deleted, while the store still shows them.
    moving: HashSet<Id>,
    /// Waiting workflows that were forgotten, while the store does not show that yet.
    forgotten: HashSet<Id>,
    retention: Duration,
    /// The time of the next sweep, in milliseconds on the steady scale.
    sweep_at: Option<u64>,
    /// The store has not applied the last sweep's deletions yet.
    is_sweeping: bool,
    /// Another sweep was requested meanwhile.
    is_sweep_requested: bool,
    /// The key at which the next sweep continues, if the last one did not reach the end.
    sweep_from: Option<Vec<u8>>,
    /// The earliest time for which a workflow waits in the store.
    next_start: Earliest,
    /// The alarm that was set with the scheduler.
    alarm: Earliest,
}

/// A workflow that has not ended.
#[derive(Debug)]
struct Live {
    machine: Workflow,
    /// Its encoded header, which is stored under another key when the workflow has ended.
    header: Vec<u8>,
    /// Its share of the limit of pending work.
    load: Load,
    lane: Lane,
    /// The time at which the root ended, on the steady scale, if callbacks still run.
    ended_ms: Option<u64>,
}

/// The contents of a workflow's header.
struct Submitted {
    root: Id,
    node: Node,
    /// The first node number that was free at the submission.
    next: Seq,
    load: Load,
}

/// The headers that are still to be read of the workflows that were live when the store was last
/// open.
#[derive(Debug)]
struct Unresumed {
    /// The key of the first remaining header.
    from: Vec<u8>,
    /// The end of the key range: workflows that are submitted from now on have later keys.
    to: Vec<u8>,
    /// Workflows of the range that were admitted meanwhile and need not be resumed.
    admitted: HashSet<Id>,
    /// The number of workflows resumed so far.
    count: usize,
}

impl Unresumed {
    fn up_to(from: Vec<u8>, last: Vec<u8>) -> Self {
        let mut to = last;
        to.push(0);
        Self {
            from,
            to,
            admitted: HashSet::new(),
            count: 0,
        }
    }
}

impl EngineActor {
    pub(crate) fn new(engine: EngineContext, retention: Duration) -> Self {
        Self {
            backlog: Backlog::new(engine.live_workflows()),
            engine,
            events: None,
            workflows: HashMap::new(),
            unresumed: None,
            keys: HashMap::new(),
            has_capacity: false,
            moving: HashSet::new(),
            forgotten: HashSet::new(),
            retention,
            sweep_at: None,
            is_sweeping: false,
            is_sweep_requested: false,
            sweep_from: None,
            next_start: Earliest::default(),
            alarm: Earliest::default(),
        }
    }

    /// Finds the workflows that were live when the store was last open, and starts to resume them.
    fn recover(&mut self, context: &mut Context<Self>) -> Result<(), StoreError> {
        let reader = self.engine.reader().clone();
        let (from, to) = keys::all(b'w');
        let last = reader.store().scan(&from, &to).next_back().transpose()?;
        self.unresumed = last.map(|(last, _)| Unresumed::up_to(from, last));
        let (from, to) = keys::all(b'e');
        if reader.store().scan(&from, &to).next().is_some() {
            context.notify(EngineMessage::Sweep(Sweep::Start));
        }
        self.recover_backlog()?;
        self.resume_some()
    }

    /// Resumes some of the workflows that were live, and more when that is committed: the first
    /// task need not wait for the last workflow.
    fn resume_some(&mut self) -> Result<(), StoreError> {
        let Some(mut unresumed) = self.unresumed.take() else {
            self.admit_waiting();
            self.engine
                .notify(EngineMessage::Stored(Stored::AllResumed));
            return Ok(());
        };
        let reader = self.engine.reader().clone();
        let now = self.engine.time();
        let mut histories = reader.histories();
        let mut next = None;
        for (count, pair) in reader
            .store()
            .scan(&unresumed.from, &unresumed.to)
            .enumerate()
        {
            let (key, record) = pair?;
            if count == RESUMED_AT_ONCE {
                next = Some(key);
                break;
            }
            if let Some(root) = keys::id_of(&key).filter(|root| !unresumed.admitted.contains(root))
            {
                let header = codec::decode(Kind::Head, &key, &record)?;
                let submitted = self.submitted(root, header)?;
                let admission = self.admit_live(root, &submitted.node)?;
                let since_ms = now.steady_at(root.submitted_ms());
                let history = histories.of(root)?;
                self.resume(submitted, record, history, admission, since_ms)?;
                unresumed.count += 1;
            }
        }
        match next {
            Some(from) => self.unresumed = Some(Unresumed { from, ..unresumed }),
            None => tracing::info!(count = unresumed.count, "resumed the unfinished workflows"),
        }
        self.engine.notify(EngineMessage::Stored(Stored::Resumed));
        Ok(())
    }

    fn submitted(&self, root: Id, header: WorkflowHeader) -> Result<Submitted, StoreError> {
        Ok(Submitted {
            root,
            next: header.next,
            load: header.load(),
            node: self.engine.reader().root_of(root, header)?,
        })
    }

    /// Resumes a workflow from its stored state. `since_ms` is the time of its submission on the
    /// steady scale, unless its records say otherwise.
    fn resume(
        &mut self,
        submitted: Submitted,
        header: Vec<u8>,
        history: History,
        admission: Admission,
        mut since_ms: u64,
    ) -> Result<(), StoreError> {
        let reader = self.engine.reader().clone();
        let Submitted {
            root,
            node,
            next,
            load,
        } = submitted;
        let History {
            ended_ms,
            records,
            counter,
        } = history;
        let (machine, callbacks) = Workflow::recover(ended_ms.is_some(), &records);
        self.engine.start_numbers(root, next, counter);
        self.insert(root, machine, (header, load), admission.lane, ended_ms);
        let mut inputs = HashMap::new();
        let mut changes = HashMap::new();
        for record in records {
            match record {
                Record::Due { seq, input } => drop(inputs.insert(seq, input)),
                Record::Child { index, change } => drop(changes.insert(index, change)),
                Record::Revoked { stream, index } => {
                    self.engine.mark(root, (stream, index));
                }
                Record::Reached { at_ms } => since_ms = at_ms,
                Record::Verdict(_)
                | Record::Expanded { .. }
                | Record::Offspring { .. }
                | Record::Folded { .. }
                | Record::Forgotten
                | Record::Submitted { .. }
                | Record::SubmittedBy { .. } => {}
            }
        }
        self.clear_revoked_suspects(root)?;
        if ended_ms.is_none() {
            let resume = Resume::Stored(changes.remove(&ROOT));
            let mut spec = ChildSpec::root(root, node);
            spec.since_ms = Some(since_ms);
            self.start_root(spec, resume, admission);
        }
        for seq in callbacks {
            let location = reader.find(root.node(seq))?;
            let location = location.ok_or_else(|| StoreError::Corrupt {
                path_or_place: format!("workflow {root}"),
                what: format!("callback {seq} is missing"),
            })?;
            self.check_recovered_callback(root, &location)?;
            let resume = Resume::Stored(changes.remove(&seq));
            let input = inputs.remove(&seq);
            let spec = ChildSpec::in_workflow(root, seq, location.node, input);
            self.start_child(spec, resume);
        }
        failpoint::reach(Point::Resumed);
        Ok(())
    }

    fn insert(
        &mut self,
        root: Id,
        machine: Workflow,
        (header, load): (Vec<u8>, Load),
        lane: Lane,
        ended_ms: Option<u64>,
    ) {
        let live = Live {
            machine,
            header,
            load,
            lane,
            ended_ms,
        };
        self.workflows.insert(root, live);
        self.engine.count_live(self.workflows.len());
    }

    fn start_root(&self, spec: ChildSpec, resume: Resume, admission: Admission) {
        let first_slot = admission
            .first_slot
            .filter(|_| !self.engine.may_need_trial(spec.root));
        match (first_slot, self.child(spec, resume)) {
            (Some(first_slot), Some(root)) => self.engine.start_workflow(first_slot, root),
            (None, Some(root)) => root.start(&self.engine),
            (_, None) => {}
        }
    }

    fn start_child(&self, spec: ChildSpec, resume: Resume) {
        if let Some(child) = self.child(spec, resume) {
            child.start(&self.engine);
        }
    }

    fn child(&self, spec: ChildSpec, resume: Resume) -> Option<Box<Child>> {
        let events = self.events.as_ref()?;
        Some(Child::new(spec, resume, events.clone(), events.clone()))
    }

    /// Reads the root or a callback from the store, to restart it when its actor is lost.
    fn stored_child(&self, root: Id, index: Index) -> Result<ChildSpec, StoreError> {
        let reader = self.engine.reader();
        let missing = || StoreError::Corrupt {
            path_or_place: format!("workflow {root}"),
            what: format!("child {index} is missing"),
        };
        let mut input = None;
        let mut since_ms = self.engine.time().steady_at(root.submitted_ms());
        for record in reader.records(root.workflow_stream()) {
            match record? {
                Record::Due { seq, input: value } if seq == index => input = Some(value),
                Record::Reached { at_ms } => since_ms = at_ms,
                _ => {}
            }
        }
        if index == ROOT {
            let header = reader.header(root)?.ok_or_else(missing)?;
            let mut spec = ChildSpec::root(root, reader.root_of(root, header)?);
            spec.since_ms = Some(since_ms);
            return Ok(spec);
        }
        let location = reader.find(root.node(index))?.ok_or_else(missing)?;
        Ok(ChildSpec::in_workflow(root, index, location.node, input))
    }

    /// Passes an event to the workflow's machine and performs its commands.
    fn decide(
        &mut self,
        root: Id,
        event: impl FnOnce(&mut Workflow) -> Vec<Command>,
        context: &mut Context<Self>,
    ) {
        let Some(live) = self.workflows.get_mut(&root) else {
            return;
        };
        for command in event(&mut live.machine) {
            self.perform(root, command, context);
        }
    }

    fn perform(&mut self, root: Id, command: Command, context: &mut Context<Self>) {
        match command {
            Command::Record(record) => self.engine.record(root.workflow_stream(), record),
            Command::Launch(callbacks) => {
                for callback in callbacks {
                    self.engine.record_callback(root, &callback);
                    failpoint::reach(Point::Launched);
                    self.decide(root, |machine| machine.launch(callback), context);
                }
            }
            Command::Result(outcome) => {
                let ended = Ended {
                    outcome,
                    at_ms: self.engine.steady_ms(),
                    commit: self.engine.next_commit(),
                };
                self.engine
                    .put(keys::result(root), codec::encode(Kind::Result, &ended));
                self.engine.touch(root);
                failpoint::reach(Point::Ended);
                if let Some(live) = self.workflows.get_mut(&root) {
                    live.ended_ms = Some(ended.at_ms);
                }
            }
            Command::Spawn(callback) => {
                self.start_child(ChildSpec::callback(root, callback), Resume::Fresh);
                failpoint::reach(Point::Callback);
            }
            Command::Restart(index) => restart_after_commit(&self.engine, root, index, context),
            Command::Abandon(index) => {
                let child = self.stored_child(root, index);
                match (child, &self.events) {
                    (Ok(spec), Some(events)) => events.send(ChildEvent::Ended(ChildEnded {
                        root,
                        index,
                        report: abandoned_report(&self.engine, root, &spec.node),
                    })),
                    (Err(error), _) => self.engine.halt(error.into()),
                    (Ok(_), None) => {}
                }
            }
            Command::End { forgotten } => {
                if let Err(error) = self.end_workflow(root, forgotten) {
                    self.engine.halt(error.into());
                }
            }
        }
    }

    /// Ends a workflow of which nothing is left to do, and frees its lane capacity.
    fn end_workflow(&mut self, root: Id, forgotten: bool) -> Result<(), StoreError> {
        let Some(live) = self.workflows.remove(&root) else {
            return Ok(());
        };
        self.engine.count_live(self.workflows.len());
        self.engine.remove_pending(live.load);
        self.engine
            .finish_workflow(root, live.machine.has_callbacks());
        self.engine.delete(keys::header(root));
        if forgotten {
            self.forget_ended(root, &live.header)?;
        } else {
            let ended_ms = live.ended_ms.unwrap_or_else(|| self.engine.steady_ms());
            self.engine.put(keys::ended(ended_ms, root), live.header);
            self.sweep_later();
        }
        self.engine.touch(root);
        failpoint::reach(Point::Moved);
        self.backlog.ended(live.lane);
        self.has_capacity = true;
        Ok(())
    }

    /// Sets the alarm for the next sweep or for the next workflow that waits for its time,
    /// whichever is earlier.
    fn set_alarm(&mut self) {
        // If the engine were woken for a workflow that it cannot admit, it would be woken again at
        // once, over and over.
        let mut at = match self.can_admit() {
            true => self.next_start,
            false => Earliest::default(),
        };
        if let Some(sweep_at) = self.sweep_at {
            at.add(Moment::steady(sweep_at));
        }
        if at.is_before(self.alarm) {
            self.set_scheduler_alarm(at);
        }
    }

    fn set_scheduler_alarm(&mut self, at: Earliest) {
        self.alarm = at;
        let recipient = self.engine.engine_wake().clone();
        self.engine.scheduler().do_send(SetAlarm { at, recipient });
    }

    /// Returns whether the store does not show yet what was decided about a workflow that is not in
    /// memory. Until the store has applied it, nothing more may be decided about the workflow.
    fn is_in_transition(&self, root: Id) -> Result<bool, StoreError> {
        let is_decided =
            self.moving.contains(&root) || self.engine.view().retention_guards.is_leaving(root);
        // A stored header without a live workflow: it has just ended, or, after a restart, is not
        // resumed yet.
        Ok(is_decided
            || self
                .engine
                .reader()
                .store()
                .get(&keys::header(root))?
                .is_some())
    }

    /// Returns the workflow that was submitted with this idempotency key.
    fn workflow_of_key(&self, key: &str) -> Result<Option<Id>, StoreError> {
        match self.keys.get(key) {
            Some(workflow) => Ok(*workflow),
            None => self.engine.reader().submitted_as(key),
        }
    }

    /// Sets the workflow that the key stands for. The caller puts the matching record into the same
    /// batch.
    fn set_key(&mut self, key: String, workflow: Option<Id>) {
        self.keys.insert(key.clone(), workflow);
        self.engine
            .notify(EngineMessage::KeyIsDurable(KeyIsDurable { key, workflow }));
    }
}

impl Actor for EngineActor {
    type Context = Context<Self>;

    fn started(&mut self, context: &mut Self::Context) {
        let events = EventQueue::of(context, None);
        let address = context.address();
        self.engine.set_engine(
            address.clone().recipient(),
            address.recipient(),
            events.clone(),
        );
        self.events = Some(events);
        // From now on the scheduler wakes the engine when the clock is set.
        self.set_scheduler_alarm(Earliest::default());
        if let Err(error) = self.recover(context) {
            self.engine.halt(error.into());
        }
    }
}

impl Drop for EngineActor {
    /// Also runs when the engine's actor is lost. Then every waiter must get an error, and the
    /// thread must end, because no actor is left to receive a `Shutdown`.
    fn drop(&mut self) {
        if !self.engine.is_draining() {
            let view = self.engine.view();
            view.end(Error::Halted("its actor was lost".to_owned()));
            if let Some(system) = actix::System::try_current() {
                system.stop();
            }
        }
    }
}

impl Handler<Submit> for EngineActor {
    type Result = ();

    fn handle(&mut self, submit: Submit, _: &mut Context<Self>) {
        let Submit {
            root_id,
            root,
            header,
            next,
            idempotency_key,
            by,
            staged,
            reservation,
            durable,
        } = submit;
        if self.engine.is_draining() {
            return;
        }
        let view = self.engine.view().clone();
        if let Some(key) = idempotency_key {
            match self.workflow_of_key(&key) {
                // Acknowledged after the earlier workflow's own record, in case that is not
                // committed yet.
                Ok(Some(earlier)) => {
                    return self.engine.acknowledge(durable, view.pin(earlier));
                }
                Ok(None) => {}
                Err(error) => return self.engine.halt(error.into()),
            }
            self.engine.put(
                keys::idempotency(&key),
                codec::encode(Kind::Idempotency, &root_id),
            );
            self.set_key(key, Some(root_id));
        }
        if staged.hand_over() {
            self.engine.delete(keys::garbage_marker(root_id));
        }
        if let Some(task) = by {
            self.record_submitter(task, root_id);
        }
        self.engine.acknowledge(durable, view.pin(root_id));
        let load = reservation.hand_over();
        self.engine.add_pending(load);
        match self.admit(root_id, &root, &header) {
            Ok(Some(admission)) => {
                self.engine.put(keys::header(root_id), header.clone());
                self.engine.start_numbers(root_id, next, None);
                let own = (header, load);
                self.insert(root_id, Workflow::default(), own, admission.lane, None);
                let mut spec = ChildSpec::root(root_id, root);
                spec.since_ms = admission.counts.then(|| self.engine.steady_ms());
                self.start_root(spec, Resume::Fresh, admission);
            }
            Ok(None) => self.set_alarm(),
            Err(error) => self.engine.halt(error.into()),
        }
    }
}

impl Handler<EngineMessage> for EngineActor {
    type Result = ();

    fn handle(&mut self, message: EngineMessage, context: &mut Context<Self>) {
        let done = match message {
            EngineMessage::FindByKey(request) => self.find_by_key(request),
            EngineMessage::Confirm(Confirm { done }) => {
                self.engine.then(PostCommit::Done(done));
                Ok(())
            }
            EngineMessage::EndPause(EndPause { done }) => {
                self.engine.resume();
                // The caller may have stopped waiting.
                let _ = done.send(());
                Ok(())
            }
            EngineMessage::Release(request) => self.release(request),
            EngineMessage::Forget(request) => self.forget(request, context),
            EngineMessage::Revoke(request) => self.revoke(request),
            EngineMessage::Wanted(root) => self.start_early(root),
            EngineMessage::Sweep(sweep) => self.on_sweep(sweep),
            EngineMessage::KeyIsDurable(durable) => {
                self.forget_durable_key(&durable);
                Ok(())
            }
            EngineMessage::Stored(stored) => self.on_stored(stored),
            EngineMessage::RevocationDurable(request) => self.answer_revocation(request),
        };
        if let Err(error) = done {
            self.engine.halt(error.into());
        }
    }
}

impl EngineActor {
    fn find_by_key(&self, FindByKey { key, durable }: FindByKey) -> Result<(), StoreError> {
        if let Some(earlier) = self.workflow_of_key(&key)? {
            let guard = self.engine.view().pin(earlier);
            self.engine.acknowledge(durable, guard);
        }
        Ok(())
    }

    /// The store shows which workflow the key stands for. It may stand for a newer one by now.
    fn forget_durable_key(&mut self, durable: &KeyIsDurable) {
        if self.keys.get(&durable.key) == Some(&durable.workflow) {
            self.keys.remove(&durable.key);
        }
    }

    /// Records in both workflows that this task submitted the other. No record is written into the
    /// task's workflow if it has ended: it may be swept, and then nothing would delete the record.
    fn record_submitter(&self, task: Id, root: Id) {
        let stream = root.origin_stream();
        self.engine.record(stream, Record::SubmittedBy { task });
        if self.workflows.contains_key(&task.root()) {
            self.engine.record(task, Record::Submitted { root });
        }
    }

    fn child_ended(&mut self, ended: ChildEnded, context: &mut Context<Self>) {
        let ChildEnded {
            root,
            index,
            report,
        } = ended;
        self.decide(
            root,
            |machine| match index {
                ROOT => machine.root_ended(report),
                seq => machine.callback_ended(seq, report),
            },
            context,
        );
    }
}

impl Handler<EventsReady> for EngineActor {
    type Result = ();

    fn handle(&mut self, _: EventsReady, context: &mut Context<Self>) {
        let events = self.events.as_ref().map(EventQueue::drain);
        for event in events.into_iter().flatten() {
            match event {
                ChildEvent::Launch(launch) => {
                    let Launch { root, callback } = *launch;
                    hooks::fault("engine");
                    if self.engine.has_revoked()
                        && let Err(error) = self.check_launch(root, callback.node.seq)
                    {
                        self.engine.halt(error.into());
                    }
                    self.decide(root, |machine| machine.launch(callback), context);
                }
                ChildEvent::Ended(ended) => self.child_ended(ended, context),
                ChildEvent::Exited(ChildExited { root, index, lost }) => {
                    self.decide(root, |machine| machine.stopped(index, lost), context);
                }
                ChildEvent::Arrived(_) => {}
            }
        }
        if std::mem::take(&mut self.has_capacity) {
            self.admit_waiting();
        }
    }
}

impl Handler<RestartChild> for EngineActor {
    type Result = ();

    fn handle(&mut self, RestartChild { root, index }: RestartChild, _: &mut Context<Self>) {
        let last = self
            .engine
            .reader()
            .last_change(root.workflow_stream(), index);
        match last.and_then(|last| Ok((self.stored_child(root, index)?, last))) {
            Ok((spec, last)) => self.start_child(spec, Resume::Stored(last)),
            Err(error) => self.engine.halt(error.into()),
        }
    }
}

impl Handler<Wake> for EngineActor {
    type Result = ();

    fn handle(&mut self, _: Wake, _: &mut Context<Self>) {
        self.alarm = Earliest::default();
        self.engine.note_clock();
        let now = self.engine.steady_ms();
        if self.sweep_at.take_if(|at_ms| *at_ms <= now).is_some() {
            // Workflows that have just ended may not be in the store yet, which is where the sweep
            // looks for them.
            self.engine.notify(EngineMessage::Sweep(Sweep::Start));
        }
        self.engine.check_trials();
        self.admit_waiting();
    }
}

impl Handler<Shutdown> for EngineActor {
    type Result = ResponseFuture<()>;

    fn handle(&mut self, Shutdown { grace }: Shutdown, _: &mut Context<Self>) -> Self::Result {
        self.engine.drain();
        let engine = self.engine.clone();
        Box::pin(async move {
            wait_until_stable(grace, || engine.held() == 0).await;
            wait_until_stable(LAST_COMMITS, || engine.is_quiet()).await;
            engine.end_session();
            wait_until_stable(LAST_COMMITS, || engine.is_quiet()).await;
            engine.close(Error::ShutDown);
        })
    }
}

/// Waits until `done` holds in two checks in a row, for at most `limit`.
async fn wait_until_stable(limit: Duration, done: impl Fn() -> bool) {
    const POLL_INTERVAL: Duration = Duration::from_millis(1);
    let start = tokio::time::Instant::now();
    let mut held = false;
    while !(held && done()) && start.elapsed() < limit {
        held = done();
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}
