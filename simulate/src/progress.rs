//! Reports of running tasks: every fourth seed has tasks that report at each of their turns. The
//! runs of the others stay as they were before reports existed.

use std::collections::BTreeMap;

use chordal::persistence::{Op, Store};
use chordal::prelude::*;

use crate::disk::Disk;

/// Between two records of one task, in milliseconds.
const INTERVAL_MS: u64 = 1_000;

/// Reports the turn that a task takes, if the tasks of this seed report.
pub(crate) fn report(seed: u64, ctx: &TaskContext, turn: usize, turns: usize) {
    if seed % 4 == 3 {
        ctx.progress(turn as u64, turns as u64);
    }
}

/// Whether the retries of this seed are such as a service asks for, which use up none.
pub(crate) fn asks_for_free_retries(seed: u64) -> bool {
    seed % 8 == 3
}

/// The records of what tasks reported, as one life writes them.
#[derive(Debug)]
pub(crate) struct Records {
    since_ms: u64,
    /// The last record of each task, and how many there were.
    seen: BTreeMap<Vec<u8>, (Vec<u8>, u64)>,
}

impl Records {
    pub(crate) fn since(now_ms: u64) -> Self {
        Self {
            since_ms: now_ms,
            seen: BTreeMap::new(),
        }
    }

    /// Looks at the store; returns a fault if a task had more records than seconds in this life.
    /// (Not if two come at once: the store may write a batch long after it was decided.)
    pub(crate) fn look(&mut self, disk: &Disk, now_ms: u64) -> Option<String> {
        let most = (now_ms - self.since_ms) / INTERVAL_MS + 1;
        let mut fault = None;
        for (key, record) in disk.scan(b"g", b"h").filter_map(Result::ok) {
            let (last, count) = self.seen.entry(key.clone()).or_default();
            if *last != record {
                *last = record;
                *count += 1;
            }
            // (One more: that of the life before.)
            if *count > most + 1 {
                let task = key.escape_ascii();
                fault = Some(format!(
                    "{count} records of {task}, {most} of which are allowed"
                ));
            }
        }
        fault
    }
}

/// Returns whether a batch is there for reports alone: they must go with others.
pub(crate) fn is_for_reports<'a>(batch: impl Iterator<Item = &'a Op>) -> bool {
    let mut reports = 0;
    for op in batch {
        match op {
            Op::Put(key, _) if key[0] == b'g' => reports += 1,
            Op::Put(key, _) if **key == b"m/store"[..] => {}
            Op::Put(..) | Op::Delete(_) => return false,
        }
    }
    reports > 0
}
