//! The resolution of a node, and its state.

use super::find::{Link, NodeLocation, Step};
use super::{ChildStatus, Reader};
use crate::canvas::freeze::{Def, Node};
use crate::canvas::id::Id;
use crate::canvas::machine::{ChildProgress, Index, Record};
use crate::canvas::outcome::{Outcome, TaskFailure};
use crate::canvas::state::State;
use crate::canvas::time::Moment;
use crate::persistence::StoreError;

/// How a node was resolved.
#[derive(Clone, Debug)]
pub(crate) enum Resolution {
    Ended(Outcome),
    /// A callback whose task ended the other way, or a call that its task did not wait for: it will
    /// never run.
    Never,
}

impl Reader {
    /// Returns the resolution of a node, its own or that of a node above it: a step that never ran
    /// because the one before it failed has that failure.
    pub(crate) fn resolution(
        &self,
        root: Id,
        location: &NodeLocation,
    ) -> Result<Option<Resolution>, StoreError> {
        self.resolution_at(root, &location.path)
    }

    pub(super) fn resolution_at(
        &self,
        root: Id,
        path: &[Step],
    ) -> Result<Option<Resolution>, StoreError> {
        // Up to the first node with a recorded outcome, ...
        let mut resolution = None;
        let mut known = path.len();
        while let Some(above) = known.checked_sub(1) {
            let step = &path[above];
            resolution = match above {
                0 => self.ended(root)?.map(|ended| ended.outcome),
                _ if step.link == Link::Last => None,
                _ => match self.child_status(root.node(step.stream), step.index)? {
                    ChildStatus::At(ChildProgress::Done(outcome)) => Some(outcome),
                    ChildStatus::LeftOut => Some(self.left_out(root.node(step.seq))?),
                    ChildStatus::At(_) | ChildStatus::Unstarted => None,
                },
            }
            .map(Resolution::Ended);
            if resolution.is_some() || above == 0 {
                break;
            }
            known = above;
        }
        // ... and down again, to the nodes below.
        for step in path.get(known..).unwrap_or_default() {
            resolution = match (resolution, step.link) {
                // The node above has not ended.
                (None, _) => None,
                // It is recorded that the callback is to run.
                (Some(_), Link::Aside) if self.is_recorded(root, step)? => None,
                (Some(_), Link::Aside) => Some(Resolution::Never),
                (Some(Resolution::Ended(Outcome::Success(_))), Link::Part) => None,
                // A revocation covers all parts.
                (Some(Resolution::Ended(outcome)), Link::Part) if outcome.is_by_revocation() => {
                    Some(Resolution::Ended(outcome))
                }
                // The later steps of a chain share its failure; none of them was revoked.
                (Some(Resolution::Ended(Outcome::Revoked(failure))), Link::Part) => {
                    Some(Resolution::Ended(Outcome::Failure(failure)))
                }
                (above, Link::Part | Link::Last) => above,
            };
        }
        Ok(resolution)
    }

    /// Returns the outcome of this node, a member that its group's verdict has left out.
    fn left_out(&self, id: Id) -> Result<Outcome, StoreError> {
        let location = self.find(id)?;
        let name = location
            .as_ref()
            .map_or("", |location| location.node.name());
        Ok(Outcome::Revoked(TaskFailure::revoked(id, name)))
    }

    /// Returns whether the callback at `step` is recorded to run.
    fn is_recorded(&self, root: Id, step: &Step) -> Result<bool, StoreError> {
        self.has_due_record(root.node(step.stream), step.index)
    }

    /// Returns whether this callback is recorded to run.
    pub(super) fn has_due_record(&self, stream: Id, index: Index) -> Result<bool, StoreError> {
        for record in self.records(stream) {
            if let Record::Due { seq, .. } = record?
                && seq == index
            {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Returns the state of a node.
    pub(crate) fn state(&self, root: Id, location: &NodeLocation) -> Result<State, StoreError> {
        match self.resolution(root, location)? {
            Some(Resolution::Ended(Outcome::Success(_))) => return Ok(State::Success),
            Some(Resolution::Ended(Outcome::Failure(_))) => return Ok(State::Failure),
            Some(Resolution::Ended(Outcome::Revoked(_)) | Resolution::Never) => {
                return Ok(State::Revoked);
            }
            None => {}
        }
        let Some(step) = location.path.last() else {
            return Ok(State::Pending);
        };
        let last = self.last_change(root.node(step.stream), step.index)?;
        if let Some((history, _)) = last.as_ref().and_then(ChildProgress::awaited) {
            // (Not by the retries: a retry may use up none.)
            return Ok(match history.attempt {
                0 => State::Pending,
                _ => State::Retry,
            });
        }
        match last {
            Some(ChildProgress::Started(_)) => Ok(State::Started),
            // A fold that waits for its members.
            Some(ChildProgress::Done(_)) if step.link == Link::Last => Ok(State::Started),
            _ if self.any_record(root, &location.node)? => Ok(State::Started),
            _ => Ok(State::Pending),
        }
    }

    /// Returns when the next attempt of a task is due, if the task waits for its time.
    pub(crate) fn due_at(
        &self,
        root: Id,
        location: &NodeLocation,
    ) -> Result<Option<Moment>, StoreError> {
        let Some(step) = location.path.last() else {
            return Ok(None);
        };
        // The records of a root that has ended, and of a part that was revoked with the rest, end
        // with their last wait.
        if self.resolution(root, location)?.is_some() {
            return Ok(None);
        }
        let last = self.last_change(root.node(step.stream), step.index)?;
        let awaited = last.as_ref().and_then(ChildProgress::awaited);
        Ok(awaited.map(|(_, until)| until))
    }

    /// Returns whether any node within a chain, group or chord has started.
    pub(super) fn any_record(&self, root: Id, node: &Node) -> Result<bool, StoreError> {
        let own = match &node.def {
            Def::Task(_) => return Ok(false),
            _ => self
                .segments_after(root.node(node.seq), None)
                .next()
                .transpose()?
                .is_some(),
        };
        if own {
            return Ok(true);
        }
        match &node.def {
            Def::Chain(steps) => match steps.first() {
                Some(first) => self.any_record(root, first),
                None => Ok(false),
            },
            _ => Ok(false),
        }
    }
}
