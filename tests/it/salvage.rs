//! Salvage: what is left of a damaged store is a store again, and the report says what is missing.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use chordal::persistence::{Batch, Finding, Pair, RedbStore, Salvaged, SledStore, Store, verify};
use chordal::prelude::*;
use chordal::{Durability, Error, Id, StoreError};
use tempfile::TempDir;

use crate::golden::{VERSION, restored};
use crate::upkeep::{builder, bytes_of, filled, is_sound, label, pairs, records};

/// A closed store with some of everything, of which much is in sled and the rest in the log.
async fn checkpointed() -> TempDir {
    let home = filled().await;
    let app = builder(home.path().join("data")).start().await.unwrap();
    let mut running = Vec::new();
    for n in 0..170 {
        let text = format!("{n}").repeat(15_000);
        running.push(app.apply_async(label.s(text)).await.unwrap());
    }
    for result in running {
        result.get().await.unwrap();
    }
    app.shutdown().await.unwrap();
    home
}

fn data(home: &TempDir) -> PathBuf {
    home.path().join("data")
}

/// The roots of workflows that have ended, and of those that have not.
fn workflows(all: &[Pair]) -> BTreeSet<Vec<u8>> {
    let heads = all.iter().filter_map(|(key, _)| match key[0] {
        b'b' | b'w' => Some(key[1..17].to_vec()),
        b'e' => Some(key[9..25].to_vec()),
        _ => None,
    });
    heads.collect()
}

fn bytes(id: &Id) -> Vec<u8> {
    id.as_uuid().as_bytes().to_vec()
}

#[tokio::test]
async fn a_sound_store_is_salvaged_whole_and_left_as_it_was() {
    for home in [filled().await, checkpointed().await] {
        let (path, new) = (data(&home), home.path().join("new"));
        let before = bytes_of(&path);
        let salvaged = App::salvage(&path, &new).await.unwrap();
        assert!(salvaged.is_complete(), "{salvaged:?}");
        assert!(bytes_of(&path) == before);
        let (all, found) = (records(&path), records(&new));
        assert!(all == found, "{} records, not {}", found.len(), all.len());
        assert_eq!(salvaged.records, all.len() as u64);
        assert_eq!(salvaged.workflows, workflows(&all).len() as u64);
        assert_eq!(salvaged.unfinished.len(), 1, "what waits for its time");
        assert!(salvaged.incomplete.is_empty() && salvaged.missing_commits == 0);
        is_sound(&App::verify(&new).await.unwrap());
        let names = fs::read_dir(home.path()).unwrap().count();
        assert_eq!(names, 2, "nothing else is left");
    }
}

/// Says whether what was salvaged can be relied on: each workflow of the old store is whole in the new one, or
/// said to be missing, or what held it is said to be damaged.
async fn is_told(all: &[Pair], path: &Path, new: &Path, salvaged: &Salvaged, trial: &str) {
    is_sound(&App::verify(new).await.unwrap());
    let found = records(new);
    let whole = workflows(&found);
    assert_eq!(salvaged.workflows, whole.len() as u64, "{trial}");
    let incomplete: BTreeSet<Vec<u8>> = salvaged.incomplete.iter().map(bytes).collect();
    assert!(whole.is_disjoint(&incomplete), "{trial}");
    let lost = workflows(all)
        .difference(&whole)
        .cloned()
        .collect::<BTreeSet<_>>();
    if !lost.is_subset(&incomplete) {
        // Not even its name is left.
        let place = path.display().to_string();
        let is_damage = |finding: &Finding| finding.place.starts_with(&place);
        assert!(
            salvaged.findings.iter().any(is_damage),
            "{trial}: {salvaged:?}"
        );
    }
    if salvaged.is_complete() {
        assert!(found == all, "{trial}: it is said to be whole");
    }
    let app = builder(new).start().await.unwrap();
    app.shutdown().await.unwrap();
}

#[tokio::test]
async fn whatever_is_damaged_a_store_is_made_of_the_rest_and_what_is_missing_is_told() {
    let home = checkpointed().await;
    let path = data(&home);
    let all = records(&path);
    let sound = bytes_of(&path);
    let (mut with_gaps, mut without) = (0, 0);
    let files = ["sled/db", "wal"];
    // Whether a sector that is overwritten held anything depends on the ids.
    let mut trials = 0..200_usize;
    while let Some(trial) = trials.next().filter(|trial| *trial < 10 || with_gaps < 2) {
        let file = match files[trial % 2] {
            "wal" => {
                let names = sound
                    .keys()
                    .filter(|name| name.extension().is_some_and(|e| e == "segment"));
                names
                    .max_by_key(|name| sound[*name].1.iter().filter(|byte| **byte != 0).count())
                    .unwrap()
            }
            name => &path.join(name),
        };
        let mut bytes = sound[file].1.clone();
        let used = bytes.iter().rposition(|byte| *byte != 0).unwrap();
        match trial / 2 {
            0 => bytes.clear(),
            1 => bytes.truncate(used / 2),
            _ => {
                let sector = (trial * 7_919) % (used / 512 + 1);
                let end = bytes.len().min(sector * 512 + 512);
                bytes[sector * 512..end].fill(0xA5);
            }
        }
        fs::write(file, &bytes).unwrap();
        let new = home.path().join(format!("new {trial}"));
        let before = bytes_of(&path);
        let salvaged = App::salvage(&path, &new).await.unwrap();
        assert!(bytes_of(&path) == before);
        is_told(
            &all,
            &path,
            &new,
            &salvaged,
            &format!("{trial}, {}", file.display()),
        )
        .await;
        with_gaps += usize::from(!salvaged.incomplete.is_empty());
        without += usize::from(salvaged.is_complete());
        fs::write(file, &sound[file].1).unwrap();
        fs::remove_dir_all(new).unwrap();
    }
    assert!(with_gaps > 1, "{with_gaps} {without}");
}

#[tokio::test]
async fn without_sleds_file_or_without_the_log_the_other_is_salvaged() {
    let home = checkpointed().await;
    let path = data(&home);
    let all = records(&path);
    for gone in ["sled/db", "wal"] {
        let kept = home.path().join("kept");
        fs::rename(path.join(gone), &kept).unwrap();
        let new = home.path().join("new");
        let salvaged = App::salvage(&path, &new).await.unwrap();
        assert!(!salvaged.is_complete());
        is_told(&all, &path, &new, &salvaged, gone).await;
        fs::rename(&kept, path.join(gone)).unwrap();
        fs::remove_dir_all(new).unwrap();
    }
}

#[tokio::test]
async fn a_store_of_redb_is_salvaged_as_far_as_redb_opens_it() {
    let from = filled().await;
    let home = tempfile::tempdir().unwrap();
    let (path, new) = (data(&home), home.path().join("new"));
    let store = RedbStore::open(&path).unwrap();
    let mut batch = Batch::new();
    for (key, value) in records(&data(&from)) {
        batch.put(key, value);
    }
    store.apply(batch).unwrap();
    store.sync(Durability::Power).unwrap();
    let all = pairs(&store);
    drop(store);
    let before = bytes_of(&path);
    let salvaged = App::salvage(&path, &new).await.unwrap();
    assert!(salvaged.is_complete(), "{salvaged:?}");
    assert!(bytes_of(&path) == before);
    assert!(pairs(&RedbStore::open(&new).unwrap()) == all);
    fs::remove_dir_all(&new).unwrap();
    // Pages here and there.
    let db = path.join("redb/db");
    let sound = fs::read(&db).unwrap();
    let used = sound.iter().rposition(|byte| *byte != 0).unwrap();
    let (mut made, mut refused) = (0, 0);
    for page in 1..used / 4096 {
        let mut bytes = sound.clone();
        bytes[page * 4096..page * 4096 + 512].fill(0xA5);
        fs::write(&db, &bytes).unwrap();
        match App::salvage(&path, &new).await {
            Ok(_) => {
                made += 1;
                let audit = verify(&RedbStore::open(&new).unwrap());
                is_sound(&audit);
                fs::remove_dir_all(&new).unwrap();
            }
            Err(Error::Store(StoreError::Corrupt { .. })) => {
                refused += 1;
                assert!(!new.exists());
            }
            Err(error) => panic!("page {page}: {error:?}"),
        }
    }
    assert!(made > 0, "{made} {refused}");
}

#[tokio::test]
async fn nothing_is_salvaged_to_where_something_is_or_from_where_a_store_is_open_or_none() {
    let home = filled().await;
    let path = data(&home);
    let is_io = |error: &Error, kind| matches!(error, Error::Store(StoreError::Io { source, .. }) if source.kind() == kind);
    let there = home.path().join("there");
    fs::create_dir(&there).unwrap();
    fs::write(there.join("mine"), "mine").unwrap();
    let error = App::salvage(&path, &there).await.unwrap_err();
    assert!(
        is_io(&error, std::io::ErrorKind::DirectoryNotEmpty),
        "{error:?}"
    );
    let error = App::salvage(&path, path.join("new")).await.unwrap_err();
    assert!(is_io(&error, std::io::ErrorKind::InvalidInput), "{error:?}");
    let error = App::salvage(home.path(), home.path().with_extension("new"))
        .await
        .unwrap_err();
    assert!(is_io(&error, std::io::ErrorKind::NotFound), "{error:?}");
    assert!(!home.path().with_extension("new").exists());
    // An empty directory is as good as none.
    fs::remove_file(there.join("mine")).unwrap();
    assert!(App::salvage(&path, &there).await.unwrap().is_complete());
    let open = SledStore::open(&path).unwrap();
    let error = App::salvage(&path, home.path().join("new"))
        .await
        .unwrap_err();
    assert!(
        matches!(error, Error::Store(StoreError::Locked { .. })),
        "{error:?}"
    );
    drop(open);
    assert_eq!(fs::read_dir(home.path()).unwrap().count(), 2);
}

#[tokio::test]
async fn golden_stores_are_salvaged_whole() {
    for version in [VERSION, "v0.1"] {
        let home = restored(version);
        let (old, new) = (data(&home), home.path().join("new"));
        let salvaged = App::salvage(&old, &new).await.unwrap();
        assert!(salvaged.is_complete(), "{version}: {salvaged:?}");
        assert!(records(&new) == records(&old), "{version}");
    }
}
