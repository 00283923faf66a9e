//! What a workflow starts with: the tasks that wait for nothing but a slot and their time.

use super::freeze::{Def, Fan, Members, Node, TaskDef};
use super::id::Seq;

/// Visits the tasks that `node` starts with, in order. Returns the number of a group whose members,
/// which are among them, do not stand in the node.
pub(crate) fn visit<'a>(node: &'a Node, visitor: &mut impl FnMut(Seq, &'a TaskDef)) -> Option<Seq> {
    match &node.def {
        Def::Task(task) => {
            visitor(node.seq, task);
            None
        }
        Def::Chain(steps) => steps.first().and_then(|first| visit(first, visitor)),
        Def::Group(Fan { members, .. })
        | Def::Chord {
            header: Fan { members, .. },
            ..
        }
        | Def::Fold {
            header: Fan { members, .. },
            ..
        } => match members {
            Members::Inline(members) => {
                let elsewhere = members.iter().map(|member| visit(member, visitor));
                elsewhere.fold(None, Option::or)
            }
            Members::Stored(_) => Some(node.seq),
            // It knows no list before it has been reached.
            Members::Each { .. } => None,
        },
    }
}
