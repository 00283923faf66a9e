//! A directory that is renamed, replaced or deleted while its store is open.

use std::collections::BTreeMap;

use super::*;

const LIMIT: usize = 20_000;

/// An open store in a directory that a test may move.
struct Moving {
    all: TempDir,
    store: SledStore,
}

impl Moving {
    fn new() -> Self {
        let all = tempdir().unwrap();
        let store = SledStore::with_limit(&all.path().join("data"), LIMIT).unwrap();
        store.apply(batch(&[("kept", b"yes")])).unwrap();
        store.sync(Durability::Power).unwrap();
        Self { all, store }
    }

    fn at(&self, name: &str) -> PathBuf {
        self.all.path().join(name)
    }

    /// Moves the store away and creates another store at its path; returns the content of that.
    fn replace(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        fs::rename(self.at("data"), self.at("moved")).unwrap();
        let other = SledStore::open(self.at("data")).unwrap();
        other.apply(batch(&[("kept", b"other")])).unwrap();
        other.checkpoint();
        other
            .apply(batch(&[("kept", b"yes"), ("other", b"yes")]))
            .unwrap();
        drop(other);
        contents(&self.at("data"))
    }

    fn put(&self, n: u32) -> Result<(), StoreError> {
        self.store.apply(batch(&[(&format!("{n}"), &[7; 1_000])]))?;
        self.store.sync(Durability::Power)
    }

    /// Puts records until an error; returns how many puts succeeded.
    #[track_caller]
    fn put_until_it_stops(&self) -> u32 {
        for n in 0..1_000 {
            if let Err(error) = self.put(n) {
                // A checkpoint's thread may have stopped the store first.
                let is_moved = match &error {
                    StoreError::Moved { .. } => true,
                    StoreError::Poisoned(why) => why.contains("while the store was open"),
                    _ => false,
                };
                assert!(is_moved, "{error:?}");
                let next = self.put(n + 1);
                assert!(matches!(next, Err(StoreError::Poisoned(_))), "{next:?}");
                return n;
            }
        }
        panic!("it goes on")
    }
}

/// Returns all files below a directory.
fn contents(home: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut all = BTreeMap::new();
    let mut directories = vec![home.to_owned()];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            match path.is_dir() {
                true => directories.push(path),
                false => drop(all.insert(path.clone(), fs::read(path).unwrap())),
            }
        }
    }
    all
}

#[test]
fn a_store_whose_directory_was_renamed_stops_and_leaves_the_store_at_its_path_alone() {
    let moving = Moving::new();
    let before = moving.replace();
    let puts = moving.put_until_it_stops();
    assert!(puts < 2 * LIMIT as u32 / 1_000, "{puts}");
    let after = contents(&moving.at("data"));
    assert!(after == before, "not a byte of the other has changed");
    let Moving { all, store } = moving;
    drop(store);
    assert!(contents(&all.path().join("data")) == before);
    holds_kept(&all.path().join("data"));
    // All acknowledged records are in the directory, wherever it is.
    let store = SledStore::open(all.path().join("moved")).unwrap();
    for n in 0..puts {
        assert!(
            store.get(n.to_string().as_bytes()).unwrap().is_some(),
            "{n}"
        );
    }
    assert!(store.get(b"kept").unwrap().is_some());
}

#[test]
fn a_checkpoint_stops_at_its_step_when_the_directory_is_renamed() {
    for steps in 0..6 {
        let moving = Moving::new();
        (0..5).for_each(|n| moving.put(n).unwrap());
        let mut writer = moving.store.wal.writer.lock();
        let mut checkpoint = moving.store.wal.freeze(&mut writer, 0).unwrap();
        drop(writer);
        (0..steps).for_each(|_| checkpoint.step().unwrap());
        let was_done = checkpoint.is_done();
        let before = moving.replace();
        assert_eq!(free(checkpoint).is_some(), was_done, "{steps}");
        assert!(contents(&moving.at("data")) == before, "{steps}");
        let Moving { all, store } = moving;
        drop(store);
        let store = SledStore::open(all.path().join("moved")).unwrap();
        assert_eq!(store.all().unwrap().len(), 6);
    }
}

#[test]
fn after_its_files_are_deleted_nothing_more_is_acknowledged() {
    // The file's name is checked at each fsync, and every now and then when frames are only handed
    // to the kernel.
    for (durability, most) in [(Durability::Power, 0), (Durability::Process, 64)] {
        let moving = Moving::new();
        fs::remove_dir_all(moving.at("data")).unwrap();
        let commit = |n: u32| {
            let store = &moving.store;
            let applied = store.apply(batch(&[("lost", &n.to_be_bytes())]));
            let synced = applied.and_then(|()| store.sync(durability));
            synced.err().map(|error| (n, error))
        };
        let (acknowledged, error) = (0..1_000).find_map(commit).unwrap();
        assert!(acknowledged <= most, "{acknowledged}");
        let text = error.to_string();
        assert!(
            text.ends_with("data/wal/00000001.segment was deleted while the store was open"),
            "{text}"
        );
        drop(moving.store);
        assert!(
            !moving.all.path().join("data").exists(),
            "nothing is made there"
        );
    }
}

#[test]
fn replacing_or_deleting_a_part_of_the_directory_stops_the_store() {
    for name in ["sled", "wal", "sled/db", "wal/00000001.segment"] {
        for is_replaced in [true, false] {
            let moving = Moving::new();
            let (there, away) = (moving.at("data").join(name), moving.at("away"));
            fs::rename(&there, &away).unwrap();
            match (is_replaced, away.is_dir()) {
                (true, true) => fs::create_dir(&there).unwrap(),
                (true, false) => fs::write(&there, b"mine").unwrap(),
                (false, true) => fs::remove_dir_all(&away).unwrap(),
                (false, false) => fs::remove_file(&away).unwrap(),
            }
            // A file that is renamed within the file system, and not deleted, still receives the
            // writes.
            if is_replaced && there.is_file() {
                continue;
            }
            let before = is_replaced.then(|| contents(&there));
            moving.put_until_it_stops();
            if let Some(before) = before {
                assert!(contents(&there) == before, "{name}");
            }
        }
    }
}

#[test]
fn a_store_moved_before_its_first_write_creates_nothing_at_its_old_path() {
    let all = tempdir().unwrap();
    let (data, moved) = (all.path().join("data"), all.path().join("moved"));
    let store = SledStore::open(&data).unwrap();
    fs::rename(&data, &moved).unwrap();
    let error = store.apply(batch(&[("k", b"v")])).unwrap_err();
    assert!(matches!(error, StoreError::Moved { .. }), "{error:?}");
    drop(store);
    assert!(!data.exists());
    assert_eq!(SledStore::open(&moved).unwrap().all().unwrap(), []);
}

#[test]
fn a_file_that_has_the_name_of_the_next_segment_is_left_untouched() {
    let moving = Moving::new();
    let next = moving.at("data/wal/00000002.segment");
    fs::write(&next, b"mine").unwrap();
    let stopped = (0..1_000).find_map(|n| moving.put(n).err()).unwrap();
    assert!(
        matches!(&stopped, StoreError::Io { source, .. }
            if source.kind() == std::io::ErrorKind::AlreadyExists),
        "{stopped:?}"
    );
    assert_eq!(fs::read(next).unwrap(), b"mine");
}

#[test]
fn a_backup_of_a_renamed_directory_fails() {
    let moving = Moving::new();
    moving.replace();
    let error = moving.store.backup(&moving.at("copy")).unwrap_err();
    assert!(
        matches!(error, StoreError::Moved { .. } | StoreError::Io { .. }),
        "{error:?}"
    );
    assert!(!moving.at("copy").exists());
}
