//! A run: all lives of one seed, and the checks after the last.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Once;

use chordal::Id;
use chordal::persistence::Op;

use crate::disk::Disk;
use crate::life::{Ended, live};
use crate::progress;
use crate::revoke;
use crate::world::World;

/// The result of a seed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Run {
    /// A hash of all writes and all answers: the same in each run of the seed.
    pub trace: u64,
    /// The number of openings of the store.
    pub lives: u32,
    /// The number of bodies that started.
    pub bodies: usize,
    /// The violations that were detected.
    pub violations: Vec<String>,
}

/// How a seed is run.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// Logs the events of the run, line by line.
    pub logs: bool,
}

/// Runs a seed.
#[must_use]
pub fn run(seed: u64, options: Options) -> Run {
    silence_panics();
    let world = World::new(seed, options);
    world.log(|| format!("{:#?}", world.plan));
    let mut trace = DefaultHasher::new();
    let mut disk = Disk::default();
    let trouble = &world.plan.trouble;
    let mut ends = trouble.ends.iter().copied();
    let mut reopens_at_the_end = trouble.reopens_at_the_end;
    loop {
        let end = ends.next();
        let before = disk.batches();
        let ended = live(&world, &disk, end, end.is_none() && !reopens_at_the_end);
        let mut batches = disk.all();
        world.log(|| {
            format!(
                "{ended:?}: {} batches, {} synced",
                batches.len(),
                disk.synced()
            )
        });
        if batches[before..]
            .iter()
            .any(|batch| progress::is_for_reports(batch.into_iter()))
        {
            world.report_fault("a batch was written for reports alone".to_owned());
        }
        for op in batches[before..].iter().flatten() {
            match op {
                Op::Put(key, value) => (key, value).hash(&mut trace),
                Op::Delete(key) => key.hash(&mut trace),
            }
        }
        match ended {
            Ended::AllGone => break,
            Ended::Done if end.is_none() => reopens_at_the_end = false,
            Ended::Done => {}
            Ended::Cleanly => {
                if disk.synced() < batches.len() {
                    world.report_fault("a clean stop leaves unsynced writes".to_owned());
                }
            }
            Ended::Crashed => {
                let kept = disk.synced() + world.dice.roll(batches.len() - disk.synced() + 1);
                if world.plan.settings.buffered && kept < batches.len() {
                    world.note_loss();
                }
                batches.truncate(kept);
            }
            Ended::Stuck => {
                world.report_fault("the run is stuck".to_owned());
                break;
            }
        }
        if !world.violations.borrow().is_empty() {
            break;
        }
        disk = Disk::holding(batches);
    }
    if world.violations.borrow().is_empty() {
        check_tasks(&world);
    }
    for submitted in &world.submitted {
        format!("{:?}", submitted.borrow()).hash(&mut trace);
    }
    world.entered.borrow().hash(&mut trace);
    Run {
        trace: trace.finish(),
        lives: world.lives.get(),
        bodies: world.entered.borrow().len(),
        violations: world.violations.take(),
    }
}

/// Checks that each workflow that started has run each of its tasks once, in however many attempts:
/// one body per chord, and one errback per failure.
fn check_tasks(world: &World) {
    let mut tasks: BTreeMap<(Id, u64), BTreeSet<Id>> = BTreeMap::new();
    for (id, _, key) in &*world.entered.borrow() {
        tasks.entry((id.root(), *key)).or_default().insert(*id);
    }
    for (number, flow) in world.plan.flows.iter().enumerate() {
        let roots: BTreeSet<Id> = tasks
            .keys()
            .filter(|(_, key)| flow.ran.contains_key(key))
            .map(|(root, _)| *root)
            .collect();
        let (tries, id, forgotten) = {
            let submitted = world.submitted[number].borrow();
            (submitted.tries, submitted.id, submitted.forgotten)
        };
        let has_lost = world.has_lost.get();
        let is_asked = revoke::is_asked(world, number);
        let max_roots = match flow.idempotency_key {
            Some(_) if !has_lost && !world.plan.sweeps_early() => tries.min(1),
            _ => tries,
        };
        let may_be_missing = is_asked || (has_lost && forgotten);
        let is_missing = roots.is_empty() && !flow.ran.is_empty() && !may_be_missing;
        if roots.len() > max_roots as usize || is_missing {
            let count = roots.len();
            world.report_fault(format!(
                "flow {number}, submitted {tries} times, ran {count} times"
            ));
        }
        for root in roots.into_iter().filter(|_| !is_asked) {
            // Earlier submissions, and one that was forgotten, may have lost some tasks.
            if has_lost && (Some(root) != id || forgotten) {
                continue;
            }
            for (key, expected) in &flow.ran {
                let ran = tasks.get(&(root, *key)).map_or(0, BTreeSet::len);
                // A task whose number was lost has another one now.
                let again = has_lost && ran > *expected as usize;
                // Members of a race that are left out need not run.
                let is_left_out = ran == 0 && world.plan.race(flow).is_some();
                if ran != *expected as usize && !again && !is_left_out {
                    world.report_fault(format!(
                        "flow {number} has {ran} tasks with key {key}, not {expected}"
                    ));
                }
            }
        }
    }
    let known = |key: &u64| {
        world
            .plan
            .flows
            .iter()
            .any(|flow| flow.ran.contains_key(key))
    };
    // (A revoked flow may run errbacks that otherwise do not run.)
    let asked: Vec<_> = (0..world.plan.flows.len())
        .filter(|flow| revoke::is_asked(world, *flow))
        .filter_map(|flow| world.submitted[flow].borrow().id)
        .collect();
    let unknown = tasks.keys().filter(|(_, key)| !known(key));
    for (_, key) in unknown.filter(|(root, _)| !asked.contains(root)) {
        world.report_fault(format!("a task with key {key} ran, and should not have"));
    }
}

/// Silences the panics that the simulation asks for.
fn silence_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let usual = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            let text = panic.payload_as_str().unwrap_or_default();
            if !text.contains("boom") && !text.contains("because the simulation asked") {
                usual(panic);
            }
        }));
    });
}
