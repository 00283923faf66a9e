//! An app that is started paused runs nothing before it is told to.

use std::sync::LazyLock;
use std::time::{Duration, SystemTime};

use chordal::persistence::MemoryStore;
use chordal::prelude::*;
use chordal::{AppBuilder, Clock, Error, State};
use tokio::sync::watch;

use crate::disk::Disk;
use crate::recovery::within;

/// What has happened, in order: by test.
static LOG: LazyLock<watch::Sender<Vec<(String, String)>>> = LazyLock::new(watch::Sender::default);

fn note(test: &str, what: &str) {
    LOG.send_modify(|log| log.push((test.to_owned(), what.to_owned())));
}

fn log(test: &str) -> Vec<String> {
    let log = LOG.borrow();
    let own = log.iter().filter(|(of, _)| of == test);
    own.map(|(_, what)| what.clone()).collect()
}

async fn logged(test: &str, count: usize) {
    let mut log = LOG.subscribe();
    let enough = log.wait_for(|log| log.iter().filter(|(of, _)| of == test).count() >= count);
    within(enough).await.unwrap();
}

#[task(name = "pause.work")]
async fn work(test: String, n: u64) -> u64 {
    note(&test, "work");
    n
}

#[task(name = "pause.blocking", blocking)]
fn blocking(test: String, n: u64) -> u64 {
    note(&test, "work");
    n
}

#[task(name = "pause.endless")]
async fn endless(test: String) {
    note(&test, "endless");
    std::future::pending().await
}

fn set_up(app: AppBuilder) -> AppBuilder {
    app.tasks(tasks![work, blocking, endless])
        .grace(Duration::ZERO)
}

/// The engine has done all that it does by itself.
async fn settled(app: &App) {
    for _ in 0..100 {
        let later = work
            .s("settled".into(), 0)
            .countdown(Duration::from_secs(86_400));
        app.apply_async(later)
            .await
            .unwrap()
            .revoke()
            .await
            .unwrap();
    }
}

#[tokio::test]
async fn nothing_runs_before_the_app_is_resumed() {
    let store = MemoryStore::new();
    let app = set_up(App::with_store(store.clone()))
        .start()
        .await
        .unwrap();
    let unfinished = app
        .apply_async(endless.s("resumed".into()))
        .await
        .unwrap()
        .id();
    logged("resumed", 1).await;
    app.shutdown().await.unwrap();

    let app = set_up(App::with_store(store))
        .paused()
        .start()
        .await
        .unwrap();
    let one = app.apply_async(work.s("resumed".into(), 1)).await.unwrap();
    let two = app
        .apply_async(blocking.s("resumed".into(), 2))
        .await
        .unwrap();
    let revoked = app.apply_async(work.s("resumed".into(), 3)).await.unwrap();
    revoked.revoke().await.unwrap();
    settled(&app).await;
    assert_eq!(one.state().await.unwrap(), State::Pending);
    assert_eq!(log("resumed"), ["endless"]);
    note("resumed", "resumes");
    app.resume().await.unwrap();
    app.resume().await.unwrap();
    assert_eq!(within(one.get()).await.unwrap(), 1);
    assert_eq!(within(two.get()).await.unwrap(), 2);
    logged("resumed", 5).await;
    let log = log("resumed");
    assert_eq!(log[..2], ["endless", "resumes"]);
    assert_eq!(log.iter().filter(|what| *what == "work").count(), 2);
    let unfinished = app.async_result::<()>(unfinished).await.unwrap();
    assert_eq!(unfinished.state().await.unwrap(), State::Started);
    app.shutdown().await.unwrap();
    assert!(matches!(app.resume().await, Err(Error::ShutDown)));
}

#[tokio::test]
async fn an_app_that_is_paused_can_be_shut_down() {
    let app = set_up(App::in_memory()).paused().start().await.unwrap();
    let one = app
        .apply_async(work.s("shut down".into(), 1))
        .await
        .unwrap();
    within(app.shutdown()).await.unwrap();
    assert!(matches!(one.get().await, Err(Error::ShutDown)));
    assert!(log("shut down").is_empty());
}

#[tokio::test]
async fn a_suspect_is_not_tried_before_the_app_is_resumed() {
    let clock = Clock::manual(SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000));
    let open = |disk: &Disk| set_up(App::with_store(disk.clone())).clock(clock.clone());
    let mut disk = Disk::default();
    let mut app = open(&disk).start().await.unwrap();
    let _ = app.apply_async(endless.s("tried".into())).await.unwrap();
    for crashes in 1..=2 {
        logged("tried", crashes).await;
        disk = disk.crashed();
        drop(app);
        app = match crashes {
            1 => open(&disk).start().await.unwrap(),
            _ => open(&disk).paused().start().await.unwrap(),
        };
    }
    settled(&app).await;
    assert_eq!(log("tried").len(), 2);
    app.resume().await.unwrap();
    logged("tried", 3).await;
    drop(app);
}

/// What makes the program ready may take as long as it likes.
#[tokio::test]
async fn a_task_that_ends_the_process_is_found_out_however_long_the_app_is_paused() {
    let clock = Clock::manual(SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000));
    let open = |disk: &Disk| set_up(App::with_store(disk.clone())).clock(clock.clone());
    let mut disk = Disk::default();
    let mut app = open(&disk).start().await.unwrap();
    let _ = app.apply_async(endless.s("proved".into())).await.unwrap();
    for ends in 1..=6 {
        logged("proved", ends).await;
        assert!(app.quarantined().is_empty(), "after {ends} ends");
        disk = disk.crashed();
        drop(app);
        app = open(&disk).paused().start().await.unwrap();
        settled(&app).await;
        clock.advance(Duration::from_secs(3_600));
        settled(&app).await;
        app.resume().await.unwrap();
        if ends == 4 {
            // The process has to live without the prime suspect first.
            clock.advance(Duration::from_secs(4));
        }
    }
    assert_eq!(app.quarantined().len(), 1);
    drop(app);
}

#[tokio::test]
async fn an_eager_app_is_never_paused() {
    let app = set_up(App::eager()).paused().start().await.unwrap();
    let one = app.apply_async(work.s("eager".into(), 1)).await.unwrap();
    assert_eq!(one.get().await.unwrap(), 1);
    app.resume().await.unwrap();
}
