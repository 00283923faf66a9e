//! apalis, apalis-sqlite over a file, apalis-workflow.
//!
//! group: tasks whose handlers tell the caller in memory, then every result is read back; chord: a
//! workflow that filter_maps over a list and sums; chain: each handler pushes the next; latency: until
//! the handler tells, which is before its end is committed.
//!
//! Configuration: full (an fsync per commit) or normal (none; both with a write-ahead log). The
//! storage's setup() sets synchronous=OFF on the connection that it is given, so it gets one of its own.

use std::collections::HashMap;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use apalis::prelude::*;
use apalis_sqlite::{Config, SqliteStorage};
use apalis_workflow::*;
use rustkit::{Arguments, DataDir, LIMIT, WARM_UP, report, sum_below};
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};

const BATCH: usize = 256;
const CONCURRENCY: usize = 256;
const POLL: Duration = Duration::from_millis(5);

type Tasks = SqliteStorage<u64>;
type Steps = SqliteStorage<(u64, u64)>;

/// Handlers are plain functions: what they tell goes here, and the next step there.
static VALUES: OnceLock<mpsc::UnboundedSender<u64>> = OnceLock::new();
static STEPS: OnceLock<Steps> = OnceLock::new();

fn tell(value: u64) -> Result<(), BoxDynError> {
    Ok(VALUES.get().ok_or("nobody listens")?.send(value)?)
}

async fn noop(i: u64) -> Result<u64, BoxDynError> {
    tell(i)?;
    Ok(i)
}

async fn step((value, left): (u64, u64)) -> Result<u64, BoxDynError> {
    if left > 1 {
        let mut steps = STEPS.get().ok_or("no storage")?.clone();
        steps.push((value + 1, left - 1)).await?;
    } else {
        tell(value + 1)?;
    }
    Ok(value + 1)
}

/// Tells the sum of the list, and its length.
async fn total(values: Vec<u64>) -> Result<u64, BoxDynError> {
    let sum = values.iter().sum();
    tell(sum)?;
    tell(values.len() as u64)?;
    Ok(sum)
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() {
    let arguments = Arguments::parse();
    let folder = DataDir::new("apalis");
    let synchronous = match arguments.config.as_str() {
        "full" => SqliteSynchronous::Full,
        "normal" => SqliteSynchronous::Normal,
        config => panic!("no configuration {config}"),
    };
    let connect = SqliteConnectOptions::new()
        .filename(folder.file("apalis.db"))
        .create_if_missing(true)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(synchronous)
        .busy_timeout(Duration::from_secs(60));
    let pool = |connections| SqlitePoolOptions::new().max_connections(connections);
    let own = pool(1)
        .connect_with(connect.clone())
        .await
        .expect("a connection");
    SqliteStorage::setup(&own).await.expect("tables");
    own.close().await;
    let pool = pool(4).connect_with(connect).await.expect("connections");

    let (values, mut told) = mpsc::unbounded_channel();
    VALUES.set(values).expect("set once");
    let config = |queue: &str| Config::default().queue(queue).batch_size(BATCH);
    let mut tasks: Tasks = SqliteStorage::new(&pool).with_config(config("noop"));
    let steps: Steps = SqliteStorage::new(&pool).with_config(config("step"));
    let mut flows: Tasks = SqliteStorage::new(&pool).with_config(config("flow"));
    STEPS.set(steps.clone()).expect("set once");
    let worker = WorkerBuilder::new("noops").backend(tasks.clone().poll_with_interval(POLL));
    tokio::spawn(worker.concurrency(CONCURRENCY).build(noop).run());
    match arguments.shape.as_str() {
        "chain" => {
            let worker = WorkerBuilder::new("steps").backend(steps.poll_with_interval(POLL));
            tokio::spawn(worker.concurrency(CONCURRENCY).build(step).run());
        }
        "chord" => {
            let flow = SteppedFlow::new("chord")
                .and_then(
                    |n: u64| async move { Ok::<_, BoxDynError>((0..n).collect::<Vec<u64>>()) },
                )
                .filter_map(|i: u64| async move { Some(i) })
                .and_then(total);
            let worker =
                WorkerBuilder::new("flows").backend(flows.clone().poll_with_interval(POLL));
            tokio::spawn(worker.concurrency(CONCURRENCY).build(flow).run());
        }
        _ => {}
    }
    let warm_up = (0..WARM_UP as u64).collect();
    tasks.push_bulk(warm_up).await.expect("a warm-up");
    for _ in 0..WARM_UP {
        told.recv().await;
    }

    let start = Instant::now();
    let mut latencies = Vec::new();
    let measured = measure(
        &arguments,
        &mut tasks,
        &mut flows,
        &mut told,
        &mut latencies,
    );
    let end = timeout(LIMIT, measured)
        .await
        .map_err(|late| late.to_string());
    report(
        "1.0.0",
        &arguments,
        start.elapsed().as_secs_f64(),
        latencies,
        end,
    );
    drop(folder);
    std::process::exit(0); // the workers do not end by themselves
}

async fn measure(
    arguments: &Arguments,
    tasks: &mut Tasks,
    flows: &mut Tasks,
    told: &mut mpsc::UnboundedReceiver<u64>,
    latencies: &mut Vec<Duration>,
) -> String {
    let n = arguments.n;
    match arguments.shape.as_str() {
        "group" => {
            let id = |_| TaskId::from_ulid(ulid::Ulid::generate());
            let ids: Vec<TaskId> = (0..n).map(id).collect();
            let with_id = |(i, id): (u64, &TaskId)| TaskBuilder::new(i).task_id(id.clone()).build();
            let members: Vec<_> = (0..).zip(&ids).map(with_id).collect();
            let mut members = futures::stream::iter(members);
            tasks.push_all(&mut members).await.expect("a submission");
            for _ in 0..n {
                told.recv().await.expect("a value");
            }
            let values = results(tasks, &ids).await;
            assert!(
                values.into_iter().eq(0..n as u64),
                "values are lost or wrong"
            );
            String::new()
        }
        "chord" => {
            flows.push_start(n as u64).await.expect("a submission");
            assert_eq!(told.recv().await, Some(sum_below(n)));
            assert_eq!(told.recv().await, Some(n as u64));
            "a workflow's filter_map".to_owned()
        }
        "chain" => {
            let mut steps = STEPS.get().expect("set above").clone();
            steps.push((0, n as u64)).await.expect("a submission");
            assert_eq!(told.recv().await, Some(n as u64));
            "each handler pushes the next".to_owned()
        }
        "latency" => {
            for i in 0..n as u64 {
                let start = Instant::now();
                tasks.push(i).await.expect("a submission");
                assert_eq!(told.recv().await, Some(i));
                latencies.push(start.elapsed());
            }
            "until the handler tells, before its commit".to_owned()
        }
        shape => panic!("no shape {shape}"),
    }
}

/// The results of these, in their order. (`wait_for` sleeps half a second whenever a look finds
/// nothing new, so this looks by itself.)
async fn results(tasks: &mut Tasks, ids: &[TaskId]) -> Vec<u64> {
    let mut found = HashMap::with_capacity(ids.len());
    while found.len() < ids.len() {
        let missing = ids.iter().filter(|id| !found.contains_key(&id.to_string()));
        let missing: Vec<_> = missing.cloned().collect();
        let some: Vec<TaskResult<u64>> = WaitForCompletion::<u64>::check_status(tasks, missing)
            .await
            .expect("results");
        if some.is_empty() {
            sleep(Duration::from_millis(2)).await;
        }
        for result in some {
            let value = result.result().as_ref().expect("a success");
            found.insert(result.task_id().to_string(), *value);
        }
    }
    ids.iter().map(|id| found[&id.to_string()]).collect()
}
