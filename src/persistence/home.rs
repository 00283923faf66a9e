//! The directory that the user names, and its lock.

use std::fs::{self, File, TryLockError};
use std::io::{self, ErrorKind, Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::files::{UNFINISHED, damaged, failed, make_dir, open_private, sync_dir};
use crate::persistence::StoreError;

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
    let missing = dir
        .ancestors()
        .take_while(|part| !part.as_os_str().is_empty() && !part.exists())
        .count();
    make_dir(dir)?;
    // Absolute, so that a later change of the working directory does not move sled's files.
    let home = dir.canonicalize().map_err(|e| failed("resolve", dir, e))?;
    for parent in home.ancestors().skip(1).take(missing) {
        sync_dir(parent)?;
    }
    Ok(home)
}

/// How long this process waits for a lock that is its own. A process that it starts has all of its
/// files open until it runs its own program, also those that are closed here meanwhile.
const STRAGGLERS: Duration = Duration::from_millis(100);

/// Takes `<home>/LOCK` or tells who has it (H7).
pub(super) fn lock(home: &Path) -> Result<File, StoreError> {
    let path = home.join("LOCK");
    let mut file = open_private(&path)?;
    let begun = Instant::now();
    while let Err(error) = file.try_lock() {
        if let TryLockError::Error(e) = error {
            return Err(failed("lock", &path, e));
        }
        let pid = holder_of(&file);
        if pid != Some(std::process::id()) || begun.elapsed() > STRAGGLERS {
            return Err(StoreError::Locked {
                path: home.to_owned(),
                pid,
            });
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    let mut holder = Vec::new();
    file.rewind().map_err(|e| failed("read", &path, e))?;
    (&mut file)
        .take(64)
        .read_to_end(&mut holder)
        .map_err(|e| failed("read", &path, e))?;
    if !holder
        .iter()
        .all(|byte| byte.is_ascii_digit() || matches!(byte, b'\n' | b'\0'))
    {
        return Err(damaged(
            &path,
            "it was not written by this library and is left untouched",
        ));
    }
    // The pid is for messages only: a full disk must not keep the store shut.
    let pid = format!("{}\n", std::process::id());
    let _ = file
        .rewind()
        .and_then(|()| file.write_all(pid.as_bytes()))
        .and_then(|()| file.set_len(pid.len() as u64));
    Ok(file)
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
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(TryLockError::WouldBlock) => Err(StoreError::Locked {
            path: home.to_owned(),
            pid: holder_of(&file),
        }),
        Err(TryLockError::Error(e)) => Err(failed("lock", &path, e)),
    }
}

/// Who holds this lock, if it says so.
fn holder_of(mut file: &File) -> Option<u32> {
    let mut text = String::new();
    file.rewind().ok()?;
    // Where locks are mandatory this read fails: then the holder has no name.
    file.take(64).read_to_string(&mut text).ok()?;
    text.lines().next()?.parse().ok()
}
