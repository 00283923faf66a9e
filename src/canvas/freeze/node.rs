//! The nodes of a frozen canvas, as they are stored.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::canvas::depth::nested;
use crate::canvas::form::{Mode, Order};
use crate::canvas::group_policy::GroupPolicy;
use crate::canvas::id::Seq;
use crate::canvas::name::Name;
use crate::canvas::options::Options;
use crate::canvas::outcome::Value;
use crate::canvas::payload::Payload;
use crate::canvas::stamps::Stamps;

/// One stored node of a workflow: a task, chain, group or chord.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Node {
    /// Numbered depth first, in order: a node's number is below the numbers of all nodes within it,
    /// and those are below the number of its next sibling.
    pub(crate) seq: Seq,
    #[serde(deserialize_with = "nested")]
    pub(crate) def: Def,
    /// Rare, so boxed.
    #[serde(deserialize_with = "nested")]
    pub(crate) callbacks: Option<Box<Callbacks>>,
}

/// The callbacks of a node, which run after its outcome and do not change it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Callbacks {
    pub(crate) link: Vec<Node>,
    pub(crate) link_error: Vec<Node>,
    /// On a chain: whether its last step has the errbacks itself.
    pub(crate) last_has_them: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Def {
    Task(TaskDef),
    Chain(Vec<Node>),
    Group(FanOutDef),
    Chord {
        header: FanOutDef,
        body: Arc<Node>,
    },
    Fold {
        header: FanOutDef,
        /// The task that is called for each member's value.
        body: Arc<Node>,
        init: Payload,
        order: Order,
    },
}

/// One task as it is called.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct TaskDef {
    pub(crate) name: Name,
    /// The arguments, or the items of a map, encoded one after the other.
    pub(crate) args: Payload,
    pub(crate) count: u32,
    pub(crate) mode: Mode,
    /// Whether the upstream value is the first argument.
    pub(crate) takes_upstream: bool,
    /// Rare, so boxed.
    #[serde(with = "crate::canvas::stored_options")]
    pub(crate) options: Option<Box<Options>>,
}

/// The members of a group or of a chord's header.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct FanOutDef {
    pub(crate) members: Members,
    pub(crate) policy: GroupPolicy,
    /// Whether a body follows and needs the list, so that a failure of the group is a chord's
    /// failure.
    pub(crate) followed: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Members {
    /// In the node. Shared with the supervisor of the group.
    Inline(Arc<Vec<Node>>),
    /// In records of their own, beside the node.
    Stored(u64),
    /// One per element of the upstream list, numbered when the list is known. Each member takes
    /// `span` numbers, counted from the template's number.
    Each {
        template: Box<Node>,
        span: u64,
        /// The errbacks that each member has, for the group as a whole, because it may fail before
        /// it has members.
        link_error: Vec<Node>,
    },
}

/// A frozen canvas, numbered from 0, that becomes a child.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SubtaskPlan {
    pub(crate) node: Box<Node>,
    /// How many sequence numbers the canvas uses.
    pub(crate) span: u64,
}

impl TaskDef {
    pub(crate) fn stamps(&self) -> &Stamps {
        let options = self.options.as_ref();
        options.map_or(Stamps::NONE, |options| &options.stamps)
    }
}

impl Def {
    /// Returns the group or header whose members a barrier counts; a task and a chain have none.
    pub(crate) fn header(&self) -> Option<&FanOutDef> {
        match self {
            Self::Group(header) | Self::Chord { header, .. } | Self::Fold { header, .. } => {
                Some(header)
            }
            Self::Task(_) | Self::Chain(_) => None,
        }
    }
}

impl Node {
    /// Returns the node with all its numbers increased by `by`: an instance of a template.
    pub(crate) fn shifted(&self, by: u64) -> Self {
        let mut node = self.clone();
        node.shift(by);
        node
    }

    fn shift(&mut self, by: u64) {
        self.seq += by;
        match &mut self.def {
            Def::Task(_) => {}
            Def::Chain(steps) => steps.iter_mut().for_each(|step| step.shift(by)),
            Def::Group(fan) => fan.shift(by),
            Def::Chord { header, body } | Def::Fold { header, body, .. } => {
                header.shift(by);
                Arc::make_mut(body).shift(by);
            }
        }
        if let Some(callbacks) = &mut self.callbacks {
            let Callbacks {
                link, link_error, ..
            } = &mut **callbacks;
            link.iter_mut()
                .chain(link_error)
                .for_each(|node| node.shift(by));
        }
    }

    /// Marks the group whose list is its value as followed: it is in effect the header of a chord.
    pub(super) fn follow(&mut self) {
        match &mut self.def {
            Def::Task(_) | Def::Fold { .. } => {}
            Def::Group(fan) => fan.followed = true,
            Def::Chain(steps) => steps.last_mut().into_iter().for_each(Self::follow),
            Def::Chord { body, .. } => Arc::make_mut(body).follow(),
        }
    }

    /// Returns the group whose list is its value, if there is one.
    pub(crate) fn last_group(&self) -> Option<(Seq, &FanOutDef)> {
        match &self.def {
            Def::Task(_) | Def::Fold { .. } => None,
            Def::Group(fan) => Some((self.seq, fan)),
            Def::Chain(steps) => steps.last()?.last_group(),
            Def::Chord { body, .. } => body.last_group(),
        }
    }

    /// Returns whether it is only the header of the body that follows, or a chord with such a body.
    /// If it fails before it has started, the body is the first to fail.
    pub(crate) fn is_header(&self) -> bool {
        match &self.def {
            Def::Task(_) | Def::Fold { .. } => false,
            Def::Group(fan) => fan.followed,
            Def::Chain(steps) => matches!(&steps[..], [only] if only.is_header()),
            Def::Chord { body, .. } => body.is_header(),
        }
    }

    /// Returns whether the node after it is the body of the header `failed`, a group or chord in
    /// it.
    pub(crate) fn is_followed_from(&self, failed: Seq) -> bool {
        match &self.def {
            Def::Task(_) | Def::Fold { .. } => false,
            Def::Group(fan) => fan.followed && self.seq == failed,
            Def::Chain(steps) => steps
                .last()
                .is_some_and(|last| last.is_followed_from(failed)),
            Def::Chord { body, .. } => {
                (self.seq == failed && body.is_header()) || body.is_followed_from(failed)
            }
        }
    }

    /// Returns whether it is an `each()`, or a chord or fold over one.
    pub(crate) fn takes_a_list(&self) -> bool {
        match &self.def {
            Def::Group(fan) | Def::Chord { header: fan, .. } | Def::Fold { header: fan, .. } => {
                matches!(fan.members, Members::Each { .. })
            }
            Def::Task(_) | Def::Chain(_) => false,
        }
    }

    /// Returns the display name: a task's own, otherwise the kind of node.
    pub(crate) fn name(&self) -> &str {
        match &self.def {
            Def::Task(task) => &task.name,
            Def::Chain(_) => "chain",
            Def::Group(_) => "group",
            Def::Chord { .. } => "chord",
            Def::Fold { .. } => "fold",
        }
    }
}

impl FanOutDef {
    /// Returns the errbacks that run if the group fails before it has members.
    pub(crate) fn own_errbacks(&self) -> &[Node] {
        match &self.members {
            Members::Each { link_error, .. } => link_error,
            Members::Inline(_) | Members::Stored(_) => &[],
        }
    }

    /// Returns the list of the `size` members of group or chord `seq`.
    pub(crate) fn list(&self, seq: Seq, size: u64) -> Value {
        Value::Gathered {
            seq,
            size,
            of: self.policy.list_of(),
        }
    }

    fn shift(&mut self, by: u64) {
        match &mut self.members {
            Members::Inline(members) => {
                let members = Arc::make_mut(members).iter_mut();
                members.for_each(|member| member.shift(by));
            }
            // Templates are numbered from 0; stored members never occur in a template.
            Members::Each { link_error, .. } => link_error.iter_mut().for_each(|n| n.shift(by)),
            Members::Stored(_) => {}
        }
    }
}
