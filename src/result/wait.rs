//! Waiting for the end of a canvas, and for its value.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use serde::de::DeserializeOwned;

use super::AsyncResult;
use crate::backend::Watch;
use crate::backend::slot_holder::{self, SlotHolder};
use crate::canvas::id::Id;
use crate::canvas::outcome::Outcome;
use crate::canvas::payload::Payload;
use crate::error::{ContextError, Error, GetError, Result};
use crate::persistence::records::reader::Resolution;

/// The bound of a wait.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Wait {
    Open,
    /// Until a timeout.
    Bounded,
}

const ITSELF: &str = "it ends only after the task has";
const HOLDS_THREAD: &str = "the task would hold its thread until then, which others may need; let an \
    async task wait, with `ctx.call(…)` or `get().await`, or end with `ctx.replace(…)`";

impl<O> AsyncResult<O> {
    /// Waits until its whole workflow is at rest: the workflow has ended, and so have all
    /// callbacks, errbacks and their callbacks.
    ///
    /// ```
    /// # use chordal::prelude::*;
    /// # #[task] async fn add(x: i64, y: i64) -> i64 { x + y }
    /// # #[task] async fn log(sum: i64) {}
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> chordal::Result<()> {
    /// # let app = App::in_memory().tasks(tasks![add, log]).start().await?;
    /// let sum = app.apply_async(add.s(2, 2).link(log.partial())).await?;
    /// sum.at_rest().await?;
    /// assert!(sum.children::<()>().await?[0].successful().await?);
    /// # app.shutdown().await }
    /// ```
    ///
    /// # Errors
    ///
    /// As [`state`](Self::state).
    pub async fn at_rest(&self) -> Result<()> {
        let root = self.id.root();
        if let Some(attempt) = self.attempt()
            && attempt.id().root() == root
        {
            return Err(self.no_wait(ITSELF));
        }
        let watch = self.watch(vec![root.workflow_stream()])?;
        let check = || {
            let reader = self.view().reader()?;
            match reader.is_complete(root)? {
                true => Ok(Some(())),
                false => self.target().check_there(&reader).map(|()| None),
            }
        };
        self.until(&watch, check, Wait::Open).await?;
        // The removal from the live workflows is visible before it is durable.
        self.backend.confirm().await
    }

    /// Returns the streams that may record its outcome.
    pub(super) fn decided_in(&self) -> Vec<Id> {
        let root = self.id.root();
        match &self.location {
            Some(location) => location.decided_in(root),
            // Not the root's own stream, which records its members.
            None => vec![root.workflow_stream()],
        }
    }

    /// Prepares to wait for records in these streams; asks the engine to load a waiting workflow if
    /// a task waits.
    pub(super) fn watch(&self, ids: Vec<Id>) -> Result<Watch> {
        let root = self.id.root();
        if self.attempt().is_some() && self.reader()?.waiting(root)?.is_some() {
            self.backend.load_early(root);
        }
        Ok(self.view().watch(ids))
    }

    pub(crate) async fn wait(&self, wait: Wait) -> Result<Outcome> {
        let watch = self.watch(self.decided_in())?;
        match self.until(&watch, || self.resolution_now(), wait).await? {
            Resolution::Ended(outcome) => Ok(outcome),
            Resolution::Never => Err(Error::Get(GetError::NeverRuns { id: self.id })),
        }
    }

    /// Returns the waiting attempt, if the caller is one.
    fn attempt(&self) -> Option<Arc<dyn SlotHolder>> {
        slot_holder::current(self.view()).or_else(|| self.attempt.clone())
    }

    /// Waits until `check` returns a value. An attempt of an async task gives its slot back
    /// meanwhile; a wait that could never end is an error.
    pub(super) async fn until<T: Send>(
        &self,
        watch: &Watch,
        check: impl Fn() -> Result<Option<T>> + Send,
        wait: Wait,
    ) -> Result<T> {
        let Some(attempt) = self.attempt() else {
            return watch.until(check).await;
        };
        if let Some(seen) = check()? {
            return Ok(seen);
        }
        if self.holds(attempt.id())? {
            return Err(self.no_wait(ITSELF));
        }
        match (attempt.is_blocking(), wait) {
            // The wait is bounded, or another thread than the body's waits.
            (true, Wait::Bounded) => watch.until(check).await,
            (true, Wait::Open) if slot_holder::current(self.view()).is_none() => {
                watch.until(check).await
            }
            (true, Wait::Open) => Err(self.no_wait(HOLDS_THREAD)),
            (false, _) => {
                let mut seen = None;
                let wait = async { seen = Some(watch.until(check).await) };
                attempt.without_slot(Box::pin(wait)).await;
                seen.expect("without_slot() awaits the wait")
            }
        }
    }

    /// Returns whether this is the task with this id or contains it, so that it cannot end before
    /// the task.
    fn holds(&self, task: Id) -> Result<bool> {
        if task.root() != self.id.root() {
            return Ok(false);
        }
        let location = self.reader()?.find(task)?;
        Ok(location.is_some_and(|location| location.is_part_of(self.id.seq())))
    }

    fn no_wait(&self, why: &'static str) -> Error {
        Error::Context(ContextError::WaitInTask { id: self.id, why })
    }
}

impl<O: DeserializeOwned> AsyncResult<O> {
    /// Waits for the value.
    ///
    /// An async task that waits gives its slot back meanwhile, as with
    /// [`TaskContext::call`](crate::TaskContext::call), and the workflow it waits for is loaded at
    /// once. But an attempt that runs again submits again and waits for the new workflow, where
    /// `call` joins the earlier one. (This concerns waits in the task's own body, and handles from
    /// [`TaskContext::apply_async`](crate::TaskContext::apply_async); not other handles in futures
    /// that the body has spawned.) A blocking task cannot wait like this, and no task can wait for
    /// itself or for a canvas that contains it: both are errors, unless the value is available.
    /// Celery refuses each `get` in a task (celery/result.py, `assert_will_not_block`).
    ///
    /// ```
    /// # use chordal::prelude::*;
    /// # #[task] async fn parse(text: String) -> Result<i64, TaskError> { Ok(text.parse()?) }
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> chordal::Result<()> {
    /// # let app = App::in_memory().tasks(tasks![parse]).start().await?;
    /// assert_eq!(app.apply_async(parse.s("4".into())).await?.get().await?, 4);
    /// match app.apply_async(parse.s("x".into())).await?.get().await {
    ///     Err(chordal::Error::Failed(failure)) => assert_eq!(failure.error_type, "ParseIntError"),
    ///     other => panic!("{other:?}"),
    /// }
    /// # app.shutdown().await }
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Failed`] with the task's failure. A group fails with the failure of its lowest
    /// failed member. A chord whose header has failed has a failure of its own, of the type
    /// `ChordError` and the kind [`FailureKind::Chord`](crate::FailureKind::Chord): it names the
    /// failed member, whose failure is its `cause`. [`GetError::NeverRuns`] for a callback that
    /// will never run because of its task's outcome, [`GetError::Decode`] if the value is not an
    /// `O`, [`ContextError::WaitInTask`] in a task, as above, and as [`state`](Self::state).
    pub async fn get(&self) -> Result<O> {
        self.value(Wait::Open).await
    }

    async fn value(&self, wait: Wait) -> Result<O> {
        match self.wait(wait).await? {
            Outcome::Success(value) => {
                let payload = self.view().load(self.id.root(), value).await?;
                self.decode(&payload)
            }
            Outcome::Failure(failure) | Outcome::Revoked(failure) => Err(Error::Failed(failure)),
        }
    }

    /// Waits for the value, at most for `timeout`. The work continues in any case. In an
    /// [eager](crate::App::eager) app it does not wait at all. A blocking task may wait like this:
    /// it keeps its thread and its slot meanwhile.
    ///
    /// ```
    /// # use chordal::prelude::*;
    /// # use std::time::Duration;
    /// # #[task] async fn endless() { std::future::pending().await }
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> chordal::Result<()> {
    /// # let app = App::in_memory().tasks(tasks![endless]).start().await?;
    /// let handle = app.apply_async(endless.s()).await?;
    /// let error = handle.get_timeout(Duration::from_millis(5)).await.unwrap_err();
    /// assert!(matches!(error, chordal::Error::Get(chordal::GetError::Timeout { .. })));
    /// # drop(app); Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// [`GetError::Timeout`], and as [`get`](Self::get).
    pub async fn get_timeout(&self, timeout: Duration) -> Result<O> {
        let Some(runtime) = &self.view().runtime else {
            // There are no timers. Unfinished work runs below this call or in another future.
            return match self.ready().await? {
                true => self.get().await,
                false => Err(Error::Get(GetError::Timeout {
                    id: self.id,
                    waited: Duration::ZERO,
                })),
            };
        };
        let clock = self.view().clock.clone();
        // Measured from here, not from the timer's first poll.
        let until = clock.after(timeout);
        // On the app's runtime, because the caller's executor may have no timers.
        let timer = runtime.spawn(async move { clock.wait_until(until).await });
        let stop_timer = timer.abort_handle();
        let result = tokio::select! {
            biased;
            result = self.value(Wait::Bounded) => result,
            fired = timer => Err(match fired {
                Ok(()) => Error::Get(GetError::Timeout { id: self.id, waited: timeout }),
                Err(_) => self.view().stop_reason(),
            }),
        };
        stop_timer.abort();
        result
    }

    /// Blocks this thread until the value is available, for callers that are not async.
    ///
    /// ```
    /// # use chordal::prelude::*;
    /// # #[task] async fn add(x: i64, y: i64) -> i64 { x + y }
    /// # #[tokio::main] async fn main() -> chordal::Result<()> {
    /// # let app = App::in_memory().tasks(tasks![add]).start().await?;
    /// let sum = app.apply_async(add.s(2, 2)).await?;
    /// let thread = std::thread::spawn(move || sum.get_blocking());
    /// assert_eq!(thread.join().unwrap()?, 4);
    /// # app.shutdown().await }
    /// ```
    ///
    /// # Errors
    ///
    /// As [`get`](Self::get); [`ContextError::WaitInTask`] in every task, async or not, unless the
    /// value is available.
    pub fn get_blocking(&self) -> Result<O> {
        if slot_holder::current(self.view()).is_some() && self.resolution_now()?.is_none() {
            return Err(self.no_wait(HOLDS_THREAD));
        }
        pollster::block_on(self.get())
    }

    fn decode(&self, payload: &Payload) -> Result<O> {
        let decoded = payload.decode();
        decoded.map_err(|what| Error::Get(GetError::Decode { id: self.id, what }))
    }
}

/// The future of [`AsyncResult::get`], as `handle.await` makes it.
type Get<'a, O> = Pin<Box<dyn Future<Output = Result<O>> + Send + 'a>>;

/// Waits for the value, as [`get`](AsyncResult::get) does; the handle is gone afterwards.
///
/// ```
/// # use chordal::prelude::*;
/// # #[task] async fn add(x: i64, y: i64) -> i64 { x + y }
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> chordal::Result<()> {
/// # let app = App::in_memory().tasks(tasks![add]).start().await?;
/// assert_eq!(app.apply_async(add.s(2, 2)).await?.await?, 4);
///
/// let sums = app.apply_async(group([add.s(1, 1), add.s(2, 2)])).await?;
/// assert_eq!((&sums).await?, [2, 4]); // the handle remains
/// assert_eq!(sums.await?, [2, 4]);
/// # app.shutdown().await }
/// ```
impl<O: DeserializeOwned + 'static> IntoFuture for AsyncResult<O> {
    type Output = Result<O>;
    type IntoFuture = Get<'static, O>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move { self.get().await })
    }
}

/// Waits for the value, as [`get`](AsyncResult::get) does.
impl<'a, O: DeserializeOwned + 'a> IntoFuture for &'a AsyncResult<O> {
    type Output = Result<O>;
    type IntoFuture = Get<'a, O>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.get())
    }
}
