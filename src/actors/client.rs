//! The way in: a canvas is checked, stored and handed to the engine.

use std::sync::Arc;

use actix::prelude::SendError;
use actix::{Addr, Handler, Message};
use tokio::sync::oneshot;

use super::clock::Ids;
use super::engine::{Confirm, Earlier, EndPause, EngineActor, Forget, Release, Revoke, Submit};
use super::parked::parked;
use super::pins::Pin;
use super::room::{Reservation, Room};
use super::shared::{Plant, Shared, Site};
use super::staging::{self, gone};
use super::store::StoreActor;
use crate::canvas::Canvas;
use crate::canvas::id::Id;
use crate::canvas::machine::revocation::{Stand, answer};
use crate::canvas::machine::room::Weight;
use crate::canvas::revoked::Revoked;
use crate::eager;
use crate::error::{Error, Result};
use crate::messages::task::Released;
use crate::persistence::codec::{self, Kind};
use crate::persistence::definition::Definition;
use crate::persistence::reader::{Fate, Progress};

/// The longest idempotency key, in bytes.
const MAX_KEY: usize = 1_024;

/// Whoever submits, the app or a task, goes this way.
#[derive(Debug)]
pub(crate) struct Client {
    pub(crate) engine: Addr<EngineActor>,
    pub(crate) store: Addr<StoreActor>,
    pub(crate) ids: Ids,
}

/// What a submission does if there is no room for it.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Patience {
    /// It waits.
    Waits,
    /// It is refused.
    Refused,
    /// It is taken all the same: a task that submits holds what others wait for.
    Pushes,
}

/// Submits a canvas, `by` a running task or the app. The pin says which workflow it became, and keeps
/// it.
pub(crate) async fn submit(
    shared: &Arc<Shared>,
    mut canvas: Canvas,
    patience: Patience,
    by: Option<Id>,
) -> Result<Pin> {
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
    if let Some(key) = &key
        && let Some(earlier) = earlier(shared, key).await?
    {
        return Ok(earlier);
    }
    match &shared.site {
        Site::Engine(plant) => {
            let reservation = enter(shared, &plant.room, patience).await?;
            send(shared, plant.client(), canvas, key, by, reservation).await
        }
        Site::InPlace(ledger) => {
            let root_id = ledger.ids.next(&shared.clock);
            let mut segments = Vec::new();
            let put = &mut |pair, _| {
                segments.push(pair);
                Ok(())
            };
            let definition = Definition::freeze(root_id, canvas, key, &shared.registry, put)?;
            eager::run(shared, ledger, root_id, definition, by, segments).await
        }
    }
}

async fn enter(shared: &Shared, room: &Arc<Room>, patience: Patience) -> Result<Reservation> {
    match patience {
        Patience::Waits => room.enter().await.ok_or_else(|| gone(shared)),
        Patience::Pushes => Ok(room.force()),
        Patience::Refused => room.try_enter().ok_or_else(|| {
            let Weight { tasks, bytes } = room.taken();
            Error::Busy { tasks, bytes }
        }),
    }
}

/// Looks whether there is a workflow with this key before another is drawn and staged in vain. What
/// the key stands for is decided where it always is.
async fn earlier(shared: &Arc<Shared>, key: &str) -> Result<Option<Pin>> {
    let Some(earlier) = shared.reader()?.submitted_as(key)? else {
        return Ok(None);
    };
    let Site::Engine(plant) = &shared.site else {
        return Ok(Some(shared.pin(earlier)));
    };
    let (durable, pin) = oneshot::channel();
    let key = key.to_owned();
    let asked = plant.client().engine.send(Earlier { key, durable }).await;
    asked.map_err(|_| gone(shared))?;
    // No answer: it has been swept, or the engine has halted.
    Ok(pin.await.ok())
}

/// Stores the workflow and has the engine run it.
async fn send(
    shared: &Arc<Shared>,
    client: &Client,
    canvas: Canvas,
    key: Option<String>,
    by: Option<Id>,
    mut reservation: Reservation,
) -> Result<Pin> {
    shared.reader()?.store().room()?;
    let root_id = client.ids.next(&shared.clock);
    let (Definition { head, root }, staged) =
        staging::stage(shared, root_id, canvas, key, &mut reservation).await?;
    let (durable, pin) = oneshot::channel();
    let submit = Submit {
        root_id,
        root,
        next: head.next,
        // The commit marker: it goes last.
        head: codec::encode(Kind::Head, &head),
        idempotency_key: head.idempotency_key,
        by,
        staged,
        reservation,
        durable,
    };
    match client.engine.try_send(submit) {
        Ok(()) => {}
        // Waits for room in the mailbox: whoever submits faster than the engine takes in is slowed.
        Err(SendError::Full(submit)) => {
            let sent = client.engine.send(submit).await;
            sent.map_err(|_| gone(shared))?;
        }
        Err(SendError::Closed(_)) => return Err(gone(shared)),
    }
    pin.await.map_err(|_| gone(shared))
}

/// Tells the engine something, and waits for its answer.
async fn ask<M, T>(
    shared: &Shared,
    plant: &Plant,
    message: impl FnOnce(oneshot::Sender<T>) -> M,
) -> Result<T>
where
    M: Message<Result = ()> + Send + 'static,
    EngineActor: Handler<M>,
{
    let (done, answer) = oneshot::channel();
    let sent = plant.client().engine.send(message(done)).await;
    sent.map_err(|_| gone(shared))?;
    answer.await.map_err(|_| gone(shared))
}

/// Lets a task out of quarantine, or has a parked one fail. Says whether it is one that has been
/// parked: then it is about to end.
pub(crate) async fn release(shared: &Arc<Shared>, id: Id, released: Released) -> Result<bool> {
    let Site::Engine(plant) = &shared.site else {
        return Err(Error::NotQuarantined { id });
    };
    if let Some(why) = shared.ended() {
        return Err(why);
    }
    let mut parked = None;
    if released == Released::ToFail && !shared.is_quarantined(id) {
        parked = self::parked(shared).into_iter().find(|task| task.id == id);
    }
    let is_met = parked.is_some() && shared.parked_ticket(id).is_some();
    let release = |done| Release {
        id,
        released,
        parked,
        done,
    };
    ask(shared, plant, release).await??;
    Ok(is_met)
}

/// Returns when all that can be seen of the store is durable.
pub(crate) async fn confirm(shared: &Arc<Shared>) -> Result<()> {
    let Site::Engine(plant) = &shared.site else {
        return Ok(());
    };
    ask(shared, plant, |done| Confirm { done }).await?
}

/// Starts what waits, in an app that was started paused.
pub(crate) async fn resume(shared: &Arc<Shared>) -> Result<()> {
    if let Some(why) = shared.ended() {
        return Err(why);
    }
    match &shared.site {
        Site::Engine(plant) => ask(shared, plant, |done| EndPause { done }).await,
        Site::InPlace(_) => Ok(()),
    }
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
    ask(shared, plant, |done| Forget { root: id, done }).await?
}

/// Revokes a node, and all that is in it.
pub(crate) async fn revoke(shared: &Arc<Shared>, id: Id) -> Result<Revoked> {
    // It is not swept between the looks.
    let _pin = shared.pin(id);
    let Progress { stand, fate, .. } = shared.progress(id).await?;
    if fate.is_some() {
        return Ok(Revoked::AlreadyDone);
    }
    loop {
        let is_settled = mark(shared, id, stand).await?;
        let Progress {
            fate, has_begun, ..
        } = shared.progress(id).await?;
        let answer = match &fate {
            Some(Fate::Never) => Some(Revoked::AlreadyDone),
            Some(Fate::Ended(outcome)) => answer(Some(outcome), has_begun, is_settled),
            None => answer(None, has_begun, is_settled),
        };
        if let Some(answer) = answer {
            return Ok(answer);
        }
    }
}

/// Has a node marked as revoked. Says, once that is durable, whether all is settled that may have been
/// on its way.
async fn mark(shared: &Arc<Shared>, id: Id, stand: Stand) -> Result<bool> {
    let Site::Engine(plant) = &shared.site else {
        return Err(Error::NotRevocable { id });
    };
    if let Some(why) = shared.ended() {
        return Err(why);
    }
    let root = id.root();
    let revoke = |settled| Revoke {
        root,
        stand,
        settled,
    };
    ask(shared, plant, revoke).await
}
