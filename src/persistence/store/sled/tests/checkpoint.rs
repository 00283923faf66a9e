//! A crash at each step of a checkpoint, and errors during one.

use std::collections::BTreeMap;

use super::*;

/// Applies a batch of some puts and deletes to the store and to a plain map.
fn round(
    store: &SledStore,
    map: &mut BTreeMap<Vec<u8>, Vec<u8>>,
    dice: &mut impl Iterator<Item = u64>,
) {
    let mut batch = Batch::new();
    for _ in 0..dice.next().unwrap() % 40 {
        let key = format!("{:03}", (dice.next().unwrap() >> 9) % 300).into_bytes();
        let noise = dice.next().unwrap() >> 9;
        if noise.is_multiple_of(3) {
            map.remove(&key);
            batch.delete(key);
        } else {
            let value = vec![noise as u8; (noise >> 8) as usize % 2_000];
            map.insert(key.clone(), value.clone());
            batch.put(key, value);
        }
    }
    store.apply(batch).unwrap();
    store.sync(Durability::Process).unwrap();
}

#[track_caller]
fn holds(home: &Path, map: &BTreeMap<Vec<u8>, Vec<u8>>) {
    let store = SledStore::open(home).unwrap();
    let found: BTreeMap<_, _> = store.all().unwrap().into_iter().collect();
    assert!(found == *map, "{} records, not {}", found.len(), map.len());
}

#[test]
fn a_crash_at_any_step_of_a_checkpoint_loses_nothing() {
    let home = tempdir().unwrap();
    let store = SledStore::open(home.path()).unwrap();
    let mut map = BTreeMap::new();
    let mut dice = noise(5);
    let mut steps = 0;
    // Through sled or, for all entries but the deletes, through the log once more.
    for keep in [0, usize::MAX, 0, 0, usize::MAX, usize::MAX, 0] {
        (0..20).for_each(|_| round(&store, &mut map, &mut dice));
        let mut checkpoint = store
            .wal
            .freeze(&mut store.wal.writer.lock(), keep)
            .unwrap();
        while !checkpoint.is_done() {
            holds(copy(home.path()).path(), &map);
            checkpoint.step().unwrap();
            steps += 1;
            // Newer values of keys that the checkpoint is moving into sled.
            round(&store, &mut map, &mut dice);
        }
        store.wal.writer.lock().log.reuse(free(checkpoint));
        holds(copy(home.path()).path(), &map);
    }
    assert!(steps > 4 * 5, "several batches each: {steps}");
    drop(store);
    holds(home.path(), &map);
}

#[test]
fn repeated_kills_lose_nothing() {
    let mut home = tempdir().unwrap();
    let mut map = BTreeMap::new();
    let mut dice = noise(3);
    for session in 0..30 {
        let store = SledStore::with_limit(home.path(), 30_000).unwrap();
        for _ in 0..session % 4 {
            round(&store, &mut map, &mut dice);
        }
        // The copy is of a running session: a checkpoint may be in any step. Its files must belong
        // to one moment, so the test waits for the checkpoint.
        if let Some(checkpoint) = store.wal.writer.lock().checkpoint.take() {
            join(checkpoint).unwrap();
        }
        let next = copy(home.path());
        drop(store);
        home = next;
    }
    holds(home.path(), &map);
    let segments = files::list(&home.path().join("wal")).unwrap();
    assert!(segments.len() < 12, "{segments:?}");
}

#[test]
fn a_memtable_found_in_the_log_is_not_frozen_at_once() {
    const LIMIT: usize = 20_000;
    let home = tempdir().unwrap();
    let put = |store: &SledStore, n: u32| store.apply(batch(&[(&format!("{n}"), &[7; 900])]));
    let is_frozen = |store: &SledStore| store.wal.writer.lock().checkpoint.is_some();
    let store = SledStore::with_limit(home.path(), 10 * LIMIT).unwrap();
    (0..30).for_each(|n| put(&store, n).unwrap());
    drop(store);

    let store = SledStore::with_limit(home.path(), LIMIT).unwrap();
    (30..35).for_each(|n| put(&store, n).unwrap());
    assert!(!is_frozen(&store), "a quarter of a limit has come to it");
    (35..45).for_each(|n| put(&store, n).unwrap());
    assert!(is_frozen(&store), "half of one has");
    drop(store);

    // But not if the log holds two limits or more.
    let store = SledStore::with_limit(home.path(), 10 * LIMIT).unwrap();
    (45..120).for_each(|n| put(&store, n).unwrap());
    drop(store);
    let store = SledStore::with_limit(home.path(), LIMIT).unwrap();
    put(&store, 120).unwrap();
    put(&store, 121).unwrap();
    assert!(is_frozen(&store));
    assert_eq!(store.all().unwrap().len(), 122);
}

#[test]
fn the_files_of_the_log_are_reused() {
    let home = tempdir().unwrap();
    let store = SledStore::with_limit(home.path(), 50_000).unwrap();
    for n in 0..400_u32 {
        store
            .apply(batch(&[(&format!("{n}"), &[7; 2_000])]))
            .unwrap();
    }
    drop(store);
    let log = home.path().join("wal");
    let sizes: Vec<u64> = files::list(&log)
        .unwrap()
        .iter()
        .map(|name| fs::metadata(log.join(name)).unwrap().len())
        .collect();
    assert!(
        sizes.len() <= 3 && sizes.iter().sum::<u64>() < 600_000,
        "{sizes:?}"
    );
}

#[test]
fn an_entry_put_and_deleted_in_one_memtable_never_reaches_sled() {
    let home = tempdir().unwrap();
    let store = SledStore::open(home.path()).unwrap();
    store.checkpoint();
    let size = |store: &SledStore| store.wal.shared.layers.base.size_on_disk();
    let before = size(&store);
    for n in 0..2_000_u32 {
        store
            .apply(batch(&[(&format!("{n}"), &[7; 1_000])]))
            .unwrap();
    }
    for n in 0..2_000_u32 {
        let mut batch = Batch::new();
        batch.delete(n.to_string());
        store.apply(batch).unwrap();
    }
    store.checkpoint();
    assert_eq!(store.all().unwrap(), []);
    assert!(
        size(&store) - before < 100_000,
        "of 2 MB: {}",
        size(&store) - before
    );
}

#[test]
fn short_lived_entries_never_reach_sled() {
    let home = tempdir().unwrap();
    let store = SledStore::with_limit(home.path(), 100_000).unwrap();
    store.checkpoint();
    let before = store.wal.shared.layers.base.size_on_disk();
    for n in 0..2_000_u32 {
        let mut batch = batch(&[(&format!("{n}"), &[7; 1_000])]);
        if let Some(gone) = n.checked_sub(20) {
            batch.delete(gone.to_string());
        }
        store.apply(batch).unwrap();
    }
    assert_eq!(store.all().unwrap().len(), 20);
    let all = store.all().unwrap();
    let grown = store.wal.shared.layers.base.size_on_disk() - before;
    assert!(grown < 50_000, "by {grown} for 2 MB");
    drop(store);
    assert_eq!(SledStore::open(home.path()).unwrap().all().unwrap(), all);
}

#[test]
fn after_a_checkpoint_failed_nothing_is_accepted_and_the_log_has_everything() {
    let home = filled();
    let store = SledStore::open(home.path()).unwrap();
    // Makes sled fail within a batch: the large value has no directory to go to.
    fs::remove_dir(home.path().join("sled/blobs")).unwrap();
    let mut batch = Batch::new();
    (0..50).for_each(|n| batch.put(format!("half-{n}"), "x"));
    (0..50).for_each(|n| batch.put(format!("large-{n}"), vec![7; 300_000]));
    store.apply(batch).unwrap();
    store.sync(Durability::Power).unwrap();
    let checkpoint = store.wal.freeze(&mut store.wal.writer.lock(), 0).unwrap();
    assert_eq!(free(checkpoint), None);
    for durability in [Durability::Power, Durability::Process, Durability::Buffered] {
        assert!(matches!(
            store.sync(durability),
            Err(StoreError::Poisoned(_))
        ));
    }
    let next = store.apply(self::batch(&[("k", b"v")]));
    assert!(matches!(next, Err(StoreError::Poisoned(why)) if why.contains("cannot write")));
    let all = store.all().unwrap();
    assert_eq!(all.len(), 101, "reads go on");
    drop(store);

    // sled's lock stays with the process, so the test opens a copy.
    let store = SledStore::open(copy(home.path()).path()).unwrap();
    assert!(store.all().unwrap() == all);
}

#[test]
fn a_log_of_deleted_entries_stays_short() {
    let home = tempdir().unwrap();
    let store = SledStore::open(home.path()).unwrap();
    let value = vec![7; 5_000];
    let mut longest = 0;
    for round in 0..60_u32 {
        // Each round adds half a megabyte, and deletes that of the round before.
        for number in 0..100_u32 {
            let mut batch = Batch::new();
            batch.put([round, number].map(u32::to_be_bytes).concat(), &value[..]);
            if round > 0 {
                batch.delete([round - 1, number].map(u32::to_be_bytes).concat());
            }
            store.apply(batch).unwrap();
        }
        store.sync(Durability::Process).unwrap();
        let mut writer = store.wal.writer.lock();
        if let Some(checkpoint) = writer.checkpoint.take() {
            let ended = join(checkpoint).unwrap();
            store.wal.finish_checkpoint(&mut writer, ended).unwrap();
        }
        let files = std::fs::read_dir(home.path().join("wal")).unwrap();
        let bytes = files.map(|file| file.unwrap().metadata().unwrap().len());
        longest = longest.max(bytes.sum());
    }
    assert!(longest < 6 << 20, "{longest} bytes");
    assert_eq!(store.all().unwrap().len(), 100);
    drop(store);
    assert_eq!(
        SledStore::open(home.path()).unwrap().all().unwrap().len(),
        100
    );
}

#[test]
fn deleting_a_new_key_leaves_nothing_and_deleting_an_old_one_a_tombstone() {
    let home = tempdir().unwrap();
    let store = SledStore::open(home.path()).unwrap();
    let size = |store: &SledStore| store.wal.shared.layers.memtables.read().active().size();
    let delete = |store: &SledStore, key: &str| {
        let mut batch = Batch::new();
        batch.delete(key);
        store.apply(batch).unwrap();
    };
    store
        .apply(batch(&[("a1", b"x"), ("a5", b"x"), ("b1", b"x")]))
        .unwrap();
    store.checkpoint();
    assert_eq!(size(&store), 0);

    // Keys above all others of their tag, put or not.
    store.apply(batch(&[("a6", b"x"), ("b2", b"x")])).unwrap();
    for key in ["a6", "b2", "a7", "c"] {
        delete(&store, key);
        assert_eq!(store.get(key.as_bytes()).unwrap(), None);
    }
    assert_eq!(size(&store), 0);
    // Keys between or among the others: sled may have them.
    store.apply(batch(&[("a3", b"x"), ("a5", b"y")])).unwrap();
    for key in ["a3", "a5", "b1"] {
        let before = size(&store);
        delete(&store, key);
        assert!(size(&store) > 0 && size(&store) != before, "{key}");
        assert_eq!(store.get(key.as_bytes()).unwrap(), None);
    }
    let left = |store: &SledStore| {
        let all = store.all().unwrap().into_iter();
        all.map(|(key, _)| String::from_utf8(key).unwrap())
            .collect::<Vec<_>>()
    };
    assert_eq!(left(&store), ["a1"]);
    // The replayed and the frozen keys are known as well.
    drop(store);
    let store = SledStore::open(home.path()).unwrap();
    assert_eq!(left(&store), ["a1"]);
    store.apply(batch(&[("a9", b"x")])).unwrap();
    let frozen = store.wal.freeze(&mut store.wal.writer.lock(), 0).unwrap();
    delete(&store, "a9");
    assert_eq!(left(&store), ["a1"]);
    assert!(size(&store) > 0, "the key is being moved into sled");
    frozen.run();
    assert_eq!(left(&store), ["a1"]);
    store.checkpoint();
    drop(store);
    assert_eq!(left(&SledStore::open(home.path()).unwrap()), ["a1"]);
}
