//! cargo run --release --example backlog -- --shape singles|group|orphans --n N [--store sled|redb]
//!
//! What a large backlog costs. A first process submits N single tasks behind a worker that is
//! blocked, or runs one group of N until half of it is done, and ends; or it runs N single tasks at
//! once, and is killed. A second one opens the store: it is timed from `start()` to the first task's
//! run, and until all that were running are in their queue again; and then, with `--drain`, to the end
//! of all. Each prints one JSON object; the memory is the most that its process has had resident.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use chordal::persistence::RedbStore;
use chordal::prelude::*;
use chordal::{AppBuilder, Durability};
use clap::{Parser, ValueEnum};
use futures_util::{StreamExt, TryStreamExt, stream};
use tokio::sync::Notify;

#[derive(Parser)]
#[command(about = "Measures a store with much unfinished work")]
struct Options {
    /// What is unfinished.
    #[arg(long)]
    shape: Shape,
    /// How many tasks.
    #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(u64).range(2..))]
    n: u64,
    #[arg(long, default_value = "sled")]
    store: Engine,
    /// Run all that is left.
    #[arg(long)]
    drain: bool,
    /// Only this part of the measurement, over the store in this directory.
    #[arg(long, requires = "directory")]
    part: Option<Part>,
    #[arg(long)]
    directory: Option<PathBuf>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Shape {
    Singles,
    Group,
    Orphans,
}

#[derive(Clone, Copy, ValueEnum)]
enum Engine {
    Sled,
    Redb,
}

#[derive(Clone, Copy, ValueEnum)]
enum Part {
    Build,
    Open,
}

/// Tasks from this number on wait until the process ends.
static BLOCKED_FROM: AtomicU64 = AtomicU64::new(u64::MAX);
static BEGUN: AtomicU64 = AtomicU64::new(0);
static DONE: AtomicU64 = AtomicU64::new(0);
static FIRST: OnceLock<Instant> = OnceLock::new();
static PROGRESS: Notify = Notify::const_new();

#[task]
async fn work(n: u64) -> u64 {
    FIRST.get_or_init(Instant::now);
    BEGUN.fetch_add(1, Ordering::Relaxed);
    PROGRESS.notify_one();
    if n >= BLOCKED_FROM.load(Ordering::Relaxed) {
        std::future::pending::<()>().await;
    }
    DONE.fetch_add(1, Ordering::Relaxed);
    PROGRESS.notify_one();
    n
}

#[tokio::main]
async fn main() -> Result<()> {
    let options = Options::parse();
    match (options.part, &options.directory) {
        (Some(Part::Build), Some(directory)) => build(&options, directory).await,
        (Some(Part::Open), Some(directory)) => open(&options, directory).await,
        _ => both(&options),
    }
}

/// Runs each part in a process of its own: memory is measured by process.
fn both(options: &Options) -> Result<()> {
    let directory = tempfile::tempdir().context("a temporary directory for the store")?;
    for part in ["build", "open"] {
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["--shape", &name(options.shape)]);
        command.args(["--n", &options.n.to_string()]);
        command.args(["--store", &name(options.store)]);
        command.args(options.drain.then_some("--drain"));
        command
            .args(["--part", part, "--directory"])
            .arg(directory.path());
        if part == "build" && options.shape == Shape::Orphans {
            kill_after_its_line(command)?;
            continue;
        }
        let status = command.status()?;
        ensure!(status.success(), "the part {part} has failed: {status}");
    }
    Ok(())
}

/// Kills the process (`SIGKILL`) when it has printed its line. If it ended itself with an abort, its tasks
/// would be tried one after the other.
fn kill_after_its_line(mut command: Command) -> Result<()> {
    let mut build = command.stdout(Stdio::piped()).spawn()?;
    let printed = build.stdout.take().context("the output is piped")?;
    let mut line = String::new();
    BufReader::new(printed).read_line(&mut line)?;
    build.kill()?;
    build.wait()?;
    ensure!(!line.is_empty(), "the part build has failed");
    print!("{line}");
    Ok(())
}

fn name(value: impl ValueEnum) -> String {
    let value = value.to_possible_value().expect("none is hidden");
    value.get_name().to_owned()
}

fn builder(options: &Options, directory: &Path) -> Result<AppBuilder> {
    let builder = match options.store {
        Engine::Sled => App::open(directory),
        Engine::Redb => App::with_store(RedbStore::open(directory)?),
    };
    let builder = builder
        .tasks(tasks![work])
        .durability(Durability::Process)
        .grace(Duration::ZERO);
    Ok(match options.shape {
        Shape::Singles | Shape::Group => builder,
        Shape::Orphans => builder.live_workflows(options.n),
    })
}

async fn submit(app: &App, n: u64) -> Result<()> {
    let submit = |i| app.apply_async(work.s(i));
    let submitted = stream::iter(0..n).map(submit).buffer_unordered(256);
    Ok(submitted.try_for_each(async |_| Ok(())).await?)
}

async fn build(options: &Options, directory: &Path) -> Result<()> {
    let n = options.n;
    let start = Instant::now();
    let app = match options.shape {
        Shape::Singles => {
            BLOCKED_FROM.store(0, Ordering::Relaxed);
            let app = builder(options, directory)?.concurrency(1).start().await?;
            submit(&app, n).await?;
            app
        }
        Shape::Orphans => {
            BLOCKED_FROM.store(0, Ordering::Relaxed);
            let app = builder(options, directory)?.concurrency(n);
            let app = app.start().await?;
            submit(&app, n).await?;
            come(&BEGUN, n).await;
            app
        }
        Shape::Group => {
            BLOCKED_FROM.store(n / 2, Ordering::Relaxed);
            let app = builder(options, directory)?.start().await?;
            let _ = app
                .apply_async(group((0..n).map(move |i| work.s(i))))
                .await?;
            come(&DONE, n / 2).await;
            app
        }
    };
    println!(
        r#"{{"part":"build","n":{n},"seconds":{:.3},"live_workflows":{},"peak_rss_mb":{}}}"#,
        start.elapsed().as_secs_f64(),
        app.live_workflows(),
        peak_rss_mb()?
    );
    if options.shape == Shape::Orphans {
        std::future::pending::<()>().await;
    }
    app.shutdown().await?;
    Ok(())
}

async fn open(options: &Options, directory: &Path) -> Result<()> {
    let left = match options.shape {
        Shape::Singles | Shape::Orphans => options.n,
        Shape::Group => options.n - options.n / 2,
    };
    if options.shape == Shape::Orphans {
        BLOCKED_FROM.store(0, Ordering::Relaxed);
    }
    let start = Instant::now();
    let app = builder(options, directory)?.start().await?;
    let opened = start.elapsed();
    come(&BEGUN, 1).await;
    let first = *FIRST.get().expect("one has run") - start;
    if options.shape == Shape::Orphans {
        while app.live_workflows() < options.n {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
    let requeued = start.elapsed();
    let (live, peak) = (app.live_workflows(), peak_rss_mb()?);
    if options.drain && options.shape != Shape::Orphans {
        come(&DONE, left).await;
    }
    println!(
        r#"{{"part":"open","n":{},"start_ms":{},"first_run_ms":{},"requeued_ms":{},"live_workflows":{live},"peak_rss_mb":{peak},"done":{},"seconds":{:.3},"peak_rss_mb_at_the_end":{}}}"#,
        options.n,
        opened.as_millis(),
        first.as_millis(),
        requeued.as_millis(),
        DONE.load(Ordering::Relaxed),
        start.elapsed().as_secs_f64(),
        peak_rss_mb()?
    );
    app.shutdown().await?;
    Ok(())
}

async fn come(counted: &AtomicU64, count: u64) {
    while counted.load(Ordering::Relaxed) < count {
        PROGRESS.notified().await;
    }
}

/// The most memory that the process has had resident, in MB of 1,000,000 bytes.
fn peak_rss_mb() -> Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status").context("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.and_then(|rest| rest.trim().strip_suffix(" kB"));
    let kib: u64 = kib.context("VmHWM in /proc/self/status")?.parse()?;
    Ok(kib * 1_024 / 1_000_000)
}
