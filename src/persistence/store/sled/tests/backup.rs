//! Backups of a store while a thread writes to it and checkpoints run all the time.

use std::sync::atomic::AtomicU64;

use super::*;

const LIMIT: usize = 40_000;

fn number(bytes: Vec<u8>) -> u64 {
    u64::from_be_bytes(bytes.try_into().unwrap())
}

/// Returns a batch that touches many keys, so that half a batch would show.
fn round(n: u64) -> Batch {
    let mut batch = Batch::new();
    for key in 0..20_u64 {
        batch.put(format!("{:03}", (n * 7 + key * 13) % 200), n.to_be_bytes());
    }
    batch.put("round", n.to_be_bytes());
    batch.put(format!("ballast {}", n % 50), vec![n as u8; 1_500]);
    batch
}

#[test]
fn a_backup_equals_the_store_after_one_commit_while_writes_continue() {
    let home = tempdir().unwrap();
    let store = SledStore::with_limit(home.path(), LIMIT).unwrap();
    let written = AtomicU64::new(0);
    let done = AtomicBool::new(false);
    let mut copies = Vec::new();
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut n = 0;
            while !done.load(Ordering::Acquire) {
                n += 1;
                store.apply(round(n)).unwrap();
                store.sync(Durability::Process).unwrap();
                written.store(n, Ordering::Release);
            }
        });
        let mut from = 0;
        let epoch = || store.wal.shared.layers.memtables.read().epoch;
        for copy in 0..12 {
            // Some rounds are written between any two backups, and checkpoints go on.
            while written.load(Ordering::Acquire) < from + 30 || epoch() <= copy {
                thread::yield_now();
            }
            from = written.load(Ordering::Acquire);
            let path = home.path().join(format!("copy {copy}"));
            store.backup(&path).unwrap();
            copies.push((path, from, written.load(Ordering::Acquire)));
        }
        done.store(true, Ordering::Release);
    });
    for (path, before, after) in copies {
        let copy = SledStore::open(&path).unwrap();
        let last = number(copy.get(b"round").unwrap().unwrap());
        assert!(
            (before..=after + 1).contains(&last),
            "{before} {last} {after}"
        );
        let mut expected = std::collections::BTreeMap::new();
        for op in (1..=last).flat_map(round) {
            if let Op::Put(key, value) = op {
                expected.insert(key, value);
            }
        }
        assert!(copy.all().unwrap() == expected.into_iter().collect::<Vec<_>>());
    }
}

#[test]
fn an_interrupted_backup_does_not_open_as_a_store() {
    let home = filled();
    let store = SledStore::open(home.path()).unwrap();
    let whole = home.path().join("copy");
    store.backup(&whole).unwrap();
    fs::write(whole.join(files::UNFINISHED), b"").unwrap();
    let error = SledStore::open(&whole).unwrap_err();
    assert!(matches!(error, StoreError::Corrupt { .. }), "{error:?}");
    fs::remove_file(whole.join(files::UNFINISHED)).unwrap();
    holds_kept(&whole);
}

#[test]
fn a_store_that_has_stopped_is_not_copied() {
    let home = filled();
    let store = SledStore::open(home.path()).unwrap();
    store
        .wal
        .shared
        .poison(StoreError::Poisoned("for a test".to_owned()));
    let error = store.backup(&home.path().join("copy")).unwrap_err();
    assert!(matches!(error, StoreError::Poisoned(_)), "{error:?}");
    let names = files::list(home.path()).unwrap();
    assert!(
        !names
            .iter()
            .any(|name| name.to_string_lossy().starts_with("copy"))
    );
}
