//! What a workflow starts with: the tasks that wait for nothing but a slot and their time.

use super::freeze::{Def, FanOutDef, Members, Node, TaskDef};
use super::id::Seq;

/// Visits the tasks that `node` starts with, in order. Returns the number of a group whose members,
/// which are among them, do not stand in the node.
pub(crate) fn visit<'a>(node: &'a Node, visitor: &mut impl FnMut(Seq, &'a TaskDef)) -> Option<Seq> {
    let mut elsewhere = None;
    visit_all(node, visitor, &mut |group, _| {
        elsewhere.get_or_insert(group);
    });
    elsewhere
}

/// As [`visit`]; `groups` is given the number and the size of each group whose members do not stand in the
/// node.
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
            // It knows no list before it has been reached.
            Members::Each { .. } => {}
        },
    }
}
