//! The context that all actors of the engine share: it adds their decisions to the journal, commits
//! the journal to the store, and performs the actions that wait for the commit.

mod attempts;
mod breakers;
mod commits;
mod controls;
mod limits;
mod quarantine;
mod revocation;
mod session;
mod tasks;
mod updates;
mod values;
mod why;
mod workflows;

use std::cell::{OnceCell, RefCell};
use std::rc::Rc;
use std::sync::Arc;

use actix::{Addr, Recipient};

use self::breakers::Breakers;
use self::commits::Commits;
use self::controls::Controls;
use self::limits::TaskLimits;
use self::quarantine::Trials;
pub(crate) use self::quarantine::{RecoveredState, TrialSettings};
use self::session::SessionState;
use self::tasks::Tasks;
use self::workflows::Workflows;
use super::child::Child;
use super::commit::committer::Committer;
use super::dispatch::dispatcher::QueueSlots;
use super::event_queue::EventQueue;
use super::execute::executor::Executor;
use super::handle::EngineHandle;
use super::scheduler::SchedulerActor;
use crate::backend::durable_view::DurableView;
use crate::canvas::machine::task::Now;
use crate::canvas::quarantine::policy::{QuarantineHook, QuarantinePolicy};
use crate::canvas::revocation::Revocations;
use crate::canvas::time::Time;
use crate::clock::Clock;
use crate::messages::engine::EngineMessage;
use crate::messages::scheduler::Wake;
use crate::messages::task::TaskMessage;
use crate::persistence::records::reader::Reader;

/// Gives an actor access to the journal and to the other actors.
#[derive(Clone, Debug)]
pub(crate) struct EngineContext(Rc<Inner>);

#[derive(Debug)]
struct Inner {
    commits: Commits,
    workflows: Workflows,
    tasks: Tasks,
    trials: Trials,
    session: SessionState,
    revocations: RefCell<Revocations>,
    reader: Reader,
    scheduler: Addr<SchedulerActor>,
    engine: OnceCell<EngineAddresses>,
    actors: ActorFactory,
    handle: Arc<EngineHandle>,
    executor: Arc<Executor>,
    limits: Limits,
    controls: Controls,
    breakers: Breakers,
}

/// Starts the actors of children. The composition root hands it in, because these actors use the
/// context.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ActorFactory {
    /// Starts an idle task actor.
    pub(crate) start_task: fn(&EngineContext) -> Recipient<TaskMessage>,
    /// Starts the supervisor of a chain, group, chord or fold.
    pub(crate) start_supervisor: fn(&EngineContext, Box<Child>),
}

/// The addresses of the engine's actor.
#[derive(Debug)]
struct EngineAddresses {
    messages: Recipient<EngineMessage>,
    wake: Recipient<Wake>,
    events: EventQueue,
}

/// The limits on concurrent work, apart from the slots.
#[derive(Clone, Debug)]
pub(crate) struct Limits {
    /// The number of members of one group that are materialised at once.
    pub(crate) window: u64,
    /// The number of live workflows that start in one queue.
    pub(crate) live: usize,
    /// No task runs before [`EngineContext::resume`].
    pub(crate) is_paused: bool,
    /// The policy for quarantined tasks, and the hook that is called for them.
    pub(crate) quarantine: QuarantinePolicy,
    pub(crate) on_quarantine: Option<QuarantineHook>,
}

/// What a context is made of.
#[derive(Debug)]
pub(crate) struct EngineParts {
    pub(crate) reader: Reader,
    pub(crate) committer: Committer,
    pub(crate) scheduler: Addr<SchedulerActor>,
    pub(crate) handle: Arc<EngineHandle>,
    pub(crate) executor: Arc<Executor>,
    pub(crate) limits: Limits,
    pub(crate) slots: QueueSlots,
    pub(crate) actors: ActorFactory,
}

impl EngineContext {
    pub(crate) fn new(parts: EngineParts, recovered: RecoveredState) -> Self {
        let view = &parts.handle.view;
        let returns = parts.handle.inbox.returns().clone();
        let session = SessionState::new(
            recovered.session,
            recovered.additions,
            recovered.abort_note,
            recovered.last_root,
            recovered.pending,
            view.clock.time(),
        );
        let (task_limits, mut start_limits, mut outdated) = TaskLimits::new(
            &parts.handle.registry,
            recovered.starts,
            view.clock.steady_ms(),
        );
        let breakers = Breakers::new(task_limits.breakers().clone());
        let now_ms = view.clock.steady_ms();
        outdated.extend(breakers.restore(&mut start_limits, recovered.circuits, now_ms));
        let tasks = Tasks::new(returns, &parts.limits, task_limits, start_limits);
        let controls = Controls::new(parts.slots, recovered.controls);
        let engine = Self(Rc::new(Inner {
            commits: Commits::new(parts.committer, recovered.last_commit),
            workflows: Workflows::default(),
            tasks,
            trials: Trials::new(recovered.quarantine),
            session,
            revocations: RefCell::default(),
            reader: parts.reader,
            scheduler: parts.scheduler,
            engine: OnceCell::new(),
            actors: parts.actors,
            handle: parts.handle,
            executor: parts.executor,
            limits: parts.limits,
            controls,
            breakers,
        }));
        engine.open_quarantine(recovered.notes);
        engine.open_controls();
        engine.restore_updates(recovered.updates);
        for key in outdated {
            engine.delete(key);
        }
        if !engine.is_paused() {
            engine.begin_trials();
        }
        actix::spawn(engine.clone().deliver());
        engine
    }

    pub(crate) fn set_engine(
        &self,
        messages: Recipient<EngineMessage>,
        wake: Recipient<Wake>,
        events: EventQueue,
    ) {
        let first = self.0.engine.set(EngineAddresses {
            messages,
            wake,
            events,
        });
        first.expect("there is one engine");
        self.advance_trials();
    }

    fn engine(&self) -> &EngineAddresses {
        let engine = self.0.engine.get();
        engine.expect("set before anything runs")
    }

    /// Returns the address at which timers wake the engine.
    pub(crate) fn engine_wake(&self) -> &Recipient<Wake> {
        &self.engine().wake
    }

    /// Delivers the messages of attempts and returned slots for ever.
    async fn deliver(self) {
        let handle = self.handle().clone();
        loop {
            let (returned, messages) = handle.inbox.next().await;
            self.count_starts();
            for returned in returned {
                self.release(returned);
            }
            for (task, message) in messages {
                self.forward(task, message);
            }
        }
    }

    pub(crate) fn reader(&self) -> &Reader {
        &self.0.reader
    }

    pub(crate) fn handle(&self) -> &Arc<EngineHandle> {
        &self.0.handle
    }

    pub(crate) fn view(&self) -> &Arc<DurableView> {
        &self.handle().view
    }

    fn clock(&self) -> &Clock {
        &self.view().clock
    }

    pub(crate) fn scheduler(&self) -> &Addr<SchedulerActor> {
        &self.0.scheduler
    }

    /// Returns the wall-clock time in milliseconds since the Unix epoch.
    pub(crate) fn now_ms(&self) -> u64 {
        self.clock().now_ms()
    }

    /// Returns the time on the scale of delays, in milliseconds.
    pub(crate) fn steady_ms(&self) -> u64 {
        self.clock().steady_ms()
    }

    pub(crate) fn time(&self) -> Time {
        self.clock().time()
    }

    pub(crate) fn now(&self) -> Now {
        Now {
            time: self.time(),
            random: self.clock().random(),
        }
    }

    /// Starts the supervisor of a chain, group, chord or fold.
    pub(crate) fn start_supervisor(&self, child: Box<Child>) {
        (self.0.actors.start_supervisor)(self, child);
    }
}
