//! The world around the engine of one run: the state that its tasks use, and the log of their
//! starts.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::pin::Pin;
use std::rc::Rc;
use std::time::{Duration, SystemTime};

use chordal::simulation::Chance;
use chordal::{Canvas, Clock, Id, TaskContext};
use serde_json::Value;
use tokio::sync::oneshot;

use crate::Options;
use crate::clock_steps::{self, ClockStep};
use crate::controls;
use crate::dice::Dice;
use crate::limits;
use crate::model::Node;
use crate::plan::{Detour, Plan, Retries};
use crate::races;
use crate::revoke::{self, Asked};

thread_local! {
    static WORLD: RefCell<Option<Rc<World>>> = const { RefCell::new(None) };
}

/// Calls a function with the world of this thread's run. No reference to it is held across an
/// await: a task's future must be `Send`.
pub(crate) fn now<T>(ask: impl FnOnce(&World) -> T) -> T {
    let world = WORLD.with(|world| world.borrow().clone());
    ask(&world.expect("a task runs in a run"))
}

/// Returns the time at which each run starts.
pub(crate) fn start() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000)
}

#[derive(Debug)]
pub(crate) struct World {
    pub(crate) plan: Plan,
    pub(crate) dice: Dice,
    /// A separate source for the commits that are written inline.
    inline_dice: Dice,
    pub(crate) clock: Clock,
    /// The milliseconds that have passed, whatever the wall clock shows.
    passed_ms: Cell<u64>,
    /// The latest time that the wall clock has shown, in milliseconds after the [start].
    latest_ms: Cell<u64>,
    /// The number of the driver's steps, over all lives.
    steps: Cell<usize>,
    /// The remaining steps of the wall clock.
    clock_steps: RefCell<VecDeque<ClockStep>>,
    /// The number of openings of the store.
    pub(crate) lives: Cell<u32>,
    /// The bodies that started: task, attempt, key.
    pub(crate) entered: RefCell<BTreeSet<(Id, u32, u64)>>,
    /// Those that the store knows, as long as it has lost nothing.
    attempts: RefCell<BTreeSet<(Id, u32, u64)>>,
    /// A crash has lost acknowledged submissions, as it may.
    pub(crate) has_lost: Cell<bool>,
    /// Of each group that waits in one queue: the members that have started in this life.
    ranks: RefCell<BTreeMap<Id, Vec<(u8, usize)>>>,
    limited_starts: limits::Starts,
    pub(crate) paused: controls::Paused,
    tenants: limits::Tenants,
    /// The tasks that the store showed as ended at its last opening.
    pub(crate) ended: RefCell<BTreeSet<Id>>,
    /// The number of failures of each task so far that its role asked for.
    detours: RefCell<BTreeMap<Id, usize>>,
    /// The futures that wait for a turn.
    turns: RefCell<Vec<oneshot::Sender<()>>>,
    /// The futures that wait for a time.
    sleepers: RefCell<Vec<(u64, oneshot::Sender<()>)>>,
    /// The number of running bodies in each queue, async and blocking.
    present: RefCell<BTreeMap<(Option<&'static str>, bool), usize>>,
    deaths: Cell<usize>,
    pub(crate) submitted: Vec<RefCell<Submitted>>,
    pub(crate) seed: u64,
    pub(crate) asked: Vec<RefCell<Asked>>,
    /// The nodes of which no task may start any more.
    pub(crate) revoked: RefCell<BTreeSet<Id>>,
    /// The violations that were detected.
    pub(crate) violations: RefCell<Vec<String>>,
    options: Options,
}

/// A caller's knowledge of its flow.
#[derive(Debug, Default)]
pub(crate) struct Submitted {
    /// The number of submissions that were tried and not refused.
    pub(crate) tries: u32,
    /// The milliseconds that had passed at the first try.
    pub(crate) first_ms: u64,
    pub(crate) id: Option<Id>,
    pub(crate) reported: Option<Result<Value, String>>,
    /// The caller has asked to forget the flow.
    pub(crate) forgotten: bool,
    pub(crate) done: bool,
}

/// A running body, in its slot.
#[derive(Debug)]
pub(crate) struct Presence((Option<&'static str>, bool));

impl World {
    pub(crate) fn new(seed: u64, options: Options) -> Rc<Self> {
        let plan = Plan::of(seed);
        let world = Rc::new(Self {
            submitted: plan.flows.iter().map(|_| RefCell::default()).collect(),
            seed,
            asked: plan.flows.iter().map(|_| RefCell::default()).collect(),
            revoked: RefCell::default(),
            plan,
            dice: Dice::new(!seed),
            inline_dice: Dice::new(seed.rotate_left(32)),
            clock: Clock::manual(start()),
            passed_ms: Cell::new(0),
            latest_ms: Cell::new(0),
            steps: Cell::new(0),
            clock_steps: RefCell::new(clock_steps::of(seed).into()),
            lives: Cell::new(0),
            entered: RefCell::default(),
            attempts: RefCell::default(),
            has_lost: Cell::new(false),
            ranks: RefCell::default(),
            limited_starts: limits::Starts::default(),
            paused: controls::Paused::default(),
            tenants: limits::Tenants::default(),
            ended: RefCell::default(),
            detours: RefCell::default(),
            turns: RefCell::default(),
            sleepers: RefCell::default(),
            present: RefCell::default(),
            deaths: Cell::new(0),
            violations: RefCell::default(),
            options,
        });
        WORLD.with(|current| *current.borrow_mut() = Some(world.clone()));
        world
    }

    /// Logs an event, if the options ask for it.
    pub(crate) fn log(&self, what: impl FnOnce() -> String) {
        if self.options.logs {
            println!("{:>9} {}", self.passed_ms.get(), what());
        }
    }

    pub(crate) fn report_fault(&self, what: String) {
        self.log(|| format!("WRONG: {what}"));
        self.violations.borrow_mut().push(what);
    }

    /// Starts a new life: no task or caller of the previous one is left.
    pub(crate) fn begin_life(&self) {
        self.lives.set(self.lives.get() + 1);
        self.turns.borrow_mut().clear();
        self.sleepers.borrow_mut().clear();
        self.present.borrow_mut().clear();
        self.tenants.clear();
        self.ended.borrow_mut().clear();
        self.ranks.borrow_mut().clear();
    }

    /// Notes that a crash has lost acknowledged submissions.
    pub(crate) fn note_loss(&self) {
        self.log(|| "acknowledged submissions are lost".to_owned());
        self.has_lost.set(true);
        self.limited_starts.clear();
        self.paused.clear();
        self.attempts.borrow_mut().clear();
    }

    pub(crate) fn canvas(&self, node: &Node) -> Canvas {
        node.canvas(false, &|key, task| self.plan.apply_role(key, task))
    }

    /// Returns the milliseconds that had passed when the flow of a task was first submitted.
    fn submitted_ms(&self, key: u64) -> u64 {
        let flows = self.plan.flows.iter().zip(&self.submitted);
        let mut own = flows.filter(|(flow, _)| flow.ran.contains_key(&key));
        own.next()
            .map_or(0, |(_, submitted)| submitted.borrow().first_ms)
    }

    /// Waits for the driver to give this future its turn.
    pub(crate) fn turn(&self) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        let (give, turn) = oneshot::channel();
        self.turns.borrow_mut().push(give);
        wait(turn)
    }

    pub(crate) fn sleep(&self, ms: u64) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        let (wake, woken) = oneshot::channel();
        let at_ms = self.passed_ms.get() + ms;
        self.sleepers.borrow_mut().push((at_ms, wake));
        wait(woken)
    }

    pub(crate) fn passed_ms(&self) -> u64 {
        self.passed_ms.get()
    }

    /// Advances the clock and the passed time.
    pub(crate) fn advance(&self, by: Duration) {
        self.clock.advance(by);
        self.passed_ms
            .set(self.passed_ms.get() + by.as_millis() as u64);
        self.note_latest();
    }

    fn note_latest(&self) {
        let shown = self.clock.now().duration_since(start());
        let shown_ms = shown.map_or(0, |shown| shown.as_millis() as u64);
        self.latest_ms.set(self.latest_ms.get().max(shown_ms));
    }

    /// Counts a step of the driver, and sets the wall clock if the plan says so for this step.
    pub(crate) fn step(&self) {
        let step = self.steps.replace(self.steps.get() + 1);
        let mut clock_steps = self.clock_steps.borrow_mut();
        while clock_steps.front().is_some_and(|next| next.after <= step)
            && let Some(ClockStep { by_ms, .. }) = clock_steps.pop_front()
        {
            let by = Duration::from_millis(by_ms.unsigned_abs());
            let now = self.clock.now();
            self.log(|| format!("the clock is set by {by_ms} ms"));
            self.clock.set(match by_ms < 0 {
                true => now - by,
                false => now + by,
            });
            self.note_latest();
        }
    }

    /// Checks the order of a group that waits in one queue: the first member takes the free slot,
    /// and the others start by priority. A task that was running at a crash is queued when it has
    /// been read; and later lives may try suspects first.
    fn check_start_order(&self, id: Id, key: u64) {
        let lives = self.lives.get();
        let Some(next) = self.plan.rank(key).filter(|_| lives <= 2) else {
            return;
        };
        let mut ranks = self.ranks.borrow_mut();
        let begun = ranks.entry(id.root()).or_default();
        if let [_, .., last] = begun[..]
            && self.deaths.get() == 0
        {
            let is_in_turn = match next.0 == last.0 {
                true => next.1 > last.1 || lives > 1,
                false => next.0 < last.0,
            };
            if !is_in_turn {
                self.report_fault(format!(
                    "task {key} begins out of turn: {begun:?}, {next:?}"
                ));
            }
        }
        begun.push(next);
    }

    /// Gives one of the waiting futures its turn. Returns whether there was any.
    pub(crate) fn give_a_turn(&self) -> bool {
        let mut turns = self.turns.borrow_mut();
        turns.retain(|turn| !turn.is_closed());
        if turns.is_empty() {
            return false;
        }
        let at = self.dice.roll(turns.len());
        turns.swap_remove(at).send(()).is_ok()
    }

    /// Advances the clock by at most `most`, up to the time of the first sleeper.
    pub(crate) fn pass_time(&self, most: Duration) {
        let mut sleepers = self.sleepers.borrow_mut();
        sleepers.retain(|(_, sleeper)| !sleeper.is_closed());
        let now = self.passed_ms.get();
        let next = sleepers.iter().map(|(at_ms, _)| at_ms - now).min();
        let by = next.map_or(most, |next| most.min(Duration::from_millis(next)));
        self.advance(by);
        let now = self.passed_ms.get();
        for (_, sleeper) in sleepers.extract_if(.., |(at_ms, _)| *at_ms <= now) {
            let _ = sleeper.send(());
        }
    }

    /// Returns how this attempt fails, if its role asks for another failure.
    pub(crate) fn next_detour(&self, id: Id, detours: &[Detour]) -> Option<Detour> {
        let mut taken = self.detours.borrow_mut();
        let taken = taken.entry(id).or_default();
        let next = detours.get(*taken).copied();
        *taken += usize::from(next.is_some());
        next
    }

    fn limit(&self, queue: Option<&str>, blocking: bool) -> usize {
        let settings = &self.plan.settings;
        match (queue, blocking) {
            (None, false) => settings.concurrency,
            (None, true) => settings.blocking,
            (Some(queue), _) => {
                let at = crate::plan::QUEUES.iter().position(|own| *own == queue);
                settings.own[at.expect("a queue of ours")]
            }
        }
    }
}

async fn turn_given(turn: oneshot::Receiver<()>) {
    // The sender is dropped only at the end of the life.
    if turn.await.is_err() {
        std::future::pending().await
    }
}

fn wait(turn: oneshot::Receiver<()>) -> Pin<Box<dyn Future<Output = ()> + Send>> {
    Box::pin(turn_given(turn))
}

/// Notes the start of a task under limits, and checks them. A task that was running at a crash may
/// start at once, to find out whether it ends the process.
pub(crate) fn start_limited(ctx: &TaskContext, task: &str, tenant: Option<u64>) {
    now(|world| {
        let starts = &world.limited_starts;
        let fault = starts.note(world.seed, task, tenant, world.passed_ms.get());
        let may_be_a_trial = ctx.attempt() > 1 && world.lives.get() > 1;
        if let Some(fault) = fault.filter(|_| !may_be_a_trial) {
            world.report_fault(fault);
        }
    });
}

/// A running attempt of a tenant.
#[derive(Debug)]
pub(crate) struct Tenancy(u64);

/// Notes that an attempt of a tenant runs, and checks that it is the only one.
pub(crate) fn enter_as(tenant: u64) -> Tenancy {
    now(|world| {
        if let Some(fault) = world.tenants.enter(tenant) {
            world.report_fault(fault);
        }
    });
    Tenancy(tenant)
}

impl Drop for Tenancy {
    fn drop(&mut self) {
        now(|world| world.tenants.leave(self.0));
    }
}

/// Notes the start of a body, and checks that it may start now.
pub(crate) fn enter(ctx: &TaskContext, key: u64, blocking: bool) -> Presence {
    now(|world| {
        let (id, attempt) = (ctx.id(), ctx.attempt());
        world.log(|| format!("task {key} begins, attempt {attempt} of {id}"));
        world.entered.borrow_mut().insert((id, attempt, key));
        if !world.attempts.borrow_mut().insert((id, attempt, key)) {
            world.report_fault(format!("attempt {attempt} of task {key} ran twice"));
        }
        revoke::check_start(world, id);
        races::check_start(world, id);
        if world.ended.borrow().contains(&id) {
            world.report_fault(format!("task {key} had ended, and ran again"));
        }
        let role = &world.plan.roles[&key];
        if role.eta_ms.is_some_and(|eta| world.latest_ms.get() < eta) {
            world.report_fault(format!("task {key} begins before its time"));
        }
        let since_ms = world.submitted_ms(key);
        if role
            .countdown_ms
            .is_some_and(|ms| world.passed_ms.get() < since_ms + ms)
        {
            world.report_fault(format!("task {key} begins before its countdown has ended"));
        }
        world.check_start_order(id, key);
        let Retries { counted, uncounted } = world.plan.retries(role);
        let retries = counted + uncounted;
        let most = 1 + retries + world.lives.get() + world.deaths.get() as u32;
        if attempt > most {
            world.report_fault(format!("attempt {attempt} of task {key}, which has {most}"));
        }
        // (Other attempts may have started before the pause, and have read their arguments since.)
        if role.alone
            && !blocking
            && let Some(fault) = world.paused.check_start(role.queue)
        {
            world.report_fault(fault);
        }
        let queue = (role.queue, blocking);
        let mut present = world.present.borrow_mut();
        let running = present.entry(queue).or_default();
        *running += 1;
        let limit = world.limit(role.queue, blocking);
        if *running > limit {
            world.report_fault(format!(
                "{running} tasks run in {queue:?}, which has {limit} slots"
            ));
        }
        Presence(queue)
    })
}

impl Drop for Presence {
    fn drop(&mut self) {
        now(|world| {
            let mut present = world.present.borrow_mut();
            if let Some(running) = present.get_mut(&self.0) {
                *running = running.saturating_sub(1);
            }
        });
    }
}

/// The source of chance that the engine uses.
#[derive(Debug)]
pub(crate) struct WorldChance(pub(crate) Rc<World>);

impl Chance for WorldChance {
    fn dies(&self, kind: &'static str) -> bool {
        let world = &self.0;
        let (most, of_thousand) = world.plan.trouble.deaths;
        // The death of the engine's actor would end the life, which the plan decides.
        let may_die = kind != "engine" && world.deaths.get() < most;
        let dies = may_die && world.dice.roll(1_000) < of_thousand;
        if dies {
            world.log(|| format!("an actor dies: {kind}"));
            world.deaths.set(world.deaths.get() + 1);
        }
        dies
    }

    fn repeats(&self) -> bool {
        let repeats = self.0.dice.percent(self.0.plan.trouble.repeats);
        if repeats {
            self.0.log(|| "an event arrives twice".to_owned());
        }
        repeats
    }

    /// In every fifth seed, half of the batches that could be.
    fn writes_at_once(&self) -> bool {
        self.0.seed.is_multiple_of(5) && self.0.inline_dice.percent(50)
    }

    fn free_thread(&self) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        self.0.turn()
    }
}
