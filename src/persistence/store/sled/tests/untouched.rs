//! A store that is refused stays as it was: no byte, name or mode in its directory changes.

use std::collections::BTreeMap;

use super::*;

/// Returns the content of a directory, by path.
fn contents(home: &Path) -> BTreeMap<PathBuf, (fs::Permissions, Vec<u8>)> {
    let mut all = BTreeMap::new();
    let mut directories = vec![home.to_owned()];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            let mode = fs::metadata(&path).unwrap().permissions();
            if path.is_dir() {
                directories.push(path.clone());
                all.insert(path, (mode, Vec::new()));
            } else {
                let bytes = fs::read(&path).unwrap();
                all.insert(path, (mode, bytes));
            }
        }
    }
    all
}

/// Checks that the store is refused twice, with the same error and without a change.
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

/// Creates a closed store in which sled has some records, the log has more, and the last session
/// has made a checkpoint.
fn with_checkpoints() -> TempDir {
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

/// The same, after another open: sled's snapshot matches its file.
fn settled() -> TempDir {
    let home = with_checkpoints();
    holds_kept(home.path());
    home
}

/// Creates a store whose process was killed while it was open.
fn killed() -> TempDir {
    let home = filled();
    let store = SledStore::open(home.path()).unwrap();
    store.apply(batch(&[("more", b"yes")])).unwrap();
    store.checkpoint();
    store.apply(batch(&[("most", b"yes")])).unwrap();
    store.sync(Durability::Process).unwrap();
    copy(home.path())
}

/// Returns the name of the segment that was begun last.
fn last_segment(home: &Path) -> String {
    let names = segments(home).into_iter();
    let names = names.map(|name| format!("wal/{}", name.display()));
    let generation = |name: &String| {
        let header = segment::SegmentHeader::of(&home.join(name)).unwrap();
        header.map(|header| header.generation)
    };
    names.max_by_key(generation).unwrap()
}

#[test]
fn a_store_with_a_log_of_a_later_version_is_left_untouched() {
    for home in [settled(), with_checkpoints(), killed()] {
        change(home.path(), &last_segment(home.path()), |header| {
            header[8] = segment::VERSION as u8 + 1;
            let crc = crc32fast::hash(&header[..32]);
            header[32..36].copy_from_slice(&crc.to_le_bytes());
        });
        expect_refused(home.path(), "UnsupportedVersion");
    }
}

#[test]
fn a_store_with_a_watermark_of_a_later_version_is_left_untouched() {
    for home in [settled(), with_checkpoints(), killed()] {
        change(home.path(), "wal/fence", |slots| {
            slots[..16].copy_from_slice(&watermark_file::encode(watermark_file::VERSION + 1, 99));
        });
        expect_refused(home.path(), "UnsupportedVersion");
    }
}

#[test]
fn a_store_with_a_damaged_file_is_left_untouched() {
    for (name, position) in [("", 20), ("", 4_100), ("sled/conf", 3)] {
        let home = settled();
        let last = last_segment(home.path());
        let name = if name.is_empty() { &last } else { name };
        change(home.path(), name, |bytes| bytes[position] ^= 1);
        expect_refused(home.path(), "Corrupt");
    }
    for name in ["wal/fence", "sled/db", "sled/.ready"] {
        let home = settled();
        fs::remove_file(home.path().join(name)).unwrap();
        expect_refused(home.path(), "Corrupt");
    }
}

#[test]
fn a_store_with_missing_commits_is_left_untouched() {
    let home = settled();
    change(home.path(), &last_segment(home.path()), |bytes| {
        bytes.truncate(4_200);
    });
    expect_refused(home.path(), "RolledBack");

    let older = rolled_back();
    // After this open, sled's snapshot matches its file, and the permissions are restricted.
    let _ = SledStore::open(older.path()).unwrap_err();
    expect_refused(older.path(), "RolledBack");
}

#[test]
fn a_store_of_another_engine_or_held_by_another_open_is_left_untouched() {
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
fn an_open_without_writes_leaves_the_store_untouched() {
    let home = settled();
    let before = contents(home.path());
    holds_kept(home.path());
    assert!(contents(home.path()) == before);
}
