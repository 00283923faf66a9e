//! The inbox: what running attempts say to their tasks' actors, carried over in batches. A message
//! that crosses threads alone costs the wake of a thread.

use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::engine_context::EngineContext;
use super::task_slab::TaskKey;
use crate::messages::dispatcher::Returns;
use crate::messages::task::{Finished, ReacquireSlot, StartSubtask};

/// From an attempt to its task.
#[derive(Debug)]
pub(crate) enum AttemptMessage {
    Finished(Finished),
    StartSubtask(StartSubtask),
    /// It waits for other tasks, without its slot.
    WaitsForTasks,
    ReacquireSlot(ReacquireSlot),
}

impl AttemptMessage {
    /// Returns the number of the attempt, if this is its last note.
    pub(crate) fn ended(&self) -> Option<u32> {
        match self {
            Self::Finished(finished) => Some(finished.attempt),
            Self::StartSubtask(_) | Self::WaitsForTasks | Self::ReacquireSlot(_) => None,
        }
    }
}

/// Invariant: no more than a few notes per slot wait here.
#[derive(Debug)]
pub(crate) struct Inbox {
    notes: Mutex<Vec<(TaskKey, AttemptMessage)>>,
    returns: Arc<Returns>,
    bell: Arc<Notify>,
}

impl Default for Inbox {
    fn default() -> Self {
        let bell = Arc::new(Notify::new());
        Self {
            notes: Mutex::default(),
            returns: Arc::new(Returns::new(bell.clone())),
            bell,
        }
    }
}

impl Inbox {
    /// From any thread.
    pub(crate) fn push(&self, task: TaskKey, note: AttemptMessage) {
        let mut notes = self.notes.lock();
        notes.push((task, note));
        // Who finds others before him finds the bell rung.
        if notes.len() == 1 {
            drop(notes);
            self.bell.notify_one();
        }
    }

    /// Where slots are given back.
    pub(crate) fn returns(&self) -> &Arc<Returns> {
        &self.returns
    }

    /// Hands on what comes, for ever; runs on the engine's thread.
    pub(crate) async fn deliver(&self, shell: EngineContext) {
        loop {
            self.bell.notified().await;
            for slot in self.returns.fetch() {
                shell.release(slot);
            }
            let notes = std::mem::take(&mut *self.notes.lock());
            #[cfg(feature = "__simulation")]
            let notes = crate::simulation::notes(notes);
            for (task, note) in notes {
                shell.pass(task, note);
            }
        }
    }
}
