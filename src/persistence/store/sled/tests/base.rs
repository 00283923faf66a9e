//! sled under the log: what it must not do, and what is detected when its file is damaged.

use super::*;

/// Creates a closed store of 60 records, the last of which were checkpointed one by one; returns
/// its records, too.
fn checkpointed() -> (TempDir, Vec<Pair>) {
    let home = filled();
    let store = SledStore::open(home.path()).unwrap();
    for n in 0..60 {
        let name = format!("k{n:02}");
        store.apply(batch(&[(&name, &[n; 300])])).unwrap();
        if n >= 50 {
            store.checkpoint();
        }
    }
    let all = store.all().unwrap();
    (home, all)
}

#[test]
fn a_damaged_base_is_never_served_and_never_panics() {
    let (home, expected) = checkpointed();
    let db = home.path().join("sled/db");
    let sound = fs::read(&db).unwrap();
    let used = sound.iter().rposition(|byte| *byte != 0).unwrap();
    let (mut noticed, mut rolled_back) = (0, 0);
    for seed in 0..80_u64 {
        let mut bytes = sound.clone();
        match seed {
            0 => bytes[..4096].fill(0),
            1 => bytes.truncate(100),
            2..12 => {
                // With and without the header of sled's first segment, in shrinking spans.
                let from = [0, 20, 900][seed as usize % 3];
                let span = &mut bytes[from..][..4096 >> seed];
                for (byte, noise) in span.iter_mut().zip(noise(seed)) {
                    *byte = (noise >> 24) as u8;
                }
            }
            // One bit anywhere.
            _ => {
                let position = noise(seed).nth(9).unwrap() as usize;
                bytes[position / 8 % used] ^= 1 << (position % 8);
            }
        }
        let copy = copy(home.path());
        fs::write(copy.path().join("sled/db"), bytes).unwrap();
        // Without its snapshots, sled reads its log from the start.
        for name in files::list(&copy.path().join("sled")).unwrap() {
            if seed.is_multiple_of(2) && name.to_string_lossy().starts_with("snap.") {
                fs::remove_file(copy.path().join("sled").join(name)).unwrap();
            }
        }
        match SledStore::open(copy.path()).and_then(|store| store.all()) {
            Ok(found) => assert!(found == expected, "silently lost, seed {seed}"),
            Err(StoreError::Corrupt { .. }) => noticed += 1,
            Err(StoreError::RolledBack { .. }) => rolled_back += 1,
            Err(error) => panic!("{error:?}"),
        }
    }
    assert!(noticed > 0 && rolled_back > 0, "{noticed}, {rolled_back}");
}

#[test]
fn an_older_copy_of_the_base_is_refused() {
    let new = rolled_back();
    let error = SledStore::open(new.path()).unwrap_err();
    let StoreError::RolledBack {
        expected, found, ..
    } = error
    else {
        panic!("{error:?}");
    };
    assert!(found < expected, "{found} {expected}");
}

#[test]
fn a_base_that_has_lost_its_mark_is_refused() {
    let home = filled();
    let new = tempdir().unwrap();
    drop(SledStore::open(new.path()).unwrap());
    fs::remove_dir_all(home.path().join("sled")).unwrap();
    fs::create_dir(home.path().join("sled")).unwrap();
    let error = SledStore::open(home.path()).unwrap_err();
    assert!(
        matches!(error, StoreError::RolledBack { found: 0, .. }),
        "{error:?}"
    );
}

#[test]
fn a_store_from_before_the_log_existed_opens() {
    let home = tempdir().unwrap();
    let base = SledBase::open(home.path()).unwrap();
    base.write([(&b"kept"[..], Some(&b"yes"[..]))]).unwrap();
    base.settle().unwrap();
    drop(base);
    holds_kept(home.path());
    holds_kept(home.path());
}

#[test]
fn records_up_to_8_kb_never_go_to_blob_files() {
    let home = tempdir().unwrap();
    let store = SledStore::open(home.path()).unwrap();
    let mut noise = noise(1);
    let mut live = Vec::new();
    for round in 0..400 {
        let mut batch = Batch::new();
        for _ in 0..8 {
            let key = noise.next().unwrap();
            batch.put(format!("some-prefix-{key:016x}"), vec![key as u8; 8000]);
            live.push(key);
            if live.len() > 120 {
                // Deletes in between make sled merge nodes: these are the largest nodes.
                let gone = live.swap_remove(noise.next().unwrap() as usize % live.len());
                batch.delete(format!("some-prefix-{gone:016x}"));
            }
        }
        store.apply(batch).unwrap();
        if round % 2 == 0 {
            store.checkpoint();
        }
        assert!(
            files::list(&home.path().join("sled/blobs"))
                .unwrap()
                .is_empty()
        );
    }
}

/// The premise of H13: sled overwrites a segment when the third segment after its replacement is
/// begun, so the log must not be ahead of the disk by more than two segments.
#[test]
fn no_entry_takes_sleds_log_more_than_one_segment_past_the_last_settled_one() {
    let home = tempdir().unwrap();
    let base = SledBase::open(home.path()).unwrap();
    let mut noise = noise(3).map(|noise| noise >> 9);
    let (mut furthest, mut segments) = (0, 0);
    for n in 0..6_000_u64 {
        // The largest nodes beside the smallest, in turn over all keys: small writes make sled move
        // large nodes.
        let key = noise.next().unwrap() % 1_500;
        let (key, value) = match n % 3 {
            0 => (format!("large-{:04}", key % 300), vec![n as u8; 7_900]),
            1 => (format!("small-{key:04}"), vec![n as u8; 60]),
            _ => (format!("large-{:04}", (key + n) % 300), Vec::new()),
        };
        let entry = (key.as_bytes(), (!value.is_empty()).then_some(&value[..]));
        let before = base.settled.load(Ordering::Acquire);
        let after = base.put(entry).unwrap();
        furthest = furthest.max(after - before);
        if after > before {
            base.settle().unwrap();
            segments += 1;
        }
    }
    assert!(segments > 20, "{segments}");
    assert!(furthest <= 1, "{furthest}");
}

#[test]
fn sled_is_settled_in_each_segment_of_its_log() {
    let home = tempdir().unwrap();
    let base = SledBase::open(home.path()).unwrap();
    let first = base.settled.load(Ordering::Acquire);
    let value = [7; 7_900];
    let keys: Vec<String> = (0..500).map(|n| format!("{n:04}")).collect();
    let entries = keys.iter().map(|key| (key.as_bytes(), Some(&value[..])));
    base.write(entries).unwrap();
    let end = base.flush().unwrap();
    assert!(end > first + 3, "{first} {end}");
    assert_eq!(base.settled.load(Ordering::Acquire), end);
}

#[test]
fn a_blob_file_is_synced_twice_and_then_left_alone() {
    let home = tempdir().unwrap();
    let base = SledBase::open(home.path()).unwrap();
    base.write([(&b"large"[..], Some(&[7; 300_000][..]))])
        .unwrap();
    let settled = || -> Vec<bool> {
        base.settle().unwrap();
        base.disk.lock().seen.values().copied().collect()
    };
    assert_eq!(
        (settled(), settled(), settled()),
        (vec![false], vec![true], vec![true])
    );
}
