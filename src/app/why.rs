//! Why a workflow or a task waits.

use super::App;
use crate::canvas::id::Id;
use crate::canvas::why::Why;
use crate::error::Result;
#[cfg(doc)]
use crate::error::{Error, IdError};

impl App {
    /// Returns what a workflow, or a part of one, waits for: all reasons that are known, at least
    /// one. What runs is [`Why::Running`] and what has ended is [`Why::Ended`], so the answer is
    /// never empty. Of a chain, group, chord or fold it is the part that it waits for; ask for the
    /// reason of that part next.
    ///
    /// The records that are durable decide, and for tasks in memory the engine; the answer may be
    /// out of date when it arrives. For a group all its records are read, on a thread of the app. In
    /// an [eager](App::eager) app, which runs what is submitted at once, only a task that runs, or
    /// what contains it, has not ended.
    ///
    /// ```
    /// # use chordal::prelude::*;
    /// use chordal::Why;
    ///
    /// # #[task(queue = "mail")] async fn send(to: String) -> String { to }
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> chordal::Result<()> {
    /// # let app = App::in_memory().tasks(tasks![send]).start().await?;
    /// app.pause_queue("mail").await?;
    /// let sent = app.apply_async(send.s("ada".to_owned())).await?;
    /// let why = app.why(sent.id()).await?;
    /// assert!(why.contains(&Why::PausedQueue { queue: "mail".to_owned() }));
    /// assert_eq!(why[0].to_string(), "the queue `mail` is paused");
    ///
    /// app.resume_queue("mail").await?;
    /// sent.get().await?;
    /// assert_eq!(app.why(sent.id()).await?, [Why::Ended]);
    /// # app.shutdown().await }
    /// ```
    ///
    /// # Errors
    ///
    /// [`IdError::Unknown`]; [`Error::Store`], [`Error::ShutDown`] or [`Error::Halted`] if the
    /// engine no longer runs.
    pub async fn why(&self, id: Id) -> Result<Vec<Why>> {
        self.0.backend.clone().why(id).await
    }
}
