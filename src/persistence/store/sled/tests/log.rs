//! A log that was cut, torn, damaged or mixed with an older one.

use std::fs::File;

use super::*;
use crate::persistence::store::wal::memtable::MaxKeys;
use crate::persistence::store::wal::replay::{Replayed, replay};

/// A store that was killed after six commits, with the end of each frame in the file of its log.
struct Killed {
    home: TempDir,
    path: PathBuf,
    bytes: Vec<u8>,
    ends: Vec<usize>,
    held: BaseState,
}

/// The number of commits of [`killed`] that were synced; the others were handed to the kernel.
const SYNCED: usize = 4;

fn killed() -> Killed {
    let home = tempdir().unwrap();
    let store = SledStore::open(home.path()).unwrap();
    let mut ends = Vec::new();
    for n in 0..6_u8 {
        let mut batch = batch(&[(&format!("{n}"), &vec![n; 20 * usize::from(n)])]);
        batch.put("last", [n]);
        if n > 0 {
            batch.delete(format!("{}", n - 1));
        }
        store.apply(batch).unwrap();
        // One sync may cover several commits.
        store.sync(Durability::Process).unwrap();
        if [0, 1, SYNCED - 1].contains(&usize::from(n)) {
            store.sync(Durability::Power).unwrap();
        }
        ends.push(store.begun().log.segment().end() as usize);
    }
    let copy = copy(home.path());
    let path = copy.path().join("wal/00000001.segment");
    let bytes = fs::read(&path).unwrap();
    let held = store.wal.shared.layers.base.held().unwrap();
    Killed {
        home: copy,
        path,
        bytes,
        ends,
        held,
    }
}

impl Killed {
    /// Replays its log with this content of the file; returns the number of commits.
    fn commits(&self, bytes: &[u8]) -> Result<usize, StoreError> {
        fs::write(&self.path, bytes).unwrap();
        replay(&self.home.path().join("wal"), self.held, MaxKeys::default())
            .map(|replayed| commits(&replayed))
    }

    /// Tears commit 5 in the file; commit 6 stays complete. Both are lost.
    fn tear_tail(&self) {
        let mut bytes = self.bytes.clone();
        bytes[self.ends[3]..self.ends[3] + 50].fill(0);
        fs::write(&self.path, bytes).unwrap();
    }
}

/// Checks that exactly the first commits were replayed, and returns their number.
#[track_caller]
fn commits(replayed: &Replayed) -> usize {
    let found: Vec<_> = replayed
        .memtables
        .active()
        .from(std::ops::Bound::Unbounded)
        .filter_map(|(key, value)| Some((key.to_vec(), value?.to_vec())))
        .collect();
    let Some((_, last)) = found.last() else {
        assert_eq!(replayed.last, 0);
        return 0;
    };
    let n = last[0];
    let value = vec![n; 20 * usize::from(n)];
    let expected = [
        (n.to_string().into_bytes(), value),
        (b"last".to_vec(), vec![n]),
    ];
    assert_eq!(found, expected, "a whole batch and nothing else");
    assert_eq!(replayed.last, u64::from(n) + 1);
    usize::from(n) + 1
}

#[test]
fn a_log_cut_anywhere_is_rejected_or_holds_all_complete_commits_before_the_cut() {
    let killed = killed();
    for cut in 4096..killed.ends[5] + 100 {
        // The end of a body may be a few bytes before the end of its frame.
        let whole = |slack: usize| {
            killed
                .ends
                .iter()
                .filter(|end| **end <= cut + slack)
                .count()
        };
        // A file system may also return the old length, with zeroes.
        let mut zeroed = killed.bytes.clone();
        zeroed[cut..].fill(0);
        for bytes in [&killed.bytes[..cut], &zeroed] {
            let found = match killed.commits(bytes) {
                Ok(found) => {
                    assert!(found >= SYNCED, "{found} at {cut}");
                    found
                }
                Err(StoreError::RolledBack {
                    expected, found, ..
                }) => {
                    assert_eq!(expected, SYNCED as u64);
                    found as usize
                }
                Err(error) => panic!("{cut}: {error:?}"),
            };
            assert!((whole(0)..=whole(7)).contains(&found), "{found} at {cut}");
        }
    }
}

#[test]
fn a_bit_flipped_anywhere_is_detected_or_was_never_synced() {
    let killed = killed();
    for position in (0..56).chain(4096..killed.ends[5]) {
        let mut bytes = killed.bytes.clone();
        bytes[position] ^= 1 << (position % 8);
        let hit = killed.ends.iter().position(|end| position < *end).unwrap();
        match killed.commits(&bytes) {
            // Behind the last synced frame the damage is a torn tail; between frames there is
            // nothing.
            Ok(found) => assert!(
                found == 6 || (found == hit && hit >= SYNCED),
                "{found} at {position}"
            ),
            Err(StoreError::Corrupt { .. }) => assert!(position < 56 || hit < SYNCED, "{position}"),
            Err(error) => panic!("{position}: {error:?}"),
        }
    }
}

#[test]
fn after_a_clean_stop_a_flipped_bit_in_any_commit_is_detected() {
    let home = tempdir().unwrap();
    let store = SledStore::open(home.path()).unwrap();
    store.apply(batch(&[("a", b"1"), ("b", b"1")])).unwrap();
    store.apply(batch(&[("a", b"2")])).unwrap();
    store.sync(Durability::Process).unwrap();
    let end = store.begun().log.segment().end() as usize;
    drop(store);
    let path = home.path().join("wal/00000001.segment");
    let sound = fs::read(&path).unwrap();
    let expected = SledStore::open(copy(home.path()).path())
        .unwrap()
        .all()
        .unwrap();
    for position in 4096..end {
        let mut bytes = sound.clone();
        bytes[position] ^= 1 << (position % 8);
        fs::write(&path, bytes).unwrap();
        match replay(
            &home.path().join("wal"),
            BaseState::default(),
            MaxKeys::default(),
        ) {
            // Only the padding of a frame to a multiple of 8 is irrelevant.
            Err(StoreError::RolledBack {
                expected: 3,
                found: 0,
                ..
            }) => assert_eq!(sound[position], 0),
            Err(StoreError::Corrupt { .. }) => {}
            other => panic!("{position}: {other:?}"),
        }
    }
    fs::write(&path, sound).unwrap();
    assert_eq!(
        SledStore::open(home.path()).unwrap().all().unwrap(),
        expected
    );
}

/// A power cut may leave any part of the data written since the last fdatasync.
#[test]
fn any_part_of_the_unsynced_frames_may_remain() {
    let killed = killed();
    for lost in SYNCED..6 {
        let mut bytes = killed.bytes.clone();
        bytes[killed.ends[lost - 1]..killed.ends[lost]].fill(0);
        assert_eq!(
            killed.commits(&bytes).unwrap(),
            lost,
            "what follows it is lost as well"
        );
    }
    for lost in 0..SYNCED {
        let from = lost
            .checked_sub(1)
            .map_or(4096, |before| killed.ends[before]);
        let mut bytes = killed.bytes.clone();
        bytes[from..killed.ends[lost]].fill(0);
        let error = killed.commits(&bytes).unwrap_err();
        assert!(
            matches!(error, StoreError::Corrupt { .. }),
            "{lost}: {error:?}"
        );
    }
}

#[test]
fn the_remains_of_a_torn_tail_are_not_replayed_behind_new_frames() {
    let killed = killed();
    killed.tear_tail();
    let home = killed.home.path();
    let store = SledStore::open(home).unwrap();
    assert_eq!(store.get(b"last").unwrap(), Some(vec![3]));
    // A frame with the number and the size of the lost one.
    let mut again = batch(&[("4", &[9; 80]), ("last", &[4])]);
    again.delete("3");
    store.apply(again).unwrap();
    store.sync(Durability::Power).unwrap();
    let left = copy(home);
    let store = SledStore::open(left.path()).unwrap();
    assert_eq!(store.get(b"last").unwrap(), Some(vec![4]));
    assert_eq!(store.get(b"4").unwrap(), Some(vec![9; 80]));
    assert_eq!(store.get(b"5").unwrap(), None);
}

#[test]
fn the_remains_of_a_torn_tail_are_not_replayed_when_the_file_is_reused() {
    let killed = killed();
    killed.tear_tail();
    let home = killed.home.path();
    let store = SledStore::open(home).unwrap();
    // The file is free after the first checkpoint and in use after the second.
    store.checkpoint();
    store.checkpoint();
    assert!(
        killed.path.ends_with(
            store
                .wal
                .writer
                .lock()
                .log
                .segment()
                .path()
                .file_name()
                .unwrap()
        )
    );
    // Frame 5 again, so large that the remains of frame 6 follow it.
    let space = killed.ends[4] - 4096;
    let frame = |size| {
        let mut out = Vec::new();
        let stamp = frame::Stamp {
            generation: 0,
            seq: 0,
            synced: 0,
        };
        frame::append(&mut out, 4096, stamp, &batch(&[("new", &vec![7; size])]));
        out.len()
    };
    let size = (0..space).rfind(|size| frame(*size) == space).unwrap();
    store.apply(batch(&[("new", &vec![7; size])])).unwrap();
    store.sync(Durability::Power).unwrap();
    let end = store.begun().log.segment().end() as usize;
    assert_eq!(end, killed.ends[4]);
    let left = copy(home);
    let store = SledStore::open(left.path()).unwrap();
    assert_eq!(store.get(b"last").unwrap(), Some(vec![3]));
    assert_eq!(store.get(b"new").unwrap(), Some(vec![7; size]));
}

#[test]
fn frames_of_an_earlier_use_of_a_file_are_never_replayed() {
    let home = tempdir().unwrap();
    let store = SledStore::open(home.path()).unwrap();
    // Frames of one size, so that those of an earlier use are where the next ones will be.
    for n in 0..40_u8 {
        store.apply(batch(&[("n", &[n; 50])])).unwrap();
        if n % 10 == 9 {
            store.checkpoint();
        }
    }
    for n in 40..43_u8 {
        store.apply(batch(&[("n", &[n; 50])])).unwrap();
        store.sync(Durability::Power).unwrap();
        let left = copy(home.path());
        assert_eq!(segments(left.path()).len(), 2);
        let store = SledStore::open(left.path()).unwrap();
        assert_eq!(store.get(b"n").unwrap(), Some(vec![n; 50]));
    }
}

#[test]
fn a_missing_log_is_detected() {
    let home = filled();
    let store = SledStore::open(home.path()).unwrap();
    store.apply(batch(&[("more", b"yes")])).unwrap();
    store.checkpoint();
    store.apply(batch(&[("most", b"yes")])).unwrap();
    drop(store);
    let names = segments(home.path());
    assert_eq!(names.len(), 2);
    // All of the log, and its rest when the newest segment is missing.
    for gone in [&names[..], &names[..1], &names[1..]] {
        let copy = copy(home.path());
        for name in gone {
            fs::remove_file(copy.path().join("wal").join(name)).unwrap();
        }
        match SledStore::open(copy.path()) {
            Ok(store) => assert_eq!(store.all().unwrap().len(), 3),
            Err(error) => assert!(matches!(error, StoreError::Corrupt { .. }), "{error:?}"),
        }
    }
}

#[test]
fn a_log_of_a_later_version_is_left_untouched() {
    let home = filled();
    let path = home.path().join("wal/00000001.segment");
    let mut bytes = fs::read(&path).unwrap();
    let later = segment::VERSION as u8 + 1;
    bytes[8] = later;
    let crc = crc32fast::hash(&bytes[..32]);
    bytes[32..36].copy_from_slice(&crc.to_le_bytes());
    fs::write(&path, &bytes).unwrap();
    let error = SledStore::open(home.path()).unwrap_err();
    assert!(
        matches!(
            error,
            StoreError::UnsupportedVersion { found, supported, .. }
                if (found, supported) == (later, segment::VERSION as u8)
        ),
        "{error:?}"
    );
    assert_eq!(fs::read(&path).unwrap(), bytes);
}

#[test]
fn a_header_torn_while_its_file_was_created_or_reused_is_no_damage() {
    let home = filled();
    let store = SledStore::open(home.path()).unwrap();
    store.checkpoint();
    store.apply(batch(&[("kept", b"yes")])).unwrap();
    store.sync(Durability::Process).unwrap();
    let left = copy(home.path());
    // The spare file, which contains frames that sled holds, and a new one.
    let log = left.path().join("wal");
    let spare = store.wal.writer.lock().log.spare().to_vec();
    assert_eq!(spare.len(), 1);
    let spare = log.join(spare[0].file_name().unwrap());
    let mut bytes = fs::read(&spare).unwrap();
    bytes[20..30].fill(0xee);
    fs::write(&spare, bytes).unwrap();
    fs::write(log.join("00000099.segment"), b"chord").unwrap();
    holds_kept(left.path());
}

#[test]
fn a_damaged_header_of_a_segment_with_frames_is_detected() {
    let home = filled();
    // The second session has a segment of its own, and nothing was checkpointed.
    let store = SledStore::open(home.path()).unwrap();
    store.apply(batch(&[("more", b"yes")])).unwrap();
    drop(store);
    let path = home.path().join("wal/00000002.segment");
    let sound = fs::read(&path).unwrap();
    for position in 0..56 {
        let mut bytes = sound.clone();
        bytes[position] ^= 1;
        fs::write(&path, bytes).unwrap();
        let error = SledStore::open(home.path()).unwrap_err();
        assert!(
            matches!(error, StoreError::Corrupt { .. }),
            "{position}: {error:?}"
        );
    }
    fs::write(&path, sound).unwrap();
    holds_kept(home.path());
}

#[cfg(target_os = "linux")]
#[test]
fn after_a_failed_write_or_sync_of_the_log_nothing_is_accepted() {
    // The first device rejects writes, and the second cannot be synced.
    for options in [File::options().read(true), File::options().write(true)] {
        let home = filled();
        let store = SledStore::open(home.path()).unwrap();
        let device = options.open("/dev/null").unwrap();
        store.begun().log.segment().redirect(device);
        store.apply(batch(&[("lost", b"x")])).unwrap();
        let error = store.sync(Durability::Power).unwrap_err();
        assert!(matches!(error, StoreError::Io { .. }), "{error:?}");
        for durability in [Durability::Power, Durability::Process, Durability::Buffered] {
            let error = store.sync(durability).unwrap_err();
            assert!(matches!(error, StoreError::Poisoned(_)), "{error:?}");
        }
        let next = store.apply(batch(&[("k", b"v")]));
        assert!(matches!(next, Err(StoreError::Poisoned(_))));
        assert!(store.get(b"kept").unwrap().is_some(), "reads go on");
        drop(store);
        let store = SledStore::open(home.path()).unwrap();
        assert_eq!(store.all().unwrap().len(), 1);
    }
}
