//! Negative controls: with a rule off, the fault that it prevents occurs.
//!
//! Rules are off in a separate process: this test binary, with [`the_process_without`] as its only
//! test.

use std::process::{Command, Stdio};

use super::*;
use crate::testing::negative_control::WITHOUT;

const HOME: &str = "CHORDAL_TEST_WITHOUT_HOME";

#[test]
#[ignore = "started by the next tests"]
fn the_process_without() {
    let Some(home) = std::env::var_os(HOME) else {
        return;
    };
    match SledStore::open(home) {
        Ok(store) => {
            store.apply(batch(&[("new", b"yes")])).unwrap();
            store.sync(Durability::Power).unwrap();
            println!("\nopened {}", store.all().unwrap().len() - 1);
        }
        Err(error) => println!("\nrefused {error:?}"),
    }
}

fn child(program: &str, args: &[&str], home: &Path, rule: &str) -> Command {
    let mut command = Command::new(program);
    command
        .args(args)
        .args(["--exact", "--ignored", "--nocapture"])
        .arg("persistence::store::sled::tests::without::the_process_without")
        .env(HOME, home)
        .env(WITHOUT, rule)
        .stdin(Stdio::null());
    command
}

fn exe() -> String {
    std::env::current_exe().unwrap().display().to_string()
}

/// Returns the result of an open: `opened` and the number of records, or `refused` and the error.
fn opening(home: &Path, rule: &str) -> String {
    let output = child(&exe(), &[], home, rule).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let word = |line: &&str| line.starts_with("opened ") || line.starts_with("refused ");
    text.lines().find(word).unwrap_or("nothing").to_owned()
}

#[test]
fn without_h2_a_torn_snapshot_keeps_the_store_shut() {
    for (rule, expected) in [("", "opened 1"), ("H2", "refused Corrupt")] {
        let home = filled();
        let torn = home.path().join("sled/snap.FFFFFFFFFFFFFFFF.generating");
        fs::write(&torn, b"half a snap").unwrap();
        let found = opening(home.path(), rule);
        assert!(found.starts_with(expected), "{rule}: {found}");
    }
}

#[test]
fn without_h3_an_interrupted_first_open_keeps_the_store_shut() {
    // A kill between the two writes that create this file.
    let conf = fs::read(filled().path().join("sled/conf")).unwrap();
    for (rule, expected) in [("", "opened 0"), ("H3", "refused")] {
        let home = tempdir().unwrap();
        let dir = home.path().join("sled");
        fs::create_dir_all(&dir).unwrap();
        for (name, bytes) in [
            (".creating", &b""[..]),
            ("db", b""),
            ("conf", &conf[..conf.len() - 4]),
        ] {
            fs::write(dir.join(name), bytes).unwrap();
        }
        let found = opening(home.path(), rule);
        assert!(found.starts_with(expected), "{rule}: {found}");
    }
}

#[test]
fn without_h4_missing_commits_are_not_detected() {
    // Of three records one is missing.
    for (rule, expected) in [("", "refused RolledBack"), ("H4", "opened 2")] {
        let new = rolled_back();
        let found = opening(new.path(), rule);
        assert!(found.starts_with(expected), "{rule}: {found}");
    }
}

/// Whether missing fsyncs lose anything, only a power cut can tell.
#[cfg(target_os = "linux")]
#[test]
fn without_h1_nothing_of_ours_is_synced() {
    if Command::new("strace").arg("-V").output().is_err() {
        eprintln!("SKIPPED: there is no strace to count fsyncs with");
        return;
    }
    let count = |rule| {
        let home = tempdir().unwrap();
        let calls = home.path().join("calls");
        let args = ["-f", "-qq", "-e", "trace=fdatasync", "-o"];
        let exe = exe();
        let args = [&args[..], &[calls.to_str().unwrap(), &exe]].concat();
        let output = child("strace", &args, &home.path().join("data"), rule)
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        assert!(String::from_utf8_lossy(&output.stdout).contains("opened 0"));
        fs::read_to_string(calls)
            .unwrap()
            .matches("fdatasync(")
            .count()
    };
    assert!(count("") > 0);
    assert_eq!(count("H1"), 0);
}

#[test]
fn an_unknown_rule_is_refused() {
    let home = tempdir().unwrap();
    let status = child(&exe(), &[], home.path(), "H1,h2")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .unwrap();
    assert!(!status.success());
}
