//! Eager mode as a backend: a submission runs to its end before it returns.

use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, ready};

use super::store::EagerStore;
use crate::backend::durable_view::DurableView;
use crate::backend::retention_guard::RetentionGuard;
use crate::backend::{Backend, Inspect, WhenFull, choose_id, take_idempotency_key, take_task_id};
use crate::canvas::Canvas;
use crate::canvas::admission::control::{ControlChange, ControlTarget};
use crate::canvas::breaker::Breaker;
use crate::canvas::id::Id;
use crate::canvas::parked::ParkedTask;
use crate::canvas::quarantine::policy::Released;
use crate::canvas::revocation::NodeKey;
use crate::canvas::schedule::{Change, ScheduleEntry};
use crate::canvas::why::Why;
use crate::error::{ControlError, Error, IdError, Result, SubmitError};
use crate::persistence::records::definition::DefinitionPages;

impl Backend for EagerStore {
    fn view(&self) -> &Arc<DurableView> {
        &self.view
    }

    fn submit(
        self: Arc<Self>,
        canvas: Canvas,
        _: WhenFull,
        by: Option<Id>,
    ) -> BoxFuture<'static, Result<RetentionGuard>> {
        submit(self, canvas, by).boxed()
    }

    fn resubmit(
        self: Arc<Self>,
        root: Id,
        _: WhenFull,
        by: Option<Id>,
    ) -> BoxFuture<'static, Result<RetentionGuard>> {
        resubmit(self, root, by).boxed()
    }

    /// Its tasks are under no limit.
    fn breakers(&self) -> Vec<(String, Breaker)> {
        Vec::new()
    }

    fn new_id(&self) -> Id {
        self.ids.next(&self.view.clock)
    }

    /// Nothing waits.
    fn load_early(&self, _: Id) {}

    fn mark_revoked(&self, id: Id, _: NodeKey) -> BoxFuture<'_, Result<bool>> {
        ready(Err(Error::Id(IdError::NotRevocable { id }))).boxed()
    }

    fn forget(&self, id: Id) -> BoxFuture<'_, Result<()>> {
        ready(EagerStore::forget(self, id)).boxed()
    }

    /// What is visible is as durable as it will be.
    fn confirm(&self) -> BoxFuture<'_, Result<()>> {
        ready(Ok(())).boxed()
    }

    fn release(self: Arc<Self>, id: Id, _: Released) -> BoxFuture<'static, Result<bool>> {
        ready(Err(Error::Id(IdError::NotQuarantined { id }))).boxed()
    }

    fn resume(&self) -> BoxFuture<'_, Result<()>> {
        ready(self.view.check_open()).boxed()
    }

    fn control(&self, _: ControlTarget, _: ControlChange) -> BoxFuture<'_, Result<()>> {
        ready(Err(ControlError::Eager.into())).boxed()
    }

    /// A canvas with a task that cannot run is refused.
    fn parked(self: Arc<Self>) -> BoxFuture<'static, Result<Vec<ParkedTask>>> {
        ready(self.view.check_open().map(|()| Vec::new())).boxed()
    }

    fn change_schedule(
        self: Arc<Self>,
        name: String,
        _: Change<Canvas>,
    ) -> BoxFuture<'static, Result<Option<Id>>> {
        let reason = "an eager app submits nothing by itself".to_owned();
        let refused = SubmitError::InvalidSchedule { name, reason };
        ready(self.view.check_open().and(Err(refused.into()))).boxed()
    }

    fn schedules(&self) -> BoxFuture<'_, Result<Vec<ScheduleEntry>>> {
        ready(self.view.check_open().map(|()| Vec::new())).boxed()
    }

    fn why(self: Arc<Self>, id: Id) -> BoxFuture<'static, Result<Vec<Why>>> {
        let why = || {
            let location = self.view.reader()?.find(id)?;
            let location = location.ok_or(IdError::Unknown { id })?;
            let ended = self.view.reader()?.resolution(id.root(), &location)?;
            Ok(vec![match ended {
                Some(_) => Why::Ended,
                None => Why::Running,
            }])
        };
        ready(why()).boxed()
    }

    fn inspect(&self, inspect: Inspect) -> BoxFuture<'_, Result<u64>> {
        let result = || Ok(inspect(&**self.view.reader()?.store())?);
        ready(result()).boxed()
    }

    fn stop(&self, _: Duration) {
        self.view.close();
        self.view.end(Error::ShutDown);
    }
}

async fn submit(
    store: Arc<EagerStore>,
    mut canvas: Canvas,
    by: Option<Id>,
) -> Result<RetentionGuard> {
    let key = take_idempotency_key(&mut canvas)?;
    let id = take_task_id(&mut canvas);
    store.view.check_open()?;
    if let Some(key) = &key
        && let Some(earlier) = store.reader().submitted_as(key)?
    {
        return Ok(store.view.pin(earlier));
    }
    let Some(id) = id else {
        let root_id = store.ids.next(&store.view.clock);
        return submit_as(&store, root_id, canvas, key, by).await;
    };
    choose_id(&store.ids, &store.view, id)?;
    let submitted = submit_as(&store, id, canvas, key, by).await;
    store.ids.release(id);
    submitted
}

async fn submit_as(
    store: &Arc<EagerStore>,
    root_id: Id,
    canvas: Canvas,
    key: Option<String>,
    by: Option<Id>,
) -> Result<RetentionGuard> {
    let pages = DefinitionPages::new(root_id, canvas, key, &store.registry);
    let (segments, definition) = pages.all()?;
    super::run(store, root_id, definition, by, segments).await
}

async fn resubmit(store: Arc<EagerStore>, root: Id, by: Option<Id>) -> Result<RetentionGuard> {
    store.view.check_open()?;
    let reader = store.reader();
    let definition = reader.definition(root)?;
    let definition = definition.ok_or(IdError::Unknown { id: root })?;
    let root_id = store.ids.next(&store.view.clock);
    let (next, mut last) = (definition.header.next, None);
    let parts = reader.copy_parts(root, root_id, next, &mut last, usize::MAX)?;
    super::run(&store, root_id, definition, by, parts).await
}
