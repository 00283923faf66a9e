//! Where an audit makes its copy, and what it leaves behind.

use super::*;

fn beside(home: &Path) -> PathBuf {
    let mut name = home.as_os_str().to_owned();
    name.push(".verify");
    name.into()
}

/// Creates a closed store, with nothing else in the directory above it.
fn alone() -> (TempDir, PathBuf) {
    let all = tempdir().unwrap();
    let home = all.path().join("data");
    let store = SledStore::open(&home).unwrap();
    store.apply(batch(&[("kept", b"yes")])).unwrap();
    drop(store);
    (all, home)
}

/// Creates the remains that a killed audit leaves, at any time.
fn leave_remains(copy: &Path, has_mark: bool) {
    fs::create_dir(copy).unwrap();
    if has_mark {
        fs::write(copy.join(".copy"), "").unwrap();
        fs::create_dir(copy.join("wal")).unwrap();
        fs::write(copy.join("wal/00000001.segment"), "half").unwrap();
    }
}

#[test]
fn the_remains_of_a_killed_audit_are_removed_by_the_next_audit_and_by_an_open() {
    for has_mark in [true, false] {
        let (all, home) = alone();
        leave_remains(&beside(&home), has_mark);
        verify_directory(&home).unwrap();
        assert_eq!(files::list(all.path()).unwrap(), ["data"]);
    }
    let (all, home) = alone();
    leave_remains(&beside(&home), true);
    holds_kept(&home);
    assert_eq!(files::list(all.path()).unwrap(), ["data"]);
}

#[test]
fn a_foreign_directory_at_the_path_of_the_copy_is_left_untouched() {
    let (_all, home) = alone();
    fs::create_dir(beside(&home)).unwrap();
    fs::write(beside(&home).join("notes.txt"), "mine").unwrap();
    let error = verify_directory(&home).unwrap_err();
    assert!(error.to_string().contains("data.verify"), "{error}");
    holds_kept(&home);
    assert_eq!(fs::read(beside(&home).join("notes.txt")).unwrap(), b"mine");
}

#[test]
fn a_copy_in_use_is_left_alone() {
    let (_all, home) = alone();
    leave_remains(&beside(&home), true);
    let mark = File::open(beside(&home).join(".copy")).unwrap();
    mark.try_lock().unwrap();
    let error = verify_directory(&home).unwrap_err();
    assert!(error.to_string().contains("another audit"), "{error}");
    holds_kept(&home);
    assert!(beside(&home).join("wal/00000001.segment").exists());
}

/// As on a read-only volume, where no directory can be created beside the store.
#[test]
fn without_a_directory_beside_the_store_the_copy_is_made_elsewhere() {
    let all = tempdir().unwrap();
    // The name has the maximum length, so that no longer one can be created.
    let home = all.path().join("x".repeat(255));
    let store = SledStore::open(&home).unwrap();
    store
        .apply(batch(&[("m/none", b"no such record")]))
        .unwrap();
    drop(store);
    for _ in 0..2 {
        let audit = verify_directory(&home).unwrap();
        assert_eq!(audit.records, 1);
        assert!(!audit.is_sound());
    }
    assert_eq!(fs::read_dir(all.path()).unwrap().count(), 1);
}

#[test]
fn the_directories_that_a_backup_creates_are_durable() {
    let (all, home) = alone();
    let store = SledStore::open(&home).unwrap();
    let deep = all.path().canonicalize().unwrap().join("a/b");
    files::SYNCED.take();
    store.backup(&deep.join("copy")).unwrap();
    let synced = files::SYNCED.take();
    for parent in deep.ancestors().take(3) {
        assert!(
            synced.contains(&parent.to_owned()),
            "{parent:?} of {synced:?}"
        );
    }
    let renamed = synced.iter().rposition(|dir| *dir == deep);
    let filled = synced.iter().rposition(|dir| dir.ends_with("copy.part"));
    assert!(renamed > filled && filled.is_some(), "{synced:?}");

    let file = deep.join("store.jsonl");
    crate::persistence::export_to_file(&MemoryStore::new(), &file).unwrap();
    assert_eq!(files::SYNCED.take(), [deep]);
    assert!(file.exists());
}
