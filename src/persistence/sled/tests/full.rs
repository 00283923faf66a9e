//! A full disk under the log, played by `/dev/full`; `tests/crash/full.rs` has real ones.

use std::fs::File;

use super::room::BALLAST;
use super::*;

fn device() -> File {
    File::options().write(true).open("/dev/full").unwrap()
}

fn ballast(home: &Path) -> u64 {
    fs::metadata(home.join("ballast")).map_or(0, |found| found.len())
}

#[test]
fn a_sync_that_finds_the_disk_full_may_be_tried_again() {
    let home = filled();
    let store = SledStore::open(home.path()).unwrap();
    let file = store.writer.lock().log.segment().divert(device());
    // Less than what is handed to the kernel at once, and more.
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

    store.writer.lock().log.segment().divert(file);
    store.sync(Durability::Power).unwrap();
    let left = copy(home.path());
    assert_eq!(
        SledStore::open(left.path()).unwrap().all().unwrap(),
        store.all().unwrap()
    );
}

#[test]
fn the_ballast_is_given_back_on_a_full_disk_and_made_again_when_there_is_room() {
    let home = filled();
    assert_eq!(ballast(home.path()), BALLAST);
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt;
        let found = fs::metadata(home.path().join("ballast")).unwrap();
        assert!(found.blocks() * 512 >= BALLAST, "really allocated");
    }
    let store = SledStore::open(home.path()).unwrap();
    let file = store.writer.lock().log.segment().divert(device());
    store.apply(batch(&[("k", b"v")])).unwrap();
    assert!(store.sync(Durability::Power).unwrap_err().is_full());
    assert_eq!(ballast(home.path()), 0);
    store.writer.lock().log.segment().divert(file);
    store.sync(Durability::Power).unwrap();
    store.room().unwrap();
    assert_eq!(ballast(home.path()), BALLAST);
}

#[test]
fn without_room_for_a_ballast_there_is_none_for_new_work() {
    let home = filled();
    fs::remove_file(home.path().join("ballast")).unwrap();
    // What is there cannot be made larger.
    std::os::unix::fs::symlink("/dev/full", home.path().join("ballast")).unwrap();
    let store = SledStore::open(home.path()).unwrap();
    for _ in 0..2 {
        let error = store.room().unwrap_err();
        assert!(error.to_string().contains("ballast"), "{error}");
    }
    // What has been taken in goes on.
    store.apply(batch(&[("k", b"v")])).unwrap();
    store.sync(Durability::Power).unwrap();
    fs::remove_file(home.path().join("ballast")).unwrap();
    store.room().unwrap();
    assert_eq!(ballast(home.path()), BALLAST);
}

#[test]
fn without_room_a_checkpoint_waits() {
    let home = filled();
    let store = SledStore::with_limit(home.path(), 10_000).unwrap();
    fs::remove_file(home.path().join("ballast")).unwrap();
    std::os::unix::fs::symlink("/dev/full", home.path().join("ballast")).unwrap();
    let put = |n: u32| {
        store
            .apply(batch(&[(&format!("{n}"), &[7; 1_000])]))
            .unwrap();
        store.sync(Durability::Process).unwrap();
    };
    (0..50).for_each(put);
    assert!(store.writer.lock().checkpoint.is_none());
    assert!(store.room().is_err());
    fs::remove_file(home.path().join("ballast")).unwrap();
    (50..100).for_each(put);
    assert!(store.writer.lock().checkpoint.is_some());
    store.room().unwrap();
    let all = store.all().unwrap();
    assert_eq!(all.len(), 101);
    drop(store);
    assert_eq!(SledStore::open(home.path()).unwrap().all().unwrap(), all);
}

#[test]
fn a_segment_that_cannot_be_begun_leaves_nothing_and_its_log_goes_on() {
    let home = filled();
    let store = SledStore::open(home.path()).unwrap();
    store.apply(batch(&[("k", b"v")])).unwrap();
    let mut writer = store.writer.lock();
    let next = home.path().join("wal/00000003.segment");
    std::os::unix::fs::symlink("/dev/full", &next).unwrap();
    let error = writer.log.rotate().unwrap_err();
    assert!(!matches!(error, StoreError::Poisoned(_)), "{error:?}");
    assert!(!next.exists() && !next.is_symlink());
    drop(writer);
    store.apply(batch(&[("l", b"v")])).unwrap();
    store.checkpoint();
    store.apply(batch(&[("m", b"v")])).unwrap();
    let all = store.all().unwrap();
    drop(store);
    assert_eq!(SledStore::open(home.path()).unwrap().all().unwrap(), all);
    assert_eq!(all.len(), 4);
}
