//! A damaged file: the store is served unchanged or refused, and never anything else.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use super::kill::{Process, run_and_kill};
use super::*;

/// Trials of each kind of directory; more with `CHORDAL_DAMAGE_TRIALS`.
const TRIALS: u64 = 150;
const PAGE: usize = 4096;

/// The damage to one file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Damage {
    /// One bit is flipped.
    Bit,
    /// The file is truncated.
    Cut,
    /// A page is zeroes.
    Zeroes,
    /// A page is noise.
    Noise,
    /// A page has an earlier content: a write was lost.
    OldPage,
    /// The whole file has an earlier content.
    OldFile,
    /// The file is missing.
    Gone,
}

const KINDS: [Damage; 7] = [
    Damage::Bit,
    Damage::Cut,
    Damage::Zeroes,
    Damage::Noise,
    Damage::OldPage,
    Damage::OldFile,
    Damage::Gone,
];

/// How the last session of a store ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Closed,
    Killed,
}

/// A directory, earlier copies of it, and the states that an open may find: a commit that was not
/// acknowledged before the kill may be there or not.
struct TestStore {
    home: TempDir,
    older: Vec<TempDir>,
    right: Vec<Vec<Pair>>,
}

impl TestStore {
    fn make(engine: Engine, end: End) -> Self {
        let home = tempfile::tempdir().unwrap();
        let mut older = Vec::new();
        let live = |rounds| {
            let store = engine.open(home.path()).unwrap();
            let first = last_round(&*store);
            for n in first + 1..=first + rounds {
                store.apply(round(n)).unwrap();
                store.sync(Durability::Power).unwrap();
            }
        };
        for _session in 0..4 {
            live(20);
            // Copied while the store is closed: the files of an open store need not belong to one
            // moment.
            older.push(copy(home.path()));
        }
        let acked = match end {
            End::Closed => {
                live(8);
                88
            }
            // sled's watermark covers the fsynced frames.
            End::Killed => run_and_kill(Process::new(engine, home.path()).for_power(), 8),
        };
        let sound = copy(home.path());
        let last = last_round(&*engine.open(sound.path()).unwrap());
        let right = (acked..=last).map(after).collect();
        Self { home, older, right }
    }

    fn files(&self) -> Vec<PathBuf> {
        let mut files = Vec::new();
        let mut directories = vec![self.home.path().to_owned()];
        while let Some(directory) = directories.pop() {
            for entry in fs::read_dir(directory).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    directories.push(path);
                } else if !path.ends_with(super::BALLAST) {
                    files.push(path.strip_prefix(self.home.path()).unwrap().to_owned());
                }
            }
        }
        files.sort();
        files
    }

    /// Returns a copy with this damage; `None` if the damage changes nothing.
    fn damaged(
        &self,
        file: &Path,
        kind: Damage,
        dice: &mut impl FnMut(usize) -> usize,
    ) -> Option<TempDir> {
        let sound = fs::read(self.home.path().join(file)).unwrap();
        let used = sound
            .iter()
            .rposition(|byte| *byte != 0)
            .map_or(0, |last| last + 1);
        let old = |which: usize| {
            let older = self.older[which].path().join(file);
            fs::read(older).ok()
        };
        let mut bytes = sound.clone();
        match kind {
            Damage::Bit => {
                bytes[dice(used.max(1)).min(sound.len().checked_sub(1)?)] ^= 1 << dice(8)
            }
            Damage::Cut => bytes.truncate(dice(used.max(1))),
            Damage::Zeroes | Damage::Noise | Damage::OldPage => {
                let from = dice(used.div_ceil(PAGE).max(1)) * PAGE;
                let to = (from + PAGE).min(sound.len());
                match kind {
                    Damage::Zeroes => bytes[from..to].fill(0),
                    Damage::Noise => bytes[from..to].fill_with(|| dice(256) as u8),
                    _ => {
                        bytes[from..to].copy_from_slice(old(dice(self.older.len()))?.get(from..to)?)
                    }
                }
            }
            Damage::OldFile => bytes = old(dice(self.older.len()))?,
            Damage::Gone => {}
        }
        if bytes == sound && kind != Damage::Gone {
            return None;
        }
        let copy = copy(self.home.path());
        let path = copy.path().join(file);
        match kind {
            Damage::Gone => fs::remove_file(path).unwrap(),
            _ => fs::write(path, bytes).unwrap(),
        }
        Some(copy)
    }
}

fn trials() -> u64 {
    number("CHORDAL_DAMAGE_TRIALS", TRIALS)
}

/// Damages one file at a time: the store must be served unchanged or refused.
fn expect_served_or_refused(engine: Engine, end: End) {
    let test_store = TestStore::make(engine, end);
    let files = test_store.files();
    let db = files.iter().find(|file| file.ends_with("db"));
    let db = db.expect("both engines call it so");
    let (mut missing, mut changed) = (Vec::new(), Vec::new());
    let mut counts: BTreeMap<(Damage, &str), u64> = BTreeMap::new();
    let mut seed = 0;
    let mut done = 0;
    while done < trials() {
        seed += 1;
        let mut noise = noise(seed).skip(9);
        let mut dice = |sides: usize| (noise.next().unwrap() >> 20) as usize % sides;
        let kind = KINDS[dice(KINDS.len())];
        let file = match dice(2) {
            0 => db,
            _ => &files[dice(files.len())],
        };
        let Some(home) = test_store.damaged(file, kind, &mut dice) else {
            continue;
        };
        done += 1;
        // Twice: the next open must not accept what this one makes of the files.
        for open in 1..=2 {
            let found = engine.open(home.path()).and_then(|store| all(&*store));
            let trial = || format!("{kind:?} of {}, seed {seed}, open {open}", file.display());
            let what = match found {
                Ok(found) if test_store.right.contains(&found) => "as it was",
                Ok(found) if is_after_some_round(&found) => {
                    missing.push(trial());
                    "commits missing"
                }
                Ok(_) => {
                    changed.push(trial());
                    "changed"
                }
                Err(StoreError::RolledBack { .. }) => "rolled back",
                Err(StoreError::Corrupt { .. }) => "corrupt",
                Err(error) => panic!("{}: {error:?}", trial()),
            };
            *counts.entry((kind, what)).or_default() += 1;
            if ["commits missing", "changed"].contains(&what) {
                break;
            }
        }
    }
    println!("{engine:?}, {end:?}: {done} trials with damage: {counts:?}");
    let silent = [
        (missing, "served with commits missing"),
        (changed, "served with what was never there"),
    ];
    let silent = silent.iter().filter(|(trials, _)| !trials.is_empty());
    let silent: Vec<String> = silent
        .map(|(trials, how)| format!("{} of {done} {how}: {trials:#?}", trials.len()))
        .collect();
    assert!(
        silent.is_empty(),
        "{engine:?}, {end:?}: {}",
        silent.concat()
    );
    let refused = counts
        .keys()
        .filter(|(_, what)| ["corrupt", "rolled back"].contains(what));
    assert!(refused.count() > 3, "{counts:?}");
}

/// Returns whether these records are the state after some round.
fn is_after_some_round(found: &[Pair]) -> bool {
    let round = found.iter().find(|(key, _)| key == b"round");
    let last = round.map_or(0, |(_, n)| {
        u64::from_be_bytes(n[..].try_into().unwrap_or([0xFF; 8]))
    });
    last < 1_000 && found == after(last)
}

#[test]
fn a_redb_file_without_its_head_is_corrupt() {
    let test_store = TestStore::make(Engine::Redb, End::Closed);
    let path = test_store.home.path().join("redb/db");
    let mut file = fs::read(&path).unwrap();
    file[..PAGE].fill(0);
    fs::write(&path, file).unwrap();
    let error = Engine::Redb.open(test_store.home.path()).err();
    assert!(
        matches!(error, Some(StoreError::Corrupt { .. })),
        "{error:?}"
    );
}

#[test]
fn a_damaged_redb_store_is_served_unchanged_or_refused_after_a_clean_stop() {
    expect_served_or_refused(Engine::Redb, End::Closed);
}

#[test]
fn a_damaged_redb_store_is_served_unchanged_or_refused_after_a_kill() {
    expect_served_or_refused(Engine::Redb, End::Killed);
}

#[test]
fn a_damaged_sled_store_is_served_unchanged_or_refused_after_a_clean_stop() {
    expect_served_or_refused(Engine::Sled, End::Closed);
}

#[test]
fn a_damaged_sled_store_is_served_unchanged_or_refused_after_a_kill() {
    expect_served_or_refused(Engine::Sled, End::Killed);
}
