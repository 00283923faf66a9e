//! cargo run --release --example floor -- --n N
//!
//! What the machine allows with no engine at all, to hold the engine's figures against:
//! `spawn`: N no-op tasks are spawned on tokio and counted; `log`: each of them also appends 200
//! bytes to a file and counts only after the `fdatasync` that covers it, one per at most 256 tasks;
//! `commit`: one append of 200 bytes with its `fdatasync`, nothing beside it; `actors`: as `spawn`,
//! but each task belongs to an actor, as it does in the engine: it is told to begin, its future is
//! polled on another thread, and it is told of the end.
//! Prints one JSON object; all figures are the median of the runs.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::Parser;
use serde::Serialize;
use tokio::sync::{mpsc, oneshot};

mod actors;

#[derive(Parser)]
#[command(about = "Measures what the machine allows with no engine at all")]
struct Options {
    /// How many tasks.
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    n: u64,
    /// How many times each is measured.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    runs: u32,
    /// The directory of the file; it should be on the disk that the store will be on.
    #[arg(long)]
    directory: Option<std::path::PathBuf>,
}

#[derive(Serialize)]
struct Report {
    n: u64,
    spawn_per_second: f64,
    log_per_second: f64,
    commit_us: f64,
    actors_per_second: f64,
}

/// What a task appends.
const RECORD: usize = 200;
/// The most tasks that share an `fdatasync`.
const BATCH: usize = 256;
/// How many commits are timed in one run.
const COMMITS: u32 = 200;

type Entry = ([u8; RECORD], oneshot::Sender<()>);

#[tokio::main]
async fn main() -> Result<()> {
    let options = Options::parse();
    let directory = match &options.directory {
        Some(directory) => tempfile::tempdir_in(directory),
        None => tempfile::tempdir(),
    };
    let directory = directory.context("a temporary directory for the file")?;
    let (mut spawns, mut logs, mut commits) = (Vec::new(), Vec::new(), Vec::new());
    let mut actors = Vec::new();
    for _ in 0..options.runs {
        spawns.push(spawn(options.n).await?);
        logs.push(log(options.n, directory.path()).await?);
        commits.push(commit(directory.path())?);
        actors.push(actors::run(options.n)?);
    }
    let n = options.n;
    let per_second = |seconds: f64| (n as f64 / seconds).round();
    let report = Report {
        n,
        spawn_per_second: per_second(median(spawns)),
        log_per_second: per_second(median(logs)),
        commit_us: (median(commits) * 1e6).round(),
        actors_per_second: per_second(median(actors)),
    };
    println!("{}", serde_json::to_string(&report)?);
    Ok(())
}

/// Spawns `n` tasks that do nothing, and counts them.
async fn spawn(n: u64) -> Result<Duration> {
    let count = Arc::new(AtomicU64::new(0));
    let start = Instant::now();
    let tasks: Vec<_> = (0..n)
        .map(|_| {
            let count = count.clone();
            tokio::spawn(async move { count.fetch_add(1, Ordering::Relaxed) })
        })
        .collect();
    for task in tasks {
        task.await?;
    }
    ensure!(count.load(Ordering::Relaxed) == n);
    Ok(start.elapsed())
}

/// As [`spawn`], with a record on the disk for each.
async fn log(n: u64, directory: &Path) -> Result<Duration> {
    let mut file = File::create(directory.join("log"))?;
    let (sender, mut receiver) = mpsc::unbounded_channel::<Entry>();
    let writer = std::thread::spawn(move || -> Result<()> {
        let mut entries: Vec<Entry> = Vec::with_capacity(BATCH);
        let mut bytes = Vec::with_capacity(BATCH * RECORD);
        while let Some(first) = receiver.blocking_recv() {
            entries.push(first);
            while entries.len() < BATCH
                && let Ok(next) = receiver.try_recv()
            {
                entries.push(next);
            }
            for (record, _) in &entries {
                bytes.extend_from_slice(record);
            }
            file.write_all(&bytes)?;
            file.sync_data()?;
            bytes.clear();
            for (_, done) in entries.drain(..) {
                // Whoever spawned it waits for the task, and the task for this.
                let _ = done.send(());
            }
        }
        Ok(())
    });
    let count = Arc::new(AtomicU64::new(0));
    let start = Instant::now();
    let tasks: Vec<_> = (0..n)
        .map(|i| {
            let (sender, count) = (sender.clone(), count.clone());
            tokio::spawn(async move {
                let (done, durable) = oneshot::channel();
                sender.send(([i as u8; RECORD], done)).ok()?;
                durable.await.ok()?;
                Some(count.fetch_add(1, Ordering::Relaxed))
            })
        })
        .collect();
    for task in tasks {
        task.await?.context("the writer stopped")?;
    }
    let took = start.elapsed();
    ensure!(count.load(Ordering::Relaxed) == n);
    drop(sender);
    writer.join().expect("the writer does not panic")?;
    Ok(took)
}

/// One append and its `fdatasync`, on average.
fn commit(directory: &Path) -> Result<Duration> {
    let mut file = File::create(directory.join("commit"))?;
    let start = Instant::now();
    for _ in 0..COMMITS {
        file.write_all(&[0x5a; RECORD])?;
        file.sync_data()?;
    }
    Ok(start.elapsed() / COMMITS)
}

fn median(mut times: Vec<Duration>) -> f64 {
    times.sort_unstable();
    times[times.len() / 2].as_secs_f64()
}
