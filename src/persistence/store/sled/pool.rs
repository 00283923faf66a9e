//! sled's threads. All its stores share one pool, which starts with the first work for it and takes
//! the threads that it gets. With none, or too few, it never does that work, and the caller hangs.

use parking_lot::Mutex;

use crate::persistence::store::StoreError;
use crate::persistence::store::fs::threads;

/// How many threads sled wants at once (threadpool.rs, `DESIRED_WAITING_THREADS`).
const THREADS: usize = 7;

/// Whether the pool had its threads when it started.
static HAS_BEGUN: Mutex<bool> = Mutex::new(false);

/// Opens sled and makes sure that its pool has its threads. `work` is some work for the pool.
pub(super) fn begin_with(
    open: impl FnOnce() -> Result<::sled::Db, StoreError>,
    work: impl FnOnce(&::sled::Db) -> Result<(), StoreError>,
) -> Result<::sled::Db, StoreError> {
    let mut has_begun = HAS_BEGUN.lock();
    if *has_begun {
        drop(has_begun);
        return open();
    }
    threads::check_available(THREADS)
        .map_err(|e| StoreError::io("start the threads of sled", e))?;
    let db = open()?;
    work(&db)?;
    *has_begun = true;
    Ok(db)
}
