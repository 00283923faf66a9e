//! What is left of a damaged store, put into a new one.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use tracing::warn;

use super::audit::{Audit, Broken, Finding};
use super::backlog::Waiting;
use super::codec::{self, Kind};
use super::definition::WorkflowHeader;
use super::files::{begin_copy, failed, rename, sync_dir, with_ending};
use super::reader::Ended;
use super::{Batch, Durability, SledStore, Store, StoreError, audit, data_dir, keys, meta};
use crate::canvas::id::Id;
use crate::canvas::machine::pending_limit::Load;

/// About how many bytes are copied at once.
const BATCH: usize = 256 << 10;
/// To take a broken workflow out may show one more that is; never this often.
const ROUNDS: usize = 8;

/// What [`App::salvage`](crate::App::salvage) has copied, and what is missing.
///
/// A workflow that has not ended may be found as it was some time before the damage: when the new store is
/// opened it goes on from there, and may run again what it had run. These are [`unfinished`](Self::unfinished).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Salvaged {
    /// Records in the new store.
    pub records: u64,
    /// Workflows in the new store. No part of any of them is missing.
    pub workflows: u64,
    /// Those of them that have not ended, and go on when the new store is opened.
    pub unfinished: Vec<Id>,
    /// Workflows of which a part is missing or cannot be read. They are not in the new store.
    pub incomplete: Vec<Id>,
    /// Commits that were read from the log.
    pub commits: u64,
    /// Commits that the log is known to have held and that cannot be read; what was in them is missing.
    pub missing_commits: u64,
    /// Files, places in files, records and workflows that could not be read or are not whole, the first
    /// thousand of them.
    pub findings: Vec<Finding>,
    /// How many more findings there are.
    pub omitted: u64,
}

impl Salvaged {
    /// Returns whether the new store holds all that the old one held.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.findings.is_empty()
    }
}

/// Copies what can be read of the store in `dir`, which nobody has open, into a new store of the same engine
/// in `to`. See [`App::salvage`](crate::App::salvage).
pub(crate) fn salvage(dir: &Path, to: &Path) -> Result<Salvaged, StoreError> {
    let home = dir.canonicalize().map_err(|e| failed("salvage", dir, e))?;
    let _lock = data_dir::lock_read_only(&home)?;
    let to = check_target(&home, to)?;
    let part = with_ending(&to, ".part");
    begin_copy(&part)?;
    let made = salvage_into(&home, &part.join("store")).and_then(|report| {
        let _ = fs::remove_dir(&to);
        rename(&part.join("store"), &to)?;
        to.parent().map_or(Ok(()), sync_dir)?;
        Ok(report)
    });
    if let Err(error) = fs::remove_dir_all(&part) {
        warn!(path = %part.display(), %error, "what was made of a store is left behind");
    }
    made
}

fn salvage_into(home: &Path, to: &Path) -> Result<Salvaged, StoreError> {
    if home.join("sled").is_dir() {
        let store = SledStore::open(to)?;
        let mut salvage = Salvage::new(&store);
        super::sled::salvage(home, &mut salvage)?;
        return salvage.finish();
    }
    #[cfg(feature = "redb")]
    if home.join("redb").is_dir() {
        let store = super::RedbStore::open(to)?;
        let mut salvage = Salvage::new(&store);
        super::redb::salvage(home, to, &mut salvage)?;
        return salvage.finish();
    }
    Err(failed("find a store in", home, ErrorKind::NotFound.into()))
}

/// Checks that a new store can be made in `to`, and that this changes nothing in `dir`.
fn check_target(dir: &Path, to: &Path) -> Result<PathBuf, StoreError> {
    let doing = "salvage a store to";
    let to = std::path::absolute(to).map_err(|e| failed(doing, to, e))?;
    let above = to.ancestors().find_map(|above| above.canonicalize().ok());
    if above.is_some_and(|above| above.starts_with(dir)) {
        let why = std::io::Error::new(ErrorKind::InvalidInput, "it lies in the damaged store");
        return Err(failed(doing, &to, why));
    }
    match fs::read_dir(&to) {
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(to),
        Err(e) => Err(failed(doing, &to, e)),
        Ok(mut names) => match names.next() {
            None => Ok(to),
            Some(_) => Err(failed(doing, &to, ErrorKind::DirectoryNotEmpty.into())),
        },
    }
}

/// A new store that takes in what is found of an old one.
pub(super) struct Salvage<'a> {
    store: &'a dyn Store,
    batch: Batch,
    audit: Audit,
    pub(super) report: Salvaged,
}

impl<'a> Salvage<'a> {
    fn new(store: &'a dyn Store) -> Self {
        Self {
            store,
            batch: Batch::new(),
            audit: Audit::default(),
            report: Salvaged::default(),
        }
    }

    pub(super) fn find(&mut self, place: impl Into<String>, what: impl Into<String>) {
        self.audit.find(place, what);
    }

    /// Notes an error that reading has met.
    #[cfg(feature = "redb")]
    pub(super) fn fail(&mut self, error: &StoreError) {
        self.audit.fail(error);
    }

    pub(super) fn put(&mut self, key: Vec<u8>, value: Vec<u8>) -> Result<(), StoreError> {
        // A key that no store has would stop the new one.
        if key.first().is_none_or(|tag| *tag == 0 || *tag == 0xff) {
            self.find(
                format!("record {}", keys::shown(&key)),
                "no record has such a key",
            );
            return Ok(());
        }
        if key == keys::IMPORTING {
            self.find("the store", "an import into it was cut short");
            return Ok(());
        }
        self.batch.put(key, value);
        self.flush_when(BATCH)
    }

    /// Deletes what there is between two keys; an empty end is none.
    pub(super) fn clear(&mut self, from: &[u8], to: &[u8]) -> Result<(), StoreError> {
        self.flush_when(0)?;
        let from = from.max(&[0]);
        let to = if to.is_empty() { &[0xff][..] } else { to };
        for pair in self.store.scan(from, to) {
            self.batch.delete(pair?.0);
        }
        self.flush_when(BATCH)
    }

    /// Makes the changes of one commit.
    pub(super) fn apply(&mut self, batch: Batch) -> Result<(), StoreError> {
        self.flush_when(0)?;
        self.store.apply(batch)?;
        self.store.sync(Durability::Buffered)
    }

    fn flush_when(&mut self, bytes: usize) -> Result<(), StoreError> {
        if self.batch.bytes() >= bytes && !self.batch.is_empty() {
            self.store.apply(std::mem::take(&mut self.batch))?;
            self.store.sync(Durability::Process)?;
        }
        Ok(())
    }

    /// Takes out what is not whole.
    fn finish(mut self) -> Result<Salvaged, StoreError> {
        self.flush_when(0)?;
        let mut incomplete = HashSet::new();
        for round in 0.. {
            self.mend()?;
            let mut audit = Audit::default();
            let broken = audit.read(self.store);
            if audit.is_sound() {
                break;
            }
            if round == ROUNDS || broken.is_empty() {
                let finding = &audit.findings[0];
                return Err(StoreError::Corrupt {
                    path_or_place: finding.place.clone(),
                    what: finding.what.clone(),
                });
            }
            self.audit.omitted += audit.omitted;
            for Finding { place, what } in audit.findings {
                self.audit.find(place, what);
            }
            self.remove(&broken)?;
            incomplete.extend(broken.workflows);
        }
        self.count()?;
        self.store.sync(Durability::Power)?;
        self.report.incomplete = incomplete.into_iter().collect();
        self.report.incomplete.sort_unstable();
        self.report.findings = self.audit.findings;
        self.report.omitted = self.audit.omitted;
        Ok(self.report)
    }

    /// Puts right what follows from other records: where a workflow stands in a queue, which
    /// idempotency key is its own, that it is not to be deleted; of two heads the later one is kept.
    fn mend(&mut self) -> Result<(), StoreError> {
        let store = self.store;
        let heads = Heads::of(store)?;
        let mut batch = Batch::new();
        for (root, head) in &heads.kept {
            let (key, record) = head;
            if key[0] == b'b'
                && let Ok(waiting) = codec::decode::<Waiting>(Kind::Waiting, key, record)
            {
                for (key, record) in waiting.records(*root) {
                    batch.put(key, record);
                }
            }
            let was_forgotten =
                key[0] == b'e' && keys::timed_of(key).is_some_and(|(ms, _)| ms == 0);
            if let Some(idempotency) =
                head_of(*root, key, record).and_then(|head| head.idempotency_key)
                && !was_forgotten
            {
                let key = keys::idempotency(&idempotency);
                batch.put(key, codec::encode(Kind::Idempotency, root));
            }
            batch.delete(keys::garbage_marker(*root));
        }
        for (root, key) in &heads.older {
            self.audit.find(
                format!("workflow {root}"),
                format!("an older head of it, {}, was left", keys::shown(key)),
            );
            batch.delete(key.clone());
        }
        // What stands for a workflow that is elsewhere, or nowhere.
        for tag in *b"qtui" {
            let (from, to) = keys::all(tag);
            for pair in store.scan(&from, &to) {
                let (key, record) = pair?;
                let is_right = match tag {
                    b'i' => codec::decode::<Id>(Kind::Idempotency, &key, &record)
                        .is_ok_and(|root| heads.kept.contains_key(&root)),
                    _ => audit::owner(&key).is_some_and(|root| heads.stands_at(root, &key)),
                };
                if !is_right {
                    batch.delete(key);
                }
            }
        }
        self.apply(batch)
    }

    /// Deletes the workflows that are broken, and the records that belong to none.
    fn remove(&mut self, broken: &Broken) -> Result<(), StoreError> {
        for pair in self.store.scan(&[0], &[0xff]) {
            let (key, _) = pair?;
            let is_broken = audit::owner(&key).is_some_and(|root| broken.workflows.contains(&root));
            if is_broken || broken.records.contains(&key) {
                self.batch.delete(key);
            }
        }
        self.flush_when(0)
    }

    /// Counts what there is, and puts right what the store itself counts.
    fn count(&mut self) -> Result<(), StoreError> {
        let heads = Heads::of(self.store)?;
        let mut pending = Load::default();
        for (root, (key, record)) in &heads.kept {
            if key[0] != b'e' {
                self.report.unfinished.push(*root);
                if let Some(head) = head_of(*root, key, record) {
                    pending.add(head.weight());
                }
            }
        }
        self.report.unfinished.sort_unstable();
        self.report.workflows = heads.kept.len() as u64;
        let mut last_commit = 0;
        for pair in self.store.scan(&[0], &[0xff]) {
            let (key, record) = pair?;
            self.report.records += 1;
            // What is above all commits that the store knows of is not seen by those who ask.
            let commit = match key[0] {
                b's' => keys::number_of(&key).unwrap_or(0),
                b'r' => codec::decode::<Ended>(Kind::Result, &key, &record)?.commit,
                _ => 0,
            };
            last_commit = last_commit.max(commit);
        }
        let mut batch = Batch::new();
        meta::raise(self.store, last_commit, &mut batch)?;
        let key = keys::PENDING;
        let known = self.store.get(key)?;
        if known.is_some() || pending != Load::default() {
            batch.put(key, codec::encode(Kind::Pending, &pending));
        }
        self.apply(batch)
    }
}

/// The heads of all workflows, as they are stored.
#[derive(Default)]
struct Heads {
    kept: HashMap<Id, (Vec<u8>, Vec<u8>)>,
    /// Heads of what has moved on since.
    older: Vec<(Id, Vec<u8>)>,
}

impl Heads {
    fn of(store: &dyn Store) -> Result<Self, StoreError> {
        let mut heads = Self::default();
        // In the order in which a workflow moves from one to the next.
        for tag in *b"bwe" {
            let (from, to) = keys::all(tag);
            for pair in store.scan(&from, &to) {
                let (key, record) = pair?;
                let Some(root) = audit::owner(&key) else {
                    continue;
                };
                if head_of(root, &key, &record).is_none() {
                    continue;
                }
                if let Some((older, _)) = heads.kept.insert(root, (key, record)) {
                    heads.older.push((root, older));
                }
            }
        }
        Ok(heads)
    }

    /// Returns whether this workflow waits where this key says.
    fn stands_at(&self, root: Id, turn: &[u8]) -> bool {
        self.kept.get(&root).is_some_and(|(key, record)| {
            let waiting = codec::decode::<Waiting>(Kind::Waiting, key, record);
            key[0] == b'b' && waiting.is_ok_and(|waiting| waiting.keys(root).any(|key| key == turn))
        })
    }
}

/// Reads the head of a workflow, in whichever of its places it stands.
fn head_of(root: Id, key: &[u8], record: &[u8]) -> Option<WorkflowHeader> {
    match key[0] {
        b'b' => codec::decode::<Waiting>(Kind::Waiting, key, record)
            .ok()?
            .head(root)
            .ok(),
        _ => codec::decode(Kind::Head, key, record).ok(),
    }
}
