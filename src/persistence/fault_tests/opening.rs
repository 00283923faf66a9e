//! Kills during an open: the next open finds all acknowledged rounds, or a new store.

use super::kill::Process;
use super::strace::{Run, WRITES, works};
use super::*;

/// About how many positions of each kind of call are tried; more with `CHORDAL_OPENING_PLACES`.
const PLACES: u64 = 3;
/// The calls that create, rename and remove files.
const NAMES: [&str; 4] = ["openat", "rename", "unlink", "mkdir"];

/// Creates a directory, with a store of this many rounds if there are any.
fn create_store(engine: Engine, rounds: u64) -> TempDir {
    let home = tempfile::tempdir().unwrap();
    if rounds > 0 {
        let mut process = Process::new(engine, home.path()).for_power().rounds(rounds);
        assert!(process.command().output().unwrap().status.success());
    }
    home
}

fn kill_at_all_calls(engine: Engine, rounds: u64) {
    if let Err(why) = works() {
        eprintln!("SKIPPED: kills in openings of {engine:?}: {why}");
        return;
    }
    let positions = number("CHORDAL_OPENING_PLACES", PLACES);
    let before = create_store(engine, rounds);
    let mut trials = 0;
    for call in WRITES.into_iter().chain(NAMES) {
        let home = copy(before.path());
        let sound = Run::new(engine, home.path(), call, &[], None);
        assert!(sound.has_ended, "{call}: {}", sound.output);
        let step = sound.max_calls().div_ceil(positions).max(1) as usize;
        for n in (1..).step_by(step) {
            let home = copy(before.path());
            let kill = format!("signal=KILL:when={n}");
            let run = Run::new(engine, home.path(), call, &[], Some(kill));
            trials += u64::from(run.was_injected);
            if let Err(why) =
                check_recovered(engine, Load::Small, home.path(), run.acked.max(rounds))
            {
                panic!("{engine:?}, killed at {call} {n}, after {trials} trials: {why}");
            }
            if !run.was_injected {
                break;
            }
        }
    }
    eprintln!("{engine:?}: {trials} trials with kills in openings");
    assert!(trials > 0);
}

#[test]
fn a_first_open_of_sled_that_is_killed_anywhere_can_be_repeated() {
    kill_at_all_calls(Engine::Sled, 0);
}

#[test]
fn a_first_open_of_redb_that_is_killed_anywhere_can_be_repeated() {
    kill_at_all_calls(Engine::Redb, 0);
}

#[test]
fn an_open_of_sled_that_is_killed_anywhere_loses_nothing_acknowledged() {
    kill_at_all_calls(Engine::Sled, 30);
}

#[test]
fn an_open_of_redb_that_is_killed_anywhere_loses_nothing_acknowledged() {
    kill_at_all_calls(Engine::Redb, 30);
}
