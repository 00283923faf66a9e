//! Freezing: turns a canvas into a tree of numbered nodes before it is stored.

mod catalogue;
mod check;
mod error;
mod freezer;
mod node;

pub(crate) use catalogue::{Catalogue, FormatAddition};
pub(crate) use check::name_excess;
pub(crate) use error::{CanvasError, Reason, SizeExceeded};
pub(crate) use freezer::{Freezer, MemberBuffer, plan_subtask};
pub(crate) use node::{Callbacks, Def, FanOutDef, Members, Node, SubtaskPlan, TaskDef};
