//! The engine: supervisor of all workflows; stores them, ends them, sweeps them.

use std::collections::HashMap;
use std::time::Duration;

use actix::{Actor, AsyncContext, Context, Handler, Message, ResponseFuture};
use tokio::sync::oneshot;

use super::journal::Act;
use super::post::Post;
use super::shared::Pin;
use super::shell::Shell;
use super::staging::Staged;
use super::supervision::{Child, Resume, given_up, respawn_later};
use crate::canvas::freeze::Node;
use crate::canvas::id::{Id, Seq};
use crate::canvas::machine::place::Place;
use crate::canvas::machine::workflow::{Command, ROOT, Workflow};
use crate::canvas::machine::{Index, Record};
use crate::canvas::outcome::Value;
use crate::error::Error;
use crate::messages::engine::{KeyIsDurable, Launch, Shutdown};
use crate::messages::scheduler::{Wake, WakeAt};
use crate::messages::supervisor::{ChildEnded, ChildStopped, Mail, Respawn, Word};
use crate::persistence::codec::{self, Kind};
use crate::persistence::reader::Ended;
use crate::persistence::{StoreError, keys};

/// The least time between two sweeps.
const SWEEP_EVERY: Duration = Duration::from_secs(1);
/// The most workflows that one sweep takes away: it shares the thread with all else.
const SWEEP_AT_MOST: usize = 500;
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
    /// What of it is in the store already.
    pub(crate) staged: Staged,
    /// The pin keeps the workflow from being swept before the caller has its handle.
    pub(crate) durable: oneshot::Sender<Pin>,
}

/// Which workflow was submitted with this key; dropped if none was.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(crate) struct Earlier {
    pub(crate) key: String,
    /// As in [`Submit`].
    pub(crate) durable: oneshot::Sender<Pin>,
}

#[derive(Debug)]
pub(crate) struct EngineActor {
    shell: Shell,
    /// There from the start on.
    post: Option<Post>,
    workflows: HashMap<Id, Live>,
    /// What idempotency keys stand for, where the store does not know it yet: a workflow, or, when
    /// that has been swept, none.
    keys: HashMap<String, Option<Id>>,
    retention: Duration,
    /// When the next sweep is due, in milliseconds since the Unix epoch.
    sweep_at: Option<u64>,
}

/// A workflow that has not ended.
#[derive(Debug)]
struct Live {
    machine: Workflow,
    /// The root and its callbacks that run, and what they were given: to start them again if they
    /// are lost.
    children: HashMap<Index, (Node, Option<Value>)>,
}

impl EngineActor {
    pub(crate) fn new(shell: Shell, retention: Duration) -> Self {
        Self {
            shell,
            post: None,
            workflows: HashMap::new(),
            keys: HashMap::new(),
            retention,
            sweep_at: None,
        }
    }

    /// Starts all that was unfinished when the store was last open.
    fn recover(&mut self, context: &mut Context<Self>) -> Result<usize, StoreError> {
        let reader = self.shell.reader().clone();
        let (from, to) = keys::all(b'w');
        let mut ended = 0usize;
        for pair in reader.store().scan(&from, &to) {
            let (key, _) = pair?;
            let Some(root) = keys::id_of(&key) else {
                continue;
            };
            let root_ended = reader.ended(root)?.is_some();
            if reader.is_at_rest(root)? {
                ended += 1;
                continue;
            }
            self.resume(root, root_ended)?;
        }
        if ended > 0 {
            self.sweep_after(Duration::ZERO, context);
        }
        Ok(self.workflows.len())
    }

    fn resume(&mut self, root: Id, root_ended: bool) -> Result<(), StoreError> {
        let reader = self.shell.reader().clone();
        let stream = root.workflow_stream();
        let records: Vec<_> = reader.records(stream).collect::<Result<_, _>>()?;
        let (machine, callbacks) = Workflow::recover(root_ended, &records);
        self.workflows.insert(
            root,
            Live {
                machine,
                children: HashMap::new(),
            },
        );
        let mut inputs = HashMap::new();
        let mut changes = HashMap::new();
        for record in records {
            match record {
                Record::Due { seq, input } => drop(inputs.insert(seq, input)),
                Record::Child { index, change } => drop(changes.insert(index, change)),
                Record::Verdict(_)
                | Record::Expanded { .. }
                | Record::Offspring { .. }
                | Record::Reached { .. } => {}
            }
        }
        if !root_ended && let Some(node) = reader.root(root)? {
            let resume = Resume::Stored(changes.remove(&ROOT));
            self.start_child(root, ROOT, node, None, resume);
        }
        for seq in callbacks {
            let found = reader.find(root.node(seq))?;
            let found = found.ok_or_else(|| StoreError::Corrupt {
                path_or_place: format!("workflow {root}"),
                what: format!("no callback {seq}"),
            })?;
            let resume = Resume::Stored(changes.remove(&seq));
            let input = inputs.remove(&seq);
            self.start_child(root, seq, found.node, input, resume);
        }
        Ok(())
    }

    fn start_child(
        &mut self,
        root: Id,
        index: Index,
        node: Node,
        input: Option<Value>,
        resume: Resume,
    ) {
        if let Some(live) = self.workflows.get_mut(&root) {
            live.children.insert(index, (node.clone(), input.clone()));
        }
        let Some(post) = &self.post else { return };
        let place = Place::in_workflow(root, index, node, input);
        let child = Child::new(place, resume, post.clone(), post.clone());
        child.start(&self.shell);
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
                    self.decide(root, |machine| machine.launch(due), context);
                }
            }
            Command::Result { outcome, open } => {
                let ended = Ended {
                    outcome,
                    at_ms: self.shell.now_ms(),
                    commit: self.shell.next_commit(),
                };
                self.shell
                    .put(keys::result(root), codec::encode(Kind::Result, &ended));
                if open {
                    self.shell
                        .put(keys::open(root), codec::encode(Kind::Open, &()));
                }
                self.shell.touch(root);
            }
            Command::Spawn(due) => {
                let index = due.node.seq;
                let input = Some(due.input);
                self.start_child(root, index, due.node, input, Resume::Fresh);
            }
            Command::Respawn(index) => respawn_later(&self.shell, root, index, context),
            Command::GiveUp(index) => {
                let report = self
                    .workflows
                    .get(&root)
                    .and_then(|live| live.children.get(&index))
                    .map(|(node, _)| given_up(root, node));
                if let (Some(report), Some(post)) = (report, &self.post) {
                    post.send(Word::Ended(ChildEnded {
                        root,
                        index,
                        report,
                    }));
                }
            }
            Command::End { open } => {
                if open {
                    self.shell.delete(keys::open(root));
                    self.shell.touch(root);
                }
                self.workflows.remove(&root);
                self.shell.forget_numbers(root);
                self.sweep_after(self.retention, context);
            }
        }
    }

    /// Asks for a sweep after `delay`, unless there is to be one anyway: a workflow that ends
    /// later has its retention end later.
    fn sweep_after(&mut self, delay: Duration, context: &Context<Self>) {
        if self.sweep_at.is_some() {
            return;
        }
        let delay = delay.max(SWEEP_EVERY).as_millis() as u64;
        let at_ms = self.shell.now_ms().saturating_add(delay);
        self.sweep_at = Some(at_ms);
        self.shell.scheduler().do_send(WakeAt {
            at_ms,
            who: context.address().recipient(),
        });
    }

    /// Takes away workflows whose retention has ended. They are looked through in the order of
    /// their submission, up to the first that is too young whenever it may have ended.
    fn sweep(&mut self, context: &Context<Self>) -> Result<(), StoreError> {
        let reader = self.shell.reader().clone();
        let now = self.shell.now_ms();
        let retention = self.retention.as_millis() as u64;
        let due = |since: u64| since.saturating_add(retention);
        let mut swept = 0;
        let mut next: Option<u64> = None;
        let mut later = |at: u64| next = Some(next.map_or(at, |next| next.min(at)));
        let (from, to) = keys::all(b'w');
        for pair in reader.store().scan(&from, &to) {
            let (key, record) = pair?;
            let Some(root) = keys::id_of(&key) else {
                continue;
            };
            // (Ids that a fast clock gave tell nothing of when their workflows ended.)
            if due(root.submitted_ms()) > now && root.submitted_ms() <= now {
                later(due(root.submitted_ms()));
                break;
            }
            if swept == SWEEP_AT_MOST {
                // On with it, once this much is gone.
                self.sweep_at = Some(now);
                self.shell.then(Act::Sweep);
                break;
            }
            if self.workflows.contains_key(&root) {
                continue;
            }
            let Some(ended) = reader.ended(root)? else {
                continue;
            };
            if due(ended.at_ms) > now {
                later(due(ended.at_ms));
            } else if self.shell.shared().is_pinned(root) {
                later(now);
            } else {
                swept += 1;
                let head: crate::persistence::definition::Head =
                    codec::decode(Kind::Head, &key, &record)?;
                self.shell.delete(key);
                self.shell.delete(keys::result(root));
                if let Some(key) = head.idempotency_key {
                    self.shell.delete(keys::idempotency(&key));
                    self.key_stands_for(key, None);
                }
                self.shell.then(Act::Purge(root));
            }
        }
        if swept > 0 {
            // Ids go on after the latest though nothing else of it may be left.
            let last = reader.last_id()?;
            self.shell.put(
                keys::LAST_SWEPT.to_vec(),
                codec::encode(Kind::LastSwept, &last),
            );
        }
        if let Some(at) = next {
            self.sweep_after(Duration::from_millis(at.saturating_sub(now)), context);
        }
        Ok(())
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
            .then(Act::KeyIsDurable(KeyIsDurable { key, workflow }));
    }
}

impl Actor for EngineActor {
    type Context = Context<Self>;

    fn started(&mut self, context: &mut Self::Context) {
        let post = Post::of(context);
        self.shell.set_engine(context.address(), post.clone());
        self.post = Some(post);
        match self.recover(context) {
            Ok(0) => {}
            Ok(count) => tracing::info!(count, "unfinished workflows go on"),
            Err(error) => self.shell.halt(error.into()),
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
            staged,
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
                    let act = Act::Acknowledge(durable, shared.pin(earlier));
                    return self.shell.then(act);
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
        staged.keep();
        self.shell.put(keys::head(root_id), head);
        self.shell.start_numbers(root_id, next);
        self.shell
            .then(Act::Acknowledge(durable, shared.pin(root_id)));
        self.workflows.insert(
            root_id,
            Live {
                machine: Workflow::default(),
                children: HashMap::new(),
            },
        );
        self.start_child(root_id, ROOT, root, None, Resume::Fresh);
    }
}

impl Handler<Earlier> for EngineActor {
    type Result = ();

    fn handle(&mut self, Earlier { key, durable }: Earlier, _: &mut Context<Self>) {
        match self.earlier(&key) {
            Ok(Some(earlier)) => {
                let pin = self.shell.shared().pin(earlier);
                self.shell.then(Act::Acknowledge(durable, pin));
            }
            Ok(None) => {}
            Err(error) => self.shell.halt(error.into()),
        }
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
    fn ended(&mut self, ended: ChildEnded, context: &mut Context<Self>) {
        let ChildEnded {
            root,
            index,
            report,
        } = ended;
        // It will not be started again.
        if let Some(live) = self.workflows.get_mut(&root) {
            live.children.remove(&index);
        }
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

impl Handler<Mail> for EngineActor {
    type Result = ();

    fn handle(&mut self, _: Mail, context: &mut Context<Self>) {
        let words = self.post.as_ref().map(Post::collect);
        for word in words.unwrap_or_default() {
            match word {
                Word::Launch(Launch { root, due }) => {
                    #[cfg(test)]
                    super::tests::fault("engine");
                    self.decide(root, |machine| machine.launch(due), context);
                }
                Word::Ended(ended) => self.ended(ended, context),
                Word::Stopped(ChildStopped { root, index, lost }) => {
                    self.decide(root, |machine| machine.stopped(index, lost), context);
                }
            }
        }
    }
}

impl Handler<Respawn> for EngineActor {
    type Result = ();

    fn handle(&mut self, Respawn { root, index }: Respawn, _: &mut Context<Self>) {
        let known = self
            .workflows
            .get(&root)
            .and_then(|live| live.children.get(&index).cloned());
        let Some((node, input)) = known else { return };
        let stream = root.workflow_stream();
        match self.shell.reader().last_change(stream, index) {
            Ok(last) => self.start_child(root, index, node, input, Resume::Stored(last)),
            Err(error) => self.shell.halt(error.into()),
        }
    }
}

impl Handler<Wake> for EngineActor {
    type Result = ();

    fn handle(&mut self, _: Wake, context: &mut Context<Self>) {
        self.sweep_at = None;
        if let Err(error) = self.sweep(context) {
            self.shell.halt(error.into());
        }
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
