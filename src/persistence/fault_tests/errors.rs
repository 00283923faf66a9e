//! An error at the nth call, once or from there on: nothing is taken after it, and all that was
//! acknowledged is there when the store is opened again. One that comes when the store is closed has
//! nothing to stop.

use super::strace::{Run, WRITES, files, works};
use super::*;

/// At about how many places of each kind of call; more with `CHORDAL_FAULT_PLACES`.
const PLACES: u64 = 3;

/// A call that may fail without an end to the work: it is to files that hold no data. The pid of who
/// holds the store is for messages only; without a ballast new work is refused.
fn is_harmless(call: &str) -> bool {
    call.contains("/LOCK>") || call.contains("/ballast>")
}

fn fails_anywhere(engine: Engine, errors: &[&str]) {
    if let Err(why) = works() {
        eprintln!("SKIPPED: errors of the disk with {engine:?}: {why}");
        return;
    }
    let places = number("CHORDAL_FAULT_PLACES", PLACES);
    let (mut trials, mut halted) = (0, 0);
    for call in WRITES {
        // Its own words go through `write`, too: what is not a file of the store is left alone.
        let run = |home: &Path, inject| {
            let files = files(engine, home);
            Run::new(engine, home, call, &files, inject)
        };
        let home = tempfile::tempdir().unwrap();
        let sound = run(home.path(), None);
        assert!(sound.has_ended, "{call}: {}", sound.said);
        let step = sound.most().div_ceil(places).max(1) as usize;
        for (error, how) in errors.iter().flat_map(|error| [(error, ""), (error, "+")]) {
            // Until a run has no fault.
            for n in (1..).step_by(step) {
                let home = tempfile::tempdir().unwrap();
                let inject = format!("error={error}:when={n}{how}");
                let run = run(home.path(), Some(inject));
                trials += u64::from(run.was_met);
                let place = format!("{engine:?}, {error} at {call} {n}{how}");
                assert!(
                    !run.said.contains("it goes on after"),
                    "{place}: {}",
                    run.said
                );
                if let Err(why) = left_whole(engine, Load::Small, home.path(), run.acked) {
                    panic!("{place}, after {trials} trials: {why}\n{}", run.said);
                }
                if !run.was_met {
                    assert!(run.has_ended, "{place}: {}", run.said);
                    break;
                }
                halted += u64::from(!run.has_ended);
                if run.has_ended {
                    let mut faults = run.faults();
                    faults.retain(|call| !is_harmless(call));
                    assert_eq!(faults, [""; 0], "{place}: it has not stopped");
                }
            }
        }
    }
    eprintln!(
        "{engine:?}: {trials} trials with errors of the disk; {halted} stopped it, the others came when it \
         was closed, or to what holds no data"
    );
    assert!(halted > 0, "no error was noticed");
}

#[test]
fn an_error_at_any_call_stops_sled_and_takes_nothing_that_was_acknowledged() {
    fails_anywhere(Engine::Sled, &["EIO"]);
}

#[test]
fn an_error_at_any_call_stops_redb_and_takes_nothing_that_was_acknowledged() {
    fails_anywhere(Engine::Redb, &["EIO", "ENOSPC"]);
}
