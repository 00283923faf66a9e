//! Random canvases against a short recursive reference: the value or failure of each, and how
//! often every task, callback and errback in it ran; also with a restart in the middle.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{LazyLock, Mutex};
use std::time::Duration;

use chordal::persistence::MemoryStore;
use chordal::prelude::*;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use serde_json::{Value, json};
use tokio::sync::{oneshot, watch};

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

/// What a task gives: it depends on all of its input.
fn give(input: Option<&Value>, key: u64, fails: bool) -> Result<Value, String> {
    if fails {
        return Err(format!("boom {key}"));
    }
    let text = json!([input.map(plain), key]).to_string();
    let hash = text.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    Ok(json!(hash % 1_000_000))
}

/// The value with every failure in it reduced to what first went wrong.
fn plain(value: &Value) -> Value {
    match value {
        Value::Object(map) => match map.get("message") {
            Some(message) => json!(origin(message.as_str().unwrap())),
            None => map.iter().map(|(k, v)| (k.clone(), plain(v))).collect(),
        },
        Value::Array(list) => list.iter().map(plain).collect(),
        other => other.clone(),
    }
}

/// A chord's message quotes that of the member it blames.
fn origin(message: &str) -> String {
    match message.rsplit_once("boom ") {
        Some((_, key)) => {
            let digits: String = key.chars().take_while(char::is_ascii_digit).collect();
            format!("boom {digits}")
        }
        None => "no list".to_owned(),
    }
}

#[derive(Clone)]
struct Node {
    form: Form,
    link: Vec<Node>,
    link_error: Vec<Node>,
}

#[derive(Clone, Debug)]
enum Form {
    Task { key: u64, fails: bool, takes: bool },
    Chain(Vec<Node>),
    Group(Vec<Node>, bool),
    Chord(Vec<Node>, bool, Box<Node>),
    Each { key: u64, fails: bool },
}

/// So that a failing case can be read.
impl fmt::Debug for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.form {
            Form::Task { fails: true, .. } => write!(f, "fail"),
            Form::Task { takes: true, .. } => write!(f, "task"),
            Form::Task { .. } => write!(f, "immutable"),
            Form::Chain(steps) => write!(f, "chain{steps:?}"),
            Form::Group(members, settled) => write!(f, "group{members:?} settled:{settled}"),
            Form::Chord(header, settled, body) => {
                write!(f, "chord({header:?} settled:{settled} | {body:?})")
            }
            Form::Each { fails, .. } => write!(f, "each(fails:{fails})"),
        }?;
        if !self.link.is_empty() {
            write!(f, ".link{:?}", self.link)?;
        }
        if !self.link_error.is_empty() {
            write!(f, ".link_error{:?}", self.link_error)?;
        }
        Ok(())
    }
}

fn node() -> impl Strategy<Value = Node> {
    let task =
        (prop::bool::weighted(0.15), prop::bool::weighted(0.7)).prop_map(|(fails, takes)| {
            Form::Task {
                key: 0,
                fails,
                takes,
            }
        });
    let each = prop::bool::weighted(0.1).prop_map(|fails| Form::Each { key: 0, fails });
    let leaf = prop_oneof![9 => task, 1 => each].prop_map(bare);
    leaf.prop_recursive(4, 32, 4, |inner| {
        let some = prop::collection::vec(inner.clone(), 0..5);
        let callbacks = || prop::collection::vec(inner.clone(), 0..2);
        let settled = prop::bool::weighted(0.3);
        let form = prop_oneof![
            2 => inner.clone().prop_map(|node| node.form),
            3 => some.clone().prop_map(Form::Chain),
            3 => (some.clone(), settled).prop_map(|(m, settled)| Form::Group(m, settled)),
            3 => (some, settled, inner.clone())
                .prop_map(|(h, settled, body)| Form::Chord(h, settled, Box::new(body))),
        ];
        let callbacks = prop_oneof![
            3 => Just((Vec::new(), Vec::new())),
            1 => (callbacks(), callbacks()),
        ];
        (form, callbacks).prop_map(|(form, (link, link_error))| {
            let mut node = bare(form);
            if !node.is_list() {
                node.link = link;
            }
            node.link_error = link_error;
            node
        })
    })
}

fn bare(form: Form) -> Node {
    // A chord whose body is nothing is a group.
    let form = match form {
        Form::Chord(header, settled, body) if body.vanishes() => Form::Group(header, settled),
        form => form,
    };
    Node {
        form,
        link: Vec::new(),
        link_error: Vec::new(),
    }
}

impl Node {
    /// Takes no `link`.
    fn is_list(&self) -> bool {
        matches!(self.form, Form::Group(..) | Form::Each { .. })
    }

    /// An empty chain among the steps of a chain leaves no trace.
    fn vanishes(&self) -> bool {
        self.link.is_empty()
            && self.link_error.is_empty()
            && matches!(&self.form, Form::Chain(steps) if steps.iter().all(Self::vanishes))
    }

    fn number(&mut self, next: &mut u64) {
        match &mut self.form {
            Form::Task { key, .. } | Form::Each { key, .. } => {
                *next += 1;
                *key = *next;
            }
            Form::Chain(nodes) | Form::Group(nodes, _) => {
                nodes.iter_mut().for_each(|node| node.number(next));
            }
            Form::Chord(header, _, body) => {
                header.iter_mut().for_each(|node| node.number(next));
                body.number(next);
            }
        }
        self.link
            .iter_mut()
            .chain(&mut self.link_error)
            .for_each(|node| node.number(next));
    }

    fn canvas(&self, fed: bool) -> Canvas {
        let all =
            |nodes: &[Self]| -> Vec<_> { nodes.iter().map(|node| node.canvas(fed)).collect() };
        let group = |nodes: &[Self], settled: bool| {
            let group = Canvas::group(all(nodes));
            if settled { group.settled() } else { group }
        };
        let canvas = match &self.form {
            Form::Task { key, fails, takes } if fed && *takes => {
                Canvas::task("property.relay", (key, fails))
            }
            Form::Task { key, fails, .. } => Canvas::immutable("property.source", (key, fails)),
            Form::Chain(steps) => {
                let mut fed = fed;
                Canvas::chain(steps.iter().map(|step| {
                    let canvas = step.canvas(fed);
                    fed |= !step.vanishes();
                    canvas
                }))
            }
            Form::Group(members, settled) => group(members, *settled),
            Form::Chord(header, settled, body) => group(header, *settled) | body.canvas(true),
            Form::Each { key, fails } if fed => relay.each(*key, *fails).into_canvas(),
            Form::Each { .. } => Canvas::group([]),
        };
        let linked = self
            .link
            .iter()
            .fold(canvas, |canvas, node| canvas.link(node.canvas(true)));
        self.link_error
            .iter()
            .fold(linked, |canvas, node| canvas.link_error(node.canvas(true)))
    }

    /// The steps of a chain that are there at all.
    fn steps(nodes: &[Self]) -> Vec<&Self> {
        nodes.iter().filter(|step| !step.vanishes()).collect()
    }

    fn ends_in_group(&self) -> bool {
        match &self.form {
            Form::Task { .. } => false,
            Form::Group(..) | Form::Each { .. } => true,
            Form::Chain(steps) => Self::steps(steps).last().is_some_and(|s| s.ends_in_group()),
            Form::Chord(_, _, body) => body.ends_in_group(),
        }
    }

    /// Is only a header, if anything follows it.
    fn is_group(&self) -> bool {
        match &self.form {
            Form::Task { .. } => false,
            Form::Group(..) | Form::Each { .. } => true,
            Form::Chain(steps) => matches!(&Self::steps(steps)[..], [only] if only.is_group()),
            Form::Chord(_, _, body) => body.is_group(),
        }
    }

    /// The reference: the value or what first went wrong, and in `ran` how often each task did.
    /// `followed`: something takes its value.
    fn run(
        &self,
        input: Option<Value>,
        above: &[Self],
        followed: bool,
        ran: &mut BTreeMap<u64, u32>,
    ) -> Outcome {
        let mut errbacks = [&self.link_error, above].concat();
        let list = |ran: &mut _, members: &[Self], settled: bool, errbacks: &[Self]| -> Outcome {
            let all = members
                .iter()
                .map(|m| m.run(input.clone(), errbacks, false, ran));
            gather(all.collect(), settled)
        };
        let outcome = match &self.form {
            Form::Task { key, fails, takes } => {
                *ran.entry(*key).or_default() += 1;
                give(input.as_ref().filter(|_| *takes), *key, *fails).map_err(Failed::task)
            }
            Form::Chain(steps) => {
                let outcome =
                    self.run_chain(&Self::steps(steps), input.clone(), &errbacks, followed, ran);
                match outcome {
                    Ok(value) => Ok(value),
                    // The last step had the errbacks itself.
                    Err((true, why)) if self.ends_in_group() => {
                        errbacks.clear();
                        Err(why)
                    }
                    Err((_, why)) => Err(why),
                }
            }
            Form::Group(members, settled) => return list(ran, members, *settled, &errbacks),
            Form::Chord(header, settled, body) => {
                let theirs = if body.ends_in_group() {
                    std::mem::take(&mut errbacks)
                } else {
                    Vec::new()
                };
                match list(ran, header, *settled, &[]) {
                    Ok(list) => body.run(Some(list), &theirs, followed, ran),
                    Err(failed) if followed && body.is_group() => Err(failed),
                    Err(Failed { why, .. }) => {
                        body.fails(&why, &theirs, followed, ran);
                        Err(Failed::task(why))
                    }
                }
            }
            Form::Each { key, fails } => {
                let elements = match input {
                    None => Vec::new(),
                    Some(Value::Array(elements)) => elements,
                    Some(_) => {
                        let why = "no list".to_owned();
                        call(&errbacks, &why, ran);
                        return Err(Failed {
                            why,
                            by_group: true,
                        });
                    }
                };
                let member = bare(Form::Task {
                    key: *key,
                    fails: *fails,
                    takes: true,
                });
                let all = elements
                    .into_iter()
                    .map(|e| member.run(Some(e), &errbacks, false, ran));
                return gather(all.collect(), false);
            }
        };
        match &outcome {
            Ok(value) => self.link.iter().for_each(|callback| {
                let _ = callback.run(Some(value.clone()), &[], false, ran);
            }),
            Err(Failed { why, .. }) => call(&errbacks, why, ran),
        }
        outcome
    }

    /// The steps one by one; a failure says whether it is that of the last.
    fn run_chain(
        &self,
        steps: &[&Self],
        input: Option<Value>,
        errbacks: &[Self],
        followed: bool,
        ran: &mut BTreeMap<u64, u32>,
    ) -> Result<Value, (bool, Failed)> {
        let mut input = input;
        for (i, step) in steps.iter().enumerate() {
            let is_last = i + 1 == steps.len();
            let theirs = if is_last && step.ends_in_group() {
                errbacks
            } else {
                &[]
            };
            match step.run(input, theirs, followed || !is_last, ran) {
                Ok(value) => input = Some(value),
                Err(failed) if is_last => return Err((true, failed)),
                Err(Failed { why, by_group }) => {
                    // The group was the header of the steps behind it.
                    let rest = &steps[i + 1..];
                    if by_group && followed && rest.iter().all(|step| step.is_group()) {
                        return Err((true, Failed { why, by_group }));
                    }
                    let given = by_group && fail_first(rest, &why, errbacks, followed, ran);
                    return Err((given, Failed::task(why)));
                }
            }
        }
        Ok(input.unwrap_or_default())
    }

    /// It fails before it could start, because the header before it did.
    fn fails(&self, why: &str, above: &[Self], followed: bool, ran: &mut BTreeMap<u64, u32>) {
        let errbacks = [&self.link_error, above].concat();
        match &self.form {
            Form::Task { .. } => call(&errbacks, why, ran),
            // A header, whose body fails.
            Form::Group(..) | Form::Each { .. } if followed => {}
            Form::Each { .. } => call(&errbacks, why, ran),
            Form::Group(members, _) => {
                members
                    .iter()
                    .for_each(|m| m.fails(why, &errbacks, false, ran));
            }
            Form::Chord(_, _, body) if body.ends_in_group() => {
                body.fails(why, &errbacks, followed, ran);
            }
            Form::Chord(_, _, body) => {
                call(&errbacks, why, ran);
                body.fails(why, &[], followed, ran);
            }
            Form::Chain(steps) => {
                if !fail_first(&Self::steps(steps), why, &errbacks, followed, ran) {
                    call(&errbacks, why, ran);
                }
            }
        }
    }
}

/// Of steps that never started, the first fails; a header is passed over. Says whether that is the
/// last and took the chain's errbacks.
fn fail_first(
    steps: &[&Node],
    why: &str,
    errbacks: &[Node],
    followed: bool,
    ran: &mut BTreeMap<u64, u32>,
) -> bool {
    let headers = steps.len().saturating_sub(1);
    let at = steps[..headers].iter().take_while(|s| s.is_group()).count();
    let Some(step) = steps.get(at) else {
        return false;
    };
    let is_last = at == headers;
    let given = is_last && step.ends_in_group();
    let theirs = if given { errbacks } else { &[] };
    step.fails(why, theirs, followed || !is_last, ran);
    given
}

fn call(errbacks: &[Node], why: &str, ran: &mut BTreeMap<u64, u32>) {
    for errback in errbacks {
        let _ = errback.run(Some(json!({ "message": why })), &[], false, ran);
    }
}

/// What first went wrong.
#[derive(Clone, Debug)]
struct Failed {
    why: String,
    /// A group said so whose list would have been the value.
    by_group: bool,
}

impl Failed {
    fn task(why: String) -> Self {
        Self {
            why,
            by_group: false,
        }
    }
}

type Outcome = Result<Value, Failed>;

fn gather(outcomes: Vec<Outcome>, settled: bool) -> Outcome {
    if !settled {
        let list: Outcome = outcomes.into_iter().collect();
        return list.map_err(|failed| Failed {
            by_group: true,
            ..failed
        });
    }
    Ok(outcomes
        .into_iter()
        .map(|outcome| match outcome {
            Ok(value) => json!({ "Ok": value }),
            Err(failed) => json!({ "Err": { "message": failed.why } }),
        })
        .collect())
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
        let outcome = node.run(None, &[], false, &mut ran);
        Self {
            run,
            canvas: node.canvas(false),
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

fn check(cases: u32, test: impl AsyncFn(Case, u32) -> Result<(), TestCaseError>) {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let config = Config {
        cases,
        failure_persistence: None,
        ..Config::default()
    };
    TestRunner::new(config)
        .run(&(node(), any::<u32>()), |(node, seed)| {
            runtime.block_on(test(Case::new(node), seed))
        })
        .unwrap_or_else(|error| panic!("{error}"));
}

async fn open(store: MemoryStore) -> App {
    App::with_store(store)
        .tasks(tasks![source, relay])
        .start()
        .await
        .unwrap()
}

#[test]
fn every_canvas_ends_as_the_reference_says_and_runs_each_task_as_often() {
    let app = block_on(open(MemoryStore::new()));
    check(800, async |case, _| {
        let result = app.apply_async(case.canvas.clone()).await;
        let result = result.map_err(|error| TestCaseError::fail(error.to_string()))?;
        case.ends_as_predicted(&result).await
    });
}

#[test]
fn every_canvas_ends_as_the_reference_says_in_eager_mode_too() {
    let app = App::eager().tasks(tasks![source, relay]);
    let app = block_on(app.start()).unwrap();
    check(800, async |case, _| {
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
    check(150, async |case, seed| {
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
