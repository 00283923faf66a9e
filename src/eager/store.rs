//! The store of an eager app: every decision is written at once.

use std::sync::Arc;

use parking_lot::Mutex;

use crate::backend::admission_control::AdmissionControl;
use crate::backend::durable_view::DurableView;
use crate::canvas::admission::pending_limit::Load;
use crate::canvas::id::Id;
use crate::canvas::machine::Record;
use crate::clock::{Clock, Ids};
use crate::error::{Error, IdError, Result};
use crate::persistence::records::codec::{self, Kind};
use crate::persistence::records::commit_builder::CommitBuilder;
use crate::persistence::records::definition::WorkflowHeader;
use crate::persistence::records::keys;
use crate::persistence::records::reader::Reader;
use crate::persistence::{MemoryStore, StoreError};
use crate::task::Registry;

/// The store of an eager app. Several callers may run workflows in it at once.
#[derive(Debug)]
pub(crate) struct EagerStore {
    pub(crate) view: Arc<DurableView>,
    pub(crate) registry: Registry,
    reader: Reader,
    /// The number of the last commit; locked while a commit is written, so that commits are
    /// published in order.
    last: Mutex<u64>,
    pub(crate) ids: Ids,
}

impl EagerStore {
    pub(crate) fn new(registry: Registry, clock: Clock) -> Self {
        let reader = Reader::new(Arc::new(MemoryStore::new()));
        let durable = Arc::default();
        let durable_reader = reader.up_to(Arc::clone(&durable));
        // Each submission runs to its end at once, so that none is pending and no limit is needed.
        let limit = Load {
            tasks: u64::MAX,
            bytes: u64::MAX,
        };
        let admission = AdmissionControl::new(limit);
        let view = DurableView::new(durable_reader, durable, clock.untimed(), admission, None);
        Self {
            view: Arc::new(view),
            registry,
            reader,
            last: Mutex::new(0),
            ids: Ids::after(None),
        }
    }

    pub(crate) fn reader(&self) -> &Reader {
        &self.reader
    }

    /// Stores a workflow as submitted; returns an earlier one with its idempotency key instead, if
    /// there is one.
    pub(crate) fn submit(
        &self,
        root: Id,
        head: &WorkflowHeader,
        by: Option<Id>,
        segments: Vec<(Vec<u8>, Vec<u8>)>,
    ) -> Result<Option<Id>, StoreError> {
        let mut last = self.last.lock();
        let mut commit = CommitBuilder::default();
        if let Some(key) = &head.idempotency_key {
            if let Some(earlier) = self.reader.submitted_as(key)? {
                return Ok(Some(earlier));
            }
            let workflow = codec::encode(Kind::Idempotency, &root);
            commit.put(keys::idempotency(key), workflow);
        }
        for (key, value) in segments {
            commit.put(key, value);
        }
        if let Some(task) = by {
            commit.record(root.origin_stream(), Record::SubmittedBy { task });
            if self.reader.exists(task.root())? {
                commit.record(task, Record::Submitted { root });
            }
        }
        commit.put(keys::header(root), codec::encode(Kind::Head, head));
        self.write(&mut last, commit)?;
        Ok(None)
    }

    /// Forgets a workflow that has ended; notes that one that has not ended is to be forgotten then.
    pub(crate) fn forget(&self, root: Id) -> Result<()> {
        let Some(head) = self.reader.header(root)? else {
            return Err(Error::Id(IdError::Unknown { id: root }));
        };
        let mut commit = CommitBuilder::default();
        match self.reader.ended(root)? {
            Some(ended) if self.reader.is_complete(root)? => {
                commit.delete(keys::ended(ended.at_ms, root));
                self.forgotten(root, &head, &mut commit);
            }
            _ => commit.record(root.workflow_stream(), Record::Forgotten),
        }
        Ok(self.commit(commit)?)
    }

    /// Keeps the workflow for its handles only: lookups do not find it any more.
    pub(super) fn forgotten(&self, root: Id, head: &WorkflowHeader, commit: &mut CommitBuilder) {
        commit.put(keys::ended(0, root), codec::encode(Kind::Head, head));
        if let Some(key) = &head.idempotency_key
            && matches!(self.reader.submitted_as(key), Ok(Some(of)) if of == root)
        {
            commit.delete(keys::idempotency(key));
        }
    }

    /// Writes the batch and wakes the watchers of the workflows that it touches.
    pub(crate) fn commit(&self, commit: CommitBuilder) -> Result<(), StoreError> {
        if commit.is_empty() {
            return Ok(());
        }
        self.write(&mut self.last.lock(), commit)
    }

    fn write(&self, last: &mut u64, mut commit: CommitBuilder) -> Result<(), StoreError> {
        *last += 1;
        let (batch, touched) = commit.take(*last);
        self.reader.store().apply(batch)?;
        self.view.publish_commit(*last, &touched);
        Ok(())
    }
}
