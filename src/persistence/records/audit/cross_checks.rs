//! The cross-checks of an audit: what each record requires of the others.

use std::collections::{HashMap, HashSet};

use super::{Audit, Broken, check, owner};
use crate::canvas::freeze::{Def, FanOutDef, Members, Node};
use crate::canvas::id::{Id, Seq};
use crate::canvas::machine::{AttemptHistory, ChildProgress, Index, Record};
use crate::canvas::outcome::{Outcome, Value};
use crate::persistence::records::backlog::Waiting;
use crate::persistence::records::codec::{self, Kind};
use crate::persistence::records::definition::WorkflowHeader;
use crate::persistence::records::reader::Ended;
use crate::persistence::records::{keys, member_pages};
use crate::persistence::store::finding;
use crate::persistence::{Store, StoreError};

/// The parts of the records read so far that other records depend on.
pub(super) struct CrossChecks<'a> {
    audit: &'a mut Audit,
    broken: Broken,
    store: &'a dyn Store,
    /// The key of each workflow's header.
    headers: HashMap<Id, Vec<u8>>,
    /// The workflows that the parts read so far belong to.
    owners: HashSet<Id>,
    results: HashSet<Id>,
    /// Workflows with a garbage marker: their remaining records are to be deleted.
    marked: HashSet<Id>,
    /// The stored members of each group.
    groups: HashMap<Id, Numbered>,
    /// The pieces of each value by node; under `true` those of a task's arguments.
    pieces: HashMap<(Id, bool), Numbered>,
    wanted: Wanted,
    /// Idempotency keys and the workflows that they name.
    keys: Vec<(Vec<u8>, Id)>,
    /// The members record whose parts are being read.
    pack: Option<MembersRecord>,
    /// Workflows whose members cannot be read: no finding if the workflow has a garbage marker,
    /// because some of the parts are then deleted.
    unread: Vec<(Id, StoreError)>,
}

/// Consecutive parts, numbered from 0.
#[derive(Default)]
struct Numbered {
    count: u64,
    /// The part or index that must come next.
    next: u64,
    has_gaps: bool,
}

/// Parts that records require.
#[derive(Default)]
struct Wanted {
    groups: HashMap<Id, u64>,
    /// Values in pieces, and their minimum length in bytes.
    values: HashMap<(Id, bool), u64>,
}

struct MembersRecord {
    key: Vec<u8>,
    group: Id,
    first: u64,
    parts: Vec<u8>,
}

impl<'a> CrossChecks<'a> {
    pub(super) fn new(audit: &'a mut Audit, store: &'a dyn Store) -> Self {
        Self {
            audit,
            broken: Broken::default(),
            store,
            headers: HashMap::new(),
            owners: HashSet::new(),
            results: HashSet::new(),
            marked: HashSet::new(),
            groups: HashMap::new(),
            pieces: HashMap::new(),
            wanted: Wanted::default(),
            keys: Vec::new(),
            pack: None,
            unread: Vec::new(),
        }
    }

    pub(super) fn fail(&mut self, error: &StoreError) {
        self.audit.fail(error);
    }

    /// Adds a finding about a workflow.
    fn find(&mut self, root: Id, what: impl Into<String>) {
        self.audit.find(format!("workflow {root}"), what);
        self.broken.workflows.insert(root);
    }

    /// Adds a finding about a record that cannot be read.
    fn refuse(&mut self, key: &[u8], error: &StoreError) {
        self.audit.fail(error);
        match owner(key) {
            Some(root) => drop(self.broken.workflows.insert(root)),
            None => drop(self.broken.records.insert(key.to_owned())),
        }
    }

    pub(super) fn add(&mut self, key: &[u8], record: &[u8]) {
        self.audit.records += 1;
        self.audit.bytes += (key.len() + record.len()) as u64;
        let result = check(key, record).and_then(|()| self.collect(key, record));
        if let Err(error) = result {
            self.refuse(key, &error);
        }
    }

    fn collect(&mut self, key: &[u8], record: &[u8]) -> Result<(), StoreError> {
        let id = keys::id_of(key);
        match (key[0], id) {
            (b'm', _) if key == keys::IMPORTING => {
                self.audit.find("the store", "it was imported in part only");
            }
            // (A suspect or an update may belong to a workflow that is gone: the next open deletes it.)
            (b'm' | b'k' | b'g', _) => {}
            (b'b', Some(root)) => {
                let waiting: Waiting = codec::decode(Kind::Waiting, key, record)?;
                self.audit.waiting += 1;
                for other in waiting.keys(root) {
                    if self.store.get(&other)?.is_none() {
                        self.find(root, "it waits, and has no queue position");
                    }
                }
                let header = waiting.header(root)?;
                self.header(root, key, header);
            }
            (b'w', Some(root)) => {
                self.audit.live += 1;
                self.header(root, key, codec::decode(Kind::Head, key, record)?);
            }
            (b'e', _) => {
                let (_, root) = keys::timed_of(key).ok_or_else(|| malformed_key(key))?;
                self.audit.ended += 1;
                self.header(root, key, codec::decode(Kind::Head, key, record)?);
                if !self.results.contains(&root) && self.store.get(&keys::result(root))?.is_none() {
                    self.find(root, "it has ended, and has no result");
                }
            }
            (b'q', _) => {
                let (_, root) = keys::queued_of(key).ok_or_else(|| malformed_key(key))?;
                self.queue_position(root, key)?;
            }
            (b't' | b'u', _) => {
                let (_, root) = keys::timed_of(key).ok_or_else(|| malformed_key(key))?;
                self.queue_position(root, key)?;
            }
            (b'i', _) => {
                let root = codec::decode(Kind::Idempotency, key, record)?;
                self.keys.push((key.to_owned(), root));
            }
            (b'd', Some(group)) => {
                self.owners.insert(group.root());
                self.members(group, key, record)?;
            }
            (b's', Some(stream)) => {
                self.owners.insert(stream.root());
                for record in codec::segment_records(key, record)? {
                    self.record(stream, &record);
                }
            }
            (b'p', Some(node)) => {
                self.owners.insert(node.root());
                let part = key.get(17..21).and_then(|part| part.try_into().ok());
                let part = part
                    .map(u32::from_be_bytes)
                    .ok_or_else(|| malformed_key(key))?;
                let bytes = codec::unframe(Kind::Piece, key, record)?.len() as u64;
                let is_args = part >= keys::ARGS;
                let stored = self.pieces.entry((node, is_args)).or_default();
                stored.add(u64::from(part & !keys::ARGS), 1, bytes);
            }
            (b'c', Some(root)) => drop(self.owners.insert(root)),
            (b'x', Some(root)) => drop(self.marked.insert(root)),
            (b'r', Some(root)) => {
                let ended: Ended = codec::decode(Kind::Result, key, record)?;
                self.results.insert(root);
                self.outcome(root, &ended.outcome, true);
            }
            _ => return Err(malformed_key(key)),
        }
        Ok(())
    }

    /// Checks that the workflow has one header, under one of three keys.
    fn header(&mut self, root: Id, key: &[u8], header: WorkflowHeader) {
        if let Some(other) = self.headers.insert(root, key.to_owned()) {
            let what = format!(
                "it has two headers, {} and {}",
                finding::shown(&other),
                finding::shown(key)
            );
            self.find(root, what);
        }
        match &header.root {
            Some(node) => self.node(root, node),
            None => drop(self.wanted.groups.insert(keys::root_group(root), 1)),
        }
        if let Some(idempotency) = &header.idempotency_key {
            match self.store.get(&keys::idempotency(idempotency)) {
                Ok(Some(_)) => {}
                // A forgotten workflow frees its key, while handles retain its records.
                Ok(None)
                    if keys::timed_of(key)
                        .is_some_and(|(at_ms, _)| key[0] == b'e' && at_ms == 0) => {}
                Ok(None) => self.find(root, "its idempotency key is not there"),
                Err(error) => self.audit.fail(&error),
            }
        }
    }

    fn queue_position(&mut self, root: Id, key: &[u8]) -> Result<(), StoreError> {
        let waiting = keys::waiting(root);
        let record = self.store.get(&waiting)?;
        let is_its_own = match record {
            Some(record) => {
                let known: Waiting = codec::decode(Kind::Waiting, &waiting, &record)?;
                known.keys(root).any(|other| other == key)
            }
            None => false,
        };
        if !is_its_own {
            let what = "it has a queue position, and does not wait for it";
            self.find(root, what);
        }
        Ok(())
    }

    /// Adds a members record, or one part of it.
    fn members(&mut self, group: Id, key: &[u8], record: &[u8]) -> Result<(), StoreError> {
        let first = keys::number_of(key).ok_or_else(|| malformed_key(key))?;
        let bytes = codec::unframe(Kind::Members, key, record)?;
        match &mut self.pack {
            Some(pack) if (pack.group, pack.first) == (group, first) => {
                pack.parts.extend_from_slice(bytes);
                Ok(())
            }
            _ => {
                self.finish_members();
                self.pack = Some(MembersRecord {
                    key: key.to_owned(),
                    group,
                    first,
                    parts: bytes.to_owned(),
                });
                Ok(())
            }
        }
    }

    fn finish_members(&mut self) {
        let Some(pack) = self.pack.take() else {
            return;
        };
        let nodes = match member_pages::decode_members(&pack.key, pack.parts) {
            Ok(nodes) => nodes,
            Err(error) => return self.unread.push((pack.group.root(), error)),
        };
        let stored = self.groups.entry(pack.group).or_default();
        stored.add(pack.first, nodes.len() as u64, nodes.len() as u64);
        for node in &nodes {
            self.node(pack.group.root(), node);
        }
    }

    /// Collects the stored members that a node requires. Recursive only over nesting whose depth is
    /// limited: a canvas that is too deep is refused.
    fn node(&mut self, root: Id, node: &Node) {
        match &node.def {
            Def::Task(_) => {}
            Def::Chain(steps) => steps.iter().for_each(|step| self.node(root, step)),
            Def::Group(fan) => self.fan(root, node.seq, fan),
            Def::Chord { header, body } | Def::Fold { header, body, .. } => {
                self.fan(root, node.seq, header);
                self.node(root, body);
            }
        }
        if let Some(callbacks) = &node.callbacks {
            let all = callbacks.link.iter().chain(&callbacks.link_error);
            all.for_each(|node| self.node(root, node));
        }
    }

    fn fan(&mut self, root: Id, seq: Seq, fan: &FanOutDef) {
        match &fan.members {
            Members::Inline(members) => members.iter().for_each(|node| self.node(root, node)),
            Members::Stored(size) => drop(self.wanted.groups.insert(root.node(seq), *size)),
            // The template is stored whole.
            Members::Each { .. } => {}
        }
    }

    fn record(&mut self, stream: Id, record: &Record) {
        let root = stream.root();
        match record {
            Record::Child { change, .. } => match change {
                ChildProgress::Waiting { past: history, .. }
                | ChildProgress::WaitingUntil { past: history, .. }
                | ChildProgress::Started(history) => self.history(root, history),
                ChildProgress::Done(outcome) => self.outcome(root, outcome, false),
            },
            Record::Due { input, .. } => self.value(root, input, false),
            Record::Folded { acc, .. } => self.value(root, acc, false),
            Record::Offspring { index, node, .. } => match node {
                Some(node) => self.node(root, node),
                None => self.subtask_record(stream, *index),
            },
            Record::Verdict(_)
            | Record::Expanded { .. }
            | Record::Reached { .. }
            | Record::Forgotten
            | Record::Revoked { .. }
            | Record::Submitted { .. }
            | Record::SubmittedBy { .. } => {}
        }
    }

    fn subtask_record(&mut self, task: Id, index: Index) {
        match self.store.get(&keys::members(task, index, 0)) {
            Ok(Some(_)) => {}
            Ok(None) => self.find(task.root(), format!("task {task} has no child {index}")),
            Err(error) => self.audit.fail(&error),
        }
    }

    fn history(&mut self, root: Id, history: &AttemptHistory) {
        if let Some(args) = &history.args {
            self.value(root, args, false);
        }
    }

    fn outcome(&mut self, root: Id, outcome: &Outcome, is_last: bool) {
        if let Outcome::Success(value) = outcome {
            self.value(root, value, is_last);
        }
    }

    /// Collects the pieces that a value requires; its length only if the value is never
    /// overwritten.
    fn value(&mut self, root: Id, value: &Value, is_last: bool) {
        let (seq, len, is_args) = match value {
            Value::Stored { seq, len } => (*seq, *len, false),
            Value::Args { seq, len } => (*seq, *len, true),
            Value::Extended { own, .. } => return self.value(root, own, is_last),
            Value::Inline(_) | Value::Gathered { .. } => return,
        };
        let min_len = self
            .wanted
            .values
            .entry((root.node(seq), is_args))
            .or_default();
        if is_last {
            *min_len = len;
        }
    }

    /// Compares the collected parts after the last record; returns the records and workflows that
    /// are broken.
    pub(super) fn close(mut self) -> Broken {
        self.finish_members();
        self.check_parts();
        self.check_headers();
        self.broken
    }

    /// Compares the parts with the records that require them.
    fn check_parts(&mut self) {
        for (root, error) in std::mem::take(&mut self.unread) {
            if !self.marked.contains(&root) {
                self.audit.fail(&error);
                self.broken.workflows.insert(root);
            }
        }
        for (group, size) in std::mem::take(&mut self.wanted.groups) {
            let stored = self.groups.remove(&group).unwrap_or_default();
            if (stored.count != size || stored.has_gaps) && !self.marked.contains(&group.root()) {
                let what = format!("group {group} has {} of its {size} members", stored.count);
                self.find(group.root(), what);
            }
        }
        for ((node, is_args), min_len) in std::mem::take(&mut self.wanted.values) {
            let stored = self.pieces.get(&(node, is_args));
            let is_there = stored.is_some_and(|stored| stored.count >= min_len && !stored.has_gaps);
            if !is_there && !self.marked.contains(&node.root()) {
                self.find(node.root(), format!("a value of {node} is not all there"));
            }
        }
    }

    /// Compares the workflows that records belong to with the stored headers.
    fn check_headers(&mut self) {
        for (key, root) in std::mem::take(&mut self.keys) {
            if !self.headers.contains_key(&root) {
                let what = format!("idempotency key {} names it", finding::shown(&key));
                self.find(root, format!("it is not there, and {what}"));
                self.broken.records.insert(key);
            }
        }
        for root in std::mem::take(&mut self.owners) {
            if !self.headers.contains_key(&root) && !self.marked.contains(&root) {
                self.find(root, "it has parts and no header");
            }
        }
        for root in std::mem::take(&mut self.results) {
            if self.headers.get(&root).is_none_or(|key| key[0] == b'b') {
                self.find(root, "it has a result, and is not there");
            }
        }
        for root in std::mem::take(&mut self.marked) {
            if self.headers.contains_key(&root) {
                self.find(root, "it is marked for deletion, and has a header");
            }
        }
    }
}

impl Numbered {
    /// Adds a part numbered `first` that covers `numbers` numbers and counts `count`.
    fn add(&mut self, first: u64, numbers: u64, count: u64) {
        self.has_gaps |= first != self.next;
        self.next = first + numbers;
        self.count += count;
    }
}

fn malformed_key(key: &[u8]) -> StoreError {
    StoreError::Corrupt {
        path_or_place: format!("record {}", finding::shown(key)),
        what: "its key is malformed".to_owned(),
    }
}
