//! Files of another store in the place of a store's own: it is served as it was, or refused, and never
//! anything of the other.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

use super::kill::{Process, live_and_be_killed};
use super::*;

/// A store of several lives, of which the last was killed or not, and what it may be found to hold.
struct Specimen {
    home: TempDir,
    right: Vec<Vec<Pair>>,
}

impl Specimen {
    /// Its rounds are numbered from `first`, so that no two stores hold the same.
    fn make(engine: Engine, first: u64, is_killed: bool) -> Self {
        let home = tempfile::tempdir().unwrap();
        for life in 0..3 {
            let store = engine.open(home.path()).unwrap();
            for n in first + life * 20..first + (life + 1) * 20 {
                store.apply(round(n)).unwrap();
                store.sync(Durability::Power).unwrap();
            }
        }
        if is_killed {
            live_and_be_killed(Process::new(engine, home.path()).for_power(), 8);
        }
        let sound = copy(home.path());
        let right = vec![all(&*engine.open(sound.path()).unwrap()).unwrap()];
        Self { home, right }
    }

    /// All files and directories, by their paths in it.
    fn names(&self) -> BTreeSet<PathBuf> {
        let mut names = BTreeSet::new();
        let mut folders = vec![self.home.path().to_owned()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                names.insert(path.strip_prefix(self.home.path()).unwrap().to_owned());
                if path.is_dir() {
                    folders.push(path);
                }
            }
        }
        names
    }

    /// A copy of it with this of another store.
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

/// What says of itself whose it is.
fn names_its_store(name: &Path) -> bool {
    let is_segment = name.extension().is_some_and(|ending| ending == "segment");
    let names = ["wal", "sled", "redb", "wal/fence", "redb/fence", "redb/db"];
    // A directory of redb's is a whole store.
    is_segment
        || names
            .iter()
            .any(|known| *known != "redb" && name == Path::new(known))
}

fn expect_served_or_refused(engine: Engine) {
    let (mut trials, mut refused) = (0, 0);
    for (is_killed, other_is_killed) in [(false, false), (true, false), (false, true), (true, true)]
    {
        let ours = Specimen::make(engine, 1, is_killed);
        let other = Specimen::make(engine, 1_000, other_is_killed);
        for name in other.names() {
            if matches!(name.to_str(), Some("redb" | "ballast")) {
                continue;
            }
            let mixed = ours.with(&name, &other);
            trials += 1;
            // Twice: what an open makes of it must not be taken for sound by the next one.
            for open in 1..=2 {
                let place = format!("{engine:?}, {}, open {open}", name.display());
                let found = engine.open(mixed.path()).and_then(|store| all(&*store));
                match found {
                    Ok(found) => {
                        assert!(ours.right.contains(&found), "{place}: not what it held");
                        assert!(!names_its_store(&name), "{place}: it is served");
                    }
                    Err(StoreError::WrongStore { .. }) => refused += 1,
                    Err(StoreError::Corrupt { .. } | StoreError::RolledBack { .. }) => {
                        assert!(
                            !names_its_store(&name),
                            "{place}: it is refused, but not as another store's"
                        );
                    }
                    Err(error) => panic!("{place}: {error:?}"),
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
