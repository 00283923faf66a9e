//! The way in: a canvas is checked, stored and handed to the engine.

use std::sync::Arc;

use actix::prelude::SendError;
use actix::{Addr, Handler, Message};
use tokio::sync::oneshot;

use super::admission_control::{AdmissionControl, Reservation};
use super::clock::Ids;
use super::engine::{Confirm, Earlier, EndPause, EngineActor, Forget, Release, Revoke, Submit};
use super::parked::parked;
use super::retention_guard::RetentionGuard;
use super::shared::{Backend, EngineHandle, Shared};
use super::staging::{self, gone};
use super::store::StoreActor;
use crate::canvas::Canvas;
use crate::canvas::id::Id;
use crate::canvas::machine::pending_limit::Load;
use crate::canvas::machine::revocation::{NodeKey, answer};
use crate::canvas::revoke_outcome::RevokeOutcome;
use crate::eager;
use crate::error::{Error, Result};
use crate::messages::task::Released;
use crate::persistence::codec::{self, Kind};
use crate::persistence::definition::Definition;
use crate::persistence::reader::{Progress, Resolution};

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
pub(crate) enum WhenFull {
    /// It waits.
    Wait,
    /// It is refused.
    Reject,
    /// It is taken all the same: a task that submits holds what others wait for.
    Admit,
}

/// Submits a canvas, `by` a running task or the app. The pin says which workflow it became, and keeps
/// it.
pub(crate) async fn submit(
    shared: &Arc<Shared>,
    mut canvas: Canvas,
    patience: WhenFull,
    by: Option<Id>,
) -> Result<RetentionGuard> {
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
    match &shared.backend {
        Backend::Engine(plant) => {
            let reservation = acquire(shared, &plant.admission, patience).await?;
            send(shared, plant.client(), canvas, key, by, reservation).await
        }
        Backend::Eager(ledger) => {
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

async fn acquire(
    shared: &Shared,
    room: &Arc<AdmissionControl>,
    patience: WhenFull,
) -> Result<Reservation> {
    match patience {
        WhenFull::Wait => room.acquire().await.ok_or_else(|| gone(shared)),
        WhenFull::Admit => Ok(room.acquire_over_limit()),
        WhenFull::Reject => room.try_acquire().ok_or_else(|| {
            let Load { tasks, bytes } = room.taken();
            Error::Busy { tasks, bytes }
        }),
    }
}

/// Looks whether there is a workflow with this key before another is drawn and staged in vain. What
/// the key stands for is decided where it always is.
async fn earlier(shared: &Arc<Shared>, key: &str) -> Result<Option<RetentionGuard>> {
    let Some(earlier) = shared.reader()?.submitted_as(key)? else {
        return Ok(None);
    };
    let Backend::Engine(plant) = &shared.backend else {
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
) -> Result<RetentionGuard> {
    shared.reader()?.store().room()?;
    let root_id = client.ids.next(&shared.clock);
    let (Definition { header: head, root }, staged) =
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
    plant: &EngineHandle,
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
    let Backend::Engine(plant) = &shared.backend else {
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
    let Backend::Engine(plant) = &shared.backend else {
        return Ok(());
    };
    ask(shared, plant, |done| Confirm { done }).await?
}

/// Starts what waits, in an app that was started paused.
pub(crate) async fn resume(shared: &Arc<Shared>) -> Result<()> {
    if let Some(why) = shared.ended() {
        return Err(why);
    }
    match &shared.backend {
        Backend::Engine(plant) => ask(shared, plant, |done| EndPause { done }).await,
        Backend::Eager(_) => Ok(()),
    }
}

/// Has a workflow's result deleted as soon as it has ended.
pub(crate) async fn forget(shared: &Arc<Shared>, id: Id) -> Result<()> {
    if id != id.root() {
        return Err(Error::NotARoot { id });
    }
    let plant = match &shared.backend {
        Backend::Engine(plant) => plant,
        Backend::Eager(ledger) => return ledger.forget(shared, id),
    };
    ask(shared, plant, |done| Forget { root: id, done }).await?
}

/// Revokes a node, and all that is in it.
pub(crate) async fn revoke(shared: &Arc<Shared>, id: Id) -> Result<RevokeOutcome> {
    // It is not swept between the looks.
    let _pin = shared.pin(id);
    let Progress {
        node_key,
        resolution,
        ..
    } = shared.progress(id).await?;
    if resolution.is_some() {
        return Ok(RevokeOutcome::AlreadyDone);
    }
    loop {
        let is_settled = mark(shared, id, node_key).await?;
        let Progress {
            resolution,
            has_begun,
            ..
        } = shared.progress(id).await?;
        let answer = match &resolution {
            Some(Resolution::Never) => Some(RevokeOutcome::AlreadyDone),
            Some(Resolution::Ended(outcome)) => answer(Some(outcome), has_begun, is_settled),
            None => answer(None, has_begun, is_settled),
        };
        if let Some(answer) = answer {
            return Ok(answer);
        }
    }
}

/// Has a node marked as revoked. Says, once that is durable, whether all is settled that may have been
/// on its way.
async fn mark(shared: &Arc<Shared>, id: Id, stand: NodeKey) -> Result<bool> {
    let Backend::Engine(plant) = &shared.backend else {
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
