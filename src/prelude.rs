//! What a program that composes and runs tasks needs: `use chordal::prelude::*;`.

pub use crate::{
    App, AsyncResult, Canvas, Completion, Data, GroupResult, Immutable, Results, Signature,
    TaskContext, TaskError, TaskFailure, chain, chord, group, task, tasks,
};
