//! The scheduler: keeps the timers of all actors.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};

use actix::{
    Actor, ActorFutureExt, AsyncContext, Context, Handler, Recipient, SpawnHandle, WrapFuture,
};

use crate::canvas::time::{Earliest, Moment, Scale, Time};
use crate::clock::Clock;
use crate::messages::scheduler::{SetAlarm, Wake, WakeAt};

/// By how many milliseconds the wall clock drifts from the steady scale before it counts as set.
pub(crate) const DRIFT_MS: u64 = 200;

/// Wakes actors at their times with a single timer: an actix context that holds many timers is slow
/// at every message.
#[derive(Debug)]
pub(crate) struct SchedulerActor {
    clock: Clock,
    /// Timers of delays and of points in time, each ordered by time.
    delays: Queue,
    points: Queue,
    /// The recipients by number; the queues hold numbers because recipients have no order.
    recipients: HashMap<u64, Recipient<Wake>>,
    next: u64,
    /// The engine and its alarm; there is one alarm at a time.
    engine: Option<Recipient<Wake>>,
    alarm: Earliest,
    /// The clock reading at which the wall clock was last seen to have been set.
    set: Time,
    /// The running timer, and its end on the steady scale.
    timer: Option<(u64, SpawnHandle)>,
}

type Queue = BinaryHeap<Reverse<(u64, u64)>>;

impl SchedulerActor {
    pub(crate) fn new(clock: Clock) -> Self {
        Self {
            delays: Queue::new(),
            points: Queue::new(),
            recipients: HashMap::new(),
            next: 0,
            engine: None,
            alarm: Earliest::default(),
            set: clock.time(),
            timer: None,
            clock,
        }
    }

    fn queue(&mut self, scale: Scale) -> &mut Queue {
        match scale {
            Scale::Steady => &mut self.delays,
            Scale::Wall => &mut self.points,
        }
    }

    /// Wakes the actors whose time has come, and sets the timer for the next.
    fn fire_due(&mut self, context: &mut Context<Self>) {
        let now = self.clock.time();
        let mut first = Earliest::default();
        for scale in [Scale::Steady, Scale::Wall] {
            if let Some(ms) = self.wake(scale, now) {
                first.add(Moment { scale, ms });
            }
        }
        self.wake_engine(now);
        self.alarm.moments().for_each(|moment| first.add(moment));
        if let Some(left_ms) = first.left_ms(now) {
            self.wake_after(left_ms, now, context);
        }
    }

    /// Wakes the actors whose time on this scale has come; returns the next time.
    fn wake(&mut self, scale: Scale, now: Time) -> Option<u64> {
        loop {
            let &Reverse((at_ms, number)) = self.queue(scale).peek()?;
            if at_ms > now.on(scale) {
                return Some(at_ms);
            }
            self.queue(scale).pop();
            if let Some(recipient) = self.recipients.remove(&number) {
                recipient.do_send(Wake);
            }
        }
    }

    fn wake_engine(&mut self, now: Time) {
        let is_set = now.ahead_ms().abs_diff(self.set.ahead_ms()) > DRIFT_MS;
        if is_set {
            self.set = now;
        }
        let has_come = self.alarm.has_come(now);
        if has_come {
            self.alarm = Earliest::default();
        }
        if let Some(engine) = self.engine.as_ref().filter(|_| is_set || has_come) {
            engine.do_send(Wake);
        }
    }

    /// Sets the timer to fire after `left_ms`, or earlier, since the clock may be set.
    fn wake_after(&mut self, left_ms: u64, now: Time, context: &mut Context<Self>) {
        let at_ms = now.steady_ms.saturating_add(left_ms);
        if let Some((set_for, handle)) = self.timer {
            if set_for <= at_ms {
                return;
            }
            context.cancel_future(handle);
        }
        let clock = self.clock.clone();
        let handle = context.spawn(
            async move { clock.rest(now, left_ms).await }
                .into_actor(self)
                .map(|(), scheduler, context| {
                    scheduler.timer = None;
                    scheduler.fire_due(context);
                }),
        );
        self.timer = Some((at_ms, handle));
    }
}

impl Actor for SchedulerActor {
    type Context = Context<Self>;
}

impl Handler<WakeAt> for SchedulerActor {
    type Result = ();

    fn handle(&mut self, WakeAt { at, recipient }: WakeAt, context: &mut Context<Self>) {
        self.next += 1;
        let next = Reverse((at.ms, self.next));
        self.queue(at.scale).push(next);
        self.recipients.insert(self.next, recipient);
        self.fire_due(context);
    }
}

impl Handler<SetAlarm> for SchedulerActor {
    type Result = ();

    fn handle(&mut self, SetAlarm { at, recipient }: SetAlarm, context: &mut Context<Self>) {
        self.alarm = at;
        self.engine = Some(recipient);
        self.fire_due(context);
    }
}
