//! The histories of workflows, read in order during recovery.

use std::iter::Peekable;

use super::{Ended, Reader};
use crate::canvas::id::{Id, Seq};
use crate::canvas::machine::Record;
use crate::persistence::records::codec::{self, Kind};
use crate::persistence::records::keys;
use crate::persistence::{Pair, Scan, Store, StoreError};

/// The records of a workflow except for its header.
#[derive(Debug)]
pub(crate) struct History {
    /// When its root ended, in milliseconds on the steady scale, if it has ended.
    pub(crate) ended_ms: Option<u64>,
    /// The records of its own children: the root and the callbacks.
    pub(crate) records: Vec<Record>,
    /// How many node numbers are taken, if numbers were given out after the submission.
    pub(crate) counter: Option<Seq>,
}

/// Reads histories in the order of their workflows.
pub(crate) struct Histories<'a> {
    results: Cursor<'a>,
    segments: Cursor<'a>,
    counters: Cursor<'a>,
}

impl Reader {
    pub(crate) fn histories(&self) -> Histories<'_> {
        let cursor = |tag| Cursor::new(&**self.store(), tag);
        Histories {
            results: cursor(b'r'),
            segments: cursor(b's'),
            counters: cursor(b'c'),
        }
    }
}

impl Histories<'_> {
    /// Returns the history of a workflow that follows all workflows asked for before.
    pub(crate) fn of(&mut self, root: Id) -> Result<History, StoreError> {
        let result = self.results.get(&keys::result(root))?;
        let ended = result.map(|(key, record)| codec::decode::<Ended>(Kind::Result, &key, &record));
        let counter = self.counters.get(&keys::counter(root))?;
        let counter = counter.map(|(key, record)| codec::decode(Kind::Counter, &key, &record));

        let mut records = Vec::new();
        let (from, to) = keys::of_node(b's', root.workflow_stream());
        self.segments.seek(&from)?;
        while let Some((key, segment)) = self.segments.next_if(|key| key < to.as_slice())? {
            records.extend(codec::segment_records(&key, &segment)?);
        }
        Ok(History {
            ended_ms: ended.transpose()?.map(|ended| ended.at_ms),
            records,
            counter: counter.transpose()?,
        })
    }
}

/// A cursor over the keys of one tag, for lookups in ascending order. A key close to the previous
/// one is reached by stepping: starting a scan costs a store several times as much as a step.
struct Cursor<'a> {
    store: &'a dyn Store,
    scan: Option<Peekable<Scan<'a>>>,
    to: Vec<u8>,
}

/// The number of keys that a lookup steps over before it starts a new scan.
const NEAR: usize = 4;

impl<'a> Cursor<'a> {
    fn new(store: &'a dyn Store, tag: u8) -> Self {
        let (_, to) = keys::all(tag);
        Self {
            store,
            scan: None,
            to,
        }
    }

    /// Moves to the first key from `from` on.
    fn seek(&mut self, from: &[u8]) -> Result<(), StoreError> {
        for _ in 0..NEAR {
            match self.scan.as_mut().map(Peekable::peek) {
                Some(Some(Ok((key, _)))) if key.as_slice() < from => {}
                Some(_) => return Ok(()),
                None => break,
            }
            self.step()?;
        }
        self.scan = Some(self.store.scan(from, &self.to).peekable());
        Ok(())
    }

    fn step(&mut self) -> Result<Option<Pair>, StoreError> {
        self.scan.as_mut().and_then(Iterator::next).transpose()
    }

    /// Takes the next pair if its key matches.
    fn next_if(&mut self, matches_key: impl Fn(&[u8]) -> bool) -> Result<Option<Pair>, StoreError> {
        match self.scan.as_mut().and_then(Peekable::peek) {
            Some(Ok((key, _))) if !matches_key(key) => Ok(None),
            _ => self.step(),
        }
    }

    fn get(&mut self, key: &[u8]) -> Result<Option<Pair>, StoreError> {
        self.seek(key)?;
        self.next_if(|next| next == key)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::canvas::machine::{AttemptHistory, ChildProgress};
    use crate::canvas::outcome::{Outcome, Value};
    use crate::persistence::{Batch, MemoryStore};

    fn started() -> Record {
        let change = ChildProgress::Started(AttemptHistory::default());
        Record::Child { index: 0, change }
    }

    fn segment(batch: &mut Batch, stream: Id, commit: u64) {
        let mut packing = codec::Packing::default();
        packing.push(&started());
        for segment in packing.finish() {
            batch.put(keys::segment(stream, commit, 0), segment);
        }
    }

    /// For all workflows, and with some left out, near or far.
    #[test]
    fn each_workflow_has_its_own_history() {
        let mut roots = vec![Id::next(None, 1_000, 5)];
        for _ in 1..60 {
            roots.push(Id::next(roots.last().copied(), 1_000, 5));
        }
        let mut batch = Batch::new();
        for (n, root) in roots.iter().enumerate() {
            for commit in 0..n as u64 % 3 {
                segment(&mut batch, root.workflow_stream(), commit);
            }
            // Between the streams of two workflows are those of the second one's groups.
            for commit in 0..n as u64 % 7 {
                segment(&mut batch, root.node(3), commit);
            }
            if n % 4 == 0 {
                let counter = codec::encode(Kind::Counter, &(n as Seq));
                batch.put(keys::counter(*root), counter);
            }
            if n % 5 == 0 {
                let ended = Ended {
                    outcome: Outcome::Success(Value::Inline(Vec::new().into())),
                    at_ms: n as u64,
                    commit: 1,
                };
                batch.put(keys::result(*root), codec::encode(Kind::Result, &ended));
            }
        }
        let store = MemoryStore::new();
        store.apply(batch).unwrap();
        let reader = Reader::new(Arc::new(store));
        for stride in [1, 2, 3, 11, 29] {
            let mut histories = reader.histories();
            for (n, root) in roots.iter().enumerate().step_by(stride) {
                let history = histories.of(*root).unwrap();
                let is_ended = (n % 5 == 0).then_some(n as u64);
                assert_eq!(history.ended_ms, is_ended, "{n} by {stride}");
                let counter = (n % 4 == 0).then_some(n as Seq);
                assert_eq!(history.counter, counter, "{n} by {stride}");
                let records = vec![started(); n % 3];
                assert_eq!(history.records, records, "{n} by {stride}");
            }
        }
    }
}
