//! Stores: ordered maps of bytes with atomic batches and an explicit `sync`.
//!
//! This layer knows keys, bytes and disks; it knows nothing of tasks or actors.
//! Every store keeps the contract of [`Store`], and [`conformance`] checks it.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub(crate) mod aborts;
mod audit;
pub(crate) mod backlog;
pub(crate) mod children;
pub(crate) mod codec;
pub(crate) mod commit_builder;
pub mod conformance;
mod data_dir;
pub(crate) mod definition;
mod dir;
mod engine_dir;
mod export;
#[cfg(all(test, feature = "sled"))]
mod fault_tests;
mod files;
#[cfg(feature = "__fuzzing")]
pub(crate) mod fuzzing;
#[expect(
    clippy::disallowed_methods,
    reason = "a store draws its id: nothing is decided by that"
)]
mod identity;
pub(crate) mod keys;
pub(crate) mod member_table;
pub mod memory;
pub(crate) mod meta;
mod negative_control;
mod panic_guard;
pub(crate) mod reader;
#[cfg(feature = "redb")]
pub mod redb;
#[cfg(any(feature = "sled", feature = "redb"))]
mod salvage;
#[cfg(feature = "sled")]
pub mod sled;
pub(crate) mod steady;
pub(crate) mod threads;
mod watermark;

pub use self::audit::{Audit, Finding};
pub(crate) use self::data_dir::LOCK_TIMEOUT;
pub use self::memory::MemoryStore;
// `self::`, because the crates sled and redb have the same names as our modules.
pub(crate) use self::export::export_to_file;
pub use self::export::{export, import};
#[cfg(feature = "redb")]
pub use self::redb::RedbStore;
#[cfg(any(feature = "sled", feature = "redb"))]
pub use self::salvage::Salvaged;
#[cfg(any(feature = "sled", feature = "redb"))]
pub(crate) use self::salvage::salvage;
#[cfg(feature = "sled")]
pub use self::sled::SledStore;

/// What a crash may undo.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Durability {
    /// Survives power loss: the engine calls fsync before it acknowledges.
    #[default]
    Power,
    /// Survives `kill -9`: data is handed to the kernel, without fsync.
    Process,
    /// Survives a clean stop; up to 500 ms may be lost.
    Buffered,
}

/// One change of one key.
#[derive(Clone, PartialEq, Eq)]
pub enum Op {
    /// Sets a key to a value.
    Put(Vec<u8>, Vec<u8>),
    /// Removes a key; no error if it is not there.
    Delete(Vec<u8>),
}

/// Prints sizes only: keys and values may hold what users want kept out of logs.
impl fmt::Debug for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Op::Put(key, value) => write!(f, "Put({} B, {} B)", key.len(), value.len()),
            Op::Delete(key) => write!(f, "Delete({} B)", key.len()),
        }
    }
}

/// Puts and deletes applied together or not at all, in order.
///
/// # Examples
/// ```
/// # use chordal::persistence::Batch;
/// let mut batch = Batch::new();
/// batch.put("a", "one");
/// batch.delete("b");
/// assert_eq!((batch.len(), batch.bytes()), (2, 5));
/// assert_eq!(format!("{batch:?}"), "Batch { ops: 2, bytes: 5 }");
/// ```
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Batch {
    ops: Vec<Op>,
    /// A running sum, because the committer reads it after every operation.
    bytes: usize,
}

impl Batch {
    /// Makes an empty batch.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Makes an empty batch with capacity for as many operations as this one has.
    pub(super) fn another(&self) -> Self {
        Self {
            ops: Vec::with_capacity(self.ops.len()),
            bytes: 0,
        }
    }

    /// Adds a put; a later op on the same key wins.
    pub fn put(&mut self, key: impl Into<Vec<u8>>, value: impl Into<Vec<u8>>) {
        let (key, value) = (key.into(), value.into());
        self.bytes += key.len() + value.len();
        self.ops.push(Op::Put(key, value));
    }

    /// Adds a delete; a later op on the same key wins.
    pub fn delete(&mut self, key: impl Into<Vec<u8>>) {
        let key = key.into();
        self.bytes += key.len();
        self.ops.push(Op::Delete(key));
    }

    /// Adds all ops of `other` after the ones already here.
    pub fn append(&mut self, mut other: Batch) {
        self.bytes += other.bytes;
        self.ops.append(&mut other.ops);
    }

    /// Counts the ops.
    #[must_use]
    pub fn len(&self) -> usize {
        self.ops.len()
    }

    /// Tells whether there is nothing to apply.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ops.is_empty()
    }

    /// Sums the sizes of all keys and values.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Shows the ops in order.
    #[must_use]
    pub fn ops(&self) -> &[Op] {
        &self.ops
    }
}

/// Prints counts and sizes, never the bytes.
impl fmt::Debug for Batch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Batch")
            .field("ops", &self.ops.len())
            .field("bytes", &self.bytes)
            .finish()
    }
}

impl IntoIterator for Batch {
    type Item = Op;
    type IntoIter = std::vec::IntoIter<Op>;

    fn into_iter(self) -> Self::IntoIter {
        self.ops.into_iter()
    }
}

impl<'a> IntoIterator for &'a Batch {
    type Item = &'a Op;
    type IntoIter = std::slice::Iter<'a, Op>;

    fn into_iter(self) -> Self::IntoIter {
        self.ops.iter()
    }
}

/// A key and its value.
pub type Pair = (Vec<u8>, Vec<u8>);

/// The iterator of [`Store::scan`]; an error is its last item.
pub type Scan<'a> = Box<dyn DoubleEndedIterator<Item = Result<Pair, StoreError>> + 'a>;

/// An ordered map of bytes that survives crashes.
///
/// Keys are never empty and at most a few hundred bytes; a value is at most 8 KB, because
/// some engines keep larger ones in a less safe place (see [`sled`]).
///
/// Every implementation must pass [`conformance::conformance`].
pub trait Store: Send + Sync + fmt::Debug + 'static {
    /// Reads one value.
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError>;

    /// Walks the keys in `[from, to)`, ascending; `rev()` walks them down.
    ///
    /// A scan is not a snapshot: each pair is as new as the moment at which the scan reaches it, or
    /// newer than the pair before it. Keys that are not written meanwhile come exactly once. The
    /// caller may apply batches while it holds a scan.
    fn scan(&self, from: &[u8], to: &[u8]) -> Scan<'_>;

    /// Applies a batch: atomic, visible to reads at once, durable only after [`sync`](Store::sync).
    fn apply(&self, batch: Batch) -> Result<(), StoreError>;

    /// Waits until every batch applied before survives what `durability` names.
    ///
    /// [`StoreError::Full`] means that it does not yet, for lack of space, and
    /// [`StoreError::Exhausted`] for lack of file descriptors or memory: the batches stay applied,
    /// and `sync` may be called again. After any other error of `sync`, and after every error of
    /// `apply`, the engine halts, and every later call of either fails with
    /// [`StoreError::Poisoned`]: an fsync is never retried, because the kernel reports a lost page
    /// once and then forgets it. A store without space for a batch therefore accepts it in `apply`
    /// and fails in `sync`. Reads continue, but may return data that the disk does not hold; only a
    /// reopened store shows what is durable.
    fn sync(&self, durability: Durability) -> Result<(), StoreError>;

    /// Returns whether a few records can be applied without waiting for anything but the disk. If
    /// not, the engine applies them on a thread that may block.
    fn is_prompt(&self) -> bool {
        true
    }

    /// Returns [`StoreError::Full`] if the free space must be kept for work that has been accepted,
    /// so that new work is refused. Cheap as long as there is space; asks the system again after a
    /// refusal.
    fn room(&self) -> Result<(), StoreError> {
        Ok(())
    }

    /// Returns the directory that only this store uses while it is open, if there is one. The
    /// engine notes there that the process aborts.
    fn directory(&self) -> Option<&Path> {
        None
    }

    /// Copies the store, as it is after some commit, to a directory that does not exist yet, while
    /// the store stays in use. An unfinished copy is never opened as a store.
    fn backup(&self, to: &Path) -> Result<(), StoreError> {
        let why = io::Error::new(io::ErrorKind::Unsupported, "this store does not support it");
        Err(StoreError::io(format!("back up to {}", to.display()), why))
    }
}

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
    /// The disk, or the quota on it, is full. Nothing is lost; see [`Store::sync`] and
    /// [`Store::room`].
    #[error("the disk is full: cannot {doing}")]
    Full {
        /// The operation, and its path.
        doing: String,
    },
    /// The system has no file descriptor or no memory to spare at the moment. Nothing is lost; see
    /// [`Store::sync`].
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
#[derive(Clone, Debug, PartialEq, Eq)]
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
    fn a_batch_keeps_order_and_sums_sizes() {
        let mut first = Batch::new();
        first.put("k", "12");
        let mut second = Batch::new();
        second.delete("k");
        second.put("kk", Vec::new());
        first.append(second);
        assert_eq!(
            (first.len(), first.bytes(), first.is_empty()),
            (3, 6, false)
        );
        let ops: Vec<Op> = first.clone().into_iter().collect();
        assert_eq!(ops, first.ops());
        assert_eq!(ops[1], Op::Delete(b"k".to_vec()));
    }

    #[test]
    fn debug_of_a_batch_never_shows_bytes() {
        let mut batch = Batch::new();
        batch.put("canary-key", "canary-value");
        batch.delete("canary-key");
        let text = format!("{batch:?} {:?}", batch.ops());
        assert!(!text.contains("canary") && !text.contains("99"), "{text}");
    }

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
