//! The store's own records: its format, how often it was opened, and how the last app over it ended.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::codec::{self, Kind};
use super::steady::ClockReading;
use super::{Batch, Durability, Pair, Store, StoreError, export, keys};
use crate::canvas::machine::quarantine::LastEnd;

/// One opening of a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Opening {
    /// From 1.
    number: u64,
}

/// Each opening numbers its commits in a range of its own: 2^40 of them, in 2^24 openings.
const COMMIT_BITS: u32 = 40;

impl Opening {
    /// Above the numbers of all commits of all openings before; ours come after it.
    pub(crate) fn last_commit(self) -> u64 {
        self.number << COMMIT_BITS
    }
}

/// The life of one app over the store: it has begun, and perhaps ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Session {
    /// Which start of the machine it began in, where that can be told.
    boot: Option<String>,
    has_ended: bool,
}

impl Session {
    /// One that begins now.
    fn begin() -> Self {
        Self {
            boot: boot_id(),
            has_ended: false,
        }
    }

    /// The record of its end.
    pub(crate) fn ended(self) -> Pair {
        Self {
            has_ended: true,
            ..self
        }
        .record()
    }

    /// How the life before this one ended.
    fn end_of(&self, before: Option<&Self>, signs: Signs) -> LastEnd {
        match before {
            None
            | Some(Self {
                has_ended: true, ..
            }) => LastEnd::Clean,
            Some(before) if before.boot != self.boot => LastEnd::Outside,
            Some(_) if signs.has_aborted => LastEnd::Inside,
            Some(_) if signs.was_stopping => LastEnd::Outside,
            Some(_) => LastEnd::Unknown,
        }
    }

    fn record(&self) -> Pair {
        (keys::LIFE.to_vec(), codec::encode(Kind::Life, self))
    }
}

/// What else a life has left behind.
#[derive(Clone, Copy, Debug, Default)]
struct Signs {
    /// The process has noted that it aborts.
    has_aborted: bool,
    /// The app was shutting down.
    was_stopping: bool,
}

/// The record that the app is shutting down: a process that is killed then has not ended itself.
pub(crate) fn stopping() -> Pair {
    (keys::STOPPING.to_vec(), codec::encode(Kind::Mark, &()))
}

/// Which start of the machine this is, where that can be told.
pub(crate) fn boot_id() -> Option<String> {
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id");
    boot.ok().map(|boot| boot.trim().to_owned())
}

/// Notes that the store is being opened, and what the clocks show. A store that was written by a newer
/// version is refused before anything is written. `has_aborted`: the process before has noted that it aborts.
pub(crate) fn open(
    store: &dyn Store,
    durability: Durability,
    has_aborted: bool,
    clock: &ClockReading,
) -> Result<(Opening, Session, LastEnd), StoreError> {
    export::check_import_complete(store)?;
    let last: Option<Opening> = record(store, Kind::Meta, keys::META)?;
    let before: Option<Session> = record(store, Kind::Life, keys::LIFE)?;
    let opening = Opening {
        number: last.map_or(1, |last| last.number + 1),
    };
    let life = Session::begin();
    let signs = Signs {
        has_aborted,
        was_stopping: store.get(keys::STOPPING)?.is_some(),
    };
    let mut batch = Batch::default();
    if signs.was_stopping {
        batch.delete(keys::STOPPING.to_vec());
    }
    batch.put(keys::META.to_vec(), codec::encode(Kind::Meta, &opening));
    for (key, value) in [life.record(), clock.record()] {
        batch.put(key, value);
    }
    store.apply(batch)?;
    store.sync(durability)?;
    let last_end = life.end_of(before.as_ref(), signs);
    Ok((opening, life, last_end))
}

/// Has the next opening number its commits above this one, if the store does not know of it.
pub(super) fn raise(store: &dyn Store, commit: u64, batch: &mut Batch) -> Result<(), StoreError> {
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
    fn a_life_that_did_not_end_is_a_crash_unless_the_machine_or_the_app_was_going_down() {
        let store = MemoryStore::new();
        let clock = ClockReading {
            boot: None,
            uptime_ms: 0,
            wall_ms: 0,
            steady_ms: 0,
        };
        let opened = || open(&store, Durability::Power, false, &clock).unwrap();
        let aborted = || open(&store, Durability::Power, true, &clock).unwrap();
        let (_, life, first) = opened();
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
        assert_eq!(opened().2, LastEnd::Unknown, "it says so of one life");
        put(stopping());
        assert_eq!(aborted().2, LastEnd::Inside);
        put(life.clone().ended());
        assert_eq!(opened().2, LastEnd::Clean);
        let boot = Some("another".to_owned());
        put(Session { boot, ..life }.record());
        assert_eq!(aborted().2, LastEnd::Outside);
    }
}
