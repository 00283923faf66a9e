//! The store actor: writes what is committed. What arrives while a commit is on its way to the disk
//! shares the next one. A few records are written where they were decided, if nobody else writes: to
//! wake a thread for them, and that one to wake the first, takes about as long as half an fsync.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use actix::{
    Actor, ActorFutureExt, Addr, AsyncContext, Context, Handler, Message, Running, SpawnHandle,
    WrapFuture,
};
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::oneshot;

use crate::failpoint::{self, Point};
use crate::persistence::{Batch, Durability, Store, StoreError};

/// The most that a crash takes back under [`Durability::Buffered`].
const BUFFERED: Duration = Duration::from_millis(500);

/// How long a commit waits on a full disk, or for want of descriptors or memory, before it is tried again.
const FULL_DISK_RETRY: Duration = Duration::from_millis(100);

/// A batch of so many changes is written where it was decided: what one task alone needs, or a few.
const INLINE_COMMIT_MAX: usize = 16;

/// Whether it is applied, and then whether it is as durable as the app asked for.
type Written = Result<Result<(), StoreError>, StoreError>;

/// What the store is written with, by one at a time.
///
/// Invariant: after a write that failed nothing is written any more, by the engine or beside it: what the store
/// holds of that write is not known, and a store may accept what comes next.
#[derive(Debug)]
pub(crate) struct WriteLock {
    store: Arc<dyn Store>,
    durability: Durability,
    /// Held by the one who writes: why a write has failed.
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

    /// Applies these, and then says whether they are as durable as the app asked for: if they are not
    /// for want of space, to write nothing tries again.
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
            // The batch is gone, so nobody can try again.
            .map_err(StoreError::into_final)?;
        failpoint::reach(Point::Committed);
        let synced = self.store.sync(self.durability);
        failpoint::reach(Point::Synced);
        Ok(synced)
    }

    /// As [`write`](Self::write), on this thread; gives a batch back that is large, or would have to wait
    /// for more than the disk.
    fn write_here(&self, batch: Batch) -> Result<Written, Batch> {
        // What is buffered, somebody has to flush.
        if batch.len() > INLINE_COMMIT_MAX || self.durability == Durability::Buffered {
            return Err(batch);
        }
        #[cfg(feature = "__simulation")]
        if !crate::simulation::writes_at_once() {
            return Err(batch);
        }
        match self.failed.try_lock() {
            Some(mut failed) if self.store.is_prompt() => Ok(self.write([batch], &mut failed)),
            _ => Err(batch),
        }
    }

    /// Makes durable what [`Durability::Buffered`] has left in memory.
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

/// It lives on an arbiter of its own, because it blocks in `fsync`.
pub(crate) struct StoreActor {
    write_lock: Arc<WriteLock>,
    /// Each is applied as it came, so that none grows large; they share one sync.
    pending: Vec<Batch>,
    waiting: Vec<CommitWaiter>,
    /// Why those who wait do so already for a second time.
    full: Option<StoreError>,
    /// The flush of what `Buffered` has left in memory.
    flush: Option<SpawnHandle>,
}

/// Whether a batch is as durable as the app asked for.
pub(crate) type Answer = oneshot::Receiver<Result<(), StoreError>>;

/// What follows a commit at once, on the store's thread, however it has ended.
type OnCommitted = Box<dyn FnOnce(&Result<(), StoreError>) + Send>;

/// Write this, and answer when it is as durable as the app asked for.
#[derive(Message)]
#[rtype(result = "()")]
struct Commit {
    batch: Batch,
    waiting: CommitWaiter,
    /// Why it does so already for a second time.
    full: Option<StoreError>,
}

/// Who waits for a commit.
struct CommitWaiter {
    then: Option<OnCommitted>,
    reply: oneshot::Sender<Result<(), StoreError>>,
}

/// Has the batch written. The answer fails if the store actor is gone. (A request of actix would
/// answer twice: that the message has been heard wakes a thread for nothing.)
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
    // Who commits waits for the answer before the next.
    store.do_send(commit);
    answer
}

/// The engine's way to the store.
#[derive(Debug)]
pub(crate) struct Committer {
    pub(crate) write_lock: Arc<WriteLock>,
    pub(crate) store: Addr<StoreActor>,
}

impl Committer {
    /// Has the batch written, and does this once it is durable, or cannot be, wherever that is: threads that
    /// wait for it are woken without a detour through the one that committed. No answer: the store is lost,
    /// or has panicked.
    pub(crate) async fn commit(
        &self,
        batch: Batch,
        then: impl FnOnce(&Result<(), StoreError>) + Send + 'static,
    ) -> Option<Result<(), StoreError>> {
        let here = AssertUnwindSafe(|| self.write_lock.write_here(batch));
        let (batch, full) = match catch_unwind(here).ok()? {
            Ok(Ok(Ok(()))) => {
                then(&Ok(()));
                return Some(Ok(()));
            }
            // It is applied, and the actor waits for room.
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

/// Call this with the store, while nothing is written to it.
#[derive(Message)]
#[rtype(result = "()")]
struct Inspect(WithStore);

/// Has a look at the store between two commits; they wait. Fails if the store actor is gone.
pub(crate) fn inspect<T: Send + 'static>(
    store: &Addr<StoreActor>,
    look: impl FnOnce(&dyn Store) -> T + Send + 'static,
) -> oneshot::Receiver<T> {
    let (done, seen) = oneshot::channel();
    store.do_send(Inspect(Box::new(move |store| drop(done.send(look(store))))));
    seen
}

/// Everything that lay in the mailbox with the first commit has been heard: write it.
#[derive(Debug, Message)]
#[rtype(result = "()")]
struct Write;

impl StoreActor {
    pub(crate) fn new(pen: Arc<WriteLock>) -> Self {
        Self {
            write_lock: pen,
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
                    // The next commit is told of it.
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
            // It goes behind what is in the mailbox now, all of which shares this write.
            context.notify(Write);
        }
        self.pending.push(batch);
        self.waiting.push(waiting);
    }
}

impl Handler<Inspect> for StoreActor {
    type Result = ();

    fn handle(&mut self, Inspect(look): Inspect, _: &mut Context<Self>) {
        let _nobody_writes = self.write_lock.take();
        look(&*self.write_lock.store);
    }
}

impl Handler<Write> for StoreActor {
    type Result = ();

    fn handle(&mut self, _: Write, context: &mut Context<Self>) {
        let done = match self
            .write_lock
            .write(self.pending.drain(..), &mut self.write_lock.take())
        {
            // All is applied and nobody is told: it waits for room on the disk, as for the disk.
            Ok(Err(full)) if full.is_temporary() => {
                self.full = Some(full);
                context.notify_later(Write, FULL_DISK_RETRY);
                return;
            }
            // It is a store that does not try again.
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
            // Who no longer waits needs no answer.
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

    /// Knows which thread wrote last.
    #[derive(Debug, Default)]
    struct Book {
        inner: MemoryStore,
        writer: Mutex<Option<ThreadId>>,
        /// The next sync finds no room, and whether it stops at that.
        is_full: AtomicBool,
        gives_up: bool,
        /// The next write fails, and none after it.
        fails: AtomicBool,
        panics: AtomicBool,
        is_slow: AtomicBool,
    }

    impl Store for Book {
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
            // Once: whoever asks again finds room.
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

    fn desk(durability: Durability) -> (Arc<Book>, Committer) {
        desk_over(Book::default(), durability)
    }

    fn desk_over(book: Book, durability: Durability) -> (Arc<Book>, Committer) {
        let book = Arc::new(book);
        let pen = WriteLock::new(book.clone(), durability);
        let actor = StoreActor::new(pen.clone());
        let store = StoreActor::start_in_arbiter(&Arbiter::new().handle(), |_| actor);
        (
            book,
            Committer {
                write_lock: pen,
                store,
            },
        )
    }

    #[actix::test]
    async fn few_changes_are_written_here_and_many_elsewhere() {
        let here = Some(thread::current().id());
        for (durability, changes, is_here) in [
            (Durability::Power, INLINE_COMMIT_MAX, true),
            (Durability::Process, 1, true),
            (Durability::Power, INLINE_COMMIT_MAX + 1, false),
            // Somebody has to flush it.
            (Durability::Buffered, 1, false),
        ] {
            let (book, desk) = desk(durability);
            let (told, hears) = oneshot::channel();
            let tell = move |_: &_| told.send(thread::current().id()).unwrap();
            let done = desk.commit(batch(changes), tell);
            done.await.unwrap().unwrap();
            let wrote = *book.writer.lock();
            assert_eq!(wrote == here, is_here, "{durability:?} {changes}");
            assert_eq!(Some(hears.await.unwrap()), wrote);
            assert!(book.get(b"0").unwrap().is_some());
        }
    }

    #[actix::test]
    async fn whoever_finds_the_pen_in_use_does_not_wait_for_it() {
        let (book, desk) = desk(Durability::Power);
        let (let_go, held) = std::sync::mpsc::channel::<()>();
        let look = inspect(&desk.store, move |_| held.recv().is_err());
        while !desk.write_lock.failed.is_locked() {
            tokio::task::yield_now().await;
        }
        let done = desk.commit(batch(1), |_| ());
        let mut done = std::pin::pin!(done);
        let first = futures_util::poll!(done.as_mut());
        assert!(first.is_pending() && book.get(b"0").unwrap().is_none());
        drop(let_go);
        look.await.unwrap();
        done.await.unwrap().unwrap();
        assert_ne!(*book.writer.lock(), Some(thread::current().id()));
    }

    #[actix::test]
    async fn what_finds_the_disk_full_waits_elsewhere() {
        let (book, desk) = desk(Durability::Power);
        book.is_full.store(true, Ordering::SeqCst);
        desk.commit(batch(1), |_| ()).await.unwrap().unwrap();
        // It was written here, and made durable there.
        assert!(book.get(b"0").unwrap().is_some());
        assert_eq!(*book.writer.lock(), Some(thread::current().id()));
    }

    #[actix::test]
    async fn a_store_that_does_not_try_again_is_full_all_the_same() {
        let book = Book {
            is_full: AtomicBool::new(true),
            gives_up: true,
            ..Book::default()
        };
        let (_, desk) = desk_over(book, Durability::Power);
        let error = desk.commit(batch(1), |_| ()).await.unwrap().unwrap_err();
        assert!(error.is_full(), "{error}");
    }

    #[actix::test]
    async fn a_store_that_would_have_to_wait_does_so_elsewhere() {
        let (book, desk) = desk(Durability::Power);
        book.is_slow.store(true, Ordering::SeqCst);
        desk.commit(batch(1), |_| ()).await.unwrap().unwrap();
        assert_ne!(*book.writer.lock(), Some(thread::current().id()));
    }

    #[actix::test]
    async fn what_follows_a_commit_is_told_of_its_error_before_anybody_else() {
        for changes in [1, INLINE_COMMIT_MAX + 1] {
            let book = Book {
                is_full: AtomicBool::new(false),
                gives_up: true,
                ..Book::default()
            };
            let (_, desk) = desk_over(book, Durability::Power);
            let (told, hears) = std::sync::mpsc::channel();
            let tell = move |done: &Result<(), StoreError>| told.send(done.is_err()).unwrap();
            desk.commit(batch(changes), tell)
                .await
                .unwrap()
                .unwrap_err();
            assert_eq!(hears.try_recv(), Ok(true));
        }
    }

    #[actix::test]
    async fn after_a_write_that_failed_nothing_is_written_whoever_asks_for_it() {
        for changes in [1, INLINE_COMMIT_MAX + 1] {
            let (book, desk) = desk(Durability::Power);
            book.fails.store(true, Ordering::SeqCst);
            // As what is swept is deleted: not by the engine.
            let failed = commit(&desk.store, batch(INLINE_COMMIT_MAX + 1))
                .await
                .unwrap();
            failed.unwrap_err();
            let done = desk.commit(batch(changes), |_| ());
            let error = done.await.unwrap().unwrap_err();
            assert!(error.to_string().contains("it failed once"), "{error}");
            assert_eq!(book.get(b"0").unwrap(), None);
        }
    }

    #[actix::test]
    async fn a_store_that_panics_is_lost() {
        let (book, desk) = desk(Durability::Power);
        book.panics.store(true, Ordering::SeqCst);
        assert!(desk.commit(batch(1), |_| ()).await.is_none());
        assert!(
            desk.commit(batch(INLINE_COMMIT_MAX + 1), |_| ())
                .await
                .is_none()
        );
    }
}
