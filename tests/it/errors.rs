//! The errors as an app's user meets them: typed, and saying what and where.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use chordal::persistence::{Batch, Scan, SledStore, Store};
use chordal::prelude::*;
use chordal::{Durability, Error, Id, IdError, StoreError, SubmitError};
use tempfile::TempDir;

#[test]
fn debug_is_the_text_and_alternate_debug_shows_the_fields() {
    let id: Id = "01900000-0000-7000-8000-000000000000".parse().unwrap();
    let busy = SubmitError::Busy {
        tasks: 3,
        bytes: 70,
    };
    for (error, fields) in [
        (
            Error::from(IdError::Unknown { id }),
            "Id(\n    Unknown {\n        id: ",
        ),
        (
            busy.into(),
            "Submit(\n    Busy {\n        tasks: 3,\n        bytes: 70,\n    },\n)",
        ),
        (Error::Halted("why".into()), "Halted(\n    \"why\",\n)"),
        (Error::ShutDown, "ShutDown"),
    ] {
        assert_eq!(format!("{error:?}"), error.to_string());
        let shown = format!("{error:#?}");
        assert!(shown.starts_with(fields), "{shown}");
    }
}

/// The guide has a row for every variant, by the name under which it is matched.
#[test]
fn the_guide_lists_every_error() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = fs::read_to_string(root.join("docs/guide/errors.md")).unwrap();
    let mut names = Vec::new();
    for file in ["src/error.rs", "src/persistence/store/error.rs"] {
        let text = fs::read_to_string(root.join(file)).unwrap();
        for item in syn::parse_file(&text).unwrap().items {
            match item {
                syn::Item::Enum(item) if item.ident.to_string().ends_with("Error") => {
                    let variants = item.variants.iter();
                    names.extend(variants.map(|of| format!("`{}::{}", item.ident, of.ident)));
                }
                _ => {}
            }
        }
    }
    assert!(names.len() > 30, "{names:?}");
    names.retain(|name| !page.contains(name));
    assert!(names.is_empty(), "not in the guide: {names:?}");
}

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
            StoreError::UnsupportedVersion {
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

/// A store that has no room for new work at first.
#[derive(Debug)]
struct NoRoom {
    inner: SledStore,
    has_room: Arc<AtomicBool>,
}

impl Store for NoRoom {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        self.inner.get(key)
    }

    fn scan(&self, from: &[u8], to: &[u8]) -> Scan<'_> {
        self.inner.scan(from, to)
    }

    fn apply(&self, batch: Batch) -> Result<(), StoreError> {
        self.inner.apply(batch)
    }

    fn sync(&self, durability: Durability) -> Result<(), StoreError> {
        self.inner.sync(durability)
    }

    fn room(&self) -> Result<(), StoreError> {
        match self.has_room.load(Ordering::SeqCst) {
            true => self.inner.room(),
            false => Err(StoreError::Full {
                doing: "keep room free".to_owned(),
            }),
        }
    }
}

/// (What halts the engine is in `actors/tests.rs` and `recovery.rs`; full disks in `tests/crash`.)
#[tokio::test]
async fn new_work_that_there_is_no_room_for_is_told_that_the_disk_is_full() {
    let home = filled().await;
    let has_room = Arc::new(AtomicBool::new(false));
    let store = NoRoom {
        inner: SledStore::open(home.path().join("data")).unwrap(),
        has_room: has_room.clone(),
    };
    let app = App::with_store(store).tasks(tasks![echo]);
    let app = app.start().await.unwrap();
    let error = app.apply_async(echo.s("a".into())).await.unwrap_err();
    assert_eq!(error.to_string(), "the disk is full: cannot keep room free");
    has_room.store(true, Ordering::SeqCst);
    let result = app.apply_async(echo.s("b".into())).await.unwrap();
    assert_eq!(result.get().await.unwrap(), "b");
    app.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_store_that_cannot_be_opened_says_why() {
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join("file");
    fs::write(&file, b"mine").unwrap();
    for (path, reason) in [
        (file.clone(), "it is a file"),
        (file.join("below"), "Not a directory"),
        (home.path().join("x".repeat(300)), "File name too long"),
    ] {
        let (error, text) = refusal(&path).await;
        assert!(matches!(error, StoreError::Io { .. }), "{text}");
        assert!(text.contains(reason), "{text}");
        // As anyhow and others print it: with its causes, but nothing twice.
        let printed = format!("{:#}", anyhow::Error::new(Error::Store(error)));
        assert_eq!(printed.matches(reason).count(), 1, "{printed}");
    }
}

#[tokio::test]
async fn a_file_of_another_store_is_named() {
    let (home, other) = (filled().await, filled().await);
    let name = "data/wal/00000001.segment";
    fs::copy(other.path().join(name), home.path().join(name)).unwrap();
    let (error, text) = refusal(&home.path().join("data")).await;
    assert!(matches!(error, StoreError::WrongStore { .. }), "{text}");
    assert!(
        text.contains("00000001.segment belongs to another store"),
        "{text}"
    );
}

/// Submits until that is refused; says how often it was not, and the error.
#[cfg(unix)]
async fn submit_until_refused(app: &App) -> (Vec<chordal::Id>, Error) {
    let mut acked = Vec::new();
    while acked.len() < 2_000 {
        match app.apply_async(echo.s("x".repeat(50_000))).await {
            Ok(result) => acked.push(result.id()),
            Err(error) => return (acked, error),
        }
    }
    panic!("it goes on")
}

#[cfg(unix)]
#[tokio::test]
async fn an_app_whose_directory_was_renamed_halts_and_leaves_the_store_that_is_there_now() {
    let home = filled().await;
    let [path, moved] = ["data", "moved"].map(|name| home.path().join(name));
    let app = start(&path).await.unwrap();
    fs::rename(&path, &moved).unwrap();
    // Another program begins anew at the path.
    let other = start(&path).await.unwrap();
    let its = other
        .apply_async(echo.s("its own".into()))
        .await
        .unwrap()
        .id();
    let (acked, error) = submit_until_refused(&app).await;
    assert!(
        error.to_string().contains("while the store was open"),
        "{error}"
    );
    let error = app.shutdown().await.unwrap_err();
    assert!(
        error.to_string().contains("while the store was open"),
        "{error}"
    );
    other.shutdown().await.unwrap();

    let other = start(&path).await.unwrap();
    let result = other.async_result::<String>(its).await.unwrap();
    assert_eq!(result.get().await.unwrap(), "its own");
    other.shutdown().await.unwrap();
    let app = start(&moved).await.unwrap();
    for id in acked {
        assert!(app.async_result::<String>(id).await.is_ok());
    }
    app.shutdown().await.unwrap();
}

#[cfg(unix)]
#[tokio::test]
async fn an_app_whose_directory_was_deleted_acknowledges_nothing_more() {
    let home = filled().await;
    let path = home.path().join("data");
    let app = start(&path).await.unwrap();
    fs::remove_dir_all(&path).unwrap();
    let error = app.apply_async(echo.s("lost".into())).await.unwrap_err();
    assert!(
        error
            .to_string()
            .contains("was deleted while the store was open"),
        "{error}"
    );
    let error = app.shutdown().await.unwrap_err();
    assert!(error.to_string().contains("was deleted"), "{error}");
    assert!(!path.exists());
}
