//! Recovery: resumes the workflows that were live when the store was last open.

use std::collections::{HashMap, HashSet};

use actix::{AsyncContext, Context};

use super::{Admission, EngineActor};
use crate::actors::child::Resume;
use crate::canvas::admission::pending_limit::Load;
use crate::canvas::freeze::Node;
use crate::canvas::id::{Id, Seq};
use crate::canvas::machine::Record;
use crate::canvas::machine::child_spec::ChildSpec;
use crate::canvas::machine::workflow::{ROOT, Workflow};
use crate::messages::engine::{EngineMessage, Stored, Sweep};
use crate::persistence::StoreError;
use crate::persistence::records::codec::{self, Kind};
use crate::persistence::records::definition::WorkflowHeader;
use crate::persistence::records::keys;
use crate::persistence::records::reader::History;
use crate::testing::failpoint::{self, Point};

/// The number of workflows that are resumed in one step after a restart.
const RESUMED_AT_ONCE: usize = 256;

/// The contents of a workflow's header.
pub(super) struct Submitted {
    pub(super) root: Id,
    pub(super) node: Node,
    /// The first node number that was free at the submission.
    pub(super) next: Seq,
    pub(super) load: Load,
}

/// The headers that are still to be read of the workflows that were live when the store was last
/// open.
#[derive(Debug)]
pub(super) struct Unresumed {
    /// The key of the first remaining header.
    from: Vec<u8>,
    /// The end of the key range: workflows that are submitted from now on have later keys.
    to: Vec<u8>,
    /// Workflows of the range that were admitted meanwhile and need not be resumed.
    admitted: HashSet<Id>,
    /// The number of workflows resumed so far.
    count: usize,
}

impl Unresumed {
    fn up_to(from: Vec<u8>, last: Vec<u8>) -> Self {
        let mut to = last;
        to.push(0);
        Self {
            from,
            to,
            admitted: HashSet::new(),
            count: 0,
        }
    }

    /// Notes that a workflow was admitted whose header will be under this key.
    pub(super) fn note_admitted(&mut self, root: Id, key: &[u8]) {
        if key < &*self.to {
            self.admitted.insert(root);
        }
    }
}

impl EngineActor {
    /// Finds the workflows that were live when the store was last open, and starts to resume them.
    pub(super) fn recover(&mut self, context: &mut Context<Self>) -> Result<(), StoreError> {
        let reader = self.engine.reader().clone();
        let (from, to) = keys::all(b'w');
        let last = reader.store().scan(&from, &to).next_back().transpose()?;
        self.unresumed = last.map(|(last, _)| Unresumed::up_to(from, last));
        let (from, to) = keys::all(b'e');
        if reader.store().scan(&from, &to).next().is_some() {
            context.notify(EngineMessage::Sweep(Sweep::Start));
        }
        self.recover_backlog()?;
        self.resume_some()?;
        self.recover_schedules()
    }

    /// Resumes some of the workflows that were live, and more when that is committed: the first
    /// task need not wait for the last workflow.
    pub(super) fn resume_some(&mut self) -> Result<(), StoreError> {
        let Some(mut unresumed) = self.unresumed.take() else {
            self.admit_waiting();
            self.engine
                .notify(EngineMessage::Stored(Stored::AllResumed));
            return Ok(());
        };
        let reader = self.engine.reader().clone();
        let now = self.engine.time();
        let mut histories = reader.histories();
        let mut next = None;
        for (count, pair) in reader
            .store()
            .scan(&unresumed.from, &unresumed.to)
            .enumerate()
        {
            let (key, record) = pair?;
            if count == RESUMED_AT_ONCE {
                next = Some(key);
                break;
            }
            if let Some(root) = keys::id_of(&key).filter(|root| !unresumed.admitted.contains(root))
            {
                let header = codec::decode(Kind::Head, &key, &record)?;
                let submitted = self.submitted(root, header)?;
                let admission = self.admit_live(root, &submitted.node)?;
                let since_ms = now.steady_at(root.submitted_ms());
                let history = histories.of(root)?;
                self.resume(submitted, record, history, admission, since_ms)?;
                unresumed.count += 1;
            }
        }
        match next {
            Some(from) => self.unresumed = Some(Unresumed { from, ..unresumed }),
            None => tracing::info!(count = unresumed.count, "resumed the unfinished workflows"),
        }
        self.engine.notify(EngineMessage::Stored(Stored::Resumed));
        Ok(())
    }

    pub(super) fn submitted(
        &self,
        root: Id,
        header: WorkflowHeader,
    ) -> Result<Submitted, StoreError> {
        Ok(Submitted {
            root,
            next: header.next,
            load: header.load(),
            node: self.engine.reader().root_of(root, header)?,
        })
    }

    /// Resumes a workflow from its stored state. `since_ms` is the time of its submission on the
    /// steady scale, unless its records say otherwise.
    pub(super) fn resume(
        &mut self,
        submitted: Submitted,
        header: Vec<u8>,
        history: History,
        admission: Admission,
        mut since_ms: u64,
    ) -> Result<(), StoreError> {
        let reader = self.engine.reader().clone();
        let Submitted {
            root,
            node,
            next,
            load,
        } = submitted;
        let History {
            ended_ms,
            records,
            counter,
        } = history;
        let (machine, callbacks) = Workflow::recover(ended_ms.is_some(), &records);
        self.engine.start_numbers(root, next, counter);
        self.insert(root, machine, (header, load), admission.lane, ended_ms);
        let mut inputs = HashMap::new();
        let mut changes = HashMap::new();
        for record in records {
            match record {
                Record::Due { seq, input } => drop(inputs.insert(seq, input)),
                Record::Child { index, change } => drop(changes.insert(index, change)),
                Record::Revoked { stream, index } => {
                    self.engine.mark(root, (stream, index));
                }
                Record::Reached { at_ms } => since_ms = at_ms,
                Record::Verdict(_)
                | Record::Expanded { .. }
                | Record::Offspring { .. }
                | Record::Folded { .. }
                | Record::Forgotten
                | Record::Submitted { .. }
                | Record::SubmittedBy { .. } => {}
            }
        }
        self.engine.clear_revoked_suspects(root)?;
        if ended_ms.is_none() {
            let resume = Resume::Stored(changes.remove(&ROOT));
            let mut spec = ChildSpec::root(root, node);
            spec.since_ms = Some(since_ms);
            self.start_root(spec, resume, admission);
        }
        for seq in callbacks {
            let location = reader.find(root.node(seq))?;
            let location = location.ok_or_else(|| StoreError::Corrupt {
                path_or_place: format!("workflow {root}"),
                what: format!("callback {seq} is missing"),
            })?;
            self.check_recovered_callback(root, &location)?;
            let resume = Resume::Stored(changes.remove(&seq));
            let input = inputs.remove(&seq);
            let spec = ChildSpec::in_workflow(root, seq, location.node, input);
            self.start_child(spec, resume);
        }
        failpoint::reach(Point::Resumed);
        Ok(())
    }
}
