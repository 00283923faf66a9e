//! Kills in a row: a process that runs 300 tasks is killed two, three and six times. New work does not
//! wait for what was running, that does not wait for long, and nothing is quarantined.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, ChildStdout, Stdio};
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use chordal::prelude::*;
use tempfile::TempDir;
use tokio::sync::watch;

use crate::{Dice, own, say, seed, trials};

/// Where the program, this test itself, has its store; and whether it is to tell how long all takes.
const HOME: &str = "CHORDAL_CRASH_ROW";
const MEASURE: &str = "CHORDAL_CRASH_ROW_MEASURE";
const TASKS: u64 = 300;
/// What is promised: so long after the open all that was running runs again. A new task has run by then,
/// in any queue.
const BOUND: Duration = Duration::from_secs(10);
/// How much longer it may take on a machine that has other work to do.
const SLACK: Duration = Duration::from_secs(5);

/// How many tasks have been entered in this process.
static ENTERED: LazyLock<watch::Sender<u64>> = LazyLock::new(watch::Sender::default);

#[task]
async fn forever() {
    ENTERED.send_modify(|entered| *entered += 1);
    std::future::pending().await
}

#[task]
async fn quick() {}

/// One life: runs the tasks until it is killed, or tells how long that and new work took.
fn live(home: &Path) {
    let begun = Instant::now();
    let all = async {
        let app = App::open(home.join("data")).tasks(tasks![forever, quick]);
        let app = app.start().await.unwrap();
        let tasks = group((0..TASKS).map(|_| forever.s()));
        let all = app.apply_async(tasks.idempotency_key("all"));
        drop(all.await.unwrap());
        println!("\nup");
        let measures = std::env::var_os(MEASURE).is_some();
        if measures {
            for task in [quick.s(), quick.s().queue("another")] {
                app.apply_async(task).await.unwrap().get().await.unwrap();
            }
            println!(
                "\nnew work has run after {} ms",
                begun.elapsed().as_millis()
            );
        }
        let mut entered = ENTERED.subscribe();
        entered.wait_for(|entered| *entered == TASKS).await.unwrap();
        println!("\nall run after {} ms", begun.elapsed().as_millis());
        if !measures {
            std::future::pending::<()>().await;
        }
        assert!(app.quarantined().is_empty(), "{:?}", app.quarantined());
        std::process::exit(0);
    };
    pollster::block_on(all)
}

fn start(home: &TempDir, measures: bool) -> (Child, BufReader<ChildStdout>) {
    let mut command = own("row::kills_in_a_row_keep_no_new_work_waiting_and_quarantine_nothing");
    if measures {
        command.env(MEASURE, "");
    }
    let child = command
        .env(HOME, home.path())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn();
    let mut child = child.unwrap();
    let said = BufReader::new(child.stdout.take().expect("it is piped"));
    (child, said)
}

/// Waits for a line that begins so; the number in it, if there is one.
fn said(lines: &mut impl BufRead, begin: &str) -> Option<Duration> {
    for line in lines.lines() {
        let line = line.unwrap();
        if line.starts_with(begin) {
            let number = line.split(' ').find_map(|word| word.parse().ok());
            return number.map(Duration::from_millis);
        }
    }
    panic!("it ended before it said {begin:?}");
}

/// How long new work has waited after so many kills, and all that was running.
fn trial(kills: u64, dice: &mut Dice) -> [Duration; 2] {
    let home = tempfile::tempdir().unwrap();
    for kill in 0..kills {
        let (mut child, mut lines) = start(&home, false);
        if kill < 2 {
            said(&mut lines, "all run");
        } else {
            // At any time in its trials, and sometimes behind them.
            said(&mut lines, "up");
            std::thread::sleep(Duration::from_millis(dice.below(10_000)));
        }
        child.kill().unwrap();
        child.wait().unwrap();
    }
    let (mut child, mut lines) = start(&home, true);
    let waited = ["new work", "all run"].map(|what| said(&mut lines, what).expect("it has one"));
    assert!(child.wait().unwrap().success(), "after {kills} kills");
    waited
}

#[test]
fn kills_in_a_row_keep_no_new_work_waiting_and_quarantine_nothing() {
    if let Some(home) = std::env::var_os(HOME) {
        return live(Path::new(&home));
    }
    let seed = seed();
    let mut dice = Dice(seed);
    let rows = [2, 3, 6];
    let trials = trials().div_ceil(40);
    for kills in rows {
        let mut longest = [Duration::ZERO; 2];
        for _ in 0..trials {
            let waited = trial(kills, &mut dice);
            println!("{kills} kills: {waited:?}");
            for (longest, waited) in longest.iter_mut().zip(waited) {
                *longest = waited.max(*longest);
            }
        }
        let [new, all] = longest;
        say(format_args!(
            "crash: {trials} trials with {kills} kills in a row: new work has run after {} ms, all that was running runs after {} ms; CHORDAL_CRASH_SEED={seed}",
            new.as_millis(),
            all.as_millis()
        ));
        assert!(new <= BOUND && all <= BOUND + SLACK, "{new:?} {all:?}");
    }
}
