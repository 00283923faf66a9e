//! Kills in an opening: the next one finds all that was acknowledged, or a store that is new.

use super::kill::Process;
use super::strace::{Run, WRITES, works};
use super::*;

/// At about how many places of each kind of call; more with `CHORDAL_OPENING_PLACES`.
const PLACES: u64 = 3;
/// What files come and go with, besides.
const NAMES: [&str; 4] = ["openat", "rename", "unlink", "mkdir"];

/// A store that is opened again, if so, with this many rounds in it.
fn made(engine: Engine, rounds: u64) -> TempDir {
    let home = tempfile::tempdir().unwrap();
    if rounds > 0 {
        let mut process = Process::new(engine, home.path()).for_power().rounds(rounds);
        assert!(process.command().output().unwrap().status.success());
    }
    home
}

fn killed_anywhere(engine: Engine, rounds: u64) {
    if let Err(why) = works() {
        eprintln!("SKIPPED: kills in openings of {engine:?}: {why}");
        return;
    }
    let places = number("CHORDAL_OPENING_PLACES", PLACES);
    let before = made(engine, rounds);
    let mut trials = 0;
    for call in WRITES.into_iter().chain(NAMES) {
        let home = copy(before.path());
        let sound = Run::new(engine, home.path(), call, &[], None);
        assert!(sound.has_ended, "{call}: {}", sound.said);
        let step = sound.most().div_ceil(places).max(1) as usize;
        for n in (1..).step_by(step) {
            let home = copy(before.path());
            let kill = format!("signal=KILL:when={n}");
            let run = Run::new(engine, home.path(), call, &[], Some(kill));
            trials += u64::from(run.was_met);
            if let Err(why) = left_whole(engine, Load::Small, home.path(), run.acked.max(rounds)) {
                panic!("{engine:?}, killed at {call} {n}, after {trials} trials: {why}");
            }
            if !run.was_met {
                break;
            }
        }
    }
    eprintln!("{engine:?}: {trials} trials with kills in openings");
    assert!(trials > 0);
}

#[test]
fn a_first_open_of_sled_that_is_killed_anywhere_is_made_up_for() {
    killed_anywhere(Engine::Sled, 0);
}

#[test]
fn a_first_open_of_redb_that_is_killed_anywhere_is_made_up_for() {
    killed_anywhere(Engine::Redb, 0);
}

#[test]
fn an_open_of_sled_that_is_killed_anywhere_is_made_up_for() {
    killed_anywhere(Engine::Sled, 30);
}

#[test]
fn an_open_of_redb_that_is_killed_anywhere_is_made_up_for() {
    killed_anywhere(Engine::Redb, 30);
}
