//! A draft: what is to be written with the next commit.

use std::collections::HashMap;

use super::codec::{self, Kind, Packing};
use super::{Batch, keys};
use crate::canvas::id::Id;
use crate::canvas::machine::{PendingCallback, Record};
use crate::canvas::outcome::Value;

/// The largest value that stands in the record of its outcome; a larger one is kept in pieces.
const MAX_INLINE: usize = 4_096;

/// The largest accumulator that stands in the record of each run.
const MAX_INLINE_ACC: usize = 128;

/// One batch in the making.
#[derive(Debug, Default)]
pub(crate) struct CommitBuilder {
    /// The records of each stream, in order: one segment a stream and commit.
    streams: Vec<(Id, Packing)>,
    /// Where in `streams` each is.
    places: HashMap<Id, usize>,
    /// The stream that was added to last: mostly it is the next one, too.
    last: usize,
    batch: Batch,
    /// Streams whose watchers are to look again.
    touched: Vec<Id>,
}

impl CommitBuilder {
    /// Adds a record to the stream of supervisor `stream`.
    pub(crate) fn record(&mut self, stream: Id, record: Record) {
        if self
            .streams
            .get(self.last)
            .is_none_or(|(id, _)| *id != stream)
        {
            self.last = *self.places.entry(stream).or_insert_with(|| {
                self.streams.push((stream, Packing::default()));
                self.streams.len() - 1
            });
        }
        self.streams[self.last].1.push(&record);
    }

    pub(crate) fn put(&mut self, key: Vec<u8>, value: Vec<u8>) {
        self.batch.put(key, value);
    }

    pub(crate) fn delete(&mut self, key: Vec<u8>) {
        self.batch.delete(key);
    }

    /// Who waits for the end of workflow `root` looks again after this batch.
    pub(crate) fn touch(&mut self, root: Id) {
        // Not the root's own stream, in which its members are.
        self.touched.push(root.workflow_stream());
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.streams.is_empty() && self.batch.is_empty()
    }

    /// Takes all there is, as commit number `commit`: the batch, and what it touches.
    pub(crate) fn take(&mut self, commit: u64) -> (Batch, Vec<Id>) {
        let mut batch = std::mem::take(&mut self.batch);
        let mut touched = std::mem::take(&mut self.touched);
        self.places.clear();
        for (stream, packing) in self.streams.drain(..) {
            for (part, segment) in (0..).zip(packing.finish()) {
                batch.put(keys::segment(stream, commit, part), segment);
            }
            touched.push(stream);
        }
        // The next will most likely be as large.
        self.batch = batch.another();
        self.touched = Vec::with_capacity(touched.len());
        (batch, touched)
    }
}

/// That a callback of workflow `root` is to run, in the stream of the workflow.
pub(crate) fn due(due: &PendingCallback) -> Record {
    Record::Due {
        seq: due.node.seq,
        input: due.input.clone(),
    }
}

/// The value as it is recorded: what is too large for its record is `put` beside it, in pieces. A
/// later one of the same node takes its place.
pub(crate) fn spill(node: Id, value: Value, put: &mut impl FnMut(Vec<u8>, Vec<u8>)) -> Value {
    match value {
        Value::Inline(payload) if payload.bytes().len() > MAX_INLINE => Value::Stored {
            seq: node.seq(),
            len: cut(node, 0, payload.bytes(), put),
        },
        Value::Extended { own, seqs } => Value::Extended {
            own: Box::new(spill(node, *own, put)),
            seqs,
        },
        value => value,
    }
}

/// As [`keep`], for the accumulator of a fold's function, which is written again and again: where it
/// is not small, in the same place.
pub(crate) fn spill_acc(body: Id, acc: Value, put: &mut impl FnMut(Vec<u8>, Vec<u8>)) -> Value {
    match acc {
        Value::Inline(payload) if payload.bytes().len() > MAX_INLINE_ACC => Value::Stored {
            seq: body.seq(),
            len: cut(body, 0, payload.bytes(), put),
        },
        acc => acc,
    }
}

/// As [`keep`], for the arguments that a retry gave.
pub(crate) fn spill_args(node: Id, args: Value, put: &mut impl FnMut(Vec<u8>, Vec<u8>)) -> Value {
    match args {
        Value::Inline(payload) if payload.bytes().len() > MAX_INLINE => Value::Args {
            seq: node.seq(),
            len: cut(node, keys::ARGS, payload.bytes(), put),
        },
        args => args,
    }
}

/// Puts pieces, numbered from `first` on; returns the length of all.
fn cut(node: Id, first: u32, bytes: &[u8], put: &mut impl FnMut(Vec<u8>, Vec<u8>)) -> u64 {
    for (part, piece) in (first..).zip(codec::pieces(bytes)) {
        put(keys::piece(node, part), codec::frame(Kind::Piece, piece));
    }
    bytes.len() as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::canvas::payload::Payload;

    /// A crash may leave the pieces of a result without its record, while the arguments are needed.
    #[test]
    fn a_result_leaves_the_arguments_of_a_retry_alone() {
        let node = Id::from(uuid::Uuid::nil());
        let large = || Value::Inline(Payload::from(vec![0; 3 * codec::MAX_RECORD]));
        let mut keys = Vec::new();
        spill(node, large(), &mut |key, _| keys.push(key));
        spill_args(node, large(), &mut |key, _| keys.push(key));
        let all = keys.len();
        keys.sort();
        keys.dedup();
        assert_eq!((keys.len(), all), (all, all));
        assert!(all >= 6);
    }
}
