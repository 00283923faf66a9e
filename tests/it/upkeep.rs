//! Verify, backup, export and import: over stores with some of everything in them.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use chordal::persistence::{
    self, Audit, Batch, Engine, MemoryStore, Pair, RedbStore, SledStore, Store,
};
use chordal::prelude::*;
use chordal::{Durability, Error, Id, StoreError};
use tempfile::TempDir;

use crate::disk::Disk;
use crate::recovery::within;

#[test]
fn all_that_can_be_inspected_can_be_serialized() {
    fn check<T: serde::Serialize + serde::de::DeserializeOwned>() {}
    check::<Id>();
    check::<chordal::State>();
    check::<(chordal::ParkedTask, chordal::QuarantinedTask)>();
    check::<(chordal::QuarantinePolicy, chordal::RevokeOutcome)>();
    check::<(TaskFailure, chordal::FailureKind, Completion<u64>)>();
    check::<(Audit, persistence::Finding, persistence::Salvaged)>();
    check::<(Durability, chordal::Holder)>();
    let completion = Completion {
        index: 3,
        outcome: Ok("x"),
    };
    let json = serde_json::to_string(&completion).unwrap();
    assert_eq!(json, r#"{"index":3,"outcome":{"Ok":"x"}}"#);
}

#[task(name = "upkeep.label")]
pub(crate) async fn label(text: String) -> String {
    text
}

#[task(name = "upkeep.join")]
async fn join(all: Vec<String>) -> String {
    all.concat()
}

#[task(name = "upkeep.size")]
async fn size(all: Vec<String>) -> usize {
    all.len()
}

#[task(name = "upkeep.add")]
async fn add(acc: String, more: String) -> String {
    acc + &more
}

#[task(name = "upkeep.split")]
async fn split(n: usize) -> Vec<String> {
    vec!["x".to_owned(); n]
}

#[task(name = "upkeep.echo")]
async fn echo(text: String) -> String {
    text
}

/// Asks for another attempt, and goes on with arguments too large for one record.
#[task(name = "upkeep.again", max_retries = 2)]
async fn again(ctx: &TaskContext, text: String) -> Result<usize, TaskError> {
    if text.len() > 10 {
        return Ok(text.len());
    }
    let retry = ctx.retry().countdown(Duration::from_millis(1));
    Err(retry.args(("y".repeat(20_000),)).into())
}

#[task(name = "upkeep.fail", max_retries = 0)]
async fn fail(_text: String) -> Result<String, TaskError> {
    Err(TaskError::new("no"))
}

#[task(name = "upkeep.call")]
async fn call(ctx: &TaskContext, n: usize) -> Result<usize, TaskError> {
    let many = group((0..n).map(|i| label.s(format!("{i:0>100}")))) | size.partial();
    Ok(ctx.call("many", many).await?)
}

#[task(name = "upkeep.become")]
async fn become_a_group(ctx: &TaskContext, n: usize) -> Result<String, TaskError> {
    ctx.replace(group((0..n).map(|_| label.s("z".repeat(50)))) | join.partial())
}

pub(crate) fn builder(path: impl Into<PathBuf>) -> chordal::AppBuilder {
    App::open(path)
        .tasks(tasks![
            label,
            join,
            size,
            add,
            split,
            echo,
            again,
            fail,
            call,
            become_a_group
        ])
        .live_workflows(8)
}

/// Which of them waits for an hour.
const LATER: usize = 11;
const KINDS: usize = 13;

/// Submits some of everything.
async fn submit_all(app: &App, round: usize) -> Vec<Id> {
    let large = || "large ".repeat(3_000);
    let text = |n: usize| format!("{n:0>40}");
    let canvases: Vec<Canvas> = vec![
        label.s("one".into()).into(),
        (label.s(large()) | echo.partial()).into(),
        (group((0..300).map(move |n| label.s(text(n)))) | join.partial()).into(),
        group((0..3).map(move |_| label.s(large()))).into(),
        (split.s(40) | echo.each() | size.partial()).into(),
        group((0..50).map(move |n| label.s(text(n))))
            .fold(String::new(), add)
            .into(),
        again.s("a".into()).into(),
        fail.s("b".into()).on_error(echo.si("failed".into())).into(),
        call.s(200).into(),
        become_a_group.s(100).into(),
        label
            .s("key".into())
            .idempotency_key(format!("key-{round}"))
            .into(),
        label
            .s("later".into())
            .countdown(Duration::from_secs(3_600))
            .into(),
        Canvas::task("upkeep.echo", ("x".repeat(3_000),)),
    ];
    assert_eq!(canvases.len(), KINDS);
    let mut ids = Vec::new();
    for canvas in canvases {
        ids.push(app.apply_async(canvas).await.unwrap().id());
    }
    ids
}

/// Why, but not in which attempt: one that was running when the copy was made runs again.
fn why(error: Error) -> String {
    let text = error.to_string();
    text.rsplit(": ").next().unwrap().to_owned()
}

/// All that is in a store that nobody has open.
pub(crate) fn records(path: &Path) -> Vec<Pair> {
    pairs(&SledStore::open(path).unwrap())
}

pub(crate) fn pairs(store: &dyn Store) -> Vec<Pair> {
    store.scan(&[0], &[0xff]).map(Result::unwrap).collect()
}

#[track_caller]
pub(crate) fn is_sound(audit: &Audit) {
    let all: Vec<_> = audit.findings.iter().map(ToString::to_string).collect();
    assert_eq!(all, [""; 0]);
}

/// Every file below, with what is in it, and its mode.
pub(crate) fn bytes_of(directory: &Path) -> BTreeMap<PathBuf, (u32, Vec<u8>)> {
    use std::os::unix::fs::PermissionsExt;
    let mut all = BTreeMap::new();
    let mut open = vec![directory.to_owned()];
    while let Some(next) = open.pop() {
        for entry in fs::read_dir(next).unwrap() {
            let path = entry.unwrap().path();
            let mode = fs::metadata(&path).unwrap().permissions().mode();
            if path.is_dir() {
                open.push(path.clone());
                all.insert(path, (mode, Vec::new()));
            } else {
                let bytes = fs::read(&path).unwrap();
                all.insert(path, (mode, bytes));
            }
        }
    }
    all
}

/// A closed store in which everything has ended that will.
pub(crate) async fn filled() -> TempDir {
    let home = tempfile::tempdir().unwrap();
    let app = builder(home.path().join("data")).start().await.unwrap();
    let ids = submit_all(&app, 0).await;
    for id in ids
        .iter()
        .enumerate()
        .filter(|(n, _)| *n != LATER)
        .map(|(_, id)| id)
    {
        let _ = app
            .async_result::<serde_json::Value>(*id)
            .await
            .unwrap()
            .get()
            .await;
    }
    app.shutdown().await.unwrap();
    home
}

/// The most that is kept is kept while much goes on: each backup is a state of its own.
#[tokio::test]
async fn a_backup_at_any_time_is_sound_and_goes_on_to_the_same_results() {
    let home = tempfile::tempdir().unwrap();
    let at = |n: usize| home.path().join(format!("backup {n}"));
    let app = builder(home.path().join("data")).start().await.unwrap();
    let mut ids = Vec::new();
    let mut known = Vec::new();
    for round in 0..8 {
        ids.extend(submit_all(&app, round).await);
        app.backup(at(round)).await.unwrap();
        known.push(ids.len());
    }
    let mut results = Vec::new();
    for (n, id) in ids.iter().enumerate() {
        let result = app.async_result::<serde_json::Value>(*id).await.unwrap();
        results.push(match n % KINDS == LATER {
            true => None,
            false => Some(result.get().await.map_err(why)),
        });
    }
    app.shutdown().await.unwrap();
    let mut unfinished = 0;
    for (round, known) in known.into_iter().enumerate() {
        let audit = App::verify(at(round)).await.unwrap();
        is_sound(&audit);
        unfinished += audit.live + audit.waiting;
        let copy = builder(at(round)).start().await.unwrap();
        for (id, expected) in ids.iter().zip(&results).take(known) {
            let found = copy.async_result::<serde_json::Value>(*id).await.unwrap();
            if let Some(expected) = expected {
                let found = found.get().await.map_err(why);
                assert_eq!(found, *expected);
            }
        }
        copy.shutdown().await.unwrap();
        is_sound(&App::verify(at(round)).await.unwrap());
    }
    assert!(
        unfinished > 8,
        "more than what waits for its time: {unfinished}"
    );
}

#[tokio::test]
async fn a_backup_goes_nowhere_where_something_is_and_leaves_nothing_when_it_fails() {
    let home = tempfile::tempdir().unwrap();
    let app = builder(home.path().join("data")).start().await.unwrap();
    let there = home.path().join("there");
    fs::create_dir(&there).unwrap();
    let error = app.backup(&there).await.unwrap_err();
    assert!(
        matches!(&error, Error::Store(StoreError::Io { doing, .. }) if doing.contains("there"))
    );
    fs::write(home.path().join("file"), "mine").unwrap();
    assert!(app.backup(home.path().join("file/below")).await.is_err());
    // Somebody else's, by its name only; and what a backup that was cut short has left.
    let part = home.path().join("copy.part");
    fs::create_dir(&part).unwrap();
    assert!(app.backup(home.path().join("copy")).await.is_err());
    fs::write(part.join(".unfinished"), "").unwrap();
    fs::write(part.join("rest"), "").unwrap();
    app.backup(home.path().join("copy")).await.unwrap();
    assert!(!part.exists() && !home.path().join("copy/rest").exists());
    app.shutdown().await.unwrap();

    let app = App::in_memory().start().await.unwrap();
    let error = app.backup(home.path().join("memory")).await.unwrap_err();
    assert!(matches!(&error, Error::Store(StoreError::Io { source, .. })
        if source.kind() == std::io::ErrorKind::Unsupported));
    app.shutdown().await.unwrap();
}

/// Verifies a store with the workflows of [`filled`], which changes nothing in `home`.
async fn audit_of_filled(home: &Path, store: &Path) -> Audit {
    let before = bytes_of(home);
    let audit = App::verify(store).await.unwrap();
    assert!(bytes_of(home) == before, "and nothing is left beside it");
    is_sound(&audit);
    assert_eq!((audit.live, audit.waiting, audit.ended), (0, 1, 12));
    audit
}

#[tokio::test]
async fn an_audit_counts_everything_and_changes_nothing() {
    let home = filled().await;
    let path = home.path().join("data");
    let audit = audit_of_filled(home.path(), &path).await;
    let all = records(&path);
    let bytes: usize = all.iter().map(|(key, value)| key.len() + value.len()).sum();
    assert_eq!(
        (audit.records, audit.bytes),
        (all.len() as u64, bytes as u64)
    );
    assert!(audit.segments > 0 && audit.frames > 5, "{audit:?}");
}

#[tokio::test]
async fn a_store_in_use_is_not_audited_and_what_is_none_is_no_store() {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("data");
    let app = builder(&path).start().await.unwrap();
    let error = App::verify(&path).await.unwrap_err();
    let this = chordal::Holder::ThisProcess;
    assert!(
        matches!(&error, Error::Store(StoreError::Locked { holder, .. }) if *holder == this),
        "{error}"
    );
    app.shutdown().await.unwrap();
    for none in [home.path().to_owned(), home.path().join("nowhere")] {
        let error = App::verify(none).await.unwrap_err();
        assert!(matches!(&error, Error::Store(StoreError::Io { source, .. })
            if source.kind() == std::io::ErrorKind::NotFound));
    }
    assert_eq!(fs::read_dir(home.path()).unwrap().count(), 1);
}

/// Each kind of record taken away or bent, in a store of its own.
#[tokio::test]
async fn an_audit_finds_every_kind_of_damage_to_the_records() {
    let home = filled().await;
    let all = records(&home.path().join("data"));
    let copies = tempfile::tempdir().unwrap();
    let mut number = 0;
    let mut audited = async |change: &dyn Fn(&[Pair], &mut Batch)| {
        number += 1;
        let path = copies.path().join(number.to_string());
        let store = SledStore::open(&path).unwrap();
        let mut batch = Batch::new();
        for (key, value) in &all {
            batch.put(key.clone(), value.clone());
        }
        change(&all, &mut batch);
        store.apply(batch).unwrap();
        drop(store);
        App::verify(&path).await.unwrap()
    };
    is_sound(&audited(&|_, _| {}).await);
    let of = |all: &[Pair], tag: u8| -> Vec<Pair> {
        all.iter()
            .filter(|(key, _)| key[0] == tag)
            .cloned()
            .collect()
    };
    // Without the last record of a kind (of which the store has some).
    for (tag, what) in [
        (b'b', "does not wait for it"),
        (b'u', "has no queue position"),
        (b'e', "no header"),
        (b'r', "has no result"),
        (b'd', "of its"),
        (b'p', "not all there"),
        (b'i', "idempotency key is not there"),
    ] {
        let audit = audited(&|all, batch| {
            let (key, _) = of(all, tag).pop().unwrap();
            batch.delete(key);
        })
        .await;
        let found = audit
            .findings
            .iter()
            .any(|finding| finding.what.contains(what));
        assert!(
            found,
            "without a `{}`: {:?}",
            char::from(tag),
            audit.findings
        );
    }
    // With a bit of it turned over, at its front, in the middle and at its end.
    for tag in *b"mbedsprci" {
        let some = of(&all, tag);
        assert!(!some.is_empty(), "no `{}`", char::from(tag));
        for part in 0..3 {
            let audit = audited(&|all, batch| {
                let (key, mut value) = of(all, tag).pop().unwrap();
                let place = (value.len() - 1) * part / 2;
                value[place] ^= 1;
                batch.put(key, value);
            })
            .await;
            assert!(!audit.is_sound(), "a bent `{}`", char::from(tag));
        }
    }
    for (tag, what) in [(b'x', "marked for deletion"), (b'w', "two headers")] {
        let audit = audited(&|all, batch| {
            let (ended, head) = of(all, b'e').pop().unwrap();
            let mark = of(all, b'u').pop().unwrap().1;
            let value = if tag == b'x' { mark } else { head };
            batch.put([&[tag], &ended[9..]].concat(), value);
        })
        .await;
        let found = audit
            .findings
            .iter()
            .any(|finding| finding.what.contains(what));
        assert!(found, "{what}: {:?}", audit.findings);
    }
    let audit = audited(&|_, batch| batch.put("zebra", "x")).await;
    assert!(audit.findings[0].what.contains("no record has such a key"));
    let audit = audited(&|all, batch| {
        for (key, _) in of(all, b'm') {
            batch.put(key, "x");
        }
        (0..3_000_u32).for_each(|n| batch.put(format!("zebra {n}"), "x"));
    })
    .await;
    assert_eq!(audit.findings.len(), 1_000);
    assert!(audit.omitted > 2_000);
}

#[tokio::test]
async fn a_large_submission_is_sound_behind_each_commit_until_it_is_swept() {
    let disk = Disk::default();
    let app = App::with_store(disk.clone()).tasks(tasks![label]);
    let app = app.start().await.unwrap();
    // Arguments of many records each, and more of them than one commit deletes.
    let many = group((0..9).map(|_| label.s("large".repeat(100_000))));
    let many = app.apply_async(many).await.unwrap();
    many.get().await.unwrap();
    many.forget().await.unwrap();
    let is_swept =
        || disk.scan(b"d", b"e").next().is_none() && disk.scan(b"x", b"y").next().is_none();
    within(async {
        while !is_swept() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    app.shutdown().await.unwrap();
    let mut remains = 0;
    for kept in 0..=disk.batches() {
        let store = disk.crashed_after(kept);
        let audit = persistence::verify(&store);
        assert!(audit.is_sound(), "commit {kept}: {:?}", audit.findings);
        remains += usize::from(store.scan(b"x", b"y").next().is_some());
    }
    assert!(
        remains > 3,
        "neither the submission nor the sweep has parts"
    );
}

#[tokio::test]
async fn an_audit_says_where_files_are_damaged() {
    let home = filled().await;
    let path = home.path().join("data");
    let segment = path.join("wal/00000001.segment");
    for (file, place) in [(segment, 4_200), (path.join("sled/db"), 30)] {
        let sound = fs::read(&file).unwrap();
        let mut bytes = sound.clone();
        bytes[place..place + 20].fill(0xaa);
        fs::write(&file, bytes).unwrap();
        let before = bytes_of(home.path());
        let audit = App::verify(&path).await.unwrap();
        assert!(bytes_of(home.path()) == before);
        let text = format!("{:?}", audit.findings);
        assert!(
            !audit.is_sound() && text.contains("were not read"),
            "{text}"
        );
        assert!(!text.contains(".verify-"), "no place in the copy: {text}");
        // What sled has lost its log misses.
        let name = if place == 30 {
            "wal"
        } else {
            "00000001.segment"
        };
        assert!(audit.findings[0].place.ends_with(name), "{text}");
        fs::write(&file, sound).unwrap();
    }
    is_sound(&App::verify(&path).await.unwrap());
}

#[tokio::test]
async fn what_is_exported_and_imported_is_the_same() {
    let home = filled().await;
    let path = home.path().join("data");
    let app = builder(&path).start().await.unwrap();
    let file = home.path().join("all.jsonl");
    let count = app.export(&file).await.unwrap();
    assert!(app.export(&file).await.is_err(), "nothing is written over");
    app.shutdown().await.unwrap();
    let other = home.path().join("other");
    assert_eq!(
        App::import(&file, &other, Engine::Sled).await.unwrap(),
        count
    );
    let all = records(&other);
    assert_eq!(all.len() as u64, count);
    // The one was shut down after that, and has noted it.
    let lasting = |all: Vec<Pair>| -> Vec<Pair> {
        all.into_iter()
            .filter(|(key, _)| ![&b"m/life"[..], b"m/clock", b"m/stopping"].contains(&&key[..]))
            .collect()
    };
    assert!(lasting(records(&path)) == lasting(all.clone()));
    is_sound(&App::verify(&other).await.unwrap());
    // Into a store of another kind, and out of it again.
    let memory = MemoryStore::new();
    persistence::import(&memory, &fs::read(&file).unwrap()[..]).unwrap();
    let mut text = Vec::new();
    persistence::export(&memory, &mut text).unwrap();
    assert!(text == fs::read(&file).unwrap());

    let error = App::import(&file, &other, Engine::Sled).await.unwrap_err();
    assert!(error.to_string().contains("not empty"), "{error}");
    assert!(records(&other) == all);
}

#[tokio::test]
async fn a_store_of_redb_is_imported_audited_and_backed_up_like_one_of_sled() {
    let home = filled().await;
    let file = home.path().join("all.jsonl");
    let app = builder(home.path().join("data")).start().await.unwrap();
    let count = app.export(&file).await.unwrap();
    app.shutdown().await.unwrap();
    let path = home.path().join("redb");
    let imported = App::import(&file, &path, Engine::Redb).await.unwrap();
    assert_eq!(imported, count);
    let audit = audit_of_filled(home.path(), &path).await;
    assert_eq!((audit.records, audit.segments), (count, 0));
    let error = App::import(&file, &path, Engine::Redb).await.unwrap_err();
    assert!(error.to_string().contains("not empty"), "{error}");
    let error = App::import(&file, &path, Engine::Sled).await.unwrap_err();
    assert!(
        matches!(error, Error::Store(StoreError::WrongEngine { .. })),
        "{error:?}"
    );

    // The app writes while it is copied, and the copy is as sound as it is.
    let app = App::with_store(RedbStore::open(&path).unwrap()).tasks(tasks![label]);
    let app = app.start().await.unwrap();
    let error = App::verify(&path).await.unwrap_err();
    assert!(
        matches!(error, Error::Store(StoreError::Locked { .. })),
        "{error:?}"
    );
    let mut running = Vec::new();
    for n in 0..50 {
        running.push(app.apply_async(label.s(format!("{n}"))).await.unwrap());
    }
    let copy = home.path().join("copy");
    app.backup(&copy).await.unwrap();
    for result in &running {
        result.get().await.unwrap();
    }
    app.shutdown().await.unwrap();
    for path in [&path, &copy] {
        is_sound(&App::verify(path).await.unwrap());
    }
    let app = App::with_store(RedbStore::open(&copy).unwrap()).tasks(tasks![label]);
    let app = app.start().await.unwrap();
    for (n, result) in running.iter().enumerate() {
        let result = app.async_result::<String>(result.id()).await.unwrap();
        assert_eq!(result.get().await.unwrap(), format!("{n}"));
    }
    app.shutdown().await.unwrap();

    let db = path.join("redb/db");
    let mut bytes = fs::read(&db).unwrap();
    let used = bytes.iter().rposition(|byte| *byte != 0).unwrap();
    bytes[4096..used].fill(0xaa);
    fs::write(&db, bytes).unwrap();
    let before = bytes_of(home.path());
    let audit = App::verify(&path).await.unwrap();
    assert!(bytes_of(home.path()) == before);
    let text = format!("{:?}", audit.findings);
    assert!(
        !audit.is_sound() && text.contains("were not read") && !text.contains(".verify"),
        "{text}"
    );
}

/// A small store, as text.
async fn exported() -> String {
    let store = MemoryStore::new();
    let app = App::with_store(store.clone()).tasks(tasks![label]);
    let app = app.start().await.unwrap();
    app.apply_async(label.s("a".into()))
        .await
        .unwrap()
        .get()
        .await
        .unwrap();
    app.shutdown().await.unwrap();
    let mut text = Vec::new();
    persistence::export(&store, &mut text).unwrap();
    String::from_utf8(text).unwrap()
}

#[tokio::test]
async fn an_export_that_is_cut_or_bent_anywhere_is_refused_and_leaves_nothing() {
    let text = exported().await;
    let store = MemoryStore::new();
    for cut in 0..text.len() {
        let error = persistence::import(&store, &text.as_bytes()[..cut]).unwrap_err();
        assert!(
            matches!(error, StoreError::Corrupt { .. }),
            "{cut}: {error}"
        );
        let mut bent = text.clone().into_bytes();
        bent[cut] ^= 1;
        let error = persistence::import(&store, &bent[..]).unwrap_err();
        let is_typed = matches!(
            error,
            StoreError::Corrupt { .. } | StoreError::UnsupportedVersion { .. }
        );
        assert!(is_typed, "{cut}: {error}");
        assert_eq!(pairs(&store), []);
    }
    let longer = format!("{text}\n");
    assert!(persistence::import(&store, longer.as_bytes()).is_err());
    let newer = text.replacen("\"version\":1", "\"version\":2", 1);
    let error = persistence::import(&store, newer.as_bytes()).unwrap_err();
    assert!(
        matches!(
            error,
            StoreError::UnsupportedVersion {
                found: 2,
                supported: 1,
                ..
            }
        ),
        "{error}"
    );
    persistence::import(&store, text.as_bytes()).unwrap();
}

/// Ends with an error in the middle, as a process that is killed there would.
struct Dies<'a>(&'a [u8], std::sync::Arc<MemoryStore>, MemoryStore);

impl std::io::Read for Dies<'_> {
    fn read(&mut self, to: &mut [u8]) -> std::io::Result<usize> {
        if self.0.is_empty() {
            // What is in the store now is what the kill leaves.
            let mut batch = Batch::new();
            pairs(&*self.1)
                .into_iter()
                .for_each(|(key, value)| batch.put(key, value));
            self.2.apply(batch).unwrap();
            return Err(std::io::Error::other("killed"));
        }
        self.0.read(to)
    }
}

#[tokio::test]
async fn a_store_into_which_an_import_was_cut_short_is_refused_until_it_is_imported_again() {
    let text = exported().await;
    let store = std::sync::Arc::new(MemoryStore::new());
    let left = MemoryStore::new();
    let dies = Dies(
        &text.as_bytes()[..text.len() / 2],
        store.clone(),
        left.clone(),
    );
    persistence::import(&*store, std::io::BufReader::new(dies)).unwrap_err();
    assert_eq!(pairs(&*store), [], "without the kill it is empty again");

    assert!(!pairs(&left).is_empty());
    let started = App::with_store(left.clone())
        .tasks(tasks![label])
        .start()
        .await;
    let error = started.unwrap_err();
    assert!(error.to_string().contains("import again"), "{error}");
    persistence::import(&left, text.as_bytes()).unwrap();
    let app = App::with_store(left.clone()).tasks(tasks![label]);
    app.start().await.unwrap().shutdown().await.unwrap();
}

#[tokio::test]
async fn a_damaged_record_is_not_exported() {
    let store = MemoryStore::new();
    persistence::import(&store, exported().await.as_bytes()).unwrap();
    let (key, mut value) = pairs(&store).pop().unwrap();
    value[8] ^= 1;
    let mut batch = Batch::new();
    batch.put(key, value);
    store.apply(batch).unwrap();
    store.sync(Durability::Power).unwrap();
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join("all.jsonl");
    let error = persistence::export(&store, Vec::new()).unwrap_err();
    assert!(matches!(error, StoreError::Corrupt { .. }), "{error}");
    let app = App::with_store(store).tasks(tasks![label]).start().await;
    if let Ok(app) = app {
        assert!(app.export(&file).await.is_err());
        assert!(!file.exists());
        app.shutdown().await.unwrap();
    }
}
