//! A place in a workflow: what a child gets from its supervisor, and how its last word reads there.

use std::sync::Arc;

use super::fold::{Run, run_index};
use super::workflow::ROOT;
use super::{BODY, Index, PendingCallback, Purpose, Report};
use crate::canvas::freeze::{Def, Node, TaskDef};
use crate::canvas::id::Id;
use crate::canvas::outcome::{FailureKind, TaskFailure, Value};

/// A node that is to run, and all that it knows of where it stands.
#[derive(Clone, Debug)]
pub(crate) struct ChildSpec {
    pub(crate) root: Id,
    pub(crate) node: Node,
    /// The value from upstream.
    pub(crate) input: Option<Value>,
    /// What a fold's function is to take in.
    pub(crate) run: Option<Arc<Run>>,
    /// The supervisor that records what it does.
    pub(crate) stream: Id,
    /// Which of the supervisor's children it is.
    pub(crate) index: Index,
    /// The group or chord it is a member of.
    pub(crate) group: Option<Id>,
    /// When it could have started, if it had to wait for its turn since: milliseconds on the steady
    /// scale.
    pub(crate) since_ms: Option<u64>,
}

/// What a task is told of its place.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TaskIds {
    pub(crate) id: Id,
    pub(crate) parent: Option<Id>,
    pub(crate) group: Option<Id>,
}

impl ChildSpec {
    /// The root of workflow `root`.
    pub(crate) fn root(root: Id, node: Node) -> Self {
        Self::in_workflow(root, ROOT, node, None)
    }

    /// A callback of workflow `root`.
    pub(crate) fn callback(root: Id, PendingCallback { node, input }: PendingCallback) -> Self {
        Self::in_workflow(root, node.seq, node, Some(input))
    }

    /// The root or a callback: a child of the workflow itself.
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

    /// Step `index` of this chain.
    pub(crate) fn step(&self, index: Index, input: Option<Value>) -> Self {
        let steps = self.steps();
        let is_last = index as usize + 1 == steps.len();
        let mut step = self.child(index, steps[index as usize].clone(), input);
        // Whose outcome is the chain's is a member of the chain's group.
        step.group = self.group.filter(|_| is_last);
        step.since_ms = self.since_ms.filter(|_| index == 0);
        step
    }

    /// Member `index` of `group`, or of the header of that chord.
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

    /// The body of this chord.
    pub(crate) fn body(&self, list: Value) -> Self {
        let Def::Chord { body, .. } = &self.node.def else {
            unreachable!("only a chord has a body")
        };
        let mut child = self.child(BODY, (**body).clone(), Some(list));
        child.group = self.group;
        child
    }

    /// The function of this fold, for one run.
    pub(crate) fn fold_run(&self, run: Run) -> Self {
        let Def::Fold { body, .. } = &self.node.def else {
            unreachable!("only a fold has runs")
        };
        let mut body = (**body).clone();
        // It has waited for its time once.
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

    /// What this task has started as number `index`.
    pub(crate) fn subtask(&self, index: Index, node: Node, purpose: Option<Purpose>) -> Self {
        let mut child = self.child(index, node, None);
        // Whoever takes its place, or stands beside it, is a member as it is.
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

    /// Its own id, under which its children record.
    pub(crate) fn id(&self) -> Id {
        self.root.node(self.node.seq)
    }

    /// The chain, group, chord or task it is a child of; a callback's is the root.
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

    /// The task that is to be called here.
    pub(crate) fn def(&self) -> &TaskDef {
        match &self.node.def {
            Def::Task(def) => def,
            _ => unreachable!("only a task is called"),
        }
    }

    /// The steps of this chain.
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

    /// A failure of chordal itself, or of the types, in its place.
    pub(crate) fn failure(&self, kind: FailureKind, message: &str) -> Box<TaskFailure> {
        TaskFailure::new(kind, self.id(), self.node.name(), 1, message)
    }

    /// Its last word: this, and the callbacks that it calls for. `of_last`: it is what its last
    /// child said.
    pub(crate) fn final_report(&self, mut report: Report, of_last: bool) -> Report {
        report.add_callbacks(&self.node, of_last);
        report
    }
}
