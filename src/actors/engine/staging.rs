//! Staging: the parts of a submission that do not fit into its header are written before it, batch
//! by batch, as the canvas is drawn.

use std::panic::resume_unwind;
use std::sync::Arc;

use tokio::sync::mpsc;

use super::staged::Staged;
use crate::actors::handle::EngineHandle;
use crate::backend::admission_control::Reservation;
use crate::backend::pool;
use crate::canvas::Canvas;
use crate::canvas::admission::pending_limit::Load;
use crate::canvas::freeze::CanvasError;
use crate::canvas::id::{Id, Seq};
use crate::error::{Error, IdError, Result};
use crate::persistence::Batch;
use crate::persistence::records::definition::{Definition, DefinitionPages};
use crate::persistence::records::reader::LastRead;
use crate::task::Registry;

/// A submission is staged in batches of about this many bytes.
const BATCH: usize = 256 * 1_024;
/// The number of batches that may wait while one is written.
const AHEAD: usize = 2;
/// A canvas with at most this many nodes is frozen by its caller.
const SMALL: usize = 1_024;

/// Freezes the canvas and writes all of it but the header. A small canvas is frozen on the caller's
/// thread; a large one, whose iterators may also be slow, on a thread of the pool, a few batches
/// ahead of the disk.
pub(crate) async fn stage(
    engine: &Arc<EngineHandle>,
    root: Id,
    canvas: Canvas,
    key: Option<String>,
    reservation: &mut Reservation,
) -> Result<(Definition, Staged)> {
    let store = engine.addresses().store.clone();
    let staged = Staged::new(engine.view.clone(), store, engine.runtime.clone());
    // What waits for the disk or for a thread is boxed: its state would make the future of every
    // small submission too large for malloc's fast path.
    if !canvas.has_at_most(SMALL) {
        let drawn = stage_from_pool(engine, root, canvas, key, staged, reservation);
        return Box::pin(drawn).await;
    }
    let (batches, definition) = Batches::of(&engine.registry, root, canvas, key).all()?;
    reservation.set(definition.header.load());
    if batches.is_empty() {
        return Ok((definition, staged));
    }
    Box::pin(write_all(root, batches, definition, staged)).await
}

async fn write_all(
    root: Id,
    batches: Vec<Batch>,
    definition: Definition,
    mut staged: Staged,
) -> Result<(Definition, Staged)> {
    for batch in batches {
        staged.write(root, batch).await?;
    }
    Ok((definition, staged))
}

/// Copies what workflow `from` was submitted with, all of it but the header, for workflow `root`.
pub(crate) async fn copy(
    engine: &Arc<EngineHandle>,
    from: Id,
    root: Id,
    reservation: &mut Reservation,
) -> Result<(Definition, Staged)> {
    let view = &engine.view;
    let definition = view
        .read(move |reader| Ok(reader.definition(from)?))
        .await?;
    let definition = definition.ok_or(IdError::Unknown { id: from })?;
    reservation.set(definition.header.load());
    let store = engine.addresses().store.clone();
    let mut staged = Staged::new(view.clone(), store, engine.runtime.clone());
    let (next, mut last) = (definition.header.next, LastRead::None);
    loop {
        let read = view.read(move |reader| {
            let parts = reader.copy_parts(from, root, next, &mut last, BATCH)?;
            Ok((parts, last))
        });
        let (parts, read_to) = read.await?;
        if parts.is_empty() {
            return Ok((definition, staged));
        }
        last = read_to;
        let mut batch = Batch::default();
        parts
            .into_iter()
            .for_each(|(key, value)| batch.put(key, value));
        staged.write(root, batch).await?;
    }
}

/// Draws the canvas on a thread of the pool and writes its batches as they come.
async fn stage_from_pool(
    engine: &Arc<EngineHandle>,
    root: Id,
    canvas: Canvas,
    key: Option<String>,
    mut staged: Staged,
    reservation: &mut Reservation,
) -> Result<(Definition, Staged)> {
    let (sender, mut written) = mpsc::channel(AHEAD);
    let (job, definition) = pool::job({
        let engine = engine.clone();
        move || {
            let mut batches = Batches::of(&engine.registry, root, canvas, key);
            for batch in &mut batches {
                let dropped = |_| CanvasError::at_top("the submission was dropped");
                pollster::block_on(sender.send(batch?)).map_err(dropped)?;
            }
            Ok::<_, CanvasError>(batches.finish())
        }
    });
    // Drawing waits for batches to be written, so it cannot run on this thread.
    if let Err((_, error)) = engine.runtime.try_run(job) {
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
        Err(_) => Err(engine.view.stop_reason()),
    }
}

/// The records of a submission, in batches: an iterator that draws the canvas as far as the next
/// batch. Each batch comes with the number of nodes so far.
struct Batches<'a>(DefinitionPages<'a>);

impl<'a> Batches<'a> {
    fn of(registry: &'a Registry, root: Id, canvas: Canvas, key: Option<String>) -> Self {
        Self(DefinitionPages::new(root, canvas, key, registry))
    }

    /// Draws the whole canvas.
    fn all(mut self) -> Result<(Vec<Batch>, Definition), CanvasError> {
        let batches = self.by_ref().map(|batch| Ok(batch?.0));
        let batches = batches.collect::<Result<_, _>>()?;
        Ok((batches, self.finish()))
    }

    fn finish(self) -> Definition {
        self.0.finish()
    }
}

impl Iterator for Batches<'_> {
    type Item = Result<(Batch, Seq), CanvasError>;

    fn next(&mut self) -> Option<Self::Item> {
        let mut batch = Batch::default();
        while batch.bytes() < BATCH {
            match self.0.next() {
                Some(Ok(page)) => page.into_iter().for_each(|(k, v)| batch.put(k, v)),
                Some(Err(error)) => return Some(Err(error)),
                None => break,
            }
        }
        (!batch.is_empty()).then(|| Ok((batch, self.0.drawn())))
    }
}
