//! The entries of schedules: what they submit, when, and how far their ticks have been decided.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::codec::{self, Kind, MAX_RECORD};
use super::definition::{Definition, DefinitionPages};
use super::keys;
use super::member_pages::INLINE;
use crate::canvas::Canvas;
use crate::canvas::freeze::{CanvasError, Catalogue};
use crate::canvas::id::Id;
use crate::canvas::schedule::entry::Progress;
use crate::canvas::schedule::{self, Schedule, Work};
use crate::persistence::{Pair, StoreError};

/// An entry as it is stored: one record, so that a tick and its submission need one commit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct StoredEntry {
    pub(crate) definition: schedule::Definition,
    pub(crate) work: Work,
    pub(crate) progress: Progress,
    /// The workflow that was submitted last.
    pub(crate) last: Option<Id>,
    /// It is declared in code.
    pub(crate) is_declared: bool,
}

/// Returns the record of an entry.
pub(crate) fn record(name: &str, entry: &StoredEntry) -> Pair {
    (key(name), codec::encode(Kind::Schedule, entry))
}

/// Returns the key of the record of an entry.
pub(crate) fn key(name: &str) -> Vec<u8> {
    [keys::SCHEDULES, name.as_bytes()].concat()
}

/// Decodes the record of an entry; returns its name, too.
pub(crate) fn decode(key: &[u8], record: &[u8]) -> Result<(String, StoredEntry), StoreError> {
    let entry = codec::decode(Kind::Schedule, key, record)?;
    let name = key.strip_prefix(keys::SCHEDULES);
    let name = name.and_then(|name| String::from_utf8(name.to_vec()).ok());
    let name = name.ok_or_else(|| codec::corrupt(Kind::Schedule, key, "it has no name"))?;
    Ok((name, entry))
}

/// Behind the definition and the work of an entry are the progress, with numbers of at most nine
/// bytes, and an id.
const PROGRESS: usize = 64;

/// Freezes the work of an entry. It must fit into one record.
pub(crate) fn freeze(
    schedule: &Schedule,
    canvas: Canvas,
    catalogue: &dyn Catalogue,
) -> Result<Work, CanvasError> {
    if let Some(extras) = &canvas.extras
        && (extras.idempotency_key.is_some() || extras.task_id.is_some())
    {
        return Err(CanvasError::at_top(
            "work that is submitted again and again has no idempotency key and no task id",
        ));
    }
    let pages = DefinitionPages::new(Id::from(Uuid::nil()), canvas, None, catalogue);
    let (records, Definition { header, root, .. }) = pages.all()?;
    let work = Work {
        root,
        next: header.next,
        bytes: header.bytes,
    };
    let bytes = codec::encode(Kind::Schedule, &(&schedule.0, &work)).len();
    let exceeded = match (records.is_empty(), bytes + PROGRESS <= MAX_RECORD) {
        (true, true) => return Ok(work),
        (false, _) => INLINE,
        (true, false) => MAX_RECORD - PROGRESS,
    };
    Err(CanvasError::at_top(&format!(
        "it takes more than {exceeded} bytes in the store: schedule a task that submits it"
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_an_entry_is_in_its_key() {
        let key = key("nightly");
        assert_eq!(key, b"m/schedules/nightly");
        let record = codec::encode(Kind::Mark, &());
        assert!(decode(&key, &record).is_err());
    }
}
