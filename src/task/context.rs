//! What a running task knows about itself, and what it can start.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use serde::de::DeserializeOwned;

use super::{Replaced, Retry};
use crate::actors::attempt::Attempt;
use crate::actors::client::{self, WhenFull};
use crate::actors::shared::Shared;
use crate::canvas::id::Id;
use crate::canvas::machine::subtasks::SubtaskPlan;
use crate::canvas::outcome::Outcome;
use crate::canvas::{Accepts, freeze};
use crate::eager;
use crate::error::{Error, Result};
use crate::persistence::reader::Elements;
use crate::result::AsyncResult;

/// What a running task knows about itself, and what it can start. A task that wants it takes
/// `ctx: &TaskContext` as its first parameter.
///
/// ```
/// # use chordal::prelude::*;
/// #[task(max_retries = 2)]
/// async fn fetch(ctx: &TaskContext, url: String) -> String {
///     format!("{url}, attempt {} of {}", ctx.attempt(), ctx.id())
/// }
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// let text = fetch.call(&TaskContext::detached(), "a".into()).await;
/// assert!(text.starts_with("a, attempt 1"));
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct TaskContext {
    pub(crate) id: Id,
    pub(crate) parent_id: Option<Id>,
    pub(crate) group_id: Option<Id>,
    pub(crate) attempt: u32,
    /// Which item of a map it is called with: each has calls of its own.
    pub(crate) item: Option<u32>,
    /// It holds a thread.
    pub(crate) blocking: bool,
    /// It takes in what a group gives, one call for each.
    pub(crate) folds: bool,
    /// The list that its first argument reads as it goes.
    pub(crate) upstream: Option<Arc<Elements>>,
    pub(crate) host: Host,
}

/// The longest key of a call: it stands in a record.
const MAX_KEY: usize = 1_024;

/// What carries out the wishes of a task.
#[derive(Clone)]
pub(crate) enum Host {
    /// Nothing: the function was called by hand.
    Detached,
    Engine(Arc<Attempt>),
    Eager(Arc<eager::Attempt>),
}

impl Host {
    pub(crate) fn shared(&self) -> Result<&Arc<Shared>> {
        match self {
            Self::Detached => Err(Error::NotInTask),
            Self::Engine(attempt) => Ok(attempt.shared()),
            Self::Eager(attempt) => Ok(attempt.shared()),
        }
    }

    async fn call(&self, key: &str, graft: SubtaskPlan) -> Result<Outcome> {
        match self {
            Self::Detached => Err(Error::NotInTask),
            Self::Engine(attempt) => attempt.call(key, graft).await,
            Self::Eager(attempt) => attempt.call(key, graft).await,
        }
    }

    fn add(&self, graft: SubtaskPlan) {
        match self {
            Self::Detached => {}
            Self::Engine(attempt) => attempt.add(graft),
            Self::Eager(attempt) => attempt.add(graft),
        }
    }
}

impl TaskContext {
    /// A context outside any app, for calling a task's function by hand. What needs an app gives
    /// [`Error::NotInTask`] there.
    #[must_use]
    pub fn detached() -> Self {
        Self {
            id: Id::from(uuid::Uuid::nil()),
            parent_id: None,
            group_id: None,
            attempt: 1,
            item: None,
            blocking: false,
            folds: false,
            upstream: None,
            host: Host::Detached,
        }
    }

    /// The task's id: the same in every attempt, so that it serves as an idempotency key towards
    /// the outside world.
    ///
    /// ```
    /// # use chordal::prelude::*;
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> chordal::Result<()> {
    /// # let app = App::in_memory().tasks(tasks![charge]).start().await?;
    /// #[task]
    /// async fn charge(ctx: &TaskContext) -> String {
    ///     format!("charge {}", ctx.id()) // the same key in every attempt
    /// }
    /// let charged = app.apply_async(charge.s()).await?;
    /// assert_eq!(charged.get().await?, format!("charge {}", charged.id()));
    /// # app.shutdown().await }
    /// ```
    #[must_use]
    pub fn id(&self) -> Id {
        self.id
    }

    /// The id of the workflow the task belongs to.
    ///
    /// ```
    /// # use chordal::prelude::*;
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> chordal::Result<()> {
    /// # let app = App::in_memory().tasks(tasks![root]).start().await?;
    /// #[task]
    /// async fn root(ctx: &TaskContext) -> String {
    ///     ctx.root_id().to_string()
    /// }
    /// let all = app.apply_async(group([root.s()])).await?;
    /// assert_eq!(all.get().await?, [all.id().to_string()]);
    /// # app.shutdown().await }
    /// ```
    #[must_use]
    pub fn root_id(&self) -> Id {
        self.id.root()
    }

    /// The id of the chain, group, chord or task that the task is a child of, if it is not alone.
    ///
    /// ```
    /// # use chordal::prelude::*;
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> chordal::Result<()> {
    /// # let app = App::in_memory().tasks(tasks![parent]).start().await?;
    /// #[task]
    /// async fn parent(ctx: &TaskContext) -> Option<String> {
    ///     ctx.parent_id().map(|id| id.to_string())
    /// }
    /// let all = app.apply_async(group([parent.s()])).await?;
    /// assert_eq!(all.get().await?, [Some(all.id().to_string())]);
    /// assert_eq!(app.apply_async(parent.s()).await?.get().await?, None);
    /// # app.shutdown().await }
    /// ```
    #[must_use]
    pub fn parent_id(&self) -> Option<Id> {
        self.parent_id
    }

    /// The id of the group or chord that the task is a member of, itself or as the last step of
    /// one.
    ///
    /// ```
    /// # use chordal::prelude::*;
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> chordal::Result<()> {
    /// # let app = App::in_memory().tasks(tasks![in_group]).start().await?;
    /// #[task]
    /// async fn in_group(ctx: &TaskContext) -> bool {
    ///     ctx.group_id().is_some()
    /// }
    /// assert_eq!(app.apply_async(group([in_group.s()])).await?.get().await?, [true]);
    /// assert!(!app.apply_async(in_group.s()).await?.get().await?);
    /// # app.shutdown().await }
    /// ```
    #[must_use]
    pub fn group_id(&self) -> Option<Id> {
        self.group_id
    }

    /// Which attempt this is, from 1; one that a crash cut short counts.
    ///
    /// ```
    /// # use chordal::prelude::*;
    /// #[task(max_retries = 2)]
    /// async fn third(ctx: &TaskContext) -> Result<u32, TaskError> {
    ///     match ctx.attempt() {
    ///         3 => Ok(3),
    ///         n => Err(TaskError::new(format!("attempt {n}"))),
    ///     }
    /// }
    /// ```
    #[must_use]
    pub fn attempt(&self) -> u32 {
        self.attempt
    }

    /// The wish for another attempt, to be returned as the task's error: when, how often, with
    /// which arguments, and what to fail with at the end. See [`Retry`].
    pub fn retry(&self) -> Retry {
        Retry::new()
    }

    /// Lets `signature` take the task's place: return what this gives, without `?`. The task's value
    /// is then the signature's, its failure too; links, errbacks, retries of a header and the rest of
    /// a chain wait for it (celery/app/task.py, `replace`). The place is taken once and for all:
    /// the function is not called again.
    ///
    /// ```
    /// # use chordal::prelude::*;
    /// # #[task] async fn part(n: u64) -> u64 { n }
    /// # #[task] async fn total(all: Vec<u64>) -> u64 { all.iter().sum() }
    /// #[task]
    /// async fn sum_to(ctx: &TaskContext, n: u64) -> Result<u64, TaskError> {
    ///     ctx.replace(group((1..=n).map(|i| part.s(i))) | total.partial())
    /// }
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> chordal::Result<()> {
    /// # let app = App::in_memory().tasks(tasks![part, total, sum_to]).start().await?;
    /// assert_eq!(app.apply_async(sum_to.s(4)).await?.get().await?, 10);
    /// # app.shutdown().await }
    /// ```
    ///
    /// It gives whatever the task returns: a `Result<O, TaskError>`, or one with a `Box<dyn Error>`.
    /// Code behind it would run although the task is replaced, or, as in Celery, would not run at
    /// all; so `ctx.replace(..)?` and a call whose value is not used do not compile ("type annotations
    /// needed").
    #[must_use = "the task is replaced when it returns this"]
    pub fn replace<S, ReturnedByTheTask>(&self, signature: S) -> ReturnedByTheTask
    where
        S: Accepts<()>,
        ReturnedByTheTask: Replaced<S::Output>, // write `return ctx.replace(..)`, without `?`
    {
        ReturnedByTheTask::by(signature.into_canvas())
    }

    /// Submits a workflow of its own, as [`App::apply_async`](crate::App::apply_async) does. It is
    /// among the [children](crate::AsyncResult::children) of this task.
    /// An attempt that is run again after a crash submits again; an
    /// [idempotency key](crate::Signature::idempotency_key) makes it once.
    ///
    /// ```
    /// # use chordal::prelude::*;
    /// # #[task] async fn mail(to: String) {}
    /// #[task]
    /// async fn order(ctx: &TaskContext, number: u64) -> Result<(), TaskError> {
    ///     let thanks = mail.s("customer".into()).idempotency_key(format!("thanks {}", ctx.id()));
    ///     let _ = ctx.apply_async(thanks).await?;
    ///     Ok(())
    /// }
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> chordal::Result<()> {
    /// # let app = App::in_memory().tasks(tasks![mail, order]).start().await?;
    /// # app.apply_async(order.s(1)).await?.get().await?;
    /// # app.shutdown().await }
    /// ```
    ///
    /// # Errors
    ///
    /// As [`App::apply_async`](crate::App::apply_async); [`Error::NotInTask`].
    pub async fn apply_async<S: Accepts<()>>(
        &self,
        signature: S,
    ) -> Result<AsyncResult<S::Output>> {
        let shared = self.host.shared()?;
        let canvas = signature.into_canvas();
        let pin = client::submit(shared, canvas, WhenFull::Admit, Some(self.id)).await?;
        let attempt = match &self.host {
            Host::Engine(attempt) => Some(attempt.clone()),
            Host::Eager(_) | Host::Detached => None,
        };
        Ok(AsyncResult::of_task(shared.clone(), pin, attempt))
    }

    /// Runs a canvas as a part of this task and waits for its value. While it waits the task holds
    /// no slot, so that tasks may call tasks however few slots there are.
    ///
    /// `key`, of at most 1,024 bytes, names the call within the task (in a map, within the item):
    /// an attempt that is run again, after a crash or as a retry, joins what the one before it had
    /// started under the same key, whatever the signature says now, and gets its outcome if it has
    /// ended. A failure is an outcome, too: a task that wants another try of the canvas with its own
    /// puts [`attempt`](Self::attempt) into the key.
    ///
    /// Time limits of the task go on while it waits. If it does not wait for the end, its own is put
    /// off until the canvas has ended. The failure of what was called, as an error of this task,
    /// has the type `Error`; [`Error::Failed`] has the one it had.
    ///
    /// ```
    /// # use chordal::prelude::*;
    /// # #[task] async fn price(of: String) -> u64 { of.len() as u64 }
    /// #[task]
    /// async fn offer(ctx: &TaskContext, items: Vec<String>) -> Result<u64, TaskError> {
    ///     let mut total = 0;
    ///     for (i, item) in items.into_iter().enumerate() {
    ///         total += ctx.call(&format!("item {i}"), price.s(item)).await?;
    ///     }
    ///     Ok(total)
    /// }
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> chordal::Result<()> {
    /// let app = App::in_memory().concurrency(1).tasks(tasks![price, offer]).start().await?;
    /// let total = app.apply_async(offer.s(vec!["axe".into(), "saw".into()])).await?;
    /// assert_eq!(total.get().await?, 6);
    /// # app.shutdown().await }
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Failed`] with the failure of what was called, [`Error::Canvas`],
    /// [`Error::Decode`]; [`Error::NotInTask`] outside a running attempt;
    /// [`Error::CallInBlockingTask`]; [`Error::WorkInFold`].
    pub async fn call<S>(&self, key: &str, signature: S) -> Result<S::Output>
    where
        S: Accepts<()>,
        S::Output: DeserializeOwned,
    {
        let shared = self.host.shared()?;
        if self.blocking {
            return Err(Error::CallInBlockingTask);
        }
        if self.folds {
            return Err(Error::WorkInFold);
        }
        if key.len() > MAX_KEY {
            let reason = format!("the key of a call has at most {MAX_KEY} bytes");
            return Err(Error::Canvas {
                path: String::new(),
                reason,
            });
        }
        let graft = self.graft(signature)?;
        let key = match self.item {
            None => Cow::Borrowed(key),
            Some(item) => Cow::Owned(format!("{item} {key}")),
        };
        match self.host.call(&key, graft).await? {
            Outcome::Success(value) => {
                let payload = shared.load(self.root_id(), value).await?;
                payload
                    .decode()
                    .map_err(|what| Error::Decode { id: self.id, what })
            }
            Outcome::Failure(failure) | Outcome::Revoked(failure) => Err(Error::Failed(failure)),
        }
    }

    fn graft<S: Accepts<()>>(&self, signature: S) -> Result<SubtaskPlan> {
        let registry = &self.host.shared()?.registry;
        Ok(freeze::plan_subtask(
            signature.into_canvas(),
            false,
            registry,
        )?)
    }

    /// Adds a member to the group, or the chord's header, that the task is a member of: its value
    /// stands behind the task's own in the list, and the body waits for it
    /// (celery/app/task.py, `add_to_chord`). The nth addition of an attempt that is run again is
    /// the nth of the one before. What is added may add more in its turn.
    ///
    /// ```
    /// # use chordal::prelude::*;
    /// # #[task] async fn total(all: Vec<u64>) -> usize { all.len() }
    /// #[task]
    /// async fn walk(ctx: &TaskContext, n: u64) -> Result<u64, TaskError> {
    ///     if n == 2 {
    ///         ctx.add_to_chord(walk.s(7))?;
    ///     }
    ///     Ok(n)
    /// }
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> chordal::Result<()> {
    /// # let app = App::in_memory().tasks(tasks![walk, total]).start().await?;
    /// let count = app.apply_async(chord(group([1, 2, 3].map(|n| walk.s(n))), total.partial())).await?;
    /// assert_eq!(count.get().await?, 4);
    /// # app.shutdown().await }
    /// ```
    ///
    /// # Errors
    ///
    /// If the task is a member of no group and of no chord's header, or a fold's function, or the
    /// canvas is refused.
    pub fn add_to_chord<S: Accepts<()>>(&self, signature: S) -> Result<()> {
        if let Host::Detached = self.host {
            return Err(Error::NotInTask);
        }
        if self.folds {
            return Err(Error::WorkInFold);
        }
        if self.group_id.is_none() {
            return Err(Error::NotInChord { id: self.id });
        }
        self.host.add(self.graft(signature)?);
        Ok(())
    }

    /// Waits for the task's soft time limit. A task that has called this listens for it: it is not
    /// ended at it, and may clean up until its hard limit.
    ///
    /// ```
    /// # use chordal::prelude::*;
    /// # async fn crawl() -> u64 { 7 }
    /// #[task(soft_time_limit = "30s", time_limit = "40s")]
    /// async fn index(ctx: &TaskContext) -> Result<u64, TaskError> {
    ///     tokio::select! {
    ///         pages = crawl() => Ok(pages),
    ///         () = ctx.soft_time_limit() => Err(TaskError::new("cut short")),
    ///     }
    /// }
    /// ```
    pub async fn soft_time_limit(&self) {
        match &self.host {
            Host::Engine(attempt) => attempt.soft_limit.wait().await,
            Host::Eager(attempt) => attempt.soft_limit.wait().await,
            Host::Detached => std::future::pending().await,
        }
    }

    /// Says whether the soft time limit has been reached: for blocking tasks, which look from time
    /// to time. A task that has called this listens for it, as with
    /// [`soft_time_limit`](Self::soft_time_limit).
    ///
    /// ```
    /// # use chordal::prelude::*;
    /// #[task(blocking, soft_time_limit = "30s")]
    /// fn count(ctx: &TaskContext, words: Vec<String>) -> usize {
    ///     words.iter().take_while(|_| !ctx.is_over_soft_time_limit()).count()
    /// }
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> chordal::Result<()> {
    /// # let app = App::in_memory().tasks(tasks![count]).start().await?;
    /// assert_eq!(app.apply_async(count.s(vec!["a".into(), "b".into()])).await?.get().await?, 2);
    /// # app.shutdown().await }
    /// ```
    #[must_use]
    pub fn is_over_soft_time_limit(&self) -> bool {
        let now_ms = |shared: &Shared| shared.clock.elapsed_ms();
        match &self.host {
            Host::Engine(attempt) => attempt.soft_limit.is_over(now_ms(attempt.shared())),
            Host::Eager(attempt) => attempt.soft_limit.is_over(now_ms(attempt.shared())),
            Host::Detached => false,
        }
    }

    /// Waits until the task is [revoked](crate::AsyncResult::revoke). A task that has called this
    /// listens for it: it is not ended then, and may clean up, until its time limits, and at most for
    /// the app's [grace](crate::AppBuilder::grace). What it gives in the end does not count.
    ///
    /// ```
    /// # use chordal::prelude::*;
    /// # async fn crawl() -> u64 { 7 }
    /// # async fn remove_what_is_half_done() {}
    /// #[task]
    /// async fn index(ctx: &TaskContext) -> Result<u64, TaskError> {
    ///     tokio::select! {
    ///         pages = crawl() => Ok(pages),
    ///         () = ctx.cancelled() => {
    ///             remove_what_is_half_done().await;
    ///             Err(TaskError::new("revoked"))
    ///         }
    ///     }
    /// }
    /// ```
    pub async fn cancelled(&self) {
        match &self.host {
            Host::Engine(attempt) if attempt.observe_cancellation() => {}
            Host::Engine(attempt) => attempt.cancellation.wait().await,
            Host::Eager(_) | Host::Detached => std::future::pending().await,
        }
    }

    /// Says whether the task is [revoked](crate::AsyncResult::revoke): for blocking tasks, which look
    /// from time to time. A task that has called this listens for it, as with
    /// [`cancelled`](Self::cancelled); a blocking one that does not goes on in vain, since its thread
    /// cannot be stopped.
    ///
    /// ```
    /// # use chordal::prelude::*;
    /// #[task(blocking)]
    /// fn count(ctx: &TaskContext, words: Vec<String>) -> usize {
    ///     words.iter().take_while(|_| !ctx.is_cancelled()).count()
    /// }
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> chordal::Result<()> {
    /// # let app = App::in_memory().tasks(tasks![count]).start().await?;
    /// assert_eq!(app.apply_async(count.s(vec!["a".into(), "b".into()])).await?.get().await?, 2);
    /// # app.shutdown().await }
    /// ```
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        match &self.host {
            Host::Engine(attempt) => attempt.observe_cancellation(),
            Host::Eager(_) | Host::Detached => false,
        }
    }
}

impl fmt::Debug for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Detached => "detached",
            Self::Engine(_) => "engine",
            Self::Eager(_) => "eager",
        })
    }
}
