//! What the engine shares with callers on other threads.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use parking_lot::{Mutex, RwLock};
use tokio::sync::Notify;

use super::cancel::Cancellations;
use super::client::Client;
use super::clock::Clock;
use super::inbox::Inbox;
use super::roll::Ticket;
use super::room::Room;
use super::runner::Runner;
use super::workers::Workers;
use crate::canvas::id::Id;
use crate::canvas::machine::fold::Run;
use crate::canvas::outcome::Value;
use crate::canvas::parked::ParkedTask;
use crate::canvas::payload::{ListWriter, Payload};
use crate::canvas::quarantined::Quarantined;
use crate::eager::Ledger;
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
    watches: Mutex<HashMap<Id, Vec<Arc<Notify>>>>,
    /// So that a commit that nobody watches takes no lock.
    watched: AtomicUsize,
    /// How many handles each workflow has: it is not swept under their hands.
    pins: Mutex<HashMap<Id, usize>>,
    /// How many workflows are in memory.
    live: AtomicUsize,
    /// Tasks that have come in, and that this build cannot run.
    parked: Mutex<BTreeMap<Id, (ParkedTask, Ticket)>>,
    quarantined: Mutex<BTreeMap<Id, Quarantined>>,
    pub(crate) registry: Registry,
    pub(crate) clock: Clock,
    pub(crate) site: Site,
}

/// Where what is submitted runs.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "there is one")]
pub(crate) enum Site {
    /// In the engine, on its threads.
    Engine(Plant),
    /// In whoever submits it.
    InPlace(Ledger),
}

/// The engine as others reach it.
#[derive(Debug)]
pub(crate) struct Plant {
    /// The way in; there from the start of the engine on.
    client: OnceLock<Client>,
    /// Where user code and timers run.
    pub(crate) runtime: Workers,
    pub(crate) runner: Runner,
    pub(crate) inbox: Inbox,
    pub(crate) cancellations: Cancellations,
    /// For what is pending.
    pub(crate) room: Arc<Room>,
}

impl Plant {
    /// `runtime` has this many threads that poll. A task that is cancelled and listens has `grace`.
    pub(crate) fn new(runtime: Workers, threads: usize, room: Arc<Room>, grace: Duration) -> Self {
        Self {
            client: OnceLock::new(),
            runtime,
            runner: Runner::new(threads),
            inbox: Inbox::default(),
            cancellations: Cancellations::new(grace),
            room,
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
        site: Site,
    ) -> Self {
        Self {
            reader: RwLock::new(Some(reader)),
            durable,
            ended: Mutex::new(None),
            watches: Mutex::new(HashMap::new()),
            watched: AtomicUsize::new(0),
            pins: Mutex::new(HashMap::new()),
            live: AtomicUsize::new(0),
            parked: Mutex::default(),
            quarantined: Mutex::default(),
            registry,
            clock,
            site,
        }
    }

    /// What an eager app has: no thread, no timer.
    pub(crate) fn in_place(registry: Registry, clock: Clock) -> Self {
        let ledger = Ledger::new();
        let durable = Arc::default();
        let reader = ledger.reader().up_to(Arc::clone(&durable));
        Self::new(
            reader,
            durable,
            registry,
            clock.untimed(),
            Site::InPlace(ledger),
        )
    }

    /// The engine: what its own parts know is there.
    pub(crate) fn plant(&self) -> &Plant {
        match &self.site {
            Site::Engine(plant) => plant,
            Site::InPlace(_) => unreachable!("only an engine has these parts"),
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
                reader.spread(root, outcome.clone(), &mut all)?;
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

    /// Reads what may be large; an engine does so off this thread.
    async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Reader) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let reader = self.reader()?;
        match &self.site {
            Site::InPlace(_) => read(&reader),
            Site::Engine(plant) => {
                let read = plant.runtime.spawn_blocking(move || read(&reader));
                let gone = |_| Err(self.ended().unwrap_or(Error::ShutDown));
                read.await.unwrap_or_else(gone)
            }
        }
    }

    /// A reader of what is durable now, or why there is none any more. After a fault there is none at once: nobody is
    /// to go on with what an engine that has halted left behind.
    pub(crate) fn reader(&self) -> Result<Reader> {
        match self.ended() {
            None | Some(Error::ShutDown) => match &*self.reader.read() {
                Some(reader) => Ok(reader.as_of_now()),
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
        if let Site::Engine(plant) = &self.site {
            plant.room.close();
        }
        for notify in self.watches.lock().values().flatten() {
            notify.notify_waiters();
        }
    }

    /// Lets go of the store.
    pub(crate) fn close(&self) {
        *self.reader.write() = None;
    }

    /// Asks to be told when anything about one of `ids` (a workflow's result, a supervisor's
    /// stream) has become durable.
    pub(crate) fn watch(self: &Arc<Self>, ids: Vec<Id>) -> Watch {
        let notify = Arc::new(Notify::new());
        let mut watches = self.watches.lock();
        for id in &ids {
            watches.entry(*id).or_default().push(notify.clone());
        }
        self.watched.fetch_add(1, Ordering::SeqCst);
        drop(watches);
        Watch {
            shared: self.clone(),
            ids,
            notify,
        }
    }

    /// Commit number `commit` is durable: callers may see it, and the watchers of what it touched
    /// are told.
    pub(crate) fn is_durable(&self, commit: u64, touched: &[Id]) {
        self.durable.store(commit, Ordering::SeqCst);
        if self.watched.load(Ordering::SeqCst) == 0 {
            return;
        }
        let watches = self.watches.lock();
        for notify in touched.iter().filter_map(|id| watches.get(id)).flatten() {
            notify.notify_waiters();
        }
    }

    /// Keeps a workflow from being swept for as long as the pin lives.
    pub(crate) fn pin(self: &Arc<Self>, id: Id) -> Pin {
        *self.pins.lock().entry(id.root()).or_default() += 1;
        Pin {
            shared: self.clone(),
            root: id.root(),
        }
    }

    pub(crate) fn is_pinned(&self, root: Id) -> bool {
        self.pins.lock().contains_key(&root)
    }

    pub(crate) fn live(&self) -> usize {
        self.live.load(Ordering::Relaxed)
    }

    pub(crate) fn count_live(&self, workflows: usize) {
        self.live.store(workflows, Ordering::Relaxed);
    }

    /// The holder of this ticket cannot run it.
    pub(crate) fn park(&self, task: ParkedTask, ticket: Ticket) {
        self.parked.lock().insert(task.id, (task, ticket));
    }

    pub(crate) fn unpark(&self, id: Id) -> Option<ParkedTask> {
        let parked = self.parked.lock().remove(&id);
        parked.map(|(task, _)| task)
    }

    pub(crate) fn parked(&self) -> BTreeMap<Id, ParkedTask> {
        let parked = self.parked.lock();
        let tasks = parked.iter().map(|(id, (task, _))| (*id, task.clone()));
        tasks.collect()
    }

    /// The ticket of a parked task.
    pub(crate) fn parked_ticket(&self, id: Id) -> Option<Ticket> {
        self.parked.lock().get(&id).map(|(_, ticket)| *ticket)
    }

    pub(crate) fn quarantine(&self, task: Quarantined) {
        self.quarantined.lock().insert(task.id, task);
    }

    pub(crate) fn release(&self, id: Id) {
        self.quarantined.lock().remove(&id);
    }

    pub(crate) fn is_quarantined(&self, id: Id) -> bool {
        self.quarantined.lock().contains_key(&id)
    }

    pub(crate) fn quarantined(&self) -> Vec<Quarantined> {
        self.quarantined.lock().values().cloned().collect()
    }
}

/// See [`Shared::watch`].
#[derive(Debug)]
pub(crate) struct Watch {
    shared: Arc<Shared>,
    ids: Vec<Id>,
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
        let mut watches = self.shared.watches.lock();
        for id in &self.ids {
            if let Some(watching) = watches.get_mut(id) {
                watching.retain(|notify| !Arc::ptr_eq(notify, &self.notify));
                if watching.is_empty() {
                    watches.remove(id);
                }
            }
        }
        self.shared.watched.fetch_sub(1, Ordering::SeqCst);
    }
}

/// See [`Shared::pin`].
#[derive(Debug)]
pub(crate) struct Pin {
    shared: Arc<Shared>,
    root: Id,
}

impl Pin {
    /// The workflow that it keeps.
    pub(crate) fn root(&self) -> Id {
        self.root
    }
}

impl Clone for Pin {
    fn clone(&self) -> Self {
        self.shared.pin(self.root)
    }
}

impl Drop for Pin {
    fn drop(&mut self) {
        let mut pins = self.shared.pins.lock();
        if let Some(count) = pins.get_mut(&self.root) {
            *count -= 1;
            if *count == 0 {
                pins.remove(&self.root);
            }
        }
    }
}
