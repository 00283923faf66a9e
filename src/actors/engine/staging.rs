//! Staging: the parts of a submission that do not fit into its header are written before it, batch
//! by batch, as the canvas is drawn.

use std::panic::resume_unwind;
use std::sync::Arc;

use actix::Addr;
use tokio::sync::mpsc;

use super::admission_control::Reservation;
use super::sweeper;
use crate::actors::commit::committer;
use crate::actors::commit::committer::StoreActor;
use crate::backend::pool;
use crate::backend::view::Shared;
use crate::canvas::Canvas;
use crate::canvas::admission::pending_limit::Load;
use crate::canvas::freeze::CanvasError;
use crate::canvas::id::{Id, Seq};
use crate::error::{Error, Result};
use crate::persistence::records::codec;
use crate::persistence::records::codec::Kind;
use crate::persistence::records::definition::Definition;
use crate::persistence::records::keys;
use crate::persistence::{Batch, Pair};
use crate::testing::failpoint;
use crate::testing::failpoint::Point;

/// A submission is staged in batches of about this many bytes.
const BATCH: usize = 256 * 1_024;
/// The number of batches that may wait while one is written.
const AHEAD: usize = 2;
/// A canvas with at most this many nodes is frozen by its caller.
const SMALL: usize = 1_024;

/// The stored parts of a workflow whose header is not stored. Dropping this deletes them, unless
/// they are [handed over](Self::hand_over).
#[derive(Debug)]
pub(crate) struct Staged {
    shared: Arc<Shared>,
    store: Addr<StoreActor>,
    /// `None` if there is nothing to delete.
    root: Option<Id>,
}

/// Freezes the canvas and writes all of it but the header. A small canvas is frozen on the caller's
/// thread; a large one, whose iterators may also be slow, on a thread of the pool, a few batches
/// ahead of the disk.
pub(crate) async fn stage(
    shared: &Arc<Shared>,
    root: Id,
    canvas: Canvas,
    key: Option<String>,
    reservation: &mut Reservation,
) -> Result<(Definition, Staged)> {
    let mut staged = Staged {
        shared: shared.clone(),
        store: shared.engine_handle().client().store.clone(),
        root: None,
    };
    if canvas.has_at_most(SMALL) {
        let mut batches = Vec::new();
        let definition = freeze(shared, root, canvas, key, |batch, _| {
            batches.push(batch);
            Ok(())
        })?;
        reservation.set(definition.header.load());
        for batch in batches {
            staged.write(root, batch).await?;
        }
        return Ok((definition, staged));
    }
    let (batches, mut written) = mpsc::channel(AHEAD);
    let (job, definition) = pool::job({
        let shared = shared.clone();
        move || {
            freeze(&shared, root, canvas, key, |batch, drawn| {
                let dropped = |_| CanvasError::at_top("the submission was dropped");
                pollster::block_on(batches.send((batch, drawn))).map_err(dropped)
            })
        }
    });
    // Drawing waits for batches to be written, so it cannot run on this thread.
    if let Err((_, error)) = shared.engine_handle().runtime.try_run(job) {
        return Err(Error::no_thread("to draw a large canvas", &error));
    }
    let mut bytes = 0;
    while let Some((batch, drawn)) = written.recv().await {
        bytes += batch.bytes() as u64;
        // Later submissions must wait for this one even before it is complete.
        reservation.set(Load {
            tasks: drawn.max(1),
            bytes,
        });
        staged.write(root, batch).await?;
    }
    match definition.await {
        Ok(Ok(Ok(definition))) => {
            reservation.set(definition.header.load());
            Ok((definition, staged))
        }
        Ok(Ok(Err(error))) => {
            staged.discard().await;
            Err(error.into())
        }
        Ok(Err(panic)) => {
            staged.discard().await;
            resume_unwind(panic)
        }
        // The app stops.
        Err(_) => Err(stop_reason(shared)),
    }
}

fn freeze(
    shared: &Shared,
    root: Id,
    canvas: Canvas,
    key: Option<String>,
    mut send: impl FnMut(Batch, Seq) -> Result<(), CanvasError>,
) -> Result<Definition, CanvasError> {
    let mut batch = Batch::default();
    let put = &mut |(key, value): Pair, drawn| {
        batch.put(key, value);
        if batch.bytes() >= BATCH {
            send(std::mem::take(&mut batch), drawn)?;
        }
        Ok(())
    };
    let definition = Definition::freeze(root, canvas, key, &shared.registry, put)?;
    if !batch.is_empty() {
        send(batch, definition.header.next)?;
    }
    Ok(definition)
}

impl Staged {
    /// Hands the parts over to the engine, together with the header. Returns whether there are any:
    /// then their [garbage marker](keys::garbage_marker) must be deleted beside the header.
    pub(crate) fn hand_over(mut self) -> bool {
        self.root.take().is_some()
    }

    async fn write(&mut self, root: Id, mut batch: Batch) -> Result<()> {
        self.shared.reader()?.store().room()?;
        if self.root.replace(root).is_none() {
            batch.put(keys::garbage_marker(root), codec::encode(Kind::Mark, &()));
        }
        let answer = committer::commit(&self.store, batch).await;
        if let Err(error) = answer.map_err(|_| stop_reason(&self.shared))? {
            // No later write can be trusted.
            self.shared.end(error.clone().into());
            return Err(error.into());
        }
        failpoint::reach(Point::Staged);
        Ok(())
    }

    /// Deletes the parts now.
    async fn discard(mut self) {
        if let Some(root) = self.root {
            sweeper::purge(self.shared.clone(), self.store.clone(), root).await;
            // Only now: this future may be dropped while it waits, and then the drop deletes the
            // parts.
            self.root = None;
        }
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        if let Some(root) = self.root {
            let (shared, store) = (self.shared.clone(), self.store.clone());
            self.shared.engine_handle().runtime.spawn(async move {
                // A batch may still be queued: this empty commit is answered after it.
                if committer::commit(&store, Batch::default()).await.is_ok() {
                    sweeper::purge(shared, store, root).await;
                }
            });
        }
    }
}

/// Returns the reason why the engine does not answer.
pub(crate) fn stop_reason(shared: &Shared) -> Error {
    shared.ended().unwrap_or(Error::ShutDown)
}
