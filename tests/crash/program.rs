//! The program under test: found, run, killed.

use std::ffi::OsStr;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

use crate::corpus::{self, Corpus};
use crate::{Engine, ledger, strace};

/// Nothing here takes a second; who is not done by now is stuck.
const STUCK: Duration = Duration::from_secs(300);
/// How often a run is looked at.
const GLANCE: Duration = Duration::from_micros(300);

/// When to kill it.
#[derive(Clone, Debug)]
pub(crate) enum Kill {
    After(Duration),
    /// When its ledger has so many lines.
    AtLine(usize),
    /// On entry to the nth call of this name that any one thread makes.
    AtCall {
        call: &'static str,
        nth: u64,
    },
}

#[derive(Debug)]
pub(crate) struct Program {
    path: PathBuf,
    engine: Engine,
}

/// How a run ended: killed, or with its answer.
#[derive(Debug)]
pub(crate) struct End {
    answer: Option<Value>,
    stderr: String,
}

impl End {
    pub(crate) fn answer(&self) -> Option<Value> {
        self.answer.clone()
    }

    /// How many chunks it said that it had found done.
    pub(crate) fn resumed(&self) -> Option<u64> {
        let rest = self.stderr.strip_prefix("resuming: ")?;
        rest.split(' ').next()?.replace(',', "").parse().ok()
    }
}

impl Program {
    /// Cargo has put it beside this test's own directory; `CHORDAL_CRASH_PROGRAM` names another build.
    pub(crate) fn find(engine: Engine) -> Self {
        if let Some(path) = std::env::var_os("CHORDAL_CRASH_PROGRAM") {
            let path = path.into();
            return Self { path, engine };
        }
        let test = std::env::current_exe().expect("a test knows its own path");
        let profile = test.parent().and_then(|deps| deps.parent());
        let name = format!("map_reduce{}", std::env::consts::EXE_SUFFIX);
        let path = profile
            .expect("it lies in deps/")
            .join("examples")
            .join(name);
        assert!(
            path.is_file(),
            "{} is not built: `cargo test` builds it, `cargo test --test crash` needs `cargo build --example map_reduce` before it",
            path.display()
        );
        Self { path, engine }
    }

    /// Runs it with these arguments to its end.
    pub(crate) fn output(&self, args: &[&OsStr]) -> Output {
        let output = Command::new(&self.path).args(args).output();
        output.unwrap_or_else(|error| panic!("cannot run {}: {error}", self.path.display()))
    }

    /// Runs it over the corpus, with its store and its ledger in `home`.
    pub(crate) fn run(&self, corpus: &Corpus, home: &TempDir, kill: Option<&Kill>) -> End {
        let mut command = match kill {
            Some(Kill::AtCall { call, nth }) => strace::killing(&self.path, home, call, *nth),
            _ => Command::new(&self.path),
        };
        let mut child = self.start(&mut command, corpus, home);
        match kill {
            Some(Kill::After(delay)) => {
                wait_until(&mut child, |since| since >= *delay);
                let _ = child.kill();
            }
            Some(Kill::AtLine(lines)) => {
                let path = ledger::path(home);
                wait_until(&mut child, |_| {
                    ledger::read(&path).lines().count() >= *lines
                });
                let _ = child.kill();
            }
            _ => {}
        }
        end(child, kill.is_some())
    }

    /// Which system calls it makes that touch files, and how many of each one thread makes at
    /// most.
    pub(crate) fn census(&self, corpus: &Corpus, home: &TempDir) -> Vec<(&'static str, u64)> {
        let mut command = strace::listing(&self.path, home);
        let child = self.start(&mut command, corpus, home);
        assert!(end(child, false).answer.is_some());
        strace::census(home)
    }

    fn start(&self, command: &mut Command, corpus: &Corpus, home: &TempDir) -> Child {
        if let Ok(durability) = std::env::var("CHORDAL_CRASH_DURABILITY") {
            command.arg("--durability").arg(durability);
        }
        command
            .args(["--engine", self.engine.name()])
            .args(["--json", "--top", &corpus::TOP.to_string()])
            .args(["--chunk-bytes", &corpus::CHUNK_BYTES.to_string()])
            .arg("--data-dir")
            .arg(home.path().join("data"))
            .arg("--ledger")
            .arg(ledger::path(home))
            .arg(corpus.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("cannot run {}: {error}", self.path.display()))
    }
}

/// Waits until it is time or the child has ended.
fn wait_until(child: &mut Child, is_time: impl Fn(Duration) -> bool) {
    let begun = Instant::now();
    while !is_time(begun.elapsed()) && child.try_wait().expect("it can be asked").is_none() {
        assert!(begun.elapsed() < STUCK, "it is stuck");
        std::thread::sleep(GLANCE);
    }
}

fn end(mut child: Child, may_be_killed: bool) -> End {
    // What it writes fits a pipe, so it can be read when all is over.
    wait_until(&mut child, |_| false);
    let output = child.wait_with_output().expect("it can be waited for");
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    if may_be_killed && was_killed(output.status) {
        return End {
            answer: None,
            stderr,
        };
    }
    let Output { status, stdout, .. } = output;
    let answer = serde_json::from_slice(&stdout);
    match answer {
        Ok(answer) if status.success() => End {
            answer: Some(answer),
            stderr,
        },
        answer => panic!("{status}, {answer:?}, and on standard error:\n{stderr}"),
    }
}

fn was_killed(status: ExitStatus) -> bool {
    use std::os::unix::process::ExitStatusExt;
    const SIGKILL: i32 = 9;
    status.signal() == Some(SIGKILL) || status.code() == Some(128 + SIGKILL)
}
