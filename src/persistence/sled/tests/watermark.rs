//! The fence beside the log: what it notices, and that no crash is taken for a loss.

use std::fs::File;

use super::super::memtable::MaxKeys;
use super::*;
use crate::persistence::watermark::{self, Watermark};

fn path(home: &Path) -> PathBuf {
    home.join("wal").join(watermark::NAME)
}

fn watermark(home: &Path) -> u64 {
    Watermark::read(path(home)).unwrap().last()
}

/// The file of the segment that was begun last.
fn last_segment(home: &Path) -> PathBuf {
    home.join("wal").join(segments(home).pop().unwrap())
}

#[track_caller]
fn expect_rolled_back(home: &Path) {
    for _ in 0..2 {
        let error = SledStore::open(home).unwrap_err();
        assert!(matches!(error, StoreError::RolledBack { .. }), "{error:?}");
    }
}

/// A store of two lives, each with a segment of the log.
fn lived_twice() -> TempDir {
    let home = filled();
    let store = SledStore::open(home.path()).unwrap();
    for n in 0..4_u8 {
        store.apply(batch(&[("more", &[n])])).unwrap();
        store.sync(Durability::Power).unwrap();
    }
    home
}

#[test]
fn after_a_clean_stop_a_log_that_ends_early_is_noticed_wherever_that_is() {
    let home = lived_twice();
    let last = last_segment(home.path());
    let bytes = fs::read(&last).unwrap();
    let end = bytes.iter().rposition(|byte| *byte != 0).unwrap() + 1;
    let trial = copy(home.path());
    let last = last_segment(trial.path());
    for cut in [0, 20].into_iter().chain(4_096..end) {
        fs::write(&last, &bytes[..cut]).unwrap();
        let found = replay::replay(
            &trial.path().join("wal"),
            replay::BaseState::default(),
            MaxKeys::default(),
        );
        assert!(
            matches!(
                found,
                Err(StoreError::RolledBack { .. } | StoreError::Corrupt { .. })
            ),
            "{cut}: {found:?}"
        );
    }
    fs::remove_file(last).unwrap();
    expect_rolled_back(trial.path());
    holds_kept(home.path());
}

#[test]
fn after_a_kill_what_was_synced_is_missed_and_what_was_not_is_not() {
    let home = filled();
    let store = SledStore::open(home.path()).unwrap();
    let mut ends = Vec::new();
    for n in 0..6_u8 {
        store.apply(batch(&[("n", &[n])])).unwrap();
        let durability = if n < 3 {
            Durability::Power
        } else {
            Durability::Process
        };
        store.sync(durability).unwrap();
        ends.push(store.begun().log.segment().end() as usize);
    }
    for (n, end) in ends.into_iter().enumerate() {
        // As a power cut may leave it, of which the fence has been spared.
        let left = copy(home.path());
        let last = last_segment(left.path());
        let bytes = fs::read(&last).unwrap();
        fs::write(last, &bytes[..end]).unwrap();
        if n < 2 {
            expect_rolled_back(left.path());
        } else {
            let store = SledStore::open(left.path()).unwrap();
            assert_eq!(store.get(b"n").unwrap(), Some(vec![n as u8]));
        }
    }
}

#[test]
fn what_a_life_finds_is_fenced_once_it_writes() {
    let home = filled();
    let store = SledStore::open(home.path()).unwrap();
    store.apply(batch(&[("more", b"yes")])).unwrap();
    store.sync(Durability::Process).unwrap();
    // Killed; then once more.
    let left = copy(home.path());
    let before = watermark(left.path());
    let store = SledStore::open(left.path()).unwrap();
    assert_eq!(watermark(left.path()), before);
    store.apply(batch(&[("most", b"yes")])).unwrap();
    assert_eq!(watermark(left.path()), before + 1);
}

#[test]
fn a_fence_is_missed_where_it_should_be_and_made_where_there_was_none() {
    let home = filled();
    let without_watermark = copy(home.path());
    for is_removed in [true, false] {
        match is_removed {
            true => fs::remove_file(path(without_watermark.path())).unwrap(),
            false => fs::write(path(without_watermark.path()), b"cfn").unwrap(),
        }
        let error = SledStore::open(without_watermark.path()).unwrap_err();
        assert!(
            matches!(&error, StoreError::Corrupt { path_or_place, .. } if path_or_place.ends_with(watermark::NAME)),
            "{error:?}"
        );
        // A segment of before there was one; what is there may be half made.
        let old = copy(home.path());
        made_older(old.path(), 1);
        match is_removed {
            true => fs::remove_file(path(old.path())).unwrap(),
            false => fs::write(path(old.path()), b"cfn").unwrap(),
        }
        holds_kept(old.path());
        let store = SledStore::open(old.path()).unwrap();
        store.apply(batch(&[("more", b"yes")])).unwrap();
        drop(store);
        holds_kept(old.path());
        fs::remove_file(last_segment(old.path())).unwrap();
        expect_rolled_back(old.path());
    }
}

#[test]
fn one_of_its_slots_may_be_torn() {
    let home = lived_twice();
    let sound = fs::read(path(home.path())).unwrap();
    for place in [0, 4_096] {
        let mut bytes = sound.clone();
        bytes[place + 9] ^= 1;
        fs::write(path(home.path()), bytes).unwrap();
        holds_kept(home.path());
    }
}

#[test]
fn a_copy_has_a_fence_of_its_own() {
    let home = lived_twice();
    let store = SledStore::open(home.path()).unwrap();
    let to = home.path().join("copy");
    store.backup(&to).unwrap();
    let is_missed = || {
        let audit = SledStore::verify(&to).unwrap();
        format!("{:?}", audit.findings).contains("commits are missing")
    };
    assert!(!is_missed());
    let last = last_segment(&to);
    // The segment before that one holds the last frame.
    fs::remove_file(last).unwrap();
    let names = segments(&to);
    let before = to.join("wal").join(names.last().unwrap());
    File::options()
        .write(true)
        .open(before)
        .unwrap()
        .set_len(4_096)
        .unwrap();
    assert!(is_missed());
    expect_rolled_back(&to);
}

#[cfg(target_os = "linux")]
#[test]
fn an_error_of_its_file_stops_the_store_but_for_a_full_disk_which_is_waited_for() {
    let home = filled();
    let store = SledStore::open(home.path()).unwrap();
    store.apply(batch(&[("more", b"yes")])).unwrap();
    let full = File::options().write(true).open("/dev/full").unwrap();
    let file = store.writer.lock().log.watermark().redirect(full);
    for _ in 0..2 {
        assert!(store.sync(Durability::Power).unwrap_err().is_full());
    }
    store.writer.lock().log.watermark().redirect(file);
    store.sync(Durability::Power).unwrap();
    let left = copy(home.path());
    assert_eq!(
        SledStore::open(left.path()).unwrap().all().unwrap().len(),
        2
    );

    let unwritable = File::open(path(home.path())).unwrap();
    store.writer.lock().log.watermark().redirect(unwritable);
    store.apply(batch(&[("most", b"yes")])).unwrap();
    let error = store.sync(Durability::Power).unwrap_err();
    assert!(matches!(error, StoreError::Io { .. }), "{error:?}");
    let next = store.sync(Durability::Power);
    assert!(matches!(next, Err(StoreError::Poisoned(_))));
}
