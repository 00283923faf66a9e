//! The store's own records: its format, how often it was opened, and how the last app over it
//! ended.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::codec::{self, Kind};
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

/// The additions to the format that this build knows. A store that uses some has their names in its
/// record [`META`](keys::META), which every open reads first: so a later version can add records,
/// under keys and of kinds of their own, and variants at the end of stored enums, without another
/// version of the format. A build that lacks one of them refuses the store before it writes
/// anything.
const FEATURES: &[&str] = &[
    START_LIMITS,
    KEYED_LIMITS,
    CONTROLS,
    TASK_UPDATES,
    SCHEDULES,
    GROUP_POLICIES,
    SIGNATURE_OPTIONS,
    BREAKERS,
];

/// The addition of [records of starts](super::starts) under limits.
pub(crate) const START_LIMITS: &str = "start-limits";

/// The addition of such records for single keys of a limit.
pub(crate) const KEYED_LIMITS: &str = "keyed-limits";

/// The addition of [what was set](super::controls) for queues and tasks.
pub(crate) const CONTROLS: &str = "controls";

/// The addition of [records of updates](super::updates) that running tasks report.
pub(crate) const TASK_UPDATES: &str = "task-updates";

/// The addition of [records of entries](super::schedules) of schedules.
pub(crate) const SCHEDULES: &str = "schedules";

/// The addition of [policies](crate::canvas::group_policy::GroupPolicy) of groups that decide early or
/// bear failures.
pub(crate) const GROUP_POLICIES: &str = "group-policies";

/// The addition of [rates, keys and stamps](crate::canvas::stored_options) in the options of tasks.
pub(crate) const SIGNATURE_OPTIONS: &str = "signature-options";

/// The addition of [records of circuits](super::breakers), and of failures because a breaker is open.
pub(crate) const BREAKERS: &str = "breakers";

/// This opening of the store, and the additions to the format that the store uses.
#[derive(Clone, Debug)]
pub(crate) struct Additions {
    opening: Opening,
    used: Vec<String>,
}

impl Additions {
    /// Returns a number above all commits of earlier openings; the commits of this opening follow
    /// it.
    pub(crate) fn last_commit(&self) -> u64 {
        self.opening.number << COMMIT_BITS
    }

    /// Adds one that is about to be used. Returns the record for the same batch, unless the store
    /// uses it already.
    pub(crate) fn add(&mut self, addition: &str) -> Option<Pair> {
        if self.used.iter().any(|one| one == addition) {
            return None;
        }
        self.used.push(addition.to_owned());
        Some((keys::META.to_vec(), self.opening.record(&self.used)))
    }
}

impl Opening {
    /// Decodes the record of the store's last opening, with the additions that the store uses.
    pub(crate) fn of(record: &[u8]) -> Result<(Self, Vec<String>), StoreError> {
        if !codec::is_of(Kind::Features, record) {
            return Ok((codec::decode(Kind::Meta, keys::META, record)?, Vec::new()));
        }
        let (opening, used): (Self, Vec<String>) =
            codec::decode(Kind::Features, keys::META, record)?;
        match used.iter().find(|one| !FEATURES.contains(&&***one)) {
            None => Ok((opening, used)),
            Some(feature) => Err(StoreError::UnsupportedFeature {
                path_or_place: "the store".to_owned(),
                feature: feature.clone(),
            }),
        }
    }

    /// Returns the record of this opening of a store that uses these additions.
    fn record(self, used: &[String]) -> Vec<u8> {
        match used {
            [] => codec::encode(Kind::Meta, &self),
            used => codec::encode(Kind::Features, &(self, used)),
        }
    }

    /// Returns the store's last opening, with the additions that the store uses.
    fn last(store: &dyn Store) -> Result<(Option<Self>, Vec<String>), StoreError> {
        let record = store.get(keys::META)?;
        match record {
            Some(record) => Self::of(&record).map(|(last, used)| (Some(last), used)),
            None => Ok((None, Vec::new())),
        }
    }
}

/// Where a process runs. Crashes are classified for a process on a machine: another boot id is an
/// outage only if it is that of the same machine. Of a process that died on another machine it is
/// not known whether that machine went down with it. If each such death passed for an outage, a
/// task that ends its process could go from machine to machine and would never be put into
/// quarantine.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Host {
    /// The machine's identity. No session records one yet: as long as one machine at a time opens a
    /// store, all of its sessions are taken for those of one machine.
    machine: Option<String>,
    /// The boot id of the machine, where it can be read.
    boot: Option<String>,
}

impl Host {
    /// Returns whether the machine of a `previous` process has gone down since; `None` if that
    /// cannot be known from here.
    fn has_gone_down_since(&self, previous: &Self) -> Option<bool> {
        if self.boot == previous.boot {
            return Some(false);
        }
        match (&self.machine, &previous.machine) {
            (Some(here), Some(there)) if here != there => None,
            _ => Some(true),
        }
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

    fn host(&self) -> Host {
        Host {
            machine: None,
            boot: self.boot.clone(),
        }
    }

    /// Returns how the previous session ended.
    fn end_of(&self, previous: Option<&Self>, traces: Traces) -> LastEnd {
        match previous {
            None
            | Some(Self {
                has_ended: true, ..
            }) => LastEnd::Clean,
            Some(previous) => end_of_process(&previous.host(), &self.host(), traces),
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

/// Returns how a process ended that did not say so, as seen `here`.
fn end_of_process(previous: &Host, here: &Host, traces: Traces) -> LastEnd {
    match here.has_gone_down_since(previous) {
        Some(true) => LastEnd::Outside,
        _ if traces.has_aborted => LastEnd::Inside,
        _ if traces.was_stopping => LastEnd::Outside,
        Some(false) | None => LastEnd::Unknown,
    }
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
/// aborted. `needs`: the additions to the format that the app will use.
pub(crate) fn open(
    store: &dyn Store,
    durability: Durability,
    has_aborted: bool,
    clock: &ClockReading,
    needs: &[&str],
) -> Result<(Additions, Session, LastEnd), StoreError> {
    check_import_complete(store)?;
    let (last, mut used) = Opening::last(store)?;
    for feature in needs {
        if !used.iter().any(|one| one == feature) {
            used.push((*feature).to_owned());
        }
    }
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
    batch.put(keys::META.to_vec(), opening.record(&used));
    for (key, value) in [session.record(), clock.record()] {
        batch.put(key, value);
    }
    store.apply(batch)?;
    store.sync(durability)?;
    let last_end = session.end_of(previous.as_ref(), traces);
    Ok((Additions { opening, used }, session, last_end))
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
    let (last, used) = Opening::last(store)?;
    let number = commit >> COMMIT_BITS;
    if last.map_or(0, |last| last.number) < number {
        batch.put(keys::META.to_vec(), Opening { number }.record(&used));
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
        let opened = || open(&store, Durability::Power, false, &clock, &[]).unwrap();
        let aborted = || open(&store, Durability::Power, true, &clock, &[]).unwrap();
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

    #[test]
    fn another_boot_is_an_outage_only_of_the_same_machine() {
        let host = |machine: Option<&str>, boot: &str| Host {
            machine: machine.map(str::to_owned),
            boot: Some(boot.to_owned()),
        };
        let traces = Traces::default();
        let aborted = Traces {
            has_aborted: true,
            ..traces
        };
        let here = host(Some("a"), "1");
        for (previous, end, end_of_aborted) in [
            (host(Some("a"), "1"), LastEnd::Unknown, LastEnd::Inside),
            (host(Some("a"), "0"), LastEnd::Outside, LastEnd::Outside),
            (host(None, "0"), LastEnd::Outside, LastEnd::Outside),
            // Of another machine it is not known whether it went down.
            (host(Some("b"), "0"), LastEnd::Unknown, LastEnd::Inside),
        ] {
            assert_eq!(end_of_process(&previous, &here, traces), end);
            assert_eq!(end_of_process(&previous, &here, aborted), end_of_aborted);
        }
    }

    /// This build is the old one; a later one has added labels and an index of failed workflows.
    #[test]
    fn a_store_with_additions_of_a_later_version_is_refused_by_their_names_and_left_unchanged() {
        use crate::persistence::{export, import, verify};

        let clock = ClockReading {
            boot: None,
            uptime_ms: 0,
            wall_ms: 0,
            steady_ms: 0,
        };
        let store = MemoryStore::new();
        open(&store, Durability::Power, false, &clock, &[]).unwrap();
        let mut older = Vec::new();
        export(&store, &mut older).unwrap();
        let all = |store: &MemoryStore| -> Vec<Pair> {
            store.scan(&[0], &[0xff]).map(Result::unwrap).collect()
        };
        let used = |features: &[&str]| {
            let body = (Opening { number: 7 }, features);
            let mut batch = Batch::new();
            batch.put(keys::META, codec::encode(Kind::Features, &body));
            store.apply(batch).unwrap();
            let before = all(&store);
            let opened = open(&store, Durability::Power, false, &clock, &[]);
            (opened, all(&store) == before)
        };
        let (opened, is_unchanged) = used(&["labels", "failed-index"]);
        let error = opened.unwrap_err();
        assert!(
            matches!(&error, StoreError::UnsupportedFeature { feature, .. } if feature == "labels"),
            "{error:?}"
        );
        assert_eq!(
            error.to_string(),
            "the store needs labels, which this build does not know: a later version wrote it"
        );
        assert!(is_unchanged);
        // An audit and an export say so, too, and name the keys that are new.
        let mut batch = Batch::new();
        batch.put("f of a workflow", "x");
        store.apply(batch).unwrap();
        let found: Vec<_> = verify(&store)
            .findings
            .iter()
            .map(ToString::to_string)
            .collect();
        assert!(
            found
                .iter()
                .any(|one| one.contains("keys that begin with `f`"))
                && found.iter().any(|one| one.contains("needs labels")),
            "{found:?}"
        );
        let error = export(&store, Vec::new()).unwrap_err();
        assert!(
            matches!(error, StoreError::UnsupportedFeature { .. }),
            "{error:?}"
        );
        // An addition that this build knows stays on record.
        let (opened, _) = used(&[START_LIMITS]);
        assert_eq!(opened.unwrap().0.opening, Opening { number: 8 });
        let listed = |store: &MemoryStore| Opening::last(store).unwrap().1;
        assert_eq!(listed(&store), [START_LIMITS]);
        open(&store, Durability::Power, false, &clock, &[START_LIMITS]).unwrap();
        assert_eq!(listed(&store), [START_LIMITS]);
        // A store that has listed the place for them and uses none is like one that has not.
        let (opened, _) = used(&[]);
        assert_eq!(opened.unwrap().0.opening, Opening { number: 8 });
        assert_eq!(import(&MemoryStore::new(), &older[..]).unwrap(), 3);
    }
}
