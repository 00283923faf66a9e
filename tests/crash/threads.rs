//! No threads: the system refuses them, as under `ulimit -u` or in a small container. Work waits or is
//! refused, nothing runs that was said to have failed, and all goes on when there are threads again.
//!
//! The programs run as a user of their own, because root is not limited; so this needs root.

use std::ffi::OsString;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use chordal::persistence::Audit;
use chordal::prelude::*;
use chordal::{Error, GetError, Results, StartError, State};
use tempfile::TempDir;

use crate::say;

/// Where the program that lacks threads, this test itself, has its store.
const HOME: &str = "CHORDAL_CRASH_THREADS";

/// Nothing here takes that long; who is not done by now is stuck.
const STUCK: Duration = Duration::from_secs(120);

/// How long a program waits for what is not to come.
const PATIENCE: Duration = Duration::from_millis(300);

/// As many threads as anybody needs, and none.
const MANY: u32 = 500;
const NONE: u32 = 1;

static RUNS: AtomicU32 = AtomicU32::new(0);
static ERRBACKS: AtomicU32 = AtomicU32::new(0);

#[task(name = "threads.echo")]
async fn echo(text: String) -> String {
    text
}

#[task(name = "threads.number")]
async fn number(n: u64) -> u64 {
    n
}

/// Runs once: a second time it would fail.
#[task(name = "threads.blocking", blocking, time_limit = "100ms")]
fn blocking(n: u64) -> u64 {
    RUNS.fetch_add(1, Ordering::SeqCst);
    n
}

#[task(name = "threads.undo")]
async fn undo(_failure: TaskFailure) {
    ERRBACKS.fetch_add(1, Ordering::SeqCst);
}

#[task(name = "threads.total")]
async fn total(all: Vec<u64>) -> u64 {
    all.iter().sum()
}

#[task(name = "threads.read_total")]
async fn read_total(all: Results<u64>) -> Result<u64, TaskError> {
    let mut sum = 0;
    for n in all {
        sum += n?;
    }
    Ok(sum)
}

async fn open(home: &Path) -> chordal::Result<App> {
    App::open(home.join("data"))
        .worker_threads(2)
        .blocking_concurrency(2)
        .tasks(tasks![echo, number, blocking, undo, total, read_total])
        .start()
        .await
}

/// Has this program limited to so many threads.
fn limit(threads: u32) {
    println!("\nlimit {threads}");
    let mut done = String::new();
    std::io::stdin().read_line(&mut done).unwrap();
    assert_eq!(done, "limited\n");
}

/// How many checkpoints this process has made; a release build does not count them.
fn checkpoints() -> u64 {
    let reached = chordal::reached();
    let marked = reached.iter().find(|(point, _)| point == "Marked");
    marked.map_or(0, |(_, count)| *count)
}

fn large_group() -> Signature<(), Vec<u64>> {
    group((0..5_000).map(|n| number.s(n)))
}

/// Opens a store and does something of everything, with what threads it gets; and with more when it
/// cannot go on.
async fn little(home: &Path) -> chordal::Result<()> {
    let app = match open(home).await {
        Ok(app) => app,
        Err(error) => {
            println!("\nrefused {error}");
            // That is over when there are threads.
            limit(MANY);
            open(home).await?
        }
    };
    println!("\nstarted");
    let text = app.apply_async(echo.s("a".into())).await?;
    assert_eq!(text.get().await?, "a");
    let one = app
        .apply_async(blocking.s(1).on_error(undo.partial()))
        .await?;
    let large = app.apply_async(large_group()).await;
    if let Err(error) = &large {
        assert!(matches!(error, Error::NoThread { .. }), "{error}");
    }
    if let Err(error) = one.get_timeout(PATIENCE).await {
        assert!(
            matches!(error, Error::Get(GetError::Timeout { .. })),
            "{error}"
        );
        println!("\nwaits");
    }
    limit(MANY);
    assert_eq!(one.get().await?, 1);
    let large = match large {
        Ok(large) => large,
        Err(_) => app.apply_async(large_group()).await?,
    };
    assert_eq!(large.get().await?.len(), 5_000);
    app.shutdown().await
}

/// Has no thread in the middle of its work.
async fn lacking(home: &Path) -> chordal::Result<()> {
    let app = open(home).await?;
    let list = app
        .apply_async(group((0..1_000).map(|n| number.s(n))))
        .await?;
    // (To read it would leave a thread behind.)
    list.at_rest().await?;

    limit(NONE);
    // A blocking task waits for its thread, however short its time limit is, and keeps no other from
    // its slot.
    let waits = app
        .apply_async(blocking.s(7).on_error(undo.partial()))
        .await?;
    let timeout = waits.get_timeout(PATIENCE).await;
    assert!(
        matches!(timeout, Err(Error::Get(GetError::Timeout { .. }))),
        "{timeout:?}"
    );
    assert_eq!(waits.state().await?, State::Started);
    assert_eq!(RUNS.load(Ordering::SeqCst), 0);
    // What is read for a body is read all the same.
    let sum = (0..1_000).sum::<u64>();
    let all = || group((0..1_000).map(|n| number.s(n)));
    assert_eq!(
        app.apply_async(all() | total.partial())
            .await?
            .get()
            .await?,
        sum
    );
    assert_eq!(
        app.apply_async(all() | read_total.partial())
            .await?
            .get()
            .await?,
        sum
    );
    assert_eq!(list.get().await?.len(), 1_000);
    // What cannot be done without a thread says so.
    for _ in 0..3 {
        let refused = app.apply_async(large_group()).await;
        assert!(
            matches!(refused, Err(Error::NoThread { .. })),
            "{refused:?}"
        );
    }
    let refused = app.backup(home.join("copy")).await;
    assert!(
        matches!(refused, Err(Error::NoThread { .. })),
        "{refused:?}"
    );
    // Checkpoints are made, by who commits.
    let before = checkpoints();
    for n in 0..60 {
        let text = n.to_string().repeat(200_000);
        assert_eq!(
            app.apply_async(echo.s(text.clone())).await?.get().await?,
            text
        );
    }
    assert!(checkpoints() > before || !cfg!(debug_assertions));
    let other = App::in_memory().start().await;
    assert!(
        matches!(other, Err(Error::Start(StartError::Thread(_)))),
        "{other:?}"
    );

    limit(MANY);
    assert_eq!(waits.get().await?, 7);
    assert_eq!(RUNS.load(Ordering::SeqCst), 1);
    assert_eq!(ERRBACKS.load(Ordering::SeqCst), 0);
    // No slot is lost.
    for n in 0..6 {
        assert_eq!(app.apply_async(blocking.s(n)).await?.get().await?, n);
    }
    assert_eq!(
        app.apply_async(large_group()).await?.get().await?.len(),
        5_000
    );

    limit(NONE);
    app.shutdown().await?;
    let late = app.apply_async(number.s(1)).await;
    assert!(matches!(late, Err(Error::ShutDown)), "{late:?}");
    let refused = open(home).await;
    assert!(
        matches!(refused, Err(Error::Start(StartError::Thread(_)))),
        "{refused:?}"
    );

    limit(MANY);
    let app = open(home).await?;
    assert_eq!(app.async_result::<u64>(waits.id()).await?.get().await?, 7);
    app.shutdown().await
}

/// The program, run as this.
fn work(home: OsString, work: impl AsyncFnOnce(&Path) -> chordal::Result<()>) {
    pollster::block_on(work(Path::new(&home))).unwrap();
    println!("\nended");
    std::process::exit(0);
}

/// A user that nobody else is, who may have so many processes.
struct User {
    id: u32,
    home: TempDir,
    program: PathBuf,
}

impl User {
    fn new() -> Result<Self, String> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let own = std::process::id() * 64 + NEXT.fetch_add(1, Ordering::Relaxed);
        let id = 1_000_000 + own % 1_000_000_000;
        let home = tempfile::tempdir().unwrap();
        let chown = Command::new("chown")
            .arg(id.to_string())
            .arg(home.path())
            .output();
        let chown = chown.map_err(|error| format!("chown: {error}"))?;
        if !chown.status.success() {
            return Err(String::from_utf8_lossy(&chown.stderr).trim().to_owned());
        }
        // Where it lies others may have no way to.
        let program = home.path().join("program");
        let own = std::env::current_exe().unwrap();
        if fs::hard_link(&own, &program).is_err() {
            fs::copy(&own, &program).unwrap();
        }
        let user = Self { id, home, program };
        let tried = user.command("true", 5).output();
        let tried = tried.map_err(|error| format!("setpriv: {error}"))?;
        match tried.status.success() {
            true => Ok(user),
            false => Err(String::from_utf8_lossy(&tried.stderr).trim().to_owned()),
        }
    }

    fn become_it(&self) -> Command {
        let mut command = Command::new("setpriv");
        let id = self.id.to_string();
        command.args(["--reuid", &id, "--regid", &id, "--clear-groups"]);
        command
    }

    fn command(&self, program: impl AsRef<std::ffi::OsStr>, threads: u32) -> Command {
        let mut command = self.become_it();
        command
            .args(["prlimit", &format!("--nproc={threads}:{MANY}")])
            .arg(program);
        command
    }

    /// Runs the test as a program with so many threads; returns what it has said.
    fn run(&self, test: &str, threads: u32) -> Vec<String> {
        let mut child = self
            .command(&self.program, threads)
            .args(["--exact", "--nocapture", "--test-threads=1", test])
            .env(HOME, self.home.path())
            .current_dir(self.home.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let said = self.listen(&mut child);
        // It may be stuck.
        let _ = child.kill();
        let output = child.wait_with_output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(
            !stderr.contains("panicked"),
            "{threads}: {said:?}\n{stderr}"
        );
        let has_ended = said.iter().any(|line| line == "ended");
        assert!(has_ended, "{threads}: it is stuck: {said:?}\n{stderr}");
        said
    }

    fn listen(&self, child: &mut Child) -> Vec<String> {
        let mut stdin = child.stdin.take().unwrap();
        let (line, lines) = mpsc::channel();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        std::thread::spawn(move || {
            for text in stdout.lines().map_while(Result::ok) {
                let _ = line.send(text);
            }
        });
        let deadline = Instant::now() + STUCK;
        let mut said = Vec::new();
        while let Ok(line) = lines.recv_timeout(deadline.saturating_duration_since(Instant::now()))
        {
            if let Some(threads) = line.strip_prefix("limit ") {
                self.limit(child.id(), threads, &mut stdin);
            }
            said.push(line);
        }
        said
    }

    fn limit(&self, pid: u32, threads: &str, stdin: &mut ChildStdin) {
        let limited = self
            .become_it()
            .args(["prlimit", "--pid", &pid.to_string()])
            .arg(format!("--nproc={threads}:{MANY}"))
            .status();
        assert!(limited.unwrap().success());
        writeln!(stdin, "limited").unwrap();
    }

    fn check_store(&self) {
        let audit = pollster::block_on(App::verify(self.home.path().join("data")));
        let Audit { findings, .. } = audit.unwrap();
        assert!(findings.is_empty(), "{findings:?}");
    }
}

#[test]
fn a_start_with_few_threads_succeeds_or_says_so() {
    if let Some(home) = std::env::var_os(HOME) {
        return work(home, little);
    }
    let (mut started, mut refused, mut waited) = (0, 0, 0);
    for threads in 1..=24 {
        let user = match User::new() {
            Ok(user) => user,
            Err(why) => return say(format_args!("SKIPPED: starts with few threads: {why}")),
        };
        let test = "threads::a_start_with_few_threads_succeeds_or_says_so";
        let said = user.run(test, threads);
        let has_said = |what: &str| u32::from(said.iter().any(|line| line.starts_with(what)));
        refused += has_said("refused");
        started += 1 - has_said("refused");
        waited += has_said("waits");
        user.check_store();
    }
    say(format_args!(
        "crash: of starts with 1 to 24 threads {started} succeeded, {refused} were refused; in {waited} a blocking task waited"
    ));
    assert!(started > 0 && refused > 0, "{started}, {refused}");
}

#[test]
fn without_threads_work_waits_or_is_refused_and_goes_on_with_them() {
    if let Some(home) = std::env::var_os(HOME) {
        return work(home, lacking);
    }
    match User::new() {
        Ok(user) => {
            let test = "threads::without_threads_work_waits_or_is_refused_and_goes_on_with_them";
            user.run(test, MANY);
            user.check_store();
        }
        Err(why) => say(format_args!("SKIPPED: work without threads: {why}")),
    }
}
