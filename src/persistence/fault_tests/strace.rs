//! strace, which makes a process fail or end at a chosen system call.
//!
//! It counts the calls of each thread separately.

use std::collections::HashMap;
use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output};

use super::kill::{Process, acked};
use super::*;

/// The system calls that write to a store.
pub(super) const WRITES: [&str; 6] = [
    "write",
    "pwrite64",
    "fdatasync",
    "fsync",
    "sync_file_range",
    "ftruncate",
];

/// Returns why strace does not work here, if it does not.
pub(super) fn works() -> Result<(), String> {
    let args = [
        "-qq",
        "-e",
        "trace=close",
        "-e",
        "inject=close:error=EIO:when=999",
    ];
    let output = Command::new("strace").args(args).arg("true").output();
    match output {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => {
            let output = String::from_utf8_lossy(&output.stderr).into_owned();
            Err(format!(
                "strace: {}",
                output.lines().next().unwrap_or_default()
            ))
        }
        Err(error) => Err(format!("strace: {error}")),
    }
}

/// The result of one run of a process under strace.
pub(super) struct Run {
    pub(super) acked: u64,
    /// Whether the process ended by itself.
    pub(super) has_ended: bool,
    /// Whether the fault was injected.
    pub(super) was_injected: bool,
    pub(super) output: String,
    /// When the process had finished its work, in seconds.
    worked_until: Option<f64>,
    calls: String,
}

impl Run {
    /// Runs a process that writes a few rounds, with a fault injected at a call. Only calls to
    /// `files` count, or all calls if there are none; with `files`, no counted call follows the
    /// last acknowledgement except those that close the store.
    pub(super) fn new(
        engine: Engine,
        home: &Path,
        call: &str,
        files: &[PathBuf],
        inject: Option<String>,
    ) -> Self {
        let log = tempfile::NamedTempFile::new().unwrap();
        let mut strace = Command::new("strace");
        strace
            .args(["-f", "-qq", "-y", "-ttt", "-e"])
            .arg(format!("trace={call}"));
        for path in files {
            strace.arg("-P").arg(path);
        }
        if let Some(inject) = inject {
            strace.arg("-e").arg(format!("inject={call}:{inject}"));
        }
        strace
            .arg("-o")
            .arg(log.path())
            .arg(std::env::current_exe().unwrap());
        let mut process = Process::under(strace, engine, home).for_power().rounds(12);
        if !files.is_empty() {
            process = process.settled();
        }
        Self::of(process.command().output().unwrap(), log)
    }

    fn of(output: Output, log: tempfile::NamedTempFile) -> Self {
        let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
        let calls = fs::read(log.path()).unwrap();
        let calls = String::from_utf8_lossy(&calls).into_owned();
        Self {
            acked: stdout.lines().filter_map(acked).next_back().unwrap_or(0),
            has_ended: stdout.lines().any(|line| line == "ended"),
            was_injected: calls.contains("INJECTED") || calls.contains("killed by SIGKILL"),
            worked_until: stdout
                .lines()
                .find_map(|line| line.strip_prefix("worked until ")?.parse().ok()),
            output: format!("{stdout}{}", String::from_utf8_lossy(&output.stderr)),
            calls,
        }
    }

    /// Returns the calls that were made to fail before the process began to close the store.
    pub(super) fn faults(&self) -> Vec<&str> {
        let lines = self.calls.lines();
        let is_early = |line: &&str| {
            let at = line.split_whitespace().nth(1).unwrap_or_default();
            let at: f64 = at.parse().expect("a thread, a time, a call");
            self.worked_until.is_none_or(|end| at < end)
        };
        let faults = lines.filter(|line| line.contains("INJECTED"));
        faults.filter(is_early).collect()
    }

    /// Returns the highest number of calls of one thread.
    pub(super) fn max_calls(&self) -> u64 {
        let mut counts: HashMap<&str, u64> = HashMap::new();
        for line in self.calls.lines().filter(|line| line.contains('(')) {
            let thread = line.split_whitespace().next();
            *counts.entry(thread.unwrap_or_default()).or_default() += 1;
        }
        counts.into_values().max().unwrap_or(0)
    }
}

/// Returns the files that a store has or may create, except for those with generated names.
pub(super) fn files(engine: Engine, home: &Path) -> Vec<PathBuf> {
    let home = home.canonicalize().unwrap();
    let names: &[&str] = match engine {
        Engine::Sled => &[
            "",
            "LOCK",
            "ballast",
            "wal",
            "wal/fence",
            "sled",
            "sled/db",
            "sled/conf",
            "sled/.creating",
        ],
        Engine::Redb => &[
            "",
            "LOCK",
            "redb",
            "redb/db",
            "redb/fence",
            "redb/.creating",
        ],
    };
    let segments = (1..=9).map(|n| format!("wal/{n:08}.segment"));
    let names = names.iter().map(|name| (*name).to_owned());
    names.chain(segments).map(|name| home.join(name)).collect()
}
