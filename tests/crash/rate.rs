//! Kills of a process whose tasks are under rate limits, one of them divided by keys: the limits hold
//! over all of its lives.

use std::path::PathBuf;
use std::time::{Duration, UNIX_EPOCH};

use chordal::RateLimit;
use chordal::prelude::*;

use crate::{Dice, book, lives, say, seed, trials};

/// Where the program that is killed, this test itself, has its store and its book.
const HOME: &str = "CHORDAL_CRASH_RATE";
const TEST: &str = "rate::a_rate_limit_holds_over_kills";
/// So many starts in so many milliseconds, and so many tasks.
const STARTS: usize = 5;
const PERIOD_MS: u64 = 500;
const TASKS: usize = 16;
/// So many lives are killed at most; the next one is left alone.
const KILLS: u64 = 6;
/// A kill that forgets starts lets five follow at once, behind a restart that takes less than half a
/// period. What a thread is late by is not meant.
const LATE_MS: u64 = 50;

#[task(name = "rate.limited", limit = "rate")]
async fn limited(n: usize) -> usize {
    let now = UNIX_EPOCH.elapsed().unwrap();
    book::note(format_args!("call {n} {}", now.as_millis()));
    n
}

/// Each tenant has the rate.
#[task(
    name = "rate.keyed",
    rate_limit = "5/500ms",
    burst = 5,
    limit_by = "tenant"
)]
async fn keyed(n: usize, tenant: usize) -> usize {
    let now = UNIX_EPOCH.elapsed().unwrap();
    book::note(format_args!("tenant{tenant} {n} {}", now.as_millis()));
    n
}

/// One life: to the end of all, if nobody kills it.
async fn live(home: PathBuf) {
    book::open(&home);
    let limit = RateLimit::new(STARTS as u32, Duration::from_millis(PERIOD_MS));
    let app = App::open(home.join("data"))
        .limit("rate", limit.burst(STARTS as u32))
        .tasks(tasks![limited, keyed]);
    let app = app.start().await.unwrap();
    let all = group((0..TASKS).map(|n| limited.s(n))).into_canvas();
    let all = app.apply_async(all.idempotency_key("all")).await.unwrap();
    let all = all.cast::<Vec<usize>>();
    let of_tenants = group((0..TASKS).map(|n| keyed.s(n, n % 2))).into_canvas();
    let of_tenants = app.apply_async(of_tenants.idempotency_key("tenants")).await;
    let of_tenants = of_tenants.unwrap().cast::<Vec<usize>>();
    assert_eq!(of_tenants.get().await.unwrap().len(), TASKS);
    assert_eq!(all.get().await.unwrap().len(), TASKS);
    book::note(format_args!("done"));
    app.shutdown().await.unwrap();
}

#[test]
fn a_rate_limit_holds_over_kills() {
    if lives::is_one(HOME, live) {
        return;
    }
    let trials = trials().div_ceil(8);
    let seed = seed();
    let mut dice = Dice(seed);
    let (mut kills, mut calls) = (0, 0);
    for _ in 0..trials {
        let home = tempfile::tempdir().unwrap();
        kills += lives::run(TEST, (HOME, home.path()), KILLS + 1, |life| {
            let after_ms = 30 + dice.below(PERIOD_MS);
            (life < KILLS).then(|| Duration::from_millis(after_ms))
        });
        let book = book::read(home.path());
        for limit in ["call ", "tenant0 ", "tenant1 "] {
            let times = book.iter().filter_map(|line| line.strip_prefix(limit));
            let times = times.map(|line| line.split_once(' ').unwrap().1.parse().unwrap());
            let times: Vec<u64> = times.collect();
            calls += times.len();
            for window in times.windows(STARTS + 1) {
                let apart_ms = window[STARTS] - window[0];
                assert!(
                    apart_ms + LATE_MS >= PERIOD_MS,
                    "{limit} {window:?}: {book:#?}"
                );
            }
        }
    }
    say(format_args!(
        "crash: {trials} trials of rate limits, {kills} kills, {calls} calls; CHORDAL_CRASH_SEED={seed}"
    ));
    assert!(kills > 0);
}
