//! Salvage: copies the intact part of a damaged store into a new one.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use tracing::warn;

use super::audit::{Audit, Broken};
use super::backlog::Waiting;
use super::codec::{self, Kind};
use super::definition::WorkflowHeader;
use super::reader::Ended;
use super::{audit, keys, meta};
use crate::canvas::admission::pending_limit::Load;
use crate::canvas::id::Id;
use crate::persistence::store::finding;
use crate::persistence::store::fs::data_dir;
use crate::persistence::store::fs::files::{begin_copy, failed, rename, sync_dir, with_ending};
use crate::persistence::store::salvage::SalvageSink;
use crate::persistence::{Batch, Durability, Engine, Finding, Store, StoreError};

/// The approximate number of bytes copied per batch.
const BATCH: usize = 256 << 10;
/// Removing a broken workflow may expose another broken one, but never this many times in a row.
const ROUNDS: usize = 8;

/// What [`App::salvage`](crate::App::salvage) copied, and what is missing.
///
/// An unfinished workflow may be copied in a state from some time before the damage: it resumes from
/// there when the new store is opened, and may run tasks again that had run. These workflows are
/// [`unfinished`](Self::unfinished).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Salvaged {
    /// Records in the new store.
    pub records: u64,
    /// Workflows in the new store. No part of any of them is missing.
    pub workflows: u64,
    /// The workflows of these that have not ended; they resume when the new store is opened.
    pub unfinished: Vec<Id>,
    /// Workflows with a missing or unreadable part. They are not in the new store.
    pub incomplete: Vec<Id>,
    /// Commits read from the log.
    pub commits: u64,
    /// Commits that the log is known to have held and that cannot be read; their content is
    /// missing.
    pub missing_commits: u64,
    /// Unreadable or incomplete files, parts of files, records and workflows, at most the first
    /// thousand.
    pub findings: Vec<Finding>,
    /// The number of findings beyond these.
    pub omitted: u64,
}

impl Salvaged {
    /// Returns whether the new store holds everything that the old one held.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.findings.is_empty()
    }
}

/// Copies the readable part of the store in `dir`, which must not be open, into a new store of the
/// same engine in `to`. See [`App::salvage`](crate::App::salvage).
pub(crate) fn salvage(dir: &Path, to: &Path) -> Result<Salvaged, StoreError> {
    let data_dir = dir.canonicalize().map_err(|e| failed("salvage", dir, e))?;
    let _lock = data_dir::lock_read_only(&data_dir)?;
    let to = check_target(&data_dir, to)?;
    let part = with_ending(&to, ".part");
    begin_copy(&part)?;
    let copied = salvage_into(&data_dir, &part.join("store")).and_then(|report| {
        let _ = fs::remove_dir(&to);
        rename(&part.join("store"), &to)?;
        to.parent().map_or(Ok(()), sync_dir)?;
        Ok(report)
    });
    if let Err(error) = fs::remove_dir_all(&part) {
        warn!(path = %part.display(), %error, "an unfinished copy of a store is left behind");
    }
    copied
}

fn salvage_into(data_dir: &Path, to: &Path) -> Result<Salvaged, StoreError> {
    let engine = Engine::of(data_dir)?;
    let store = engine.open(to)?;
    let mut salvage = Salvage::new(&*store);
    engine.salvage(data_dir, to, &mut salvage)?;
    salvage.finish()
}

/// Checks that a new store can be created in `to`, and that creating it changes nothing in `dir`.
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

/// A new store that receives the readable records of an old one.
struct Salvage<'a> {
    store: &'a dyn Store,
    batch: Batch,
    audit: Audit,
    report: Salvaged,
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

    /// Applies a batch after the records added before.
    fn apply(&mut self, batch: Batch) -> Result<(), StoreError> {
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

    /// Removes incomplete workflows until the store is sound.
    fn finish(mut self) -> Result<Salvaged, StoreError> {
        self.flush_when(0)?;
        let mut incomplete = HashSet::new();
        for round in 0.. {
            self.repair()?;
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
            for finding in audit.findings {
                self.audit.add(finding);
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

    /// Repairs records that follow from others: queue positions, idempotency keys, garbage markers;
    /// of two headers of one workflow the later one stays.
    fn repair(&mut self) -> Result<(), StoreError> {
        let store = self.store;
        let headers = Headers::of(store)?;
        let mut batch = Batch::new();
        for (root, header) in &headers.kept {
            let (key, record) = header;
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
                header_of(*root, key, record).and_then(|header| header.idempotency_key)
                && !was_forgotten
            {
                let key = keys::idempotency(&idempotency);
                batch.put(key, codec::encode(Kind::Idempotency, root));
            }
            batch.delete(keys::garbage_marker(*root));
        }
        for (root, key) in &headers.older {
            self.audit.find(
                format!("workflow {root}"),
                format!("an older header of it, {}, was left", finding::shown(key)),
            );
            batch.delete(key.clone());
        }
        // Delete positions and idempotency keys whose workflow has moved on, or is missing.
        for tag in *b"qtui" {
            let (from, to) = keys::all(tag);
            for pair in store.scan(&from, &to) {
                let (key, record) = pair?;
                let is_right = match tag {
                    b'i' => codec::decode::<Id>(Kind::Idempotency, &key, &record)
                        .is_ok_and(|root| headers.kept.contains_key(&root)),
                    _ => audit::owner(&key).is_some_and(|root| headers.has_position(root, &key)),
                };
                if !is_right {
                    batch.delete(key);
                }
            }
        }
        self.apply(batch)
    }

    /// Deletes the broken workflows, and the broken records that belong to none.
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

    /// Counts the records and workflows, and corrects the counts that the store keeps.
    fn count(&mut self) -> Result<(), StoreError> {
        let headers = Headers::of(self.store)?;
        let mut pending = Load::default();
        for (root, (key, record)) in &headers.kept {
            if key[0] != b'e' {
                self.report.unfinished.push(*root);
                if let Some(header) = header_of(*root, key, record) {
                    pending.add(header.load());
                }
            }
        }
        self.report.unfinished.sort_unstable();
        self.report.workflows = headers.kept.len() as u64;
        let mut last_commit = 0;
        for pair in self.store.scan(&[0], &[0xff]) {
            let (key, record) = pair?;
            self.report.records += 1;
            // Readers do not see commits above the last one that the store has recorded.
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

impl SalvageSink for Salvage<'_> {
    fn find(&mut self, finding: Finding) {
        self.audit.add(finding);
    }

    fn put(&mut self, key: Vec<u8>, value: Vec<u8>) -> Result<(), StoreError> {
        // A key that no store has would keep the new store from opening.
        if key.first().is_none_or(|tag| *tag == 0 || *tag == 0xff) {
            let place = format!("record {}", finding::shown(&key));
            self.audit.find(place, "no record has such a key");
            return Ok(());
        }
        if key == keys::IMPORTING {
            self.audit
                .find("the store", "an import into it was cut short");
            return Ok(());
        }
        self.batch.put(key, value);
        self.flush_when(BATCH)
    }

    fn clear(&mut self, from: &[u8], to: &[u8]) -> Result<(), StoreError> {
        self.flush_when(0)?;
        let from = from.max(&[0]);
        let to = if to.is_empty() { &[0xff][..] } else { to };
        for pair in self.store.scan(from, to) {
            self.batch.delete(pair?.0);
        }
        self.flush_when(BATCH)
    }

    fn commit(&mut self, batch: Batch) -> Result<(), StoreError> {
        self.apply(batch)?;
        self.report.commits += 1;
        Ok(())
    }

    fn miss_commits(&mut self, count: u64) {
        self.report.missing_commits += count;
    }
}

/// The headers of all workflows, as they are stored.
#[derive(Default)]
struct Headers {
    kept: HashMap<Id, (Vec<u8>, Vec<u8>)>,
    /// The keys of headers that a later one supersedes.
    older: Vec<(Id, Vec<u8>)>,
}

impl Headers {
    fn of(store: &dyn Store) -> Result<Self, StoreError> {
        let mut headers = Self::default();
        // In the order in which a header moves from one tag to the next.
        for tag in *b"bwe" {
            let (from, to) = keys::all(tag);
            for pair in store.scan(&from, &to) {
                let (key, record) = pair?;
                let Some(root) = audit::owner(&key) else {
                    continue;
                };
                if header_of(root, &key, &record).is_none() {
                    continue;
                }
                if let Some((older, _)) = headers.kept.insert(root, (key, record)) {
                    headers.older.push((root, older));
                }
            }
        }
        Ok(headers)
    }

    /// Returns whether this is a queue position of the waiting workflow.
    fn has_position(&self, root: Id, position: &[u8]) -> bool {
        self.kept.get(&root).is_some_and(|(key, record)| {
            let waiting = codec::decode::<Waiting>(Kind::Waiting, key, record);
            key[0] == b'b'
                && waiting.is_ok_and(|waiting| waiting.keys(root).any(|key| key == position))
        })
    }
}

/// Decodes the header of a workflow, under any of its keys.
fn header_of(root: Id, key: &[u8], record: &[u8]) -> Option<WorkflowHeader> {
    match key[0] {
        b'b' => codec::decode::<Waiting>(Kind::Waiting, key, record)
            .ok()?
            .header(root)
            .ok(),
        _ => codec::decode(Kind::Head, key, record).ok(),
    }
}
