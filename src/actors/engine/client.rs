//! The engine as a backend: submits canvases to its actor, and sends it the requests of handles.

use std::sync::Arc;
use std::time::Duration;

use actix::prelude::SendError;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::sync::oneshot;

use super::staged::Staged;
use super::{parked, staging};
use crate::actors::commit::committer;
use crate::actors::handle::EngineHandle;
use crate::backend::admission_control::Reservation;
use crate::backend::durable_view::DurableView;
use crate::backend::retention_guard::RetentionGuard;
use crate::backend::why::{self, Known};
use crate::backend::{Backend, Inspect, WhenFull, choose_id, take_idempotency_key, take_task_id};
use crate::canvas::Canvas;
use crate::canvas::admission::control::{ControlChange, ControlTarget};
use crate::canvas::admission::pending_limit::Load;
use crate::canvas::breaker::Breaker;
use crate::canvas::id::Id;
use crate::canvas::parked::ParkedTask;
use crate::canvas::quarantine::policy::Released;
use crate::canvas::revocation::NodeKey;
use crate::canvas::schedule::{Change, ScheduleEntry};
use crate::canvas::why::Why;
use crate::error::{ControlError, Error, Result, SubmitError};
use crate::messages::engine;
use crate::messages::engine::{
    ChangeSchedule, Confirm, Control, EndPause, EngineMessage, FindByKey, Forget, Release, Revoke,
    Shutdown, Submit,
};
use crate::persistence::records::codec::{self, Kind};
use crate::persistence::records::definition::Definition;
use crate::persistence::records::reader::Reader;
use crate::persistence::records::schedules;

impl Backend for EngineHandle {
    fn view(&self) -> &Arc<DurableView> {
        &self.view
    }

    fn submit(
        self: Arc<Self>,
        canvas: Canvas,
        when_full: WhenFull,
        by: Option<Id>,
    ) -> BoxFuture<'static, Result<RetentionGuard>> {
        submit(self, canvas, when_full, by).boxed()
    }

    fn resubmit(
        self: Arc<Self>,
        root: Id,
        when_full: WhenFull,
        by: Option<Id>,
    ) -> BoxFuture<'static, Result<RetentionGuard>> {
        resubmit(self, root, when_full, by).boxed()
    }

    fn breakers(&self) -> Vec<(String, Breaker)> {
        let breakers = self.registry.breakers();
        breakers.map(|(name, of)| (name.to_owned(), of)).collect()
    }

    fn new_id(&self) -> Id {
        self.addresses().ids.next(&self.view.clock)
    }

    fn load_early(&self, root: Id) {
        self.addresses().engine.do_send(EngineMessage::Wanted(root));
    }

    fn mark_revoked(&self, id: Id, node: NodeKey) -> BoxFuture<'_, Result<bool>> {
        let root = id.root();
        let revoke = move |settled| {
            EngineMessage::Revoke(Revoke {
                root,
                node,
                settled,
            })
        };
        async move {
            self.view.check_open()?;
            self.ask(revoke).await
        }
        .boxed()
    }

    fn forget(&self, root: Id) -> BoxFuture<'_, Result<()>> {
        let forget = move |done| EngineMessage::Forget(Forget { root, done });
        async move { self.ask(forget).await? }.boxed()
    }

    fn confirm(&self) -> BoxFuture<'_, Result<()>> {
        let confirm = |done| EngineMessage::Confirm(Confirm { done });
        async move { self.ask(confirm).await? }.boxed()
    }

    fn release(self: Arc<Self>, id: Id, released: Released) -> BoxFuture<'static, Result<bool>> {
        release(self, id, released).boxed()
    }

    fn resume(&self) -> BoxFuture<'_, Result<()>> {
        async move {
            self.view.check_open()?;
            self.ask(|done| EngineMessage::EndPause(EndPause { done }))
                .await
        }
        .boxed()
    }

    fn control(&self, target: ControlTarget, change: ControlChange) -> BoxFuture<'_, Result<()>> {
        async move {
            self.view.check_open()?;
            if let ControlTarget::Task(name) = &target
                && self.registry.get(name).is_none()
            {
                let name = name.clone();
                return Err(ControlError::UnknownTask { name }.into());
            }
            let control = |done| {
                EngineMessage::Control(Control {
                    target,
                    change,
                    done,
                })
            };
            self.ask(control).await?
        }
        .boxed()
    }

    fn parked(self: Arc<Self>) -> BoxFuture<'static, Result<Vec<ParkedTask>>> {
        parked(self).boxed()
    }

    fn change_schedule(
        self: Arc<Self>,
        name: String,
        change: Change<Canvas>,
    ) -> BoxFuture<'static, Result<Option<Id>>> {
        async move {
            self.view.check_open()?;
            let change = match change {
                Change::Add(schedule, canvas) => {
                    self.view.reader()?.store().room()?;
                    let work = schedules::freeze(&schedule, canvas, &*self.registry)?;
                    Change::Add(schedule, work)
                }
                Change::Remove => Change::Remove,
                Change::Pause => Change::Pause,
                Change::Resume => Change::Resume,
                Change::Trigger => Change::Trigger,
            };
            let request = |done| {
                EngineMessage::ChangeSchedule(Box::new(ChangeSchedule { name, change, done }))
            };
            self.ask(request).await?
        }
        .boxed()
    }

    fn schedules(&self) -> BoxFuture<'_, Result<Vec<ScheduleEntry>>> {
        async move {
            self.view.check_open()?;
            self.ask(EngineMessage::ListSchedules).await
        }
        .boxed()
    }

    fn why(self: Arc<Self>, id: Id) -> BoxFuture<'static, Result<Vec<Why>>> {
        async move {
            let engine = self.clone();
            let look =
                move |reader: &Reader| why::known(&engine.view, &engine.registry, reader, id);
            let (def, has_started, known) = match self.view.read(look).await? {
                Known::Whole(why) => return Ok(vec![why]),
                Known::Task {
                    def,
                    has_started,
                    why,
                } => (Box::new(def), has_started, why),
            };
            let ask = |done| EngineMessage::Why(engine::Why { id, def, done });
            let waits = self.ask(ask).await?;
            Ok(why::combine(has_started, known, waits))
        }
        .boxed()
    }

    fn inspect(&self, inspect: Inspect) -> BoxFuture<'_, Result<u64>> {
        async move {
            self.view.reader()?;
            let result = committer::inspect(&self.addresses().store, inspect).await;
            Ok(result.map_err(|_| self.view.stop_reason())??)
        }
        .boxed()
    }

    fn stop(&self, grace: Duration) {
        self.addresses().shutdown.do_send(Shutdown { grace });
    }
}

impl EngineHandle {
    /// Sends the engine a request and waits for its answer.
    async fn ask<T>(&self, message: impl FnOnce(oneshot::Sender<T>) -> EngineMessage) -> Result<T> {
        let (done, answer) = oneshot::channel();
        let sent = self.addresses().engine.send(message(done)).await;
        sent.map_err(|_| self.view.stop_reason())?;
        answer.await.map_err(|_| self.view.stop_reason())
    }

    async fn acquire(&self, when_full: WhenFull) -> Result<Reservation> {
        let admission = &self.view.admission;
        match when_full {
            WhenFull::Wait => {
                let reservation = admission.acquire().await;
                reservation.ok_or_else(|| self.view.stop_reason())
            }
            WhenFull::Admit => Ok(admission.acquire_over_limit()),
            WhenFull::Reject => admission.try_acquire().ok_or_else(|| {
                let Load { tasks, bytes } = admission.taken();
                Error::Submit(SubmitError::Busy { tasks, bytes })
            }),
        }
    }

    /// Returns the workflow that was submitted with this key before, so that no second one is drawn
    /// and staged in vain. The engine still decides which workflow the key stands for.
    async fn earlier(&self, key: &str) -> Result<Option<RetentionGuard>> {
        if self.view.reader()?.submitted_as(key)?.is_none() {
            return Ok(None);
        }
        let (durable, guard) = oneshot::channel();
        let key = key.to_owned();
        let find = EngineMessage::FindByKey(FindByKey { key, durable });
        let asked = self.addresses().engine.send(find).await;
        asked.map_err(|_| self.view.stop_reason())?;
        // The engine drops the sender if the workflow has been swept or the engine has halted.
        Ok(guard.await.ok())
    }
}

async fn submit(
    engine: Arc<EngineHandle>,
    mut canvas: Canvas,
    when_full: WhenFull,
    by: Option<Id>,
) -> Result<RetentionGuard> {
    let key = take_idempotency_key(&mut canvas)?;
    let id = take_task_id(&mut canvas);
    engine.view.check_open()?;
    if let Some(key) = &key
        && let Some(earlier) = Box::pin(engine.earlier(key)).await?
    {
        return Ok(earlier);
    }
    let reservation = engine.acquire(when_full).await?;
    let ids = &engine.addresses().ids;
    let Some(id) = id else {
        let root_id = ids.next(&engine.view.clock);
        return send(&engine, root_id, canvas, key, by, reservation).await;
    };
    choose_id(ids, &engine.view, id)?;
    // (If this future is dropped, the submission may still come to its end, and the id stays taken.)
    let sent = Box::pin(send(&engine, id, canvas, key, by, reservation)).await;
    ids.release(id);
    sent
}

/// Stages the workflow and sends it to the engine.
async fn send(
    engine: &Arc<EngineHandle>,
    root_id: Id,
    canvas: Canvas,
    key: Option<String>,
    by: Option<Id>,
    mut reservation: Reservation,
) -> Result<RetentionGuard> {
    engine.view.reader()?.store().room()?;
    let (definition, staged) =
        staging::stage(engine, root_id, canvas, key, &mut reservation).await?;
    deliver(engine, root_id, definition, by, staged, reservation).await
}

/// Submits again what a stored workflow was submitted with. The caller keeps that from being swept.
async fn resubmit(
    engine: Arc<EngineHandle>,
    root: Id,
    when_full: WhenFull,
    by: Option<Id>,
) -> Result<RetentionGuard> {
    engine.view.check_open()?;
    let mut reservation = engine.acquire(when_full).await?;
    engine.view.reader()?.store().room()?;
    let root_id = engine.addresses().ids.next(&engine.view.clock);
    let (definition, staged) = staging::copy(&engine, root, root_id, &mut reservation).await?;
    deliver(&engine, root_id, definition, by, staged, reservation).await
}

/// Sends a staged workflow to the engine, and waits until it is accepted.
async fn deliver(
    engine: &Arc<EngineHandle>,
    root_id: Id,
    definition: Definition,
    by: Option<Id>,
    staged: Staged,
    reservation: Reservation,
) -> Result<RetentionGuard> {
    let addresses = engine.addresses();
    let (durable, guard) = oneshot::channel();
    let submit = submission(root_id, definition, by, staged, reservation, durable);
    let full = match addresses.submissions.try_send(submit) {
        Ok(()) => None,
        // Boxed, as the message is large and the future of every submission would hold it.
        Err(SendError::Full(submit)) => Some(Box::pin(addresses.submissions.send(submit))),
        Err(SendError::Closed(_)) => return Err(engine.view.stop_reason()),
    };
    // Waits for space in the mailbox, which slows down callers that submit faster than the engine
    // accepts.
    if let Some(sent) = full {
        sent.await.map_err(|_| engine.view.stop_reason())?;
    }
    guard.await.map_err(|_| engine.view.stop_reason())
}

fn submission(
    root_id: Id,
    Definition { header, root }: Definition,
    by: Option<Id>,
    staged: Staged,
    reservation: Reservation,
    durable: oneshot::Sender<RetentionGuard>,
) -> Submit {
    Submit {
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
    }
}

/// Reads all unfinished workflows, on the pool.
async fn parked(engine: Arc<EngineHandle>) -> Result<Vec<ParkedTask>> {
    let view = engine.view.clone();
    view.read(move |reader| parked::parked(&engine.view, &engine.registry, reader))
        .await
}

async fn release(engine: Arc<EngineHandle>, id: Id, released: Released) -> Result<bool> {
    engine.view.check_open()?;
    let mut parked = None;
    if released == Released::ToFail && !engine.view.is_quarantined(id) {
        let all = self::parked(engine.clone()).await?;
        parked = all.into_iter().find(|task| task.id == id);
    }
    let is_met = parked.is_some() && engine.view.parked_key(id).is_some();
    let release = |done| {
        EngineMessage::Release(Release {
            id,
            released,
            parked,
            done,
        })
    };
    engine.ask(release).await??;
    Ok(is_met)
}
