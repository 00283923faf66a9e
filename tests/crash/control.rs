//! Kills of a process whose queue is paused and resumed: a pause and a concurrency that were acknowledged
//! hold in all later lives.

use std::path::PathBuf;
use std::time::Duration;

use chordal::ControlTarget;
use chordal::prelude::*;

use crate::{Dice, book, lives, say, seed, trials};

/// Where the program that is killed, this test itself, has its store and its book.
const HOME: &str = "CHORDAL_CRASH_CONTROL";
const TEST: &str = "control::a_pause_and_a_concurrency_hold_over_kills";
const QUEUE: &str = "control";
const TASKS: usize = 300;
/// Later kills come to a life that is over.
const KILLS: u64 = 8;
const LONGEST_MS: u64 = 150;

#[task(name = "control.counted", queue = "control")]
async fn counted(n: usize) -> usize {
    book::note(format_args!("begin {n}"));
    tokio::task::yield_now().await;
    book::note(format_args!("end {n}"));
    n
}

#[task(name = "control.elsewhere")]
async fn elsewhere() {}

/// Waits until all functions that were about to be called have been.
async fn settled(app: &App) {
    for _ in 0..3 {
        app.apply_async(elsewhere.s())
            .await
            .unwrap()
            .get()
            .await
            .unwrap();
    }
}

/// One life: to the end of all, if nobody kills it.
async fn live(home: PathBuf) {
    let before = book::read(&home);
    book::open(&home);
    book::note(format_args!("life"));
    let app = App::open(home.join("data")).tasks(tasks![counted, elsewhere]);
    let app = app.queue(QUEUE, 4).start().await.unwrap();
    let (is_paused, is_narrow) = (
        is_paused(&before),
        before.iter().any(|line| line == "narrow"),
    );
    let controls = app.controls().unwrap();
    let control = controls
        .iter()
        .find(|one| one.target == ControlTarget::Queue(QUEUE.into()));
    // What was not acknowledged may be in force all the same.
    assert!(
        !is_paused || control.is_some_and(|one| one.is_paused),
        "{control:?}"
    );
    assert!(
        !is_narrow || control.is_some_and(|one| one.concurrency == Some(1)),
        "{control:?}"
    );
    app.set_concurrency(QUEUE, 1).await.unwrap();
    settled(&app).await;
    book::note(format_args!("narrow"));
    let all = group((0..TASKS).map(|n| counted.s(n))).into_canvas();
    let all = app.apply_async(all.idempotency_key("all")).await.unwrap();
    let all = all.cast::<Vec<usize>>();
    settled(&app).await;
    loop {
        book::note(format_args!("resuming"));
        app.resume_queue(QUEUE).await.unwrap();
        if all.get_timeout(Duration::from_millis(1)).await.is_ok() {
            break;
        }
        app.pause_queue(QUEUE).await.unwrap();
        settled(&app).await;
        book::note(format_args!("paused"));
        settled(&app).await;
    }
    book::note(format_args!("done"));
    app.shutdown().await.unwrap();
}

/// Returns whether the pause of the queue was acknowledged, and nothing has ended it.
fn is_paused(book: &[String]) -> bool {
    let mut changes = book.iter().rev();
    let last = changes.find(|line| ["paused", "resuming"].contains(&line.as_str()));
    last.is_some_and(|line| line == "paused")
}

fn check(book: &[String]) {
    let (mut is_paused, mut is_narrow, mut running) = (false, false, 0);
    for (number, line) in book.iter().enumerate() {
        match line.split(' ').next().unwrap() {
            "life" => running = 0,
            "paused" => is_paused = true,
            "resuming" => is_paused = false,
            "narrow" => is_narrow = true,
            "begin" => {
                running += 1;
                assert!(!is_paused, "line {number}: {book:#?}");
                assert!(!is_narrow || running <= 1, "line {number}: {book:#?}");
            }
            "end" => running -= 1,
            _ => {}
        }
    }
}

#[test]
fn a_pause_and_a_concurrency_hold_over_kills() {
    if lives::is_one(HOME, live) {
        return;
    }
    let trials = trials().div_ceil(8);
    let seed = seed();
    let mut dice = Dice(seed);
    let (mut kills, mut pauses) = (0, 0);
    for _ in 0..trials {
        let home = tempfile::tempdir().unwrap();
        kills += lives::run(TEST, (HOME, home.path()), KILLS + 1, |life| {
            let after_ms = 20 + dice.below(LONGEST_MS);
            (life < KILLS).then(|| Duration::from_millis(after_ms))
        });
        let book = book::read(home.path());
        pauses += book.iter().filter(|line| *line == "paused").count();
        check(&book);
    }
    say(format_args!(
        "crash: {trials} trials of a paused queue, {kills} kills, {pauses} pauses; CHORDAL_CRASH_SEED={seed}"
    ));
    assert!(kills > 0 && pauses > 0);
}
