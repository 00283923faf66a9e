//! The scheduler: one queue of timers for all.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use actix::{
    Actor, ActorFutureExt, AsyncContext, Context, Handler, Recipient, SpawnHandle, WrapFuture,
};

use super::clock::Clock;
use crate::messages::scheduler::{Wake, WakeAt};

/// Wakes actors at their times, by one timer: a context that holds many is slow at every message.
#[derive(Debug)]
pub(crate) struct SchedulerActor {
    clock: Clock,
    waiting: BinaryHeap<Reverse<(u64, u64)>>,
    /// Who waits, by number; the heap holds numbers because recipients have no order.
    who: std::collections::HashMap<u64, Recipient<Wake>>,
    next: u64,
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
            timer: None,
        }
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
        let Some(&Reverse((at_ms, _))) = self.waiting.peek() else {
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
        // From here on it is a delay: setting the clock back must not make it longer.
        let delay_ms = at_ms.saturating_sub(self.clock.now_ms());
        let at_ms = self.clock.elapsed_ms().saturating_add(delay_ms);
        self.next += 1;
        self.waiting.push(Reverse((at_ms, self.next)));
        self.who.insert(self.next, who);
        self.turn(context);
    }
}
