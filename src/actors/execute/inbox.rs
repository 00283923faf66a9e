//! The inbox: the messages of running attempts to their tasks' actors, delivered in batches. A
//! message that crosses threads alone costs the wake of a thread.

use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::actors::context::EngineContext;
use crate::actors::dispatch::permit::Returns;
use crate::actors::task::slab::TaskKey;
use crate::messages::task::{Finished, ReacquireSlot, StartSubtask};

/// A message from an attempt to its task's actor.
#[derive(Debug)]
pub(crate) enum AttemptMessage {
    Finished(Finished),
    StartSubtask(StartSubtask),
    /// The attempt waits for other tasks, without its slot.
    WaitsForTasks,
    ReacquireSlot(ReacquireSlot),
}

impl AttemptMessage {
    /// Returns the number of the attempt if this is its last message.
    pub(crate) fn ended(&self) -> Option<u32> {
        match self {
            Self::Finished(finished) => Some(finished.attempt),
            Self::StartSubtask(_) | Self::WaitsForTasks | Self::ReacquireSlot(_) => None,
        }
    }
}

/// Invariant: at most a few messages per slot wait here.
#[derive(Debug)]
pub(crate) struct Inbox {
    messages: Mutex<Vec<(TaskKey, AttemptMessage)>>,
    returns: Arc<Returns>,
    wake: Arc<Notify>,
}

impl Default for Inbox {
    fn default() -> Self {
        let wake = Arc::new(Notify::new());
        Self {
            messages: Mutex::default(),
            returns: Arc::new(Returns::new(wake.clone())),
            wake,
        }
    }
}

impl Inbox {
    /// Adds a message for a task. May be called on any thread.
    pub(crate) fn push(&self, task: TaskKey, message: AttemptMessage) {
        let mut messages = self.messages.lock();
        messages.push((task, message));
        // If other messages wait already, the engine has been woken.
        if messages.len() == 1 {
            drop(messages);
            self.wake.notify_one();
        }
    }

    /// Returns the list that permits return their slots to.
    pub(crate) fn returns(&self) -> &Arc<Returns> {
        &self.returns
    }

    /// Delivers messages and returned slots for ever; runs on the engine's thread.
    pub(crate) async fn deliver(&self, engine: EngineContext) {
        loop {
            self.wake.notified().await;
            for slot in self.returns.fetch() {
                engine.release(slot);
            }
            let messages = std::mem::take(&mut *self.messages.lock());
            #[cfg(feature = "__simulation")]
            let messages = crate::testing::simulation::messages(messages);
            for (task, message) in messages {
                engine.forward(task, message);
            }
        }
    }
}
