//! Tasks that end the process, each in its own way, until they are in quarantine, and all that ran
//! beside them is done: three times if the process aborts, and leaves a note of it; six times if that
//! looks like a kill afterwards.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Output, Stdio};
use std::sync::OnceLock;

use chordal::prelude::*;
use chordal::{Error, FailureKind, State};
use tempfile::TempDir;

use crate::{Dice, say, seed, trials};

/// Where the program that dies, this test itself, has its store; how it dies, and which member of
/// the group it is that does it, after how many turns.
const HOME: &str = "CHORDAL_CRASH_POISON";
const WAY: &str = "CHORDAL_CRASH_POISON_WAY";
const PLACE: &str = "CHORDAL_CRASH_POISON_PLACE";
const TURNS: &str = "CHORDAL_CRASH_POISON_TURNS";
const MEMBERS: u64 = 32;
/// Single tasks that each life adds, to run beside.
const MORE: u64 = 8;
/// So much memory has a process that is to run out of it, in bytes.
const MEMORY: u64 = 4 << 30;

static LEDGER: OnceLock<PathBuf> = OnceLock::new();

/// Counts itself as done when it is.
#[task]
async fn innocent(n: u64) -> u64 {
    turns(500 + 40 * (n % 50)).await;
    let mut ledger = OpenOptions::new()
        .create(true)
        .append(true)
        .open(LEDGER.get().expect("set before anything runs"))
        .unwrap();
    // In one piece: it may die at any time.
    ledger.write_all(format!("{n}\n").as_bytes()).unwrap();
    n
}

#[task]
async fn poison(way: String, after: u64) -> u64 {
    turns(after).await;
    match way.as_str() {
        "abort" => std::process::abort(),
        "overflow" => deeper(0),
        "segfault" => {
            let own = std::process::id().to_string();
            // The first one is taken by Rust, which looks whether it was the stack.
            loop {
                let kill = Command::new("kill").args(["-SEGV", &own]).status();
                assert!(kill.unwrap().success());
            }
        }
        "memory" => {
            let mut all = Vec::new();
            loop {
                all.push(vec![0_u8; 64 << 20]);
            }
        }
        other => unreachable!("{other} is no way to die"),
    }
}

/// Lets others run in between.
async fn turns(count: u64) {
    for _ in 0..count {
        tokio::task::yield_now().await;
    }
}

/// Has a bottom that no stack reaches.
fn deeper(depth: u64) -> u64 {
    let frame = [depth; 64];
    if depth == u64::MAX {
        return 0;
    }
    1 + deeper(std::hint::black_box(frame)[63] + 1)
}

fn number(variable: &str) -> u64 {
    std::env::var(variable).unwrap().parse().unwrap()
}

/// One life: goes on with the group, or submits it, and ends well if the poison is in quarantine.
fn live(home: OsString) {
    let home = Path::new(&home);
    LEDGER.set(home.join("ledger")).unwrap();
    let (place, after) = (number(PLACE), number(TURNS));
    let way = std::env::var(WAY).unwrap();
    let enough = crashes(&way);
    let all = async {
        let app = App::open(home.join("data"));
        let app = app.tasks(tasks![innocent, poison]).start().await.unwrap();
        let members = (0..MEMBERS).map(move |n| match n == place {
            true => poison.s(way.clone(), after),
            false => innocent.s(n),
        });
        let all = app.apply_async(group(members).idempotency_key("all"));
        let all = all.await.unwrap();
        let life = fs::read_dir(home).unwrap().count() as u64;
        fs::write(home.join(format!("life {life}")), "").unwrap();
        let mut beside = Vec::new();
        for n in 0..MORE {
            beside.push(app.apply_async(innocent.s(life * 100 + n)).await.unwrap());
        }
        let members = all.children::<u64>().await.unwrap();
        for (n, member) in (0..).zip(&members) {
            if n != place {
                assert_eq!(member.get().await.unwrap(), n);
            }
        }
        for result in beside {
            result.get().await.unwrap();
        }
        // If it has not died by now, it will, or else it is in quarantine.
        let guilty = &members[place as usize];
        if guilty.state().await.unwrap() != State::Quarantined {
            std::future::pending::<()>().await;
        }
        let quarantined = app.quarantined();
        let [task] = &quarantined[..] else {
            panic!("{quarantined:?}");
        };
        assert_eq!((task.id, task.crashes), (guilty.id(), enough));
        app.discard(task.id).await.unwrap();
        let Err(Error::Failed(failure)) = all.get().await else {
            panic!("it cannot succeed");
        };
        assert_eq!(failure.kind, FailureKind::Quarantined);
        app.shutdown().await.unwrap();
        println!("\nit is over");
        std::process::exit(0);
    };
    pollster::block_on(all)
}

fn run(home: &TempDir, way: &str, place: u64, turns: u64) -> Output {
    let program = std::env::current_exe().unwrap();
    let mut command = match way {
        "memory" => {
            let mut limited = Command::new("prlimit");
            limited.arg(format!("--as={MEMORY}")).arg(program);
            limited
        }
        _ => Command::new(program),
    };
    command
        .args(["--exact", "--nocapture"])
        .arg("poison::a_task_that_ends_the_process_is_quarantined_and_nobody_else_is")
        .env(HOME, home.path())
        .env(WAY, way)
        .env(PLACE, place.to_string())
        .env(TURNS, turns.to_string())
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

/// How often the process ends until it is proved of the task.
fn crashes(way: &str) -> u32 {
    match way {
        "segfault" => 6,
        _ => 3,
    }
}

/// It has died as it meant to, not of a failed assertion.
fn died(way: &str, status: ExitStatus) -> bool {
    const SIGABRT: i32 = 6;
    const SIGSEGV: i32 = 11;
    status.signal() == Some(if way == "segfault" { SIGSEGV } else { SIGABRT })
}

/// So many lives end as they must, and the next one well.
fn trial(way: &str, place: u64, turns: u64) {
    println!("{way}, member {place}, after {turns} turns");
    let home = tempfile::tempdir().unwrap();
    let crashes = crashes(way);
    for life in 1..=crashes + 1 {
        let output = run(&home, way, place, turns);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        let is_over = text.lines().any(|line| line == "it is over");
        let good = match life <= crashes {
            true => died(way, output.status),
            false => output.status.success() && is_over,
        };
        assert!(good, "life {life}: {}\n{text}\n{errors}", output.status);
    }
    let ledger = fs::read_to_string(home.path().join("ledger")).unwrap();
    let done: BTreeSet<u64> = ledger.lines().map(|line| line.parse().unwrap()).collect();
    let members = (0..MEMBERS).filter(|n| *n != place);
    let missing: Vec<u64> = members.filter(|n| !done.contains(n)).collect();
    assert!(missing.is_empty(), "{missing:?}");
    assert!(done.len() as u64 > MEMBERS + MORE, "nothing ran beside it");
}

#[test]
fn a_task_that_ends_the_process_is_quarantined_and_nobody_else_is() {
    if let Some(home) = std::env::var_os(HOME) {
        return live(home);
    }
    let seed = seed();
    let mut dice = Dice(seed);
    let ways = ["abort", "overflow", "segfault", "memory"];
    // Four lives each, or seven.
    let trials = trials().div_ceil(10);
    let has_prlimit = Command::new("prlimit").arg("--version").output().is_ok();
    let mut tried = 0;
    for way in ways {
        if way == "memory" && !has_prlimit {
            say(format_args!(
                "SKIPPED: {trials} trials that run out of memory: no prlimit"
            ));
            continue;
        }
        for _ in 0..trials {
            trial(way, dice.below(MEMBERS), dice.below(2_000));
            tried += 1;
        }
    }
    say(format_args!(
        "crash: {tried} trials, {ways:?}: all are in quarantine; CHORDAL_CRASH_SEED={seed}"
    ));
}
