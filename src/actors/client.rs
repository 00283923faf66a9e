//! The way in: a canvas is checked, stored and handed to the engine.

use std::sync::Arc;

use actix::Addr;
use tokio::sync::oneshot;

use super::clock::Ids;
use super::engine::{EngineActor, Submit};
use super::shared::{Pin, Shared, Site};
use super::store::{Commit, StoreActor};
use crate::canvas::id::Id;
use crate::canvas::{Canvas, freeze};
use crate::eager;
use crate::error::{Error, Result};
use crate::persistence::Batch;
use crate::persistence::codec::{self, Kind};
use crate::persistence::definition::Definition;

/// A submission is staged in batches of about this many bytes.
const STAGE: usize = 256 * 1_024;
/// The longest idempotency key, in bytes.
const MAX_KEY: usize = 1_024;

/// Whoever submits, the app or a task, goes this way.
#[derive(Debug)]
pub(crate) struct Client {
    pub(crate) engine: Addr<EngineActor>,
    pub(crate) store: Addr<StoreActor>,
    pub(crate) ids: Ids,
}

/// Submits a canvas. The pin says which workflow it became, and keeps it.
pub(crate) async fn submit(shared: &Arc<Shared>, mut canvas: Canvas) -> Result<Pin> {
    let key = canvas
        .extras
        .as_mut()
        .and_then(|extras| extras.idempotency_key.take());
    if let Some(key) = &key
        && (key.is_empty() || key.len() > MAX_KEY)
    {
        return Err(Error::Canvas {
            path: String::new(),
            reason: format!("an idempotency key has 1 to {MAX_KEY} bytes"),
        });
    }
    if let Some(why) = shared.ended() {
        return Err(why);
    }
    let root = freeze::freeze(canvas, &shared.registry)?;
    match &shared.site {
        Site::Engine(plant) => {
            let root_id = plant.client().ids.next(&shared.clock);
            send(
                shared,
                plant.client(),
                root_id,
                Definition::new(root_id, root, key),
            )
            .await
        }
        Site::InPlace(ledger) => {
            let root_id = ledger.ids.next(&shared.clock);
            eager::run(shared, ledger, root_id, Definition::new(root_id, root, key)).await
        }
    }
}

/// Stores the workflow and has the engine run it.
async fn send(
    shared: &Shared,
    client: &Client,
    root_id: Id,
    definition: Definition,
) -> Result<Pin> {
    let key = definition.head.idempotency_key.clone();
    // The head is the commit marker: it goes last.
    stage(shared, client, definition.segments).await?;
    let (durable, pin) = oneshot::channel();
    let submit = Submit {
        root_id,
        root: definition.root,
        next: definition.head.next,
        head: codec::encode(Kind::Head, &definition.head),
        idempotency_key: key,
        durable,
    };
    let gone = || gone(shared);
    // Waits for room in the mailbox: whoever submits faster than the engine takes in is slowed.
    client.engine.send(submit).await.map_err(|_| gone())?;
    pin.await.map_err(|_| gone())
}

async fn stage(shared: &Shared, client: &Client, segments: Vec<(Vec<u8>, Vec<u8>)>) -> Result<()> {
    let mut batch = Batch::default();
    let mut segments = segments.into_iter().peekable();
    while let Some((key, value)) = segments.next() {
        batch.put(key, value);
        if batch.bytes() >= STAGE || segments.peek().is_none() {
            let commit = Commit(std::mem::take(&mut batch));
            let answer = client.store.send(commit).await;
            let answer = answer.map_err(|_| gone(shared))?.await;
            if let Err(error) = answer.map_err(|_| gone(shared))? {
                // Nothing that is written after it can be trusted.
                shared.end(error.clone().into());
                return Err(error.into());
            }
        }
    }
    Ok(())
}

/// Why the engine does not answer.
fn gone(shared: &Shared) -> Error {
    shared.ended().unwrap_or(Error::ShutDown)
}
