//! The directory that the user names, and its lock.

use std::fs::{self, File, TryLockError};
use std::io::{self, ErrorKind, Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use tracing::info;

use super::dir::has_a_name;
use super::files::{UNFINISHED, damaged, failed, make_dir_durably, open_private};
use super::identity::of_this_process;
use crate::persistence::{Holder, StoreError};

/// Makes the user's directory and everything above it, durably.
pub(super) fn make_home(dir: &Path) -> Result<PathBuf, StoreError> {
    match fs::metadata(dir) {
        Ok(found) if !found.is_dir() => {
            return Err(failed(
                "open a store in",
                dir,
                io::Error::new(ErrorKind::NotADirectory, "it is a file"),
            ));
        }
        Ok(_) | Err(_) => {} // what is wrong, making it will tell
    }
    if dir.join(UNFINISHED).exists() {
        return Err(damaged(dir, "it is a backup that was cut short"));
    }
    // Absolute, so that a later change of the working directory does not move sled's files.
    make_dir_durably(dir)
}

/// How long an open waits for another process to let go of the store, unless it is told otherwise. One that
/// was killed has it open until the system has taken all of its memory back, and its last write has ended.
pub(crate) const LOCK_TIMEOUT: Duration = Duration::from_secs(5);

/// How long this process waits for a lock that is its own. A process that it starts has all of its
/// files open until it runs its own program, also those that are closed here meanwhile.
const STRAGGLERS: Duration = Duration::from_millis(100);

/// How long it waits before it looks at the lock again, at first and at last.
const NAP: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(20));

/// More than a lock file holds.
const LONGEST: u64 = 512;

/// Takes `<home>/LOCK`, waiting for a while if need be, or tells which process has it (H7).
pub(super) fn lock(home: &Path, timeout: Duration) -> Result<File, StoreError> {
    lock_with(home, timeout, std::thread::sleep)
}

fn lock_with(
    home: &Path,
    timeout: Duration,
    mut wait: impl FnMut(Duration),
) -> Result<File, StoreError> {
    let path = home.join("LOCK");
    let file = loop {
        let file = open_private(&path)?;
        wait_for_lock(&file, home, timeout, &mut wait)?;
        // If it was deleted meanwhile, others may lock the one that they make in its place.
        if has_a_name(&file).map_err(|e| failed("look at", &path, e))? {
            break file;
        }
    };
    let text = read(&file).map_err(|e| failed("read", &path, e))?;
    if !is_ours(&text) {
        return Err(damaged(
            &path,
            "it was not written by this library and is left untouched",
        ));
    }
    // What it says is for messages only: a full disk must not keep the store shut.
    let _ = write(&file, &text_of_this_process());
    Ok(file)
}

/// Locks the file, waiting for a while if need be, or tells which process has locked it.
fn wait_for_lock(
    file: &File,
    home: &Path,
    timeout: Duration,
    mut wait: impl FnMut(Duration),
) -> Result<(), StoreError> {
    let (begun, mut nap) = (Instant::now(), NAP.0);
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(()),
            Err(TryLockError::Error(e)) => return Err(failed("lock the store in", home, e)),
            Err(TryLockError::WouldBlock) => {}
        }
        let holder = holder_of(file);
        let limit = match holder {
            Holder::ThisProcess => STRAGGLERS,
            _ => timeout,
        };
        if begun.elapsed() >= limit {
            let path = home.to_owned();
            return Err(StoreError::Locked { path, holder });
        }
        if nap == NAP.0 {
            info!(store = %home.display(), %holder, "it is open elsewhere: waits for that to end");
        }
        wait(nap);
        nap = (2 * nap).min(NAP.1);
    }
}

/// Keeps others from opening the store meanwhile; without a byte written.
pub(super) fn hold(home: &Path) -> Result<Option<File>, StoreError> {
    let path = home.join("LOCK");
    let file = match File::open(&path) {
        Ok(file) => file,
        // A backup that nobody has opened yet.
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(failed("open", &path, e)),
    };
    wait_for_lock(&file, home, LOCK_TIMEOUT, std::thread::sleep)?;
    Ok(Some(file))
}

/// The lines of a lock file: the holder's process id, its [number](of_this_process), the name of its host.
fn text_of_this_process() -> String {
    let (pid, number) = (std::process::id(), of_this_process());
    let host = host().map_or(String::new(), |host| format!("{host}\n"));
    format!("{pid}\n{number}\n{host}")
}

fn write(mut file: &File, text: &str) -> io::Result<()> {
    file.rewind()?;
    file.write_all(text.as_bytes())?;
    file.set_len(text.len() as u64)
}

fn read(mut file: &File) -> io::Result<Vec<u8>> {
    let mut text = Vec::new();
    file.rewind()?;
    file.take(LONGEST).read_to_end(&mut text)?;
    Ok(text)
}

/// Says whether a process of this library may have left this in a lock file: it is overwritten.
fn is_ours(text: &[u8]) -> bool {
    // It is not fsynced: a power cut may leave zeroes, or what an earlier process wrote behind the end.
    let is_number = |byte: &u8| byte.is_ascii_digit() || *byte == 0;
    let is_name =
        |byte: &u8| is_number(byte) || byte.is_ascii_alphabetic() || b"-._".contains(byte);
    text.split(|byte| *byte == b'\n')
        .enumerate()
        .all(|(line, text)| match line {
            0 | 1 => text.iter().all(is_number),
            _ => text.iter().all(is_name),
        })
}

/// The process that holds this lock, as far as the file tells.
fn holder_of(file: &File) -> Holder {
    // Where locks are mandatory this read fails: then the holder has no name.
    let text = read(file).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let mut lines = text.lines();
    let pid = lines.next().and_then(|pid| pid.parse().ok());
    let number: Option<u64> = lines.next().and_then(|number| number.parse().ok());
    match (pid, number) {
        (_, Some(number)) if number == of_this_process() => Holder::ThisProcess,
        (Some(pid), _) => {
            let name = lines.next().map(str::to_owned);
            let host = name.filter(|name| Some(name) != host().as_ref());
            Holder::Process { pid, host }
        }
        (None, _) => Holder::Unknown,
    }
}

/// The name of this host, where it can be read.
fn host() -> Option<String> {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").ok()?;
    let name = name.trim();
    let is_plain = is_ours(format!("\n\n{name}").as_bytes());
    (is_plain && !name.is_empty()).then(|| name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A lock that is held by what this process did not take it by, with this in its file.
    fn held(text: &str) -> (tempfile::TempDir, File) {
        let home = tempfile::tempdir().unwrap();
        fs::write(home.path().join("LOCK"), text).unwrap();
        let file = File::open(home.path().join("LOCK")).unwrap();
        file.try_lock().unwrap();
        (home, file)
    }

    fn holder(locked: Result<File, StoreError>) -> Holder {
        match locked {
            Err(StoreError::Locked { holder, .. }) => holder,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_lock_that_is_let_go_while_an_open_waits_for_it_is_taken() {
        let (home, file) = held("1\n");
        let mut file = Some(file);
        let mut naps = 0;
        let locked = lock_with(home.path(), Duration::MAX, |_| {
            naps += 1;
            if naps == 3 {
                file = None;
            }
        });
        assert_eq!(holder_of(&locked.unwrap()), Holder::ThisProcess);
        assert_eq!(naps, 3);
    }

    #[test]
    fn a_lock_that_is_not_let_go_in_time_names_its_holder() {
        for (text, found, words) in [
            ("1\n", (1, None), "process 1"),
            (
                "1\n77\nother-host\n",
                (1, Some("other-host")),
                "process 1 on host other-host",
            ),
        ] {
            let (home, _file) = held(text);
            let holder = holder(lock(home.path(), Duration::ZERO));
            let (pid, host) = (found.0, found.1.map(str::to_owned));
            assert_eq!(holder, Holder::Process { pid, host });
            assert_eq!(holder.to_string(), words);
        }
        let (home, _file) = held("");
        assert_eq!(holder(lock(home.path(), Duration::ZERO)), Holder::Unknown);
    }

    #[test]
    fn whatever_a_power_cut_leaves_of_a_lock_file_is_ours_and_a_text_of_others_is_not() {
        let (before, after) = ("1234567\n89012345678901234567\nhost-1\n", "1\n2\nb\n");
        // The later text over the earlier one, or the earlier one with zeroes behind it; each cut anywhere.
        let behind = format!("{after}{}", &before[after.len()..]);
        let zeroes = format!("{after}{}", "\0".repeat(before.len()));
        for text in [before, after, &behind, &zeroes] {
            for end in 0..=text.len() {
                assert!(is_ours(&text.as_bytes()[..end]), "{:?}", &text[..end]);
            }
        }
        for text in ["notes\n", "1\n2\nmy notes\n", "#!/bin/sh\n"] {
            assert!(!is_ours(text.as_bytes()), "{text:?}");
        }
    }

    #[test]
    fn a_process_in_another_container_is_not_this_one_though_both_have_one_id() {
        let pid = std::process::id();
        for text in [
            format!("{pid}\n{}\n", of_this_process().wrapping_add(1)),
            format!("{pid}\n"),
        ] {
            let (home, _file) = held(&text);
            let holder = holder(lock(home.path(), Duration::ZERO));
            assert_eq!(holder, Holder::Process { pid, host: None });
            assert!(
                holder.to_string().starts_with("another process"),
                "{holder}"
            );
        }
        let (home, _file) = held(&text_of_this_process());
        let holder = holder(lock(home.path(), Duration::MAX));
        assert_eq!(holder, Holder::ThisProcess);
    }

    #[cfg(unix)]
    #[test]
    fn a_lock_that_was_deleted_while_an_open_waits_for_it_is_none() {
        let (home, file) = held("1\n");
        let path = home.path().join("LOCK");
        let mut file = Some(file);
        let locked = lock_with(home.path(), Duration::MAX, |_| {
            fs::remove_file(&path).unwrap();
            fs::write(&path, "").unwrap();
            file = None;
        });
        let second = File::open(&path).unwrap();
        assert!(
            second.try_lock().is_err(),
            "it is the file at the path that is locked"
        );
        drop(locked.unwrap());
    }

    #[test]
    fn the_text_of_every_version_is_taken_for_what_it_is() {
        for ours in [
            "",
            "123\n",
            "123\n456\n",
            "123\n456\na-host.local_1\n",
            "\0\0\0",
        ] {
            assert!(is_ours(ours.as_bytes()), "{ours:?}");
        }
        assert!(is_ours(text_of_this_process().as_bytes()));
        for other in ["my front door", "123\nabc", "1\n2\nmy front door"] {
            assert!(!is_ours(other.as_bytes()), "{other:?}");
        }
    }
}
