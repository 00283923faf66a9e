//! Values and callbacks as they are recorded.

use super::EngineContext;
use crate::actors::event_queue::EventQueue;
use crate::canvas::id::Id;
use crate::canvas::machine::PendingCallback;
use crate::canvas::outcome::{Outcome, Value};
use crate::messages::supervisor::{ChildEvent, Launch};
use crate::persistence::records::commit_builder;
use crate::testing::failpoint::{self, Point};

impl EngineContext {
    /// Records that these callbacks are to run, and sends them to the engine, unless the supervisor
    /// is revoked. `caller` is the queue of the supervisor whose children launch them.
    pub(crate) fn launch(&self, root: Id, callbacks: Vec<PendingCallback>, caller: &EventQueue) {
        if self.observe_revocation(root, caller.path()) {
            return;
        }
        for callback in callbacks {
            self.record_callback(root, &callback);
            failpoint::reach(Point::Launched);
            if let Some(engine) = self.0.engine.get() {
                engine
                    .events
                    .send(ChildEvent::Launch(Box::new(Launch { root, callback })));
            }
        }
    }

    pub(crate) fn record_callback(&self, root: Id, callback: &PendingCallback) {
        self.record(
            root.workflow_stream(),
            commit_builder::callback_record(callback),
        );
    }

    /// Returns the outcome as it is recorded: a value too large for its record is stored under keys
    /// of its own.
    pub(crate) fn spill(&self, node: Id, outcome: Outcome) -> Outcome {
        match outcome {
            Outcome::Success(value) => {
                let put = &mut |key, part| self.put(key, part);
                Outcome::Success(commit_builder::spill(node, value, put))
            }
            outcome => outcome,
        }
    }

    /// As [`spill`](Self::spill), for the accumulator of a fold.
    pub(crate) fn spill_acc(&self, body: Id, acc: Value) -> Value {
        commit_builder::spill_acc(body, acc, &mut |key, part| self.put(key, part))
    }

    /// As [`spill`](Self::spill), for the arguments of a retry.
    pub(crate) fn spill_args(&self, node: Id, args: Value) -> Value {
        commit_builder::spill_args(node, args, &mut |key, part| self.put(key, part))
    }
}
