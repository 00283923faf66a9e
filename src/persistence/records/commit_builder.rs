//! The builder of a commit: it collects the writes of the next batch.

use std::collections::HashMap;

use super::codec::{self, Kind, Packing};
use super::keys;
use crate::canvas::id::Id;
use crate::canvas::machine::{PendingCallback, Record};
use crate::canvas::outcome::Value;
use crate::persistence::Batch;

/// The largest value that is stored in the record of its outcome; a larger one is stored in pieces.
const MAX_INLINE: usize = 4_096;

/// The largest accumulator that is stored in the record of each run.
const MAX_INLINE_ACC: usize = 128;

/// The writes of one batch, before it is sealed.
#[derive(Debug, Default)]
pub(crate) struct CommitBuilder {
    /// The records of each stream, in order: one or more segments per stream and commit.
    streams: Vec<(Id, Packing)>,
    /// The position of each stream in `streams`.
    positions: HashMap<Id, usize>,
    /// The position of the stream that was added to last, which mostly is the next one, too.
    last: usize,
    batch: Batch,
    /// Streams whose watchers are woken after the commit.
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
            self.last = *self.positions.entry(stream).or_insert_with(|| {
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

    /// Wakes the callers that wait for the end of workflow `root`, once this batch is durable.
    pub(crate) fn touch(&mut self, root: Id) {
        // Not the root's own stream, which holds the records of its members.
        self.touched.push(root.workflow_stream());
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.streams.is_empty() && self.batch.is_empty()
    }

    /// Takes all writes as commit number `commit`: returns the batch and the streams that it
    /// touches.
    pub(crate) fn take(&mut self, commit: u64) -> (Batch, Vec<Id>) {
        let mut batch = std::mem::take(&mut self.batch);
        let mut touched = std::mem::take(&mut self.touched);
        self.positions.clear();
        for (stream, packing) in self.streams.drain(..) {
            for (part, segment) in (0..).zip(packing.finish()) {
                batch.put(keys::segment(stream, commit, part), segment);
            }
            touched.push(stream);
        }
        // The next batch will most likely be as large.
        self.batch = batch.another();
        self.touched = Vec::with_capacity(touched.len());
        (batch, touched)
    }
}

/// Returns the record that a callback of its workflow is to run; it belongs into the workflow's stream.
pub(crate) fn callback_record(callback: &PendingCallback) -> Record {
    Record::Due {
        seq: callback.node.seq,
        input: callback.input.clone(),
    }
}

/// Returns the value as it is recorded: a value too large for its record is `put` beside it, in
/// pieces. A later value of the same node overwrites these.
pub(crate) fn spill(node: Id, value: Value, put: &mut impl FnMut(Vec<u8>, Vec<u8>)) -> Value {
    match value {
        Value::Inline(payload) if payload.bytes().len() > MAX_INLINE => Value::Stored {
            seq: node.seq(),
            len: put_pieces(node, 0, payload.bytes(), put),
        },
        Value::Extended { own, seqs } => Value::Extended {
            own: Box::new(spill(node, *own, put)),
            seqs,
        },
        value => value,
    }
}

/// As [`spill`], for the accumulator of a fold's function, which is written after each run: a large
/// one overwrites the one before.
pub(crate) fn spill_acc(body: Id, acc: Value, put: &mut impl FnMut(Vec<u8>, Vec<u8>)) -> Value {
    match acc {
        Value::Inline(payload) if payload.bytes().len() > MAX_INLINE_ACC => Value::Stored {
            seq: body.seq(),
            len: put_pieces(body, 0, payload.bytes(), put),
        },
        acc => acc,
    }
}

/// As [`spill`], for the arguments that a retry set.
pub(crate) fn spill_args(node: Id, args: Value, put: &mut impl FnMut(Vec<u8>, Vec<u8>)) -> Value {
    match args {
        Value::Inline(payload) if payload.bytes().len() > MAX_INLINE => Value::Args {
            seq: node.seq(),
            len: put_pieces(node, keys::ARGS, payload.bytes(), put),
        },
        args => args,
    }
}

/// Puts the pieces, numbered from `first` on; returns the total length.
fn put_pieces(node: Id, first: u32, bytes: &[u8], put: &mut impl FnMut(Vec<u8>, Vec<u8>)) -> u64 {
    for (part, piece) in (first..).zip(codec::pieces(bytes)) {
        put(keys::piece(node, part), codec::frame(Kind::Piece, piece));
    }
    bytes.len() as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::canvas::payload::Payload;

    /// A crash may leave the pieces of a result without its record, while the next run needs the
    /// arguments.
    #[test]
    fn the_pieces_of_a_result_do_not_overwrite_the_arguments_of_a_retry() {
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
