//! The inbox: what tasks that have ended say to their actors, carried over in batches. A message
//! that crosses threads alone costs the wake of a thread.

use actix::Addr;
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::task::TaskActor;
use crate::messages::task::Finished;

/// Invariant: no more wait here than there are slots.
#[derive(Debug, Default)]
pub(crate) struct Inbox {
    waiting: Mutex<Vec<(Addr<TaskActor>, Finished)>>,
    bell: Notify,
}

impl Inbox {
    /// From any thread.
    pub(crate) fn push(&self, task: Addr<TaskActor>, finished: Finished) {
        self.waiting.lock().push((task, finished));
        self.bell.notify_one();
    }

    /// Hands on what comes, for ever; runs on the engine's thread.
    pub(crate) async fn deliver(&self) {
        loop {
            self.bell.notified().await;
            let batch = std::mem::take(&mut *self.waiting.lock());
            for (task, finished) in batch {
                task.do_send(finished);
            }
        }
    }
}
