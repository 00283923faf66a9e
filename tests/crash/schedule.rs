//! Kills of a process with a schedule: each tick is submitted once, over all of its lives.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use chordal::prelude::*;
use chordal::{Missed, ScheduleEntry, cron};

use crate::{Dice, book, lives, say, seed, trials};

/// Where the program that is killed, this test itself, has its store and its book.
const HOME: &str = "CHORDAL_CRASH_SCHEDULE";
const TEST: &str = "schedule::each_tick_is_submitted_once_over_kills";
const KILLS: u64 = 5;
/// The ticks, one each second, that there are at least.
const TICKS: u32 = 4;

#[task(name = "schedule.tick")]
async fn tick(ctx: &TaskContext) {
    book::note(format_args!("call {}", ctx.id()));
}

async fn entry(app: &App) -> ScheduleEntry {
    let entries = app.schedules().list().await.unwrap();
    entries.into_iter().next().expect("it is declared")
}

fn seconds(time: SystemTime) -> u64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap();
    since.as_secs()
}

/// The ticks come with the clock of the machine, and nothing reports them to this process.
async fn a_moment() {
    tokio::time::sleep(Duration::from_millis(5)).await;
}

/// One life: the first adds the entry, the last comes to the end, and others are killed.
async fn live(home: PathBuf) {
    book::open(&home);
    let app = App::open(home.join("data"))
        .schedule(
            "tick",
            cron("* * * * * *").missed(Missed::All(1_000)),
            tick.s(),
        )
        .tasks(tasks![tick]);
    let app = app.start().await.unwrap();
    let lines = book::read(&home);
    let first = lines.iter().find_map(|line| line.strip_prefix("first "));
    let Some(first) = first else {
        let first = seconds(entry(&app).await.next.unwrap());
        book::note(format_args!("first {first}"));
        return app.shutdown().await.unwrap();
    };
    let first: u64 = first.parse().unwrap();
    let enough = first + u64::from(TICKS) - 1;
    while entry(&app)
        .await
        .last
        .is_none_or(|last| seconds(last) < enough)
    {
        a_moment().await;
    }
    app.schedules().pause("tick").await.unwrap();
    let last = seconds(entry(&app).await.last.unwrap());
    while app.pending() > 0 {
        a_moment().await;
    }
    book::note(format_args!("done {last}"));
    app.shutdown().await.unwrap();
}

#[test]
fn each_tick_is_submitted_once_over_kills() {
    if lives::is_one(HOME, live) {
        return;
    }
    let trials = trials().div_ceil(16);
    let seed = seed();
    let mut dice = Dice(seed);
    let (mut kills, mut ticks) = (0, 0);
    for _ in 0..trials {
        let home = tempfile::tempdir().unwrap();
        kills += lives::run(TEST, (HOME, home.path()), KILLS + 2, |life| {
            let after_ms = 30 + dice.below(900);
            let is_killed = (1..=KILLS).contains(&life);
            is_killed.then(|| Duration::from_millis(after_ms))
        });
        let book = book::read(home.path());
        let noted = |what| book.iter().find_map(|line| line.strip_prefix(what));
        let [first, last] =
            ["first ", "done "].map(|what| noted(what).unwrap().parse::<u64>().unwrap());
        let works: BTreeSet<_> = book
            .iter()
            .filter_map(|line| line.strip_prefix("call "))
            .collect();
        assert_eq!(works.len() as u64, last - first + 1, "{book:#?}");
        ticks += works.len();
    }
    say(format_args!(
        "crash: {trials} trials of a schedule, {kills} kills, {ticks} ticks; CHORDAL_CRASH_SEED={seed}"
    ));
    assert!(kills > 0);
}
