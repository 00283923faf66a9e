//! The updates that running tasks report: one record of each task, until it ends.

use super::codec::{self, Kind};
use super::keys;
use crate::canvas::id::Id;
use crate::canvas::task_update::TaskUpdate;
use crate::persistence::{Pair, StoreError};

/// Returns the record of a task's latest update.
pub(crate) fn record(task: Id, update: &TaskUpdate) -> Pair {
    (key(task), codec::encode(Kind::Update, update))
}

/// Returns the key of a task's update.
pub(crate) fn key(task: Id) -> Vec<u8> {
    keys::update(task)
}

/// Decodes a record of an update.
pub(crate) fn decode(key: &[u8], record: &[u8]) -> Result<(Id, TaskUpdate), StoreError> {
    let update = codec::decode(Kind::Update, key, record)?;
    let task = keys::id_of(key);
    let task = task.ok_or_else(|| codec::corrupt(Kind::Update, key, "its key is too short"))?;
    Ok((task, update))
}
