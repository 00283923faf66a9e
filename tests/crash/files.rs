//! What else happens to the files of a store: a volume that cannot be written to, an audit that is killed, a
//! process that has no descriptor left.

use std::ffi::OsString;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use chordal::prelude::*;
use chordal::{Error, StoreError};

use crate::full::Disk;
use crate::{Dice, own, say, seed, trials};

const HOME: &str = "CHORDAL_CRASH_FILES";

#[task(name = "files.letters")]
async fn letters(length: usize) -> String {
    "x".repeat(length)
}

async fn open(data: &Path) -> chordal::Result<App> {
    App::open(data).tasks(tasks![letters]).start().await
}

/// A closed store with so many results of 100 KB.
async fn fill(data: &Path, results: usize) {
    let app = open(data).await.unwrap();
    let all = group((0..results).map(|_| letters.s(100_000)));
    app.apply_async(all).await.unwrap().get().await.unwrap();
    app.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_store_on_a_volume_that_cannot_be_written_to_is_audited() {
    let disk = match Disk::mounted(64) {
        Ok(disk) => disk,
        Err(why) => return say(format_args!("SKIPPED: a read-only volume: {why}")),
    };
    fill(&disk.store(), 3).await;
    disk.set_read_only(true);
    let audit = App::verify(disk.store()).await.unwrap();
    assert!(audit.is_sound(), "{:?}", audit.findings);
    assert_eq!(audit.ended, 1);
    let error = open(&disk.store()).await.unwrap_err();
    assert!(
        matches!(&error, Error::Store(StoreError::Io { .. }))
            && error.to_string().contains("Read-only file system"),
        "{error}"
    );
    disk.set_read_only(false);
    open(&disk.store()).await.unwrap().shutdown().await.unwrap();
}

#[test]
fn an_audit_that_is_killed_leaves_nothing_once_the_store_is_opened_or_audited_again() {
    if let Some(home) = std::env::var_os(HOME) {
        let audit = pollster::block_on(App::verify(Path::new(&home).join("data")));
        return println!("{:?}", audit.unwrap().is_sound());
    }
    let home = tempfile::tempdir().unwrap();
    let data = home.path().join("data");
    pollster::block_on(fill(&data, 60));
    let seed = seed();
    let mut dice = Dice(seed);
    let (trials, mut left) = (trials(), 0);
    for trial in 0..trials {
        let mut audit =
            own("files::an_audit_that_is_killed_leaves_nothing_once_the_store_is_opened_or_audited_again")
                .env(HOME, home.path())
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .unwrap();
        std::thread::sleep(std::time::Duration::from_millis(dice.below(150)));
        audit.kill().unwrap();
        audit.wait().unwrap();
        left += u64::from(home.path().join("data.verify").exists());
        match trial % 2 {
            0 => drop(pollster::block_on(App::verify(&data)).unwrap()),
            _ => pollster::block_on(open(&data)).unwrap().shutdown_now(),
        }
        let names: Vec<_> = fs::read_dir(home.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        assert_eq!(names, [OsString::from("data")], "trial {trial}");
    }
    say(format_args!(
        "crash: {trials} trials with a killed audit, {left} of which left a copy; CHORDAL_CRASH_SEED={seed}"
    ));
}

/// Shuts an app down that has nothing to do.
trait ShutDown {
    fn shutdown_now(self);
}

impl ShutDown for App {
    fn shutdown_now(self) {
        pollster::block_on(self.shutdown()).unwrap();
    }
}

const DATA: &str = "CHORDAL_CRASH_FILES_DATA";

/// Works through a time in which it has no descriptor left.
fn run_out(data: PathBuf) {
    let work = async {
        let app = open(&data).await.unwrap();
        let submit = async |results: usize| {
            for _ in 0..results {
                let result = app.apply_async(letters.s(100_000)).await.unwrap();
                assert_eq!(result.get().await.unwrap().len(), 100_000);
            }
        };
        submit(20).await;
        let mut taken = Vec::new();
        while let Ok(file) = File::open("/dev/null") {
            taken.push(file);
        }
        // More than one checkpoint is due.
        submit(300).await;
        drop(taken);
        submit(100).await;
        app.shutdown().await.unwrap();
    };
    pollster::block_on(work);
    println!("\nended");
}

#[test]
fn an_app_that_has_no_descriptor_left_for_a_while_goes_on() {
    if let Some(data) = std::env::var_os(DATA) {
        return run_out(data.into());
    }
    let home = tempfile::tempdir().unwrap();
    let data = home.path().join("data");
    let this = own("files::an_app_that_has_no_descriptor_left_for_a_while_goes_on");
    let output = Command::new("sh")
        .arg("-c")
        .arg("ulimit -n 80 && exec \"$0\" \"$@\"")
        .arg(this.get_program())
        .args(this.get_args())
        .env(DATA, &data)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        said.lines().any(|line| line == "ended"),
        "{said}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let audit = pollster::block_on(App::verify(&data)).unwrap();
    assert!(audit.is_sound(), "{:?}", audit.findings);
    assert_eq!(audit.ended, 420);
}
