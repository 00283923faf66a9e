//! Whether the system has threads to give: for libraries that hang if it has not.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use parking_lot::RwLock;

/// How long to wait until the system has let go of threads that have ended.
const LET_GO: Duration = Duration::from_secs(1);

/// Returns `Ok` if the system gives this many threads at once now: starts as many, and ends them.
///
/// # Errors
///
/// The one that starting a thread met.
pub(crate) fn check_available(count: usize) -> io::Result<()> {
    let gate = Arc::new(RwLock::new(()));
    let closed = gate.write();
    let mut threads = Vec::with_capacity(count);
    let mut refused = Ok(());
    while threads.len() < count && refused.is_ok() {
        refused = start(gate.clone()).map(|thread| threads.push(thread));
    }
    drop(closed);
    let places: Vec<_> = threads
        .into_iter()
        .filter_map(|thread| thread.join().ok().flatten())
        .collect();
    // A thread that has been joined counts for a moment longer.
    let deadline = Instant::now() + LET_GO;
    while places.iter().any(|place| place.exists()) && Instant::now() < deadline {
        thread::yield_now();
    }
    refused
}

/// Starts a thread that ends when the gate is opened, and says where the system lists it.
fn start(gate: Arc<RwLock<()>>) -> io::Result<JoinHandle<Option<PathBuf>>> {
    let builder = thread::Builder::new().name("chordal-probe".to_owned());
    builder.spawn(move || {
        drop(gate.read());
        let proc = Path::new("/proc");
        let own = std::fs::read_link(proc.join("thread-self")).ok()?;
        Some(proc.join(own))
    })
}
