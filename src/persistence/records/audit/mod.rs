//! An audit: reads every record of a store and compares the records with each other.

mod cross_checks;

use std::collections::HashSet;

use serde::{Deserialize, Serialize};

use self::cross_checks::CrossChecks;
use super::backlog::Waiting;
use super::breakers;
use super::codec::{self, Kind};
use super::controls;
use super::definition::WorkflowHeader;
use super::keys;
use super::meta::{Opening, Session};
use super::reader::Ended;
use super::schedules;
use super::starts;
use super::steady::ClockReading;
use super::updates;
use crate::canvas::admission::pending_limit::Load;
use crate::canvas::id::{Id, Seq};
use crate::canvas::quarantine::Suspect;
use crate::persistence::store::{Finding, finding};
use crate::persistence::{Store, StoreError};

/// The most findings that are kept; all are counted.
const MAX_FINDINGS: usize = 1_000;

/// What [`App::verify`](crate::App::verify) found in a store.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Audit {
    /// Segments of the log that are in use; none in a store whose engine has no log of ours.
    pub segments: u64,
    /// Complete frames in these segments, one per commit.
    pub frames: u64,
    /// Records.
    pub records: u64,
    /// The bytes of their keys and values.
    pub bytes: u64,
    /// Workflows that wait for capacity in their lane or for their time.
    pub waiting: u64,
    /// Workflows that have begun and have not ended.
    pub live: u64,
    /// Workflows that have ended and are retained.
    pub ended: u64,
    /// The defects, at most the first thousand.
    pub findings: Vec<Finding>,
    /// The number of defects beyond these.
    pub omitted: u64,
}

/// Reads all records of an open store of any kind and compares them with each other. Nothing may
/// write to the store meanwhile. For a closed store in a directory see
/// [`App::verify`](crate::App::verify).
///
/// # Examples
/// ```
/// # use chordal::persistence::{self, Batch, MemoryStore, Store};
/// let store = MemoryStore::new();
/// assert!(persistence::verify(&store).is_sound());
/// let mut batch = Batch::new();
/// batch.put("w without an id", "x");
/// store.apply(batch)?;
/// assert_eq!(persistence::verify(&store).findings.len(), 1);
/// # Ok::<(), chordal::StoreError>(())
/// ```
#[must_use]
pub fn verify(store: &dyn Store) -> Audit {
    let mut audit = Audit::default();
    let _ = audit.read(store);
    audit
}

impl Audit {
    /// Returns whether no defect was found.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        self.findings.is_empty()
    }

    pub(crate) fn find(&mut self, place: impl Into<String>, what: impl Into<String>) {
        self.add(Finding::new(place, what));
    }

    /// Adds an error that reading returned.
    pub(crate) fn fail(&mut self, error: &StoreError) {
        self.add(error.into());
    }

    pub(crate) fn add(&mut self, finding: Finding) {
        if self.findings.len() == MAX_FINDINGS {
            self.omitted += 1;
            return;
        }
        self.findings.push(finding);
    }

    /// Reads all records of a store that no task writes to; returns the broken ones. The memory
    /// used grows with the number of workflows.
    pub(crate) fn read(&mut self, store: &dyn Store) -> Broken {
        let mut checks = CrossChecks::new(self, store);
        for pair in store.scan(&[0], &[0xff]) {
            match pair {
                Ok((key, value)) => checks.add(&key, &value),
                Err(error) => {
                    checks.fail(&error);
                    return Broken::default();
                }
            }
        }
        checks.close()
    }
}

/// The records and workflows in which an audit found a defect.
#[derive(Debug, Default)]
pub(crate) struct Broken {
    pub(crate) workflows: HashSet<Id>,
    /// Keys of unreadable records that belong to no workflow.
    pub(crate) records: HashSet<Vec<u8>>,
}

impl Broken {
    pub(crate) fn is_empty(&self) -> bool {
        self.workflows.is_empty() && self.records.is_empty()
    }
}

/// Returns the workflow that a record belongs to, if its key tells.
pub(crate) fn owner(key: &[u8]) -> Option<Id> {
    let id = match key.first()? {
        b'b' | b'w' | b'd' | b's' | b'p' | b'r' | b'c' | b'k' | b'g' | b'x' => keys::id_of(key),
        b'e' | b't' | b'u' => keys::timed_of(key).map(|(_, root)| root),
        b'q' => keys::queued_of(key).map(|(_, root)| root),
        _ => None,
    };
    id.map(Id::root)
}

/// Checks one record as far as that is possible without the others.
pub(crate) fn check(key: &[u8], record: &[u8]) -> Result<(), StoreError> {
    match key.first() {
        Some(b'm') if key == keys::META => drop(Opening::of(record)?),
        Some(b'm') if key == keys::LAST_SWEPT => {
            let _: Option<Id> = codec::decode(Kind::LastSwept, key, record)?;
        }
        Some(b'm') if key == keys::LIFE => drop(codec::decode::<Session>(Kind::Life, key, record)?),
        Some(b'm') if key == keys::CLOCK => {
            let _: ClockReading = codec::decode(Kind::Clock, key, record)?;
        }
        Some(b'm') if key == keys::PENDING => {
            let _: Load = codec::decode(Kind::Pending, key, record)?;
        }
        Some(b'm') if key.starts_with(keys::SCHEDULES) => drop(schedules::decode(key, record)?),
        Some(b'm') if key.starts_with(keys::STARTS) => drop(starts::decode(key, record)?),
        Some(b'm') if key.starts_with(keys::CONTROLS) => drop(controls::decode(key, record)?),
        Some(b'm') if key.starts_with(keys::BREAKERS) => drop(breakers::decode(key, record)?),
        Some(b'g') => drop(updates::decode(key, record)?),
        Some(b'k') => drop(codec::decode::<Suspect>(Kind::Suspect, key, record)?),
        Some(b'm') if key == keys::IMPORTING || key == keys::STOPPING => {
            codec::decode::<()>(Kind::Mark, key, record)?;
        }
        Some(b'b') => drop(codec::decode::<Waiting>(Kind::Waiting, key, record)?),
        Some(b'w' | b'e') => drop(codec::decode::<WorkflowHeader>(Kind::Head, key, record)?),
        Some(b'q' | b't' | b'u' | b'x') => codec::decode(Kind::Mark, key, record)?,
        Some(b'd') => drop(codec::unframe(Kind::Members, key, record)?),
        Some(b's') => drop(codec::segment_records(key, record)?),
        Some(b'p') => drop(codec::unframe(Kind::Piece, key, record)?),
        Some(b'r') => drop(codec::decode::<Ended>(Kind::Result, key, record)?),
        Some(b'c') => drop(codec::decode::<Seq>(Kind::Counter, key, record)?),
        Some(b'i') => drop(codec::decode::<Id>(Kind::Idempotency, key, record)?),
        Some(tag) if keys::LATER.contains(tag) => {
            return Err(StoreError::UnsupportedFeature {
                path_or_place: format!("record {}", finding::shown(key)),
                feature: format!("keys that begin with `{}`", char::from(*tag)),
            });
        }
        _ => {
            return Err(StoreError::Corrupt {
                path_or_place: format!("record {}", finding::shown(key)),
                what: "no record has such a key".to_owned(),
            });
        }
    }
    Ok(())
}
