//! An error at the nth call, once or from there on: the store accepts nothing after it, and all
//! acknowledged rounds are there when the store is opened again. An error while the store is closed
//! has nothing to stop.

use super::strace::{Run, WRITES, files, works};
use super::*;

/// About how many positions of each kind of call are tried; more with `CHORDAL_FAULT_PLACES`.
const PLACES: u64 = 3;

/// Returns whether a call may fail without stopping the store: it concerns files without data. The
/// pid in `LOCK` serves messages only; without a ballast new work is refused.
fn is_harmless(call: &str) -> bool {
    call.contains("/LOCK>") || call.contains("/ballast>")
}

fn fail_at_all_calls(engine: Engine, errors: &[&str]) {
    if let Err(why) = works() {
        eprintln!("SKIPPED: errors of the disk with {engine:?}: {why}");
        return;
    }
    let positions = number("CHORDAL_FAULT_PLACES", PLACES);
    let (mut trials, mut halted) = (0, 0);
    for call in WRITES {
        // The process's own output goes through `write`, too: calls to other files than the store's
        // are left alone.
        let run = |home: &Path, inject| {
            let files = files(engine, home);
            Run::new(engine, home, call, &files, inject)
        };
        let home = tempfile::tempdir().unwrap();
        let sound = run(home.path(), None);
        assert!(sound.has_ended, "{call}: {}", sound.output);
        let step = sound.max_calls().div_ceil(positions).max(1) as usize;
        for (error, how) in errors.iter().flat_map(|error| [(error, ""), (error, "+")]) {
            // Until a run has no fault.
            for n in (1..).step_by(step) {
                let home = tempfile::tempdir().unwrap();
                let inject = format!("error={error}:when={n}{how}");
                let run = run(home.path(), Some(inject));
                trials += u64::from(run.was_injected);
                let trial = format!("{engine:?}, {error} at {call} {n}{how}");
                assert!(
                    !run.output.contains("it goes on after"),
                    "{trial}: {}",
                    run.output
                );
                if let Err(why) = check_recovered(engine, Load::Small, home.path(), run.acked) {
                    panic!("{trial}, after {trials} trials: {why}\n{}", run.output);
                }
                if !run.was_injected {
                    assert!(run.has_ended, "{trial}: {}", run.output);
                    break;
                }
                halted += u64::from(!run.has_ended);
                if run.has_ended {
                    let mut faults = run.faults();
                    faults.retain(|call| !is_harmless(call));
                    assert_eq!(faults, [""; 0], "{trial}: it has not stopped");
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
fn an_error_at_any_call_stops_sled_and_loses_nothing_acknowledged() {
    fail_at_all_calls(Engine::Sled, &["EIO"]);
}

#[test]
fn an_error_at_any_call_stops_redb_and_loses_nothing_acknowledged() {
    fail_at_all_calls(Engine::Redb, &["EIO", "ENOSPC"]);
}
