//! Random canvases against a short recursive reference: the value or failure of each, and how
//! often every task, callback and errback in it ran; also with a restart in the middle.

mod model;

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{LazyLock, Mutex};
use std::time::Duration;

use chordal::TaskEntry;
use chordal::persistence::MemoryStore;
use chordal::prelude::*;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use serde_json::Value;
use tokio::sync::{oneshot, watch};

use self::model::{Acc, Form, Node, fold_in, give, node, origin, plain};

/// How often each task's body was entered, by key; a key's upper bits are its run.
static LOG: LazyLock<watch::Sender<BTreeMap<u64, u32>>> = LazyLock::new(watch::Sender::default);
/// Told when its run has entered that many bodies.
type Trips = HashMap<u64, (usize, oneshot::Sender<()>)>;
static TRIPS: LazyLock<Mutex<Trips>> = LazyLock::new(Mutex::default);
static RUNS: AtomicU64 = AtomicU64::new(1);
const KEYS_PER_RUN: u64 = 1 << 20;
/// Only a broken engine needs that long.
const STUCK: Duration = Duration::from_secs(20);

#[task(name = "property.source")]
async fn source(key: u64, fails: bool) -> Result<Value, TaskError> {
    enter(key);
    give(None, key, fails).map_err(TaskError::new)
}

#[task(name = "property.relay")]
async fn relay(input: Value, key: u64, fails: bool) -> Result<Value, TaskError> {
    enter(key);
    give(Some(&input), key, fails).map_err(TaskError::new)
}

/// The nodes whose tasks start more as they run, by key.
static NODES: LazyLock<Mutex<HashMap<u64, Node>>> = LazyLock::new(Mutex::default);

fn form(key: u64) -> Form {
    NODES.lock().unwrap()[&key].form.clone()
}

#[task(name = "property.calling")]
async fn calling(ctx: &TaskContext, key: u64) -> Result<Value, TaskError> {
    enter(key);
    let Form::Calling { callee, .. } = form(key) else {
        unreachable!("it calls");
    };
    let called = ctx.call("callee", canvas(&callee)).await?;
    give(Some(&called), key, false).map_err(TaskError::new)
}

#[task(name = "property.replaced")]
async fn replaced(ctx: &TaskContext, key: u64) -> Result<Value, TaskError> {
    enter(key);
    let Form::Replaced { by, .. } = form(key) else {
        unreachable!("it is replaced");
    };
    ctx.replace(canvas(&by))
}

#[task(name = "property.adding")]
async fn adding(ctx: &TaskContext, key: u64) -> Result<Value, TaskError> {
    enter(key);
    let Form::Adding { added, .. } = form(key) else {
        unreachable!("it adds");
    };
    for node in &added {
        ctx.add_to_chord(canvas(node))?;
    }
    give(None, key, false).map_err(TaskError::new)
}

#[task(name = "property.fold")]
async fn fold(acc: Acc, item: Value) -> Result<Acc, TaskError> {
    fold_in(&acc, &item).map_err(TaskError::new)
}

fn all_tasks() -> [TaskEntry; 6] {
    tasks![source, relay, calling, replaced, adding, fold]
}

fn canvas(node: &Node) -> Canvas {
    node.canvas(false, &|_, task| task)
}

fn enter(key: u64) {
    LOG.send_modify(|log| *log.entry(key).or_default() += 1);
    let run = key / KEYS_PER_RUN;
    let mut trips = TRIPS.lock().unwrap();
    if let Some((left, _)) = trips.get_mut(&run) {
        *left -= 1;
        if *left == 0 {
            let (_, tripped) = trips.remove(&run).unwrap();
            let _ = tripped.send(());
        }
    }
}

/// One canvas, and what the reference says of it.
struct Case {
    run: u64,
    canvas: Canvas,
    outcome: Result<Value, String>,
    ran: BTreeMap<u64, u32>,
}

impl Case {
    fn new(mut node: Node) -> Self {
        let run = RUNS.fetch_add(1, Ordering::Relaxed);
        node.number(&mut (run * KEYS_PER_RUN));
        let mut ran = BTreeMap::new();
        node.walk(&mut |node| {
            if let Form::Calling { key, .. }
            | Form::Replaced { key, .. }
            | Form::Adding { key, .. } = &node.form
            {
                NODES.lock().unwrap().insert(*key, node.clone());
            }
        });
        let outcome = node.run(None, &[], false, &mut ran);
        Self {
            run,
            canvas: canvas(&node),
            outcome: outcome
                .map(|value| plain(&value))
                .map_err(|failed| failed.why),
            ran,
        }
    }

    fn log(&self) -> BTreeMap<u64, u32> {
        self.part_of(&LOG.borrow())
    }

    fn part_of(&self, log: &BTreeMap<u64, u32>) -> BTreeMap<u64, u32> {
        let keys = self.run * KEYS_PER_RUN..(self.run + 1) * KEYS_PER_RUN;
        log.range(keys).map(|(key, times)| (*key, *times)).collect()
    }

    /// Returns once as many bodies were entered as the reference says.
    async fn all_ran(&self) -> Result<(), TestCaseError> {
        let expected: u32 = self.ran.values().sum();
        let mut log = LOG.subscribe();
        let entered = log.wait_for(|log| self.part_of(log).values().sum::<u32>() >= expected);
        let entered = tokio::time::timeout(STUCK, entered).await.is_ok();
        prop_assert!(entered, "ran {:?}, not {:?}", self.log(), self.ran);
        prop_assert_eq!(self.log(), self.ran.clone());
        Ok(())
    }

    async fn ends_as_predicted(&self, result: &AsyncResult<Value>) -> Result<(), TestCaseError> {
        let outcome = match result.get_timeout(STUCK).await {
            Ok(value) => Ok(plain(&value)),
            Err(chordal::Error::Failed(failure)) => Err(origin(&failure.message)),
            Err(error) => return Err(TestCaseError::fail(error.to_string())),
        };
        prop_assert_eq!(&outcome, &self.outcome);
        self.all_ran().await
    }
}

/// `dynamic`: some tasks start more as they run. `CHORDAL_PROPERTY_CASES` is how many cases where it is
/// 800 by default, and changes the others in proportion.
fn check(cases: u32, dynamic: bool, test: impl AsyncFn(Case, u32) -> Result<(), TestCaseError>) {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let set = std::env::var("CHORDAL_PROPERTY_CASES").map_or(800, |set| set.parse().unwrap());
    let cases = (cases * set).div_ceil(800);
    let config = Config {
        cases,
        failure_persistence: None,
        ..Config::default()
    };
    TestRunner::new(config)
        .run(&(node(dynamic), any::<u32>()), |(node, seed)| {
            runtime.block_on(test(Case::new(node), seed))
        })
        .unwrap_or_else(|error| panic!("{error}"));
    println!("{cases} trials with random canvases");
}

async fn open(store: MemoryStore) -> App {
    App::with_store(store)
        .tasks(all_tasks())
        .start()
        .await
        .unwrap()
}

#[test]
fn every_canvas_ends_as_the_reference_says_and_runs_each_task_as_often() {
    let app = block_on(open(MemoryStore::new()));
    check(800, true, async |case, _| {
        let result = app.apply_async(case.canvas.clone()).await;
        let result = result.map_err(|error| TestCaseError::fail(error.to_string()))?;
        case.ends_as_predicted(&result).await
    });
}

#[test]
fn every_canvas_ends_as_the_reference_says_in_eager_mode_too() {
    let app = App::eager().tasks(all_tasks());
    let app = block_on(app.start()).unwrap();
    check(800, true, async |case, _| {
        let result = app.apply_async(case.canvas.clone()).await;
        let result = result.map_err(|error| TestCaseError::fail(error.to_string()))?;
        prop_assert_eq!(case.log(), case.ran.clone());
        case.ends_as_predicted(&result).await
    });
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Runtime::new().unwrap().block_on(future)
}

#[test]
fn a_clean_restart_at_any_point_changes_no_outcome_and_runs_nothing_again() {
    // (A task that calls is cut short, and begins again.)
    check(150, false, async |case, seed| {
        let total: u32 = case.ran.values().sum();
        let (trip, tripped) = oneshot::channel();
        let at = 1 + seed as usize % (total as usize + 1);
        TRIPS.lock().unwrap().insert(case.run, (at, trip));
        let store = MemoryStore::new();
        let app = open(store.clone()).await;
        let submitted = app.apply_async(case.canvas.clone()).await;
        let id = submitted
            .map_err(|error| TestCaseError::fail(error.to_string()))?
            .id();
        if at <= total as usize {
            let _ = tokio::time::timeout(STUCK, tripped).await;
        }
        app.shutdown().await.unwrap();
        let app = open(store.clone()).await;
        let result = app.async_result(id).await.unwrap();
        case.ends_as_predicted(&result).await?;
        app.shutdown().await.unwrap();
        // A third life finds nothing left to do.
        let app = open(store).await;
        let result = app.async_result(id).await.unwrap();
        case.ends_as_predicted(&result).await?;
        app.shutdown().await.unwrap();
        case.all_ran().await
    });
}
