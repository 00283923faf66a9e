//! The conformance suite that every [`Store`] must pass.

use std::sync::atomic::{AtomicBool, Ordering};

use crate::persistence::store::{Batch, Durability, Pair, Store, StoreError};

/// Checks that a store keeps the contract of [`Store`]; panics with the broken rule if not.
///
/// `open` creates a new empty store each time; `reopen` closes a store cleanly and opens the same
/// data again. Whether data survives a crash cannot be checked from inside a process, and is not
/// checked here.
///
/// # Examples
/// ```
/// # use chordal::persistence::{conformance::conformance, MemoryStore};
/// conformance(MemoryStore::new, |store| store.clone());
/// ```
pub fn conformance<S: Store>(open: impl Fn() -> S, reopen: impl Fn(S) -> S) {
    reads_what_was_put(&open());
    applies_a_batch_in_order(&open());
    takes_empty_and_large_batches(&open());
    keeps_values_of_every_size(&open());
    scans_half_open_and_ascending(&open());
    scans_from_both_ends(&open());
    scans_prefixes_of_0xff(&open());
    scans_while_written(&open());
    never_shows_half_a_batch(&open());
    syncs_and_reopens(open(), reopen);
}

fn reads_what_was_put(store: &impl Store) {
    same("a new store is empty", get(store, b"k"), None);
    put(store, b"k", b"one");
    same(
        "a put is seen by the next get",
        get(store, b"k"),
        Some(b"one".to_vec()),
    );
    put(store, b"k", b"two");
    same(
        "a put replaces the value",
        get(store, b"k"),
        Some(b"two".to_vec()),
    );
    same("a prefix of a key is another key", get(store, b"kk"), None);
    let mut batch = Batch::new();
    batch.delete("k");
    batch.delete("never there");
    apply(store, batch);
    same("a deleted key is gone", get(store, b"k"), None);
}

fn applies_a_batch_in_order(store: &impl Store) {
    put(store, b"old", b"1");
    let mut batch = Batch::new();
    batch.put("new", "1");
    batch.delete("new");
    batch.delete("old");
    batch.put("old", "2");
    batch.put("twice", "1");
    batch.put("twice", "2");
    apply(store, batch);
    same("put then delete leaves nothing", get(store, b"new"), None);
    same(
        "delete then put leaves the value",
        get(store, b"old"),
        Some(b"2".to_vec()),
    );
    same(
        "of two puts the later wins",
        get(store, b"twice"),
        Some(b"2".to_vec()),
    );
}

fn takes_empty_and_large_batches(store: &impl Store) {
    apply(store, Batch::new());
    same("an empty batch changes nothing", all(store), vec![]);
    let mut batch = Batch::new();
    for n in 0..500_u32 {
        batch.put(n.to_be_bytes(), n.to_le_bytes());
    }
    apply(store, batch);
    let expected: Vec<Pair> = (0..500_u32)
        .map(|n| (n.to_be_bytes().to_vec(), n.to_le_bytes().to_vec()))
        .collect();
    same("a batch of 500 ops is applied whole", all(store), expected);
    let mut batch = Batch::new();
    for n in 0..500_u32 {
        batch.delete(n.to_be_bytes());
    }
    apply(store, batch);
    same("500 deletes leave nothing", all(store), vec![]);
}

fn keeps_values_of_every_size(store: &impl Store) {
    let sizes = [
        0, 1, 2, 127, 128, 255, 256, 4095, 4096, 4097, 7680, 7999, 8000,
    ];
    let sizes = || (0..8000).step_by(397).chain(sizes);
    let value = |size: usize| {
        (0..size)
            .map(|at| (at * 31 + size) as u8)
            .collect::<Vec<u8>>()
    };
    for size in sizes() {
        put(store, &(size as u32).to_be_bytes(), &value(size));
    }
    for size in sizes() {
        let found = get(store, &(size as u32).to_be_bytes());
        assert!(
            found == Some(value(size)),
            "store contract: a value of {size} bytes comes back"
        );
    }
}

fn scans_half_open_and_ascending(store: &impl Store) {
    for key in ["c", "a", "d", "b", "bb"] {
        put(store, key.as_bytes(), key.as_bytes());
    }
    let keys = |from: &str, to: &str| keys(store.scan(from.as_bytes(), to.as_bytes()));
    same(
        "a scan ascends and leaves `to` out",
        keys("a", "d"),
        list(&["a", "b", "bb", "c"]),
    );
    same(
        "bounds need not be keys",
        keys("aa", "bz"),
        list(&["b", "bb"]),
    );
    same("`from` is part of the range", keys("d", "e"), list(&["d"]));
    same("from = to is an empty range", keys("b", "b"), vec![]);
    same("from > to is an empty range", keys("d", "a"), vec![]);
    same("nothing in range gives nothing", keys("x", "z"), vec![]);
    let pair = store.scan(b"bb", b"c").next().map(must);
    same(
        "a scan gives the value",
        pair,
        Some((b"bb".to_vec(), b"bb".to_vec())),
    );
}

fn scans_from_both_ends(store: &impl Store) {
    let names: Vec<String> = (0..100).map(|n| format!("key-{n:03}")).collect();
    for name in &names {
        put(store, name.as_bytes(), b"");
    }
    let mut down = names.clone();
    down.reverse();
    same(
        "a scan walks down too",
        keys(store.scan(b"key-", b"key.").rev()),
        bytes(&down),
    );
    same(
        "`to` is left out when walking down",
        keys(store.scan(b"key-010", b"key-012").rev()),
        list(&["key-011", "key-010"]),
    );

    let mut scan = store.scan(b"key-", b"key.");
    let mut seen_keys = Vec::new();
    while let Some(front) = scan.next() {
        seen_keys.push(must(front).0);
        seen_keys.extend(scan.next_back().map(|back| must(back).0));
    }
    same(
        "both ends are spent when they meet",
        scan.next_back().is_none(),
        true,
    );
    seen_keys.sort();
    same("two ends meet with each key once", seen_keys, bytes(&names));
}

fn scans_prefixes_of_0xff(store: &impl Store) {
    let inside: [&[u8]; 4] = [
        b"p\xFF",
        b"p\xFF\x00",
        b"p\xFF\xFF",
        b"p\xFF\xFF\xFF\xFF\xFF",
    ];
    let outside: [&[u8]; 4] = [b"p", b"p\xFE\xFF", b"q", b"\xFF\xFF\xFF"];
    for key in inside.into_iter().chain(outside) {
        put(store, key, b"");
    }
    let up: Vec<Vec<u8>> = inside.iter().map(|key| key.to_vec()).collect();
    same(
        "a prefix that ends in 0xFF is found whole",
        keys(store.scan(b"p\xFF", b"q")),
        up.clone(),
    );
    let down: Vec<Vec<u8>> = up.into_iter().rev().collect();
    same(
        "and downwards",
        keys(store.scan(b"p\xFF", b"q").rev()),
        down,
    );
    let last = keys(store.scan(b"\xFF", &[0xFF; 9]));
    same(
        "keys of 0xFF only are found",
        last,
        vec![b"\xFF\xFF\xFF".to_vec()],
    );
}

fn scans_while_written(store: &impl Store) {
    let name = |n: u32| format!("{n:04}").into_bytes();
    for n in 0..100 {
        put(store, &name(2 * n), b"");
    }
    // Between any two steps a key appears behind the scan and one ahead of it, and the key just
    // read is deleted.
    let mut seen_keys = Vec::new();
    for pair in store.scan(&name(0), &name(200)) {
        let (key, _) = must(pair);
        let n: u32 = String::from_utf8_lossy(&key).parse().unwrap_or(u32::MAX);
        let mut batch = Batch::new();
        batch.delete(key);
        batch.put(name(n.saturating_sub(1)), "behind");
        batch.put(name(500 + n), "ahead, out of range");
        apply(store, batch);
        seen_keys.push(n);
    }
    let even: Vec<u32> = (0..100).map(|n| 2 * n).collect();
    same(
        "keys not yet reached come once each while others change",
        seen_keys,
        even,
    );
}

fn never_shows_half_a_batch(store: &impl Store) {
    const ROUNDS: u64 = 300;
    // The keys are far apart, so that a tree keeps them in different nodes.
    for n in 0..200_u32 {
        put(store, format!("m-{n:04}").as_bytes(), b"filler");
    }
    let names: [&[u8]; 3] = [b"a", b"m-0100x", b"z"];
    let write = |round: u64| {
        let mut batch = Batch::new();
        for name in names {
            batch.put(name, round.to_be_bytes());
        }
        apply(store, batch);
    };
    write(0);
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            (1..=ROUNDS).for_each(write);
            done.store(true, Ordering::Release);
        });
        // Of two reads the later one returns the same batch or a later one, in either order of
        // reading; half a batch breaks one of the orders.
        let read = |name: &&[u8]| get(store, name).map(round);
        let mut last_pass = false;
        while !last_pass {
            last_pass = done.load(Ordering::Acquire);
            for seen in [
                names.iter().map(read).collect::<Vec<_>>(),
                names.iter().rev().map(read).collect(),
                named(store.scan(b"a", b"zz"), &names),
                named(store.scan(b"a", b"zz").rev(), &names),
            ] {
                assert!(
                    seen.len() == 3 && seen.is_sorted(),
                    "store contract: a reader never sees half a batch, but saw rounds {seen:?}"
                );
            }
        }
    });
    for name in names {
        same(
            "the last batch is there",
            get(store, name).map(round),
            Some(ROUNDS),
        );
    }
}

fn syncs_and_reopens<S: Store>(mut store: S, reopen: impl Fn(S) -> S) {
    let mut expected = Vec::new();
    for (name, durability) in [
        ("a", Durability::Power),
        ("b", Durability::Process),
        ("c", Durability::Buffered),
    ] {
        put(&store, name.as_bytes(), b"kept");
        must(store.sync(durability));
        must(store.sync(durability));
        expected.push((name.as_bytes().to_vec(), b"kept".to_vec()));
        store = reopen(store);
        same(
            "a clean reopen keeps what was synced",
            all(&store),
            expected.clone(),
        );
    }
    put(&store, b"d", b"never synced");
    let mut batch = Batch::new();
    batch.delete("a");
    apply(&store, batch);
    store = reopen(store);
    same(
        "a clean reopen keeps what was not",
        get(&store, b"d"),
        Some(b"never synced".to_vec()),
    );
    same("deletes are kept too", get(&store, b"a"), None);
}

fn named(
    scan: impl Iterator<Item = Result<Pair, StoreError>>,
    names: &[&[u8]],
) -> Vec<Option<u64>> {
    scan.map(must)
        .filter(|(key, _)| names.contains(&key.as_slice()))
        .map(|(_, value)| Some(round(value)))
        .collect()
}

fn round(value: Vec<u8>) -> u64 {
    u64::from_be_bytes(
        value
            .try_into()
            .expect("store contract: a value keeps its length"),
    )
}

fn get(store: &impl Store, key: &[u8]) -> Option<Vec<u8>> {
    must(store.get(key))
}

fn put(store: &impl Store, key: &[u8], value: &[u8]) {
    let mut batch = Batch::new();
    batch.put(key, value);
    apply(store, batch);
}

fn apply(store: &impl Store, batch: Batch) {
    must(store.apply(batch));
}

fn all(store: &impl Store) -> Vec<Pair> {
    store.scan(b"\0", &[0xFF; 32]).map(must).collect()
}

fn keys(scan: impl Iterator<Item = Result<Pair, StoreError>>) -> Vec<Vec<u8>> {
    scan.map(|pair| must(pair).0).collect()
}

fn list(names: &[&str]) -> Vec<Vec<u8>> {
    names.iter().map(|name| name.as_bytes().to_vec()).collect()
}

fn bytes(names: &[String]) -> Vec<Vec<u8>> {
    names.iter().map(|name| name.as_bytes().to_vec()).collect()
}

#[track_caller]
fn same<T: PartialEq + std::fmt::Debug>(rule: &str, found: T, expected: T) {
    assert!(
        found == expected,
        "store contract: {rule}\n    found {found:?}\n expected {expected:?}"
    );
}

#[track_caller]
fn must<T>(result: Result<T, StoreError>) -> T {
    result.unwrap_or_else(|error| panic!("store contract: no errors on a sound disk: {error:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicU64;

    use crate::persistence::{MemoryStore, Op, Scan};

    /// Applies each operation by itself: the fault that the suite must detect.
    #[derive(Debug)]
    struct Torn {
        store: MemoryStore,
        reads: AtomicU64,
    }

    impl Store for Torn {
        fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
            self.reads.fetch_add(1, Ordering::SeqCst);
            self.store.get(key)
        }
        fn scan(&self, from: &[u8], to: &[u8]) -> Scan<'_> {
            self.store.scan(from, to)
        }
        fn apply(&self, batch: Batch) -> Result<(), StoreError> {
            for op in batch {
                let mut one = Batch::new();
                match op {
                    Op::Put(key, value) => one.put(key, value),
                    Op::Delete(key) => one.delete(key),
                }
                self.store.apply(one)?;
                // Waits until a reader has read all keys, if there is a reader.
                let target = self.reads.load(Ordering::SeqCst) + 12;
                for _ in 0..10_000 {
                    if self.reads.load(Ordering::SeqCst) >= target {
                        break;
                    }
                    std::thread::yield_now();
                }
            }
            Ok(())
        }
        fn sync(&self, durability: Durability) -> Result<(), StoreError> {
            self.store.sync(durability)
        }
    }

    #[test]
    #[should_panic(expected = "never sees half a batch")]
    fn the_suite_detects_a_store_that_tears_batches() {
        never_shows_half_a_batch(&Torn {
            store: MemoryStore::new(),
            reads: AtomicU64::new(0),
        });
    }
}
