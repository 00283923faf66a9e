//! A process that is killed while checkpoints happen all the time.
//!
//! The process is this test binary, asked for [`the_process_that_is_killed`] alone.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use super::*;

const HOME: &str = "CHORDAL_TEST_KILLED_HOME";
/// Ten or so rounds fill an overlay.
const LIMIT: usize = 60_000;

/// What a round writes; the same each time it is asked.
fn round(n: u64) -> Batch {
    let mut batch = Batch::new();
    let mut dice = noise(n).skip(5).map(|noise| noise >> 11);
    for _ in 0..12 {
        let (key, what) = (dice.next().unwrap() % 500, dice.next().unwrap());
        if what.is_multiple_of(3) {
            batch.delete(format!("{key:03}"));
        } else {
            batch.put(format!("{key:03}"), vec![n as u8; what as usize % 1_500]);
        }
    }
    batch.put("round", n.to_be_bytes());
    batch
}

fn last_round(store: &SledStore) -> u64 {
    let found = store.get(b"round").unwrap();
    found.map_or(0, |found| u64::from_be_bytes(found.try_into().unwrap()))
}

#[test]
#[ignore = "started by the next test, to be killed"]
fn the_process_that_is_killed() {
    let Some(home) = std::env::var_os(HOME) else {
        return;
    };
    let store = SledStore::with_limit(Path::new(&home), LIMIT).unwrap();
    for n in last_round(&store) + 1.. {
        store.apply(round(n)).unwrap();
        store.sync(Durability::Process).unwrap();
        println!("acked {n}");
    }
}

#[test]
fn a_killed_process_leaves_all_that_it_acknowledged_and_no_half_batch() {
    let home = tempdir().unwrap();
    let mut expected = BTreeMap::new();
    let mut known = 0;
    for life in 1..=25 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "--ignored", "--nocapture"])
            .arg("persistence::sled::tests::kill::the_process_that_is_killed")
            .env(HOME, home.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut acks = || {
            lines.find_map(|line| {
                let line = line.unwrap();
                line.split_once("acked ")?.1.parse::<u64>().ok()
            })
        };
        // It does not wait for the signal: where that finds it is another place each time.
        let mut acked = 0;
        for _ in 0..1 + life * 7 % 60 {
            acked = acks().expect("it goes on until it is killed");
        }
        child.kill().unwrap();
        child.wait().unwrap();
        while let Some(later) = acks() {
            acked = later;
        }

        let store = SledStore::with_limit(home.path(), LIMIT).unwrap();
        let last = last_round(&store);
        assert!(last >= acked, "acknowledged {acked}, found {last}");
        for op in (known + 1..=last).flat_map(round) {
            match op {
                Op::Put(key, value) => expected.insert(key, value),
                Op::Delete(key) => expected.remove(&key),
            };
        }
        known = last;
        let found: BTreeMap<_, _> = store.all().unwrap().into_iter().collect();
        assert!(found == expected, "life {life}, round {last}");
    }
}
