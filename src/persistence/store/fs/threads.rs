//! Checks that the system has threads to give, for libraries that hang without them.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use parking_lot::RwLock;

/// How long to wait until the system has released threads that have ended.
const RELEASE_TIMEOUT: Duration = Duration::from_secs(1);

/// Returns `Ok` if the system gives this many threads at once now: starts as many, and ends them.
///
/// # Errors
///
/// Returns the error of starting a thread.
pub(crate) fn check_available(count: usize) -> io::Result<()> {
    let start_lock = Arc::new(RwLock::new(()));
    let guard = start_lock.write();
    let mut threads = Vec::with_capacity(count);
    let mut refused = Ok(());
    while threads.len() < count && refused.is_ok() {
        refused = start(start_lock.clone()).map(|thread| threads.push(thread));
    }
    drop(guard);
    let paths: Vec<_> = threads
        .into_iter()
        .filter_map(|thread| thread.join().ok().flatten())
        .collect();
    // A joined thread still counts for a moment.
    let deadline = Instant::now() + RELEASE_TIMEOUT;
    while paths.iter().any(|path| path.exists()) && Instant::now() < deadline {
        thread::yield_now();
    }
    refused
}

/// Starts a thread that ends when `start_lock` is unlocked; it returns the path under which the system
/// lists it.
fn start(start_lock: Arc<RwLock<()>>) -> io::Result<JoinHandle<Option<PathBuf>>> {
    let builder = thread::Builder::new().name("chordal-probe".to_owned());
    builder.spawn(move || {
        drop(start_lock.read());
        let proc = Path::new("/proc");
        let own = std::fs::read_link(proc.join("thread-self")).ok()?;
        Some(proc.join(own))
    })
}
