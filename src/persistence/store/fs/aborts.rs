//! A note in the store's directory that the process aborted. A process that is gone leaves no other
//! trace of an abort, which comes from inside: a panic with `panic = "abort"`, a stack overflow, a
//! failed allocation, `abort` itself. A killed process leaves no note, and neither does a
//! segmentation fault: safe code cannot handle either.
//!
//! ```text
//! <dir>/aborted        empty while the store is open; the SIGABRT handler writes a byte into it
//! ```

use std::path::{Path, PathBuf};

#[cfg(unix)]
use self::signal::{Handler, handle};
#[cfg(unix)]
use super::dir::id;

const NAME: &str = "aborted";

/// Returns whether the previous process left a note that it aborted.
pub(crate) fn is_noted(dir: &Path) -> bool {
    read(&dir.join(NAME)).is_some_and(|note| !note.is_empty())
}

/// Returns the content of the note file, or `None` if this library wrote no file of that name.
fn read(path: &Path) -> Option<Vec<u8>> {
    let found = path.symlink_metadata().ok()?;
    // signal-hook writes an X for each signal.
    let note = (found.is_file() && found.len() <= 64).then(|| std::fs::read(path).ok())??;
    note.iter().all(|byte| *byte == b'X').then_some(note)
}

/// Guard: while it lives, an abort of this process is noted.
#[derive(Debug)]
pub(crate) struct AbortNote {
    path: PathBuf,
    /// The file's device and inode number.
    #[cfg(unix)]
    id: (u64, u64),
    #[cfg(unix)]
    _handler: Handler,
}

impl AbortNote {
    /// Prepares the note and removes the one of the previous process. Without it, an abort counts
    /// as an end that may have come from outside.
    #[cfg(unix)]
    pub(crate) fn make(dir: &Path) -> Option<Self> {
        let path = dir.join(NAME);
        if read(&path).is_some() {
            let _ = std::fs::remove_file(&path);
        }
        let mut options = std::fs::OpenOptions::new();
        options.write(true).create_new(true);
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let created = options.open(&path).and_then(|file| {
            let id = id(&file.metadata()?);
            Ok((id, handle(file)?))
        });
        match created {
            Ok((id, handler)) => Some(Self {
                path,
                id,
                _handler: handler,
            }),
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "an abort of this process will not be noted");
                None
            }
        }
    }

    #[cfg(not(unix))]
    pub(crate) fn make(_: &Path) -> Option<Self> {
        None
    }
}

impl Drop for AbortNote {
    /// Removes the note: the process continues without the store.
    fn drop(&mut self) {
        // The directory may have been renamed, and another store may be at its path.
        #[cfg(unix)]
        if !self
            .path
            .symlink_metadata()
            .is_ok_and(|found| id(&found) == self.id)
        {
            return;
        }
        let _ = std::fs::remove_file(&self.path);
    }
}

#[cfg(unix)]
mod signal {
    use std::fs::File;
    use std::io;
    use std::sync::Arc;
    use std::sync::atomic::AtomicBool;

    use parking_lot::Mutex;
    use signal_hook::consts::SIGABRT;
    use signal_hook::{SigId, flag, low_level};

    /// The action that ends the process at the signal, as it ends without a handler. It is never
    /// unregistered: without it the process would survive an abort.
    static DEFAULT: Mutex<Default> = Mutex::new(Default::Unknown);

    #[derive(Debug)]
    enum Default {
        Unknown,
        Ours(SigId),
        /// The program has a handler of its own, which decides whether the process ends.
        Theirs,
    }

    /// Removes its action when it is dropped.
    #[derive(Debug)]
    pub(crate) struct Handler(SigId);

    impl Drop for Handler {
        fn drop(&mut self) {
            low_level::unregister(self.0);
        }
    }

    /// Arranges that a byte is written into `file` when the process aborts. An existing handler
    /// runs first.
    pub(crate) fn handle(file: File) -> io::Result<Handler> {
        let mut default = DEFAULT.lock();
        if matches!(*default, Default::Unknown) && is_caught() {
            *default = Default::Theirs;
        }
        let handler = Handler(low_level::pipe::register(SIGABRT, file)?);
        if matches!(*default, Default::Theirs) {
            return Ok(handler);
        }
        // Registered after all handlers that write: it ends the process.
        let enabled = Arc::new(AtomicBool::new(true));
        let last = flag::register_conditional_default(SIGABRT, enabled)?;
        if let Default::Ours(before) = std::mem::replace(&mut *default, Default::Ours(last)) {
            low_level::unregister(before);
        }
        Ok(handler)
    }

    /// Returns whether the process has a handler of the signal; `false` where `/proc` cannot be
    /// read.
    fn is_caught() -> bool {
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:"));
        let caught = caught.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
        caught.is_some_and(|mask| mask & (1 << (SIGABRT - 1)) != 0)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_note_is_read_once_and_a_file_of_another_program_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(NAME);
        assert!(!is_noted(dir.path()));
        // The note of a killed process, and that of an aborted one.
        for (note, is_ours) in [("", false), ("X", true)] {
            fs::write(&path, note).unwrap();
            assert_eq!(is_noted(dir.path()), is_ours);
            let note = AbortNote::make(dir.path()).unwrap();
            assert!(!is_noted(dir.path()));
            drop(note);
            assert!(!path.exists());
        }
        fs::write(&path, "what I have aborted").unwrap();
        assert!(!is_noted(dir.path()));
        assert!(AbortNote::make(dir.path()).is_none());
        assert_eq!(fs::read_to_string(&path).unwrap(), "what I have aborted");
    }
}
