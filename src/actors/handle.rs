//! The handle of a running engine: what other threads have of it.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use actix::{Addr, Recipient};

use super::commit::committer::StoreActor;
use super::execute::cancellation::Cancellations;
use super::execute::inbox::Inbox;
use crate::backend::durable_view::DurableView;
use crate::backend::user_runtime::UserRuntime;
use crate::clock::Ids;
use crate::messages::engine::{EngineMessage, Shutdown, Submit};
use crate::task::Registry;

/// Gives other threads access to the engine.
#[derive(Debug)]
pub(crate) struct EngineHandle {
    pub(crate) view: Arc<DurableView>,
    pub(crate) registry: Arc<Registry>,
    /// Runs user code and timers.
    pub(crate) runtime: UserRuntime,
    pub(crate) inbox: Inbox,
    pub(crate) cancellations: Cancellations,
    /// Set when the engine starts.
    addresses: OnceLock<Addresses>,
}

/// The addresses of the engine and its store, and the source of ids.
#[derive(Debug)]
pub(crate) struct Addresses {
    pub(crate) submissions: Recipient<Submit>,
    pub(crate) engine: Recipient<EngineMessage>,
    pub(crate) shutdown: Recipient<Shutdown>,
    pub(crate) store: Addr<StoreActor>,
    pub(crate) ids: Ids,
}

impl EngineHandle {
    /// Creates the handle. A cancelled task that observes its cancellation has `grace` to clean up.
    pub(crate) fn new(
        view: Arc<DurableView>,
        registry: Arc<Registry>,
        runtime: UserRuntime,
        grace: Duration,
    ) -> Self {
        Self {
            cancellations: Cancellations::new(grace, view.clock.clone(), runtime.clone()),
            view,
            registry,
            runtime,
            inbox: Inbox::default(),
            addresses: OnceLock::new(),
        }
    }

    pub(crate) fn set_addresses(&self, addresses: Addresses) {
        let first = self.addresses.set(addresses);
        first.expect("there is one engine");
    }

    pub(crate) fn addresses(&self) -> &Addresses {
        self.addresses.get().expect("set before anything runs")
    }
}
