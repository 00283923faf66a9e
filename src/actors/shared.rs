//! What the engine shares with callers on other threads.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use parking_lot::{Mutex, RwLock};
use tokio::sync::Notify;

use super::admission_control::AdmissionControl;
use super::cancellation::Cancellations;
use super::client::Client;
use super::clock::Clock;
use super::executor::Executor;
use super::inbox::Inbox;
use super::pool;
use super::retention_guard::{RetentionGuard, RetentionGuards};
use super::task_slab::TaskKey;
use super::user_runtime::UserRuntime;
use crate::canvas::id::Id;
use crate::canvas::machine::fold::Run;
use crate::canvas::outcome::Value;
use crate::canvas::parked::ParkedTask;
use crate::canvas::payload::{ListWriter, Payload};
use crate::canvas::quarantine::QuarantinedTask;
use crate::eager::EagerStore;
use crate::error::{Error, Result};
use crate::persistence::reader::{Elements, ElementsError, Progress, Reader};
use crate::task::Registry;

/// Shared by the engine, the app and every handle.
#[derive(Debug)]
pub(crate) struct Shared {
    /// Sees what is durable, not what is on its way. Taken at the end, so that the store closes
    /// though handles live on.
    reader: RwLock<Option<Reader>>,
    /// The last commit that is durable.
    durable: Arc<AtomicU64>,
    /// Why nothing more will happen, once that is so.
    ended: Mutex<Option<Error>>,
    watches: Mutex<Watches>,
    /// So that a commit that nobody watches takes no lock.
    watched: AtomicUsize,
    pub(crate) pins: Arc<RetentionGuards>,
    /// How many workflows are in memory.
    live: AtomicUsize,
    /// Tasks that have come in, and that this build cannot run.
    parked: Mutex<BTreeMap<Id, (ParkedTask, TaskKey)>>,
    quarantined: Mutex<BTreeMap<Id, QuarantinedTask>>,
    pub(crate) registry: Registry,
    pub(crate) clock: Clock,
    pub(crate) backend: Backend,
}

/// Where what is submitted runs.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "there is one")]
pub(crate) enum Backend {
    /// In the engine, on its threads.
    Engine(EngineHandle),
    /// In whoever submits it.
    Eager(EagerStore),
}

/// The engine as others reach it.
#[derive(Debug)]
pub(crate) struct EngineHandle {
    /// The way in; there from the start of the engine on.
    client: OnceLock<Client>,
    /// Where user code and timers run.
    pub(crate) runtime: UserRuntime,
    pub(crate) runner: Executor,
    pub(crate) inbox: Inbox,
    pub(crate) cancellations: Cancellations,
    /// For what is pending.
    pub(crate) admission: Arc<AdmissionControl>,
}

impl EngineHandle {
    /// `runtime` has this many threads that poll. A task that is cancelled and listens has `grace`.
    pub(crate) fn new(
        runtime: UserRuntime,
        threads: usize,
        room: Arc<AdmissionControl>,
        grace: Duration,
    ) -> Self {
        Self {
            client: OnceLock::new(),
            runtime,
            runner: Executor::new(threads),
            inbox: Inbox::default(),
            cancellations: Cancellations::new(grace),
            admission: room,
        }
    }

    pub(crate) fn set_client(&self, client: Client) {
        self.client.set(client).expect("there is one engine");
    }

    pub(crate) fn client(&self) -> &Client {
        self.client.get().expect("set before anything runs")
    }
}

impl Shared {
    pub(crate) fn new(
        reader: Reader,
        durable: Arc<AtomicU64>,
        registry: Registry,
        clock: Clock,
        site: Backend,
    ) -> Self {
        Self {
            reader: RwLock::new(Some(reader)),
            durable,
            ended: Mutex::new(None),
            watches: Mutex::default(),
            watched: AtomicUsize::new(0),
            pins: Arc::default(),
            live: AtomicUsize::new(0),
            parked: Mutex::default(),
            quarantined: Mutex::default(),
            registry,
            clock,
            backend: site,
        }
    }

    /// What an eager app has: no thread, no timer.
    pub(crate) fn in_place(registry: Registry, clock: Clock) -> Self {
        let ledger = EagerStore::new();
        let durable = Arc::default();
        let reader = ledger.reader().up_to(Arc::clone(&durable));
        Self::new(
            reader,
            durable,
            registry,
            clock.untimed(),
            Backend::Eager(ledger),
        )
    }

    /// The engine: what its own parts know is there.
    pub(crate) fn engine_handle(&self) -> &EngineHandle {
        match &self.backend {
            Backend::Engine(plant) => plant,
            Backend::Eager(_) => unreachable!("only an engine has these parts"),
        }
    }

    /// The bytes of a value of workflow `root`, wherever they are kept.
    pub(crate) async fn load(&self, root: Id, value: Value) -> Result<Payload> {
        if let Value::Inline(payload) = value {
            return Ok(payload);
        }
        let list = self.append(root, value, ListWriter::raw()).await?;
        Ok(list.finish())
    }

    /// Appends a value to the list.
    pub(crate) async fn append(
        &self,
        root: Id,
        value: Value,
        mut list: ListWriter,
    ) -> Result<ListWriter> {
        if let Value::Inline(payload) = value {
            list.push(payload.bytes());
            return Ok(list);
        }
        // A few records: handing them over to another thread takes longer.
        let is_small = match &value {
            Value::Gathered { size, .. } => *size <= 64,
            Value::Stored { len, .. } | Value::Args { len, .. } => *len <= 32 << 10,
            Value::Inline(_) | Value::Extended { .. } => false,
        };
        if is_small {
            self.reader()?.write(root, &value, &mut list)?;
            return Ok(list);
        }
        self.read(move |reader| {
            reader.write(root, &value, &mut list)?;
            Ok(list)
        })
        .await
    }

    /// The elements of a list that is not at hand; `None` if it is, or is no list.
    pub(crate) async fn elements(&self, root: Id, value: &Value) -> Result<Option<Elements>> {
        if let Value::Inline(_) = value {
            return Ok(None);
        }
        let value = value.clone();
        self.read(move |reader| match Elements::open(reader, root, &value) {
            Ok(elements) => Ok(Some(elements)),
            Err(ElementsError::NotAList(_)) => Ok(None),
            Err(ElementsError::Store(error)) => Err(error.into()),
        })
        .await
    }

    /// The accumulator, and what a fold's function is to take in.
    pub(crate) async fn fold_items(
        &self,
        root: Id,
        run: Arc<Run>,
    ) -> Result<(Payload, Vec<Payload>)> {
        self.read(move |reader| {
            let mut items = Vec::with_capacity(run.outcomes.len());
            let mut all = Vec::new();
            for outcome in &run.outcomes {
                reader.flatten(root, outcome.clone(), &mut all)?;
                for outcome in all.drain(..) {
                    items.push(reader.element(root, &outcome, run.settled)?);
                }
            }
            Ok((reader.load(root, &run.acc)?, items))
        })
        .await
    }

    /// How far a node has got.
    pub(crate) async fn progress(&self, id: Id) -> Result<Progress> {
        self.read(move |reader| reader.progress(id)?.ok_or(Error::UnknownId { id }))
            .await
    }

    /// Reads what may be large; an engine does so off this thread, unless the system has no other.
    async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Reader) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let reader = self.reader()?;
        match &self.backend {
            Backend::Eager(_) => read(&reader),
            Backend::Engine(plant) => {
                let (job, done) = pool::job(move || read(&reader));
                if let Err((job, _)) = plant.runtime.try_run(job) {
                    job();
                }
                match done.await {
                    Ok(Ok(read)) => read,
                    Ok(Err(_)) | Err(_) => Err(self.ended().unwrap_or(Error::ShutDown)),
                }
            }
        }
    }

    /// A reader of what is durable now, or why there is none any more. After a fault there is none at once: nobody is
    /// to go on with what an engine that has halted left behind.
    pub(crate) fn reader(&self) -> Result<Reader> {
        match self.ended() {
            None | Some(Error::ShutDown) => match &*self.reader.read() {
                Some(reader) => Ok(reader.snapshot()),
                None => Err(Error::ShutDown),
            },
            Some(fault) => Err(fault),
        }
    }

    /// Why nothing more will happen, if that is so.
    pub(crate) fn ended(&self) -> Option<Error> {
        self.ended.lock().clone()
    }

    /// Ends it: every waiter is told. The first reason stays.
    pub(crate) fn end(&self, why: Error) {
        self.ended.lock().get_or_insert(why);
        if let Backend::Engine(plant) = &self.backend {
            plant.admission.close();
        }
        let watching = self.watches.lock().all();
        watching.iter().for_each(|notify| notify.notify_waiters());
    }

    /// Lets go of the store.
    pub(crate) fn close(&self) {
        *self.reader.write() = None;
    }

    /// Asks to be told when anything about one of `ids` (a workflow's result, a supervisor's
    /// stream) has become durable.
    pub(crate) fn watch(self: &Arc<Self>, ids: Vec<Id>) -> Watch {
        let notify = Arc::new(Notify::new());
        let number = self.watches.lock().add(&ids, &notify);
        self.watched.fetch_add(1, Ordering::SeqCst);
        Watch {
            shared: self.clone(),
            ids,
            number,
            notify,
        }
    }

    /// Commit number `commit` is durable: callers may see it, and the watchers of what it touched
    /// are told.
    pub(crate) fn publish_commit(&self, commit: u64, touched: &[Id]) {
        self.durable.store(commit, Ordering::SeqCst);
        if self.watched.load(Ordering::SeqCst) == 0 {
            return;
        }
        // (Not woken under the lock: they may be many.)
        let watching = self.watches.lock().of(touched);
        watching.iter().for_each(|notify| notify.notify_waiters());
    }

    /// Keeps a workflow from being swept for as long as the pin lives.
    pub(crate) fn pin(&self, id: Id) -> RetentionGuard {
        self.pins.pin(id.root())
    }

    pub(crate) fn live(&self) -> usize {
        self.live.load(Ordering::Relaxed)
    }

    pub(crate) fn count_live(&self, workflows: usize) {
        self.live.store(workflows, Ordering::Relaxed);
    }

    /// The holder of this ticket cannot run it.
    pub(crate) fn park(&self, task: ParkedTask, ticket: TaskKey) {
        self.parked.lock().insert(task.id, (task, ticket));
    }

    /// Takes off the list what was parked with this ticket, and not by another actor since.
    pub(crate) fn unpark(&self, id: Id, ticket: TaskKey) -> Option<ParkedTask> {
        let mut parked = self.parked.lock();
        parked.get(&id).filter(|(_, of)| *of == ticket)?;
        parked.remove(&id).map(|(task, _)| task)
    }

    pub(crate) fn parked(&self) -> BTreeMap<Id, ParkedTask> {
        let parked = self.parked.lock();
        let tasks = parked.iter().map(|(id, (task, _))| (*id, task.clone()));
        tasks.collect()
    }

    /// The ticket of a parked task.
    pub(crate) fn parked_ticket(&self, id: Id) -> Option<TaskKey> {
        self.parked.lock().get(&id).map(|(_, ticket)| *ticket)
    }

    pub(crate) fn quarantine(&self, task: QuarantinedTask) {
        self.quarantined.lock().insert(task.id, task);
    }

    pub(crate) fn release(&self, id: Id) {
        self.quarantined.lock().remove(&id);
    }

    pub(crate) fn is_quarantined(&self, id: Id) -> bool {
        self.quarantined.lock().contains_key(&id)
    }

    pub(crate) fn quarantined(&self) -> Vec<QuarantinedTask> {
        self.quarantined.lock().values().cloned().collect()
    }
}

/// The watches by what they watch, and in the order in which they began. Many may watch one id, and each
/// comes and goes by itself, so that none may look through the others.
#[derive(Debug, Default)]
struct Watches {
    by_id: HashMap<Id, BTreeMap<u64, Arc<Notify>>>,
    /// The number of the next.
    next: u64,
}

impl Watches {
    /// Adds a watch of these; returns its number.
    fn add(&mut self, ids: &[Id], notify: &Arc<Notify>) -> u64 {
        let number = self.next;
        self.next += 1;
        for id in ids {
            let watching = self.by_id.entry(*id).or_default();
            watching.insert(number, notify.clone());
        }
        number
    }

    fn remove(&mut self, ids: &[Id], number: u64) {
        for id in ids {
            if let Some(watching) = self.by_id.get_mut(id) {
                watching.remove(&number);
                if watching.is_empty() {
                    self.by_id.remove(id);
                }
            }
        }
    }

    fn of(&self, ids: &[Id]) -> Vec<Arc<Notify>> {
        let watching = ids.iter().filter_map(|id| self.by_id.get(id));
        watching.flat_map(BTreeMap::values).cloned().collect()
    }

    fn all(&self) -> Vec<Arc<Notify>> {
        let watching = self.by_id.values();
        watching.flat_map(BTreeMap::values).cloned().collect()
    }
}

/// See [`Shared::watch`].
#[derive(Debug)]
pub(crate) struct Watch {
    shared: Arc<Shared>,
    ids: Vec<Id>,
    number: u64,
    notify: Arc<Notify>,
}

impl Watch {
    /// Looks until there is something to see: at once, and each time something has changed.
    pub(crate) async fn until<T>(&self, look: impl Fn() -> Result<Option<T>>) -> Result<T> {
        loop {
            let notified = self.notify.notified();
            tokio::pin!(notified);
            // Registered before the look, so that nothing is missed between look and wait.
            notified.as_mut().enable();
            let ended = self.shared.ended();
            match (look(), ended) {
                (Ok(Some(seen)), _) => return Ok(seen),
                (Ok(None) | Err(_), Some(why)) => return Err(why),
                (Err(error), None) => return Err(error),
                (Ok(None), None) => {}
            }
            notified.await;
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.shared.watches.lock().remove(&self.ids, self.number);
        self.shared.watched.fetch_sub(1, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn watches_of_one_id_come_and_go_in_any_order() {
        let ids: Vec<_> = (1..4).map(|ms| Id::next(None, ms, 0)).collect();
        let mut watches = Watches::default();
        let notify: Vec<_> = (0..100).map(|_| Arc::new(Notify::new())).collect();
        let numbers: Vec<_> = notify.iter().map(|one| watches.add(&ids, one)).collect();
        let is_one = |a: &[Arc<Notify>], b: &[Arc<Notify>]| {
            a.len() == b.len() && a.iter().zip(b).all(|(a, b)| Arc::ptr_eq(a, b))
        };
        assert!(is_one(&watches.of(&ids[1..2]), &notify));
        for at in (0..100).filter(|at| at % 3 != 0) {
            watches.remove(&ids, numbers[at]);
        }
        let left: Vec<_> = notify.iter().step_by(3).cloned().collect();
        assert!(is_one(&watches.of(&ids[2..]), &left));
        assert_eq!(watches.all().len(), 3 * left.len());
        for at in (0..100).step_by(3) {
            watches.remove(&ids, numbers[at]);
        }
        assert!(watches.by_id.is_empty() && watches.all().is_empty());
    }
}
