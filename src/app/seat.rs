//! The seat: one engine over one store, on the threads of a node.

use std::collections::BTreeSet;
#[cfg(feature = "sled")]
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use actix::{Actor, Addr};
use parking_lot::Mutex;
use tokio::sync::watch;

use super::node::Node;
use crate::actors::commit::committer::{Committer, StoreActor, WriteLock};
use crate::actors::context::{EngineContext, EngineParts, Limits, RecoveredState, TrialSettings};
use crate::actors::engine::schedules::{Declarations, Declared};
use crate::actors::engine::{EngineActor, sweeper};
use crate::actors::factory;
use crate::actors::handle::{Addresses, EngineHandle};
use crate::actors::scheduler::SchedulerActor;
use crate::backend::admission_control::AdmissionControl;
use crate::backend::durable_view::DurableView;
use crate::canvas::Canvas;
use crate::canvas::admission::pending_limit::Load;
use crate::canvas::admission::start_limits::Rule;
use crate::canvas::schedule::Schedule;
use crate::clock::{Clock, Ids};
use crate::error::{Result, StartError};
#[cfg(feature = "sled")]
use crate::persistence::SledStore;
use crate::persistence::records::meta;
use crate::persistence::records::reader::Reader;
use crate::persistence::records::schedules;
use crate::persistence::records::steady::ClockReading;
use crate::persistence::{Durability, Store};
use crate::task::{Registry, refuse_long_name};

/// How long an app over a store without a directory waits for the engines of dropped apps.
const STOP_TIMEOUT: Duration = Duration::from_secs(5);

#[derive(Debug)]
pub(super) enum Source {
    #[cfg(feature = "sled")]
    Sled(PathBuf),
    Given(Arc<dyn Store>),
    /// An own memory store, and all tasks run on the caller's thread.
    Eager,
}

/// The engines of dropped apps over stores that have no directory, and so no lock.
pub(super) static STOPPING: Mutex<Vec<watch::Receiver<()>>> = Mutex::new(Vec::new());

pub(super) fn is_running(ended: &watch::Receiver<()>) -> bool {
    ended.has_changed().is_ok()
}

/// Waits until these engines have ended: the store may be theirs.
async fn wait_for_stopping() {
    let stopping = STOPPING.lock().clone();
    let all = async {
        for mut ended in stopping {
            while ended.changed().await.is_ok() {}
        }
    };
    // (A store that never returns must not keep all others shut.)
    let _ = tokio::time::timeout(STOP_TIMEOUT, all).await;
}

/// The settings of one engine, and its store.
pub(crate) struct Seat {
    pub(super) store: Source,
    pub(super) durability: Durability,
    pub(super) retention: Duration,
    pub(super) limits: Limits,
    pub(super) trials: TrialSettings,
    pub(super) pending_limit: Load,
    pub(super) clock: Clock,
    pub(super) grace: Duration,
    pub(super) lock_timeout: Duration,
    /// The entries of schedules that are declared in code.
    pub(super) schedules: Vec<(String, Schedule, Canvas)>,
}

impl Seat {
    /// Starts the actors on this thread, and the store's actor through `start_store`.
    pub(crate) async fn start(
        self,
        node: &Node,
        start_store: impl FnOnce(StoreActor) -> Addr<StoreActor>,
    ) -> Result<Arc<EngineHandle>> {
        let declared = declared(self.schedules, &node.registry)?;
        let store: Arc<dyn Store> = match self.store {
            #[cfg(feature = "sled")]
            Source::Sled(directory) => {
                Arc::new(SledStore::open_within(directory, self.lock_timeout)?)
            }
            Source::Given(store) => {
                if store.directory().is_none() {
                    wait_for_stopping().await;
                }
                store
            }
            Source::Eager => unreachable!("an eager app has no engine"),
        };
        let reader = Reader::new(store.clone());
        let clock = self.clock.going_on(ClockReading::last(&*store)?.as_ref());
        let reading = clock.reading();
        let rates = node.registry.limits();
        let rates = rates.filter(|limit| matches!(limit.rule, Rule::Rate(_)));
        let additions: BTreeSet<_> = rates
            .flat_map(|limit| {
                let keyed = limit.by.map(|_| meta::KEYED_LIMITS);
                std::iter::once(meta::START_LIMITS).chain(keyed)
            })
            .collect();
        let additions: Vec<_> = additions.into_iter().collect();
        let recovered = RecoveredState::take(
            &*store,
            &reader,
            self.durability,
            self.trials,
            &reading,
            &additions,
        )?;
        let admission = AdmissionControl::new(self.pending_limit);
        admission.add(recovered.pending);
        let garbage = sweeper::garbage(&reader)?;
        let last = reader.last_id()?;
        let durable = Arc::new(AtomicU64::new(recovered.last_commit()));
        let view = Arc::new(DurableView::new(
            reader.up_to(durable.clone()),
            durable,
            clock.clone(),
            admission,
            Some(node.workers.clone()),
        ));
        let handle = EngineHandle::new(
            view.clone(),
            node.registry.clone(),
            node.workers.clone(),
            self.grace,
        );
        let handle = Arc::new(handle);
        let write_lock = WriteLock::new(store, self.durability);
        let store = start_store(StoreActor::new(write_lock.clone()));
        if !garbage.is_empty() {
            let purge = sweeper::purge_all(view, store.clone(), garbage);
            handle.runtime.spawn(purge);
        }
        let declarations = Declarations {
            at: clock.time(),
            entries: declared,
        };
        let scheduler = SchedulerActor::new(clock).start();
        let parts = EngineParts {
            reader,
            committer: Committer {
                write_lock,
                store: store.clone(),
            },
            scheduler,
            handle: handle.clone(),
            executor: node.executor.clone(),
            limits: self.limits,
            slots: node.slots.clone(),
            actors: factory::ACTORS,
        };
        let context = EngineContext::new(parts, recovered);
        let engine = EngineActor::new(context, self.retention, declarations).start();
        let ids = Ids::after(last);
        handle.set_addresses(Addresses {
            submissions: engine.clone().recipient(),
            engine: engine.clone().recipient(),
            shutdown: engine.recipient(),
            store,
            ids,
        });
        Ok(handle)
    }
}

/// Checks and freezes the entries that are declared in code.
fn declared(
    entries: Vec<(String, Schedule, Canvas)>,
    registry: &Registry,
) -> Result<Vec<Declared>> {
    let mut names = BTreeSet::new();
    let entries = entries.into_iter().map(|(name, schedule, canvas)| {
        refuse_long_name("schedule", &name, "")?;
        let checked = match names.insert(name.clone()) {
            true => schedule.check().map_err(|error| error.to_string()),
            false => Err("two schedules have this name".to_owned()),
        };
        let work = checked.and_then(|()| {
            let work = schedules::freeze(&schedule, canvas, registry);
            work.map_err(|error| error.to_string())
        });
        match work {
            Ok(work) => Ok(Declared {
                name,
                schedule,
                work,
            }),
            Err(reason) => Err(StartError::InvalidSchedule { name, reason }.into()),
        }
    });
    entries.collect()
}
