//! cargo run --release --example throughput -- --shape group|limited|keyed|chord|chain|latency|chords|singles --n N
//!
//! The project's speedometer: no-op tasks through the whole engine, one process, a fresh temporary
//! store each time. A group is timed from its submission to all results in the caller, a chord to
//! its body's result, a chain of N steps to its last value, `latency` is N single tasks one after
//! the other, `chords` are N tasks in chords of ten, all submitted at once, `singles` N single tasks
//! submitted by 64 callers at once, each waiting for the result before its next. Prints one JSON
//! object; `per_second` counts tasks, the latencies are of one task (for `latency` and `singles`), of
//! one chord or of the whole submission. With `--times` it is all done so often, with nothing kept of
//! what has ended (a retention of 0), and `store_kb` says how large the store was after each time.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use chordal::Durability;
use chordal::persistence::RedbStore;
use chordal::prelude::*;
use clap::{CommandFactory, Parser, ValueEnum};
use serde::Serialize;

#[derive(Parser)]
#[command(about = "Measures no-op tasks through the whole engine")]
struct Options {
    /// What to submit.
    #[arg(long)]
    shape: Shape,
    /// How many tasks.
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    n: u64,
    /// What each commit survives; `memory`: the store is memory, nothing survives.
    #[arg(long, default_value = "power")]
    durability: Level,
    /// What keeps the store on disk.
    #[arg(long, default_value = "sled")]
    engine: Engine,
    /// Bytes that each task is given and gives back.
    #[arg(long, default_value_t = 0)]
    payload: usize,
    /// How often, one after the other; more than once, nothing that has ended is kept.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
    times: u64,
    /// Print the one JSON object only, nothing for people.
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum Shape {
    Group,
    /// A group under a rate limit of a million starts a second.
    Limited,
    /// A group under a rate limit of one start a second for each key; each member has a key.
    Keyed,
    Chord,
    Chain,
    Latency,
    Chords,
    Singles,
}

#[derive(Clone, Copy, ValueEnum)]
enum Level {
    Power,
    Process,
    Buffered,
    Memory,
}

#[derive(Clone, Copy, ValueEnum)]
enum Engine {
    Sled,
    Redb,
}

#[derive(Serialize)]
struct Report {
    shape: String,
    n: u64,
    durability: String,
    engine: String,
    seconds: f64,
    per_second: f64,
    p50_us: u64,
    p99_us: u64,
    peak_rss_mb: u64,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    store_kb: Vec<u64>,
}

/// How many members each of many chords has.
const MEMBERS: u64 = 10;
/// How many callers submit single tasks at once.
const CALLERS: usize = 64;

/// A payload of nothing but its size.
type Load = serde_bytes::ByteBuf;

#[task]
async fn noop(load: Load) -> Load {
    load
}

#[task(rate_limit = "1000000/s")]
async fn limited(load: Load) -> Load {
    load
}

#[task(rate_limit = "1/s", limit_by = "key")]
async fn keyed(key: u64, load: Load) -> Load {
    let _ = key;
    load
}

#[task]
async fn pass(n: u64) -> u64 {
    n + 1
}

#[task]
async fn count(all: Vec<Load>) -> u64 {
    all.len() as u64
}

#[tokio::main]
async fn main() -> Result<()> {
    let options = Options::parse();
    if options.payload > 0 && matches!(options.shape, Shape::Chain) {
        let what = "--payload is for group, chord and latency: a chain passes a number on";
        let error = clap::error::ErrorKind::ArgumentConflict;
        Options::command().error(error, what).exit();
    }
    let directory = tempfile::tempdir().context("a temporary directory for the store")?;
    let app = start(directory.path(), &options).await?;
    let start = Instant::now();
    let mut latencies = run(&app, &options).await?;
    let mut store_kb = Vec::new();
    if options.times > 1 {
        store_kb.push(bytes(directory.path())? / 1_000);
        for _ in 1..options.times {
            latencies.extend(run(&app, &options).await?);
            store_kb.push(bytes(directory.path())? / 1_000);
        }
    }
    let seconds = start.elapsed().as_secs_f64();
    let peak_rss_mb = peak_rss_mb()?;
    app.shutdown().await?;

    latencies.sort_unstable();
    let percentile = |p: usize| latencies[(latencies.len() - 1) * p / 100].as_micros() as u64;
    let per_second = (options.n * options.times) as f64 / seconds;
    let report = Report {
        shape: name(options.shape),
        n: options.n,
        durability: name(options.durability),
        engine: name(options.engine),
        seconds: (seconds * 1e6).round() / 1e6,
        per_second: per_second.round(),
        p50_us: percentile(50),
        p99_us: percentile(99),
        peak_rss_mb,
        store_kb,
    };
    println!("{}", serde_json::to_string(&report)?);
    if !options.json {
        eprintln!("{per_second:.0} tasks/s, {peak_rss_mb} MB at most");
    }
    Ok(())
}

async fn start(directory: &Path, options: &Options) -> Result<App> {
    let builder = match (options.durability, options.engine) {
        (Level::Memory, _) => App::in_memory(),
        (_, Engine::Sled) => App::open(directory),
        (_, Engine::Redb) => App::with_store(RedbStore::open(directory)?),
    };
    let builder = builder.durability(match options.durability {
        Level::Power => Durability::Power,
        Level::Process => Durability::Process,
        Level::Buffered | Level::Memory => Durability::Buffered,
    });
    let builder = match options.times {
        1 => builder,
        _ => builder.retention(Duration::ZERO),
    };
    Ok(builder
        .tasks(tasks![noop, limited, keyed, pass, count])
        .start()
        .await?)
}

async fn run_group(app: &App, n: u64, group: Signature<(), Vec<Load>>) -> Result<()> {
    let results = app.apply_async(group).await?.get().await?;
    ensure!(results.len() as u64 == n, "{} results", results.len());
    Ok(())
}

/// Submits, waits and checks; returns how long each submission took.
async fn run(app: &App, options: &Options) -> Result<Vec<Duration>> {
    let (n, payload) = (options.n, options.payload);
    let load = move || Load::from(vec![0x5a; payload]);
    let start = Instant::now();
    match options.shape {
        Shape::Group => run_group(app, n, group((0..n).map(move |_| noop.s(load())))).await?,
        Shape::Limited => run_group(app, n, group((0..n).map(move |_| limited.s(load())))).await?,
        Shape::Keyed => {
            let members = (0..n).map(move |key| keyed.s(key, load()));
            run_group(app, n, group(members)).await?;
        }
        Shape::Chord => {
            let chord = chord(group((0..n).map(move |_| noop.s(load()))), count.partial());
            ensure!(app.apply_async(chord).await?.get().await? == n);
        }
        Shape::Chain => {
            let chain = pass.s(0) | chain((1..n).map(|_| pass.partial()));
            ensure!(app.apply_async(chain).await?.get().await? == n);
        }
        Shape::Latency => {
            let mut latencies = Vec::new();
            for _ in 0..n {
                let start = Instant::now();
                app.apply_async(noop.s(load())).await?.get().await?;
                latencies.push(start.elapsed());
            }
            return Ok(latencies);
        }
        Shape::Chords => {
            let chords = (0..n.div_ceil(MEMBERS)).map(|i| {
                let members = MEMBERS.min(n - i * MEMBERS);
                let chord = chord(
                    group(vec![noop.s(load()); members as usize]),
                    count.partial(),
                );
                let app = app.clone();
                tokio::spawn(async move {
                    let start = Instant::now();
                    let counted = app.apply_async(chord).await?.get().await?;
                    ensure!(counted == members, "{counted} members");
                    Ok(start.elapsed())
                })
            });
            return all(chords.collect()).await;
        }
        Shape::Singles => {
            let left = Arc::new(AtomicU64::new(n));
            let callers = (0..CALLERS).map(|_| {
                let (app, left, load) = (app.clone(), left.clone(), load());
                tokio::spawn(async move {
                    let mut latencies = Vec::new();
                    let one_less = |left: u64| left.checked_sub(1);
                    while left.fetch_update(Relaxed, Relaxed, one_less).is_ok() {
                        let start = Instant::now();
                        app.apply_async(noop.s(load.clone())).await?.get().await?;
                        latencies.push(start.elapsed());
                    }
                    Ok(latencies)
                })
            });
            return Ok(all(callers.collect()).await?.concat());
        }
    }
    Ok(vec![start.elapsed()])
}

async fn all<T>(tasks: Vec<tokio::task::JoinHandle<Result<T>>>) -> Result<Vec<T>> {
    let mut results = Vec::with_capacity(tasks.len());
    for task in tasks {
        results.push(task.await??);
    }
    Ok(results)
}

fn name(value: impl ValueEnum) -> String {
    value
        .to_possible_value()
        .map_or_else(String::new, |value| value.get_name().to_owned())
}

/// How long all files in this directory are.
fn bytes(directory: &Path) -> Result<u64> {
    let mut bytes = 0;
    for entry in std::fs::read_dir(directory)? {
        let entry = entry?;
        // (A file may be gone by now.)
        bytes += match entry.metadata() {
            Ok(found) if found.is_dir() => self::bytes(&entry.path())?,
            Ok(found) => found.len(),
            Err(_) => 0,
        };
    }
    Ok(bytes)
}

/// The most memory that the process has had resident, in MB of 1,000,000 bytes.
fn peak_rss_mb() -> Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status").context("/proc/self/status")?;
    let kib: u64 = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))
        .and_then(|rest| rest.trim().strip_suffix(" kB"))
        .context("VmHWM in /proc/self/status")?
        .parse()?;
    Ok(kib * 1_024 / 1_000_000)
}
