//! Submissions: stores and starts a workflow, and knows which workflow an idempotency key stands
//! for.

use actix::{Context, Handler};

use super::EngineActor;
use crate::actors::child::Resume;
use crate::canvas::admission::pending_limit::Load;
use crate::canvas::freeze::Node;
use crate::canvas::id::{Id, Seq};
use crate::canvas::machine::Record;
use crate::canvas::machine::child_spec::ChildSpec;
use crate::canvas::machine::workflow::Workflow;
use crate::messages::engine::{EngineMessage, FindByKey, KeyIsDurable, Submit};
use crate::persistence::StoreError;
use crate::persistence::records::codec::{self, Kind};
use crate::persistence::records::keys;

impl EngineActor {
    pub(super) fn find_by_key(
        &self,
        FindByKey { key, durable }: FindByKey,
    ) -> Result<(), StoreError> {
        if let Some(earlier) = self.workflow_of_key(&key)? {
            let guard = self.engine.view().pin(earlier);
            self.engine.acknowledge(durable, guard);
        }
        Ok(())
    }

    /// Stores a workflow, and starts it unless it waits; returns whether it starts.
    pub(super) fn begin(
        &mut self,
        root_id: Id,
        root: Node,
        header: Vec<u8>,
        next: Seq,
        load: Load,
    ) -> Result<bool, StoreError> {
        self.engine.add_pending(load);
        let Some(admission) = self.admit(root_id, &root, &header)? else {
            return Ok(false);
        };
        let key = keys::header(root_id);
        if let Some(unresumed) = &mut self.unresumed {
            // (An id that the caller chose may be older than the last one of the life before.)
            unresumed.note_admitted(root_id, &key);
        }
        self.engine.put(key, header.clone());
        self.engine.start_numbers(root_id, next, None);
        let own = (header, load);
        self.insert(root_id, Workflow::default(), own, admission.lane, None);
        let mut spec = ChildSpec::root(root_id, root);
        spec.since_ms = admission.counts.then(|| self.engine.steady_ms());
        self.start_root(spec, Resume::Fresh, admission);
        Ok(true)
    }

    /// The store shows which workflow the key stands for. It may stand for a newer one by now.
    pub(super) fn forget_durable_key(&mut self, durable: &KeyIsDurable) {
        if self.keys.get(&durable.key) == Some(&durable.workflow) {
            self.keys.remove(&durable.key);
        }
    }

    /// Returns the workflow that was submitted with this idempotency key.
    pub(super) fn workflow_of_key(&self, key: &str) -> Result<Option<Id>, StoreError> {
        match self.keys.get(key) {
            Some(workflow) => Ok(*workflow),
            None => self.engine.reader().submitted_as(key),
        }
    }

    /// Sets the workflow that the key stands for. The caller puts the matching record into the same
    /// batch.
    pub(super) fn set_key(&mut self, key: String, workflow: Option<Id>) {
        self.keys.insert(key.clone(), workflow);
        self.engine
            .notify(EngineMessage::KeyIsDurable(KeyIsDurable { key, workflow }));
    }

    /// Records in both workflows that this task submitted the other. No record is written into the
    /// task's workflow if it has ended: it may be swept, and then nothing would delete the record.
    pub(super) fn record_submitter(&self, task: Id, root: Id) {
        let stream = root.origin_stream();
        self.engine.record(stream, Record::SubmittedBy { task });
        if self.workflows.contains_key(&task.root()) {
            self.engine.record(task, Record::Submitted { root });
        }
    }
}

impl Handler<Submit> for EngineActor {
    type Result = ();

    fn handle(&mut self, submit: Submit, _: &mut Context<Self>) {
        let Submit {
            root_id,
            root,
            header,
            next,
            idempotency_key,
            by,
            staged,
            reservation,
            durable,
        } = submit;
        if self.engine.is_draining() {
            return;
        }
        let view = self.engine.view().clone();
        if let Some(key) = idempotency_key {
            match self.workflow_of_key(&key) {
                // Acknowledged after the earlier workflow's own record, in case that is not
                // committed yet.
                Ok(Some(earlier)) => {
                    return self.engine.acknowledge(durable, view.pin(earlier));
                }
                Ok(None) => {}
                Err(error) => return self.engine.halt(error.into()),
            }
            self.engine.put(
                keys::idempotency(&key),
                codec::encode(Kind::Idempotency, &root_id),
            );
            self.set_key(key, Some(root_id));
        }
        if staged.hand_over() {
            self.engine.delete(keys::garbage_marker(root_id));
        }
        if let Some(task) = by {
            self.record_submitter(task, root_id);
        }
        self.engine.acknowledge(durable, view.pin(root_id));
        let load = reservation.hand_over();
        match self.begin(root_id, root, header, next, load) {
            Ok(true) => {}
            Ok(false) => self.set_alarm(),
            Err(error) => self.engine.halt(error.into()),
        }
    }
}
