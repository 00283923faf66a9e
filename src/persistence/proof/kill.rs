//! A process that is killed while it writes.
//!
//! The process is this test binary, asked for [`the_process_that_is_killed`] alone.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use super::*;
use crate::persistence::Op;

const HOME: &str = "CHORDAL_TEST_KILLED_HOME";
const ENGINE: &str = "CHORDAL_TEST_KILLED_ENGINE";

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
    let store = engine.open(Path::new(&home)).unwrap();
    for n in last_round(&*store) + 1.. {
        store.apply(round(n)).unwrap();
        store.sync(Durability::Process).unwrap();
        println!("acked {n}");
    }
}

#[test]
fn killed_with_sled_a_process_leaves_all_that_it_acknowledged_and_no_half_batch() {
    is_killed_again_and_again(Engine::Sled);
}

#[test]
fn killed_with_redb_a_process_leaves_all_that_it_acknowledged_and_no_half_batch() {
    is_killed_again_and_again(Engine::Redb);
}

fn is_killed_again_and_again(engine: Engine) {
    let home = tempfile::tempdir().unwrap();
    let mut expected = BTreeMap::new();
    let mut known = 0;
    for life in 1..=25 {
        let acked = live_and_be_killed(engine, home.path(), 1 + life * 7 % 60);
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
        assert!(found == expected, "life {life}, round {last}");
    }
}

/// Has a process write rounds until it has acknowledged so many, and kills it; says which round was the
/// last that it has acknowledged.
pub(super) fn live_and_be_killed(engine: Engine, home: &Path, acks: u64) -> u64 {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "--ignored", "--nocapture"])
        .arg("persistence::proof::kill::the_process_that_is_killed")
        .env(HOME, home)
        .env(ENGINE, format!("{engine:?}"))
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut next = || {
        lines.find_map(|line| {
            let line = line.unwrap();
            line.split_once("acked ")?.1.parse::<u64>().ok()
        })
    };
    // It does not wait for the signal: where that finds it is another place each time.
    let mut acked = 0;
    for _ in 0..acks {
        acked = next().expect("it goes on until it is killed");
    }
    child.kill().unwrap();
    child.wait().unwrap();
    while let Some(later) = next() {
        acked = later;
    }
    acked
}
