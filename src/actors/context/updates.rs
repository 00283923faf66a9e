//! Updates that running tasks report: they go on record with batches that are written anyway.

use std::sync::Arc;

use super::EngineContext;
use crate::actors::child::Child;
use crate::actors::commit::journal::Journal;
use crate::backend::updates::UpdateCell;
use crate::canvas::id::Id;
use crate::canvas::task_update::{TaskUpdate, UpdatePacer};
use crate::persistence::records::{keys, meta, updates};

impl EngineContext {
    /// Shows the updates of the tasks that were running before a restart.
    pub(super) fn restore_updates(&self, stored: Vec<(Id, TaskUpdate)>) {
        for (task, update) in stored {
            match self.reader().store().get(&keys::header(task.root())) {
                Ok(Some(_)) => {
                    let pacer = UpdatePacer::recovered(update, self.steady_ms());
                    self.show_updates(task, Arc::new(UpdateCell::new(pacer)));
                }
                // The task has ended with its workflow.
                Ok(None) => self.delete(updates::key(task)),
                Err(error) => self.halt(error.into()),
            }
        }
    }

    /// Shows the updates of a task's running attempt to handles.
    pub(crate) fn show_updates(&self, task: Id, cell: Arc<UpdateCell>) {
        self.view().show_updates(task, cell);
    }

    /// Adds the updates that are due to the batch, if it is written anyway.
    pub(super) fn store_updates(&self, journal: &mut Journal<Box<Child>>) {
        if !journal.is_written() {
            return;
        }
        let due = self.view().updates.record(self.steady_ms());
        if due.is_empty() {
            return;
        }
        // In one batch with the first of them, so that no store has a record that it does not name.
        if let Some((key, record)) = self.add_addition(meta::TASK_UPDATES) {
            journal.put(key, record);
        }
        for (task, update) in due {
            let (key, record) = updates::record(task, &update);
            journal.put(key, record);
        }
    }

    /// Removes the updates of a task that has ended.
    pub(crate) fn end_updates(&self, task: Id) {
        if self.view().updates.remove(task) {
            self.delete(updates::key(task));
        }
    }

    /// Removes the updates of all tasks of a workflow that has ended: of those, too, that ended
    /// without an actor.
    pub(crate) fn end_all_updates(&self, root: Id) {
        for task in self.view().updates.remove_all(root) {
            self.delete(updates::key(task));
        }
    }
}
