//! The store's own records: its format, how often it was opened, and how the last app over it
//! ended.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::codec;
use super::codec::Kind;
use super::keys;
use super::steady::ClockReading;
use crate::canvas::quarantine::LastEnd;
use crate::persistence::{Batch, Durability, Pair, Store, StoreError};

/// One opening of a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Opening {
    /// Counts the openings, from 1.
    number: u64,
}

/// Each opening numbers its commits in a range of its own: 2^40 commits in each of 2^24 openings.
const COMMIT_BITS: u32 = 40;

impl Opening {
    /// Returns a number above all commits of earlier openings; the commits of this opening follow
    /// it.
    pub(crate) fn last_commit(self) -> u64 {
        self.number << COMMIT_BITS
    }
}

/// A session: one app over the store, from its start to its end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Session {
    /// The boot id of the machine when the session began, where it can be read.
    boot: Option<String>,
    has_ended: bool,
}

impl Session {
    /// Begins a session.
    fn begin() -> Self {
        Self {
            boot: boot_id(),
            has_ended: false,
        }
    }

    /// Returns the record of the session's end.
    pub(crate) fn ended(self) -> Pair {
        Self {
            has_ended: true,
            ..self
        }
        .record()
    }

    /// Returns how the previous session ended.
    fn end_of(&self, previous: Option<&Self>, traces: Traces) -> LastEnd {
        match previous {
            None
            | Some(Self {
                has_ended: true, ..
            }) => LastEnd::Clean,
            Some(previous) if previous.boot != self.boot => LastEnd::Outside,
            Some(_) if traces.has_aborted => LastEnd::Inside,
            Some(_) if traces.was_stopping => LastEnd::Outside,
            Some(_) => LastEnd::Unknown,
        }
    }

    fn record(&self) -> Pair {
        (keys::LIFE.to_vec(), codec::encode(Kind::Life, self))
    }
}

/// Other traces of the previous session.
#[derive(Clone, Copy, Debug, Default)]
struct Traces {
    /// The process noted that it aborted.
    has_aborted: bool,
    /// The app was shutting down.
    was_stopping: bool,
}

/// Returns the record that the app is shutting down: a kill during the shutdown is no crash.
pub(crate) fn stopping() -> Pair {
    (keys::STOPPING.to_vec(), codec::encode(Kind::Mark, &()))
}

/// Returns the boot id of the machine, where it can be read.
pub(crate) fn boot_id() -> Option<String> {
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id");
    boot.ok().map(|boot| boot.trim().to_owned())
}

/// Records that the store is being opened, and the reading of the clocks. Fails before it writes
/// anything if a newer version wrote the store. `has_aborted`: the previous process noted that it
/// aborted.
pub(crate) fn open(
    store: &dyn Store,
    durability: Durability,
    has_aborted: bool,
    clock: &ClockReading,
) -> Result<(Opening, Session, LastEnd), StoreError> {
    check_import_complete(store)?;
    let last: Option<Opening> = record(store, Kind::Meta, keys::META)?;
    let previous: Option<Session> = record(store, Kind::Life, keys::LIFE)?;
    let opening = Opening {
        number: last.map_or(1, |last| last.number + 1),
    };
    let session = Session::begin();
    let traces = Traces {
        has_aborted,
        was_stopping: store.get(keys::STOPPING)?.is_some(),
    };
    let mut batch = Batch::default();
    if traces.was_stopping {
        batch.delete(keys::STOPPING.to_vec());
    }
    batch.put(keys::META.to_vec(), codec::encode(Kind::Meta, &opening));
    for (key, value) in [session.record(), clock.record()] {
        batch.put(key, value);
    }
    store.apply(batch)?;
    store.sync(durability)?;
    let last_end = session.end_of(previous.as_ref(), traces);
    Ok((opening, session, last_end))
}

/// Fails if an import into this store was interrupted.
fn check_import_complete(store: &dyn Store) -> Result<(), StoreError> {
    match store.get(keys::IMPORTING)? {
        None => Ok(()),
        Some(_) => Err(StoreError::Corrupt {
            path_or_place: "the store".to_owned(),
            what: "an import into it was cut short: import again".to_owned(),
        }),
    }
}

/// Makes the next opening number its commits above `commit`, if the store has not counted so far.
pub(crate) fn raise(store: &dyn Store, commit: u64, batch: &mut Batch) -> Result<(), StoreError> {
    let last: Option<Opening> = record(store, Kind::Meta, keys::META)?;
    let number = commit >> COMMIT_BITS;
    if last.map_or(0, |last| last.number) < number {
        let opening = Opening { number };
        batch.put(keys::META.to_vec(), codec::encode(Kind::Meta, &opening));
    }
    Ok(())
}

fn record<T: DeserializeOwned>(
    store: &dyn Store,
    kind: Kind,
    key: &[u8],
) -> Result<Option<T>, StoreError> {
    let record = store.get(key)?;
    record
        .map(|record| codec::decode(kind, key, &record))
        .transpose()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::persistence::MemoryStore;

    #[test]
    fn a_session_without_an_end_is_a_crash_unless_the_machine_or_the_app_was_shutting_down() {
        let store = MemoryStore::new();
        let clock = ClockReading {
            boot: None,
            uptime_ms: 0,
            wall_ms: 0,
            steady_ms: 0,
        };
        let opened = || open(&store, Durability::Power, false, &clock).unwrap();
        let aborted = || open(&store, Durability::Power, true, &clock).unwrap();
        let (_, session, first) = opened();
        assert_eq!(first, LastEnd::Clean);
        assert_eq!(opened().2, LastEnd::Unknown);
        assert_eq!(aborted().2, LastEnd::Inside);
        let put = |(key, value): Pair| {
            let mut batch = Batch::new();
            batch.put(key, value);
            store.apply(batch).unwrap();
        };
        put(stopping());
        assert_eq!(opened().2, LastEnd::Outside);
        assert_eq!(opened().2, LastEnd::Unknown, "the mark covers one session");
        put(stopping());
        assert_eq!(aborted().2, LastEnd::Inside);
        put(session.clone().ended());
        assert_eq!(opened().2, LastEnd::Clean);
        let boot = Some("another".to_owned());
        put(Session { boot, ..session }.record());
        assert_eq!(aborted().2, LastEnd::Outside);
    }
}
