//! The engine's notes on each live workflow: its node numbers, and which of its records are
//! superseded.

use std::cell::RefCell;
use std::collections::HashMap;

use super::EngineContext;
use super::attempts::Superseded;
use crate::canvas::id::{Id, Seq};
use crate::canvas::machine::Record;
use crate::persistence::StoreError;
use crate::persistence::records::codec::{self, Kind};
use crate::persistence::records::keys;

/// Notes on the live workflows.
#[derive(Debug, Default)]
pub(super) struct Workflows {
    /// The node numbers of each live workflow.
    numbers: RefCell<HashMap<Id, Numbers>>,
    /// By workflow: the commit that holds the records of its own children, as long as that is only
    /// one.
    starts: RefCell<HashMap<Id, Option<u64>>>,
    pub(super) superseded: RefCell<Superseded>,
}

/// The node numbers of a workflow.
#[derive(Clone, Copy, Debug)]
struct Numbers {
    /// The first free number.
    next: Seq,
    /// Numbers were assigned after the submission, to subtasks or to the members of an `each()`.
    has_more: bool,
}

impl EngineContext {
    /// Adds a record to the stream of supervisor `stream`.
    pub(crate) fn record(&self, stream: Id, record: Record) {
        if stream == stream.workflow_stream() {
            let commit = self.next_commit();
            let mut starts = self.0.workflows.starts.borrow_mut();
            let only = starts.entry(stream.root()).or_insert(Some(commit));
            only.take_if(|only| *only != commit);
        }
        self.add(|journal| journal.record(stream, record));
    }

    /// Assigns `count` node numbers of workflow `root`; returns the first.
    pub(crate) fn number(&self, root: Id, count: u64) -> Result<Seq, StoreError> {
        let mut numbers = self.0.workflows.numbers.borrow_mut();
        let numbers = numbers.get_mut(&root).ok_or_else(|| StoreError::Corrupt {
            path_or_place: format!("workflow {root}"),
            what: "a task starts a subtask in a workflow that has ended".to_owned(),
        })?;
        let first = numbers.next;
        let next = first + count;
        *numbers = Numbers {
            next,
            has_more: true,
        };
        self.put(keys::counter(root), codec::encode(Kind::Counter, &next));
        Ok(first)
    }

    /// Removes the state of a workflow that has ended. Without callbacks, the record that its root
    /// was started is not needed any more, and mostly the store still has it only in its log.
    pub(crate) fn finish_workflow(&self, root: Id, has_callbacks: bool) {
        self.0.workflows.numbers.borrow_mut().remove(&root);
        self.0.workflows.superseded.borrow_mut().remove(&root);
        // (A revocation reads that record.)
        let is_asked = self.has_revoked() && self.0.revocations.borrow_mut().forget(root);
        // Tasks that were not recovered are still suspects: they were revoked, or their workflow
        // failed before.
        self.suspects_of(root)
            .into_iter()
            .for_each(|id| self.clear_absent(id));
        let start = self.0.workflows.starts.borrow_mut().remove(&root).flatten();
        if let Some(commit) = start
            && !has_callbacks
            && !is_asked
        {
            self.delete(keys::segment(root.workflow_stream(), commit, 0));
        }
    }

    /// Starts the numbering of a workflow after the nodes of its submission, and after those that
    /// the store counts.
    pub(crate) fn start_numbers(&self, root: Id, submitted: Seq, counted: Option<Seq>) {
        let numbers = Numbers {
            next: counted.unwrap_or(submitted),
            has_more: counted.is_some(),
        };
        self.0.workflows.numbers.borrow_mut().insert(root, numbers);
    }

    /// Returns whether tasks of this workflow may have started subtasks.
    pub(crate) fn has_subtasks(&self, root: Id) -> bool {
        let numbers = self.0.workflows.numbers.borrow();
        numbers.get(&root).is_some_and(|numbers| numbers.has_more)
    }
}
