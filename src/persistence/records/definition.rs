//! A submitted workflow: its header, and the records of the parts too large for the header.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::codec;
use super::codec::{Kind, MAX_RECORD};
use super::keys;
use crate::canvas::Canvas;
use crate::canvas::admission::pending_limit::Load;
use crate::canvas::freeze::SubtaskPlan;
use crate::canvas::freeze::{
    Callbacks, CanvasError, Catalogue, Def, FanOutDef, MemberSink, Members, Node, TaskDef, freeze,
};
use crate::canvas::id::{Id, Seq};
use crate::canvas::machine::{Index, Purpose, Record};
use crate::canvas::payload::Payload;
use crate::persistence::{Pair, StoreError};

/// The size in bytes up to which a root is stored in the header, and the members of a group in
/// their node. Larger ones get records of their own.
const INLINE: usize = 2_048;
/// The most members in one record: reading one member decodes all of its record.
const PACK: u64 = 512;

/// The record that makes a submission valid: all its other records are written before it, or with
/// it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct WorkflowHeader {
    /// `None`: the root is stored as the one member of the root group.
    pub(crate) root: Option<Node>,
    pub(crate) idempotency_key: Option<String>,
    /// The number of node numbers given out at submission; the members of an `each()` are numbered
    /// later.
    pub(crate) next: Seq,
    /// The bytes that the workflow takes in the store, without its results.
    pub(crate) bytes: u64,
}

impl WorkflowHeader {
    pub(crate) fn load(&self) -> Load {
        Load {
            tasks: self.next,
            bytes: self.bytes,
        }
    }
}

/// A workflow whose records are stored, except for the header.
#[derive(Debug)]
pub(crate) struct Definition {
    pub(crate) header: WorkflowHeader,
    /// The root in the form in which it runs: large groups are by reference.
    pub(crate) root: Node,
}

impl Definition {
    /// Freezes a canvas. As the canvas is expanded, `put` receives the records that are written
    /// before the header, each with the number of nodes so far; without a header the next open
    /// sweeps them. An error of `put` ends the freezing.
    pub(crate) fn freeze(
        root_id: Id,
        canvas: Canvas,
        idempotency_key: Option<String>,
        catalogue: &dyn Catalogue,
        put: &mut dyn FnMut(Pair, Seq) -> Result<(), CanvasError>,
    ) -> Result<Self, CanvasError> {
        let mut bytes = 0;
        let mut counted = |pair: Pair, drawn| {
            bytes += pair.0.len() + pair.1.len();
            put(pair, drawn)
        };
        let mut spill = Spill {
            root: root_id,
            drawn: 0,
            put: &mut counted,
        };
        let (root, next) = freeze(canvas, catalogue, &mut spill)?;
        let size = codec::body(&root).len();
        let inline = size <= INLINE;
        if !inline {
            spill.alone(keys::root_group(root_id), 0, &root)?;
        }
        bytes += if inline { size } else { 0 };
        Ok(Self {
            header: WorkflowHeader {
                root: inline.then(|| root.clone()),
                idempotency_key,
                next,
                bytes: bytes as u64,
            },
            root,
        })
    }
}

/// A subtask, ready to be stored.
#[derive(Debug)]
pub(crate) struct StoredSubtask {
    /// The subtask in the form in which it runs: large groups are by reference.
    pub(crate) node: Node,
    pub(crate) record: Record,
    /// Records to be written together with `record`.
    pub(crate) segments: Vec<Pair>,
}

impl StoredSubtask {
    /// Prepares child `index` of a task, whose nodes are numbered from `first` on.
    pub(crate) fn new(
        task: Id,
        index: Index,
        purpose: Purpose,
        key: String,
        plan: &SubtaskPlan,
        first: Seq,
    ) -> Self {
        let mut segments = Vec::new();
        let put = &mut |pair, _| {
            segments.push(pair);
            Ok(())
        };
        let mut spill = Spill {
            root: task.root(),
            drawn: 0,
            put,
        };
        let accepts = "the closure accepts every record";
        let node = spill.node(plan.node.shifted(first)).expect(accepts);
        let recorded = is_small(&node).then(|| Box::new(node.clone()));
        if recorded.is_none() {
            // A task has no members, so this key is free.
            spill.alone(task, index, &node).expect(accepts);
        }
        Self {
            node,
            record: Record::Offspring {
                index,
                purpose,
                key,
                node: recorded,
            },
            segments,
        }
    }
}

fn is_small(node: &Node) -> bool {
    codec::length(node) <= INLINE
}

/// Moves the members of large groups into records of their own.
struct Spill<'a> {
    root: Id,
    /// The number of nodes so far.
    drawn: Seq,
    put: &'a mut dyn FnMut(Pair, Seq) -> Result<(), CanvasError>,
}

impl MemberSink for Spill<'_> {
    type Fan = CollectedMembers;

    fn member(
        &mut self,
        seq: Seq,
        fan: &mut CollectedMembers,
        node: Node,
    ) -> Result<(), CanvasError> {
        self.drawn = self.drawn.max(node.seq + 1);
        if let Some(few) = &mut fan.few {
            fan.size += codec::length(&node);
            few.push(node);
            if fan.size > INLINE {
                for node in fan.few.take().into_iter().flatten() {
                    self.pack(seq, &mut fan.pack, node)?;
                }
            }
            return Ok(());
        }
        self.pack(seq, &mut fan.pack, node)
    }

    fn members(&mut self, seq: Seq, fan: CollectedMembers) -> Result<Members, CanvasError> {
        if let Some(few) = fan.few {
            return Ok(Members::Inline(few.into()));
        }
        self.flush(self.root.node(seq), &fan.pack)?;
        Ok(Members::Stored(fan.pack.first + fan.pack.count))
    }
}

/// The members of one fan-out, as they are collected.
struct CollectedMembers {
    /// All members, as long as they fit into their node.
    few: Option<Vec<Node>>,
    /// The bytes of these.
    size: usize,
    pack: Pack,
}

impl Default for CollectedMembers {
    fn default() -> Self {
        Self {
            few: Some(Vec::new()),
            size: 0,
            pack: Pack::default(),
        }
    }
}

/// A members record that is being filled.
#[derive(Default)]
struct Pack {
    /// The index of the first member.
    first: u64,
    count: u64,
    bytes: Vec<u8>,
    last: Option<Node>,
}

/// A member as it is encoded in its record.
#[derive(Serialize)]
enum EncodedMember<'a> {
    Node(&'a Node),
    Again(&'a Payload),
}

/// The decoded form of [`EncodedMember`].
#[derive(Deserialize)]
enum StoredMember<'a> {
    Node(Node),
    /// A repetition of the task before it, with the next number and these arguments.
    #[serde(borrow)]
    Again(&'a [u8]),
}

impl Pack {
    fn fits(&self, member: &[u8]) -> bool {
        self.count < PACK && self.bytes.len() + member.len() <= MAX_RECORD - 64
    }
}

/// Encodes a member behind the member `last` of the same record.
pub(crate) fn encode_member(last: Option<&Node>, node: &Node) -> Vec<u8> {
    codec::body(&match (last, &node.def) {
        (Some(last), Def::Task(task)) if repeats(last, node) => EncodedMember::Again(&task.args),
        _ => EncodedMember::Node(node),
    })
}

/// Returns whether a node equals the task before it except for its number, which is the next one,
/// and its arguments.
fn repeats(last: &Node, node: &Node) -> bool {
    let (Def::Task(a), Def::Task(b)) = (&last.def, &node.def) else {
        return false;
    };
    Some(node.seq) == last.seq.checked_add(1)
        && (&a.name, a.count, a.mode, a.takes_upstream, &a.options)
            == (&b.name, b.count, b.mode, b.takes_upstream, &b.options)
        && last.callbacks.is_none()
        && node.callbacks.is_none()
}

impl Spill<'_> {
    /// Spills the large groups of a node that was frozen as one value.
    fn node(&mut self, mut node: Node) -> Result<Node, CanvasError> {
        let seq = node.seq;
        node.def = match node.def {
            Def::Task(task) => Def::Task(task),
            Def::Chain(steps) => Def::Chain(self.nodes(steps)?),
            Def::Group(fan) => Def::Group(self.fan(seq, fan)?),
            Def::Chord { header, body } => Def::Chord {
                header: self.fan(seq, header)?,
                body: Arc::new(self.node(Arc::unwrap_or_clone(body))?),
            },
            Def::Fold {
                header,
                body,
                init,
                order,
            } => Def::Fold {
                header: self.fan(seq, header)?,
                body: Arc::new(self.node(Arc::unwrap_or_clone(body))?),
                init,
                order,
            },
        };
        if let Some(callbacks) = &mut node.callbacks {
            let Callbacks {
                link, link_error, ..
            } = &mut **callbacks;
            *link = self.nodes(std::mem::take(link))?;
            *link_error = self.nodes(std::mem::take(link_error))?;
        }
        Ok(node)
    }

    fn nodes(&mut self, nodes: Vec<Node>) -> Result<Vec<Node>, CanvasError> {
        nodes.into_iter().map(|node| self.node(node)).collect()
    }

    fn fan(&mut self, seq: Seq, mut fan: FanOutDef) -> Result<FanOutDef, CanvasError> {
        fan.members = match fan.members {
            Members::Inline(members) => {
                let mut collected = CollectedMembers::default();
                for member in Arc::unwrap_or_clone(members) {
                    let member = self.node(member)?;
                    self.member(seq, &mut collected, member)?;
                }
                self.members(seq, collected)?
            }
            // A template is instantiated as a whole, so it is stored whole.
            Members::Each {
                template,
                span,
                link_error,
            } => Members::Each {
                template,
                span,
                link_error: self.nodes(link_error)?,
            },
            stored @ Members::Stored(_) => stored,
        };
        Ok(fan)
    }

    /// Adds the next member of group `seq` to its pack; writes a full pack first.
    fn pack(&mut self, seq: Seq, pack: &mut Pack, node: Node) -> Result<(), CanvasError> {
        let mut member = encode_member(pack.last.as_ref(), &node);
        if pack.count > 0 && !pack.fits(&member) {
            self.flush(self.root.node(seq), pack)?;
            *pack = Pack {
                first: pack.first + pack.count,
                ..Pack::default()
            };
            member = codec::body(&EncodedMember::Node(&node));
        }
        pack.bytes.extend_from_slice(&member);
        pack.count += 1;
        pack.last = Some(node);
        Ok(())
    }

    /// Writes one node as member `index` of `group`, in a record of its own.
    fn alone(&mut self, group: Id, index: u64, node: &Node) -> Result<(), CanvasError> {
        let pack = Pack {
            first: index,
            count: 1,
            bytes: codec::body(&EncodedMember::Node(node)),
            last: None,
        };
        self.flush(group, &pack)
    }

    /// Writes a pack; a single node too large for one record is split into parts.
    fn flush(&mut self, group: Id, pack: &Pack) -> Result<(), CanvasError> {
        let mut whole = codec::body(&pack.count);
        whole.extend_from_slice(&pack.bytes);
        for (part, piece) in (0..).zip(codec::pieces(&whole)) {
            let key = keys::members(group, pack.first, part);
            (self.put)((key, codec::frame(Kind::Members, piece)), self.drawn)?;
        }
        Ok(())
    }
}

/// Decodes the joined parts of stored members.
pub(crate) fn decode_members(key: &[u8], parts: Vec<u8>) -> Result<Vec<Node>, StoreError> {
    // The arguments share these bytes.
    let parts = Payload::from(parts);
    let stored: Vec<StoredMember<'_>> = codec::decode_body(Kind::Members, key, parts.bytes())?;
    let mut nodes: Vec<Node> = Vec::with_capacity(stored.len());
    for member in stored {
        nodes.push(match member {
            StoredMember::Node(node) => node,
            StoredMember::Again(args) => {
                again(nodes.last(), parts.part(args)).ok_or_else(|| {
                    codec::corrupt(
                        Kind::Members,
                        key,
                        "a member repeats a node that is not a task",
                    )
                })?
            }
        });
    }
    Ok(nodes)
}

fn again(last: Option<&Node>, args: Payload) -> Option<Node> {
    let last = last?;
    let Def::Task(task) = &last.def else {
        return None;
    };
    Some(Node {
        seq: last.seq.checked_add(1)?,
        def: Def::Task(TaskDef {
            name: task.name.clone(),
            args,
            count: task.count,
            mode: task.mode,
            takes_upstream: task.takes_upstream,
            options: task.options.clone(),
        }),
        callbacks: None,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::canvas::freeze::SizeExceeded;
    use crate::canvas::parameter::Parameter;

    struct Everything;

    impl Catalogue for Everything {
        fn parameters(&self, _: &str) -> Option<&'static [Parameter]> {
            Some(const { &[Parameter::rest::<serde_json::Value>("args")] })
        }

        fn admit(&self, _: &str, _: usize) -> Result<(), SizeExceeded> {
            Ok(())
        }
    }

    /// Freezes and stores a canvas; returns its root and the records beside the header.
    fn stored(canvas: Canvas) -> (Node, Vec<Pair>) {
        let mut records = Vec::new();
        let put = &mut |pair, _| {
            records.push(pair);
            Ok(())
        };
        let definition =
            Definition::freeze(Id::from_bytes([0; 16]), canvas, None, &Everything, put).unwrap();
        (definition.root, records)
    }

    /// Returns the members of the only stored group.
    fn members(records: &[Pair]) -> Vec<Node> {
        let mut members = Vec::new();
        let mut parts = Vec::new();
        for (i, (key, record)) in records.iter().enumerate() {
            parts.extend_from_slice(codec::unframe(Kind::Members, key, record).unwrap());
            let first = keys::number_of(key).unwrap();
            assert_eq!(first, members.len() as u64);
            let next = records.get(i + 1).and_then(|(key, _)| keys::number_of(key));
            if next != Some(first) {
                members.extend(decode_members(key, parts.clone()).unwrap());
                parts.clear();
            }
        }
        members
    }

    #[test]
    fn a_member_like_the_one_before_takes_few_bytes() {
        let group = |name: &'static str| {
            Canvas::group((0..100_000u64).map(move |n| Canvas::task(name, (n % 100,))))
        };
        for name in ["noop", "a.task.with.a.name.of.some.length"] {
            let (_, records) = stored(group(name));
            let bytes: usize = records.iter().map(|(k, v)| k.len() + v.len()).sum();
            assert!(bytes < 4 * 100_000, "{bytes} bytes of `{name}`");
            assert!(records.len() <= 100_000 / PACK as usize + 1);
        }
    }

    fn member() -> impl Strategy<Value = Canvas> {
        let task = (0..3usize, any::<bool>(), 0..200usize, 0..4u32);
        task.prop_map(|(name, two, size, kind)| {
            let name = ["a", "b", "c"][name];
            let args = vec![7u64; size];
            let task = match two {
                true => Canvas::task(name, (args, 7)),
                false => Canvas::immutable(name, (args,)),
            };
            match kind {
                0 => task.priority(3),
                1 => task.link_error(Canvas::task("e", ())),
                _ => task,
            }
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// Any members in any order, however they are split into records.
        #[test]
        fn stored_members_equal_the_frozen_ones(
            members in proptest::collection::vec((member(), 1..50usize), 0..30)
        ) {
            let all = members.iter().flat_map(|(one, times)| vec![one.clone(); *times]);
            let all: Vec<_> = all.collect();
            let canvas = || Canvas::group(all.clone());
            let whole = crate::canvas::freeze::plan_subtask(canvas(), false, &Everything).unwrap();
            let Def::Group(FanOutDef { members: Members::Inline(frozen), .. }) = whole.node.def else {
                panic!("it is a group")
            };
            let (root, records) = stored(canvas());
            prop_assert!(records.iter().all(|(_, record)| record.len() <= MAX_RECORD));
            let Def::Group(fan) = root.def else { panic!("it is a group") };
            match fan.members {
                Members::Inline(inline) => prop_assert_eq!(inline, frozen),
                Members::Stored(size) => {
                    prop_assert_eq!(size, frozen.len() as u64);
                    prop_assert_eq!(super::tests::members(&records), Arc::unwrap_or_clone(frozen));
                }
                Members::Each { .. } => panic!("it is no each()"),
            }
        }

    }

    #[test]
    fn no_member_follows_the_last_number() {
        let Def::Group(FanOutDef {
            members: Members::Inline(mut members),
            ..
        }) = stored(Canvas::group([Canvas::immutable("add", (1,))]))
            .0
            .def
        else {
            panic!("it is a small group")
        };
        let last = &mut Arc::make_mut(&mut members)[0];
        last.seq = u64::MAX;
        let both = [
            EncodedMember::Node(last),
            EncodedMember::Again(&Payload::from(vec![7])),
        ];
        let error = decode_members(b"k", codec::body(&&both[..]));
        assert!(
            matches!(error, Err(StoreError::Corrupt { .. })),
            "{error:?}"
        );
    }

    #[test]
    fn a_member_that_repeats_nothing_is_corrupt() {
        let first = codec::body(&vec![EncodedMember::Again(&Payload::from(vec![7]))]);
        assert!(decode_members(b"k", first.clone()).is_err());
        let group = Canvas::group([]);
        let (node, _) = stored(group);
        let second = [
            EncodedMember::Node(&node),
            EncodedMember::Again(&Payload::from(vec![7])),
        ];
        assert!(decode_members(b"k", codec::body(&&second[..])).is_err());
    }
}
