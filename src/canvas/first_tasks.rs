//! The first tasks of a workflow, which wait only for a slot and their start time.

use super::freeze::{Def, FanOutDef, Members, Node, TaskDef};
use super::id::Seq;

/// Visits the first tasks of `node`, in order. Returns the number of a group among them whose
/// members are not stored in the node.
pub(crate) fn visit<'a>(node: &'a Node, visitor: &mut impl FnMut(Seq, &'a TaskDef)) -> Option<Seq> {
    let mut elsewhere = None;
    visit_all(node, visitor, &mut |group, _| {
        elsewhere.get_or_insert(group);
    });
    elsewhere
}

/// As [`visit`], and calls `groups` with the number and size of each group whose members are not
/// stored in the node.
pub(crate) fn visit_all<'a>(
    node: &'a Node,
    tasks: &mut impl FnMut(Seq, &'a TaskDef),
    groups: &mut impl FnMut(Seq, u64),
) {
    match &node.def {
        Def::Task(task) => tasks(node.seq, task),
        Def::Chain(steps) => {
            if let Some(first) = steps.first() {
                visit_all(first, tasks, groups);
            }
        }
        Def::Group(FanOutDef { members, .. })
        | Def::Chord {
            header: FanOutDef { members, .. },
            ..
        }
        | Def::Fold {
            header: FanOutDef { members, .. },
            ..
        } => match members {
            Members::Inline(members) => {
                let members = members.iter();
                members.for_each(|member| visit_all(member, tasks, groups));
            }
            Members::Stored(size) => groups(node.seq, *size),
            // The group has no list before it is reached.
            Members::Each { .. } => {}
        },
    }
}
