//! The scheduler: one queue of timers for all.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};

use actix::{
    Actor, ActorFutureExt, AsyncContext, Context, Handler, Recipient, SpawnHandle, WrapFuture,
};

use super::clock::Clock;
use crate::canvas::time::{Earliest, Moment, Scale, Time};
use crate::messages::scheduler::{SetAlarm, Wake, WakeAt};

/// By how many milliseconds the wall clock drifts from the steady scale before it counts as set.
pub(crate) const DRIFT_MS: u64 = 200;

/// Wakes actors at their times, by one timer: a context that holds many is slow at every message.
#[derive(Debug)]
pub(crate) struct SchedulerActor {
    clock: Clock,
    /// Those that wait for a delay to end, and those that wait for a point in time: the first of them first.
    delays: Queue,
    points: Queue,
    /// Who waits, by number; the queues hold numbers because recipients have no order.
    who: HashMap<u64, Recipient<Wake>>,
    next: u64,
    /// The engine, and the alarm that it has set: one at a time.
    engine: Option<Recipient<Wake>>,
    alarm: Earliest,
    /// What the clocks showed when the wall clock was last seen to have been set.
    set: Time,
    /// The timer that runs, and when it ends on the steady scale.
    timer: Option<(u64, SpawnHandle)>,
}

type Queue = BinaryHeap<Reverse<(u64, u64)>>;

impl SchedulerActor {
    pub(crate) fn new(clock: Clock) -> Self {
        Self {
            delays: Queue::new(),
            points: Queue::new(),
            who: HashMap::new(),
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

    /// Wakes all whose time has come and sets the timer for the next.
    fn turn(&mut self, context: &mut Context<Self>) {
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

    /// Wakes those that wait on this scale and whose time has come; returns the next one's.
    fn wake(&mut self, scale: Scale, now: Time) -> Option<u64> {
        loop {
            let &Reverse((at_ms, number)) = self.queue(scale).peek()?;
            if at_ms > now.on(scale) {
                return Some(at_ms);
            }
            self.queue(scale).pop();
            if let Some(who) = self.who.remove(&number) {
                who.do_send(Wake);
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

    /// Looks again after so long; or earlier, since the clock may be set.
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
                    scheduler.turn(context);
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

    fn handle(&mut self, WakeAt { at, who }: WakeAt, context: &mut Context<Self>) {
        self.next += 1;
        let next = Reverse((at.ms, self.next));
        self.queue(at.scale).push(next);
        self.who.insert(self.next, who);
        self.turn(context);
    }
}

impl Handler<SetAlarm> for SchedulerActor {
    type Result = ();

    fn handle(&mut self, SetAlarm { at, who }: SetAlarm, context: &mut Context<Self>) {
        self.alarm = at;
        self.engine = Some(who);
        self.turn(context);
    }
}
