use std::fs;

use tempfile::{TempDir, tempdir};

use super::*;
use crate::persistence::fault_tests::copy;
use crate::persistence::store::Holder;
use crate::persistence::store::conformance::conformance;
use crate::persistence::store::fs::watermark;
use crate::persistence::{MemoryStore, Pair, SledStore};

mod disk;

fn batch(pairs: &[(&str, &[u8])]) -> Batch {
    let mut batch = Batch::new();
    pairs
        .iter()
        .for_each(|(key, value)| batch.put(*key, *value));
    batch
}

/// Creates a closed store that holds `kept`.
fn filled() -> TempDir {
    let home = tempdir().unwrap();
    let store = RedbStore::open(home.path()).unwrap();
    store.apply(batch(&[("kept", b"yes")])).unwrap();
    store.sync(Durability::Power).unwrap();
    home
}

impl RedbStore {
    fn all(&self) -> Result<Vec<Pair>, StoreError> {
        self.scan(b"\0", &[0xFF; 32]).collect()
    }
}

#[track_caller]
fn holds_kept(home: &Path) {
    let store = RedbStore::open(home).unwrap();
    assert_eq!(store.get(b"kept").unwrap().as_deref(), Some(&b"yes"[..]));
}

#[test]
fn redb_keeps_the_contract() {
    let homes = Mutex::new(Vec::new());
    let open = || {
        let home = tempdir().unwrap();
        let store = RedbStore::open(home.path()).unwrap();
        homes.lock().push(home);
        store
    };
    conformance(open, |store| {
        let home = store.path().to_owned();
        drop(store);
        RedbStore::open(home).unwrap()
    });
}

#[test]
fn a_second_open_names_the_holder_of_the_lock() {
    let home = tempdir().unwrap();
    let store = RedbStore::open(home.path()).unwrap();
    match RedbStore::open(home.path()) {
        Err(StoreError::Locked { path, holder }) => {
            assert_eq!(path, home.path().canonicalize().unwrap());
            assert_eq!(holder, Holder::ThisProcess);
        }
        other => panic!("{other:?}"),
    }
    store.apply(batch(&[("k", b"v")])).unwrap();
    store.sync(Durability::Power).unwrap();
}

#[test]
fn a_store_of_the_other_engine_is_refused_and_left_untouched() {
    let home = filled();
    let error = SledStore::open(home.path()).unwrap_err();
    assert!(matches!(
        error,
        StoreError::WrongEngine {
            found: "redb",
            asked: "sled",
            ..
        }
    ));
    assert!(!home.path().join("sled").exists());
    holds_kept(home.path());

    let home = tempdir().unwrap();
    drop(SledStore::open(home.path()).unwrap());
    let error = RedbStore::open(home.path()).unwrap_err();
    assert!(error.to_string().ends_with("was made by sled, not by redb"));
    assert!(!home.path().join("redb").exists());
}

#[test]
fn an_interrupted_first_open_starts_anew() {
    let home = tempdir().unwrap();
    let dir = home.path().join("redb");
    fs::create_dir_all(&dir).unwrap();
    for (name, bytes) in [
        (".creating", &b""[..]),
        ("db", b"redb\x1a\x0a"),
        ("fence", b""),
    ] {
        fs::write(dir.join(name), bytes).unwrap();
    }
    let store = RedbStore::open(home.path()).unwrap();
    store.apply(batch(&[("kept", b"yes")])).unwrap();
    drop(store);
    assert!(dir.join(".ready").exists() && !dir.join(".creating").exists());
    holds_kept(home.path());
}

#[test]
fn a_directory_without_our_mark_is_left_untouched() {
    let home = filled();
    let dir = home.path().join("redb");
    fs::remove_file(dir.join(".ready")).unwrap();
    let before = fs::read(dir.join("db")).unwrap();
    let error = RedbStore::open(home.path()).unwrap_err();
    assert!(matches!(&error, StoreError::Corrupt { what, .. } if what.contains("untouched")));
    assert_eq!(fs::read(dir.join("db")).unwrap(), before);
}

#[test]
fn a_missing_file_is_not_taken_for_a_new_store() {
    for (name, is_removed) in [
        ("db", true),
        ("db", false),
        ("fence", true),
        ("fence", false),
    ] {
        let home = filled();
        let path = home.path().join("redb").join(name);
        if is_removed {
            fs::remove_file(&path).unwrap();
        } else {
            fs::write(&path, b"").unwrap();
        }
        let error = RedbStore::open(home.path()).unwrap_err();
        assert!(matches!(error, StoreError::Corrupt { .. }), "{error:?}");
    }
}

#[test]
fn an_older_copy_of_the_file_and_a_new_file_are_refused() {
    let home = filled();
    let new = tempdir().unwrap();
    drop(RedbStore::open(new.path()).unwrap());
    let old = copy(home.path());
    let store = RedbStore::open(home.path()).unwrap();
    store.apply(batch(&[("more", b"yes")])).unwrap();
    drop(store);
    for (other, kind) in [(&old, "RolledBack"), (&new, "WrongStore")] {
        let mixed = copy(home.path());
        fs::copy(other.path().join("redb/db"), mixed.path().join("redb/db")).unwrap();
        let error = format!("{:?}", RedbStore::open(mixed.path()).unwrap_err());
        assert!(error.starts_with(kind), "{error}");
    }
    // An older watermark misses nothing.
    fs::copy(
        old.path().join("redb/fence"),
        home.path().join("redb/fence"),
    )
    .unwrap();
    holds_kept(home.path());
}

#[test]
fn a_commit_that_a_crash_undid_before_its_watermark_is_no_loss() {
    let home = filled();
    let store = RedbStore::open(home.path()).unwrap();
    store.apply(batch(&[("unsynced", b"yes")])).unwrap();
    // The state after a kill in the middle of the next commit.
    let killed = copy(home.path());
    store.sync(Durability::Power).unwrap();
    let fence = fs::read(home.path().join("redb/fence")).unwrap();
    let acked = copy(home.path());
    drop(store);
    let store = RedbStore::open(killed.path()).unwrap();
    assert_eq!(store.all().unwrap().len(), 1);
    drop(store);
    let store = RedbStore::open(acked.path()).unwrap();
    assert_eq!(store.all().unwrap().len(), 2);
    assert_eq!(fs::read(acked.path().join("redb/fence")).unwrap(), fence);
}

#[test]
fn unsynced_batches_are_lost_in_a_crash_and_kept_by_a_clean_stop() {
    for durability in [Durability::Buffered, Durability::Process] {
        let home = filled();
        let store = RedbStore::open(home.path()).unwrap();
        store.apply(batch(&[("more", b"yes")])).unwrap();
        store.sync(durability).unwrap();
        let killed = copy(home.path());
        drop(store);
        let of = |home: &TempDir| RedbStore::open(home.path()).unwrap().all().unwrap().len();
        // A kill leaves what the kernel has: nothing of a commit that is not fsynced.
        let kept = if durability == Durability::Buffered {
            1
        } else {
            2
        };
        assert_eq!((of(&killed), of(&home)), (kept, 2), "{durability:?}");
    }
}

#[test]
fn a_store_of_a_later_version_is_left_untouched() {
    let home = filled();
    let dir = home.path().join("redb");
    let mut slots = fs::read(dir.join("fence")).unwrap();
    let later = watermark::VERSION + 1;
    slots[..16].copy_from_slice(&watermark::encode(later, 9));
    fs::write(dir.join("fence"), slots).unwrap();
    let before = fs::read(dir.join("db")).unwrap();
    let error = RedbStore::open(home.path()).unwrap_err();
    assert!(
        matches!(
            error,
            StoreError::UnsupportedVersion { found, supported: watermark::VERSION, .. } if found == later
        ),
        "{error:?}"
    );
    assert_eq!(fs::read(dir.join("db")).unwrap(), before);
}

#[test]
fn a_scan_returns_writes_ahead_of_it_and_blocks_no_writer() {
    let home = tempdir().unwrap();
    let store = RedbStore::open(home.path()).unwrap();
    store
        .apply(batch(&[("a", b"1"), ("b", b"1"), ("d", b"1"), ("e", b"1")]))
        .unwrap();
    let mut scan = store.scan(b"a", b"z");
    assert_eq!(scan.next().unwrap().unwrap().0, b"a");
    assert_eq!(scan.next_back().unwrap().unwrap().0, b"e");
    let mut writes = batch(&[("a", b"2"), ("c", b"2"), ("d", b"2"), ("f", b"2")]);
    writes.delete("b");
    store.apply(writes).unwrap();
    store.sync(Durability::Power).unwrap();
    let rest: Vec<Pair> = scan.map(Result::unwrap).collect();
    let expected = [("c", "2"), ("d", "2")].map(|(key, value)| (key.into(), value.into()));
    assert_eq!(rest, expected);
}

/// Returns the size of redb's file.
fn size(home: &TempDir) -> u64 {
    fs::metadata(home.path().join("redb/db")).unwrap().len()
}

/// Puts 4 MB, or deletes all but a few of these records.
fn fill(store: &RedbStore, is_put: bool) {
    for n in 0..50 {
        let mut batch = Batch::new();
        for name in (n * 20..n * 20 + 20).map(|n: u32| format!("fill-{n:03}")) {
            match is_put {
                true => batch.put(name, vec![n as u8; 4_000]),
                false if name.ends_with("00") => {}
                false => batch.delete(name),
            }
        }
        store.apply(batch).unwrap();
        store.sync(Durability::Power).unwrap();
    }
}

#[test]
fn free_space_is_reused_while_the_store_is_open_and_released_at_the_next_open() {
    let home = tempdir().unwrap();
    let store = RedbStore::open(home.path()).unwrap();
    fill(&store, true);
    let first = size(&home);
    for _ in 0..4 {
        fill(&store, false);
        fill(&store, true);
    }
    assert!(size(&home) <= 2 * first, "{} after {first}", size(&home));
    fill(&store, false);
    let before = store.all().unwrap();
    // The state that a killed process leaves.
    let home = copy(home.path());
    assert!(size(&home) >= 4 << 20, "{}", size(&home));
    let store = RedbStore::open(home.path()).unwrap();
    assert!(store.all().unwrap() == before);
    assert!(size(&home) < 1 << 20, "{}", size(&home));
}

#[cfg(unix)]
#[test]
fn only_the_owner_has_access() {
    use std::os::unix::fs::PermissionsExt;
    let home = tempdir().unwrap();
    let deep = home.path().join("a/b");
    drop(RedbStore::open(&deep).unwrap());
    for (name, mode) in [
        ("", 0o700),
        ("LOCK", 0o600),
        ("redb", 0o700),
        ("redb/db", 0o600),
        ("redb/fence", 0o600),
    ] {
        let found = fs::metadata(deep.join(name)).unwrap().permissions().mode() & 0o777;
        assert_eq!(found, mode, "{name}");
    }
}

#[test]
fn debug_of_a_redb_store_never_shows_contents() {
    let home = tempdir().unwrap();
    let store = RedbStore::open(home.path()).unwrap();
    store.apply(batch(&[("canary", b"canary")])).unwrap();
    assert!(!format!("{store:?}").contains("canary"));
}

#[cfg(unix)]
#[test]
fn after_a_file_is_deleted_nothing_more_is_acknowledged() {
    for name in ["", "redb/db", "redb/fence"] {
        let all = tempdir().unwrap();
        let home = all.path().join("data");
        let store = RedbStore::open(&home).unwrap();
        store.apply(batch(&[("kept", b"yes")])).unwrap();
        store.sync(Durability::Power).unwrap();
        match name {
            "" => fs::remove_dir_all(&home).unwrap(),
            name => fs::remove_file(home.join(name)).unwrap(),
        }
        store.apply(batch(&[("lost", b"x")])).unwrap();
        let error = store.sync(Durability::Power).unwrap_err();
        assert!(matches!(&error, StoreError::Moved { .. }), "{error:?}");
        let next = store.sync(Durability::Power);
        assert!(matches!(next, Err(StoreError::Poisoned(_))));
    }
}

#[cfg(unix)]
#[test]
fn a_store_whose_directory_was_renamed_continues_in_its_own_files() {
    let all = tempdir().unwrap();
    let (home, moved) = (all.path().join("data"), all.path().join("moved"));
    let store = RedbStore::open(&home).unwrap();
    fs::rename(&home, &moved).unwrap();
    let other = RedbStore::open(&home).unwrap();
    store.apply(batch(&[("kept", b"yes")])).unwrap();
    store.sync(Durability::Power).unwrap();
    drop((store, other));
    holds_kept(&moved);
    assert_eq!(RedbStore::open(&home).unwrap().all().unwrap(), []);
}

#[cfg(unix)]
#[test]
fn a_symbolic_link_in_the_place_of_a_file_of_the_store_is_refused() {
    use std::os::unix::fs::symlink;
    for name in ["LOCK", "redb", "redb/db", "redb/fence", "redb/.ready"] {
        let home = filled();
        let elsewhere = tempdir().unwrap();
        let (link, target) = (home.path().join(name), elsewhere.path().join("target"));
        fs::rename(&link, &target).unwrap();
        symlink(&target, &link).unwrap();
        let error = RedbStore::open(home.path()).unwrap_err().to_string();
        assert!(
            error.contains("symbolic link") && error.contains(name),
            "{error}"
        );
        fs::remove_file(&link).unwrap();
        fs::rename(&target, &link).unwrap();
        holds_kept(home.path());
    }
}

/// Commits go on while the copy is made, and it holds the records of one moment.
#[test]
fn a_backup_equals_the_store_after_one_batch_while_writes_continue() {
    let home = tempdir().unwrap();
    let store = RedbStore::open(home.path()).unwrap();
    let round = |n: u64| {
        let mut batch = Batch::new();
        for key in 0..20_u64 {
            batch.put(format!("{:03}", (n * 7 + key * 13) % 200), n.to_be_bytes());
        }
        batch.put(format!("large {}", n % 50), vec![n as u8; 7_000]);
        batch.put("round", n.to_be_bytes());
        batch
    };
    let number = |bytes: Vec<u8>| u64::from_be_bytes(bytes.try_into().unwrap());
    let is_done = std::sync::atomic::AtomicBool::new(false);
    let mut copies = Vec::new();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for n in 1.. {
                store.apply(round(n)).unwrap();
                store.sync(Durability::Buffered).unwrap();
                if is_done.load(Ordering::Acquire) {
                    break;
                }
            }
        });
        for copy in 0..8 {
            let known = store.get(b"round").unwrap().map_or(0, number);
            let to = home.path().join(format!("copy {copy}"));
            store.backup(&to).unwrap();
            copies.push((known, to));
        }
        is_done.store(true, Ordering::Release);
    });
    for (known, to) in copies {
        let copy = RedbStore::open(&to).unwrap();
        let last = copy.get(b"round").unwrap().map_or(0, number);
        assert!(last >= known, "{last} of {known}");
        let reference = MemoryStore::new();
        (1..=last).for_each(|n| reference.apply(round(n)).unwrap());
        let all: Vec<Pair> = reference
            .scan(b"\0", &[0xFF; 32])
            .map(Result::unwrap)
            .collect();
        assert!(copy.all().unwrap() == all, "after {last}");
        drop(copy);
        // A store like any other, also after its first session.
        let copy = RedbStore::open(&to).unwrap();
        copy.apply(batch(&[("kept", b"yes")])).unwrap();
        drop(copy);
        holds_kept(&to);
    }
}

#[test]
fn a_backup_has_an_id_of_its_own_and_goes_nowhere_where_something_is() {
    let home = filled();
    let store = RedbStore::open(home.path()).unwrap();
    let to = home.path().join("copy");
    store.backup(&to).unwrap();
    let error = store.backup(&to).unwrap_err();
    assert!(error.to_string().contains("copy"), "{error}");
    drop(store);
    holds_kept(&to);
    fs::copy(home.path().join("redb/fence"), to.join("redb/fence")).unwrap();
    let error = RedbStore::open(&to).unwrap_err();
    assert!(matches!(error, StoreError::WrongStore { .. }), "{error:?}");
}
