//! The stamps that a handle shows.

use std::collections::BTreeMap;

use super::AsyncResult;
use crate::error::Result;

impl<O> AsyncResult<O> {
    /// Returns the [stamps](crate::Signature::stamp) by their names: of a task its own, of a chain,
    /// group or chord those that all tasks in it have with the same value. Those of a large group
    /// are read from all of its members.
    ///
    /// ```
    /// # use chordal::prelude::*;
    /// # #[task] async fn add(x: i64, y: i64) -> i64 { x + y }
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> chordal::Result<()> {
    /// # let app = App::in_memory().tasks(tasks![add]).start().await?;
    /// let both = group([add.s(1, 1).stamp("half", "first"), add.s(2, 2)]).stamp("tenant", "acme");
    /// let both = app.apply_async(both).await?;
    /// assert_eq!(both.stamps().await?.into_iter().collect::<Vec<_>>(), [("tenant".into(), "acme".into())]);
    /// let members = both.children::<i64>().await?;
    /// assert_eq!(members[0].stamps().await?["half"], "first");
    /// # app.shutdown().await }
    /// ```
    ///
    /// # Errors
    ///
    /// As [`state`](Self::state).
    pub async fn stamps(&self) -> Result<BTreeMap<String, String>> {
        let stamps = self.read(|target, reader| {
            let location = target.find(reader)?;
            Ok(reader.stamps(target.id.root(), &location.node)?)
        });
        Ok(stamps.await?.as_map().clone())
    }
}
