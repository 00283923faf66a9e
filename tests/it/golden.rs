//! Stores that earlier versions have written: they open, and what was unfinished goes on to its end.
//!
//! Each is in `tests/golden`, by the version that wrote it, and redb's say so in their name.
//! `cargo test --test it golden::write -- --ignored` writes those of this version anew, and the corpus of `fuzz/`; do
//! so before a release that changes what is stored, in directories of their own names, and keep the older ones.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;
use std::time::{Duration, SystemTime};

use chordal::persistence::{Audit, Batch, RedbStore, SledStore, Store};
use chordal::prelude::*;
use chordal::{AppBuilder, Clock, Durability, Error, FailureKind, State};
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::recovery::within;
use crate::upkeep::{bytes_of, is_sound};

pub(crate) const VERSION: &str = "v0.1-ids";
const REDB: &str = "v0.1-ids-redb";
/// Where the process that writes a golden store has it; other processes let all tasks end.
const HOME: &str = "CHORDAL_TEST_GOLDEN";

/// How many tasks do not end.
static HELD: LazyLock<watch::Sender<usize>> = LazyLock::new(watch::Sender::default);

#[task(name = "golden.hold")]
async fn hold(n: u64) -> u64 {
    hold_on().await;
    n
}

#[task(name = "golden.gone")]
async fn gone(n: u64) -> u64 {
    hold_on().await;
    n
}

async fn hold_on() {
    if std::env::var_os(HOME).is_some() {
        HELD.send_modify(|held| *held += 1);
        std::future::pending::<()>().await;
    }
}

#[task(name = "golden.double")]
async fn double(n: u64) -> u64 {
    2 * n
}

#[task(name = "golden.total")]
async fn total(all: Vec<u64>) -> u64 {
    all.iter().sum()
}

#[task(name = "golden.add")]
async fn add(acc: u64, n: u64) -> u64 {
    acc + n
}

#[task(name = "golden.letters")]
async fn letters(bytes: usize) -> String {
    "x".repeat(bytes)
}

#[task(name = "golden.length")]
async fn length(text: String) -> usize {
    text.len()
}

#[task(name = "golden.fail", max_retries = 0)]
async fn fail(n: u64) -> Result<u64, TaskError> {
    Err(TaskError::new(format!("no {n}")))
}

/// Asks for a retry in an hour.
#[task(name = "golden.again", max_retries = 1)]
async fn again(ctx: &TaskContext, n: u64) -> Result<u64, TaskError> {
    match ctx.attempt() {
        1 => Err(ctx.retry().countdown(HOUR).args((n + 1,)).into()),
        _ => Ok(n),
    }
}

#[task(name = "golden.poison")]
async fn poison(n: u64) -> u64 {
    if std::env::var_os(HOME).is_some() {
        std::process::abort();
    }
    n
}

const HOUR: Duration = Duration::from_secs(3_600);

/// The time at which it was written.
fn then() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000)
}

fn set_up(builder: AppBuilder, now: SystemTime) -> AppBuilder {
    let tasks = tasks![
        hold, double, total, add, letters, length, fail, again, poison
    ];
    builder
        .tasks(tasks)
        .clock(Clock::manual(now))
        .live_workflows(7)
}

/// What is in it: how it ends, by its idempotency key. The first four have ended; the last three wait for
/// a place.
fn canvases() -> Vec<(&'static str, Canvas, Value)> {
    let few = || (0..5).map(|n| double.s(n)).chain([hold.s(100)]);
    vec![
        ("task", double.s(21).into(), json!(42)),
        (
            "large",
            (letters.s(20_000) | length.partial()).into(),
            json!(20_000),
        ),
        (
            "many",
            (group((0..500).map(|n| double.s(n))) | total.partial()).into(),
            json!(249_500),
        ),
        ("failed", fail.s(7).into(), json!("no 7")),
        ("delayed", double.s(4).countdown(HOUR).into(), json!(8)),
        ("retry", again.s(5).into(), json!(6)),
        (
            "chain",
            (hold.s(3) | double.partial() | double.partial()).into(),
            json!(12),
        ),
        ("group", group(few()).into(), json!([0, 2, 4, 6, 8, 100])),
        ("chord", (group(few()) | total.partial()).into(), json!(120)),
        ("fold", group(few()).fold(0_u64, add).into(), json!(120)),
        ("parked", (gone.s(9) | double.partial()).into(), json!(18)),
        ("first", double.s(50).into(), json!(100)),
        (
            "second",
            (group((0..300).map(|n| double.s(n))) | total.partial()).into(),
            json!(89_700),
        ),
        (
            "third",
            (letters.s(9_000) | length.partial()).into(),
            json!(9_000),
        ),
    ]
}

const ENDED: u64 = 4;
/// How many tasks are running.
const HOLDERS: usize = 5;

async fn end(app: &App, key: &str, canvas: Canvas) -> Value {
    let result = app.apply_async(canvas.idempotency_key(key)).await.unwrap();
    match within(result.get()).await {
        Ok(value) => value,
        Err(Error::Failed(failure)) => json!(failure.message),
        Err(other) => panic!("{key}: {other}"),
    }
}

/// One life of the process that writes a golden store: the first two end by what they run.
#[test]
#[ignore = "is started by the test that writes the golden store"]
fn life() {
    let home = PathBuf::from(std::env::var_os(HOME).unwrap());
    let name = home.file_name().unwrap().to_str().unwrap().to_owned();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let builder = open(&name, &home.join("data"), then()).tasks(tasks![gone]);
        let app = builder.start().await.unwrap();
        if app.quarantined().is_empty() {
            let canvas = poison.s(1).idempotency_key("poison");
            let _ = app.apply_async(canvas).await.unwrap();
            std::future::pending::<()>().await;
        }
        for (n, (key, canvas, value)) in canvases().into_iter().enumerate() {
            if n < ENDED as usize {
                assert_eq!(end(&app, key, canvas).await, value);
            } else {
                let result = app.apply_async(canvas.idempotency_key(key)).await.unwrap();
                // (That it waits is to be on record.)
                while key == "retry" && result.state().await.unwrap() != State::Retry {
                    tokio::task::yield_now().await;
                }
            }
        }
        let mut held = HELD.subscribe();
        held.wait_for(|held| *held == HOLDERS).await.unwrap();
        if !is_redb(&name) {
            app.backup(home.join("copy")).await.unwrap();
        }
    });
    std::process::exit(0);
}

#[test]
#[ignore = "writes the golden stores of this version, and the corpus of the fuzz targets"]
fn write() {
    for version in [VERSION, REDB] {
        let all = tempfile::tempdir().unwrap();
        let home = all.path().join(version);
        fs::create_dir(&home).unwrap();
        let this = std::env::current_exe().unwrap();
        let mut life = Command::new(this);
        life.args(["--exact", "golden::life", "--ignored"]);
        life.env(HOME, &home);
        let lives = (1..5).find(|_| life.status().unwrap().success());
        assert!(lives.is_some(), "it is in quarantine by then");
        let golden = golden(version);
        let _ = fs::remove_dir_all(&golden);
        if is_redb(version) {
            // As the process has left it: it has no backups.
            fs::remove_file(home.join("data/LOCK")).unwrap();
            copy(&home.join("data"), &golden, shortened);
        } else {
            copy(&home.join("copy"), &golden, shortened);
            crate::fuzz::write_corpus(&home.join("copy"));
        }
    }
}

/// Of what was allocated ahead only the length is kept.
fn shortened(bytes: Vec<u8>) -> Vec<u8> {
    let used = bytes
        .iter()
        .rposition(|byte| *byte != 0)
        .map_or(0, |last| last + 1);
    let mut kept = (bytes.len() as u64).to_le_bytes().to_vec();
    kept.extend_from_slice(&bytes[..used]);
    kept
}

fn is_redb(version: &str) -> bool {
    version.ends_with("-redb")
}

/// An app over a golden store.
fn open(version: &str, data: &Path, now: SystemTime) -> AppBuilder {
    let builder = match is_redb(version) {
        true => App::with_store(RedbStore::open(data).unwrap()),
        false => App::open(data),
    };
    set_up(builder, now)
}

async fn audit(data: &Path) -> Audit {
    App::verify(data).await.unwrap()
}

fn golden(version: &str) -> PathBuf {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    golden.join(version)
}

fn copy(from: &Path, to: &Path, change: impl Fn(Vec<u8>) -> Vec<u8> + Copy) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let target = to.join(path.file_name().unwrap());
        if path.is_dir() {
            copy(&path, &target, change);
        } else {
            fs::write(target, change(fs::read(path).unwrap())).unwrap();
        }
    }
}

/// A golden store as it was.
pub(crate) fn restored(version: &str) -> tempfile::TempDir {
    let home = tempfile::tempdir().unwrap();
    copy(&golden(version), &home.path().join("data"), |kept| {
        let (full, used) = kept.split_first_chunk().unwrap();
        let mut bytes = used.to_vec();
        bytes.resize(u64::from_le_bytes(*full) as usize, 0);
        bytes
    });
    home
}

#[track_caller]
fn is_unchanged<T: PartialEq>(before: &BTreeMap<PathBuf, T>, after: &BTreeMap<PathBuf, T>) {
    let all: BTreeSet<_> = before.keys().chain(after.keys()).collect();
    let changed = all
        .into_iter()
        .filter(|path| before.get(*path) != after.get(*path));
    assert_eq!(changed.collect::<Vec<_>>(), [""; 0].map(Path::new));
}

fn versions() -> Vec<String> {
    let all = fs::read_dir(golden("")).unwrap();
    let names = all.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let names: Vec<_> = names.collect();
    for version in [VERSION, REDB] {
        assert!(names.contains(&version.to_owned()), "{names:?}");
    }
    names
}

#[tokio::test]
async fn every_golden_store_is_sound_and_all_in_it_comes_to_its_end() {
    for version in versions() {
        let home = restored(&version);
        let data = home.path().join("data");
        let audit = self::audit(&data).await;
        is_sound(&audit);
        let all = canvases().len() as u64 + 1;
        assert_eq!(
            (audit.ended, audit.live + audit.waiting),
            (ENDED, all - ENDED)
        );
        assert!(audit.waiting >= 3, "{audit:?}");
        // Without one of its tasks, before anything that waits is due.
        let app = open(&version, &data, then()).start().await.unwrap();
        // What was live is gone on with bit by bit.
        within(async {
            while app.parked().await.unwrap().is_empty() {
                tokio::task::yield_now().await;
            }
        })
        .await;
        let parked = app.parked().await.unwrap();
        let [parked] = &parked[..] else {
            panic!("{parked:?}");
        };
        assert_eq!(parked.name, "golden.gone");
        let quarantined = app.quarantined();
        let [guilty] = &quarantined[..] else {
            panic!("{quarantined:?}");
        };
        // Earlier versions were told that two are enough.
        let crashes = if [VERSION, REDB].contains(&&*version) {
            3
        } else {
            2
        };
        assert_eq!((&*guilty.name, guilty.crashes), ("golden.poison", crashes));
        app.shutdown().await.unwrap();
        let builder = open(&version, &data, then() + 2 * HOUR).tasks(tasks![gone]);
        let app = builder.start().await.unwrap();
        app.discard(guilty.id).await.unwrap();
        let discarded = app.async_result::<u64>(guilty.id).await.unwrap();
        match within(discarded.get()).await {
            Err(Error::Failed(failure)) => assert_eq!(failure.kind, FailureKind::Quarantined),
            other => panic!("{other:?}"),
        }
        for (key, canvas, value) in canvases() {
            assert_eq!(end(&app, key, canvas).await, value, "{version}: {key}");
        }
        app.shutdown().await.unwrap();
        let audit = self::audit(&data).await;
        is_sound(&audit);
        // They were found by their keys, none was submitted once more.
        assert_eq!((audit.ended, audit.live, audit.waiting), (all, 0, 0));
    }
}

#[tokio::test]
async fn a_store_with_a_record_of_a_newer_version_is_refused_and_not_a_byte_of_it_is_changed() {
    let home = restored(VERSION);
    let data = home.path().join("data");
    let store = SledStore::open(&data).unwrap();
    let mut record = store.get(b"m/store").unwrap().unwrap();
    record[1] += 1;
    let mut batch = Batch::new();
    batch.put(b"m/store", record);
    store.apply(batch).unwrap();
    drop(store);
    let before = bytes_of(&data);
    for _ in 0..2 {
        let error = set_up(App::open(&data), then()).start().await.unwrap_err();
        assert!(matches!(
            error,
            Error::Store(chordal::StoreError::UnsupportedVersion { found: 2, .. })
        ));
        is_unchanged(&before, &bytes_of(&data));
    }
}

/// What says so is a record, which redb has opened its file to read: so it is the records that are compared.
#[tokio::test]
async fn a_store_of_a_newer_version_is_refused_with_redb_and_no_record_of_it_is_changed() {
    let home = restored(REDB);
    let data = home.path().join("data");
    let store = RedbStore::open(&data).unwrap();
    let mut record = store.get(b"m/store").unwrap().unwrap();
    record[1] += 1;
    let mut batch = Batch::new();
    batch.put(b"m/store", record);
    store.apply(batch).unwrap();
    store.sync(Durability::Power).unwrap();
    let records = |store: &RedbStore| {
        let all = store.scan(b"", b"\xff");
        all.collect::<Result<Vec<_>, _>>().unwrap()
    };
    let before = records(&store);
    drop(store);
    assert!(before.len() > 50, "{}", before.len());
    for _ in 0..2 {
        let error = open(REDB, &data, then()).start().await.unwrap_err();
        assert!(matches!(
            error,
            Error::Store(chordal::StoreError::UnsupportedVersion { found: 2, .. })
        ));
        assert!(records(&RedbStore::open(&data).unwrap()) == before);
    }
}
