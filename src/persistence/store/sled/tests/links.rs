//! Symbolic links in place of files of the store: their targets do not belong to the store.

use std::os::unix::fs::symlink;

use super::*;

#[test]
fn a_symbolic_link_in_the_place_of_any_file_of_the_store_is_refused_and_not_written_through() {
    let names = [
        "LOCK",
        "ballast",
        "wal",
        "wal/fence",
        "wal/00000001.segment",
        "sled",
        "sled/db",
        "sled/conf",
        "sled/.ready",
        "sled/blobs",
    ];
    for name in names {
        let home = filled();
        let elsewhere = tempdir().unwrap();
        let (link, target) = (home.path().join(name), elsewhere.path().join("target"));
        // The target would serve, if the link were followed.
        fs::rename(&link, &target).unwrap();
        symlink(&target, &link).unwrap();
        let before = copy(elsewhere.path());
        for refused in [
            SledStore::open(home.path()).map(drop),
            verify_directory(home.path()).map(drop),
        ] {
            // (An audit does not open the ballast.)
            let Err(error) = refused else {
                assert!(["LOCK", "ballast"].contains(&name), "{name}");
                continue;
            };
            let text = error.to_string();
            assert!(
                text.contains("symbolic link") && text.contains(name),
                "{text}"
            );
        }
        for name in ["", "target"] {
            let names = |home: &Path| files::list(&home.join(name));
            if target.is_dir() || name.is_empty() {
                assert_eq!(
                    names(elsewhere.path()).unwrap(),
                    names(before.path()).unwrap()
                );
            }
        }
        fs::remove_file(&link).unwrap();
        fs::rename(&target, &link).unwrap();
        holds_kept(home.path());
    }
}

#[test]
fn a_dangling_link_creates_no_file_at_its_target() {
    for name in [
        "LOCK",
        "ballast",
        "wal",
        "sled",
        "wal/00000001.segment",
        "wal/fence",
    ] {
        let (home, elsewhere) = (tempdir().unwrap(), tempdir().unwrap());
        if name.starts_with("wal/") {
            fs::create_dir(home.path().join("wal")).unwrap();
        }
        symlink(elsewhere.path().join("target"), home.path().join(name)).unwrap();
        let error = SledStore::open(home.path()).unwrap_err().to_string();
        assert!(error.contains("symbolic link"), "{name}: {error}");
        assert_eq!(fs::read_dir(elsewhere.path()).unwrap().count(), 0, "{name}");
    }
}

#[test]
fn the_directory_itself_may_be_behind_a_link_and_foreign_files_in_it_too() {
    let home = filled();
    let link = home.path().join("link");
    symlink(home.path(), &link).unwrap();
    symlink("/nowhere", home.path().join("wal/notes.txt")).unwrap();
    holds_kept(&link);
}
