//! The books of an audit: what has been read, and what follows from it for the rest.

use std::collections::{HashMap, HashSet};

use super::{Audit, Broken, check, owner};
use crate::canvas::freeze::{Def, FanOutDef, Members, Node};
use crate::canvas::id::{Id, Seq};
use crate::canvas::machine::{AttemptHistory, ChildProgress, Index, Record};
use crate::canvas::outcome::{Outcome, Value};
use crate::persistence::backlog::Waiting;
use crate::persistence::codec::{self, Kind};
use crate::persistence::definition::{self, WorkflowHeader};
use crate::persistence::reader::Ended;
use crate::persistence::{Store, StoreError, keys};

/// What has been read so far, as far as other records depend on it.
pub(super) struct Books<'a> {
    audit: &'a mut Audit,
    broken: Broken,
    store: &'a dyn Store,
    /// The key of each workflow's head.
    heads: HashMap<Id, Vec<u8>>,
    /// The workflows that parts belong to.
    owners: HashSet<Id>,
    results: HashSet<Id>,
    /// What is left of these is to be deleted.
    marked: HashSet<Id>,
    /// How many stored members there are of each group.
    groups: HashMap<Id, Stored>,
    /// The bytes of each value in pieces; of a task's arguments under `true`.
    pieces: HashMap<(Id, bool), Stored>,
    wanted: Wanted,
    /// Idempotency keys, and what they stand for.
    keys: Vec<(Vec<u8>, Id)>,
    /// Members whose record is in parts, as far as these have been read.
    pack: Option<Pack>,
    /// Of these the members cannot be read: no harm if that is because some of their parts are deleted.
    unread: Vec<(Id, StoreError)>,
}

/// What is numbered from 0 on.
#[derive(Default)]
struct Stored {
    count: u64,
    /// The part or index that must come next.
    next: u64,
    has_gaps: bool,
}

/// What records say must be there.
#[derive(Default)]
struct Wanted {
    groups: HashMap<Id, u64>,
    /// Values in pieces, and how many bytes they have at least.
    values: HashMap<(Id, bool), u64>,
}

struct Pack {
    key: Vec<u8>,
    group: Id,
    first: u64,
    parts: Vec<u8>,
}

impl<'a> Books<'a> {
    pub(super) fn new(audit: &'a mut Audit, store: &'a dyn Store) -> Self {
        Self {
            audit,
            broken: Broken::default(),
            store,
            heads: HashMap::new(),
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

    /// Notes what is wrong with a workflow.
    fn find(&mut self, root: Id, what: impl Into<String>) {
        self.audit.find(format!("workflow {root}"), what);
        self.broken.workflows.insert(root);
    }

    /// Notes what is wrong with a record.
    fn refuse(&mut self, key: &[u8], error: &StoreError) {
        self.audit.fail(error);
        match owner(key) {
            Some(root) => drop(self.broken.workflows.insert(root)),
            None => drop(self.broken.records.insert(key.to_owned())),
        }
    }

    pub(super) fn enter(&mut self, key: &[u8], record: &[u8]) {
        self.audit.records += 1;
        self.audit.bytes += (key.len() + record.len()) as u64;
        let result = check(key, record).and_then(|()| self.post(key, record));
        if let Err(error) = result {
            self.refuse(key, &error);
        }
    }

    fn post(&mut self, key: &[u8], record: &[u8]) -> Result<(), StoreError> {
        let id = keys::id_of(key);
        match (key[0], id) {
            (b'm', _) if key == keys::IMPORTING => {
                self.audit.find("the store", "it was imported in part only");
            }
            // (A suspect may be of a workflow that is gone: the next open lets go of it.)
            (b'm' | b'k', _) => {}
            (b'b', Some(root)) => {
                let waiting: Waiting = codec::decode(Kind::Waiting, key, record)?;
                self.audit.waiting += 1;
                for other in waiting.keys(root) {
                    if self.store.get(&other)?.is_none() {
                        self.find(root, "it waits, and has no turn");
                    }
                }
                let head = waiting.head(root)?;
                self.head(root, key, head);
            }
            (b'w', Some(root)) => {
                self.audit.live += 1;
                self.head(root, key, codec::decode(Kind::Head, key, record)?);
            }
            (b'e', _) => {
                let (_, root) = keys::timed_of(key).ok_or_else(|| odd(key))?;
                self.audit.ended += 1;
                self.head(root, key, codec::decode(Kind::Head, key, record)?);
                if !self.results.contains(&root) && self.store.get(&keys::result(root))?.is_none() {
                    self.find(root, "it has ended, and has no result");
                }
            }
            (b'q', _) => {
                let (_, root) = keys::turn_of(key).ok_or_else(|| odd(key))?;
                self.turn(root, key)?;
            }
            (b't' | b'u', _) => {
                let (_, root) = keys::timed_of(key).ok_or_else(|| odd(key))?;
                self.turn(root, key)?;
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
                let part = part.map(u32::from_be_bytes).ok_or_else(|| odd(key))?;
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
            _ => return Err(odd(key)),
        }
        Ok(())
    }

    /// Each workflow has one head, in one of three places.
    fn head(&mut self, root: Id, key: &[u8], head: WorkflowHeader) {
        if let Some(other) = self.heads.insert(root, key.to_owned()) {
            let what = format!(
                "it has two heads, {} and {}",
                keys::shown(&other),
                keys::shown(key)
            );
            self.find(root, what);
        }
        match &head.root {
            Some(node) => self.node(root, node),
            None => drop(self.wanted.groups.insert(keys::root_group(root), 1)),
        }
        if let Some(idempotency) = &head.idempotency_key {
            match self.store.get(&keys::idempotency(idempotency)) {
                Ok(Some(_)) => {}
                // Of what was forgotten the key is free, while handles keep the rest.
                Ok(None)
                    if keys::timed_of(key)
                        .is_some_and(|(at_ms, _)| key[0] == b'e' && at_ms == 0) => {}
                Ok(None) => self.find(root, "its idempotency key is not there"),
                Err(error) => self.audit.fail(&error),
            }
        }
    }

    fn turn(&mut self, root: Id, key: &[u8]) -> Result<(), StoreError> {
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
            let what = "it has a turn, and does not wait for it";
            self.find(root, what);
        }
        Ok(())
    }

    /// A record of members, or a part of one.
    fn members(&mut self, group: Id, key: &[u8], record: &[u8]) -> Result<(), StoreError> {
        let first = keys::number_of(key).ok_or_else(|| odd(key))?;
        let bytes = codec::unframe(Kind::Members, key, record)?;
        match &mut self.pack {
            Some(pack) if (pack.group, pack.first) == (group, first) => {
                pack.parts.extend_from_slice(bytes);
                Ok(())
            }
            _ => {
                self.unpack();
                self.pack = Some(Pack {
                    key: key.to_owned(),
                    group,
                    first,
                    parts: bytes.to_owned(),
                });
                Ok(())
            }
        }
    }

    fn unpack(&mut self) {
        let Some(pack) = self.pack.take() else {
            return;
        };
        let nodes = match definition::decode_members(&pack.key, pack.parts) {
            Ok(nodes) => nodes,
            Err(error) => return self.unread.push((pack.group.root(), error)),
        };
        let stored = self.groups.entry(pack.group).or_default();
        stored.add(pack.first, nodes.len() as u64, nodes.len() as u64);
        for node in &nodes {
            self.node(pack.group.root(), node);
        }
    }

    /// Notes which stored members a node has. Not recursive in what a user can make deep without
    /// bound: a canvas that is too deep is refused.
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
            // It stands whole in its template.
            Members::Each { .. } => {}
        }
    }

    fn record(&mut self, stream: Id, record: &Record) {
        let root = stream.root();
        match record {
            Record::Child { change, .. } => match change {
                ChildProgress::Waiting { past, .. }
                | ChildProgress::WaitingUntil { past, .. }
                | ChildProgress::Started(past) => self.past(root, past),
                ChildProgress::Done(outcome) => self.outcome(root, outcome, false),
            },
            Record::Due { input, .. } => self.value(root, input, false),
            Record::Folded { acc, .. } => self.value(root, acc, false),
            Record::Offspring { index, node, .. } => match node {
                Some(node) => self.node(root, node),
                None => self.child_beside(stream, *index),
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

    fn child_beside(&mut self, task: Id, index: Index) {
        match self.store.get(&keys::members(task, index, 0)) {
            Ok(Some(_)) => {}
            Ok(None) => self.find(task.root(), format!("task {task} has no child {index}")),
            Err(error) => self.audit.fail(&error),
        }
    }

    fn past(&mut self, root: Id, past: &AttemptHistory) {
        if let Some(args) = &past.args {
            self.value(root, args, false);
        }
    }

    fn outcome(&mut self, root: Id, outcome: &Outcome, is_last: bool) {
        if let Outcome::Success(value) = outcome {
            self.value(root, value, is_last);
        }
    }

    /// Notes which pieces a value has; how large it is only if nothing is written over it later.
    fn value(&mut self, root: Id, value: &Value, is_last: bool) {
        let (seq, len, is_args) = match value {
            Value::Stored { seq, len } => (*seq, *len, false),
            Value::Args { seq, len } => (*seq, *len, true),
            Value::Extended { own, .. } => return self.value(root, own, is_last),
            Value::Inline(_) | Value::Gathered { .. } => return,
        };
        let least = self
            .wanted
            .values
            .entry((root.node(seq), is_args))
            .or_default();
        if is_last {
            *least = len;
        }
    }

    /// Compares, when all has been read; returns what cannot stay as it is.
    pub(super) fn close(mut self) -> Broken {
        self.unpack();
        self.close_parts();
        self.close_heads();
        self.broken
    }

    /// Compares what was stored in parts with what records say of these.
    fn close_parts(&mut self) {
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
        for ((node, is_args), least) in std::mem::take(&mut self.wanted.values) {
            let stored = self.pieces.get(&(node, is_args));
            let is_there = stored.is_some_and(|stored| stored.count >= least && !stored.has_gaps);
            if !is_there && !self.marked.contains(&node.root()) {
                self.find(node.root(), format!("a value of {node} is not all there"));
            }
        }
    }

    /// Compares the workflows that records belong to with those that are there.
    fn close_heads(&mut self) {
        for (key, root) in std::mem::take(&mut self.keys) {
            if !self.heads.contains_key(&root) {
                let what = format!("idempotency key {} stands for it", keys::shown(&key));
                self.find(root, format!("it is not there, and {what}"));
                self.broken.records.insert(key);
            }
        }
        for root in std::mem::take(&mut self.owners) {
            if !self.heads.contains_key(&root) && !self.marked.contains(&root) {
                self.find(root, "it has parts and no head");
            }
        }
        for root in std::mem::take(&mut self.results) {
            if self.heads.get(&root).is_none_or(|key| key[0] == b'b') {
                self.find(root, "it has a result, and is not there");
            }
        }
        for root in std::mem::take(&mut self.marked) {
            if self.heads.contains_key(&root) {
                self.find(root, "it is marked for deletion, and has a head");
            }
        }
    }
}

impl Stored {
    /// Something numbered `at` that takes so many numbers.
    fn add(&mut self, at: u64, numbers: u64, count: u64) {
        self.has_gaps |= at != self.next;
        self.next = at + numbers;
        self.count += count;
    }
}

fn odd(key: &[u8]) -> StoreError {
    StoreError::Corrupt {
        path_or_place: format!("record {}", keys::shown(key)),
        what: "its key is not whole".to_owned(),
    }
}
