//! What waits for the subtasks of a task.

use std::collections::{BTreeMap, VecDeque};

use tokio::sync::oneshot;

use crate::actors::dispatch::permit::Permit;
use crate::actors::event_queue::EventQueue;
use crate::canvas::freeze::Node;
use crate::canvas::machine::Index;
use crate::canvas::outcome::Outcome;

/// The subtasks of a task and the calls that wait for them.
#[derive(Debug)]
pub(super) struct SubtaskWaiters {
    pub(super) events: EventQueue,
    /// Kept to restart them if their actors are lost.
    pub(super) subtasks: BTreeMap<Index, Node>,
    /// Calls that wait for a subtask.
    pub(super) calls: Vec<(Index, oneshot::Sender<Outcome>)>,
    /// Calls that wait for a slot to resume with.
    pub(super) returning: VecDeque<oneshot::Sender<Permit>>,
}

impl SubtaskWaiters {
    pub(super) fn new(subtasks: BTreeMap<Index, Node>, events: EventQueue) -> Box<Self> {
        Box::new(Self {
            events,
            subtasks,
            calls: Vec::new(),
            returning: VecDeque::new(),
        })
    }
}
