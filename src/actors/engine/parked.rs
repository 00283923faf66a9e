//! Parked tasks: those that this build cannot run, whether an actor has met them or they still wait
//! in the store.

use std::collections::BTreeMap;

use crate::backend::durable_view::DurableView;
use crate::canvas::first_tasks;
use crate::canvas::freeze::{Node, TaskDef};
use crate::canvas::id::{Id, Seq};
use crate::canvas::parked::ParkedTask;
use crate::error::Result;
use crate::persistence::records::reader::Reader;
use crate::task::Registry;

/// Returns all parked tasks, by id.
pub(crate) fn parked(
    view: &DurableView,
    registry: &Registry,
    reader: &Reader,
) -> Result<Vec<ParkedTask>> {
    let mut parked = view.parked();
    add_unmet(registry, reader, &mut parked)?;
    Ok(parked.into_values().collect())
}

/// Adds the tasks that no actor has taken yet: the first tasks of workflows that wait, or that were
/// live before a restart.
fn add_unmet(
    registry: &Registry,
    reader: &Reader,
    parked: &mut BTreeMap<Id, ParkedTask>,
) -> Result<()> {
    for unfinished in reader.unfinished() {
        let (root, head) = unfinished?;
        let node = reader.root_of(root, head)?;
        let mut search = Search {
            registry,
            root,
            found: Vec::new(),
            groups: Vec::new(),
        };
        search.visit(&node);
        while let Some((group, size)) = search.groups.pop() {
            let mut next = 0;
            while next < size {
                let (first, members) = reader.stored_members(root.node(group), next)?;
                // (A record holds at least one member.)
                next = first + members.len().max(1) as u64;
                members.iter().for_each(|member| search.visit(member));
            }
        }
        for task in search.found {
            if !parked.contains_key(&task.id) && is_unfinished(reader, task.id)? {
                parked.insert(task.id, task);
            }
        }
    }
    Ok(())
}

/// A search through the first tasks of a workflow.
struct Search<'a> {
    registry: &'a Registry,
    root: Id,
    /// The tasks that this build cannot run, whether they have ended or not.
    found: Vec<ParkedTask>,
    /// The groups whose members are still to be searched, and their sizes.
    groups: Vec<(Seq, u64)>,
}

impl Search<'_> {
    fn visit(&mut self, node: &Node) {
        let Self {
            registry,
            root,
            found,
            groups,
        } = self;
        let mut task = |seq: Seq, task: &TaskDef| {
            if let Some(reason) = registry.misfit(task) {
                found.push(ParkedTask::new(root.node(seq), &task.name, &reason));
            }
        };
        first_tasks::visit_all(node, &mut task, &mut |group, size| {
            groups.push((group, size));
        });
    }
}

fn is_unfinished(reader: &Reader, task: Id) -> Result<bool> {
    Ok(match reader.find(task)? {
        Some(location) => reader.resolution(task.root(), &location)?.is_none(),
        None => false,
    })
}
