//! The specification of a child: what a child gets from its supervisor, and how it reports there.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::fold_run::{Run, run_index};
use super::workflow::ROOT;
use super::{BODY, Index, PendingCallback, Purpose, Report};
use crate::canvas::freeze::{Def, Node, TaskDef};
use crate::canvas::id::Id;
use crate::canvas::outcome::{FailureKind, TaskFailure, Value};

/// A node that is to run, with its position in the workflow.
#[derive(Clone, Debug)]
pub(crate) struct ChildSpec {
    pub(crate) root: Id,
    pub(crate) node: Node,
    /// The value from upstream.
    pub(crate) input: Option<Value>,
    /// The outcomes that the function of a fold takes in.
    pub(crate) run: Option<Arc<Run>>,
    /// The supervisor, in whose stream its progress is recorded.
    pub(crate) stream: Id,
    /// Its index among the children of the supervisor.
    pub(crate) index: Index,
    /// The group or chord that it is a member of.
    pub(crate) group: Option<Id>,
    /// When the child could have started if it had not had to wait, in milliseconds on the steady
    /// scale.
    pub(crate) since_ms: Option<u64>,
}

/// The ids that a task can ask for.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct TaskIds {
    pub(crate) id: Id,
    pub(crate) parent: Option<Id>,
    pub(crate) group: Option<Id>,
}

impl ChildSpec {
    /// Returns the root of workflow `root`.
    pub(crate) fn root(root: Id, node: Node) -> Self {
        Self::in_workflow(root, ROOT, node, None)
    }

    /// Returns a callback of workflow `root`.
    pub(crate) fn callback(root: Id, PendingCallback { node, input }: PendingCallback) -> Self {
        Self::in_workflow(root, node.seq, node, Some(input))
    }

    /// Returns the root or a callback: a child of the workflow itself.
    pub(crate) fn in_workflow(root: Id, index: Index, node: Node, input: Option<Value>) -> Self {
        Self {
            root,
            node,
            input,
            run: None,
            stream: root.workflow_stream(),
            index,
            group: None,
            since_ms: None,
        }
    }

    /// Returns step `index` of this chain.
    pub(crate) fn step(&self, index: Index, input: Option<Value>) -> Self {
        let steps = self.steps();
        let is_last = index as usize + 1 == steps.len();
        let mut step = self.child(index, steps[index as usize].clone(), input);
        // The last step has the chain's outcome, so it is a member of the chain's group.
        step.group = self.group.filter(|_| is_last);
        step.since_ms = self.since_ms.filter(|_| index == 0);
        step
    }

    /// Returns member `index` of `group`, or of the header of that chord.
    pub(crate) fn member(group: Id, index: Index, node: Node, input: Option<Value>) -> Self {
        Self {
            root: group.root(),
            node,
            input,
            run: None,
            stream: group,
            index,
            group: Some(group),
            since_ms: None,
        }
    }

    /// Returns the body of this chord.
    pub(crate) fn body(&self, list: Value) -> Self {
        let Def::Chord { body, .. } = &self.node.def else {
            unreachable!("only a chord has a body")
        };
        let mut child = self.child(BODY, (**body).clone(), Some(list));
        child.group = self.group;
        child
    }

    /// Returns the function of this fold, for one run.
    pub(crate) fn fold_run(&self, run: Run) -> Self {
        let Def::Fold { body, .. } = &self.node.def else {
            unreachable!("only a fold has runs")
        };
        let mut body = (**body).clone();
        // Only the first run waits for an eta.
        if let (Def::Task(def), 1..) = (&mut body.def, run.first)
            && let Some(options) = &mut def.options
        {
            (options.eta, options.expires) = (None, None);
        }
        let mut child = self.child(run_index(run.first), body, None);
        child.group = self.group;
        child.run = Some(Arc::new(run));
        child
    }

    /// Returns the subtask that this task has started as number `index`.
    pub(crate) fn subtask(&self, index: Index, node: Node, purpose: Option<Purpose>) -> Self {
        let mut child = self.child(index, node, None);
        // A replacement or an addition is a member of the group, like the task itself.
        child.group = match purpose {
            Some(Purpose::Replacement | Purpose::Addition) => self.group,
            _ => None,
        };
        child
    }

    fn child(&self, index: Index, node: Node, input: Option<Value>) -> Self {
        Self {
            root: self.root,
            node,
            input,
            run: None,
            stream: self.id(),
            index,
            group: None,
            since_ms: None,
        }
    }

    /// Returns its own id, which is the stream of its children.
    pub(crate) fn id(&self) -> Id {
        self.root.node(self.node.seq)
    }

    /// Returns the chain, group, chord or task that it is a child of; for a callback the root.
    pub(crate) fn parent(&self) -> Option<Id> {
        let parent = match self.stream {
            stream if stream == self.root.workflow_stream() => self.root,
            stream => stream,
        };
        (parent != self.id()).then_some(parent)
    }

    pub(crate) fn task_ids(&self) -> TaskIds {
        TaskIds {
            id: self.id(),
            parent: self.parent(),
            group: self.group,
        }
    }

    /// Returns the task that is to be called.
    pub(crate) fn def(&self) -> &TaskDef {
        match &self.node.def {
            Def::Task(def) => def,
            _ => unreachable!("only a task is called"),
        }
    }

    /// Returns the steps of this chain.
    pub(crate) fn steps(&self) -> &[Node] {
        match &self.node.def {
            Def::Chain(steps) => steps,
            _ => unreachable!("only a chain has steps"),
        }
    }

    /// Says whether it is an errback: a callback that is given a failure.
    pub(crate) fn is_errback(&self) -> bool {
        let is_callback = self.stream == self.root.workflow_stream() && self.index != ROOT;
        match &self.input {
            Some(Value::Inline(input)) if is_callback => input.decode::<TaskFailure>().is_ok(),
            _ => false,
        }
    }

    /// Returns a failure of this node that is not of its function: of chordal itself, or of the types.
    pub(crate) fn failure(&self, kind: FailureKind, message: &str) -> Box<TaskFailure> {
        TaskFailure::new(kind, self.id(), self.node.name(), 1, message)
    }

    /// Adds the callbacks of this node to its report. `of_last`: the report is that of its last
    /// child.
    pub(crate) fn final_report(&self, mut report: Report, of_last: bool) -> Report {
        report.add_callbacks(&self.node, of_last);
        report
    }
}
