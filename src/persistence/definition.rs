//! A workflow as submitted: its head, and what of it is too large to stand in one record.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::codec::{self, Kind, MAX_RECORD};
use super::{Pair, StoreError, keys};
use crate::canvas::Canvas;
use crate::canvas::freeze::{
    Callbacks, CanvasError, Catalogue, Def, FanOutDef, MemberSink, Members, Node, TaskDef, freeze,
};
use crate::canvas::id::{Id, Seq};
use crate::canvas::machine::pending_limit::Load;
use crate::canvas::machine::subtasks::SubtaskPlan;
use crate::canvas::machine::{Index, Purpose, Record};
use crate::canvas::payload::Payload;

/// A root, or the members of a group, of at most this many bytes stand where they belong; larger
/// ones get records of their own.
const INLINE: usize = 2_048;
/// The most members in one record, however small they are: who looks for one decodes them all.
const PACK: u64 = 512;

/// The record that makes a submission count: all else of it was written before, or with it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct WorkflowHeader {
    /// `None`: stored as the one member of the root group.
    pub(crate) root: Option<Node>,
    pub(crate) idempotency_key: Option<String>,
    /// How many nodes have a number since the submission; those of an `each()` come later.
    pub(crate) next: Seq,
    /// How many bytes it takes in the store, its results aside.
    pub(crate) bytes: u64,
}

impl WorkflowHeader {
    pub(crate) fn weight(&self) -> Load {
        Load {
            tasks: self.next,
            bytes: self.bytes,
        }
    }
}

/// A workflow of which all but its head is stored.
#[derive(Debug)]
pub(crate) struct Definition {
    pub(crate) head: WorkflowHeader,
    /// The root as it is to run: large groups in it are by reference.
    pub(crate) root: Node,
}

impl Definition {
    /// Freezes a canvas. `put` is given, as the canvas is drawn, what is to be written before the
    /// head, and how many nodes there are by then; without a head it is swept at the next open. Its
    /// refusal ends the freezing.
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
            head: WorkflowHeader {
                root: inline.then(|| root.clone()),
                idempotency_key,
                next,
                bytes: bytes as u64,
            },
            root,
        })
    }
}

/// A task's own child, ready to be stored.
#[derive(Debug)]
pub(crate) struct StoredSubtask {
    /// As it is to run: large groups in it are by reference.
    pub(crate) node: Node,
    pub(crate) record: Record,
    /// To be written with the record.
    pub(crate) segments: Vec<Pair>,
}

impl StoredSubtask {
    /// Child `index` of a task, its nodes numbered from `first` on.
    pub(crate) fn new(
        task: Id,
        index: Index,
        purpose: Purpose,
        key: String,
        graft: &SubtaskPlan,
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
        let taken = "all is taken";
        let node = spill.node(graft.node.shifted(first)).expect(taken);
        let recorded = is_small(&node).then(|| Box::new(node.clone()));
        if recorded.is_none() {
            // A task has no members, so this place is free.
            spill.alone(task, index, &node).expect(taken);
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

/// Puts the members of large groups into records of their own.
struct Spill<'a> {
    root: Id,
    /// How many nodes there are so far.
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

/// The members of one fan so far.
struct CollectedMembers {
    /// All of them, as long as they can stand where they belong.
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

/// A record of members in the making.
#[derive(Default)]
struct Pack {
    /// The index of the first.
    first: u64,
    count: u64,
    bytes: Vec<u8>,
    last: Option<Node>,
}

/// A member as it stands in its record.
#[derive(Serialize)]
enum Written<'a> {
    Node(&'a Node),
    Again(&'a Payload),
}

/// As [`Written`].
#[derive(Deserialize)]
enum Stored<'a> {
    Node(Node),
    /// The task before it again, with the next number and these arguments.
    #[serde(borrow)]
    Again(&'a [u8]),
}

impl Pack {
    fn written<'a>(&self, node: &'a Node) -> Written<'a> {
        match (&self.last, &node.def) {
            (Some(last), Def::Task(task)) if repeats(last, node) => Written::Again(&task.args),
            _ => Written::Node(node),
        }
    }

    fn has_room(&self, member: &[u8]) -> bool {
        self.count < PACK && self.bytes.len() + member.len() <= MAX_RECORD - 64
    }
}

/// Says whether a node is the task before it in all but its number, the next one, and its
/// arguments.
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
    /// Spills what was frozen in one piece.
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
                let mut gathered = CollectedMembers::default();
                for member in Arc::unwrap_or_clone(members) {
                    let member = self.node(member)?;
                    self.member(seq, &mut gathered, member)?;
                }
                self.members(seq, gathered)?
            }
            // A template is instantiated whole, so it stays whole.
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

    /// Adds the next member of group `seq` to its pack; a full one is written first.
    fn pack(&mut self, seq: Seq, pack: &mut Pack, node: Node) -> Result<(), CanvasError> {
        let mut member = codec::body(&pack.written(&node));
        if pack.count > 0 && !pack.has_room(&member) {
            self.flush(self.root.node(seq), pack)?;
            *pack = Pack {
                first: pack.first + pack.count,
                ..Pack::default()
            };
            member = codec::body(&Written::Node(&node));
        }
        pack.bytes.extend_from_slice(&member);
        pack.count += 1;
        pack.last = Some(node);
        Ok(())
    }

    /// Writes one node as member `index` of `group`, alone.
    fn alone(&mut self, group: Id, index: u64, node: &Node) -> Result<(), CanvasError> {
        let pack = Pack {
            first: index,
            count: 1,
            bytes: codec::body(&Written::Node(node)),
            last: None,
        };
        self.flush(group, &pack)
    }

    /// Writes a pack; one node that is too large for a record goes into parts.
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
    // Arguments are slices of it.
    let parts = Payload::from(parts);
    let stored: Vec<Stored<'_>> = codec::decode_body(Kind::Members, key, parts.bytes())?;
    let mut nodes: Vec<Node> = Vec::with_capacity(stored.len());
    for member in stored {
        nodes.push(match member {
            Stored::Node(node) => node,
            Stored::Again(args) => again(nodes.last(), parts.part(args)).ok_or_else(|| {
                codec::corrupt(Kind::Members, key, "a member repeats what is no task")
            })?,
        });
    }
    Ok(nodes)
}

/// Any bytes, as a head and as the members of a group: what is read means the same when it is written again.
#[cfg(any(test, feature = "__fuzzing"))]
pub(crate) fn fuzz(bytes: &[u8]) {
    let key = b"any";
    if let Ok(head) = codec::decode_body::<WorkflowHeader>(Kind::Head, key, bytes) {
        let again = codec::decode_body::<WorkflowHeader>(Kind::Head, key, &codec::body(&head));
        assert_eq!(again.expect("what was written is read"), head);
    }
    let Ok(nodes) = decode_members(key, bytes.to_vec()) else {
        return;
    };
    let mut pack = Pack::default();
    let mut written = codec::body(&nodes.len());
    for node in &nodes {
        written.extend_from_slice(&codec::body(&pack.written(node)));
        pack.last = Some(node.clone());
    }
    let again = decode_members(key, written).expect("what was written is read");
    assert_eq!(again, nodes);
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

    /// Freezes and stores a canvas: its root, and the records beside the head.
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

    /// The members of the one stored group.
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

        /// Whatever follows whatever, and whatever the records are.
        #[test]
        fn what_is_stored_is_what_was_frozen(
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
                Members::Each { .. } => panic!("its members are known"),
            }
        }

    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(3_000))]

        #[test]
        fn decoding_any_members_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            fuzz(&bytes);
        }
    }

    #[test]
    fn no_member_comes_behind_the_last_number() {
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
        let both = [Written::Node(last), Written::Again(&Payload::from(vec![7]))];
        let error = decode_members(b"k", codec::body(&&both[..]));
        assert!(
            matches!(error, Err(StoreError::Corrupt { .. })),
            "{error:?}"
        );
    }

    #[test]
    fn a_member_that_repeats_nothing_is_corrupt() {
        let first = codec::body(&vec![Written::Again(&Payload::from(vec![7]))]);
        assert!(decode_members(b"k", first.clone()).is_err());
        let group = Canvas::group([]);
        let (node, _) = stored(group);
        let second = [
            Written::Node(&node),
            Written::Again(&Payload::from(vec![7])),
        ];
        assert!(decode_members(b"k", codec::body(&&second[..])).is_err());
    }
}
