//! Tasks that do not run: parked because this build cannot run them, discarded, in quarantine, or
//! revoked.

use actix::Context;

use super::TaskActor;
use super::job::{Activation, Job};
use crate::actors::child::Resume;
use crate::actors::execute::call;
use crate::canvas::Mode;
use crate::canvas::machine::task::Task;
use crate::canvas::outcome::{FailureKind, Outcome};
use crate::canvas::parked::{Misfit, ParkedTask};
use crate::canvas::quarantine::SuspectStatus;
use crate::canvas::quarantine::policy::Released;

impl Job {
    /// Checks whether the task is revoked, before each other event, so that no decision after the
    /// mark ignores it.
    pub(super) fn check_revoked(&mut self, context: &mut Context<TaskActor>) {
        let is_revoked = |activation: &Activation| activation.machine.is_revoked();
        if self.activation.as_ref().is_some_and(is_revoked)
            || !self
                .engine
                .observe_revocation(self.child.root, self.child.path())
        {
            return;
        }
        if self.activation.is_some() {
            return self.decide(None, context, Task::revoked);
        }
        // The task was just assigned, or is parked.
        self.child.revoke();
        self.is_over = true;
    }

    /// Parks the task, which cannot run. The log contains `what`, and none of its arguments.
    pub(super) fn park(&mut self, reason: &str, what: &str, context: &mut Context<TaskActor>) {
        let (id, name) = (self.child.id(), &self.child.def().name);
        tracing::warn!(%id, %name, reason = what, "parked");
        self.is_parked = true;
        let task = ParkedTask::new(id, name, reason);
        self.engine.view().park(task, self.key);
        if self.engine.is_discarded(id) {
            self.discard_parked(reason, context);
        }
    }

    /// Returns whether the function has never been called.
    pub(super) fn is_untouched(&self) -> bool {
        match &self.child.resume {
            Resume::Fresh | Resume::Stored(None) => true,
            Resume::Stored(Some(last)) => last.awaited().is_some_and(|(past, _)| past.attempt == 0),
        }
    }

    /// Makes a parked task fail.
    pub(super) fn discard_parked(&mut self, reason: &str, context: &mut Context<TaskActor>) {
        if self.engine.is_discarded(self.child.id()) {
            // (Its record is deleted when the task has ended.)
            self.suspicion = SuspectStatus::Discarded;
        }
        let message = format!("discarded; it was parked: {reason}");
        let kind = match self.engine.entry(&self.child.def().name) {
            Some(_) => FailureKind::Type,
            None => FailureKind::NotRegistered,
        };
        let failure = self.child.failure(kind, &message);
        let attempt = self
            .activation
            .as_ref()
            .map_or(0, |activation| activation.machine.attempt());
        call::log_failed(&self.child, attempt, kind, false);
        if self.activation.is_some() {
            return self.decide(None, context, |task| task.discarded(failure));
        }
        self.child.report(&self.engine, Outcome::Failure(failure));
        self.is_over = true;
    }

    /// Returns whether the workflow is at fault for a misfit, and not a task that has changed since
    /// the submission. Then the task fails, as Celery's does with a `TypeError`. The workflow is at
    /// fault if this process has submitted it, so that this build wrote its arguments; and where an
    /// untyped canvas passes on a value from upstream, or a retry its arguments, which the compiler
    /// has not checked.
    pub(super) fn is_workflow_at_fault(&self, misfit: Misfit) -> bool {
        if self.engine.is_of_this_session(self.child.root) {
            return true;
        }
        let Some(activation) = &self.activation else {
            return false;
        };
        let def = self.child.def();
        let is_from_retry = activation.machine.has_given_args();
        let is_from_upstream =
            misfit == Misfit::First && def.takes_upstream && self.child.input.is_some();
        let is_passed_on = is_from_retry || is_from_upstream || self.child.run.is_some();
        is_passed_on && def.mode == Mode::OnceUntyped
    }

    /// Runs or fails the task after its release from quarantine, or fails a parked one.
    pub(super) fn released(&mut self, released: Released, context: &mut Context<TaskActor>) {
        if self.is_parked && released == Released::ToFail {
            let parked = self.engine.view().unpark(self.child.id(), self.key);
            let reason = parked.map_or_else(String::new, |task| task.reason);
            return self.discard_parked(&reason, context);
        }
        if self.suspicion == SuspectStatus::Quarantined {
            self.suspicion = match released {
                Released::ToRun => SuspectStatus::Watched,
                Released::ToFail => SuspectStatus::Discarded,
            };
            self.request(context);
        }
    }

    pub(super) fn discard(&mut self, context: &mut Context<TaskActor>) {
        let Some(suspect) = self.engine.suspect(self.child.id()) else {
            return;
        };
        let crashes = suspect.crashes;
        if crashes == 0 {
            return self.discard_parked("an earlier build could not run it", context);
        }
        let why = format!("the process ended {crashes} times while it was running");
        let mut failure = self.child.failure(FailureKind::Quarantined, &why);
        failure.attempt = suspect.attempt;
        call::log_failed(&self.child, suspect.attempt, failure.kind, false);
        self.decide(None, context, |task| task.discarded(failure));
    }

    /// Clears the task: it or its attempt has ended without ending the process.
    pub(super) fn clear(&mut self) {
        if std::mem::replace(&mut self.suspicion, SuspectStatus::Free) != SuspectStatus::Free {
            self.engine.clear_suspect(self.child.id());
        }
    }

    /// Ends the task's trial: the tasks that it waits for must be able to run.
    pub(super) fn end_trial(&self) {
        if self.suspicion == SuspectStatus::Watched {
            self.engine.end_trial(self.child.id());
        }
    }
}
