//! Power cuts: the file system of a process that writes is copied as its disk has it, which lacks
//! all that was not synced, and mounted again.
//!
//! The disk is a file with ext4 on it that commits its journal only when it is told to. Needs root.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use super::kill::{Process, acked};
use super::*;

/// How many cuts with each engine; more with `CHORDAL_POWER_CUTS`.
const CUTS: u64 = 3;
const MEGABYTES: u64 = 128;

/// Runs a program of the system; what it says if it fails.
fn run(program: &str, args: &[&str], path: &[&Path]) -> Result<(), String> {
    let output = Command::new(program).args(args).args(path).output();
    let output = output.map_err(|error| format!("{program}: {error}"))?;
    match output.status.success() {
        true => Ok(()),
        false => Err(format!(
            "{program}: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        )),
    }
}

/// A file system in a file, on it for as long as this lives.
struct Mount(TempDir);

impl Mount {
    fn new(image: &Path) -> Result<Self, String> {
        let at = tempfile::tempdir().unwrap();
        // Nothing is written that is not asked for: not every 5 seconds, as it would be.
        run("mount", &["-o", "loop,commit=300"], &[image, at.path()])?;
        Ok(Self(at))
    }

    fn home(&self) -> PathBuf {
        self.0.path().join("store")
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let done = run("umount", &["-l"], &[self.0.path()]);
        assert!(std::thread::panicking() || done.is_ok(), "{done:?}");
    }
}

/// Ends with what is tried, however that ends.
struct Living(Child);

impl Living {
    /// Returns when none of its threads runs any more.
    fn stop(&self) {
        let pid = self.0.id().to_string();
        run("kill", &["-STOP", &pid], &[]).unwrap();
        let stopped = |task: fs::DirEntry| {
            let stat = fs::read_to_string(task.path().join("stat"));
            // `<id> (<name>) <state> …`; a thread that is gone is as good.
            stat.map_or(true, |stat| {
                let state = stat.rsplit_once(") ").map(|(_, rest)| rest.as_bytes()[0]);
                matches!(state, Some(b'T' | b'Z' | b'X'))
            })
        };
        while !fs::read_dir(format!("/proc/{pid}/task"))
            .unwrap()
            .all(|task| stopped(task.unwrap()))
        {
            std::thread::yield_now();
        }
    }
}

impl Drop for Living {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Cuts the power after so many acknowledgements.
fn trial(engine: Engine, empty: &Path, acks: usize) -> Result<(), String> {
    let bench = tempfile::tempdir().unwrap();
    let (disk, left) = (bench.path().join("disk"), bench.path().join("left"));
    let copied = |from: &Path, to: &Path| run("cp", &["--sparse=always"], &[from, to]);
    copied(empty, &disk)?;
    let mounted = Mount::new(&disk)?;
    let mut process = Process::new(engine, &mounted.home()).for_power();
    let mut living = Living(process.command().stderr(Stdio::null()).spawn().unwrap());
    let mut lines = BufReader::new(living.0.stdout.take().unwrap()).lines();
    let mut next = || lines.find_map(|line| acked(&line.unwrap()));
    let mut last = 0;
    for _ in 0..acks {
        last = next().ok_or("it goes on until it is stopped")?;
    }
    living.stop();
    copied(&disk, &left)?;
    drop(living);
    while let Some(later) = next() {
        last = later;
    }
    drop(mounted);
    let mounted = Mount::new(&left)?;
    left_whole(engine, &mounted.home(), last)
}

fn cuts(engine: Engine) {
    let trials = number("CHORDAL_POWER_CUTS", CUTS);
    let bench = tempfile::tempdir().unwrap();
    let empty = bench.path().join("empty");
    fs::File::create(&empty)
        .unwrap()
        .set_len(MEGABYTES << 20)
        .unwrap();
    let there = run("mkfs.ext4", &["-q", "-F"], &[&empty]);
    if let Err(why) = there.and_then(|()| Mount::new(&empty).map(drop)) {
        eprintln!("SKIPPED: {trials} power cuts with {engine:?}: {why}");
        return;
    }
    // Each time others: what is not found in one run may be in the next.
    let seed = std::process::id().into();
    let mut dice = noise(seed).skip(9);
    for done in 1..=trials {
        let acks = (dice.next().unwrap() >> 20) as usize % 90;
        if let Err(why) = trial(engine, &empty, acks) {
            panic!("{engine:?}, cut behind {acks} or more, after {done} trials: {why}");
        }
    }
    eprintln!("{engine:?}: {trials} trials with power cuts");
}

#[test]
fn a_power_cut_takes_nothing_from_sled_that_was_acknowledged() {
    cuts(Engine::Sled);
}

#[test]
fn a_power_cut_takes_nothing_from_redb_that_was_acknowledged() {
    cuts(Engine::Redb);
}
