//! The engine on the caller's thread, beside all else of a simulation.

use std::sync::Arc;

use actix::Actor;
use tokio::task::LocalSet;

use super::{App, AppBuilder, Running};
use crate::actors::store::StoreActor;
use crate::actors::user_runtime::UserRuntime;
use crate::error::{Error, Result};
use crate::messages::engine::Shutdown;

impl AppBuilder {
    /// Starts the engine in this thread's actix system, whose runtime runs user code as well. The
    /// store's actor lives in `store`, and so it writes when that is polled. Dropping the system, not
    /// the app, stops it all: as a crash does.
    pub(crate) async fn start_here(mut self, store: &LocalSet) -> Result<App> {
        let registry = self.registry()?;
        let grace = self.grace;
        let workers = UserRuntime::on_this_thread(tokio::runtime::Handle::current());
        let start_store = |actor: StoreActor| {
            let _there = store.enter();
            actor.start()
        };
        let shared = self.engine(registry).start(workers, start_store).await?;
        Ok(App(Arc::new(Running {
            shared,
            grace,
            engine: None,
        })))
    }
}

impl App {
    /// As [`App::shutdown`], of an app that was started here.
    pub(crate) async fn shutdown_here(&self) -> Result<()> {
        let already = self.0.shared.ended();
        let engine = &self.0.shared.engine_handle().client().engine;
        let grace = self.0.grace;
        // Who is gone by now has said why.
        let _ = engine.send(Shutdown { grace }).await;
        self.0.shared.close();
        self.0.shared.end(Error::ShutDown);
        match already.or_else(|| self.0.shared.ended()) {
            None | Some(Error::ShutDown) => Ok(()),
            Some(why) => Err(why),
        }
    }
}
