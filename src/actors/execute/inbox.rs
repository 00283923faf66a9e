//! The inbox: the messages of running attempts to their tasks' actors, delivered in batches. A
//! message that crosses threads alone costs the wake of a thread.

use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::actors::dispatch::permit::{Returned, Returns};
use crate::messages::task::{AttemptMessage, TaskKey};
use crate::testing::hooks;

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

    /// Waits for returned slots and messages, and takes them.
    pub(crate) async fn next(&self) -> (Vec<Returned>, Vec<(TaskKey, AttemptMessage)>) {
        self.wake.notified().await;
        let slots = self.returns.fetch();
        let messages = std::mem::take(&mut *self.messages.lock());
        (slots, hooks::attempt_messages(messages))
    }
}

/// Returns the number of the attempt if this is its last message.
pub(crate) fn ended_attempt(message: &AttemptMessage) -> Option<u32> {
    match message {
        AttemptMessage::Finished(finished) => Some(finished.attempt),
        AttemptMessage::StartSubtask(_)
        | AttemptMessage::WaitsForTasks
        | AttemptMessage::ReacquireSlot(_)
        | AttemptMessage::Updates(..) => None,
    }
}
