//! The crash test: the real program, killed and started again until it ends.
//!
//! `examples/map_reduce` counts a small corpus and writes down, outside its store, what it runs
//! and what the library has told it is durable. It is killed with SIGKILL at many points; the
//! answer must be that of a plain count, and the ledger must show that nothing acknowledged was
//! forgotten or done twice.
//!
//! | variable | default | |
//! |---|---|---|
//! | `CHORDAL_CRASH_RUNS` | 40 | trials per test |
//! | `CHORDAL_CRASH_SEED` | the time | repeats the delays and places of another run |
//! | `CHORDAL_CRASH_PROGRAM` | cargo's | where `map_reduce` is: in a release build there are more trials to the minute |
//! | `CHORDAL_CRASH_DURABILITY` | `power` | the negative control: with `buffered` these tests must fail |

#![cfg(unix)]

mod book;
mod cli;
mod control;
mod corpus;
mod drain;
mod failpoints;
mod files;
mod full;
mod ledger;
mod lives;
mod locks;
mod poison;
mod policies;
mod program;
mod rate;
mod row;
mod schedule;
mod strace;
mod submit;
mod threads;

#[path = "../../src/split_mix.rs"]
mod split_mix;

// The example's own unit tests run here: an example that cargo tests is not built as a program,
// and the program is what this test needs.
#[allow(dead_code)]
#[path = "../../examples/map_reduce/plan.rs"]
mod plan;
#[allow(dead_code)]
#[path = "../../examples/map_reduce/table.rs"]
mod table;

use std::fmt;
use std::io::Write;
use std::process::Command;
use std::time::{Duration, Instant, UNIX_EPOCH};

use corpus::Corpus;
use ledger::Ledger;
use program::{End, Kill, Program};
use tempfile::TempDir;

/// Says it even if the test passes: what the print macros write is only shown if it fails.
fn say(text: fmt::Arguments<'_>) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

fn number_from(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    let number = text.parse();
    Some(number.unwrap_or_else(|_| panic!("{variable} is a number, not {text:?}")))
}

fn trials() -> u64 {
    number_from("CHORDAL_CRASH_RUNS").unwrap_or(40)
}

fn seed() -> u64 {
    let now = || UNIX_EPOCH.elapsed().map_or(1, |now| now.as_nanos() as u64);
    let seed = number_from("CHORDAL_CRASH_SEED").unwrap_or_else(now);
    println!("CHORDAL_CRASH_SEED={seed}");
    seed
}

/// Random numbers that the seed determines.
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(split_mix::STEP);
        split_mix::number(self.0) % limit
    }
}

/// This program, with one of its tests: each test that needs one of its own is that, too.
fn own(test: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().expect("a test knows its own path"));
    command.args(["--exact", "--nocapture", test]);
    command
}

/// What keeps the store; each kind of kill is tried with both.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Engine {
    Sled,
    Redb,
}

impl Engine {
    fn name(self) -> &'static str {
        match self {
            Self::Sled => "sled",
            Self::Redb => "redb",
        }
    }
}

/// What all trials of one test share.
struct Experiment {
    program: Program,
    corpus: Corpus,
    /// How many chunks it has, and how many lines and how much time a run without a kill takes.
    chunks: usize,
    lines: u64,
    time: Duration,
    runs: u64,
    kills: u64,
}

impl Experiment {
    fn new(engine: Engine) -> Self {
        let program = Program::find(engine);
        let corpus = Corpus::make();
        let home = tempfile::tempdir().unwrap();
        let begun = Instant::now();
        let end = program.run(&corpus, &home, None);
        let time = begun.elapsed();
        let ledger = Ledger::read(&home);
        corpus.check(&end.answer().expect("nobody killed it"));
        let chunks = ledger.maps();
        assert!(
            (50..=70).contains(&chunks),
            "{chunks} chunks: the corpus is meant to have about 60"
        );
        assert_eq!(ledger.faults(chunks), [""; 0]);
        Self {
            program,
            corpus,
            chunks,
            lines: ledger.lines() as u64,
            time,
            runs: 1,
            kills: 0,
        }
    }

    /// Runs it in a new store, with a kill in each of the first runs, until it ends by itself.
    fn trial(&mut self, kills: &[Kill]) {
        // Shown if it fails.
        println!("{kills:?}");
        let home = tempfile::tempdir().unwrap();
        let mut kills = kills.iter();
        let answer = loop {
            let end = self.run(&home, kills.next());
            if let Some(answer) = end.answer() {
                break answer;
            }
        };
        self.corpus.check(&answer);
        let ledger = Ledger::read(&home);
        assert_eq!(ledger.faults(self.chunks), [""; 0], "\n{}", ledger.text());

        // The answer is stored: nothing runs any more.
        let again = self.run(&home, None);
        assert_eq!(again.answer(), Some(answer));
        assert_eq!(Ledger::read(&home).begun(), ledger.begun());
    }

    fn run(&mut self, home: &TempDir, kill: Option<&Kill>) -> End {
        let acked = Ledger::read(home).maps_acked();
        let end = self.program.run(&self.corpus, home, kill);
        self.runs += 1;
        self.kills += u64::from(end.answer().is_none());
        if let Some(done) = end.resumed() {
            assert!(
                done >= acked,
                "it found {done} chunks done, but {acked} were acknowledged"
            );
        }
        end
    }
}

#[test]
fn nothing_acknowledged_is_lost_or_done_twice_by_kills_at_any_time() {
    kill_at_any_time(Engine::Sled);
}

#[test]
fn nothing_acknowledged_is_lost_or_done_twice_by_kills_at_any_time_with_redb() {
    kill_at_any_time(Engine::Redb);
}

fn kill_at_any_time(engine: Engine) {
    let seed = seed();
    let mut experiment = Experiment::new(engine);
    let mut dice = Dice(seed);
    let trials = trials();
    for trial in 0..trials {
        let kills: Vec<Kill> = (0..=dice.below(3))
            .map(|_| {
                if trial % 2 == 0 {
                    let micros = experiment.time.as_micros() as u64;
                    Kill::After(Duration::from_micros(dice.below(micros)))
                } else {
                    Kill::AtLine(dice.below(experiment.lines) as usize)
                }
            })
            .collect();
        experiment.trial(&kills);
    }
    let Experiment { runs, kills, .. } = experiment;
    say(format_args!(
        "crash: {engine:?}: {trials} trials, {runs} runs, {kills} kills at any time; CHORDAL_CRASH_SEED={seed}"
    ));
    assert!(kills > 0 || trials == 0, "no kill came in time");
}

#[test]
fn nothing_acknowledged_is_lost_or_done_twice_by_kills_at_a_system_call() {
    kill_at_system_calls(Engine::Sled);
}

#[test]
fn nothing_acknowledged_is_lost_or_done_twice_by_kills_at_a_system_call_with_redb() {
    kill_at_system_calls(Engine::Redb);
}

fn kill_at_system_calls(engine: Engine) {
    let trials = trials();
    if let Err(why) = strace::works() {
        say(format_args!(
            "SKIPPED: {trials} trials with kills at system calls: {why}"
        ));
        return;
    }
    let seed = seed();
    let mut experiment = Experiment::new(engine);
    let mut dice = Dice(seed);
    let home = tempfile::tempdir().unwrap();
    let calls = experiment.program.census(&experiment.corpus, &home);
    assert!(
        calls.iter().any(|(call, _)| *call == "fdatasync"),
        "{calls:?}"
    );
    for trial in 0..trials {
        let (call, most) = calls[trial as usize % calls.len()];
        // The rounds go through a call's range in equal steps, each from a random place.
        let rounds = trials.div_ceil(calls.len() as u64);
        let step = (most / rounds).max(1);
        let round = trial / calls.len() as u64;
        let first = 1 + (round * step + dice.below(step)) % most;
        let (other, most) = calls[dice.below(calls.len() as u64) as usize];
        let kills = [(call, first), (other, 1 + dice.below(most))];
        experiment.trial(&kills.map(|(call, nth)| Kill::AtCall { call, nth }));
    }
    let Experiment { runs, kills, .. } = experiment;
    say(format_args!(
        "crash: {engine:?}: {trials} trials, {runs} runs, {kills} kills at system calls; CHORDAL_CRASH_SEED={seed}"
    ));
    assert!(kills > 0 || trials == 0, "no kill came");
}
