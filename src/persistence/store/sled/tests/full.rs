//! A full disk under the log, simulated by `/dev/full`; `tests/crash/full.rs` uses real ones.

use std::fs::File;

use super::*;
use crate::persistence::store::wal::disk_reserve::BALLAST;

/// `ENOSPC`
const NO_SPACE: i32 = rustix::io::Errno::NOSPC.raw_os_error();

fn device() -> File {
    File::options().write(true).open("/dev/full").unwrap()
}

fn ballast(home: &Path) -> u64 {
    fs::metadata(home.join("ballast")).map_or(0, |found| found.len())
}

#[test]
fn a_sync_that_finds_the_disk_full_may_be_retried() {
    let home = filled();
    let store = SledStore::open(home.path()).unwrap();
    let file = store.begun().log.segment().redirect(device());
    // Less than the buffer that is handed to the kernel at once, and more.
    for (n, size) in [(0, 10), (1, 3 << 20), (2, 10)] {
        store
            .apply(batch(&[(&format!("k{n}"), &vec![7; size])]))
            .unwrap();
        for durability in [Durability::Power, Durability::Process] {
            let error = store.sync(durability).unwrap_err();
            assert!(
                matches!(&error, StoreError::Full { doing } if doing.contains("segment")),
                "{error:?}"
            );
        }
    }
    assert!(store.sync(Durability::Buffered).unwrap_err().is_full());
    assert_eq!(store.get(b"k0").unwrap().unwrap().len(), 10, "reads go on");
    let left = copy(home.path());
    assert_eq!(
        SledStore::open(left.path()).unwrap().all().unwrap().len(),
        1
    );

    store.begun().log.segment().redirect(file);
    store.sync(Durability::Power).unwrap();
    let left = copy(home.path());
    assert_eq!(
        SledStore::open(left.path()).unwrap().all().unwrap(),
        store.all().unwrap()
    );
}

#[test]
fn the_ballast_is_removed_on_a_full_disk_and_restored_when_there_is_space() {
    let home = filled();
    assert_eq!(ballast(home.path()), BALLAST);
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt;
        let found = fs::metadata(home.path().join("ballast")).unwrap();
        assert!(found.blocks() * 512 >= BALLAST, "really allocated");
    }
    let store = SledStore::open(home.path()).unwrap();
    let file = store.begun().log.segment().redirect(device());
    store.apply(batch(&[("k", b"v")])).unwrap();
    assert!(store.sync(Durability::Power).unwrap_err().is_full());
    assert_eq!(ballast(home.path()), 0);
    store.begun().log.segment().redirect(file);
    store.sync(Durability::Power).unwrap();
    store.room().unwrap();
    assert_eq!(ballast(home.path()), BALLAST);
}

#[test]
fn a_file_of_another_program_with_the_name_of_the_ballast_is_left_untouched() {
    for bytes in [
        &b"mine"[..],
        &[0, 0, 0, 7],
        b"chordal keeps this space free",
    ] {
        let home = filled();
        let path = home.path().join("ballast");
        fs::write(&path, bytes).unwrap();
        let error = SledStore::open(home.path()).unwrap_err();
        assert!(
            matches!(&error, StoreError::Corrupt { path_or_place, .. } if path_or_place.ends_with("ballast")),
            "{error:?}"
        );
        assert_eq!(fs::read(&path).unwrap(), bytes);
        // The file appears after the ballast was removed.
        fs::remove_file(&path).unwrap();
        let store = SledStore::open(home.path()).unwrap();
        fs::write(&path, bytes).unwrap();
        let error = store.room().unwrap_err();
        assert!(matches!(error, StoreError::Corrupt { .. }), "{error:?}");
        let file = store.begun().log.segment().redirect(device());
        store.apply(batch(&[("k", b"v")])).unwrap();
        assert!(store.sync(Durability::Power).is_err());
        store.wal.writer.lock().log.segment().redirect(file);
        assert_eq!(fs::read(&path).unwrap(), bytes);
    }
}

#[test]
fn a_ballast_of_an_earlier_version_is_accepted_and_gets_its_first_line() {
    for length in [0, 1_000, BALLAST] {
        let home = filled();
        let path = home.path().join("ballast");
        fs::write(&path, vec![0; length as usize]).unwrap();
        let store = SledStore::open(home.path()).unwrap();
        store.apply(batch(&[("k", b"v")])).unwrap();
        assert_eq!(ballast(home.path()), BALLAST);
        let bytes = fs::read(&path).unwrap();
        assert!(bytes.starts_with(b"chordal keeps this space free for a full disk\n"));
    }
}

#[test]
fn without_space_for_a_ballast_new_work_is_refused() {
    let home = filled();
    fs::remove_file(home.path().join("ballast")).unwrap();
    let store = SledStore::open(home.path()).unwrap();
    store.wal.shared.data_dir.fail_with(Some(NO_SPACE));
    for _ in 0..2 {
        let error = store.room().unwrap_err();
        assert!(error.to_string().contains("ballast"), "{error}");
    }
    // Accepted work continues.
    store.apply(batch(&[("k", b"v")])).unwrap();
    store.sync(Durability::Power).unwrap();
    store.wal.shared.data_dir.fail_with(None);
    store.room().unwrap();
    assert_eq!(ballast(home.path()), BALLAST);
}

#[test]
fn without_space_a_checkpoint_waits() {
    let home = filled();
    let store = SledStore::with_limit(home.path(), 10_000).unwrap();
    store.wal.shared.data_dir.fail_with(Some(NO_SPACE));
    let put = |n: u32| {
        store
            .apply(batch(&[(&format!("{n}"), &[7; 1_000])]))
            .unwrap();
        store.sync(Durability::Process).unwrap();
    };
    (0..50).for_each(put);
    assert!(store.wal.writer.lock().checkpoint.is_none());
    assert!(store.room().is_err());
    store.wal.shared.data_dir.fail_with(None);
    (50..100).for_each(put);
    assert!(store.wal.writer.lock().checkpoint.is_some());
    store.room().unwrap();
    let all = store.all().unwrap();
    assert_eq!(all.len(), 101);
    drop(store);
    assert_eq!(SledStore::open(home.path()).unwrap().all().unwrap(), all);
}

#[test]
fn a_segment_that_cannot_be_begun_leaves_no_file_and_the_log_continues() {
    let home = filled();
    let store = SledStore::open(home.path()).unwrap();
    store.apply(batch(&[("k", b"v")])).unwrap();
    let mut writer = store.wal.writer.lock();
    writer.log.dir().fail_with(Some(NO_SPACE));
    let error = writer.log.rotate().unwrap_err();
    assert!(error.is_full(), "{error:?}");
    assert!(!home.path().join("wal/00000003.segment").exists());
    writer.log.dir().fail_with(None);
    drop(writer);
    store.apply(batch(&[("l", b"v")])).unwrap();
    store.checkpoint();
    store.apply(batch(&[("m", b"v")])).unwrap();
    let all = store.all().unwrap();
    drop(store);
    assert_eq!(SledStore::open(home.path()).unwrap().all().unwrap(), all);
    assert_eq!(all.len(), 4);
}
