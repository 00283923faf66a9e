//! The watermark beside the log: the losses that it reveals, and that no crash is taken for a loss.

use std::fs::File;

use super::*;
use crate::persistence::store::fs::watermark::{self, Watermark};
use crate::persistence::store::wal::memtable::MaxKeys;

fn path(home: &Path) -> PathBuf {
    home.join("wal").join(watermark::NAME)
}

fn watermark(home: &Path) -> u64 {
    Watermark::read(path(home)).unwrap().last()
}

/// Returns the file of the segment that was begun last.
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

/// Creates a store of two sessions, each with a segment of the log.
fn two_sessions() -> TempDir {
    let home = filled();
    let store = SledStore::open(home.path()).unwrap();
    for n in 0..4_u8 {
        store.apply(batch(&[("more", &[n])])).unwrap();
        store.sync(Durability::Power).unwrap();
    }
    home
}

#[test]
fn after_a_clean_stop_a_log_cut_anywhere_is_detected() {
    let home = two_sessions();
    let last = last_segment(home.path());
    let bytes = fs::read(&last).unwrap();
    let end = bytes.iter().rposition(|byte| *byte != 0).unwrap() + 1;
    let trial = copy(home.path());
    let last = last_segment(trial.path());
    for cut in [0, 20].into_iter().chain(4_096..end) {
        fs::write(&last, &bytes[..cut]).unwrap();
        let found = replay::replay(
            &trial.path().join("wal"),
            BaseState::default(),
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
fn after_a_kill_missing_synced_frames_are_detected_and_unsynced_ones_may_be_missing() {
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
        // The state that a power cut may leave if it spares the watermark.
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
fn the_watermark_covers_the_replayed_frames_once_a_session_writes() {
    let home = filled();
    let store = SledStore::open(home.path()).unwrap();
    store.apply(batch(&[("more", b"yes")])).unwrap();
    store.sync(Durability::Process).unwrap();
    // Killed once; then again.
    let left = copy(home.path());
    let before = watermark(left.path());
    let store = SledStore::open(left.path()).unwrap();
    assert_eq!(watermark(left.path()), before);
    store.apply(batch(&[("most", b"yes")])).unwrap();
    assert_eq!(watermark(left.path()), before + 1);
}

#[test]
fn a_missing_watermark_is_detected_or_created_for_an_older_store() {
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
        // A segment of a version without watermarks; an existing watermark may be half made.
        let old = copy(home.path());
        make_older(old.path(), 1);
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
fn one_slot_of_the_watermark_may_be_torn() {
    let home = two_sessions();
    let sound = fs::read(path(home.path())).unwrap();
    for offset in [0, 4_096] {
        let mut bytes = sound.clone();
        bytes[offset + 9] ^= 1;
        fs::write(path(home.path()), bytes).unwrap();
        holds_kept(home.path());
    }
}

#[test]
fn a_backup_has_a_watermark_of_its_own() {
    let home = two_sessions();
    let store = SledStore::open(home.path()).unwrap();
    let to = home.path().join("copy");
    store.backup(&to).unwrap();
    let is_loss_found = || {
        let audit = verify_directory(&to).unwrap();
        format!("{:?}", audit.findings).contains("commits are missing")
    };
    assert!(!is_loss_found());
    let last = last_segment(&to);
    // The segment before the last one holds the last frame.
    fs::remove_file(last).unwrap();
    let names = segments(&to);
    let before = to.join("wal").join(names.last().unwrap());
    File::options()
        .write(true)
        .open(before)
        .unwrap()
        .set_len(4_096)
        .unwrap();
    assert!(is_loss_found());
    expect_rolled_back(&to);
}

#[cfg(target_os = "linux")]
#[test]
fn an_error_of_the_watermark_file_stops_the_store_unless_the_disk_is_full() {
    let home = filled();
    let store = SledStore::open(home.path()).unwrap();
    store.apply(batch(&[("more", b"yes")])).unwrap();
    let full = File::options().write(true).open("/dev/full").unwrap();
    let file = store.wal.writer.lock().log.watermark().redirect(full);
    for _ in 0..2 {
        assert!(store.sync(Durability::Power).unwrap_err().is_full());
    }
    store.wal.writer.lock().log.watermark().redirect(file);
    store.sync(Durability::Power).unwrap();
    let left = copy(home.path());
    assert_eq!(
        SledStore::open(left.path()).unwrap().all().unwrap().len(),
        2
    );

    let unwritable = File::open(path(home.path())).unwrap();
    store.wal.writer.lock().log.watermark().redirect(unwritable);
    store.apply(batch(&[("most", b"yes")])).unwrap();
    let error = store.sync(Durability::Power).unwrap_err();
    assert!(matches!(error, StoreError::Io { .. }), "{error:?}");
    let next = store.sync(Durability::Power);
    assert!(matches!(next, Err(StoreError::Poisoned(_))));
}
