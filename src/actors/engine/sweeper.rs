//! The sweeper: finds workflows whose retention has passed, and deletes their remaining records and
//! those of submissions that a crash cut short.

use std::sync::Arc;

use actix::Addr;

use crate::actors::commit::committer::{self, StoreActor};
use crate::backend::durable_view::DurableView;
use crate::canvas::id::Id;
use crate::persistence::records::codec::{self, Kind};
use crate::persistence::records::definition::WorkflowHeader;
use crate::persistence::records::keys;
use crate::persistence::records::reader::Reader;
use crate::persistence::{Batch, StoreError};
use crate::testing::failpoint::{self, Point};

/// Sled is slow on larger batches.
const MAX_DELETES: usize = 500;
/// A workflow with more records than this is deleted in batches of its own.
const SMALL: usize = 32;
/// About how many keys one sweep deletes, and how many workflows it visits at most: it shares the
/// engine's thread with all other work.
const MAX_SWEEP_KEYS: usize = 200;
const MAX_SWEEP_VISITS: usize = 1_000;

/// Workflows whose retention has passed.
#[derive(Debug)]
pub(crate) struct Expired {
    pub(crate) workflows: Vec<ExpiredWorkflow>,
    pub(crate) next: Next,
}

#[derive(Debug)]
pub(crate) struct ExpiredWorkflow {
    pub(crate) root: Id,
    /// The key of its header.
    pub(crate) key: Vec<u8>,
    pub(crate) idempotency_key: Option<String>,
    /// The keys of its parts; `more`: there are others.
    pub(crate) parts: Vec<Vec<u8>>,
    pub(crate) more: bool,
}

/// When the next sweep can find more.
#[derive(Debug)]
pub(crate) enum Next {
    /// At once, from this key on.
    More(Vec<u8>),
    /// When the retention of a workflow that ended at this time has passed. It may have passed
    /// already while a handle keeps the workflow.
    EndedAt(u64),
    /// When another workflow ends.
    None,
}

/// Finds workflows that ended at `until_ms` or before, starting at the first or at `from`. From now
/// on lookups of them return no handle.
pub(crate) fn expired(
    reader: &Reader,
    view: &DurableView,
    from: Option<Vec<u8>>,
    until_ms: u64,
) -> Result<Expired, StoreError> {
    let (first, to) = keys::all(b'e');
    let mut workflows = Vec::new();
    let mut deletes = 0;
    let mut kept = None;
    let ended = reader.store().scan(&from.unwrap_or(first), &to);
    for (visits, pair) in ended.enumerate() {
        let (key, header) = pair?;
        let Some((at_ms, root)) = keys::timed_of(&key) else {
            continue;
        };
        if at_ms > until_ms {
            kept.get_or_insert(at_ms);
            break;
        }
        if deletes >= MAX_SWEEP_KEYS || visits >= MAX_SWEEP_VISITS {
            let next = Next::More(key);
            return Ok(Expired { workflows, next });
        }
        if !view.retention_guards.start_leaving(root) {
            kept.get_or_insert(at_ms);
            continue;
        }
        let header: WorkflowHeader = codec::decode(Kind::Head, &key, &header)?;
        let mut parts = keys_of_parts(reader, root).take(SMALL + 1);
        let parts = parts.by_ref().collect::<Result<Vec<_>, _>>()?;
        deletes += 3 + parts.len();
        workflows.push(ExpiredWorkflow {
            root,
            key,
            idempotency_key: header.idempotency_key,
            more: parts.len() > SMALL,
            parts,
        });
    }
    let next = kept.map_or(Next::None, Next::EndedAt);
    Ok(Expired { workflows, next })
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

/// Returns the workflows with garbage markers: a crash cut short their submission, or their
/// [purge].
pub(crate) fn garbage(reader: &Reader) -> Result<Vec<Id>, StoreError> {
    let (from, to) = keys::all(b'x');
    let markers = reader.store().scan(&from, &to);
    markers
        .filter_map(|pair| pair.map(|(key, _)| keys::id_of(&key)).transpose())
        .collect()
}

pub(crate) async fn purge_all(view: Arc<DurableView>, store: Addr<StoreActor>, roots: Vec<Id>) {
    for root in roots {
        purge(view.clone(), store.clone(), root).await;
    }
}

/// Deletes the remaining records of workflow `root`, whose header is deleted already. If the purge
/// is cut short, the next opening of the store continues it.
pub(crate) async fn purge(view: Arc<DurableView>, store: Addr<StoreActor>, root: Id) {
    loop {
        // The store is not held across an await: it must be able to close before this has ended.
        let Ok(reader) = view.reader() else { return };
        let batch = some_deletes(&reader, root);
        drop(reader);
        let (batch, is_last) = match batch {
            Ok(batch) => batch,
            Err(error) => return tracing::warn!(%root, %error, "a workflow is not swept"),
        };
        let done = matches!(committer::commit(&store, batch).await, Ok(Ok(())));
        failpoint::reach(Point::Purged);
        if is_last || !done {
            return;
        }
    }
}

/// Returns a batch of some of the remaining deletes, and whether it is the last.
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
