//! Scans of sled and two memtables that change meanwhile.

use std::collections::BTreeMap;

use super::*;

/// Every step of every scan, with any changes to other keys in between.
#[test]
fn a_scan_returns_each_untouched_key_once_while_checkpoints_run() {
    for seed in 0..60 {
        let home = tempdir().unwrap();
        let store = SledStore::open(home.path()).unwrap();
        let mut noise = noise(seed + 1);
        let mut dice = move |below: u64| (noise.next().unwrap() >> 20) % below;
        let name = |n: u64| format!("{n:04}");
        // Even keys stay as they are, odd ones come and go. Some of each are in every layer.
        let mut untouched = BTreeMap::new();
        for n in 0..90 {
            let value = format!("value {n}");
            store
                .apply(batch(&[(&name(2 * n), value.as_bytes())]))
                .unwrap();
            untouched.insert(name(2 * n).into_bytes(), value.into_bytes());
            if n == 30 {
                store.checkpoint();
            }
        }
        let mut frozen = None;
        let mut seen_keys: Vec<Vec<u8>> = Vec::new();
        let mut scan = store.scan(b"0", b"9");
        loop {
            for _ in 0..dice(4) {
                let mut one = Batch::new();
                let key = name(2 * dice(90) + 1);
                if dice(2) == 0 {
                    one.put(key, "odd");
                } else {
                    one.delete(key);
                }
                store.apply(one).unwrap();
            }
            if dice(3) == 0 {
                let mut writer = store.wal.writer.lock();
                let keep = [0, usize::MAX][dice(2) as usize];
                let mut checkpoint: Checkpoint<SledBase> = match frozen.take() {
                    Some(checkpoint) => checkpoint,
                    None => store.wal.freeze(&mut writer, keep).unwrap(),
                };
                checkpoint.step().unwrap();
                frozen = (!checkpoint.is_done()).then_some(checkpoint);
            }
            let pair = if dice(2) == 0 {
                scan.next()
            } else {
                scan.next_back()
            };
            let Some(pair) = pair else { break };
            let (key, value) = pair.unwrap();
            if let Some(expected) = untouched.get(&key) {
                assert_eq!(&value, expected);
            } else {
                assert_eq!(value, b"odd");
            }
            seen_keys.push(key);
        }
        seen_keys.sort();
        let mut once = seen_keys.clone();
        once.dedup();
        assert_eq!(seen_keys.len(), once.len(), "seed {seed}: a key came twice");
        let even: Vec<_> = seen_keys
            .into_iter()
            .filter(|key| untouched.contains_key(key))
            .collect();
        assert!(
            even.iter().eq(untouched.keys()),
            "seed {seed}: {} of {}",
            even.len(),
            untouched.len()
        );
    }
}

#[test]
fn a_scan_returns_the_values_current_when_it_reaches_them() {
    let home = tempdir().unwrap();
    let store = SledStore::open(home.path()).unwrap();
    store
        .apply(batch(&[("a", b"1"), ("b", b"1"), ("c", b"1"), ("d", b"1")]))
        .unwrap();
    store.checkpoint();
    let mut scan = store.scan(b"a", b"z");
    // The scan has read sled's pairs at both ends ahead.
    assert_eq!(scan.next().unwrap().unwrap().0, b"a");
    assert_eq!(scan.next_back().unwrap().unwrap().0, b"d");
    let mut batch = Batch::new();
    batch.delete("b");
    batch.put("c", "2");
    batch.put("bb", "2");
    store.apply(batch).unwrap();
    store.checkpoint();
    let rest: Vec<Pair> = scan.map(Result::unwrap).collect();
    assert_eq!(
        rest,
        [
            (b"bb".to_vec(), b"2".to_vec()),
            (b"c".to_vec(), b"2".to_vec())
        ]
    );
}

#[test]
fn readers_never_see_half_a_batch_or_an_older_value_while_checkpoints_run() {
    const KEYS: u64 = 40;
    const ROUNDS: u64 = 400;
    let home = tempdir().unwrap();
    // Small, so that a memtable is frozen every few batches.
    let store = SledStore::with_limit(home.path(), 20_000).unwrap();
    let write = |round: u64| {
        let mut batch = Batch::new();
        (0..KEYS).for_each(|n| batch.put(format!("{n:03}"), round.to_be_bytes()));
        // A key that exists only for one round.
        batch.delete(format!("x{:03}", round - 1));
        batch.put(format!("x{round:03}"), "");
        store.apply(batch).unwrap();
    };
    write(1);
    let done = AtomicBool::new(false);
    let read = || {
        let mut min_round = 1;
        while !done.load(Ordering::Acquire) {
            let pairs: Vec<Pair> = store.scan(b"0", b"1").map(Result::unwrap).collect();
            let rounds: Vec<u64> = pairs
                .iter()
                .map(|(_, value)| u64::from_be_bytes(value.as_slice().try_into().unwrap()))
                .collect();
            assert_eq!(rounds.len() as u64, KEYS);
            assert!(
                rounds.is_sorted() && rounds[0] >= min_round,
                "{min_round}: {rounds:?}"
            );
            min_round = *rounds.last().unwrap();
            let one = store.get(b"007").unwrap().unwrap();
            assert!(u64::from_be_bytes(one.try_into().unwrap()) >= min_round);
        }
    };
    std::thread::scope(|scope| {
        let readers = [scope.spawn(read), scope.spawn(read)];
        (2..=ROUNDS).for_each(write);
        done.store(true, Ordering::Release);
        for reader in readers {
            reader.join().unwrap();
        }
    });
    let rest: Vec<Pair> = store.scan(b"x", b"y").map(Result::unwrap).collect();
    assert_eq!(rest, [(format!("x{ROUNDS:03}").into_bytes(), vec![])]);
}
