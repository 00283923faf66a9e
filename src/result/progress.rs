//! How far a canvas has got, and what a running task reports of itself.

use std::fmt;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::{AsyncResult, Target};
use crate::canvas::freeze::Def;
use crate::canvas::id::Id;
use crate::canvas::outcome::Outcome;
use crate::canvas::state::State;
use crate::canvas::task_update::TaskUpdate;
use crate::error::{Error, GetError, Result};
use crate::persistence::records::reader::{MemberCounts, NodeLocation, Reader, Resolution};

/// How many children of a canvas have ended; see [`AsyncResult::progress`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Progress {
    /// The children that have ended with a value.
    pub done: u64,
    /// The children that have ended without one: failed, expired or revoked.
    pub failed: u64,
    /// The children that have begun and not ended. A task that waits for a retry does not count.
    pub running: u64,
    /// All children. `None` while their number is unknown: of an [`each`](crate::Signature::each)
    /// before its upstream list is known.
    pub total: Option<u64>,
}

/// A state that a running task gave itself, and the value that belongs to it; see
/// [`AsyncResult::info`] and [`Change::Info`](crate::Change::Info).
///
/// `Debug` prints the state only, so that the value stays out of logs.
#[derive(Clone, PartialEq, Eq)]
pub struct TaskInfo {
    task: Id,
    update: TaskUpdate,
}

impl TaskInfo {
    pub(super) fn new(task: Id, update: TaskUpdate) -> Self {
        Self { task, update }
    }

    /// Returns the name of the state: `PROGRESS` of a
    /// [`ctx.progress(…)`](crate::TaskContext::progress), or the one that was given to
    /// [`ctx.update_state(…)`](crate::TaskContext::update_state).
    #[must_use]
    pub fn state(&self) -> &str {
        &self.update.state
    }

    /// Decodes the value; that of the state `PROGRESS` is a [`TaskProgress`](crate::TaskProgress).
    ///
    /// # Errors
    ///
    /// [`GetError::Decode`] if it is not a `T`.
    pub fn meta<T: DeserializeOwned>(&self) -> Result<T> {
        let decoded = self.update.meta.decode();
        decoded.map_err(|what| {
            Error::Get(GetError::Decode {
                id: self.task,
                what: format!("the value of its state `{}`: {what}", self.state()),
            })
        })
    }
}

impl fmt::Debug for TaskInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TaskInfo")
            .field("state", &self.update.state)
            .finish_non_exhaustive()
    }
}

impl<O> AsyncResult<O> {
    /// Returns what a running task last reported of itself, with
    /// [`ctx.progress(…)`](crate::TaskContext::progress) or
    /// [`ctx.update_state(…)`](crate::TaskContext::update_state), decoded as a `T` (Celery's
    /// `result.info`). `None` if it has reported nothing or has ended, and for a canvas that is not
    /// a task. [`task_info`](Self::task_info) also returns the name of the state.
    ///
    /// It is read from memory. After a restart it is what was on record; see `progress` there.
    ///
    /// ```
    /// # use chordal::prelude::*;
    /// use chordal::TaskProgress;
    ///
    /// #[task]
    /// async fn index(ctx: &TaskContext) {
    ///     ctx.progress(30, 100);
    ///     # std::future::pending::<()>().await
    /// }
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> chordal::Result<()> {
    /// # let app = App::in_memory().tasks(tasks![index]).start().await?;
    /// let indexed = app.apply_async(index.s()).await?;
    /// # while indexed.task_info().await?.is_none() { tokio::task::yield_now().await; }
    /// // … while it runs
    /// if let Some(TaskProgress { done, total }) = indexed.info().await? {
    ///     println!("{done} of {total}");
    /// }
    /// # assert_eq!(indexed.info().await?, Some(TaskProgress { done: 30, total: 100 }));
    /// # drop(app); Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// [`GetError::Decode`] if the value is not a `T`, and as [`state`](Self::state).
    pub async fn info<T: DeserializeOwned>(&self) -> Result<Option<T>> {
        let info = self.task_info().await?;
        info.map(|info| info.meta()).transpose()
    }

    /// Returns what a running task last reported of itself, as [`info`](Self::info) does, with the
    /// name of its state.
    ///
    /// ```
    /// # use chordal::prelude::*;
    /// #[task]
    /// async fn report(ctx: &TaskContext) -> Result<(), TaskError> {
    ///     ctx.update_state("QUERYING", "users")?;
    ///     # std::future::pending::<()>().await;
    ///     Ok(())
    /// }
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> chordal::Result<()> {
    /// # let app = App::in_memory().tasks(tasks![report]).start().await?;
    /// let running = app.apply_async(report.s()).await?;
    /// # while running.task_info().await?.is_none() { tokio::task::yield_now().await; }
    /// // … while it runs
    /// if let Some(info) = running.task_info().await? {
    ///     assert_eq!((info.state(), info.meta::<String>()?), ("QUERYING", "users".to_owned()));
    /// }
    /// # drop(app); Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// As [`state`](Self::state).
    pub async fn task_info(&self) -> Result<Option<TaskInfo>> {
        // After the end it is on its way out; and a store that cannot be read is an error.
        match self.resolution().await? {
            Some(_) => Ok(None),
            None => Ok(self.info_now()),
        }
    }

    pub(super) fn info_now(&self) -> Option<TaskInfo> {
        let update = self.view().updates.latest(self.id);
        update.map(|update| TaskInfo::new(self.id, update))
    }

    /// Returns how many of its children have ended, and how many run, without reading them one by
    /// one: the members of a group or of the header of a chord or fold, the steps of a chain. A
    /// task counts itself: `total` is 1. (What a task reports of itself is [`info`](Self::info).)
    ///
    /// Of a large group it reads what its members have recorded, one after the other, but no value
    /// and no member. Of members that are not tasks themselves, the first 2,048 that have not ended
    /// are asked whether they have begun.
    ///
    /// ```
    /// # use chordal::prelude::*;
    /// # #[task] async fn parse(text: String) -> Result<i64, TaskError> { Ok(text.parse()?) }
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> chordal::Result<()> {
    /// # let app = App::in_memory().tasks(tasks![parse]).start().await?;
    /// let texts = ["1", "two", "3"].map(|text| parse.s(text.into()));
    /// let all = app.apply_async(group(texts)).await?;
    /// assert!(all.get().await.is_err());
    /// let progress = all.progress().await?;
    /// assert_eq!((progress.done, progress.failed, progress.running), (2, 1, 0));
    /// assert_eq!(progress.total, Some(3));
    /// # app.shutdown().await }
    /// ```
    ///
    /// # Errors
    ///
    /// As [`state`](Self::state).
    pub async fn progress(&self) -> Result<Progress> {
        self.read(|target, reader| {
            let location = target.find(reader)?;
            let counts = reader.member_counts(target.id.root(), &location)?;
            target.progress(reader, &location, counts.as_ref())
        })
        .await
    }
}

impl Target {
    /// Returns the progress, given the counts of its members if they are known.
    pub(super) fn progress(
        &self,
        reader: &Reader,
        location: &NodeLocation,
        counts: Option<&MemberCounts>,
    ) -> Result<Progress> {
        let root = self.id.root();
        if let Some(counts) = counts {
            return Ok(Progress {
                done: counts.succeeded,
                failed: counts.failed,
                running: reader.running_members(root, location, counts)?,
                total: reader.member_count(root, location)?,
            });
        }
        let (steps, ended) = match &location.node.def {
            Def::Chain(steps) => (steps.len() as u64, reader.counts_of(self.id)?.0),
            Def::Task(_) => (1, 0),
            // An `each()` whose list is not known.
            Def::Group(_) | Def::Chord { .. } | Def::Fold { .. } => return Ok(Progress::default()),
        };
        let has_ended = match self.resolution(reader)? {
            Some(Resolution::Ended(Outcome::Success(_))) => Some(true),
            Some(_) => Some(false),
            None => None,
        };
        let is_running = has_ended.is_none() && self.state(reader)? == State::Started;
        Ok(Progress {
            // (The last step's outcome is recorded as the chain's.)
            done: if has_ended == Some(true) {
                steps
            } else {
                ended
            },
            failed: u64::from(has_ended == Some(false)),
            running: u64::from(is_running),
            total: Some(steps),
        })
    }
}
