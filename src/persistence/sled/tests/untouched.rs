//! A store that is refused is left as it was: not a byte, a name or a mode in its directory is another.

use std::collections::BTreeMap;

use super::*;

/// What is in a directory, at each path below it.
fn contents(home: &Path) -> BTreeMap<PathBuf, (fs::Permissions, Vec<u8>)> {
    let mut all = BTreeMap::new();
    let mut folders = vec![home.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let mode = fs::metadata(&path).unwrap().permissions();
            if path.is_dir() {
                folders.push(path.clone());
                all.insert(path, (mode, Vec::new()));
            } else {
                let bytes = fs::read(&path).unwrap();
                all.insert(path, (mode, bytes));
            }
        }
    }
    all
}

/// Refuses it twice, in the same way.
#[track_caller]
fn expect_refused(home: &Path, kind: &str) {
    let before = contents(home);
    for _ in 0..2 {
        let error = format!("{:?}", SledStore::open(home).unwrap_err());
        assert!(error.starts_with(kind), "{error}");
        let after = contents(home);
        let paths: std::collections::BTreeSet<_> = before.keys().chain(after.keys()).collect();
        for path in paths {
            assert!(before.get(path) == after.get(path), "{kind}: {path:?}");
        }
    }
}

/// A closed store, of which sled has something, the log has more, and the last life has checkpointed.
fn moved_on() -> TempDir {
    let home = filled();
    let store = SledStore::open(home.path()).unwrap();
    for n in 0..20_u8 {
        store
            .apply(batch(&[(&format!("k{n}"), &[n; 100])]))
            .unwrap();
        store.sync(Durability::Power).unwrap();
        if n % 5 == 2 {
            store.checkpoint();
        }
    }
    home
}

/// The same, after another open: sled's snapshot is of what its file holds.
fn settled() -> TempDir {
    let home = moved_on();
    holds_kept(home.path());
    home
}

/// A process that has it open is killed.
fn killed() -> TempDir {
    let home = filled();
    let store = SledStore::open(home.path()).unwrap();
    store.apply(batch(&[("more", b"yes")])).unwrap();
    store.checkpoint();
    store.apply(batch(&[("most", b"yes")])).unwrap();
    store.sync(Durability::Process).unwrap();
    copy(home.path())
}

/// The name of the one that was begun last.
fn last_segment(home: &Path) -> String {
    let names = segments(home).into_iter();
    let names = names.map(|name| format!("wal/{}", name.display()));
    let generation = |name: &String| {
        let head = segment::SegmentHeader::of(&home.join(name)).unwrap();
        head.map(|head| head.generation)
    };
    names.max_by_key(generation).unwrap()
}

#[test]
fn by_a_log_of_a_later_version_however_it_was_left() {
    for home in [settled(), moved_on(), killed()] {
        change(home.path(), &last_segment(home.path()), |head| {
            head[8] = segment::VERSION as u8 + 1;
            let crc = crc32fast::hash(&head[..32]);
            head[32..36].copy_from_slice(&crc.to_le_bytes());
        });
        expect_refused(home.path(), "UnsupportedVersion");
    }
}

#[test]
fn by_a_fence_of_a_later_version_however_it_was_left() {
    for home in [settled(), moved_on(), killed()] {
        change(home.path(), "wal/fence", |slots| {
            slots[..16].copy_from_slice(&watermark_file::encode(watermark_file::VERSION + 1, 99));
        });
        expect_refused(home.path(), "UnsupportedVersion");
    }
}

#[test]
fn by_damage_to_any_file_of_ours() {
    for (name, place) in [("", 20), ("", 4_100), ("sled/conf", 3)] {
        let home = settled();
        let last = last_segment(home.path());
        let name = if name.is_empty() { &last } else { name };
        change(home.path(), name, |bytes| bytes[place] ^= 1);
        expect_refused(home.path(), "Corrupt");
    }
    for name in ["wal/fence", "sled/db", "sled/.ready"] {
        let home = settled();
        fs::remove_file(home.path().join(name)).unwrap();
        expect_refused(home.path(), "Corrupt");
    }
}

#[test]
fn by_commits_that_are_missing() {
    let home = settled();
    change(home.path(), &last_segment(home.path()), |bytes| {
        bytes.truncate(4_200);
    });
    expect_refused(home.path(), "RolledBack");

    let older = rolled_back();
    // sled's snapshot is to be of what its file holds, and what was granted taken back.
    let _ = SledStore::open(older.path()).unwrap_err();
    expect_refused(older.path(), "RolledBack");
}

#[test]
fn by_another_engine_and_by_whoever_holds_it() {
    let home = tempdir().unwrap();
    let other = crate::persistence::RedbStore::open(home.path()).unwrap();
    expect_refused(home.path(), "Locked");
    drop(other);
    expect_refused(home.path(), "WrongEngine");

    let home = settled();
    let _held = SledStore::open(home.path()).unwrap();
    expect_refused(home.path(), "Locked");
}

#[test]
fn by_who_opens_it_and_writes_nothing() {
    let home = settled();
    let before = contents(home.path());
    holds_kept(home.path());
    assert!(contents(home.path()) == before);
}
