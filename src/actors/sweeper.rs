//! The sweeper: gives back the space of workflows whose retention has ended, and of submissions
//! that a crash cut short.

use std::sync::Arc;

use actix::Addr;

use super::shared::Shared;
use super::store::{Commit, StoreActor};
use crate::canvas::id::Id;
use crate::persistence::reader::Reader;
use crate::persistence::{Batch, StoreError, keys};

/// Sled is slow on larger batches.
const MAX_DELETES: usize = 500;

/// Deletes all that is left of workflow `root`, whose head is gone already: a crash in the middle
/// leaves parts without a head, which the next open finds.
pub(crate) async fn purge(shared: Arc<Shared>, store: Addr<StoreActor>, root: Id) {
    for tag in keys::PARTS {
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

/// How many workflows are looked at in one go for parts without a head.
const LOOKS: usize = 256;

/// Deletes what submissions left that a crash cut short, and sweeps: parts of workflows up to
/// `last`, the latest id that was in the store when it was opened, that have no head. No later one
/// is looked at, so none that is being submitted.
pub(crate) async fn sweep_orphans(shared: Arc<Shared>, store: Addr<StoreActor>, last: Id) {
    for tag in keys::PARTS {
        let (mut from, _) = keys::all(tag);
        let (_, to) = keys::of_workflow(tag, last);
        while from < to {
            // Taken anew each time, as in `purge`.
            let Ok(reader) = shared.reader() else { return };
            let looked = some_orphans(&reader, tag, &mut from, &to);
            drop(reader);
            match looked {
                Ok(orphans) => {
                    for orphan in orphans {
                        tracing::debug!(%orphan, "what a crash left of it is swept");
                        purge(shared.clone(), store.clone(), orphan).await;
                    }
                }
                Err(error) => return tracing::warn!(%error, "orphans are not swept"),
            }
            tokio::task::yield_now().await;
        }
    }
}

/// The next workflows of which there are records of this kind but no head; `from` goes behind what
/// has been looked at.
fn some_orphans(
    reader: &Reader,
    tag: u8,
    from: &mut Vec<u8>,
    to: &[u8],
) -> Result<Vec<Id>, StoreError> {
    let mut orphans = Vec::new();
    // One look per workflow, not per record: each look starts behind the workflow before.
    for _ in 0..LOOKS {
        let next = reader.store().scan(from, to).next().transpose()?;
        let Some(id) = next.and_then(|(key, _)| keys::id_of(&key)) else {
            *from = to.to_vec();
            break;
        };
        let root = id.root();
        if reader.store().get(&keys::head(root))?.is_none() {
            orphans.push(root);
        }
        *from = keys::of_workflow(tag, root).1;
    }
    Ok(orphans)
}
