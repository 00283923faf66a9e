//! The engine: supervisor of all workflows; stores them, ends them, sweeps them.

mod admission;
mod pause;
mod quarantine;
mod retention;
mod revocation;

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use actix::{Actor, AsyncContext, Context, Handler, Message, ResponseFuture};
use tokio::sync::oneshot;

use self::admission::Admission;
pub(crate) use self::pause::EndPause;
pub(crate) use self::quarantine::Release;
pub(crate) use self::retention::Forget;
pub(crate) use self::revocation::{IsRevoked, Revoke};
use super::admission_control::Reservation;
use super::engine_context::EngineContext;
use super::event_queue::EventQueue;
use super::journal::PostCommit;
use super::retention_guard::RetentionGuard;
use super::staging::Staged;
use super::supervision::{Child, Resume, abandoned_report, restart_after_commit};
use crate::canvas::freeze::Node;
use crate::canvas::id::{Id, Seq};
use crate::canvas::machine::backlog::{Backlog, Lane};
use crate::canvas::machine::child_spec::ChildSpec;
use crate::canvas::machine::pending_limit::Load;
use crate::canvas::machine::workflow::{Command, ROOT, Workflow};
use crate::canvas::machine::{Index, Record};
use crate::canvas::time::{Earliest, Moment};
use crate::error::Error;
use crate::failpoint::{self, Point};
use crate::messages::engine::{KeyIsDurable, Launch, Shutdown, Stored, Sweep};
use crate::messages::scheduler::{SetAlarm, Wake};
use crate::messages::supervisor::{ChildEnded, ChildEvent, ChildExited, EventsReady, RestartChild};
use crate::persistence::codec::{self, Kind};
use crate::persistence::definition::WorkflowHeader;
use crate::persistence::reader::{Ended, History};
use crate::persistence::{StoreError, keys};

/// How many workflows are gone on with at once after a restart.
const RESUMED_AT_ONCE: usize = 256;
/// How long shutting down waits for what has been decided to be written.
const LAST_COMMITS: Duration = Duration::from_secs(10);

/// A workflow to store and start. `durable` is told, once it is so, which workflow the handle is
/// for: this one, or an earlier one with the same idempotency key. It is dropped if the engine
/// halts first.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(crate) struct Submit {
    pub(crate) root_id: Id,
    pub(crate) root: Node,
    /// The encoded head: its commit marker.
    pub(crate) head: Vec<u8>,
    /// The first node number that is free.
    pub(crate) next: Seq,
    pub(crate) idempotency_key: Option<String>,
    /// The task that submits it, if one does.
    pub(crate) by: Option<Id>,
    /// What of it is in the store already.
    pub(crate) staged: Staged,
    pub(crate) reservation: Reservation,
    /// The pin keeps the workflow from being swept before the caller has its handle.
    pub(crate) durable: oneshot::Sender<RetentionGuard>,
}

/// Which workflow was submitted with this key; dropped if none was.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(crate) struct Earlier {
    pub(crate) key: String,
    /// As in [`Submit`].
    pub(crate) durable: oneshot::Sender<RetentionGuard>,
}

/// Answer when all that has been decided until now is durable.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(crate) struct Confirm {
    /// It is dropped if the engine halts first.
    pub(crate) done: oneshot::Sender<Result<(), Error>>,
}

#[derive(Debug)]
pub(crate) struct EngineActor {
    shell: EngineContext,
    /// There from the start on.
    post: Option<EventQueue>,
    workflows: HashMap<Id, Live>,
    /// What idempotency keys stand for, where the store does not know it yet: a workflow, or, when
    /// that has been swept, none.
    keys: HashMap<String, Option<Id>>,
    /// Where to look for what was live before a restart, until all of that has been gone on with.
    unresumed: Option<Unresumed>,
    /// Who may be live, and who has to wait.
    backlog: Backlog,
    /// Workflows have ended since the last look: there may be places.
    has_places: bool,
    /// Those that the store shows where they no longer wait: that they do not is on its way there.
    moving: HashSet<Id>,
    /// Those that wait and were forgotten, and the store does not show that yet.
    forgotten: HashSet<Id>,
    retention: Duration,
    /// When the next sweep is due, in milliseconds on the steady scale.
    sweep_at: Option<u64>,
    /// What the last sweep has taken away is on its way to the store.
    sweeping: bool,
    /// Somebody has asked for another one meanwhile.
    sweep_again: bool,
    /// The key that the next look starts behind, if one was not enough.
    sweep_from: Option<Vec<u8>>,
    /// When the first of those that wait for their time is due.
    due: Earliest,
    /// What the scheduler has been asked for.
    alarm: Earliest,
}

/// A workflow that has not ended.
#[derive(Debug)]
struct Live {
    machine: Workflow,
    /// The record of its head, which is put elsewhere when the workflow has ended.
    head: Vec<u8>,
    /// What it takes up of the room for what is pending.
    weight: Load,
    lane: Lane,
    /// When the root ended, on the steady scale, if callbacks still run.
    ended_ms: Option<u64>,
}

/// What the head of a workflow says.
struct Submitted {
    root: Id,
    node: Node,
    /// The first node number that was free.
    next: Seq,
    weight: Load,
}

/// What is left of the heads of what was live when the store was last open.
#[derive(Debug)]
struct Unresumed {
    /// The key of the first.
    from: Vec<u8>,
    /// The key behind the last: what is submitted from now on has later ones.
    to: Vec<u8>,
    /// Those between them that came in meanwhile, and need not be gone on with.
    came_in: HashSet<Id>,
    /// How many have been gone on with.
    count: usize,
}

impl Unresumed {
    fn up_to(from: Vec<u8>, last: Vec<u8>) -> Self {
        let mut to = last;
        to.push(0);
        Self {
            from,
            to,
            came_in: HashSet::new(),
            count: 0,
        }
    }
}

impl EngineActor {
    pub(crate) fn new(shell: EngineContext, retention: Duration) -> Self {
        Self {
            backlog: Backlog::new(shell.live_workflows()),
            shell,
            post: None,
            workflows: HashMap::new(),
            unresumed: None,
            keys: HashMap::new(),
            has_places: false,
            moving: HashSet::new(),
            forgotten: HashSet::new(),
            retention,
            sweep_at: None,
            sweeping: false,
            sweep_again: false,
            sweep_from: None,
            due: Earliest::default(),
            alarm: Earliest::default(),
        }
    }

    /// Finds out what was live when the store was last open, and begins to go on with it.
    fn recover(&mut self, context: &mut Context<Self>) -> Result<(), StoreError> {
        let reader = self.shell.reader().clone();
        let (from, to) = keys::all(b'w');
        let last = reader.store().scan(&from, &to).next_back().transpose()?;
        self.unresumed = last.map(|(last, _)| Unresumed::up_to(from, last));
        let (from, to) = keys::all(b'e');
        if reader.store().scan(&from, &to).next().is_some() {
            context.notify(Sweep::Start);
        }
        self.recover_backlog()?;
        self.resume_some()
    }

    /// Goes on with some of what was live, and with more when that is written: the first task need
    /// not wait for the last.
    fn resume_some(&mut self) -> Result<(), StoreError> {
        let Some(mut rest) = self.unresumed.take() else {
            self.admit_waiting();
            self.shell.then(PostCommit::Stored(Stored::AllResumed));
            return Ok(());
        };
        let reader = self.shell.reader().clone();
        let now = self.shell.time();
        let mut histories = reader.histories();
        let mut next = None;
        for (taken, pair) in reader.store().scan(&rest.from, &rest.to).enumerate() {
            let (key, record) = pair?;
            if taken == RESUMED_AT_ONCE {
                next = Some(key);
                break;
            }
            if let Some(root) = keys::id_of(&key).filter(|root| !rest.came_in.contains(root)) {
                let head = codec::decode(Kind::Head, &key, &record)?;
                let submitted = self.submitted(root, head)?;
                let entrance = self.admit_live(root, &submitted.node)?;
                let since_ms = now.steady_at(root.submitted_ms());
                let history = histories.of(root)?;
                self.resume(submitted, record, history, entrance, since_ms)?;
                rest.count += 1;
            }
        }
        match next {
            Some(from) => self.unresumed = Some(Unresumed { from, ..rest }),
            None => tracing::info!(count = rest.count, "unfinished workflows go on"),
        }
        self.shell.then(PostCommit::Stored(Stored::Resumed));
        Ok(())
    }

    fn submitted(&self, root: Id, head: WorkflowHeader) -> Result<Submitted, StoreError> {
        Ok(Submitted {
            root,
            next: head.next,
            weight: head.load(),
            node: self.shell.reader().root_of(root, head)?,
        })
    }

    /// Goes on with a workflow as the store has it. `since_ms`: when it was submitted, on the steady scale,
    /// unless its records say it.
    fn resume(
        &mut self,
        submitted: Submitted,
        head: Vec<u8>,
        history: History,
        entrance: Admission,
        mut since_ms: u64,
    ) -> Result<(), StoreError> {
        let reader = self.shell.reader().clone();
        let Submitted {
            root,
            node,
            next,
            weight,
        } = submitted;
        let History {
            ended_ms,
            records,
            counter,
        } = history;
        let (machine, callbacks) = Workflow::recover(ended_ms.is_some(), &records);
        self.shell.start_numbers(root, next, counter);
        self.insert(root, machine, (head, weight), entrance.lane, ended_ms);
        let mut inputs = HashMap::new();
        let mut changes = HashMap::new();
        for record in records {
            match record {
                Record::Due { seq, input } => drop(inputs.insert(seq, input)),
                Record::Child { index, change } => drop(changes.insert(index, change)),
                Record::Revoked { stream, index } => {
                    self.shell.mark(root, (stream, index));
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
        self.look_at_suspects(root)?;
        if ended_ms.is_none() {
            let resume = Resume::Stored(changes.remove(&ROOT));
            let mut place = ChildSpec::root(root, node);
            place.since_ms = Some(since_ms);
            self.start_root(place, resume, entrance);
        }
        for seq in callbacks {
            let found = reader.find(root.node(seq))?;
            let found = found.ok_or_else(|| StoreError::Corrupt {
                path_or_place: format!("workflow {root}"),
                what: format!("no callback {seq}"),
            })?;
            self.look_at_callback(root, &found)?;
            let resume = Resume::Stored(changes.remove(&seq));
            let input = inputs.remove(&seq);
            let place = ChildSpec::in_workflow(root, seq, found.node, input);
            self.start_child(place, resume);
        }
        failpoint::reach(Point::Resumed);
        Ok(())
    }

    fn insert(
        &mut self,
        root: Id,
        machine: Workflow,
        (head, weight): (Vec<u8>, Load),
        lane: Lane,
        ended_ms: Option<u64>,
    ) {
        let live = Live {
            machine,
            head,
            weight,
            lane,
            ended_ms,
        };
        self.workflows.insert(root, live);
        self.shell.count_live(self.workflows.len());
    }

    fn start_root(&self, place: ChildSpec, resume: Resume, entrance: Admission) {
        let line = entrance.line.filter(|_| !self.shell.awaits(place.root));
        match (line, self.child(place, resume)) {
            (Some(line), Some(root)) => self.shell.begin(line, root),
            (None, Some(root)) => root.start(&self.shell),
            (_, None) => {}
        }
    }

    fn start_child(&self, place: ChildSpec, resume: Resume) {
        if let Some(child) = self.child(place, resume) {
            child.start(&self.shell);
        }
    }

    fn child(&self, place: ChildSpec, resume: Resume) -> Option<Box<Child>> {
        let post = self.post.as_ref()?;
        Some(Child::new(place, resume, post.clone(), post.clone()))
    }

    /// The root or a callback, as the store has it: for when its actor is lost.
    fn stored_child(&self, root: Id, index: Index) -> Result<ChildSpec, StoreError> {
        let reader = self.shell.reader();
        let missing = || StoreError::Corrupt {
            path_or_place: format!("workflow {root}"),
            what: format!("no child {index}"),
        };
        let mut input = None;
        let mut since_ms = self.shell.time().steady_at(root.submitted_ms());
        for record in reader.records(root.workflow_stream()) {
            match record? {
                Record::Due { seq, input: given } if seq == index => input = Some(given),
                Record::Reached { at_ms } => since_ms = at_ms,
                _ => {}
            }
        }
        if index == ROOT {
            let head = reader.header(root)?.ok_or_else(missing)?;
            let mut place = ChildSpec::root(root, reader.root_of(root, head)?);
            place.since_ms = Some(since_ms);
            return Ok(place);
        }
        let found = reader.find(root.node(index))?.ok_or_else(missing)?;
        Ok(ChildSpec::in_workflow(root, index, found.node, input))
    }

    /// Has the workflow's machine decide, and carries it out.
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
            Command::Record(record) => self.shell.record(root.workflow_stream(), record),
            Command::Launch(due) => {
                for due in due {
                    self.shell.record_due(root, &due);
                    failpoint::reach(Point::Launched);
                    self.decide(root, |machine| machine.launch(due), context);
                }
            }
            Command::Result(outcome) => {
                let ended = Ended {
                    outcome,
                    at_ms: self.shell.steady_ms(),
                    commit: self.shell.next_commit(),
                };
                self.shell
                    .put(keys::result(root), codec::encode(Kind::Result, &ended));
                self.shell.touch(root);
                failpoint::reach(Point::Ended);
                if let Some(live) = self.workflows.get_mut(&root) {
                    live.ended_ms = Some(ended.at_ms);
                }
            }
            Command::Spawn(due) => {
                self.start_child(ChildSpec::callback(root, due), Resume::Fresh);
                failpoint::reach(Point::Callback);
            }
            Command::Restart(index) => restart_after_commit(&self.shell, root, index, context),
            Command::Abandon(index) => {
                let child = self.stored_child(root, index);
                match (child, &self.post) {
                    (Ok(place), Some(post)) => post.send(ChildEvent::Ended(ChildEnded {
                        root,
                        index,
                        report: abandoned_report(&self.shell, root, &place.node),
                    })),
                    (Err(error), _) => self.shell.halt(error.into()),
                    (Ok(_), None) => {}
                }
            }
            Command::End { forgotten } => {
                if let Err(error) = self.end(root, forgotten) {
                    self.shell.halt(error.into());
                }
            }
        }
    }

    /// Nothing of the workflow is left to do: its place is free.
    fn end(&mut self, root: Id, forgotten: bool) -> Result<(), StoreError> {
        let Some(live) = self.workflows.remove(&root) else {
            return Ok(());
        };
        self.shell.count_live(self.workflows.len());
        self.shell.remove_pending(live.weight);
        self.shell
            .finish_workflow(root, live.machine.has_callbacks());
        self.shell.delete(keys::header(root));
        if forgotten {
            self.forget_ended(root, &live.head)?;
        } else {
            let ended_ms = live.ended_ms.unwrap_or_else(|| self.shell.steady_ms());
            self.shell.put(keys::ended(ended_ms, root), live.head);
            self.sweep_later();
        }
        self.shell.touch(root);
        failpoint::reach(Point::Moved);
        self.backlog.ended(live.lane);
        self.has_places = true;
        Ok(())
    }

    /// Has the scheduler wake the engine for the next sweep, or for the next workflow that waits for
    /// its time, whichever is first.
    fn set_alarm(&mut self) {
        // Woken for what may not come in, it would be woken again at once, for as long as that is so.
        let mut at = match self.lets_in() {
            true => self.due,
            false => Earliest::default(),
        };
        if let Some(sweep_at) = self.sweep_at {
            at.add(Moment::steady(sweep_at));
        }
        if at.is_before(self.alarm) {
            self.ask_for(at);
        }
    }

    fn ask_for(&mut self, at: Earliest) {
        self.alarm = at;
        let who = self.shell.engine().clone().recipient();
        self.shell.scheduler().do_send(SetAlarm { at, who });
    }

    /// Says whether the store does not show yet what has become of a workflow that is not in memory. It will
    /// when what has been decided is applied: nothing is to be decided about the workflow before.
    fn is_on_its_way(&self, root: Id) -> Result<bool, StoreError> {
        let is_decided = self.moving.contains(&root) || self.shell.shared().pins.is_leaving(root);
        // One that was live has ended, or, after a restart, has not come in yet.
        Ok(is_decided
            || self
                .shell
                .reader()
                .store()
                .get(&keys::header(root))?
                .is_some())
    }

    /// Which workflow was submitted with this idempotency key.
    fn earlier(&self, key: &str) -> Result<Option<Id>, StoreError> {
        match self.keys.get(key) {
            Some(workflow) => Ok(*workflow),
            None => self.shell.reader().submitted_as(key),
        }
    }

    /// To be called beside the record that says so.
    fn key_stands_for(&mut self, key: String, workflow: Option<Id>) {
        self.keys.insert(key.clone(), workflow);
        self.shell
            .then(PostCommit::KeyIsDurable(KeyIsDurable { key, workflow }));
    }
}

impl Actor for EngineActor {
    type Context = Context<Self>;

    fn started(&mut self, context: &mut Self::Context) {
        let post = EventQueue::of(context, None);
        self.shell.set_engine(context.address(), post.clone());
        self.post = Some(post);
        // From now on the scheduler says if the clock is set.
        self.ask_for(Earliest::default());
        if let Err(error) = self.recover(context) {
            self.shell.halt(error.into());
        }
    }
}

impl Drop for EngineActor {
    /// Runs when the engine's actor is lost, too: then every waiter must be told, and the thread
    /// must end, because nobody is left to take a `Shutdown`.
    fn drop(&mut self) {
        if !self.shell.is_draining() {
            let shared = self.shell.shared();
            shared.end(Error::Halted("its actor was lost".to_owned()));
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
            head,
            next,
            idempotency_key,
            by,
            staged,
            reservation,
            durable,
        } = submit;
        if self.shell.is_draining() {
            return;
        }
        let shared = self.shell.shared().clone();
        if let Some(key) = idempotency_key {
            match self.earlier(&key) {
                // Behind the earlier one's own record, if that is still on its way.
                Ok(Some(earlier)) => {
                    return self.shell.acknowledge(durable, shared.pin(earlier));
                }
                Ok(None) => {}
                Err(error) => return self.shell.halt(error.into()),
            }
            self.shell.put(
                keys::idempotency(&key),
                codec::encode(Kind::Idempotency, &root_id),
            );
            self.key_stands_for(key, Some(root_id));
        }
        if staged.keep() {
            self.shell.delete(keys::garbage_marker(root_id));
        }
        if let Some(task) = by {
            self.record_submitter(task, root_id);
        }
        self.shell.acknowledge(durable, shared.pin(root_id));
        let weight = reservation.keep();
        self.shell.add_pending(weight);
        match self.admit(root_id, &root, &head) {
            Ok(Some(entrance)) => {
                self.shell.put(keys::header(root_id), head.clone());
                self.shell.start_numbers(root_id, next, None);
                let own = (head, weight);
                self.insert(root_id, Workflow::default(), own, entrance.lane, None);
                let mut place = ChildSpec::root(root_id, root);
                place.since_ms = entrance.counts.then(|| self.shell.steady_ms());
                self.start_root(place, Resume::Fresh, entrance);
            }
            Ok(None) => self.set_alarm(),
            Err(error) => self.shell.halt(error.into()),
        }
    }
}

impl Handler<Earlier> for EngineActor {
    type Result = ();

    fn handle(&mut self, Earlier { key, durable }: Earlier, _: &mut Context<Self>) {
        match self.earlier(&key) {
            Ok(Some(earlier)) => {
                let pin = self.shell.shared().pin(earlier);
                self.shell.acknowledge(durable, pin);
            }
            Ok(None) => {}
            Err(error) => self.shell.halt(error.into()),
        }
    }
}

impl Handler<Confirm> for EngineActor {
    type Result = ();

    fn handle(&mut self, Confirm { done }: Confirm, _: &mut Context<Self>) {
        self.shell.then(PostCommit::Done(done));
    }
}

impl Handler<KeyIsDurable> for EngineActor {
    type Result = ();

    fn handle(&mut self, durable: KeyIsDurable, _: &mut Context<Self>) {
        // What it stands for now may be younger than what has become durable.
        if self.keys.get(&durable.key) == Some(&durable.workflow) {
            self.keys.remove(&durable.key);
        }
    }
}

impl EngineActor {
    /// Records in both workflows that this task has submitted the other. A task whose workflow has
    /// ended meanwhile, and may be swept, gets no record: nothing would delete it.
    fn record_submitter(&self, task: Id, root: Id) {
        let stream = root.origin_stream();
        self.shell.record(stream, Record::SubmittedBy { task });
        if self.workflows.contains_key(&task.root()) {
            self.shell.record(task, Record::Submitted { root });
        }
    }

    fn ended(&mut self, ended: ChildEnded, context: &mut Context<Self>) {
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
        let words = self.post.as_ref().map(EventQueue::drain);
        for word in words.into_iter().flatten() {
            match word {
                ChildEvent::Launch(launch) => {
                    let Launch { root, due } = *launch;
                    super::fault("engine");
                    if self.shell.has_revoked()
                        && let Err(error) = self.look_at_launch(root, due.node.seq)
                    {
                        self.shell.halt(error.into());
                    }
                    self.decide(root, |machine| machine.launch(due), context);
                }
                ChildEvent::Ended(ended) => self.ended(ended, context),
                ChildEvent::Exited(ChildExited { root, index, lost }) => {
                    self.decide(root, |machine| machine.stopped(index, lost), context);
                }
                ChildEvent::Arrived(_) => {}
            }
        }
        if std::mem::take(&mut self.has_places) {
            self.admit_waiting();
        }
    }
}

impl Handler<RestartChild> for EngineActor {
    type Result = ();

    fn handle(&mut self, RestartChild { root, index }: RestartChild, _: &mut Context<Self>) {
        let last = self
            .shell
            .reader()
            .last_change(root.workflow_stream(), index);
        match last.and_then(|last| Ok((self.stored_child(root, index)?, last))) {
            Ok((place, last)) => self.start_child(place, Resume::Stored(last)),
            Err(error) => self.shell.halt(error.into()),
        }
    }
}

impl Handler<Wake> for EngineActor {
    type Result = ();

    fn handle(&mut self, _: Wake, _: &mut Context<Self>) {
        self.alarm = Earliest::default();
        self.shell.note_clock();
        let now = self.shell.steady_ms();
        if self.sweep_at.take_if(|at_ms| *at_ms <= now).is_some() {
            // What has ended by now may be on its way to the store, which is where the sweep looks.
            self.shell.then(PostCommit::Sweep(Sweep::Start));
        }
        self.shell.look_at_trials();
        self.admit_waiting();
    }
}

impl Handler<Shutdown> for EngineActor {
    type Result = ResponseFuture<()>;

    fn handle(&mut self, Shutdown { grace }: Shutdown, _: &mut Context<Self>) -> Self::Result {
        self.shell.drain();
        let shell = self.shell.clone();
        Box::pin(async move {
            settle(grace, || shell.held() == 0).await;
            settle(LAST_COMMITS, || shell.is_quiet()).await;
            shell.end_session();
            settle(LAST_COMMITS, || shell.is_quiet()).await;
            shell.close(Error::ShutDown);
        })
    }
}

/// Waits until `done` holds in two looks in a row, for at most `limit`.
async fn settle(limit: Duration, done: impl Fn() -> bool) {
    const LOOK: Duration = Duration::from_millis(1);
    let start = tokio::time::Instant::now();
    let mut held = false;
    while !(held && done()) && start.elapsed() < limit {
        held = done();
        tokio::time::sleep(LOOK).await;
    }
}
