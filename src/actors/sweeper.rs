//! The sweeper: finds workflows whose retention has ended, and gives back the space of what is
//! left of them, and of submissions that a crash cut short.

use std::sync::Arc;

use actix::Addr;

use super::shared::Shared;
use super::store::{self, StoreActor};
use crate::canvas::id::Id;
use crate::failpoint::{self, Point};
use crate::persistence::codec::{self, Kind};
use crate::persistence::definition::WorkflowHeader;
use crate::persistence::reader::Reader;
use crate::persistence::{Batch, StoreError, keys};

/// Sled is slow on larger batches.
const MAX_DELETES: usize = 500;
/// A workflow of more records than that is deleted in batches of its own.
const SMALL: usize = 32;
/// The most keys that one sweep takes away, about, and the most workflows that it looks at: it
/// shares the engine's thread with all else.
const SWEEP: usize = 200;
const LOOKS: usize = 1_000;

/// Workflows that are to be taken away.
#[derive(Debug)]
pub(crate) struct Expired {
    pub(crate) gone: Vec<Gone>,
    pub(crate) next: Next,
}

#[derive(Debug)]
pub(crate) struct Gone {
    pub(crate) root: Id,
    /// That of its head.
    pub(crate) key: Vec<u8>,
    pub(crate) idempotency_key: Option<String>,
    /// The keys of its parts; `more`: there are others.
    pub(crate) parts: Vec<Vec<u8>>,
    pub(crate) more: bool,
}

/// When it is worth while to look again.
#[derive(Debug)]
pub(crate) enum Next {
    /// At once, from this key on.
    More(Vec<u8>),
    /// When the retention of what ended then has ended. It may have, and a handle keeps it.
    EndedAt(u64),
    /// When something ends.
    None,
}

/// Looks for workflows that ended at `until_ms` or before, from the first on, or from `from`. From now on
/// a lookup of them gives no handle.
pub(crate) fn expired(
    reader: &Reader,
    shared: &Shared,
    from: Option<Vec<u8>>,
    until_ms: u64,
) -> Result<Expired, StoreError> {
    let (first, to) = keys::all(b'e');
    let mut gone = Vec::new();
    let mut deletes = 0;
    let mut kept = None;
    let ended = reader.store().scan(&from.unwrap_or(first), &to);
    for (looks, pair) in ended.enumerate() {
        let (key, head) = pair?;
        let Some((at_ms, root)) = keys::timed_of(&key) else {
            continue;
        };
        if at_ms > until_ms {
            kept.get_or_insert(at_ms);
            break;
        }
        if deletes >= SWEEP || looks >= LOOKS {
            let next = Next::More(key);
            return Ok(Expired { gone, next });
        }
        if !shared.pins.start_leaving(root) {
            kept.get_or_insert(at_ms);
            continue;
        }
        let head: WorkflowHeader = codec::decode(Kind::Head, &key, &head)?;
        let mut parts = keys_of_parts(reader, root).take(SMALL + 1);
        let parts = parts.by_ref().collect::<Result<Vec<_>, _>>()?;
        deletes += 3 + parts.len();
        gone.push(Gone {
            root,
            key,
            idempotency_key: head.idempotency_key,
            more: parts.len() > SMALL,
            parts,
        });
    }
    let next = kept.map_or(Next::None, Next::EndedAt);
    Ok(Expired { gone, next })
}

fn keys_of_parts(
    reader: &Reader,
    root: Id,
) -> impl Iterator<Item = Result<Vec<u8>, StoreError>> + '_ {
    keys::PARTS.iter().flat_map(move |tag| {
        let (from, to) = keys::of_workflow(*tag, root);
        let parts = reader.store().scan(&from, &to);
        parts.map(|pair| pair.map(|(key, _)| key))
    })
}

/// The workflows of which there are parts that nobody needs: a crash cut short their submission,
/// or their [purge].
pub(crate) fn remains(reader: &Reader) -> Result<Vec<Id>, StoreError> {
    let (from, to) = keys::all(b'x');
    let remains = reader.store().scan(&from, &to);
    remains
        .filter_map(|pair| pair.map(|(key, _)| keys::id_of(&key)).transpose())
        .collect()
}

pub(crate) async fn purge_all(shared: Arc<Shared>, store: Addr<StoreActor>, roots: Vec<Id>) {
    for root in roots {
        purge(shared.clone(), store.clone(), root).await;
    }
}

/// Deletes all that is left of workflow `root`, whose head is gone already. If it is cut short, the
/// next open goes on with it.
pub(crate) async fn purge(shared: Arc<Shared>, store: Addr<StoreActor>, root: Id) {
    loop {
        // The store is not held over a wait: it must close though this has not ended.
        let Ok(reader) = shared.reader() else { return };
        let batch = some_deletes(&reader, root);
        drop(reader);
        let (batch, is_last) = match batch {
            Ok(batch) => batch,
            Err(error) => return tracing::warn!(%root, %error, "a workflow is not swept"),
        };
        let done = matches!(store::commit(&store, batch).await, Ok(Ok(())));
        failpoint::reach(Point::Purged);
        if is_last || !done {
            return;
        }
    }
}

/// Some of what is to be deleted, and whether it is the last.
fn some_deletes(reader: &Reader, root: Id) -> Result<(Batch, bool), StoreError> {
    let mut batch = Batch::default();
    for key in keys_of_parts(reader, root).take(MAX_DELETES) {
        batch.delete(key?);
    }
    let is_last = batch.len() < MAX_DELETES;
    if is_last {
        batch.delete(keys::garbage_marker(root));
    }
    Ok((batch, is_last))
}
