//! The handle of a submitted canvas.

mod changes;
mod completions;
mod progress;
mod results;
mod stage;
mod stamps;
mod wait;

use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::de::DeserializeOwned;

pub use self::changes::{Change, Changes};
pub use self::completions::{Completion, Completions};
pub use self::progress::{Progress, TaskInfo};
pub(crate) use self::wait::Wait;

use crate::backend::durable_view::DurableView;
use crate::backend::retention_guard::RetentionGuard;
use crate::backend::slot_holder::SlotHolder;
use crate::backend::{Backend, revocation};
use crate::canvas::freeze::{Def, Node};
use crate::canvas::id::Id;
use crate::canvas::outcome::Outcome;
use crate::canvas::payload::Payload;
use crate::canvas::revoke_outcome::RevokeOutcome;
use crate::canvas::state::State;
use crate::error::{Error, GetError, IdError, Result};
use crate::persistence::records::reader::{NodeLocation, Reader, Resolution};

/// Decodes an element of a list, the result of `id`.
fn decode_element<T: DeserializeOwned>(id: Id, index: u64, element: &Payload) -> Result<T> {
    element.decode().map_err(|what| {
        let what = format!("element {index}: {what}");
        Error::Get(GetError::Decode { id, what })
    })
}

/// The handle of a submitted task, chain, group or chord (Celery's `AsyncResult`).
///
/// It reads durable records, so its answers survive a restart. Dropping it does not stop the work.
/// While it exists, its workflow is kept even past its retention.
///
/// Its async methods read the disk on threads of the app, not on the caller's executor; in an
/// [eager](crate::App::eager) app, whose store is memory, they read at once.
///
/// ```
/// # use chordal::prelude::*;
/// # use std::time::Duration;
/// # #[task] async fn add(x: i64, y: i64) -> i64 { x + y }
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> chordal::Result<()> {
/// # let app = App::in_memory().tasks(tasks![add]).start().await?;
/// let sum = app.apply_async(add.s(2, 2)).await?;
/// assert_eq!(sum.get_timeout(Duration::from_secs(60)).await?, 4);
/// assert!(sum.successful().await?);
///
/// let again = app.async_result::<i64>(sum.id()).await?;
/// assert_eq!(again.await?, 4); // as `get`
/// # app.shutdown().await }
/// ```
#[must_use = "a handle is how the result is found; `let _ =` says that it is not wanted"]
pub struct AsyncResult<O> {
    backend: Arc<dyn Backend>,
    id: Id,
    /// Where a node below the root is stored; `None` for a root.
    location: Option<Arc<NodeLocation>>,
    guard: RetentionGuard,
    /// The attempt that received this handle: while it waits it needs no slot, and the workflow it
    /// waits for is loaded at once.
    attempt: Option<Arc<dyn SlotHolder>>,
    types: PhantomData<fn() -> O>,
}

/// The handle of a group, or of any other canvas whose value is a list.
pub type GroupResult<T> = AsyncResult<Vec<T>>;

impl<O> AsyncResult<O> {
    pub(crate) fn root(backend: Arc<dyn Backend>, guard: RetentionGuard) -> Self {
        Self {
            id: guard.root(),
            backend,
            location: None,
            guard,
            attempt: None,
            types: PhantomData,
        }
    }

    /// Creates the handle of a workflow that a running task has submitted.
    pub(crate) fn of_task(
        backend: Arc<dyn Backend>,
        guard: RetentionGuard,
        attempt: Option<Arc<dyn SlotHolder>>,
    ) -> Self {
        Self {
            attempt,
            ..Self::root(backend, guard)
        }
    }

    fn below(backend: Arc<dyn Backend>, id: Id, location: NodeLocation) -> Self {
        Self {
            guard: backend.view().pin(id),
            backend,
            id,
            location: Some(Arc::new(location)),
            attempt: None,
            types: PhantomData,
        }
    }

    pub(super) fn view(&self) -> &Arc<DurableView> {
        self.backend.view()
    }

    pub(crate) async fn find(backend: Arc<dyn Backend>, id: Id) -> Result<Self> {
        // Guarded first, so that it is not swept before the handle exists.
        let Some(guard) = backend
            .view()
            .retention_guards
            .pin_unless_leaving(id.root())
        else {
            // The answer must not depend on records that are not durable yet.
            backend.confirm().await?;
            return Err(Error::Id(IdError::Unknown { id }));
        };
        let location = backend.view().read(move |reader| find(reader, id)).await?;
        Ok(if id == id.root() {
            Self::root(backend, guard)
        } else {
            Self::below(backend, id, location)
        })
    }

    /// Returns the id, for [`App::async_result`](crate::App::async_result).
    ///
    /// ```
    /// # use chordal::prelude::*;
    /// # #[task] async fn add(x: i64, y: i64) -> i64 { x + y }
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> chordal::Result<()> {
    /// # let app = App::in_memory().tasks(tasks![add]).start().await?;
    /// let sum = app.apply_async(add.s(2, 2)).await?;
    /// let saved = sum.id().to_string();
    /// assert_eq!(app.async_result::<i64>(saved.parse()?).await?.get().await?, 4);
    /// # app.shutdown().await }
    /// ```
    #[must_use]
    pub fn id(&self) -> Id {
        self.id
    }

    /// Gives the handle another type of value; see
    /// [`App::async_result`](crate::App::async_result).
    ///
    /// ```
    /// # use chordal::prelude::*;
    /// # #[task] async fn add(x: i64, y: i64) -> i64 { x + y }
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> chordal::Result<()> {
    /// # let app = App::in_memory().tasks(tasks![add]).start().await?;
    /// let sum = app.apply_async(Canvas::task("add", (2, 2))).await?.cast::<i64>();
    /// assert_eq!(sum.get().await?, 4);
    /// # app.shutdown().await }
    /// ```
    pub fn cast<T>(self) -> AsyncResult<T> {
        AsyncResult {
            backend: self.backend,
            id: self.id,
            location: self.location,
            guard: self.guard,
            attempt: self.attempt,
            types: PhantomData,
        }
    }

    /// Returns the state.
    ///
    /// ```
    /// # use chordal::prelude::*;
    /// # #[task] async fn add(x: i64, y: i64) -> i64 { x + y }
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> chordal::Result<()> {
    /// # let app = App::in_memory().tasks(tasks![add]).start().await?;
    /// let sum = app.apply_async(add.s(2, 2)).await?;
    /// sum.get().await?;
    /// assert_eq!(sum.state().await?, chordal::State::Success);
    /// # app.shutdown().await }
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Store`], or [`Error::ShutDown`] and [`Error::Halted`] after the end of the app; the
    /// same is true of all methods that read the store.
    pub async fn state(&self) -> Result<State> {
        if self.view().is_quarantined(self.id) {
            return Ok(State::Quarantined);
        }
        self.read(|target, reader| target.state(reader)).await
    }

    /// Returns whether it has ended, with a value or not.
    ///
    /// ```
    /// # use chordal::prelude::*;
    /// # #[task] async fn add(x: i64, y: i64) -> i64 { x + y }
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> chordal::Result<()> {
    /// # let app = App::in_memory().tasks(tasks![add]).start().await?;
    /// let sum = app.apply_async(add.s(2, 2)).await?;
    /// sum.get().await?;
    /// assert!(sum.ready().await?);
    /// # app.shutdown().await }
    /// ```
    ///
    /// # Errors
    ///
    /// As [`state`](Self::state).
    pub async fn ready(&self) -> Result<bool> {
        Ok(self.resolution().await?.is_some())
    }

    /// Returns whether it has ended with a value.
    ///
    /// ```
    /// # use chordal::prelude::*;
    /// # #[task] async fn add(x: i64, y: i64) -> i64 { x + y }
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> chordal::Result<()> {
    /// # let app = App::in_memory().tasks(tasks![add]).start().await?;
    /// let sum = app.apply_async(add.s(2, 2)).await?;
    /// sum.get().await?;
    /// assert!(sum.successful().await?);
    /// # app.shutdown().await }
    /// ```
    ///
    /// # Errors
    ///
    /// As [`state`](Self::state).
    pub async fn successful(&self) -> Result<bool> {
        Ok(matches!(
            self.resolution().await?,
            Some(Resolution::Ended(Outcome::Success(_)))
        ))
    }

    /// Returns whether it has ended with a failure.
    ///
    /// ```
    /// # use chordal::prelude::*;
    /// # #[task] async fn parse(text: String) -> Result<i64, TaskError> { Ok(text.parse()?) }
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> chordal::Result<()> {
    /// # let app = App::in_memory().tasks(tasks![parse]).start().await?;
    /// let number = app.apply_async(parse.s("x".into())).await?;
    /// assert!(number.get().await.is_err());
    /// assert!(number.failed().await?);
    /// # app.shutdown().await }
    /// ```
    ///
    /// # Errors
    ///
    /// As [`state`](Self::state).
    pub async fn failed(&self) -> Result<bool> {
        Ok(matches!(
            self.resolution().await?,
            Some(Resolution::Ended(Outcome::Failure(_)))
        ))
    }

    /// Returns the handles of its children, in order:
    ///
    /// - of a group, its members; of a chain, its steps;
    /// - of a chord, the members of its header, followed by its body if that is a chain, group or
    ///   chord. A body that is a task has the chord's own handle, so the body's children follow
    ///   instead;
    /// - of a fold, its members, and the children of its function;
    /// - of a task, its callbacks and errbacks, whether they run or not; then the canvases that it
    ///   has [called](crate::TaskContext::call), [added](crate::TaskContext::add_to_chord) to its
    ///   chord or been [replaced](crate::TaskContext::replace) by; then the workflows that it has
    ///   [submitted](crate::TaskContext::apply_async) and that are still kept.
    ///
    /// (`list | task.each()` is a chain, so its children are the steps; the elements are the
    /// children of the second step.) An [`each`](crate::Signature::each) has no children before its
    /// upstream list is known. The type is not checked here, as with
    /// [`App::async_result`](crate::App::async_result).
    ///
    /// ```
    /// # use chordal::prelude::*;
    /// # #[task] async fn add(x: i64, y: i64) -> i64 { x + y }
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> chordal::Result<()> {
    /// # let app = App::in_memory().tasks(tasks![add]).start().await?;
    /// let group = app.apply_async(group((0..3).map(|i| add.s(i, i)))).await?;
    /// for (i, child) in group.children::<i64>().await?.iter().enumerate() {
    ///     assert_eq!(child.get().await?, 2 * i as i64);
    /// }
    /// # app.shutdown().await }
    /// ```
    ///
    /// # Errors
    ///
    /// As [`state`](Self::state).
    pub async fn children<T>(&self) -> Result<Vec<AsyncResult<T>>> {
        let (parts, submitted) = self
            .read(|target, reader| {
                let parent = target.find(reader)?;
                let parts = reader.children(target.id, &parent)?;
                let submitted = match parent.task() {
                    Some(task) => reader.submitted_by(target.id.node(task))?,
                    None => Vec::new(),
                };
                Ok((parts, submitted))
            })
            .await?;
        let mut children = self.handles(parts);
        // Guarded first, so that none is swept before its handle exists.
        let guards: Vec<_> = submitted
            .into_iter()
            .filter_map(|root| self.view().retention_guards.pin_unless_leaving(root))
            .collect();
        let kept = self
            .read(|_, reader| {
                let mut kept = Vec::new();
                for guard in guards {
                    if reader.header(guard.root())?.is_some() {
                        kept.push(guard);
                    }
                }
                Ok(kept)
            })
            .await?;
        for guard in kept {
            let attempt = self.attempt.clone();
            children.push(AsyncResult::of_task(self.backend.clone(), guard, attempt));
        }
        Ok(children)
    }

    /// Returns the handle that has this one among its [children](Self::children): the chain, group,
    /// chord or task that it is a part of, the task whose callback it is, or the task that
    /// submitted it. `None` for a workflow that the app submitted, or if that task is no longer
    /// kept.
    ///
    /// (Celery's `result.parent` is the step before, or the header; here these are children of the
    /// same chain or chord.)
    ///
    /// ```
    /// # use chordal::prelude::*;
    /// # #[task] async fn add(x: i64, y: i64) -> i64 { x + y }
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> chordal::Result<()> {
    /// # let app = App::in_memory().tasks(tasks![add]).start().await?;
    /// let sum = app.apply_async(add.s(2, 2) | add.partial(4)).await?;
    /// let steps = sum.children::<i64>().await?;
    /// let parent = steps[0].parent::<i64>().await?.expect("it is a step");
    /// assert_eq!(parent.id(), sum.id());
    /// assert!(sum.parent::<i64>().await?.is_none());
    /// # app.shutdown().await }
    /// ```
    ///
    /// # Errors
    ///
    /// As [`state`](Self::state).
    pub async fn parent<T>(&self) -> Result<Option<AsyncResult<T>>> {
        let parent = self
            .read(|target, reader| {
                let root = target.id.root();
                Ok(match reader.parent(root, &target.find(reader)?)? {
                    Some(parent) => Some(root.node(parent.node.seq)),
                    None => reader.submitter(root)?,
                })
            })
            .await?;
        let Some(parent) = parent else {
            return Ok(None);
        };
        match AsyncResult::find(self.backend.clone(), parent).await {
            Ok(parent) => Ok(Some(AsyncResult {
                attempt: self.attempt.clone(),
                ..parent
            })),
            Err(Error::Id(IdError::Unknown { .. })) => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn handles<T>(&self, locations: Vec<NodeLocation>) -> Vec<AsyncResult<T>> {
        let handle = |location: NodeLocation| {
            let id = self.id.node(location.node.seq);
            AsyncResult {
                attempt: self.attempt.clone(),
                ..AsyncResult::below(self.backend.clone(), id, location)
            }
        };
        locations.into_iter().map(handle).collect()
    }

    /// Returns the handles of the members of the group whose list is its value: of a group, of a
    /// chain that ends in one, of a chord whose body is one. `None` if its value is not the list of
    /// a group.
    ///
    /// ```
    /// # use chordal::prelude::*;
    /// # #[task] async fn range(n: i64) -> Vec<i64> { (0..n).collect() }
    /// # #[task] async fn double(n: i64) -> i64 { 2 * n }
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> chordal::Result<()> {
    /// # let app = App::in_memory().tasks(tasks![range, double]).start().await?;
    /// let doubles = app.apply_async(range.s(3) | double.each()).await?;
    /// doubles.get().await?;
    /// let members = doubles.members::<i64>().await?.expect("it ends in a group");
    /// assert_eq!(members[2].get().await?, 4);
    /// # app.shutdown().await }
    /// ```
    ///
    /// # Errors
    ///
    /// As [`state`](Self::state).
    pub async fn members<T>(&self) -> Result<Option<Vec<AsyncResult<T>>>> {
        let members = self
            .read(|target, reader| {
                let location = target.find(reader)?;
                Ok(reader.members(target.id.root(), &location)?)
            })
            .await?;
        Ok(members.map(|members| self.handles(members)))
    }

    /// Returns when the next attempt of a delayed task is due, by the machine's clock as it is set
    /// now: the end of its [`countdown`](crate::Signature::countdown), or, in state
    /// [`Retry`](crate::State::Retry), the time of its next attempt. `None` if it does not wait for a
    /// time.
    ///
    /// ```
    /// # use chordal::prelude::*;
    /// # use std::time::{Duration, SystemTime};
    /// # #[task] async fn remind(user: u64) {}
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> chordal::Result<()> {
    /// # let app = App::in_memory().tasks(tasks![remind]).start().await?;
    /// let time = SystemTime::UNIX_EPOCH + Duration::from_secs(9_999_999_999);
    /// let later = app.apply_async(remind.s(7).eta(time)).await?;
    /// let due = later.eta().await?; // `None` until it has begun to wait
    /// assert!(due.is_none_or(|due| due == time));
    /// # app.shutdown().await }
    /// ```
    ///
    /// # Errors
    ///
    /// As [`state`](Self::state).
    pub async fn eta(&self) -> Result<Option<SystemTime>> {
        let due = self
            .read(|target, reader| {
                let location = target.find(reader)?;
                let root = target.id.root();
                Ok(match reader.waits_until(root, &location.node)? {
                    None => reader.due_at(root, &location)?,
                    waits => waits,
                })
            })
            .await?;
        let now = self.view().clock.time();
        let shown = |due| UNIX_EPOCH + Duration::from_millis(now.on_the_wall(due));
        Ok(due.map(shown))
    }

    /// Deletes its result and all other records of its workflow, instead of keeping them until its
    /// retention ends (Celery's `forget`): now, or, if the workflow or one of its callbacks still
    /// runs, as soon as all have ended. The request is durable when this returns. Only a whole
    /// workflow can be forgotten, not a part of it.
    ///
    /// From then on its id is unknown, and its idempotency key is free. Other handles of it keep
    /// working; the space is freed when the last of them is dropped.
    ///
    /// ```
    /// # use chordal::prelude::*;
    /// use chordal::{Error, IdError};
    ///
    /// # #[task] async fn add(x: i64, y: i64) -> i64 { x + y }
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> chordal::Result<()> {
    /// # let app = App::in_memory().tasks(tasks![add]).start().await?;
    /// let sum = app.apply_async(add.s(2, 2)).await?;
    /// let id = sum.id();
    /// assert_eq!(sum.get().await?, 4);
    /// sum.forget().await?;
    /// let found = app.async_result::<i64>(id).await;
    /// assert!(matches!(found, Err(Error::Id(IdError::Unknown { .. }))));
    /// # app.shutdown().await }
    /// ```
    ///
    /// # Errors
    ///
    /// [`IdError::NotARoot`] for a part of a workflow; [`Error::Store`], or [`Error::ShutDown`] and
    /// [`Error::Halted`] after the end of the app. To forget it twice is no error.
    pub async fn forget(self) -> Result<()> {
        let Self {
            backend, id, guard, ..
        } = self;
        drop(guard);
        match crate::backend::forget(&*backend, id).await {
            Err(Error::Id(IdError::Unknown { .. })) => Ok(()),
            result => result,
        }
    }

    /// Revokes it with all its parts: no task of it starts any more, waiting tasks (for a slot,
    /// their time or a retry) end at once, and running tasks are cancelled. An async task that
    /// [listens](crate::TaskContext::cancelled) may clean up, any other async task is dropped; the
    /// outcome of a blocking task is ignored. (Celery revokes one id, and forgets that when its
    /// worker stops.)
    ///
    /// The answer is durable when the call returns, and holds across any crash. The revoked canvas
    /// ends [`Revoked`](crate::State::Revoked), without retry, links or errbacks. Everything
    /// outside it that needs its value fails with
    /// [`FailureKind::Revoked`](crate::FailureKind::Revoked), and the errbacks of that run. A part
    /// that has not been reached, such as a later step or a late member, ends when it is reached.
    /// To revoke twice does no harm.
    ///
    /// ```
    /// # use chordal::prelude::*;
    /// # use chordal::{FailureKind, RevokeOutcome, State};
    /// # #[task] async fn endless() { std::future::pending().await }
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> chordal::Result<()> {
    /// # let app = App::in_memory().tasks(tasks![endless]).start().await?;
    /// let all = app.apply_async(group((0..1_000).map(|_| endless.s()))).await?;
    /// assert_ne!(all.revoke().await?, RevokeOutcome::AlreadyDone);
    /// match all.get().await {
    ///     Err(chordal::Error::Failed(failure)) => assert_eq!(failure.kind, FailureKind::Revoked),
    ///     other => panic!("{other:?}"),
    /// }
    /// assert_eq!(all.state().await?, State::Revoked);
    /// # app.shutdown().await }
    /// ```
    ///
    /// # Errors
    ///
    /// [`IdError::Unknown`] if it is forgotten; [`IdError::NotRevocable`] in an eager app if it has
    /// not ended; and as [`state`](Self::state).
    pub async fn revoke(&self) -> Result<RevokeOutcome> {
        revocation::revoke(&*self.backend, self.id).await
    }

    /// Returns how many of its children (the members of a group or header, the steps of a chain)
    /// have ended with a value; failures do not count (celery/result.py, `completed_count`). A task
    /// counts itself.
    ///
    /// ```
    /// # use chordal::prelude::*;
    /// # #[task] async fn parse(text: String) -> Result<i64, TaskError> { Ok(text.parse()?) }
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> chordal::Result<()> {
    /// # let app = App::in_memory().tasks(tasks![parse]).start().await?;
    /// let all = app.apply_async(group(["1", "x"].map(|text| parse.s(text.into())))).await?;
    /// assert!(all.get().await.is_err());
    /// assert_eq!(all.completed_count().await?, 1);
    /// # app.shutdown().await }
    /// ```
    ///
    /// # Errors
    ///
    /// As [`state`](Self::state).
    pub async fn completed_count(&self) -> Result<u64> {
        self.read(|target, reader| {
            let own = match target.node(reader)?.def {
                Def::Group(_) | Def::Chord { .. } | Def::Fold { .. } => false,
                // The last step's outcome is recorded as the chain's outcome.
                Def::Task(_) | Def::Chain(_) => {
                    let resolution = target.resolution(reader)?;
                    matches!(resolution, Some(Resolution::Ended(Outcome::Success(_))))
                }
            };
            Ok(reader.counts_of(target.id)?.0 + u64::from(own))
        })
        .await
    }

    fn target(&self) -> Target {
        Target {
            id: self.id,
            location: self.location.clone(),
        }
    }

    /// Calls the function with the durable state, on a thread of the engine.
    async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Target, &Reader) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let target = self.target();
        self.view().read(move |reader| read(&target, reader)).await
    }

    async fn resolution(&self) -> Result<Option<Resolution>> {
        self.read(|target, reader| target.resolution(reader)).await
    }

    /// Returns the resolution, read on this thread. For waits alone: they read what a commit has
    /// just written, or what led to the handle, so it is in memory.
    fn resolution_now(&self) -> Result<Option<Resolution>> {
        self.target().resolution(&self.reader()?)
    }

    fn node(&self, reader: &Reader) -> Result<Node> {
        self.target().node(reader)
    }

    fn reader(&self) -> Result<Reader> {
        self.view().reader()
    }
}

/// What a handle is about, as threads of the engine look it up.
struct Target {
    id: Id,
    /// Where a node below the root is stored; `None` for a root.
    location: Option<Arc<NodeLocation>>,
}

impl Target {
    fn unknown(&self) -> Error {
        IdError::Unknown { id: self.id }.into()
    }

    fn find(&self, reader: &Reader) -> Result<NodeLocation> {
        find(reader, self.id)
    }

    fn state(&self, reader: &Reader) -> Result<State> {
        let root = self.id.root();
        if let Some(location) = &self.location {
            return Ok(reader.state(root, location)?);
        }
        Ok(match reader.ended(root)? {
            Some(ended) => match ended.outcome {
                Outcome::Success(_) => State::Success,
                Outcome::Failure(_) => State::Failure,
                Outcome::Revoked(_) => State::Revoked,
            },
            None => reader.state(root, &self.find(reader)?)?,
        })
    }

    fn node(&self, reader: &Reader) -> Result<Node> {
        match &self.location {
            Some(location) => Ok(location.node.clone()),
            None => reader.root(self.id)?.ok_or_else(|| self.unknown()),
        }
    }

    fn resolution(&self, reader: &Reader) -> Result<Option<Resolution>> {
        let resolution = match &self.location {
            Some(location) => reader.resolution(self.id.root(), location)?,
            None => {
                let ended = reader.ended(self.id)?;
                ended.map(|ended| Resolution::Ended(ended.outcome))
            }
        };
        if resolution.is_none() {
            self.check_there(reader)?;
        }
        Ok(resolution)
    }

    /// Fails if its workflow is gone. A handle keeps its workflow, so that would be a fault, but no
    /// caller may wait for ever.
    fn check_there(&self, reader: &Reader) -> Result<()> {
        match reader.exists(self.id.root())? {
            true => Ok(()),
            false => Err(self.unknown()),
        }
    }
}

fn find(reader: &Reader, id: Id) -> Result<NodeLocation> {
    let location = reader.find(id)?;
    location.ok_or_else(|| IdError::Unknown { id }.into())
}

impl<O> Clone for AsyncResult<O> {
    fn clone(&self) -> Self {
        Self {
            backend: self.backend.clone(),
            id: self.id,
            location: self.location.clone(),
            guard: self.guard.clone(),
            attempt: self.attempt.clone(),
            types: PhantomData,
        }
    }
}

impl<O> fmt::Debug for AsyncResult<O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AsyncResult")
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}
