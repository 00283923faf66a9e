//! The sweeper: gives back the space of workflows whose retention has ended, and of submissions
//! that a crash cut short.

use std::collections::BTreeSet;
use std::sync::Arc;

use actix::Addr;

use super::shared::Shared;
use super::store::{Commit, StoreActor};
use crate::canvas::id::Id;
use crate::persistence::reader::Reader;
use crate::persistence::{Batch, StoreError, keys};

/// Sled is slow on larger batches.
const MAX_DELETES: usize = 500;
/// What a workflow consists of beside its head, its result and its idempotency key.
const PARTS: [u8; 4] = [b'd', b's', b'p', b'c'];

/// Deletes all that is left of workflow `root`, whose head is gone already: a crash in the middle
/// leaves parts without a head, which the next open finds.
pub(crate) async fn purge(shared: Arc<Shared>, store: Addr<StoreActor>, root: Id) {
    for tag in PARTS {
        loop {
            // The store is not held over a wait: it must close though this has not ended.
            let Ok(reader) = shared.reader() else { return };
            let batch = some_deletes(&reader, tag, root);
            drop(reader);
            let batch = match batch {
                Ok(batch) if batch.is_empty() => break,
                Ok(batch) => batch,
                Err(error) => return tracing::warn!(%root, %error, "a workflow is not swept"),
            };
            let answer = store.send(Commit(batch)).await;
            let done = match answer {
                Ok(answer) => matches!(answer.await, Ok(Ok(()))),
                Err(_) => false,
            };
            if !done {
                // The store has failed, or the app has stopped: the next open sweeps the rest.
                return;
            }
        }
    }
}

fn some_deletes(reader: &Reader, tag: u8, root: Id) -> Result<Batch, StoreError> {
    let (from, to) = keys::of_workflow(tag, root);
    let mut batch = Batch::default();
    for pair in reader.store().scan(&from, &to).take(MAX_DELETES) {
        batch.delete(pair?.0);
    }
    Ok(batch)
}

/// The workflows of which there are parts but no head.
pub(crate) fn orphans(reader: &Reader) -> Result<BTreeSet<Id>, StoreError> {
    let mut orphans = BTreeSet::new();
    for tag in PARTS {
        let (mut from, to) = keys::all(tag);
        // One look per workflow, not per record: each look starts behind the workflow before.
        while let Some(pair) = reader.store().scan(&from, &to).next() {
            let (key, _) = pair?;
            let Some(id) = keys::id_of(&key) else {
                break;
            };
            let root = id.root();
            if reader.store().get(&keys::head(root))?.is_none() {
                orphans.insert(root);
            }
            from = keys::of_workflow(tag, root).1;
        }
    }
    Ok(orphans)
}
