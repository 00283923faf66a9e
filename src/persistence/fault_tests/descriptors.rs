//! A process without free file descriptors for a while: its store continues.
//!
//! The process is this test binary, started under a limit with
//! [`the_process_that_runs_out_of_descriptors`] as its only test.

use std::fs::File;
use std::process::Command;

use super::*;

const HOME: &str = "CHORDAL_TEST_DESCRIPTORS_HOME";
const ENGINE: &str = "CHORDAL_TEST_DESCRIPTORS_ENGINE";
/// The number of descriptors that the process may have.
const LIMIT: u32 = 64;

#[test]
#[ignore = "started by the tests below, under a limit"]
fn the_process_that_runs_out_of_descriptors() {
    let Some(home) = std::env::var_os(HOME) else {
        return;
    };
    let home = Path::new(&home);
    match std::env::var(ENGINE).unwrap().as_str() {
        "Sled" => {
            let store = SledStore::with_limit(home, 60_000).unwrap();
            work(store, SledStore::has_postponed_checkpoint);
        }
        _ => work(RedbStore::open(home).unwrap(), |_| true),
    }
}

/// Writes rounds, at times without a free descriptor; a checkpoint is postponed each time.
fn work<S: Store>(store: S, has_postponed: impl Fn(&S) -> bool) {
    let mut last = 0;
    let mut write = || {
        last += 1;
        store.apply(round(last)).unwrap();
        store.sync(Durability::Power).unwrap();
    };
    for times in 1..=6 {
        // At any time: while a checkpoint runs, and while none does.
        (0..5 * times).for_each(|_| write());
        let mut taken = Vec::new();
        let error = loop {
            match File::open("/dev/null") {
                Ok(file) => taken.push(file),
                Err(error) => break error,
            }
        };
        assert_eq!(error.raw_os_error(), Some(24), "{error}");
        assert!(taken.len() < LIMIT as usize);
        // (A checkpoint that began before may keep the next one from being due for a while.)
        let mut rounds = 0;
        while rounds < 60 || !has_postponed(&store) {
            assert!(rounds < 6_000, "no checkpoint was due");
            write();
            rounds += 1;
        }
        drop(taken);
        // The next checkpoint that is due starts.
        (0..20).for_each(|_| write());
    }
    drop(store);
    println!("\nended after {last}");
}

fn check_continues(engine: Engine) {
    let home = tempfile::tempdir().unwrap();
    let output = Command::new("sh")
        .arg("-c")
        .arg(format!("ulimit -n {LIMIT} && exec \"$0\" \"$@\""))
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "--ignored", "--nocapture"])
        .arg("persistence::fault_tests::descriptors::the_process_that_runs_out_of_descriptors")
        .env(HOME, home.path())
        .env(ENGINE, format!("{engine:?}"))
        .output()
        .unwrap();
    let output_text = String::from_utf8_lossy(&output.stdout).into_owned();
    let ended = output_text
        .lines()
        .find_map(|line| line.strip_prefix("ended after "));
    let Some(last) = ended else {
        panic!("{output_text}{}", String::from_utf8_lossy(&output.stderr));
    };
    check_recovered(engine, Load::Small, home.path(), last.parse().unwrap()).unwrap();
}

#[test]
fn a_lack_of_descriptors_postpones_checkpoints_of_sled_and_stops_nothing() {
    check_continues(Engine::Sled);
}

#[test]
fn a_lack_of_descriptors_does_not_affect_redb() {
    check_continues(Engine::Redb);
}
