//! Kills in the middle of a submission: after each of them all of it is there, or nothing.

use std::ffi::OsStr;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use chordal::persistence::{Batch, RedbStore, Scan, SledStore, Store};
use chordal::prelude::*;
use chordal::{Durability, Id, StoreError};
use tempfile::TempDir;

use crate::{Dice, Engine, say, seed, strace, trials};

/// Where the program that is killed, this test itself, has its store.
const HOME: &str = "CHORDAL_CRASH_SUBMIT";
const MEMBERS: usize = 10_000;
const SIZE: usize = 300;

#[task]
async fn length(text: String) -> usize {
    text.len()
}

fn open(engine: Engine, home: &Path) -> Arc<dyn Store> {
    let data = home.join("data");
    match engine {
        Engine::Sled => Arc::new(SledStore::open(data).unwrap()),
        Engine::Redb => Arc::new(RedbStore::open(data).unwrap()),
    }
}

/// Submits a group, says so, and goes.
fn submit(engine: Engine, home: &OsStr) {
    let all = async {
        let app = App::with_store(Shown(open(engine, Path::new(home))));
        let app = app.tasks(tasks![length]).start().await.unwrap();
        let members = (0..MEMBERS).map(|_| length.s("x".repeat(SIZE)));
        let result = app.apply_async(group(members)).await.unwrap();
        println!("\nacked {}", result.id());
        std::process::exit(0);
    };
    pollster::block_on(all)
}

/// Runs the submission; returns the id that it was told, if it came so far.
fn run(mut command: Command, engine: Engine, home: &TempDir) -> Option<Id> {
    let test = match engine {
        Engine::Sled => "submit::a_kill_in_a_submission_leaves_all_of_it_or_nothing",
        Engine::Redb => "submit::a_kill_in_a_submission_leaves_all_of_it_or_nothing_with_redb",
    };
    let output = command
        .args(["--exact", "--nocapture", test])
        .env(HOME, home.path())
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let acked = text.lines().find_map(|line| line.strip_prefix("acked "));
    acked.map(|id| id.parse().unwrap())
}

/// The store of an app, seen from outside.
#[derive(Clone, Debug)]
struct Shown(Arc<dyn Store>);

impl Shown {
    fn first(&self, tag: u8) -> Option<Vec<u8>> {
        let first = self.scan(&[tag], &[tag + 1]).next();
        first.map(|pair| pair.unwrap().0)
    }

    /// The one workflow that there may be.
    fn submitted(&self) -> Option<Id> {
        let key = self.first(b'w')?;
        let hex: String = key[1..].iter().map(|byte| format!("{byte:02x}")).collect();
        Some(hex.parse().unwrap())
    }
}

impl Store for Shown {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        self.0.get(key)
    }

    fn scan(&self, from: &[u8], to: &[u8]) -> Scan<'_> {
        self.0.scan(from, to)
    }

    fn apply(&self, batch: Batch) -> Result<(), StoreError> {
        self.0.apply(batch)
    }

    fn sync(&self, durability: Durability) -> Result<(), StoreError> {
        self.0.sync(durability)
    }
}

/// What a restart makes of it; says whether it is there, and whether any of it was.
async fn check(engine: Engine, home: &TempDir, acked: Option<Id>) -> (bool, bool) {
    let store = Shown(open(engine, home.path()));
    let submitted = store.submitted();
    let staged = store.first(b'd').is_some();
    assert!(acked.is_none() || acked == submitted, "it was acknowledged");
    let app = App::with_store(store.clone()).tasks(tasks![length]);
    let app = app.start().await.unwrap();
    match submitted {
        Some(id) => {
            let all = app.async_result::<Vec<usize>>(id).await.unwrap();
            assert_eq!(all.get().await.unwrap(), vec![SIZE; MEMBERS]);
        }
        None => {
            let begun = Instant::now();
            while store.first(b'd').is_some() {
                assert!(begun.elapsed() < Duration::from_secs(60), "it is not swept");
                tokio::task::yield_now().await;
            }
        }
    }
    app.shutdown().await.unwrap();
    (submitted.is_some(), staged)
}

#[test]
fn a_kill_in_a_submission_leaves_all_of_it_or_nothing() {
    kill_in_submissions(Engine::Sled);
}

#[test]
fn a_kill_in_a_submission_leaves_all_of_it_or_nothing_with_redb() {
    kill_in_submissions(Engine::Redb);
}

fn kill_in_submissions(engine: Engine) {
    if let Some(home) = std::env::var_os(HOME) {
        return submit(engine, &home);
    }
    let trials = trials();
    if let Err(why) = strace::works() {
        return say(format_args!(
            "SKIPPED: {trials} trials with kills in submissions: {why}"
        ));
    }
    let seed = seed();
    let mut dice = Dice(seed);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let program = std::env::current_exe().unwrap();
    let home = tempfile::tempdir().unwrap();
    let acked = run(strace::listing(&program, &home), engine, &home);
    assert!(acked.is_some(), "nobody killed it");
    let calls = strace::census(&home);
    let most = |name: &str| {
        let of_call = calls.iter().find(|(call, _)| *call == name);
        of_call.unwrap_or_else(|| panic!("no {name}: {calls:?}")).1
    };
    // What the store is written with, and what it waits for.
    let writes = match engine {
        Engine::Sled => "write",
        Engine::Redb => "pwrite64",
    };
    let calls = [writes, "fdatasync"].map(|call| (call, most(call)));
    let (mut whole, mut cut) = (0, 0);
    for trial in 0..trials {
        let (call, most) = calls[trial as usize % calls.len()];
        let nth = 1 + dice.below(most);
        println!("{call} {nth} of {most}");
        let home = tempfile::tempdir().unwrap();
        let acked = run(strace::killing(&program, &home, call, nth), engine, &home);
        match runtime.block_on(check(engine, &home, acked)) {
            (true, _) => whole += 1,
            (false, true) => cut += 1,
            (false, false) => {}
        }
    }
    say(format_args!(
        "crash: {engine:?}: {trials} trials with kills in submissions, {whole} whole, {cut} swept; CHORDAL_CRASH_SEED={seed}"
    ));
    assert!(cut > 0 || trials < 10, "no kill came in the middle");
}
