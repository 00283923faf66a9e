//! Reading a workflow back: its nodes, their records, their outcomes and values.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::{Deserialize, Serialize};

use super::codec::{self, Glance, Kind};
use super::definition::{self, Head};
use super::{Store, StoreError, keys};
use crate::canvas::freeze::{Callbacks, Def, Fan, Members, Node};
use crate::canvas::id::{Id, Seq, WORKFLOW_STREAM};
use crate::canvas::machine::place::Place;
use crate::canvas::machine::workflow::ROOT;
use crate::canvas::machine::{BODY, Change, Index, Purpose, Record, Report};
use crate::canvas::outcome::{Outcome, Value};
use crate::canvas::payload::{ListWriter, Payload};
use crate::canvas::state::State;

/// A workflow's end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Ended {
    pub(crate) outcome: Outcome,
    /// Milliseconds since the Unix epoch.
    pub(crate) at_ms: u64,
    /// The number of the commit that it is part of.
    pub(crate) commit: u64,
}

/// Reads workflows from a store, on any thread.
#[derive(Clone, Debug)]
pub(crate) struct Reader {
    store: Arc<dyn Store>,
    /// The last commit that it sees: for callers, who must not be told of what is applied but not
    /// yet durable. The engine itself sees all.
    up_to: Option<Arc<AtomicU64>>,
}

/// A node, and how it was reached: its place among the children of each supervisor above it.
#[derive(Clone, Debug)]
pub(crate) struct Found {
    pub(crate) node: Node,
    /// From the root down; the last is the node itself.
    path: Vec<Step>,
}

#[derive(Clone, Copy, Debug)]
struct Step {
    /// Whose stream the child is in.
    stream: Seq,
    index: Index,
    link: Link,
}

/// What a child's outcome has to do with its supervisor's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Link {
    /// One of several that its supervisor waits for.
    Part,
    /// Its outcome is its supervisor's own, and recorded only there.
    Last,
    /// None: a callback, or what a task called. It runs or not, whatever becomes of the other.
    Aside,
}

/// What has become of a node.
#[derive(Clone, Debug)]
pub(crate) enum Fate {
    Ended(Outcome),
    /// A callback whose task has ended otherwise, or a call that its task did not wait for: it
    /// will never run.
    Never,
}

impl Reader {
    pub(crate) fn new(store: Arc<dyn Store>) -> Self {
        Self { store, up_to: None }
    }

    /// The same store as callers see it, up to commit `last`.
    pub(crate) fn up_to(&self, last: Arc<AtomicU64>) -> Self {
        Self {
            store: self.store.clone(),
            up_to: Some(last),
        }
    }

    fn last_commit(&self) -> u64 {
        self.up_to
            .as_ref()
            .map_or(u64::MAX, |last| last.load(Ordering::SeqCst))
    }

    pub(crate) fn store(&self) -> &Arc<dyn Store> {
        &self.store
    }

    /// The workflow's head, or `None` if there is no such workflow.
    pub(crate) fn head(&self, root: Id) -> Result<Option<Head>, StoreError> {
        // In the order in which it moves: it may do so between two looks.
        if let Some(waiting) = self.waiting(root)? {
            return waiting.head(root).map(Some);
        }
        if let Some(head) = self.record(Kind::Head, &keys::head(root))? {
            return Ok(Some(head));
        }
        let ended: Option<Ended> = self.record(Kind::Result, &keys::result(root))?;
        match ended {
            Some(ended) => self.record(Kind::Head, &keys::ended(ended.at_ms, root)),
            None => Ok(None),
        }
    }

    /// The workflow's root node.
    pub(crate) fn root(&self, root: Id) -> Result<Option<Node>, StoreError> {
        match self.head(root)? {
            None => Ok(None),
            Some(Head {
                root: Some(node), ..
            }) => Ok(Some(node)),
            Some(_) => self.member(keys::root_group(root), 0).map(Some),
        }
    }

    /// The workflow's end, if its root has ended.
    pub(crate) fn ended(&self, root: Id) -> Result<Option<Ended>, StoreError> {
        let ended: Option<Ended> = self.record(Kind::Result, &keys::result(root))?;
        Ok(ended.filter(|ended| ended.commit <= self.last_commit()))
    }

    /// Says whether the workflow and all its callbacks have ended.
    pub(crate) fn is_at_rest(&self, root: Id) -> Result<bool, StoreError> {
        Ok(self.ended(root)?.is_some() && self.store.get(&keys::head(root))?.is_none())
    }

    /// The latest id that was given to a workflow of this store, also to one whose submission was
    /// cut short.
    pub(crate) fn last_id(&self) -> Result<Option<Id>, StoreError> {
        let swept: Option<Option<Id>> = self.record(Kind::LastSwept, keys::LAST_SWEPT)?;
        let mut last = swept.flatten();
        for tag in b"bwrx".iter().copied().chain(keys::PARTS) {
            let (from, to) = keys::all(tag);
            let found = self.store.scan(&from, &to).next_back().transpose()?;
            last = last.max(found.and_then(|(key, _)| keys::id_of(&key)).map(Id::root));
        }
        Ok(last)
    }

    /// The workflow that was submitted with this idempotency key.
    pub(crate) fn submitted_as(&self, key: &str) -> Result<Option<Id>, StoreError> {
        self.record(Kind::Idempotency, &keys::idempotency(key))
    }

    /// How many node numbers of the workflow were handed out after its submission.
    pub(crate) fn counter(&self, root: Id) -> Result<Option<Seq>, StoreError> {
        self.record(Kind::Counter, &keys::counter(root))
    }

    /// What the children of supervisor `stream` did, in order.
    pub(crate) fn records(
        &self,
        stream: Id,
    ) -> impl Iterator<Item = Result<Record, StoreError>> + '_ {
        self.segments_after(stream, None).flat_map(|segment| {
            let records = segment.and_then(|(key, value)| codec::segment_records(&key, &value));
            match records {
                Ok(records) => records.into_iter().map(Ok).collect(),
                Err(error) => vec![Err(error)],
            }
        })
    }

    /// As [`records`](Self::records), without the values of the children that ended well.
    pub(crate) fn glances(
        &self,
        stream: Id,
    ) -> impl Iterator<Item = Result<Glance, StoreError>> + '_ {
        self.segments_after(stream, None).flat_map(|segment| {
            let glances = segment.and_then(|(key, value)| codec::glances(&key, &value));
            match glances {
                Ok(glances) => glances.into_iter().map(Ok).collect(),
                Err(error) => vec![Err(error)],
            }
        })
    }

    /// The segments of a stream behind commit `after`, oldest first.
    pub(crate) fn segments_after(
        &self,
        stream: Id,
        after: Option<u64>,
    ) -> impl Iterator<Item = Result<super::Pair, StoreError>> + '_ {
        let from = after.map_or(0, |after| after + 1);
        let last = self.last_commit();
        let (_, end) = keys::of_node(b's', stream);
        let to = last
            .checked_add(1)
            .map_or(end, |next| keys::segment(stream, next, 0));
        self.store.scan(&keys::segment(stream, from, 0), &to)
    }

    /// How many children of supervisor `stream` have ended: well, and not.
    pub(crate) fn counts_of(&self, stream: Id) -> Result<(u64, u64), StoreError> {
        self.segments_after(stream, None)
            .try_fold((0, 0), |(succeeded, failed), segment| {
                let (key, value) = segment?;
                let (s, f) = codec::segment_counts(&key, &value)?;
                Ok((succeeded + u64::from(s), failed + u64::from(f)))
            })
    }

    /// The outcomes of the members of `stream`, of which there were `size` at first, in member
    /// order; behind each what it added.
    fn outcomes(&self, stream: Id, size: u64) -> Result<Vec<Outcome>, StoreError> {
        let mut outcomes: Vec<Option<Outcome>> = Vec::new();
        outcomes.resize_with(size as usize, || None);
        for record in self.records(stream) {
            if let Record::Child {
                index,
                change: Change::Done(outcome),
            } = record?
                && let Some(slot) = outcomes.get_mut(index as usize)
                && slot.is_none()
            {
                *slot = Some(outcome);
            }
        }
        let mut all = Vec::with_capacity(outcomes.len());
        for (index, outcome) in outcomes.into_iter().enumerate() {
            let outcome =
                outcome.ok_or_else(|| missing(stream, &format!("outcome of member {index}")))?;
            self.spread(stream.root(), outcome, &mut all)?;
        }
        Ok(all)
    }

    /// A member's outcome, and those of what it added to its chord, itself or by what took its
    /// place or was added.
    pub(crate) fn spread(
        &self,
        root: Id,
        outcome: Outcome,
        out: &mut Vec<Outcome>,
    ) -> Result<(), StoreError> {
        // Not recursive: what is added may add, and what takes a place may add, thousands deep.
        let mut left = vec![outcome];
        while let Some(outcome) = left.pop() {
            match outcome {
                Outcome::Success(Value::Extended { own, seqs }) => {
                    for seq in seqs.into_iter().rev() {
                        left.extend(self.additions(root.node(seq))?.into_iter().rev());
                    }
                    left.push(Outcome::Success(*own));
                }
                outcome => out.push(outcome),
            }
        }
        Ok(())
    }

    /// How the additions of a task ended, in order.
    fn additions(&self, task: Id) -> Result<Vec<Outcome>, StoreError> {
        let mut additions = BTreeMap::new();
        for record in self.records(task) {
            match record? {
                Record::Offspring {
                    index,
                    purpose: Purpose::Addition,
                    ..
                } => drop(additions.entry(index).or_insert(None)),
                Record::Child {
                    index,
                    change: Change::Done(outcome),
                } => {
                    if let Some(ended) = additions.get_mut(&index) {
                        ended.get_or_insert(outcome);
                    }
                }
                _ => {}
            }
        }
        Ok(additions.into_values().flatten().collect())
    }

    /// What a task has started itself.
    pub(crate) fn offspring(&self, task: Id) -> Result<Vec<(Index, Purpose, Node)>, StoreError> {
        let mut offspring = Vec::new();
        for record in self.records(task) {
            if let Record::Offspring {
                index,
                purpose,
                node,
                ..
            } = record?
            {
                let node = match node {
                    Some(node) => *node,
                    None => self.member(task, index)?,
                };
                offspring.push((index, purpose, node));
            }
        }
        Ok(offspring)
    }

    /// What has taken a task's place.
    fn replacement(&self, task: Id) -> Result<Option<(Index, Node)>, StoreError> {
        let offspring = self.offspring(task)?.into_iter();
        let mut replacements = offspring.filter(|(_, purpose, _)| *purpose == Purpose::Replacement);
        Ok(replacements.next().map(|(index, _, node)| (index, node)))
    }

    /// The errbacks that run when `node`, which never started, fails because the header before it
    /// did: its own, those of a chain's first step, of each member of a group, of a chord's body.
    pub(crate) fn errbacks(
        &self,
        root: Id,
        node: &Node,
        out: &mut Vec<Node>,
    ) -> Result<(), StoreError> {
        let of_last = match &node.def {
            Def::Chain(steps) => self.errbacks_of_steps(root, steps, out)?,
            _ => false,
        };
        if let Some(callbacks) = &node.callbacks
            && !(of_last && callbacks.last_has_them)
        {
            out.extend_from_slice(&callbacks.link_error);
        }
        match &node.def {
            Def::Task(_) | Def::Chain(_) => Ok(()),
            Def::Group(fan) if fan.followed => Ok(()),
            Def::Group(fan) => {
                let group = root.node(node.seq);
                let Some((first, size)) = self.expansion(group, fan)? else {
                    out.extend_from_slice(fan.own_errbacks());
                    return Ok(());
                };
                let mut cursor = MemberCursor::new(group, first);
                for index in 0..size {
                    self.errbacks(root, &cursor.get(self, fan, index)?, out)?;
                }
                Ok(())
            }
            Def::Chord { body, .. } => self.errbacks(root, body, out),
        }
    }

    /// Those of the first of these steps of a chain; if that is a header, of its body. Says whether
    /// that is the last step, or what follows it.
    pub(crate) fn errbacks_of_steps(
        &self,
        root: Id,
        steps: &[Node],
        out: &mut Vec<Node>,
    ) -> Result<bool, StoreError> {
        let at = steps.iter().take_while(|step| step.is_header()).count();
        if let Some(step) = steps.get(at) {
            self.errbacks(root, step, out)?;
        }
        Ok(at + 1 >= steps.len() && !steps.is_empty())
    }

    /// Adds what is called for when the header of the chord at this place has failed: the body
    /// fails with it, unstarted.
    pub(crate) fn fail_body(&self, chord: &Place, report: &mut Report) -> Result<(), StoreError> {
        let Def::Chord { body, .. } = &chord.node.def else {
            unreachable!("only a chord has a body")
        };
        let mut errbacks = Vec::new();
        self.errbacks(chord.root, body, &mut errbacks)?;
        if let Some(failure) = report.outcome.failure() {
            let input = failure.as_input();
            report.call_for(&errbacks, &input);
        }
        Ok(())
    }

    /// If step `index` of the chain at this place failed because a group did whose list the next
    /// step was to get, the group is a chord's header in all but form, and the next step the body,
    /// which fails unstarted. Says whether that is the last.
    pub(crate) fn fail_next(
        &self,
        chain: &Place,
        index: Index,
        report: &mut Report,
    ) -> Result<bool, StoreError> {
        let (root, steps, at) = (chain.root, chain.steps(), index as usize);
        let Some(failure) = report.outcome.failure() else {
            return Ok(false);
        };
        let failed = failure.task_id;
        if failed.root() != root || !steps[at].is_followed_from(failed.seq()) {
            return Ok(false);
        }
        let input = failure.as_input();
        let mut errbacks = Vec::new();
        let last = self.errbacks_of_steps(root, &steps[at + 1..], &mut errbacks)?;
        report.call_for(&errbacks, &input);
        Ok(last)
    }

    /// The list upstream, taken apart, if each member of the fan gets one element.
    pub(crate) fn elements(
        &self,
        root: Id,
        fan: &Fan,
        input: Option<&Value>,
    ) -> Result<Option<Vec<Payload>>, ElementsError> {
        match (&fan.members, input) {
            (Members::Each { .. }, Some(input)) => self.members_of(root, input).map(Some),
            _ => Ok(None),
        }
    }

    /// The bytes of a value of workflow `root`, wherever they are kept.
    pub(crate) fn load(&self, root: Id, value: &Value) -> Result<Payload, StoreError> {
        if let Value::Inline(payload) = value {
            return Ok(payload.clone());
        }
        let mut out = ListWriter::raw();
        self.write(root, value, &mut out)?;
        Ok(out.finish())
    }

    /// Appends the bytes of a value: it may be large, so it is copied once, into its place.
    pub(crate) fn write(
        &self,
        root: Id,
        value: &Value,
        out: &mut ListWriter,
    ) -> Result<(), StoreError> {
        match value {
            Value::Inline(payload) => out.push(payload.bytes()),
            Value::Stored { seq, len } => self.join(root.node(*seq), 0, *len, out)?,
            Value::Extended { own, .. } => self.write(root, own, out)?,
            Value::Args { seq, len } => {
                self.join(root.node(*seq), keys::ARGS, *len, out)?;
            }
            Value::Gathered { seq, size, settled } => {
                let outcomes = self.outcomes(root.node(*seq), *size)?;
                out.begin(outcomes.len());
                for outcome in &outcomes {
                    self.push(root, out, outcome, *settled)?;
                }
            }
        }
        Ok(())
    }

    /// The members' outcomes behind a gathered value; the value itself as one otherwise.
    pub(crate) fn members_of(
        &self,
        root: Id,
        value: &Value,
    ) -> Result<Vec<Payload>, ElementsError> {
        match value {
            Value::Gathered { seq, size, settled } => self
                .outcomes(root.node(*seq), *size)?
                .iter()
                .map(|outcome| Ok(self.element(root, outcome, *settled)?))
                .collect(),
            other => self
                .load(root, other)?
                .elements()
                .map_err(ElementsError::NotAList),
        }
    }

    /// One member's outcome as an element of its group's list.
    pub(crate) fn element(
        &self,
        root: Id,
        outcome: &Outcome,
        settled: bool,
    ) -> Result<Payload, StoreError> {
        let mut one = ListWriter::raw();
        self.push(root, &mut one, outcome, settled)?;
        Ok(one.finish())
    }

    fn push(
        &self,
        root: Id,
        out: &mut ListWriter,
        outcome: &Outcome,
        settled: bool,
    ) -> Result<(), StoreError> {
        // As serde writes a `Result`: a map of one entry, named after the variant.
        const OK: &[u8] = b"\x81\xa2Ok";
        const ERR: &[u8] = b"\x81\xa3Err";
        match outcome {
            Outcome::Success(value) => {
                if settled {
                    out.push(OK);
                }
                self.write(root, value, out)
            }
            Outcome::Failure(failure) | Outcome::Revoked(failure) if settled => {
                out.push(ERR);
                out.push(failure.encoded().bytes());
                Ok(())
            }
            Outcome::Failure(failure) | Outcome::Revoked(failure) => {
                Err(missing(failure.task_id, "value of a member that failed"))
            }
        }
    }

    /// Joins the pieces from number `first` on.
    fn join(&self, node: Id, first: u32, len: u64, out: &mut ListWriter) -> Result<(), StoreError> {
        let (_, to) = keys::of_node(b'p', node);
        let from = keys::piece(node, first);
        let mut left = len as usize;
        for piece in self.store.scan(&from, &to) {
            let (key, value) = piece?;
            let piece = codec::unframe(Kind::Piece, &key, &value)?;
            // A task that was run again may have left more pieces than its last value has.
            let piece = &piece[..left.min(piece.len())];
            out.push(piece);
            left -= piece.len();
        }
        if left > 0 {
            return Err(missing(node, "piece of a value"));
        }
        Ok(())
    }

    /// Stored members of `group`, from the record that holds `index` on: the index of the first,
    /// and the members.
    pub(crate) fn stored_members(
        &self,
        group: Id,
        index: u64,
    ) -> Result<(u64, Vec<Node>), StoreError> {
        let (from, _) = keys::of_node(b'd', group);
        let mut to = keys::members(group, index, u32::MAX);
        to.push(0);
        let last = self
            .store
            .scan(&from, &to)
            .next_back()
            .transpose()?
            .ok_or_else(|| missing(group, &format!("member {index}")))?;
        let first =
            keys::number_of(&last.0).ok_or_else(|| missing(group, &format!("member {index}")))?;
        let from = keys::members(group, first, 0);
        let mut to = keys::members(group, first, u32::MAX);
        to.push(0);
        let mut parts = Vec::new();
        for part in self.store.scan(&from, &to) {
            let (key, value) = part?;
            parts.extend_from_slice(codec::unframe(Kind::Members, &key, &value)?);
        }
        Ok((first, definition::decode_members(&from, &parts)?))
    }

    fn member(&self, group: Id, index: u64) -> Result<Node, StoreError> {
        let (first, nodes) = self.stored_members(group, index)?;
        nodes
            .into_iter()
            .nth((index - first) as usize)
            .ok_or_else(|| missing(group, &format!("member {index}")))
    }

    /// Where the members of fan `seq` start to be numbered, and how many there are; `None` for an
    /// `each()` whose list is not known yet.
    pub(crate) fn expansion(&self, group: Id, fan: &Fan) -> Result<Option<(Seq, u64)>, StoreError> {
        match &fan.members {
            Members::Inline(members) => Ok(Some((0, members.len() as u64))),
            Members::Stored(size) => Ok(Some((0, *size))),
            Members::Each { .. } => {
                for record in self.records(group) {
                    if let Record::Expanded { first, size } = record? {
                        return Ok(Some((first, size)));
                    }
                }
                Ok(None)
            }
        }
    }

    /// Member `index` of the fan.
    pub(crate) fn fan_member(
        &self,
        group: Id,
        fan: &Fan,
        first: Seq,
        index: u64,
    ) -> Result<Node, StoreError> {
        match &fan.members {
            Members::Inline(members) => members
                .get(index as usize)
                .cloned()
                .ok_or_else(|| missing(group, &format!("member {index}"))),
            Members::Stored(_) => self.member(group, index),
            Members::Each { template, span, .. } => Ok(template.shifted(first + index * span)),
        }
    }

    /// Finds a node by its id.
    pub(crate) fn find(&self, id: Id) -> Result<Option<Found>, StoreError> {
        let (Some(head), Some(root)) = (self.head(id.root())?, self.root(id.root())?) else {
            return Ok(None);
        };
        Search {
            reader: self,
            target: id,
            dynamic: id.seq() >= head.next,
        }
        .run(root)
    }

    /// The children of a node, in order: a fan's members, a chain's steps, a task's callbacks.
    pub(crate) fn children(&self, root: Id, parent: &Found) -> Result<Vec<Found>, StoreError> {
        let root = root.root();
        let seq = parent.node.seq;
        let child = |step, node| {
            let mut path = parent.path.clone();
            path.push(step);
            Found { node, path }
        };
        match &parent.node.def {
            Def::Task(_) => Ok(parent
                .node
                .callbacks
                .clone()
                .into_iter()
                .flat_map(|callbacks| all_of(*callbacks))
                .map(|node| child(Step::callback(node.seq), node))
                .collect()),
            Def::Chain(steps) => Ok(steps
                .iter()
                .enumerate()
                .map(|(i, node)| {
                    let step = Step::of(seq, i as Index, link_at(i, steps.len()));
                    child(step, node.clone())
                })
                .collect()),
            Def::Group(fan) | Def::Chord { header: fan, .. } => {
                let group = root.node(seq);
                let Some((first, size)) = self.expansion(group, fan)? else {
                    return Ok(Vec::new());
                };
                let mut cursor = MemberCursor::new(group, first);
                (0..size)
                    .map(|i| {
                        Ok(child(
                            Step::of(seq, i, Link::Part),
                            cursor.get(self, fan, i)?,
                        ))
                    })
                    .collect()
            }
        }
    }

    /// The members of the group whose list is the value of a node, if it is one's, also of one
    /// that a task became.
    pub(crate) fn members(&self, root: Id, of: &Found) -> Result<Option<Vec<Found>>, StoreError> {
        let mut found = of.clone();
        loop {
            let seq = found.node.seq;
            let (step, node) = match found.node.def {
                Def::Task(_) => match self.replacement(root.node(seq))? {
                    Some((index, node)) => (Step::of(seq, index, Link::Last), node),
                    None => return Ok(None),
                },
                Def::Group(_) => return self.children(root, &found).map(Some),
                Def::Chain(mut steps) => match (steps.len(), steps.pop()) {
                    (len, Some(last)) => (Step::of(seq, len as Index - 1, Link::Last), last),
                    (_, None) => return Ok(None),
                },
                Def::Chord { body, .. } => (Step::of(seq, BODY, Link::Last), *body),
            };
            found.path.push(step);
            found.node = node;
        }
    }

    /// What has become of a node, of itself or with the node above it: a step that never ran
    /// because the one before it failed has that failure.
    pub(crate) fn fate(&self, root: Id, found: &Found) -> Result<Option<Fate>, StoreError> {
        self.fate_at(root, &found.path)
    }

    fn fate_at(&self, root: Id, path: &[Step]) -> Result<Option<Fate>, StoreError> {
        // Up to the first node of which there is word, ...
        let mut fate = None;
        let mut known = path.len();
        while let Some(above) = known.checked_sub(1) {
            let step = &path[above];
            fate = match above {
                0 => self.ended(root)?.map(|ended| ended.outcome),
                _ if step.link == Link::Last => None,
                _ => match self.last_change(root.node(step.stream), step.index)? {
                    Some(Change::Done(outcome)) => Some(outcome),
                    _ => None,
                },
            }
            .map(Fate::Ended);
            if fate.is_some() || above == 0 {
                break;
            }
            known = above;
        }
        // ... and down again, to what that means for the ones below.
        for step in path.get(known..).unwrap_or_default() {
            fate = match (fate, step.link) {
                // The node above it has not ended.
                (None, _) => None,
                // It is on record that it is to run.
                (Some(_), Link::Aside) if self.is_due(root, step)? => None,
                (Some(_), Link::Aside) => Some(Fate::Never),
                (Some(Fate::Ended(Outcome::Success(_))), Link::Part) => None,
                // A chain's later steps, of which none is revoked, share its failure.
                (Some(Fate::Ended(Outcome::Revoked(failure))), Link::Part) => {
                    Some(Fate::Ended(Outcome::Failure(failure)))
                }
                (above, Link::Part | Link::Last) => above,
            };
        }
        Ok(fate)
    }

    /// Says whether the callback at `step` has been called for.
    fn is_due(&self, root: Id, step: &Step) -> Result<bool, StoreError> {
        for record in self.records(root.node(step.stream)) {
            if let Record::Due { seq, .. } = record?
                && seq == step.index
            {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// How far a node has got.
    pub(crate) fn state(&self, root: Id, found: &Found) -> Result<State, StoreError> {
        match self.fate(root, found)? {
            Some(Fate::Ended(Outcome::Success(_))) => return Ok(State::Success),
            Some(Fate::Ended(Outcome::Failure(_))) => return Ok(State::Failure),
            Some(Fate::Ended(Outcome::Revoked(_)) | Fate::Never) => return Ok(State::Revoked),
            None => {}
        }
        let Some(step) = found.path.last() else {
            return Ok(State::Pending);
        };
        match self.last_change(root.node(step.stream), step.index)? {
            Some(Change::Started(_)) => Ok(State::Started),
            Some(Change::Waiting { past, .. }) if past.retries > 0 => Ok(State::Retry),
            Some(Change::Waiting { .. }) => Ok(State::Pending),
            _ if self.any_record(root, &found.node)? => Ok(State::Started),
            _ => Ok(State::Pending),
        }
    }

    /// When the next attempt of a task is due that waits for its time, in milliseconds since the
    /// Unix epoch.
    pub(crate) fn due_at(&self, root: Id, found: &Found) -> Result<Option<u64>, StoreError> {
        let Some(step) = found.path.last() else {
            return Ok(None);
        };
        Ok(
            match self.last_change(root.node(step.stream), step.index)? {
                Some(Change::Waiting { at_ms, .. }) => Some(at_ms),
                _ => None,
            },
        )
    }

    /// Says whether anything within a chain, group or chord has started.
    fn any_record(&self, root: Id, node: &Node) -> Result<bool, StoreError> {
        let own = match &node.def {
            Def::Task(_) => return Ok(false),
            _ => self
                .segments_after(root.node(node.seq), None)
                .next()
                .transpose()?
                .is_some(),
        };
        if own {
            return Ok(true);
        }
        match &node.def {
            Def::Chain(steps) => match steps.first() {
                Some(first) => self.any_record(root, first),
                None => Ok(false),
            },
            _ => Ok(false),
        }
    }

    /// How far child `index` of supervisor `stream` has got.
    pub(crate) fn last_change(
        &self,
        stream: Id,
        index: Index,
    ) -> Result<Option<Change>, StoreError> {
        let mut last = None;
        for record in self.records(stream) {
            if let Record::Child {
                index: of, change, ..
            } = record?
                && of == index
            {
                if let Change::Done(_) = change {
                    return Ok(Some(change));
                }
                last = Some(change);
            }
        }
        Ok(last)
    }

    fn record<T: serde::de::DeserializeOwned>(
        &self,
        kind: Kind,
        key: &[u8],
    ) -> Result<Option<T>, StoreError> {
        self.store
            .get(key)?
            .map(|record| codec::decode(kind, key, &record))
            .transpose()
    }
}

impl Found {
    /// The streams in which something may be recorded that decides this node's outcome: its own
    /// supervisor's, those above it, and the workflow's result.
    pub(crate) fn decided_in(&self, root: Id) -> Vec<Id> {
        self.path
            .iter()
            .map(|step| root.node(step.stream))
            .chain([root])
            .collect()
    }
}

fn all_of(callbacks: Callbacks) -> impl Iterator<Item = Node> {
    callbacks.link.into_iter().chain(callbacks.link_error)
}

/// What step `i` of `len` is to its chain.
fn link_at(i: usize, len: usize) -> Link {
    if i + 1 == len { Link::Last } else { Link::Part }
}

/// A search for one node, from the root down; not recursive, because what tasks start themselves
/// may be thousands deep.
struct Search<'a> {
    reader: &'a Reader,
    target: Id,
    /// It was numbered at run time, so it may be within any `each()`, or in any task.
    dynamic: bool,
}

type Child = Result<(Step, Node), StoreError>;

impl<'a> Search<'a> {
    fn run(&self, root: Node) -> Result<Option<Found>, StoreError> {
        let mut path = vec![Step::of(WORKFLOW_STREAM, ROOT, Link::Part)];
        // The children still to be looked at of each node on the path.
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
        Ok(Some(Found { node, path }))
    }

    /// What may be, or hold, the target.
    fn children(&self, node: Node) -> Result<Box<dyn Iterator<Item = Child> + 'a>, StoreError> {
        let seq = node.seq;
        let callbacks = node.callbacks.into_iter().flat_map(|callbacks| {
            all_of(*callbacks).map(|node| Ok((Step::callback(node.seq), node)))
        });
        Ok(match node.def {
            Def::Task(_) if !self.dynamic => Box::new(callbacks),
            Def::Task(_) => {
                let offspring = self.reader.offspring(self.target.node(seq))?;
                let offspring = offspring.into_iter().map(move |(index, purpose, node)| {
                    let link = match purpose {
                        Purpose::Replacement => Link::Last,
                        Purpose::Call | Purpose::Addition => Link::Aside,
                    };
                    Ok((Step::of(seq, index, link), node))
                });
                Box::new(callbacks.chain(offspring))
            }
            Def::Chain(steps) => {
                let len = steps.len();
                let step = move |i| Step::of(seq, i as Index, link_at(i, len));
                let steps = steps.into_iter().enumerate();
                Box::new(callbacks.chain(steps.map(move |(i, node)| Ok((step(i), node)))))
            }
            Def::Group(fan) => Box::new(callbacks.chain(self.members(seq, fan)?)),
            Def::Chord { header, body } => {
                let body = std::iter::once(Ok((Step::of(seq, BODY, Link::Last), *body)));
                Box::new(callbacks.chain(self.members(seq, header)?).chain(body))
            }
        })
    }

    fn members(
        &self,
        seq: Seq,
        fan: Fan,
    ) -> Result<impl Iterator<Item = Child> + use<'a>, StoreError> {
        let reader = self.reader;
        let group = self.target.node(seq);
        let errbacks = fan.own_errbacks().to_vec().into_iter();
        let errbacks = errbacks.map(|node| Ok((Step::callback(node.seq), node)));
        let expansion = reader.expansion(group, &fan)?;
        // Members are numbered in order, so a node numbered at submission is in the last one that
        // starts below it; one numbered at run time may be in any.
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
            Ok((Step::of(seq, index, Link::Part), member))
        });
        Ok(errbacks.chain(members))
    }

    /// The last member whose own number is not above the target's.
    fn last_below(
        &self,
        group: Id,
        fan: &Fan,
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
    fn callback(seq: Seq) -> Self {
        Self::of(WORKFLOW_STREAM, seq, Link::Aside)
    }

    fn of(stream: Seq, index: Index, link: Link) -> Self {
        Self {
            stream,
            index,
            link,
        }
    }
}

/// Why the elements of a value cannot be had.
#[derive(Debug)]
pub(crate) enum ElementsError {
    NotAList(String),
    Store(StoreError),
}

impl From<StoreError> for ElementsError {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

/// The members of one fan, one after the other, read a record at a time.
#[derive(Debug)]
pub(crate) struct MemberCursor {
    group: Id,
    first: Seq,
    buffer: VecDeque<Node>,
    /// The index of the first in `buffer`.
    at: u64,
}

impl MemberCursor {
    pub(crate) fn new(group: Id, first: Seq) -> Self {
        Self {
            group,
            first,
            buffer: VecDeque::new(),
            at: 0,
        }
    }

    /// Member `index`; reading forward is cheap, going back is not.
    pub(crate) fn get(
        &mut self,
        reader: &Reader,
        fan: &Fan,
        index: u64,
    ) -> Result<Node, StoreError> {
        if !matches!(fan.members, Members::Stored(_)) {
            return reader.fan_member(self.group, fan, self.first, index);
        }
        if index < self.at {
            return reader.member(self.group, index);
        }
        while self.at < index && self.buffer.pop_front().is_some() {
            self.at += 1;
        }
        if self.buffer.is_empty() {
            let (first, nodes) = reader.stored_members(self.group, index)?;
            self.buffer = nodes.into();
            self.buffer.drain(..(index - first) as usize);
            self.at = index;
        }
        self.at += 1;
        self.buffer
            .pop_front()
            .ok_or_else(|| missing(self.group, &format!("member {index}")))
    }
}

fn missing(id: Id, what: &str) -> StoreError {
    StoreError::Corrupt {
        path_or_place: format!("workflow {id}"),
        what: format!("no {what}"),
    }
}
