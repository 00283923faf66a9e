//! The updates of running tasks, as handles see them: the latest of each task, in memory.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use parking_lot::Mutex;

use crate::canvas::id::{Id, MAX_SEQ};
use crate::canvas::task_update::{TaskUpdate, UpdatePacer};

/// The latest update of one task. Its running attempt writes it, on any thread.
pub(crate) type UpdateCell = Mutex<UpdatePacer>;

/// The updates of all tasks that have reported any and have not ended.
#[derive(Debug)]
pub(crate) struct UpdateBoard {
    cells: Mutex<BTreeMap<Id, Arc<UpdateCell>>>,
    /// The number of cells: the end of a task takes no lock while there are none.
    len: AtomicUsize,
    /// When the next update is to go on record, on the steady scale; `u64::MAX` if none is.
    next_ms: AtomicU64,
}

impl Default for UpdateBoard {
    fn default() -> Self {
        Self {
            cells: Mutex::default(),
            len: AtomicUsize::new(0),
            next_ms: AtomicU64::new(u64::MAX),
        }
    }
}

impl UpdateBoard {
    /// Writes an update into the cell of a running attempt.
    pub(crate) fn update(&self, cell: &UpdateCell, update: TaskUpdate) {
        let mut pacer = cell.lock();
        pacer.update(update);
        self.note(&pacer);
    }

    /// Shows the updates of a task's new attempt in place of those of the attempt before.
    pub(crate) fn show(&self, task: Id, cell: Arc<UpdateCell>) {
        let mut cells = self.cells.lock();
        let mut pacer = cell.lock();
        if let Some(earlier) = cells.get(&task)
            && !Arc::ptr_eq(earlier, &cell)
        {
            pacer.follow(&earlier.lock());
        }
        self.note(&pacer);
        drop(pacer);
        cells.insert(task, cell);
        self.len.store(cells.len(), Ordering::SeqCst);
    }

    fn note(&self, pacer: &UpdatePacer) {
        if let Some(due_ms) = pacer.due_ms() {
            self.next_ms.fetch_min(due_ms, Ordering::SeqCst);
        }
    }

    pub(crate) fn latest(&self, task: Id) -> Option<TaskUpdate> {
        let cell = self.cells.lock().get(&task).cloned()?;
        let pacer = cell.lock();
        pacer.latest().cloned()
    }

    /// Returns the updates that go on record with the batch that is written now.
    pub(crate) fn record(&self, now_ms: u64) -> Vec<(Id, TaskUpdate)> {
        if self.next_ms.load(Ordering::SeqCst) > now_ms {
            return Vec::new();
        }
        // First, so that an update that comes meanwhile is noted behind it.
        self.next_ms.store(u64::MAX, Ordering::SeqCst);
        let mut due = Vec::new();
        for (task, cell) in &*self.cells.lock() {
            let mut pacer = cell.lock();
            due.extend(pacer.record(now_ms).map(|update| (*task, update)));
            self.note(&pacer);
        }
        due
    }

    /// Removes a task that has ended. Returns whether the store may have an update of it.
    pub(crate) fn remove(&self, task: Id) -> bool {
        if self.len.load(Ordering::SeqCst) == 0 {
            return false;
        }
        let mut cells = self.cells.lock();
        let removed = cells.remove(&task);
        self.len.store(cells.len(), Ordering::SeqCst);
        removed.is_some_and(|cell| cell.lock().is_on_record())
    }

    /// Removes all tasks of a workflow; returns those of which the store may have an update.
    pub(crate) fn remove_all(&self, root: Id) -> Vec<Id> {
        if self.len.load(Ordering::SeqCst) == 0 {
            return Vec::new();
        }
        let tasks: Vec<_> = {
            let cells = self.cells.lock();
            let own = cells.range(root..=root.node(MAX_SEQ));
            own.map(|(task, _)| *task).collect()
        };
        let own = tasks.into_iter();
        own.filter(|task| self.remove(*task)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn update(n: u64) -> TaskUpdate {
        TaskUpdate::new("COUNTING", &n).unwrap()
    }

    #[test]
    fn an_update_is_due_once_a_second_and_goes_with_its_task() {
        let board = UpdateBoard::default();
        let root = Id::next(None, 1, 1);
        let (task, other) = (root.node(3), root.node(4));
        let cell: Arc<UpdateCell> = Arc::default();
        board.update(&cell, update(1));
        // It is not on the board yet, and must not be forgotten for that.
        assert_eq!(board.record(5), []);
        board.show(task, cell.clone());
        assert_eq!(board.record(5), [(task, update(1))]);
        assert_eq!(board.record(5), []);
        board.update(&cell, update(2));
        assert_eq!(board.latest(task), Some(update(2)));
        assert_eq!(board.record(1_004), []);
        assert_eq!(board.record(1_005), [(task, update(2))]);
        // The next attempt: its first update is due a second after the last record of the task.
        let next: Arc<UpdateCell> = Arc::default();
        board.update(&next, update(3));
        board.show(task, next);
        board.update(&cell, update(9));
        assert_eq!(board.record(2_004), []);
        assert_eq!(board.record(2_005), [(task, update(3))]);
        let unrecorded: Arc<UpdateCell> = Arc::default();
        board.update(&unrecorded, update(4));
        board.show(other, unrecorded);
        assert!(!board.remove(other));
        assert!(!board.remove(other));
        assert!(board.remove(task));
        assert_eq!(board.latest(task), None);
    }

    #[test]
    fn all_tasks_of_a_workflow_are_removed_and_no_others() {
        let board = UpdateBoard::default();
        let roots = [1, 2, 3].map(|ms| Id::next(None, ms, 1));
        for root in roots {
            for task in [root, root.node(5), root.node(MAX_SEQ)] {
                let cell: Arc<UpdateCell> = Arc::default();
                board.update(&cell, update(1));
                board.show(task, cell);
            }
        }
        assert_eq!(board.record(0).len(), 9);
        let own = [roots[1], roots[1].node(5), roots[1].node(MAX_SEQ)];
        assert_eq!(board.remove_all(roots[1]), own);
        assert!(board.remove_all(roots[1]).is_empty());
        assert_eq!(board.latest(roots[0].node(5)), Some(update(1)));
        assert_eq!(board.latest(roots[2]), Some(update(1)));
    }
}
