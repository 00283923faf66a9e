//! What every engine on disk is put through: kills, errors, power cuts and damage.

use std::path::Path;

use tempfile::TempDir;

use super::{Batch, Durability, MemoryStore, Pair, RedbStore, SledStore, Store, StoreError};

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

/// An engine, by its name.
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
            Engine::Sled => Box::new(SledStore::with_limit(home, load.overlay())?),
            Engine::Redb => Box::new(RedbStore::open(home)?),
        })
    }
}

/// How much is written to a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Load {
    /// Little, with an overlay so small that checkpoints happen all the time.
    Small,
    /// So much that sled has some segments, and a checkpoint empties several and writes over them.
    Large,
}

impl Load {
    /// When an overlay of sled's is frozen, in bytes.
    fn overlay(self) -> usize {
        match self {
            Load::Small => 60_000,
            Load::Large => 1 << 20,
        }
    }

    /// The `n`th batch, the same each time it is asked for.
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

    /// What a store holds after so many rounds.
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

/// What a process that is killed now would leave behind.
pub(super) fn copy(home: &Path) -> TempDir {
    let copy = tempfile::tempdir().unwrap();
    copy_into(home, copy.path());
    copy
}

/// Opens what a process has left: all that was acknowledged, and no half batch. Says what is wrong.
fn left_whole(engine: Engine, load: Load, home: &Path, acked: u64) -> Result<(), String> {
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
        false => Err(format!("it is not what round {last} has left")),
    }
}

/// How many places or trials, by a variable.
fn number(variable: &str, default: u64) -> u64 {
    let set = std::env::var(variable).ok();
    set.map_or(default, |set| set.parse().expect("it is a number"))
}

/// Space, and nothing else: not worth a copy.
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

/// xorshift, so that a failure repeats.
pub(super) fn noise(seed: u64) -> impl Iterator<Item = u64> {
    std::iter::successors(Some(seed * 2 + 1), |x| {
        let x = x ^ (x << 13);
        let x = x ^ (x >> 7);
        Some(x ^ (x << 17))
    })
}

/// The `n`th batch of a small load.
pub(super) fn round(n: u64) -> Batch {
    Load::Small.round(n)
}

/// Which round was the last; 0 before the first.
pub(super) fn last_round(store: &dyn Store) -> u64 {
    let found = store.get(b"round").unwrap();
    found.map_or(0, |found| u64::from_be_bytes(found.try_into().unwrap()))
}

/// What a store holds after so many rounds of a small load.
pub(super) fn after(rounds: u64) -> Vec<Pair> {
    Load::Small.after(rounds)
}
