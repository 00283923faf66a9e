//! The subtasks that a task's function starts: the task supervises them, and answers the calls that
//! wait for them.

use actix::Context;
use tokio::sync::oneshot;

use super::TaskActor;
use super::job::Job;
use crate::actors::child::{Child, Resume};
use crate::actors::commit::journal::PostCommit;
use crate::actors::dispatch::dispatcher::Ready;
use crate::actors::dispatch::permit::Permit;
use crate::actors::supervision::{abandoned_report, restart_after_commit};
use crate::canvas::machine::{Index, subtasks};
use crate::messages::supervisor::{ChildEnded, ChildEvent, ChildExited};
use crate::messages::task::StartSubtask;
use crate::persistence::StoreError;
use crate::persistence::records::definition;

impl Job {
    pub(super) fn perform_child(
        &mut self,
        command: subtasks::Command,
        context: &mut Context<TaskActor>,
    ) -> Result<(), StoreError> {
        use subtasks::Command;
        let task = self.child.id();
        let Some(activation) = &mut self.activation else {
            return Ok(());
        };
        match command {
            Command::Start {
                index,
                purpose,
                key,
                plan,
            } => {
                let first = self.engine.number(self.child.root, plan.span)?;
                let child = definition::StoredSubtask::new(task, index, purpose, key, &plan, first);
                let is_in_its_record = child.segments.is_empty();
                for (key, value) in child.segments {
                    self.engine.put(key, value);
                }
                self.engine.record(task, child.record);
                activation
                    .waiters(&self.child, context)
                    .subtasks
                    .insert(index, child.node);
                match self.child(index, Resume::Fresh) {
                    Some(child) if is_in_its_record => child.start(&self.engine),
                    // The child reads its members from the store.
                    Some(child) => self.engine.then(PostCommit::Start(child)),
                    None => {}
                }
            }
            Command::Record(record) => self.engine.record(task, record),
            Command::Launch(callbacks) => {
                let events = &activation.waiters(&self.child, context).events;
                self.engine.launch(self.child.root, callbacks, events);
            }
            Command::Spawn(index) => self.resume_child(index)?,
            Command::Restart(index) => restart_after_commit(&self.engine, task, index, context),
            Command::Abandon(index) => {
                if let Some(node) = activation
                    .waiters(&self.child, context)
                    .subtasks
                    .get(&index)
                {
                    let report = abandoned_report(&self.engine, self.child.root, node);
                    self.decide(None, context, |task| task.child_ended(index, report));
                }
            }
            Command::Answer(index, outcome) => {
                let calls = &mut activation.waiters(&self.child, context).calls;
                for (_, caller) in calls.extract_if(.., |(child, _)| *child == index) {
                    self.engine
                        .then(PostCommit::Answer(caller, outcome.clone()));
                }
            }
        }
        Ok(())
    }

    /// Starts a subtask that is on record.
    pub(super) fn resume_child(&self, index: Index) -> Result<(), StoreError> {
        let last = self.engine.reader().last_change(self.child.id(), index)?;
        if let Some(child) = self.child(index, Resume::Stored(last)) {
            child.start(&self.engine);
        }
        Ok(())
    }

    /// Returns the subtask `index`.
    pub(super) fn child(&self, index: Index, resume: Resume) -> Option<Box<Child>> {
        let activation = self.activation.as_ref()?;
        let waiters = activation.waiters.as_ref()?;
        let node = waiters.subtasks.get(&index)?;
        let purpose = activation.machine.purpose(index);
        let spec = self.child.subtask(index, node.clone(), purpose);
        let events = &waiters.events;
        Some(Child::new(spec, resume, events.clone(), events.clone()))
    }

    pub(super) fn start_subtask(
        &mut self,
        request: StartSubtask,
        context: &mut Context<TaskActor>,
    ) {
        let StartSubtask {
            attempt,
            purpose,
            key,
            plan,
            answer,
        } = request;
        let Some(activation) = &mut self.activation else {
            return;
        };
        if let Some((index, commands)) = activation
            .machine
            .start_subtask(attempt, purpose, &key, plan)
        {
            self.is_referenced = true;
            let calls = &mut activation.waiters(&self.child, context).calls;
            // The attempts of these calls are over.
            calls.retain(|(_, caller)| !caller.is_closed());
            calls.extend(answer.map(|answer| (index, answer)));
            self.perform(commands, None, context);
        }
    }

    pub(super) fn reacquire_slot(
        &mut self,
        slot: oneshot::Sender<Permit>,
        context: &mut Context<TaskActor>,
    ) {
        if let Some(activation) = &mut self.activation {
            self.is_referenced = true;
            let waiters = activation.waiters(&self.child, context);
            waiters.returning.push_back(slot);
            let own = self.child.def().options.as_deref();
            let (entry, priority) = (activation.entry, activation.options().priority);
            let slot = self.engine.slot(entry, own);
            let task = Ready::Waited(self.key);
            self.engine
                .request_slot(entry, slot, priority, task, &self.child);
        }
    }

    pub(super) fn on_events(&mut self, context: &mut Context<TaskActor>) {
        let waiters = self
            .activation
            .as_ref()
            .and_then(|activation| activation.waiters.as_ref());
        let events = waiters.map(|waiters| waiters.events.drain());
        for event in events.into_iter().flatten() {
            self.decide(None, context, |task| match event {
                ChildEvent::Ended(ChildEnded { index, report, .. }) => {
                    task.child_ended(index, report)
                }
                ChildEvent::Exited(ChildExited { index, lost, .. }) => {
                    task.child_stopped(index, lost)
                }
                ChildEvent::Launch(_) | ChildEvent::Arrived(_) => Vec::new(),
            });
        }
    }
}
