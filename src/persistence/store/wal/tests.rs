//! The log over a base in memory: nothing in it is about an engine.

use std::collections::BTreeMap;

use tempfile::{TempDir, tempdir};

use super::base::BaseState;
use super::memtable::{Bounds, Entry};
use super::*;
use crate::persistence::store::conformance::conformance;
use crate::persistence::store::{MemoryStore, Pair};

thread_local! {
    /// Set if this thread cannot start the thread of a checkpoint.
    pub(crate) static NO_THREADS: std::cell::Cell<bool> = const { std::cell::Cell::new(false) };
}

type Entries = BTreeMap<Vec<u8>, Vec<u8>>;

/// A base in memory; a clone is another handle to the same data.
#[derive(Clone, Debug, Default)]
struct MemoryBase(Arc<Mutex<State>>);

#[derive(Clone, Debug, Default)]
struct State {
    entries: Entries,
    /// What a crash leaves.
    settled: Entries,
    held: BaseState,
    /// Set if every write fails.
    is_broken: bool,
}

impl MemoryBase {
    /// Returns what a crash leaves of the base: with all that was written since it was settled, or
    /// without.
    fn crashed(&self, keeps_unsettled: bool) -> Self {
        let mut state = self.0.lock().clone();
        if !keeps_unsettled {
            state.entries = state.settled.clone();
        }
        Self(Arc::new(Mutex::new(state)))
    }

    fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> Result<T, StoreError> {
        let mut state = self.0.lock();
        match state.is_broken {
            true => Err(StoreError::io("write", io::Error::other("broken"))),
            false => Ok(change(&mut state)),
        }
    }
}

impl Base for MemoryBase {
    type Range<'a> = std::vec::IntoIter<Result<Pair, StoreError>>;

    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(self.0.lock().entries.get(key).cloned())
    }

    fn range(&self, bounds: Bounds<'_>) -> Self::Range<'_> {
        let state = self.0.lock();
        let range = state.entries.range::<[u8], _>(bounds);
        let pairs: Vec<_> = range
            .map(|(key, value)| Ok((key.clone(), value.clone())))
            .collect();
        pairs.into_iter()
    }

    fn write<'a>(&self, entries: impl IntoIterator<Item = Entry<'a>>) -> Result<(), StoreError> {
        self.change(|state| {
            for (key, value) in entries {
                match value {
                    Some(value) => state.entries.insert(key.to_vec(), value.to_vec()),
                    None => state.entries.remove(key),
                };
            }
        })
    }

    fn settle(&self) -> Result<(), StoreError> {
        self.change(|state| state.settled = state.entries.clone())
    }

    fn mark(&self) -> Result<Option<Mark>, StoreError> {
        Ok(self.0.lock().held.mark)
    }

    fn set_mark(&self, mark: Mark) -> Result<(), StoreError> {
        self.change(|state| state.held.mark = Some(mark))
    }

    fn identity(&self) -> Result<Option<Identity>, StoreError> {
        Ok(self.0.lock().held.identity)
    }

    fn set_identity(&self, identity: Identity) -> Result<(), StoreError> {
        self.change(|state| state.held.identity = Some(identity))
    }

    fn check_in_place(&self) -> Result<(), StoreError> {
        Ok(())
    }

    fn copy_into(&self, _: &Path) -> Result<(), StoreError> {
        Ok(())
    }
}

type MemoryWal = WalStore<MemoryBase>;

fn open_in(dir: &Path, limit: usize, base: &MemoryBase) -> MemoryWal {
    let data_dir = dir.canonicalize().unwrap();
    WalStore::open(data_dir, limit, |_| Ok(base.clone())).unwrap()
}

fn all(store: &dyn Store) -> Vec<Pair> {
    let all = store.scan(&[0], &[0xff; 32]).map(Result::unwrap);
    all.collect()
}

/// Returns a batch of some puts and deletes of few keys.
fn round(n: u64) -> Batch {
    let mut batch = Batch::new();
    for key in 0..20_u64 {
        let key = format!("{:03}", (n * 7 + key * 13) % 90);
        match (n + key.len() as u64).is_multiple_of(3) {
            true => batch.delete(key),
            false => batch.put(key, vec![n as u8; (n % 300) as usize]),
        }
    }
    batch.put("round", n.to_be_bytes());
    batch
}

#[track_caller]
fn keeps_the_contract(limit: usize) {
    let homes = Mutex::new(Vec::new());
    let open = || {
        let home = tempdir().unwrap();
        let store = open_in(home.path(), limit, &MemoryBase::default());
        homes.lock().push(home);
        store
    };
    conformance(open, |store| {
        let (home, base) = (store.path().to_owned(), store.shared.layers.base.clone());
        drop(store);
        open_in(&home, limit, &base)
    });
}

#[test]
fn a_log_over_any_base_keeps_the_contract() {
    keeps_the_contract(LIMIT);
}

#[test]
fn a_log_over_any_base_keeps_the_contract_while_checkpoints_run_all_the_time() {
    keeps_the_contract(2_000);
}

/// Opens a copy of the log as it is now, over this base.
fn crashed(store: &MemoryWal, base: &MemoryBase) -> (TempDir, MemoryWal) {
    let home = tempdir().unwrap();
    backup::copy_log(&store.path().join(NAME), &home.path().join(NAME)).unwrap();
    let store = open_in(home.path(), LIMIT, base);
    (home, store)
}

#[test]
fn a_crash_at_any_step_of_a_checkpoint_loses_nothing_over_any_base() {
    let (home, base) = (tempdir().unwrap(), MemoryBase::default());
    let store = open_in(home.path(), LIMIT, &base);
    let reference = MemoryStore::new();
    let mut steps = 0;
    for checkpoint in 0..6_u64 {
        for n in 0..8 {
            let batch = round(checkpoint * 8 + n);
            reference.apply(batch.clone()).unwrap();
            store.apply(batch).unwrap();
        }
        store.sync(Durability::Power).unwrap();
        let keep = [0, LIMIT][checkpoint as usize % 2];
        let mut writer = store.writer.lock();
        let mut checkpoint = store.freeze(&mut writer, keep).unwrap();
        while !checkpoint.is_done() {
            for keeps_unsettled in [true, false] {
                let (_home, found) = crashed(&store, &base.crashed(keeps_unsettled));
                assert!(all(&found) == all(&reference), "before step {steps}");
            }
            drop(writer);
            assert!(all(&store) == all(&reference), "at step {steps}");
            writer = store.writer.lock();
            checkpoint.step().unwrap();
            steps += 1;
        }
        let Ended::Free(free) = checkpoint.run() else {
            panic!("it is done");
        };
        writer.log.reuse(free);
    }
    assert!(steps > 30, "{steps}");
    assert!(!base.0.lock().settled.is_empty());
}

#[test]
fn an_error_of_the_base_stops_the_store_and_what_was_acknowledged_is_in_the_log() {
    let (home, base) = (tempdir().unwrap(), MemoryBase::default());
    let store = open_in(home.path(), 20_000, &base);
    let reference = MemoryStore::new();
    for n in 0..1_000 {
        if n == 100 {
            base.0.lock().is_broken = true;
        }
        if store.apply(round(n)).is_err() || store.sync(Durability::Power).is_err() {
            break;
        }
        reference.apply(round(n)).unwrap();
    }
    let error = store.apply(round(0)).unwrap_err();
    assert!(
        matches!(&error, StoreError::Poisoned(why) if why.contains("broken")),
        "{error:?}"
    );
    drop(store);
    base.0.lock().is_broken = false;
    let store = open_in(home.path(), 20_000, &base.crashed(false));
    let number = |store: &dyn Store| store.get(b"round").unwrap();
    assert!(number(&store) >= number(&reference) && number(&reference).is_some());
}
