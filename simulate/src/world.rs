//! The world around the engine of one run: what its tasks find, and what they have done.

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
use crate::dice::Dice;
use crate::model::Node;
use crate::plan::{Detour, Plan};
use crate::revoke::{self, Asked};

thread_local! {
    static WORLD: RefCell<Option<Rc<World>>> = const { RefCell::new(None) };
}

/// The world of the run on this thread. Nothing of it is held over a wait: a task's future may be
/// sent to another thread, for all its type knows.
pub(crate) fn now<T>(ask: impl FnOnce(&World) -> T) -> T {
    let world = WORLD.with(|world| world.borrow().clone());
    ask(&world.expect("a task runs in a run"))
}

/// When each run starts.
pub(crate) fn start() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000)
}

#[derive(Debug)]
pub(crate) struct World {
    pub(crate) plan: Plan,
    pub(crate) dice: Dice,
    /// Of their own, for which commits are written where they were decided.
    at_once: Dice,
    pub(crate) clock: Clock,
    /// How many milliseconds have passed, whatever the wall clock shows.
    passed_ms: Cell<u64>,
    /// The latest time that the wall clock has shown, in milliseconds since the [start].
    latest_ms: Cell<u64>,
    /// How many steps the driver has made, in all lives.
    steps: Cell<usize>,
    /// The steps of the wall clock that are to come.
    clock_steps: RefCell<VecDeque<ClockStep>>,
    /// How often the store was opened.
    pub(crate) lives: Cell<u32>,
    /// Which bodies were entered: task, attempt, key.
    pub(crate) entered: RefCell<BTreeSet<(Id, u32, u64)>>,
    /// Which of them the store has heard of, as long as it has lost nothing.
    attempts: RefCell<BTreeSet<(Id, u32, u64)>>,
    /// A crash has taken what was acknowledged, as it may.
    pub(crate) has_lost: Cell<bool>,
    /// Of each group that waits in one line: who has begun in this life.
    ranks: RefCell<BTreeMap<Id, Vec<(u8, usize)>>>,
    /// What the store showed as ended when it was opened last.
    pub(crate) ended: RefCell<BTreeSet<Id>>,
    /// How many failures each task has behind it that were its role's.
    detours: RefCell<BTreeMap<Id, usize>>,
    /// Who waits for his turn.
    doors: RefCell<Vec<oneshot::Sender<()>>>,
    /// Who waits for a time.
    sleepers: RefCell<Vec<(u64, oneshot::Sender<()>)>>,
    /// How many bodies run in each queue, async and blocking.
    present: RefCell<BTreeMap<(Option<&'static str>, bool), usize>>,
    deaths: Cell<usize>,
    pub(crate) submitted: Vec<RefCell<Submitted>>,
    pub(crate) seed: u64,
    pub(crate) asked: Vec<RefCell<Asked>>,
    /// What starts no more.
    pub(crate) revoked: RefCell<BTreeSet<Id>>,
    /// What must not have happened.
    pub(crate) wrong: RefCell<Vec<String>>,
    options: Options,
}

/// What a caller knows of a flow.
#[derive(Debug, Default)]
pub(crate) struct Submitted {
    /// How often it was tried, and not refused.
    pub(crate) tries: u32,
    /// How many milliseconds had passed at the first try.
    pub(crate) first_ms: u64,
    pub(crate) id: Option<Id>,
    pub(crate) told: Option<Result<Value, String>>,
    /// It has been asked to forget it.
    pub(crate) forgotten: bool,
    pub(crate) done: bool,
}

/// A body that runs, in its slot.
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
            at_once: Dice::new(seed.rotate_left(32)),
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
            ended: RefCell::default(),
            detours: RefCell::default(),
            doors: RefCell::default(),
            sleepers: RefCell::default(),
            present: RefCell::default(),
            deaths: Cell::new(0),
            wrong: RefCell::default(),
            options,
        });
        WORLD.with(|current| *current.borrow_mut() = Some(world.clone()));
        world
    }

    /// Says what happens, if anybody wants to hear it.
    pub(crate) fn tell(&self, what: impl FnOnce() -> String) {
        if self.options.tells {
            println!("{:>9} {}", self.passed_ms.get(), what());
        }
    }

    pub(crate) fn report_fault(&self, what: String) {
        self.tell(|| format!("WRONG: {what}"));
        self.wrong.borrow_mut().push(what);
    }

    /// A new life begins: nobody is left of the one before.
    pub(crate) fn begin_life(&self) {
        self.lives.set(self.lives.get() + 1);
        self.doors.borrow_mut().clear();
        self.sleepers.borrow_mut().clear();
        self.present.borrow_mut().clear();
        self.ended.borrow_mut().clear();
        self.ranks.borrow_mut().clear();
    }

    /// A crash has taken what was acknowledged.
    pub(crate) fn loses(&self) {
        self.tell(|| "what was acknowledged is lost".to_owned());
        self.has_lost.set(true);
        self.attempts.borrow_mut().clear();
    }

    pub(crate) fn canvas(&self, node: &Node) -> Canvas {
        node.canvas(false, &|key, task| self.plan.dress(key, task))
    }

    /// How many milliseconds had passed when the flow of a task was first submitted.
    fn submitted_ms(&self, key: u64) -> u64 {
        let flows = self.plan.flows.iter().zip(&self.submitted);
        let mut own = flows.filter(|(flow, _)| flow.ran.contains_key(&key));
        own.next()
            .map_or(0, |(_, submitted)| submitted.borrow().first_ms)
    }

    /// Returns when the driver says so.
    pub(crate) fn turn(&self) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        let (open, door) = oneshot::channel();
        self.doors.borrow_mut().push(open);
        wait(door)
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

    /// Turns the clock: so much time passes.
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

    /// Counts a step of the driver, and sets the wall clock if it is to be set with this one.
    pub(crate) fn step(&self) {
        let step = self.steps.replace(self.steps.get() + 1);
        let mut clock_steps = self.clock_steps.borrow_mut();
        while clock_steps.front().is_some_and(|next| next.after <= step)
            && let Some(ClockStep { by_ms, .. }) = clock_steps.pop_front()
        {
            let by = Duration::from_millis(by_ms.unsigned_abs());
            let now = self.clock.now();
            self.tell(|| format!("the clock is set by {by_ms} ms"));
            self.clock.set(match by_ms < 0 {
                true => now - by,
                false => now + by,
            });
            self.note_latest();
        }
    }

    /// Of a group that waits in one line the first takes the slot that is free, and each other goes by
    /// its priority. Who was running at a crash comes into line when he has been read; and later lives
    /// may try suspects first.
    fn begins_in_turn(&self, id: Id, key: u64) {
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

    /// Lets one of those go on that wait for their turn; says whether there was any.
    pub(crate) fn open_a_door(&self) -> bool {
        let mut doors = self.doors.borrow_mut();
        doors.retain(|door| !door.is_closed());
        if doors.is_empty() {
            return false;
        }
        let at = self.dice.roll(doors.len());
        doors.swap_remove(at).send(()).is_ok()
    }

    /// Turns the clock by so much, or to when the first sleeper wakes.
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

    /// How this attempt is to fail before it may do what it is to do.
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

async fn opened(door: oneshot::Receiver<()>) {
    // Its other end goes only with all else.
    if door.await.is_err() {
        std::future::pending().await
    }
}

fn wait(door: oneshot::Receiver<()>) -> Pin<Box<dyn Future<Output = ()> + Send>> {
    Box::pin(opened(door))
}

/// A body begins.
pub(crate) fn enter(ctx: &TaskContext, key: u64, blocking: bool) -> Presence {
    now(|world| {
        let (id, attempt) = (ctx.id(), ctx.attempt());
        world.tell(|| format!("task {key} begins, attempt {attempt} of {id}"));
        world.entered.borrow_mut().insert((id, attempt, key));
        if !world.attempts.borrow_mut().insert((id, attempt, key)) {
            world.report_fault(format!("attempt {attempt} of task {key} ran twice"));
        }
        revoke::check_start(world, id);
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
        world.begins_in_turn(id, key);
        let most = 1 + role.retries() + world.lives.get() + world.deaths.get() as u32;
        if attempt > most {
            world.report_fault(format!("attempt {attempt} of task {key}, which has {most}"));
        }
        let place = (role.queue, blocking);
        let mut present = world.present.borrow_mut();
        let there = present.entry(place).or_default();
        *there += 1;
        let limit = world.limit(role.queue, blocking);
        if *there > limit {
            world.report_fault(format!(
                "{there} tasks run in {place:?}, which has {limit} slots"
            ));
        }
        Presence(place)
    })
}

impl Drop for Presence {
    fn drop(&mut self) {
        now(|world| {
            let mut present = world.present.borrow_mut();
            if let Some(there) = present.get_mut(&self.0) {
                *there = there.saturating_sub(1);
            }
        });
    }
}

/// The world as the engine meets it.
#[derive(Debug)]
pub(crate) struct Weather(pub(crate) Rc<World>);

impl Chance for Weather {
    fn dies(&self, kind: &'static str) -> bool {
        let world = &self.0;
        let (most, of_thousand) = world.plan.trouble.deaths;
        // Without the engine itself all stops: that is another life's end.
        let may_die = kind != "engine" && world.deaths.get() < most;
        let dies = may_die && world.dice.roll(1_000) < of_thousand;
        if dies {
            world.tell(|| format!("an actor dies: {kind}"));
            world.deaths.set(world.deaths.get() + 1);
        }
        dies
    }

    fn repeats(&self) -> bool {
        let repeats = self.0.dice.percent(self.0.plan.trouble.repeats);
        if repeats {
            self.0.tell(|| "a word comes twice".to_owned());
        }
        repeats
    }

    /// In every fifth run, half of those that could be.
    fn writes_at_once(&self) -> bool {
        self.0.seed.is_multiple_of(5) && self.0.at_once.percent(50)
    }

    fn free_thread(&self) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        self.0.turn()
    }
}
