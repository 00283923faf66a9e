//! The way in: a canvas is checked, stored and handed to the engine.

use std::sync::Arc;

use actix::Addr;
use tokio::sync::oneshot;

use super::clock::Ids;
use super::engine::{EngineActor, Forget, Submit};
use super::shared::{Pin, Shared, Site};
use super::store::{Commit, StoreActor};
use crate::canvas::id::Id;
use crate::canvas::{Canvas, freeze};
use crate::eager;
use crate::error::{Error, Result};
use crate::persistence::codec::{self, Kind};
use crate::persistence::definition::Definition;
use crate::persistence::{Batch, keys};

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
    let is_staged = !definition.segments.is_empty();
    stage(shared, client, root_id, definition.segments).await?;
    let (durable, pin) = oneshot::channel();
    let submit = Submit {
        root_id,
        root: definition.root,
        next: definition.head.next,
        is_staged,
        head: codec::encode(Kind::Head, &definition.head),
        idempotency_key: key,
        durable,
    };
    let gone = || gone(shared);
    // Waits for room in the mailbox: whoever submits faster than the engine takes in is slowed.
    client.engine.send(submit).await.map_err(|_| gone())?;
    pin.await.map_err(|_| gone())
}

/// Has a workflow's result deleted as soon as it has ended.
pub(crate) async fn forget(shared: &Arc<Shared>, id: Id) -> Result<()> {
    if id != id.root() {
        return Err(Error::NotARoot { id });
    }
    let plant = match &shared.site {
        Site::Engine(plant) => plant,
        Site::InPlace(ledger) => return ledger.forget(shared, id),
    };
    let (done, answer) = oneshot::channel();
    let forget = Forget { root: id, done };
    let engine = &plant.client().engine;
    engine.send(forget).await.map_err(|_| gone(shared))?;
    answer.await.map_err(|_| gone(shared))?
}

async fn stage(
    shared: &Shared,
    client: &Client,
    root_id: Id,
    segments: Vec<(Vec<u8>, Vec<u8>)>,
) -> Result<()> {
    let mut batch = Batch::default();
    if !segments.is_empty() {
        // What is left of it if its head never comes is found by this.
        batch.put(keys::remains(root_id), codec::encode(Kind::Mark, &()));
    }
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
