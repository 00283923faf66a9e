//! The scheduler: one queue of timers for all.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use actix::{
    Actor, ActorFutureExt, AsyncContext, Context, Handler, Recipient, SpawnHandle, WrapFuture,
};

use super::clock::Clock;
use crate::messages::scheduler::{SetAlarm, Wake, WakeAt};

/// Wakes actors at their times, by one timer: a context that holds many is slow at every message.
#[derive(Debug)]
pub(crate) struct SchedulerActor {
    clock: Clock,
    waiting: BinaryHeap<Reverse<(u64, u64)>>,
    /// Who waits, by number; the heap holds numbers because recipients have no order.
    who: std::collections::HashMap<u64, Recipient<Wake>>,
    next: u64,
    /// The engine's: it has one at a time, however often it sets it anew.
    alarm: Option<(u64, Recipient<Wake>)>,
    /// The timer that runs, and what for.
    timer: Option<(u64, SpawnHandle)>,
}

impl SchedulerActor {
    pub(crate) fn new(clock: Clock) -> Self {
        Self {
            clock,
            waiting: BinaryHeap::new(),
            who: std::collections::HashMap::new(),
            next: 0,
            alarm: None,
            timer: None,
        }
    }

    /// From here on it is a delay: setting the clock back must not make it longer.
    fn elapsed_at(&self, at_ms: u64) -> u64 {
        let delay_ms = at_ms.saturating_sub(self.clock.now_ms());
        self.clock.elapsed_ms().saturating_add(delay_ms)
    }

    /// Wakes all whose time has come and sets the timer for the next.
    fn turn(&mut self, context: &mut Context<Self>) {
        let now = self.clock.elapsed_ms();
        while let Some(&Reverse((at_ms, number))) = self.waiting.peek()
            && at_ms <= now
        {
            self.waiting.pop();
            if let Some(who) = self.who.remove(&number) {
                who.do_send(Wake);
            }
        }
        if let Some((_, who)) = self.alarm.take_if(|(at_ms, _)| *at_ms <= now) {
            who.do_send(Wake);
        }
        let next = self.waiting.peek().map(|Reverse((at_ms, _))| *at_ms);
        let alarm = self.alarm.as_ref().map(|(at_ms, _)| *at_ms);
        let Some(at_ms) = next.into_iter().chain(alarm).min() else {
            return;
        };
        match self.timer {
            Some((set_for, _)) if set_for <= at_ms => {}
            earlier => {
                if let Some((_, handle)) = earlier {
                    context.cancel_future(handle);
                }
                let clock = self.clock.clone();
                let handle = context.spawn(
                    async move { clock.wait_until(at_ms).await }
                        .into_actor(self)
                        .map(|(), scheduler, context| {
                            scheduler.timer = None;
                            scheduler.turn(context);
                        }),
                );
                self.timer = Some((at_ms, handle));
            }
        }
    }
}

impl Actor for SchedulerActor {
    type Context = Context<Self>;
}

impl Handler<WakeAt> for SchedulerActor {
    type Result = ();

    fn handle(&mut self, WakeAt { at_ms, who }: WakeAt, context: &mut Context<Self>) {
        let at_ms = self.elapsed_at(at_ms);
        self.next += 1;
        self.waiting.push(Reverse((at_ms, self.next)));
        self.who.insert(self.next, who);
        self.turn(context);
    }
}

impl Handler<SetAlarm> for SchedulerActor {
    type Result = ();

    fn handle(&mut self, SetAlarm { at_ms, who }: SetAlarm, context: &mut Context<Self>) {
        self.alarm = Some((self.elapsed_at(at_ms), who));
        self.turn(context);
    }
}
