//! Attempts: keeps only the latest attempts of a task on record.

use std::collections::HashMap;

use super::EngineContext;
use crate::canvas::id::Id;
use crate::canvas::machine::{ChildProgress, Record};
use crate::persistence::StoreError;
use crate::persistence::records::{codec, keys};

/// By workflow: the segments in which records have been superseded, by stream and commit.
pub(super) type Superseded = HashMap<Id, HashMap<(Id, u64), Segments>>;

/// The segments of one stream and commit.
#[derive(Debug)]
pub(super) enum Segments {
    /// They hold only attempts, `left` of which are not superseded yet.
    Attempts { keys: Vec<Vec<u8>>, left: usize },
    /// They hold other records, too, and are kept.
    Kept,
}

impl EngineContext {
    /// Notes that a record of an attempt, in this stored commit of stream `stream`, has been
    /// superseded by a later one. Deletes the commit's segments once all of their records have
    /// been.
    pub(crate) fn supersede(&self, stream: Id, commit: u64) -> Result<(), StoreError> {
        let mut all = self.0.workflows.superseded.borrow_mut();
        let of_workflow = all.entry(stream.root()).or_default();
        let segments = match of_workflow.remove(&(stream, commit)) {
            Some(segments) => segments,
            None => self.attempts_in(stream, commit)?,
        };
        match segments {
            Segments::Attempts { keys, left: ..=1 } => {
                keys.into_iter().for_each(|key| self.delete(key));
            }
            Segments::Attempts { keys, left } => {
                let left = left - 1;
                of_workflow.insert((stream, commit), Segments::Attempts { keys, left });
            }
            Segments::Kept => drop(of_workflow.insert((stream, commit), Segments::Kept)),
        }
        Ok(())
    }

    fn attempts_in(&self, stream: Id, commit: u64) -> Result<Segments, StoreError> {
        let (mut keys, mut left) = (Vec::new(), 0);
        let (from, to) = (
            keys::segment(stream, commit, 0),
            keys::segment(stream, commit + 1, 0),
        );
        for segment in self.reader().store().scan(&from, &to) {
            let (key, segment) = segment?;
            let records = codec::segment_records(&key, &segment)?;
            if !records.iter().all(is_attempt) {
                return Ok(Segments::Kept);
            }
            left += records.len();
            keys.push(key);
        }
        Ok(Segments::Attempts { keys, left })
    }
}

fn is_attempt(record: &Record) -> bool {
    use ChildProgress::{Started, Waiting, WaitingUntil};
    let Record::Child { change, .. } = record else {
        return false;
    };
    matches!(change, Started(_) | Waiting { .. } | WaitingUntil { .. })
}
