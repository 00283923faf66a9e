//! The backlog: workflows that wait in the store for lane capacity or for their time.

use serde::{Deserialize, Serialize};

use super::codec::{self, Kind};
use super::definition::WorkflowHeader;
use super::keys;
use super::reader::Reader;
use crate::canvas::first_tasks;
use crate::canvas::freeze::Node;
use crate::canvas::id::Id;
use crate::canvas::payload::Payload;
use crate::canvas::time::{Earliest, Moment, Scale};
use crate::persistence::{Pair, StoreError};

/// A waiting workflow, and the index keys under which it is stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Waiting {
    /// When the workflow was submitted, in milliseconds on the steady scale: its delays count from
    /// there.
    pub(crate) since_ms: u64,
    pub(crate) turn: WaitReason,
    /// The record that becomes its header when the workflow goes live.
    head: Payload,
}

/// What a waiting workflow waits for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum WaitReason {
    /// Capacity in this lane.
    Queue { lane: String, priority: u8 },
    /// This time, in milliseconds since the Unix epoch. Stores of earlier versions hold delays
    /// here, too.
    Time(u64),
    /// The earliest of these moments.
    Until(Earliest),
}

impl Waiting {
    pub(crate) fn new(since_ms: u64, turn: WaitReason, header: &[u8]) -> Self {
        Self {
            since_ms,
            turn,
            head: header.to_vec().into(),
        }
    }

    /// Returns the same workflow with another reason to wait.
    pub(crate) fn with_reason(self, turn: WaitReason) -> Self {
        Self { turn, ..self }
    }

    /// Returns the records that store workflow `root` as waiting.
    pub(crate) fn records(&self, root: Id) -> impl Iterator<Item = Pair> {
        let own = (keys::waiting(root), codec::encode(Kind::Waiting, self));
        let positions = self.turn.keys(root).into_iter();
        let positions = positions.map(|key| (key, codec::encode(Kind::Mark, &())));
        std::iter::once(own).chain(positions)
    }

    /// Returns the keys of [`records`](Self::records).
    pub(crate) fn keys(&self, root: Id) -> impl Iterator<Item = Vec<u8>> {
        std::iter::once(keys::waiting(root)).chain(self.turn.keys(root))
    }

    pub(crate) fn header(&self, root: Id) -> Result<WorkflowHeader, StoreError> {
        codec::decode(Kind::Head, &keys::waiting(root), self.head.bytes())
    }

    pub(crate) fn into_head_record(self) -> Vec<u8> {
        self.head.bytes().to_vec()
    }
}

impl WaitReason {
    fn keys(&self, root: Id) -> Vec<Vec<u8>> {
        match self {
            Self::Queue { lane, priority } => vec![keys::queued(lane, *priority, root)],
            Self::Time(at_ms) => vec![keys::due(Moment::wall(*at_ms), root)],
            Self::Until(first) => {
                let moments = first.moments();
                moments.map(|moment| keys::due(moment, root)).collect()
            }
        }
    }
}

impl Reader {
    /// Returns the workflow, if it waits.
    pub(crate) fn waiting(&self, root: Id) -> Result<Option<Waiting>, StoreError> {
        let key = keys::waiting(root);
        let record = self.store().get(&key)?;
        record
            .map(|record| codec::decode(Kind::Waiting, &key, &record))
            .transpose()
    }

    /// Returns the moment at which task `node` is due, if workflow `root` waits for its time and
    /// starts with that task.
    pub(crate) fn waits_until(&self, root: Id, node: &Node) -> Result<Option<Moment>, StoreError> {
        let Some(waiting) = self.waiting(root)? else {
            return Ok(None);
        };
        let mut due = None;
        if let Some(whole) = self.root(root)? {
            let _ = first_tasks::visit(&whole, &mut |seq, task| {
                let options = task.options.as_ref().filter(|_| seq == node.seq);
                if let Some(eta) = options.and_then(|options| options.eta) {
                    due = Some(eta.from(waiting.since_ms));
                }
            });
        }
        Ok(due)
    }

    /// Returns the unfinished workflows: first the waiting ones, then the live ones. A workflow
    /// that goes live meanwhile may be returned twice.
    pub(crate) fn unfinished(
        &self,
    ) -> impl Iterator<Item = Result<(Id, WorkflowHeader), StoreError>> + '_ {
        let of = |tag| {
            let (from, to) = keys::all(tag);
            self.store().scan(&from, &to)
        };
        let waiting = of(b'b').map(|pair| {
            let (key, record) = pair?;
            let waiting: Waiting = codec::decode(Kind::Waiting, &key, &record)?;
            let root =
                keys::id_of(&key).ok_or_else(|| codec::corrupt(Kind::Waiting, &key, "no id"))?;
            Ok((root, waiting.header(root)?))
        });
        let live = of(b'w').map(|pair| {
            let (key, record) = pair?;
            let root =
                keys::id_of(&key).ok_or_else(|| codec::corrupt(Kind::Head, &key, "no id"))?;
            Ok((root, codec::decode(Kind::Head, &key, &record)?))
        });
        waiting.chain(live)
    }

    /// Returns the lanes in which workflows wait.
    pub(crate) fn lanes(&self) -> Result<Vec<String>, StoreError> {
        let mut lanes = Vec::new();
        let (mut from, to) = keys::all(b'q');
        // One lookup per lane: each scan starts behind the previous lane.
        while let Some(pair) = self.store().scan(&from, &to).next() {
            let (key, _) = pair?;
            let Some((lane, _)) = keys::queued_of(&key) else {
                break;
            };
            lanes.push(lane.to_owned());
            from = keys::queued_in(lane).1;
        }
        Ok(lanes)
    }

    /// Returns the workflows that wait in a lane in queue order, each with the key of its queue
    /// position; from `from` on, if given.
    pub(crate) fn queued(
        &self,
        lane: &str,
        from: Option<Vec<u8>>,
    ) -> impl Iterator<Item = Result<(Vec<u8>, Id), StoreError>> + '_ {
        self.positions(keys::queued_in(lane), from)
    }

    /// As [`queued`](Self::queued), of one priority.
    pub(crate) fn queued_at(
        &self,
        lane: &str,
        priority: u8,
        from: Option<Vec<u8>>,
    ) -> impl Iterator<Item = Result<(Vec<u8>, Id), StoreError>> + '_ {
        self.positions(keys::queued_at(lane, priority), from)
    }

    fn positions(
        &self,
        (first, to): (Vec<u8>, Vec<u8>),
        from: Option<Vec<u8>>,
    ) -> impl Iterator<Item = Result<(Vec<u8>, Id), StoreError>> + '_ {
        let from = from.unwrap_or_default().max(first).min(to.clone());
        let queued = self.store().scan(&from, &to);
        queued.filter_map(|pair| match pair {
            Ok((key, _)) => {
                let root = keys::queued_of(&key)?.1;
                Some(Ok((key, root)))
            }
            Err(error) => Some(Err(error)),
        })
    }

    /// Returns the workflows that wait for a moment on this scale, the earliest first.
    pub(crate) fn timed(
        &self,
        scale: Scale,
    ) -> impl Iterator<Item = Result<(Moment, Id), StoreError>> + '_ {
        let (from, to) = keys::all(keys::due_tag(scale));
        let timed = self.store().scan(&from, &to);
        timed.filter_map(move |pair| match pair {
            Ok((key, _)) => {
                let (ms, root) = keys::timed_of(&key)?;
                Some(Ok((Moment { scale, ms }, root)))
            }
            Err(error) => Some(Err(error)),
        })
    }
}
