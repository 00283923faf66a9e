//! The members of large groups, in records of their own: pages of members.

use std::collections::VecDeque;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::codec::{self, Kind, MAX_RECORD};
use super::keys;
use crate::canvas::freeze::{Callbacks, Def, FanOutDef, MemberBuffer, Members, Node, TaskDef};
use crate::canvas::id::{Id, Seq};
use crate::canvas::payload::Payload;
use crate::persistence::{Pair, StoreError};

/// The size in bytes up to which a root is stored in the header, and the members of a group in
/// their node. Larger ones get records of their own.
pub(super) const INLINE: usize = 2_048;
/// The most members on one page: reading one member decodes all of its page.
const PAGE: u64 = 512;

/// Members of one group that are stored together.
#[derive(Debug)]
pub(crate) struct MemberPage {
    group: Seq,
    /// The index of the first member.
    first: u64,
    /// The number of members, and the members, encoded.
    body: Vec<u8>,
}

impl MemberPage {
    /// Returns the page of one node, as member `index` of `group`.
    pub(super) fn of_one(group: Id, index: u64, node: &Node) -> Self {
        let mut page = OpenPage::starting_at(index);
        page.append(&EncodedMember::Node(node));
        page.close(group.seq())
    }

    /// Returns the records of the page: one, or several if a single node is too large for a record.
    pub(super) fn records(&self, root: Id) -> impl Iterator<Item = Pair> {
        let group = root.node(self.group);
        let pieces = (0..).zip(codec::pieces(&self.body));
        pieces.map(move |(part, piece)| {
            let key = keys::members(group, self.first, part);
            (key, codec::frame(Kind::Members, piece))
        })
    }
}

/// Collects the members of one group: in the node as long as they are small, then in pages.
pub(crate) enum PageBuilder {
    /// The members, and their size in bytes.
    Inline(Vec<Node>, usize),
    Paged(OpenPage),
}

impl Default for PageBuilder {
    fn default() -> Self {
        Self::Inline(Vec::new(), 0)
    }
}

impl MemberBuffer for PageBuilder {
    type Page = MemberPage;

    fn push(&mut self, group: Seq, member: Node, pages: &mut VecDeque<MemberPage>) {
        match self {
            Self::Paged(page) => page.push(group, member, pages),
            Self::Inline(members, size) => {
                *size += codec::length(&member);
                members.push(member);
                if *size > INLINE {
                    let mut page = OpenPage::starting_at(0);
                    for member in members.drain(..) {
                        page.push(group, member, pages);
                    }
                    *self = Self::Paged(page);
                }
            }
        }
    }

    fn finish(self, group: Seq, pages: &mut VecDeque<MemberPage>) -> Members {
        match self {
            Self::Inline(members, _) => Members::Inline(members.into()),
            Self::Paged(page) => {
                let size = page.first + page.count;
                pages.push_back(page.close(group));
                Members::Stored(size)
            }
        }
    }
}

/// A page that is being filled.
pub(crate) struct OpenPage {
    /// The index of the first member.
    first: u64,
    count: u64,
    /// The members, encoded.
    members: Vec<u8>,
    last: Option<Node>,
}

impl OpenPage {
    fn starting_at(first: u64) -> Self {
        Self {
            first,
            count: 0,
            members: Vec::new(),
            last: None,
        }
    }

    /// Adds a member. If the page is full, closes it and adds the member to the next one.
    fn push(&mut self, group: Seq, node: Node, pages: &mut VecDeque<MemberPage>) {
        let before = self.members.len();
        let has_space = self.count < PAGE && {
            encode_member(&mut self.members, &node, self.last.as_ref());
            self.count == 0 || self.members.len() <= MAX_RECORD - 64
        };
        if has_space {
            self.count += 1;
        } else {
            self.members.truncate(before);
            let next = Self::starting_at(self.first + self.count);
            pages.push_back(std::mem::replace(self, next).close(group));
            self.append(&EncodedMember::Node(&node));
        }
        self.last = Some(node);
    }

    fn append(&mut self, member: &EncodedMember<'_>) {
        codec::write(&mut self.members, member);
        self.count += 1;
    }

    fn close(self, group: Seq) -> MemberPage {
        let mut body = codec::body(&self.count);
        body.extend_from_slice(&self.members);
        MemberPage {
            group,
            first: self.first,
            body,
        }
    }
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

/// Appends the encoded member `node`, which follows after `last`.
pub(crate) fn encode_member(bytes: &mut Vec<u8>, node: &Node, last: Option<&Node>) {
    let member = match (last, &node.def) {
        (Some(last), Def::Task(task)) if repeats(last, node) => EncodedMember::Again(&task.args),
        _ => EncodedMember::Node(node),
    };
    codec::write(bytes, &member);
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

/// Moves the members of large groups from a node, which was frozen in one piece, to pages.
pub(super) fn paged(node: Node) -> (Node, VecDeque<MemberPage>) {
    let mut pages = VecDeque::new();
    (page_members(node, &mut pages), pages)
}

fn page_members(mut node: Node, pages: &mut VecDeque<MemberPage>) -> Node {
    let seq = node.seq;
    let body = |body, pages: &mut _| Arc::new(page_members(Arc::unwrap_or_clone(body), pages));
    node.def = match node.def {
        Def::Task(task) => Def::Task(task),
        Def::Chain(steps) => Def::Chain(page_all(steps, pages)),
        Def::Group(fan) => Def::Group(page_fan_out(seq, fan, pages)),
        Def::Chord { header, body: own } => Def::Chord {
            header: page_fan_out(seq, header, pages),
            body: body(own, pages),
        },
        Def::Fold {
            header,
            body: own,
            init,
            order,
        } => Def::Fold {
            header: page_fan_out(seq, header, pages),
            body: body(own, pages),
            init,
            order,
        },
    };
    if let Some(callbacks) = &mut node.callbacks {
        let Callbacks {
            link, link_error, ..
        } = &mut **callbacks;
        *link = page_all(std::mem::take(link), pages);
        *link_error = page_all(std::mem::take(link_error), pages);
    }
    node
}

fn page_all(nodes: Vec<Node>, pages: &mut VecDeque<MemberPage>) -> Vec<Node> {
    let nodes = nodes.into_iter();
    nodes.map(|node| page_members(node, pages)).collect()
}

fn page_fan_out(seq: Seq, mut fan: FanOutDef, pages: &mut VecDeque<MemberPage>) -> FanOutDef {
    fan.members = match fan.members {
        Members::Inline(members) => {
            let mut builder = PageBuilder::default();
            for member in Arc::unwrap_or_clone(members) {
                let member = page_members(member, pages);
                builder.push(seq, member, pages);
            }
            builder.finish(seq, pages)
        }
        // A template is instantiated as a whole, so it is stored whole.
        Members::Each {
            template,
            span,
            link_error,
        } => Members::Each {
            template,
            span,
            link_error: page_all(link_error, pages),
        },
        stored @ Members::Stored(_) => stored,
    };
    fan
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
    use crate::canvas::Canvas;
    use crate::persistence::records::definition::DefinitionPages;
    use crate::testing::catalogue::Everything;

    /// Freezes and stores a canvas; returns its root and the records beside the header.
    fn stored(canvas: Canvas) -> (Node, Vec<Pair>) {
        let root = Id::from_bytes([0; 16]);
        let pages = DefinitionPages::new(root, canvas, None, &Everything);
        let (records, definition) = pages.all().unwrap();
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
            assert!(records.len() <= 100_000 / PAGE as usize + 1);
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
