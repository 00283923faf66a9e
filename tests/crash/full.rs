//! Full disks: nothing acknowledged is lost, new work is refused, and work goes on when there is room.
//!
//! Some are real, small ones in memory, which need root; others are played by strace, at the nth write.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{LazyLock, Mutex};
use std::time::Duration;

use chordal::persistence::{SledStore, verify};
use chordal::prelude::*;
use chordal::{Error, GetError, Id, StoreError};
use tempfile::TempDir;
use tokio::sync::watch;

use crate::{Dice, say, seed, strace, trials};

/// How many gates are open.
static OPEN: LazyLock<watch::Sender<u32>> = LazyLock::new(Default::default);

#[task(name = "full.letters")]
async fn letters(length: usize) -> String {
    "x".repeat(length)
}

/// The same, behind a gate.
#[task(name = "full.gated")]
async fn gated(gate: u32, length: usize) -> String {
    let _ = OPEN.subscribe().wait_for(|open| *open > gate).await;
    "x".repeat(length)
}

fn is_full(error: &Error) -> bool {
    matches!(error, Error::Store(StoreError::Full { .. }))
}

async fn open(home: &Path) -> chordal::Result<App> {
    App::open(home).tasks(tasks![letters, gated]).start().await
}

/// A disk of its own, in memory.
pub(crate) struct Disk(TempDir);

impl Disk {
    pub(crate) fn mounted(megabytes: u32) -> Result<Self, String> {
        let home = tempfile::tempdir().unwrap();
        let output = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={megabytes}m"), "none"])
            .arg(home.path())
            .output();
        match output {
            Ok(output) if output.status.success() => Ok(Self(home)),
            Ok(output) => Err(String::from_utf8_lossy(&output.stderr).trim().to_owned()),
            Err(error) => Err(format!("mount: {error}")),
        }
    }

    /// Has nothing written to it from now on, or no longer.
    pub(crate) fn set_read_only(&self, is_read_only: bool) {
        let how = if is_read_only {
            "remount,ro"
        } else {
            "remount,rw"
        };
        let status = Command::new("mount")
            .args(["-o", how])
            .arg(self.0.path())
            .status();
        assert!(status.unwrap().success());
    }

    pub(crate) fn store(&self) -> PathBuf {
        self.0.path().join("data")
    }

    /// Leaves so many bytes free.
    fn fill_to(&self, free: u64) {
        let path = self.0.path().join("filler");
        let mut filler = File::options()
            .create(true)
            .append(true)
            .open(path)
            .unwrap();
        for size in [1 << 20, 4_096] {
            while filler.write_all(&vec![7; size]).is_ok() {}
        }
        let length = filler.metadata().unwrap().len();
        filler.set_len(length.checked_sub(free).unwrap()).unwrap();
    }

    fn empty(&self) {
        fs::remove_file(self.0.path().join("filler")).unwrap();
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let status = Command::new("umount").arg("-l").arg(self.0.path()).status();
        assert!(std::thread::panicking() || status.unwrap().success());
    }
}

async fn sound(home: &Path) {
    let audit = App::verify(home).await.unwrap();
    assert!(audit.is_sound(), "{:?}", audit.findings);
}

/// New work is taken in and done, and nothing is wrong with the store.
async fn goes_on(app: App, disk: &Disk) {
    app.apply_async(letters.s(1))
        .await
        .unwrap()
        .get()
        .await
        .unwrap();
    app.shutdown().await.unwrap();
    sound(&disk.store()).await;
}

#[tokio::test]
async fn on_a_full_disk_what_was_taken_in_goes_on_and_new_work_waits_for_room() {
    let disk = match Disk::mounted(320) {
        Ok(disk) => disk,
        Err(why) => return say(format_args!("SKIPPED: a full disk: {why}")),
    };
    let app = open(&disk.store()).await.unwrap();
    let before = app.apply_async(letters.s(10_000)).await.unwrap();
    before.get().await.unwrap();
    // The one fits into what is kept for it, the other does not.
    let small = app
        .apply_async(group((0..400).map(|_| gated.s(0, 10_000))))
        .await
        .unwrap();
    let large = app
        .apply_async(group((0..2_000).map(|_| gated.s(1, 20_000))))
        .await
        .unwrap();
    disk.fill_to(0);
    OPEN.send_replace(1);
    assert_eq!(small.get().await.unwrap().len(), 400);
    OPEN.send_replace(2);
    let waits = large
        .get_timeout(Duration::from_millis(300))
        .await
        .unwrap_err();
    assert!(
        matches!(waits, Error::Get(GetError::Timeout { .. })),
        "{waits}"
    );
    for _ in 0..3 {
        let error = app.apply_async(letters.s(1)).await.unwrap_err();
        assert!(is_full(&error), "{error}");
        let error = app
            .apply_async(group((0..5_000).map(|_| letters.s(1))))
            .await
            .unwrap_err();
        assert!(is_full(&error), "{error}");
    }
    // Reads go on.
    assert_eq!(before.get().await.unwrap().len(), 10_000);
    let again = app.async_result::<String>(before.id()).await.unwrap();
    assert_eq!(again.get().await.unwrap().len(), 10_000);

    disk.empty();
    let all = large.get().await.unwrap();
    assert!(all.len() == 2_000 && all.iter().all(|one| one.len() == 20_000));
    goes_on(app, &disk).await;
}

#[tokio::test]
async fn a_store_on_a_full_disk_opens_or_says_so_and_is_not_harmed() {
    let disk = match Disk::mounted(160) {
        Ok(disk) => disk,
        Err(why) => return say(format_args!("SKIPPED: a full disk: {why}")),
    };
    let mut known: BTreeMap<Id, usize> = BTreeMap::new();
    let (mut opened, mut refused) = (0, 0);
    for round in 0..13_usize {
        // With its ballast, and without; with no room at all, and with some.
        let free = [0, 8 << 10, 300 << 10, 3 << 20][round % 4];
        if round > 0 {
            if round % 3 == 0 {
                fs::remove_file(disk.store().join("ballast")).unwrap();
            }
            disk.fill_to(free);
            match open(&disk.store()).await {
                Ok(app) => {
                    opened += 1;
                    for (id, length) in &known {
                        let result = app.async_result::<String>(*id).await.unwrap();
                        assert_eq!(result.get().await.unwrap().len(), *length);
                    }
                    match app.apply_async(letters.s(round)).await {
                        Ok(result) => drop(known.insert(result.id(), round)),
                        Err(error) => assert!(is_full(&error), "{error}"),
                    }
                    app.shutdown().await.unwrap();
                }
                Err(error) => {
                    assert!(is_full(&error), "{error}");
                    refused += 1;
                }
            }
            disk.empty();
        }
        let app = open(&disk.store()).await.unwrap();
        for length in [round * 1_000, 100_000 + round] {
            let result = app.apply_async(letters.s(length)).await.unwrap();
            result.get().await.unwrap();
            known.insert(result.id(), length);
        }
        for (id, length) in &known {
            let result = app.async_result::<String>(*id).await.unwrap();
            assert_eq!(result.get().await.unwrap().len(), *length);
        }
        app.shutdown().await.unwrap();
    }
    say(format_args!(
        "crash: opened on a full disk {opened} times, refused {refused} times"
    ));
    assert!(opened > 0, "a ballast is there to open with");
    sound(&disk.store()).await;
}

#[tokio::test]
async fn a_first_open_on_a_full_disk_says_so_and_may_be_tried_again() {
    let disk = match Disk::mounted(64) {
        Ok(disk) => disk,
        Err(why) => return say(format_args!("SKIPPED: a full disk: {why}")),
    };
    for free in [
        0,
        4 << 10,
        8 << 10,
        16 << 10,
        64 << 10,
        512 << 10,
        2 << 20,
        6 << 20,
    ] {
        disk.fill_to(free);
        match open(&disk.store()).await {
            Ok(app) => {
                let error = app.apply_async(letters.s(1)).await.unwrap_err();
                assert!(is_full(&error), "{error}");
                app.shutdown().await.unwrap();
            }
            Err(error) => assert!(is_full(&error), "{free}: {error}"),
        }
        disk.empty();
    }
    let app = open(&disk.store()).await.unwrap();
    goes_on(app, &disk).await;
}

/// Where the program that meets a full disk, this test itself, has its store.
const HOME: &str = "CHORDAL_CRASH_FULL";
/// How much it submits, of how many bytes each.
const TASKS: usize = 60;
const SIZE: usize = 6_000;
/// At most so many writes are made by the thread that opens the store. strace counts by thread, so an
/// opening that is tried again would meet the same error for ever.
const OPENING: u64 = 5;
/// How many such programs run at a time.
const AT_ONCE: usize = 4;
/// How long it waits for an answer before it tries the next.
const PATIENCE: Duration = Duration::from_millis(400);

/// Submits one task after the other; says what it is told.
fn work(home: OsString) {
    let all = async {
        let app = open(&Path::new(&home).join("data")).await.unwrap();
        let mut left = TASKS;
        while left > 0 {
            let submission = app.apply_async(letters.s(SIZE + left));
            match tokio::time::timeout(PATIENCE, submission).await {
                Ok(Ok(result)) => {
                    println!("\nacked {} {}", result.id(), SIZE + left);
                    left -= 1;
                    if left.is_multiple_of(2) {
                        let _ = result.get_timeout(PATIENCE).await;
                    }
                }
                Ok(Err(error)) => {
                    assert!(is_full(&error), "{error}");
                    println!("\nfull");
                }
                // It had been taken in when the disk was found full.
                Err(_) => println!("\nwaits"),
            }
        }
        app.shutdown().await.unwrap();
        println!("\nended");
        std::process::exit(0);
    };
    runtime().block_on(all)
}

fn runtime() -> tokio::runtime::Runtime {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    builder.enable_all().build().unwrap()
}

/// Runs it with errors at these calls, to the store's files only.
fn start(home: &TempDir, faults: &[String]) -> (Child, BufReader<ChildStdout>) {
    let mut command = Command::new("strace");
    command.args(["-f", "-qq", "-e", "trace=write,fallocate"]);
    let data = home.path().canonicalize().unwrap().join("data");
    command.arg("-P").arg(data.join("ballast"));
    for n in 1..=4 {
        command
            .arg("-P")
            .arg(data.join(format!("wal/{n:08}.segment")));
    }
    for fault in faults {
        command.arg("-e").arg(format!("inject={fault}"));
    }
    let mut child = command
        .arg("-o")
        .arg(home.path().join("strace"))
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "--nocapture"])
        .arg("full::no_space_at_the_nth_write_loses_nothing_that_was_acknowledged")
        .env(HOME, home.path())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let out = BufReader::new(child.stdout.take().unwrap());
    (child, out)
}

/// What the program was told, up to its end or until it was refused so often.
#[derive(Default)]
struct Told {
    acked: BTreeMap<Id, usize>,
    refusals: usize,
    has_ended: bool,
}

fn listen(to: &mut impl BufRead, most: usize) -> Told {
    let mut told = Told::default();
    for line in to.lines() {
        let line = line.unwrap();
        match line.split(' ').collect::<Vec<_>>()[..] {
            ["acked", id, size] => {
                told.acked
                    .insert(id.parse().unwrap(), size.parse().unwrap());
            }
            ["full"] => told.refusals += 1,
            ["ended"] => told.has_ended = true,
            _ => {}
        }
        if told.refusals == most {
            break;
        }
    }
    told
}

async fn check(home: &TempDir, told: &Told) {
    let store = SledStore::open(home.path().join("data")).unwrap();
    let audit = verify(&store);
    assert!(audit.is_sound(), "{:?}", audit.findings);
    let app = App::with_store(store).tasks(tasks![letters, gated]);
    let app = app.start().await.unwrap();
    for (id, length) in &told.acked {
        let result = app.async_result::<String>(*id).await.unwrap();
        assert_eq!(result.get().await.unwrap().len(), *length);
    }
    app.shutdown().await.unwrap();
}

#[test]
fn no_space_at_the_nth_write_loses_nothing_that_was_acknowledged() {
    if let Some(home) = std::env::var_os(HOME) {
        return work(home);
    }
    let trials = trials();
    if let Err(why) = strace::works() {
        return say(format_args!(
            "SKIPPED: {trials} trials with full disks by strace: {why}"
        ));
    }
    let seed = seed();
    let mut dice = Dice(seed);
    let home = tempfile::tempdir().unwrap();
    let (mut child, mut out) = start(&home, &[]);
    let told = listen(&mut out, usize::MAX);
    assert!(told.has_ended, "its disk is not full");
    child.wait().unwrap();
    let listed = fs::read_to_string(home.path().join("strace")).unwrap();
    let writes = listed.matches("write(").count() as u64;
    assert!(writes > TASKS as u64, "{writes} writes");
    let places = (0..trials).map(|trial| {
        let first = OPENING + 1 + dice.below(writes - OPENING);
        // For a while, so that it goes on by itself; or for good, and it is killed.
        let last = first + 1 + dice.below(4);
        (first, (trial % 2 == 0).then_some(last))
    });
    let places = Mutex::new(places);
    let (waited, refused) = (AtomicU64::new(0), AtomicU64::new(0));
    // They wait more than they do.
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                while let Some((first, last)) = { places.lock().unwrap().next() } {
                    let told = trial(first, last);
                    waited.fetch_add(u64::from(told.has_ended), Ordering::Relaxed);
                    let is_refused = !told.has_ended && told.refusals > 0;
                    refused.fetch_add(u64::from(is_refused), Ordering::Relaxed);
                }
            });
        }
    });
    let (waited, refused) = (waited.into_inner(), refused.into_inner());
    say(format_args!(
        "crash: {trials} trials with full disks by strace, {waited} waited out, {refused} refused; CHORDAL_CRASH_SEED={seed}"
    ));
    assert!(waited > 0 || trials < 10);
}

/// There is no space from this write on, to the last or for good.
fn trial(first: u64, last: Option<u64>) -> Told {
    let home = tempfile::tempdir().unwrap();
    let (faults, most) = match last {
        Some(last) => (
            vec![format!("write:error=ENOSPC:when={first}..{last}")],
            usize::MAX,
        ),
        None => (
            vec![
                format!("write:error=ENOSPC:when={first}+"),
                "fallocate:error=ENOSPC:when=2+".to_owned(),
            ],
            5,
        ),
    };
    println!("{faults:?}");
    let (child, mut out) = start(&home, &faults);
    let told = listen(&mut out, most);
    if !told.has_ended {
        // strace does not pass a signal on; it ends when the process has, which then holds no lock.
        let threads = fs::read_to_string(home.path().join("strace")).unwrap();
        let pid = threads.split_whitespace().next().unwrap().to_owned();
        let _ = Command::new("kill").args(["-KILL", &pid]).status();
    }
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!said.contains("panicked"), "{said}");
    assert!(
        last.is_none() || told.has_ended,
        "it goes on when there is room: {said}"
    );
    runtime().block_on(check(&home, &told));
    told
}
