//! The store actor: writes commits. Batches that arrive while one is being written share the next
//! write. A small batch is written on the engine's thread if no other write is running: waking a
//! thread for it, which then wakes the first, takes about as long as half an fsync.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use actix::{
    Actor, ActorFutureExt, Addr, AsyncContext, Context, Handler, Message, Running, SpawnHandle,
    WrapFuture,
};
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::oneshot;

use crate::persistence::{Batch, Durability, Store, StoreError};
use crate::testing::failpoint::{self, Point};
use crate::testing::hooks;

/// The most time that a crash undoes under [`Durability::Buffered`].
const BUFFERED: Duration = Duration::from_millis(500);

/// How long a commit waits before its retry when the disk is full, or descriptors or memory are
/// short.
const FULL_DISK_RETRY: Duration = Duration::from_millis(100);

/// A batch of at most this many changes is written on the engine's thread: one task's changes, or
/// those of a few.
const INLINE_COMMIT_MAX: usize = 16;

/// Whether the write was applied, and then whether it is as durable as the app asked for.
type Written = Result<Result<(), StoreError>, StoreError>;

/// Serializes the writes to the store.
///
/// Invariant: after a failed write nothing is written any more, by the engine or beside it: how
/// much of that write the store holds is unknown, and a store may accept the next one.
#[derive(Debug)]
pub(crate) struct WriteLock {
    store: Arc<dyn Store>,
    durability: Durability,
    /// Locked during a write. Holds the error of the write that failed.
    failed: Mutex<Option<StoreError>>,
}

impl WriteLock {
    pub(crate) fn new(store: Arc<dyn Store>, durability: Durability) -> Arc<Self> {
        Arc::new(Self {
            store,
            durability,
            failed: Mutex::default(),
        })
    }

    fn take(&self) -> MutexGuard<'_, Option<StoreError>> {
        self.failed.lock()
    }

    /// Applies the batches and returns whether they are as durable as the app asked for. If they
    /// are not for want of space, a write without batches tries the sync again.
    fn write(
        &self,
        batches: impl IntoIterator<Item = Batch>,
        failed: &mut Option<StoreError>,
    ) -> Written {
        if let Some(error) = failed {
            return Err(error.clone());
        }
        let written = self.apply(batches);
        if let Err(error) | Ok(Err(error)) = &written
            && !error.is_temporary()
        {
            *failed = Some(error.clone());
        }
        written
    }

    fn apply(&self, batches: impl IntoIterator<Item = Batch>) -> Written {
        batches
            .into_iter()
            .filter(|batch| !batch.is_empty())
            .try_for_each(|batch| self.store.apply(batch))
            // The batch is consumed, so no caller can try again.
            .map_err(StoreError::into_final)?;
        failpoint::reach(Point::Committed);
        let synced = self.store.sync(self.durability);
        failpoint::reach(Point::Synced);
        Ok(synced)
    }

    /// As [`write`](Self::write), on this thread. Returns the batch if it is large, or if the write
    /// would wait for more than the disk.
    fn write_inline(&self, batch: Batch) -> Result<Written, Batch> {
        // Buffered writes need the actor's flush.
        if batch.len() > INLINE_COMMIT_MAX || self.durability == Durability::Buffered {
            return Err(batch);
        }
        if !hooks::writes_at_once() {
            return Err(batch);
        }
        match self.failed.try_lock() {
            Some(mut failed) if self.store.is_prompt() => Ok(self.write([batch], &mut failed)),
            _ => Err(batch),
        }
    }

    /// Makes the writes durable that [`Durability::Buffered`] has left in memory.
    fn flush(&self) -> Result<(), StoreError> {
        let mut failed = self.take();
        if let Some(error) = &*failed {
            return Err(error.clone());
        }
        let flushed = self.store.sync(Durability::Process);
        if let Err(error) = &flushed
            && !error.is_temporary()
        {
            *failed = Some(error.clone());
        }
        flushed
    }
}

/// Writes batches. Runs on an arbiter of its own, because it blocks in `fsync`.
pub(crate) struct StoreActor {
    write_lock: Arc<WriteLock>,
    /// The queued batches. Each is applied by itself, so that none grows large; they share one
    /// sync.
    pending: Vec<Batch>,
    waiting: Vec<CommitWaiter>,
    /// The error for which the waiting commits are being retried.
    full: Option<StoreError>,
    /// The scheduled flush of buffered writes.
    flush: Option<SpawnHandle>,
}

/// Receives whether a batch is as durable as the app asked for.
pub(crate) type Answer = oneshot::Receiver<Result<(), StoreError>>;

/// Called right after a commit on the writing thread, however the commit has ended.
type OnCommitted = Box<dyn FnOnce(&Result<(), StoreError>) + Send>;

/// Writes a batch; answered when it is as durable as the app asked for.
#[derive(Message)]
#[rtype(result = "()")]
struct Commit {
    batch: Batch,
    waiting: CommitWaiter,
    /// The error for which the batch is being retried.
    full: Option<StoreError>,
}

/// The waiter of a commit.
struct CommitWaiter {
    then: Option<OnCommitted>,
    reply: oneshot::Sender<Result<(), StoreError>>,
}

/// Writes the batch. The answer fails if the store actor is gone. (A request of actix would answer
/// twice: the acknowledgement of the message would wake a thread for nothing.)
pub(crate) fn commit(store: &Addr<StoreActor>, batch: Batch) -> Answer {
    send(store, batch, None, None)
}

fn send(
    store: &Addr<StoreActor>,
    batch: Batch,
    then: Option<OnCommitted>,
    full: Option<StoreError>,
) -> Answer {
    let (reply, answer) = oneshot::channel();
    let commit = Commit {
        batch,
        waiting: CommitWaiter { then, reply },
        full,
    };
    // Does not flood the mailbox: the caller waits for the answer before its next commit.
    store.do_send(commit);
    answer
}

/// Commits the engine's batches to the store.
#[derive(Debug)]
pub(crate) struct Committer {
    pub(crate) write_lock: Arc<WriteLock>,
    pub(crate) store: Addr<StoreActor>,
}

impl Committer {
    /// Writes the batch, and calls `then` once it is durable or has failed, on the thread that
    /// wrote it: threads that wait for the commit are woken without a detour through the engine's
    /// thread. Returns `None` if the store actor is lost or the store has panicked.
    pub(crate) async fn commit(
        &self,
        batch: Batch,
        then: impl FnOnce(&Result<(), StoreError>) + Send + 'static,
    ) -> Option<Result<(), StoreError>> {
        let write = AssertUnwindSafe(|| self.write_lock.write_inline(batch));
        let (batch, full) = match catch_unwind(write).ok()? {
            Ok(Ok(Ok(()))) => {
                then(&Ok(()));
                return Some(Ok(()));
            }
            // The batch is applied; the actor waits for space and syncs.
            Ok(Ok(Err(full))) if full.is_temporary() => (Batch::new(), Some(full)),
            Ok(Ok(Err(error)) | Err(error)) => {
                let failed = Err(error);
                then(&failed);
                return Some(failed);
            }
            Err(batch) => (batch, None),
        };
        let answer = send(&self.store, batch, Some(Box::new(then)), full);
        answer.await.ok()
    }
}

type WithStore = Box<dyn FnOnce(&dyn Store) + Send>;

/// Calls a function with the store while nothing is written to it.
#[derive(Message)]
#[rtype(result = "()")]
struct Inspect(WithStore);

/// Calls `inspect_store` with the store between two commits, which wait. The receiver fails if the
/// store actor is gone.
pub(crate) fn inspect<T: Send + 'static>(
    store: &Addr<StoreActor>,
    inspect_store: impl FnOnce(&dyn Store) -> T + Send + 'static,
) -> oneshot::Receiver<T> {
    let (done, seen) = oneshot::channel();
    store.do_send(Inspect(Box::new(move |store| {
        drop(done.send(inspect_store(store)))
    })));
    seen
}

/// Writes the queued batches, once the mailbox is drained.
#[derive(Debug, Message)]
#[rtype(result = "()")]
struct Write;

impl StoreActor {
    pub(crate) fn new(write_lock: Arc<WriteLock>) -> Self {
        Self {
            write_lock,
            pending: Vec::new(),
            waiting: Vec::new(),
            full: None,
            flush: None,
        }
    }

    fn flush_later(&mut self, context: &mut Context<Self>) {
        let flush = async { tokio::time::sleep(BUFFERED).await }
            .into_actor(self)
            .map(|(), actor, context| {
                actor.flush = None;
                match actor.write_lock.flush() {
                    Ok(()) => {}
                    Err(error) if error.is_temporary() => actor.flush_later(context),
                    // The next commit returns the error.
                    Err(error) => tracing::error!(%error, "the store could not be flushed"),
                }
            });
        self.flush = Some(context.spawn(flush));
    }
}

impl Actor for StoreActor {
    type Context = Context<Self>;

    fn stopping(&mut self, _: &mut Context<Self>) -> Running {
        if let Err(error) = self.write_lock.flush() {
            tracing::error!(%error, "the store could not be flushed at the end");
        }
        Running::Stop
    }
}

impl Handler<Commit> for StoreActor {
    type Result = ();

    fn handle(&mut self, commit: Commit, context: &mut Context<Self>) {
        let Commit {
            batch,
            waiting,
            full,
        } = commit;
        self.full = full.or(self.full.take());
        if self.waiting.is_empty() {
            // Handled after the messages that are in the mailbox now, all of which share this
            // write.
            context.notify(Write);
        }
        self.pending.push(batch);
        self.waiting.push(waiting);
    }
}

impl Handler<Inspect> for StoreActor {
    type Result = ();

    fn handle(&mut self, Inspect(inspect_store): Inspect, _: &mut Context<Self>) {
        let _no_writer = self.write_lock.take();
        inspect_store(&*self.write_lock.store);
    }
}

impl Handler<Write> for StoreActor {
    type Result = ();

    fn handle(&mut self, _: Write, context: &mut Context<Self>) {
        let done = match self
            .write_lock
            .write(self.pending.drain(..), &mut self.write_lock.take())
        {
            // All is applied and no caller is answered: the commit waits for space on the disk as
            // it waits for the disk.
            Ok(Err(full)) if full.is_temporary() => {
                self.full = Some(full);
                context.notify_later(Write, FULL_DISK_RETRY);
                return;
            }
            // The store does not support a retry.
            Ok(Err(StoreError::Poisoned(why))) => {
                Err(self.full.take().unwrap_or(StoreError::Poisoned(why)))
            }
            Ok(synced) => synced,
            Err(error) => Err(error),
        };
        if self.write_lock.durability == Durability::Buffered && self.flush.is_none() {
            self.flush_later(context);
        }
        self.full = None;
        for CommitWaiter { then, reply } in self.waiting.drain(..) {
            if let Some(then) = then {
                then(&done);
            }
            // The caller may have stopped waiting.
            let _ = reply.send(done.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::thread::{self, ThreadId};

    use actix::Arbiter;

    use super::*;
    use crate::persistence::{MemoryStore, Scan};

    /// A store that records which thread wrote last.
    #[derive(Debug, Default)]
    struct RecordingStore {
        inner: MemoryStore,
        writer: Mutex<Option<ThreadId>>,
        /// The next sync fails for want of space; `gives_up`: all later ones report a
        /// poisoned store.
        is_full: AtomicBool,
        gives_up: bool,
        /// Only the next write fails.
        fails: AtomicBool,
        panics: AtomicBool,
        is_slow: AtomicBool,
    }

    impl Store for RecordingStore {
        fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
            self.inner.get(key)
        }

        fn scan(&self, from: &[u8], to: &[u8]) -> Scan<'_> {
            self.inner.scan(from, to)
        }

        fn apply(&self, batch: Batch) -> Result<(), StoreError> {
            assert!(!self.panics.load(Ordering::SeqCst), "as it was asked to");
            *self.writer.lock() = Some(thread::current().id());
            match self.fails.swap(false, Ordering::SeqCst) {
                true => Err(StoreError::Poisoned("it failed once".to_owned())),
                false => self.inner.apply(batch),
            }
        }

        fn is_prompt(&self) -> bool {
            !self.is_slow.load(Ordering::SeqCst)
        }

        fn sync(&self, durability: Durability) -> Result<(), StoreError> {
            // Only once: the next sync finds space.
            match (self.is_full.swap(false, Ordering::SeqCst), self.gives_up) {
                (true, _) => Err(StoreError::Full {
                    doing: "sync".to_owned(),
                }),
                (false, true) => Err(StoreError::Poisoned("it was full".to_owned())),
                (false, false) => self.inner.sync(durability),
            }
        }
    }

    fn batch(changes: usize) -> Batch {
        let mut batch = Batch::new();
        (0..changes).for_each(|n| batch.put(format!("{n}"), "x"));
        batch
    }

    fn committer(durability: Durability) -> (Arc<RecordingStore>, Committer) {
        committer_over(RecordingStore::default(), durability)
    }

    fn committer_over(
        store: RecordingStore,
        durability: Durability,
    ) -> (Arc<RecordingStore>, Committer) {
        let recording = Arc::new(store);
        let write_lock = WriteLock::new(recording.clone(), durability);
        let actor = StoreActor::new(write_lock.clone());
        let store = StoreActor::start_in_arbiter(&Arbiter::new().handle(), |_| actor);
        (recording, Committer { write_lock, store })
    }

    #[actix::test]
    async fn small_batches_are_written_on_the_engines_thread_and_large_ones_by_the_actor() {
        let here = Some(thread::current().id());
        for (durability, changes, is_here) in [
            (Durability::Power, INLINE_COMMIT_MAX, true),
            (Durability::Process, 1, true),
            (Durability::Power, INLINE_COMMIT_MAX + 1, false),
            // The actor has to flush it.
            (Durability::Buffered, 1, false),
        ] {
            let (store, committer) = committer(durability);
            let (sender, receiver) = oneshot::channel();
            let send = move |_: &_| sender.send(thread::current().id()).unwrap();
            let done = committer.commit(batch(changes), send);
            done.await.unwrap().unwrap();
            let wrote = *store.writer.lock();
            assert_eq!(wrote == here, is_here, "{durability:?} {changes}");
            assert_eq!(Some(receiver.await.unwrap()), wrote);
            assert!(store.get(b"0").unwrap().is_some());
        }
    }

    #[actix::test]
    async fn a_commit_does_not_wait_on_the_engines_thread_for_another_write() {
        let (store, committer) = committer(Durability::Power);
        let (let_go, held) = std::sync::mpsc::channel::<()>();
        let inspected = inspect(&committer.store, move |_| held.recv().is_err());
        while !committer.write_lock.failed.is_locked() {
            tokio::task::yield_now().await;
        }
        let done = committer.commit(batch(1), |_| ());
        let mut done = std::pin::pin!(done);
        let first = futures_util::poll!(done.as_mut());
        assert!(first.is_pending() && store.get(b"0").unwrap().is_none());
        drop(let_go);
        inspected.await.unwrap();
        done.await.unwrap().unwrap();
        assert_ne!(*store.writer.lock(), Some(thread::current().id()));
    }

    #[actix::test]
    async fn a_commit_that_finds_the_disk_full_waits_in_the_actor() {
        let (store, committer) = committer(Durability::Power);
        store.is_full.store(true, Ordering::SeqCst);
        committer.commit(batch(1), |_| ()).await.unwrap().unwrap();
        // Written on this thread, and made durable by the actor.
        assert!(store.get(b"0").unwrap().is_some());
        assert_eq!(*store.writer.lock(), Some(thread::current().id()));
    }

    #[actix::test]
    async fn a_store_without_retries_still_reports_a_full_disk() {
        let store = RecordingStore {
            is_full: AtomicBool::new(true),
            gives_up: true,
            ..RecordingStore::default()
        };
        let (_, committer) = committer_over(store, Durability::Power);
        let error = committer
            .commit(batch(1), |_| ())
            .await
            .unwrap()
            .unwrap_err();
        assert!(error.is_full(), "{error}");
    }

    #[actix::test]
    async fn a_store_that_would_have_to_wait_is_written_by_the_actor() {
        let (store, committer) = committer(Durability::Power);
        store.is_slow.store(true, Ordering::SeqCst);
        committer.commit(batch(1), |_| ()).await.unwrap().unwrap();
        assert_ne!(*store.writer.lock(), Some(thread::current().id()));
    }

    #[actix::test]
    async fn the_callback_of_a_commit_gets_its_error_before_the_caller() {
        for changes in [1, INLINE_COMMIT_MAX + 1] {
            let store = RecordingStore {
                is_full: AtomicBool::new(false),
                gives_up: true,
                ..RecordingStore::default()
            };
            let (_, committer) = committer_over(store, Durability::Power);
            let (sender, receiver) = std::sync::mpsc::channel();
            let send = move |done: &Result<(), StoreError>| sender.send(done.is_err()).unwrap();
            committer
                .commit(batch(changes), send)
                .await
                .unwrap()
                .unwrap_err();
            assert_eq!(receiver.try_recv(), Ok(true));
        }
    }

    #[actix::test]
    async fn after_a_failed_write_no_caller_can_write() {
        for changes in [1, INLINE_COMMIT_MAX + 1] {
            let (store, committer) = committer(Durability::Power);
            store.fails.store(true, Ordering::SeqCst);
            // A write that does not come from the engine, like those of the sweeper.
            let failed = commit(&committer.store, batch(INLINE_COMMIT_MAX + 1))
                .await
                .unwrap();
            failed.unwrap_err();
            let done = committer.commit(batch(changes), |_| ());
            let error = done.await.unwrap().unwrap_err();
            assert!(error.to_string().contains("it failed once"), "{error}");
            assert_eq!(store.get(b"0").unwrap(), None);
        }
    }

    #[actix::test]
    async fn a_store_that_panics_is_lost() {
        let (store, committer) = committer(Durability::Power);
        store.panics.store(true, Ordering::SeqCst);
        assert!(committer.commit(batch(1), |_| ()).await.is_none());
        assert!(
            committer
                .commit(batch(INLINE_COMMIT_MAX + 1), |_| ())
                .await
                .is_none()
        );
    }
}
