//! What users hand over stays out of the logs, at every level, and out of what `Debug` prints. (But for
//! sled, which shows at its level TRACE what it stores: whoever turns that on has asked for it.)
//!
//! One process of its own, because there is one logger in each.

#[path = "../it/disk.rs"]
#[allow(dead_code, reason = "other tests need more of it")]
mod disk;

mod collector;

use std::fmt::Debug;
use std::path::PathBuf;
use std::sync::LazyLock;
use std::time::{Duration, SystemTime};

use chordal::persistence::{RedbStore, SledStore};
use chordal::prelude::*;
use chordal::{AppBuilder, Canvas, Clock, Error, Results, StoreError};
use disk::Disk;
use serde_json::json;
use tokio::sync::watch;

/// Part of every text that is handed over. Short, so that what cuts texts up leaves one whole.
const CANARY: &str = "canary";

/// How many tasks are entered that do not end.
static HELD: LazyLock<watch::Sender<usize>> = LazyLock::new(watch::Sender::default);

/// Which field it was, if it is found.
fn canary(field: &str) -> String {
    format!("<{CANARY} in {field}>")
}

/// As many as take this many bytes.
fn canaries(field: &str, bytes: usize) -> String {
    let one = canary(field);
    one.repeat(bytes / one.len())
}

fn leaks(text: &str) -> bool {
    // As bytes are printed, and as hexadecimal ones.
    let listed = format!("{:?}", CANARY.as_bytes());
    let hex: String = CANARY.bytes().map(|byte| format!("{byte:02x}")).collect();
    let text = text.to_lowercase();
    text.contains(CANARY) || text.contains(listed.trim_matches(['[', ']'])) || text.contains(&hex)
}

fn assert_no_leak(what: &str, shown: &dyn Debug) {
    let texts = [format!("{shown:?}"), format!("{shown:#?}")];
    for text in texts {
        // Pretty lists have a line for each byte.
        let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(!leaks(&text), "{what}: {text}");
    }
}

#[task]
async fn pass(ctx: &TaskContext, text: String, #[default] more: String) -> String {
    assert_no_leak("TaskContext", ctx);
    text + &more + &canary("a result")
}

#[task]
async fn join(all: Vec<String>) -> String {
    all.concat()
}

#[task]
async fn read(mut all: Results<String>) -> Result<u64, TaskError> {
    assert_no_leak("Results", &all);
    let mut bytes = 0;
    for text in all.by_ref() {
        bytes += text?.len() as u64;
    }
    Ok(bytes)
}

#[task]
async fn append(all: String, more: String) -> String {
    all + &more
}

#[task(max_retries = 2, retry_backoff = "1ms", retry_jitter = false)]
async fn fail(text: String) -> Result<String, TaskError> {
    let error = TaskError::new(text + &canary("an error"));
    Err(error.with_type(canary("the type of an error")))
}

#[task(max_retries = 1)]
async fn again(ctx: &TaskContext, text: String) -> Result<String, TaskError> {
    let args = (canaries("the arguments of a retry", 6_000),);
    let retry = ctx.retry().countdown(Duration::ZERO).args(args);
    assert_no_leak("Retry", &retry);
    match ctx.attempt() {
        1 => Err(retry.cause(TaskError::new(text)).into()),
        _ => Ok(text),
    }
}

#[task]
async fn explode(text: String) -> String {
    std::panic::panic_any(text + &canary("a panic"))
}

#[task]
async fn call(ctx: &TaskContext, text: String) -> Result<String, TaskError> {
    let called = pass.s(text.clone(), canary("a call"));
    let value = ctx.call(&canary("the key of a call"), called).await?;
    ctx.replace(pass.s(value, canary("a replacement")))
}

/// An errback.
#[task]
async fn note(failure: TaskFailure) -> String {
    failure.message
}

/// An errback that fails.
#[task]
async fn lose(failure: TaskFailure) -> Result<String, TaskError> {
    Err(TaskError::new(failure.message))
}

#[task(time_limit = "1ms")]
async fn late(text: String) -> String {
    std::future::pending::<()>().await;
    text
}

#[task(soft_time_limit = "1ms", max_retries = 1, retry_backoff = "1ms")]
async fn slow(text: String) -> String {
    std::future::pending::<()>().await;
    text
}

/// Logs before and after it has let go of its thread.
#[task]
async fn speak(ctx: &TaskContext) {
    tracing::info!("at once: {}", ctx.id());
    tokio::task::yield_now().await;
    tracing::info!("later: {}", ctx.id());
}

#[task(blocking)]
fn speak_on_a_thread(ctx: &TaskContext) {
    tracing::info!("on a thread: {}", ctx.id());
}

/// Logs in whoever submits it.
#[task]
async fn speak_in_place(ctx: &TaskContext) {
    tracing::info!("in place: {}", ctx.id());
}

#[task]
async fn hold(text: String) -> String {
    hold_on(text).await
}

async fn hold_on(text: String) -> String {
    HELD.send_modify(|held| *held += 1);
    std::future::pending::<()>().await;
    text
}

/// Waits until so many of these have been entered.
async fn entered(count: usize) {
    let mut held = HELD.subscribe();
    held.wait_for(|held| *held >= count).await.unwrap();
}

/// As that; registered in the first life only.
#[task]
async fn gone(text: String) -> String {
    hold_on(text).await
}

fn set_up(builder: AppBuilder) -> AppBuilder {
    let tasks = tasks![
        pass,
        join,
        read,
        append,
        fail,
        again,
        explode,
        call,
        note,
        hold,
        lose,
        late,
        slow,
        speak,
        speak_on_a_thread,
        speak_in_place
    ];
    builder.tasks(tasks).grace(Duration::ZERO)
}

/// Runs something of everything.
async fn live(app: &App) {
    let large = canaries("a large argument", 300_000);
    let kwargs = json!({"task": "pass", "args": [canary("an argument")],
        "kwargs": {"more": canary("a kwarg")}});
    let texts = || (0..3).map(|n| pass.s(canary("a member"), n.to_string()));
    let canvases: Vec<Canvas> = vec![
        pass.s(canary("an argument"), String::new()).into(),
        pass.s(large, String::new()).into(),
        Canvas::from_json(&kwargs.to_string()).unwrap(),
        (group(texts()) | join.partial()).into(),
        (group(texts()) | read.partial()).into(),
        group(texts()).fold(canary("a first value"), append).into(),
        fail.s(canary("an argument"))
            .on_error(note.partial())
            .into(),
        group([fail.s(canary("one of two")), explode.s(canary("the other"))]).into(),
        again.s(canary("an argument")).into(),
        call.s(canary("an argument")).into(),
        explode.s(canary("an argument")).into(),
        late.s(canary("an argument"))
            .on_error(lose.partial())
            .into(),
        slow.s(canary("an argument")).into(),
        pass.s(canary("an argument"), String::new())
            .expires(Duration::ZERO)
            .into(),
        speak.s().into(),
        speak_on_a_thread.s().into(),
    ];
    for (n, canvas) in canvases.into_iter().enumerate() {
        let canvas = canvas.idempotency_key(format!("{n} {}", canary("a key")));
        assert_no_leak("Canvas", &canvas);
        let result = app.apply_async(canvas).await.unwrap();
        assert_no_leak("AsyncResult", &result);
        match result.get().await {
            Ok(_) | Err(Error::Failed(_)) => {}
            Err(other) => panic!("{other}"),
        }
        assert_no_leak("App", app);
    }
    let wrong = Canvas::task("pass", (7, canary("an argument"), canary("one too many")));
    app.apply_async(wrong).await.unwrap_err();
    let huge = pass.s(canaries("a huge argument", 2 << 20), String::new());
    let error = app.apply_async(huge).await.unwrap_err();
    assert_no_leak("Error::PayloadTooLarge", &error);
}

#[derive(Clone)]
enum Place {
    Sled(PathBuf),
    Redb(PathBuf),
}

impl Place {
    fn open(&self) -> AppBuilder {
        match self {
            Self::Sled(path) => App::with_store(SledStore::open(path).unwrap()),
            Self::Redb(path) => App::with_store(RedbStore::open(path).unwrap()),
        }
    }
}

#[tokio::test]
async fn nothing_that_is_handed_over_is_logged() {
    collector::start();
    let home = tempfile::tempdir().unwrap();
    for place in [
        Place::Sled(home.path().join("sled")),
        Place::Redb(home.path().join("redb")),
    ] {
        let app = set_up(place.open())
            .tasks(tasks![gone])
            .start()
            .await
            .unwrap();
        live(&app).await;
        // As much as makes sled's log move into sled.
        for n in 0..40 {
            let large = pass.s(canaries("a large argument", 300_000), n.to_string());
            app.apply_async(large).await.unwrap().get().await.unwrap();
        }
        let before = *HELD.borrow();
        let _ = app
            .apply_async(hold.s(canary("what was cut short")))
            .await
            .unwrap();
        let _ = app
            .apply_async(gone.s(canary("what is parked")))
            .await
            .unwrap();
        entered(before + 2).await;
        app.shutdown().await.unwrap();
        let parked = parkings();
        let app = set_up(place.open()).start().await.unwrap();
        entered(before + 3).await;
        while parkings() == parked {
            tokio::task::yield_now().await;
        }
        app.shutdown().await.unwrap();
    }
    poisoned().await;
    halted().await;
    in_place().await;
    check();
    check_attempts();
}

async fn in_place() {
    let app = set_up(App::eager()).start().await.unwrap();
    let fails = fail.s(canary("an argument"));
    for canvas in [Canvas::from(speak_in_place.s()), fails.into()] {
        match app.apply_async(canvas).await.unwrap().get().await {
            Ok(_) | Err(Error::Failed(_)) => {}
            Err(other) => panic!("{other}"),
        }
    }
}

/// What is said of attempts that failed, and in which spans they run.
fn check_attempts() {
    let lines = collector::lines();
    let said = |words: &[&str]| {
        let heard = |line: &&String| words.iter().all(|word| line.contains(word));
        lines.iter().filter(heard).count()
    };
    for (words, least) in [
        // With sled, with redb and in place.
        (
            [
                "WARN",
                "is retried",
                "name=\"fail\" attempt=1",
                "kind=Error",
            ],
            3,
        ),
        (
            [
                "WARN",
                "is retried",
                "name=\"fail\" attempt=2",
                "kind=Error",
            ],
            3,
        ),
        (
            [
                "ERROR",
                "a task failed",
                "name=\"fail\" attempt=3",
                "kind=Error",
            ],
            3,
        ),
        (
            [
                "ERROR",
                "a task failed",
                "name=\"explode\" attempt=1",
                "kind=Panic",
            ],
            2,
        ),
        (
            [
                "ERROR",
                "a task failed",
                "name=\"late\" attempt=1",
                "kind=TimeLimit",
            ],
            2,
        ),
        (
            [
                "WARN",
                "is retried",
                "name=\"slow\" attempt=1",
                "kind=SoftTimeLimit",
            ],
            2,
        ),
        (
            [
                "ERROR",
                "a task failed",
                "name=\"slow\" attempt=2",
                "kind=SoftTimeLimit",
            ],
            2,
        ),
        (
            ["WARN", "expired", "name=\"pass\" attempt=1", "kind=Revoked"],
            2,
        ),
        (
            [
                "ERROR",
                "an errback failed",
                "name=\"lose\" attempt=1",
                "kind=Error",
            ],
            2,
        ),
        (
            [
                "ERROR",
                "a task failed",
                "name=\"hold\"",
                "kind=Quarantined",
            ],
            1,
        ),
    ] {
        assert!(said(&words) >= least, "{words:?}: {}", said(&words));
    }
    for said in ["at once: ", "later: ", "on a thread: ", "in place: "] {
        let mut heard = 0;
        for line in lines.iter().filter(|line| line.contains(said)) {
            let id = line.split(said).nth(1).unwrap().split(' ').next().unwrap();
            let span = line.split(" @ ").nth(1).unwrap_or_else(|| panic!("{line}"));
            assert!(span.contains("attempt id="), "{line}");
            assert!(span.contains(id) && span.contains("attempt=1"), "{line}");
            heard += 1;
        }
        assert!(heard > 0, "nobody has said `{said}`");
    }
}

/// A task that is running whenever its process ends.
async fn poisoned() {
    let clock = Clock::manual(SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000));
    let mut disk = Disk::default();
    let open = |disk: &Disk| {
        set_up(App::with_store(disk.clone()))
            .clock(clock.clone())
            .start()
    };
    let mut app = open(&disk).await.unwrap();
    let poison = hold.s(canary("what ends the process"));
    let before = *HELD.borrow();
    let _ = app.apply_async(poison).await.unwrap();
    // So many ends prove it where nothing says that they came from inside; before the last but one the
    // process has to live without the task for a while.
    for crash in 1..=6 {
        if crash == 5 {
            clock.advance(Duration::from_secs(4));
        }
        entered(before + crash).await;
        disk = disk.crashed();
        drop(app);
        app = open(&disk).await.unwrap();
    }
    let [task] = &app.quarantined()[..] else {
        panic!("it is in quarantine");
    };
    assert_no_leak("Quarantined", task);
    app.discard(task.id).await.unwrap();
    let result = app.async_result::<String>(task.id).await.unwrap();
    assert!(matches!(result.get().await, Err(Error::Failed(_))));
    app.shutdown().await.unwrap();
}

/// A disk that fails.
async fn halted() {
    let disk = Disk::failing_at(12);
    let app = set_up(App::with_store(disk)).start().await.unwrap();
    let mut last = None;
    for n in 0..20 {
        let text = canary("what is in no store");
        match app.apply_async(pass.s(text, n.to_string())).await {
            Ok(_) => {}
            Err(error) => last = Some(error),
        }
    }
    let error = last.expect("the engine has halted");
    assert!(matches!(
        error,
        Error::Store(StoreError::Io { .. } | StoreError::Poisoned(_))
    ));
    assert_no_leak("Error::Store", &error);
    // The callers learn of it before the engine's thread says so, and a drop does not wait for that
    // thread.
    let stopped = app.shutdown().await;
    assert!(matches!(stopped, Err(Error::Store(_))), "{stopped:?}");
}

/// How often it was said that a task is parked.
fn parkings() -> usize {
    let lines = collector::lines();
    lines.iter().filter(|line| line.contains("parked")).count()
}

fn check() {
    let lines = collector::lines();
    let asked_for = |line: &&String| line.starts_with("TRACE sled::");
    let leaking = |lines: &[String]| {
        let leaking = lines.iter().filter(|line| leaks(line));
        leaking
            .filter(|line| !asked_for(line))
            .cloned()
            .collect::<Vec<_>>()
    };
    let leaked = leaking(&lines);
    assert!(leaked.is_empty(), "{leaked:#?}");
    // It has listened: these are said, each in its place.
    for said in [
        "a large payload",
        "parked",
        "quarantined",
        "the engine halts",
        "setting key",
    ] {
        let heard = lines.iter().any(|line| line.contains(said));
        assert!(heard, "nobody has said `{said}`");
    }
    tracing::trace!(target: "chordal", text = canary("a control"));
    log::trace!("{:?}", canary("a control").as_bytes());
    assert_eq!(leaking(&collector::lines()).len(), 2, "the controls");
}
