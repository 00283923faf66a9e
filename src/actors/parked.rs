//! Parked tasks: what this build cannot run, whether it has been met or still waits in the store.

use std::collections::BTreeMap;

use super::shared::Shared;
use crate::canvas::freeze::TaskDef;
use crate::canvas::id::{Id, Seq};
use crate::canvas::opening;
use crate::canvas::parked::ParkedTask;
use crate::error::Result;
use crate::persistence::reader::Reader;

/// All parked tasks, by id.
pub(crate) fn parked(shared: &Shared) -> Vec<ParkedTask> {
    let mut parked = shared.parked();
    if let Err(error) = shared
        .reader()
        .and_then(|reader| add_unmet(shared, &reader, &mut parked))
    {
        tracing::warn!(%error, "the store cannot be searched for tasks to be parked");
    }
    parked.into_values().collect()
}

/// Adds those that no actor has taken yet: the first tasks of workflows that wait, or that were
/// live before a restart.
fn add_unmet(
    shared: &Shared,
    reader: &Reader,
    parked: &mut BTreeMap<Id, ParkedTask>,
) -> Result<()> {
    for unfinished in reader.unfinished() {
        let (root, head) = unfinished?;
        let node = reader.root_of(root, head)?;
        let mut found = Vec::new();
        let mut look = |seq: Seq, task: &TaskDef| {
            if let Some(reason) = shared.registry.misfit(task) {
                found.push(ParkedTask::new(root.node(seq), &task.name, &reason));
            }
        };
        if let Some(group) = opening::visit(&node, &mut look) {
            let (_, members) = reader.stored_members(root.node(group), 0)?;
            for member in &members {
                opening::visit(member, &mut look);
            }
        }
        for task in found {
            if !parked.contains_key(&task.id) && has_not_ended(reader, task.id)? {
                parked.insert(task.id, task);
            }
        }
    }
    Ok(())
}

fn has_not_ended(reader: &Reader, task: Id) -> Result<bool> {
    Ok(match reader.find(task)? {
        Some(found) => reader.fate(task.root(), &found)?.is_none(),
        None => false,
    })
}
