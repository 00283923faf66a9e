//! The store actor: the only writer. What arrives while a commit is on its way to the disk shares
//! the next one.

use std::sync::Arc;
use std::time::Duration;

use actix::{
    Actor, ActorFutureExt, AsyncContext, Context, Handler, Message, Running, SpawnHandle,
    WrapFuture,
};
use tokio::sync::oneshot;

use crate::persistence::{Batch, Durability, Store, StoreError};

/// The most that a crash takes back under [`Durability::Buffered`].
const BUFFERED: Duration = Duration::from_millis(500);

/// It lives on an arbiter of its own, because it blocks in `fsync`.
#[derive(Debug)]
pub(crate) struct StoreActor {
    store: Arc<dyn Store>,
    durability: Durability,
    /// Each is applied as it came, so that none grows large; they share one sync.
    pending: Vec<Batch>,
    waiting: Vec<oneshot::Sender<Result<(), StoreError>>>,
    /// The flush of what `Buffered` has left in memory.
    flush: Option<SpawnHandle>,
}

/// Write this, and answer when it is as durable as the app asked for.
#[derive(Debug)]
pub(crate) struct Commit(pub(crate) Batch);

impl Message for Commit {
    type Result = oneshot::Receiver<Result<(), StoreError>>;
}

/// Everything that lay in the mailbox with the first commit has been heard: write it.
#[derive(Debug, Message)]
#[rtype(result = "()")]
struct Write;

impl StoreActor {
    pub(crate) fn new(store: Arc<dyn Store>, durability: Durability) -> Self {
        Self {
            store,
            durability,
            pending: Vec::new(),
            waiting: Vec::new(),
            flush: None,
        }
    }
}

impl Actor for StoreActor {
    type Context = Context<Self>;

    fn stopping(&mut self, _: &mut Context<Self>) -> Running {
        if let Err(error) = self.store.sync(Durability::Process) {
            tracing::error!(%error, "the store could not be flushed at the end");
        }
        Running::Stop
    }
}

impl Handler<Commit> for StoreActor {
    type Result = actix::MessageResult<Commit>;

    fn handle(&mut self, Commit(batch): Commit, context: &mut Context<Self>) -> Self::Result {
        if self.waiting.is_empty() {
            // It goes behind what is in the mailbox now, all of which shares this write.
            context.notify(Write);
        }
        let (reply, answer) = oneshot::channel();
        self.pending.push(batch);
        self.waiting.push(reply);
        actix::MessageResult(answer)
    }
}

impl Handler<Write> for StoreActor {
    type Result = ();

    fn handle(&mut self, _: Write, context: &mut Context<Self>) {
        let done = self
            .pending
            .drain(..)
            .try_for_each(|batch| self.store.apply(batch))
            .and_then(|()| self.store.sync(self.durability));
        if self.durability == Durability::Buffered && self.flush.is_none() {
            let flush = async { tokio::time::sleep(BUFFERED).await }
                .into_actor(self)
                .map(|(), actor, _| {
                    actor.flush = None;
                    // Its error is sticky: the next commit is told of it.
                    if let Err(error) = actor.store.sync(Durability::Process) {
                        tracing::error!(%error, "the store could not be flushed");
                    }
                });
            self.flush = Some(context.spawn(flush));
        }
        for reply in self.waiting.drain(..) {
            // Who no longer waits needs no answer.
            let _ = reply.send(done.clone());
        }
    }
}
