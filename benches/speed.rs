//! cargo bench --bench speed
//!
//! The table of docs/benchmarks.md: no-op tasks through the whole engine, each row beside what the machine allows
//! with no engine at all (`examples/floor`), measured in the same round. Speed is nearly all disk and
//! neighbours on a virtual machine; the share of the floor is what stays the same. Runs the examples
//! `throughput` and `floor`, a process each, and prints medians, lowest and highest of the rounds.

use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

const ROUNDS: usize = 5;
/// How many tasks the floor is measured with.
const FLOOR: &str = "100000";

struct Row {
    name: &'static str,
    shape: &'static str,
    n: &'static str,
    durability: &'static str,
    floor: Floor,
}

/// What a row is held against.
#[derive(Clone, Copy)]
enum Floor {
    /// Tasks that are spawned and counted.
    Spawn,
    /// The same, each with a record in a file; an `fdatasync` covers many.
    Log,
    /// One record and its `fdatasync` after the other.
    Commit,
}

const ROWS: [Row; 8] = [
    row("chord of 1,000", "chord", "1000", Floor::Log),
    row("chord of 100,000", "chord", "100000", Floor::Log),
    row("chord of 1,000,000", "chord", "1000000", Floor::Log),
    row("chords of 10, 10,000 tasks", "chords", "10000", Floor::Log),
    row("64 callers, 10,000 tasks", "singles", "10000", Floor::Log),
    row("chain of 1,000", "chain", "1000", Floor::Commit),
    row("one after the other", "latency", "1000", Floor::Commit),
    Row {
        durability: "memory",
        ..row(
            "group of 100,000, in memory",
            "group",
            "100000",
            Floor::Spawn,
        )
    },
];

const fn row(name: &'static str, shape: &'static str, n: &'static str, floor: Floor) -> Row {
    Row {
        name,
        shape,
        n,
        durability: "power",
        floor,
    }
}

/// One run of a row.
struct Run {
    per_second: f64,
    /// Of the floor's speed.
    share: f64,
    p50_us: f64,
    memory_mb: f64,
}

fn main() -> Result<()> {
    // Without it, cargo only wants to know whether this starts (`cargo test --benches`).
    if !std::env::args().any(|argument| argument == "--bench") {
        return Ok(());
    }
    let mut runs = ROWS.map(|_| Vec::with_capacity(ROUNDS));
    for round in 1..=ROUNDS {
        eprintln!("round {round} of {ROUNDS}");
        let floor = example("floor", &["--n", FLOOR, "--runs", "1"])?;
        for (row, runs) in ROWS.iter().zip(&mut runs) {
            runs.push(row.measure(&floor)?);
        }
    }
    println!("| shape | tasks/s | share of the floor | p50 | peak memory |\n|---|--:|--:|--:|--:|");
    for (row, runs) in ROWS.iter().zip(&runs) {
        let figure = |of: fn(&Run) -> f64| spread(runs.iter().map(of).collect());
        let (rate, share) = (
            figure(|run| run.per_second),
            figure(|run| run.share * 100.0),
        );
        let (memory, name) = (figure(|run| run.memory_mb)[1], row.name);
        let p50 = match row.shape {
            "latency" | "singles" => format!("{:.2} ms", figure(|run| run.p50_us)[1] / 1e3),
            _ => String::new(),
        };
        let [rate, share] = [text(rate, ""), text(share, " %")];
        println!("| {name} | {rate} | {share} | {p50} | {memory:.0} MB |");
    }
    Ok(())
}

impl Row {
    fn measure(&self, floor: &Value) -> Result<Run> {
        let what = ["--json", "--shape", self.shape, "--n", self.n];
        let run = example(
            "throughput",
            &[&what[..], &["--durability", self.durability]].concat(),
        )?;
        let per_second = number(&run, "per_second")?;
        let floor = match self.floor {
            Floor::Spawn => number(floor, "spawn_per_second")?,
            Floor::Log => number(floor, "log_per_second")?,
            Floor::Commit => 1e6 / number(floor, "commit_us")?,
        };
        Ok(Run {
            per_second,
            share: per_second / floor,
            p50_us: number(&run, "p50_us")?,
            memory_mb: number(&run, "peak_rss_mb")?,
        })
    }
}

/// Runs an example and reads the JSON that it prints.
fn example(name: &str, arguments: &[&str]) -> Result<Value> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let run = [
        "run",
        "--release",
        "--quiet",
        "--package",
        "examples",
        "--example",
        name,
        "--",
    ];
    let output = Command::new(cargo)
        .args(run)
        .args(arguments)
        .stderr(Stdio::inherit())
        .output()
        .with_context(|| format!("cannot run the example {name}"))?;
    ensure!(output.status.success(), "{name}: {}", output.status);
    serde_json::from_slice(&output.stdout).with_context(|| format!("what {name} printed"))
}

fn number(report: &Value, field: &str) -> Result<f64> {
    let number = report[field].as_f64();
    number.with_context(|| format!("no {field} in {report}"))
}

/// The lowest, the median and the highest.
fn spread(mut figures: Vec<f64>) -> [f64; 3] {
    figures.sort_unstable_by(f64::total_cmp);
    let last = figures.len() - 1;
    [figures[0], figures[last / 2], figures[last]]
}

fn text([lowest, median, highest]: [f64; 3], unit: &str) -> String {
    let text = |figure: f64| match figure {
        100.0.. => with_commas(figure.round() as u64),
        _ => format!("{figure:.0}"),
    };
    format!(
        "{}{unit} ({} to {})",
        text(median),
        text(lowest),
        text(highest)
    )
}

fn with_commas(number: u64) -> String {
    match number {
        ..1_000 => number.to_string(),
        _ => format!("{},{:03}", with_commas(number / 1_000), number % 1_000),
    }
}
