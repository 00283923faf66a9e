//! A process that is killed while it writes.
//!
//! The process is this test binary, with [`the_process_that_is_killed`] as its only test.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::SystemTime;

use super::*;
use crate::persistence::Op;

const HOME: &str = "CHORDAL_TEST_KILLED_HOME";
const ENGINE: &str = "CHORDAL_TEST_KILLED_ENGINE";
const DURABILITY: &str = "CHORDAL_TEST_KILLED_DURABILITY";
/// The number of rounds that the process writes before it ends by itself.
const ROUNDS: &str = "CHORDAL_TEST_KILLED_ROUNDS";
/// Set if the process writes the large load.
const LARGE: &str = "CHORDAL_TEST_KILLED_LARGE";
/// Set if the process closes its store only after all background work has ended.
const SETTLED: &str = "CHORDAL_TEST_KILLED_SETTLED";

#[test]
#[ignore = "started by the tests below, to be killed"]
fn the_process_that_is_killed() {
    let Some(home) = std::env::var_os(HOME) else {
        return;
    };
    let engine = match std::env::var(ENGINE).unwrap().as_str() {
        "Sled" => Engine::Sled,
        _ => Engine::Redb,
    };
    let durability = match std::env::var(DURABILITY) {
        Ok(_) => Durability::Power,
        Err(_) => Durability::Process,
    };
    let load = match std::env::var_os(LARGE) {
        Some(_) => Load::Large,
        None => Load::Small,
    };
    let rounds = std::env::var(ROUNDS).map_or(u64::MAX, |most| most.parse().unwrap());
    let store = match engine.open_for(load, Path::new(&home)) {
        Ok(store) => store,
        Err(error) => return println!("\nrefused {error:?}"),
    };
    let write = |n| {
        let applied = store.apply(load.round(n));
        applied.and_then(|()| store.sync(durability))
    };
    for n in (last_round(&*store) + 1..).take(rounds as usize) {
        if let Err(error) = write(n) {
            println!("\nhalted {error:?}");
            for more in 1..=3 {
                assert!(write(n + more).is_err(), "it goes on after an error");
            }
            return;
        }
        println!("acked {n}");
    }
    // A backup waits for a running checkpoint, and returns its error.
    let copies = tempfile::tempdir().unwrap();
    if std::env::var_os(SETTLED).is_some()
        && engine == Engine::Sled
        && let Err(error) = store.backup(&copies.path().join("copy"))
    {
        return println!("\nhalted {error:?}");
    }
    let now = SystemTime::UNIX_EPOCH.elapsed().unwrap();
    println!("\nworked until {:.6}", now.as_secs_f64());
    drop(store);
    println!("\nended");
}

#[test]
fn a_killed_process_leaves_all_acknowledged_rounds_and_no_half_batch_in_sled() {
    kill_again_and_again(Engine::Sled);
}

#[test]
fn a_killed_process_leaves_all_acknowledged_rounds_and_no_half_batch_in_redb() {
    kill_again_and_again(Engine::Redb);
}

fn kill_again_and_again(engine: Engine) {
    let home = tempfile::tempdir().unwrap();
    let mut expected = BTreeMap::new();
    let mut known = 0;
    for session in 1..=25 {
        let process = Process::new(engine, home.path());
        let acked = run_and_kill(process, 1 + session * 7 % 60);
        let store = engine.open(home.path()).unwrap();
        let last = last_round(&*store);
        assert!(last >= acked, "acknowledged {acked}, found {last}");
        for op in (known + 1..=last).flat_map(round) {
            match op {
                Op::Put(key, value) => expected.insert(key, value),
                Op::Delete(key) => expected.remove(&key),
            };
        }
        known = last;
        let found: BTreeMap<_, _> = all(&*store).unwrap().into_iter().collect();
        assert!(found == expected, "session {session}, round {last}");
    }
}

/// A process that writes rounds, and prints which are acknowledged.
pub(super) struct Process(Command);

impl Process {
    pub(super) fn new(engine: Engine, home: &Path) -> Self {
        Self::under(Command::new(std::env::current_exe().unwrap()), engine, home)
    }

    /// Creates a process that runs as the last argument of another program.
    pub(super) fn under(mut program: Command, engine: Engine, home: &Path) -> Self {
        program
            .args(["--exact", "--ignored", "--nocapture"])
            .arg("persistence::fault_tests::kill::the_process_that_is_killed")
            .env(HOME, home)
            .env(ENGINE, format!("{engine:?}"))
            .stdin(Stdio::null())
            .stdout(Stdio::piped());
        Self(program)
    }

    /// Makes the process fsync each round before it acknowledges it.
    pub(super) fn for_power(mut self) -> Self {
        self.0.env(DURABILITY, "power");
        self
    }

    /// Sets the load that the process writes.
    pub(super) fn load(mut self, load: Load) -> Self {
        if load == Load::Large {
            self.0.env(LARGE, "");
        }
        self
    }

    /// Makes the process end after this many rounds.
    pub(super) fn rounds(mut self, most: u64) -> Self {
        self.0.env(ROUNDS, most.to_string());
        self
    }

    /// Makes the process close its store only after all background work has ended.
    pub(super) fn settled(mut self) -> Self {
        self.0.env(SETTLED, "");
        self
    }

    pub(super) fn command(&mut self) -> &mut Command {
        &mut self.0
    }
}

/// Returns the round that a line acknowledges, if it does.
pub(super) fn acked(line: &str) -> Option<u64> {
    line.split_once("acked ")?.1.parse().ok()
}

/// Runs a process until it has acknowledged this many rounds, and kills it; returns the last round
/// that it acknowledged.
pub(super) fn run_and_kill(mut process: Process, acks: u64) -> u64 {
    let mut child = process.command().spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut next = || lines.find_map(|line| acked(&line.unwrap()));
    // The process does not wait for the signal: the kill hits a different instruction each time.
    let mut last = 0;
    for _ in 0..acks {
        last = next().expect("it goes on until it is killed");
    }
    child.kill().unwrap();
    child.wait().unwrap();
    while let Some(later) = next() {
        last = later;
    }
    last
}
