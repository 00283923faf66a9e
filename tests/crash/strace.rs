//! Kills at a chosen system call: a few of these find what many kills at random do not.

use std::collections::HashMap;
use std::path::Path;
use std::process::{Command, Stdio};

use tempfile::TempDir;

/// What a store on disk is made with. Only those that the program really makes are used.
const CALLS: [&str; 14] = [
    "pwrite64",
    "fsync",
    "sync_file_range",
    "fdatasync",
    "write",
    "openat",
    "ftruncate",
    "rename",
    "unlink",
    "mkdir",
    "fcntl",
    "getdents64",
    "lseek",
    "close",
];

/// Says why kills cannot be placed here, if so.
pub(crate) fn works() -> Result<(), String> {
    let probe = Command::new("strace")
        .args([
            "-f",
            "-qq",
            "-e",
            "trace=close",
            "-e",
            "inject=close:signal=KILL:when=1",
        ])
        .args(["-o", "/dev/null", "sh", "-c", "exec true"])
        .stdin(Stdio::null())
        .output();
    match probe {
        Err(error) => Err(format!("strace: {error}")),
        Ok(output) if output.status.success() => Err("strace does not inject signals".to_owned()),
        Ok(output) if output.stderr.is_empty() => Ok(()),
        Ok(output) => {
            let text = String::from_utf8_lossy(&output.stderr);
            Err(format!(
                "strace: {}",
                text.lines().next().unwrap_or_default()
            ))
        }
    }
}

/// The program, killed on entry to the nth such call of any one of its threads.
pub(crate) fn killing(program: &Path, home: &TempDir, call: &str, nth: u64) -> Command {
    let mut command = strace(home, call);
    command.arg("-e");
    command.arg(format!("inject={call}:signal=KILL:when={nth}"));
    command.arg(program);
    command
}

/// The program, with all its calls listed for [`census`].
pub(crate) fn listing(program: &Path, home: &TempDir) -> Command {
    let mut command = strace(home, &CALLS.map(|call| format!("?{call}")).join(","));
    command.arg(program);
    command
}

fn strace(home: &TempDir, calls: &str) -> Command {
    let mut command = Command::new("strace");
    command
        .args(["-f", "-qq", "-e"])
        .arg(format!("trace={calls}"));
    command.arg("-o").arg(home.path().join("strace"));
    command
}

/// How many of each call one thread has made at most.
pub(crate) fn census(home: &TempDir) -> Vec<(&'static str, u64)> {
    let listed = std::fs::read(home.path().join("strace")).unwrap();
    let listed = String::from_utf8_lossy(&listed);
    let mut counts: HashMap<(&str, &str), u64> = HashMap::new();
    for line in listed.lines() {
        // `<thread> <call>(…`; a call that was interrupted is listed twice, and starts once.
        if let Some((thread, rest)) = line.split_once(' ')
            && let Some((call, _)) = rest.trim_start().split_once('(')
        {
            *counts.entry((thread, call)).or_default() += 1;
        }
    }
    let most = |call: &str| {
        let of_call = counts.iter().filter(|((_, name), _)| *name == call);
        of_call.map(|(_, count)| *count).max()
    };
    CALLS
        .into_iter()
        .filter_map(|call| Some((call, most(call)?)))
        .collect()
}
