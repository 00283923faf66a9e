//! The state that the engine shares with callers on other threads.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use parking_lot::{Mutex, RwLock};
use tokio::sync::Notify;

use super::pool;
use super::retention_guard::{RetentionGuard, RetentionGuards};
use super::user_runtime::UserRuntime;
use crate::actors::engine::admission_control::AdmissionControl;
use crate::actors::engine::client::Client;
use crate::actors::execute::cancellation::Cancellations;
use crate::actors::execute::executor::Executor;
use crate::actors::execute::inbox::Inbox;
use crate::canvas::id::Id;
use crate::canvas::machine::fold_run::Run;
use crate::canvas::outcome::Value;
use crate::canvas::parked::ParkedTask;
use crate::canvas::payload::{ListWriter, Payload};
use crate::canvas::quarantine::policy::QuarantinedTask;
use crate::clock::Clock;
use crate::eager::EagerStore;
use crate::error::{Error, IdError, Result};
use crate::messages::task::TaskKey;
use crate::persistence::records::reader::{Elements, ElementsError, Progress, Reader};
use crate::task::Registry;

/// The state shared by the engine, the app and every handle.
#[derive(Debug)]
pub(crate) struct Shared {
    /// Reads the durable state only, not the pending changes. Taken at the end, so that the store
    /// closes even if handles live on.
    reader: RwLock<Option<Reader>>,
    /// The last durable commit.
    durable: Arc<AtomicU64>,
    /// The reason why the engine has stopped, once it has.
    ended: Mutex<Option<Error>>,
    watches: Mutex<Watches>,
    /// The number of watches: a commit takes no lock while there is none.
    watched: AtomicUsize,
    pub(crate) retention_guards: Arc<RetentionGuards>,
    /// The number of workflows in memory.
    live: AtomicUsize,
    /// Tasks in memory that this build cannot run.
    parked: Mutex<BTreeMap<Id, (ParkedTask, TaskKey)>>,
    quarantined: Mutex<BTreeMap<Id, QuarantinedTask>>,
    pub(crate) registry: Registry,
    pub(crate) clock: Clock,
    pub(crate) backend: Backend,
}

/// How submitted workflows run.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "there is one")]
pub(crate) enum Backend {
    /// In the engine, on its threads.
    Engine(EngineHandle),
    /// On the submitting thread.
    Eager(EagerStore),
}

/// Gives other threads access to the engine.
#[derive(Debug)]
pub(crate) struct EngineHandle {
    /// Set when the engine starts.
    client: OnceLock<Client>,
    /// Runs user code and timers.
    pub(crate) runtime: UserRuntime,
    pub(crate) executor: Executor,
    pub(crate) inbox: Inbox,
    pub(crate) cancellations: Cancellations,
    /// Limits the pending load.
    pub(crate) admission: Arc<AdmissionControl>,
}

impl EngineHandle {
    /// Creates the handle. `runtime` polls on `threads` threads; a cancelled task that observes its
    /// cancellation has `grace` to clean up.
    pub(crate) fn new(
        runtime: UserRuntime,
        threads: usize,
        admission: Arc<AdmissionControl>,
        grace: Duration,
    ) -> Self {
        Self {
            client: OnceLock::new(),
            runtime,
            executor: Executor::new(threads),
            inbox: Inbox::default(),
            cancellations: Cancellations::new(grace),
            admission,
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
        backend: Backend,
    ) -> Self {
        Self {
            reader: RwLock::new(Some(reader)),
            durable,
            ended: Mutex::new(None),
            watches: Mutex::default(),
            watched: AtomicUsize::new(0),
            retention_guards: Arc::default(),
            live: AtomicUsize::new(0),
            parked: Mutex::default(),
            quarantined: Mutex::default(),
            registry,
            clock,
            backend,
        }
    }

    /// Creates the state of an eager app, which has no thread and no timer.
    pub(crate) fn in_place(registry: Registry, clock: Clock) -> Self {
        let store = EagerStore::new();
        let durable = Arc::default();
        let reader = store.reader().up_to(Arc::clone(&durable));
        Self::new(
            reader,
            durable,
            registry,
            clock.untimed(),
            Backend::Eager(store),
        )
    }

    /// Returns the handle of the engine. Only for callers that run within an engine.
    pub(crate) fn engine_handle(&self) -> &EngineHandle {
        match &self.backend {
            Backend::Engine(engine) => engine,
            Backend::Eager(_) => unreachable!("only an engine has these parts"),
        }
    }

    /// Returns the bytes of a value of workflow `root`, wherever they are stored.
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
        // A few records are read here: a handover to another thread takes longer.
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

    /// Returns the elements of a stored list; `None` if the value is inline or no list.
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

    /// Returns the accumulator of a fold and the items that its function takes in.
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

    /// Returns the progress of a node.
    pub(crate) async fn progress(&self, id: Id) -> Result<Progress> {
        self.read(move |reader| {
            reader
                .progress(id)?
                .ok_or(Error::Id(IdError::Unknown { id }))
        })
        .await
    }

    /// Runs a read that may be large: in an engine on the pool, or on this thread if the system has
    /// no other.
    async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Reader) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let reader = self.reader()?;
        match &self.backend {
            Backend::Eager(_) => read(&reader),
            Backend::Engine(engine) => {
                let (job, done) = pool::job(move || read(&reader));
                if let Err((job, _)) = engine.runtime.try_run(job) {
                    job();
                }
                match done.await {
                    Ok(Ok(read)) => read,
                    Ok(Err(_)) | Err(_) => Err(self.ended().unwrap_or(Error::ShutDown)),
                }
            }
        }
    }

    /// Returns a reader of the state that is durable now, or the reason why there is none. After a
    /// fault there is none at once: callers must not continue from what a halted engine left
    /// behind.
    pub(crate) fn reader(&self) -> Result<Reader> {
        match self.ended() {
            None | Some(Error::ShutDown) => match &*self.reader.read() {
                Some(reader) => Ok(reader.snapshot()),
                None => Err(Error::ShutDown),
            },
            Some(fault) => Err(fault),
        }
    }

    /// Returns the reason why the engine has stopped, if it has.
    pub(crate) fn ended(&self) -> Option<Error> {
        self.ended.lock().clone()
    }

    /// Stops everything with this reason and wakes every waiter. The first reason stays.
    pub(crate) fn end(&self, why: Error) {
        self.ended.lock().get_or_insert(why);
        if let Backend::Engine(engine) = &self.backend {
            engine.admission.close();
        }
        let watching = self.watches.lock().all();
        watching.iter().for_each(|notify| notify.notify_waiters());
    }

    /// Releases the store.
    pub(crate) fn close(&self) {
        *self.reader.write() = None;
    }

    /// Watches `ids` (a workflow's result, a supervisor's stream): the watch is notified when a
    /// change to one of them is durable.
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

    /// Publishes commit number `commit`, which is durable: readers may see it, and the watchers of
    /// what it touched are woken.
    pub(crate) fn publish_commit(&self, commit: u64, touched: &[Id]) {
        self.durable.store(commit, Ordering::SeqCst);
        if self.watched.load(Ordering::SeqCst) == 0 {
            return;
        }
        // (Woken outside the lock: there may be many.)
        let watching = self.watches.lock().of(touched);
        watching.iter().for_each(|notify| notify.notify_waiters());
    }

    /// Keeps a workflow from being swept as long as the guard lives.
    pub(crate) fn pin(&self, id: Id) -> RetentionGuard {
        self.retention_guards.pin(id.root())
    }

    pub(crate) fn live(&self) -> usize {
        self.live.load(Ordering::Relaxed)
    }

    pub(crate) fn count_live(&self, workflows: usize) {
        self.live.store(workflows, Ordering::Relaxed);
    }

    /// Lists a task as parked; the actor with this key cannot run it.
    pub(crate) fn park(&self, task: ParkedTask, key: TaskKey) {
        self.parked.lock().insert(task.id, (task, key));
    }

    /// Removes a parked task from the list, unless another actor has parked it since.
    pub(crate) fn unpark(&self, id: Id, key: TaskKey) -> Option<ParkedTask> {
        let mut parked = self.parked.lock();
        parked.get(&id).filter(|(_, of)| *of == key)?;
        parked.remove(&id).map(|(task, _)| task)
    }

    pub(crate) fn parked(&self) -> BTreeMap<Id, ParkedTask> {
        let parked = self.parked.lock();
        let tasks = parked.iter().map(|(id, (task, _))| (*id, task.clone()));
        tasks.collect()
    }

    /// Returns the key of a parked task.
    pub(crate) fn parked_key(&self, id: Id) -> Option<TaskKey> {
        self.parked.lock().get(&id).map(|(_, key)| *key)
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

/// The watches by id, in the order in which they began. Many watches may share an id and each is
/// added and removed by itself, so removal must not search through the others.
#[derive(Debug, Default)]
struct Watches {
    by_id: HashMap<Id, BTreeMap<u64, Arc<Notify>>>,
    /// The number of the next watch.
    next: u64,
}

impl Watches {
    /// Adds a watch of these ids; returns its number.
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

/// A registered watch; see [`Shared::watch`].
#[derive(Debug)]
pub(crate) struct Watch {
    shared: Arc<Shared>,
    ids: Vec<Id>,
    number: u64,
    notify: Arc<Notify>,
}

impl Watch {
    /// Calls `check` now and after each change until it returns a value.
    pub(crate) async fn until<T>(&self, check: impl Fn() -> Result<Option<T>>) -> Result<T> {
        loop {
            let notified = self.notify.notified();
            tokio::pin!(notified);
            // Registered before the check, so that no change is missed between check and wait.
            notified.as_mut().enable();
            let ended = self.shared.ended();
            match (check(), ended) {
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
    fn watches_of_one_id_are_added_and_removed_in_any_order() {
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
