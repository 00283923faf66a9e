//! A disk under redb that fails at any call, or loses unsynced writes at a power cut.

use std::io;
use std::ops::Bound;
use std::sync::Arc;

use ::redb::BackendError;

use super::*;
use crate::persistence::fault_tests::{after, last_round, noise, round};

/// A request to a disk.
#[derive(Clone, Debug)]
enum Call {
    Write(u64, Vec<u8>),
    SetLen(u64),
    Sync,
    /// Not a request to the disk: this many rounds are acknowledged.
    Acked(u64),
}

/// Records all calls, and fails from the nth on, once or permanently.
#[derive(Debug)]
struct Disk {
    file: FileBackend,
    calls: Arc<Mutex<Vec<Call>>>,
    fault: Option<Fault>,
}

#[derive(Clone, Copy, Debug)]
struct Fault {
    at: usize,
    is_permanent: bool,
    kind: io::ErrorKind,
}

impl Disk {
    fn note(&self, call: Call) -> io::Result<()> {
        let mut calls = self.calls.lock();
        calls.push(call);
        match self.fault {
            Some(fault)
                if calls.len() == fault.at || fault.is_permanent && calls.len() > fault.at =>
            {
                Err(fault.kind.into())
            }
            _ => Ok(()),
        }
    }
}

impl StorageBackend for Disk {
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }
    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.file.read(offset, out)
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        self.note(Call::SetLen(len))?;
        self.file.set_len(len)
    }
    fn sync_data(&self) -> io::Result<()> {
        self.note(Call::Sync)?;
        self.file.sync_data()
    }
    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.note(Call::Write(offset, data.to_vec()))?;
        self.file.write(offset, data)
    }
    fn close(&self) -> io::Result<()> {
        self.file.close()
    }
    fn try_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.file.try_lock_range(start, end)
    }
}

/// Writes rounds until one fails; returns how many were acknowledged, and the error.
fn write(store: &RedbStore, rounds: u64) -> (u64, Option<StoreError>) {
    let first = last_round(store);
    for n in first + 1..=first + rounds {
        let done = store
            .apply(round(n))
            .and_then(|()| store.sync(Durability::Power));
        if let Err(error) = done {
            return (n - 1, Some(error));
        }
    }
    (first + rounds, None)
}

#[test]
fn after_a_disk_fault_nothing_is_accepted_and_acknowledged_batches_are_kept() {
    let sound = tempdir().unwrap();
    write(&RedbStore::open(sound.path()).unwrap(), 20);
    let mut faults = 0;
    for (kind, is_permanent) in [
        (io::ErrorKind::Other, false),
        (io::ErrorKind::Other, true),
        (io::ErrorKind::StorageFull, true),
    ] {
        // Not at each of the hundreds of calls, but at each of the first and then in growing steps.
        for at in (1..).map(|n: usize| n + n * n / 8) {
            let home = copy(sound.path());
            let fault = Fault {
                at,
                is_permanent,
                kind,
            };
            let calls = Arc::new(Mutex::new(Vec::new()));
            let disk = |file| Disk {
                file,
                calls: calls.clone(),
                fault: Some(fault),
            };
            let mut acked = 20;
            match RedbStore::open_on(home.path(), Duration::ZERO, disk) {
                Ok(store) => {
                    let (last, error) = write(&store, 6);
                    acked = last;
                    if let Some(error) = error {
                        let is_full = kind == io::ErrorKind::StorageFull;
                        assert_eq!(
                            matches!(error, StoreError::Full { .. }),
                            is_full,
                            "{at} {error:?}"
                        );
                        for durability in [Durability::Power, Durability::Buffered] {
                            let error = store.sync(durability).unwrap_err();
                            assert!(matches!(error, StoreError::Poisoned(_)), "{error:?}");
                        }
                        let next = store.apply(batch(&[("k", b"v")]));
                        assert!(matches!(next, Err(StoreError::Poisoned(_))));
                        // Reads continue if redb has the page.
                        let _ = store.get(b"round");
                    }
                }
                Err(StoreError::Io { .. } | StoreError::Full { .. }) => {}
                Err(error) => panic!("{fault:?}: {error:?}"),
            }
            let is_past_end = calls.lock().len() < at;
            let store =
                RedbStore::open(home.path()).unwrap_or_else(|error| panic!("{fault:?}: {error:?}"));
            let found = last_round(&store);
            assert!(
                found >= acked && found <= acked + 1,
                "{fault:?}: {found}, {acked}"
            );
            assert!(store.all().unwrap() == after(found), "{fault:?}");
            if is_past_end {
                break;
            }
            faults += 1;
        }
    }
    assert!(faults > 30, "{faults}");
}

#[test]
fn a_first_open_that_fails_at_any_call_starts_anew() {
    let mut faults = 0;
    for at in 1.. {
        let home = tempdir().unwrap();
        let fault = Fault {
            at,
            is_permanent: true,
            kind: io::ErrorKind::Other,
        };
        let calls = Arc::new(Mutex::new(Vec::new()));
        let disk = |file| Disk {
            file,
            calls: calls.clone(),
            fault: Some(fault),
        };
        let first = RedbStore::open_on(home.path(), Duration::ZERO, disk).map(drop);
        assert_eq!(first.is_ok(), home.path().join("redb/.ready").exists());
        let store = RedbStore::open(home.path()).unwrap_or_else(|error| panic!("{at}: {error:?}"));
        assert_eq!(store.all().unwrap(), []);
        if calls.lock().len() < at {
            break;
        }
        faults += 1;
    }
    assert!(faults > 5, "{faults}");
}

/// Returns the image of a disk that loses power behind these calls, and how many rounds are
/// acknowledged: synced writes are kept, of the rest any part, torn between any two sectors.
fn cut(base: &[u8], calls: &[Call], dice: &mut impl FnMut(usize) -> usize) -> (Vec<u8>, u64) {
    const SECTOR: usize = 512;
    let mut image = base.to_vec();
    let mut acked = 0;
    let synced = calls.iter().rposition(|call| matches!(call, Call::Sync));
    let synced = synced.map_or(0, |last| last + 1);
    // All, none, or half of the unsynced writes are kept.
    let share = dice(3);
    for (nth, call) in calls.iter().enumerate() {
        let is_kept = |dice: &mut dyn FnMut(usize) -> usize| nth < synced || dice(2) < share;
        match call {
            Call::Acked(rounds) => acked = *rounds,
            Call::Sync => {}
            Call::SetLen(len) => {
                if is_kept(dice) {
                    image.resize(*len as usize, 0);
                }
            }
            Call::Write(offset, data) => {
                for (n, sector) in data.chunks(SECTOR).enumerate() {
                    let from = *offset as usize + n * SECTOR;
                    if is_kept(dice) {
                        if image.len() < from + sector.len() {
                            image.resize(from + sector.len(), 0);
                        }
                        image[from..from + sector.len()].copy_from_slice(sector);
                    }
                }
            }
        }
    }
    (image, acked)
}

#[test]
fn a_power_cut_at_any_call_leaves_all_that_was_acknowledged_and_no_half_batch() {
    let home = tempdir().unwrap();
    let store = RedbStore::open(home.path()).unwrap();
    // Most of the file is free, so that the next open begins by compacting it.
    fill(&store, true);
    fill(&store, false);
    write(&store, 20);
    let rest = store.scan(b"fill-", b"fill.");
    let rest: Vec<Pair> = rest.map(Result::unwrap).collect();
    assert_eq!(rest.len(), 10);
    // Copied as a kill would leave it, so that redb has to repair it as well.
    let before = copy(home.path());
    drop(store);
    let home = copy(before.path());
    let base = fs::read(before.path().join("redb/db")).unwrap();
    let calls = Arc::new(Mutex::new(vec![Call::Acked(20)]));
    let disk = |file| Disk {
        file,
        calls: calls.clone(),
        fault: None,
    };
    let store = RedbStore::open_on(home.path(), Duration::ZERO, disk).unwrap();
    let mut watermarks = vec![fs::read(home.path().join("redb/fence")).unwrap()];
    for n in 21..=45 {
        store.apply(round(n)).unwrap();
        store.sync(Durability::Power).unwrap();
        calls.lock().push(Call::Acked(n));
        watermarks.push(fs::read(home.path().join("redb/fence")).unwrap());
    }
    drop(store);
    let calls = calls.lock().clone();
    let syncs = calls
        .iter()
        .filter(|call| matches!(call, Call::Sync))
        .count();
    assert!(syncs > 25, "{syncs}");
    let trials = std::env::var("CHORDAL_POWER_TRIALS").map_or(150, |set| set.parse().unwrap());
    let mut rolled_forward = 0;
    for seed in 0..trials {
        let mut noise = noise(seed).skip(9);
        let mut dice = |sides: usize| (noise.next().unwrap() >> 20) as usize % sides;
        let at = 1 + dice(calls.len());
        let (image, acked) = cut(&base, &calls[..at], &mut dice);
        let left = copy(before.path());
        fs::write(left.path().join("redb/db"), image).unwrap();
        // The watermark is not synced: it is as new as the last acknowledgement, or older.
        let watermark = &watermarks[dice((acked - 20) as usize + 1)];
        fs::write(left.path().join("redb/fence"), watermark).unwrap();
        let store = RedbStore::open(left.path())
            .unwrap_or_else(|error| panic!("seed {seed}, call {at}: {error:?}"));
        let found = last_round(&store);
        assert!(
            found == acked || found == acked + 1,
            "seed {seed}, call {at}: acknowledged {acked}, found {found}"
        );
        rolled_forward += found - acked;
        let mut expected = after(found);
        expected.extend(rest.clone());
        expected.sort();
        assert!(store.all().unwrap() == expected, "seed {seed}, call {at}");
    }
    println!(
        "{trials} trials with cuts at {} calls, {rolled_forward} found more",
        calls.len()
    );
}

#[test]
fn a_power_cut_removes_only_unsynced_writes() {
    let write = |byte: u8| Call::Write(0, vec![byte; 512]);
    let calls = [
        write(1),
        Call::Sync,
        Call::Acked(1),
        write(2),
        Call::Acked(2),
    ];
    let mut dice = |_: usize| 0;
    assert_eq!(cut(&[0; 512], &calls, &mut dice), (vec![1; 512], 2));
}
