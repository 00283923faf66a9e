//! The durable view of a store.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use parking_lot::{Mutex, RwLock};

use super::admission_control::AdmissionControl;
use super::retention_guard::{RetentionGuard, RetentionGuards};
use super::updates::{UpdateBoard, UpdateCell};
use super::user_runtime::UserRuntime;
use super::watch::{Watch, WatchList};
use crate::canvas::id::Id;
use crate::canvas::parked::ParkedTask;
use crate::canvas::quarantine::policy::QuarantinedTask;
use crate::canvas::task_update::TaskUpdate;
use crate::clock::Clock;
use crate::error::{Error, Result};
use crate::messages::task::TaskKey;
use crate::persistence::records::reader::Reader;

/// What a store durably has, as handles, contexts and the engine's own threads read it, and what
/// they wait for in it.
#[derive(Debug)]
pub(crate) struct DurableView {
    /// Reads the durable state only, not the pending changes. Taken at the end, so that the store
    /// closes even if handles live on.
    reader: RwLock<Option<Reader>>,
    /// The last durable commit.
    durable: Arc<AtomicU64>,
    watches: Arc<WatchList>,
    pub(crate) retention_guards: Arc<RetentionGuards>,
    /// What running tasks report. Not durable: it is shown before it is on record.
    pub(crate) updates: UpdateBoard,
    /// The number of workflows in memory.
    live: AtomicUsize,
    /// Tasks in memory that this build cannot run.
    parked: Mutex<BTreeMap<Id, (ParkedTask, TaskKey)>>,
    quarantined: Mutex<BTreeMap<Id, QuarantinedTask>>,
    /// Limits the pending load; closed at the end.
    pub(crate) admission: Arc<AdmissionControl>,
    pub(crate) clock: Clock,
    /// Runs large reads. `None` in eager mode: then the caller's thread does.
    pub(crate) runtime: Option<UserRuntime>,
}

impl DurableView {
    pub(crate) fn new(
        reader: Reader,
        durable: Arc<AtomicU64>,
        clock: Clock,
        admission: Arc<AdmissionControl>,
        runtime: Option<UserRuntime>,
    ) -> Self {
        Self {
            reader: RwLock::new(Some(reader)),
            durable,
            watches: Arc::default(),
            retention_guards: Arc::default(),
            updates: UpdateBoard::default(),
            live: AtomicUsize::new(0),
            parked: Mutex::default(),
            quarantined: Mutex::default(),
            admission,
            clock,
            runtime,
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
        self.watches.ended()
    }

    /// Returns the reason why the engine does not answer.
    pub(crate) fn stop_reason(&self) -> Error {
        self.ended().unwrap_or(Error::ShutDown)
    }

    /// Fails with the reason why the engine has stopped, if it has.
    pub(crate) fn check_open(&self) -> Result<()> {
        self.ended().map_or(Ok(()), Err)
    }

    /// Stops everything with this reason and wakes every waiter. The first reason stays.
    pub(crate) fn end(&self, why: Error) {
        // The waiters that are woken find both: the reason, and no more admission.
        self.watches.note_end(why);
        self.admission.close();
        self.watches.wake_all();
    }

    /// Releases the store.
    pub(crate) fn close(&self) {
        *self.reader.write() = None;
    }

    /// Watches `ids` (a workflow's result, a supervisor's stream): the watch is notified when a
    /// change to one of them is durable.
    pub(crate) fn watch(&self, ids: Vec<Id>) -> Watch {
        self.watches.watch(ids)
    }

    /// Publishes commit number `commit`, which is durable: readers may see it, and the watchers of
    /// what it touched are woken.
    pub(crate) fn publish_commit(&self, commit: u64, touched: &[Id]) {
        self.durable.store(commit, Ordering::SeqCst);
        self.watches.wake(touched);
    }

    /// Writes an update of a running task, and wakes the watches of the task.
    pub(crate) fn update(&self, task: Id, cell: &UpdateCell, update: TaskUpdate) {
        self.updates.update(cell, update);
        self.watches.wake(&[task]);
    }

    /// Shows the updates of a task's new attempt, and wakes the watches of the task.
    pub(crate) fn show_updates(&self, task: Id, cell: Arc<UpdateCell>) {
        self.updates.show(task, cell);
        self.watches.wake(&[task]);
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
