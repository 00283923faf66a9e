//! The engine on the caller's thread, for simulations.

use std::sync::Arc;

use actix::Actor;
use tokio::task::LocalSet;
use uuid::Uuid;

use super::lifecycle::Running;
use super::{App, AppBuilder};
use crate::actors::commit::committer::StoreActor;
use crate::backend::user_runtime::UserRuntime;
use crate::canvas::id::Id;
use crate::error::{Error, Result};

impl AppBuilder {
    /// Starts the engine in this thread's actix system, whose runtime also runs user code. The
    /// store's actor runs in `store`, so it writes when `store` is polled. Dropping the system, not
    /// the app, stops everything, as a crash does.
    pub(crate) async fn start_here(mut self, store: &LocalSet) -> Result<App> {
        let registry = self.registry()?;
        let grace = self.grace;
        let workers = UserRuntime::on_this_thread(tokio::runtime::Handle::current());
        let start_store = |actor: StoreActor| {
            let _there = store.enter();
            actor.start()
        };
        let engine = self.engine(registry).start(workers, start_store).await?;
        Ok(App(Arc::new(Running {
            backend: engine,
            grace,
            engine: None,
            stops_when_dropped: false,
        })))
    }
}

impl App {
    /// Shuts down an app that was started with [`start_here`](AppBuilder::start_here).
    pub(crate) async fn shutdown_here(&self) -> Result<()> {
        let view = self.0.backend.view();
        let earlier = view.ended();
        // The end wakes every watch.
        let watch = view.watch(vec![Id::from(Uuid::nil())]);
        self.0.backend.stop(self.0.grace);
        let _ = watch.until(|| Ok(None::<()>)).await;
        view.close();
        view.end(Error::ShutDown);
        match earlier.or_else(|| view.ended()) {
            None | Some(Error::ShutDown) => Ok(()),
            Some(error) => Err(error),
        }
    }
}

/// Starts an app in this thread's actix system. Its store is written only when `store` is polled.
/// Dropping the system is a crash.
///
/// # Errors
///
/// As [`AppBuilder::start`].
pub async fn start(builder: AppBuilder, store: &LocalSet) -> Result<App> {
    builder.start_here(store).await
}

/// Shuts down an app that was started by [`start`], as [`App::shutdown`] does others.
///
/// # Errors
///
/// As [`App::shutdown`].
pub async fn shutdown(app: &App) -> Result<()> {
    app.shutdown_here().await
}
