//! Reads workflows back: their nodes, records, outcomes and values.

mod collected_list;
mod copy;
mod elements;
mod errbacks;
mod find;
mod history;
mod member_counts;
mod member_outcomes;
mod members;
mod progress;
mod resolution;
mod stamps;
mod values;
mod why;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::{Deserialize, Serialize};

use super::codec::{self, Kind, RecordSummary};
use super::definition::WorkflowHeader;
use super::schedules::StoredEntry;
use super::starts::StoredLimit;
use super::{keys, schedules, starts, updates};
use crate::canvas::admission::pending_limit::Load;
use crate::canvas::freeze::Node;
use crate::canvas::id::Id;
use crate::canvas::machine::fold_run::is_run;
use crate::canvas::machine::{BODY, ChildProgress, Index, Record, is_member};
use crate::canvas::outcome::Outcome;
use crate::canvas::quarantine::Suspect;
use crate::canvas::task_update::TaskUpdate;
use crate::persistence::{Pair, Store, StoreError};

pub(crate) use self::copy::LastRead;
pub(crate) use self::elements::{Elements, ElementsError};
pub(crate) use self::find::NodeLocation;
pub(crate) use self::history::History;
pub(crate) use self::member_counts::MemberCounts;
pub(crate) use self::members::MemberCursor;
pub(crate) use self::progress::Progress;
pub(crate) use self::resolution::Resolution;
pub(crate) use self::why::{StoredWhy, shown};

/// The end of a workflow.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Ended {
    pub(crate) outcome: Outcome,
    /// Milliseconds on the steady scale.
    pub(crate) at_ms: u64,
    /// The number of the commit that contains it.
    pub(crate) commit: u64,
}

/// Reads workflows from a store, on any thread.
#[derive(Clone, Debug)]
pub(crate) struct Reader {
    store: Arc<dyn Store>,
    horizon: Horizon,
}

/// The last commit that a reader sees: callers must not receive results that are applied but not
/// yet durable.
#[derive(Clone, Debug)]
enum Horizon {
    /// No limit: the engine itself sees all commits.
    None,
    Moving(Arc<AtomicU64>),
    At(u64),
}

impl Reader {
    pub(crate) fn new(store: Arc<dyn Store>) -> Self {
        Self {
            store,
            horizon: Horizon::None,
        }
    }

    /// Returns a reader of the same store for callers, which sees the commits up to `last`.
    pub(crate) fn up_to(&self, last: Arc<AtomicU64>) -> Self {
        Self {
            store: self.store.clone(),
            horizon: Horizon::Moving(last),
        }
    }

    /// Returns a reader fixed to the commits that this one sees now. A caller that reads twice, a
    /// member and then its group, must see one state: otherwise a group that ended between the two
    /// reads would explain why the member had not.
    pub(crate) fn snapshot(&self) -> Self {
        Self {
            store: self.store.clone(),
            horizon: match &self.horizon {
                Horizon::None => Horizon::None,
                _ => Horizon::At(self.last_commit()),
            },
        }
    }

    fn last_commit(&self) -> u64 {
        match &self.horizon {
            Horizon::None => u64::MAX,
            Horizon::Moving(last) => last.load(Ordering::SeqCst),
            Horizon::At(last) => *last,
        }
    }

    pub(crate) fn store(&self) -> &Arc<dyn Store> {
        &self.store
    }

    /// Returns the workflow's header, or `None` if there is no such workflow.
    /// Returns whether the store has a workflow of this id, or parts of one that is not complete
    /// or not deleted yet.
    pub(crate) fn is_used(&self, root: Id) -> Result<bool, StoreError> {
        let is_garbage = self.store.get(&keys::garbage_marker(root))?.is_some();
        Ok(is_garbage || self.header(root)?.is_some())
    }

    pub(crate) fn header(&self, root: Id) -> Result<Option<WorkflowHeader>, StoreError> {
        // In the order in which a header moves: it may move between two reads.
        if let Some(waiting) = self.waiting(root)? {
            return waiting.header(root).map(Some);
        }
        if let Some(header) = self.record(Kind::Head, &keys::header(root))? {
            return Ok(Some(header));
        }
        let ended: Option<Ended> = self.record(Kind::Result, &keys::result(root))?;
        match ended {
            Some(ended) => self.record(Kind::Head, &keys::ended(ended.at_ms, root)),
            None => Ok(None),
        }
    }

    /// Returns whether there is such a workflow.
    pub(crate) fn exists(&self, root: Id) -> Result<bool, StoreError> {
        // The likely keys first; then in the order in which a header moves, as above.
        let (waiting, live, ended) = (keys::waiting(root), keys::header(root), keys::result(root));
        for key in [&live, &ended, &waiting, &live, &ended] {
            if self.store.get(key)?.is_some() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Returns the workflow's root node.
    pub(crate) fn root(&self, root: Id) -> Result<Option<Node>, StoreError> {
        let header = self.header(root)?;
        header.map(|header| self.root_of(root, header)).transpose()
    }

    /// Returns the root node of the workflow with this header.
    pub(crate) fn root_of(&self, root: Id, header: WorkflowHeader) -> Result<Node, StoreError> {
        match header.root {
            Some(node) => Ok(node),
            None => self.member(keys::root_group(root), 0),
        }
    }

    /// Returns the workflow's end, if its root has ended.
    pub(crate) fn ended(&self, root: Id) -> Result<Option<Ended>, StoreError> {
        let ended: Option<Ended> = self.record(Kind::Result, &keys::result(root))?;
        Ok(ended.filter(|ended| ended.commit <= self.last_commit()))
    }

    /// Returns whether the workflow and all its callbacks have ended.
    pub(crate) fn is_complete(&self, root: Id) -> Result<bool, StoreError> {
        Ok(self.ended(root)?.is_some() && self.store.get(&keys::header(root))?.is_none())
    }

    /// Returns the latest id given to a workflow of this store, including workflows whose
    /// submission was interrupted.
    pub(crate) fn last_id(&self) -> Result<Option<Id>, StoreError> {
        let swept: Option<Option<Id>> = self.record(Kind::LastSwept, keys::LAST_SWEPT)?;
        let mut last = swept.flatten();
        for tag in b"bwrx".iter().copied().chain(keys::PARTS) {
            let (from, to) = keys::all(tag);
            let last_key = self.store.scan(&from, &to).next_back().transpose()?;
            last = last.max(
                last_key
                    .and_then(|(key, _)| keys::id_of(&key))
                    .map(Id::root),
            );
        }
        Ok(last)
    }

    /// Returns the workflow that was submitted with this idempotency key.
    pub(crate) fn submitted_as(&self, key: &str) -> Result<Option<Id>, StoreError> {
        self.record(Kind::Idempotency, &keys::idempotency(key))
    }

    /// Returns the load of all workflows that have not ended.
    pub(crate) fn pending(&self) -> Result<Load, StoreError> {
        Ok(self
            .record(Kind::Pending, keys::PENDING)?
            .unwrap_or_default())
    }

    /// Returns the tasks that were running when a process ended.
    pub(crate) fn suspects(&self) -> Result<Vec<(Id, Suspect)>, StoreError> {
        let (from, to) = keys::all(b'k');
        let suspects = self.store.scan(&from, &to).map(|pair| {
            let (key, record) = pair?;
            let suspect = codec::decode(Kind::Suspect, &key, &record)?;
            let id = keys::id_of(&key);
            let id =
                id.ok_or_else(|| codec::corrupt(Kind::Suspect, &key, "its key is too short"))?;
            Ok((id, suspect))
        });
        suspects.collect()
    }

    /// Returns the starts that are stored under each limit.
    pub(crate) fn starts(&self) -> Result<Vec<StoredLimit>, StoreError> {
        let (from, to) = keys::all_starts();
        let starts = self.store.scan(&from, &to).map(|pair| {
            let (key, record) = pair?;
            starts::decode(&key, &record)
        });
        starts.collect()
    }

    /// Returns the stored updates of running tasks.
    pub(crate) fn updates(&self) -> Result<Vec<(Id, TaskUpdate)>, StoreError> {
        let (from, to) = keys::all(b'g');
        let updates = self.store.scan(&from, &to).map(|pair| {
            let (key, record) = pair?;
            updates::decode(&key, &record)
        });
        updates.collect()
    }

    /// Returns the entries of schedules, by name.
    pub(crate) fn schedules(&self) -> Result<Vec<(String, StoredEntry)>, StoreError> {
        let (from, to) = keys::all_schedules();
        let entries = self.store.scan(&from, &to).map(|pair| {
            let (key, record) = pair?;
            schedules::decode(&key, &record)
        });
        entries.collect()
    }

    /// Returns the records of the children of supervisor `stream`, in order.
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

    /// As [`records`](Self::records), without the values of the children that succeeded.
    pub(crate) fn summaries(
        &self,
        stream: Id,
    ) -> impl Iterator<Item = Result<RecordSummary, StoreError>> + '_ {
        self.segments_after(stream, None).flat_map(|segment| {
            let summaries = segment.and_then(|(key, value)| codec::summaries(&key, &value));
            match summaries {
                Ok(summaries) => summaries.into_iter().map(Ok).collect(),
                Err(error) => vec![Err(error)],
            }
        })
    }

    /// Returns the segments of a stream after commit `after`, oldest first.
    pub(crate) fn segments_after(
        &self,
        stream: Id,
        after: Option<u64>,
    ) -> impl DoubleEndedIterator<Item = Result<Pair, StoreError>> + '_ {
        let from = after.map_or(0, |after| after + 1);
        let last = self.last_commit();
        let (_, end) = keys::of_node(b's', stream);
        let to = last
            .checked_add(1)
            .map_or(end, |next| keys::segment(stream, next, 0));
        self.store.scan(&keys::segment(stream, from, 0), &to)
    }

    /// Returns how many children of supervisor `stream` succeeded, and how many ended otherwise.
    pub(crate) fn counts_of(&self, stream: Id) -> Result<(u64, u64), StoreError> {
        self.segments_after(stream, None)
            .try_fold((0, 0), |(succeeded, failed), segment| {
                let (key, value) = segment?;
                let (s, f) = codec::segment_counts(&key, &value)?;
                Ok((succeeded + u64::from(s), failed + u64::from(f)))
            })
    }

    /// Returns the latest progress of child `index` of supervisor `stream`; for the function of a
    /// fold, that of its latest run.
    pub(crate) fn last_change(
        &self,
        stream: Id,
        index: Index,
    ) -> Result<Option<ChildProgress>, StoreError> {
        // From the latest segment back: a task may have been tried very often.
        for segment in self.segments_after(stream, None).rev() {
            let (key, segment) = segment?;
            for record in codec::segment_records(&key, &segment)?.into_iter().rev() {
                if let Record::Child { index: of, change } = record
                    && (of == index || index == BODY && is_run(of))
                {
                    return Ok(Some(change));
                }
            }
        }
        Ok(None)
    }

    /// Returns how far child `index` of supervisor `stream` has got. (See
    /// [`last_change`](Self::last_change), which it is apart from members that are left out.)
    fn child_status(&self, stream: Id, index: Index) -> Result<ChildStatus, StoreError> {
        let mut is_decided = false;
        for segment in self.segments_after(stream, None).rev() {
            let (key, segment) = segment?;
            for record in codec::segment_records(&key, &segment)?.into_iter().rev() {
                match record {
                    // Among the records of a group or a header, after those of all members.
                    Record::Verdict(_) => is_decided = is_member(index),
                    Record::Child { index: of, change }
                        if of == index || index == BODY && is_run(of) =>
                    {
                        return Ok(match change {
                            ChildProgress::Done(_) => ChildStatus::At(change),
                            _ if is_decided => ChildStatus::LeftOut,
                            change => ChildStatus::At(change),
                        });
                    }
                    _ => {}
                }
            }
        }
        Ok(match is_decided {
            true => ChildStatus::LeftOut,
            false => ChildStatus::Unstarted,
        })
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

/// How far the records of a supervisor say that one of its children has got.
#[derive(Debug)]
enum ChildStatus {
    /// No record is about it.
    Unstarted,
    /// This is the latest record of it.
    At(ChildProgress),
    /// The barrier has decided before this member had ended, which revoked it.
    LeftOut,
}

fn missing(id: Id, what: &str) -> StoreError {
    StoreError::Corrupt {
        path_or_place: format!("workflow {id}"),
        what: format!("no {what}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::canvas::outcome::{Outcome, Value};
    use crate::persistence::{Batch, MemoryStore};

    /// A member had not ended when it was read, and its group had ended when that was read: the
    /// member then wrongly took over the group's outcome.
    #[test]
    fn two_reads_of_one_snapshot_see_the_same_store() {
        let root = Id::from(uuid::Uuid::nil());
        let ended = Ended {
            outcome: Outcome::Success(Value::Inline(Vec::new().into())),
            at_ms: 0,
            commit: 2,
        };
        let mut batch = Batch::new();
        batch.put(keys::result(root), codec::encode(Kind::Result, &ended));
        let store = MemoryStore::new();
        store.apply(batch).unwrap();

        let last = Arc::new(AtomicU64::new(1));
        let callers = Reader::new(Arc::new(store)).up_to(last.clone());
        let before = callers.snapshot();
        last.store(2, Ordering::SeqCst);
        assert!(before.ended(root).unwrap().is_none());
        assert!(callers.snapshot().ended(root).unwrap().is_some());
    }
}
