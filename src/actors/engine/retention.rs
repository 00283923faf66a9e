//! Retention: what has ended is taken away in its time, or when nobody wants it any more.

use actix::{Context, Handler, Message};
use tokio::sync::oneshot;

use super::EngineActor;
use crate::actors::journal::PostCommit;
use crate::actors::sweeper::{self, Expired, Next};
use crate::canvas::id::Id;
use crate::canvas::machine::Record;
use crate::error::{Error, Result};
use crate::failpoint::{self, Point};
use crate::messages::engine::{Stored, Sweep};
use crate::persistence::codec::{self, Kind};
use crate::persistence::definition::WorkflowHeader;
use crate::persistence::{StoreError, keys};

/// The least time from the end of a workflow to a sweep, so that one sweep takes many.
const SWEEP_AFTER_MS: u64 = 100;
/// The least time between two looks at what is kept for its handles.
const LOOK_EVERY_MS: u64 = 1_000;

/// Delete a workflow's result as soon as it has ended.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(crate) struct Forget {
    pub(crate) root: Id,
    /// Told once that is durable. It is dropped if the engine halts first.
    pub(crate) done: oneshot::Sender<Result<()>>,
}

impl EngineActor {
    /// Asks for a sweep when the retention of what ends now has ended, unless there is to be one
    /// before.
    pub(super) fn sweep_later(&mut self) {
        let now = self.shell.steady_ms();
        self.sweep_when_due(now, SWEEP_AFTER_MS);
    }

    /// As [`sweep_later`](Self::sweep_later), of what ended then, and not before `least_ms` from now.
    fn sweep_when_due(&mut self, ended_ms: u64, least_ms: u64) {
        let least = self.shell.steady_ms().saturating_add(least_ms);
        let due = ended_ms.saturating_add(self.retention_ms()).max(least);
        self.sweep_at = Some(self.sweep_at.map_or(due, |at_ms| at_ms.min(due)));
    }

    fn retention_ms(&self) -> u64 {
        u64::try_from(self.retention.as_millis()).unwrap_or(u64::MAX)
    }

    /// Takes away some of what nobody is to find any more, and goes on when the store has heard of
    /// that: it shares the thread with all else.
    pub(super) fn sweep(&mut self) {
        if std::mem::replace(&mut self.sweeping, true) {
            self.sweep_again = true;
            return;
        }
        if let Err(error) = self.try_sweep() {
            self.shell.halt(error.into());
        }
        self.set_alarm();
    }

    fn try_sweep(&mut self) -> Result<(), StoreError> {
        // (Of what was forgotten the end is set to 0.)
        let until_ms = self.shell.steady_ms().saturating_sub(self.retention_ms());
        let (reader, shared) = (self.shell.reader(), self.shell.shared());
        let expired = sweeper::expired(reader, shared, self.sweep_from.take(), until_ms)?;
        self.take_away(expired)
    }

    fn take_away(&mut self, expired: Expired) -> Result<(), StoreError> {
        let mut last = None;
        for gone in expired.gone {
            let root = gone.root;
            last = last.max(Some(root));
            self.shell.delete(gone.key);
            self.shell.delete(keys::result(root));
            self.shell.touch(root);
            for part in gone.parts {
                self.shell.delete(part);
            }
            self.free_key(root, gone.idempotency_key)?;
            if gone.more {
                let mark = codec::encode(Kind::Mark, &());
                self.shell.put(keys::garbage_marker(root), mark);
                self.shell.then(PostCommit::Purge(root));
            }
            failpoint::reach(Point::Swept);
        }
        if last.is_some() {
            // Ids go on after the latest though nothing else of it may be left.
            let last = last.max(self.shell.reader().last_id()?);
            let record = codec::encode(Kind::LastSwept, &last);
            self.shell.put(keys::LAST_SWEPT.to_vec(), record);
        }
        match expired.next {
            Next::More(from) => self.sweep_from = Some(from),
            Next::EndedAt(at_ms) => self.sweep_when_due(at_ms, LOOK_EVERY_MS),
            Next::None => {}
        }
        // What is taken away would be found again before the store has heard of it.
        self.shell.then(PostCommit::Sweep(Sweep::Done));
        Ok(())
    }

    /// The idempotency key stands for this workflow no longer.
    fn free_key(&mut self, root: Id, key: Option<String>) -> Result<(), StoreError> {
        if let Some(key) = key
            && self.earlier(&key)? == Some(root)
        {
            self.shell.delete(keys::idempotency(&key));
            self.key_stands_for(key, None);
        }
        Ok(())
    }

    /// A workflow has ended, and what is kept of it is only kept for the handles that it has: it
    /// is not found any more.
    pub(super) fn forget_ended(&mut self, root: Id, head: &[u8]) -> Result<(), StoreError> {
        self.shell.put(keys::ended(0, root), head.to_vec());
        let head: WorkflowHeader = codec::decode(Kind::Head, &keys::header(root), head)?;
        self.free_key(root, head.idempotency_key)?;
        self.shell.then(PostCommit::Sweep(Sweep::Start));
        Ok(())
    }

    fn forget(&mut self, forget: Forget, context: &mut Context<Self>) -> Result<(), StoreError> {
        let Forget { root, done } = forget;
        let reader = self.shell.reader().clone();
        if self.workflows.contains_key(&root) {
            self.decide(root, |machine| machine.forget(), context);
        } else if self.is_on_its_way(root)? {
            self.shell.then(PostCommit::Forget(Forget { root, done }));
            return Ok(());
        } else if reader.waiting(root)?.is_some() {
            self.shell.record(root.workflow_stream(), Record::Forgotten);
            // It may come in before the store shows that.
            self.forgotten.insert(root);
            self.shell.then(PostCommit::Stored(Stored::Forgotten(root)));
        } else if let Some(ended) = reader.ended(root)?
            && let key = keys::ended(ended.at_ms, root)
            && let Some(head) = reader.store().get(&key)?
        {
            self.shell.delete(key);
            self.forget_ended(root, &head)?;
        } else {
            let _ = done.send(Err(Error::UnknownId { id: root }));
            return Ok(());
        }
        self.shell.then(PostCommit::Done(done));
        Ok(())
    }
}

impl Handler<Sweep> for EngineActor {
    type Result = ();

    fn handle(&mut self, sweep: Sweep, _: &mut Context<Self>) {
        let go_on = match sweep {
            Sweep::Start => true,
            Sweep::Done => {
                self.sweeping = false;
                self.shell.shared().pins.have_left();
                self.sweep_from.is_some() || std::mem::take(&mut self.sweep_again)
            }
        };
        if go_on {
            self.sweep();
        }
    }
}

impl Handler<Forget> for EngineActor {
    type Result = ();

    fn handle(&mut self, forget: Forget, context: &mut Context<Self>) {
        if let Err(error) = self.forget(forget, context) {
            self.shell.halt(error.into());
        }
    }
}
