//! Fault tests that every engine on disk must pass: kills, errors, power cuts and damage.

use std::path::Path;

use tempfile::TempDir;

use super::{Batch, Durability, MemoryStore, Pair, RedbStore, SledStore, Store, StoreError};
use crate::split_mix;

mod damage;
#[cfg(target_os = "linux")]
mod descriptors;
#[cfg(target_os = "linux")]
mod device;
#[cfg(target_os = "linux")]
mod errors;
mod exchange;
mod kill;
#[cfg(target_os = "linux")]
mod opening;
#[cfg(target_os = "linux")]
mod power;
#[cfg(target_os = "linux")]
mod strace;

/// An engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Engine {
    Sled,
    Redb,
}

impl Engine {
    fn open(self, home: &Path) -> Result<Box<dyn Store>, StoreError> {
        self.open_for(Load::Small, home)
    }

    fn open_for(self, load: Load, home: &Path) -> Result<Box<dyn Store>, StoreError> {
        Ok(match self {
            Engine::Sled => Box::new(SledStore::with_limit(home, load.memtable_limit())?),
            Engine::Redb => Box::new(RedbStore::open(home)?),
        })
    }
}

/// The amount of data written to a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Load {
    /// Little data, with a memtable so small that checkpoints run all the time.
    Small,
    /// Enough data for several segments of sled, of which a checkpoint empties and overwrites some.
    Large,
}

impl Load {
    /// Returns the size in bytes at which a memtable of sled is frozen.
    fn memtable_limit(self) -> usize {
        match self {
            Load::Small => 60_000,
            Load::Large => 1 << 20,
        }
    }

    /// Returns the `n`th batch, which is the same at each call.
    fn round(self, n: u64) -> Batch {
        let (ops, keys) = match self {
            Load::Small => (12, 500),
            Load::Large => (60, 8_000),
        };
        let mut batch = Batch::new();
        let mut dice = noise(n).skip(5).map(|noise| noise >> 11);
        for _ in 0..ops {
            let (key, what) = (dice.next().unwrap() % keys, dice.next().unwrap());
            if what.is_multiple_of(3) {
                batch.delete(format!("{key:03}"));
            } else {
                batch.put(format!("{key:03}"), vec![n as u8; what as usize % 1_500]);
            }
        }
        batch.put("round", n.to_be_bytes());
        batch
    }

    /// Returns the records of a store after this many rounds.
    fn after(self, rounds: u64) -> Vec<Pair> {
        let store = MemoryStore::new();
        for n in 1..=rounds {
            store.apply(self.round(n)).unwrap();
        }
        all(&store).unwrap()
    }
}

fn all(store: &dyn Store) -> Result<Vec<Pair>, StoreError> {
    store.scan(b"\0", &[0xFF; 32]).collect()
}

/// Copies what a process that is killed now would leave behind.
pub(super) fn copy(home: &Path) -> TempDir {
    let copy = tempfile::tempdir().unwrap();
    copy_into(home, copy.path());
    copy
}

/// Opens the store that a process left and checks that it holds all acknowledged rounds and no half
/// batch; returns the defect.
fn check_recovered(engine: Engine, load: Load, home: &Path, acked: u64) -> Result<(), String> {
    let store = engine
        .open_for(load, home)
        .map_err(|error| format!("{error:?}"))?;
    let last = last_round(&*store);
    if last < acked {
        return Err(format!("acknowledged {acked}, found {last}"));
    }
    let found = all(&*store).map_err(|error| format!("{error:?}"))?;
    match found == load.after(last) {
        true => Ok(()),
        false => Err(format!("it is not the state after round {last}")),
    }
}

/// Returns the number of trials that a variable sets.
fn number(variable: &str, default: u64) -> u64 {
    let set = std::env::var(variable).ok();
    set.map_or(default, |set| set.parse().expect("it is a number"))
}

/// The ballast holds no data and is not copied.
const BALLAST: &str = "ballast";

fn copy_into(from: &Path, to: &Path) {
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        if entry.file_name() == BALLAST {
            continue;
        }
        let to = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            std::fs::create_dir(&to).unwrap();
            copy_into(&entry.path(), &to);
        } else {
            std::fs::copy(entry.path(), to).unwrap();
        }
    }
}

/// Returns random numbers that the seed determines, so that a failure can be repeated.
pub(super) fn noise(seed: u64) -> impl Iterator<Item = u64> {
    let next = |state: &u64| Some(state.wrapping_add(split_mix::STEP));
    std::iter::successors(next(&seed), next).map(split_mix::number)
}

/// Returns the `n`th batch of a small load.
pub(super) fn round(n: u64) -> Batch {
    Load::Small.round(n)
}

/// Returns the number of the last round in the store; 0 before the first.
pub(super) fn last_round(store: &dyn Store) -> u64 {
    let found = store.get(b"round").unwrap();
    found.map_or(0, |found| u64::from_be_bytes(found.try_into().unwrap()))
}

/// Returns the records of a store after this many rounds of a small load.
pub(super) fn after(rounds: u64) -> Vec<Pair> {
    Load::Small.after(rounds)
}
