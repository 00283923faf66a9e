//! Finds a node by its id, from the root down.

use std::sync::Arc;

use super::{MemberCursor, Reader};
use crate::canvas::freeze::{Callbacks, Def, FanOutDef, Node};
use crate::canvas::id::{Id, Seq, WORKFLOW_STREAM};
use crate::canvas::machine::workflow::ROOT;
use crate::canvas::machine::{BODY, Index, Purpose, Record};
use crate::canvas::revocation::NodeKey;
use crate::persistence::StoreError;

/// A node, and its path: its index among the children of each supervisor above it.
#[derive(Clone, Debug)]
pub(crate) struct NodeLocation {
    pub(crate) node: Node,
    /// From the root down; the last step is the node itself.
    pub(super) path: Vec<Step>,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Step {
    /// The node in whose stream the child is recorded.
    pub(super) stream: Seq,
    pub(super) index: Index,
    /// The child's own number.
    pub(super) seq: Seq,
    pub(super) link: Link,
}

/// The relation of a child's outcome to that of its supervisor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Link {
    /// One of several children that the supervisor waits for.
    Part,
    /// The child's outcome is the supervisor's outcome, and recorded only there.
    Last,
    /// None: a callback, or a call of a task. It runs or not, whatever the outcome of the other
    /// node.
    Aside,
}

impl NodeLocation {
    /// Returns whether node `seq` of the same workflow cannot end before this one: it is this one,
    /// or it contains this one as a part.
    pub(crate) fn is_part_of(&self, seq: Seq) -> bool {
        let from_below = self.path.iter().rev();
        let mut parts = from_below.take_while(|step| step.link != Link::Aside);
        self.node.seq == seq || parts.any(|step| step.stream == seq)
    }
}

impl Reader {
    /// Finds a node by its id.
    pub(crate) fn find(&self, id: Id) -> Result<Option<NodeLocation>, StoreError> {
        let (Some(header), Some(root)) = (self.header(id.root())?, self.root(id.root())?) else {
            return Ok(None);
        };
        Search {
            reader: self,
            target: id,
            dynamic: id.seq() >= header.next,
        }
        .run(root)
    }

    /// Returns the children of a node, in order: the members of a group, the steps of a chain, the
    /// subtasks and callbacks of a task. Those of a chord are its members and its body; a body that
    /// is a task shares the chord's handle, so that its own children count as the chord's. The same
    /// holds for a fold.
    pub(crate) fn children(
        &self,
        root: Id,
        parent: &NodeLocation,
    ) -> Result<Vec<NodeLocation>, StoreError> {
        let root = root.root();
        let seq = parent.node.seq;
        match &parent.node.def {
            Def::Task(_) => self.started_by(root, parent),
            Def::Chain(steps) => Ok(steps
                .iter()
                .enumerate()
                .map(|(i, node)| {
                    let link = link_at(i, steps.len());
                    parent.child(seq, i as Index, link, node.clone())
                })
                .collect()),
            Def::Group(fan) => self.members_of(root, parent, fan),
            Def::Chord { header, body } | Def::Fold { header, body, .. } => {
                let mut children = self.members_of(root, parent, header)?;
                let body = parent.child(seq, BODY, Link::Last, Node::clone(body));
                match body.node.def {
                    Def::Task(_) => children.extend(self.started_by(root, &body)?),
                    _ => children.push(body),
                }
                Ok(children)
            }
        }
    }

    /// Returns the node that has this one among its [`children`](Self::children); `None` for a
    /// root.
    pub(crate) fn parent(
        &self,
        root: Id,
        of: &NodeLocation,
    ) -> Result<Option<NodeLocation>, StoreError> {
        let Some(above) = of.path.len().checked_sub(2) else {
            return Ok(None);
        };
        let step = &of.path[above];
        let location = self.find(root.node(step.seq))?;
        match location {
            Some(location) if step.index == BODY && matches!(location.node.def, Def::Task(_)) => {
                self.parent(root, &location)
            }
            location => Ok(location),
        }
    }

    /// Returns the workflows that a task has submitted, in order; some may have been removed.
    pub(crate) fn submitted_by(&self, task: Id) -> Result<Vec<Id>, StoreError> {
        let roots = self.records(task).filter_map(|record| match record {
            Ok(Record::Submitted { root }) => Some(Ok(root)),
            Ok(_) => None,
            Err(error) => Some(Err(error)),
        });
        roots.collect()
    }

    /// Returns the task that has submitted a workflow, if one did; it may have been removed.
    pub(crate) fn submitter(&self, root: Id) -> Result<Option<Id>, StoreError> {
        for record in self.records(root.origin_stream()) {
            if let Record::SubmittedBy { task } = record? {
                return Ok(Some(task));
            }
        }
        Ok(None)
    }

    /// Returns what a task has started within its workflow, or may start: its callbacks, then its
    /// calls, its additions to its chord and its replacement.
    fn started_by(&self, root: Id, task: &NodeLocation) -> Result<Vec<NodeLocation>, StoreError> {
        let seq = task.node.seq;
        let callbacks = task.node.callbacks.clone();
        let callbacks = callbacks
            .into_iter()
            .flat_map(|callbacks| all_of(*callbacks));
        let callbacks =
            callbacks.map(|node| task.child(WORKFLOW_STREAM, node.seq, Link::Aside, node));
        let subtasks = self.subtasks(root.node(seq))?.into_iter();
        let subtasks =
            subtasks.map(|(index, purpose, node)| task.child(seq, index, link_of(purpose), node));
        Ok(callbacks.chain(subtasks).collect())
    }

    fn members_of(
        &self,
        root: Id,
        of: &NodeLocation,
        fan: &FanOutDef,
    ) -> Result<Vec<NodeLocation>, StoreError> {
        let seq = of.node.seq;
        let group = root.node(seq);
        let Some((first, size)) = self.expansion(group, fan)? else {
            return Ok(Vec::new());
        };
        let mut cursor = MemberCursor::new(group, first);
        let member = |i| Ok(of.child(seq, i, Link::Part, cursor.get(self, fan, i)?));
        (0..size).map(member).collect()
    }

    /// Returns the members of the group whose list is the value of a node; `None` if the value is
    /// not a group's list.
    pub(crate) fn members(
        &self,
        root: Id,
        of: &NodeLocation,
    ) -> Result<Option<Vec<NodeLocation>>, StoreError> {
        let group = self.last_group(root, of)?;
        group.map(|group| self.children(root, &group)).transpose()
    }

    /// Returns the group whose list is the value of a node, also a group that replaced a task.
    pub(crate) fn last_group(
        &self,
        root: Id,
        of: &NodeLocation,
    ) -> Result<Option<NodeLocation>, StoreError> {
        self.last(root, of, |def| matches!(def, Def::Group(_)))
    }

    /// Returns the chord or fold whose value is the value of a node, also one that replaced a task.
    pub(crate) fn last_chord(
        &self,
        root: Id,
        of: &NodeLocation,
    ) -> Result<Option<NodeLocation>, StoreError> {
        let is_chord = |def: &Def| matches!(def, Def::Chord { .. } | Def::Fold { .. });
        self.last(root, of, is_chord)
    }

    /// Returns the first node that matches, from a node on down to the one whose value it has.
    fn last(
        &self,
        root: Id,
        of: &NodeLocation,
        is_it: impl Fn(&Def) -> bool,
    ) -> Result<Option<NodeLocation>, StoreError> {
        let mut location = of.clone();
        while !is_it(&location.node.def) {
            location = match self.last_child(root, location)? {
                Some(last) => last,
                None => return Ok(None),
            };
        }
        Ok(Some(location))
    }

    /// Returns the child whose value is the value of a node, if one child's is.
    fn last_child(
        &self,
        root: Id,
        mut location: NodeLocation,
    ) -> Result<Option<NodeLocation>, StoreError> {
        let seq = location.node.seq;
        let (index, node) = match location.node.def {
            Def::Task(_) => match self.replacement(root.node(seq))? {
                Some((index, node)) => (index, node),
                None => return Ok(None),
            },
            Def::Chain(mut steps) => match (steps.len(), steps.pop()) {
                (len, Some(last)) => (len as Index - 1, last),
                (_, None) => return Ok(None),
            },
            Def::Chord { body, .. } => (BODY, Arc::unwrap_or_clone(body)),
            Def::Group(_) | Def::Fold { .. } => return Ok(None),
        };
        location.path.push(Step::of(seq, index, Link::Last, &node));
        location.node = node;
        Ok(Some(location))
    }
}

impl NodeLocation {
    fn child(&self, stream: Seq, index: Index, link: Link, node: Node) -> Self {
        let mut path = self.path.clone();
        path.push(Step::of(stream, index, link, &node));
        Self { node, path }
    }

    /// Returns the task that this node is, or that is its body: the workflows that the body submits
    /// are children of this node's handle.
    pub(crate) fn task(&self) -> Option<Seq> {
        match &self.node.def {
            Def::Task(_) => Some(self.node.seq),
            Def::Chord { body, .. } | Def::Fold { body, .. } => {
                matches!(body.def, Def::Task(_)).then_some(body.seq)
            }
            Def::Chain(_) | Def::Group(_) => None,
        }
    }

    /// Returns the streams that may decide this node's outcome: those of its supervisor and of the
    /// supervisors above, the workflow's stream last.
    pub(crate) fn decided_in(&self, root: Id) -> Vec<Id> {
        self.path
            .iter()
            .map(|step| root.node(step.stream))
            .collect()
    }
}

fn all_of(callbacks: Callbacks) -> impl Iterator<Item = Node> {
    callbacks.link.into_iter().chain(callbacks.link_error)
}

/// Returns the relation of a subtask to its task.
fn link_of(purpose: Purpose) -> Link {
    match purpose {
        Purpose::Replacement => Link::Last,
        Purpose::Call | Purpose::Addition => Link::Aside,
    }
}

/// Returns the relation of step `i` of `len` to its chain.
fn link_at(i: usize, len: usize) -> Link {
    if i + 1 == len { Link::Last } else { Link::Part }
}

/// A search for one node, from the root down; not recursive, because subtasks may be nested
/// thousands deep.
struct Search<'a> {
    reader: &'a Reader,
    target: Id,
    /// The target was numbered at run time, so it may be within any `each()`, or in any task.
    dynamic: bool,
}

type Child = Result<(Step, Node), StoreError>;

impl<'a> Search<'a> {
    fn run(&self, root: Node) -> Result<Option<NodeLocation>, StoreError> {
        let mut path = vec![Step::of(WORKFLOW_STREAM, ROOT, Link::Part, &root)];
        // The unvisited children of each node on the path.
        let mut open = Vec::new();
        let mut node = root;
        while node.seq != self.target.seq() {
            open.push(self.children(node)?);
            let (step, next) = loop {
                let Some(children) = open.last_mut() else {
                    return Ok(None);
                };
                match children.next() {
                    Some(child) => break child?,
                    None => drop(open.pop()),
                }
            };
            path.truncate(open.len());
            path.push(step);
            node = next;
        }
        Ok(Some(NodeLocation { node, path }))
    }

    /// Returns the children that may be, or contain, the target.
    fn children(&self, node: Node) -> Result<Box<dyn Iterator<Item = Child> + 'a>, StoreError> {
        let seq = node.seq;
        let callbacks = node
            .callbacks
            .into_iter()
            .flat_map(|callbacks| all_of(*callbacks).map(|node| Ok((Step::callback(&node), node))));
        Ok(match node.def {
            Def::Task(_) if !self.dynamic => Box::new(callbacks),
            Def::Task(_) => {
                let subtasks = self.reader.subtasks(self.target.node(seq))?;
                let subtasks = subtasks.into_iter().map(move |(index, purpose, node)| {
                    Ok((Step::of(seq, index, link_of(purpose), &node), node))
                });
                Box::new(callbacks.chain(subtasks))
            }
            Def::Chain(steps) => {
                let len = steps.len();
                let steps = steps.into_iter().enumerate().map(move |(i, node)| {
                    let step = Step::of(seq, i as Index, link_at(i, len), &node);
                    Ok((step, node))
                });
                Box::new(callbacks.chain(steps))
            }
            Def::Group(fan) => Box::new(callbacks.chain(self.members(seq, fan)?)),
            Def::Chord { header, body } | Def::Fold { header, body, .. } => {
                let body = Arc::unwrap_or_clone(body);
                let body = std::iter::once(Ok((Step::of(seq, BODY, Link::Last, &body), body)));
                Box::new(callbacks.chain(self.members(seq, header)?).chain(body))
            }
        })
    }

    fn members(
        &self,
        seq: Seq,
        fan: FanOutDef,
    ) -> Result<impl Iterator<Item = Child> + use<'a>, StoreError> {
        let reader = self.reader;
        let group = self.target.node(seq);
        let errbacks = fan.own_errbacks().to_vec().into_iter();
        let errbacks = errbacks.map(|node| Ok((Step::callback(&node), node)));
        let expansion = reader.expansion(group, &fan)?;
        // Members are numbered in order, so a node numbered at submission is in the last member
        // that starts below it; a node numbered at run time may be in any.
        let (likely, others, first) = match expansion {
            Some((first, size)) => {
                let others = if self.dynamic { 0..size } else { 0..0 };
                (self.last_below(group, &fan, first, size)?, others, first)
            }
            None => (None, 0..0, 0),
        };
        let mut cursor = MemberCursor::new(group, first);
        let members = likely.into_iter().chain(others).map(move |index| {
            let member = cursor.get(reader, &fan, index)?;
            Ok((Step::of(seq, index, Link::Part, &member), member))
        });
        Ok(errbacks.chain(members))
    }

    /// Returns the last member whose own number is not above the target's.
    fn last_below(
        &self,
        group: Id,
        fan: &FanOutDef,
        first: Seq,
        size: u64,
    ) -> Result<Option<u64>, StoreError> {
        let (mut low, mut high) = (0, size);
        while low < high {
            let middle = low + (high - low) / 2;
            let member = self.reader.fan_member(group, fan, first, middle)?;
            if member.seq <= self.target.seq() {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        Ok(low.checked_sub(1))
    }
}

impl Step {
    pub(super) fn node_key(&self) -> NodeKey {
        (self.stream, self.index)
    }

    fn callback(node: &Node) -> Self {
        Self::of(WORKFLOW_STREAM, node.seq, Link::Aside, node)
    }

    fn of(stream: Seq, index: Index, link: Link, node: &Node) -> Self {
        Self {
            stream,
            index,
            seq: node.seq,
            link,
        }
    }
}
