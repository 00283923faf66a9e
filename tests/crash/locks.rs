//! Two processes and one store: the second is refused and told who has it, by whatever path it comes; and
//! when the first is killed the store is free.

use std::ffi::OsString;
use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Stdio};
use std::time::Duration;

use chordal::persistence::RedbStore;
use chordal::prelude::*;
use chordal::{AppBuilder, Error, Id, StoreError};
use tempfile::TempDir;

use crate::{Dice, Engine, own, say, seed, trials};

/// Where the program that holds a store, this test itself, has it, and with which engine.
const HOME: &str = "CHORDAL_CRASH_LOCKS";
const ENGINE: &str = "CHORDAL_CRASH_LOCKS_ENGINE";

#[task(name = "locks.echo")]
async fn echo(n: u64) -> u64 {
    n
}

/// An app that waits so long for another process to let go of its store.
fn builder(engine: Engine, data: &Path, patience: Duration) -> Result<AppBuilder, Error> {
    let app = match engine {
        Engine::Sled => App::open(data).lock_timeout(patience),
        Engine::Redb => App::with_store(RedbStore::open_within(data, patience)?),
    };
    Ok(app.tasks(tasks![echo]))
}

async fn open(engine: Engine, data: &Path, patience: Duration) -> Result<App, Error> {
    builder(engine, data, patience)?.start().await
}

/// Longer than a killed process takes to end.
const PATIENCE: Duration = Duration::from_secs(60);

/// Holds the store, and works until it is killed.
fn hold(home: OsString) {
    let engine = match std::env::var(ENGINE).unwrap().as_str() {
        "redb" => Engine::Redb,
        _ => Engine::Sled,
    };
    let all = async {
        let data = Path::new(&home).join("data");
        let app = open(engine, &data, PATIENCE).await.unwrap();
        println!("\nopen");
        for n in 0.. {
            let result = app.apply_async(echo.s(n)).await.unwrap();
            println!("\nacked {} {n}", result.id());
        }
    };
    pollster::block_on(all)
}

/// Another process that has the store open.
struct Holder {
    child: Child,
    out: BufReader<ChildStdout>,
}

impl Holder {
    fn start(engine: Engine, home: &TempDir) -> Self {
        let mut child =
            own("locks::a_second_process_is_told_who_has_the_store_and_a_kill_frees_it")
                .env(HOME, home.path())
                .env(ENGINE, engine.name())
                .stdin(Stdio::null())
                .stdout(Stdio::piped())
                .stderr(Stdio::null())
                .spawn()
                .unwrap();
        let out = BufReader::new(child.stdout.take().unwrap());
        let mut holder = Self { child, out };
        assert!(holder.lines().any(|line| line == "open"));
        holder
    }

    fn lines(&mut self) -> impl Iterator<Item = String> + '_ {
        (&mut self.out).lines().map(Result::unwrap)
    }

    fn acked(line: &str) -> Option<(Id, u64)> {
        let (id, n) = line.strip_prefix("acked ")?.split_once(' ')?;
        Some((id.parse().unwrap(), n.parse().ok()?))
    }

    /// Kills it when it has been told so often that its work is durable, and opens its store at once,
    /// before it has come to its end. Says of what it was told.
    async fn kill(
        mut self,
        count: u64,
        then: impl AsyncFnOnce() -> Result<App, Error>,
    ) -> (Vec<(Id, u64)>, App) {
        let told = self.lines().filter_map(|line| Self::acked(&line));
        let mut acked: Vec<_> = told.take(count as usize).collect();
        self.child.kill().unwrap();
        let app = then().await.unwrap();
        self.child.wait().unwrap();
        // (Its last line may be cut.)
        acked.extend(self.lines().filter_map(|line| Self::acked(&line)));
        (acked, app)
    }
}

/// The store's directory by each way there is to it.
fn ways(home: &TempDir) -> Vec<PathBuf> {
    let data = home.path().join("data");
    let (to_it, to_its_parent) = (home.path().join("link"), home.path().join("links"));
    symlink(&data, &to_it).unwrap();
    fs::create_dir(&to_its_parent).unwrap();
    symlink(home.path(), to_its_parent.join("home")).unwrap();
    let up = home.path().join("links/../data");
    vec![data, to_it, to_its_parent.join("home/data"), up]
}

async fn trial(engine: Engine, dice: &mut Dice) {
    let home = tempfile::tempdir().unwrap();
    let holder = Holder::start(engine, &home);
    let pid = holder.child.id();
    let ways = ways(&home);
    for way in &ways {
        match open(engine, way, Duration::ZERO).await {
            Err(Error::Store(error @ StoreError::Locked { .. })) => {
                let StoreError::Locked { holder, .. } = &error else {
                    unreachable!();
                };
                let named = chordal::Holder::Process { pid, host: None };
                assert_eq!(*holder, named, "{error}");
            }
            other => panic!("{}: {other:?}", way.display()),
        }
    }
    // At once, and by any of them.
    let way = &ways[dice.below(ways.len() as u64) as usize];
    let opened = async || open(engine, way, PATIENCE).await;
    let (known, app) = holder.kill(1 + dice.below(20), opened).await;
    for (id, n) in known {
        let result = app.async_result::<u64>(id).await.unwrap();
        assert_eq!(result.get().await.unwrap(), n);
    }
    app.shutdown().await.unwrap();
}

#[test]
fn a_second_process_is_told_who_has_the_store_and_a_kill_frees_it() {
    if let Some(home) = std::env::var_os(HOME) {
        return hold(home);
    }
    let seed = seed();
    let mut dice = Dice(seed);
    let trials = trials();
    for trial in 0..trials {
        let engine = [Engine::Sled, Engine::Redb][trial as usize % 2];
        println!("{engine:?}");
        pollster::block_on(self::trial(engine, &mut dice));
    }
    say(format_args!(
        "crash: {trials} trials with two processes and one store; CHORDAL_CRASH_SEED={seed}"
    ));
}
