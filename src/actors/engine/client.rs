//! The client side of the engine: checks, stages and submits canvases, and sends requests about
//! workflows.

use std::sync::Arc;

use actix::prelude::SendError;
use actix::{Addr, Recipient};
use tokio::sync::oneshot;

use super::admission_control::{AdmissionControl, Reservation};
use super::parked::parked;
use super::staging;
use super::staging::stop_reason;
use crate::actors::commit::committer::StoreActor;
use crate::backend::retention_guard::RetentionGuard;
use crate::backend::view::{Backend, EngineHandle, Shared};
use crate::canvas::Canvas;
use crate::canvas::admission::pending_limit::Load;
use crate::canvas::id::Id;
use crate::canvas::revocation::{NodeKey, answer};
use crate::canvas::revoke_outcome::RevokeOutcome;
use crate::clock::Ids;
use crate::eager;
use crate::error::{Error, IdError, Result, SubmitError};
use crate::messages::engine::{
    Confirm, EndPause, EngineMessage, FindByKey, Forget, Release, Revoke, Shutdown, Submit,
};
use crate::messages::task::Released;
use crate::persistence::records::codec;
use crate::persistence::records::codec::Kind;
use crate::persistence::records::definition::Definition;
use crate::persistence::records::reader::{Progress, Resolution};

/// The longest idempotency key, in bytes.
const MAX_KEY: usize = 1_024;

/// The addresses and the id source that every submission uses, whether the app submits or a task.
#[derive(Debug)]
pub(crate) struct Client {
    pub(crate) submissions: Recipient<Submit>,
    pub(crate) engine: Recipient<EngineMessage>,
    pub(crate) shutdown: Recipient<Shutdown>,
    pub(crate) store: Addr<StoreActor>,
    pub(crate) ids: Ids,
}

/// What a submission does when the limit of pending work is reached.
#[derive(Clone, Copy, Debug)]
pub(crate) enum WhenFull {
    /// The submission waits.
    Wait,
    /// The submission fails.
    Reject,
    /// The submission is admitted above the limit: a submitting task holds a slot that other tasks
    /// wait for.
    Admit,
}

/// Submits a canvas; `by` is the running task that submits it, if one does. The returned guard
/// names the workflow and keeps it from being swept.
pub(crate) async fn submit(
    shared: &Arc<Shared>,
    mut canvas: Canvas,
    when_full: WhenFull,
    by: Option<Id>,
) -> Result<RetentionGuard> {
    let key = canvas
        .extras
        .as_mut()
        .and_then(|extras| extras.idempotency_key.take());
    if let Some(key) = &key
        && (key.is_empty() || key.len() > MAX_KEY)
    {
        return Err(Error::Submit(SubmitError::Canvas {
            path: String::new(),
            reason: format!("an idempotency key has 1 to {MAX_KEY} bytes"),
        }));
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
        Backend::Engine(engine) => {
            let reservation = acquire(shared, &engine.admission, when_full).await?;
            send(shared, engine.client(), canvas, key, by, reservation).await
        }
        Backend::Eager(store) => {
            let root_id = store.ids.next(&shared.clock);
            let mut segments = Vec::new();
            let put = &mut |pair, _| {
                segments.push(pair);
                Ok(())
            };
            let definition = Definition::freeze(root_id, canvas, key, &shared.registry, put)?;
            eager::run(shared, store, root_id, definition, by, segments).await
        }
    }
}

async fn acquire(
    shared: &Shared,
    admission: &Arc<AdmissionControl>,
    when_full: WhenFull,
) -> Result<Reservation> {
    match when_full {
        WhenFull::Wait => admission.acquire().await.ok_or_else(|| stop_reason(shared)),
        WhenFull::Admit => Ok(admission.acquire_over_limit()),
        WhenFull::Reject => admission.try_acquire().ok_or_else(|| {
            let Load { tasks, bytes } = admission.taken();
            Error::Submit(SubmitError::Busy { tasks, bytes })
        }),
    }
}

/// Returns the workflow that was submitted with this key before, so that no second one is drawn and
/// staged in vain. The engine still decides which workflow the key stands for.
async fn earlier(shared: &Arc<Shared>, key: &str) -> Result<Option<RetentionGuard>> {
    let Some(earlier) = shared.reader()?.submitted_as(key)? else {
        return Ok(None);
    };
    let Backend::Engine(engine) = &shared.backend else {
        return Ok(Some(shared.pin(earlier)));
    };
    let (durable, guard) = oneshot::channel();
    let key = key.to_owned();
    let asked = engine
        .client()
        .engine
        .send(EngineMessage::FindByKey(FindByKey { key, durable }))
        .await;
    asked.map_err(|_| stop_reason(shared))?;
    // The engine drops the sender if the workflow has been swept or the engine has halted.
    Ok(guard.await.ok())
}

/// Stages the workflow and sends it to the engine.
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
    let (Definition { header, root }, staged) =
        staging::stage(shared, root_id, canvas, key, &mut reservation).await?;
    let (durable, guard) = oneshot::channel();
    let submit = Submit {
        root_id,
        root,
        next: header.next,
        // The commit marker, which is written last.
        header: codec::encode(Kind::Head, &header),
        idempotency_key: header.idempotency_key,
        by,
        staged,
        reservation,
        durable,
    };
    match client.submissions.try_send(submit) {
        Ok(()) => {}
        // Waits for space in the mailbox, which slows down callers that submit faster than the
        // engine accepts.
        Err(SendError::Full(submit)) => {
            let sent = client.submissions.send(submit).await;
            sent.map_err(|_| stop_reason(shared))?;
        }
        Err(SendError::Closed(_)) => return Err(stop_reason(shared)),
    }
    guard.await.map_err(|_| stop_reason(shared))
}

/// Sends the engine a request and waits for its answer.
async fn ask<T>(
    shared: &Shared,
    engine: &EngineHandle,
    message: impl FnOnce(oneshot::Sender<T>) -> EngineMessage,
) -> Result<T> {
    let (done, answer) = oneshot::channel();
    let sent = engine.client().engine.send(message(done)).await;
    sent.map_err(|_| stop_reason(shared))?;
    answer.await.map_err(|_| stop_reason(shared))
}

/// Releases a task from quarantine, or makes a parked one fail. Returns whether the task is parked
/// in memory: then it is about to end.
pub(crate) async fn release(shared: &Arc<Shared>, id: Id, released: Released) -> Result<bool> {
    let Backend::Engine(engine) = &shared.backend else {
        return Err(Error::Id(IdError::NotQuarantined { id }));
    };
    if let Some(why) = shared.ended() {
        return Err(why);
    }
    let mut parked = None;
    if released == Released::ToFail && !shared.is_quarantined(id) {
        parked = self::parked(shared).into_iter().find(|task| task.id == id);
    }
    let is_met = parked.is_some() && shared.parked_key(id).is_some();
    let release = |done| {
        EngineMessage::Release(Release {
            id,
            released,
            parked,
            done,
        })
    };
    ask(shared, engine, release).await??;
    Ok(is_met)
}

/// Waits until everything that is visible in the store is durable.
pub(crate) async fn confirm(shared: &Arc<Shared>) -> Result<()> {
    let Backend::Engine(engine) = &shared.backend else {
        return Ok(());
    };
    ask(shared, engine, |done| {
        EngineMessage::Confirm(Confirm { done })
    })
    .await?
}

/// Starts the waiting tasks of an app that was started paused.
pub(crate) async fn resume(shared: &Arc<Shared>) -> Result<()> {
    if let Some(why) = shared.ended() {
        return Err(why);
    }
    match &shared.backend {
        Backend::Engine(engine) => {
            ask(shared, engine, |done| {
                EngineMessage::EndPause(EndPause { done })
            })
            .await
        }
        Backend::Eager(_) => Ok(()),
    }
}

/// Marks a workflow so that its result is deleted as soon as it has ended.
pub(crate) async fn forget(shared: &Arc<Shared>, id: Id) -> Result<()> {
    if id != id.root() {
        return Err(Error::Id(IdError::NotARoot { id }));
    }
    let engine = match &shared.backend {
        Backend::Engine(engine) => engine,
        Backend::Eager(store) => return store.forget(shared, id),
    };
    ask(shared, engine, |done| {
        EngineMessage::Forget(Forget { root: id, done })
    })
    .await?
}

/// Revokes a node with everything below it.
pub(crate) async fn revoke(shared: &Arc<Shared>, id: Id) -> Result<RevokeOutcome> {
    // The guard keeps the workflow from being swept between the reads.
    let _guard = shared.pin(id);
    let Progress {
        node_key: node,
        resolution,
        ..
    } = shared.progress(id).await?;
    if resolution.is_some() {
        return Ok(RevokeOutcome::AlreadyDone);
    }
    loop {
        let is_settled = mark(shared, id, node).await?;
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

/// Marks a node as revoked. Returns, once the mark is durable, whether every record that may have
/// been on its way is settled.
async fn mark(shared: &Arc<Shared>, id: Id, node: NodeKey) -> Result<bool> {
    let Backend::Engine(engine) = &shared.backend else {
        return Err(Error::Id(IdError::NotRevocable { id }));
    };
    if let Some(why) = shared.ended() {
        return Err(why);
    }
    let root = id.root();
    let revoke = |settled| {
        EngineMessage::Revoke(Revoke {
            root,
            node,
            settled,
        })
    };
    ask(shared, engine, revoke).await
}
