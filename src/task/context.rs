//! The context of a running task: its identity, and the operations that it can start.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::data::Data;
use super::host::TaskHost;
use super::retry::Retry;
use super::returned::Replaced;
use crate::backend::WhenFull;
use crate::canvas::freeze::SubtaskPlan;
use crate::canvas::id::Id;
use crate::canvas::outcome::Outcome;
use crate::canvas::stamps::Stamps;
use crate::canvas::task_update::{PROGRESS, TaskProgress, TaskUpdate};
use crate::canvas::{Accepts, Canvas, freeze};
use crate::error::{ContextError, Error, GetError, Result, SubmitError};
use crate::persistence::records::reader::Elements;
use crate::result::AsyncResult;

/// The context of a running task: its identity, and the operations that it can start. A task that
/// needs it takes `ctx: &TaskContext` as its first parameter.
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
    /// The item of a map with which the function is called. Each item has its own calls.
    pub(crate) item: Option<u32>,
    /// Whether the task holds a thread.
    pub(crate) blocking: bool,
    /// Whether the task folds the values of a group, one call for each.
    pub(crate) folds: bool,
    /// The list that its first argument reads as it goes.
    pub(crate) upstream: Option<Arc<Elements>>,
    /// `None` if the function was called directly.
    pub(crate) host: Option<Arc<dyn TaskHost>>,
}

/// The longest key of a call in bytes, because the key is part of a record.
const MAX_KEY: usize = 1_024;

impl TaskContext {
    /// Creates a context outside any app, for calling a task's function directly. Operations that
    /// need an app return [`ContextError::NotInTask`].
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
            host: None,
        }
    }

    /// Returns the task's id. It is the same in every attempt, so it can serve as an idempotency
    /// key for external services.
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

    /// Returns the id of the workflow that the task belongs to.
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

    /// Returns the id of the chain, group, chord or task whose child the task is, if it has a
    /// parent.
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

    /// Returns the id of the group or chord of which the task is a member, or the last step of a
    /// member.
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

    /// Returns the [stamps](crate::Signature::stamp) of the task by their names. What it starts has
    /// them too.
    ///
    /// ```
    /// # use chordal::prelude::*;
    /// #[task]
    /// async fn tenant(ctx: &TaskContext) -> Option<String> {
    ///     ctx.stamps().get("tenant").cloned()
    /// }
    ///
    /// #[task]
    /// async fn asks(ctx: &TaskContext) -> Result<Option<String>, TaskError> {
    ///     Ok(ctx.call("tenant", tenant.s()).await?)
    /// }
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> chordal::Result<()> {
    /// # let app = App::in_memory().tasks(tasks![tenant, asks]).start().await?;
    /// let asked = app.apply_async(asks.s().stamp("tenant", "acme")).await?;
    /// assert_eq!(asked.get().await?.as_deref(), Some("acme"));
    /// # app.shutdown().await }
    /// ```
    #[must_use]
    pub fn stamps(&self) -> &BTreeMap<String, String> {
        let host = self.host.as_ref();
        host.map_or(Stamps::NONE, |host| host.stamps()).as_map()
    }

    /// Returns the number of this attempt, from 1. Attempts that a crash interrupted count.
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

    /// Returns the app's [data](Data) of type `T`.
    ///
    /// A parameter `Data<T>` is checked when the app starts; this is not, because only the function
    /// knows the type.
    ///
    /// ```
    /// # use chordal::prelude::*;
    /// # struct Prices { cents: u64 }
    /// #[task]
    /// async fn total(ctx: &TaskContext, items: u64) -> Result<u64, TaskError> {
    ///     let prices = ctx.data::<Prices>()?;
    ///     Ok(items * prices.cents)
    /// }
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> chordal::Result<()> {
    /// # let app = App::in_memory().data(Prices { cents: 250 }).tasks(tasks![total]).start().await?;
    /// # assert_eq!(app.apply_async(total.s(3)).await?.get().await?, 750);
    /// # app.shutdown().await }
    /// ```
    ///
    /// # Errors
    ///
    /// [`ContextError::MissingData`], which names the type, if the app has no data of this type,
    /// and always in a [detached](Self::detached) context.
    pub fn data<T: Send + Sync + 'static>(&self) -> Result<Data<T>> {
        let data = self.host.as_ref().and_then(|host| host.data().get());
        let missing = || ContextError::MissingData {
            data: std::any::type_name::<T>(),
        };
        Ok(data.ok_or_else(missing)?)
    }

    /// Reports how far the task has got: `done` of `total`, in units of its own. Handles see it at
    /// once, as the state `PROGRESS` with a [`TaskProgress`](crate::TaskProgress):
    /// [`AsyncResult::info`](crate::AsyncResult::info), [`changes`](crate::AsyncResult::changes).
    ///
    /// Call it as often as you like. It waits for nothing, and adds no write to the disk: at most
    /// one report per second and task goes on record, with the next batch that the engine writes
    /// for any other reason. So a crash may lose the last reports, and if no batch is written
    /// before it, none of them is on record. A report stays until the next one, over retries and
    /// restarts, and is deleted when the task has ended. In a [detached](Self::detached) context,
    /// and after the attempt has ended, it does nothing.
    ///
    /// ```
    /// # use chordal::prelude::*;
    /// #[task]
    /// async fn index(ctx: &TaskContext, pages: Vec<String>) -> usize {
    ///     for (done, page) in pages.iter().enumerate() {
    ///         ctx.progress(done as u64, pages.len() as u64);
    ///         // … work on the page
    ///         # let _ = page;
    ///     }
    ///     pages.len()
    /// }
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> chordal::Result<()> {
    /// # let app = App::in_memory().tasks(tasks![index]).start().await?;
    /// # let pages = vec!["a".into(), "b".into()];
    /// assert_eq!(app.apply_async(index.s(pages)).await?.get().await?, 2);
    /// # app.shutdown().await }
    /// ```
    pub fn progress(&self, done: u64, total: u64) {
        let update = TaskUpdate::new(PROGRESS, &TaskProgress { done, total });
        if let (Some(host), Ok(update)) = (&self.host, update) {
            host.update(update);
        }
    }

    /// Gives the task a state of its own with a value, as Celery's `update_state` does, which
    /// handles read with [`AsyncResult::info`](crate::AsyncResult::info). It replaces the report
    /// before it; what else is true of reports is said at [`progress`](Self::progress).
    /// [`AsyncResult::state`](crate::AsyncResult::state) remains [`Started`](crate::State::Started).
    ///
    /// ```
    /// # use chordal::prelude::*;
    /// #[derive(serde::Serialize)]
    /// struct Query<'a> {
    ///     table: &'a str,
    /// }
    ///
    /// #[task]
    /// async fn report(ctx: &TaskContext, table: String) -> Result<u64, TaskError> {
    ///     ctx.update_state("QUERYING", &Query { table: &table })?;
    ///     // …
    ///     ctx.update_state("RENDERING", &())?;
    ///     Ok(7)
    /// }
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> chordal::Result<()> {
    /// # let app = App::in_memory().tasks(tasks![report]).start().await?;
    /// assert_eq!(app.apply_async(report.s("users".into())).await?.get().await?, 7);
    /// # app.shutdown().await }
    /// ```
    ///
    /// # Errors
    ///
    /// [`ContextError::State`] if the name is empty, longer than 64 bytes, or that of a
    /// [`State`](crate::State); or if the value cannot be encoded or takes more than 4,096 bytes.
    pub fn update_state<T: Serialize + ?Sized>(&self, state: &str, meta: &T) -> Result<()> {
        let update = TaskUpdate::new(state, meta).map_err(|reason| {
            Error::Context(ContextError::State {
                state: state.to_owned(),
                reason,
            })
        })?;
        if let Some(host) = &self.host {
            host.update(update);
        }
        Ok(())
    }

    /// Requests another attempt; return it as the task's error. It can set the time, the number of
    /// retries, the arguments, and the failure if no retries are left. See [`Retry`].
    pub fn retry(&self) -> Retry {
        Retry::new()
    }

    /// Replaces the task by `signature`: return the value of this call, without `?`. The task's
    /// value or failure is then the signature's; links, errbacks, retries of a header and the rest
    /// of a chain wait for it (celery/app/task.py, `replace`). The replacement is final: the
    /// function is not called again.
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
    /// It gives the type that the task returns: a `Result<O, TaskError>`, or one with a `Box<dyn
    /// Error>`. Code after it would run although the task is replaced, or, as in Celery, would not
    /// run at all; so `ctx.replace(..)?` and a call whose value is not used do not compile ("type
    /// annotations needed").
    #[must_use = "the task is replaced when it returns this"]
    pub fn replace<S, ReturnedByTheTask>(&self, signature: S) -> ReturnedByTheTask
    where
        S: Accepts<()>,
        ReturnedByTheTask: Replaced<S::Output>, // write `return ctx.replace(..)`, without `?`
    {
        ReturnedByTheTask::by(self.stamped(signature))
    }

    /// Submits a separate workflow, as [`App::apply_async`](crate::App::apply_async) does. It is
    /// among the [children](crate::AsyncResult::children) of this task. An attempt that runs again
    /// after a crash submits again; with an [idempotency key](crate::Signature::idempotency_key)
    /// the workflow is submitted once.
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
    /// As [`App::apply_async`](crate::App::apply_async); [`ContextError::NotInTask`].
    pub async fn apply_async<S: Accepts<()>>(
        &self,
        signature: S,
    ) -> Result<AsyncResult<S::Output>> {
        let host = self.host()?;
        let backend = host.backend();
        let submitted =
            backend
                .clone()
                .submit(self.stamped(signature), WhenFull::Admit, Some(self.id));
        let attempt = host.clone().slot_holder();
        Ok(AsyncResult::of_task(backend, submitted.await?, attempt))
    }

    /// Runs a canvas as a part of this task and waits for its value. While it waits, the task holds
    /// no slot, so tasks may call tasks however few slots there are.
    ///
    /// `key`, of at most 1,024 bytes, identifies the call within the task (in a map, within the
    /// item). An attempt that runs again, after a crash or as a retry, joins the canvas that an
    /// earlier attempt started under the same key, whatever the signature is now, and gets its
    /// outcome if it has ended. A failure is an outcome, too: to run the canvas again with each
    /// retry of the task, include [`attempt`](Self::attempt) in the key.
    ///
    /// The task's time limits continue while it waits. If it does not wait for the canvas, the
    /// task's own end is delayed until the canvas has ended. A failure of the called canvas,
    /// returned as an error of this task, has the type `Error`; [`Error::Failed`] has the original
    /// type.
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
    /// [`Error::Failed`] with the failure of the called canvas, [`SubmitError::Canvas`],
    /// [`GetError::Decode`]; [`ContextError::NotInTask`] outside a running attempt;
    /// [`ContextError::CallInBlockingTask`]; [`ContextError::WorkInFold`].
    pub async fn call<S>(&self, key: &str, signature: S) -> Result<S::Output>
    where
        S: Accepts<()>,
        S::Output: DeserializeOwned,
    {
        let host = self.host()?;
        if self.blocking {
            return Err(Error::Context(ContextError::CallInBlockingTask));
        }
        if self.folds {
            return Err(Error::Context(ContextError::WorkInFold));
        }
        if key.len() > MAX_KEY {
            let reason = format!("the key of a call has at most {MAX_KEY} bytes");
            return Err(Error::Submit(SubmitError::Canvas {
                path: String::new(),
                reason,
            }));
        }
        let plan = self.plan_subtask(signature)?;
        let key = match self.item {
            None => Cow::Borrowed(key),
            Some(item) => Cow::Owned(format!("{item} {key}")),
        };
        match host.clone().call(&key, plan).await? {
            Outcome::Success(value) => {
                let payload = host.view().load(self.root_id(), value).await?;
                payload
                    .decode()
                    .map_err(|what| Error::Get(GetError::Decode { id: self.id, what }))
            }
            Outcome::Failure(failure) | Outcome::Revoked(failure) => Err(Error::Failed(failure)),
        }
    }

    /// Returns the host of a running attempt.
    pub(crate) fn host(&self) -> Result<&Arc<dyn TaskHost>> {
        self.host
            .as_ref()
            .ok_or(Error::Context(ContextError::NotInTask))
    }

    fn plan_subtask<S: Accepts<()>>(&self, signature: S) -> Result<SubtaskPlan> {
        Ok(freeze::plan_subtask(
            self.stamped(signature),
            false,
            self.host()?.catalogue(),
        )?)
    }

    /// Returns the canvas of what the task starts, with the stamps of the task.
    fn stamped<S: Accepts<()>>(&self, signature: S) -> Canvas {
        let canvas = signature.into_canvas();
        match &self.host {
            Some(host) => canvas.stamped(host.stamps()),
            None => canvas,
        }
    }

    /// Adds a member to the group or chord's header that the task is a member of. Its value follows
    /// the task's own in the list, and the body waits for it (celery/app/task.py, `add_to_chord`).
    /// In an attempt that runs again, the nth addition is the nth of the earlier attempt. An added
    /// member may itself add members.
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
    /// If the task is not a member of a group or of a chord's header, is a fold's function, or the
    /// canvas is refused.
    pub fn add_to_chord<S: Accepts<()>>(&self, signature: S) -> Result<()> {
        let host = self.host()?;
        if self.folds {
            return Err(Error::Context(ContextError::WorkInFold));
        }
        if self.group_id.is_none() {
            return Err(Error::Context(ContextError::NotInChord { id: self.id }));
        }
        host.add(self.plan_subtask(signature)?);
        Ok(())
    }

    /// Waits for the task's soft time limit. A task that has called this handles the limit itself:
    /// it is not ended, and may clean up until its hard limit.
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
            Some(host) => host.soft_limit().wait().await,
            None => std::future::pending().await,
        }
    }

    /// Returns whether the soft time limit has been reached: for blocking tasks, which check from
    /// time to time. A task that has called this handles the limit itself, as with
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
        match &self.host {
            Some(host) => host.soft_limit().is_over(host.view().clock.elapsed_ms()),
            None => false,
        }
    }

    /// Waits until the task is [revoked](crate::AsyncResult::revoke). A task that has called this
    /// handles the revocation itself: it is not dropped, and may clean up until its time limits,
    /// and at most for the app's [grace period](crate::AppBuilder::grace). Its outcome is ignored.
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
            Some(host) => host.cancelled().await,
            None => std::future::pending().await,
        }
    }

    /// Returns whether the task is [revoked](crate::AsyncResult::revoke): for blocking tasks, which
    /// check from time to time. A task that has called this handles the revocation itself, as with
    /// [`cancelled`](Self::cancelled). A blocking task that never checks continues in vain, because
    /// its thread cannot be stopped.
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
            Some(host) => host.observe_cancellation(),
            None => false,
        }
    }
}
