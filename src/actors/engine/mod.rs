//! The engine: supervises all workflows; stores them, ends them, and sweeps them.

mod admission;
pub(crate) mod client;
pub(crate) mod parked;
mod quarantine;
mod recovery;
mod retention;
mod revocation;
pub(crate) mod schedules;
pub(crate) mod staged;
mod staging;
mod submit;
pub(crate) mod sweeper;
mod workflows;

use std::collections::HashMap;
use std::time::Duration;

use actix::{Actor, AsyncContext, Context, Handler, ResponseFuture};

use self::admission::{Admission, AdmissionState};
use self::recovery::{Submitted, Unresumed};
use self::retention::Sweeps;
use self::schedules::{Declarations, Timetable};
use self::workflows::Live;
use super::child::Resume;
use super::commit::journal::PostCommit;
use super::context::EngineContext;
use super::event_queue::EventQueue;
use crate::canvas::id::Id;
use crate::canvas::time::{Earliest, Moment};
use crate::error::Error;
use crate::messages::engine::{Confirm, Control, EndPause, EngineMessage, Shutdown, Sweep};
use crate::messages::scheduler::{SetAlarm, Wake};
use crate::messages::supervisor::{ChildEvent, ChildExited, EventsReady, Launch, RestartChild};
use crate::testing::hooks;

/// The longest that a shutdown waits for the last commits.
const LAST_COMMITS: Duration = Duration::from_secs(10);

#[derive(Debug)]
pub(crate) struct EngineActor {
    engine: EngineContext,
    /// Set when the actor has started.
    events: Option<EventQueue>,
    workflows: HashMap<Id, Live>,
    /// Idempotency keys whose current workflow the store does not show yet. `None`: that workflow
    /// has been swept.
    keys: HashMap<String, Option<Id>>,
    /// The workflows that were live before a restart and are not resumed yet.
    unresumed: Option<Unresumed>,
    admission: AdmissionState,
    sweeps: Sweeps,
    timetable: Timetable,
    /// The entries that are declared in code, until the stored ones are read.
    declarations: Declarations,
    /// The alarm that was set with the scheduler.
    alarm: Earliest,
}

impl EngineActor {
    pub(crate) fn new(
        engine: EngineContext,
        retention: Duration,
        declarations: Declarations,
    ) -> Self {
        Self {
            admission: AdmissionState::new(engine.live_workflows()),
            sweeps: Sweeps::new(retention),
            timetable: Timetable::default(),
            declarations,
            engine,
            events: None,
            workflows: HashMap::new(),
            unresumed: None,
            keys: HashMap::new(),
            alarm: Earliest::default(),
        }
    }

    /// Sets the alarm for the next sweep, the next entry that is due or the next workflow that waits
    /// for its time, whichever is earliest.
    fn set_alarm(&mut self) {
        // If the engine were woken for a workflow that it cannot admit, it would be woken again at
        // once, over and over.
        let mut at = match self.can_admit() {
            true => self.admission.next_start,
            false => Earliest::default(),
        };
        self.timetable.first().moments().for_each(|due| at.add(due));
        if let Some(sweep_at) = self.sweeps.at {
            at.add(Moment::steady(sweep_at));
        }
        if at.is_before(self.alarm) {
            self.set_scheduler_alarm(at);
        }
    }

    fn set_scheduler_alarm(&mut self, at: Earliest) {
        self.alarm = at;
        let recipient = self.engine.engine_wake().clone();
        self.engine.scheduler().do_send(SetAlarm { at, recipient });
    }
}

impl Actor for EngineActor {
    type Context = Context<Self>;

    fn started(&mut self, context: &mut Self::Context) {
        let events = EventQueue::of(context, None);
        let address = context.address();
        self.engine.set_engine(
            address.clone().recipient(),
            address.recipient(),
            events.clone(),
        );
        self.events = Some(events);
        // From now on the scheduler wakes the engine when the clock is set.
        self.set_scheduler_alarm(Earliest::default());
        if let Err(error) = self.recover(context) {
            self.engine.halt(error.into());
        }
    }
}

impl Drop for EngineActor {
    /// Also runs when the engine's actor is lost. Then every waiter must get an error, and the
    /// thread must end, because no actor is left to receive a `Shutdown`.
    fn drop(&mut self) {
        if !self.engine.is_draining() {
            let view = self.engine.view();
            view.end(Error::Halted("its actor was lost".to_owned()));
            if let Some(system) = actix::System::try_current() {
                system.stop();
            }
        }
    }
}

impl Handler<EngineMessage> for EngineActor {
    type Result = ();

    fn handle(&mut self, message: EngineMessage, context: &mut Context<Self>) {
        let done = match message {
            EngineMessage::FindByKey(request) => self.find_by_key(request),
            EngineMessage::Confirm(Confirm { done }) => {
                self.engine.then(PostCommit::Done(done));
                Ok(())
            }
            EngineMessage::EndPause(EndPause { done }) => {
                self.engine.resume();
                // The caller may have stopped waiting.
                let _ = done.send(());
                Ok(())
            }
            EngineMessage::Control(Control {
                target,
                change,
                done,
            }) => {
                self.engine.control(target, change);
                self.engine.then(PostCommit::Done(done));
                Ok(())
            }
            EngineMessage::Release(request) => self.release(request),
            EngineMessage::Forget(request) => self.forget(request, context),
            EngineMessage::ChangeSchedule(request) => self.change_schedule(*request),
            EngineMessage::ListSchedules(done) => {
                // The caller may have stopped waiting.
                let _ = done.send(self.list_schedules());
                Ok(())
            }
            EngineMessage::Why(request) => {
                // The caller may have stopped waiting.
                let _ = request.done.send(self.engine.why(request.id, &request.def));
                Ok(())
            }
            EngineMessage::Revoke(request) => self.revoke(request),
            EngineMessage::Wanted(root) => self.start_early(root),
            EngineMessage::Sweep(sweep) => self.on_sweep(sweep),
            EngineMessage::KeyIsDurable(durable) => {
                self.forget_durable_key(&durable);
                Ok(())
            }
            EngineMessage::Stored(stored) => self.on_stored(stored),
            EngineMessage::RevocationDurable(request) => self.answer_revocation(request),
        };
        if let Err(error) = done {
            self.engine.halt(error.into());
        }
    }
}

impl Handler<EventsReady> for EngineActor {
    type Result = ();

    fn handle(&mut self, _: EventsReady, context: &mut Context<Self>) {
        let events = self.events.as_ref().map(EventQueue::drain);
        for event in events.into_iter().flatten() {
            match event {
                ChildEvent::Launch(launch) => {
                    let Launch { root, callback } = *launch;
                    hooks::fault("engine");
                    if self.engine.has_revoked()
                        && let Err(error) = self.check_launch(root, callback.node.seq)
                    {
                        self.engine.halt(error.into());
                    }
                    self.decide(root, |machine| machine.launch(callback), context);
                }
                ChildEvent::Ended(ended) => self.child_ended(ended, context),
                ChildEvent::Exited(ChildExited { root, index, lost }) => {
                    self.decide(root, |machine| machine.stopped(index, lost), context);
                }
                ChildEvent::Arrived(_) => {}
            }
        }
        if std::mem::take(&mut self.admission.has_capacity) {
            self.admit_waiting();
        }
    }
}

impl Handler<RestartChild> for EngineActor {
    type Result = ();

    fn handle(&mut self, RestartChild { root, index }: RestartChild, _: &mut Context<Self>) {
        let last = self
            .engine
            .reader()
            .last_change(root.workflow_stream(), index);
        match last.and_then(|last| Ok((self.stored_child(root, index)?, last))) {
            Ok((spec, last)) => self.start_child(spec, Resume::Stored(last)),
            Err(error) => self.engine.halt(error.into()),
        }
    }
}

impl Handler<Wake> for EngineActor {
    type Result = ();

    fn handle(&mut self, _: Wake, _: &mut Context<Self>) {
        self.alarm = Earliest::default();
        self.engine.note_clock();
        let now = self.engine.steady_ms();
        if self.sweeps.at.take_if(|at_ms| *at_ms <= now).is_some() {
            // Workflows that have just ended may not be in the store yet, which is where the sweep
            // looks for them.
            self.engine.notify(EngineMessage::Sweep(Sweep::Start));
        }
        self.engine.check_trials();
        self.engine.check_limits();
        self.run_schedules();
        self.admit_waiting();
    }
}

impl Handler<Shutdown> for EngineActor {
    type Result = ResponseFuture<()>;

    fn handle(&mut self, Shutdown { grace }: Shutdown, _: &mut Context<Self>) -> Self::Result {
        self.engine.drain();
        let engine = self.engine.clone();
        Box::pin(async move {
            wait_until_stable(grace, || engine.held() == 0).await;
            wait_until_stable(LAST_COMMITS, || engine.is_quiet()).await;
            engine.end_session();
            wait_until_stable(LAST_COMMITS, || engine.is_quiet()).await;
            engine.close(Error::ShutDown);
        })
    }
}

/// Waits until `done` holds in two checks in a row, for at most `limit`.
async fn wait_until_stable(limit: Duration, done: impl Fn() -> bool) {
    const POLL_INTERVAL: Duration = Duration::from_millis(1);
    let start = tokio::time::Instant::now();
    let mut held = false;
    while !(held && done()) && start.elapsed() < limit {
        held = done();
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}
