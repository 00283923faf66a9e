//! An actor per task and nothing else: no store, no records, no supervisors, no results.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use actix::prelude::*;
use anyhow::{Context as _, Result};
use tokio::runtime::{Builder, Handle};
use tokio::sync::{Notify, oneshot};

/// How many actors there are: each takes one task after the other.
const ACTORS: u64 = 1_024;

type Body = Pin<Box<dyn Future<Output = ()> + Send>>;

#[derive(Message)]
#[rtype(result = "()")]
struct Take;

#[derive(Message)]
#[rtype(result = "()")]
struct Finished;

/// Between the actors' thread and those that poll.
#[derive(Default)]
struct Between {
    orders: Mutex<Orders>,
    ended: Mutex<Vec<usize>>,
    bell: Notify,
}

#[derive(Default)]
struct Orders {
    waiting: VecDeque<(usize, Body)>,
    drivers: usize,
}

/// What all actors share.
struct Desk {
    /// Tasks that nobody has taken yet, and tasks that have not ended.
    untaken: Cell<u64>,
    left: Cell<u64>,
    /// What is handed out together once all actors have spoken.
    orders: RefCell<Vec<(usize, Body)>>,
    between: Arc<Between>,
    runtime: Handle,
    done: RefCell<Option<oneshot::Sender<()>>>,
}

struct Task {
    number: usize,
    desk: Rc<Desk>,
}

impl Actor for Task {
    type Context = Context<Self>;
}

impl Handler<Take> for Task {
    type Result = ();

    fn handle(&mut self, _: Take, _: &mut Context<Self>) {
        let mut orders = self.desk.orders.borrow_mut();
        orders.push((self.number, Box::pin(async {})));
        if orders.len() == 1 {
            let desk = self.desk.clone();
            actix::spawn(async move {
                tokio::task::yield_now().await;
                desk.hand_out();
            });
        }
    }
}

impl Handler<Finished> for Task {
    type Result = ();

    fn handle(&mut self, _: Finished, context: &mut Context<Self>) {
        let desk = &self.desk;
        desk.left.set(desk.left.get() - 1);
        if desk.left.get() == 0
            && let Some(done) = desk.done.take()
        {
            let _ = done.send(());
        }
        if let Some(untaken) = desk.untaken.get().checked_sub(1) {
            desk.untaken.set(untaken);
            context.address().do_send(Take);
        }
    }
}

impl Desk {
    fn hand_out(&self) {
        let threads = self.runtime.metrics().num_workers();
        let mut orders = self.between.orders.lock().expect("nobody panics");
        orders.waiting.extend(self.orders.borrow_mut().drain(..));
        let more = threads
            .min(orders.waiting.len())
            .saturating_sub(orders.drivers);
        orders.drivers += more;
        drop(orders);
        for _ in 0..more {
            self.runtime.spawn(drive(self.between.clone()));
        }
    }
}

async fn drive(between: Arc<Between>) {
    loop {
        let next = {
            let mut orders = between.orders.lock().expect("nobody panics");
            let next = orders.waiting.pop_front();
            orders.drivers -= usize::from(next.is_none());
            next
        };
        let Some((number, body)) = next else { return };
        body.await;
        between.ended.lock().expect("nobody panics").push(number);
        between.bell.notify_one();
    }
}

/// Runs `n` tasks that do nothing.
pub(crate) fn run(n: u64) -> Result<Duration> {
    let workers = Builder::new_multi_thread().build()?;
    let runtime = workers.handle().clone();
    let actors = std::thread::spawn(move || {
        let system = System::with_tokio_rt(|| {
            let runtime = Builder::new_current_thread().enable_time().build();
            runtime.expect("without sockets nothing is asked of the system")
        });
        system.block_on(all(n, runtime))
    });
    let took = actors.join().ok().context("the actors' thread panicked")?;
    workers.shutdown_background();
    Ok(took)
}

async fn all(n: u64, runtime: Handle) -> Duration {
    let (done, all_done) = oneshot::channel();
    let actors = n.min(ACTORS);
    let between = Arc::new(Between::default());
    let desk = Rc::new(Desk {
        untaken: Cell::new(n - actors),
        left: Cell::new(n),
        orders: RefCell::default(),
        between: between.clone(),
        runtime,
        done: RefCell::new(Some(done)),
    });
    let start = Instant::now();
    let tasks: Vec<_> = (0..actors as usize)
        .map(|number| {
            let desk = desk.clone();
            Task { number, desk }.start()
        })
        .collect();
    tasks.iter().for_each(|task| task.do_send(Take));
    actix::spawn(async move {
        loop {
            between.bell.notified().await;
            let ended = std::mem::take(&mut *between.ended.lock().expect("nobody panics"));
            ended
                .iter()
                .for_each(|number| tasks[*number].do_send(Finished));
        }
    });
    let _ = all_done.await;
    start.elapsed()
}
