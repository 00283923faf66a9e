//! Each error of a store as an app's user meets it: typed, and saying what and where.

use std::fs;
use std::path::Path;

use chordal::persistence::{Batch, SledStore};
use chordal::prelude::*;
use chordal::{Error, Store, StoreError};
use tempfile::TempDir;

#[task(name = "errors.echo")]
async fn echo(text: String) -> String {
    text
}

async fn start(path: &Path) -> chordal::Result<App> {
    App::open(path).tasks(tasks![echo]).start().await
}

/// A store that was closed cleanly, in a directory `data`.
async fn filled() -> TempDir {
    let home = tempfile::tempdir().unwrap();
    let app = start(&home.path().join("data")).await.unwrap();
    let result = app.apply_async(echo.s("a".into())).await.unwrap();
    result.get().await.unwrap();
    app.shutdown().await.unwrap();
    home
}

/// Why it does not open, and the text that says so.
async fn refusal(path: &Path) -> (StoreError, String) {
    match start(path).await {
        Ok(_) => panic!("it opens"),
        Err(Error::Store(error)) => {
            let text = error.to_string();
            (error, text)
        }
        Err(other) => panic!("{other}"),
    }
}

#[tokio::test]
async fn a_store_in_use_is_locked() {
    let home = filled().await;
    let path = home.path().join("data");
    let app = start(&path).await.unwrap();
    let (error, text) = refusal(&path).await;
    assert!(matches!(error, StoreError::Locked { .. }), "{text}");
    assert!(text.contains("data is open in this process"), "{text}");
    app.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_damaged_log_is_corrupt() {
    let home = filled().await;
    let path = home.path().join("data");
    let segment = path.join("wal/00000001.segment");
    let mut bytes = fs::read(&segment).unwrap();
    bytes[4_200] ^= 1;
    fs::write(&segment, bytes).unwrap();
    let (error, text) = refusal(&path).await;
    assert!(matches!(error, StoreError::Corrupt { .. }), "{text}");
    assert!(
        text.contains("00000001.segment is damaged: frame"),
        "{text}"
    );
}

#[tokio::test]
async fn a_base_that_is_not_the_logs_is_rolled_back() {
    let home = filled().await;
    let path = home.path().join("data");
    fs::remove_dir_all(path.join("sled")).unwrap();
    let (error, text) = refusal(&path).await;
    assert!(
        matches!(error, StoreError::RolledBack { found: 0, .. }),
        "{text}"
    );
    assert!(text.contains("data/wal"), "{text}");
}

#[tokio::test]
async fn a_record_of_a_later_version_is_newer_and_stays_as_it_is() {
    let home = filled().await;
    let path = home.path().join("data");
    let store = SledStore::open(&path).unwrap();
    let key = b"m/store";
    let mut record = store.get(key).unwrap().unwrap();
    record[1] = 9;
    let mut batch = Batch::new();
    batch.put(key.to_vec(), record.clone());
    store.apply(batch).unwrap();
    drop(store);
    let (error, text) = refusal(&path).await;
    assert!(
        matches!(
            error,
            StoreError::Newer {
                found: 9,
                supported: 1,
                ..
            }
        ),
        "{text}"
    );
    assert!(text.contains("Meta record"), "{text}");
    let store = SledStore::open(&path).unwrap();
    assert_eq!(store.get(key).unwrap(), Some(record));
}

#[tokio::test]
async fn a_file_in_place_of_a_directory_is_an_error_of_the_system() {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("data");
    fs::write(&path, "mine").unwrap();
    let (error, text) = refusal(&path).await;
    let StoreError::Io { source, .. } = &error else {
        panic!("{text}")
    };
    assert_eq!(source.kind(), std::io::ErrorKind::NotADirectory);
    assert!(
        text.contains("open a store in") && text.contains("data"),
        "{text}"
    );
}

/// (What halts the engine is in `actors/tests.rs` and `recovery.rs`; full disks in `tests/crash`.)
#[cfg(target_os = "linux")]
#[tokio::test]
async fn new_work_that_there_is_no_room_for_is_told_that_the_disk_is_full() {
    let home = filled().await;
    let path = home.path().join("data");
    let ballast = path.join("ballast");
    fs::remove_file(&ballast).unwrap();
    std::os::unix::fs::symlink("/dev/full", &ballast).unwrap();
    let app = start(&path).await.unwrap();
    let error = app.apply_async(echo.s("a".into())).await.unwrap_err();
    let Error::Store(inner) = &error else {
        panic!("{error}")
    };
    assert!(inner.to_string().contains("ballast"), "{error}");
    fs::remove_file(&ballast).unwrap();
    let result = app.apply_async(echo.s("b".into())).await.unwrap();
    assert_eq!(result.get().await.unwrap(), "b");
    app.shutdown().await.unwrap();
}
