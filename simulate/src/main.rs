//! cargo run --release --bin simulate -- --seeds 20000

use std::collections::{BTreeMap, BTreeSet};
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use clap::Parser;
use simulate::Options;

/// Runs chordal's engine on one thread, where a seed decides every event.
#[derive(Debug, Parser)]
struct Arguments {
    /// The number of seeds to run.
    #[arg(long, default_value_t = 1_000)]
    seeds: u64,
    /// The first seed.
    #[arg(long, default_value_t = 0)]
    from: u64,
    /// The number of threads that run seeds.
    #[arg(long, default_value_t = 1)]
    jobs: usize,
    /// Runs this seed alone, and logs its events.
    #[arg(long)]
    seed: Option<u64>,
    /// Runs each seed twice: both runs must be the same.
    #[arg(long)]
    twice: bool,
}

/// Seeds that take longer are reported: they may never end.
const LONG: Duration = Duration::from_secs(10);

#[derive(Debug, Default)]
struct Tally {
    next: AtomicU64,
    bodies: AtomicU64,
    lives: AtomicU64,
    failed: AtomicU64,
    /// The running seeds, with their start times.
    running: Mutex<BTreeMap<u64, Instant>>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let (from, seeds) = match arguments.seed {
        Some(seed) => (seed, 1),
        None => (arguments.from, arguments.seeds),
    };
    let tally = Arc::new(Tally::default());
    tally.next.store(from, Ordering::Relaxed);
    let options = Options {
        logs: arguments.seed.is_some(),
    };
    let start = Instant::now();
    let watching = tally.clone();
    // It ends with the process.
    std::thread::spawn(move || watch(&watching));
    std::thread::scope(|scope| {
        for _ in 0..arguments.jobs.max(1) {
            scope.spawn(|| work(&tally, from + seeds, options, arguments.twice));
        }
    });
    let took = start.elapsed();
    let failed = tally.failed.load(Ordering::Relaxed);
    println!(
        "{seeds} seeds, {} lives, {} attempts in {took:.1?}: {:.0} seeds a second, {failed} failed",
        tally.lives.load(Ordering::Relaxed),
        tally.bodies.load(Ordering::Relaxed),
        seeds as f64 / took.as_secs_f64(),
    );
    match failed {
        0 => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    }
}

fn work(tally: &Tally, end: u64, options: Options, twice: bool) {
    loop {
        let seed = tally.next.fetch_add(1, Ordering::Relaxed);
        if seed >= end {
            return;
        }
        let running = || {
            tally
                .running
                .lock()
                .expect("no thread panics while it holds the lock")
        };
        running().insert(seed, Instant::now());
        let mut run = simulate::run(seed, options);
        if twice && simulate::run(seed, options) != run {
            run.violations
                .push("two runs of the seed differ".to_owned());
        }
        running().remove(&seed);
        tally.bodies.fetch_add(run.bodies as u64, Ordering::Relaxed);
        tally
            .lives
            .fetch_add(u64::from(run.lives), Ordering::Relaxed);
        if !run.violations.is_empty() {
            tally.failed.fetch_add(1, Ordering::Relaxed);
            report(seed, &run.violations.join("; "));
        }
    }
}

/// Reports, once each, the seeds that take long.
fn watch(tally: &Tally) {
    let mut named = BTreeSet::new();
    loop {
        std::thread::sleep(LONG / 4);
        let running = tally
            .running
            .lock()
            .expect("no thread panics while it holds the lock");
        for (seed, since) in &*running {
            if since.elapsed() > LONG && named.insert(*seed) {
                report(*seed, "it has not ended yet");
            }
        }
    }
}

fn report(seed: u64, what: &str) {
    println!("seed {seed}: {what}");
    println!("  again: cargo run --release --bin simulate -- --seed {seed}");
}
