//! The user's data directory and its lock.

use std::collections::BTreeSet;
use std::fs::{self, File, TryLockError};
use std::io::{self, ErrorKind, Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tracing::info;

use super::dir::has_a_name;
use super::files::{UNFINISHED, damaged, failed, make_dir_durably, open_private};
use super::identity::process_number;
use crate::persistence::store::{Holder, StoreError};

/// Creates the data directory and its missing ancestors, durably.
pub(crate) fn create_data_dir(dir: &Path) -> Result<PathBuf, StoreError> {
    match fs::metadata(dir) {
        Ok(found) if !found.is_dir() => {
            return Err(failed(
                "open a store in",
                dir,
                io::Error::new(ErrorKind::NotADirectory, "it is a file"),
            ));
        }
        Ok(_) | Err(_) => {} // creating it reports any other problem
    }
    if dir.join(UNFINISHED).exists() {
        return Err(damaged(dir, "it is a backup that was cut short"));
    }
    // Absolute, so that a later change of the working directory does not move sled's files.
    make_dir_durably(dir)
}

/// How long an open waits for another process to release the store, by default. A killed process
/// holds the lock until the system has reclaimed all of its memory and its last write has ended.
pub(crate) const LOCK_TIMEOUT: Duration = Duration::from_secs(5);

/// How long this process waits for a lock that it holds itself, and has not begun to release. A
/// process that it spawns has all of its files open until it executes its own program, including
/// files that this process closes meanwhile.
const OWN_LOCK_TIMEOUT: Duration = Duration::from_millis(100);

/// The data directories whose stores this process has begun to close: an open waits for these as it
/// waits for another process.
static CLOSING: Mutex<BTreeSet<PathBuf>> = Mutex::new(BTreeSet::new());

/// Notes that the store in this directory, which this process has open, is about to be closed.
pub(crate) fn mark_closing(data_dir: &Path) {
    CLOSING.lock().insert(data_dir.to_owned());
}

fn is_closing(data_dir: &Path) -> bool {
    CLOSING.lock().contains(data_dir)
}

/// The first and the longest interval between two attempts to take the lock.
const POLL_INTERVAL: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(20));

/// More bytes than a lock file holds.
const MAX_LEN: u64 = 512;

/// Takes `<data_dir>/LOCK`, waiting up to `timeout`, or returns which process holds it (H7).
pub(crate) fn lock(data_dir: &Path, timeout: Duration) -> Result<File, StoreError> {
    // The system has no lock with a timeout, and a store is opened on a thread that may block.
    lock_with(data_dir, timeout, std::thread::sleep)
}

fn lock_with(
    data_dir: &Path,
    timeout: Duration,
    mut wait: impl FnMut(Duration),
) -> Result<File, StoreError> {
    let path = data_dir.join("LOCK");
    let file = loop {
        let file = open_private(&path)?;
        wait_for_lock(&file, data_dir, timeout, &mut wait)?;
        // If the file was deleted meanwhile, another process may create and lock a new one.
        if has_a_name(&file).map_err(|e| failed("look at", &path, e))? {
            break file;
        }
    };
    CLOSING.lock().remove(data_dir);
    let text = read(&file).map_err(|e| failed("read", &path, e))?;
    if !is_ours(&text) {
        return Err(damaged(
            &path,
            "it was not written by this library and is left untouched",
        ));
    }
    // The text only serves messages: a full disk must not keep the store shut.
    let _ = write(&file, &own_text());
    Ok(file)
}

/// Locks the file, waiting up to `timeout`, or returns which process holds it.
fn wait_for_lock(
    file: &File,
    data_dir: &Path,
    timeout: Duration,
    mut wait: impl FnMut(Duration),
) -> Result<(), StoreError> {
    let (started, mut interval) = (Instant::now(), POLL_INTERVAL.0);
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(()),
            Err(TryLockError::Error(e)) => return Err(failed("lock the store in", data_dir, e)),
            Err(TryLockError::WouldBlock) => {}
        }
        let holder = holder_of(file);
        let limit = match holder {
            Holder::ThisProcess if !is_closing(data_dir) => OWN_LOCK_TIMEOUT,
            _ => timeout,
        };
        if started.elapsed() >= limit {
            let path = data_dir.to_owned();
            return Err(StoreError::Locked { path, holder });
        }
        if interval == POLL_INTERVAL.0 {
            info!(store = %data_dir.display(), %holder, "the store is open elsewhere; waiting for the lock");
        }
        wait(interval);
        interval = (2 * interval).min(POLL_INTERVAL.1);
    }
}

/// Locks the store without writing a byte, so that no other process opens it meanwhile.
pub(crate) fn lock_read_only(data_dir: &Path) -> Result<Option<File>, StoreError> {
    let path = data_dir.join("LOCK");
    let file = match File::open(&path) {
        Ok(file) => file,
        // A backup that was never opened.
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(failed("open", &path, e)),
    };
    wait_for_lock(&file, data_dir, LOCK_TIMEOUT, std::thread::sleep)?;
    Ok(Some(file))
}

/// Returns the lines of a lock file: process id, [process number](process_number), host name.
fn own_text() -> String {
    let (pid, number) = (std::process::id(), process_number());
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
    file.take(MAX_LEN).read_to_end(&mut text)?;
    Ok(text)
}

/// Returns whether a process of this library may have written this lock file, which may then be
/// overwritten.
fn is_ours(text: &[u8]) -> bool {
    // The file is not fsynced: a power cut may leave zeroes, or the end of a longer earlier text.
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

/// Returns the process that holds this lock, as far as the file tells.
fn holder_of(file: &File) -> Holder {
    // Where locks are mandatory this read fails, and the holder stays unknown.
    let text = read(file).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let mut lines = text.lines();
    let pid = lines.next().and_then(|pid| pid.parse().ok());
    let number: Option<u64> = lines.next().and_then(|number| number.parse().ok());
    match (pid, number) {
        (_, Some(number)) if number == process_number() => Holder::ThisProcess,
        (Some(pid), _) => {
            let name = lines.next().map(str::to_owned);
            let host = name.filter(|name| Some(name) != host().as_ref());
            Holder::Process { pid, host }
        }
        (None, _) => Holder::Unknown,
    }
}

/// Returns the name of this host, where it can be read.
fn host() -> Option<String> {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").ok()?;
    let name = name.trim();
    let is_plain = is_ours(format!("\n\n{name}").as_bytes());
    (is_plain && !name.is_empty()).then(|| name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns a directory whose lock file has this text, and a lock on it that was not taken by
    /// `lock`.
    fn held(text: &str) -> (tempfile::TempDir, File) {
        let data_dir = tempfile::tempdir().unwrap();
        fs::write(data_dir.path().join("LOCK"), text).unwrap();
        let file = File::open(data_dir.path().join("LOCK")).unwrap();
        file.try_lock().unwrap();
        (data_dir, file)
    }

    fn holder(locked: Result<File, StoreError>) -> Holder {
        match locked {
            Err(StoreError::Locked { holder, .. }) => holder,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn an_open_takes_a_lock_that_is_released_while_it_waits() {
        let (data_dir, file) = held("1\n");
        let mut file = Some(file);
        let mut waits = 0;
        let locked = lock_with(data_dir.path(), Duration::MAX, |_| {
            waits += 1;
            if waits == 3 {
                file = None;
            }
        });
        assert_eq!(holder_of(&locked.unwrap()), Holder::ThisProcess);
        assert_eq!(waits, 3);
    }

    #[test]
    fn a_lock_that_is_not_released_in_time_names_its_holder() {
        for (text, found, message) in [
            ("1\n", (1, None), "process 1"),
            (
                "1\n77\nother-host\n",
                (1, Some("other-host")),
                "process 1 on host other-host",
            ),
        ] {
            let (data_dir, _file) = held(text);
            let holder = holder(lock(data_dir.path(), Duration::ZERO));
            let (pid, host) = (found.0, found.1.map(str::to_owned));
            assert_eq!(holder, Holder::Process { pid, host });
            assert_eq!(holder.to_string(), message);
        }
        let (data_dir, _file) = held("");
        assert_eq!(
            holder(lock(data_dir.path(), Duration::ZERO)),
            Holder::Unknown
        );
    }

    #[test]
    fn a_lock_file_torn_by_a_power_cut_is_ours_and_a_text_of_another_program_is_not() {
        let (before, after) = ("1234567\n89012345678901234567\nhost-1\n", "1\n2\nb\n");
        // The later text over the earlier one, or zeroes behind the later one; each cut anywhere.
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
    fn a_process_in_another_container_with_the_same_id_is_another_process() {
        let pid = std::process::id();
        for text in [
            format!("{pid}\n{}\n", process_number().wrapping_add(1)),
            format!("{pid}\n"),
        ] {
            let (data_dir, _file) = held(&text);
            let holder = holder(lock(data_dir.path(), Duration::ZERO));
            assert_eq!(holder, Holder::Process { pid, host: None });
            assert!(
                holder.to_string().starts_with("another process"),
                "{holder}"
            );
        }
        let (data_dir, _file) = held(&own_text());
        let holder = holder(lock(data_dir.path(), Duration::MAX));
        assert_eq!(holder, Holder::ThisProcess);
    }

    #[test]
    fn an_open_waits_for_a_store_that_this_process_is_closing() {
        let (data_dir, file) = held(&own_text());
        mark_closing(data_dir.path());
        let mut file = Some(file);
        let mut waited = Duration::ZERO;
        let locked = lock_with(data_dir.path(), Duration::MAX, |interval| {
            waited += interval;
            std::thread::sleep(interval);
            if waited > 2 * OWN_LOCK_TIMEOUT {
                file = None;
            }
        });
        let _locked = locked.unwrap();
        assert!(!is_closing(data_dir.path()), "it is open again");
    }

    #[cfg(unix)]
    #[test]
    fn a_lock_file_deleted_while_an_open_waits_is_not_the_lock() {
        let (data_dir, file) = held("1\n");
        let path = data_dir.path().join("LOCK");
        let mut file = Some(file);
        let locked = lock_with(data_dir.path(), Duration::MAX, |_| {
            fs::remove_file(&path).unwrap();
            fs::write(&path, "").unwrap();
            file = None;
        });
        let second = File::open(&path).unwrap();
        assert!(
            second.try_lock().is_err(),
            "the lock is on the file at the path"
        );
        drop(locked.unwrap());
    }

    #[test]
    fn the_lock_file_of_every_version_is_recognized() {
        for ours in [
            "",
            "123\n",
            "123\n456\n",
            "123\n456\na-host.local_1\n",
            "\0\0\0",
        ] {
            assert!(is_ours(ours.as_bytes()), "{ours:?}");
        }
        assert!(is_ours(own_text().as_bytes()));
        for other in ["my front door", "123\nabc", "1\n2\nmy front door"] {
            assert!(!is_ours(other.as_bytes()), "{other:?}");
        }
    }
}
