//! Retention: deletes the records of an ended workflow when its retention has passed, or when it
//! was forgotten and has no handle left.

use std::time::Duration;

use actix::Context;

use super::EngineActor;
use super::sweeper::{self, Expired, Next};
use crate::actors::commit::journal::PostCommit;
use crate::canvas::id::Id;
use crate::canvas::machine::Record;
use crate::error::{Error, IdError};
use crate::messages::engine::{EngineMessage, Forget, Stored, Sweep};
use crate::persistence::StoreError;
use crate::persistence::records::codec::{self, Kind};
use crate::persistence::records::definition::WorkflowHeader;
use crate::persistence::records::keys;
use crate::testing::failpoint::{self, Point};

/// The least time from the end of a workflow to a sweep, so that one sweep takes many.
const SWEEP_AFTER_MS: u64 = 100;
/// The least time between two scans for workflows that only handles keep.
const LOOK_EVERY_MS: u64 = 1_000;

/// The sweeps: when the next one is due, and how far the last one got.
#[derive(Debug)]
pub(super) struct Sweeps {
    pub(super) retention: Duration,
    /// The time of the next sweep, in milliseconds on the steady scale.
    pub(super) at: Option<u64>,
    /// The store has not applied the last sweep's deletions yet.
    pub(super) is_running: bool,
    /// Another sweep was requested meanwhile.
    pub(super) is_requested: bool,
    /// The key at which the next sweep continues, if the last one did not reach the end.
    pub(super) from: Option<Vec<u8>>,
}

impl Sweeps {
    pub(super) fn new(retention: Duration) -> Self {
        Self {
            retention,
            at: None,
            is_running: false,
            is_requested: false,
            from: None,
        }
    }
}

impl EngineActor {
    /// Schedules a sweep for when the retention of a workflow that ends now has passed, unless an
    /// earlier one is scheduled.
    pub(super) fn sweep_later(&mut self) {
        let now = self.engine.steady_ms();
        self.sweep_when_due(now, SWEEP_AFTER_MS);
    }

    /// As [`sweep_later`](Self::sweep_later), for a workflow that ended at `ended_ms`, and not
    /// before `least_ms` from now.
    fn sweep_when_due(&mut self, ended_ms: u64, least_ms: u64) {
        let least = self.engine.steady_ms().saturating_add(least_ms);
        let due = ended_ms.saturating_add(self.retention_ms()).max(least);
        self.sweeps.at = Some(self.sweeps.at.map_or(due, |at_ms| at_ms.min(due)));
    }

    fn retention_ms(&self) -> u64 {
        u64::try_from(self.sweeps.retention.as_millis()).unwrap_or(u64::MAX)
    }

    /// Deletes some of the expired workflows, and continues when the store has applied that: the
    /// sweep shares the thread with all other work.
    fn sweep(&mut self) -> Result<(), StoreError> {
        if std::mem::replace(&mut self.sweeps.is_running, true) {
            self.sweeps.is_requested = true;
            return Ok(());
        }
        // (The end of a forgotten workflow is set to 0.)
        let until_ms = self.engine.steady_ms().saturating_sub(self.retention_ms());
        let (reader, view) = (self.engine.reader(), self.engine.view());
        let expired = sweeper::expired(reader, view, self.sweeps.from.take(), until_ms)?;
        self.delete_expired(expired)?;
        self.set_alarm();
        Ok(())
    }

    fn delete_expired(&mut self, expired: Expired) -> Result<(), StoreError> {
        let mut last = None;
        for workflow in expired.workflows {
            let root = workflow.root;
            last = last.max(Some(root));
            self.engine.delete(workflow.key);
            self.engine.delete(keys::result(root));
            self.engine.touch(root);
            for part in workflow.parts {
                self.engine.delete(part);
            }
            self.free_key(root, workflow.idempotency_key)?;
            if workflow.more {
                let marker = codec::encode(Kind::Mark, &());
                self.engine.put(keys::garbage_marker(root), marker);
                self.engine.then(PostCommit::Purge(root));
            }
            failpoint::reach(Point::Swept);
        }
        if last.is_some() {
            // Ids continue after the latest one even if no other record of that workflow is left.
            let last = last.max(self.engine.reader().last_id()?);
            let record = codec::encode(Kind::LastSwept, &last);
            self.engine.put(keys::LAST_SWEPT.to_vec(), record);
        }
        match expired.next {
            Next::More(from) => self.sweeps.from = Some(from),
            Next::EndedAt(at_ms) => self.sweep_when_due(at_ms, LOOK_EVERY_MS),
            Next::None => {}
        }
        // A scan before the store has applied the deletions would find the same workflows again.
        self.engine.notify(EngineMessage::Sweep(Sweep::Done));
        Ok(())
    }

    /// Frees the idempotency key if it still stands for this workflow.
    fn free_key(&mut self, root: Id, key: Option<String>) -> Result<(), StoreError> {
        if let Some(key) = key
            && self.workflow_of_key(&key)? == Some(root)
        {
            self.engine.delete(keys::idempotency(&key));
            self.set_key(key, None);
        }
        Ok(())
    }

    /// Moves an ended workflow to those that only their handles keep: lookups do not find it any
    /// more.
    pub(super) fn forget_ended(&mut self, root: Id, header: &[u8]) -> Result<(), StoreError> {
        self.engine.put(keys::ended(0, root), header.to_vec());
        let header: WorkflowHeader = codec::decode(Kind::Head, &keys::header(root), header)?;
        self.free_key(root, header.idempotency_key)?;
        self.engine.notify(EngineMessage::Sweep(Sweep::Start));
        Ok(())
    }

    pub(super) fn forget(
        &mut self,
        forget: Forget,
        context: &mut Context<Self>,
    ) -> Result<(), StoreError> {
        let Forget { root, done } = forget;
        let reader = self.engine.reader().clone();
        if self.workflows.contains_key(&root) {
            self.decide(root, |machine| machine.forget(), context);
        } else if self.is_in_transition(root)? {
            self.engine
                .notify(EngineMessage::Forget(Forget { root, done }));
            return Ok(());
        } else if reader.waiting(root)?.is_some() {
            self.engine
                .record(root.workflow_stream(), Record::Forgotten);
            // The workflow may be admitted before the store shows that.
            self.admission.forgotten.insert(root);
            self.engine
                .notify(EngineMessage::Stored(Stored::Forgotten(root)));
        } else if let Some(ended) = reader.ended(root)?
            && let key = keys::ended(ended.at_ms, root)
            && let Some(header) = reader.store().get(&key)?
        {
            self.engine.delete(key);
            self.forget_ended(root, &header)?;
        } else {
            let _ = done.send(Err(Error::Id(IdError::Unknown { id: root })));
            return Ok(());
        }
        self.engine.then(PostCommit::Done(done));
        Ok(())
    }

    pub(super) fn on_sweep(&mut self, sweep: Sweep) -> Result<(), StoreError> {
        let continues = match sweep {
            Sweep::Start => true,
            Sweep::Done => {
                self.sweeps.is_running = false;
                self.engine.view().retention_guards.clear_leaving();
                self.sweeps.from.is_some() || std::mem::take(&mut self.sweeps.is_requested)
            }
        };
        if continues {
            self.sweep()?;
        }
        Ok(())
    }
}
