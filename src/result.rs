//! What a caller keeps: the handle of a submitted canvas.

use std::collections::VecDeque;
use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::de::DeserializeOwned;

use crate::actors::attempt::Attempt;
use crate::actors::body;
use crate::actors::client;
use crate::actors::retention_guard::RetentionGuard;
use crate::actors::shared::{Backend, Shared, Watch};
use crate::canvas::freeze::{Def, Node};
use crate::canvas::id::Id;
use crate::canvas::machine::{ChildProgress, Record};
use crate::canvas::outcome::Outcome;
use crate::canvas::payload::Payload;
use crate::canvas::revoke_outcome::RevokeOutcome;
use crate::canvas::state::State;
use crate::error::{Error, Result};
use crate::messages::engine::Wanted;
use crate::persistence::codec;
use crate::persistence::keys;
use crate::persistence::reader::{NodeLocation, Reader, Resolution};

/// The handle of a submitted task, chain, group or chord (Celery's `AsyncResult`).
///
/// It reads what is durable, so what it says survives a restart. Dropping it does not stop the
/// work. While it lives, its workflow is kept even past its retention.
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
/// assert_eq!(again.get().await?, 4);
/// # app.shutdown().await }
/// ```
#[must_use = "a handle is how the result is found; `let _ =` says that it is not wanted"]
pub struct AsyncResult<O> {
    shared: Arc<Shared>,
    id: Id,
    /// Where a node below the root is to be found; `None` for a root.
    found: Option<Arc<NodeLocation>>,
    pin: RetentionGuard,
    /// The attempt that it was given to: while it waits it needs no slot, and what it waits for need not
    /// wait for its turn.
    attempt: Option<Arc<Attempt>>,
    types: PhantomData<fn() -> O>,
}

/// The handle of a group: of anything that gives a list.
pub type GroupResult<T> = AsyncResult<Vec<T>>;

impl<O> AsyncResult<O> {
    pub(crate) fn root(shared: Arc<Shared>, pin: RetentionGuard) -> Self {
        Self {
            id: pin.root(),
            shared,
            found: None,
            pin,
            attempt: None,
            types: PhantomData,
        }
    }

    /// The handle of what a running task has submitted.
    pub(crate) fn of_task(
        shared: Arc<Shared>,
        pin: RetentionGuard,
        attempt: Option<Arc<Attempt>>,
    ) -> Self {
        Self {
            attempt,
            ..Self::root(shared, pin)
        }
    }

    fn below(shared: Arc<Shared>, id: Id, found: NodeLocation) -> Self {
        Self {
            pin: shared.pin(id),
            shared,
            id,
            found: Some(Arc::new(found)),
            attempt: None,
            types: PhantomData,
        }
    }

    pub(crate) async fn find(shared: Arc<Shared>, id: Id) -> Result<Self> {
        // Pinned first, so that it is not swept between the look and the handle.
        let Some(pin) = shared.pins.pin_unless_leaving(id.root()) else {
            // What is told must be durable.
            client::confirm(&shared).await?;
            return Err(Error::UnknownId { id });
        };
        let found = shared.reader()?.find(id)?.ok_or(Error::UnknownId { id })?;
        Ok(if id == id.root() {
            Self::root(shared, pin)
        } else {
            Self::below(shared, id, found)
        })
    }

    /// Returns the id by which [`App::async_result`](crate::App::async_result) finds it again.
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
            shared: self.shared,
            id: self.id,
            found: self.found,
            pin: self.pin,
            attempt: self.attempt,
            types: PhantomData,
        }
    }

    /// Returns how far it has got.
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
    /// [`Error::Store`], or [`Error::ShutDown`] and [`Error::Halted`] after the end of the app;
    /// so for all that ask the store.
    pub async fn state(&self) -> Result<State> {
        if self.shared.is_quarantined(self.id) {
            return Ok(State::Quarantined);
        }
        let reader = self.reader()?;
        Ok(match &self.found {
            Some(found) => reader.state(self.id.root(), found)?,
            None => match reader.ended(self.id)? {
                Some(ended) => match ended.outcome {
                    Outcome::Success(_) => State::Success,
                    Outcome::Failure(_) => State::Failure,
                    Outcome::Revoked(_) => State::Revoked,
                },
                None => {
                    let found = reader.find(self.id)?;
                    let found = found.ok_or(Error::UnknownId { id: self.id })?;
                    reader.state(self.id, &found)?
                }
            },
        })
    }

    /// Says whether it has ended, well or not.
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
        Ok(self.fate()?.is_some())
    }

    /// Says whether it has ended with a value.
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
            self.fate()?,
            Some(Resolution::Ended(Outcome::Success(_)))
        ))
    }

    /// Says whether it has ended with a failure.
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
            self.fate()?,
            Some(Resolution::Ended(Outcome::Failure(_)))
        ))
    }

    /// Returns the handles of its children, in order:
    ///
    /// - of a group its members, of a chain its steps;
    /// - of a chord the members of its header, and behind them its body, if that is a chain, group or
    ///   chord. A body that is a task has the chord's own handle: what that has started comes instead;
    /// - of a fold its members, and what its function has started;
    /// - of a task its callbacks and errbacks, whether they run or not; then what it has
    ///   [called](crate::TaskContext::call), [added](crate::TaskContext::add_to_chord) to its chord or
    ///   been [replaced](crate::TaskContext::replace) by; then the workflows that it has
    ///   [submitted](crate::TaskContext::apply_async) and that are still kept.
    ///
    /// (Of `list | task.each()`, a chain, the steps; the elements are the children of its second one.)
    /// The list upstream of an [`each`](crate::Signature::each) must be known, before that it has none.
    /// The type is the caller's word, as with [`App::async_result`](crate::App::async_result).
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
        let reader = self.reader()?;
        let Some(parent) = reader.find(self.id)? else {
            return Err(Error::UnknownId { id: self.id });
        };
        let mut children = self.handles(reader.children(self.id, &parent)?);
        if let Some(task) = parent.task() {
            for root in reader.submitted_by(self.id.node(task))? {
                // Pinned first, so that it is not swept between the look and the handle.
                if let Some(pin) = self.shared.pins.pin_unless_leaving(root)
                    && reader.header(root)?.is_some()
                {
                    let attempt = self.attempt.clone();
                    children.push(AsyncResult::of_task(self.shared.clone(), pin, attempt));
                }
            }
        }
        Ok(children)
    }

    /// Returns the handle that has this one among its [children](Self::children): of the chain, group,
    /// chord or task that it is a part of, the task whose callback it is, the task that has
    /// submitted it. `None` of what the app has submitted, and if that task is no longer kept.
    ///
    /// (Celery's `result.parent` is the step before, or the header: here these are children of one
    /// chain, or chord.)
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
        let reader = self.reader()?;
        let root = self.id.root();
        let found = reader.find(self.id)?;
        let found = found.ok_or(Error::UnknownId { id: self.id })?;
        let parent = match reader.parent(root, &found)? {
            Some(parent) => Some(root.node(parent.node.seq)),
            None => reader.submitter(root)?,
        };
        let Some(parent) = parent else {
            return Ok(None);
        };
        match AsyncResult::find(self.shared.clone(), parent).await {
            Ok(parent) => Ok(Some(AsyncResult {
                attempt: self.attempt.clone(),
                ..parent
            })),
            Err(Error::UnknownId { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn handles<T>(&self, found: Vec<NodeLocation>) -> Vec<AsyncResult<T>> {
        let handle = |found: NodeLocation| {
            let id = self.id.node(found.node.seq);
            AsyncResult {
                attempt: self.attempt.clone(),
                ..AsyncResult::below(self.shared.clone(), id, found)
            }
        };
        found.into_iter().map(handle).collect()
    }

    /// Returns the handles of the members of the group whose list is its value: of a group, of a
    /// chain that ends in one, of a chord whose body is one. `None` if its value is no group's.
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
        let reader = self.reader()?;
        let Some(found) = reader.find(self.id)? else {
            return Err(Error::UnknownId { id: self.id });
        };
        let members = reader.members(self.id.root(), &found)?;
        Ok(members.map(|members| self.handles(members)))
    }

    /// Returns when the next attempt of a task is due that waits for its time, as the machine's clock is
    /// set now: the end of its [`countdown`](crate::Signature::countdown), or, in state
    /// [`Retry`](crate::State::Retry), the time of its next attempt.
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
        let reader = self.reader()?;
        let Some(found) = reader.find(self.id)? else {
            return Err(Error::UnknownId { id: self.id });
        };
        let root = self.id.root();
        let due = match reader.waits_until(root, &found.node)? {
            None => reader.due_at(root, &found)?,
            waits => waits,
        };
        let now = self.shared.clock.time();
        let shown = |due| UNIX_EPOCH + Duration::from_millis(now.on_the_wall(due));
        Ok(due.map(shown))
    }

    /// Deletes its result, and all else that is kept of its workflow, instead of keeping it until its
    /// retention ends (Celery's `forget`): now, or, if the workflow has not come to rest, as soon as
    /// it has. That is durable when this returns. To be called on what was submitted, not on a part
    /// of it.
    ///
    /// From then on its id is unknown, and its idempotency key is free. Other handles of it that
    /// live go on; the space comes back when the last of them is dropped.
    ///
    /// ```
    /// # use chordal::prelude::*;
    /// # #[task] async fn add(x: i64, y: i64) -> i64 { x + y }
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> chordal::Result<()> {
    /// # let app = App::in_memory().tasks(tasks![add]).start().await?;
    /// let sum = app.apply_async(add.s(2, 2)).await?;
    /// let id = sum.id();
    /// assert_eq!(sum.get().await?, 4);
    /// sum.forget().await?;
    /// assert!(matches!(app.async_result::<i64>(id).await, Err(chordal::Error::UnknownId { .. })));
    /// # app.shutdown().await }
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::NotARoot`] for a part of a workflow; [`Error::Store`], or [`Error::ShutDown`] and
    /// [`Error::Halted`] after the end of the app. That it is forgotten already is none.
    pub async fn forget(self) -> Result<()> {
        let Self {
            shared, id, pin, ..
        } = self;
        drop(pin);
        match client::forget(&shared, id).await {
            Err(Error::UnknownId { .. }) => Ok(()),
            done => done,
        }
    }

    /// Revokes it, whole: nothing of it that has not started starts any more, what waits (for a slot,
    /// its time, its retry) ends at once, and what runs is told: an async task that
    /// [listens](crate::TaskContext::cancelled) may clean up, others are ended; of a blocking one the
    /// end no longer counts. (Celery revokes one id, and forgets that when its worker stops.)
    ///
    /// The answer is durable when it is given, and stays true over any crash. What is revoked ends
    /// [`Revoked`](crate::State::Revoked), without retry, links or errbacks; what needs its value, and
    /// is no part of it, fails with [`FailureKind::Revoked`](crate::FailureKind::Revoked), and its
    /// errbacks run. A part that has not been reached, a later step or a member far behind, ends when
    /// its turn comes. To revoke twice does no harm.
    ///
    /// ```
    /// # use chordal::prelude::*;
    /// # use chordal::{FailureKind, Revoked, State};
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
    /// [`Error::UnknownId`] if it is forgotten; [`Error::NotRevocable`] in an eager app, of what has
    /// not ended; and as [`state`](Self::state).
    pub async fn revoke(&self) -> Result<RevokeOutcome> {
        client::revoke(&self.shared, self.id).await
    }

    /// Waits until its whole workflow has come to rest: it has ended, and so have all callbacks,
    /// errbacks and theirs.
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
        let look = || {
            let reader = self.shared.reader()?;
            match reader.is_complete(root)? {
                true => Ok(Some(())),
                false => self.check_there(&reader).map(|()| None),
            }
        };
        self.until(&watch, look, Wait::Open).await?;
        // That it is no longer among what is live can be seen before it is durable.
        client::confirm(&self.shared).await
    }

    /// Returns how many of its children (a group's or a header's members, a chain's steps) have
    /// ended with a value; failures do not count (celery/result.py, `completed_count`). A task
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
        let reader = self.reader()?;
        let own = match self.node(&reader)?.def {
            Def::Group(_) | Def::Chord { .. } | Def::Fold { .. } => 0,
            // The last step's outcome is the chain's, and recorded with it.
            Def::Task(_) | Def::Chain(_) => u64::from(self.successful().await?),
        };
        Ok(reader.counts_of(self.id)?.0 + own)
    }

    fn node(&self, reader: &Reader) -> Result<Node> {
        match &self.found {
            Some(found) => Ok(found.node.clone()),
            None => reader
                .root(self.id)?
                .ok_or(Error::UnknownId { id: self.id }),
        }
    }

    fn reader(&self) -> Result<Reader> {
        self.shared.reader()
    }

    fn fate(&self) -> Result<Option<Resolution>> {
        let reader = self.reader()?;
        let fate = match &self.found {
            Some(found) => reader.resolution(self.id.root(), found)?,
            None => {
                let ended = reader.ended(self.id)?;
                ended.map(|ended| Resolution::Ended(ended.outcome))
            }
        };
        if fate.is_none() {
            self.check_there(&reader)?;
        }
        Ok(fate)
    }

    /// Fails if its workflow is gone. A handle pins its workflow, so that is a fault; but no caller may wait
    /// for ever.
    fn check_there(&self, reader: &Reader) -> Result<()> {
        match reader.exists(self.id.root())? {
            true => Ok(()),
            false => Err(Error::UnknownId { id: self.id }),
        }
    }

    /// Where its outcome is recorded.
    fn decided_in(&self) -> Vec<Id> {
        let root = self.id.root();
        match &self.found {
            Some(found) => found.decided_in(root),
            // Not the root's own stream, in which its members are.
            None => vec![root.workflow_stream()],
        }
    }

    /// Is going to wait for what these say.
    fn watch(&self, ids: Vec<Id>) -> Result<Watch> {
        let root = self.id.root();
        if self.attempt().is_some()
            && let Backend::Engine(plant) = &self.shared.backend
            && self.reader()?.waiting(root)?.is_some()
        {
            plant.client().engine.do_send(Wanted(root));
        }
        Ok(self.shared.watch(ids))
    }

    pub(crate) async fn wait(&self, wait: Wait) -> Result<Outcome> {
        let watch = self.watch(self.decided_in())?;
        match self.until(&watch, || self.fate(), wait).await? {
            Resolution::Ended(outcome) => Ok(outcome),
            Resolution::Never => Err(Error::Revoked { id: self.id }),
        }
    }

    /// The attempt that waits, if one does.
    fn attempt(&self) -> Option<Arc<Attempt>> {
        body::current(&self.shared).or_else(|| self.attempt.clone())
    }

    /// Waits until there is something to see. An attempt of an async task gives its slot back for as long;
    /// what could never end is an error.
    async fn until<T>(
        &self,
        watch: &Watch,
        look: impl Fn() -> Result<Option<T>>,
        wait: Wait,
    ) -> Result<T> {
        let Some(attempt) = self.attempt() else {
            return watch.until(look).await;
        };
        if let Some(seen) = look()? {
            return Ok(seen);
        }
        if self.holds(attempt.id())? {
            return Err(self.no_wait(ITSELF));
        }
        match (attempt.is_blocking(), wait) {
            // It ends, and another thread may wait for it than the body's.
            (true, Wait::Bounded) => watch.until(look).await,
            (true, Wait::Open) if body::current(&self.shared).is_none() => watch.until(look).await,
            (true, Wait::Open) => Err(self.no_wait(HOLDS_THREAD)),
            (false, _) => attempt.without_slot(watch.until(look)).await,
        }
    }

    /// Says whether this is, or holds as a part, the task with this id: it ends no sooner.
    fn holds(&self, task: Id) -> Result<bool> {
        if task.root() != self.id.root() {
            return Ok(false);
        }
        let found = self.reader()?.find(task)?;
        Ok(found.is_some_and(|found| found.is_part_of(self.id.seq())))
    }

    fn no_wait(&self, why: &'static str) -> Error {
        Error::WaitInTask { id: self.id, why }
    }
}

/// How long to wait.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Wait {
    Open,
    /// Until a timeout.
    Bounded,
}

const ITSELF: &str = "it ends only after the task has";
const HOLDS_THREAD: &str = "the task would hold its thread until then, which others may need; let an \
    async task wait, with `ctx.call(…)` or `get().await`, or end with `ctx.replace(…)`";

impl<O: DeserializeOwned> AsyncResult<O> {
    /// Waits for the value.
    ///
    /// An async task that waits so gives its slot back meanwhile, as with
    /// [`TaskContext::call`](crate::TaskContext::call), and what it waits for comes in at once; but an
    /// attempt that is run again waits for what it submits again, where `call` joins what it had called.
    /// (That goes for waits in the task's own body, and for handles that
    /// [`TaskContext::apply_async`](crate::TaskContext::apply_async) has given; not for other handles in
    /// what the body has spawned.) A blocking task cannot wait so, nor any task for itself or for what it is
    /// a part of: both are errors, unless the value is there. Celery refuses each `get` in a task
    /// (celery/result.py, `assert_will_not_block`).
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
    /// [`Error::Failed`] with the task's failure. A group's is that of its lowest failed member. A
    /// chord of which a member of the header has failed has one of its own, of the type `ChordError`
    /// and the kind [`FailureKind::Chord`](crate::FailureKind::Chord): it names the member, whose
    /// failure is its `cause`. [`Error::Revoked`] for a callback whose task has ended such
    /// that it will never run, [`Error::Decode`] if the value is not an `O`, [`Error::WaitInTask`] in a
    /// task, as above, and as [`state`](Self::state).
    pub async fn get(&self) -> Result<O> {
        self.value(Wait::Open).await
    }

    async fn value(&self, wait: Wait) -> Result<O> {
        match self.wait(wait).await? {
            Outcome::Success(value) => {
                let payload = self.shared.load(self.id.root(), value).await?;
                self.decode(&payload)
            }
            Outcome::Failure(failure) | Outcome::Revoked(failure) => Err(Error::Failed(failure)),
        }
    }

    /// Waits for the value, at most for `timeout`. The work goes on all the same. In an
    /// [eager](crate::App::eager) app it does not wait at all. A blocking task may wait so: it keeps its
    /// thread and its slot until then.
    ///
    /// ```
    /// # use chordal::prelude::*;
    /// # use std::time::Duration;
    /// # #[task] async fn endless() { std::future::pending().await }
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> chordal::Result<()> {
    /// # let app = App::in_memory().tasks(tasks![endless]).start().await?;
    /// let handle = app.apply_async(endless.s()).await?;
    /// let error = handle.get_timeout(Duration::from_millis(5)).await.unwrap_err();
    /// assert!(matches!(error, chordal::Error::Timeout { .. }));
    /// # drop(app); Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Timeout`], and as [`get`](Self::get).
    pub async fn get_timeout(&self, timeout: Duration) -> Result<O> {
        let plant = match &self.shared.backend {
            Backend::Engine(plant) => plant,
            // There are no timers. What has not ended runs below this call, or in other hands.
            Backend::Eager(_) => {
                return match self.ready().await? {
                    true => self.get().await,
                    false => Err(Error::Timeout {
                        id: self.id,
                        waited: Duration::ZERO,
                    }),
                };
            }
        };
        let clock = self.shared.clock.clone();
        // From now on, not from when the timer is first looked at.
        let until = clock.after(timeout);
        // On the app's runtime, because the caller's executor may have no timers.
        let timer = plant
            .runtime
            .spawn(async move { clock.wait_until(until).await });
        let stop_timer = timer.abort_handle();
        let result = tokio::select! {
            biased;
            result = self.value(Wait::Bounded) => result,
            fired = timer => Err(match fired {
                Ok(()) => Error::Timeout { id: self.id, waited: timeout },
                Err(_) => self.shared.ended().unwrap_or(Error::ShutDown),
            }),
        };
        stop_timer.abort();
        result
    }

    /// Blocks this thread until the value is there: for callers that are not async.
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
    /// As [`get`](Self::get); [`Error::WaitInTask`] in every task, async or not, unless the value is there.
    pub fn get_blocking(&self) -> Result<O> {
        if body::current(&self.shared).is_some() && self.fate()?.is_none() {
            return Err(self.no_wait(HOLDS_THREAD));
        }
        pollster::block_on(self.get())
    }

    fn decode(&self, payload: &Payload) -> Result<O> {
        decode(self.id, payload)
    }
}

impl<T: DeserializeOwned> AsyncResult<Vec<T>> {
    /// Returns the elements as they come: a group's members in the order in which they end, each
    /// with its index. What is a list but no group comes all at once.
    ///
    /// ```
    /// # use chordal::prelude::*;
    /// # #[task] async fn add(x: i64, y: i64) -> i64 { x + y }
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> chordal::Result<()> {
    /// # let app = App::in_memory().tasks(tasks![add]).start().await?;
    /// let group = app.apply_async(group((0..3).map(|i| add.s(i, i)))).await?;
    /// let mut sums = group.iter();
    /// while let Some((index, sum)) = sums.next().await {
    ///     assert_eq!(sum?, 2 * index as i64);
    /// }
    /// # app.shutdown().await }
    /// ```
    pub fn iter(&self) -> Completions<T> {
        Completions {
            handle: self.clone(),
            source: Source::Unknown,
            ready: VecDeque::new(),
        }
    }
}

/// The elements of a group as they come; see [`AsyncResult::iter`].
#[derive(Debug)]
pub struct Completions<T> {
    handle: AsyncResult<Vec<T>>,
    source: Source,
    ready: VecDeque<(u64, Element)>,
}

type Element = Result<Payload>;

#[derive(Debug)]
enum Source {
    /// Not looked for yet.
    Unknown,
    Group {
        group: Id,
        size: u64,
        settled: bool,
        seen: std::collections::HashSet<u64>,
        /// The last commit of the group's stream that was read.
        after: Option<u64>,
        watch: Watch,
    },
    Exhausted,
}

impl<T: DeserializeOwned> Completions<T> {
    /// Waits for the next element; `None` when all have come. After an error that is not the
    /// element's own (the app has ended) there is no next one.
    pub async fn next(&mut self) -> Option<(usize, Result<T>)> {
        loop {
            if let Some((index, element)) = self.ready.pop_front() {
                let id = self.handle.id;
                return Some((
                    index as usize,
                    element.and_then(|payload| decode(id, &payload)),
                ));
            }
            if let Err(error) = self.more().await {
                self.source = Source::Exhausted;
                return Some((0, Err(error)));
            }
            if self.ready.is_empty() && matches!(self.source, Source::Exhausted) {
                return None;
            }
        }
    }

    async fn more(&mut self) -> Result<()> {
        match &mut self.source {
            Source::Exhausted => Ok(()),
            Source::Unknown => self.look_for_group().await,
            Source::Group {
                group,
                size,
                settled,
                seen,
                after,
                watch,
            } => {
                if seen.len() as u64 == *size {
                    self.source = Source::Exhausted;
                    return Ok(());
                }
                let (group, settled) = (*group, *settled);
                let handle = &self.handle;
                let shared = handle.shared.clone();
                let look = || {
                    // Looked at first: what ended before has all its segments.
                    let has_ended = handle.fate()?.is_some();
                    let segments = shared
                        .reader()?
                        .segments_after(group, *after)
                        .collect::<Result<Vec<_>, _>>()?;
                    Ok((has_ended || !segments.is_empty()).then_some(segments))
                };
                let segments = handle.until(watch, look, Wait::Open).await?;
                if segments.is_empty() {
                    // A step before the group failed, so that it never began.
                    return self.whole_list().await;
                }
                for (key, segment) in segments {
                    *after = keys::number_of(&key);
                    for record in codec::segment_records(&key, &segment)? {
                        if let Record::Child {
                            index,
                            change: ChildProgress::Done(outcome),
                        } = record
                            && seen.insert(index)
                        {
                            let mut all = Vec::new();
                            shared.reader()?.flatten(group.root(), outcome, &mut all)?;
                            for outcome in all {
                                let element = element(&shared, group, outcome, settled);
                                self.ready.push_back((index, element));
                            }
                        }
                    }
                }
                Ok(())
            }
        }
    }

    /// Waits until it is known which group gives the list, or that none does.
    async fn look_for_group(&mut self) -> Result<()> {
        let reader = self.handle.reader()?;
        let node = self.handle.node(&reader)?;
        let root = self.handle.id.root();
        let Some((seq, fan)) = node.last_group() else {
            return self.whole_list().await;
        };
        let group = root.node(seq);
        let fan = fan.clone();
        let shared = self.handle.shared.clone();
        let mut ids = vec![group, root.workflow_stream()];
        if let Some(found) = &self.handle.found {
            ids.extend(found.decided_in(root));
        }
        // An `each()` knows its size when it starts; if it never does, the outcome says why.
        let found = match reader.expansion(group, &fan)? {
            Some((_, size)) => Some(size),
            None => {
                let watch = self.handle.watch(ids.clone())?;
                let look = || {
                    if let Some((_, size)) = shared.reader()?.expansion(group, &fan)? {
                        return Ok(Some(Some(size)));
                    }
                    Ok(self.handle.fate()?.map(|_| None))
                };
                self.handle.until(&watch, look, Wait::Open).await?
            }
        };
        let Some(size) = found.filter(|size| *size > 0) else {
            return self.whole_list().await;
        };
        self.source = Source::Group {
            watch: self.handle.watch(ids)?,
            group,
            size,
            settled: fan.settled,
            seen: std::collections::HashSet::new(),
            after: None,
        };
        Ok(())
    }

    async fn whole_list(&mut self) -> Result<()> {
        self.source = Source::Exhausted;
        match self.handle.wait(Wait::Open).await? {
            Outcome::Failure(failure) | Outcome::Revoked(failure) => Err(Error::Failed(failure)),
            Outcome::Success(value) => {
                let id = self.handle.id;
                let elements = self.handle.shared.load(id.root(), value).await?.elements();
                let elements = elements.map_err(|what| Error::Decode { id, what })?;
                self.ready = (0..).zip(elements.into_iter().map(Ok)).collect();
                Ok(())
            }
        }
    }
}

/// One member's outcome as an element of its group's list.
fn element(shared: &Shared, group: Id, outcome: Outcome, settled: bool) -> Element {
    match outcome {
        Outcome::Failure(failure) | Outcome::Revoked(failure) if !settled => {
            Err(Error::Failed(failure))
        }
        outcome => Ok(shared.reader()?.element(group.root(), &outcome, settled)?),
    }
}

fn decode<T: DeserializeOwned>(id: Id, payload: &Payload) -> Result<T> {
    payload.decode().map_err(|what| Error::Decode { id, what })
}

impl<O> Clone for AsyncResult<O> {
    fn clone(&self) -> Self {
        Self {
            shared: self.shared.clone(),
            id: self.id,
            found: self.found.clone(),
            pin: self.pin.clone(),
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
