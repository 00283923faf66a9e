//! The elements of a list, wherever it is stored, read on demand.

use std::fmt;

use super::collected_list::CollectedList;
use super::{Reader, missing};
use crate::canvas::freeze::{FanOutDef, Members};
use crate::canvas::id::Id;
use crate::canvas::outcome::{ListOf, Value};
use crate::canvas::payload::Payload;
use crate::persistence::StoreError;
use crate::persistence::records::codec::{self, Kind};
use crate::persistence::records::keys;

/// The bytes of a value in pieces that are read at a time.
const READ: usize = 64 * 1_024;

/// Why the elements of a value cannot be read.
#[derive(Debug)]
pub(crate) enum ElementsError {
    /// The value is no list, or has fewer elements than the policy of the group needs.
    Unusable(String),
    Store(StoreError),
}

impl From<StoreError> for ElementsError {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

/// A list that is read once, part by part. It holds no store: each call reads from the reader it is
/// given.
#[derive(Clone)]
pub(crate) enum Elements {
    /// The outcomes of a group's members, each as a `Result` or only its value.
    Gathered {
        list: CollectedList,
        of: ListOf,
    },
    ValueList(ValueList),
}

/// A list that is stored as one value, possibly in pieces.
#[derive(Clone)]
pub(crate) struct ValueList {
    /// The node that the value belongs to.
    node: Id,
    /// The number of elements left.
    left: u64,
    /// The bytes read so far, from the next element on.
    buffer: Payload,
    /// The number of the next piece.
    next: u32,
    /// The number of bytes from the next piece on.
    unread: u64,
}

impl Reader {
    /// Returns the elements of the upstream list, if each member of the fan-out gets one of them.
    pub(crate) fn elements(
        &self,
        root: Id,
        fan: &FanOutDef,
        input: Option<&Value>,
    ) -> Result<Option<Vec<Payload>>, ElementsError> {
        match (&fan.members, input) {
            (Members::Each { .. }, Some(input)) => {
                let mut list = Elements::open(self, root, input)?;
                std::iter::from_fn(|| list.next(self))
                    .collect::<Result<_, _>>()
                    .map(Some)
            }
            _ => Ok(None),
        }
    }
}

impl Elements {
    /// Opens the elements of a value of workflow `root`.
    pub(crate) fn open(reader: &Reader, root: Id, value: &Value) -> Result<Self, ElementsError> {
        let mut list = match value {
            Value::Gathered { seq, size, of } => {
                let list = CollectedList::open(reader, root.node(*seq), *size, *of)?;
                return Ok(Self::Gathered { list, of: *of });
            }
            Value::Extended { own, .. } => return Self::open(reader, root, own),
            Value::Inline(payload) => ValueList::new(root, payload.clone(), 0, 0),
            Value::Stored { seq, len } => {
                ValueList::new(root.node(*seq), Payload::from(Vec::new()), 0, *len)
            }
            Value::Args { seq, len } => {
                let none = Payload::from(Vec::new());
                ValueList::new(root.node(*seq), none, keys::ARGS, *len)
            }
        };
        list.begin(reader)?;
        Ok(Self::ValueList(list))
    }

    /// Returns the id of the node that the list belongs to.
    pub(crate) fn id(&self) -> Id {
        match self {
            Self::Gathered { list, .. } => list.group(),
            Self::ValueList(list) => list.node,
        }
    }

    /// Returns the number of elements left.
    pub(crate) fn len(&self) -> u64 {
        match self {
            Self::Gathered { list, .. } => list.len(),
            Self::ValueList(list) => list.left,
        }
    }

    /// Returns the next element. After an error the further results are meaningless.
    pub(crate) fn next(&mut self, reader: &Reader) -> Option<Result<Payload, ElementsError>> {
        match self {
            Self::Gathered { list, of } => {
                let outcome = list.next(reader)?;
                let root = list.group().root();
                let element =
                    outcome.and_then(|one| reader.element(root, &one, *of == ListOf::Outcomes));
                Some(element.map_err(ElementsError::Store))
            }
            Self::ValueList(list) if list.left == 0 => None,
            Self::ValueList(list) => Some(list.take(reader)),
        }
    }
}

/// Prints the number of elements left: there may be a million.
impl fmt::Debug for Elements {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Elements")
            .field("left", &self.len())
            .finish_non_exhaustive()
    }
}

impl ValueList {
    fn new(node: Id, buffer: Payload, next: u32, unread: u64) -> Self {
        Self {
            node,
            left: 0,
            buffer,
            next,
            unread,
        }
    }

    fn begin(&mut self, reader: &Reader) -> Result<(), ElementsError> {
        self.read_on(reader)?;
        let (count, elements) = self.buffer.list().map_err(ElementsError::Unusable)?;
        self.left = u64::from(count);
        self.buffer = elements;
        Ok(())
    }

    fn take(&mut self, reader: &Reader) -> Result<Payload, ElementsError> {
        loop {
            match self.buffer.split_first() {
                Ok((element, rest)) => {
                    self.left -= 1;
                    self.buffer = rest;
                    return Ok(element);
                }
                // The element may be in the buffer in part.
                Err(_) if self.unread > 0 => self.read_on(reader)?,
                Err(error) => return Err(ElementsError::Unusable(error)),
            }
        }
    }

    /// Reads at least as many bytes as the buffer holds, so that an element larger than one read is
    /// not parsed again for each of its pieces.
    fn read_on(&mut self, reader: &Reader) -> Result<(), ElementsError> {
        if self.unread == 0 {
            return Ok(());
        }
        let mut bytes = self.buffer.bytes().to_vec();
        let enough = bytes.len() + bytes.len().max(READ);
        let (_, to) = keys::of_node(b'p', self.node);
        for piece in reader.store.scan(&keys::piece(self.node, self.next), &to) {
            let (key, value) = piece?;
            let piece = codec::unframe(Kind::Piece, &key, &value)?;
            // A task that ran again may have left more pieces than its last value has.
            let piece = &piece[..piece.len().min(self.unread as usize)];
            bytes.extend_from_slice(piece);
            self.unread -= piece.len() as u64;
            self.next += 1;
            if bytes.len() >= enough || self.unread == 0 {
                self.buffer = Payload::from(bytes);
                return Ok(());
            }
        }
        Err(missing(self.node, "piece of a value").into())
    }
}
