//! strace, which fails or ends a process at a chosen system call.
//!
//! It counts the calls of each thread by themselves.

use std::collections::HashMap;
use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output};

use super::kill::{Process, acked};
use super::*;

/// What a store is written with.
pub(super) const WRITES: [&str; 6] = [
    "write",
    "pwrite64",
    "fdatasync",
    "fsync",
    "sync_file_range",
    "ftruncate",
];

/// Says why there is none here, if so.
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
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            Err(format!(
                "strace: {}",
                said.lines().next().unwrap_or_default()
            ))
        }
        Err(error) => Err(format!("strace: {error}")),
    }
}

/// What one process was told, and what it was seen to do.
pub(super) struct Run {
    pub(super) acked: u64,
    /// It came to its end.
    pub(super) has_ended: bool,
    /// The fault has met it.
    pub(super) was_met: bool,
    pub(super) said: String,
    /// When it had done all it was to do, in seconds.
    worked_until: Option<f64>,
    calls: String,
}

impl Run {
    /// Writes a few rounds, with this done to it at a call. Only calls to these files count, or any; of
    /// these none is behind the last acknowledgement but those that close the store.
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
        let told = String::from_utf8_lossy(&output.stdout).into_owned();
        let calls = fs::read(log.path()).unwrap();
        let calls = String::from_utf8_lossy(&calls).into_owned();
        Self {
            acked: told.lines().filter_map(acked).next_back().unwrap_or(0),
            has_ended: told.lines().any(|line| line == "ended"),
            was_met: calls.contains("INJECTED") || calls.contains("killed by SIGKILL"),
            worked_until: told
                .lines()
                .find_map(|line| line.strip_prefix("worked until ")?.parse().ok()),
            said: format!("{told}{}", String::from_utf8_lossy(&output.stderr)),
            calls,
        }
    }

    /// The calls that were made to fail before it began to close the store.
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

    /// The most calls of one thread.
    pub(super) fn most(&self) -> u64 {
        let mut counts: HashMap<&str, u64> = HashMap::new();
        for line in self.calls.lines().filter(|line| line.contains('(')) {
            let thread = line.split_whitespace().next();
            *counts.entry(thread.unwrap_or_default()).or_default() += 1;
        }
        counts.into_values().max().unwrap_or(0)
    }
}

/// The files that a store has or may come to have, but for those whose names it makes up.
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
