//! What has become of a node, and how far it has got.

use super::Reader;
use super::find::{Link, NodeLocation, Step};
use crate::canvas::freeze::{Def, Node};
use crate::canvas::id::Id;
use crate::canvas::machine::{ChildProgress, Record};
use crate::canvas::outcome::Outcome;
use crate::canvas::state::State;
use crate::canvas::time::Moment;
use crate::persistence::StoreError;

/// What has become of a node.
#[derive(Clone, Debug)]
pub(crate) enum Resolution {
    Ended(Outcome),
    /// A callback whose task has ended otherwise, or a call that its task did not wait for: it
    /// will never run.
    Never,
}

impl Reader {
    /// What has become of a node, of itself or with the node above it: a step that never ran
    /// because the one before it failed has that failure.
    pub(crate) fn resolution(
        &self,
        root: Id,
        found: &NodeLocation,
    ) -> Result<Option<Resolution>, StoreError> {
        self.fate_at(root, &found.path)
    }

    pub(super) fn fate_at(
        &self,
        root: Id,
        path: &[Step],
    ) -> Result<Option<Resolution>, StoreError> {
        // Up to the first node of which there is word, ...
        let mut fate = None;
        let mut known = path.len();
        while let Some(above) = known.checked_sub(1) {
            let step = &path[above];
            fate = match above {
                0 => self.ended(root)?.map(|ended| ended.outcome),
                _ if step.link == Link::Last => None,
                _ => match self.last_change(root.node(step.stream), step.index)? {
                    Some(ChildProgress::Done(outcome)) => Some(outcome),
                    _ => None,
                },
            }
            .map(Resolution::Ended);
            if fate.is_some() || above == 0 {
                break;
            }
            known = above;
        }
        // ... and down again, to what that means for the ones below.
        for step in path.get(known..).unwrap_or_default() {
            fate = match (fate, step.link) {
                // The node above it has not ended.
                (None, _) => None,
                // It is on record that it is to run.
                (Some(_), Link::Aside) if self.is_due(root, step)? => None,
                (Some(_), Link::Aside) => Some(Resolution::Never),
                (Some(Resolution::Ended(Outcome::Success(_))), Link::Part) => None,
                // What is revoked is so as a whole.
                (Some(Resolution::Ended(outcome)), Link::Part) if outcome.is_by_revocation() => {
                    Some(Resolution::Ended(outcome))
                }
                // A chain's later steps, of which none is revoked, share its failure.
                (Some(Resolution::Ended(Outcome::Revoked(failure))), Link::Part) => {
                    Some(Resolution::Ended(Outcome::Failure(failure)))
                }
                (above, Link::Part | Link::Last) => above,
            };
        }
        Ok(fate)
    }

    /// Says whether the callback at `step` has been called for.
    fn is_due(&self, root: Id, step: &Step) -> Result<bool, StoreError> {
        for record in self.records(root.node(step.stream)) {
            if let Record::Due { seq, .. } = record?
                && seq == step.index
            {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// How far a node has got.
    pub(crate) fn state(&self, root: Id, found: &NodeLocation) -> Result<State, StoreError> {
        match self.resolution(root, found)? {
            Some(Resolution::Ended(Outcome::Success(_))) => return Ok(State::Success),
            Some(Resolution::Ended(Outcome::Failure(_))) => return Ok(State::Failure),
            Some(Resolution::Ended(Outcome::Revoked(_)) | Resolution::Never) => {
                return Ok(State::Revoked);
            }
            None => {}
        }
        let Some(step) = found.path.last() else {
            return Ok(State::Pending);
        };
        let last = self.last_change(root.node(step.stream), step.index)?;
        if let Some((past, _)) = last.as_ref().and_then(ChildProgress::awaited) {
            return Ok(match past.retries {
                0 => State::Pending,
                _ => State::Retry,
            });
        }
        match last {
            Some(ChildProgress::Started(_)) => Ok(State::Started),
            // Of a fold that waits for its members.
            Some(ChildProgress::Done(_)) if step.link == Link::Last => Ok(State::Started),
            _ if self.any_record(root, &found.node)? => Ok(State::Started),
            _ => Ok(State::Pending),
        }
    }

    /// When the next attempt of a task is due that waits for its time.
    pub(crate) fn due_at(
        &self,
        root: Id,
        found: &NodeLocation,
    ) -> Result<Option<Moment>, StoreError> {
        let Some(step) = found.path.last() else {
            return Ok(None);
        };
        let last = self.last_change(root.node(step.stream), step.index)?;
        let awaited = last.as_ref().and_then(ChildProgress::awaited);
        Ok(awaited.map(|(_, until)| until))
    }

    /// Says whether anything within a chain, group or chord has started.
    fn any_record(&self, root: Id, node: &Node) -> Result<bool, StoreError> {
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
