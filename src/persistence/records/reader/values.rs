//! The bytes of values, wherever they are stored.

use super::collected_list::CollectedList;
use super::{Reader, missing};
use crate::canvas::id::Id;
use crate::canvas::outcome::{ListOf, Outcome, Value};
use crate::canvas::payload::{ListWriter, Payload};
use crate::persistence::StoreError;
use crate::persistence::records::codec::{self, Kind};
use crate::persistence::records::keys;

impl Reader {
    /// Returns the bytes of a value of workflow `root`.
    pub(crate) fn load(&self, root: Id, value: &Value) -> Result<Payload, StoreError> {
        if let Value::Inline(payload) = value {
            return Ok(payload.clone());
        }
        let mut out = ListWriter::raw();
        self.write(root, value, &mut out)?;
        Ok(out.finish())
    }

    /// Appends the bytes of a value. A large value is copied once, into its final position.
    pub(crate) fn write(
        &self,
        root: Id,
        value: &Value,
        out: &mut ListWriter,
    ) -> Result<(), StoreError> {
        match value {
            Value::Inline(payload) => out.push(payload.bytes()),
            Value::Stored { seq, len } => self.join(root.node(*seq), 0, *len, out)?,
            Value::Extended { own, .. } => self.write(root, own, out)?,
            Value::Args { seq, len } => {
                self.join(root.node(*seq), keys::ARGS, *len, out)?;
            }
            Value::Gathered { seq, size, of } => {
                let mut list = CollectedList::open(self, root.node(*seq), *size, *of)?;
                out.begin(list.len() as usize);
                while let Some(outcome) = list.next(self) {
                    self.push(root, out, &outcome?, *of == ListOf::Outcomes)?;
                }
            }
        }
        Ok(())
    }

    /// Encodes one member's outcome as an element of its group's list.
    pub(crate) fn element(
        &self,
        root: Id,
        outcome: &Outcome,
        settled: bool,
    ) -> Result<Payload, StoreError> {
        let mut one = ListWriter::raw();
        self.push(root, &mut one, outcome, settled)?;
        Ok(one.finish())
    }

    fn push(
        &self,
        root: Id,
        out: &mut ListWriter,
        outcome: &Outcome,
        settled: bool,
    ) -> Result<(), StoreError> {
        // The encoding that serde gives a `Result`: a map of one entry, named after the variant.
        const OK: &[u8] = b"\x81\xa2Ok";
        const ERR: &[u8] = b"\x81\xa3Err";
        match outcome {
            Outcome::Success(value) => {
                if settled {
                    out.push(OK);
                }
                self.write(root, value, out)
            }
            Outcome::Failure(failure) | Outcome::Revoked(failure) if settled => {
                out.push(ERR);
                out.push(failure.encoded().bytes());
                Ok(())
            }
            Outcome::Failure(failure) | Outcome::Revoked(failure) => {
                Err(missing(failure.task_id, "value of a member that failed"))
            }
        }
    }

    /// Appends the pieces from number `first` on.
    fn join(&self, node: Id, first: u32, len: u64, out: &mut ListWriter) -> Result<(), StoreError> {
        let (_, to) = keys::of_node(b'p', node);
        let from = keys::piece(node, first);
        let mut left = len as usize;
        for piece in self.store.scan(&from, &to) {
            let (key, value) = piece?;
            let piece = codec::unframe(Kind::Piece, &key, &value)?;
            // A task that ran again may have left more pieces than its last value has.
            let piece = &piece[..left.min(piece.len())];
            out.push(piece);
            left -= piece.len();
        }
        if left > 0 {
            return Err(missing(node, "piece of a value"));
        }
        Ok(())
    }
}
