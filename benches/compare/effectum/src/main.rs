//! effectum over a SQLite file. It has jobs only, so the shapes are made by hand:
//! group: jobs that report to the caller in memory, until the store says that all have ended;
//! chord: a counter in memory adds the body's job (which a crash loses); chain: each job adds the next;
//! latency: until the job reports, which is before its end is committed.
//!
//! Configuration: cCONCURRENCY[,wal]. wal: the file is switched to a write-ahead log before effectum
//! opens it. Its own pragma for that, `journal`, is none that SQLite knows; left alone the journal is
//! DELETE, which syncs at every commit, while WAL with its synchronous=NORMAL does not.

use std::fmt;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use effectum::{Job, JobRunner, Queue, RunningJob, Worker};
use rustkit::{Arguments, DataDir, LIMIT, WARM_UP, report, sum_below};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};

/// What the jobs share.
struct Context {
    queue: OnceLock<Arc<Queue>>,
    values: mpsc::UnboundedSender<u64>,
    /// Members of the chord that have not ended.
    left: AtomicU64,
    sum: AtomicU64,
}

impl Context {
    async fn add(&self, job: &'static str, payload: Value) -> Ended {
        let queue = self.queue.get().expect("the queue is open");
        Job::builder(job)
            .json_payload(&payload)?
            .add_to(queue)
            .await?;
        Ok(0)
    }

    fn tell(&self, value: u64) {
        self.values.send(value).expect("the caller listens");
    }
}

impl fmt::Debug for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Context")
    }
}

type Ended = Result<u64, effectum::Error>;

async fn noop(job: RunningJob, context: Arc<Context>) -> Ended {
    let value = job.json_payload()?;
    context.tell(value);
    Ok(value)
}

async fn member(job: RunningJob, context: Arc<Context>) -> Ended {
    let value = job.json_payload()?;
    context.sum.fetch_add(value, Ordering::AcqRel);
    if context.left.fetch_sub(1, Ordering::AcqRel) == 1 {
        context
            .add("noop", json!(context.sum.load(Ordering::Acquire)))
            .await?;
    }
    Ok(value)
}

async fn step(job: RunningJob, context: Arc<Context>) -> Ended {
    let (value, left): (u64, u64) = job.json_payload()?;
    if left > 1 {
        context.add("step", json!([value + 1, left - 1])).await?;
    } else {
        context.tell(value + 1);
    }
    Ok(value + 1)
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() {
    let arguments = Arguments::parse();
    let folder = DataDir::new("effectum");
    let path = folder.file("effectum.db");
    let (concurrency, journal) = arguments
        .config
        .split_once(',')
        .unwrap_or((&arguments.config, ""));
    let concurrency: u16 = concurrency[1..].parse().expect("a number");
    if journal == "wal" {
        make_wal(&path);
    }
    let (values, mut told) = mpsc::unbounded_channel();
    let queue = Arc::new(Queue::new(&path).await.expect("a queue"));
    let context = Arc::new(Context {
        queue: OnceLock::from(queue.clone()),
        values,
        left: AtomicU64::new(arguments.n as u64),
        sum: AtomicU64::new(0),
    });
    let runners = [
        JobRunner::builder("noop", noop).build(),
        JobRunner::builder("member", member).build(),
        JobRunner::builder("step", step).build(),
    ];
    let _worker = Worker::builder(&queue, context.clone())
        .jobs(runners)
        .max_concurrency(concurrency)
        .min_concurrency((concurrency / 2).max(1))
        .build()
        .await
        .expect("a worker");
    queue
        .add_jobs(jobs("noop", WARM_UP))
        .await
        .expect("a warm-up");
    for _ in 0..WARM_UP {
        told.recv().await;
    }
    drained(&queue).await;

    let start = Instant::now();
    let mut latencies = Vec::new();
    let measured = measure(&arguments, &queue, &context, &mut told, &mut latencies);
    let end = timeout(LIMIT, measured)
        .await
        .map_err(|late| late.to_string());
    report(
        "0.7.0",
        &arguments,
        start.elapsed().as_secs_f64(),
        latencies,
        end,
    );
    drop(folder);
    std::process::exit(0); // its worker does not end by itself
}

async fn measure(
    arguments: &Arguments,
    queue: &Queue,
    context: &Context,
    told: &mut mpsc::UnboundedReceiver<u64>,
    latencies: &mut Vec<Duration>,
) -> String {
    let n = arguments.n;
    match arguments.shape.as_str() {
        "group" => {
            queue.add_jobs(jobs("noop", n)).await.expect("a submission");
            let mut values = Vec::with_capacity(n);
            while values.len() < n {
                values.push(told.recv().await.expect("a value"));
            }
            drained(queue).await;
            values.sort_unstable();
            assert!(
                values.into_iter().eq(0..n as u64),
                "values are lost or wrong"
            );
            "values in memory".to_owned()
        }
        "chord" => {
            queue
                .add_jobs(jobs("member", n))
                .await
                .expect("a submission");
            assert_eq!(told.recv().await, Some(sum_below(n)));
            drained(queue).await;
            "barrier in memory".to_owned()
        }
        "chain" => {
            context
                .add("step", json!([0, n]))
                .await
                .expect("a submission");
            assert_eq!(told.recv().await, Some(n as u64));
            drained(queue).await;
            "each job adds the next".to_owned()
        }
        "latency" => {
            for i in 0..n as u64 {
                let start = Instant::now();
                context.add("noop", json!(i)).await.expect("a submission");
                assert_eq!(told.recv().await, Some(i));
                latencies.push(start.elapsed());
            }
            "until the job reports, before its commit".to_owned()
        }
        shape => panic!("no shape {shape}"),
    }
}

fn jobs(name: &'static str, n: usize) -> Vec<Job> {
    let job = |i: u64| {
        Job::builder(name)
            .json_payload(&i)
            .expect("a number")
            .build()
    };
    (0..n as u64).map(job).collect()
}

/// Waits until the store says that nothing is pending or running.
async fn drained(queue: &Queue) {
    loop {
        let active = queue.num_active_jobs().await.expect("the number of jobs");
        if serde_json::to_string(&active).expect("two numbers") == r#"{"pending":0,"running":0}"# {
            return;
        }
        sleep(Duration::from_millis(1)).await;
    }
}

/// Makes an empty database with a write-ahead log; it stays one for whoever opens it.
fn make_wal(path: &Path) {
    let script = "import sqlite3, sys; c = sqlite3.connect(sys.argv[1]); \
                  c.execute('pragma journal_mode=wal'); c.execute('create table made(x)'); c.commit()";
    let made = Command::new("python3")
        .args(["-c", script])
        .arg(path)
        .status();
    assert!(made.expect("python3").success());
}
