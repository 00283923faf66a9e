//! A life: from one opening of the store to its end by a crash, a failure or a shutdown.

use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use actix::System;
use chordal::persistence::Store;
use chordal::simulation;
use chordal::{App, AsyncResult, Error, Id, IdError};
use serde_json::Value;
use tokio::task::LocalSet;

use crate::controls;
use crate::dice::Dice;
use crate::disk::Disk;
use crate::lookups;
use crate::model::{origin, plain};
use crate::plan::{Forgets, LifeEnd, Plan};
use crate::progress::Records;
use crate::races;
use crate::revoke;
use crate::world::{World, WorldChance};

/// The maximum steps of a life; one that takes more is stuck.
const MAX_STEPS: usize = 20_000;
/// The maximum steps until the store is swept.
const STEPS_TO_SWEEP: usize = 2_000;

/// How a life ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    /// All flows are done, and swept.
    AllGone,
    /// All flows are done.
    Done,
    Cleanly,
    /// Unsynced writes may be lost.
    Crashed,
    Stuck,
}

/// Opens the store and runs the engine until `end`.
pub(crate) fn live(
    world: &Rc<World>,
    disk: &Disk,
    end: Option<(usize, LifeEnd)>,
    last: bool,
) -> Ended {
    let system = System::with_tokio_rt(|| {
        tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .expect("it needs nothing")
    });
    world.begin_life();
    world.log(|| format!("life {}, until {end:?}", world.lives.get()));
    simulation::set_chance(Rc::new(WorldChance(world.clone())));
    if let Some((_, LifeEnd::StoreFails { calls, once })) = end {
        disk.fail_after(calls, once);
    }
    let mut driver = Driver {
        world: world.clone(),
        disk: disk.clone(),
        store: LocalSet::new(),
        last,
        records: Records::since(world.passed_ms()),
    };
    let ended = system.block_on(driver.drive(end));
    if ended == Ended::Crashed {
        // The engine is dropped now, and would flush its writes.
        disk.cut_off();
    }
    ended
}

struct Driver {
    world: Rc<World>,
    disk: Disk,
    /// The store's actor runs in it.
    store: LocalSet,
    last: bool,
    records: Records,
}

impl Driver {
    async fn drive(&mut self, end: Option<(usize, LifeEnd)>) -> Ended {
        let world = self.world.clone();
        let builder = world.plan.builder(self.disk.clone(), world.clock.clone());
        let app = match simulation::start(builder, &self.store).await {
            Ok(app) => app,
            Err(error) => {
                if !self.disk.has_failed() {
                    world.report_fault(format!("it does not open: {error}"));
                }
                return Ended::Crashed;
            }
        };
        // (It reads on the app's threads, which get their turns in the steps.)
        let check = tokio::task::spawn_local({
            let (world, app) = (world.clone(), app.clone());
            async move { check_after_opening(&world, &app).await }
        });
        while !check.is_finished() && !self.disk.has_failed() {
            self.step().await;
        }
        for flow in 0..world.plan.flows.len() {
            let (world, app) = (world.clone(), app.clone());
            tokio::task::spawn_local(async move {
                if let Err(error) = follow(&world, &app, flow).await {
                    check_error(&world, &error);
                }
            });
        }
        tokio::task::spawn_local({
            let (world, app) = (world.clone(), app.clone());
            async move {
                if let Err(error) = controls::operate(&world, &app).await {
                    check_error(&world, &error);
                }
            }
        });
        let mut stopping = None;
        let mut steps_left = None;
        for step in 0..MAX_STEPS {
            self.step().await;
            if let Some(fault) = self.records.look(&self.disk, world.passed_ms()) {
                world.report_fault(fault);
            }
            if self.disk.has_failed() {
                if self.disk.was_called_after_failure() {
                    world.report_fault("it was written to a store that had failed".to_owned());
                    return Ended::Crashed;
                }
                // The engine halts, and callers get no more answers: this is checked for a few
                // steps.
                let left = steps_left.get_or_insert_with(|| world.dice.roll(20));
                if *left == 0 {
                    return Ended::Crashed;
                }
                *left -= 1;
                continue;
            }
            if stopping
                .as_ref()
                .is_some_and(tokio::task::JoinHandle::is_finished)
            {
                return Ended::Cleanly;
            }
            match end {
                Some((at, LifeEnd::Crash)) if at == step => return Ended::Crashed,
                Some((at, LifeEnd::Shutdown)) if at == step => {
                    let (world, app) = (world.clone(), app.clone());
                    stopping = Some(tokio::task::spawn_local(async move {
                        if let Err(error) = simulation::shutdown(&app).await {
                            check_error(&world, &error);
                        }
                    }));
                }
                _ => {}
            }
            // A task that was running at each crash is suspected, and wrongly.
            for task in app.quarantined() {
                let (world, app) = (world.clone(), app.clone());
                tokio::task::spawn_local(async move {
                    match app.requeue(task.id).await {
                        Ok(()) | Err(Error::Id(IdError::NotQuarantined { .. })) => {}
                        Err(error) => check_error(&world, &error),
                    }
                });
            }
            if stopping.is_none() && self.is_done() {
                match self.last {
                    true => return self.sweep().await,
                    false => return Ended::Done,
                }
            }
        }
        world.log(|| format!("the store holds {:?}", self.keys(b"a", b"z")));
        Ended::Stuck
    }

    /// Waits until all tasks are idle, and lets one event happen.
    async fn step(&mut self) {
        // The runtime's own time stands still until no task can continue without it.
        tokio::time::sleep(Duration::from_millis(1)).await;
        let world = &self.world;
        world.step();
        let calls = self.disk.calls();
        if world.dice.percent(world.plan.trouble.write_percent) {
            self.write().await;
            return;
        }
        if world.give_a_turn() {
            return;
        }
        self.write().await;
        if self.disk.calls() == calls {
            let world = &self.world;
            let most = world.dice.pick(&[1, 20, 1_000, 10_000]);
            world.pass_time(Duration::from_millis(most));
        }
    }

    /// Lets the store's actor receive the queued batches and write them.
    async fn write(&mut self) {
        for _ in 0..3 {
            poll_fn(|context| {
                let _ = Pin::new(&mut self.store).poll(context);
                Poll::Ready(())
            })
            .await;
        }
    }

    fn is_done(&self) -> bool {
        let holds = |from: &[u8], to: &[u8]| self.disk.scan(from, to).next().is_some();
        let submitted = &self.world.submitted;
        submitted.iter().all(|flow| flow.borrow().done) && !holds(b"b", b"c") && !holds(b"w", b"x")
    }

    /// Checks that the store keeps a forgotten flow that has ended only for handles, and that its
    /// idempotency key is free.
    fn check_forgotten(&self) {
        let world = &self.world;
        // The request to forget may be lost, too.
        if world.has_lost.get() {
            return;
        }
        for (number, submitted) in world.submitted.iter().enumerate() {
            let submitted = submitted.borrow();
            let Some(id) = submitted.id.filter(|_| submitted.forgotten) else {
                continue;
            };
            let key = &world.plan.flows[number].idempotency_key;
            if self.keeps(id) || key.as_ref().is_some_and(|key| self.has_key(key)) {
                world.report_fault(format!("flow {number} was forgotten, and is kept"));
            }
        }
    }

    /// Returns whether a workflow that has ended is kept for its retention. (Its key holds the time
    /// of its end, which is 0 if it is kept for handles alone, and then its id.)
    fn keeps(&self, id: Id) -> bool {
        let mut ended = self.disk.scan(b"e", b"f").filter_map(Result::ok);
        ended.any(|(key, _)| key[1..9] != [0; 8] && key[9..25] == *id.as_uuid().as_bytes())
    }

    /// Returns whether an idempotency key is taken.
    fn has_key(&self, idempotency_key: &str) -> bool {
        let key = [b"i", idempotency_key.as_bytes()].concat();
        !matches!(self.disk.get(&key), Ok(None))
    }

    /// Returns the keys of a range as readable text.
    fn keys(&self, from: &[u8], to: &[u8]) -> Vec<String> {
        let all = self.disk.scan(from, to).filter_map(Result::ok);
        all.map(|(key, _)| key.escape_ascii().to_string()).collect()
    }

    /// Lets the retention pass, and checks that the store is empty then.
    async fn sweep(&mut self) -> Ended {
        self.check_forgotten();
        self.world.advance(Plan::retention());
        for _ in 0..STEPS_TO_SWEEP {
            self.step().await;
            let mut all = self.disk.scan(b"a", b"m").chain(self.disk.scan(b"n", b"z"));
            if all.next().is_none() {
                return Ended::AllGone;
            }
        }
        let keys = self.keys(b"a", b"z");
        self.world.report_fault(format!("never swept: {keys:?}"));
        Ended::AllGone
    }
}

/// Checks the store after its opening: no reported end is lost. Notes the tasks that have ended and
/// must not start again.
async fn check_after_opening(world: &World, app: &App) {
    let ids: Vec<_> = world.entered.borrow().iter().map(|(id, ..)| *id).collect();
    for id in ids {
        if let Ok(result) = app.async_result::<Value>(id).await
            && let Ok(true) = result.ready().await
        {
            world.ended.borrow_mut().insert(id);
        }
    }
    for (number, submitted) in world.submitted.iter().enumerate() {
        let (id, reported) = {
            let submitted = submitted.borrow();
            (
                submitted.id.filter(|_| !submitted.forgotten),
                submitted.reported.is_some(),
            )
        };
        let Some(id) = id else { continue };
        match app.async_result::<Value>(id).await {
            Ok(result) if reported => match result.ready().await {
                Ok(true) => {}
                Ok(false) if world.has_lost.get() => {}
                Err(error) => check_error(world, &error),
                other => world.report_fault(format!(
                    "the end of flow {number} was reported, and now: {other:?}"
                )),
            },
            Ok(_) => {}
            Err(Error::Id(IdError::Unknown { .. })) if world.has_lost.get() => {
                let mut submitted = submitted.borrow_mut();
                submitted.id = None;
                submitted.done = false;
            }
            Err(Error::Id(IdError::Unknown { .. })) if world.plan.sweeps_early() => {}
            Err(error @ Error::Id(_)) => {
                world.report_fault(format!("flow {number} was acknowledged: {error}"));
            }
            Err(error) => check_error(world, &error),
        }
    }
}

/// Acts as a caller: submits its flow, or finds it again, and waits for its end.
async fn follow(world: &Rc<World>, app: &App, number: usize) -> Result<(), Error> {
    let flow = &world.plan.flows[number];
    let submitted = &world.submitted[number];
    let (id, forgotten) = {
        let submitted = submitted.borrow();
        (submitted.id, submitted.forgotten)
    };
    if forgotten {
        let id = id.expect("a forgotten flow has an id");
        // The manual clock draws no random numbers, so after a loss the id may be another flow's.
        if !world.has_lost.get() {
            match app.forget(id).await {
                Ok(()) | Err(Error::Id(IdError::Unknown { .. })) => {}
                Err(error) => return Err(error),
            }
        }
        submitted.borrow_mut().done = true;
        return Ok(());
    }
    let result = match id {
        Some(id) => match app.async_result::<Value>(id).await {
            Err(Error::Id(IdError::Unknown { .. })) if world.plan.sweeps_early() => {
                submitted.borrow_mut().done = true;
                return Ok(());
            }
            found => found?,
        },
        None => {
            world.turn().await;
            {
                let mut submitted = submitted.borrow_mut();
                if submitted.tries == 0 {
                    submitted.first_ms = world.passed_ms();
                }
                submitted.tries += 1;
            }
            let result = app.apply_async(world.plan.canvas(flow)).await?;
            submitted.borrow_mut().id = Some(result.id());
            world.log(|| format!("flow {number} is {}", result.id()));
            result
        }
    };
    let (asking, asked, id) = (world.clone(), app.clone(), result.id());
    tokio::task::spawn_local(async move {
        if let Err(error) = revoke::ask(&asking, &asked, number, id).await {
            check_error(&asking, &error);
        }
    });
    if flow.forgets == Forgets::Early {
        for _ in 0..turns_to_forget(world.seed, number) {
            world.turn().await;
        }
        submitted.borrow_mut().forgotten = true;
        result.forget().await?;
    } else {
        check_outcome(world, number, &result).await?;
        if flow.forgets == Forgets::Late {
            submitted.borrow_mut().forgotten = true;
            result.forget().await?;
        } else {
            result.at_rest().await?;
            let id = result.id();
            drop(result);
            lookups::look_up(world, app, number, id).await?;
        }
    }
    submitted.borrow_mut().done = true;
    world.log(|| format!("flow {number} is done"));
    Ok(())
}

/// Returns the number of turns that a caller waits before it forgets its flow, which may wait, run
/// or have ended then. Two of three seeds use none: their runs stay as they were before this
/// existed.
fn turns_to_forget(seed: u64, flow: usize) -> usize {
    let dice = Dice::new(seed.rotate_left(8) ^ flow as u64);
    let turns = dice.roll(dice.pick(&[1, 6, 25]));
    if seed % 3 == 1 { turns } else { 0 }
}

/// Waits for a flow's end, and returns its outcome.
pub(crate) async fn outcome(result: &AsyncResult<Value>) -> Result<Result<Value, String>, Error> {
    match result.get().await {
        Ok(value) => Ok(Ok(plain(&value))),
        Err(Error::Failed(failure)) if failure.message == "revoked" => Ok(Err(failure.message)),
        Err(Error::Failed(failure)) => Ok(Err(origin(&failure.message))),
        Err(error) => Err(error),
    }
}

/// Waits for a flow's end, and checks its outcome.
async fn check_outcome(
    world: &World,
    number: usize,
    result: &AsyncResult<Value>,
) -> Result<(), Error> {
    let outcome = outcome(result).await?;
    world.log(|| format!("flow {number} has ended: {outcome:?}"));
    let expected = &world.plan.flows[number].outcome;
    revoke::check_end(world, number, &outcome);
    let is_won = races::is_won(&world.plan, number, &outcome);
    let is_right = match world.plan.race(&world.plan.flows[number]) {
        Some(_) => is_won,
        None => outcome == *expected,
    };
    if !is_right && !revoke::is_asked(world, number) {
        world.report_fault(format!(
            "flow {number} ended as {outcome:?}, not as {expected:?}"
        ));
    }
    let reported = world.submitted[number]
        .borrow_mut()
        .reported
        .replace(outcome.clone());
    if reported.is_some_and(|reported| reported != outcome) {
        world.report_fault(format!(
            "flow {number} had ended otherwise than as {outcome:?}"
        ));
    }
    Ok(())
}

/// Checks that an error of the engine has a reason.
fn check_error(world: &World, error: &Error) {
    match error {
        Error::ShutDown | Error::Store(_) => {}
        other => world.report_fault(format!("a caller gets: {other}")),
    }
}
