//! Files of another store in place of a store's own: the store is served unchanged or refused, and
//! never with data of the other.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

use super::kill::{Process, run_and_kill};
use super::*;

/// A store of several sessions, the last of which was killed or not, and the states that an open
/// may find.
struct TestStore {
    home: TempDir,
    right: Vec<Vec<Pair>>,
}

impl TestStore {
    /// Its rounds are numbered from `first`, so that no two stores hold the same data.
    fn make(engine: Engine, first: u64, is_killed: bool) -> Self {
        let home = tempfile::tempdir().unwrap();
        for session in 0..3 {
            let store = engine.open(home.path()).unwrap();
            for n in first + session * 20..first + (session + 1) * 20 {
                store.apply(round(n)).unwrap();
                store.sync(Durability::Power).unwrap();
            }
        }
        if is_killed {
            run_and_kill(Process::new(engine, home.path()).for_power(), 8);
        }
        let sound = copy(home.path());
        let right = vec![all(&*engine.open(sound.path()).unwrap()).unwrap()];
        Self { home, right }
    }

    /// Returns the relative paths of all files and directories.
    fn names(&self) -> BTreeSet<PathBuf> {
        let mut names = BTreeSet::new();
        let mut directories = vec![self.home.path().to_owned()];
        while let Some(directory) = directories.pop() {
            for entry in fs::read_dir(directory).unwrap() {
                let path = entry.unwrap().path();
                names.insert(path.strip_prefix(self.home.path()).unwrap().to_owned());
                if path.is_dir() {
                    directories.push(path);
                }
            }
        }
        names
    }

    /// Returns a copy of this store with one file or directory of another store.
    fn with(&self, name: &Path, other: &Self) -> TempDir {
        let mixed = copy(self.home.path());
        let (from, to) = (other.home.path().join(name), mixed.path().join(name));
        if to.is_dir() {
            fs::remove_dir_all(&to).unwrap();
        }
        if from.is_dir() {
            fs::create_dir(&to).unwrap();
            copy_into(&from, &to);
        } else {
            fs::copy(from, to).unwrap();
        }
        mixed
    }
}

/// Returns whether a file or directory carries the id of its store.
fn names_its_store(name: &Path) -> bool {
    let is_segment = name.extension().is_some_and(|ending| ending == "segment");
    let names = ["wal", "sled", "redb", "wal/fence", "redb/fence", "redb/db"];
    // A directory of redb's is a complete store.
    is_segment
        || names
            .iter()
            .any(|known| *known != "redb" && name == Path::new(known))
}

fn expect_served_or_refused(engine: Engine) {
    let (mut trials, mut refused) = (0, 0);
    for (is_killed, other_is_killed) in [(false, false), (true, false), (false, true), (true, true)]
    {
        let ours = TestStore::make(engine, 1, is_killed);
        let other = TestStore::make(engine, 1_000, other_is_killed);
        for name in other.names() {
            if matches!(name.to_str(), Some("redb" | "ballast")) {
                continue;
            }
            let mixed = ours.with(&name, &other);
            trials += 1;
            // Twice: the next open must not accept what this one makes of the files.
            for open in 1..=2 {
                let trial = format!("{engine:?}, {}, open {open}", name.display());
                let found = engine.open(mixed.path()).and_then(|store| all(&*store));
                match found {
                    Ok(found) => {
                        assert!(ours.right.contains(&found), "{trial}: not what it held");
                        assert!(!names_its_store(&name), "{trial}: it is served");
                    }
                    Err(StoreError::WrongStore { .. }) => refused += 1,
                    Err(StoreError::Corrupt { .. } | StoreError::RolledBack { .. }) => {
                        assert!(
                            !names_its_store(&name),
                            "{trial}: it is refused, but not as another store's"
                        );
                    }
                    Err(error) => panic!("{trial}: {error:?}"),
                }
            }
        }
    }
    println!(
        "{engine:?}: {trials} trials with files of another store, {refused} openings refused for it"
    );
    assert!(refused > 12, "{refused}");
}

#[test]
fn a_file_of_another_store_is_never_served_as_one_of_sleds_own() {
    expect_served_or_refused(Engine::Sled);
}

#[test]
fn a_file_of_another_store_is_never_served_as_one_of_redbs_own() {
    expect_served_or_refused(Engine::Redb);
}
