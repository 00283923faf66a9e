//! Reading a workflow back: its nodes, their records, their outcomes and values.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::{Deserialize, Serialize};

use super::codec::{self, Kind};
use super::definition::{self, Head};
use super::{Store, StoreError, keys};
use crate::canvas::freeze::{Callbacks, Def, Fan, Members, Node};
use crate::canvas::id::{Id, Seq, WORKFLOW_STREAM};
use crate::canvas::machine::workflow::ROOT;
use crate::canvas::machine::{BODY, Change, Index, Record};
use crate::canvas::outcome::{Outcome, TaskFailure, Value};
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
    /// Its outcome is its supervisor's own, and recorded only there.
    is_last: bool,
    /// For a callback or errback: what it waits for.
    occasion: Option<Occasion>,
}

/// Which end of a task calls for a callback.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Occasion {
    Success,
    Failure,
}

/// What has become of a node.
#[derive(Clone, Debug)]
pub(crate) enum Fate {
    Ended(Outcome),
    /// A callback whose task has ended otherwise: it will never run.
    Revoked,
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
        self.record(Kind::Head, &keys::head(root))
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

    /// The latest id that was given to a workflow of this store.
    pub(crate) fn last_id(&self) -> Result<Option<Id>, StoreError> {
        let swept: Option<Option<Id>> = self.record(Kind::LastSwept, keys::LAST_SWEPT)?;
        let (from, to) = keys::all(b'w');
        let last = self.store.scan(&from, &to).next_back().transpose()?;
        Ok(swept
            .flatten()
            .max(last.and_then(|(key, _)| keys::id_of(&key))))
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

    /// The list that stands for `size` members' outcomes of `stream`, in member order.
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
        outcomes
            .into_iter()
            .enumerate()
            .map(|(index, outcome)| {
                outcome.ok_or_else(|| missing(stream, &format!("outcome of member {index}")))
            })
            .collect()
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
            Value::Stored { seq, len } => self.join(root.node(*seq), *len, out)?,
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
            Outcome::Failure(failure) if settled => {
                out.push(ERR);
                out.push(encode_failure(failure).bytes());
                Ok(())
            }
            Outcome::Failure(failure) => {
                Err(missing(failure.task_id, "value of a member that failed"))
            }
        }
    }

    fn join(&self, node: Id, len: u64, out: &mut ListWriter) -> Result<(), StoreError> {
        let (from, to) = keys::of_node(b'p', node);
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
            Members::Each { template, span } => Ok(template.shifted(first + index * span)),
        }
    }

    /// Finds a node by its id.
    pub(crate) fn find(&self, id: Id) -> Result<Option<Found>, StoreError> {
        let (Some(head), Some(root)) = (self.head(id.root())?, self.root(id.root())?) else {
            return Ok(None);
        };
        let mut search = Search {
            reader: self,
            target: id,
            dynamic: id.seq() >= head.next,
            path: vec![Step::of(WORKFLOW_STREAM, ROOT, false)],
        };
        let node = search.within(root)?;
        Ok(node.map(|node| Found {
            node,
            path: search.path,
        }))
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
                .flat_map(|callbacks| by_occasion(*callbacks))
                .map(|(occasion, node)| child(Step::callback(node.seq, occasion), node))
                .collect()),
            Def::Chain(steps) => Ok(steps
                .iter()
                .enumerate()
                .map(|(i, node)| {
                    let step = Step::of(seq, i as Index, i + 1 == steps.len());
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
                    .map(|i| Ok(child(Step::of(seq, i, false), cursor.get(self, fan, i)?)))
                    .collect()
            }
        }
    }

    /// What has become of a node, of itself or with the node above it: a step that never ran
    /// because the one before it failed has that failure.
    pub(crate) fn fate(&self, root: Id, found: &Found) -> Result<Option<Fate>, StoreError> {
        self.fate_at(root, &found.path)
    }

    fn fate_at(&self, root: Id, path: &[Step]) -> Result<Option<Fate>, StoreError> {
        let Some((step, above)) = path.split_last() else {
            return Ok(None);
        };
        if above.is_empty() {
            return Ok(self.ended(root)?.map(|ended| Fate::Ended(ended.outcome)));
        }
        if !step.is_last
            && let Some(Change::Done(outcome)) =
                self.last_change(root.node(step.stream), step.index)?
        {
            return Ok(Some(Fate::Ended(outcome)));
        }
        let above = self.fate_at(root, above)?;
        Ok(match (above, step.occasion) {
            // It is to run, or the node above it has not ended.
            (None, _)
            | (Some(Fate::Ended(Outcome::Success(_))), Some(Occasion::Success))
            | (Some(Fate::Ended(Outcome::Failure(_))), Some(Occasion::Failure)) => None,
            (Some(_), Some(_)) => Some(Fate::Revoked),
            (Some(Fate::Ended(Outcome::Success(_))), None) if !step.is_last => None,
            (above, None) => above,
        })
    }

    /// How far a node has got.
    pub(crate) fn state(&self, root: Id, found: &Found) -> Result<State, StoreError> {
        match self.fate(root, found)? {
            Some(Fate::Ended(Outcome::Success(_))) => return Ok(State::Success),
            Some(Fate::Ended(Outcome::Failure(_))) => return Ok(State::Failure),
            Some(Fate::Revoked) => return Ok(State::Revoked),
            None => {}
        }
        let Some(step) = found.path.last() else {
            return Ok(State::Pending);
        };
        match self.last_change(root.node(step.stream), step.index)? {
            Some(Change::Started { .. }) => Ok(State::Started),
            Some(Change::Retrying { .. }) => Ok(State::Retry),
            _ if self.any_record(root, &found.node)? => Ok(State::Started),
            _ => Ok(State::Pending),
        }
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

fn by_occasion(callbacks: Callbacks) -> impl Iterator<Item = (Occasion, Node)> {
    let link = callbacks.link.into_iter();
    let link_error = callbacks.link_error.into_iter();
    link.map(|node| (Occasion::Success, node))
        .chain(link_error.map(|node| (Occasion::Failure, node)))
}

/// A search for one node, from the root down.
struct Search<'a> {
    reader: &'a Reader,
    target: Id,
    /// It was numbered at run time, so it may be within any `each()`.
    dynamic: bool,
    path: Vec<Step>,
}

impl Search<'_> {
    fn within(&mut self, node: Node) -> Result<Option<Node>, StoreError> {
        let seq = node.seq;
        if seq == self.target.seq() {
            return Ok(Some(node));
        }
        if let Some(callbacks) = node.callbacks {
            for (occasion, callback) in by_occasion(*callbacks) {
                let step = Step::callback(callback.seq, occasion);
                if let Some(found) = self.child(step, callback)? {
                    return Ok(Some(found));
                }
            }
        }
        match node.def {
            Def::Task(_) => Ok(None),
            Def::Chain(steps) => {
                let len = steps.len();
                for (i, child) in steps.into_iter().enumerate() {
                    let step = Step::of(seq, i as Index, i + 1 == len);
                    if let Some(found) = self.child(step, child)? {
                        return Ok(Some(found));
                    }
                }
                Ok(None)
            }
            Def::Group(fan) => self.member(seq, &fan),
            Def::Chord { header, body } => match self.member(seq, &header)? {
                Some(found) => Ok(Some(found)),
                None => self.child(Step::of(seq, BODY, true), *body),
            },
        }
    }

    fn child(&mut self, step: Step, node: Node) -> Result<Option<Node>, StoreError> {
        self.path.push(step);
        let found = self.within(node)?;
        if found.is_none() {
            self.path.pop();
        }
        Ok(found)
    }

    fn member(&mut self, seq: Seq, fan: &Fan) -> Result<Option<Node>, StoreError> {
        let group = self.target.node(seq);
        let Some((first, size)) = self.reader.expansion(group, fan)? else {
            return Ok(None);
        };
        // Members are numbered in order, so a node numbered at submission is in the last one that
        // starts below it; one numbered at run time may be in any that has an `each()`.
        let likely = self.last_below(group, fan, first, size)?;
        let mut cursor = MemberCursor::new(group, first);
        let others = if self.dynamic { 0..size } else { 0..0 };
        for index in likely.into_iter().chain(others) {
            let member = cursor.get(self.reader, fan, index)?;
            if Some(index) == likely || member.has_each() {
                let step = Step::of(seq, index, false);
                if let Some(found) = self.child(step, member)? {
                    return Ok(Some(found));
                }
            }
        }
        Ok(None)
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
    fn callback(seq: Seq, occasion: Occasion) -> Self {
        Self {
            stream: WORKFLOW_STREAM,
            index: seq,
            is_last: false,
            occasion: Some(occasion),
        }
    }

    fn of(stream: Seq, index: Index, is_last: bool) -> Self {
        Self {
            stream,
            index,
            is_last,
            occasion: None,
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

/// A failure as the input of an errback or an element of a settled list.
pub(crate) fn encode_failure(failure: &TaskFailure) -> Payload {
    Payload::encode(failure).expect("a failure can be encoded")
}

fn missing(id: Id, what: &str) -> StoreError {
    StoreError::Corrupt {
        path_or_place: format!("workflow {id}"),
        what: format!("no {what}"),
    }
}
