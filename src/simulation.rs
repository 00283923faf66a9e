//! An app whose engine runs on the caller's thread, for simulations.

use std::sync::Arc;

use actix::Actor;
use tokio::runtime::Handle;
use tokio::task::LocalSet;
use uuid::Uuid;

use crate::actors::commit::committer::StoreActor;
use crate::app::node::Node;
use crate::app::{App, AppBuilder, Running};
use crate::backend::user_runtime::UserRuntime;
use crate::canvas::id::Id;
use crate::error::{Error, Result};
pub use crate::testing::simulation::{Chance, set_chance};

/// Starts an app in this thread's actix system, whose runtime also runs user code. Its store is
/// written only when `store` is polled. Dropping the system, not the app, stops everything, as a
/// crash does.
///
/// # Errors
///
/// As [`AppBuilder::start`].
pub async fn start(mut builder: AppBuilder, store: &LocalSet) -> Result<App> {
    let registry = builder.registry()?;
    let grace = builder.grace;
    let start_store = |actor: StoreActor| {
        let _there = store.enter();
        actor.start()
    };
    let workers = UserRuntime::new(Handle::current(), None);
    let (settings, seat) = builder.settings(registry);
    let node = Node::on(workers, settings);
    let engine = seat.start(&node, start_store).await?;
    Ok(App(Arc::new(Running {
        backend: engine,
        grace,
        engine: None,
        stops_when_dropped: false,
    })))
}

/// Shuts down an app that was started by [`start`], as [`App::shutdown`] does others.
///
/// # Errors
///
/// As [`App::shutdown`].
pub async fn shutdown(app: &App) -> Result<()> {
    let view = app.0.backend.view();
    let earlier = view.ended();
    // The end wakes every watch.
    let watch = view.watch(vec![Id::from(Uuid::nil())]);
    app.0.backend.stop(app.0.grace);
    let _ = watch.until(|| Ok(None::<()>)).await;
    view.close();
    view.end(Error::ShutDown);
    match earlier.or_else(|| view.ended()) {
        None | Some(Error::ShutDown) => Ok(()),
        Some(error) => Err(error),
    }
}
