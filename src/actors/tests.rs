//! Tests of supervision: workflows survive the death of an actor. No user action kills an actor, so
//! each kind calls [`fault`](crate::testing::hooks::fault) at one of its events.

use std::sync::atomic::{AtomicU32, Ordering};

use parking_lot::{Mutex, MutexGuard};

use crate::prelude::*;
use crate::testing::faults;
use crate::{Error, FailureKind};

/// Serializes these tests: the fault belongs to the process.
static SERIAL: Mutex<()> = Mutex::new(());
static CALLS: AtomicU32 = AtomicU32::new(0);

fn arm(kind: &'static str, survives: u32, times: u32) -> MutexGuard<'static, ()> {
    let guard = SERIAL.lock();
    CALLS.store(0, Ordering::SeqCst);
    faults::arm(kind, survives, times);
    guard
}

#[task]
async fn double(n: u64) -> u64 {
    CALLS.fetch_add(1, Ordering::SeqCst);
    2 * n
}

#[task]
async fn total(all: Vec<u64>) -> u64 {
    all.iter().sum()
}

#[task]
async fn grand_total(all: Vec<Vec<u64>>) -> u64 {
    all.iter().flatten().sum()
}

#[task]
async fn push(mut all: Vec<u64>, item: u64) -> Vec<u64> {
    all.push(item);
    all
}

/// A chain of a chord and a chord over a group, which uses every kind of actor. 60 is 2 * (0 + 2 +
/// .. + 10).
fn canvas() -> Signature<(), u64> {
    let header = group((0..6).map(|n| double.s(n)));
    let doubled = chord(header, total.partial()) | double.partial();
    let both = group([double.partial(), double.partial()]);
    doubled | group([both]) | grand_total.partial()
}

fn run<T: serde::de::DeserializeOwned>(canvas: Signature<(), T>) -> Result<T, Error> {
    let start = App::in_memory()
        .tasks(tasks![double, total, grand_total, push])
        .start();
    let app = pollster::block_on(start)?;
    let result = pollster::block_on(app.apply_async(canvas))?.get_blocking();
    faults::disarm();
    result
}

#[test]
fn a_task_actor_that_dies_is_started_again() {
    for survives in 0..11 {
        let _serial = arm("task", survives, 1);
        assert_eq!(run(canvas()).unwrap(), 240);
        assert_eq!(CALLS.load(Ordering::SeqCst), 9, "it died before its call");
    }
}

#[test]
fn a_supervisor_that_dies_is_started_again_and_its_finished_children_are_not() {
    for kind in ["chain", "group", "chord", "barrier"] {
        for survives in 0..9 {
            let _serial = arm(kind, survives, 1);
            assert_eq!(run(canvas()).unwrap(), 240, "{kind} after {survives}");
            // With more events to survive than there are, no actor dies, and the run proves
            // nothing.
            assert!(faults::has_died() || survives > 0, "{kind}");
        }
    }
}

#[test]
fn a_fold_whose_actors_die_has_each_value_once() {
    for kind in ["fold", "task", "barrier"] {
        for survives in 0..8 {
            let _serial = arm(kind, survives, 1);
            let folded = group((0..6).map(|n| double.s(n))).fold(vec![], push);
            let all = run(folded).unwrap();
            assert_eq!(all, [0, 2, 4, 6, 8, 10], "{kind} after {survives}");
            assert!(faults::has_died() || survives > 0, "{kind}");
        }
    }
}

#[test]
fn a_finished_step_is_not_run_again_when_its_chain_dies() {
    let _serial = arm("chain", 2, 1);
    let steps = double.s(1) | double.partial() | double.partial() | double.partial();
    assert_eq!(run(steps).unwrap(), 16);
    // The third step's end was lost with the chain; the two before it were on record.
    assert_eq!(CALLS.load(Ordering::SeqCst), 5);
}

#[test]
fn an_actor_that_dies_each_time_fails_its_task_in_the_end() {
    for kind in ["task", "chain", "barrier"] {
        let _serial = arm(kind, 0, u32::MAX);
        let Err(Error::Failed(failure)) = run(canvas()) else {
            panic!("{kind}: it cannot succeed");
        };
        let first = failure.cause.as_deref().unwrap_or(&failure);
        assert_eq!(first.kind, FailureKind::Engine, "{kind}: {failure}");
    }
}

#[test]
fn when_the_engine_dies_every_waiter_gets_an_error() {
    let _serial = arm("engine", 0, 1);
    let watched = group([double.s(1).link(total.si(vec![1]))]) | total.partial();
    let linked = run(watched);
    assert!(matches!(linked, Err(Error::Halted(_))), "{linked:?}");
}
