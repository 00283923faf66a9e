//! Kills of a process with a schedule: each tick is submitted once, over all of its lives.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, SystemTime};

use chordal::prelude::*;
use chordal::{Missed, ScheduleEntry, cron};
use tempfile::TempDir;

use crate::{Dice, book, own, say, seed, trials};

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

/// One life: the first adds the entry, the last comes to the end, and others are killed.
async fn live(home: &Path) {
    book::open(home);
    let app = App::open(home.join("data"))
        .schedule(
            "tick",
            cron("* * * * * *").missed(Missed::All(1_000)),
            tick.s(),
        )
        .tasks(tasks![tick]);
    let app = app.start().await.unwrap();
    let lines = book::read(home);
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
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    app.schedules().pause("tick").await.unwrap();
    let last = seconds(entry(&app).await.last.unwrap());
    while app.pending() > 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    book::note(format_args!("done {last}"));
    app.shutdown().await.unwrap();
}

/// Lives and dies until one life comes to the end; returns the number of kills.
fn run(home: &TempDir, dice: &mut Dice) -> u64 {
    for life in 0.. {
        let mut command = own(TEST);
        command.env(HOME, home.path());
        command.stdin(Stdio::null()).stdout(Stdio::null());
        let mut child = command.spawn().unwrap();
        let is_killed = (1..=KILLS).contains(&life);
        if is_killed {
            std::thread::sleep(Duration::from_millis(30 + dice.below(900)));
            child.kill().unwrap();
        }
        let _ = child.wait().unwrap();
        let book = book::read(home.path());
        if book.iter().any(|line| line.starts_with("done ")) {
            return life.saturating_sub(1);
        }
        assert!(
            life <= KILLS,
            "a life that nobody killed did not come to its end"
        );
    }
    unreachable!("it ends")
}

#[test]
fn each_tick_is_submitted_once_over_kills() {
    if let Some(home) = std::env::var_os(HOME) {
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = runtime.enable_all().build().unwrap();
        return runtime.block_on(live(Path::new(&home)));
    }
    let trials = trials().div_ceil(16);
    let seed = seed();
    let mut dice = Dice(seed);
    let (mut kills, mut ticks) = (0, 0);
    for _ in 0..trials {
        let home = tempfile::tempdir().unwrap();
        kills += run(&home, &mut dice);
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
