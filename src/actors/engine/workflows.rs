//! The live workflows: starts their roots and callbacks, carries out what their machines decide,
//! and ends them.

use actix::Context;

use super::{Admission, EngineActor};
use crate::actors::child::{Child, Resume};
use crate::actors::supervision::{abandoned_report, restart_after_commit};
use crate::canvas::admission::backlog::Lane;
use crate::canvas::admission::pending_limit::Load;
use crate::canvas::id::Id;
use crate::canvas::machine::child_spec::ChildSpec;
use crate::canvas::machine::workflow::{Command, ROOT, Workflow};
use crate::canvas::machine::{Index, Record};
use crate::messages::supervisor::{ChildEnded, ChildEvent};
use crate::persistence::StoreError;
use crate::persistence::records::codec::{self, Kind};
use crate::persistence::records::keys;
use crate::persistence::records::reader::Ended;
use crate::testing::failpoint::{self, Point};

/// A workflow that has not ended.
#[derive(Debug)]
pub(super) struct Live {
    pub(super) machine: Workflow,
    /// Its encoded header, which is stored under another key when the workflow has ended.
    pub(super) header: Vec<u8>,
    /// Its share of the limit of pending work.
    pub(super) load: Load,
    pub(super) lane: Lane,
    /// The time at which the root ended, on the steady scale, if callbacks still run.
    pub(super) ended_ms: Option<u64>,
}

impl EngineActor {
    pub(super) fn insert(
        &mut self,
        root: Id,
        machine: Workflow,
        (header, load): (Vec<u8>, Load),
        lane: Lane,
        ended_ms: Option<u64>,
    ) {
        let live = Live {
            machine,
            header,
            load,
            lane,
            ended_ms,
        };
        self.workflows.insert(root, live);
        self.engine.count_live(self.workflows.len());
    }

    pub(super) fn start_root(&self, spec: ChildSpec, resume: Resume, admission: Admission) {
        let first_slot = admission
            .first_slot
            .filter(|_| !self.engine.may_need_trial(spec.root));
        match (first_slot, self.child(spec, resume)) {
            (Some(first_slot), Some(root)) => self.engine.start_workflow(first_slot, root),
            (None, Some(root)) => root.start(&self.engine),
            (_, None) => {}
        }
    }

    pub(super) fn start_child(&self, spec: ChildSpec, resume: Resume) {
        if let Some(child) = self.child(spec, resume) {
            child.start(&self.engine);
        }
    }

    pub(super) fn child(&self, spec: ChildSpec, resume: Resume) -> Option<Box<Child>> {
        let events = self.events.as_ref()?;
        Some(Child::new(spec, resume, events.clone(), events.clone()))
    }

    /// Reads the root or a callback from the store, to restart it when its actor is lost.
    pub(super) fn stored_child(&self, root: Id, index: Index) -> Result<ChildSpec, StoreError> {
        let reader = self.engine.reader();
        let missing = || StoreError::Corrupt {
            path_or_place: format!("workflow {root}"),
            what: format!("child {index} is missing"),
        };
        let mut input = None;
        let mut since_ms = self.engine.time().steady_at(root.submitted_ms());
        for record in reader.records(root.workflow_stream()) {
            match record? {
                Record::Due { seq, input: value } if seq == index => input = Some(value),
                Record::Reached { at_ms } => since_ms = at_ms,
                _ => {}
            }
        }
        if index == ROOT {
            let header = reader.header(root)?.ok_or_else(missing)?;
            let mut spec = ChildSpec::root(root, reader.root_of(root, header)?);
            spec.since_ms = Some(since_ms);
            return Ok(spec);
        }
        let location = reader.find(root.node(index))?.ok_or_else(missing)?;
        Ok(ChildSpec::in_workflow(root, index, location.node, input))
    }

    /// Passes an event to the workflow's machine and performs its commands.
    pub(super) fn decide(
        &mut self,
        root: Id,
        event: impl FnOnce(&mut Workflow) -> Vec<Command>,
        context: &mut Context<Self>,
    ) {
        let Some(live) = self.workflows.get_mut(&root) else {
            return;
        };
        for command in event(&mut live.machine) {
            self.perform(root, command, context);
        }
    }

    pub(super) fn perform(&mut self, root: Id, command: Command, context: &mut Context<Self>) {
        match command {
            Command::Record(record) => self.engine.record(root.workflow_stream(), record),
            Command::Launch(callbacks) => {
                for callback in callbacks {
                    self.engine.record_callback(root, &callback);
                    failpoint::reach(Point::Launched);
                    self.decide(root, |machine| machine.launch(callback), context);
                }
            }
            Command::Result(outcome) => {
                let ended = Ended {
                    outcome,
                    at_ms: self.engine.steady_ms(),
                    commit: self.engine.next_commit(),
                };
                self.engine
                    .put(keys::result(root), codec::encode(Kind::Result, &ended));
                self.engine.touch(root);
                failpoint::reach(Point::Ended);
                if let Some(live) = self.workflows.get_mut(&root) {
                    live.ended_ms = Some(ended.at_ms);
                }
            }
            Command::Spawn(callback) => {
                self.start_child(ChildSpec::callback(root, callback), Resume::Fresh);
                failpoint::reach(Point::Callback);
            }
            Command::Restart(index) => restart_after_commit(&self.engine, root, index, context),
            Command::Abandon(index) => {
                let child = self.stored_child(root, index);
                match (child, &self.events) {
                    (Ok(spec), Some(events)) => events.send(ChildEvent::Ended(ChildEnded {
                        root,
                        index,
                        report: abandoned_report(&self.engine, root, &spec.node),
                    })),
                    (Err(error), _) => self.engine.halt(error.into()),
                    (Ok(_), None) => {}
                }
            }
            Command::End { forgotten } => {
                if let Err(error) = self.end_workflow(root, forgotten) {
                    self.engine.halt(error.into());
                }
            }
        }
    }

    /// Ends a workflow of which nothing is left to do, and frees its lane capacity.
    pub(super) fn end_workflow(&mut self, root: Id, forgotten: bool) -> Result<(), StoreError> {
        let Some(live) = self.workflows.remove(&root) else {
            return Ok(());
        };
        self.engine.count_live(self.workflows.len());
        self.engine.remove_pending(live.load);
        self.engine
            .finish_workflow(root, live.machine.has_callbacks());
        self.engine.end_all_updates(root);
        self.engine.delete(keys::header(root));
        if forgotten {
            self.forget_ended(root, &live.header)?;
        } else {
            let ended_ms = live.ended_ms.unwrap_or_else(|| self.engine.steady_ms());
            self.engine.put(keys::ended(ended_ms, root), live.header);
            self.sweep_later();
        }
        self.engine.touch(root);
        failpoint::reach(Point::Moved);
        self.admission.backlog.ended(live.lane);
        self.admission.has_capacity = true;
        self.note_scheduled_end(root)
    }

    /// Returns whether the store does not show yet what was decided about a workflow that is not in
    /// memory. Until the store has applied it, nothing more may be decided about the workflow.
    pub(super) fn is_in_transition(&self, root: Id) -> Result<bool, StoreError> {
        let is_decided = self.admission.moving.contains(&root)
            || self.engine.view().retention_guards.is_leaving(root);
        // A stored header without a live workflow: it has just ended, or, after a restart, is not
        // resumed yet.
        Ok(is_decided
            || self
                .engine
                .reader()
                .store()
                .get(&keys::header(root))?
                .is_some())
    }

    pub(super) fn child_ended(&mut self, ended: ChildEnded, context: &mut Context<Self>) {
        let ChildEnded {
            root,
            index,
            report,
        } = ended;
        self.decide(
            root,
            |machine| match index {
                ROOT => machine.root_ended(report),
                seq => machine.callback_ended(seq, report),
            },
            context,
        );
    }
}
