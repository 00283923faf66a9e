//! Kills of a process with groups that end early: their values, or the failure, are the same in all
//! later lives, and no member begins after the end.

use std::path::PathBuf;
use std::time::Duration;

use chordal::Error;
use chordal::prelude::*;

use crate::{Dice, book, lives, say, seed, trials};

/// Where the program that is killed, this test itself, has its store and its book.
const HOME: &str = "CHORDAL_CRASH_POLICIES";
const TEST: &str = "policies::an_early_end_holds_over_kills";
const MEMBERS: u64 = 400;
const WANTED: usize = 100;
/// Later kills come to a life that is over.
const KILLS: u64 = 8;
const LONGEST_MS: u64 = 150;

#[task(name = "policies.racer")]
async fn racer(n: u64) -> u64 {
    book::note(format_args!("race {n}"));
    tokio::task::yield_now().await;
    n
}

/// Every tenth fails, but not the first ones.
#[task(name = "policies.careful")]
async fn careful(n: u64) -> Result<u64, TaskError> {
    book::note(format_args!("careful {n}"));
    tokio::task::yield_now().await;
    match n {
        100.. if n.is_multiple_of(10) => Err(TaskError::new(format!("{n} fails"))),
        n => Ok(n),
    }
}

#[task(name = "policies.judge")]
async fn judge(values: Vec<u64>) -> Vec<u64> {
    book::note(format_args!("body {}", shown(&values)));
    values
}

/// How many values they are, and which: a line of the book has no room for all.
fn shown(values: &[u64]) -> String {
    let squares = values.iter().map(|n| n * n);
    let (sum, squares): (u64, u64) = (values.iter().sum(), squares.sum());
    format!("{} {sum} {squares}", values.len())
}

/// One life: to the end of both groups, if nobody kills it.
async fn live(home: PathBuf) {
    book::open(&home);
    book::note(format_args!("life"));
    let app = App::open(home.join("data"));
    let app = app.tasks(tasks![racer, careful, judge]).window(16);
    let app = app.start().await.unwrap();
    let race = group((0..MEMBERS).map(|n| racer.s(n))).first(WANTED) | judge.partial();
    let race = app.apply_async(race.idempotency_key("race")).await.unwrap();
    let values = race.get().await.unwrap();
    book::note(format_args!("won {}", shown(&values)));
    let all = group((0..MEMBERS).map(|n| careful.s(n))).fail_fast();
    let all = app.apply_async(all.idempotency_key("all")).await.unwrap();
    match all.get().await {
        Err(Error::Failed(failure)) => book::note(format_args!("failed {}", failure.message)),
        other => panic!("{other:?}"),
    }
    book::note(format_args!("done"));
    app.shutdown().await.unwrap();
}

/// Checks that these ends are the same whenever they are noted, and that no member begins behind one.
fn check(book: &[String], member: &str, ends: &[&str]) -> String {
    let mut end: Option<&str> = None;
    for (number, line) in book.iter().enumerate() {
        let (what, rest) = line.split_once(' ').unwrap_or((line, ""));
        assert!(what != member || end.is_none(), "line {number}: {book:#?}");
        if ends.contains(&what) {
            assert_eq!(*end.get_or_insert(rest), rest, "line {number}: {book:#?}");
        }
    }
    end.expect("the last life comes to its end").to_owned()
}

#[test]
fn an_early_end_holds_over_kills() {
    if lives::is_one(HOME, live) {
        return;
    }
    let trials = trials().div_ceil(2);
    let seed = seed();
    let mut dice = Dice(seed);
    let (mut kills, mut between) = (0, 0);
    for _ in 0..trials {
        let home = tempfile::tempdir().unwrap();
        kills += lives::run(TEST, (HOME, home.path()), KILLS + 1, |life| {
            let after_ms = 20 + dice.below(LONGEST_MS);
            (life < KILLS).then(|| Duration::from_millis(after_ms))
        });
        let book = book::read(home.path());
        let won = book.iter().position(|line| line.starts_with("body"));
        let again = book
            .iter()
            .skip(won.unwrap_or(0))
            .filter(|line| *line == "life");
        between += again.count();
        let values = check(&book, "race", &["body", "won"]);
        assert!(values.starts_with(&format!("{WANTED} ")), "{values}");
        check(&book, "careful", &["failed"]);
    }
    say(format_args!(
        "crash: {trials} trials of groups that end early, {kills} kills, {between} of them behind the \
         first end; CHORDAL_CRASH_SEED={seed}"
    ));
    assert!(kills > 0);
}
