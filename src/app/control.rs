//! Queues and tasks while an app runs: pausing, resuming, and how much runs at once.

use super::App;
use crate::canvas::admission::control::{Control, ControlChange, ControlTarget};
use crate::canvas::freeze::{SizeExceeded, name_excess};
use crate::error::{ControlError, Result};
#[cfg(doc)]
use crate::{AppBuilder, Error, TaskOptions};

/// What was set stays set over restarts, until it is set anew. Each call returns when the change is
/// in force and durable; a call that changes nothing is no error.
impl App {
    /// Stops starting the tasks of a queue. Tasks that are running go on to their end, except that
    /// one that waits for another ([`ctx.call`](crate::TaskContext::call)) goes on only when the
    /// queue is resumed. Work can still be submitted, and waits.
    ///
    /// A queue needs no declaration, so the name of a queue that nothing uses is no error.
    ///
    /// ```
    /// # use chordal::prelude::*;
    /// #[task(queue = "mail")]
    /// async fn send(to: String) -> String { to }
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> chordal::Result<()> {
    ///
    /// let app = App::in_memory().tasks(tasks![send]).start().await?;
    /// app.pause_queue("mail").await?;
    /// let sent = app.apply_async(send.s("ada".to_owned())).await?;
    /// assert!(app.controls()?[0].is_paused);
    ///
    /// app.resume_queue("mail").await?;
    /// assert_eq!(sent.get().await?, "ada");
    /// # app.shutdown().await }
    /// ```
    ///
    /// # Errors
    ///
    /// [`ControlError::NameTooLong`]; [`ControlError::Eager`] in an eager app; [`Error::Store`],
    /// [`Error::ShutDown`] or [`Error::Halted`] if the engine no longer runs.
    pub async fn pause_queue(&self, queue: impl Into<String>) -> Result<()> {
        self.control_queue(queue.into(), ControlChange::Pause).await
    }

    /// Starts the tasks of a [paused](Self::pause_queue) queue again.
    ///
    /// # Errors
    ///
    /// As [`pause_queue`](Self::pause_queue).
    pub async fn resume_queue(&self, queue: impl Into<String>) -> Result<()> {
        self.control_queue(queue.into(), ControlChange::Resume)
            .await
    }

    /// Sets how many async tasks of a queue run at once, and as many blocking ones, in place of what
    /// the [code](AppBuilder::queue) says; `None` sets what the code says again. With fewer than run
    /// now, none is ended, and none starts until enough have ended.
    ///
    /// ```
    /// # use chordal::prelude::*;
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> chordal::Result<()> {
    /// let app = App::in_memory().queue("mail", 4).start().await?;
    /// app.set_concurrency("mail", 8).await?;
    /// assert_eq!(app.controls()?[0].concurrency, Some(8));
    ///
    /// app.set_concurrency("mail", None).await?;
    /// assert!(app.controls()?.is_empty());
    /// # app.shutdown().await }
    /// ```
    ///
    /// # Errors
    ///
    /// As [`pause_queue`](Self::pause_queue); [`ControlError::NoConcurrency`] if it is 0.
    pub async fn set_concurrency(
        &self,
        queue: impl Into<String>,
        tasks: impl Into<Option<u64>>,
    ) -> Result<()> {
        let (queue, tasks) = (queue.into(), tasks.into());
        if tasks == Some(0) {
            let of = format!("queue `{queue}`");
            return Err(ControlError::NoConcurrency { of }.into());
        }
        let change = ControlChange::Concurrency(tasks);
        self.control_queue(queue, change).await
    }

    /// Stops starting a task, whatever its queue. Attempts that are running go on to their end, and
    /// also after a wait for another task.
    ///
    /// ```
    /// # use chordal::prelude::*;
    /// # #[task] async fn send(to: String) -> String { to }
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> chordal::Result<()> {
    /// let app = App::in_memory().tasks(tasks![send]).start().await?;
    /// app.pause_task("send").await?;
    /// let sent = app.apply_async(send.s("ada".to_owned())).await?;
    /// app.resume_task("send").await?;
    /// assert_eq!(sent.get().await?, "ada");
    /// # app.shutdown().await }
    /// ```
    ///
    /// # Errors
    ///
    /// [`ControlError::UnknownTask`]; otherwise as [`pause_queue`](Self::pause_queue).
    pub async fn pause_task(&self, task: impl Into<String>) -> Result<()> {
        self.control_task(task.into(), ControlChange::Pause).await
    }

    /// Starts a [paused](Self::pause_task) task again.
    ///
    /// # Errors
    ///
    /// As [`pause_task`](Self::pause_task).
    pub async fn resume_task(&self, task: impl Into<String>) -> Result<()> {
        self.control_task(task.into(), ControlChange::Resume).await
    }

    /// Sets how many attempts of a task run at once, in the whole app and besides the
    /// [concurrency](TaskOptions::concurrency) that its code sets; `None` sets no such limit any
    /// more. With fewer than run now, none is ended. Attempts that are running when the first such
    /// limit is set are not counted, so that as many may run besides them.
    ///
    /// ```
    /// # use chordal::prelude::*;
    /// # #[task] async fn send(to: String) -> String { to }
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> chordal::Result<()> {
    /// let app = App::in_memory().tasks(tasks![send]).start().await?;
    /// app.set_task_concurrency("send", 2).await?;
    /// # app.shutdown().await }
    /// ```
    ///
    /// # Errors
    ///
    /// As [`pause_task`](Self::pause_task); [`ControlError::NoConcurrency`] if it is 0.
    pub async fn set_task_concurrency(
        &self,
        task: impl Into<String>,
        attempts: impl Into<Option<u64>>,
    ) -> Result<()> {
        let (task, attempts) = (task.into(), attempts.into());
        if attempts == Some(0) {
            let of = format!("task `{task}`");
            return Err(ControlError::NoConcurrency { of }.into());
        }
        self.control_task(task, ControlChange::Concurrency(attempts))
            .await
    }

    /// Returns the queues and tasks for which something was set, with what was set: queues first,
    /// by name. An eager app has none.
    ///
    /// # Errors
    ///
    /// [`Error::Store`], [`Error::ShutDown`] or [`Error::Halted`] if the store cannot be read.
    pub fn controls(&self) -> Result<Vec<Control>> {
        let stored = self.0.backend.view().reader()?.controls()?;
        let controls = stored.into_iter();
        Ok(controls.map(|(of, settings)| settings.of(of)).collect())
    }

    async fn control_queue(&self, queue: String, change: ControlChange) -> Result<()> {
        if let Some(SizeExceeded { bytes, limit }) = name_excess(&queue) {
            return Err(ControlError::NameTooLong { bytes, limit }.into());
        }
        let target = ControlTarget::Queue(queue);
        self.0.backend.control(target, change).await
    }

    async fn control_task(&self, task: String, change: ControlChange) -> Result<()> {
        let target = ControlTarget::Task(task);
        self.0.backend.control(target, change).await
    }
}
