//! The plan of a seed. It does not depend on the events of the run.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use chordal::{App, AppBuilder, Canvas, Clock, Durability};
use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use serde_json::{Value, json};

use crate::dice::Dice;
use crate::disk::Disk;
use crate::limits;
use crate::lookups;
use crate::model::{self, Form, Node};
use crate::progress;
use crate::races;
use crate::tasks::{self, source};
use crate::world;

/// Canvases with more tasks than this take longer than they are worth.
const MAX_TASKS: usize = 40;
pub(crate) const QUEUES: [&str; 2] = ["slow", NARROW];
/// This queue has one slot.
const NARROW: &str = "narrow";
/// Longer than any wait in a run.
const RETENTION: Duration = Duration::from_secs(24 * 60 * 60);

#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) seed: u64,
    pub(crate) flows: Vec<Flow>,
    pub(crate) roles: BTreeMap<u64, Role>,
    /// The nodes whose tasks start more as they run.
    pub(crate) nodes: BTreeMap<u64, Node>,
    pub(crate) settings: Settings,
    pub(crate) trouble: Trouble,
    /// The retention of results.
    retention: Duration,
}

/// A workflow to submit, and its results according to the reference.
#[derive(Debug)]
pub(crate) struct Flow {
    shape: Shape,
    pub(crate) idempotency_key: Option<String>,
    pub(crate) outcome: Result<Value, String>,
    /// The number of tasks of each key.
    pub(crate) ran: BTreeMap<u64, u32>,
    pub(crate) forgets: Forgets,
}

#[derive(Debug)]
enum Shape {
    Node(Node),
    /// A group whose iterator does not know its length.
    Lazy(Vec<u64>),
    Starmap(Vec<u64>),
    Chunks(Vec<u64>, usize),
    /// A group whose members wait in one queue, with these priorities.
    Ranked(Vec<u64>),
}

/// When a flow's caller forgets its result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Forgets {
    Never,
    /// Before the flow's end, without waiting for the outcome.
    Early,
    Late,
}

/// How the tasks of one key behave.
#[derive(Clone, Debug, Default)]
pub(crate) struct Role {
    /// Its waits: `None` for a turn, or a time in milliseconds.
    pub(crate) pauses: Vec<Option<u64>>,
    /// The failures of its attempts before the last.
    pub(crate) detours: Vec<Detour>,
    pub(crate) end: End,
    pub(crate) blocking: bool,
    /// The task takes no input from upstream, and does not fail at last.
    pub(crate) alone: bool,
    pub(crate) queue: Option<&'static str>,
    pub(crate) priority: Option<u8>,
    pub(crate) countdown_ms: Option<u64>,
    /// In milliseconds since the [start](world::start).
    pub(crate) eta_ms: Option<u64>,
    expires: Option<Expires>,
    /// Milliseconds.
    soft_limit: Option<u64>,
}

/// When a task expires, in milliseconds.
#[derive(Clone, Copy, Debug)]
enum Expires {
    /// After its submission.
    In(u64),
    /// After the [start](world::start).
    At(u64),
    /// It has expired, whatever the clock shows.
    Before,
}

/// The retries that a task needs.
pub(crate) struct Retries {
    /// Its `max_retries` allows these alone.
    pub(crate) counted: u32,
    /// A service asks for these, and they use up none.
    pub(crate) uncounted: u32,
}

/// How an attempt fails before the last one.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Detour {
    /// The task asks for a retry after this many milliseconds.
    Retry(u64),
    Error,
    Panic,
    /// The task exceeds its soft time limit.
    Overrun,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum End {
    /// As its canvas says: a value, or an error that is not retried.
    #[default]
    Plain,
    /// An error that would be retried, with no retry left.
    Exhausted,
    Panic,
    /// The task exceeds its time limit.
    Overrun,
    /// The task waits for its soft limit, and then returns its value.
    Listens,
}

#[derive(Debug)]
pub(crate) struct Settings {
    pub(crate) concurrency: usize,
    pub(crate) blocking: usize,
    /// Of each of [`QUEUES`].
    pub(crate) own: [usize; 2],
    window: u64,
    live: usize,
    threads: usize,
    grace: Duration,
    /// A crash may lose acknowledged submissions.
    pub(crate) buffered: bool,
}

/// The faults beside those of the tasks.
#[derive(Debug)]
pub(crate) struct Trouble {
    /// The ends of the lives: after this many steps, by a crash, a failing store or a shutdown.
    pub(crate) ends: Vec<(usize, LifeEnd)>,
    /// The percentage of events that arrive twice.
    pub(crate) repeats: usize,
    /// The maximum number of actors that die, and the chance of each at an event, per thousand.
    pub(crate) deaths: (usize, usize),
    /// The percentage of steps at which the store writes.
    pub(crate) write_percent: usize,
    /// The store is opened once more when all flows are done.
    pub(crate) reopens_at_the_end: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LifeEnd {
    Crash,
    Shutdown,
    /// The store fails after this many calls; `once`: and would accept later ones.
    StoreFails {
        calls: usize,
        once: bool,
    },
}

impl Plan {
    pub(crate) fn of(seed: u64) -> Self {
        let dice = Dice::new(seed);
        let mut runner = runner(&dice);
        let settings = Settings::of(&dice);
        let mut next = 0;
        let mut flows = Vec::new();
        let mut roles = BTreeMap::new();
        let mut nodes = BTreeMap::new();
        for number in 0..1 + dice.roll(5) {
            let shape = Shape::draw(&dice, &mut runner, &mut next);
            shape.assign_roles(&dice, &mut roles, &mut nodes);
            let mut ran = BTreeMap::new();
            let outcome = shape.run(&mut ran);
            flows.push(Flow {
                shape,
                idempotency_key: dice.percent(30).then(|| format!("{seed} {number}")),
                outcome,
                ran,
                forgets: dice.pick(&[
                    Forgets::Never,
                    Forgets::Never,
                    Forgets::Early,
                    Forgets::Late,
                ]),
            });
        }
        Self {
            seed,
            flows,
            roles,
            nodes,
            settings,
            trouble: Trouble::of(&dice),
            retention: lookups::short_retention_ms(seed).map_or(RETENTION, Duration::from_millis),
        }
    }

    /// Returns the task's priority and its position in the group, if the task is a member of a
    /// group that waits in one queue.
    pub(crate) fn rank(&self, key: u64) -> Option<(u8, usize)> {
        let position = self.flows.iter().find_map(|flow| match &flow.shape {
            Shape::Ranked(keys) if keys.len() as u64 <= self.settings.window => {
                keys.iter().position(|own| *own == key)
            }
            _ => None,
        })?;
        Some((self.roles[&key].priority?, position))
    }

    /// Returns the canvas of a flow, as it is submitted.
    pub(crate) fn canvas(&self, flow: &Flow) -> Canvas {
        let apply_role = |key, task| self.apply_role(key, task);
        let single =
            |key: &u64| apply_role(*key, Canvas::immutable("property.source", (key, false)));
        let args = |keys: &[u64]| keys.iter().map(|key| (*key, false)).collect::<Vec<_>>();
        let canvas = match &flow.shape {
            Shape::Node(node) => node.canvas(false, &apply_role),
            Shape::Lazy(keys) => {
                let mut members = keys.iter().map(single).collect::<Vec<_>>().into_iter();
                let group = Canvas::group(std::iter::from_fn(move || members.next()));
                races::with_policy(self, keys, group)
            }
            Shape::Ranked(keys) => {
                let group = Canvas::group(keys.iter().map(single).collect::<Vec<_>>());
                races::with_policy(self, keys, group)
            }
            Shape::Starmap(keys) => source.starmap(args(keys)).into_canvas(),
            Shape::Chunks(keys, size) => source.chunks(args(keys), *size).into_canvas(),
        };
        match &flow.idempotency_key {
            Some(key) => canvas.idempotency_key(key),
            None => canvas,
        }
    }

    /// Returns how many values the group of a flow waits for, if it is a race.
    pub(crate) fn race(&self, flow: &Flow) -> Option<usize> {
        match &flow.shape {
            Shape::Lazy(keys) | Shape::Ranked(keys) => races::wanted(self, keys),
            Shape::Node(_) | Shape::Starmap(_) | Shape::Chunks(..) => None,
        }
    }

    /// Gives a task the options of its role.
    pub(crate) fn apply_role(&self, key: u64, task: Canvas) -> Canvas {
        let Some(role) = self.roles.get(&key) else {
            return task;
        };
        let mut task = match limits::task_of(self.seed, key, role) {
            Some(limits::KEYED) => Canvas::immutable(limits::KEYED, (key, limits::tenant_of(key))),
            Some(limited) => Canvas::immutable(limited, (key,)),
            None if role.blocking => Canvas::immutable("simulate.blocking", (key,)),
            None => task,
        };
        if limits::task_of(self.seed, key, role) == Some(limits::SHARING)
            && let Some(rate) = limits::of_signature(self.seed)
        {
            let tenant = limits::tenant_of(key).to_string();
            task = task.rate_limit(rate).limit_key(tenant);
        }
        if let Some(queue) = role.queue {
            task = task.queue(queue);
        }
        if let Some(priority) = role.priority {
            task = task.priority(priority);
        }
        if let Some(ms) = role.countdown_ms {
            task = task.countdown(Duration::from_millis(ms));
        }
        if let Some(ms) = role.eta_ms {
            task = task.eta(after_start(ms));
        }
        match role.expires {
            Some(Expires::In(ms)) => task = task.expires(Duration::from_millis(ms)),
            Some(Expires::At(ms)) => task = task.expires_at(after_start(ms)),
            Some(Expires::Before) => task = task.expires_at(SystemTime::UNIX_EPOCH),
            None => {}
        }
        if let Some(ms) = role.soft_limit {
            task = task.soft_time_limit(Duration::from_millis(ms));
        }
        if role.end == End::Overrun {
            task = task.time_limit(Duration::from_millis(key));
        }
        let Retries { counted, .. } = self.retries(role);
        if counted > 0 {
            task = task.max_retries(counted);
        }
        task
    }

    /// Returns the retries that a task needs.
    pub(crate) fn retries(&self, role: &Role) -> Retries {
        let is_asked = |detour: &&Detour| matches!(detour, Detour::Retry(_));
        let asked = role.detours.iter().filter(is_asked).count() as u32;
        let uncounted = match progress::asks_for_free_retries(self.seed) {
            true => asked,
            false => 0,
        };
        let detours = role.detours.len() as u32;
        let end = match role.end {
            End::Exhausted | End::Panic => 1,
            End::Plain | End::Overrun | End::Listens => 0,
        };
        Retries {
            counted: detours - uncounted + end,
            uncounted,
        }
    }

    pub(crate) fn builder(&self, disk: Disk, clock: Clock) -> AppBuilder {
        let Settings {
            concurrency,
            blocking,
            own,
            window,
            live,
            threads,
            grace,
            buffered,
        } = &self.settings;
        let durability = match buffered {
            true => Durability::Buffered,
            false => Durability::Power,
        };
        let mut builder = App::with_store(disk)
            .durability(durability)
            .tasks(tasks::all())
            .clock(clock)
            .concurrency(*concurrency as u64)
            .blocking_concurrency(*blocking as u64)
            .window(*window)
            .live_workflows(*live as u64)
            .worker_threads(*threads as u64)
            .grace(*grace)
            .retention(self.retention)
            .limit(limits::SHARED, limits::shared(self.seed));
        for (queue, slots) in QUEUES.iter().zip(own) {
            builder = builder.queue(*queue, *slots as u64);
        }
        builder
    }

    /// Returns the longest retention of any plan.
    pub(crate) fn retention() -> Duration {
        RETENTION
    }

    /// Returns whether an ended flow may be swept before its caller asks for it.
    pub(crate) fn sweeps_early(&self) -> bool {
        self.retention < RETENTION
    }
}

fn after_start(ms: u64) -> SystemTime {
    world::start() + Duration::from_millis(ms)
}

fn runner(dice: &Dice) -> TestRunner {
    let seed: Vec<u8> = (0..2).flat_map(|_| dice.next().to_le_bytes()).collect();
    let rng = TestRng::from_seed(RngAlgorithm::XorShift, &seed);
    TestRunner::new_with_rng(Config::default(), rng)
}

impl Shape {
    fn draw(dice: &Dice, runner: &mut TestRunner, next: &mut u64) -> Self {
        let mut keys = |count: usize| -> Vec<u64> {
            let first = *next + 1;
            *next += count as u64;
            (first..=*next).collect()
        };
        match dice.roll(13) {
            3 => Self::Ranked(keys(2 + dice.roll(7))),
            0 => Self::Lazy(keys(dice.roll(20))),
            1 => Self::Starmap(keys(1 + dice.roll(4))),
            2 => Self::Chunks(keys(1 + dice.roll(6)), 1 + dice.roll(3)),
            _ => loop {
                let mut node = model::node(true)
                    .new_tree(runner)
                    .expect("nothing is filtered")
                    .current();
                let mut tasks = 0;
                node.walk(&mut |_| tasks += 1);
                if tasks <= MAX_TASKS {
                    node.number(next);
                    return Self::Node(node);
                }
            },
        }
    }

    /// Assigns each of its tasks a role.
    fn assign_roles(
        &self,
        dice: &Dice,
        roles: &mut BTreeMap<u64, Role>,
        nodes: &mut BTreeMap<u64, Node>,
    ) {
        match self {
            Self::Lazy(keys) => {
                roles.extend(keys.iter().map(|key| (*key, Role::of(dice, false, true))));
            }
            Self::Starmap(keys) | Self::Chunks(keys, _) => {
                roles.extend(keys.iter().map(|key| (*key, Role::idle(dice))));
            }
            Self::Ranked(keys) => {
                roles.extend(keys.iter().map(|key| (*key, Role::ranked(dice))));
            }
            Self::Node(node) => node.walk(&mut |node| match &node.form {
                Form::Task { key, fails, takes } => {
                    roles.insert(*key, Role::of(dice, *fails, !takes));
                }
                Form::Late { key } => drop(roles.insert(*key, Role::late(dice))),
                Form::Each { key, .. } => drop(roles.insert(*key, Role::idle(dice))),
                Form::Calling { key, .. }
                | Form::Replaced { key, .. }
                | Form::Adding { key, .. } => {
                    roles.insert(*key, Role::idle(dice));
                    nodes.insert(*key, node.clone());
                }
                Form::Chain(_) | Form::Group(..) | Form::Chord(..) | Form::Fold { .. } => {}
            }),
        }
    }

    fn run(&self, ran: &mut BTreeMap<u64, u32>) -> Result<Value, String> {
        let mut one = |key: &u64| {
            ran.insert(*key, 1);
            model::give(None, *key, false)
        };
        match self {
            Self::Node(node) => {
                let outcome = node.run(None, &[], false, ran);
                let outcome = outcome.map_err(|failed| failed.why);
                outcome.map(|value| model::plain(&value))
            }
            Self::Lazy(keys) | Self::Starmap(keys) | Self::Ranked(keys) => {
                keys.iter().map(one).collect()
            }
            Self::Chunks(keys, size) => keys
                .chunks(*size)
                .map(|keys| keys.iter().map(&mut one).collect())
                .collect::<Result<Vec<Value>, _>>()
                .map(|lists| json!(lists)),
        }
    }
}

impl Role {
    fn idle(dice: &Dice) -> Self {
        let pause = |_| dice.percent(20).then(|| 1 + dice.next() % 5_000);
        Self {
            pauses: (0..dice.roll(3)).map(pause).collect(),
            ..Self::default()
        }
    }

    fn ranked(dice: &Dice) -> Self {
        Self {
            queue: Some(NARROW),
            priority: Some(dice.pick(&[0, 3, 6, 9])),
            ..Self::idle(dice)
        }
    }

    /// Returns a role that expires before its time, or before its submission.
    fn late(dice: &Dice) -> Self {
        let mut role = Self::default();
        let (first, more) = (dice.next() % 10_000, dice.next() % 3_000);
        role.expires = Some(match dice.roll(4) {
            0 => Expires::In(0),
            1 => Expires::Before,
            2 => {
                role.countdown_ms = Some(first + more);
                Expires::In(first)
            }
            _ => {
                role.eta_ms = Some(first + more);
                Expires::At(first)
            }
        });
        role
    }

    /// Draws a role; `alone`: the task takes no input from upstream.
    fn of(dice: &Dice, fails: bool, alone: bool) -> Self {
        let mut role = Self::idle(dice);
        role.alone = alone && !fails;
        if dice.percent(30) {
            role.queue = Some(dice.pick(&QUEUES));
        }
        if dice.percent(30) {
            role.priority = Some(dice.roll(10) as u8);
        }
        match dice.roll(20) {
            0 | 1 => role.countdown_ms = Some(dice.next() % 10_000),
            2 => role.eta_ms = Some(dice.next() % 20_000),
            _ => {}
        }
        // Later than the end of any run, and than the clock is ever set to.
        let late_ms = 2 * RETENTION.as_millis() as u64;
        match dice.roll(20) {
            0 => role.expires = Some(Expires::In(late_ms)),
            1 => role.expires = Some(Expires::At(2_000 * late_ms)),
            _ => {}
        }
        if alone && !fails && dice.percent(15) {
            role.blocking = true;
            return role;
        }
        if dice.percent(20) {
            let detour = |_| match dice.roll(4) {
                0 => Detour::Retry(dice.next() % 20_000),
                1 => Detour::Error,
                2 => Detour::Panic,
                _ => Detour::Overrun,
            };
            role.detours = (0..1 + dice.roll(2)).map(detour).collect();
        }
        if fails {
            role.end = dice.pick(&[End::Plain, End::Exhausted, End::Panic, End::Overrun]);
        } else if dice.percent(5) {
            role.end = End::Listens;
        }
        let overruns = |detour: &Detour| matches!(detour, Detour::Overrun);
        if role.end == End::Listens || role.detours.iter().any(overruns) {
            // Longer than its pauses: no pause is to be ended by it.
            role.soft_limit = Some(20_000 + dice.next() % 1_000);
        }
        if role.end == End::Overrun {
            // The hard limit is short, and must come first.
            role.detours.clear();
            role.soft_limit = None;
            role.pauses.clear();
        }
        role
    }
}

impl Settings {
    fn of(dice: &Dice) -> Self {
        Self {
            concurrency: dice.pick(&[1, 2, 5, 100]),
            blocking: 1 + dice.roll(2),
            own: [1 + dice.roll(3), 1],
            window: dice.pick(&[1, 2, 3, 8, 1_024]),
            live: dice.pick(&[1, 1, 2, 10_000]),
            threads: 1 + dice.roll(3),
            grace: Duration::from_millis(dice.pick(&[0, 5, 50])),
            buffered: dice.percent(15),
        }
    }
}

impl Trouble {
    fn of(dice: &Dice) -> Self {
        let lives = dice.pick(&[0, 1, 1, 2, 3, 5]);
        let reach = dice.pick(&[5, 30, 150]);
        let end = |_| {
            let after = 1 + dice.roll(reach);
            let how = match dice.roll(4) {
                0 => LifeEnd::Shutdown,
                1 => LifeEnd::StoreFails {
                    calls: 1 + dice.roll(reach),
                    once: dice.percent(50),
                },
                _ => LifeEnd::Crash,
            };
            (after, how)
        };
        Self {
            ends: (0..lives).map(end).collect(),
            repeats: dice.pick(&[0, 0, 10, 50]),
            deaths: dice.pick(&[(0, 0), (0, 0), (1, 30), (2, 100)]),
            write_percent: dice.pick(&[5, 30, 60, 90]),
            reopens_at_the_end: dice.percent(30),
        }
    }
}
