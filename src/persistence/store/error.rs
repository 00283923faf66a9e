//! The errors of stores.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// Why an operation on a store failed.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// Another process, or this one, has the directory open, and has not released it in the time
    /// that the open [waits](crate::AppBuilder::lock_timeout).
    #[error("the store at {} is open in {holder}", path.display())]
    Locked {
        /// The directory.
        path: PathBuf,
        /// The process that has it open.
        holder: Holder,
    },
    /// The directory holds a store of another engine. It is left untouched.
    #[error("the store at {} was made by {found}, not by {asked}", path.display())]
    WrongEngine {
        /// The directory.
        path: PathBuf,
        /// The engine that made it.
        found: &'static str,
        /// The engine that was asked to open it.
        asked: &'static str,
    },
    /// The stored data cannot be what was written.
    #[error("{path_or_place} is damaged: {what}")]
    Corrupt {
        /// The file, directory or key.
        path_or_place: String,
        /// What is wrong with it.
        what: String,
    },
    /// Commits are missing: one part of the store is older than the rest.
    #[error(
        "commits are missing from {}: number {expected} was made, but it ends at {found}",
        path.display()
    )]
    RolledBack {
        /// The part from which they are missing.
        path: PathBuf,
        /// A commit that another part of the store records.
        expected: u64,
        /// The last commit found.
        found: u64,
    },
    /// A file belongs to another store than the rest of the directory: it was exchanged, or copied
    /// from elsewhere. It is left untouched.
    #[error("{} belongs to another store: its id is {found}, and that of this store is {expected}", path.display())]
    WrongStore {
        /// The file or directory.
        path: PathBuf,
        /// The id of the store that wrote it, or "none".
        found: String,
        /// The id of the store in whose directory it is, or "none".
        expected: String,
    },
    /// The directory, or a file in it, was renamed, replaced or deleted while the store was open.
    /// Writing stops: it could reach another store, or none.
    #[error("{} {what} while the store was open", path.display())]
    Moved {
        /// The directory or file, under the path at which it was opened.
        path: PathBuf,
        /// What happened to it: "was deleted", for example.
        what: &'static str,
    },
    /// A later version wrote the store. It is left untouched.
    #[error(
        "{path_or_place} has format {found}, which is newer than {supported}, the newest this build reads"
    )]
    UnsupportedVersion {
        /// The file or key.
        path_or_place: String,
        /// The version found.
        found: u8,
        /// The newest version understood.
        supported: u8,
    },
    /// A later version wrote the store, with an addition to the format that this build does not
    /// know. It is left untouched.
    #[error(
        "{path_or_place} needs {feature}, which this build does not know: a later version wrote it"
    )]
    UnsupportedFeature {
        /// The file or key.
        path_or_place: String,
        /// The name of the addition.
        feature: String,
    },
    /// The disk, or the quota on it, is full. Nothing is lost; see
    /// [`Store::sync`](crate::persistence::Store::sync) and
    /// [`Store::room`](crate::persistence::Store::room).
    #[error("the disk is full: cannot {doing}")]
    Full {
        /// The operation, and its path.
        doing: String,
    },
    /// The system has no file descriptor or no memory to spare at the moment. Nothing is lost; see
    /// [`Store::sync`](crate::persistence::Store::sync).
    #[error("the system is short of resources: cannot {doing}: {source}")]
    Exhausted {
        /// The operation, and its path.
        doing: String,
        /// The system's error. The text contains it, so it is not also the error's
        /// [source](std::error::Error::source).
        r#source: Arc<io::Error>,
    },
    /// The operating system returned an error.
    #[error("cannot {doing}: {source}")]
    Io {
        /// The operation, and its path.
        doing: String,
        /// The system's error; shared, because many callers receive the error of one failed commit.
        /// The text contains it, so it is not also the error's [source](std::error::Error::source).
        r#source: Arc<io::Error>,
    },
    /// An earlier `apply` or `sync` failed, so that the store accepts nothing more; the text is the
    /// earlier error.
    #[error("the store stopped after an earlier error: {0}")]
    Poisoned(String),
}

impl StoreError {
    /// Wraps an I/O error; `doing` completes the sentence "cannot ...".
    pub(crate) fn io(doing: impl Into<String>, source: io::Error) -> Self {
        use io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
        let doing = doing.into();
        match source.kind() {
            StorageFull | QuotaExceeded | FileTooLarge => StoreError::Full { doing },
            _ if is_shortage(&source) => StoreError::Exhausted {
                doing,
                r#source: Arc::new(source),
            },
            _ => Self::final_io(doing, source),
        }
    }

    /// Wraps an I/O error of an operation that must not be retried, whatever the reason.
    pub(crate) fn final_io(doing: impl Into<String>, source: io::Error) -> Self {
        StoreError::Io {
            doing: doing.into(),
            r#source: Arc::new(source),
        }
    }

    /// As [`io`](Self::io), for an fsync, or for an engine that does not continue after an error: a
    /// shortage is final, because the kernel reports a lost page once and then forgets it.
    pub(crate) fn io_once(doing: impl Into<String>, source: io::Error) -> Self {
        match Self::io(doing, source) {
            StoreError::Exhausted { doing, r#source } => StoreError::Io { doing, r#source },
            other => other,
        }
    }

    /// Returns the same error as one that must not be retried.
    pub(crate) fn into_final(self) -> Self {
        match self {
            StoreError::Full { doing } => Self::final_io(doing, io::ErrorKind::StorageFull.into()),
            StoreError::Exhausted { doing, r#source } => StoreError::Io { doing, r#source },
            other => other,
        }
    }

    pub(crate) fn is_full(&self) -> bool {
        matches!(self, StoreError::Full { .. })
    }

    /// Returns whether the operation may succeed later, with nothing lost until then.
    pub(crate) fn is_temporary(&self) -> bool {
        matches!(self, StoreError::Full { .. } | StoreError::Exhausted { .. })
    }
}

/// Returns whether the system was short of a resource that other processes will release.
#[cfg(unix)]
fn is_shortage(error: &io::Error) -> bool {
    use rustix::io::Errno;
    let temporary = [
        Errno::MFILE,
        Errno::NFILE,
        Errno::NOMEM,
        Errno::AGAIN,
        Errno::INTR,
    ];
    Errno::from_io_error(error).is_some_and(|errno| temporary.contains(&errno))
}

#[cfg(not(unix))]
fn is_shortage(error: &io::Error) -> bool {
    use io::ErrorKind::{Interrupted, OutOfMemory, WouldBlock};
    matches!(error.kind(), Interrupted | OutOfMemory | WouldBlock)
}

/// The process that has a store open.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Holder {
    /// This process, which tried to open the store once more.
    ThisProcess,
    /// Another process.
    Process {
        /// The process id. In a container it is the id inside that container: in several of them it
        /// may be 1.
        pid: u32,
        /// The host name of the process, if it differs from that of this process. Docker names a
        /// container's host after the container's id.
        host: Option<String>,
    },
    /// Another process, whose id is not known.
    Unknown,
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Holder::ThisProcess => write!(f, "this process"),
            Holder::Process {
                pid,
                host: Some(host),
            } => write!(f, "process {pid} on host {host}"),
            Holder::Process { pid, host: None } if *pid == std::process::id() => {
                write!(
                    f,
                    "another process, which has the id {pid} as well (in another container?)"
                )
            }
            Holder::Process { pid, host: None } => write!(f, "process {pid}"),
            Holder::Unknown => write!(f, "another process"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_say_what_and_where() {
        let locked = StoreError::Locked {
            path: "/x".into(),
            holder: Holder::Process {
                pid: u32::MAX,
                host: None,
            },
        };
        assert_eq!(
            locked.to_string(),
            "the store at /x is open in process 4294967295"
        );
        let io = StoreError::io("fsync /x/db", io::Error::other("gone"));
        assert_eq!(io.to_string(), "cannot fsync /x/db: gone");
        // A report that prints the chain of causes does not print the reason twice.
        assert!(std::error::Error::source(&io).is_none());
        let full = StoreError::io("write /x/db", io::ErrorKind::StorageFull.into());
        assert!(full.is_full());
        assert_eq!(full.to_string(), "the disk is full: cannot write /x/db");
    }

    #[cfg(unix)]
    #[test]
    fn a_shortage_of_the_system_is_temporary_but_final_for_an_fsync() {
        for errno in [
            rustix::io::Errno::MFILE,
            rustix::io::Errno::NFILE,
            rustix::io::Errno::NOMEM,
            rustix::io::Errno::AGAIN,
            rustix::io::Errno::INTR,
        ] {
            let opened = StoreError::io("open /x/db", errno.into());
            assert!(opened.is_temporary() && !opened.is_full(), "{opened:?}");
            assert!(
                opened.to_string().contains("cannot open /x/db: "),
                "{opened}"
            );
            let synced = StoreError::io_once("fsync /x/db", errno.into());
            assert!(matches!(synced, StoreError::Io { .. }), "{synced:?}");
            assert!(!opened.into_final().is_temporary());
        }
        let lost = StoreError::io("read /x/db", rustix::io::Errno::IO.into());
        assert!(!lost.is_temporary());
    }
}
