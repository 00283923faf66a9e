//! The schedules of a running app.

use super::App;
use crate::canvas::Accepts;
use crate::canvas::id::Id;
use crate::canvas::schedule::{Change, Schedule, ScheduleEntry};
use crate::error::Result;
#[cfg(doc)]
use crate::error::{Error, SubmitError};
use crate::task::refuse_long_name;

/// The schedules of an app, from [`App::schedules`]: lists the entries and changes them.
///
/// Each change is durable when its call returns.
///
/// ```
/// # use chordal::prelude::*;
/// use chordal::cron;
///
/// # #[task] async fn report(kind: String) -> usize { kind.len() }
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> chordal::Result<()> {
/// # let app = App::in_memory().tasks(tasks![report]).start().await?;
/// app.schedules().add("weekly", cron("@weekly"), report.s("sales".into())).await?;
/// app.schedules().pause("weekly").await?;
/// let [entry] = &app.schedules().list().await?[..] else { panic!("there is one") };
/// assert!(entry.is_paused && entry.next.is_none());
///
/// app.schedules().resume("weekly").await?;
/// let id = app.schedules().trigger("weekly").await?; // once more, now
/// assert_eq!(app.async_result::<usize>(id).await?.get().await?, 5);
///
/// app.schedules().remove("weekly").await?;
/// assert!(app.schedules().list().await?.is_empty());
/// # app.shutdown().await }
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Schedules<'a>(&'a App);

impl App {
    /// Returns the schedules of this app: those that are [declared in
    /// code](crate::AppBuilder::schedule) and those that are added at run time.
    ///
    /// ```
    /// # use chordal::prelude::*;
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> chordal::Result<()> {
    /// let app = App::in_memory().start().await?;
    /// for entry in app.schedules().list().await? {
    ///     println!("{}: last {:?}, next {:?}", entry.name, entry.last, entry.next);
    /// }
    /// # app.shutdown().await }
    /// ```
    #[must_use]
    pub fn schedules(&self) -> Schedules<'_> {
        Schedules(self)
    }
}

impl Schedules<'_> {
    /// Lists all entries, by name.
    ///
    /// # Errors
    ///
    /// [`Error::Store`], [`Error::ShutDown`] or [`Error::Halted`] if the engine no longer runs.
    pub async fn list(self) -> Result<Vec<ScheduleEntry>> {
        self.0.0.backend.schedules().await
    }

    /// Adds an entry, which stays over restarts, or replaces the schedule and the work of the entry
    /// of this name. An entry of this name that the code [declares](crate::AppBuilder::schedule)
    /// takes the code's definition again at the next start.
    ///
    /// # Errors
    ///
    /// [`SubmitError::InvalidSchedule`], [`SubmitError::Canvas`] if the work is refused or takes
    /// more than 2,048 bytes in the store; [`StartError::NameTooLong`](crate::StartError::NameTooLong);
    /// and as [`list`](Self::list).
    pub async fn add<S: Accepts<()>>(
        self,
        name: impl Into<String>,
        schedule: impl Into<Schedule>,
        signature: S,
    ) -> Result<()> {
        let name = name.into();
        refuse_long_name("schedule", &name, "")?;
        let change = Change::Add(schedule.into(), signature.into_canvas());
        let backend = self.0.0.backend.clone();
        backend.change_schedule(name, change).await.map(drop)
    }

    /// Removes an entry. Work that it has submitted goes on. An entry that the code declares is
    /// there again, as a new one, after the next start.
    ///
    /// # Errors
    ///
    /// [`SubmitError::UnknownSchedule`]; and as [`list`](Self::list).
    pub async fn remove(self, name: &str) -> Result<()> {
        self.change(name, Change::Remove).await.map(drop)
    }

    /// Pauses an entry, over restarts. The ticks until it is [resumed](Self::resume) are dropped.
    ///
    /// # Errors
    ///
    /// As [`remove`](Self::remove).
    pub async fn pause(self, name: &str) -> Result<()> {
        self.change(name, Change::Pause).await.map(drop)
    }

    /// Resumes a paused entry. Does nothing to any other.
    ///
    /// # Errors
    ///
    /// As [`remove`](Self::remove).
    pub async fn resume(self, name: &str) -> Result<()> {
        self.change(name, Change::Resume).await.map(drop)
    }

    /// Submits the work of an entry now, beside its ticks, also if it is paused; returns the id of
    /// the submission. It counts as the work before for the [overlap](Schedule::overlap) of the
    /// next tick.
    ///
    /// # Errors
    ///
    /// As [`remove`](Self::remove).
    pub async fn trigger(self, name: &str) -> Result<Id> {
        let submitted = self.change(name, Change::Trigger).await?;
        Ok(submitted.expect("a trigger submits"))
    }

    async fn change(self, name: &str, change: Change<crate::Canvas>) -> Result<Option<Id>> {
        let backend = self.0.0.backend.clone();
        backend.change_schedule(name.to_owned(), change).await
    }
}
