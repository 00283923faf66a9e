//! Schedules: work that is submitted again and again.

use std::sync::LazyLock;
use std::time::{Duration, SystemTime};

use chordal::persistence::{Batch, MemoryStore, Store};
use chordal::prelude::*;
use chordal::{
    AppBuilder, Clock, Error, Missed, Overlap, Schedule, ScheduleEntry, StartError, SubmitError,
    cron, every,
};
use tokio::sync::watch;

use crate::disk::Disk;
use crate::recovery::within;

const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3_600);
const DAY: Duration = Duration::from_secs(86_400);

/// The keys of the calls so far, and of what the tests allow. Each test has keys of its own.
static NOTES: LazyLock<watch::Sender<Vec<String>>> = LazyLock::new(Default::default);

fn note(key: &str) {
    NOTES.send_modify(|notes| notes.push(key.to_owned()));
}

fn noted(key: &str) -> usize {
    NOTES.borrow().iter().filter(|of| *of == key).count()
}

/// Waits for so many notes.
async fn reached(key: &str, count: usize) {
    let mut all = NOTES.subscribe();
    let enough = all.wait_for(|all| all.iter().filter(|of| *of == key).count() >= count);
    drop(within(enough).await.unwrap());
}

#[task(name = "schedules.tick")]
async fn tick(key: String) {
    note(&key);
}

/// Runs until the test allows so many of its key to end.
#[task(name = "schedules.slow")]
async fn slow(key: String, number: usize) {
    note(&key);
    reached(&format!("end {key}"), number).await;
}

/// 2024-01-01T00:00:00Z
fn clock() -> Clock {
    Clock::manual(SystemTime::UNIX_EPOCH + 19_723 * DAY)
}

fn builder(store: impl Store, clock: &Clock) -> AppBuilder {
    App::with_store(store)
        .clock(clock.clone())
        .tasks(tasks![tick, slow])
}

async fn entry(app: &App, name: &str) -> ScheduleEntry {
    let all = app.schedules().list().await.unwrap();
    let entry = all.into_iter().find(|entry| entry.name == name);
    entry.expect(name)
}

/// Waits until a tick is decided on and all work has ended.
async fn settled(app: &App, name: &str, last: SystemTime) {
    within(async {
        while entry(app, name).await.last != Some(last) || app.pending() > 0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test]
async fn each_tick_is_submitted_once_whatever_the_clock_shows() {
    let clock = clock();
    let start = clock.now();
    let key = "hourly";
    let app = builder(MemoryStore::new(), &clock)
        .schedule("hourly", cron("@hourly"), tick.s(key.into()))
        .start()
        .await
        .unwrap();
    let new = entry(&app, "hourly").await;
    assert_eq!((new.last, new.next), (None, Some(start + HOUR)));
    for hour in 1..=3 {
        clock.advance(HOUR);
        settled(&app, "hourly", start + hour * HOUR).await;
    }
    assert_eq!(noted(key), 3);
    clock.set(start + 2 * HOUR - SECOND);
    clock.advance(2 * SECOND);
    clock.set(start + 4 * HOUR);
    settled(&app, "hourly", start + 4 * HOUR).await;
    assert_eq!(noted(key), 4, "the hours that came again are no ticks");
    clock.set(start + 9 * HOUR + HOUR / 2);
    settled(&app, "hourly", start + 9 * HOUR).await;
    assert_eq!(noted(key), 5, "one for all that were jumped over");
    let last = entry(&app, "hourly").await;
    assert_eq!(last.next, Some(start + 10 * HOUR));
    app.shutdown().await.unwrap();
}

#[tokio::test]
async fn an_interval_is_not_moved_by_the_wall_clock() {
    let clock = clock();
    let key = "interval";
    let app = builder(MemoryStore::new(), &clock)
        .schedule("interval", every(HOUR), tick.s(key.into()))
        .start()
        .await
        .unwrap();
    clock.set(clock.now() + 50 * DAY);
    let entry = entry(&app, "interval").await;
    assert_eq!(entry.next, Some(clock.now() + HOUR));
    clock.advance(HOUR);
    settled(&app, "interval", clock.now()).await;
    assert_eq!(noted(key), 1);
    app.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_start_takes_over_what_the_code_declares_and_leaves_what_was_added() {
    let clock = clock();
    let start = clock.now();
    let store = MemoryStore::new();
    let app = builder(store.clone(), &clock)
        .schedule("same", cron("@hourly"), tick.s("same".into()))
        .schedule("options", cron("@hourly"), tick.s("before".into()))
        .schedule("times", cron("@hourly"), tick.s("times".into()))
        .schedule("gone", cron("@hourly"), tick.s("gone".into()))
        .start()
        .await
        .unwrap();
    let added = cron("@hourly").missed(Missed::All(2));
    let schedules = app.schedules();
    let work = || tick.s("added".into());
    schedules.add("added", added, work()).await.unwrap();
    clock.advance(HOUR);
    for name in ["same", "options", "times", "gone", "added"] {
        settled(&app, name, start + HOUR).await;
    }
    app.shutdown().await.unwrap();

    clock.advance(5 * HOUR + HOUR / 2);
    let all = Missed::All(100);
    let app = builder(store, &clock)
        .schedule("same", cron("@hourly"), tick.s("same".into()))
        .schedule(
            "options",
            cron("@hourly").missed(all),
            tick.s("after".into()),
        )
        .schedule("times", cron("@daily").missed(all), tick.s("times".into()))
        .start()
        .await
        .unwrap();
    for name in ["same", "options", "added"] {
        settled(&app, name, start + 6 * HOUR).await;
    }
    let listed = app.schedules().list().await.unwrap();
    let names: Vec<_> = listed
        .iter()
        .map(|entry| (entry.name.as_str(), entry.is_declared))
        .collect();
    let expected = [
        ("added", false),
        ("options", true),
        ("same", true),
        ("times", true),
    ];
    assert_eq!(names, expected);
    let times = entry(&app, "times").await;
    let kept = (Some(start + HOUR), Some(start + DAY));
    assert_eq!((times.last, times.next), kept);
    for (key, count) in [
        ("same", 1 + 1),
        ("before", 1),
        ("after", 5),
        ("times", 1),
        ("gone", 1),
        ("added", 1 + 2),
    ] {
        assert_eq!(noted(key), count, "{key}");
    }
    app.shutdown().await.unwrap();
}

#[tokio::test]
async fn after_a_crash_at_any_commit_each_tick_is_submitted_once() {
    const KEY: &[u8] = b"m/schedules/hourly";
    let clock = clock();
    let start = clock.now();
    let last = start + 4 * HOUR;
    let disk = Disk::default();
    let hourly = || cron("@hourly").missed(Missed::All(100));
    let begin = async |store: MemoryStore| {
        let app = builder(store, &clock).schedule("hourly", hourly(), tick.s("crash".into()));
        app.start().await.unwrap()
    };
    let app = builder(disk.clone(), &clock)
        .schedule("hourly", hourly(), tick.s("crash".into()))
        .start()
        .await
        .unwrap();
    for hour in 1..=4 {
        clock.advance(HOUR);
        settled(&app, "hourly", start + hour * HOUR).await;
    }
    drop(app);
    let mut cut_short = 0;
    for count in 0..=disk.batches() {
        let store = disk.crashed_after(count);
        let results = |store: &MemoryStore| store.scan(b"r", b"s").count();
        let (is_stored, before) = (store.get(KEY).unwrap().is_some(), results(&store));
        cut_short += usize::from(is_stored && before < 4);
        let app = begin(store.clone()).await;
        if is_stored {
            settled(&app, "hourly", last).await;
        }
        app.shutdown().await.unwrap();
        let expected = if is_stored { 4 } else { 0 };
        assert_eq!(results(&store), expected, "after {count} batches");
    }
    assert!(cut_short > 4, "{cut_short}");
}

#[tokio::test]
async fn overlapping_work_is_skipped_queued_or_revoked() {
    let clock = clock();
    let start = clock.now();
    let with = |overlap| cron("@hourly").overlap(overlap).missed(Missed::All(100));
    let app = builder(MemoryStore::new(), &clock)
        .schedule("skip", with(Overlap::Skip), slow.s("skip".into(), 1))
        .schedule("queue", with(Overlap::Queue), slow.s("queue".into(), 1))
        .schedule(
            "cancel",
            with(Overlap::CancelPrevious),
            slow.s("cancel".into(), 1),
        )
        .schedule("allow", with(Overlap::Allow), slow.s("allow".into(), 1))
        .start()
        .await
        .unwrap();
    let names = ["skip", "queue", "cancel", "allow"];
    clock.advance(HOUR);
    for name in names {
        reached(name, 1).await;
    }
    let first = entry(&app, "cancel").await.last_id.unwrap();
    clock.advance(2 * HOUR);
    reached("cancel", 2).await;
    reached("allow", 3).await;
    let first = app.async_result::<()>(first).await.unwrap();
    let revoked = within(first.get()).await.unwrap_err().to_string();
    assert!(revoked.contains("was revoked"), "{revoked}");
    assert_eq!(entry(&app, "queue").await.last, Some(start + HOUR));
    for name in names {
        note(&format!("end {name}"));
    }
    settled(&app, "queue", start + 3 * HOUR).await;
    assert_eq!(noted("queue"), 3, "one after the other");
    assert_eq!(noted("skip"), 1);
    clock.advance(HOUR);
    settled(&app, "skip", start + 4 * HOUR).await;
    assert_eq!(noted("skip"), 2);
    app.shutdown().await.unwrap();
}

#[tokio::test]
async fn entries_are_paused_resumed_triggered_and_removed_over_restarts() {
    let clock = clock();
    let start = clock.now();
    let store = MemoryStore::new();
    let key = "by hand";
    let app = builder(store.clone(), &clock).start().await.unwrap();
    let hourly = cron("@hourly").missed(Missed::All(100));
    let work = tick.s(key.into());
    app.schedules().add("hand", hourly, work).await.unwrap();
    app.schedules().pause("hand").await.unwrap();
    app.shutdown().await.unwrap();

    clock.advance(3 * HOUR);
    let app = builder(store.clone(), &clock).start().await.unwrap();
    let paused = entry(&app, "hand").await;
    assert!(paused.is_paused && paused.next.is_none() && paused.last.is_none());
    let id = app.schedules().trigger("hand").await.unwrap();
    let triggered = app.async_result::<()>(id).await.unwrap();
    within(triggered.get()).await.unwrap();
    app.schedules().resume("hand").await.unwrap();
    clock.advance(HOUR);
    settled(&app, "hand", start + 4 * HOUR).await;
    assert_eq!(noted(key), 2);
    app.schedules().remove("hand").await.unwrap();
    app.shutdown().await.unwrap();

    let app = builder(store, &clock).start().await.unwrap();
    assert!(app.schedules().list().await.unwrap().is_empty());
    let unknown = |result: chordal::Result<()>| match result {
        Err(Error::Submit(SubmitError::UnknownSchedule { name })) => name == "hand",
        _ => false,
    };
    let schedules = app.schedules();
    assert!(unknown(schedules.remove("hand").await));
    assert!(unknown(schedules.pause("hand").await));
    assert!(unknown(schedules.resume("hand").await));
    assert!(unknown(schedules.trigger("hand").await.map(drop)));
    app.shutdown().await.unwrap();
}

#[tokio::test]
async fn an_entry_that_is_wrong_is_refused_by_name() {
    let refused = async |schedule: Schedule, work: Signature<(), ()>| {
        let app = App::in_memory().tasks(tasks![tick]);
        let started = app.schedule("nightly", schedule, work).start().await;
        match started.expect_err("it is wrong") {
            Error::Start(StartError::InvalidSchedule { name, reason }) if name == "nightly" => {
                reason
            }
            other => panic!("{other}"),
        }
    };
    let reason = refused(cron("0 24 * * *"), tick.s("x".into())).await;
    assert!(
        reason.starts_with("`24` is no hour: allowed are 0 to 23;"),
        "{reason}"
    );
    let reason = refused(cron("@daily"), slow.s("x".into(), 1)).await;
    assert!(
        reason.contains("`schedules.slow` is not registered"),
        "{reason}"
    );
    let reason = refused(cron("@daily"), tick.s("x".repeat(3_000))).await;
    assert!(
        reason.contains("it takes more than 2048 bytes in the store"),
        "{reason}"
    );

    let twice = App::in_memory().tasks(tasks![tick]);
    let twice = twice.schedule("nightly", cron("@daily"), tick.s("x".into()));
    let twice = twice.schedule("nightly", cron("@hourly"), tick.s("y".into()));
    let error = twice.start().await.expect_err("two have one name");
    assert!(
        error
            .to_string()
            .ends_with("`nightly`: two schedules have this name"),
        "{error}"
    );

    let app = App::in_memory().tasks(tasks![tick]).start().await.unwrap();
    let added = app
        .schedules()
        .add("x", every(Duration::ZERO), tick.s("x".into()));
    let error = added.await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "the schedule `x`: an interval is 1 s to ten years, and not 0ns"
    );
    assert!(app.schedules().list().await.unwrap().is_empty());
    app.shutdown().await.unwrap();

    let eager = App::eager().tasks(tasks![tick]);
    let started = eager
        .schedule("x", cron("@daily"), tick.s("x".into()))
        .start();
    let error = started.await.unwrap_err().to_string();
    assert_eq!(
        error,
        "the schedule `x`: an eager app submits nothing by itself"
    );
}

#[tokio::test]
async fn of_ten_thousand_entries_those_that_are_due_are_submitted() {
    let clock = clock();
    let start = clock.now();
    let mut app = builder(MemoryStore::new(), &clock);
    for n in 1..=10_000 {
        let work = tick.s("ten thousand".into());
        app = app.schedule(format!("{n} hours"), every(n * HOUR), work);
    }
    let app = app.start().await.unwrap();
    for (hour, calls) in [(1, 1), (2, 3), (3, 5), (4, 8)] {
        clock.advance(HOUR);
        settled(&app, &format!("{hour} hours"), start + hour * HOUR).await;
        assert_eq!(noted("ten thousand"), calls, "each hour has its divisors");
    }
    app.shutdown().await.unwrap();
}

/// An entry of a store whose time zone this build does not know.
#[tokio::test]
async fn an_entry_in_an_unknown_zone_is_listed_and_can_be_replaced_or_removed() {
    let (store, clock) = (MemoryStore::new(), clock());
    let app = builder(store.clone(), &clock).start().await.unwrap();
    for name in ["first", "second"] {
        let daily = cron("@daily").tz("Europe/Berlin");
        let work = tick.s("zone".into());
        app.schedules().add(name, daily, work).await.unwrap();
    }
    app.shutdown().await.unwrap();
    for name in ["first", "second"] {
        let key = format!("m/schedules/{name}").into_bytes();
        let mut record = store.get(&key).unwrap().unwrap();
        let zone = record.windows(13).position(|at| at == b"Europe/Berlin");
        let end = zone.expect("it is stored") + 12;
        record[end] = b'x';
        // The checksum of the kind and the body, in bytes 3 to 6.
        let mut crc = crc32fast::Hasher::new();
        crc.update(&record[2..3]);
        crc.update(&record[7..]);
        record[3..7].copy_from_slice(&crc.finalize().to_le_bytes());
        let mut batch = Batch::default();
        batch.put(key, record);
        store.apply(batch).unwrap();
    }
    let app = builder(store, &clock).start().await.unwrap();
    clock.advance(Duration::from_secs(3 * 86_400));
    let entries = app.schedules().list().await.unwrap();
    let shown = entries.iter().map(|entry| (&*entry.name, entry.next));
    assert_eq!(
        shown.collect::<Vec<_>>(),
        [("first", None), ("second", None)]
    );
    app.schedules().remove("first").await.unwrap();
    let known = cron("@daily").tz("Europe/Paris");
    let added = app.schedules().add("second", known, tick.s("zone".into()));
    added.await.unwrap();
    let entries = app.schedules().list().await.unwrap();
    assert_eq!(entries.len(), 1);
    assert!(entries[0].next.is_some());
    app.shutdown().await.unwrap();
}
