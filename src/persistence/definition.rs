//! A workflow as submitted: its head, and what of it is too large to stand in one record.

use serde::{Deserialize, Serialize};

use super::codec::{self, Kind, MAX_RECORD};
use super::{StoreError, keys};
use crate::canvas::freeze::{Callbacks, Def, Fan, Members, Node};
use crate::canvas::id::{Id, Seq};
use crate::canvas::machine::offspring::Graft;
use crate::canvas::machine::{Index, Purpose, Record};

/// A root, or the members of a group, of at most this many bytes stand where they belong; larger
/// ones get records of their own.
const INLINE: usize = 2_048;

/// The record that makes a submission count: all else of it was written before, or with it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Head {
    /// `None`: stored as the one member of the root group.
    pub(crate) root: Option<Node>,
    pub(crate) idempotency_key: Option<String>,
    /// How many nodes have a number since the submission; those of an `each()` come later.
    pub(crate) next: Seq,
}

/// A workflow ready to be stored.
#[derive(Debug)]
pub(crate) struct Definition {
    pub(crate) head: Head,
    /// To be written before the head; without it they are swept at the next open.
    pub(crate) segments: Vec<(Vec<u8>, Vec<u8>)>,
    /// The root as it is to run: large groups in it are by reference.
    pub(crate) root: Node,
}

impl Definition {
    pub(crate) fn new(root_id: Id, root: Node, idempotency_key: Option<String>) -> Self {
        let mut spill = Spill {
            root: root_id,
            segments: Vec::new(),
            next: 0,
        };
        let root = spill.node(root);
        let encoded = codec::body(&root);
        let inline = encoded.len() <= INLINE;
        if !inline {
            spill.write(keys::root_group(root_id), std::iter::once(encoded));
        }
        Self {
            head: Head {
                root: inline.then(|| root.clone()),
                idempotency_key,
                next: spill.next,
            },
            segments: spill.segments,
            root,
        }
    }
}

/// A task's own child, ready to be stored.
#[derive(Debug)]
pub(crate) struct Offspring {
    /// As it is to run: large groups in it are by reference.
    pub(crate) node: Node,
    pub(crate) record: Record,
    /// To be written with the record.
    pub(crate) segments: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Offspring {
    /// Child `index` of a task, its nodes numbered from `first` on.
    pub(crate) fn new(
        task: Id,
        index: Index,
        purpose: Purpose,
        key: String,
        graft: &Graft,
        first: Seq,
    ) -> Self {
        let mut spill = Spill {
            root: task.root(),
            segments: Vec::new(),
            next: 0,
        };
        let node = spill.node(graft.node.shifted(first));
        let encoded = codec::body(&node);
        let recorded = (encoded.len() <= INLINE).then(|| Box::new(node.clone()));
        if recorded.is_none() {
            // A task has no members, so this place is free.
            spill.flush(task, index, 1, &encoded);
        }
        Self {
            node,
            record: Record::Offspring {
                index,
                purpose,
                key,
                node: recorded,
            },
            segments: spill.segments,
        }
    }
}

struct Spill {
    root: Id,
    segments: Vec<(Vec<u8>, Vec<u8>)>,
    next: Seq,
}

impl Spill {
    fn node(&mut self, mut node: Node) -> Node {
        self.next = self.next.max(node.seq + 1);
        let seq = node.seq;
        node.def = match node.def {
            Def::Task(task) => Def::Task(task),
            Def::Chain(steps) => Def::Chain(self.nodes(steps)),
            Def::Group(fan) => Def::Group(self.fan(seq, fan)),
            Def::Chord { header, body } => Def::Chord {
                header: self.fan(seq, header),
                body: Box::new(self.node(*body)),
            },
            Def::Fold {
                header,
                body,
                init,
                order,
            } => Def::Fold {
                header: self.fan(seq, header),
                body: Box::new(self.node(*body)),
                init,
                order,
            },
        };
        node.callbacks = node.callbacks.map(|callbacks| {
            Box::new(Callbacks {
                link: self.nodes(callbacks.link),
                link_error: self.nodes(callbacks.link_error),
                ..*callbacks
            })
        });
        node
    }

    fn nodes(&mut self, nodes: Vec<Node>) -> Vec<Node> {
        nodes.into_iter().map(|node| self.node(node)).collect()
    }

    fn fan(&mut self, seq: Seq, fan: Fan) -> Fan {
        let members = match fan.members {
            Members::Inline(members) => self.nodes(members),
            // A template is instantiated whole, so it stays whole.
            Members::Each {
                template,
                span,
                link_error,
            } => {
                let link_error = self.nodes(link_error);
                let members = Members::Each {
                    template,
                    span,
                    link_error,
                };
                return Fan { members, ..fan };
            }
            Members::Stored(_) => return fan,
        };
        let mut size = 0;
        let small = members.iter().all(|member| {
            size += codec::body(member).len();
            size <= INLINE
        });
        let members = if small {
            Members::Inline(members)
        } else {
            let count = members.len() as u64;
            let group = self.root.node(seq);
            self.write(group, members.iter().map(codec::body));
            Members::Stored(count)
        };
        Fan { members, ..fan }
    }

    /// Writes encoded nodes as members of `group`, several to a record; one that is too large for
    /// a record goes into parts.
    fn write(&mut self, group: Id, nodes: impl Iterator<Item = Vec<u8>>) {
        let mut pack: Vec<u8> = Vec::new();
        let mut count = 0u64;
        let mut first = 0u64;
        for node in nodes {
            if count > 0 && pack.len() + node.len() > MAX_RECORD - 64 {
                self.flush(group, first, count, &pack);
                first += count;
                count = 0;
                pack.clear();
            }
            pack.extend_from_slice(&node);
            count += 1;
        }
        if count > 0 {
            self.flush(group, first, count, &pack);
        }
    }

    fn flush(&mut self, group: Id, first: u64, count: u64, pack: &[u8]) {
        let mut whole = codec::body(&count);
        whole.extend_from_slice(pack);
        for (part, piece) in codec::pieces(&whole).enumerate() {
            self.segments.push((
                keys::members(group, first, part as u32),
                codec::frame(Kind::Members, piece),
            ));
        }
    }
}

/// Joins the parts of stored members and decodes them.
pub(crate) fn decode_members(key: &[u8], parts: &[u8]) -> Result<Vec<Node>, StoreError> {
    codec::decode_body(Kind::Members, key, parts)
}
