//! The stored parts of a submission that is not accepted yet.

use std::sync::Arc;

use actix::Addr;

use super::sweeper;
use crate::actors::commit::committer::{self, StoreActor};
use crate::backend::durable_view::DurableView;
use crate::backend::user_runtime::UserRuntime;
use crate::canvas::id::Id;
use crate::error::Result;
use crate::persistence::Batch;
use crate::persistence::records::codec::{self, Kind};
use crate::persistence::records::keys;
use crate::testing::failpoint::{self, Point};

/// The stored parts of a workflow whose header is not stored. Dropping this deletes them, unless
/// they are [handed over](Self::hand_over).
#[derive(Debug)]
pub(crate) struct Staged {
    view: Arc<DurableView>,
    store: Addr<StoreActor>,
    runtime: UserRuntime,
    /// `None` if there is nothing to delete.
    root: Option<Id>,
}

impl Staged {
    /// Returns no parts yet.
    pub(super) fn new(
        view: Arc<DurableView>,
        store: Addr<StoreActor>,
        runtime: UserRuntime,
    ) -> Self {
        Self {
            view,
            store,
            runtime,
            root: None,
        }
    }

    /// Hands the parts over to the engine, together with the header. Returns whether there are any:
    /// then their [garbage marker](keys::garbage_marker) must be deleted beside the header.
    pub(crate) fn hand_over(mut self) -> bool {
        self.root.take().is_some()
    }

    pub(super) async fn write(&mut self, root: Id, mut batch: Batch) -> Result<()> {
        self.view.reader()?.store().room()?;
        if self.root.replace(root).is_none() {
            batch.put(keys::garbage_marker(root), codec::encode(Kind::Mark, &()));
        }
        let answer = committer::commit(&self.store, batch).await;
        if let Err(error) = answer.map_err(|_| self.view.stop_reason())? {
            // No later write can be trusted.
            self.view.end(error.clone().into());
            return Err(error.into());
        }
        failpoint::reach(Point::Staged);
        Ok(())
    }

    /// Deletes the parts now.
    pub(super) async fn discard(mut self) {
        if let Some(root) = self.root {
            sweeper::purge(self.view.clone(), self.store.clone(), root).await;
            // Only now: this future may be dropped while it waits, and then the drop deletes the
            // parts.
            self.root = None;
        }
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        if let Some(root) = self.root {
            let (view, store) = (self.view.clone(), self.store.clone());
            self.runtime.spawn(async move {
                // A batch may still be queued: this empty commit is answered after it.
                if committer::commit(&store, Batch::default()).await.is_ok() {
                    sweeper::purge(view, store, root).await;
                }
            });
        }
    }
}
