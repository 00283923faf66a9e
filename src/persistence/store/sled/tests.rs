use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use parking_lot::{Mutex, MutexGuard};
use tempfile::{TempDir, tempdir};

use super::*;
use crate::persistence::fault_tests::{copy, noise};
use crate::persistence::store::Holder;
use crate::persistence::store::conformance::conformance;
use crate::persistence::store::fs::watermark as watermark_file;
use crate::persistence::store::wal;
use crate::persistence::store::wal::base::Mark;
use crate::persistence::store::wal::checkpoint::{Checkpoint, Ended};
use crate::persistence::store::wal::{POSTPONED_LIMITS, Writer, frame, join, replay, segment};
use crate::persistence::{MemoryStore, Op, Pair, verify_directory};

mod backup;
mod base;
mod checkpoint;
#[cfg(target_os = "linux")]
mod full;
mod identity;
#[cfg(unix)]
mod links;
mod log;
#[cfg(unix)]
mod place;
mod salvage;
mod scan;
#[cfg(unix)]
mod shortage;
mod untouched;
mod verify;
mod watermark;
#[cfg(unix)]
mod without;

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
    let store = SledStore::open(home.path()).unwrap();
    store.apply(batch(&[("kept", b"yes")])).unwrap();
    store.sync(Durability::Power).unwrap();
    home
}

/// Creates a closed store of three records whose sled files are a copy from when it had one record.
fn rolled_back() -> TempDir {
    let home = filled();
    let store = SledStore::open(home.path()).unwrap();
    store.checkpoint();
    let old = copy(home.path());
    for name in ["one", "two"] {
        store.apply(batch(&[(name, b"more")])).unwrap();
        store.checkpoint();
    }
    let new = copy(home.path());
    fs::remove_dir_all(new.path().join("sled")).unwrap();
    fs::rename(old.path().join("sled"), new.path().join("sled")).unwrap();
    new
}

/// Returns the names of the files of the log, except for the watermark.
fn segments(home: &Path) -> Vec<std::ffi::OsString> {
    let mut names = files::list(&home.join("wal")).unwrap();
    names.retain(|name| name != "fence");
    names.sort();
    names
}

/// Turns a closed store into one of a version without ids: with this version in the headers of its
/// segments, and without ids in its watermark and in sled.
fn make_older(home: &Path, version: u8) {
    for name in segments(home) {
        change(home, &format!("wal/{}", name.display()), |bytes| {
            bytes[8] = version;
            let crc = crc32fast::hash(&bytes[..32]);
            bytes[32..36].copy_from_slice(&crc.to_le_bytes());
            bytes[36..56].fill(0);
        });
    }
    change(home, "wal/fence", |slots| {
        for offset in [0, 4_096] {
            let number = u64::from_le_bytes(slots[offset + 8..offset + 16].try_into().unwrap());
            slots[offset..offset + 16].copy_from_slice(&watermark_file::encode(1, number));
            slots[offset + 16..offset + 36].fill(0);
        }
    });
    SledBase::open(home).unwrap().forget_identity();
}

fn change(home: &Path, name: &str, change: impl Fn(&mut Vec<u8>)) {
    let path = home.join(name);
    let mut bytes = fs::read(&path).unwrap();
    change(&mut bytes);
    fs::write(path, bytes).unwrap();
}

/// Runs a checkpoint; returns the file that it frees.
fn free(checkpoint: Checkpoint<SledBase>) -> Option<PathBuf> {
    match checkpoint.run() {
        Ended::Free(free) => free,
        Ended::Postponed(_, error) => panic!("{error}"),
    }
}

impl SledStore {
    /// Makes sled take all entries of the log.
    fn checkpoint(&self) {
        let mut writer = self.wal.writer.lock();
        let mut checkpoint = self.wal.freeze(&mut writer, 0).unwrap();
        while !checkpoint.is_done() {
            checkpoint.step().unwrap();
        }
        writer.log.reuse(free(checkpoint));
    }

    /// Returns whether a checkpoint is postponed by a shortage.
    pub(in crate::persistence) fn has_postponed_checkpoint(&self) -> bool {
        self.wal.writer.lock().shortage.is_some()
    }

    /// Returns the writer, ready for a first frame.
    fn begun(&self) -> MutexGuard<'_, Writer<SledBase>> {
        let mut writer = self.wal.writer.lock();
        self.wal.begin(&mut writer).unwrap();
        writer
    }

    fn all(&self) -> Result<Vec<Pair>, StoreError> {
        self.scan(b"\0", &[0xFF; 32]).collect()
    }
}

#[track_caller]
fn holds_kept(home: &Path) {
    let store = SledStore::open(home).unwrap();
    assert_eq!(store.get(b"kept").unwrap().as_deref(), Some(&b"yes"[..]));
}

#[test]
fn sled_keeps_the_contract() {
    let homes = Mutex::new(Vec::new());
    let open = || {
        let home = tempdir().unwrap();
        let store = SledStore::open(home.path()).unwrap();
        homes.lock().push(home);
        store
    };
    conformance(open, |store| {
        let home = store.path().to_owned();
        drop(store);
        SledStore::open(home).unwrap()
    });
}

#[test]
fn sled_keeps_the_contract_while_checkpoints_run_all_the_time() {
    const LIMIT: usize = 2_000;
    let homes = Mutex::new(Vec::new());
    let open = || {
        let home = tempdir().unwrap();
        let store = SledStore::with_limit(home.path(), LIMIT).unwrap();
        homes.lock().push(home);
        store
    };
    conformance(open, |store| {
        let home = store.path().to_owned();
        drop(store);
        SledStore::with_limit(&home, LIMIT).unwrap()
    });
}

#[test]
fn a_second_open_names_the_holder_of_the_lock() {
    let home = tempdir().unwrap();
    let store = SledStore::open(home.path()).unwrap();
    match SledStore::open(home.path()) {
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
fn a_dropped_store_reopens_at_once() {
    let home = tempdir().unwrap();
    for round in 0..30_u8 {
        let store = SledStore::open(home.path()).unwrap();
        let before = store.get(b"round").unwrap();
        assert_eq!(before, round.checked_sub(1).map(|last| vec![last]));
        store.apply(batch(&[("round", &[round])])).unwrap();
    }
}

#[test]
fn an_interrupted_first_open_starts_anew() {
    let home = tempdir().unwrap();
    let dir = home.path().join("sled");
    fs::create_dir_all(dir.join("blobs")).unwrap();
    for (name, bytes) in [
        (".creating", &b""[..]),
        ("conf", b"segm"),
        ("db", &[7; 999]),
    ] {
        fs::write(dir.join(name), bytes).unwrap();
    }
    fs::write(dir.join("snap.0000000000000000"), b"torn").unwrap();
    let store = SledStore::open(home.path()).unwrap();
    store.apply(batch(&[("kept", b"yes")])).unwrap();
    drop(store);
    assert!(dir.join(".ready").exists() && !dir.join(".creating").exists());
    holds_kept(home.path());
}

#[test]
fn an_empty_directory_left_by_a_kill_starts_anew() {
    let home = tempdir().unwrap();
    fs::create_dir(home.path().join("sled")).unwrap();
    SledStore::open(home.path()).unwrap();
}

#[test]
fn a_directory_without_our_mark_is_left_untouched() {
    let home = filled();
    let dir = home.path().join("sled");
    fs::remove_file(dir.join(".ready")).unwrap();
    let before = fs::read(dir.join("db")).unwrap();
    let error = SledStore::open(home.path()).unwrap_err();
    assert!(matches!(&error, StoreError::Corrupt { what, .. } if what.contains("untouched")));
    assert_eq!(fs::read(dir.join("db")).unwrap(), before);
}

#[test]
fn a_torn_snapshot_is_removed() {
    let home = filled();
    let torn = home.path().join("sled/snap.FFFFFFFFFFFFFFFF.generating");
    fs::write(&torn, b"half a snap").unwrap();
    holds_kept(home.path());
    assert!(!torn.exists());
}

#[test]
fn a_missing_log_is_not_taken_for_a_new_store() {
    for remove in [true, false] {
        let home = filled();
        let db = home.path().join("sled/db");
        if remove {
            fs::remove_file(&db).unwrap()
        } else {
            fs::write(&db, b"").unwrap()
        }
        let error = SledStore::open(home.path()).unwrap_err();
        assert!(matches!(error, StoreError::Corrupt { .. }), "{error:?}");
    }
}

#[test]
fn other_files_in_the_directory_survive() {
    let home = tempdir().unwrap();
    for name in ["db", "conf", "snap.1.generating", "notes.txt"] {
        fs::write(home.path().join(name), b"mine").unwrap();
    }
    fs::create_dir(home.path().join("blobs")).unwrap();
    fs::create_dir(home.path().join("wal")).unwrap();
    fs::write(home.path().join("wal/20260101"), b"mine").unwrap();
    drop(SledStore::open(home.path()).unwrap());
    drop(SledStore::open(home.path()).unwrap());
    for name in [
        "db",
        "conf",
        "snap.1.generating",
        "notes.txt",
        "wal/20260101",
    ] {
        assert_eq!(fs::read(home.path().join(name)).unwrap(), b"mine");
    }
}

#[test]
fn a_lock_file_of_another_program_is_left_untouched() {
    let home = tempdir().unwrap();
    let path = home.path().join("LOCK");
    fs::write(&path, b"my front door").unwrap();
    assert!(matches!(
        SledStore::open(home.path()),
        Err(StoreError::Corrupt { .. })
    ));
    assert_eq!(fs::read(&path).unwrap(), b"my front door");
}

#[test]
fn a_file_is_refused_as_a_directory() {
    let home = tempdir().unwrap();
    let file = home.path().join("file");
    fs::write(&file, b"mine").unwrap();
    let error = SledStore::open(&file).unwrap_err();
    assert!(
        error.to_string().ends_with("file: it is a file"),
        "{}",
        error.to_string()
    );
    assert!(SledStore::open(file.join("below")).is_err());
    assert_eq!(fs::read(&file).unwrap(), b"mine");
}

#[cfg(unix)]
#[test]
fn only_the_owner_has_access() {
    use std::os::unix::fs::PermissionsExt;
    let home = tempdir().unwrap();
    let deep = home.path().join("a/b");
    let store = SledStore::open(&deep).unwrap();
    store.apply(batch(&[("kept", b"yes")])).unwrap();
    drop(store);
    let mut checked = 0;
    let mut check = |path: &Path| {
        let found = fs::metadata(path).unwrap();
        let mode = if found.is_dir() { 0o700 } else { 0o600 };
        assert_eq!(found.permissions().mode() & 0o777, mode, "{path:?}");
        checked += 1;
    };
    check(&deep);
    for folder in ["", "wal", "sled", "sled/blobs"] {
        let entries = fs::read_dir(deep.join(folder)).unwrap();
        entries.for_each(|entry| check(&entry.unwrap().path()));
    }
    // LOCK, ballast, wal, a segment, the watermark, sled, db, conf, snap, blobs, .ready.
    assert!(checked >= 11, "{checked}");
}

/// On some systems the default permissions grant access to all users.
#[cfg(unix)]
#[test]
fn only_the_owner_has_access_whatever_the_umask() {
    let exe = std::env::current_exe().unwrap();
    let status = std::process::Command::new("sh")
        .args(["-c", "umask 000; exec \"$0\" --exact \"$1\""])
        .arg(exe)
        .arg("persistence::store::sled::tests::only_the_owner_has_access")
        .stdout(std::process::Stdio::null())
        .status()
        .unwrap();
    assert!(status.success());
}

#[cfg(unix)]
#[test]
fn permissions_granted_before_are_revoked() {
    use std::os::unix::fs::PermissionsExt;
    let home = filled();
    let names = ["wal", "sled", "sled/db", "sled/conf"];
    for name in names {
        fs::set_permissions(home.path().join(name), fs::Permissions::from_mode(0o777)).unwrap();
    }
    let store = SledStore::open(home.path()).unwrap();
    store.apply(batch(&[("more", b"yes")])).unwrap();
    drop(store);
    for name in names {
        let found = fs::metadata(home.path().join(name))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(found & 0o077, 0, "{name}");
    }
}

#[test]
fn debug_of_a_sled_store_never_shows_contents() {
    let home = tempdir().unwrap();
    let store = SledStore::open(home.path()).unwrap();
    store.apply(batch(&[("canary", b"canary")])).unwrap();
    assert!(!format!("{store:?}").contains("canary"));
}
