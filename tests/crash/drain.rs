//! A process that is told to stop: it starts nothing more, what runs has its time, and what is cut short
//! goes on in the next life as if it had not begun.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use chordal::prelude::*;
use chordal::{AsyncResult, Error};
use tempfile::TempDir;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use crate::{Dice, book, own, say, seed, trials};

/// Where the program that is told to stop, this test itself, has its store and its book. How many it runs
/// at once, and how long it waits for them, in milliseconds; without that nobody will tell it to stop.
const HOME: &str = "CHORDAL_CRASH_DRAIN";
const SLOTS: &str = "CHORDAL_CRASH_DRAIN_SLOTS";
const GRACE: &str = "CHORDAL_CRASH_DRAIN_GRACE";
/// More than anybody needs.
const LONG: u64 = 600_000;
/// How often it is told to stop at most; so many times its slots, and as many again, are its tasks.
const STOPS: usize = 2;

/// How many have begun in this life, and whether it has been told to stop.
static BEGUN: LazyLock<watch::Sender<usize>> = LazyLock::new(watch::Sender::default);
static IS_STOPPING: LazyLock<watch::Sender<bool>> = LazyLock::new(watch::Sender::default);

/// In a life that will be told to stop it ends so many milliseconds after that, or not at all. A failure
/// would be its last.
#[task(name = "drain.held", max_retries = 0)]
async fn held(ctx: &TaskContext, n: usize, after_ms: Option<u64>) -> usize {
    book::note(format_args!("begin {n} {}", ctx.attempt()));
    BEGUN.send_modify(|begun| *begun += 1);
    if std::env::var(GRACE).is_ok() {
        let mut is_stopping = IS_STOPPING.subscribe();
        is_stopping
            .wait_for(|is_stopping| *is_stopping)
            .await
            .unwrap();
        match after_ms {
            Some(after_ms) => tokio::time::sleep(Duration::from_millis(after_ms)).await,
            None => std::future::pending().await,
        }
    }
    book::note(format_args!("end {n}"));
    n
}

async fn submit(app: &App, n: usize, after_ms: Option<u64>) -> Result<AsyncResult<usize>, Error> {
    let task = held.s(n, after_ms).idempotency_key(n.to_string());
    let result = app.apply_async(task).await?;
    book::note(format_args!("acked {n}"));
    Ok(result)
}

/// One life: to the end of all, or until it is told to stop.
async fn live(home: &Path) {
    let number = |variable: &str| {
        let text = std::env::var(variable).ok()?;
        Some(text.parse::<u64>().unwrap())
    };
    let mut told = signal(SignalKind::terminate()).unwrap();
    let before = acked(&book::read(home));
    book::open(home);
    let slots = number(SLOTS).unwrap() as usize;
    let grace = number(GRACE);
    let app = App::open(home.join("data")).tasks(tasks![held]);
    let app = app.concurrency(slots as u64);
    let app = app.grace(Duration::from_millis(grace.unwrap_or(LONG)));
    let app = app.start().await.unwrap();
    let mut all = Vec::new();
    let count = before.len().max((STOPS + 1) * slots);
    for n in 0..count {
        // Some outlast what is given to them, if that is short.
        let lasts = grace.is_some_and(|grace| grace < LONG) && n.is_multiple_of(3);
        let after_ms = Some(n as u64 % 7).filter(|_| !lasts);
        all.push(submit(&app, n, after_ms).await.unwrap());
    }
    if grace.is_none() {
        for (n, result) in (0..).zip(all) {
            assert_eq!(result.get().await.unwrap(), n);
        }
        book::note(format_args!("done"));
        return app.shutdown().await.unwrap();
    }
    let mut begun = BEGUN.subscribe();
    begun.wait_for(|begun| *begun == slots).await.unwrap();
    println!("\nheld");
    told.recv().await.unwrap();
    book::note(format_args!("stopping"));
    let since = Instant::now();
    let stopping = tokio::spawn({
        let app = app.clone();
        async move { app.shutdown().await }
    });
    // What it takes in until it has heard of that is not lost.
    for n in count.. {
        match submit(&app, n, Some(0)).await {
            Ok(_) => {}
            Err(Error::ShutDown) => break,
            Err(error) => panic!("{error}"),
        }
    }
    IS_STOPPING.send_replace(true);
    stopping.await.unwrap().unwrap();
    book::note(format_args!("stopped {}", since.elapsed().as_millis()));
}

fn acked(book: &[String]) -> BTreeSet<usize> {
    let numbers = book.iter().filter_map(|line| line.strip_prefix("acked "));
    numbers.map(|n| n.parse().unwrap()).collect()
}

fn run(home: &TempDir, slots: usize, grace: Option<u64>) {
    let mut command = own("drain::a_process_that_is_told_to_stop_starts_nothing_and_loses_nothing");
    if let Some(grace) = grace {
        command.env(GRACE, grace.to_string());
    }
    let mut child = command
        .env(HOME, home.path())
        .env(SLOTS, slots.to_string())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    if grace.is_some() {
        let out = BufReader::new(child.stdout.take().unwrap());
        let is_held = out.lines().any(|line| line.unwrap() == "held");
        if is_held {
            let pid = child.id().to_string();
            let kill = Command::new("kill").args(["-TERM", &pid]).status();
            assert!(kill.unwrap().success());
        }
    }
    let output = child.wait_with_output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}\n{errors}", output.status);
}

/// What is wrong with the book of lives that were told to stop and waited so long, each, and of a last one
/// that was not.
fn faults(lines: &[String], graces: &[u64]) -> Vec<String> {
    let mut faults = Vec::new();
    let mut graces = graces.iter();
    let mut is_stopping = false;
    // What runs in this life, what has ended in it, and what may begin no more: that one has ended and the
    // store has not heard of it is told apart from that only where time has not run out.
    let mut running: BTreeSet<&str> = BTreeSet::new();
    let mut fresh: BTreeSet<&str> = BTreeSet::new();
    let mut is_over: BTreeSet<&str> = BTreeSet::new();
    let mut attempts: BTreeMap<&str, u32> = BTreeMap::new();
    let mut ended: BTreeSet<&str> = BTreeSet::new();
    let mut is_done = false;
    for line in lines {
        match line.split(' ').collect::<Vec<_>>()[..] {
            ["acked", _] => {}
            ["begin", n, attempt] => {
                if is_stopping {
                    faults.push(format!("{line}: it is stopping"));
                }
                running.insert(n);
                let count = attempts.entry(n).or_default();
                *count += 1;
                if attempt != count.to_string() {
                    faults.push(format!("{line}: it is number {count}"));
                }
                if fresh.contains(n) || is_over.contains(n) {
                    faults.push(format!("{line}: it had ended"));
                }
            }
            ["end", n] => {
                running.remove(n);
                fresh.insert(n);
                ended.insert(n);
            }
            ["stopping"] => is_stopping = true,
            ["stopped", after_ms] => {
                is_stopping = false;
                let grace = *graces.next().expect("no more lives were told to stop");
                let had = after_ms.parse::<u64>().unwrap();
                if !running.is_empty() && had < grace {
                    faults.push(format!("{running:?} had {had} ms of {grace}"));
                }
                running.clear();
                let fresh = std::mem::take(&mut fresh);
                is_over.extend(fresh.into_iter().filter(|_| had < grace));
            }
            ["done"] => is_done = true,
            _ => panic!("no line of a book: {line:?}"),
        }
    }
    for n in acked(lines) {
        if !ended.contains(&*n.to_string()) {
            faults.push(format!("{n} was acknowledged and has not ended"));
        }
    }
    if !is_done || graces.next().is_some() {
        faults.push("a life has not ended".to_owned());
    }
    faults
}

#[test]
fn a_process_that_is_told_to_stop_starts_nothing_and_loses_nothing() {
    if let Some(home) = std::env::var_os(HOME) {
        return child(home);
    }
    let seed = seed();
    let mut dice = Dice(seed);
    let trials = trials();
    let mut cut = 0;
    for trial in 0..trials {
        let slots = 1 + dice.below(6) as usize;
        // Long enough for all of them, or for some.
        let grace = |dice: &mut Dice| match trial % 2 {
            0 => LONG,
            _ => 20 + dice.below(20),
        };
        let graces: Vec<u64> = (0..=dice.below(STOPS as u64))
            .map(|_| grace(&mut dice))
            .collect();
        println!("{slots} slots, {graces:?}");
        let home = tempfile::tempdir().unwrap();
        for grace in &graces {
            run(&home, slots, Some(*grace));
        }
        run(&home, slots, None);
        let book = book::read(home.path());
        assert_eq!(faults(&book, &graces), [""; 0], "\n{}", book.join("\n"));
        let again = book.iter().filter(|line| line.starts_with("begin")).count();
        cut += again - acked(&book).len();
    }
    say(format_args!(
        "crash: {trials} trials with a process that is told to stop, {cut} tasks cut short; CHORDAL_CRASH_SEED={seed}"
    ));
    assert!(cut > 0 || trials < 2, "nothing was cut short");
}

fn child(home: OsString) {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = runtime.enable_all().build().unwrap();
    runtime.block_on(live(Path::new(&home)));
    std::process::exit(0);
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: [&str; 12] = [
        "acked 0",
        "acked 1",
        "begin 0 1",
        "begin 1 1",
        "stopping",
        "acked 2",
        "end 0",
        "stopped 31",
        "begin 1 2",
        "begin 2 1",
        "end 1",
        "end 2",
    ];

    fn found(lines: &[&str]) -> Vec<String> {
        let lines: Vec<String> = lines.iter().map(|line| (*line).to_owned()).collect();
        faults(&lines, &[30])
    }

    #[test]
    fn a_book_in_order_has_no_faults() {
        assert_eq!(found(&[&GOOD[..], &["done"]].concat()), [""; 0]);
    }

    #[test]
    fn each_kind_of_fault_is_seen() {
        for (fault, line, instead) in [
            ("begin 2 1: it is stopping", 5, "begin 2 1"),
            ("begin 2 2: it is number 1", 9, "begin 2 2"),
            ("had 29 ms of 30", 7, "stopped 29"),
            ("2 was acknowledged", 11, "acked 1"),
            ("a life has not ended", 0, "acked 0"),
        ] {
            let mut lines = GOOD;
            lines[line] = instead;
            let found = found(&lines);
            assert!(
                found.iter().any(|found| found.contains(fault)),
                "{fault}: {found:?}"
            );
        }
        let again = [
            "acked 0",
            "begin 0 1",
            "end 0",
            "stopped 29",
            "begin 0 2",
            "end 0",
            "done",
        ];
        assert_eq!(found(&again), ["begin 0 2: it had ended"]);
    }
}
