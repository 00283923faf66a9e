//! rustqueue, embedded, over redb.
//!
//! group: pushed by the thousand, two workers that pull, run and acknowledge by the batch, then every
//! result is read back; chord: a job that depends on all members and reads their results; chain: each
//! job pushes the next.
//!
//! Configuration: immediate (an fsync per commit) or hybrid (in memory, written out now and then).

use std::sync::Arc;
use std::time::{Duration, Instant};

use rustkit::{Arguments, DataDir, LIMIT, WARM_UP, report, sum_below};
use rustqueue::engine::queue::{BatchAckItem, BatchPushItem};
use rustqueue::storage::{HybridConfig, HybridStorage, RedbDurability, RedbStorage};
use rustqueue::{Job, JobId, JobOptions, QueueManager, StorageBackend};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};

const QUEUE: &str = "measured";
const PULL: u32 = 256;
const PUSH: usize = 1_000;

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() {
    let arguments = Arguments::parse();
    let folder = DataDir::new("rustqueue");
    let redb =
        RedbStorage::new_with_durability(folder.file("jobs.redb"), RedbDurability::Immediate);
    let redb = Arc::new(redb.expect("a store"));
    let store: Arc<dyn StorageBackend> = match arguments.config.as_str() {
        "immediate" => redb,
        "hybrid" => Arc::new(HybridStorage::new(redb, HybridConfig::default())),
        config => panic!("no configuration {config}"),
    };
    let queue = Arc::new(QueueManager::new(store));
    let (values, mut told) = mpsc::unbounded_channel();
    for _ in 0..2 {
        tokio::spawn(work(queue.clone(), values.clone()));
    }
    push(&queue, WARM_UP).await;
    for _ in 0..WARM_UP {
        told.recv().await;
    }

    let start = Instant::now();
    let mut latencies = Vec::new();
    let measured = measure(&arguments, &queue, &mut told, &mut latencies);
    let end = timeout(LIMIT, measured)
        .await
        .map_err(|late| late.to_string());
    report(
        "0.3.0",
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
    queue: &QueueManager,
    told: &mut mpsc::UnboundedReceiver<u64>,
    latencies: &mut Vec<Duration>,
) -> String {
    let n = arguments.n;
    match arguments.shape.as_str() {
        "group" => {
            let ids = push(queue, n).await;
            for _ in 0..n {
                told.recv().await.expect("a value");
            }
            for (i, id) in ids.into_iter().enumerate() {
                assert_eq!(result(queue, id).await, i as u64);
            }
            String::new()
        }
        "chord" => {
            let depends_on = Some(push(queue, n).await);
            let options = JobOptions {
                depends_on,
                ..Default::default()
            };
            let body = queue.push(QUEUE, "total", Value::Null, Some(options));
            body.await.expect("a submission");
            let mut values = Vec::with_capacity(n + 1);
            while values.len() <= n {
                values.push(told.recv().await.expect("a value"));
            }
            // The body may be told of before its last members are.
            assert_eq!(values.iter().sum::<u64>(), 2 * sum_below(n));
            "the body reads the results itself".to_owned()
        }
        "chain" => {
            let first = queue.push(QUEUE, "step", json!([0, n]), None);
            first.await.expect("a submission");
            assert_eq!(told.recv().await, Some(n as u64));
            "each job pushes the next".to_owned()
        }
        "latency" => {
            for i in 0..n as u64 {
                let start = Instant::now();
                queue
                    .push(QUEUE, "noop", json!(i), None)
                    .await
                    .expect("a submission");
                assert_eq!(told.recv().await, Some(i));
                latencies.push(start.elapsed());
            }
            String::new()
        }
        shape => panic!("no shape {shape}"),
    }
}

/// Pulls, runs and acknowledges; tells values once that is committed.
async fn work(queue: Arc<QueueManager>, values: mpsc::UnboundedSender<u64>) {
    loop {
        let jobs = queue.pull(QUEUE, PULL).await.expect("jobs");
        if jobs.is_empty() {
            sleep(Duration::from_millis(1)).await;
            continue;
        }
        let (mut ended, mut tell) = (Vec::new(), Vec::new());
        for job in jobs {
            let (value, is_last) = run(&queue, &job).await;
            tell.extend(is_last.then_some(value));
            ended.push(BatchAckItem {
                id: job.id,
                result: Some(json!(value)),
            });
        }
        for acknowledged in queue.ack_batch(ended).await.expect("a commit") {
            assert!(acknowledged.ok, "{acknowledged:?}");
        }
        for value in tell {
            let _ = values.send(value); // the caller may have ended
        }
    }
}

/// What the job gives, and whether the caller waits for it.
async fn run(queue: &QueueManager, job: &Job) -> (u64, bool) {
    let number = |value: &Value| value.as_u64().expect("a number");
    match job.name.as_str() {
        "noop" => (number(&job.data), true),
        "step" => {
            let (value, left) = (number(&job.data[0]) + 1, number(&job.data[1]));
            if left > 1 {
                let next = queue.push(QUEUE, "step", json!([value, left - 1]), None);
                next.await.expect("a submission");
            }
            (value, left == 1)
        }
        "total" => {
            let mut sum = 0;
            for member in &job.depends_on {
                sum += result(queue, *member).await;
            }
            (sum, true)
        }
        name => panic!("no job {name}"),
    }
}

async fn result(queue: &QueueManager, id: JobId) -> u64 {
    let job = queue.get_job(id).await.expect("a job").expect("it is kept");
    job.result
        .and_then(|value| value.as_u64())
        .expect("a number")
}

async fn push(queue: &QueueManager, n: usize) -> Vec<JobId> {
    let item = |i| BatchPushItem {
        name: "noop".into(),
        data: json!(i),
        options: None,
    };
    let mut ids = Vec::with_capacity(n);
    for start in (0..n).step_by(PUSH) {
        let items = (start..n.min(start + PUSH)).map(item).collect();
        ids.extend(queue.push_batch(QUEUE, items).await.expect("a submission"));
    }
    ids
}
